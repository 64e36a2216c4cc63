//! RocksDB, its files in memory.

use std::ops::Range;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompactionStyle, DBCompressionType,
    Direction, FifoCompactOptions, IteratorMode, Options, Snapshot, WriteBatch, WriteOptions,
};

use super::keys;
use crate::peer::{MANY, Peer, Record, Room};

const FINE: &str = "files in memory can be written and read";

/// RocksDB as a cache of events has it: no write-ahead log, LZ4, a bloom filter of 10 bits, both processors for
/// background work, a block cache of a quarter of the data, memtables of 64 MiB (the default), and a column family each
/// for events, streams and times. Appends go through a batch, which keeps the three together; its users put more into
/// one (1024 here). With a cap: FIFO compaction, which drops the oldest files of a column family.
pub(crate) struct Rocks(DB);

const EVENTS: &str = "events";
const STREAMS: &str = "streams";
const TIMES: &str = "times";

impl Rocks {
    fn family(&self, name: &str) -> &ColumnFamily {
        self.0.cf_handle(name).expect("it was made when the database was")
    }

    fn put(&self, batch: &mut WriteBatch, record: &Record<'_>) {
        batch.put_cf(self.family(EVENTS), record.id.to_be_bytes(), keys::value(record));
        batch.put_cf(self.family(STREAMS), keys::by_stream(record.stream, record.id), []);
        batch.put_cf(self.family(TIMES), keys::by_time(record.time, record.id), [record.kind]);
    }

    fn write(&self, batch: WriteBatch) {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.0.write_opt(batch, &options).expect(FINE);
    }
}

fn options(room: &Room, cache: &Cache, share: u64) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.increase_parallelism(2);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(&table);
    if let Some(cap) = room.cap {
        let mut fifo = FifoCompactOptions::default();
        fifo.set_max_table_files_size(cap / share);
        options.set_compaction_style(DBCompactionStyle::Fifo);
        options.set_fifo_compaction_options(&fifo);
    }
    options
}

impl Peer for Rocks {
    type Guard<'p> = Snapshot<'p>;

    fn open(room: &Room) -> Self {
        let cache = Cache::new_lru_cache((room.payload_bytes() as usize / 4).max(32 << 20));
        // An entry of the other two is about a sixteenth of an event of 256 bytes.
        let families = [(EVENTS, 1), (STREAMS, 16), (TIMES, 16)]
            .map(|(name, share)| ColumnFamilyDescriptor::new(name, options(room, &cache, share)));
        Self(DB::open_cf_descriptors(&options(room, &cache, 16), &room.dir, families).expect(FINE))
    }

    fn append(&self, record: &Record<'_>) {
        let mut batch = WriteBatch::default();
        self.put(&mut batch, record);
        self.write(batch);
    }

    fn append_batch<'a>(&self, records: impl ExactSizeIterator<Item = Record<'a>>) {
        let mut batch = WriteBatch::default();
        records.for_each(|record| self.put(&mut batch, &record));
        self.write(batch);
    }

    fn guard(&self) -> Snapshot<'_> {
        self.0.snapshot()
    }

    fn get(&self, guard: &Snapshot<'_>, id: u64, mut look: impl FnMut(&[u8])) -> bool {
        let found = guard.get_pinned_cf(self.family(EVENTS), id.to_be_bytes()).expect(FINE);
        found.map(|value| look(keys::payload(&value))).is_some()
    }

    fn get_many(&self, _: &Snapshot<'_>, ids: &[u64; MANY], mut look: impl FnMut(&[u8])) -> usize {
        let ids = ids.map(u64::to_be_bytes);
        let found = self.0.batched_multi_get_cf(self.family(EVENTS), &ids, false);
        let values = found.into_iter().filter_map(|value| value.expect(FINE));
        values.map(|value| look(keys::payload(&value))).count()
    }

    fn newest(&self, guard: &Snapshot<'_>, stream: u32, count: usize, mut look: impl FnMut(&[u8])) {
        let last = keys::by_stream(stream, u64::MAX);
        let entries = guard.iterator_cf(self.family(STREAMS), IteratorMode::From(&last, Direction::Reverse));
        for entry in entries.take(count) {
            let (key, _) = entry.expect(FINE);
            if key[..4] != stream.to_be_bytes() {
                break;
            }
            self.get(guard, u64::from_be_bytes(keys::id_of(&key)), &mut look);
        }
    }

    fn scan(&self, guard: &Snapshot<'_>, times: Range<i64>, kind: Option<u8>, mut look: impl FnMut(&[u8])) {
        let (first, end) = (keys::by_time(times.start, 0), keys::by_time(times.end, 0));
        for entry in guard.iterator_cf(self.family(TIMES), IteratorMode::From(&first, Direction::Forward)) {
            let (key, value) = entry.expect(FINE);
            if key[..] >= end[..] {
                break;
            }
            if kind.is_none_or(|kind| value.first() == Some(&kind)) {
                self.get(guard, u64::from_be_bytes(keys::id_of(&key)), &mut look);
            }
        }
    }
}
