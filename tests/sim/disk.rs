//! A disk with one file for the embedded cold tier: what was written and not synced is lost with the machine, in any part,
//! and whatever it is asked may fail.
//!
//! What redb takes for granted of a disk holds: a byte is written or not, and what is not written to stays.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use esker::testing::StorageBackend;

use crate::faults::{Call, Fate, Faults, failure};

const SECTOR: usize = 512;

/// A change that was not synced.
#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

/// What ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Crash {
    /// The process: what it wrote is there.
    Kill,
    /// The machine: what was not synced is there or not, sector by sector.
    PowerLoss,
}

#[derive(Default)]
struct State {
    /// The file as the process sees it.
    seen: Vec<u8>,
    /// The file as it is on the disk for certain.
    safe: Vec<u8>,
    unsynced: Vec<Change>,
    /// Whether a sync has failed or lied since the machine began.
    sync_failed: bool,
    lied: bool,
}

pub(crate) struct Disk {
    faults: Arc<Faults>,
    state: Mutex<State>,
}

/// The file, opened.
#[derive(Clone)]
pub(crate) struct File(pub(crate) Arc<Disk>);

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the tester's disk")
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, data) => {
            let end = at + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(data);
        }
        Change::Len(len) => bytes.resize(*len, 0),
    }
}

impl Disk {
    pub(crate) fn new(faults: Arc<Faults>) -> Arc<Self> {
        Arc::new(Self { faults, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn sync_has_failed(&self) -> bool {
        self.state().sync_failed
    }

    pub(crate) fn has_lied(&self) -> bool {
        self.state().lied
    }

    /// An empty disk in its place.
    pub(crate) fn replace(&self) {
        *self.state() = State::default();
    }

    pub(crate) fn crash(&self, how: Crash) {
        let state = &mut *self.state();
        if how == Crash::Kill {
            return;
        }
        self.keep_some(state);
        state.seen.clone_from(&state.safe);
        (state.sync_failed, state.lied) = (false, false);
    }

    /// Some of what was not synced gets to the disk all the same, the rest never will.
    fn keep_some(&self, state: &mut State) {
        let pending = std::mem::take(&mut state.unsynced);
        let draw = |end| self.faults.below(end);
        match draw(5) {
            0 => {}
            1 => pending.iter().for_each(|change| apply(&mut state.safe, change)),
            // In order, up to a moment.
            2 => {
                let count = draw(pending.len() as u64 + 1) as usize;
                pending[..count].iter().for_each(|change| apply(&mut state.safe, change));
                if let Some(Change::Write(at, data)) = pending.get(count) {
                    let part = draw(data.len() as u64 + 1) as usize;
                    apply(&mut state.safe, &Change::Write(*at, data[..part].to_vec()));
                }
            }
            // Sector by sector, in any order.
            _ => {
                let percent = [3, 50, 97][draw(3) as usize];
                for change in &pending {
                    let Change::Write(at, data) = change else {
                        if draw(2) == 0 {
                            apply(&mut state.safe, change);
                        }
                        continue;
                    };
                    let first = SECTOR - at % SECTOR;
                    let mut from = 0;
                    while from < data.len() {
                        let end = if from == 0 { first } else { from + SECTOR }.min(data.len());
                        if draw(100) < percent {
                            apply(&mut state.safe, &Change::Write(at + from, data[from..end].to_vec()));
                        }
                        from = end;
                    }
                }
            }
        }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let fate = self.faults.call(Call::Write);
        let state = &mut *self.state();
        let (change, outcome) = match (fate, change) {
            (Fate::Fails(100), change) => (change, Err(failure())),
            (Fate::Fails(part), Change::Write(at, data)) => {
                let done = data.len() * part as usize / 100;
                (Change::Write(at, data[..done].to_vec()), Err(failure()))
            }
            (Fate::Fails(_), Change::Len(_)) => return Err(failure()),
            (_, change) => (change, Ok(())),
        };
        apply(&mut state.seen, &change);
        state.unsynced.push(change);
        outcome
    }
}

impl StorageBackend for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.state().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if let Fate::Fails(_) = self.0.faults.call(Call::Read) {
            return Err(failure());
        }
        let state = self.0.state();
        let from = offset as usize;
        let bytes = state.seen.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.change(Change::Len(len as usize))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.change(Change::Write(offset as usize, data.to_vec()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let fate = self.0.faults.call(Call::Sync);
        let state = &mut *self.0.state();
        match fate {
            Fate::Fails(_) => {
                // The process sees what it wrote, and no later sync writes it again: so Linux does it.
                if !self.0.faults.is_dead() {
                    self.0.keep_some(state);
                    state.sync_failed = true;
                }
                Err(failure())
            }
            Fate::Lies => {
                state.lied = true;
                Ok(())
            }
            _ => {
                for change in std::mem::take(&mut state.unsynced) {
                    apply(&mut state.safe, &change);
                }
                state.lied = false;
                Ok(())
            }
        }
    }
}
