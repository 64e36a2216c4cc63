//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::job::Scale;
use crate::registry::{ENTRIES, Entry, LIMITS};

/// What to run, and where the results go.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) scale: Scale,
    pub(crate) rounds: usize,
    only: Vec<String>,
    without: Vec<String>,
    /// `w1` … `w7`; empty for all.
    pub(crate) workloads: Vec<String>,
    out: Option<PathBuf>,
    /// Where children have their files.
    pub(crate) dir: PathBuf,
    /// As it was typed.
    pub(crate) command: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Full,
    Quick,
    Smoke,
}

pub(crate) const USAGE: &str = "\
scripts/peers [--quick | --smoke] [--only PEER,…] [--without PEER,…] [--workloads w1,…] [--rounds N] [--events N]
              [--reads N] [--seconds N] [--cap MIB] [--out DIR] [--dir DIR]
  --quick      all of it in about five minutes: fewer events, slow peers in the first round only
  --smoke      everything once and tiny, to see that each peer returns what it was given
  --only       these peers (a name stands for its variants too: esker, hand-rolled); the limits always run
  --without    not these
  --workloads  w1 ingest, w2 gets, w3 histories, w4 scans, w5 steady state, w6 mixed, w7 warm reads;
               w2 to w4 run together, since they share one filling
  --events     of 256 bytes; of 1 KB there are a quarter as many
  --out        where table, raw figures and plots go: by default benches/results, with --quick its folder quick, and
               for a part of peers or workloads benches/peers/target/part
  --dir        where databases have their files: by default /dev/shm";

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let has = |name: &str| args.iter().any(|arg| arg == name);
        let mode = match (has("--quick"), has("--smoke")) {
            (false, false) => Mode::Full,
            (true, false) => Mode::Quick,
            (false, true) => Mode::Smoke,
            (true, true) => return Err("--quick or --smoke, not both".into()),
        };
        let mut options = Self::of(mode);
        options.command = [&["scripts/peers".to_owned()], args].concat().join(" ");
        let mut args = args.iter().filter(|arg| !["--quick", "--smoke"].contains(&arg.as_str()));
        while let Some(arg) = args.next() {
            if ["--help", "-h"].contains(&arg.as_str()) {
                return Err(USAGE.into());
            }
            let value = args.next().ok_or(format!("{arg} needs a value\n{USAGE}"))?;
            let number =
                || value.replace('_', "").parse::<usize>().map_err(|error| format!("{arg} {value}: {error}"));
            let list = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
            match arg.as_str() {
                "--events" => options.scale.events = number()?.max(1000).next_multiple_of(400),
                "--rounds" => options.rounds = number()?.max(1),
                "--reads" => options.scale.reads = number()?.max(400),
                "--seconds" => options.scale.time = Duration::from_secs(number()?.max(1) as u64),
                "--cap" => options.scale.cap = (number()?.max(16) as u64) << 20,
                "--only" => options.only = list(),
                "--without" => options.without = list(),
                "--workloads" => options.workloads = list(),
                "--out" => options.out = Some(value.into()),
                "--dir" => options.dir = value.into(),
                other => return Err(format!("{other} is not known\n{USAGE}")),
            }
        }
        options.check()?;
        Ok(options)
    }

    fn of(mode: Mode) -> Self {
        let (events, reads, millis, cap, rounds) = match mode {
            Mode::Full => (4_000_000, 1_000_000, 5_000, 512 << 20, 3),
            Mode::Quick => (600_000, 100_000, 300, 64 << 20, 3),
            Mode::Smoke => (20_000, 2_000, 100, 16 << 20, 1),
        };
        let shm = PathBuf::from("/dev/shm");
        Self {
            mode,
            scale: Scale { events, reads, time: Duration::from_millis(millis), cap },
            rounds,
            only: Vec::new(),
            without: Vec::new(),
            workloads: Vec::new(),
            out: None,
            dir: if shm.is_dir() { shm } else { std::env::temp_dir() },
            command: String::new(),
        }
    }

    fn check(&self) -> Result<(), String> {
        let names = || ENTRIES.iter().map(|entry| entry.name).collect::<Vec<_>>().join(" ");
        for wanted in self.only.iter().chain(&self.without) {
            if !ENTRIES.iter().any(|entry| is(entry, wanted)) {
                return Err(format!("{wanted} takes no part; there are: {}", names()));
            }
        }
        let known = ["w1", "w2", "w3", "w4", "w5", "w6", "w7"];
        match self.workloads.iter().find(|wanted| !known.contains(&wanted.as_str())) {
            Some(wanted) => Err(format!("{wanted} is no workload; there are: {}", known.join(" "))),
            None => Ok(()),
        }
    }

    /// Who takes part in this run.
    pub(crate) fn entries(&self) -> Vec<&'static Entry> {
        let wanted = |entry: &&Entry| {
            let any = |list: &[String]| list.iter().any(|name| is(entry, name));
            entry.name == LIMITS || (self.only.is_empty() || any(&self.only)) && !any(&self.without)
        };
        ENTRIES.iter().filter(wanted).collect()
    }

    /// Where the results go.
    pub(crate) fn out(&self) -> PathBuf {
        let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let part = !self.only.is_empty() || !self.without.is_empty() || !self.workloads.is_empty();
        match (&self.out, self.mode) {
            (Some(out), _) => out.clone(),
            (None, Mode::Smoke) => package.join("target/smoke"),
            (None, _) if part => package.join("target/part"),
            (None, Mode::Quick) => package.join("../results/quick"),
            (None, Mode::Full) => package.join("../results"),
        }
    }
}

/// Whether an entry has that name or is a variant of it.
fn is(entry: &Entry, name: &str) -> bool {
    entry.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}
