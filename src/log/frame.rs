//! The bytes of the log: frames, and the units that they come in.
//!
//! ```text
//! 0         4       8      9       10    12      16      24      32     40     44     48           52
//! ┌─────────┬───────┬──────┬───────┬─────┬───────┬───────┬───────┬──────┬──────┬──────┬────────────┬────────┐
//! │ magic   │ CRC-32│ kind │ begins│ zero│ length│ unit  │ seq   │ time │ lane │ page │ generation │ offset │
//! └─────────┴───────┴──────┴───────┴─────┴───────┴───────┴───────┴──────┴──────┴──────┴────────────┴────────┘
//!  56       64
//! ┌────────┬─────────────────────┐
//! │ more   │ payload … to 8 bytes│
//! └────────┴─────────────────────┘
//! ```
//!
//! The checksum covers everything behind it, and the segment's number and the frame's place in it: bytes that lie
//! somewhere else, in an event for example, or from before the file was used again, are not taken for frames. A unit begins
//! at a multiple of [`BLOCK`] and ends with a *commit* that says how many frames it has.

use crate::ids::{Addr, LaneId, LogicalPage};

/// Units begin at multiples of it, so that no block with what was acknowledged is ever written again.
pub(crate) const BLOCK: usize = 4096;
pub(crate) const HEADER: usize = 64;
const MAGIC: [u8; 4] = *b"eSkL";
/// The largest payload of a frame.
pub(crate) const PAYLOAD_MAX: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Bytes of a page, from `offset` on.
    Page = 1,
    /// Addresses of removed records.
    Removed = 2,
    /// `lane` has let go its pages below `seq`, or the cold tier has them.
    Tail = 3,
    /// The end of a unit of `offset` frames, this one included. `seq` is the last id that the store gave, `generation` the
    /// highest of any page; the units from `time` to `more` were on the disk before this was written; `page` and `lane` are
    /// the unit before this one, of the same run of the store.
    Commit = 4,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Page, Self::Removed, Self::Tail, Self::Commit].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What a frame says beside its payload. What is not said above is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    /// Whether the payload begins with a record.
    pub(crate) begins: bool,
    pub(crate) unit: u64,
    /// The page's number in its lane.
    pub(crate) seq: u64,
    /// When the page's last record came.
    pub(crate) time: i64,
    pub(crate) lane: LaneId,
    pub(crate) page: LogicalPage,
    pub(crate) generation: u32,
    pub(crate) offset: u32,
    pub(crate) more: u64,
}

impl Frame {
    pub(crate) const NOTHING: Self = Self {
        kind: Kind::Commit,
        begins: true,
        unit: 0,
        seq: 0,
        time: 0,
        lane: LaneId(0),
        page: LogicalPage::NONE,
        generation: 0,
        offset: 0,
        more: 0,
    };
}

/// The number of the unit that begins there: unique, and rising along the log.
pub(crate) fn unit_at(segment: u64, at: usize) -> u64 {
    segment << 20 | (at / BLOCK) as u64 & 0xf_ffff
}

impl Frame {
    /// A commit after that unit.
    pub(crate) fn after(self, unit: u64) -> Self {
        Self { lane: LaneId(unit as u32), page: LogicalPage((unit >> 32) as u32), ..self }
    }

    /// The unit before that of a commit; zero for the first of a run.
    pub(crate) fn before(&self) -> u64 {
        u64::from(self.lane.0) | u64::from(self.page.0) << 32
    }
}

/// Bytes that a frame takes with so much payload.
pub(crate) fn frame_len(payload: usize) -> usize {
    HEADER + payload.next_multiple_of(8)
}

/// A unit that is being put together, in memory.
#[derive(Default)]
pub(crate) struct Unit {
    pub(crate) bytes: Vec<u8>,
    /// Where its frames begin.
    starts: Vec<usize>,
}

impl Unit {
    pub(crate) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// Adds a frame, whose payload `fill` appends to what it is given. If that fails, nothing is added.
    pub(crate) fn push<E>(
        &mut self,
        frame: &Frame,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let at = self.bytes.len();
        self.bytes.resize(at + HEADER, 0);
        if let Err(error) = fill(&mut self.bytes) {
            self.bytes.truncate(at);
            return Err(error);
        }
        let len = self.bytes.len() - at - HEADER;
        self.bytes.resize(at + frame_len(len), 0);
        let out = &mut self.bytes[at..at + HEADER];
        out[..4].copy_from_slice(&MAGIC);
        (out[8], out[9]) = (frame.kind as u8, u8::from(frame.begins));
        let words = [len as u32, frame.lane.0, frame.page.0, frame.generation, frame.offset];
        for (at, word) in [12, 40, 44, 48, 52].into_iter().zip(words) {
            out[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        for (at, word) in [24, 32, 56].into_iter().zip([frame.seq, frame.time as u64, frame.more]) {
            out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        self.starts.push(at);
        Ok(())
    }

    /// Adds a frame that has no payload.
    pub(crate) fn push_bare(&mut self, frame: &Frame) {
        let nothing = |_: &mut Vec<u8>| Ok::<(), std::convert::Infallible>(());
        let Ok(()) = self.push(frame, nothing);
    }

    /// Bytes that it takes in a segment once it has its commit.
    pub(crate) fn len(&self) -> usize {
        (self.bytes.len() + HEADER).next_multiple_of(BLOCK)
    }

    /// Ends the unit, which is to be written at that place, and makes it whole blocks. `commit` has everything of its last
    /// frame but the count.
    pub(crate) fn finish(&mut self, segment: u64, at: usize, commit: Frame) {
        self.push_bare(&Frame { offset: self.starts.len() as u32 + 1, ..commit });
        let unit = unit_at(segment, at);
        let ends = self.starts.iter().skip(1).copied().chain([self.bytes.len()]);
        for (start, end) in self.starts.iter().zip(ends) {
            let frame = &mut self.bytes[*start..end];
            frame[16..24].copy_from_slice(&unit.to_le_bytes());
            let crc = crc(frame, segment, at + start);
            frame[4..8].copy_from_slice(&crc.to_le_bytes());
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }
}

/// Of a frame with its payload and the padding behind that, at that place.
fn crc(frame: &[u8], segment: u64, at: usize) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&frame[8..]);
    sum.update(&segment.to_le_bytes());
    sum.update(&(at as u64).to_le_bytes());
    sum.finalize()
}

/// Has every frame of a segment belong to it, and makes its checksum right.
#[cfg(fuzzing)]
pub(crate) fn mend(segment: &mut [u8], number: u64) {
    let mut at = BLOCK;
    while let Some(header) = segment.get(at..).and_then(|rest| rest.first_chunk::<HEADER>()) {
        let len = u32::from_le_bytes([header[12], header[13], header[14], header[15]]) as usize;
        let end = at + if len <= PAYLOAD_MAX { frame_len(len) } else { usize::MAX / 2 };
        if header[..4] != MAGIC || end > segment.len() {
            at += 8;
            continue;
        }
        let frame = &mut segment[at..end];
        let unit = u64::from_le_bytes([frame[16], frame[17], frame[18], 0, 0, 0, 0, 0]) & 0xf_ffff;
        frame[16..24].copy_from_slice(&(number << 20 | unit).to_le_bytes());
        let crc = crc(frame, number, at);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
}

/// The frame that begins at that place of a segment, and its payload.
pub(crate) fn read(segment: &[u8], number: u64, at: usize) -> Option<(Frame, &[u8])> {
    let header: &[u8; HEADER] = segment.get(at..)?.first_chunk()?;
    if header[..4] != MAGIC {
        return None;
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let len = word(12) as usize;
    if len > PAYLOAD_MAX {
        return None;
    }
    let all = segment.get(at..at + frame_len(len))?;
    // Looked at first: what old bytes, or those of events, only seem to be is not summed up, which takes long.
    if long(16) >> 20 != number || crc(all, number, at) != word(4) {
        return None;
    }
    let frame = Frame {
        kind: Kind::of(header[8])?,
        begins: header[9] == 1,
        unit: long(16),
        seq: long(24),
        time: long(32) as i64,
        lane: LaneId(word(40)),
        page: LogicalPage(word(44)),
        generation: word(48),
        offset: word(52),
        more: long(56),
    };
    // No page has such a number, whatever the checksum says.
    let is_page = frame.page != LogicalPage::NONE && frame.page.0 < LogicalPage::LIMIT;
    let fits = frame.kind != Kind::Page || is_page && frame.offset < Addr::OFFSET_END;
    (fits && frame.generation <= Addr::HIGH_MASK).then_some((frame, &all[HEADER..HEADER + len]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Unit {
        let mut unit = Unit::default();
        let frame = Frame {
            kind: Kind::Page,
            begins: false,
            unit: 0,
            seq: 7,
            time: -5,
            lane: LaneId(33),
            page: LogicalPage(9),
            generation: 3,
            offset: 64,
            more: 0,
        };
        unit.push(&frame, |out| {
            out.extend_from_slice(b"thirteen byte");
            Ok::<(), ()>(())
        })
        .unwrap();
        unit.push_bare(&Frame { kind: Kind::Tail, seq: 4, ..Frame::NOTHING });
        assert!(
            unit.push(&frame, |out| {
                out.push(1);
                Err(())
            })
            .is_err()
        );
        unit
    }

    #[test]
    fn a_frame_is_read_where_it_was_written_and_nowhere_else() {
        let mut unit = unit();
        unit.finish(12, 3 * BLOCK, Frame { seq: 99, ..Frame::NOTHING });
        assert_eq!(unit.bytes.len(), BLOCK);
        let mut segment = vec![0; 3 * BLOCK];
        segment.extend_from_slice(&unit.bytes);
        let (frame, payload) = read(&segment, 12, 3 * BLOCK).unwrap();
        assert_eq!((frame.kind, frame.seq, frame.time, frame.offset), (Kind::Page, 7, -5, 64));
        assert_eq!(
            (frame.unit, payload, frame.begins),
            (unit_at(12, 3 * BLOCK), &b"thirteen byte"[..], false)
        );
        let next = 3 * BLOCK + frame_len(payload.len());
        assert_eq!(read(&segment, 12, next).unwrap().0.kind, Kind::Tail);
        let (commit, _) = read(&segment, 12, next + HEADER).unwrap();
        assert_eq!((commit.kind, commit.offset, commit.seq), (Kind::Commit, 3, 99));
        assert!(read(&segment, 13, 3 * BLOCK).is_none(), "another segment");
        assert!(read(&unit.bytes, 12, 0).is_none(), "another place");
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let mut unit = unit();
        unit.finish(1, 0, Frame::NOTHING);
        for bit in 0..frame_len(13) * 8 {
            let mut bytes = unit.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes, 1, 0).is_none(), "bit {bit}");
        }
        for len in 0..frame_len(13) {
            assert!(read(&unit.bytes[..len], 1, 0).is_none(), "{len} bytes");
        }
    }
}
