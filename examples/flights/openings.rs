//! What is done with the store: replay, ask, close, open again, ask once more.

use std::time::Duration;

use esker::{Clock, Config, ConfigBuilder, Store};

use crate::Failure;
use crate::ask::Questions;
use crate::event::describe;
use crate::judge::Judge;
use crate::latency::Latencies;
use crate::options::DiskSize;
use crate::replay;
use crate::report::{Facts, count};
use crate::timeline::{Handles, Timeline, classes};

/// From this number follows which events the example asks for.
const SEED: u64 = 2013;
/// How long closing may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(60);

/// Where the events go that leave memory.
pub(crate) trait Cold {
    /// Opens the store, on a clock.
    fn open(&self, config: ConfigBuilder, clock: Clock) -> Result<Store, Failure>;
    /// What it takes there.
    fn size(&self) -> Result<DiskSize, Failure>;
    /// Called when the first store is closed, before the second is opened.
    fn between(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// Does everything. Gives the number of mismatches.
pub(crate) fn run(timeline: &Timeline<'_>, cold: &dyn Cold) -> Result<u64, Failure> {
    let mut latencies = Latencies::new();
    let (mut mismatches, handles) = first_opening(cold, timeline, &mut latencies)?;
    cold.between()?;
    mismatches += second_opening(cold, timeline, &handles)?;
    if mismatches == 0 {
        println!("\nEvery answer was right.");
    }
    Ok(mismatches)
}

/// A small store: 4 MiB hot and 4 MiB warm, for events whose records take about 64 MB.
fn config() -> ConfigBuilder {
    let config = Config::builder()
        .memory("24MiB")
        .hot(|hot| hot.max("4MiB"))
        .warm(|warm| warm.max("4MiB"))
        .index(|index| index.max("6MiB"))
        .buffers("8MiB");
    classes().into_iter().fold(config, ConfigBuilder::class)
}

/// Replays the year, asks, prints the tables, and closes.
fn first_opening(
    cold: &dyn Cold,
    timeline: &Timeline<'_>,
    latencies: &mut Latencies,
) -> Result<(u64, Handles), Failure> {
    let resident_before = replay::resident_bytes();
    let clock = Clock::manual(timeline.first_ms());
    let store = cold.open(config(), clock.clone())?;
    let handles = Handles::of(&store, timeline)?;

    let replay = replay::replay(&store, &clock, timeline, &handles, latencies)?;
    come_to_rest(&store)?;
    store.validate()?;
    let stats = store.stats();
    let facts =
        Facts { events: timeline.entries.len(), replay, resident_before, on_disk: cold.size()?, stats };
    println!("Replayed in {:.2} s; the store's invariants hold.", facts.replay.took.as_secs_f64());

    println!("\nQuestions, of all tiers unless said otherwise (seed {SEED})");
    let mut questions = Questions::new(&store, Judge::new(timeline, &handles), latencies, SEED);
    questions.section("everything in memory", Questions::memory);
    questions.section("every event by its id, from memory", Questions::every_event_by_id);
    questions.section("random events by their ids", |ask| ask.some_events_by_id(20_000));
    questions.section("expired events by their ids", |ask| ask.expired_events_by_id(5_000));
    questions.section("ids that never were", |ask| ask.events_that_never_were(5_000));
    questions.section("newest 100 of 500 aircraft", |ask| ask.newest_of_the_busiest(500));
    questions.section("60 whole histories, and a month of each", |ask| ask.histories(40, 20));
    questions.section("60 hours and 60 days, in order", |ask| ask.ranges(60, 60));
    questions.section("the whole year", Questions::everything);
    questions.section("what the store counted", |ask| ask.counters(&facts.stats, &facts.replay));
    questions.section("events that come again", Questions::newest_events_again);
    let mismatches = questions.judge.mismatches;

    facts.print(&store, latencies);
    show_busiest(&store, timeline, &handles)?;
    close(&store)?;
    Ok((mismatches, handles))
}

/// Does what the store's threads have not come to yet, and waits for what they are at, so that nothing moves while it is
/// counted: a block that is on its way lets its pages go when it has arrived.
fn come_to_rest(store: &Store) -> Result<(), Failure> {
    loop {
        store.maintain()?;
        let before = store.stats().events;
        std::thread::sleep(Duration::from_millis(300));
        if store.stats().events == before {
            return Ok(());
        }
    }
}

/// Opens what the first opening left, and asks again.
fn second_opening(cold: &dyn Cold, timeline: &Timeline<'_>, before: &Handles) -> Result<u64, Failure> {
    let clock = Clock::manual(timeline.last_ms());
    let store = cold.open(config(), clock)?;
    let handles = Handles::of(&store, timeline)?;
    let mut latencies = Latencies::default();
    println!("\nOpened again: everything is in the cold tier now (seed {})", SEED + 1);
    let mut questions = Questions::new(&store, Judge::new(timeline, &handles), &mut latencies, SEED + 1);
    questions.section("names of classes and streams", |ask| ask.names(before));
    questions.section("everything in memory", Questions::memory);
    questions.section("random events by their ids", |ask| ask.some_events_by_id(5_000));
    questions.section("20 whole histories, and a month of each", |ask| ask.histories(10, 10));
    questions.section("the whole year", Questions::everything);
    let mismatches = questions.judge.mismatches;
    store.validate()?;
    close(&store)?;
    Ok(mismatches)
}

/// Prints the newest events of the busiest aircraft, made of nothing but what the store has.
fn show_busiest(store: &Store, timeline: &Timeline<'_>, handles: &Handles) -> Result<(), Failure> {
    for aircraft in timeline.busiest(1) {
        println!("\nThe newest events of {}", timeline.aircraft[aircraft]);
        for event in store.fetch_history(handles.streams[aircraft]).take(4) {
            println!("  {}", describe(&event?));
        }
    }
    Ok(())
}

/// Closes the store; everything must have come to the cold tier.
fn close(store: &Store) -> Result<(), Failure> {
    let report = store.close(CLOSE_LIMIT)?;
    println!(
        "\nClosed: {} events were written, {} are in the cold tier.",
        count(report.spilled),
        count(report.cold)
    );
    if report.left > 0 {
        return Err(format!("{} events were left when the store closed", report.left).into());
    }
    Ok(())
}
