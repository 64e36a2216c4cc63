//! The table: a rate for each number of threads, and how many times that of the smallest number it is.

use crate::race::Rate;
use crate::settings::Settings;

pub(crate) struct Table {
    threads: Vec<usize>,
    rows: Vec<Row>,
}

struct Row {
    name: &'static str,
    rates: Vec<(usize, Rate)>,
}

impl Table {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { threads: settings.threads.clone(), rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: &'static str, threads: usize, rate: Rate) {
        match self.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.rates.push((threads, rate)),
            None => self.rows.push(Row { name, rates: vec![(threads, rate)] }),
        }
    }

    /// Prints everything as Markdown.
    pub(crate) fn print(&self) {
        print!("| millions a second (times the first) |");
        self.threads.iter().for_each(|threads| print!(" {threads} |"));
        println!("\n|---|{}", "---:|".repeat(self.threads.len()));
        for row in &self.rows {
            print!("| {} |", row.name);
            let first = row.rates.first().map_or(f64::NAN, |(_, rate)| rate.each_second);
            for threads in &self.threads {
                match row.rates.iter().find(|(other, _)| other == threads) {
                    Some((_, rate)) => {
                        let mark = if rate.on_cpu < 0.9 { "\\*" } else { "" };
                        let millions = digits(rate.each_second / 1e6);
                        print!(" {millions} ({:.2}){mark} |", rate.each_second / first);
                    }
                    None => print!(" – |"),
                }
            }
            println!();
        }
        println!("\n\\*: the threads had processors for less than 0.9 of the time; others used them.");
    }
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
