//! Sources are told when to pause and when to resume, and hand events over through a bounded queue.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esker::{
    Appended, Config, ErrorKind, Event, Hysteresis, Pressure, PressureListener, PressureReason, Stall, Store,
    Stream,
};

use crate::common::{all_ids, manual, proof, small, verify, wait_until};
use crate::tier::{Fault, Healed, MapTier};

/// What a busy machine may take.
const SLACK: Duration = Duration::from_secs(120);
const LEN: usize = 600;

fn event(id: u64) -> Event<'static> {
    Event::new(Stream::from((id % 37) as u32), id, 1_000_000 + id as i64, 0)
}

fn try_one(store: &Store, id: u64) -> esker::Result<Appended> {
    let event = event(id);
    store.try_append(&event.payload(&proof(event.stream, id, event.timestamp, LEN)))
}

/// Appends from `id` on until one is refused.
fn until_refused(store: &Store, mut id: u64) -> u64 {
    while try_one(store, id).is_ok() {
        id += 1;
        assert!(id < 1_000_000, "the store never refuses");
    }
    id
}

/// Fills a store from which nothing can leave, also with what the mover makes room for by squeezing. The next id.
fn fill_for_good(store: &Store) -> u64 {
    let (mut end, mut refused) = (0, 0);
    wait_until("a store that is full for good", SLACK, || {
        let before = end;
        end = until_refused(store, end);
        std::thread::sleep(Duration::from_millis(20));
        refused = if end == before { refused + 1 } else { 0 };
        refused == 10
    });
    end
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Pause,
    Resume,
    Stalled,
}

/// Notes what it is told.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Told>>>);

impl Notes {
    fn all(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }

    fn flow(&self) -> Vec<Told> {
        self.all().into_iter().filter(|told| *told != Told::Stalled).collect()
    }
}

impl PressureListener for Notes {
    fn pause(&mut self, level: Pressure) {
        assert!(level >= Pressure::Critical, "paused at {level:?}");
        self.0.lock().unwrap().push(Told::Pause);
    }
    fn resume(&mut self, level: Pressure) {
        assert!(level <= Pressure::Warning, "resumed at {level:?}");
        self.0.lock().unwrap().push(Told::Resume);
    }
    fn stalled(&mut self, stall: &Stall) {
        assert!(matches!(stall, Stall::ColdTier { .. } | Stall::Unknown { .. }), "{stall:?}");
        self.0.lock().unwrap().push(Told::Stalled);
    }
}

fn flow() -> Hysteresis {
    Hysteresis::new(Pressure::Critical, Pressure::Warning).unwrap()
}

/// Fills a store whose tier is told to fail, and heals it again. A fast mover makes room, and a listener resumes, several
/// times before nothing is left to be squeezed: what counts is what was told last.
fn outage(store: &Store, tier: &MapTier, from: u64, notes: &Notes) -> u64 {
    let before = notes.flow().len();
    let last = || notes.flow().last().copied();
    tier.set(Fault::Fail);
    let mut end = from;
    wait_until("a pause and a stall", SLACK, || {
        end = until_refused(store, end);
        std::thread::sleep(Duration::from_millis(20));
        let paused = notes.flow().len() > before && last() == Some(Told::Pause);
        paused && notes.all().contains(&Told::Stalled)
    });
    tier.set(Fault::None);
    // From then on nothing is appended, so that it goes down for good.
    wait_until("a resume", SLACK, || last() == Some(Told::Resume) && store.pressure() < Pressure::Critical);
    end
}

#[test]
fn a_listener_is_told_each_pause_and_each_resume_once_and_in_turn() {
    let tier = MapTier::new();
    let config = small().stall_after(Duration::from_millis(50)).build().unwrap();
    let store = Store::builder(config).cold(tier.clone()).open().unwrap();
    let notes = Notes::default();
    let listening = store.listen(flow(), notes.clone()).unwrap();
    let mut id = 0;
    for _ in 0..3 {
        id = outage(&store, &tier, id, &notes);
    }
    let told = notes.flow();
    let in_turn = [Told::Pause, Told::Resume];
    assert!(told.iter().enumerate().all(|(at, told)| *told == in_turn[at % 2]), "{told:?}");
    assert!(notes.all().contains(&Told::Stalled), "{:?}", notes.all());
    // Nothing is told any more once the listening is dropped.
    drop(listening);
    std::thread::sleep(Duration::from_millis(300));
    let before = notes.all();
    tier.set(Fault::Fail);
    until_refused(&store, id);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(notes.all(), before);
    tier.set(Fault::None);
}

/// Blocks, or panics, when it is told to pause.
struct Bad {
    blocks: Option<Arc<AtomicBool>>,
    told: Arc<AtomicU64>,
}

impl PressureListener for Bad {
    fn pause(&mut self, _: Pressure) {
        self.told.fetch_add(1, Ordering::SeqCst);
        match &self.blocks {
            Some(blocks) => {
                while blocks.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            None => panic!("this listener is broken"),
        }
    }
    fn resume(&mut self, _: Pressure) {
        self.told.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn listeners_that_block_or_panic_harm_nobody() {
    let tier = MapTier::new();
    let store = Store::builder(small().build().unwrap()).cold(tier.clone()).open().unwrap();
    let (blocks, blocked, panicked) =
        (Arc::new(AtomicBool::new(true)), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let bad = Bad { blocks: Some(blocks.clone()), told: blocked.clone() };
    let _one = store.listen(flow(), bad).unwrap();
    let _two = store.listen(flow(), Bad { blocks: None, told: panicked.clone() }).unwrap();
    let notes = Notes::default();
    let _three = store.listen(flow(), notes.clone()).unwrap();
    let mut id = 0;
    for outages in 1..=2 {
        id = outage(&store, &tier, id, &notes);
        // It is told all the same; how long it takes to panic is its own affair.
        wait_until("the listener that panics", SLACK, || panicked.load(Ordering::SeqCst) >= 2 * outages);
    }
    assert_eq!(blocked.load(Ordering::SeqCst), 1, "one call lasts still");
    assert!(store.stats().listener_panics >= 2);
    assert_eq!(all_ids(&store), (0..id).collect::<Vec<_>>());
    // A close does not wait for it either.
    let report = store.close(SLACK).unwrap();
    assert_eq!((report.left, report.cold), (0, id));
    blocks.store(false, Ordering::SeqCst);
}

#[test]
fn a_full_queue_says_so_and_what_finds_no_room_stays_in_it() {
    let tier = MapTier::new();
    let config = small().append_timeout(Duration::from_millis(10)).build().unwrap();
    let store = Store::builder(config).cold(tier.clone()).open().unwrap();
    let _healed = Healed(&tier);
    tier.set(Fault::Fail);
    let end = fill_for_good(&store);
    let queue = store.hand_over(200, 1 << 20).unwrap();
    let mut pushed = 0u64;
    let full = loop {
        let event = event(end + pushed);
        match queue.push(&event.payload(&proof(event.stream, event.id, event.timestamp, LEN))) {
            Ok(number) => assert_eq!(number, pushed),
            Err(error) => break error,
        }
        pushed += 1;
    };
    assert_eq!(pushed, 100, "half of the queue is for what is being appended");
    let pressure = full.back_pressure().unwrap();
    assert_eq!((pressure.reason, pressure.region), (PressureReason::QueueFull, None));
    assert!(full.is_retryable() && full.to_string().contains("queue"), "{full}");
    let drained = queue.drain(Duration::ZERO).unwrap();
    assert_eq!((drained.stored + drained.left, drained.refused.len()), (100, 0), "{drained:?}");
    assert!(drained.left > 0 && drained.pressure.is_some() && !drained.ended, "{drained:?}");
    assert!(queue.settled() < 100);

    tier.set(Fault::None);
    let mut left = drained.left;
    wait_until("room", SLACK, || {
        left = queue.drain(Duration::ZERO).unwrap().left;
        left == 0
    });
    assert_eq!(queue.settled(), 100);
    for id in end..end + 100 {
        verify(&store.fetch(id).unwrap().unwrap());
    }
}

#[test]
fn events_cross_the_queue_in_order_and_unchanged() {
    const EACH: u64 = 5_000;
    let (store, _clock) = manual(small());
    let queue = store.hand_over(256, 64 << 10).unwrap();
    let long = "v".repeat(200);
    let (mut stored, mut refused) = (0, Vec::new());
    std::thread::scope(|scope| {
        let producers: Vec<_> = (0..2u64)
            .map(|producer| {
                let (queue, long) = (&queue, &long);
                scope.spawn(move || {
                    for id in producer * EACH..(producer + 1) * EACH {
                        let payload = id.to_le_bytes();
                        let pairs = [("id", "x"), ("long", long.as_str())];
                        let event = Event::new(Stream::from(producer as u32), id, id as i64, 3).flags(9);
                        let event = if id % 7 == 0 { event.metadata(&pairs) } else { event };
                        queue.push_timeout(&event.payload(&payload), SLACK).unwrap();
                    }
                })
            })
            .collect();
        let drain = scope.spawn(|| {
            let mut sum = (0, Vec::new());
            loop {
                let drained = queue.drain(Duration::from_millis(50)).unwrap();
                assert!(drained.pressure.is_none(), "{drained:?}");
                sum.0 += drained.stored + drained.duplicates;
                sum.1.extend(drained.refused);
                if drained.ended {
                    return sum;
                }
            }
        });
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        // An event that no store takes, and one that no queue of this size takes.
        let class = Config::builder()
            .class(esker::ClassConfig::new("a"))
            .class(esker::ClassConfig::new("b"))
            .build()
            .unwrap()
            .class("b")
            .unwrap();
        queue.push_timeout(&Event::new(Stream::from(1u32), 1 << 30, 0, 0).class(class), SLACK).unwrap();
        let huge = vec![0; 33 << 10];
        let error = queue.push(&Event::new(Stream::from(1u32), 1 << 31, 0, 0).payload(&huge)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        queue.close();
        let error = queue.push(&Event::new(Stream::from(1u32), 1 << 31, 0, 0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        (stored, refused) = drain.join().unwrap();
    });
    assert_eq!(stored as u64, 2 * EACH);
    assert_eq!(
        refused.iter().map(|(at, error)| (*at, error.kind())).collect::<Vec<_>>(),
        [(2 * EACH, ErrorKind::InvalidInput)]
    );
    assert_eq!(queue.settled(), 2 * EACH + 1);
    let guard = store.pin();
    for producer in 0..2u64 {
        let ids: Vec<u64> = guard
            .history(Stream::from(producer as u32))
            .map(|event| {
                assert_eq!(event.payload(), event.id().to_le_bytes());
                assert_eq!((event.kind(), event.flags()), (3, 9));
                let long = event.metadata_value("long").map(<[u8]>::len);
                assert_eq!(long, (event.id() % 7 == 0).then_some(200));
                event.id()
            })
            .collect();
        assert_eq!(ids, (producer * EACH..(producer + 1) * EACH).rev().collect::<Vec<_>>());
    }
}

/// A store that is closed by its own sink of dead letters, when that is given an event.
fn closed_by_a_letter() -> Store {
    let own: Arc<Mutex<Option<Store>>> = Arc::default();
    let window = esker::Skew::new().ahead(Duration::from_secs(3600)).outside(esker::Outside::DeadLetter);
    let config =
        small().class(esker::ClassConfig::new("calls").skew(window)).background(false).build().unwrap();
    let inner = own.clone();
    let sink = move |_: &Event<'_>, _: &esker::Error| {
        let store = inner.lock().unwrap().take().unwrap();
        store.close(Duration::from_secs(1)).map(drop)
    };
    let clock = esker::Clock::manual(1_000_000);
    let store = Store::builder(config).clock(clock).dead_letters(sink).open().unwrap();
    *own.lock().unwrap() = Some(store.clone());
    store
}

/// Events of which number `at` is outside of its class's window.
fn events_with_a_letter(count: u64, at: u64) -> Vec<Event<'static>> {
    let time = |id| if id == at { i64::MAX } else { 1_000_000 };
    (0..count).map(|id| Event::new(Stream::from((id % 37) as u32), id, time(id), 0)).collect()
}

#[test]
fn a_batch_tells_what_became_of_each_event_when_the_store_is_closed_meanwhile() {
    let store = closed_by_a_letter();
    let guard = store.pin();
    let batch = store.append_batch(&events_with_a_letter(1_000, 600)).unwrap();
    assert_eq!((batch.stored, batch.set_aside.len(), batch.refused.len()), (512, 1, 487), "{batch:?}");
    for id in 0..1_000u64 {
        let there = guard.get(id).is_some();
        match batch.outcome(id as usize) {
            Ok(Appended::Stored) => assert!(there, "event {id}"),
            Ok(other) => assert_eq!((other, id), (Appended::DeadLettered, 600)),
            Err(error) => assert!(!there && error.kind() == ErrorKind::Closed, "event {id}: {error}"),
        }
    }
    assert_eq!(store.append_batch(&events_with_a_letter(10, 600)).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_drain_tells_what_became_of_each_event_when_the_store_is_closed_meanwhile() {
    // The letter is in the first call for the store, and in one of the later ones.
    for (at, stored) in [(600, 512), (1_500, 1_280)] {
        let store = closed_by_a_letter();
        let queue = store.hand_over(10_000, 1 << 20).unwrap();
        for event in events_with_a_letter(3_000, at) {
            queue.push(&event).unwrap();
        }
        let drained = queue.drain(Duration::ZERO).unwrap();
        assert_eq!((drained.stored, drained.set_aside, drained.refused.len()), (stored, 1, 0), "{drained:?}");
        assert_eq!(drained.left, 3_000 - stored - 1);
        assert_eq!(drained.pressure.map(|error| error.kind()), Some(ErrorKind::Closed));
        assert_eq!(queue.settled(), stored as u64);
        assert_eq!(queue.drain(Duration::ZERO).unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[cfg(feature = "async")]
mod waits {
    use super::*;
    use crate::common::now;
    use esker::AsyncStore;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    /// A thousand appends wait on one thread, which does other things meanwhile; all are stored when there is room.
    #[test]
    fn async_appends_wait_without_a_thread() {
        const WAITERS: u64 = 1_000;
        let tier = MapTier::new();
        let config = small().append_timeout(SLACK).build().unwrap();
        let store = Store::builder(config).cold(tier.clone()).open().unwrap();
        let _healed = Healed(&tier);
        tier.set(Fault::Fail);
        let end = fill_for_good(&store);
        let asynchronous = AsyncStore::new(store.clone(), 1);
        runtime().block_on(async {
            let local = tokio::task::LocalSet::new();
            local
                .run_until(async {
                    let tasks: Vec<_> = (end..end + WAITERS)
                        .map(|id| {
                            let store = asynchronous.clone();
                            tokio::task::spawn_local(async move {
                                let event = event(id);
                                let payload = proof(event.stream, id, event.timestamp, LEN);
                                store.append(&event.payload(&payload)).await
                            })
                        })
                        .collect();
                    let mut turns = 0;
                    while store.stats().events.waited < WAITERS {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        turns += 1;
                        assert!(turns < 6_000, "{} wait", store.stats().events.waited);
                    }
                    assert!(asynchronous.store().pressure() == Pressure::Full);
                    tier.set(Fault::None);
                    for task in tasks {
                        assert_eq!(task.await.unwrap().unwrap(), Appended::Stored);
                    }
                    tokio::time::timeout(SLACK, asynchronous.wait_for(Pressure::Warning)).await.unwrap();
                    assert!(store.pressure() <= Pressure::Critical);
                })
                .await;
        });
        assert_eq!(all_ids(&store), (0..end + WAITERS).collect::<Vec<_>>());
    }

    #[test]
    fn async_appends_are_refused_in_time_and_give_up_their_place() {
        let config = small().append_timeout(Duration::from_millis(50)).build().unwrap();
        let store = Store::open(config).unwrap();
        let end = fill_for_good(&store);
        let asynchronous = AsyncStore::new(store.clone(), 1);
        runtime().block_on(async {
            let begin = now();
            let error = asynchronous.append(&event(end)).await.unwrap_err();
            assert_eq!(error.back_pressure().unwrap().stall, Some(Stall::NoColdTier));
            assert!(begin.elapsed() >= Duration::from_millis(50) && begin.elapsed() < SLACK);
            // A task that gives up waiting is not in anybody's way.
            let event = event(end);
            let append = asynchronous.append(&event);
            assert!(tokio::time::timeout(Duration::from_millis(10), append).await.is_err());
        });
        for id in 0..end / 2 {
            store.remove(id).unwrap();
        }
        // Pages of which everything was removed leave.
        assert_eq!(store.append_timeout(&event(end), SLACK).unwrap(), Appended::Stored);
        store.validate().unwrap();
    }

    /// A store without threads makes room when somebody needs it.
    #[test]
    fn async_appends_make_room_in_a_store_without_threads() {
        let config = small().background(false).append_timeout(SLACK).build().unwrap();
        let store = Store::builder(config).cold(MapTier::new()).open().unwrap();
        let end = until_refused(&store, 0);
        let asynchronous = AsyncStore::new(store.clone(), 1);
        runtime().block_on(async {
            let waits = asynchronous.wait_for(Pressure::Critical);
            tokio::time::timeout(SLACK, waits).await.unwrap();
            for id in end..3 * end {
                let event = event(id);
                let payload = proof(event.stream, id, event.timestamp, LEN);
                assert_eq!(asynchronous.append(&event.payload(&payload)).await.unwrap(), Appended::Stored);
            }
        });
        assert_eq!(all_ids(&store), (0..3 * end).collect::<Vec<_>>());
    }
}
