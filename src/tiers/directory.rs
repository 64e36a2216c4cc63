//! What the store knows of each cold block without reading it.
//!
//! An entry costs about 200 bytes, its filter of streams, and what it knows of the ids: a bit for each from the least to
//! the greatest where that is no more than a filter would take, as with ids in sequence. When the entries take more than
//! their share of the buffers, the oldest let go of their streams, then, if need be, of their ids. When that is not
//! enough, entries of old blocks that follow each other in a lane are *folded*: one entry then says what all of them may
//! hold together, and a read that it does not rule out asks the tier for theirs. A read then looks into more than it
//! needs, and finds the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::ids::LaneId;
use crate::tiers::block::{Block, BlockId};
use crate::tiers::entry::{BlockInfo, Keep};

/// Stores that share a tier number their pages in ranges of so many bits.
pub(crate) const WRITER_SHIFT: u32 = 40;

/// Which opening of a store put a page.
pub(crate) fn writer_of(seq: u64) -> u64 {
    seq >> WRITER_SHIFT
}

/// Blocks that are folded into one entry at first; when that is not enough, four times as many, and so on.
const FOLD: u64 = 64;
/// The most that anything is folded to.
const FOLD_MAX: u64 = 1 << 40;

/// What a block's entry is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Learned {
    Whole,
    Damaged,
}

/// Sums over all blocks.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) blocks: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) raw_bytes: AtomicU64,
    pub(crate) stored_bytes: AtomicU64,
}

/// The blocks of each lane, oldest first.
pub(crate) struct Directory {
    lanes: Vec<RwLock<Vec<Arc<BlockInfo>>>>,
    classes: usize,
    /// Page numbers from here on belong to stores that were opened later and share the tier.
    own_end: u64,
    memory: AtomicUsize,
    /// What the filters take of it.
    filter_bytes: AtomicUsize,
    limit: usize,
    pub(crate) totals: Totals,
}

impl Directory {
    pub(crate) fn new(partitions: usize, classes: usize, limit: usize, first_seq: u64) -> Self {
        Self {
            lanes: (0..partitions * classes).map(|_| RwLock::default()).collect(),
            classes,
            own_end: writer_of(first_seq).saturating_add(1).saturating_mul(1 << WRITER_SHIFT),
            memory: AtomicUsize::new(0),
            filter_bytes: AtomicUsize::new(0),
            limit,
            totals: Totals::default(),
        }
    }

    fn lane(&self, lane: LaneId) -> Option<&RwLock<Vec<Arc<BlockInfo>>>> {
        let class = lane.class().index();
        (class < self.classes).then(|| self.lanes.get(lane.partition() * self.classes + class)).flatten()
    }

    /// Which opening this store is.
    pub(crate) fn own_writer(&self) -> u64 {
        writer_of(self.own_end.saturating_sub(1))
    }

    /// Whether a page is of a store that was opened after this one and shares the tier.
    pub(crate) fn is_foreign(&self, seq: u64) -> bool {
        seq >= self.own_end
    }

    /// Bytes that the entries take.
    pub(crate) fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    /// The first page number after the blocks of a lane, but for those of stores that were opened after this one.
    pub(crate) fn end_seq(&self, lane: LaneId) -> u64 {
        let Some(blocks) = self.lane(lane) else { return 0 };
        let blocks = blocks.read();
        let ours = blocks.partition_point(|block| !self.is_foreign(block.id.first_seq));
        ours.checked_sub(1).and_then(|last| blocks.get(last)).map_or(0, |block| block.end_seq)
    }

    /// The first page number of the blocks of a lane.
    pub(crate) fn first_seq(&self, lane: LaneId) -> Option<u64> {
        self.lane(lane).and_then(|blocks| blocks.read().first().map(|block| block.id.first_seq))
    }

    /// Notes a block that the tier shows, if what is shown of it is whole.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt): what a tier shows is untrusted, and a block of a lane that does not
    /// exist would be found by nobody.
    pub(crate) fn learn(&self, id: BlockId, summary: &[u8]) -> Result<Learned> {
        if usize::from(id.class) >= self.classes || id.partition as usize >= self.lanes.len() / self.classes {
            return Err(Error::corrupt(format!(
                "the cold tier has a block of a lane that does not exist: {id:?}"
            )));
        }
        let Ok(info) = BlockInfo::decode(id, summary) else { return Ok(Learned::Damaged) };
        self.insert(info);
        Ok(Learned::Whole)
    }

    /// Notes a block whose entry is damaged: as its own bytes tell, and if they do not, as one that may hold
    /// anything.
    pub(crate) fn learn_from(&self, id: BlockId, bytes: Option<&[u8]>) {
        let block = bytes.and_then(|bytes| Some((Block::decode(bytes).ok()?, bytes.len())));
        self.insert(match block.filter(|(block, _)| block.id == id) {
            Some((block, len)) => BlockInfo::of_block(&block, len),
            None => BlockInfo::unknown(id),
        });
    }

    /// Notes a block that the tier has confirmed.
    pub(crate) fn insert(&self, info: BlockInfo) {
        let Some(lane) = self.lane(info.id.lane()) else { return };
        let mut blocks = lane.write();
        let at = blocks.partition_point(|block| block.id.first_seq < info.id.first_seq);
        let covers = |block: &BlockInfo| block.is_folded() && info.id.first_seq < block.end_seq;
        let fold = match blocks.get(at) {
            Some(block) if block.id == info.id => block.is_folded().then_some(at),
            _ => at.checked_sub(1).filter(|before| blocks.get(*before).is_some_and(|block| covers(block))),
        };
        if let Some(fold) = fold.filter(|_| !info.is_folded()) {
            // Whoever asks the tier for what is folded there is given it; whether it is new, nobody can say.
            let mut wider = BlockInfo::clone(&blocks[fold]);
            wider.widen(&info);
            blocks[fold] = Arc::new(wider);
            return;
        }
        if blocks.get(at).is_some_and(|block| block.id == info.id) {
            let old = blocks.remove(at);
            self.count(&old, false);
        }
        self.count(&info, true);
        blocks.insert(at, Arc::new(info));
        drop(blocks);
        if self.memory() > self.limit {
            self.make_room();
        }
    }

    /// Makes entries smaller. What has to be done for it is done until all take 15/16 of what they may, so that it is not
    /// done for each block.
    fn make_room(&self) {
        let goal = self.limit / 16 * 15;
        for (keep, most) in [(Keep::Ids, 7), (Keep::Nothing, 4)] {
            let is_needed = self.memory() > self.limit;
            // The oldest first, of all lanes alike.
            for eighths in (1..=most).filter(|_| is_needed) {
                // Once few filters are left there is little to win, and looking for them takes longer than it is worth.
                if self.memory() <= goal || self.filter_bytes.load(Ordering::Relaxed) <= self.limit / 8 {
                    break;
                }
                self.lanes.iter().for_each(|lane| self.thin(&mut lane.write(), eighths, keep));
            }
        }
        if self.memory() > self.limit {
            self.fold_old(goal);
        }
    }

    /// Folds entries of the older half of each lane.
    fn fold_old(&self, goal: usize) {
        let mut most = FOLD;
        while self.memory() > goal && most <= FOLD_MAX {
            for lane in &self.lanes {
                self.fold_lane(&mut lane.write(), most);
            }
            most *= 4;
        }
    }

    /// Folds entries of the older half of a lane, so that each stands for so many blocks at most, all of one writer.
    fn fold_lane(&self, blocks: &mut Vec<Arc<BlockInfo>>, most: u64) {
        let half = blocks.len() / 2;
        let newer = blocks.split_off(half);
        let older = std::mem::take(blocks);
        let mut rest = older.as_slice();
        while let Some(first) = rest.first() {
            let (mut sum, writer) = (0, writer_of(first.id.first_seq));
            let fits = |block: &&Arc<BlockInfo>| {
                sum += block.blocks;
                sum <= most && writer_of(block.id.first_seq) == writer
            };
            let len = rest.iter().take_while(fits).count().max(1);
            let (run, after) = rest.split_at(len);
            rest = after;
            match BlockInfo::fold(run).filter(|_| len > 1) {
                Some(all) => {
                    run.iter().for_each(|block| self.count(block, false));
                    self.count(&all, true);
                    blocks.push(Arc::new(all));
                }
                None => blocks.extend_from_slice(run),
            }
        }
        blocks.extend(newer);
    }

    /// Forgets blocks.
    pub(crate) fn remove(&self, ids: &[BlockId]) {
        for id in ids {
            if let Some(lane) = self.lane(id.lane()) {
                let mut blocks = lane.write();
                if let Ok(at) = blocks.binary_search_by_key(&id.first_seq, |block| block.id.first_seq) {
                    let old = blocks.remove(at);
                    self.count(&old, false);
                }
            }
        }
    }

    fn count(&self, info: &BlockInfo, add: bool) {
        let change = |total: &AtomicU64, by: u64| {
            if add { total.fetch_add(by, Ordering::Relaxed) } else { total.fetch_sub(by, Ordering::Relaxed) }
        };
        change(&self.totals.blocks, info.blocks);
        change(&self.totals.events, info.events);
        change(&self.totals.raw_bytes, info.raw_bytes);
        change(&self.totals.stored_bytes, info.stored_bytes);
        let change = |total: &AtomicUsize, by: usize| {
            if add { total.fetch_add(by, Ordering::Relaxed) } else { total.fetch_sub(by, Ordering::Relaxed) }
        };
        change(&self.memory, info.memory());
        change(&self.filter_bytes, info.filters_bytes());
    }

    /// Lets go of what so many eighths of a lane's entries, the oldest, know beyond `keep`.
    fn thin(&self, blocks: &mut [Arc<BlockInfo>], eighths: usize, keep: Keep) {
        let old = blocks.len() * eighths / 8;
        for block in &mut blocks[..old] {
            if let Some(less) = block.thinned(keep) {
                let freed = block.filters_bytes() - less.filters_bytes();
                self.memory.fetch_sub(freed, Ordering::Relaxed);
                self.filter_bytes.fetch_sub(freed, Ordering::Relaxed);
                *block = Arc::new(less);
            }
        }
    }

    /// The blocks of a lane that begin before page `before` or were put by stores opened later, and that `choose`
    /// takes, oldest first. What is in this store's memory says nothing of those. Some may be folded.
    pub(crate) fn blocks(
        &self,
        lane: LaneId,
        before: u64,
        choose: impl Fn(&BlockInfo) -> bool,
    ) -> Vec<Arc<BlockInfo>> {
        let Some(blocks) = self.lane(lane) else { return Vec::new() };
        let blocks = blocks.read();
        blocks
            .iter()
            .filter(|block| block.id.first_seq < before || self.is_foreign(block.id.first_seq))
            .filter(|block| choose(block))
            .cloned()
            .collect()
    }

    /// The block of a lane that holds a page; it may be folded.
    pub(crate) fn block_of(&self, lane: LaneId, seq: u64) -> Option<Arc<BlockInfo>> {
        let blocks = self.lane(lane)?.read();
        let at = blocks.partition_point(|block| block.id.first_seq <= seq).checked_sub(1)?;
        blocks.get(at).filter(|block| seq < block.end_seq).cloned()
    }

    /// The lanes that can have blocks.
    pub(crate) fn lane_ids(&self) -> impl Iterator<Item = LaneId> + use<> {
        let (lanes, classes) = (self.lanes.len(), self.classes);
        (0..lanes).map(move |at| LaneId::new(at / classes, crate::ids::Class::new(at % classes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::record::RecordHeader;

    fn info(first_seq: u64, time: i64) -> BlockInfo {
        let id = BlockId { partition: 0, class: 0, first_seq };
        let mut info = BlockInfo::unknown(id);
        (info.min_time, info.max_time, info.events) = (time, time, 1);
        info
    }

    fn lane() -> LaneId {
        LaneId::new(0, crate::ids::Class::new(0))
    }

    #[test]
    fn entries_beyond_the_limit_are_folded_and_stand_for_what_they_were() {
        let limit = 40_000;
        let directory = Directory::new(1, 1, limit, 0);
        for seq in 0..20_000 {
            directory.insert(info(seq, seq as i64));
            assert!(directory.memory() <= limit + 500, "{} bytes at block {seq}", directory.memory());
        }
        assert_eq!(directory.totals.blocks.load(Ordering::Relaxed), 20_000);
        assert_eq!(directory.totals.events.load(Ordering::Relaxed), 20_000);
        let all = directory.blocks(lane(), u64::MAX, |_| true);
        assert_eq!(all.iter().map(|entry| entry.blocks).sum::<u64>(), 20_000);
        assert!(all.windows(2).all(|pair| pair[0].end_seq == pair[1].id.first_seq));
        for seq in (0..20_000).step_by(7) {
            let at = |entry: &BlockInfo| entry.min_time <= seq as i64 && seq as i64 <= entry.max_time;
            let found = directory.blocks(lane(), u64::MAX, at);
            assert_eq!(found.len(), 1);
            assert!(found[0].id.first_seq <= seq && seq < found[0].end_seq);
            assert_eq!(directory.block_of(lane(), seq).map(|entry| entry.id), Some(found[0].id));
        }
        assert!(!all[all.len() - 1].is_folded(), "the newest are told apart");
        assert!(!all.iter().any(|entry| entry.has_gaps));
    }

    #[test]
    fn an_entry_of_blocks_with_pages_missing_between_them_says_so() {
        let directory = Directory::new(1, 1, 20_000, 0);
        (0..2_000).filter(|seq| *seq != 700).for_each(|seq| directory.insert(info(seq, 0)));
        let folded = directory.block_of(lane(), 700).unwrap();
        assert!(folded.is_folded() && folded.has_gaps);
        assert!(!directory.block_of(lane(), 10).unwrap().has_gaps || folded.id.first_seq <= 10);
    }

    #[test]
    fn a_block_that_is_shown_again_where_blocks_are_folded_widens_the_entry_and_is_not_counted() {
        let directory = Directory::new(1, 1, 20_000, 0);
        (0..1_000).for_each(|seq| directory.insert(info(seq * 2, 0)));
        let count = directory.blocks(lane(), u64::MAX, |_| true).len();
        for (seq, time) in [(0, 5), (3, 9), (4, 0)] {
            directory.insert(info(seq, time));
            let found = directory.blocks(lane(), u64::MAX, |entry| entry.max_time >= time);
            assert!(found[0].is_folded() && found[0].id.first_seq <= seq && seq < found[0].end_seq);
        }
        assert_eq!(directory.blocks(lane(), u64::MAX, |_| true).len(), count);
        assert_eq!(directory.totals.blocks.load(Ordering::Relaxed), 1_000);
        let all: Vec<BlockId> =
            directory.blocks(lane(), u64::MAX, |_| true).iter().map(|entry| entry.id).collect();
        directory.remove(&all);
        assert_eq!((directory.memory(), directory.totals.blocks.load(Ordering::Relaxed)), (0, 0));
    }

    /// Blocks of 400 events whose ids are in sequence over four lanes, as a counter's are.
    fn counted(directory: &Directory, blocks: u64) {
        for block in 0..blocks {
            let (partition, first) = ((block % 4) as usize, block / 4 * 1600);
            let row = |at: u64| {
                let class = crate::ids::Class::new(0);
                let id = first + at * 4 + partition as u64;
                RecordHeader::new(id as i64, id, 0, 0, 0, class, false, crate::ids::mix(at % 300, 1))
            };
            let rows: Vec<RecordHeader> = (0..400).map(row).collect();
            let id = BlockId { partition: partition as u32, class: 0, first_seq: block / 4 };
            let whole = BlockInfo::of_rows(id, block / 4 + 1, &rows, 0, 1000, 500);
            directory.learn(id, &whole.encode()).unwrap();
        }
    }

    /// How many blocks, of the number of all, a read of an id looks into, and a read of a stream that does not exist.
    fn looked_into(directory: &Directory, blocks: u64) -> (f64, f64) {
        let ids: Vec<u64> = (0..1000).map(|read| crate::ids::mix(read, 2) % (blocks / 4 * 1600)).collect();
        let count = |chosen: &dyn Fn(&BlockInfo) -> bool| {
            directory.lane_ids().map(|lane| directory.blocks(lane, u64::MAX, chosen).len()).sum::<usize>()
        };
        let found: Vec<usize> = ids.iter().map(|id| count(&|info| info.may_hold_id(*id))).collect();
        assert!(found.iter().all(|found| *found > 0));
        let strange = (0..20).map(|stream| count(&|info| info.may_hold_stream(stream))).sum::<usize>();
        (found.iter().sum::<usize>() as f64 / 1000.0, strange as f64 / 20.0 / blocks as f64)
    }

    #[test]
    fn a_read_of_an_id_in_sequence_looks_into_one_block_as_long_as_there_is_any_room() {
        for (blocks, streams_at_most) in [(640, 0.02), (1_000, 0.3), (1_500, 0.8)] {
            let directory = Directory::new(4, 1, 1 << 20, 0);
            counted(&directory, blocks);
            let (ids, streams) = looked_into(&directory, blocks);
            assert!((ids - 1.0).abs() < 1e-9, "{ids} of {blocks} blocks");
            assert!(
                streams <= streams_at_most,
                "{streams} of {blocks} blocks may hold a stream that none holds"
            );
            assert!(directory.memory() <= 1 << 20);
        }
        // Without any, the bounds of each block are left.
        let directory = Directory::new(4, 1, 1 << 20, 0);
        counted(&directory, 3_300);
        assert!(looked_into(&directory, 3_300).0 < 4.01);
    }

    #[test]
    fn blocks_of_different_openings_are_not_folded_together() {
        let directory = Directory::new(1, 1, 10_000, 0);
        for writer in 1..5u64 {
            (0..300).for_each(|seq| directory.insert(info((writer << WRITER_SHIFT) + seq, 0)));
        }
        let all = directory.blocks(lane(), u64::MAX, |_| true);
        assert!(all.iter().all(|entry| writer_of(entry.id.first_seq) == writer_of(entry.end_seq - 1)));
        assert!(directory.memory() <= 10_500);
    }
}
