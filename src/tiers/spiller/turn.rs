//! A spiller's turn: which classes' blocks are made and put together, and what was put without an answer.

use std::time::{Duration, Instant};

use crate::clock;
use crate::ids::{Class, LaneId, LogicalPage};
use crate::tiers::block::{BlockId, BlockWriter};
use crate::tiers::cold::ColdBlock;
use crate::tiers::entry::BlockInfo;

/// How long the blocks of a class that the tier did not take are left alone: doubled from the first to the last.
const APART: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// Blocks that are noted to be deleted at most: a tier may be down for long, and more are found when the store is opened again.
const LEFT_MAX: usize = 4096;

/// Whoever holds this is that spiller.
pub(super) struct Turn {
    /// The lane at which the next batch begins.
    pub(super) next: usize,
    /// For each lane, a page that was the last to be spilled: where to look on.
    pub(super) last: Vec<(LogicalPage, u64)>,
    /// For each lane, which pages were in blocks that the tier may have although it has not confirmed them: first number,
    /// and one after the last. The same pages are put together again, as blocks that were cut otherwise would be beside
    /// these and hold the same events.
    pub(super) tried: Vec<Vec<(u64, u64)>>,
    /// Blocks of those whose pages have all left memory since: nobody puts them again, and the tier is to have them no more.
    pub(super) left: Vec<BlockId>,
    /// For each class, whether the tier did not take its blocks when it was last asked.
    pub(super) refused: Vec<Option<Refused>>,
    /// What blocks are made with, for its memory; empty after a step without any, and after large ones.
    pub(super) writer: BlockWriter,
}

/// A class whose blocks the tier did not take. They are put by themselves, so that those of others go on.
#[derive(Clone, Copy)]
pub(super) struct Refused {
    next: Instant,
    pause: Duration,
}

impl Turn {
    /// The classes of which blocks are to be made now: those that are taken, and of the others the one that has waited
    /// longest, if its time has come; all if `drain`.
    pub(super) fn classes(&self, drain: bool) -> u32 {
        let now = clock::now();
        let waits = |refused: &Option<Refused>| refused.map(|refused| refused.next);
        let due =
            self.refused.iter().enumerate().filter_map(|(class, refused)| Some((waits(refused)?, class)));
        let due = due.min().filter(|(next, _)| *next <= now).map(|(_, class)| class);
        let wanted = |class: &usize| drain || self.refused[*class].is_none() || due == Some(*class);
        (0..self.refused.len()).filter(wanted).fold(0, |classes, class| classes | 1 << class)
    }

    /// Notes that all pages of a lane below `seq` have left memory or been confirmed. What an earlier run has put stays (`stays`): it
    /// is noted as a block of the tier's, and deleted as such.
    pub(super) fn pass(&mut self, number: usize, lane: LaneId, seq: u64, stays: impl Fn(BlockId) -> bool) {
        let left = &mut self.left;
        self.tried[number].retain(|(first, end)| {
            let (passed, id) = (*end <= seq, BlockId::of(lane, *first));
            if passed && left.len() < LEFT_MAX && !stays(id) {
                left.push(id);
            }
            !passed
        });
    }

    /// What is put together: blocks of classes that are taken, and those of each of the others.
    pub(super) fn apart(&self, jobs: Vec<Job>) -> Vec<Group> {
        let (taken, others): (Vec<Job>, Vec<Job>) =
            jobs.into_iter().partition(|job| self.refused[job.lane.class().index()].is_none());
        let mut groups = Group::of(others).by_class();
        groups.push(Group::of(taken));
        groups.retain(|group| !group.jobs.is_empty());
        groups
    }

    /// Notes whether the tier took a class's blocks. Without threads there is no pause: who takes a step wants it tried.
    pub(super) fn note(&mut self, class: Class, taken: bool, background: bool) {
        let refused = &mut self.refused[class.index()];
        if !taken {
            let next = refused.map_or(APART[0], |refused| (refused.pause * 2).min(APART[1]));
            let pause = if background { next } else { Duration::ZERO };
            *refused = Some(Refused { next: clock::now() + pause, pause });
        } else if refused.take().is_some() {
            // Others may have been refused for the same reason.
            self.refused.iter_mut().flatten().for_each(|refused| refused.next = clock::now());
        }
    }
}

/// A block that is ready to be written, and up to where it makes its lane clean.
pub(super) struct Job {
    pub(super) partition: usize,
    pub(super) lane: LaneId,
    pub(super) number: usize,
    pub(super) last: LogicalPage,
    pub(super) first_seq: u64,
    pub(super) end_seq: u64,
    /// Whether it would be the same if it were made again.
    pub(super) is_full: bool,
    /// Bytes that it takes until it is written.
    pub(super) bytes: u64,
    pub(super) block: Option<(ColdBlock, BlockInfo)>,
}

/// Blocks that are put in one call.
pub(super) struct Group {
    pub(super) jobs: Vec<Job>,
    pub(super) blocks: Vec<ColdBlock>,
}

impl Group {
    pub(super) fn of(mut jobs: Vec<Job>) -> Self {
        let blocks =
            jobs.iter_mut().filter_map(|job| job.block.as_mut().map(|(block, _)| std::mem::take(block)));
        Self { blocks: blocks.collect(), jobs }
    }

    /// A bit for each class.
    pub(super) fn classes(&self) -> u32 {
        self.jobs.iter().fold(0, |classes, job| classes | 1 << job.lane.class().index())
    }

    pub(super) fn by_class(mut self) -> Vec<Self> {
        let (all, mut groups) = (self.classes(), Vec::new());
        for class in (0..u32::BITS).filter(|class| all >> class & 1 == 1) {
            let jobs = self.jobs.extract_if(.., |job| job.lane.class().index() as u32 == class).collect();
            let blocks = self.blocks.extract_if(.., |block| u32::from(block.id.class) == class).collect();
            groups.push(Self { jobs, blocks });
        }
        groups
    }
}
