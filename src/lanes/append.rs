//! Appending: claim space, announce the id, write, commit, publish, link — in this order (invariant I1).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::record::{HEADER_LEN, RecordHeader, record_len};
use crate::event::{Event, EventRef};
use crate::ids::{Addr, Class, LaneId, Stream};
use crate::index::hash::{Announced, HashIndex};
use crate::index::region::IndexPages;
use crate::lanes::partition::{Partition, PartitionCounters, Writer, partition_of};
use crate::pages::pool::{FrameCache, Pages, Pin};
use crate::pressure::RegionKind;
use crate::regions::region::Region;
use crate::sync::AtomicU32;
use crate::sys::memory::{Slab, out_of_system_memory};

/// What came of appending an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum Appended {
    /// The event is in the store.
    Stored,
    /// An event of that id is in memory already; nothing was changed.
    Duplicate,
}

pub(crate) type IdIndex = HashIndex<Slab<AtomicU32>, IndexPages>;

/// All lanes, and the indexes over them.
pub(crate) struct Lanes {
    pub(crate) pages: Arc<Pages>,
    pub(crate) index: IdIndex,
    pub(crate) index_region: Arc<Region>,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) seed: u64,
    pub(crate) clock: Clock,
    /// Events that are not in memory any more, for whatever reason.
    pub(crate) left: AtomicU64,
    /// How many events the index had room for when it last had none for one more.
    index_capacity: AtomicU64,
    /// Consecutive hot pages that an event larger than a page waits for: free ones may be many, but apart.
    pub(crate) hot_run_wanted: AtomicU32,
    classes: usize,
    max_event: u64,
}

/// An event that has been checked, with what appending it needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Checked<'e, 'a> {
    pub(crate) event: &'e Event<'a>,
    class: Class,
    body_len: u32,
    hash: u64,
    pub(crate) partition: usize,
}

impl Lanes {
    pub(crate) fn new(
        config: &Config,
        system: &Region,
        seed: u64,
        clock: Clock,
        first_seq: impl Fn(LaneId) -> u64,
    ) -> Result<Self> {
        let pages = Arc::new(Pages::open(config, system)?);
        let index_region = Arc::new(Region::open(RegionKind::Index, config.index, config.huge_pages)?);
        let index_pages = IndexPages::new(index_region.clone());
        let slots = system
            .slab::<AtomicU32>(crate::config::directory_slots(&config.index) as usize, "the id index")?;
        // An eighth of the region to begin with: small stores begin small, large ones need not double often.
        let base = (config.index.max / config.index.page_size / 8).max(1).ilog2().min(8);
        let index = HashIndex::new(slots, index_pages.clone(), base, seed)
            .ok_or_else(|| out_of_system_memory("the first pages of the id index"))?;
        let partition =
            |number| Partition::new(number, config, system, index_pages.clone(), seed, &first_seq);
        Ok(Self {
            pages,
            index,
            index_region,
            partitions: (0..config.partitions).map(partition).collect::<Result<_>>()?,
            seed,
            clock,
            left: AtomicU64::new(0),
            index_capacity: AtomicU64::new(u64::MAX),
            hot_run_wanted: AtomicU32::new(0),
            classes: config.classes.len(),
            max_event: config.max_event,
        })
    }

    pub(crate) fn partition_of(&self, stream: Stream) -> usize {
        partition_of(stream, self.seed, self.partitions.len())
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = &crate::lanes::partition::Lane> {
        self.partitions.iter().flat_map(Partition::lanes)
    }

    /// Events in memory, roughly while others write.
    pub(crate) fn in_memory(&self) -> u64 {
        let appended: u64 =
            self.partitions.iter().map(|partition| partition.counters.appended.load(Ordering::Relaxed)).sum();
        appended.saturating_sub(self.left.load(Ordering::Relaxed))
    }

    /// How full the index is. Its pages never become fewer, so it is measured by what it once could not exceed.
    pub(crate) fn index_fill(&self) -> f64 {
        let capacity = self.index_capacity.load(Ordering::Relaxed);
        if capacity == u64::MAX {
            return 0.0;
        }
        let fill = self.in_memory() as f64 / capacity.max(1) as f64;
        if fill < 0.5 {
            // What filled it has gone: let it fill up again.
            self.index_capacity.store(u64::MAX, Ordering::Relaxed);
        }
        fill
    }

    /// Notes that the index had no room for one more.
    fn index_is_full(&self) -> RegionKind {
        self.index_capacity.fetch_min(self.in_memory().max(1), Ordering::Relaxed);
        RegionKind::Index
    }

    /// Checks an event and finds its place.
    ///
    /// # Errors
    /// Events that are too large, and classes that the store does not have.
    #[inline]
    pub(crate) fn check<'e, 'a>(&self, event: &'e Event<'a>) -> Result<Checked<'e, 'a>> {
        let class = event.class.unwrap_or(Class::DEFAULT);
        if class.index() >= self.classes {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("event {} is of {class:?}; the store has {} classes", event.id, self.classes),
            ));
        }
        let body_len = event.body_len(self.max_event)?;
        let partition = self.partition_of(event.stream);
        Ok(Checked { event, class, body_len, hash: self.index.hash(event.id), partition })
    }

    /// Asks the processor to fetch the lines that appending this event will touch.
    #[inline]
    pub(crate) fn prefetch(&self, checked: &Checked<'_, '_>) {
        let (page, bucket) = self.index.bucket_of(checked.hash);
        self.index.pages().prefetch(page, bucket);
        self.partitions[checked.partition].streams.prefetch(checked.event.stream, checked.class);
    }

    /// Appends one event. The partition's lock is held (`writer`), and a pin.
    ///
    /// # Errors
    /// The region that has no room; nothing is changed then.
    pub(crate) fn append(
        &self,
        pin: &Pin,
        cache: &FrameCache,
        writer: &mut Writer,
        checked: &Checked<'_, '_>,
        now_ms: i64,
    ) -> Result<Appended, RegionKind> {
        let (event, class, hash) = (checked.event, checked.class, checked.hash);
        let partition = &self.partitions[checked.partition];
        let len = record_len(checked.body_len);
        if !writer.open_page(class).is_some_and(|open| open.has_room(len)) {
            self.open_page(partition, writer, class, len)?;
        }
        let head = partition.streams.find_or_insert(event.stream, class);
        let (head, made) = head.ok_or_else(|| self.index_is_full())?;
        let Some(open) = writer.open_page(class) else { return Err(RegionKind::Hot) };
        let addr = Pages::next_addr(open);
        let announced =
            self.index.announce(hash, addr, |entry| self.id_at(pin, cache, entry) == Some(event.id));
        if announced != Announced::New {
            if made {
                partition.streams.remove_empty(head);
            }
            if announced == Announced::Full {
                return Err(self.index_is_full());
            }
            PartitionCounters::add(&partition.counters.duplicates, 1);
            return Ok(Appended::Duplicate);
        }
        let (slot, previous) = head.next_slot();
        write_record(self.pages.space(open, len), checked, previous);
        open.offset += len;
        self.pages.meta(open.page).commit(open.offset, event.timestamp, event.kind, now_ms);
        self.index.publish(hash, addr);
        head.push(slot, addr);
        PartitionCounters::add(&partition.counters.appended, 1);
        PartitionCounters::add(&partition.counters.appended_bytes, u64::from(checked.body_len));
        Ok(Appended::Stored)
    }

    fn open_page(
        &self,
        partition: &Partition,
        writer: &mut Writer,
        class: Class,
        len: u32,
    ) -> Result<(), RegionKind> {
        let frames = len.div_ceil(self.pages.hot.page_size());
        let opened = partition.open_page(writer, &self.pages, class, len);
        if frames > 1 {
            match opened {
                Ok(()) => self.hot_run_wanted.store(0, Ordering::Relaxed),
                Err(_) => {
                    self.hot_run_wanted.fetch_max(frames, Ordering::Relaxed);
                }
            }
        }
        opened
    }

    /// The id of the event that an index entry names. The caller holds a pin.
    fn id_at(&self, pin: &Pin, cache: &FrameCache, entry: Addr) -> Option<u64> {
        let place = self.pages.meta(entry.page()).place();
        self.pages.id_at(pin, cache, place, entry.offset())
    }

    /// The event of that id, if it is in memory, and where.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is on a warm frame that fails its check.
    #[inline]
    pub(crate) fn get<'g>(
        &'g self,
        pin: &'g Pin,
        cache: &FrameCache,
        id: u64,
    ) -> Result<Option<(Addr, EventRef<'g>)>> {
        let found = self.index.find(self.index.hash(id), |entry| {
            let place = self.pages.meta(entry.page()).place();
            match self.pages.read(pin, cache, place, entry.offset()) {
                Ok(event) => event.filter(|event| event.id() == id).map(|event| Ok((entry, event))),
                // The tag says that it is most likely this event that cannot be read.
                Err(error) => Some(Err(error)),
            }
        });
        found.transpose()
    }

    /// Whether the record at that place has not been removed. `addr` may have any high bits.
    #[inline]
    pub(crate) fn is_live(&self, id: u64, addr: Addr) -> bool {
        self.index.holds(self.index.hash(id), addr)
    }
}

/// Writes header, body and padding.
#[inline]
fn write_record(space: &mut [u8], checked: &Checked<'_, '_>, previous: u64) {
    let event = checked.event;
    let mut header = RecordHeader::new(
        event.timestamp,
        event.id,
        checked.body_len,
        event.flags,
        event.kind,
        checked.class,
        // Without pairs the body is the payload alone.
        checked.body_len as usize != event.payload.len(),
        event.stream.as_u64(),
    );
    header.previous = previous;
    header.write(space);
    let (body, padding) = space[HEADER_LEN..].split_at_mut(checked.body_len as usize);
    event.metadata.write_body(event.payload, body);
    padding.fill(0);
}
