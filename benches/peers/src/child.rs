//! What a child process does: it opens one peer, runs one workload, and checks that what it read is what was written.

use std::path::Path;
use std::time::Duration;

use crate::common::{Payloads, Random, Settings, Workload, first_word, now};
use crate::job::{Figures, Job, LARGE, Work};
use crate::peer::{Peer, Record, Room};
use crate::registry::Abilities;
use crate::work;

/// After how many reads a reader renews what it holds.
pub(crate) const RENEW: usize = 256;

/// Runs one workload on one peer.
pub(crate) fn run<P: Peer>(job: &Job, abilities: &Abilities) -> Figures {
    match job.work {
        Work::Ingest { payload, producers } => work::ingest::<P>(job, abilities, payload, producers),
        Work::Read => work::read::<P>(job, abilities),
        Work::Steady => work::steady::<P>(job, abilities),
        Work::Mixed { reads } => work::mixed::<P>(job, abilities, reads),
        Work::Warm => work::warm(job, abilities),
        Work::Limits => Figures::default(),
    }
}

/// Measures the machine.
pub(crate) fn limits(job: &Job, _: &Abilities) -> Figures {
    work::limits(job)
}

/// The workload, whose events all have payloads of one size here.
pub(crate) struct Source {
    pub(crate) work: Workload,
    payload: usize,
}

impl Source {
    pub(crate) fn new(events: usize, payload: usize, reads: usize) -> Self {
        let settings = settings(events, reads);
        let work = Workload::new(&settings, esker::Clock::system().now_ms());
        Self { work, payload }
    }

    pub(crate) fn payloads(&self) -> &Payloads {
        if self.payload == LARGE { &self.work.large } else { &self.work.small }
    }

    /// The event at that place; the first has id 1. Places beyond the end begin with the streams of the first again.
    #[inline]
    pub(crate) fn record(&self, at: usize) -> Record<'_> {
        Record {
            id: at as u64 + 1,
            stream: self.work.streams[at % self.work.streams.len()],
            time: self.work.first_ms + at as i64,
            kind: Workload::kind(at),
            payload: self.payloads().of(at),
        }
    }

    /// The first word of what is stored under that id.
    #[inline]
    pub(crate) fn word(&self, id: u64) -> u64 {
        first_word(self.payloads().of(id as usize - 1))
    }
}

/// Settings as the shared code wants them.
pub(crate) fn settings(events: usize, reads: usize) -> Settings {
    Settings { events, rounds: 1, reads, only: Vec::new() }
}

/// What a peer is told where everything is to fit.
pub(crate) fn room(job: &Job, abilities: &Abilities, events: usize, payload: usize) -> Room {
    Room { events, payload, cap: None, prefault: abilities.prefault, dir: job.dir.clone() }
}

/// Appends these events in the way that the peer is asked for.
pub(crate) fn append<P: Peer>(peer: &P, source: &Source, batch: usize, events: std::ops::Range<usize>) {
    if batch == 1 {
        events.for_each(|at| peer.append(&source.record(at)));
        return;
    }
    for first in events.clone().step_by(batch) {
        peer.append_batch((first..(first + batch).min(events.end)).map(|at| source.record(at)));
    }
}

/// Calls `each` with as many numbers as fit into `most` and `time`, `step` of them between two looks at the clock.
/// How many it was, and how long it took.
pub(crate) fn paced(
    most: usize,
    step: usize,
    time: Duration,
    mut each: impl FnMut(std::ops::Range<usize>),
) -> (usize, f64) {
    let begin = now();
    let mut done = 0;
    while done < most && (done == 0 || begin.elapsed() < time) {
        let next = (done + step).min(most);
        each(done..next);
        done = next;
    }
    (done, begin.elapsed().as_secs_f64())
}

/// Reads some ids and compares what is there with what was stored. How many of them were there.
pub(crate) fn check<P: Peer>(peer: &P, source: &Source, ids: impl Iterator<Item = u64>) -> usize {
    let guard = peer.guard();
    let mut found = 0;
    for id in ids {
        let mut same = None;
        if peer.get(&guard, id, |payload| same = Some(payload == source.payloads().of(id as usize - 1))) {
            assert_eq!(same, Some(true), "event {id} comes back as it was stored");
            found += 1;
        }
    }
    found
}

/// Checks ids from all over a store that has everything.
pub(crate) fn check_all<P: Peer>(peer: &P, source: &Source, abilities: &Abilities, events: usize) {
    let mut random = Random::new(41);
    let asked = events.min(10_000);
    let found = check(peer, source, (0..asked).map(|_| random.below(events) as u64 + 1));
    Misses::default().many(asked - found).allowed(abilities, asked);
}

/// Bytes of memory that this process has, and those of its files, which lie in memory too.
pub(crate) fn memory(dir: &Path) -> u64 {
    // The second number of this file is of resident pages, 4 KiB each on every machine that this is run on.
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = pages.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    pages * 4096 + files(dir)
}

fn files(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(list) = std::fs::read_dir(dir) else { return 0 };
    list.flatten()
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => files(&entry.path()),
            Ok(data) => data.blocks() * 512,
            // Gone in the meantime.
            Err(_) => 0,
        })
        .sum()
}

/// Processor time of this process, all threads together, in seconds; to a hundredth.
pub(crate) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in brackets, may have spaces; user and system time are the 12th and 13th field after it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Reads that found nothing, where everything was appended.
#[derive(Default)]
pub(crate) struct Misses {
    count: usize,
    /// What the sum of the words read is short of.
    words: u64,
}

impl Misses {
    /// Notes an id that was not found.
    #[cold]
    pub(crate) fn one(&mut self, source: &Source, id: u64) {
        self.count += 1;
        self.words = self.words.wrapping_add(source.word(id));
    }

    /// Notes that so many were not found.
    pub(crate) fn many(self, count: usize) -> Self {
        Self { count, ..self }
    }

    /// The sum of all words, those that were not found among them; there may only be as many of these as a peer of
    /// these abilities may lose.
    pub(crate) fn complete(self, sum: u64, abilities: &Abilities, reads: usize) -> u64 {
        let words = self.words;
        self.allowed(abilities, reads);
        sum.wrapping_add(words)
    }

    fn allowed(&self, abilities: &Abilities, reads: usize) {
        let most = if abilities.lossy { reads.div_ceil(1000) } else { 0 };
        assert!(self.count <= most, "{} of {reads} ids that were appended are not there", self.count);
    }
}
