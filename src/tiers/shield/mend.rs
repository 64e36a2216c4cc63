//! What is to be had of a spool file from a place on where no whole record begins.
//!
//! Records follow each other without gaps, so a header that is damaged hides where the next one begins. The checksum tells:
//! it covers the length and everything behind it, so of all places where a record might end only the right one makes it
//! come out. Such a record is mended. Where that fails, what is behind is looked for by its own headers and checksums.

use crate::tiers::shield::record::{HEADER, MAGIC, RECORD_MAX, decode};

/// Bytes between two places up to which the checksum of everything before is kept.
const STEP: usize = 256;
/// How many ends are tried for a record whose header is damaged, and for all of a file: by far more than a file has that
/// nobody has made to be slow. Records that would take more count as damaged.
const TRIES: usize = 1 << 14;
const TRIES_OF_ALL: usize = 1 << 17;

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

/// The end of a file, looked at in several places. Whatever is in there, looking at all of it takes time in proportion to
/// its length: no byte is summed up for more than one mark.
pub(crate) struct Rest<'b> {
    bytes: &'b [u8],
    /// Where a header might begin.
    marks: Vec<usize>,
    /// The checksum of everything before each multiple of [`STEP`].
    sums: Vec<u32>,
    tries: usize,
}

impl<'b> Rest<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        let windows = bytes.windows(MAGIC.len()).enumerate();
        let marks = windows.filter(|(_, window)| window == MAGIC).map(|(at, _)| at).collect();
        let mut sums = vec![0];
        let mut sum = crc32fast::Hasher::new();
        for step in bytes.chunks(STEP) {
            sum.update(step);
            sums.push(sum.clone().finalize());
        }
        Self { bytes, marks, sums, tries: TRIES_OF_ALL }
    }

    /// Looks at the bytes from there on, at the front of which is no whole record.
    pub(crate) fn look(&mut self, at: usize) -> Found {
        let bytes = self.bytes.get(at..).unwrap_or_default();
        if bytes.iter().all(|byte| *byte == 0) {
            return Found::CutOff;
        }
        if let Some((header, len)) = self.mended(at) {
            return Found::Mended { header, len };
        }
        let claim = claim(bytes).map(|claim| HEADER + claim);
        if let Some(len) = claim.filter(|len| *len == bytes.len() || self.is_record(at + len)) {
            return Found::Damaged { len };
        }
        let next = self.marks_behind(at).find(|mark| self.is_record(*mark)).map(|mark| mark - at);
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

    fn marks_behind(&self, at: usize) -> impl Iterator<Item = usize> {
        self.marks[self.marks.partition_point(|mark| *mark <= at)..].iter().copied()
    }

    /// Whether a whole record begins there.
    fn is_record(&self, at: usize) -> bool {
        let bytes = self.bytes.get(at..).unwrap_or_default();
        let Some(len) = claim(bytes).map(|len| HEADER + len).filter(|len| *len <= bytes.len()) else {
            return false;
        };
        // The checksum is over the length, which is in front of the body, and the body.
        self.sum(at + HEADER - 4, at + len).to_le_bytes() == bytes[4..8]
            && decode(&bytes[..HEADER], &bytes[HEADER..len]).is_some()
    }

    /// The checksum of the bytes from one place up to another.
    fn sum(&self, from: usize, to: usize) -> u32 {
        let before = |at: usize| {
            let mut sum = crc32fast::Hasher::new_with_initial(self.sums[at / STEP]);
            sum.update(&self.bytes[at / STEP * STEP..at]);
            sum.finalize()
        };
        // That of two parts is that of the first one, moved on by the length of the second, with that of the second added.
        let mut moved = crc32fast::Hasher::new_with_initial(before(from));
        moved.combine(&crc32fast::Hasher::new_with_initial_len(0, (to - from) as u64));
        moved.finalize() ^ before(to)
    }

    /// The header as it should be, and the length of the record, if there is an end that makes its checksum come out.
    fn mended(&mut self, at: usize) -> Option<([u8; HEADER], usize)> {
        let mut header = *self.bytes.get(at..)?.first_chunk::<HEADER>()?;
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        let crc = [header[4], header[5], header[6], header[7]];
        let (begin, mut tries) = (at + HEADER, TRIES.min(self.tries));
        let most = self.bytes.len().min(begin.saturating_add(RECORD_MAX));
        let ends = self.marks_behind(at).filter(|end| (begin + 1..=most).contains(end));
        let end = ends.chain(Some(self.bytes.len()).filter(|end| *end == most)).find(|end| {
            let Some(left) = tries.checked_sub(1) else { return false };
            tries = left;
            let mut whole = crc32fast::Hasher::new();
            whole.update(&((end - begin) as u32).to_le_bytes());
            whole.combine(&crc32fast::Hasher::new_with_initial_len(
                self.sum(begin, *end),
                (end - begin) as u64,
            ));
            whole.finalize().to_le_bytes() == crc
        });
        self.tries -= TRIES.min(self.tries) - tries;
        let end = end?;
        header[8..].copy_from_slice(&((end - begin) as u32).to_le_bytes());
        decode(&header, &self.bytes[begin..end]).map(|_| (header, end - at))
    }
}

/// The length of the body, as the header says it, if it begins as it should and one so long is believed.
fn claim(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER>()?;
    let [.., a, b, c, d] = *header;
    let claim = u32::from_le_bytes([a, b, c, d]) as usize;
    (header.starts_with(MAGIC) && claim <= RECORD_MAX).then_some(claim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::block::BlockId;
    use crate::tiers::cold::{ColdBlock, Tombstone};
    use crate::tiers::shield::record::encode;
    use crate::tiers::shield::remote::{Change, Op, Stamp};

    fn look(bytes: &[u8]) -> Found {
        Rest::new(bytes).look(0)
    }

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

    #[test]
    fn the_sum_of_any_part_is_that_of_its_bytes() {
        let bytes: Vec<u8> = (0..3000u32).map(|at| ((at * at) >> 3) as u8).collect();
        let rest = Rest::new(&bytes);
        for from in (0..3000).step_by(37) {
            for to in (from..=3000).step_by(41).chain([3000]) {
                assert_eq!(rest.sum(from, to), crc32fast::hash(&bytes[from..to]), "{from}..{to}");
            }
        }
    }

    /// Marks everywhere whose records claim to be long, headers everywhere that want to be mended, and records between
    /// damage: each byte would be summed up for each mark before it.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test that measures")]
    fn a_file_that_was_made_to_be_slow_is_looked_at_in_time() {
        let mut claims = Vec::new();
        while claims.len() < 2 << 20 {
            claims.extend_from_slice(MAGIC);
            claims.extend_from_slice(&[7; 4]);
            claims.extend_from_slice(&(1u32 << 20).to_le_bytes());
        }
        let (whole, begins) = records(b"text");
        let record = &whole[..begins[1]];
        let mut between = Vec::new();
        while between.len() < 1 << 20 {
            between.extend_from_slice(b"esks damaged");
            between.extend_from_slice(record);
        }
        for (bytes, expected) in [(&claims, 0), (&between, between.len() / (record.len() + 12))] {
            let begin = std::time::Instant::now();
            let (mut rest, mut at, mut records) = (Rest::new(bytes), 0, 0);
            while at < bytes.len() {
                if rest.is_record(at) {
                    (records, at) = (records + 1, at + record.len());
                    continue;
                }
                match rest.look(at) {
                    Found::Damaged { len } | Found::Mended { len, .. } => at += len,
                    Found::CutOff => break,
                }
            }
            assert_eq!(records, expected);
            // Ten minutes and more, if each mark took its claim.
            assert!(begin.elapsed() < std::time::Duration::from_secs(120), "{:?}", begin.elapsed());
        }
    }
}
