//! Appending: each thread has its own ids and its own streams.

use std::time::Duration;

use esker::{Event, Store, Stream};

use crate::common::{HEADER, Random, mix};
use crate::race::{Rate, Running, race};
use crate::settings::{PAYLOAD, RECORD, STREAMS, Settings};
use crate::table::Table;

/// Payloads, all of them in a second-level cache, as what has just come from a network is.
pub(crate) fn payloads() -> Vec<[u8; PAYLOAD]> {
    let mut random = Random::new(5);
    let mut make = || {
        let mut payload = [0; PAYLOAD];
        payload.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = random.next().to_le_bytes());
        payload
    };
    (0..512).map(|_| make()).collect()
}

/// What one thread appends.
pub(crate) struct Source<'p> {
    streams: Vec<Stream>,
    payloads: &'p [[u8; PAYLOAD]],
    first_id: u64,
    first_ms: i64,
}

impl<'p> Source<'p> {
    /// Of a thread of several. `routed`: its streams are those that the store's router gives to it.
    pub(crate) fn new(
        store: &Store,
        payloads: &'p [[u8; PAYLOAD]],
        [thread, threads]: [usize; 2],
        routed: bool,
        first_ms: i64,
    ) -> Self {
        let router = store.router(threads);
        let own = |stream: &u32| match routed {
            true => router.worker_of(Stream::from(*stream)) == thread,
            false => *stream as usize % threads == thread,
        };
        Self {
            streams: (0..STREAMS).filter(own).map(Stream::from).collect(),
            payloads,
            first_id: id(thread, 0),
            first_ms,
        }
    }

    /// The same with ids that are another thread's.
    pub(crate) fn with_ids_of(self, thread: usize) -> Self {
        Self { first_id: id(thread, 0), ..self }
    }

    #[inline]
    fn event(&self, at: u64) -> Event<'p> {
        let hash = mix(at);
        let stream = self.streams[hash as usize % self.streams.len()];
        let payload = &self.payloads[at as usize % self.payloads.len()];
        Event::new(stream, self.first_id + at, self.first_ms + at as i64 / 64, (hash >> 60) as u8)
            .payload(payload)
    }

    /// Appends events number `from` up to `to`, until the race ends; the first that is through ends it. How many.
    pub(crate) fn append(
        &self,
        store: &Store,
        from: u64,
        to: u64,
        batch: u64,
        running: Option<&Running>,
    ) -> u64 {
        let mut list = Vec::with_capacity(batch as usize);
        let mut at = from;
        while at < to && running.is_none_or(Running::go_on) {
            let end = (at + batch.max(64)).min(to);
            if batch == 1 {
                for at in at..end {
                    store.append(&self.event(at)).expect("there is room");
                }
            } else {
                list.clear();
                list.extend((at..end).map(|at| self.event(at)));
                let done = store.append_batch(&list).expect("the store is open");
                assert_eq!(done.stored, list.len(), "there is room");
            }
            at = end;
        }
        at - from
    }
}

/// The id of a thread's event.
#[inline]
pub(crate) fn id(thread: usize, event: u64) -> u64 {
    ((thread as u64) << 32) + event + 1
}

pub(crate) fn run(threads: usize, settings: &Settings, table: &mut Table) {
    if settings.wants("append") {
        table.add("append", threads, ingest(threads, settings, 1, false));
        table.add("append, streams routed", threads, ingest(threads, settings, 1, true));
    }
    if settings.wants("append64") {
        table.add("append_batch of 64", threads, ingest(threads, settings, 64, false));
        table.add("append_batch of 64, streams routed", threads, ingest(threads, settings, 64, true));
    }
    if settings.wants("index") {
        insert(threads, settings, table);
    }
}

/// Inserts into the index of a store that holds its data: events without payload, so that nearly nothing else is written,
/// once with ids one after the other, once with ids in no order, each of which is somewhere else in the index.
fn insert(threads: usize, settings: &Settings, table: &mut Table) {
    let (store, payloads) = (settings.open(), payloads());
    let each = settings.events() / 10 * 9 / threads as u64;
    let sources: Vec<Source<'_>> = (0..threads)
        .map(|thread| Source::new(&store, &payloads, [thread, threads], true, settings.first_ms))
        .collect();
    race(threads, Duration::MAX, |thread, _| sources[thread].append(&store, 0, each, 64, None));
    // A half of the bytes that are left for each of the two.
    let room = settings.events() / 20 * (RECORD / HEADER) as u64 / threads as u64;
    for (name, scattered) in [("insert, ids in a row", false), ("insert, ids in no order", true)] {
        let rate = race(threads, settings.time, |thread, running| {
            let mut at = 0;
            while at < room && running.go_on() {
                for number in at..at + 64 {
                    let id = id(thread, each + number);
                    let event = sources[thread].event(number);
                    // Those of the data are below, and none is twice.
                    let id = if scattered { mix(id) | 1 << 63 } else { id };
                    let event = Event::new(event.stream, id, event.timestamp, event.kind);
                    store.append(&event).expect("there is room");
                }
                at += 64;
            }
            at
        });
        table.add(name, threads, rate);
    }
    assert_eq!(store.stats().events.demoted, 0, "nothing was to move");
}

/// Fills stores until that has taken the time: many threads fill one in a fraction of it.
fn ingest(threads: usize, settings: &Settings, batch: u64, routed: bool) -> Rate {
    let payloads = payloads();
    let mut rates: Vec<Rate> = Vec::new();
    // No more than three: opening takes time, too.
    while rates.len() < 3
        && rates.iter().map(|rate| rate.seconds).sum::<f64>() < settings.time.as_secs_f64() / 2.0
    {
        let store = settings.open();
        let sources: Vec<Source<'_>> = (0..threads)
            .map(|thread| Source::new(&store, &payloads, [thread, threads], routed, settings.first_ms))
            .collect();
        let share = settings.events() / threads as u64;
        let rate = race(threads, Duration::from_secs(60).min(settings.time), |thread, running| {
            sources[thread].append(&store, 0, share, batch, Some(running))
        });
        rates.push(rate);
        let stats = store.stats().events;
        assert_eq!((stats.demoted, stats.waited), (0, 0), "nothing was to move or to wait");
    }
    Rate::of_all(&rates)
}
