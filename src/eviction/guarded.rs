//! Asking a policy, whatever it does: one that panics is not asked again.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::eviction::{Plan, Policy, PriorityTime, SizeThreshold, View};

/// Which policy is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    /// The store's.
    Policy,
    /// The one that keeps the budget, whatever the store's does.
    Safety,
}

pub(super) struct Guarded {
    wants_reads: bool,
    /// The caller's own policy, unless it has panicked.
    own: Option<Box<dyn Policy>>,
    default: PriorityTime,
    safety: SizeThreshold,
}

impl Guarded {
    pub(super) fn new(own: Option<Box<dyn Policy>>) -> Self {
        Self {
            wants_reads: own.as_ref().is_some_and(|own| own.wants_reads()),
            own,
            default: PriorityTime::new(),
            safety: SizeThreshold::at_critical(),
        }
    }

    /// Whether the store's policy looks at the times of reads, as it said at first.
    pub(super) fn wants_reads(&self) -> bool {
        self.wants_reads
    }

    /// Whether the store's policy cannot be relied on to keep the budget.
    pub(super) fn needs_safety(&self) -> bool {
        self.own.is_some()
    }

    /// Has the plan filled.
    ///
    /// # Errors
    /// What the caller's own policy said when it panicked. The plan is empty then.
    pub(super) fn plan(&mut self, who: Who, view: &View<'_>, plan: &mut Plan) -> Result<(), String> {
        let Some(own) = self.own.as_mut().filter(|_| who == Who::Policy) else {
            match who {
                Who::Policy => self.default.plan(view, plan),
                Who::Safety => self.safety.plan(view, plan),
            }
            return Ok(());
        };
        // It is dropped if it panics, so nobody sees what it left behind; a plan half made is emptied.
        let outcome = catch_unwind(AssertUnwindSafe(|| own.plan(view, plan)));
        outcome.map_err(|panic| {
            plan.begin(None);
            let own = self.own.take();
            // Its destructor may panic, too.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(own)));
            text_of(panic.as_ref())
        })
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text").to_string()
}
