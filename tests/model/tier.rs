//! A cold tier in a map: as durable as the test wants it to be, much faster than a disk, and able to be down.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use esker::{BlockId, ColdBlock, ColdTier, Error, Namespace, Result, Tombstone};

use crate::faults::{Call, Fate, Faults, failure};

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
    faults: Arc<Faults>,
    keeps_tombstones: AtomicBool,
}

impl MapTier {
    pub(crate) fn new(faults: Arc<Faults>) -> Self {
        Self { faults, ..Self::default() }
    }

    /// Whether tombstones cannot be deleted from now on.
    pub(crate) fn keep_tombstones(&self, yes: bool) {
        self.keeps_tombstones.store(yes, Ordering::SeqCst);
    }

    fn read(&self) -> Result<(Fate, MutexGuard<'_, State>)> {
        match self.faults.call(Call::Read) {
            Fate::Fails(_) => Err(down()),
            fate => Ok((fate, self.state.lock().unwrap())),
        }
    }

    /// Makes these changes, or some of them when it fails.
    fn write<T>(&self, changes: &[T], mut change: impl FnMut(&mut State, &T)) -> Result<()> {
        let fate = self.faults.call(Call::Write);
        let part = if let Fate::Fails(part) = fate { part } else { 100 };
        let mut state = self.state.lock().unwrap();
        let done = changes.iter().filter(|_| part == 100 || self.faults.below(100) < part);
        done.for_each(|of| change(&mut state, of));
        if matches!(fate, Fate::Fails(_)) { Err(down()) } else { Ok(()) }
    }
}

fn down() -> Error {
    Error::cold("the map does not answer", failure())
}

impl ColdTier for MapTier {
    fn namespace(&self) -> Result<Option<Namespace>> {
        Ok(self.read()?.1.namespace.clone())
    }

    fn set_namespace(&self, namespace: &Namespace) -> Result<()> {
        self.write(&[()], |state, ()| state.namespace = Some(namespace.clone()))
    }

    fn put(&self, blocks: &[ColdBlock]) -> Result<()> {
        self.write(blocks, |state, block| {
            state.blocks.insert(block.id, block.clone());
        })
    }

    fn get(&self, id: BlockId) -> Result<Option<Vec<u8>>> {
        let (fate, state) = self.read()?;
        let mut bytes = state.blocks.get(&id).map(|block| block.bytes.clone());
        if fate == Fate::Altered
            && let Some(bytes) = &mut bytes
        {
            let at = self.faults.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.faults.below(8);
        }
        Ok(bytes)
    }

    fn delete(&self, ids: &[BlockId]) -> Result<()> {
        self.write(ids, |state, id| {
            state.blocks.remove(id);
        })
    }

    fn list(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        self.read()?.1.blocks.values().try_for_each(|block| visit(block.id, &block.summary))
    }

    fn put_names(&self, names: &[(String, u64)]) -> Result<()> {
        self.write(names, |state, name| state.names.push(name.clone()))
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        self.read()?.1.names.iter().for_each(|(name, stream)| visit(name, *stream));
        Ok(())
    }

    fn put_tombstone(&self, tombstone: Tombstone) -> Result<()> {
        self.write(&[tombstone], |state, stone| {
            state.tombstones.insert((stone.id, stone.partition, stone.class), *stone);
        })
    }

    fn delete_tombstones(&self, tombstones: &[Tombstone]) -> Result<()> {
        if self.keeps_tombstones.load(Ordering::SeqCst) && !tombstones.is_empty() {
            return Err(Error::cold("tombstones are kept", io::Error::other("kept")));
        }
        self.write(tombstones, |state, stone| {
            state.tombstones.remove(&(stone.id, stone.partition, stone.class));
        })
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        self.read()?.1.tombstones.values().for_each(|stone| visit(*stone));
        Ok(())
    }
}
