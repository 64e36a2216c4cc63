//! Stream names: each name has its own stream, whatever names hash to.
//!
//! A name's stream is a hash of it, seeded by the namespace, so that every process that shares a namespace finds the
//! same stream without asking. Should two names ever hash alike, the second takes the next free value; the table
//! that says so is kept with the cold tier.

use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Stream;
use crate::pressure::{BackPressure, Pressure, PressureReason};
use crate::sys::shared::Log;

/// The longest name.
pub(crate) const NAME_MAX: usize = 1024;
/// What a name costs beside its own bytes in each of the two maps and, until it is saved, in the list.
const ENTRY_OVERHEAD: usize = 96;

pub(crate) struct Names {
    by_name: DashMap<Box<str>, Stream>,
    by_stream: DashMap<Stream, Box<str>>,
    secrets: RapidSecrets,
    limit: usize,
    added: Mutex<Added>,
}

/// Also the lock under which names are added.
#[derive(Default)]
struct Added {
    bytes: usize,
    /// Names that the cold tier does not have yet.
    unsaved: Vec<(String, u64)>,
    /// Where names outlive the process, all of them are in here.
    log: Option<Log>,
}

impl Names {
    pub(crate) fn new(seed: u64, limit: usize) -> Self {
        Self {
            by_name: DashMap::new(),
            by_stream: DashMap::new(),
            secrets: RapidSecrets::seed(seed),
            limit,
            added: Mutex::default(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.added.lock().bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn find(&self, name: &str) -> Option<Stream> {
        self.by_name.get(name).map(|stream| *stream)
    }

    pub(crate) fn name_of(&self, stream: Stream) -> Option<String> {
        self.by_stream.get(&stream).map(|name| name.to_string())
    }

    /// The stream of a name, which is noted if it is new.
    ///
    /// # Errors
    /// Names that are too long, and a full table.
    pub(crate) fn intern(&self, name: &str) -> Result<Stream> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("a stream name has 1 to {NAME_MAX} bytes; this one has {}", name.len()),
            ));
        }
        let mut added = self.added.lock();
        if let Some(stream) = self.find(name) {
            return Ok(stream);
        }
        let cost = Self::cost(name);
        if added.bytes + cost > self.limit {
            return Err(self.full_at(added.bytes));
        }
        let stream = self.free_value(name);
        if let Some(log) = &mut added.log {
            log.append(&[&stream.as_u64().to_le_bytes(), name.as_bytes()].concat())?;
        }
        added.unsaved.push((name.to_string(), stream.as_u64()));
        added.bytes += cost;
        self.put(name, stream);
        Ok(stream)
    }

    /// Takes some of the memory for names for something else that is known of streams. `false`: there is not so much.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let mut added = self.added.lock();
        let room = added.bytes + bytes <= self.limit;
        added.bytes += if room { bytes } else { 0 };
        room
    }

    /// The error of whoever finds that memory used up.
    pub(crate) fn full(&self) -> Error {
        self.full_at(self.added.lock().bytes)
    }

    fn full_at(&self, bytes: usize) -> Error {
        Error::pressure(BackPressure {
            reason: PressureReason::BuffersFull,
            region: None,
            class: None,
            level: Pressure::Full,
            used_bytes: bytes as u64,
            limit_bytes: self.limit as u64,
            // What is known of streams is kept for good.
            retry_after: Duration::from_secs(1),
            stall: None,
        })
    }

    /// Names that must be saved before events of their streams.
    pub(crate) fn unsaved(&self) -> Vec<(String, u64)> {
        self.added.lock().unsaved.clone()
    }

    /// Notes that what [`Self::unsaved`] gave is saved. Several threads may save the same names at once.
    pub(crate) fn saved(&self, names: &[(String, u64)]) {
        let mut added = self.added.lock();
        let last = names.last().map(|(_, stream)| *stream);
        // The list is in the order of adding: up to the last one saved, all are.
        if let Some(at) = added.unsaved.iter().position(|(_, stream)| Some(*stream) == last) {
            added.unsaved.drain(..=at);
        }
    }

    /// Takes over a name from the cold tier's table. One that is known keeps its stream: it has events by now.
    pub(crate) fn restore(&self, name: &str, stream: Stream) {
        let mut added = self.added.lock();
        if self.find(name).is_some() {
            return;
        }
        added.bytes += Self::cost(name);
        self.put(name, stream);
    }

    /// Takes over the names of a log, and notes new ones there from now on. Gives how many there are. The cold tier's
    /// names are there already.
    pub(crate) fn restore_log(&self, log: Log, entries: &[Vec<u8>]) -> u64 {
        let mut added = self.added.lock();
        let mut found = 0;
        for entry in entries {
            let Some((stream, name)) = entry.split_first_chunk() else { continue };
            let stream = Stream::from_raw(u64::from_le_bytes(*stream));
            let Ok(name) = std::str::from_utf8(name) else { continue };
            let fits = !name.is_empty() && name.len() <= NAME_MAX && stream.is_named();
            // Of two that contradict each other the cold tier's stands.
            if !fits || self.find(name).is_some() || self.by_stream.contains_key(&stream) {
                found += u64::from(self.find(name) == Some(stream));
                continue;
            }
            found += 1;
            added.bytes += Self::cost(name);
            added.unsaved.push((name.to_string(), stream.as_u64()));
            self.put(name, stream);
        }
        added.log = Some(log);
        found
    }

    fn cost(name: &str) -> usize {
        3 * name.len() + 2 * ENTRY_OVERHEAD
    }

    fn put(&self, name: &str, stream: Stream) {
        self.by_stream.insert(stream, name.into());
        self.by_name.insert(name.into(), stream);
    }

    fn free_value(&self, name: &str) -> Stream {
        let mut value = rapidhash_v3_seeded(name.as_bytes(), &self.secrets) | Stream::NAMED;
        while self.by_stream.contains_key(&Stream::from_raw(value)) {
            value = value.wrapping_add(1) | Stream::NAMED;
        }
        Stream::from_raw(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hash_alike_get_streams_of_their_own() {
        let names = Names::new(1, 1 << 20);
        let first = names.intern("a").unwrap();
        assert_eq!(names.intern("a").unwrap(), first);
        // As if "b" had the hash of "a": the value is taken, so the next one is used.
        let stolen = names.free_value("b");
        names.put("thief", stolen);
        let second = names.intern("b").unwrap();
        assert_eq!(second.as_u64(), stolen.as_u64().wrapping_add(1) | Stream::NAMED);
        assert_eq!(names.name_of(second).as_deref(), Some("b"));
    }

    #[test]
    fn the_table_has_an_end_and_names_a_length() {
        let names = Names::new(1, 450);
        assert!(names.intern("").is_err());
        assert!(names.intern(&"x".repeat(NAME_MAX + 1)).is_err());
        names.intern("one").unwrap();
        names.intern("two").unwrap();
        let error = names.intern("three").unwrap_err();
        assert_eq!(
            (error.kind(), error.is_retryable(), error.retry_after()),
            (ErrorKind::MemoryPressure, false, None)
        );
        assert!(error.to_string().contains("more `buffers`"), "{error}");
        assert!(names.intern("one").is_ok());
    }
}
