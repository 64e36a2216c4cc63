//! What a service's author writes: a concurrent map by id, a deque for each stream, a tree by time, and one `Arc` of
//! the event in all three, so that no reader needs a second look-up.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::peer::{Peer, Record, Room};

/// An event as such a service has it.
pub(crate) struct Stored {
    pub(crate) id: u64,
    pub(crate) time: i64,
    pub(crate) stream: u32,
    pub(crate) kind: u8,
    pub(crate) payload: Box<[u8]>,
}

impl From<&Record<'_>> for Stored {
    fn from(record: &Record<'_>) -> Self {
        let Record { id, stream, time, kind, payload } = *record;
        Self { id, time, stream, kind, payload: payload.into() }
    }
}

/// The newest events of a stream are at the back.
pub(crate) type Deque = VecDeque<Arc<Stored>>;

/// A concurrent map from ids to events.
pub(crate) trait Ids: Sync + 'static {
    /// What protects what was found while it is looked at.
    type Guard<'m>
    where
        Self: 'm;

    /// With room for that many, or as it grows by itself where `None`.
    fn new(events: Option<usize>) -> Self;
    fn guard(&self) -> Self::Guard<'_>;
    fn insert(&self, event: Arc<Stored>);
    fn remove(&self, id: u64);
    fn look(&self, guard: &Self::Guard<'_>, id: u64, look: impl FnMut(&[u8])) -> bool;
}

/// A concurrent map from streams to their events.
pub(crate) trait Streams: Sync + 'static {
    fn new() -> Self;
    fn change(&self, stream: u32, change: impl FnOnce(&mut Deque));
    fn read(&self, stream: u32, read: impl FnOnce(&Deque));
}

/// A tree by time, and by id where times are equal.
pub(crate) trait Times: Sync + 'static {
    fn new() -> Self;
    fn insert(&self, event: Arc<Stored>);
    fn pop_first(&self) -> Option<Arc<Stored>>;
    fn range(&self, times: Range<i64>, see: impl FnMut(&Stored));
}

/// The three together. With a cap, each append drops the oldest events by hand until the payloads are within it: the
/// author counts what is known, which is the payload and the `Stored` round it.
pub(crate) struct Rolled<I, S, T> {
    ids: I,
    streams: S,
    times: T,
    cap: Option<u64>,
    bytes: AtomicU64,
}

impl<I: Ids, S: Streams, T: Times> Rolled<I, S, T> {
    fn drop_oldest(&self) {
        let Some(oldest) = self.times.pop_first() else { return };
        self.bytes.fetch_sub(weight(&oldest), Ordering::Relaxed);
        self.ids.remove(oldest.id);
        self.streams.change(oldest.stream, |deque| {
            // Nearly always the front; two writers may have come in another order than their times.
            if let Some(at) = deque.iter().position(|event| event.id == oldest.id) {
                deque.remove(at);
            }
        });
    }
}

fn weight(event: &Stored) -> u64 {
    (size_of::<Stored>() + event.payload.len()) as u64
}

impl<I: Ids, S: Streams, T: Times> Peer for Rolled<I, S, T> {
    type Guard<'p>
        = I::Guard<'p>
    where
        Self: 'p;

    fn open(room: &Room) -> Self {
        // A service does not know how many events will come, but with a cap it can tell.
        let events = room.cap.map(|_| room.events);
        Self {
            ids: I::new(events),
            streams: S::new(),
            times: T::new(),
            cap: room.cap,
            bytes: AtomicU64::new(0),
        }
    }

    fn append(&self, record: &Record<'_>) {
        let event = Arc::new(Stored::from(record));
        if let Some(cap) = self.cap {
            let more = weight(&event);
            if self.bytes.fetch_add(more, Ordering::Relaxed) + more > cap {
                self.drop_oldest();
            }
        }
        self.ids.insert(event.clone());
        self.streams.change(record.stream, |deque| deque.push_back(event.clone()));
        self.times.insert(event);
    }

    fn guard(&self) -> Self::Guard<'_> {
        self.ids.guard()
    }

    fn get(&self, guard: &Self::Guard<'_>, id: u64, look: impl FnMut(&[u8])) -> bool {
        self.ids.look(guard, id, look)
    }

    fn newest(&self, _: &Self::Guard<'_>, stream: u32, count: usize, mut look: impl FnMut(&[u8])) {
        self.streams.read(stream, |deque| {
            deque.iter().rev().take(count).for_each(|event| look(&event.payload));
        });
    }

    fn scan(&self, _: &Self::Guard<'_>, times: Range<i64>, kind: Option<u8>, mut look: impl FnMut(&[u8])) {
        self.times.range(times, |event| {
            if kind.is_none_or(|kind| event.kind == kind) {
                look(&event.payload);
            }
        });
    }
}
