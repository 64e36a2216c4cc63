//! Builders for events that are put together piece by piece, used again and again.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::Deadline;
use crate::config::EVENT_MAX;
use crate::error::{Error, ErrorKind, Result};
use crate::event::body::{Metadata, put_varint, varint_len};
use crate::event::incoming::Event;
use crate::ids::{Class, Stream};
use crate::sys::memory::wipe;

/// How many builders a pool has, and how much of what they have grown to they keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct EventPoolConfig {
    /// The most builders that are in use at a time (default 64, at least 1).
    pub builders: usize,
    /// Bytes that a builder keeps for its next event (default 8 KiB). One that has grown beyond shrinks when it is given
    /// back.
    pub kept_bytes: usize,
    /// The most bytes of metadata and payload of an event (default 16 MiB, the most that any store takes).
    pub max_bytes: usize,
}

impl Default for EventPoolConfig {
    fn default() -> Self {
        Self { builders: 64, kept_bytes: 8 << 10, max_bytes: EVENT_MAX as usize }
    }
}

impl EventPoolConfig {
    /// The most builders that are in use at a time.
    #[must_use]
    pub fn builders(mut self, count: usize) -> Self {
        self.builders = count;
        self
    }

    /// Bytes that a builder keeps for its next event.
    #[must_use]
    pub fn kept_bytes(mut self, bytes: usize) -> Self {
        self.kept_bytes = bytes;
        self
    }

    /// The most bytes of metadata and payload of an event.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }
}

/// A bounded number of builders for events whose parts come one by one, so that nothing is allocated for most events.
///
/// A builder is given back when it is dropped, also by a panic. Whatever was written to it is overwritten with zeros then,
/// and wherever it had to move because it grew, so that no event can be seen in the next one, nor found in the process's
/// memory when it is over. (What the caller copies from is the caller's.) Clones share one pool.
///
/// The pool takes `builders` × `kept_bytes` at most while nobody uses it, and `builders` × `max_bytes` twice over at most
/// while everybody does; it is not part of a store's memory.
///
/// ```
/// use std::time::Duration;
/// use esker::{Config, EventPool, Store};
///
/// let store = Store::open(Config::builder().memory("16MiB").build()?)?;
/// let pool = EventPool::default();
///
/// let mut event = pool.acquire(Duration::from_secs(1))?;
/// event.stream(store.stream("device-7")?).id(store.next_id()).timestamp(0).kind(3);
/// event.push("cell", "A7")?;
/// for reading in [20.5f32, 20.7] {
///     event.extend(&reading.to_le_bytes())?;
/// }
/// store.append(&event.as_event()?)?;
/// # Ok::<(), esker::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct EventPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: EventPoolConfig,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Parts>,
    in_use: usize,
}

/// What an event is made of.
#[derive(Debug, Default)]
struct Parts {
    pairs: Scratch,
    payload: Scratch,
}

/// Bytes that are zero beyond those in use, as far as the allocation goes.
#[derive(Debug, Default)]
struct Scratch {
    bytes: Vec<u8>,
    used: usize,
}

impl Scratch {
    /// Room for so many more bytes.
    fn space(&mut self, more: usize) -> &mut [u8] {
        let end = self.used + more;
        if end > self.bytes.len() {
            let mut larger = vec![0; end.max(self.bytes.len() * 2).max(256)];
            larger[..self.used].copy_from_slice(self.in_use());
            wipe(&mut self.bytes[..self.used]);
            self.bytes = larger;
        }
        let space = &mut self.bytes[self.used..end];
        self.used = end;
        space
    }

    fn in_use(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// Forgets everything, and keeps so many bytes at most.
    fn clear(&mut self, keep: usize) {
        wipe(&mut self.bytes[..self.used]);
        self.used = 0;
        if self.bytes.len() > keep {
            self.bytes.truncate(keep);
            self.bytes.shrink_to_fit();
        }
    }
}

impl Parts {
    fn len(&self) -> usize {
        self.pairs.used + self.payload.used
    }

    fn clear(&mut self, keep: usize) {
        self.pairs.clear(keep / 2);
        self.payload.clear(keep / 2);
    }
}

impl Default for EventPool {
    fn default() -> Self {
        Self::new(EventPoolConfig::default())
    }
}

impl EventPool {
    /// A pool without builders yet: they are made as they are asked for.
    pub fn new(config: EventPoolConfig) -> Self {
        let config = EventPoolConfig { builders: config.builders.max(1), ..config };
        Self { shared: Arc::new(Shared { config, state: Mutex::default(), returned: Condvar::new() }) }
    }

    /// A builder, if one is free now.
    pub fn try_acquire(&self) -> Option<PooledEvent> {
        self.take(&mut self.shared.state.lock())
    }

    /// A builder, when one is free.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout) when none was given back in time.
    pub fn acquire(&self, timeout: Duration) -> Result<PooledEvent> {
        let deadline = Deadline::after(timeout);
        let mut state = self.shared.state.lock();
        loop {
            if let Some(builder) = self.take(&mut state) {
                return Ok(builder);
            }
            if deadline.has_passed() {
                let text = format!(
                    "all {} builders of the pool were in use for {} ms; give some back, or make the pool larger",
                    self.shared.config.builders,
                    timeout.as_millis()
                );
                return Err(Error::new(ErrorKind::Timeout, text));
            }
            self.shared.returned.wait_for(&mut state, deadline.left(timeout));
        }
    }

    fn take(&self, state: &mut State) -> Option<PooledEvent> {
        if state.in_use == self.shared.config.builders {
            return None;
        }
        state.in_use += 1;
        let parts = state.idle.pop().unwrap_or_default();
        Some(PooledEvent { pool: self.clone(), parts, head: Head::default() })
    }

    /// Builders that somebody has.
    pub fn in_use(&self) -> usize {
        self.shared.state.lock().in_use
    }

    /// Bytes that builders keep which nobody has.
    pub fn idle_bytes(&self) -> usize {
        let state = self.shared.state.lock();
        state.idle.iter().map(|parts| parts.pairs.bytes.capacity() + parts.payload.bytes.capacity()).sum()
    }
}

/// An event that is being put together. Made by [`EventPool::acquire`]; dropping it gives it back.
#[derive(Debug)]
#[must_use]
pub struct PooledEvent {
    pool: EventPool,
    parts: Parts,
    head: Head,
}

#[derive(Clone, Copy, Debug, Default)]
struct Head {
    stream: Option<Stream>,
    id: Option<u64>,
    timestamp: Option<i64>,
    kind: u8,
    flags: u16,
    class: Option<Class>,
    expiry: Expiry,
}

#[derive(Clone, Copy, Debug, Default)]
enum Expiry {
    #[default]
    Never,
    After(Duration),
    At(i64),
}

impl PooledEvent {
    /// Sets what the event belongs to. It must be set.
    pub fn stream(&mut self, stream: Stream) -> &mut Self {
        self.head.stream = Some(stream);
        self
    }

    /// Sets the id. It must be set.
    pub fn id(&mut self, id: u64) -> &mut Self {
        self.head.id = Some(id);
        self
    }

    /// Sets the timestamp, in milliseconds since the Unix epoch. It must be set.
    pub fn timestamp(&mut self, timestamp_ms: i64) -> &mut Self {
        self.head.timestamp = Some(timestamp_ms);
        self
    }

    /// Sets the caller's type of event (0 if it is not set).
    pub fn kind(&mut self, kind: u8) -> &mut Self {
        self.head.kind = kind;
        self
    }

    /// Sets the flags.
    pub fn flags(&mut self, flags: u16) -> &mut Self {
        self.head.flags = flags;
        self
    }

    /// Sets the class; without it, the event is of its stream's.
    pub fn class(&mut self, class: Class) -> &mut Self {
        self.head.class = Some(class);
        self
    }

    /// Has the event expire so long after its timestamp; see [`Event::ttl`].
    pub fn ttl(&mut self, ttl: Duration) -> &mut Self {
        self.head.expiry = Expiry::After(ttl);
        self
    }

    /// Has the event expire at that moment; see [`Event::expires_at`].
    pub fn expires_at(&mut self, at_ms: i64) -> &mut Self {
        self.head.expiry = Expiry::At(at_ms);
        self
    }

    /// Adds a key/value pair. Keys may repeat.
    ///
    /// # Errors
    /// [`TooLarge`](ErrorKind::TooLarge) when the event would have more bytes than the pool allows; nothing is added then.
    pub fn push(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<&mut Self> {
        let pair = [key.as_ref(), value.as_ref()];
        let len: usize = pair.iter().map(|part| varint_len(part.len() as u64) + part.len()).sum();
        self.check(len)?;
        let space = self.parts.pairs.space(len);
        let mut at = 0;
        for part in pair {
            at = put_varint(space, at, part.len() as u64);
            space[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Ok(self)
    }

    /// Adds bytes at the end of the payload.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub fn extend(&mut self, bytes: &[u8]) -> Result<&mut Self> {
        self.check(bytes.len())?;
        self.parts.payload.space(bytes.len()).copy_from_slice(bytes);
        Ok(self)
    }

    /// The payload so far.
    pub fn payload(&self) -> &[u8] {
        self.parts.payload.in_use()
    }

    /// Bytes of metadata and payload so far.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether there is neither metadata nor payload yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn check(&self, more: usize) -> Result<()> {
        let (len, max) = (self.len(), self.pool.shared.config.max_bytes);
        if more <= max.saturating_sub(len) {
            return Ok(());
        }
        let text = format!("an event of {len} bytes and {more} more is larger than the pool's {max}");
        Err(Error::new(ErrorKind::TooLarge, text))
    }

    /// Begins anew, with nothing set.
    pub fn clear(&mut self) {
        self.head = Head::default();
        self.parts.clear(usize::MAX);
    }

    /// The event, to be appended.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when stream, id or timestamp are not set.
    pub fn as_event(&self) -> Result<Event<'_>> {
        let Head { stream, id, timestamp, kind, flags, class, expiry } = self.head;
        let missing = |what: &str| {
            Error::new(
                ErrorKind::InvalidInput,
                format!("the event has no {what}; set it before the event is used"),
            )
        };
        let stream = stream.ok_or_else(|| missing("stream"))?;
        let id = id.ok_or_else(|| missing("id"))?;
        let timestamp = timestamp.ok_or_else(|| missing("timestamp"))?;
        let mut event = Event::new(stream, id, timestamp, kind).flags(flags).payload(self.payload());
        event.class = class;
        if self.parts.pairs.used > 0 {
            event = event.metadata(Metadata::Encoded(self.parts.pairs.in_use()));
        }
        Ok(match expiry {
            Expiry::Never => event,
            Expiry::After(ttl) => event.ttl(ttl),
            Expiry::At(at) => event.expires_at(at),
        })
    }
}

impl Drop for PooledEvent {
    fn drop(&mut self) {
        let shared = &self.pool.shared;
        let mut parts = std::mem::take(&mut self.parts);
        parts.clear(shared.config.kept_bytes);
        let mut state = shared.state.lock();
        state.in_use -= 1;
        state.idle.push(parts);
        drop(state);
        shared.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::MetadataIter;

    /// Every byte that idle builders have allocated.
    fn idle(pool: &EventPool) -> Vec<u8> {
        let state = pool.shared.state.lock();
        let scratches = state.idle.iter().flat_map(|parts| [&parts.pairs, &parts.payload]);
        scratches
            .flat_map(|scratch| {
                assert_eq!(scratch.bytes.len(), scratch.bytes.capacity(), "nothing is out of sight");
                scratch.bytes.clone()
            })
            .collect()
    }

    #[test]
    fn an_event_is_put_together_and_nothing_of_it_is_left() {
        let pool = EventPool::new(EventPoolConfig::default().builders(1));
        for round in 0..3u8 {
            let mut builder = pool.try_acquire().unwrap();
            assert!(builder.is_empty() && builder.as_event().is_err(), "it is as new");
            builder
                .stream(Stream::from(7u32))
                .id(9)
                .timestamp(-5)
                .kind(3)
                .flags(8)
                .ttl(Duration::from_millis(30));
            builder.push("key", "value").unwrap().push(b"raw", [round; 300]).unwrap();
            for _ in 0..100 {
                builder.extend(&[round + 1; 20]).unwrap();
            }
            let event = builder.as_event().unwrap();
            assert_eq!(
                (event.id, event.timestamp, event.kind, event.flags, event.expiry()),
                (9, -5, 3, 8, 25)
            );
            assert_eq!((event.stream, event.class), (Stream::from(7u32), None));
            assert_eq!(event.payload, [round + 1; 2000]);
            let Metadata::Encoded(pairs) = event.metadata else { panic!("{event:?}") };
            let pairs: Vec<_> = MetadataIter::new(pairs).collect();
            assert_eq!(pairs, [(&b"key"[..], &b"value"[..]), (b"raw", &[round; 300])]);
            assert!(pool.try_acquire().is_none(), "it is the only one");
            drop(builder);
            assert!(idle(&pool).len() > 2000 && idle(&pool).iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_builder_that_has_grown_shrinks_and_one_that_is_too_large_is_refused() {
        let config = EventPoolConfig::default().builders(3).kept_bytes(4096).max_bytes(1 << 20);
        let pool = EventPool::new(config);
        let mut builders: Vec<_> = (0..3).map(|_| pool.try_acquire().unwrap()).collect();
        for builder in &mut builders {
            builder.extend(&[1; 900_000]).unwrap().push("k", [2; 100_000]).unwrap();
            let error = builder.extend(&[3; 100_000]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            assert!(builder.push(b"k", [3; 100_000]).is_err());
            assert_eq!(builder.payload().len(), 900_000);
        }
        assert_eq!(pool.in_use(), 3);
        drop(builders);
        assert_eq!((pool.in_use(), pool.idle_bytes()), (0, 3 * 4096));
        assert!(idle(&pool).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn clearing_begins_anew() {
        let pool = EventPool::default();
        let mut builder = pool.try_acquire().unwrap();
        builder.stream(Stream::from(1u32)).id(1).timestamp(1).extend(b"secret").unwrap();
        builder.clear();
        assert!(builder.as_event().unwrap_err().to_string().contains("no stream"));
        assert!(builder.parts.payload.bytes.iter().all(|byte| *byte == 0));
        builder.stream(Stream::from(2u32)).id(2).timestamp(2).expires_at(77);
        assert_eq!(builder.as_event().unwrap().expiry(), 77);
    }

    #[test]
    fn a_panic_gives_the_builder_back_clean() {
        let pool = EventPool::new(EventPoolConfig::default().builders(1));
        let seen = pool.clone();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let mut builder = pool.try_acquire().unwrap();
            builder.extend(b"secret").unwrap();
            panic!("in the middle");
        }));
        assert!(panicked.is_err());
        assert_eq!(seen.in_use(), 0);
        assert!(!idle(&seen).is_empty() && idle(&seen).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn whoever_waits_gets_what_is_given_back() {
        let pool = EventPool::new(EventPoolConfig::default().builders(0));
        let held = pool.try_acquire().expect("a pool has one at least");
        assert_eq!(pool.acquire(Duration::from_millis(1)).unwrap_err().kind(), ErrorKind::Timeout);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pool.acquire(Duration::from_secs(600)).map(drop));
            drop(held);
            waiting.join().unwrap().unwrap();
        });
        assert_eq!(pool.in_use(), 0);
    }
}
