//! Random pages, of which the coldest goes; and warm pages that are read often come back.

use std::cmp::Reverse;

use crate::eviction::size::{Need, squeeze_oldest};
use crate::eviction::victims::{Ranking, lower_can_be_squeezed, merged};
use crate::eviction::{PageSummary, Plan, Policy, SizeThreshold, Tier, View, millis};
use crate::pressure::RegionKind;

/// Warm pages that are looked at in a step.
const WARM_SAMPLE: usize = 16;
/// Pages that are unpacked in a step at most: each costs a tenth of a millisecond.
const PROMOTED_MAX: usize = 4;
/// How much later, in milliseconds, a warm page must have been read than the hot page that makes room for it.
const MARGIN_MS: i64 = 2_000;

/// As [`SizeThreshold`], but of the hot pages the coldest of five random ones is squeezed: the one whose read before the
/// last lies furthest back (Apache Ignite's `RANDOM_2_LRU`). A page that was not read twice counts from its arrival. So
/// one pass over old pages does not make them warm-proof, and nothing has to be kept in order.
///
/// Warm pages that were read twice since the coldest hot page of a sample was are unpacked again, some in each step.
#[derive(Clone, Debug)]
#[must_use]
pub struct Random2Lru {
    size: SizeThreshold,
    sample: usize,
    promote: bool,
    step: u64,
}

impl Default for Random2Lru {
    fn default() -> Self {
        Self { size: SizeThreshold::new(), sample: 5, promote: true, step: 0 }
    }
}

impl Random2Lru {
    /// Samples of five, with promotion.
    pub fn new() -> Self {
        Self::default()
    }

    /// Samples of so many pages, from 1 to 64.
    pub fn sample(mut self, pages: usize) -> Self {
        self.sample = pages.clamp(1, 64);
        self
    }

    /// Whether warm pages that are read often are unpacked again (default: yes).
    pub fn promote(mut self, yes: bool) -> Self {
        self.promote = yes;
        self
    }
}

/// The time from which on a page is cold.
pub(super) fn cold_since(page: &PageSummary) -> i64 {
    page.read_before_ms.unwrap_or(i64::MIN).max(page.arrived_ms)
}

/// The coldest of some random hot pages that can be squeezed and have no part in the plan.
pub(super) fn coldest(view: &View<'_>, plan: &Plan, ranking: &Ranking, sample: usize) -> Option<PageSummary> {
    view.sample(Tier::Hot, sample).filter(|page| !view.leaves_from_hot(page) && !plan.has(page)).min_by_key(
        |page| {
            let (_, within_quota, priority, ..) = ranking.of(view, page, false);
            (within_quota, priority, cold_since(page))
        },
    )
}

fn squeeze_coldest(view: &View<'_>, plan: &mut Plan, need: &Need, sample: usize) {
    let ranking = Ranking::new(view);
    let leaving = |page: &PageSummary| page.may_leave && view.leaves_from_hot(page);
    let mut unpacked = merged(
        view,
        |lane| lane.oldest.filter(leaving),
        |page| view.newer(page).filter(leaving),
        |page| ranking.of(view, page, false),
    )
    .peekable();
    while need.of(RegionKind::Hot, plan) > 0 {
        let squeezed = coldest(view, plan, &ranking, sample);
        let key = |page: &PageSummary, since: i64| {
            let (_, within_quota, priority, ..) = ranking.of(view, page, false);
            (within_quota, priority, since)
        };
        let leaves_first = match (&squeezed, unpacked.peek()) {
            (Some(page), Some(other)) => key(other, other.arrived_ms) < key(page, cold_since(page)),
            (squeezed, _) => squeezed.is_none(),
        };
        // A sample may have missed one of a lower class: before one of a higher class leaves, all are looked at.
        if leaves_first && unpacked.peek().is_some_and(|page| lower_can_be_squeezed(view, page)) {
            break;
        }
        let planned = match (squeezed, leaves_first) {
            (Some(page), false) => plan.demote(&page),
            _ => unpacked.next().is_some_and(|page| plan.release(&page)),
        };
        if !planned {
            break;
        }
    }
    // A sample finds none that are still written, and may find nothing where hot pages are few.
    if need.of(RegionKind::Hot, plan) > 0 {
        squeeze_oldest(view, plan, need);
    }
}

/// Plans to unpack warm pages that are read more than hot ones, which make room for them if there is none.
pub(super) fn promote(view: &View<'_>, plan: &mut Plan, sample: usize) {
    let ranking = Ranking::new(view);
    let hot = view.region(RegionKind::Hot);
    let limit = (hot.max as f64 * view.config().thresholds.warning) as i64;
    let mut promoted = 0;
    let read_lately = |page: PageSummary| {
        // What was not read for as long as its class's events are hot would be squeezed again by its age.
        let hot_for = millis(view.class_config(page.class).hot_for);
        let lately = |read: &i64| view.now_ms().saturating_sub((*read).max(page.newest_ms)) < hot_for;
        page.read_before_ms.filter(lately).map(|read| (read, page))
    };
    let mut read: Vec<(i64, PageSummary)> =
        view.sample(Tier::Warm, WARM_SAMPLE).filter_map(read_lately).collect();
    // The one that was read last first: of those that are hardly better than what makes room for them, many would take
    // the place of each other until the right ones are hot.
    read.sort_by_key(|(read, _)| Reverse(*read));
    for (read, page) in read {
        if promoted == PROMOTED_MAX || view.wanted_pages() > 0 {
            break;
        }
        if plan.has(&page) {
            continue;
        }
        let pages = u64::from(page.raw_bytes).div_ceil(hot.page_bytes.max(1)) as i64;
        // What readers hold back cannot be had, however much is squeezed.
        if hot.used + hot.held_back + pages as u64 > hot.max {
            break;
        }
        let room = hot.used as i64 - plan.freed(RegionKind::Hot) + pages <= limit;
        if !room {
            let Some(cold) = coldest(view, plan, &ranking, sample) else { continue };
            let makes_room = i64::from(cold.pages) >= pages && !view.warm_is_full();
            if !makes_room || read < cold_since(&cold) + MARGIN_MS || !plan.demote(&cold) {
                continue;
            }
        }
        promoted += usize::from(plan.promote(&page));
    }
}

impl Policy for Random2Lru {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        let sample = self.sample;
        self.size.plan_with(view, plan, |view, plan, need| squeeze_coldest(view, plan, need, sample));
        if self.promote && self.step != view.step() {
            self.step = view.step();
            promote(view, plan, sample);
        }
    }

    fn wants_reads(&self) -> bool {
        true
    }
}
