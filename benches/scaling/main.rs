//! How rates grow with threads, beside what the memory gives to as many threads, measured in the same run.
//!
//! ```sh
//! cargo bench --bench scaling                                          # 1, 2, 4 … as many as there are processors
//! cargo bench --bench scaling -- --threads 1,2,4,8,16 --seconds 2
//! cargo bench --bench scaling -- --threads 1 --only append,get --huge-pages off
//! ```
//!
//! The binary of `cargo bench --no-run --bench scaling` needs nothing beside it, so it can be stripped and run on another
//! machine (with `--bench`, as cargo does; without it everything runs once and short).

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "the other benchmark needs the rest")]
mod common;
mod limits;
mod race;
mod reads;
mod settings;
mod table;
mod writes;

use std::time::Duration;

use common::now;
use settings::Settings;
use table::Table;

fn main() {
    let settings = match Settings::from_args() {
        Ok(settings) => settings,
        Err(fault) => {
            eprintln!("{fault}");
            std::process::exit(2);
        }
    };
    let begin = now();
    let mut table = Table::new(&settings);
    for threads in settings.threads.iter().copied() {
        eprintln!("{threads} threads, {:.0} s", begin.elapsed().as_secs_f64());
        limits::run(threads, &settings, &mut table);
        writes::run(threads, &settings, &mut table);
        reads::run(threads, &settings, &mut table);
    }
    table.print();
    if settings.wants("counters") {
        counters(settings.time);
    }
    println!("\n{:.0} s, {}", begin.elapsed().as_secs_f64(), settings.text());
}

/// What two threads pay for counters that lie on one line, although each has its own.
fn counters(time: Duration) {
    use crossbeam_utils::CachePadded;
    use std::sync::atomic::{AtomicU64, Ordering};
    println!("\n| two threads that count | ns for each addition |\n|---|---:|");
    let row = |name: &str, counters: [&AtomicU64; 2]| {
        let rate = race::race(2, time / 4, |thread, running| {
            let mut done = 0;
            while running.go_on() {
                for _ in 0..1024 {
                    counters[thread].fetch_add(1, Ordering::Relaxed);
                }
                done += 1024;
            }
            done
        });
        println!("| {name} | {:.1} |", 2e9 / rate.each_second);
    };
    let alone: [CachePadded<AtomicU64>; 2] = Default::default();
    let together: CachePadded<[AtomicU64; 2]> = Default::default();
    row("each its own, on lines of their own", [&alone[0], &alone[1]]);
    row("each its own, on one line", [&together[0], &together[1]]);
    row("one of both", [&together[0], &together[0]]);
}
