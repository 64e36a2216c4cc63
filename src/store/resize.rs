//! Regions that become larger or smaller while the store runs.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::clock::Patience;
use crate::config::{ByteSize, Config};
use crate::error::{Error, ErrorKind, Result};
use crate::eviction::vacate::{vacate, vacate_index};
use crate::index::region::RESERVE;
use crate::observe::sizing::SizingStats;
use crate::pages::table::Tier;
use crate::pressure::RegionKind;
use crate::store::adapt::{Adapting, Shift};
use crate::store::core::Core;

/// How long a shrinking region waits for readers or for the spiller before it looks again.
const TURN: Duration = Duration::from_millis(2);
/// As what a turn counts in a stepped store in which something moved.
const BUSY_TURN: Duration = Duration::from_micros(50);

/// The index keeps room for one page more for each so many that it uses.
const INDEX_ROOM: u32 = 4;

/// What follows from the sizes that regions have now.
pub(crate) struct Sizes {
    /// Hot pages in use from which on appends are refused.
    reject_pages: AtomicU32,
    /// What the page table and the directories count. They never become smaller.
    system_bytes: AtomicU64,
    /// Whoever changes sizes holds this.
    turn: Mutex<Turn>,
    /// What was changed to follow the load.
    changes: Mutex<SizingStats>,
}

/// What whoever changes sizes has in hand.
#[derive(Default)]
pub(crate) struct Turn {
    /// A change that is under way without its maker waiting for it.
    pub(super) shift: Option<Shift>,
    /// What decides on such, if sizes are to follow the load.
    pub(super) adapting: Option<Adapting>,
}

impl Sizes {
    pub(crate) fn new(config: &Config, hot_pages: u32) -> Self {
        let sizes = Self {
            reject_pages: AtomicU32::new(0),
            system_bytes: AtomicU64::new(config.system.max),
            turn: Mutex::new(Turn { shift: None, adapting: Adapting::new(config) }),
            changes: Mutex::default(),
        };
        sizes.set_hot(config, hot_pages);
        sizes
    }

    fn set_hot(&self, config: &Config, pages: u32) {
        let reject = (f64::from(pages) * config.thresholds.reject).ceil();
        self.reject_pages.store(reject as u32, Ordering::Relaxed);
    }

    /// The right to change sizes, if nobody else has it.
    pub(crate) fn try_turn(&self) -> Option<MutexGuard<'_, Turn>> {
        self.turn.try_lock()
    }

    /// What was changed to follow the load, and why.
    pub(crate) fn stats(&self) -> SizingStats {
        self.changes.lock().clone()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut SizingStats)) {
        change(&mut self.changes.lock());
    }

    #[inline]
    pub(crate) fn reject_pages(&self) -> u32 {
        self.reject_pages.load(Ordering::Relaxed)
    }

    pub(crate) fn system_bytes(&self) -> u64 {
        self.system_bytes.load(Ordering::Relaxed)
    }
}

/// What came of [`Store::resize_region`](crate::Store::resize_region).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Resized {
    /// The region.
    pub region: RegionKind,
    /// Bytes that it could take before.
    pub from_bytes: u64,
    /// Bytes that were asked for, in whole pages.
    pub wanted_bytes: u64,
    /// Bytes that it may take now: more than was asked for if the time was over before its upper part was empty.
    pub to_bytes: u64,
    /// Pages that were moved down.
    pub moved_pages: u64,
    /// Bytes that were given back to the system.
    pub returned_bytes: u64,
}

impl Resized {
    /// Whether the region has the size that was asked for.
    pub fn is_complete(&self) -> bool {
        self.to_bytes == self.wanted_bytes
    }
}

impl Core {
    pub(crate) fn resize(&self, kind: RegionKind, bytes: u64, patience: Patience) -> Result<Resized> {
        self.check_open()?;
        let mut turn = self.sizes.turn.lock();
        self.interrupt(&mut turn);
        let region = self.region(kind);
        let (page, before) = (u64::from(region.page_size()), region.pages_max());
        let (mut pages, system) = self.check_size(kind, bytes)?;
        let mut report = Resized {
            region: kind,
            from_bytes: u64::from(before) * page,
            wanted_bytes: u64::from(pages) * page,
            to_bytes: 0,
            moved_pages: 0,
            returned_bytes: 0,
        };
        if kind == RegionKind::Index {
            pages = pages.max(self.index_least().min(before));
        }
        report.to_bytes = u64::from(pages) * page;
        self.sizes.system_bytes.fetch_max(system, Ordering::Relaxed);
        let [hot, warm, _] = self.bytes_with(kind, u64::from(pages) * page);
        self.lanes.pages.raise_numbers(self.config.logical_pages(hot, warm));
        self.set_max(kind, pages);
        // The mover may be giving back what is not used: frames above its own goal are not told as committed, and may be
        // in use.
        report.returned_bytes = region.settle();
        if pages < region.pages_committed() {
            report.moved_pages = self.empty_above(kind, pages, patience);
            report.returned_bytes += region.settle();
            let reached = region.pages_committed().max(pages);
            self.set_max(kind, reached);
            report.to_bytes = u64::from(reached) * page;
        }
        self.mover_bell.ring();
        Ok(report)
    }

    /// Says so when pages were found above the size that is configured for a region, since it had been made larger, and
    /// makes the others as much smaller as their contents let them be, so that all stay within the bound.
    pub(crate) fn fit_found(&self) {
        let configured = [
            (RegionKind::Hot, self.config.hot.max),
            (RegionKind::Warm, self.config.warm.max),
            (RegionKind::Index, self.config.index.max),
        ];
        let size = |kind| {
            let region = self.region(kind);
            u64::from(region.pages_max()) * u64::from(region.page_size())
        };
        let raised = |(kind, max): &(RegionKind, u64)| size(*kind) > *max;
        let raised: Vec<(RegionKind, u64)> = configured.into_iter().filter(raised).collect();
        if raised.is_empty() {
            return;
        }
        let parts = || self.bytes_with(RegionKind::Hot, size(RegionKind::Hot));
        let numbers = self.config.logical_pages(parts()[0], parts()[1]).max(self.lanes.pages.numbers_limit());
        let system = self.config.system_bytes(numbers, parts()[2]);
        self.lanes.pages.raise_numbers(numbers);
        self.sizes.system_bytes.fetch_max(system, Ordering::Relaxed);
        let total = || self.sizes.system_bytes() + self.config.buffers + parts().iter().sum::<u64>();
        let mut told: Vec<String> = Vec::new();
        for (kind, max) in &raised {
            let (now, max) = (ByteSize::new(size(*kind)), ByteSize::new(*max));
            told.push(format!("{now} instead of {max} for the {kind} region"));
        }
        let others = [RegionKind::Warm, RegionKind::Hot, RegionKind::Index];
        for kind in others.into_iter().filter(|kind| raised.iter().all(|(other, _)| other != kind)) {
            let (before, over) = (size(kind), total().saturating_sub(self.config.memory));
            let least = self.least_pages(kind) * u64::from(self.region(kind).page_size());
            if over == 0 || before <= least {
                continue;
            }
            let page = u64::from(self.region(kind).page_size());
            let wanted = before.saturating_sub(over.next_multiple_of(page)).max(least);
            // What it holds stays; it is as large as that then.
            if self.resize(kind, wanted, self.lanes.clock.patience(Duration::ZERO)).is_ok()
                && size(kind) < before
            {
                let (now, before) = (ByteSize::new(size(kind)), ByteSize::new(before));
                told.push(format!("{now} instead of {before} for the {kind} region"));
            }
        }
        let over = total().saturating_sub(self.config.memory);
        let beyond = format!("; this is {} more than `memory`", ByteSize::new(over));
        self.machine.warn(format!(
            "opened with {}: pages were found there, since regions had been resized{}. Resize them as you want them to be, or \
             configure the sizes that they have",
            told.join(", "),
            if over > 0 { &beyond } else { "" }
        ));
    }

    pub(super) fn set_max(&self, kind: RegionKind, pages: u32) {
        let grows = pages > self.region(kind).pages_max();
        self.region(kind).set_max(pages);
        if kind == RegionKind::Index && grows {
            self.lanes.index_has_grown();
        }
        if kind == RegionKind::Hot {
            self.sizes.set_hot(&self.config, pages);
        }
        self.lanes.note_pressure();
    }

    /// What hot, warm and index may take, if that region may take so much.
    fn bytes_with(&self, kind: RegionKind, bytes: u64) -> [u64; 3] {
        [RegionKind::Hot, RegionKind::Warm, RegionKind::Index].map(|other| {
            let region = self.region(other);
            if other == kind { bytes } else { u64::from(region.pages_max()) * u64::from(region.page_size()) }
        })
    }

    /// The fewest pages that the index can do with now. What it uses stays, and an index without room to split its pages
    /// would have all events leave.
    pub(super) fn index_least(&self) -> u32 {
        let used = self.lanes.index_region.used_pages();
        used + used / INDEX_ROOM + RESERVE + 2
    }

    /// Bytes that belong to no region and to no buffer.
    pub(super) fn unassigned(&self) -> u64 {
        let parts = self.bytes_with(RegionKind::System, 0);
        let taken =
            parts.iter().fold(self.sizes.system_bytes() + self.config.buffers, |sum, part| sum + part);
        self.config.memory.saturating_sub(taken)
    }

    /// Lets a region have up to so many bytes more: as much of it as there is. How many it got.
    pub(super) fn grow_by(&self, kind: RegionKind, bytes: u64) -> u64 {
        let region = self.region(kind);
        let (page, before) = (u64::from(region.page_size()), region.pages_max());
        let (mut got, mut least, mut most) = (None, 1, (bytes / page).min(u64::from(u32::MAX)) as u32);
        // More pages make a larger page table, which takes a part of it.
        while least <= most {
            let middle = least + (most - least) / 2;
            match self.check_size(kind, u64::from(before.saturating_add(middle)) * page) {
                Ok(size) => (got, least) = (Some(size), middle + 1),
                Err(_) => most = middle - 1,
            }
        }
        let Some((pages, system)) = got else { return 0 };
        self.sizes.system_bytes.fetch_max(system, Ordering::Relaxed);
        let [hot, warm, _] = self.bytes_with(kind, u64::from(pages) * page);
        self.lanes.pages.raise_numbers(self.config.logical_pages(hot, warm));
        self.set_max(kind, pages);
        u64::from(pages - before) * page
    }

    /// The pages of a size that a region can have, and what the system region then counts.
    fn check_size(&self, kind: RegionKind, bytes: u64) -> Result<(u32, u64)> {
        let invalid = |text: String| Err(Error::new(ErrorKind::InvalidInput, text));
        if kind == RegionKind::System {
            return invalid("the size of the system region follows from the others".into());
        }
        let (config, region) = (&self.config, self.region(kind));
        let (page, wanted) = (u64::from(region.page_size()), ByteSize::new(bytes));
        let least = self.least_pages(kind) * page;
        if bytes < least {
            let least = ByteSize::new(least);
            return invalid(format!(
                "{wanted} is too little for the {kind} region of this store: it needs {least}"
            ));
        }
        let ceiling = u64::from(region.pages_ceiling()) * page;
        if bytes > ceiling {
            return invalid(format!(
                "{wanted} is more than the {kind} region's ceiling, {}; open the store with a higher one \
                 (RegionBuilder::ceiling)",
                ByteSize::new(ceiling)
            ));
        }
        let pages = bytes / page;
        let parts = self.bytes_with(kind, pages * page);
        let numbers = config.logical_pages(parts[0], parts[1]).max(self.lanes.pages.numbers_limit());
        let system = config.system_bytes(numbers, parts[2]).max(self.sizes.system_bytes());
        let total = parts.iter().fold(system + config.buffers, |sum, part| sum.saturating_add(*part));
        if total > config.memory && pages > u64::from(region.pages_max()) {
            let others = [RegionKind::Hot, RegionKind::Warm, RegionKind::Index].into_iter().zip(parts);
            let largest = others.filter(|(other, _)| *other != kind).max_by_key(|(_, bytes)| *bytes);
            let largest = largest.map_or(RegionKind::Hot, |(other, _)| other);
            let [hot, warm, index] = parts.map(ByteSize::new);
            return invalid(format!(
                "with {wanted} for the {kind} region the store would take {} of {}: system {}, hot {hot}, warm {warm}, \
                 index {index}, buffers {}; make the {largest} region smaller by {} first",
                ByteSize::new(total),
                ByteSize::new(config.memory),
                ByteSize::new(system),
                ByteSize::new(config.buffers),
                ByteSize::new(
                    (total - config.memory).next_multiple_of(u64::from(self.region(largest).page_size()))
                )
            ));
        }
        Ok((pages as u32, system))
    }

    /// The fewest pages that a region of this store can do with.
    pub(super) fn least_pages(&self, kind: RegionKind) -> u64 {
        let config = &self.config;
        match kind {
            // As when a store is opened: each lane keeps a page open, and the largest event must fit twice.
            RegionKind::Hot => {
                let lanes = (config.partitions * config.classes.len()) as u64;
                (2 * lanes + 2).max((config.max_event * 2).div_ceil(config.hot.page_size))
            }
            RegionKind::Index => 2 * config.partitions as u64 + 4,
            RegionKind::Warm | RegionKind::System => 1,
        }
    }

    /// Has everything at and above a page of a region moved or let go. How many pages were moved.
    fn empty_above(&self, kind: RegionKind, pages: u32, mut patience: Patience) -> u64 {
        let region = self.region(kind);
        let mut moved = 0;
        while region.withdraw(pages) > 0 {
            if patience.is_over() || self.is_closed() {
                break;
            }
            // Events that leave free hardly an index page, so none leaves for its sake.
            let progress = if kind == RegionKind::Index { 0 } else { self.move_and_spill() };
            let vacated = self.vacate(kind, pages);
            moved += vacated;
            self.lanes.readers.reclaim();
            if progress == 0 && vacated == 0 {
                self.wait_for_room(patience.turn(TURN));
            } else {
                patience.turn(BUSY_TURN);
            }
        }
        moved
    }

    /// One slice of what the store's threads do. How many pages moved, left or became clean.
    fn move_and_spill(&self) -> u64 {
        let progress = self.engine.lock().step(&self.config, &self.lanes, &self.shared);
        if self.config.background {
            if progress.waits_for_spill {
                self.ring_spillers();
            }
            return progress.pages as u64;
        }
        // What the tier says when it fails is in the figures; the deadline bounds the wait for it.
        progress.pages as u64 + self.spill(false).unwrap_or(0)
    }

    /// Moves some pages of a region that lie at or above a page. How many.
    pub(crate) fn vacate(&self, kind: RegionKind, pages: u32) -> u64 {
        let (mut engine, limit) = (self.engine.lock(), self.config.slice_time);
        match kind {
            RegionKind::System => 0,
            RegionKind::Hot => vacate(&mut engine, &self.lanes, Tier::Hot, pages, limit),
            RegionKind::Warm => vacate(&mut engine, &self.lanes, Tier::Warm, pages, limit),
            RegionKind::Index => vacate_index(&mut engine, &self.lanes, pages),
        }
    }
}
