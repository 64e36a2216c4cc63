//! The stored limits: instructions for an event, and why each is what it is.

use std::fmt::Write as _;
use std::path::Path;

use crate::callgrind::Count;

/// What a count may be above its limit.
pub(crate) const GROWTH_MAX: f64 = 0.05;
/// A limit is moved only by more than this, so that setting some does not touch the rest.
const MOVED_MIN: f64 = 0.01;

const HEADER: &str = "\
# Instructions for an event. `scripts/instructions` fails when a count is more than 5 % above its limit here.
# Written by `scripts/instructions --set WHY`, which notes beside each limit why it was moved last; the commit that
# moves a limit is the one that changes the count.
";

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Limit {
    pub(crate) name: String,
    pub(crate) instructions: f64,
    pub(crate) why: String,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Limits {
    /// Compiler and valgrind by which they were set.
    pub(crate) tools: String,
    pub(crate) list: Vec<Limit>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Within,
    /// By more than is allowed.
    Grown,
    /// By so much that the limit guards nothing any more.
    Shrunk,
    NoLimit,
}

impl Limits {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        std::fs::write(path, self.text()).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Reads the little of TOML that [`text`](Self::text) writes.
    fn parse(text: &str) -> Result<Self, String> {
        let mut limits = Self::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', '[']) {
                continue;
            }
            let wrong = || format!("line {}: {line:?} is not `name = instructions  # why`", at + 1);
            let (name, rest) = line.split_once('=').ok_or_else(wrong)?;
            let (value, why) = rest.split_once('#').unwrap_or((rest, ""));
            if name.trim() == "set-with" {
                limits.tools = value.trim().trim_matches('"').to_owned();
                continue;
            }
            let instructions: f64 = value.trim().parse().map_err(|_| wrong())?;
            if !(instructions.is_finite() && instructions > 0.0) {
                return Err(wrong());
            }
            limits.list.push(Limit { name: name.trim().into(), instructions, why: why.trim().into() });
        }
        Ok(limits)
    }

    fn text(&self) -> String {
        let mut text = format!("{HEADER}\nset-with = \"{}\"\n\n[limits]\n", self.tools);
        for limit in &self.list {
            let _ = writeln!(text, "{} = {:.1}  # {}", limit.name, limit.instructions, limit.why);
        }
        text
    }

    pub(crate) fn of(&self, name: &str) -> Option<f64> {
        self.list.iter().find(|limit| limit.name == name).map(|limit| limit.instructions)
    }

    /// By how much a count is above its limit.
    pub(crate) fn growth(&self, count: &Count) -> Option<f64> {
        self.of(&count.name).map(|limit| count.instructions / limit - 1.0)
    }

    pub(crate) fn verdict(&self, count: &Count) -> Verdict {
        match self.growth(count) {
            None => Verdict::NoLimit,
            Some(growth) if growth > GROWTH_MAX => Verdict::Grown,
            Some(growth) if growth < -GROWTH_MAX => Verdict::Shrunk,
            Some(_) => Verdict::Within,
        }
    }

    /// Moves limits to what was counted, in the order of `names`; those that are not among them go.
    pub(crate) fn set(&mut self, counts: &[Count], names: &[&str], tools: &str, why: &str) {
        let why = why.replace(['\n', '\r'], " ");
        for count in counts {
            let why = match self.of(&count.name) {
                Some(_) if self.growth(count).is_some_and(|growth| growth.abs() <= MOVED_MIN) => continue,
                Some(old) => format!("was {old:.1}: {why}"),
                None => why.clone(),
            };
            self.list.retain(|limit| limit.name != count.name);
            self.list.push(Limit { name: count.name.clone(), instructions: count.instructions, why });
        }
        let place = |limit: &Limit| names.iter().position(|name| *name == limit.name);
        self.list.retain(|limit| place(limit).is_some());
        self.list.sort_by_key(place);
        self.tools = tools.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(name: &str, instructions: f64) -> Count {
        Count { name: name.into(), events: 1.0, instructions, first_misses: 0.0, last_misses: 0.0 }
    }

    fn limits() -> Limits {
        Limits::parse(
            "# text\nset-with = \"rustc 1, valgrind 2\"\n[limits]\nget = 100.0  # first\nscan = 50\n",
        )
        .unwrap()
    }

    #[test]
    fn more_than_five_per_cent_is_too_much() {
        let verdicts =
            [90.0, 94.9, 95.1, 100.0, 104.9, 105.1].map(|now| limits().verdict(&count("get", now)));
        use Verdict::{Grown, Shrunk, Within};
        assert_eq!(verdicts, [Shrunk, Shrunk, Within, Within, Within, Grown]);
        assert_eq!(limits().verdict(&count("other", 1.0)), Verdict::NoLimit);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let limits = limits();
        assert_eq!(limits.tools, "rustc 1, valgrind 2");
        assert_eq!(Limits::parse(&limits.text()).unwrap(), limits);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["get", "get = many", "get = -1", "get = NaN"] {
            assert!(Limits::parse(text).unwrap_err().contains("line 1"), "{text}");
        }
    }

    #[test]
    fn setting_notes_why_and_leaves_the_rest() {
        let mut limits = limits();
        let counts = [count("get", 120.0), count("scan", 50.4), count("new", 7.0)];
        limits.set(&counts, &["new", "get", "scan"], "rustc 3", "a check\nmore");
        assert_eq!(limits.tools, "rustc 3");
        let list: Vec<_> = limits.list.iter().map(|l| (&*l.name, l.instructions, &*l.why)).collect();
        assert_eq!(
            list,
            [("new", 7.0, "a check more"), ("get", 120.0, "was 100.0: a check more"), ("scan", 50.0, "")]
        );
        limits.set(&[], &["get"], "rustc 3", "scan is gone");
        assert_eq!(limits.list.len(), 1);
    }
}
