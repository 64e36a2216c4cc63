//! What goes wrong below a store: every call of its cold tier asks here what is to become of it.

use std::io;
use std::sync::{Mutex, MutexGuard};

use esker::Clock;

use crate::rng::Rng;

/// What is wrong at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Trouble {
    #[default]
    None,
    /// That many of a hundred calls fail, having done nothing of what they were asked to, or a part, or all of it.
    Failing(u64),
    /// That many of a hundred reads give altered bytes.
    Altered(u64),
    /// That many of a hundred syncs fail: what was to be written since the last one is on the disk or not.
    SyncFails(u64),
    /// Syncs say that they are done and do nothing.
    SyncLies,
}

/// What a call asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Read,
    Write,
    Sync,
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Done,
    /// Fails after that part of a hundred was done.
    Fails(u64),
    Altered,
    Lies,
}

#[derive(Default)]
pub(crate) struct Faults(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    rng: Option<Rng>,
    trouble: Trouble,
    calls: u64,
    /// Dies with that call.
    dies_at: Option<u64>,
    on_death: Option<Box<dyn FnOnce() + Send>>,
    is_dead: bool,
    /// By how much calls that write move the clock, and what it was set to.
    slow: Option<(Clock, i64)>,
    moved: Vec<i64>,
    pub(crate) counts: FaultCounts,
}

/// What has gone wrong so far.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct FaultCounts {
    pub(crate) failed: u64,
    /// Failed although all was done.
    pub(crate) unknown: u64,
    pub(crate) altered: u64,
    pub(crate) syncs_failed: u64,
    pub(crate) lies: u64,
    pub(crate) slow: u64,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(Inner { rng: Some(Rng::new(seed)), ..Inner::default() }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(crate) fn set(&self, trouble: Trouble) {
        self.inner().trouble = trouble;
    }

    /// The process ends with the `calls`th call from now: `on_death` is to save what is there then, and no call does
    /// anything any more.
    pub(crate) fn die_after(&self, calls: u64, on_death: impl FnOnce() + Send + 'static) {
        let mut inner = self.inner();
        inner.dies_at = Some(inner.calls + calls);
        inner.on_death = Some(Box::new(on_death));
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.inner().is_dead
    }

    /// Whether it has come to that, or is going to.
    pub(crate) fn may_die(&self) -> bool {
        let inner = self.inner();
        inner.is_dead || inner.dies_at.is_some()
    }

    /// The machine, or the process, begins anew.
    pub(crate) fn revive(&self) {
        let mut inner = self.inner();
        inner.is_dead = false;
        inner.dies_at = None;
        inner.on_death = None;
        inner.trouble = Trouble::None;
    }

    /// From now on, each call that writes takes that long.
    pub(crate) fn be_slow(&self, clock: &Clock, by_ms: i64) {
        self.inner().slow = Some((clock.clone(), by_ms));
    }

    /// Ends that. What the clock was set to.
    pub(crate) fn be_quick(&self) -> Vec<i64> {
        let mut inner = self.inner();
        inner.slow = None;
        std::mem::take(&mut inner.moved)
    }

    pub(crate) fn counts(&self) -> FaultCounts {
        self.inner().counts
    }

    /// A number of this seed, for what goes wrong in other places.
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.inner().rng.as_mut().map_or(0, |rng| rng.below(end))
    }

    /// What becomes of this call.
    pub(crate) fn call(&self, call: Call) -> Fate {
        let mut inner = self.inner();
        inner.calls += 1;
        if inner.is_dead {
            return Fate::Fails(0);
        }
        if inner.dies_at.is_some_and(|at| inner.calls >= at) {
            inner.is_dead = true;
            if let Some(save) = inner.on_death.take() {
                save();
            }
            return Fate::Fails(inner.part());
        }
        if call != Call::Read
            && let Some((clock, by)) = &inner.slow
        {
            let later = clock.now_ms() + by;
            clock.set_ms(later);
            inner.moved.push(later);
            inner.counts.slow += 1;
        }
        match (inner.trouble, call) {
            (Trouble::Failing(percent), _) if inner.chance(percent) => {
                let part = inner.part();
                inner.counts.failed += 1;
                inner.counts.unknown += u64::from(part == 100 && call == Call::Write);
                // A sync that fails is another trouble: what it leaves behind cannot be mended.
                if call == Call::Sync { Fate::Done } else { Fate::Fails(part) }
            }
            (Trouble::Altered(percent), Call::Read) if inner.chance(percent) => {
                inner.counts.altered += 1;
                Fate::Altered
            }
            (Trouble::SyncFails(percent), Call::Sync) if inner.chance(percent) => {
                inner.counts.syncs_failed += 1;
                Fate::Fails(0)
            }
            (Trouble::SyncLies, Call::Sync) => {
                inner.counts.lies += 1;
                Fate::Lies
            }
            _ => Fate::Done,
        }
    }
}

impl Inner {
    fn chance(&mut self, percent: u64) -> bool {
        percent == 100 || self.rng.as_mut().is_some_and(|rng| rng.chance(percent))
    }

    /// How much of a call that fails was done.
    fn part(&mut self) -> u64 {
        self.rng.as_mut().map_or(0, |rng| rng.pick(&[0, 0, 30, 70, 100]))
    }
}

/// What a call says that fails.
pub(crate) fn failure() -> io::Error {
    io::Error::other("the tester lets it fail")
}
