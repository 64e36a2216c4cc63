//! What every policy must do, ours and users'.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::config::{ClassConfig, Config, OnLeave};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::eviction::Policy;
use crate::ids::{Class, Stream};
use crate::store::Store;
use crate::tiers::block::BlockId;
use crate::tiers::cold::{ColdBlock, ColdTier, Namespace, Tombstone};

const START: i64 = 1_700_000_000_000;
/// Events of a scenario: several times what its store holds.
const EVENTS: u64 = 6_000;
/// Of a hundred moves, how many may make no sense: what a policy saw can be out of date, but not often.
const REFUSED_MAX: u64 = 10;
/// Turns of the mover within which a store at rest must have settled.
const TURNS_MAX: usize = 5000;

/// Tries a policy in small stores that are filled several times over, with classes of all kinds, with readers, with a
/// clock that jumps, and with a cold tier that fails now and then. `make` makes a new one for each store.
///
/// It takes a second or so, and belongs into a test:
///
/// ```
/// use esker::policy::{AllOf, Random2Lru, TimeWindow};
///
/// esker::testing::policy_contract(|| AllOf::new().and(TimeWindow::new()).and(Random2Lru::new()));
/// ```
///
/// # Panics
/// When the policy panics, when more than a tenth of its moves make no sense, when a store at rest does not settle
/// (pages go up and down for ever), or when memory is not kept below the critical threshold although it could be. That
/// nothing is lost is checked, too; if that fails, it is a fault of the engine.
pub fn policy_contract<P: Policy + 'static>(make: impl Fn() -> P) {
    for kind in [Kind::Drop, Kind::Spill, Kind::Mixed] {
        let mut trial = match Trial::new(kind, make()) {
            Ok(trial) => trial,
            Err(error) => panic!("{kind:?}: {error}"),
        };
        if let Err(fault) = trial.run() {
            panic!("{kind:?}: {fault}\n{:#?}", trial.store.stats());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// No cold tier: what leaves is dropped.
    Drop,
    /// A cold tier, one class.
    Spill,
    /// Three classes with priorities, a quota, one without the warm region, and a tier that fails.
    Mixed,
}

struct Trial {
    kind: Kind,
    store: Store,
    clock: Clock,
    tier: Arc<Blocks>,
    random: u64,
}

type Outcome = std::result::Result<(), String>;

fn ensure(holds: bool, fault: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(fault()) }
}

impl Trial {
    fn new(kind: Kind, policy: impl Policy + 'static) -> Result<Self> {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let class =
            |name: &str| ClassConfig::new(name).hot_for(hours(2)).warm_for(hours(24)).retention(hours(900));
        let classes = match kind {
            Kind::Drop => vec![class("a").on_leave(OnLeave::Drop)],
            Kind::Spill => vec![class("a")],
            Kind::Mixed => vec![
                class("a").priority(9),
                class("b").quota(160 << 10).hot_for(Duration::from_secs(60)),
                class("c").compress(false),
            ],
        };
        let config = classes.into_iter().fold(Config::builder(), |config, class| config.class(class));
        let config = config
            .memory("8MiB")
            .hot(|hot| hot.max("512KiB").page_size("8KiB"))
            .warm(|warm| warm.max("256KiB").page_size("2KiB"))
            .index(|index| index.max("512KiB").page_size("2KiB"))
            .partitions(2)
            .append_timeout(Duration::from_secs(60))
            .slice(10_000, Duration::from_secs(60))
            .block_bytes("32KiB")
            .background(false);
        let (clock, tier) = (Clock::manual(START), Arc::new(Blocks::default()));
        let mut builder = Store::builder(config.build()?).clock(clock.clone()).policy(policy);
        if kind != Kind::Drop {
            builder = builder.cold(tier.clone());
        }
        Ok(Self { kind, store: builder.open()?, clock, tier, random: 1 })
    }

    fn run(&mut self) -> Outcome {
        for id in 0..EVENTS {
            self.append(id)?;
            self.read(id);
            if id % 500 == 499 {
                let hour = 3_600_000;
                let jump = [20_000, 3 * hour, -2 * hour, 60_000][(id / 500) as usize % 4];
                self.clock.set_ms(self.clock.now_ms() + jump);
                self.settle()?;
            }
            if self.kind == Kind::Mixed && id.is_multiple_of(1000) {
                self.tier.fail(id.is_multiple_of(2000));
            }
        }
        self.tier.fail(false);
        self.settle()?;
        self.check_moves()?;
        self.store.validate().map_err(|error| error.to_string())?;
        self.check_events()
    }

    /// The same numbers each time.
    fn below(&mut self, limit: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    fn append(&mut self, id: u64) -> Outcome {
        let class = Class::new(self.below(self.store.config().classes.len() as u64) as usize);
        let len = if id.is_multiple_of(300) { 20_000 } else { 40 + self.below(300) };
        let payload: Vec<u8> = (0..len).map(|at| ((at * id) >> 3) as u8).collect();
        let event = Event::new(Stream::from((id % 17) as u32), id, self.clock.now_ms(), 1).class(class);
        let event = event.payload(&payload);
        // Memory can be full of what a tier that fails does not take.
        for mended in [false, true] {
            match self.store.append_timeout(&event, Duration::from_millis(if mended { 60_000 } else { 1 })) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::MemoryPressure => self.tier.fail(false),
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("event {id} was refused although room could be made"))
    }

    /// A few events are read often, others now and then.
    fn read(&mut self, id: u64) {
        let often = self.below(200);
        let seldom = self.below(id + 1);
        let guard = self.store.pin();
        for id in [often, seldom] {
            let _ = guard.get(id);
        }
        let _ = guard.history(Stream::from((id % 17) as u32)).take(3).count();
    }

    /// Lets the store come to rest.
    fn settle(&self) -> Outcome {
        let core = &self.store.core;
        for _ in 0..TURNS_MAX {
            let before = self.store.stats().eviction;
            // A tier that fails is not the policy's affair.
            let _ = self.store.maintain();
            let after = self.store.stats().eviction;
            let moved = |stats: &crate::observe::stats::EvictionStats| {
                stats.demoted_pages + stats.promoted_pages + stats.released_pages
            };
            if moved(&before) == moved(&after) {
                let stats = self.store.stats();
                ensure(stats.eviction.policy_panic.is_none(), || {
                    format!("the policy panicked: {:?}", stats.eviction.policy_panic)
                })?;
                ensure(stats.memory_bytes <= core.config.memory, || {
                    "more memory than was configured".into()
                })?;
                return Ok(());
            }
        }
        Err(format!("pages still move after {TURNS_MAX} turns without an event"))
    }

    fn check_moves(&self) -> Outcome {
        let stats = self.store.stats();
        let eviction = &stats.eviction;
        let moved = eviction.demoted_pages + eviction.promoted_pages + eviction.released_pages;
        ensure(eviction.refused * 100 <= (moved + eviction.refused) * REFUSED_MAX, || {
            format!("{} moves were refused, {moved} made", eviction.refused)
        })?;
        let [hot, warm, _] = self.store.core.lanes.pages.used_ahead();
        for (name, (used, max)) in [("hot", hot), ("warm", warm)] {
            let fill = f64::from(used) / f64::from(max);
            let critical = self.store.config().thresholds.critical;
            ensure(fill < critical, || format!("the {name} region is at rest at {fill:.2}"))?;
        }
        ensure(eviction.released_pages > 20, || "hardly anything has left memory".into())
    }

    /// Every event of a class that is spilled is still found.
    fn check_events(&self) -> Outcome {
        if self.kind == Kind::Drop {
            return Ok(());
        }
        let mut found = BTreeSet::new();
        for event in self.store.fetch_scan(..) {
            let event = event.map_err(|error| error.to_string())?;
            ensure(found.insert(event.id()), || format!("event {} is found twice", event.id()))?;
        }
        ensure(found.len() as u64 == EVENTS, || format!("{} of {EVENTS} events are found", found.len()))
    }
}

/// A cold tier in a map.
#[derive(Default)]
struct Blocks {
    blocks: Mutex<BTreeMap<BlockId, ColdBlock>>,
    namespace: Mutex<Option<Namespace>>,
    stones: Mutex<Vec<Tombstone>>,
    failing: Mutex<bool>,
}

impl Blocks {
    fn fail(&self, yes: bool) {
        *self.failing.lock() = yes;
    }
}

impl ColdTier for Blocks {
    fn namespace(&self) -> Result<Option<Namespace>> {
        Ok(self.namespace.lock().clone())
    }

    fn set_namespace(&self, namespace: &Namespace) -> Result<()> {
        *self.namespace.lock() = Some(namespace.clone());
        Ok(())
    }

    fn put(&self, blocks: &[ColdBlock]) -> Result<()> {
        if *self.failing.lock() {
            return Err(Error::new(ErrorKind::Cold, "this tier is told to fail"));
        }
        let mut map = self.blocks.lock();
        map.extend(blocks.iter().map(|block| (block.id, block.clone())));
        Ok(())
    }

    fn get(&self, id: BlockId) -> Result<Option<Vec<u8>>> {
        Ok(self.blocks.lock().get(&id).map(|block| block.bytes.clone()))
    }

    fn delete(&self, ids: &[BlockId]) -> Result<()> {
        let mut map = self.blocks.lock();
        ids.iter().for_each(|id| drop(map.remove(id)));
        Ok(())
    }

    fn list(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        self.blocks.lock().iter().try_for_each(|(id, block)| visit(*id, &block.summary))
    }

    fn put_names(&self, _names: &[(String, u64)]) -> Result<()> {
        Ok(())
    }

    fn names(&self, _visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        Ok(())
    }

    fn put_tombstone(&self, stone: Tombstone) -> Result<()> {
        self.stones.lock().push(stone);
        Ok(())
    }

    fn delete_tombstones(&self, stones: &[Tombstone]) -> Result<()> {
        self.stones.lock().retain(|stone| !stones.contains(stone));
        Ok(())
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        self.stones.lock().iter().for_each(|stone| visit(*stone));
        Ok(())
    }
}
