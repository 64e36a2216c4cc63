//! The maps that a hand-rolled store is made from: DashMap with a locked `BTreeMap`, papaya with the same, and scc
//! with its own tree.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::rolled::{Deque, Ids, Rolled, Stored, Streams, Times};

/// DashMap by id and by stream, default hasher and shards; a `BTreeMap` by time behind a lock.
pub(crate) type HandRolled = Rolled<DashIds, DashStreams, LockedTree>;
/// papaya by id and by stream (each deque behind a lock of its own, since papaya's values are immutable); the same tree.
pub(crate) type Papaya = Rolled<PapayaIds, PapayaStreams, LockedTree>;
/// scc's `HashMap` by id and by stream, and its `TreeIndex` by time.
pub(crate) type Scc = Rolled<SccIds, SccStreams, SccTree>;

pub(crate) struct DashIds(dashmap::DashMap<u64, Arc<Stored>>);

impl Ids for DashIds {
    type Guard<'m> = ();

    fn new(events: Option<usize>) -> Self {
        Self(events.map_or_else(dashmap::DashMap::new, dashmap::DashMap::with_capacity))
    }

    fn guard(&self) {}

    fn insert(&self, event: Arc<Stored>) {
        self.0.insert(event.id, event);
    }

    fn remove(&self, id: u64) {
        self.0.remove(&id);
    }

    fn look(&self, (): &(), id: u64, mut look: impl FnMut(&[u8])) -> bool {
        self.0.get(&id).map(|event| look(&event.payload)).is_some()
    }
}

pub(crate) struct DashStreams(dashmap::DashMap<u32, Deque>);

impl Streams for DashStreams {
    fn new() -> Self {
        Self(dashmap::DashMap::new())
    }

    fn change(&self, stream: u32, change: impl FnOnce(&mut Deque)) {
        change(&mut self.0.entry(stream).or_default());
    }

    fn read(&self, stream: u32, read: impl FnOnce(&Deque)) {
        if let Some(deque) = self.0.get(&stream) {
            read(&deque);
        }
    }
}

pub(crate) struct PapayaIds(papaya::HashMap<u64, Arc<Stored>>);

impl Ids for PapayaIds {
    type Guard<'m> = papaya::LocalGuard<'m>;

    fn new(events: Option<usize>) -> Self {
        Self(events.map_or_else(papaya::HashMap::new, papaya::HashMap::with_capacity))
    }

    fn guard(&self) -> Self::Guard<'_> {
        self.0.guard()
    }

    fn insert(&self, event: Arc<Stored>) {
        self.0.pin().insert(event.id, event);
    }

    fn remove(&self, id: u64) {
        self.0.pin().remove(&id);
    }

    fn look(&self, guard: &Self::Guard<'_>, id: u64, mut look: impl FnMut(&[u8])) -> bool {
        self.0.get(&id, guard).map(|event| look(&event.payload)).is_some()
    }
}

pub(crate) struct PapayaStreams(papaya::HashMap<u32, Mutex<Deque>>);

impl Streams for PapayaStreams {
    fn new() -> Self {
        Self(papaya::HashMap::new())
    }

    fn change(&self, stream: u32, change: impl FnOnce(&mut Deque)) {
        change(&mut self.0.pin().get_or_insert_with(stream, Mutex::default).lock());
    }

    fn read(&self, stream: u32, read: impl FnOnce(&Deque)) {
        if let Some(deque) = self.0.pin().get(&stream) {
            read(&deque.lock());
        }
    }
}

pub(crate) struct SccIds(scc::HashMap<u64, Arc<Stored>>);

impl Ids for SccIds {
    type Guard<'m> = ();

    fn new(events: Option<usize>) -> Self {
        Self(events.map_or_else(scc::HashMap::new, scc::HashMap::with_capacity))
    }

    fn guard(&self) {}

    fn insert(&self, event: Arc<Stored>) {
        self.0.upsert_sync(event.id, event);
    }

    fn remove(&self, id: u64) {
        self.0.remove_sync(&id);
    }

    fn look(&self, (): &(), id: u64, mut look: impl FnMut(&[u8])) -> bool {
        self.0.read_sync(&id, |_, event| look(&event.payload)).is_some()
    }
}

pub(crate) struct SccStreams(scc::HashMap<u32, Deque>);

impl Streams for SccStreams {
    fn new() -> Self {
        Self(scc::HashMap::new())
    }

    fn change(&self, stream: u32, change: impl FnOnce(&mut Deque)) {
        change(self.0.entry_sync(stream).or_default().get_mut());
    }

    fn read(&self, stream: u32, read: impl FnOnce(&Deque)) {
        self.0.read_sync(&stream, |_, deque| read(deque));
    }
}

pub(crate) struct LockedTree(RwLock<BTreeMap<(i64, u64), Arc<Stored>>>);

impl Times for LockedTree {
    fn new() -> Self {
        Self(RwLock::default())
    }

    fn insert(&self, event: Arc<Stored>) {
        self.0.write().insert((event.time, event.id), event);
    }

    fn pop_first(&self) -> Option<Arc<Stored>> {
        self.0.write().pop_first().map(|(_, event)| event)
    }

    fn range(&self, times: Range<i64>, mut see: impl FnMut(&Stored)) {
        for (_, event) in self.0.read().range((times.start, 0)..(times.end, 0)) {
            see(event);
        }
    }
}

pub(crate) struct SccTree(scc::TreeIndex<(i64, u64), Arc<Stored>>);

impl Times for SccTree {
    fn new() -> Self {
        Self(scc::TreeIndex::new())
    }

    fn insert(&self, event: Arc<Stored>) {
        self.0.upsert_sync((event.time, event.id), event);
    }

    fn pop_first(&self) -> Option<Arc<Stored>> {
        loop {
            let guard = scc::Guard::new();
            let (key, event) = self.0.iter(&guard).next()?;
            let event = event.clone();
            // Another writer may have been faster.
            if self.0.remove_sync(key) {
                return Some(event);
            }
        }
    }

    fn range(&self, times: Range<i64>, mut see: impl FnMut(&Stored)) {
        let guard = scc::Guard::new();
        for (_, event) in self.0.range((times.start, 0)..(times.end, 0), &guard) {
            see(event);
        }
    }
}
