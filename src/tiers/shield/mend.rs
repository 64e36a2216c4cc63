//! What is to be had of a spool file from a place on where no whole record begins.
//!
//! Records follow each other without gaps, so a header that is damaged hides where the next one begins. The checksum tells:
//! it covers the length and everything behind it, so of all places where a record might end only the right one makes it
//! come out. Such a record is mended. Where that fails, what is behind is looked for by its own headers and checksums.

use crate::tiers::shield::spool::{HEADER, MAGIC, RECORD_MAX, decode};

/// What was found at the front of some bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// A record that is whole but for its header, that header as it should be, and the length of all.
    Mended { header: [u8; HEADER], len: usize },
    /// So many bytes that are of no use; behind them is a record, or the end.
    Damaged { len: usize },
    /// A record that was being written when the process ended, which was never acknowledged, or nothing at all.
    CutOff,
}

/// Looks at bytes up to the end of their file, at the front of which is no whole record.
pub(crate) fn look(bytes: &[u8]) -> Found {
    if bytes.iter().all(|byte| *byte == 0) {
        return Found::CutOff;
    }
    if let Some((header, len)) = mended(bytes) {
        return Found::Mended { header, len };
    }
    let claim = claim(bytes).map(|claim| HEADER + claim);
    if let Some(len) =
        claim.filter(|len| *len == bytes.len() || is_record(bytes.get(*len..).unwrap_or_default()))
    {
        return Found::Damaged { len };
    }
    let next = marks(bytes).find(|at| is_record(&bytes[*at..]));
    let looks_cut_off = bytes.iter().zip(MAGIC).all(|(byte, magic)| byte == magic)
        && claim.is_none_or(|len| len > bytes.len());
    match next {
        None if looks_cut_off => Found::CutOff,
        // Somebody may have made an event that looks like a record, and a process that ends while that is written is no
        // damage: what is in there is kept for people to look at, but not taken for a record.
        Some(_) if looks_cut_off => Found::Damaged { len: bytes.len() },
        next => Found::Damaged { len: next.unwrap_or(bytes.len()) },
    }
}

/// The length of the body, as the header says it, if it begins as it should and one so long is believed.
fn claim(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER>()?;
    let [.., a, b, c, d] = *header;
    let claim = u32::from_le_bytes([a, b, c, d]) as usize;
    (header.starts_with(MAGIC) && claim <= RECORD_MAX).then_some(claim)
}

/// Whether a whole record begins there.
fn is_record(bytes: &[u8]) -> bool {
    let record = claim(bytes).and_then(|len| bytes.get(..HEADER + len));
    record.is_some_and(|record| decode(&record[..HEADER], &record[HEADER..]).is_some())
}

/// Where a header might begin, but for the front.
fn marks(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let found = bytes.windows(MAGIC.len()).enumerate().skip(1);
    found.filter(|(_, window)| window == MAGIC).map(|(at, _)| at)
}

/// The header as it should be, and the length of the record, if there is an end that makes its checksum come out.
fn mended(bytes: &[u8]) -> Option<([u8; HEADER], usize)> {
    let mut header = *bytes.first_chunk::<HEADER>()?;
    header[..MAGIC.len()].copy_from_slice(MAGIC);
    let crc = [header[4], header[5], header[6], header[7]];
    let (mut sum, mut from) = (crc32fast::Hasher::new(), HEADER);
    for end in marks(bytes).filter(|at| *at > HEADER).chain([bytes.len()]) {
        if end - HEADER > RECORD_MAX {
            break;
        }
        sum.update(&bytes[from..end]);
        from = end;
        let len = ((end - HEADER) as u32).to_le_bytes();
        let mut whole = crc32fast::Hasher::new();
        whole.update(&len);
        whole.combine(&sum);
        if whole.finalize().to_le_bytes() == crc {
            header[8..].copy_from_slice(&len);
            return decode(&header, &bytes[HEADER..end]).map(|_| (header, end));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::block::BlockId;
    use crate::tiers::cold::{ColdBlock, Tombstone};
    use crate::tiers::shield::remote::{Change, Op, Stamp};
    use crate::tiers::shield::spool::encode;

    fn records(payload: &[u8]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut begins) = (Vec::new(), Vec::new());
        for seq in 0..3u64 {
            begins.push(bytes.len());
            let id = BlockId { partition: 0, class: 0, first_seq: seq };
            let block = ColdBlock { id, bytes: payload.to_vec(), summary: vec![1; 20] };
            encode(&Op { stamp: Stamp::default(), change: Change::Block(block) }, &mut bytes);
        }
        begins.push(bytes.len());
        (bytes, begins)
    }

    #[test]
    fn a_header_is_mended_whatever_its_magic_and_length_say() {
        let (whole, begins) = records(&[b"text ".as_slice(), MAGIC, MAGIC, b"ESK"].concat());
        for (at, begin) in begins.iter().take(3).enumerate() {
            for byte in (0..4).chain(8..12) {
                for bit in 0..8 {
                    let mut bytes = whole[*begin..].to_vec();
                    bytes[byte] ^= 1 << bit;
                    let len = begins[at + 1] - begin;
                    let header = *whole[*begin..].first_chunk().unwrap();
                    assert_eq!(look(&bytes), Found::Mended { header, len }, "byte {byte}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn what_is_behind_damage_is_found() {
        let (whole, begins) = records(b"text");
        let mut bytes = whole.clone();
        bytes[HEADER + 3] ^= 1;
        assert_eq!(look(&bytes), Found::Damaged { len: begins[1] }, "the length is right");
        bytes[8] ^= 1;
        assert_eq!(look(&bytes), Found::Damaged { len: begins[1] }, "the length is wrong");
        bytes[..begins[1]].fill(7);
        assert_eq!(look(&bytes), Found::Damaged { len: begins[1] }, "nothing is left of it");
        bytes[begins[1]..].fill(7);
        assert_eq!(look(&bytes), Found::Damaged { len: bytes.len() });
        assert_eq!(look(&[0; 4096]), Found::CutOff);
    }

    #[test]
    fn a_record_that_was_cut_off_is_none_although_there_is_one_in_it() {
        let mut forged = Vec::new();
        let stone = Tombstone::new(1, 0, 0, u64::MAX);
        encode(&Op { stamp: Stamp::default(), change: Change::Tombstone(stone) }, &mut forged);
        for (payload, found) in [(&b"plain"[..], false), (&forged, true)] {
            let (whole, begins) = records(payload);
            for end in [1, 4, HEADER, begins[1] - 30, begins[1] - 1] {
                let has_it =
                    found && end > HEADER + 60 && whole[..end].windows(forged.len()).any(|at| at == forged);
                let expected = if has_it { Found::Damaged { len: end } } else { Found::CutOff };
                assert_eq!(look(&whole[..end]), expected, "cut at {end}");
            }
        }
    }
}
