//! Which partition of the tables each block is in.
//!
//! A block's key says nothing of when it was written, its partition does. Blocks of one opening go from partition to
//! partition in the order of their numbers, so it is enough to remember where a partition begins: some bytes for each
//! period of a lane, not for each block.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use crate::tiers::block::BlockId;

/// Partition and class.
pub(crate) type Lane = (u32, u8);

/// A period's number: the bucket of time above, and below it how often the bucket was full.
pub(crate) const SUB_BITS: u32 = 16;

#[derive(Default)]
pub(crate) struct Places {
    lanes: Mutex<HashMap<Lane, LanePlaces>>,
}

#[derive(Default)]
struct LanePlaces {
    /// First page → period, where the period differs from that of the block before.
    begins: BTreeMap<u64, i64>,
    /// The period that this store writes to, and the bytes written to it.
    open: Option<(i64, u64)>,
}

impl Places {
    /// The period for a block that is written now, in a bucket of time; it counts as full with so many bytes.
    pub(crate) fn assign(&self, id: BlockId, len: u64, bucket: i64, full: u64) -> i64 {
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry((id.partition, id.class)).or_default();
        let first = bucket << SUB_BITS;
        let (period, bytes) = match lane.open {
            // A clock that was set back goes on in the later bucket.
            Some((period, bytes)) if period >= first => {
                if bytes > 0 && bytes + len > full {
                    (period + 1, 0)
                } else {
                    (period, bytes)
                }
            }
            Some(_) => (first, 0),
            // Openings without the cluster share a range of numbers: each begins a partition of its own.
            None => (first + ((id.first_seq >> 20 & 63) << 10) as i64, 0),
        };
        lane.open = Some((period, bytes + len));
        lane.note(id.first_seq, period);
        period
    }

    /// Notes where a block is.
    pub(crate) fn note(&self, id: BlockId, period: i64) {
        self.lanes.lock().entry((id.partition, id.class)).or_default().note(id.first_seq, period);
    }

    /// The periods that blocks of a lane may be in, from one on and before a page, in their order.
    pub(crate) fn between(&self, first: BlockId, end: u64) -> Vec<i64> {
        let lanes = self.lanes.lock();
        let Some(lane) = lanes.get(&(first.partition, first.class)) else { return Vec::new() };
        let from =
            lane.begins.range(..=first.first_seq).next_back().map_or(first.first_seq, |(from, _)| *from);
        let mut periods: Vec<i64> = if from < end {
            lane.begins.range(from..end).map(|(_, period)| *period).collect()
        } else {
            Vec::new()
        };
        periods.sort_unstable();
        periods.dedup();
        periods
    }

    /// Where a block is, if it is anywhere.
    pub(crate) fn find(&self, id: BlockId) -> Option<i64> {
        let lanes = self.lanes.lock();
        let begins = &lanes.get(&(id.partition, id.class))?.begins;
        begins.range(..=id.first_seq).next_back().map(|(_, period)| *period)
    }
}

impl LanePlaces {
    fn note(&mut self, first_seq: u64, period: i64) {
        let before = self.begins.range(..=first_seq).next_back().map(|(first, period)| (*first, *period));
        if before.is_some_and(|(_, before)| before == period) {
            return;
        }
        // What follows went on in the period before, unless it is known to be elsewhere.
        let next = self.begins.range(first_seq + 1..).next().map(|(first, period)| (*first, *period));
        self.begins.insert(first_seq, period);
        if let Some((first, after)) = next
            && after == period
        {
            self.begins.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(first_seq: u64) -> BlockId {
        BlockId { partition: 1, class: 2, first_seq }
    }

    #[test]
    fn a_period_ends_with_its_time_and_when_it_is_full() {
        let places = Places::default();
        let periods: Vec<i64> = (0..6).map(|seq| places.assign(id(seq), 40, 7, 100)).collect();
        let first = 7 << SUB_BITS;
        assert_eq!(periods, [first, first, first + 1, first + 1, first + 2, first + 2]);
        assert_eq!(places.assign(id(6), 40, 8, 100), 8 << SUB_BITS);
        assert_eq!(places.assign(id(7), 1000, 7, 100), (8 << SUB_BITS) + 1, "time does not go back");
        for (seq, period) in periods.into_iter().enumerate() {
            assert_eq!(places.find(id(seq as u64)), Some(period));
        }
        assert_eq!(places.find(BlockId { partition: 9, class: 2, first_seq: 0 }), None);
    }

    #[test]
    fn places_are_found_whatever_order_they_were_noted_in() {
        let blocks: Vec<(u64, i64)> = (0..40).map(|at| (at * 3, at as i64 / 7)).collect();
        let places = Places::default();
        for (seq, period) in &blocks {
            places.note(id(*seq), *period);
        }
        assert_eq!(places.lanes.lock()[&(1, 2)].begins.len(), 6);
        for (seq, period) in &blocks {
            assert_eq!(places.find(id(*seq)), Some(*period));
        }
    }
}
