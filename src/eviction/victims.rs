//! Which pages go first under pressure: lanes are merged by a rank, oldest page first within each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::config::Config;
use crate::eviction::{LaneView, PageSummary, View};
use crate::ids::Class;
use crate::lanes::append::Lanes;

/// What decides between pages of different lanes; the least goes first.
pub(super) type Rank = (bool, bool, u8, bool, i64);

/// Ranks pages: those of classes above their quota first, then those of low priority, then those that are not written any
/// more, then those that came first.
pub(super) struct Ranking {
    above_quota: u32,
    /// The highest priority of a class whose pages leave memory where others are squeezed.
    leaving: Option<u8>,
}

impl Ranking {
    pub(super) fn new(view: &View<'_>) -> Self {
        let classes = (0..view.config().classes.len()).map(Class::new);
        let above = classes.filter(|class| above_quota(view.config, view.store, *class) > 0);
        let leaving =
            view.config().classes.iter().filter(|class| !class.compress).map(|class| class.priority);
        Self {
            above_quota: above.fold(0, |classes, class| classes | 1 << class.index()),
            leaving: leaving.max(),
        }
    }

    /// The rank of a hot page that may be squeezed, or leave where its class goes without the warm region. Pages that are
    /// still written are squeezed last, since closing them leaves room unused; but before one of a higher class leaves.
    pub(super) fn of_hot(&self, view: &View<'_>, page: &PageSummary) -> Rank {
        let class = view.class_config(page.class);
        let spared = page.open && class.compress && self.leaving.is_none_or(|above| above <= class.priority);
        self.of(view, page, spared)
    }

    /// `last`: whether the page comes after all others.
    pub(super) fn of(&self, view: &View<'_>, page: &PageSummary, last: bool) -> Rank {
        let within_quota = self.above_quota >> page.class.index() & 1 == 0;
        (last, within_quota, view.class_config(page.class).priority, page.open, page.arrived_ms)
    }
}

/// Whether a hot page of a class of lower priority can be squeezed, which comes before that a page of this one leaves.
pub(super) fn lower_can_be_squeezed(view: &View<'_>, page: &PageSummary) -> bool {
    let priority = view.class_config(page.class).priority;
    let lower = |page: PageSummary| {
        let class = view.class_config(page.class);
        class.compress && class.priority < priority
    };
    view.lanes().iter().filter_map(|lane| lane.oldest_hot).any(lower)
}

/// Bytes that a class takes above its quota, open pages not counted.
pub(super) fn above_quota(config: &Config, lanes: &Lanes, class: Class) -> u64 {
    let Some(quota) = config.classes[class.index()].quota else { return 0 };
    let open = config.partitions as u64 * config.hot.page_size;
    lanes.quota_of(class)[0].saturating_sub(quota.saturating_add(open))
}

/// The share of the quota of a class whose pages are squeezed that is for its hot pages: as the regions are to each other.
pub(super) fn hot_quota(config: &Config, class: Class) -> u64 {
    let Some(quota) = config.classes[class.index()].quota else { return u64::MAX };
    (u128::from(quota) * u128::from(config.hot.max) / u128::from(config.hot.max + config.warm.max)) as u64
}

/// Pages in the order of their ranks. `first` gives a lane's first page, `next` the one after a page.
pub(super) fn merged<'v, 'a, N>(
    view: &'v View<'a>,
    first: impl Fn(&LaneView) -> Option<PageSummary>,
    next: N,
    rank: impl Fn(&PageSummary) -> Rank + 'v,
) -> impl Iterator<Item = PageSummary> + 'v
where
    N: Fn(&PageSummary) -> Option<PageSummary> + 'v,
{
    let mut pages: Vec<PageSummary> = view.lanes().iter().filter_map(first).collect();
    let heap = pages.iter().enumerate().map(|(at, page)| Reverse((rank(page), at)));
    let mut heap: BinaryHeap<_> = heap.collect();
    std::iter::from_fn(move || {
        let Reverse((_, at)) = heap.pop()?;
        let page = pages[at];
        if let Some(next) = next(&page) {
            heap.push(Reverse((rank(&next), at)));
            pages[at] = next;
        }
        Some(page)
    })
}
