//! The results as Markdown.

use std::fmt::Write as _;

use crate::machine;
use crate::options::{Mode, Options};
use crate::registry::{Entry, GROWN, LIMITS, OURS};
use crate::results::{Results, SHOWN, Shown, Spread, Unit};

/// Everything: the run, the overview, the limits, and each figure of each peer.
pub(crate) fn markdown(
    options: &Options,
    results: &Results,
    entries: &[&Entry],
    faults: &[String],
    seconds: u64,
) -> String {
    let mut text = String::from("# esker beside its peers\n\n");
    run(&mut text, options, entries, faults, seconds);
    overview(&mut text, results, entries);
    limits(&mut text, results);
    details(&mut text, results, entries);
    text
}

fn run(text: &mut String, options: &Options, entries: &[&Entry], faults: &[String], seconds: u64) {
    let scale = &options.scale;
    line(text, format!("* command: `{}`, {seconds} s", options.command));
    line(
        text,
        format!(
            "* size: {} events of 256 B, {} of 1 KB, cap {} MiB, {} rounds",
            scale.events,
            scale.events / 4,
            scale.cap >> 20,
            options.rounds
        ),
    );
    for (name, fact) in machine::facts() {
        line(text, format!("* {name}: {fact}"));
    }
    line(text, format!("* versions: {}", machine::versions(entries)));
    if options.mode == Mode::Smoke {
        line(text, "* **A smoke test: its figures mean nothing.**");
    }
    for fault in faults {
        line(text, format!("* **failed:** {fault}"));
    }
}

/// How far ahead we are of each peer.
fn overview(text: &mut String, results: &Results, entries: &[&Entry]) {
    let columns: Vec<_> = SHOWN.iter().filter(|shown| !shown.short.is_empty()).collect();
    line(text, "\n## How many times ahead esker is\n");
    line(
        text,
        "Above 1 esker is better, below 1 the peer is. Medians of the rounds' ratios; – is what a peer cannot, or where it takes less than the payload.\n",
    );
    line(
        text,
        format!("| peer |{}", columns.iter().map(|shown| format!(" {} |", shown.short)).collect::<String>()),
    );
    line(text, format!("|---|{}", "---:|".repeat(columns.len())));
    for entry in
        entries.iter().filter(|entry| entry.name != LIMITS && entry.name != OURS && entry.name != GROWN)
    {
        let cell = |shown: &&Shown| match ahead(results, shown, entry.name) {
            Some(ratio) => format!(" {} |", bold(ratio.median)),
            None => " – |".into(),
        };
        line(text, format!("| {} |{}", entry.name, columns.iter().map(cell).collect::<String>()));
    }
}

/// Where the peer is ahead, it stands out.
fn bold(ratio: f64) -> String {
    if ratio < 1.0 { format!("**{}**", digits(ratio)) } else { digits(ratio) }
}

/// How many times better we are, in what is shown.
fn ahead(results: &Results, shown: &Shown, peer: &str) -> Option<Spread> {
    let (ours, theirs) = ((shown.ours(), shown.figure), (peer, shown.figure));
    if shown.ours() == peer {
        return None;
    }
    if shown.unit.more() { results.ratio(ours, theirs) } else { results.ratio(theirs, ours) }
}

/// How much of what the machine allows we reach.
fn limits(text: &mut String, results: &Results) {
    line(text, "\n## How close to the machine esker is\n");
    line(text, "| what | esker | limit | share | min–max | limit is |\n|---|---:|---:|---:|---:|---|");
    let with_single = |shown: &'static Shown| [(OURS, shown), ("esker-single", shown)];
    for (ours, shown) in SHOWN.iter().flat_map(with_single) {
        for (limit, name) in shown.limits {
            let (above, below) = ((ours, shown.figure), (LIMITS, *limit));
            let share =
                if shown.unit.more() { results.ratio(above, below) } else { results.ratio(below, above) };
            let (Some(us), Some(machine)) =
                (results.spread(ours, shown.figure), results.spread(LIMITS, limit))
            else {
                continue;
            };
            let Some(share) = share else { continue };
            let single = if ours == OURS { "" } else { ", one by one" };
            line(
                text,
                format!(
                    "| {}{single} | {} {} | {} | {:.2} | {:.2}–{:.2} | {name} |",
                    shown.title,
                    figure(shown.unit, us.median),
                    shown.unit.label(),
                    figure(shown.unit, machine.median),
                    share.median,
                    share.min,
                    share.max
                ),
            );
        }
    }
}

/// Each figure of each peer.
fn details(text: &mut String, results: &Results, entries: &[&Entry]) {
    line(text, "\n## Everything\n");
    line(text, "| what | who | median | min–max | rounds | esker is ahead | min–max |");
    line(text, "|---|---|---:|---:|---:|---:|---:|");
    for shown in SHOWN {
        let mut title = format!("{}, {}", shown.title, shown.unit.label());
        for entry in entries {
            let Some(spread) = results.spread(entry.name, shown.figure) else { continue };
            let ahead = match ahead(results, shown, entry.name) {
                Some(ratio) => {
                    format!("{} | {}–{}", bold(ratio.median), digits(ratio.min), digits(ratio.max))
                }
                None => "– | –".into(),
            };
            line(
                text,
                format!(
                    "| {title} | {} | {} | {}–{} | {} | {ahead} |",
                    entry.name,
                    figure(shown.unit, spread.median),
                    figure(shown.unit, spread.min),
                    figure(shown.unit, spread.max),
                    spread.rounds
                ),
            );
            title.clear();
        }
        for (limit, name) in shown.limits {
            let Some(spread) = results.spread(LIMITS, limit) else { continue };
            let [median, min, max] = [spread.median, spread.min, spread.max].map(|v| figure(shown.unit, v));
            line(text, format!("| | *{name}* | {median} | {min}–{max} | {} | – | – |", spread.rounds));
        }
    }
}

fn line(text: &mut String, line: impl std::fmt::Display) {
    // Writing into a string does not fail.
    let _ = writeln!(text, "{line}");
}

/// A figure in its unit.
pub(crate) fn figure(unit: Unit, value: f64) -> String {
    digits(unit.scale(value))
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
