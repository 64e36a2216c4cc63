//! What becomes of a flight: its events, how their columns are laid out, and how an event is read back.
//!
//! | column                                         | where it is in the event              |
//! |------------------------------------------------|---------------------------------------|
//! | tail number                                    | the name of the stream                |
//! | departure, arrival                             | timestamp and kind                    |
//! | carrier, origin, destination                   | metadata                              |
//! | date, flight number, distance, scheduled times | payload, see [`Columns`]              |
//! | actual time, delay, time in the air            | payload of the event that knows them  |

use esker::{Class, Event, EventRef, Stream};

use crate::source::Flight;

/// The type of an event: what the store calls its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The aircraft has left.
    Departure = 1,
    /// The aircraft has landed.
    Arrival = 2,
    /// The flight never left; the event has the time at which it should have.
    Cancellation = 3,
}

impl Kind {
    /// Every kind that there is.
    pub(crate) const ALL: [Self; 3] = [Self::Departure, Self::Arrival, Self::Cancellation];

    /// When this happened to a flight, in milliseconds since the epoch; `None` when it did not, or at a time that
    /// is not known.
    pub(crate) fn happened_ms(self, flight: &Flight<'_>) -> Option<i64> {
        match self {
            Self::Departure => flight.departure_ms(),
            Self::Arrival => flight.arrival_ms(),
            Self::Cancellation if flight.departure_ms().is_none() => Some(flight.scheduled_ms()),
            Self::Cancellation => None,
        }
    }
}

/// The id of an event: the flight's row and the kind, so that every event has an id of its own and a source that
/// starts again gives the same ones.
pub(crate) fn id_of(row: usize, kind: Kind) -> u64 {
    (row as u64) << 2 | kind as u64
}

/// The row and the kind that an id was made of.
pub(crate) fn row_and_kind(id: u64) -> Option<(usize, Kind)> {
    let kind = Kind::ALL.into_iter().find(|kind| *kind as u64 == id & 3)?;
    Some((usize::try_from(id >> 2).ok()?, kind))
}

/// The columns of the payload: nine numbers of two bytes, little-endian, in the order of the fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Columns {
    /// The year of the scheduled departure.
    pub(crate) year: u16,
    /// Month and day of the scheduled departure, as month * 100 + day.
    pub(crate) month_day: u16,
    /// The flight number.
    pub(crate) flight: u16,
    /// The distance in miles.
    pub(crate) distance: u16,
    /// The scheduled departure, as hours * 100 + minutes.
    pub(crate) scheduled_departure: u16,
    /// The scheduled arrival, likewise.
    pub(crate) scheduled_arrival: u16,
    /// When it happened, likewise.
    pub(crate) actual: Option<u16>,
    /// By how many minutes that was late.
    pub(crate) delay: Option<i16>,
    /// The minutes in the air, of an arrival.
    pub(crate) air_time: Option<u16>,
}

/// Stands for a value that is not there; no column reaches it.
const NONE: u16 = 0x7fff;

impl Columns {
    /// Bytes of the payload.
    pub(crate) const LEN: usize = 18;

    /// The columns that an event of that kind tells of a flight.
    fn of(flight: &Flight<'_>, kind: Kind) -> Self {
        let (actual, delay, air_time) = match kind {
            Kind::Departure => (flight.dep_time, flight.dep_delay, None),
            Kind::Arrival => (flight.arr_time, flight.arr_delay, flight.air_time),
            Kind::Cancellation => (None, None, None),
        };
        Self {
            year: flight.year,
            month_day: u16::from(flight.month) * 100 + u16::from(flight.day),
            flight: flight.flight,
            distance: flight.distance,
            scheduled_departure: flight.sched_dep_time,
            scheduled_arrival: flight.sched_arr_time,
            actual,
            delay,
            air_time,
        }
    }

    /// Packs the columns into a payload.
    fn encode(&self) -> [u8; Self::LEN] {
        let words = [
            self.year,
            self.month_day,
            self.flight,
            self.distance,
            self.scheduled_departure,
            self.scheduled_arrival,
            self.actual.unwrap_or(NONE),
            self.delay.map_or(NONE, i16::cast_unsigned),
            self.air_time.unwrap_or(NONE),
        ];
        let mut bytes = [0; Self::LEN];
        for (out, word) in bytes.chunks_exact_mut(2).zip(words) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Unpacks a payload; `None` when it does not have the length of one.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = payload.try_into().ok()?;
        let word = |at: usize| u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]);
        let known = |at: usize| Some(word(at)).filter(|word| *word != NONE);
        Some(Self {
            year: word(0),
            month_day: word(1),
            flight: word(2),
            distance: word(3),
            scheduled_departure: word(4),
            scheduled_arrival: word(5),
            actual: known(6),
            delay: known(7).map(u16::cast_signed),
            air_time: known(8),
        })
    }
}

/// The bytes of an event on its way into the store.
pub(crate) struct Message<'f> {
    metadata: [(&'f str, &'f str); 3],
    columns: Columns,
    payload: [u8; Columns::LEN],
}

impl<'f> Message<'f> {
    /// What an event of that kind tells of a flight.
    pub(crate) fn of(flight: &Flight<'f>, kind: Kind) -> Self {
        let columns = Columns::of(flight, kind);
        Self {
            metadata: [("carrier", flight.carrier), ("origin", flight.origin), ("dest", flight.dest)],
            columns,
            payload: columns.encode(),
        }
    }

    /// The event as the store takes it.
    pub(crate) fn event(&self, stream: Stream, class: Class, id: u64, time_ms: i64, kind: Kind) -> Event<'_> {
        Event::new(stream, id, time_ms, kind as u8)
            .class(class)
            .metadata(&self.metadata)
            .payload(&self.payload)
    }

    /// Compares metadata and payload with those of an event that came back. Tells what differs.
    pub(crate) fn compare(&self, event: &EventRef<'_>) -> Result<(), String> {
        let metadata = self.metadata.map(|(key, value)| (key.as_bytes(), value.as_bytes()));
        if !event.metadata().eq(metadata) {
            let found: Vec<_> = event.metadata().map(|(key, value)| (text(key), text(value))).collect();
            return Err(format!("metadata {found:?} instead of {:?}", self.metadata));
        }
        let found = Columns::decode(event.payload());
        if found != Some(self.columns) {
            return Err(format!("payload {:?} = {found:?} instead of {:?}", event.payload(), self.columns));
        }
        Ok(())
    }
}

/// Tells of an event in a line, from nothing but what the store gave.
pub(crate) fn describe(event: &EventRef<'_>) -> String {
    let value = |key| event.metadata_value(key).map_or_else(|| "?".to_owned(), text);
    let Some(columns) = Columns::decode(event.payload()) else { return format!("{event:?}") };
    let (month, day) = (columns.month_day / 100, columns.month_day % 100);
    let (flight, from, to) =
        (format!("{} {}", value("carrier"), columns.flight), value("origin"), value("dest"));
    let clock = |time: u16| format!("{:02}:{:02}", time / 100, time % 100);
    let (verb, place) = match row_and_kind(event.id()) {
        Some((_, Kind::Departure)) => ("left", from),
        Some((_, Kind::Arrival)) => ("landed in", to),
        _ => ("was cancelled from", from),
    };
    let when = columns.actual.map_or_else(String::new, |time| format!(" at {}", clock(time)));
    let late = columns.delay.map_or_else(String::new, |minutes| format!(", {minutes:+} min"));
    format!("{}-{month:02}-{day:02}  {flight:<8} {verb} {place}{when}{late}", columns.year)
}

/// Bytes as text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
