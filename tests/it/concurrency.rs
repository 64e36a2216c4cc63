//! Many threads on one small store: what was acknowledged is found at once and always, whole, and once.

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use esker::{Appended, ClassConfig, Event, EventRef, Guard, Store, Stream};

use crate::common::{Random, all_ids, append_proof, now, proof, small, verify, wall_ms};
use crate::tier::{Fault, MapTier};

const RUN: Duration = Duration::from_millis(4_500);
const SEED: u64 = 0x5eed_0001;
const MEMORY: u64 = 16 << 20;
const WRITERS: usize = 3;
/// Streams of each writer.
const STREAMS: u64 = 6;
const QUIET: u64 = 4_000;
const QUIET_BASE: u64 = 1 << 50;
const REMOVED_BASE: u64 = 1 << 51;
/// Removals that a store of this size has room to note.
const REMOVALS: u64 = 1_000;

/// What the threads of the run share.
struct Run<'s> {
    store: &'s Store,
    stop: AtomicBool,
    /// For each writer, how many of its events are acknowledged: its ids rise by one.
    acknowledged: [AtomicU64; WRITERS],
    quiet_from: i64,
    /// How many removals were answered by yes.
    removed: AtomicU64,
    /// Whether a thread has failed: nobody waits for it then.
    failed: AtomicBool,
}

/// Lets two threads go on together.
#[derive(Default)]
struct Turnstile(AtomicU64);

impl Turnstile {
    fn pass(&self, failed: &AtomicBool) {
        let mine = self.0.fetch_add(1, Ordering::SeqCst);
        let both = (mine / 2 + 1) * 2;
        while self.0.load(Ordering::SeqCst) < both && !failed.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
    }
}

fn id_of(writer: usize, number: u64) -> u64 {
    (writer as u64 + 1) << 40 | number
}

fn stream_of(writer: usize, number: u64) -> Stream {
    Stream::from((writer as u64 * STREAMS + number % STREAMS) as u32)
}

/// The events of one stream in numbers: newest first, without a gap.
fn check_run(writer: usize, stream: u64, numbers: &[u64]) {
    for pair in numbers.windows(2) {
        assert_eq!(
            pair[0],
            pair[1] + STREAMS,
            "writer {writer}, stream {stream}: a gap or a wrong order in {} events",
            numbers.len()
        );
    }
}

fn number_in(writer: usize, stream: u64, event: &EventRef<'_>) -> u64 {
    verify(event);
    let number = event.id() - id_of(writer, 0);
    assert_eq!(number % STREAMS, stream, "{event:?} is in the wrong stream");
    number
}

impl Run<'_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn is_due(&self, random: &mut Random, one_in: u64) -> bool {
        !self.stopped() && random.below(one_in) == 0
    }

    fn event(&self, writer: usize, number: u64) -> Event<'static> {
        let (stream, id) = (stream_of(writer, number), id_of(writer, number));
        Event::new(stream, id, wall_ms(), (number % 5) as u8).class(self.class_of(number))
    }

    /// A stream is of one class here, so that its history has one order.
    fn class_of(&self, number: u64) -> esker::Class {
        self.store.class(if (number % STREAMS).is_multiple_of(2) { "long" } else { "short" }).unwrap()
    }

    /// Appends one at a time.
    fn write(&self, writer: usize) {
        let mut random = Random::new(SEED + writer as u64);
        let mut number = 0;
        while !self.stopped() {
            let event = self.event(writer, number);
            let len = 40 + random.below(400) as usize;
            assert_eq!(append_proof(self.store, event, len), Appended::Stored, "{number}");
            self.acknowledged[writer].store(number + 1, Ordering::Release);
            if self.is_due(&mut random, 50) {
                self.must_find(writer, number);
            }
            number += 1;
        }
    }

    /// Appends in batches.
    fn write_batches(&self, writer: usize) {
        let mut random = Random::new(SEED + writer as u64);
        let mut first = 0;
        while !self.stopped() {
            let count = 1 + random.below(60);
            let events: Vec<Event<'static>> = (first..first + count).map(|n| self.event(writer, n)).collect();
            let len = |event: &Event<'_>| 40 + (event.id % 300) as usize;
            let payloads: Vec<Vec<u8>> = events
                .iter()
                .map(|event| proof(event.stream, event.id, event.timestamp, len(event)))
                .collect();
            let batch: Vec<Event<'_>> =
                events.iter().zip(&payloads).map(|(event, payload)| event.payload(payload)).collect();
            self.store_all(&batch);
            first += count;
            self.acknowledged[writer].store(first, Ordering::Release);
            self.must_find(writer, first - 1);
        }
    }

    /// Appends a batch, and what is refused one by one until it is stored.
    fn store_all(&self, batch: &[Event<'_>]) {
        let outcome = self.store.append_batch(batch).unwrap();
        assert_eq!(outcome.stored + outcome.refused.len(), batch.len());
        assert_eq!(outcome.duplicates, 0);
        let mut refused_streams = HashSet::new();
        for (at, event) in batch.iter().enumerate() {
            let refused = outcome.outcome(at).is_err();
            // Events of a stream stay in order, also when some of them are refused.
            assert!(
                refused || !refused_streams.contains(&event.stream),
                "{at} overtook an event of its stream"
            );
            if refused {
                refused_streams.insert(event.stream);
                while self.store.append(event).is_err() {
                    assert!(outcome.outcome(at).unwrap_err().is_retryable());
                }
            }
        }
    }

    fn must_find(&self, writer: usize, number: u64) {
        let id = id_of(writer, number);
        let event = self.store.fetch(id).unwrap();
        verify(
            &event
                .unwrap_or_else(|| panic!("event {number} of writer {writer} was acknowledged and is lost")),
        );
    }

    fn any_acknowledged(&self, random: &mut Random) -> Option<(usize, u64)> {
        let writer = random.below(WRITERS as u64) as usize;
        let count = self.acknowledged[writer].load(Ordering::Acquire);
        let recent = random.below(2) == 0;
        let number =
            if recent { count.saturating_sub(1 + random.below(2_000)) } else { random.below(count.max(1)) };
        (count > 0).then_some((writer, number))
    }

    fn read_ids(&self) {
        let mut random = Random::new(SEED + 10);
        while !self.stopped() {
            if let Some((writer, number)) = self.any_acknowledged(&mut random) {
                self.must_find(writer, number);
            }
            let ids: Vec<u64> = (0..20)
                .filter_map(|_| self.any_acknowledged(&mut random))
                .map(|(writer, number)| id_of(writer, number))
                .collect();
            let guard = self.store.pin();
            for (id, event) in ids.iter().zip(guard.get_batch(&ids)) {
                if let Some(event) = event.or_else(|| guard.get(*id)) {
                    assert_eq!(event.id(), *id);
                    verify(&event);
                }
            }
        }
    }

    fn read_histories(&self) {
        let mut random = Random::new(SEED + 20);
        while !self.stopped() {
            let (writer, stream) = (random.below(WRITERS as u64) as usize, random.below(STREAMS));
            let before = self.acknowledged[writer].load(Ordering::Acquire);
            let found: Vec<u64> = self
                .store
                .fetch_history(stream_of(writer, stream))
                .map(|event| number_in(writer, stream, &event.unwrap()))
                .collect();
            check_run(writer, stream, &found);
            if before > stream {
                let newest = before - 1 - (before - 1 - stream) % STREAMS;
                let ends = (found.first().copied(), found.last().copied());
                assert!(
                    ends.0 >= Some(newest) && ends.1 == Some(stream),
                    "writer {writer}, stream {stream}: {ends:?} for {newest} to {stream}"
                );
            }
            self.read_history_in_memory(&self.store.pin(), writer, stream);
        }
    }

    fn read_history_in_memory(&self, guard: &Guard<'_>, writer: usize, stream: u64) {
        let events = guard.history(stream_of(writer, stream));
        let found: Vec<u64> = events.map(|event| number_in(writer, stream, &event)).collect();
        check_run(writer, stream, &found);
    }

    /// A time range in which nothing comes any more is whole in every scan, wherever its pages are.
    fn scan_quiet_range(&self) {
        let mut turn = 0;
        while !self.stopped() {
            let range = self.quiet_from..self.quiet_from + QUIET as i64;
            let scan = self.store.fetch_scan(range);
            let ordered = turn % 2 == 0;
            let scan = if ordered { scan.ordered() } else { scan };
            let mut ids = Vec::new();
            let mut last = i64::MIN;
            for event in scan {
                let event = event.unwrap();
                verify(&event);
                assert!(!ordered || event.timestamp() >= last, "an ordered scan is not in order");
                last = event.timestamp();
                ids.push(event.id());
            }
            ids.sort_unstable();
            let expected: Vec<u64> = (0..QUIET).map(|number| QUIET_BASE | number).collect();
            assert_eq!(ids.len(), expected.len(), "scan {turn} of the quiet range, ordered: {ordered}");
            assert_eq!(ids, expected, "scan {turn} of the quiet range, ordered: {ordered}");
            turn += 1;
        }
        assert!(turn > 2, "{turn} scans");
    }

    fn scan_memory(&self) {
        let mut turn = 0u64;
        while !self.stopped() {
            let guard = self.store.pin();
            let mut seen = HashSet::new();
            let (wanted, kind) = (turn.is_multiple_of(4), (turn % 5) as u8);
            let scan = guard.scan(..);
            for event in if wanted { scan.kind(kind) } else { scan } {
                verify(&event);
                assert!(!wanted || event.kind() == kind);
                assert!(seen.insert(event.id()), "{event:?} came twice");
            }
            turn += 1;
        }
    }

    /// Two threads append and remove the same ids: exactly one removes each, and none comes back.
    fn remove(&self, mine: u64, both: &Turnstile) {
        let mut random = Random::new(SEED + 30 + mine);
        for number in 0..REMOVALS {
            if self.failed.load(Ordering::Relaxed) {
                return;
            }
            let id = REMOVED_BASE | number;
            if mine == 0 {
                let class = self.class_of(number);
                let event = Event::new(Stream::from(900u32), id, wall_ms(), 9).class(class);
                append_proof(self.store, event, 100);
            }
            // One event in eight is removed when it may have gone to the cold tier.
            let late = number.saturating_sub(if number % 8 == 0 { 200 } else { 0 });
            both.pass(&self.failed);
            let removed = self.store.remove(REMOVED_BASE | late).unwrap();
            self.removed.fetch_add(u64::from(removed), Ordering::Relaxed);
            both.pass(&self.failed);
            assert!(
                self.store.fetch(REMOVED_BASE | late).unwrap().is_none(),
                "removed event {late} is found"
            );
            let old = REMOVED_BASE | random.below(number + 1);
            let found = self.store.fetch(old).unwrap();
            let kept = found.filter(|event| !(event.id() & 0xfff).is_multiple_of(8));
            assert!(kept.is_none(), "removed event {kept:?} came back");
        }
    }

    /// Interns names and flushes while the store's own spiller does the same.
    fn name_and_flush(&self, mine: u64) {
        let mut turn = 0;
        while !self.stopped() {
            for number in 0..20 {
                let name = format!("name {mine} {turn} {number}");
                let stream = self.store.stream(&name).unwrap();
                assert_eq!(self.store.stream_name(stream).unwrap(), name);
            }
            self.store.flush(Duration::from_secs(120)).unwrap();
            turn += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn watch_memory(&self) {
        while !self.stopped() {
            let stats = self.store.stats();
            assert!(stats.memory_bytes <= MEMORY, "{stats:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// When a thread fails, the others stop.
struct StopOnFailure<'a>(&'a Run<'a>);

impl Drop for StopOnFailure<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::Relaxed);
            self.0.stop.store(true, Ordering::Relaxed);
        }
    }
}

fn open(dir: &std::path::Path) -> Store {
    let class = |name: &str, hot, warm| {
        ClassConfig::new(name).hot_for(Duration::from_millis(hot)).warm_for(Duration::from_millis(warm))
    };
    let config = small()
        .data_dir(dir)
        .hot(|hot| hot.page_size("4KiB"))
        .class(class("long", 1_200, 2_500))
        .class(class("short", 100, 300))
        .fetch_timeout(Duration::from_secs(60));
    Store::open(config.build().unwrap()).unwrap()
}

fn append_quiet(store: &Store, from: i64) {
    for number in 0..QUIET {
        let class = store.class(if number % 3 == 0 { "short" } else { "long" }).unwrap();
        let stream = Stream::from(800 + (number % 10) as u32);
        let event = Event::new(stream, QUIET_BASE | number, from + number as i64, 1).class(class);
        assert_eq!(append_proof(store, event, 120), Appended::Stored);
    }
}

#[test]
fn threads_of_all_kinds_see_whole_events_and_all_that_were_acknowledged() {
    println!("seed {SEED:#x}");
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let quiet_from = wall_ms() - QUIET as i64;
    append_quiet(&store, quiet_from);
    let run = Run {
        store: &store,
        stop: AtomicBool::new(false),
        acknowledged: [const { AtomicU64::new(0) }; WRITERS],
        quiet_from,
        removed: AtomicU64::new(0),
        failed: AtomicBool::new(false),
    };
    let both = Turnstile::default();
    std::thread::scope(|scope| {
        let run = &run;
        let start = |work: Box<dyn FnOnce() + Send>| {
            scope.spawn(move || {
                let _stop = StopOnFailure(run);
                work();
            });
        };
        start(Box::new(|| run.write(0)));
        start(Box::new(|| run.write(1)));
        start(Box::new(|| run.write_batches(2)));
        start(Box::new(|| run.read_ids()));
        start(Box::new(|| run.read_histories()));
        start(Box::new(|| run.scan_quiet_range()));
        start(Box::new(|| run.scan_memory()));
        start(Box::new(|| run.name_and_flush(0)));
        start(Box::new(|| run.name_and_flush(1)));
        start(Box::new(|| run.watch_memory()));
        start(Box::new(|| run.remove(0, &both)));
        start(Box::new(|| run.remove(1, &both)));
        let begin = now();
        while begin.elapsed() < RUN && !run.stopped() {
            std::thread::sleep(Duration::from_millis(20));
        }
        store.validate().unwrap();
        run.stop.store(true, Ordering::Relaxed);
    });
    check_after(&run, &store);
    let report = store.close(Duration::from_secs(30)).unwrap();
    assert_eq!(report.left, 0, "{report:?}");
    let before = expected_ids(&run);
    drop(store);
    let store = open(dir.path());
    assert_eq!(all_ids(&store), before, "after reopening");
    store.validate().unwrap();
}

/// Everything acknowledged and not removed, sorted.
fn expected_ids(run: &Run<'_>) -> Vec<u64> {
    let mut ids: Vec<u64> = (0..QUIET).map(|number| QUIET_BASE | number).collect();
    for writer in 0..WRITERS {
        let count = run.acknowledged[writer].load(Ordering::Acquire);
        ids.extend((0..count).map(|number| id_of(writer, number)));
    }
    // Every eighth removable event was spared, but that of 200 before it was removed.
    ids.extend((0..REMOVALS).filter(|number| !removed_number(*number)).map(|number| REMOVED_BASE | number));
    ids.sort_unstable();
    ids
}

/// Whether the removers removed that one: those that are no multiple of eight at once, the others 200 later.
fn removed_number(number: u64) -> bool {
    !number.is_multiple_of(8) || number == 0 || number + 200 < REMOVALS
}

fn check_after(run: &Run<'_>, store: &Store) {
    store.validate().unwrap();
    let expected = expected_ids(run);
    assert_eq!(all_ids(store), expected);
    let stats = store.stats();
    let events = &stats.events;
    let acknowledged: u64 = run.acknowledged.iter().map(|count| count.load(Ordering::Acquire)).sum();
    println!("{acknowledged} events acknowledged, {} left memory, {:?}", events.released, stats.cold.spill);
    assert_eq!(events.appended, acknowledged + QUIET + REMOVALS);
    let removed = (0..REMOVALS).filter(|number| removed_number(*number)).count() as u64;
    assert_eq!(run.removed.load(Ordering::Relaxed), removed, "each is removed by exactly one of two");
    assert_eq!(events.removed, removed);
    assert_eq!((events.expired, events.dropped, events.duplicates), (0, 0, 0));
    let gone = events.appended - events.hot - events.warm - events.released;
    assert!(gone <= removed, "{gone} events are nowhere: {stats:#?}");
    assert_eq!(
        stats.cold.lost_to_damage + stats.cold.corrupt_blocks + events.corrupt_frames,
        0,
        "{stats:#?}"
    );
    // Threads that stop now and then do not get so far.
    let all = events.released > 0 && events.demoted > 0 && stats.cold.events > 0;
    assert!(all || cfg!(esker_jitter), "{stats:#?}");
    assert_eq!(events.names, store.stats().events.names);
}

#[test]
fn of_two_that_append_the_same_ids_exactly_one_stores_each() {
    const IDS: u64 = 12_000;
    const STEP: u64 = 300;
    let store = Store::open(small().partitions(4).build().unwrap()).unwrap();
    let together = Barrier::new(3);
    let run = |mine: u64| {
        let stream = Stream::from(mine as u32);
        let mut stored = Vec::new();
        for first in (0..IDS).step_by(STEP as usize) {
            let ids: Vec<u64> = (first..first + STEP).collect();
            let payloads: Vec<Vec<u8>> = ids.iter().map(|id| proof(stream, *id, *id as i64, 64)).collect();
            let event = |at: usize| Event::new(stream, ids[at], ids[at] as i64, 0).payload(&payloads[at]);
            together.wait();
            if mine == 2 {
                let events: Vec<Event<'_>> = (0..ids.len()).map(event).collect();
                let batch = store.append_batch(&events).unwrap();
                assert_eq!(batch.stored + batch.duplicates, events.len());
                stored.extend(
                    (0..ids.len())
                        .filter(|at| batch.outcome(*at).unwrap() == Appended::Stored)
                        .map(|at| ids[at]),
                );
                continue;
            }
            let won = |at: &usize| store.append(&event(*at)).unwrap() == Appended::Stored;
            stored.extend((0..ids.len()).filter(won).map(|at| ids[at]));
        }
        stored
    };
    let winners: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..3).map(|mine| scope.spawn(move || run(mine))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    println!("won: {:?}", winners.iter().map(Vec::len).collect::<Vec<_>>());
    let mut all: Vec<u64> = winners.concat();
    all.sort_unstable();
    assert_eq!(all, (0..IDS).collect::<Vec<_>>(), "each id is stored by exactly one");
    for (mine, ids) in winners.iter().enumerate() {
        let guard = store.pin();
        for id in ids {
            let event = guard.get(*id).unwrap();
            verify(&event);
            assert_eq!(event.stream(), Stream::from(mine as u32), "event {id} is that of a loser");
        }
        assert_eq!(guard.history(Stream::from(mine as u32)).count(), ids.len());
    }
    let events = store.stats().events;
    assert_eq!((events.appended, events.duplicates), (IDS, 2 * IDS));
    store.validate().unwrap();
}

/// A name must be noted as saved once, whoever saves it: the spiller and several flushes meet here.
#[test]
fn names_are_saved_by_whoever_flushes_first() {
    const NAMES: u64 = 60;
    let tier = MapTier::new();
    tier.set(Fault::Slow(1));
    let store = Store::builder(small().build().unwrap()).cold(tier.clone()).open().unwrap();
    std::thread::scope(|scope| {
        for mine in 0..4u64 {
            let store = &store;
            scope.spawn(move || {
                for number in 0..NAMES {
                    let stream = store.stream(&format!("name {mine} {number}")).unwrap();
                    let event = Event::new(stream, mine << 32 | number, 0, 0);
                    append_proof(store, event, 64);
                    store.flush(Duration::from_secs(20)).unwrap();
                }
            });
        }
    });
    store.close(Duration::from_secs(20)).unwrap();
    drop(store);
    let store = Store::builder(small().build().unwrap()).cold(tier).open().unwrap();
    for (mine, number) in (0..4).flat_map(|mine| (0..NAMES).map(move |number| (mine, number))) {
        let event = store.fetch(mine << 32 | number).unwrap().unwrap();
        let name = store.stream_name(event.stream());
        assert_eq!(name.as_deref(), Some(format!("name {mine} {number}").as_str()));
        assert_eq!(store.stream(&name.unwrap()).unwrap(), event.stream());
    }
    assert_eq!(store.stats().events.names, 4 * NAMES);
}
