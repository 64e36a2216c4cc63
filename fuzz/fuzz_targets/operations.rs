//! Operations on a store and on the reference of the model test, chosen by the bytes: what the model compares must agree, and
//! with an odd first byte everything below the store fails, as in the simulation.
#![no_main]
#![allow(dead_code, clippy::unwrap_used, reason = "the model test and the simulation, as they are")]

#[path = "../../tests/sim/crash.rs"]
mod crash;
#[path = "../../tests/sim/disk.rs"]
mod disk;
#[path = "../../tests/sim/faults.rs"]
mod faults;
#[path = "../../tests/model/lifecycle.rs"]
mod lifecycle;
#[path = "../../tests/model/policies.rs"]
mod policies;
#[path = "../../tests/sim/power.rs"]
mod power;
#[path = "../../tests/model/reads.rs"]
mod reads;
#[path = "../../tests/model/reference.rs"]
mod reference;
#[path = "tape.rs"]
mod rng;
#[path = "../../tests/model/screen.rs"]
mod screen;
#[path = "../../tests/model/setup.rs"]
mod setup;
#[path = "../../tests/model/tier.rs"]
mod tier;
#[path = "../../tests/sim/torn.rs"]
mod torn;
#[path = "../../tests/model/world.rs"]
mod world;
#[path = "../../tests/model/writes.rs"]
mod writes;

use std::sync::Once;

use crate::setup::Kind;
use crate::world::World;

/// libFuzzer's own hook ends the process at any panic. The embedded tier catches those of redb, which does not expect a
/// file that a disk has lied about; all that nobody catches end the process still.
static HOOK: Once = Once::new();

/// What an operation takes of the bytes, more or less.
const EACH: usize = 8;
const STEPS_MAX: usize = 120;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    HOOK.call_once(|| std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))));
    let Some((first, bytes)) = bytes.split_first() else { return };
    let kind = if first % 2 == 1 { Kind::Faults } else { Kind::Alone };
    rng::set(bytes);
    let mut world = World::new(u64::from(*first), kind);
    if let Err(fault) = world.run((bytes.len() / EACH).min(STEPS_MAX)) {
        panic!("{fault}\n{}", world.report());
    }
});
