//! The warm form of a page: its records in LZ4 frames small enough that reading one event unpacks one frame.
//!
//! ```text
//! ┌──────┬─────────┬──────────┬───────────┬───────────────────────────┬──────────────────────┐
//! │ EWI1 │ frames  │ raw bytes│ all bytes │ frame table, 20 bytes each│ frames               │
//! │ 4    │ u32     │ u32      │ u32       │ raw at, raw len, at, len, │                      │
//! │      │         │          │           │ CRC-32 of the packed bytes│                      │
//! └──────┴─────────┴──────────┴───────────┴───────────────────────────┴──────────────────────┘
//! ```
//!
//! A frame begins and ends with a record. A frame that LZ4 cannot make smaller is stored as it is (`len` equals
//! `raw len`). Every length is checked before it is used, because the fuzzers, and one day a restored file,
//! bring bytes that no encoder wrote.

use lz4_flex::block::{CompressTable, compress_into_with_table};

use crate::error::{Error, Result};
use crate::event::record::{HEADER_LEN, RecordHeader};

const MAGIC: &[u8; 4] = b"EWI1";
pub(crate) const IMAGE_HEADER: usize = 16;
const ENTRY: usize = 20;
/// Uncompressed bytes that a frame is filled to: a point read unpacks one. 16 KiB take 1.8 times as long to read, and
/// 2 % less room for 256 B events that are half text, 5 % less for the 100 B events of the flights example; 4 KiB take
/// 0.6 of the time, and 2 and 12 % more room.
pub(crate) const FRAME_BYTES: usize = 8 << 10;
/// The most that a frame may claim to unpack to: an event of 16 MiB with its header.
const FRAME_MAX: usize = (16 << 20) + 4096;

/// Bytes that packing so many takes at most while it is done.
pub(crate) fn room_for(raw: usize) -> usize {
    // A frame is at least half full, or holds one record.
    let frames = 2 * (raw / FRAME_BYTES) + 2;
    IMAGE_HEADER + frames * (ENTRY + 64) + lz4_flex::block::get_maximum_output_size(raw)
}

/// Packs the records of a page into `out`, which is cleared first.
pub(crate) fn encode(raw: &[u8], out: &mut Vec<u8>) {
    let cuts = cuts(raw);
    let frames = cuts.iter().map(|(from, to)| (*from as u32, &raw[*from..*to]));
    encode_frames(raw.len() as u32, frames, out);
}

/// Packs frames that lie at those places of a page of `raw_len` bytes: there may be none where its records were lost.
pub(crate) fn encode_frames<'r>(
    raw_len: u32,
    frames: impl ExactSizeIterator<Item = (u32, &'r [u8])>,
    out: &mut Vec<u8>,
) {
    out.clear();
    let count = frames.len();
    let table = IMAGE_HEADER + ENTRY * count;
    let mut seen = CompressTable::default();
    out.resize(table, 0);
    for (number, (from, input)) in frames.enumerate() {
        let at = out.len();
        out.resize(at + lz4_flex::block::get_maximum_output_size(input.len()), 0);
        // The output has the size that LZ4 asks for, so packing cannot fail; were it to, the frame is stored.
        let packed = compress_into_with_table(input, &mut out[at..], &mut seen).unwrap_or(usize::MAX);
        if packed < input.len() {
            out.truncate(at + packed);
        } else {
            out.truncate(at);
            out.extend_from_slice(input);
        }
        let crc = crc32fast::hash(&out[at..]);
        let fields = [from, input.len() as u32, at as u32, (out.len() - at) as u32, crc];
        for (field, value) in fields.iter().enumerate() {
            let place = IMAGE_HEADER + number * ENTRY + field * 4;
            out[place..place + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
    let all = out.len() as u32;
    out[..4].copy_from_slice(MAGIC);
    out[4..8].copy_from_slice(&(count as u32).to_le_bytes());
    out[8..12].copy_from_slice(&raw_len.to_le_bytes());
    out[12..16].copy_from_slice(&all.to_le_bytes());
}

/// Where frames begin and end: at records, near multiples of [`FRAME_BYTES`].
fn cuts(raw: &[u8]) -> Vec<(usize, usize)> {
    let mut cuts = Vec::with_capacity(raw.len() / FRAME_BYTES + 1);
    let (mut from, mut at) = (0, 0);
    while let Some(header) = RecordHeader::read(&raw[at..]) {
        let end = (at + header.record_len() as usize).min(raw.len());
        // A record that would overfill the frame begins the next one.
        if end - from > FRAME_BYTES && at > from {
            cuts.push((from, at));
            from = at;
        }
        at = end;
    }
    if at > from {
        cuts.push((from, at));
    }
    cuts
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
            Some(header) if header.starts_with(MAGIC) => Ok(number(header, 12)),
            _ => Err(Error::corrupt("a warm page does not begin with its magic number")),
        }
    }

    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let len = Self::len_of(bytes)?;
        let whole = bytes.get(..len).filter(|bytes| bytes.len() >= IMAGE_HEADER);
        let bytes = whole.ok_or_else(|| Error::corrupt("a warm page is cut off"))?;
        let frames = number(bytes, 4);
        let table = frames.checked_mul(ENTRY).and_then(|table| table.checked_add(IMAGE_HEADER));
        if table.is_none_or(|end| end > len) {
            return Err(Error::corrupt(format!(
                "a warm page claims {frames} frames, more than it has room for"
            )));
        }
        Ok(Self { bytes, frames })
    }

    /// Bytes of the whole image.
    pub(crate) fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    pub(crate) fn frame(&self, at: usize) -> Option<Frame> {
        if at >= self.frames {
            return None;
        }
        let from = IMAGE_HEADER + at * ENTRY;
        let field = |field: usize| number(self.bytes, from + field * 4) as u32;
        Some(Frame { raw_at: field(0), raw_len: field(1), at: field(2), len: field(3), crc: field(4) })
    }

    /// The frame that holds the record at that offset of the page.
    pub(crate) fn frame_of(&self, offset: u32) -> Option<Frame> {
        let (mut low, mut high) = (0, self.frames);
        while low < high {
            let middle = low.midpoint(high);
            if self.frame(middle)?.raw_at <= offset { low = middle + 1 } else { high = middle }
        }
        let frame = self.frame(low.checked_sub(1)?)?;
        (offset - frame.raw_at < frame.raw_len).then_some(frame)
    }

    /// Unpacks all frames into a page of that many bytes.
    pub(crate) fn unpack_all(&self, page: &mut [u8]) -> Result<()> {
        let mut at = 0;
        for frame in (0..self.frames()).filter_map(|number| self.frame(number)) {
            let bytes = self.unpack(frame)?;
            let place = page.get_mut(at..at + bytes.len()).filter(|_| frame.raw_at as usize == at);
            let place = place.ok_or_else(|| Error::corrupt("the frames of a warm page do not fit it"))?;
            place.copy_from_slice(&bytes);
            at += bytes.len();
        }
        if at == page.len() { Ok(()) } else { Err(Error::corrupt("a warm page lacks records")) }
    }

    /// Unpacks one frame after checking its bytes.
    pub(crate) fn unpack(&self, frame: Frame) -> Result<Vec<u8>> {
        self.unpack_into(frame, Vec::new())
    }

    /// The same, into a vector that is empty.
    pub(crate) fn unpack_into(&self, frame: Frame, mut raw: Vec<u8>) -> Result<Vec<u8>> {
        let (raw_len, len) = (frame.raw_len as usize, frame.len as usize);
        let packed = (frame.at as usize)
            .checked_add(len)
            .and_then(|end| self.bytes.get(frame.at as usize..end))
            .ok_or_else(|| Error::corrupt("a warm frame lies outside of its page"))?;
        // LZ4 makes at most 255 bytes of one; a larger claim is a lie, told before anything is allocated for it.
        if raw_len > FRAME_MAX || raw_len / 255 > len || raw_len < HEADER_LEN {
            return Err(Error::corrupt(format!("a warm frame of {len} bytes claims to hold {raw_len}")));
        }
        if crc32fast::hash(packed) != frame.crc {
            return Err(Error::corrupt("a warm frame fails its checksum"));
        }
        if len == raw_len {
            raw.extend_from_slice(packed);
            return Ok(raw);
        }
        raw.resize(raw_len, 0);
        match lz4_flex::block::decompress_into(packed, &mut raw) {
            Ok(written) if written == raw_len => Ok(raw),
            Ok(written) => Err(Error::corrupt(format!("a warm frame holds {written} bytes, not {raw_len}"))),
            Err(error) => Err(Error::corrupt(format!("a warm frame does not unpack: {error}"))),
        }
    }
}

/// Writes the right checksums into an image that nobody encoded.
#[cfg(fuzzing)]
pub(crate) fn mend(bytes: &mut [u8]) {
    let Ok(image) = Image::parse(bytes) else { return };
    let frames: Vec<Frame> = (0..image.frames()).filter_map(|at| image.frame(at)).collect();
    for (at, frame) in frames.into_iter().enumerate() {
        let (from, to) = (frame.at as usize, frame.at as usize + frame.len as usize);
        if let Some(crc) = bytes.get(from..to).map(crc32fast::hash) {
            let place = IMAGE_HEADER + at * ENTRY + 16;
            bytes[place..place + 4].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::record::records;
    use crate::ids::Class;

    fn page(records: usize, body: impl Fn(usize) -> usize) -> Vec<u8> {
        let mut page = Vec::new();
        for id in 0..records {
            let len = body(id);
            let header = RecordHeader::new(id as i64, id as u64, len as u32, 0, 0, Class::DEFAULT, false, 1);
            let at = page.len();
            page.resize(at + header.record_len() as usize, 0);
            header.write(&mut page[at..]);
            page[at + HEADER_LEN..at + HEADER_LEN + len].fill(id as u8);
        }
        page
    }

    #[test]
    fn every_record_is_found_in_its_frame() {
        for raw in [page(500, |id| id % 300), page(1, |_| 100_000), page(40, |id| id * 2000), Vec::new()] {
            let mut out = Vec::new();
            encode(&raw, &mut out);
            let image = Image::parse(&out).unwrap();
            assert!(out.len() <= room_for(raw.len()));
            for (offset, header, body) in records(&raw) {
                let frame = image.frame_of(offset).unwrap();
                let unpacked = image.unpack(frame).unwrap();
                let at = (offset - frame.raw_at) as usize;
                assert_eq!(RecordHeader::read(&unpacked[at..]), Some(header));
                assert_eq!(&unpacked[at + HEADER_LEN..at + HEADER_LEN + body.len()], body);
            }
            assert!(image.frame_of(raw.len() as u32).is_none());
        }
    }

    /// Found by fuzzing: the fields of the header were read beyond an end that lay within it.
    #[test]
    fn an_image_that_claims_to_be_shorter_than_its_header_is_an_error() {
        let mut bytes = Vec::new();
        encode(&page(3, |_| 10), &mut bytes);
        for len in 0..IMAGE_HEADER as u32 {
            bytes[12..16].copy_from_slice(&len.to_le_bytes());
            assert!(Image::parse(&bytes).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_or_harmless() {
        let raw = page(60, |id| id * 7);
        let mut out = Vec::new();
        encode(&raw, &mut out);
        for bit in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let Ok(image) = Image::parse(&bad) else { continue };
            for number in 0..image.frames() {
                let frame = image.frame(number).unwrap();
                if let Ok(unpacked) = image.unpack(frame) {
                    let original = Image::parse(&out).unwrap();
                    let same = (0..original.frames())
                        .filter_map(|at| original.frame(at))
                        .any(|frame| original.unpack(frame).is_ok_and(|bytes| bytes == unpacked));
                    assert!(same, "bit {bit} changed what was read");
                }
            }
        }
    }
}
