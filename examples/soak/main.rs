//! Everything at once, with faults, for as long as one likes: `cargo run --release --example soak -- --minutes 10`.
//!
//! A child process uses a store with `Durability::Process`: writers append one by one and in batches, and remove; readers
//! fetch, walk histories and scan, and check every event; regions are resized, guards held, and the embedded cold tier
//! fails at times, having done what it was asked to or not. After some seconds the child is killed, or closes; the
//! parent opens the store and looks for everything that was acknowledged. Each life has another policy.
//!
//! Prints what it has survived each minute and at the end; ends with an error at the first wrong answer.

#![allow(clippy::unwrap_used, reason = "a soak that meets an error has failed")]

mod child;
mod tier;

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use esker::policy::{PriorityTime, Random2Lru, Sieve};
use esker::{ClassConfig, Clock, Config, DiskTier, Durability, EventRef, Store};
use tier::Flaky;

/// Events are kept for that long.
const RETENTION_MS: i64 = 30_000;
/// What the clock may be read too late by, on a busy machine.
const MARGIN_MS: i64 = 10_000;
/// How old a guard's time may be: a thread of the store keeps it fresh, and has to get its turn for that.
const COARSE_MS: i64 = 1000;
/// Those that expire by themselves.
const TTL_MS: i64 = 5_000;
const WRITERS: u64 = 2;
const BATCH: u64 = 48;

pub(crate) fn now_ms() -> i64 {
    Clock::system().now_ms()
}

/// What an id says of its event.
#[derive(Clone, Copy)]
pub(crate) struct Id {
    life: u64,
    writer: u64,
    /// From 1.
    number: u64,
}

impl Id {
    fn of(id: u64) -> Self {
        Self { life: id >> 40, writer: id >> 36 & 15, number: id & ((1 << 36) - 1) }
    }

    fn id(self) -> u64 {
        self.life << 40 | self.writer << 36 | self.number
    }

    fn is_removed(self) -> bool {
        self.number % 16 == 3
    }

    fn expires(self) -> bool {
        self.number % 32 == 5
    }

    fn stream(self) -> u32 {
        (self.number.wrapping_mul(0x9e37_79b9) >> 7) as u32 % 64
    }

    fn is_quick(self) -> bool {
        self.number % 5 == 2
    }

    fn payload(self, timestamp: i64) -> Vec<u8> {
        let len = if self.number % 900 == 1 { 9000 } else { 16 + self.number % 300 };
        let mut bytes = Vec::with_capacity(len as usize + 8);
        let mut word = self.id() ^ (timestamp as u64).rotate_left(20);
        while bytes.len() < len as usize {
            word = word.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(31) ^ self.number;
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.truncate(len as usize);
        bytes
    }
}

/// Whether an event is what was appended, and may be seen by a read that began at that time.
pub(crate) fn check(event: &EventRef<'_>, began_ms: i64) -> Id {
    let (id, began_ms) = (Id::of(event.id()), began_ms - COARSE_MS);
    assert_eq!(event.stream(), esker::Stream::from(id.stream()), "the stream of {event:?}");
    assert_eq!(event.payload(), id.payload(event.timestamp()), "the bytes of {event:?}");
    assert!(event.timestamp() > began_ms - RETENTION_MS, "{event:?} is seen after its retention");
    assert!(
        event.expires_at().is_none_or(|at| at > began_ms),
        "{event:?} expired at {:?} and is seen at {began_ms} or later",
        event.expires_at()
    );
    id
}

/// Numbers in a file, which are there whatever becomes of the process that wrote them.
pub(crate) struct Slots(File);

#[derive(Clone, Copy)]
pub(crate) enum Slot {
    Acknowledged = 0,
    Removed = WRITERS as isize,
    Refused = 2 * WRITERS as isize,
    Reads,
    Histories,
    Scanned,
    Resized,
    Guards,
    TierFaults,
    End,
}

impl Slots {
    fn open(dir: &Path) -> Self {
        let options =
            File::options().read(true).write(true).create(true).truncate(false).open(dir.join("slots"));
        Self(options.unwrap())
    }

    fn set(&self, slot: usize, value: u64) {
        self.0.write_all_at(&value.to_le_bytes(), slot as u64 * 8).unwrap();
    }

    fn get(&self, slot: usize) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, slot as u64 * 8).map_or(0, |()| u64::from_le_bytes(bytes))
    }
}

pub(crate) fn open(dir: &Path, life: u64) -> (Store, Arc<Flaky>) {
    let class = |name| {
        ClassConfig::new(name)
            .hot_for(Duration::from_secs(2))
            .warm_for(Duration::from_secs(6))
            .retention(Duration::from_millis(RETENTION_MS as u64))
    };
    let config = Config::builder()
        .memory("48MiB")
        .hot(|hot| hot.max("12MiB").page_size("16KiB"))
        .warm(|warm| warm.max("8MiB"))
        .partitions(4)
        .class(class("normal"))
        .class(class("quick").priority(3).quota(Some(6 << 20)))
        .durability(Durability::Process)
        .shared_dir(dir.join("shared"))
        .build()
        .unwrap();
    let tier = Arc::new(Flaky::new(DiskTier::open(&dir.join("data"), 1 << 20).unwrap()));
    let builder = Store::builder(config).cold(tier.clone());
    let builder = match life % 3 {
        0 => builder.policy(PriorityTime::new()),
        1 => builder.policy(Sieve::new()),
        _ => builder.policy(Random2Lru::new()),
    };
    (builder.open().unwrap(), tier)
}

/// When a writer had come how far: `(number, time)`, rising.
fn checkpoints(dir: &Path, life: u64, writer: u64) -> Vec<(u64, i64)> {
    let bytes = std::fs::read(checkpoint_file(dir, life, writer)).unwrap_or_default();
    let word = |bytes: &[u8]| u64::from_le_bytes(*bytes.first_chunk().unwrap());
    bytes.chunks_exact(16).map(|pair| (word(pair), word(&pair[8..]) as i64)).collect()
}

pub(crate) fn checkpoint_file(dir: &Path, life: u64, writer: u64) -> PathBuf {
    dir.join(format!("times-{life}-{writer}"))
}

/// What was acknowledged in one life.
struct Life {
    number: u64,
    acknowledged: [u64; WRITERS as usize],
    removed: [u64; WRITERS as usize],
    times: [Vec<(u64, i64)>; WRITERS as usize],
}

#[derive(Default, Debug)]
struct Totals {
    lives: u64,
    kills: u64,
    closes: u64,
    appended: u64,
    removed: u64,
    refused: u64,
    reads: u64,
    histories: u64,
    scanned: u64,
    resized: u64,
    guards: u64,
    tier_faults: u64,
    recovered: u64,
    verified_after_an_end: u64,
}

/// Opens what the last life left and looks whether it is what was acknowledged.
fn verify(dir: &Path, lives: &mut Vec<Life>, totals: &mut Totals) {
    let (store, _) = open(dir, totals.lives);
    let recovered = store.recovered().unwrap();
    assert!(recovered.is_whole(), "{recovered:?}");
    totals.recovered += recovered.events;
    store.validate().unwrap();
    let began = now_ms();
    let mut found = HashSet::new();
    for event in store.fetch_scan(..).timeout(Duration::from_secs(3600)) {
        let event = event.unwrap();
        let id = check(&event, began);
        assert!(found.insert(id.id()), "{event:?} is found twice");
        if let Some(life) = lives.iter().find(|life| life.number == id.life) {
            let writer = id.writer as usize;
            assert!(id.number <= life.acknowledged[writer] + BATCH, "{event:?} was never appended");
            let gone = id.is_removed() && id.number <= life.removed[writer];
            assert!(!gone, "{event:?} was removed");
        }
    }
    let must_be_after = now_ms() - RETENTION_MS + MARGIN_MS;
    for life in lives.iter() {
        for writer in 0..WRITERS as usize {
            let times = &life.times[writer];
            let first =
                times.iter().find(|(_, at)| *at > must_be_after).map_or(u64::MAX, |(number, _)| *number);
            for number in first..=life.acknowledged[writer] {
                let id = Id { life: life.number, writer: writer as u64, number };
                let there = found.contains(&id.id());
                assert!(
                    there || id.is_removed() || id.expires(),
                    "event {:x} of life {} is lost",
                    id.id(),
                    life.number
                );
                totals.verified_after_an_end += u64::from(there);
            }
        }
    }
    lives.retain(|life| {
        let last = life.times.iter().filter_map(|times| times.last()).map(|(_, at)| *at).max();
        last.is_some_and(|at| at > began - 2 * RETENTION_MS)
    });
    if totals.lives.is_multiple_of(2) {
        store.close(Duration::from_secs(60)).unwrap();
    } else {
        store.abandon();
    }
}

/// One life of the child.
fn live(dir: &Path, totals: &mut Totals) -> Life {
    let number = totals.lives;
    let _ = std::fs::remove_file(dir.join("slots"));
    let slots = Slots::open(dir);
    let seconds = 4 + number * 7 % 13;
    let mut command = Command::new(std::env::current_exe().unwrap());
    let closes = number % 4 == 3;
    command.env("ESKER_SOAK_CHILD", dir).env("ESKER_SOAK_LIFE", number.to_string());
    let mut child =
        command.env("ESKER_SOAK_SECONDS", if closes { seconds } else { 3600 }.to_string()).spawn().unwrap();
    if closes {
        let status = child.wait().unwrap();
        assert!(status.success(), "the child of life {number} failed: {status}");
        totals.closes += 1;
    } else {
        std::thread::sleep(Duration::from_millis(seconds * 1000 + number * 137 % 1000));
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "the child of life {number} failed: {ended:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        totals.kills += 1;
    }
    totals.lives += 1;
    let of = |slot: Slot| std::array::from_fn(|writer| slots.get(slot as usize + writer));
    let acknowledged: [u64; WRITERS as usize] = of(Slot::Acknowledged);
    let removed: [u64; WRITERS as usize] = of(Slot::Removed);
    let times = std::array::from_fn(|writer| checkpoints(dir, number, writer as u64));
    totals.appended += acknowledged.iter().sum::<u64>();
    totals.removed += removed.iter().sum::<u64>() / 16;
    let sums = [
        (&mut totals.refused, Slot::Refused),
        (&mut totals.reads, Slot::Reads),
        (&mut totals.histories, Slot::Histories),
        (&mut totals.scanned, Slot::Scanned),
        (&mut totals.resized, Slot::Resized),
        (&mut totals.guards, Slot::Guards),
        (&mut totals.tier_faults, Slot::TierFaults),
    ];
    for (sum, slot) in sums {
        *sum += slots.get(slot as usize);
    }
    Life { number, acknowledged, removed, times }
}

fn main() {
    if let Ok(dir) = std::env::var("ESKER_SOAK_CHILD") {
        let number = |name: &str| std::env::var(name).unwrap().parse().unwrap();
        child::work(Path::new(&dir), number("ESKER_SOAK_LIFE"), number("ESKER_SOAK_SECONDS"));
        return;
    }
    let arguments: Vec<String> = std::env::args().collect();
    let minutes = arguments.iter().position(|argument| argument == "--minutes");
    let minutes: i64 = minutes.and_then(|at| arguments.get(at + 1)).map_or(1, |value| value.parse().unwrap());
    let dir = std::env::temp_dir().join(format!("esker-soak-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (begin, mut told) = (now_ms(), 0);
    let (mut totals, mut lives) = (Totals::default(), Vec::new());
    while now_ms() - begin < minutes * 60_000 {
        let life = live(&dir, &mut totals);
        lives.push(life);
        verify(&dir, &mut lives, &mut totals);
        let minute = (now_ms() - begin) / 60_000;
        if minute > told {
            told = minute;
            println!("minute {minute}: {totals:?}");
        }
    }
    let _ = std::fs::remove_dir_all(&dir);
    println!("survived {minutes} minutes: {totals:#?}");
}
