//! The bytes of a record.
//!
//! ```text
//!  0            8            16      20    22   23   24           32           40
//! ┌────────────┬────────────┬───────┬─────┬────┬────┬────────────┬────────────┬──────────────────┐
//! │ timestamp  │ id         │ body  │flags│kind│class stream     │ previous   │ body … padding   │
//! │ i64, ms    │ u64        │ u32   │ u16 │ u8 │ u8 │ u64        │ u64 (Addr) │ to 8 bytes       │
//! └────────────┴────────────┴───────┴─────┴────┴────┴────────────┴────────────┴──────────────────┘
//! ```
//!
//! All little-endian, records start at multiples of 8. The low half of the class byte is the class; bit 4 says
//! that there is metadata, bit 5 that the first 8 bytes of the body are the moment at which the event expires (i64,
//! ms), bit 6 that the body is gone (the event was removed or has expired), bit 7 that the last 4 bytes of the body are the
//! CRC-32 of everything before them but `previous`, which changes where a page is mended. `previous` is the address of the event
//! of the same stream and class six before this one, or zero.

use crate::ids::Class;

/// Bytes before the body.
pub(crate) const HEADER_LEN: usize = 40;
const CLASS_MASK: u8 = 0x0f;
const HAS_METADATA: u8 = 0x10;
const EXPIRES: u8 = 0x20;
const GONE: u8 = 0x40;
const SUMMED: u8 = 0x80;
/// Bytes that a body begins with when its event expires by itself.
pub(crate) const EXPIRY_LEN: usize = 8;
/// Bytes that a body ends with where it is summed up.
pub(crate) const SUM_LEN: usize = 4;
/// Where the class is, and where `previous` begins.
const CLASS_AT: usize = 23;
const PREVIOUS_AT: usize = 32;
/// The moment at which an event expires that does not expire by itself.
pub(crate) const NEVER: i64 = i64::MAX;

/// What a body has beside the payload. A byte, so that whoever asks for a part of a body needs no more of the header.
#[derive(Clone, Copy)]
pub(crate) struct Marks(u8);

impl Marks {
    pub(crate) fn has_metadata(self) -> bool {
        self.0 & HAS_METADATA != 0
    }

    /// Bytes before and behind metadata and payload.
    pub(crate) fn around(self) -> [usize; 2] {
        let moment = if self.0 & EXPIRES != 0 { EXPIRY_LEN } else { 0 };
        [moment, if self.0 & SUMMED != 0 { SUM_LEN } else { 0 }]
    }
}

/// Everything of a record but its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHeader {
    pub(crate) timestamp: i64,
    pub(crate) id: u64,
    pub(crate) body_len: u32,
    pub(crate) flags: u16,
    pub(crate) kind: u8,
    class_bits: u8,
    pub(crate) stream: u64,
    pub(crate) previous: u64,
}

impl RecordHeader {
    #[expect(clippy::too_many_arguments, reason = "one for each field, in the order of the layout")]
    pub(crate) fn new(
        timestamp: i64,
        id: u64,
        body_len: u32,
        flags: u16,
        kind: u8,
        class: Class,
        has_metadata: bool,
        stream: u64,
    ) -> Self {
        let class_bits = class.index() as u8 & CLASS_MASK | if has_metadata { HAS_METADATA } else { 0 };
        Self { timestamp, id, body_len, flags, kind, class_bits, stream, previous: 0 }
    }

    /// The same, of an event that expires by itself: `body_len` counts the moment, too.
    pub(crate) fn expiring(mut self, expires: bool) -> Self {
        self.class_bits = self.class_bits & !EXPIRES | if expires { EXPIRES } else { 0 };
        self
    }

    /// The same, of an event that is summed up: `body_len` counts the sum, too.
    pub(crate) fn summed(mut self, sums: bool) -> Self {
        self.class_bits = self.class_bits & !SUMMED | if sums { SUMMED } else { 0 };
        self
    }

    /// The header of the same event without its sum.
    pub(crate) fn unsummed(self) -> Self {
        let sum = if self.is_summed() { SUM_LEN as u32 } else { 0 };
        Self { body_len: self.body_len.saturating_sub(sum), ..self }.summed(false)
    }

    /// Class and marks, as they are in a record.
    pub(crate) fn class_byte(&self) -> u8 {
        self.class_bits
    }

    /// The same header with another class and other marks.
    pub(crate) fn with_class_byte(self, class_bits: u8) -> Self {
        Self { class_bits, ..self }
    }

    /// Whether the body ends with a checksum of the record.
    #[inline]
    pub(crate) fn is_summed(&self) -> bool {
        self.class_bits & SUMMED != 0
    }

    #[inline]
    pub(crate) fn marks(&self) -> Marks {
        Marks(self.class_bits)
    }

    /// Whether the body has room for all that it is said to have beside metadata and payload.
    pub(crate) fn has_room_for_marks(&self) -> bool {
        self.body_len as usize >= self.marks().around().iter().sum::<usize>()
    }

    pub(crate) fn class(&self) -> Class {
        Class::new(usize::from(self.class_bits & CLASS_MASK))
    }

    /// Whether the body begins with the moment at which the event expires.
    #[inline]
    pub(crate) fn expires(&self) -> bool {
        self.class_bits & EXPIRES != 0
    }

    /// Whether the body is the payload alone.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.class_bits & (HAS_METADATA | EXPIRES | SUMMED) == 0
    }

    pub(crate) fn has_metadata(&self) -> bool {
        self.class_bits & HAS_METADATA != 0
    }

    /// Whether the body was taken away.
    pub(crate) fn is_gone(&self) -> bool {
        self.class_bits & GONE != 0
    }

    /// Bytes that the record takes in a page.
    pub(crate) fn record_len(&self) -> u32 {
        record_len(self.body_len)
    }

    /// The same, of a header that may say anything; `None` where it says more than any record has.
    pub(crate) fn record_len_checked(&self) -> Option<usize> {
        (self.body_len <= u32::MAX / 2).then(|| record_len(self.body_len) as usize)
    }

    /// Writes the header. `out` has at least [`HEADER_LEN`] bytes.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let out = &mut out[..HEADER_LEN];
        out[0..8].copy_from_slice(&self.timestamp.to_le_bytes());
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..20].copy_from_slice(&self.body_len.to_le_bytes());
        out[20..22].copy_from_slice(&self.flags.to_le_bytes());
        out[22] = self.kind;
        out[CLASS_AT] = self.class_bits;
        out[24..32].copy_from_slice(&self.stream.to_le_bytes());
        out[32..40].copy_from_slice(&self.previous.to_le_bytes());
    }

    /// Reads a header; `None` where there are too few bytes for one.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let packed = word(16);
        Some(Self {
            timestamp: word(0) as i64,
            id: word(8),
            body_len: packed as u32,
            flags: (packed >> 32) as u16,
            kind: (packed >> 48) as u8,
            class_bits: (packed >> 56) as u8,
            stream: word(24),
            previous: word(32),
        })
    }
}

/// Takes the body away from the record that begins with these bytes, and says so in its header. Bytes that the record
/// takes; `None` where there is none.
pub(crate) fn take_body(record: &mut [u8]) -> Option<u32> {
    let header = RecordHeader::read(record)?;
    record.get_mut(HEADER_LEN..header.record_len_checked()?)?.fill(0);
    record[CLASS_AT] = header.class_bits | GONE;
    Some(header.record_len())
}

/// Sums up a record that is written but for its sum, where a body of that length ends.
pub(crate) fn seal(record: &mut [u8], body_len: u32) {
    let end = HEADER_LEN + body_len as usize;
    let sum = sum_of(&record[..end - SUM_LEN]);
    record[end - SUM_LEN..end].copy_from_slice(&sum.to_le_bytes());
}

/// Of a record without its sum, as one that has it.
fn sum_of(record: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&record[..CLASS_AT]);
    sum.update(&[record[CLASS_AT] | SUMMED]);
    sum.update(&record[CLASS_AT + 1..PREVIOUS_AT]);
    sum.update(&record[HEADER_LEN..]);
    sum.finalize()
}

/// Whether a record is what was written, as far as can be told; `record` may be longer. Of one that is not summed up it can
/// not, unless it has a sum all the same: then the bit that says so has changed.
pub(crate) fn is_whole(record: &[u8]) -> bool {
    let Some(header) = RecordHeader::read(record) else { return false };
    let end = HEADER_LEN.checked_add(header.body_len as usize);
    let Some(record) = end.and_then(|end| record.get(..end)).filter(|_| header.has_room_for_marks()) else {
        return false;
    };
    if header.is_summed() && header.is_gone() {
        return record[HEADER_LEN..].iter().all(|byte| *byte == 0);
    }
    let sum = record[HEADER_LEN..].last_chunk::<SUM_LEN>();
    let is_right = sum.is_some_and(|sum| sum_of(&record[..record.len() - SUM_LEN]).to_le_bytes() == *sum);
    is_right == header.is_summed() || cfg!(canary = "skipped-event-checksum")
}

/// Where the record ends that begins there, and the next one may; `None` where there are too few bytes for what it says.
pub(crate) fn end_of(bytes: &[u8], at: usize) -> Option<usize> {
    let end = at + RecordHeader::read(bytes.get(at..)?)?.record_len_checked()?;
    (end <= bytes.len()).then_some(end)
}

/// The length of the body of the record that begins with these bytes.
#[inline]
pub(crate) fn body_len(record: &[u8]) -> Option<u32> {
    let field: &[u8; 4] = record.get(16..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

/// Bytes that a record with a body of that length takes in a page.
#[inline]
pub(crate) fn record_len(body_len: u32) -> u32 {
    (HEADER_LEN as u32 + body_len).next_multiple_of(8)
}

/// Walks the records that lie one after the other in `bytes`. Ends at the first that is cut off.
#[cfg(any(test, fuzzing))]
pub(crate) fn records(bytes: &[u8]) -> Records<'_> {
    Records { bytes, offset: 0 }
}

#[cfg(any(test, fuzzing))]
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    offset: usize,
}

#[cfg(any(test, fuzzing))]
impl<'a> Iterator for Records<'a> {
    /// Offset, header and body.
    type Item = (u32, RecordHeader, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.offset..)?;
        let header = RecordHeader::read(rest)?;
        let body = rest.get(HEADER_LEN..HEADER_LEN.checked_add(header.body_len as usize)?)?;
        let offset = self.offset;
        self.offset += (HEADER_LEN + body.len()).next_multiple_of(8);
        Some((offset as u32, header, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_being_written() {
        let mut header =
            RecordHeader::new(i64::MIN, u64::MAX, 77, 0xabcd, 0xee, Class::new(15), true, 1 << 63);
        header.previous = 42;
        let mut bytes = [0u8; HEADER_LEN];
        header.write(&mut bytes);
        assert_eq!(RecordHeader::read(&bytes), Some(header));
        assert_eq!((header.class().index(), header.has_metadata(), header.record_len()), (15, true, 120));
        assert_eq!(RecordHeader::read(&bytes[..39]), None);
        assert!(!header.expires());
        header.expiring(true).write(&mut bytes);
        let expiring = RecordHeader::read(&bytes).unwrap();
        assert!(expiring.expires() && expiring.has_metadata() && expiring.class() == header.class());
        assert_eq!(expiring.expiring(false), header);
    }

    #[test]
    fn a_body_that_was_taken_is_known_to_be_gone() {
        let mut page = vec![7u8; 80];
        let header = RecordHeader::new(1, 2, 10, 0, 0, Class::new(3), true, 5);
        header.write(&mut page[..]);
        assert_eq!(take_body(&mut page), Some(56));
        let gone = RecordHeader::read(&page).unwrap();
        assert!(gone.is_gone() && !header.is_gone() && gone.has_metadata());
        assert_eq!((gone.class(), gone.record_len(), gone.id), (Class::new(3), 56, 2));
        assert!(
            page[HEADER_LEN..56].iter().all(|byte| *byte == 0) && page[56..].iter().all(|byte| *byte == 7)
        );
        assert_eq!(take_body(&mut page[..50]), None);
    }

    #[test]
    fn cut_records_end_the_walk() {
        let mut page = vec![0u8; 200];
        let header = RecordHeader::new(1, 2, 10, 0, 0, Class::DEFAULT, false, 5);
        header.write(&mut page[..]);
        header.write(&mut page[56..]);
        assert_eq!(records(&page[..106]).count(), 2);
        assert_eq!(records(&page[..105]).count(), 1);
        let huge = RecordHeader::new(1, 2, u32::MAX, 0, 0, Class::DEFAULT, false, 5);
        huge.write(&mut page[..]);
        assert_eq!(records(&page).count(), 0);
    }
}
