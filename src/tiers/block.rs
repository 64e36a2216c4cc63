//! Cold blocks: the events of consecutive pages of one lane, re-encoded for size.
//!
//! ```text
//! ┌──────┬───────┬──────┬─────────┬──────┬────────┬─────────────┬─────────────┬────────┬─────────┬────────┐
//! │ ESKB │version│class │partition│events│first   │columns: raw,│bodies: raw, │ CRC-32 │ columns │ bodies │
//! │      │ u16   │ u16  │ u32     │ u32  │seq u64 │packed u32×2 │packed u32×2 │ of all │ LZ4     │ LZ4    │
//! └──────┴───────┴──────┴─────────┴──────┴────────┴─────────────┴─────────────┴────────┴─────────┴────────┘
//! ```
//!
//! The columns, one after the other, before packing: for each page its number of events; then for each event, column
//! by column, id (difference to the one before), timestamp (likewise), stream (number in the order of first
//! appearance; a new one is followed by its value), flags, body length with the metadata bit, and kind (a byte). All
//! but the kind are varints, differences are zigzag-coded. A part that LZ4 cannot make smaller is stored as it is
//! (packed length equals raw length). All numbers are little-endian.
//!
//! Version 2 is written where an event expires by itself: below the metadata bit is another that says so, and the
//! event's body begins with the moment, as in a record. Blocks without such events stay of version 1.
//!
//! A block read back is untrusted: every length is bounded before anything is allocated, and the checksum is
//! verified before anything is unpacked.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result, zeros};
use crate::event::buffer::Buffer;
use crate::event::record::{EXPIRY_LEN, RecordHeader};
use crate::event::{self, EventRef, push_varint as put};
use crate::ids::{Class, LaneId, mix};

const MAGIC: &[u8; 4] = b"ESKB";
const VERSION: u16 = 1;
/// Events may expire by themselves.
const VERSION_EXPIRING: u16 = 2;
const HEADER: usize = 48;
/// The most that a block may claim to unpack to: the largest event and room for a whole large page beside it.
const RAW_MAX: usize = 64 << 20;

/// Which block: the lane and the first of its pages. Writing the same pages again makes the same id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BlockId {
    /// The partition.
    pub partition: u32,
    /// The class.
    pub class: u8,
    /// The number of the first page in its lane.
    pub first_seq: u64,
}

impl BlockId {
    pub(crate) fn lane(&self) -> LaneId {
        LaneId::new(self.partition as usize, Class::new(usize::from(self.class)))
    }

    pub(crate) fn of(lane: LaneId, first_seq: u64) -> Self {
        Self { partition: lane.partition() as u32, class: lane.class().index() as u8, first_seq }
    }
}

/// Collects the events of a block, then those of another one: memory that was touched once is used again.
#[derive(Default)]
pub(crate) struct BlockWriter {
    id: BlockId,
    pages: Vec<u32>,
    rows: Vec<RecordHeader>,
    bodies: Vec<u8>,
    /// In the order of first appearance.
    streams: Vec<u64>,
    /// Their numbers in that order.
    numbers: HashMap<u64, u32, Streams>,
    /// For each row the number of its stream.
    of_rows: Vec<u32>,
    columns: Vec<u8>,
    /// Where the block is put together; as long as it had to be at most.
    packed: Vec<u8>,
}

impl BlockWriter {
    /// Begins a block, which will be of so many events and bytes of bodies at most.
    pub(crate) fn begin(&mut self, lane: LaneId, first_seq: u64, events: usize, bytes: usize) {
        self.id = BlockId::of(lane, first_seq);
        self.pages.clear();
        self.rows.clear();
        self.rows.reserve(events);
        self.bodies.clear();
        self.bodies.reserve(bytes);
        self.streams.clear();
        self.numbers.clear();
        self.of_rows.clear();
        self.of_rows.reserve(events);
    }

    /// Begins the events of the next page.
    pub(crate) fn begin_page(&mut self) {
        self.pages.push(0);
    }

    /// Adds an event of the page begun last.
    pub(crate) fn push(&mut self, event: &EventRef<'_>) {
        if let Some(count) = self.pages.last_mut() {
            *count += 1;
            // The whole block is summed up.
            let (row, body) = event.without_sum();
            let fresh = self.streams.len() as u32;
            let number = *self.numbers.entry(row.stream).or_insert(fresh);
            if number == fresh {
                self.streams.push(row.stream);
            }
            self.of_rows.push(number);
            self.rows.push(row);
            self.bodies.extend_from_slice(body);
        }
    }

    pub(crate) fn id(&self) -> BlockId {
        self.id
    }

    pub(crate) fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    pub(crate) fn rows(&self) -> &[RecordHeader] {
        &self.rows
    }

    /// The streams of the rows, each once.
    pub(crate) fn streams(&self) -> &[u64] {
        &self.streams
    }

    pub(crate) fn raw_bytes(&self) -> usize {
        self.bodies.len() + self.rows.len() * crate::event::record::HEADER_LEN
    }

    /// Bytes of memory that it holds, about.
    pub(crate) fn memory(&self) -> u64 {
        let rows = self.rows.capacity() * size_of::<RecordHeader>() + self.of_rows.capacity() * 4;
        let streams = self.streams.capacity() * 8 + self.numbers.capacity() * 16;
        let bytes = self.bodies.capacity() + self.columns.capacity() + self.packed.capacity();
        (self.pages.capacity() * 4 + rows + streams + bytes) as u64
    }

    /// The block's bytes.
    pub(crate) fn encode(&mut self) -> Vec<u8> {
        let version = match self.rows.iter().any(RecordHeader::expires) {
            true => VERSION_EXPIRING,
            false => VERSION,
        };
        self.make_columns(version);
        let most = [self.columns.len(), self.bodies.len()].map(lz4_flex::block::get_maximum_output_size);
        let room = HEADER + most[0] + most[1];
        if self.packed.len() < room {
            self.packed.resize(room, 0);
        }
        let packed_columns = pack(&self.columns, &mut self.packed[HEADER..]);
        let split = HEADER + packed_columns;
        let packed_bodies = pack(&self.bodies, &mut self.packed[split..]);
        let out = &mut self.packed[..split + packed_bodies];
        out[..4].copy_from_slice(MAGIC);
        out[4..6].copy_from_slice(&version.to_le_bytes());
        out[6..8].copy_from_slice(&u16::from(self.id.class).to_le_bytes());
        let lengths = [self.columns.len(), packed_columns, self.bodies.len(), packed_bodies];
        for (at, value) in [(8, self.id.partition), (12, self.rows.len() as u32)] {
            out[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        out[16..24].copy_from_slice(&self.id.first_seq.to_le_bytes());
        out[24..28].copy_from_slice(&(self.pages.len() as u32).to_le_bytes());
        for (number, value) in lengths.into_iter().enumerate() {
            out[28 + number * 4..32 + number * 4].copy_from_slice(&(value as u32).to_le_bytes());
        }
        let crc = checksum(out);
        out[44..48].copy_from_slice(&crc.to_le_bytes());
        // A copy of the right length costs less than what is held of one that is too long until it is written.
        out.to_vec()
    }

    fn make_columns(&mut self, version: u16) {
        let out = &mut self.columns;
        out.clear();
        out.reserve(self.rows.len() * 16);
        for count in &self.pages {
            put(out, u64::from(*count));
        }
        let mut last = 0u64;
        for row in &self.rows {
            put(out, zigzag(row.id.wrapping_sub(last)));
            last = row.id;
        }
        let mut last = 0u64;
        for row in &self.rows {
            put(out, zigzag((row.timestamp as u64).wrapping_sub(last)));
            last = row.timestamp as u64;
        }
        let mut fresh = 0;
        for number in &self.of_rows {
            put(out, u64::from(*number));
            if *number == fresh {
                out.extend_from_slice(&self.streams[fresh as usize].to_le_bytes());
                fresh += 1;
            }
        }
        for row in &self.rows {
            put(out, u64::from(row.flags));
        }
        for row in &self.rows {
            let len = u64::from(row.body_len) << 1 | u64::from(row.has_metadata());
            put(out, if version == VERSION { len } else { len << 1 | u64::from(row.expires()) });
        }
        out.extend(self.rows.iter().map(|row| row.kind));
    }
}

/// Hashes streams quickly, and differently for each writer, so that nobody can choose streams that collide.
struct Streams(u64);

impl Default for Streams {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for Streams {
    type Hasher = StreamHasher;

    fn build_hasher(&self) -> StreamHasher {
        StreamHasher(self.0)
    }
}

struct StreamHasher(u64);

impl Hasher for StreamHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(value, self.0);
    }
}

/// Puts `raw` at the front of `out`, packed if that is smaller, and gives the length it has there.
fn pack(raw: &[u8], out: &mut [u8]) -> usize {
    let packed = lz4_flex::block::compress_into(raw, out).unwrap_or(usize::MAX);
    if packed < raw.len() {
        return packed;
    }
    out[..raw.len()].copy_from_slice(raw);
    raw.len()
}

fn unpack(packed: &[u8], raw_len: usize, what: &str) -> Result<Vec<u8>> {
    if raw_len > RAW_MAX || raw_len / 255 > packed.len() {
        let claim = packed.len();
        return Err(Error::corrupt(format!("{what} of a cold block: {claim} bytes claim to hold {raw_len}")));
    }
    if packed.len() == raw_len {
        return Ok(packed.to_vec());
    }
    let mut raw = zeros(raw_len, what)?;
    match lz4_flex::block::decompress_into(packed, &mut raw) {
        Ok(written) if written == raw_len => Ok(raw),
        _ => Err(Error::corrupt(format!("{what} of a cold block do not unpack"))),
    }
}

/// Over everything but the checksum's own place.
fn checksum(block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&block[..44]);
    hasher.update(&block[HEADER..]);
    hasher.finalize()
}

/// Writes the right checksum into bytes that nobody encoded.
#[cfg(fuzzing)]
pub(crate) fn mend(block: &mut [u8]) {
    if block.len() >= HEADER {
        let crc = checksum(block);
        block[44..48].copy_from_slice(&crc.to_le_bytes());
    }
}

fn zigzag(difference: u64) -> u64 {
    event::zigzag(difference) ^ u64::from(cfg!(canary = "changed-format"))
}

fn unzigzag(value: u64) -> u64 {
    event::unzigzag(value ^ u64::from(cfg!(canary = "changed-format")))
}

/// One event of a decoded block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) header: RecordHeader,
    pub(crate) seq: u64,
    body_at: u32,
}

/// A block, unpacked and checked.
pub(crate) struct Block {
    pub(crate) id: BlockId,
    /// How many pages it holds.
    pub(crate) pages: u32,
    rows: Vec<Row>,
    bodies: Arc<Buffer>,
}

impl Block {
    /// Unpacks a block.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for bytes that no encoder wrote, [`ErrorKind::Incompatible`] for a newer version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |what: &str| Error::corrupt(format!("a cold block {what}"));
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or_else(|| corrupt("is cut off"))?;
        if !header.starts_with(MAGIC) {
            return Err(corrupt("does not begin with its magic number"));
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if !(VERSION..=VERSION_EXPIRING).contains(&version) {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "a cold block is of version {version}; this esker reads versions up to {VERSION_EXPIRING}: use a \
                     newer one"
                ),
            ));
        }
        let u32_at = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&header[at..at + 4]);
            u32::from_le_bytes(word)
        };
        if checksum(bytes) != u32_at(44) && !cfg!(canary = "skipped-checksum") {
            return Err(corrupt("fails its checksum"));
        }
        let class = u16::from_le_bytes([header[6], header[7]]);
        let first_seq = u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32;
        let id = BlockId { partition: u32_at(8), class: class as u8 & 15, first_seq };
        let (columns_packed, bodies_packed) = (u32_at(32) as usize, u32_at(40) as usize);
        let split = columns_packed.checked_add(HEADER).filter(|at| *at <= bytes.len());
        let (columns, bodies) = bytes.split_at(split.ok_or_else(|| corrupt("is shorter than its parts"))?);
        if bodies.len() != bodies_packed {
            return Err(corrupt("has another length than it says"));
        }
        let columns = unpack(&columns[HEADER..], u32_at(28) as usize, "the columns")?;
        let bodies = unpack(bodies, u32_at(36) as usize, "the bodies")?;
        let (pages, events) = (u32_at(24) as usize, u32_at(12) as usize);
        let rows = read_columns(&columns, pages, events, id, bodies.len(), version == VERSION_EXPIRING)
            .ok_or_else(|| corrupt("has columns that do not fit together"))?;
        Ok(Self { id, pages: u32_at(24), rows, bodies: Arc::new(bodies.into()) })
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The event of a row of this block.
    pub(crate) fn event(&self, row: &Row) -> EventRef<'static> {
        EventRef::of_row(row.header, self.bodies.clone(), row.body_at as usize)
            .unwrap_or_else(|| unreachable!("decoding has checked that all bodies lie within the block"))
    }

    /// Bytes that the block takes in memory.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>() + self.rows.capacity() * size_of::<Row>() + self.bodies.capacity()
    }
}

fn read_columns(
    columns: &[u8],
    pages: usize,
    events: usize,
    id: BlockId,
    bodies: usize,
    may_expire: bool,
) -> Option<Vec<Row>> {
    use crate::event::varint as take;
    // Each event takes a byte in each of six columns at least, each page one.
    if pages.checked_add(events.checked_mul(6)?)? > columns.len() {
        return None;
    }
    let mut rest = columns;
    let counts = (0..pages).map(|_| take(&mut rest)).collect::<Option<Vec<u64>>>()?;
    let mut seqs = counts.iter().enumerate().flat_map(|(page, count)| {
        std::iter::repeat_n(id.first_seq.wrapping_add(page as u64), *count as usize)
    });
    let mut last = 0u64;
    let mut delta = |rest: &mut &[u8]| {
        last = last.wrapping_add(unzigzag(take(rest)?));
        Some(last)
    };
    let ids = column(events, || delta(&mut rest))?;
    last = 0;
    let mut delta = |rest: &mut &[u8]| {
        last = last.wrapping_add(unzigzag(take(rest)?));
        Some(last)
    };
    let times = column(events, || delta(&mut rest))?;
    let mut seen = Vec::new();
    let mut stream = |rest: &mut &[u8]| {
        let number = usize::try_from(take(rest)?).ok()?;
        if number == seen.len() {
            let (word, after) = rest.split_first_chunk::<8>()?;
            seen.push(u64::from_le_bytes(*word));
            *rest = after;
        }
        seen.get(number).copied()
    };
    let streams = column(events, || stream(&mut rest))?;
    let flags = column(events, || take(&mut rest))?;
    let lengths = column(events, || take(&mut rest))?;
    if rest.len() != events {
        return None;
    }
    let class = Class::new(usize::from(id.class));
    let mut at = 0usize;
    let mut row = 0..events;
    let rows = column(events, || {
        let row = row.next()?;
        let expires = may_expire && lengths[row] & 1 == 1;
        let length = if may_expire { lengths[row] >> 1 } else { lengths[row] };
        let (len, metadata) = (u32::try_from(length >> 1).ok()?, length & 1 == 1);
        if expires && (len as usize) < EXPIRY_LEN {
            return None;
        }
        let flags = u16::try_from(flags[row]).ok()?;
        let header = RecordHeader::new(
            times[row] as i64,
            ids[row],
            len,
            flags,
            rest[row],
            class,
            metadata,
            streams[row],
        )
        .expiring(expires);
        let body_at = u32::try_from(at).ok()?;
        at = at.checked_add(len as usize).filter(|end| *end <= bodies)?;
        Some(Row { header, seq: seqs.next()?, body_at })
    })?;
    (at == bodies && seqs.next().is_none()).then_some(rows)
}

/// So many values, in a vector of that very size: collecting options would grow it step by step.
fn column<T>(count: usize, mut next: impl FnMut() -> Option<T>) -> Option<Vec<T>> {
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        out.push(next()?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(events: u64) -> BlockWriter {
        writer_of(events, |_| false)
    }

    fn writer_of(events: u64, expires: impl Fn(u64) -> bool) -> BlockWriter {
        let mut writer = BlockWriter::default();
        fill(&mut writer, events, expires);
        writer
    }

    fn fill(writer: &mut BlockWriter, events: u64, expires: impl Fn(u64) -> bool) {
        writer.begin(LaneId::new(5, Class::new(3)), 77, 0, 0);
        for id in 0..events {
            if id % 10 == 0 {
                writer.begin_page();
            }
            let len = id % 97 + if expires(id) { 8 } else { 0 };
            let body: Vec<u8> = (0..len).map(|byte| (byte * id) as u8).collect();
            let header = RecordHeader::new(
                i64::MIN.wrapping_add((id * id) as i64),
                id.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                body.len() as u32,
                id as u16,
                id as u8,
                Class::new(3),
                id % 2 == 0,
                id % 7,
            )
            .expiring(expires(id));
            writer.push(&EventRef::of_row(header, Arc::new(body.into()), 0).unwrap());
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let writers = [0, 1, 9, 1000].into_iter().flat_map(|events| {
            [writer(events), writer_of(events, |id| id % 3 == 0), writer_of(events, |_| true)]
        });
        for mut writer in writers {
            let events = writer.rows().len() as u64;
            let block = Block::decode(&writer.encode()).unwrap();
            assert_eq!(block.id, writer.id());
            assert_eq!(block.rows().len() as u64, events);
            let mut at = 0;
            for (number, (row, original)) in block.rows().iter().zip(writer.rows()).enumerate() {
                assert_eq!(&row.header, original);
                assert_eq!(row.seq, 77 + number as u64 / 10);
                let body = &writer.bodies[at..at + original.body_len as usize];
                assert_eq!(block.event(row).body(), body);
                at += body.len();
            }
        }
    }

    #[test]
    fn a_writer_that_is_used_again_writes_what_a_new_one_does() {
        let mut again = writer(1000);
        let _ = again.encode();
        for events in [40, 0, 300] {
            let mut fresh = writer(events);
            fill(&mut again, events, |_| false);
            assert_eq!(again.encode(), fresh.encode(), "{events} events");
            assert_eq!(again.streams(), fresh.streams());
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let bytes = writer_of(40, |id| id == 11).encode();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Block::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
    }

    /// So that an older esker reads what it can.
    #[test]
    fn only_blocks_with_events_that_expire_are_of_version_2() {
        assert_eq!(writer(1000).encode()[4..6], [1, 0]);
        assert_eq!(writer_of(1000, |id| id == 999).encode()[4..6], [2, 0]);
    }

    #[test]
    fn an_event_that_expires_has_room_for_the_moment() {
        let mut short = BlockWriter::default();
        short.begin(LaneId::new(0, Class::DEFAULT), 0, 0, 0);
        short.begin_page();
        for len in [8u32, 7] {
            let header = RecordHeader::new(0, 1, len, 0, 0, Class::DEFAULT, false, 0).expiring(true);
            short.push(&EventRef::of_row(header, Arc::new(vec![0; len as usize].into()), 0).unwrap());
            assert_eq!(Block::decode(&short.encode()).is_ok(), len == 8, "{len} bytes");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = writer(1).encode();
        bytes[4] = 9;
        let error = Block::decode(&bytes).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        assert!(error.to_string().contains("version 9"), "{error}");
    }

    #[test]
    fn lies_behind_a_right_checksum_are_errors_too() {
        let bytes = writer_of(40, |id| id % 2 == 1).encode();
        for at in (6..44).chain(HEADER..bytes.len()) {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = bytes.clone();
                bad[at] = value;
                let crc = checksum(&bad);
                bad[44..48].copy_from_slice(&crc.to_le_bytes());
                // It must not panic and not allocate without bounds; what it says about the bytes is its own affair.
                let _ = Block::decode(&bad);
            }
        }
    }

    #[test]
    fn bytes_are_packed_where_that_makes_them_fewer_and_kept_otherwise() {
        let noise: Vec<u8> = (0..1000u64).map(|at| crate::ids::mix(at, 1) as u8).collect();
        let mut out = vec![0; 2000];
        let packed = pack(&[7; 1000], &mut out);
        assert!(packed < 100, "{packed}");
        assert_eq!(unpack(&out[..packed], 1000, "sevens").unwrap(), [7; 1000]);
        assert_eq!((pack(&noise, &mut out), &out[..1000]), (1000, noise.as_slice()));
        assert_eq!(unpack(&out[..1000], 1000, "noise").unwrap(), noise);
    }
}
