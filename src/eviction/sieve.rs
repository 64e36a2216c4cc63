//! A hand that goes over hot pages from old to new, and spares those that were read since it last came by.

use std::collections::HashMap;

use crate::eviction::random::promote;
use crate::eviction::size::{Need, squeeze_oldest};
use crate::eviction::victims::{Ranking, lower_can_be_squeezed, merged};
use crate::eviction::{LaneView, PageId, PageSummary, Plan, Policy, SizeThreshold, Tier, View};
use crate::ids::Class;
use crate::pressure::RegionKind;

/// Pages that a hand passes in one plan at most.
const PASSED_MAX: usize = 1024;

/// As [`SizeThreshold`], but of the hot pages those are squeezed that were not read since a hand last came by (Zhang et
/// al., "SIEVE is simpler than LRU", 2024). In each lane a hand goes from the oldest hot page to the newest and begins
/// again; a page that was read is spared and stays where it is.
///
/// Warm pages that are read often are unpacked again, as by [`Random2Lru`](crate::policy::Random2Lru).
#[derive(Clone, Debug)]
#[must_use]
pub struct Sieve {
    size: SizeThreshold,
    hands: Hands,
    promote: bool,
    step: u64,
}

#[derive(Clone, Debug, Default)]
struct Hands {
    /// For each lane, by partition and class, the page that is looked at next.
    at: HashMap<(usize, Class), PageId>,
    /// When pages were spared, in milliseconds since the epoch.
    spared: HashMap<PageId, i64>,
}

impl Default for Sieve {
    fn default() -> Self {
        Self { size: SizeThreshold::new(), hands: Hands::default(), promote: true, step: 0 }
    }
}

impl Sieve {
    /// With promotion.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether warm pages that are read often are unpacked again (default: yes).
    pub fn promote(mut self, yes: bool) -> Self {
        self.promote = yes;
        self
    }
}

impl Hands {
    /// Whether a page was read since the hand last passed it, or since it came. Times of reads are in whole seconds.
    fn was_read(&self, page: &PageSummary) -> bool {
        let since = self.spared.get(&page.id).copied().unwrap_or(page.arrived_ms);
        page.read_ms.is_some_and(|read| read.div_euclid(1000) > since.div_euclid(1000))
    }

    fn squeeze(&mut self, view: &View<'_>, plan: &mut Plan, need: &Need) {
        // Squeezed pages and those that left are spared no more.
        if self.spared.len() as u64 > 2 * view.region(RegionKind::Hot).used + 64 {
            self.spared.retain(|id, _| view.page(*id).is_some_and(|page| page.tier == Tier::Hot));
        }
        // In a second turn those that the first one spared go, if they must.
        for _ in 0..2 {
            self.turn(view, plan, need);
            if need.of(RegionKind::Hot, plan) <= 0 || plan.is_full() {
                return;
            }
        }
        // What is still written.
        squeeze_oldest(view, plan, need);
    }

    /// Goes on with each lane's hand, up to the lane's end. Where pages leave without being squeezed, the oldest go.
    fn turn(&mut self, view: &View<'_>, plan: &mut Plan, need: &Need) {
        let ranking = Ranking::new(view);
        let leaves = |page: &PageSummary| view.leaves_from_hot(page);
        let may_leave = |page: &PageSummary| page.may_leave && leaves(page);
        let squeezable = |page: &PageSummary| page.tier == Tier::Hot && !page.open;
        let at = &self.at;
        let first = |lane: &LaneView| {
            if let Some(page) = lane.oldest.filter(leaves) {
                return Some(page).filter(may_leave);
            }
            let hand = at.get(&(lane.partition, lane.class)).and_then(|id| view.page(*id));
            hand.filter(squeezable).or(lane.oldest_hot.filter(squeezable))
        };
        let next = |page: &PageSummary| match leaves(page) {
            true => view.newer(page).filter(may_leave),
            false => view.newer_hot(page).filter(squeezable),
        };
        let pages = merged(view, first, next, |page| ranking.of_hot(view, page));
        let pages: Vec<PageSummary> = pages.take(PASSED_MAX).collect();
        for page in pages {
            if need.of(RegionKind::Hot, plan) <= 0 {
                break;
            }
            if leaves(&page) {
                // One that has reached its age goes anyway; another one does not before those of lower classes.
                let early = !view.class_config(page.class).compress;
                if early && lower_can_be_squeezed(view, &page) || !plan.release(&page) && !plan.has(&page) {
                    break;
                }
                continue;
            }
            if self.was_read(&page) {
                self.spared.insert(page.id, view.now_ms());
            } else if !plan.demote(&page) && !plan.has(&page) {
                break;
            }
            let lane = (view.partition_of(&page), page.class);
            match view.newer_hot(&page).filter(squeezable) {
                Some(next) => self.at.insert(lane, next.id),
                None => self.at.remove(&lane),
            };
        }
    }
}

impl Policy for Sieve {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        let hands = &mut self.hands;
        self.size.plan_with(view, plan, |view, plan, need| hands.squeeze(view, plan, need));
        if self.promote && self.step != view.step() {
            self.step = view.step();
            promote(view, plan, 5);
        }
    }

    fn wants_reads(&self) -> bool {
        true
    }
}
