//! Counts the instructions that an event takes, under valgrind, and compares them with `limits.toml`.
//!
//! The program starts itself under `valgrind --tool=callgrind`, once for each benchmark.

mod benchmarks;
mod callgrind;
mod limits;
mod report;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use benchmarks::{BENCHMARKS, Benchmark};
use callgrind::{Callgrind, Count};
use limits::Limits;

const USAGE: &str = "scripts/instructions [--only NAME,…] [--seed N] [--limits FILE] [--set WHY]\n\
    without --set: compares, and fails where a count is more than 5 % above its limit\n\
    --set WHY      moves the limits to what is counted now, and notes why beside each that moves\n\
    --seed N       another seed of the store's hashes, to see how much counts depend on it";

/// The seed of the store's hashes, as long as no other is asked for.
const SEED: u64 = 1;

/// What the command line asks for.
struct Wishes {
    only: Vec<String>,
    seed: u64,
    limits: PathBuf,
    set: Option<String>,
    /// The benchmark to run in this very process, which valgrind watches.
    run: Option<String>,
}

impl Wishes {
    fn from_args() -> Result<Self, String> {
        let mut wishes = Self {
            only: Vec::new(),
            seed: SEED,
            limits: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("limits.toml"),
            set: None,
            run: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value =
                || args.next().filter(|text| !text.is_empty()).ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--only" => wishes.only = value()?.split(',').map(str::to_owned).collect(),
                "--seed" => wishes.seed = value()?.parse().map_err(|error| format!("--seed: {error}"))?,
                "--limits" => wishes.limits = value()?.into(),
                "--set" => wishes.set = Some(value()?),
                "--run" => wishes.run = Some(value()?),
                other => return Err(format!("{other} is not known")),
            }
        }
        if wishes.set.is_some() && wishes.seed != SEED {
            return Err("limits are set with the usual seed".into());
        }
        let unknown = wishes.only.iter().find(|name| BENCHMARKS.iter().all(|known| known.name != **name));
        match unknown {
            Some(name) => Err(format!("there is no benchmark {name}; there are {}", names().join(" "))),
            None => Ok(wishes),
        }
    }
}

fn names() -> Vec<&'static str> {
    BENCHMARKS.iter().map(|benchmark| benchmark.name).collect()
}

fn main() -> ExitCode {
    let wishes = match Wishes::from_args() {
        Ok(wishes) => wishes,
        Err(fault) => {
            eprintln!("{fault}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&wishes) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("instructions: {fault}");
            ExitCode::from(2)
        }
    }
}

/// Whether every count is within its limit.
fn run(wishes: &Wishes) -> Result<bool, String> {
    if let Some(name) = &wishes.run {
        let found = BENCHMARKS.iter().find(|benchmark| benchmark.name == name);
        let events = (found.ok_or(format!("there is no benchmark {name}"))?.run)(wishes.seed);
        println!("{events}");
        return Ok(true);
    }
    let chosen: Vec<&Benchmark> = BENCHMARKS
        .iter()
        .filter(|benchmark| wishes.only.is_empty() || wishes.only.iter().any(|name| name == benchmark.name))
        .collect();
    let mut limits = Limits::read(&wishes.limits)?;
    let callgrind = Callgrind::find()?;
    let counts = count_all(&callgrind, &chosen, wishes.seed)?;
    print!("{}", report::table(&counts, &limits));
    if let Some(why) = &wishes.set {
        limits.set(&counts, &names(), callgrind.tools(), why);
        limits.write(&wishes.limits)?;
        println!("instructions: {} written", wishes.limits.display());
        return Ok(true);
    }
    let faults = report::faults(&counts, &limits, &names());
    for fault in &faults {
        eprintln!("instructions: {fault}");
    }
    if !faults.is_empty() && limits.tools != callgrind.tools() {
        eprintln!(
            "instructions: the limits were set with {}, this is {}: that may be the reason",
            limits.tools,
            callgrind.tools()
        );
    }
    Ok(faults.is_empty())
}

/// Runs benchmarks, as many at once as there are processors: counts do not depend on what else runs.
fn count_all(callgrind: &Callgrind, chosen: &[&Benchmark], seed: u64) -> Result<Vec<Count>, String> {
    let (next, counts) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        while let Some(benchmark) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let count = callgrind.count(benchmark.name, seed)?;
            counts.lock().map_err(|_| "another worker panicked")?.push(count);
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(chosen.len());
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let ended =
            running.into_iter().map(|worker| worker.join().map_err(|_| "a worker panicked".to_owned())?);
        ended.collect::<Result<(), String>>()
    })?;
    let mut counts = counts.into_inner().map_err(|_| "a worker panicked")?;
    counts.sort_by_key(|count| chosen.iter().position(|benchmark| benchmark.name == count.name));
    Ok(counts)
}
