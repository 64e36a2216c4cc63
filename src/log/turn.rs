//! What is done in a turn: go round the lanes, write what is new, have the disk keep it, and delete what is not needed.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use crate::error::Result;
use crate::ids::{Addr, LaneId, LogicalPage};
use crate::lanes::append::Lanes;
use crate::lanes::partition::Lane;
use crate::log::frame::{BLOCK, Frame, HEADER, Kind, PAYLOAD_MAX, Unit, frame_len};
use crate::log::logger::{LogCounters, Source};
use crate::log::marks::{Mark, Marks};
use crate::log::segment::{Failure, Sizes, Writer};
use crate::pages::logged::Parts;
use crate::pages::pool::{FrameCache, Pin};
use crate::pages::removed::Removed;
use crate::pages::table::{PageMeta, Tier};
use crate::sys::memory::wipe_all;

/// Bytes of pages that are written again in one turn: others wait for it.
const AGAIN: usize = 16 << 20;
/// Addresses in a frame.
const REMOVED_FRAME: usize = PAYLOAD_MAX / 8;
/// The log may have so many segments beside twice what it must keep.
const BESIDE: u64 = 4;

/// How far a lane was copied.
#[derive(Clone, Copy)]
struct Cursor {
    page: LogicalPage,
    seq: u64,
    offset: u32,
    /// Whether a record ends there.
    at_record: bool,
}

pub(crate) struct Turn {
    writer: Writer,
    sizes: Sizes,
    marks: Marks,
    /// The log of names, which others write.
    names: File,
    names_synced: usize,
    cursors: Vec<Cursor>,
    /// What was last said of where the lanes begin: below there, pages have left memory or are in the cold tier.
    tails: Vec<u64>,
    /// What is not written yet: it stays where there is no room for it.
    unit: Unit,
    unit_marks: Vec<Mark>,
    removed: Vec<u64>,
    /// Of what was written, and not synced yet.
    pending: Vec<Mark>,
    scratch: Vec<u8>,
    generation: u32,
    /// The segment that was the newest when the log was last tidied.
    tidied: Option<u64>,
}

impl Turn {
    /// A turn for a log that goes on after pages that have these marks.
    pub(crate) fn new(
        writer: Writer,
        sizes: Sizes,
        marks: Marks,
        names: File,
        lanes: usize,
        generation: u32,
    ) -> Self {
        let cursor = Cursor { page: LogicalPage::NONE, seq: 0, offset: 0, at_record: false };
        Self {
            writer,
            sizes,
            marks,
            names,
            names_synced: usize::MAX,
            cursors: vec![cursor; lanes],
            tails: vec![0; lanes],
            unit: Unit::default(),
            unit_marks: Vec::new(),
            removed: Vec::new(),
            pending: Vec::new(),
            scratch: Vec::new(),
            generation,
            tidied: None,
        }
    }

    /// Makes the first segment.
    ///
    /// # Errors
    /// [`Failure::NoSegment`] when there is no room for it.
    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        self.writer.make_room(BLOCK)?;
        self.marks.set_newest(self.writer.newest().unwrap_or(0));
        Ok(())
    }

    /// Takes a turn. Whether anything was written.
    ///
    /// # Errors
    /// What failed. After [`Failure::NoSegment`] another turn goes on where this one ended.
    pub(crate) fn take(&mut self, source: &Source<'_>, counters: &LogCounters) -> Result<bool, Failure> {
        let lanes = source.lanes;
        for (number, lane) in lanes.lanes().enumerate() {
            self.copy_lane(source, number, lane)?;
        }
        self.close_unit(source)?;
        // Of removals there may be more than a unit takes. Those that come meanwhile are for the next turn.
        let left = lanes.pages.removed.as_ref().map_or(0, Removed::fresh_len);
        for _ in 0..left.div_ceil(self.sizes.removed.max(1)) {
            self.close_unit(source)?;
        }
        // After the events were copied, so the names of their streams are among them.
        let names = source.names.len();
        if names != self.names_synced {
            self.names.sync_data().map_err(Failure::Broken)?;
            self.names_synced = names;
        }
        let wrote = self.sync(counters)?;
        if self.tidied != self.writer.newest() {
            self.tidied = self.writer.newest();
            self.tidy(source, counters)?;
        }
        counters.bytes.store(self.writer.bytes(), Ordering::Relaxed);
        counters.segments.store(self.writer.log.segments.len() as u64, Ordering::Relaxed);
        counters.written_bytes.store(self.writer.written_bytes, Ordering::Relaxed);
        Ok(wrote)
    }

    /// Copies what is new in a lane.
    fn copy_lane(&mut self, source: &Source<'_>, number: usize, lane: &Lane) -> Result<(), Failure> {
        let lanes = source.lanes;
        loop {
            if self.unit.bytes.len() >= self.sizes.unit {
                self.close_unit(source)?;
            }
            let pin = lanes.pin();
            let Cursor { page, seq, .. } = self.cursors[number];
            let mut pages = lane.pages_from(&lanes.pages, &pin, page, seq);
            if pages.all(|(page, meta)| self.copy_page(lanes, &pin, number, lane, page, meta)) {
                return Ok(());
            }
        }
    }

    /// Copies what is new on a page. `false`: the unit must be written first.
    fn copy_page(
        &mut self,
        lanes: &Lanes,
        pin: &Pin,
        number: usize,
        lane: &Lane,
        page: LogicalPage,
        meta: &PageMeta,
    ) -> bool {
        let place = lanes.pages.place(page);
        let (seq, committed, generation) = (meta.seq(), meta.committed(), place.generation());
        let cursor = self.cursors[number];
        let goes_on = cursor.page != LogicalPage::NONE && seq == cursor.seq;
        if place.tier() == Tier::Free || cursor.page != LogicalPage::NONE && seq < cursor.seq {
            return true;
        }
        let (mut from, mut at_record) = match goes_on {
            true => (cursor.offset, cursor.at_record),
            false => (self.marks.of(page, generation).map_or(0, |mark| mark.len), false),
        };
        if seq < lane.clean_seq() {
            // The cold tier has it.
            from = committed;
        }
        let parts = match from < committed {
            true => lanes.pages.parts(pin, place, committed, &mut self.scratch).0,
            false => Parts::new(),
        };
        for part in parts {
            if from < part.start {
                (from, at_record) = (part.start, true);
            }
            while from < part.end {
                if self.unit.bytes.len() >= self.sizes.unit {
                    self.cursors[number] = Cursor { page, seq, offset: from, at_record };
                    return false;
                }
                let to = part.end.min(from + self.sizes.frame as u32);
                let mark = Mark { page, generation, len: to, segment: 0, anew: false };
                if !self.push(lanes, pin, meta, &mark, from, at_record || from == 0) {
                    break;
                }
                (from, at_record) = (to, to == part.end);
            }
        }
        self.cursors[number] = Cursor { page, seq, offset: committed, at_record: true };
        true
    }

    /// Adds bytes of a page to the unit, from there to the end of the mark. `false`: they cannot be read.
    fn push(
        &mut self,
        lanes: &Lanes,
        pin: &Pin,
        meta: &PageMeta,
        mark: &Mark,
        from: u32,
        begins: bool,
    ) -> bool {
        let frame = Frame {
            kind: Kind::Page,
            begins,
            seq: meta.seq(),
            time: meta.last_arrival(),
            lane: meta.lane(),
            page: mark.page,
            generation: mark.generation,
            offset: from,
            ..Frame::NOTHING
        };
        let (pages, scratch) = (&lanes.pages, &mut self.scratch);
        let (place, all) = (pages.place(mark.page), meta.committed());
        if place.tier() == Tier::Free {
            return false;
        }
        let done =
            self.unit.push(&frame, |out| pages.copy_records(pin, place, from..mark.len, all, scratch, out));
        if done.is_ok() {
            self.unit_marks.push(*mark);
            self.generation = self.generation.max(mark.generation);
        }
        done.is_ok()
    }

    /// Writes what was copied, with the removals and the beginnings of lanes that came before.
    fn close_unit(&mut self, source: &Source<'_>) -> Result<(), Failure> {
        let lanes = source.lanes;
        if let Some(removed) = &lanes.pages.removed {
            removed.take_fresh(self.sizes.removed.saturating_sub(self.removed.len()), &mut self.removed);
        }
        let moved = |(at, lane): (usize, &Lane)| lane.tail_seq().max(lane.clean_seq()) > self.tails[at];
        if self.unit.is_empty() && self.removed.is_empty() && !lanes.lanes().enumerate().any(moved) {
            return Ok(());
        }
        let frames = frame_len(self.removed.len() * 8) + HEADER * (self.removed.len() / REMOVED_FRAME);
        let len = self.unit.len() + frames + HEADER * self.tails.len() + BLOCK;
        let is_new = self.writer.begins_segment(len);
        self.writer.make_room(len)?;
        self.add_removed(lanes);
        for (at, lane) in lanes.lanes().enumerate() {
            // Of what the cold tier has, pages may be missing here between others, and its blocks may expire before the pages.
            let tail = lane.tail_seq().max(lane.clean_seq());
            if is_new || tail != self.tails[at] {
                self.tails[at] = tail;
                self.unit.push_bare(&Frame { kind: Kind::Tail, lane: lane.id, seq: tail, ..Frame::NOTHING });
            }
        }
        // Records lead to pages that came and went since the last turn, or that the cold tier had before the log.
        self.generation = self.generation.max(lanes.pages.generation_reached());
        let commit = Frame {
            seq: source.last_id.load(Ordering::Relaxed),
            generation: self.generation,
            ..Frame::NOTHING
        };
        let segment = self.writer.write(&mut self.unit, &commit)?;
        self.pending.extend(self.unit_marks.drain(..).map(|mark| Mark { segment, ..mark }));
        match lanes.pages.has_sensitive() {
            true => {
                self.unit.clear();
                wipe_all(&mut self.unit.bytes);
            }
            false => self.unit.clear(),
        }
        Ok(())
    }

    fn add_removed(&mut self, lanes: &Lanes) {
        for addrs in self.removed.chunks(REMOVED_FRAME) {
            let frame = Frame { kind: Kind::Removed, ..Frame::NOTHING };
            let fill = |out: &mut Vec<u8>| {
                addrs.iter().for_each(|addr| out.extend_from_slice(&addr.to_le_bytes()));
                Ok::<(), std::convert::Infallible>(())
            };
            let Ok(()) = self.unit.push(&frame, fill);
        }
        // A removal belongs to its page: while that needs the log, so does this. The page may be gone, and its number another
        // page's, whose mark must stand.
        let is_there = |addr: &Addr| lanes.pages.place(addr.page()).generation() == addr.high();
        let of =
            |addr: Addr| Mark { page: addr.page(), generation: addr.high(), len: 0, segment: 0, anew: false };
        let removed = self.removed.drain(..).map(Addr).filter(is_there).map(of);
        self.unit_marks.splice(0..0, removed);
    }

    /// Has the disk keep what was written, and notes it. Whether there was anything.
    fn sync(&mut self, counters: &LogCounters) -> Result<bool, Failure> {
        let is_dirty = self.writer.is_dirty();
        self.writer.sync()?;
        self.pending.drain(..).for_each(|mark| self.marks.set(&mark));
        if is_dirty {
            counters.syncs.fetch_add(1, Ordering::Relaxed);
            self.marks.set_newest(self.writer.newest().unwrap_or(0));
        }
        Ok(is_dirty)
    }

    /// Deletes segments that nobody needs. If those that are left are too many, writes what is in the oldest again.
    fn tidy(&mut self, source: &Source<'_>, counters: &LogCounters) -> Result<(), Failure> {
        let Some(newest) = self.writer.newest() else { return Ok(()) };
        let (oldest, live, pages) = self.oldest(source.lanes, newest);
        counters.live_bytes.store(live, Ordering::Relaxed);
        // What cannot be deleted now is tried again when the next segment begins.
        let _ = self.writer.delete_before(oldest + u64::from(cfg!(canary = "log-cut-early")));
        let most = 2 * live + BESIDE * self.writer.segment_bytes() as u64;
        if self.writer.bytes() <= most || oldest == newest {
            return Ok(());
        }
        // And again in the next turn.
        self.tidied = None;
        self.write_again(source, &pages, counters)?;
        self.sync(counters)?;
        Ok(())
    }

    /// The oldest segment that is needed, the bytes of all pages that need any, and the pages that need that one.
    fn oldest(&self, lanes: &Lanes, newest: u64) -> (u64, u64, Vec<Mark>) {
        let (mut oldest, mut live, mut pages) = (newest, 0, Vec::new());
        let pin = lanes.pin();
        for page in (1..=lanes.pages.numbers_limit()).map(LogicalPage) {
            let place = lanes.pages.place(page);
            let Some(mark) = self.marks.of(page, place.generation()).filter(|_| place.tier() != Tier::Free)
            else {
                continue;
            };
            let meta = lanes.pages.meta(page);
            if meta.seq() < lane_of(lanes, meta.lane()).clean_seq() {
                continue;
            }
            live += u64::from(mark.len);
            if mark.segment < oldest {
                oldest = mark.segment;
                pages.clear();
            }
            if mark.segment == oldest {
                pages.push(mark);
            }
        }
        drop(pin);
        (oldest, live, pages)
    }

    /// Writes pages again, whole, with the removals that are known of them.
    fn write_again(
        &mut self,
        source: &Source<'_>,
        marks: &[Mark],
        counters: &LogCounters,
    ) -> Result<(), Failure> {
        let lanes = source.lanes;
        let mut removed: HashMap<(LogicalPage, u32), Vec<u64>> =
            marks.iter().map(|mark| ((mark.page, mark.generation), Vec::new())).collect();
        if let Some(notes) = &lanes.pages.removed {
            notes.each(|addr| {
                if let Some(of) = removed.get_mut(&(addr.page(), addr.high())) {
                    of.push(addr.0);
                }
            });
        }
        let mut written = 0;
        for mark in marks {
            if written >= AGAIN {
                break;
            }
            if self.unit.bytes.len() + mark.len as usize > self.sizes.unit {
                self.close_unit(source)?;
            }
            let pin = lanes.pin();
            let (place, meta) = (lanes.pages.place(mark.page), lanes.pages.meta(mark.page));
            if place.tier() == Tier::Free || place.generation() != mark.generation {
                continue;
            }
            let all = meta.committed();
            // All of it goes into one unit, so it is written again or it is not.
            let (parts, damaged) = lanes.pages.parts(&pin, place, all, &mut self.scratch);
            if damaged {
                // Where it was written first it is whole.
                continue;
            }
            let mut anew = true;
            for part in parts {
                for from in part.clone().step_by(self.sizes.frame) {
                    let len = part.end.min(from + self.sizes.frame as u32);
                    let mark = Mark { len, anew, ..*mark };
                    if !self.push(lanes, &pin, meta, &mark, from, from == part.start) {
                        break;
                    }
                    anew = false;
                }
            }
            // A note that may yet be taken back is of an event that is there. Of one that is not, the log is told.
            let cache = FrameCache::default();
            let is_gone = |addr: &u64| {
                let id = lanes.pages.id_at(&pin, &cache, place, Addr(*addr));
                id.is_some_and(|id| !lanes.is_live(id, Addr(*addr)))
            };
            let noted = removed.remove(&(mark.page, mark.generation)).unwrap_or_default();
            self.removed.extend(noted.into_iter().filter(is_gone));
            written += all as usize;
        }
        counters.rewritten_bytes.fetch_add(written as u64, Ordering::Relaxed);
        self.close_unit(source)
    }

    /// See [`Writer::wants_spare`].
    pub(crate) fn wants_spare(&self) -> Option<(PathBuf, usize, bool)> {
        self.writer.wants_spare()
    }

    pub(crate) fn prepared(&mut self) {
        self.writer.prepared();
    }

    /// Deletes everything.
    pub(crate) fn clear(&mut self) -> Result<()> {
        self.marks.clear();
        self.writer.log.clear()
    }

    #[cfg(test)]
    pub(crate) fn fail_syncs(&mut self, fail: bool) {
        self.writer.fail_syncs = fail;
    }

    #[cfg(test)]
    pub(crate) fn slow_down(&mut self, by: std::time::Duration) {
        self.writer.slow = by;
    }

    #[cfg(test)]
    pub(crate) fn panic_in_sync(&mut self) {
        self.writer.panic_in_sync = true;
    }
}

fn lane_of(lanes: &Lanes, lane: LaneId) -> &Lane {
    lanes.partitions[lane.partition()].lane(lane.class())
}
