//! Events of several pages or blocks in the order of their timestamps.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::event::EventRef;

/// A run with room for no more events keeps it to its end.
const WORTH_SHRINKING: usize = 32;

/// What was read of pages and blocks, merged by time; equal times in the order of reading.
///
/// Each page or block is a run of its own, in order mostly as it was written. So an event passes through a heap of as many
/// runs as overlap in time, not of all the events that wait.
///
/// An event earlier than one that was given already is left out: it came after the scan had begun, on a page that
/// began later then.
pub(crate) struct InTimeOrder<'g> {
    heap: BinaryHeap<Waiting<'g>>,
    runs: u64,
    given: i64,
}

/// A run, by the time of its next event.
struct Waiting<'g> {
    time: i64,
    number: u64,
    run: Box<Run<'g>>,
}

struct Run<'g> {
    next: EventRef<'g>,
    /// The earliest last.
    rest: Vec<EventRef<'g>>,
}

impl<'g> Run<'g> {
    /// Goes on, and gives the event that was the next one.
    fn advance(&mut self) -> Option<EventRef<'g>> {
        let next = self.rest.pop()?;
        // Of a page whose last event is of a later time all the others' room would wait with it.
        if self.rest.capacity() > WORTH_SHRINKING && self.rest.len() < self.rest.capacity() / 4 {
            self.rest.shrink_to(self.rest.len() * 2);
        }
        Some(std::mem::replace(&mut self.next, next))
    }
}

impl PartialEq for Waiting<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting<'_> {}

impl PartialOrd for Waiting<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting<'_> {
    /// The earliest is the greatest, for the heap.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time, other.number).cmp(&(self.time, self.number))
    }
}

impl<'g> InTimeOrder<'g> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), runs: 0, given: i64::MIN }
    }

    /// Adds what was found on a page or in a block, in the order of finding.
    pub(crate) fn add(&mut self, mut found: Vec<EventRef<'g>>) {
        if self.given > i64::MIN {
            found.retain(|event| event.timestamp() >= self.given);
        }
        if !found.is_sorted_by_key(EventRef::timestamp) {
            found.sort_by_key(EventRef::timestamp);
        }
        found.reverse();
        if let Some(next) = found.pop() {
            self.runs += 1;
            let time = next.timestamp();
            self.heap.push(Waiting { time, number: self.runs, run: Box::new(Run { next, rest: found }) });
        }
    }

    /// The earliest event, if nothing that begins at `not_loaded` can come before it.
    pub(crate) fn pop_before(&mut self, not_loaded: Option<i64>) -> Option<EventRef<'g>> {
        let mut first = self.heap.peek_mut()?;
        if not_loaded.is_some_and(|begin| first.time >= begin) {
            return None;
        }
        self.given = first.time;
        match first.run.advance() {
            Some(event) => {
                first.time = first.run.next.timestamp();
                Some(event)
            }
            None => Some(PeekMut::pop(first).run.next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::event::record::record_len;
    use crate::ids::{Class, Stream};

    fn record(id: u64, time: i64) -> Vec<u8> {
        let event = Event::new(Stream::from(1), id, time, 0);
        let mut bytes = vec![0; record_len(0) as usize];
        event.write(Class::DEFAULT, 0, 0, &mut bytes);
        bytes
    }

    /// One event of a later time on each page must not keep the room of all the others.
    #[test]
    fn a_run_gives_room_back_as_its_events_go() {
        let records: Vec<_> =
            (0..1000).map(|id| record(id, if id == 999 { 1 << 40 } else { id as i64 })).collect();
        let mut order = InTimeOrder::new();
        order.add(records.iter().map(|record| EventRef::in_place(record)).collect());
        let given = std::iter::from_fn(|| order.pop_before(Some(1 << 40))).map(|event| event.id());
        assert!(given.eq(0..999));
        let room = order.heap.peek().map(|first| first.run.rest.capacity());
        assert!(room.is_some_and(|room| room <= WORTH_SHRINKING), "{room:?}");
        assert_eq!(order.pop_before(None).map(|event| event.id()), Some(999));
    }

    #[test]
    fn runs_that_overlap_are_merged_and_equal_times_keep_the_order_of_reading() {
        let records: Vec<_> =
            [(1, 10), (2, 30), (3, 20), (4, 20), (5, 10), (6, 40)].map(|(id, time)| record(id, time)).into();
        let events = |of: std::ops::Range<usize>| records[of].iter().map(|record| EventRef::in_place(record));
        let mut order = InTimeOrder::new();
        // Not in order itself.
        order.add(events(0..3).collect());
        order.add(Vec::new());
        order.add(events(3..6).collect());
        let pop = |order: &mut InTimeOrder<'_>, before| order.pop_before(before).map(|event| event.id());
        assert_eq!(pop(&mut order, Some(10)), None, "something may come before it");
        let ids: Vec<_> = (0..4).map_while(|_| pop(&mut order, Some(30))).collect();
        assert_eq!(ids, [1, 5, 3, 4]);
        assert_eq!(pop(&mut order, Some(30)), None);
        let (late, fits) = (record(7, 19), record(8, 20));
        order.add(vec![EventRef::in_place(&late), EventRef::in_place(&fits)]);
        let ids: Vec<_> = std::iter::from_fn(|| pop(&mut order, None)).collect();
        assert_eq!(ids, [8, 2, 6], "what is earlier than what was given is left out");
    }
}
