//! Time. The only file that asks the operating system for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where the store takes its time from.
///
/// Event ages, retention and page summaries follow this clock, in milliseconds since the Unix epoch.
/// Time-outs and deadlines of calls follow the machine's monotonic clock, but for appends and resizes of a store that is
/// stepped: see [`Clock::manual`].
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// The last reading of a store's thread, or zero while none keeps it fresh.
    System(Arc<AtomicI64>),
    Manual(Arc<Manual>),
    /// The same for a store without threads: its monotonic time follows it, too.
    Stepped(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    now_ms: AtomicI64,
    /// By how much it was set forward since it began. What sets it back leaves that.
    passed_ms: AtomicU64,
    begin: Instant,
}

impl Clock {
    /// The machine's wall clock.
    pub fn system() -> Self {
        Self(Kind::System(Arc::default()))
    }

    /// A clock that moves only when told to: for tests, simulations and replays.
    ///
    /// Clones share one time.
    ///
    /// A store with such a clock that has no threads ([`background(false)`](crate::ConfigBuilder::background)) is *stepped*:
    /// nothing in it depends on how fast the machine is, if a [slice](crate::ConfigBuilder::slice) of the mover's work has time
    /// enough and its rate has no limit. Given the same seed and the same calls it does the same each time.
    /// What its threads would do after some time is due when this clock has been set forward by as much, and
    /// [`Store::append`](crate::Store::append) and [`Store::resize_region`](crate::Store::resize_region) do not sleep: they try
    /// again at once, as often as their time-out has turns of waiting (of 10 and of 2 milliseconds). So they do not wait for what
    /// another thread does, such as dropping a guard.
    ///
    /// ```
    /// let clock = esker::Clock::manual(1_000);
    /// clock.set_ms(5_000);
    /// assert_eq!(clock.now_ms(), 5_000);
    /// ```
    pub fn manual(start_ms: i64) -> Self {
        let (now_ms, passed_ms) = (AtomicI64::new(start_ms), AtomicU64::new(0));
        Self(Kind::Manual(Arc::new(Manual { now_ms, passed_ms, begin: now() })))
    }

    /// The clock of a store, which may have threads.
    pub(crate) fn of_store(self, background: bool) -> Self {
        match self.0 {
            Kind::Manual(manual) if !background => Self(Kind::Stepped(manual)),
            _ => self,
        }
    }

    /// Whether nothing may depend on how fast the machine is.
    pub(crate) fn is_stepped(&self) -> bool {
        matches!(self.0, Kind::Stepped(_))
    }

    /// The monotonic time.
    pub(crate) fn instant(&self) -> Instant {
        let Kind::Stepped(manual) = &self.0 else { return now() };
        let passed = Duration::from_millis(manual.passed_ms.load(Ordering::Relaxed));
        manual.begin.checked_add(passed).unwrap_or(manual.begin)
    }

    /// For how long a call may try again.
    pub(crate) fn patience(&self, limit: Duration) -> Patience {
        if self.is_stepped() { Patience::Left(limit) } else { Patience::Until(Deadline::after(limit)) }
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            Kind::System(_) => system_ms(),
            Kind::Manual(manual) | Kind::Stepped(manual) => manual.now_ms.load(Ordering::Relaxed),
        }
    }

    /// The time as it was a few milliseconds ago at most: for what happens once for every event.
    pub(crate) fn coarse_ms(&self) -> i64 {
        match &self.0 {
            Kind::System(last) => match last.load(Ordering::Relaxed) {
                0 => system_ms(),
                last => last,
            },
            Kind::Manual(manual) | Kind::Stepped(manual) => manual.now_ms.load(Ordering::Relaxed),
        }
    }

    /// Keeps the coarse time fresh; `false` says that nobody will any more.
    pub(crate) fn tick(&self, running: bool) {
        if let Kind::System(last) = &self.0 {
            last.store(if running { system_ms() } else { 0 }, Ordering::Relaxed);
        }
    }

    /// Sets a manual clock; a system clock ignores it.
    pub fn set_ms(&self, now_ms: i64) {
        if let Kind::Manual(manual) | Kind::Stepped(manual) = &self.0 {
            let before = manual.now_ms.swap(now_ms, Ordering::Relaxed);
            if now_ms > before {
                manual.passed_ms.fetch_add(now_ms.abs_diff(before), Ordering::Relaxed);
            }
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the room of the clocks")]
fn system_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

/// A point on the monotonic clock after which a call gives up. `None` is "never".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        Self(now().checked_add(limit))
    }

    pub(crate) fn never() -> Self {
        Self(None)
    }

    pub(crate) fn has_passed(self) -> bool {
        self.0.is_some_and(|at| now() >= at) && !cfg!(canary = "deadline-ignored")
    }

    /// What is left until the deadline, at most `cap`.
    pub(crate) fn left(self, cap: Duration) -> Duration {
        self.0.map_or(cap, |at| at.saturating_duration_since(now()).min(cap))
    }
}

/// How long something is tried again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    Until(Deadline),
    /// In a stepped store nothing happens while it waits, so turns of waiting are only counted: so much is left.
    Left(Duration),
}

impl Patience {
    pub(crate) fn is_over(self) -> bool {
        match self {
            Self::Until(deadline) => deadline.has_passed(),
            Self::Left(left) => left.is_zero(),
        }
    }

    /// How long the next turn of waiting is, at most `cap`.
    pub(crate) fn turn(&mut self, cap: Duration) -> Duration {
        match self {
            Self::Until(deadline) => deadline.left(cap),
            Self::Left(left) => {
                *left = left.saturating_sub(cap);
                Duration::ZERO
            }
        }
    }
}

/// The machine's monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the room of the clocks")]
pub(crate) fn now() -> Instant {
    #[cfg(test)]
    if let Some(stopped) = tests::STOPPED.get() {
        return stopped;
    }
    Instant::now()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Where the monotonic clock of this thread stands still, for tests that move it themselves.
        pub(crate) static STOPPED: Cell<Option<Instant>> = const { Cell::new(None) };
    }
}
