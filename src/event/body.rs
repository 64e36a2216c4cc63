//! The body of an event: metadata and payload in one run of bytes. Where an event expires by itself, the moment comes
//! before them (see [`crate::event::record`]), which the functions here do not see.
//!
//! With metadata: `varint(length of the pairs)`, the pairs, the payload. A pair is `varint(key length)`, key,
//! `varint(value length)`, value. Without: the payload alone. Varints are LEB128.

use crate::event::record::{EXPIRY_LEN, Marks, NEVER};

/// Key/value pairs that travel with an event, in the order given; keys may repeat.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum Metadata<'a> {
    /// No pairs.
    #[default]
    None,
    /// Text keys and values.
    Text(&'a [(&'a str, &'a str)]),
    /// Keys and values of any bytes.
    Bytes(&'a [(&'a [u8], &'a [u8])]),
    /// Pairs as [`EventRef::metadata_bytes`](crate::EventRef::metadata_bytes) gives them, to pass them on as they
    /// are.
    Encoded(&'a [u8]),
}

impl<'a> From<&'a [(&'a str, &'a str)]> for Metadata<'a> {
    fn from(pairs: &'a [(&'a str, &'a str)]) -> Self {
        Self::Text(pairs)
    }
}

impl<'a, const N: usize> From<&'a [(&'a str, &'a str); N]> for Metadata<'a> {
    fn from(pairs: &'a [(&'a str, &'a str); N]) -> Self {
        Self::Text(pairs)
    }
}

impl<'a> From<&'a Vec<(&'a str, &'a str)>> for Metadata<'a> {
    fn from(pairs: &'a Vec<(&'a str, &'a str)>) -> Self {
        Self::Text(pairs)
    }
}

impl<'a> From<&'a [(&'a [u8], &'a [u8])]> for Metadata<'a> {
    fn from(pairs: &'a [(&'a [u8], &'a [u8])]) -> Self {
        Self::Bytes(pairs)
    }
}

impl<'a, const N: usize> From<&'a [(&'a [u8], &'a [u8]); N]> for Metadata<'a> {
    fn from(pairs: &'a [(&'a [u8], &'a [u8]); N]) -> Self {
        Self::Bytes(pairs)
    }
}

impl Metadata<'_> {
    /// Bytes of the pairs, without the length in front.
    fn pairs_len(&self) -> u64 {
        fn sum<K: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &[(K, V)]) -> u64 {
            let part = |bytes: &[u8]| varint_len(bytes.len() as u64) as u64 + bytes.len() as u64;
            pairs.iter().map(|(key, value)| part(key.as_ref()) + part(value.as_ref())).sum()
        }
        match self {
            Self::None => 0,
            Self::Text(pairs) => sum(pairs),
            Self::Bytes(pairs) => sum(pairs),
            Self::Encoded(bytes) => bytes.len() as u64,
        }
    }

    /// Bytes of the whole body.
    #[inline]
    pub(crate) fn body_len(&self, payload: &[u8]) -> u64 {
        if let Self::None = self {
            return payload.len() as u64;
        }
        match self.pairs_len() {
            0 => payload.len() as u64,
            pairs => varint_len(pairs) as u64 + pairs + payload.len() as u64,
        }
    }

    /// Writes the body into `out`, which has exactly [`Self::body_len`] bytes.
    #[inline]
    pub(crate) fn write_body(&self, payload: &[u8], out: &mut [u8]) {
        if payload.len() == out.len() {
            out.copy_from_slice(payload);
        } else {
            self.write_pairs(payload, out);
        }
    }

    #[inline(never)]
    fn write_pairs(&self, payload: &[u8], out: &mut [u8]) {
        // The length of the pairs follows from that of the body: they need not be walked a second time.
        let section = (out.len() - payload.len()) as u64;
        let mut at = 0;
        if section > 0 {
            let prefix = (1..10).find(|len| varint_len(section - len) as u64 == *len).unwrap_or(1);
            at = put_varint(out, 0, section - prefix);
            at = match self {
                Self::None => at,
                Self::Text(list) => put_pairs(out, at, list),
                Self::Bytes(list) => put_pairs(out, at, list),
                Self::Encoded(bytes) => put(out, at, bytes),
            };
        }
        let end = put(out, at, payload);
        debug_assert_eq!(end, out.len());
    }
}

fn put_pairs<K: AsRef<[u8]>, V: AsRef<[u8]>>(out: &mut [u8], mut at: usize, pairs: &[(K, V)]) -> usize {
    for (key, value) in pairs {
        for part in [key.as_ref(), value.as_ref()] {
            at = put_varint(out, at, part.len() as u64);
            at = put(out, at, part);
        }
    }
    at
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    out[at..at + bytes.len()].copy_from_slice(bytes);
    at + bytes.len()
}

pub(crate) fn put_varint(out: &mut [u8], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

/// Writes a varint behind what is there.
#[inline]
pub(crate) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A difference, either way, as a number that is small where it is.
#[inline]
pub(crate) fn zigzag(difference: u64) -> u64 {
    difference << 1 ^ ((difference as i64) >> 63) as u64
}

/// The difference that was made such a number.
#[inline]
pub(crate) fn unzigzag(value: u64) -> u64 {
    value >> 1 ^ (value & 1).wrapping_neg()
}

pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Takes a varint off the front of `bytes`. `None` where it is cut off or longer than a `u64`.
#[inline]
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    // Most are of one byte, and a cold block has six of them for each event.
    if let Some((first, rest)) = bytes.split_first()
        && *first < 0x80
    {
        *bytes = rest;
        return Some(u64::from(*first));
    }
    take_long_varint(bytes)
}

fn take_long_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if at == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (part, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(part)
}

/// Divides a body into the bytes of its pairs and its payload. A body whose section does not fit is all payload.
pub(crate) fn split(body: &[u8], has_metadata: bool) -> (&[u8], &[u8]) {
    let mut rest = body;
    if has_metadata
        && let Some(len) = take_varint(&mut rest)
        && let Some(pairs) = take(&mut rest, len)
    {
        return (pairs, rest);
    }
    (&[], body)
}

/// The same of the body of a record, which may begin with the moment at which its event expires, and end with a checksum.
#[inline(never)]
pub(crate) fn parts(body: &[u8], marks: Marks) -> (&[u8], &[u8]) {
    let [before, behind] = marks.around();
    let content = body.get(before..body.len().saturating_sub(behind));
    split(content.unwrap_or_default(), marks.has_metadata())
}

/// The moment that the body begins with of an event that expires.
#[cold]
pub(crate) fn expiry(body: &[u8]) -> i64 {
    body.first_chunk::<EXPIRY_LEN>().map_or(NEVER, |bytes| i64::from_le_bytes(*bytes))
}

/// Walks the key/value pairs of an event, in the order in which they were given.
#[derive(Clone, Debug)]
pub struct MetadataIter<'a> {
    rest: &'a [u8],
}

impl<'a> MetadataIter<'a> {
    pub(crate) fn new(pairs: &'a [u8]) -> Self {
        Self { rest: pairs }
    }
}

impl<'a> Iterator for MetadataIter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let mut part = || {
            let len = take_varint(&mut self.rest)?;
            take(&mut self.rest, len)
        };
        part().zip(part())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(metadata: Metadata<'_>, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; metadata.body_len(payload) as usize];
        metadata.write_body(payload, &mut out);
        out
    }

    #[test]
    fn pairs_and_payload_come_back() {
        let long = "v".repeat(300);
        let pairs = [("cell", "A7"), ("", ""), ("cell", long.as_str())];
        let bytes = body(Metadata::from(&pairs), b"payload");
        let (encoded, payload) = split(&bytes, true);
        let found: Vec<_> = MetadataIter::new(encoded).collect();
        assert_eq!(payload, b"payload");
        assert_eq!(found.len(), 3);
        assert_eq!(found[2], (&b"cell"[..], long.as_bytes()));
        assert_eq!(body(Metadata::Encoded(encoded), b"payload"), bytes);
        assert_eq!(body(Metadata::None, b"x"), b"x");
    }

    #[test]
    fn broken_sections_are_payload_and_broken_pairs_end_the_walk() {
        assert_eq!(split(&[200], true), (&[][..], &[200][..]));
        assert_eq!(split(&[5, 1], true).1, &[5, 1]);
        assert_eq!(MetadataIter::new(&[9, 1, 2]).count(), 0);
        assert_eq!(take_varint(&mut &[0xff; 11][..]), None);
    }

    #[test]
    fn varints_have_the_length_they_say() {
        for value in [0, 1, 127, 128, 16383, 16384, u64::MAX >> 1, u64::MAX] {
            let mut out = [0; 10];
            assert_eq!(put_varint(&mut out, 0, value), varint_len(value));
            assert_eq!(take_varint(&mut &out[..]), Some(value));
        }
    }
}
