//! All events in memory of a time range.

use std::ops::RangeBounds;
use std::vec;

use crate::event::record::RecordHeader;
use crate::event::{EventHeader, EventRef};
use crate::ids::{Addr, Class, LogicalPage};
use crate::pages::readers::Walk;
use crate::pages::reading::{Ahead, Records};
use crate::pages::table::{PageMeta, Place};
use crate::store::guard::{Guard, bounds};
use crate::store::time_order::InTimeOrder;

type Predicate<'a> = Box<dyn FnMut(&EventHeader) -> bool + Send + 'a>;

/// What a scan looks for.
pub(crate) struct Filter<'a> {
    pub(crate) range: Option<(i64, i64)>,
    kind: Option<u8>,
    class: Option<Class>,
    flags: u16,
    predicate: Option<Predicate<'a>>,
}

impl<'a> Filter<'a> {
    pub(crate) fn new(range: &impl RangeBounds<i64>) -> Self {
        Self { range: bounds(range), kind: None, class: None, flags: 0, predicate: None }
    }

    pub(crate) fn set_kind(&mut self, kind: u8) {
        self.kind = Some(kind);
    }

    pub(crate) fn set_class(&mut self, class: Class) {
        self.class = Some(class);
    }

    pub(crate) fn set_flags(&mut self, flags: u16) {
        self.flags = flags;
    }

    pub(crate) fn set_predicate(&mut self, predicate: impl FnMut(&EventHeader) -> bool + Send + 'a) {
        self.predicate = Some(Box::new(predicate));
    }

    pub(crate) fn takes_class(&self, class: Class) -> bool {
        self.class.is_none_or(|wanted| wanted == class)
    }

    /// Whether a page or block of these times and kinds can hold a match.
    pub(crate) fn may_match(&self, min_time: i64, max_time: i64, kinds: &[u64; 4]) -> bool {
        let kind = |kind: u8| kinds[usize::from(kind >> 6)] >> (kind & 63) & 1 == 1;
        self.range.is_some_and(|(first, last)| min_time <= last && max_time >= first)
            && self.kind.is_none_or(kind)
    }

    /// Whether every event of these times matches.
    fn takes_all_of(&self, min_time: i64, max_time: i64) -> bool {
        self.range.is_some_and(|(first, last)| first <= min_time && max_time <= last) && self.is_by_time()
    }

    /// Whether only the time of an event decides.
    fn is_by_time(&self) -> bool {
        self.kind.is_none() && self.flags == 0 && self.predicate.is_none()
    }

    /// Whether an event is one that was asked for, as far as the caller's own predicate does not decide.
    #[inline]
    pub(crate) fn matches(&self, event: &EventRef<'_>) -> bool {
        self.matches_header(&event.record())
    }

    #[inline]
    fn matches_header(&self, header: &RecordHeader) -> bool {
        self.range.is_some_and(|(first, last)| (first..=last).contains(&header.timestamp))
            && self.kind.is_none_or(|kind| header.kind == kind)
            && header.flags & self.flags == self.flags
    }

    /// Whether the caller's predicate takes an event. To be asked last: it is shown only what matches and exists.
    #[inline]
    pub(crate) fn takes(&mut self, event: &EventRef<'_>) -> bool {
        self.predicate.as_mut().is_none_or(|predicate| predicate(&event.header()))
    }
}

/// Walks all events in memory of a time range. Made by [`Guard::scan`].
///
/// Pages whose times and kinds cannot match are skipped unread. Unless [`ordered`](Self::ordered), events come in no
/// particular order. Set what to look for before the first event is taken.
///
/// While it lives, nothing that leaves memory is reused; one that is leaked ([`std::mem::forget`]) keeps that so until the
/// store is dropped, as a leaked guard keeps the pages that it was given events of.
#[must_use]
pub struct Scan<'g> {
    reader: Reader<'g>,
    ordered: bool,
    state: Option<State<'g>>,
}

/// Reads pages and chooses among their events.
struct Reader<'g> {
    guard: &'g Guard<'g>,
    /// Keeps the pages that the scan is on its way to.
    walk: Walk<'g>,
    filter: Filter<'g>,
}

/// A page to be read: where it was when the scan began stays readable while its pin is held.
struct Source<'g> {
    page: LogicalPage,
    meta: &'g PageMeta,
    place: Place,
    min_time: i64,
}

struct State<'g> {
    /// The next one last.
    sources: Vec<Source<'g>>,
    /// The hot page that is being read.
    hot: Option<HotPage<'g>>,
    found: vec::IntoIter<EventRef<'g>>,
    waiting: InTimeOrder<'g>,
}

/// A page whose records are looked at where they lie, one by one as they are asked for.
struct HotPage<'g> {
    page: LogicalPage,
    meta: &'g PageMeta,
    records: Records<'g>,
    /// Whether every event passes the filter and still exists.
    all: bool,
}

impl<'g> Scan<'g> {
    pub(crate) fn new(guard: &'g Guard<'g>, range: &impl RangeBounds<i64>) -> Self {
        let walk = guard.pin.walk(guard.core.lanes.pin());
        Self { reader: Reader { guard, walk, filter: Filter::new(range) }, ordered: false, state: None }
    }

    /// Only events of this kind.
    pub fn kind(mut self, kind: u8) -> Self {
        self.reader.filter.set_kind(kind);
        self
    }

    /// Only events of this class.
    pub fn class(mut self, class: Class) -> Self {
        self.reader.filter.set_class(class);
        self
    }

    /// Only events that have all of these flags.
    pub fn flags(mut self, flags: u16) -> Self {
        self.reader.filter.set_flags(flags);
        self
    }

    /// Only events whose header the predicate takes. It is shown those that match all else and exist, before their
    /// payload is looked at.
    pub fn filter_header(mut self, predicate: impl FnMut(&EventHeader) -> bool + Send + 'g) -> Self {
        self.reader.filter.set_predicate(predicate);
        self
    }

    /// In the order of timestamps. Holds back only events of pages that overlap in time.
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }
}

impl<'g> Reader<'g> {
    fn begin(&self, ordered: bool) -> State<'g> {
        let lanes = &self.guard.core.lanes;
        let mut sources = Vec::new();
        for lane in lanes.lanes().filter(|lane| self.filter.takes_class(lane.id.class())) {
            for (page, meta) in lane.pages_back(&lanes.pages, &self.walk.pin) {
                // The committed length first: the zone map covers at least what it says.
                let committed = meta.committed();
                if committed > 0 && self.filter.may_match(meta.min_time(), meta.max_time(), &meta.kinds()) {
                    sources.push(Source {
                        page,
                        meta,
                        place: lanes.pages.place(page),
                        min_time: meta.min_time(),
                    });
                }
            }
        }
        if ordered {
            sources.sort_by_key(|source| std::cmp::Reverse(source.min_time));
        }
        State { sources, hot: None, found: Vec::new().into_iter(), waiting: InTimeOrder::new() }
    }

    /// The source as a hot page, if it is one.
    fn open(&self, source: &Source<'g>) -> Option<HotPage<'g>> {
        let (guard, meta) = (self.guard, source.meta);
        let ahead = if self.filter.is_by_time() { Ahead::Whole } else { Ahead::Headers };
        let records = guard.core.lanes.pages.records(&guard.pin, source.place, meta.committed(), ahead)?;
        // After the committed length: the zone map covers at least what that says.
        let (min_time, max_time) = (meta.min_time(), meta.max_time());
        let kept = meta.expiring() == 0 && guard.core.retains(meta.lane().class(), min_time, guard.now_ms);
        let all = kept && self.filter.takes_all_of(min_time, max_time);
        Some(HotPage { page: source.page, meta, records, all })
    }

    /// The next event of a hot page that matches. It is made of its record last: made before, in parts, and handed on as a
    /// whole, it would have the processor wait for each.
    #[inline]
    fn next_of(&mut self, hot: &mut HotPage<'g>) -> Option<EventRef<'g>> {
        let lanes = &self.guard.core.lanes;
        loop {
            let (offset, record) = hot.records.next()?;
            if !hot.all {
                let header = RecordHeader::read(record)?;
                if !self.filter.matches_header(&header) || !lanes.is_plain() && !self.keeps(record) {
                    continue;
                }
            }
            if hot.meta.dead() > 0 && !self.is_live(hot.page, offset, record) {
                continue;
            }
            if hot.all || self.filter.predicate.is_none() || self.filter.takes(&EventRef::in_place(record)) {
                return Some(EventRef::in_place(record));
            }
        }
    }

    #[inline(never)]
    fn keeps(&self, record: &[u8]) -> bool {
        self.guard.keeps(&EventRef::in_place(record))
    }

    #[inline(never)]
    fn is_live(&self, page: LogicalPage, offset: u32, record: &[u8]) -> bool {
        self.guard.core.lanes.is_live(EventRef::in_place(record).id(), Addr::new(page, offset, 0))
    }

    /// The events of a page that match.
    fn read(&mut self, source: &Source<'g>) -> Vec<EventRef<'g>> {
        if let Some(mut hot) = self.open(source) {
            return std::iter::from_fn(|| self.next_of(&mut hot)).collect();
        }
        let (guard, filter) = (self.guard, &mut self.filter);
        let lanes = &guard.core.lanes;
        let mut found = Vec::new();
        // A damaged frame is counted; the rest of its page is given.
        let (page, committed) = (source.page, source.meta.committed());
        let _ = lanes.walk(&guard.pin, page, committed, source.place, |offset, event, whole| {
            let live = |event: &EventRef<'_>| {
                source.meta.dead() == 0 || lanes.is_live(event.id(), Addr::new(source.page, offset, 0))
            };
            if filter.matches(&event) && guard.gives(&event, whole) && live(&event) && filter.takes(&event) {
                found.push(event);
            }
            true
        });
        found
    }
}

impl<'g> Scan<'g> {
    /// The next of the events that were found by reading whole pages.
    #[inline(never)]
    fn next_found(&mut self) -> Option<EventRef<'g>> {
        let state = self.state.as_mut()?;
        if self.ordered {
            state.waiting.pop_before(state.sources.last().map(|source| source.min_time))
        } else {
            state.found.next()
        }
    }

    /// Goes on to the next page, when the one before has nothing more to give; `None` when there is none.
    #[inline(never)]
    fn turn_page(&mut self) -> Option<()> {
        let state = self.state.get_or_insert_with(|| self.reader.begin(self.ordered));
        state.hot = None;
        let source = state.sources.pop()?;
        if let Some(next) = state.sources.last() {
            self.reader.guard.core.lanes.pages.prefetch_page(next.place);
        }
        if self.ordered {
            state.waiting.add(self.reader.read(&source));
        } else {
            state.hot = self.reader.open(&source);
            if state.hot.is_none() {
                state.found = self.reader.read(&source).into_iter();
            }
        }
        Some(())
    }
}

impl<'g> Iterator for Scan<'g> {
    type Item = EventRef<'g>;

    #[inline]
    fn next(&mut self) -> Option<EventRef<'g>> {
        loop {
            if let Some(State { hot: Some(hot), .. }) = &mut self.state
                && let Some(event) = self.reader.next_of(hot)
            {
                return Some(event);
            }
            if let Some(event) = self.next_found() {
                return Some(event);
            }
            self.turn_page()?;
        }
    }
}
