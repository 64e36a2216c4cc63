//! What a review found broken: each test failed on the build that it was written for.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

#[allow(dead_code, reason = "the model test uses all of it")]
#[path = "sim/faults.rs"]
mod faults;
#[path = "model/rng.rs"]
#[allow(dead_code, reason = "the model test uses all of it")]
mod rng;
#[allow(dead_code, reason = "the model test uses all of it")]
#[path = "model/tier.rs"]
mod tier;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use esker::{Appended, ClassConfig, Clock, Config, Event, OnLeave, RegionKind, Store, Stream};
use faults::{Faults, Trouble};
use rng::Rng;
use tier::MapTier;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A batch that waits for room in vain is told that the store was closed, as a single append is.
#[test]
fn a_batch_that_waits_notices_that_the_store_closes() {
    let config = Config::builder().memory("16MiB").partitions(2).append_timeout(seconds(20));
    let clock = Clock::manual(0);
    let store = Store::builder(config.build().unwrap()).clock(clock).open().unwrap();
    let (stream, payload) = (Stream::from(1u32), vec![7u8; 4000]);
    let mut random = Rng::new(1);
    let mut payload_of = || payload.iter().map(|_| random.below(256) as u8).collect::<Vec<u8>>();
    let mut id = 0;
    while store
        .append_timeout(&Event::new(stream, id, 0, 0).payload(&payload_of()), Duration::from_millis(300))
        .is_ok()
    {
        id += 1;
    }
    let (single, many) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let outcome = store.append(&Event::new(stream, id + 1, 0, 0).payload(&payload));
            assert!(outcome.is_err());
            single.store(true, Ordering::SeqCst);
        });
        scope.spawn(|| {
            let outcome = store.append_batch(&[Event::new(stream, id + 2, 0, 0).payload(&payload)]);
            println!("the batch: {outcome:?}");
            many.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(500));
        let _ = store.close(Duration::from_millis(100));
        std::thread::sleep(seconds(2));
        assert!(single.load(Ordering::SeqCst), "2 s after the store was closed the append still waits");
        assert!(many.load(Ordering::SeqCst), "2 s after the store was closed the batch still waits");
    });
}

/// Duplicates alone make an array for a chunk; nothing ever frees it.
#[test]
fn arrays_that_nothing_went_to_do_not_fill_the_index() {
    let class = ClassConfig::new("a").hot_for(seconds(1)).warm_for(seconds(2)).on_leave(OnLeave::Drop);
    let config = Config::builder()
        .memory("16MiB")
        .partitions(1)
        .index(|index| index.max(256 << 10).page_size(2 << 10))
        .class(class)
        .background(false)
        .append_timeout(Duration::from_millis(1));
    let clock = Clock::manual(0);
    let store = Store::builder(config.build().unwrap()).clock(clock.clone()).open().unwrap();
    let used = |store: &Store| store.stats().region(RegionKind::Index).used_pages;
    let before = used(&store);
    for chunk in 0..300u64 {
        for _ in 0..3 {
            for id in 0..20 {
                let event = Event::new(Stream::from(1u32), chunk * 4096 + id * 7, clock.now_ms(), 0);
                store.append(&event).unwrap();
            }
        }
        clock.set_ms(clock.now_ms() + 10_000);
        store.maintain().unwrap();
    }
    for _ in 0..100 {
        clock.set_ms(clock.now_ms() + 10_000);
        store.append(&Event::new(Stream::from(1u32), 1 << 50, clock.now_ms(), 0)).unwrap();
        clock.set_ms(clock.now_ms() + 10_000);
        store.maintain().unwrap();
    }
    store.validate().unwrap();
    let stats = store.stats();
    println!("{before} pages, then {} with {:?}", used(&store), stats.events);
    assert!(used(&store) < before + 20, "{} index pages for no event", used(&store));
}

/// While a writer waits for an id that another is about to publish, it makes no heads over and over.
#[test]
fn waiting_for_an_announced_id_takes_no_index_pages() {
    let class = ClassConfig::new("a").on_leave(OnLeave::Drop);
    let config = Config::builder()
        .memory("600MiB")
        .buffers(128u64 << 20)
        .partitions(2)
        .index(|index| index.max(256 << 10).page_size(2 << 10))
        .hot(|hot| hot.max(384u64 << 20).page_size(64 << 10))
        .max_event(16u64 << 20)
        .huge_pages(false)
        .class(class);
    let store = Store::builder(config.build().unwrap()).clock(Clock::manual(0)).open().unwrap();
    for id in 0..2000u64 {
        store.append(&Event::new(Stream::from((id % 8) as u32), id, 0, 0)).unwrap();
    }
    let allocations = |store: &Store| store.stats().region(RegionKind::Index).allocations;
    let before = allocations(&store);
    let payload = vec![1u8; (16 << 20) - 64];
    let mut fresh = 1000u32;
    for round in 0..12u64 {
        let (id, go) = (1 << 40 | round << 20, AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (store, payload, go) = (&store, &payload, &go);
            scope.spawn(move || {
                let event = Event::new(Stream::from(1u32), id, 0, 0).payload(payload);
                go.store(true, Ordering::SeqCst);
                store.append(&event).unwrap();
            });
            let events: Vec<Event<'_>> = (0..200u64)
                .map(|at| Event::new(Stream::from(fresh + at as u32), id + at * 5000, 0, 0))
                .collect();
            fresh += 1;
            while !go.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            std::thread::sleep(Duration::from_micros(200));
            let first = events[0];
            let batch = store.append_batch(&[&[first][..], &events[150..180]].concat()).unwrap();
            for at in batch.refused {
                println!("refused: {at:?}");
            }
        });
    }
    std::thread::sleep(Duration::from_millis(300));
    let stats = store.stats();
    println!(
        "{} index pages were taken; {:?}, {:?}",
        allocations(&store) - before,
        stats.events,
        stats.pressure
    );
    assert_eq!(stats.events.dropped, 0, "events were dropped although there is room for all");
    assert!(allocations(&store) - before < 60, "{} index pages were taken", allocations(&store) - before);
}

/// What a class without the warm tier lacks in the hot region is not to be had from another's warm pages.
#[test]
fn a_class_that_stays_hot_does_not_drive_others_out_of_the_warm_region() {
    let faults = Arc::new(Faults::default());
    let (tier, clock) = (Arc::new(MapTier::new(faults.clone())), Clock::manual(0));
    let config = Config::builder()
        .memory("16MiB")
        .partitions(1)
        .class(ClassConfig::new("a").hot_for(seconds(1)).warm_for(seconds(100_000)))
        .class(ClassConfig::new("b").compress(false).warm_for(seconds(100_000)).hot_for(seconds(1)))
        .background(false)
        .append_timeout(Duration::ZERO);
    let store =
        Store::builder(config.build().unwrap()).clock(clock.clone()).cold(tier.clone()).open().unwrap();
    let class = |name| store.class(name).unwrap();
    for id in 0..5000u64 {
        store.append(&Event::new(Stream::from(1u32), id, 0, 0).class(class("a")).payload(&[1; 200])).unwrap();
    }
    clock.set_ms(2000);
    store.maintain().unwrap();
    store.flush(seconds(10)).unwrap();
    clock.set_ms(4000);
    store.maintain().unwrap();
    let before = store.stats();
    println!("{:?}", before.events);
    assert!(before.events.warm > 4000);
    faults.set(Trouble::Failing(100));
    let mut id = 1 << 40;
    for _ in 0..40_000 {
        let event =
            Event::new(Stream::from(2u32), id, clock.now_ms(), 0).class(class("b")).payload(&[2; 400]);
        if store.append(&event).is_err() {
            break;
        }
        id += 1;
        if id.is_multiple_of(100) {
            let _ = store.maintain();
        }
    }
    for _ in 0..20 {
        let _ = store.maintain();
    }
    let after = store.stats();
    println!("{:?}; warm {:?}", after.events, after.region(RegionKind::Warm));
    assert_eq!(after.events.warm, before.events.warm, "warm events left although their region has room");
}

/// Writers, removers and readers of the same ids: each is stored and removed as often as they were told.
#[test]
fn ids_are_stored_and_removed_as_often_as_was_told() {
    let rounds = std::env::var("ESKER_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let config = Config::builder()
            .memory("128MiB")
            .partitions(4)
            .index(|index| index.max(1 << 20).page_size(2 << 10))
            .hot(|hot| hot.max(24u64 << 20).page_size(4 << 10))
            .warm(|warm| warm.max(8u64 << 20))
            .background(round % 2 == 0);
        let store = Store::builder(config.build().unwrap()).clock(Clock::manual(0)).open().unwrap();
        let count: u64 = [300, 1100, 3000][round % 3];
        let stride: u64 = [1, 1, 9, 40][round % 4];
        let base: u64 = [0, u64::MAX - count * stride][round / 2 % 2];
        let stored: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let removed: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (store, stored, removed) = (&store, &stored, &removed);
                scope.spawn(move || {
                    let mut rng = Rng::new(thread * 1000 + round as u64);
                    let id_of = |at: u64| base + at * stride;
                    let sweep = 8000 / 4;
                    let mut center = 0;
                    for step in 0..sweep {
                        center = (center + rng.below(8)) % count;
                        let window: Vec<u64> = (0..rng.pick(&[1, 3, 17, 40, 300]))
                            .map(|_| (center + rng.below(64)) % count)
                            .collect();
                        match rng.below(10) {
                            0..=3 => {
                                let events: Vec<Event<'_>> = window
                                    .iter()
                                    .map(|at| {
                                        let stream = Stream::from(rng.below(50) as u32);
                                        Event::new(stream, id_of(*at), step as i64, thread as u8)
                                    })
                                    .collect();
                                let batch = store.append_batch(&events).unwrap();
                                assert!(batch.refused.is_empty(), "{:?}", batch.refused);
                                for (place, at) in window.iter().enumerate() {
                                    if batch.outcome(place).unwrap() == Appended::Stored {
                                        stored[*at as usize].fetch_add(1, Ordering::SeqCst);
                                    }
                                }
                                assert_eq!(batch.stored + batch.duplicates, events.len());
                            }
                            4..=5 => {
                                for at in &window {
                                    let event =
                                        Event::new(Stream::from(thread as u32), id_of(*at), step as i64, 9);
                                    if store.append(&event).unwrap() == Appended::Stored {
                                        stored[*at as usize].fetch_add(1, Ordering::SeqCst);
                                    }
                                }
                            }
                            6..=8 => {
                                for at in &window {
                                    if store.remove(id_of(*at)).unwrap() {
                                        removed[*at as usize].fetch_add(1, Ordering::SeqCst);
                                    }
                                }
                            }
                            _ => {
                                let guard = store.pin();
                                let ids: Vec<u64> = window.iter().map(|at| id_of(*at)).collect();
                                for (found, id) in guard.get_batch(&ids).into_iter().zip(&ids) {
                                    assert!(found.is_none_or(|event| event.id() == *id));
                                }
                                let mut last = None;
                                for event in guard.history(Stream::from(rng.below(50) as u32)).take(200) {
                                    assert!(event.stream().as_u64() < 50);
                                    last = Some(event.timestamp());
                                }
                                let _ = last;
                                assert!(guard.scan(..).take(500).all(|event| event.id() >= base));
                            }
                        }
                    }
                });
            }
        });
        store.validate().unwrap();
        let guard = store.pin();
        let mut there = 0;
        for at in 0..count {
            let (stored, removed) =
                (stored[at as usize].load(Ordering::SeqCst), removed[at as usize].load(Ordering::SeqCst));
            let here = guard.get(base + at * stride).is_some();
            assert_eq!(stored, removed + u64::from(here), "id {at} of round {round}");
            there += u64::from(here);
        }
        assert_eq!(guard.scan(..).count() as u64, there);
        assert_eq!(store.stats().events.hot + store.stats().events.warm, there);
    }
}
