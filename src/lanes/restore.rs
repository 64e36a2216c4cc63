//! Building the indexes anew from pages that were found in files, one partition at a time.
//!
//! A lane's records are walked from the oldest to the newest, as they were appended, so each stream's head goes through
//! the states that it had, and what a record links to is known before the record is looked at: the event that stands in
//! its place in the head. A link that leads anywhere else is written anew, so that a walk over a stream meets nothing but
//! records of that stream, each older than the one before, whatever the files say.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::event::record::HEADER_LEN;
use crate::ids::{Class, LaneId, LogicalPage};
use crate::lanes::append::Lanes;
use crate::lanes::partition::Partition;
use crate::lanes::replay::{FoundRecord, Replay, Survey, Walk};
use crate::pages::restore::{FoundPage, Quarantine};
use crate::pages::table::{Restored, Tier};
use crate::sync::Ordering;

/// Pages that a lane may lack in its middle for the lane to be kept in one piece.
const GAP_MAX: u64 = 64;

/// How often, at most, a page of records waits for pages of the index.
const TRIES: u32 = 64;

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
    /// Whether pages were put back from a log, which knows what the cold tier had confirmed; not found in memory.
    pub(crate) from_log: bool,
    /// The page number below which the cold tier has confirmed everything of a lane.
    pub(crate) confirmed: &'s (dyn Fn(LaneId) -> u64 + Sync),
    /// Whether the cold tier has a block of that page of a lane. It may have one, and none of a page before.
    pub(crate) block_begin: &'s (dyn Fn(LaneId, u64) -> Option<u64> + Sync),
    /// Told of each page that is done.
    pub(crate) progress: &'s (dyn Fn() + Sync),
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
        let (mut rebuilt, mut records) = (Rebuilt::default(), Vec::new());
        let mut lanes: Vec<Vec<FoundPage>> = vec![Vec::new(); partition.lanes().count()];
        for page in found {
            lanes[page.lane.class().index()].push(page);
        }
        for (class, found) in lanes.into_iter().enumerate() {
            let lane = LaneId::new(number, Class::new(class));
            let confirmed = (source.confirmed)(lane);
            let (pages, next_seq) =
                self.in_order(lane, found, confirmed, source.from_log, &mut rebuilt.lost)?;
            let mut so_far = i64::MIN;
            for (at, page) in pages.iter().enumerate() {
                let next = pages.get(at + 1).copied();
                let (walked, again) = (&mut records, &mut rebuilt);
                self.await_outgrown();
                so_far = self.rebuild_page(partition, *page, next, so_far, source, walked, again)?;
                (source.progress)();
            }
            let clean = self.clean_up_to(lane, pages.iter().copied(), confirmed, source.block_begin);
            partition.adopt(&self.pages, lane.class(), &pages, next_seq, clean);
        }
        self.recovered.fetch_add(rebuilt.events, Ordering::Relaxed);
        Ok(rebuilt)
    }

    /// The number of the first page that the cold tier does not have as it is here. Where it was told of several blocks at
    /// once and did not confirm them, it may have later ones and not this one. Of pages that were lost it may have blocks,
    /// which are to be replaced, unless pages are in them that have left.
    pub(crate) fn clean_up_to(
        &self,
        lane: LaneId,
        pages: impl Iterator<Item = LogicalPage>,
        confirmed: u64,
        block_begin: &dyn Fn(LaneId, u64) -> Option<u64>,
    ) -> u64 {
        let (mut oldest, mut clean) = (None, None);
        for meta in pages.map(|page| self.pages.meta(page)).take_while(|meta| meta.seq() < confirmed) {
            let seq = meta.seq();
            let oldest = *oldest.get_or_insert(seq);
            let is_blank = meta.is_blank();
            if is_blank {
                self.stand_ins.store(true, Ordering::Relaxed);
            }
            clean = clean.or_else(|| match is_blank {
                true => block_begin(lane, seq).filter(|begin| *begin >= oldest),
                false => {
                    Some(seq).filter(|seq| meta.count() > meta.dead() && block_begin(lane, *seq).is_none())
                }
            });
        }
        clean.unwrap_or(confirmed)
    }

    /// A lane's pages, oldest first and without gaps, and the number of the next one.
    fn in_order(
        &self,
        lane: LaneId,
        mut found: Vec<FoundPage>,
        confirmed: u64,
        from_log: bool,
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
            // Near enough to be taken for one of them the next time.
            let near = page.seq.saturating_add(GAP_MAX);
            (page.seq.saturating_add(1)).max(known.min(near)).max(confirmed)
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
                let blank = self.pages.claim_blank(lane, missing).map_err(|region| {
                    let text = format!(
                        "damaged pages of {lane:?} cannot be stood in for: there is no room ({region:?}); open the store \
                         with a larger one"
                    );
                    Error::new(ErrorKind::Corrupt, text)
                })?;
                if !from_log {
                    self.pages.meta(blank).stand_for_damaged();
                }
                pages.push(blank);
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

    /// Walks a page's records, and has those of the `next` page of the lane fetched. Gives the largest timestamp of this
    /// and all older pages.
    #[expect(clippy::too_many_arguments, reason = "what one page needs of all others")]
    fn rebuild_page(
        &self,
        partition: &Partition,
        page: LogicalPage,
        next: Option<LogicalPage>,
        so_far: i64,
        source: &Source<'_>,
        records: &mut Vec<FoundRecord>,
        rebuilt: &mut Rebuilt,
    ) -> Result<i64> {
        let pin = self.readers.pin();
        let meta = self.pages.meta(page);
        let (claimed, is_warm) = (meta.count(), self.pages.place(page).tier() == Tier::Warm);
        let (mut segments, unreadable) = self.pages.segments(&pin, page);
        let survey = self.survey(meta, &mut segments, records);
        if let Some(next) = next {
            self.pages.prefetch_page(self.pages.place(next));
        }
        let damaged = unreadable || survey.cut || survey.count + 1 < claimed;
        let others = !survey.is_of(meta, damaged || survey.damaged > 0 || next.is_none());
        if others {
            rebuilt.lost.describe(|| format!("page {}: its records are not those that it had", page.0));
            (rebuilt.lost.pages, rebuilt.lost.events) =
                (rebuilt.lost.pages + 1, rebuilt.lost.events + u64::from(claimed.max(1)));
            segments.clear();
            records.clear();
        }
        let is_read = !segments.is_empty();
        drop(segments);
        drop(pin);
        let walk = self.replay(partition, page, source, records)?;
        let survey = if is_read { survey } else { Survey::NOTHING };
        let is_lost = !is_read && meta.committed() > 0;
        let mend = !walk.links.is_empty() || is_warm && (damaged || is_lost);
        if mend && !self.rewrite(page, is_read, &walk.links) {
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
        if walk.damaged > 0 {
            rebuilt.lost.events += walk.damaged;
            rebuilt
                .lost
                .describe(|| format!("page {}: {} records fail their checksums", page.0, walk.damaged));
        }
        let twice = u64::from(walk.dead) - walk.removed - walk.damaged;
        if twice > 0 {
            rebuilt.lost.events += twice;
            rebuilt.lost.describe(|| format!("page {}: {twice} records have ids of others", page.0));
        }
        if damaged && !others {
            // Where the page claims fewer than it has, nobody knows how many were left out.
            let missing = u64::from(claimed.saturating_sub(survey.count).max(u32::from(survey.cut)));
            rebuilt.lost.events += missing;
            rebuilt.lost.describe(|| format!("page {}: {missing} records cannot be read", page.0));
        }
        Ok(so_far.max(survey.zone.max_time()))
    }

    /// Puts a page's records into the indexes. What the index has outgrown since that began waits for the pin, and many of its pages
    /// may grow at once: where it has no room, it is looked at again without a pin.
    fn replay(
        &self,
        partition: &Partition,
        page: LogicalPage,
        source: &Source<'_>,
        records: &[FoundRecord],
    ) -> Result<Walk> {
        let mut replay = Replay::of(self, partition, page, source);
        for _ in 0..TRIES {
            let outcome = replay.records(&self.readers.pin(), records);
            let may_have_room = self.index_pages.are_leaving();
            match outcome {
                Err(_) if may_have_room => self.await_outgrown(),
                other => return other.map(|()| replay.finish()),
            }
        }
        replay.records(&self.readers.pin(), records)?;
        Ok(replay.finish())
    }

    /// Writes a page anew, with its records or, if they are not those that it had, without. `false`: there is no room for it.
    fn rewrite(&self, page: LogicalPage, with_records: bool, links: &[(u32, u64)]) -> bool {
        let (pin, mut segments) = (self.readers.pin(), Vec::new());
        if with_records {
            segments = self.pages.segments(&pin, page).0;
            // It leaves out what cannot be read.
            self.survey(self.pages.meta(page), &mut segments, &mut Vec::new());
        }
        self.pages.rewrite(&pin, page, &segments, links)
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
