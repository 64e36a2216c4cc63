//! A region: one reserved range of memory, cut into page frames of one size.
//!
//! All arithmetic that turns a frame's number into memory is here. Frames are handed out by number; whoever
//! claimed a frame is its owner until it releases it (invariant I4).

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::config::RegionConfig;
use crate::error::Result;
use crate::pressure::RegionKind;
use crate::regions::arenas::{Access, Arenas};
use crate::regions::backing::{Backing, PageKind};
use crate::regions::free_list::FreeList;
use crate::regions::placement::{ArenaPlacement, RegionPlacement};
use crate::sys::machine::{Machine, Spot};
use crate::sys::memory::{Mapping, Slab, ZeroInit, out_of_system_memory, prefetch, prefetch_write, wipe};

/// A run of consecutive frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frames {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// What changes with each page: on a line of its own, since every read and every append look at the region.
#[derive(Default)]
struct Counts {
    claims: AtomicU64,
    releases: AtomicU64,
}

pub(crate) struct Region {
    kind: RegionKind,
    config: RegionConfig,
    page_shift: u32,
    /// Of the mapping: kept here, since every access needs them.
    base: NonNull<u8>,
    len: usize,
    mapping: Arc<Mapping>,
    frames: FreeList,
    /// Pages that the region may have now.
    max: AtomicU32,
    /// What changes the number of frames that can be claimed.
    growing: Mutex<Withdrawn>,
    /// What `growing` says in `top`, for those who only count.
    committed: AtomicU32,
    returned: AtomicU64,
    counts: CachePadded<Counts>,
    /// No frame at or above this number was ever asked for by [`Region::is_fresh`].
    touched: AtomicU32,
    /// Frames that the file behind the region had when it was opened.
    found: u32,
    pages: PageKind,
    /// None where it makes no difference who takes which frame.
    arenas: Option<Arenas>,
    machine: Arc<Machine>,
}

impl RegionStats {
    /// The figures of a region that is used in full and counts so many bytes.
    pub(crate) fn counting(self, bytes: u64) -> Self {
        let pages = bytes / self.page_size.max(1);
        Self {
            max_bytes: bytes,
            committed_bytes: bytes,
            used_bytes: bytes,
            live_bytes: bytes,
            used_pages: pages,
            free_bytes: 0,
            free_pages: 0,
            ..self
        }
    }
}

/// Frames that are in nobody's use and can be claimed by nobody, because the region is to become smaller, or did.
struct Withdrawn {
    /// Which frames they are, a bit each.
    bits: Vec<u64>,
    /// Frames at and above this are as the system gave them, or were given back to it.
    top: u32,
    /// How many of those below that are withdrawn.
    count: u32,
}

/// One region's figures. Pages and bytes are of the same things.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RegionStats {
    /// Bytes of a page.
    pub page_size: u64,
    /// Address space: the most that [`Store::resize_region`](crate::Store::resize_region) can make of it.
    pub reserved_bytes: u64,
    /// What it may take now.
    pub max_bytes: u64,
    /// What can be used without growing.
    pub committed_bytes: u64,
    /// What pages take that are in use, or that readers still hold back.
    pub used_bytes: u64,
    /// Of the used bytes, what holds data that can be asked for.
    pub live_bytes: u64,
    /// Committed bytes that are not in use.
    pub free_bytes: u64,
    /// Pages in use.
    pub used_pages: u64,
    /// Committed pages that are not in use.
    pub free_pages: u64,
    /// Pages or runs of pages taken since the store opened.
    pub allocations: u64,
    /// Pages or runs of pages given back since the store opened.
    pub frees: u64,
    /// Bytes given back to the system since the store opened, because the region was made smaller or its use had
    /// fallen.
    pub returned_bytes: u64,
    /// Whether the system agreed to use huge pages where it can. [`Store::placement`](crate::Store::placement) tells
    /// what it gave.
    pub huge_pages: bool,
    /// Arenas, one on each node: none where memory is not tied to nodes, or lies on all of them in turn.
    pub arenas: u32,
    /// Of the allocations, those that were served from the node they were for: the caller's, or the home of the
    /// partition. All others were served from another node; both are zero where the region has no arenas.
    pub local_allocations: u64,
    /// Allocations that another node had to serve.
    pub remote_allocations: u64,
    /// Pages that were begun by a writer on their own node. Zero where the region has no arenas.
    pub local_writes: u64,
    /// Pages that were begun by a writer on another node.
    pub remote_writes: u64,
    /// Reads of events on their own node, by a sample. Zero unless
    /// [`NumaConfig::count_reads`](crate::NumaConfig::count_reads) is set and the region has arenas.
    pub local_reads: u64,
    /// Reads of events from another node, by a sample.
    pub remote_reads: u64,
}

impl Withdrawn {
    /// Takes what is free above the limit. How many frames above it are in use.
    fn take(&mut self, frames: &FreeList) -> u32 {
        let from = frames.limit().min(self.top);
        self.count += frames.park(from, self.top, &mut self.bits);
        self.top - from - self.count
    }

    /// Lets frames be claimed that are about to be below the limit.
    fn give(&mut self, frames: &FreeList, from: u32, to: u32) {
        let below = to.min(self.top);
        self.count -= frames.unpark(from.min(below), below, &mut self.bits);
        frames.unpark(from.max(below), to, &mut self.bits);
        self.top = self.top.max(to);
    }

    fn has(&self, frame: u32) -> bool {
        self.bits[frame as usize / 64] >> (frame % 64) & 1 == 1
    }
}

// SAFETY: the pointer is to the mapping, which the region keeps and which any thread may use; what may be done with the
// bytes behind it is said by the functions that give them out.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub(crate) fn open(kind: RegionKind, config: RegionConfig, machine: &Arc<Machine>) -> Result<Self> {
        Self::over(Backing::new(kind, &config, machine)?, kind, config, machine)
    }

    /// A region over a file. What the file holds is there, but free to be taken: see [`Self::take`].
    pub(crate) fn open_shared(
        kind: RegionKind,
        config: RegionConfig,
        machine: &Arc<Machine>,
        file: File,
    ) -> Result<Self> {
        Self::over(Backing::shared(kind, &config, machine, file)?, kind, config, machine)
    }

    fn over(
        backing: Backing,
        kind: RegionKind,
        config: RegionConfig,
        machine: &Arc<Machine>,
    ) -> Result<Self> {
        let Backing { mapping, pages, arenas } = backing;
        let found = u32::try_from(mapping.file_len()? / config.page_size).unwrap_or(u32::MAX);
        let ceiling = (config.ceiling / config.page_size) as u32;
        let region = Self {
            kind,
            config,
            page_shift: config.page_size.ilog2(),
            base: mapping.base(),
            len: mapping.len(),
            mapping: Arc::new(mapping),
            frames: match kind {
                RegionKind::Index => FreeList::new(ceiling, 0).that_reuses(),
                _ => FreeList::new(ceiling, 0),
            },
            max: AtomicU32::new((config.max / config.page_size) as u32),
            growing: Mutex::new(Withdrawn { bits: vec![0; ceiling.div_ceil(64) as usize], top: 0, count: 0 }),
            committed: AtomicU32::new(0),
            returned: AtomicU64::new(0),
            counts: CachePadded::default(),
            touched: AtomicU32::new(found.min(ceiling)),
            found: found.min(ceiling),
            pages,
            arenas,
            machine: machine.clone(),
        };
        // Touching it is for the one who opens the store: it is done for all regions at once.
        region.grow((config.initial.div_ceil(config.page_size) as u32).max(found), false)?;
        Ok(region)
    }

    /// Keeps the whole region out of core dumps.
    ///
    /// # Errors
    /// When the system will not.
    pub(crate) fn keep_out_of_dumps(&self) -> Result<()> {
        self.mapping.keep_out_of_dumps(self.kind.name())
    }

    /// Every byte that pages can have, for tests of what is left there. Nobody may write meanwhile.
    #[cfg(test)]
    pub(crate) fn contents(&self) -> Vec<u8> {
        let len = (self.pages_max() as usize) << self.page_shift;
        // SAFETY: the mapping is longer and initialised (zero, or written before); the test sees to it that nobody writes.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), len) }.to_vec()
    }

    /// The address of the region, for tests that look it up in what the system says.
    #[cfg(test)]
    pub(crate) fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// Where those frames are, and how many bytes.
    pub(crate) fn extent_of(&self, frames: Frames) -> (usize, usize) {
        let bytes = |pages: u32| (pages as usize) << self.page_shift;
        (self.base.as_ptr().addr() + bytes(frames.first), bytes(frames.count))
    }

    pub(crate) fn kind(&self) -> RegionKind {
        self.kind
    }

    pub(crate) fn page_size(&self) -> u32 {
        1 << self.page_shift
    }

    /// The most pages that the region may have now.
    #[inline]
    pub(crate) fn pages_max(&self) -> u32 {
        self.max.load(Ordering::Relaxed)
    }

    /// The most pages that it can ever have.
    pub(crate) fn pages_ceiling(&self) -> u32 {
        (self.config.ceiling >> self.page_shift) as u32
    }

    /// Pages that can be claimed without growing, or are.
    pub(crate) fn pages_committed(&self) -> u32 {
        self.frames.limit()
    }

    /// The pages that it has when it opens, and those by which it grows.
    pub(crate) fn steps(&self) -> [u32; 2] {
        [self.config.initial.div_ceil(self.config.page_size), self.config.chunk >> self.page_shift]
            .map(|pages| pages as u32)
    }

    /// Lets the region have so many pages at most. Those that it has above stay until they are withdrawn.
    pub(crate) fn set_max(&self, pages: u32) {
        self.max.store(pages.min(self.pages_ceiling()), Ordering::Relaxed);
    }

    pub(crate) fn used_pages(&self) -> u32 {
        self.frames.used()
    }

    /// How often pages were taken since the store opened.
    #[inline]
    pub(crate) fn claims(&self) -> u64 {
        self.counts.claims.load(Ordering::Relaxed)
    }

    /// How often pages were given back since the store opened.
    pub(crate) fn releases(&self) -> u64 {
        self.counts.releases.load(Ordering::Relaxed)
    }

    /// The share of the maximum that is in use.
    pub(crate) fn fill(&self) -> f64 {
        f64::from(self.used_pages()) / f64::from(self.pages_max())
    }

    /// Makes at least `pages` pages usable, as far as the maximum allows.
    fn grow_to(&self, pages: u32) -> Result<()> {
        self.grow(pages, self.config.prefault)
    }

    fn grow(&self, pages: u32, touch: bool) -> Result<()> {
        let mut withdrawn = self.growing.lock();
        let (from, to) = (self.frames.limit(), pages.min(self.pages_max()));
        if to <= from {
            return Ok(());
        }
        let (start, len) = ((from as usize) << self.page_shift, ((to - from) as usize) << self.page_shift);
        self.mapping.allocate(start, len)?;
        self.machine.lock(&self.mapping, start, len)?;
        if touch {
            self.mapping.populate(start, len)?;
        }
        withdrawn.give(&self.frames, from, to);
        self.committed.store(withdrawn.top, Ordering::Relaxed);
        self.frames.raise_limit(to);
        Ok(())
    }

    /// Whether the file behind the region had that frame and those after it when it was opened. They can be read then.
    pub(crate) fn had(&self, frames: Frames) -> bool {
        let end = frames.first.checked_add(frames.count).filter(|end| *end <= self.found);
        let Some(end) = end else { return false };
        if end > self.frames.limit() {
            // It had been made larger than it is configured to be.
            self.max.fetch_max(end, Ordering::Relaxed);
            return self.grow_to(end).is_ok();
        }
        true
    }

    /// Takes just these frames, which the region had: what is on them is in use. `false`: somebody has them already.
    pub(crate) fn take(&self, frames: Frames) -> bool {
        self.had(frames) && frames.count > 0 && self.frames.take(frames.first, frames.count)
    }

    /// Keeps frames at and above `pages` from being claimed, and takes those that are free. How many are still in use:
    /// whoever has them moved elsewhere calls again until none is, and then [`Self::settle`].
    pub(crate) fn withdraw(&self, pages: u32) -> u32 {
        let mut withdrawn = self.growing.lock();
        self.frames.lower_limit(pages);
        withdrawn.take(&self.frames)
    }

    /// Gives withdrawn frames back to the system, down to the highest that is still in use; those below that one can be
    /// claimed again. How many bytes were given back.
    pub(crate) fn settle(&self) -> u64 {
        let mut withdrawn = self.growing.lock();
        withdrawn.take(&self.frames);
        let (from, top) = (self.frames.limit(), withdrawn.top);
        let end = (from..top).rev().find(|frame| !withdrawn.has(*frame)).map_or(from, |frame| frame + 1);
        withdrawn.give(&self.frames, from, end);
        self.frames.raise_limit(end);
        (withdrawn.top, withdrawn.count) = (end, 0);
        if top <= end {
            return 0;
        }
        let (start, len) = ((end as usize) << self.page_shift, ((top - end) as usize) << self.page_shift);
        self.machine.unlock(&self.mapping, start, len);
        // SAFETY: the frames are withdrawn, so they are the region's own, and stay so until they are unparked.
        let bytes = unsafe { self.mapping.give_back(start, len) } as u64;
        self.committed.store(end, Ordering::Relaxed);
        self.returned.fetch_add(bytes, Ordering::Relaxed);
        bytes
    }

    /// Tells of each part of what is committed, if it is to be touched at once: where it begins, how long it is, at most
    /// `len`, and where it lies.
    pub(crate) fn to_prefault(&self, len: usize, mut tell: impl FnMut(usize, usize, Option<Spot>)) {
        if !self.config.prefault {
            return;
        }
        let end = (self.frames.limit() as usize) << self.page_shift;
        let mut from = 0;
        while from < end {
            let frame = (from >> self.page_shift) as u32;
            let arena_end = self
                .arenas
                .as_ref()
                .map_or(end, |arenas| ((arenas.end_of_stripe(frame) as usize) << self.page_shift).min(end));
            let to = arena_end.min(from + len);
            tell(from, to - from, self.spot_of(frame));
            from = to;
        }
    }

    /// Touches a part of the region.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub(crate) fn populate(&self, from: usize, len: usize) -> Result<()> {
        self.mapping.populate(from, len)
    }

    /// Takes a run of frames without growing the region, from wherever it is nearest to a spot; `None`: to the caller.
    pub(crate) fn claim_committed(&self, spot: Option<Spot>, count: u32) -> Option<Frames> {
        let Some(arenas) = &self.arenas else { return self.claim_near(None, count) };
        self.claim_far(arenas, spot.unwrap_or_else(|| arenas.here()), count)
    }

    /// Takes a run of frames, growing the region where it must and may. `None`: no room.
    pub(crate) fn claim(&self, count: u32) -> Option<Frames> {
        self.claim_for(None, count)
    }

    /// The same from the arena that is nearest to a spot; `None`: to the caller.
    pub(crate) fn claim_for(&self, spot: Option<Spot>, count: u32) -> Option<Frames> {
        let spot = self.arenas.as_ref().map(|arenas| spot.unwrap_or_else(|| arenas.here()));
        loop {
            if let Some(frames) = self.claim_near(spot, count) {
                return Some(frames);
            }
            let limit = self.frames.limit();
            if limit >= self.pages_max() {
                break;
            }
            let chunk = ((self.config.chunk >> self.page_shift) as u32).max(count);
            // A system without memory to give is the same as a full region.
            if self.grow_to(limit.saturating_add(chunk)).is_err() {
                break;
            }
        }
        // The nearest arena is full, and the region cannot grow.
        self.claim_far(self.arenas.as_ref()?, spot?, count)
    }

    /// Takes a run of frames from the nearest arena that has one.
    fn claim_far(&self, arenas: &Arenas, spot: Spot, count: u32) -> Option<Frames> {
        let releases = self.counts.releases.load(Ordering::Acquire);
        self.claimed(arenas.claim_anywhere(&self.frames, releases, spot, count)?, count)
    }

    /// Takes a run of frames from the arena nearest to a spot, or from anywhere where there are no arenas, without
    /// growing the region.
    #[inline]
    fn claim_near(&self, spot: Option<Spot>, count: u32) -> Option<Frames> {
        let first = match (&self.arenas, spot) {
            (Some(arenas), Some(spot)) => {
                let releases = self.counts.releases.load(Ordering::Acquire);
                arenas.claim_near(&self.frames, releases, spot, count)
            }
            _ => self.frames.claim_run(count),
        };
        self.claimed(first?, count)
    }

    fn claimed(&self, first: u32, count: u32) -> Option<Frames> {
        self.counts.claims.fetch_add(1, Ordering::Relaxed);
        Some(Frames { first, count })
    }

    /// Which pages are behind the region and where they lie, as the system tells.
    pub(crate) fn placement(&self) -> RegionPlacement {
        let given = self.mapping.given();
        let mut placement = RegionPlacement {
            resident_bytes: given.resident,
            huge_bytes: given.huge,
            locked_bytes: given.locked,
            arenas: Vec::new(),
        };
        let (len, whole) = (self.mapping.len(), [(0, self.pages_ceiling(), None)]);
        let runs: Vec<(u32, u32, Option<u32>)> = match &self.arenas {
            Some(arenas) => arenas.runs().map(|(first, count, node)| (first, count, Some(node))).collect(),
            None => whole.to_vec(),
        };
        for (first, count, node) in runs {
            let from = ((first as usize) << self.page_shift).min(len);
            let run = ((count as usize) << self.page_shift).min(len - from);
            let at = placement.arenas.iter().position(|arena| arena.node == node).unwrap_or_else(|| {
                placement.arenas.push(ArenaPlacement { node, ..ArenaPlacement::default() });
                placement.arenas.len() - 1
            });
            let arena = &mut placement.arenas[at];
            // Where the system does not tell, nothing is known to be anywhere.
            let _ = self.mapping.nodes_of(from, run, |node| arena.add(node));
        }
        placement
    }

    /// Where a frame lies, where that makes a difference.
    pub(crate) fn spot_of(&self, frame: u32) -> Option<Spot> {
        self.arenas.as_ref()?.spot_of(frame)
    }

    /// Notes that the calling thread writes or reads what lies on a frame, so many times.
    pub(crate) fn note_access(&self, frame: u32, access: Access, times: u64) {
        if let Some(arenas) = &self.arenas {
            arenas.note(frame, access, times);
        }
    }

    /// Whether a frame that the caller has just claimed is as the system gave it, which is zero. To be asked each time
    /// that a frame is claimed, if it is asked at all.
    pub(crate) fn is_fresh(&self, frame: u32) -> bool {
        self.touched.fetch_max(frame + 1, Ordering::Relaxed) <= frame
    }

    /// Gives frames back.
    ///
    /// # Safety
    /// They must have been claimed and not released since, and no reference into them may be used again.
    pub(crate) unsafe fn release(&self, frames: Frames) {
        self.frames.release(frames.first, frames.count);
        // Whoever sees this count sees the frames free.
        self.counts.releases.fetch_add(1, Ordering::Release);
    }

    /// Overwrites frames with zeros.
    ///
    /// # Safety
    /// As for [`Self::release`], which is to follow.
    pub(crate) unsafe fn scrub(&self, frames: Frames) {
        let len = (frames.count as usize) << self.page_shift;
        // SAFETY: nobody else refers to the frames, the caller promises, and they are its own until it releases them.
        wipe(unsafe { self.bytes_mut(frames.first, 0, len) });
    }

    /// Whether that frame is in use. For checks.
    pub(crate) fn is_taken(&self, frame: u32) -> bool {
        frame < self.pages_ceiling() && self.frames.is_taken(frame)
    }

    pub(crate) fn stats(&self, live_bytes: u64) -> RegionStats {
        let committed = u64::from(self.committed.load(Ordering::Relaxed));
        let used = u64::from(self.used_pages());
        let page_size = self.config.page_size;
        let [allocations, writes, reads] = self.arenas.as_ref().map(Arenas::counts).unwrap_or_default();
        RegionStats {
            page_size,
            reserved_bytes: self.config.ceiling,
            max_bytes: u64::from(self.pages_max()) * page_size,
            committed_bytes: committed * page_size,
            used_bytes: used * page_size,
            live_bytes,
            free_bytes: committed.saturating_sub(used) * page_size,
            used_pages: used,
            free_pages: committed.saturating_sub(used),
            allocations: self.counts.claims.load(Ordering::Relaxed),
            frees: self.counts.releases.load(Ordering::Relaxed),
            returned_bytes: self.returned.load(Ordering::Relaxed),
            huge_pages: self.pages != PageKind::Small,
            arenas: self.arenas.as_ref().map_or(0, Arenas::len) as u32,
            local_allocations: allocations[0],
            remote_allocations: allocations[1],
            local_writes: writes[0],
            remote_writes: writes[1],
            local_reads: reads[0],
            remote_reads: reads[1],
        }
    }

    /// The address of a byte of a run of frames that starts at `frame`.
    #[inline]
    fn at(&self, frame: u32, offset: usize, len: usize) -> *mut u8 {
        let start = ((frame as usize) << self.page_shift) + offset;
        assert!(start + len <= self.len, "a frame must lie within its region");
        // SAFETY: the assertion keeps the address within the mapping.
        unsafe { self.base.as_ptr().add(start) }
    }

    /// Bytes of a frame that are written and will not change.
    ///
    /// # Safety
    /// The bytes must have been written before, in a way that the caller is synchronised with (it read an index
    /// entry, a link or a committed length that was stored with release after they were written); nobody may
    /// write them, and the frames may not be released, while the reference lives.
    #[inline]
    pub(crate) unsafe fn bytes<'a>(&self, frame: u32, offset: u32, len: usize) -> &'a [u8] {
        let at = self.at(frame, offset as usize, len);
        // SAFETY: the range is within the mapping; the caller promises that it is initialised and unchanging.
        unsafe { std::slice::from_raw_parts(at, len) }
    }

    /// The same, for bytes that lie within the page size of a frame where [`Self::bytes`] was asked for the first of them.
    ///
    /// # Safety
    /// As for [`Self::bytes`], and those bytes must lie so.
    #[inline]
    pub(crate) unsafe fn more_bytes<'a>(&self, frame: u32, offset: u32, len: usize) -> &'a [u8] {
        debug_assert!(offset as usize + len <= self.page_size() as usize);
        let start = ((frame as usize) << self.page_shift) + offset as usize;
        // SAFETY: the frame lies within the mapping, since a byte of it does; the caller promises the rest.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(start), len) }
    }

    /// Bytes of a frame that only the caller knows of.
    ///
    /// # Safety
    /// The caller must own the frames, and no other reference to these bytes may exist while this one lives.
    #[inline]
    pub(crate) unsafe fn bytes_mut<'a>(&self, frame: u32, offset: u32, len: usize) -> &'a mut [u8] {
        let at = self.at(frame, offset as usize, len);
        // SAFETY: the range is within the mapping, which is initialised (zero or written before); the caller
        // promises that nobody else refers to it.
        unsafe { std::slice::from_raw_parts_mut(at, len) }
    }

    /// A frame as a slice of values that are changed through shared references.
    ///
    /// # Safety
    /// While the reference lives, the frame may not be released, and it may be accessed in this way only. Its
    /// bytes must be a valid `[T]`: zeroed, or written as such.
    #[inline]
    pub(crate) unsafe fn values<'a, T: ZeroInit>(&self, frame: u32) -> &'a [T] {
        let at = self.at(frame, 0, self.page_size() as usize);
        // SAFETY: pages are at least 2 KiB and so aligned that every `T` (at most a few cache lines) is; the
        // caller promises the rest.
        unsafe { std::slice::from_raw_parts(at.cast::<T>(), self.page_size() as usize / size_of::<T>()) }
    }

    /// Takes frames for good and sees them as a slice of zeros.
    pub(crate) fn slab<T: ZeroInit>(&self, len: usize, what: &str) -> Result<Slab<T>> {
        let pages = (len * size_of::<T>()).div_ceil(self.page_size() as usize).max(1);
        let frames = u32::try_from(pages).ok().and_then(|pages| self.claim(pages));
        let frames = frames.ok_or_else(|| out_of_system_memory(what))?;
        // SAFETY: the frames were just claimed, are never released, and, never having been in use, are zero:
        // slabs are taken from the system region only, which releases nothing.
        Ok(unsafe { Slab::new(self.mapping.clone(), (frames.first as usize) << self.page_shift, len) })
    }

    /// Asks the processor to fetch the cache lines of a range of a frame that is about to be written.
    #[inline]
    pub(crate) fn prefetch_write(&self, frame: u32, offset: u32, len: u32) {
        let from = self.at(frame, offset as usize, len as usize);
        for line in 0..len.div_ceil(64) as usize {
            prefetch_write(from.wrapping_add(line * 64));
        }
    }

    /// The same for a fixed number of lines, whether or not they belong to the frame.
    pub(crate) fn prefetch_lines<const LINES: usize>(&self, frame: u32, offset: u32) {
        let from = self.base.as_ptr().wrapping_add(((frame as usize) << self.page_shift) + offset as usize);
        (0..LINES).for_each(|line| prefetch_write(from.wrapping_add(line * 64)));
    }

    /// Asks the processor to fetch the cache line at an offset of a frame. Harmless whatever the frame holds.
    #[inline]
    pub(crate) fn prefetch(&self, frame: u32, offset: usize) {
        let start = ((frame as usize) << self.page_shift) + offset;
        if start < self.len {
            prefetch(self.base.as_ptr().wrapping_add(start));
        }
    }
}
