//! A long time at capacity: many times what memory holds comes in, of several classes, while readers read, in a memory cgroup that
//! leaves no room for more than the configured bound and a fixed overhead. Nothing is killed, nothing grows, and no event is lost
//! that its class promised to keep.
//!
//! ```sh
//! cargo test --release --test steady -- --nocapture                          # 50 times what memory holds
//! ESKER_STEADY_TIMES=500 cargo test --release --test steady -- --nocapture   # longer
//! ```

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

#[path = "it/common.rs"]
#[allow(dead_code, reason = "the other tests use all of it")]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Random, proof, verify, wall_ms};
use esker::{Appended, Class, ClassConfig, Config, ErrorKind, Event, OnLeave, Store, Stream};

const CAP: u64 = 16 << 20;
/// What the process may take beside the bound: its program, stacks, the allocator's slack, and what redb and LZ4 use while they
/// work.
const OVERHEAD: u64 = 32 << 20;
/// What it may take more at the end than when it had been full for a while.
const GROWTH: u64 = 6 << 20;
const BATCH: u64 = 64;
const STREAMS: u64 = 500;
const CHILD: &str = "ESKER_STEADY_CHILD";
/// How long events of the class `short` are kept.
const SHORT: Duration = Duration::from_secs(3);

/// How many times what memory holds.
fn times() -> u64 {
    let asked = std::env::var("ESKER_STEADY_TIMES").ok().map(|times| times.parse().expect("it is a number"));
    asked.unwrap_or(if cfg!(debug_assertions) { 12 } else { 50 })
}

/// A memory cgroup of its own, removed when it is dropped.
struct Group {
    dir: PathBuf,
    /// The names of the limit's and the peak's file.
    files: [&'static str; 2],
}

impl Group {
    /// `Err`: why there is none.
    fn new(limit: u64) -> Result<Self, String> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("esker-steady-{}-{number}", std::process::id());
        let known = [
            ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.max_usage_in_bytes"]),
            ("/sys/fs/cgroup", ["memory.max", "memory.peak"]),
        ];
        let mut why = String::from("there is no memory controller");
        for (root, files) in known {
            let group = Self { dir: Path::new(root).join(&name), files };
            if !Path::new(root).is_dir() {
                continue;
            }
            let made = std::fs::create_dir(&group.dir)
                .and_then(|()| std::fs::write(group.dir.join(files[0]), limit.to_string()));
            match made {
                Ok(()) => return Ok(group),
                Err(error) => why = format!("{}: {error}", group.dir.display()),
            }
        }
        Err(why)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// A field of `/proc/self/status`, in bytes.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_store_stays_within_its_bound_and_keeps_what_it_promised() {
    if let Some(group) = std::env::var_os(CHILD) {
        if !group.is_empty() {
            std::fs::write(Path::new(&group).join("cgroup.procs"), std::process::id().to_string()).unwrap();
        }
        return work();
    }
    let group = Group::new(CAP + OVERHEAD);
    let dir = group.as_ref().map(|group| group.dir.clone()).unwrap_or_default();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["a_store_stays_within_its_bound_and_keeps_what_it_promised", "--exact", "--nocapture"]);
    let output = command.env(CHILD, dir).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    match &group {
        Ok(group) => {
            let peak = group.read(group.files[1]);
            println!("in a cgroup of {} MiB; its peak: {} B", (CAP + OVERHEAD) >> 20, peak.trim());
        }
        Err(why) => println!("WITHOUT a cgroup ({why}): only what the process says of itself was looked at"),
    }
    assert!(output.status.success(), "the process was ended or has failed: {:?}", output.status);
    assert!(text.contains("1 passed"), "the child tested nothing");
}

#[test]
fn a_group_that_allows_less_than_the_store_may_take_is_told_at_opening() {
    let asked = |strict| Config::builder().memory(CAP * 8).strict(strict).build().unwrap();
    if let Some(group) = std::env::var_os(CHILD) {
        std::fs::write(Path::new(&group).join("cgroup.procs"), std::process::id().to_string()).unwrap();
        let store = Store::open(asked(false)).unwrap();
        let told = store.stats().warnings;
        assert!(told.iter().any(|line| line.contains("64MiB") && line.contains("128MiB")), "{told:?}");
        let error = Store::open(asked(true)).err().unwrap();
        assert!(error.kind() == ErrorKind::Io && error.to_string().contains("memory"), "{error}");
        let fits = Config::builder().memory(CAP).strict(true).build().unwrap();
        assert_eq!(Store::open(fits).unwrap().stats().warnings, [""; 0]);
        return;
    }
    let group = match Group::new(CAP * 4) {
        Ok(group) => group,
        Err(why) => return println!("WITHOUT a cgroup ({why}): nothing was looked at"),
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "a_group_that_allows_less_than_the_store_may_take_is_told_at_opening",
        "--exact",
        "--nocapture",
    ]);
    let output = command.env(CHILD, &group.dir).output().unwrap();
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// The classes of the test, in the order of their numbers.
fn config(dir: &Path) -> Config {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let builder = Config::builder()
        .memory(CAP)
        .partitions(2)
        .data_dir(dir)
        .append_timeout(Duration::from_secs(120))
        .class(ClassConfig::new("calls").priority(5))
        .class(ClassConfig::new("texts").compress(false).retention(hours(100)))
        .class(ClassConfig::new("short").hot_for(SHORT / 4).warm_for(SHORT / 2).retention(SHORT))
        .class(ClassConfig::new("probes").on_leave(OnLeave::Drop).quota(3 << 20));
    builder.build().unwrap()
}

struct World {
    store: Store,
    classes: [Class; 4],
    /// Events that are stored have lower ids.
    stored: AtomicU64,
    over: AtomicBool,
    looks: AtomicU64,
}

impl World {
    fn class_of(&self, id: u64) -> usize {
        [0, 1, 2, 3, 0, 3, 1, 0][(id % 8) as usize]
    }

    fn len_of(id: u64) -> usize {
        40 + (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
            % if id.is_multiple_of(50) { 1000 } else { 300 }
    }
}

fn append(world: &World, first: u64) {
    let now_ms = wall_ms();
    let event = |id: u64| {
        Event::new(Stream::from((id % STREAMS) as u32), id, now_ms, (id % 5) as u8)
            .class(world.classes[world.class_of(id)])
    };
    let events: Vec<Event<'_>> = (first..first + BATCH).map(event).collect();
    let payloads: Vec<Vec<u8>> =
        events.iter().map(|event| proof(event.stream, event.id, now_ms, World::len_of(event.id))).collect();
    let events: Vec<Event<'_>> =
        events.iter().zip(&payloads).map(|(event, payload)| event.payload(payload)).collect();
    let batch = world.store.append_batch(&events).unwrap();
    for (at, error) in &batch.refused {
        assert_eq!(error.kind(), ErrorKind::MemoryPressure, "{error}");
        while world.store.append(&events[*at]).map_or(true, |done| done != Appended::Stored) {}
    }
    world.stored.store(first + BATCH, Ordering::Release);
}

/// Holds on to one event for as long as there are any.
fn hold(world: &World) {
    while world.stored.load(Ordering::Acquire) == 0 && !world.over.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    let guard = world.store.pin();
    let first = guard.get(0);
    while !world.over.load(Ordering::Relaxed) {
        first.iter().for_each(verify);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads what was stored lately.
fn read(world: &World, seed: u64) {
    let mut random = Random::new(seed);
    let mut guard = world.store.pin();
    while !world.over.load(Ordering::Relaxed) {
        let newest = world.stored.load(Ordering::Acquire);
        if newest == 0 {
            continue;
        }
        for _ in 0..32 {
            let id = newest.saturating_sub(1 + random.below(2_000)) & !7;
            // Of the first class and stored lately: in memory or in the cold tier, never nowhere.
            match guard.get(id) {
                Some(event) => verify(&event),
                None => verify(&world.store.fetch(id).unwrap().unwrap_or_else(|| panic!("{id} is lost"))),
            }
        }
        let stream = Stream::from(random.below(STREAMS) as u32);
        guard.history(stream).take(20).for_each(|event| verify(&event));
        world.looks.fetch_add(52, Ordering::Relaxed);
        guard.refresh();
    }
}

fn work() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).unwrap();
    let classes = ["calls", "texts", "short", "probes"].map(|name| store.class(name).unwrap());
    let world = World {
        store,
        classes,
        stored: AtomicU64::new(0),
        over: AtomicBool::new(false),
        looks: AtomicU64::new(0),
    };
    let count = (times() * CAP / 230).next_multiple_of(BATCH);
    let (mut full, mut most) = (0, 0);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                scope.spawn({
                    let world = &world;
                    move || read(world, reader)
                })
            })
            .collect();
        let _holder = scope.spawn(|| hold(&world));
        for first in (0..count).step_by(BATCH as usize) {
            append(&world, first);
            if first.is_multiple_of(BATCH * 256) {
                let (stats, resident) = (world.store.stats(), status("VmRSS"));
                assert!(stats.memory_bytes <= CAP, "{stats:#?}");
                if first < count / 4 {
                    full = resident.max(full);
                }
                most = resident.max(most);
            }
            if readers.iter().any(std::thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
        world.over.store(true, Ordering::Relaxed);
    });
    assert!(most <= full + GROWTH, "{full} bytes after a quarter, {most} later");
    check(&world, count);
    let stats = world.store.stats();
    println!(
        "{count} events, {} looks at them; resident {} MiB after a quarter, {} at most; {} dropped, {} expired, {} in {} blocks",
        world.looks.load(Ordering::Relaxed),
        full >> 20,
        most >> 20,
        stats.events.dropped,
        stats.events.expired,
        stats.cold.events,
        stats.cold.blocks
    );
    assert!(status("VmHWM") <= CAP + OVERHEAD, "the peak is {} bytes", status("VmHWM"));
}

/// All that was promised is there, once; what was not is counted.
fn check(world: &World, count: u64) {
    let store = &world.store;
    assert_eq!(world.stored.load(Ordering::Relaxed), count, "a reader has failed");
    let mut left = [0u64; 4];
    for (number, class) in world.classes.iter().enumerate() {
        let expected = (0..count).filter(|id| world.class_of(*id) == number).count() as u64;
        let (mut seen, before) = (vec![0u64; count as usize / 64 + 1], wall_ms());
        for event in store.fetch_scan(..).class(*class).timeout(Duration::from_secs(600)) {
            let event = event.unwrap();
            verify(&event);
            let id = event.id();
            assert_eq!(world.class_of(id), number);
            assert_eq!(seen[id as usize / 64] >> (id % 64) & 1, 0, "{id} is given twice");
            seen[id as usize / 64] |= 1 << (id % 64);
            left[number] += 1;
            // The coarse clock may be a little behind, and so may a machine that stood still.
            let age = before - event.timestamp();
            assert!(number != 2 || age <= SHORT.as_millis() as i64 + 200, "an event of {age} ms is given");
        }
        match number {
            0 | 1 => assert_eq!(left[number], expected, "events of class {number} are lost"),
            _ => assert!(left[number] <= expected),
        }
    }
    let probes = (0..count).filter(|id| world.class_of(*id) == 3).count() as u64;
    let stats = store.stats();
    assert_eq!(probes - left[3], stats.events.dropped, "what was dropped is counted: {stats:#?}");
    store.validate().unwrap();
}
