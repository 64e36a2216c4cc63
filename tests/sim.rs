//! Deterministic simulation: the model test with everything below the store going wrong, as one seed decides.
//!
//! The store has no threads and a clock that the test moves; its cold tier is a map that is down, slow or alters what it
//! gives, or the embedded tier on a disk that fails, tears, forgets and lies; half of the stores keep their pages for the
//! next process, and half of those a log for the next start of the machine. Processes and machines end between two calls, in the middle of one, and while they begin. After each
//! step the store must be sound (`Store::validate`) and every read is compared with the reference.
//!
//! `ESKER_SEED=17 cargo test --test sim one_seed` runs one seed again, `ESKER_SEEDS=100..200` other seeds than the usual
//! ones, `ESKER_STEPS=1000` longer runs. A seed that found something becomes a test with a name in `sim/named.rs`.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

#[path = "sim/crash.rs"]
mod crash;
#[path = "sim/disk.rs"]
mod disk;
#[path = "sim/faults.rs"]
mod faults;
#[path = "model/lifecycle.rs"]
mod lifecycle;
#[path = "sim/named.rs"]
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
#[allow(dead_code, reason = "the model test uses all of it")]
#[path = "model/setup.rs"]
mod setup;
#[allow(dead_code, reason = "the model test uses all of it")]
#[path = "model/tier.rs"]
mod tier;
#[path = "sim/torn.rs"]
mod torn;
#[allow(dead_code, reason = "the model test uses all of it")]
#[path = "model/world.rs"]
mod world;
#[path = "model/writes.rs"]
mod writes;

use setup::Kind;

const STEPS: usize = 150;
/// More where the compiler has made the store fast.
const SEEDS: u64 = if cfg!(debug_assertions) { 100 } else { 3000 };

#[test]
fn seeds() {
    run::run_all(SEEDS, Kind::Faults, STEPS, 2, |totals| totals.faults.check(SEEDS));
}

/// Runs the seed that `ESKER_SEED` names; without it, seed 0.
#[test]
fn one_seed() {
    println!("{:?}", run::run(run::asked_seed(), Kind::Faults, STEPS));
}

/// Otherwise a seed would not say what went wrong.
#[test]
fn a_seed_gives_the_same_run_every_time() {
    run::run_twice(SEEDS / 10, Kind::Faults, STEPS, 2);
}
