//! What the simulation found, each as short as it can be.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use esker::{
    Appended, ClassConfig, Clock, ColdTier, Config, DiskSync, DiskTier, Durability, ErrorKind, Event,
    RegionKind, Store, Stream,
};

use crate::disk::{Crash, Disk, File};
use crate::faults::{Faults, Trouble};
use crate::tier::MapTier;

const SECOND: i64 = 1000;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn open(tier: Arc<dyn ColdTier>, clock: &Clock, shared: Option<&Path>) -> Store {
    open_for(10, tier, clock, shared)
}

/// A store whose events leave memory after that many seconds.
fn open_for(warm_for: u64, tier: Arc<dyn ColdTier>, clock: &Clock, shared: Option<&Path>) -> Store {
    let class =
        ClassConfig::new("only").hot_for(seconds(5)).warm_for(seconds(warm_for)).retention(seconds(90));
    let mut config = Config::builder()
        .memory("8MiB")
        .hot(|hot| hot.max("1MiB").page_size("4KiB"))
        .warm(|warm| warm.max("1MiB"))
        .partitions(1)
        .block_bytes("16KiB")
        .class(class)
        .background(false);
    if let Some(dir) = shared {
        config = config.durability(Durability::Process).shared_dir(dir);
    }
    Store::builder(config.build().unwrap()).clock(clock.clone()).cold(tier).open().unwrap()
}

/// Bytes that cannot be packed, so that pages and blocks are full early.
fn noise(id: u64, len: usize) -> Vec<u8> {
    let mut rng = crate::rng::Rng::new(id);
    (0..len).map(|_| rng.next() as u8).collect()
}

fn append(store: &Store, ids: std::ops::Range<u64>, at: i64) {
    for id in ids {
        let outcome = store.append(&Event::new(Stream::from(3u32), id, at, 0).payload(&noise(id, 900)));
        assert_eq!(outcome.unwrap(), Appended::Stored);
    }
}

fn scanned(store: &Store) -> Vec<u64> {
    let mut ids: Vec<u64> = store.fetch_scan(..).map(|event| event.unwrap().id()).collect();
    ids.sort_unstable();
    ids
}

fn let_all_leave(store: &Store, clock: &Clock) {
    store.flush(seconds(3600)).unwrap();
    clock.set_ms(clock.now_ms() + 10 * SECOND);
    store.maintain().unwrap();
    let events = store.stats().events;
    assert_eq!((events.hot, events.warm), (0, 0), "{events:?}");
}

/// Seed 268: the tier had stored blocks of which it said that it had not. Meanwhile the first page expired, so the next try
/// cut its blocks elsewhere, beside the others; the next opening found events in both.
#[test]
fn blocks_that_are_tried_again_replace_those_that_the_tier_has_already() {
    for seed in 0..20 {
        let (faults, clock) = (Arc::new(Faults::new(seed)), Clock::manual(0));
        let tier = Arc::new(MapTier::new(faults.clone()));
        let store = open(tier.clone(), &clock, None);
        append(&store, 0..9, 0);
        clock.set_ms(50 * SECOND);
        append(&store, 9..120, 50 * SECOND);
        faults.set(Trouble::Failing(100));
        store.flush(seconds(3600)).unwrap_err();
        clock.set_ms(91 * SECOND);
        let _ = store.maintain();
        faults.set(Trouble::None);
        store.maintain().unwrap();
        assert!(store.stats().events.expired >= 8, "two pages are full of expired events");
        store.flush(seconds(3600)).unwrap();
        store.abandon();
        let store = open(tier, &clock, None);
        assert_eq!(scanned(&store), (9..120).collect::<Vec<_>>(), "seed {seed}");
        store.validate().unwrap();
    }
}

/// Of several blocks at once a tier may have stored a later one and not the first when it fails. The next process took
/// everything before the later one for confirmed.
#[test]
fn a_page_before_a_block_that_was_never_confirmed_is_spilled_by_the_next_process() {
    for seed in 0..20 {
        let (faults, clock) = (Arc::new(Faults::new(seed)), Clock::manual(0));
        let (tier, dir) = (Arc::new(MapTier::new(faults.clone())), tempfile::tempdir().unwrap());
        let store = open(tier.clone(), &clock, Some(dir.path()));
        append(&store, 0..120, 0);
        faults.set(Trouble::Failing(100));
        store.flush(seconds(3600)).unwrap_err();
        faults.set(Trouble::None);
        assert!(store.remove(40).unwrap());
        store.abandon();
        let store = open(tier, &clock, Some(dir.path()));
        let_all_leave(&store, &clock);
        let ids: Vec<u64> = (0..120).filter(|id| *id != 40).collect();
        assert_eq!(scanned(&store), ids, "seed {seed}");
        store.validate().unwrap();
    }
}

/// Seeds 329 and 436: an event that had expired was taken out of the index so that its page could be packed, which waited
/// for a reader. Its id came again, the process was killed, and the next one took the old event for the one of that id.
#[test]
fn an_id_that_comes_again_after_it_expired_is_that_of_the_later_event() {
    let (clock, dir) = (Clock::manual(0), tempfile::tempdir().unwrap());
    let tier = Arc::new(MapTier::default());
    let store = open_for(200, tier.clone(), &clock, Some(dir.path()));
    append(&store, 0..3, 0);
    clock.set_ms(60 * SECOND);
    // The first page is full with the first of these.
    append(&store, 3..8, 60 * SECOND);
    clock.set_ms(70 * SECOND);
    store.maintain().unwrap();
    clock.set_ms(100 * SECOND);
    let reader = store.pin();
    store.maintain().unwrap();
    append(&store, 1..2, 100 * SECOND);
    drop(reader);
    store.abandon();
    let store = open_for(200, tier, &clock, Some(dir.path()));
    assert!(store.recovered().unwrap().is_whole(), "{:?}", store.recovered());
    assert_eq!(store.pin().get(1).unwrap().timestamp(), 100 * SECOND);
    // Nor does the clock bring back what was let go.
    clock.set_ms(70 * SECOND);
    assert_eq!(scanned(&store), [1, 3, 4, 5, 6, 7]);
    store.validate().unwrap();
}

fn on_disk() -> (Arc<Faults>, Arc<Disk>, impl Fn() -> Arc<dyn ColdTier>) {
    let faults = Arc::new(Faults::new(1));
    let disk = Disk::new(faults.clone());
    let file = disk.clone();
    let tier = move || -> Arc<dyn ColdTier> {
        let file = file.clone();
        Arc::new(DiskTier::on(move || File(file.clone()), 1 << 20).unwrap())
    };
    (faults, disk, tier)
}

/// redb does nothing more with a file of which one write has failed: a disk that had been full for a moment stopped
/// spilling, and cold reads, until the store was opened again.
#[test]
fn a_disk_that_was_full_for_a_while_is_used_again() {
    let (faults, disk, tier) = on_disk();
    let clock = Clock::manual(0);
    let store = open(tier(), &clock, None);
    append(&store, 0..40, 0);
    store.flush(seconds(3600)).unwrap();
    append(&store, 40..80, 0);
    faults.set(Trouble::Failing(100));
    assert_eq!(store.flush(seconds(3600)).unwrap_err().kind(), ErrorKind::Cold);
    faults.set(Trouble::None);
    let_all_leave(&store, &clock);
    assert_eq!(scanned(&store).len(), 80);
    store.abandon();
    disk.crash(Crash::PowerLoss);
    let store = open(tier(), &clock, None);
    assert_eq!(scanned(&store).len(), 80);
}

/// What the system held of the file when a sync failed, it will never write; what is built on it would be lost.
#[test]
fn a_disk_whose_sync_failed_is_not_used_again() {
    let (faults, disk, tier) = on_disk();
    let clock = Clock::manual(0);
    let store = open(tier(), &clock, None);
    append(&store, 0..40, 0);
    store.flush(seconds(3600)).unwrap();
    append(&store, 40..80, 0);
    faults.set(Trouble::SyncFails(100));
    store.flush(seconds(3600)).unwrap_err();
    faults.set(Trouble::None);
    let error = store.flush(seconds(3600)).unwrap_err();
    assert!(error.kind() == ErrorKind::Cold && error.to_string().contains("sync"), "{error}");
    assert_eq!(store.pin().get(50).unwrap().id(), 50, "memory goes on");
    store.abandon();
    disk.crash(Crash::PowerLoss);
    let store = open(tier(), &clock, None);
    let ids: BTreeSet<u64> = scanned(&store).into_iter().collect();
    assert!((0..40).all(|id| ids.contains(&id)), "{ids:?}");
}

/// Seed 2074: a try that went less far in a lane than the one before forgot how far that one had come, so nobody told the
/// tier of events removed from blocks that it had stored without confirming them.
#[test]
fn what_is_removed_between_two_tries_stays_removed() {
    for seed in 0..20 {
        let (faults, clock) = (Arc::new(Faults::new(seed)), Clock::manual(0));
        let tier = Arc::new(MapTier::new(faults.clone()));
        let open = || {
            // Four blocks are written at a time.
            let config = Config::builder().memory("8MiB").buffers("1MiB").partitions(1).block_bytes("16KiB");
            let config = config.hot(|hot| hot.max("1MiB").page_size("4KiB")).warm(|warm| warm.max("1MiB"));
            let config = config.class(ClassConfig::new("a")).class(ClassConfig::new("b")).background(false);
            let builder = Store::builder(config.build().unwrap()).clock(clock.clone());
            builder.cold(tier.clone()).open().unwrap()
        };
        let store = open();
        append(&store, 0..120, 0);
        faults.set(Trouble::Failing(100));
        store.flush(seconds(3600)).unwrap_err();
        let class = store.class("b").unwrap();
        for id in 200..230 {
            let event = Event::new(Stream::from(3u32), id, 0, 0).class(class);
            store.append(&event.payload(&noise(id, 900))).unwrap();
        }
        // Begins with the other lane now.
        store.flush(seconds(3600)).unwrap_err();
        faults.set(Trouble::None);
        for id in (0..120).step_by(5) {
            assert!(store.remove(id).unwrap());
        }
        store.abandon();
        let left: Vec<u64> =
            scanned(&open()).into_iter().filter(|id| *id < 120 && id.is_multiple_of(5)).collect();
        assert!(left.is_empty(), "seed {seed}: {left:?}");
    }
}

/// Seed 32: a removal was noted in the pages, the tier could not be told, and the process ended before the note was taken
/// back. The next one had the event removed from memory and not from the tier: it came back when its page had left.
#[test]
fn a_removal_that_ended_half_way_is_made_or_not_in_all_tiers() {
    for seed in 0..20 {
        let (faults, clock) = (Arc::new(Faults::new(seed)), Clock::manual(0));
        let (tier, dir) = (Arc::new(MapTier::new(faults.clone())), tempfile::tempdir().unwrap());
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let store = open(tier.clone(), &clock, Some(&first));
        append(&store, 0..40, 0);
        store.flush(seconds(3600)).unwrap();
        let (from, to) = (first.clone(), second.clone());
        faults.die_after(1, move || crate::torn::copy(&from, &to));
        store.remove(3).unwrap_err();
        assert!(faults.is_dead());
        store.abandon();
        faults.revive();
        let store = open(tier, &clock, Some(&second));
        let is_there = scanned(&store).contains(&3);
        let_all_leave(&store, &clock);
        assert_eq!(scanned(&store).contains(&3), is_there, "seed {seed}");
        store.validate().unwrap();
    }
}

/// Seed 46, when it had a log: pages that the tier has confirmed are not written to the log, but the log did not say so, and the
/// tier's blocks expired. After a loss of power the lane had a gap, and where that was long, what came after it was lost.
#[test]
fn what_came_after_pages_that_expired_in_the_tier_survives_the_loss_of_power() {
    let (clock, dir) = (Clock::manual(0), tempfile::tempdir().unwrap());
    let tier = Arc::new(MapTier::default());
    let open = || {
        let class = ClassConfig::new("only").retention(seconds(90));
        let config = Config::builder()
            .memory("8MiB")
            .hot(|hot| hot.max("2MiB").page_size("4KiB"))
            .warm(|warm| warm.max("1MiB"))
            .partitions(1)
            .block_bytes("16KiB")
            .class(class)
            .background(false)
            .durability(Durability::Disk(DiskSync::Interval(seconds(60))))
            .data_dir(dir.path().join("data"))
            .shared_dir(dir.path().join("shared"));
        // Lets pages whose events have expired be, as long as there is room.
        let builder = Store::builder(config.build().unwrap()).policy(esker::policy::Random2Lru::new());
        builder.clock(clock.clone()).cold(tier.clone()).open().unwrap()
    };
    let store = open();
    append(&store, 0..9, 0);
    store.sync().unwrap();
    append(&store, 9..400, 0);
    store.flush(seconds(3600)).unwrap();
    clock.set_ms(95 * SECOND);
    append(&store, 400..402, 95 * SECOND);
    store.maintain().unwrap();
    let (blocks, pages) =
        (store.stats().cold.expired_blocks, store.stats().region(RegionKind::Hot).used_pages);
    assert!(blocks > 0 && pages > 90, "{blocks} blocks have expired, {pages} pages are there");
    store.sync().unwrap();
    store.abandon();
    std::fs::remove_dir_all(dir.path().join("shared")).unwrap();
    let store = open();
    let report = store.recovered().unwrap();
    assert!(report.from_log && report.is_whole(), "{report:?}");
    assert_eq!(scanned(&store), [400, 401]);
    store.validate().unwrap();
}

/// Seed 817, when it had a log: all pages of a lane had left, the process was killed, and the lane's numbers began anew. The log
/// still said that pages of such numbers had left, and what came then was lost with power.
#[test]
fn a_lane_without_pages_goes_on_after_a_kill_where_it_was() {
    let (clock, dir) = (Clock::manual(0), tempfile::tempdir().unwrap());
    let tier = Arc::new(MapTier::default());
    let open = || {
        let class = ClassConfig::new("only").hot_for(seconds(5)).retention(seconds(90));
        let config = Config::builder()
            .memory("8MiB")
            .hot(|hot| hot.max("1MiB").page_size("4KiB"))
            .warm(|warm| warm.max("1MiB"))
            .partitions(1)
            .class(class)
            .background(false)
            .durability(Durability::Disk(DiskSync::EveryBatch))
            .data_dir(dir.path().join("data"))
            .shared_dir(dir.path().join("shared"));
        let builder = Store::builder(config.build().unwrap());
        builder.clock(clock.clone()).cold(tier.clone()).open().unwrap()
    };
    let store = open();
    append(&store, 0..40, 0);
    clock.set_ms(200 * SECOND);
    store.maintain().unwrap();
    assert_eq!(store.stats().events.hot + store.stats().events.warm, 0, "all have left");
    store.abandon();
    let store = open();
    append(&store, 100..104, 200 * SECOND);
    store.abandon();
    std::fs::remove_dir_all(dir.path().join("shared")).unwrap();
    let store = open();
    assert_eq!(scanned(&store), (100..104).collect::<Vec<_>>());
    store.validate().unwrap();
}

/// Seed 1293, when it had a log: power was lost in the middle of a batch, of which the tier had a block and the log had nothing.
/// The next process stood an empty page in for that block's, which hid it; when that page had left, what nobody had been
/// told of was found.
#[test]
fn what_was_lost_with_power_is_not_found_later_in_the_tier() {
    let payloads: Vec<Vec<u8>> = (0..900).map(|id| noise(id, 900)).collect();
    let event = |id: usize| Event::new(Stream::from(3u32), id as u64, 0, 0).payload(&payloads[id]);
    let mut ended = 0;
    for seed in 0..10 {
        let (faults, clock) = (Arc::new(Faults::new(seed)), Clock::manual(0));
        let (tier, dir) = (Arc::new(MapTier::new(faults.clone())), tempfile::tempdir().unwrap());
        let (data, saved) = (dir.path().join("data"), dir.path().join("saved"));
        let open = |data: &Path, shared: &str| {
            let config = Config::builder()
                .memory("8MiB")
                .hot(|hot| hot.max("512KiB").page_size("4KiB"))
                .warm(|warm| warm.max("128KiB"))
                .partitions(1)
                .block_bytes("16KiB")
                .class(ClassConfig::new("only").hot_for(seconds(5)).warm_for(seconds(10)))
                .background(false)
                .durability(Durability::Disk(DiskSync::EveryBatch))
                .data_dir(data)
                .shared_dir(dir.path().join(shared));
            let builder = Store::builder(config.build().unwrap());
            builder.clock(clock.clone()).cold(tier.clone()).open().unwrap()
        };
        let store = open(&data, "first");
        store.append_batch(&(0..30).map(event).collect::<Vec<_>>()).unwrap();
        let (from, to) = (data.clone(), saved.clone());
        faults.die_after(1, move || crate::torn::copy(&from, &to));
        // Needs room, for which blocks are put of what was acknowledged and of this, of which any are there then.
        let _ = store.append_batch(&(30..900).map(event).collect::<Vec<_>>());
        ended += u64::from(faults.is_dead());
        store.abandon();
        faults.revive();
        let store = open(&saved, "second");
        let found = scanned(&store);
        assert!(
            (0..30).all(|id| found.contains(&id)),
            "seed {seed}: what was acknowledged is there: {found:?}"
        );
        let_all_leave(&store, &clock);
        assert_eq!(scanned(&store), found, "seed {seed}");
        store.validate().unwrap();
    }
    assert_eq!(ended, 10, "the batch needs the tier");
}

/// Seed 0, one run in a hundred: the tier had deleted a block whose events had expired and said that it had not. As long as
/// memory kept a copy of the block, reads gave events from it whose time was yet to come.
#[test]
fn a_block_that_the_tier_has_deleted_is_not_read_from_memory_although_the_tier_said_that_it_failed() {
    for seed in 0..20 {
        let (faults, clock) = (Arc::new(Faults::new(seed)), Clock::manual(0));
        let tier = Arc::new(MapTier::new(faults.clone()));
        let store = open(tier.clone(), &clock, None);
        append(&store, 0..12, 1000 * SECOND);
        let_all_leave(&store, &clock);
        assert_eq!(scanned(&store).len(), 12);
        // They came so long ago that they may go, whatever their timestamps say.
        clock.set_ms(95 * SECOND);
        faults.set(Trouble::Failing(100));
        store.maintain().unwrap_err();
        faults.set(Trouble::None);
        let found = scanned(&store);
        store.abandon();
        assert_eq!(scanned(&open(tier, &clock, None)), found, "seed {seed}");
    }
}

/// A store with a log, of a stream for each event, none of which is alone on a page or in a block.
fn open_with_log(sync: DiskSync, tier: &Arc<MapTier>, clock: &Clock, dir: &Path) -> Store {
    let config = Config::builder()
        .memory("8MiB")
        .hot(|hot| hot.max("1MiB").page_size("4KiB"))
        .warm(|warm| warm.max("1MiB"))
        .partitions(1)
        .block_bytes("16KiB")
        .class(ClassConfig::new("only").hot_for(seconds(5)).warm_for(seconds(10)))
        .background(false)
        .durability(Durability::Disk(sync))
        .data_dir(dir.join("data"))
        .shared_dir(dir.join("shared"));
    Store::builder(config.build().unwrap()).clock(clock.clone()).cold(tier.clone()).open().unwrap()
}

fn lose_power(store: Store, dir: &Path) {
    store.abandon();
    std::fs::remove_dir_all(dir.join("shared")).unwrap();
}

/// Seed 902, when its log was written at intervals, and seed 0, one run in four hundred: a record led to a page that the tier
/// had before the log, whose number had been used more often than any that the log had. After a loss of power that link
/// was taken for damage.
#[test]
fn links_to_pages_that_the_log_never_had_are_no_damage() {
    let (clock, dir) = (Clock::manual(0), tempfile::tempdir().unwrap());
    let tier = Arc::new(MapTier::default());
    let open = || open_with_log(DiskSync::Interval(seconds(60)), &tier, &clock, dir.path());
    let store = open();
    for round in 0..5 {
        append(&store, round * 3..round * 3 + 3, 0);
        let_all_leave(&store, &clock);
    }
    // A stream begins on a page of a number that was used before, and goes on on one of a new number.
    let small = |id| store.append(&Event::new(Stream::from(9u32), id, 0, 0).payload(b"small")).unwrap();
    (100..106).for_each(|id| assert_eq!(small(id), Appended::Stored));
    append(&store, 15..60, 0);
    store.flush(seconds(3600)).unwrap();
    assert_eq!(small(106), Appended::Stored);
    store.sync().unwrap();
    lose_power(store, dir.path());
    let store = open();
    let report = store.recovered().unwrap();
    assert!(report.from_log && report.is_whole(), "{report:?}");
    assert_eq!(scanned(&store), (0..60).chain(100..107).collect::<Vec<_>>());
    store.validate().unwrap();
}

/// Seed 2966, when its log was written at intervals: the tier had blocks that it had not confirmed, of events that the log had
/// and of such as were lost with power. Some reads gave those, others did not; and when nothing was left in memory of
/// what the log had, the tier went on having the others.
#[test]
fn of_a_block_that_was_never_confirmed_nothing_is_found_but_what_the_log_has() {
    let payloads: Vec<Vec<u8>> = (0..90).map(|id| noise(id, 900)).collect();
    let event = |id: usize| Event::new(Stream::from(100 + id as u32), id as u64, 0, 0).payload(&payloads[id]);
    let mut lost = 0;
    for seed in 0..60 {
        let (faults, clock) = (Arc::new(Faults::new(seed)), Clock::manual(0));
        let (tier, dir) = (Arc::new(MapTier::new(faults.clone())), tempfile::tempdir().unwrap());
        let open = || open_with_log(DiskSync::Interval(seconds(60)), &tier, &clock, dir.path());
        let store = open();
        (0..42).for_each(|id| assert_eq!(store.append(&event(id)).unwrap(), Appended::Stored));
        store.sync().unwrap();
        (42..90).for_each(|id| assert_eq!(store.append(&event(id)).unwrap(), Appended::Stored));
        faults.set(Trouble::Failing(100));
        store.flush(seconds(3600)).unwrap_err();
        faults.set(Trouble::None);
        lose_power(store, dir.path());
        let store = open();
        let found = scanned(&store);
        assert!((0..42).all(|id| found.contains(&id)), "seed {seed}: the log has it: {found:?}");
        lost += 90 - found.len();
        let all_reads_agree = |store: &Store, found: &[u64]| {
            for id in 0..90 {
                let is_found = found.contains(&id);
                assert_eq!(store.fetch(id).unwrap().is_some(), is_found, "seed {seed}, event {id}");
                let history = store.fetch_history(Stream::from(100 + id as u32)).count();
                assert_eq!(history == 1, is_found, "seed {seed}, the history of event {id}");
            }
            assert_eq!(scanned(store), found, "seed {seed}");
            store.validate().unwrap();
        };
        all_reads_agree(&store, &found);
        let removes = seed % 2 == 1;
        if removes {
            found.iter().for_each(|id| assert!(store.remove(*id).unwrap()));
        }
        let left: &[u64] = if removes { &[] } else { &found };
        let_all_leave(&store, &clock);
        all_reads_agree(&store, left);
        lose_power(store, dir.path());
        all_reads_agree(&open(), left);
    }
    assert!(lost > 200, "only {lost} events were lost");
}

/// A file in memory that panics when it is to be synced, from the moment on that it is told to, as redb itself does over some
/// damaged ones.
#[derive(Debug)]
struct Panicking(redb::backends::InMemoryBackend, Arc<AtomicBool>);

impl redb::StorageBackend for Panicking {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        assert!(!self.1.load(Ordering::SeqCst), "a file that panics for a test");
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
}

/// Seed 8124, on a disk that lied about syncs: an opening that failed let the tier go without closing it, redb panicked over the
/// damaged file, and so did `Store::open`.
#[test]
fn a_tier_that_is_let_go_does_not_panic_whatever_its_file_does() {
    let panics = Arc::new(AtomicBool::new(false));
    let told = panics.clone();
    let file = move || Panicking(redb::backends::InMemoryBackend::new(), told.clone());
    let tier = DiskTier::on(file, 1 << 20).unwrap();
    panics.store(true, Ordering::SeqCst);
    drop(tier);
}
