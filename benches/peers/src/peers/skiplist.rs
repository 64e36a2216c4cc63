//! crossbeam's skip list, three times over: by id, by stream and id, by time and id.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_skiplist::SkipMap;

use super::rolled::Stored;
use crate::peer::{Peer, Record, Room};

/// Three ordered maps of one `Arc`, lock-free all of them; there is nothing to set. With a cap, each append drops the
/// oldest events by hand.
pub(crate) struct SkipLists {
    ids: SkipMap<u64, Arc<Stored>>,
    streams: SkipMap<(u32, u64), Arc<Stored>>,
    times: SkipMap<(i64, u64), Arc<Stored>>,
    cap: Option<u64>,
    bytes: AtomicU64,
}

fn weight(event: &Stored) -> u64 {
    (size_of::<Stored>() + event.payload.len()) as u64
}

impl Peer for SkipLists {
    type Guard<'p> = ();

    fn open(room: &Room) -> Self {
        let (ids, streams, times) = (SkipMap::new(), SkipMap::new(), SkipMap::new());
        Self { ids, streams, times, cap: room.cap, bytes: AtomicU64::new(0) }
    }

    fn append(&self, record: &Record<'_>) {
        let event = Arc::new(Stored::from(record));
        if let Some(cap) = self.cap {
            let more = weight(&event);
            if self.bytes.fetch_add(more, Ordering::Relaxed) + more > cap
                && let Some(oldest) = self.times.pop_front()
            {
                let oldest = oldest.value();
                self.bytes.fetch_sub(weight(oldest), Ordering::Relaxed);
                self.ids.remove(&oldest.id);
                self.streams.remove(&(oldest.stream, oldest.id));
            }
        }
        self.ids.insert(event.id, event.clone());
        self.streams.insert((event.stream, event.id), event.clone());
        self.times.insert((event.time, event.id), event);
    }

    fn guard(&self) {}

    fn get(&self, (): &(), id: u64, mut look: impl FnMut(&[u8])) -> bool {
        self.ids.get(&id).map(|entry| look(&entry.value().payload)).is_some()
    }

    fn newest(&self, (): &(), stream: u32, count: usize, mut look: impl FnMut(&[u8])) {
        let events = self.streams.range((stream, 0)..=(stream, u64::MAX));
        events.rev().take(count).for_each(|entry| look(&entry.value().payload));
    }

    fn scan(&self, (): &(), times: Range<i64>, kind: Option<u8>, mut look: impl FnMut(&[u8])) {
        for entry in self.times.range((times.start, 0)..(times.end, 0)) {
            let event = entry.value();
            if kind.is_none_or(|kind| event.kind == kind) {
                look(&event.payload);
            }
        }
    }
}
