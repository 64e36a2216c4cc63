//! Replaying the year: every event is appended when the store's clock says that it happens.

use std::time::Duration;

use esker::{Appended, Clock, ErrorKind, Event, Store};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Failure;
use crate::event::Message;
use crate::latency::{Latencies, now};
use crate::timeline::{Handles, Timeline};

/// Events of a batch.
pub(crate) const BATCH: usize = 64;
/// Of so many batches, one is appended event by event.
const ONE_BY_ONE: usize = 16;
/// Of so many batches, one is followed by a look at the memory that is in use.
const LOOK: usize = 64;

/// What a replay found out beside the latencies.
#[derive(Default)]
pub(crate) struct Replay {
    /// How long it took.
    pub(crate) took: Duration,
    /// Events that were refused for lack of room, and appended again.
    pub(crate) retried: u64,
    /// The most memory that the store said it used.
    pub(crate) memory_peak: u64,
    /// The most resident memory of the process, where the system tells.
    pub(crate) resident_peak: Option<u64>,
}

/// Appends all events in the order of time, and moves the clock with them.
pub(crate) fn replay(
    store: &Store,
    clock: &Clock,
    timeline: &Timeline<'_>,
    handles: &Handles,
    latencies: &mut Latencies,
) -> Result<Replay, Failure> {
    let bar = progress_bar(timeline.entries.len());
    let mut replay = Replay::default();
    let begin = now();
    for (number, entries) in timeline.entries.chunks(BATCH).enumerate() {
        let messages: Vec<Message<'_>> = entries.iter().map(|entry| timeline.message(entry)).collect();
        let events: Vec<Event<'_>> =
            entries.iter().zip(&messages).map(|(entry, message)| handles.event(entry, message)).collect();
        if number % ONE_BY_ONE == 0 {
            for event in &events {
                clock.set_ms(event.timestamp);
                append_one(store, event, latencies, &mut replay)?;
            }
        } else {
            clock.set_ms(entries[entries.len() - 1].time_ms);
            append_batch(store, &events, latencies, &mut replay)?;
        }
        if number % LOOK == 0 {
            replay.look(store);
            let flight = timeline.flight(&entries[0]);
            bar.set_message(format!("{}-{:02}-{:02}", flight.year, flight.month, flight.day));
        }
        bar.inc(entries.len() as u64);
    }
    replay.took = begin.elapsed();
    replay.look(store);
    bar.finish_and_clear();
    Ok(replay)
}

/// Appends an event, again and again while there is no room for it.
fn append_one(
    store: &Store,
    event: &Event<'_>,
    latencies: &mut Latencies,
    replay: &mut Replay,
) -> Result<(), Failure> {
    loop {
        match latencies.append.time(|| store.append(event)) {
            Ok(Appended::Stored) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::MemoryPressure => replay.retried += 1,
            Ok(other) => return Err(format!("{other:?} was the answer to the new event {event:?}").into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Appends a batch, and those of its events for which there was no room again.
fn append_batch(
    store: &Store,
    events: &[Event<'_>],
    latencies: &mut Latencies,
    replay: &mut Replay,
) -> Result<(), Failure> {
    let mut left = events.to_vec();
    while !left.is_empty() {
        let begin = now();
        let batch = store.append_batch(&left)?;
        let took = begin.elapsed();
        latencies.batch.add(took);
        latencies.batch_event.add_shares(took, left.len() as u64);
        if batch.duplicates > 0 {
            return Err(format!("new events were taken for duplicates: {batch:?}").into());
        }
        let mut again = Vec::new();
        for (at, error) in batch.refused {
            if error.kind() != ErrorKind::MemoryPressure {
                return Err(error.into());
            }
            again.push(left[at]);
        }
        replay.retried += again.len() as u64;
        left = again;
    }
    Ok(())
}

impl Replay {
    /// Notes how much memory is in use.
    fn look(&mut self, store: &Store) {
        self.memory_peak = self.memory_peak.max(store.stats().memory_bytes);
        self.resident_peak = self.resident_peak.max(resident_bytes());
    }
}

/// The memory of this process that is resident, where the system tells.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// A progress bar. It shows nothing where there is no terminal.
fn progress_bar(events: usize) -> ProgressBar {
    let bar = ProgressBar::new(events as u64);
    let template = "{msg:>10} [{bar:30}] {human_pos} of {human_len} events, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
