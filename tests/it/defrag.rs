//! Sparse pages take less room, and everything that is left of them stays where it is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::{Random, all_ids, append_proof, manual, small, verify, wall_ms};
use esker::{ClassConfig, Clock, Event, RegionKind, Store, Stream};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn fill(store: &Store, clock: &Clock, ids: std::ops::Range<u64>) {
    for id in ids {
        append_proof(store, Event::new(Stream::from(id as u32 % 20), id, clock.now_ms(), 0), 400);
    }
}

/// Bytes that events take in memory, hot and warm.
fn used(store: &Store) -> u64 {
    let stats = store.stats();
    stats.region(RegionKind::Hot).used_bytes + stats.region(RegionKind::Warm).used_bytes
}

/// Other tests of this process have readers, too, for which packing waits.
fn packed(store: &Store, what: &str, mut done: impl FnMut() -> bool) {
    crate::common::wait_until(what, Duration::from_secs(60), || {
        store.maintain().unwrap();
        done()
    });
}

fn step(clock: &Clock, by: Duration) {
    clock.set_ms(clock.now_ms() + by.as_millis() as i64);
}

/// What is left is read in every way.
fn check(store: &Store, left: &[u64]) {
    assert_eq!(all_ids(store), left);
    let guard = store.pin();
    for id in left {
        verify(&guard.get(*id).unwrap_or_else(|| panic!("event {id} is gone")));
    }
    for stream in 0..20u32 {
        let walked: Vec<u64> = guard.history(Stream::from(stream)).newest().map(|event| event.id()).collect();
        let expected: Vec<u64> = left.iter().rev().copied().filter(|id| *id as u32 % 20 == stream).collect();
        assert_eq!(walked, expected, "the history of stream {stream}");
    }
    drop(guard);
    store.validate().unwrap();
}

fn removed_pages_shrink(class: ClassConfig, warm: bool) {
    let (store, clock) =
        manual(small().hot(|hot| hot.page_size(16 * KIB)).warm(|warm| warm.max(4 * MIB)).class(class));
    fill(&store, &clock, 0..6000);
    if warm {
        step(&clock, Duration::from_secs(30));
    }
    store.maintain().unwrap();
    assert_eq!(store.stats().events.warm > 5000, warm);
    let before = used(&store);
    let left: Vec<u64> = (0..6000).filter(|id| id % 10 == 3).collect();
    for id in (0..6000).filter(|id| id % 10 != 3) {
        assert!(store.remove(id).unwrap());
    }
    let held = store.pin();
    let mut scan = held.scan(..);
    let some = scan.next().unwrap();
    for _ in 0..20 {
        store.maintain().unwrap();
    }
    // It may have found an entry that was there, and be about to look for the record.
    assert_eq!(store.stats().defrag.pages, 0, "nothing is packed while a reader is there from before");
    verify(&some);
    drop((scan, some));
    drop(held);
    // A guard holds the page of its event, and no other.
    let held = store.pin();
    let some = held.get(3).unwrap();
    packed(&store, "sparse pages are packed", || used(&store) * 2 < before);
    verify(&some);
    drop(some);
    drop(held);
    packed(&store, "nothing waits for readers", || {
        let stats = store.stats();
        stats.defrag.bytes == before - used(&store)
    });
    let (after, stats) = (used(&store), store.stats());
    assert!(stats.defrag.pages > 50, "{before} bytes before, {after} after: {:?}", stats.defrag);
    check(&store, &left);
    // Nothing is packed twice.
    store.maintain().unwrap();
    assert_eq!(store.stats().defrag, stats.defrag);
}

#[test]
fn pages_of_which_most_was_removed_take_less_room() {
    removed_pages_shrink(ClassConfig::new("all"), false);
    removed_pages_shrink(ClassConfig::new("raw").compress(false), false);
    removed_pages_shrink(ClassConfig::new("warm").hot_for(Duration::from_secs(10)), true);
}

#[test]
fn a_store_that_is_told_to_leaves_sparse_pages_alone() {
    let (store, clock) = manual(small().hot(|hot| hot.page_size(16 * KIB)).defrag_below(0.0));
    fill(&store, &clock, 0..2000);
    let before = used(&store);
    (0..2000).filter(|id| id % 10 != 3).for_each(|id| assert!(store.remove(id).unwrap()));
    store.maintain().unwrap();
    assert_eq!((used(&store), store.stats().defrag.pages), (before, 0));
    assert!(small().defrag_below(1.5).build().is_err() && small().defrag_below(f64::NAN).build().is_err());
}

#[test]
fn events_that_expired_before_the_rest_of_their_page_make_room() {
    let class = ClassConfig::new("short").retention(Duration::from_secs(3600));
    let (store, clock) = manual(small().hot(|hot| hot.page_size(64 * KIB)).partitions(1).class(class));
    fill(&store, &clock, 0..140);
    step(&clock, Duration::from_secs(3000));
    // The page goes on with a few more, and the next one begins.
    fill(&store, &clock, 140..170);
    step(&clock, Duration::from_secs(1000));
    let before = store.stats();
    packed(&store, "expired events are packed", || store.stats().defrag.pages >= 1);
    let after = store.stats();
    assert_eq!((before.events.expired, after.events.expired), (0, 140), "{after:?}");
    check(&store, &(140..170).collect::<Vec<_>>());
}

#[test]
fn pages_that_were_closed_or_left_open_nearly_empty_take_what_they_need() {
    // Fifteen classes of which each gets an event now and then.
    let mut config = small().hot(|hot| hot.max(6 * MIB).page_size(64 * KIB)).partitions(2);
    for class in 0..15 {
        config = config.class(ClassConfig::new(format!("class {class}")));
    }
    let (store, clock) = manual(config);
    let classes: Vec<_> = (0..15).map(|class| store.class(&format!("class {class}")).unwrap()).collect();
    let mut id = 0;
    let mut round = |count: u64| {
        for class in &classes {
            for stream in 0..count {
                let event = Event::new(Stream::from(stream as u32), id, clock.now_ms(), 0).class(*class);
                append_proof(&store, event, 300);
                id += 1;
            }
        }
    };
    round(20);
    let before = used(&store);
    store.maintain().unwrap();
    assert_eq!(used(&store), before, "open pages of busy lanes are left alone");
    step(&clock, Duration::from_secs(61));
    packed(&store, "idle pages are packed", || used(&store) * 4 < before);
    let stats = store.stats();
    // A lane that gets an event each two minutes does not get a page for each.
    for _ in 0..30 {
        step(&clock, Duration::from_secs(120));
        round(1);
        store.maintain().unwrap();
    }
    let pages = store.stats().defrag.closed_early - stats.defrag.closed_early;
    assert!(pages <= 15, "{pages} pages were closed early");
    store.validate().unwrap();
    assert_eq!(all_ids(&store).len() as u64, 15 * 20 + 15 * 30);
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Readers, a remover and the mover at the same pages: nobody ever sees a body that is no longer there.
#[test]
fn readers_never_see_what_packing_has_taken_away() {
    // In a process of its own: its readers would hold up what other tests wait for.
    let test = "defrag::readers_never_see_what_packing_has_taken_away";
    if crate::common::in_own_process(test, "").is_some() {
        return;
    }
    let class = ClassConfig::new("all").hot_for(Duration::from_millis(200));
    let config = small().hot(|hot| hot.max(4 * MIB).page_size(32 * KIB)).class(class).defrag_below(0.9);
    let store = Store::open(config.build().unwrap()).unwrap();
    let (stop, next) = (AtomicBool::new(false), AtomicU64::new(0));
    let (reads, removed) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A window of the newest events, of which every fourth stays for a while.
            while !stop.load(Ordering::Relaxed) {
                let id = next.load(Ordering::Relaxed);
                append_proof(&store, Event::new(Stream::from(id as u32 % 20), id, wall_ms(), 0), 200);
                next.store(id + 1, Ordering::Release);
                let old = id.checked_sub(1000).filter(|old| old % 4 != 0);
                let late = id.checked_sub(4000).filter(|old| old % 4 == 0);
                for old in [old, late].into_iter().flatten() {
                    removed.fetch_add(u64::from(store.remove(old).unwrap()), Ordering::Relaxed);
                }
            }
        });
        for thread in 0..2 {
            let (store, stop, next, reads) = (&store, &stop, &next, &reads);
            scope.spawn(move || {
                let mut random = Random::new(thread);
                while !stop.load(Ordering::Relaxed) {
                    let end = next.load(Ordering::Acquire);
                    let guard = store.pin();
                    for _ in 0..50 {
                        let id = end.saturating_sub(random.below(5000) + 1);
                        guard.get(id).iter().for_each(verify);
                    }
                    guard
                        .history(Stream::from(random.below(20) as u32))
                        .newest()
                        .take(50)
                        .for_each(|event| verify(&event));
                    if random.below(64) == 0 {
                        guard.scan(..).for_each(|event| verify(&event));
                    }
                    drop(guard);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Whoever fails lets the others end.
        let _stop = Stop(&stop);
        crate::common::wait_until("pages are packed", Duration::from_secs(120), || {
            let packed = store.stats().defrag.pages;
            packed > 100 && reads.load(Ordering::Relaxed) > 50
        });
    });
    store.validate().unwrap();
    let stats = store.stats();
    println!("{:?}, {} removed, {} rounds of reads", stats.defrag, removed.into_inner(), reads.into_inner());
}
