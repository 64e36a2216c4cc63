//! A circuit breaker: after failures in a row nobody tries for a while, and then one does.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES: u32 = 2;
/// The first and the longest pause between tries.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(3)];

/// A random part of a pause, so that many who failed together do not try again together.
pub(crate) fn jitter(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
}

/// Closed, open until a time, or half open while somebody tries.
#[derive(Default)]
pub(crate) struct Breaker {
    failures: u32,
    pause: Duration,
    open_until: Option<Instant>,
}

impl Breaker {
    /// Whether to try now. Of those who ask while it is open, one is let through when the pause is over.
    pub(crate) fn lets_through(&mut self, now: Instant) -> bool {
        match self.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                // Whoever asks next waits for what becomes of this try, but not for ever.
                self.open_until = Some(now + PAUSES[1]);
                true
            }
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// Opens it at once.
    pub(crate) fn trip(&mut self, now: Instant) {
        self.failures = FAILURES;
        self.failed(now);
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            self.pause = (self.pause * 2).clamp(PAUSES[0], PAUSES[1]);
            // Full jitter, but never no pause at all.
            self.open_until = Some(now + PAUSES[0] / 4 + jitter(self.pause));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_try_through_after_a_pause() {
        let (mut breaker, begin) = (Breaker::default(), crate::clock::now());
        breaker.failed(begin);
        assert!(breaker.lets_through(begin) && !breaker.is_open());
        breaker.succeeded();
        breaker.failed(begin);
        assert!(breaker.lets_through(begin), "a success in between counts");
        breaker.failed(begin);
        assert!(breaker.is_open() && !breaker.lets_through(begin));
        let later = begin + Duration::from_secs(4);
        assert!(breaker.lets_through(later), "half open");
        assert!(!breaker.lets_through(later), "for one");
        breaker.succeeded();
        assert!(breaker.lets_through(later) && breaker.lets_through(later));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let (mut breaker, begin) = (Breaker::default(), crate::clock::now());
        let pauses: Vec<Duration> = (0..40)
            .map(|_| {
                breaker.failed(begin);
                breaker.open_until.map_or(Duration::ZERO, |until| until - begin)
            })
            .collect();
        assert!(pauses.iter().all(|pause| *pause <= PAUSES[1] + PAUSES[0]));
        assert!(pauses[20..].iter().any(|pause| *pause > Duration::from_secs(1)));
        assert!(pauses[20..].windows(2).any(|pair| pair[0] != pair[1]));
    }
}
