//! What of a store survives what, and where it is kept for that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

use crate::config::{Config, ConfigBuilder};

/// What survives the end of the process. See `docs/reliability.md` for the whole table.
///
/// ```
/// use esker::{Config, Durability};
///
/// # let dir = std::env::temp_dir().join("esker-doc-durability");
/// let config = Config::builder().durability(Durability::Process).shared_dir(&dir).build()?;
/// assert_eq!(config.durability, Durability::Process);
/// # Ok::<(), esker::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Pages are the process's own memory: when it ends without closing the store, what the cold tier has confirmed
    /// survives.
    #[default]
    Memory,
    /// Pages are in files that are mapped into the process, by default in the machine's shared memory: everything
    /// acknowledged survives the end of the process, also by `kill -9`, and the next opening finds it. It does not
    /// survive the end of the machine (of its operating system, if the files are on a disk).
    Process,
    /// As [`Process`](Self::Process), and what comes is also written to a log in the data directory: what was
    /// acknowledged survives loss of power, up to an interval or entirely. It needs a `data_dir` on a disk that keeps
    /// what it was told to keep.
    Disk(DiskSync),
}

impl Durability {
    /// Whether pages outlive the process.
    pub(crate) fn keeps_pages(self) -> bool {
        self != Self::Memory
    }

    /// How the log is kept, if there is one.
    pub(crate) fn disk(self) -> Option<DiskSync> {
        match self {
            Self::Disk(sync) => Some(sync),
            _ => None,
        }
    }
}

/// When the log of [`Durability::Disk`] is on the disk.
///
/// ```
/// use std::time::Duration;
///
/// use esker::{Config, DiskSync, Durability};
///
/// # let dir = std::env::temp_dir().join("esker-doc-disk");
/// let config = Config::builder()
///     .data_dir(&dir)
///     .durability(Durability::Disk(DiskSync::Interval(Duration::from_millis(10))))
///     .build()?;
/// # Ok::<(), esker::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum DiskSync {
    /// Appends do not wait. What was acknowledged is on the disk so much later (from 1 ms to a minute), and as much
    /// longer as the disk takes for it. Where the disk falls a second behind that, appends wait for it.
    Interval(Duration),
    /// `append` and `append_batch` return when what they appended is on the disk; `remove`, when the removal is. Whoever
    /// comes while the disk is busy shares the next turn with all others that came meanwhile.
    EveryBatch,
}

impl DiskSync {
    /// How long the log's thread rests between two turns.
    pub(crate) fn rest(self) -> Duration {
        match self {
            Self::Interval(interval) => interval,
            // Appends take their turns themselves; this one tidies up behind them.
            Self::EveryBatch => Duration::from_millis(100),
        }
    }
}

/// What an interval of [`DiskSync::Interval`] is from and to.
const INTERVAL: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(60)];

/// Where shared memory is a file system.
const SHARED_MEMORY: &str = "/dev/shm";

impl ConfigBuilder {
    /// What survives the end of the process (default: [`Durability::Memory`]).
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Where [`Durability::Process`] and [`Durability::Disk`] keep their pages: a directory of this store alone, made if it is not there. By
    /// default one in `/dev/shm` that is named after the data directory, or `shared` in the data directory on systems
    /// without. There must be room for `memory`, and it counts as the process's memory where the files are in shared
    /// memory.
    pub fn shared_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.shared_dir = Some(dir.as_ref().to_path_buf());
        self
    }

    pub(super) fn check_durability(&mut self) {
        // A path of no name is the current directory, which is hardly ever meant: a setting was empty.
        let is_empty = |dir: &Option<PathBuf>| dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty());
        let empty = [("data_dir", is_empty(&self.data_dir)), ("shared_dir", is_empty(&self.shared_dir))];
        if let Some((field, _)) = empty.into_iter().find(|(_, is_empty)| *is_empty) {
            return self.fault(field, "is empty; \".\" is the current directory");
        }
        if let Durability::Disk(sync) = self.durability {
            if self.data_dir.is_none() {
                self.fault("data_dir", "Durability::Disk writes a log; say in which data_dir");
            }
            if let DiskSync::Interval(interval) = sync
                && !(INTERVAL[0]..=INTERVAL[1]).contains(&interval)
            {
                self.fault(
                    "durability",
                    format!("an interval is from 1 ms to 60 s; this one is {interval:?}"),
                );
            }
        }
        if self.durability == Durability::Process && self.shared_dir.is_none() && self.data_dir.is_none() {
            self.fault(
                "shared_dir",
                "Durability::Process without a data_dir has nothing to name its files after; say where they are to be",
            );
        }
    }
}

impl Config {
    /// Where the log of [`Durability::Disk`] is, or would be.
    pub(crate) fn log_dir(&self) -> Option<PathBuf> {
        self.data_dir.as_ref().map(|data| data.join("log"))
    }

    /// Where the files of [`Durability::Process`] are, or would be.
    pub(crate) fn shared_dir(&self) -> Option<PathBuf> {
        if self.shared_dir.is_some() {
            return self.shared_dir.clone();
        }
        let data = self.data_dir.as_ref()?;
        let shared = Path::new(SHARED_MEMORY);
        if !shared.is_dir() {
            return Some(data.join("shared"));
        }
        // The data directory may not be there yet, and then has no other name than this one.
        let whole = data.canonicalize().or_else(|_| std::path::absolute(data)).ok()?;
        let hash = rapidhash_v3_seeded(whole.as_os_str().as_encoded_bytes(), &RapidSecrets::seed(0));
        Some(shared.join(format!("esker-{hash:016x}")))
    }
}
