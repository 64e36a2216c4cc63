//! Runs seeds.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
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
    run_world(World::new(seed, kind), seed, steps).totals
}

/// The same, with a note of every step and what the store's figures were after it.
#[allow(dead_code, reason = "with threads a run is another one each time")]
pub(crate) fn traced(seed: u64, kind: Kind, steps: usize) -> Vec<String> {
    let mut world = World::new(seed, kind);
    world.trace();
    let world = run_world(world, seed, steps);
    let mut all: Vec<String> = world.notes().map(str::to_owned).collect();
    all.push(format!("{:?}", world.totals));
    all
}

fn run_world(mut world: World, seed: u64, steps: usize) -> World {
    let steps = setting("ESKER_STEPS").map_or(steps, |steps| steps as usize);
    let kind = world.setup.kind;
    match catch_unwind(AssertUnwindSafe(|| world.run(steps))) {
        Ok(Ok(())) => {
            if setting("ESKER_NOTES").is_some() {
                println!("{}", world.report());
            }
            world
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

/// Runs each seed twice, at the same time as others, and compares everything that it came to.
#[allow(dead_code, reason = "with threads a run is another one each time")]
pub(crate) fn run_twice(usual: u64, kind: Kind, steps: usize, threads: usize) {
    each(seeds(usual), threads, |seed| {
        let (once, again) = (traced(seed, kind, steps), traced(seed, kind, steps));
        let differs = once.iter().zip(&again).position(|(once, again)| once != again);
        if let Some(at) = differs {
            panic!("seed {seed} went two ways at this step:\n  {}\n  {}", once[at], again[at]);
        }
        assert_eq!(once.len(), again.len(), "seed {seed}");
    });
}

/// Does something for each seed, on that many threads.
fn each(seeds: std::ops::Range<u64>, threads: usize, what: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            what(seed);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
}

/// Runs seeds on that many threads. `check`: the usual ones must have met everything that the test is about.
pub(crate) fn run_all(usual: u64, kind: Kind, steps: usize, threads: usize, check: fn(&Totals)) {
    let (seeds, sum) = (seeds(usual), Mutex::new(Totals::default()));
    each(seeds.clone(), threads, |seed| {
        let totals = run(seed, kind, steps);
        sum.lock().unwrap().add(&totals);
    });
    let sum = sum.into_inner().unwrap();
    println!("seeds {seeds:?}: {sum:?}");
    if std::env::var("ESKER_SEEDS").is_err() {
        check(&sum);
    }
}
