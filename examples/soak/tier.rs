//! The embedded tier, failing now and then: before it has done what it was asked to, or after.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use esker::{BlockId, ColdBlock, ColdTier, DiskTier, Error, Namespace, Result, Tombstone};

pub(crate) struct Flaky {
    tier: DiskTier,
    /// Of a thousand calls, how many fail.
    pub(crate) failing: AtomicU64,
    calls: AtomicU64,
    pub(crate) failed: AtomicU64,
}

impl Flaky {
    pub(crate) fn new(tier: DiskTier) -> Self {
        Self { tier, failing: AtomicU64::new(0), calls: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    fn call<T>(&self, work: impl FnOnce(&DiskTier) -> Result<T>) -> Result<T> {
        let draw = self.calls.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        if draw % 1000 >= self.failing.load(Ordering::Relaxed) {
            return work(&self.tier);
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        if draw & 1024 != 0 {
            work(&self.tier)?;
        }
        if draw & 2048 != 0 {
            std::thread::sleep(Duration::from_millis(30));
        }
        Err(Error::cold("the tier fails on purpose", std::io::Error::other("on purpose")))
    }
}

impl ColdTier for Flaky {
    fn namespace(&self) -> Result<Option<Namespace>> {
        self.tier.namespace()
    }

    fn set_namespace(&self, namespace: &Namespace) -> Result<()> {
        self.tier.set_namespace(namespace)
    }

    fn put(&self, blocks: &[ColdBlock]) -> Result<()> {
        self.call(|tier| tier.put(blocks))
    }

    fn get(&self, id: BlockId) -> Result<Option<Vec<u8>>> {
        self.call(|tier| tier.get(id))
    }

    fn delete(&self, ids: &[BlockId]) -> Result<()> {
        self.call(|tier| tier.delete(ids))
    }

    fn list(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        self.tier.list(visit)
    }

    fn list_range(
        &self,
        first: BlockId,
        end: u64,
        visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.tier.list_range(first, end, visit)
    }

    fn put_names(&self, names: &[(String, u64)]) -> Result<()> {
        self.call(|tier| tier.put_names(names))
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        self.tier.names(visit)
    }

    fn put_tombstone(&self, tombstone: Tombstone) -> Result<()> {
        self.call(|tier| tier.put_tombstone(tombstone))
    }

    fn delete_tombstones(&self, tombstones: &[Tombstone]) -> Result<()> {
        self.call(|tier| tier.delete_tombstones(tombstones))
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        self.tier.tombstones(visit)
    }

    fn maintain_every(&self) -> Option<Duration> {
        None
    }

    fn close(&self) {
        self.tier.close();
    }
}
