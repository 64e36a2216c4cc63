//! Integration tests: one module for each promise.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod adapt;
mod apart;
mod append;
#[cfg(target_os = "linux")]
mod attach;
mod backpressure;
mod bad_files;
mod bad_input;
mod choices;
mod cluster;
mod common;
mod concurrency;
mod confirmed;
#[path = "../contract/mod.rs"]
mod contract;
mod corrupt_cold;
mod defrag;
mod disk;
mod flow;
#[cfg(target_os = "linux")]
mod formats;
mod going_on;
mod guards;
mod kept;
mod many_blocks;
mod moving;
mod on_full;
mod page_sets;
mod policies;
mod process;
mod resize;
mod restart;
mod screen;
mod small_index;
mod sums;
mod tier;
#[path = "../sim/torn.rs"]
mod torn;
mod ttl;
