//! Which pages move, and when: a policy looks at summaries of pages and plans moves; the engine checks each and makes it.

mod compose;
mod cursor;
pub(crate) mod defrag;
pub(crate) mod engine;
mod guarded;
mod moves;
mod plan;
mod priority;
mod random;
mod sieve;
mod size;
pub(crate) mod stays;
mod time;
pub(crate) mod vacate;
mod victims;
mod view;

use std::time::Duration;

pub use compose::{AllOf, ByClass, FirstMatch};
pub use plan::{Move, Plan, Refusal};
pub use priority::PriorityTime;
pub use random::Random2Lru;
pub use sieve::Sieve;
pub use size::SizeThreshold;
pub use time::TimeWindow;
pub use view::{ClassView, LaneView, PageId, PageSummary, RegionView, Tier, View};

/// Decides which pages move between the tiers, and which leave memory.
///
/// The engine asks a policy several times a second, and whenever an append waits for room. The policy looks at the
/// [`View`] and puts moves into the [`Plan`]. The engine checks every move just before it makes it: what makes no sense
/// then (a page that is not hot is to be squeezed, one that is not its lane's oldest is to leave, …) is refused and
/// counted in [`EvictionStats`](crate::EvictionStats). So a policy can waste time, but it cannot lose an event, and it
/// cannot make memory exceed its bound: from the *critical* threshold on, and while a class is above its quota, the engine
/// also asks [`SizeThreshold`] when the policy has nothing to move.
///
/// A policy that panics is not asked again. The default policy takes its place, and
/// [`EvictionStats::policy_panic`](crate::EvictionStats) says why.
///
/// Hand one to [`StoreBuilder::policy`](crate::StoreBuilder::policy); see [`crate::testing::policy_contract`] for a test
/// that each should pass.
///
/// ```
/// use esker::policy::{AllOf, Plan, Policy, SizeThreshold, View};
/// use esker::{Config, Store};
///
/// /// Squeezes what has been hot for a minute and was never read.
/// struct Unread;
///
/// impl Policy for Unread {
///     fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
///         for page in view.lanes().iter().filter_map(|lane| lane.oldest_hot) {
///             if view.age_ms(&page) > 60_000 && page.read_ms.is_none() && !page.open {
///                 plan.demote(&page);
///             }
///         }
///     }
///
///     fn wants_reads(&self) -> bool {
///         true
///     }
/// }
///
/// let config = Config::builder().memory("16MiB").build()?;
/// let policy = AllOf::new().and(Unread).and(SizeThreshold::new());
/// let store = Store::builder(config).policy(policy).open()?;
/// # Ok::<(), esker::Error>(())
/// ```
pub trait Policy: Send {
    /// Puts into the plan what should move now. It is asked again after the moves were made, until a plan is empty or
    /// nothing of it could be done.
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan);

    /// Whether the policy looks at the times of reads ([`PageSummary::read_ms`]). They are recorded only if it does:
    /// point reads and histories then note the second in which they met a page. It is asked once, when the store opens.
    fn wants_reads(&self) -> bool {
        false
    }
}

impl<P: Policy + ?Sized> Policy for Box<P> {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        (**self).plan(view, plan);
    }

    fn wants_reads(&self) -> bool {
        (**self).wants_reads()
    }
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
