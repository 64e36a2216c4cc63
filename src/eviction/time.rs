//! The time windows of classes: hot, then warm, then gone.

use crate::eviction::{Action, PageSummary, Policy, View, millis};
use crate::pages::table::Tier;

/// Moves what has reached the age that its class's configuration names.
pub(crate) struct TimeWindow;

impl Policy for TimeWindow {
    fn next(&self, view: &View<'_>) -> Option<Action> {
        view.lanes.iter().find_map(|lane| {
            let class = view.class(lane.lane);
            if let Some(oldest) = &lane.oldest {
                let expired = view.is_expired(lane.lane, oldest);
                let aged = view.age(oldest) >= millis(class.warm_for);
                if expired || aged && view.may_leave(lane.lane, oldest) {
                    return Some(Action::Release(lane.lane));
                }
            }
            // While the warm region is short of room, what goes there is a question of pressure, not of age.
            let room = view.warm_fill <= view.config.thresholds.warning && !view.warm_refused;
            let aged = |page: &PageSummary| page.tier == Tier::Hot && view.age(page) >= millis(class.hot_for);
            lane.oldest_hot
                .filter(|page| class.compress && room && aged(page))
                .map(|_| Action::Demote(lane.lane))
        })
    }
}
