//! Hit ratios: a small store without threads, whose clock the trace moves.

use std::time::Duration;

use esker::policy::{Policy, PriorityTime, Random2Lru, Sieve, SizeThreshold, Tier};
use esker::{ClassConfig, Clock, Config, Event, OnLeave, Store, Stream};

use crate::common::machine::thread_time;
use crate::common::{Payloads, first_word};
use crate::traces::{Kind, Operation, Trace, WINDOW};
use crate::{Size, median};

/// Operations between two steps of the engine, each a millisecond of the store's time.
const STEP: usize = 50;

type Make = fn() -> Box<dyn Policy>;

/// Those that are compared.
const POLICIES: [(&str, Make); 6] = [
    ("PriorityTime (default)", || Box::new(PriorityTime::new())),
    ("SizeThreshold (oldest first)", || Box::new(SizeThreshold::new())),
    ("Random2Lru", || Box::new(Random2Lru::new())),
    ("Random2Lru, no promotion", || Box::new(Random2Lru::new().promote(false))),
    ("Sieve", || Box::new(Sieve::new())),
    ("Sieve, no promotion", || Box::new(Sieve::new().promote(false))),
];

/// What came of one trace.
#[derive(Clone, Copy, Default)]
struct Outcome {
    /// Shares of the reads that count.
    hot: f64,
    memory: f64,
    /// Nanoseconds of an operation, appends and the engine's work included.
    nanos: f64,
    /// Pages unpacked again for a thousand operations.
    promoted: f64,
}

/// Prints a table.
pub(crate) fn run(size: &Size) {
    println!(
        "| trace | policy | hot, % | min–max | in memory, % | ns an operation | pages unpacked again, for 1,000 |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|");
    for kind in Kind::ALL {
        for (name, make) in POLICIES {
            let all: Vec<Outcome> = (0..size.traces).map(|seed| outcome(kind, seed, make(), size)).collect();
            let of = |what: fn(&Outcome) -> f64| median(all.iter().map(what));
            let hot: Vec<f64> = all.iter().map(|one| one.hot * 100.0).collect();
            println!(
                "| {} | {name} | {:.1} | {:.1}–{:.1} | {:.1} | {:.0} | {:.2} |",
                kind.name(),
                of(|one| one.hot) * 100.0,
                hot.iter().copied().fold(f64::INFINITY, f64::min),
                hot.iter().copied().fold(0.0, f64::max),
                of(|one| one.memory) * 100.0,
                of(|one| one.nanos),
                of(|one| one.promoted),
            );
        }
    }
    println!();
}

fn open(clock: &Clock, policy: Box<dyn Policy>) -> Store {
    let config = Config::builder()
        .memory("12MiB")
        .hot(|hot| hot.max("2MiB").page_size("16KiB"))
        .warm(|warm| warm.max("1MiB").page_size("4KiB"))
        .index(|index| index.max("2MiB"))
        .partitions(1)
        .append_timeout(Duration::from_secs(60))
        .class(ClassConfig::new("events").on_leave(OnLeave::Drop))
        .background(false)
        .huge_pages(false);
    let config = config.build().expect("the sizes fit together");
    let builder = Store::builder(config).clock(clock.clone()).policy(policy);
    builder.open().expect("there must be memory for the store")
}

fn outcome(kind: Kind, seed: u64, policy: Box<dyn Policy>, size: &Size) -> Outcome {
    let clock = Clock::manual(1_700_000_000_000);
    let (store, payloads, mut trace) = (open(&clock, policy), Payloads::new(256), Trace::new(kind, seed));
    let (mut id, mut reads, mut hot, mut memory, mut sum) = (0, 0u64, 0u64, 0u64, 0u64);
    let append = |id: u64, stream: u32| {
        let event = Event::new(Stream::from(stream), id, clock.now_ms(), 0);
        store.append(&event.payload(payloads.of(id as usize))).expect("the oldest leave");
    };
    // The window is filled, then a quarter of the operations go by until counting begins.
    let (warm_up, mut begin, mut promoted) = (WINDOW + size.operations / 4, Duration::ZERO, 0);
    for at in 0..WINDOW + size.operations {
        if at == warm_up {
            (begin, promoted) = (thread_time(), store.stats().eviction.promoted_pages);
            (reads, hot, memory) = (0, 0, 0);
        }
        let operation = if at < WINDOW { trace.append() } else { trace.step() };
        match operation {
            Operation::Append { stream } => {
                id += 1;
                append(id, stream);
            }
            Operation::Read(wanted) => {
                let guard = store.pin();
                let tier = guard.tier_of(wanted);
                reads += 1;
                hot += u64::from(tier == Some(Tier::Hot));
                memory += u64::from(tier.is_some());
                sum = sum.wrapping_add(guard.get(wanted).map_or(0, |event| first_word(event.payload())));
            }
            Operation::Pass(wanted) => {
                let guard = store.pin();
                sum = sum.wrapping_add(guard.get(wanted).map_or(0, |event| first_word(event.payload())));
            }
        }
        clock.set_ms(clock.now_ms() + 1);
        if at.is_multiple_of(STEP) {
            store.maintain().expect("there is no cold tier to say no");
        }
    }
    std::hint::black_box(sum);
    let count = (WINDOW + size.operations - warm_up) as f64;
    let stats = store.stats();
    assert!(stats.events.dropped > 0 && stats.events.demoted > 0, "memory was full: {:?}", stats.events);
    Outcome {
        hot: hot as f64 / reads as f64,
        memory: memory as f64 / reads as f64,
        nanos: (thread_time() - begin).as_nanos() as f64 / count,
        promoted: (stats.eviction.promoted_pages - promoted) as f64 * 1000.0 / count,
    }
}
