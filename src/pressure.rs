//! How full memory is, and what a caller is told when there is no room.

use std::fmt;
use std::time::Duration;

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
    /// Above the rejection threshold (0.95): appends wait or are refused.
    Full,
}

/// Why an append was refused: which region is short, how badly, and when to try again.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct BackPressure {
    /// The region without room.
    pub region: RegionKind,
    /// How short of memory the store is as a whole.
    pub level: Pressure,
    /// Bytes of the region that are taken.
    pub used_bytes: u64,
    /// Bytes that the region may take at most.
    pub limit_bytes: u64,
    /// A guess of when there will be room again.
    pub retry_after: Duration,
}

impl fmt::Display for BackPressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no room in the {} region ({} of {} bytes taken, pressure {:?}); try again in {} ms, slow the source \
             down, or give the region more memory",
            self.region,
            self.used_bytes,
            self.limit_bytes,
            self.level,
            self.retry_after.as_millis()
        )
    }
}
