//! What of a store survives what, and where it is kept for that.

use std::path::{Path, PathBuf};

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
}

/// Where shared memory is a file system.
const SHARED_MEMORY: &str = "/dev/shm";

impl ConfigBuilder {
    /// What survives the end of the process (default: [`Durability::Memory`]).
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Where [`Durability::Process`] keeps its files: a directory of this store alone, made if it is not there. By
    /// default one in `/dev/shm` that is named after the data directory, or `shared` in the data directory on systems
    /// without. There must be room for `memory`, and it counts as the process's memory where the files are in shared
    /// memory.
    pub fn shared_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.shared_dir = Some(dir.as_ref().to_path_buf());
        self
    }

    pub(super) fn check_durability(&mut self) {
        if self.durability == Durability::Process && self.shared_dir.is_none() && self.data_dir.is_none() {
            self.fault(
                "shared_dir",
                "Durability::Process without a data_dir has nothing to name its files after; say where they are to be",
            );
        }
    }
}

impl Config {
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
