//! The cold tier on a real Cassandra, which the tests start themselves. Run it with `scripts/test-cassandra`.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod access;
mod away;
mod basics;
#[path = "../it/common.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod common;
#[path = "../contract/mod.rs"]
mod contract;
mod faults;
mod kills;
mod node;
mod proxy;
