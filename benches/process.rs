//! What `Durability::Process` and `Durability::Disk` cost beside `Durability::Memory`, in the same run, and how fast a store is found again.
//!
//! ```console
//! cargo bench --bench process                                  # 2,000,000 events of 256 B, 5 rounds
//! cargo bench --bench process -- --events 4000000 --rounds 9
//! cargo bench --bench process -- --modes --dir /var/tmp         # what a log on that disk costs beside them
//! cargo bench --bench process -- --logs --memory 1 --dir /var/tmp  # what reading that log costs an opening
//! cargo bench --bench process -- --attach --memory 10          # how fast 10 GiB of events are found again
//! ```
#![allow(clippy::unwrap_used, reason = "a benchmark that meets an error has failed")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use esker::{ClassConfig, Config, ConfigBuilder, DiskSync, Durability, Event, Store, Stream};

const STREAMS: u64 = 100_000;
const PAYLOAD: usize = 256;
const BATCH: usize = 64;
/// Bytes that an event takes in a page.
const RECORD: usize = PAYLOAD + 40;

struct Settings {
    events: usize,
    rounds: usize,
    /// Only opening again is measured.
    attach: bool,
    /// Only appending is measured, in all modes.
    modes: bool,
    /// Only opening with a log is measured.
    logs: bool,
    /// Where the log of `Durability::Disk` is.
    dir: PathBuf,
}

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn settings() -> Settings {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    // Without `--bench` (`cargo test --benches`) everything runs once and small, to show that it works.
    let (events, rounds) = if args.iter().any(|arg| arg == "--bench") { (2_000_000, 5) } else { (20_000, 1) };
    args.retain(|arg| arg != "--bench");
    let number = |name: &str| -> Option<usize> {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)?.replace('_', "").parse().ok()
    };
    let dir = args.iter().position(|arg| arg == "--dir").and_then(|at| args.get(at + 1));
    // Of a memory in GiB, as many events as fill so much of pages.
    let in_memory = number("--memory").map(|memory| (memory << 30) / RECORD);
    Settings {
        events: number("--events").or(in_memory).unwrap_or(events),
        rounds: number("--rounds").unwrap_or(rounds),
        modes: args.iter().any(|arg| arg == "--modes"),
        logs: args.iter().any(|arg| arg == "--logs"),
        dir: dir.map_or_else(std::env::temp_dir, PathBuf::from),
        attach: args.iter().any(|arg| arg == "--attach"),
    }
}

fn mix(value: u64) -> u64 {
    let wide = u128::from(value ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    wide as u64 ^ (wide >> 64) as u64
}

/// Half random bytes, half text.
fn payloads() -> Vec<u8> {
    let text = b"the quick brown fox jumps over the lazy dog; ";
    let random = (0..64 << 10).map(|at| (mix(at / 8) >> (at % 8 * 8)) as u8);
    let of = |at: usize, byte: u8| if at % PAYLOAD < PAYLOAD / 2 { byte } else { text[at % text.len()] };
    random.enumerate().map(|(at, byte)| of(at, byte)).collect()
}

fn event(payloads: &[u8], at: usize) -> Event<'_> {
    let from = at * PAYLOAD % (payloads.len() - PAYLOAD);
    let stream = Stream::from((mix(at as u64) % STREAMS) as u32);
    Event::new(stream, at as u64, at as i64, at as u8 & 15).payload(&payloads[from..from + PAYLOAD])
}

/// A store in which everything stays hot, unless the class says otherwise.
fn config(events: usize, durability: Durability, class: ClassConfig) -> ConfigBuilder {
    let bytes = (events * RECORD) as u64;
    let (hot, index) = (bytes + bytes / 16 + (16 << 20), (events * 24) as u64 + (24 << 20));
    Config::builder()
        .class(class)
        .memory(hot + index + bytes + bytes / 16 + (64 << 20))
        .hot(|region| region.max(hot).initial(hot))
        .index(|region| region.max(index).initial(index))
        .warm(|region| region.max(bytes))
        .thresholds(0.97, 0.98, 0.99)
        .buffers("8MiB")
        .durability(durability)
}

fn touched(config: ConfigBuilder) -> ConfigBuilder {
    config.hot(|region| region.prefault(true)).index(|region| region.prefault(true))
}

/// Events are of 1970 by their time.
const EVER: Duration = Duration::from_secs(1 << 40);

fn hot() -> ClassConfig {
    ClassConfig::new("hot").hot_for(EVER).warm_for(EVER)
}

/// Squeezed at once.
fn squeezed() -> ClassConfig {
    ClassConfig::new("squeezed").hot_for(Duration::ZERO).warm_for(EVER)
}

/// A directory in shared memory, or wherever temporary files are.
fn shared() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Nanoseconds for each of `count` things.
fn each(count: usize, work: impl FnOnce()) -> f64 {
    let begin = now();
    work();
    begin.elapsed().as_nanos() as f64 / count as f64
}

fn append(store: &Store, payloads: &[u8], events: usize) {
    for at in 0..events {
        store.append(&event(payloads, at)).unwrap();
    }
}

fn append_batches(store: &Store, payloads: &[u8], events: usize) {
    append_range(store, payloads, 0..events);
}

fn append_range(store: &Store, payloads: &[u8], range: std::ops::Range<usize>) {
    let mut batch = Vec::with_capacity(BATCH);
    for from in range.clone().step_by(BATCH) {
        batch.clear();
        batch.extend((from..(from + BATCH).min(range.end)).map(|at| event(payloads, at)));
        assert_eq!(store.append_batch(&batch).unwrap().stored, batch.len());
    }
}

fn get(store: &Store, events: usize, reads: usize) -> u64 {
    let guard = store.pin();
    (0..reads as u64).map(|at| guard.get(mix(at) % events as u64).unwrap().payload()[0] as u64).sum()
}

const ROWS: [&str; 6] =
    ["append", "append_batch of 64", "get", "remove", "open again, hot", "open again, half warm"];

fn open(config: ConfigBuilder) -> Store {
    Store::open(config.build().unwrap()).unwrap()
}

/// One round of one mode: nanoseconds for each event of each row.
fn round(settings: &Settings, payloads: &[u8], durability: Durability) -> [f64; ROWS.len()] {
    let events = settings.events;
    let dir = shared();
    let config = |name: &str| touched(config(events, durability, hot())).shared_dir(dir.path().join(name));
    let mut times = [f64::NAN; ROWS.len()];
    {
        let store = open(config("single"));
        times[0] = each(events, || append(&store, payloads, events));
        store.abandon();
        std::fs::remove_dir_all(dir.path().join("single")).unwrap_or_default();
    }
    let store = open(config("batches"));
    times[1] = each(events, || append_batches(&store, payloads, events));
    let reads = events / 4;
    times[2] = each(reads, || {
        std::hint::black_box(get(&store, events, reads));
    });
    let hot = store.stats().events.hot;
    assert!(hot > events as u64 / 100 * 95, "{hot} events are hot");
    let removals = events / 100;
    times[3] = each(removals, || {
        for at in 0..removals {
            assert!(store.remove((at * 100) as u64).unwrap());
        }
    });
    store.abandon();
    if durability == Durability::Process {
        times[4] = found_again(&open(config("batches")), events);
        std::fs::remove_dir_all(dir.path().join("batches")).unwrap();
        times[5] = half_warm(settings, payloads, dir.path());
    }
    times
}

/// Nanoseconds an event that a store took to find what another had left.
fn found_again(store: &Store, events: usize) -> f64 {
    let found = store.recovered().unwrap();
    assert!(found.is_whole() && found.events + found.removed == events as u64, "{found:?}");
    found.took.as_nanos() as f64 / events as f64
}

fn half_warm(settings: &Settings, payloads: &[u8], dir: &Path) -> f64 {
    let events = settings.events;
    let config = || {
        let config = touched(config(events, Durability::Process, squeezed()));
        config.shared_dir(dir.join("warm")).background(false)
    };
    let store = open(config());
    append_batches(&store, payloads, events / 2);
    store.maintain().unwrap();
    let warm = store.stats().events.warm;
    for at in events / 2..events {
        store.append(&event(payloads, at)).unwrap();
    }
    store.abandon();
    assert!(warm > events as u64 / 3, "{warm} events are warm");
    found_again(&open(config()), events)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const AGAIN: [&str; 5] = [
    "open, after the process had ended: to the first get",
    "of that, building the indexes anew",
    "close",
    "open, after that: to the first get",
    "of that, attaching",
];

/// Opening again, once of each kind: milliseconds.
fn again(settings: &Settings, payloads: &[u8]) -> [f64; AGAIN.len()] {
    let (events, dir) = (settings.events, shared());
    let config = || config(events, Durability::Process, hot()).shared_dir(dir.path());
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    let store = open(config());
    append_batches(&store, payloads, events);
    store.abandon();
    let timed = || {
        let begin = now();
        let store = open(config());
        assert_eq!(store.pin().get(events as u64 / 2).unwrap().id(), events as u64 / 2);
        let took = millis(begin.elapsed());
        found_again(&store, events);
        let found = store.recovered().unwrap();
        assert_eq!(found.attached, found.was_closed, "it is attached if the files are in memory");
        let inside = millis(found.took);
        (store, took, inside)
    };
    let (store, rebuilt, rebuilding) = timed();
    let begin = now();
    store.close(Duration::from_secs(60)).unwrap();
    let closing = millis(begin.elapsed());
    drop(store);
    let (store, attached, attaching) = timed();
    store.abandon();
    [rebuilt, rebuilding, closing, attached, attaching]
}

fn measure_again(settings: &Settings, payloads: &[u8]) {
    let all: Vec<_> = (0..settings.rounds).map(|_| again(settings, payloads)).collect();
    let gib = (settings.events * RECORD) as f64 / (1u64 << 30) as f64;
    println!(
        "{} events of {PAYLOAD} B, {gib:.1} GiB of pages, medians of {} rounds\n",
        settings.events, settings.rounds
    );
    println!("| what | ms | ns an event |");
    println!("|---|---:|---:|");
    for (row, name) in AGAIN.iter().enumerate() {
        let time = median(all.iter().map(|times| times[row]).collect());
        println!("| {name} | {time:.1} | {:.1} |", time * 1e6 / settings.events as f64);
    }
}

const INTERVAL: Durability = Durability::Disk(DiskSync::Interval(Duration::from_millis(10)));
const MODES: [(&str, Durability); 4] = [
    ("Memory", Durability::Memory),
    ("Process", Durability::Process),
    ("Disk, 10 ms", INTERVAL),
    ("Disk, every batch", Durability::Disk(DiskSync::EveryBatch)),
];
/// How many threads append, and how many events at a time.
const APPENDING: [(usize, usize); 4] = [(1, 1), (2, 1), (1, BATCH), (2, BATCH)];

/// Nanoseconds an event of each way of appending, in one mode.
fn appending(settings: &Settings, payloads: &[u8], durability: Durability) -> [f64; APPENDING.len()] {
    APPENDING.map(|(threads, batch)| {
        let (shared, data) = (shared(), tempfile::tempdir_in(&settings.dir).unwrap());
        let waits = durability == Durability::Disk(DiskSync::EveryBatch);
        // One call takes as long as the disk does.
        let events = if waits { settings.events.min(threads * 2_000 * batch) } else { settings.events };
        let config = touched(config(events, durability, hot())).shared_dir(shared.path().join("pages"));
        let has_log = !matches!(durability, Durability::Memory | Durability::Process);
        if waits {
            // The disk may still be busy with what the mode before has left.
            std::process::Command::new("sync").status().unwrap();
            std::thread::sleep(Duration::from_secs(1));
        }
        let store = open(if has_log { config.data_dir(data.path()) } else { config });
        let time = each(events, || {
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let store = &store;
                    let range = thread * events / threads..(thread + 1) * events / threads;
                    scope.spawn(move || match batch {
                        1 => range.for_each(|at| assert!(store.append(&event(payloads, at)).is_ok())),
                        _ => append_range(store, payloads, range),
                    });
                }
            });
        });
        assert_eq!(store.stats().events.appended, events as u64);
        store.abandon();
        time
    })
}

fn measure_modes(settings: &Settings, payloads: &[u8]) {
    let mut all = MODES.map(|_| Vec::new());
    for round in 0..settings.rounds {
        for at in (0..MODES.len()).map(|at| (at + round) % MODES.len()) {
            all[at].push(appending(settings, payloads, MODES[at].1));
        }
    }
    println!("{} events of {PAYLOAD} B, medians of {} rounds\n", settings.events, settings.rounds);
    println!("| thousand events a second | {} |", MODES.map(|(name, _)| name).join(" | "));
    println!("|---|{}", "---:|".repeat(MODES.len()));
    for (row, (threads, batch)) in APPENDING.iter().enumerate() {
        let rates = all.each_ref().map(|times| {
            let rate = 1e6 / median(times.iter().map(|times| times[row]).collect());
            if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
        });
        let what = if *batch == 1 { "append".to_string() } else { format!("append_batch of {batch}") };
        println!("| {what}, {threads} thread(s) | {} |", rates.join(" | "));
    }
}

const OPENING: [&str; 5] = [
    "after a kill, no log",
    "after a kill, the log in the page cache",
    "after a kill, the log on the disk",
    "after a loss of power, the log in the page cache",
    "after a loss of power, the log on the disk",
];

/// The files of a log.
fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Has the page cache let a file go.
fn drop_from_cache(path: &Path) {
    let mut dd = std::process::Command::new("dd");
    dd.arg(format!("of={}", path.display())).args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0"]);
    assert!(dd.args(["status=none"]).status().unwrap().success());
}

/// Seconds that each opening takes to the first read, and GiB of the log.
fn opening(settings: &Settings, payloads: &[u8]) -> ([f64; OPENING.len()], f64) {
    let (shared, data) = (shared(), tempfile::tempdir_in(&settings.dir).unwrap());
    let (events, pages) = (settings.events, shared.path().join("pages"));
    let config = |durability| config(events, durability, hot()).shared_dir(&pages);
    let logged = || config(INTERVAL).data_dir(data.path());
    let timed = |config: ConfigBuilder| {
        let begin = now();
        let store = open(config);
        assert_eq!(store.pin().get(events as u64 / 2).unwrap().id(), events as u64 / 2);
        let took = begin.elapsed().as_secs_f64();
        found_again(&store, events);
        store.abandon();
        took
    };
    let mut times = [0.0; OPENING.len()];
    let store = open(config(Durability::Process));
    append_batches(&store, payloads, events);
    store.abandon();
    times[0] = timed(config(Durability::Process));
    std::fs::remove_dir_all(&pages).unwrap();
    let store = open(logged());
    append_batches(&store, payloads, events);
    store.sync().unwrap();
    store.abandon();
    let bytes: u64 = files(data.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    for (at, loses_power, is_cached) in
        [(1, false, true), (2, false, false), (3, true, true), (4, true, false)]
    {
        for path in files(data.path()) {
            std::hint::black_box(std::fs::read(&path).unwrap());
            if !is_cached {
                drop_from_cache(&path);
            }
        }
        if loses_power {
            std::fs::remove_dir_all(&pages).unwrap();
        }
        times[at] = timed(logged());
    }
    (times, bytes as f64 / (1u64 << 30) as f64)
}

fn measure_logs(settings: &Settings, payloads: &[u8]) {
    let all: Vec<_> = (0..settings.rounds).map(|_| opening(settings, payloads)).collect();
    let gib = median(all.iter().map(|(_, gib)| *gib).collect());
    println!(
        "{} events of {PAYLOAD} B, a log of {gib:.2} GiB, medians of {} rounds\n",
        settings.events, settings.rounds
    );
    println!("| an opening | s | of that for the log | s per GiB of log |");
    println!("|---|---:|---:|---:|");
    for (row, name) in OPENING.iter().enumerate() {
        let of = |times: &[f64; OPENING.len()]| (times[row], times[row] - times[0]);
        let time = median(all.iter().map(|(times, _)| of(times).0).collect());
        let log = median(all.iter().map(|(times, _)| of(times).1).collect());
        println!("| {name} | {time:.3} | {log:.3} | {:.2} |", log / gib);
    }
}

fn main() {
    let (settings, payloads) = (settings(), payloads());
    if settings.logs {
        return measure_logs(&settings, &payloads);
    }
    if settings.modes {
        return measure_modes(&settings, &payloads);
    }
    if settings.attach {
        return measure_again(&settings, &payloads);
    }
    let mut all = [Vec::new(), Vec::new()];
    for number in 0..settings.rounds {
        let mut modes = [(0, Durability::Memory), (1, Durability::Process)];
        modes.rotate_left(number % 2);
        for (at, durability) in modes {
            all[at].push(round(&settings, &payloads, durability));
        }
    }
    println!("{} events of {PAYLOAD} B, medians of {} rounds\n", settings.events, settings.rounds);
    println!("| what | Memory, ns each | Process, ns each | Process, M/s | Memory / Process |");
    println!("|---|---:|---:|---:|---:|");
    for (row, name) in ROWS.iter().enumerate() {
        let [memory, process] =
            [0, 1].map(|at: usize| median(all[at].iter().map(|times| times[row]).collect()));
        let ratios = all[0].iter().zip(&all[1]).map(|(memory, process)| memory[row] / process[row]).collect();
        let shown = |value: f64| if value.is_nan() { String::new() } else { format!("{value:.1}") };
        let ratio = median(ratios);
        let ratio = if ratio.is_nan() { String::new() } else { format!("{ratio:.2}") };
        println!(
            "| {name} | {} | {} | {} | {ratio} |",
            shown(memory),
            shown(process),
            shown(1000.0 / process)
        );
    }
}
