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
mod peer;
mod peers;
mod registry;
mod work;

/// Runs what the command line asks for. Whether all went well.
pub fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((first, rest)) if first == "child" => one(rest),
        _ => { driver::main(); std::process::ExitCode::SUCCESS }
    }
}

/// The work of a child process.
fn one(args: &[String]) -> std::process::ExitCode {
    let job = job::Job::from_args(args).and_then(|job| {
        let entry = registry::find(&job.peer).ok_or(format!("{} takes no part", job.peer))?;
        Ok((job, entry))
    });
    match job {
        Ok((job, entry)) => {
            entry.run(&job).print();
            std::process::ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("{fault}");
            std::process::ExitCode::from(2)
        }
    }
}
