//! What server, store and the rest of the machine take of the processors.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use crate::{Node, now};

/// Of a process in all, and of each of its threads with its name.
type Spent = (f64, BTreeMap<String, (String, f64)>);

/// Seconds of processor time that a process has taken so far: all of it, and each of its threads with its name of now
/// (those of a server take others), without numbers.
fn spent(pid: &str) -> Spent {
    let read = |stat: PathBuf| {
        let stat = std::fs::read_to_string(stat).ok()?;
        let (begin, end) = (stat.find('(')?, stat.rfind(')')?);
        // The times are the 12th and 13th word behind the name, in hundredths.
        let words: Vec<&str> = stat[end + 1..].split_whitespace().collect();
        let word = |at: usize| words.get(at).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        let name = stat[begin + 1..end].trim_end_matches(|end: char| !end.is_alphabetic()).to_string();
        Some((name, (word(11) + word(12)) / 100.0))
    };
    let process = PathBuf::from("/proc").join(pid);
    let threads = std::fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    let each = threads.filter_map(|thread| {
        Some((thread.file_name().to_string_lossy().into_owned(), read(thread.path().join("stat"))?))
    });
    (read(process.join("stat")).map_or(0.0, |(_, all)| all), each.collect())
}

/// Seconds of the machine's processors so far: all, with nothing to do, and with nothing to do but wait for a disk.
fn machine_spent() -> [f64; 3] {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let words = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let words: Vec<f64> = words.filter_map(|word| word.parse().ok()).collect();
    let word = |at: usize| words.get(at).copied().unwrap_or(0.0);
    [words.iter().sum(), word(3), word(4)].map(|hundredths| hundredths / 100.0)
}

/// Takes the time of something, and what it takes of the processors. Threads that end meanwhile count in the sums only.
pub(crate) struct Cost<'a> {
    node: &'a Node,
    before: [Spent; 2],
    machine: [f64; 3],
    begin: Instant,
}

/// What it was.
pub(crate) struct Spending {
    pub(crate) rate: f64,
    /// Microseconds of the server's processor time for each block, and of this process.
    pub(crate) each: [f64; 2],
    /// How much of the server's time was spent on compiling it.
    pub(crate) compiling: f64,
    /// How much of the processors' time neither of them took, nor was idle.
    pub(crate) others: f64,
    text: String,
}

impl std::fmt::Display for Spending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'a> Cost<'a> {
    pub(crate) fn begin(node: &'a Node) -> Self {
        let before = [spent(&node.pid), spent("self")];
        Self { node, before, machine: machine_spent(), begin: now() }
    }

    /// So many blocks were written.
    pub(crate) fn end(self, count: f64) -> Spending {
        let (after, took) = ([spent(&self.node.pid), spent("self")], self.begin.elapsed().as_secs_f64());
        let machine = machine_spent();
        let [all, idle, disk] = [0, 1, 2].map(|at| machine[at] - self.machine[at]);
        let sums = [0, 1].map(|side| after[side].0 - self.before[side].0);
        let others = (all - idle - disk - sums[0] - sums[1]) / all;
        let (rate, each) = (count / took, sums.map(|seconds| seconds * 1e6 / count));
        let (mut text, mut compiling) = (format!("{rate:.0} blocks a second"), 0.0);
        for (side, name) in ["server", "this process"].into_iter().enumerate() {
            let mut threads: BTreeMap<&str, f64> = BTreeMap::new();
            for (thread, (name, total)) in &after[side].1 {
                let earlier = self.before[side].1.get(thread).map_or(0.0, |(_, earlier)| *earlier);
                *threads.entry(name.as_str()).or_default() += total - earlier;
            }
            let compilers = threads.iter().filter(|(name, _)| name.contains("Compiler"));
            compiling += compilers.map(|(_, seconds)| seconds).sum::<f64>() / sums[0];
            let mut threads: Vec<(f64, &str)> =
                threads.into_iter().map(|(name, seconds)| (seconds * 1e6 / count, name)).collect();
            threads.sort_by(|one, other| other.0.total_cmp(&one.0));
            text += &format!("; {name} {:.0} µs a block (", each[side]);
            for (each, thread) in threads.iter().take(8).filter(|(each, _)| *each >= 10.0) {
                text += &format!(" {thread} {each:.0}");
            }
            text += " )";
        }
        let [idle, disk] = [idle, disk].map(|seconds| seconds / all);
        text += &format!("; idle {idle:.2}, waiting for the disk {disk:.2}, others {others:.2}");
        Spending { rate, each, compiling, others, text }
    }
}
