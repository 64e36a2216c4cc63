//! The traces: which events are appended, and which are read. A kind and a seed give the same trace every time.

use std::collections::VecDeque;

use crate::common::{Random, mix, scale};

/// Appended events that are read at all, newest first: nearly twice what memory holds.
pub(crate) const WINDOW: usize = 20_000;
/// Streams of which events are.
const STREAMS: usize = 2_000;
/// How many of a stream's newest events are read at a time.
const NEWEST: usize = 8;
/// The skew of popularity.
const ZIPF: f64 = 0.99;
/// Operations from one scan of old events to the next, and events that one reads.
const SCAN_EVERY: usize = 5_000;
const SCAN: usize = 2_000;

/// What readers do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Any event of the window, each as likely as the next.
    Uniform,
    /// Some events of the window much more often than others, whatever their age.
    Zipf,
    /// The newest events of a stream, of those streams most that have most events.
    Recent,
    /// As `Zipf`; every five seconds one pass goes over old events. Its own reads do not count.
    Scans,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Uniform, Self::Zipf, Self::Recent, Self::Scans];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf 0.99",
            Self::Recent => "recent events of active streams",
            Self::Scans => "zipf 0.99 and scans",
        }
    }
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// The next id, of that stream.
    Append {
        stream: u32,
    },
    Read(u64),
    /// A read that does not count.
    Pass(u64),
}

/// A trace in the making. Ids begin at 1 and have no gaps.
pub(crate) struct Trace {
    kind: Kind,
    random: Random,
    events: Zipf,
    streams: Zipf,
    newest: Vec<VecDeque<u64>>,
    appended: u64,
    operations: usize,
    /// What is to come before anything else.
    next: VecDeque<Operation>,
}

impl Trace {
    pub(crate) fn new(kind: Kind, seed: u64) -> Self {
        Self {
            kind,
            random: Random::new(mix(seed + 1)),
            events: Zipf::new(WINDOW),
            streams: Zipf::new(STREAMS),
            newest: vec![VecDeque::new(); STREAMS],
            appended: 0,
            operations: 0,
            next: VecDeque::new(),
        }
    }

    /// One more event.
    pub(crate) fn append(&mut self) -> Operation {
        let stream = self.streams.draw(&mut self.random);
        self.appended += 1;
        let newest = &mut self.newest[stream];
        newest.push_front(self.appended);
        newest.truncate(NEWEST);
        Operation::Append { stream: stream as u32 }
    }

    /// What comes next: one append for four reads. The window is to be full.
    pub(crate) fn step(&mut self) -> Operation {
        if let Some(next) = self.next.pop_front() {
            return next;
        }
        self.operations += 1;
        if self.kind == Kind::Scans && self.operations.is_multiple_of(SCAN_EVERY) {
            // The older half of what memory holds.
            let first = self.appended - WINDOW as u64 / 2;
            self.next.extend((first..first + SCAN as u64).map(Operation::Pass));
        }
        if self.random.below(5) == 0 {
            return self.append();
        }
        let oldest = self.appended - WINDOW as u64 + 1;
        match self.kind {
            Kind::Uniform => Operation::Read(oldest + self.random.below(WINDOW) as u64),
            Kind::Zipf | Kind::Scans => {
                let rank = self.events.draw(&mut self.random);
                // A rank belongs to a place among the ids modulo the window, so to an event until it leaves the window.
                let place = scale(mix(rank as u64 + 1), WINDOW) as u64;
                Operation::Read(oldest + (place + WINDOW as u64 - oldest % WINDOW as u64) % WINDOW as u64)
            }
            Kind::Recent => {
                let stream = self.streams.draw(&mut self.random);
                let mut ids = self.newest[stream].iter().copied();
                let first = ids.next();
                self.next.extend(ids.map(Operation::Read));
                first.map_or_else(|| self.append(), Operation::Read)
            }
        }
    }
}

/// Numbers of which the n-th is as likely as 1/n to a power.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: usize) -> Self {
        let mut sum = 0.0;
        Self(
            (1..=count)
                .map(|rank| {
                    sum += (rank as f64).powf(-ZIPF);
                    sum
                })
                .collect(),
        )
    }

    fn draw(&self, random: &mut Random) -> usize {
        let sum = self.0.last().copied().unwrap_or(0.0);
        let at = (random.next() >> 11) as f64 / (1u64 << 53) as f64 * sum;
        self.0.partition_point(|share| *share < at).min(self.0.len() - 1)
    }
}
