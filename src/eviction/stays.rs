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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::PageId;
    use crate::ids::{Class, LogicalPage};

    fn page(tier: Tier, newest_ms: i64) -> PageSummary {
        PageSummary {
            id: PageId { page: LogicalPage(1), generation: 0 },
            class: Class::DEFAULT,
            tier,
            newest_ms,
            arrived_ms: newest_ms,
            read_ms: None,
            read_before_ms: None,
            events: 4,
            removed: 1,
            raw_bytes: 4_000,
            live_bytes: 3_000,
            pages: 1,
            clean: true,
            open: false,
            may_leave: true,
            expired: false,
        }
    }

    #[test]
    fn the_share_of_its_time_that_a_page_stayed() {
        let second = Duration::from_secs;
        let class = ClassConfig::new("a").hot_for(second(10)).warm_for(second(100));
        let stays = Stays::default();
        let begin = stays.sums();
        assert_eq!((begin.since(&begin), begin.compression()), ([None, None], None));
        stays.squeezed(&page(Tier::Hot, 0), 1_000, &class, 2_500);
        assert_eq!(stays.sums().since(&begin), [Some(250), None]);
        // Longer than its time is its time; a clock that went back is no time at all.
        stays.squeezed(&page(Tier::Hot, 0), 1_000, &class, 50_000);
        stays.squeezed(&page(Tier::Hot, 9_000), 1_000, &class, 8_000);
        let before = stays.sums();
        assert_eq!((before.since(&begin), before.compression()), ([Some(416), None], Some(4.0)));
        stays.left(&page(Tier::Warm, 0), &class, 80_000);
        assert_eq!(stays.sums().since(&before), [None, Some(800)]);
        // Straight from the hot region: the time of both.
        stays.left(&page(Tier::Hot, 0), &class, 5_000);
        assert_eq!(stays.sums().since(&before), [Some(500), Some(425)]);
        let before = stays.sums();
        stays.left(&page(Tier::Hot, 0), &class.clone().compress(false), 50_000);
        assert_eq!(
            stays.sums().since(&before),
            [Some(500), Some(500)],
            "its only time is that of the warm region"
        );
        let before = stays.sums();
        stays.left(&PageSummary { expired: true, ..page(Tier::Warm, 0) }, &class, 5_000);
        stays.left(&PageSummary { removed: 4, ..page(Tier::Warm, 0) }, &class, 5_000);
        assert_eq!(stays.sums().since(&before), [None, None], "nobody wanted them any more");
    }
}
