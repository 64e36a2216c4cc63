//! esker beside what a user would take instead, in one run on one machine. `README.md` has method and settings.
//!
//! The program starts itself anew for each peer and workload (`child`), collects what these say (`results`), and
//! writes the table (`table`) and the plots (`plot`).

mod child;
mod common;
mod driver;
mod job;
#[path = "../../limits.rs"]
#[allow(dead_code, reason = "names of rows that only cargo bench looks up")]
mod limits;
mod machine;
mod options;
mod peer;
mod peers;
mod plot;
mod registry;
mod results;
mod table;
mod work;

use std::process::ExitCode;

use job::Job;
use options::Options;

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((first, rest)) if first == "child" => child(rest),
        _ => Options::parse(&args).and_then(|options| driver::run(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// The work of a child process.
fn child(args: &[String]) -> Result<(), String> {
    let job = Job::from_args(args)?;
    let entry = registry::find(&job.peer).ok_or(format!("{} takes no part", job.peer))?;
    entry.run(&job).print();
    Ok(())
}
