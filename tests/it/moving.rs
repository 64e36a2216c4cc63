//! P1 and P2 while pages move as soon as they are written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{now, small, wall_ms};
use crate::tier::MapTier;
use esker::{Appended, ClassConfig, Event, Store, Stream};

/// Every page is old enough to leave the moment it is opened, so the mover is at the heels of the appender. It used to
/// take a page for sealed that was just being opened, and let go what was appended to it afterwards.
#[test]
fn events_are_safe_with_the_mover_at_their_heels() {
    let class = ClassConfig::new("at once").hot_for(Duration::ZERO).warm_for(Duration::ZERO);
    let config = small().partitions(1).class(class).background(false).build().unwrap();
    let store = Store::builder(config).cold(MapTier::new()).open().unwrap();
    let (stop, mut count) = (AtomicBool::new(false), 0u64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.maintain().unwrap();
            }
        });
        let begin = now();
        while begin.elapsed() < Duration::from_secs(4) {
            let event = Event::new(Stream::from(1u32), count, wall_ms(), 0);
            assert_eq!(store.append(&event).unwrap(), Appended::Stored);
            count += 1;
            std::thread::sleep(Duration::from_micros(count * 7919 % 700));
        }
        stop.store(true, Ordering::Relaxed);
    });
    store.flush(Duration::from_secs(20)).unwrap();
    store.validate().unwrap();
    let found: Vec<u64> = store.fetch_history(Stream::from(1u32)).map(|event| event.unwrap().id()).collect();
    assert_eq!(found, (0..count).rev().collect::<Vec<_>>());
    assert_eq!(store.stats().cold.events, count);
}

/// The end of a flush is what was there when it began, however fast more comes.
#[test]
fn a_flush_ends_although_appends_go_on() {
    let store = Store::builder(small().build().unwrap()).cold(MapTier::new()).open().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut id = 0;
            while !stop.load(Ordering::Relaxed) {
                // A full store refuses now and then, which is not what this is about.
                let _ = store
                    .append(&Event::new(Stream::from(id as u32 % 50), id, wall_ms(), 0).payload(&[7; 500]));
                id += 1;
            }
        });
        for _ in 0..20 {
            store.flush(Duration::from_secs(10)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    store.validate().unwrap();
}

/// A scan in the order of time stays so when earlier events come to pages that it has not read yet.
#[test]
fn an_ordered_scan_stays_ordered_while_events_come() {
    let store = Store::open(small().partitions(2).background(false).build().unwrap()).unwrap();
    let mut id = 0;
    let mut append = |stream: u32, time: i64| {
        id += 1;
        store.append(&Event::new(Stream::from(stream), id, time, 0)).unwrap();
    };
    for stream in 0..40 {
        (0..3).for_each(|step| append(stream, if stream % 2 == 0 { step } else { 100 + step }));
    }
    for target in 0..40 {
        let guard = store.pin();
        let mut memory = guard.scan(..).ordered();
        let mut tiers = store.fetch_scan(..).ordered();
        let first = memory.next().unwrap().timestamp();
        assert_eq!(tiers.next().unwrap().unwrap().timestamp(), first);
        append(target, first - 1 - i64::from(target));
        let mut last = first;
        for time in memory.map(|event| event.timestamp()) {
            assert!(last <= time, "{time} after {last}");
            last = time;
        }
        last = first;
        for time in tiers.map(|event| event.unwrap().timestamp()) {
            assert!(last <= time, "{time} after {last}");
            last = time;
        }
    }
}
