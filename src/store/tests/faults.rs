//! What goes wrong at the worst moment, which only the store's own code can arrange.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::tiers::block::BlockId;
use crate::tiers::cold::{ColdBlock, ColdTier, Namespace, Tombstone};
use crate::tiers::disk::DiskTier;

/// A tier on the disk that counts what is put, and fails or panics on demand.
pub(super) struct Tier {
    disk: DiskTier,
    /// The first page number that an opening is given.
    pub(super) begin: AtomicU64,
    refuses_removals: AtomicBool,
    refuses_lists: AtomicBool,
    /// So many of the next calls panic.
    panics: AtomicU64,
    /// What it says that it takes of memory.
    pub(super) memory: AtomicU64,
    pub(super) on_get: Mutex<Option<Inquiry>>,
    pub(super) on_put: Mutex<Option<Inquiry>>,
}

/// What is done in the middle of a call, and whether the call succeeds.
type Inquiry = Arc<dyn Fn() -> Result<()> + Send + Sync>;

fn ask(inquiry: &Mutex<Option<Inquiry>>) -> Result<()> {
    let inquiry = inquiry.lock().clone();
    inquiry.map_or(Ok(()), |inquiry| inquiry())
}

impl Tier {
    pub(super) fn new(dir: &std::path::Path) -> Arc<Self> {
        let disk = DiskTier::open(dir, 1 << 20).unwrap();
        let (begin, panics) = (AtomicU64::default(), AtomicU64::default());
        let (refuses_removals, refuses_lists) = Default::default();
        let (memory, on_get, on_put) = Default::default();
        Arc::new(Self { disk, begin, refuses_removals, refuses_lists, panics, memory, on_get, on_put })
    }

    fn call(&self) -> &DiskTier {
        let left = self.panics.load(Ordering::SeqCst);
        self.panics.store(left.saturating_sub(1), Ordering::SeqCst);
        assert!(left == 0, "a tier that panics for a test");
        &self.disk
    }
}

impl ColdTier for Tier {
    fn begin(&self, _: &[ClassConfig]) -> Result<u64> {
        Ok(self.begin.load(Ordering::SeqCst))
    }

    fn namespace(&self) -> Result<Option<Namespace>> {
        self.call().namespace()
    }

    fn set_namespace(&self, namespace: &Namespace) -> Result<()> {
        self.call().set_namespace(namespace)
    }

    fn put(&self, blocks: &[ColdBlock]) -> Result<()> {
        ask(&self.on_put)?;
        // Done, and nobody is told.
        let outcome = self.disk.put(blocks);
        self.call();
        outcome
    }

    fn get(&self, id: BlockId) -> Result<Option<Vec<u8>>> {
        ask(&self.on_get)?;
        self.call().get(id)
    }

    fn delete(&self, ids: &[BlockId]) -> Result<()> {
        self.call().delete(ids)
    }

    fn list(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        if self.refuses_lists.load(Ordering::SeqCst) {
            return Err(told_to_fail());
        }
        self.call().list(visit)
    }

    fn put_names(&self, names: &[(String, u64)]) -> Result<()> {
        self.disk.put_names(names)
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        self.call().names(visit)
    }

    fn put_tombstone(&self, tombstone: Tombstone) -> Result<()> {
        if self.refuses_removals.load(Ordering::SeqCst) {
            return Err(told_to_fail());
        }
        self.call().put_tombstone(tombstone)
    }

    fn delete_tombstones(&self, tombstones: &[Tombstone]) -> Result<()> {
        self.call().delete_tombstones(tombstones)
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        self.call().tombstones(visit)
    }

    fn memory_bytes(&self) -> u64 {
        self.memory.load(Ordering::SeqCst)
    }
}

fn told_to_fail() -> crate::error::Error {
    crate::error::Error::cold("told to fail", std::io::Error::other("for a test"))
}

pub(super) fn small(background: bool) -> Config {
    let config = Config::builder().memory("32MiB").partitions(1).background(background);
    config.hot(|hot| hot.max("4MiB").page_size("16KiB")).build().unwrap()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Deadline::after(Duration::from_secs(120));
    while !done() {
        assert!(!deadline.has_passed(), "{what}: not in two minutes");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A spill comes to the event's page when it was decided already that the tier need not be told, since none had. It must
/// not read the event before that is off the index: the tier, which takes no removals, would bring it back.
#[test]
fn a_spill_that_begins_in_the_middle_of_a_removal_does_not_bring_the_event_back() {
    let dir = tempfile::tempdir().unwrap();
    let tier = Tier::new(dir.path());
    let store = Store::builder(small(false)).cold(tier.clone()).open().unwrap();
    append(&store, "default", 0..60);
    tier.refuses_removals.store(true, Ordering::SeqCst);
    let (core, spill) = (store.core.clone(), Arc::new(Mutex::new(None)));
    let kept = spill.clone();
    store.core.hooks.add("removing", move || {
        let spilling = core.clone();
        let thread = std::thread::Builder::new().spawn(move || spilling.spill(true).unwrap()).unwrap();
        wait_until("a spill has reached the page", || core.spiller.has_reached(0, 0));
        // It would have read and written the page by then.
        std::thread::sleep(Duration::from_millis(50));
        *kept.lock() = Some(thread);
    });
    let outcome = store.remove(0);
    let spilled = spill.lock().take().unwrap().join().unwrap();
    assert!(spilled > 0, "the spill went on");
    assert!(outcome.unwrap(), "the event was there");
    assert!(store.fetch(0).unwrap().is_none(), "not from memory");
    store.flush(Duration::from_secs(60)).unwrap();
    assert_eq!(store.stats().cold.events, 59);
    assert!(!store.remove(0).unwrap(), "and not from the tier");
    store.validate().unwrap();
    // Where a spill has read the page, the tier must take the removal; if it does not, nothing has changed.
    store.remove(1).unwrap_err();
    assert!(store.pin().get(1).is_some());
}

#[test]
fn threads_of_the_store_that_panic_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::builder().memory("32MiB").partitions(1).data_dir(dir.path().join("data"));
    let config = config
        .shared_dir(dir.path().join("shared"))
        .durability(Durability::Disk(DiskSync::Interval(Duration::from_millis(5))));
    let tier = Tier::new(dir.path());
    let store = Store::builder(config.build().unwrap()).cold(tier).open().unwrap();
    let points = ["moving", "spilling", "keeping", "logging"];
    for point in points {
        for _ in 0..2 {
            store.core.hooks.add(point, move || panic!("in a thread that is {point}"));
        }
    }
    append(&store, "default", 0..200);
    store.core.ring_spillers();
    wait_until("all of them panicked twice", || {
        store.core.mover_bell.ring();
        store.core.keeper_bell.ring();
        store.core.ring_spillers();
        store.stats().thread_panics == 8
    });
    let warnings = store.stats().warnings;
    for point in points {
        let told = warnings.iter().filter(|line| line.contains(&format!("in a thread that is {point}")));
        assert_eq!(told.count(), 1, "{point}: {warnings:?}");
    }
    // All of them work.
    append(&store, "default", 200..2000);
    wait_until("events come to the tier", || store.stats().cold.events > 0);
    store.sync().unwrap();
    store.validate().unwrap();
    assert!((0..2000).all(|id| store.fetch(id).unwrap().is_some()));
    assert_eq!(store.close(Duration::from_secs(60)).unwrap().left, 0);
}

/// Whoever waits for a turn must not wait for one who has panicked in it.
#[test]
fn a_panic_in_a_turn_of_the_log_is_a_log_that_is_broken() {
    for (mode, background) in
        [(DiskSync::EveryBatch, false), (DiskSync::Interval(Duration::from_millis(2)), true)]
    {
        let dir = tempfile::tempdir().unwrap();
        let store = with_log(dir.path(), mode, background).unwrap();
        let event = |id| Event::new(Stream::from(1u32), id, 0, 0).payload(&[7; 100]);
        store.append(&event(0)).unwrap();
        store.sync().unwrap();
        store.core.log.as_ref().unwrap().panic_in_sync();
        let mut ids = 1..;
        let error = loop {
            if let Err(error) = store.append(&event(ids.next().unwrap())) {
                break error;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(error.kind(), ErrorKind::NotDurable, "{error}");
        let stats = store.stats().log;
        assert!(stats.broken && stats.last_error.unwrap().contains("a panic for a test"));
        assert!(store.pin().get(0).is_some());
        store.abandon();
        let store = with_log(dir.path(), mode, background).unwrap();
        assert!((0..ids.start - 1).all(|id| store.pin().get(id).is_some()));
        store.append(&event(1 << 40)).unwrap();
        store.sync().unwrap();
    }
}

#[test]
fn a_tier_that_panics_has_failed_and_its_blocks_are_put_again() {
    let dir = tempfile::tempdir().unwrap();
    let tier = Tier::new(dir.path());
    let store = Store::builder(small(false)).cold(tier.clone()).open().unwrap();
    append(&store, "default", 0..60);
    tier.panics.store(1, Ordering::SeqCst);
    let error = store.flush(Duration::from_secs(60)).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Panicked && error.to_string().contains("panics for a test"),
        "{error}"
    );
    assert!(store.stats().cold.last_error.unwrap().contains("panics for a test"));
    append(&store, "default", 60..80);
    store.flush(Duration::from_secs(60)).unwrap();
    assert_eq!(store.stats().cold.events, 80);
    tier.panics.store(1, Ordering::SeqCst);
    assert_eq!(store.remove(7).unwrap_err().kind(), ErrorKind::Panicked);
    assert!(store.remove(7).unwrap() && store.fetch(7).unwrap().is_none());
    assert_eq!(store.fetch_scan(..).filter(|event| event.is_ok()).count(), 79);
    store.validate().unwrap();
    // Nobody opens anything with a tier that panics meanwhile.
    drop(store);
    tier.panics.store(1, Ordering::SeqCst);
    let error = Store::builder(small(false)).cold(tier).open().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Panicked);
}

#[test]
fn a_panic_of_who_is_told_of_progress_keeps_no_store_from_opening() {
    let config = Config::builder().memory("32MiB").hot(|hot| hot.max("4MiB").prefault(true)).build().unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let counter = told.clone();
    let opened = Store::builder(config).on_prefault(move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        panic!("for a test")
    });
    append(&opened.open().unwrap(), "default", 0..10);
    assert!(told.load(Ordering::SeqCst) > 0);
}

/// What was settled stays so: a store that keeps nothing opens where the cold tier has everything, and only there.
#[test]
fn an_opening_that_fails_leaves_the_record_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let config = |durability| {
        let config = Config::builder().memory("32MiB").partitions(1).data_dir(dir.path().join("data"));
        let config = config.shared_dir(dir.path().join("shared")).background(false);
        config.durability(durability).build().unwrap()
    };
    let tier = Tier::new(dir.path());
    let open = |durability| Store::builder(config(durability)).cold(tier.clone()).open();
    let store = open(Durability::Process).unwrap();
    append(&store, "default", 0..60);
    assert_eq!(store.close(Duration::from_secs(60)).unwrap().left, 0);
    drop(store);
    let fails = || {
        tier.refuses_lists.store(true, Ordering::SeqCst);
        assert_eq!(open(Durability::Process).err().unwrap().kind(), ErrorKind::Cold);
        tier.refuses_lists.store(false, Ordering::SeqCst);
    };
    (0..3).for_each(|_| fails());
    let store = open(Durability::Memory).unwrap();
    assert_eq!(store.fetch_scan(..).filter(|event| event.is_ok()).count(), 60);
    drop(store);
    // And what was not settled does not become so.
    let store = open(Durability::Process).unwrap();
    append(&store, "default", 60..80);
    store.abandon();
    fails();
    assert_eq!(open(Durability::Memory).err().unwrap().kind(), ErrorKind::Incompatible);
    let store = open(Durability::Process).unwrap();
    assert!((0..80).all(|id| store.fetch(id).unwrap().is_some()));
}

#[test]
fn memory_that_cannot_be_touched_is_an_error_of_opening_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // A size that no other test has.
    let bytes = (4 << 20) + (48 << 10);
    let config = Config::builder()
        .memory("32MiB")
        .durability(Durability::Process)
        .shared_dir(dir.path())
        .hot(|hot| hot.max(bytes as u64).initial(bytes as u64).page_size("16KiB").prefault(true));
    let config = config.build().unwrap();
    crate::sys::memory::UNTOUCHABLE.store(bytes, Ordering::SeqCst);
    for _ in 0..3 {
        let error = Store::open(config.clone()).err().unwrap();
        assert!(error.kind() == ErrorKind::Io && error.to_string().contains("pre-fault"), "{error}");
    }
    crate::sys::memory::UNTOUCHABLE.store(0, Ordering::SeqCst);
    // The directory is nobody's.
    let store = Store::open(config).unwrap();
    append(&store, "default", 0..60);
    store.validate().unwrap();
}

/// Whoever waits for the disk shares its turns with all who come meanwhile, and who need not wait does not.
#[test]
fn a_disk_that_takes_100_ms_for_each_write_keeps_its_promise_and_says_how_long_it_takes() {
    const SLOW: Duration = Duration::from_millis(100);
    let dir = tempfile::tempdir().unwrap();
    let event = |id| Event::new(Stream::from(1u32), id, 0, 0).payload(&[7; 100]);
    let store = with_log(dir.path(), DiskSync::EveryBatch, true).unwrap();
    store.core.log.as_ref().unwrap().slow_down(SLOW);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (store, event) = (&store, &event);
            scope.spawn(move || {
                for id in 0..5 {
                    store.append(&event(thread * 5 + id)).unwrap();
                }
            });
        }
    });
    let stats = store.stats().log;
    assert!(stats.sync.p99 >= SLOW && stats.sync.count >= 5, "{stats:?}");
    assert!(stats.syncs < 40, "eight share a turn: {} turns for 40 appends", stats.syncs);
    store.abandon();
    std::fs::remove_dir_all(dir.path().join("shared")).unwrap();
    let store = with_log(dir.path(), DiskSync::EveryBatch, true).unwrap();
    assert!((0..40).all(|id| store.pin().get(id).is_some()));
    store.abandon();

    let dir = tempfile::tempdir().unwrap();
    let store = with_log(dir.path(), DiskSync::Interval(Duration::from_millis(5)), true).unwrap();
    store.core.log.as_ref().unwrap().slow_down(SLOW);
    for id in 0..2000 {
        store.append(&event(id)).unwrap();
    }
    store.sync().unwrap();
    let stats = store.stats().log;
    assert!(stats.syncs < 1000 && stats.sync.p99 >= SLOW, "nobody waited for the disk: {stats:?}");
    store.abandon();
    std::fs::remove_dir_all(dir.path().join("shared")).unwrap();
    let store = with_log(dir.path(), DiskSync::Interval(Duration::from_millis(5)), true).unwrap();
    let missing: Vec<u64> = (0..2000).filter(|id| store.fetch(*id).unwrap().is_none()).collect();
    assert!(missing.is_empty(), "{} missing from {missing:?} on, {:?}", missing.len(), store.recovered());
}
