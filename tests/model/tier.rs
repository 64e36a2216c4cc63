//! A cold tier in a map: as durable as the test wants it to be, much faster than a disk, and able to be down.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use esker::{BlockId, ColdBlock, ColdTier, Error, Namespace, Result, Tombstone};

use crate::rng::Rng;

#[derive(Default)]
struct State {
    namespace: Option<Namespace>,
    blocks: BTreeMap<BlockId, ColdBlock>,
    names: Vec<(String, u64)>,
    tombstones: BTreeMap<(u64, u32, u8), Tombstone>,
}

/// Outlives the stores that use it.
#[derive(Default)]
pub(crate) struct MapTier {
    state: Mutex<State>,
    /// Of a hundred calls, how many fail.
    failing: AtomicU64,
    calls: AtomicU64,
    keeps_tombstones: AtomicBool,
}

impl MapTier {
    /// Replaces the seed that the first opening has made up, before anything is stored by it: it decides which
    /// stream and id falls where, and a run would differ from the next.
    pub(crate) fn set_seed(&self, seed: u64) {
        let mut state = self.state.lock().unwrap();
        state.namespace.as_mut().unwrap().seed = seed;
    }

    /// From now on, that many of a hundred calls fail.
    pub(crate) fn set_failing(&self, percent: u64) {
        self.failing.store(percent, Ordering::SeqCst);
    }

    /// Whether tombstones cannot be deleted from now on.
    pub(crate) fn keep_tombstones(&self, yes: bool) {
        self.keeps_tombstones.store(yes, Ordering::SeqCst);
    }

    fn state(&self) -> Result<MutexGuard<'_, State>> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if Rng::new(call).chance(self.failing.load(Ordering::SeqCst)) {
            return Err(Error::cold("the map does not answer", io::Error::other("down")));
        }
        Ok(self.state.lock().unwrap())
    }
}

impl ColdTier for MapTier {
    fn namespace(&self) -> Result<Option<Namespace>> {
        Ok(self.state()?.namespace.clone())
    }

    fn set_namespace(&self, namespace: &Namespace) -> Result<()> {
        self.state()?.namespace = Some(namespace.clone());
        Ok(())
    }

    fn put(&self, blocks: &[ColdBlock]) -> Result<()> {
        let mut state = self.state()?;
        for block in blocks {
            state.blocks.insert(block.id, block.clone());
        }
        Ok(())
    }

    fn get(&self, id: BlockId) -> Result<Option<Vec<u8>>> {
        Ok(self.state()?.blocks.get(&id).map(|block| block.bytes.clone()))
    }

    fn delete(&self, ids: &[BlockId]) -> Result<()> {
        let mut state = self.state()?;
        for id in ids {
            state.blocks.remove(id);
        }
        Ok(())
    }

    fn list(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        self.state()?.blocks.values().try_for_each(|block| visit(block.id, &block.summary))
    }

    fn put_names(&self, names: &[(String, u64)]) -> Result<()> {
        self.state()?.names.extend_from_slice(names);
        Ok(())
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        self.state()?.names.iter().for_each(|(name, stream)| visit(name, *stream));
        Ok(())
    }

    fn put_tombstone(&self, tombstone: Tombstone) -> Result<()> {
        self.state()?.tombstones.insert((tombstone.id, tombstone.partition, tombstone.class), tombstone);
        Ok(())
    }

    fn delete_tombstones(&self, tombstones: &[Tombstone]) -> Result<()> {
        let mut state = self.state()?;
        if self.keeps_tombstones.load(Ordering::SeqCst) && !tombstones.is_empty() {
            return Err(Error::cold("tombstones are kept", io::Error::other("kept")));
        }
        tombstones.iter().for_each(|stone| {
            state.tombstones.remove(&(stone.id, stone.partition, stone.class));
        });
        Ok(())
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        self.state()?.tombstones.values().for_each(|stone| visit(*stone));
        Ok(())
    }
}
