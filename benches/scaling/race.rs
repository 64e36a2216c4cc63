//! Threads that begin together and do the same until the time is over.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::common::machine::thread_time;
use crate::common::now;

/// Tells the threads of a race when to end.
pub(crate) struct Running(CachePadded<AtomicBool>);

impl Running {
    /// Whether to go on. Asked every few hundred nanoseconds at most, so that it costs nothing.
    #[inline]
    pub(crate) fn go_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Ends the race: a thread has nothing left to do.
    pub(crate) fn stop(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What threads did together.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rate {
    pub(crate) each_second: f64,
    /// The share of the time for which the threads had processors.
    pub(crate) on_cpu: f64,
    pub(crate) seconds: f64,
}

impl Rate {
    /// Several races of the same kind.
    pub(crate) fn of_all(rates: &[Self]) -> Self {
        let seconds: f64 = rates.iter().map(|rate| rate.seconds).sum();
        let weighed =
            |of: fn(&Self) -> f64| rates.iter().map(|rate| of(rate) * rate.seconds).sum::<f64>() / seconds;
        Self { each_second: weighed(|rate| rate.each_second), on_cpu: weighed(|rate| rate.on_cpu), seconds }
    }
}

/// Runs `work` on so many threads, each on a processor of its own where there are enough, for `time` or until one of
/// them stops all. It says how many things it did.
pub(crate) fn race(threads: usize, time: Duration, work: impl Fn(usize, &Running) -> u64 + Sync) -> Rate {
    let running = Running(CachePadded::new(AtomicBool::new(true)));
    let ready = Barrier::new(threads + 1);
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let one = |thread: usize| {
        if threads <= cores.len()
            && let Some(core) = cores.get(thread)
        {
            core_affinity::set_for_current(*core);
        }
        ready.wait();
        let (begin, busy) = (now(), thread_time());
        let done = work(thread, &running);
        let (wall, busy) = (begin.elapsed().as_secs_f64(), (thread_time() - busy).as_secs_f64());
        running.stop();
        Rate { each_second: done as f64 / wall, on_cpu: busy / wall, seconds: wall }
    };
    let rates: Vec<Rate> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn({
                    let one = &one;
                    move || one(thread)
                })
            })
            .collect();
        ready.wait();
        let begin = now();
        while running.go_on() && begin.elapsed() < time {
            std::thread::sleep(Duration::from_millis(2));
        }
        running.stop();
        all.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    Rate {
        each_second: rates.iter().map(|rate| rate.each_second).sum(),
        on_cpu: rates.iter().map(|rate| rate.on_cpu).sum::<f64>() / threads as f64,
        seconds: rates.iter().map(|rate| rate.seconds).fold(0.0, f64::max),
    }
}
