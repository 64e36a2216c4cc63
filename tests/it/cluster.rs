//! Cold tiers like a cluster: away when a store opens that has kept its pages, or shared with other stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use esker::{
    BlockId, ClassConfig, Clock, ColdBlock, ColdTier, Durability, Error, ErrorKind, Event, Namespace, Result,
    Store, Stream, Tombstone,
};

use crate::common::{append_proof, small};
use crate::tier::{Fault, MapTier};

const CLOSE: Duration = Duration::from_secs(60);

/// A tier that may begin without its server: it shows nothing of what it has until that is back. Each opening has numbers of
/// its own.
#[derive(Default)]
struct Away {
    tier: MapTier,
    is_away: AtomicBool,
    begun: AtomicU64,
}

impl Away {
    fn is_away(&self) -> bool {
        self.is_away.load(Ordering::SeqCst)
    }
}

impl ColdTier for Away {
    fn begin(&self, _: &[ClassConfig]) -> Result<u64> {
        Ok((self.begun.fetch_add(1, Ordering::SeqCst) + 1) << 40)
    }

    fn awaits_server(&self) -> bool {
        self.is_away()
    }

    fn namespace(&self) -> Result<Option<Namespace>> {
        self.tier.namespace()
    }

    fn set_namespace(&self, namespace: &Namespace) -> Result<()> {
        self.tier.set_namespace(namespace)
    }

    fn put(&self, blocks: &[ColdBlock]) -> Result<()> {
        self.tier.put(blocks)
    }

    fn get(&self, id: BlockId) -> Result<Option<Vec<u8>>> {
        if self.is_away() {
            return Err(Error::cold("the server is away", std::io::Error::other("away")));
        }
        self.tier.get(id)
    }

    fn delete(&self, ids: &[BlockId]) -> Result<()> {
        self.tier.delete(ids)
    }

    fn list(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        if self.is_away() { Ok(()) } else { self.tier.list(visit) }
    }

    fn put_names(&self, names: &[(String, u64)]) -> Result<()> {
        self.tier.put_names(names)
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        if self.is_away() { Ok(()) } else { self.tier.names(visit) }
    }

    fn put_tombstone(&self, tombstone: Tombstone) -> Result<()> {
        self.tier.put_tombstone(tombstone)
    }

    fn delete_tombstones(&self, tombstones: &[Tombstone]) -> Result<()> {
        self.tier.delete_tombstones(tombstones)
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        if self.is_away() { Ok(()) } else { self.tier.tombstones(visit) }
    }
}

/// Pages that are kept may be in blocks that the server has. Cut anew, from a page in the middle of one, their events would be
/// there twice, and those of them that were removed meanwhile would be back.
#[test]
fn pages_that_are_kept_wait_for_a_server_that_is_away() {
    for (kill, more) in [(false, 0), (false, 270), (true, 0), (true, 540), (true, 810)] {
        let (dir, clock) = (tempfile::tempdir_in("/dev/shm").unwrap(), Clock::manual(0));
        let tier = Arc::new(Away::default());
        let open = || {
            let seconds = Duration::from_secs;
            let class = ClassConfig::new("hot").compress(false).hot_for(seconds(5)).warm_for(seconds(10));
            let config = small().durability(Durability::Process).shared_dir(dir.path().join("pages"));
            let config = config.hot(|hot| hot.page_size("8KiB")).partitions(1).block_bytes("16KiB");
            let builder = Store::builder(config.class(class).background(false).build().unwrap());
            builder.cold(tier.clone()).clock(clock.clone()).open().unwrap()
        };
        let append = |store: &Store, numbers: std::ops::Range<u64>| {
            for number in numbers {
                append_proof(store, Event::new(Stream::from(1u32), number, clock.now_ms(), 0), 200);
            }
        };
        let store = open();
        for number in (0..1000).step_by(25) {
            clock.set_ms(number as i64 * 8);
            append(&store, number..number + 25);
        }
        store.flush(CLOSE).unwrap();
        clock.set_ms(11_000 + more);
        store.maintain().unwrap();
        let kept = store.stats().events.hot;
        assert!(kept > 500 && kept < 1000, "some have left");
        if kill {
            store.abandon();
        } else {
            store.close(CLOSE).unwrap();
            drop(store);
        }
        tier.is_away.store(true, Ordering::SeqCst);
        let store = open();
        let removed: Vec<u64> = store.pin().scan(..).map(|event| event.id()).take(10).collect();
        removed.iter().for_each(|id| assert!(store.remove(*id).unwrap()));
        append(&store, 1000..1100);
        assert_eq!(store.flush(CLOSE).unwrap_err().kind(), ErrorKind::Cold);
        clock.set_ms(60_000);
        store.maintain().unwrap();
        assert_eq!(store.stats().events.hot, kept - 10 + 100, "nobody knows what the tier has");
        assert!(store.stats().cold.awaits_server, "and the figures say so");
        tier.is_away.store(false, Ordering::SeqCst);
        store.maintain().unwrap();
        store.flush(CLOSE).unwrap();
        store.maintain().unwrap();
        assert_eq!(store.stats().events.hot, 0);
        assert!(!store.stats().cold.awaits_server);
        let mut ids: Vec<u64> = store.fetch_scan(..).map(|event| event.unwrap().id()).collect();
        ids.sort_unstable();
        let wanted: Vec<u64> = (0..1100).filter(|id| !removed.contains(id)).collect();
        assert!(ids == wanted, "{} of {} events", ids.len(), wanted.len());
        store.validate().unwrap();
    }
}

/// Each opening has numbers of its own in a tier that is shared, above those of all before. The blocks of a store that was
/// opened later say nothing about the pages of an earlier one.
#[test]
fn a_store_that_keeps_its_pages_goes_on_beside_one_that_was_opened_later() {
    for kill in [true, false] {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let tier = Arc::new(Away::default());
        let open = |name: &str| {
            let config = small().durability(Durability::Process).shared_dir(dir.path().join(name));
            let config = config.hot(|hot| hot.page_size("8KiB")).partitions(1).block_bytes("16KiB");
            Store::builder(config.background(false).build().unwrap()).cold(tier.clone()).open().unwrap()
        };
        let append = |store: &Store, numbers: std::ops::Range<u64>| {
            for number in numbers {
                append_proof(store, Event::new(Stream::from(1u32), number, 0, 0), 200);
            }
        };
        let first = open("first");
        append(&first, 0..300);
        let second = open("second");
        append(&second, 1000..1300);
        second.flush(CLOSE).unwrap();
        assert!(second.remove(1299).unwrap());
        if kill {
            first.abandon();
        } else {
            tier.tier.set(Fault::Fail);
            assert_eq!(first.close(Duration::from_millis(1)).unwrap().left, 300);
            tier.tier.set(Fault::None);
            drop(first);
        }
        let first = open("first");
        let found = first.recovered().unwrap();
        assert!(found.is_whole() && found.events == 300 && found.attached != kill, "{found:?}");
        append(&first, 300..400);
        first.validate().unwrap();
        assert_eq!(first.close(CLOSE).unwrap().left, 0);
        assert_eq!(open("third").fetch_scan(..).count(), 400 + 299);
    }
}
