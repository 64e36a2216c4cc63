//! What the mover does beside moving: memory that is not used for long goes back to the system.

use std::time::{Duration, Instant};

use crate::eviction::defrag::{Defrag, Turn};
use crate::pressure::RegionKind;
use crate::store::core::Core;

/// How often regions are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long the upper part of a region may take to become empty before what is empty of it has to do.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a store without threads looks whether readers have gone before it leaves sparse pages for later.
const DEFRAG_WAITS: usize = 4;
const REGIONS: [RegionKind; 3] = [RegionKind::Hot, RegionKind::Warm, RegionKind::Index];

/// The mover's notes of what to tidy up.
pub(crate) struct Tidy {
    next_look: Instant,
    regions: [Watched; 3],
    defrag: Defrag,
}

/// How much of a region was used lately.
#[derive(Clone, Copy)]
struct Watched {
    since: Instant,
    /// The most pages that were in use since then.
    most: u32,
    goal: Option<Goal>,
}

/// The size that a region is being brought to.
#[derive(Clone, Copy)]
struct Goal {
    pages: u32,
    begun: bool,
}

impl Tidy {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next_look: now,
            regions: [Watched { since: now, most: 0, goal: None }; 3],
            defrag: Defrag::default(),
        }
    }
}

impl Watched {
    fn begin(&mut self, now: Instant) {
        *self = Self { since: now, most: 0, goal: None };
    }
}

impl Core {
    /// Does some of what has time, if it is time.
    pub(crate) fn tidy(&self) {
        let now = self.lanes.clock.instant();
        // One at a time; and not while somebody changes a region's size.
        let (Some(mut tidy), Some(mut turn)) = (self.tidy.try_lock(), self.sizes.try_turn()) else { return };
        let shrinks = tidy.regions.iter().any(|watched| watched.goal.is_some());
        let busy = tidy.defrag.is_busy() || shrinks || turn.shift.is_some();
        if now < tidy.next_look && !busy {
            return;
        }
        tidy.next_look = now + LOOK;
        // One thing at a time is done to a region.
        if shrinks || !self.config.background || !self.adapt(&mut turn, now) {
            for (kind, watched) in REGIONS.into_iter().zip(&mut tidy.regions) {
                match watched.goal {
                    Some(goal) => self.shrink(kind, goal, watched, now),
                    None => self.watch(kind, watched, now),
                }
            }
        }
        self.defrag_once(&mut tidy.defrag);
    }

    fn defrag_once(&self, defrag: &mut Defrag) -> Turn {
        let turn = defrag.step(&mut self.engine.lock(), &self.config, &self.lanes, &self.shared);
        if turn != Turn::Waits {
            self.ring_room();
        }
        turn
    }

    /// Packs all pages that are sparse now and that no reader holds.
    pub(crate) fn defrag_all(&self) {
        let Some(mut tidy) = self.tidy.try_lock() else { return };
        let mut waits = 0;
        // A reader may stay for as long as it likes.
        while waits < DEFRAG_WAITS {
            match self.defrag_once(&mut tidy.defrag) {
                Turn::Done => return,
                Turn::Waits => waits += 1,
                Turn::More => waits = 0,
            }
        }
    }

    /// Decides whether a region has more than it has used for long.
    fn watch(&self, kind: RegionKind, watched: &mut Watched, now: Instant) {
        let region = self.region(kind);
        watched.most = watched.most.max(region.used_pages());
        if now.saturating_duration_since(watched.since) < self.config.shrink_after {
            return;
        }
        let [initial, chunk] = region.steps();
        // Room to grow into stays, and what would be gained must be worth it: so it does not come and go.
        let goal = (watched.most + watched.most / 4 + chunk).max(initial);
        let worth = region.pages_committed() >= goal.saturating_add(chunk);
        watched.begin(now);
        watched.goal = worth.then_some(Goal { pages: goal, begun: false });
    }

    /// Takes a step towards a region's goal.
    fn shrink(&self, kind: RegionKind, goal: Goal, watched: &mut Watched, now: Instant) {
        let region = self.region(kind);
        // Whoever needs room has let it grow again, or begins to.
        let grown = goal.begun && region.pages_committed() > goal.pages;
        let late = now.saturating_duration_since(watched.since) > PATIENCE;
        if !grown && !late && region.withdraw(goal.pages) > 0 {
            watched.goal = Some(Goal { begun: true, ..goal });
            self.vacate(kind, goal.pages);
            return;
        }
        region.settle();
        watched.begin(now);
    }
}
