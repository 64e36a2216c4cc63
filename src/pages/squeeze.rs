//! LZ4 for many small inputs that are alike: they share a dictionary, whose places are looked up in a table that is made
//! once.
//!
//! What comes out is an LZ4 block, for a decoder that is given the same dictionary. `lz4_flex` could write it, too, but
//! makes the table anew for each input, which takes longer than packing a small one.

use std::ops::Range;

use crate::sys::memory::{wipe, wipe_all};

const BITS: u32 = 12;
/// The most of a dictionary that is of use, its end.
const DICTIONARY_MAX: usize = 4 << 10;
/// Dictionary and input lie in an array of a fixed size, behind bytes that are nothing: so the compiler knows that eight bytes
/// are there before and behind every place, and looks at none of them twice.
const WORK: usize = 32 << 10;
const BEFORE: usize = 8;
const BEHIND: usize = 16;
/// Lengths of matches are counted from this one.
const MATCH_MIN: usize = 4;
/// Of this length they are looked for. A match takes three bytes, and one of four splits what is between others: without them text takes
/// 2 % less room, and less time to pack and to unpack.
const MATCHED: usize = 5;
/// The format has it that the last match begins as far from the end, and ends as far from it.
const LAST_MATCH: usize = 12;
const LAST_LITERALS: usize = 5;
/// After so many places without a match the step to the next becomes longer by one: of bytes in no order, of which most events
/// have some, few are looked at. Steps that become longer twice as fast, up to 8, find 2 to 3 % less in text, and no more
/// of it behind such bytes.
const SKIP: usize = 4;

type Work = [u8; WORK + BEHIND];

struct Tables {
    /// By a hash of five bytes, a place in the input that had it, and one in the dictionary. Either may have become that of something
    /// else; the first place that there is stands for none.
    places: [[u16; 2]; 1 << BITS],
    /// The dictionary, and behind it the input.
    work: Work,
}

/// Packs inputs that share a dictionary, one after the other.
pub(super) struct Squeezer {
    tables: Box<Tables>,
    /// Where the input begins and ends, and the furthest that one has.
    begin: usize,
    end: usize,
    most: usize,
    /// An input that is too long for the work: all of it.
    large: Vec<u8>,
}

impl Squeezer {
    /// For inputs of so many bytes at most: of longer ones a copy may be left behind.
    pub(super) fn new(dictionary: &[u8], largest: usize) -> Self {
        let dictionary = &dictionary[dictionary.len().saturating_sub(DICTIONARY_MAX)..];
        let begin = BEFORE + dictionary.len();
        // Of zeros, so that it is not made elsewhere and copied.
        let mut tables = Box::new(Tables { places: [[0; 2]; 1 << BITS], work: [0; WORK + BEHIND] });
        tables.work[BEFORE..begin].copy_from_slice(dictionary);
        tables.places.fill([BEFORE as u16; 2]);
        for at in BEFORE..begin.saturating_sub(7) {
            tables.places[hash(word(&tables.work, at))][1] = at as u16;
        }
        let large = Vec::with_capacity(if begin + largest > WORK { largest } else { 0 });
        Self { tables, begin, end: begin, most: begin, large }
    }

    /// Adds bytes to the input.
    #[inline]
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let end = self.end + bytes.len();
        if self.large.is_empty() && end <= WORK {
            self.tables.work[self.end..end].copy_from_slice(bytes);
            self.end = end;
        } else {
            self.add_large(bytes);
        }
    }

    #[cold]
    fn add_large(&mut self, bytes: &[u8]) {
        if self.large.is_empty() {
            self.large.extend_from_slice(&self.tables.work[self.begin..self.end]);
        }
        self.large.extend_from_slice(bytes);
    }

    /// The input.
    pub(super) fn input(&self) -> &[u8] {
        if self.large.is_empty() { &self.tables.work[self.begin..self.end] } else { &self.large }
    }

    /// Ends the input; the next one begins.
    pub(super) fn forget(&mut self) {
        self.most = self.most.max(self.end);
        self.end = self.begin;
        if !self.large.is_empty() {
            wipe_all(&mut self.large);
        }
    }

    /// Overwrites what was copied.
    pub(super) fn wipe(&mut self) {
        self.forget();
        wipe(&mut self.tables.work[..self.most]);
    }

    /// Packs the input to the front of `out`, which has [`room_for`] it. How many bytes it takes.
    pub(super) fn squeeze(&mut self, out: &mut [u8]) -> usize {
        if self.large.is_empty() {
            return self.squeeze_small(out);
        }
        let dictionary = &self.tables.work[BEFORE..self.begin];
        // There is as much room as LZ4 asks for, so packing cannot fail; were it to, the input is as good as packed.
        lz4_flex::block::compress_into_with_dict(&self.large, out, dictionary).unwrap_or(usize::MAX)
    }

    /// Kept apart, so that what it needs most stays in registers.
    #[inline(never)]
    fn squeeze_small(&mut self, out: &mut [u8]) -> usize {
        let (begin, end) = (self.begin, self.end.min(WORK));
        let Tables { places, work } = &mut *self.tables;
        let work = &*work;
        // Without a dictionary there is nothing before the first byte.
        let (mut at, mut literals, mut len) = (begin.max(BEFORE + 1), begin, 0);
        let mut skip = SKIP;
        let last = end.saturating_sub(LAST_MATCH);
        while at <= last {
            let here = word(work, at);
            let slot = &mut places[hash(here)];
            // What is of an input before this one is as good as any other place, if it is one.
            let (near, far) = (usize::from(slot[0]).min(at - 1), usize::from(slot[1]));
            slot[0] = at as u16;
            let (near_differs, far_differs) = (word(work, near) ^ here, word(work, far) ^ here);
            let (found, differs) = if is_match(near_differs) {
                (near, near_differs)
            } else if is_match(far_differs) {
                (far, far_differs)
            } else {
                at += skip / SKIP;
                skip += 1;
                continue;
            };
            let forth = same(work, at, found, differs).min(end - LAST_LITERALS - at);
            let back = same_before(work, at, found, (at - literals).min(found - BEFORE));
            len = put(out, len, work, literals..at - back, (at - found, back + forth));
            at += forth;
            literals = at;
            skip = SKIP;
            if at <= last {
                places[hash(word(work, at - 2))][0] = (at - 2) as u16;
            }
        }
        put_literals(out, len, work, literals..end)
    }
}

/// The room that packing so many bytes needs, more than they can take.
pub(super) fn room_for(len: usize) -> usize {
    len + len / 8 + 64
}

/// The eight bytes at that place.
#[inline(always)]
fn word(work: &Work, at: usize) -> u64 {
    work[at % WORK..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// Of the first five bytes.
#[inline(always)]
fn hash(word: u64) -> usize {
    ((word << (64 - 8 * MATCHED)).wrapping_mul(0xcf_1bbc_dcbb) >> (64 - BITS)) as usize
}

/// Whether two words that differ by that have as many bytes in common as are looked for.
#[inline(always)]
fn is_match(differ: u64) -> bool {
    differ << (64 - 8 * MATCHED) == 0
}

/// How many bytes are the same from two places on, whose words differ by that; it may count what is behind the input.
#[inline(always)]
fn same(work: &Work, at: usize, found: usize, mut differ: u64) -> usize {
    let mut len = 0;
    while differ == 0 && at + len < WORK {
        len += 8;
        differ = word(work, found + len) ^ word(work, at + len);
    }
    len + (differ.trailing_zeros() / 8) as usize
}

/// How many bytes are the same before two places, of so many.
#[inline(always)]
fn same_before(work: &Work, at: usize, found: usize, most: usize) -> usize {
    let mut len = 0;
    loop {
        let differ = word(work, found - 8 - len) ^ word(work, at - 8 - len);
        len += (differ.leading_zeros() / 8) as usize;
        if differ != 0 || len >= most {
            return len.min(most);
        }
    }
}

/// Writes literals and a match, how far back and how long, behind the first bytes of `out`. How many it has then.
#[inline(always)]
fn put(
    out: &mut [u8],
    len: usize,
    work: &Work,
    literals: Range<usize>,
    (back, matched): (usize, usize),
) -> usize {
    let (many, more) = (literals.end.wrapping_sub(literals.start), matched - MATCH_MIN);
    // Most are short: sixteen bytes are copied faster than as many as there are.
    if many < 15
        && more < 15
        && let Some(out) = out.get_mut(len..).and_then(|out| out.first_chunk_mut::<20>())
    {
        out[0] = (many << 4 | more) as u8;
        out[1..17].copy_from_slice(&work[literals.start % WORK..][..BEHIND]);
        out[1 + many..3 + many].copy_from_slice(&(back as u16).to_le_bytes());
        return len + 3 + many;
    }
    let token = len;
    let len = put_literals(out, len, work, literals);
    out[token] |= more.min(15) as u8;
    out[len..len + 2].copy_from_slice(&(back as u16).to_le_bytes());
    put_rest(out, len + 2, more)
}

#[inline(never)]
fn put_literals(out: &mut [u8], len: usize, work: &Work, literals: Range<usize>) -> usize {
    out[len] = (literals.len().min(15) << 4) as u8;
    let len = put_rest(out, len + 1, literals.len());
    let end = len + literals.len();
    out[len..end].copy_from_slice(&work[literals]);
    end
}

/// What of a length is not in the first byte.
#[inline]
fn put_rest(out: &mut [u8], mut len: usize, value: usize) -> usize {
    if let Some(mut rest) = value.checked_sub(15) {
        while rest >= 255 {
            out[len] = 255;
            rest -= 255;
            len += 1;
        }
        out[len] = rest as u8;
        len += 1;
    }
    len
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

    fn squeezed(squeezer: &mut Squeezer, input: &[u8]) -> Vec<u8> {
        for part in input.chunks(777) {
            squeezer.add(part);
        }
        assert_eq!(squeezer.input(), input);
        let mut out = vec![9; room_for(input.len())];
        let len = squeezer.squeeze(&mut out);
        squeezer.forget();
        out.truncate(len);
        out
    }

    #[test]
    fn what_is_squeezed_comes_back() {
        let seed = &mut 7;
        for dictionary in [0, 1, 8, 40, 300, 1064, DICTIONARY_MAX, 2 * DICTIONARY_MAX] {
            let dictionary = text(seed, dictionary);
            let mut squeezer = Squeezer::new(&dictionary, 0);
            for len in (0..80).chain([500, 1000, 5000, 30_000, 70_000, 200_000, 300, 20]) {
                let input = text(seed, len);
                let out = squeezed(&mut squeezer, &input);
                assert_eq!(unpacked(&out, len, &dictionary), input, "{len} bytes, {}", dictionary.len());
            }
        }
    }

    /// Of few different bytes: matches begin and end everywhere, also where the dictionary does.
    #[test]
    fn matches_at_all_places_come_back() {
        let seed = &mut 3;
        for round in 0..2000 {
            let kinds = [1, 2, 3, 4, 16, 256][round % 6];
            let mut bytes: Vec<u8> = Vec::new();
            let len = random(seed) as usize % 500 + 20;
            while bytes.len() < len {
                let from = (random(seed) as usize % (bytes.len() + 1)).max(bytes.len().saturating_sub(300));
                let copied =
                    bytes[from..].iter().copied().take(random(seed) as usize % 40).collect::<Vec<_>>();
                bytes.extend_from_slice(&copied);
                bytes.push((random(seed) % kinds) as u8);
            }
            let (dictionary, inputs) = bytes.split_at(random(seed) as usize % 100 % len);
            let mut squeezer = Squeezer::new(dictionary, 1000);
            for input in [inputs, &inputs[..inputs.len() / 2], dictionary, &[dictionary, inputs].concat()] {
                let out = squeezed(&mut squeezer, input);
                assert_eq!(unpacked(&out, input.len(), dictionary), input, "round {round}");
            }
        }
    }

    #[test]
    fn what_the_dictionary_has_takes_next_to_nothing() {
        let seed = &mut 1;
        let dictionary: Vec<u8> = (0..1000).map(|_| random(seed) as u8).collect();
        let mut squeezer = Squeezer::new(&dictionary, 300);
        for from in [0, 300, 700] {
            let out = squeezed(&mut squeezer, &dictionary[from..from + 300]);
            assert!(out.len() < 20, "{} bytes", out.len());
            let out = squeezed(&mut squeezer, &[b'x'; 300]);
            assert!(out.len() < 20, "{} bytes of one kind", out.len());
        }
    }

    #[test]
    fn bytes_behind_some_in_no_order_are_still_found() {
        let seed = &mut 5;
        let dictionary = text(seed, 1000);
        let mut squeezer = Squeezer::new(&dictionary, 3000);
        for noise in [0, 100, 1000, 2000] {
            let mut input: Vec<u8> = (0..noise).map(|_| random(seed) as u8).collect();
            input.extend_from_slice(&dictionary[..500]);
            let len = squeezed(&mut squeezer, &input).len();
            assert!(len < noise + noise / 100 + 30, "{len} bytes, {noise} of them noise");
        }
    }

    /// They may be of a sensitive class.
    #[test]
    fn no_copy_of_an_input_stays() {
        let secret = b"very secret indeed";
        let mut squeezer = Squeezer::new(b"dictionary", 0);
        for len in [100, 2, WORK + 100] {
            squeezed(&mut squeezer, &secret.repeat(len / secret.len() + 1));
        }
        squeezer.wipe();
        assert!(squeezer.large.is_empty());
        assert!(squeezer.tables.work.iter().all(|byte| *byte == 0));
    }
}
