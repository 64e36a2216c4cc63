//! Stores with a log on a disk: what survives the loss of power.
//!
//! Power is lost by taking the log as it is on the disk (all that was synced, and whatever of the rest), and nothing else.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use esker::{
    ClassConfig, Clock, ConfigBuilder, DiskSync, Durability, ErrorKind, Event, OnLeave, Store, Stream,
};

use crate::common::{Random, append_proof, child_argument, proof, small, verify, wait_until};
#[cfg(target_os = "linux")]
use crate::kept::in_small_file_system;
use crate::kept::{append_some, open, refusal};
use crate::tier::{Fault, MapTier};
use crate::torn::{copy, torn};

const CLOSE: Duration = Duration::from_secs(20);
const EVERY_BATCH: Durability = Durability::Disk(DiskSync::EveryBatch);

fn interval(ms: u64) -> Durability {
    Durability::Disk(DiskSync::Interval(Duration::from_millis(ms)))
}

/// The directories of a store.
struct Dirs {
    dir: tempfile::TempDir,
}

impl Dirs {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.data().join("log")
    }

    fn shared(&self) -> PathBuf {
        self.dir.path().join("shared")
    }

    fn config(&self, durability: Durability) -> ConfigBuilder {
        small().durability(durability).data_dir(self.data()).shared_dir(self.shared()).background(false)
    }

    /// What a machine finds when power comes back: the data directory, and no pages.
    fn after_power_loss(&self) -> Self {
        let after = Self::new();
        copy(&self.data(), &after.data());
        after
    }
}

/// Every event that is found, wherever it is, proves itself, and is found once.
fn found(store: &Store) -> BTreeSet<u64> {
    store.validate().unwrap();
    let mut ids = BTreeSet::new();
    for event in store.fetch_scan(..).timeout(Duration::from_secs(600)) {
        let event = event.unwrap();
        verify(&event);
        assert!(ids.insert(event.id()), "event {} is there twice", event.id());
    }
    ids
}

fn history(store: &Store, stream: Stream) -> Vec<u64> {
    store.pin().history(stream).map(|event| event.id()).collect()
}

#[test]
fn what_was_acknowledged_survives_the_loss_of_power() {
    let dirs = Dirs::new();
    let store = open(dirs.config(EVERY_BATCH)).unwrap();
    assert!(store.recovered().is_none());
    append_some(&store, 0..500);
    let gone = [0, 7, 100, 499];
    gone.iter().for_each(|id| assert!(store.remove(*id).unwrap()));
    let (named, last_id) = (store.stream("named").unwrap(), store.next_id());
    append_some(&store, 500..510);
    let before = history(&store, named);
    let mut after = dirs.after_power_loss();
    store.abandon();
    for round in 0..3 {
        let store = open(after.config(EVERY_BATCH)).unwrap();
        let report = store.recovered().unwrap().clone();
        let more = if round == 0 { 0 } else { 200 };
        assert_eq!((report.events, report.removed, report.names), (506 + more, 4, 1), "{report:?}");
        assert!(report.is_whole() && report.from_log && !report.was_closed, "{report:?}");
        let wanted: BTreeSet<u64> = (0..510 + more).filter(|id| !gone.contains(id)).collect();
        assert_eq!(found(&store), wanted);
        assert_eq!(store.stream("named").unwrap(), named);
        assert!(history(&store, named).ends_with(&before) && store.next_id() > last_id);
        if round == 0 {
            append_some(&store, 510..710);
            let newest: Vec<u64> = (510..710u64).filter(|id| id.is_multiple_of(5)).rev().collect();
            assert!(history(&store, named).starts_with(&newest));
        }
        after = after.after_power_loss();
        store.abandon();
    }
}

// ---- what a disk has of what it was not told to keep ----

/// What a store holds for sure, and what it may.
#[derive(Default)]
struct Truth {
    sure: BTreeSet<u64>,
    maybe: BTreeSet<u64>,
    next: u64,
}

impl Truth {
    /// A few appends and removals. Nothing waits for the disk.
    fn work(&mut self, store: &Store, random: &mut Random) {
        for _ in 0..1 + random.below(4) {
            match random.below(8) {
                0 => {
                    for _ in 0..random.below(20) {
                        let all: Vec<u64> = self.sure.union(&self.maybe).copied().collect();
                        let Some(id) = all.get(random.below(all.len() as u64 + 1) as usize) else { continue };
                        store.remove(*id).unwrap();
                        self.sure.remove(id);
                        self.maybe.insert(*id);
                    }
                }
                1 => {
                    append_proof(store, Event::new(Stream::from(3u32), self.next, 7, 0), 100_000);
                    self.maybe.insert(self.next);
                    self.next += 1;
                }
                _ => {
                    let count = random.below(400);
                    append_some(store, self.next..self.next + count);
                    self.maybe.extend(self.next..self.next + count);
                    self.next += count;
                }
            }
        }
    }

    /// Everything is on the disk, as it is in the store.
    fn synced(&mut self, store: &Store) {
        store.sync().unwrap();
        self.sure = found(store);
        self.maybe.clear();
    }

    fn check(&self, store: &Store, context: &str) {
        let found = found(store);
        let lost: Vec<&u64> = self.sure.difference(&found).collect();
        assert!(lost.is_empty(), "{context}: {} events are lost, such as {}", lost.len(), lost[0]);
        let invented = found.iter().find(|id| !self.sure.contains(id) && !self.maybe.contains(id));
        assert!(invented.is_none(), "{context}: event {invented:?} was never there");
        let report = store.recovered().unwrap();
        // The beginning of a name that nobody was told of is no loss, and cannot be told from one.
        let only_of_names = report.lost_pages + report.lost_events + report.damaged_log_parts == 0;
        assert!(report.is_whole() || report.damaged_name_bytes > 0 && only_of_names, "{context}: {report:?}");
    }
}

fn torn_config(dirs: &Dirs, spills: bool) -> ConfigBuilder {
    let at_once = ClassConfig::new("at once").hot_for(Duration::ZERO);
    // What is squeezed leaves when it must.
    let at_once = at_once.warm_for(Duration::from_secs(if spills { 0 } else { 1 << 40 }));
    dirs.config(interval(60_000))
        .memory("16MiB")
        .hot(|hot| hot.max("3MiB").page_size("8KiB"))
        .warm(|warm| warm.max("3MiB"))
        .class(at_once)
}

#[test]
fn whatever_a_disk_keeps_of_the_last_turn_what_came_before_is_there() {
    let rounds = if cfg!(debug_assertions) { 2 } else { 40 };
    let mut random = Random::new(0x5eed_0d15);
    let (mut states, mut partly) = (0, 0);
    for round in 0..rounds {
        let mut dirs = Dirs::new();
        let spills = round % 2 == 1;
        let mut store = open(torn_config(&dirs, spills)).unwrap();
        let mut truth = Truth::default();
        for turn in 0..6 {
            if random.below(3) == 0 {
                store.maintain().unwrap();
            }
            truth.work(&store, &mut random);
            truth.synced(&store);
            let synced = dirs.after_power_loss();
            truth.work(&store, &mut random);
            store.sync().unwrap();
            let later = dirs.after_power_loss();
            for state in 0..3 {
                let crashed = Dirs::new();
                torn(&synced.data(), &later.data(), &crashed.data(), &mut |end| random.below(end));
                let context = format!("round {round}, turn {turn}, state {state}");
                let store = open(torn_config(&crashed, spills)).unwrap();
                truth.check(&store, &context);
                states += 1;
                partly += u32::from(truth.maybe.iter().any(|id| store.pin().get(*id).is_some()));
                // Power is lost again, when nothing new has come: nothing has changed.
                let again = crashed.after_power_loss();
                let before = found(&store);
                store.abandon();
                let store = open(torn_config(&again, spills)).unwrap();
                assert_eq!(found(&store), before, "{context}, again");
                store.abandon();
            }
            // And from one of them it goes on.
            if turn % 3 == 2 {
                store.abandon();
                dirs = Dirs::new();
                torn(&synced.data(), &later.data(), &dirs.data(), &mut |end| random.below(end));
                store = open(torn_config(&dirs, spills)).unwrap();
                truth.check(&store, &format!("round {round}, turn {turn}, the state to go on from"));
                truth.synced(&store);
            }
        }
        store.abandon();
    }
    assert!(
        partly > states / 10 && partly < states,
        "{partly} of {states} states had a part of what was not synced"
    );
}

// ---- going on ----

#[test]
fn a_process_that_ended_goes_on_where_its_log_was() {
    let dirs = Dirs::new();
    let store = open(dirs.config(interval(60_000))).unwrap();
    append_some(&store, 0..300);
    store.sync().unwrap();
    append_some(&store, 300..600);
    let written = store.stats().log.written_bytes;
    store.abandon();
    let store = open(dirs.config(interval(60_000))).unwrap();
    let report = store.recovered().unwrap();
    assert!(!report.from_log && report.events == 600, "{report:?}");
    store.sync().unwrap();
    // Only what the log did not have is written.
    let more = store.stats().log.written_bytes;
    assert!(more < written * 3 / 2, "{more} bytes after {written} for as much");
    let after = dirs.after_power_loss();
    store.abandon();
    let store = open(after.config(interval(60_000))).unwrap();
    assert!(store.recovered().unwrap().from_log);
    assert_eq!(found(&store), (0..600).collect());
}

#[test]
fn pages_of_before_the_system_was_started_are_not_trusted() {
    let dirs = Dirs::new();
    let store = open(dirs.config(interval(60_000))).unwrap();
    append_some(&store, 0..100);
    store.sync().unwrap();
    append_some(&store, 100..200);
    store.abandon();
    // What the record would say if the files were of an earlier start.
    let path = dirs.shared().join("record");
    let bytes = std::fs::read(&path).unwrap();
    let other = bytes.chunks(16 << 10).map(|copy| {
        let text = String::from_utf8(copy.to_vec()).unwrap();
        let (head, body) = text.trim_end_matches('\0').split_once('\n').unwrap_or_default();
        let words: Vec<&str> = head.split(' ').collect();
        let [_, version, turn, ..] = words[..] else { return copy.to_vec() };
        let at = body.find("boot ").unwrap() + 5;
        let body = format!("{}0{}", &body[..at], &body[at + 1..]);
        let sum = [
            &version.parse::<u32>().unwrap().to_le_bytes()[..],
            &turn.parse::<u64>().unwrap().to_le_bytes(),
            body.as_bytes(),
        ];
        let crc = crc32fast::hash(&sum.concat());
        let mut copy = format!("esker-shared {version} {turn} {} {crc:08x}\n{body}", body.len()).into_bytes();
        copy.resize(16 << 10, 0);
        copy
    });
    let other: Vec<u8> = other.flatten().collect();
    assert_ne!(other, bytes, "there is one start in sixteen whose number begins with a zero");
    std::fs::write(&path, other).unwrap();
    let store = open(dirs.config(interval(60_000))).unwrap();
    assert!(store.recovered().unwrap().from_log);
    assert_eq!(found(&store), (0..100).collect(), "the pages may be of any moment, the log is of one");
}

#[test]
fn a_mode_without_the_log_does_not_go_on_beside_it() {
    let dirs = Dirs::new();
    // What Process left is taken over, names too.
    let process = || dirs.config(Durability::Process);
    let store = open(process()).unwrap();
    append_some(&store, 0..100);
    let named = store.stream("named").unwrap();
    store.abandon();
    let store = open(dirs.config(EVERY_BATCH)).unwrap();
    assert!(!store.recovered().unwrap().from_log && store.recovered().unwrap().names == 1);
    append_some(&store, 100..200);
    let after = dirs.after_power_loss();
    store.abandon();
    for config in [process(), dirs.config(Durability::Memory), after.config(Durability::Process)] {
        let (kind, text) = refusal(config);
        assert!(kind == ErrorKind::Incompatible && text.contains("Durability::Disk"), "{text}");
    }
    let store = open(after.config(EVERY_BATCH)).unwrap();
    assert_eq!(found(&store), (0..200).collect());
    assert_eq!(store.stream("named").unwrap(), named);
    // A log that nobody needs goes when the store is closed, and then any mode may go on.
    assert_eq!(store.close(CLOSE).unwrap().left, 0);
    drop(store);
    assert_eq!(std::fs::read_dir(after.log()).unwrap().count(), 1, "the lock is left");
    let store = open(after.config(Durability::Memory)).unwrap();
    assert_eq!((found(&store), store.stream("named").unwrap()), ((0..200).collect(), named));
    store.abandon();
    let store = open(after.config(EVERY_BATCH)).unwrap();
    append_some(&store, 200..210);
    assert_eq!(found(&store), (0..210).collect());
}

#[test]
fn a_log_of_another_data_directory_or_without_its_classes_is_refused() {
    let (dirs, other) = (Dirs::new(), Dirs::new());
    let two =
        |dirs: &Dirs| dirs.config(EVERY_BATCH).class(ClassConfig::new("one")).class(ClassConfig::new("two"));
    for dirs in [&dirs, &other] {
        let store = open(two(dirs)).unwrap();
        let event = Event::new(Stream::from(1u32), 1, 0, 0).class(store.class("two").unwrap());
        store.append(&event).unwrap();
        store.abandon();
    }
    let mixed = Dirs::new();
    copy(&dirs.data(), &mixed.data());
    std::fs::remove_dir_all(mixed.log()).unwrap();
    copy(&other.log(), &mixed.log());
    let (kind, text) = refusal(two(&mixed));
    assert!(kind == ErrorKind::Incompatible && text.contains("another data directory"), "{text}");
    assert_eq!(refusal(dirs.after_power_loss().config(EVERY_BATCH)).0, ErrorKind::Incompatible);
    let (kind, text) = refusal(two(&dirs.after_power_loss()).partitions(8));
    assert!(kind == ErrorKind::Incompatible && text.contains("partitions"), "{text}");
    let no_place = esker::Config::builder().durability(EVERY_BATCH).build().unwrap_err();
    assert_eq!(no_place.config_faults()[0].field, "data_dir");
    assert!(dirs.config(interval(0)).build().is_err() && dirs.config(interval(60_001)).build().is_err());
}

/// Other layouts are taken over from a log, as long as the page numbers fit.
#[test]
fn a_log_is_put_back_into_regions_of_other_sizes() {
    let dirs = Dirs::new();
    let config = |dirs: &Dirs, hot: &'static str, page: &'static str| {
        dirs.config(interval(60_000))
            .hot(move |region| region.max(hot).page_size(page))
            .warm(|warm| warm.max("2MiB"))
    };
    let store = open(config(&dirs, "4MiB", "16KiB")).unwrap();
    append_some(&store, 0..4000);
    append_proof(&store, Event::new(Stream::from(1u32), 4000, 5, 0), 200_000);
    store.sync().unwrap();
    for (hot, page) in [("4MiB", "4KiB"), ("1MiB", "16KiB"), ("6MiB", "64KiB")] {
        let after = dirs.after_power_loss();
        let store = open(config(&after, hot, page)).unwrap();
        assert!(store.recovered().unwrap().is_whole(), "{:?}", store.recovered());
        assert_eq!(found(&store), (0..=4000).collect(), "{hot} of {page}");
        append_some(&store, 4001..4100);
        store.maintain().unwrap();
        assert_eq!(found(&store), (0..4100).collect());
    }
    let small = dirs.after_power_loss();
    let (kind, text) = refusal(config(&small, "512KiB", "8KiB").warm(|warm| warm.max("64KiB")));
    assert_eq!(kind, ErrorKind::Incompatible, "{text}");
    assert_eq!(
        found(&open(config(&small, "4MiB", "16KiB")).unwrap()),
        (0..=4000).collect(),
        "nothing was lost"
    );
}

// ---- the size of the log ----

#[test]
fn a_log_stays_small_and_keeps_what_is_old() {
    let dirs = Dirs::new();
    let config = |dirs: &Dirs| {
        dirs.config(interval(60_000))
            .hot(|hot| hot.max("2MiB").page_size("8KiB"))
            .warm(|warm| warm.max("1MiB"))
            .class(ClassConfig::new("kept").compress(false))
            .class(
                ClassConfig::new("busy")
                    .on_leave(OnLeave::Drop)
                    .hot_for(Duration::ZERO)
                    .warm_for(Duration::ZERO),
            )
    };
    let store = open(config(&dirs)).unwrap();
    append_some(&store, 0..50);
    assert!(store.remove(7).unwrap());
    let busy = store.class("busy").unwrap();
    let (mut id, mut most) = (1000, 0);
    // Some 40 MiB.
    for round in 0..40 {
        for _ in 0..1000 {
            let payload = proof(Stream::from(5u32), id, 0, 1000);
            let event = Event::new(Stream::from(5u32), id, 0, 0).class(busy).payload(&payload);
            while store.append(&event).is_err() {
                store.maintain().unwrap();
            }
            id += 1;
            if id % 250 == 0 {
                // Or what is appended fast leaves before the log has seen it.
                store.sync().unwrap();
            }
        }
        store.maintain().unwrap();
        store.sync().unwrap();
        let log = store.stats().log;
        most = most.max(log.bytes);
        let segment = log.bytes / log.segments;
        assert!(log.bytes <= 2 * log.live_bytes + 6 * segment, "{round}: {log:?}");
    }
    let log = store.stats().log;
    assert!(log.written_bytes > 20_000_000 && log.rewritten_bytes > 0, "{log:?}, {most} at most");
    assert!(log.rewritten_bytes < log.written_bytes / 4, "{log:?}");
    let after = dirs.after_power_loss();
    let there = found(&store);
    store.abandon();
    let store = open(config(&after)).unwrap();
    let found = found(&store);
    assert!((0..50).all(|id| found.contains(&id) == (id != 7)), "what is old, and what was removed");
    assert!(store.recovered().unwrap().is_whole(), "{:?}", store.recovered());
    assert!(there.is_subset(&found), "what was in memory");
}

/// A disk that is full keeps appends out, with a reason, and nothing that was acknowledged is lost.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_keeps_appends_out() {
    const TEST: &str = "disk::a_full_disk_keeps_appends_out";
    if child_argument().is_none() {
        return in_small_file_system(TEST, "24m");
    }
    let (disk, dirs) = (PathBuf::from(child_argument().unwrap()), Dirs::new());
    let ballast = disk.join("ballast");
    let config = |mode| {
        dirs.config(mode)
            .data_dir(disk.join("data"))
            .memory("64MiB")
            .append_timeout(Duration::ZERO)
            .class(ClassConfig::new("kept").compress(false))
    };
    for mode in [interval(60_000), EVERY_BATCH] {
        let store = open(config(mode)).unwrap();
        let before = found(&store).len() as u64;
        let (mut stored, mut acknowledged) = (before, before);
        let error = loop {
            let event = Event::new(Stream::from(7u32), stored, 0, 0);
            let payload = proof(event.stream, event.id, 0, 4000);
            match store.append(&event.payload(&payload)) {
                Ok(_) => stored += 1,
                Err(error) => break error,
            }
            if mode == EVERY_BATCH {
                acknowledged = stored;
            } else if stored % 100 == 0 {
                match store.sync() {
                    Ok(()) => acknowledged = stored,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::NotDurable, "{error}");
                        assert!(error.to_string().contains("No space"), "{error}");
                    }
                }
            }
            if stored == 500 {
                // The rest is taken by others.
                let mut file = std::fs::File::create(&ballast).unwrap();
                while std::io::Write::write_all(&mut file, &[1; 64 << 10]).is_ok() {}
            }
        };
        // One that was stored, and waited in vain, or one that was not let in.
        let stats = store.stats().log;
        assert!(!stats.broken && stats.last_error.is_some_and(|text| text.contains("No space")), "{error}");
        if error.kind() != ErrorKind::NotDurable {
            let pressure = error.back_pressure().unwrap();
            assert_eq!(pressure.reason, esker::PressureReason::LogBehind);
            assert!(error.to_string().contains("No space"), "{error}");
        }
        assert!(store.pin().get(0).is_some(), "reads go on");
        std::fs::remove_file(&ballast).unwrap();
        wait_until("there is room again", Duration::from_secs(30), || store.sync().is_ok());
        let there = found(&store);
        assert!(there.len() as u64 >= acknowledged);
        store.append(&Event::new(Stream::from(7u32), 1 << 40, 0, 0)).unwrap();
        assert!(store.remove(1 << 40).unwrap(), "{mode:?}");
        store.sync().unwrap();
        store.abandon();
        std::fs::remove_dir_all(dirs.shared()).unwrap();
        let store = open(config(mode)).unwrap();
        assert_eq!(found(&store), there);
        assert!(store.recovered().unwrap().from_log && store.recovered().unwrap().is_whole());
        for id in there.iter().filter(|id| **id >= 100) {
            store.remove(*id).unwrap();
        }
        store.close(CLOSE).unwrap();
        drop(store);
    }
}

// ---- threads ----

#[test]
fn those_who_come_together_share_a_turn() {
    const THREADS: u64 = 6;
    let dirs = Dirs::new();
    let store = open(dirs.config(EVERY_BATCH).background(true)).unwrap();
    let each = if cfg!(debug_assertions) { 60 } else { 300 };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || append_some(store, thread * 1000..thread * 1000 + each));
        }
    });
    let log = store.stats().log;
    let events = THREADS * each;
    assert!(log.syncs > 0 && log.syncs < events * 3 / 4, "{log:?} for {events} events");
    let after = dirs.after_power_loss();
    store.abandon();
    let store = open(after.config(EVERY_BATCH)).unwrap();
    assert_eq!(found(&store), (0..THREADS).flat_map(|thread| thread * 1000..thread * 1000 + each).collect());
}

#[test]
fn an_interval_needs_nobody_who_asks() {
    let dirs = Dirs::new();
    let store = open(dirs.config(interval(5)).background(true)).unwrap();
    append_some(&store, 0..100);
    let turns = store.stats().log.turns;
    wait_until("two turns", Duration::from_secs(60), || store.stats().log.turns >= turns + 2);
    let after = dirs.after_power_loss();
    let log = store.stats().log;
    assert!(log.syncs > 0 && log.sync.count > 0 && log.last_error.is_none(), "{log:?}");
    assert_eq!(found(&open(after.config(EVERY_BATCH)).unwrap()), (0..100).collect());
    assert_eq!(store.close(CLOSE).unwrap().left, 0);
}

// ---- damage ----

#[test]
fn damage_in_a_log_is_told_and_costs_what_it_hits() {
    let dirs = Dirs::new();
    let config = |dirs: &Dirs| torn_config(dirs, false);
    let store = open(config(&dirs)).unwrap();
    for part in 0..30 {
        append_some(&store, part * 100..part * 100 + 100);
        store.remove(part * 100).unwrap();
        store.sync().unwrap();
    }
    store.abandon();
    let wanted: BTreeSet<u64> = (0..3000).filter(|id| id % 100 != 0).collect();
    let rounds = if cfg!(debug_assertions) { 12 } else { 120 };
    let (mut random, mut told, mut missing) = (Random::new(0x5eed_0dab), 0, 0);
    for round in 0..rounds {
        let after = dirs.after_power_loss();
        let segments: Vec<PathBuf> = std::fs::read_dir(after.log())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .collect();
        let path = &segments[random.below(segments.len() as u64) as usize];
        let mut bytes = std::fs::read(path).unwrap();
        let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
        // The last turn looks like one that was torn.
        let end = written.saturating_sub(40_000).max(4096);
        let kind = round % 4;
        match kind {
            0 => bytes[random.below(end) as usize] ^= 1 << random.below(8),
            1 => bytes[random.below(end) as usize / 4096 * 4096..][..4096].fill(0),
            2 => bytes[..4096].fill(0x5a),
            _ => {
                let from = random.below(end) as usize;
                let to = (from + 20_000).min(end as usize);
                bytes[from..to].iter_mut().for_each(|byte| *byte = random.next() as u8);
            }
        }
        std::fs::write(path, &bytes).unwrap();
        let context = format!("round {round}, {}", path.display());
        let store = match open(config(&after)) {
            Ok(store) => store,
            Err(error) => {
                let head = bytes[..4096].iter().all(|byte| *byte == bytes[0]);
                assert!(head && error.kind() == ErrorKind::Corrupt, "{context}: {error}");
                continue;
            }
        };
        let report = store.recovered().unwrap_or_else(|| panic!("{context}: begun anew")).clone();
        let found = found(&store);
        let gone = wanted.difference(&found).count();
        assert!(gone < 1500, "{context}: {gone} events are missing, {report:?}");
        assert!(gone == 0 || !report.is_whole(), "{context}: {gone} events are missing, {report:?}");
        // A removal that is not told of any more has not happened, which is told, too.
        let back = found.difference(&wanted).count();
        assert!(back == 0 || !report.is_whole(), "{context}: {back} removed events came back, {report:?}");
        assert!(found.iter().all(|id| *id < 3000));
        (told, missing) = (told + u32::from(!report.is_whole()), missing + gone);
        append_some(&store, 3000..3100);
        store.sync().unwrap();
        store.validate().unwrap();
    }
    println!("{told} of {rounds} rounds told of damage, {missing} events missing");
    assert!(told > rounds as u32 / 4);
}

#[test]
fn what_was_removed_stays_so_although_the_log_began_anew() {
    let dirs = Dirs::new();
    let store = open(dirs.config(interval(60_000))).unwrap();
    append_some(&store, 0..100);
    store.sync().unwrap();
    // Noted beside the pages, but not in the log when the process ends.
    assert!(store.remove(3).unwrap());
    store.abandon();
    let store = open(dirs.config(interval(60_000))).unwrap();
    store.sync().unwrap();
    let after = dirs.after_power_loss();
    let wanted: BTreeSet<u64> = (0..100).filter(|id| *id != 3).collect();
    let other = open(after.config(interval(60_000))).unwrap();
    assert_eq!(found(&other), wanted);
    other.abandon();
    // Of a page whose events are all removed the cold tier knows nothing, so it is in the next log, too.
    (0..100).for_each(|id| assert_eq!(store.remove(id).unwrap(), id != 3));
    assert_eq!(store.close(CLOSE).unwrap().left, 0);
    drop(store);
    let store = open(dirs.config(EVERY_BATCH)).unwrap();
    append_some(&store, 100..101);
    let after = dirs.after_power_loss();
    assert_eq!(found(&open(after.config(EVERY_BATCH)).unwrap()), BTreeSet::from([100]));
}

/// Numbers of pages go on where they were, although none of the lane is left: the log knows that those below have gone.
#[test]
fn a_lane_whose_pages_have_all_gone_does_not_begin_anew() {
    let clock = Clock::manual(1_000_000);
    let open = |dirs: &Dirs| {
        let brief = ClassConfig::new("brief").on_leave(OnLeave::Drop).retention(Duration::from_secs(10));
        let config = dirs.config(EVERY_BATCH).class(ClassConfig::new("kept")).class(brief).build().unwrap();
        Store::builder(config).clock(clock.clone()).open().unwrap()
    };
    let append = |store: &Store, ids: std::ops::Range<u64>, class: &str| {
        for id in ids {
            let time = clock.now_ms();
            let event = Event::new(Stream::from(1u32), id, time, 0).class(store.class(class).unwrap());
            append_proof(store, event, 400);
        }
    };
    let dirs = Dirs::new();
    let store = open(&dirs);
    append(&store, 0..10, "kept");
    append(&store, 100..400, "brief");
    clock.set_ms(1_060_000);
    store.maintain().unwrap();
    append(&store, 10..11, "kept");
    let after = dirs.after_power_loss();
    store.abandon();
    let store = open(&after);
    assert_eq!(found(&store), (0..11).collect());
    append(&store, 400..410, "brief");
    let after = after.after_power_loss();
    store.abandon();
    assert_eq!(found(&open(&after)), (0..11).chain(400..410).collect(), "what was acknowledged");
}

/// Pages that somebody left beside a log that went on without them are of another time.
#[test]
fn pages_without_which_the_log_went_on_are_not_trusted() {
    let dirs = Dirs::new();
    let store = open(dirs.config(EVERY_BATCH)).unwrap();
    append_some(&store, 0..100);
    store.abandon();
    // On another machine, or with another directory for the pages.
    let elsewhere = dirs.dir.path().join("elsewhere");
    let store = open(dirs.config(EVERY_BATCH).shared_dir(&elsewhere)).unwrap();
    append_some(&store, 100..200);
    assert!(store.remove(50).unwrap());
    store.abandon();
    let wanted: BTreeSet<u64> = (0..200).filter(|id| *id != 50).collect();
    let store = open(dirs.config(EVERY_BATCH)).unwrap();
    assert!(store.recovered().unwrap().from_log);
    assert_eq!(found(&store), wanted);
    append_some(&store, 200..201);
    store.abandon();
    // And likewise back again, after both.
    let store = open(dirs.config(EVERY_BATCH).shared_dir(&elsewhere)).unwrap();
    assert_eq!(found(&store), wanted.into_iter().chain([200]).collect());
}

/// An id is not given again, whoever took the turn.
#[test]
fn ids_go_on_above_those_of_events_in_the_log() {
    let clock = Clock::manual(1_600_000_000_000);
    let open = |dirs: &Dirs| {
        let config = dirs.config(EVERY_BATCH).build().unwrap();
        Store::builder(config).clock(clock.clone()).open().unwrap()
    };
    let dirs = Dirs::new();
    let store = open(&dirs);
    let most = std::thread::scope(|scope| {
        let each = |thread: u32| {
            let store = &store;
            move || {
                let append = |_| {
                    let id = store.next_id();
                    append_proof(store, Event::new(Stream::from(thread), id, 1, 0), 50);
                    id
                };
                (0..100).map(append).max()
            }
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(each(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap().unwrap()
    });
    let after = dirs.after_power_loss();
    store.abandon();
    assert!(open(&after).next_id() > most);
}

#[cfg(unix)]
#[test]
fn a_strange_name_in_the_log_does_no_harm() {
    let dirs = Dirs::new();
    std::fs::create_dir_all(dirs.log()).unwrap();
    std::fs::set_permissions(dirs.log(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(dirs.log().join("ffffffffffffffff.log"), b"").unwrap();
    let store = open(dirs.config(EVERY_BATCH)).unwrap();
    append_some(&store, 0..10);
    let after = dirs.after_power_loss();
    store.abandon();
    assert_eq!(found(&open(after.config(EVERY_BATCH)).unwrap()), (0..10).collect());
}

/// What the cold tier did not confirm, it may have in part: later pages of a lane, and not those before.
#[test]
fn pages_before_those_that_the_cold_tier_has_are_put_back() {
    let (dirs, tier) = (Dirs::new(), MapTier::new());
    let open = |dirs: &Dirs| {
        let config = dirs.config(interval(60_000)).partitions(1).block_bytes("16KiB").build().unwrap();
        Store::builder(config).cold(tier.clone()).open().unwrap()
    };
    let store = open(&dirs);
    append_some(&store, 0..6000);
    store.sync().unwrap();
    tier.set(Fault::FailInPart);
    assert!(store.flush(Duration::ZERO).is_err());
    assert!(!tier.ids().is_empty() && tier.ids()[0].first_seq > 0, "{:?}", tier.ids());
    let after = dirs.after_power_loss();
    tier.set(Fault::None);
    store.abandon();
    let store = open(&after);
    assert_eq!(found(&store), (0..6000).collect());
    append_some(&store, 6000..6100);
    store.flush(CLOSE).unwrap();
    assert_eq!(found(&store), (0..6100).collect());
}

/// A page of which a part is missing is written again as any other: the log does not grow for its sake.
#[test]
fn a_damaged_page_does_not_keep_the_log_from_shrinking() {
    let dirs = Dirs::new();
    let config = |dirs: &Dirs| {
        dirs.config(interval(60_000))
            .partitions(1)
            .hot(|hot| hot.max("2MiB").page_size("32KiB"))
            .warm(|warm| warm.max("1MiB"))
            .class(
                ClassConfig::new("kept")
                    .on_leave(OnLeave::Drop)
                    .hot_for(Duration::from_secs(1 << 40))
                    .warm_for(Duration::from_secs(1 << 40)),
            )
            .class(
                ClassConfig::new("busy")
                    .on_leave(OnLeave::Drop)
                    .hot_for(Duration::ZERO)
                    .warm_for(Duration::ZERO),
            )
    };
    let store = open(config(&dirs)).unwrap();
    for part in 0..5 {
        append_some(&store, part * 10..part * 10 + 10);
        store.sync().unwrap();
    }
    let after = dirs.after_power_loss();
    store.abandon();
    let segment = std::fs::read_dir(after.log()).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|end| end == "log")).min().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let units: Vec<usize> =
        (4096..bytes.len()).step_by(4096).filter(|at| bytes[*at..].starts_with(b"eSkL")).collect();
    bytes[units[2] + 100] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let store = open(config(&after)).unwrap();
    let report = store.recovered().unwrap();
    assert!(report.events == 40 && !report.is_whole(), "{report:?}");
    let left = found(&store);
    let busy = store.class("busy").unwrap();
    let mut id = 1000;
    for round in 0..100 {
        for _ in 0..1000 {
            let payload = proof(Stream::from(5u32), id, 0, 1000);
            let event = Event::new(Stream::from(5u32), id, 0, 0).class(busy).payload(&payload);
            while store.append(&event).is_err() {
                store.maintain().unwrap();
            }
            id += 1;
        }
        store.maintain().unwrap();
        store.sync().unwrap();
        let log = store.stats().log;
        let segment = log.bytes / log.segments;
        assert!(log.bytes <= 2 * log.live_bytes + 6 * segment, "{round}: {log:?}");
    }
    let after = after.after_power_loss();
    store.abandon();
    assert!(left.is_subset(&found(&open(config(&after)).unwrap())));
}

/// Pages of which most was removed take little room, and no more after a loss of power.
#[test]
fn pages_that_were_packed_without_what_was_removed_fit_again() {
    let dirs = Dirs::new();
    let config = |dirs: &Dirs| {
        dirs.config(interval(60_000))
            .partitions(1)
            .hot(|hot| hot.max("2MiB").page_size("16KiB"))
            .warm(|warm| warm.max("2MiB"))
            .class(
                ClassConfig::new("a")
                    .on_leave(OnLeave::Drop)
                    .hot_for(Duration::from_secs(1 << 40))
                    .warm_for(Duration::from_secs(1 << 40)),
            )
    };
    let store = open(config(&dirs)).unwrap();
    let mut id = 0u64;
    for _ in 0..39 {
        for _ in 0..100 {
            let payload = proof(Stream::from(5u32), id, 0, 3000);
            store.append(&Event::new(Stream::from(5u32), id, 0, 0).payload(&payload)).unwrap();
            assert!(id.is_multiple_of(20) || store.remove(id).unwrap());
            id += 1;
        }
        store.maintain().unwrap();
    }
    store.sync().unwrap();
    let kept = found(&store);
    let log = store.stats().log;
    assert!(kept.len() > 50 && log.live_bytes > 6 << 20, "{} events, {log:?}", kept.len());
    let after = dirs.after_power_loss();
    store.abandon();
    let again = found(&open(config(&after)).unwrap());
    assert!(kept.is_subset(&again), "{kept:?} {again:?}");
}
