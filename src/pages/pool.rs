//! The pages of a store: hot and warm region and the page table over them.
//!
//! Reading a page needs a [`Pin`]: frames and page numbers that are let go are reused only after every pin that
//! could know of them is gone (crossbeam-epoch; Fraser, "Practical lock-freedom", 2004).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam_epoch as epoch;
use crossbeam_utils::CachePadded;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::event::EventRef;
use crate::event::record::{HEADER_LEN, RecordHeader};
use crate::ids::{Addr, Class, LaneId, LogicalPage};
use crate::pages::image::{IMAGE_HEADER, Image};
use crate::pages::limbo::{Extent, Limbo};
use crate::pages::pack;
use crate::pages::readers::Reading;
pub(crate) use crate::pages::reading::FrameCache;
use crate::pages::reading::{Ahead, Records, WALK_AHEAD};
use crate::pages::removed::Removed;
use crate::pages::restore::Tables;
use crate::pages::table::{PageMeta, Place, Stamps, Tier, Whereabouts};
use crate::pressure::PressureReason;
use crate::regions::arenas::Access;
use crate::regions::free_list::FreeList;
use crate::regions::region::{Frames, Region};
use crate::sys::machine::{Machine, Spot};
use crate::sys::memory::{Slab, ZeroInit, wipe_all};
use crate::sys::shared::SharedDir;

// SAFETY: all fields are atomic integers, for which zero is a value.
unsafe impl ZeroInit for PageMeta {}
// SAFETY: as above.
unsafe impl ZeroInit for Whereabouts {}
// SAFETY: as above.
unsafe impl ZeroInit for Stamps {}

/// Keeps what a reader may know of from being reused.
pub(crate) struct Pin {
    epoch: epoch::Guard,
}

impl Pin {
    /// Of a guard of the store's own collector; see [`Readers`](crate::pages::readers::Readers).
    #[inline]
    pub(super) fn of(epoch: epoch::Guard) -> Self {
        Self { epoch }
    }

    /// Lets pages that were let go before this pin be reused, for a pin that is held long.
    pub(crate) fn repin(&mut self) {
        self.epoch.repin();
    }

    /// Hands what this thread has deferred to all threads, whichever reclaims first.
    pub(crate) fn flush(&self) {
        self.epoch.flush();
    }

    /// Has what was let go wait for every pin of now, this one included.
    pub(super) fn hand_over(&self, limbo: &Arc<Limbo>) {
        let fresh = limbo.take_fresh();
        if !fresh.is_empty() {
            let limbo = limbo.clone();
            // SAFETY: the closure is `Send` and owns what it uses ('static), which is all that the function asks for.
            unsafe { self.epoch.defer_unchecked(move || limbo.arrive(fresh)) };
        }
    }
}

/// A flag that is set once every reader of this moment is gone from what it looked at. Guards keep the events that they
/// were given.
pub(crate) fn all_gone(limbo: &Limbo) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    limbo.let_go(None, move || set.store(true, Ordering::Release));
    flag
}

/// What [`Pages::prefetch_next`] fetches: the lines that an event with a few hundred bytes fills.
const NEXT_LINES: usize = 5;

/// A page that its lane is writing. There is one for each page number at a time (invariant I4).
pub(crate) struct OpenPage {
    pub(crate) page: LogicalPage,
    frame: u32,
    capacity: u32,
    pub(crate) offset: u32,
    pub(crate) generation: u32,
}

impl OpenPage {
    /// Whether a record of `len` bytes fits that follows after so many bytes. No record begins where an address cannot
    /// say so: what a page has left behind an event of 2 MiB stays unused.
    #[inline]
    pub(crate) fn has_room(&self, after: u32, len: u32) -> bool {
        let at = self.offset + after;
        at < Addr::OFFSET_END && self.capacity.saturating_sub(at) >= len
    }

    /// The address of the record that follows after so many bytes.
    #[inline]
    pub(crate) fn addr_after(&self, bytes: u32) -> Addr {
        Addr::new(self.page, self.offset + bytes, self.generation)
    }
}

pub(crate) struct Pages {
    pub(crate) hot: Region,
    pub(crate) warm: Region,
    pub(super) places: Slab<Whereabouts>,
    pub(super) table: Slab<PageMeta>,
    pub(super) stamps: Slab<Stamps>,
    pub(super) numbers: FreeList,
    /// Hot and warm frames of each class, less those that were let go.
    pub(super) held: CachePadded<[[AtomicU32; 2]; Class::MAX]>,
    /// Where pages outlive the process: which of their events were removed.
    pub(crate) removed: Option<Removed>,
    /// Hot frames, warm frames and page numbers that were let go, but that readers may still know of.
    pub(super) leaving: CachePadded<[AtomicU32; 3]>,
    pub(super) limbo: Arc<Limbo>,
    /// The highest generation that a number was given since the store was opened.
    pub(super) generation: AtomicU32,
    /// Frames whose checksum failed.
    pub(crate) corrupt: AtomicU64,
    /// Events that failed theirs when they were read, or whose length was not theirs.
    pub(crate) corrupt_events: AtomicU64,
    /// Up to where in a hot page a record may end without being looked at first. Nowhere, if events are summed up.
    pub(super) unasked: usize,
    /// A bit for each class whose pages are overwritten when they are freed.
    pub(super) sensitive: u16,
}

impl Pages {
    /// `shared`: where the pages lie in files, which may hold some already.
    pub(crate) fn open(
        config: &Config,
        system: &Region,
        machine: &Arc<Machine>,
        shared: Option<&SharedDir>,
        limbo: Arc<Limbo>,
    ) -> Result<Self> {
        let capacity = config.logical_pages_ceiling();
        let entries = capacity as usize + 1;
        let Tables { table, places, removed, hot, warm } =
            Tables::open(config, system, machine, shared, entries)?;
        let stamps = system.slab::<Stamps>(entries, "the times of reads")?;
        let at_first = config.logical_pages(config.hot.max, config.warm.max);
        let numbers = FreeList::new(capacity + 1, at_first.min(capacity) + 1);
        let zero = numbers.claim();
        debug_assert_eq!(zero, Some(0), "logical page 0 is never used");
        let bits = config.classes.iter().enumerate().map(|(at, class)| u16::from(class.sensitive) << at);
        let sensitive = bits.fold(0, |all, bit| all | bit);
        if sensitive != 0 {
            hot.keep_out_of_dumps()?;
            warm.keep_out_of_dumps()?;
        }
        Ok(Self {
            hot,
            warm,
            sensitive,
            places,
            table,
            stamps,
            numbers,
            held: Default::default(),
            removed,
            leaving: Default::default(),
            limbo,
            generation: AtomicU32::new(0),
            corrupt: AtomicU64::new(0),
            corrupt_events: AtomicU64::new(0),
            unasked: if config.event_checksums { 0 } else { config.hot.page_size as usize },
        })
    }

    /// Where a page is.
    #[inline]
    pub(crate) fn place(&self, page: LogicalPage) -> Place {
        self.places[page.0 as usize].place()
    }

    /// Where the page of a link is; `None` when it has left memory since.
    #[inline]
    pub(crate) fn resolve(&self, link: Addr) -> Option<Place> {
        self.places[link.page().0 as usize].resolve(link.high())
    }

    /// Notes that a record was removed, so that readers of its page look which ones are left.
    pub(crate) fn mark_dead(&self, addr: Addr, generation: u32, len: u32) {
        self.meta(addr.page()).add_dead(len);
        self.places[addr.page().0 as usize].mark_dead(generation);
    }

    #[inline]
    pub(crate) fn meta(&self, page: LogicalPage) -> &PageMeta {
        &self.table[page.0 as usize]
    }

    /// Whether what a page held must not stay in memory after it.
    #[inline]
    pub(super) fn is_sensitive(&self, page: LogicalPage) -> bool {
        self.sensitive != 0 && self.sensitive >> self.meta(page).lane().class().index() & 1 == 1
    }

    /// Takes a page for records of `len` bytes at least, near to `home` or to the caller, and makes it the newest of its
    /// lane.
    ///
    /// # Errors
    /// What has no room.
    pub(crate) fn claim(
        &self,
        lane: LaneId,
        seq: u64,
        prev: LogicalPage,
        so_far: i64,
        len: u32,
        home: Option<Spot>,
    ) -> Result<OpenPage, PressureReason> {
        let count = len.div_ceil(self.hot.page_size()).max(1);
        let Frames { first, count } = self.hot.claim_for(home, count).ok_or(PressureReason::HotFull)?;
        let Some(page) = self.numbers.claim() else {
            // SAFETY: claimed just now and known to nobody.
            unsafe { self.hot.release(Frames { first, count }) };
            return Err(PressureReason::PageTableFull);
        };
        self.hot.note_access(first, Access::Write, 1);
        let meta = &self.table[page as usize];
        let generation = self.place(LogicalPage(page)).generation();
        meta.begin(count, lane, seq, generation, prev, so_far);
        self.stamps[page as usize].clear();
        self.hold(lane.class(), Tier::Hot, count);
        self.places[page as usize].set(Place::new(Tier::Hot, generation, first));
        Ok(OpenPage {
            page: LogicalPage(page),
            frame: first,
            capacity: count * self.hot.page_size(),
            offset: 0,
            generation,
        })
    }

    /// The next `len` bytes of an open page, for its writer to fill before they are committed.
    #[inline]
    pub(crate) fn space<'a>(&'a self, open: &'a mut OpenPage, len: u32) -> &'a mut [u8] {
        assert!(open.has_room(0, len), "records are written where there is room for them");
        // SAFETY: an `OpenPage` is the one token for writing its page; bytes at and after `offset` are not
        // committed, so no reader refers to them; the mutable borrow of the token keeps this the only reference.
        unsafe { self.hot.bytes_mut(open.frame, open.offset, len as usize) }
    }

    /// Asks the processor to fetch the lines of an open page that a record of `len` bytes will be written to, once
    /// `after` more bytes are: a store to a line that is not there holds up the stores behind it. There must be room.
    #[inline]
    pub(crate) fn prefetch_space(&self, open: &OpenPage, after: u32, len: u32) {
        self.hot.prefetch_write(open.frame, open.offset + after, len);
    }

    /// Asks the processor to fetch the next few lines of an open page, whoever has them now, to be written at once.
    #[inline]
    pub(crate) fn prefetch_next(&self, open: &OpenPage) {
        self.hot.prefetch_lines::<NEXT_LINES>(open.frame, open.offset);
    }

    /// Asks the processor to fetch a record that lies in the hot region. `false`: it does not.
    #[inline]
    pub(crate) fn prefetch_hot(&self, place: Place, offset: u32) -> bool {
        let is_hot = place.tier() == Tier::Hot;
        if is_hot {
            self.hot.prefetch(place.frame(), offset as usize);
            // A header and the beginning of its body may lie on two lines.
            self.hot.prefetch(place.frame(), offset as usize + HEADER_LEN);
        }
        is_hot
    }

    /// The event at that address, wherever its page is now.
    ///
    /// The address must come from an index entry, a link or a walk over the page that was read under `pin`, and
    /// that named this page as it was at `place`.
    #[inline]
    pub(crate) fn read<'g>(
        &'g self,
        pin: &'g impl Reading,
        cache: &FrameCache,
        place: Place,
        addr: Addr,
    ) -> Result<Option<EventRef<'g>>> {
        match place.tier() {
            Tier::Hot => {
                let record = match self.record_within(pin, place, addr) {
                    Some(record) => record,
                    None => {
                        self.record_beyond(pin, place, addr).inspect_err(|_| self.count_corrupt_event())?
                    }
                };
                Ok(Some(EventRef::in_place(record)))
            }
            Tier::Warm => self.read_warm(cache, place, addr.offset()).map(Some),
            Tier::Free => Ok(None),
        }
    }

    /// The record at that address, if the page is hot and has it whole. The same conditions as for [`Self::read`].
    ///
    /// Whoever gives events by the million makes each of its record last: one that is stored in parts and read as a whole
    /// waits for the stores to be done, and all that comes after waits with it.
    #[inline]
    pub(crate) fn hot_record<'g>(
        &'g self,
        pin: &'g impl Reading,
        place: Place,
        addr: Addr,
    ) -> Option<&'g [u8]> {
        if place.tier() != Tier::Hot {
            return None;
        }
        // A header and the beginning of its body may lie on two lines: both are wanted, and not one after the other.
        self.hot.prefetch(place.frame(), addr.offset() as usize + HEADER_LEN);
        self.record_within(pin, place, addr).or_else(|| self.record_beyond(pin, place, addr).ok())
    }

    /// The record at an address of a page that is hot, if it ends where that need not be looked at first. The same
    /// conditions as for [`Self::read`].
    #[inline]
    pub(crate) fn record_within<'g>(
        &'g self,
        pin: &'g impl Reading,
        place: Place,
        addr: Addr,
    ) -> Option<&'g [u8]> {
        let offset = addr.offset();
        let len = HEADER_LEN + self.hot_header(place, offset).body_len as usize;
        if offset as usize + len > self.unasked {
            return None;
        }
        // SAFETY: as for the header, which says how long the body is that was written with it. A guard that is no pin
        // has the page marked before its call ends, and keeps it by that. Both end within a page.
        let record: &[u8] = unsafe { self.hot.more_bytes(place.frame(), offset, len) };
        pin.gives(record.as_ptr().addr());
        Some(record)
    }

    /// The same of any other.
    #[inline(never)]
    fn record_beyond(&self, pin: &impl Reading, place: Place, addr: Addr) -> Result<&[u8]> {
        let offset = addr.offset();
        let len = HEADER_LEN + self.hot_header(place, offset).body_len as usize;
        self.check_end(addr, len)?;
        // SAFETY: as for those within a page, wherever they end.
        let record: &[u8] = unsafe { self.hot.bytes(place.frame(), offset, len) };
        pin.gives(record.as_ptr().addr());
        Ok(record)
    }

    #[inline]
    fn hot_header(&self, place: Place, offset: u32) -> RecordHeader {
        // SAFETY: the offset came from an entry or link that was stored with release after the record was
        // written (I1); records never change; the frame is not released while the caller's pin lives.
        let bytes: &[u8] = unsafe { self.hot.bytes(place.frame(), offset, HEADER_LEN) };
        RecordHeader::read(bytes).unwrap_or_else(|| unreachable!("the slice has the length of a header"))
    }

    /// The id of the event at that address; the same conditions as for [`Self::read`].
    #[inline]
    pub(crate) fn id_at(&self, pin: &Pin, cache: &FrameCache, place: Place, addr: Addr) -> Option<u64> {
        match place.tier() {
            Tier::Hot => Some(self.hot_header(place, addr.offset()).id),
            Tier::Warm => self.read(pin, cache, place, addr).ok().flatten().map(|event| event.id()),
            Tier::Free => None,
        }
    }

    pub(super) fn image(&self, place: Place) -> Result<Image<'_>> {
        self.find_image(place).inspect_err(|_| self.count_corrupt())
    }

    /// The same for somebody who only wants to know where something is.
    #[inline]
    pub(super) fn find_image(&self, place: Place) -> Result<Image<'_>> {
        let len = self.image_len(place)? as usize;
        let most = (self.warm.pages_ceiling() - place.frame()) as usize * self.warm.page_size() as usize;
        if len > most {
            return Err(Error::corrupt("a warm page claims to be larger than its region"));
        }
        // SAFETY: as for its length, of the bytes that the encoder wrote.
        Image::parse(unsafe { self.warm.bytes(place.frame(), 0, len) })
    }

    /// How long an image says that it is.
    #[inline]
    pub(super) fn image_len(&self, place: Place) -> Result<u32> {
        // SAFETY: a warm image is written before the page is swung to it, does not change, and is not released
        // while the caller's pin lives. Its first page has room for the header.
        let header = unsafe { self.warm.bytes(place.frame(), 0, IMAGE_HEADER) };
        Image::len_of(header).map(|len| len as u32)
    }

    pub(super) fn count_corrupt(&self) {
        self.corrupt.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks the processor to fetch the beginning of a page that a walk will come to: [`Records`] fetches what is ahead
    /// of it, within its page.
    pub(crate) fn prefetch_page(&self, place: Place) {
        if place.tier() == Tier::Hot {
            for line in (0..WALK_AHEAD).step_by(64) {
                self.hot.prefetch(place.frame(), line);
            }
        }
    }

    /// The committed records of a page that is hot, as their lengths have it: `None` where those are not to be believed.
    #[inline]
    pub(crate) fn records<'g>(
        &'g self,
        pin: &'g impl Reading,
        place: Place,
        committed: u32,
        ahead: Ahead,
    ) -> Option<Records<'g>> {
        let bytes = self.committed_bytes(pin, place, committed).filter(|_| !self.sums())?;
        Some(Records::new(bytes, ahead))
    }

    /// The committed bytes of a page that is hot.
    #[inline]
    pub(super) fn committed_bytes<'g>(
        &'g self,
        pin: &'g impl Reading,
        place: Place,
        committed: u32,
    ) -> Option<&'g [u8]> {
        if place.tier() != Tier::Hot {
            return None;
        }
        // SAFETY: committed bytes were written before the length was stored (release) and do not change; the frame is
        // not released while the pin lives, or a guard that is no pin has it marked.
        let bytes: &[u8] = unsafe { self.hot.bytes(place.frame(), 0, committed as usize) };
        pin.gives(bytes.as_ptr().addr());
        Some(bytes)
    }

    /// Moves a sealed hot page to the warm region. `false`: the warm region has no room. `scratch` is reused.
    pub(crate) fn demote(self: &Arc<Self>, pin: &Pin, page: LogicalPage, scratch: &mut Vec<u8>) -> bool {
        if !self.is_sensitive(page) {
            return self.demote_by(pin, page, scratch);
        }
        // So that it need not grow meanwhile, which would leave a copy behind.
        scratch.reserve(pack::room_for(self.meta(page).committed() as usize));
        let done = self.demote_by(pin, page, scratch);
        wipe_all(scratch);
        done
    }

    fn demote_by(self: &Arc<Self>, pin: &Pin, page: LogicalPage, scratch: &mut Vec<u8>) -> bool {
        let place = self.place(page);
        if place.tier() != Tier::Hot {
            return true;
        }
        // SAFETY: committed bytes do not change, and the page is not released while `pin` lives.
        let raw: &[u8] = unsafe { self.hot.bytes(place.frame(), 0, self.meta(page).committed() as usize) };
        pack::encode(raw, scratch);
        self.move_to_warm(pin, page, scratch)
    }

    /// Puts a sealed page's image into the warm region and swings its place there. `false`: there is no room.
    pub(super) fn move_to_warm(self: &Arc<Self>, pin: &Pin, page: LogicalPage, image: &[u8]) -> bool {
        // The page stays on its node, whoever moves it.
        let place = self.place(page);
        let spot = self.region(place.tier()).spot_of(place.frame());
        let Some(frames) = self.write_anew(Tier::Warm, image, spot) else { return false };
        self.move_to(pin, page, Tier::Warm, frames, image.len() as u32);
        true
    }

    /// Moves a warm page back to the hot region. `false`: the hot region has no room.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when a frame fails its check; the page stays where it is.
    pub(crate) fn promote(self: &Arc<Self>, pin: &Pin, page: LogicalPage) -> Result<bool> {
        let (committed, image) = (self.meta(page).committed(), self.image(self.place(page))?);
        let Some(frames) = self.hot.claim(committed.div_ceil(self.hot.page_size()).max(1)) else {
            return Ok(false);
        };
        // SAFETY: the frames were just claimed, so they are ours, and nobody knows of them yet.
        let raw = unsafe { self.hot.bytes_mut(frames.first, 0, committed as usize) };
        if let Err(error) = image.unpack_all(raw) {
            self.count_corrupt();
            // SAFETY: claimed just now and known to nobody.
            unsafe {
                if self.is_sensitive(page) {
                    self.hot.scrub(frames);
                }
                self.hot.release(frames);
            }
            return Err(error);
        }
        self.move_to(pin, page, Tier::Hot, frames, 0);
        Ok(true)
    }

    /// Copies a sealed page to frames that can be claimed without growing its region. `false`: there are none. The mover
    /// is the only caller.
    pub(crate) fn relocate(self: &Arc<Self>, pin: &Pin, page: LogicalPage) -> bool {
        let (meta, place) = (self.meta(page), self.place(page));
        let (tier, region) = (place.tier(), self.region(place.tier()));
        let len = match tier {
            Tier::Free => return true,
            Tier::Hot => meta.committed(),
            Tier::Warm => meta.image_len(),
        };
        let Some(frames) =
            region.claim_committed(region.spot_of(place.frame()), len.div_ceil(region.page_size()).max(1))
        else {
            return false;
        };
        // SAFETY: committed bytes and images do not change, and are not released while `pin` lives; the new frames were
        // just claimed, so they are ours, and nobody knows of them yet.
        unsafe {
            let from = region.bytes(place.frame(), 0, len as usize);
            region.bytes_mut(frames.first, 0, len as usize).copy_from_slice(from);
        }
        self.move_to(pin, page, tier, frames, meta.image_len());
        true
    }

    /// Takes frames of a tier and writes those bytes there. `None`: there is no room.
    pub(super) fn write_anew(&self, tier: Tier, bytes: &[u8], spot: Option<Spot>) -> Option<Frames> {
        let region = self.region(tier);
        let frames = region.claim_for(spot, (bytes.len() as u32).div_ceil(region.page_size()).max(1))?;
        // SAFETY: the frames were just claimed, so they are ours, and nobody knows of them yet.
        unsafe { region.bytes_mut(frames.first, 0, bytes.len()) }.copy_from_slice(bytes);
        Some(frames)
    }

    /// Swings a page to other frames, on which its bytes are, and frees those where it was after its readers. The size of
    /// an image is zero where the page is hot then.
    pub(super) fn move_to(
        self: &Arc<Self>,
        _pin: &Pin,
        page: LogicalPage,
        tier: Tier,
        frames: Frames,
        image_len: u32,
    ) {
        let (meta, place) = (self.meta(page), self.place(page));
        let (class, old) = (meta.lane().class(), Frames { first: place.frame(), count: meta.frames() });
        meta.set_size(frames.count, image_len);
        self.places[page.0 as usize].swing(Place::new(tier, place.generation(), frames.first));
        self.hold(class, tier, frames.count);
        self.let_go(class, place.tier(), old.count);
        self.release_later(place.tier(), old, None, self.is_sensitive(page));
    }

    /// The records of a sealed page as they were written, in `raw`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when a frame fails its check.
    pub(super) fn raw_bytes(&self, _pin: &Pin, page: LogicalPage, raw: &mut Vec<u8>) -> Result<()> {
        let (place, committed) = (self.place(page), self.meta(page).committed() as usize);
        raw.clear();
        if place.tier() == Tier::Hot {
            // SAFETY: committed bytes do not change, and the page is not released while the pin lives.
            raw.extend_from_slice(unsafe { self.hot.bytes(place.frame(), 0, committed) });
            return Ok(());
        }
        raw.resize(committed, 0);
        self.image(place)?.unpack_all(raw).inspect_err(|_| self.count_corrupt())
    }

    /// Lets a page go. Its index entries and stream heads are gone already (I3), and its lane has forgotten it.
    pub(crate) fn retire(self: &Arc<Self>, _pin: &Pin, page: LogicalPage) {
        let (meta, place) = (self.meta(page), self.place(page));
        debug_assert_ne!(place.tier(), Tier::Free, "a page is retired once");
        let generation = place.generation().wrapping_add(1) & Addr::HIGH_MASK;
        self.places[page.0 as usize].set(Place::new(Tier::Free, generation, 0));
        self.generation.fetch_max(generation, Ordering::Relaxed);
        let frames = Frames { first: place.frame(), count: meta.frames() };
        self.let_go(meta.lane().class(), place.tier(), frames.count);
        self.release_later(place.tier(), frames, Some(page), self.is_sensitive(page));
    }

    /// Frees frames, and a page number, after the readers. `scrub`: what the frames held must not stay there.
    fn release_later(self: &Arc<Self>, tier: Tier, frames: Frames, number: Option<LogicalPage>, scrub: bool) {
        let at = usize::from(tier != Tier::Hot);
        self.leaving[at].fetch_add(frames.count, Ordering::Relaxed);
        let pages = Arc::clone(self);
        let free = move || {
            let region = pages.region(tier);
            // SAFETY: the page table no longer leads to the frames, and every pin that could have read it when it
            // did is gone. Whoever swings a page away from its frames, or retires it, releases them, once.
            unsafe {
                if scrub {
                    region.scrub(frames);
                }
                region.release(frames);
            }
            pages.leaving[at].fetch_sub(frames.count, Ordering::Relaxed);
        };
        // Of warm pages nobody is given bytes in place, but copies.
        let extent = (tier == Tier::Hot).then(|| self.hot.extent_of(frames));
        self.limbo.let_go(extent.map(Extent::of), free);
        let Some(page) = number else { return };
        self.leaving[2].fetch_add(1, Ordering::Relaxed);
        let pages = Arc::clone(self);
        // Numbers are only looked at during calls and under pins.
        self.limbo.let_go(None, move || {
            pages.numbers.release(page.0, 1);
            pages.leaving[2].fetch_sub(1, Ordering::Relaxed);
        });
    }
}
