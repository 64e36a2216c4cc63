//! fjall, its files in memory.

use std::ops::Range;
use std::sync::Arc;

use fjall::compaction::Fifo;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, Readable, Snapshot};

use super::keys;
use crate::peer::{Peer, Record, Room};

const FINE: &str = "files in memory can be written and read";

/// fjall 3 with its defaults (LZ4, leveled compaction, no sync for each write), a keyspace each for events, streams and
/// times, and a block cache of a quarter of the data, as its documentation advises. Appends go through a batch, which
/// keeps the three keyspaces together; its users put more into one (1024 here). Point reads are told to expect hits.
/// With a cap: FIFO compaction, which drops the oldest tables of a keyspace once it exceeds its limit.
pub(crate) struct Fjall {
    db: Database,
    events: Keyspace,
    streams: Keyspace,
    times: Keyspace,
}

impl Fjall {
    fn put(&self, batch: &mut OwnedWriteBatch, record: &Record<'_>) {
        batch.insert(&self.events, record.id.to_be_bytes(), keys::value(record));
        batch.insert(&self.streams, keys::by_stream(record.stream, record.id), []);
        batch.insert(&self.times, keys::by_time(record.time, record.id), [record.kind]);
    }
}

impl Peer for Fjall {
    type Guard<'p> = Snapshot;

    fn open(room: &Room) -> Self {
        let cache = (room.payload_bytes() / 4).max(32 << 20);
        let db = Database::builder(&room.dir).cache_size(cache).open().expect(FINE);
        let open = |name: &str, share: u64| {
            let options = || {
                let options = KeyspaceCreateOptions::default().expect_point_read_hits(name == "events");
                match room.cap {
                    Some(cap) => options.compaction_strategy(Arc::new(Fifo::new(cap / share, None))),
                    None => options,
                }
            };
            db.keyspace(name, options).expect(FINE)
        };
        // An entry of the other two is about a sixteenth of an event of 256 bytes.
        let (events, streams, times) = (open("events", 1), open("streams", 16), open("times", 16));
        Self { db, events, streams, times }
    }

    fn append(&self, record: &Record<'_>) {
        let mut batch = self.db.batch();
        self.put(&mut batch, record);
        batch.commit().expect(FINE);
    }

    fn append_batch<'a>(&self, records: impl ExactSizeIterator<Item = Record<'a>>) {
        let mut batch = self.db.batch();
        records.for_each(|record| self.put(&mut batch, &record));
        batch.commit().expect(FINE);
    }

    fn guard(&self) -> Snapshot {
        self.db.snapshot()
    }

    fn get(&self, guard: &Snapshot, id: u64, mut look: impl FnMut(&[u8])) -> bool {
        let found = guard.get(&self.events, id.to_be_bytes()).expect(FINE);
        found.map(|value| look(keys::payload(&value))).is_some()
    }

    fn newest(&self, guard: &Snapshot, stream: u32, count: usize, mut look: impl FnMut(&[u8])) {
        for entry in guard.prefix(&self.streams, stream.to_be_bytes()).rev().take(count) {
            let key = entry.key().expect(FINE);
            self.get(guard, u64::from_be_bytes(keys::id_of(&key)), &mut look);
        }
    }

    fn scan(&self, guard: &Snapshot, times: Range<i64>, kind: Option<u8>, mut look: impl FnMut(&[u8])) {
        let range = keys::by_time(times.start, 0)..keys::by_time(times.end, 0);
        for entry in guard.range(&self.times, range) {
            let (key, value) = entry.into_inner().expect(FINE);
            if kind.is_none_or(|kind| value.first() == Some(&kind)) {
                self.get(guard, u64::from_be_bytes(keys::id_of(&key)), &mut look);
            }
        }
    }
}
