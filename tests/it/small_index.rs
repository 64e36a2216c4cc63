//! An index that has no room: the level says so, sources are paused by it, and the store says why and until when.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use esker::{
    ClassConfig, Config, ConfigBuilder, Event, Hysteresis, OnLeave, Pressure, PressureListener,
    PressureReason, Stall, Store, Stream,
};

use crate::common::{wait_until, wall_ms};

/// What a busy machine may take.
const SLACK: Duration = Duration::from_secs(120);

/// Little index for much memory.
fn config() -> ConfigBuilder {
    Config::builder()
        .memory("256MiB")
        .partitions(2)
        .index(|index| index.max("512KiB").page_size("8KiB"))
        .class(ClassConfig::new("all").on_leave(OnLeave::Drop))
}

/// Each event is of a stream of its own, and ids have no order.
fn append(store: &Store, n: u64) -> esker::Result<()> {
    let id = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    store.try_append(&Event::new(Stream::from(n as u32), id, wall_ms(), 0).payload(&[7; 60])).map(|_| ())
}

/// A source that pauses and resumes as it is told.
#[derive(Clone, Default)]
struct Source {
    paused: Arc<AtomicBool>,
    told: Arc<Mutex<Vec<&'static str>>>,
}

impl PressureListener for Source {
    fn pause(&mut self, level: Pressure) {
        assert!(level >= Pressure::Critical, "{level:?}");
        self.paused.store(true, Ordering::SeqCst);
        self.told.lock().unwrap().push("pause");
    }
    fn resume(&mut self, level: Pressure) {
        assert_eq!(level, Pressure::Normal);
        self.paused.store(false, Ordering::SeqCst);
        self.told.lock().unwrap().push("resume");
    }
    fn stalled(&mut self, stall: &Stall) {
        assert!(matches!(stall, Stall::Guard(guard) if guard.index_pages > 0), "{stall:?}");
        self.told.lock().unwrap().push("stalled");
    }
}

/// One thread stops in the middle of a history, another has held a guard for longer, but only an event in hand. While the first
/// holds the index's pages back the level stays full, and nobody is told to resume; then all goes on.
#[test]
fn a_reader_that_holds_pages_of_the_index_pauses_the_source_and_is_named() {
    let store = Store::open(config().stall_after(Duration::from_millis(100)).build().unwrap()).unwrap();
    let by_marks = !store.stats().warnings.iter().any(|warning| warning.contains("membarrier"));
    let source = Source::default();
    let _listening = store.listen(Hysteresis::default(), source.clone()).unwrap();
    let mut n = 0;
    while n < 300 {
        append(&store, n).unwrap();
        n += 1;
    }
    std::thread::scope(|scope| {
        let read = |name: &str, walks: bool| {
            let (end, ended) = mpsc::channel::<()>();
            let (ready, is_ready) = mpsc::channel();
            let there = &store;
            let work = move || {
                let guard = there.pin();
                let _event = guard.get(299u64.wrapping_mul(0x9e37_79b9_7f4a_7c15)).unwrap();
                let _walk = walks.then(|| guard.history(Stream::from(299u32)));
                ready.send(()).unwrap();
                let _ = ended.recv();
            };
            std::thread::Builder::new().name(name.into()).spawn_scoped(scope, work).unwrap();
            is_ready.recv().unwrap();
            end
        };
        let in_hand = read("the form", false);
        // Its age counts from when it is first seen.
        wait_until("a guard of some age", SLACK, || {
            store.stats().oldest_guard.is_some_and(|guard| guard.held_for > Duration::from_millis(50))
        });
        let walk = read("the report", true);
        let mut last = None;
        wait_until("a stall", SLACK, || {
            for _ in 0..1_000 {
                match append(&store, n) {
                    Ok(()) => n += 1,
                    Err(error) => last = error.back_pressure().cloned(),
                }
            }
            matches!(last.as_ref().and_then(|last| last.stall.as_ref()), Some(Stall::Guard(_)))
        });
        let pressure = last.unwrap();
        assert_eq!((pressure.reason, pressure.level), (PressureReason::IndexFull, Pressure::Full));
        let text = pressure.to_string();
        assert!(text.contains("pages of the index wait for it"), "{text}");
        if by_marks {
            assert!(text.contains("thread the report"), "{text}");
        }
        wait_until("a pause", SLACK, || source.paused.load(Ordering::SeqCst));
        wait_until("a stall", SLACK, || source.told.lock().unwrap().contains(&"stalled"));
        let before = source.told.lock().unwrap().len();
        for _ in 0..120 {
            assert_eq!(store.pressure(), Pressure::Full);
            let stats = store.stats();
            assert!(matches!(stats.stall, Some(Stall::Guard(_))), "{:?}", stats.stall);
            std::thread::sleep(Duration::from_millis(5));
        }
        let told = source.told.lock().unwrap()[before..].to_vec();
        assert!(!told.contains(&"resume"), "{told:?}");
        // Nothing has come back for more than half a second, so nothing is to be expected in the next milliseconds.
        let retry = append(&store, n).unwrap_err().back_pressure().unwrap().retry_after;
        assert!(retry >= Duration::from_millis(200), "{retry:?}");
        drop(walk);
        wait_until("a resume", SLACK, || !source.paused.load(Ordering::SeqCst));
        let end = n + 20_000;
        while n < end {
            // As a source does that is told.
            if !source.paused.load(Ordering::SeqCst) && append(&store, n).is_ok() {
                n += 1;
            }
        }
        assert_eq!(store.stats().stall, None);
        drop(in_hand);
    });
    store.validate().unwrap();
}

/// The index is full all the time, and events leave for its sake while others come: nobody is refused for long, and the level does not
/// stay where a source must wait.
#[test]
fn an_index_that_is_always_full_lets_a_source_go_on() {
    const EVENTS: u64 = 300_000;
    // The machine may stand still for seconds.
    let store = Store::open(config().stall_after(SLACK).build().unwrap()).unwrap();
    let source = Source::default();
    let _listening = store.listen(Hysteresis::default(), source.clone()).unwrap();
    let (mut n, mut refused) = (0, 0u64);
    while n < EVENTS {
        if source.paused.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_micros(100));
        } else if append(&store, n).is_ok() {
            n += 1;
        } else {
            refused += 1;
        }
    }
    let stats = store.stats();
    println!("{refused} refused, told {}, {} left", source.told.lock().unwrap().len(), stats.events.hot);
    assert!(stats.events.dropped > EVENTS / 2, "{stats:#?}");
    assert!(stats.admission[0].rejected.of(PressureReason::IndexFull) == refused);
    wait_until("a level at which a source goes on", SLACK, || store.pressure() < Pressure::Warning);
    store.validate().unwrap();
}
