//! esker itself, by its public interface only.

use std::ops::Range;
use std::time::Duration;

use esker::{ClassConfig, Config, ConfigBuilder, Event, OnLeave, Store, Stream};

use crate::common::HEADER;
use crate::peer::{MANY, Peer, Record, Room};

/// The share of the hot region that the events take: below the threshold at which pages begin to move down.
const FILL: f64 = 0.75;
const HUGE_PAGE: u64 = 2 << 20;

/// esker with room for all events in the hot region; the index has its default share of that (3 to 11). Threads,
/// partitions, page size and thresholds are the default ones.
///
/// With a cap: that much memory in all, one class, which keeps its events as they were written and drops the oldest;
/// hot and index region have their default shares of it.
pub(crate) struct Esker(Store);

impl Esker {
    fn unbounded(room: &Room) -> ConfigBuilder {
        let bytes = room.events * (HEADER + room.payload).next_multiple_of(8);
        let hot = ((bytes as f64 / FILL) as u64 + (8 << 20)).next_multiple_of(HUGE_PAGE);
        // Each event takes the same in the index, whatever its payload, and each stream too.
        let index = (hot / 11 * 3).max(room.events as u64 * 40 + (32 << 20)).next_multiple_of(HUGE_PAGE);
        let sized = |region: esker::RegionBuilder, max: u64| {
            let region = region.max(max).prefault(room.prefault);
            if room.prefault { region.initial(max) } else { region }
        };
        Config::builder()
            .memory(hot * 2 + index + (64 << 20))
            .hot(|region| sized(region, hot))
            .index(|region| sized(region, index))
    }

    fn bounded(cap: u64, on_leave: OnLeave) -> ConfigBuilder {
        // Beside buffers and page table, 11 parts hot and 3 parts index, as by default.
        let rest = cap - cap / 16 - cap / 32;
        let (hot, index) = (rest / 14 * 11 / HUGE_PAGE * HUGE_PAGE, rest / 14 * 3 / HUGE_PAGE * HUGE_PAGE);
        Config::builder()
            .memory(cap)
            .buffers(cap / 16)
            // A wait shows in the latencies; that it ends in a refusal is not what is measured, least of all on a
            // machine that may stop this process for a while.
            .append_timeout(Duration::from_secs(60))
            .hot(|region| region.max(hot).initial(hot).prefault(true))
            .index(|region| region.max(index).initial(index).prefault(true))
            .class(ClassConfig::new("events").compress(false).on_leave(on_leave))
    }

    /// With a cap, and what leaves is written to the embedded cold tier, which lies in the room's folder.
    fn spilling(room: &Room) -> ConfigBuilder {
        let cap = room.cap.expect("only a store with a cap has to let events go");
        Self::bounded(cap, OnLeave::Spill).data_dir(&room.dir)
    }

    /// The settings for these needs, for those who want to change one.
    pub(crate) fn config(room: &Room) -> ConfigBuilder {
        match room.cap {
            Some(cap) => Self::bounded(cap, OnLeave::Drop),
            None => Self::unbounded(room),
        }
    }

    pub(crate) fn of(store: Store) -> Self {
        Self(store)
    }

    /// Lets the store do its work behind the scenes now, where it has no threads for it.
    pub(crate) fn maintain(&self) {
        self.0.maintain().expect("there is no cold tier that could fail");
    }

    /// Events in the warm tier.
    pub(crate) fn warm_events(&self) -> u64 {
        self.0.stats().events.warm
    }
}

#[inline]
fn event<'a>(record: &Record<'a>) -> Event<'a> {
    Event::new(Stream::from(record.stream), record.id, record.time, record.kind).payload(record.payload)
}

impl Peer for Esker {
    type Guard<'p> = esker::Guard<'p>;

    fn open(room: &Room) -> Self {
        let config = Self::config(room).build().expect("the sizes fit together");
        Self(Store::open(config).expect("there must be memory for the store"))
    }

    #[inline]
    fn append(&self, record: &Record<'_>) {
        self.0.append(&event(record)).expect("there is room");
    }

    fn append_batch<'a>(&self, records: impl ExactSizeIterator<Item = Record<'a>>) {
        let list: Vec<_> = records.map(|record| event(&record)).collect();
        let done = self.0.append_batch(&list).expect("the store is open");
        assert_eq!(done.stored, list.len(), "there is room");
    }

    fn guard(&self) -> Self::Guard<'_> {
        self.0.pin()
    }

    #[inline]
    fn get(&self, guard: &Self::Guard<'_>, id: u64, mut look: impl FnMut(&[u8])) -> bool {
        guard.get(id).map(|event| look(event.payload())).is_some()
    }

    fn get_many(&self, guard: &Self::Guard<'_>, ids: &[u64; MANY], mut look: impl FnMut(&[u8])) -> usize {
        guard.get_batch(ids).iter().flatten().map(|event| look(event.payload())).count()
    }

    fn newest(&self, guard: &Self::Guard<'_>, stream: u32, count: usize, mut look: impl FnMut(&[u8])) {
        guard.history(Stream::from(stream)).newest().take(count).for_each(|event| look(event.payload()));
    }

    fn scan(
        &self,
        guard: &Self::Guard<'_>,
        times: Range<i64>,
        kind: Option<u8>,
        mut look: impl FnMut(&[u8]),
    ) {
        let scan = guard.scan(times);
        match kind {
            Some(kind) => scan.kind(kind).for_each(|event| look(event.payload())),
            None => scan.for_each(|event| look(event.payload())),
        }
    }
}

/// esker at its cap with its embedded cold tier: nothing is dropped, all is written to a file.
pub(crate) struct Spilling(Esker);

impl Peer for Spilling {
    type Guard<'p> = esker::Guard<'p>;

    fn open(room: &Room) -> Self {
        let config = Esker::spilling(room).build().expect("the sizes fit together");
        Self(Esker::of(Store::open(config).expect("there must be memory for the store")))
    }

    #[inline]
    fn append(&self, record: &Record<'_>) {
        self.0.append(record);
    }

    fn append_batch<'a>(&self, records: impl ExactSizeIterator<Item = Record<'a>>) {
        self.0.append_batch(records);
    }

    fn guard(&self) -> Self::Guard<'_> {
        self.0.guard()
    }

    #[inline]
    fn get(&self, guard: &Self::Guard<'_>, id: u64, look: impl FnMut(&[u8])) -> bool {
        self.0.get(guard, id, look)
    }
}
