//! Kills a real process that uses a store, at random moments, and looks at what is left.
//!
//! The test starts itself as the child (`ESKER_CRASH_CHILD` in its environment). The child works off a plan that follows
//! from a seed, with two writers, and tells its parent through a pipe of each operation that has returned. The parent
//! kills it, opens the store, and compares: what was reported is there, what was not may be there if it was under way, and
//! nothing else is.
//!
//! The stores are of all modes that outlive the process. With a log of every batch the pages are thrown away after some kills,
//! as a loss of power does: what was reported must be in the log then.
//!
//! `ESKER_KILLS=n` sets how often (default 24), `ESKER_SEED=n` the first seed.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use esker::{Appended, Class, ClassConfig, Config, DiskSync, Durability, ErrorKind, Event, Store};

const WRITERS: u64 = 2;
const STREAMS: u64 = 12;

fn mix(value: u64) -> u64 {
    let folded = u128::from(value ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    (folded as u64) ^ (folded >> 64) as u64
}

/// The numbers that one writer's plan is made of.
struct Rng(u64);

impl Rng {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = mix(self.0.wrapping_add(1));
        (self.0 >> 11) % below.max(1)
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Where a store of this test is.
#[derive(Clone)]
struct Places {
    data: PathBuf,
    shared: PathBuf,
    mode: Mode,
}

/// How a store outlives its process.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mode {
    Process,
    /// With a log, kept at intervals, or for every batch.
    Interval,
    EveryBatch,
}

impl Mode {
    const ALL: [(Self, &str); 3] =
        [(Self::Process, "process"), (Self::Interval, "interval"), (Self::EveryBatch, "every batch")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(mode, _)| *mode == self).unwrap().1
    }

    fn durability(self) -> Durability {
        match self {
            Self::Process => Durability::Process,
            Self::Interval => Durability::Disk(DiskSync::Interval(Duration::from_millis(5))),
            Self::EveryBatch => Durability::Disk(DiskSync::EveryBatch),
        }
    }
}

impl Places {
    fn within(dir: &Path, mode: Mode) -> Self {
        Self { data: dir.join("data"), shared: dir.join("shared"), mode }
    }

    fn config(&self) -> Config {
        Config::builder()
            .memory("14MiB")
            .hot(|hot| hot.max("2MiB").page_size("8KiB").initial("256KiB").chunk("256KiB"))
            .warm(|warm| warm.max("1MiB").initial("256KiB").chunk("256KiB"))
            .partitions(4)
            .class(ClassConfig::new("squeezed"))
            .class(ClassConfig::new("plain").compress(false))
            .data_dir(&self.data)
            .durability(self.mode.durability())
            .shared_dir(&self.shared)
            .build()
            .unwrap()
    }
}

/// One step of a writer.
#[derive(Clone, Debug)]
enum Step {
    /// Appends these ids: one by `append`, more by `append_batch`.
    Append(Vec<u64>),
    Remove(u64),
    /// Asks for a name.
    Name(u64),
}

/// What a writer does in a round, step after step. Both sides make the same plan.
struct Plan {
    rng: Rng,
    next_id: u64,
    /// Ids that may be removed.
    appended: Vec<u64>,
}

impl Plan {
    fn new(seed: u64, round: u64, writer: u64) -> Self {
        let rng = Rng(mix(seed) ^ mix(round << 8 | writer));
        // Ids are even for one writer in ten rounds' worth of space, so that rounds never share any.
        Self { rng, next_id: (round * WRITERS + writer) << 24, appended: Vec::new() }
    }

    fn step(&mut self) -> Step {
        match self.rng.next(20) {
            0 if !self.appended.is_empty() => {
                let at = self.rng.next(self.appended.len() as u64) as usize;
                Step::Remove(self.appended.swap_remove(at))
            }
            1 => Step::Name(self.rng.next(1000)),
            kind => {
                let count = if kind < 14 { 1 } else { 2 + self.rng.next(40) };
                // Now and then an id far from the others, for the other half of the index.
                let ids: Vec<u64> = (0..count)
                    .map(|_| {
                        self.next_id += 1;
                        if self.rng.next(8) == 0 { mix(self.next_id) | 1 << 63 } else { self.next_id }
                    })
                    .collect();
                self.appended.extend(&ids);
                Step::Append(ids)
            }
        }
    }
}

/// Everything else of an event follows from its id.
struct Made {
    stream: u64,
    class: usize,
    timestamp: i64,
    payload: Vec<u8>,
}

impl Made {
    fn of(id: u64) -> Self {
        let number = mix(id);
        // One in two hundred is larger than a page.
        let len = if number.is_multiple_of(200) { 9000 + number % 20_000 } else { number % 300 };
        Self {
            stream: number >> 32 & (STREAMS - 1) | 1,
            class: (number >> 40 & 3 == 0) as usize,
            timestamp: 1_700_000_000_000 + (number >> 48) as i64,
            payload: (0..len).map(|at| (number >> (at % 8 * 8)) as u8 & 0x3f).collect(),
        }
    }

    fn event(&self, store: &Store, id: u64) -> Event<'_> {
        let class: Class = store.class(if self.class == 1 { "plain" } else { "squeezed" }).unwrap();
        let stream = esker::Stream::try_from(self.stream).unwrap();
        Event::new(stream, id, self.timestamp, id as u8).class(class).payload(&self.payload)
    }
}

// ---- the child ----

/// Not a test: what the child does. Does nothing unless a parent asked for it.
#[test]
fn child() {
    let Ok(dir) = std::env::var("ESKER_CRASH_CHILD") else { return };
    let (seed, round) = (setting("ESKER_CRASH_SEED", 0), setting("ESKER_CRASH_ROUND", 0));
    let name = std::env::var("ESKER_CRASH_MODE").unwrap();
    let mode = Mode::ALL.iter().find(|(_, known)| *known == name).unwrap().0;
    let store = Store::open(Places::within(Path::new(&dir), mode).config()).unwrap();
    tell("ready");
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || work(store, seed, round, writer));
        }
    });
}

/// Tells the parent a line, by one system call.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n!{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn work(store: &Store, seed: u64, round: u64, writer: u64) {
    let mut plan = Plan::new(seed, round, writer);
    for number in 0.. {
        let outcome = match plan.step() {
            Step::Append(ids) => append(store, &ids),
            Step::Remove(id) => match store.remove(id) {
                Ok(was_there) => if was_there { "r" } else { "-" }.to_string(),
                Err(error) => panic!("remove: {error}"),
            },
            Step::Name(name) => format!("{:x}", store.stream(&format!("name {name}")).unwrap().as_u64()),
        };
        tell(&format!("{writer} {number} {outcome}"));
    }
}

/// Appends, and says of each event whether it was stored.
fn append(store: &Store, ids: &[u64]) -> String {
    let made: Vec<Made> = ids.iter().map(|id| Made::of(*id)).collect();
    let events: Vec<Event<'_>> = made.iter().zip(ids).map(|(made, id)| made.event(store, *id)).collect();
    let one = |outcome: Result<Appended, &esker::Error>| match outcome {
        Ok(Appended::Stored) => 's',
        Ok(_) => 'd',
        Err(error) if error.kind() == ErrorKind::MemoryPressure => 'f',
        Err(error) => panic!("append: {error}"),
    };
    if let [event] = &events[..] {
        return one(store.append(event).as_ref().copied()).to_string();
    }
    let batch = store.append_batch(&events).unwrap();
    (0..ids.len()).map(|at| one(batch.outcome(at))).collect()
}

// ---- the parent ----

/// What the store must hold.
#[derive(Default)]
struct Truth {
    /// Live events, and where each stands in the order of its writer.
    live: HashMap<u64, (u64, u64)>,
    removed: BTreeSet<u64>,
    names: BTreeMap<u64, u64>,
    /// Counts everything that writers did, in their order.
    order: u64,
}

/// Lets a child work and kills it after a while. What it reported; `None` if it did not even open its store.
fn run_and_kill(dir: &Path, mode: Mode, seed: u64, round: u64, rng: &mut Rng) -> Option<Vec<String>> {
    let mut child: Child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env("ESKER_CRASH_CHILD", dir)
        .env("ESKER_CRASH_MODE", mode.name())
        .env("ESKER_CRASH_SEED", seed.to_string())
        .env("ESKER_CRASH_ROUND", round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let out = child.stdout.take().unwrap();
    let reader = std::thread::Builder::new().spawn(move || {
        // The first step may have been under way when the child was killed, and nothing reported yet.
        let mut lines = None;
        for line in BufReader::new(out).split(b'\n').map(Result::unwrap) {
            match std::str::from_utf8(&line).unwrap().strip_prefix('!') {
                Some("ready") => {
                    lines = Some(Vec::new());
                    ready.send(()).unwrap_or_default();
                }
                Some(line) => lines.as_mut().unwrap().push(line.to_string()),
                None => {}
            }
        }
        lines
    });
    let reader = reader.unwrap();
    let in_recovery = rng.next(4) == 0;
    if in_recovery {
        std::thread::sleep(Duration::from_micros(rng.next(30_000)));
    } else if is_ready.recv_timeout(Duration::from_secs(60)).is_ok() {
        std::thread::sleep(Duration::from_micros(rng.next(60_000)));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    let lines = reader.join().unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut text).unwrap();
    assert!(status.code().is_none(), "the child ended before it was killed: {status}\n{text}");
    lines
}

impl Truth {
    /// Takes in what a child reported, and looks up in the store what became of what was under way.
    fn learn(&mut self, store: &Store, seed: u64, round: u64, lines: &[String]) {
        for writer in 0..WRITERS {
            let mut plan = Plan::new(seed, round, writer);
            let prefix = format!("{writer} ");
            let reports = lines.iter().filter_map(|line| line.strip_prefix(&prefix));
            for (number, report) in reports.enumerate() {
                let (at, outcome) = report.split_once(' ').unwrap();
                assert_eq!(at, number.to_string(), "reports come in order");
                self.apply(&plan.step(), outcome, round, writer);
            }
            self.look_up(store, &plan.step(), round, writer);
        }
    }

    fn apply(&mut self, step: &Step, outcome: &str, round: u64, writer: u64) {
        match step {
            Step::Append(ids) => {
                for (id, outcome) in ids.iter().zip(outcome.chars()) {
                    assert_ne!(outcome, 'd', "round {round}: event {id} was new");
                    if outcome == 's' {
                        self.order += 1;
                        self.live.insert(*id, (round * WRITERS + writer, self.order));
                    }
                }
            }
            Step::Remove(id) => {
                assert_eq!(outcome == "r", self.live.remove(id).is_some(), "round {round}: removing {id}");
                self.removed.insert(*id);
            }
            Step::Name(name) => {
                let stream = u64::from_str_radix(outcome, 16).unwrap();
                assert_eq!(*self.names.entry(*name).or_insert(stream), stream, "name {name}");
            }
        }
    }

    /// The step that was under way when the child was killed: it may have been done, or not, or a batch in part.
    fn look_up(&mut self, store: &Store, step: &Step, round: u64, writer: u64) {
        match step {
            Step::Append(ids) => {
                for id in ids {
                    if store.fetch(*id).unwrap().is_some() {
                        self.order += 1;
                        self.live.insert(*id, (round * WRITERS + writer, self.order));
                    }
                }
            }
            Step::Remove(id) => {
                if self.live.contains_key(id) && store.fetch(*id).unwrap().is_none() {
                    self.live.remove(id);
                    self.removed.insert(*id);
                }
            }
            Step::Name(_) => {}
        }
    }

    /// Compares everything.
    fn compare(&self, store: &Store, context: &str) {
        store.validate().unwrap_or_else(|error| panic!("{context}: {error}"));
        let mut seen = BTreeSet::new();
        for event in store.fetch_scan(..) {
            let event = event.unwrap_or_else(|error| panic!("{context}: {error}"));
            let id = event.id();
            assert!(seen.insert(id), "{context}: event {id} is there twice");
            let known = if self.removed.contains(&id) { "removed" } else { "unknown" };
            assert!(self.live.contains_key(&id), "{context}: event {id} is there, which is {known}");
            let made = Made::of(id);
            assert!(
                event.payload() == made.payload && event.timestamp() == made.timestamp,
                "{context}: event {id} is not what it was"
            );
        }
        let missing: Vec<&u64> = self.live.keys().filter(|id| !seen.contains(id)).collect();
        assert!(missing.is_empty(), "{context}: {} events are lost, such as {:?}", missing.len(), missing[0]);
        // Each of these may read a block.
        let some = |count: usize| (count as u64 / 30).max(1);
        let (of, of_removed) = (some(self.live.len()), some(self.removed.len()));
        for id in self.live.keys().filter(|id| mix(**id ^ 5).is_multiple_of(of)) {
            assert!(store.fetch(*id).unwrap().is_some(), "{context}: event {id} is scanned but not found");
        }
        for id in self.removed.iter().filter(|id| mix(**id ^ 5).is_multiple_of(of_removed)) {
            assert!(store.fetch(*id).unwrap().is_none(), "{context}: event {id} was removed");
        }
        for (name, stream) in &self.names {
            assert_eq!(store.stream(&format!("name {name}")).unwrap().as_u64(), *stream, "{context}");
        }
        self.compare_histories(store, context);
    }

    /// Each writer's events of a stream and class come in the reverse of the order in which it appended them.
    fn compare_histories(&self, store: &Store, context: &str) {
        let mut wanted: HashMap<(u64, usize), u64> = HashMap::new();
        for id in self.live.keys() {
            let made = Made::of(*id);
            *wanted.entry((made.stream, made.class)).or_default() += 1;
        }
        for ((stream, class), count) in wanted {
            let stream = esker::Stream::try_from(stream).unwrap();
            let class = store.class(if class == 1 { "plain" } else { "squeezed" }).unwrap();
            let mut last: HashMap<u64, u64> = HashMap::new();
            let mut found = 0;
            for event in store.fetch_history(stream).class(class) {
                found += 1;
                let id = event.unwrap().id();
                let (writer, order) = self.live[&id];
                let before = last.insert(writer, order).unwrap_or(u64::MAX);
                assert!(order < before, "{context}: the history of {stream:?} is not in order at {id}");
            }
            assert_eq!(found, count, "{context}: the history of {stream:?} in {class:?}");
        }
    }
}

#[test]
fn what_was_acknowledged_survives_being_killed() {
    survives(Mode::Process, false);
}

#[test]
fn a_log_does_no_harm_to_what_survives_being_killed() {
    survives(Mode::Interval, false);
}

#[test]
fn what_was_acknowledged_is_in_the_log_when_the_process_is_killed_and_its_pages_are_lost() {
    survives(Mode::EveryBatch, true);
}

/// `loses_pages`: now and then, all that is left is the data directory.
fn survives(mode: Mode, loses_pages: bool) {
    let (seed, kills) = (setting("ESKER_SEED", 1), setting("ESKER_KILLS", 24));
    // In memory a store that was closed is attached by the next, elsewhere its indexes are built anew; and where a sync
    // costs nothing, more is done before each kill.
    let memory = Path::new("/dev/shm");
    let in_memory = cfg!(target_os = "linux") && memory.is_dir();
    let dir = if in_memory { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.unwrap();
    let places = Places::within(dir.path(), mode);
    let mut lost = 0;
    let (mut truth, mut rng) = (Truth::default(), Rng(mix(seed)));
    let (mut pending, mut recovered, mut blind): (Vec<(u64, Vec<String>)>, u64, u64) = (Vec::new(), 0, 0);
    let mut attached = 0;
    for round in 0..kills {
        let context = format!("{mode:?}, seed {seed}, round {round}");
        match run_and_kill(dir.path(), mode, seed, round, &mut rng) {
            Some(lines) => pending.push((round, lines)),
            None => blind += 1,
        }
        if loses_pages && rng.next(2) == 0 && places.shared.exists() {
            std::fs::remove_dir_all(&places.shared).unwrap();
            lost += 1;
        }
        // Sometimes the next child is the first who opens what this one left; it can then tell of no removal of ours.
        if rng.next(5) == 0 && round + 1 < kills {
            continue;
        }
        let store = Store::open(places.config()).unwrap_or_else(|error| panic!("{context}: {error}"));
        for (round, lines) in pending.drain(..) {
            truth.learn(&store, seed, round, &lines);
        }
        let found = store.recovered().cloned().unwrap_or_default();
        let context = format!("{context} ({found:?})");
        truth.compare(&store, &context);
        assert!(found.is_whole(), "{context}: {found:?}");
        recovered += found.events;
        match rng.next(3) {
            0 => {
                store.close(Duration::from_secs(60)).unwrap();
                drop(store);
                // Otherwise a child is the one who attaches it, if it is not killed before.
                if rng.next(2) == 0 {
                    let store = Store::open(places.config()).unwrap();
                    let found = store.recovered().unwrap();
                    assert!(found.is_whole() && found.attached == in_memory, "{context}: {found:?}");
                    truth.compare(&store, &format!("{context}, attached"));
                    attached += 1;
                    store.close(Duration::from_secs(60)).unwrap();
                }
            }
            _ => store.abandon(),
        }
    }
    let (live, removed) = (truth.live.len(), truth.removed.len());
    println!(
        "{mode:?}: {kills} kills ({blind} while opening, pages lost {lost} times): {live} events, {removed} removed, \
         {recovered} recovered, {attached} times opened after a close"
    );
    assert!(live > 100 && recovered > 0, "{live} events are too few to mean anything");
}
