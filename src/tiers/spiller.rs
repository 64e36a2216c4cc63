//! The spiller: writes pages to the cold tier ahead of need, and says which are clean.
//!
//! A lane's pages are written in order, so what is confirmed of a lane is everything below one page number. Pages
//! are read under a short pin; no lock is held and no reader kept waiting while the tier writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::clock::{self, Deadline};
use crate::config::{Config, OnLeave};
use crate::error::{Error, Result};
use crate::eviction::engine::EvictionShared;
use crate::eviction::millis;
use crate::ids::{Addr, Class, LogicalPage};
use crate::index::names::Names;
use crate::lanes::append::Lanes;
use crate::lanes::partition::{Lane, Partition};
use crate::pages::pool::Pin;
use crate::pages::table::{PageMeta, Tier};
use crate::tiers::block::BlockWriter;
use crate::tiers::cold::ColdBlock;
use crate::tiers::entry::BlockInfo;
use crate::tiers::reader::ColdReader;
use crate::tiers::spiller::turn::{Job, Turn};

mod turn;

/// Blocks that are written in one go.
const BATCH: usize = 64;
/// The share of the buffers that those of all spillers take, packed, and what blocks are made with; a tier that sends them takes
/// some three times as much.
const BATCH_SHARE: u64 = 10;
/// For each spiller there must be room for so many blocks in the buffers: there are fewer where blocks are large.
const BLOCKS_OF_SPILLER: u64 = 8;

/// What the spiller has done since the store opened.
#[derive(Default)]
pub(crate) struct SpillCounters {
    pub(crate) blocks: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// Events that were on a page that could not be read when it was to be spilled.
    pub(crate) lost_to_damage: AtomicU64,
    pub(crate) last_error: Mutex<Option<String>>,
}

impl SpillCounters {
    /// Notes that the tier has failed a call.
    fn failed(&self, error: &Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock() = Some(error.to_string());
    }
}

pub(crate) struct Spiller {
    /// For each lane, one after the last page that a spill has looked at. Whoever removes an event of a page below
    /// it must tell the cold tier, too.
    reached: Vec<AtomicU64>,
    /// For each spiller, held by those who remove events that it has not reached, for as long as it must not: a moment, as
    /// they do nothing that could fail or wait meanwhile.
    removing: Vec<RwLock<()>>,
    /// For each lane, one after the last page of an earlier run of which it is not known whether the tier has it, since its
    /// server was away when the store opened. They are not written before it is: a block that was cut otherwise would be
    /// beside the one that the tier has. Zero: there is none.
    held: Vec<AtomicU64>,
    pub(crate) counters: SpillCounters,
    /// Microseconds that the tier took for a batch.
    pub(crate) latency: Mutex<Histogram<u64>>,
    /// One for each spiller that works beside the others, so that what one waits for the tier to say keeps nobody else from
    /// making blocks. Which lanes are whose: see [`Self::spiller_of`].
    turns: Vec<Mutex<Turn>>,
    classes: usize,
    /// For each spiller, since when the tier has failed it or not answered it.
    trouble: Vec<Mutex<Trouble>>,
    buffered: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Trouble {
    /// When the first of the failures in a row was.
    failing: Option<Instant>,
    /// When the call began that has not returned.
    calling: Option<Instant>,
}

impl Spiller {
    /// `most`: how many batches the tier handles well at once.
    pub(crate) fn new(config: &Config, lanes: &Lanes, latency: Histogram<u64>, most: usize) -> Self {
        let count = lanes.lanes().count();
        let classes = (count / lanes.partitions.len().max(1)).max(1);
        let room = config.buffers / (BLOCKS_OF_SPILLER * config.block_bytes.max(1));
        let spillers = most.min(count).min(usize::try_from(room).unwrap_or(usize::MAX)).max(1);
        let turn = || Turn {
            next: 0,
            last: vec![(LogicalPage::NONE, 0); count],
            tried: vec![Vec::new(); count],
            left: Vec::new(),
            refused: vec![None; classes],
            writer: BlockWriter::default(),
        };
        let turns = (0..spillers).map(|_| Mutex::new(turn())).collect();
        Self {
            reached: lanes.lanes().map(|lane| AtomicU64::new(lane.clean_seq())).collect(),
            removing: (0..spillers).map(|_| RwLock::new(())).collect(),
            held: lanes.lanes().map(|_| AtomicU64::new(0)).collect(),
            counters: SpillCounters::default(),
            latency: Mutex::new(latency),
            turns,
            classes,
            trouble: (0..spillers).map(|_| Mutex::default()).collect(),
            buffered: AtomicU64::new(0),
        }
    }

    /// Whose affair a lane is: those of a class are divided among all spillers, and so are those of a partition, as it may be
    /// that only some classes are used.
    fn spiller_of(&self, number: usize) -> usize {
        (number / self.classes + number % self.classes) % self.count()
    }

    /// Bytes of blocks that are being made and written.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.buffered.load(Ordering::Relaxed)
    }

    /// Keeps spills away from a page of which an event is about to be removed, until what this gives is dropped. `None`: one
    /// may have read it already, so the cold tier must be told of the removal.
    pub(crate) fn hold_off(&self, number: usize, seq: u64) -> Option<RwLockReadGuard<'_, ()>> {
        let hold = self.removing[self.spiller_of(number)].read();
        (seq >= self.reached[number].load(Ordering::Relaxed)).then_some(hold)
    }

    #[cfg(test)]
    pub(crate) fn has_reached(&self, number: usize, seq: u64) -> bool {
        seq < self.reached[number].load(Ordering::Relaxed)
    }

    /// For how long the tier has failed, or has not answered for longer than `limit`, and what it said last.
    pub(crate) fn trouble(&self, now: Instant, limit: Duration) -> Option<(Duration, Option<String>)> {
        if let Some(hangs) = self.hangs(now, limit) {
            return Some((hangs, None));
        }
        self.longest(now, |trouble| trouble.failing)
            .map(|since| (since, self.counters.last_error.lock().clone()))
    }

    /// For how long the tier has not answered, if that is longer than `limit`.
    pub(crate) fn hangs(&self, now: Instant, limit: Duration) -> Option<Duration> {
        self.longest(now, |trouble| trouble.calling).filter(|since| *since > limit)
    }

    fn longest(&self, now: Instant, of: fn(&Trouble) -> Option<Instant>) -> Option<Duration> {
        let since = self.trouble.iter().filter_map(|trouble| of(&trouble.lock())).min();
        since.map(|since| now.saturating_duration_since(since))
    }

    /// Learns what the tier has of the pages that an earlier run left: before anything is written, so all pages are such.
    pub(crate) fn expect(&self, lanes: &Lanes, cold: &ColdReader) {
        let (pin, is_known) = (lanes.pin(), cold.check_known().is_ok());
        for (number, lane) in lanes.lanes().enumerate() {
            if is_known {
                self.expect_blocks(number, lane, cold);
                continue;
            }
            let newest = lane.pages_back(&lanes.pages, &pin).next();
            let end = newest.map_or(0, |(_, meta)| meta.seq() + 1);
            self.held[number].store(end, Ordering::Relaxed);
            self.reached[number].fetch_max(end, Ordering::Relaxed);
        }
    }

    /// Learns it when the tier's server was away then and has told by now what it has.
    pub(crate) fn expect_late(&self, lanes: &Lanes, cold: &ColdReader) {
        let pin = lanes.pin();
        for (number, lane) in lanes.lanes().enumerate().filter(|(number, _)| self.is_held(*number)) {
            let end = self.held[number].load(Ordering::Relaxed);
            let pages = lane.pages(&lanes.pages, &pin).map(|(page, _)| page);
            let block_begin = |lane, seq| cold.block_begin(lane, seq);
            lane.set_clean(lanes.clean_up_to(lane.id, pages, end, &block_begin));
            self.expect_blocks(number, lane, cold);
            self.held[number].store(0, Ordering::Release);
        }
    }

    /// Learns which blocks the tier has of pages that are not clean, from an earlier run that did not hear of it.
    fn expect_blocks(&self, number: usize, lane: &Lane, cold: &ColdReader) {
        let clean = lane.clean_seq();
        let ours = |info: &BlockInfo| !cold.directory.is_foreign(info.id.first_seq);
        let unsure = |info: &BlockInfo| info.end_seq > clean && ours(info);
        let entries = cold.directory.blocks(lane.id, u64::MAX, unsure);
        // A tier that does not tell what is noted together leaves that out: its pages may be put once more.
        let unfold = |entry| cold.unfold(entry, Deadline::never(), unsure).unwrap_or_default();
        let blocks: Vec<Arc<BlockInfo>> = entries.iter().flat_map(unfold).collect();
        if let Some(last) = blocks.last() {
            self.reached[number].fetch_max(last.end_seq, Ordering::Relaxed);
            cold.are_unsure(blocks.iter().map(|info| info.id));
            let mut turn = self.turns[self.spiller_of(number)].lock();
            turn.tried[number] = blocks.iter().map(|info| (info.id.first_seq, info.end_seq)).collect();
        }
    }

    /// Whether pages of a lane wait until it is known what the tier has of them.
    fn is_held(&self, number: usize) -> bool {
        self.held[number].load(Ordering::Acquire) > 0
    }

    /// How many spillers can work beside each other.
    pub(crate) fn count(&self) -> usize {
        self.turns.len()
    }

    /// Writes one batch of blocks, of one spiller's lanes. How many pages became clean.
    ///
    /// `drain`: every sealed page, whether or not they fill a block.
    ///
    /// # Errors
    /// What the tier says; the pages stay as they were, and the next call tries them again.
    #[expect(clippy::too_many_arguments, reason = "what is spilled, whither, and by whom")]
    pub(crate) fn step(
        &self,
        config: &Config,
        lanes: &Lanes,
        shared: &EvictionShared,
        cold: &ColdReader,
        names: &Names,
        spiller: usize,
        drain: bool,
    ) -> Result<u64> {
        let mut turn = self.turns[spiller].lock();
        let jobs = self.gather(&mut turn, config, lanes, shared, cold, spiller, drain);
        if jobs.is_empty() {
            if drain && (0..self.held.len()).any(|number| self.is_held(number)) {
                cold.check_known()?;
            }
            if self.counters.failures.load(Ordering::Relaxed) == 0 {
                shared.set_spills(u32::MAX);
            }
            return self.delete_left(&mut turn, lanes, cold, spiller).map(|()| 0);
        }
        let (mut pages, mut failure, mut any) = (0, None, false);
        let mut groups = turn.apart(jobs);
        while let Some(group) = groups.pop() {
            self.trouble[spiller].lock().calling = Some(lanes.clock.instant());
            let Err(error) = self.put(&group.blocks, cold, names) else {
                any = true;
                pages += self.settle(&mut turn, group.jobs, lanes, shared, cold);
                continue;
            };
            for job in &group.jobs {
                let tried = &mut turn.tried[job.number];
                tried.retain(|(first, _)| *first != job.first_seq);
                tried.push((job.first_seq, job.end_seq));
                tried.sort_unstable();
            }
            self.counters.failed(&error);
            if group.classes().count_ones() > 1 {
                // It may be the blocks of one of them: each is put by itself.
                groups.extend(group.by_class());
                continue;
            }
            for job in &group.jobs {
                turn.note(job.lane.class(), false, config.background);
                shared.set_spills_of(job.lane.class(), false);
            }
            self.forget(&group.jobs);
            failure = Some(error);
        }
        self.note_trouble(spiller, &turn);
        match failure {
            Some(error) if !any => Err(error),
            _ => {
                // If this fails, it is tried again when nothing is to be put.
                let _ = self.delete_left(&mut turn, lanes, cold, spiller);
                Ok(pages)
            }
        }
    }

    /// Has the tier delete blocks that it took without confirming them and of which memory has nothing any more, since it expired or was
    /// given up for room. The next opening would find them, with events of which this one has said that there are none.
    fn delete_left(&self, turn: &mut Turn, lanes: &Lanes, cold: &ColdReader, spiller: usize) -> Result<()> {
        for (number, lane) in lanes.lanes().enumerate().filter(|(at, _)| self.spiller_of(*at) == spiller) {
            turn.pass(number, lane.id, lane.tail_seq(), |id| cold.is_unsure(id));
        }
        if turn.left.is_empty() {
            return Ok(());
        }
        self.trouble[spiller].lock().calling = Some(lanes.clock.instant());
        let outcome = cold.tier.delete(&turn.left);
        self.trouble[spiller].lock().calling = None;
        outcome.inspect_err(|error| self.counters.failed(error))?;
        turn.left.clear();
        Ok(())
    }

    /// The same of all spillers, when nothing more is to be put. What the tier says if it cannot is of no use to anybody: the next
    /// opening finds them.
    pub(crate) fn delete_all_left(&self, lanes: &Lanes, cold: &ColdReader, deadline: Deadline) {
        for (spiller, turn) in self.turns.iter().enumerate() {
            // A tier that fails may take long to say so each time.
            if deadline.has_passed() || self.delete_left(&mut turn.lock(), lanes, cold, spiller).is_err() {
                return;
            }
        }
    }

    /// Notes since when blocks are not taken.
    fn note_trouble(&self, spiller: usize, turn: &Turn) {
        let mut trouble = self.trouble[spiller].lock();
        let began = trouble.calling.take();
        let refused = turn.refused.iter().any(Option::is_some);
        trouble.failing = if refused { trouble.failing.or(began) } else { None };
    }

    /// The bytes of these blocks are needed no more.
    fn forget(&self, jobs: &[Job]) {
        self.buffered.fetch_sub(jobs.iter().map(|job| job.bytes).sum(), Ordering::Relaxed);
    }

    /// Notes what was written. How many pages became clean.
    fn settle(
        &self,
        turn: &mut Turn,
        jobs: Vec<Job>,
        lanes: &Lanes,
        shared: &EvictionShared,
        cold: &ColdReader,
    ) -> u64 {
        self.forget(&jobs);
        let mut pages = 0;
        for job in jobs {
            let lane = lanes.partitions[job.partition].lane(job.lane.class());
            pages += job.end_seq.saturating_sub(lane.clean_seq());
            if let Some((_, info)) = job.block {
                self.counters.blocks.fetch_add(1, Ordering::Relaxed);
                self.counters.events.fetch_add(info.events, Ordering::Relaxed);
                let id = info.id;
                cold.directory.insert(info);
                cold.confirmed(id);
            }
            lane.set_clean(job.end_seq + u64::from(cfg!(canary = "one-page-too-many")));
            turn.pass(job.number, job.lane, job.first_seq, |id| cold.is_unsure(id));
            turn.tried[job.number].retain(|(_, end)| *end > job.end_seq);
            turn.last[job.number] = (job.last, job.end_seq - 1);
            shared.set_wanted(job.number, false);
            turn.note(job.lane.class(), true, true);
            shared.set_spills_of(job.lane.class(), true);
        }
        pages
    }

    /// Makes the blocks of a batch, from lane after lane.
    #[expect(clippy::too_many_arguments, reason = "as for a step")]
    fn gather(
        &self,
        turn: &mut Turn,
        config: &Config,
        lanes: &Lanes,
        shared: &EvictionShared,
        cold: &ColdReader,
        spiller: usize,
        drain: bool,
    ) -> Vec<Job> {
        let count = self.reached.len();
        let all: Vec<&Lane> = lanes.lanes().collect();
        let (mut jobs, spillers) = (Vec::new(), self.count());
        let mut writer = std::mem::take(&mut turn.writer);
        self.buffered.fetch_sub(writer.memory(), Ordering::Relaxed);
        let share = config.buffers / (BATCH_SHARE * spillers as u64);
        let is_full = |jobs: &[Job]| {
            jobs.len() * spillers >= BATCH || jobs.iter().map(|job| job.bytes).sum::<u64>() >= share
        };
        let wanted = turn.classes(drain);
        for number in (0..count).map(|step| (turn.next + step) % count) {
            let is_wanted = wanted >> all[number].id.class().index() & 1 == 1;
            if self.spiller_of(number) != spiller || !is_wanted || self.is_held(number) {
                continue;
            }
            let urgent = drain || shared.is_wanted(number);
            let (mut last, mut from) = (turn.last[number], all[number].clean_seq());
            while !is_full(&jobs)
                && let Some(job) = self.collect(
                    config,
                    lanes,
                    shared,
                    cold,
                    number,
                    (last, from),
                    &turn.tried[number],
                    urgent,
                    &mut writer,
                )
            {
                (last, from) = ((job.last, job.end_seq - 1), job.end_seq);
                // One that is not full may be longer when it is tried again: nothing must follow it until it is
                // written. Full ones are cut in the same places every time.
                let full = job.is_full;
                jobs.push(job);
                if !full {
                    break;
                }
            }
            if is_full(&jobs) {
                turn.next = (number + 1) % count;
                break;
            }
        }
        // The next batch takes the same memory, which costs as much to get as the blocks are to read.
        if !jobs.is_empty() && writer.memory() <= share {
            self.buffered.fetch_add(writer.memory(), Ordering::Relaxed);
            turn.writer = writer;
        }
        jobs
    }

    fn put(&self, blocks: &[ColdBlock], cold: &ColdReader, names: &Names) -> Result<()> {
        cold.save_names(names)?;
        if blocks.is_empty() {
            return Ok(());
        }
        let begin = clock::now();
        let outcome = cold.tier.put(blocks);
        if !cfg!(canary = "confirmed-before-written") {
            outcome?;
        }
        self.latency.lock().saturating_record(begin.elapsed().as_micros() as u64);
        Ok(())
    }

    /// Makes a block of a lane's oldest pages from number `from` on, if there are enough of them.
    #[expect(clippy::too_many_arguments, reason = "where to look, and how")]
    fn collect(
        &self,
        config: &Config,
        lanes: &Lanes,
        shared: &EvictionShared,
        cold: &ColdReader,
        number: usize,
        (last, from): ((LogicalPage, u64), u64),
        tried: &[(u64, u64)],
        urgent: bool,
        writer: &mut BlockWriter,
    ) -> Option<Job> {
        let lane =
            lanes.partitions[number / config.classes.len()].lane(Class::new(number % config.classes.len()));
        let (class, passed) = (&config.classes[lane.id.class().index()], shared.passed(number));
        if class.on_leave == OnLeave::Drop {
            return None;
        }
        if lane.head() == LogicalPage::NONE {
            return None;
        }
        let partition = &lanes.partitions[lane.id.partition()];
        let pin = lanes.pin();
        let leaves = lanes.clock.now_ms().saturating_sub(millis(class.warm_for));
        // A store without threads squeezes them first; see `View::goes_unpacked`.
        let aged = |meta: &PageMeta| config.background && meta.newest() <= leaves;
        let (mut raw, mut pages) = (0u64, Vec::new());
        // A block that was tried: it is of the same pages again, less those that have left.
        let (mut again, mut next_tried) = (None, u64::MAX);
        for (page, meta) in lane.pages_from(&lanes.pages, &pin, last.0, last.1) {
            if meta.seq() < from {
                continue;
            }
            if pages.is_empty()
                && let Some(&(first, end)) = tried.iter().find(|(_, end)| meta.seq() < *end)
            {
                (again, next_tried) = ((meta.seq() >= first).then_some((first, end)), first);
            }
            if let Some((_, end)) = again {
                if meta.seq() == end {
                    break;
                }
                raw += u64::from(meta.committed());
                pages.push((page, meta));
                continue;
            }
            // Hot pages are written when they must leave, or leave as they are; until then more may come to be removed or
            // expire. One that newer pages were squeezed before is on its way, although it is hot.
            let tier = lanes.pages.place(page).tier();
            // The mover has just let it go, since it had expired. Those behind it are still to be written.
            if tier == Tier::Free && pages.is_empty() {
                continue;
            }
            let hot = || urgent || !class.compress || aged(meta) || meta.seq() < passed;
            let ready = tier == Tier::Warm || tier == Tier::Hot && hot();
            let is_full = raw >= config.block_bytes || meta.seq() == next_tried;
            if !ready || self.is_open(partition, lane, page) || is_full {
                break;
            }
            raw += u64::from(meta.committed());
            pages.push((page, meta));
        }
        let (last, end_seq) = pages.last().map(|(page, meta)| (*page, meta.seq() + 1))?;
        // Pages before the first one found may have left without being spilled: they had expired.
        let first = again.map_or(pages.first()?.1.seq(), |(first, _)| first);
        let is_full = raw >= config.block_bytes || again.is_some() || end_seq == next_tried;
        if !urgent && !is_full {
            return None;
        }
        // A try that goes less far than the last one leaves what that one may have stored.
        if cfg!(canary = "forgotten-try") {
            self.reached[number].store(end_seq, Ordering::Relaxed);
        }
        self.reached[number].fetch_max(end_seq, Ordering::Relaxed);
        // Whoever removes an event of these pages and had not seen it yet that they are reached has removed it by then: see
        // `hold_off`.
        drop(self.removing[self.spiller_of(number)].write());
        self.fill(writer, config, lanes, lane, first, &pages, &pin);
        let newest = pages.iter().map(|(_, meta)| meta.newest()).max().unwrap_or(i64::MIN);
        // What the tier has of events that were lost with an earlier run's memory, or have expired since it took them, it is to have
        // no more: it would be found once these pages have left.
        let replaces = again.is_some() || cold.is_unsure(writer.id());
        drop(pin);
        let mut held = 0;
        let block = (replaces || !writer.rows().is_empty()).then(|| {
            let bytes = writer.encode();
            held = bytes.len() as u64;
            self.buffered.fetch_add(held, Ordering::Relaxed);
            let info = BlockInfo::of(writer, newest, bytes.len());
            (ColdBlock { id: writer.id(), bytes, summary: info.encode() }, info)
        });
        Some(Job {
            partition: lane.id.partition(),
            lane: lane.id,
            number,
            last,
            first_seq: first,
            end_seq,
            is_full,
            bytes: held,
            block,
        })
    }

    fn is_open(&self, partition: &Partition, lane: &Lane, page: LogicalPage) -> bool {
        lane.head() == page && Partition::is_open(&partition.lock(), lane.id.class(), page)
    }

    /// Puts the live events of pages into a block.
    #[expect(clippy::too_many_arguments, reason = "what, and whither")]
    fn fill(
        &self,
        writer: &mut BlockWriter,
        config: &Config,
        lanes: &Lanes,
        lane: &Lane,
        first: u64,
        pages: &[(LogicalPage, &PageMeta)],
        pin: &Pin,
    ) {
        let retention = config.classes[lane.id.class().index()].retention;
        let clock = if cfg!(canary = "wall-clock") { &clock::Clock::system() } else { &lanes.clock };
        let now_ms = clock.now_ms();
        let ends = retention.map(|age| now_ms.saturating_sub(millis(age)));
        let sum = |of: fn(&PageMeta) -> u32| pages.iter().map(|(_, meta)| of(meta) as usize).sum();
        writer.begin(lane.id, first, sum(PageMeta::count), sum(PageMeta::committed));
        for (page, meta) in pages {
            while first + writer.pages() <= meta.seq() {
                writer.begin_page();
            }
            let (mut seen, mut there, mut damaged_events) = (0, 0, false);
            let place = lanes.pages.place(*page);
            let outcome = lanes.walk(pin, *page, meta.committed(), place, |offset, event, whole| {
                seen += 1;
                // Nothing that it says can be believed, nor when it expires or which one it is.
                damaged_events |= !whole;
                let addr = Addr::new(*page, offset, 0);
                if whole && (meta.dead() == 0 || lanes.is_live(event.id(), addr)) {
                    there += 1;
                    if !event.has_expired(now_ms) && ends.is_none_or(|end| event.timestamp() > end) {
                        writer.push(&event);
                    }
                }
                true
            });
            // Without sums, a length can be damaged so that it leads to the beginning of a record further on.
            if outcome.is_ok() && !damaged_events && seen == meta.count() {
                continue;
            }
            let lost = u64::from(meta.count().saturating_sub(meta.dead()).saturating_sub(there));
            let fails = || Error::corrupt("their bytes in memory are not those that came");
            if let Some(error) = outcome.err().or_else(|| (lost > 0).then(fails)) {
                self.counters.lost_to_damage.fetch_add(lost, Ordering::Relaxed);
                *self.counters.last_error.lock() = Some(damaged(&error, lost));
            }
        }
    }
}

fn damaged(error: &Error, events: u64) -> String {
    format!("{events} events could not be spilled: {error}")
}
