//! What becomes of events for which there is no room: as the class says, counted, and never silently.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esker::{
    Appended, BackPressure, Class, ClassConfig, Config, ConfigBuilder, Error, ErrorKind, Event, OnFull,
    Pressure, PressureReason, Stall, Store, Stream, Verdict,
};

use crate::common::{fill, now, proof, small, verify};
use crate::tier::{Fault, MapTier};

const LEN: usize = 600;

fn event(id: u64, class: usize) -> Event<'static> {
    let stream = Stream::from((id % 37) as u32);
    Event::new(stream, id, 1_000_000 + id as i64, (id % 3) as u8).class(class_of(class))
}

/// The store's class of that number.
fn class_of(number: usize) -> Class {
    let names = ["first", "second"];
    let config = Config::builder().class(ClassConfig::new(names[0])).class(ClassConfig::new(names[1]));
    config.build().unwrap().class(names[number]).unwrap()
}

fn try_one(store: &Store, id: u64, class: usize) -> esker::Result<Appended> {
    let event = event(id, class);
    store.try_append(&event.payload(&proof(event.stream, id, event.timestamp, LEN)))
}

fn classes(first: ClassConfig, second: ClassConfig) -> ConfigBuilder {
    small().append_timeout(Duration::from_millis(20)).class(first).class(second)
}

#[test]
fn a_class_that_rejects_does_not_wait_and_another_does() {
    let config = classes(ClassConfig::new("first").on_full(OnFull::Reject), ClassConfig::new("second"));
    let store = Store::open(config.build().unwrap()).unwrap();
    let id = fill(0, |id| try_one(&store, id, 1));
    let before = store.stats().admission;
    let begin = now();
    let error = store.append_timeout(&event(id, 0), Duration::from_secs(30)).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(10), "it waited");
    let pressure = error.back_pressure().unwrap();
    assert_eq!((pressure.reason, pressure.class), (PressureReason::HotFull, Some(class_of(0))));
    assert_eq!(pressure.level, Pressure::Full);
    assert_eq!(pressure.stall, Some(Stall::NoColdTier), "{error}");
    assert!(error.to_string().contains("no cold tier"), "{error}");

    let begin = now();
    assert!(store.append_timeout(&event(id, 1), Duration::from_millis(60)).is_err());
    assert!(begin.elapsed() >= Duration::from_millis(60), "it did not wait");
    let after = store.stats().admission;
    let hot = |what: fn(&esker::AdmissionStats) -> esker::ByReason, class: usize| {
        what(&after[class]).of(PressureReason::HotFull) - what(&before[class]).of(PressureReason::HotFull)
    };
    assert_eq!((hot(|class| class.waited, 0), hot(|class| class.rejected, 0)), (0, 1));
    assert_eq!((hot(|class| class.waited, 1), hot(|class| class.rejected, 1)), (1, 1));
    assert_eq!(after[0].rejected.total(), 1, "nothing is counted by another reason");
    assert_eq!(store.stats().events.rejected, after[0].rejected.total() + after[1].rejected.total());
    assert_eq!(store.stats().stall, Some(Stall::NoColdTier));
}

#[test]
fn in_a_batch_each_class_has_its_own_way() {
    let config = classes(
        ClassConfig::new("first").on_full(OnFull::Reject),
        ClassConfig::new("second").on_full(OnFull::Ask),
    );
    let store = Store::builder(config.build().unwrap())
        .on_full(
            |event: &Event<'_>, _: &BackPressure, _: u32| {
                if event.id.is_multiple_of(2) { Verdict::Drop } else { Verdict::DeadLetter }
            },
        )
        .dead_letters(|_: &Event<'_>, why: &Error| {
            assert_eq!(why.kind(), ErrorKind::MemoryPressure);
            Ok(())
        })
        .open()
        .unwrap();
    let mut id = 0;
    while store.pressure() < Pressure::Full || store.stats().admission[1].dropped.total() < 50 {
        try_one(&store, id, 1).unwrap();
        id += 1;
        assert!(id < 1_000_000);
    }
    let before = store.stats();
    let events: Vec<Event<'static>> = (id..id + 600).map(|id| event(id, (id % 3 == 0).into())).collect();
    let payloads: Vec<Vec<u8>> =
        events.iter().map(|event| proof(event.stream, event.id, event.timestamp, LEN)).collect();
    let events: Vec<Event<'_>> =
        events.iter().zip(&payloads).map(|(event, payload)| event.payload(payload)).collect();
    let batch = store.append_batch(&events).unwrap();
    assert!(batch.refused.is_sorted_by_key(|(at, _)| *at) && batch.set_aside.is_sorted_by_key(|(at, _)| *at));
    assert_eq!(batch.stored + batch.refused.len() + batch.set_aside.len(), 600);
    assert!(!batch.refused.is_empty() && !batch.set_aside.is_empty(), "{batch:?}");
    let guard = store.pin();
    for (at, event) in events.iter().enumerate() {
        let (asks, even) = (event.class == Some(class_of(1)), event.id.is_multiple_of(2));
        match batch.outcome(at) {
            Ok(Appended::Stored) => verify(&guard.get(event.id).unwrap()),
            Ok(Appended::Dropped) => assert!(asks && even, "{event:?}"),
            Ok(Appended::DeadLettered) => assert!(asks && !even, "{event:?}"),
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(!asks && error.back_pressure().is_some(), "{error}"),
        }
        assert!(matches!(batch.outcome(at), Ok(Appended::Stored)) || guard.get(event.id).is_none());
    }
    let after = store.stats();
    let more = |of: fn(&esker::AdmissionStats) -> esker::ByReason, class: usize| {
        (of(&after.admission[class]).total() - of(&before.admission[class]).total()) as usize
    };
    assert_eq!(more(|class| class.rejected, 0), batch.refused.len());
    assert_eq!(more(|class| class.dropped, 1) + more(|class| class.dead_lettered, 1), batch.set_aside.len());
    assert_eq!(more(|class| class.rejected, 1) + more(|class| class.dropped, 0), 0);
    store.validate().unwrap();
}

#[test]
fn the_handler_sees_the_event_and_may_have_it_tried_again() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (noted, healed) = (seen.clone(), Arc::new(AtomicBool::new(false)));
    let config = classes(ClassConfig::new("first"), ClassConfig::new("second").on_full(OnFull::Ask));
    let opened: Arc<Mutex<Option<Store>>> = Arc::default();
    let (inner, heals) = (opened.clone(), healed.clone());
    let store = Store::builder(config.build().unwrap())
        .on_full(move |event: &Event<'_>, pressure: &BackPressure, tries: u32| {
            if !heals.load(Ordering::SeqCst) {
                return Verdict::Refuse;
            }
            let word = u64::from_le_bytes(event.payload[8..16].try_into().unwrap());
            noted.lock().unwrap().push((event.id, word, pressure.reason, tries));
            if tries == 3 {
                // No lock is held: the handler may use the store.
                let store = inner.lock().unwrap().take().unwrap();
                for id in 0..4_000 {
                    store.remove(id).unwrap();
                }
                return Verdict::Drop;
            }
            Verdict::Retry(Duration::from_millis(5))
        })
        .open()
        .unwrap();
    let id = fill(0, |id| try_one(&store, id, 1));
    *opened.lock().unwrap() = Some(store.clone());
    healed.store(true, Ordering::SeqCst);
    assert_eq!(try_one(&store, id, 1).unwrap(), Appended::Dropped);
    let full = PressureReason::HotFull;
    let expected: Vec<_> = (0..4).map(|tries| (id, id, full, tries)).collect();
    assert_eq!(*seen.lock().unwrap(), expected);
    assert_eq!(store.stats().admission[1].dropped.of(full), 1);
    store.validate().unwrap();
}

#[test]
fn a_handler_that_panics_is_an_error_and_poisons_nothing() {
    let config = classes(
        ClassConfig::new("first").on_full(OnFull::DeadLetter),
        ClassConfig::new("second").on_full(OnFull::Ask),
    );
    let panics = Arc::new(AtomicBool::new(false));
    let (handler, sink) = (panics.clone(), panics.clone());
    let store = Store::builder(config.build().unwrap())
        .on_full(move |_: &Event<'_>, _: &BackPressure, _: u32| {
            assert!(!handler.load(Ordering::SeqCst), "the handler is broken");
            Verdict::Refuse
        })
        .dead_letters(move |_: &Event<'_>, why: &Error| {
            assert!(!sink.load(Ordering::SeqCst), "the sink is broken");
            Err(Error::cold("the sink is full", std::io::Error::other(why.to_string())))
        })
        .open()
        .unwrap();
    let id = fill(0, |id| try_one(&store, id, 1));
    assert_eq!(try_one(&store, id, 0).unwrap_err().kind(), ErrorKind::Cold, "the sink's own error");
    panics.store(true, Ordering::SeqCst);
    let error = try_one(&store, id, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(error.to_string().contains("the handler is broken"), "{error}");
    let error = try_one(&store, id, 0).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Panicked && error.to_string().contains("the sink is broken"),
        "{error}"
    );
    let batch = store.append_batch(&[event(id, 0), event(id + 1, 1)]).unwrap();
    assert!(batch.refused.iter().all(|(_, error)| error.kind() == ErrorKind::Panicked), "{batch:?}");
    panics.store(false, Ordering::SeqCst);
    assert_eq!(try_one(&store, id, 1).unwrap_err().kind(), ErrorKind::MemoryPressure);
    let admission = store.stats().admission;
    assert_eq!((admission[0].dead_lettered.total(), admission[1].dropped.total()), (0, 0));
    assert_eq!(admission[0].rejected.total(), 3);
    for id in 0..id {
        assert!(store.pin().get(id).is_some(), "{id} is lost");
    }
    store.validate().unwrap();
}

#[test]
fn what_a_class_asks_for_must_be_there_when_the_store_opens() {
    for what in [OnFull::Ask, OnFull::DeadLetter] {
        let error = Store::open(small().on_full(what).build().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("StoreBuilder"), "{error}");
    }
}

/// Writers of batches that come without end leave room for a writer of single events.
#[test]
fn a_single_append_is_not_starved_by_batches() {
    const SINGLES: u64 = 300;
    let class = || ClassConfig::new("first").on_leave(esker::OnLeave::Drop);
    let config = small().class(class()).append_timeout(Duration::from_secs(20));
    let store = Store::open(config.build().unwrap()).unwrap();
    let (done, stored) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for writer in 1..3u64 {
            let (store, done, stored) = (&store, &done, &stored);
            scope.spawn(move || {
                let payload = vec![7; LEN];
                let mut id = writer << 40;
                while !done.load(Ordering::Relaxed) {
                    let stream = |id: u64| Stream::from((id % 97) as u32);
                    let batch: Vec<Event<'_>> = (id..id + 2_000)
                        .map(|id| Event::new(stream(id), id, 1_000_000, 0).payload(&payload))
                        .collect();
                    id += 2_000;
                    stored.fetch_add(store.append_batch(&batch).unwrap().stored as u32, Ordering::Relaxed);
                }
            });
        }
        let full = || store.stats().admission[0].waited.total() > 20;
        let begin = now();
        while !full() {
            assert!(begin.elapsed() < Duration::from_secs(120), "the batches never wait");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Each of them finds room in time although the batches take all they can get.
        let outcomes: Vec<_> = (0..SINGLES)
            .map(|id| {
                let event = Event::new(Stream::from(5u32), id, 1_000_000, 0);
                store.append(&event.payload(&[1; LEN])).map(|_| ())
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        let refused = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        println!("{} events of batches beside {SINGLES} single ones", stored.load(Ordering::Relaxed));
        assert_eq!(refused, 0, "{:?}", outcomes.iter().find(|outcome| outcome.is_err()));
    });
    store.validate().unwrap();
}

#[test]
fn a_class_that_has_used_up_its_quota_does_not_stall_another() {
    let tier = MapTier::new();
    let quota = 2 << 20;
    let config = classes(ClassConfig::new("noisy").quota(quota), ClassConfig::new("quiet"));
    let store = Store::builder(config.build().unwrap()).cold(tier.clone()).open().unwrap();
    tier.set(Fault::Fail);
    let id = fill(0, |id| try_one(&store, id, 0));
    let error = try_one(&store, id, 0).unwrap_err();
    let pressure = error.back_pressure().unwrap();
    assert_eq!((pressure.reason, pressure.class), (PressureReason::ClassQuota, Some(class_of(0))), "{error}");
    assert!(pressure.used_bytes >= pressure.limit_bytes && pressure.limit_bytes > quota, "{pressure:?}");
    // The other class has the rest of the store, and the noisy one goes on once the tier takes its events.
    for next in id..id + 500 {
        assert_eq!(try_one(&store, next, 1).unwrap(), Appended::Stored);
    }
    assert!(store.stats().admission[0].rejected.of(PressureReason::ClassQuota) > 0);
    assert_eq!(store.stats().admission[1].rejected.total(), 0);
    tier.set(Fault::None);
    store.append_timeout(&event(id + 500, 0), Duration::from_secs(60)).unwrap();
    store.validate().unwrap();
}
