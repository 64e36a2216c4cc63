//! What all handles of a store share, and the work behind its methods.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use parking_lot::{Condvar, Mutex};

use crate::clock::Deadline;
use crate::config::{Config, OnLeave};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventRef;
use crate::eviction::engine::{Engine, EvictionShared};
use crate::eviction::millis;
use crate::ids::{Class, LaneId, LogicalPage};
use crate::index::names::Names;
use crate::lanes::append::Lanes;
use crate::lanes::partition::{Lane, Partition};
use crate::log::logger::Log;
use crate::observe::recovered::Recovered;
use crate::pages::readers::GuardPin;
use crate::pages::table::{Stamps, Tier};
use crate::pressure::{Pressure, RegionKind};
use crate::regions::region::Region;
use crate::store::CloseReport;
use crate::store::admission::Admission;
use crate::store::guard::Guard;
use crate::store::life::Life;
use crate::store::listeners::Listeners;
use crate::store::recover::run_all;
use crate::store::remove::REMOVERS;
use crate::store::resize::Sizes;
use crate::store::screen::Screen;
use crate::store::shared::Shared;
use crate::store::tidy::Tidy;
use crate::store::watch::Watch;
use crate::sys::machine::Machine;
use crate::sys::memory::Slab;
use crate::tiers::entry::BlockInfo;
use crate::tiers::reader::ColdReader;
use crate::tiers::spiller::Spiller;

/// Milliseconds from 1970 to 2020.
const ID_EPOCH_MS: i64 = 1_577_836_800_000;
const ID_COUNTER_BITS: u32 = 20;

/// How long a turn of the log may take before blocks that it should know of are deleted all the same.
const LOG_TURN: Duration = Duration::from_secs(10);

pub(crate) struct Core {
    pub(crate) sizes: Sizes,
    /// Whether the policy wants to know when pages are read.
    notes_reads: bool,
    /// Whether it is counted from which node events are read.
    counts_reads: bool,
    /// Whether it is counted in which tier reads find their events.
    counts_tiers: bool,
    /// Reads that found their event in the cold tier, if that is counted.
    cold_reads: AtomicU64,
    pub(crate) config: Config,
    pub(crate) machine: Arc<Machine>,
    pub(crate) system: Region,
    pub(crate) lanes: Lanes,
    pub(crate) names: Names,
    pub(crate) screen: Screen,
    pub(crate) cold: Option<ColdReader>,
    pub(crate) engine: Mutex<Engine>,
    pub(crate) shared: EvictionShared,
    pub(crate) tidy: Mutex<Tidy>,
    pub(crate) spiller: Spiller,
    pub(crate) life: Life,
    /// What makes what was appended survive the loss of power, if anything does.
    pub(crate) log: Option<Log>,
    /// Rung when the log's thread is to look up.
    pub(crate) log_bell: Bell,
    last_id: CachePadded<AtomicU64>,
    /// Where pages outlive the process, what does so beside them.
    pub(crate) kept: Option<Kept>,
    pub(crate) removed: AtomicU64,
    /// How often a thread of the store's own panicked and was begun anew.
    pub(crate) thread_panics: AtomicU64,
    pub(crate) expired_blocks: AtomicU64,
    /// Whoever holds an id's lock is the one who removes it; held while the cold tier is told. See [`Self::remove`].
    pub(crate) removing: [Mutex<()>; REMOVERS],
    pub(crate) admission: Admission,
    pub(crate) listeners: Listeners,
    pub(crate) watch: Watch,
    /// Rung when room was made.
    pub(crate) room: Bell,
    /// The same for async code.
    #[cfg(feature = "async")]
    pub(crate) room_async: tokio::sync::Notify,
    /// Rung when the mover has something to do.
    pub(crate) mover_bell: Bell,
    /// Rung when the spillers have something to do; each has its own, so that none hears what was meant for another.
    pub(crate) spiller_bells: Vec<Bell>,
    /// Rung when the thread that keeps the cold tier is to look up.
    pub(crate) keeper_bell: Bell,
    /// Whether that thread has nothing to do until something is put into the cold tier.
    pub(crate) keeper_rests: AtomicBool,
    #[cfg(test)]
    pub(crate) hooks: crate::store::tests::Hooks,
}

/// When the mover has something to do again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    Again,
    Soon,
    Later,
}

/// What a store whose pages outlive the process keeps beside them.
pub(crate) struct Kept {
    pub(crate) recovered: Option<Recovered>,
    /// Takes the place of [`Core::last_id`].
    pub(crate) last_id: Slab<AtomicU64>,
    /// Also what keeps other stores out, for as long as any handle of this one can look at its pages.
    pub(crate) shared: Shared,
}

/// Wakes whoever waits, and whoever comes to wait next.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    condvar: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *self.rung.lock() = true;
        self.condvar.notify_all();
    }

    /// Waits until the bell rings, or `limit` has passed.
    pub(crate) fn wait(&self, limit: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.condvar.wait_for(&mut rung, limit);
        }
        *rung = false;
    }
}

impl Core {
    #[expect(clippy::too_many_arguments, reason = "the parts of a store")]
    pub(crate) fn new(
        life: Life,
        kept: Option<Kept>,
        log: Option<Log>,
        config: Config,
        machine: Arc<Machine>,
        system: Region,
        lanes: Lanes,
        names: Names,
        screen: Screen,
        cold: Option<ColdReader>,
        engine: Engine,
        shared: EvictionShared,
        spiller: Spiller,
        admission: Admission,
    ) -> Self {
        let notes_reads = engine.wants_reads();
        let counts_reads = config.numa.count_reads && lanes.pages.hot.spot_of(0).is_some();
        let counts_tiers = config.adaptive_sizing.is_some();
        if notes_reads || counts_reads || counts_tiers {
            lanes.note_reads();
        }
        let sizes = Sizes::new(&config, lanes.pages.hot.pages_max());
        let now = lanes.clock.instant();
        let spiller_bells = (0..spiller.count()).map(|_| Bell::default()).collect();
        Self {
            sizes,
            notes_reads,
            counts_reads,
            counts_tiers,
            cold_reads: AtomicU64::new(0),
            config,
            machine,
            system,
            lanes,
            names,
            screen,
            cold,
            engine: Mutex::new(engine),
            shared,
            tidy: Mutex::new(Tidy::new(now)),
            spiller,
            life,
            log,
            log_bell: Bell::default(),
            last_id: CachePadded::default(),
            kept,
            removed: AtomicU64::new(0),
            thread_panics: AtomicU64::new(0),
            expired_blocks: AtomicU64::new(0),
            removing: [const { Mutex::new(()) }; REMOVERS],
            admission,
            listeners: Listeners::default(),
            watch: Watch::new(now),
            room: Bell::default(),
            #[cfg(feature = "async")]
            room_async: tokio::sync::Notify::new(),
            mover_bell: Bell::default(),
            spiller_bells,
            keeper_bell: Bell::default(),
            keeper_rests: AtomicBool::new(false),
            #[cfg(test)]
            hooks: crate::store::tests::Hooks::default(),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        !self.life.is_open()
    }

    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        self.life.check()
    }

    pub(crate) fn next_id(&self) -> u64 {
        // The last id of a store that keeps its pages is not in a forked process's memory.
        if self.life.is_forked() {
            return 0;
        }
        let now = (self.lanes.clock.now_ms().saturating_sub(ID_EPOCH_MS)).max(0) as u64;
        let floor = now << ID_COUNTER_BITS;
        let next = |last: u64| Some(last.wrapping_add(1).max(floor));
        // The closure always gives a value, so the update cannot fail.
        let last = self.last_id().fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        last.map_or(floor, |last| last.wrapping_add(1).max(floor))
    }

    /// The last id that the store gave.
    pub(crate) fn last_id(&self) -> &AtomicU64 {
        self.kept.as_ref().map_or(&*self.last_id, |kept| &kept.last_id[0])
    }

    pub(crate) fn region(&self, kind: RegionKind) -> &Region {
        match kind {
            RegionKind::System => &self.system,
            RegionKind::Hot => &self.lanes.pages.hot,
            RegionKind::Warm => &self.lanes.pages.warm,
            RegionKind::Index => &self.lanes.index_region,
        }
    }

    pub(crate) fn pressure(&self) -> Pressure {
        self.lanes.gauge.level()
    }

    /// Waits until room is made, or `limit` has passed.
    pub(crate) fn wait_for_room(&self, limit: Duration) {
        self.room.wait(limit);
    }

    // ---- reading ----

    /// The timestamp at and below which events of a class have ceased to exist.
    pub(crate) fn horizon(&self, class: Class, now_ms: i64) -> i64 {
        let retention = self.config.classes.get(class.index()).and_then(|class| class.retention);
        retention.map_or(i64::MIN, |age| now_ms.saturating_sub(millis(age)))
    }

    /// Notes that a read has met a page, if the policy wants to know.
    #[inline]
    pub(crate) fn note_read(&self, guard: &GuardPin, page: LogicalPage, now_ms: i64) {
        if self.counts_tiers {
            guard.note_read(usize::from(self.lanes.pages.place(page).tier() != Tier::Hot));
        }
        if self.notes_reads {
            self.lanes.pages.touch(page, Stamps::second(now_ms));
        }
        if self.counts_reads {
            self.lanes.pages.note_reader(page);
        }
    }

    /// Notes that a read has found nothing in memory. With a cold tier that says little: see [`Self::note_cold`].
    #[inline]
    pub(crate) fn note_miss(&self, guard: &GuardPin) {
        if self.counts_tiers && self.cold.is_none() {
            guard.note_read(2);
        }
    }

    /// Notes reads that found their events in the cold tier.
    pub(crate) fn note_cold(&self, events: u64) {
        if self.counts_tiers {
            self.cold_reads.fetch_add(events, Ordering::Relaxed);
        }
    }

    /// Reads since the store opened, if they are counted: of hot and of warm events, and of such as memory does not have.
    pub(crate) fn reads_by_tier(&self) -> [u64; 3] {
        let [hot, warm, missed] = self.lanes.readers.reads();
        [hot, warm, missed.wrapping_add(self.cold_reads.load(Ordering::Relaxed))]
    }

    /// Whether retention still keeps events of that class and time.
    pub(crate) fn retains(&self, class: Class, timestamp: i64, now_ms: i64) -> bool {
        let horizon = self.horizon(class, now_ms);
        horizon == i64::MIN || timestamp > horizon
    }

    /// Whether an event exists at that moment: retention keeps it, and it has not expired by itself.
    #[inline]
    pub(crate) fn is_kept(&self, event: &EventRef<'_>, now_ms: i64) -> bool {
        !event.has_expired(now_ms) && self.retains(event.class(), event.timestamp(), now_ms)
    }

    /// Whether an event is what was appended, as far as events are summed up. Counts those that are not.
    pub(crate) fn is_whole(&self, event: &EventRef<'_>) -> bool {
        if !self.lanes.sums || event.is_whole() {
            return true;
        }
        self.lanes.pages.count_corrupt_event();
        false
    }

    pub(crate) fn fetch(&self, id: u64, deadline: Deadline) -> Result<Option<EventRef<'static>>> {
        self.check_open()?;
        let now_ms = self.lanes.clock.now_ms();
        // Corrupt in memory does not mean corrupt in the cold tier, which may have it already.
        let memory = Guard::new(self).try_get(id).map(|found| found.map(EventRef::into_owned));
        if let Ok(Some(event)) = memory {
            return Ok(Some(event));
        }
        let Some(cold) = &self.cold else { return memory };
        match cold.find(id, deadline, |event| self.is_kept(event, now_ms))? {
            Some(found) if found.is_kept => {
                self.note_cold(1);
                Ok(Some(found.block.event(&found.row)))
            }
            _ => memory,
        }
    }

    // ---- moving ----

    /// Everything that the threads do, until nothing is left to do.
    pub(crate) fn maintain(&self) -> Result<()> {
        self.check_open()?;
        // A policy may have pages go up and down for as long as it is asked: then it has been asked often enough.
        let (mut moved, most) = (0, 64 + 8 * self.lanes.pages.numbers_used());
        loop {
            let progress = self.engine.lock().step(&self.config, &self.lanes, &self.shared);
            let spilled = self.spill(false)?;
            self.expire_cold()?;
            self.keep_cold()?;
            self.look_round();
            self.turn_log();
            // One whose pages go up and what makes room takes down again moves none in the end, and each slice may be used up.
            moved += progress.pages.max(1);
            if (progress.pages == 0 && !progress.more || moved > most) && spilled == 0 {
                self.tidy();
                self.adapt_alone();
                self.ring_room();
                return Ok(());
            }
        }
    }

    /// One slice of the mover. When to come back.
    pub(crate) fn move_once(&self) -> Turn {
        // A tier that does not answer takes no blocks either: what waits for it is squeezed. The next block that it takes
        // says that it does again.
        if self.spiller.hangs(self.lanes.clock.instant(), self.config.stall_after).is_some() {
            self.shared.set_spills(0);
        }
        let progress = self.engine.lock().step(&self.config, &self.lanes, &self.shared);
        if self.look_round() || progress.pages > 0 {
            self.ring_room();
        }
        if progress.pages > 0 {
            self.ring_spillers();
        }
        if progress.waits_for_spill {
            self.ring_spillers();
        }
        match progress.more {
            true if progress.pages > 0 => Turn::Again,
            // What goes up and down for ever must not take a whole processor.
            true => Turn::Soon,
            // Where nothing can move, looking again changes nothing; the spiller will ring.
            false if progress.pressed && progress.pages > 0 => Turn::Soon,
            false => Turn::Later,
        }
    }

    /// Has the spillers look up.
    pub(crate) fn ring_spillers(&self) {
        self.spiller_bells.iter().for_each(Bell::ring);
    }

    /// Writes one batch of each spiller to the cold tier. How many pages became clean.
    pub(crate) fn spill(&self, drain: bool) -> Result<u64> {
        let (mut pages, mut failure) = (0, None);
        for spiller in 0..self.spiller.count() {
            match self.spill_of(spiller, drain) {
                Ok(more) => pages += more,
                Err(error) => failure = Some(error),
            }
        }
        // What fails for some is tried again behind what goes on for others.
        failure.filter(|_| pages == 0).map_or(Ok(pages), Err)
    }

    /// Writes one batch of a spiller's lanes. How many pages became clean.
    pub(crate) fn spill_of(&self, spiller: usize, drain: bool) -> Result<u64> {
        let Some(cold) = &self.cold else { return Ok(0) };
        let outcome =
            self.spiller.step(&self.config, &self.lanes, &self.shared, cold, &self.names, spiller, drain);
        if !matches!(outcome, Ok(0)) && self.keeper_rests.swap(false, Ordering::AcqRel) {
            self.keeper_bell.ring();
        }
        outcome
    }

    /// Lets the tier do what it does unasked, and learns what other stores have put there.
    pub(crate) fn keep_cold(&self) -> Result<()> {
        let Some(cold) = &self.cold else { return Ok(()) };
        cold.tier.maintain()?;
        if cold.learn_late(&self.names)? {
            self.spiller.expect_late(&self.lanes, cold);
        }
        cold.learn_news()
    }

    /// Deletes blocks of which every event has expired.
    pub(crate) fn expire_cold(&self) -> Result<()> {
        let Some(cold) = &self.cold else { return Ok(()) };
        let now_ms = self.lanes.clock.now_ms();
        for lane in cold.directory.lane_ids() {
            let horizon = self.horizon(lane.class(), now_ms);
            if horizon == i64::MIN {
                continue;
            }
            let is_old = |info: &BlockInfo| info.newest_ms <= horizon;
            // Whatever comes of it: a log without room must not keep from being deleted what makes some.
            if !cold.directory.blocks(lane, u64::MAX, is_old).is_empty() {
                self.log_what_left(Deadline::after(LOG_TURN));
            }
            let expired = cold.expire(lane, is_old)?;
            self.expired_blocks.fetch_add(expired, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(crate) fn flush(&self, deadline: Deadline) -> Result<()> {
        self.check_open()?;
        self.drain(deadline)?;
        self.log_what_left(deadline);
        Ok(())
    }

    /// Has the log know what the cold tier has confirmed. After a loss of power it goes by that: of blocks behind a page that it
    /// has and the tier has not, it could not tell that they were confirmed. A log that fails says so to whoever appends.
    fn log_what_left(&self, deadline: Deadline) {
        let _ = self.sync_log(deadline);
    }

    /// Writes what is in memory now. What comes meanwhile is not waited for.
    fn drain(&self, deadline: Deadline) -> Result<()> {
        let Some(cold) = &self.cold else { return Ok(()) };
        let ends = self.seal_all();
        // What has left memory without being written had expired.
        let behind = || ends.iter().any(|(lane, end)| lane.clean_seq().max(lane.tail_seq()) < *end);
        while behind() {
            let written = self.spill(true)?;
            if deadline.has_passed() && behind() {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    "the deadline passed before everything was written",
                ));
            }
            if written == 0 {
                // Pages are on their way out just now.
                std::thread::yield_now();
            }
        }
        cold.save_names(&self.names)
    }

    /// Closes all open pages of classes that are spilled. Gives the lanes, and where each of them ended.
    fn seal_all(&self) -> Vec<(&Lane, u64)> {
        let pin = self.lanes.pin();
        let mut ends = Vec::new();
        for partition in &self.lanes.partitions {
            for lane in partition.lanes() {
                let class = lane.id.class();
                if self.config.classes[class.index()].on_leave == OnLeave::Spill {
                    partition.seal(class);
                    let newest = lane.pages_back(&self.lanes.pages, &pin).next();
                    ends.extend(newest.map(|(_, meta)| (lane, meta.seq() + 1)));
                }
            }
        }
        ends
    }

    /// Refuses appends from now on. `false`: somebody else has closed the store.
    pub(crate) fn begin_close(&self) -> bool {
        if !self.life.close() {
            return false;
        }
        // Appends look at the flag under their partition's lock: after this, none is under way.
        for partition in &self.lanes.partitions {
            drop(partition.lock());
        }
        self.ring_room();
        true
    }

    /// Writes what only memory has. The threads have stopped.
    pub(crate) fn finish_close(&self, deadline: Deadline) -> CloseReport {
        self.end_adapting();
        let before = self.spiller.counters.events.load(Ordering::Relaxed);
        // A failure shows in what is left.
        let mut tries = 0;
        while let Err(error) = self.drain(deadline) {
            tries += 1;
            if error.kind() == ErrorKind::Timeout || deadline.has_passed() || tries == 20 {
                break;
            }
            self.room.wait(deadline.left(Duration::from_millis(50) * tries));
        }
        if let Some(cold) = &self.cold {
            self.spiller.delete_all_left(&self.lanes, cold, deadline);
        }
        let _ = self.sync_log(deadline);
        self.let_cold_go();
        let report = self.close_report(self.spiller.counters.events.load(Ordering::Relaxed) - before);
        if let Some(kept) = &self.kept {
            let image = if kept.shared.can_be_attached() { self.image(deadline) } else { None };
            // If this cannot be noted, the next opening takes it that the process ended some other way, which is as well.
            let settled = self.cold.is_some() && report.left == 0;
            let _ = kept.shared.closed(settled, image.as_deref());
            self.close_log(settled);
        }
        report
    }

    /// What the next opening needs beside the files so as to go on with them as they are. `None`: somebody is removing an
    /// event, and waits for the cold tier.
    fn image(&self, deadline: Deadline) -> Option<Vec<u64>> {
        // Whoever was let in before the store was closed has done what he does. If he comes only now, he changes the files,
        // and they do not sum up to what they did.
        let wait = || deadline.left(Duration::from_secs(1)).max(Duration::from_millis(1));
        let removing: Option<Vec<_>> = self.removing.iter().map(|turn| turn.try_lock_for(wait())).collect();
        let _removing = removing?;
        let _engine = self.engine.lock();
        let writers: Vec<_> = self.lanes.partitions.iter().map(Partition::lock).collect();
        Some(self.lanes.image(&self.config, &writers, &run_all).words())
    }

    /// What is where at the end, after a close that wrote so many events.
    pub(crate) fn close_report(&self, spilled: u64) -> CloseReport {
        CloseReport {
            spilled,
            left: self.not_clean(),
            cold: self.cold.as_ref().map_or(0, |cold| cold.directory.totals.events.load(Ordering::Relaxed)),
        }
    }

    /// Lets the cold tier's file go, so that the next store can open it although handles of this one are left.
    pub(crate) fn let_cold_go(&self) {
        if let Some(cold) = &self.cold {
            cold.tier.close();
        }
    }

    /// Live events that the cold tier has not confirmed.
    fn not_clean(&self) -> u64 {
        let pin = self.lanes.pin();
        let unclean = |lane: &Lane| {
            let clean = lane.clean_seq();
            let pages = lane.pages(&self.lanes.pages, &pin).filter(|(_, meta)| meta.seq() >= clean);
            pages.map(|(_, meta)| u64::from(meta.count().saturating_sub(meta.dead()))).sum::<u64>()
        };
        self.lanes.lanes().map(unclean).sum()
    }

    /// The lanes that a stream's events can be in, all classes or one.
    pub(crate) fn lanes_of(&self, stream: crate::ids::Stream, class: Option<Class>) -> Vec<LaneId> {
        let partition = self.lanes.partition_of(stream);
        (0..self.config.classes.len())
            .map(Class::new)
            .filter(|of| class.is_none_or(|class| class == *of))
            .map(|class| LaneId::new(partition, class))
            .collect()
    }
}
