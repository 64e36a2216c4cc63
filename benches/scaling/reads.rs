//! Reading, alone and beside a writer.

use std::hint::black_box;

use esker::{Guard, Store, Stream};

use crate::common::{Random, first_word, touch};
use crate::race::{Running, race};
use crate::settings::{STREAMS, Settings};
use crate::table::Table;
use crate::writes::{Source, id, payloads};

/// Events that one reader of a history asks for.
const NEWEST: usize = 100;
/// Events that all readers ask for when they ask for few.
const FEW: u64 = 4096;
/// Reads under one guard.
const UNDER_GUARD: usize = 256;
/// Events that each thread that fills a store writes in a millisecond.
const EACH_MS: u64 = 64;
/// Events in a short range of time, whoever wrote them.
const SHORT: u64 = 6_400;

/// A store that is filled to what it can take, or to a half of that if a writer is to come beside the readers.
struct Filled {
    store: Store,
    writers: usize,
    /// Events of each writer.
    each: u64,
    first_ms: i64,
}

impl Filled {
    fn new(threads: usize, settings: &Settings) -> Self {
        let store = settings.open();
        let events = if settings.wants("beside") { settings.events() / 2 } else { settings.events() };
        let (payloads, each) = (payloads(), events / threads as u64);
        race(threads, std::time::Duration::MAX, |thread, _| {
            Source::new(&store, &payloads, [thread, threads], true, settings.first_ms)
                .append(&store, 0, each, 64, None)
        });
        Self { store, writers: threads, each, first_ms: settings.first_ms }
    }

    /// The id of an event, by a random number.
    #[inline]
    fn any_id(&self, random: &mut Random) -> u64 {
        id(random.below(self.writers), random.below(self.each as usize) as u64)
    }

    /// One of a few ids.
    #[inline]
    fn hot_id(&self, random: &mut Random) -> u64 {
        let few = FEW.min(self.each * self.writers as u64) as usize / self.writers;
        id(random.below(self.writers), random.below(few.max(1)) as u64)
    }

    /// Reads until the race ends. How often.
    fn get(&self, thread: usize, running: &Running, id: impl Fn(&mut Random) -> u64) -> u64 {
        let (mut random, mut done, mut sum) = (Random::new(thread as u64 + 100), 0, 0u64);
        while running.go_on() {
            let guard = self.store.pin();
            for _ in 0..UNDER_GUARD {
                sum = sum.wrapping_add(word(&guard, id(&mut random)));
            }
            done += UNDER_GUARD as u64;
        }
        black_box(sum);
        done
    }

    fn history(&self, thread: usize, running: &Running) -> u64 {
        let (mut random, mut done, mut sum) = (Random::new(thread as u64 + 200), 0, 0u64);
        while running.go_on() {
            let guard = self.store.pin();
            let stream = Stream::from(random.below(STREAMS as usize) as u32);
            for event in guard.history(stream).newest().take(NEWEST) {
                sum = sum.wrapping_add(first_word(event.payload()));
                done += 1;
            }
        }
        black_box(sum);
        done
    }

    /// Scans ranges of so many events, all writers' together.
    fn scan(&self, events: u64, thread: usize, running: &Running) -> u64 {
        let (mut random, mut done, mut sum) = (Random::new(thread as u64 + 300), 0, 0u64);
        let of_time = |events: u64| (events / EACH_MS).max(1) as i64;
        let (last, length) = (of_time(self.each), of_time(events / self.writers as u64));
        while running.go_on() {
            let guard = self.store.pin();
            let first = self.first_ms + random.below((last - length).max(1) as usize) as i64;
            for event in guard.scan(first..first + length) {
                sum = sum.wrapping_add(touch(event.payload()));
                done += 1;
            }
        }
        black_box(sum);
        done
    }
}

/// The first word of an event's payload.
#[inline]
fn word(guard: &Guard<'_>, id: u64) -> u64 {
    first_word(guard.get(id).expect("every id was appended").payload())
}

pub(crate) fn run(threads: usize, settings: &Settings, table: &mut Table) {
    if !["get", "history", "scan", "beside"].iter().any(|group| settings.wants(group)) {
        return;
    }
    let filled = Filled::new(threads, settings);
    let time = settings.time;
    if settings.wants("get") {
        let rate = race(threads, time, |thread, running| {
            filled.get(thread, running, |random| filled.any_id(random))
        });
        table.add("get", threads, rate);
        let rate = race(threads, time, |thread, running| {
            filled.get(thread, running, |random| filled.hot_id(random))
        });
        table.add("get, the same 4,096 events", threads, rate);
        let rate = race(threads, time, |thread, running| {
            let (mut random, mut done) = (Random::new(thread as u64), 0);
            while running.go_on() {
                for _ in 0..UNDER_GUARD {
                    black_box(word(&filled.store.pin(), filled.hot_id(&mut random)));
                }
                done += UNDER_GUARD as u64;
            }
            done
        });
        table.add("get, the same 4,096, a guard for each", threads, rate);
    }
    if settings.wants("history") {
        let rate = race(threads, time, |thread, running| filled.history(thread, running));
        table.add("history, newest 100, events", threads, rate);
    }
    if settings.wants("scan") {
        let all = filled.each * filled.writers as u64;
        for (name, events) in [("scan of 1 %, events", all / 100), ("scan of 6,400 events", SHORT)] {
            let rate = race(threads, time, |thread, running| filled.scan(events, thread, running));
            table.add(name, threads, rate);
        }
    }
    if settings.wants("beside") && threads > 1 {
        beside(threads, &filled, settings, table);
    }
}

/// One thread appends, the others read what was there before, until the store is full.
fn beside(threads: usize, filled: &Filled, settings: &Settings, table: &mut Table) {
    let payloads = payloads();
    // Its ids are nobody else's.
    let source = Source::new(&filled.store, &payloads, [0, 1], false, settings.first_ms).with_ids_of(threads);
    let written = std::sync::atomic::AtomicU64::new(0);
    let room = settings.events() / 2;
    let rate = race(threads, settings.time, |thread, running| {
        if thread > 0 {
            return filled.get(thread, running, |random| filled.any_id(random));
        }
        let done = source.append(&filled.store, 0, room, 1, Some(running));
        written.store(done, std::sync::atomic::Ordering::Relaxed);
        0
    });
    table.add("get beside one writer (the other threads)", threads, rate);
    let appended = written.into_inner() as f64 / rate.seconds;
    table.add("that writer's append", threads, crate::race::Rate { each_second: appended, ..rate });
}
