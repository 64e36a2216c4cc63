//! What is known of one cold block without reading it, and how that is stored beside the block.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::event::record::RecordHeader;
use crate::tiers::block::{Block, BlockId, BlockWriter};
use crate::tiers::filter::{Exact, Filter};

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
    /// Which ids it holds, unless the filter says that too.
    ids: Option<Exact>,
    /// The streams; without `ids` also the ids.
    filter: Filter,
}

/// How much of what is known of its events an entry keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Ids,
    Nothing,
}

const FIXED: usize = 8 * 12 + 4;

impl BlockInfo {
    pub(crate) fn of(writer: &BlockWriter, newest_ms: i64, stored_bytes: usize) -> Self {
        let end_seq = writer.id().first_seq + writer.pages();
        let (rows, raw) = (writer.rows(), writer.raw_bytes() as u64);
        Self::of_streams(writer.id(), end_seq, rows, writer.streams(), newest_ms, raw, stored_bytes)
    }

    /// The entry of a block whose own is damaged. Its newest event stands for its newest page.
    pub(crate) fn of_block(block: &Block, stored_bytes: usize) -> Self {
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
            ids: None,
            filter: Filter::default(),
            ..Self::of_rows(id, id.first_seq.saturating_add(1), &[], i64::MAX, 0, 0)
        }
    }

    pub(crate) fn of_rows(
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
        Self::of_streams(id, end_seq, rows, &streams, newest_ms, raw_bytes, stored_bytes)
    }

    fn of_streams(
        id: BlockId,
        end_seq: u64,
        rows: &[RecordHeader],
        streams: &[u64],
        newest_ms: i64,
        raw_bytes: u64,
        stored_bytes: usize,
    ) -> Self {
        let mut kinds = [0u64; 4];
        for row in rows {
            kinds[usize::from(row.kind >> 6)] |= 1 << (row.kind & 63);
        }
        let times = || rows.iter().map(|row| row.timestamp);
        let ids = || rows.iter().map(|row| row.id);
        let (min_id, max_id) = (ids().min().unwrap_or(u64::MAX), ids().max().unwrap_or(0));
        let exact = Exact::new(min_id, max_id, ids());
        let filter = match exact {
            Some(_) => Filter::of_streams(streams.iter().copied()),
            None => Filter::new(ids(), streams.iter().copied()),
        };
        Self {
            id,
            end_seq,
            blocks: 1,
            events: rows.len() as u64,
            min_time: times().min().unwrap_or(i64::MAX),
            max_time: times().max().unwrap_or(i64::MIN),
            min_id,
            max_id,
            newest_ms,
            raw_bytes,
            stored_bytes: stored_bytes as u64,
            kinds,
            may_be_gone: false,
            has_gaps: false,
            ids: exact,
            filter,
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
        if let Some(ids) = &self.ids {
            out.extend_from_slice(&ids.to_bytes());
        }
        out.extend_from_slice(&self.filter.to_bytes());
        let crc = crc32fast::hash(&out);
        // An esker that does not know of exact ids takes the entry for damaged, and asks the block itself.
        let crc = if self.ids.is_some() { !crc } else { crc };
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(id: BlockId, bytes: &[u8]) -> Result<Self> {
        let damaged =
            || Error::corrupt(format!("the directory entry of cold block {id:?} fails its checksum"));
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
        let (crc, found) = (u32::from_le_bytes(*crc), crc32fast::hash(body));
        if body.len() < FIXED || (crc != found && crc != !found) {
            return Err(damaged());
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&body[at * 8..at * 8 + 8]);
            u64::from_le_bytes(word)
        };
        let mut events = [0; 4];
        events.copy_from_slice(&body[FIXED - 4..FIXED]);
        let (min_id, max_id) = (word(3), word(4));
        let (ids, filter) = match crc == found {
            true => (None, &body[FIXED..]),
            false => {
                let (ids, rest) = Exact::split(min_id, max_id, &body[FIXED..]).ok_or_else(damaged)?;
                (Some(ids), rest)
            }
        };
        Ok(Self {
            id,
            end_seq: word(0),
            blocks: 1,
            events: u64::from(u32::from_le_bytes(events)),
            min_time: word(1) as i64,
            max_time: word(2) as i64,
            min_id,
            max_id,
            newest_ms: word(5) as i64,
            raw_bytes: word(6),
            stored_bytes: word(7),
            kinds: [word(8), word(9), word(10), word(11)],
            may_be_gone: false,
            has_gaps: false,
            ids,
            filter: Filter::from_bytes(filter),
        })
    }

    pub(crate) fn may_hold_id(&self, id: u64) -> bool {
        (self.min_id..=self.max_id).contains(&id)
            && match &self.ids {
                Some(ids) => ids.has(id - self.min_id),
                None => self.filter.may_hold_id(id),
            }
    }

    pub(crate) fn may_hold_stream(&self, stream: u64) -> bool {
        self.filter.may_hold_stream(stream)
    }

    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>() + 32 + self.filters_bytes()
    }

    /// What of it can be let go.
    pub(crate) fn filters_bytes(&self) -> usize {
        self.filter.len_bytes() + self.ids.as_ref().map_or(0, Exact::len_bytes)
    }

    /// The same entry with less known of its events; `None` if it has no more than that.
    pub(crate) fn thinned(&self, keep: Keep) -> Option<Self> {
        let ids = self.ids.clone().filter(|_| keep == Keep::Ids);
        // Without them the filter is all there is of the ids.
        let is_more = match keep {
            Keep::Ids => ids.is_some() && self.filter.len_bytes() > 0,
            Keep::Nothing => self.filters_bytes() > 0,
        };
        is_more.then(|| Self { ids, filter: Filter::default(), ..self.clone() })
    }

    /// Whether it stands for more than one block.
    pub(crate) fn is_folded(&self) -> bool {
        self.blocks > 1
    }

    /// Bounds that hold for another one, too; what either counts is left to the caller.
    pub(crate) fn widen(&mut self, other: &Self) {
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
        (self.ids, self.filter) = (None, Filter::default());
    }

    /// One entry for several that follow each other.
    pub(crate) fn fold(run: &[Arc<Self>]) -> Option<Self> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_lie_apart_are_in_the_filter_and_older_entries_are_read() {
        let row = |id: u64| RecordHeader::new(0, id, 0, 0, 0, crate::ids::Class::new(0), false, 5);
        let id = BlockId { partition: 0, class: 0, first_seq: 3 };
        let of = |ids: &[u64]| {
            let rows: Vec<RecordHeader> = ids.iter().map(|id| row(*id)).collect();
            let whole = BlockInfo::of_rows(id, 4, &rows, 0, 0, 0);
            let again = BlockInfo::decode(id, &whole.encode()).unwrap();
            assert_eq!(format!("{whole:?}"), format!("{again:?}"));
            assert!(again.may_hold_stream(5) && ids.iter().all(|id| again.may_hold_id(*id)));
            whole
        };
        assert!(of(&[1, 1 << 60]).ids.is_none());
        let mut close = of(&[7, 9, 30]);
        assert!(close.ids.is_some() && !close.may_hold_id(8) && !close.may_hold_stream(6));
        // As it was written before ids were told apart.
        close.ids = None;
        close.filter = Filter::new([7u64, 9, 30].into_iter(), [5].into_iter());
        let before = BlockInfo::decode(id, &close.encode()).unwrap();
        assert!(before.ids.is_none() && before.may_hold_id(9) && before.may_hold_stream(5));
        // Whatever is altered is seen.
        let bytes = of(&[7, 9, 30]).encode();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(BlockInfo::decode(id, &bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_entry_lets_go_of_streams_first_and_of_ids_then() {
        let rows =
            [7u64, 9, 30].map(|id| RecordHeader::new(0, id, 0, 0, 0, crate::ids::Class::new(0), false, 5));
        let whole = BlockInfo::of_rows(BlockId { partition: 0, class: 0, first_seq: 3 }, 4, &rows, 0, 0, 0);
        let ids = whole.thinned(Keep::Ids).unwrap();
        assert!(ids.may_hold_stream(6) && ids.may_hold_id(9) && !ids.may_hold_id(8));
        assert!(ids.thinned(Keep::Ids).is_none(), "there is no more to let go");
        let nothing = ids.thinned(Keep::Nothing).unwrap();
        assert!(nothing.may_hold_stream(6) && nothing.may_hold_id(8) && nothing.filters_bytes() == 0);
        assert!(nothing.thinned(Keep::Nothing).is_none());
        assert!(whole.filters_bytes() > ids.filters_bytes() && ids.filters_bytes() > 0);
    }
}
