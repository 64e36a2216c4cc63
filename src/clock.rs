//! Time. The only file that asks the operating system for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where the store takes its time from.
///
/// Event ages, retention and page summaries follow this clock, in milliseconds since the Unix epoch.
/// Time-outs and deadlines of calls always follow the machine's monotonic clock.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// The last reading of a store's thread, or zero while none keeps it fresh.
    System(Arc<AtomicI64>),
    Manual(Arc<AtomicI64>),
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
    /// ```
    /// let clock = esker::Clock::manual(1_000);
    /// clock.set_ms(5_000);
    /// assert_eq!(clock.now_ms(), 5_000);
    /// ```
    pub fn manual(start_ms: i64) -> Self {
        Self(Kind::Manual(Arc::new(AtomicI64::new(start_ms))))
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            Kind::System(_) => system_ms(),
            Kind::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// The time as it was a few milliseconds ago at most: for what happens once for every event.
    pub(crate) fn coarse_ms(&self) -> i64 {
        match &self.0 {
            Kind::System(last) => match last.load(Ordering::Relaxed) {
                0 => system_ms(),
                last => last,
            },
            Kind::Manual(now) => now.load(Ordering::Relaxed),
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
        if let Kind::Manual(now) = &self.0 {
            now.store(now_ms, Ordering::Relaxed);
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

/// The monotonic clock.
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
