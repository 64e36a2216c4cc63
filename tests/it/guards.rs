//! Guards that are held long: memory stays bounded, the store says who holds it up, and all is well once they are gone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use esker::{Appended, ClassConfig, Clock, ErrorKind, Event, OnLeave, Pressure, Stall, Store, Stream};

use crate::common::{all_ids, append_proof, manual, proof, small, verify, wait_until, wall_ms};
use crate::tier::MapTier;

const MEMORY: u64 = 16 << 20;
const LEN: usize = 600;
/// What a busy machine may take.
const SLACK: Duration = Duration::from_secs(120);

fn event(id: u64) -> Event<'static> {
    Event::new(Stream::from((id % 37) as u32), id, wall_ms(), 0)
}

fn try_one(store: &Store, id: u64) -> esker::Result<Appended> {
    let event = event(id);
    store.try_append(&event.payload(&proof(event.stream, id, event.timestamp, LEN)))
}

/// Ten times what the hot region holds is offered while one thread is in the middle of a scan. The bound holds, the errors name that
/// thread, and everything is stored after it has let go.
#[test]
fn errors_name_the_thread_that_stops_in_a_scan_and_all_heals_after_it() {
    let offered = 10 * (MEMORY / 2) / LEN as u64;
    let tier = MapTier::new();
    let config = small().stall_after(Duration::from_millis(100)).build().unwrap();
    let store = Store::builder(config).cold(tier).open().unwrap();
    append_proof(&store, event(0), LEN);
    let (end, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let (held, is_held) = mpsc::channel();
        let reader = std::thread::Builder::new().name("the report".into());
        let there = &store;
        let read = move || {
            let guard = there.pin();
            let mut scan = guard.scan(..);
            let event = scan.next().unwrap();
            held.send(std::thread::current().id()).unwrap();
            let _ = ended.recv();
            // What the guard gave is still what it was.
            verify(&event);
        };
        let reader = reader.spawn_scoped(scope, read).unwrap();
        let thread = is_held.recv().unwrap();
        let (mut stored, mut refused, mut blamed) = (1, 0u64, 0u64);
        while stored + refused < offered || blamed == 0 {
            match try_one(&store, stored) {
                Ok(_) => stored += 1,
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind(), ErrorKind::MemoryPressure);
                    if let Some(Stall::Guard(guard)) = &error.back_pressure().unwrap().stall {
                        assert_eq!((guard.thread, guard.name.as_deref()), (thread, Some("the report")));
                        assert!(guard.held_for >= Duration::from_millis(100), "{guard:?}");
                        assert!(error.to_string().contains("thread the report"), "{error}");
                        blamed += 1;
                    }
                    if refused.is_multiple_of(256) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
            if (stored + refused).is_multiple_of(4096) {
                let stats = store.stats();
                assert!(stats.memory_bytes <= MEMORY, "{stats:#?}");
            }
            assert!(refused < 50_000_000, "the guard is never blamed");
        }
        let stats = store.stats();
        assert_eq!(stats.oldest_guard.as_ref().map(|guard| guard.thread), Some(thread));
        assert!(matches!(stats.stall, Some(Stall::Guard(_))), "{:?}", stats.stall);
        println!("{stored} stored, {refused} refused, {blamed} blamed on {:?}", stats.oldest_guard);

        drop(end);
        reader.join().unwrap();
        wait_until("room", SLACK, || try_one(&store, stored).is_ok());
        for id in stored + 1..stored + 10_000 {
            append_proof(&store, event(id), LEN);
        }
        let stats = store.stats();
        assert_eq!((stats.oldest_guard, stats.stall), (None, None));
        assert!(stats.memory_bytes <= MEMORY);
        assert_eq!(all_ids(&store), (0..stored + 10_000).collect::<Vec<_>>());
        store.validate().unwrap();
    });
}

/// A reader keeps events of a few pages for ever. Fifty times what memory holds comes and goes meanwhile: nothing is refused, the
/// bound holds, and the reader's events are what they were.
#[test]
fn eviction_goes_round_what_a_guard_holds() {
    for warm in [true, false] {
        let dropped = ClassConfig::new("for the moment").on_leave(OnLeave::Drop).compress(warm);
        let (store, clock) = manual(small().class(dropped).stall_after(Duration::from_millis(50)));
        if !goes_round(&store) {
            println!("this system cannot fence all threads: guards hold everything");
            return;
        }
        let mut id = 0;
        let mut append = |count: u64, store: &Store| {
            for _ in 0..count {
                clock.set_ms(1_000_000 + id as i64);
                append_proof(store, event(id), LEN);
                id += 1;
            }
            id
        };
        let memory_full = MEMORY / LEN as u64;
        let newest = append(memory_full, &store);
        let guard = store.pin();
        // Of pages all over memory, and the one that is being written.
        let oldest = (0..newest).find(|id| guard.get(*id).is_some()).unwrap();
        let kept: Vec<_> = (0..8).filter_map(|at| guard.get(oldest + at * (newest - oldest) / 8)).collect();
        let last = guard.get(newest - 1).unwrap();
        assert!(kept.len() >= 7, "{} of 8", kept.len());
        let rounds = if cfg!(debug_assertions) { 6 } else { 50 };
        for round in 0..rounds {
            let newest = append(memory_full / 2, &store);
            let stats = store.stats();
            assert!(stats.memory_bytes <= MEMORY, "{stats:#?}");
            assert_eq!((stats.events.rejected, stats.stall), (0, None), "round {round}");
            assert!(stats.oldest_guard.is_some());
            // The guard sees what is new, and what it was given before is as it was.
            verify(&guard.get(newest - 1).unwrap());
            kept.iter().chain([&last]).for_each(verify);
        }
        let stats = store.stats();
        assert!(stats.pinned_bytes > 0, "{stats:#?}");
        store.validate().unwrap();
        drop((kept, last));
        drop(guard);
        append(1_000, &store);
        store.maintain().unwrap();
        assert_eq!(store.stats().pinned_bytes, 0);
        store.validate().unwrap();
    }
}

/// Readers keep events for a while, by each way of reading, and look at them again and again while all of memory is written anew many
/// times.
#[test]
fn events_in_hand_stay_what_they_are_while_all_else_comes_and_goes() {
    let class = ClassConfig::new("for the moment").on_leave(OnLeave::Drop).compress(false);
    let config = small().class(class).append_timeout(Duration::from_secs(60));
    let store = Store::open(config.build().unwrap()).unwrap();
    let (count, newest, over) = (60_000u64, AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (store, newest, over) = (&store, &newest, &over);
        let readers: Vec<_> = (0..3u64)
            .map(|reader| {
                scope.spawn(move || {
                    let (mut random, mut looks) = (reader + 1, 0u64);
                    let mut below = |limit: u64| {
                        random =
                            random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                        (random >> 33) % limit.max(1)
                    };
                    while !over.load(Ordering::Relaxed) {
                        let (guard, mut kept) = (store.pin(), Vec::new());
                        let end = newest.load(Ordering::Relaxed).max(1);
                        while kept.len() < 4 {
                            // Some are about to leave.
                            let id = end.saturating_sub(1 + below(20_000));
                            match below(4) {
                                0 => kept.extend(guard.get(id)),
                                1 => kept.extend(guard.get_batch(&[id, id + 7]).into_iter().flatten()),
                                2 => kept.extend(guard.history(Stream::from((id % 37) as u32)).take(1)),
                                _ => kept.extend(guard.scan(..).skip(below(50) as usize).take(1)),
                            }
                        }
                        while newest.load(Ordering::Relaxed) < end + 10_000 && !over.load(Ordering::Relaxed) {
                            kept.iter().for_each(verify);
                            looks += kept.len() as u64;
                            std::thread::sleep(Duration::from_micros(200));
                        }
                    }
                    looks
                })
            })
            .collect();
        for id in 0..count {
            append_proof(store, event(id), LEN);
            newest.store(id, Ordering::Relaxed);
        }
        over.store(true, Ordering::Relaxed);
        let looks: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        println!("{looks} looks at events in hand");
        assert!(looks > 1_000);
    });
    let stats = store.stats();
    assert!(stats.events.dropped > count / 2 && stats.memory_bytes <= MEMORY, "{stats:#?}");
    wait_until("nothing is held back", SLACK, || store.stats().pinned_bytes == 0);
    store.validate().unwrap();
}

/// Whether guards hold only what they were given here.
fn goes_round(store: &Store) -> bool {
    !store.stats().warnings.iter().any(|warning| warning.contains("membarrier"))
}

#[test]
fn a_guard_on_one_store_does_not_hold_up_another() {
    let class = || ClassConfig::new("for the moment").on_leave(OnLeave::Drop);
    let (idle, _idle_clock) = manual(small().class(class()));
    let (store, _clock) = manual(small().class(class()));
    append_proof(&idle, event(0), LEN);
    let guard = idle.pin();
    let held = guard.get(0).unwrap();
    for id in 0..40_000 {
        append_proof(&store, event(id), LEN);
    }
    let stats = store.stats();
    assert_eq!((stats.events.rejected, stats.events.waited), (0, stats.events.waited));
    assert!(stats.events.dropped > 5_000, "{stats:#?}");
    assert_eq!(stats.oldest_guard, None);
    assert!(idle.stats().oldest_guard.is_some());
    verify(&held);
    store.validate().unwrap();
}

#[test]
fn a_guard_that_is_refreshed_holds_nothing_up() {
    let class = ClassConfig::new("for the moment").on_leave(OnLeave::Drop);
    let (store, clock) = manual(small().class(class).stall_after(Duration::from_millis(50)));
    let mut guard = store.pin();
    let (mut id, mut refused) = (0, 0);
    while id < 40_000 {
        // The oldest are dropped in the order of their arrival.
        clock.set_ms(1_000_000 + id as i64);
        match try_one(&store, id) {
            Ok(_) => (id, refused) = (id + 1, 0),
            Err(error) => {
                // What was let go is held back by this guard, until it is refreshed.
                store.maintain().unwrap();
                guard.refresh();
                store.maintain().unwrap();
                assert!(guard.get(id - 1).is_some(), "{id} is lost");
                refused += 1;
                assert!(refused < 4, "{error}");
            }
        }
    }
    assert!(store.stats().events.dropped > 5_000);
    clock.set_ms(clock.now_ms() + 60);
    let before = store.stats().oldest_guard.unwrap();
    guard.refresh();
    let after = store.stats().oldest_guard.unwrap();
    assert!(after.held_for < before.held_for, "{before:?} {after:?}");
    drop(guard);
    assert!(store.pressure() < Pressure::Full);
}

/// A source that paused at `Critical` and resumes at `Normal` does not append, so no error tells it what it waits for.
#[test]
fn a_guard_that_alone_keeps_the_level_up_is_named() {
    let clock = Clock::manual(1_000_000);
    let class = ClassConfig::new("dropped").on_leave(OnLeave::Drop).compress(false);
    let config = small().class(class).background(false).stall_after(Duration::from_secs(1)).build().unwrap();
    let store = Store::builder(config).clock(clock.clone()).open().unwrap();
    let append = |id: u64| {
        let event = Event::new(Stream::from((id % 37) as u32), id, clock.now_ms(), 0);
        store.try_append(&event.payload(&proof(event.stream, id, event.timestamp, LEN)))
    };
    append(0).unwrap();
    let guard = store.pin();
    let mut scan = guard.scan(..);
    assert!(scan.next().is_some());
    let paused = (1..1_000_000).find(|id| append(*id).is_err() || store.pressure() == Pressure::Critical);
    assert!(paused.is_some());
    for _ in 0..50 {
        store.maintain().unwrap();
        // How long the guard is held counts from when it is first seen.
        assert!(store.stats().stall.is_none());
    }
    assert!([Pressure::Warning, Pressure::Critical].contains(&store.pressure()), "{:?}", store.pressure());
    clock.set_ms(clock.now_ms() + 2_000);
    let stats = store.stats();
    assert!(
        matches!(&stats.stall, Some(Stall::Guard(guard)) if guard.held_for >= Duration::from_secs(2)),
        "{stats:?}"
    );
    drop(scan);
    drop(guard);
    wait_until("what the scan held is free", SLACK, || {
        store.maintain().unwrap();
        store.pressure() == Pressure::Normal
    });
    assert!(store.stats().stall.is_none());
}
