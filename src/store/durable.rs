//! The log of a store with [`Durability::Disk`](crate::Durability::Disk): opening it, waiting for it, and keeping appends
//! out while it is not well.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::Deadline;
use crate::config::{Config, DiskSync};
use crate::error::{Error, ErrorKind, Result};
use crate::lanes::append::{Appended, Lanes};
use crate::log::logger::{Log, Source};
use crate::log::marks::Marks;
use crate::log::replay::{ColdPages, Replayed, go_on_above, replay};
use crate::log::scan::scan;
use crate::log::segment::{Failure, Identity, LogDir, NAMES, Sizes, Writer, is_in_use};
use crate::log::turn::Turn;
use crate::observe::stats::{LatencyStats, LogStats, histogram};
use crate::pressure::{PressureReason, Stall};
use crate::store::core::Core;
use crate::store::life::{BEHIND, BROKEN};
use crate::store::shared::Taken;
use crate::sys::shared::{Log as NameLog, LogEntries, SharedDir};

/// How far the disk may be behind what [`DiskSync::Interval`] promises before appends wait for it.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// How long the disk may take for a turn, at least, before whoever waits is told that it does not answer.
const SYNC_LIMIT: Duration = Duration::from_secs(10);

/// A log that was taken when the store opened.
pub(crate) struct FoundLog {
    dir: LogDir,
    mode: DiskSync,
    pub(crate) identity: Option<Identity>,
    /// Whether its pages must be put back: those in memory have gone.
    pub(crate) must_replay: bool,
}

impl FoundLog {
    /// Takes the log of the data directory, if the configuration asks for one. `has_pages`: the pages of the run that
    /// wrote it are there.
    ///
    /// # Errors
    /// [`ErrorKind::Incompatible`] when there is one, and it is not asked for, or of a newer version;
    /// [`ErrorKind::AlreadyOpen`], [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub(crate) fn take(config: &Config, has_pages: bool) -> Result<Option<Self>> {
        let Some(path) = config.log_dir() else { return Ok(None) };
        let Some(mode) = config.durability.disk() else {
            if is_in_use(&path)? {
                return Err(Error::new(
                    ErrorKind::Incompatible,
                    format!(
                        "{} holds events that a store with Durability::Disk left there; open it with that once and close \
                         it, or delete the directory if they may be lost",
                        path.display()
                    ),
                ));
            }
            return Ok(None);
        };
        if let Some(data) = path.parent() {
            std::fs::create_dir_all(data)
                .map_err(|error| Error::io(format!("cannot make {}", data.display()), error))?;
        }
        let dir = LogDir::take(&path)?;
        let identity = dir.identity()?;
        Ok(Some(Self { dir, mode, identity, must_replay: !has_pages && identity.is_some() }))
    }

    /// Makes sure that pages are those beside which it was written: the log may have gone on without them, on another machine or
    /// with another `shared_dir`, and knows more then.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn compare(&mut self, taken: &mut Taken) -> Result<()> {
        if let Some(identity) = self.identity {
            self.must_replay |= taken.begin_anew_unless(identity.pages, identity.seed)?;
        }
        Ok(())
    }

    /// What the pages belong to that must be put back.
    pub(crate) fn replayed(&self) -> Option<Identity> {
        self.identity.filter(|_| self.must_replay)
    }

    /// Makes sure that the log is of this store.
    ///
    /// # Errors
    /// [`ErrorKind::Incompatible`].
    pub(crate) fn check(&self, seed: u64, partitions: usize) -> Result<()> {
        match self.identity {
            Some(identity) if (identity.seed, identity.partitions) != (seed, partitions) => Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "the log in {} belongs to another data directory, or was written with {} partitions (this store \
                         has {partitions}); put it back, or delete it if what only it holds may be lost",
                    self.dir.dir.path().display(),
                    identity.partitions,
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The log of names, and what it has. A log that [`Durability::Process`](crate::Durability::Process) left beside the
    /// pages is taken over.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn names(&self, shared: &SharedDir) -> Result<(NameLog, LogEntries)> {
        let (mut log, mut found) = NameLog::open(self.dir.dir.file(NAMES)?)?;
        if shared.has(NAMES) {
            let (_, mut older) = NameLog::open(shared.file(NAMES)?)?;
            older.entries.iter().try_for_each(|entry| log.append(entry))?;
            found.damaged += older.damaged;
            found.entries.append(&mut older.entries);
            shared.delete(NAMES)?;
        }
        Ok((log, found))
    }

    /// What the log has of each page, as it is known beside the pages.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn marks(&self, shared: &SharedDir, config: &Config) -> Result<Marks> {
        let marks = Marks::open(shared, config.logical_pages_ceiling() as usize + 1)?;
        let newest = self.dir.segments.back().copied().unwrap_or(0);
        // A process can end between a segment and the note of it.
        if marks.newest() == 0 || ![newest, newest.saturating_sub(1)].contains(&marks.newest()) {
            marks.clear();
        }
        Ok(marks)
    }

    /// Puts back what was in memory.
    ///
    /// # Errors
    /// As for [`replay`].
    pub(crate) fn replay(
        &self,
        config: &Config,
        lanes: &Lanes,
        marks: &Marks,
        cold: ColdPages<'_>,
    ) -> Result<Replayed> {
        replay(&self.dir, scan(&self.dir)?, config, lanes, marks, cold)
    }

    /// Has lanes go on above every page that the log knows of, which pages that are there do not tell of a lane that has none:
    /// it would take new ones of such numbers for those.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn go_on(&self, lanes: &Lanes) -> Result<()> {
        let scan = scan(&self.dir)?;
        go_on_above(&scan.pages, &scan.tails, lanes);
        Ok(())
    }

    /// Begins to write.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when there is no room for a segment.
    pub(crate) fn begin(
        self,
        config: &Config,
        lanes: &Lanes,
        marks: Marks,
        identity: Identity,
    ) -> Result<Log> {
        let names = self.dir.dir.file(NAMES)?;
        let sizes = Sizes::of(config);
        let writer = Writer::new(self.dir, identity, sizes.segment, self.mode == DiskSync::EveryBatch);
        let generation = lanes.pages.generation_max();
        let mut turn = Turn::new(writer, sizes, marks, names, lanes.lanes().count(), generation);
        turn.begin().map_err(|failure| {
            let (Failure::NoSegment(error) | Failure::Broken(error)) = failure;
            Error::io("there is no room for the log in the data directory", error)
        })?;
        if let Some(removed) = &lanes.pages.removed {
            // Those that an earlier run noted are perhaps not in the log, or in one that was deleted since.
            removed.keep_fresh(|note| lanes.pages.resolve(note).is_some());
        }
        Ok(Log::new(self.mode, turn, histogram()?))
    }
}

impl Core {
    fn source(&self) -> Source<'_> {
        Source { lanes: &self.lanes, names: &self.names, last_id: self.last_id() }
    }

    /// Waits until everything that was appended before is as safe as the store's mode makes it.
    pub(crate) fn sync(&self) -> Result<()> {
        self.check_open()?;
        self.sync_log(self.sync_deadline())
    }

    fn sync_deadline(&self) -> Deadline {
        Deadline::after(self.config.append_timeout.max(SYNC_LIMIT))
    }

    pub(crate) fn sync_log(&self, deadline: Deadline) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let outcome = log.sync(&self.source(), deadline);
        self.look_at_log();
        outcome
    }

    /// What is told to whoever has appended something: once it is on the disk, if appends wait for that.
    pub(crate) fn acknowledge(&self, done: Appended) -> Result<Appended> {
        if matches!(done, Appended::Stored | Appended::Duplicate) {
            self.wait_for_log()?;
        }
        Ok(done)
    }

    /// Waits for the disk, if changes do.
    pub(crate) fn wait_for_log(&self) -> Result<()> {
        match &self.log {
            Some(log) if log.waits() => self.sync_log(self.sync_deadline()),
            _ => Ok(()),
        }
    }

    /// One turn of the log's thread.
    pub(crate) fn turn_log(&self) {
        if let Some(log) = &self.log {
            // It keeps what is wrong, and appends are told.
            log.take_turn(&self.source());
            self.look_at_log();
            if self.config.background {
                log.prepare();
            }
        }
    }

    /// Keeps appends out while the log is not well, and lets them in again.
    pub(crate) fn look_at_log(&self) {
        let Some(log) = &self.log else { return };
        let trouble = log.trouble();
        let late = match log.mode {
            DiskSync::Interval(interval) => self.config.background && log.lag() > interval + BEHIND_MAX,
            DiskSync::EveryBatch => false,
        };
        self.life.keep_out(BROKEN, trouble.as_ref().is_some_and(|trouble| trouble.broken));
        if self.life.keep_out(BEHIND, late || trouble.is_some()) {
            self.ring_room();
        }
    }

    /// Why the gate is shut.
    ///
    /// # Errors
    /// That the store is closed, or the log broken.
    #[cold]
    pub(crate) fn shut(&self) -> Result<PressureReason> {
        self.check_open()?;
        match self.log.as_ref().and_then(Log::trouble).filter(|trouble| trouble.broken) {
            Some(trouble) => Err(trouble.refusal()),
            None => Ok(PressureReason::LogBehind),
        }
    }

    /// Bytes of the log, and why it is behind.
    pub(crate) fn log_pressure(&self) -> Option<(u64, Stall)> {
        let log = self.log.as_ref()?;
        let last_error = log.trouble().map(|trouble| trouble.text);
        Some((log.counters.bytes.load(Ordering::Relaxed), Stall::Log { since: log.lag(), last_error }))
    }

    /// At the end of a store: what is not in the cold tier stays in the log; a log that nobody needs goes.
    pub(crate) fn close_log(&self, settled: bool) {
        let Some(log) = &self.log else { return };
        if settled {
            // What cannot be deleted is found to be in the cold tier by the next opening.
            let _ = log.clear();
        }
    }

    pub(crate) fn log_stats(&self) -> LogStats {
        let Some(log) = &self.log else { return LogStats::default() };
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (counters, trouble) = (&log.counters, log.trouble());
        LogStats {
            bytes: load(&counters.bytes),
            segments: load(&counters.segments),
            live_bytes: load(&counters.live_bytes),
            written_bytes: load(&counters.written_bytes),
            rewritten_bytes: load(&counters.rewritten_bytes),
            turns: load(&counters.turns),
            syncs: load(&counters.syncs),
            since_sync: log.lag(),
            sync: LatencyStats::of(&log.latency.lock()),
            broken: trouble.as_ref().is_some_and(|trouble| trouble.broken),
            last_error: trouble.map(|trouble| trouble.text),
        }
    }
}
