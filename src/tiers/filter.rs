//! A Bloom filter (Bloom, 1970) over the ids and streams of one cold block.
//!
//! Ten bits for each key and seven probes (Kirsch and Mitzenmacher's double hashing, 2006): about one wrong "yes" in
//! a hundred, never a wrong "no". The bits are stored with the block, so hash and layout must not change.

use crate::ids::mix;

const BITS_PER_KEY: usize = 10;
const PROBES: u64 = 7;
const ID_SEED: u64 = 0x1d;
const STREAM_SEED: u64 = 0x57;

/// The bits. Empty means "may hold anything".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    words: Box<[u64]>,
}

impl Filter {
    pub(crate) fn new(
        ids: impl ExactSizeIterator<Item = u64>,
        streams: impl ExactSizeIterator<Item = u64>,
    ) -> Self {
        let words = ((ids.len() + streams.len()) * BITS_PER_KEY).div_ceil(64).max(1);
        let mut filter = Self { words: vec![0; words].into() };
        ids.for_each(|id| filter.add(mix(id, ID_SEED)));
        streams.for_each(|stream| filter.add(mix(stream, STREAM_SEED)));
        filter
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            u64::from_le_bytes(word)
        };
        Self { words: bytes.chunks_exact(8).map(word).collect() }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.words.len() * 8
    }

    pub(crate) fn may_hold_id(&self, id: u64) -> bool {
        self.may_hold(mix(id, ID_SEED))
    }

    pub(crate) fn may_hold_stream(&self, stream: u64) -> bool {
        self.may_hold(mix(stream, STREAM_SEED))
    }

    fn probes(&self, hash: u64) -> impl Iterator<Item = (usize, u64)> + use<> {
        let (bits, step) = (self.words.len() as u64 * 64, hash.rotate_left(32) | 1);
        (0..PROBES).map(move |probe| {
            let bit =
                ((u128::from(hash.wrapping_add(probe.wrapping_mul(step))) * u128::from(bits)) >> 64) as u64;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    fn add(&mut self, hash: u64) {
        for (word, bit) in self.probes(hash) {
            self.words[word] |= bit;
        }
    }

    fn may_hold(&self, hash: u64) -> bool {
        self.words.is_empty() || self.probes(hash).all(|(word, bit)| self.words[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_denied_and_few_others_are_granted() {
        let filter =
            Filter::new((0..1000u64).map(|id| id * 3).collect::<Vec<_>>().into_iter(), [7u64].into_iter());
        assert!((0..1000).all(|id| filter.may_hold_id(id * 3)) && filter.may_hold_stream(7));
        let wrong = (0..100_000u64).filter(|id| filter.may_hold_id(id * 3 + 1)).count();
        assert!(wrong < 2000, "{wrong} of 100,000 wrong");
        assert_eq!(Filter::from_bytes(&filter.to_bytes()), filter);
        assert!(Filter::default().may_hold_id(1));
    }
}
