//! The time windows of classes: hot, then warm, then gone.

use crate::eviction::{Action, Policy, View, millis};
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
            let aged = |page: &crate::eviction::PageSummary| view.age(page) >= millis(class.hot_for);
            lane.oldest_hot
                .filter(|page| page.tier == Tier::Hot && aged(page) && !view.warm_refused)
                .map(|_| Action::Demote(lane.lane))
        })
    }
}
