//! Doors to the files of pages that outlive the process.

use crate::sys::shared::{copy_of, entries, mend_words, parse_copy};

/// Reads the bytes as a copy of the record that says what the other files are, as what it says, and as a log of names.
pub fn shared_record(bytes: &[u8]) {
    if let Some((_, text)) = parse_copy(bytes) {
        assert!(text.len() < bytes.len());
        crate::store::understands(&text);
    }
    // Behind a right checksum.
    if let Some((version, text)) = bytes.split_first() {
        let copy = copy_of(u32::from(*version), 3, text);
        let found = parse_copy(&copy);
        assert_eq!(found.is_some(), std::str::from_utf8(text).is_ok());
        if let Some((found_version, found)) = found {
            assert_eq!((found_version, found.as_bytes()), (u32::from(*version), text));
            crate::store::understands(&found);
        }
    }
    let (found, end) = entries(bytes);
    assert!(end <= bytes.len());
    let whole: usize = found.entries.iter().map(|entry| entry.len() + 8).sum();
    assert_eq!(whole as u64 + found.damaged, bytes.len() as u64);
}

/// The same for the entries of a log of names.
pub fn mend_names(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + 8) {
        let len = usize::from(u16::from_le_bytes([header[2], header[3]]));
        let Some(body) = bytes.get(at + 8..at + 8 + len) else { return };
        let crc = crc32fast::hash(body);
        bytes[at..at + 2].copy_from_slice(&[0xe5, 0x4e]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        at += 8 + len;
    }
}

/// The same for the image that a store leaves when it is closed. `number` is what it bears.
pub fn mend_image(bytes: &mut [u8], number: u64) {
    mend_words(bytes, number);
}

/// First inputs. Target, name and bytes of each.
pub(super) fn samples() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let text = "state open\nseed 00000000000000ff\nfirst_seq 1099511627776\npartitions 2\nhot.page_size 4096\n\
                class.0 64\nboot 5-6\npages 0000000000000009\n";
    let entry = |body: &[u8]| {
        let crc = crc32fast::hash(body).to_le_bytes();
        [&[0xe5, 0x4e, body.len() as u8, 0][..], &crc, body].concat()
    };
    let names = [entry(b"\0\0\0\0\0\0\0\x80first"), entry(b""), entry(b"12345678second")].concat();
    vec![
        ("shared_record", "record", copy_of(1, 9, text.as_bytes())),
        ("shared_record", "text", [&[1], text.as_bytes()].concat()),
        ("shared_record", "names", names),
    ]
}
