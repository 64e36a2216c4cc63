//! Reading from memory.

use std::ops::RangeBounds;

use smallvec::SmallVec;

use crate::error::Result;
use crate::event::EventRef;
use crate::eviction::Tier;
use crate::ids::Stream;
use crate::index::ids::Place;
use crate::pages::pool::FrameCache;
use crate::pages::readers::GuardPin;
use crate::pages::table;
use crate::store::core::Core;
use crate::store::history::History;
use crate::store::scan::Scan;

/// Ids that are looked up side by side.
const LOOKAHEAD: usize = 16;

/// A view of memory: hot events in place, warm ones unpacked. It never waits for I/O.
///
/// Events that it gives borrow from it. Hot pages that it was given events of are not reused while it is held, which counts
/// against the store's memory ([`Stats::pinned_bytes`](crate::Stats::pinned_bytes)), and nothing is that leaves memory while a
/// [`Scan`] or [`History`] of it lives. [`refresh`](Self::refresh) lets go, unless the thread holds another guard: those of one
/// thread count as one.
/// [`Stats::oldest_guard`](crate::Stats::oldest_guard) tells who holds a guard.
pub struct Guard<'s> {
    pub(crate) core: &'s Core,
    /// Pages are read with it during calls only: see [`GuardPin`].
    pub(crate) pin: GuardPin,
    pub(crate) cache: FrameCache,
    pub(crate) now_ms: i64,
}

impl<'s> Guard<'s> {
    pub(crate) fn new(core: &'s Core) -> Self {
        let pin = core.lanes.readers.pin_for_caller();
        Self { core, pin, cache: FrameCache::default(), now_ms: core.lanes.clock.coarse_ms() }
    }

    /// The event of that id, if it is in memory.
    ///
    /// An event that fails its checksum, or whose warm frame does, is not given, and counted; [`try_get`](Self::try_get) tells.
    #[inline]
    pub fn get(&self, id: u64) -> Option<EventRef<'_>> {
        self.try_get(id).ok().flatten()
    }

    /// The event of that id, if it is in memory.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when the event lies on a warm frame that fails its check, or fails its own
    /// ([`ConfigBuilder::event_checksums`](crate::ConfigBuilder::event_checksums)).
    #[inline]
    pub fn try_get(&self, id: u64) -> Result<Option<EventRef<'_>>> {
        let (lanes, _call) = (&self.core.lanes, self.pin.enter());
        let place = lanes.index.locate(id);
        // Most events that are asked for are hot and in an array.
        if let Some(record) = lanes.hot_record(&self.pin, place) {
            if lanes.reads_plainly() {
                return Ok(Some(EventRef::in_place(record)));
            }
            return self.give_at(place, EventRef::in_place(record));
        }
        self.try_get_at(id, place)
    }

    #[inline(never)]
    fn try_get_at<'g>(&'g self, id: u64, place: Place<'g>) -> Result<Option<EventRef<'g>>> {
        let found = self.core.lanes.get_at(&self.pin, &self.cache, id, place)?;
        let Some((addr, event)) = found.filter(|(_, event)| self.exists(event)) else {
            self.core.note_miss(&self.pin);
            return Ok(None);
        };
        self.check_whole(&event)?;
        self.core.note_read(&self.pin, addr.page(), self.now_ms);
        Ok(Some(event))
    }

    /// The events of those ids, in their order, `None` for each that is not in memory. Faster than one at a time:
    /// the reads overlap.
    pub fn get_batch(&self, ids: &[u64]) -> Vec<Option<EventRef<'_>>> {
        let (lanes, _call) = (&self.core.lanes, self.pin.enter());
        let mut out = Vec::with_capacity(ids.len());
        for ids in ids.chunks(LOOKAHEAD) {
            // Where their entries are; then where their records are; then the records.
            let mut places: SmallVec<[_; LOOKAHEAD]> = SmallVec::new();
            for id in ids {
                let place = lanes.index.locate(*id);
                lanes.index.prefetch(place);
                places.push(place);
            }
            for place in &places {
                if let Some(addr) = lanes.index.guess(*place) {
                    lanes.prefetch_record(addr);
                }
            }
            for (id, place) in ids.iter().zip(places) {
                match lanes.hot_record(&self.pin, place) {
                    Some(record) if lanes.reads_plainly() => out.push(Some(EventRef::in_place(record))),
                    Some(record) => out.push(self.give_at(place, EventRef::in_place(record)).ok().flatten()),
                    None => out.push(self.try_get_at(*id, place).ok().flatten()),
                }
            }
        }
        out
    }

    /// A stream's events in memory, newest first.
    pub fn history(&self, stream: Stream) -> History<'_> {
        History::new(self, stream)
    }

    /// All events in memory of a time range, in milliseconds since the epoch.
    pub fn scan(&self, range: impl RangeBounds<i64>) -> Scan<'_> {
        Scan::new(self, &range)
    }

    /// Lets go of what older reads held, and sees the present.
    pub fn refresh(&mut self) {
        self.cache.clear();
        self.pin.renew();
        self.now_ms = self.core.lanes.clock.coarse_ms();
    }

    /// Where in memory the event of that id is; `None` when it is not there. It counts as no read.
    pub fn tier_of(&self, id: u64) -> Option<Tier> {
        let (lanes, _call) = (&self.core.lanes, self.pin.enter());
        let found = lanes.get_at(&self.pin, &self.cache, id, lanes.index.locate(id)).ok().flatten();
        let (addr, _) = found.filter(|(_, event)| self.keeps(event))?;
        match lanes.pages.place(addr.page()).tier() {
            table::Tier::Hot => Some(Tier::Hot),
            table::Tier::Warm => Some(Tier::Warm),
            table::Tier::Free => None,
        }
    }

    /// A hot event that an array led to, if it still exists. Notes the read.
    #[inline(never)]
    fn give_at<'g>(&self, place: Place<'_>, event: EventRef<'g>) -> Result<Option<EventRef<'g>>> {
        if !self.exists(&event) {
            return Ok(None);
        }
        self.check_whole(&event)?;
        if let Some(addr) = self.core.lanes.index.in_array(place) {
            self.core.note_read(&self.pin, addr.page(), self.now_ms);
        }
        Ok(Some(event))
    }

    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) for an event that fails its checksum.
    fn check_whole(&self, event: &EventRef<'_>) -> Result<()> {
        if self.core.is_whole(event) { Ok(()) } else { Err(event.damage()) }
    }

    /// Whether an event still exists and is whole.
    #[inline]
    pub(crate) fn keeps(&self, event: &EventRef<'_>) -> bool {
        self.core.lanes.is_plain() || self.core.is_kept(event, self.now_ms) && self.core.is_whole(event)
    }

    /// The same of an event of which it is known whether it is whole.
    pub(crate) fn gives(&self, event: &EventRef<'_>, whole: bool) -> bool {
        let kept = self.exists(event);
        if kept && !whole {
            self.core.lanes.pages.count_corrupt_event();
        }
        kept && whole
    }

    /// Whether an event still exists.
    fn exists(&self, event: &EventRef<'_>) -> bool {
        self.core.lanes.is_plain() || self.core.is_kept(event, self.now_ms)
    }
}

impl std::fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// A time range as first and last millisecond; `None` when it is empty.
pub(crate) fn bounds(range: &impl RangeBounds<i64>) -> Option<(i64, i64)> {
    use std::ops::Bound;
    let first = match range.start_bound() {
        Bound::Included(at) => *at,
        Bound::Excluded(at) => at.checked_add(1)?,
        Bound::Unbounded => i64::MIN,
    };
    let last = match range.end_bound() {
        Bound::Included(at) => *at,
        Bound::Excluded(at) => at.checked_sub(1)?,
        Bound::Unbounded => i64::MAX,
    };
    (first <= last).then_some((first, last))
}
