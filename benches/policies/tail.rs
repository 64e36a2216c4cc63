//! What eviction costs the slowest appends: single appends to a store with room, and to stores that are full and make
//! room as fast as events come, or as fast as they can.

use std::time::{Duration, Instant};

use esker::{ClassConfig, Clock, Config, Event, OnLeave, Store, Stream};

use crate::common::{Latencies, Payloads, mix, now, scale};
use crate::{Size, median};

const STREAMS: usize = 100_000;
/// Bytes of a record, about, for sizes.
const RECORD: usize = 300;

/// What happens to the oldest events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Full {
    /// There is room for all.
    No,
    /// They are dropped as they were written.
    Drop,
    /// They are squeezed into the warm region, whose oldest are dropped.
    Demote,
}

const CASES: [(&str, Full); 3] =
    [("there is room", Full::No), ("drop", Full::Drop), ("squeeze, drop", Full::Demote)];
/// Appends a second; `None`: as fast as they go.
const PACES: [(&str, Option<f64>); 2] = [("500,000 a second", Some(500_000.0)), ("as fast as they go", None)];

/// p50, p99, p99.9, the slowest; in nanoseconds.
type Tail = [f64; 4];

/// Prints a table.
pub(crate) fn run(size: &Size) {
    println!(
        "| appends | eviction | p50, ns | p99, ns | p99.9, ns | max, µs | M/s | waited | p99.9, times that with room |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|");
    for (pace_name, pace) in PACES {
        // The cases take turns, so that what disturbs the machine disturbs all.
        let mut all: [Vec<(Tail, f64, f64)>; 3] = Default::default();
        for round in 0..size.rounds {
            for at in 0..CASES.len() {
                let at = (at + round) % CASES.len();
                all[at].push(measure(CASES[at].1, pace, size.appends));
            }
        }
        for (at, (name, _)) in CASES.iter().enumerate() {
            let quantile = |number: usize| median(all[at].iter().map(|(tail, ..)| tail[number]));
            let ratios = all[at].iter().zip(&all[0]).map(|((tail, ..), (room, ..))| tail[2] / room[2]);
            println!(
                "| {pace_name} | {name} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.0} | {:.2} |",
                quantile(0),
                quantile(1),
                quantile(2),
                quantile(3) / 1000.0,
                median(all[at].iter().map(|(_, rate, _)| *rate / 1e6)),
                median(all[at].iter().map(|(.., waited)| *waited)),
                median(ratios),
            );
        }
    }
    println!();
}

fn open(full: Full, appends: usize) -> Store {
    // Half as many are appended before the clock starts; a quarter of all fits where room is to be made.
    let all = (appends + appends / 2) * RECORD;
    let memory = match full {
        Full::No => all * 3,
        _ => all / 4,
    } as u64
        + (32 << 20);
    let class = ClassConfig::new("events").compress(full == Full::Demote).on_leave(OnLeave::Drop);
    let config = Config::builder()
        .memory(memory)
        .hot(|hot| hot.prefault(true).initial(memory / 2).max(memory / 2))
        .index(|index| index.prefault(true))
        .append_timeout(Duration::from_secs(60))
        .class(class);
    Store::open(config.build().expect("the sizes fit together")).expect("there must be memory for the store")
}

/// Quantiles of single appends, appends a second, and how many had to wait for room.
fn measure(full: Full, pace: Option<f64>, appends: usize) -> (Tail, f64, f64) {
    let (store, payloads) = (open(full, appends), Payloads::new(256));
    // None is old enough to be moved by age.
    let first_ms = Clock::system().now_ms() - 2 * appends as i64;
    let append = |at: usize| {
        let stream = Stream::from(scale(mix(at as u64), STREAMS) as u32);
        let event = Event::new(stream, at as u64 + 1, first_ms + at as i64, 0);
        store.append(&event.payload(payloads.of(at))).expect("there is room, or it is made");
    };
    let before = appends / 2;
    (0..before).for_each(append);
    let (mut due, begin) = (Pace { begin: now(), every: pace.map(|rate| 1e9 / rate) }, now());
    let latencies = Latencies::paced(appends, |at| due.wait(at), |at| append(before + at));
    let rate = appends as f64 / begin.elapsed().as_secs_f64();
    let [p50, p99, p999] = latencies.nanos([0.5, 0.99, 0.999]);
    let [max, ..] = latencies.nanos([1.0; 3]);
    let stats = store.stats();
    let moved = (stats.events.dropped > 0, stats.events.demoted > 0);
    assert_eq!(moved, (full != Full::No, full == Full::Demote), "{:?}", stats.events);
    store.abandon();
    ([p50, p99, p999, max], rate, stats.events.waited as f64)
}

/// When the next append is due.
struct Pace {
    begin: Instant,
    every: Option<f64>,
}

impl Pace {
    fn wait(&mut self, at: usize) {
        let Some(every) = self.every else { return };
        let due = Duration::from_nanos((at as f64 * every) as u64);
        while self.begin.elapsed() < due {
            std::hint::spin_loop();
        }
    }
}
