//! The events of the year in the order in which they happened: what is replayed, and what is expected back.

use std::collections::HashMap;
use std::time::Duration;

use esker::{Class, ClassConfig, Error, Event, EventRef, Store, Stream};

use crate::event::{Kind, Message, id_of};
use crate::source::{Flight, Flights};

/// One day.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
/// The stream of flights that were cancelled before they had an aircraft.
const NO_AIRCRAFT: &str = "unassigned";

/// Positions of the classes in the configuration.
const MAINLINE: usize = 0;
const LONG_HAUL: usize = 1;
const REGIONAL: usize = 2;

/// The classes of events. The windows are long, since a year passes within seconds; they are chosen so that hot and
/// warm tier are about three quarters full by age alone, and meet pressure on busy days.
pub(crate) fn classes() -> [ClassConfig; 3] {
    let class = |name, hot, warm| ClassConfig::new(name).hot_for(DAY * hot).warm_for(DAY * warm);
    [
        class("mainline", 14, 60),
        class("long-haul", 28, 90).retention(DAY * 400),
        class("regional", 7, 30).retention(DAY * 90),
    ]
}

/// The class of a flight's events.
fn class_of(flight: &Flight<'_>) -> usize {
    match flight.carrier {
        "9E" | "EV" | "MQ" | "OO" | "YV" => REGIONAL,
        _ if flight.distance >= 2000 => LONG_HAUL,
        _ => MAINLINE,
    }
}

/// One event of the year.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// When it happens, in milliseconds since the epoch.
    pub(crate) time_ms: i64,
    /// The row of its flight.
    pub(crate) row: u32,
    /// Which of the flight's events it is.
    pub(crate) kind: Kind,
    /// The position of its class.
    pub(crate) class: u8,
    /// The number of its aircraft.
    pub(crate) aircraft: u16,
}

impl Entry {
    /// The event's id.
    pub(crate) fn id(&self) -> u64 {
        id_of(self.row as usize, self.kind)
    }
}

/// The events of the year, in the order of time. An event's *place* is its position in it.
pub(crate) struct Timeline<'f> {
    flights: &'f Flights,
    /// The tail numbers.
    pub(crate) aircraft: Vec<&'f str>,
    /// All events.
    pub(crate) entries: Vec<Entry>,
    /// For each aircraft the places of its events, rising.
    pub(crate) of_aircraft: Vec<Vec<u32>>,
    /// The place of each id that there is.
    places: HashMap<u64, u32>,
}

impl<'f> Timeline<'f> {
    /// Makes events of flights.
    pub(crate) fn of(flights: &'f Flights) -> Self {
        let mut aircraft = Vec::new();
        let mut numbers = HashMap::new();
        let mut entries = Vec::with_capacity(2 * flights.len());
        for flight in flights.iter() {
            let tail_number = flight.tailnum.unwrap_or(NO_AIRCRAFT);
            let number = *numbers.entry(tail_number).or_insert_with(|| {
                aircraft.push(tail_number);
                aircraft.len() as u16 - 1
            });
            let entry = |kind: Kind| {
                let (row, class) = (flight.row as u32, class_of(&flight) as u8);
                Some(Entry { time_ms: kind.happened_ms(&flight)?, row, kind, class, aircraft: number })
            };
            entries.extend(Kind::ALL.into_iter().filter_map(entry));
        }
        entries.sort_unstable_by_key(|entry| (entry.time_ms, entry.id()));
        let mut of_aircraft = vec![Vec::new(); aircraft.len()];
        for (place, entry) in entries.iter().enumerate() {
            of_aircraft[usize::from(entry.aircraft)].push(place as u32);
        }
        let places = entries.iter().enumerate().map(|(place, entry)| (entry.id(), place as u32)).collect();
        Self { flights, aircraft, entries, of_aircraft, places }
    }

    /// The place of the event with that id.
    pub(crate) fn place_of(&self, id: u64) -> Option<usize> {
        self.places.get(&id).map(|place| *place as usize)
    }

    /// The flight of an event.
    pub(crate) fn flight(&self, entry: &Entry) -> Flight<'f> {
        self.flights.get(entry.row as usize)
    }

    /// Metadata and payload of an event.
    pub(crate) fn message(&self, entry: &Entry) -> Message<'f> {
        Message::of(&self.flight(entry), entry.kind)
    }

    /// When the first event happens.
    pub(crate) fn first_ms(&self) -> i64 {
        self.entries.first().map_or(0, |entry| entry.time_ms)
    }

    /// When the last event happens.
    pub(crate) fn last_ms(&self) -> i64 {
        self.entries.last().map_or(0, |entry| entry.time_ms)
    }

    /// The places of all events from one time up to another.
    pub(crate) fn between(&self, from_ms: i64, to_ms: i64) -> std::ops::Range<usize> {
        let place = |time_ms| self.entries.partition_point(|entry| entry.time_ms < time_ms);
        place(from_ms)..place(to_ms)
    }

    /// The aircraft with the most events, the busiest first.
    pub(crate) fn busiest(&self, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> =
            (0..self.aircraft.len()).filter(|number| self.aircraft[*number] != NO_AIRCRAFT).collect();
        all.sort_by_key(|aircraft| std::cmp::Reverse(self.of_aircraft[*aircraft].len()));
        all.truncate(count);
        all
    }

    /// An aircraft's events as a history gives them: newest first; of several classes at the same time, in the
    /// order of the classes.
    pub(crate) fn newest_first(&self, aircraft: usize) -> Vec<usize> {
        let mut places: Vec<usize> =
            self.of_aircraft[aircraft].iter().rev().map(|place| *place as usize).collect();
        places.sort_by_key(|place| {
            (std::cmp::Reverse(self.entries[*place].time_ms), self.entries[*place].class)
        });
        places
    }
}

/// What a store calls the aircraft and the classes.
#[derive(PartialEq, Eq)]
pub(crate) struct Handles {
    /// For each aircraft its stream.
    pub(crate) streams: Vec<Stream>,
    /// The classes, in the order of [`classes`].
    pub(crate) classes: Vec<Class>,
}

impl Handles {
    /// Asks a store for them; it makes a stream for each name that it does not know yet.
    pub(crate) fn of(store: &Store, timeline: &Timeline<'_>) -> Result<Self, Error> {
        let streams = timeline.aircraft.iter().map(|name| store.stream(name)).collect::<Result<_, _>>()?;
        let classes = classes().iter().filter_map(|class| store.class(&class.name)).collect();
        Ok(Self { streams, classes })
    }

    /// An event of the timeline as the store takes it.
    pub(crate) fn event<'m>(&self, entry: &Entry, message: &'m Message<'_>) -> Event<'m> {
        let stream = self.streams[usize::from(entry.aircraft)];
        let class = self.classes[usize::from(entry.class)];
        message.event(stream, class, entry.id(), entry.time_ms, entry.kind)
    }

    /// Compares an event from the store with one of the timeline. Tells what differs.
    pub(crate) fn compare(
        &self,
        timeline: &Timeline<'_>,
        entry: &Entry,
        event: &EventRef<'_>,
    ) -> Result<(), String> {
        fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
            if found == expected { Ok(()) } else { Err(format!("{what} {found:?} instead of {expected:?}")) }
        }
        same("id", event.id(), entry.id())?;
        same("stream", event.stream(), self.streams[usize::from(entry.aircraft)])?;
        same("timestamp", event.timestamp(), entry.time_ms)?;
        same("kind", event.kind(), entry.kind as u8)?;
        same("class", event.class(), self.classes[usize::from(entry.class)])?;
        same("flags", event.flags(), 0)?;
        timeline.message(entry).compare(event)
    }
}
