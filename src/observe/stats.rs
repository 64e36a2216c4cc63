//! One snapshot of everything that the store counts.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::error::{Error, ErrorKind, Result};
use crate::eviction::{Move, Refusal};
use crate::observe::sizing::SizingStats;
use crate::pressure::{AdmissionStats, HeldGuard, Pressure, RegionKind, Stall};
use crate::regions::region::RegionStats;
use crate::tiers::cold::TierFigures;

/// What a store holds and has done since it opened. Plain numbers; see [`Store::stats`](crate::Store::stats).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// How short of memory the store is.
    pub pressure: Pressure,
    /// Bytes that regions and buffers take now: what the configured `memory` bounds.
    pub memory_bytes: u64,
    /// Bytes of names, cold directory, caches and spill buffers.
    pub buffer_bytes: u64,
    /// Regions in the order of [`RegionKind::ALL`].
    pub regions: [RegionStats; 4],
    /// How memory was divided anew, and why; all zero without
    /// [`ConfigBuilder::adaptive_sizing`](crate::ConfigBuilder::adaptive_sizing).
    pub sizing: SizingStats,
    /// Packing of sparse pages since the store opened.
    pub defrag: DefragStats,
    /// Events, by where they are and what became of them.
    pub events: EventStats,
    /// What moved pages, and what it was not let do.
    pub eviction: EvictionStats,
    /// What became of appends that had no room, for each class in the order of the configuration.
    pub admission: Vec<AdmissionStats>,
    /// Why a full store makes no room, if it makes none; or the guard that alone keeps the level from falling to `Normal`.
    pub stall: Option<Stall>,
    /// The guard that readers have held longest, if any is held: pages that it was given events of are not reused.
    pub oldest_guard: Option<HeldGuard>,
    /// Bytes of the hot region that have left memory but for guards that were given events of them.
    pub pinned_bytes: u64,
    /// Calls of listeners that panicked.
    pub listener_panics: u64,
    /// How often a thread of the store's own panicked, by an error in esker, and was begun anew; `warnings` has the text.
    pub thread_panics: u64,
    /// The cold tier; all zero without one.
    pub cold: ColdStats,
    /// The log on the disk; all zero without [`Durability::Disk`](crate::Durability::Disk).
    pub log: LogStats,
    /// Bytes of the regions that the system agreed to keep out of swap.
    pub locked_bytes: u64,
    /// What the system refused and the store does without, or what else an operator should know: each once.
    pub warnings: Vec<String>,
}

impl Stats {
    /// The figures of one region.
    pub fn region(&self, kind: RegionKind) -> &RegionStats {
        &self.regions[RegionKind::ALL.iter().position(|other| *other == kind).unwrap_or(0)]
    }
}

/// What became of events whose timestamps their classes do not take; see [`Skew`](crate::Skew).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SkewStats {
    /// Refused, also because the dead letters did not take them.
    pub refused: u64,
    /// Stored with the nearest timestamp that their class takes.
    pub clamped: u64,
    /// Given to the dead letters.
    pub dead_lettered: u64,
}

/// What packing sparse pages has done since the store opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct DefragStats {
    /// Pages that were packed.
    pub pages: u64,
    /// Bytes that they took less afterwards.
    pub bytes: u64,
    /// Pages of lanes with little traffic that were closed early for it.
    pub closed_early: u64,
}

/// Where events are, and what became of them since the store opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct EventStats {
    /// Acknowledged as stored.
    pub appended: u64,
    /// Bytes of metadata and payload of those.
    pub appended_bytes: u64,
    /// Answered as duplicates.
    pub duplicates: u64,
    /// Refused for lack of room.
    pub rejected: u64,
    /// Calls that had to wait for room.
    pub waited: u64,
    /// In the hot tier now.
    pub hot: u64,
    /// In the warm tier now.
    pub warm: u64,
    /// Bytes of records of the warm tier before they were squeezed.
    pub warm_raw_bytes: u64,
    /// Bytes of them as they are.
    pub warm_packed_bytes: u64,
    /// Squeezed from hot to warm.
    pub demoted: u64,
    /// Unpacked from warm to hot again.
    pub promoted: u64,
    /// Left memory after the cold tier had confirmed them.
    pub released: u64,
    /// Left because their retention had ended, or because they had expired by themselves.
    pub expired: u64,
    /// Left because their class says so.
    pub dropped: u64,
    /// Removed by the user.
    pub removed: u64,
    /// Checks of warm pages that failed.
    pub corrupt_frames: u64,
    /// Events in memory that failed their own checksums when they were read
    /// ([`ConfigBuilder::event_checksums`](crate::ConfigBuilder::event_checksums)).
    pub corrupt_events: u64,
    /// Stream names.
    pub names: u64,
    /// Streams whose class is known, as set or as the [`ClassResolver`](crate::ClassResolver) answered.
    pub classed_streams: u64,
    /// Calls of the resolver.
    pub resolver_calls: u64,
    /// Events too far ahead of the clock.
    pub ahead: SkewStats,
    /// Events too far behind it.
    pub behind: SkewStats,
}

/// The moves of pages between the tiers since the store opened. See [`crate::policy`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct EvictionStats {
    /// Plans that asked for anything.
    pub plans: u64,
    /// Pages squeezed.
    pub demoted_pages: u64,
    /// Pages unpacked again.
    pub promoted_pages: u64,
    /// Pages that left memory.
    pub released_pages: u64,
    /// Moves that a policy asked for and that made no sense.
    pub refused: u64,
    /// The last of them.
    pub last_refusal: Option<(Move, Refusal)>,
    /// How often the store's own policy left memory so short, or a class above its quota, that
    /// [`SizeThreshold`](crate::policy::SizeThreshold) was asked as well.
    pub safety_plans: u64,
    /// What the store's own policy said when it panicked; the default one works in its place since.
    pub policy_panic: Option<String>,
}

/// The cold tier.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ColdStats {
    /// Blocks there.
    pub blocks: u64,
    /// Events in them.
    pub events: u64,
    /// Their size in memory before it was packed.
    pub raw_bytes: u64,
    /// Their size as they are stored.
    pub stored_bytes: u64,
    /// Events written since the store opened.
    pub spilled: u64,
    /// Batches of blocks that the tier did not take.
    pub spill_failures: u64,
    /// What the tier said last when it did not do what it was asked.
    pub last_error: Option<String>,
    /// Events that could not be read any more when they were to be written.
    pub lost_to_damage: u64,
    /// Blocks read.
    pub loads: u64,
    /// Blocks that were in the cache when they were wanted.
    pub cache_hits: u64,
    /// Blocks that failed their check or were missing.
    pub corrupt_blocks: u64,
    /// Blocks deleted because all of their events had reached the end of their retention.
    pub expired_blocks: u64,
    /// How long the tier took to confirm a batch of blocks.
    pub spill: LatencyStats,
    /// How long reading and unpacking a block took.
    pub load: LatencyStats,
    /// Whether the tier's server was away when the store opened and has not told yet what it has. Pages of an earlier run then
    /// stay in memory until it has, since they may be there already.
    pub awaits_server: bool,
    /// What a tier on a cluster says of itself: whether it is away, what waits in the overflow directory.
    pub tier: TierFigures,
}

/// The log of [`Durability::Disk`](crate::Durability::Disk).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LogStats {
    /// Bytes that it takes on the disk.
    pub bytes: u64,
    /// Files that it has.
    pub segments: u64,
    /// Bytes of records in memory that neither the cold tier has nor anybody but the log, when that was last counted.
    pub live_bytes: u64,
    /// Bytes written since the store opened.
    pub written_bytes: u64,
    /// Of those, bytes of records that were written again so that older files could be deleted.
    pub rewritten_bytes: u64,
    /// How often somebody looked for what is new.
    pub turns: u64,
    /// How often the disk was told to keep what was written.
    pub syncs: u64,
    /// What was acknowledged longer ago than this survives the loss of power.
    pub since_sync: Duration,
    /// How long it took to copy what was new, to write it, and to have the disk keep it.
    pub sync: LatencyStats,
    /// Why nothing comes to the disk, if nothing does.
    pub last_error: Option<String>,
    /// Whether it stays so until the store is opened again: appends fail.
    pub broken: bool,
}

/// Percentiles of a latency.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LatencyStats {
    /// How many were measured.
    pub count: u64,
    /// Half were faster.
    pub p50: Duration,
    /// One in a hundred was slower.
    pub p99: Duration,
    /// One in a thousand was slower.
    pub p999: Duration,
    /// The slowest.
    pub max: Duration,
}

impl LatencyStats {
    /// Of a histogram of microseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_micros(histogram.max()),
        }
    }
}

/// A histogram of microseconds up to an hour, two digits exact.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 3_600_000_000, 2)
        .map_err(|error| Error::with_source(ErrorKind::InvalidConfig, "a histogram could not be made", error))
}
