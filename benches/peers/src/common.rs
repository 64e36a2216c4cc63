//! What `cargo bench` measures with, used here as it is: workload, pre-faulted memory, timing. Only the report is
//! another one: figures go to the program that started this one, which has the tables.

#[path = "../../common/mod.rs"]
#[allow(dead_code, reason = "cargo bench uses all of it, this package a part")]
mod shared;

pub(crate) use shared::*;

pub(crate) mod report {
    pub(crate) use super::shared::report::QUANTILES;

    /// What `limits.rs` reports, as it comes.
    #[derive(Default)]
    pub(crate) struct Report {
        pub(crate) rows: Vec<(String, f64)>,
        pub(crate) tails: Vec<(String, [f64; 3])>,
    }

    impl Report {
        /// Nanoseconds for one event, read or frame.
        pub(crate) fn add(&mut self, name: &str, _limit: Option<&'static str>, nanos: f64) {
            self.rows.push((name.to_owned(), nanos));
        }

        /// Quantiles of single calls, in nanoseconds.
        pub(crate) fn add_tail(&mut self, name: &str, nanos: [f64; 3]) {
            self.tails.push((name.to_owned(), nanos));
        }
    }
}
