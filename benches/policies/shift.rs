//! Sizes that follow the load against sizes that stay: what is read changes, and changes back.

use std::time::Duration;

use esker::policy::Tier;
use esker::{Adaptive, ClassConfig, Clock, Config, ConfigBuilder, Event, OnLeave, RegionKind, Store, Stream};

use crate::common::machine::thread_time;
use crate::common::{Payloads, Random, mix};
use crate::{Size, median};

/// Operations between two steps of the engine, each a millisecond of the store's time.
const STEP: usize = 50;
/// What a read costs that finds its event hot, warm, or not at all: what the store reckons with if nothing is said.
const COSTS: [f64; 3] = [1.0, 30.0, 1000.0];
/// What is read in each phase: any of so many newest events.
const PHASES: [(&str, usize); 3] =
    [("newest 7,000", 7_000), ("newest 20,000", 20_000), ("newest 7,000 again", 7_000)];

/// What came of a phase, over its last quarter.
#[derive(Clone, Copy, Default)]
struct Outcome {
    /// Shares of reads: hot, warm, neither.
    shares: [f64; 3],
    hot_bytes: f64,
    warm_bytes: f64,
    nanos: f64,
}

/// Prints a table.
pub(crate) fn run(size: &Size) {
    println!(
        "| reads | sizes | hot, MiB | warm, MiB | reads hot, % | warm, % | neither, % | cost of a read | ns an operation |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|");
    let all = [false, true].map(|adapts| -> Vec<[Outcome; 3]> {
        (0..size.traces).map(|seed| outcome(seed, adapts, size.operations * 5)).collect()
    });
    for (phase, (name, _)) in PHASES.iter().enumerate() {
        for (adapts, runs) in all.iter().enumerate() {
            let of = |what: &dyn Fn(&Outcome) -> f64| median(runs.iter().map(|run| what(&run[phase])));
            let cost = |one: &Outcome| one.shares.iter().zip(COSTS).map(|(share, cost)| share * cost).sum();
            println!(
                "| {name} | {} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} |",
                ["stay", "follow the load"][adapts],
                of(&|one| one.hot_bytes) / f64::from(1 << 20),
                of(&|one| one.warm_bytes) / f64::from(1 << 20),
                of(&|one| one.shares[0]) * 100.0,
                of(&|one| one.shares[1]) * 100.0,
                of(&|one| one.shares[2]) * 100.0,
                of(&cost),
                of(&|one| one.nanos),
            );
        }
    }
    println!();
}

fn config() -> ConfigBuilder {
    Config::builder()
        .buffers("2MiB")
        .hot(|hot| hot.max("1536KiB").ceiling("4MiB").page_size("16KiB"))
        .warm(|warm| warm.max("1536KiB").ceiling("4MiB").page_size("4KiB"))
        .index(|index| index.max("512KiB").ceiling("1MiB"))
        .partitions(1)
        .append_timeout(Duration::from_secs(60))
        .class(ClassConfig::new("events").on_leave(OnLeave::Drop))
        .background(false)
        .huge_pages(false)
}

fn open(clock: &Clock, adapts: bool) -> Store {
    let parts = config().memory("12MiB").build().expect("the sizes fit together");
    // Nothing is left over that could be given to a region.
    let memory = parts.system.max + parts.buffers + parts.hot.max + parts.warm.max + parts.index.max;
    let rules = Adaptive::new().every(Duration::from_secs(5)).rest(Duration::from_secs(10));
    let config = config().memory(memory).adaptive_sizing(adapts.then_some(rules));
    let config = config.build().expect("the sizes fit together");
    Store::builder(config).clock(clock.clone()).open().expect("there must be memory for the store")
}

fn outcome(seed: u64, adapts: bool, operations: usize) -> [Outcome; 3] {
    let clock = Clock::manual(1_700_000_000_000);
    let (store, payloads, mut random) =
        (open(&clock, adapts), Payloads::new(256), Random::new(mix(seed + 1)));
    let mut id = 0;
    let mut append = |store: &Store, random: &mut Random| {
        id += 1;
        let event = Event::new(Stream::from(random.below(2000) as u32), id, clock.now_ms(), 0);
        store.append(&event.payload(payloads.of(id as usize))).expect("the oldest leave");
        id
    };
    let mut last = 0;
    for at in 0..20_000 {
        last = append(&store, &mut random);
        if at % STEP == 0 {
            store.maintain().expect("there is no cold tier to say no");
        }
    }
    PHASES.map(|(_, among)| {
        let (mut found, mut begin) = ([0u64; 3], Duration::ZERO);
        let counted = operations - operations / 4;
        for at in 0..operations {
            if at == counted {
                (found, begin) = ([0; 3], thread_time());
            }
            if random.below(5) == 0 {
                last = append(&store, &mut random);
            } else {
                let wanted = last - random.below(among) as u64;
                let guard = store.pin();
                found[match guard.tier_of(wanted) {
                    Some(Tier::Hot) => 0,
                    Some(_) => 1,
                    None => 2,
                }] += 1;
                std::hint::black_box(guard.get(wanted).map(|event| event.payload().len()));
            }
            clock.set_ms(clock.now_ms() + 1);
            if at % STEP == 0 {
                store.maintain().expect("there is no cold tier to say no");
            }
        }
        let (nanos, stats) = ((thread_time() - begin).as_nanos() as f64, store.stats());
        assert_eq!(stats.sizing.looks > 0, adapts);
        let reads = found.iter().sum::<u64>() as f64;
        let bytes = |kind| stats.region(kind).max_bytes as f64;
        Outcome {
            shares: found.map(|count| count as f64 / reads),
            hot_bytes: bytes(RegionKind::Hot),
            warm_bytes: bytes(RegionKind::Warm),
            nanos: nanos / (operations - counted) as f64,
        }
    })
}
