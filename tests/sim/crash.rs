//! Steps of `Kind::Faults`: the process or the machine ends, between two calls or in the middle of one, and disks that fail
//! a sync or lie about it.

use esker::ErrorKind;

use crate::disk::Crash;
use crate::faults::{FaultCounts, Trouble};
use crate::reads::{ALL, Due};
use crate::reference::{Checked, Reference, ensure, same};
use crate::setup::{Below, Kind, Shared};
use crate::torn::copy;
use crate::world::World;

/// What went wrong in a run, so that a tester which lets nothing go wrong is noticed.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct FaultTotals {
    pub(crate) kills: u64,
    pub(crate) power_losses: u64,
    /// Of those, in the middle of a call, and in the middle of an opening.
    pub(crate) in_a_call: u64,
    pub(crate) in_an_opening: u64,
    /// Openings that went on with pages and indexes as they were.
    pub(crate) attached: u64,
    /// Losses of power after which a log was read, and those in the middle of a turn of it.
    pub(crate) from_log: u64,
    pub(crate) torn_turns: u64,
    /// Closes while the tier failed.
    pub(crate) closed_in_trouble: u64,
    /// Openings that failed because the tier did, and succeeded when it did no more.
    pub(crate) failed_openings: u64,
    /// Disks that lied: those that were found out at once, and those on which what was found was right.
    pub(crate) found_out: u64,
    pub(crate) not_found_out: u64,
    pub(crate) calls: FaultCounts,
}

impl FaultTotals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.power_losses += other.power_losses;
        self.in_a_call += other.in_a_call;
        self.in_an_opening += other.in_an_opening;
        self.attached += other.attached;
        self.from_log += other.from_log;
        self.torn_turns += other.torn_turns;
        self.closed_in_trouble += other.closed_in_trouble;
        self.failed_openings += other.failed_openings;
        self.found_out += other.found_out;
        self.not_found_out += other.not_found_out;
        self.calls.failed += other.calls.failed;
        self.calls.unknown += other.calls.unknown;
        self.calls.altered += other.calls.altered;
        self.calls.syncs_failed += other.calls.syncs_failed;
        self.calls.lies += other.calls.lies;
        self.calls.slow += other.calls.slow;
    }

    /// Whether a hundred seeds met everything, as often as they should.
    pub(crate) fn check(&self, seeds: u64) {
        let met = [
            ("kills", self.kills, 60),
            ("power losses", self.power_losses, 60),
            ("ends in a call", self.in_a_call, 25),
            ("ends in an opening", self.in_an_opening, 20),
            ("openings that attached", self.attached, 5),
            ("logs that were read", self.from_log, 10),
            ("turns that were torn", self.torn_turns, 5),
            ("closes while the tier failed", self.closed_in_trouble, 20),
            ("openings that failed", self.failed_openings, 10),
            ("disks that lied", self.found_out + self.not_found_out, 3),
            ("failed calls", self.calls.failed, 250),
            ("unknown outcomes", self.calls.unknown, 30),
            ("altered reads", self.calls.altered, 1),
            ("failed syncs", self.calls.syncs_failed, 3),
            ("slow calls", self.calls.slow, 20),
        ];
        for (what, count, least) in met {
            let least = least * seeds / 100;
            assert!(count >= least, "the seeds met only {count} of at least {least} {what}: {self:?}");
        }
    }
}

/// How many steps something is wrong that is wrong for a while.
const WHILE: usize = 12;

impl World {
    fn crash_kind(&mut self) -> Crash {
        if self.rng.chance(50) { Crash::Kill } else { Crash::PowerLoss }
    }

    /// The store ends between two calls.
    pub(crate) fn crash(&mut self) -> Checked {
        let how = self.crash_kind();
        self.detail(|| format!("{how:?}"));
        self.end(how)
    }

    pub(crate) fn end(&mut self, how: Crash) -> Checked {
        let due = self.survivors(how);
        self.end_with(how, due)
    }

    /// The store ends, and what is due is there when it is opened again.
    fn end_with(&mut self, how: Crash, due: Due) -> Checked {
        self.gather_totals();
        self.store.take().ok_or("the store is open")?.abandon();
        self.lose(how);
        if how == Crash::PowerLoss {
            self.lose_what_is_not_logged();
        }
        if self.setup.kind == Kind::Faults {
            self.open_in_trouble(how)?;
        }
        self.take_over(due, !self.setup.keeps_pages())?;
        if how == Crash::PowerLoss {
            self.totals.faults.from_log += u64::from(self.setup.log.is_some());
            self.all_is_logged();
        } else if self.setup.log.is_some() {
            // What nobody was told of when the process ended may be in the pages and not in the log.
            self.sync()?;
        }
        Ok(())
    }

    /// What ends takes with it what it does not keep.
    fn lose(&mut self, how: Crash) {
        match how {
            Crash::Kill => self.totals.faults.kills += 1,
            Crash::PowerLoss => self.totals.faults.power_losses += 1,
        }
        let was_dead = self.setup.faults.is_dead();
        if let Below::Sim(disk) = &self.setup.below {
            disk.crash(how);
        }
        if let Some(shared) = &mut self.setup.shared {
            if how == Crash::PowerLoss && was_dead {
                let _ = std::fs::remove_dir_all(shared.next_path());
            }
            // Otherwise what there is, is what is found.
            if how == Crash::PowerLoss || was_dead {
                shared.go_on();
            }
        }
        self.setup.faults.revive();
        self.tier_up();
    }

    /// From the `calls`th call on, nothing is done any more; what the process keeps is saved as it is then.
    fn die_after(&self, calls: u64) {
        let of = |shared: &Shared| [(shared.path(), shared.next_path()), (shared.data(), shared.next_data())];
        let dirs = self.setup.shared.as_ref().map(of);
        self.setup.faults.die_after(calls, move || {
            for (from, to) in dirs.into_iter().flatten() {
                // Before the store has made them, there is nothing to save.
                if from.exists() {
                    let _ = std::fs::remove_dir_all(&to);
                    copy(&from, &to);
                }
            }
        });
    }

    /// The store ends in the middle of a call, when that has called the tier.
    pub(crate) fn crash_in_the_middle(&mut self) -> Checked {
        let how = self.crash_kind();
        let calls = self.rng.pick(&[1, 1, 2, 3, 5, 9, 20, 60]);
        self.detail(|| format!("{how:?}, at call {calls}"));
        self.die_after(calls);
        (self.down, self.nested) = (true, true);
        let mut before = (Reference::default(), Due::new());
        for _ in 0..WHILE {
            before = (self.reference.clone(), self.survivors(how));
            // Nobody sees how the last of these ends.
            self.step()?;
            if self.setup.faults.is_dead() {
                break;
            }
        }
        self.nested = false;
        if !self.setup.faults.is_dead() {
            let due = self.survivors(how);
            return self.end_with(how, due);
        }
        self.totals.faults.in_a_call += 1;
        let (reference, due) = before;
        self.end_in_a_call(how, reference, due)
    }

    /// The store ends in the middle of a call, before which there was this, and that was due.
    pub(crate) fn end_in_a_call(&mut self, how: Crash, before: Reference, mut due: Due) -> Checked {
        due.retain(|id| !self.setup.drops(before.events[id].class));
        due.extend(self.survivors(how));
        self.nobody_knows(before);
        self.end_with(how, due)
    }

    /// What the last call changed may have happened or not.
    fn nobody_knows(&mut self, before: Reference) {
        for (id, entry) in before.events {
            match self.reference.events.get_mut(&id) {
                Some(now) if now.serial == entry.serial => {}
                _ => {
                    self.reference.insert(id, crate::reference::Entry { unsure: true, ..entry });
                }
            }
        }
        let last = before.serial;
        for entry in self.reference.events.values_mut() {
            entry.unsure |= entry.serial > last;
        }
    }

    /// Perhaps the opening ends in the middle, or the tier fails meanwhile. Afterwards all is well again.
    fn open_in_trouble(&mut self, how: Crash) -> Checked {
        if self.rng.chance(30) {
            let calls = self.rng.pick(&[1, 2, 3, 4, 6, 10, 30]);
            self.detail(|| format!("and again when opening, at call {calls}"));
            self.die_after(calls);
            match self.setup.open(&self.clock) {
                Ok(store) => store.abandon(),
                Err(_) if self.setup.faults.is_dead() => {}
                Err(error) => return Err(format!("open: {error:?}")),
            }
            self.totals.faults.in_an_opening += u64::from(self.setup.faults.is_dead());
            self.lose(how);
        }
        if self.setup.has_tier() && self.rng.chance(20) {
            self.setup.faults.set(Trouble::Failing(self.rng.pick(&[100, 30, 3])));
            match self.setup.open(&self.clock) {
                Ok(store) => store.abandon(),
                Err(error) if matches!(error.kind(), ErrorKind::Cold | ErrorKind::Io) => {
                    self.totals.faults.failed_openings += 1;
                }
                Err(error) => return Err(format!("open while the tier fails: {error:?}")),
            }
            self.tier_up();
        }
        Ok(())
    }

    // ---- a clock that goes on while the tier is slow ----

    /// Makes a call, during which the tier may be slow.
    pub(crate) fn slowly<T>(&mut self, call: impl FnOnce() -> T) -> T {
        if self.setup.kind == Kind::Faults && self.rng.chance(15) {
            let by = self.rng.pick(&[1, 10_000, 100_000]);
            self.setup.faults.be_slow(&self.clock, by);
        }
        let outcome = call();
        for now_ms in self.setup.faults.be_quick() {
            self.reference.set_clock(now_ms);
        }
        outcome
    }

    // ---- disks that do not keep their word ----

    /// Syncs fail for a while. What follows on such a disk is not to be relied on, so nothing may: the tier refuses, and
    /// when the machine begins anew everything is there that was confirmed.
    pub(crate) fn fail_syncs(&mut self) -> Checked {
        let Below::Sim(disk) = &self.setup.below else { return Ok(()) };
        let disk = disk.clone();
        self.setup.faults.set(Trouble::SyncFails(self.rng.pick(&[100, 50, 10])));
        self.some_steps()?;
        self.setup.faults.set(Trouble::None);
        if disk.sync_has_failed() {
            // The tier must not take it up again, although the disk is well now.
            self.some_steps()?;
            self.end(Crash::PowerLoss)
        } else {
            self.down = false;
            Ok(())
        }
    }

    fn some_steps(&mut self) -> Checked {
        (self.down, self.nested) = (true, true);
        for _ in 0..WHILE {
            self.step()?;
        }
        self.flush()?;
        self.nested = false;
        Ok(())
    }

    /// Syncs say that they are done, do nothing, and power is lost. Then events may be lost, and such as were removed may be
    /// there; but what is found is right, or the file is said to be damaged.
    pub(crate) fn lie_about_syncs(&mut self) -> Checked {
        let Below::Sim(disk) = &self.setup.below else { return Ok(()) };
        let disk = disk.clone();
        let before = self.reference.events.clone();
        self.setup.faults.set(Trouble::SyncLies);
        self.nested = true;
        for _ in 0..WHILE {
            self.step()?;
        }
        self.flush()?;
        self.nested = false;
        let lied = disk.has_lied();
        if !lied {
            self.tier_up();
            return Ok(());
        }
        self.gather_totals();
        self.store.take().ok_or("the store is open")?.abandon();
        self.lose(Crash::PowerLoss);
        match self.setup.open(&self.clock) {
            Err(error) => {
                let kind = error.kind();
                ensure!(kind == ErrorKind::Corrupt, "a disk that lied: {error:?}");
                self.totals.faults.found_out += 1;
            }
            Ok(store) => {
                for event in self.all_scan(&store, &ALL) {
                    // A lost block is told.
                    let Ok(event) = event else { continue };
                    let id = event.id();
                    let entry = self.reference.events.get(&id).or_else(|| before.get(&id));
                    // What was removed before this began may be there as well.
                    let was = self.reference.gone.contains(&id);
                    match entry {
                        Some(entry) => {
                            same(&event, entry).or_else(|fault| if was { Ok(()) } else { Err(fault) })?
                        }
                        None => ensure!(was, "event {id} was never there"),
                    }
                }
                self.totals.faults.not_found_out += 1;
                store.abandon();
            }
        }
        disk.replace();
        self.begin_anew()
    }

    /// With an empty disk.
    fn begin_anew(&mut self) -> Checked {
        let all: Vec<u64> = self.reference.events.keys().copied().collect();
        all.into_iter().for_each(|id| self.reference.forget(id));
        self.names.clear();
        if let Some(shared) = &mut self.setup.shared {
            shared.begin_anew();
        }
        self.recent.clear();
        self.all_is_logged();
        self.open()
    }
}
