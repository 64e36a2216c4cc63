//! Doors to the decoders, for the fuzzers: built with `--cfg fuzzing` only.
//!
//! Each takes any bytes. It may refuse them; it may not panic, and it may not take memory without bounds.

use crate::event::EventRef;
use crate::event::record::{HEADER_LEN, records};
use crate::pages::image::Image;
use crate::tiers::block::{Block, BlockId};
use crate::tiers::directory::BlockInfo;

/// Reads the bytes as the records of a page.
pub fn event_bytes(bytes: &[u8]) {
    for (offset, header, body) in records(bytes) {
        let event = EventRef::in_place(header, body);
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
        }
    }
}

/// Reads the bytes as a cold block and as an entry of the block directory.
pub fn cold_block(bytes: &[u8]) {
    if let Ok(block) = Block::decode(bytes) {
        for row in block.rows() {
            let event = block.event(row);
            let _ = (event.payload().len(), event.metadata().count());
        }
    }
    let _ = BlockInfo::decode(BlockId { partition: 0, class: 0, first_seq: 0 }, bytes);
}

/// Makes a checksum right, so that the fuzzer gets behind it: of a cold block.
pub fn mend_cold_block(bytes: &mut [u8]) {
    crate::tiers::block::mend(bytes);
}
