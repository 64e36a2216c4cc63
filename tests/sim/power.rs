//! What of a store's events the log on a disk has, and what is lost of them with power.

use std::collections::BTreeMap;

use esker::DiskSync;

use crate::disk::Crash;
use crate::reference::{Checked, Entry};
use crate::torn::{copy, torn};
use crate::world::World;

/// What the log is known to have, and what it may have beside that.
#[derive(Default)]
pub(crate) struct Logged {
    /// Turns that it had taken when that was last looked at.
    turns: u64,
    /// Events up to this serial are on the disk, or were at some time.
    serial: u64,
    /// Events that are gone and may be in the log all the same, with the steps that they went in.
    gone: Vec<(usize, u64, Entry)>,
    /// Those of them that had expired by a time that the clock has shown, and not by that of now: their pages are packed without
    /// them, of which the log is not told. A loss of power brings them back where the clock was set back, as long as it has
    /// their pages.
    expired: BTreeMap<u64, Entry>,
}

impl Logged {
    /// Whether an event of that id may come back, so that another one must not bear it.
    pub(crate) fn has_left(&self, id: u64) -> bool {
        self.expired.contains_key(&id)
    }
}

impl World {
    /// Whether the loss of power cannot take the event.
    pub(crate) fn is_logged(&self, entry: &Entry) -> bool {
        match self.setup.log {
            None => false,
            Some(DiskSync::EveryBatch) => true,
            Some(_) => entry.serial <= self.logged.serial,
        }
    }

    /// Everything that was done before that step, after which the last event was that, is in the log if it took a turn since.
    pub(crate) fn look_at_log(&mut self, step: usize, serial: u64) {
        // After its end a process goes on in vain.
        if self.setup.log.is_none() || self.setup.faults.is_dead() {
            return;
        }
        let turns = self.store().stats().log.turns;
        if turns > self.logged.turns {
            self.logged.serial = self.logged.serial.max(serial);
            self.logged.gone.retain(|(at, ..)| *at >= step);
        }
        self.logged.turns = turns;
    }

    /// A store is opened: its turns are counted from there on.
    pub(crate) fn begin_log(&mut self) {
        if self.setup.log.is_some() {
            self.logged.turns = self.store().stats().log.turns;
        }
    }

    /// Everything is on the disk as it is in the store.
    pub(crate) fn all_is_logged(&mut self) {
        self.logged.serial = self.reference.serial;
        self.logged.gone.clear();
    }

    /// Forgets an event that is gone. `told`: whether the log knows when that returns which has let it go.
    pub(crate) fn forget(&mut self, id: u64, told: bool) {
        let entry = self.reference.events.get(&id);
        match (entry, self.setup.log) {
            (Some(entry), Some(_)) if !told && self.reference.has_expired(entry) => {
                self.logged.expired.insert(id, entry.clone());
            }
            (Some(entry), Some(mode)) if !told || matches!(mode, DiskSync::Interval(_)) => {
                self.logged.gone.push((self.steps, id, entry.clone()));
            }
            _ => {}
        }
        self.reference.forget(id);
    }

    /// An id is to come again: of two events that bear it, the log must not have the wrong one.
    pub(crate) fn comes_again(&mut self, id: u64) {
        if self.logged.gone.iter().any(|(_, gone, _)| *gone == id) && self.store().sync().is_ok() {
            self.all_is_logged();
        }
    }

    pub(crate) fn sync(&mut self) -> Checked {
        let store = self.store();
        store.sync().map_err(|error| format!("sync: {error:?}"))?;
        if !self.setup.faults.is_dead() {
            self.all_is_logged();
        }
        Ok(())
    }

    /// Power was lost: what was not in the log is lost with the pages, unless it is in the tier; what went since may be back.
    pub(crate) fn lose_what_is_not_logged(&mut self) {
        if self.setup.log.is_none() {
            return;
        }
        let (last, waits) = (self.logged.serial, self.setup.log == Some(DiskSync::EveryBatch));
        for entry in self.reference.events.values_mut() {
            entry.unsure |= !waits && entry.serial > last && !entry.confirmed;
        }
        // Of several that had an id one after the other, the last one. It may have been logged by a turn that nobody saw.
        let gone = std::mem::take(&mut self.logged.gone).into_iter().map(|(_, id, entry)| (id, entry));
        for (id, entry) in std::mem::take(&mut self.logged.expired).into_iter().chain(gone) {
            if self.reference.events.get(&id).is_none_or(|now| entry.serial > now.serial) {
                self.reference.insert(id, Entry { unsure: true, ..entry });
            }
        }
    }

    /// Power is lost in the middle of a turn of the log, of which the disk has kept any part.
    pub(crate) fn lose_power_in_a_turn(&mut self) -> Checked {
        if self.setup.log.is_none() {
            return Ok(());
        }
        self.sync()?;
        let (before, due) = (self.reference.clone(), self.survivors(Crash::PowerLoss));
        let shared = self.setup.shared.as_ref().ok_or("a log is beside pages")?;
        let (data, old, next) = (shared.data(), shared.data().with_extension("old"), shared.next_data());
        copy(&data, &old);
        let syncs = self.store().stats().log.syncs;
        self.nested = true;
        self.step()?;
        self.nested = false;
        self.store().sync().map_err(|error| format!("sync: {error:?}"))?;
        let syncs = self.store().stats().log.syncs - syncs;
        self.detail(|| format!("; power is lost in the last of {syncs} syncs"));
        if syncs == 1 {
            let faults = self.setup.faults.clone();
            torn(&old, &data, &next, &mut |end| faults.below(end));
            self.totals.faults.torn_turns += 1;
        }
        std::fs::remove_dir_all(&old).unwrap();
        self.end_in_a_call(Crash::PowerLoss, before, due)
    }
}
