//! Turns: who writes to the log, and who waits for whom.
//!
//! Whoever needs something on the disk waits for a turn that begins after it came. If nobody has the turn, it takes it, for
//! all who wait; so while the disk is busy others gather, and share the next turn.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::clock::{self, Deadline};
use crate::config::DiskSync;
use crate::error::{Error, ErrorKind, Result, call_user};
use crate::index::names::Names;
use crate::lanes::append::Lanes;
use crate::log::segment::{Failure, prepare};
use crate::log::turn::Turn;

/// How long one who waits sleeps before looking again, and after which a log without room is tried again.
const WAIT: Duration = Duration::from_millis(50);

/// How long a turn waits for those who will come, at most.
const GATHER: Duration = Duration::from_micros(500);

/// What a turn copies from.
#[derive(Clone, Copy)]
pub(crate) struct Source<'s> {
    pub(crate) lanes: &'s Lanes,
    pub(crate) names: &'s Names,
    /// The last id that the store gave. Who takes the turn may have come before others whom it serves.
    pub(crate) last_id: &'s AtomicU64,
}

/// Why nothing comes to the disk.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) since: Instant,
    pub(crate) text: String,
    /// Whether it stays so until the store is opened again.
    pub(crate) broken: bool,
}

struct State {
    /// Turns that were begun, and the last one that put everything on the disk.
    begun: u64,
    done: u64,
    running: bool,
    /// How many wait for the turn that comes next, and how many will, going by the last one: those whom it served come
    /// again.
    coming: u32,
    expected: u32,
    /// How long a turn takes.
    took: Duration,
    /// When that one began: what was there then is on the disk.
    covered: Instant,
    trouble: Option<Trouble>,
}

/// What is counted. Who has the turn writes it.
#[derive(Default)]
pub(crate) struct LogCounters {
    pub(crate) turns: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) rewritten_bytes: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) segments: AtomicU64,
    /// Bytes of pages that only the log has beside memory.
    pub(crate) live_bytes: AtomicU64,
}

pub(crate) struct Log {
    pub(crate) mode: DiskSync,
    state: Mutex<State>,
    /// Rung when a turn has ended.
    ended: Condvar,
    /// Rung when all have come whom the next turn waits for.
    gathered: Condvar,
    turn: Mutex<Turn>,
    /// Held by who prepares a segment: another one would write over it when it is in use.
    pub(crate) preparing: Mutex<()>,
    pub(crate) counters: LogCounters,
    /// Microseconds of turns that had something to write.
    pub(crate) latency: Mutex<Histogram<u64>>,
}

impl Log {
    pub(crate) fn new(mode: DiskSync, turn: Turn, latency: Histogram<u64>) -> Self {
        let covered = clock::now();
        let state = State {
            begun: 0,
            done: 0,
            running: false,
            coming: 0,
            expected: 0,
            took: Duration::ZERO,
            covered,
            trouble: None,
        };
        Self {
            mode,
            state: Mutex::new(state),
            ended: Condvar::new(),
            gathered: Condvar::new(),
            turn: Mutex::new(turn),
            preparing: Mutex::new(()),
            counters: LogCounters::default(),
            latency: Mutex::new(latency),
        }
    }

    /// Whether appends wait for the disk.
    pub(crate) fn waits(&self) -> bool {
        self.mode == DiskSync::EveryBatch
    }

    /// Waits until everything is on the disk that was committed when this was called.
    ///
    /// # Errors
    /// [`ErrorKind::NotDurable`] when the log is broken, or has no room until the deadline.
    pub(crate) fn sync(&self, source: &Source<'_>, deadline: Deadline) -> Result<()> {
        let mut state = self.state.lock();
        if cfg!(canary = "answered-before-synced") {
            return Ok(());
        }
        // A turn that has begun may have passed what the caller means.
        let ticket = state.begun + 1;
        state.coming += 1;
        if state.coming >= state.expected {
            self.gathered.notify_one();
        }
        loop {
            if let Some(trouble) = state.trouble.as_ref().filter(|trouble| trouble.broken) {
                return Err(trouble.error());
            }
            if !state.running {
                state = self.run(state, source);
            }
            if state.done >= ticket {
                return Ok(());
            }
            if deadline.has_passed() {
                return Err(state.trouble.as_ref().map_or_else(Trouble::silence, Trouble::error));
            }
            self.ended.wait_for(&mut state, deadline.left(WAIT));
            if state.done >= ticket {
                return Ok(());
            }
        }
    }

    /// Takes a turn for all who wait, unless somebody has it.
    pub(crate) fn take_turn(&self, source: &Source<'_>) {
        let state = self.state.lock();
        if !state.running && !state.trouble.as_ref().is_some_and(|trouble| trouble.broken) {
            drop(self.run(state, source));
        }
    }

    /// Takes the turn.
    fn run<'l>(&'l self, mut state: MutexGuard<'l, State>, source: &Source<'_>) -> MutexGuard<'l, State> {
        state.running = true;
        // Without this, two who append by turns would each have the disk for themselves, and wait for the other.
        let until = Deadline::after((state.took / 4).min(GATHER));
        while state.coming < state.expected && !until.has_passed() {
            self.gathered.wait_for(&mut state, until.left(GATHER));
        }
        state.begun += 1;
        let (number, served) = (state.begun, std::mem::take(&mut state.coming));
        drop(state);
        let began = clock::now();
        let outcome = call_user("a turn of the log", || self.turn.lock().take(source, &self.counters));
        // Nobody knows then what it has written. Nor may others wait for one who does not come back.
        let outcome = outcome.unwrap_or_else(|panic| Err(Failure::Broken(std::io::Error::other(panic))));
        if let Ok(true) = outcome {
            let took = clock::now().saturating_duration_since(began);
            self.latency.lock().saturating_record(took.as_micros() as u64);
        }
        let mut state = self.state.lock();
        state.running = false;
        state.expected = served + state.coming;
        if let Ok(true) = outcome {
            state.took = (state.took * 3 + clock::now().saturating_duration_since(began)) / 4;
        }
        match outcome {
            Ok(_) => {
                (state.done, state.covered, state.trouble) = (number, began, None);
                self.counters.turns.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => {
                let since = state.trouble.as_ref().map_or(began, |trouble| trouble.since);
                state.trouble = Some(Trouble::of(&failure, since));
            }
        }
        self.ended.notify_all();
        state
    }

    /// Prepares the next segment, while others write, so that nobody has to wait for it.
    pub(crate) fn prepare(&self) {
        let Some(_preparing) = self.preparing.try_lock() else { return };
        let Some((path, len, fill)) = self.turn.lock().wants_spare() else { return };
        // Whoever needs one before it is ready makes another. Where there is no room, that will be told then.
        if prepare(&path, len, fill).is_ok() {
            self.turn.lock().prepared();
        }
    }

    /// How long ago everything of that moment was on the disk.
    pub(crate) fn lag(&self) -> Duration {
        let covered = self.state.lock().covered;
        clock::now().saturating_duration_since(covered)
    }

    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.state.lock().trouble.clone()
    }

    /// Deletes everything, where the cold tier has it all. Nobody appends any more.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn clear(&self) -> Result<()> {
        self.turn.lock().clear()
    }

    #[cfg(test)]
    pub(crate) fn fail_syncs(&self, fail: bool) {
        self.turn.lock().fail_syncs(fail);
    }

    #[cfg(test)]
    pub(crate) fn slow_down(&self, by: Duration) {
        self.turn.lock().slow_down(by);
    }

    #[cfg(test)]
    pub(crate) fn panic_in_sync(&self) {
        self.turn.lock().panic_in_sync();
    }
}

impl Trouble {
    fn silence() -> Error {
        let text = "the disk has not answered in time; what was appended is in memory, and is on the disk as soon as that \
                    answers: Store::sync waits for it";
        Error::new(ErrorKind::NotDurable, text)
    }

    /// What an append is told that was not let in.
    pub(crate) fn refusal(&self) -> Error {
        let text = format!(
            "{}; nothing is appended any more, reads go on; open the store again, when the disk is well, to go on",
            self.text
        );
        Error::new(ErrorKind::NotDurable, text)
    }

    fn of(failure: &Failure, since: Instant) -> Self {
        let (broken, text) = match failure {
            Failure::NoSegment(error) => (false, format!("the log has no room for a segment more: {error}")),
            Failure::Broken(error) => (true, format!("the log could not be written: {error}")),
        };
        Self { since, text, broken }
    }

    /// What whoever waited for the disk is told.
    pub(crate) fn error(&self) -> Error {
        let advice = match self.broken {
            true => "open the store again, when the disk is well, to go on",
            false => "make room on the disk of the data directory",
        };
        Error::new(
            ErrorKind::NotDurable,
            format!(
                "{}; what was appended is in memory and survives the end of the process, but not the loss of power; {advice}",
                self.text
            ),
        )
    }
}
