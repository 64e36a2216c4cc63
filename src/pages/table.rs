//! The page table: for each logical page one word that says where it is, and 128 bytes of what is known of it.
//!
//! The words lie together, eight to a line, because every point read and every step of a history asks for one: see
//! [`Place`].
//!
//! A move is one store to that word. States go Free → Hot → Warm → Free or Hot → Free (and, later, Warm → Hot). Each
//! return to Free makes the generation one higher. *Dead* says that a record of the page was removed, so that whoever
//! reads it must ask the id index.
//!
//! ```text
//! line 0   seq │ committed │ count │ dead │ dead bytes │ lane │ next │ prev │ image bytes │ frames │ expiring │ packed dead
//!          looked at │ leaving │ check
//! line 1   min time │ max time │ max time of this and all older pages │ last arrival │ kinds (256 bits)
//! ```
//!
//! Line 1 is the page's *zone map*: scans and eviction choose by it. It is written before `committed`, so whoever sees a
//! record committed sees a zone map that covers it.

use crate::ids::{LaneId, LogicalPage, mix};
pub(crate) use crate::pages::place::{Place, Tier};
use crate::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering};

/// The word that says where a page is.
pub(crate) struct Whereabouts(AtomicU64);

impl Whereabouts {
    #[cfg(any(test, loom))]
    pub(crate) fn zeroed() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn place(&self) -> Place {
        Place(self.0.load(Ordering::Acquire))
    }

    /// Sets where a page is that nobody else changes: everything that the place holds must be written before.
    pub(crate) fn set(&self, place: Place) {
        self.0.store(place.0, Ordering::Release);
    }

    /// Moves a page that is in use, of which records may be removed meanwhile.
    pub(crate) fn swing(&self, place: Place) {
        let keep_dead = |now: u64| Some(place.0 | now & Place::DEAD);
        // The closure always gives a value, so the update cannot fail.
        let _ = self.0.fetch_update(Ordering::Release, Ordering::Relaxed, keep_dead);
    }

    /// Notes that a record was removed from the page, if it is still the one of that generation.
    pub(crate) fn mark_dead(&self, generation: u32) {
        let mark = |now: u64| (Place(now).generation() == generation).then_some(now | Place::DEAD);
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, mark);
    }

    /// Where the page is that a link of that generation leads to; `None` when it has left memory since.
    #[inline]
    pub(crate) fn resolve(&self, generation: u32) -> Option<Place> {
        let place = self.place();
        (place.tier() != Tier::Free && place.generation() == generation).then_some(place)
    }
}

/// When a page was last read, and when before that, in seconds of the clock. Reads within one second count as one, so
/// that a burst does not pass for interest that lasts. Zero: not since the page was opened.
///
/// Whoever reads stores without a look at who else does: of two at once, one is forgotten, which costs nothing.
pub(crate) struct Stamps(AtomicU64);

impl Stamps {
    /// The second that a time in milliseconds is in. Never zero.
    pub(crate) fn second(now_ms: i64) -> u32 {
        (now_ms.div_euclid(1000) as u32).max(1)
    }

    /// Notes a read.
    #[inline]
    pub(crate) fn touch(&self, second: u32) {
        let stamps = self.0.load(Ordering::Relaxed);
        if stamps as u32 != second {
            self.0.store(stamps << 32 | u64::from(second), Ordering::Relaxed);
        }
    }

    /// The last read and the one before.
    pub(crate) fn get(&self) -> [u32; 2] {
        let stamps = self.0.load(Ordering::Relaxed);
        [stamps as u32, (stamps >> 32) as u32]
    }

    pub(crate) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// What the store knows of one logical page.
#[repr(C, align(128))]
pub(crate) struct PageMeta {
    seq: AtomicU64,
    committed: AtomicU32,
    count: AtomicU32,
    dead: AtomicU32,
    dead_bytes: AtomicU32,
    lane: AtomicU32,
    next: AtomicU32,
    prev: AtomicU32,
    image_len: AtomicU32,
    frames: AtomicU32,
    expiring: AtomicU32,
    packed_dead: AtomicU32,
    /// Seconds since the epoch, and one.
    looked_at: AtomicU32,
    /// [`LEAVING`] once the lane has let the page go.
    leaving: AtomicU32,
    /// Of lane, number and generation, for whoever finds the page in a file.
    check: AtomicU32,
    min_time: AtomicI64,
    max_time: AtomicI64,
    max_time_so_far: AtomicI64,
    last_arrival: AtomicI64,
    kinds: [AtomicU64; 4],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<PageMeta>() as u64 == crate::config::PAGE_TABLE_ENTRY);
#[cfg(not(loom))]
const _: () = assert!(std::mem::offset_of!(PageMeta, min_time) == 64);

/// Says that a page is leaving memory: not a number that one flipped bit makes of zero.
const LEAVING: u32 = 0x1eaf_ca5e;

fn check(lane: LaneId, seq: u64, generation: u32) -> u32 {
    (mix(seq, u64::from(lane.0) << 32 | u64::from(generation)) >> 32) as u32
}

/// What a zone map is to cover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Zone {
    min_time: i64,
    max_time: i64,
    kinds: [u64; 4],
}

impl Zone {
    /// The largest timestamp.
    pub(crate) fn max_time(&self) -> i64 {
        self.max_time
    }

    /// Whether everything that the other one covers is covered.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let kinds = self.kinds.iter().zip(other.kinds).all(|(all, some)| some & !all == 0);
        kinds && self.min_time <= other.min_time && self.max_time >= other.max_time
    }

    pub(crate) const NOTHING: Self = Self { min_time: i64::MAX, max_time: i64::MIN, kinds: [0; 4] };

    #[inline]
    pub(crate) fn of(timestamp: i64, kind: u8) -> Self {
        let mut zone = Self::NOTHING;
        zone.add(timestamp, kind);
        zone
    }

    #[inline]
    pub(crate) fn add(&mut self, timestamp: i64, kind: u8) {
        self.min_time = self.min_time.min(timestamp);
        self.max_time = self.max_time.max(timestamp);
        self.kinds[usize::from(kind >> 6)] |= 1 << (kind & 63);
    }
}

/// What walking a page of a file has told.
pub(crate) struct Restored {
    pub(crate) committed: u32,
    pub(crate) count: u32,
    pub(crate) dead: u32,
    pub(crate) dead_bytes: u32,
    /// Records of events that expire by themselves.
    pub(crate) expiring: u32,
    pub(crate) zone: Zone,
    /// The largest timestamp of this and all older pages of the lane.
    pub(crate) so_far: i64,
    pub(crate) now_ms: i64,
}

impl PageMeta {
    #[cfg(loom)]
    pub(crate) fn zeroed() -> Self {
        Self {
            committed: AtomicU32::new(0),
            count: AtomicU32::new(0),
            dead: AtomicU32::new(0),
            dead_bytes: AtomicU32::new(0),
            seq: AtomicU64::new(0),
            lane: AtomicU32::new(0),
            next: AtomicU32::new(0),
            prev: AtomicU32::new(0),
            image_len: AtomicU32::new(0),
            frames: AtomicU32::new(0),
            expiring: AtomicU32::new(0),
            packed_dead: AtomicU32::new(0),
            looked_at: AtomicU32::new(0),
            leaving: AtomicU32::new(0),
            check: AtomicU32::new(0),
            min_time: AtomicI64::new(0),
            max_time: AtomicI64::new(0),
            max_time_so_far: AtomicI64::new(0),
            last_arrival: AtomicI64::new(0),
            kinds: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Begins a page that will be the newest of a lane, before anybody can find it. `so_far` is the lane's largest
    /// timestamp until now.
    pub(crate) fn begin(
        &self,
        frames: u32,
        lane: LaneId,
        seq: u64,
        generation: u32,
        prev: LogicalPage,
        so_far: i64,
    ) {
        self.committed.store(0, Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
        self.dead.store(0, Ordering::Relaxed);
        self.dead_bytes.store(0, Ordering::Relaxed);
        self.seq.store(seq, Ordering::Relaxed);
        self.lane.store(lane.0, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
        self.prev.store(prev.0, Ordering::Relaxed);
        self.image_len.store(0, Ordering::Relaxed);
        self.frames.store(frames, Ordering::Relaxed);
        self.expiring.store(0, Ordering::Relaxed);
        self.packed_dead.store(0, Ordering::Relaxed);
        self.looked_at.store(0, Ordering::Relaxed);
        self.leaving.store(0, Ordering::Relaxed);
        self.check.store(check(lane, seq, generation), Ordering::Relaxed);
        self.min_time.store(i64::MAX, Ordering::Relaxed);
        self.max_time.store(i64::MIN, Ordering::Relaxed);
        self.max_time_so_far.store(so_far, Ordering::Relaxed);
        self.last_arrival.store(i64::MIN, Ordering::Relaxed);
        for word in &self.kinds {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Asks the processor to fetch both lines, to change them.
    #[inline]
    pub(crate) fn prefetch(&self) {
        #[cfg(not(loom))]
        {
            crate::sys::memory::prefetch_write(&self.seq);
            crate::sys::memory::prefetch_write(&self.min_time);
        }
    }

    /// Makes the zone map cover records that are about to be committed. The lane's lock is held.
    #[inline]
    pub(crate) fn cover(&self, zone: &Zone, arrival: i64) {
        if zone.min_time < self.min_time.load(Ordering::Relaxed) {
            self.min_time.store(zone.min_time, Ordering::Relaxed);
        }
        if zone.max_time > self.max_time.load(Ordering::Relaxed) {
            self.max_time.store(zone.max_time, Ordering::Relaxed);
            if zone.max_time > self.max_time_so_far.load(Ordering::Relaxed) {
                self.max_time_so_far.store(zone.max_time, Ordering::Relaxed);
            }
        }
        if arrival > self.last_arrival.load(Ordering::Relaxed) {
            self.last_arrival.store(arrival, Ordering::Relaxed);
        }
        for (word, more) in self.kinds.iter().zip(zone.kinds) {
            let kinds = word.load(Ordering::Relaxed);
            if more & !kinds != 0 {
                word.store(kinds | more, Ordering::Relaxed);
            }
        }
    }

    /// Notes that a record that is about to be committed expires by itself. The lane's lock is held.
    pub(crate) fn note_expiring(&self) {
        self.expiring.store(self.expiring.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// How many records expire by themselves, of those at least that [`Self::committed`] covers when it is read first.
    pub(crate) fn expiring(&self) -> u32 {
        self.expiring.load(Ordering::Relaxed)
    }

    /// Makes one more record visible, which the zone map covers. The lane's lock is held.
    #[inline]
    pub(crate) fn commit(&self, end: u32) {
        self.count.store(self.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let order = if cfg!(canary = "unordered-commit") { Ordering::Relaxed } else { Ordering::Release };
        self.committed.store(end, order);
    }

    /// Bytes that readers may look at.
    pub(crate) fn committed(&self) -> u32 {
        self.committed.load(Ordering::Acquire)
    }

    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Records on the page that were removed.
    pub(crate) fn dead(&self) -> u32 {
        self.dead.load(Ordering::Acquire)
    }

    pub(crate) fn add_dead(&self, bytes: u32) {
        self.dead_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.dead.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn live_bytes(&self) -> u32 {
        self.committed.load(Ordering::Relaxed).saturating_sub(self.dead_bytes.load(Ordering::Relaxed))
    }

    /// Bytes of removed records that the page takes room for.
    pub(crate) fn garbage(&self) -> u32 {
        let dead = self.dead_bytes.load(Ordering::Relaxed);
        dead.saturating_sub(self.packed_dead.load(Ordering::Relaxed))
    }

    /// Notes how many bytes of removed records the page's image has no room for.
    pub(crate) fn set_packed_dead(&self, bytes: u32) {
        self.packed_dead.store(bytes, Ordering::Relaxed);
    }

    /// When it was last counted, by the clock, how many of the page's events have expired.
    pub(crate) fn looked_at(&self) -> i64 {
        match self.looked_at.load(Ordering::Relaxed) {
            0 => i64::MIN,
            seconds => i64::from(seconds - 1) * 1000,
        }
    }

    pub(crate) fn set_looked_at(&self, now_ms: i64) {
        let seconds = (now_ms / 1000).clamp(0, i64::from(u32::MAX) - 1) as u32;
        self.looked_at.store(seconds + 1, Ordering::Relaxed);
    }

    pub(crate) fn packed_dead(&self) -> u32 {
        self.packed_dead.load(Ordering::Relaxed)
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq.load(Ordering::Relaxed)
    }

    pub(crate) fn lane(&self) -> LaneId {
        LaneId(self.lane.load(Ordering::Relaxed))
    }

    pub(crate) fn next(&self) -> LogicalPage {
        LogicalPage(self.next.load(Ordering::Acquire))
    }

    pub(crate) fn set_next(&self, page: LogicalPage) {
        self.next.store(page.0, Ordering::Release);
    }

    pub(crate) fn prev(&self) -> LogicalPage {
        LogicalPage(self.prev.load(Ordering::Relaxed))
    }

    /// How many frames the page takes in the tier where it is.
    pub(crate) fn frames(&self) -> u32 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Bytes of the warm image; zero while the page is hot.
    pub(crate) fn image_len(&self) -> u32 {
        self.image_len.load(Ordering::Relaxed)
    }

    /// Notes the size of a place that is about to be swung to. The page's mover is the only caller.
    pub(crate) fn set_size(&self, frames: u32, image_len: u32) {
        self.frames.store(frames, Ordering::Relaxed);
        self.image_len.store(image_len, Ordering::Relaxed);
    }

    pub(crate) fn min_time(&self) -> i64 {
        self.min_time.load(Ordering::Relaxed)
    }

    pub(crate) fn max_time(&self) -> i64 {
        self.max_time.load(Ordering::Relaxed)
    }

    /// The largest timestamp on this page and all older pages of its lane.
    pub(crate) fn max_time_so_far(&self) -> i64 {
        self.max_time_so_far.load(Ordering::Relaxed)
    }

    /// Notes that the lane has let the page go, before anything of it is taken away: should the process end now, whoever
    /// finds the page lets it go, too.
    pub(crate) fn leave(&self) {
        self.leaving.store(LEAVING, Ordering::Release);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) == LEAVING
    }

    /// As [`Self::restore`], of a page that is as it was: nobody has looked at its records.
    pub(crate) fn take_over(&self, now_ms: i64) {
        if self.last_arrival() > now_ms {
            // The clock went back: the page must not stay for ever.
            self.last_arrival.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Everything that is known of the page, for checks.
    pub(crate) fn words(&self) -> [u64; 15] {
        let two = |low: &AtomicU32, high: &AtomicU32| {
            u64::from(low.load(Ordering::Relaxed)) | u64::from(high.load(Ordering::Relaxed)) << 32
        };
        let time = |time: &AtomicI64| time.load(Ordering::Relaxed) as u64;
        let [k0, k1, k2, k3] = self.kinds();
        [
            self.seq(),
            two(&self.committed, &self.count),
            two(&self.dead, &self.dead_bytes),
            two(&self.lane, &self.next),
            two(&self.prev, &self.image_len),
            two(&self.frames, &self.expiring),
            two(&self.packed_dead, &self.leaving),
            time(&self.min_time),
            time(&self.max_time),
            time(&self.max_time_so_far),
            time(&self.last_arrival),
            k0,
            k1,
            k2,
            k3,
        ]
    }

    /// Whether lane and number are those that the page was begun with, at that generation.
    pub(crate) fn is_sound(&self, generation: u32) -> bool {
        self.check.load(Ordering::Relaxed) == check(self.lane(), self.seq(), generation)
    }

    /// Sets everything that follows from the records of a page that was found in a file. Nobody else knows of it yet.
    pub(crate) fn restore(&self, found: &Restored) {
        let Zone { min_time, max_time, kinds } = found.zone;
        self.count.store(found.count, Ordering::Relaxed);
        self.dead.store(found.dead, Ordering::Relaxed);
        self.dead_bytes.store(found.dead_bytes, Ordering::Relaxed);
        self.expiring.store(found.expiring, Ordering::Relaxed);
        self.leaving.store(0, Ordering::Relaxed);
        self.min_time.store(min_time, Ordering::Relaxed);
        self.max_time.store(max_time, Ordering::Relaxed);
        self.max_time_so_far.store(found.so_far, Ordering::Relaxed);
        if self.last_arrival() > found.now_ms {
            // The clock went back, or the number is damaged: the page must not stay for ever.
            self.last_arrival.store(found.now_ms, Ordering::Relaxed);
        }
        for (word, kinds) in self.kinds.iter().zip(kinds) {
            word.store(kinds, Ordering::Relaxed);
        }
        self.committed.store(found.committed, Ordering::Release);
    }

    pub(crate) fn zone(&self) -> Zone {
        Zone { min_time: self.min_time(), max_time: self.max_time(), kinds: self.kinds() }
    }

    pub(crate) fn set_prev(&self, page: LogicalPage) {
        self.prev.store(page.0, Ordering::Relaxed);
    }

    /// When the page's last record came, by the store's clock.
    pub(crate) fn last_arrival(&self) -> i64 {
        self.last_arrival.load(Ordering::Relaxed)
    }

    /// Whether nothing was ever on the page: it stands where one was lost.
    pub(crate) fn is_blank(&self) -> bool {
        self.last_arrival() == i64::MIN
    }

    /// Has a page that stands for a damaged one not be blank: what the cold tier has of that is good, and is not to be replaced.
    /// It counts as old as it can be.
    pub(crate) fn stand_for_damaged(&self) {
        self.cover(&Zone::NOTHING, i64::MIN + 1);
    }

    /// The time that the page's age is counted from: its newest event, or its last arrival where that is earlier,
    /// so that an event from the future does not keep the page.
    pub(crate) fn newest(&self) -> i64 {
        self.max_time().min(self.last_arrival())
    }

    pub(crate) fn kinds(&self) -> [u64; 4] {
        std::array::from_fn(|at| self.kinds[at].load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn stamps_keep_the_last_two_seconds() {
        let stamps = Stamps(AtomicU64::new(0));
        assert_eq!(stamps.get(), [0, 0]);
        for (second, kept) in [(5, [5, 0]), (5, [5, 0]), (9, [9, 5]), (7, [7, 9]), (u32::MAX, [u32::MAX, 7])]
        {
            stamps.touch(second);
            assert_eq!(stamps.get(), kept);
        }
        assert_eq!([0, 999, 1000, 61_000, -1].map(Stamps::second), [1, 1, 1, 61, u32::MAX]);
    }

    #[test]
    fn a_stale_link_is_recognised() {
        let page = Whereabouts::zeroed();
        page.set(Place::new(Tier::Hot, 0, 3));
        assert!(page.resolve(0).is_some());
        page.set(Place::new(Tier::Free, 1, 0));
        assert!(page.resolve(0).is_none() && page.resolve(1).is_none());
        page.set(Place::new(Tier::Hot, 1, 4));
        assert!(page.resolve(0).is_none() && page.resolve(1).is_some());
    }

    #[test]
    fn a_mark_stays_through_a_move_and_ends_with_the_page() {
        let page = Whereabouts::zeroed();
        page.set(Place::new(Tier::Hot, 7, 3));
        page.mark_dead(6);
        assert!(!page.place().has_dead(), "that was another page");
        page.mark_dead(7);
        page.swing(Place::new(Tier::Warm, 7, 4));
        assert!(page.place().has_dead() && page.place().tier() == Tier::Warm && page.place().frame() == 4);
        page.set(Place::new(Tier::Free, 8, 0));
        assert!(!page.place().has_dead());
    }
}
