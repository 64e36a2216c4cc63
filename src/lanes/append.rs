//! Appending: claim space, announce the id, write, commit, publish, link — in this order (invariant I1).
//!
//! Events are appended in *runs* of the same partition, class and page. A run announces all its ids first and writes
//! its records after that: announcing takes a locked instruction for each id, and such an instruction waits until all
//! stores before it have reached the cache, so one between any two records would let no two of them be under way to
//! memory at a time. Everything after the announcements is plain stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::record::{HEADER_LEN, RecordHeader, record_len};
use crate::event::{Event, EventRef};
use crate::ids::{Addr, Class, LaneId, Stream};
use crate::index::dense::DenseIndex;
use crate::index::hash::HashIndex;
use crate::index::ids::{IdIndex, Outcome, Place};
use crate::index::region::IndexPages;
use crate::index::streams::{Head, head_hash, stream_hash};
use crate::lanes::partition::{Partition, PartitionCounters, Writer, partition_of};
use crate::pages::pool::{FrameCache, OpenPage, Pages, Pin};
use crate::pages::table::Zone;
use crate::pressure::RegionKind;
use crate::regions::region::Region;
use crate::sync::{AtomicU32, wait_a_turn};
use crate::sys::memory::{Slab, out_of_system_memory};

/// The most events of a run: more would only lengthen the time for which their ids are announced and not yet there.
const RUN: usize = 16;

/// What came of appending an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum Appended {
    /// The event is in the store.
    Stored,
    /// An event of that id is in memory already; nothing was changed.
    Duplicate,
}

pub(crate) type Ids = IdIndex<Slab<AtomicU32>, Slab<AtomicU64>, IndexPages>;

/// All lanes, and the indexes over them.
pub(crate) struct Lanes {
    pub(crate) pages: Arc<Pages>,
    pub(crate) index: Ids,
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
    /// Of its stream and class: see [`head_hash`].
    head_hash: u64,
    body_len: u32,
    pub(crate) partition: u32,
    class: Class,
}

/// What whoever appends holds meanwhile.
pub(crate) struct Holds<'w> {
    pub(crate) pin: &'w Pin,
    pub(crate) cache: &'w FrameCache,
    /// The partition's lock.
    pub(crate) writer: &'w mut Writer,
    pub(crate) now_ms: i64,
}

/// An event of a run whose id is announced.
struct Announced<'g, 'e, 'a> {
    checked: &'e Checked<'e, 'a>,
    head: &'g Head,
    place: Place<'g>,
}

/// Events that are announced and will be written together.
struct Run<'g, 'e, 'a> {
    events: SmallVec<[Announced<'g, 'e, 'a>; RUN]>,
    /// What the page's zone map is to cover.
    zone: Zone,
    /// How often heads had moved when the run began.
    moves: u64,
    /// Bytes of the records.
    len: u32,
}

impl<'g, 'e, 'a> Run<'g, 'e, 'a> {
    #[inline]
    fn push(&mut self, announced: Announced<'g, 'e, 'a>, len: u32) {
        self.zone.add(announced.checked.event.timestamp, announced.checked.event.kind);
        self.events.push(announced);
        self.len += len;
    }
}

/// How far an attempt to append some events of one partition came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Events that have their outcome.
    pub(crate) done: usize,
    /// The region that had no room for the next.
    pub(crate) full: Option<RegionKind>,
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
        // A tag has 19 bits, and each split uses one of them up. So that twelve are left when every page of the region
        // is the index's, it begins with the pages that are more than seven splits.
        let base = (config.index.max / config.index.page_size).ilog2().saturating_sub(7).min(12);
        let hash = HashIndex::new(slots, index_pages.clone(), base, seed)
            .ok_or_else(|| out_of_system_memory("the first pages of the id index"))?;
        let chunks = crate::config::chunk_table_words(&config.index) as usize;
        let chunks = system.slab::<AtomicU64>(chunks, "the table of chunks")?;
        let chunk_len = config.index.page_size as usize / size_of::<u64>();
        let dense = DenseIndex::new(chunks, index_pages.clone(), chunk_len, seed);
        let partition =
            |number| Partition::new(number, config, system, index_pages.clone(), seed, &first_seq);
        Ok(Self {
            pages,
            index: IdIndex::new(hash, dense),
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
        partition_of(stream_hash(stream, self.seed), self.partitions.len())
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
        let hash = stream_hash(event.stream, self.seed);
        let partition = partition_of(hash, self.partitions.len()) as u32;
        Ok(Checked { event, head_hash: head_hash(hash, class), body_len, partition, class })
    }

    /// Asks the processor to fetch the lines that appending this event will touch. The caller holds a pin.
    #[inline]
    pub(crate) fn prefetch(&self, checked: &Checked<'_, '_>) {
        self.partitions[checked.partition as usize].streams.prefetch(checked.head_hash);
        // Neighbours in an array are fetched by each other.
        if let place @ Place::Hash(_) = self.index.locate(checked.event.id) {
            self.index.prefetch(place);
        }
    }

    /// Appends events of one partition, as far as there is room: those of `all` that `order` names. The partition's
    /// lock is held (`writer`), and a pin. `duplicate` is told which have an id that is in memory already.
    #[inline]
    pub(crate) fn append(
        &self,
        holds: &mut Holds<'_>,
        all: &[Checked<'_, '_>],
        order: &[u32],
        mut duplicate: impl FnMut(u32),
    ) -> Progress {
        let (mut done, mut turn) = (0, 0);
        while done < order.len() {
            match self.append_run(holds, all, &order[done..], &mut duplicate) {
                // Somebody is about to publish the id of the next.
                Ok(0) => wait_a_turn(&mut turn),
                Ok(more) => done += more,
                Err(region) => return Progress { done, full: Some(region) },
            }
        }
        Progress { done, full: None }
    }

    /// Appends a run. How many events have their outcome.
    ///
    /// # Errors
    /// The region that had no room for the first.
    #[inline]
    fn append_run(
        &self,
        holds: &mut Holds<'_>,
        all: &[Checked<'_, '_>],
        order: &[u32],
        duplicate: &mut impl FnMut(u32),
    ) -> Result<usize, RegionKind> {
        let Some(first) = order.first().map(|at| &all[*at as usize]) else { return Ok(0) };
        let (class, partition) = (first.class, &self.partitions[first.partition as usize]);
        let len = record_len(first.body_len);
        if !holds.writer.open_page(class).is_some_and(|open| open.has_room(len)) {
            self.open_page(partition, holds.writer, class, len)?;
        }
        let Some(open) = holds.writer.open_page(class) else { return Err(RegionKind::Hot) };
        let mut run = Run {
            events: SmallVec::new(),
            zone: Zone::NOTHING,
            moves: partition.streams.moves(),
            len: 0,
        };
        let (mut taken, mut full) = (0, None);
        for at in order.iter().take(RUN) {
            let checked = &all[*at as usize];
            let len = record_len(checked.body_len);
            if checked.class != class || !open.has_room(run.len + len) {
                break;
            }
            let Some((head, made)) =
                partition.streams.find_or_insert(checked.head_hash, checked.event.stream, class)
            else {
                full = Some(self.index_is_full());
                break;
            };
            let outcome = self.announce(holds.pin, holds.cache, checked.event.id, open.addr_after(run.len));
            if let Outcome::New(place) = outcome {
                run.push(Announced { checked, head, place }, len);
            } else {
                if made {
                    partition.streams.remove_empty(head);
                }
                match outcome {
                    Outcome::Full => full = Some(self.index_is_full()),
                    Outcome::Duplicate => duplicate(*at),
                    _ => {}
                }
                if !matches!(outcome, Outcome::Duplicate) {
                    break;
                }
            }
            taken += 1;
        }
        let duplicates = taken - run.events.len();
        if duplicates > 0 {
            PartitionCounters::add(&partition.counters.duplicates, duplicates as u64);
        }
        if !run.events.is_empty() {
            self.write_run(partition, open, &run, holds.now_ms);
        }
        full.filter(|_| taken == 0).map_or(Ok(taken), Err)
    }

    #[inline]
    fn announce(&self, pin: &Pin, cache: &FrameCache, id: u64, addr: Addr) -> Outcome<'_> {
        self.index.announce(id, self.index.locate(id), addr, |entry| self.id_at(pin, cache, entry) == Some(id))
    }

    /// Writes the records of a run and makes them visible, one after the other.
    #[inline]
    fn write_run(&self, partition: &Partition, open: &mut OpenPage, run: &Run<'_, '_, '_>, now_ms: i64) {
        let meta = self.pages.meta(open.page);
        meta.cover(&run.zone, now_ms);
        // Making a head can have moved those that were found before.
        let moved = partition.streams.moves() != run.moves;
        let mut bytes = 0;
        for Announced { checked, head, place } in &run.events {
            let (event, mut head) = (checked.event, *head);
            if moved && let Some(now) = partition.streams.find(checked.head_hash, event.stream, checked.class) {
                head = now;
            }
            let (addr, len) = (open.addr_after(0), record_len(checked.body_len));
            let (pushed, previous) = head.next_link();
            write_record(self.pages.space(open, len), checked, previous);
            open.offset += len;
            meta.commit(open.offset);
            self.index.publish(*place, addr);
            head.push(pushed, addr);
            bytes += u64::from(checked.body_len);
        }
        PartitionCounters::add(&partition.counters.appended, run.events.len() as u64);
        PartitionCounters::add(&partition.counters.appended_bytes, bytes);
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
        self.get_at(pin, cache, id, self.index.locate(id))
    }

    /// The same, from the place where the id was located under that pin.
    #[inline]
    pub(crate) fn get_at<'g>(
        &'g self,
        pin: &'g Pin,
        cache: &FrameCache,
        id: u64,
        place: Place<'g>,
    ) -> Result<Option<(Addr, EventRef<'g>)>> {
        let found = self.index.find_at(id, place, |entry| {
            let place = self.pages.meta(entry.page()).place();
            match self.pages.read(pin, cache, place, entry.offset()) {
                Ok(event) => event.filter(|event| event.id() == id).map(|event| Ok((entry, event))),
                // The tag says that it is most likely this event that cannot be read.
                Err(error) => Some(Err(error)),
            }
        });
        found.transpose()
    }

    /// Asks the processor to fetch the beginning of the record at an address whose high bits do not matter.
    #[inline]
    pub(crate) fn prefetch_record(&self, addr: Addr) {
        self.pages.prefetch_hot(self.pages.meta(addr.page()).place(), addr.offset());
    }

    /// Whether the record at that place has not been removed. `addr` may have any high bits.
    #[inline]
    pub(crate) fn is_live(&self, id: u64, addr: Addr) -> bool {
        self.index.holds(id, addr)
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
    let body = checked.body_len as usize;
    if !body.is_multiple_of(8)
        && let Some(last) = space.last_chunk_mut::<8>()
    {
        // Padding; what belongs to the body is written over.
        *last = [0; 8];
    }
    header.write(space);
    event.metadata.write_body(event.payload, &mut space[HEADER_LEN..HEADER_LEN + body]);
}
