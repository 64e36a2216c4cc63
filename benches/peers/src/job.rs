//! What one child process does: one workload on one peer.

use std::path::PathBuf;
use std::time::Duration;

/// A workload that has a process of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// W1: ingest payloads of that size by so many producers.
    Ingest { payload: usize, producers: usize },
    /// W2, W3 and W4: reads of a full store. None of them changes it, so they share its filling.
    Read,
    /// W5: steady state at a cap.
    Steady,
    /// W6: reads, so many in a hundred, and appends, on two threads.
    Mixed { reads: usize },
    /// W7: reads of squeezed events.
    Warm,
    /// What the machine allows.
    Limits,
}

impl Work {
    pub(crate) const ALL: [Self; 10] = [
        Self::Limits,
        Self::Ingest { payload: SMALL, producers: 1 },
        Self::Ingest { payload: SMALL, producers: 2 },
        Self::Ingest { payload: LARGE, producers: 1 },
        Self::Ingest { payload: LARGE, producers: 2 },
        Self::Read,
        Self::Steady,
        Self::Mixed { reads: 95 },
        Self::Mixed { reads: 50 },
        Self::Warm,
    ];

    /// Its name in arguments, in the raw figures, and before the name of each of its figures.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Ingest { payload, producers } => format!("w1-{payload}-{producers}"),
            Self::Read => "w2-w4".into(),
            Self::Steady => "w5".into(),
            Self::Mixed { reads } => format!("w6-{reads}"),
            Self::Warm => "w7".into(),
            Self::Limits => "limits".into(),
        }
    }

    /// Whether it belongs to one of these workloads, named as on the command line (`w1` … `w7`).
    pub(crate) fn is_in(self, wanted: &[String]) -> bool {
        let has = |name: &str| wanted.iter().any(|wanted| wanted == name);
        wanted.is_empty()
            || match self {
                Self::Read => ["w2", "w3", "w4"].iter().any(|name| has(name)),
                // Every ratio needs them.
                Self::Limits => true,
                other => has(&other.name()[..2]),
            }
    }
}

pub(crate) const SMALL: usize = 256;
pub(crate) const LARGE: usize = 1024;

/// How much to do.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// Events of 256 bytes; of 1 KB there are a quarter as many.
    pub(crate) events: usize,
    /// Point reads, at most.
    pub(crate) reads: usize,
    /// How long a kind of read, or a mix, goes on at most.
    pub(crate) time: Duration,
    /// The cap of the steady state, in bytes.
    pub(crate) cap: u64,
}

/// All that a child is told.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) peer: String,
    pub(crate) work: Work,
    pub(crate) scale: Scale,
    /// An empty folder, which the parent removes.
    pub(crate) dir: PathBuf,
}

impl Job {
    /// As arguments of a child.
    pub(crate) fn to_args(&self) -> Vec<String> {
        let Scale { events, reads, time, cap } = &self.scale;
        let mut args = vec!["child".to_owned(), self.peer.clone(), self.work.name()];
        args.extend([*events as u64, *reads as u64, time.as_millis() as u64, *cap].map(|n| n.to_string()));
        args.push(self.dir.display().to_string());
        args
    }

    /// From the arguments after `child`.
    pub(crate) fn from_args(args: &[String]) -> Result<Self, String> {
        let [peer, work, events, reads, millis, cap, dir] = args else {
            return Err(format!("a child needs 7 arguments, not {}", args.len()));
        };
        let number = |text: &String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        let found = Work::ALL.into_iter().find(|known| known.name() == *work);
        Ok(Self {
            peer: peer.clone(),
            work: found.ok_or(format!("{work} is no workload"))?,
            scale: Scale {
                events: number(events)? as usize,
                reads: number(reads)? as usize,
                time: Duration::from_millis(number(millis)?),
                cap: number(cap)?,
            },
            dir: dir.into(),
        })
    }
}

/// Figures of a child by name, such as `w2.p50`.
#[derive(Default, Debug)]
pub(crate) struct Figures(pub(crate) Vec<(String, f64)>);

impl Figures {
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64) {
        self.0.push((name.into(), value));
    }

    /// One line each, for the parent.
    pub(crate) fn print(&self) {
        for (name, value) in &self.0 {
            println!("figure\t{name}\t{value}");
        }
    }

    /// From the lines that a child has printed.
    pub(crate) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut fields = line.strip_prefix("figure\t")?.split('\t');
            Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }
}
