//! The tables, and what is asked of tables that somebody else has made.
//!
//! Blocks are only ever added, expire by the one time to live of their table, and are compacted by the window in which
//! they were written; so whole files of the server expire, and no tombstones are written or read. A partition of a
//! table holds one period of one lane as one opening of a store wrote it, and goes on in another one when it is full.
//!
//! ```text
//! esker_blocks_N     (namespace, lane, writer, period) │ first_seq, piece │ pieces, bytes
//! esker_summaries_N  (namespace, lane, writer, period) │ first_seq        │ summary
//! esker_periods_N    (namespace, lane)                 │ writer, period   │
//! esker_removed_N    (namespace, lane)                 │ id, seq          │
//! esker_namespaces   (namespace)                       │                  │ partitions, seed, classes
//! esker_writers      (namespace)                       │ first            │ opened
//! esker_names        (namespace, bucket)               │ name             │ stream
//! ```
//!
//! `N` is the number of the class. A lane here is a partition of the store.

use crate::config::ClassConfig;
use crate::tiers::scylla::config::{Replication, ScyllaConfig, Server};

/// The longest time to live that servers take: twenty years.
const TTL_MAX: u64 = 630_720_000;
/// How long servers that were away are told what they have missed; nothing is deleted, so no longer is needed.
const GC_GRACE: u64 = 10_800;
/// The windows that a table's time to live is divided into: 20 to 30 is what servers handle well.
const WINDOWS: u64 = 24;
const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 86_400;
/// Files of a window that are merged at once. Blocks of a partition lie in few of them, and none is ever overwritten: to
/// merge four at a time, as is usual, would write each block twice as often for nothing.
const MERGED: u64 = 12;
/// Buckets that names are spread over.
pub(crate) const NAME_BUCKETS: u64 = 64;

/// A table: its name, what creates it, and what it must have.
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) create: String,
    pub(crate) columns: &'static [(&'static str, &'static str)],
    /// Seconds that its rows live at least; zero is for ever. `None` for tables whose rows never expire.
    pub(crate) ttl: Option<u64>,
}

/// How a class's tables keep time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Times {
    /// Seconds; zero is for ever.
    pub(crate) ttl: u64,
    /// Seconds of a compaction window.
    pub(crate) window: u64,
    /// Seconds of a period.
    pub(crate) period: u64,
}

impl Times {
    pub(crate) fn of(class: &ClassConfig) -> Self {
        let seconds = class.retention.map(|age| age.as_secs() + u64::from(age.subsec_nanos() > 0));
        // Room for clocks that differ, and for blocks that came late: the store itself decides what has expired.
        let ttl = seconds.map(|age| age + age / 12 + MINUTE).filter(|ttl| *ttl <= TTL_MAX);
        match ttl {
            Some(ttl) => {
                let window = window(ttl);
                Self { ttl, window, period: window }
            }
            None => Self { ttl: 0, window: 30 * DAY, period: DAY },
        }
    }

    /// The period of a time in microseconds.
    pub(crate) fn bucket(&self, micros: i64) -> i64 {
        micros.div_euclid(1_000_000).div_euclid(self.period as i64)
    }
}

/// A whole number of minutes, hours or days.
fn window(ttl: u64) -> u64 {
    let unit = match ttl / WINDOWS {
        ..43_200 => MINUTE,
        43_200..864_000 => HOUR,
        _ => DAY,
    };
    ttl.div_ceil(WINDOWS).div_ceil(unit).max(1) * unit
}

pub(crate) fn keyspace(config: &ScyllaConfig) -> String {
    let replication = match &config.replication {
        Replication::Simple(copies) => format!("'class': 'SimpleStrategy', 'replication_factor': {copies}"),
        Replication::Datacenters(all) => {
            let copies: Vec<String> =
                all.iter().map(|(name, copies)| format!("'{name}': {copies}")).collect();
            format!("'class': 'NetworkTopologyStrategy', {}", copies.join(", "))
        }
    };
    format!("CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{{replication}}}", config.keyspace)
}

const LANE: &str = "namespace text, lane int";
const PERIOD: &str = "namespace text, lane int, writer int, period bigint";

/// All tables of a store with these classes.
pub(crate) fn tables(config: &ScyllaConfig, classes: &[ClassConfig]) -> Vec<Table> {
    let keyspace = &config.keyspace;
    let fixed = |name: &str, columns: &'static [(&'static str, &'static str)], body: &str| Table {
        name: name.to_string(),
        create: format!("CREATE TABLE IF NOT EXISTS {keyspace}.{name} ({body})"),
        columns,
        ttl: None,
    };
    let mut tables = vec![
        fixed(
            "esker_namespaces",
            &[
                ("namespace", "text"),
                ("partitions", "int"),
                ("seed", "bigint"),
                ("classes", "frozen<list<text>>"),
            ],
            "namespace text PRIMARY KEY, partitions int, seed bigint, classes frozen<list<text>>",
        ),
        fixed(
            "esker_writers",
            &[("namespace", "text"), ("first", "bigint"), ("opened", "bigint")],
            "namespace text, first bigint, opened bigint, PRIMARY KEY (namespace, first)",
        ),
        fixed(
            "esker_names",
            &[("namespace", "text"), ("bucket", "int"), ("name", "text"), ("stream", "bigint")],
            "namespace text, bucket int, name text, stream bigint, PRIMARY KEY ((namespace, bucket), name)",
        ),
    ];
    for (number, class) in classes.iter().enumerate() {
        let times = Times::of(class);
        let options = options(config.server, times);
        let expiring = |name: &str, columns: &'static [(&'static str, &'static str)], body: String| Table {
            name: format!("{name}_{number}"),
            create: format!("CREATE TABLE IF NOT EXISTS {keyspace}.{name}_{number} ({body}) WITH {options}"),
            columns,
            ttl: Some(times.ttl),
        };
        tables.push(expiring(
            "esker_blocks",
            &[
                ("period", "bigint"),
                ("first_seq", "bigint"),
                ("piece", "int"),
                ("pieces", "int"),
                ("bytes", "blob"),
            ],
            format!(
                "{PERIOD}, first_seq bigint, piece int, pieces int, bytes blob, \
                 PRIMARY KEY ((namespace, lane, writer, period), first_seq, piece)"
            ),
        ));
        tables.push(expiring(
            "esker_summaries",
            &[("period", "bigint"), ("first_seq", "bigint"), ("summary", "blob")],
            format!(
                "{PERIOD}, first_seq bigint, summary blob, \
                 PRIMARY KEY ((namespace, lane, writer, period), first_seq)"
            ),
        ));
        tables.push(expiring(
            "esker_periods",
            &[("lane", "int"), ("writer", "int"), ("period", "bigint")],
            format!("{PERIOD}, PRIMARY KEY ((namespace, lane), writer, period)"),
        ));
        tables.push(expiring(
            "esker_removed",
            &[("lane", "int"), ("id", "bigint"), ("seq", "bigint")],
            // The page is part of the key: of two notes the higher page counts, whatever the clocks of their writers say.
            format!("{LANE}, id bigint, seq bigint, PRIMARY KEY ((namespace, lane), id, seq)"),
        ));
    }
    tables
}

fn options(server: Server, times: Times) -> String {
    // Blocks are compressed already.
    let compression = match server {
        Server::Cassandra => "'enabled': 'false'",
        Server::Scylla => "'sstable_compression': ''",
    };
    let (unit, length) = match times.window {
        window if window % DAY == 0 => ("DAYS", window / DAY),
        window if window % HOUR == 0 => ("HOURS", window / HOUR),
        window => ("MINUTES", window / MINUTE),
    };
    format!(
        "compression = {{{compression}}} AND compaction = {{'class': 'TimeWindowCompactionStrategy', \
         'compaction_window_unit': '{unit}', 'compaction_window_size': '{length}', 'min_threshold': '{MERGED}'}} AND default_time_to_live = {} AND \
         gc_grace_seconds = {GC_GRACE}",
        times.ttl
    )
}

/// What is wrong with a table as the server has it, and what mends it.
pub(crate) fn faults(
    keyspace: &str,
    table: &Table,
    columns: &[(String, String)],
    ttl: Option<i32>,
) -> Vec<String> {
    let name = &table.name;
    if columns.is_empty() {
        return vec![format!("{keyspace}.{name} is missing: {}", table.create)];
    }
    let mut faults = Vec::new();
    for (column, kind) in table.columns {
        match columns.iter().find(|(found, _)| found == column) {
            Some((_, found)) if found == kind => {}
            Some((_, found)) => faults.push(format!("{keyspace}.{name}.{column} is {found}, not {kind}")),
            None => faults.push(format!("{keyspace}.{name} has no column {column} {kind}")),
        }
    }
    if let Some(wanted) = table.ttl {
        let found = ttl.map_or(0, |ttl| u64::try_from(ttl).unwrap_or(0));
        let too_short = found != 0 && (wanted == 0 || found < wanted);
        if too_short {
            faults.push(format!(
                "{keyspace}.{name} lets rows live for {found} s, its class's retention needs {}: ALTER TABLE \
                 {keyspace}.{name} WITH default_time_to_live = {wanted}",
                if wanted == 0 { "no end".to_string() } else { format!("{wanted} s") }
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_to_live_is_divided_into_20_to_30_windows() {
        for minutes in (30..4000).chain((4000..600_000).step_by(977)).chain([5_000_000]) {
            let class = ClassConfig::new("a").retention(Duration::from_secs(minutes * 60));
            let times = Times::of(&class);
            let windows = times.ttl as f64 / times.window as f64;
            assert!(
                (12.0..=30.0).contains(&windows),
                "{minutes} min: {windows} windows of {} s",
                times.window
            );
            if minutes > 120 {
                assert!(
                    (19.5..=30.0).contains(&windows),
                    "{minutes} min: {windows} windows of {} s",
                    times.window
                );
            }
            assert!(times.ttl >= minutes * 60);
        }
    }

    #[test]
    fn classes_without_an_end_have_no_time_to_live() {
        let times = Times::of(&ClassConfig::new("a"));
        assert_eq!((times.ttl, times.period), (0, DAY));
        assert_eq!(Times::of(&ClassConfig::new("a").retention(Duration::from_secs(TTL_MAX))).ttl, 0);
    }

    #[test]
    fn tables_that_do_not_fit_are_told_with_what_mends_them() {
        let config = ScyllaConfig::new(["a"], "/nowhere");
        let class = ClassConfig::new("a").retention(Duration::from_secs(86_400));
        let tables = tables(&config, std::slice::from_ref(&class));
        let blocks = tables.iter().find(|table| table.name == "esker_blocks_0").unwrap();
        let missing = faults("k", blocks, &[], None);
        assert!(missing[0].contains("CREATE TABLE") && missing.len() == 1);
        let mut columns: Vec<(String, String)> =
            blocks.columns.iter().map(|(name, kind)| (name.to_string(), kind.to_string())).collect();
        assert!(faults("k", blocks, &columns, Some(200_000)).is_empty());
        assert!(faults("k", blocks, &columns, Some(0)).is_empty(), "longer is no harm");
        assert!(faults("k", blocks, &columns, Some(3600))[0].contains("ALTER TABLE"));
        columns[0].1 = "int".into();
        columns.pop();
        assert_eq!(faults("k", blocks, &columns, None).len(), 2);
        assert_eq!(Times::of(&class).period, 66 * MINUTE);
    }
}
