//! The operating system: memory, and the processors that threads run on.

#[cfg(not(loom))]
#[expect(unsafe_code, reason = "maps memory and hands out references into it")]
pub(crate) mod memory;

#[cfg(not(loom))]
pub(crate) mod affinity;

#[cfg(not(loom))]
pub(crate) mod cgroup;
#[cfg(not(loom))]
pub(crate) mod machine;
#[cfg(not(loom))]
pub(crate) mod shared;
#[cfg(not(loom))]
pub(crate) mod smaps;
#[cfg(not(loom))]
pub(crate) mod sum;
#[cfg(not(loom))]
pub(crate) mod topology;
