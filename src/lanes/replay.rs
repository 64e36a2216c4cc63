//! The records of a page that was found in a file: looking at all of them, and putting them into the indexes.
//!
//! Both go over many records at a time, so that what the next ones need is on its way to the processor while the ones at
//! hand are dealt with.

use std::collections::HashMap;

use crate::config::ByteSize;
use crate::error::{Error, ErrorKind, Result};
use crate::event::record::{HEADER_LEN, RecordHeader, is_whole};
use crate::ids::{Addr, LaneId, LogicalPage, Stream};
use crate::index::dense::Cursor;
use crate::index::ids::{Outcome, SHARE};
use crate::index::streams::{head_hash, stream_hash};
use crate::lanes::append::Lanes;
use crate::lanes::partition::{Partition, partition_of};
use crate::lanes::restore::Source;
use crate::pages::pool::{FrameCache, Pin};
use crate::pages::restore::{Segment, SegmentBytes};
use crate::pages::table::{PageMeta, Zone};
use crate::pages::walk::Steps;
use crate::sync::wait_a_turn;
use crate::sys::memory::prefetch_bytes;

/// Records whose lines are fetched before the first of them is looked up.
const RUN: usize = 16;
/// How far ahead of a walk its records are fetched: bytes where records are short, else records.
const AHEAD: usize = 2 << 10;
const RECORDS_AHEAD: usize = 4;
/// The longest record that is fetched whole: what lies between headers then costs less than to guess where they are.
const SHORT: usize = 512;

/// A record that was read and is to be looked up.
pub(super) struct FoundRecord {
    id: u64,
    stream: u64,
    previous: u64,
    head_hash: u64,
    offset: u32,
    len: u32,
    is_gone: bool,
    /// Whether it fails its checksum.
    is_damaged: bool,
}

/// What the records of a page are, all together.
pub(super) struct Survey {
    pub(super) zone: Zone,
    pub(super) count: u32,
    /// Records of events that expire by themselves.
    pub(super) expiring: u32,
    /// Records that fail their checksums; nothing else is known of them but where they are.
    pub(super) damaged: u32,
    /// Where the last one ends.
    pub(super) end: u32,
    /// Whether something behind records was none.
    pub(super) cut: bool,
}

impl Survey {
    pub(super) const NOTHING: Self =
        Self { zone: Zone::NOTHING, count: 0, expiring: 0, damaged: 0, end: 0, cut: false };

    /// Whether these can be the records that the page had: its zone map is of them, or of them and others that are
    /// missing.
    pub(super) fn is_of(&self, meta: &PageMeta, some_may_be_missing: bool) -> bool {
        let zone = meta.zone();
        if some_may_be_missing {
            zone.covers(&self.zone)
        } else {
            zone == self.zone && self.count == meta.count()
        }
    }
}

/// What is found out about a page while its records are put into the indexes.
pub(super) struct Walk {
    pub(super) dead: u32,
    pub(super) dead_bytes: u32,
    /// Of the dead, those that had been removed; the others have the id of another event.
    pub(super) removed: u64,
    /// Of the dead, those that fail their checksums.
    pub(super) damaged: u64,
    /// Links to be written anew: where, and to what.
    pub(super) links: Vec<(u32, u64)>,
}

impl Lanes {
    /// Looks at all records of a page before any is used, and cuts off what is none.
    pub(super) fn survey(
        &self,
        meta: &PageMeta,
        segments: &mut Vec<Segment<'_>>,
        records: &mut Vec<FoundRecord>,
    ) -> Survey {
        let (lane, seed, partitions) = (meta.lane(), self.seed, self.partitions.len());
        let (class, limit) = (lane.class(), meta.count());
        let mut survey = Survey::NOTHING;
        records.clear();
        for segment in segments.iter_mut() {
            let mut end = 0;
            let in_place = matches!(segment.bytes, SegmentBytes::InPlace(_));
            // The index is empty: behind damage, nothing is a record that is not summed up.
            let mut steps = Steps::new(&segment.bytes, self.sums, |_, _| false);
            for (from, whole) in &mut steps {
                let offset = segment.at + from as u32;
                let header = RecordHeader::read(&segment.bytes[from..]);
                let Some(header) = header else { break };
                let len = header.record_len() as usize;
                let stream = stream_hash(Stream::from_raw(header.stream), seed);
                let ours = header.class() == class
                    && partition_of(stream, partitions) == lane.partition()
                    && offset < Addr::OFFSET_END
                    && header.has_room_for_marks()
                    && survey.count < limit;
                if !ours {
                    break;
                }
                if in_place {
                    fetch_ahead(&segment.bytes[from..], len);
                }
                let unasked = !self.sums && header.is_summed();
                let is_damaged = !whole || unasked && !is_whole(&segment.bytes[from..from + len]);
                if is_damaged {
                    survey.damaged += 1;
                } else {
                    survey.zone.add(header.timestamp, header.kind);
                    survey.expiring += u32::from(header.expires());
                }
                survey.count += 1;
                records.push(FoundRecord {
                    id: header.id,
                    stream: header.stream,
                    previous: header.previous,
                    head_hash: head_hash(stream, class),
                    offset,
                    len: len as u32,
                    is_gone: header.is_gone(),
                    is_damaged,
                });
                end = from + len;
                survey.end = offset + len as u32;
            }
            survey.cut |= steps.broken || end < segment.bytes.len();
            segment.cut(end);
        }
        segments.retain(|segment| !segment.bytes.is_empty());
        survey
    }

    /// Makes arrays for the ids of a page that come in sequence. It would be found out by and by, but a partition has few
    /// of the neighbours, and those that came until then would stay in the hash table.
    fn expect_ids(&self, records: &[FoundRecord]) {
        let (chunk_len, partitions) = (self.index.chunk_len(), self.partitions.len() as u64);
        let mut chunks: Vec<(u64, u64)> = Vec::new();
        for record in records {
            match chunks.last_mut() {
                Some((chunk, count)) if *chunk == record.id / chunk_len => *count += 1,
                _ => chunks.push((record.id / chunk_len, 1)),
            }
        }
        chunks.sort_unstable();
        chunks.dedup_by(|(chunk, more), (kept, count)| {
            let same = chunk == kept;
            *count += if same { *more } else { 0 };
            same
        });
        // As many of all partitions as make a chunk get an array otherwise.
        let dense = |count: u64| count * partitions * SHARE >= chunk_len;
        for (at, (chunk, count)) in chunks.iter().enumerate() {
            let beside = |other: Option<&(u64, u64)>| {
                other.is_some_and(|(other, count)| other.abs_diff(*chunk) == 1 && dense(*count))
            };
            if dense(*count)
                || beside(chunks.get(at + 1))
                || beside(at.checked_sub(1).and_then(|at| chunks.get(at)))
            {
                self.index.expect(*chunk);
            }
        }
    }
}

/// Asks the processor to fetch what a walk will come to that is at a record.
#[inline]
fn fetch_ahead(rest: &[u8], len: usize) {
    let (from, wanted) = if len <= SHORT { (AHEAD, len) } else { (len * RECORDS_AHEAD, HEADER_LEN) };
    if let Some(ahead) = rest.get(from..) {
        prefetch_bytes(&ahead[..ahead.len().min(wanted)]);
    }
}

/// Appends the records of a page to the indexes, as when they came.
pub(super) struct Replay<'r> {
    lanes: &'r Lanes,
    partition: &'r Partition,
    lane: LaneId,
    page: LogicalPage,
    generation: u32,
    removed: &'r [u32],
    tombstones: &'r HashMap<(u64, LaneId), u64>,
    seq: u64,
    cache: FrameCache,
    /// How many records are in both indexes, and how many more have been linked.
    done: usize,
    linked: usize,
    walk: Walk,
}

impl<'r> Replay<'r> {
    pub(super) fn of(
        lanes: &'r Lanes,
        partition: &'r Partition,
        page: LogicalPage,
        source: &'r Source<'_>,
    ) -> Self {
        let meta = lanes.pages.meta(page);
        Self {
            lanes,
            partition,
            lane: meta.lane(),
            page,
            generation: lanes.pages.place(page).generation(),
            removed: source.removed.get(&page).map_or(&[][..], |offsets| offsets),
            tombstones: &source.tombstones,
            seq: meta.seq(),
            cache: FrameCache::default(),
            done: 0,
            linked: 0,
            walk: Walk { dead: 0, dead_bytes: 0, removed: 0, damaged: 0, links: Vec::new() },
        }
    }

    /// Puts a page's records into the indexes. After an error it goes on where it was when it is called again.
    pub(super) fn records(&mut self, pin: &Pin, records: &[FoundRecord]) -> Result<()> {
        let records = &records[self.done..];
        self.lanes.expect_ids(records);
        // Frames of another pin.
        self.cache = FrameCache::default();
        let (lanes, partition, mut cursor) = (self.lanes, self.partition, Cursor::new());
        let fetch = |records: &[FoundRecord]| {
            records.iter().for_each(|record| partition.streams.prefetch(record.head_hash));
        };
        fetch(&records[..records.len().min(RUN)]);
        let _writer = partition.lock();
        for (at, run) in records.chunks(RUN).enumerate() {
            let behind = &records[at * RUN + run.len()..];
            fetch(&behind[..behind.len().min(RUN)]);
            for record in run {
                lanes.index.prefetch_insert(record.id, &mut cursor);
            }
            for record in &run[self.linked..] {
                self.link(record)?;
                self.linked += 1;
            }
            for record in run {
                let noted = !self.removed.is_empty() && self.removed.binary_search(&record.offset).is_ok();
                let is_gone = record.is_gone && !record.is_damaged;
                let is_removed = noted || is_gone || self.has_tombstone(record.id);
                let is_damaged = record.is_damaged && !is_removed;
                let addr = Addr::new(self.page, record.offset, 0);
                if is_removed || is_damaged || !self.publish(pin, record.id, addr, &mut cursor)? {
                    self.walk.dead += 1;
                    self.walk.dead_bytes += record.len;
                }
                self.walk.removed += u64::from(is_removed);
                self.walk.damaged += u64::from(is_damaged);
                (self.done, self.linked) = (self.done + 1, self.linked - 1);
            }
            cursor.release();
        }
        Ok(())
    }

    /// What came of the page.
    pub(super) fn finish(self) -> Walk {
        self.walk
    }

    fn has_tombstone(&self, id: u64) -> bool {
        let known = || self.tombstones.get(&(id, self.lane));
        !self.tombstones.is_empty() && known().is_some_and(|up_to| self.seq <= *up_to)
    }

    /// Makes a record the newest of its stream.
    fn link(&mut self, record: &FoundRecord) -> Result<()> {
        let stream = Stream::from_raw(record.stream);
        let head = self.partition.streams.find_or_insert(record.head_hash, stream, self.lane.class());
        let (head, _) = head.ok_or_else(|| index_is_full(self.lanes))?;
        let (slot, expected) = head.next_link();
        let is_past = || expected == 0 && self.lanes.pages.is_past(Addr(record.previous));
        if record.previous != expected && !is_past() {
            self.walk.links.push((record.offset, expected));
        }
        head.push(slot, Addr::new(self.page, record.offset, self.generation));
        Ok(())
    }

    /// Puts a record into the id index. `false`: its id is another's already.
    fn publish(&self, pin: &Pin, id: u64, addr: Addr, cursor: &mut Cursor<'r>) -> Result<bool> {
        let lanes = self.lanes;
        let mut turn = 0;
        loop {
            let outcome = match lanes.index.announce_next(id, addr, cursor) {
                Some(ticket) => Outcome::New(ticket),
                None => {
                    let same = |entry| lanes.id_at(pin, &self.cache, entry) == Some(id);
                    lanes.index.announce(id, addr, cursor, same)
                }
            };
            match outcome {
                Outcome::New(ticket) => {
                    lanes.index.publish(ticket, addr);
                    return Ok(true);
                }
                Outcome::Duplicate => return Ok(false),
                Outcome::Full => return Err(index_is_full(lanes)),
                Outcome::Again => {
                    cursor.release();
                    wait_a_turn(&mut turn);
                }
            }
        }
    }
}

fn index_is_full(lanes: &Lanes) -> Error {
    let size = |bytes| ByteSize::new(bytes);
    let (now, before) = (lanes.index_region.stats(0).max_bytes, lanes.index_before);
    let enough = if before > now {
        format!("of at least {}, which it had when they were written", size(before))
    } else {
        format!("larger than {}", size(now))
    };
    Error::new(
        ErrorKind::Incompatible,
        format!(
            "an index of {} has no room for all events that were found; nothing is lost: open the store with an `index` {enough}",
            size(now)
        ),
    )
}
