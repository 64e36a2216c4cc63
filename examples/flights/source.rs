//! The input of this example: every departure from New York's three airports in 2013.
//!
//! The data are embedded in the program, packed column by column by `examples/data/make_flights.py`,
//! which also documents the format; `examples/data/README.md` says where they come from.

#![allow(dead_code, reason = "this module offers the whole data set, whichever part of it the example reads")]

use std::io::Read;

use flate2::Crc;
use flate2::read::ZlibDecoder;

/// The packed data set.
const FILE: &[u8] = include_bytes!("../data/flights.bin.z");
/// The first bytes of the packed data set.
const MAGIC: &[u8] = b"ESKFLT01";
/// The minutes of a day.
const DAY_MINUTES: u16 = 1440;
/// The milliseconds of a minute.
const MINUTE_MS: i64 = 60_000;
/// The milliseconds of an hour.
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// The milliseconds of a day.
const DAY_MS: i64 = 24 * HOUR_MS;

/// One departure, as the original table has it.
///
/// Times of day are local to the airport and written as hours * 100 + minutes; an actual time at midnight
/// is written 2400. A cancelled flight has neither actual times nor delays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flight<'a> {
    /// The number of the flight's row in the data set, from 0. Rows are not in the order of time.
    pub(crate) row: usize,
    /// The year of the scheduled departure, which is 2013.
    pub(crate) year: u16,
    /// The month of the scheduled departure, from 1.
    pub(crate) month: u8,
    /// The day of the month of the scheduled departure, from 1.
    pub(crate) day: u8,
    /// The actual departure; none when the flight was cancelled.
    pub(crate) dep_time: Option<u16>,
    /// The scheduled departure.
    pub(crate) sched_dep_time: u16,
    /// The minutes by which the flight left late, negative when it left early.
    pub(crate) dep_delay: Option<i16>,
    /// The actual arrival.
    pub(crate) arr_time: Option<u16>,
    /// The scheduled arrival.
    pub(crate) sched_arr_time: u16,
    /// The minutes by which the flight arrived late, negative when it arrived early.
    pub(crate) arr_delay: Option<i16>,
    /// The two-letter code of the carrier.
    pub(crate) carrier: &'a str,
    /// The flight number.
    pub(crate) flight: u16,
    /// The tail number of the aircraft, where it is known.
    pub(crate) tailnum: Option<&'a str>,
    /// The airport of departure: `EWR`, `JFK` or `LGA`.
    pub(crate) origin: &'a str,
    /// The airport of destination.
    pub(crate) dest: &'a str,
    /// The minutes spent in the air; none when the flight was cancelled, diverted or not recorded.
    pub(crate) air_time: Option<u16>,
    /// The distance between the two airports, in miles.
    pub(crate) distance: u16,
    /// The full hour of the scheduled departure, in milliseconds since the epoch (UTC).
    pub(crate) time_hour_ms: i64,
}

impl Flight<'_> {
    /// Returns the instant of the scheduled departure in milliseconds since the epoch (UTC).
    pub(crate) fn scheduled_ms(&self) -> i64 {
        self.time_hour_ms + i64::from(self.sched_dep_time % 100) * MINUTE_MS
    }

    /// Returns the instant of the actual departure in milliseconds since the epoch (UTC), or none when the
    /// flight was cancelled.
    pub(crate) fn departure_ms(&self) -> Option<i64> {
        self.dep_delay.map(|delay| self.scheduled_ms() + i64::from(delay) * MINUTE_MS)
    }

    /// Returns the departure plus the time in the air, in milliseconds since the epoch (UTC), or none when
    /// the time in the air is not known.
    ///
    /// The arrival at the gate is later by the time spent on the ground. The data set has it only as a time
    /// of day in a zone that it does not name, which is why this instant stands for the arrival here.
    pub(crate) fn arrival_ms(&self) -> Option<i64> {
        let air_time = self.air_time?;
        self.departure_ms().map(|departure| departure + i64::from(air_time) * MINUTE_MS)
    }
}

/// The data set, column by column.
pub(crate) struct Flights {
    /// The days that occur, in the order of the rows.
    days: Vec<Day>,
    /// The codes of the carriers.
    carriers: Vec<String>,
    /// The pairs of airports with their distances.
    routes: Vec<Route>,
    /// The tail numbers, the busiest first.
    tailnums: Vec<String>,
    /// For each row, an index into `days`.
    day: Vec<u16>,
    /// For each row, an index into `carriers`.
    carrier: Vec<u8>,
    /// For each row, an index into `routes`.
    route: Vec<u8>,
    /// For each row, an index into `tailnums`.
    tailnum: Vec<Option<u16>>,
    /// The flight numbers.
    flight: Vec<u16>,
    /// The scheduled departures, in minutes after midnight.
    sched_dep: Vec<u16>,
    /// The scheduled arrivals, in minutes after midnight.
    sched_arr: Vec<u16>,
    /// The delays of the departures, in minutes.
    dep_delay: Vec<Option<i16>>,
    /// The actual arrivals, in minutes after midnight, from 1 to 1440.
    arr: Vec<Option<u16>>,
    /// The delays of the arrivals, in minutes.
    arr_delay: Vec<Option<i16>>,
    /// The times in the air, in minutes.
    air_time: Vec<Option<u16>>,
}

/// A day of departures.
struct Day {
    /// The year.
    year: u16,
    /// The month, from 1.
    month: u8,
    /// The day of the month, from 1.
    day: u8,
    /// The instant from which the local times of the day's departures count. On the two days when the clocks
    /// change this is not midnight itself, since all departures follow the change.
    base_ms: i64,
}

/// A pair of airports with a distance.
struct Route {
    /// The airport of departure.
    origin: String,
    /// The airport of destination.
    dest: String,
    /// The distance in miles.
    distance: u16,
}

impl Flights {
    /// Unpacks the data set that is embedded in the program.
    pub(crate) fn load() -> Result<Flights, String> {
        Flights::decode(FILE)
    }

    /// Returns the number of rows.
    pub(crate) fn len(&self) -> usize {
        self.day.len()
    }

    /// Returns one row.
    ///
    /// # Panics
    ///
    /// Panics when there is no such row, as the index of a slice does.
    pub(crate) fn get(&self, row: usize) -> Flight<'_> {
        let day = &self.days[usize::from(self.day[row])];
        let route = &self.routes[usize::from(self.route[row])];
        let sched_dep = self.sched_dep[row];
        let dep_delay = self.dep_delay[row];
        Flight {
            row,
            year: day.year,
            month: day.month,
            day: day.day,
            dep_time: dep_delay.map(|delay| clock(actual(sched_dep, delay))),
            sched_dep_time: clock(sched_dep),
            dep_delay,
            arr_time: self.arr[row].map(clock),
            sched_arr_time: clock(self.sched_arr[row]),
            arr_delay: self.arr_delay[row],
            carrier: &self.carriers[usize::from(self.carrier[row])],
            flight: self.flight[row],
            tailnum: self.tailnum[row].map(|index| self.tailnums[usize::from(index)].as_str()),
            origin: &route.origin,
            dest: &route.dest,
            air_time: self.air_time[row],
            distance: route.distance,
            time_hour_ms: day.base_ms + i64::from(sched_dep / 60) * HOUR_MS,
        }
    }

    /// Returns an iterator over all rows, in the order of the data set.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Flight<'_>> {
        (0..self.len()).map(|row| self.get(row))
    }

    /// Unpacks a data set, and checks everything on which [`Flights::get`] relies.
    fn decode(file: &[u8]) -> Result<Flights, String> {
        let mut header = Reader { rest: file, what: "header" };
        if header.take(MAGIC.len())? != MAGIC {
            return Err("the packed flights do not begin with their magic".to_owned());
        }
        let (rows, length, crc) = (header.u32()?, header.u32()?, header.u32()?);
        let columns = inflate(header.rest, length, crc)?;
        let rows = usize::try_from(rows).map_err(|error| format!("{rows} rows are too many: {error}"))?;
        Flights::decode_columns(&columns, rows)
    }

    /// Decodes the unpacked columns.
    fn decode_columns(columns: &[u8], rows: usize) -> Result<Flights, String> {
        let mut reader = Reader { rest: columns, what: "days" };
        let (days, day) = decode_days(&mut reader, rows)?;

        reader.what = "carriers";
        let carriers = (0..reader.u8()?).map(|_| reader.string()).collect::<Result<Vec<_>, _>>()?;
        reader.what = "routes";
        let routes = (0..reader.u16()?).map(|_| reader.route()).collect::<Result<Vec<_>, _>>()?;
        reader.what = "tail numbers";
        let tailnums = (0..reader.u16()?).map(|_| reader.string()).collect::<Result<Vec<_>, _>>()?;

        reader.what = "carrier";
        let carrier = reader.take(rows)?.to_vec();
        check(&carrier, reader.what, |&index| usize::from(index) < carriers.len())?;
        reader.what = "route";
        let route = reader.take(rows)?.to_vec();
        check(&route, reader.what, |&index| usize::from(index) < routes.len())?;
        reader.what = "tail number";
        let tailnum: Vec<_> = reader.plane16(rows)?.map(|code| code.checked_sub(1)).collect();
        check(&tailnum, reader.what, |index| index.is_none_or(|index| usize::from(index) < tailnums.len()))?;
        reader.what = "flight number";
        let flight = reader.plane16(rows)?.collect();
        reader.what = "scheduled departure";
        let sched_dep: Vec<_> = reader.plane16(rows)?.collect();
        check(&sched_dep, reader.what, |&minute| minute < DAY_MINUTES)?;
        reader.what = "scheduled duration";
        let duration: Vec<_> = reader.plane16(rows)?.collect();
        check(&duration, reader.what, |&minutes| minutes < DAY_MINUTES)?;
        let sched_arr: Vec<_> = sched_dep.iter().zip(&duration).map(|(a, b)| (a + b) % DAY_MINUTES).collect();
        reader.what = "departure delay";
        let dep_delay: Vec<_> = reader.plane16(rows)?.map(signed).collect();
        reader.what = "arrival delay";
        let extra = reader.plane16(rows)?.map(signed);
        let arr_delay = (dep_delay.iter().zip(extra))
            .map(|(&delay, extra)| arrival_delay(delay, extra))
            .collect::<Result<Vec<_>, _>>()?;
        reader.what = "air time";
        let air_time = reader.plane16(rows)?.map(|code| (code != 0).then_some(code)).collect();

        reader.what = "arrival";
        let mut arr = Vec::with_capacity(rows);
        for (row, &scheduled) in sched_arr.iter().enumerate() {
            arr.push(match (dep_delay[row], arr_delay[row]) {
                (None, _) => None,
                (Some(_), Some(delay)) => Some(actual(scheduled, delay)),
                (Some(_), None) => Some(reader.u16()?).filter(|&minute| minute != 0),
            });
        }
        check(&arr, reader.what, |minute| minute.is_none_or(|minute| minute <= DAY_MINUTES))?;
        if !reader.rest.is_empty() {
            return Err(format!("{} bytes are left after the columns of the flights", reader.rest.len()));
        }

        Ok(Flights {
            days,
            carriers,
            routes,
            tailnums,
            day,
            carrier,
            route,
            tailnum,
            flight,
            sched_dep,
            sched_arr,
            dep_delay,
            arr,
            arr_delay,
            air_time,
        })
    }
}

/// Decodes the days, and for each row the index of its day.
fn decode_days(reader: &mut Reader<'_>, rows: usize) -> Result<(Vec<Day>, Vec<u16>), String> {
    let mut days = Vec::new();
    let mut day_of_row = Vec::new();
    for index in 0..reader.u16()? {
        let (year, month, day, hours_behind_utc) = (reader.u16()?, reader.u8()?, reader.u8()?, reader.u8()?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(format!("the flights have a day {year}-{month}-{day}, which is no date"));
        }
        let base_ms = days_since_epoch(year, month, day) * DAY_MS + i64::from(hours_behind_utc) * HOUR_MS;
        days.push(Day { year, month, day, base_ms });
        let end = day_of_row.len() + usize::from(reader.u16()?);
        if end > rows {
            return Err(format!("the days have more than the {rows} flights that were expected"));
        }
        day_of_row.resize(end, index);
    }
    if day_of_row.len() < rows {
        return Err(format!("the days have {} flights, but {rows} were expected", day_of_row.len()));
    }
    Ok((days, day_of_row))
}

/// Returns the days from 1970-01-01 to a date of the Gregorian calendar.
fn days_since_epoch(year: u16, month: u8, day: u8) -> i64 {
    // Years are counted from March, so that a leap day is the last day of its year. The months from March on
    // have 31, 30, 31, 30, 31 days again and again, which the division by 5 spells out.
    let from_march = (i64::from(month) + 9) % 12;
    let year = i64::from(year) - i64::from(month <= 2);
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * from_march + 2) / 5 + i64::from(day) - 719_469
}

/// Returns the minute of the day, from 1 to 1440, that is a delay after a scheduled one.
fn actual(scheduled: u16, delay: i16) -> u16 {
    let minute = (i32::from(scheduled) + i32::from(delay)).rem_euclid(i32::from(DAY_MINUTES));
    match u16::try_from(minute) {
        Ok(minute) if minute > 0 => minute,
        _ => DAY_MINUTES,
    }
}

/// Writes a minute of the day as hours * 100 + minutes.
fn clock(minute: u16) -> u16 {
    minute / 60 * 100 + minute % 60
}

/// Decodes an optional signed number: 0 is none, any other code is one more than the zigzag code.
fn signed(code: u16) -> Option<i16> {
    let zigzag = code.checked_sub(1)?;
    let half = (zigzag >> 1).cast_signed();
    Some(if zigzag & 1 == 0 { half } else { -half - 1 })
}

/// Returns the delay of an arrival, given that of the departure and what came on top of it.
fn arrival_delay(departure: Option<i16>, extra: Option<i16>) -> Result<Option<i16>, String> {
    match (departure, extra) {
        (_, None) => Ok(None),
        (None, Some(_)) => Err("a flight has arrived that was cancelled".to_owned()),
        (Some(delay), Some(extra)) => match delay.checked_add(extra) {
            Some(sum) => Ok(Some(sum)),
            None => Err(format!("a flight was delayed by {delay} and {extra} minutes, which is too much")),
        },
    }
}

/// Checks all values of a column.
fn check<T>(column: &[T], what: &str, holds: impl Fn(&T) -> bool) -> Result<(), String> {
    match column.iter().position(|value| !holds(value)) {
        Some(row) => Err(format!("flight {row} has a {what} out of range")),
        None => Ok(()),
    }
}

/// Decompresses the columns, and checks their length and their CRC.
fn inflate(packed: &[u8], length: u32, crc: u32) -> Result<Vec<u8>, String> {
    let mut columns = Vec::new();
    // One byte more than is expected, so that too long a stream shows.
    ZlibDecoder::new(packed)
        .take(u64::from(length) + 1)
        .read_to_end(&mut columns)
        .map_err(|error| format!("the packed flights do not decompress: {error}"))?;
    if usize::try_from(length) != Ok(columns.len()) {
        return Err(format!("the packed flights do not have the {length} bytes of which their header tells"));
    }
    let mut found = Crc::new();
    found.update(&columns);
    if found.sum() != crc {
        return Err(format!("the flights have the CRC {:08x}, but {crc:08x} was expected", found.sum()));
    }
    Ok(columns)
}

/// Takes values off the front of a slice.
struct Reader<'a> {
    /// What has not been taken yet.
    rest: &'a [u8],
    /// What is being read, for the messages of errors.
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Takes a number of bytes.
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.ended())?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes a number of bytes that is known beforehand.
    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.ended())?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Takes a byte.
    fn u8(&mut self) -> Result<u8, String> {
        self.array().map(u8::from_le_bytes)
    }

    /// Takes a number of two bytes.
    fn u16(&mut self) -> Result<u16, String> {
        self.array().map(u16::from_le_bytes)
    }

    /// Takes a number of four bytes.
    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes a string, which follows its length.
    fn string(&mut self) -> Result<String, String> {
        let length = self.u8()?;
        let bytes = self.take(usize::from(length))?;
        let text =
            str::from_utf8(bytes).map_err(|error| format!("the {} of the flights: {error}", self.what))?;
        Ok(text.to_owned())
    }

    /// Takes a route.
    fn route(&mut self) -> Result<Route, String> {
        Ok(Route { origin: self.string()?, dest: self.string()?, distance: self.u16()? })
    }

    /// Takes a column of numbers of two bytes: first the low bytes of all rows, then the high ones.
    fn plane16(&mut self, rows: usize) -> Result<impl Iterator<Item = u16> + use<'a>, String> {
        let (low, high) = (self.take(rows)?, self.take(rows)?);
        Ok(low.iter().zip(high).map(|(&low, &high)| u16::from_le_bytes([low, high])))
    }

    /// Returns the message for a slice that ended too early.
    fn ended(&self) -> String {
        format!("the packed flights end within their {}", self.what)
    }
}
