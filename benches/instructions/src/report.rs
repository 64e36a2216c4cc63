//! What is printed: the table, and what is wrong.

use std::fmt::Write as _;

use crate::callgrind::Count;
use crate::limits::{GROWTH_MAX, Limits, Verdict};

/// A row for each count.
pub(crate) fn table(counts: &[Count], limits: &Limits) -> String {
    let mut text = String::from(
        "| benchmark | instructions an event | limit | change | misses of 32 KiB | of 1 MiB | events |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
    );
    for count in counts {
        let limit = limits.of(&count.name).map_or("none".into(), |limit| format!("{limit:.1}"));
        // Adding 0 makes a negative one positive.
        let per_cent = |growth: f64| (growth * 1000.0).round() / 10.0 + 0.0;
        let change =
            limits.growth(count).map_or(String::new(), |growth| format!("{:+.1} %", per_cent(growth)));
        let remark = match limits.verdict(count) {
            Verdict::Within => "",
            Verdict::Grown => " TOO MANY",
            Verdict::Shrunk => " lower the limit",
            Verdict::NoLimit => " no limit",
        };
        let _ = writeln!(
            text,
            "| {} | {:.1} | {limit} | {change}{remark} | {:.2} | {:.2} | {:.0} |",
            count.name, count.instructions, count.first_misses, count.last_misses, count.events
        );
    }
    text
}

/// Why the check fails, and what to do; empty when it does not.
pub(crate) fn faults(counts: &[Count], limits: &Limits, names: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for count in counts {
        let name = &count.name;
        match limits.verdict(count) {
            Verdict::Grown => faults.push(format!(
                "{name} takes {:.1} instructions, {:.1} % above its limit of {:.1}; {:.0} % are allowed. Find out why \
                 (benches/instructions/README.md), or move the limit: scripts/instructions --only {name} --set WHY",
                count.instructions,
                limits.growth(count).unwrap_or_default() * 100.0,
                limits.of(name).unwrap_or_default(),
                GROWTH_MAX * 100.0
            )),
            Verdict::NoLimit => {
                faults.push(format!("{name} has no limit: scripts/instructions --only {name} --set WHY"));
            }
            Verdict::Within | Verdict::Shrunk => {}
        }
    }
    for limit in limits.list.iter().filter(|limit| !names.contains(&&*limit.name)) {
        faults.push(format!("there is a limit for {}, but no such benchmark", limit.name));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limit;

    fn count(name: &str, instructions: f64) -> Count {
        Count { name: name.into(), events: 1.0, instructions, first_misses: 0.0, last_misses: 0.0 }
    }

    fn limit(name: &str, instructions: f64) -> Limit {
        Limit { name: name.into(), instructions, why: String::new() }
    }

    #[test]
    fn growth_and_missing_limits_fail_and_less_does_not() {
        let limits = Limits { tools: String::new(), list: vec![limit("get", 100.0), limit("scan", 100.0)] };
        let names = ["get", "scan", "new"];
        assert_eq!(faults(&[count("get", 104.0), count("scan", 50.0)], &limits, &names), [""; 0]);
        assert!(faults(&[count("get", 106.0)], &limits, &names)[0].contains("6.0 % above"));
        assert!(faults(&[count("new", 1.0)], &limits, &names)[0].contains("no limit"));
        assert!(faults(&[], &limits, &["get"])[0].contains("a limit for scan"));
    }

    #[test]
    fn the_table_says_what_to_do() {
        let limits = Limits { tools: String::new(), list: vec![limit("get", 100.0), limit("scan", 100.0)] };
        let text = table(&[count("get", 106.0), count("scan", 90.0)], &limits);
        assert!(text.contains("| get | 106.0 | 100.0 | +6.0 % TOO MANY |"), "{text}");
        assert!(text.contains("-10.0 % lower the limit"), "{text}");
    }
}
