//! Configuration: plain numbers with units and limits, checked once and completely.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ids::Class;

mod builder;
mod class;
mod durability;
mod layout;
mod machine;
mod region;
mod size;
mod sizing;

pub use builder::ConfigBuilder;
pub use class::{ClassConfig, OnFull, OnLeave, Outside, Skew};
pub use durability::{DiskSync, Durability};
pub(crate) use layout::{chunk_table_words, directory_slots, stream_directory_slots};
use layout::{index_tables, logical_pages, removal_notes, shared_bytes, system_bytes, system_region};
pub use machine::{Affinity, HugePages, IndexPlacement, NumaConfig, NumaPolicy, PagePlacement};
pub use region::{RegionBuilder, RegionConfig};
pub use size::{ByteSize, IntoByteSize};
pub(crate) use sizing::place_of;
pub use sizing::{Adaptive, ExpectedLoad, SizeEstimate, SizeLimits};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const PAGE_MIN: u64 = 2 * KIB;
const PAGE_MAX: u64 = 2 * MIB;
/// The warm region's default page.
const PAGE_WARM: u64 = 4 * KIB;
/// The most pages of a region.
const PAGES_MAX: u64 = 1 << 30;
pub(crate) const PARTITIONS_MAX: usize = 1024;
/// The largest event that any store accepts: 16 MiB of metadata and payload together.
pub const EVENT_MAX: u64 = 16 * MIB;
/// Bytes of the page table per logical page.
pub(crate) const PAGE_TABLE_ENTRY: u64 = 128;
/// Bytes of what is noted of each page that a log has.
pub(crate) const LOGGED_ENTRY: u64 = 16;

/// One fault of a configuration: the field, what is wrong with it, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ConfigFault {
    /// The field's name, such as `hot.page_size`.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// Shares of a region at which the store reacts.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct Thresholds {
    /// The oldest pages begin to move down early (default 0.80).
    pub warning: f64,
    /// They move in larger steps (default 0.90).
    pub critical: f64,
    /// Appends wait, and after their time-out are refused (default 0.95).
    pub reject: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { warning: 0.80, critical: 0.90, reject: 0.95 }
    }
}

/// A complete, checked configuration. Make one with [`Config::builder`].
///
/// Its fields are there to be read. One that is changed afterwards may contradict the others, so a store does not open with it.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Bytes that regions and buffers together never exceed.
    pub memory: u64,
    /// Page table and directories; its size follows from the other regions.
    pub system: RegionConfig,
    /// Events as they were written.
    pub hot: RegionConfig,
    /// Events squeezed by LZ4.
    pub warm: RegionConfig,
    /// The id index and the stream directory.
    pub index: RegionConfig,
    /// Bytes for everything outside of the regions: names, the cold tier's directory and cache, spill buffers.
    pub buffers: u64,
    /// How many partitions share the streams among them: a power of two.
    pub partitions: usize,
    /// Whether `partitions` was asked for, or may follow what the data directory says.
    pub(crate) partitions_fixed: bool,
    /// Whether the sizes of hot, warm and index were asked for, or follow from the rest.
    pub(crate) sizes_fixed: [bool; 3],
    /// The classes; the first is the default one.
    pub classes: Vec<ClassConfig>,
    /// Where the embedded cold tier lives; `None` for a store that keeps everything in memory.
    pub data_dir: Option<PathBuf>,
    /// What survives the end of the process.
    pub durability: Durability,
    /// Where the files of [`Durability::Process`] were asked to be.
    pub shared_dir: Option<PathBuf>,
    /// The largest event accepted, metadata and payload together.
    pub max_event: u64,
    /// How long `append` waits for room.
    pub append_timeout: Duration,
    /// What becomes of events for which there is no room, of classes that say nothing of it.
    pub on_full: OnFull,
    /// After how long without a page freed a full store says that it is stalled.
    pub stall_after: Duration,
    /// How long a read waits for the cold tier.
    pub fetch_timeout: Duration,
    /// Shares of a region at which the store reacts.
    pub thresholds: Thresholds,
    /// Events that an eviction step handles at most before it looks up.
    pub slice_events: usize,
    /// Time that an eviction step takes at most before it looks up.
    pub slice_time: Duration,
    /// Events a second that age moves at most; `None` for any number.
    pub move_rate: Option<u64>,
    /// The share of a page that must be of use; pages of which less is are packed into less room. Zero: never.
    pub defrag_below: f64,
    /// Whether each event is stored with a checksum, which is looked at when it is read from memory.
    pub event_checksums: bool,
    /// How long a region must have used much less than it has before it gives memory back to the system.
    pub shrink_after: Duration,
    /// Whether the sizes of the regions follow the load, and how; `None`: they stay as they are.
    pub adaptive_sizing: Option<Adaptive>,
    /// Uncompressed bytes that a cold block is filled to, and that are written at once: at most a sixteenth of the
    /// buffers, whatever was asked for.
    pub block_bytes: u64,
    /// Whether the store runs its own threads; without them, [`Store::maintain`](crate::Store::maintain) does
    /// the work when it is called.
    pub background: bool,
    /// The pages of the processor behind the regions.
    pub huge_pages: HugePages,
    /// How the nodes of the machine are used.
    pub numa: NumaConfig,
    /// Whether what the regions have of memory is kept out of swap.
    pub lock_memory: bool,
    /// Whether what the system refuses (nodes, huge pages, locked memory) is an error at opening, and not a warning.
    pub strict: bool,
    /// The processors that the store's threads are kept on.
    pub affinity: Affinity,
    pub(crate) checked: Checked,
}

/// A configuration as it was when it was checked.
#[derive(Clone, PartialEq, Default)]
pub(crate) struct Checked(Option<Arc<Config>>);

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "yes" } else { "no" })
    }
}

impl Config {
    /// Notes that everything was checked as it is now.
    pub(crate) fn note_checked(&mut self) {
        self.checked = Checked::default();
        self.checked = Checked(Some(Arc::new(self.clone())));
    }

    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) when a field was changed since everything was checked: what is done
    /// with memory relies on sizes that fit together.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let now = Self { checked: Checked::default(), ..self.clone() };
        if self.checked.0.as_deref() == Some(&now) {
            return Ok(());
        }
        let problem =
            "a field was changed after everything had been checked; say what you want to the ConfigBuilder";
        Err(Error::config(vec![ConfigFault { field: "config".into(), problem: problem.into() }]))
    }

    /// Starts a configuration. Everything has a default; the memory limit is what one usually sets.
    ///
    /// ```
    /// use esker::{ClassConfig, Config};
    ///
    /// let config = Config::builder()
    ///     .memory("64MiB")
    ///     .hot(|hot| hot.max("32MiB").page_size("64KiB"))
    ///     .class(ClassConfig::new("calls"))
    ///     .build()?;
    /// assert_eq!(config.hot.max, 32 << 20);
    /// # Ok::<(), esker::Error>(())
    /// ```
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// The class of that name.
    pub fn class(&self, name: &str) -> Option<Class> {
        self.classes.iter().position(|class| class.name == name).map(Class::new)
    }

    /// Takes over the number of partitions that the data was written with.
    ///
    /// # Errors
    /// When the hot region is too small for so many.
    pub(crate) fn adopt_partitions(&mut self, partitions: usize) -> Result<()> {
        let lanes = (partitions * self.classes.len()) as u64;
        if self.hot.max / self.hot.page_size < 2 * lanes + 2
            || self.index.max / self.index.page_size < 2 * partitions as u64 + 4
        {
            let problem = format!(
                "the data was written with {partitions} partitions, too many for a hot region of {} and an index of {}; \
                 use more memory or smaller pages",
                ByteSize::new(self.hot.max),
                ByteSize::new(self.index.max)
            );
            return Err(Error::config(vec![ConfigFault { field: "hot.max".into(), problem }]));
        }
        self.partitions = partitions;
        self.system = system_region(&self.hot, &self.warm, &self.index, partitions, self.durability);
        // A store may be opened with what another one says that it runs with.
        self.note_checked();
        Ok(())
    }

    /// How many logical pages hot and warm regions of so many bytes can hold.
    pub(crate) fn logical_pages(&self, hot_bytes: u64, warm_bytes: u64) -> u32 {
        logical_pages(&self.hot, &self.warm, [hot_bytes, warm_bytes]) as u32
    }

    /// How many logical pages the page table has room for.
    pub(crate) fn logical_pages_ceiling(&self) -> u32 {
        self.logical_pages(self.hot.ceiling, self.warm.ceiling)
    }

    /// How many events that are in memory can have been removed at a time: [`Durability::Process`] keeps a note of each.
    pub(crate) fn removal_notes(&self) -> usize {
        removal_notes(&self.hot, &self.warm) as usize
    }

    /// What the system region takes for so many logical pages and an index of so many bytes.
    pub(crate) fn system_bytes(&self, pages: u32, index_bytes: u64) -> u64 {
        system_bytes(&self.index, self.partitions, u64::from(pages), index_bytes)
            + shared_bytes(&self.hot, &self.warm, &self.index, self.partitions, self.durability)
    }

    /// The file in which directories and table of chunks of the index lie, where the index outlives the process.
    pub(crate) fn index_tables(&self) -> RegionConfig {
        index_tables(&self.index, self.partitions)
    }
}

#[cfg(test)]
mod tests;
