//! Configuration: plain numbers with units and limits, checked once and completely.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ids::{Class, LogicalPage};
use crate::pressure::RegionKind;

mod class;
mod region;
mod size;

pub use class::{ClassConfig, OnLeave};
pub use region::{RegionBuilder, RegionConfig};
pub use size::{ByteSize, IntoByteSize};

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
    /// The classes; the first is the default one.
    pub classes: Vec<ClassConfig>,
    /// Where the embedded cold tier lives; `None` for a store that keeps everything in memory.
    pub data_dir: Option<PathBuf>,
    /// The largest event accepted, metadata and payload together.
    pub max_event: u64,
    /// How long `append` waits for room.
    pub append_timeout: Duration,
    /// How long a read waits for the cold tier.
    pub fetch_timeout: Duration,
    /// Shares of a region at which the store reacts.
    pub thresholds: Thresholds,
    /// Events that an eviction step handles at most before it looks up.
    pub slice_events: usize,
    /// Time that an eviction step takes at most before it looks up.
    pub slice_time: Duration,
    /// Uncompressed bytes that a cold block is filled to, and that are written at once: at most a sixteenth of the
    /// buffers, whatever was asked for.
    pub block_bytes: u64,
    /// Whether the store runs its own threads; without them, [`Store::maintain`](crate::Store::maintain) does
    /// the work when it is called.
    pub background: bool,
    /// Whether transparent huge pages are asked for in the data regions.
    pub huge_pages: bool,
    /// Processors that the store's threads are pinned to, one each in turn; empty leaves them alone.
    pub worker_cpus: Vec<usize>,
}

impl Config {
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
        self.system = system_region(&self.hot, &self.warm, &self.index, partitions);
        Ok(())
    }

    /// How many logical pages the page table has room for: every hot page, and warm images down to an eighth of
    /// a hot page.
    pub(crate) fn logical_pages(&self) -> u64 {
        logical_pages(&self.hot, &self.warm)
    }
}

fn logical_pages(hot: &RegionConfig, warm: &RegionConfig) -> u64 {
    let smallest_image = (hot.page_size / 8).max(warm.page_size);
    (hot.max / hot.page_size + warm.max / smallest_image + 64).min(u64::from(LogicalPage::LIMIT))
}

/// Collects wishes and turns them into a [`Config`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ConfigBuilder {
    memory: Option<u64>,
    hot: RegionBuilder,
    warm: RegionBuilder,
    index: RegionBuilder,
    buffers: Option<u64>,
    partitions: Option<usize>,
    classes: Vec<ClassConfig>,
    data_dir: Option<PathBuf>,
    max_event: Option<u64>,
    append_timeout: Duration,
    fetch_timeout: Duration,
    thresholds: Thresholds,
    slice_events: usize,
    slice_time: Duration,
    block_bytes: u64,
    background: bool,
    huge_pages: bool,
    worker_cpus: Vec<usize>,
    faults: Vec<ConfigFault>,
}

impl Default for ConfigBuilder {
    fn default() -> Self {
        Self {
            memory: None,
            hot: RegionBuilder::default(),
            warm: RegionBuilder::default(),
            index: RegionBuilder::default(),
            buffers: None,
            partitions: None,
            classes: Vec::new(),
            data_dir: None,
            max_event: None,
            append_timeout: Duration::from_millis(100),
            fetch_timeout: Duration::from_secs(10),
            thresholds: Thresholds::default(),
            slice_events: 10_000,
            slice_time: Duration::from_millis(1),
            block_bytes: 128 * KIB,
            background: true,
            huge_pages: true,
            worker_cpus: Vec::new(),
            faults: Vec::new(),
        }
    }
}

impl ConfigBuilder {
    /// The most memory that the store takes, for events, index and buffers together (default 256 MiB).
    pub fn memory(mut self, bytes: impl IntoByteSize) -> Self {
        self.memory = self.take("memory", bytes);
        self
    }

    /// Where the cold tier keeps its file. Without a directory nothing leaves memory, and a full store refuses
    /// events (or drops the oldest of classes that say [`OnLeave::Drop`]).
    pub fn data_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.data_dir = Some(dir.as_ref().to_path_buf());
        self
    }

    /// Adjusts the hot region.
    pub fn hot(mut self, change: impl FnOnce(RegionBuilder) -> RegionBuilder) -> Self {
        self.hot = change(self.hot);
        self
    }

    /// Adjusts the warm region.
    pub fn warm(mut self, change: impl FnOnce(RegionBuilder) -> RegionBuilder) -> Self {
        self.warm = change(self.warm);
        self
    }

    /// Adjusts the index region.
    pub fn index(mut self, change: impl FnOnce(RegionBuilder) -> RegionBuilder) -> Self {
        self.index = change(self.index);
        self
    }

    /// Memory for names, the cold tier's directory and cache, and spill buffers (default: an eighth of the total,
    /// from 2 MiB to 256 MiB).
    pub fn buffers(mut self, bytes: impl IntoByteSize) -> Self {
        self.buffers = self.take("buffers", bytes);
        self
    }

    /// How many partitions share the streams (a power of two; default: one for each processor, at least four, fewer in
    /// a small store). More partitions let more writers in at a time; but a batch takes the lock of each partition that
    /// its events are of, so with few events for each it costs more. It belongs to the data directory: the number of
    /// the first opening stays.
    pub fn partitions(mut self, count: usize) -> Self {
        self.partitions = Some(count);
        self
    }

    /// Adds a class. The first one added is the default class; without any there is one named `default`.
    pub fn class(mut self, class: ClassConfig) -> Self {
        self.classes.push(class);
        self
    }

    /// The largest event accepted (default: 16 MiB, or an eighth of the hot region or of the buffers where that is
    /// less). It may be up to half of the hot region and an eighth of the buffers: an event is copied on its way to
    /// the cold tier.
    pub fn max_event(mut self, bytes: impl IntoByteSize) -> Self {
        self.max_event = self.take("max_event", bytes);
        self
    }

    /// How long `append` and `append_batch` wait for room (default 100 ms).
    pub fn append_timeout(mut self, limit: Duration) -> Self {
        self.append_timeout = limit;
        self
    }

    /// How long `fetch` and its relatives wait for the cold tier (default 10 s).
    pub fn fetch_timeout(mut self, limit: Duration) -> Self {
        self.fetch_timeout = limit;
        self
    }

    /// Shares of a region at which the store reacts.
    pub fn thresholds(mut self, warning: f64, critical: f64, reject: f64) -> Self {
        self.thresholds = Thresholds { warning, critical, reject };
        self
    }

    /// Events and time that one eviction step takes at most (default 10,000 and 1 ms).
    pub fn slice(mut self, events: usize, time: Duration) -> Self {
        self.slice_events = events;
        self.slice_time = time;
        self
    }

    /// Uncompressed bytes that a cold block is filled to (default 128 KiB).
    pub fn block_bytes(mut self, bytes: impl IntoByteSize) -> Self {
        if let Some(bytes) = self.take("block_bytes", bytes) {
            self.block_bytes = bytes;
        }
        self
    }

    /// Whether the store runs its own threads (default: yes). Without them, call
    /// [`Store::maintain`](crate::Store::maintain).
    pub fn background(mut self, yes: bool) -> Self {
        self.background = yes;
        self
    }

    /// Whether transparent huge pages are asked for in the data regions (default: yes).
    pub fn huge_pages(mut self, yes: bool) -> Self {
        self.huge_pages = yes;
        self
    }

    /// Pins the store's threads to these processors, one each in turn (default: not pinned).
    pub fn worker_cpus(mut self, cpus: impl Into<Vec<usize>>) -> Self {
        self.worker_cpus = cpus.into();
        self
    }

    fn take(&mut self, field: &str, bytes: impl IntoByteSize) -> Option<u64> {
        match bytes.into_byte_size() {
            Ok(size) => Some(size.as_u64()),
            Err(problem) => {
                self.fault(field, problem);
                None
            }
        }
    }

    fn fault(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.faults.push(ConfigFault { field: field.into(), problem: problem.into() });
    }

    /// Checks everything and fills in what was left open.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) with every fault at once in
    /// [`Error::config_faults`].
    pub fn build(mut self) -> Result<Config> {
        for (name, region) in [("hot", &self.hot), ("warm", &self.warm), ("index", &self.index)] {
            for (field, problem) in &region.faults {
                self.faults.push(ConfigFault { field: format!("{name}.{field}"), problem: problem.clone() });
            }
        }
        self.check_scalars();
        self.check_classes();
        let config = self.layout();
        if self.faults.is_empty() { Ok(config) } else { Err(Error::config(self.faults)) }
    }

    fn check_scalars(&mut self) {
        let Thresholds { warning, critical, reject } = self.thresholds;
        let shares = [("warning", warning), ("critical", critical), ("reject", reject)];
        for (name, share) in shares {
            if !(share > 0.0 && share <= 1.0) {
                self.fault(
                    format!("thresholds.{name}"),
                    format!("{share} is not a share above 0 and up to 1"),
                );
            }
        }
        if !(warning <= critical && critical <= reject) {
            let problem = format!("{warning}, {critical}, {reject} are not in rising order");
            self.fault("thresholds", problem);
        }
        if self.slice_events == 0 {
            self.fault("slice.events", "0 would move nothing; the default is 10,000");
        }
        if self.slice_time.is_zero() {
            self.fault("slice.time", "no time would move nothing; the default is 1 ms");
        }
        if !(16 * KIB..=8 * MIB).contains(&self.block_bytes) {
            let problem = format!("{} is not from 16 KiB to 8 MiB", ByteSize::new(self.block_bytes));
            self.fault("block_bytes", problem);
        }
        if let Some(count) = self.partitions
            && (!count.is_power_of_two() || count > PARTITIONS_MAX)
        {
            self.fault("partitions", format!("{count} is not a power of two up to 1024"));
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from).max(1024);
        if let Some(cpu) = self.worker_cpus.iter().find(|cpu| **cpu >= cpus) {
            let problem = format!("there is no processor {cpu}");
            self.fault("worker_cpus", problem);
        }
    }

    fn check_classes(&mut self) {
        if self.classes.is_empty() {
            self.classes.push(ClassConfig::new("default"));
        }
        if self.classes.len() > Class::MAX {
            let problem = format!("{} classes; at most {} are possible", self.classes.len(), Class::MAX);
            self.fault("classes", problem);
        }
        let mut faults = Vec::new();
        for (at, class) in self.classes.iter().enumerate() {
            let mut fault = |field: &str, problem: String| {
                faults.push(ConfigFault { field: format!("class {:?}{field}", class.name), problem });
            };
            if class.name.is_empty() || class.name.len() > 64 || class.name.contains('\0') {
                fault(".name", "a name has 1 to 64 bytes, none of them zero".into());
            }
            if self.classes[..at].iter().any(|other| other.name == class.name) {
                fault(".name", "there is a class of that name already".into());
            }
            if class.hot_for > class.warm_for {
                fault(
                    ".warm_for",
                    "is shorter than hot_for; both are ages, so it must be at least as long".into(),
                );
            }
            if class.retention.is_some_and(|age| age.is_zero()) {
                fault(".retention", "is zero: no event would ever be kept".into());
            }
        }
        self.faults.append(&mut faults);
    }

    /// Divides the memory: what was asked for is taken as it is, the rest is shared 11 : 4 : 3 between hot, warm
    /// and index.
    fn layout(&mut self) -> Config {
        let memory = self.memory.unwrap_or(256 * MIB);
        let buffers = self.buffers.unwrap_or((memory / 8).clamp(2 * MIB, 256 * MIB));
        // The page table takes about 1/256 of the memory with default pages; the exact size follows below.
        // Where no class goes through the warm tier, it gets what a region must have.
        let warm = if self.classes.iter().any(|class| class.compress) { None } else { Some(PAGE_WARM) };
        let asked = [self.hot.max, self.warm.max.or(warm), self.index.max];
        let fixed: u64 = asked.iter().flatten().fold(0, |sum: u64, max| sum.saturating_add(*max));
        let open: u64 =
            asked.iter().zip([11, 4, 3]).filter(|(max, _)| max.is_none()).map(|(_, share)| share).sum();
        let rest = memory.saturating_sub(buffers).saturating_sub(memory / 64 + MIB / 2).saturating_sub(fixed);
        let share =
            |asked: Option<u64>, share: u64| asked.unwrap_or((rest / open.max(1)).saturating_mul(share));
        let (hot_max, warm_max, index_max) = (share(asked[0], 11), share(asked[1], 4), share(asked[2], 3));

        let hot_page = floor_power(hot_max / 128).clamp(4 * KIB, 64 * KIB);
        let index_page = floor_power(index_max / 64).clamp(2 * KIB, 16 * KIB);
        let (hot, warm, index) = (self.hot.clone(), self.warm.clone(), self.index.clone());
        let hot = self.region(RegionKind::Hot, &hot, hot_max, hot_page);
        let warm = self.region(RegionKind::Warm, &warm, warm_max, PAGE_WARM);
        let index = self.region(RegionKind::Index, &index, index_max, index_page);

        let partitions = self.partitions.unwrap_or_else(|| {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            let room = (hot.max / hot.page_size) as usize / (8 * self.classes.len().max(1));
            cpus.next_power_of_two().clamp(4, 256).min(floor_power(room.max(1) as u64) as usize)
        });
        // What is at fault already must not make the sums below overflow.
        let partitions = partitions.clamp(1, PARTITIONS_MAX);
        let lanes = (partitions * self.classes.len()) as u64;
        if hot.max / hot.page_size < 2 * lanes + 2 {
            self.fault(
                "hot.max",
                format!(
                    "{} pages of {} are too few for {partitions} partitions of {} classes, which keep one page open \
                     each; use more memory, smaller pages or fewer partitions",
                    hot.max / hot.page_size,
                    ByteSize::new(hot.page_size),
                    self.classes.len()
                ),
            );
        }
        if index.max / index.page_size < 2 * partitions as u64 + 4 {
            let problem = format!("too small for {partitions} partitions; use at least a few pages for each");
            self.fault("index.max", problem);
        }
        let max_event = self.max_event.unwrap_or(EVENT_MAX.min(hot.max / 8).min(buffers / 8));
        let most = EVENT_MAX.min(hot.max / 2).min(buffers / 8);
        if max_event > most || max_event < 64 {
            let problem = format!(
                "{} is not from 64 bytes to {}, the smallest of 16 MiB, half of the hot region ({}) and an eighth of \
                 the buffers ({})",
                ByteSize::new(max_event),
                ByteSize::new(most),
                ByteSize::new(hot.max),
                ByteSize::new(buffers)
            );
            self.fault("max_event", problem);
        }
        let system = system_region(&hot, &warm, &index, partitions);
        let total = [system.max, hot.max, warm.max, index.max, buffers]
            .iter()
            .fold(0u64, |sum, part| sum.saturating_add(*part));
        if total > memory {
            self.fault(
                "memory",
                format!(
                    "{} is less than its parts: system {}, hot {}, warm {}, index {}, buffers {}; raise it to {} or \
                     shrink a part",
                    ByteSize::new(memory),
                    ByteSize::new(system.max),
                    ByteSize::new(hot.max),
                    ByteSize::new(warm.max),
                    ByteSize::new(index.max),
                    ByteSize::new(buffers),
                    ByteSize::new(total)
                ),
            );
        }
        if buffers < MIB {
            self.fault("buffers", format!("{} is less than 1 MiB", ByteSize::new(buffers)));
        }
        Config {
            memory,
            system,
            hot,
            warm,
            index,
            buffers,
            partitions,
            partitions_fixed: self.partitions.is_some(),
            classes: std::mem::take(&mut self.classes),
            data_dir: self.data_dir.take(),
            max_event,
            append_timeout: self.append_timeout,
            fetch_timeout: self.fetch_timeout,
            thresholds: self.thresholds,
            slice_events: self.slice_events,
            slice_time: self.slice_time,
            block_bytes: self.block_bytes.min(buffers / 16),
            background: self.background,
            huge_pages: self.huge_pages,
            worker_cpus: std::mem::take(&mut self.worker_cpus),
        }
    }

    fn region(&mut self, kind: RegionKind, wish: &RegionBuilder, max: u64, page_size: u64) -> RegionConfig {
        let name = kind.name();
        let mut page_size = wish.page_size.unwrap_or(page_size);
        if !page_size.is_power_of_two() || !(PAGE_MIN..=PAGE_MAX).contains(&page_size) {
            let problem = format!("{page_size} bytes is not a power of two from 2 KiB to 2 MiB");
            self.fault(format!("{name}.page_size"), problem);
            page_size = 64 * KIB;
        }
        let pages = max / page_size;
        if pages == 0 {
            let problem = format!("{} has no room for a page of {page_size} bytes", ByteSize::new(max));
            self.fault(format!("{name}.max"), problem);
        } else if pages > PAGES_MAX {
            self.fault(format!("{name}.max"), "more than 2^30 pages; use larger pages");
        }
        let max = pages.clamp(1, PAGES_MAX) * page_size;
        let chunk = wish.chunk.unwrap_or((64 * MIB).min(max)).max(page_size) / page_size * page_size;
        // In whole pages, as the maximum is.
        let initial = wish.initial.map_or_else(|| chunk.min(max), |bytes| bytes / page_size * page_size);
        if initial > max {
            let problem = format!("{} is more than max, {}", ByteSize::new(initial), ByteSize::new(max));
            self.fault(format!("{name}.initial"), problem);
        }
        RegionConfig { initial: initial.min(max), max, page_size, chunk, prefault: wish.prefault }
    }
}

/// The page table and the directories of the indexes, sized for the most that the other regions can hold.
fn system_region(
    hot: &RegionConfig,
    warm: &RegionConfig,
    index: &RegionConfig,
    partitions: usize,
) -> RegionConfig {
    const PAGE: u64 = 4 * KIB;
    let table = (logical_pages(hot, warm) + 1) * (PAGE_TABLE_ENTRY + 8);
    let id_directory = directory_slots(index) * 4;
    let stream_directories = partitions as u64 * stream_directory_slots(index, partitions) * 4;
    let chunks = chunk_table_words(index) * 8;
    let directories = (3 + partitions as u64) * PAGE;
    let max =
        (table + id_directory + stream_directories + chunks + directories).next_multiple_of(PAGE) + 2 * PAGE;
    RegionConfig { initial: max, max, page_size: PAGE, chunk: max, prefault: false }
}

/// Entries of the id index's directory: four for each page that the index region can have, so that an uneven
/// hash does not exhaust it.
pub(crate) fn directory_slots(index: &RegionConfig) -> u64 {
    (index.max / index.page_size * 4).next_power_of_two()
}

/// Words of the table of chunks: two for each slot, and two slots for each page that the index region can have.
pub(crate) fn chunk_table_words(index: &RegionConfig) -> u64 {
    (index.max / index.page_size * 2).next_power_of_two().max(4) * 2
}

/// Entries of one partition's stream directory.
pub(crate) fn stream_directory_slots(index: &RegionConfig, partitions: usize) -> u64 {
    (directory_slots(index) * 2 / partitions as u64).next_power_of_two().max(16)
}

fn floor_power(value: u64) -> u64 {
    if value == 0 { 1 } else { 1 << value.ilog2() }
}

#[cfg(test)]
mod tests;
