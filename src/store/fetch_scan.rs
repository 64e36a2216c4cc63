//! All events of a time range, from all tiers.
//!
//! The scan begins with a list of what to read: pages in memory and blocks in the cold tier, divided in each lane at the
//! oldest page in memory. Nothing is pinned while it runs. A page that has left memory when its turn comes is read from
//! the block that has it by then: it was confirmed before it left. So no event is missed, and none is given twice.

use std::collections::VecDeque;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Deadline;
use crate::error::{Error, Result};
use crate::event::{EventHeader, EventRef};
use crate::ids::{Addr, Class, LaneId, LogicalPage};
use crate::store::core::Core;
use crate::store::scan::Filter;
use crate::store::time_order::InTimeOrder;
use crate::tiers::block::{BlockId, Row};
use crate::tiers::entry::BlockInfo;

/// Walks all events of a time range through all tiers. Made by [`Store::fetch_scan`](crate::Store::fetch_scan).
///
/// Gives `Err` for what could not be read, and goes on with the rest, except after
/// [`Timeout`](crate::ErrorKind::Timeout). Set what to look for before the first event is taken.
#[must_use]
pub struct FetchScan<'s> {
    core: &'s Core,
    filter: Filter<'s>,
    ordered: bool,
    timeout: Duration,
    state: Option<State>,
}

enum Source {
    Page {
        lane: LaneId,
        page: LogicalPage,
        seq: u64,
    },
    /// The events of a block that lie on pages below `before`.
    Block {
        info: Arc<BlockInfo>,
        before: u64,
    },
}

struct State {
    /// The next one last, with the time that it begins at.
    sources: Vec<(i64, Source)>,
    found: VecDeque<EventRef<'static>>,
    waiting: InTimeOrder<'static>,
    errors: VecDeque<Error>,
    deadline: Deadline,
    now_ms: i64,
}

impl<'s> FetchScan<'s> {
    pub(crate) fn new(core: &'s Core, range: &impl RangeBounds<i64>) -> Self {
        let timeout = core.config.fetch_timeout;
        Self { core, filter: Filter::new(range), ordered: false, timeout, state: None }
    }

    /// Only events of this kind.
    pub fn kind(mut self, kind: u8) -> Self {
        self.filter.set_kind(kind);
        self
    }

    /// Only events of this class.
    pub fn class(mut self, class: Class) -> Self {
        self.filter.set_class(class);
        self
    }

    /// Only events that have all of these flags.
    pub fn flags(mut self, flags: u16) -> Self {
        self.filter.set_flags(flags);
        self
    }

    /// Only events whose header the predicate takes. It is shown those that match all else and exist; the same event may be
    /// shown twice, when its page leaves memory while it is read.
    pub fn filter_header(mut self, predicate: impl FnMut(&EventHeader) -> bool + Send + 's) -> Self {
        self.filter.set_predicate(predicate);
        self
    }

    /// In the order of timestamps. Holds back only events of pages and blocks that overlap in time.
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// How long the whole scan may take (default: [`Config::fetch_timeout`](crate::Config::fetch_timeout)).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    fn begin(&self) -> State {
        let (lanes, pin) = (&self.core.lanes, self.core.lanes.pin());
        let mut sources = Vec::new();
        let unknown = self.core.cold.as_ref().and_then(|cold| cold.check_known().err());
        for lane in lanes.lanes().filter(|lane| self.filter.takes_class(lane.id.class())) {
            // What is in memory first, then what the directory has below it: pages only move that way.
            let mut before = u64::MAX;
            for (page, meta) in lane.pages_back(&lanes.pages, &pin) {
                before = meta.seq();
                if meta.committed() > 0
                    && self.filter.may_match(meta.min_time(), meta.max_time(), &meta.kinds())
                {
                    sources.push((meta.min_time(), Source::Page { lane: lane.id, page, seq: before }));
                }
            }
            if let Some(cold) = &self.core.cold {
                let may_match =
                    |info: &BlockInfo| self.filter.may_match(info.min_time, info.max_time, &info.kinds);
                for info in cold.directory.blocks(lane.id, before, may_match) {
                    let foreign = cold.directory.is_foreign(info.id.first_seq);
                    let before = if foreign { u64::MAX } else { before };
                    sources.push((info.min_time, Source::Block { info, before }));
                }
            }
        }
        if self.ordered {
            sources.sort_by_key(|(begin, _)| std::cmp::Reverse(*begin));
        }
        State {
            sources,
            found: VecDeque::new(),
            waiting: InTimeOrder::new(),
            errors: unknown.into_iter().collect(),
            deadline: Deadline::after(self.timeout),
            now_ms: lanes.clock.now_ms(),
        }
    }

    /// Replaces an entry that stands for several blocks by those that may hold something.
    fn unfold(&self, info: &Arc<BlockInfo>, before: u64, state: &mut State) {
        let Some(cold) = &self.core.cold else { return };
        let may_match = |info: &BlockInfo| self.filter.may_match(info.min_time, info.max_time, &info.kinds);
        match cold.unfold(info, state.deadline, may_match) {
            Ok(blocks) => {
                let sources = blocks.into_iter().map(|info| (info.min_time, Source::Block { info, before }));
                state.sources.extend(sources);
                if self.ordered {
                    state.sources.sort_by_key(|(begin, _)| std::cmp::Reverse(*begin));
                }
            }
            Err(error) => state.errors.push_back(error),
        }
    }

    fn read(&mut self, source: &Source, state: &mut State) {
        if let Source::Block { info, before } = source
            && info.is_folded()
        {
            return self.unfold(info, *before, state);
        }
        let mut found = Vec::new();
        let outcome = match source {
            Source::Page { lane, page, seq } => self.read_page(*lane, *page, *seq, state, &mut found),
            Source::Block { info, before } => {
                let id = info.id;
                self.read_block(id, |row| row.seq < *before, state, &mut found)
            }
        };
        if let Err(error) = outcome {
            state.errors.push_back(error);
        }
        if self.ordered {
            state.waiting.add(found);
        } else {
            state.found.extend(found);
        }
    }

    fn read_page(
        &mut self,
        lane_id: LaneId,
        page: LogicalPage,
        seq: u64,
        state: &State,
        found: &mut Vec<EventRef<'static>>,
    ) -> Result<()> {
        let core = self.core;
        let (lanes, pin) = (&core.lanes, core.lanes.pin());
        let (lane, meta) =
            (lanes.partitions[lane_id.partition()].lane(lane_id.class()), lanes.pages.meta(page));
        let place = lanes.pages.place(page);
        if lane.has(&lanes.pages, page, seq) {
            let filter = &mut self.filter;
            let (mut gone, mut damage) = (false, Ok(()));
            let outcome = lanes.walk(&pin, page, meta.committed(), place, |offset, event, whole| {
                let live = || meta.dead() == 0 || lanes.is_live(event.id(), Addr::new(page, offset, 0));
                let exists = filter.matches(&event) && core.is_kept(&event, state.now_ms) && live();
                if exists && !whole {
                    lanes.pages.count_corrupt_event();
                    damage = Err(event.damage());
                } else if exists && filter.takes(&event) {
                    found.push(event.into_owned());
                }
                true
            });
            // Purging its index entries makes a page's events look removed: whoever reads it meanwhile starts over.
            gone |= lane.tail_seq() > seq;
            if !gone {
                return outcome.and(damage);
            }
            found.clear();
        }
        // The page has left memory since the scan began; if it was not dropped, a block has it.
        let Some(cold) = &core.cold else { return Ok(()) };
        let Some(id) = cold.block_of(lane_id, seq, state.deadline)? else { return Ok(()) };
        self.read_block(id, |row| row.seq == seq, state, found)
    }

    fn read_block(
        &mut self,
        id: BlockId,
        choose: impl Fn(&Row) -> bool,
        state: &State,
        found: &mut Vec<EventRef<'static>>,
    ) -> Result<()> {
        let Some(cold) = &self.core.cold else { return Ok(()) };
        let Some(block) = cold.load(id, state.deadline)? else { return Ok(()) };
        for row in block.rows().iter().filter(|row| choose(row)) {
            let event = block.event(row);
            let exists = || self.core.is_kept(&event, state.now_ms) && !cold.is_removed(id.lane(), row);
            if self.filter.matches(&event) && exists() && self.filter.takes(&event) {
                found.push(event);
            }
        }
        Ok(())
    }
}

impl Iterator for FetchScan<'_> {
    type Item = Result<EventRef<'static>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.core.is_closed() && self.state.is_none() {
            self.state = Some(State { sources: Vec::new(), ..self.begin() });
            return Some(Err(self.core.life.error()));
        }
        let mut state = match self.state.take() {
            Some(state) => state,
            None => self.begin(),
        };
        let next = loop {
            if let Some(error) = state.errors.pop_front() {
                if error.kind() == crate::error::ErrorKind::Timeout {
                    state.sources.clear();
                }
                break Some(Err(error));
            }
            let event = if self.ordered {
                state.waiting.pop_before(state.sources.last().map(|(begin, _)| *begin))
            } else {
                state.found.pop_front()
            };
            if let Some(event) = event {
                break Some(Ok(event));
            }
            match state.sources.pop() {
                Some((_, source)) => self.read(&source, &mut state),
                None => break None,
            }
        };
        self.state = Some(state);
        next
    }
}
