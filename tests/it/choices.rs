//! What the policies choose: asked one plan at a time by a test that has arranged the pages, one event to each.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use esker::policy::{
    AllOf, ByClass, FirstMatch, Move, PageSummary, Plan, Policy, PriorityTime, Random2Lru, Sieve,
    SizeThreshold, Tier, TimeWindow, View,
};
use esker::{Class, ClassConfig, Clock, ConfigBuilder, Event, OnLeave, RegionKind, Store, Stream};

use crate::common::small;

const START: i64 = 1_700_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

type Look = Box<dyn FnOnce(&View<'_>, &mut Plan) + Send>;

/// A policy that does what the test says, once, and then nothing.
#[derive(Clone, Default)]
struct Puppet(Arc<Mutex<Option<Look>>>);

impl Policy for Puppet {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        if let Some(look) = self.0.lock().unwrap().take() {
            look(view, plan);
        }
    }

    fn wants_reads(&self) -> bool {
        true
    }
}

/// A store in which each event has a page, and came a second after the one before it.
struct Stage {
    store: Store,
    clock: Clock,
    puppet: Puppet,
}

/// 64 hot pages, of which more than 16 are too many; from there on the share that goes in a step grows until 60.
fn config() -> ConfigBuilder {
    small()
        // A step carries out the whole plan, however slow the machine is.
        .slice(1_000_000, HOUR)
        .partitions(1)
        .hot(|hot| hot.max("1MiB").page_size("16KiB"))
        .warm(|warm| warm.max("2MiB").page_size("2KiB"))
        .thresholds(0.25, 0.9375, 0.98)
        .defrag_below(0.0)
}

/// The same with so few pages in all that a sample meets most of those that are in use.
fn few() -> ConfigBuilder {
    config().warm(|warm| warm.max("128KiB"))
}

fn class(name: &str) -> ClassConfig {
    ClassConfig::new(name).on_leave(OnLeave::Drop).hot_for(HOUR).warm_for(HOUR)
}

fn stage(config: ConfigBuilder) -> Stage {
    let (clock, puppet) = (Clock::manual(START), Puppet::default());
    let builder = Store::builder(config.background(false).build().unwrap()).clock(clock.clone()).seed(1);
    Stage { store: builder.policy(puppet.clone()).open().unwrap(), clock, puppet }
}

impl Stage {
    fn append(&self, ids: std::ops::Range<u64>, class: Class) {
        for id in ids {
            self.clock.set_ms(self.clock.now_ms().max(START + id as i64 * 1000));
            let event = Event::new(Stream::from(1u32), id, START + id as i64 * 1000, 1).class(class);
            // Two of these are more than a page.
            self.store.append(&event.payload(&[7; 9000])).unwrap();
        }
    }

    /// Reads events, in a second of their own.
    fn read(&self, ids: impl IntoIterator<Item = u64>) {
        self.clock.set_ms(self.clock.now_ms() + 1000);
        let guard = self.store.pin();
        ids.into_iter().for_each(|id| assert_eq!(guard.get(id).unwrap().id(), id));
    }

    /// Has `look` plan a step.
    fn ask<T: Send + 'static>(&self, look: impl FnOnce(&View<'_>, &mut Plan) -> T + Send + 'static) -> T {
        let answer = Arc::new(Mutex::new(None));
        let put = answer.clone();
        let look = move |view: &View<'_>, plan: &mut Plan| *put.lock().unwrap() = Some(look(view, plan));
        *self.puppet.0.lock().unwrap() = Some(Box::new(look));
        self.store.maintain().unwrap();
        self.store.validate().unwrap();
        answer.lock().unwrap().take().unwrap()
    }

    /// What a policy moves in a step.
    fn moves(&self, policy: &Arc<Mutex<impl Policy + 'static>>) -> Moves {
        let policy = policy.clone();
        self.ask(move |view, plan| {
            policy.lock().unwrap().plan(view, plan);
            let mut moves = Moves::default();
            for what in plan.moves() {
                let (to, id) = match what {
                    Move::Demote(id) => (&mut moves.down, id),
                    Move::Promote(id) => (&mut moves.up, id),
                    Move::Release(id) => (&mut moves.out, id),
                    _ => panic!("{what:?}"),
                };
                to.push(id_of(&view.page(id).unwrap()));
            }
            moves
        })
    }

    fn squeeze(&self, ids: impl Fn(u64) -> bool + Send + 'static) {
        self.ask(move |view, plan| {
            for page in pages(view).into_iter().filter(|page| ids(id_of(page))) {
                assert!(plan.demote(&page));
            }
        });
    }
}

/// The events whose pages a plan moves, in its order.
#[derive(Default, Debug, PartialEq)]
struct Moves {
    down: Vec<u64>,
    up: Vec<u64>,
    out: Vec<u64>,
}

fn down(ids: impl IntoIterator<Item = u64>) -> Moves {
    Moves { down: ids.into_iter().collect(), ..Moves::default() }
}

fn shared<P>(policy: P) -> Arc<Mutex<P>> {
    Arc::new(Mutex::new(policy))
}

fn id_of(page: &PageSummary) -> u64 {
    (page.newest_ms - START) as u64 / 1000
}

fn pages(view: &View<'_>) -> Vec<PageSummary> {
    let lanes = view.lanes().iter();
    lanes.flat_map(|lane| std::iter::successors(lane.oldest, |page| view.newer(page))).collect()
}

#[test]
fn sieve_spares_what_was_read_since_its_hand_came_by_and_goes_on_where_it_was() {
    let stage = stage(config().class(class("a")));
    let sieve = shared(Sieve::new().promote(false));
    stage.append(0..16, Class::DEFAULT);
    assert_eq!(stage.moves(&sieve), Moves::default(), "16 pages are not too many");
    stage.append(16..40, Class::DEFAULT);
    stage.read((0..20).step_by(2));
    // 24 pages too many, at 24/44 of the way to the critical threshold.
    let expected = (1..20).step_by(2).chain(20..24);
    assert_eq!(stage.moves(&sieve), down(expected), "those that were not read, the oldest first");
    // 10 of 26, at 10/44 of the way.
    assert_eq!(stage.moves(&sieve), down(24..27), "the hand goes on");
    stage.read(27..40);
    // 7 of 23: all that are left were read, the first ones before the hand came by.
    assert_eq!(stage.moves(&sieve), down([0, 2]), "spared once, not twice");
}

#[test]
fn random_2_lru_keeps_what_was_read_twice() {
    let stage = stage(few().class(class("a")));
    let policy = shared(Random2Lru::new().sample(64).promote(false));
    stage.append(0..40, Class::DEFAULT);
    stage.read(0..20);
    stage.read(0..30);
    let moves = stage.moves(&policy);
    assert_eq!((moves.down.len(), moves.up.len(), moves.out.len()), (14, 0, 0), "{moves:?}");
    assert!(moves.down.iter().all(|id| (20..39).contains(id)), "read once is as not at all: {moves:?}");
    // A sample of so many misses few: those that go are older than most that stay.
    let older = moves.down.iter().filter(|id| **id < 34).count();
    assert!(older >= 10, "{moves:?}");
}

#[test]
fn pages_that_are_read_often_are_unpacked_a_few_in_a_step_the_last_read_first() {
    let stage = stage(few().class(class("a")));
    let policy = shared(Random2Lru::new());
    stage.append(0..22, Class::DEFAULT);
    stage.squeeze(|id| id < 15);
    stage.read(0..15);
    assert_eq!(stage.moves(&policy), Moves::default(), "read once");
    // The lower its number, the more often was it read, and the later.
    (0..14).for_each(|last| stage.read(0..14 - last));
    let first = stage.moves(&policy);
    assert!(first.up.len() == 4 && first.down.is_empty() && first.out.is_empty(), "{first:?}");
    assert!(first.up.is_sorted() && first.up.iter().all(|id| *id < 14), "{first:?}");
}

#[test]
fn what_is_unpacked_takes_the_place_of_a_page_that_was_read_two_seconds_earlier_at_least() {
    let stage = stage(few().class(class("a")));
    let policy = shared(Random2Lru::new().sample(64));
    stage.append(0..20, Class::DEFAULT);
    stage.squeeze(|id| id < 4);
    // 16 are hot: as many as may be. Read twice within a second of what is warm, they stay.
    stage.read(0..20);
    stage.read(0..20);
    assert_eq!(stage.moves(&policy), Moves::default());
    stage.read([2]);
    assert_eq!(stage.moves(&policy), Moves::default(), "a second later is not enough");
    stage.read([2]);
    let moves = stage.moves(&policy);
    assert!(moves.up == [2] && moves.down.len() == 1 && moves.out.is_empty(), "{moves:?}");
}

#[test]
fn what_was_not_read_for_as_long_as_events_are_hot_is_not_unpacked() {
    for (seconds, expected) in [(50, 1), (70, 0)] {
        let stage = stage(few().class(class("a").hot_for(Duration::from_secs(60))));
        stage.append(0..12, Class::DEFAULT);
        stage.squeeze(|id| id == 3);
        stage.read([3]);
        stage.read([3]);
        // The read before the last is what counts.
        stage.clock.set_ms(stage.clock.now_ms() - 1000 + seconds * 1000);
        let up = (0..5).map(|_| stage.moves(&shared(Random2Lru::new())).up.len()).sum::<usize>();
        assert_eq!(up, expected, "after {seconds} s");
    }
}

/// Exactly what is too much goes, of the lowest class first, and within a class what came first.
#[test]
fn pressure_squeezes_the_lowest_class_first() {
    let stage = stage(config().class(class("a").priority(1)).class(class("b")));
    let [a, b] = ["a", "b"].map(|name| stage.store.class(name).unwrap());
    stage.append(0..12, a);
    stage.append(12..22, b);
    stage.append(22..40, a);
    let size = shared(SizeThreshold::new());
    // The open page of the lower class is not spared for one of a higher class's: nothing leaves memory here.
    assert_eq!(stage.moves(&size), down((12..21).chain(0..5)));
}

#[test]
fn a_class_is_brought_down_to_its_quota_whatever_room_there_is() {
    // A quota of 6 pages, 2 of them for its hot ones, beside an open page.
    let stage = stage(config().class(class("a").quota(6 * 16384)).class(class("b")));
    let [a, b] = ["a", "b"].map(|name| stage.store.class(name).unwrap());
    stage.append(0..4, b);
    stage.append(4..11, a);
    let size = shared(SizeThreshold::new());
    assert_eq!(stage.moves(&size), Moves::default(), "six, and the open one");
    stage.append(11..12, a);
    // One is not enough: what is squeezed counts for a half, until it is known better.
    assert_eq!(stage.moves(&size), down(4..6), "the oldest of the class");
    let held = stage.ask(move |view, _| view.class(a));
    assert!(held.hot_bytes + held.warm_bytes <= 7 * 16384, "{held:?}");
}

#[test]
fn a_policy_sees_what_is_there() {
    let stage =
        stage(config().class(class("a").retention(HOUR * 2)).class(class("b").on_leave(OnLeave::Spill)));
    let [a, b] = ["a", "b"].map(|name| stage.store.class(name).unwrap());
    stage.append(0..6, a);
    stage.append(6..9, b);
    stage.squeeze(|id| id == 1 || id == 7);
    stage.read([3]);
    stage.read([3]);
    for id in [0, 6] {
        assert!(stage.store.remove(id).unwrap());
    }
    stage.ask(move |view, _| {
        let found = pages(view);
        assert_eq!(found.iter().map(id_of).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
        for page in &found {
            let id = id_of(page);
            assert_eq!(view.page(page.id), Some(*page));
            assert_eq!(page.class, if id < 6 { a } else { b });
            assert_eq!(page.tier == Tier::Warm, id == 1 || id == 7, "{page:?}");
            assert_eq!(page.open, id == 5 || id == 8, "{page:?}");
            assert_eq!((page.events, page.removed), (1, u32::from(id == 0 || id == 6)), "{page:?}");
            assert_eq!(page.live_bytes, if page.removed == 1 { 0 } else { page.raw_bytes }, "{page:?}");
            assert!((9000..9200).contains(&page.raw_bytes), "{page:?}");
            assert_eq!(page.arrived_ms, page.newest_ms);
            // What has nothing left is as good as confirmed.
            assert_eq!(page.clean, page.removed == 1, "{page:?}");
            assert_eq!(page.may_leave, id < 6 || page.removed == 1, "{page:?}");
            assert_eq!(view.has_warm_from(page), [0, 1, 6, 7].contains(&id), "{page:?}");
            let (last, before) = (Some(view.now_ms()), Some(view.now_ms() - 1000));
            assert_eq!(
                (page.read_ms, page.read_before_ms),
                if id == 3 { (last, before) } else { (None, None) }
            );
            assert!(!page.expired);
        }
        let hot = view.region(RegionKind::Hot);
        assert_eq!((hot.used, hot.max, hot.page_bytes, hot.fill()), (7, 64, 16384, 7.0 / 64.0));
        assert_eq!(view.class(a).hot_bytes, 5 * 16384);
        assert_eq!(
            view.lanes().iter().map(|lane| lane.oldest_hot.map(|page| id_of(&page))).collect::<Vec<_>>(),
            [Some(0), Some(6)]
        );
        assert_eq!(view.newer_hot(&found[0]).map(|page| id_of(&page)), Some(2), "over the warm one");
    });
    // Only what has expired is said to be so, and may leave for it.
    stage.clock.set_ms(START + 2 * HOUR.as_millis() as i64 + 2_000);
    let expired =
        stage.ask(|view, _| pages(view).iter().filter(|page| page.expired).map(id_of).collect::<Vec<_>>());
    assert_eq!(expired, [0, 1, 2]);
}

#[test]
fn a_page_that_is_hot_again_is_the_oldest_hot_one_of_its_lane() {
    let stage = stage(config().class(class("a")));
    stage.append(0..12, Class::DEFAULT);
    stage.squeeze(|id| id < 9);
    let oldest = |stage: &Stage| stage.ask(|view, _| view.lanes()[0].oldest_hot.map(|page| id_of(&page)));
    assert_eq!(oldest(&stage), Some(9));
    for again in [6, 2, 4] {
        stage.ask(move |view, plan| {
            let page = pages(view).into_iter().find(|page| id_of(page) == again).unwrap();
            assert!(plan.promote(&page));
        });
    }
    for id in [2, 4, 6, 9] {
        assert_eq!(oldest(&stage), Some(id));
        stage.squeeze(move |other| other == id);
    }
    assert_eq!(oldest(&stage), Some(10));
    // The same where nothing else is hot.
    stage.squeeze(|id| id >= 10);
    assert_eq!(oldest(&stage), None);
    stage.ask(|view, plan| assert!(plan.promote(&pages(view)[7])));
    assert_eq!(oldest(&stage), Some(7));
}

#[test]
fn what_the_hot_region_has_no_room_for_stays_warm() {
    let stage = stage(config().class(class("a")));
    stage.append(0..18, Class::DEFAULT);
    stage.squeeze(|id| id < 3);
    let promote = |at: usize| {
        stage.ask(move |view, plan| assert!(plan.promote(&pages(view)[at])));
        let stats = stage.store.stats();
        (stats.eviction.promoted_pages, stats.eviction.refused)
    };
    assert_eq!(promote(0), (1, 0), "16 of 64 is what the threshold allows");
    assert_eq!(promote(1), (1, 1));
}

#[test]
fn pages_that_are_not_to_be_squeezed_leave_instead_the_oldest_first() {
    for policy in [0, 1, 2] {
        let stage = stage(config().class(class("a").compress(false)));
        stage.append(0..40, Class::DEFAULT);
        let moves = match policy {
            0 => stage.moves(&shared(SizeThreshold::new())),
            1 => stage.moves(&shared(Random2Lru::new())),
            _ => stage.moves(&shared(Sieve::new())),
        };
        assert_eq!(moves, Moves { out: (0..14).collect(), ..Moves::default() }, "policy {policy}");
    }
}

#[test]
fn a_class_above_its_quota_goes_before_older_pages_of_others() {
    let stage = stage(config().class(class("a").quota(6 * 16384)).class(class("b")));
    let [a, b] = ["a", "b"].map(|name| stage.store.class(name).unwrap());
    stage.append(0..20, b);
    stage.append(20..28, a);
    // 4 of 12 that are too many; two of them for the quota alone.
    assert_eq!(stage.moves(&shared(SizeThreshold::new())), down(20..24));
}

/// A class whose hot pages are no more than their share of its quota loses what is oldest.
#[test]
fn a_class_that_is_warm_and_above_its_quota_lets_the_oldest_go() {
    let stage = stage(config().class(class("a").quota(6 * 16384)));
    for id in 0..45 {
        stage.append(id..id + 1, Class::DEFAULT);
        stage.squeeze(move |other| other == id);
    }
    let held = stage.ask(|view, _| view.class(Class::DEFAULT));
    assert_eq!((held.hot_bytes, held.warm_bytes), (0, 45 * 2048));
    // From here on the engine would keep the quota, if the policy did not. Five warm pages are above it and an open page.
    stage.append(45..47, Class::DEFAULT);
    assert_eq!(
        stage.moves(&shared(SizeThreshold::new())),
        Moves { out: (0..5).collect(), ..Moves::default() }
    );
}

#[test]
fn a_policy_knows_of_which_partition_a_page_is() {
    let stage = stage(config().partitions(2).class(class("a")));
    for id in 0..40 {
        let event = Event::new(Stream::from(id as u32), id, START, 1);
        stage.store.append(&event.payload(&[7; 9000])).unwrap();
    }
    let found = stage.ask(|view, _| {
        let of = |page: Option<PageSummary>| page.map(|page| view.partition_of(&page));
        view.lanes().iter().map(|lane| (lane.partition, of(lane.oldest))).collect::<Vec<_>>()
    });
    assert_eq!(found, [(0, Some(0)), (1, Some(1))]);
}

/// Reads are recorded for policies that look at them, and for those alone.
#[test]
fn policies_of_policies_want_reads_if_one_of_them_does() {
    let class = Class::DEFAULT;
    assert!(![PriorityTime::new().wants_reads(), TimeWindow::new().wants_reads()].contains(&true));
    assert!(Random2Lru::new().wants_reads() && Sieve::new().wants_reads());
    let (time, sieve) = (TimeWindow::new, Sieve::new);
    assert!(!FirstMatch::new().or(time()).or(time()).wants_reads());
    assert!(FirstMatch::new().or(time()).or(sieve()).wants_reads());
    assert!(!AllOf::new().and(time()).and(time()).wants_reads());
    assert!(AllOf::new().and(sieve()).and(time()).wants_reads());
    assert!(!ByClass::new(time()).class(class, time()).wants_reads());
    assert!(ByClass::new(time()).class(class, sieve()).wants_reads());
    assert!(ByClass::new(sieve()).class(class, time()).wants_reads());
}
