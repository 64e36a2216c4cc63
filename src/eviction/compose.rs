//! Policies made of policies.

use crate::eviction::{LaneView, Plan, Policy, View};
use crate::ids::Class;

/// Asks policies in their order, and takes the plan of the first that would move anything.
#[derive(Default)]
#[must_use]
pub struct FirstMatch(Vec<Box<dyn Policy>>);

impl FirstMatch {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// If those before have nothing to move, this one.
    pub fn or(mut self, policy: impl Policy + 'static) -> Self {
        self.0.push(Box::new(policy));
        self
    }
}

impl Policy for FirstMatch {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        for policy in &mut self.0 {
            policy.plan(view, plan);
            plan.set_patient(false);
            if !plan.is_idle() {
                return;
            }
        }
    }

    fn wants_reads(&self) -> bool {
        self.0.iter().any(|policy| policy.wants_reads())
    }
}

/// Lets every policy add to the plan, in their order. Each sees what those before it have planned. None can take so much
/// of the plan that nothing is left for those behind it.
#[derive(Default)]
#[must_use]
pub struct AllOf(Vec<Box<dyn Policy>>);

impl AllOf {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// And this one.
    pub fn and(mut self, policy: impl Policy + 'static) -> Self {
        self.0.push(Box::new(policy));
        self
    }
}

impl Policy for AllOf {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        let count = self.0.len();
        for (at, policy) in self.0.iter_mut().enumerate() {
            // Half of what is left, and all of it for the last one.
            let part = if at + 1 == count { Plan::MAX } else { plan.room() / 2 };
            plan.part(part, |plan| policy.plan(view, plan));
        }
    }

    fn wants_reads(&self) -> bool {
        self.0.iter().any(|policy| policy.wants_reads())
    }
}

/// A policy of its own for some classes, and one for all others. Each is shown the lanes and pages of its classes only;
/// regions are shown whole.
#[must_use]
pub struct ByClass {
    others: Box<dyn Policy>,
    own: Vec<(Class, Box<dyn Policy>)>,
    lanes: Vec<LaneView>,
}

impl ByClass {
    /// The same policy for all classes.
    pub fn new(others: impl Policy + 'static) -> Self {
        Self { others: Box::new(others), own: Vec::new(), lanes: Vec::new() }
    }

    /// Another one for this class. [`Config::class`](crate::Config::class) finds a class by its name.
    pub fn class(mut self, class: Class, policy: impl Policy + 'static) -> Self {
        self.own.retain(|(other, _)| *other != class);
        self.own.push((class, Box::new(policy)));
        self
    }
}

impl Policy for ByClass {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        let Self { others, own, lanes } = self;
        let classes: u32 = own.iter().fold(0, |classes, (class, _)| classes | 1 << class.index());
        let parts = own.len() + 1;
        for (at, (class, policy)) in own.iter_mut().enumerate() {
            let part = plan.room() / (parts - at);
            plan.part(part, |plan| {
                view.narrowed(1 << class.index(), lanes, |view| policy.plan(view, plan));
            });
        }
        plan.part(Plan::MAX, |plan| view.narrowed(!classes, lanes, |view| others.plan(view, plan)));
    }

    fn wants_reads(&self) -> bool {
        self.others.wants_reads() || self.own.iter().any(|(_, policy)| policy.wants_reads())
    }
}
