//! `cargo bench --bench store`: appending and reading, next to what the memory of this machine allows, measured in the same run.
//!
//! There is no harness: every round measures each limit and each operation once, on fresh stores, so that a ratio
//! compares figures that were taken within seconds of each other; the table has the medians of the rounds.

mod common;
mod limits;

use std::hint::black_box;
use std::time::Duration;

use esker::{ClassConfig, Clock, Config, Event, OnLeave, RegionKind, Store, Stream};

use common::machine::thread_time;
use common::report::{QUANTILES, Report};
use common::{
    Latencies, Payloads, Random, Settings, Task, Workload, first_word, mix, now, race_each, scale, time_each,
    time_found, touch,
};
use limits::Limits;

/// The share of the hot region that the events take: below the threshold at which pages begin to move down.
const FILL: f64 = 0.75;
/// Events that one reader of a history asks for.
const NEWEST: usize = 100;
/// Ranges that a round scans.
const SCANS: usize = 30;

fn main() {
    let settings = match Settings::from_args() {
        Ok(settings) => settings,
        Err(fault) => {
            eprintln!("{fault}");
            std::process::exit(2);
        }
    };
    let (begin, busy) = (now(), thread_time());
    let work = Workload::new(&settings, Clock::system().now_ms());
    let mut limits = Limits::new(&settings, &work).expect("there must be memory for the limits");
    let mut report = Report::default();
    for round in 0..settings.rounds {
        eprintln!("round {} of {}", round + 1, settings.rounds);
        run(round, &settings, &work, &mut limits, &mut report);
    }
    report.note(
        "size",
        format!(
            "{} events of 256 B, {} of 1 KB, {} rounds, {:.0} s",
            settings.events,
            settings.events / 4,
            settings.rounds,
            begin.elapsed().as_secs_f64()
        ),
    );
    let share = (thread_time() - busy).as_secs_f64() / begin.elapsed().as_secs_f64();
    report.note(
        "this thread had a processor",
        format!("{share:.2} of the time; on a quiet machine about 0.9, since it waits for the two producers"),
    );
    report.note("machine", machine());
    report.print();
}

/// One round.
fn run(round: usize, settings: &Settings, work: &Workload, limits: &mut Limits, report: &mut Report) {
    if settings.wants("limits") {
        limits.write(settings, work, report);
    }
    // Each round begins with another one, so that none always follows the same neighbour.
    let mut ingests = INGESTS;
    ingests.rotate_left(round % INGESTS.len());
    for ingest in ingests.iter().filter(|ingest| settings.wants(ingest.group)) {
        ingest.run(settings, work, report);
    }
    let record = work.small.record();
    let reads = ["get", "history", "scan"];
    if reads.iter().any(|group| settings.wants(group)) {
        let store = Hot::open(settings.events, &work.small);
        append(&store.0, work, &work.small, 0..settings.events, 64);
        if settings.wants("limits") {
            limits.read(settings, record, report);
        }
        if settings.wants("get") {
            get(&store.0, settings, report);
        }
        if settings.wants("history") {
            history(&store.0, settings, work, report);
        }
        if settings.wants("scan") {
            let mut random = Random::new(23 + round as u64);
            let places: Vec<usize> =
                (0..SCANS).map(|_| random.below(settings.events - settings.events / 100)).collect();
            if settings.wants("limits") {
                limits.scan(settings, record, &places, report);
            }
            scan(&store.0, settings, work, &places, report);
        }
    }
    if settings.wants("sums") {
        sums(settings, work, report);
    }
    if settings.wants("steady") {
        for full in FULL {
            steady(full, settings, work, report);
        }
    }
    if settings.wants("warm") {
        if settings.wants("limits") {
            limits.pack(settings, report);
        }
        warm(settings, work, report);
    }
}

/// A store that has room for its events without moving any, its memory pre-faulted.
struct Hot(Store);

impl Hot {
    fn config(events: usize, payloads: &Payloads) -> esker::ConfigBuilder {
        let hot = (((events * payloads.record()) as f64 / FILL) as u64 + (8 << 20)).next_multiple_of(2 << 20);
        // The share of the index is the default one.
        let index = (hot / 11 * 3).next_multiple_of(2 << 20);
        Config::builder()
            .memory(hot * 2 + (32 << 20))
            .hot(|region| region.max(hot).initial(hot).prefault(true))
            .index(|region| region.max(index).initial(index).prefault(true))
    }

    fn open(events: usize, payloads: &Payloads) -> Self {
        let config = Self::config(events, payloads).build().expect("the sizes fit together");
        Self(Store::open(config).expect("there must be memory for the store"))
    }
}

impl Drop for Hot {
    fn drop(&mut self) {
        let stats = self.0.stats();
        assert_eq!((stats.events.demoted, stats.events.waited), (0, 0), "nothing was to move or to wait");
    }
}

#[inline]
fn event<'a>(work: &Workload, payloads: &'a Payloads, at: usize) -> Event<'a> {
    let stream = Stream::from(work.streams[at]);
    Event::new(stream, at as u64 + 1, work.first_ms + at as i64, Workload::kind(at)).payload(payloads.of(at))
}

/// Appends those events, one by one or in batches.
fn append(store: &Store, work: &Workload, payloads: &Payloads, events: std::ops::Range<usize>, batch: usize) {
    append_ids(store, work, payloads, events, batch, |at| at);
}

/// The same, with an id made of each event's number.
#[inline]
fn append_ids(
    store: &Store,
    work: &Workload,
    payloads: &Payloads,
    events: std::ops::Range<usize>,
    batch: usize,
    id: impl Fn(u64) -> u64,
) {
    let make = |at: usize| {
        let mut event = event(work, payloads, at);
        event.id = id(event.id);
        event
    };
    if batch == 1 {
        for at in events {
            store.append(&make(at)).expect("there is room");
        }
        return;
    }
    let mut list = Vec::with_capacity(batch);
    for first in events.clone().step_by(batch) {
        list.clear();
        list.extend((first..(first + batch).min(events.end)).map(make));
        let done = store.append_batch(&list).expect("the store is open");
        assert_eq!(done.stored, list.len(), "there is room");
    }
}

/// A way to append.
#[derive(Clone, Copy)]
struct Ingest {
    group: &'static str,
    name: &'static str,
    batch: usize,
    large: bool,
    limit: &'static str,
    /// Two producers, with their limits by the wall clock and by processor time.
    two: Option<[&'static str; 2]>,
    /// Ids all over the 64 bits, instead of a sequence.
    scattered: bool,
}

impl Ingest {
    const fn small(group: &'static str, name: &'static str, batch: usize) -> Self {
        Self { group, name, batch, large: false, limit: limits::APPEND, two: None, scattered: false }
    }

    fn run(&self, settings: &Settings, work: &Workload, report: &mut Report) {
        let (payloads, events) =
            if self.large { (&work.large, settings.events / 4) } else { (&work.small, settings.events) };
        let store = Hot::open(events, payloads);
        let batch = self.batch;
        // The last twentieth is timed call by call.
        let bulk = events / 20 * 19;
        if let Some([wall_limit, busy_limit]) = self.two {
            let part = bulk / 2;
            let task = |first: usize| {
                let store = &store.0;
                Box::new(move || append(store, work, payloads, first..first + part, batch)) as Task<'_>
            };
            let [wall, busiest] = race_each(part * 2, Vec::from([0, part].map(task)));
            report.add(self.name, Some(wall_limit), wall);
            report.add(&format!("{}, processor time of the busier", self.name), Some(busy_limit), busiest);
            return;
        }
        let ids = if self.scattered { mix } else { |at| at };
        let nanos = time_each(bulk, || append_ids(&store.0, work, payloads, 0..bulk, batch, ids));
        report.add(self.name, Some(self.limit), nanos);
        if *self == INGESTS[0] {
            let tail = Latencies::of(events - bulk, |at| {
                append(&store.0, work, payloads, bulk + at..bulk + at + 1, 1);
            });
            report.add_tail("append", tail.nanos(QUANTILES));
            memory(&store.0, report);
        }
    }
}

impl PartialEq for Ingest {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

const TWO: Option<[&str; 2]> = Some([limits::APPEND_TWO, limits::APPEND_TWO_BUSY]);
const INGESTS: [Ingest; 10] = [
    Ingest::small("single", "append", 1),
    Ingest::small("batch16", "append_batch of 16", 16),
    Ingest::small("batch64", "append_batch of 64", 64),
    Ingest::small("batch256", "append_batch of 256", 256),
    Ingest { scattered: true, ..Ingest::small("scattered", "append, scattered ids", 1) },
    Ingest { scattered: true, ..Ingest::small("scattered", "append_batch of 64, scattered ids", 64) },
    Ingest { two: TWO, ..Ingest::small("two", "append, 2 producers", 1) },
    Ingest { two: TWO, ..Ingest::small("two", "append_batch of 64, 2 producers", 64) },
    Ingest { large: true, limit: limits::APPEND_LARGE, ..Ingest::small("large", "append, 1 KB", 1) },
    Ingest {
        large: true,
        limit: limits::APPEND_LARGE,
        ..Ingest::small("large", "append_batch of 64, 1 KB", 64)
    },
];

/// What an event takes beyond its payload, everything counted.
fn memory(store: &Store, report: &mut Report) {
    let stats = store.stats();
    let events = stats.events.hot as f64;
    let used = |kind: RegionKind| stats.region(kind).used_bytes as f64 / events;
    let payload = stats.events.appended_bytes as f64 / stats.events.appended as f64;
    let buffers = stats.buffer_bytes as f64 / events;
    let (hot, index, system) = (used(RegionKind::Hot), used(RegionKind::Index), used(RegionKind::System));
    report.note(
        "memory of an event over its payload",
        format!(
            "{:.1} B (records and page slack {:.1}, index and stream directory {index:.1}, page table and \
             directories {system:.1}, buffers {buffers:.1}); huge pages: {}",
            hot + index + system + buffers - payload,
            hot - payload,
            huge_pages()
        ),
    );
}

/// Point reads, one at a time and side by side.
fn get(store: &Store, settings: &Settings, report: &mut Report) {
    let (events, reads) = (settings.events, settings.reads);
    let guard = store.pin();
    let word = |id: u64| {
        let event = guard.get(id).expect("every id was appended");
        event.id() ^ first_word(event.payload())
    };
    let id = |hash: u64| scale(hash, events) as u64 + 1;
    let mut random = Random::new(29);
    let nanos = time_each(reads, || {
        black_box((0..reads).fold(0u64, |sum, _| sum.wrapping_add(word(id(random.next())))));
    });
    report.add("get", Some(limits::TWO_READS), nanos);
    let nanos = time_each(reads, || {
        black_box((0..reads).fold(1u64, |last, at| word(id(mix(last ^ at as u64)))));
    });
    report.add("get, chained", Some(limits::TWO_READS_CHAINED), nanos);
    let nanos = time_each(reads, || {
        for _ in 0..reads {
            let guard = store.pin();
            black_box(guard.get(id(random.next())).expect("every id was appended").payload());
        }
    });
    report.add("get, a guard for each", Some(limits::TWO_READS), nanos);
    let nanos = time_each(reads / 16 * 16, || {
        let mut sum = 0u64;
        for _ in 0..reads / 16 {
            let ids: [u64; 16] = std::array::from_fn(|_| id(random.next()));
            for event in guard.get_batch(&ids).iter().flatten() {
                sum = sum.wrapping_add(event.id() ^ first_word(event.payload()));
            }
        }
        black_box(sum);
    });
    report.add("get_batch of 16", Some(limits::TWICE_16), nanos);
    let tail = Latencies::of(reads, |_| {
        black_box(word(id(random.next())));
    });
    report.add_tail("get", tail.nanos(QUANTILES));
}

/// The same where each event is summed up when it comes and when it is read.
fn sums(settings: &Settings, work: &Workload, report: &mut Report) {
    let sizes = [
        (&work.small, settings.events, "append_batch of 64", Some("get"), ""),
        (&work.large, settings.events / 4, "append_batch of 64, 1 KB", None, ", 1 KB"),
    ];
    for (payloads, events, batches, reads, size) in sizes {
        let config =
            Hot::config(events, payloads).event_checksums(true).build().expect("the sizes fit together");
        let store = Hot(Store::open(config).expect("there must be memory for the store"));
        let nanos = time_each(events, || append(&store.0, work, payloads, 0..events, 64));
        report.add(&format!("{batches}, event_checksums"), Some(batches), nanos);
        let (guard, mut random) = (store.0.pin(), Random::new(31));
        let nanos = time_each(settings.reads, || {
            black_box((0..settings.reads).fold(0u64, |sum, _| {
                let event =
                    guard.get(scale(random.next(), events) as u64 + 1).expect("every id was appended");
                sum.wrapping_add(event.id() ^ first_word(event.payload()))
            }));
        });
        report.add(&format!("get{size}, event_checksums"), reads, nanos);
    }
}

/// The newest events of popular streams.
fn history(store: &Store, settings: &Settings, work: &Workload, report: &mut Report) {
    let guard = store.pin();
    let mut asked = work.asked.iter().cycle();
    let mut walk = |newest: usize| {
        let stream = Stream::from(*asked.next().unwrap_or(&0));
        let (mut events, mut sum) = (0, 0u64);
        for event in guard.history(stream).newest().take(newest) {
            sum = sum.wrapping_add(first_word(event.payload()));
            events += 1;
        }
        black_box(sum);
        events
    };
    let walks = settings.reads / 20;
    let nanos = time_found(|| (0..walks).map(|_| walk(NEWEST)).sum());
    report.add("history, newest 100, an event", Some(limits::READ_16), nanos);
    let tail = Latencies::of(walks, |_| {
        walk(NEWEST);
    });
    report.add_tail("history, newest 100, whole", tail.nanos(QUANTILES));
}

/// A hundredth of all events by time.
fn scan(store: &Store, settings: &Settings, work: &Workload, places: &[usize], report: &mut Report) {
    let guard = store.pin();
    let len = settings.events / 100;
    let mut found = 0;
    let mut each = |name, ordered: bool, kind: Option<u8>| {
        let nanos = time_each(len * places.len(), || {
            let mut sum = 0u64;
            for place in places {
                let first = work.first_ms + *place as i64;
                let mut scan = guard.scan(first..first + len as i64);
                if ordered {
                    scan = scan.ordered();
                }
                if let Some(kind) = kind {
                    scan = scan.kind(kind);
                }
                for event in scan {
                    sum = sum.wrapping_add(touch(event.payload()));
                    found += 1;
                }
            }
            black_box(sum);
        });
        report.add(name, Some(limits::SCAN), nanos);
    };
    each("scan 1 %, an event in range", false, None);
    each("scan 1 % in order, an event in range", true, None);
    each("scan 1 %, kind 1 of 16, an event in range", false, Some(5));
    let all = len * places.len();
    assert!(found >= 2 * all && found < 3 * all, "scans find what is in range");
}

/// A way to make room in a full store.
#[derive(Clone, Copy)]
struct Full {
    name: &'static str,
    large: bool,
    compress: bool,
    on_leave: OnLeave,
}

const FULL: [Full; 4] = [
    Full { name: "drop as written", large: false, compress: false, on_leave: OnLeave::Drop },
    Full { name: "1 KB, drop as written", large: true, compress: false, on_leave: OnLeave::Drop },
    Full { name: "1 KB, squeeze, drop", large: true, compress: true, on_leave: OnLeave::Drop },
    Full { name: "1 KB, squeeze, spill to disk", large: true, compress: true, on_leave: OnLeave::Spill },
];

/// Appending to a store that is full, while its oldest events leave as fast as new ones come. By the wall clock: one
/// thread appends, others make room.
fn steady(full: Full, settings: &Settings, work: &Workload, report: &mut Report) {
    let (payloads, events) =
        if full.large { (&work.large, settings.events / 4) } else { (&work.small, settings.events) };
    // A quarter of what is appended fits.
    let cap = ((events * payloads.record()) as u64 / 4).next_multiple_of(2 << 20).max(32 << 20);
    let dir = tempfile::tempdir().expect("there must be room for a directory");
    let class = ClassConfig::new("window").compress(full.compress).on_leave(full.on_leave);
    let config = Config::builder()
        .memory(cap)
        .hot(|region| region.prefault(true).initial(cap / 2).max(cap / 2))
        .index(|region| region.prefault(true))
        .append_timeout(Duration::from_secs(60))
        .class(class);
    let config = if full.on_leave == OnLeave::Spill { config.data_dir(dir.path()) } else { config };
    let store = Store::open(config.build().expect("the sizes fit together"));
    let store = store.expect("there must be memory for the store");
    let (filled, bulk) = (events / 4, events / 20 * 19);
    append(&store, work, payloads, 0..filled, 64);
    let begin = now();
    append(&store, work, payloads, filled..bulk, 64);
    let nanos = begin.elapsed().as_nanos() as f64 / (bulk - filled) as f64;
    let hot = if full.large { "append_batch of 64, 1 KB" } else { "append_batch of 64" };
    report.add(&format!("append_batch of 64 to a full store: {}", full.name), Some(hot), nanos);
    if !full.large {
        let tail = Latencies::of(events - bulk, |at| {
            append(&store, work, payloads, bulk + at..bulk + at + 1, 1);
        });
        report.add_tail("append to a full store", tail.nanos(QUANTILES));
    }
    let stats = store.stats();
    let left = stats.events.dropped + stats.events.released;
    assert!(left as usize > events / 4, "{left} events have left");
    assert!(stats.memory_bytes <= cap, "{} of {cap}", stats.memory_bytes);
    store.abandon();
}

/// Squeezes events into the warm tier, and reads them there.
fn warm(settings: &Settings, work: &Workload, report: &mut Report) {
    let (events, reads) = (settings.events / 4, settings.reads / 20);
    let names = ["demote to warm, an event of 1 KB", "warm tier, 1 KB"];
    squeezed(events / 4, work, &work.large, names, report).abandon();
    let store = squeezed(events, work, &work.small, ["demote to warm, an event", "warm tier"], report);
    let guard = store.pin();
    let mut random = Random::new(31);
    let mut read = || {
        let event = guard.get(random.below(events) as u64 + 1).expect("every id was appended");
        black_box(first_word(event.payload()));
    };
    report.add("get, warm", Some(limits::UNPACK), time_each(reads, || (0..reads).for_each(|_| read())));
    report.add_tail("get, warm", Latencies::of(reads, |_| read()).nanos(QUANTILES));
    let nanos = time_found(|| {
        let walk = |stream: &u32| {
            let mut events = 0;
            for event in guard.history(Stream::from(*stream)).take(NEWEST) {
                black_box(first_word(event.payload()));
                events += 1;
            }
            events
        };
        work.asked.iter().take(reads / 20).map(walk).sum()
    });
    report.add("history, newest 100, warm, an event", Some(limits::UNPACK), nanos);
}

/// A store whose events were all moved to the warm tier by this thread, and what that took.
fn squeezed(
    events: usize,
    work: &Workload,
    payloads: &Payloads,
    [row, note]: [&'static str; 2],
    report: &mut Report,
) -> Store {
    let clock = Clock::manual(work.first_ms + events as i64);
    let config = Hot::config(events, payloads).background(false);
    let warm = ((events * payloads.record()) as u64 * 2).next_multiple_of(2 << 20);
    let config =
        config.memory(warm * 4 + (64 << 20)).warm(|region| region.max(warm).initial(warm).prefault(true));
    let config = config.build().expect("the sizes fit together");
    let store =
        Store::builder(config).clock(clock.clone()).open().expect("there must be memory for the store");
    append(&store, work, payloads, 0..events, 64);
    // Beyond the hot window of 4 hours, within the warm one of 24.
    clock.set_ms(work.first_ms + Duration::from_secs(5 * 3600).as_millis() as i64);
    let nanos = time_each(events, || store.maintain().expect("there is no cold tier that could fail"));
    report.add(row, None, nanos);
    let stats = store.stats().events;
    assert_eq!((stats.warm, stats.hot), (events as u64, 0), "all events are warm");
    let part = stats.warm_packed_bytes as f64 / stats.warm_raw_bytes as f64;
    report.note(note, format!("{part:.3} of the size in the hot tier"));
    store
}

/// How much of this process lies on huge pages, where the system tells.
fn huge_pages() -> String {
    let Ok(text) = std::fs::read_to_string("/proc/self/smaps_rollup") else { return "not known".into() };
    let mib = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
    };
    match (mib("AnonHugePages:"), mib("Rss:")) {
        (Some(huge), Some(all)) => format!("{huge} of {all} MiB"),
        _ => "not known".into(),
    }
}

fn machine() -> String {
    let first = |path: &str, name: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit(':').next().unwrap_or_default().trim().to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (cpu, kernel) = (first("/proc/cpuinfo", "model name"), first("/proc/sys/kernel/osrelease", ""));
    format!("{cpu}, {cpus} processors, kernel {kernel}, load {}", first("/proc/loadavg", ""))
}
