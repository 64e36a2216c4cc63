//! The benchmarks. Each prepares its store, has one stretch of work counted, and says how many events that was.

use std::hint::black_box;

use esker::{OnLeave, Stream};

use crate::workload::{Ids, World, counted, first_word, random};

/// Events of stores that are read.
const EVENTS: usize = 32_768;
/// Events that are in a store before appends are counted: its first pages are open, its most popular streams known.
const BEFORE: usize = 8_192;
/// Point reads that are counted.
const READS: usize = 16_384;
const BATCH: usize = 64;
/// Ids of a `get_batch`.
const IDS: usize = 16;
/// Events that are read of a history.
const NEWEST: usize = 100;
/// Streams whose histories are read: the most popular, so that each has that many events.
const ASKED: u32 = 16;
/// Time ranges that are scanned: so many that it does not matter how they fall on pages.
const RANGES: usize = 64;
/// Events in each.
const RANGE: usize = EVENTS / 20;

pub(crate) struct Benchmark {
    pub(crate) name: &'static str,
    /// Runs it on a store with that seed. How many events were counted.
    pub(crate) run: fn(u64) -> usize,
}

pub(crate) const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "append", run: |seed| append(seed, 256, Ids::Rising) },
    Benchmark { name: "append_1k", run: |seed| append(seed, 1024, Ids::Rising) },
    Benchmark { name: "append_scattered_ids", run: |seed| append(seed, 256, Ids::Scattered) },
    Benchmark { name: "append_batch_64", run: |seed| append_batch(seed, 256) },
    Benchmark { name: "append_batch_64_1k", run: |seed| append_batch(seed, 1024) },
    Benchmark { name: "append_batch_64_sums", run: append_batch_sums },
    Benchmark { name: "get", run: |seed| get(&World::full(seed, EVENTS)) },
    Benchmark { name: "get_sums", run: |seed| get(&World::summing(seed, EVENTS).filled()) },
    Benchmark { name: "get_batch_16", run: get_batch },
    Benchmark { name: "history_100", run: history },
    Benchmark { name: "scan", run: |seed| scan(seed, None) },
    Benchmark { name: "scan_kind", run: |seed| scan(seed, Some(5)) },
    Benchmark { name: "get_warm", run: get_warm },
    Benchmark { name: "demote", run: demote },
    Benchmark { name: "spill", run: |seed| spill(seed, 256) },
    Benchmark { name: "spill_1k", run: |seed| spill(seed, 1024) },
];

/// From a quarter of the events to all of them: the index doubles twice, wherever in its growth it begins. There are a
/// quarter as many large events, which take as much memory.
fn append_range(size: usize) -> std::ops::Range<usize> {
    let less = size / 256;
    BEFORE / less..EVENTS / less
}

fn append(seed: u64, size: usize, ids: Ids) -> usize {
    let range = append_range(size);
    let world = World::new(seed, range.end, size, ids);
    world.append_each(0..range.start);
    counted(|| world.append_each(range.clone()));
    range.len()
}

fn append_batch(seed: u64, size: usize) -> usize {
    let range = append_range(size);
    append_batch_to(&World::new(seed, range.end, size, Ids::Rising), range)
}

/// The same where each event is summed up.
fn append_batch_sums(seed: u64) -> usize {
    let range = append_range(256);
    append_batch_to(&World::summing(seed, range.end), range)
}

fn append_batch_to(world: &World, range: std::ops::Range<usize>) -> usize {
    world.append_batches(0..range.start, BATCH);
    counted(|| world.append_batches(range.clone(), BATCH));
    range.len()
}

/// Ids of events that are there, in no order.
fn some_ids(world: &World, reads: usize, events: usize) -> Vec<u64> {
    (0..reads).map(|number| world.id(random(number, events))).collect()
}

/// All with one guard.
fn get(world: &World) -> usize {
    let ids = some_ids(world, READS, EVENTS);
    let guard = world.store.pin();
    let read = |sum: u64, id: &u64| {
        let event = guard.get(*id).expect("every id was appended");
        sum.wrapping_add(event.id() ^ first_word(event.payload()))
    };
    black_box(counted(|| ids.iter().fold(0, read)));
    ids.len()
}

fn get_batch(seed: u64) -> usize {
    let world = World::full(seed, EVENTS);
    let ids = some_ids(&world, READS, EVENTS);
    let guard = world.store.pin();
    let read = |sum: u64, ids: &[u64]| {
        let found = guard.get_batch(ids);
        found
            .iter()
            .flatten()
            .fold(sum, |sum, event| sum.wrapping_add(event.id() ^ first_word(event.payload())))
    };
    black_box(counted(|| ids.chunks(IDS).fold(0, read)));
    ids.len()
}

fn history(seed: u64) -> usize {
    let world = World::full(seed, EVENTS);
    let guard = world.store.pin();
    let (mut sum, mut events) = (0u64, 0);
    counted(|| {
        for stream in 0..ASKED * 4 {
            for event in guard.history(Stream::from(stream % ASKED)).take(NEWEST) {
                sum = sum.wrapping_add(first_word(event.payload()));
                events += 1;
            }
        }
    });
    black_box(sum);
    assert_eq!(events, NEWEST * ASKED as usize * 4, "each of these streams has that many");
    events
}

/// The count is for an event in range, whether or not its kind is wanted.
fn scan(seed: u64, kind: Option<u8>) -> usize {
    let world = World::full(seed, EVENTS);
    let guard = world.store.pin();
    let (mut sum, mut found) = (0u64, 0);
    counted(|| {
        for number in 0..RANGES {
            let first = world.time(random(number, EVENTS - RANGE));
            let mut scan = guard.scan(first..first + RANGE as i64);
            if let Some(kind) = kind {
                scan = scan.kind(kind);
            }
            for event in scan {
                sum = sum.wrapping_add(first_word(event.payload()));
                found += 1;
            }
        }
    });
    black_box(sum);
    let all = RANGES * RANGE;
    let wanted = if kind.is_some() { all / 20..all / 14 } else { all..all + 1 };
    assert!(wanted.contains(&found), "{found} of {all} events were found");
    all
}

/// Each with a guard of its own, so that none finds what another has unpacked.
fn get_warm(seed: u64) -> usize {
    let world = World::full(seed, EVENTS / 4);
    world.let_age();
    world.demote();
    assert_eq!(world.store.stats().events.hot, 0, "all events are warm");
    let ids = some_ids(&world, READS / 32, EVENTS / 4);
    let read = |sum: u64, id: &u64| {
        let guard = world.store.pin();
        let event = guard.get(*id).expect("every id was appended");
        sum.wrapping_add(event.id() ^ first_word(event.payload()))
    };
    black_box(counted(|| ids.iter().fold(0, read)));
    ids.len()
}

/// From hot pages to warm frames.
fn demote(seed: u64) -> usize {
    let events = EVENTS / 4;
    let world = World::full(seed, events);
    world.let_age();
    counted(|| world.demote());
    let stats = world.store.stats().events;
    assert_eq!((stats.hot, stats.warm), (0, events as u64), "all events are warm");
    events
}

/// From hot pages to cold blocks that are confirmed.
fn spill(seed: u64, size: usize) -> usize {
    let events = EVENTS / (size / 256);
    let world = World::leaving(seed, events, size, Ids::Rising, OnLeave::Spill);
    world.append_batches(0..events, BATCH);
    let stats = world.store.stats();
    assert_eq!((stats.events.hot, stats.cold.spilled), (events as u64, 0), "nothing was to move");
    counted(|| world.spill());
    let spilled = world.store.stats().cold.spilled;
    assert_eq!(spilled, events as u64, "all events are in blocks");
    events
}
