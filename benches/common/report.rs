//! The table: medians over the rounds, spread, and what share of a limit was reached.

/// One measurement, repeated in every round.
struct Row {
    name: String,
    /// The row that says what the memory allows.
    limit: Option<&'static str>,
    /// Nanoseconds for one event, read or frame, one figure a round.
    nanos: Vec<f64>,
}

/// Quantiles of single calls, repeated in every round.
struct Tail {
    name: &'static str,
    nanos: Vec<[f64; 3]>,
}

/// All that was measured, in the order in which it was measured first.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    tails: Vec<Tail>,
    notes: Vec<(&'static str, String)>,
}

pub(crate) const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

impl Report {
    /// Notes a figure of this round.
    pub(crate) fn add(&mut self, name: &str, limit: Option<&'static str>, nanos: f64) {
        match self.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.nanos.push(nanos),
            None => self.rows.push(Row { name: name.to_owned(), limit, nanos: vec![nanos] }),
        }
    }

    /// Notes quantiles of this round.
    pub(crate) fn add_tail(&mut self, name: &'static str, nanos: [f64; 3]) {
        match self.tails.iter_mut().find(|tail| tail.name == name) {
            Some(tail) => tail.nanos.push(nanos),
            None => self.tails.push(Tail { name, nanos: vec![nanos] }),
        }
    }

    /// Notes a fact; a later one of the same name replaces it.
    pub(crate) fn note(&mut self, name: &'static str, text: String) {
        self.notes.retain(|(other, _)| *other != name);
        self.notes.push((name, text));
    }

    /// How much of its limit a row reaches, as the median of the rounds' ratios.
    fn share(&self, row: &Row) -> Option<f64> {
        let limit = self.rows.iter().find(|other| Some(other.name.as_str()) == row.limit)?;
        Some(median(limit.nanos.iter().zip(&row.nanos).map(|(limit, ours)| limit / ours)))
    }

    /// Prints everything as Markdown.
    pub(crate) fn print(&self) {
        println!("| what | M/s | ns each | ns, min–max | of the limit | limit |");
        println!("|---|---:|---:|---:|---:|---|");
        for row in &self.rows {
            let (low, high) = spread(&row.nanos);
            let nanos = median(row.nanos.iter().copied());
            let share = self.share(row).map_or(String::new(), |share| format!("{share:.2}"));
            println!(
                "| {} | {} | {} | {}–{} | {share} | {} |",
                row.name,
                digits(1000.0 / nanos),
                digits(nanos),
                digits(low),
                digits(high),
                row.limit.unwrap_or("")
            );
        }
        if !self.tails.is_empty() {
            println!("\n| single calls, ns | p50 | p99 | p99.9 | p50, min–max |\n|---|---:|---:|---:|---:|");
        }
        for tail in &self.tails {
            let at = |quantile: usize| tail.nanos.iter().map(move |nanos| nanos[quantile]);
            let [p50, p99, p999] = [0, 1, 2].map(|quantile| digits(median(at(quantile))));
            let (low, high) = spread(&at(0).collect::<Vec<_>>());
            let spread = format!("{}–{}", digits(low), digits(high));
            println!("| {} | {p50} | {p99} | {p999} | {spread} |", tail.name);
        }
        println!();
        for (name, text) in &self.notes {
            println!("* {name}: {text}");
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    (low, values.iter().copied().fold(0.0, f64::max))
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
