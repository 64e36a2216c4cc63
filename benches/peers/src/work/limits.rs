//! What the memory of the machine allows, measured by the same code as in `cargo bench`.

use crate::child::{Source, settings};
use crate::common::Random;
use crate::common::report::Report;
use crate::job::{Figures, Job, SMALL};
use crate::limits::{self, Limits};

const SCANS: usize = 30;

/// Names of figures, and the rows that they are taken from.
const ROWS: [(&str, &str); 11] = [
    ("limit.copy", limits::COPY),
    ("limit.copy_large", limits::COPY_LARGE),
    ("limit.append", limits::APPEND),
    ("limit.append_large", limits::APPEND_LARGE),
    ("limit.append_two", limits::APPEND_TWO),
    ("limit.two_reads", limits::TWO_READS),
    ("limit.two_reads_chained", limits::TWO_READS_CHAINED),
    ("limit.two_reads_16", limits::TWICE_16),
    ("limit.read_16", limits::READ_16),
    ("limit.scan", limits::SCAN),
    ("limit.unpack", limits::UNPACK),
];

pub(crate) fn limits(job: &Job) -> Figures {
    let events = job.scale.events;
    let settings = settings(events, job.scale.reads);
    let source = Source::new(events, SMALL, job.scale.reads);
    let record = source.work.small.record();
    let mut report = Report::default();
    let mut limits = Limits::new(&settings, &source.work).expect("there must be memory for the limits");
    limits.write(&settings, &source.work, &mut report);
    limits.read(&settings, record, &mut report);
    let mut random = Random::new(23);
    let places: Vec<usize> = (0..SCANS).map(|_| random.below(events - events / 100)).collect();
    limits.scan(&settings, record, &places, &mut report);
    limits.pack(&settings, &mut report);

    let mut figures = Figures::default();
    for (name, nanos) in &report.rows {
        // The name in words is for those who read the raw figures; the tables know the short ones.
        let known = ROWS.iter().find(|(_, row)| row == name).map(|(short, _)| (*short).to_owned());
        figures
            .add(known.unwrap_or_else(|| name.replace("limit: ", "limit.").replace(' ', "_")), 1e9 / nanos);
    }
    for (_, [p50, p99, p999]) in &report.tails {
        figures.add("limit.two_reads.p50", *p50);
        figures.add("limit.two_reads.p99", *p99);
        figures.add("limit.two_reads.p999", *p999);
    }
    figures
}
