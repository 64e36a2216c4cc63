//! A stream's events from all tiers, newest first.
//!
//! In each class's lane the walk goes through memory first, a few dozen events under a short pin at a time, and then
//! through the cold blocks below the last event it gave. Events that leave memory meanwhile are found where they went:
//! a page is confirmed before it leaves, and whoever meets one gone reads `tail_seq` and leaves everything below it to
//! the cold part.

use std::collections::VecDeque;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Deadline;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventRef;
use crate::ids::{Class, LaneId, Stream};
use crate::lanes::history::{Chains, Turn};
use crate::pages::table::PageMeta;
use crate::store::core::Core;
use crate::store::guard::{Guard, bounds};
use crate::store::history::{fits, is_there};
use crate::tiers::directory::writer_of;
use crate::tiers::entry::BlockInfo;

/// Events that are taken from memory under one pin.
const RUN: usize = 64;

/// Walks a stream's events through all tiers, newest first. Made by
/// [`Store::fetch_history`](crate::Store::fetch_history); the order is that of [`History`](crate::History).
///
/// Gives `Err` for what could not be read, and goes on with the rest, except after [`Timeout`](ErrorKind::Timeout).
/// Set what to look for before the first event is taken.
#[must_use]
pub struct FetchHistory<'s> {
    core: &'s Core,
    stream: Stream,
    range: Option<(i64, i64)>,
    class: Option<Class>,
    timeout: Duration,
    walks: Option<Vec<Walk>>,
    deadline: Deadline,
    now_ms: i64,
}

/// How far a class's walk is.
enum Stage {
    /// The heads of the chains are not read yet.
    Begin,
    /// The chains go on there.
    Memory(Turn),
    /// Blocks to be read, the next one last; `None` before the directory was asked.
    Cold(Option<Vec<Arc<BlockInfo>>>),
}

struct Walk {
    lane: LaneId,
    /// Which opening's blocks it reads: stores that share a tier write side by side.
    writer: u64,
    stage: Stage,
    /// No event that is still to be read from blocks is newer.
    newest_left: i64,
    ready: VecDeque<Result<EventRef<'static>>>,
    /// The page of the last event that memory gave, and the ids that it gave from that page.
    last_page: u64,
    given: Vec<u64>,
}

impl<'s> FetchHistory<'s> {
    pub(crate) fn new(core: &'s Core, stream: Stream) -> Self {
        Self {
            core,
            stream,
            range: Some((i64::MIN, i64::MAX)),
            class: None,
            timeout: core.config.fetch_timeout,
            walks: None,
            deadline: Deadline::never(),
            now_ms: 0,
        }
    }

    /// Newest first: the only order there is, for those who like to say so.
    pub fn newest(self) -> Self {
        self
    }

    /// Only events with timestamps in this range, in milliseconds since the epoch.
    pub fn range(mut self, range: impl RangeBounds<i64>) -> Self {
        self.range = bounds(&range);
        self
    }

    /// Only events of this class.
    pub fn class(mut self, class: Class) -> Self {
        self.class = Some(class);
        self
    }

    /// How long the whole walk may take (default: [`Config::fetch_timeout`](crate::Config::fetch_timeout)).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// The walks through a lane: one through memory and this store's own blocks, and one through those of each other
    /// store that shares the tier.
    fn walks(&self, lane: LaneId, range: (i64, i64)) -> Vec<Walk> {
        let walk = |writer, stage| Walk {
            lane,
            writer,
            stage,
            newest_left: i64::MAX,
            ready: VecDeque::new(),
            last_page: u64::MAX,
            given: Vec::new(),
        };
        let Some(cold) = &self.core.cold else { return vec![walk(0, Stage::Begin)] };
        let own = cold.directory.own_writer();
        let mut walks = vec![walk(own, Stage::Begin)];
        for info in self.blocks(lane, u64::MAX, range) {
            let writer = writer_of(info.id.first_seq);
            if writer == own {
                continue;
            }
            // Blocks come in the order of their numbers, so those of one writer follow each other.
            match walks.last_mut() {
                Some(Walk { writer: last, stage: Stage::Cold(Some(blocks)), .. }) if *last == writer => {
                    blocks.push(info);
                }
                _ => walks.push(walk(writer, Stage::Cold(Some(vec![info])))),
            }
        }
        if let Some(own) = walks.first_mut() {
            own.ready.extend(cold.check_known().err().map(Err));
        }
        walks.iter_mut().for_each(Walk::look_ahead);
        walks
    }

    /// Takes a walk's next step, which may get events ready.
    fn fill(&self, walk: &mut Walk, range: (i64, i64)) {
        match &mut walk.stage {
            Stage::Begin | Stage::Memory(_) => self.fill_from_memory(walk, range),
            Stage::Cold(None) => {
                let (own, before) = (walk.writer, walk.last_page.saturating_add(1));
                let mut blocks = self.blocks(walk.lane, before, range);
                blocks.retain(|info| writer_of(info.id.first_seq) == own);
                walk.stage = Stage::Cold(Some(blocks));
            }
            Stage::Cold(Some(blocks)) => match blocks.pop() {
                Some(info) if info.is_folded() => self.unfold(walk, &info, range),
                Some(info) => self.fill_from_block(walk, &info, range),
                None => {}
            },
        }
        walk.look_ahead();
    }

    fn fill_from_memory(&self, walk: &mut Walk, range: (i64, i64)) {
        let guard = Guard::new(self.core);
        let (lanes, pin, cache) = (&self.core.lanes, &self.core.lanes.pin(), &guard.cache);
        let lane = lanes.partitions[walk.lane.partition()].lane(walk.lane.class());
        let mut chains = match &walk.stage {
            Stage::Memory(turn) => Chains::resume(lanes, self.stream, walk.lane.class(), *turn),
            _ => Chains::new(lanes, pin, cache, self.stream, walk.lane.class()),
        };
        let mut over = true;
        let mut run = Vec::new();
        while let Some(seq) = chains.peek().map(PageMeta::seq) {
            // Where one chain has met a page that is gone, what others still have in hand may lie on such a page.
            if chains.met_gone && seq < lane.tail_seq() {
                break;
            }
            if run.len() == RUN {
                over = false;
                break;
            }
            let Some(step) = chains.next(pin, cache) else { break };
            let meta = chains.page_of(&step);
            if meta.max_time_so_far() < range.0 && self.core.cold.is_none() {
                break;
            }
            let whole = self.core.is_whole(&step.event);
            let kept = if whole { fits(&guard, &step, range) } else { is_there(&guard, &step, range) };
            run.push((meta.seq(), step.event, kept, whole));
        }
        // A page that is being purged makes its events look removed: leave it to the cold part. What was not taken
        // for removed was read rightly.
        let tail = lane.tail_seq();
        if let Some(cut) = run.iter().position(|(seq, _, kept, _)| *seq < tail && !kept) {
            run.truncate(cut);
            over = true;
        }
        for (seq, event, kept, whole) in run {
            if seq != walk.last_page {
                walk.last_page = seq;
                walk.given.clear();
            }
            walk.given.push(event.id());
            if kept {
                walk.ready.push_back(if whole { Ok(event.into_owned()) } else { Err(event.damage()) });
            }
        }
        if let Some(damage) = chains.damage.take() {
            walk.ready.push_back(Err(damage));
        }
        walk.stage = if over { Stage::Cold(None) } else { Stage::Memory(chains.turn()) };
    }

    fn blocks(&self, lane: LaneId, before: u64, range: (i64, i64)) -> Vec<Arc<BlockInfo>> {
        let Some(cold) = &self.core.cold else { return Vec::new() };
        cold.directory.blocks(lane, before, |info| self.may_hold(info, range))
    }

    fn may_hold(&self, info: &BlockInfo, range: (i64, i64)) -> bool {
        info.min_time <= range.1 && info.max_time >= range.0 && info.may_hold_stream(self.stream.as_u64())
    }

    /// The next block of a walk is an entry that stands for several: puts those in its place that may hold something.
    fn unfold(&self, walk: &mut Walk, info: &Arc<BlockInfo>, range: (i64, i64)) {
        let Some(cold) = &self.core.cold else { return };
        match (cold.unfold(info, self.deadline, |info| self.may_hold(info, range)), &mut walk.stage) {
            (Ok(blocks), Stage::Cold(Some(left))) => left.extend(blocks),
            (Ok(_), _) => {}
            (Err(error), _) => self.fail(walk, error),
        }
    }

    fn fail(&self, walk: &mut Walk, error: Error) {
        if error.kind() == ErrorKind::Timeout {
            walk.stage = Stage::Cold(Some(Vec::new()));
        }
        walk.ready.push_back(Err(error));
    }

    fn fill_from_block(&self, walk: &mut Walk, info: &BlockInfo, range: (i64, i64)) {
        let Some(cold) = &self.core.cold else { return };
        let block = match cold.load(info.id, self.deadline) {
            Ok(Some(block)) => block,
            Ok(None) => return,
            Err(error) => return self.fail(walk, error),
        };
        let ready = walk.ready.len();
        for row in block.rows().iter().rev() {
            let header = &row.header;
            let here =
                header.stream == self.stream.as_u64() && (range.0..=range.1).contains(&header.timestamp);
            let older =
                row.seq < walk.last_page || row.seq == walk.last_page && !walk.given.contains(&header.id);
            if !here || !older || cold.is_removed(walk.lane, row) {
                continue;
            }
            let event = block.event(row);
            if self.core.is_kept(&event, self.now_ms) {
                walk.ready.push_back(Ok(event));
            }
        }
        self.core.note_cold((walk.ready.len() - ready) as u64);
    }
}

impl Iterator for FetchHistory<'_> {
    type Item = Result<EventRef<'static>>;

    fn next(&mut self) -> Option<Self::Item> {
        let range = self.range?;
        let mut walks = match self.walks.take() {
            Some(walks) => walks,
            None if self.core.is_closed() => {
                self.walks = Some(Vec::new());
                return Some(Err(self.core.life.error()));
            }
            None => {
                self.deadline = Deadline::after(self.timeout);
                self.now_ms = self.core.lanes.clock.now_ms();
                let lanes = self.core.lanes_of(self.stream, self.class);
                lanes.into_iter().flat_map(|lane| self.walks(lane, range)).collect()
            }
        };
        let next = loop {
            // Errors are told as soon as they are met.
            let time = |walk: &Walk| match walk.ready.front() {
                Some(Ok(event)) => Some((1, event.timestamp())),
                Some(Err(_)) => Some((2, 0)),
                None => None,
            };
            let best = (0..walks.len())
                .reduce(|best, at| if time(&walks[at]) > time(&walks[best]) { at } else { best });
            let best = best.filter(|at| !walks[*at].ready.is_empty());
            let reached = best.and_then(|at| time(&walks[at])).unwrap_or((0, 0));
            // A walk is read on only if it may have something that comes first.
            let behind = walks
                .iter_mut()
                .find(|walk| walk.ready.is_empty() && walk.has_more() && (1, walk.newest_left) >= reached);
            match (behind, best) {
                (Some(walk), _) => self.fill(walk, range),
                (None, Some(at)) => break walks[at].ready.pop_front(),
                (None, None) => break None,
            }
        };
        self.walks = Some(walks);
        next
    }
}

impl Walk {
    fn has_more(&self) -> bool {
        !matches!(&self.stage, Stage::Cold(Some(blocks)) if blocks.is_empty())
    }

    /// Notes what may still come.
    fn look_ahead(&mut self) {
        if let Stage::Cold(Some(blocks)) = &self.stage {
            self.newest_left = blocks.iter().map(|info| info.max_time).max().unwrap_or(i64::MIN);
        }
    }
}
