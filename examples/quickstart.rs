//! The shortest way from nothing to an answer: `cargo run --example quickstart`.

use std::time::Duration;

use esker::{Clock, Config, Event, Store};

fn main() -> Result<(), esker::Error> {
    let dir = std::env::temp_dir().join(format!("esker-quickstart-{}", std::process::id()));
    let store = Store::open(Config::builder().memory("64MiB").data_dir(&dir).build()?)?;

    // A thousand events of ten customers, the last one now.
    let first_ms = Clock::system().now_ms() - 999;
    let customers: Vec<_> =
        (0..10).map(|number| store.stream(&format!("customer-{number}"))).collect::<Result<_, _>>()?;
    let events: Vec<Event<'_>> = (0..1000u64)
        .map(|number| {
            let customer = customers[number as usize % customers.len()];
            Event::new(customer, number, first_ms + number as i64, (number % 3) as u8).payload(b"hello")
        })
        .collect();
    let batch = store.append_batch(&events)?.all_accepted()?;
    println!("{} events stored", batch.stored);

    let guard = store.pin();
    println!("the newest three of customer-7:");
    for event in guard.history(customers[7]).take(3) {
        println!("  {event:?}");
    }
    let kind_one = guard.scan(first_ms + 100..first_ms + 200).kind(1).count();
    println!("{kind_one} events of kind 1 in a tenth of a second");
    drop(guard);

    let report = store.close(Duration::from_secs(5))?;
    println!("{} events are on disk in {}", report.cold, dir.display());
    // A directory that cannot be removed is no concern of an example.
    let _ = std::fs::remove_dir_all(&dir);
    Ok(())
}
