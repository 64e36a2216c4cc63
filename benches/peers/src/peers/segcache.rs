//! segcache: a cache in segments, the nearest relative among those that only keep ids.

use std::time::Duration;

use segcache::{Policy, Segcache, SegcacheError, Value};

use crate::peer::{Peer, Record, Room};

const SEGMENT: usize = 1 << 20;
/// Bytes of an item beside its value: an 8-byte key, a header, rounding up.
const ITEM: usize = 32;

/// A heap that holds everything and no eviction, or a heap of the cap that drops its oldest segment. Segments of 1 MiB
/// (the default) and a hash table that is at most half full: a key has two buckets of eight, filled in order, so that
/// at three quarters one insert in a hundred fails, and at half about one in ten thousand. No time to live, so all
/// items share one chain of segments.
pub(crate) struct Seg(Segcache);

impl Peer for Seg {
    type Guard<'p> = ();

    fn open(room: &Room) -> Self {
        let all = room.events * (room.payload + ITEM) + 16 * SEGMENT;
        let heap = room.cap.map_or(all, |cap| cap as usize).next_multiple_of(SEGMENT);
        let power = (room.events * 2).next_power_of_two().trailing_zeros().max(7);
        let cache = Segcache::builder()
            .heap_size(heap)
            .segment_size(SEGMENT as i32)
            .hash_power(power as u8)
            .eviction(if room.cap.is_some() { Policy::Fifo } else { Policy::None })
            .build();
        Self(cache.expect("there must be memory for the cache"))
    }

    fn append(&self, record: &Record<'_>) {
        let key = record.id.to_be_bytes();
        match self.0.insert(&key, record.payload, None, Duration::ZERO) {
            // Both buckets of the key are full. A cache may lose what it was given; how much is checked.
            Ok(()) | Err(SegcacheError::HashTableInsertEx) => {}
            Err(error) => panic!("there is room: {error}"),
        }
    }

    fn guard(&self) {}

    fn get(&self, (): &(), id: u64, mut look: impl FnMut(&[u8])) -> bool {
        let Some(item) = self.0.get(&id.to_be_bytes()) else { return false };
        match item.value() {
            Value::Bytes(bytes) => look(bytes),
            // Stored as bytes, so never a number.
            Value::U64(_) => return false,
        }
        true
    }
}
