//! LZ4 for many small inputs that are alike: they share a dictionary, whose places are looked up in a table that is made
//! once.
//!
//! What comes out is an LZ4 block, for a decoder that is given the same dictionary. `lz4_flex` could write it, too, but
//! makes the table anew for each input, which takes longer than packing a small one.

const SHARED_BITS: u32 = 12;
const OWN_BITS: u32 = 10;
/// The most that a dictionary may have: its places are kept in 16 bits.
pub(super) const DICTIONARY_MAX: usize = 4 << 10;
/// A match takes three bytes.
const MATCH_MIN: usize = 4;
/// The format has it that the last match begins as far from the end, and ends as far from it.
const LAST_MATCH: usize = 12;
const LAST_LITERALS: usize = 5;
/// The furthest that a match can be away.
const FAR: usize = u16::MAX as usize;
/// The longest step from one place that is looked at to the next. Every other place without a match makes the step longer by one:
/// of bytes in no order, of which most events have some, few are looked at. Twice as long steps are a tenth faster and take up
/// to 7 % more room.
const STEP_MAX: usize = 8;

/// Packs inputs that share a dictionary.
pub(super) struct Squeezer {
    /// Places in the dictionary, by a hash of the five bytes there; the first where there is none.
    shared: Box<[u16; 1 << SHARED_BITS]>,
    /// Places in the inputs so far, all of them one after the other; only those in the present one are of use.
    own: Box<[u32; 1 << OWN_BITS]>,
    /// Where the present input's work begins among them.
    begin: u32,
}

impl Squeezer {
    /// For inputs that share a dictionary, of at least eight bytes, or none.
    pub(super) fn new(dictionary: &[u8]) -> Self {
        let mut shared = Box::new([0; 1 << SHARED_BITS]);
        for at in 0..dictionary.len().min(DICTIONARY_MAX).saturating_sub(7) {
            shared[hash(word(dictionary, at), SHARED_BITS)] = at as u16;
        }
        Self { shared, own: Box::new([0; 1 << OWN_BITS]), begin: 0 }
    }

    /// Packs what follows the dictionary in `work`, whose first `dictionary` bytes are that, behind what `out` has.
    pub(super) fn squeeze(&mut self, work: &[u8], dictionary: usize, out: &mut Vec<u8>) {
        // Without a dictionary there is nothing before the first byte.
        let (mut at, mut literals) = (dictionary.max(1), dictionary);
        let mut misses = 0;
        while at + LAST_MATCH <= work.len() {
            let Some(found) = self.find(work, at) else {
                at += (1 + misses / 2).min(STEP_MAX);
                misses += 1;
                continue;
            };
            let (first, lowest) = (found, if found < dictionary { 0 } else { dictionary });
            // What it may take in before, and then how far it goes.
            let before = work[literals..at].iter().rev().zip(work[lowest..first].iter().rev());
            let back = before.take_while(|(here, there)| here == there).count();
            let (from, found) = (at - back, found - back);
            let end = if found < dictionary { dictionary } else { work.len() };
            let len = back + MATCH_MIN + same(work, first + MATCH_MIN, end, at + MATCH_MIN);
            // The input follows the dictionary, wherever in it the match is.
            put(out, &work[literals..from], Some((from - found, len)));
            at = from + len;
            literals = at;
            misses = 0;
            if at + LAST_MATCH <= work.len() {
                self.own[hash(word(work, at - 2), OWN_BITS)] = self.begin + (at - 2) as u32;
            }
        }
        put(out, &work[literals..], None);
        self.begin += work.len() as u32;
    }

    /// Where the bytes at that place were before. Most were nowhere, and which place is looked at instead is as good as random:
    /// so all that can be told without a branch is.
    #[inline(always)]
    fn find(&mut self, work: &[u8], at: usize) -> Option<usize> {
        let here = word(work, at);
        let own = &mut self.own[hash(here, OWN_BITS)];
        // What is of an input before this one seems to be far behind.
        let near = own.wrapping_sub(self.begin) as usize;
        let near = if near < at { near } else { 0 };
        *own = self.begin + at as u32;
        let far = usize::from(self.shared[hash(here, SHARED_BITS)]);
        let is_near = (word(work, near) ^ here) as u32 == 0;
        if !(is_near | ((word(work, far) ^ here) as u32 == 0)) {
            return None;
        }
        Some(if is_near { near } else { far }).filter(|place| at - place <= FAR)
    }
}

/// The eight bytes at that place; zero where there are not so many.
#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}

/// Of the first five bytes.
#[inline(always)]
fn hash(word: u64, bits: u32) -> usize {
    ((word << 24).wrapping_mul(0xcf1b_bcdc_bfa5_6300) >> (64 - bits)) as usize
}

/// How many bytes are the same from those two places on, the earlier up to `end`, the later up to the last that may match.
#[inline]
fn same(bytes: &[u8], earlier: usize, end: usize, later: usize) -> usize {
    let most = (bytes.len() - LAST_LITERALS).saturating_sub(later).min(end - earlier);
    let (earlier, later) = (&bytes[earlier..earlier + most], &bytes[later..later + most]);
    let (earlier_words, _) = earlier.as_chunks::<8>();
    let (later_words, _) = later.as_chunks::<8>();
    let mut len = 0;
    for (one, other) in earlier_words.iter().zip(later_words) {
        let differ = u64::from_le_bytes(*one) ^ u64::from_le_bytes(*other);
        if differ != 0 {
            return len + (differ.trailing_zeros() / 8) as usize;
        }
        len += 8;
    }
    len + earlier[len..].iter().zip(&later[len..]).take_while(|(one, other)| one == other).count()
}

/// Writes literals, and a match: how far back, and how long.
fn put(out: &mut Vec<u8>, literals: &[u8], matched: Option<(usize, usize)>) {
    let more = matched.map_or(0, |(_, len)| len - MATCH_MIN);
    out.push((literals.len().min(15) << 4 | more.min(15)) as u8);
    put_rest(out, literals.len());
    out.extend_from_slice(literals);
    if let Some((back, _)) = matched {
        out.extend_from_slice(&(back as u16).to_le_bytes());
        put_rest(out, more);
    }
}

/// What of a length is not in the first byte.
#[inline]
fn put_rest(out: &mut Vec<u8>, len: usize) {
    if let Some(mut rest) = len.checked_sub(15) {
        while rest >= 255 {
            out.push(255);
            rest -= 255;
        }
        out.push(rest as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in no order, the same in each run.
    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    }

    /// Words and noise.
    fn text(seed: &mut u64, len: usize) -> Vec<u8> {
        let words = ["state", "attached", "cell", "next", "null", "0000000000000000000000000000000000000000"];
        let mut text = Vec::new();
        while text.len() < len {
            match random(seed) % 8 {
                0 => (0..random(seed) % 40).for_each(|_| text.push(random(seed) as u8)),
                word => text.extend_from_slice(words[word as usize % words.len()].as_bytes()),
            }
        }
        text.truncate(len);
        text
    }

    fn unpacked(packed: &[u8], len: usize, dictionary: &[u8]) -> Vec<u8> {
        let mut out = vec![0; len];
        let written = lz4_flex::block::decompress_into_with_dict(packed, &mut out, dictionary).unwrap();
        assert_eq!(written, len);
        out
    }

    #[test]
    fn what_is_squeezed_comes_back() {
        let seed = &mut 7;
        for dictionary in [0, 8, 40, 300, 1064, DICTIONARY_MAX] {
            let dictionary = text(seed, dictionary);
            let mut squeezer = Squeezer::new(&dictionary);
            for len in (0..80).chain([500, 1000, 5000, 70_000, 200_000, 300, 20]) {
                let input = text(seed, len);
                let (work, mut out) = ([&dictionary[..], &input].concat(), vec![1, 2]);
                squeezer.squeeze(&work, dictionary.len(), &mut out);
                assert_eq!(unpacked(&out[2..], len, &dictionary), input, "{len} bytes, {}", dictionary.len());
            }
        }
    }

    #[test]
    fn what_the_dictionary_has_takes_next_to_nothing() {
        let seed = &mut 1;
        let dictionary: Vec<u8> = (0..1000).map(|_| random(seed) as u8).collect();
        let mut squeezer = Squeezer::new(&dictionary);
        for from in [0, 300, 700] {
            let (mut out, part) = (Vec::new(), &dictionary[from..from + 300]);
            squeezer.squeeze(&[&dictionary[..], part].concat(), dictionary.len(), &mut out);
            assert!(out.len() < 20, "{} bytes", out.len());
            out.clear();
            squeezer.squeeze(&[&dictionary[..], &vec![b'x'; 300]].concat(), dictionary.len(), &mut out);
            assert!(out.len() < 20, "{} bytes of one kind", out.len());
        }
    }
}
