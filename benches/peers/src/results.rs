//! All figures of a run, and which of them the tables and plots show.

use std::fmt::Write as _;

use crate::job::{Figures, Work};
use crate::registry::{GROWN, OURS};

struct Sample {
    round: usize,
    peer: &'static str,
    work: Work,
    figure: String,
    value: f64,
}

#[derive(Default)]
pub(crate) struct Results(Vec<Sample>);

/// The median of some rounds, and the smallest and largest.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) rounds: usize,
}

impl Spread {
    /// Of an even number of rounds it is the lower of the two in the middle, a value that was measured.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let median = *values.get(values.len().checked_sub(1)? / 2)?;
        Some(Self { median, min: *values.first()?, max: *values.last()?, rounds: values.len() })
    }
}

impl Results {
    pub(crate) fn add(&mut self, round: usize, peer: &'static str, work: Work, figures: Figures) {
        let sample = |(figure, value)| Sample { round, peer, work, figure, value };
        self.0.extend(figures.0.into_iter().map(sample));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn rounds(&self, peer: &str, figure: &str) -> impl Iterator<Item = (usize, f64)> {
        let wanted = move |sample: &&Sample| sample.peer == peer && sample.figure == figure;
        self.0.iter().filter(wanted).map(|sample| (sample.round, sample.value))
    }

    pub(crate) fn spread(&self, peer: &str, figure: &str) -> Option<Spread> {
        Spread::of(self.rounds(peer, figure).map(|(_, value)| value).collect())
    }

    /// One figure divided by another, round by round: what was measured minutes apart is compared with each other.
    pub(crate) fn ratio(&self, above: (&str, &str), below: (&str, &str)) -> Option<Spread> {
        let below: Vec<_> = self.rounds(below.0, below.1).collect();
        let ratio = |(round, value): (usize, f64)| {
            let (_, other) = below.iter().find(|(other, _)| *other == round)?;
            // Less than nothing, which a store that squeezes may take over the payload, has no ratio.
            (value > 0.0 && *other > 0.0).then(|| value / other)
        };
        Spread::of(self.rounds(above.0, above.1).filter_map(ratio).collect())
    }

    pub(crate) fn csv(&self) -> String {
        let mut text = String::from("round,peer,workload,figure,value\n");
        for Sample { round, peer, work, figure, value } in &self.0 {
            // Writing into a string does not fail.
            let _ = writeln!(text, "{},{peer},{},{figure},{value}", round + 1, work.name());
        }
        text
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A second; shown in millions.
    Rate,
    /// Histories a second; shown in thousands.
    Histories,
    Nanos,
    /// Bytes of an event over its payload.
    Bytes,
    /// A share of the cap.
    Cap,
}

impl Unit {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Rate => "M/s",
            Self::Histories => "thousand/s",
            Self::Nanos => "ns",
            Self::Bytes => "B/event",
            Self::Cap => "of the cap",
        }
    }

    /// A figure as it is shown.
    pub(crate) fn scale(self, value: f64) -> f64 {
        match self {
            Self::Rate => value / 1e6,
            Self::Histories => value / 1e3,
            Self::Nanos | Self::Bytes | Self::Cap => value,
        }
    }

    /// Whether more is better.
    pub(crate) fn more(self) -> bool {
        matches!(self, Self::Rate | Self::Histories)
    }
}

/// A figure that tables and plots show.
pub(crate) struct Shown {
    pub(crate) figure: &'static str,
    pub(crate) title: &'static str,
    /// The head of its column in the overview; empty for those that are not in it.
    pub(crate) short: &'static str,
    pub(crate) unit: Unit,
    /// Figures of the machine to compare with, and their names; the first is the one that a share is told of.
    pub(crate) limits: &'static [(&'static str, &'static str)],
    pub(crate) plot: bool,
}

impl Shown {
    /// Which entry stands for us.
    pub(crate) fn ours(&self) -> &'static str {
        if self.unit == Unit::Bytes { GROWN } else { OURS }
    }

    const fn new(figure: &'static str, short: &'static str, unit: Unit, title: &'static str) -> Self {
        Self { figure, title, short, unit, limits: &[], plot: false }
    }

    const fn beside(self, limits: &'static [(&'static str, &'static str)]) -> Self {
        Self { limits, ..self }
    }

    const fn plotted(self) -> Self {
        Self { plot: true, ..self }
    }
}

const APPEND: (&str, &str) = ("limit.append", "limit: copy + 2 random lines");

pub(crate) const SHOWN: &[Shown] = &[
    Shown::new("w1-256-1.rate", "W1 256 B", Unit::Rate, "W1: ingest, 256 B, 1 producer, events")
        .beside(&[APPEND, ("limit.copy", "limit: bare copy")])
        .plotted(),
    Shown::new("w1-256-2.rate", "W1, 2 producers", Unit::Rate, "W1: ingest, 256 B, 2 producers, events")
        .beside(&[("limit.append_two", "limit: copy + 2 random lines, 2 threads")])
        .plotted(),
    Shown::new("w1-1024-1.rate", "W1 1 KB", Unit::Rate, "W1: ingest, 1 KB, 1 producer, events")
        .beside(&[
            ("limit.copy_large", "limit: bare copy"),
            ("limit.append_large", "limit: copy + 2 random lines"),
        ])
        .plotted(),
    Shown::new("w1-1024-2.rate", "", Unit::Rate, "W1: ingest, 1 KB, 2 producers, events"),
    Shown::new("w1-256-1.overhead", "memory", Unit::Bytes, "W1: memory over the payload, 256 B").plotted(),
    Shown::new("w1-1024-1.overhead", "", Unit::Bytes, "W1: memory over the payload, 1 KB"),
    Shown::new("w2.rate", "W2 get", Unit::Rate, "W2: point gets, 1 thread")
        .beside(&[("limit.two_reads", "limit: 2 dependent random reads, overlapping")])
        .plotted(),
    Shown::new("w2.many_rate", "", Unit::Rate, "W2: point gets in batches of 16, ids")
        .beside(&[("limit.two_reads_16", "limit: 16 × 2 dependent reads, prefetched")]),
    Shown::new("w2.p50", "", Unit::Nanos, "W2: point get, p50")
        .beside(&[("limit.two_reads.p50", "limit: 2 dependent random reads")]),
    Shown::new("w2.p99", "W2 p99", Unit::Nanos, "W2: point get, p99")
        .beside(&[("limit.two_reads.p99", "limit: 2 dependent random reads")])
        .plotted(),
    Shown::new("w2.p999", "", Unit::Nanos, "W2: point get, p99.9")
        .beside(&[("limit.two_reads.p999", "limit: 2 dependent random reads")]),
    Shown::new("w3.rate", "W3 history", Unit::Histories, "W3: newest 100 of a stream, histories").plotted(),
    Shown::new("w3.event_rate", "", Unit::Rate, "W3: newest 100 of a stream, events")
        .beside(&[("limit.read_16", "limit: 16 random reads, prefetched")]),
    Shown::new("w3.p50", "", Unit::Nanos, "W3: newest 100 of a stream, p50"),
    Shown::new("w3.p99", "", Unit::Nanos, "W3: newest 100 of a stream, p99"),
    Shown::new("w4.rate", "W4 scan", Unit::Rate, "W4: scan of 1 % by time, events in range")
        .beside(&[("limit.scan", "limit: sequential scan")])
        .plotted(),
    Shown::new("w4.kind_rate", "W4 1 of 16", Unit::Rate, "W4: the same, one kind of 16, events in range")
        .beside(&[("limit.scan", "limit: sequential scan of all")])
        .plotted(),
    Shown::new("w5.rate", "W5 at the cap", Unit::Rate, "W5: steady state at the cap, events")
        .beside(&[APPEND])
        .plotted(),
    Shown::new("w5.p50", "", Unit::Nanos, "W5: single append at the cap, p50"),
    Shown::new("w5.p99", "", Unit::Nanos, "W5: single append at the cap, p99"),
    Shown::new("w5.p999", "W5 p99.9", Unit::Nanos, "W5: single append at the cap, p99.9").plotted(),
    Shown::new("w5.max", "", Unit::Nanos, "W5: single append at the cap, longest"),
    Shown::new("w5.memory", "W5 memory", Unit::Cap, "W5: memory taken"),
    Shown::new("w5.kept", "", Unit::Cap, "W5: payload that can be read at the end"),
    Shown::new("w6-95.rate", "W6 95/5", Unit::Rate, "W6: 95 % gets, 5 % appends, 2 threads, operations")
        .plotted(),
    Shown::new("w6-50.rate", "W6 50/50", Unit::Rate, "W6: 50 % gets, 50 % appends, 2 threads, operations")
        .plotted(),
    Shown::new("w7.rate", "", Unit::Rate, "W7: warm point gets")
        .beside(&[("limit.unpack", "limit: LZ4 unpack of a 16 KiB frame")]),
    Shown::new("w7.p50", "", Unit::Nanos, "W7: warm point get, p50"),
    Shown::new("w7.p99", "", Unit::Nanos, "W7: warm point get, p99"),
    Shown::new("w7.history_event_rate", "", Unit::Rate, "W7: warm newest 100 of a stream, events")
        .beside(&[("limit.unpack", "limit: LZ4 unpack of a 16 KiB frame")]),
    Shown::new("w7.demote_rate", "", Unit::Rate, "W7: events squeezed"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(value: f64) -> Figures {
        Figures(vec![("w2.rate".into(), value)])
    }

    #[test]
    fn ratios_compare_figures_of_the_same_round() {
        let mut results = Results::default();
        for (round, ours, theirs) in [(0, 10.0, 5.0), (1, 40.0, 8.0), (2, 30.0, 10.0)] {
            results.add(round, OURS, Work::Read, figures(ours));
            results.add(round, "moka", Work::Read, figures(theirs));
        }
        // A round that only we have took part in does not count.
        results.add(3, OURS, Work::Read, figures(1000.0));
        let ratio = results.ratio((OURS, "w2.rate"), ("moka", "w2.rate"));
        assert_eq!(ratio, Some(Spread { median: 3.0, min: 2.0, max: 5.0, rounds: 3 }));
        assert_eq!(results.ratio((OURS, "w2.rate"), ("foyer", "w2.rate")), None);
    }
}
