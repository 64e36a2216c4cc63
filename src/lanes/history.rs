//! Walking a stream back through memory, newest first.
//!
//! The events of a stream and class are six chains (see [`crate::index::streams`]). The walk keeps the next event
//! of each chain in hand and gives the newest of them, so that six reads are under way at any time.

use crate::error::Result;
use crate::event::EventRef;
use crate::ids::{Addr, Class, LaneId, Stream};
use crate::index::streams::STRIPES;
use crate::lanes::append::Lanes;
use crate::pages::pool::{FrameCache, Pin};
use crate::pages::table::resolve;

/// Where an event lies in its lane: events of a lane are ordered by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Position {
    pub(crate) seq: u64,
    pub(crate) offset: u32,
}

/// An event of a walk.
pub(crate) struct Step<'g> {
    pub(crate) event: EventRef<'g>,
    pub(crate) position: Position,
    pub(crate) addr: Addr,
    /// No event at or before this one in its lane is later than this.
    pub(crate) max_time_so_far: i64,
}

/// The walk over one stream's events of one class.
pub(crate) struct Chains<'g> {
    lanes: &'g Lanes,
    lane: LaneId,
    hand: [Option<Step<'g>>; STRIPES],
    /// Whether a chain led to a page that has left memory.
    pub(crate) met_gone: bool,
    /// What could not be read; the chain ends there.
    pub(crate) damage: Option<crate::error::Error>,
}

impl<'g> Chains<'g> {
    pub(crate) fn new(
        lanes: &'g Lanes,
        pin: &'g Pin,
        cache: &FrameCache,
        stream: Stream,
        class: Class,
    ) -> Self {
        let number = lanes.partition_of(stream);
        let lane = LaneId::new(number, class);
        let mut chains =
            Self { lanes, lane, hand: std::array::from_fn(|_| None), met_gone: false, damage: None };
        let Some(head) = lanes.partitions[number].streams.find(stream, class) else { return chains };
        let newest = head.newest();
        for addr in newest {
            lanes.prefetch_record(addr);
        }
        for (chain, addr) in newest.into_iter().enumerate() {
            chains.hand[chain] = chains.read(pin, cache, addr);
        }
        // Events that came after the newest one was read are not of this walk: another chain may lack one.
        if let Some(newest) = chains.hand[0].as_ref().map(|step| step.position) {
            for chain in 1..STRIPES {
                while chains.hand[chain].as_ref().is_some_and(|step| step.position > newest) {
                    chains.advance(pin, cache, chain);
                }
            }
        }
        chains
    }

    /// Goes on where an earlier walk of the same lane was: see [`Self::addrs`].
    pub(crate) fn resume(
        lanes: &'g Lanes,
        pin: &'g Pin,
        cache: &FrameCache,
        lane: LaneId,
        addrs: [Addr; STRIPES],
    ) -> Self {
        let mut chains =
            Self { lanes, lane, hand: std::array::from_fn(|_| None), met_gone: false, damage: None };
        for (chain, addr) in addrs.into_iter().enumerate() {
            chains.hand[chain] = chains.read(pin, cache, addr);
        }
        chains
    }

    /// The addresses of the events in hand, zero for chains that have ended.
    pub(crate) fn addrs(&self) -> [Addr; STRIPES] {
        // The address in hand is a link with its generation, so that a page that leaves meanwhile is noticed.
        std::array::from_fn(|chain| self.hand[chain].as_ref().map_or(Addr(0), |step| step.addr))
    }

    /// Where the walk would go on: the newest event in hand.
    pub(crate) fn peek(&self) -> Option<&Step<'g>> {
        self.hand.iter().flatten().max_by_key(|step| step.position)
    }

    /// Gives the newest event in hand and takes the next of its chain.
    pub(crate) fn next(&mut self, pin: &'g Pin, cache: &FrameCache) -> Option<Step<'g>> {
        let position = self.peek()?.position;
        let chain =
            self.hand.iter().position(|step| step.as_ref().is_some_and(|step| step.position == position))?;
        self.advance(pin, cache, chain)
    }

    /// Replaces a chain's event in hand by the one before it.
    fn advance(&mut self, pin: &'g Pin, cache: &FrameCache, chain: usize) -> Option<Step<'g>> {
        let (from, position) =
            self.hand[chain].as_ref().map(|step| (Addr(step.event.record().previous), step.position))?;
        // Links lead back. One that does not was overtaken by 2^20 reuses of its page's number.
        let next = self.read(pin, cache, from).filter(|next| next.position < position);
        self.met_gone |= next.is_none() && from.0 != 0;
        if let Some(next) = &next {
            self.lanes.prefetch_record(Addr(next.event.record().previous));
        }
        std::mem::replace(&mut self.hand[chain], next)
    }

    fn read(&mut self, pin: &'g Pin, cache: &FrameCache, addr: Addr) -> Option<Step<'g>> {
        if addr.0 == 0 {
            return None;
        }
        match self.lanes.read_link(pin, cache, addr, self.lane) {
            Ok(Some(step)) => Some(step),
            Ok(None) => {
                self.met_gone = true;
                None
            }
            Err(error) => {
                self.damage = Some(error);
                None
            }
        }
    }
}

impl Lanes {
    /// Asks the processor to fetch the record that a link names, if it is hot.
    fn prefetch_record(&self, addr: Addr) {
        if addr.0 != 0
            && let Some((_, place)) = resolve(self.pages.table(), addr)
        {
            self.pages.prefetch_hot(place, addr.offset());
        }
    }

    /// The event that a link names; `None` when its page has left memory.
    fn read_link<'g>(
        &'g self,
        pin: &'g Pin,
        cache: &FrameCache,
        addr: Addr,
        lane: LaneId,
    ) -> Result<Option<Step<'g>>> {
        let Some((meta, place)) = resolve(self.pages.table(), addr) else { return Ok(None) };
        if meta.lane() != lane {
            return Ok(None);
        }
        let position = Position { seq: meta.seq(), offset: addr.offset() };
        let event = self.pages.read(pin, cache, place, addr.offset())?;
        Ok(event.map(|event| Step { event, position, addr, max_time_so_far: meta.max_time_so_far() }))
    }
}
