//! A cold tier for tests: a map in memory that can fail, block, be slow, answer late, and hand out damaged bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use esker::{BlockId, ColdBlock, ColdTier, Error, Namespace, Result, Tombstone};

/// What the tier does instead of what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// Writes fail and leave nothing.
    Fail,
    /// Writes are done, but are answered by an error.
    FailAfterwards,
    /// Of several blocks of a put only the last is stored, of one block nothing, and the answer is an error. Other writes
    /// are done.
    FailInPart,
    /// Writes wait until the fault is over.
    Block,
    /// Writes take this many milliseconds.
    Slow(u64),
    /// Writes take this many milliseconds, and fail.
    SlowlyFail(u64),
    /// Calls fail that write a block of the class of this number.
    FailClass(u8),
}

/// The map, which outlives the stores that use it.
#[derive(Default)]
pub(crate) struct MapTier {
    data: Mutex<Data>,
    fault: Mutex<Fault>,
    changed: Condvar,
    /// Blocks of which `get` flips a byte.
    damaged: Mutex<BTreeSet<BlockId>>,
    pub(crate) reads_fail: AtomicBool,
    pub(crate) puts: AtomicU64,
    /// How many puts it says that it handles at once; zero is one.
    pub(crate) at_once: AtomicU64,
    /// Writers that are waiting for a block to end.
    pub(crate) blocked: AtomicU64,
}

#[derive(Default)]
struct Data {
    namespace: Option<Namespace>,
    blocks: BTreeMap<BlockId, (Vec<u8>, Vec<u8>)>,
    names: BTreeMap<String, u64>,
    tombstones: Vec<Tombstone>,
}

impl MapTier {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
        self.changed.notify_all();
    }

    /// The blocks that are there.
    pub(crate) fn ids(&self) -> Vec<BlockId> {
        self.data.lock().unwrap().blocks.keys().copied().collect()
    }

    /// Puts a block that somebody else wrote, and its entry of the directory.
    #[cfg(target_os = "linux")]
    pub(crate) fn insert(&self, id: BlockId, bytes: Vec<u8>, entry: Vec<u8>) {
        self.data.lock().unwrap().blocks.insert(id, (bytes, entry));
    }

    pub(crate) fn damage(&self, id: BlockId) {
        self.damaged.lock().unwrap().insert(id);
    }

    /// Loses a block's bytes, but not what the store knows of it.
    pub(crate) fn lose(&self, id: BlockId) {
        self.data.lock().unwrap().blocks.get_mut(&id).unwrap().0.clear();
    }

    /// Puts the bytes of one block under the id of another.
    pub(crate) fn misplace(&self, from: BlockId, to: BlockId) {
        let mut data = self.data.lock().unwrap();
        let bytes = data.blocks[&from].0.clone();
        data.blocks.get_mut(&to).unwrap().0 = bytes;
    }

    fn refused() -> Error {
        Error::cold("the test's tier was told to fail", std::io::Error::other("told to fail"))
    }

    /// Makes a change, or what the fault makes of it.
    fn write(&self, change: impl FnOnce(&mut Data)) -> Result<()> {
        let mut fault = self.fault.lock().unwrap();
        if *fault == Fault::Block {
            self.blocked.fetch_add(1, Ordering::SeqCst);
            while *fault == Fault::Block {
                fault = self.changed.wait(fault).unwrap();
            }
            self.blocked.fetch_sub(1, Ordering::SeqCst);
        }
        let fault = { *fault };
        match fault {
            Fault::Fail => return Err(Self::refused()),
            Fault::Slow(ms) => std::thread::sleep(Duration::from_millis(ms)),
            Fault::SlowlyFail(ms) => {
                std::thread::sleep(Duration::from_millis(ms));
                return Err(Self::refused());
            }
            _ => {}
        }
        change(&mut self.data.lock().unwrap());
        if fault == Fault::FailAfterwards { Err(Self::refused()) } else { Ok(()) }
    }

    fn read<T>(&self, look: impl FnOnce(&Data) -> T) -> Result<T> {
        if self.reads_fail.load(Ordering::SeqCst) {
            return Err(Self::refused());
        }
        Ok(look(&self.data.lock().unwrap()))
    }
}

/// Ends the fault when a test ends, also by failing: a store that is dropped waits for its tier.
pub(crate) struct Healed<'a>(pub(crate) &'a MapTier);

impl Drop for Healed<'_> {
    fn drop(&mut self) {
        self.0.set(Fault::None);
    }
}

impl ColdTier for MapTier {
    fn namespace(&self) -> Result<Option<Namespace>> {
        self.read(|data| data.namespace.clone())
    }

    fn set_namespace(&self, namespace: &Namespace) -> Result<()> {
        self.write(|data| data.namespace = Some(namespace.clone()))
    }

    fn put(&self, blocks: &[ColdBlock]) -> Result<()> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        let fault = { *self.fault.lock().unwrap() };
        if let Fault::FailClass(class) = fault
            && blocks.iter().any(|block| block.id.class == class)
        {
            return Err(Self::refused());
        }
        let in_part = fault == Fault::FailInPart;
        let stored = match blocks {
            [_, .., last] if in_part => std::slice::from_ref(last),
            _ if in_part => &[],
            all => all,
        };
        self.write(|data| {
            for block in stored {
                data.blocks.insert(block.id, (block.bytes.clone(), block.summary.clone()));
            }
        })?;
        if in_part { Err(Self::refused()) } else { Ok(()) }
    }

    fn puts_at_once(&self) -> usize {
        self.at_once.load(Ordering::SeqCst).max(1) as usize
    }

    fn get(&self, id: BlockId) -> Result<Option<Vec<u8>>> {
        let mut bytes = self
            .read(|data| data.blocks.get(&id).map(|block| block.0.clone()))?
            .filter(|bytes| !bytes.is_empty());
        if let Some(bytes) = &mut bytes
            && self.damaged.lock().unwrap().contains(&id)
        {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }
        Ok(bytes)
    }

    fn delete(&self, ids: &[BlockId]) -> Result<()> {
        self.write(|data| data.blocks.retain(|id, _| !ids.contains(id)))
    }

    fn list(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        let blocks = self.read(|data| data.blocks.clone())?;
        blocks.iter().try_for_each(|(id, (_, summary))| visit(*id, summary))
    }

    fn put_names(&self, names: &[(String, u64)]) -> Result<()> {
        self.write(|data| data.names.extend(names.iter().cloned()))
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        let names = self.read(|data| data.names.clone())?;
        names.iter().for_each(|(name, stream)| visit(name, *stream));
        Ok(())
    }

    fn put_tombstone(&self, tombstone: Tombstone) -> Result<()> {
        self.write(|data| {
            let of = |stone: &Tombstone| (stone.id, stone.partition, stone.class);
            data.tombstones.retain(|other| of(other) != of(&tombstone));
            data.tombstones.push(tombstone);
        })
    }

    fn delete_tombstones(&self, tombstones: &[Tombstone]) -> Result<()> {
        self.write(|data| data.tombstones.retain(|stone| !tombstones.contains(stone)))
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        let tombstones = self.read(|data| data.tombstones.clone())?;
        tombstones.into_iter().for_each(visit);
        Ok(())
    }
}
