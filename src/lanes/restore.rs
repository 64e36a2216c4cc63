//! Building the indexes anew from pages that were found in files, one partition at a time.
//!
//! A lane's records are walked from the oldest to the newest, as they were appended, so each stream's head goes through
//! the states that it had, and what a record links to is known before the record is looked at: the event that stands in
//! its place in the head. A link that leads anywhere else is written anew, so that a walk over a stream meets nothing but
//! records of that stream, each older than the one before, whatever the files say.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::event::record::{EXPIRY_LEN, HEADER_LEN, RecordHeader};
use crate::ids::{Addr, Class, LaneId, LogicalPage, Stream};
use crate::index::dense::Cursor;
use crate::index::ids::Outcome;
use crate::index::streams::{head_hash, stream_hash};
use crate::lanes::append::Lanes;
use crate::lanes::partition::{Partition, partition_of};
use crate::pages::pool::{FrameCache, Pin};
use crate::pages::restore::{FoundPage, Quarantine, Segment};
use crate::pages::table::{PageMeta, Restored, Tier, Zone};
use crate::sync::{Ordering, wait_a_turn};

/// Records whose lines are fetched before the first of them is looked at.
const RUN: usize = 16;
/// Pages that a lane may lack in its middle for the lane to be kept in one piece.
const GAP_MAX: u64 = 64;

/// What came of building a partition anew.
#[derive(Default, Debug)]
pub(crate) struct Rebuilt {
    pub(crate) pages: u64,
    /// Events that can be asked for.
    pub(crate) events: u64,
    /// Events that were found, and had been removed.
    pub(crate) removed: u64,
    /// Links that led to where they could not lead.
    pub(crate) mended: u64,
    pub(crate) lost: Quarantine,
}

impl Rebuilt {
    pub(crate) fn merge(&mut self, other: Self) {
        self.pages += other.pages;
        self.events += other.events;
        self.removed += other.removed;
        self.mended += other.mended;
        self.lost.merge(other.lost);
    }
}

/// What building anew needs to know.
pub(crate) struct Source<'s> {
    /// Offsets of the records that were removed.
    pub(crate) removed: HashMap<LogicalPage, Vec<u32>>,
    /// What the cold tier knows of removed events: id and lane, and the page that it was removed from. It is told first, so
    /// it may know more.
    pub(crate) tombstones: HashMap<(u64, LaneId), u64>,
    pub(crate) now_ms: i64,
    /// The page number below which the cold tier has confirmed everything of a lane.
    pub(crate) confirmed: &'s (dyn Fn(LaneId) -> u64 + Sync),
    /// Told of each page that is done.
    pub(crate) progress: &'s (dyn Fn() + Sync),
}

/// A record that was read and is to be looked up.
struct Waiting {
    offset: u32,
    header: RecordHeader,
    head_hash: u64,
}

/// What the records of a page are, all together.
struct Survey {
    zone: Zone,
    count: u32,
    /// Records of events that expire by themselves.
    expiring: u32,
    /// Where the last one ends.
    end: u32,
    /// Whether something behind records was none.
    cut: bool,
}

impl Survey {
    const NOTHING: Self = Self { zone: Zone::NOTHING, count: 0, expiring: 0, end: 0, cut: false };

    /// Whether these can be the records that the page had: its zone map is of them, or of them and others that are
    /// missing.
    fn is_of(&self, meta: &PageMeta, some_may_be_missing: bool) -> bool {
        let zone = meta.zone();
        if some_may_be_missing {
            zone.covers(&self.zone)
        } else {
            zone == self.zone && self.count == meta.count()
        }
    }
}

/// What is found out about a page while its records are put into the indexes.
struct Walk {
    dead: u32,
    dead_bytes: u32,
    /// Of the dead, those that had been removed; the others have the id of another event.
    removed: u64,
    /// Links to be written anew: where, and to what.
    links: Vec<(u32, u64)>,
}

impl Lanes {
    /// Builds the indexes of a partition anew from its pages, and takes those over.
    ///
    /// # Errors
    /// The index has no room for what was found; a damaged page cannot be mended for lack of room.
    pub(crate) fn rebuild(
        &self,
        number: usize,
        found: Vec<FoundPage>,
        source: &Source<'_>,
    ) -> Result<Rebuilt> {
        let partition = &self.partitions[number];
        let mut rebuilt = Rebuilt::default();
        let mut lanes: Vec<Vec<FoundPage>> = vec![Vec::new(); partition.lanes().count()];
        for page in found {
            lanes[page.lane.class().index()].push(page);
        }
        for (class, found) in lanes.into_iter().enumerate() {
            let lane = LaneId::new(number, Class::new(class));
            let confirmed = (source.confirmed)(lane);
            let (pages, next_seq) = self.in_order(lane, found, confirmed, &mut rebuilt.lost)?;
            let mut so_far = i64::MIN;
            for (at, page) in pages.iter().enumerate() {
                let is_newest = at + 1 == pages.len();
                so_far = self.rebuild_page(partition, *page, is_newest, so_far, source, &mut rebuilt)?;
                (source.progress)();
            }
            partition.adopt(&self.pages, lane.class(), &pages, next_seq, confirmed);
        }
        self.recovered.fetch_add(rebuilt.events, Ordering::Relaxed);
        Ok(rebuilt)
    }

    /// A lane's pages, oldest first and without gaps, and the number of the next one.
    fn in_order(
        &self,
        lane: LaneId,
        mut found: Vec<FoundPage>,
        confirmed: u64,
        lost: &mut Quarantine,
    ) -> Result<(Vec<LogicalPage>, u64)> {
        found.sort_unstable_by_key(|page| (page.seq, page.page));
        found.dedup_by(|page, before| {
            let twice = page.seq == before.seq;
            if twice {
                self.quarantine(page.page, "its number in the lane is another page's, too", lost);
            }
            twice
        });
        self.leave_out_strays(&mut found, confirmed, lost);
        // The lane was made to begin after everything that the cold tier knows of it, removed events included.
        let known = self.partitions[lane.partition()].lane(lane.class()).clean_seq();
        let next_seq = found.last().map_or(known, |page| {
            let next = page.seq.saturating_add(1);
            next.max(known.min(next.saturating_add(GAP_MAX))).max(confirmed)
        });
        // What the lane had let go goes.
        while found.first().is_some_and(|page| self.pages.meta(page.page).is_leaving()) {
            self.pages.retire(&self.readers.pin(), found.remove(0).page);
        }
        let mut pages = Vec::with_capacity(found.len());
        let mut expected = found.first().map_or(next_seq, |page| page.seq);
        let ends = found.iter().map(|page| (page.seq, Some(page.page))).chain([(next_seq, None)]);
        for (seq, page) in ends {
            // An empty page stands where one was lost: numbers in a lane have no gaps.
            for missing in expected..seq {
                let open = self.pages.claim(lane, missing, LogicalPage::NONE, i64::MIN, 0, None);
                let open = open.map_err(|region| {
                    let text = format!(
                        "damaged pages of {lane:?} cannot be stood in for: there is no room ({region:?}); open the store \
                         with a larger one"
                    );
                    Error::new(ErrorKind::Corrupt, text)
                })?;
                pages.push(open.page);
            }
            pages.extend(page);
            expected = seq.saturating_add(1);
        }
        Ok((pages, next_seq))
    }

    /// Lets pages go that are so far from the others that their number must be damaged. The largest part stays.
    fn leave_out_strays(&self, found: &mut Vec<FoundPage>, confirmed: u64, lost: &mut Quarantine) {
        let near = |before: &FoundPage, page: &FoundPage| page.seq - before.seq <= GAP_MAX;
        let (mut first, mut kept) = (0, 0..0);
        for group in found.chunk_by(near) {
            if group.len() > kept.len() {
                kept = first..first + group.len();
            }
            first += group.len();
        }
        let mut at = 0;
        found.retain(|page| {
            let keep = kept.contains(&at);
            at += 1;
            if !keep {
                self.quarantine(page.page, "its number in the lane is far from all others", lost);
            }
            keep
        });
        // At the end of numbers no next one is left.
        while found.last().is_some_and(|page| page.seq > u64::MAX - 2 * GAP_MAX) {
            if let Some(page) = found.pop() {
                self.quarantine(page.page, "its number in the lane is beyond all numbers", lost);
            }
        }
        // Likewise where the cold tier has pages that are not here: what is here then is older, and it has that, too.
        let Some(last) = found.last() else { return };
        if confirmed > last.seq.saturating_add(GAP_MAX) {
            for page in found.drain(..) {
                self.quarantine(page.page, "the cold tier has all of it, and more that is not here", lost);
            }
        }
    }

    fn quarantine(&self, page: LogicalPage, fault: &str, lost: &mut Quarantine) {
        let meta = self.pages.meta(page);
        lost.pages += 1;
        lost.events += u64::from(meta.count().min(meta.committed() / HEADER_LEN as u32));
        lost.describe(|| format!("page {}: {fault}", page.0));
        self.pages.retire(&self.readers.pin(), page);
    }

    /// Walks a page's records. Gives the largest timestamp of this and all older pages.
    fn rebuild_page(
        &self,
        partition: &Partition,
        page: LogicalPage,
        is_newest: bool,
        so_far: i64,
        source: &Source<'_>,
        rebuilt: &mut Rebuilt,
    ) -> Result<i64> {
        let (pin, cache) = (self.readers.pin(), FrameCache::default());
        let meta = self.pages.meta(page);
        let (claimed, is_warm) = (meta.count(), self.pages.place(page).tier() == Tier::Warm);
        let (mut segments, unreadable) = self.pages.segments(&pin, page);
        let survey = self.survey(meta, &mut segments);
        let damaged = unreadable || survey.cut || survey.count + 1 < claimed;
        if !survey.is_of(meta, damaged || is_newest) {
            rebuilt.lost.describe(|| format!("page {}: its records are not those that it had", page.0));
            (rebuilt.lost.pages, rebuilt.lost.events) =
                (rebuilt.lost.pages + 1, rebuilt.lost.events + u64::from(claimed.max(1)));
            segments.clear();
        }
        let mut replay = Replay {
            lanes: self,
            partition,
            lane: meta.lane(),
            page,
            generation: self.pages.place(page).generation(),
            removed: source.removed.get(&page).map_or(&[][..], |offsets| offsets),
            tombstones: &source.tombstones,
            seq: meta.seq(),
            run: Vec::with_capacity(RUN),
            walk: Walk { dead: 0, dead_bytes: 0, removed: 0, links: Vec::new() },
        };
        segments.iter().try_for_each(|segment| replay.segment(&pin, &cache, segment.at, &segment.bytes))?;
        let (walk, survey) = (replay.walk, if segments.is_empty() { Survey::NOTHING } else { survey });
        let mend = !walk.links.is_empty() || damaged && is_warm || is_warm && segments.is_empty();
        if mend && !self.pages.rewrite(&pin, page, &segments, &walk.links) {
            return Err(Error::corrupt(format!(
                "page {} is damaged, and there is no room to write anew what is left of it; open the store with larger \
                 regions",
                page.0
            )));
        }
        self.note(page, &walk, &survey, so_far, source);
        rebuilt.pages += 1;
        rebuilt.events += u64::from(survey.count - walk.dead);
        rebuilt.removed += walk.removed;
        rebuilt.mended += walk.links.len() as u64;
        let twice = u64::from(walk.dead) - walk.removed;
        if twice > 0 {
            rebuilt.lost.events += twice;
            rebuilt.lost.describe(|| format!("page {}: {twice} records have ids of others", page.0));
        }
        if damaged && !segments.is_empty() {
            let missing = u64::from(claimed.saturating_sub(survey.count));
            rebuilt.lost.events += missing;
            rebuilt.lost.describe(|| format!("page {}: {missing} records cannot be read", page.0));
        }
        Ok(so_far.max(survey.zone.max_time()))
    }

    /// Looks at all records of a page before any is used, and cuts off what is none.
    fn survey(&self, meta: &PageMeta, segments: &mut Vec<Segment<'_>>) -> Survey {
        let (lane, seed, partitions) = (meta.lane(), self.seed, self.partitions.len());
        let mut survey = Survey::NOTHING;
        for segment in segments.iter_mut() {
            let mut from = 0;
            while let Some(header) = RecordHeader::read(&segment.bytes[from..]) {
                let offset = segment.at + from as u32;
                let len = header.record_len_checked().filter(|len| *len <= segment.bytes.len() - from);
                let stream = stream_hash(Stream::from_raw(header.stream), seed);
                let ours = header.class() == lane.class()
                    && partition_of(stream, partitions) == lane.partition()
                    && offset < Addr::OFFSET_END
                    && (!header.expires() || header.body_len as usize >= EXPIRY_LEN)
                    && survey.count < meta.count();
                let Some(len) = len.filter(|_| ours) else { break };
                survey.zone.add(header.timestamp, header.kind);
                survey.count += 1;
                survey.expiring += u32::from(header.expires());
                from += len;
                survey.end = offset + len as u32;
            }
            if from < segment.bytes.len() {
                survey.cut = true;
                segment.cut(from);
            }
        }
        segments.retain(|segment| !segment.bytes.is_empty());
        survey
    }

    fn note(&self, page: LogicalPage, walk: &Walk, survey: &Survey, so_far: i64, source: &Source<'_>) {
        if survey.expiring > 0 {
            self.has_expiring();
        }
        self.pages.meta(page).restore(&Restored {
            committed: survey.end,
            count: survey.count,
            dead: walk.dead,
            dead_bytes: walk.dead_bytes,
            expiring: survey.expiring,
            zone: survey.zone,
            so_far: so_far.max(survey.zone.max_time()),
            now_ms: source.now_ms,
        });
        self.pages.set_dead(page, walk.dead > 0);
    }
}

/// Appends the records of a page to the indexes, as when they came.
struct Replay<'r> {
    lanes: &'r Lanes,
    partition: &'r Partition,
    lane: LaneId,
    page: LogicalPage,
    generation: u32,
    removed: &'r [u32],
    tombstones: &'r HashMap<(u64, LaneId), u64>,
    seq: u64,
    run: Vec<Waiting>,
    walk: Walk,
}

impl<'r> Replay<'r> {
    /// Puts a segment's records into the indexes.
    fn segment(&mut self, pin: &Pin, cache: &FrameCache, at: u32, bytes: &[u8]) -> Result<()> {
        let mut from = 0;
        while let Some(header) = RecordHeader::read(&bytes[from..]) {
            let stream = stream_hash(Stream::from_raw(header.stream), self.lanes.seed);
            let head_hash = head_hash(stream, self.lane.class());
            self.partition.streams.prefetch(head_hash);
            self.run.push(Waiting { offset: at + from as u32, header, head_hash });
            if self.run.len() == RUN {
                self.flush(pin, cache)?;
            }
            from += header.record_len() as usize;
        }
        self.flush(pin, cache)
    }

    fn flush(&mut self, pin: &Pin, cache: &FrameCache) -> Result<()> {
        let (lanes, partition, mut cursor) = (self.lanes, self.partition, Cursor::new());
        {
            let _writer = partition.lock();
            for waiting in &self.run {
                lanes.index.prefetch_claim(waiting.header.id, &mut cursor);
            }
            cursor.release();
            for at in 0..self.run.len() {
                self.link(at)?;
            }
        }
        for at in 0..self.run.len() {
            let Waiting { offset, header, .. } = self.run[at];
            let (id, len) = (header.id, header.record_len());
            let noted = self.removed.binary_search(&offset).is_ok();
            let is_removed = noted || header.is_gone() || self.has_tombstone(id);
            self.walk.removed += u64::from(is_removed);
            let is_dead =
                is_removed || !self.publish(pin, cache, id, Addr::new(self.page, offset, 0), &mut cursor)?;
            self.walk.dead += u32::from(is_dead);
            self.walk.dead_bytes += if is_dead { len } else { 0 };
        }
        cursor.release();
        self.run.clear();
        Ok(())
    }

    fn has_tombstone(&self, id: u64) -> bool {
        let known = || self.tombstones.get(&(id, self.lane));
        !self.tombstones.is_empty() && known().is_some_and(|up_to| self.seq <= *up_to)
    }

    /// Makes a record the newest of its stream.
    fn link(&mut self, at: usize) -> Result<()> {
        let Waiting { offset, header, head_hash } = &self.run[at];
        let stream = Stream::from_raw(header.stream);
        let head = self.partition.streams.find_or_insert(*head_hash, stream, self.lane.class());
        let (head, _) = head.ok_or_else(index_is_full)?;
        let (slot, expected) = head.next_link();
        let is_past = || expected == 0 && self.lanes.pages.is_past(Addr(header.previous));
        if header.previous != expected && !is_past() {
            self.walk.links.push((*offset, expected));
        }
        head.push(slot, Addr::new(self.page, *offset, self.generation));
        Ok(())
    }

    /// Puts a record into the id index. `false`: its id is another's already.
    fn publish(
        &self,
        pin: &Pin,
        cache: &FrameCache,
        id: u64,
        addr: Addr,
        cursor: &mut Cursor<'r>,
    ) -> Result<bool> {
        let lanes = self.lanes;
        let mut turn = 0;
        loop {
            let outcome = match lanes.index.announce_next(id, addr, cursor) {
                Some(ticket) => Outcome::New(ticket),
                None => {
                    lanes.index.announce(id, addr, cursor, |entry| lanes.id_at(pin, cache, entry) == Some(id))
                }
            };
            match outcome {
                Outcome::New(ticket) => {
                    lanes.index.publish(ticket, addr);
                    return Ok(true);
                }
                Outcome::Duplicate => return Ok(false),
                Outcome::Full => return Err(index_is_full()),
                Outcome::Again => {
                    cursor.release();
                    wait_a_turn(&mut turn);
                }
            }
        }
    }
}

fn index_is_full() -> Error {
    Error::new(
        ErrorKind::MemoryPressure,
        "the index has no room for all events that were found; nothing is lost: open the store with a larger index.max",
    )
}
