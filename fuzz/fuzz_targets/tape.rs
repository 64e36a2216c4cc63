//! The random numbers of the model test, read from the fuzzer's bytes as long as there are any: so each byte is a choice that
//! the model makes, and a change of it is another choice there.

use std::sync::Mutex;

static TAPE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The numbers of the next run.
pub(crate) fn set(bytes: &[u8]) {
    let mut tape = TAPE.lock().unwrap();
    tape.clear();
    tape.extend(bytes.iter().rev());
}

pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Bytes of payloads, and seeds of others: not from the tape, of which they would take all.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let mut tape = TAPE.lock().unwrap();
        let (mut number, mut bound) = (0u64, 1u64);
        while bound < end {
            let Some(byte) = tape.pop() else {
                drop(tape);
                return self.next() % end;
            };
            number = number << 8 | u64::from(byte);
            bound = bound.saturating_mul(256);
        }
        number % end
    }

    /// A number from `first` to `last`.
    pub(crate) fn within(&mut self, first: i64, last: i64) -> i64 {
        first + self.below((last - first + 1) as u64) as i64
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True `percent` times in a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// The place of one of these weights.
    pub(crate) fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut at = self.below(weights.iter().sum());
        for (place, weight) in weights.iter().enumerate() {
            if at < *weight {
                return place;
            }
            at -= weight;
        }
        weights.len() - 1
    }
}
