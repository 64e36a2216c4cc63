//! What memory pressure moves: the pages that arrived first, before their time.

use crate::eviction::{Action, LaneView, PageSummary, Policy, View};
use crate::ids::LaneId;

/// Moves the oldest pages down while a region is fuller than the warning threshold.
pub(crate) struct SizeThreshold;

impl Policy for SizeThreshold {
    fn next(&self, view: &View<'_>) -> Option<Action> {
        let warning = view.config.thresholds.warning;
        let release = view.warm_fill > warning
            || view.index_fill > warning
            || view.numbers_fill > warning
            || view.warm_refused && view.hot_fill > warning;
        if release
            && let Some(lane) = oldest(view, |lane| lane.oldest, |lane, page| view.may_leave(lane.lane, page))
        {
            return Some(Action::Release(lane));
        }
        if view.hot_fill > warning {
            let compress = |lane: LaneId| view.class(lane).compress;
            let may_move = |lane: &LaneView, page: &PageSummary| match compress(lane.lane) {
                true => !view.warm_refused,
                false => view.may_leave(lane.lane, page),
            };
            let hot = |open: bool| {
                oldest(
                    view,
                    |lane| lane.oldest_hot,
                    |lane, page| (open || !page.open) && may_move(lane, page),
                )
            };
            // Pages that are still written come last: sealing them leaves room unused.
            if let Some(lane) = hot(false).or_else(|| hot(true)) {
                return Some(if compress(lane) { Action::Demote(lane) } else { Action::Release(lane) });
            }
        }
        // Nothing may leave yet: naming the oldest page has it spilled. For the hot region's sake that is one which goes
        // straight from there: warm pages of others would leave in vain.
        let all = release || view.warm_refused;
        (all || view.hot_fill > warning)
            .then(|| oldest(view, |lane| lane.oldest, |lane, _| all || !view.class(lane.lane).compress))
            .flatten()
            .map(Action::Release)
    }
}

fn oldest(
    view: &View<'_>,
    page: impl Fn(&LaneView) -> Option<PageSummary>,
    choose: impl Fn(&LaneView, &PageSummary) -> bool,
) -> Option<LaneId> {
    view.lanes
        .iter()
        .filter_map(|lane| Some((lane, page(lane)?)))
        .filter(|(lane, page)| choose(lane, page))
        .min_by_key(|(_, page)| page.arrived_ms)
        .map(|(lane, _)| lane.lane)
}
