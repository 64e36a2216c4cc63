//! The main job, on real input: a year of flights goes through a small store, and every answer is checked.
//!
//! All departures from New York's airports in 2013, with their arrivals and cancellations, are replayed in the order
//! of time on a clock that is set to each event. One stream per aircraft, three classes with windows and retentions
//! of their own, and so little memory that most of the year is in the cold tier at the end. Then the example asks for
//! single events, newest events, histories and time ranges, closes the store, opens it again and asks once more.
//! Every answer is compared with the source; one mismatch makes the exit code non-zero.
//!
//! ```sh
//! cargo run --release --example flights
//! cargo run --release --example flights -- --data-dir ./flights-data
//! ```
//!
//! Where to look: `timeline.rs` has the classes and the order of events, `event.rs` what an event is made of,
//! `replay.rs` how events come in, `ask.rs` the questions, `judge.rs` the comparison, `report.rs` the tables.

mod ask;
mod event;
mod judge;
mod latency;
mod openings;
mod options;
mod replay;
mod report;
mod source;
mod timeline;

use std::process::ExitCode;

use esker::{Clock, ConfigBuilder, Store};

use crate::openings::Cold;
use crate::options::{DataDir, DiskSize, Options};
use crate::report::count;
use crate::source::Flights;
use crate::timeline::Timeline;

/// What ends the example early.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let outcome = Options::from_args().and_then(|options| match options {
        Some(options) => run(&options),
        None => Ok(0),
    });
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(mismatches) => {
            eprintln!("FAILED: {} mismatches", count(mismatches));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does everything. Gives the number of mismatches.
fn run(options: &Options) -> Result<u64, Failure> {
    let dir = DataDir::make(options)?;
    let flights = Flights::load()?;
    let timeline = Timeline::of(&flights);
    println!(
        "{} flights make {} events of {} aircraft. Data directory: {}",
        count(flights.len()),
        count(timeline.entries.len()),
        count(timeline.aircraft.len()),
        dir.path().display()
    );
    openings::run(&timeline, &dir)
}

impl Cold for DataDir {
    fn open(&self, config: ConfigBuilder, clock: Clock) -> Result<Store, Failure> {
        Ok(Store::builder(config.data_dir(self.path()).build()?).clock(clock).open()?)
    }

    fn size(&self) -> Result<DiskSize, Failure> {
        DiskSize::of(self.path())
    }
}
