//! Retention and priority by class: the default.

use crate::eviction::{Plan, Policy, SizeThreshold, TimeWindow, View};

/// Each class by its own windows and retention; and when memory is short, those of the lowest
/// [priority](crate::ClassConfig::priority) first, the oldest of them first. This is what a store does that is given no
/// policy: [`TimeWindow`], then [`SizeThreshold`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct PriorityTime {
    time: TimeWindow,
    size: SizeThreshold,
}

impl PriorityTime {
    /// By what the classes' configurations say.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Policy for PriorityTime {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        // Half of the plan is left for what pressure asks for.
        plan.part(Plan::MAX / 2, |plan| self.time.plan(view, plan));
        self.size.plan(view, plan);
    }
}
