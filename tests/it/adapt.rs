//! Sizes of regions that follow the load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::{Random, all_ids, append_proof, small, verify, wait_until};
use crate::tier::MapTier;
use esker::{
    Adaptive, ClassConfig, Clock, ColdTier, ConfigBuilder, Event, OnLeave, RegionKind, SizeReason, Stats,
    Store, Stream,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const MEMORY: u64 = 16 * MIB;
const WAIT: Duration = Duration::from_secs(60);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn rules() -> Adaptive {
    Adaptive::new().every(seconds(10)).rest(seconds(20))
}

fn config() -> ConfigBuilder {
    small()
        .buffers(2 * MIB)
        .hot(|hot| hot.max(6 * MIB).page_size(16 * KIB))
        .warm(|warm| warm.max(13 * MIB / 2).page_size(4 * KIB))
        .index(|index| index.max(MIB).page_size(4 * KIB))
        .adaptive_sizing(rules())
}

fn size(stats: &Stats, kind: RegionKind) -> u64 {
    stats.region(kind).max_bytes
}

/// The bound holds for what regions have and for what they may have.
fn check_bound(stats: &Stats) {
    let may: u64 = stats.regions.iter().map(|region| region.max_bytes).sum();
    assert!(may + 2 * MIB <= MEMORY, "{:?}", stats.regions);
    assert!(stats.memory_bytes <= MEMORY, "{} bytes", stats.memory_bytes);
}

/// A store without threads, whose seconds are told.
struct Told {
    store: Store,
    clock: Clock,
    random: Random,
    next: u64,
}

impl Told {
    fn new(config: ConfigBuilder, cold: bool) -> Self {
        let clock = Clock::manual(1_000_000);
        let builder = Store::builder(config.background(false).build().unwrap()).clock(clock.clone());
        let builder =
            if cold { builder.cold(MapTier::new() as std::sync::Arc<dyn ColdTier>) } else { builder };
        Self { store: builder.seed(5).open().unwrap(), clock, random: Random::new(3), next: 0 }
    }

    /// A second in which so many events come, and so many are read out of the newest `among`.
    fn second(&mut self, events: u64, reads: u64, among: u64) {
        for _ in 0..events {
            let stream = Stream::from(self.next as u32 % 50);
            append_proof(&self.store, Event::new(stream, self.next, self.clock.now_ms(), 0), 300);
            self.next += 1;
        }
        for _ in 0..reads {
            let back = 1 + self.random.below(among.min(self.next));
            let found = self.store.fetch(self.next - back).unwrap();
            verify(&found.expect("no event is lost"));
        }
        self.clock.set_ms(self.clock.now_ms() + 1000);
        self.store.maintain().unwrap();
        check_bound(&self.store.stats());
    }

    /// Such seconds, until it is as it should be, which is looked at now and then, or so many are over.
    fn seconds_until(
        &mut self,
        most: u64,
        [events, reads, among]: [u64; 3],
        done: impl Fn(&mut Self) -> bool,
    ) {
        for second in 1..=most {
            self.second(events, reads, among);
            if second % 10 == 0 && done(self) {
                return;
            }
        }
    }

    /// Of a hundred events out of the newest `among`, how many are hot.
    fn hot_of(&mut self, among: u64) -> u64 {
        let guard = self.store.pin();
        let tier = |at: u64| guard.tier_of(self.next - 1 - at * among / 1000);
        (0..1000).filter(|at| tier(*at) == Some(esker::policy::Tier::Hot)).count() as u64 / 10
    }

    fn check(&self) {
        assert_eq!(all_ids(&self.store), (0..self.next).collect::<Vec<_>>());
        self.store.validate().unwrap();
    }
}

#[test]
fn what_is_read_moves_the_split_and_each_move_is_explained() {
    let class = ClassConfig::new("all").hot_for(seconds(7200)).warm_for(seconds(72_000));
    let mut told = Told::new(config().class(class), true);
    // Memory is full.
    (0..60).for_each(|_| told.second(600, 0, 1));
    let begin = told.store.stats();
    assert!(begin.events.released > 0, "{:?}", begin.events);
    // The newest 20,000 are read: somewhat more than are hot.
    (0..30).for_each(|_| told.second(100, 120, 20_000));
    let before = told.hot_of(20_000);
    let hot = |told: &Told| size(&told.store.stats(), RegionKind::Hot);
    told.seconds_until(300, [100, 120, 20_000], |told| {
        hot(told) >= 7 * MIB && told.store.stats().sizing.moves >= 3 && told.hot_of(20_000) >= before + 15
    });
    let (stats, after) = (told.store.stats(), told.hot_of(20_000));
    assert!(size(&stats, RegionKind::Hot) >= 7 * MIB, "{:#?}", stats.sizing);
    assert!(after >= before + 15, "{after} % instead of {before} % are hot: {:#?}", stats.sizing);
    let sizing = &stats.sizing;
    assert!(sizing.moves >= 3 && sizing.looks >= 10 && !sizing.changes.is_empty(), "{sizing:?}");
    let trial = sizing.changes.iter().find(|change| matches!(change.reason, SizeReason::Reads { .. }));
    let text = trial.unwrap_or_else(|| panic!("a trial: {sizing:#?}")).to_string();
    assert!(text.contains("warm 6") && text.contains(", hot 6") && text.contains(" reads "), "{text}");
    // Now old ones are: those that are in the cold tier cost most.
    let among = told.next;
    let was = size(&stats, RegionKind::Warm);
    told.seconds_until(300, [10, 120, among], |told| {
        size(&told.store.stats(), RegionKind::Warm) >= was + MIB / 4
    });
    let later = told.store.stats();
    let warm = size(&later, RegionKind::Warm);
    assert!(warm >= was + MIB / 4, "{warm} instead of {was}: {:#?}", later.sizing);
    told.check();
}

#[test]
fn what_a_region_does_not_need_goes_to_one_whose_pages_leave_early() {
    // All that comes within a minute is hot, and leaves memory a minute later: the warm region is nearly empty.
    let class = ClassConfig::new("all").hot_for(seconds(60)).warm_for(seconds(80));
    let mut told = Told::new(config().class(class), true);
    (0..240).for_each(|_| told.second(330, 0, 1));
    let stats = told.store.stats();
    let spare = |change: &&esker::SizeChange| matches!(change.reason, SizeReason::Spare { .. });
    let change = stats.sizing.changes.iter().find(spare);
    let text = change.unwrap_or_else(|| panic!("a change: {:#?}", stats.sizing)).to_string();
    assert!(text.contains("needs") && text.contains("of their time"), "{text}");
    assert!(size(&stats, RegionKind::Hot) > 15 * MIB / 2, "{:#?}", stats.sizing);
    assert_eq!(stats.admission[0].rejected.total(), 0);
    // It has come to rest: pages stay for their time now.
    let moves = stats.sizing.moves;
    (0..60).for_each(|_| told.second(330, 0, 1));
    assert!(told.store.stats().sizing.moves <= moves + 2, "{:#?}", told.store.stats().sizing);
    told.check();
}

#[test]
fn an_index_that_is_full_gets_memory() {
    let class = ClassConfig::new("all").on_leave(OnLeave::Drop);
    let config =
        config().index(|index| index.max(256 * KIB).page_size(4 * KIB).ceiling(4 * MIB)).class(class);
    let mut told = Told::new(config, false);
    for _ in 0..400 {
        for _ in 0..200 {
            // Ids all over, which take most of the index, and bodies that take little.
            let id = told.random.next();
            told.store
                .append(&Event::new(Stream::from(id as u32 % 900), id, told.clock.now_ms(), 0))
                .unwrap();
        }
        told.clock.set_ms(told.clock.now_ms() + 1000);
        told.store.maintain().unwrap();
        check_bound(&told.store.stats());
    }
    let stats = told.store.stats();
    let full = stats.sizing.changes.iter().filter(|change| change.reason == SizeReason::IndexFull);
    assert!(full.count() > 0, "{:#?}", stats.sizing);
    assert!(size(&stats, RegionKind::Index) >= MIB, "{:#?}", stats.sizing);
    let events = stats.events.hot + stats.events.warm;
    assert!(events > 40_000, "the index has room for {events} events: {:#?}", stats.sizing);
    told.store.validate().unwrap();
}

#[test]
fn nothing_moves_unless_asked_for() {
    let class = ClassConfig::new("all").hot_for(seconds(7200)).warm_for(seconds(72_000));
    let mut told = Told::new(config().adaptive_sizing(None).class(class), true);
    (0..60).for_each(|_| told.second(600, 120, 20_000));
    let stats = told.store.stats();
    assert_eq!(stats.sizing, esker::SizingStats::default());
    assert_eq!(size(&stats, RegionKind::Hot), 6 * MIB);
}

/// With threads, while events come and are read, guards are held, and somebody changes sizes by hand.
#[test]
fn sizes_move_under_appends_readers_and_resizing() {
    let class = ClassConfig::new("all").hot_for(seconds(7200)).warm_for(seconds(72_000));
    let clock = Clock::manual(1_000_000);
    let rules = rules().every(seconds(1)).rest(seconds(2));
    let config = config().adaptive_sizing(rules).class(class).build().unwrap();
    let store = Store::builder(config).cold(MapTier::new()).clock(clock.clone()).open().unwrap();
    let (stop, next) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let id = next.load(Ordering::Relaxed);
                append_proof(&store, Event::new(Stream::from(id as u32 % 50), id, clock.now_ms(), 0), 300);
                next.store(id + 1, Ordering::Release);
            }
        });
        scope.spawn(|| {
            let mut random = Random::new(5);
            while !stop.load(Ordering::Relaxed) {
                let end = next.load(Ordering::Acquire);
                for _ in 0..end.min(200) {
                    let id = end - 1 - random.below(end.min(20_000));
                    verify(&store.fetch(id).unwrap().unwrap_or_else(|| panic!("event {id} is gone")));
                }
                let guard = store.pin();
                let held: Vec<_> = guard.history(Stream::from(7u32)).take(50).collect();
                std::thread::yield_now();
                held.iter().for_each(verify);
            }
        });
        let mut resized = 0;
        wait_until("memory has been divided anew a few times", WAIT, || {
            clock.set_ms(clock.now_ms() + 100);
            check_bound(&store.stats());
            let moves = store.stats().sizing.moves;
            if moves >= 2 && resized < 2 {
                // By hand, in the middle of whatever is under way: with what the other gives.
                let bytes = [3 * MIB, 4 * MIB][resized];
                store.resize_region(RegionKind::Warm, bytes, seconds(30)).unwrap();
                check_bound(&store.stats());
                resized += 1;
            }
            moves >= 8 && resized == 2
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(all_ids(&store), (0..next.load(Ordering::Acquire)).collect::<Vec<_>>());
    store.validate().unwrap();
    assert_eq!(store.close(seconds(60)).unwrap().left, 0);
}

#[test]
fn a_store_whose_regions_cannot_grow_says_so() {
    let config = small()
        .hot(|hot| hot.max(4 * MIB).ceiling(4 * MIB))
        .warm(|warm| warm.max(4 * MIB).ceiling(4 * MIB))
        .index(|index| index.max(MIB).ceiling(MIB))
        .adaptive_sizing(rules());
    let store = Store::open(config.build().unwrap()).unwrap();
    let warnings = store.stats().warnings;
    assert!(warnings.iter().any(|text| text.contains("ceilings")), "{warnings:?}");
    let wrong = small().adaptive_sizing(rules().step(0.5)).build().unwrap_err();
    assert!(wrong.to_string().contains("adaptive_sizing.step"), "{wrong}");
}
