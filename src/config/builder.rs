//! Wishes for a configuration, and what is wrong with them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{
    Adaptive, Affinity, ByteSize, ClassConfig, Config, ConfigFault, Durability, HugePages, IntoByteSize, KIB,
    MIB, NumaConfig, NumaPolicy, OnFull, PARTITIONS_MAX, RegionBuilder, Thresholds,
};
use crate::error::{Error, Result};
use crate::ids::Class;

/// Numbers of nodes are below this: Linux has no more.
const NODES_MAX: u32 = 1024;

/// Collects wishes and turns them into a [`Config`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ConfigBuilder {
    pub(super) memory: Option<u64>,
    pub(super) hot: RegionBuilder,
    pub(super) warm: RegionBuilder,
    pub(super) index: RegionBuilder,
    pub(super) buffers: Option<u64>,
    pub(super) partitions: Option<usize>,
    pub(super) classes: Vec<ClassConfig>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) durability: Durability,
    pub(super) shared_dir: Option<PathBuf>,
    pub(super) max_event: Option<u64>,
    pub(super) append_timeout: Duration,
    pub(super) on_full: OnFull,
    pub(super) stall_after: Duration,
    pub(super) fetch_timeout: Duration,
    pub(super) thresholds: Thresholds,
    pub(super) slice_events: usize,
    pub(super) slice_time: Duration,
    pub(super) move_rate: Option<u64>,
    pub(super) defrag_below: f64,
    pub(super) event_checksums: bool,
    pub(super) shrink_after: Duration,
    pub(super) adaptive_sizing: Option<Adaptive>,
    pub(super) block_bytes: u64,
    pub(super) background: bool,
    pub(super) huge_pages: HugePages,
    pub(super) numa: NumaConfig,
    pub(super) lock_memory: bool,
    pub(super) strict: bool,
    pub(super) affinity: Affinity,
    pub(super) faults: Vec<ConfigFault>,
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
            durability: Durability::default(),
            shared_dir: None,
            max_event: None,
            append_timeout: Duration::from_millis(100),
            on_full: OnFull::Wait,
            stall_after: Duration::from_secs(1),
            fetch_timeout: Duration::from_secs(10),
            thresholds: Thresholds::default(),
            slice_events: 10_000,
            slice_time: Duration::from_millis(1),
            move_rate: None,
            defrag_below: 0.5,
            event_checksums: false,
            shrink_after: Duration::from_secs(60),
            adaptive_sizing: None,
            block_bytes: 128 * KIB,
            background: true,
            huge_pages: HugePages::Advise,
            numa: NumaConfig::default(),
            lock_memory: false,
            strict: false,
            affinity: Affinity::Leave,
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
    /// events (or drops the oldest of classes that say [`OnLeave::Drop`](crate::OnLeave::Drop)).
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

    /// What becomes of events for which there is no room, of classes that say nothing of it (default:
    /// [`OnFull::Wait`]).
    pub fn on_full(mut self, what: OnFull) -> Self {
        self.on_full = what;
        self
    }

    /// After how long without a page freed a full store says that it is stalled, and why (default 1 s); see
    /// [`Stall`](crate::Stall).
    pub fn stall_after(mut self, limit: Duration) -> Self {
        self.stall_after = limit;
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

    /// How many events a second age moves at most (default: any number). What memory pressure moves is not bound by it.
    pub fn move_rate(mut self, events_per_second: impl Into<Option<u64>>) -> Self {
        self.move_rate = events_per_second.into();
        self
    }

    /// The share of a page's room that must be of use (default 0.5; 0: pages are left as they are). Pages of which more
    /// was removed or has expired, or that were closed while more of them was empty, are packed into the warm region,
    /// without what was removed, if it has room. That holds for classes that are not compressed, too.
    pub fn defrag_below(mut self, share: f64) -> Self {
        self.defrag_below = share;
        self
    }

    /// How long a region must have used much less than it has grown to before it gives memory back to the system (default
    /// one minute; `Duration::MAX`: never). It keeps what it had at first
    /// ([`RegionBuilder::initial`](crate::RegionBuilder::initial)), and a quarter more than it uses and one step
    /// ([`chunk`](crate::RegionBuilder::chunk)).
    pub fn shrink_after(mut self, time: Duration) -> Self {
        self.shrink_after = time;
        self
    }

    /// Has each event stored with a checksum of 4 bytes, which is looked at whenever the event is read from memory, when it
    /// leaves for the cold tier, and when an opening builds its indexes anew (default: no). For memory
    /// and files that are not trusted to keep what they were given: without it, damage to a page of the hot tier is not
    /// noticed, as in any program. What fails is not given: [`Guard::try_get`](crate::Guard::try_get) and the reads that
    /// begin with `fetch` say [`Corrupt`](crate::ErrorKind::Corrupt), those that cannot leave it out, and
    /// [`EventStats::corrupt_events`](crate::EventStats::corrupt_events) counts it. Can be changed at each opening; events
    /// that were appended without it have none. It costs a third more for a batch of events of 256 bytes, and makes a read
    /// three times as long, since all of the event is read then (`benches/README.md`).
    ///
    /// ```
    /// use esker::Config;
    ///
    /// let config = Config::builder().memory("64MiB").event_checksums(true).build()?;
    /// assert!(config.event_checksums);
    /// # Ok::<(), esker::Error>(())
    /// ```
    pub fn event_checksums(mut self, sums: bool) -> Self {
        self.event_checksums = sums;
        self
    }

    /// Lets the sizes of hot, warm and index region follow the load, within [`memory`](Self::memory) (default: `None`, they
    /// stay as they are). Reads then cost some nanoseconds more each: it is counted in which tier they find their events.
    pub fn adaptive_sizing(mut self, rules: impl Into<Option<Adaptive>>) -> Self {
        self.adaptive_sizing = rules.into();
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

    /// The pages of the processor behind the regions (default: [`HugePages::Advise`]; `true` and `false` are that and
    /// [`HugePages::Never`]).
    pub fn huge_pages(mut self, pages: impl Into<HugePages>) -> Self {
        self.huge_pages = pages.into();
        self
    }

    /// Adjusts how the nodes of the machine are used.
    pub fn numa(mut self, change: impl FnOnce(NumaConfig) -> NumaConfig) -> Self {
        self.numa = change(self.numa);
        self
    }

    /// Whether what the regions have of memory is kept out of swap (default: no). The process needs a limit for it
    /// (`ulimit -l`) or the capability `CAP_IPC_LOCK`.
    pub fn lock_memory(mut self, yes: bool) -> Self {
        self.lock_memory = yes;
        self
    }

    /// Whether nodes, huge pages or locked memory that the system refuses are an error at opening (default: no; they
    /// are then told by [`Stats::warnings`](crate::Stats::warnings), and the store does without).
    pub fn strict(mut self, yes: bool) -> Self {
        self.strict = yes;
        self
    }

    /// The processors that the store's threads are kept on (default: the system moves them as it sees fit). The threads
    /// of writers and readers are the caller's: see [`Affinity::pin`].
    pub fn affinity(mut self, affinity: Affinity) -> Self {
        self.affinity = affinity;
        self
    }

    /// Pins the store's threads to these processors, one each in turn: [`Affinity::Cpus`].
    pub fn worker_cpus(mut self, cpus: impl Into<Vec<usize>>) -> Self {
        self.affinity = Affinity::from(cpus.into());
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

    pub(super) fn fault(&mut self, field: impl Into<String>, problem: impl Into<String>) {
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
        let sizing = self.adaptive_sizing.as_ref().map(|rules| rules.faults(&self.classes));
        self.faults.extend(sizing.into_iter().flatten());
        self.check_durability();
        let mut config = self.layout();
        config.note_checked();
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
        if !(0.0..=0.9).contains(&self.defrag_below) {
            let problem = format!("{} is not a share from 0 to 0.9", self.defrag_below);
            self.fault("defrag_below", problem);
        }
        if self.slice_events == 0 {
            self.fault("slice.events", "0 would move nothing; the default is 10,000");
        }
        if self.slice_time.is_zero() {
            self.fault("slice.time", "no time would move nothing; the default is 1 ms");
        }
        if self.move_rate == Some(0) {
            self.fault("move_rate", "0 would move nothing; leave it out for any number");
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
        self.check_machine();
    }

    fn check_machine(&mut self) {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from).max(1024);
        if let Affinity::Cpus(named) = &self.affinity
            && let Some(cpu) = named.iter().find(|cpu| **cpu >= cpus)
        {
            let problem = format!("there is no processor {cpu}");
            self.fault("worker_cpus", problem);
        }
        if let Affinity::Nodes(named) = &self.affinity
            && named.is_empty()
        {
            self.fault("affinity", "names no node; use Affinity::Leave");
        }
        match &self.numa.nodes {
            Some(nodes) if nodes.is_empty() => {
                self.fault("numa.nodes", "names no node; leave it out to use all of them");
            }
            Some(nodes) if nodes.iter().any(|node| *node >= NODES_MAX) => {
                self.fault("numa.nodes", format!("there is no node of a number from {NODES_MAX} up"));
            }
            _ => {}
        }
        if self.huge_pages.is_explicit() && self.numa.policy == NumaPolicy::Bind {
            let problem = "pages from a pool cannot be bound: the pool of a node may be empty when they are touched, and \
                           the system would end the process; use NumaPolicy::Preferred";
            self.fault("numa.policy", problem);
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
            if class.skew.behind.is_some_and(|age| age.is_zero()) {
                fault(".skew.behind", "is zero: hardly any event would be taken".into());
            }
            if class.retention.is_some_and(|age| age.is_zero()) {
                fault(".retention", "is zero: no event would ever be kept".into());
            }
            if class.quota == Some(0) {
                fault(".quota", "is zero: no event would be kept; leave it out for none".into());
            }
        }
        self.faults.append(&mut faults);
    }
}
