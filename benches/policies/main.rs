//! Eviction policies side by side: which share of reads finds its event hot, and which finds it in memory, on generated
//! traces; what eviction costs the slowest appends; and sizes of regions that follow the load.
//!
//! ```sh
//! cargo bench --bench policies                     # all, about a minute after the build
//! cargo bench --bench policies -- --only hits
//! cargo bench --bench policies -- --only tail
//! cargo bench --bench policies -- --only shift
//! ```

#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "the other benchmark uses all of it")]
mod common;
mod hits;
mod shift;
mod tail;
mod traces;

use std::process::ExitCode;

/// How much of everything.
struct Size {
    /// Operations of a trace, and how many traces of each kind.
    operations: usize,
    traces: u64,
    /// Appends that are timed, and how often.
    appends: usize,
    rounds: usize,
}

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --bench policies` does not say `--bench`: everything once and small, to show that it works.
    let whole = args.iter().any(|arg| arg == "--bench");
    args.retain(|arg| arg != "--bench");
    let only = match args.as_slice() {
        [] => None,
        [flag, what] if flag == "--only" && ["hits", "tail", "shift"].contains(&what.as_str()) => {
            Some(what.clone())
        }
        _ => {
            eprintln!("cargo bench --bench policies -- [--only hits|tail|shift]");
            return ExitCode::from(2);
        }
    };
    let size = match whole {
        true => Size { operations: 200_000, traces: 3, appends: 1_000_000, rounds: 3 },
        false => Size { operations: 20_000, traces: 1, appends: 50_000, rounds: 1 },
    };
    let runs = |what: &str| only.as_deref().is_none_or(|only| only == what);
    if runs("hits") {
        hits::run(&size);
    }
    if runs("tail") {
        tail::run(&size);
    }
    if runs("shift") {
        shift::run(&size);
    }
    ExitCode::SUCCESS
}

/// The one in the middle.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
