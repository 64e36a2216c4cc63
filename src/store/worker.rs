//! The store's threads: one moves pages, one writes to the cold tier, one keeps that tier, one for each listener. The only file that starts
//! threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{self, Deadline};
use crate::config::Affinity;
use crate::error::{Error, Result, call_user};
use crate::pressure::Hysteresis;
use crate::regions::region::Region;
use crate::store::CloseReport;
use crate::store::core::{Bell, Core, Turn};
use crate::store::life::leave_alone;
use crate::store::listeners::{Listening, PressureListener, listen};
use crate::sys::affinity;
use crate::sys::machine::{Machine, Spot};

/// How often the mover looks round when nobody calls it; also how coarse the coarse clock is.
const MOVER_TICK: Duration = Duration::from_millis(5);
/// The same while memory is short: a step moves only a part of what is too much.
const MOVER_TICK_PRESSED: Duration = Duration::from_millis(1);
const SPILLER_TICK: Duration = Duration::from_millis(50);
/// A pause that is longer than this can be cut short by what is put into the cold tier.
const KEEPER_TICK: Duration = Duration::from_millis(250);
/// How long a log that has no room, or failed, is left alone.
const LOG_RETRY: Duration = Duration::from_millis(100);
/// How long the thread that keeps the cold tier sleeps when the tier has nothing for it to do.
const KEEPER_LONGEST: Duration = Duration::from_secs(60);
/// Waits after failures of the cold tier: doubled from the first to the last.
const BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];
/// How long one look at whether the threads have stopped is apart from the next.
const STOP_TURN: Duration = Duration::from_micros(200);
/// How long a stop waits for listeners that are in a call.
const LISTENERS_LIMIT: Duration = Duration::from_millis(50);
/// How long dropping the last handle writes at most.
const DROP_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Workers {
    core: Arc<Core>,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Those of listeners, which may be in code of the caller's own for as long as it likes.
    listeners: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    pub(crate) fn start(core: &Arc<Core>) -> Result<Self> {
        let workers = Self {
            core: core.clone(),
            stop: Arc::default(),
            threads: Mutex::default(),
            listeners: Mutex::default(),
        };
        if core.config.background {
            core.lanes.clock.tick(true);
            workers.spawn("esker-mover", 0, mover)?;
            if core.log.is_some() {
                workers.spawn("esker-log", 0, logger)?;
            }
            if core.cold.is_some() {
                let spillers = core.spiller.count();
                for number in 0..spillers {
                    let work = move |core: &Core, stop: &AtomicBool| spiller(core, stop, number);
                    workers.spawn("esker-spiller", 1 + number, work)?;
                }
                if core.cold.as_ref().is_some_and(|cold| cold.tier.maintain_every().is_some()) {
                    workers.spawn("esker-keeper", 1 + spillers, keeper)?;
                }
            }
        }
        Ok(workers)
    }

    fn spawn(
        &self,
        name: &str,
        number: usize,
        work: impl Fn(&Core, &AtomicBool) + Send + 'static,
    ) -> Result<()> {
        let (core, stop, thread_name) = (self.core.clone(), self.stop.clone(), name.to_string());
        let thread = start(name, move || {
            if core.config.affinity.pin(number).is_none() && core.config.affinity != Affinity::Leave {
                core.machine.warn(format!(
                    "a thread of the store stays where the system puts it: none of the processors of {:?} may be used",
                    core.config.affinity
                ));
            }
            go_on(&core, &stop, &thread_name, work);
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Starts a thread that tells a listener.
    pub(crate) fn listen(&self, flow: Hysteresis, listener: impl PressureListener) -> Result<Listening> {
        let (listening, ear) = self.core.listeners.add();
        let core = self.core.clone();
        let mut threads = self.listeners.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(start("esker-listener", move || listen(&core, &ear, flow, listener))?);
        drop(threads);
        // One that is added while the store closes ends with the others.
        if self.core.is_closed() {
            self.core.listeners.stop();
        }
        Ok(listening)
    }

    /// Has the listeners' threads end, and waits a moment for those that are in no call.
    fn stop_listeners(&self) {
        self.core.listeners.stop();
        let (mut threads, deadline) = (self.listeners.lock(), Deadline::after(LISTENERS_LIMIT));
        while threads.iter().any(|thread| !thread.is_finished()) && !deadline.has_passed() {
            std::thread::sleep(STOP_TURN);
        }
        threads.clear();
    }

    /// Tells the threads to stop and waits for them. `false`: the deadline passed, which means that the cold tier
    /// hangs in a call. That thread goes on alone, until the tier lets it go.
    pub(crate) fn stop(&self, deadline: Deadline) -> bool {
        self.stop.store(true, Ordering::Release);
        self.stop_listeners();
        let mut threads = self.threads.lock();
        while threads.iter().any(|thread| !thread.is_finished()) && !deadline.has_passed() {
            self.core.mover_bell.ring();
            self.core.ring_spillers();
            self.core.keeper_bell.ring();
            self.core.log_bell.ring();
            std::thread::sleep(STOP_TURN);
        }
        let mut all = true;
        for thread in threads.drain(..) {
            let finished = thread.is_finished();
            all &= finished;
            if finished {
                let _ = thread.join();
            }
        }
        self.core.lanes.clock.tick(false);
        all
    }

    /// Stops the threads and writes what only memory has.
    pub(crate) fn close(&self, deadline: Deadline) -> CloseReport {
        if self.stop(deadline) { self.core.finish_close(deadline) } else { self.core.close_report(0) }
    }
}

impl Drop for Workers {
    /// The last handle is gone: as closing, for ten seconds at most.
    fn drop(&mut self) {
        if self.core.life.is_forked() {
            leave_alone(&self.core);
            for thread in self.threads.get_mut().drain(..).chain(self.listeners.get_mut().drain(..)) {
                std::mem::forget(thread);
            }
        } else if self.core.begin_close() {
            self.close(Deadline::after(DROP_LIMIT));
        }
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.to_string()).spawn(work);
    thread.map_err(|source| Error::io(format!("cannot start the thread {name}"), source))
}

/// Has a thread work until the store stops. A panic is a fault of the store's own, as what callers bring is caught where it
/// is called: it is told, and the thread begins anew rather than leave the store without it. What it had in hand may stay
/// taken until the store is opened again, but nothing that was acknowledged depends on it.
fn go_on(core: &Core, stop: &AtomicBool, name: &str, work: impl Fn(&Core, &AtomicBool)) {
    let mut pause = BACKOFF[0];
    while let Err(panic) = call_user(&format!("the store's thread {name}"), || work(core, stop)) {
        core.thread_panics.fetch_add(1, Ordering::Relaxed);
        core.machine.warn(format!("{panic}; it goes on. This is an error in esker, please report it"));
        let begin = clock::now();
        while begin.elapsed() < pause && !stop.load(Ordering::Acquire) {
            std::thread::sleep(STOP_TURN);
        }
        pause = (pause * 2).min(BACKOFF[1]);
    }
}

fn mover(core: &Core, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        core.lanes.clock.tick(true);
        #[cfg(test)]
        core.hooks.call("moving");
        let turn = core.move_once();
        core.tidy();
        core.look_at_log();
        match turn {
            Turn::Again => {}
            Turn::Soon => core.mover_bell.wait(MOVER_TICK_PRESSED),
            Turn::Later => core.mover_bell.wait(MOVER_TICK),
        }
    }
}

fn spiller(core: &Core, stop: &AtomicBool, number: usize) {
    let mut pause = BACKOFF[0];
    while !stop.load(Ordering::Acquire) {
        #[cfg(test)]
        core.hooks.call("spilling");
        let outcome = core.spill_of(number, false).and_then(|pages| {
            // One of them sees to what has expired.
            if number == 0 { core.expire_cold().map(|()| pages) } else { Ok(pages) }
        });
        match outcome {
            Ok(pages) => {
                pause = BACKOFF[0];
                if pages > 0 {
                    core.mover_bell.ring();
                } else {
                    core.spiller_bells[number].wait(SPILLER_TICK);
                }
            }
            Err(_) => {
                // The failure is counted and its text kept by the spiller.
                wait_out(&core.spiller_bells[number], stop, pause);
                pause = (pause * 2).min(BACKOFF[1]);
            }
        }
    }
}

/// Has the disk keep what came, at intervals.
fn logger(core: &Core, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let Some(log) = &core.log else { return };
        let begin = clock::now();
        #[cfg(test)]
        core.hooks.call("logging");
        core.turn_log();
        let rest = if log.trouble().is_some() { LOG_RETRY } else { log.mode.rest() };
        core.log_bell.wait(rest.saturating_sub(begin.elapsed()));
    }
}

/// What the tier does unasked must not wait for a spill that is under way, nor the other way round.
fn keeper(core: &Core, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        #[cfg(test)]
        core.hooks.call("keeping");
        // The tier counts its failures and keeps their texts.
        let _ = core.keep_cold();
        let Some(cold) = &core.cold else { return };
        let pause = || cold.tier.maintain_every().unwrap_or(KEEPER_LONGEST).min(KEEPER_LONGEST);
        core.keeper_rests.store(pause() > KEEPER_TICK, Ordering::Release);
        // Asked once more: what was put before it was said that this thread rests rings no bell.
        core.keeper_bell.wait(pause());
    }
}

/// Waits although the bell may ring, but not longer than until the store stops.
fn wait_out(bell: &Bell, stop: &AtomicBool, pause: Duration) {
    let deadline = Deadline::after(pause);
    while !deadline.has_passed() && !stop.load(Ordering::Acquire) {
        bell.wait(deadline.left(SPILLER_TICK));
    }
}

/// Is told bytes done and bytes in all.
pub(crate) type Progress = dyn Fn(u64, u64) + Send + Sync;

/// How much memory a thread touches between two looks at what is left.
const PREFAULT_PART: usize = 32 << 20;
/// More threads than that wait for the kernel rather than work.
const PREFAULT_THREADS: usize = 32;

/// A range of a region that is to be touched, and where it lies.
struct Part<'r> {
    region: &'r Region,
    from: usize,
    len: usize,
    spot: Option<Spot>,
}

/// Touches what regions have at the beginning, with threads near to it.
pub(crate) fn prefault(machine: &Machine, regions: &[&Region], told: Option<&Progress>) -> Result<()> {
    let mut parts = Vec::new();
    for region in regions {
        region.to_prefault(PREFAULT_PART, |from, len, spot| parts.push(Part { region, from, len, spot }));
    }
    let all: u64 = parts.iter().map(|part| part.len as u64).sum();
    let (done, failed) = (AtomicU64::new(0), Mutex::new(None));
    let mut groups: Vec<(Option<Spot>, Vec<Part<'_>>)> = Vec::new();
    for part in parts {
        match groups.iter_mut().find(|(spot, _)| *spot == part.spot) {
            Some((_, group)) => group.push(part),
            None => groups.push((part.spot, vec![part])),
        }
    }
    let touch = |group: &[Part<'_>], next: &AtomicUsize| {
        while let Some(part) = group.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = part.region.populate(part.from, part.len) {
                failed.lock().get_or_insert(error);
                return;
            }
            let done = done.fetch_add(part.len as u64, Ordering::Relaxed) + part.len as u64;
            if let Some(told) = told {
                told(done, all);
            }
        }
    };
    let cursors: Vec<AtomicUsize> = groups.iter().map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for ((spot, group), next) in groups.iter().zip(&cursors) {
            let cpus = machine.cpus_near(*spot);
            for cpu in cpus.into_iter().take(group.len().min(PREFAULT_THREADS)) {
                let cpu = spot.map(|_| cpu);
                let (touch, group) = (&touch, &group[..]);
                let work = move || {
                    // A thread that is not near is slower, nothing else.
                    let _ = cpu.map(affinity::pin_to);
                    touch(group, next);
                };
                if std::thread::Builder::new()
                    .name("esker-prefault".into())
                    .spawn_scoped(scope, work)
                    .is_err()
                {
                    break;
                }
            }
        }
    });
    // What no thread was started for.
    for ((_, group), next) in groups.iter().zip(&cursors) {
        touch(group, next);
    }
    failed.into_inner().map_or(Ok(()), Err)
}
