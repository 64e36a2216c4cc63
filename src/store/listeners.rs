//! Telling sources when to pause and when to resume. Each listener has a thread of its own, so that one that blocks keeps
//! nobody else waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Result, call_user};
use crate::pressure::{Flow, Gauge, Hysteresis, Pressure, Stall};
use crate::store::core::{Bell, Core};

/// How often a listener's thread looks although nothing rings: a stall begins silently.
const TICK: Duration = Duration::from_millis(100);

/// A source of events that can pause: it is told when memory is short and when it is not any more.
///
/// Pauses and resumes come in turns, each once, in order, from a thread that does nothing else; no lock is held. While a
/// call lasts, no other is made, and the next tells what is true then. A panic is counted, and the next call is made all
/// the same.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// use esker::{Config, Hysteresis, Pressure, PressureListener, Store};
///
/// /// Stands for a Kafka consumer, which pauses and resumes its partitions.
/// struct Source(Arc<AtomicBool>);
///
/// impl PressureListener for Source {
///     fn pause(&mut self, _level: Pressure) {
///         self.0.store(true, Ordering::Relaxed);
///     }
///     fn resume(&mut self, _level: Pressure) {
///         self.0.store(false, Ordering::Relaxed);
///     }
/// }
///
/// let store = Store::open(Config::builder().memory("16MiB").build()?)?;
/// let paused = Arc::new(AtomicBool::new(false));
/// let listening = store.listen(Hysteresis::default(), Source(paused.clone()))?;
/// assert!(!paused.load(Ordering::Relaxed));
/// drop(listening);
/// # Ok::<(), esker::Error>(())
/// ```
pub trait PressureListener: Send + 'static {
    /// The pressure has reached the level to pause at; `level` is what it is now.
    fn pause(&mut self, level: Pressure);

    /// The pressure has gone down to the level to resume at.
    fn resume(&mut self, level: Pressure);

    /// The store is full and makes no room, or a guard alone keeps it from the level to resume at, for this reason; told when that
    /// begins and when the kind of reason changes.
    fn stalled(&mut self, stall: &Stall) {
        let _ = stall;
    }
}

/// Keeps a listener told; it is told nothing more once this is dropped.
#[must_use = "the listener is told nothing once this is dropped"]
pub struct Listening {
    ear: Arc<Ear>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.ear.stop.store(true, Ordering::Release);
        self.ear.bell.ring();
    }
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listening").finish_non_exhaustive()
    }
}

/// What a listener's thread is woken and stopped by.
#[derive(Default)]
pub(crate) struct Ear {
    bell: Bell,
    stop: AtomicBool,
}

/// The listeners of a store.
#[derive(Default)]
pub(crate) struct Listeners {
    ears: Mutex<Vec<Arc<Ear>>>,
    /// The gauge's changes that were rung for.
    changes: AtomicU64,
    /// Calls that panicked.
    pub(crate) panics: AtomicU64,
}

impl Listeners {
    pub(crate) fn add(&self) -> (Listening, Arc<Ear>) {
        let ear = Arc::<Ear>::default();
        self.ears.lock().push(ear.clone());
        (Listening { ear: ear.clone() }, ear)
    }

    /// Wakes the listeners' threads if the level has changed since this was called last.
    pub(crate) fn ring_if_changed(&self, gauge: &Gauge) {
        let changes = gauge.changes();
        if self.changes.swap(changes, Ordering::AcqRel) != changes {
            self.ring();
        }
    }

    /// Wakes the listeners' threads.
    pub(crate) fn ring(&self) {
        self.ears.lock().iter().for_each(|ear| ear.bell.ring());
    }

    /// Has the listeners' threads end once the calls that they are in return.
    pub(crate) fn stop(&self) {
        for ear in self.ears.lock().iter() {
            ear.stop.store(true, Ordering::Release);
            ear.bell.ring();
        }
    }

    fn count_panic(&self, told: Result<()>) {
        if told.is_err() {
            self.panics.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The work of a listener's thread.
pub(crate) fn listen(core: &Core, ear: &Arc<Ear>, mut flow: Hysteresis, mut listener: impl PressureListener) {
    let gauge = &core.lanes.gauge;
    let mut seen = gauge.risen(flow.pause_at());
    let mut stalled = None;
    let stopped = || ear.stop.load(Ordering::Acquire);
    while !stopped() {
        core.look_round();
        let (risen, level) = (gauge.risen(flow.pause_at()), gauge.level());
        // A peak counts although it is over: an append may have been refused at it.
        let peak = if risen == seen { level } else { level.max(flow.pause_at()) };
        seen = risen;
        for level in [peak, level] {
            let told = match flow.update(level) {
                Some(Flow::Pause) => call_user("a PressureListener", || listener.pause(level)),
                Some(Flow::Resume) => call_user("a PressureListener", || listener.resume(level)),
                None => Ok(()),
            };
            core.listeners.count_panic(told);
        }
        let stall = core.stall();
        let kind = stall.as_ref().map(std::mem::discriminant);
        if let Some(stall) = stall.filter(|_| kind != stalled) {
            core.listeners.count_panic(call_user("a PressureListener", || listener.stalled(&stall)));
        }
        stalled = kind;
        ear.bell.wait(TICK);
    }
    core.listeners.ears.lock().retain(|other| !Arc::ptr_eq(other, ear));
}
