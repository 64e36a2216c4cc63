//! Making one move, after checking that it makes sense: what a policy saw may be out of date, and a policy may be wrong.

use std::sync::atomic::Ordering;

use crate::config::Config;
use crate::event::record::NEVER;
use crate::eviction::cursor::Cursor;
use crate::eviction::engine::EvictionShared;
use crate::eviction::view::summary;
use crate::eviction::{Move, PageId, PageSummary, Refusal, Tier, millis};
use crate::ids::{Addr, LogicalPage, Stream};
use crate::index::dense::Remover;
use crate::index::streams::{head_hash, stream_hash};
use crate::lanes::append::Lanes;
use crate::lanes::partition::{Lane, Partition};
use crate::pages::pool::Pin;

/// Records whose stream heads are purged under one hold of the partition's lock.
const PURGE_RUN: usize = 8;

/// What came of a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// That many events moved.
    Moved(usize),
    /// The warm region has no room for the page now.
    WarmIsFull,
    /// Readers hold back the room that the hot region has for the page.
    HotIsFull,
    /// The cold tier must confirm the page first, and was asked to.
    Waits,
    Refused(Refusal),
}

/// What moves are made on.
pub(super) struct Mover<'a> {
    pub(super) config: &'a Config,
    pub(super) lanes: &'a Lanes,
    pub(super) shared: &'a EvictionShared,
    pub(super) cursors: &'a mut [Cursor],
    pub(super) scratch: &'a mut Vec<u8>,
}

/// A page that is there, and what it belongs to.
#[derive(Clone, Copy)]
struct Found<'a> {
    page: LogicalPage,
    number: usize,
    partition: &'a Partition,
    lane: &'a Lane,
    summary: PageSummary,
}

impl<'a> Mover<'a> {
    /// Makes a move, or says why not. Gives the number of the page's lane, too.
    pub(super) fn make(&mut self, what: Move) -> (Option<usize>, Outcome) {
        let (Move::Demote(id) | Move::Promote(id) | Move::Release(id) | Move::Spill(id)) = what;
        let Some(found) = self.find(id) else { return (None, Outcome::Refused(Refusal::Gone)) };
        let outcome = match what {
            Move::Demote(_) => self.demote(&found),
            Move::Promote(_) => self.promote(&found),
            Move::Release(_) => self.release(&found, false),
            Move::Spill(_) => {
                self.ask_for_spill(&found);
                Outcome::Waits
            }
        };
        (Some(found.number), outcome)
    }

    fn find(&self, id: PageId) -> Option<Found<'a>> {
        let (lanes, page) = (self.lanes, id.page);
        if page == LogicalPage::NONE || page.0 > lanes.pages.numbers_limit() {
            return None;
        }
        // Only the mover changes the places of pages in use, so what is found stays.
        let place = lanes.pages.place(page);
        if place.generation() != id.generation {
            return None;
        }
        let lane = lanes.pages.meta(page).lane();
        let (class, partition) = (lane.class(), lanes.partitions.get(lane.partition())?);
        let (number, lane) =
            (lane.partition() * self.config.classes.len() + class.index(), partition.lane(class));
        let open = page == lane.head();
        let summary = summary(self.config, lanes, lanes.clock.now_ms(), page, lane, open)?;
        Some(Found { page, number, partition, lane, summary })
    }

    fn demote(&mut self, found: &Found<'_>) -> Outcome {
        let Found { page, partition, summary, .. } = *found;
        if summary.tier != Tier::Hot {
            return Outcome::Refused(Refusal::NotHot);
        }
        if !self.config.classes[summary.class.index()].compress {
            return Outcome::Refused(Refusal::NotCompressed);
        }
        partition.seal_page(summary.class, page);
        if !self.lanes.pages.demote(&self.lanes.pin(), page, self.scratch) {
            return Outcome::WarmIsFull;
        }
        // Or two pages could take each other's place for ever.
        self.lanes.pages.forget_reads(page);
        let meta = self.lanes.pages.meta(page);
        let (events, counters) = (meta.count(), &self.shared.counters);
        let class = &self.config.classes[summary.class.index()];
        self.shared.stays.squeezed(&summary, meta.image_len(), class, self.lanes.clock.now_ms());
        counters.demoted_pages.fetch_add(1, Ordering::Relaxed);
        counters.demoted_events.fetch_add(u64::from(events), Ordering::Relaxed);
        self.shared.set_passed(found.number, meta.seq() + 1);
        self.cursors[found.number].gone(self.lanes, page);
        Outcome::Moved(events as usize)
    }

    fn promote(&mut self, found: &Found<'_>) -> Outcome {
        let Found { page, summary, .. } = *found;
        if summary.tier != Tier::Warm {
            return Outcome::Refused(Refusal::NotWarm);
        }
        let pages = &self.lanes.pages;
        let (used, max) = pages.used_ahead()[0];
        let wanted = summary.raw_bytes.div_ceil(pages.hot.page_size()).max(1);
        if f64::from(used + wanted) > f64::from(max) * self.config.thresholds.warning {
            return Outcome::Refused(Refusal::NoRoom);
        }
        match pages.promote(&self.lanes.pin(), page) {
            Ok(true) => {}
            Ok(false) => return Outcome::HotIsFull,
            Err(_) => return Outcome::Refused(Refusal::Damaged),
        }
        let (events, counters) = (summary.events, &self.shared.counters);
        counters.promoted_pages.fetch_add(1, Ordering::Relaxed);
        counters.promoted_events.fetch_add(u64::from(events), Ordering::Relaxed);
        self.cursors[found.number].promoted(self.lanes, page);
        Outcome::Moved(events as usize)
    }

    /// Lets a lane's oldest page go, whether or not the cold tier has it. How many events left.
    pub(super) fn give_up(&mut self, id: PageId) -> (Option<usize>, Outcome) {
        let Some(found) = self.find(id) else { return (None, Outcome::Refused(Refusal::Gone)) };
        (Some(found.number), self.release(&found, true))
    }

    /// `given_up`: although the cold tier does not have it.
    fn release(&mut self, found: &Found<'_>, given_up: bool) -> Outcome {
        let Found { page, number, partition, lane, .. } = *found;
        if lane.tail() != page {
            return Outcome::Refused(Refusal::NotOldest);
        }
        let class = lane.id.class();
        partition.seal_page(class, page);
        // What was seen of it before may be out of date: only now does nothing come to it any more.
        let now_ms = self.lanes.clock.now_ms();
        let Some(summary) = summary(self.config, self.lanes, now_ms, page, lane, false) else {
            return Outcome::Refused(Refusal::Gone);
        };
        if !summary.may_leave && !given_up {
            self.ask_for_spill(found);
            return Outcome::Waits;
        }
        let pin = self.lanes.pin();
        if !partition.unlink_tail(&self.lanes.pages, class, page) {
            return Outcome::Refused(Refusal::NotOldest);
        }
        self.cursors[number].gone(self.lanes, page);
        self.shared.stays.left(&summary, &self.config.classes[class.index()], now_ms);
        let retention = self.config.classes[class.index()].retention;
        let ends = retention.map(|retention| now_ms.saturating_sub(millis(retention)));
        let counters = &self.shared.counters;
        let (mut over, mut early) = (0, 0);
        let events = purge(self.lanes, partition, &pin, page, |event| {
            let ended = summary.expired
                || event.has_expired(now_ms)
                || ends.is_some_and(|end| event.timestamp <= end);
            if ended { over += 1 } else { early += 1 }
        });
        counters.expired_events.fetch_add(over, Ordering::Relaxed);
        let counter = if summary.clean { &counters.released_events } else { &counters.dropped_events };
        counter.fetch_add(early, Ordering::Relaxed);
        self.lanes.pages.retire(&pin, page);
        counters.released_pages.fetch_add(1, Ordering::Relaxed);
        Outcome::Moved(events)
    }

    fn ask_for_spill(&self, found: &Found<'_>) {
        if !found.summary.clean {
            self.shared.set_wanted(found.number, true);
        }
    }
}

/// What removing a record from the indexes takes.
struct Leaving {
    id: u64,
    stream: Stream,
    head_hash: u64,
    timestamp: i64,
    expiry: i64,
    offset: u32,
}

impl Leaving {
    fn has_expired(&self, now_ms: i64) -> bool {
        self.expiry != NEVER && self.expiry <= now_ms
    }
}

/// Removes a page's events from the indexes. `left` is told of each that was not removed before.
fn purge(
    lanes: &Lanes,
    partition: &Partition,
    pin: &Pin,
    page: LogicalPage,
    mut left: impl FnMut(&Leaving),
) -> usize {
    let meta = lanes.pages.meta(page);
    let (place, committed) = (lanes.pages.place(page), meta.committed());
    let class = meta.lane().class();
    let mut run: Vec<Leaving> = Vec::with_capacity(PURGE_RUN);
    let mut events = 0;
    let mut flush = |run: &mut Vec<Leaving>| {
        let (mut remover, mut gone) = (Remover::new(), 0);
        for event in run.iter() {
            let stays = cfg!(canary = "entry-not-purged") && event.id.is_multiple_of(64);
            if !stays && lanes.index.remove_by(event.id, Addr::new(page, event.offset, 0), &mut remover) {
                gone += 1;
                left(event);
            }
        }
        lanes.index.finish(&mut remover);
        lanes.left.fetch_add(gone + u64::from(cfg!(canary = "double-count")), Ordering::Relaxed);
        events += run.len();
        // Most streams have newer events. Appends must not wait for this thread to find that out.
        let at = |event: &Leaving| Addr::new(page, event.offset, place.generation());
        let streams = &partition.streams;
        run.retain(|event| streams.may_be_newest(event.head_hash, event.stream, class, at(event)));
        if run.is_empty() {
            return;
        }
        let writer = partition.lock();
        run.retain(|event| streams.remove_if_newest(event.head_hash, event.stream, class, at(event)));
        drop(writer);
        for event in run.drain(..) {
            streams.rewrite_ahead(event.head_hash, || partition.lock());
        }
    };
    // Damaged warm frames hide their records: their index entries are found by walking the index instead.
    let mut damaged_ids = false;
    let damaged = lanes.pages.walk(pin, place, committed, |offset, event| {
        // So does one whose own checksum is wrong: its id may be another one's.
        damaged_ids |= lanes.sums && !event.is_whole();
        let head_hash = head_hash(stream_hash(event.stream(), lanes.seed), class);
        // Its line is there when the run is full.
        partition.streams.prefetch_to_read(head_hash);
        let (id, stream, timestamp, expiry) = (event.id(), event.stream(), event.timestamp(), event.expiry());
        run.push(Leaving { id, stream, head_hash, timestamp, expiry, offset });
        if run.len() == PURGE_RUN {
            flush(&mut run);
        }
        true
    });
    flush(&mut run);
    if damaged.is_err() || damaged_ids {
        lanes.index.remove_page(page);
    }
    events
}
