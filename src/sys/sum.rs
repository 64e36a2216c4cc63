//! A checksum over words in memory that is shared.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bytes that are put together before they are summed up.
const BLOCK: usize = 4096;

/// CRC-32 of words as they are in little-endian order. Words that change meanwhile are read whole, each at some moment.
pub(crate) struct Sum {
    crc: crc32fast::Hasher,
    block: [u8; BLOCK],
    len: usize,
}

impl Default for Sum {
    fn default() -> Self {
        Self { crc: crc32fast::Hasher::new(), block: [0; BLOCK], len: 0 }
    }
}

impl Sum {
    pub(crate) fn add(&mut self, words: &[u64]) {
        self.blocks(words, |word| word.to_le_bytes());
    }

    pub(crate) fn add_words(&mut self, words: &[AtomicU64]) {
        self.blocks(words, |word| word.load(Ordering::Relaxed).to_le_bytes());
    }

    pub(crate) fn add_halves(&mut self, words: &[AtomicU32]) {
        self.blocks(words, |word| word.load(Ordering::Relaxed).to_le_bytes());
    }

    #[inline]
    fn blocks<T, const N: usize>(&mut self, mut words: &[T], bytes_of: impl Fn(&T) -> [u8; N]) {
        while !words.is_empty() {
            if BLOCK - self.len < N {
                self.flush();
            }
            let (now, later) = words.split_at(words.len().min((BLOCK - self.len) / N));
            let (room, _) = self.block[self.len..].as_chunks_mut::<N>();
            for (to, word) in room.iter_mut().zip(now) {
                *to = bytes_of(word);
            }
            self.len += now.len() * N;
            words = later;
        }
    }

    fn flush(&mut self) {
        self.crc.update(&self.block[..self.len]);
        self.len = 0;
    }

    pub(crate) fn finish(mut self) -> u32 {
        self.flush();
        self.crc.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_that_of_the_bytes() {
        let words: Vec<u64> = (0..1300u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let halves: Vec<AtomicU32> =
            words.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]).map(AtomicU32::new).collect();
        let shared: Vec<AtomicU64> = words.iter().copied().map(AtomicU64::new).collect();
        let sums: [&dyn Fn(&mut Sum); 3] =
            [&|sum| sum.add(&words), &|sum| sum.add_words(&shared), &|sum| sum.add_halves(&halves)];
        for add in sums {
            let mut sum = Sum::default();
            add(&mut sum);
            assert_eq!(sum.finish(), crc32fast::hash(&bytes));
        }
    }
}
