//! The reference: what was acknowledged and not removed, and what of it a store must, may, or may not show.

use std::collections::{BTreeMap, BTreeSet};

use esker::{EventRef, Stream};

/// What did not come out as the reference says.
pub(crate) type Fault = String;
pub(crate) type Checked<T = ()> = Result<T, Fault>;

/// Fails the step unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use ensure;

/// One event as it was appended.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Rises with every event that was stored.
    pub(crate) serial: u64,
    pub(crate) stream: Stream,
    pub(crate) class: usize,
    pub(crate) timestamp: i64,
    pub(crate) kind: u8,
    pub(crate) flags: u16,
    pub(crate) pairs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) payload: Vec<u8>,
    /// When it expires by itself.
    pub(crate) expires_at: Option<i64>,
    /// The clock when it came, and which setting of the clock that was.
    pub(crate) arrival: i64,
    pub(crate) tick: usize,
    /// Whether the cold tier is known to have it.
    pub(crate) confirmed: bool,
    /// Whether a call on it failed half-way, so that it may be there or not.
    pub(crate) unsure: bool,
}

/// The clock's settings: for each moment, the latest time that was ever shown since.
#[derive(Clone, Default)]
pub(crate) struct Times {
    ticks: usize,
    /// Settings that no later one exceeds, falling.
    latest: Vec<(usize, i64)>,
}

impl Times {
    pub(crate) fn set(&mut self, now_ms: i64) {
        self.ticks += 1;
        while self.latest.last().is_some_and(|(_, at)| *at <= now_ms) {
            self.latest.pop();
        }
        self.latest.push((self.ticks, now_ms));
    }

    pub(crate) fn tick(&self) -> usize {
        self.ticks
    }

    fn latest_since(&self, tick: usize) -> i64 {
        let at = self.latest.partition_point(|(set, _)| *set < tick);
        self.latest[at].1
    }
}

#[derive(Clone, Default)]
pub(crate) struct Reference {
    pub(crate) events: BTreeMap<u64, Entry>,
    pub(crate) by_stream: BTreeMap<Stream, BTreeSet<u64>>,
    /// Ids that were removed or lost for good and must not be found again, unless they are appended again.
    pub(crate) gone: BTreeSet<u64>,
    pub(crate) times: Times,
    pub(crate) now_ms: i64,
    /// Each class's retention in milliseconds.
    pub(crate) retention: Vec<Option<i64>>,
    pub(crate) serial: u64,
}

impl Reference {
    pub(crate) fn set_clock(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        self.times.set(now_ms);
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn insert(&mut self, id: u64, entry: Entry) {
        self.gone.remove(&id);
        self.by_stream.entry(entry.stream).or_default().insert(id);
        self.events.insert(id, entry);
    }

    pub(crate) fn forget(&mut self, id: u64) {
        if let Some(entry) = self.events.remove(&id)
            && let Some(ids) = self.by_stream.get_mut(&entry.stream)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_stream.remove(&entry.stream);
            }
            self.gone.insert(id);
        }
    }

    /// Whether a read may give the event now.
    pub(crate) fn may(&self, entry: &Entry) -> bool {
        entry.expires_at.is_none_or(|at| self.now_ms < at)
            && self.retention[entry.class].is_none_or(|age| {
                let ends = self.now_ms.saturating_sub(age);
                ends == i64::MIN || entry.timestamp > ends
            })
    }

    /// Whether retention cannot have taken the event at any time since it came. A page may go when its last
    /// arrival is too old, which counts for events from the future.
    pub(crate) fn must(&self, entry: &Entry) -> bool {
        !entry.unsure && self.may(entry) && !self.has_expired(entry)
    }

    /// Whether retention may have taken the event at some time since it came.
    pub(crate) fn has_expired(&self, entry: &Entry) -> bool {
        let latest = self.times.latest_since(entry.tick);
        entry.expires_at.is_some_and(|at| latest >= at)
            || self.retention[entry.class].is_some_and(|age| {
                let ends = latest.saturating_sub(age);
                entry.timestamp <= ends || entry.arrival <= ends
            })
    }
}

/// Whether what a read gave is the event that was appended, byte for byte.
pub(crate) fn same(event: &EventRef<'_>, entry: &Entry) -> Checked {
    let header = event.header();
    let pairs: usize = event.metadata_bytes().len();
    let bodies_agree = header.body_len as usize >= pairs + event.payload().len()
        && header.id == event.id()
        && header.stream == event.stream()
        && header.timestamp == event.timestamp()
        && header.kind == event.kind()
        && header.flags == event.flags()
        && header.expires_at == event.expires_at()
        && header.class == event.class();
    ensure!(bodies_agree, "event {} has a header that differs from it: {header:?}, {event:?}", event.id());
    let heads_agree = event.stream() == entry.stream
        && event.class().index() == entry.class
        && event.timestamp() == entry.timestamp
        && event.kind() == entry.kind
        && event.flags() == entry.flags
        && event.expires_at() == entry.expires_at;
    ensure!(heads_agree, "event {} is {event:?}, appended was {entry:?}", event.id());
    ensure!(event.payload() == entry.payload, "event {} has wrong payload bytes: {event:?}", event.id());
    let same_pairs =
        event.metadata().eq(entry.pairs.iter().map(|(key, value)| (key.as_slice(), value.as_slice())));
    ensure!(same_pairs, "event {} has wrong metadata: {event:?}", event.id());
    Ok(())
}
