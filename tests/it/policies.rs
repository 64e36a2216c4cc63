//! Policies: what the built-in ones promise, and that none can do harm, whatever it plans.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esker::policy::{
    AllOf, ByClass, FirstMatch, Move, PageId, PageSummary, Plan, Policy, PriorityTime, Random2Lru, Sieve,
    SizeThreshold, Tier, TimeWindow, View,
};
use esker::testing::policy_contract;
use esker::{Class, ClassConfig, Clock, ConfigBuilder, Event, OnLeave, RegionKind, Store, Stream};

use crate::common::{Random, all_ids, append_proof, now, proof, small, verify, wait_until};
use crate::tier::{Fault, MapTier};

const START: i64 = 1_700_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

/// A store without threads that has a cold tier, and its clock.
fn with_policy(config: ConfigBuilder, policy: impl Policy + 'static) -> (Store, Clock) {
    let clock = Clock::manual(START);
    let builder = Store::builder(config.background(false).build().unwrap()).clock(clock.clone());
    (builder.cold(MapTier::new()).policy(policy).open().unwrap(), clock)
}

/// Hot pages are few: 64 of 16 KiB. A store without threads that can make room makes it at the first try.
fn tight() -> ConfigBuilder {
    small()
        .append_timeout(Duration::from_secs(100))
        .hot(|hot| hot.max("1MiB").page_size("16KiB"))
        .warm(|warm| warm.max("512KiB"))
        .index(|index| index.max("1MiB"))
        // Packing would move pages, too, whatever the policy says.
        .defrag_below(0.0)
}

fn event(id: u64, clock: &Clock) -> Event<'static> {
    Event::new(Stream::from((id % 23) as u32), id, clock.now_ms(), 1)
}

fn append_all(store: &Store, clock: &Clock, ids: std::ops::Range<u64>, class: Class) {
    for id in ids {
        append_proof(store, event(id, clock).class(class), 300);
    }
}

/// Nothing was lost, and what memory holds is within its bounds.
fn check_all(store: &Store, count: u64) {
    store.validate().unwrap();
    assert_eq!(all_ids(store), (0..count).collect::<Vec<_>>());
    let stats = store.stats();
    assert!(stats.memory_bytes <= store.config().memory, "{stats:#?}");
}

fn everyone(view: &View<'_>) -> Vec<PageSummary> {
    let mut pages = Vec::new();
    for lane in view.lanes() {
        let mut next = lane.oldest;
        while let Some(page) = next {
            pages.push(page);
            next = view.newer(&page);
        }
    }
    pages
}

// ---- policies that do harm ----

/// Plans what it can think of for pages that are there, and for such as are not any more.
struct Nonsense {
    random: Random,
    seen: Vec<PageId>,
}

impl Policy for Nonsense {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        let pages = everyone(view);
        self.seen.extend(pages.iter().map(|page| page.id));
        self.seen.drain(..self.seen.len().saturating_sub(4096));
        for _ in 0..20 {
            // The newest of its lane may not leave, a warm one is not to be squeezed, and a hot one not promoted.
            let found = (!self.seen.is_empty()).then(|| self.random.below(self.seen.len() as u64) as usize);
            let Some(id) = found.map(|at| self.seen[at]) else { continue };
            plan.push(match self.random.below(8) {
                0 => Move::Demote(id),
                1 => Move::Promote(id),
                2 => Move::Spill(id),
                _ => Move::Release(id),
            });
        }
        for page in pages {
            match page.tier {
                Tier::Warm => plan.demote(&page),
                _ => plan.promote(&page),
            };
        }
    }
}

#[test]
fn a_nonsense_policy_is_refused_and_the_budget_holds() {
    let nonsense = Nonsense { random: Random::new(5), seen: Vec::new() };
    let (store, clock) = with_policy(tight(), nonsense);
    append_all(&store, &clock, 0..20_000, Class::DEFAULT);
    store.maintain().unwrap();
    let stats = store.stats();
    assert!(stats.eviction.refused > 1000 && stats.eviction.last_refusal.is_some(), "{stats:#?}");
    assert!(stats.eviction.safety_plans > 0 && stats.events.released > 5_000, "{stats:#?}");
    assert_eq!(stats.events.rejected, 0, "the safety policy makes room: {stats:#?}");
    check_all(&store, 20_000);
}

/// The same with threads at work.
#[test]
fn a_nonsense_policy_does_no_harm_beside_writers_and_readers() {
    let nonsense = Nonsense { random: Random::new(9), seen: Vec::new() };
    let builder = Store::builder(tight().build().unwrap()).cold(MapTier::new()).policy(nonsense);
    let (store, clock) = (builder.open().unwrap(), Clock::manual(START));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(1);
            while !done.load(Ordering::Relaxed) {
                let guard = store.pin();
                for _ in 0..50 {
                    let id = random.below(20_000);
                    guard.get(id).inspect(verify);
                    guard.history(Stream::from((id % 23) as u32)).take(20).for_each(|event| verify(&event));
                }
            }
        });
        append_all(&store, &clock, 0..20_000, Class::DEFAULT);
        done.store(true, Ordering::Relaxed);
    });
    check_all(&store, 20_000);
}

struct Panics {
    after: u64,
}

impl Policy for Panics {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        for page in everyone(view) {
            plan.demote(&page);
        }
        self.after = self.after.checked_sub(1).expect("the policy is tired");
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        assert!(std::thread::panicking() || self.after > 0, "and it does not go quietly");
    }
}

#[test]
fn a_policy_that_panics_is_not_asked_again() {
    let (store, clock) = with_policy(tight(), Panics { after: 20 });
    append_all(&store, &clock, 0..15_000, Class::DEFAULT);
    store.maintain().unwrap();
    let stats = store.stats();
    assert_eq!(stats.eviction.policy_panic.as_deref(), Some("the policy is tired"), "{stats:#?}");
    assert!(stats.events.released > 5_000, "{stats:#?}");
    // What comes after is the default policy's affair.
    clock.set_ms(START + 25 * HOUR.as_millis() as i64);
    store.flush(Duration::from_secs(10)).unwrap();
    store.maintain().unwrap();
    let stats = store.stats();
    assert_eq!((stats.events.hot, stats.events.warm), (0, 0), "all is older than a day: {stats:#?}");
    check_all(&store, 15_000);
}

struct Lazy(Arc<AtomicU64>);

impl Policy for Lazy {
    fn plan(&mut self, _view: &View<'_>, _plan: &mut Plan) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_policy_that_plans_nothing_leaves_the_budget_to_the_engine() {
    let asked = Arc::new(AtomicU64::new(0));
    let (store, clock) = with_policy(tight(), Lazy(asked.clone()));
    append_all(&store, &clock, 0..20_000, Class::DEFAULT);
    store.maintain().unwrap();
    let stats = store.stats();
    assert!(asked.load(Ordering::Relaxed) > 10 && stats.eviction.safety_plans > 10, "{stats:#?}");
    assert_eq!((stats.events.rejected, stats.eviction.refused), (0, 0), "{stats:#?}");
    let hot = stats.region(RegionKind::Hot);
    let fill = hot.used_bytes as f64 / hot.max_bytes as f64;
    assert!((0.75..1.0).contains(&fill), "kept below critical, not lower: {fill}");
    check_all(&store, 20_000);
}

// ---- priorities ----

/// Looks over the shoulder of a policy: none of a higher class leaves while one of a lower class that would help could.
struct Watched<P> {
    policy: P,
    released: Arc<AtomicU64>,
    faults: Arc<Mutex<Vec<String>>>,
}

impl<P: Policy> Policy for Watched<P> {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        self.policy.plan(view, plan);
        let priority = |page: &PageSummary| view.class_config(page.class).priority;
        let full = |kind| view.region(kind).fill() > view.config().thresholds.warning;
        let any = full(RegionKind::Index) || full(RegionKind::System) || view.warm_is_full();
        let leaves: Vec<PageId> = plan
            .moves()
            .filter_map(|what| if let Move::Release(id) = what { Some(id) } else { None })
            .collect();
        let highest = leaves.iter().filter_map(|id| view.page(*id)).filter(|page| page.may_leave);
        let Some(highest) = highest.max_by_key(priority) else { return };
        self.released.fetch_add(1, Ordering::Relaxed);
        for lane in view.lanes() {
            let mut next = lane.oldest;
            // One that is squeezed instead does its part.
            while let Some(page) = next.filter(|page| plan.has(page)) {
                next = view.newer(&page);
            }
            let Some(page) = next.filter(|page| page.may_leave && priority(page) < priority(&highest)) else {
                continue;
            };
            let helps = any || page.tier == highest.tier;
            if helps && leaves.len() < Plan::MAX {
                self.faults.lock().unwrap().push(format!("{highest:?} was to leave before {page:?}"));
            }
        }
    }

    fn wants_reads(&self) -> bool {
        self.policy.wants_reads()
    }
}

#[test]
fn no_event_of_a_higher_class_leaves_while_one_of_a_lower_class_could() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let classes: Vec<ClassConfig> = (0..3)
            .map(|number| {
                let drop = random.below(3) == 0;
                ClassConfig::new(format!("{number}"))
                    .priority(random.below(3) as u8)
                    .compress(random.below(3) > 0)
                    .on_leave(if drop { OnLeave::Drop } else { OnLeave::Spill })
            })
            .collect();
        let (released, faults) = (Arc::new(AtomicU64::new(0)), Arc::default());
        let policy: Box<dyn Policy> = match seed % 3 {
            0 => Box::new(SizeThreshold::new()),
            1 => Box::new(Random2Lru::new()),
            _ => Box::new(Sieve::new()),
        };
        let watched = Watched { policy, released: released.clone(), faults: Arc::clone(&faults) };
        let config = classes.iter().fold(tight(), |config, class| config.class(class.clone()));
        let (store, clock) = with_policy(config, watched);
        let mut count = 0;
        for _ in 0..40 {
            let class = store.class(&random.below(3).to_string()).unwrap();
            let more = random.below(400);
            append_all(&store, &clock, count..count + more, class);
            count += more;
            clock.set_ms(clock.now_ms() + random.below(5_000) as i64);
            if random.below(2) == 0 {
                store.flush(Duration::from_secs(10)).unwrap();
            }
            let guard = store.pin();
            (0..50).filter_map(|_| guard.get(random.below(count.max(1)))).for_each(|event| verify(&event));
            drop(guard);
            store.maintain().unwrap();
        }
        store.validate().unwrap();
        let faults = faults.lock().unwrap();
        assert!(faults.is_empty(), "seed {seed}, {classes:#?}: {}", faults[0]);
        assert!(released.load(Ordering::Relaxed) > 10, "seed {seed} tested nothing");
    }
}

#[test]
fn a_class_of_high_priority_outlives_a_flood_of_a_lower_one() {
    let calls = ClassConfig::new("calls").priority(5).on_leave(OnLeave::Drop);
    let probes = ClassConfig::new("probes").on_leave(OnLeave::Drop);
    let (store, clock) = with_policy(tight().class(calls).class(probes), PriorityTime::new());
    let [calls, probes] = ["calls", "probes"].map(|name| store.class(name).unwrap());
    append_all(&store, &clock, 0..500, calls);
    append_all(&store, &clock, 500..40_000, probes);
    store.maintain().unwrap();
    let guard = store.pin();
    (0..500).for_each(|id| verify(&guard.get(id).unwrap()));
    assert!(store.stats().events.dropped > 20_000, "{:#?}", store.stats());
    // Where nothing else is left, it is the turn of the high class.
    drop(guard);
    append_all(&store, &clock, 50_000..70_000, calls);
    store.maintain().unwrap();
    assert!(store.pin().get(0).is_none());
    let left = store.pin().scan(..).class(probes).count();
    assert!(left < 150, "no more than what is on pages that are still written: {left}");
    store.validate().unwrap();
}

// ---- quotas ----

#[test]
fn a_noisy_class_cannot_push_out_the_others() {
    for (policy, compress) in [(0, true), (1, true), (2, true), (0, false)] {
        let quiet = ClassConfig::new("quiet");
        let noisy = ClassConfig::new("noisy").quota(256 << 10).compress(compress);
        let policy: Box<dyn Policy> = match policy {
            0 => Box::new(PriorityTime::new()),
            1 => Box::new(AllOf::new().and(TimeWindow::new()).and(Random2Lru::new())),
            _ => Box::new(FirstMatch::new().or(TimeWindow::new()).or(Sieve::new())),
        };
        let taken = Arc::new(AtomicU64::new(0));
        let config = tight().class(quiet).class(noisy);
        let class = config.clone().build().unwrap().class("noisy").unwrap();
        let (store, clock) = with_policy(config, Weighs { policy, class, taken: taken.clone() });
        let [quiet, noisy] = ["quiet", "noisy"].map(|name| store.class(name).unwrap());
        append_all(&store, &clock, 0..800, quiet);
        append_all(&store, &clock, 800..20_000, noisy);
        store.maintain().unwrap();
        let (taken, open) = (taken.load(Ordering::Relaxed), 2 * (16 << 10));
        assert!(taken <= (256 << 10) + open && taken > 128 << 10, "{taken} bytes: {:#?}", store.stats());
        let guard = store.pin();
        (0..800).for_each(|id| verify(&guard.get(id).unwrap()));
        drop(guard);
        check_all(&store, 20_000);
    }
}

/// Seed 58 of the model: under a policy that keeps no quotas a class came to where it gets no new page while no region was
/// critical. So nobody made room, and its events were refused although the cold tier had nearly all of them.
#[test]
fn the_engine_keeps_quotas_that_the_policy_does_not() {
    let quota = 256 << 10;
    for policy in [0, 1] {
        let policy: Box<dyn Policy> = match policy {
            0 => Box::new(TimeWindow::new()),
            _ => Box::new(Lazy(Arc::default())),
        };
        let (quiet, noisy) = (ClassConfig::new("quiet"), ClassConfig::new("noisy").quota(quota));
        let config = tight().class(quiet).class(noisy).append_timeout(Duration::from_millis(50));
        let class = config.clone().build().unwrap().class("noisy").unwrap();
        let taken = Arc::new(AtomicU64::new(0));
        let (store, clock) = with_policy(config, Weighs { policy, class, taken: taken.clone() });
        append_all(&store, &clock, 0..800, store.class("quiet").unwrap());
        for id in 800..8_000 {
            let event = event(id, &clock).class(class);
            let payload = proof(event.stream, id, event.timestamp, 300);
            let outcome = store.append(&event.payload(&payload));
            assert!(outcome.is_ok(), "event {id}: {outcome:?}");
        }
        store.maintain().unwrap();
        let (taken, open) = (taken.load(Ordering::Relaxed), 2 * (16 << 10));
        assert!(taken <= quota + open && taken > quota / 2, "{taken} bytes: {:#?}", store.stats());
        // Nothing else goes for its sake.
        let guard = store.pin();
        (0..800).for_each(|id| verify(&guard.get(id).unwrap()));
        drop(guard);
        check_all(&store, 8_000);
    }
}

/// Has one page go up and down for ever.
struct Seesaw;

impl Policy for Seesaw {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        let Some(page) = view.lanes().iter().find_map(|lane| lane.oldest) else { return };
        match page.tier {
            Tier::Warm => plan.promote(&page),
            _ => plan.demote(&page),
        };
    }
}

/// A page that goes up and down uses up slice after slice, and makes no room.
#[test]
fn the_engine_makes_room_although_the_policy_uses_up_each_slice() {
    let (quiet, noisy) = (ClassConfig::new("quiet"), ClassConfig::new("noisy").quota(256 << 10));
    let config = tight().class(quiet).class(noisy).slice(1, HOUR).append_timeout(Duration::from_millis(50));
    let (store, clock) = with_policy(config, Seesaw);
    let [quiet, noisy] = ["quiet", "noisy"].map(|name| store.class(name).unwrap());
    append_all(&store, &clock, 0..200, quiet);
    for id in 200..3_000 {
        let event = event(id, &clock).class(noisy);
        let payload = proof(event.stream, id, event.timestamp, 300);
        let outcome = store.append(&event.payload(&payload));
        assert!(outcome.is_ok(), "event {id}: {outcome:?}");
    }
    check_all(&store, 3_000);
}

/// Has every warm page go up.
struct Up;

impl Policy for Up {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        for page in everyone(view).iter().filter(|page| page.tier == Tier::Warm) {
            plan.promote(page);
        }
    }
}

/// What goes up for the policy goes down for the quota, and each slice is used up: an append that had no room looked for some for ever.
#[test]
fn a_policy_and_a_quota_that_undo_each_other_keep_nobody() {
    for slice in [40, 10_000] {
        let noisy = ClassConfig::new("noisy").quota(256 << 10);
        let config = tight().warm(|warm| warm.max("1MiB")).hot(|hot| hot.max("2MiB").page_size("16KiB"));
        let config = config.class(noisy).slice(slice, HOUR).append_timeout(Duration::from_millis(50));
        let tier = MapTier::new();
        let config = config.background(false).build().unwrap();
        let clock = Clock::manual(START);
        let store = Store::builder(config).clock(clock.clone()).cold(tier.clone()).policy(Up).open().unwrap();
        tier.set(Fault::Fail);
        let (done, waits) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let refused = (0..3_000).any(|id| {
                    let event = event(id, &clock);
                    let payload = proof(event.stream, id, event.timestamp, 300);
                    store.append(&event.payload(&payload)).is_err()
                });
                done.send(refused).unwrap();
            });
            let refused = waits.recv_timeout(Duration::from_secs(60));
            // A test that hangs says nothing.
            let Ok(refused) = refused else {
                eprintln!("slices of {slice} events: an append does not end: {:#?}", store.stats().eviction);
                std::process::exit(1);
            };
            assert!(refused, "the tier takes nothing");
        });
        assert!(store.stats().eviction.safety_plans > 0);
    }
}

/// Notes what a class takes when it is asked.
struct Weighs {
    policy: Box<dyn Policy>,
    class: Class,
    taken: Arc<AtomicU64>,
}

impl Policy for Weighs {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        let held = view.class(self.class);
        self.taken.store(held.hot_bytes + held.warm_bytes, Ordering::Relaxed);
        self.policy.plan(view, plan);
    }

    fn wants_reads(&self) -> bool {
        self.policy.wants_reads()
    }
}

// ---- reads keep pages hot ----

/// A tenth of the events is read all the time. How many of those are hot, and of all others.
fn hot_of_those_read(policy: impl Policy + 'static) -> (u64, u64, Store) {
    let config = tight()
        .warm(|warm| warm.max("4MiB"))
        .class(ClassConfig::new("a").hot_for(1000 * HOUR).warm_for(1000 * HOUR));
    let (store, clock) = with_policy(config, policy);
    let count = 9_000;
    append_all(&store, &clock, 0..count, Class::DEFAULT);
    store.maintain().unwrap();
    for _ in 0..400 {
        clock.set_ms(clock.now_ms() + 1_500);
        let guard = store.pin();
        (2_000..2_300).for_each(|id| verify(&guard.get(id).unwrap()));
        drop(guard);
        store.maintain().unwrap();
    }
    let guard = store.pin();
    let hot =
        |ids: std::ops::Range<u64>| ids.filter(|id| guard.tier_of(*id) == Some(Tier::Hot)).count() as u64;
    let (read, all) = (hot(2_000..2_300), hot(0..count));
    drop(guard);
    check_all(&store, count);
    (read, all - read, store)
}

#[test]
fn warm_pages_that_are_read_often_become_hot_again() {
    let (read, others, store) = hot_of_those_read(PriorityTime::new());
    // A partition that fewer streams fell to keeps older events hot.
    assert!(read < 150 && others > 1_000, "oldest first: {read}, {others}");
    assert_eq!(store.stats().events.promoted, 0);
    for (read, others, store) in [
        hot_of_those_read(Random2Lru::new()),
        hot_of_those_read(AllOf::new().and(TimeWindow::new()).and(Sieve::new())),
    ] {
        let stats = store.stats();
        assert!(read > 250 && others > 1_000, "{read} of 300 and {others} are hot: {stats:#?}");
        // Those that are hot do not change places for ever.
        assert!(stats.events.promoted < 4_000 && stats.eviction.promoted_pages > 0, "{stats:#?}");
        assert_eq!(stats.eviction.refused, 0, "{stats:#?}");
    }
    let (read, _, store) = hot_of_those_read(Random2Lru::new().promote(false).sample(3));
    assert_eq!(store.stats().events.promoted, 0, "{read}");
}

// ---- composition ----

/// Notes what it was shown, and moves nothing.
struct Looks(Arc<Mutex<Vec<Class>>>);

impl Policy for Looks {
    fn plan(&mut self, view: &View<'_>, _plan: &mut Plan) {
        let sampled = view.sample(Tier::Hot, 20).chain(view.sample(Tier::Warm, 20)).map(|page| page.class);
        let shown = view.lanes().iter().map(|lane| lane.class).chain(sampled);
        self.0.lock().unwrap().extend(shown);
    }
}

#[test]
fn each_class_has_its_own_policy() {
    let window = |name| ClassConfig::new(name).hot_for(HOUR).warm_for(3 * HOUR);
    let config = tight().class(window("aged")).class(window("kept"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let class = config.clone().build().unwrap().class("kept").unwrap();
    let policy = ByClass::new(TimeWindow::new()).class(class, Looks(seen.clone()));
    let (store, clock) = with_policy(config, policy);
    let [aged, kept] = ["aged", "kept"].map(|name| store.class(name).unwrap());
    append_all(&store, &clock, 0..500, aged);
    append_all(&store, &clock, 500..1_000, kept);
    clock.set_ms(START + 2 * HOUR.as_millis() as i64);
    store.maintain().unwrap();
    let guard = store.pin();
    let tier = |id| guard.tier_of(id).unwrap();
    assert!((0..500).all(|id| tier(id) == Tier::Warm) && (500..1_000).all(|id| tier(id) == Tier::Hot));
    let seen = seen.lock().unwrap();
    assert!(seen.contains(&kept) && !seen.contains(&aged), "{seen:?}");
}

#[test]
fn the_first_policy_that_matches_decides() {
    let asked = Arc::new(AtomicU64::new(0));
    let config = || tight().class(ClassConfig::new("a").hot_for(HOUR).warm_for(HOUR * 3));
    let (store, clock) =
        with_policy(config(), FirstMatch::new().or(TimeWindow::new()).or(Lazy(asked.clone())));
    append_all(&store, &clock, 0..500, Class::DEFAULT);
    let before = asked.load(Ordering::Relaxed);
    store.maintain().unwrap();
    assert!(asked.load(Ordering::Relaxed) > before, "nothing is old, so the second is asked");
    clock.set_ms(START + 2 * HOUR.as_millis() as i64);
    let before = asked.load(Ordering::Relaxed);
    store.maintain().unwrap();
    let stats = store.stats();
    assert_eq!((stats.events.hot, stats.events.warm), (0, 500));
    assert!(asked.load(Ordering::Relaxed) - before < stats.eviction.plans + 4, "{stats:#?}");
}

// ---- rates and steps ----

#[test]
fn age_moves_no_faster_than_the_configured_rate() {
    let config = tight().move_rate(2_000).class(ClassConfig::new("a").hot_for(HOUR).warm_for(2 * HOUR));
    let (store, clock) = with_policy(config, PriorityTime::new());
    append_all(&store, &clock, 0..2_000, Class::DEFAULT);
    clock.set_ms(START + HOUR.as_millis() as i64);
    let begin = now();
    store.maintain().unwrap();
    let (first, after) = (store.stats().events.demoted, begin.elapsed());
    // A tenth of a second's worth at once, what came meanwhile, and a page that began before the limit.
    let most = 200.0 + after.as_secs_f64() * 2_000.0 + 60.0;
    assert!(first as f64 <= most, "{first} events in {after:?}");
    wait_until("the rest moves in time", Duration::from_secs(60), || {
        store.maintain().unwrap();
        store.stats().events.demoted == 2_000
    });
    let all = begin.elapsed();
    assert!(all >= Duration::from_millis(850), "2,000 events at 2,000 a second took {all:?}");
    // Memory pressure waits for no rate.
    append_all(&store, &clock, 2_000..20_000, Class::DEFAULT);
    assert_eq!(store.stats().events.rejected, 0);
    check_all(&store, 20_000);
}

/// What age moves into a warm region that has room for it pushes nothing out.
#[test]
fn age_alone_drops_nothing_before_its_time() {
    let class = ClassConfig::new("a").hot_for(HOUR).warm_for(3 * HOUR).on_leave(OnLeave::Drop);
    let (store, clock) = with_policy(tight().warm(|warm| warm.max("1MiB")).class(class), PriorityTime::new());
    append_all(&store, &clock, 0..2_000, Class::DEFAULT);
    clock.set_ms(START + HOUR.as_millis() as i64);
    store.maintain().unwrap();
    let events = store.stats().events;
    assert_eq!((events.hot, events.warm, events.dropped), (0, 2_000, 0), "{events:#?}");
}

#[test]
fn the_clock_may_jump_forwards_and_backwards() {
    let class = || ClassConfig::new("a").hot_for(HOUR).warm_for(3 * HOUR).retention(100 * HOUR);
    for policy in 0..3 {
        let policy: Box<dyn Policy> = match policy {
            0 => Box::new(PriorityTime::new()),
            1 => Box::new(AllOf::new().and(TimeWindow::new()).and(Random2Lru::new())),
            _ => Box::new(AllOf::new().and(TimeWindow::new()).and(Sieve::new())),
        };
        let (store, clock) = with_policy(tight().class(class()), policy);
        let (mut count, mut random) = (0, Random::new(3));
        let hours = |hours: i64| hours * HOUR.as_millis() as i64;
        for jump in [0, hours(2), -hours(40), hours(1), hours(50), -hours(90), hours(30), -1, 1, hours(2)] {
            clock.set_ms(clock.now_ms() + jump);
            append_all(&store, &clock, count..count + 1_500, Class::DEFAULT);
            count += 1_500;
            let guard = store.pin();
            (0..300).filter_map(|_| guard.get(random.below(count))).for_each(|event| verify(&event));
            drop(guard);
            store.maintain().unwrap();
            store.validate().unwrap();
        }
        // Nothing is older than its retention by the clock of any moment.
        check_all(&store, count);
        assert_eq!(store.stats().events.rejected, 0);
    }
}

/// Whoever makes a policy can try it as ours are tried.
/// Squeezing a page that is old enough to leave memory would be work for nothing.
#[test]
fn pages_that_are_to_leave_anyway_are_not_squeezed_before() {
    fn squeezed(policy: impl Policy + 'static) -> (u64, u64) {
        let clock = Clock::manual(1_700_000_000_000);
        let hour = Duration::from_secs(3600);
        let class = ClassConfig::new("a").hot_for(hour).warm_for(2 * hour);
        let config = esker::Config::builder()
            .memory("16MiB")
            .hot(|hot| hot.max("1MiB").page_size("8KiB"))
            .warm(|warm| warm.max("4MiB"))
            .partitions(2)
            .class(class)
            .defrag_below(0.0)
            .append_timeout(Duration::from_secs(120))
            .build()
            .unwrap();
        let tier = MapTier::new();
        let store = Store::builder(config).clock(clock.clone()).cold(tier).policy(policy).open().unwrap();
        let append = |ids: std::ops::Range<u64>| {
            for id in ids {
                let event = Event::new(Stream::from((id % 17) as u32), id, clock.now_ms(), 1);
                store.append(&event.payload(&[7; 900])).unwrap();
            }
        };
        // Less than what the policy moves anything for.
        append(0..700);
        store.flush(Duration::from_secs(120)).unwrap();
        clock.set_ms(clock.now_ms() + 3 * 3_600_000);
        // More than there is room for, but no more than the old pages make.
        append(700..1_000);
        wait_until("room", Duration::from_secs(120), || {
            let stats = store.stats();
            let hot = stats.region(RegionKind::Hot);
            hot.used_bytes * 10 <= hot.max_bytes * 8
        });
        let stats = store.stats();
        store.validate().unwrap();
        (stats.events.demoted, stats.events.released)
    }
    for (name, (demoted, released)) in [
        ("Random2Lru", squeezed(Random2Lru::new())),
        ("Sieve", squeezed(Sieve::new())),
        ("SizeThreshold", squeezed(SizeThreshold::new())),
    ] {
        assert!(demoted == 0 && released > 0, "{name}: {demoted} were squeezed, {released} left");
    }
}

#[test]
fn our_policies_fulfil_the_contract() {
    policy_contract(PriorityTime::new);
    policy_contract(SizeThreshold::new);
    policy_contract(Random2Lru::new);
    policy_contract(Sieve::new);
    policy_contract(|| FirstMatch::new().or(TimeWindow::new()).or(Random2Lru::new()));
    policy_contract(|| AllOf::new().and(TimeWindow::new()).and(Sieve::new()));
    policy_contract(|| ByClass::new(PriorityTime::new()).class(Class::DEFAULT, Random2Lru::new()));
}

fn breach<P: Policy + 'static>(make: impl Fn() -> P + std::panic::UnwindSafe) -> String {
    let panic = std::panic::catch_unwind(|| policy_contract(make)).expect_err("the contract was not kept");
    panic.downcast_ref::<String>().unwrap().lines().next().unwrap().to_string()
}

/// Squeezes and unpacks without end.
struct Restless;

impl Policy for Restless {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        for page in everyone(view).into_iter().filter(|page| !page.open).take(2) {
            match page.tier {
                Tier::Warm => plan.promote(&page),
                _ => plan.demote(&page),
            };
        }
    }
}

#[test]
fn the_contract_finds_policies_that_break_it() {
    let nonsense = breach(|| Nonsense { random: Random::new(1), seen: Vec::new() });
    assert!(nonsense.contains("refused") || nonsense.contains("still move"), "{nonsense}");
    let panics = breach(|| Panics { after: 5 });
    assert!(panics.contains("the policy is tired"), "{panics}");
    let restless = breach(|| Restless);
    assert!(restless.contains("refused") || restless.contains("still move"), "{restless}");
}
