//! What is known of the ids and streams of one cold block: a Bloom filter (Bloom, 1970) over both; or, where ids lie
//! close together, over the streams only, and a bit for each id between the least and the greatest.
//!
//! The filter has ten bits for each key and seven probes (Kirsch and Mitzenmacher's double hashing, 2006): about one wrong "yes" in
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
        let mut filter = Self::with_room(ids.len() + streams.len());
        ids.for_each(|id| filter.add(mix(id, ID_SEED)));
        streams.for_each(|stream| filter.add(mix(stream, STREAM_SEED)));
        filter
    }

    pub(crate) fn of_streams(streams: impl ExactSizeIterator<Item = u64>) -> Self {
        let mut filter = Self::with_room(streams.len());
        streams.for_each(|stream| filter.add(mix(stream, STREAM_SEED)));
        filter
    }

    fn with_room(keys: usize) -> Self {
        Self { words: vec![0; (keys * BITS_PER_KEY).div_ceil(64).max(1)].into() }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self { words: words_of(bytes) }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        bytes_of(&self.words)
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

/// A bit for each id of a block, from its least to its greatest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exact {
    words: Box<[u64]>,
}

impl Exact {
    /// `None`: the ids lie too far apart, a filter takes less room.
    pub(crate) fn new(min: u64, max: u64, ids: impl ExactSizeIterator<Item = u64>) -> Option<Self> {
        let words = Self::words(min, max)?;
        if words > (ids.len() * BITS_PER_KEY).div_ceil(64) {
            return None;
        }
        let mut exact = Self { words: vec![0; words].into() };
        for id in ids.map(|id| id.wrapping_sub(min)) {
            *exact.words.get_mut((id / 64) as usize)? |= 1 << (id % 64);
        }
        Some(exact)
    }

    fn words(min: u64, max: u64) -> Option<usize> {
        usize::try_from(max.checked_sub(min)? / 64).ok()?.checked_add(1)
    }

    /// Reads it from the front of bytes, and gives what is behind it. `None`: it is longer than they are.
    pub(crate) fn split(min: u64, max: u64, bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (own, rest) = bytes.split_at_checked(Self::words(min, max)?.checked_mul(8)?)?;
        Some((Self { words: words_of(own) }, rest))
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        bytes_of(&self.words)
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Whether the block has the id that lies so far above the least.
    pub(crate) fn has(&self, above: u64) -> bool {
        let above = above + u64::from(cfg!(canary = "exact-id-off-by-one"));
        self.words.get((above / 64) as usize).is_some_and(|word| word >> (above % 64) & 1 == 1)
    }
}

fn words_of(bytes: &[u8]) -> Box<[u64]> {
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        u64::from_le_bytes(word)
    };
    bytes.chunks_exact(8).map(word).collect()
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_ids_are_those_that_were_given_and_are_had_where_they_take_less_room() {
        let ids: Vec<u64> = (0..500).map(|id| u64::MAX - 7 * id).collect();
        let (min, max) = (u64::MAX - 7 * 499, u64::MAX);
        let exact = Exact::new(min, max, ids.iter().copied()).unwrap();
        assert!((min..=max).all(|id| exact.has(id - min) == ids.contains(&id)));
        assert!(exact.len_bytes() <= Filter::new(ids.iter().copied(), [].into_iter()).len_bytes());
        let bytes = [exact.to_bytes(), vec![1, 2, 3]].concat();
        assert_eq!(Exact::split(min, max, &bytes), Some((exact, &[1, 2, 3][..])));
        assert_eq!(Exact::split(0, u64::MAX, &bytes), None);
        assert_eq!(Exact::split(1, 0, &bytes), None);
        assert_eq!(Exact::new(0, u64::MAX, [0, u64::MAX].into_iter()), None);
        assert_eq!(
            Exact::new(0, 11 * 499, (0..500).map(|id| id * 11).collect::<Vec<u64>>().into_iter()),
            None
        );
        assert_eq!(Exact::new(u64::MAX, 0, [].into_iter()), None, "a block of no events");
    }

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
