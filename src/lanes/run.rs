//! Appending many events of one partition.
//!
//! Events are appended in *runs* of the same partition, class and page. A run announces all its ids first and writes
//! its records after that: announcing takes a locked instruction, which waits until all stores before it have reached
//! the cache, so one between any two records would let no two of them be under way to memory at a time. Everything
//! after the announcements is plain stores.

use crate::event::record::record_len;
use crate::ids::Class;
use crate::index::dense::Cursor;
use crate::index::ids::{Outcome, Ticket};
use crate::index::streams::Head;
use crate::lanes::append::{Checked, Lanes};
use crate::lanes::partition::{Partition, PartitionCounters, Writer};
use crate::pages::pool::{FrameCache, OpenPage, Pin};
use crate::pages::table::Zone;
use crate::pressure::PressureReason;
use crate::sync::wait_a_turn;

/// The most events of a run: more would only lengthen the time for which their ids are announced and not yet there.
const RUN: usize = 16;
/// Records up to this size have their room fetched; what is larger keeps the processor busy by itself.
const FETCHED: u32 = 2 << 10;

/// How far an attempt to append some events of one partition came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Events that have their outcome.
    pub(crate) done: usize,
    /// What had no room for the next.
    pub(crate) full: Option<PressureReason>,
}

/// An event of a run.
#[derive(Clone, Copy)]
struct Candidate<'g, 'e, 'a> {
    checked: &'e Checked<'e, 'a>,
    head: &'g Head,
    /// Where its id is announced, once it is.
    ticket: Ticket<'g>,
    /// Whether its head was made for it.
    made: bool,
}

/// Appends runs; what it remembers and allocates serves all of a caller's runs. Holds a pin.
pub(crate) struct Runner<'g, 'e, 'a> {
    lanes: &'g Lanes,
    pin: &'g Pin,
    cache: &'g FrameCache,
    cursor: Cursor<'g>,
    /// The events of the run at hand: found, then announced.
    events: Vec<Candidate<'g, 'e, 'a>>,
    /// Events for which heads were made, but that did not come to be.
    left_out: Vec<&'e Checked<'e, 'a>>,
}

impl<'g, 'e, 'a> Runner<'g, 'e, 'a> {
    pub(crate) fn new(lanes: &'g Lanes, pin: &'g Pin, cache: &'g FrameCache) -> Self {
        Self {
            lanes,
            pin,
            cache,
            cursor: Cursor::new(),
            events: Vec::with_capacity(RUN),
            left_out: Vec::new(),
        }
    }

    /// Appends events of one partition, as far as there is room: those of `all` that `order` names. The partition's
    /// lock is held (`writer`). `duplicate` is told which have an id that is in memory already.
    pub(crate) fn append(
        &mut self,
        writer: &mut Writer,
        all: &'e [Checked<'e, 'a>],
        order: &[u32],
        now_ms: i64,
        mut duplicate: impl FnMut(&Checked<'_, '_>),
    ) -> Progress {
        let mut done = 0;
        while done < order.len() {
            let run = &order[done..order.len().min(done + RUN)];
            match self.run(writer, all, run, now_ms, &mut duplicate) {
                Ok(more) => done += more,
                Err(reason) => return Progress { done, full: Some(reason) },
            }
        }
        Progress { done, full: None }
    }

    /// Appends a run. How many events have their outcome.
    fn run(
        &mut self,
        writer: &mut Writer,
        all: &'e [Checked<'e, 'a>],
        order: &[u32],
        now_ms: i64,
        duplicate: &mut impl FnMut(&Checked<'_, '_>),
    ) -> Result<usize, PressureReason> {
        let Some(first) = order.first().map(|at| &all[*at as usize]) else { return Ok(0) };
        let partition = &self.lanes.partitions[usize::from(first.partition)];
        let len = record_len(first.body_len);
        let open = self.lanes.open_page(partition, writer, first.class, len)?;
        self.lanes.pages.meta(open.page).prefetch();
        let moves = partition.streams.moves();
        let full = self.find_heads(partition, open, first.class, all, order);
        let (taken, zone, full) = self.announce(open, full, duplicate);
        let duplicates = taken - self.events.len();
        if duplicates > 0 {
            PartitionCounters::add(&partition.counters().duplicates, duplicates as u64);
        }
        if !self.events.is_empty() {
            self.lanes.pages.meta(open.page).cover(&zone, now_ms);
            self.write(partition, open, moves);
        }
        for checked in self.left_out.drain(..) {
            // Another event of the same run may have used it.
            let streams = &partition.streams;
            if let Some(head) = streams.find(checked.head_hash, checked.event.stream, checked.class) {
                streams.remove_empty(head);
            }
        }
        full.filter(|_| taken == 0).map_or(Ok(taken), Err)
    }

    /// Finds or makes the stream heads of the events at the front that fit on the page, and fetches what announcing
    /// them will touch. What had no room for one more.
    #[inline]
    fn find_heads(
        &mut self,
        partition: &'g Partition,
        open: &OpenPage,
        class: Class,
        all: &'e [Checked<'e, 'a>],
        order: &[u32],
    ) -> Option<PressureReason> {
        self.events.clear();
        let mut bytes = 0;
        for at in order {
            let checked = &all[*at as usize];
            let len = record_len(checked.body_len);
            if checked.class != class || !open.has_room(bytes, len) {
                break;
            }
            if len <= FETCHED {
                self.lanes.pages.prefetch_space(open, bytes, len);
            }
            bytes += len;
            let head = partition.streams.find_or_insert(checked.head_hash, checked.event.stream, class);
            let Some((head, made)) = head else { return Some(self.lanes.index_is_full()) };
            self.lanes.index.prefetch_claim(checked.event.id, &mut self.cursor);
            self.events.push(Candidate { checked, head, ticket: Ticket::Hash(0), made });
        }
        None
    }

    /// Announces the ids of the candidates. How many have their outcome, what the zone map is to cover, and what
    /// had no room.
    #[inline]
    fn announce(
        &mut self,
        open: &OpenPage,
        mut full: Option<PressureReason>,
        duplicate: &mut impl FnMut(&Checked<'_, '_>),
    ) -> (usize, Zone, Option<PressureReason>) {
        let Self { lanes, pin, cache, cursor, events, left_out } = self;
        let (mut zone, mut bytes, mut taken, mut kept) = (Zone::NOTHING, 0, 0, 0);
        while let Some(&Candidate { checked, made, .. }) = events.get(taken) {
            let event = checked.event;
            let addr = open.addr_after(bytes);
            let mut turn = 0;
            let outcome = loop {
                let outcome = match lanes.index.announce_next(event.id, addr, cursor) {
                    Some(ticket) => Outcome::New(ticket),
                    None => lanes.index.announce(event.id, addr, cursor, |entry| {
                        lanes.id_at(pin, cache, entry) == Some(event.id)
                    }),
                };
                // Who holds no announcement can wait for another's here. To begin the run anew would make heads for
                // all of it, and take them back, each time.
                let wait = matches!(outcome, Outcome::Again) && kept == 0;
                if !wait {
                    break outcome;
                }
                cursor.release();
                wait_a_turn(&mut turn);
            };
            match outcome {
                Outcome::New(ticket) => {
                    zone.add(event.timestamp, event.kind);
                    bytes += record_len(checked.body_len);
                    events[taken].ticket = ticket;
                    if kept < taken {
                        events[kept] = events[taken];
                    }
                    kept += 1;
                }
                Outcome::Duplicate => {
                    duplicate(checked);
                    left_out.extend(made.then_some(checked));
                }
                outcome => {
                    if let Outcome::Full = outcome {
                        full = Some(lanes.index_is_full());
                    }
                    let rest = events[taken..].iter().filter(|event| event.made);
                    left_out.extend(rest.map(|event| event.checked));
                    break;
                }
            }
            taken += 1;
        }
        events.truncate(kept);
        cursor.release();
        (taken, zone, full)
    }

    /// Writes the announced events. `moves` is how often heads had moved before they were found.
    #[inline]
    fn write(&self, partition: &Partition, open: &mut OpenPage, moves: u64) {
        let meta = self.lanes.pages.meta(open.page);
        // Making a head can have moved those that were found before it.
        let moved = partition.streams.moves() != moves;
        let mut bytes = 0;
        for Candidate { checked, mut head, ticket, .. } in self.events.iter().copied() {
            if moved {
                let now = partition.streams.find(checked.head_hash, checked.event.stream, checked.class);
                head = now.unwrap_or(head);
            }
            self.lanes.write(meta, open, checked, head, ticket);
            bytes += u64::from(checked.body_len);
        }
        PartitionCounters::add(&partition.counters().appended, self.events.len() as u64);
        PartitionCounters::add(&partition.counters().appended_bytes, bytes);
    }
}
