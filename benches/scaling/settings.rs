//! What to measure, and on what.

use std::time::Duration;

use esker::{Clock, Config, HugePages, Store};

use crate::common::HEADER;

/// Bytes of a payload.
pub(crate) const PAYLOAD: usize = 256;
/// Bytes of a record.
pub(crate) const RECORD: usize = HEADER + PAYLOAD;
/// Streams, all threads together.
pub(crate) const STREAMS: u32 = 16_384;
/// The share of the hot region that events take: below the threshold at which pages begin to move down.
const FILL: f64 = 0.7;

pub(crate) struct Settings {
    pub(crate) threads: Vec<usize>,
    /// For each figure.
    pub(crate) time: Duration,
    /// Bytes of the hot region; the index has 3/11 of that beside it.
    pub(crate) hot: u64,
    pub(crate) partitions: usize,
    /// The time of the first events: now, since old ones would move to the warm tier.
    pub(crate) first_ms: i64,
    huge_pages: HugePages,
    only: Vec<String>,
}

const USAGE: &str = "cargo bench --bench scaling -- [--threads N,…] [--seconds S] [--memory GIB] [--partitions N] \
    [--huge-pages on|off] [--only GROUP,…]\n\
    groups: limits append append64 index get history scan beside counters";

impl Settings {
    /// Reads the command line. `cargo bench` says `--bench`; without it (`cargo test --benches`) everything runs once and
    /// small, to show that it works.
    pub(crate) fn from_args() -> Result<Self, String> {
        let mut args: Vec<String> = std::env::args().skip(1).collect();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut settings = Self {
            threads: vec![1, 2],
            time: Duration::from_millis(20),
            hot: 64 << 20,
            partitions: 0,
            first_ms: Clock::system().now_ms(),
            huge_pages: HugePages::Advise,
            only: Vec::new(),
        };
        if args.iter().any(|arg| arg == "--bench") {
            args.retain(|arg| arg != "--bench");
            (settings.time, settings.hot) = (Duration::from_secs(2), 4 << 30);
            settings.threads =
                std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n <= cpus).collect();
        }
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let value = args.next().ok_or(format!("{arg} needs a value, or is not known\n{USAGE}"))?;
            let number = |text: &str| match text.parse::<f64>() {
                Ok(number) if number > 0.0 && number <= 1e6 => Ok(number),
                _ => Err(format!("{arg} {value}: {text} is no number that would do\n{USAGE}")),
            };
            match arg.as_str() {
                "--threads" => {
                    let threads: Result<Vec<_>, _> =
                        value.split(',').map(|n| number(n).map(|n| n as usize)).collect();
                    settings.threads = threads?.into_iter().map(|n| n.max(1)).collect();
                }
                "--seconds" => settings.time = Duration::from_secs_f64(number(&value)?),
                "--memory" => {
                    settings.hot = ((number(&value)? * (1u64 << 30) as f64) as u64).next_multiple_of(32 << 20)
                }
                "--partitions" => settings.partitions = (number(&value)? as usize).next_power_of_two(),
                "--huge-pages" if value == "off" => settings.huge_pages = HugePages::Never,
                "--huge-pages" if value == "on" => settings.huge_pages = HugePages::Advise,
                "--only" => settings.only = value.split(',').map(str::to_owned).collect(),
                other => return Err(format!("{other} {value} is not known\n{USAGE}")),
            }
        }
        if settings.partitions == 0 {
            let most = settings.threads.iter().copied().max().unwrap_or(1);
            settings.partitions = most.max(4).next_power_of_two();
        }
        if settings.threads.iter().any(|threads| *threads > settings.partitions) {
            return Err("with fewer partitions than threads, some threads would have no streams".into());
        }
        Ok(settings)
    }

    /// Whether to measure this group.
    pub(crate) fn wants(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == group)
    }

    /// How many events the store has room for, without moving any.
    pub(crate) fn events(&self) -> u64 {
        (self.hot as f64 * FILL) as u64 / RECORD as u64
    }

    /// A store with its memory pre-faulted.
    pub(crate) fn open(&self) -> Store {
        // Its share by default, and room for the streams' heads, which a small store would lack.
        let index = (self.hot / 11 * 3).next_multiple_of(2 << 20) + (16 << 20);
        let config = Config::builder()
            .memory(self.hot * 2 + index + (64 << 20))
            .partitions(self.partitions)
            .huge_pages(self.huge_pages)
            .hot(|region| region.max(self.hot).initial(self.hot).prefault(true))
            .index(|region| region.max(index).initial(index).prefault(true))
            .build()
            .expect("the sizes fit together");
        Store::open(config).expect("there must be memory for the store")
    }

    pub(crate) fn text(&self) -> String {
        let first = |path: &str, name: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.rsplit(':').next().unwrap_or_default().trim().to_owned()
        };
        format!(
            "{:.1} s for each figure, {:.2} GiB of hot region, {} partitions, huge pages {:?}; {}, {} processors, \
             kernel {}, load {}",
            self.time.as_secs_f64(),
            self.hot as f64 / (1u64 << 30) as f64,
            self.partitions,
            self.huge_pages,
            first("/proc/cpuinfo", "model name"),
            std::thread::available_parallelism().map_or(1, usize::from),
            first("/proc/sys/kernel/osrelease", ""),
            first("/proc/loadavg", "")
        )
    }
}
