//! How long pages stayed where they were, against the time that their classes name: for whoever divides the memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::ClassConfig;
use crate::eviction::{PageSummary, Tier, millis};

/// Sums since the store opened.
#[derive(Default)]
pub(crate) struct Stays {
    /// Pages that left the hot region, and those that left memory.
    pages: [AtomicU64; 2],
    /// Over those: the share of its time that each stayed, in thousandths, 1,000 at most.
    shares: [AtomicU64; 2],
    /// Bytes of records that were squeezed, and what became of them.
    raw: AtomicU64,
    packed: AtomicU64,
}

/// The sums at a moment.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct StaySums {
    pages: [u64; 2],
    shares: [u64; 2],
    raw: u64,
    packed: u64,
}

impl Stays {
    /// A page is squeezed.
    pub(super) fn squeezed(&self, page: &PageSummary, packed: u32, class: &ClassConfig, now_ms: i64) {
        self.add(0, page, class.hot_for, now_ms);
        self.raw.fetch_add(page.raw_bytes.into(), Ordering::Relaxed);
        self.packed.fetch_add(packed.into(), Ordering::Relaxed);
    }

    /// A page leaves memory.
    pub(super) fn left(&self, page: &PageSummary, class: &ClassConfig, now_ms: i64) {
        if page.events == page.removed || page.expired {
            return;
        }
        self.add(1, page, class.warm_for, now_ms);
        if page.tier == Tier::Hot {
            // It goes without the warm region: for it the hot one is all of memory.
            self.add(0, page, if class.compress { class.hot_for } else { class.warm_for }, now_ms);
        }
    }

    fn add(&self, from: usize, page: &PageSummary, time: Duration, now_ms: i64) {
        let (age, time) = (now_ms.saturating_sub(page.newest_ms).max(0), millis(time).max(1));
        let share = (age as f64 / time as f64 * 1000.0).min(1000.0) as u64;
        self.pages[from].fetch_add(1, Ordering::Relaxed);
        self.shares[from].fetch_add(share, Ordering::Relaxed);
    }

    pub(crate) fn sums(&self) -> StaySums {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StaySums {
            pages: self.pages.each_ref().map(load),
            shares: self.shares.each_ref().map(load),
            raw: load(&self.raw),
            packed: load(&self.packed),
        }
    }
}

impl StaySums {
    /// The share of their time that pages stayed since then, in the hot region and in memory, in thousandths; `None` where
    /// none has left.
    pub(crate) fn since(&self, before: &Self) -> [Option<u32>; 2] {
        [0, 1].map(|at| {
            let pages = self.pages[at].saturating_sub(before.pages[at]);
            let shares = self.shares[at].saturating_sub(before.shares[at]);
            shares.checked_div(pages).map(|share| share as u32)
        })
    }

    /// How many times smaller records are in the warm region; `None` before any was squeezed.
    pub(crate) fn compression(&self) -> Option<f64> {
        (self.packed > 0).then(|| (self.raw as f64 / self.packed as f64).max(1.0))
    }
}
