//! A bounded queue between whoever has events and whoever appends them.
//!
//! Two buffers take turns: producers fill one while the events of the other are appended. So events are copied once on
//! their way, nothing is allocated for each, and what a full queue takes is known beforehand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::clock::{self, Deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Metadata, split_body};
use crate::pressure::{BackPressure, PressureReason};
use crate::store::Store;

/// Events that are appended in one call, so that producers get room again soon.
const DRAIN: usize = 1024;

/// A bounded queue in front of a store; see [`Store::hand_over`].
///
/// Any number of threads [`push`](Self::push), which copies the event and never waits; when the queue is full, it says
/// so, and the source pauses. One thread at a time [`drain`](Self::drain)s, which appends what is there in batches.
/// Events that find no room in the store stay in the queue; nothing is dropped. What is in the queue is not in the store
/// yet, and ends with the process.
///
/// ```
/// use std::time::Duration;
///
/// use esker::{Config, Event, Store};
///
/// let store = Store::open(Config::builder().memory("16MiB").build()?)?;
/// let queue = store.hand_over(10_000, 4 << 20)?;
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         for id in 0..100 {
///             let event = Event::new(esker::Stream::from(1u32), id, 0, 0).payload(b"attach");
///             queue.push(&event).expect("the queue is not full");
///         }
///         queue.close();
///     });
///     while !queue.drain(Duration::from_millis(100))?.ended {}
///     Ok::<(), esker::Error>(())
/// })?;
/// // The source may commit its offsets up to here.
/// assert_eq!(queue.settled(), 100);
/// # Ok::<(), esker::Error>(())
/// ```
pub struct HandOver {
    store: Store,
    /// The most events and bytes of one of the two buffers.
    limit: (usize, usize),
    coming: Mutex<Coming>,
    /// Rung when an event came, or none will come.
    filled: Condvar,
    /// Rung when there is room again.
    emptied: Condvar,
    /// The buffer that is being appended; whoever holds it drains.
    going: Mutex<Going>,
    settled: AtomicU64,
}

/// What a [`drain`](HandOver::drain) did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Drained {
    /// Events that the store has now.
    pub stored: usize,
    /// Events that it had already.
    pub duplicates: usize,
    /// Events that went elsewhere, as their class says for want of room: dropped or dead-lettered.
    pub set_aside: usize,
    /// Events that the store will never take: their number in the order of pushing, and why. They have left the queue.
    pub refused: Vec<(u64, Error)>,
    /// Events that found no room, or a store that was closed meanwhile, and stay in the queue for the next drain.
    pub left: usize,
    /// Why they stay.
    pub pressure: Option<Error>,
    /// Whether the queue is closed and empty.
    pub ended: bool,
}

impl Drained {
    /// Whether no event got an outcome.
    fn is_empty(&self) -> bool {
        self.stored + self.duplicates + self.set_aside + self.refused.len() == 0
    }
}

struct Coming {
    buffer: Buffer,
    /// The number of the next event.
    next: u64,
    closed: bool,
    /// When a buffer was emptied last, and how long that one had taken: how soon there will be room again.
    emptied: Instant,
    took: Duration,
}

#[derive(Default)]
struct Going {
    buffer: Buffer,
    /// The number of its first event.
    first: u64,
    /// Places of the events that have no outcome yet, rising.
    left: Vec<u32>,
}

#[derive(Default)]
struct Buffer {
    events: Vec<Queued>,
    bytes: Vec<u8>,
}

struct Queued {
    event: Event<'static>,
    /// Where its body begins, and whether there are pairs in it.
    at: usize,
    len: usize,
    has_metadata: bool,
}

impl Buffer {
    fn push(&mut self, event: &Event<'_>, len: usize) {
        let at = self.bytes.len();
        self.bytes.resize(at + len, 0);
        event.metadata.write_body(event.payload, &mut self.bytes[at..]);
        let has_metadata = len != event.payload.len();
        self.events.push(Queued { event: event.bare(), at, len, has_metadata });
    }

    fn event(&self, at: u32) -> Event<'_> {
        let Queued { event, at, len, has_metadata } = &self.events[at as usize];
        let (pairs, payload) = split_body(&self.bytes[*at..at + len], *has_metadata);
        let event: Event<'_> = *event;
        let event = event.payload(payload);
        if *has_metadata { event.metadata(Metadata::Encoded(pairs)) } else { event }
    }

    fn clear(&mut self) {
        self.events.clear();
        self.bytes.clear();
    }
}

impl HandOver {
    pub(crate) fn new(store: Store, events: usize, bytes: usize) -> Result<Self> {
        let limit = (events / 2, bytes / 2);
        if limit.0 == 0 || limit.1 == 0 || limit.0 > u32::MAX as usize {
            let text =
                format!("a hand-over of {events} events and {bytes} bytes: at least 2 of both are needed");
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let coming = Coming {
            buffer: Buffer::default(),
            next: 0,
            closed: false,
            emptied: clock::now(),
            took: Duration::from_millis(1),
        };
        Ok(Self {
            store,
            limit,
            coming: Mutex::new(coming),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            going: Mutex::default(),
            settled: AtomicU64::new(0),
        })
    }

    /// Copies an event into the queue. Its number: the first is 0.
    ///
    /// # Errors
    /// [`MemoryPressure`](ErrorKind::MemoryPressure) when the queue is full ([`PressureReason::QueueFull`]);
    /// [`TooLarge`](ErrorKind::TooLarge) for an event that would not fit into an empty one; [`Closed`](ErrorKind::Closed).
    pub fn push(&self, event: &Event<'_>) -> Result<u64> {
        self.push_until(event, None)
    }

    /// The same, waiting up to `timeout` for room.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub fn push_timeout(&self, event: &Event<'_>, timeout: Duration) -> Result<u64> {
        self.push_until(event, Some(Deadline::after(timeout)))
    }

    fn push_until(&self, event: &Event<'_>, deadline: Option<Deadline>) -> Result<u64> {
        let len = event.metadata.body_len(event.payload);
        let len = usize::try_from(len).ok().filter(|len| *len <= self.limit.1).ok_or_else(|| {
            let text = format!("event {} has {len} bytes; the queue takes up to {}", event.id, self.limit.1);
            Error::new(ErrorKind::TooLarge, text)
        })?;
        let mut coming = self.coming.lock();
        loop {
            if coming.closed {
                return Err(Error::new(ErrorKind::Closed, "the hand-over queue is closed"));
            }
            let buffer = &coming.buffer;
            if buffer.events.len() < self.limit.0 && buffer.bytes.len() + len <= self.limit.1 {
                break;
            }
            match deadline {
                Some(deadline) if !deadline.has_passed() => {
                    self.emptied.wait_for(&mut coming, deadline.left(Duration::from_secs(1)));
                }
                _ => return Err(Error::pressure(self.full(&coming, event))),
            }
        }
        coming.buffer.push(event, len);
        coming.next += 1;
        let number = coming.next - 1;
        let was_empty = coming.buffer.events.len() == 1;
        drop(coming);
        if was_empty {
            self.filled.notify_one();
        }
        Ok(number)
    }

    fn full(&self, coming: &Coming, event: &Event<'_>) -> BackPressure {
        // The buffer before took so long; this one has been filling for a while.
        let waited = clock::now().saturating_duration_since(coming.emptied);
        let retry = coming.took.saturating_sub(waited).max(waited / 2);
        BackPressure {
            reason: PressureReason::QueueFull,
            region: None,
            class: event.class,
            level: self.store.pressure(),
            used_bytes: coming.buffer.bytes.len() as u64,
            limit_bytes: self.limit.1 as u64,
            retry_after: retry.clamp(Duration::from_millis(1), Duration::from_secs(1)),
            stall: None,
        }
    }

    /// Appends what is in the queue, as far as there is room in the store, waiting up to `wait` for a first event.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) when the store is closed; what is in the queue stays there. If it is closed while this
    /// runs, what has an outcome is told first ([`Drained::pressure`] says why the rest has none), and the next call fails.
    pub fn drain(&self, wait: Duration) -> Result<Drained> {
        let mut going = self.going.lock();
        let mut drained = Drained::default();
        if going.left.is_empty() {
            drained.ended = self.take_turn(&mut going, wait);
        }
        let mut begin = 0;
        while begin < going.left.len() {
            let end = going.left.len().min(begin + DRAIN);
            match self.append(&mut going, begin..end, &mut drained) {
                Ok(kept) => begin += kept,
                Err(error) if drained.is_empty() => return Err(error),
                // Those before have their outcome, and it is told; the next call meets the error again.
                Err(error) => drained.pressure = Some(error),
            }
            if drained.pressure.is_some() {
                break;
            }
        }
        drained.left = going.left.len();
        drained.ended |= going.left.is_empty() && self.is_ended();
        Ok(drained)
    }

    /// Appends some of what is left. How many of them are still left.
    fn append(
        &self,
        going: &mut Going,
        range: std::ops::Range<usize>,
        drained: &mut Drained,
    ) -> Result<usize> {
        let Going { buffer, first, left } = going;
        let events: Vec<Event<'_>> = left[range.clone()].iter().map(|at| buffer.event(*at)).collect();
        let batch = self.store.append_batch(&events)?;
        drop(events);
        drained.stored += batch.stored;
        drained.duplicates += batch.duplicates;
        drained.set_aside += batch.set_aside.len();
        let mut kept = Vec::new();
        for (at, error) in batch.refused {
            let place = left[range.start + at];
            // What is wrong with the event stays wrong. All else is tried again: no room, neither in the store nor among the
            // dead letters, and the faults of the caller's own code.
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::TooLarge | ErrorKind::OutsideWindow
            ) {
                drained.refused.push((*first + u64::from(place), error));
            } else {
                kept.push(place);
                drained.pressure.get_or_insert(error);
            }
        }
        let count = kept.len();
        left.splice(range, kept);
        let settled = *first + left.first().map_or(buffer.events.len() as u64, |place| u64::from(*place));
        self.settled.fetch_max(settled, Ordering::Release);
        Ok(count)
    }

    /// Swaps the buffers: what came is appended now. Whether nothing came and nothing will.
    fn take_turn(&self, going: &mut Going, wait: Duration) -> bool {
        let (mut coming, deadline) = (self.coming.lock(), Deadline::after(wait));
        while coming.buffer.events.is_empty() {
            if coming.closed || deadline.has_passed() {
                return coming.closed;
            }
            self.filled.wait_for(&mut coming, deadline.left(Duration::from_secs(1)));
        }
        going.buffer.clear();
        std::mem::swap(&mut going.buffer, &mut coming.buffer);
        let count = going.buffer.events.len() as u32;
        going.first = coming.next - u64::from(count);
        going.left.extend(0..count);
        let now = clock::now();
        coming.took = now.saturating_duration_since(coming.emptied);
        coming.emptied = now;
        drop(coming);
        self.emptied.notify_all();
        false
    }

    fn is_ended(&self) -> bool {
        let coming = self.coming.lock();
        coming.closed && coming.buffer.events.is_empty()
    }

    /// How many events, in the order of pushing, have an outcome without a gap: everything below this number is in the
    /// store, or was told by [`Drained`].
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// Refuses further events. Draining goes on until [`Drained::ended`].
    pub fn close(&self) {
        self.coming.lock().closed = true;
        self.filled.notify_all();
        self.emptied.notify_all();
    }
}

impl std::fmt::Debug for HandOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandOver").field("limit", &self.limit).finish_non_exhaustive()
    }
}
