//! Runs seeds.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::setup::Kind;
use crate::world::{Totals, World};

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// The seed that is to be run alone.
pub(crate) fn asked_seed() -> u64 {
    setting("ESKER_SEED").unwrap_or(0)
}

/// Runs one seed for so many steps, unless `ESKER_STEPS` says otherwise.
pub(crate) fn run(seed: u64, kind: Kind, steps: usize) -> Totals {
    let steps = setting("ESKER_STEPS").map_or(steps, |steps| steps as usize);
    let mut world = World::new(seed, kind);
    match catch_unwind(AssertUnwindSafe(|| world.run(steps))) {
        Ok(Ok(())) => {
            if setting("ESKER_NOTES").is_some() {
                println!("{}", world.report());
            }
            world.totals
        }
        Ok(Err(fault)) => panic!("seed {seed} ({kind:?}): {fault}\n{}", world.report()),
        Err(panic) => {
            eprintln!("seed {seed} ({kind:?}) panicked\n{}", world.report());
            resume_unwind(panic)
        }
    }
}

/// The seeds to run: `ESKER_SEEDS` as `from..to` or a count, or the usual ones.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let Ok(asked) = std::env::var("ESKER_SEEDS") else { return 0..usual };
    match asked.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => 0..asked.parse().unwrap(),
    }
}

/// Runs seeds on that many threads. `check`: the usual ones must have met everything that the test is about.
pub(crate) fn run_all(usual: u64, kind: Kind, steps: usize, threads: usize, check: fn(&Totals)) {
    let seeds = seeds(usual);
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut sum = Totals::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return sum;
            }
            sum.add(&run(seed, kind, steps));
        }
    };
    let mut sum = Totals::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(part) => sum.add(&part),
                Err(panic) => resume_unwind(panic),
            }
        }
    });
    println!("seeds {seeds:?}: {sum:?}");
    if std::env::var("ESKER_SEEDS").is_err() {
        check(&sum);
    }
}
