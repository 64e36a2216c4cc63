//! Doors to the decoders, for the fuzzers: built with `--cfg fuzzing` only.
//!
//! Each takes any bytes. It may refuse them; it may not panic, and it may not take memory without bounds.

mod log;
mod shared;

pub use self::log::{LOG_PARTITIONS, LOG_SEED, log_files, log_segment, mend_log_segment};
pub use self::shared::{mend_image, mend_names, shared_record};

use crate::event::record::{HEADER_LEN, RecordHeader, records};
use crate::event::{EventRef, Metadata};
use crate::ids::{Class, LaneId};
use crate::pages::image::Image;
use crate::pages::pack::encode;
use crate::tiers::block::{Block, BlockId, BlockWriter};
use crate::tiers::cold::{ColdBlock, Namespace, Tombstone};
use crate::tiers::entry::BlockInfo;
use crate::tiers::shield::home::Home;
use crate::tiers::shield::record;
use crate::tiers::shield::remote::{Change, Op, Stamp};

/// Reads the bytes as the records of a page.
pub fn event_bytes(bytes: &[u8]) {
    for (offset, header, body) in records(bytes) {
        let end = offset as usize + HEADER_LEN + header.body_len as usize;
        let event = EventRef::in_place(&bytes[offset as usize..end]);
        let pairs: usize = event.metadata().map(|(key, value)| key.len() + value.len()).sum();
        assert!(pairs + event.payload().len() <= body.len());
        assert!(offset as usize + HEADER_LEN + body.len() <= bytes.len());
    }
}

/// Reads the bytes as a warm page.
pub fn warm_image(bytes: &[u8]) {
    let Ok(image) = Image::parse(bytes) else { return };
    for number in 0..image.frames() {
        if let Some(frame) = image.frame(number) {
            if let Ok(raw) = image.unpack(frame) {
                event_bytes(&raw);
            }
            let _ = image.frame_of(frame.raw_at);
            image.prefetch_entry(frame.raw_at);
            image.prefetch_frame(frame.raw_at);
        }
    }
    let (mut number, mut seen) = (0, 0);
    while let Some(run) = image.unpack_run(&mut number) {
        if let Ok((_, raw)) = run {
            seen += raw.len();
            event_bytes(&raw);
        }
    }
    // A page is as long as its records.
    let mut page = vec![0; seen];
    let _ = image.unpack_all(&mut page);
}

/// Reads the bytes as a cold block and as an entry of the block directory.
pub fn cold_block(bytes: &[u8]) {
    if let Ok(block) = Block::decode(bytes) {
        for row in block.rows() {
            let event = block.event(row);
            let _ = (event.payload().len(), event.metadata().count());
        }
    }
    let id = BlockId { partition: 0, class: 0, first_seq: 0 };
    let _ = BlockInfo::decode(id, bytes);
    // The same with both checksums that make it an entry, so that what is behind them is reached.
    let sum = crc32fast::hash(bytes);
    for sum in [sum, !sum] {
        if let Ok(info) = BlockInfo::decode(id, &[bytes, &sum.to_le_bytes()].concat()) {
            let _ = (info.may_hold_id(info.min_id), info.may_hold_stream(1), info.memory());
        }
    }
}

/// Reads the bytes as a record of the overflow directory, and as what such a directory knows of its namespace.
pub fn spool_record(bytes: &[u8]) {
    let _ = Home::decode(bytes);
    let Some((header, body)) = bytes.split_at_checked(record::HEADER) else { return };
    if let Some(op) = record::decode(header, body) {
        // Whatever is understood is what would be written.
        let mut again = Vec::new();
        record::encode(&op, &mut again);
        assert_eq!(&again[record::HEADER..], body);
    }
}

/// The same for a record of the overflow directory.
pub fn mend_spool_record(bytes: &mut [u8]) {
    if let Some((_, rest)) = bytes.split_at_mut_checked(8) {
        let crc = crc32fast::hash(rest);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Makes a checksum right, so that the fuzzer gets behind it: of a cold block.
pub fn mend_cold_block(bytes: &mut [u8]) {
    crate::tiers::block::mend(bytes);
}

/// The same for the frames of a warm page.
pub fn mend_warm_image(bytes: &mut [u8]) {
    crate::pages::image::mend(bytes);
}

/// The same for an entry of the block directory.
pub fn mend_block_info(bytes: &mut [u8]) {
    if let Some((body, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32fast::hash(body).to_le_bytes();
    }
}

/// What the encoders make of some events: the fuzzers' first inputs. Target, name and bytes of each.
pub fn samples() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let pages = [
        ("empty", Vec::new()),
        ("one", page(1, |_| 5)),
        ("small", page(12, |id| id * 9)),
        ("frames", page(5, |id| 3000 * id)),
        ("long", page(5, |id| 9000 * id)),
    ];
    let mut samples = [log::samples(), shared::samples()].concat();
    for (name, page) in pages {
        let mut image = Vec::new();
        encode(&page, &mut image);
        samples.push(("warm_frame", name, image));
        let mut writer = BlockWriter::default();
        writer.begin(LaneId::new(3, Class::new(2)), 40, 0, 0);
        for _ in 0..2 {
            writer.begin_page();
            for (offset, header, _) in records(&page) {
                let end = offset as usize + HEADER_LEN + header.body_len as usize;
                writer.push(&EventRef::in_place(&page[offset as usize..end]));
            }
        }
        let block = writer.encode();
        samples.push(("cold_block", name, block.clone()));
        if name == "small" {
            samples.push(("cold_block", "entry", BlockInfo::of(&writer, 7, block.len()).encode()));
        }
        if name != "frames" {
            samples.push(("event_bytes", name, page));
        }
    }
    let block = ColdBlock { id: BlockId::default(), bytes: vec![7; 40], summary: vec![8; 9] };
    let namespace = || Namespace::new(4, 77, vec!["first".into(), "second".into()]);
    let changes = [
        ("block", Change::Block(block)),
        ("names", Change::Names(vec![("a name".into(), 9), (String::new(), u64::MAX)])),
        ("tombstone", Change::Tombstone(Tombstone::new(1, 2, 3, 4))),
        ("namespace", Change::Namespace(namespace())),
        ("writer", Change::Writer(5 << 40)),
    ];
    for (name, change) in changes {
        let mut record = Vec::new();
        record::encode(&Op { stamp: Stamp { micros: 6, period: -7 }, change }, &mut record);
        samples.push(("spool_record", name, record));
    }
    let home = Home { label: "k/n".into(), namespace: namespace(), first: 5 << 40, used: 6 << 40 };
    samples.push(("spool_record", "home", home.encode()));
    samples
}

/// A page of records, every other one with metadata.
fn page(records: usize, payload_len: impl Fn(usize) -> usize) -> Vec<u8> {
    let mut page = Vec::new();
    for id in 0..records {
        let payload = vec![id as u8; payload_len(id)];
        let pairs = [("cell", "A7"), ("", "empty key")];
        let metadata = if id % 2 == 0 { Metadata::None } else { Metadata::from(&pairs) };
        let len = metadata.body_len(&payload) as usize;
        let time = 1_700_000_000_000 + id as i64;
        let header = RecordHeader::new(
            time,
            id as u64,
            len as u32,
            3,
            id as u8,
            Class::DEFAULT,
            id % 2 == 1,
            id as u64 % 3,
        );
        let at = page.len();
        page.resize(at + header.record_len() as usize, 0);
        header.write(&mut page[at..]);
        metadata.write_body(&payload, &mut page[at + HEADER_LEN..at + HEADER_LEN + len]);
    }
    page
}
