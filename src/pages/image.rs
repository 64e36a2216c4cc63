//! The warm form of a page: its records in frames small enough that reading one event unpacks one frame.
//!
//! ```text
//! ┌──────┬─────────┬──────────┬───────────┬──────────────────────────────────────┬───────────────────────────┬────────────┬────────┐
//! │ EWI2 │ frames  │ raw bytes│ all bytes │ bucket, 2^ │ zero │ bytes of the     │ frame table, 8 bytes each │ dictionary │ frames │
//! │      │         │          │           │            │      │ dictionary       │ at, CRC-32                │            │        │
//! │ 4    │ u32     │ u32      │ u32       │ u8         │ u8   │ u16              │                           │            │        │
//! └──────┴─────────┴──────────┴───────────┴──────────────────────────────────────┴───────────────────────────┴────────────┴────────┘
//! ```
//!
//! A frame is a [unit](crate::pages::units): the records that begin in one bucket of the page, a bucket of one size being
//! about as large as one or two records. It ends where the next begins; that of a bucket in which no record begins has no
//! bytes. All share a dictionary, which is made of parts of bodies, and begins with the header of the page's first record. The
//! CRC-32 of a frame is that of its records as they were and of their offset: a damaged dictionary harms those frames only
//! that need what is damaged.
//!
//! Where frames cannot share, or do not gain by it, the older form is written: pages with gaps, with few records, and
//! whatever does not look as records do.
//!
//! ```text
//! ┌──────┬─────────┬──────────┬───────────┬───────────────────────────┬──────────────────────┐
//! │ EWI1 │ frames  │ raw bytes│ all bytes │ frame table, 20 bytes each│ frames               │
//! │ 4    │ u32     │ u32      │ u32       │ raw at, raw len, at, len, │                      │
//! │      │         │          │           │ CRC-32 of the packed bytes│                      │
//! └──────┴─────────┴──────────┴───────────┴───────────────────────────┴──────────────────────┘
//! ```
//!
//! There a frame begins and ends with a record. One that LZ4 cannot make smaller is stored as it is (`len` equals
//! `raw len`).
//!
//! Every length is checked before it is used, because the fuzzers, and restored files, bring bytes that no encoder wrote.

use crate::error::{Error, Result};
use crate::event::record::{HEADER_LEN, RecordHeader};
use crate::pages::pack::BUCKET_MIN;
use crate::pages::units;
use crate::sys::memory::{prefetch_bytes, wipe};

pub(super) const WHOLE: &[u8; 4] = b"EWI1";
pub(super) const SHARED: &[u8; 4] = b"EWI2";
pub(crate) const IMAGE_HEADER: usize = 16;
pub(super) const ENTRY: usize = 20;
/// The same of an image whose frames share a dictionary.
pub(super) const SHARED_HEADER: usize = 20;
pub(super) const SHARED_ENTRY: usize = 8;
/// Uncompressed bytes that a frame of the older form is filled to.
pub(super) const FRAME_BYTES: usize = 8 << 10;
/// The most that a frame may claim to unpack to: an event of 16 MiB with its header.
const FRAME_MAX: usize = (16 << 20) + 4096;
/// The most of a frame that is fetched ahead.
const PREFETCHED: usize = 1 << 10;

/// Where in most images the entry is of the frame that has the record at that offset: if not, nothing is lost but a look there.
#[inline]
pub(crate) fn usual_entry(offset: u32) -> usize {
    SHARED_HEADER + SHARED_ENTRY * (offset as usize / BUCKET_MIN)
}

/// The checksum of a frame that shares a dictionary: of its records, and of where they begin.
pub(super) fn shared_sum(raw_at: u32, raw: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new_with_initial(raw_at);
    sum.update(raw);
    sum.finalize()
}

/// One frame of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Where its first record lies in the page.
    pub(crate) raw_at: u32,
    raw_len: u32,
    at: u32,
    len: u32,
    crc: u32,
}

/// A warm image, its header checked.
#[derive(Clone, Copy)]
pub(crate) struct Image<'a> {
    bytes: &'a [u8],
    frames: usize,
    shared: Option<Shared<'a>>,
}

/// What frames share.
#[derive(Clone, Copy)]
struct Shared<'a> {
    /// The size of a bucket, as a power of two.
    shift: u32,
    first: RecordHeader,
    dictionary: &'a [u8],
}

impl Frame {
    /// Bytes that it says it unpacks to.
    pub(crate) fn raw_len(&self) -> usize {
        self.raw_len as usize
    }
}

impl<'a> Image<'a> {
    /// How long the image is that begins with these bytes.
    pub(crate) fn len_of(header: &[u8]) -> Result<usize> {
        match header.first_chunk::<IMAGE_HEADER>() {
            Some(header) if header.starts_with(WHOLE) || header.starts_with(SHARED) => Ok(number(header, 12)),
            _ => Err(Error::corrupt("a warm page does not begin with its magic number")),
        }
    }

    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let len = Self::len_of(bytes)?;
        let whole = bytes.get(..len).filter(|bytes| bytes.len() >= IMAGE_HEADER);
        let bytes = whole.ok_or_else(|| Error::corrupt("a warm page is cut off"))?;
        let frames = number(bytes, 4);
        if bytes.starts_with(SHARED) {
            return Self::parse_shared(bytes, frames);
        }
        let table = frames.checked_mul(ENTRY).and_then(|table| table.checked_add(IMAGE_HEADER));
        if table.is_none_or(|end| end > len) {
            return Err(Error::corrupt(format!(
                "a warm page claims {frames} frames, more than it has room for"
            )));
        }
        Ok(Self { bytes, frames, shared: None })
    }

    fn parse_shared(bytes: &'a [u8], frames: usize) -> Result<Self> {
        let shared = || {
            let fields: &[u8; 4] = bytes.get(IMAGE_HEADER..)?.first_chunk()?;
            let [shift, _, len @ ..] = *fields;
            let (shift, len) = (u32::from(shift), usize::from(u16::from_le_bytes(len)));
            let from = frames.checked_mul(SHARED_ENTRY)?.checked_add(SHARED_HEADER)?;
            let dictionary = bytes.get(from..from.checked_add(len)?)?;
            let first = RecordHeader::read(dictionary)?;
            let is_right = (3..32).contains(&shift)
                && frames == number(bytes, 8).div_ceil(1 << shift)
                && frames > 0
                && number(bytes, SHARED_HEADER) == from + len;
            is_right.then_some(Shared { shift, first, dictionary })
        };
        let shared = shared().ok_or_else(|| Error::corrupt("the header of a warm page is damaged"))?;
        Ok(Self { bytes, frames, shared: Some(shared) })
    }

    /// How many frames there may be.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// The frame of that number; `None` where there is none, or no record begins in its bucket.
    pub(crate) fn frame(&self, at: usize) -> Option<Frame> {
        if at >= self.frames {
            return None;
        }
        if let Some(shared) = &self.shared {
            return self.shared_frame(shared, at);
        }
        let mut frame = self.whole_frame(at);
        // Its checksum does not tell where its records are. In a page without gaps a frame that is elsewhere overlaps.
        let end = |frame: &Frame| u64::from(frame.raw_at) + u64::from(frame.raw_len);
        let overlaps = |one: &Frame, next: &Frame| end(one) > u64::from(next.raw_at);
        let is_last = at + 1 == self.frames;
        if at.checked_sub(1).is_some_and(|before| overlaps(&self.whole_frame(before), &frame))
            || !is_last && overlaps(&frame, &self.whole_frame(at + 1))
            || is_last && end(&frame) > number(self.bytes, 8) as u64
        {
            // Of one that is damaged it is told when it is unpacked.
            frame.raw_len = 0;
        }
        Some(frame)
    }

    /// A frame of the older form, as the table has it.
    fn whole_frame(&self, at: usize) -> Frame {
        let from = IMAGE_HEADER + at * ENTRY;
        let field = |field: usize| number(self.bytes, from + field * 4) as u32;
        Frame { raw_at: field(0), raw_len: field(1), at: field(2), len: field(3), crc: field(4) }
    }

    /// From where to where the bytes of a frame say that they lie, which shares with others; of one that is there.
    #[inline]
    fn extent(&self, at: usize) -> (usize, usize) {
        let entry = SHARED_HEADER + at * SHARED_ENTRY;
        let is_last = at + 1 >= self.frames;
        let end = if is_last { self.bytes.len() } else { number(self.bytes, entry + SHARED_ENTRY) };
        (number(self.bytes, entry), end)
    }

    fn shared_frame(&self, shared: &Shared<'_>, at: usize) -> Option<Frame> {
        let (from, end) = self.extent(at);
        if from == end {
            return None;
        }
        let crc = number(self.bytes, SHARED_HEADER + at * SHARED_ENTRY + 4) as u32;
        let bucket = (at as u64) << shared.shift;
        let frame = || {
            let (offset, raw_len, begin) = units::extent(self.bytes.get(from..end)?)?;
            let raw_at = u32::try_from(bucket + offset as u64).ok()?;
            let (at, len) = ((from + begin) as u32, (end - from - begin) as u32);
            Some(Frame { raw_at, raw_len: u32::try_from(raw_len).ok()?, at, len, crc })
        };
        // Of one that is damaged it is told when it is unpacked.
        let damaged = Frame { raw_at: bucket as u32, raw_len: 0, at: 0, len: 0, crc };
        Some(frame().unwrap_or(damaged))
    }

    /// The frame that holds the record at that offset of the page.
    pub(crate) fn frame_of(&self, offset: u32) -> Option<Frame> {
        let frame = match &self.shared {
            // A record that begins in a bucket before may reach far.
            Some(shared) => {
                self.prefetch_frame(offset);
                let bucket = (offset >> shared.shift) as usize;
                let mut frames = (0..=bucket.min(self.frames - 1)).rev().filter_map(|at| self.frame(at));
                frames.find(|frame| frame.raw_at <= offset)?
            }
            None => {
                let (mut low, mut high) = (0, self.frames);
                while low < high {
                    let middle = low.midpoint(high);
                    if self.whole_frame(middle).raw_at <= offset { low = middle + 1 } else { high = middle }
                }
                self.frame(low.checked_sub(1)?)?
            }
        };
        (offset - frame.raw_at < frame.raw_len).then_some(frame)
    }

    /// Asks the processor to fetch what says where the frame is that holds the record at that offset.
    pub(crate) fn prefetch_entry(&self, offset: u32) {
        if let Some(shared) = &self.shared {
            let from = SHARED_HEADER + SHARED_ENTRY * (offset >> shared.shift) as usize;
            prefetch_bytes(self.bytes.get(from..from + 2 * SHARED_ENTRY).unwrap_or_default());
        }
    }

    /// Asks it to fetch the frame, if it is a small one.
    pub(crate) fn prefetch_frame(&self, offset: u32) {
        if let Some(shared) = &self.shared {
            let at = ((offset >> shared.shift) as usize).min(self.frames - 1);
            let (from, end) = self.extent(at);
            let frame = self.bytes.get(from..end).unwrap_or_default();
            prefetch_bytes(&frame[..frame.len().min(PREFETCHED)]);
        }
    }

    /// Unpacks all frames into a page of that many bytes.
    pub(crate) fn unpack_all(&self, page: &mut [u8]) -> Result<()> {
        let mut at = 0;
        for frame in (0..self.frames()).filter_map(|number| self.frame(number)) {
            let place = page.get_mut(at..at + frame.raw_len()).filter(|_| frame.raw_at as usize == at);
            let place = place.ok_or_else(|| Error::corrupt("the frames of a warm page do not fit it"))?;
            claims(&frame)?;
            self.unpack_to(frame, place)?;
            at += frame.raw_len();
        }
        if at == page.len() { Ok(()) } else { Err(Error::corrupt("a warm page lacks records")) }
    }

    /// Unpacks the frames from `number` on that follow each other, as many as a walk needs at a time: where their records
    /// begin, and they, in a buffer that has not grown meanwhile. `number` goes on to the next; `None` where there is none.
    pub(crate) fn unpack_run(&self, number: &mut usize) -> Option<Result<(u32, Vec<u8>)>> {
        let first = self.next_frame(number)?;
        *number += 1;
        let mut raw = Vec::new();
        if let Err(error) = claims(&first) {
            return Some(Err(error));
        }
        raw.reserve_exact(first.raw_len().max(if self.shared.is_some() { FRAME_BYTES } else { 0 }));
        if let Err(error) = self.append(first, &mut raw) {
            return Some(Err(error));
        }
        while let Some(frame) = self.shared.and_then(|_| self.next_frame(number)) {
            let follows = frame.raw_at as usize == first.raw_at as usize + raw.len();
            // One that is damaged begins the next run, which is told then.
            if !follows
                || raw.len() + frame.raw_len() > FRAME_BYTES
                || claims(&frame).and_then(|()| self.append(frame, &mut raw)).is_err()
            {
                break;
            }
            *number += 1;
        }
        Some(Ok((first.raw_at, raw)))
    }

    /// The first frame from that number on, which becomes its own.
    fn next_frame(&self, number: &mut usize) -> Option<Frame> {
        while *number < self.frames {
            if let Some(frame) = self.frame(*number) {
                return Some(frame);
            }
            *number += 1;
        }
        None
    }

    /// Unpacks one frame, and checks its bytes.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn unpack(&self, frame: Frame) -> Result<Vec<u8>> {
        self.unpack_into(frame, Vec::new())
    }

    /// Unpacks one frame into a vector that is empty, and checks its bytes.
    pub(crate) fn unpack_into(&self, frame: Frame, mut raw: Vec<u8>) -> Result<Vec<u8>> {
        claims(&frame)?;
        self.append(frame, &mut raw)?;
        Ok(raw)
    }

    /// The same, behind what is there, of a frame whose claims were checked.
    fn append(&self, frame: Frame, raw: &mut Vec<u8>) -> Result<()> {
        let begin = raw.len();
        raw.resize(begin + frame.raw_len(), 0);
        let done = self.unpack_to(frame, &mut raw[begin..]);
        if done.is_err() {
            raw.truncate(begin);
        }
        done
    }

    /// The same, to where as many bytes are to be as the frame says: zeros if it fails.
    fn unpack_to(&self, frame: Frame, raw: &mut [u8]) -> Result<()> {
        // Of frames that share a dictionary the checksum is looked at last: a sensitive event may be there by then.
        self.unpack_parts(frame, raw).inspect_err(|_| wipe(raw))
    }

    fn unpack_parts(&self, frame: Frame, raw: &mut [u8]) -> Result<()> {
        let packed = self.packed(frame)?;
        if let Some(shared) = &self.shared {
            units::unpack(packed, shared.first, shared.dictionary, raw)?;
            return if shared_sum(frame.raw_at, raw) == frame.crc { Ok(()) } else { Err(wrong_sum()) };
        }
        if crc32fast::hash(packed) != frame.crc {
            return Err(wrong_sum());
        }
        if packed.len() == raw.len() {
            raw.copy_from_slice(packed);
            return Ok(());
        }
        match lz4_flex::block::decompress_into(packed, raw) {
            Ok(written) if written == raw.len() => Ok(()),
            Ok(written) => {
                Err(Error::corrupt(format!("a warm frame holds {written} bytes, not {}", raw.len())))
            }
            Err(error) => Err(Error::corrupt(format!("a warm frame does not unpack: {error}"))),
        }
    }

    /// The bytes of a frame.
    fn packed(&self, frame: Frame) -> Result<&'a [u8]> {
        (frame.at as usize)
            .checked_add(frame.len as usize)
            .and_then(|end| self.bytes.get(frame.at as usize..end))
            .ok_or_else(|| Error::corrupt("a warm frame lies outside of its page"))
    }
}

/// Whether a frame may hold as much as it says.
fn claims(frame: &Frame) -> Result<()> {
    let (raw_len, len) = (frame.raw_len(), frame.len as usize);
    // LZ4 makes at most 255 bytes of one; a larger claim is a lie, told before anything is allocated for it.
    if raw_len > FRAME_MAX || raw_len / 255 > len || raw_len < HEADER_LEN {
        return Err(Error::corrupt(format!("a warm frame of {len} bytes claims to hold {raw_len}")));
    }
    Ok(())
}

#[cold]
fn wrong_sum() -> Error {
    Error::corrupt("a warm frame fails its checksum")
}

/// Writes the right checksums into an image that nobody encoded.
#[cfg(fuzzing)]
pub(crate) fn mend(bytes: &mut [u8]) {
    let Ok(image) = Image::parse(bytes) else { return };
    let sum = |at: usize| {
        let frame = image.frame(at)?;
        let packed = image.packed(frame).ok()?;
        let Some(shared) = &image.shared else {
            return Some((IMAGE_HEADER + at * ENTRY + 16, crc32fast::hash(packed)));
        };
        let mut raw = vec![0; frame.raw_len().min(FRAME_MAX)];
        units::unpack(packed, shared.first, shared.dictionary, &mut raw).ok()?;
        Some((SHARED_HEADER + at * SHARED_ENTRY + 4, shared_sum(frame.raw_at, &raw)))
    };
    let sums: Vec<_> = (0..image.frames()).filter_map(sum).collect();
    for (place, crc) in sums {
        bytes[place..place + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word) as usize
}

#[cfg(test)]
mod tests;
