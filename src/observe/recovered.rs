//! What a store found when it opened.

use std::time::Duration;

/// What a store of [`Durability::Process`](crate::Durability::Process) found in its files when it opened. See
/// [`Store::recovered`](crate::Store::recovered).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Recovered {
    /// Whether the store had been closed; if not, its process had ended in some other way.
    pub was_closed: bool,
    /// Whether pages and indexes were taken over as they were, which needs no look at the events. If not, all were looked
    /// at, and the indexes were built anew.
    pub attached: bool,
    /// Whether the pages were put back from the log of [`Durability::Disk`](crate::Durability::Disk), because the machine
    /// had been restarted, or shared memory lost. What the cold tier has stays there then.
    pub from_log: bool,
    /// Whether the pages of the earlier run were looked for where they had been and were not there any more, as after a
    /// restart of the system with [`Durability::Process`](crate::Durability::Process): what only they held is lost.
    pub pages_gone: bool,
    /// Pages taken over.
    pub pages: u64,
    /// Events taken over: all that were acknowledged and not removed, and perhaps one batch for each writer that was
    /// under way.
    pub events: u64,
    /// Events among the pages that had been removed before, and stay so.
    pub removed: u64,
    /// Stream names taken over.
    pub names: u64,
    /// Pages that did not hold together: they were let go. Zero unless the files were damaged.
    pub lost_pages: u64,
    /// Events that could not be taken over, as far as that can be told. Zero unless the files were damaged.
    pub lost_events: u64,
    /// Links between events that led to where they could not, and were mended. Zero unless the files were damaged.
    pub mended_links: u64,
    /// Bytes of the log of names that held none: damaged, or the beginning of a name that was never acknowledged.
    pub damaged_name_bytes: u64,
    /// Parts of the log that had been on the disk and are damaged: what of it is missing may be counted above, or may be the
    /// removal of an event. Zero unless the files were damaged.
    pub damaged_log_parts: u64,
    /// What was wrong with the first few pages.
    pub faults: Vec<String>,
    /// How long it took to take everything over, or to look at everything and to build the indexes anew.
    pub took: Duration,
}

impl Recovered {
    /// Whether nothing was missing and nothing damaged.
    pub fn is_whole(&self) -> bool {
        !self.pages_gone
            && self.lost_pages == 0
            && self.lost_events == 0
            && self.mended_links == 0
            && self.damaged_name_bytes == 0
            && self.damaged_log_parts == 0
    }
}

/// How far the recovery of a store is. See [`StoreBuilder::on_recovery`](crate::StoreBuilder::on_recovery).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RecoveryProgress {
    /// Pages looked at.
    pub pages: u64,
    /// Pages found.
    pub of: u64,
}
