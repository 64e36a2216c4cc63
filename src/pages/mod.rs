//! Logical pages: what the page table knows of each, how their bytes are read, moved and let go.

pub(crate) mod held;
pub(crate) mod place;
pub(crate) mod table;

#[cfg(not(loom))]
pub(crate) mod walk;

#[cfg(not(loom))]
pub(crate) mod image;

#[cfg(not(loom))]
pub(crate) mod pack;

#[cfg(not(loom))]
mod squeeze;

#[cfg(not(loom))]
mod units;

#[cfg(not(loom))]
pub(crate) mod warm;

#[cfg(not(loom))]
pub(crate) mod readers;

#[cfg(not(loom))]
mod counts;

#[cfg(not(loom))]
pub(crate) mod limbo;

#[cfg(not(loom))]
pub(crate) mod logged;

#[cfg(not(loom))]
pub(crate) mod removed;

#[cfg(not(loom))]
pub(crate) mod repack;

#[cfg(not(loom))]
pub(crate) mod restore;

#[cfg(not(loom))]
#[expect(unsafe_code, reason = "reads and writes page frames, and frees them after the readers have left")]
pub(crate) mod pool;

#[cfg(not(loom))]
pub(crate) mod reading;
