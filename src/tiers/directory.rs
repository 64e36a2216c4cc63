//! What the store knows of each cold block without reading it.
//!
//! An entry costs about 250 bytes and its filter. When the entries take more than their share of the buffers, the
//! filters of the oldest blocks are let go. When that is not enough, entries of old blocks that follow each other in a
//! lane are *folded*: one entry then says what all of them may hold together, and a read that it does not rule out asks
//! the tier for theirs. A read then looks into more than it needs, and finds the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::event::record::RecordHeader;
use crate::ids::LaneId;
use crate::tiers::block::{Block, BlockId, BlockWriter};
use crate::tiers::filter::Filter;

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

/// What is known of one block, or of several that are folded: their first one's id, and bounds that hold for all.
#[derive(Clone, Debug)]
pub(crate) struct BlockInfo {
    pub(crate) id: BlockId,
    /// One after the last page of the block.
    pub(crate) end_seq: u64,
    /// How many blocks it stands for.
    pub(crate) blocks: u64,
    pub(crate) events: u64,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
    pub(crate) min_id: u64,
    pub(crate) max_id: u64,
    /// The time that the age of its newest page is counted from.
    pub(crate) newest_ms: i64,
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) kinds: [u64; 4],
    /// Deleting it has failed, maybe after it was deleted: the tier need not have it.
    pub(crate) may_be_gone: bool,
    /// Whether pages between its first and its last may be in none of the blocks that it stands for.
    pub(crate) has_gaps: bool,
    filter: Filter,
}

const FIXED: usize = 8 * 12 + 4;

impl BlockInfo {
    pub(crate) fn of(writer: &BlockWriter, newest_ms: i64, stored_bytes: usize) -> Self {
        let end_seq = writer.id().first_seq + writer.pages();
        Self::of_rows(writer.id(), end_seq, writer.rows(), newest_ms, writer.raw_bytes() as u64, stored_bytes)
    }

    /// The entry of a block whose own is damaged. Its newest event stands for its newest page.
    fn of_block(block: &Block, stored_bytes: usize) -> Self {
        let rows: Vec<RecordHeader> = block.rows().iter().map(|row| row.header).collect();
        let newest_ms = rows.iter().map(|row| row.timestamp).max().unwrap_or(i64::MIN);
        let end_seq = block.id.first_seq.saturating_add(u64::from(block.pages));
        Self::of_rows(block.id, end_seq, &rows, newest_ms, block.memory() as u64, stored_bytes)
    }

    /// The entry of a block of which nothing can be read. It may hold anything, so that whoever looks for what it may
    /// have held is told.
    pub(crate) fn unknown(id: BlockId) -> Self {
        Self {
            min_time: i64::MIN,
            max_time: i64::MAX,
            min_id: 0,
            max_id: u64::MAX,
            kinds: [u64::MAX; 4],
            filter: Filter::default(),
            ..Self::of_rows(id, id.first_seq.saturating_add(1), &[], i64::MAX, 0, 0)
        }
    }

    fn of_rows(
        id: BlockId,
        end_seq: u64,
        rows: &[RecordHeader],
        newest_ms: i64,
        raw_bytes: u64,
        stored_bytes: usize,
    ) -> Self {
        let mut streams: Vec<u64> = rows.iter().map(|row| row.stream).collect();
        streams.sort_unstable();
        streams.dedup();
        let mut kinds = [0u64; 4];
        for row in rows {
            kinds[usize::from(row.kind >> 6)] |= 1 << (row.kind & 63);
        }
        let times = || rows.iter().map(|row| row.timestamp);
        let ids = || rows.iter().map(|row| row.id);
        Self {
            id,
            end_seq,
            blocks: 1,
            events: rows.len() as u64,
            min_time: times().min().unwrap_or(i64::MAX),
            max_time: times().max().unwrap_or(i64::MIN),
            min_id: ids().min().unwrap_or(u64::MAX),
            max_id: ids().max().unwrap_or(0),
            newest_ms,
            raw_bytes,
            stored_bytes: stored_bytes as u64,
            kinds,
            may_be_gone: false,
            has_gaps: false,
            filter: Filter::new(rows.iter().map(|row| row.id), streams.into_iter()),
        }
    }

    /// Whether nothing is known of the block, not even where it ends: see [`Self::unknown`].
    fn is_unknown(&self) -> bool {
        (self.events, self.min_id, self.max_id, self.raw_bytes) == (0, 0, u64::MAX, 0)
    }

    /// Whether a page is in the block. Where that cannot be told it may be, if it is behind the block's first.
    pub(crate) fn holds(&self, seq: u64) -> bool {
        self.id.first_seq <= seq && (seq < self.end_seq || self.is_unknown())
    }

    /// The same of a block that could not be deleted, or was without anybody knowing.
    pub(crate) fn maybe_gone(&self) -> Self {
        Self { may_be_gone: true, ..self.clone() }
    }

    /// The entry as it is stored with its block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let words = [
            self.end_seq,
            self.min_time as u64,
            self.max_time as u64,
            self.min_id,
            self.max_id,
            self.newest_ms as u64,
            self.raw_bytes,
            self.stored_bytes,
            self.kinds[0],
            self.kinds[1],
            self.kinds[2],
            self.kinds[3],
        ];
        let mut out: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        out.extend_from_slice(&(self.events as u32).to_le_bytes());
        out.extend_from_slice(&self.filter.to_bytes());
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(id: BlockId, bytes: &[u8]) -> Result<Self> {
        let damaged =
            || Error::corrupt(format!("the directory entry of cold block {id:?} fails its checksum"));
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
        if body.len() < FIXED || crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(damaged());
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&body[at * 8..at * 8 + 8]);
            u64::from_le_bytes(word)
        };
        let mut events = [0; 4];
        events.copy_from_slice(&body[FIXED - 4..FIXED]);
        Ok(Self {
            id,
            end_seq: word(0),
            blocks: 1,
            events: u64::from(u32::from_le_bytes(events)),
            min_time: word(1) as i64,
            max_time: word(2) as i64,
            min_id: word(3),
            max_id: word(4),
            newest_ms: word(5) as i64,
            raw_bytes: word(6),
            stored_bytes: word(7),
            kinds: [word(8), word(9), word(10), word(11)],
            may_be_gone: false,
            has_gaps: false,
            filter: Filter::from_bytes(&body[FIXED..]),
        })
    }

    pub(crate) fn may_hold_id(&self, id: u64) -> bool {
        (self.min_id..=self.max_id).contains(&id) && self.filter.may_hold_id(id)
    }

    pub(crate) fn may_hold_stream(&self, stream: u64) -> bool {
        self.filter.may_hold_stream(stream)
    }

    fn memory(&self) -> usize {
        size_of::<Self>() + 32 + self.filter.len_bytes()
    }

    /// Whether it stands for more than one block.
    pub(crate) fn is_folded(&self) -> bool {
        self.blocks > 1
    }

    /// Bounds that hold for another one, too; what either counts is left to the caller.
    fn widen(&mut self, other: &Self) {
        self.end_seq = self.end_seq.max(other.end_seq);
        self.min_time = self.min_time.min(other.min_time);
        self.max_time = self.max_time.max(other.max_time);
        self.min_id = self.min_id.min(other.min_id);
        self.max_id = self.max_id.max(other.max_id);
        self.newest_ms = self.newest_ms.max(other.newest_ms);
        self.may_be_gone |= other.may_be_gone;
        for (kinds, others) in self.kinds.iter_mut().zip(other.kinds) {
            *kinds |= others;
        }
        self.filter = Filter::default();
    }

    /// One entry for several that follow each other.
    fn fold(run: &[Arc<Self>]) -> Option<Self> {
        let (first, rest) = run.split_first()?;
        let mut all = Self::clone(first);
        for other in rest {
            all.has_gaps |= other.has_gaps || other.id.first_seq != all.end_seq;
            all.widen(other);
            all.blocks += other.blocks;
            all.events += other.events;
            all.raw_bytes += other.raw_bytes;
            all.stored_bytes += other.stored_bytes;
        }
        Some(all)
    }
}

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
        // Once few filters are left there is little to win, and looking for them takes longer than it is worth.
        let filters = self.filter_bytes.load(Ordering::Relaxed);
        if self.memory() > self.limit && filters > self.limit / 8 {
            self.drop_old_filters();
        }
        if self.memory() > self.limit {
            self.fold_old();
        }
    }

    /// Folds entries of the older half of each lane until all take seven eighths of what they may, so that it is not
    /// done for each block.
    fn fold_old(&self) {
        let goal = self.limit / 8 * 7;
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
        change(&self.filter_bytes, info.filter.len_bytes());
    }

    /// Lets the filters of the older half of each lane go.
    fn drop_old_filters(&self) {
        for lane in &self.lanes {
            let mut blocks = lane.write();
            let half = blocks.len() / 2;
            for block in &mut blocks[..half] {
                if block.filter.len_bytes() > 0 {
                    self.memory.fetch_sub(block.filter.len_bytes(), Ordering::Relaxed);
                    self.filter_bytes.fetch_sub(block.filter.len_bytes(), Ordering::Relaxed);
                    let mut without = BlockInfo::clone(block);
                    without.filter = Filter::default();
                    *block = Arc::new(without);
                }
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

    fn info(first_seq: u64, time: i64) -> BlockInfo {
        let id = BlockId { partition: 0, class: 0, first_seq };
        BlockInfo { min_time: time, max_time: time, events: 1, ..BlockInfo::unknown(id) }
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
