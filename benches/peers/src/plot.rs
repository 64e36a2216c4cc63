//! The results as pictures: horizontal bars, one for each peer, with the spread of the rounds as a thin line.

use std::fmt::Write as _;

use crate::registry::{Entry, GROWN, LIMITS, OURS};
use crate::results::{Results, SHOWN, Shown, Spread};
use crate::table::figure;

const WIDTH: f64 = 860.0;
/// Where bars begin and where the longest ends: names are left of it, figures right.
const LEFT: f64 = 330.0;
const RIGHT: f64 = 770.0;
const TOP: f64 = 64.0;
const ROW: f64 = 26.0;
const BAR: f64 = 16.0;
/// Where the largest is more than so many times the smallest, the scale is logarithmic.
const LINEAR_MAX: f64 = 20.0;

/// A bar.
struct Bar {
    name: String,
    spread: Spread,
    color: &'static str,
}

/// Names of files, and pictures, of all figures that have one.
pub(crate) fn all(results: &Results, entries: &[&Entry]) -> Vec<(String, String)> {
    let one = |shown: &Shown| {
        let bars = bars(results, entries, shown);
        (!bars.is_empty()).then(|| (format!("{}.svg", shown.figure.replace('.', "-")), picture(shown, &bars)))
    };
    SHOWN.iter().filter(|shown| shown.plot).filter_map(one).collect()
}

/// The best is on top; limits are above all.
fn bars(results: &Results, entries: &[&Entry], shown: &Shown) -> Vec<Bar> {
    let limit = |(figure, name): &(&str, &str)| {
        Some(Bar { name: (*name).to_owned(), spread: results.spread(LIMITS, figure)?, color: "#9aa5b1" })
    };
    let peer = |entry: &&Entry| {
        let spread = results.spread(entry.name, shown.figure)?;
        let ours = entry.name == OURS || entry.name == GROWN || entry.name.starts_with("esker-");
        let color = if ours { "#d9480f" } else { "#4c78a8" };
        Some(Bar { name: format!("{} – {}", entry.name, entry.title), spread, color })
    };
    let mut peers: Vec<Bar> = entries.iter().filter_map(peer).collect();
    peers.sort_by(|one, other| {
        let order = other.spread.median.total_cmp(&one.spread.median);
        if shown.unit.more() { order } else { order.reverse() }
    });
    shown.limits.iter().filter_map(limit).chain(peers).collect()
}

/// Where on the picture a value is.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    fn of(bars: &[Bar]) -> Self {
        let positive = |value: &f64| *value > 0.0;
        let high = bars.iter().map(|bar| bar.spread.max).fold(f64::MIN_POSITIVE, f64::max);
        let low = bars.iter().map(|bar| bar.spread.min).filter(positive).fold(high, f64::min);
        let smallest = bars.iter().map(|bar| bar.spread.median).filter(positive).fold(high, f64::min);
        let logarithmic = high / smallest > LINEAR_MAX;
        // The next power of ten below, so that the smallest still has a bar.
        let low = if logarithmic { 10f64.powf((low * 0.8).log10().floor()) } else { 0.0 };
        Self { low, high, logarithmic }
    }

    fn x(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            value.max(0.0) / self.high
        };
        LEFT + (RIGHT - LEFT) * share
    }

    /// Values that have a line: powers of ten, or about five round steps.
    fn marks(&self) -> Vec<f64> {
        if self.logarithmic {
            let powers = std::iter::successors(Some(self.low), |mark| Some(mark * 10.0));
            return powers.take_while(|mark| *mark <= self.high).collect();
        }
        let rough = self.high / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        (0..=5).map(|at| f64::from(at) * step).take_while(|mark| *mark <= self.high).collect()
    }
}

fn picture(shown: &Shown, bars: &[Bar]) -> String {
    let scale = Scale::of(bars);
    let height = TOP + ROW * bars.len() as f64 + 34.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let better = if shown.unit.more() { "more is better" } else { "less is better" };
    let kind = if scale.logarithmic { ", logarithmic" } else { "" };
    text(&mut svg, 16.0, 26.0, "font-size=\"16\" font-weight=\"bold\"", shown.title);
    text(&mut svg, 16.0, 46.0, "fill=\"#52606d\"", &format!("{}{kind}; {better}", shown.unit.label()));
    let bottom = TOP + ROW * bars.len() as f64;
    for mark in scale.marks() {
        let x = scale.x(mark);
        // Writing into a string does not fail.
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#e4e7eb\"/>"
        );
        let label = format!("{}", (shown.unit.scale(mark) * 1000.0).round() / 1000.0);
        text(&mut svg, x, bottom + 18.0, "text-anchor=\"middle\" fill=\"#52606d\"", &label);
    }
    for (at, bar) in bars.iter().enumerate() {
        row(&mut svg, shown, &scale, bar, TOP + ROW * at as f64);
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, shown: &Shown, scale: &Scale, bar: &Bar, y: f64) {
    let Spread { median, min, max, .. } = bar.spread;
    let (end, low, high) = (scale.x(median), scale.x(min), scale.x(max));
    let (top, middle) = (y + (ROW - BAR) / 2.0, y + ROW / 2.0);
    text(svg, LEFT - 8.0, middle + 4.0, "text-anchor=\"end\"", &bar.name);
    let _ = writeln!(
        svg,
        "<rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>",
        (end - LEFT).max(1.0),
        bar.color
    );
    let _ = writeln!(
        svg,
        "<line x1=\"{low:.1}\" y1=\"{middle:.1}\" x2=\"{high:.1}\" y2=\"{middle:.1}\" stroke=\"#1f2933\"/>"
    );
    text(svg, end.max(high) + 6.0, middle + 4.0, "", &figure(shown.unit, median));
}

fn text(svg: &mut String, x: f64, y: f64, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(median: f64) -> Bar {
        Bar {
            name: "a < b".into(),
            spread: Spread { median, min: median, max: median, rounds: 1 },
            color: "",
        }
    }

    #[test]
    fn far_apart_values_have_a_logarithmic_scale_and_all_of_them_a_bar() {
        let scale = Scale::of(&[bar(1.0), bar(1000.0)]);
        assert!(scale.logarithmic && scale.x(1.0) > LEFT);
        let scale = Scale::of(&[bar(1.0), bar(19.0)]);
        assert!(!scale.logarithmic && scale.x(19.0) <= RIGHT);
    }

    #[test]
    fn names_are_escaped() {
        assert!(picture(&SHOWN[0], &[bar(2.0)]).contains("a &lt; b"));
    }
}
