//! How much the index has room for: how many events, as far as is known, and whether appends want for its pages.
//!
//! Its pages are filled to very different degrees, so it is measured by what it once could not exceed: when an append finds no
//! page, as many events as there are then are taken for all that it has room for, and events leave until they are fewer by a
//! fifth. While it has pages to spare, it may take a little more in each step of the mover.
//!
//! Fewer events mean free pages only after a while, and not at all while a reader holds what was let go. So beside the
//! number of events it is noted that an append *wanted* for a page, until there are some to spare: so long the store is full,
//! however few events are left.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::index::region::RESERVE;
use crate::index::streams::Head;
use crate::lanes::append::Lanes;
use crate::pressure::PressureReason;
use crate::sync::{AtomicU32, AtomicU64, wait_a_turn};

/// The index may take more than it once could while this share of its pages is free, and this share more in each step.
const SPARE: u32 = 8;
const STEP: u64 = 64;
/// Steps of the mover in which no page of the index came back, after which none is waited for: some may be held for long.
const WAITS: u32 = 4;
/// The same while nobody appends, who would find out: as many as it takes to look all over the index for pages to merge, which is
/// one for each eight pages, within these bounds.
const WAITS_ALONE: [u32; 2] = [8, 128];
/// The share of its pages that are to be free before nobody wants for one any more.
const RELIEF: u32 = 64;

/// For how many turns, at most, an opening waits for pages of the index that it has outgrown.
const BUILD_TURNS: u32 = 10_000;

/// What is known of the room in the index.
#[derive(Debug)]
pub(super) struct IndexRoom {
    /// How many events the index had room for when it last had none for one more.
    capacity: AtomicU64,
    /// Pages of the index that had come back when the mover last looked, and in how many of its steps none has since.
    returned: AtomicU32,
    waits: AtomicU32,
    /// How many events need not leave for the sake of the index while somebody holds its pages: half of what was there before.
    floor: AtomicU64,
    /// Whether an append found no page, and there have been none to spare since.
    wanted: AtomicBool,
}

impl Default for IndexRoom {
    fn default() -> Self {
        Self {
            capacity: AtomicU64::new(u64::MAX),
            returned: AtomicU32::new(0),
            waits: AtomicU32::new(0),
            floor: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
        }
    }
}

impl Lanes {
    /// How full the index is, by the number of events.
    pub(crate) fn index_fill(&self) -> f64 {
        let capacity = self.index_room.capacity.load(Ordering::Relaxed);
        if capacity == u64::MAX {
            return 0.0;
        }
        let fill = self.in_memory() as f64 / capacity.max(1) as f64;
        if fill < 0.5 {
            // What filled it has gone: let it fill up again.
            self.index_room.capacity.store(u64::MAX, Ordering::Relaxed);
        }
        fill
    }

    /// How many events the index has, and how many it has room for, as far as is known: as [`Self::index_fill`].
    pub(crate) fn index_room(&self) -> (u64, u64) {
        self.index_fill();
        (self.in_memory(), self.index_room.capacity.load(Ordering::Relaxed))
    }

    /// How full the index is, and entirely so while appends want for its pages.
    pub(crate) fn index_shortage(&self) -> f64 {
        if self.index_is_wanted() { 1.0 } else { self.index_fill() }
    }

    /// Whether an append found no page in the index, and there have been none to spare since.
    pub(crate) fn index_is_wanted(&self) -> bool {
        let wanted = self.index_room.wanted.load(Ordering::Relaxed);
        if wanted && self.index_pages.has_room(self.index_relief()) {
            // Whoever finds none again notes it again.
            self.index_room.wanted.store(false, Ordering::Relaxed);
            return false;
        }
        wanted
    }

    /// Whether appends want for pages of the index that wait for readers to go, and would have enough of them otherwise. How
    /// many wait.
    pub(crate) fn index_waits_for_readers(&self) -> Option<u32> {
        let (free, leaving) = (self.index_pages.free(), self.index_pages.leaving());
        (self.index_is_wanted() && free.saturating_add(leaving) > self.index_relief()).then_some(leaving)
    }

    /// More free pages than that are enough for now. An index of a few pages never has many.
    fn index_relief(&self) -> u32 {
        let pages = self.index_region.pages_max();
        RESERVE + (2 + pages / RELIEF).min(pages / SPARE)
    }

    /// Notes that the index had no room for one more.
    #[cold]
    pub(crate) fn index_is_full(&self) -> PressureReason {
        let room = &self.index_room;
        room.wanted.store(true, Ordering::Relaxed);
        // While pages come back it is not known yet how many events are too many. With pages to spare it is something else that
        // is full.
        let known = room.waits.load(Ordering::Relaxed) >= WAITS || !self.index_is_short();
        if known || room.capacity.load(Ordering::Relaxed) == u64::MAX {
            self.index_has_too_many();
        }
        self.note_pressure();
        PressureReason::IndexFull
    }

    /// Takes it that what is there is all that the index has room for.
    fn index_has_too_many(&self) {
        let room = &self.index_room;
        let capacity = self.in_memory().max(room.floor.load(Ordering::Relaxed)).max(1);
        room.capacity.fetch_min(capacity, Ordering::Relaxed);
        room.waits.store(0, Ordering::Relaxed);
    }

    /// Whether the index was full, and has few pages to spare.
    pub(crate) fn index_is_short(&self) -> bool {
        let spare = self.index_region.pages_max() / SPARE;
        let known = self.index_room.capacity.load(Ordering::Relaxed) != u64::MAX;
        known && !self.index_pages.has_room(spare) || self.index_is_wanted()
    }

    /// Lets the index fill up a little more than it once could, if it has pages to spare: what filled them has gone, or did
    /// not fill them well. The mover calls this in each step.
    pub(crate) fn index_may_take_more(&self) {
        let (room, returned) = (&self.index_room, self.index_pages.returned());
        let came_back = room.returned.swap(returned, Ordering::Relaxed) != returned;
        let waits = room.waits.load(Ordering::Relaxed).saturating_add(1);
        let waits = if came_back || !self.index_is_short() { 0 } else { waits };
        room.waits.store(waits, Ordering::Relaxed);
        let leaving = self.index_pages.are_leaving();
        if came_back || !leaving {
            room.floor.store(self.in_memory() / 2, Ordering::Relaxed);
        }
        let waits_alone = (self.index_region.pages_max() / 8).clamp(WAITS_ALONE[0], WAITS_ALONE[1]);
        if waits >= waits_alone && !leaving && self.index_is_wanted() {
            self.index_is_wanted_in_vain();
        }
        let capacity = room.capacity.load(Ordering::Relaxed);
        if capacity != u64::MAX && !self.index_is_short() {
            let more = capacity.saturating_add(capacity / STEP + 1);
            // Whoever found it full meanwhile is right.
            let _ = room.capacity.compare_exchange(capacity, more, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Events have left, and no page came of it; a source that waits for the level to fall does not append, so nobody finds out.
    #[cold]
    fn index_is_wanted_in_vain(&self) {
        // What is left may have room in its pages: an append tries, and notes it again if not.
        if self.in_memory() == 0 || !self.gauge.warns(self.index_fill()) {
            self.index_room.wanted.store(false, Ordering::Relaxed);
        }
    }

    /// Waits, while a store opens and has few pages of the index left, for those that it has outgrown: nobody looks at them but
    /// whoever builds it, a page at a time. The caller holds no pin.
    pub(crate) fn await_outgrown(&self) {
        let (pages, mut turn) = (self.index_region.pages_max(), 0);
        // A page of records takes fewer than that, and nobody holds one for so many turns.
        for _ in 0..BUILD_TURNS {
            if !self.index_pages.are_leaving() || self.index_pages.has_room(pages / SPARE) {
                return;
            }
            self.readers.reclaim();
            wait_a_turn(&mut turn);
        }
    }

    /// Bytes of the index's entries and heads, roughly while others write.
    pub(crate) fn index_live_bytes(&self) -> u64 {
        let _pin = self.pin();
        let heads: usize = self.partitions.iter().map(|partition| partition.streams.len()).sum();
        self.in_memory() * size_of::<u64>() as u64 + (heads * size_of::<Head>()) as u64
    }

    /// The index may have more pages from now on: how many events it has room for is to be seen again.
    pub(crate) fn index_has_grown(&self) {
        self.index_room.capacity.store(u64::MAX, Ordering::Relaxed);
    }
}
