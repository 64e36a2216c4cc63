//! The store: the public door to everything else.

mod adapt;
mod admission;
#[cfg(feature = "async")]
mod async_store;
mod batch;
mod builder;
pub(crate) mod contract;
mod core;
mod durable;
mod fetch_history;
mod fetch_scan;
mod figures;
mod guard;
mod hand_over;
mod history;
mod letters;
mod life;
mod listeners;
mod page_set;
mod placement;
mod recover;
mod remove;
mod resize;
mod scan;
mod screen;
mod shared;
mod sizing;
#[cfg(test)]
mod tests;
mod tidy;
mod time_order;
mod validate;
mod watch;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Deadline;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventRef};
use crate::ids::{Class, Stream};
use crate::lanes::append::Appended;
use crate::observe::recovered::Recovered;
use crate::observe::stats::Stats;
use crate::pressure::{Hysteresis, Pressure, RegionKind};
use crate::store::core::Core;
use crate::store::worker::Workers;

pub use admission::{FullHandler, Verdict};
#[cfg(feature = "async")]
pub use async_store::AsyncStore;
pub use batch::Batch;
pub use builder::StoreBuilder;
pub use fetch_history::FetchHistory;
pub use fetch_scan::FetchScan;
pub use guard::Guard;
pub use hand_over::{Drained, HandOver};
pub use history::History;
pub use letters::{DeadLetterDir, DeadLetterSink};
pub use listeners::{Listening, PressureListener};
pub use placement::{Home, Placement, Router};
pub use resize::Resized;
pub use scan::Scan;
#[cfg(fuzzing)]
pub(crate) use shared::understands;

/// How long abandoning a store waits for a call of the cold tier that is under way.
const ABANDON_LIMIT: Duration = Duration::from_secs(10);

/// An event store. Clones are cheap and share one store; it closes when the last clone is dropped, or by
/// [`close`](Self::close).
///
/// Every method can be called from any thread at any time.
#[derive(Clone)]
pub struct Store {
    core: Arc<Core>,
    workers: Arc<Workers>,
}

/// What closing did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct CloseReport {
    /// Events that the close itself wrote to the cold tier.
    pub spilled: u64,
    /// Events that were only in memory when the deadline passed, that have no cold tier to go to, or whose class drops them: they
    /// end with the process, unless [`Durability`](crate::Durability) keeps pages.
    pub left: u64,
    /// Events in the cold tier's blocks: what reopening will find, and with it events that were removed or have
    /// expired but whose block is still there.
    pub cold: u64,
}

impl Store {
    /// Opens a store. What the data directory holds is there at once.
    ///
    /// # Errors
    /// [`AlreadyOpen`](ErrorKind::AlreadyOpen) when another store has the directory;
    /// [`Incompatible`](ErrorKind::Incompatible) when it was written with other classes or partitions, or by a newer
    /// version; [`Corrupt`](ErrorKind::Corrupt) when it holds something else; [`Io`](ErrorKind::Io) when memory or
    /// directory are refused.
    pub fn open(config: Config) -> Result<Self> {
        Self::builder(config).open()
    }

    /// Begins to open a store with parts of the caller's own: a clock, a cold tier.
    pub fn builder(config: Config) -> StoreBuilder {
        StoreBuilder::new(config)
    }

    fn start(core: Core) -> Result<Self> {
        let core = Arc::new(core);
        let workers = Arc::new(Workers::start(&core)?);
        Ok(Self { core, workers })
    }

    /// What was found in the files of an earlier run when the store opened; `None` where there was none, and for stores
    /// whose pages end with the process.
    pub fn recovered(&self) -> Option<&Recovered> {
        self.core.kept.as_ref().and_then(|kept| kept.recovered.as_ref())
    }

    /// The configuration that the store runs with. `partitions` is that of the data directory.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// The stream of that name: always the same one in this data directory, and never that of another name.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a name of 0 or more than 1024 bytes;
    /// [`MemoryPressure`](ErrorKind::MemoryPressure) when the memory for names is used up; [`Closed`](ErrorKind::Closed)
    /// for a new one when the store is closed.
    pub fn stream(&self, name: &str) -> Result<Stream> {
        match self.core.names.find(name) {
            Some(stream) => Ok(stream),
            None => self.core.life.check().and_then(|()| self.core.names.intern(name)),
        }
    }

    /// The name of a named stream.
    pub fn stream_name(&self, stream: Stream) -> Option<String> {
        self.core.names.name_of(stream)
    }

    /// Makes a stream's events that name no class ones of that class, from now on; those that are stored stay what they
    /// are, and reads of the stream find both. The class that was set before, if any was.
    ///
    /// What is set is in memory only: it belongs to the caller, who sets it again after opening
    /// ([`set_classes`](Self::set_classes)), or answers when asked ([`ClassResolver`](crate::ClassResolver)). It takes
    /// about 20 to 40 bytes a stream of the buffers' share for stream names.
    ///
    /// ```
    /// # use esker::{ClassConfig, Config, Event, Store};
    /// # let config = Config::builder().memory("16MiB");
    /// # let store = Store::open(config.class(ClassConfig::new("basic")).class(ClassConfig::new("gold")).build()?)?;
    /// let (customer, gold) = (store.stream("customer-42")?, store.class("gold").expect("it is configured"));
    /// store.append(&Event::new(customer, 1, 0, 0))?;
    /// store.set_class(customer, gold)?;
    /// store.append(&Event::new(customer, 2, 0, 0))?;
    /// let guard = store.pin();
    /// let classes: Vec<_> = [1, 2].iter().filter_map(|id| guard.get(*id)).map(|event| event.class().index()).collect();
    /// assert_eq!(classes, [0, 1]);
    /// # Ok::<(), esker::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a class that the store does not have,
    /// [`MemoryPressure`](ErrorKind::MemoryPressure) when there is no memory for one stream more.
    pub fn set_class(&self, stream: Stream, class: Class) -> Result<Option<Class>> {
        self.core.set_class(stream, class)
    }

    /// Sets the classes of many streams, of a map for example. How many there were.
    ///
    /// # Errors
    /// As for [`set_class`](Self::set_class), for the first stream that cannot be set. Those before it are set then.
    pub fn set_classes(&self, classes: impl IntoIterator<Item = (Stream, Class)>) -> Result<usize> {
        let mut count = 0;
        for (stream, class) in classes {
            self.core.set_class(stream, class)?;
            count += 1;
        }
        Ok(count)
    }

    /// Forgets a stream's class, as set or as the [`ClassResolver`](crate::ClassResolver) answered, which will be asked
    /// again. The class that was set, if any was.
    pub fn forget_class(&self, stream: Stream) -> Option<Class> {
        self.core.screen.classes.forget(stream)
    }

    /// The class of a stream's events that name none: what was set, or what the
    /// [`ClassResolver`](crate::ClassResolver) says, which is asked if it was not yet, or the default class.
    ///
    /// # Errors
    /// [`Panicked`](ErrorKind::Panicked) when the resolver does, [`InvalidInput`](ErrorKind::InvalidInput) when it answers
    /// with a class that the store does not have.
    pub fn class_of(&self, stream: Stream) -> Result<Class> {
        self.core.class_of(stream)
    }

    /// The class of that name.
    pub fn class(&self, name: &str) -> Option<Class> {
        self.core.config.class(name)
    }

    /// An id for an event that has none: larger than all that this store gave before, and in the order of time
    /// (milliseconds since 2020 in the upper 44 bits, a counter below). In a process that was forked from the one that opened
    /// the store, which can append nothing, it is 0.
    pub fn next_id(&self) -> u64 {
        self.core.next_id()
    }

    /// Appends an event. If there is no room, waits up to [`Config::append_timeout`] for some, or does what the event's
    /// class says ([`ClassConfig::on_full`](crate::ClassConfig::on_full)). Whoever waits is served in turn.
    ///
    /// ```
    /// # let store = esker::Store::open(esker::Config::builder().memory("16MiB").build()?)?;
    /// use esker::{Appended, Event};
    ///
    /// let event = Event::new(store.stream("a")?, 1, 0, 0);
    /// assert_eq!(store.append(&event)?, Appended::Stored);
    /// assert_eq!(store.append(&event)?, Appended::Duplicate);
    /// # Ok::<(), esker::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`MemoryPressure`](ErrorKind::MemoryPressure) when there was no room in time, [`TooLarge`](ErrorKind::TooLarge),
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a class that the store does not have,
    /// [`OutsideWindow`](ErrorKind::OutsideWindow) for a timestamp that the class does not take, what the dead letters or
    /// the [`ClassResolver`](crate::ClassResolver) say, [`Closed`](ErrorKind::Closed). Nothing is stored then.
    /// [`NotDurable`](ErrorKind::NotDurable) when the log of [`Durability::Disk`](crate::Durability::Disk) fails: with
    /// [`DiskSync::EveryBatch`](crate::DiskSync::EveryBatch) the event may be stored all the same.
    pub fn append(&self, event: &Event<'_>) -> Result<Appended> {
        self.core.append(event, self.core.config.append_timeout)
    }

    /// Appends an event that has been screened before.
    fn append_unscreened(&self, event: &Event<'_>) -> Result<Appended> {
        let done = self.core.append_unscreened(event, self.core.config.append_timeout)?;
        self.core.acknowledge(done)
    }

    /// Appends an event if there is room for it now.
    ///
    /// # Errors
    /// As for [`append`](Self::append); [`Error::back_pressure`] tells what is short and when to try again.
    pub fn try_append(&self, event: &Event<'_>) -> Result<Appended> {
        self.core.append(event, Duration::ZERO)
    }

    /// Appends an event, waiting up to `timeout` for room.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub fn append_timeout(&self, event: &Event<'_>, timeout: Duration) -> Result<Appended> {
        self.core.append(event, timeout)
    }

    /// Appends events: the fast way in. Events of one stream stay in their order.
    ///
    /// Each event has an outcome of its own: one that is refused does not keep the others out, except that, once one
    /// finds no room in [`Config::append_timeout`], the events not yet tried are refused with it.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed). Everything else is in the [`Batch`]: if the store is closed in the middle, or its log
    /// breaks, the events that it does not have are refused with that error. With
    /// [`DiskSync::EveryBatch`](crate::DiskSync::EveryBatch), when the disk does not keep what was stored, those events are
    /// told to be [`NotDurable`](ErrorKind::NotDurable), and are in memory all the same.
    pub fn append_batch(&self, events: &[Event<'_>]) -> Result<Batch> {
        self.core.append_batch(events)
    }

    /// Waits until what was appended and removed before survives what the store's mode promises. With
    /// [`Durability::Disk`](crate::Durability::Disk) that is the loss of power, and many who wait share one turn of the
    /// disk; the other modes keep their promises by themselves, so it returns at once.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join("esker-doc-sync");
    /// # let config = esker::Config::builder().memory("16MiB").data_dir(&dir);
    /// use std::time::Duration;
    ///
    /// use esker::{DiskSync, Durability, Event, Store};
    ///
    /// let mode = Durability::Disk(DiskSync::Interval(Duration::from_millis(100)));
    /// let store = Store::open(config.durability(mode).build()?)?;
    /// store.append(&Event::new(store.stream("a")?, store.next_id(), 0, 0))?;
    /// store.sync()?;
    /// # store.close(Duration::from_secs(10))?;
    /// # Ok::<(), esker::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`NotDurable`](ErrorKind::NotDurable) when the disk fails, or has not answered in ten seconds (or
    /// [`Config::append_timeout`], if that is longer); [`Closed`](ErrorKind::Closed).
    pub fn sync(&self) -> Result<()> {
        self.core.sync()
    }

    /// A guard for reading from memory. What it reads stays where it is until the guard is dropped, so pages that
    /// have been moved since are not reused before: hold it for a query, not for a lifetime.
    pub fn pin(&self) -> Guard<'_> {
        Guard::new(&self.core)
    }

    /// The event of that id, from memory or from the cold tier.
    ///
    /// Events that have expired or were removed do not count, whatever still lies of them in the tier. An id may be used again
    /// after that, or once its event has left memory. Should several events of one id exist, the one in memory is given, then, of
    /// a class and stream, the one appended last; which of several classes or streams is not said. When that one expires or is
    /// removed, another one that still exists is given.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout) after [`Config::fetch_timeout`]; [`Corrupt`](ErrorKind::Corrupt) when what may
    /// hold the event cannot be read; [`Cold`](ErrorKind::Cold) when the tier fails; [`Closed`](ErrorKind::Closed).
    pub fn fetch(&self, id: u64) -> Result<Option<EventRef<'static>>> {
        self.core.fetch(id, Deadline::after(self.core.config.fetch_timeout))
    }

    /// A stream's events from all tiers, newest first.
    pub fn fetch_history(&self, stream: Stream) -> FetchHistory<'_> {
        FetchHistory::new(&self.core, stream)
    }

    /// All events of a time range (milliseconds since the epoch), from all tiers.
    pub fn fetch_scan(&self, range: impl std::ops::RangeBounds<i64>) -> FetchScan<'_> {
        FetchScan::new(&self.core, &range)
    }

    /// Removes an event, wherever it is. `false`: there is none of that id.
    ///
    /// If the id was used again after its event had left memory, there may be two events of it, which ids should not
    /// allow; the one in memory is removed then, and the next call removes the other.
    ///
    /// An event in memory is removed at once. One that the cold tier has is noted there as removed, which is I/O. One that has
    /// expired but is still stored counts as being there, so that it stays gone although the clock is set back; in the cold
    /// tier an event that exists is removed before such a one.
    ///
    /// # Errors
    /// What the cold tier says; [`MemoryPressure`](ErrorKind::MemoryPressure) when as many removed events of its blocks are noted as
    /// a sixteenth of [`Config::buffers`] has room for, at 48 bytes each, or when no more can be noted of those in memory
    /// ([`Durability::Process`](crate::Durability::Process)); [`Closed`](ErrorKind::Closed). The event is as it was then, except
    /// that one which was just being written to a tier that fails may have left memory already: call again.
    pub fn remove(&self, id: u64) -> Result<bool> {
        self.core.remove(id)
    }

    /// How short of memory the store is. One load from memory: ask before every event, if that serves.
    ///
    /// The level rises at once when a page is taken, and falls a few milliseconds after pages were freed.
    #[inline]
    pub fn pressure(&self) -> Pressure {
        self.core.pressure()
    }

    /// Tells a source when to pause and when to resume, from a thread that the store starts for it, until what this
    /// gives is dropped or the store is closed. If the pressure is at the level to pause at already, it is told so.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed), and [`Io`](ErrorKind::Io) when the system gives no thread.
    pub fn listen(&self, flow: Hysteresis, listener: impl PressureListener) -> Result<Listening> {
        self.core.check_open()?;
        self.workers.listen(flow, listener)
    }

    /// A bounded queue between threads that have events and one that appends them: it holds `events` events at most, and
    /// `bytes` of metadata and payload, which come on top of the store's memory.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when it could hold nothing.
    pub fn hand_over(&self, events: usize, bytes: usize) -> Result<HandOver> {
        HandOver::new(self.clone(), events, bytes)
    }

    /// One snapshot of all figures. It looks at every page, so take it once a second rather than once an event.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Where a stream is at home: the node of its partition. With
    /// [`PagePlacement::Home`](crate::PagePlacement::Home) its events lie there; otherwise they lie where they are
    /// appended, so append them there, too ([`router`](Self::router)). On a machine with one node it is that one.
    pub fn home_of(&self, stream: Stream) -> Home<'_> {
        self.core.home_of(stream)
    }

    /// Divides all streams among so many workers (at least one), each near to the memory of its streams.
    ///
    /// ```
    /// # let store = esker::Store::open(esker::Config::builder().memory("16MiB").build()?)?;
    /// let router = store.router(2);
    /// let worker = router.worker_of(store.stream("customer-42")?);
    /// std::thread::scope(|scope| {
    ///     for number in 0..router.workers() {
    ///         let affinity = router.affinity_of(number);
    ///         scope.spawn(move || {
    ///             affinity.pin(0);
    ///             // … takes what was sent to worker `number`, and works on it.
    ///         });
    ///     }
    /// });
    /// # assert!(worker < 2);
    /// # Ok::<(), esker::Error>(())
    /// ```
    pub fn router(&self, workers: usize) -> Router {
        self.core.router(workers)
    }

    /// Asks the system on which pages and on which nodes the regions really lie. It looks at every page: for once a
    /// minute rather than once a second.
    pub fn placement(&self) -> Placement {
        self.core.placement()
    }

    /// Does what the store's threads would do: moves pages by age and pressure, spills, deletes what has expired.
    /// For stores with [`background(false)`](crate::ConfigBuilder::background), and harmless for others. Returns
    /// when there is nothing left to do for now.
    ///
    /// # Errors
    /// What the cold tier says; [`Closed`](ErrorKind::Closed).
    pub fn maintain(&self) -> Result<()> {
        self.core.life.check()?;
        self.core.maintain()?;
        self.core.defrag_all();
        Ok(())
    }

    /// Lets a region take more or less memory while the store runs; the sum of all stays within [`Config::memory`].
    ///
    /// A region that is to become smaller is emptied down to the thresholds of its new size, as under pressure; pages in
    /// its upper part are moved down; and what is above is given back to the system. This waits for it up to `limit`, and
    /// the report tells how far it came: readers that are held, or a cold tier that is away, may keep pages where they
    /// are. The index gives up only what it does not use.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use esker::RegionKind;
    ///
    /// # let store = esker::Store::open(esker::Config::builder().memory("32MiB").build()?)?;
    /// let report = store.resize_region(RegionKind::Hot, "8MiB", Duration::from_secs(10))?;
    /// assert!(report.is_complete());
    /// store.resize_region(RegionKind::Warm, "14MiB", Duration::from_secs(10))?;
    /// # Ok::<(), esker::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for the system region, and for a size that is too small for the store's
    /// lanes, above the region's ceiling, or more than the others leave: the text says what to make smaller first.
    /// [`Closed`](ErrorKind::Closed).
    pub fn resize_region(
        &self,
        region: RegionKind,
        bytes: impl crate::config::IntoByteSize,
        limit: Duration,
    ) -> Result<Resized> {
        let size = bytes.into_byte_size();
        let size = size.map_err(|problem| Error::new(ErrorKind::InvalidInput, problem))?;
        self.core.resize(region, size.as_u64(), self.core.lanes.clock.patience(limit))
    }

    /// Writes everything to the cold tier that is not there yet. Nothing leaves memory by it.
    ///
    /// # Errors
    /// What the cold tier says, and [`Timeout`](ErrorKind::Timeout); what is written until then stays written.
    pub fn flush(&self, deadline: Duration) -> Result<()> {
        self.core.flush(Deadline::after(deadline))
    }

    /// Closes the store for all its clones: refuses new events, stops the threads, writes to the cold tier what only
    /// memory has, until `deadline`. Later calls fail with [`Closed`](ErrorKind::Closed); guards that are held stay
    /// good. With [`Durability::Process`](crate::Durability::Process) the files stay locked until the last clone is dropped.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) when it is closed already. That the tier failed is told by
    /// [`CloseReport::left`].
    pub fn close(&self, deadline: Duration) -> Result<CloseReport> {
        if !self.core.begin_close() {
            return Err(self.core.life.error());
        }
        Ok(self.workers.close(Deadline::after(deadline)))
    }

    /// Stops without writing anything: what only memory has is lost, as in a crash. For tests of what survives one.
    pub fn abandon(self) {
        if self.core.begin_close() && self.workers.stop(Deadline::after(ABANDON_LIMIT)) {
            self.core.let_cold_go();
        }
    }

    /// Walks all pages, indexes and lists and checks every invariant that can be checked from within. Appends and the
    /// store's threads wait meanwhile; it is for tests and for support.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) with everything that does not hold.
    pub fn validate(&self) -> Result<()> {
        let faults = self.core.validate();
        if faults.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, format!("{} fault(s): {}", faults.len(), faults.join("; "))))
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("data_dir", &self.core.config.data_dir).finish_non_exhaustive()
    }
}
