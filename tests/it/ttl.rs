//! Events that expire by themselves, on every way to read them.

use std::time::Duration;

use crate::common::{manual, small, two_classes};
use esker::{Appended, ClassConfig, Clock, Config, Event, EventRef, Store, Stream};

const MINUTE: i64 = 60_000;

fn stream() -> Stream {
    Stream::from(3u32)
}

/// Events 1 to 40: the even ones expire after a minute, the others never. Some have metadata, some are empty.
fn fill(store: &Store, clock: &Clock) {
    for id in 1..=40u64 {
        let payload = vec![id as u8; (id % 5 * 40) as usize];
        let mut event = Event::new(stream(), id, clock.now_ms(), (id % 2) as u8).payload(&payload);
        if id.is_multiple_of(3) {
            event = event.metadata(&[("cell", "A7")]);
        }
        if id.is_multiple_of(2) {
            event = event.ttl(Duration::from_millis(MINUTE as u64));
        }
        assert_eq!(store.append(&event).unwrap(), Appended::Stored);
    }
}

/// The ids that each way to read gives, and that each event is as it was appended.
fn ids(store: &Store) -> Vec<(&'static str, Vec<u64>)> {
    let check = |event: &EventRef<'_>| {
        let id = event.id();
        assert_eq!(event.payload(), vec![id as u8; (id % 5 * 40) as usize], "the payload of {id}");
        assert_eq!(event.metadata_value("cell").is_some(), id.is_multiple_of(3), "the metadata of {id}");
        assert_eq!(event.expires_at().is_some(), id.is_multiple_of(2), "{event:?}");
        assert_eq!(event.header().expires_at, event.expires_at());
        let pairs = if id.is_multiple_of(3) { event.metadata_bytes().len() + 1 } else { 0 };
        assert_eq!(event.header().body_len as usize, pairs + event.payload().len(), "the length of {id}");
        id
    };
    let guard = store.pin();
    let all: Vec<u64> = (1..=40).collect();
    let sorted = |mut ids: Vec<u64>| {
        ids.sort_unstable();
        ids
    };
    vec![
        ("get", all.iter().filter_map(|id| guard.get(*id)).map(|event| check(&event)).collect()),
        ("get_batch", guard.get_batch(&all).iter().flatten().map(check).collect()),
        ("history", sorted(guard.history(stream()).map(|event| check(&event)).collect())),
        ("scan", sorted(guard.scan(..).map(|event| check(&event)).collect())),
        ("scan in order", sorted(guard.scan(..).ordered().map(|event| check(&event)).collect())),
        (
            "scan by kind",
            sorted((0..2).flat_map(|kind| guard.scan(..).kind(kind)).map(|e| check(&e)).collect()),
        ),
    ]
}

fn fetched(store: &Store) -> Vec<(&'static str, Vec<u64>)> {
    let sorted = |mut ids: Vec<u64>| {
        ids.sort_unstable();
        ids
    };
    let id = |event: esker::Result<EventRef<'_>>| event.unwrap().id();
    vec![
        ("fetch", (1..=40).filter_map(|id| store.fetch(id).unwrap()).map(|event| event.id()).collect()),
        ("fetch_history", sorted(store.fetch_history(stream()).map(id).collect())),
        ("fetch_scan", sorted(store.fetch_scan(..).map(id).collect())),
    ]
}

fn all_are(what: &str, found: Vec<(&'static str, Vec<u64>)>, expected: &[u64]) {
    for (how, ids) in found {
        assert_eq!(ids, expected, "{how}, {what}");
    }
}

fn odd() -> Vec<u64> {
    (1..=40).filter(|id| id % 2 == 1).collect()
}

#[test]
fn an_expired_event_is_gone_from_every_way_to_read() {
    let (store, clock) = manual(small());
    fill(&store, &clock);
    let all: Vec<u64> = (1..=40).collect();
    clock.set_ms(clock.now_ms() + MINUTE - 1);
    all_are("a millisecond before", ids(&store), &all);
    all_are("a millisecond before", fetched(&store), &all);
    let guard = store.pin();
    clock.set_ms(clock.now_ms() + 1);
    assert_eq!(guard.scan(..).count(), 40, "a guard sees the moment at which it was made");
    drop(guard);
    all_are("hot", ids(&store), &odd());
    all_are("hot", fetched(&store), &odd());
    store.validate().unwrap();
}

#[test]
fn an_event_expires_while_it_is_warm_and_while_it_is_cold() {
    let dir = tempfile::tempdir().unwrap();
    let class = || ClassConfig::new("only").hot_for(Duration::ZERO).warm_for(Duration::from_secs(600));
    let (store, clock) = manual(small().class(class()).data_dir(dir.path()));
    fill(&store, &clock);
    store.maintain().unwrap();
    let events = store.stats().events;
    assert_eq!((events.hot, events.warm), (0, 40), "{events:?}");
    let all: Vec<u64> = (1..=40).collect();
    all_are("warm", ids(&store), &all);
    all_are("warm", fetched(&store), &all);
    // In the cold tier before they expire, with their moments.
    store.flush(Duration::from_secs(10)).unwrap();
    clock.set_ms(clock.now_ms() + MINUTE);
    all_are("warm and expired", ids(&store), &odd());
    all_are("warm and expired", fetched(&store), &odd());
    clock.set_ms(clock.now_ms() + 600_000);
    store.maintain().unwrap();
    let events = store.stats().events;
    assert_eq!((events.hot + events.warm, events.expired, events.released), (0, 20, 20), "{events:?}");
    all_are("cold and expired", fetched(&store), &odd());
    store.close(Duration::from_secs(10)).unwrap();

    // The moments are in the blocks: a store that is opened when they had not come yet shows the events.
    let open = |now_ms: i64| {
        let config = small().class(class()).data_dir(dir.path()).background(false).build().unwrap();
        Store::builder(config).clock(Clock::manual(now_ms)).open().unwrap()
    };
    let store = open(1_000_000 + MINUTE - 1);
    all_are("opened again, just before", fetched(&store), &all);
    drop(store);
    all_are("opened again, just after", fetched(&open(1_000_000 + MINUTE)), &odd());
}

#[test]
fn what_has_expired_is_not_spilled_and_counts_as_expired() {
    let dir = tempfile::tempdir().unwrap();
    let class = ClassConfig::new("only").hot_for(Duration::ZERO).warm_for(Duration::from_secs(600));
    let (store, clock) = manual(small().class(class).data_dir(dir.path()));
    fill(&store, &clock);
    clock.set_ms(clock.now_ms() + 600_000);
    // Once to have the page written, once to let it go.
    store.maintain().unwrap();
    store.maintain().unwrap();
    let stats = store.stats();
    assert_eq!((stats.events.expired, stats.events.released), (20, 20), "{stats:#?}");
    assert_eq!((stats.cold.events, stats.cold.spilled), (20, 20), "{stats:#?}");
    all_are("cold", fetched(&store), &odd());
    store.validate().unwrap();
}

#[test]
fn an_expired_id_can_be_used_again_once_its_page_has_left() {
    let class = ClassConfig::new("only").warm_for(Duration::from_secs(600)).hot_for(Duration::ZERO);
    let (store, clock) = manual(small().class(class.on_leave(esker::OnLeave::Drop)));
    let event = Event::new(stream(), 7, clock.now_ms(), 0);
    assert_eq!(store.append(&event.ttl(Duration::from_secs(1))).unwrap(), Appended::Stored);
    clock.set_ms(clock.now_ms() + 1000);
    assert!(store.pin().get(7).is_none());
    // As with retention: in memory it still holds its id, and removing it finds it.
    assert_eq!(store.append(&event).unwrap(), Appended::Duplicate);
    clock.set_ms(clock.now_ms() + 600_000);
    store.maintain().unwrap();
    assert_eq!(store.append(&event).unwrap(), Appended::Stored);
    assert!(store.pin().get(7).is_some());
    assert_eq!(store.stats().events.expired, 1);
}

#[test]
fn retention_ends_an_event_before_its_own_moment_comes() {
    let (store, clock) = manual(small().class(two_classes()[1].clone()));
    let event = Event::new(stream(), 1, clock.now_ms(), 0).ttl(Duration::from_secs(7200));
    store.append(&event).unwrap();
    assert_eq!(store.pin().get(1).unwrap().expires_at(), Some(clock.now_ms() + 7_200_000));
    clock.set_ms(clock.now_ms() + 3_600_000);
    assert!(store.fetch(1).unwrap().is_none());
}

#[test]
fn the_ends_of_time_are_times_too() {
    let (store, clock) = manual(small());
    let at = |id, timestamp| Event::new(stream(), id, timestamp, 0);
    store.append(&at(1, i64::MAX).ttl(Duration::MAX)).unwrap();
    store.append(&at(2, i64::MIN).ttl(Duration::ZERO)).unwrap();
    store.append(&at(3, 0).expires_at(i64::MAX)).unwrap();
    store.append(&at(4, 0).expires_at(i64::MIN)).unwrap();
    store.append(&at(5, 0).ttl(Duration::MAX)).unwrap();
    let found = |id| store.pin().get(id).is_some();
    assert_eq!([1, 2, 3, 4, 5].map(found), [true, false, true, false, true]);
    assert_eq!(store.pin().get(3).unwrap().expires_at(), None);
    clock.set_ms(i64::MAX);
    assert_eq!([1, 2, 3, 4, 5].map(found), [true, false, true, false, true], "never is never");
}

/// Batches write their events in runs, with one cover of the zone map for all.
#[test]
fn events_of_a_batch_expire_each_at_its_own_moment() {
    let (store, clock) = manual(small());
    let now = clock.now_ms();
    let events: Vec<Event<'_>> = (0..1000u64)
        .map(|id| {
            let event = Event::new(Stream::from((id % 7) as u32), id, now, 0).payload(b"some bytes");
            if id.is_multiple_of(3) { event } else { event.ttl(Duration::from_millis(id + 1)) }
        })
        .collect();
    assert_eq!(store.append_batch(&events).unwrap().stored, 1000);
    for after in [0, 1, 500, 999, 1000] {
        clock.set_ms(now + after);
        let left = |id: &u64| id.is_multiple_of(3) || *id as i64 >= after;
        let expected: Vec<u64> = (0..1000).filter(left).collect();
        let mut found: Vec<u64> = store.pin().scan(..).map(|event| event.id()).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "after {after} ms");
    }
    store.validate().unwrap();
}

/// The limit is for metadata and payload; the moment does not count.
#[test]
fn the_largest_event_may_expire() {
    let (store, clock) = manual(Config::builder().memory("32MiB").partitions(2).max_event("512KiB"));
    let payload = vec![7; 512 << 10];
    let event = Event::new(stream(), 1, clock.now_ms(), 0).payload(&payload).ttl(Duration::from_secs(5));
    assert_eq!(store.append(&event).unwrap(), Appended::Stored);
    assert_eq!(store.pin().get(1).unwrap().payload(), payload);
    store.validate().unwrap();
}

/// A store of two classes whose events are in the cold tier an hour after they came.
fn old_and_new(clock: &Clock, tier: std::sync::Arc<crate::tier::MapTier>, kept: Option<Duration>) -> Store {
    let hour = Duration::from_secs(3600);
    let class = |name: &str| {
        let class = ClassConfig::new(name).hot_for(hour / 2).warm_for(hour);
        kept.map_or(class.clone(), |kept| class.retention(kept))
    };
    let config = small().partitions(1).background(false).class(class("a")).class(class("b")).build().unwrap();
    Store::builder(config).cold(tier).clock(clock.clone()).open().unwrap()
}

/// Lets everything leave memory and two hours pass.
fn leave(store: &Store, clock: &Clock, id: u64) {
    store.flush(Duration::from_secs(60)).unwrap();
    clock.set_ms(clock.now_ms() + 2 * HOUR);
    store.maintain().unwrap();
    assert!(store.pin().get(id).is_none());
}

const HOUR: i64 = 3_600_000;

/// The first event has ceased to exist, and its block is still there.
#[test]
fn an_id_is_used_again_after_its_event_has_expired_in_the_cold_tier() {
    let clock = Clock::manual(1_700_000_000_000);
    let store = old_and_new(&clock, crate::tier::MapTier::new(), None);
    let (a, b) = (store.config().class("a").unwrap(), store.config().class("b").unwrap());
    let at = clock.now_ms();
    let old = Event::new(stream(), 5, at, 1).class(a).payload(b"old").expires_at(at + 3 * HOUR);
    store.append(&old).unwrap();
    leave(&store, &clock, 5);
    clock.set_ms(clock.now_ms() + 2 * HOUR);
    assert!(store.fetch(5).unwrap().is_none());
    let new = Event::new(stream(), 5, clock.now_ms(), 1).class(b).payload(b"new");
    assert_eq!(store.append(&new).unwrap(), Appended::Stored);
    leave(&store, &clock, 5);
    assert_eq!(store.fetch(5).unwrap().unwrap().payload(), b"new");
    assert!(store.remove(5).unwrap(), "the one that exists");
    assert!(store.fetch(5).unwrap().is_none());
    assert!(store.remove(5).unwrap(), "the one that has expired");
    assert!(!store.remove(5).unwrap());
    clock.set_ms(at + HOUR);
    assert!(store.fetch(5).unwrap().is_none(), "although the clock was set back");
}

#[test]
fn an_older_event_of_an_id_is_found_once_the_later_one_has_expired() {
    let clock = Clock::manual(1_700_000_000_000);
    let store = old_and_new(&clock, crate::tier::MapTier::new(), None);
    let class = store.config().class("a").unwrap();
    store.append(&Event::new(stream(), 5, clock.now_ms(), 1).class(class).payload(b"old")).unwrap();
    leave(&store, &clock, 5);
    let at = clock.now_ms();
    let new = Event::new(stream(), 5, at, 1).class(class).payload(b"new").expires_at(at + 3 * HOUR);
    assert_eq!(store.append(&new).unwrap(), Appended::Stored);
    leave(&store, &clock, 5);
    assert_eq!(store.fetch(5).unwrap().unwrap().payload(), b"new");
    clock.set_ms(clock.now_ms() + 2 * HOUR);
    assert_eq!(store.fetch(5).unwrap().unwrap().payload(), b"old", "it exists until it is removed");
}

/// The tier has deleted the block, and its answer was lost.
#[test]
fn a_block_that_was_deleted_without_an_answer_is_not_missing() {
    let clock = Clock::manual(1_700_000_000_000);
    let tier = crate::tier::MapTier::new();
    let store = old_and_new(&clock, tier.clone(), Some(Duration::from_secs(4 * 3600)));
    let at = clock.now_ms();
    store.append(&Event::new(stream(), 5, at, 1).payload(b"old")).unwrap();
    leave(&store, &clock, 5);
    clock.set_ms(at + 5 * HOUR);
    {
        let _healed = crate::tier::Healed(&tier);
        tier.set(crate::tier::Fault::FailAfterwards);
        assert!(store.maintain().is_err());
    }
    assert!(tier.ids().is_empty());
    assert!(store.fetch(5).unwrap().is_none());
    assert!(store.fetch_scan(..).all(|event| event.is_ok()));
    store.append(&Event::new(stream(), 5, clock.now_ms(), 1).payload(b"new")).unwrap();
    leave(&store, &clock, 5);
    assert_eq!(store.fetch(5).unwrap().unwrap().payload(), b"new");
    assert_eq!(store.stats().cold.corrupt_blocks, 0);
}

#[test]
fn a_filter_is_shown_no_event_that_has_expired_or_was_removed() {
    let clock = Clock::manual(1_700_000_000_000);
    let store = old_and_new(&clock, crate::tier::MapTier::new(), None);
    let at = clock.now_ms();
    let fill = |from: u64, lives: i64| {
        for id in from..from + 9 {
            let event = Event::new(stream(), id, at, 1).payload(b"x");
            let event = if id % 3 == 0 { event.expires_at(at + lives) } else { event };
            store.append(&event).unwrap();
        }
    };
    let check = |first: u64, what: &str| {
        let wanted: Vec<u64> = (first..first + 9).filter(|id| id % 3 == 1).collect();
        let mut shown = Vec::new();
        let mut found: Vec<u64> = {
            let guard = store.pin();
            let filter = |header: &esker::EventHeader| header.id >= first && header.id < first + 9;
            guard
                .scan(..)
                .filter_header(|header| {
                    filter(header) && {
                        shown.push(header.id);
                        true
                    }
                })
                .map(|event| event.id())
                .collect()
        };
        let fetched = store.fetch_scan(..).filter_header(|header| {
            (first..first + 9).contains(&header.id) && {
                shown.push(header.id);
                true
            }
        });
        let fetched: Vec<u64> = fetched.map(|event| event.unwrap().id()).collect();
        found.extend(&fetched);
        shown.sort_unstable();
        found.sort_unstable();
        assert_eq!(shown, found, "{what}");
        assert_eq!(fetched.len(), wanted.len(), "{what}");
    };
    // In memory; then some expire or are removed in the cold tier.
    fill(0, HOUR);
    fill(9, 3 * HOUR);
    (0..18).filter(|id| id % 3 == 2).for_each(|id| assert!(store.remove(id).unwrap()));
    clock.set_ms(at + HOUR);
    check(0, "hot");
    leave(&store, &clock, 9);
    clock.set_ms(at + 3 * HOUR);
    check(9, "cold");
}
