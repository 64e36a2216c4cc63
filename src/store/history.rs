//! A stream's events in memory.

use std::ops::RangeBounds;

use smallvec::SmallVec;

use crate::event::EventRef;
use crate::ids::{Class, Stream};
use crate::lanes::history::{Chains, Step};
use crate::pages::readers;
use crate::store::guard::{Guard, bounds};

/// Walks a stream's events in memory, newest first. Made by [`Guard::history`].
///
/// Within a class, newest first is the reverse order of appending. Classes are merged by timestamp. Set what to
/// look for before the first event is taken.
#[must_use]
pub struct History<'g> {
    guard: &'g Guard<'g>,
    /// Keeps the pages that the walk is on its way to.
    _walk: readers::Walk<'g>,
    stream: Stream,
    range: Option<(i64, i64)>,
    class: Option<Class>,
    /// One for each class, made at the first event.
    chains: Option<SmallVec<[Walk<'g>; 1]>>,
}

/// One class's walk, with its next event that fits in hand where there are others.
struct Walk<'g> {
    chains: Chains<'g>,
    next: Option<EventRef<'g>>,
}

impl<'g> History<'g> {
    pub(crate) fn new(guard: &'g Guard<'g>, stream: Stream) -> Self {
        let _walk = guard.pin.walk(guard.core.lanes.pin());
        Self { guard, _walk, stream, range: Some((i64::MIN, i64::MAX)), class: None, chains: None }
    }

    /// Newest first: the only order there is, for those who like to say so.
    pub fn newest(self) -> Self {
        self
    }

    /// Only events with timestamps in this range, in milliseconds since the epoch.
    pub fn range(mut self, range: impl RangeBounds<i64>) -> Self {
        self.range = bounds(&range);
        self
    }

    /// Only events of this class.
    pub fn class(mut self, class: Class) -> Self {
        self.class = Some(class);
        self
    }

    fn begin(&self, range: (i64, i64)) -> SmallVec<[Walk<'g>; 1]> {
        let lanes = self.guard.core.lanes_of(self.stream, self.class);
        let walk = |lane: crate::ids::LaneId| {
            let (pin, cache) = (&self.guard.pin, &self.guard.cache);
            let chains = Chains::new(&self.guard.core.lanes, pin, cache, self.stream, lane.class());
            Walk { chains, next: None }
        };
        let mut walks: SmallVec<[Walk<'g>; 1]> = lanes.into_iter().map(walk).collect();
        if walks.len() > 1 {
            walks.iter_mut().for_each(|walk| walk.advance(self.guard, range));
        }
        walks
    }
}

impl<'g> Walk<'g> {
    /// The next event that fits, of a walk without others.
    #[inline]
    fn next(&mut self, guard: &'g Guard<'g>, range: (i64, i64)) -> Option<EventRef<'g>> {
        if guard.core.lanes.reads_plainly()
            && let Some(event) = self.chains.next_plain(&guard.pin, range)
        {
            return Some(event);
        }
        self.next_of_any(guard, range)
    }

    #[inline(never)]
    fn next_of_any(&mut self, guard: &'g Guard<'g>, range: (i64, i64)) -> Option<EventRef<'g>> {
        self.advance(guard, range);
        self.next.take()
    }

    /// Goes on to the next event that fits.
    fn advance(&mut self, guard: &'g Guard<'g>, range: (i64, i64)) {
        self.next = None;
        while let Some(step) = self.chains.next(&guard.pin, &guard.cache) {
            if range.0 > i64::MIN && self.chains.page_of(&step).max_time_so_far() < range.0 {
                // Neither this event nor any older one is as late as the range begins.
                return;
            }
            if fits(guard, &step, range) {
                self.next = Some(step.event);
                return;
            }
        }
    }
}

/// Whether an event of a walk is in range, still exists, and was not removed.
#[inline]
pub(crate) fn fits(guard: &Guard<'_>, step: &Step<'_>, range: (i64, i64)) -> bool {
    let lanes = &guard.core.lanes;
    (range.0..=range.1).contains(&step.event.timestamp())
        && (lanes.reads_plainly() || keeps_noting(guard, step))
        && (!step.place.has_dead() || lanes.is_live(step.event.id(), step.addr))
}

/// The same of an event of which it is known that it fails its checksum.
pub(crate) fn is_there(guard: &Guard<'_>, step: &Step<'_>, range: (i64, i64)) -> bool {
    let (core, event) = (guard.core, &step.event);
    (range.0..=range.1).contains(&event.timestamp())
        && core.is_kept(event, guard.now_ms)
        && (!step.place.has_dead() || core.lanes.is_live(event.id(), step.addr))
}

/// Whether an event of a walk still exists. Notes the read.
#[inline(never)]
fn keeps_noting(guard: &Guard<'_>, step: &Step<'_>) -> bool {
    guard.core.note_read(&guard.pin, step.addr.page(), guard.now_ms);
    guard.keeps(&step.event)
}

impl<'g> Iterator for History<'g> {
    type Item = EventRef<'g>;

    #[inline]
    fn next(&mut self) -> Option<EventRef<'g>> {
        let range = self.range?;
        if self.chains.is_none() {
            self.chains = Some(self.begin(range));
        }
        let walks = self.chains.as_mut()?;
        if let [walk] = walks.as_mut_slice() {
            return walk.next(self.guard, range);
        }
        let walk = walks
            .iter_mut()
            .filter(|walk| walk.next.is_some())
            .reduce(|best, walk| if time(walk) > time(best) { walk } else { best })?;
        let event = walk.next.take();
        walk.advance(self.guard, range);
        event
    }
}

fn time(walk: &Walk<'_>) -> Option<i64> {
    walk.next.as_ref().map(EventRef::timestamp)
}
