//! How the ordered key-value stores (fjall, RocksDB) lay an event out: by id the event itself, by stream and id
//! nothing, by time and id the kind, so that a filter by kind reads no events that it does not want. Keys are
//! big-endian, as their order is that of bytes.

use crate::peer::Record;

/// Bytes of a stored event before its payload.
pub(crate) const HEAD: usize = 13;

/// The event as it is stored: stream, time and kind, then the payload.
pub(crate) fn value(record: &Record<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + record.payload.len());
    bytes.extend_from_slice(&record.stream.to_be_bytes());
    bytes.extend_from_slice(&record.time.to_be_bytes());
    bytes.push(record.kind);
    bytes.extend_from_slice(record.payload);
    bytes
}

pub(crate) fn payload(value: &[u8]) -> &[u8] {
    value.get(HEAD..).unwrap_or_default()
}

pub(crate) fn by_stream(stream: u32, id: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&stream.to_be_bytes());
    key[4..].copy_from_slice(&id.to_be_bytes());
    key
}

/// Times of this benchmark are after 1970, so their sign bit is not set and their bytes are in order.
pub(crate) fn by_time(time: i64, id: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&time.to_be_bytes());
    key[8..].copy_from_slice(&id.to_be_bytes());
    key
}

/// The id is the end of both keys.
pub(crate) fn id_of(key: &[u8]) -> [u8; 8] {
    key.last_chunk().copied().unwrap_or_default()
}
