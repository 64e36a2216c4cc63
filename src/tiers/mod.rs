//! The cold tier: blocks of events on their way out of memory and back.

pub(crate) mod block;
pub(crate) mod caught;
pub(crate) mod cold;
pub(crate) mod directory;
pub(crate) mod disk;
pub(crate) mod entry;
#[cfg_attr(not(feature = "scylla"), allow(dead_code, reason = "the overflow directory does more to them"))]
pub(crate) mod files;
pub(crate) mod filter;
pub(crate) mod letters;
pub(crate) mod reader;
#[cfg(feature = "scylla")]
pub(crate) mod scylla;
#[cfg(any(feature = "scylla", fuzzing, test))]
#[cfg_attr(
    not(feature = "scylla"),
    allow(dead_code, unreachable_pub, reason = "the fuzzers use its decoders only, and tests not all of it")
)]
pub(crate) mod shield;
pub(crate) mod spiller;
pub(crate) mod watched;
