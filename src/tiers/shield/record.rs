//! Records of the spool, and of dead letters of blocks.
//!
//! ```text
//! ┌──────┬────────┬────────────┬───────────┬───────┬────────┬──────┐
//! │ ESKS │ CRC-32 │ length u32 │ stamp     │ kind  │ change │  …   │
//! │      │ of all │ of the     │ micros and│ u8    │        │      │
//! │      │ behind │ rest       │ period    │       │        │      │
//! └──────┴────────┴────────────┴───────────┴───────┴────────┴──────┘
//! ```

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use crate::tiers::block::BlockId;
use crate::tiers::cold::{ColdBlock, Namespace, Tombstone};
use crate::tiers::shield::remote::{Change, Op, Stamp};

pub(crate) const MAGIC: &[u8; 4] = b"ESKS";
pub(crate) const HEADER: usize = 12;
/// The longest record that is believed: the largest block and its summary.
pub(crate) const RECORD_MAX: usize = 160 << 20;

/// The record at a place of a file, with `room` bytes up to its end, and its length, if a whole one is there.
pub(super) fn read_record(file: &mut File, offset: u64, room: usize) -> std::io::Result<Option<(Op, u64)>> {
    if room < HEADER {
        return Ok(None);
    }
    let mut header = [0; HEADER];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut header)?;
    let claim = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    if !header.starts_with(MAGIC) || claim > RECORD_MAX.min(room - HEADER) {
        return Ok(None);
    }
    let mut body = vec![0; claim];
    file.read_exact(&mut body)?;
    Ok(decode(&header, &body).map(|op| (op, (HEADER + claim) as u64)))
}

/// An encoded record: its bytes but for a block's, and those, which are not copied.
pub(super) struct Record<'a> {
    pub(super) head: Vec<u8>,
    pub(super) tail: &'a [u8],
}

impl<'a> Record<'a> {
    pub(super) fn of(op: &'a Op) -> Self {
        let mut head = Vec::new();
        let tail = begin(op, &mut head);
        let len = (head.len() + tail.len() - HEADER) as u32;
        head[8..12].copy_from_slice(&len.to_le_bytes());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head[8..]);
        hasher.update(tail);
        head[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
        Self { head, tail }
    }
}

pub(crate) fn encode(op: &Op, out: &mut Vec<u8>) {
    let record = Record::of(op);
    out.extend_from_slice(&record.head);
    out.extend_from_slice(record.tail);
}

/// Appends a record, without length and checksum, but for what it ends with.
fn begin<'a>(op: &'a Op, out: &mut Vec<u8>) -> &'a [u8] {
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&op.stamp.micros.to_le_bytes());
    out.extend_from_slice(&op.stamp.period.to_le_bytes());
    match &op.change {
        Change::Block(block) => {
            out.push(0);
            out.extend_from_slice(&block.id.partition.to_le_bytes());
            out.push(block.id.class);
            out.extend_from_slice(&block.id.first_seq.to_le_bytes());
            put_bytes(out, &block.summary);
            out.extend_from_slice(&(block.bytes.len() as u32).to_le_bytes());
            return &block.bytes;
        }
        Change::Names(names) => {
            out.push(1);
            for (name, stream) in names {
                out.extend_from_slice(&stream.to_le_bytes());
                put_bytes(out, name.as_bytes());
            }
        }
        Change::Tombstone(stone) => {
            out.push(2);
            out.extend_from_slice(&stone.id.to_le_bytes());
            out.extend_from_slice(&stone.partition.to_le_bytes());
            out.push(stone.class);
            out.extend_from_slice(&stone.seq.to_le_bytes());
        }
        Change::Namespace(namespace) => {
            out.push(3);
            out.extend_from_slice(&namespace.partitions.to_le_bytes());
            out.extend_from_slice(&namespace.seed.to_le_bytes());
            namespace.classes.iter().for_each(|class| put_bytes(out, class.as_bytes()));
        }
        Change::Writer(first) => {
            out.push(4);
            out.extend_from_slice(&first.to_le_bytes());
        }
    }
    &[]
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A record's change, if its checksum is right and it is one that this version knows.
pub(crate) fn decode(header: &[u8], body: &[u8]) -> Option<Op> {
    let (crc, len) = (header.get(4..8)?, header.get(8..12)?);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(len);
    hasher.update(body);
    if hasher.finalize().to_le_bytes() != crc {
        return None;
    }
    let mut rest = Reader(body);
    let stamp = Stamp { micros: rest.u64()? as i64, period: rest.u64()? as i64 };
    let change = match rest.u8()? {
        0 => {
            let id = BlockId { partition: rest.u32()?, class: rest.u8()?, first_seq: rest.u64()? };
            let summary = rest.bytes()?.to_vec();
            Change::Block(ColdBlock { id, summary, bytes: rest.bytes()?.to_vec() })
        }
        1 => {
            let mut names = Vec::new();
            while !rest.0.is_empty() {
                let stream = rest.u64()?;
                names.push((String::from_utf8(rest.bytes()?.to_vec()).ok()?, stream));
            }
            Change::Names(names)
        }
        2 => Change::Tombstone(Tombstone::new(rest.u64()?, rest.u32()?, rest.u8()?, rest.u64()?)),
        3 => {
            let (partitions, seed) = (rest.u32()?, rest.u64()?);
            let mut classes = Vec::new();
            while !rest.0.is_empty() {
                classes.push(String::from_utf8(rest.bytes()?.to_vec()).ok()?);
            }
            Change::Namespace(Namespace::new(partitions, seed, classes))
        }
        4 => Change::Writer(rest.u64()?),
        _ => return None,
    };
    rest.0.is_empty().then_some(Op { stamp, change })
}

/// Takes things from the front of bytes.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (word, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*word)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}
