//! Which policy a seed's store has: one of those that come with the store, some put together, or one that plans nonsense.

use esker::policy::{
    AllOf, ByClass, FirstMatch, Move, PageId, Plan, Policy, PriorityTime, Random2Lru, Sieve, SizeThreshold,
    TimeWindow, View,
};
use esker::{Class, StoreBuilder};

use crate::rng::Rng;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    /// The one that a store has if nothing is said.
    Default,
    PriorityTime,
    Size,
    Random2Lru,
    Sieve,
    /// Ages before pressure, the one or the other.
    First,
    All,
    ByClass,
    /// Moves that make no sense, and none that does on purpose.
    Nonsense,
}

impl Which {
    pub(crate) fn pick(rng: &mut Rng) -> Self {
        const ALL: [Which; 9] = [
            Which::Default,
            Which::PriorityTime,
            Which::Size,
            Which::Random2Lru,
            Which::Sieve,
            Which::First,
            Which::All,
            Which::ByClass,
            Which::Nonsense,
        ];
        // What most stores have stays what is tested most.
        ALL[rng.weighted(&[30, 5, 8, 12, 12, 8, 8, 8, 9])]
    }

    pub(crate) fn install(self, builder: StoreBuilder, classes: &[Class], seed: u64) -> StoreBuilder {
        match self {
            Self::Default => builder,
            Self::PriorityTime => builder.policy(PriorityTime::new()),
            Self::Size => builder.policy(SizeThreshold::new()),
            Self::Random2Lru => builder.policy(Random2Lru::new()),
            Self::Sieve => builder.policy(Sieve::new()),
            Self::First => builder.policy(FirstMatch::new().or(TimeWindow::new()).or(Sieve::new())),
            Self::All => builder.policy(AllOf::new().and(TimeWindow::new()).and(Random2Lru::new())),
            Self::ByClass => {
                let first = classes.iter().take(1).copied();
                let policy = first.fold(ByClass::new(PriorityTime::new()), |policy, class| {
                    policy.class(class, AllOf::new().and(TimeWindow::new()).and(Sieve::new()))
                });
                builder.policy(policy)
            }
            Self::Nonsense => builder.policy(Nonsense { rng: Rng::new(seed), seen: Vec::new() }),
        }
    }
}

/// Plans anything for pages that are there, and for such as are not any more.
struct Nonsense {
    rng: Rng,
    seen: Vec<PageId>,
}

impl Policy for Nonsense {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        for lane in view.lanes() {
            let mut next = lane.oldest;
            while let Some(page) = next {
                self.seen.push(page.id);
                next = view.newer(&page);
            }
        }
        self.seen.drain(..self.seen.len().saturating_sub(1000));
        for _ in 0..10 {
            if self.seen.is_empty() {
                return;
            }
            let id = self.rng.pick(&self.seen);
            plan.push(match self.rng.below(4) {
                0 => Move::Demote(id),
                1 => Move::Promote(id),
                2 => Move::Spill(id),
                _ => Move::Release(id),
            });
        }
    }

    fn wants_reads(&self) -> bool {
        true
    }
}
