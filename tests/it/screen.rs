//! What is asked of an event before it is appended: which class it is of, whether its time is right; and the dead
//! letters.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{manual, small};
use esker::{
    Appended, Class, ClassConfig, Clock, Config, DeadLetterDir, Error, ErrorKind, Event, Outside, Skew,
    Store, Stream,
};

const MINUTE: i64 = 60_000;

fn stream(number: u32) -> Stream {
    Stream::from(number)
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

fn tiers() -> [ClassConfig; 3] {
    [ClassConfig::new("basic"), ClassConfig::new("silver"), ClassConfig::new("gold")]
}

fn tiered() -> esker::ConfigBuilder {
    tiers().into_iter().fold(small(), esker::ConfigBuilder::class)
}

fn class_of(store: &Store, id: u64) -> usize {
    store.pin().get(id).unwrap().class().index()
}

#[test]
fn a_streams_class_holds_from_then_on_and_an_event_that_names_one_wins() {
    let (store, _) = manual(tiered());
    let (silver, gold) = (store.class("silver").unwrap(), store.class("gold").unwrap());
    let event = |id| Event::new(stream(7), id, id as i64, 0);
    store.append(&event(1)).unwrap();
    assert_eq!(store.set_class(stream(7), gold).unwrap(), None);
    store.append(&event(2)).unwrap();
    store.append(&event(3).class(silver)).unwrap();
    store.append(&Event::new(stream(8), 4, 4, 0)).unwrap();
    assert_eq!(store.set_class(stream(7), silver).unwrap(), Some(gold));
    let batch = store.append_batch(&[event(5), event(6).class(gold), event(7)]).unwrap();
    assert_eq!(batch.stored, 3);
    assert_eq!(store.class_of(stream(7)).unwrap(), silver);
    assert_eq!(store.forget_class(stream(7)), Some(silver));
    store.append(&event(8)).unwrap();
    let classes: Vec<usize> = (1..=8).map(|id| class_of(&store, id)).collect();
    assert_eq!(classes, [0, 2, 1, 0, 1, 2, 1, 0]);
    let ids: Vec<u64> = store.pin().history(stream(7)).map(|event| event.id()).collect();
    assert_eq!(ids, [8, 7, 6, 5, 3, 2, 1], "a history has the events of all classes");
    store.validate().unwrap();
}

#[test]
fn classes_of_many_streams_come_from_a_map_and_take_memory_that_is_counted() {
    let (store, _) = manual(tiered());
    let gold = store.class("gold").unwrap();
    let before = store.stats().buffer_bytes;
    let customers: HashMap<Stream, Class> = (0..5000).map(|number| (stream(number), gold)).collect();
    assert_eq!(store.set_classes(customers).unwrap(), 5000);
    let stats = store.stats();
    assert_eq!(stats.events.classed_streams, 5000);
    let taken = stats.buffer_bytes - before;
    assert!((5000 * 17..5000 * 60).contains(&taken), "{taken} bytes for 5000 streams");
    store.validate().unwrap();
    // Up to the memory for it; then it is an error, and what was set stays.
    let error = store.set_classes((0..10_000_000).map(|number| (stream(number), gold))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MemoryPressure);
    assert_eq!(store.class_of(stream(4999)).unwrap(), gold);
    store.validate().unwrap();
    // The memory is that of stream names.
    let named = (0..).map(|number| store.stream(&format!("name {number}"))).find_map(Result::err).unwrap();
    assert_eq!(named.kind(), ErrorKind::MemoryPressure);
}

#[test]
fn a_class_of_another_store_is_refused() {
    let (store, _) = manual(small().class(ClassConfig::new("only")));
    let gold = tiered().build().unwrap().class("gold").unwrap();
    assert_eq!(store.set_class(stream(1), gold).unwrap_err().kind(), ErrorKind::InvalidInput);
    let kept = [(stream(1), store.class("only").unwrap()), (stream(2), gold)];
    assert_eq!(store.set_classes(kept).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(store.stats().events.classed_streams, 1);
}

/// A resolver that holds no lock of the store may use the store: here it appends, to the same stream.
#[test]
fn the_resolver_is_asked_once_a_stream_and_with_no_lock_held() {
    let config = tiered().background(false).build().unwrap();
    let gold = config.class("gold").unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let slot: Arc<std::sync::OnceLock<Store>> = Arc::default();
    let resolver = {
        let (calls, slot) = (calls.clone(), slot.clone());
        move |of: Stream, name: Option<&str>| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            let store = slot.get().unwrap();
            let note = Event::new(of, 1000 + call as u64, 0, 0).class(store.class("basic").unwrap());
            assert_eq!(store.append(&note).unwrap(), Appended::Stored);
            store.set_class(stream(999), gold).unwrap();
            (name == Some("vip")).then_some(gold)
        }
    };
    let store = Store::builder(config).clock(Clock::manual(0)).class_resolver(resolver).open().unwrap();
    assert!(slot.set(store.clone()).is_ok());
    let vip = store.stream("vip").unwrap();
    let events: Vec<Event<'_>> = (0..600u64)
        .map(|id| Event::new(if id.is_multiple_of(2) { vip } else { stream(id as u32 % 4) }, id, 0, 0))
        .collect();
    assert_eq!(store.append_batch(&events).unwrap().stored, 600);
    for id in 0..600u64 {
        assert_eq!(class_of(&store, id), if id.is_multiple_of(2) { 2 } else { 0 });
    }
    store.append(&Event::new(vip, 700, 0, 0)).unwrap();
    assert_eq!((class_of(&store, 700), calls.load(Ordering::Relaxed)), (2, 3));
    assert_eq!(store.stats().events.resolver_calls, 3);
    store.forget_class(vip);
    assert_eq!(store.class_of(vip).unwrap(), gold);
    assert_eq!(calls.load(Ordering::Relaxed), 4, "it is asked again about what was forgotten");
    store.validate().unwrap();
}

#[test]
fn a_resolver_that_panics_refuses_its_event_and_nothing_else() {
    let config = tiered().background(false).build().unwrap();
    let foreign = Config::builder().memory("16MiB");
    let foreign = (0..9).fold(foreign, |config, number| config.class(ClassConfig::new(format!("{number}"))));
    let foreign = foreign.build().unwrap().class("8").unwrap();
    let resolver = move |of: Stream, _: Option<&str>| match of.as_u64() {
        13 => panic!("the customer database is away"),
        14 => Some(foreign),
        _ => None,
    };
    let store = Store::builder(config).clock(Clock::manual(0)).class_resolver(resolver).open().unwrap();
    let event = |number, id| Event::new(stream(number), id, 0, 0);
    let error = store.append(&event(13, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(error.to_string().contains("database is away"), "{error}");
    assert_eq!(store.append(&event(14, 2)).unwrap_err().kind(), ErrorKind::InvalidInput);
    let batch = store.append_batch(&[event(1, 3), event(13, 4), event(14, 5), event(1, 6)]).unwrap();
    assert_eq!(batch.stored, 2);
    let kinds: Vec<_> = batch.refused.iter().map(|(at, error)| (*at, error.kind())).collect();
    assert_eq!(kinds, [(1, ErrorKind::Panicked), (2, ErrorKind::InvalidInput)]);
    // A class that is set, or named by the event, is not asked for.
    store.set_class(stream(13), store.class("gold").unwrap()).unwrap();
    assert_eq!(store.append(&event(13, 7)).unwrap(), Appended::Stored);
    assert_eq!(store.append(&event(14, 8).class(store.class("basic").unwrap())).unwrap(), Appended::Stored);
    let ids: Vec<u64> = (1..=8).filter(|id| store.pin().get(*id).is_some()).collect();
    assert_eq!(ids, [3, 6, 7, 8]);
    store.validate().unwrap();
}

fn skewed(outside: Outside) -> ClassConfig {
    ClassConfig::new("only").skew(Skew::new().ahead(minutes(5)).behind(minutes(60)).outside(outside))
}

/// Events at these minutes from now, one before the earliest that is allowed and one after the latest among them.
fn at_minutes(now_ms: i64) -> [Event<'static>; 6] {
    let at = [0, 5 * MINUTE, 5 * MINUTE + 1, -60 * MINUTE, -60 * MINUTE - 1, i64::MIN - now_ms.min(0)];
    let mut id = 0;
    at.map(|from_now| {
        id += 1;
        Event::new(stream(1), id, now_ms.saturating_add(from_now), 0).payload(b"what it says")
    })
}

#[test]
fn by_default_every_time_is_taken() {
    let (store, clock) = manual(small());
    for event in at_minutes(clock.now_ms()) {
        assert_eq!(store.append(&event).unwrap(), Appended::Stored);
    }
    let events = store.stats().events;
    assert_eq!((events.ahead, events.behind), Default::default());
}

#[test]
fn an_event_outside_of_the_window_is_refused_with_its_reason() {
    let (store, clock) = manual(small().class(skewed(Outside::Refuse)));
    let events = at_minutes(clock.now_ms());
    let kinds = |outcome: esker::Result<Appended>| outcome.map_err(|error| error.kind());
    let expected = [true, true, false, true, false, false];
    for (event, taken) in events.iter().zip(expected) {
        let wanted = if taken { Ok(Appended::Stored) } else { Err(ErrorKind::OutsideWindow) };
        assert_eq!(kinds(store.append(event)), wanted, "{event:?}");
        assert_eq!(store.pin().get(event.id).is_some(), taken);
    }
    let error = store.append(&events[2]).unwrap_err();
    assert!(error.to_string().contains("300001 ms ahead of"), "{error}");
    assert!(!error.is_retryable());
    let batch = store.append_batch(&events).unwrap();
    assert_eq!((batch.stored, batch.duplicates), (0, 3));
    assert_eq!(batch.refused.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [2, 4, 5]);
    let stats = store.stats().events;
    assert_eq!((stats.ahead.refused, stats.behind.refused), (3, 4), "{stats:?}");
    assert_eq!(stats.rejected, 0, "that is for lack of room");
}

#[test]
fn an_event_outside_of_the_window_is_moved_to_its_edge() {
    let (store, clock) = manual(small().class(skewed(Outside::Clamp)));
    let now = clock.now_ms();
    let events = at_minutes(now);
    assert_eq!(store.append_batch(&events[..4]).unwrap().stored, 4);
    for event in &events[4..] {
        let event = event.ttl(minutes(90));
        assert_eq!(store.append(&event).unwrap(), Appended::Stored);
    }
    let times: Vec<i64> = (1..=6).map(|id| store.pin().get(id).unwrap().timestamp() - now).collect();
    let (last, first) = (5 * MINUTE, -60 * MINUTE);
    assert_eq!(times, [0, last, last, first, first, first]);
    // What expires by itself keeps the time that it has to live.
    let expires = store.pin().get(5).unwrap().expires_at();
    assert_eq!(expires, Some(now + first + 90 * MINUTE));
    let stats = store.stats().events;
    assert_eq!((stats.ahead.clamped, stats.behind.clamped), (1, 2), "{stats:?}");
    store.validate().unwrap();
}

#[test]
fn an_event_outside_of_the_window_goes_to_the_dead_letters_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let open = || DeadLetterDir::open(dir.path(), "1MiB", 100).unwrap();
    let config = || small().class(skewed(Outside::DeadLetter)).background(false).build().unwrap();
    let letters = open();
    let clock = Clock::manual(1_000_000);
    let builder = || Store::builder(config()).clock(clock.clone());
    let store = builder().dead_letters(letters.clone()).open().unwrap();
    let mut events = at_minutes(clock.now_ms());
    events[4] = events[4].metadata(&[("cell", "A7")]).flags(3).ttl(Duration::from_secs(1_000_000));
    assert_eq!(store.append(&events[2]).unwrap(), Appended::DeadLettered);
    let batch = store.append_batch(&events[3..]).unwrap();
    assert_eq!((batch.stored, batch.refused.len()), (1, 0));
    assert_eq!(batch.set_aside, [(1, Appended::DeadLettered), (2, Appended::DeadLettered)]);
    assert_eq!(batch.outcome(1).unwrap(), Appended::DeadLettered);
    assert_eq!(store.pin().scan(..).count(), 1);
    let stats = store.stats().events;
    assert_eq!((stats.ahead.dead_lettered, stats.behind.dead_lettered), (1, 2), "{stats:?}");
    drop(store);
    assert_eq!(DeadLetterDir::open(dir.path(), "1MiB", 100).unwrap_err().kind(), ErrorKind::AlreadyOpen);
    drop(letters);

    // Another process finds them.
    let letters = open();
    let ids: Vec<u64> = letters.list().iter().filter_map(|letter| Some(letter.event?.id)).collect();
    assert_eq!(ids, [3, 5, 6]);
    let letter = &letters.list()[1];
    assert!(letter.reason.contains("behind the store's clock"), "{letter:?}");
    let event = letters.read(&letter.name).unwrap();
    assert_eq!(
        (event.timestamp(), event.flags(), event.payload()),
        (events[4].timestamp, 3, &b"what it says"[..])
    );
    assert_eq!(event.metadata_value("cell"), Some(&b"A7"[..]));
    assert_eq!(event.expires_at(), Some(events[4].timestamp + 1_000_000_000));
    let store = builder().dead_letters(letters.clone()).open().unwrap();
    assert_eq!(letters.replay(&store, &letter.name).unwrap(), Appended::Stored);
    assert_eq!(store.pin().get(5).unwrap().timestamp(), events[4].timestamp, "replayed as it was");
    letters.discard(&letters.list()[1].name).unwrap();
    let rest = letters.replay_all(&store);
    assert_eq!((rest.stored, rest.refused.len(), letters.len()), (1, 0, 0));
    assert_eq!(letters.read("event-3-0.letter").unwrap_err().kind(), ErrorKind::InvalidInput);
    store.validate().unwrap();
}

#[test]
fn dead_letters_that_are_full_refuse_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let letters = DeadLetterDir::open(dir.path(), "1KiB", 4).unwrap();
    let (config, clock) = (small().class(skewed(Outside::DeadLetter)), Clock::manual(0));
    let config = config.background(false).build().unwrap();
    let store = Store::builder(config).clock(clock).dead_letters(letters.clone()).open().unwrap();
    let payload = [7; 150];
    let event = |id| Event::new(stream(1), id, i64::MAX, 0).payload(&payload);
    let mut taken = 0;
    let error = loop {
        match store.append(&event(taken)) {
            Ok(outcome) => assert_eq!(outcome, Appended::DeadLettered),
            Err(error) => break error,
        }
        taken += 1;
    };
    assert_eq!(error.kind(), ErrorKind::DeadLettersFull, "{error}");
    assert_eq!((taken, letters.len()), (2, 2), "of some 350 bytes each: {:?}", letters.list());
    let files: u64 = letters.list().iter().map(|letter| letter.bytes).sum();
    assert!(files <= 1024);
    let small_event = |id| Event::new(stream(1), id, i64::MAX, 0);
    let batch = store.append_batch(&[event(8), small_event(9)]).unwrap();
    assert_eq!(batch.refused.len() + batch.set_aside.len(), 2);
    assert_eq!(batch.refused[0].1.kind(), ErrorKind::DeadLettersFull);
    letters.discard(&letters.list()[0].name).unwrap();
    assert_eq!(store.append(&event(10)).unwrap(), Appended::DeadLettered);
    let stats = store.stats().events;
    assert_eq!(stats.ahead.refused + stats.ahead.dead_lettered, taken + 1 + 2 + 1);
}

#[test]
fn a_dead_letter_that_was_altered_is_an_error_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let config = small().class(skewed(Outside::DeadLetter)).background(false).build().unwrap();
    let letters = DeadLetterDir::open(dir.path(), "1MiB", 100).unwrap();
    let store = Store::builder(config).clock(Clock::manual(0)).dead_letters(letters.clone()).open().unwrap();
    store.append(&Event::new(stream(1), 1, i64::MAX, 0).payload(b"bytes that matter")).unwrap();
    let path = dir.path().join(&letters.list()[0].name);
    let good = std::fs::read(&path).unwrap();
    let start = good.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for at in start..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        let error = letters.replay(&store, &letters.list()[0].name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
    }
    std::fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(letters.read(&letters.list()[0].name).is_err());
    drop((store, letters));
    let letters = DeadLetterDir::open(dir.path(), "1MiB", 100).unwrap();
    assert_eq!((letters.len(), letters.list()[0].event), (1, None));
}

#[test]
fn a_sink_may_fail_or_panic_and_dead_letters_need_one() {
    let config = || small().class(skewed(Outside::DeadLetter)).background(false).build().unwrap();
    let error = Store::open(config()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.config_faults()[0].field.contains("skew.outside"), "{error}");
    // All that is missing is told at once.
    let both = small().class(skewed(Outside::DeadLetter)).on_full(esker::OnFull::Ask).background(false);
    let fields: Vec<String> = Store::open(both.build().unwrap())
        .unwrap_err()
        .config_faults()
        .iter()
        .map(|fault| fault.field.clone())
        .collect();
    assert!(fields.len() == 2 && fields[0] == "on_full" && fields[1].contains("skew.outside"), "{fields:?}");
    let sink = |event: &Event<'_>, why: &Error| match event.id {
        1 => panic!("a broken sink"),
        2 => Err(Error::cold("the topic is away", "no broker")),
        _ => {
            assert_eq!((why.kind(), event.class.map(Class::index)), (ErrorKind::OutsideWindow, Some(0)));
            Ok(())
        }
    };
    let store = Store::builder(config()).clock(Clock::manual(0)).dead_letters(sink).open().unwrap();
    let outcome = |id| store.append(&Event::new(stream(1), id, i64::MAX, 0)).map_err(|error| error.kind());
    assert_eq!(outcome(1), Err(ErrorKind::Panicked));
    assert_eq!(outcome(2), Err(ErrorKind::Cold));
    assert_eq!(outcome(3), Ok(Appended::DeadLettered));
    let stats = store.stats().events;
    assert_eq!((stats.ahead.refused, stats.ahead.dead_lettered), (2, 1));
    store.close(Duration::from_secs(1)).unwrap();
    assert_eq!(outcome(4), Err(ErrorKind::Closed));
}
