//! What memory pressure moves: pages before their time, the more of them the shorter memory is.

use crate::config::Thresholds;
use crate::eviction::victims::{Ranking, above_quota, hot_quota, merged};
use crate::eviction::{PageSummary, Plan, Policy, Tier, View};
use crate::ids::Class;
use crate::pressure::RegionKind;

/// The least share of what is too much that a step moves.
const SHARE_MIN: f64 = 1.0 / 16.0;
/// Hot pages for which room is made at once in a warm region that is full.
const ROOM_FOR: i64 = 16;

/// Keeps regions below their thresholds and classes below their quotas.
///
/// Above the *warning* threshold each step moves a share of what is too much. The share grows with the excess, from a
/// sixteenth to all of it at the *critical* threshold, so that a store whose load is steady finds its level and does not
/// move in fits.
///
/// What goes first: pages of classes that are above their [quota](crate::ClassConfig::quota), then those of the lowest
/// [priority](crate::ClassConfig::priority), then those that came first. No page of a higher class leaves memory while
/// one of a lower class could. A class above its quota is brought down to it, whether or not there is pressure.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SizeThreshold {
    /// Thresholds of single regions, instead of the configured ones.
    own: [Option<(f64, f64)>; 4],
    /// Whether it stays out of the way until the critical threshold.
    at_critical: bool,
    step: u64,
    /// What is to be in use of each region after the step.
    goals: [u64; 4],
}

/// What is too much of each region, the moves of a plan counted.
pub(super) struct Need {
    used: [u64; 4],
    goals: [u64; 4],
}

impl Need {
    /// How much is still to go; not above zero when nothing is.
    pub(super) fn of(&self, region: RegionKind, plan: &Plan) -> i64 {
        let at = index(region);
        let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        count(self.used[at]).saturating_sub(plan.freed(region)).saturating_sub(count(self.goals[at]))
    }

    fn has(&self, region: RegionKind, plan: &Plan) -> bool {
        self.of(region, plan) > 0
    }
}

impl SizeThreshold {
    /// With the thresholds of the store's configuration.
    pub fn new() -> Self {
        Self::default()
    }

    /// The one that keeps the budget when the store's own policy does not.
    pub(super) fn at_critical() -> Self {
        Self { at_critical: true, ..Self::default() }
    }

    /// Other thresholds for one region, in shares of it. Values outside of 0 to 1, and a warning above critical, are
    /// brought into line.
    pub fn region(mut self, region: RegionKind, warning: f64, critical: f64) -> Self {
        let warning = if warning.is_finite() { warning.clamp(0.0, 1.0) } else { 1.0 };
        let critical = if critical.is_finite() { critical.clamp(warning, 1.0) } else { 1.0 };
        self.own[index(region)] = Some((warning, critical));
        self
    }

    /// What is to go in this step.
    pub(super) fn need(&mut self, view: &View<'_>) -> Need {
        let regions = RegionKind::ALL.map(|kind| view.region(kind));
        if self.step != view.step() {
            self.step = view.step();
            for (at, region) in regions.iter().enumerate() {
                let Thresholds { warning, critical, .. } = view.config().thresholds;
                let (warning, critical) = self.own[at].unwrap_or((warning, critical));
                self.goals[at] = self.goal(region.used, region.max, warning, critical);
            }
            let hot = index(RegionKind::Hot);
            self.goals[hot] = self.goals[hot].min(regions[hot].used.saturating_sub(view.wanted_pages()));
        }
        Need { used: regions.map(|region| region.used), goals: self.goals }
    }

    /// What may be in use after the step. Where nothing is too much, up to the threshold: others may plan to use more.
    fn goal(&self, used: u64, max: u64, warning: f64, critical: f64) -> u64 {
        if self.at_critical {
            // Strictly below the threshold, where it is not asked any more.
            return ((max as f64 * critical).ceil() as u64).min(max).saturating_sub(1);
        }
        // One page is always to be free, so that the next can be opened.
        let limit = ((max as f64 * warning).floor() as u64).min(max.saturating_sub(1));
        if used <= limit {
            return limit;
        }
        let (excess, fill) = (used - limit, used as f64 / max.max(1) as f64);
        let share = if critical > warning { (fill - warning) / (critical - warning) } else { 1.0 };
        used - ((excess as f64 * share.clamp(SHARE_MIN, 1.0)).ceil() as u64).min(excess)
    }

    /// Plans everything; `squeeze` plans which hot pages go to the warm region, until nothing is left to go of the hot
    /// one or nothing is there to be squeezed.
    pub(super) fn plan_with(
        &mut self,
        view: &View<'_>,
        plan: &mut Plan,
        squeeze: impl FnOnce(&View<'_>, &mut Plan, &Need),
    ) {
        let need = self.need(view);
        let ranking = Ranking::new(view);
        keep_quotas(view, plan);
        let others = |plan: &Plan| {
            [RegionKind::Warm, RegionKind::Index, RegionKind::System]
                .into_iter()
                .any(|region| need.has(region, plan))
        };
        let hot = need.has(RegionKind::Hot, plan);
        let (release, before) = (others(plan) || view.warm_is_full() && hot, plan.moves().len());
        if release {
            release_oldest(view, plan, &need, &ranking);
        }
        // A full warm region takes nothing; what goes in its stead was chosen among all, and may have made room there.
        if need.has(RegionKind::Hot, plan) && !view.warm_is_full() {
            squeeze(view, plan, &need);
        }
        if plan.moves().len() == before && (release || hot) {
            name_spill(view, plan, &ranking, release);
        }
    }
}

impl Policy for SizeThreshold {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        self.plan_with(view, plan, squeeze_oldest);
    }
}

/// Lets pages leave for the sake of the warm region, the index and the page table.
fn release_oldest(view: &View<'_>, plan: &mut Plan, need: &Need, ranking: &Ranking) {
    let bytes = |region| view.region(region).page_bytes.max(1);
    let room = need.of(RegionKind::Hot, plan).clamp(1, ROOM_FOR) as u64 * bytes(RegionKind::Hot) / 2;
    let room = room.div_ceil(bytes(RegionKind::Warm)) as i64;
    let any = |plan: &Plan| need.has(RegionKind::Index, plan) || need.has(RegionKind::System, plan);
    let go_on = |plan: &Plan| {
        let stuck = view.warm_is_full() && plan.freed(RegionKind::Warm) < room;
        any(plan) || need.has(RegionKind::Warm, plan) || stuck && need.has(RegionKind::Hot, plan)
    };
    // If it is only for the warm region, pages of lanes that have none there would leave in vain.
    let all = any(plan) || view.warm_is_full() && need.has(RegionKind::Hot, plan);
    let helps = |page: &PageSummary| page.may_leave && (all || view.has_warm_from(page));
    let pages = merged(
        view,
        |lane| lane.oldest.filter(helps),
        |page| view.newer(page).filter(helps),
        |page| ranking.of(view, page, false),
    );
    for page in pages {
        if !go_on(plan) || !plan.release(&page) && !plan.has(&page) {
            break;
        }
    }
}

/// Squeezes the pages that came first. Those that go without the warm region leave instead, lane by lane from the oldest
/// on: what is behind one that may not leave yet waits for it.
pub(super) fn squeeze_oldest(view: &View<'_>, plan: &mut Plan, need: &Need) {
    let ranking = Ranking::new(view);
    let leaves = |page: &PageSummary| view.leaves_from_hot(page);
    let may_leave = |page: &PageSummary| page.may_leave && leaves(page);
    let pages = merged(
        view,
        |lane| match lane.oldest.filter(leaves) {
            Some(page) => Some(page).filter(may_leave),
            None => lane.oldest_hot,
        },
        |page| match leaves(page) {
            true => view.newer(page).filter(may_leave),
            false => view.newer_hot(page),
        },
        |page| ranking.of_hot(view, page),
    );
    for page in pages {
        if !need.has(RegionKind::Hot, plan) {
            break;
        }
        let planned = if leaves(&page) { plan.release(&page) } else { plan.demote(&page) };
        if !planned && !plan.has(&page) {
            break;
        }
    }
}

/// Nothing may leave yet: has the page written that is to go first. For the hot region's sake that is one which goes
/// straight from there: warm pages of others would leave in vain.
fn name_spill(view: &View<'_>, plan: &mut Plan, ranking: &Ranking, all: bool) {
    let leaves = |page: &PageSummary| view.leaves_from_hot(page);
    let wanted = |page: &PageSummary| !page.may_leave && (all || leaves(page));
    let oldest = view.lanes().iter().filter_map(|lane| lane.oldest).filter(wanted);
    if let Some(page) = oldest.min_by_key(|page| ranking.of(view, page, false)) {
        // Asking for its release closes it if it is open; otherwise it could not be written.
        plan.release(&page);
    }
}

/// Brings classes down to their quotas: hot pages are squeezed while the class has more than its share of them, and its
/// oldest leave otherwise.
fn keep_quotas(view: &View<'_>, plan: &mut Plan) {
    for class in (0..view.config().classes.len()).map(Class::new) {
        let mut above = above_quota(view.config, view.store, class) as i64;
        if above == 0 {
            continue;
        }
        let (held, compress) = (view.class(class), view.class_config(class).compress);
        let mut hot = held.hot_bytes as i64 - hot_quota(view.config(), class).min(held.hot_bytes) as i64;
        let bytes = |page: &PageSummary| {
            let region = if page.tier == Tier::Hot { RegionKind::Hot } else { RegionKind::Warm };
            i64::from(page.pages) * view.region(region).page_bytes as i64
        };
        // An open page of more than one is that of a large event: the allowance for open pages does not cover it, and
        // nothing else need ever come to close it.
        let written = |page: &PageSummary| page.open && page.pages == 1;
        let lanes = || view.lanes().iter().filter(|lane| lane.class == class);
        let rank = |page: &PageSummary| (false, false, 0, false, page.arrived_ms);
        if compress && !view.warm_is_full() {
            let first = |lane: &crate::eviction::LaneView| {
                lane.oldest_hot.filter(|page| page.class == class && !written(page))
            };
            let next = |page: &PageSummary| view.newer_hot(page).filter(|page| !written(page));
            for page in merged(view, first, next, rank) {
                if above <= 0 || hot <= 0 || !plan.demote(&page) {
                    break;
                }
                hot -= bytes(&page);
                above -= bytes(&page) - i64::from(page.raw_bytes) / 2;
            }
        }
        let first = |lane: &crate::eviction::LaneView| {
            lane.oldest.filter(|page| page.class == class && page.may_leave && !written(page))
        };
        let next = |page: &PageSummary| view.newer(page).filter(|page| page.may_leave && !written(page));
        for page in merged(view, first, next, rank) {
            if above <= 0 || !plan.release(&page) {
                break;
            }
            above -= bytes(&page);
        }
        if above > 0
            && let Some(page) = lanes()
                .filter_map(|lane| lane.oldest)
                .filter(|page| !page.may_leave && !written(page))
                .min_by_key(|page| page.arrived_ms)
        {
            // An open one must be closed before it can be written; asking for its release does that.
            if page.open {
                plan.release(&page)
            } else {
                plan.spill(&page)
            };
        }
    }
}

fn index(region: RegionKind) -> usize {
    RegionKind::ALL.iter().position(|other| *other == region).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_moves_grows_with_the_excess() {
        let size = SizeThreshold::new();
        let moved = |used: u64| used.saturating_sub(size.goal(used, 1000, 0.8, 0.9));
        assert_eq!([0, 500, 800].map(moved), [0, 0, 0]);
        assert_eq!(size.goal(0, 1000, 0.8, 0.9), 800, "others may fill it that far");
        let shares = [801, 820, 840, 860, 880, 900, 950, 1000].map(moved);
        assert!(shares.is_sorted(), "{shares:?}");
        assert_eq!((shares[0], shares[5], shares[6], shares[7]), (1, 100, 150, 200));
        assert!(shares[2] < 40, "not all of it at once below critical: {shares:?}");
        // However small the region is, one page is left free.
        assert_eq!(size.goal(4, 4, 1.0, 1.0), 3);
        assert_eq!(size.goal(3, 4, 1.0, 1.0), 3);
        assert_eq!(SizeThreshold::at_critical().goal(899, 1000, 0.8, 0.9), 899);
        assert_eq!(SizeThreshold::at_critical().goal(950, 1000, 0.8, 0.9), 899);
        assert!(size.goal(7, u64::MAX, 0.8, 0.9) > 1 << 60, "no bound is known");
    }
}
