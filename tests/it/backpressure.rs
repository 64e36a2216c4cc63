//! Memory is bounded whatever comes: the store waits, refuses or drops, and nothing is lost when it may go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use esker::{Appended, ClassConfig, Error, ErrorKind, Event, OnLeave, Pressure, RegionKind, Store, Stream};

use crate::common::{all_ids, append_proof, manual, now, proof, small, verify, wait_until};
use crate::tier::{Fault, Healed, MapTier};

const MEMORY: u64 = 16 << 20;
/// What a busy machine may add to a wait. It only tells a call that is slow from one that hangs.
const SLACK: Duration = Duration::from_secs(60);
const LEN: usize = 600;

fn event(id: u64) -> Event<'static> {
    Event::new(Stream::from((id % 37) as u32), id, 1_000_000 + id as i64, (id % 3) as u8)
}

fn try_one(store: &Store, id: u64) -> esker::Result<Appended> {
    let event = event(id);
    store.try_append(&event.payload(&proof(event.stream, id, event.timestamp, LEN)))
}

/// Appends from `id` on until the store has refused for `patience`. The first id that was not stored, and the refusal.
fn fill(store: &Store, mut id: u64, patience: Duration) -> (u64, Error) {
    let mut since = now();
    loop {
        match try_one(store, id) {
            Ok(done) => {
                assert_eq!(done, Appended::Stored);
                id += 1;
                since = now();
            }
            Err(error) if since.elapsed() > patience => return (id, error),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::MemoryPressure, "{error}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(id < 1_000_000, "the store never refuses");
        if id.is_multiple_of(512) {
            check_bound(store);
        }
    }
}

fn check_bound(store: &Store) {
    let stats = store.stats();
    assert!(stats.memory_bytes <= MEMORY, "{stats:#?}");
}

/// Everything below `end` is in memory. Its guards are short.
fn check_in_memory(store: &Store, end: u64) {
    let mut guard = store.pin();
    for id in 0..end {
        verify(&guard.get(id).unwrap_or_else(|| panic!("{id} of {end} is lost")));
        if id.is_multiple_of(100) {
            guard.refresh();
        }
    }
}

fn with_tier(tier: &Arc<MapTier>) -> Store {
    Store::builder(small().build().unwrap()).cold(tier.clone()).open().unwrap()
}

fn check_refusal(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::MemoryPressure);
    assert!(error.is_retryable());
    let pressure = error.back_pressure().unwrap();
    assert_eq!(pressure.region, Some(RegionKind::Hot), "{error}");
    assert_eq!(pressure.level, Pressure::Full, "{error}");
    assert!(pressure.used_bytes <= pressure.limit_bytes, "{error}");
    assert!(pressure.used_bytes * 100 >= pressure.limit_bytes * 90, "{error}");
    assert!((Duration::from_millis(1)..Duration::from_secs(5)).contains(&pressure.retry_after), "{error}");
    assert_eq!(error.retry_after(), Some(pressure.retry_after));
}

#[test]
fn a_full_store_without_a_disk_refuses_and_says_why() {
    let store = Store::open(small().append_timeout(Duration::from_millis(150)).build().unwrap()).unwrap();
    let (end, refusal) = fill(&store, 0, Duration::from_millis(300));
    check_refusal(&refusal);
    assert_eq!(store.pressure(), Pressure::Full);
    check_bound(&store);

    let before = store.stats().events;
    let begin = now();
    assert!(store.append(&event(end)).is_err());
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(150) && took < SLACK, "append waited for {took:?}");
    let begin = now();
    assert!(store.append_timeout(&event(end), Duration::from_millis(30)).is_err());
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(30) && took < SLACK, "append_timeout waited for {took:?}");
    let after = store.stats().events;
    assert_eq!((after.waited - before.waited, after.rejected - before.rejected), (2, 2));

    // Nothing that was acknowledged is lost, and nothing that was refused is there.
    check_in_memory(&store, end);
    assert!(store.pin().get(end).is_none());
    assert_eq!(all_ids(&store), (0..end).collect::<Vec<_>>());
    store.validate().unwrap();
}

#[test]
fn a_batch_that_does_not_fit_tells_the_outcome_of_each_event() {
    let (store, _clock) = manual(small().append_timeout(Duration::from_millis(50)));
    let mut first = 0;
    loop {
        let events: Vec<Event<'static>> = (first..first + 3000).map(event).collect();
        let payloads: Vec<Vec<u8>> =
            events.iter().map(|event| proof(event.stream, event.id, event.timestamp, LEN)).collect();
        let mut batch: Vec<Event<'_>> =
            events.iter().zip(&payloads).map(|(event, payload)| event.payload(payload)).collect();
        let huge = vec![0; (store.config().max_event + 1) as usize];
        batch[1] = batch[1].payload(&huge);
        batch[3] = batch[2];
        let outcome = store.append_batch(&batch).unwrap();
        assert_eq!(outcome.stored + outcome.duplicates + outcome.refused.len(), batch.len());
        assert_eq!(outcome.outcome(1).unwrap_err().kind(), ErrorKind::TooLarge);
        let full = outcome.refused.len() > 1;
        if !full {
            assert_eq!(outcome.outcome(3).unwrap(), Appended::Duplicate);
        }
        let mut guard = store.pin();
        for (at, event) in batch.iter().enumerate() {
            guard.refresh();
            match outcome.outcome(at) {
                Ok(_) => verify(&guard.get(event.id).unwrap()),
                Err(error) => {
                    assert!(at == 1 || error.kind() == ErrorKind::MemoryPressure, "{at}: {error}");
                    assert!(at == 1 || error.back_pressure().is_some());
                    // The duplicate of a stored event is refused, too, when there is no room; the event is there.
                    assert!(at == 3 || guard.get(event.id).is_none(), "{at} was refused and is there");
                }
            }
        }
        if full {
            assert!(outcome.stored > 0 || first > 0);
            assert!(outcome.all_accepted().is_err());
            break;
        }
        first += 3000;
    }
    check_bound(&store);
    store.validate().unwrap();
}

#[test]
fn a_class_that_may_drop_goes_on_for_ever_and_counts() {
    let class = ClassConfig::new("for the moment").on_leave(OnLeave::Drop);
    let (store, clock) = manual(small().class(class));
    let count = 36_000u64;
    for id in 0..count {
        // The oldest are dropped in the order of their arrival.
        clock.set_ms(1_000_000 + id as i64);
        assert_eq!(append_proof(&store, event(id), LEN), Appended::Stored);
        if id.is_multiple_of(4096) {
            check_bound(&store);
        }
    }
    store.validate().unwrap();
    let events = store.stats().events;
    assert_eq!(events.rejected, 0);
    assert!(events.dropped > 0, "{events:?}");
    assert_eq!(events.dropped + events.hot + events.warm, count, "{events:?}");
    // The newest are there, and of each stream those behind its oldest one.
    let guard = store.pin();
    verify(&guard.get(count - 1).unwrap());
    for stream in 0..37u32 {
        let ids: Vec<u64> = guard.history(Stream::from(stream)).map(|event| event.id()).collect();
        let whole = ids.windows(2).all(|pair| pair[0] == pair[1] + 37);
        assert!(whole && ids.len() > 10, "stream {stream}: {ids:?} of {events:?}");
    }
}

#[test]
fn a_tier_that_fails_has_appends_refused_and_nothing_lost() {
    let tier = MapTier::new();
    let store = with_tier(&tier);
    tier.set(Fault::Fail);
    let (end, refusal) = fill(&store, 0, Duration::from_millis(300));
    check_refusal(&refusal);
    check_bound(&store);
    let cold = store.stats().cold;
    assert!(cold.spill_failures > 0 && cold.events == 0, "{cold:#?}");
    assert!(cold.last_error.unwrap().contains("told to fail"));
    assert!(store.flush(Duration::from_millis(100)).is_err());
    assert_eq!(all_ids(&store), (0..end).collect::<Vec<_>>());

    tier.set(Fault::None);
    // The pauses between tries double from 50 ms to 5 s, and the outage was well under a second.
    let took = wait_until("recovery", SLACK, || try_one(&store, end).is_ok());
    println!("room again after {took:?}");
    for id in end + 1..end + 5_000 {
        append_proof(&store, event(id), LEN);
    }
    check_bound(&store);
    assert_eq!(all_ids(&store), (0..end + 5_000).collect::<Vec<_>>());
    store.validate().unwrap();
    let report = store.close(SLACK).unwrap();
    assert_eq!((report.left, report.cold), (0, end + 5_000));
}

#[test]
fn a_tier_that_answers_late_gets_no_event_twice() {
    let tier = MapTier::new();
    let store = with_tier(&tier);
    tier.set(Fault::FailAfterwards);
    let (end, _) = fill(&store, 0, Duration::from_millis(200));
    assert!(!tier.ids().is_empty(), "the tier has blocks that it did not confirm");
    assert_eq!(all_ids(&store), (0..end).collect::<Vec<_>>());
    tier.set(Fault::None);
    for id in end..end + 2_000 {
        append_proof(&store, event(id), LEN);
    }
    assert_eq!(all_ids(&store), (0..end + 2_000).collect::<Vec<_>>());
    store.validate().unwrap();
    let report = store.close(SLACK).unwrap();
    assert_eq!((report.left, report.cold), (0, end + 2_000));
    drop(store);
    let store = with_tier(&tier);
    assert_eq!(all_ids(&store), (0..end + 2_000).collect::<Vec<_>>());
}

/// A store that crashes after the tier had taken blocks without confirming them finds them, and writes on behind them.
#[test]
fn blocks_that_were_never_confirmed_are_found_after_a_crash() {
    let tier = MapTier::new();
    let store = with_tier(&tier);
    tier.set(Fault::FailAfterwards);
    let (end, _) = fill(&store, 0, Duration::from_millis(200));
    store.abandon();
    tier.set(Fault::None);
    let store = with_tier(&tier);
    let found = all_ids(&store);
    assert!(!found.is_empty() && found.last() < Some(&end));
    for id in 0..end {
        if found.binary_search(&id).is_err() {
            append_proof(&store, event(id), LEN);
        }
    }
    store.flush(SLACK).unwrap();
    assert_eq!(all_ids(&store), (0..end).collect::<Vec<_>>());
    store.validate().unwrap();
}

#[test]
fn a_tier_that_hangs_hangs_nobody_else() {
    let tier = MapTier::new();
    let store = with_tier(&tier);
    let _healed = Healed(&tier);
    tier.set(Fault::Block);
    // So long that a mover that shares its processor with other tests has squeezed all that can be squeezed.
    let (end, refusal) = fill(&store, 0, Duration::from_millis(1_500));
    check_refusal(&refusal);
    assert!(tier.blocked.load(Ordering::SeqCst) > 0, "the spiller waits for the tier");
    let begin = now();
    for id in end..end + 50 {
        assert!(try_one(&store, id).is_err());
    }
    assert!(store.append_timeout(&event(end), Duration::from_millis(100)).is_err());
    for id in [0, end / 2, end - 1] {
        verify(&store.fetch(id).unwrap().unwrap());
        verify(&store.pin().get(id).unwrap());
    }
    let took = begin.elapsed();
    assert!(took < SLACK, "memory was not free to use for {took:?}");
    check_in_memory(&store, end);
    check_bound(&store);

    tier.set(Fault::None);
    let took = wait_until("recovery", SLACK, || try_one(&store, end).is_ok());
    println!("room again after {took:?}");
    assert_eq!(all_ids(&store), (0..=end).collect::<Vec<_>>());
    store.validate().unwrap();
}

#[test]
fn a_tier_that_hangs_does_not_hold_a_close_beyond_its_deadline() {
    let tier = MapTier::new();
    let store = with_tier(&tier);
    let _healed = Healed(&tier);
    tier.set(Fault::Block);
    let (end, _) = fill(&store, 0, Duration::from_millis(100));
    assert!(tier.blocked.load(Ordering::SeqCst) > 0, "the spiller waits for the tier");
    let begin = now();
    let report = store.close(Duration::from_millis(300)).unwrap();
    let took = begin.elapsed();
    assert!(took < SLACK, "closing took {took:?}");
    assert!(report.left > 0 && report.left <= end, "{report:?} of {end}");
    assert_eq!(store.close(Duration::ZERO).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_slow_tier_slows_writers_and_loses_nothing() {
    const EACH: u64 = 12_000;
    let tier = MapTier::new();
    let store = with_tier(&tier);
    tier.set(Fault::Slow(15));
    let (refused, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                check_bound(&store);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let writers: Vec<_> = (0..2u64)
            .map(|writer| {
                let (store, refused) = (&store, &refused);
                scope.spawn(move || {
                    for id in writer * EACH..(writer + 1) * EACH {
                        while try_one(store, id).is_err() {
                            refused.fetch_add(1, Ordering::Relaxed);
                            std::thread::sleep(Duration::from_millis(2));
                        }
                    }
                })
            })
            .collect();
        let ends: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        ends.into_iter().for_each(|end| end.unwrap());
    });
    println!("refused {} times", refused.load(Ordering::Relaxed));
    assert_eq!(all_ids(&store), (0..2 * EACH).collect::<Vec<_>>());
    let events = store.stats().events;
    assert_eq!(events.rejected, refused.load(Ordering::Relaxed));
    assert!(events.released > 0, "{events:?}");
    store.validate().unwrap();
}

#[test]
fn a_held_guard_does_not_break_the_bound() {
    let tier = MapTier::new();
    let store = with_tier(&tier);
    append_proof(&store, event(0), LEN);
    // A scan that has begun holds everything; what a guard was given of it alone would not.
    let guard = store.pin();
    let mut scan = guard.scan(..);
    let held = scan.next().unwrap();
    let (end, refusal) = fill(&store, 1, Duration::from_millis(500));
    assert_eq!(refusal.kind(), ErrorKind::MemoryPressure);
    check_bound(&store);
    // What the guard gave is still what it was, although its page has moved on.
    verify(&held);
    drop((held, scan));
    drop(guard);
    let took = wait_until("recovery", SLACK, || try_one(&store, end).is_ok());
    println!("{end} events under the guard, room again after {took:?}");
    for id in end + 1..end + 20_000 {
        append_proof(&store, event(id), LEN);
    }
    check_bound(&store);
    assert_eq!(all_ids(&store), (0..end + 20_000).collect::<Vec<_>>());
    store.validate().unwrap();
}

/// Pages that are let go under a scan cannot be used again before it ends: letting more go makes no room.
#[test]
fn a_held_guard_does_not_have_everything_dropped() {
    let class = ClassConfig::new("for the moment").on_leave(OnLeave::Drop);
    let (store, _clock) = manual(small().class(class));
    let mut id = 0;
    while store.stats().events.dropped == 0 {
        append_proof(&store, event(id), LEN);
        id += 1;
    }
    let before = store.stats().events;
    // A scan that has begun holds everything.
    let guard = store.pin();
    let mut scan = guard.scan(..);
    scan.next().unwrap();
    let refusal = loop {
        match store.append_timeout(&event(id), Duration::from_millis(50)) {
            Ok(_) => id += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refusal.kind(), ErrorKind::MemoryPressure);
    for _ in 0..10 {
        store.maintain().unwrap();
    }
    check_bound(&store);
    let after = store.stats().events;
    println!("before {before:?}\nafter {after:?}");
    assert!(after.hot + after.warm > (before.hot + before.warm) / 2, "{before:?}\n{after:?}");
    drop(scan);
    drop(guard);
    append_proof(&store, event(id), LEN);
    let healed = store.stats().events;
    assert!(healed.hot + healed.warm > (before.hot + before.warm) / 2, "{before:?}\n{healed:?}");
    store.validate().unwrap();
}

#[test]
fn closing_keeps_its_deadline_when_the_tier_fails() {
    let tier = MapTier::new();
    let store = with_tier(&tier);
    // The store's threads write old events at once, so the tier fails from the beginning.
    tier.set(Fault::Fail);
    (0..500).for_each(|id| assert_eq!(try_one(&store, id).unwrap(), Appended::Stored));
    let begin = now();
    let report = store.close(Duration::from_millis(300)).unwrap();
    assert!(begin.elapsed() < SLACK, "closing took {:?}", begin.elapsed());
    assert_eq!((report.left, report.cold, report.spilled), (500, 0, 0), "{report:?}");
    assert_eq!(store.close(Duration::ZERO).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(try_one(&store, 1000).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(store.append_batch(&[event(1000)]).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(store.fetch(0).unwrap_err().kind(), ErrorKind::Closed);
    // Memory is there for whoever holds it.
    verify(&store.pin().get(499).unwrap());
}

#[test]
fn a_writer_that_waits_is_told_of_the_close() {
    let tier = MapTier::new();
    let store = with_tier(&tier);
    tier.set(Fault::Fail);
    let (end, _) = fill(&store, 0, Duration::from_millis(200));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            // The mover may have made a little room yet.
            let limit = Duration::from_secs(600);
            (end..).find_map(|id| store.append_timeout(&event(id), limit).err()).unwrap()
        });
        wait_until("the writer to wait", SLACK, || store.stats().events.waited > 0);
        let begin = now();
        store.close(Duration::from_millis(100)).unwrap();
        assert_eq!(waiting.join().unwrap().kind(), ErrorKind::Closed);
        assert!(begin.elapsed() < SLACK, "{:?}", begin.elapsed());
    });
}
