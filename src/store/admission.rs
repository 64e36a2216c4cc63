//! Getting in: appending an event, and what happens when there is no room for it.
//!
//! Whoever finds no room gets in line. While somebody waits, whoever comes gets in line, too, so that those who wait are
//! not passed by; each has the turn for one try, a batch for as many events as one part of it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::FairMutex;

use crate::clock::Patience;
use crate::config::{Config, OnFull};
use crate::error::{Error, ErrorKind, Result, call_user};
use crate::event::Event;
use crate::ids::Class;
use crate::lanes::append::{Appended, Checked};
use crate::pages::pool::FrameCache;
use crate::pressure::{AdmissionStats, BackPressure, ByReason, PressureReason};
use crate::store::core::Core;
use crate::store::letters::DeadLetterSink;

/// How long one wait for room lasts before the store is asked again.
const WAIT_TURN: Duration = Duration::from_millis(10);
/// The shortest wait that a handler can ask for.
const RETRY_MIN: Duration = Duration::from_millis(1);
/// How often an append that gives up lower classes waits a turn for readers of what has left already.
const READERS_TRIES: u32 = 20;
const REASONS: usize = PressureReason::ALL.len();

/// What a [`FullHandler`] has done with an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// The append fails with [`ErrorKind::MemoryPressure`].
    Refuse,
    /// The event is given up: the append answers [`Appended::Dropped`].
    Drop,
    /// The event goes to the store's dead letters: the append answers [`Appended::DeadLettered`], or fails if they do.
    DeadLetter,
    /// The append waits that much longer (a millisecond at least), and asks again if there is still no room.
    Retry(Duration),
}

/// Decides what becomes of events for which there is no room, of classes that say [`OnFull::Ask`].
///
/// It is called on the thread that appends, after the append's time-out, and may take its time: no lock is held. If it
/// panics, the append fails with [`ErrorKind::Panicked`]. A closure will do:
///
/// ```
/// use esker::{BackPressure, Config, Event, OnFull, Store, Verdict};
///
/// let config = Config::builder().memory("16MiB").on_full(OnFull::Ask).build()?;
/// let store = Store::builder(config)
///     .on_full(|event: &Event<'_>, _: &BackPressure, _tries: u32| {
///         if event.kind == 0 { Verdict::Drop } else { Verdict::Refuse }
///     })
///     .open()?;
/// # Ok::<(), esker::Error>(())
/// ```
pub trait FullHandler: Send + Sync + 'static {
    /// Decides about an event. `tries` is how often this append has asked before.
    fn decide(&self, event: &Event<'_>, pressure: &BackPressure, tries: u32) -> Verdict;
}

impl<F> FullHandler for F
where
    F: Fn(&Event<'_>, &BackPressure, u32) -> Verdict + Send + Sync + 'static,
{
    fn decide(&self, event: &Event<'_>, pressure: &BackPressure, tries: u32) -> Verdict {
        self(event, pressure, tries)
    }
}

/// What is counted of appends that had no room.
#[derive(Clone, Copy)]
enum Count {
    Waited,
    Rejected,
    Dropped,
    DeadLettered,
}

pub(crate) struct Admission {
    /// Those who wait for room that anybody could use.
    waiting: AtomicU32,
    /// Whose turn it is, in the order of their coming.
    turn: FairMutex<()>,
    handler: Option<Arc<dyn FullHandler>>,
    dead_letters: Option<Arc<dyn DeadLetterSink>>,
    /// For each class and kind of count, one for each reason.
    counts: Vec<[[AtomicU64; REASONS]; 4]>,
    /// Whether some class refuses at once.
    pub(crate) some_reject: bool,
}

/// A place in the line, given up when it is dropped.
pub(crate) struct Place<'a>(Option<&'a AtomicU32>);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.0 {
            waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What was decided of an event without room.
pub(crate) enum Decision {
    Refused(Error),
    Done(Appended),
    Retry(Duration),
}

impl Admission {
    pub(crate) fn new(
        config: &Config,
        handler: Option<Arc<dyn FullHandler>>,
        dead_letters: Option<Arc<dyn DeadLetterSink>>,
    ) -> Self {
        let rejects = |class: &crate::config::ClassConfig| class.on_full.unwrap_or(config.on_full);
        Self {
            waiting: AtomicU32::new(0),
            turn: FairMutex::new(()),
            handler,
            dead_letters,
            counts: config.classes.iter().map(|_| Default::default()).collect(),
            some_reject: config.classes.iter().any(|class| rejects(class) == OnFull::Reject),
        }
    }

    /// Whether somebody waits for room.
    #[inline]
    pub(crate) fn has_line(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Gets in line. Who lacks what only its own class lacks is in nobody's way.
    pub(crate) fn line_up(&self, reason: PressureReason) -> Place<'_> {
        let waiting = (!reason.is_of_class()).then_some(&self.waiting);
        if let Some(waiting) = waiting {
            waiting.fetch_add(1, Ordering::Relaxed);
        }
        Place(waiting)
    }

    /// Calls `attempt` when it is the caller's turn.
    pub(crate) fn in_turn<T>(&self, attempt: impl FnOnce() -> T) -> T {
        let _turn = self.turn.lock();
        attempt()
    }

    fn count(&self, what: Count, class: Class, reason: PressureReason) {
        self.counts[class.index()][what as usize][reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_wait(&self, class: Class, reason: PressureReason) {
        self.count(Count::Waited, class, reason);
    }

    /// What became of appends without room, class by class.
    pub(crate) fn stats(&self) -> Vec<AdmissionStats> {
        let read = |counts: &[AtomicU64; REASONS]| {
            ByReason::new(counts.each_ref().map(|count| count.load(Ordering::Relaxed)))
        };
        let of = |counts: &[[AtomicU64; REASONS]; 4]| {
            let [waited, rejected, dropped, dead_lettered] = counts.each_ref().map(read);
            AdmissionStats { waited, rejected, dropped, dead_lettered }
        };
        self.counts.iter().map(of).collect()
    }

    /// Gives an event to the dead letters.
    fn dead_letter(&self, event: &Event<'_>, why: Error) -> Result<Appended> {
        let Some(sink) = &self.dead_letters else { return Err(why) };
        call_user("the dead-letter sink", || sink.take(event, &why))??;
        Ok(Appended::DeadLettered)
    }
}

impl Core {
    pub(crate) fn append(&self, event: &Event<'_>, timeout: Duration) -> Result<Appended> {
        if self.screen.is_active() {
            return self.append_screened(event, timeout);
        }
        self.append_unscreened(event, timeout)
    }

    /// Appends an event whose class is that which it names, or the default one, and whose time is right.
    pub(crate) fn append_unscreened(&self, event: &Event<'_>, timeout: Duration) -> Result<Appended> {
        let checked = self.lanes.check(0, event)?;
        match self.append_once(&checked)? {
            Ok(done) => Ok(done),
            Err(reason) => self.append_when_full(&checked, reason, timeout),
        }
    }

    /// One try of somebody who just comes. The inner error is what had no room.
    #[inline]
    pub(crate) fn append_once(&self, checked: &Checked<'_, '_>) -> Result<Result<Appended, PressureReason>> {
        if let Some(reason) = self.rejecting_newcomers() {
            self.check_open()?;
            return Ok(Err(reason));
        }
        self.append_now(checked)
    }

    #[inline(always)]
    fn append_now(&self, checked: &Checked<'_, '_>) -> Result<Result<Appended, PressureReason>> {
        // Before anything is looked at that may lie in files: a forked process does not have those.
        if !self.life.takes_appends() {
            return self.shut().map(Err);
        }
        let partition = &self.lanes.partitions[usize::from(checked.partition)];
        partition.prefetch();
        let (pin, cache) = (self.lanes.pin(), FrameCache::default());
        self.lanes.prefetch(checked);
        let mut writer = partition.lock();
        // Under the lock, so that a close that has taken every lock once finds no append behind it.
        if !self.life.takes_appends() {
            return self.shut().map(Err);
        }
        Ok(self.lanes.append(&pin, &cache, &mut writer, checked, self.lanes.clock.coarse_ms()))
    }

    /// One try of somebody whose turn it is.
    #[cold]
    pub(crate) fn append_in_turn(
        &self,
        checked: &Checked<'_, '_>,
    ) -> Result<Result<Appended, PressureReason>> {
        self.admission.in_turn(|| match self.rejecting() {
            Some(reason) => self.check_open().map(|()| Err(reason)),
            None => self.append_now(checked),
        })
    }

    #[cold]
    fn append_when_full(
        &self,
        checked: &Checked<'_, '_>,
        mut reason: PressureReason,
        timeout: Duration,
    ) -> Result<Appended> {
        let mut limit = if self.on_full(checked.class) == OnFull::Reject { Duration::ZERO } else { timeout };
        let mut tries = 0;
        loop {
            match self.append_waiting(checked, reason, self.lanes.clock.patience(limit))? {
                Ok(done) => return Ok(done),
                Err(short) => reason = short,
            }
            let pressure = self.back_pressure(reason, Some(checked.class));
            match self.decide(checked.event, checked.class, &pressure, tries) {
                Decision::Refused(error) => return Err(error),
                Decision::Done(done) => return Ok(done),
                Decision::Retry(more) => (limit, tries) = (more, tries.saturating_add(1)),
            }
        }
    }

    /// Tries until there is room, or patience is over; once at least.
    fn append_waiting(
        &self,
        checked: &Checked<'_, '_>,
        reason: PressureReason,
        mut patience: Patience,
    ) -> Result<Result<Appended, PressureReason>> {
        let _place = self.admission.line_up(reason);
        let mut waited = false;
        loop {
            match self.append_in_turn(checked)? {
                Err(reason) if !patience.is_over() => {
                    if !std::mem::replace(&mut waited, true) {
                        self.admission.count_wait(checked.class, reason);
                    }
                    self.make_room(&mut patience)?;
                }
                done => return Ok(done),
            }
        }
    }

    /// Waits a moment for room; a store without threads makes it itself.
    pub(crate) fn make_room(&self, patience: &mut Patience) -> Result<()> {
        // There may be room already that only waits for its last readers.
        self.lanes.readers.reclaim();
        self.look_round();
        let turn = patience.turn(WAIT_TURN);
        if self.config.background {
            self.mover_bell.ring();
            self.room.wait(turn);
            return Ok(());
        }
        match self.maintain() {
            // A cold tier that fails is not the appender's affair: it meets the full store.
            Err(error) if error.kind() != ErrorKind::Closed => Ok(()),
            other => other,
        }
    }

    /// What is above its rejection threshold.
    #[inline]
    pub(crate) fn rejecting(&self) -> Option<PressureReason> {
        (self.lanes.pages.hot.used_pages() >= self.sizes.reject_pages()).then_some(PressureReason::HotFull)
    }

    /// The same for who just comes, and has no room either while others wait for it.
    #[inline]
    pub(crate) fn rejecting_newcomers(&self) -> Option<PressureReason> {
        // Whoever takes a page stores the level, which seldom changes; the count of pages, which all writers change,
        // is looked at only then.
        let full = self.lanes.gauge.is_full() && self.rejecting().is_some();
        (full || self.admission.has_line()).then_some(PressureReason::HotFull)
    }

    /// What becomes of events of a class that have no room.
    pub(crate) fn on_full(&self, class: Class) -> OnFull {
        self.config.classes[class.index()].on_full.unwrap_or(self.config.on_full)
    }

    /// Gives up events of lower classes for the sake of one of that class. How long to wait then; `None`: there are none that
    /// would help.
    fn give_up_below(&self, class: Class, reason: PressureReason, tries: u32) -> Option<Duration> {
        use PressureReason::{HotFull, IndexFull, PageTableFull};
        if !matches!(reason, HotFull | PageTableFull | IndexFull) {
            return None;
        }
        // What has left and waits for readers makes room, or if they stay, more that leaves makes none either.
        let (pages, reject) = (&self.lanes.pages, self.sizes.reject_pages());
        if pages.hot.used_pages() >= reject && pages.used_without_guards()[0].0 < reject {
            return (tries < READERS_TRIES).then_some(WAIT_TURN);
        }
        if reason == IndexFull && self.lanes.index_waits_for_readers().is_some() {
            return (tries < READERS_TRIES).then_some(WAIT_TURN);
        }
        let priority = self.config.classes[class.index()].priority;
        let mut engine = self.engine.lock();
        let given_up = engine.give_up_below(&self.config, &self.lanes, &self.shared, priority);
        if given_up > 0 {
            // What has left the warm region makes room there for what leaves the hot one.
            engine.step(&self.config, &self.lanes, &self.shared);
        }
        drop(engine);
        self.ring_room();
        (given_up > 0).then_some(RETRY_MIN)
    }

    /// Decides what becomes of an event without room, as its class says, and counts it. No lock is held.
    pub(crate) fn decide(
        &self,
        event: &Event<'_>,
        class: Class,
        pressure: &BackPressure,
        tries: u32,
    ) -> Decision {
        let admission = &self.admission;
        let refusal = || Error::pressure(pressure.clone());
        if self.on_full(class) == OnFull::EvictLower
            && let Some(more) = self.give_up_below(class, pressure.reason, tries)
        {
            return Decision::Retry(more);
        }
        let outcome = match (self.on_full(class), &admission.handler) {
            (OnFull::DeadLetter, _) => admission.dead_letter(event, refusal()),
            (OnFull::Ask, Some(handler)) => {
                match call_user("the store's FullHandler", || handler.decide(event, pressure, tries)) {
                    Ok(Verdict::Refuse) => Err(refusal()),
                    Ok(Verdict::Drop) => Ok(Appended::Dropped),
                    Ok(Verdict::DeadLetter) => admission.dead_letter(event, refusal()),
                    Ok(Verdict::Retry(more)) => return Decision::Retry(more.max(RETRY_MIN)),
                    Err(panicked) => Err(panicked),
                }
            }
            _ => Err(refusal()),
        };
        let count = match outcome {
            Ok(Appended::Dropped) => Count::Dropped,
            Ok(_) => Count::DeadLettered,
            Err(_) => Count::Rejected,
        };
        admission.count(count, class, pressure.reason);
        outcome.map_or_else(Decision::Refused, Decision::Done)
    }
}
