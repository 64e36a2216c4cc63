//! What benchmarks count on: a store and events that are the same in every run.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use esker::{
    BlockId, ClassConfig, Clock, ColdBlock, ColdTier, Config, Event, Namespace, OnLeave, Result, Store,
    Stream, Tombstone,
};

/// The default one follows the processors of the machine.
const PARTITIONS: u32 = 4;
const STREAMS: f64 = 2000.0;
const FIRST_MS: i64 = 1_700_000_000_000;
const CLASS: &str = "default";
/// Payloads are made from so many bytes.
const POOL: usize = 64 << 10;

/// valgrind counts what happens below this function, which it knows by its name, and nothing else.
#[unsafe(no_mangle)]
#[inline(never)]
fn esker_counted(work: &mut dyn FnMut()) {
    work();
    // With something to do after it, the call above cannot become a jump, which would leave this function.
    black_box(());
}

/// Does the work that is to be counted. What it gives is dropped by the caller, uncounted.
pub(crate) fn counted<T>(work: impl FnOnce() -> T) -> T {
    let (mut work, mut made) = (Some(work), None);
    esker_counted(&mut || made = work.take().map(|work| work()));
    made.expect("the work was done")
}

/// A step of splitmix64 (Steele, Lea, Flood, 2014), as a hash.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// A number below `limit` that is the same in every run.
pub(crate) fn random(number: usize, limit: usize) -> usize {
    ((u128::from(mix(number as u64)) * limit as u128) >> 64) as usize
}

/// Which ids events have.
#[derive(Clone, Copy)]
pub(crate) enum Ids {
    /// 1, 2, 3, …
    Rising,
    /// All over the 64 bits.
    Scattered,
}

/// A store and the events for it.
pub(crate) struct World {
    pub(crate) store: Store,
    clock: Clock,
    ids: Ids,
    size: usize,
    /// Half random bytes, half text, so that LZ4 finds about half of it.
    pool: Vec<u8>,
    streams: Vec<Stream>,
}

impl World {
    /// An empty store, to which so many events of one payload size will be appended.
    pub(crate) fn new(seed: u64, events: usize, size: usize, ids: Ids) -> Self {
        Self::leaving(seed, events, size, ids, OnLeave::Drop)
    }

    /// The same with what becomes of events that leave memory.
    pub(crate) fn leaving(seed: u64, events: usize, size: usize, ids: Ids, on_leave: OnLeave) -> Self {
        Self::open(seed, on_leave, false, (events, size, ids))
    }

    /// An empty store for events of 256 bytes that are summed up.
    pub(crate) fn summing(seed: u64, events: usize) -> Self {
        Self::open(seed, OnLeave::Drop, true, (events, 256, Ids::Rising))
    }

    fn open(seed: u64, on_leave: OnLeave, sums: bool, (events, size, ids): (usize, usize, Ids)) -> Self {
        let config = Config::builder()
            .memory("64MiB")
            .partitions(PARTITIONS as usize)
            .event_checksums(sums)
            .class(ClassConfig::new(CLASS).on_leave(on_leave))
            .background(false)
            .huge_pages(false)
            // No step of `maintain` ends by the clock of the machine.
            .slice(usize::MAX, Duration::from_secs(3600))
            .build()
            .expect("the configuration is right");
        let clock = Clock::manual(FIRST_MS);
        let store = Store::builder(config)
            .clock(clock.clone())
            .cold(Arc::new(FixedSeed(seed)))
            .open()
            .expect("there must be memory for the store");
        // Some streams are much more popular than others: the first has 8 % of the events.
        let stream = |at: usize| {
            let share = mix(at as u64 ^ 0x5555) as f64 / u64::MAX as f64;
            Stream::from((STREAMS * share.powi(3)) as u32)
        };
        Self { store, clock, ids, size, pool: pool(size), streams: (0..events).map(stream).collect() }
    }

    /// The same with all events of 256 bytes in it.
    pub(crate) fn full(seed: u64, events: usize) -> Self {
        Self::new(seed, events, 256, Ids::Rising).filled()
    }

    /// Has all its events appended.
    pub(crate) fn filled(self) -> Self {
        let events = self.streams.len();
        self.append_batches(0..events, 64);
        let stats = self.store.stats().events;
        assert_eq!((stats.hot, stats.warm), (events as u64, 0), "nothing was to move");
        self
    }

    pub(crate) fn id(&self, at: usize) -> u64 {
        match self.ids {
            Ids::Rising => at as u64 + 1,
            Ids::Scattered => mix(at as u64),
        }
    }

    /// The timestamp of an event: each is a millisecond after the one before.
    pub(crate) fn time(&self, at: usize) -> i64 {
        FIRST_MS + at as i64
    }

    /// One of 16, in no order.
    pub(crate) fn kind(at: usize) -> u8 {
        (mix(at as u64 ^ 0xaaaa) & 15) as u8
    }

    #[inline]
    fn event(&self, at: usize) -> Event<'_> {
        let payload = &self.pool[at % (POOL / self.size) * self.size..][..self.size];
        Event::new(self.streams[at], self.id(at), self.time(at), Self::kind(at)).payload(payload)
    }

    pub(crate) fn append_each(&self, events: std::ops::Range<usize>) {
        for at in events {
            self.store.append(&self.event(at)).expect("there is room");
        }
    }

    pub(crate) fn append_batches(&self, events: std::ops::Range<usize>, batch: usize) {
        let mut list = Vec::with_capacity(batch);
        for first in events.clone().step_by(batch) {
            list.clear();
            list.extend((first..(first + batch).min(events.end)).map(|at| self.event(at)));
            let done = self.store.append_batch(&list).expect("the store is open");
            assert_eq!(done.stored, list.len(), "there is room");
        }
    }

    /// Lets time pass until all events are old enough for the warm tier.
    pub(crate) fn let_age(&self) {
        self.clock.set_ms(FIRST_MS + Duration::from_secs(5 * 3600).as_millis() as i64);
    }

    /// Makes blocks of all events, which the tier takes and forgets.
    pub(crate) fn spill(&self) {
        self.store.flush(Duration::from_secs(3600)).expect("the tier takes everything");
    }

    pub(crate) fn demote(&self) {
        self.store.maintain().expect("nothing is written that could fail");
    }
}

fn pool(size: usize) -> Vec<u8> {
    let mut pool = Vec::with_capacity(POOL);
    let mut number = 0;
    while pool.len() < POOL {
        let end = pool.len() + size;
        while pool.len() < end - size / 2 {
            number += 1;
            pool.extend_from_slice(&mix(number).to_le_bytes());
        }
        let text = format!("{{\"state\":\"attached\",\"cell\":{},\"next\":null}} ", number % 1000);
        pool.extend(text.bytes().cycle().take(end - pool.len()));
    }
    pool
}

/// The first eight bytes: to look at a payload, but not for long.
#[inline]
pub(crate) fn first_word(payload: &[u8]) -> u64 {
    payload.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word))
}

/// A cold tier that is empty and stays so, for the sake of its namespace: a store without one has another seed each
/// time it is opened, and with it other hashes.
struct FixedSeed(u64);

impl ColdTier for FixedSeed {
    fn namespace(&self) -> Result<Option<Namespace>> {
        Ok(Some(Namespace::new(PARTITIONS, mix(self.0), vec![CLASS.into()])))
    }

    fn set_namespace(&self, _: &Namespace) -> Result<()> {
        Ok(())
    }

    fn put(&self, _: &[ColdBlock]) -> Result<()> {
        Ok(())
    }

    fn get(&self, _: BlockId) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn delete(&self, _: &[BlockId]) -> Result<()> {
        Ok(())
    }

    fn list(&self, _: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        Ok(())
    }

    fn put_names(&self, _: &[(String, u64)]) -> Result<()> {
        Ok(())
    }

    fn names(&self, _: &mut dyn FnMut(&str, u64)) -> Result<()> {
        Ok(())
    }

    fn put_tombstone(&self, _: Tombstone) -> Result<()> {
        Ok(())
    }

    fn delete_tombstones(&self, _: &[Tombstone]) -> Result<()> {
        Ok(())
    }

    fn tombstones(&self, _: &mut dyn FnMut(Tombstone)) -> Result<()> {
        Ok(())
    }
}
