//! How the memory was divided anew, and why.

use std::fmt;

use crate::config::ByteSize;
use crate::pressure::RegionKind;

/// What [`Adaptive`](crate::Adaptive) sizing has done since the store opened.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct SizingStats {
    /// Looks at the load.
    pub looks: u64,
    /// Changes of the split, those that took others back included.
    pub moves: u64,
    /// Of those, the ones that took a trial back.
    pub undone: u64,
    /// Changes that were begun and of which nothing came: guards, or a cold tier that is away, kept pages where they were.
    pub abandoned: u64,
    /// The last changes, oldest first: 32 at most.
    pub changes: Vec<SizeChange>,
}

/// One change of the split of memory. Its [`Display`](fmt::Display) is a sentence.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct SizeChange {
    /// When it was done: milliseconds since the epoch, by the store's clock.
    pub at_ms: i64,
    /// The region that became smaller, and its bytes before and after; `None`: the memory was nobody's.
    pub from: Option<(RegionKind, [u64; 2])>,
    /// The region that became larger, and its bytes before and after.
    pub to: (RegionKind, [u64; 2]),
    /// Why.
    pub reason: SizeReason,
}

/// Why memory went from one region to another.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum SizeReason {
    /// The index had no room for more events, so that events left memory for its sake.
    IndexFull,
    /// Pages left a region before their time, and there was memory that no region had.
    Unassigned {
        /// The share of its time that a page stayed, in thousandths.
        stayed: u32,
    },
    /// Pages left a region before their time, and another had more than it needs.
    Spare {
        /// The share of its time that a page stayed, in thousandths.
        stayed: u32,
        /// What the other region was found to need, in bytes: what it holds or will hold, with growth and headroom.
        needed: u64,
    },
    /// Every region is full, and reads cost most for lack of room in the one that became larger. A trial.
    Reads {
        /// Reads that were looked at.
        count: u64,
        /// Of a thousand, those that found their event hot, warm, and cold (or, in a store without a cold tier, not).
        shares: [u32; 3],
    },
    /// A trial is taken back: a read did not become cheaper.
    Undone {
        /// What a read cost before the trial and during it, in reads of hot events.
        cost: [f64; 2],
    },
}

impl SizeReason {
    /// Whether the change is tried out: it is taken back unless reads become cheaper.
    pub fn is_trial(&self) -> bool {
        matches!(self, Self::Reads { .. })
    }
}

impl fmt::Display for SizeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |thousandths: u32| f64::from(thousandths) / 10.0;
        match *self {
            Self::IndexFull => f.write_str("the index had no room for more events"),
            Self::Unassigned { stayed } => {
                write!(f, "pages stayed {:.1} % of their time, and memory was left", percent(stayed))
            }
            Self::Spare { stayed, needed } => write!(
                f,
                "pages stayed {:.1} % of their time, and the other region needs {} only",
                percent(stayed),
                ByteSize::new(needed)
            ),
            Self::Reads { count, shares: [hot, warm, cold] } => write!(
                f,
                "of {count} reads {:.1} % were hot, {:.1} % warm, {:.1} % neither; it is tried whether more room makes \
                 them cheaper",
                percent(hot),
                percent(warm),
                percent(cold)
            ),
            Self::Undone { cost: [before, after] } => write!(
                f,
                "taken back: a read cost {before:.2} hot reads before the last change and {after:.2} after it"
            ),
        }
    }
}

impl fmt::Display for SizeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((region, [before, after])) = self.from {
            write!(f, "{region} {} → {}, ", ByteSize::new(before), ByteSize::new(after))?;
        }
        let (region, [before, after]) = self.to;
        write!(f, "{region} {} → {}: {}", ByteSize::new(before), ByteSize::new(after), self.reason)
    }
}

impl SizingStats {
    /// Changes that are kept.
    const CHANGES: usize = 32;

    pub(crate) fn note(&mut self, change: SizeChange) {
        self.moves += 1;
        self.undone += u64::from(matches!(change.reason, SizeReason::Undone { .. }));
        if self.changes.len() == Self::CHANGES {
            self.changes.remove(0);
        }
        self.changes.push(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_changes_are_kept_and_each_is_a_sentence() {
        let mut stats = SizingStats::default();
        for at_ms in 0..40 {
            let reason = match at_ms % 4 {
                0 => SizeReason::IndexFull,
                1 => SizeReason::Spare { stayed: 125, needed: 1 << 20 },
                2 => SizeReason::Reads { count: 5000, shares: [600, 390, 10] },
                _ => SizeReason::Undone { cost: [3.0, 3.5] },
            };
            let (hot, warm) = ((RegionKind::Hot, [8 << 20, 7 << 20]), (RegionKind::Warm, [4 << 20, 5 << 20]));
            stats.note(SizeChange { at_ms, from: Some(hot), to: warm, reason });
        }
        assert_eq!((stats.moves, stats.undone, stats.changes.len()), (40, 10, 32));
        assert_eq!(stats.changes[0].at_ms, 8);
        let sentence = |at: usize| stats.changes[at].to_string();
        assert_eq!(sentence(0), "hot 8MiB → 7MiB, warm 4MiB → 5MiB: the index had no room for more events");
        assert!(
            sentence(1).ends_with("pages stayed 12.5 % of their time, and the other region needs 1MiB only")
        );
        assert!(sentence(2).contains("of 5000 reads 60.0 % were hot, 39.0 % warm, 1.0 % neither"));
        assert!(sentence(3).contains("3.00 hot reads before the last change and 3.50 after"));
    }
}
