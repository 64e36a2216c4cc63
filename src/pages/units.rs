//! The units of a warm image: a few records each, their headers as what differs from the one before, their bodies as one
//! LZ4 block that shares a dictionary with all others of the page.
//!
//! ```text
//! ┌──────────────────────┬────────────────┬───────────────────┬────────┐
//! │ first record's offset│ records, bytes │ a head for each   │ bodies │
//! │ / 8, in its bucket   │ / 8            │ record            │        │
//! │ varint               │ varint         │ see below         │        │
//! └──────────────────────┴────────────────┴───────────────────┴────────┘
//! head: lengths u8, lengths and marks u8 │ id, timestamp: zigzag of the difference │ stream, previous: exclusive or
//!       [body length varint] [flags u16, class byte u8] [kind u8]
//! ```
//!
//! Lengths are three bits each, from the lowest: id, timestamp, stream, previous; 0 to 6 are bytes, 7 is eight of them. Marks,
//! the upper four bits: the body is as long as the one before, flags and class are the same, the kind is, *previous* is
//! zero. Bodies that LZ4 cannot make smaller are stored as they are.

use smallvec::SmallVec;

use crate::error::{Error, Result};
use crate::event::record::{HEADER_LEN, RecordHeader};
use crate::event::{put_varint, unzigzag, varint, zigzag};
use crate::pages::squeeze::{Squeezer, room_for};

const SAME_LEN: u16 = 1 << 12;
const SAME_FLAGS: u16 = 1 << 13;
const SAME_KIND: u16 = 1 << 14;
const NO_PREVIOUS: u16 = 1 << 15;

/// The most that a head takes, and what is written behind it meanwhile.
const HEAD_ROOM: usize = 64;
/// The same of what is before the heads.
const EXTENT_ROOM: usize = 32;

/// Where units are written one behind the other: bytes, and how many of them count. The rest may be anything, so that it need
/// not be made zero first.
pub(super) struct Out<'o> {
    bytes: &'o mut Vec<u8>,
    pub(super) len: usize,
}

impl<'o> Out<'o> {
    /// With so much room; what is there is written over.
    pub(super) fn new(bytes: &'o mut Vec<u8>, room: usize) -> Self {
        let mut out = Self { bytes, len: 0 };
        out.room(room);
        out
    }

    /// What is behind the bytes that count, at least so many.
    #[inline]
    fn room(&mut self, room: usize) -> &mut [u8] {
        if self.bytes.len() - self.len < room {
            self.bytes.resize(self.len + room, 0);
        }
        &mut self.bytes[self.len..]
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Writes over bytes that count.
    pub(super) fn patch(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets go of what does not count.
    pub(super) fn finish(self) {
        self.bytes.truncate(self.len);
    }
}

/// Writes units behind each other.
pub(super) struct UnitWriter<'r> {
    raw: &'r [u8],
    base: RecordHeader,
    squeezer: Squeezer,
}

impl<'r> UnitWriter<'r> {
    /// `largest`: the most bytes of records that a unit will have.
    pub(super) fn new(raw: &'r [u8], base: RecordHeader, dictionary: &[u8], largest: usize) -> Self {
        Self { raw, base, squeezer: Squeezer::new(dictionary, largest) }
    }

    /// Writes the records that lie from `from` to `end`, in a bucket that begins at `bucket`.
    pub(super) fn put(&mut self, bucket: usize, from: usize, end: usize, out: &mut Out<'_>) {
        let room = out.room(EXTENT_ROOM);
        let len = put_varint(room, 0, ((from - bucket) / 8) as u64);
        out.len += put_varint(room, len, ((end - from) / 8) as u64);
        let (mut at, mut before) = (from, self.base);
        while let Some(header) = (at < end).then(|| RecordHeader::read(&self.raw[at..])).flatten() {
            out.len += put_head(out.room(HEAD_ROOM), &header, &before);
            let body = at + HEADER_LEN;
            self.squeezer.add(&self.raw[body..body + header.body_len as usize]);
            at += header.record_len() as usize;
            before = header;
        }
        let bodies = self.squeezer.input().len();
        let packed = self.squeezer.squeeze(out.room(room_for(bodies)));
        if packed < bodies {
            out.len += packed;
        } else {
            out.push(self.squeezer.input());
        }
        self.squeezer.forget();
    }

    /// Overwrites bodies that were copied.
    pub(super) fn wipe(mut self) {
        self.squeezer.wipe();
    }
}

/// Where a unit's records begin in their bucket, and how long they are; and how many bytes say so.
pub(super) fn extent(unit: &[u8]) -> Option<(usize, usize, usize)> {
    let mut rest = unit;
    let mut eights =
        || varint(&mut rest).and_then(|value| u32::try_from(value).ok()).map(|value| value as usize * 8);
    let (from, len) = (eights()?, eights()?);
    Some((from, len, unit.len() - rest.len()))
}

/// Unpacks the heads and bodies of a unit into as many zeros as its records take.
pub(super) fn unpack(unit: &[u8], base: RecordHeader, dictionary: &[u8], raw: &mut [u8]) -> Result<()> {
    let (mut rest, mut before) = (unit, base);
    let (mut heads, mut len, mut bodies) = (SmallVec::<[RecordHeader; 8]>::new(), 0, 0);
    while len < raw.len() {
        let head = take_head(&mut rest, &before).and_then(|head| Some((head, head.record_len_checked()?)));
        let (head, record) = head.ok_or_else(|| Error::corrupt("a warm frame has a head that is none"))?;
        len += record;
        bodies += head.body_len as usize;
        before = head;
        heads.push(head);
    }
    if len != raw.len() || heads.is_empty() {
        return Err(Error::corrupt("the records of a warm frame do not fit it"));
    }
    // The last body is unpacked to where it belongs, and the others before it, from where they move to the front.
    let end = len - (before.record_len() - HEADER_LEN as u32 - before.body_len) as usize;
    let mut from = end - bodies;
    let place = &mut raw[from..end];
    if rest.len() == bodies {
        place.copy_from_slice(rest);
    } else {
        match lz4_flex::block::decompress_into_with_dict(rest, place, dictionary) {
            Ok(written) if written == bodies => {}
            Ok(written) => {
                return Err(Error::corrupt(format!("a warm frame holds {written} bytes, not {bodies}")));
            }
            Err(error) => return Err(Error::corrupt(format!("a warm frame does not unpack: {error}"))),
        }
    }
    let mut at = 0;
    for head in heads {
        let (body, len) = (at + HEADER_LEN, head.body_len as usize);
        head.write(&mut raw[at..]);
        if body != from {
            raw.copy_within(from..from + len, body);
        }
        at += head.record_len() as usize;
        raw[body + len..at].fill(0);
        from += len;
    }
    Ok(())
}

/// Writes a head to the front of `out`, which has [`HEAD_ROOM`]. How many bytes it takes.
fn put_head(out: &mut [u8], head: &RecordHeader, before: &RecordHeader) -> usize {
    let id = zigzag(head.id.wrapping_sub(before.id));
    let timestamp = zigzag(head.timestamp.wrapping_sub(before.timestamp) as u64);
    let stream = head.stream ^ before.stream;
    let previous = if head.previous == 0 { 0 } else { head.previous ^ before.previous };
    let same_flags = head.flags == before.flags && head.class_byte() == before.class_byte();
    let same = [
        (SAME_LEN, head.body_len == before.body_len),
        (SAME_FLAGS, same_flags),
        (SAME_KIND, head.kind == before.kind),
        (NO_PREVIOUS, head.previous == 0),
    ];
    let mut marks = same.iter().fold(0, |marks, (mark, is_so)| marks | if *is_so { *mark } else { 0 });
    let out = &mut out[..HEAD_ROOM];
    let mut len = 2;
    for (number, value) in [id, timestamp, stream, previous].into_iter().enumerate() {
        let code = length_code(value);
        marks |= code << (3 * number);
        out[len..len + 8].copy_from_slice(&value.to_le_bytes());
        len += length(code);
    }
    out[..2].copy_from_slice(&marks.to_le_bytes());
    if marks & SAME_LEN == 0 {
        len = put_varint(out, len, u64::from(head.body_len));
    }
    if !same_flags {
        out[len..len + 2].copy_from_slice(&head.flags.to_le_bytes());
        out[len + 2] = head.class_byte();
        len += 3;
    }
    if marks & SAME_KIND == 0 {
        out[len] = head.kind;
        len += 1;
    }
    len
}

fn take_head(rest: &mut &[u8], before: &RecordHeader) -> Option<RecordHeader> {
    let marks = take(rest, 2)? as u16;
    let mut value = |number: u32| take(rest, length(marks >> (3 * number) & 7));
    let (id, timestamp) = (unzigzag(value(0)?), unzigzag(value(1)?));
    let (stream, previous) = (value(2)?, value(3)?);
    let mut head = *before;
    head.id = before.id.wrapping_add(id);
    head.timestamp = before.timestamp.wrapping_add(timestamp as i64);
    head.stream ^= stream;
    head.previous = if marks & NO_PREVIOUS != 0 { 0 } else { before.previous ^ previous };
    if marks & SAME_LEN == 0 {
        head.body_len = u32::try_from(varint(rest)?).ok()?;
    }
    if marks & SAME_FLAGS == 0 {
        head.flags = take(rest, 2)? as u16;
        head = head.with_class_byte(take(rest, 1)? as u8);
    }
    if marks & SAME_KIND == 0 {
        head.kind = take(rest, 1)? as u8;
    }
    Some(head)
}

/// The length of a number in a head, in three bits.
#[inline]
fn length_code(value: u64) -> u16 {
    (8 - (value.leading_zeros() / 8) as u16).min(7)
}

#[inline]
fn length(code: u16) -> usize {
    if code == 7 { 8 } else { usize::from(code) }
}

/// The first bytes of a slice as a number, at most eight.
#[inline]
fn take(rest: &mut &[u8], len: usize) -> Option<u64> {
    let value = match rest.first_chunk() {
        Some(word) if len < 8 => u64::from_le_bytes(*word) & ((1 << (8 * len)) - 1),
        Some(word) => u64::from_le_bytes(*word),
        None => rest.get(..len)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
    };
    *rest = rest.get(len..)?;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Class;

    #[test]
    fn heads_come_back() {
        let plain = RecordHeader::new(1_700_000_000_000, 77, 100, 0, 3, Class::DEFAULT, false, 5);
        let other =
            RecordHeader::new(i64::MIN, u64::MAX, 1 << 30, 0xabcd, 0xff, Class::new(15), true, u64::MAX);
        let mut later = plain;
        (later.timestamp, later.id, later.previous) = (plain.timestamp + 3, 78, 1 << 20);
        let mut more = later;
        (more.previous, more.stream) = ((1 << 20) + 37, 1 << 55);
        let heads = [plain, later, more, other, plain, other.expiring(true).summed(true), other, plain];
        for before in heads {
            for head in heads {
                let mut out = vec![9; HEAD_ROOM];
                let len = put_head(&mut out, &head, &before);
                assert!(len <= HEADER_LEN + 3);
                out.truncate(len);
                for cut in 0..out.len() {
                    assert_eq!(take_head(&mut &out[..cut], &before), None);
                }
                for behind in [0, 20] {
                    out.resize(out.len() + behind, 9);
                    let mut rest = &out[..];
                    assert_eq!(take_head(&mut rest, &before), Some(head));
                    assert_eq!(rest.len(), behind);
                }
            }
        }
        let len = put_head(&mut [0; HEAD_ROOM], &later, &plain);
        assert!(len <= 8, "a usual head takes {len} bytes");
    }
}
