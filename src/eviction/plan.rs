//! What a policy wants done.

use std::collections::HashSet;

use crate::eviction::{PageId, PageSummary, Tier};
use crate::ids::LogicalPage;
use crate::pressure::RegionKind;

/// One page's move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Move {
    /// Squeeze a hot page into the warm region. If it is being written, it is closed.
    Demote(PageId),
    /// Unpack a warm page into the hot region. Refused when the hot region would be fuller than the warning threshold.
    Promote(PageId),
    /// Let a lane's oldest page leave memory. If the cold tier must confirm it first, this asks for it, as
    /// [`Move::Spill`] does.
    Release(PageId),
    /// Have the page's lane written to the cold tier although its pages do not fill a block.
    Spill(PageId),
}

/// Why a move was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such page any more, or it has no events yet.
    Gone,
    /// It is to be squeezed, but is warm.
    NotHot,
    /// It is to be promoted, but is hot.
    NotWarm,
    /// It is to leave, but an older one of its lane is still in memory.
    NotOldest,
    /// It is to be squeezed, but its class says `compress(false)`.
    NotCompressed,
    /// It is to be promoted, but the hot region has no room.
    NoRoom,
    /// It cannot be unpacked: a frame fails its check.
    Damaged,
}

/// A page's part in the plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) what: Move,
    /// Whether the configured rate holds for it.
    pub(crate) patient: bool,
}

/// The moves that a policy asks for, in their order. There is room for [`Plan::MAX`]; the policy is asked again.
#[derive(Debug, Default)]
pub struct Plan {
    moves: Vec<Planned>,
    pages: HashSet<LogicalPage>,
    limit: usize,
    /// What the moves would free, in the units of [`RegionView`](crate::policy::RegionView).
    freed: [i64; 4],
    warm_page: u64,
    hot_page: u64,
    patient: bool,
    /// Events that patient moves may still move.
    allowance: Option<i64>,
}

impl Plan {
    /// How many moves a plan has at most.
    pub const MAX: usize = 256;

    pub(crate) fn new(hot_page: u64, warm_page: u64) -> Self {
        Self { hot_page, warm_page, ..Self::default() }
    }

    /// Empties the plan. `allowance`: how many events may move that are in no hurry; `None`: any number.
    pub(crate) fn begin(&mut self, allowance: Option<i64>) {
        self.moves.clear();
        self.pages.clear();
        self.limit = Self::MAX;
        self.freed = [0; 4];
        self.patient = false;
        self.allowance = allowance;
    }

    /// The moves so far.
    pub fn moves(&self) -> impl ExactSizeIterator<Item = Move> + '_ {
        self.moves.iter().map(|planned| planned.what)
    }

    pub(crate) fn planned(&self) -> &[Planned] {
        &self.moves
    }

    /// Whether nothing would move. Asking for a spill moves nothing.
    pub fn is_idle(&self) -> bool {
        self.moves().all(|what| matches!(what, Move::Spill(_)))
    }

    /// Whether there is no room for another move.
    pub fn is_full(&self) -> bool {
        self.moves.len() >= self.limit
    }

    /// How many more moves there is room for.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.moves.len())
    }

    /// Whether a page has a part in the plan.
    pub fn has(&self, page: &PageSummary) -> bool {
        self.pages.contains(&page.id.page)
    }

    /// What the plan would free of a region, about, in the units of [`RegionView`](crate::policy::RegionView).
    pub fn freed(&self, region: RegionKind) -> i64 {
        self.freed[at(region)]
    }

    /// Whether the moves that follow are in no hurry: [`ConfigBuilder::move_rate`](crate::ConfigBuilder::move_rate)
    /// then bounds them, and those beyond it are left out.
    pub fn set_patient(&mut self, yes: bool) {
        self.patient = yes;
    }

    /// Plans a move of a page of which nothing but the name is at hand. What it would free is not counted. `false` as for
    /// [`Self::demote`].
    pub fn push(&mut self, what: Move) -> bool {
        self.add(what, 0)
    }

    /// Plans to squeeze a hot page. `false`: the plan is full or has the page already, or it must wait for the rate.
    pub fn demote(&mut self, page: &PageSummary) -> bool {
        let warm = (u64::from(page.raw_bytes) / 2).div_ceil(self.warm_page.max(1)).max(1);
        let done = self.add(Move::Demote(page.id), page.events);
        if done {
            self.freed[at(RegionKind::Hot)] += i64::from(page.pages);
            self.freed[at(RegionKind::Warm)] -= warm as i64;
        }
        done
    }

    /// Plans to unpack a warm page. `false` as for [`Self::demote`].
    pub fn promote(&mut self, page: &PageSummary) -> bool {
        let hot = u64::from(page.raw_bytes).div_ceil(self.hot_page.max(1)).max(1);
        let done = self.add(Move::Promote(page.id), page.events);
        if done {
            self.freed[at(RegionKind::Hot)] -= hot as i64;
            self.freed[at(RegionKind::Warm)] += i64::from(page.pages);
        }
        done
    }

    /// Plans that a page leaves memory. `false` as for [`Self::demote`].
    pub fn release(&mut self, page: &PageSummary) -> bool {
        let done = self.add(Move::Release(page.id), page.events);
        if done {
            let region = if page.tier == Tier::Hot { RegionKind::Hot } else { RegionKind::Warm };
            self.freed[at(region)] += i64::from(page.pages);
            self.freed[at(RegionKind::Index)] += i64::from(page.events - page.removed);
            self.freed[at(RegionKind::System)] += 1;
        }
        done
    }

    /// Asks that a page's lane is written to the cold tier. `false` as for [`Self::demote`].
    pub fn spill(&mut self, page: &PageSummary) -> bool {
        self.add(Move::Spill(page.id), 0)
    }

    fn add(&mut self, what: Move, events: u32) -> bool {
        let (Move::Demote(id) | Move::Promote(id) | Move::Release(id) | Move::Spill(id)) = what;
        let waits = self.patient && events > 0 && self.allowance.is_some_and(|left| left <= 0);
        if self.is_full() || waits || !self.pages.insert(id.page) {
            return false;
        }
        if self.patient
            && let Some(left) = &mut self.allowance
        {
            *left -= i64::from(events);
        }
        self.moves.push(Planned { what, patient: self.patient });
        true
    }

    /// Lets a part of a policy fill a part of the plan.
    pub(crate) fn part(&mut self, moves: usize, fill: impl FnOnce(&mut Self)) {
        let (limit, patient) = (self.limit, self.patient);
        self.limit = limit.min(self.moves.len() + moves);
        fill(self);
        (self.limit, self.patient) = (limit, patient);
    }
}

fn at(region: RegionKind) -> usize {
    RegionKind::ALL.iter().position(|other| *other == region).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::PageId;
    use crate::ids::Class;

    /// A page of 40 events, 10 of them removed, that takes three pages of its region.
    fn page(number: u32, tier: Tier) -> PageSummary {
        PageSummary {
            id: PageId { page: LogicalPage(number), generation: 0 },
            class: Class::DEFAULT,
            tier,
            newest_ms: 0,
            arrived_ms: 0,
            read_ms: None,
            read_before_ms: None,
            events: 40,
            removed: 10,
            raw_bytes: 40_000,
            live_bytes: 30_000,
            pages: 3,
            clean: true,
            open: false,
            may_leave: true,
            expired: false,
        }
    }

    fn plan(allowance: Option<i64>) -> Plan {
        let mut plan = Plan::new(16_384, 2_048);
        plan.begin(allowance);
        plan
    }

    fn freed(plan: &Plan) -> [i64; 4] {
        use RegionKind::{Hot, Index, System, Warm};
        [Hot, Warm, Index, System].map(|region| plan.freed(region))
    }

    #[test]
    fn a_plan_counts_what_each_move_would_free() {
        let mut all = plan(None);
        assert!(all.demote(&page(1, Tier::Hot)) && all.has(&page(1, Tier::Hot)));
        // Half of its bytes, in pages of the warm region.
        assert_eq!(freed(&all), [3, -10, 0, 0]);
        assert!(all.promote(&page(2, Tier::Warm)));
        assert_eq!(freed(&all), [0, -7, 0, 0]);
        assert!(all.release(&page(3, Tier::Warm)));
        assert_eq!(freed(&all), [0, -4, 30, 1]);
        assert!(all.release(&page(4, Tier::Hot)));
        assert_eq!(freed(&all), [3, -4, 60, 2]);
        assert!(all.spill(&page(5, Tier::Hot)) && !all.is_idle());
        // A page has one part.
        assert!(![all.demote(&page(1, Tier::Hot)), all.promote(&page(2, Tier::Warm))].contains(&true));
        assert!(![all.release(&page(3, Tier::Warm)), all.spill(&page(4, Tier::Hot))].contains(&true));
        assert_eq!(freed(&all), [3, -4, 60, 2]);
        assert!(!all.has(&page(6, Tier::Hot)));
        all.begin(None);
        assert!(all.spill(&page(5, Tier::Hot)) && all.is_idle(), "to be written is not to be moved");
        assert_eq!((freed(&all), all.room()), ([0; 4], Plan::MAX - 1));
    }

    #[test]
    fn what_is_in_no_hurry_waits_for_the_rate_and_nothing_else_does() {
        let mut all = plan(Some(50));
        all.set_patient(true);
        assert!(all.demote(&page(1, Tier::Hot)) && all.demote(&page(2, Tier::Hot)));
        assert!(!all.demote(&page(3, Tier::Hot)), "80 of 50 events");
        assert!(all.spill(&page(4, Tier::Hot)), "moves no event");
        all.set_patient(false);
        assert!(all.demote(&page(3, Tier::Hot)));
        let patient: Vec<bool> = all.planned().iter().map(|planned| planned.patient).collect();
        assert_eq!(patient, [true, true, true, false]);
    }

    #[test]
    fn a_part_of_a_policy_fills_no_more_than_its_part() {
        let mut all = plan(None);
        assert!(all.demote(&page(1, Tier::Hot)));
        all.part(2, |part| {
            part.set_patient(true);
            assert_eq!((part.room(), part.is_full()), (2, false));
            assert!(part.demote(&page(2, Tier::Hot)) && part.demote(&page(3, Tier::Hot)) && part.is_full());
            assert!(!part.demote(&page(4, Tier::Hot)));
            part.part(5, |part| assert!(!part.demote(&page(4, Tier::Hot)), "a part of a part"));
        });
        assert_eq!((all.room(), all.moves().len()), (Plan::MAX - 3, 3));
        assert!(all.demote(&page(4, Tier::Hot)) && !all.planned()[3].patient);
    }
}
