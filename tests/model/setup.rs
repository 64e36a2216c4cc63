//! What kind of store a seed runs against, and how it is opened again.
//!
//! Without threads a seed gives the same run every time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use esker::{
    Adaptive, Class, ClassConfig, Clock, ColdTier, Config, DeadLetterDir, DiskSync, DiskTier, Durability,
    OnLeave, Outside, Result, Skew, Store, Stream,
};

use crate::disk::{Disk, File};
use crate::faults::{Call, Fate, Faults};
use crate::policies::Which;
use crate::rng::Rng;
use crate::tier::MapTier;

/// Where events go when they leave memory.
pub(crate) enum Below {
    /// Nowhere: the store has no cold tier.
    Nothing,
    /// A map that outlives the store and can be down.
    Map(Arc<MapTier>),
    /// The embedded tier in a directory.
    Disk(tempfile::TempDir),
    /// The embedded tier on a disk of the tester's, which can fail and forget.
    Sim(Arc<Disk>),
}

/// What is tested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The store does what a step asks for, and nothing else.
    Alone,
    /// The store has its threads.
    Threads,
    /// As alone, and everything below it fails, forgets and ends at any moment.
    Faults,
}

/// Where pages are that survive the process.
pub(crate) struct Shared {
    within: tempfile::TempDir,
    number: u32,
}

impl Shared {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self { within: dir.unwrap(), number: 0 }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.within.path().join(self.number.to_string())
    }

    /// Where a copy goes that is taken when the process ends in the middle of something.
    pub(crate) fn next_path(&self) -> PathBuf {
        self.within.path().join((self.number + 1).to_string())
    }

    /// Where the data directory is, if there is a log.
    pub(crate) fn data(&self) -> PathBuf {
        self.within.path().join(format!("data-{}", self.number))
    }

    /// Where a copy of that goes.
    pub(crate) fn next_data(&self) -> PathBuf {
        self.within.path().join(format!("data-{}", self.number + 1))
    }

    /// Goes on with those copies. If there is none of the pages, there are no pages; the disk is there in any case.
    pub(crate) fn go_on(&mut self) {
        let _ = std::fs::remove_dir_all(self.path());
        if self.next_data().exists() {
            let _ = std::fs::remove_dir_all(self.data());
        } else if self.data().exists() {
            std::fs::rename(self.data(), self.next_data()).unwrap();
        }
        self.number += 1;
    }

    /// Goes on with nothing.
    pub(crate) fn begin_anew(&mut self) {
        let _ = std::fs::remove_dir_all(self.data());
        self.go_on();
    }
}

/// One seed's store.
pub(crate) struct Setup {
    /// Whether the store runs its own threads.
    pub(crate) threads: bool,
    pub(crate) kind: Kind,
    pub(crate) below: Below,
    pub(crate) faults: Arc<Faults>,
    /// Where pages are kept, if they survive the process.
    pub(crate) shared: Option<Shared>,
    /// How the log is written, if there is one beside them.
    pub(crate) log: Option<DiskSync>,
    /// Where events go whose time is not right, and the directory that it is in.
    pub(crate) letters: (DeadLetterDir, tempfile::TempDir),
    /// Whether a resolver says of which class streams are: see [`resolved`].
    pub(crate) resolves: bool,
    pub(crate) classes: Vec<ClassConfig>,
    pub(crate) policy: Which,
    /// Decides what a nonsense policy plans.
    policy_seed: u64,
    /// Decides where streams and ids fall.
    seed: u64,
    move_rate: Option<u64>,
    pub(crate) partitions: usize,
    pub(crate) page_size: u64,
    pub(crate) max_event: u64,
    /// Of a hundred events, how many belong to one stream.
    pub(crate) busy: u64,
    /// Whether most events have few bytes, so that a page holds many.
    pub(crate) small: bool,
    hot: u64,
    warm: u64,
    index: u64,
    block_bytes: u64,
    slice: (usize, Duration),
    thresholds: (f64, f64, f64),
    defrag_below: f64,
    buffers: u64,
}

const KIB: u64 = 1 << 10;

impl Setup {
    pub(crate) fn new(rng: &mut Rng, kind: Kind) -> Self {
        let threads = kind == Kind::Threads;
        let faults = Arc::new(Faults::new(rng.next()));
        let interval = DiskSync::Interval(Duration::from_secs(if threads { 1 } else { 60 }));
        let (is_kept, log) =
            match rng.weighted(if kind == Kind::Faults { &[45, 25, 30] } else { &[65, 10, 25] }) {
                0 => (false, None),
                1 => (true, None),
                _ => (true, Some(rng.pick(&[DiskSync::EveryBatch, interval]))),
            };
        let below = match rng.weighted(&[8, 60, 32]) {
            // Beside a log there is a tier.
            0 if log.is_none() => Below::Nothing,
            0 | 1 => Below::Map(Arc::new(MapTier::new(faults.clone()))),
            _ if kind == Kind::Faults => Below::Sim(Disk::new(faults.clone())),
            _ => Below::Disk(tempfile::tempdir().unwrap()),
        };
        let classes = (0..1 + rng.index(3)).map(|number| class(rng, number)).collect();
        let dir = tempfile::tempdir().unwrap();
        let letters = DeadLetterDir::open(dir.path(), "1MiB", 20).unwrap();
        let mut setup = Self {
            threads,
            kind,
            below,
            faults,
            shared: is_kept.then(Shared::new),
            log,
            letters: (letters, dir),
            resolves: rng.chance(30),
            classes,
            policy: Which::pick(rng),
            policy_seed: rng.next(),
            seed: rng.next(),
            // The rate goes by the machine's clock, so a run without threads would depend on the machine's speed.
            move_rate: if threads { rng.pick(&[None, None, Some(5000)]) } else { None },
            partitions: rng.pick(&[1, 2, 2, 4]),
            page_size: rng.pick(&[2, 4, 4, 8, 16]) * KIB,
            max_event: 0,
            busy: rng.pick(&[0, 0, 30, 80]),
            small: rng.chance(40),
            hot: 0,
            warm: 0,
            index: 0,
            block_bytes: rng.pick(&[16, 32, 64, 256]) * KIB,
            // Without threads no slice ends by time, so that a run does not depend on the machine's speed.
            slice: match threads {
                false => (rng.pick(&[10_000, 10_000, 50, 1]), Duration::from_secs(600)),
                true => (10_000, rng.pick(&[Duration::from_millis(1), Duration::from_micros(50)])),
            },
            thresholds: rng.pick(&[(0.8, 0.9, 0.95), (0.8, 0.9, 0.95), (0.5, 0.7, 0.9), (0.9, 0.95, 1.0)]),
            defrag_below: rng.pick(&[0.5, 0.9, 0.9, 0.0]),
            buffers: rng.pick(&[1, 2, 4]) * 1024 * KIB,
        };
        setup.resize(rng);
        if let Below::Sim(_) = &setup.below {
            // Makes the file: nobody is told that something is kept before it is there.
            setup.cold().unwrap().unwrap().close();
        }
        setup
    }

    /// Other sizes, as for a store that is opened again with another configuration.
    pub(crate) fn resize(&mut self, rng: &mut Rng) {
        let lanes = (self.partitions * self.classes.len()) as u64;
        // Every lane keeps a page open, and pages that are open cannot make room.
        let least = (self.page_size * lanes * 8).next_power_of_two();
        self.hot = (rng.pick(&[512, 512, 1024, 2048, 4096]) * KIB).max(least);
        self.warm = rng.pick(&[128, 256, 512, 1024, 2048]) * KIB;
        self.index = rng.pick(&[96, 128, 256, 512, 1024]) * KIB;
        // An event of several pages needs that many side by side: a sixteenth of the region at most.
        self.max_event = (self.hot / 16).min(self.page_size * 6);
    }

    /// Adds a class at the end, as for a store that is opened again.
    pub(crate) fn add_class(&mut self, rng: &mut Rng) {
        let class = class(rng, self.classes.len());
        self.classes.push(class);
        self.resize(rng);
    }

    /// Whether the sizes of regions follow the load.
    pub(crate) fn adapts(&self) -> bool {
        self.seed.is_multiple_of(3)
    }

    /// How long an append waits for room. Without threads that says how often it tries to make some: a turn is 10 ms.
    fn append_timeout(&self) -> Duration {
        let turns = match (self.has_tier(), self.threads) {
            // A store that cannot make room would only wait in vain.
            (false, _) => return Duration::from_millis(5),
            (true, true) => 10,
            // Whether appends are refused too often is judged there.
            (true, false) if self.kind != Kind::Faults => 10,
            (true, false) => [1, 2, 5, 10, 100][(self.seed >> 32) as usize % 5],
        };
        Duration::from_millis(10) * turns
    }

    /// What bounds all memory.
    pub(crate) fn memory(&self) -> u64 {
        if !self.adapts() || self.keeps_pages() {
            return 16 << 20;
        }
        // Little is left, so that one region can only have what another gives.
        let sum = self.hot + self.warm + self.index + self.buffers;
        sum + sum / 8 + 640 * KIB
    }

    pub(crate) fn has_tier(&self) -> bool {
        !matches!(self.below, Below::Nothing)
    }

    /// Whether the pages outlive the store.
    pub(crate) fn keeps_pages(&self) -> bool {
        self.shared.is_some()
    }

    /// The cold tier of the tester's, opened.
    fn cold(&self) -> Result<Option<Arc<dyn ColdTier>>> {
        Ok(match &self.below {
            Below::Map(tier) => Some(tier.clone()),
            Below::Sim(disk) => {
                let disk = disk.clone();
                let cache_bytes = (self.buffers / 16) as usize;
                Some(Arc::new(DiskTier::on(move || File(disk.clone()), cache_bytes)?))
            }
            Below::Nothing | Below::Disk(_) => None,
        })
    }

    pub(crate) fn drops(&self, class: usize) -> bool {
        self.classes[class].on_leave == OnLeave::Drop
    }

    pub(crate) fn open(&self, clock: &Clock) -> Result<Store> {
        let (warning, critical, reject) = self.thresholds;
        let mut config = Config::builder()
            .memory(self.memory())
            .buffers(self.buffers)
            .hot(|hot| hot.max(self.hot).page_size(self.page_size))
            .warm(|warm| warm.max(self.warm).page_size(2 * KIB))
            .index(|index| index.max(self.index).page_size(2 * KIB))
            .partitions(self.partitions)
            .max_event(self.max_event)
            .block_bytes(self.block_bytes)
            .slice(self.slice.0, self.slice.1)
            .thresholds(warning, critical, reject)
            .move_rate(self.move_rate)
            .defrag_below(self.defrag_below)
            // Reads are held over other steps, and the machine may stand still meanwhile.
            .fetch_timeout(Duration::from_secs(900))
            .append_timeout(self.append_timeout())
            .background(self.threads)
            .huge_pages(false);
        if self.adapts() {
            let seconds = Duration::from_secs;
            config = config
                .adaptive_sizing(Adaptive::new().every(seconds(2)).rest(seconds(3)).step(1.0 / 16.0))
                .hot(|hot| hot.ceiling(2 * self.hot))
                .warm(|warm| warm.ceiling(2 * self.warm));
        }
        for class in &self.classes {
            config = config.class(class.clone());
        }
        if let Some(shared) = &self.shared {
            let durability = self.log.map_or(Durability::Process, Durability::Disk);
            config = config.durability(durability).shared_dir(shared.path());
            if self.log.is_some() {
                config = config.data_dir(shared.data());
            }
        }
        if let Below::Disk(dir) = &self.below {
            config = config.data_dir(dir.path());
        }
        let config = config.build()?;
        let classes: Vec<Class> = self.classes.iter().filter_map(|class| config.class(&class.name)).collect();
        let mut builder = Store::builder(config).clock(clock.clone()).dead_letters(self.letters.0.clone());
        builder = self.policy.install(builder, &classes, self.policy_seed);
        if self.resolves {
            let resolver =
                move |stream: Stream, _: Option<&str>| resolved(stream, classes.len()).map(|at| classes[at]);
            builder = builder.class_resolver(resolver);
        }
        if let Some(tier) = self.cold()? {
            builder = builder.cold(tier);
        }
        let faults = self.faults.clone();
        // A recovery can end at any moment, too.
        builder = builder.on_recovery(move |_| {
            let _: Fate = faults.call(Call::Read);
        });
        builder.seed(self.seed).open()
    }

    pub(crate) fn describe(&self) -> String {
        let below = match self.below {
            Below::Nothing => "no tier",
            Below::Map(_) => "a map",
            Below::Disk(_) => "disk",
            Below::Sim(_) => "a disk of the tester's",
        };
        let classes: Vec<String> = self
            .classes
            .iter()
            .map(|class| {
                let (hot, warm) = (class.hot_for.as_secs(), class.warm_for.as_secs());
                let retention = class.retention.map(|age| age.as_secs());
                let ClassConfig { on_leave, priority, quota, .. } = class;
                format!("{hot}/{warm}/{retention:?} s {on_leave:?}, priority {priority}, quota {quota:?}")
            })
            .collect();
        format!(
            "{below}, {:?}, pages kept: {}, log {:?}, sizes adapt: {}, policy {:?}, move rate {:?}, partitions {}, classes {classes:?}, pages {} B, hot {} KiB, warm {} KiB, index {} \
             KiB, blocks {} KiB, slice {:?}, thresholds {:?}",
            self.kind,
            self.keeps_pages(),
            self.log,
            self.adapts(),
            self.policy,
            self.move_rate,
            self.partitions,
            self.page_size,
            self.hot / KIB,
            self.warm / KIB,
            self.index / KIB,
            self.block_bytes / KIB,
            self.slice,
            self.thresholds,
        )
    }
}

/// The class that the resolver gives a stream.
pub(crate) fn resolved(stream: Stream, classes: usize) -> Option<usize> {
    let number = stream.as_u64() as usize;
    (!number.is_multiple_of(3)).then_some(number / 3 % classes)
}

/// Which timestamps a class takes.
fn skew(rng: &mut Rng) -> Skew {
    let seconds = Duration::from_secs;
    if rng.chance(65) {
        return Skew::new();
    }
    let (ahead, behind) =
        (rng.pick(&[None, Some(0), Some(60), Some(7200)]), rng.pick(&[None, Some(30), Some(5000)]));
    let outside = rng.pick(&[Outside::Refuse, Outside::Clamp, Outside::DeadLetter]);
    Skew::new().ahead(ahead.map(seconds)).behind(behind.map(seconds)).outside(outside)
}

fn class(rng: &mut Rng, number: usize) -> ClassConfig {
    let seconds = Duration::from_secs;
    let hot = rng.pick(&[0, 5, 20, 60, 3600]);
    let warm = hot + rng.pick(&[0, 30, 120, 600, 36_000]);
    let retention = rng.pick(&[None, None, Some(90), Some(900), Some(7200)]);
    let class = ClassConfig::new(format!("class {number}"))
        .compress(rng.chance(80))
        .skew(skew(rng))
        .hot_for(seconds(hot))
        .warm_for(seconds(warm))
        .priority(rng.pick(&[0, 0, 1, 9]))
        .quota(rng.pick(&[None, None, None, Some(64), Some(300)]).map(|kib| kib * KIB))
        .retention(retention.map(seconds));
    if rng.chance(15) { class.on_leave(OnLeave::Drop) } else { class }
}
