//! Pages that are found in files when a store opens. Nothing that the files say is believed before it is checked: a
//! page that does not hold together is let go and counted, and the rest stays.
//!
//! A page's word (where it is) is the last thing that any change of a page writes, so after a process has ended at any
//! moment the word is right. What was written ahead of it may not belong to it: sizes are taken from the committed
//! length and from the image itself, never from the table.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::error::Result;
use crate::event::buffer::Buffer;
use crate::ids::{Addr, LaneId, LogicalPage};
use crate::pages::image::Image;
use crate::pages::pack::{encode_frames, room_for_frames};
use crate::pages::pool::{Pages, Pin};
use crate::pages::removed::Removed;
use crate::pages::table::{PageMeta, Place, Tier, Whereabouts};
use crate::pressure::{PressureReason, RegionKind};
use crate::regions::region::{Frames, Region};
use crate::sys::machine::Machine;
use crate::sys::memory::{Mapping, Slab, ZeroInit, wipe_all};
use crate::sys::shared::SharedDir;
use crate::sys::sum::Sum;

/// A table in a file of its own.
pub(crate) fn shared_slab<T: ZeroInit>(dir: &SharedDir, name: &str, len: usize) -> Result<Slab<T>> {
    Mapping::shared(dir.file(name)?, len * size_of::<T>(), name)?.whole(len)
}

/// What pages lie in: in files, or in the process's own memory.
pub(super) struct Tables {
    pub(super) table: Slab<PageMeta>,
    pub(super) places: Slab<Whereabouts>,
    pub(super) removed: Option<Removed>,
    pub(super) hot: Region,
    pub(super) warm: Region,
}

impl Tables {
    pub(super) fn open(
        config: &Config,
        system: &Region,
        machine: &Arc<Machine>,
        shared: Option<&SharedDir>,
        entries: usize,
    ) -> Result<Self> {
        Ok(match shared {
            None => Self {
                table: system.slab(entries, "the page table")?,
                places: system.slab(entries, "the places of pages")?,
                removed: None,
                hot: Region::open(RegionKind::Hot, config.hot, machine)?,
                warm: Region::open(RegionKind::Warm, config.warm, machine)?,
            },
            Some(dir) => Self {
                table: shared_slab(dir, "table", entries)?,
                places: shared_slab(dir, "places", entries)?,
                removed: Some(Removed::new(shared_slab(dir, "removed", config.removal_notes())?)),
                hot: Region::open_shared(RegionKind::Hot, config.hot, machine, dir.file("hot")?)?,
                warm: Region::open_shared(RegionKind::Warm, config.warm, machine, dir.file("warm")?)?,
            },
        })
    }
}

/// A page of a lane, found in the files. Its records are not looked at yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FoundPage {
    pub(crate) page: LogicalPage,
    pub(crate) lane: LaneId,
    pub(crate) seq: u64,
}

/// Pages that were let go because they did not hold together.
#[derive(Default, Debug)]
pub(crate) struct Quarantine {
    pub(crate) pages: u64,
    /// Events that were on them, as far as that can be told.
    pub(crate) events: u64,
    /// What was wrong with the first few.
    pub(crate) faults: Vec<String>,
}

impl Quarantine {
    const DESCRIBED: usize = 20;

    pub(crate) fn describe(&mut self, fault: impl FnOnce() -> String) {
        if self.faults.len() < Self::DESCRIBED {
            self.faults.push(fault());
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.pages += other.pages;
        self.events += other.events;
        let room = Self::DESCRIBED.saturating_sub(self.faults.len());
        self.faults.extend(other.faults.into_iter().take(room));
    }
}

/// Some records of a page that follow each other, and where in the page the first one is.
pub(crate) struct Segment<'g> {
    pub(crate) at: u32,
    pub(crate) bytes: SegmentBytes<'g>,
}

impl Segment<'_> {
    /// Leaves out what lies behind so many bytes.
    pub(crate) fn cut(&mut self, len: usize) {
        match &mut self.bytes {
            SegmentBytes::InPlace(bytes) => *bytes = &bytes[..len],
            SegmentBytes::Unpacked(bytes) => bytes.truncate(len),
        }
    }
}

/// The bytes of a segment: in place, or unpacked.
pub(crate) enum SegmentBytes<'g> {
    InPlace(&'g [u8]),
    Unpacked(Buffer),
}

impl std::ops::Deref for SegmentBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::InPlace(bytes) => bytes,
            Self::Unpacked(bytes) => bytes,
        }
    }
}

impl Pages {
    /// Where pages outlive the process, makes room for a note to whoever finds them that the event there is removed. Gives
    /// what writes it, if that is so; `None`: there is no room for one more note.
    pub(crate) fn note_removed(&self, addr: Addr, generation: u32) -> Option<impl FnOnce(bool) + '_> {
        let in_memory = |note| self.resolve(note).is_some();
        let reserved = match &self.removed {
            Some(removed) => Some((removed, removed.reserve(in_memory)?)),
            None => None,
        };
        Some(move |is_removed: bool| {
            if let Some((removed, slot)) = reserved {
                removed.settle(slot, is_removed.then(|| addr.with_high(generation)));
            }
        })
    }

    /// Notes an event that has expired, if there is room. Its id can come again, and the clock go back, so nobody must find it.
    pub(crate) fn note_expired(&self, addr: Addr, generation: u32) -> bool {
        let in_memory = |note| self.resolve(note).is_some();
        let Some(removed) = &self.removed else { return true };
        let noted = removed.note_expired(addr.with_high(generation), in_memory);
        if noted {
            // Nothing can stop it any more.
            self.tell_removed(addr, generation);
        }
        noted
    }

    /// Tells the log, if there is one, of an event that was noted and whose removal nothing can stop any more.
    pub(crate) fn tell_removed(&self, addr: Addr, generation: u32) {
        if let Some(removed) = &self.removed {
            removed.tell(addr.with_high(generation));
        }
    }

    /// Takes stock of what the files hold: marks frames and page numbers in use, and gives the pages. Those that cannot be
    /// are let go. To be called once, before anybody uses the store.
    pub(crate) fn take_stock(
        &self,
        is_lane: impl Fn(LaneId) -> bool,
        lost: &mut Quarantine,
    ) -> Vec<FoundPage> {
        let mut found = Vec::new();
        // A store that was made larger while it ran has pages above the numbers that it begins with.
        let end = self.places.len() as u32;
        for page in (1..end).map(LogicalPage) {
            let place = self.place(page);
            if place.is_plain_free() {
                continue;
            }
            match self.check_page(page, place, &is_lane) {
                Ok(page) => found.push(page),
                Err(fault) => self.discard(page, fault, lost),
            }
        }
        found
    }

    fn check_page(
        &self,
        page: LogicalPage,
        place: Place,
        is_lane: &impl Fn(LaneId) -> bool,
    ) -> Result<FoundPage, &'static str> {
        let meta = self.meta(page);
        if !place.is_sound() {
            return Err("its place fails its check");
        }
        if !meta.is_sound(place.generation()) {
            return Err("its lane, number and generation fail their check");
        }
        if !is_lane(meta.lane()) {
            return Err("there is no such lane");
        }
        let (frames, image_len) = match place.tier() {
            Tier::Free => return Err("its place makes no sense"),
            Tier::Hot => (self.frames_for(Tier::Hot, place, meta.committed())?, 0),
            Tier::Warm => {
                // The image says how long it is, on its first page.
                let first = Frames { first: place.frame(), count: 1 };
                if !self.warm.had(first) {
                    return Err("it lies outside of its file");
                }
                let len = self.image_len(place).map_err(|_| "its image is damaged")?;
                let frames = self.frames_for(Tier::Warm, place, len)?;
                // More of it is looked at only where there is a file behind all of it.
                if !self.warm.had(frames) {
                    return Err("it lies outside of its file");
                }
                self.image(place).map_err(|_| "its image is damaged")?;
                (frames, len)
            }
        };
        if !self.region(place.tier()).take(frames) {
            return Err("its place is another page's, too, or lies outside of its file");
        }
        self.numbers.raise_limit(page.0 + 1);
        if !self.numbers.take(page.0, 1) {
            return Err("its number is in use");
        }
        meta.set_size(frames.count, image_len);
        self.hold(meta.lane().class(), place.tier(), frames.count);
        Ok(FoundPage { page, lane: meta.lane(), seq: meta.seq() })
    }

    fn frames_for(&self, tier: Tier, place: Place, len: u32) -> Result<Frames, &'static str> {
        // An event of 16 MiB and the rest of the last frame are the most that a page can have.
        if len > 18 << 20 {
            return Err("it is longer than a page can be");
        }
        let count = len.div_ceil(self.region(tier).page_size()).max(1);
        Ok(Frames { first: place.frame(), count })
    }

    /// The number after the highest one that a page has.
    pub(crate) fn numbers_end(&self) -> u32 {
        let in_use = |page: &u32| !self.place(LogicalPage(*page)).is_plain_free();
        (1..self.places.len() as u32).rev().find(in_use).map_or(1, |last| last + 1)
    }

    /// Whether the tables have entries for all numbers below that one.
    pub(crate) fn has_numbers(&self, end: u32) -> bool {
        end as usize <= self.places.len()
    }

    /// How many pages there are.
    pub(crate) fn count(&self) -> u64 {
        self.places.iter().skip(1).filter(|word| !word.place().is_plain_free()).count() as u64
    }

    /// Takes over a page that is as it was left, without a look at what is on it. `false`: it cannot be that one.
    pub(crate) fn take_over(&self, page: LogicalPage, lane: LaneId, seq: u64, now_ms: i64) -> bool {
        let Some(word) = self.places.get(page.0 as usize) else { return false };
        let (meta, place) = (self.meta(page), word.place());
        let frames = Frames { first: place.frame(), count: meta.frames() };
        let bytes = match place.tier() {
            Tier::Free => return false,
            Tier::Hot => meta.committed(),
            Tier::Warm => meta.image_len(),
        };
        let region = self.region(place.tier());
        let sound = place.is_sound()
            && meta.is_sound(place.generation())
            && (meta.lane(), meta.seq()) == (lane, seq)
            && !meta.is_leaving()
            && u64::from(bytes) <= u64::from(frames.count) * u64::from(region.page_size())
            && region.take(frames);
        self.numbers.raise_limit(page.0 + 1);
        if !sound || !self.numbers.take(page.0, 1) {
            return false;
        }
        meta.take_over(now_ms);
        if !place.is_checked() {
            word.swing(Place::new(place.tier(), place.generation(), place.frame()));
        }
        self.hold(lane.class(), place.tier(), frames.count);
        true
    }

    /// Sums up what is known of some pages.
    pub(crate) fn sum_up(&self, pages: std::ops::Range<usize>, sum: &mut Sum) {
        for (meta, word) in self.table[pages.clone()].iter().zip(&self.places[pages]) {
            sum.add(&meta.words());
            sum.add(&[word.place().as_u64()]);
        }
    }

    /// Lets a page go that does not hold together, and whose frames nobody has taken.
    fn discard(&self, page: LogicalPage, fault: &'static str, lost: &mut Quarantine) {
        let (meta, place) = (self.meta(page), self.place(page));
        lost.pages += 1;
        // What it says may be as wrong as the rest.
        lost.events += u64::from(meta.count().min(meta.committed() / 40));
        lost.describe(|| format!("page {} ({:?}): {fault}", page.0, place.tier()));
        self.forget(page);
    }

    /// Marks a page number free, so that nothing that names it leads anywhere.
    fn forget(&self, page: LogicalPage) {
        let generation = self.place(page).generation().wrapping_add(1);
        self.places[page.0 as usize].set(Place::new(Tier::Free, generation, 0));
    }

    /// Has all numbers come near to the end of their generations.
    #[cfg(test)]
    pub(crate) fn age_free_numbers(&self) {
        for word in self.places.iter().skip(1).filter(|word| word.place().is_plain_free()) {
            word.set(Place::new(Tier::Free, Addr::HIGH_MASK - 2, 0));
        }
    }

    /// Whether a link can be one to a page that has left memory: of an earlier generation of a number that there is.
    pub(crate) fn is_past(&self, link: Addr) -> bool {
        const HALF: u32 = 1 << (Addr::HIGH_BITS - 1);
        // Regions may have been larger: of the table all is looked at.
        let number = link.page().0;
        if number == 0 || number as usize >= self.places.len() {
            return false;
        }
        let ago = self.place(link.page()).generation().wrapping_sub(link.high()) & Addr::HIGH_MASK;
        (1..HALF).contains(&ago)
    }

    /// The events that were noted as removed, by page, in order.
    pub(crate) fn removed_records(&self) -> HashMap<LogicalPage, Vec<u32>> {
        let in_memory = |note: Addr| note.page().0 < self.numbers.limit() && self.resolve(note).is_some();
        self.removed.as_ref().map(|removed| removed.load(in_memory)).unwrap_or_default()
    }

    /// Says anew whether records of a page are removed.
    pub(crate) fn set_dead(&self, page: LogicalPage, dead: bool) {
        let place = self.place(page);
        let word = &self.places[page.0 as usize];
        word.set(Place::new(place.tier(), place.generation(), place.frame()));
        if dead {
            word.mark_dead(place.generation());
        }
    }

    /// The records of a found page, as far as they can be read; and whether some cannot.
    pub(crate) fn segments<'g>(&'g self, pin: &'g Pin, page: LogicalPage) -> (Vec<Segment<'g>>, bool) {
        let (meta, place) = (self.meta(page), self.place(page));
        if let Some(bytes) = self.committed_bytes(pin, place, meta.committed()) {
            return (vec![Segment { at: 0, bytes: SegmentBytes::InPlace(bytes) }], false);
        }
        let Ok(image) = self.image(place) else { return (Vec::new(), true) };
        let (mut segments, mut damaged, mut end) = (Vec::new(), false, 0u32);
        let mut number = 0;
        while let Some(run) = self.unpack_run(&image, &mut number, end, meta.committed()) {
            match run {
                Some((at, bytes)) => {
                    end = at + bytes.len() as u32;
                    segments.push(Segment { at, bytes: SegmentBytes::Unpacked(bytes) });
                }
                None => damaged = true,
            }
        }
        (segments, damaged)
    }

    /// The next frames that follow each other: where, and their records, if they begin at or after `end` and lie within
    /// their page.
    #[expect(clippy::option_option, reason = "whether there are any, and whether they can be read")]
    pub(super) fn unpack_run(
        &self,
        image: &Image<'_>,
        number: &mut usize,
        end: u32,
        committed: u32,
    ) -> Option<Option<(u32, Buffer)>> {
        let run = image.unpack_run(number)?.inspect_err(|_| self.count_corrupt()).ok();
        let run = run.map(|(at, bytes)| (at, self.buffer(bytes)));
        let fits = |at: u32, len: usize| {
            at >= end && at.is_multiple_of(8) && u64::from(at) + len as u64 <= u64::from(committed)
        };
        Some(run.filter(|(at, bytes)| fits(*at, bytes.len())))
    }

    /// A page of a lane that nothing is on, hot, or warm where the hot region is full.
    ///
    /// # Errors
    /// What there is no room in.
    pub(crate) fn claim_blank(&self, lane: LaneId, seq: u64) -> Result<LogicalPage, PressureReason> {
        match self.claim(lane, seq, LogicalPage::NONE, i64::MIN, 0, None) {
            Err(PressureReason::HotFull) => {}
            other => return other.map(|open| open.page),
        }
        let mut image = Vec::new();
        encode_frames(0, std::iter::empty(), &mut image);
        let page = self.numbers.claim().ok_or(PressureReason::PageTableFull)?;
        let Some(frames) = self.write_anew(Tier::Warm, &image, None) else {
            self.numbers.release(page, 1);
            return Err(PressureReason::HotFull);
        };
        let page = LogicalPage(page);
        let (meta, generation) = (self.meta(page), self.place(page).generation());
        meta.begin(frames.count, lane, seq, generation, LogicalPage::NONE, i64::MIN);
        meta.set_size(frames.count, image.len() as u32);
        self.stamps[page.0 as usize].clear();
        self.hold(lane.class(), Tier::Warm, frames.count);
        self.places[page.0 as usize].set(Place::new(Tier::Warm, generation, frames.first));
        Ok(page)
    }

    /// Writes a page's segments anew, with some links changed: offset and link of each record that is concerned.
    /// `false`: there is no room for it.
    pub(crate) fn rewrite(
        self: &Arc<Self>,
        pin: &Pin,
        page: LogicalPage,
        segments: &[Segment<'_>],
        links: &[(u32, u64)],
    ) -> bool {
        let changed: Vec<(u32, Buffer)> = segments
            .iter()
            .map(|segment| {
                let mut bytes = segment.bytes.to_vec();
                let end = segment.at + bytes.len() as u32;
                for (offset, link) in links.iter().filter(|(offset, _)| (segment.at..end).contains(offset)) {
                    let at = (offset - segment.at) as usize + PREVIOUS_AT;
                    bytes[at..at + 8].copy_from_slice(&link.to_le_bytes());
                }
                (segment.at, self.buffer(bytes))
            })
            .collect();
        let place = self.place(page);
        let spot = self.region(place.tier()).spot_of(place.frame());
        if place.tier() == Tier::Hot {
            let Some((_, bytes)) = changed.first() else { return true };
            let frames = self.write_anew(Tier::Hot, bytes, spot);
            return frames.map(|frames| self.move_to(pin, page, Tier::Hot, frames, 0)).is_some();
        }
        let committed = self.meta(page).committed();
        // It must not grow meanwhile, which would leave a copy behind.
        let mut image = Vec::with_capacity(room_for_frames(committed as usize, changed.len()));
        let frames = changed.iter().map(|(at, bytes)| (*at, &bytes[..]));
        encode_frames(committed, frames, &mut image);
        let frames = self.write_anew(Tier::Warm, &image, spot);
        let done = frames.map(|frames| self.move_to(pin, page, Tier::Warm, frames, image.len() as u32));
        if self.is_sensitive(page) {
            wipe_all(&mut image);
        }
        done.is_some()
    }
}

/// Where in a record its link is.
const PREVIOUS_AT: usize = 32;
