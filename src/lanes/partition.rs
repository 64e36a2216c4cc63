//! Partitions and their lanes: who holds which pages, oldest first.
//!
//! A stream belongs to the partition that its hash says, always the same one in a namespace. All writing in a
//! partition is done under its lock: appends, and the mover's sealing and retiring of pages. Readers take no
//! lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::config::Config;
use crate::error::Result;
use crate::ids::{Class, LaneId, LogicalPage};
use crate::index::region::IndexPages;
use crate::index::streams::StreamDirectory;
use crate::pages::pool::{OpenPage, Pages, Pin};
use crate::pages::table::{PageMeta, Tier};
use crate::pressure::PressureReason;
use crate::regions::region::Region;
use crate::sys::machine::Spot;
use crate::sys::memory::prefetch_write;

/// How often a lock that is held is looked at before the thread sleeps, and the most pauses of the processor between two
/// looks: together about as long as it takes to sleep and wake up.
const LOOKS: u32 = 24;
const PAUSES_MAX: u32 = 16;

/// One class's log in a partition: a list of pages, linked both ways through the page table.
///
/// Pages are numbered from the lane's beginning without gaps (`seq`), across restarts. They leave memory oldest
/// first (invariant I2): `tail_seq` is raised before anything of a page goes, so whoever meets something gone and
/// then reads `tail_seq` knows up to where everything is gone.
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    tail: AtomicU32,
    head: AtomicU32,
    tail_seq: AtomicU64,
    /// Pages below this number are confirmed in the cold tier.
    clean_seq: AtomicU64,
}

impl Lane {
    fn new(id: LaneId, first_seq: u64) -> Self {
        Self {
            id,
            tail: AtomicU32::new(0),
            head: AtomicU32::new(0),
            tail_seq: AtomicU64::new(first_seq),
            clean_seq: AtomicU64::new(first_seq),
        }
    }

    /// The newest page, if there is one.
    pub(crate) fn head(&self) -> LogicalPage {
        LogicalPage(self.head.load(Ordering::Acquire))
    }

    /// The oldest page, if there is one.
    pub(crate) fn tail(&self) -> LogicalPage {
        LogicalPage(self.tail.load(Ordering::Acquire))
    }

    /// The number of the oldest page in memory, or of the next one to come.
    pub(crate) fn tail_seq(&self) -> u64 {
        self.tail_seq.load(Ordering::Acquire)
    }

    pub(crate) fn clean_seq(&self) -> u64 {
        self.clean_seq.load(Ordering::Acquire)
    }

    /// Notes that the cold tier has confirmed all pages below `seq`.
    pub(crate) fn set_clean(&self, seq: u64) {
        self.clean_seq.fetch_max(seq, Ordering::AcqRel);
    }

    /// The pages from oldest to newest, as they are found. The caller holds a pin.
    pub(crate) fn pages<'g>(
        &'g self,
        pages: &'g Pages,
        _pin: &'g Pin,
    ) -> impl Iterator<Item = (LogicalPage, &'g PageMeta)> {
        self.pages_from(pages, _pin, LogicalPage::NONE, 0)
    }

    /// The pages from a given one on, or all if that one has left memory. The caller holds a pin.
    pub(crate) fn pages_from<'g>(
        &'g self,
        pages: &'g Pages,
        _pin: &'g Pin,
        page: LogicalPage,
        seq: u64,
    ) -> impl Iterator<Item = (LogicalPage, &'g PageMeta)> {
        let mut next =
            if page != LogicalPage::NONE && self.has(pages, page, seq) { page } else { self.tail() };
        std::iter::from_fn(move || {
            (next != LogicalPage::NONE).then(|| {
                let (page, meta) = (next, pages.meta(next));
                next = meta.next();
                (page, meta)
            })
        })
    }

    /// The pages from newest to oldest, up to the first that has left memory. The caller holds a pin.
    pub(crate) fn pages_back<'g>(
        &'g self,
        pages: &'g Pages,
        _pin: &Pin,
    ) -> impl Iterator<Item = (LogicalPage, &'g PageMeta)> + use<'g> {
        let head = self.head();
        let mut next = (head != LogicalPage::NONE).then(|| (head, pages.meta(head).seq()));
        std::iter::from_fn(move || {
            let (page, seq) = next?;
            let meta = pages.meta(page);
            let prev = meta.prev();
            let ours = self.has(pages, page, seq);
            next = (ours && prev != LogicalPage::NONE && seq > 0).then(|| (prev, seq - 1));
            ours.then_some((page, meta))
        })
    }

    /// Whether that page is this lane's page of that number. One that left before the caller's pin may have become
    /// another lane's, or a later one of this lane.
    pub(crate) fn has(&self, pages: &Pages, page: LogicalPage, seq: u64) -> bool {
        let meta = pages.meta(page);
        pages.place(page).tier() != Tier::Free && meta.lane() == self.id && meta.seq() == seq
    }
}

/// What only the holder of a partition's lock may touch.
pub(crate) struct Writer {
    /// One for each class. Of few classes they lie beside the lock: writers on other processors then fetch both at once.
    lanes: SmallVec<[LaneWriter; 1]>,
}

/// How far a lane is written.
struct LaneWriter {
    open: Option<OpenPage>,
    next_seq: u64,
    max_time_so_far: i64,
}

/// How far a lane has come: see [`Partition::lane_state`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LaneState {
    pub(crate) tail: LogicalPage,
    pub(crate) head: LogicalPage,
    pub(crate) tail_seq: u64,
    pub(crate) next_seq: u64,
}

impl Writer {
    #[inline]
    pub(crate) fn open_page(&mut self, class: Class) -> Option<&mut OpenPage> {
        self.lanes[class.index()].open.as_mut()
    }
}

/// A partition's lock and what changes with every append.
struct Shared {
    writer: Mutex<Writer>,
    counters: PartitionCounters,
}

/// Counters of one partition: written under its lock, read by anyone.
#[derive(Default)]
pub(crate) struct PartitionCounters {
    pub(crate) appended: AtomicU64,
    pub(crate) appended_bytes: AtomicU64,
    pub(crate) duplicates: AtomicU64,
}

impl PartitionCounters {
    /// Adds without a locked instruction: the partition's lock makes this the only writer.
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }
}

pub(crate) struct Partition {
    shared: CachePadded<Shared>,
    pub(crate) streams: StreamDirectory,
    lanes: Vec<CachePadded<Lane>>,
    /// Where its pages come from; `None`: from wherever the appender is.
    pub(crate) home: Option<Spot>,
}

impl Partition {
    /// A partition whose lanes go on after the pages that `first_seq` counts. `found`: the depth of the stream directory, if
    /// it was written before.
    pub(crate) fn new(
        number: usize,
        config: &Config,
        tables: &Region,
        index: IndexPages,
        seed: u64,
        first_seq: impl Fn(LaneId) -> u64,
        found: Option<u32>,
    ) -> Result<Self> {
        let ids: Vec<LaneId> =
            (0..config.classes.len()).map(|class| LaneId::new(number, Class::new(class))).collect();
        let new = |lane| LaneWriter { open: None, next_seq: first_seq(lane), max_time_so_far: i64::MIN };
        Ok(Self {
            shared: CachePadded::new(Shared {
                writer: Mutex::new(Writer { lanes: ids.iter().map(|id| new(*id)).collect() }),
                counters: PartitionCounters::default(),
            }),
            streams: StreamDirectory::new(config, tables, index, seed, found)?,
            lanes: ids.iter().map(|lane| CachePadded::new(Lane::new(*lane, first_seq(*lane)))).collect(),
            home: None,
        })
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, Writer> {
        match self.try_lock() {
            Some(writer) => writer,
            None => self.lock_when_free(),
        }
    }

    /// Takes the lock once its holder lets go. That is within a microsecond or two, unless it has lost its processor, so a
    /// thread that slept would lose more time than it waits: two producers were asleep for a fifth of theirs.
    #[cold]
    #[inline(never)]
    fn lock_when_free(&self) -> MutexGuard<'_, Writer> {
        let mut pauses = 2;
        for _ in 0..LOOKS {
            // What the holder changes lies on the line of its lock, so each look takes the line from it for a moment.
            (0..pauses).for_each(|_| std::hint::spin_loop());
            pauses = (pauses * 2).min(PAUSES_MAX);
            if !self.shared.writer.is_locked()
                && let Some(writer) = self.try_lock()
            {
                return writer;
            }
        }
        self.shared.writer.lock()
    }

    /// Asks the processor to fetch the lock and what it guards, to change it.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch_write(&self.shared.writer);
        prefetch_write(&self.shared.counters);
    }

    pub(crate) fn counters(&self) -> &PartitionCounters {
        &self.shared.counters
    }

    /// The lock, if nobody else has it.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Writer>> {
        self.shared.writer.try_lock()
    }

    pub(crate) fn lane(&self, class: Class) -> &Lane {
        &self.lanes[class.index()]
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().map(|lane| &**lane)
    }

    /// Opens a page with room for `len` bytes as the newest of a lane; the one before is sealed.
    ///
    /// # Errors
    /// What has no room.
    pub(crate) fn open_page(
        &self,
        writer: &mut Writer,
        pages: &Pages,
        class: Class,
        len: u32,
    ) -> Result<(), PressureReason> {
        let (lane, writer) = (self.lane(class), &mut writer.lanes[class.index()]);
        let before = lane.head();
        if before != LogicalPage::NONE {
            let so_far = pages.meta(before).max_time_so_far();
            writer.max_time_so_far = writer.max_time_so_far.max(so_far);
        }
        let seq = writer.next_seq;
        let open = pages.claim(lane.id, seq, before, writer.max_time_so_far, len, self.home)?;
        let page = open.page;
        writer.next_seq += 1;
        writer.open = Some(open);
        // The head first: whoever finds the page through the list then knows that it is, or was, the head.
        lane.head.store(page.0, Ordering::Release);
        if before == LogicalPage::NONE {
            lane.tail.store(page.0, Ordering::Release);
        } else {
            pages.meta(before).set_next(page);
        }
        Ok(())
    }

    /// Takes over the pages of a lane that were found in a file, oldest first and without gaps, of which `next_seq` is the
    /// number of the next; the cold tier has confirmed those below `clean`. Nobody else uses the store yet.
    pub(crate) fn adopt(
        &self,
        pages: &Pages,
        class: Class,
        found: &[LogicalPage],
        next_seq: u64,
        clean: u64,
    ) {
        let (lane, mut writer) = (self.lane(class), self.lock());
        let mut before = LogicalPage::NONE;
        for page in found {
            let meta = pages.meta(*page);
            meta.set_prev(before);
            meta.set_next(LogicalPage::NONE);
            if before != LogicalPage::NONE {
                pages.meta(before).set_next(*page);
            }
            before = *page;
        }
        writer.lanes[class.index()].next_seq = next_seq;
        let oldest = found.first().map_or(next_seq, |page| pages.meta(*page).seq());
        if !found.is_empty() {
            lane.clean_seq.store(clean, Ordering::Release);
        }
        lane.tail_seq.store(oldest, Ordering::Release);
        lane.tail.store(found.first().map_or(0, |page| page.0), Ordering::Release);
        lane.head.store(before.0, Ordering::Release);
    }

    /// How far a lane has come. Where each of its pages is, and what follows which, is in the page table.
    pub(crate) fn lane_state(&self, writer: &Writer, class: Class) -> LaneState {
        let lane = self.lane(class);
        LaneState {
            tail: lane.tail(),
            head: lane.head(),
            tail_seq: lane.tail_seq(),
            next_seq: writer.lanes[class.index()].next_seq,
        }
    }

    /// Has a lane go on where it was; the cold tier has confirmed its pages below `clean`. Nobody else uses the store yet.
    pub(crate) fn take_over(&self, class: Class, state: LaneState, clean: u64) {
        let (lane, mut writer) = (self.lane(class), self.lock());
        writer.lanes[class.index()].next_seq = state.next_seq;
        if state.tail != LogicalPage::NONE {
            lane.clean_seq.store(clean, Ordering::Release);
        }
        lane.tail_seq.store(state.tail_seq, Ordering::Release);
        lane.tail.store(state.tail.0, Ordering::Release);
        lane.head.store(state.head.0, Ordering::Release);
    }

    /// Closes a lane's open page, so that it can be moved.
    pub(crate) fn seal(&self, class: Class) {
        self.lock().lanes[class.index()].open = None;
    }

    /// Closes that page if it is the open one. Afterwards it is sealed, whoever had it open: a page is opened and
    /// linked under one hold of the lock.
    pub(crate) fn seal_page(&self, class: Class, page: LogicalPage) {
        self.lock().lanes[class.index()].open.take_if(|open| open.page == page);
    }

    /// Whether that page is being written.
    pub(crate) fn is_open(writer: &Writer, class: Class, page: LogicalPage) -> bool {
        writer.lanes[class.index()].open.as_ref().is_some_and(|open| open.page == page)
    }

    /// Takes the oldest page off a lane's list. `false`: it is not that page, or the page is being written.
    pub(crate) fn unlink_tail(&self, pages: &Pages, class: Class, page: LogicalPage) -> bool {
        let (writer, lane) = (self.lock(), self.lane(class));
        if lane.tail() != page || Self::is_open(&writer, class, page) {
            return false;
        }
        let meta = pages.meta(page);
        meta.leave();
        lane.tail_seq.store(meta.seq() + 1, Ordering::Release);
        let next = meta.next();
        lane.tail.store(next.0, Ordering::Release);
        if next == LogicalPage::NONE {
            lane.head.store(0, Ordering::Release);
        }
        true
    }
}

/// The partition of a stream's hash.
#[inline]
pub(crate) fn partition_of(stream_hash: u64, partitions: usize) -> usize {
    (stream_hash as usize) & (partitions - 1)
}
