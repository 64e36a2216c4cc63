//! Opening: checks what the cold tier holds against the configuration, and puts the parts together.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock::{self, Clock};
use crate::config::{Config, ConfigFault, OnFull};
use crate::error::{Error, ErrorKind, Result, call_user};
use crate::eviction::Policy;
use crate::eviction::engine::{Engine, EvictionShared};
use crate::ids::LaneId;
use crate::index::classes::ClassResolver;
use crate::index::names::Names;
use crate::lanes::append::Lanes;
use crate::lanes::attach::{Files, Image};
use crate::log::logger::Log;
use crate::log::replay::{ColdPages, Replayed};
use crate::log::segment::Identity;
use crate::observe::recovered::{Recovered, RecoveryProgress};
use crate::observe::stats::histogram;
use crate::pressure::RegionKind;
use crate::regions::region::Region;
use crate::store::Store;
use crate::store::admission::{Admission, FullHandler};
use crate::store::core::{Core, Kept};
use crate::store::durable::FoundLog;
use crate::store::letters::DeadLetterSink;
use crate::store::life::Life;
use crate::store::page_set::PageSet;
use crate::store::recover::{OnRecovery, attach, block_begin, recover, take_over};
use crate::store::screen::Screen;
use crate::store::shared::{Earlier, Shared, Taken};
use crate::store::worker::{self, Progress};
use crate::sys::machine::Machine;
use crate::tiers::caught::Caught;
use crate::tiers::cold::{ColdTier, Namespace};
use crate::tiers::directory::{Directory, writer_of};
use crate::tiers::disk::DiskTier;
use crate::tiers::reader::ColdReader;
use crate::tiers::spiller::Spiller;

/// Opens a store with parts of the caller's own. See [`Store::builder`].
#[must_use]
pub struct StoreBuilder {
    config: Config,
    clock: Clock,
    cold: Option<Arc<dyn ColdTier>>,
    policy: Option<Box<dyn Policy>>,
    resolver: Option<Arc<dyn ClassResolver>>,
    dead_letters: Option<Arc<dyn DeadLetterSink>>,
    on_prefault: Option<Box<Progress>>,
    handler: Option<Arc<dyn FullHandler>>,
    on_recovery: Option<OnRecovery>,
    seed: Option<u64>,
}

/// How the configured buffers are divided.
struct Shares {
    names: usize,
    directory: usize,
    blocks: usize,
    removed: usize,
    /// redb's page cache.
    disk: usize,
}

impl Shares {
    fn of(buffers: u64) -> Self {
        let part = |of: u64| (buffers / 16 * of) as usize;
        // The other 6/16 are for blocks on their way out (raw and packed) and for the mover's scratch: an event, of
        // 2/16 at most, can be in all three.
        Self { names: part(3), directory: part(3), blocks: part(2), removed: part(1), disk: part(1) }
    }
}

impl StoreBuilder {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            clock: Clock::system(),
            cold: None,
            policy: None,
            resolver: None,
            dead_letters: None,
            on_prefault: None,
            handler: None,
            on_recovery: None,
            seed: None,
        }
    }

    /// The clock that ages events.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// A cold tier other than the file in the data directory.
    pub fn cold(mut self, tier: Arc<dyn ColdTier>) -> Self {
        self.cold = Some(tier);
        self
    }

    /// What decides which pages move and leave memory. The default is
    /// [`PriorityTime`](crate::policy::PriorityTime).
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policy = Some(Box::new(policy));
        self
    }

    /// Says of which class the events of a stream are that name none: see [`ClassResolver`].
    pub fn class_resolver(mut self, resolver: impl ClassResolver) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// Takes the events that the store will not take, where a class says so: see [`DeadLetterSink`].
    pub fn dead_letters(mut self, sink: impl DeadLetterSink) -> Self {
        self.dead_letters = Some(Arc::new(sink));
        self
    }

    /// Is told how far the touching of memory is ([`RegionBuilder::prefault`](crate::RegionBuilder::prefault)): bytes
    /// done, and bytes in all. It is called from several threads, for each 32 MiB or so.
    ///
    /// ```
    /// use esker::{Config, Store};
    ///
    /// let config = Config::builder().memory("64MiB").hot(|hot| hot.prefault(true)).build()?;
    /// let store = Store::builder(config).on_prefault(|done, all| println!("{done} of {all} bytes")).open()?;
    /// # Ok::<(), esker::Error>(())
    /// ```
    pub fn on_prefault(mut self, told: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        // What it does is its own affair: a panic of it must not keep the store from opening.
        let tell = move |done, all| drop(call_user("StoreBuilder::on_prefault", || told(done, all)));
        self.on_prefault = Some(Box::new(tell));
        self
    }

    /// Decides what becomes of events for which there is no room, of classes that say [`OnFull::Ask`].
    pub fn on_full(mut self, handler: impl FullHandler) -> Self {
        self.handler = Some(Arc::new(handler));
        self
    }

    /// Says what is missing of what the classes ask for.
    fn check_parts(&self) -> Result<()> {
        let (config, letters) = (&self.config, self.dead_letters.is_some());
        let asks =
            |what: OnFull| config.classes.iter().any(|class| class.on_full.unwrap_or(config.on_full) == what);
        let fault = |field: String, asks: &str, missing: &str| ConfigFault {
            field,
            problem: format!("{asks}, but the store has no {missing}: give one to the StoreBuilder"),
        };
        let mut faults = Vec::new();
        if asks(OnFull::Ask) && self.handler.is_none() {
            let missing = "handler (StoreBuilder::on_full)";
            faults.push(fault("on_full".into(), "a class says OnFull::Ask", missing));
        }
        let missing = "dead letters (StoreBuilder::dead_letters)";
        if asks(OnFull::DeadLetter) && !letters {
            faults.push(fault("on_full".into(), "a class says OnFull::DeadLetter", missing));
        }
        for class in config.classes.iter().filter(|class| class.skew.needs_letters() && !letters) {
            let field = format!("class {:?}.skew.outside", class.name);
            faults.push(fault(field, "says Outside::DeadLetter", missing));
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::config(faults)) }
    }

    /// Is told how far the opening is that takes over the pages of an earlier run, where it walks over every record in
    /// memory: it need not where that run was closed ([`Recovered::attached`]). Called from several threads.
    pub fn on_recovery(mut self, tell: impl Fn(RecoveryProgress) + Send + Sync + 'static) -> Self {
        let tell = move |progress| drop(call_user("StoreBuilder::on_recovery", || tell(progress)));
        self.on_recovery = Some(Box::new(tell));
        self
    }

    /// The number by which a new store distributes streams: for tests whose runs must not differ. Otherwise nobody can
    /// know it, so nobody can choose names that collide.
    #[doc(hidden)]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Opens the store.
    ///
    /// # Errors
    /// As for [`Store::open`]; and [`InvalidConfig`](ErrorKind::InvalidConfig) when a class wants a handler or dead
    /// letters that were not given, or a field of the configuration was changed after it was built.
    pub fn open(self) -> Result<Store> {
        self.config.check_unchanged()?;
        self.check_parts()?;
        let Self {
            mut config,
            clock,
            cold,
            policy,
            resolver,
            dead_letters,
            on_prefault,
            handler,
            on_recovery,
            seed,
        } = self;
        let clock = clock.of_store(config.background);
        let shares = Shares::of(config.buffers);
        let mut taken = Taken::open(&config)?;
        let mut page_set = PageSet::open(&config)?;
        let has_pages = taken.as_ref().is_some_and(|taken| taken.earlier.is_some());
        let mut found_log = FoundLog::take(&config, has_pages)?;
        if let (Some(log), Some(taken)) = (&mut found_log, &mut taken) {
            log.compare(taken)?;
        }
        let earlier = taken.as_ref().and_then(|taken| taken.earlier.as_ref());
        let gone = page_set.choose(&config, earlier)?;
        if let Some(earlier) = earlier
            && earlier.partitions != config.partitions
            && !config.partitions_fixed
        {
            config.adopt_partitions(earlier.partitions)?;
        }
        let replayed = found_log.as_ref().and_then(FoundLog::replayed);
        if let Some(identity) = replayed.filter(|_| !config.partitions_fixed) {
            config.adopt_partitions(identity.partitions)?;
        }
        let earlier_seed = earlier.map(|earlier| earlier.seed).or(replayed.map(|identity| identity.seed));
        let tier = match (cold, &config.data_dir) {
            (Some(tier), _) => Some(Arc::new(Caught(tier)) as Arc<dyn ColdTier>),
            (None, Some(dir)) => Some(Arc::new(DiskTier::open(dir, shares.disk)?) as Arc<dyn ColdTier>),
            (None, None) => None,
        };
        let begun = tier.as_ref().map(|tier| tier.begin(&config.classes)).transpose()?.unwrap_or(0);
        if writer_of(begun) == writer_of(u64::MAX) {
            return Err(Error::new(
                ErrorKind::Incompatible,
                "the cold tier has given all numbers of pages to earlier openings: none are left. Begin a new namespace",
            ));
        }
        let wanted = earlier_seed.or(seed);
        let (seed, grown) = match &tier {
            Some(tier) => agree(&mut config, tier.as_ref(), wanted)?,
            None => (wanted.unwrap_or_else(fresh_seed), None),
        };
        if let Some(log) = &found_log {
            log.check(seed, config.partitions)?;
        }
        // Pages that are put back have the numbers that they had.
        let begun = replayed.map_or(begun, |identity| identity.first_seq);
        let (mut shared, earlier, alone) = match taken {
            Some(taken) => {
                let (shared, earlier) = taken.settle(&config, seed, begun, page_set)?;
                (Some(shared), earlier, None)
            }
            None => (None, None, Some(page_set)),
        };
        if let (Some(tier), Some(grown)) = (&tier, &grown) {
            add_classes(tier.as_ref(), grown)?;
        }
        let first_seq = earlier.as_ref().map_or(begun, |earlier| earlier.first_seq);
        let names = Names::new(seed, shares.names);
        let screen = Screen::new(&config, seed, resolver, dead_letters.clone());
        let cold = tier.map(|tier| open_cold(&config, tier, &names, &shares, first_seq)).transpose()?;
        let machine = Arc::new(Machine::new(&config)?);
        if let Some(dir) = &gone {
            machine.warn(format!(
                "the pages that this data directory had in {} are not there any more (they end with the system, where they \
                 are in shared memory): what only they held is lost",
                dir.display()
            ));
        }
        let system = Region::open(RegionKind::System, config.system.whole(), &machine)?;
        let removed = cold.as_ref().map(ColdReader::removed_up_to).unwrap_or_default();
        let confirmed = |lane| cold.as_ref().map_or(0, |cold| cold.directory.end_seq(lane)).max(first_seq);
        let end_seq = |lane| {
            if first_seq > 0 && earlier.is_none() && replayed.is_none() {
                return first_seq;
            }
            confirmed(lane).max(removed.get(&lane).map_or(0, |seq| seq.saturating_add(1)))
        };
        let image = shared.as_mut().and_then(|shared| shared.image.take());
        let open = |image: Option<&Image>| {
            let files = shared.as_ref().map(|shared| Files { dir: &shared.dir, image });
            Lanes::new(&config, &system, &machine, files, seed, clock.clone(), end_seq)
        };
        let image = image.and_then(|words| Image::parse(&words, &config));
        let attached = image.and_then(|image| {
            let lanes = open(Some(&image)).ok()?;
            let known = |lane| [end_seq(lane), confirmed(lane)];
            let recovered = attach(&lanes, &image, cold.as_ref(), &known)?;
            Some((lanes, recovered))
        });
        let (lanes, attached) = match attached {
            Some((lanes, recovered)) => (lanes, Some(recovered)),
            None => (open(None)?, None),
        };
        worker::prefault(
            &machine,
            &[&system, &lanes.pages.hot, &lanes.pages.warm, &lanes.index_region],
            on_prefault.as_deref(),
        )?;
        machine.is_open();
        let parts = Parts { config: &config, lanes: &lanes, names: &names, cold: cold.as_ref() };
        let kept = shared.map(|shared| {
            keep(
                shared,
                earlier,
                attached,
                found_log,
                parts,
                seed,
                first_seq,
                &confirmed,
                on_recovery.as_ref(),
            )
        });
        let (mut kept, log) = kept.transpose()?.unzip();
        if let Some(kept) = kept.as_mut().filter(|_| gone.is_some()) {
            kept.recovered.get_or_insert_default().pages_gone = true;
        }
        if let Some(mut page_set) = alone {
            page_set.opened(config.durability)?;
        }
        let count = lanes.lanes().count();
        let engine = Engine::new(&config, &lanes, policy);
        let puts = cold.as_ref().map_or(1, |cold| cold.tier.puts_at_once().clamp(1, 8));
        let spiller = Spiller::new(&config, &lanes, histogram()?, puts);
        if let Some(cold) = &cold {
            spiller.expect(&lanes, cold);
        }
        let admission = Admission::new(&config, handler, dead_letters);
        let core = Core::new(
            Life::begin()?,
            kept,
            log.flatten(),
            config,
            machine,
            system,
            lanes,
            names,
            screen,
            cold,
            engine,
            EvictionShared::new(count),
            spiller,
            admission,
        );
        core.fit_found();
        core.check_adapting();
        Store::start(core)
    }
}

fn open_cold(
    config: &Config,
    tier: Arc<dyn ColdTier>,
    names: &Names,
    shares: &Shares,
    first_seq: u64,
) -> Result<ColdReader> {
    tier.names(&mut |name, stream| names.restore(name, crate::ids::Stream::from_raw(stream)))?;
    let directory = Directory::new(config.partitions, config.classes.len(), shares.directory, first_seq);
    let cold = ColdReader::new(tier, directory, shares.blocks, shares.removed, histogram()?)?;
    cold.learn_blocks()?;
    Ok(cold)
}

/// Parts of a store that is being opened.
#[derive(Clone, Copy)]
struct Parts<'p> {
    config: &'p Config,
    lanes: &'p Lanes,
    names: &'p Names,
    cold: Option<&'p ColdReader>,
}

#[expect(clippy::too_many_arguments, reason = "the parts that something was kept of")]
/// Takes over what the files of an earlier run hold, and begins to keep there what this one does.
fn keep(
    shared: Shared,
    earlier: Option<Earlier>,
    attached: Option<Recovered>,
    found_log: Option<FoundLog>,
    parts: Parts<'_>,
    seed: u64,
    first_seq: u64,
    confirmed: &(dyn Fn(LaneId) -> u64 + Sync),
    tell: Option<&OnRecovery>,
) -> Result<(Kept, Option<Log>)> {
    let Parts { config, lanes, names, cold } = parts;
    let (log, entries) = match &found_log {
        Some(log) => log.names(&shared.dir)?,
        None => shared.names()?,
    };
    let found = names.restore_log(log, &entries.entries);
    let last_id = shared.last_id()?;
    let marks = found_log.as_ref().map(|log| log.marks(&shared.dir, config)).transpose()?;
    let recovered = match (&earlier, &found_log, &marks) {
        (Some(earlier), ..) => {
            let go_on = |log: &FoundLog| if attached.is_some() { Ok(()) } else { log.go_on(lanes) };
            found_log.as_ref().map_or(Ok(()), go_on)?;
            let recovered = attached.map_or_else(|| recover(config, lanes, cold, confirmed, tell), Ok)?;
            Some(Recovered { was_closed: earlier.was_closed(), ..recovered })
        }
        (None, Some(log), Some(marks)) if log.must_replay => {
            let begin = clock::now();
            let block_begin = |lane, seq| block_begin(cold, lane, seq);
            let cold_pages = ColdPages { end: confirmed, block_begin: &block_begin };
            let replayed = log.replay(config, lanes, marks, cold_pages)?;
            let Replayed { found, lost, damaged, last_id: last } = replayed;
            last_id[0].fetch_max(last, Ordering::Relaxed);
            let recovered = take_over(config, lanes, cold, confirmed, tell, (found, lost), true)?;
            let took = begin.elapsed();
            Some(Recovered { from_log: true, damaged_log_parts: damaged, took, ..recovered })
        }
        _ => None,
    };
    let names_found =
        |recovered| Recovered { names: found, damaged_name_bytes: entries.damaged, ..recovered };
    let identity = Identity { seed, partitions: config.partitions, first_seq, pages: shared.pages };
    let log = match (found_log, marks) {
        (Some(log), Some(marks)) => Some(log.begin(config, lanes, marks, identity)?),
        _ => None,
    };
    shared.opened(config.durability)?;
    Ok((Kept { recovered: recovered.map(names_found), last_id, shared }, log))
}

/// A number that differs from store to store, so that nobody can choose names or ids that collide.
pub(super) fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_u128(clock::now().elapsed().as_nanos());
    hasher.finish()
}

/// Compares the configuration with what the data was written with, and takes over what it leaves open. Gives the
/// seed, and what is to be saved if the configuration has more classes and nothing else keeps the store from opening.
fn agree(config: &mut Config, tier: &dyn ColdTier, seed: Option<u64>) -> Result<(u64, Option<Namespace>)> {
    let classes: Vec<String> = config.classes.iter().map(|class| class.name.clone()).collect();
    let Some(saved) = tier.namespace()? else {
        let seed = seed.unwrap_or_else(fresh_seed);
        tier.set_namespace(&Namespace { partitions: config.partitions as u32, seed, classes })?;
        // Of two stores that begin a shared namespace at once, one is first.
        return match tier.namespace()? {
            Some(saved) if saved.seed != seed => agree(config, tier, None),
            _ => Ok((seed, None)),
        };
    };
    let partitions = saved.partitions as usize;
    let incompatible = |text: String| Err(Error::new(ErrorKind::Incompatible, text));
    if !partitions.is_power_of_two() || partitions > crate::config::PARTITIONS_MAX {
        return incompatible(format!("the data says it has {partitions} partitions, which no esker writes"));
    }
    if config.partitions != partitions {
        if config.partitions_fixed {
            return incompatible(format!(
                "the data was written with {partitions} partitions, the configuration asks for {}; the number cannot \
                 change: leave it out, or use another data directory",
                config.partitions
            ));
        }
        config.adopt_partitions(partitions)?;
    }
    if classes.len() < saved.classes.len() || classes[..saved.classes.len()] != saved.classes {
        return incompatible(format!(
            "the data was written with the classes {:?}, the configuration has {classes:?}; keep the old ones in their \
             order and add new ones at the end",
            saved.classes
        ));
    }
    let grown = classes.len() > saved.classes.len();
    let grown = grown.then_some(Namespace { partitions: saved.partitions, seed: saved.seed, classes });
    Ok((saved.seed, grown))
}

/// Saves classes that are new.
fn add_classes(tier: &dyn ColdTier, grown: &Namespace) -> Result<()> {
    tier.set_namespace(grown)?;
    // Of two stores that add classes to a shared namespace at once, one is first.
    match tier.namespace()?.filter(|now| now.classes != grown.classes) {
        Some(now) => Err(Error::new(
            ErrorKind::Incompatible,
            format!("the data has the classes {:?} by now; open again", now.classes),
        )),
        None => Ok(()),
    }
}
