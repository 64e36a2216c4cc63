//! Appending: claim space, announce the id, write, commit, publish, link — in this order (invariant I1).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_utils::CachePadded;

use crate::clock::Clock;
use crate::config::{Config, PagePlacement};
use crate::error::{Error, ErrorKind, Result};
use crate::event::record::{EXPIRY_LEN, SUM_LEN, record_len};
use crate::event::{Event, EventRef};
use crate::ids::{Addr, Class, LaneId, LogicalPage, Stream};
use crate::index::dense::{Cursor, DenseIndex};
use crate::index::hash::HashIndex;
use crate::index::ids::{IdIndex, Outcome, Place, Ticket};
use crate::index::region::IndexPages;
use crate::index::streams::{Head, head_hash, stream_hash};
use crate::lanes::attach::{Files, Image};
use crate::lanes::index_room::IndexRoom;
use crate::lanes::partition::{Partition, PartitionCounters, Writer, partition_of};
use crate::pages::pool::{FrameCache, OpenPage, Pages, Pin};
use crate::pages::readers::{Readers, Reading};
use crate::pages::table::{self, PageMeta, Zone};
use crate::pressure::{Gauge, PressureReason, RegionKind};
use crate::regions::region::{Frames, Region};
use crate::sync::{AtomicU32, AtomicU64, wait_a_turn};
use crate::sys::machine::Machine;
use crate::sys::memory::{Slab, out_of_system_memory};
use crate::sys::shared::SharedDir;

/// What came of appending an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum Appended {
    /// The event is in the store.
    Stored,
    /// An event of that id is in memory already; nothing was changed.
    Duplicate,
    /// The store does not take the event, or had no room for it, and it went to the store's dead letters.
    DeadLettered,
    /// There was no room, and the store's [`FullHandler`](crate::FullHandler) had the event dropped. It is counted.
    Dropped,
}

pub(crate) type Ids = IdIndex<Slab<AtomicU32>, Slab<AtomicU64>, IndexPages>;

/// All lanes, and the indexes over them.
pub(crate) struct Lanes {
    pub(crate) pages: Arc<Pages>,
    pub(crate) readers: Arc<Readers>,
    pub(crate) index: Ids,
    pub(crate) index_region: Arc<Region>,
    pub(super) index_pages: IndexPages,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) seed: u64,
    pub(crate) clock: Clock,
    /// Events that are not in memory any more, for whatever reason.
    pub(crate) left: CachePadded<AtomicU64>,
    /// Events that were found in memory when the store opened.
    pub(crate) recovered: AtomicU64,
    pub(super) index_room: IndexRoom,
    /// Bytes of the index that an earlier run left; zero without one.
    pub(super) index_before: u64,
    /// Consecutive hot pages that an event larger than a page waits for: free ones may be many, but apart.
    pub(crate) hot_run_wanted: AtomicU32,
    /// Whether every event in memory that was not removed can be given: no class has a retention, no event expires by
    /// itself, and none is to be checked.
    plain: AtomicBool,
    /// Whether a read need not look at anything but the event: the same, and nobody wants to know of reads.
    reads_plainly: AtomicBool,
    /// How short of memory the store is.
    pub(crate) gauge: Gauge,
    classes: usize,
    /// Whether events are summed up, and checked when they are read.
    pub(crate) sums: bool,
    /// Classes whose events may be appended with nothing special about them: none, where all are summed up.
    plain_classes: usize,
    /// Whether there may be pages that stand for lost ones of which the cold tier has events: it is to have them no more
    /// before they leave.
    pub(super) stand_ins: AtomicBool,
    /// Bytes of pages from which on a class gets no new one.
    quotas: Box<[u64]>,
    max_event: u64,
}

/// An event that has been checked, with what appending it needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Checked<'e, 'a> {
    pub(crate) event: &'e Event<'a>,
    /// Of its stream and class: see [`head_hash`].
    pub(crate) head_hash: u64,
    pub(crate) body_len: u32,
    /// Its number among the caller's events.
    pub(crate) at: u32,
    pub(crate) partition: u16,
    pub(crate) class: Class,
    /// Whether its record has more than metadata and payload.
    marked: bool,
}

impl Lanes {
    pub(crate) fn new(
        config: &Config,
        system: &Region,
        machine: &Arc<Machine>,
        files: Option<Files<'_>>,
        seed: u64,
        clock: Clock,
        first_seq: impl Fn(LaneId) -> u64,
    ) -> Result<Self> {
        let (shared, image) = (files.map(|files| files.dir), files.and_then(|files| files.image));
        // Before it is mapped, which makes it longer.
        let index_before = shared.map_or(0, |dir| dir.len("index"));
        let (index_region, tables) = index_memory(config, machine, shared)?;
        let (index_region, tables) = (Arc::new(index_region), tables.as_ref().unwrap_or(system));
        let readers = Arc::new(Readers::new());
        if !readers.go_by_marks() {
            machine.warn(
                "guards hold all that leaves memory while they are held: the system has no membarrier".into(),
            );
        }
        let pages = Arc::new(Pages::open(config, system, machine, shared, readers.limbo().clone())?);
        let index_pages = IndexPages::new(index_region.clone(), readers.clone(), shared.is_some());
        let index = open_index(config, tables, &index_pages, seed, image)?;
        let keeps_all = config.classes.iter().all(|class| class.retention.is_none());
        let plain = keeps_all && !config.event_checksums;
        let partition = |number| {
            let home = machine.home(number, config.partitions);
            let (index, found) = (index_pages.clone().near(home), image.map(|image| image.depths[number]));
            let mut partition = Partition::new(number, config, tables, index, seed, &first_seq, found)?;
            partition.home = (config.numa.pages == PagePlacement::Home).then_some(home);
            Ok(partition)
        };
        Ok(Self {
            pages,
            readers,
            index,
            index_region,
            partitions: (0..config.partitions).map(partition).collect::<Result<_>>()?,
            index_pages,
            seed,
            clock,
            left: CachePadded::default(),
            recovered: AtomicU64::new(0),
            index_room: IndexRoom::default(),
            index_before,
            hot_run_wanted: AtomicU32::new(0),
            plain: AtomicBool::new(plain),
            reads_plainly: AtomicBool::new(plain),
            gauge: Gauge::new(config.thresholds),
            classes: config.classes.len(),
            sums: config.event_checksums,
            stand_ins: AtomicBool::new(false),
            plain_classes: if config.event_checksums { 0 } else { config.classes.len() },
            quotas: quotas(config),
            max_event: config.max_event,
        })
    }

    /// Whether every event in memory that was not removed exists, so that readers need not ask for time. Whoever has
    /// found an event that may not, is told so.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        // An event that expires clears it before it is published.
        self.plain.load(Ordering::Relaxed)
    }

    /// Whether a read need not look at anything but the event.
    #[inline]
    pub(crate) fn reads_plainly(&self) -> bool {
        self.reads_plainly.load(Ordering::Relaxed)
    }

    /// Notes that an event expires by itself, before it can be found.
    #[inline]
    pub(crate) fn has_expiring(&self) {
        self.plain.store(false, Ordering::Relaxed);
        self.reads_plainly.store(false, Ordering::Relaxed);
    }

    /// Whether a page stands for a lost one and is to stay until the cold tier has nothing more of that.
    pub(crate) fn is_stand_in(&self, meta: &PageMeta) -> bool {
        self.stand_ins.load(Ordering::Relaxed) && meta.is_blank()
    }

    /// Notes that somebody wants to know of reads.
    pub(crate) fn note_reads(&self) {
        self.reads_plainly.store(false, Ordering::Relaxed);
    }

    pub(crate) fn partition_of(&self, stream: Stream) -> usize {
        partition_of(stream_hash(stream, self.seed), self.partitions.len())
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = &crate::lanes::partition::Lane> {
        self.partitions.iter().flat_map(Partition::lanes)
    }

    /// Keeps what this thread may come to know of from being reused, while the pin lives.
    #[inline]
    pub(crate) fn pin(&self) -> Pin {
        self.readers.pin()
    }

    /// Events in memory, roughly while others write.
    pub(crate) fn in_memory(&self) -> u64 {
        let appended: u64 = self
            .partitions
            .iter()
            .map(|partition| partition.counters().appended.load(Ordering::Relaxed))
            .sum();
        let came = appended + self.recovered.load(Ordering::Relaxed);
        came.saturating_sub(self.left.load(Ordering::Relaxed))
    }

    /// Brings the level of pressure up to date: whenever a page is taken, and when some were let go.
    pub(crate) fn note_pressure(&self) {
        // A full warm region alone keeps nobody out: what is in it is on its way to the cold tier.
        self.gauge.note(|| self.pages.hot.fill().max(self.index_shortage()).max(self.pages.numbers_fill()));
    }

    /// Checks an event and finds its place.
    ///
    /// # Errors
    /// Events that are too large, and classes that the store does not have.
    #[inline(always)]
    pub(crate) fn check<'e, 'a>(&self, at: u32, event: &'e Event<'a>) -> Result<Checked<'e, 'a>> {
        let class = event.class.unwrap_or(Class::DEFAULT);
        let (mut body_len, mut marked) = (event.metadata.body_len(event.payload), false);
        if class.index() >= self.plain_classes || body_len > self.max_event || event.expires() {
            (body_len, marked) = (self.check_rare(event, class, body_len)?, true);
        }
        let hash = stream_hash(event.stream, self.seed);
        let partition = partition_of(hash, self.partitions.len()) as u16;
        Ok(Checked {
            event,
            head_hash: head_hash(hash, class),
            body_len: body_len as u32,
            at,
            partition,
            class,
            marked,
        })
    }

    /// Looks again at an event that something is special about. The bytes of its body.
    #[cold]
    fn check_rare(&self, event: &Event<'_>, class: Class, body_len: u64) -> Result<u64> {
        if class.index() >= self.classes {
            let text = format!("event {} is of {class:?}; the store has {} classes", event.id, self.classes);
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        if body_len <= self.max_event {
            let moment = if event.expires() { EXPIRY_LEN } else { 0 };
            return Ok(body_len + (moment + if self.sums { SUM_LEN } else { 0 }) as u64);
        }
        let text = format!(
            "event {} has {body_len} bytes of metadata and payload; this store takes up to {} \
             (ConfigBuilder::max_event, at most 16 MiB)",
            event.id, self.max_event
        );
        Err(Error::new(ErrorKind::TooLarge, text))
    }

    /// Asks the processor to fetch the line of the event's stream, which appending it will touch. The caller holds a
    /// pin.
    #[inline]
    pub(crate) fn prefetch(&self, checked: &Checked<'_, '_>) {
        self.partitions[usize::from(checked.partition)].streams.prefetch(checked.head_hash);
    }

    /// Appends one event. The partition's lock is held (`writer`), and a pin.
    ///
    /// # Errors
    /// What has no room; nothing is changed then.
    #[inline]
    pub(crate) fn append(
        &self,
        pin: &Pin,
        cache: &FrameCache,
        writer: &mut Writer,
        checked: &Checked<'_, '_>,
        now_ms: i64,
    ) -> Result<Appended, PressureReason> {
        let (event, class) = (checked.event, checked.class);
        let partition = &self.partitions[usize::from(checked.partition)];
        let len = record_len(checked.body_len);
        let (mut cursor, mut turn) = (Cursor::new(), 0);
        let open = self.open_page(partition, writer, class, len)?;
        // Another writer may have had all of these last: they come side by side, while the id is announced.
        self.pages.meta(open.page).prefetch();
        self.pages.prefetch_next(open);
        let head = partition.streams.find_or_insert(checked.head_hash, event.stream, class);
        let (head, made) = head.ok_or_else(|| self.index_is_full())?;
        let same = |entry| self.id_at(pin, cache, entry) == Some(event.id);
        let outcome = loop {
            match self.index.announce(event.id, open.addr_after(0), &mut cursor, same) {
                Outcome::Again => {
                    // Whoever is waited for may be waiting for the chunk's lock.
                    cursor.release();
                    wait_a_turn(&mut turn);
                }
                other => break other,
            }
        };
        cursor.release();
        let Outcome::New(ticket) = outcome else {
            if made {
                partition.streams.remove_empty(head);
            }
            if let Outcome::Full = outcome {
                return Err(self.index_is_full());
            }
            PartitionCounters::add(&partition.counters().duplicates, 1);
            return Ok(Appended::Duplicate);
        };
        let meta = self.pages.meta(open.page);
        meta.cover(&Zone::of(event.timestamp, event.kind), now_ms);
        self.write(meta, open, checked, head, ticket);
        // The next record's lines are on their way while the caller makes the next event.
        if open.has_room(0, len) {
            self.pages.prefetch_space(open, 0, len);
        }
        PartitionCounters::add(&partition.counters().appended, 1);
        PartitionCounters::add(&partition.counters().appended_bytes, u64::from(checked.body_len));
        Ok(Appended::Stored)
    }

    /// Writes an announced event, for which there is room and which the zone map covers, and makes it visible.
    #[inline(always)]
    pub(crate) fn write(
        &self,
        meta: &PageMeta,
        open: &mut OpenPage,
        checked: &Checked<'_, '_>,
        head: &Head,
        ticket: Ticket<'_>,
    ) {
        let (addr, len) = (open.addr_after(0), record_len(checked.body_len));
        let (slot, previous) = head.next_link();
        let space = self.pages.space(open, len);
        let Checked { event, class, body_len, marked, .. } = *checked;
        if marked {
            if event.expires() {
                self.has_expiring();
                meta.note_expiring();
            }
            event.write_marked(class, body_len, previous, space, self.sums);
        } else {
            event.write(class, body_len, previous, space);
        }
        open.offset += len;
        meta.commit(open.offset);
        self.index.publish(ticket, addr);
        head.push(slot, addr);
    }

    /// The open page of a lane, with room for `len` bytes.
    ///
    /// # Errors
    /// What has no room for a new one.
    #[inline]
    pub(crate) fn open_page<'w>(
        &self,
        partition: &Partition,
        writer: &'w mut Writer,
        class: Class,
        len: u32,
    ) -> Result<&'w mut OpenPage, PressureReason> {
        if !writer.open_page(class).is_some_and(|open| open.has_room(0, len)) {
            self.open_new_page(partition, writer, class, len)?;
        }
        writer.open_page(class).ok_or(PressureReason::HotFull)
    }

    #[cold]
    fn open_new_page(
        &self,
        partition: &Partition,
        writer: &mut Writer,
        class: Class,
        len: u32,
    ) -> Result<(), PressureReason> {
        let [used, most] = self.quota_of(class);
        if used >= most {
            return Err(PressureReason::ClassQuota);
        }
        let frames = len.div_ceil(self.pages.hot.page_size());
        let opened = partition.open_page(writer, &self.pages, class, len);
        self.note_pressure();
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

    /// Bytes of a class's pages once present readers are gone, and those from which on it gets no new page.
    pub(crate) fn quota_of(&self, class: Class) -> [u64; 2] {
        let [hot, warm] = self.pages.held_by(class).map(u64::from);
        let page = |region: &Region| u64::from(region.page_size());
        [hot * page(&self.pages.hot) + warm * page(&self.pages.warm), self.quotas[class.index()]]
    }

    /// The id of the event that an index entry names. The caller holds a pin.
    pub(crate) fn id_at(&self, pin: &Pin, cache: &FrameCache, entry: Addr) -> Option<u64> {
        let place = self.pages.place(entry.page());
        self.pages.id_at(pin, cache, place, entry)
    }

    /// The event of that id, if it is in memory, and where.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is on a warm frame that fails its check.
    #[inline]
    pub(crate) fn get<'g>(
        &'g self,
        pin: &'g impl Reading,
        cache: &FrameCache,
        id: u64,
    ) -> Result<Option<(Addr, EventRef<'g>)>> {
        self.get_at(pin, cache, id, self.index.locate(id))
    }

    /// The same, from the place where the id was located under that pin.
    #[inline]
    pub(crate) fn get_at<'g>(
        &'g self,
        pin: &'g impl Reading,
        cache: &FrameCache,
        id: u64,
        place: Place<'g>,
    ) -> Result<Option<(Addr, EventRef<'g>)>> {
        let found = self.index.find_at(id, place, |entry| {
            let place = self.pages.place(entry.page());
            match self.pages.read(pin, cache, place, entry) {
                Ok(event) => match event? {
                    event if event.id() == id => Some(Ok((entry, event))),
                    other => self.of_another_id(&other).map(Err),
                },
                // The tag says that it is most likely this event that cannot be read.
                Err(error) => Some(Err(error)),
            }
        });
        found.transpose()
    }

    /// An entry for an id has led to an event of another one. There are such; but where that event is damaged, it is most
    /// likely the one that was meant.
    #[cold]
    #[inline(never)]
    fn of_another_id(&self, event: &EventRef<'_>) -> Option<Error> {
        if !self.sums || event.is_whole() {
            return None;
        }
        self.pages.count_corrupt_event();
        Some(event.damage())
    }

    /// The record of the event whose id was located at that place under that pin, if its entry is in an array and it is
    /// hot.
    #[inline]
    pub(crate) fn hot_record<'g>(&'g self, pin: &'g impl Reading, place: Place<'g>) -> Option<&'g [u8]> {
        let addr = self.index.in_array(place)?;
        self.pages.hot_record(pin, self.pages.place(addr.page()), addr)
    }

    /// Asks the processor to fetch the beginning of the record at an address whose high bits do not matter.
    #[inline]
    pub(crate) fn prefetch_record(&self, addr: Addr) {
        self.pages.prefetch_hot(self.pages.place(addr.page()), addr.offset());
    }

    /// Walks the records of a page: see [`Pages::walk`].
    pub(crate) fn walk<'g>(
        &'g self,
        pin: &'g impl Reading,
        page: LogicalPage,
        committed: u32,
        place: table::Place,
        visit: impl FnMut(u32, EventRef<'g>, bool) -> bool,
    ) -> Result<()> {
        self.pages.walk(pin, page, place, committed, |id, addr| self.is_live(id, addr), visit)
    }

    /// Whether the record at that place has not been removed. `addr` may have any high bits.
    #[inline]
    pub(crate) fn is_live(&self, id: u64, addr: Addr) -> bool {
        self.index.holds(id, addr)
    }
}

/// The index region, and where its tables lie if not in the system region: in files, where they outlive the process.
///
/// Slabs of the tables are taken in the same order by every opening of the same layout, so they are where they were.
fn index_memory(
    config: &Config,
    machine: &Arc<Machine>,
    shared: Option<&SharedDir>,
) -> Result<(Region, Option<Region>)> {
    let Some(dir) = shared else {
        return Ok((Region::open(RegionKind::Index, config.index, machine)?, None));
    };
    let tables =
        Region::open_shared(RegionKind::System, config.index_tables(), machine, dir.file("index tables")?)?;
    let index = Region::open_shared(RegionKind::Index, config.index, machine, dir.file("index")?)?;
    Ok((index, Some(tables)))
}

/// The id index: an empty one, or one that was written before.
fn open_index(
    config: &Config,
    tables: &Region,
    pages: &IndexPages,
    seed: u64,
    image: Option<&Image>,
) -> Result<Ids> {
    let slots = crate::config::directory_slots(&config.index) as usize;
    let slots = tables.slab::<AtomicU32>(slots, "the id index")?;
    let chunks = crate::config::chunk_table_words(&config.index) as usize;
    let chunks = tables.slab::<AtomicU64>(chunks, "the table of chunks")?;
    let chunk_len = config.index.page_size as usize / size_of::<u64>();
    if let Some(image) = image {
        let hash = HashIndex::found(slots, pages.clone(), image.shape, seed);
        let dense = DenseIndex::found(chunks, pages.clone(), chunk_len, seed);
        let index = hash.and_then(|hash| IdIndex::found(hash, dense, &image.counts));
        return index.ok_or_else(|| Error::corrupt("the id index is not one of this size"));
    }
    // A tag has 19 bits, and each split uses one of them up. So that twelve are left when every page of the region is the
    // index's, it begins with the pages that are more than seven splits.
    let base = (config.index.max / config.index.page_size).ilog2().saturating_sub(7).min(12);
    let hash = HashIndex::new(slots, pages.clone(), base, seed)
        .ok_or_else(|| out_of_system_memory("the first pages of the id index"))?;
    if tables.had(Frames { first: 0, count: 1 }) {
        // What an index that is gone had there.
        chunks.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
    Ok(IdIndex::new(hash, DenseIndex::new(chunks, pages.clone(), chunk_len, seed)))
}

/// What each class may take before it gets no new page: its quota, its open pages, and an eighth for what the mover is
/// about to let go.
fn quotas(config: &Config) -> Box<[u64]> {
    let open = config.partitions as u64 * config.hot.page_size;
    let most = |quota: u64| quota.saturating_add(quota / 8).saturating_add(open);
    config.classes.iter().map(|class| class.quota.map_or(u64::MAX, most)).collect()
}
