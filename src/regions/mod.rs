//! Regions: reserved address ranges, cut into page frames.

pub(crate) mod free_list;

#[cfg(not(loom))]
#[expect(unsafe_code, reason = "all pointer arithmetic on page frames lives here")]
pub(crate) mod region;
