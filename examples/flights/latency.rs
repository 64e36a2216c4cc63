//! Measuring how long calls take.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The machine's monotonic clock.
#[expect(
    clippy::disallowed_methods,
    reason = "what is measured here is real time, whatever the store's clock says"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long calls of one sort took, in nanoseconds, three digits exact.
pub(crate) struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        // One nanosecond to a minute. The bounds and the digits are within what the crate takes, so this cannot fail.
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are valid"))
    }
}

impl Latency {
    /// Measures one call.
    pub(crate) fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let begin = now();
        let outcome = call();
        self.add(begin.elapsed());
        outcome
    }

    /// Adds a measured call.
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.saturating_record(took.as_nanos() as u64);
    }

    /// Adds `count` things that took so long together: each counts with its share.
    pub(crate) fn add_shares(&mut self, took: Duration, count: u64) {
        if let Some(share) = (took.as_nanos() as u64).checked_div(count) {
            self.0.saturating_record_n(share, count);
        }
    }

    /// How many were measured.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time within which that share of them was done, in nanoseconds.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share)
    }

    /// The slowest, in nanoseconds.
    pub(crate) fn max(&self) -> u64 {
        self.0.max()
    }
}

/// Everything that is measured.
#[derive(Default)]
pub(crate) struct Latencies {
    /// Reading the clock twice: a part of every figure below.
    pub(crate) timer: Latency,
    /// `append` of one event.
    pub(crate) append: Latency,
    /// `append_batch`.
    pub(crate) batch: Latency,
    /// `append_batch`, shared among the events.
    pub(crate) batch_event: Latency,
    /// `get` of events that are young enough to be hot.
    pub(crate) get_young: Latency,
    /// `get` of older events in memory.
    pub(crate) get_older: Latency,
    /// `get` of events that are not in memory.
    pub(crate) get_absent: Latency,
    /// `fetch` of events in memory.
    pub(crate) fetch_memory: Latency,
    /// `fetch` of events in the cold tier only.
    pub(crate) fetch_cold: Latency,
    /// `fetch` of events that are nowhere.
    pub(crate) fetch_absent: Latency,
    /// The newest 100 of a stream, from memory.
    pub(crate) newest_memory: Latency,
    /// The newest 100 of a stream, from all tiers.
    pub(crate) newest_all: Latency,
    /// Whole histories from all tiers, per event.
    pub(crate) history_event: Latency,
    /// Scans of memory, per event.
    pub(crate) scan_memory_event: Latency,
    /// Scans of ranges through all tiers in the order of time, per event.
    pub(crate) scan_range_event: Latency,
    /// The scan of everything, per event.
    pub(crate) scan_all_event: Latency,
}

impl Latencies {
    /// Empty, but for what reading the clock takes.
    pub(crate) fn new() -> Self {
        let mut latencies = Self::default();
        for _ in 0..100_000 {
            latencies.timer.time(|| ());
        }
        latencies
    }

    /// All of them with their names.
    pub(crate) fn rows(&self) -> [(&'static str, &Latency); 16] {
        [
            ("(reading the clock)", &self.timer),
            ("append, one event", &self.append),
            ("append_batch of 64", &self.batch),
            ("  per event", &self.batch_event),
            ("get, younger than the hot window", &self.get_young),
            ("get, older, in memory", &self.get_older),
            ("get, not in memory", &self.get_absent),
            ("history, newest 100, memory", &self.newest_memory),
            ("history, newest 100, all tiers", &self.newest_all),
            ("history, whole, all tiers, per event", &self.history_event),
            ("scan, memory, per event", &self.scan_memory_event),
            ("scan, a range in order, per event", &self.scan_range_event),
            ("scan, the whole year, per event", &self.scan_all_event),
            ("fetch, in memory", &self.fetch_memory),
            ("fetch, in the cold tier", &self.fetch_cold),
            ("fetch, nowhere", &self.fetch_absent),
        ]
    }
}
