//! Finding events: by id, by stream, and streams by name.

pub(crate) mod bucket;
pub(crate) mod dense;
pub(crate) mod directory;
pub(crate) mod hash;
pub(crate) mod ids;

#[cfg(not(loom))]
#[expect(
    unsafe_code,
    reason = "sees index pages as buckets and heads, and frees them after the readers have left"
)]
pub(crate) mod region;

#[cfg(not(loom))]
pub(crate) mod classes;
#[cfg(not(loom))]
pub(crate) mod names;
#[cfg(not(loom))]
pub(crate) mod streams;
