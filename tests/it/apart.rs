//! Classes do not hold each other up: the cold tier does not take the blocks of one, or one is given up for another.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use esker::{
    Appended, Class, ClassConfig, Clock, Config, ErrorKind, Event, OnFull, PressureReason, Stall, Store,
    Stream,
};

use crate::common::{Random, append_proof, fill, now, proof, small, verify, wait_until};
use crate::tier::{Fault, Healed, MapTier};

const LEN: usize = 600;
/// What a busy machine may take.
const SLACK: Duration = Duration::from_secs(120);

fn event(id: u64, class: Class) -> Event<'static> {
    Event::new(Stream::from((id % 37) as u32), id, 1_000_000 + id as i64, 0).class(class)
}

fn try_one(store: &Store, id: u64, class: Class) -> esker::Result<Appended> {
    let event = event(id, class);
    store.try_append(&event.payload(&proof(event.stream, id, event.timestamp, LEN)))
}

/// Blocks of one class fail for as long as it takes. Ten times what memory holds of the others comes, is spilled and leaves; the one stays
/// within its quota, is refused beyond it, and loses nothing.
#[test]
fn a_class_that_the_cold_tier_does_not_take_holds_no_other_up() {
    let tier = MapTier::new();
    let config = small()
        .append_timeout(Duration::from_secs(60))
        .class(ClassConfig::new("calls"))
        .class(ClassConfig::new("broken").quota(2 << 20))
        .class(ClassConfig::new("texts").compress(false));
    let store = Store::builder(config.build().unwrap()).cold(tier.clone()).open().unwrap();
    let [calls, broken, texts] = ["calls", "broken", "texts"].map(|name| store.class(name).unwrap());
    let _healed = Healed(&tier);
    tier.set(Fault::FailClass(1));
    let (count, mut refused) = (if cfg!(debug_assertions) { 40_000 } else { 250_000 }, 0u64);
    let mut stored = BTreeSet::new();
    for id in 0..count {
        append_proof(&store, event(2 * id, if id % 2 == 0 { calls } else { texts }), LEN);
        if id % 4 == 0 {
            match try_one(&store, 2 * id + 1, broken) {
                Ok(_) => drop(stored.insert(2 * id + 1)),
                Err(error) => {
                    let pressure = error.back_pressure().expect("it has no room");
                    // While the others' hot pages are on their way out, there is none for anybody.
                    let of_class = pressure.reason == PressureReason::ClassQuota;
                    assert!(of_class || pressure.reason == PressureReason::HotFull, "{error}");
                    refused += u64::from(of_class);
                }
            }
        }
    }
    let stats = store.stats();
    println!("{} of the broken class stored, {refused} refused; {:#?}", stored.len(), stats.cold);
    assert!(stored.len() > 1_000 && refused > 1_000, "{} stored, {refused} refused", stored.len());
    assert!(stats.events.released > count / 4 && stats.cold.spill_failures > 0, "{stats:#?}");
    assert!(stats.cold.last_error.is_some());
    assert!(tier.ids().iter().all(|id| id.class != 1));
    let trouble = store.flush(Duration::from_secs(60)).unwrap_err();
    assert_eq!(trouble.kind(), ErrorKind::Cold, "{trouble}");
    // What the tier has it has for good; the broken class is in memory as a whole.
    {
        let guard = store.pin();
        stored.iter().for_each(|id| verify(&guard.get(*id).unwrap()));
    }
    tier.set(Fault::None);
    store.flush(Duration::from_secs(120)).unwrap();
    assert_eq!(store.stats().stall, None);
    wait_until("room for all", SLACK, || try_one(&store, 10 * count, broken).is_ok());
    for id in (0..count).step_by(97) {
        verify(&store.fetch(2 * id).unwrap().unwrap());
    }
    stored.iter().for_each(|id| verify(&store.fetch(*id).unwrap().unwrap()));
    store.validate().unwrap();
}

/// The cold tier is away. A class that may give up lower ones goes on, at their expense, the lowest and oldest first; it is refused when they
/// are gone, and itself gives way to nobody.
#[test]
fn lower_classes_are_given_up_for_one_that_says_so() {
    let tier = MapTier::new();
    let class = |name, priority| ClassConfig::new(name).priority(priority);
    let config = small()
        .class(class("calls", 5).on_full(OnFull::EvictLower))
        .class(class("texts", 2))
        .class(class("probes", 0))
        .class(class("equal", 5).on_full(OnFull::EvictLower));
    let store = Store::builder(config.build().unwrap()).cold(tier.clone()).open().unwrap();
    let [calls, texts, probes, equal] =
        ["calls", "texts", "probes", "equal"].map(|name| store.class(name).unwrap());
    let _healed = Healed(&tier);
    tier.set(Fault::Fail);
    let mut random = Random::new(7);
    let (mut id, mut low) = (0, [Vec::new(), Vec::new()]);
    for _ in 0..1_500 {
        low[0].push(id);
        append_proof(&store, event(id, texts), LEN);
        id += 1;
    }
    let before = id;
    id = fill(id, |id| try_one(&store, id, probes));
    low[1].extend(before..id);
    let left = |ids: &[u64]| {
        let guard = store.pin();
        ids.iter().filter(|id| guard.get(**id).is_some()).count()
    };
    assert_eq!((left(&low[0]), left(&low[1])), (low[0].len(), low[1].len()), "nothing leaves by itself");
    // A lower class gives up nobody.
    assert!(try_one(&store, id, texts).is_err() && try_one(&store, id, probes).is_err());
    let (mut stored, mut refused, begin) = (Vec::new(), 0, now());
    // To its last page, which appends have to wait for where the threads that make room wait for a processor themselves.
    while refused < 100 || left(&low[0]) + left(&low[1]) > 0 {
        assert!(begin.elapsed() < SLACK, "{} and {} are left", left(&low[0]), left(&low[1]));
        match try_one(&store, id, if random.below(2) == 0 { calls } else { equal }) {
            Ok(Appended::Stored) => (refused, _) = (0, stored.push(id)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::MemoryPressure, "{error}");
                refused += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        id += 1;
        if stored.len() % 1024 == 1 {
            // The lowest go first: as long as there are closed pages of them, none of the middle class is lost.
            let [middle, lowest] = [left(&low[0]), left(&low[1])];
            assert!(middle == low[0].len() || lowest == 0, "{middle} and {lowest} left");
        }
    }
    assert!(stored.len() > low[1].len() / 4, "{} stored for {}", stored.len(), low[1].len());
    assert_eq!((left(&low[0]), left(&low[1]), left(&stored)), (0, 0, stored.len()));
    let stats = store.stats();
    assert_eq!(stats.events.dropped as usize, low[0].len() + low[1].len());
    assert!(matches!(stats.stall, Some(Stall::ColdTier { .. })), "{:?}", stats.stall);
    tier.set(Fault::None);
    store.flush(SLACK).unwrap();
    stored.iter().for_each(|id| verify(&store.fetch(*id).unwrap().unwrap()));
    store.validate().unwrap();
}

/// Of blocks that were taken in silence and have expired each spiller tells the tier: a close that has no time left asks one at most.
#[test]
fn a_close_does_not_wait_for_each_delete_that_fails() {
    let (tier, clock) = (MapTier::new(), Clock::manual(0));
    tier.at_once.store(8, Ordering::SeqCst);
    let seconds = Duration::from_secs;
    let class = ClassConfig::new("only").hot_for(seconds(5)).warm_for(seconds(10)).retention(seconds(90));
    let config = Config::builder().memory("64MiB").partitions(8).class(class).background(false);
    let builder = Store::builder(config.build().unwrap()).clock(clock.clone());
    let store = builder.cold(tier.clone()).open().unwrap();
    for id in 0..400 {
        store.append(&Event::new(Stream::from(id as u32), id, 0, 0)).unwrap();
    }
    clock.set_ms(15_000);
    tier.set(Fault::FailAfterwards);
    (0..3).for_each(|_| drop(store.maintain()));
    assert_eq!((tier.ids().len(), store.stats().cold.blocks), (8, 0), "one of each lane");
    tier.set(Fault::Fail);
    clock.set_ms(91_000);
    drop(store.maintain());
    assert_eq!(store.stats().events.expired, 400);
    tier.set(Fault::SlowlyFail(400));
    let begin = now();
    store.close(Duration::from_millis(100)).unwrap();
    let took = begin.elapsed();
    assert!(took < Duration::from_millis(8 * 400), "{took:?}");
}
