//! redb, in memory.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::backends::InMemoryBackend;
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition, WriteTransaction};

use super::keys;
use crate::peer::{Peer, Record, Room};

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const STREAMS: TableDefinition<'_, (u32, u64), ()> = TableDefinition::new("streams");
const TIMES: TableDefinition<'_, (i64, u64), u8> = TableDefinition::new("times");

/// redb on its own in-memory backend, so that a commit waits for no disk; the cache is the default one (1 GiB). One
/// event is one transaction, a batch is one too: its users batch (1024 here), since each commit writes the paths from
/// the root anew. With a cap, the transaction that writes also removes as many of the oldest events.
pub(crate) struct Redb {
    db: Database,
    cap: Option<u64>,
    bytes: AtomicU64,
}

const FINE: &str = "an in-memory database does not fail";

impl Redb {
    fn write<'a>(&self, records: impl Iterator<Item = Record<'a>>) {
        let write = self.db.begin_write().expect(FINE);
        let mut bytes = self.bytes.load(Ordering::Relaxed);
        {
            let mut events = write.open_table(EVENTS).expect(FINE);
            let mut streams = write.open_table(STREAMS).expect(FINE);
            let mut times = write.open_table(TIMES).expect(FINE);
            for record in records {
                let value = keys::value(&record);
                bytes += value.len() as u64;
                events.insert(record.id, value.as_slice()).expect(FINE);
                streams.insert((record.stream, record.id), ()).expect(FINE);
                times.insert((record.time, record.id), record.kind).expect(FINE);
            }
        }
        if let Some(cap) = self.cap.filter(|cap| bytes > *cap) {
            bytes -= drop_oldest(&write, bytes - cap);
        }
        write.commit().expect(FINE);
        // There is one writer at a time, and this one has just ended.
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

/// Removes the oldest events until that many bytes are gone. How many went.
fn drop_oldest(write: &WriteTransaction, excess: u64) -> u64 {
    let mut events = write.open_table(EVENTS).expect(FINE);
    let mut streams = write.open_table(STREAMS).expect(FINE);
    let mut times = write.open_table(TIMES).expect(FINE);
    let mut gone = 0;
    while gone < excess {
        let Some((key, _)) = times.pop_first().expect(FINE) else { break };
        let (_, id) = key.value();
        let Some(event) = events.remove(id).expect(FINE) else { continue };
        gone += event.value().len() as u64;
        let stream = event.value().first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        streams.remove((stream, id)).expect(FINE);
    }
    gone
}

/// A read transaction with its tables open.
pub(crate) struct Tables {
    events: ReadOnlyTable<u64, &'static [u8]>,
    streams: ReadOnlyTable<(u32, u64), ()>,
    times: ReadOnlyTable<(i64, u64), u8>,
}

impl Peer for Redb {
    type Guard<'p> = Tables;

    fn open(room: &Room) -> Self {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).expect(FINE);
        let redb = Self { db, cap: room.cap, bytes: AtomicU64::new(0) };
        redb.write(std::iter::empty());
        redb
    }

    fn append(&self, record: &Record<'_>) {
        self.write(std::iter::once(*record));
    }

    fn append_batch<'a>(&self, records: impl ExactSizeIterator<Item = Record<'a>>) {
        self.write(records);
    }

    fn guard(&self) -> Tables {
        let read = self.db.begin_read().expect(FINE);
        Tables {
            events: read.open_table(EVENTS).expect(FINE),
            streams: read.open_table(STREAMS).expect(FINE),
            times: read.open_table(TIMES).expect(FINE),
        }
    }

    fn get(&self, guard: &Tables, id: u64, mut look: impl FnMut(&[u8])) -> bool {
        let found = guard.events.get(id).expect(FINE);
        found.map(|value| look(keys::payload(value.value()))).is_some()
    }

    fn newest(&self, guard: &Tables, stream: u32, count: usize, mut look: impl FnMut(&[u8])) {
        let entries = guard.streams.range((stream, 0)..=(stream, u64::MAX)).expect(FINE);
        for entry in entries.rev().take(count) {
            let (key, _) = entry.expect(FINE);
            self.get(guard, key.value().1, &mut look);
        }
    }

    fn scan(&self, guard: &Tables, times: Range<i64>, kind: Option<u8>, mut look: impl FnMut(&[u8])) {
        for entry in guard.times.range((times.start, 0)..(times.end, 0)).expect(FINE) {
            let (key, value) = entry.expect(FINE);
            if kind.is_none_or(|kind| value.value() == kind) {
                self.get(guard, key.value().1, &mut look);
            }
        }
    }
}
