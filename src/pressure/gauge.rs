//! The level of pressure as one word, and the two levels between which a source is paused and resumed.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::config::Thresholds;
use crate::error::{Error, ErrorKind, Result};
use crate::pressure::Pressure;

/// How often a level is measured again because somebody else measured at the same time.
const ROUNDS: usize = 8;

/// The level, kept up to date by whoever takes pages or lets them go, so that asking is one load.
#[derive(Debug)]
pub(crate) struct Gauge {
    thresholds: Thresholds,
    level: AtomicU8,
    /// How often each level was reached from below: a peak between two looks is noticed by it.
    risen: [AtomicU64; 4],
    changes: AtomicU64,
}

impl Gauge {
    pub(crate) fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, level: AtomicU8::new(0), risen: Default::default(), changes: AtomicU64::new(0) }
    }

    #[inline]
    pub(crate) fn level(&self) -> Pressure {
        match self.level.load(Ordering::Relaxed) {
            0 => Pressure::Normal,
            1 => Pressure::Warning,
            2 => Pressure::Critical,
            _ => Pressure::Full,
        }
    }

    /// Whether the level is the highest.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.level.load(Ordering::Relaxed) == Pressure::Full as u8
    }

    /// How often that level was reached from below.
    pub(crate) fn risen(&self, level: Pressure) -> u64 {
        self.risen[level as usize].load(Ordering::Acquire)
    }

    /// How often the level has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Notes how full the fullest region is.
    pub(crate) fn note(&self, fill: impl Fn() -> f64) {
        // Another thread may have measured before this one and store its level after it. So each looks once more at
        // what it has stored: the last to store then stores what it last measured.
        for _ in 0..ROUNDS {
            let level = self.level_of(fill());
            if level == self.level() {
                break;
            }
            let before = self.level.swap(level as u8, Ordering::SeqCst);
            self.changes.fetch_add(1, Ordering::Release);
            for reached in before + 1..=level as u8 {
                self.risen[usize::from(reached)].fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Whether that much is above the warning threshold.
    pub(crate) fn warns(&self, fill: f64) -> bool {
        fill > self.thresholds.warning
    }

    fn level_of(&self, fill: f64) -> Pressure {
        let Thresholds { warning, critical, reject, .. } = self.thresholds;
        if fill >= reject {
            Pressure::Full
        } else if fill >= critical {
            Pressure::Critical
        } else if fill > warning {
            // Not at it: there the mover stops, and a source that waits for the level below would wait for ever.
            Pressure::Warning
        } else {
            Pressure::Normal
        }
    }
}

/// What a source of events is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Flow {
    /// Stop delivering: a Kafka consumer pauses its partitions.
    Pause,
    /// Deliver again.
    Resume,
}

/// Two levels of pressure: at the higher one a source pauses, at the lower one it resumes, and between them it stays as
/// it is. So it does not pause and resume with every page.
///
/// For a source that has a loop of its own; [`Store::listen`](crate::Store::listen) is for one that wants to be called.
///
/// ```
/// use esker::{Flow, Hysteresis, Pressure};
///
/// let mut flow = Hysteresis::new(Pressure::Critical, Pressure::Normal)?;
/// assert_eq!(flow.update(Pressure::Warning), None);
/// assert_eq!(flow.update(Pressure::Critical), Some(Flow::Pause));
/// assert_eq!(flow.update(Pressure::Warning), None);
/// assert_eq!(flow.update(Pressure::Normal), Some(Flow::Resume));
/// # Ok::<(), esker::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hysteresis {
    pause: Pressure,
    resume: Pressure,
    paused: bool,
}

impl Hysteresis {
    /// Pauses at the level `pause` or above, resumes at the level `resume` or below.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when `resume` is not below `pause`.
    pub fn new(pause: Pressure, resume: Pressure) -> Result<Self> {
        if resume >= pause {
            let text =
                format!("a source that pauses at {pause:?} must resume at a level below, not {resume:?}");
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        Ok(Self { pause, resume, paused: false })
    }

    /// Takes note of the level. What the source is to do now, if that has changed.
    pub fn update(&mut self, level: Pressure) -> Option<Flow> {
        if !self.paused && level >= self.pause {
            self.paused = true;
            return Some(Flow::Pause);
        }
        if self.paused && level <= self.resume {
            self.paused = false;
            return Some(Flow::Resume);
        }
        None
    }

    /// Whether the source was told to pause and not yet to resume.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The level at which the source pauses.
    pub fn pause_at(&self) -> Pressure {
        self.pause
    }
}

impl Default for Hysteresis {
    /// Pauses at [`Pressure::Critical`], resumes at [`Pressure::Normal`].
    fn default() -> Self {
        Self { pause: Pressure::Critical, resume: Pressure::Normal, paused: false }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn the_gauge_follows_and_counts_every_rise() {
        let gauge = Gauge::new(Thresholds::default());
        for (fill, level) in [
            (0.5, Pressure::Normal),
            (0.96, Pressure::Full),
            (0.85, Pressure::Warning),
            (0.91, Pressure::Critical),
            (0.0, Pressure::Normal),
        ] {
            gauge.note(|| fill);
            assert_eq!(gauge.level(), level);
        }
        assert_eq!(Pressure::ALL.map(|level| gauge.risen(level)), [0, 1, 2, 1]);
    }

    /// Whoever raises the fill notes it; afterwards the level is never below what the fill says.
    #[test]
    fn notes_of_many_threads_end_at_the_truth() {
        let (gauge, fill) = (Gauge::new(Thresholds::default()), AtomicU32::new(0));
        for _ in 0..200 {
            fill.store(0, Ordering::SeqCst);
            gauge.note(|| 0.0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..25 {
                            fill.fetch_add(1, Ordering::SeqCst);
                            gauge.note(|| f64::from(fill.load(Ordering::SeqCst)) / 100.0);
                        }
                    });
                }
            });
            assert_eq!(gauge.level(), Pressure::Full);
        }
    }

    #[test]
    fn a_resume_level_that_is_not_below_is_refused() {
        assert!(Hysteresis::new(Pressure::Normal, Pressure::Normal).is_err());
        assert!(Hysteresis::new(Pressure::Warning, Pressure::Full).is_err());
        let mut flow = Hysteresis::default();
        assert_eq!(flow.update(Pressure::Full), Some(Flow::Pause));
        assert_eq!(flow.update(Pressure::Full), None);
        assert!(flow.is_paused());
        assert_eq!(flow.update(Pressure::Warning), None);
        assert_eq!(flow.update(Pressure::Normal), Some(Flow::Resume));
    }
}
