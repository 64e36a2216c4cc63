//! Model test: random operations on a store and on a simple reference, compared at every read.
//!
//! A seed decides everything: what kind of store, what happens, in which order. `ESKER_SEEDS=100..200` runs other
//! seeds than the usual ones, `ESKER_SEED=17 cargo test --test model one_seed` runs one again, and
//! `ESKER_STEPS=10000` lets each run longer. A seed that found something becomes a test with a name.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

#[allow(dead_code, reason = "the simulation uses all of it")]
#[path = "sim/crash.rs"]
mod crash;
#[path = "sim/disk.rs"]
mod disk;
#[path = "sim/faults.rs"]
mod faults;
#[path = "model/lifecycle.rs"]
mod lifecycle;
#[path = "model/named.rs"]
mod named;
#[path = "model/policies.rs"]
mod policies;
#[path = "sim/power.rs"]
mod power;
#[path = "model/reads.rs"]
mod reads;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/rng.rs"]
mod rng;
#[path = "model/run.rs"]
mod run;
#[path = "model/screen.rs"]
mod screen;
#[path = "model/setup.rs"]
mod setup;
#[path = "model/tier.rs"]
mod tier;
#[path = "sim/torn.rs"]
mod torn;
#[path = "model/world.rs"]
mod world;
#[path = "model/writes.rs"]
mod writes;

use setup::Kind;

const STEPS: usize = 1200;

#[test]
fn seeds_without_threads() {
    run::run_all(30, Kind::Alone, STEPS, 1, world::Totals::check);
}

#[test]
fn seeds_with_threads() {
    run::run_all(40, Kind::Threads, STEPS, 1, world::Totals::check_but_for_time);
}

/// Runs the seed that `ESKER_SEED` names, both ways; without it, seed 0.
#[test]
fn one_seed() {
    let seed = run::asked_seed();
    println!("{:?}", run::run(seed, Kind::Alone, STEPS));
    println!("{:?}", run::run(seed, Kind::Threads, STEPS));
}
