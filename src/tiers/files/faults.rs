//! A disk for tests: each thread has one at most, in a directory of its own. It fails when it is told to, stops the process in
//! the middle of a call, and knows what it would have kept had power been lost.
//!
//! What was written is on the disk when its file was synced, and a file is there when its directory was. Of all else any
//! sector of 512 bytes is old, new or garbage, but for those that hold what was synced, which are old or new: disks write
//! sectors whole.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;

/// What is thrown where a process ends.
pub(crate) struct Killed;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Create,
    Write,
    Read,
    Cut,
    Sync,
    SyncDir,
    Rename,
    Remove,
}

/// Which calls fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Trouble {
    #[default]
    None,
    /// Those that need room.
    Full,
    /// Any, one in so many.
    Errors(u64),
    /// Syncs, one in so many.
    Syncs(u64),
}

/// What of a file is on the disk, and which sectors are yet to be written there.
#[derive(Clone, Default)]
struct Inode {
    kept: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// A sync of it failed.
    doubtful: bool,
}

/// SplitMix64.
#[derive(Default)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % end.max(1)
    }
}

#[derive(Default)]
struct Disk {
    random: Random,
    trouble: Trouble,
    /// The process ends at so many calls from now.
    kill_in: Option<u64>,
    /// The files that are there, and those that are on the disk.
    now: BTreeMap<PathBuf, u64>,
    kept: BTreeMap<PathBuf, u64>,
    inodes: BTreeMap<u64, Inode>,
}

thread_local! {
    static DISK: RefCell<Option<Disk>> = const { RefCell::new(None) };
}

fn with<T: Default>(then: impl FnOnce(&mut Disk) -> T) -> T {
    DISK.with_borrow_mut(|disk| disk.as_mut().map(then)).unwrap_or_default()
}

/// Gives this thread a disk, on which nothing is yet, or takes it away.
pub(crate) fn set_up(seed: Option<u64>) {
    DISK.set(seed.map(|seed| Disk { random: Random(seed), ..Disk::default() }));
}

pub(crate) fn set_trouble(trouble: Trouble) {
    with(|disk| disk.trouble = trouble);
}

/// Has the process end at a call to come.
pub(crate) fn kill_in(calls: Option<u64>) {
    with(|disk| disk.kill_in = calls);
}

/// Whether a sync failed of a file that is still there.
pub(crate) fn is_doubtful() -> bool {
    with(|disk| disk.now.values().filter_map(|id| disk.inodes.get(id)).any(|inode| inode.doubtful))
}

impl Disk {
    /// Whether the process ends here.
    fn is_over(&mut self) -> bool {
        match &mut self.kill_in {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn fate(&mut self, call: Call) -> Result<()> {
        let fails = match self.trouble {
            Trouble::None => false,
            Trouble::Full => matches!(call, Call::Create | Call::Write),
            Trouble::Errors(one_in) => self.random.below(one_in) == 0,
            Trouble::Syncs(one_in) => {
                matches!(call, Call::Sync | Call::SyncDir) && self.random.below(one_in) == 0
            }
        };
        if !fails {
            return Ok(());
        }
        let full = self.trouble == Trouble::Full;
        Err(if full { ErrorKind::StorageFull.into() } else { Error::other("the test's disk fails") })
    }

    fn inode(&mut self, path: &Path) -> &mut Inode {
        let fresh = self.inodes.len() as u64;
        let id = *self.now.entry(path.to_path_buf()).or_insert(fresh);
        self.inodes.entry(id).or_default()
    }
}

impl Inode {
    fn touch(&mut self, from: usize, to: usize) {
        self.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
    }

    /// Writes dirty sectors to the disk, those that `chosen` says.
    fn write_back(&mut self, now: &[u8], mut chosen: impl FnMut() -> bool) {
        for sector in std::mem::take(&mut self.dirty) {
            let (from, to) = (sector * SECTOR, (sector * SECTOR + SECTOR).min(now.len()));
            if from < to && chosen() {
                self.kept.resize(self.kept.len().max(to), 0);
                self.kept[from..to].copy_from_slice(&now[from..to]);
            }
        }
    }

    /// What is found of it after a loss of power.
    fn after_power_loss(&self, now: Option<Vec<u8>>, random: &mut Random) -> Vec<u8> {
        let (Some(now), false) = (now, self.dirty.is_empty()) else { return self.kept.clone() };
        let mut found = self.kept.clone();
        let end = match random.below(3) {
            0 => self.kept.len(),
            1 => now.len(),
            _ => random.below(now.len().max(self.kept.len()) as u64 + 1) as usize,
        };
        // What was synced is not cut off, unless it was cut off since.
        found.resize(end.max(self.kept.len().min(now.len())), 0);
        for sector in &self.dirty {
            let (from, to) = (sector * SECTOR, (sector * SECTOR + SECTOR).min(found.len()).min(now.len()));
            if from >= to {
                continue;
            }
            match random.below(5) {
                0 | 1 => {}
                2 if from >= self.kept.len() => {
                    found[from..to].iter_mut().for_each(|byte| *byte = random.below(256) as u8);
                }
                _ => found[from..to].copy_from_slice(&now[from..to]),
            }
        }
        found
    }
}

/// Ends the process there, or fails the call.
pub(crate) fn call(call: Call, path: &Path) -> Result<()> {
    let _ = path;
    if with(Disk::is_over) {
        end();
    }
    with(|disk| Some(disk.fate(call))).unwrap_or(Ok(()))
}

fn end() -> ! {
    kill_in(None);
    std::panic::resume_unwind(Box::new(Killed));
}

pub(crate) fn created(path: &Path) {
    with(|disk| {
        let fresh = disk.inodes.len() as u64;
        // A file that was there is emptied, and stays the file that it is.
        if let Some(id) = disk.now.get(path).copied() {
            let inode = disk.inodes.entry(id).or_default();
            inode.touch(0, inode.kept.len());
        } else {
            disk.now.insert(path.to_path_buf(), fresh);
            disk.inodes.insert(fresh, Inode::default());
        }
    });
}

/// Of a write that fails, or at which the process ends, a part is done.
pub(crate) fn before_write(file: &mut File, path: &Path, at: u64, parts: &[&[u8]]) -> Result<()> {
    let (all, over) = (parts.concat(), with(Disk::is_over));
    let fate = with(|disk| Some(disk.fate(Call::Write))).unwrap_or(Ok(()));
    let done = if over || fate.is_err() {
        let done = with(|disk| disk.random.below(all.len() as u64 + 1)) as usize;
        file.write_all(&all[..done])?;
        done
    } else {
        all.len()
    };
    with(|disk| disk.inode(path).touch(at as usize, at as usize + done));
    if over {
        end();
    }
    fate
}

/// Whether it was this disk's affair.
pub(crate) fn syncs(path: &Path) -> Result<bool> {
    let fate = call(Call::Sync, path);
    let now = std::fs::read(path).unwrap_or_default();
    with(|disk| {
        let mut random = Random(disk.random.below(u64::MAX));
        let inode = disk.inode(path);
        if fate.is_ok() {
            inode.write_back(&now, || true);
            inode.kept.resize(now.len(), 0);
        } else {
            // The system takes what it could not write for written.
            inode.write_back(&now, || random.below(2) == 0);
            inode.doubtful = true;
        }
    });
    fate.map(|()| is_there())
}

/// The same for a directory.
pub(crate) fn syncs_dir(path: &Path) -> Result<bool> {
    let fate = call(Call::SyncDir, path);
    with(|disk| {
        let within = |name: &PathBuf| name.parent() == Some(path);
        let names: BTreeSet<PathBuf> = disk.now.keys().chain(disk.kept.keys()).cloned().collect();
        for name in names.into_iter().filter(within) {
            if fate.is_ok() || disk.random.below(2) == 0 {
                match disk.now.get(&name).copied() {
                    Some(id) => drop(disk.kept.insert(name, id)),
                    None => drop(disk.kept.remove(&name)),
                }
            }
        }
    });
    fate.map(|()| is_there())
}

fn is_there() -> bool {
    with(|_| true)
}

pub(crate) fn removed(path: &Path) {
    with(|disk| {
        disk.now.remove(path);
    });
}

pub(crate) fn renamed(from: &Path, to: &Path) {
    with(|disk| {
        if let Some(id) = disk.now.remove(from) {
            disk.now.insert(to.to_path_buf(), id);
        }
    });
}

/// Makes of the files what is found of them after a loss of power. No process uses them.
pub(crate) fn lose_power() {
    with(|disk| {
        let names: BTreeSet<PathBuf> = disk.now.keys().chain(disk.kept.keys()).cloned().collect();
        // Where a file is now whose name was another one.
        let places: BTreeMap<u64, PathBuf> = disk.now.iter().map(|(path, id)| (*id, path.clone())).collect();
        let mut found = BTreeMap::new();
        for name in names {
            let (now, kept) = (disk.now.get(&name), disk.kept.get(&name));
            let chosen = if disk.random.below(2) == 0 { now } else { kept };
            let Some(id) = chosen.copied() else { continue };
            let bytes = places.get(&id).map(|path| std::fs::read(path).unwrap());
            let inode = disk.inodes.entry(id).or_default();
            found.insert(name, (id, inode.after_power_loss(bytes, &mut disk.random)));
        }
        disk.now.keys().for_each(|path| std::fs::remove_file(path).unwrap());
        let names: BTreeMap<PathBuf, u64> = found.iter().map(|(name, (id, _))| (name.clone(), *id)).collect();
        (disk.now, disk.kept) = (names.clone(), names);
        for (name, (id, bytes)) in found {
            std::fs::write(name, &bytes).unwrap();
            disk.inodes.insert(id, Inode { kept: bytes, ..Inode::default() });
        }
    });
}
