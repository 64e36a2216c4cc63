//! How full memory is, and what a caller is told when there is no room.

use std::fmt;

mod gauge;
mod refusal;

pub(crate) use gauge::Gauge;
pub use gauge::{Flow, Hysteresis};
pub use refusal::{AdmissionStats, BackPressure, ByReason, HeldGuard, PressureReason, Stall};

/// The regions that a store divides its memory into.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RegionKind {
    /// Page table, free lists, index directories.
    System,
    /// Events as they were written.
    Hot,
    /// Events squeezed by LZ4.
    Warm,
    /// The id index and the stream directory.
    Index,
}

impl RegionKind {
    /// All of them, in the order of [`Stats::regions`](crate::Stats::regions).
    pub const ALL: [Self; 4] = [Self::System, Self::Hot, Self::Warm, Self::Index];

    /// The region's name in messages and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Hot => "hot",
            Self::Warm => "warm",
            Self::Index => "index",
        }
    }
}

impl fmt::Display for RegionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How short of memory the store is; each level includes the ones before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Pressure {
    /// Below the warning threshold: only age moves pages.
    Normal,
    /// Above the warning threshold (0.80): the oldest pages move down early.
    Warning,
    /// Above the critical threshold (0.90): they move down in larger steps.
    Critical,
    /// Above the rejection threshold (0.95), or the index has no page to spare and an append wanted one: appends wait or are
    /// refused.
    Full,
}

impl Pressure {
    /// All of them, from the lowest to the highest.
    pub const ALL: [Self; 4] = [Self::Normal, Self::Warning, Self::Critical, Self::Full];
}
