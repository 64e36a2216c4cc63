//! Runs a child for each peer and workload, round after round, and has the results written.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::now;
use crate::job::{Figures, Job, Work};
use crate::options::{Mode, Options};
use crate::registry::{Allocator, Entry};
use crate::results::Results;
use crate::{plot, table};

/// After this long a child is taken to hang. The slowest needs a few minutes; on a machine that is shared it may be
/// stopped for a while in between.
const CHILD_TIME_MAX: Duration = Duration::from_secs(45 * 60);

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let begin = now();
    let entries = options.entries();
    let mut results = Results::default();
    let mut faults = Vec::new();
    for round in 0..options.rounds {
        for work in Work::ALL.into_iter().filter(|work| work.is_in(&options.workloads)) {
            let mut turn: Vec<_> = entries.iter().filter(|entry| entry.takes_part(work)).collect();
            if options.mode == Mode::Quick && round > 0 {
                turn.retain(|entry| !entry.abilities.slow);
            }
            // Each round begins with another one, so that none always follows the same neighbour.
            let len = turn.len().max(1);
            turn.rotate_left(round * len / options.rounds % len);
            for entry in turn {
                let started = now();
                let outcome = child(options, entry, work);
                let took = started.elapsed().as_secs_f64();
                let clock = begin.elapsed().as_secs();
                eprintln!(
                    "{clock:5} s  round {}  {:9} {:22} {took:.1} s",
                    round + 1,
                    work.name(),
                    entry.name
                );
                match outcome {
                    Ok(figures) => results.add(round, entry.name, work, figures),
                    Err(fault) => {
                        eprintln!("         {fault}");
                        faults.push(format!("{} {}: {fault}", entry.name, work.name()));
                    }
                }
            }
        }
    }
    let out = options.out();
    let seconds = begin.elapsed().as_secs();
    write(options, &results, &entries, &faults, seconds, &out)
        .map_err(|error| format!("{}: {error}", out.display()))?;
    println!("{} figures in {seconds} s: {}", results.len(), out.join("table.md").display());
    if faults.is_empty() { Ok(()) } else { Err(format!("{} failed:\n{}", faults.len(), faults.join("\n"))) }
}

/// Runs one workload on one peer in a process of its own.
fn child(options: &Options, entry: &Entry, work: Work) -> Result<Figures, String> {
    let dir = options.dir.join(format!("esker-peers-{}", std::process::id()));
    let outcome =
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display())).and_then(|()| {
            let job =
                Job { peer: entry.name.to_owned(), work, scale: options.scale.clone(), dir: dir.clone() };
            spawn(entry, &job)
        });
    // What it left behind lies in memory.
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}

fn spawn(entry: &Entry, job: &Job) -> Result<Figures, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program is not found: {error}"))?;
    let program = match entry.allocator {
        Allocator::System => program.with_file_name("peers"),
        Allocator::Mimalloc => program.with_file_name("peers-mimalloc"),
    };
    let mut child = Command::new(&program)
        .args(job.to_args())
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let begin = now();
    // What it prints fits into a pipe, so it never waits for us.
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if begin.elapsed() > CHILD_TIME_MAX {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("not finished after {} s", CHILD_TIME_MAX.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{}; what it said is above", output.status));
    }
    let figures = Figures::parse(&String::from_utf8_lossy(&output.stdout));
    match figures.0.iter().find(|(_, value)| !value.is_finite()) {
        Some((name, value)) => Err(format!("{name} is {value}")),
        None if figures.0.is_empty() => Err("it has measured nothing".into()),
        None => Ok(figures),
    }
}

fn write(
    options: &Options,
    results: &Results,
    entries: &[&Entry],
    faults: &[String],
    seconds: u64,
    out: &Path,
) -> std::io::Result<()> {
    std::fs::create_dir_all(out)?;
    std::fs::write(out.join("raw.csv"), results.csv())?;
    std::fs::write(out.join("table.md"), table::markdown(options, results, entries, faults, seconds))?;
    for (name, svg) in plot::all(results, entries) {
        std::fs::write(out.join(name), svg)?;
    }
    Ok(())
}
