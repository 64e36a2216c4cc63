//! Regions: reserved address ranges, cut into page frames.

#[cfg(not(loom))]
pub(crate) mod arenas;
#[cfg(not(loom))]
pub(crate) mod backing;
pub(crate) mod free_list;

#[cfg(not(loom))]
pub(crate) mod placement;

#[cfg(not(loom))]
#[expect(unsafe_code, reason = "all pointer arithmetic on page frames lives here")]
pub(crate) mod region;
