//! A caller's own cold tier, whose panics are errors: they must neither end a thread of the store nor leave it not knowing
//! what became of a block.

use std::sync::Arc;
use std::time::Duration;

use crate::config::ClassConfig;
use crate::error::{Result, call_user};
use crate::tiers::block::BlockId;
use crate::tiers::cold::{ColdBlock, ColdTier, Namespace, TierFigures, Tombstone};

pub(crate) struct Caught(pub(crate) Arc<dyn ColdTier>);

impl Caught {
    fn call<T>(&self, call: impl FnOnce(&dyn ColdTier) -> Result<T>) -> Result<T> {
        call_user("the cold tier", || call(self.0.as_ref()))?
    }

    /// Of calls that cannot fail.
    fn ask<T>(&self, otherwise: T, call: impl FnOnce(&dyn ColdTier) -> T) -> T {
        call_user("the cold tier", || call(self.0.as_ref())).unwrap_or(otherwise)
    }
}

type Visit<'v> = &'v mut dyn FnMut(BlockId, &[u8]) -> Result<()>;

impl ColdTier for Caught {
    fn namespace(&self) -> Result<Option<Namespace>> {
        self.call(|tier| tier.namespace())
    }

    fn set_namespace(&self, namespace: &Namespace) -> Result<()> {
        self.call(|tier| tier.set_namespace(namespace))
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

    fn list(&self, visit: Visit<'_>) -> Result<()> {
        self.call(|tier| tier.list(visit))
    }

    fn list_range(&self, first: BlockId, end: u64, visit: Visit<'_>) -> Result<()> {
        self.call(|tier| tier.list_range(first, end, visit))
    }

    fn put_names(&self, names: &[(String, u64)]) -> Result<()> {
        self.call(|tier| tier.put_names(names))
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        self.call(|tier| tier.names(visit))
    }

    fn put_tombstone(&self, tombstone: Tombstone) -> Result<()> {
        self.call(|tier| tier.put_tombstone(tombstone))
    }

    fn delete_tombstones(&self, tombstones: &[Tombstone]) -> Result<()> {
        self.call(|tier| tier.delete_tombstones(tombstones))
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        self.call(|tier| tier.tombstones(visit))
    }

    fn begin(&self, classes: &[ClassConfig]) -> Result<u64> {
        self.call(|tier| tier.begin(classes))
    }

    fn awaits_server(&self) -> bool {
        // Not knowing it is to wait.
        self.ask(true, |tier| tier.awaits_server())
    }

    fn puts_at_once(&self) -> usize {
        self.ask(1, |tier| tier.puts_at_once())
    }

    fn get_within(&self, id: BlockId, limit: Duration) -> Result<Option<Vec<u8>>> {
        self.call(|tier| tier.get_within(id, limit))
    }

    fn maintain(&self) -> Result<()> {
        self.call(|tier| tier.maintain())
    }

    fn maintain_every(&self) -> Option<Duration> {
        self.ask(Some(Duration::from_secs(1)), |tier| tier.maintain_every())
    }

    fn news(&self, visit: Visit<'_>) -> Result<()> {
        self.call(|tier| tier.news(visit))
    }

    fn memory_bytes(&self) -> u64 {
        self.ask(0, |tier| tier.memory_bytes())
    }

    fn figures(&self) -> TierFigures {
        self.ask(TierFigures::default(), |tier| tier.figures())
    }

    fn close(&self) {
        self.ask((), |tier| tier.close());
    }
}
