//! What the store knows of each cold block without reading it.
//!
//! An entry costs about 150 bytes and its filter. When the entries take more than their share of the buffers, the
//! filters of the oldest blocks are let go: a read then looks into more blocks than it needs, and finds the same.

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

/// What is known of one block.
#[derive(Clone, Debug)]
pub(crate) struct BlockInfo {
    pub(crate) id: BlockId,
    /// One after the last page of the block.
    pub(crate) end_seq: u64,
    pub(crate) events: u32,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
    pub(crate) min_id: u64,
    pub(crate) max_id: u64,
    /// The time that the age of its newest page is counted from.
    pub(crate) newest_ms: i64,
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) kinds: [u64; 4],
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
    fn unknown(id: BlockId) -> Self {
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
            events: rows.len() as u32,
            min_time: times().min().unwrap_or(i64::MAX),
            max_time: times().max().unwrap_or(i64::MIN),
            min_id: ids().min().unwrap_or(u64::MAX),
            max_id: ids().max().unwrap_or(0),
            newest_ms,
            raw_bytes,
            stored_bytes: stored_bytes as u64,
            kinds,
            filter: Filter::new(rows.iter().map(|row| row.id), streams.into_iter()),
        }
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
        out.extend_from_slice(&self.events.to_le_bytes());
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
            events: u32::from_le_bytes(events),
            min_time: word(1) as i64,
            max_time: word(2) as i64,
            min_id: word(3),
            max_id: word(4),
            newest_ms: word(5) as i64,
            raw_bytes: word(6),
            stored_bytes: word(7),
            kinds: [word(8), word(9), word(10), word(11)],
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

    /// The first page number after the blocks of a lane.
    pub(crate) fn end_seq(&self, lane: LaneId) -> u64 {
        self.lane(lane).and_then(|blocks| blocks.read().last().map(|block| block.end_seq)).unwrap_or(0)
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
        change(&self.totals.blocks, 1);
        change(&self.totals.events, u64::from(info.events));
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
    /// takes, oldest first. What is in this store's memory says nothing of those.
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

    /// The block of a lane that holds a page.
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
