//! Cases that random operations found, or that they meet too seldom, each as short as it can be.

use std::sync::Arc;
use std::time::Duration;

use esker::{Appended, ClassConfig, Clock, ColdTier, Config, Event, Store, Stream};

use crate::faults::{Faults, Trouble};
use crate::tier::MapTier;

const SECOND: i64 = 1000;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A store of one lane on a map, without threads, whose clock shows 0.
fn store(class: ClassConfig) -> (Store, Clock, Arc<MapTier>) {
    let (tier, clock) = (Arc::new(MapTier::default()), Clock::manual(0));
    let config = Config::builder().memory("8MiB").partitions(1).class(class).background(false);
    let builder = Store::builder(config.build().unwrap()).clock(clock.clone()).cold(tier.clone());
    (builder.open().unwrap(), clock, tier)
}

fn let_all_leave(store: &Store, clock: &Clock, age: i64) {
    store.flush(seconds(10)).unwrap();
    clock.set_ms(clock.now_ms() + age);
    store.maintain().unwrap();
    let events = store.stats().events;
    assert_eq!((events.hot, events.warm), (0, 0), "everything was to leave: {events:?}");
}

/// Random runs seldom stop within a page that holds more of the stream and leaves before the walk goes on.
#[test]
fn a_history_goes_on_in_the_block_that_took_the_page_it_was_on() {
    let class = || ClassConfig::new("only").hot_for(seconds(10)).warm_for(seconds(20));
    for taken in [1, 63, 64, 65, 130] {
        let (store, clock, _) = store(class());
        let stream = Stream::from(3u32);
        for id in 0..300 {
            assert_eq!(store.append(&Event::new(stream, id, 0, 0)).unwrap(), Appended::Stored);
        }
        let mut walk = store.fetch_history(stream);
        let mut ids: Vec<u64> = walk.by_ref().take(taken).map(|event| event.unwrap().id()).collect();
        let_all_leave(&store, &clock, 20 * SECOND);
        ids.extend(walk.map(|event| event.unwrap().id()));
        assert_eq!(ids, (0..300).rev().collect::<Vec<_>>(), "after {taken} events");
    }
}

/// Found by random runs in which single calls of the tier fail: it had deleted expired blocks but not
/// what was noted of events removed from them. The store then took the blocks for still there, and every read that
/// came by them reported damage.
#[test]
fn expired_blocks_are_forgotten_although_their_tombstones_cannot_be() {
    let class = ClassConfig::new("only").hot_for(seconds(5)).warm_for(seconds(10)).retention(seconds(90));
    let (store, clock, tier) = store(class);
    let event = |id, at| Event::new(Stream::from(3u32), id, at, 0);
    store.append_batch(&[event(1, 0), event(2, 0)]).unwrap();
    let_all_leave(&store, &clock, 60 * SECOND);
    assert!(store.remove(1).unwrap());
    store.append(&event(3, 60 * SECOND)).unwrap();
    let_all_leave(&store, &clock, 20 * SECOND);
    tier.keep_tombstones(true);
    clock.set_ms(91 * SECOND);
    store.maintain().unwrap();
    assert_eq!(store.stats().cold.expired_blocks, 1);
    let found: Vec<u64> = store.fetch_scan(..).map(|event| event.unwrap().id()).collect();
    assert_eq!(found, [3]);
    assert!(store.fetch(2).unwrap().is_none());
    store.validate().unwrap();
}

/// Seed 425 of 2500 steps without threads: a scan that had begun before an event's retention ended met its block in
/// the cache after the block and the event's tombstone were deleted, and gave the removed event.
#[test]
fn a_removed_event_stays_removed_for_a_scan_that_outlives_its_block() {
    let class = ClassConfig::new("only").hot_for(seconds(5)).warm_for(seconds(10)).retention(seconds(90));
    let (store, clock, _) = store(class);
    let event = |id, at| Event::new(Stream::from(3u32), id, at, 0);
    // Of two blocks the second is not deleted, so that the tombstone is known to be of no more use.
    store.append_batch(&[event(1, 0), event(2, 0)]).unwrap();
    let_all_leave(&store, &clock, 50 * SECOND);
    store.append(&event(3, 50 * SECOND)).unwrap();
    let_all_leave(&store, &clock, 10 * SECOND);
    assert!(store.remove(1).unwrap());
    let mut scan = store.fetch_scan(..).ordered();
    // Begins the scan, and has the first block in the cache.
    assert_eq!(scan.next().unwrap().unwrap().id(), 2);
    let mut later = store.fetch_scan(..);
    assert!(later.next().is_some());
    let mut walk = store.fetch_history(Stream::from(3u32));
    assert_eq!(walk.next().unwrap().unwrap().id(), 3);
    clock.set_ms(91 * SECOND);
    store.maintain().unwrap();
    assert_eq!(store.stats().cold.expired_blocks, 1);
    for event in scan.chain(later).chain(walk) {
        assert_ne!(event.unwrap().id(), 1);
    }
}

fn blocks_of(tier: &MapTier) -> usize {
    let mut count = 0;
    tier.list(&mut |_, _| {
        count += 1;
        Ok(())
    })
    .unwrap();
    count
}

/// A store of one lane on a map that has taken a block with two events and said that it failed. They expire after a minute.
fn taken_in_silence(retention: Option<Duration>) -> (Store, Clock, Arc<MapTier>, Arc<Faults>) {
    let faults = Arc::new(Faults::new(1));
    let (tier, clock) = (Arc::new(MapTier::new(faults.clone())), Clock::manual(0));
    let store = on(&tier, &clock, retention);
    let event = |id| Event::new(Stream::from(3u32), id, 0, 0).ttl(seconds(60));
    store.append_batch(&[event(1), event(2)]).unwrap();
    clock.set_ms(15 * SECOND);
    faults.set(Trouble::Failing(100));
    // Some of these calls do what they are asked to before they fail.
    (0..30).for_each(|_| drop(store.maintain()));
    faults.set(Trouble::None);
    assert_eq!((blocks_of(&tier), store.stats().cold.blocks), (1, 0));
    (store, clock, tier, faults)
}

fn on(tier: &Arc<MapTier>, clock: &Clock, retention: Option<Duration>) -> Store {
    let class = ClassConfig::new("only").hot_for(seconds(5)).warm_for(seconds(10)).retention(retention);
    let config = Config::builder().memory("8MiB").partitions(1).class(class).background(false);
    let builder = Store::builder(config.build().unwrap()).clock(clock.clone());
    builder.cold(tier.clone()).open().unwrap()
}

/// The next opening finds no event, although the clock is set back to when they had not expired.
fn nothing_returns(store: Store, tier: &Arc<MapTier>, clock: &Clock, retention: Option<Duration>) {
    store.abandon();
    clock.set_ms(20 * SECOND);
    assert_eq!(on(tier, clock, retention).fetch_scan(..).count(), 0);
}

/// Seeds 971 without threads and 100 with: nobody put such a block again once its pages had left, and nobody deleted it. The next
/// opening found it, and where the clock had been set back its events were there again, although `remove` had said that there was
/// none of that id.
#[test]
fn a_block_that_was_taken_in_silence_goes_when_its_pages_have_expired() {
    let retention = Some(seconds(90));
    for closes in [false, true] {
        let (store, clock, tier, faults) = taken_in_silence(retention);
        faults.set(Trouble::Failing(100));
        clock.set_ms(91 * SECOND);
        // It is tried in vain, or so it seems.
        drop(store.maintain());
        assert_eq!(store.stats().events.expired, 2);
        assert!(store.remove(1).is_ok_and(|removed| !removed));
        faults.set(Trouble::None);
        if closes {
            store.close(seconds(10)).unwrap();
        } else {
            store.maintain().unwrap();
        }
        assert_eq!(blocks_of(&tier), 0);
        nothing_returns(store, &tier, &clock, retention);
    }
}

/// The same where pages are still there, but all their events have expired.
#[test]
fn a_block_that_was_taken_in_silence_is_replaced_when_its_events_have_expired() {
    let (store, clock, tier, _) = taken_in_silence(None);
    clock.set_ms(61 * SECOND);
    store.maintain().unwrap();
    let events = store.stats().events;
    assert_eq!((events.hot, events.warm), (0, 0), "all is older than ten seconds");
    nothing_returns(store, &tier, &clock, None);
}

/// A removed id may come again, in another lane, and be removed again: neither event returns, not after reopening
/// either. One tombstone for each id was not enough for that.
#[test]
fn an_id_that_was_removed_from_two_lanes_stays_removed() {
    let (tier, clock) = (Arc::new(MapTier::default()), Clock::manual(0));
    let open = || {
        let class = |name| ClassConfig::new(name).hot_for(seconds(10)).warm_for(seconds(20));
        let config = Config::builder().memory("8MiB").partitions(1).class(class("a")).class(class("b"));
        let config = config.background(false).build().unwrap();
        Store::builder(config).clock(clock.clone()).cold(tier.clone()).open().unwrap()
    };
    let store = open();
    for class in ["a", "b"] {
        let event = Event::new(Stream::from(3u32), 7, clock.now_ms(), 0).class(store.class(class).unwrap());
        assert_eq!(store.append(&event).unwrap(), Appended::Stored);
        let_all_leave(&store, &clock, 20 * SECOND);
        assert!(store.fetch(7).unwrap().is_some());
        assert!(store.remove(7).unwrap());
        assert!(store.fetch(7).unwrap().is_none(), "in class {class}");
        assert!(!store.remove(7).unwrap());
    }
    store.close(seconds(10)).unwrap();
    drop(store);
    let store = open();
    assert!(store.fetch(7).unwrap().is_none());
    assert_eq!(store.fetch_scan(..).count(), 0);
}

/// An id that has left memory may come again. The later event is the one that its id finds, in every tier.
#[test]
fn an_id_that_has_left_memory_can_come_again() {
    let (store, clock, _) = store(ClassConfig::new("only").hot_for(seconds(10)).warm_for(seconds(20)));
    for payload in [b"first", b"later"] {
        let event = Event::new(Stream::from(3u32), 7, clock.now_ms(), 0).payload(payload);
        assert_eq!(store.append(&event).unwrap(), Appended::Stored);
        assert_eq!(store.append(&event).unwrap(), Appended::Duplicate);
        assert_eq!(store.fetch(7).unwrap().unwrap().payload(), payload);
        let_all_leave(&store, &clock, 20 * SECOND);
        assert!(store.pin().get(7).is_none());
        assert_eq!(store.fetch(7).unwrap().unwrap().payload(), payload);
    }
    assert_eq!(store.fetch_history(Stream::from(3u32)).count(), 2);
    store.validate().unwrap();
}
