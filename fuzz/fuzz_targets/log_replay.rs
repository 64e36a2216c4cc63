//! A store that opens over a log of which the bytes say what is in its frames, behind right checksums: it is refused, or what
//! is found is found again whenever power is lost, and so is what comes afterwards.
#![no_main]

#[path = "common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the simulation uses all of it")]
#[path = "../../tests/sim/faults.rs"]
mod faults;
#[allow(dead_code, reason = "the model test uses all of it")]
#[path = "../../tests/model/rng.rs"]
mod rng;
#[allow(dead_code, reason = "the model test uses all of it")]
#[path = "../../tests/model/tier.rs"]
mod tier;

use std::path::Path;
use std::sync::Arc;

use esker::fuzz_doors::{LOG_PARTITIONS, LOG_SEED, log_files};
use esker::{Config, DiskSync, Durability, ErrorKind, Store};

use crate::tier::MapTier;

fn open(dir: &Path) -> esker::Result<Store> {
    let config = Config::builder()
        .memory("8MiB")
        .hot(|hot| hot.max("1MiB").page_size("4KiB"))
        .warm(|warm| warm.max("512KiB"))
        .partitions(LOG_PARTITIONS)
        .max_event("32KiB")
        .durability(Durability::Disk(DiskSync::EveryBatch))
        .data_dir(dir.join("data"))
        .shared_dir(dir.join("shared"))
        .huge_pages(false)
        .append_timeout(std::time::Duration::from_millis(1))
        .background(false);
    Store::builder(config.build()?).seed(LOG_SEED).cold(Arc::new(MapTier::default())).open()
}

/// Ids that no log of the fuzzer's has but by chance.
const NEW: std::ops::Range<u64> = 0x77aa_0000_0001..0x77aa_0000_0006;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = common::scratch();
    let dir = dir.path();
    common::fill(&dir.join("data/log"), &log_files(bytes));
    let store = match open(dir) {
        Ok(store) => store,
        Err(error) => {
            let told = [ErrorKind::Incompatible, ErrorKind::Corrupt, ErrorKind::MemoryPressure];
            assert!(told.contains(&error.kind()), "{error:?}");
            return;
        }
    };
    let first = common::everything(&store);
    let lose_power = |store: Store, what: &str| {
        store.abandon();
        std::fs::remove_dir_all(dir.join("shared")).expect("the pages can go");
        open(dir).unwrap_or_else(|error| panic!("{what}: {error:?}"))
    };
    let store = lose_power(store, "again");
    let report = store.recovered();
    assert_eq!(common::everything(&store), first, "after another loss of power: {report:?}");
    common::append(&store, NEW);
    let second = common::everything(&store);
    let store = lose_power(store, "with more");
    let report = store.recovered();
    assert_eq!(common::everything(&store), second, "after a loss of power with more events: {report:?}");
});
