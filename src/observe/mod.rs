//! Watching the store: read-only, and never in the way.

pub(crate) mod recovered;
pub(crate) mod sizing;
pub(crate) mod stats;
