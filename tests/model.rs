//! Model test: random operations on a store and on a simple reference, compared at every read.
//!
//! A seed decides everything: what kind of store, what happens, in which order. `ESKER_SEEDS=100..200` runs other
//! seeds than the usual ones, `ESKER_SEED=17 cargo test --test model one_seed` runs one again, and
//! `ESKER_STEPS=10000` lets each run longer. A seed that found something becomes a test with a name.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

#[path = "model/lifecycle.rs"]
mod lifecycle;
#[path = "model/named.rs"]
mod named;
#[path = "model/policies.rs"]
mod policies;
#[path = "model/reads.rs"]
mod reads;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/rng.rs"]
mod rng;
#[path = "model/screen.rs"]
mod screen;
#[path = "model/setup.rs"]
mod setup;
#[path = "model/tier.rs"]
mod tier;
#[path = "model/world.rs"]
mod world;
#[path = "model/writes.rs"]
mod writes;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use world::{Totals, World};

const STEPS: usize = 1200;

/// Runs one seed.
fn run(seed: u64, threads: bool) -> Totals {
    let steps = std::env::var("ESKER_STEPS").map_or(STEPS, |steps| steps.parse().unwrap());
    let mut world = World::new(seed, threads);
    let what = format!("seed {seed} ({})", if threads { "threads" } else { "no threads" });
    match catch_unwind(AssertUnwindSafe(|| world.run(steps))) {
        Ok(Ok(())) => world.totals,
        Ok(Err(fault)) => panic!("{what}: {fault}\n{}", world.report()),
        Err(panic) => {
            eprintln!("{what} panicked\n{}", world.report());
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

/// Runs seeds one after the other. Those that are usual must have met everything that the test is about.
fn run_all(usual: u64, threads: bool) {
    let mut sum = Totals::default();
    for seed in seeds(usual) {
        let totals = run(seed, threads);
        println!("seed {seed}: {totals:?}");
        sum.add(&totals);
    }
    println!("all: {sum:?}");
    if std::env::var("ESKER_SEEDS").is_err() {
        sum.check();
    }
}

#[test]
fn seeds_without_threads() {
    run_all(30, false);
}

#[test]
fn seeds_with_threads() {
    run_all(12, true);
}

/// Runs the seed that `ESKER_SEED` names, both ways; without it, seed 0.
#[test]
fn one_seed() {
    let seed = std::env::var("ESKER_SEED").map_or(0, |seed| seed.parse().unwrap());
    println!("{:?}", run(seed, false));
    println!("{:?}", run(seed, true));
}
