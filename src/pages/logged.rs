//! What a log on a disk needs of pages: their records, and a way to put them back.

use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use crate::error::{Error, ErrorKind, Result};
use crate::event::record::RecordHeader;
use crate::ids::{Addr, LaneId, LogicalPage};
use crate::pages::pack;
use crate::pages::pool::{Pages, Pin};
use crate::pages::restore::FoundPage;
use crate::pages::table::{Place, Restored, Tier, Zone};
use crate::sys::memory::wipe_all;

/// Parts of a page: one, unless something of it is missing.
pub(crate) type Parts = SmallVec<[std::ops::Range<u32>; 1]>;

/// A page as a log has it: what it was, and its records.
pub(crate) struct LoggedPage<'l> {
    pub(crate) page: LogicalPage,
    pub(crate) generation: u32,
    pub(crate) lane: LaneId,
    pub(crate) seq: u64,
    /// When its last record came.
    pub(crate) arrival: i64,
    /// Its bytes, from its beginning on; what is missing is anything.
    pub(crate) bytes: &'l [u8],
    /// Which of them are there: ranges that begin with a record each, rising.
    pub(crate) parts: &'l [std::ops::Range<usize>],
}

/// Whole records of a page, and what they are together.
struct Whole {
    ranges: Vec<std::ops::Range<usize>>,
    zone: Zone,
    count: u32,
    expiring: u32,
}

impl Whole {
    fn of(logged: &LoggedPage<'_>) -> Self {
        let mut whole = Self { ranges: Vec::new(), zone: Zone::NOTHING, count: 0, expiring: 0 };
        for part in logged.parts {
            let mut at = part.start;
            while let Some(header) = logged.bytes.get(at..part.end).and_then(RecordHeader::read) {
                let Some(len) = header.record_len_checked().filter(|len| *len <= part.end - at) else {
                    break;
                };
                if at as u64 >= u64::from(Addr::OFFSET_END) {
                    break;
                }
                whole.zone.add(header.timestamp, header.kind);
                whole.count += 1;
                whole.expiring += u32::from(header.expires());
                at += len;
            }
            if at > part.start {
                whole.ranges.push(part.start..at);
            }
        }
        whole
    }

    fn end(&self) -> usize {
        self.ranges.last().map_or(0, |range| range.end)
    }

    /// Whether nothing is missing before the end.
    fn is_gapless(&self) -> bool {
        matches!(&self.ranges[..], [range] if range.start == 0)
    }
}

impl Pages {
    /// Appends the committed records of a page to `out`, from one offset to another. The place was read under the pin.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) when some of them cannot be read; nothing is added then.
    pub(crate) fn copy_records(
        &self,
        pin: &Pin,
        place: Place,
        range: std::ops::Range<u32>,
        whole: u32,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let range = range.start as usize..range.end as usize;
        if let Some(bytes) = self.committed_bytes(pin, place, range.end as u32) {
            out.extend_from_slice(&bytes[range]);
            return Ok(());
        }
        let (parts, _) = self.unpack_parts(place, whole, scratch)?;
        let is_there =
            parts.iter().any(|part| part.start as usize <= range.start && range.end <= part.end as usize);
        if is_there {
            out.extend_from_slice(&scratch[range]);
        }
        if self.has_sensitive() {
            wipe_all(scratch);
        }
        if is_there { Ok(()) } else { Err(Error::corrupt("a warm page lacks records")) }
    }

    /// Which parts of a page's committed bytes can be read: all of them but where something was damaged once. Each begins
    /// with a record. And whether some cannot be read that should be there.
    pub(crate) fn parts(
        &self,
        pin: &Pin,
        place: Place,
        committed: u32,
        scratch: &mut Vec<u8>,
    ) -> (Parts, bool) {
        if self.committed_bytes(pin, place, committed).is_some() {
            return (std::iter::once(0..committed).collect(), false);
        }
        let found = self.unpack_parts(place, committed, scratch).unwrap_or_else(|_| (Parts::new(), true));
        if self.has_sensitive() {
            wipe_all(scratch);
        }
        found
    }

    /// Unpacks a warm page to where its records lie, as far as they can be read.
    fn unpack_parts(&self, place: Place, whole: u32, scratch: &mut Vec<u8>) -> Result<(Parts, bool)> {
        scratch.clear();
        scratch.resize(whole as usize, 0);
        let image = self.image(place)?;
        let (mut parts, mut end, mut damaged) = (Parts::new(), 0, false);
        let mut number = 0;
        while let Some(run) = self.unpack_run(&image, &mut number, end, whole) {
            let Some((begin, bytes)) = run else {
                damaged = true;
                continue;
            };
            let at = begin as usize;
            scratch[at..at + bytes.len()].copy_from_slice(&bytes);
            end = begin + bytes.len() as u32;
            match parts.last_mut() {
                Some(last) if last.end == begin => last.end = end,
                _ => parts.push(begin..end),
            }
        }
        Ok((parts, damaged))
    }

    /// Whether a buffer through which pages went is to be wiped.
    pub(crate) fn has_sensitive(&self) -> bool {
        self.sensitive != 0
    }

    /// Puts a page back to the number that it had, into that tier: to be called before anybody uses the store, when
    /// nothing of it is there. A page with gaps goes to the warm tier. Nothing if it has no whole record.
    ///
    /// # Errors
    /// [`MemoryPressure`](ErrorKind::MemoryPressure) when the tier has no room; [`Corrupt`](ErrorKind::Corrupt) when the
    /// number is in use, [`Incompatible`](ErrorKind::Incompatible) when there is no such number.
    pub(crate) fn put_back(
        &self,
        logged: &LoggedPage<'_>,
        tier: Tier,
        now_ms: i64,
        scratch: &mut Vec<u8>,
    ) -> Result<Option<FoundPage>> {
        let LoggedPage { page, generation, lane, seq, .. } = *logged;
        let whole = Whole::of(logged);
        if whole.count == 0 {
            return Ok(None);
        }
        if page.0 as usize >= self.places.len() {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "the log has a page {}, and these regions have room for {}; open the store with regions as large as it \
                     had",
                    page.0,
                    self.places.len()
                ),
            ));
        }
        self.numbers.raise_limit(page.0 + 1);
        if !self.numbers.take(page.0, 1) {
            return Err(Error::corrupt(format!("the log has two pages with the number {}", page.0)));
        }
        let tier = if whole.is_gapless() { tier } else { Tier::Warm };
        let end = whole.end();
        let frames = if tier == Tier::Hot {
            self.write_anew(tier, &logged.bytes[..end], None)
        } else {
            if self.has_sensitive() {
                // Neither what it has nor what it will have may be left behind where it grows.
                wipe_all(scratch);
                scratch.reserve(pack::room_for(end).max(pack::room_for_frames(end, whole.ranges.len())));
            }
            match whole.is_gapless() {
                true => pack::encode(&logged.bytes[..end], scratch),
                false => {
                    let frames = whole.ranges.iter().map(|at| (at.start as u32, &logged.bytes[at.clone()]));
                    pack::encode_frames(end as u32, frames, scratch);
                }
            }
            self.write_anew(tier, scratch, None)
        };
        let image_len = if tier == Tier::Hot { 0 } else { scratch.len() as u32 };
        let Some(frames) = frames else {
            self.numbers.release(page.0, 1);
            return Err(Error::new(ErrorKind::MemoryPressure, "no room for a page of the log"));
        };
        let meta = self.meta(page);
        meta.begin(frames.count, lane, seq, generation, LogicalPage::NONE, i64::MIN);
        meta.set_size(frames.count, image_len);
        meta.cover(&whole.zone, logged.arrival);
        let Whole { zone, count, expiring, .. } = whole;
        meta.restore(&Restored {
            committed: end as u32,
            count,
            dead: 0,
            dead_bytes: 0,
            expiring,
            zone,
            so_far: zone.max_time(),
            now_ms,
        });
        self.stamps[page.0 as usize].clear();
        self.hold(lane.class(), tier, frames.count);
        self.places[page.0 as usize].set(Place::new(tier, generation, frames.first));
        Ok(Some(FoundPage { page, lane, seq }))
    }

    /// The highest generation of any page number.
    pub(crate) fn generation_max(&self) -> u32 {
        self.places.iter().map(|place| place.place().generation()).max().unwrap_or(0)
    }

    /// No page that came since the store was opened has a higher one than this and than [`Self::generation_max`] was then.
    pub(crate) fn generation_reached(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Gives all free page numbers a generation, so that links to pages that had them are known to lead nowhere.
    pub(crate) fn begin_generation(&self, generation: u32) {
        for place in self.places.iter().skip(1).filter(|place| place.place().tier() == Tier::Free) {
            place.set(Place::new(Tier::Free, generation, 0));
        }
    }
}
