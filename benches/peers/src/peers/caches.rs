//! Caches that are asked by id and know nothing else: moka, quick_cache and foyer.
//!
//! All three hold `Arc<[u8]>`, what their documentation advises for values that are expensive to clone, and weigh an
//! entry by the bytes of its payload, which is what their users can count. So their memory exceeds a cap by what each
//! keeps beside the payload; the table shows it.

use std::sync::Arc;

use crate::peer::{Peer, Record, Room};

/// What may be stored: the cap, or twice what will come, so that nothing is evicted however unevenly the shards fill.
fn capacity(room: &Room) -> u64 {
    room.cap.unwrap_or(room.payload_bytes() * 2)
}

/// moka's `sync` cache as its README has it: TinyLFU, a weigher, no time limits.
pub(crate) struct Moka(moka::sync::Cache<u64, Arc<[u8]>>);

impl Peer for Moka {
    type Guard<'p> = ();

    fn open(room: &Room) -> Self {
        let weigh = |_: &u64, value: &Arc<[u8]>| u32::try_from(value.len()).unwrap_or(u32::MAX);
        Self(moka::sync::Cache::builder().max_capacity(capacity(room)).weigher(weigh).build())
    }

    fn append(&self, record: &Record<'_>) {
        self.0.insert(record.id, record.payload.into());
    }

    fn guard(&self) {}

    fn get(&self, (): &(), id: u64, mut look: impl FnMut(&[u8])) -> bool {
        self.0.get(&id).map(|value| look(&value)).is_some()
    }

    fn settle(&self) {
        self.0.run_pending_tasks();
    }
}

/// Weighs by payload.
#[derive(Clone)]
pub(crate) struct ByPayload;

impl quick_cache::Weighter<u64, Arc<[u8]>> for ByPayload {
    fn weight(&self, _id: &u64, value: &Arc<[u8]>) -> u64 {
        value.len() as u64
    }
}

/// quick_cache's `sync` cache, told how many items to expect, as `with_weighter` asks.
pub(crate) struct Quick(quick_cache::sync::Cache<u64, Arc<[u8]>, ByPayload>);

impl Peer for Quick {
    type Guard<'p> = ();

    fn open(room: &Room) -> Self {
        let items = capacity(room) / room.payload as u64;
        Self(quick_cache::sync::Cache::with_weighter(items as usize, capacity(room), ByPayload))
    }

    fn append(&self, record: &Record<'_>) {
        self.0.insert(record.id, record.payload.into());
    }

    fn guard(&self) {}

    fn get(&self, (): &(), id: u64, mut look: impl FnMut(&[u8])) -> bool {
        self.0.get(&id).map(|value| look(&value)).is_some()
    }
}

/// foyer's in-memory cache with its default policy (LRU) and its default 8 shards.
pub(crate) struct Foyer(foyer::Cache<u64, Arc<[u8]>>);

impl Peer for Foyer {
    type Guard<'p> = ();

    fn open(room: &Room) -> Self {
        let builder = foyer::CacheBuilder::new(capacity(room) as usize);
        Self(builder.with_weighter(|_, value: &Arc<[u8]>| value.len()).build())
    }

    fn append(&self, record: &Record<'_>) {
        self.0.insert(record.id, record.payload.into());
    }

    fn guard(&self) {}

    fn get(&self, (): &(), id: u64, mut look: impl FnMut(&[u8])) -> bool {
        self.0.get(&id).map(|entry| look(entry.value())).is_some()
    }
}
