//! Walking a stream back through memory, newest first.
//!
//! The events of a stream and class are six chains (see [`crate::index::streams`]) that take turns: after an event of
//! one chain comes one of the next, so the walk need not compare them. It has the next event of each chain fetched
//! ahead, so that six reads are under way at any time.

use crate::error::{Error, Result};
use crate::event::EventRef;
use crate::event::record::RecordHeader;
use crate::ids::{Addr, Class, Stream};
use crate::index::streams::{STRIPES, head_hash, stream_hash};
use crate::lanes::append::Lanes;
use crate::lanes::partition::partition_of;
use crate::pages::pool::{FrameCache, Pages};
use crate::pages::readers::Reading;
use crate::pages::table::{PageMeta, Place, Tier};
use crate::pages::warm::Near;

/// Where an event lies in its lane: events of a lane are ordered by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Position {
    pub(crate) seq: u64,
    pub(crate) offset: u32,
}

/// An event of a walk.
pub(crate) struct Step<'g> {
    pub(crate) event: EventRef<'g>,
    pub(crate) addr: Addr,
    /// Of its page, when it was read.
    pub(crate) place: Place,
}

impl Step<'_> {
    pub(crate) fn position(&self, pages: &Pages) -> Position {
        Position { seq: pages.meta(self.addr.page()).seq(), offset: self.addr.offset() }
    }
}

/// Where a walk goes on: the next event of each chain, zero for those that have ended, and whose turn it is.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    next: [Addr; STRIPES],
    at: usize,
}

/// The walk over one stream's events of one class.
pub(crate) struct Chains<'g> {
    lanes: &'g Lanes,
    stream: Stream,
    class: Class,
    turn: Turn,
    /// Whether a chain led to a page that has left memory.
    pub(crate) met_gone: bool,
    /// What could not be read; the chain ends there.
    pub(crate) damage: Option<Error>,
    /// A bit for each chain whose next event is warm, so that there is more to fetch ahead.
    warm: u8,
}

impl<'g> Chains<'g> {
    pub(crate) fn new(
        lanes: &'g Lanes,
        pin: &'g impl Reading,
        cache: &FrameCache,
        stream: Stream,
        class: Class,
    ) -> Self {
        let hash = stream_hash(stream, lanes.seed);
        let number = partition_of(hash, lanes.partitions.len());
        let head = lanes.partitions[number].streams.find(head_hash(hash, class), stream, class);
        let next = head.map_or([Addr(0); STRIPES], |head| head.newest());
        Self::begin(lanes, pin, cache, stream, class, next)
    }

    /// Begins where a head's chains began when they were read, one after the other.
    pub(crate) fn begin(
        lanes: &'g Lanes,
        pin: &'g impl Reading,
        cache: &FrameCache,
        stream: Stream,
        class: Class,
        next: [Addr; STRIPES],
    ) -> Self {
        let mut chains = Self::resume(lanes, stream, class, Turn { next, at: 0 });
        (0..STRIPES).for_each(|chain| chains.prefetch(chain));
        if chains.warm != 0 {
            (0..STRIPES).for_each(|chain| chains.prefetch_warm(chain, Near::Entry));
            (0..STRIPES).for_each(|chain| chains.prefetch_warm(chain, Near::Frame));
        }
        chains.leave_out_newer(pin, cache);
        chains
    }

    /// Goes on where an earlier walk of the same stream and class was. Its addresses are links with their generation, so that a
    /// page that has left meanwhile is noticed.
    pub(crate) fn resume(lanes: &'g Lanes, stream: Stream, class: Class, turn: Turn) -> Self {
        Self { lanes, stream, class, turn, met_gone: false, damage: None, warm: 0 }
    }

    /// Where the walk would go on.
    pub(crate) fn turn(&self) -> Turn {
        self.turn
    }

    /// Passes over events that came after the newest one was read: they are not of this walk, since another chain may
    /// lack one. They are where the oldest ones were, so the look goes from there up to the first that is older.
    fn leave_out_newer(&mut self, pin: &'g impl Reading, cache: &FrameCache) {
        let Some(newest) = self.position(self.turn.next[0]) else { return };
        for chain in (1..STRIPES).rev() {
            let addr = self.turn.next[chain];
            if addr.0 != 0 && self.position(addr).is_none_or(|position| position <= newest) {
                return;
            }
            while self.position(self.turn.next[chain]).is_some_and(|position| position > newest) {
                self.take(pin, cache, chain);
            }
        }
    }

    fn position(&self, addr: Addr) -> Option<Position> {
        self.lanes.pages.resolve(addr).filter(|_| addr.0 != 0)?;
        Some(Position { seq: self.lanes.pages.meta(addr.page()).seq(), offset: addr.offset() })
    }

    /// What is known of the page of an event.
    pub(crate) fn page_of(&self, step: &Step<'g>) -> &'g PageMeta {
        self.lanes.pages.meta(step.addr.page())
    }

    /// The page of the next event, if there is one.
    pub(crate) fn peek(&mut self) -> Option<&'g PageMeta> {
        for _ in 0..STRIPES {
            let addr = self.turn.next[self.turn.at];
            match self.lanes.pages.resolve(addr).filter(|_| addr.0 != 0) {
                Some(_) => return Some(self.lanes.pages.meta(addr.page())),
                None => {
                    self.met_gone |= addr.0 != 0;
                    self.turn.next[self.turn.at] = Addr(0);
                }
            }
            self.turn.at = (self.turn.at + 1) % STRIPES;
        }
        None
    }

    /// The next event, if it is as nearly all are: hot, on a page of which nothing was removed, ending within it, and of that
    /// time. `None` where [`next`](Self::next) has to look; nothing is taken then.
    ///
    /// A reader's hundred events are bound by the memory that they lie in: what is done for each must leave room for the
    /// reads of those behind it.
    #[inline(always)]
    pub(crate) fn next_plain(&mut self, pin: &'g impl Reading, range: (i64, i64)) -> Option<EventRef<'g>> {
        let (pages, chain) = (&self.lanes.pages, self.turn.at);
        let addr = self.turn.next[chain];
        let place = pages.resolve(addr)?;
        if addr.0 == 0 || place.has_dead() || place.tier() != Tier::Hot {
            return None;
        }
        let record = pages.record_within(pin, place, addr)?;
        let header = RecordHeader::read(record)?;
        let fits = header.stream == self.stream.as_u64()
            && header.class() == self.class
            && (range.0..=range.1).contains(&header.timestamp);
        if !fits {
            return None;
        }
        self.turn.at = if chain + 1 == STRIPES { 0 } else { chain + 1 };
        let previous = Addr(header.previous);
        self.turn.next[chain] = previous;
        self.prefetch(chain);
        Some(EventRef::in_place(record))
    }

    /// The next event.
    #[inline]
    pub(crate) fn next(&mut self, pin: &'g impl Reading, cache: &FrameCache) -> Option<Step<'g>> {
        for _ in 0..STRIPES {
            let chain = self.turn.at;
            self.turn.at = if chain + 1 == STRIPES { 0 } else { chain + 1 };
            if let Some(step) = self.take(pin, cache, chain) {
                return Some(step);
            }
        }
        None
    }

    /// Takes a chain's next event.
    #[inline]
    fn take(&mut self, pin: &'g impl Reading, cache: &FrameCache, chain: usize) -> Option<Step<'g>> {
        let addr = self.turn.next[chain];
        if addr.0 == 0 {
            return None;
        }
        let step = match self.read(pin, cache, addr) {
            Ok(step) => step,
            Err(error) => {
                self.damage = Some(error);
                self.turn.next[chain] = Addr(0);
                return None;
            }
        };
        self.met_gone |= step.is_none();
        let previous = step.as_ref().map_or(Addr(0), |step| Addr(step.event.record().previous));
        self.turn.next[chain] = previous;
        if self.warm != 0 {
            self.come_nearer(chain);
        }
        self.prefetch(chain);
        step
    }

    /// The event that a link names; `None` when its page has left memory.
    #[inline]
    fn read(&self, pin: &'g impl Reading, cache: &FrameCache, addr: Addr) -> Result<Option<Step<'g>>> {
        let pages = &self.lanes.pages;
        let Some(place) = pages.resolve(addr) else { return Ok(None) };
        let event = pages.read(pin, cache, place, addr)?;
        // A page's number can have been used 2^20 times since the link was made.
        let ours = |event: &EventRef<'_>| event.stream() == self.stream && event.class() == self.class;
        if event.as_ref().is_some_and(|event| !ours(event)) {
            return self.not_ours(event);
        }
        Ok(event.map(|event| Step { event, addr, place }))
    }

    /// A link has led to another stream's event, or to one that only seems to be.
    #[cold]
    #[inline(never)]
    fn not_ours(&self, event: Option<EventRef<'_>>) -> Result<Option<Step<'g>>> {
        let damaged = event.filter(|event| self.lanes.sums && !event.is_whole());
        damaged.map_or(Ok(None), |event| Err(event.damage()))
    }

    /// Asks the processor to fetch a chain's next record, or what leads to it where it is warm.
    #[inline]
    fn prefetch(&mut self, chain: usize) {
        let addr = self.turn.next[chain];
        if addr.0 != 0
            && let Some(place) = self.lanes.pages.resolve(addr)
            && !self.lanes.pages.prefetch_hot(place, addr.offset())
        {
            self.lanes.pages.prefetch_image(place, addr.offset());
            self.warm |= 1 << chain;
        }
    }

    /// After a warm event of that chain was read, or while others have one ahead.
    #[cold]
    #[inline(never)]
    fn come_nearer(&mut self, chain: usize) {
        self.warm &= !(1 << chain);
        // What was asked for two and four turns ago is there by now.
        self.prefetch_warm((chain + 4) % STRIPES, Near::Entry);
        self.prefetch_warm((chain + 2) % STRIPES, Near::Frame);
    }

    /// Fetches more of what leads to a chain's next record, if that is warm.
    fn prefetch_warm(&self, chain: usize, step: Near) {
        let addr = self.turn.next[chain];
        if self.warm >> chain & 1 == 1
            && let Some(place) = self.lanes.pages.resolve(addr)
        {
            self.lanes.pages.prefetch_warm(place, addr.offset(), step);
        }
    }
}
