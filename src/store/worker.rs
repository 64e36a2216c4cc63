//! The store's threads: one moves pages, one writes to the cold tier, one keeps that tier. The only file that starts
//! threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Deadline;
use crate::error::{Error, Result};
use crate::store::CloseReport;
use crate::store::core::{Bell, Core, Turn};
use crate::sys::affinity;

/// How often the mover looks round when nobody calls it; also how coarse the coarse clock is.
const MOVER_TICK: Duration = Duration::from_millis(5);
/// The same while memory is short: a step moves only a part of what is too much.
const MOVER_TICK_PRESSED: Duration = Duration::from_millis(1);
const SPILLER_TICK: Duration = Duration::from_millis(50);
/// How often the cold tier is asked to do what it does unasked.
const KEEPER_TICK: Duration = Duration::from_millis(250);
/// Waits after failures of the cold tier: doubled from the first to the last.
const BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];
/// How long one look at whether the threads have stopped is apart from the next.
const STOP_TURN: Duration = Duration::from_micros(200);
/// How long dropping the last handle writes at most.
const DROP_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Workers {
    core: Arc<Core>,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    pub(crate) fn start(core: &Arc<Core>) -> Result<Self> {
        let workers = Self { core: core.clone(), stop: Arc::default(), threads: Mutex::default() };
        if core.config.background {
            core.lanes.clock.tick(true);
            workers.spawn("esker-mover", 0, mover)?;
            if core.cold.is_some() {
                let spillers = core.spiller.count();
                for number in 0..spillers {
                    let work = move |core: &Core, stop: &AtomicBool| spiller(core, stop, number);
                    workers.spawn("esker-spiller", 1 + number, work)?;
                }
                workers.spawn("esker-keeper", 1 + spillers, keeper)?;
            }
        }
        Ok(workers)
    }

    fn spawn(
        &self,
        name: &str,
        number: usize,
        work: impl FnOnce(&Core, &AtomicBool) + Send + 'static,
    ) -> Result<()> {
        let (core, stop) = (self.core.clone(), self.stop.clone());
        let cpus = &core.config.worker_cpus;
        let cpu = (!cpus.is_empty()).then(|| cpus[number % cpus.len()]);
        let thread = std::thread::Builder::new().name(name.to_string()).spawn(move || {
            // A processor that may not be used leaves the thread where it is.
            let _ = cpu.map(affinity::pin_to);
            work(&core, &stop);
        });
        let thread = thread.map_err(|source| Error::io(format!("cannot start the thread {name}"), source))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Tells the threads to stop and waits for them. `false`: the deadline passed, which means that the cold tier
    /// hangs in a call. That thread goes on alone, until the tier lets it go.
    pub(crate) fn stop(&self, deadline: Deadline) -> bool {
        self.stop.store(true, Ordering::Release);
        let mut threads = self.threads.lock();
        while threads.iter().any(|thread| !thread.is_finished()) && !deadline.has_passed() {
            self.core.mover_bell.ring();
            self.core.ring_spillers();
            self.core.keeper_bell.ring();
            std::thread::sleep(STOP_TURN);
        }
        let mut all = true;
        for thread in threads.drain(..) {
            let finished = thread.is_finished();
            all &= finished;
            if finished {
                // A thread that panicked has nothing left to do; what it worked on is still in memory.
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
        if self.core.begin_close() {
            self.close(Deadline::after(DROP_LIMIT));
        }
    }
}

fn mover(core: &Core, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        core.lanes.clock.tick(true);
        let turn = core.move_once();
        core.tidy();
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

/// What the tier does unasked must not wait for a spill that is under way, nor the other way round.
fn keeper(core: &Core, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        // The tier counts its failures and keeps their texts.
        let _ = core.keep_cold();
        core.keeper_bell.wait(KEEPER_TICK);
    }
}

/// Waits although the bell may ring, but not longer than until the store stops.
fn wait_out(bell: &Bell, stop: &AtomicBool, pause: Duration) {
    let deadline = Deadline::after(pause);
    while !deadline.has_passed() && !stop.load(Ordering::Acquire) {
        bell.wait(deadline.left(SPILLER_TICK));
    }
}
