//! Why an append had no room, what keeps room from being made, and how often each happened.

use std::fmt;
use std::time::Duration;

use crate::ids::Class;
use crate::pressure::{Pressure, RegionKind};

/// What an append had no room in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PressureReason {
    /// The hot region is above the rejection threshold, or has no run of pages for an event larger than one.
    HotFull,
    /// The page table has no number for one more page.
    PageTableFull,
    /// The index region has no room for one more id or stream.
    IndexFull,
    /// The event's class has used up its quota.
    ClassQuota,
    /// The share of the buffers for what is known of streams, names and classes, is used up. That stays: trying again is of no use
    /// before the store is opened with more [`buffers`](crate::ConfigBuilder::buffers).
    BuffersFull,
    /// A [`HandOver`](crate::HandOver) holds as many events as it may.
    QueueFull,
    /// The log of [`Durability::Disk`](crate::Durability::Disk) has no room on the disk, or the disk does not keep up.
    LogBehind,
}

impl PressureReason {
    /// All of them, in the order of [`ByReason`].
    pub const ALL: [Self; 7] = [
        Self::HotFull,
        Self::PageTableFull,
        Self::IndexFull,
        Self::ClassQuota,
        Self::BuffersFull,
        Self::QueueFull,
        Self::LogBehind,
    ];

    /// The region that it is about, if it is about one.
    pub fn region(self) -> Option<RegionKind> {
        match self {
            Self::HotFull | Self::ClassQuota => Some(RegionKind::Hot),
            Self::PageTableFull => Some(RegionKind::System),
            Self::IndexFull => Some(RegionKind::Index),
            Self::BuffersFull | Self::QueueFull | Self::LogBehind => None,
        }
    }

    /// Whether there can be room again without anyone changing anything.
    pub(crate) fn passes(self) -> bool {
        self != Self::BuffersFull
    }

    /// Whether events of other classes may have room all the same.
    pub(crate) fn is_of_class(self) -> bool {
        self == Self::ClassQuota
    }

    /// What has no room.
    fn text(self) -> &'static str {
        match self {
            Self::HotFull => "the hot region",
            Self::PageTableFull => "the page table",
            Self::IndexFull => "the index region",
            Self::ClassQuota => "the quota of the event's class",
            Self::BuffersFull => "the share of the buffers for names and classes of streams",
            Self::QueueFull => "the hand-over queue",
            Self::LogBehind => "the log on the disk",
        }
    }
}

/// A guard that readers hold: what has left memory since it was taken is not reused before it ends.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HeldGuard {
    /// For how long it has been held, as far as it was watched: up to a few milliseconds less than it was.
    pub held_for: Duration,
    /// The thread that holds it.
    pub thread: std::thread::ThreadId,
    /// That thread's name.
    pub name: Option<String>,
    /// Where the guard is told of because the index is short: how many pages of the index wait for readers. Otherwise zero.
    pub index_pages: u32,
}

impl HeldGuard {
    pub(crate) fn new(held_for: Duration, thread: std::thread::ThreadId, name: Option<String>) -> Self {
        Self { held_for, thread, name, index_pages: 0 }
    }
}

/// Why no room is made although appends want some.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Stall {
    /// The cold tier does not take what should leave memory.
    ColdTier {
        /// For how long: since the first of the failures in a row, or since the call began that has not returned.
        since: Duration,
        /// What it said last; `None` when it has not answered.
        last_error: Option<String>,
    },
    /// A reader's guard holds back pages that have been let go.
    Guard(HeldGuard),
    /// Everything in memory is of classes that are spilled, and the store has no cold tier. It stays full until
    /// retention ends for something.
    NoColdTier,
    /// The log of [`Durability::Disk`](crate::Durability::Disk) does not come to the disk.
    Log {
        /// For how long.
        since: Duration,
        /// What the system said; `None` when the disk is only slow.
        last_error: Option<String>,
    },
    /// The regions are so small that the lanes' open pages take most of the hot one.
    TooSmall {
        /// Pages that lanes are writing.
        open_pages: u32,
        /// Pages of the hot region.
        pages: u32,
    },
    /// The index has no page for one more id or stream although events have left: for those that cannot leave, or for what it
    /// takes when it is all but empty, it is too small.
    IndexTooSmall {
        /// Events in memory.
        events: u64,
        /// Bytes that the index may take.
        bytes: u64,
        /// For how long no page of it was freed.
        since: Duration,
    },
    /// Nothing was freed, for a reason that the store does not know.
    Unknown {
        /// For how long.
        since: Duration,
    },
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ColdTier { since, last_error: Some(error) } => {
                write!(f, "the cold tier has failed for {} ms ({error})", since.as_millis())
            }
            Self::ColdTier { since, last_error: None } => {
                write!(f, "the cold tier has not answered for {} ms", since.as_millis())
            }
            Self::Guard(guard) => {
                let name = guard.name.as_deref().unwrap_or("without a name");
                let held = guard.held_for.as_millis();
                write!(f, "thread {name} ({:?}) has held a guard for {held} ms", guard.thread)?;
                if guard.index_pages > 0 {
                    // Only walks hold pages of the index.
                    return write!(
                        f,
                        ", in the middle of a history or scan, and {} pages of the index wait for it; end the walk",
                        guard.index_pages
                    );
                }
                f.write_str("; refresh or drop it")
            }
            Self::Log { since, last_error } => {
                let why = last_error.as_deref().unwrap_or("the disk does not keep up");
                write!(f, "nothing has come to the disk for {} ms: {why}", since.as_millis())
            }
            Self::NoColdTier => f.write_str(
                "nothing may leave memory: there is no cold tier, and no class says OnLeave::Drop",
            ),
            Self::TooSmall { open_pages, pages } => write!(
                f,
                "{open_pages} of the {pages} hot pages are open; the hot region is too small for so many partitions \
                 and classes"
            ),
            Self::IndexTooSmall { events, bytes, since } => write!(
                f,
                "no page of the index was freed for {} ms; its {bytes} bytes are too few for {events} events and their \
                 streams",
                since.as_millis()
            ),
            Self::Unknown { since } => write!(f, "nothing was freed for {} ms", since.as_millis()),
        }
    }
}

/// Why an append was refused: what is short, how badly, why it stays so, and when to try again.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct BackPressure {
    /// What the event had no room in.
    pub reason: PressureReason,
    /// The region that this is about; `None` when it is not about a region.
    pub region: Option<RegionKind>,
    /// The event's class; `None` when it is not about an event.
    pub class: Option<Class>,
    /// How short of memory the store is as a whole.
    pub level: Pressure,
    /// Bytes that are taken, of the region, quota or buffer.
    pub used_bytes: u64,
    /// Bytes that may be taken at most.
    pub limit_bytes: u64,
    /// When there will be room again, by the rate at which pages were freed lately; the longer none was freed, the
    /// longer. From 1 ms to 1 s. Of no meaning for [`BuffersFull`](PressureReason::BuffersFull).
    pub retry_after: Duration,
    /// Why no room is made, if none is.
    pub stall: Option<Stall>,
}

impl fmt::Display for BackPressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no room in {} ({} of {} bytes taken, pressure {:?})",
            self.reason.text(),
            self.used_bytes,
            self.limit_bytes,
            self.level
        )?;
        if let Some(stall) = &self.stall {
            write!(f, ": {stall}")?;
        }
        let wait = self.retry_after.as_millis();
        match self.reason {
            PressureReason::BuffersFull => f.write_str(
                "; it stays so: give the store more `buffers`, or number the streams instead of naming them",
            ),
            PressureReason::LogBehind => {
                write!(f, "; try again in {wait} ms, and make room on the disk of the data directory")
            }
            PressureReason::QueueFull => write!(f, "; try again in {wait} ms, or pause the source"),
            PressureReason::IndexFull => write!(
                f,
                "; try again in {wait} ms, or make `index` larger (Store::resize_region does while the store runs)"
            ),
            _ => write!(f, "; try again in {wait} ms, slow the source down, or give the store more memory"),
        }
    }
}

/// A number for each reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ByReason([u64; PressureReason::ALL.len()]);

impl ByReason {
    pub(crate) fn new(counts: [u64; PressureReason::ALL.len()]) -> Self {
        Self(counts)
    }

    /// The number for that reason.
    pub fn of(&self, reason: PressureReason) -> u64 {
        self.0[reason as usize]
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What became of appends of one class for which there was no room at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct AdmissionStats {
    /// Calls that waited, a batch once for each 256 events at most.
    pub waited: ByReason,
    /// Events that were refused with an error.
    pub rejected: ByReason,
    /// Events that the store's handler had dropped.
    pub dropped: ByReason,
    /// Events that went to the dead letters.
    pub dead_lettered: ByReason,
}
