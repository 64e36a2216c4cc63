//! The screen: what is asked of an event before it is appended, of stores that ask anything. Which class it is of, when
//! it names none; whether its timestamp is one that the class takes.
//!
//! A store that asks nothing pays one look at a flag. Others copy the event, with what was found out. No lock is held
//! while the caller's code is called.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::config::{Config, DiskSync, Outside, Skew};
use crate::error::{Error, ErrorKind, Result, call_user};
use crate::event::Event;
use crate::eviction::millis;
use crate::ids::{Class, Stream};
use crate::index::classes::{ClassResolver, Classes};
use crate::lanes::append::Appended;
use crate::observe::stats::SkewStats;
use crate::store::Batch;
use crate::store::core::Core;
use crate::store::letters::DeadLetterSink;

/// On which side of the window an event is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Ahead,
    Behind,
}

/// What became of the events on one side.
#[derive(Default)]
struct Counts {
    refused: AtomicU64,
    clamped: AtomicU64,
    dead_lettered: AtomicU64,
}

impl Counts {
    fn read(&self) -> SkewStats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SkewStats {
            refused: load(&self.refused),
            clamped: load(&self.clamped),
            dead_lettered: load(&self.dead_lettered),
        }
    }
}

pub(crate) struct Screen {
    /// Whether anything is asked of events.
    active: AtomicBool,
    pub(crate) classes: Classes,
    skews: Vec<Skew>,
    dead_letters: Option<Arc<dyn DeadLetterSink>>,
    counts: [Counts; 2],
}

/// An event that has been screened.
pub(crate) enum Screened<'a> {
    /// To be appended so.
    Passed(Event<'a>),
    /// The dead letters have it.
    DeadLettered,
}

impl Screen {
    pub(crate) fn new(
        config: &Config,
        seed: u64,
        resolver: Option<Arc<dyn ClassResolver>>,
        dead_letters: Option<Arc<dyn DeadLetterSink>>,
    ) -> Self {
        let skews: Vec<Skew> = config.classes.iter().map(|class| class.skew).collect();
        // Who waits for the disk after each append goes the long way, so that all others need not ask.
        let waits = config.durability.disk() == Some(DiskSync::EveryBatch);
        let asks = waits || resolver.is_some() || skews.iter().any(|skew| !skew.takes_all());
        Self {
            active: AtomicBool::new(asks),
            classes: Classes::new(seed, skews.len(), resolver),
            skews,
            dead_letters,
            counts: Default::default(),
        }
    }

    /// Whether anything is asked of events.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// What became of events ahead of the window and behind it.
    pub(crate) fn skew_stats(&self) -> [SkewStats; 2] {
        self.counts.each_ref().map(Counts::read)
    }

    /// Which side of its class's window a timestamp is on, and the nearest one inside.
    fn outside(&self, skew: &Skew, timestamp: i64, now_ms: i64) -> Option<(Side, i64)> {
        let last = skew.ahead.map_or(i64::MAX, |most: Duration| now_ms.saturating_add(millis(most)));
        let first = skew.behind.map_or(i64::MIN, |most| now_ms.saturating_sub(millis(most)));
        if timestamp > last {
            return Some((Side::Ahead, last));
        }
        (timestamp < first).then_some((Side::Behind, first))
    }

    /// Gives an event to the dead letters.
    fn dead_letter(&self, event: &Event<'_>, why: &Error) -> Result<()> {
        match &self.dead_letters {
            Some(sink) => call_user("the dead-letter sink", || sink.take(event, why))?,
            // The builder has seen to it that there is one.
            None => Err(Error::new(why.kind(), why.to_string())),
        }
    }
}

impl Core {
    /// Finds out an event's class, and whether its time is one that the class takes.
    pub(crate) fn screen<'a>(&self, event: &Event<'a>) -> Result<Screened<'a>> {
        let screen = &self.screen;
        let class = match event.class {
            Some(class) => class,
            None => screen.classes.of(&self.names, event.stream)?,
        };
        let event = event.class(class);
        // A class that the store does not have is told by who appends.
        let Some(skew) = screen.skews.get(class.index()).filter(|skew| !skew.takes_all()) else {
            return Ok(Screened::Passed(event));
        };
        let now_ms = self.lanes.clock.coarse_ms();
        let Some((side, nearest)) = screen.outside(skew, event.timestamp, now_ms) else {
            return Ok(Screened::Passed(event));
        };
        let counts = &screen.counts[side as usize];
        let why = || {
            let (limit, where_to) = match side {
                Side::Ahead => (skew.ahead, "ahead of"),
                Side::Behind => (skew.behind, "behind"),
            };
            Error::new(
                ErrorKind::OutsideWindow,
                format!(
                    "event {} of class {:?} is {} ms {where_to} the store's clock, {} ms are allowed; mend the source's \
                     clock, or widen ClassConfig::skew",
                    event.id,
                    self.config.classes[class.index()].name,
                    event.timestamp.abs_diff(now_ms),
                    limit.map_or(0, |limit| limit.as_millis())
                ),
            )
        };
        match skew.outside {
            Outside::Clamp => {
                counts.clamped.fetch_add(1, Ordering::Relaxed);
                Ok(Screened::Passed(event.at(nearest)))
            }
            Outside::Refuse => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                Err(why())
            }
            Outside::DeadLetter => {
                let outcome = self.check_open().and_then(|()| screen.dead_letter(&event, &why()));
                let count = if outcome.is_ok() { &counts.dead_lettered } else { &counts.refused };
                count.fetch_add(1, Ordering::Relaxed);
                outcome.map(|()| Screened::DeadLettered)
            }
        }
    }

    /// Appends an event of a store that asks something of events.
    #[cold]
    pub(crate) fn append_screened(&self, event: &Event<'_>, timeout: Duration) -> Result<Appended> {
        self.check_open()?;
        match self.screen(event)? {
            Screened::Passed(event) => {
                let done = self.append_unscreened(&event, timeout)?;
                self.acknowledge(done)
            }
            Screened::DeadLettered => Ok(Appended::DeadLettered),
        }
    }

    /// Screens events of a batch, of which the first is its number `from`: those that are to be appended, and their
    /// numbers. The others have their outcome then.
    #[cold]
    pub(crate) fn screen_part<'a>(
        &self,
        from: usize,
        events: &[Event<'a>],
        batch: &mut Batch,
    ) -> (Vec<Event<'a>>, Vec<usize>) {
        let (mut passed, mut numbers) = (Vec::with_capacity(events.len()), Vec::with_capacity(events.len()));
        for (number, event) in (from..).zip(events) {
            match self.screen(event) {
                Ok(Screened::Passed(event)) => {
                    passed.push(event);
                    numbers.push(number);
                }
                Ok(Screened::DeadLettered) => batch.set_aside.push((number, Appended::DeadLettered)),
                Err(error) => batch.refused.push((number, error)),
            }
        }
        (passed, numbers)
    }

    // ---- classes of streams ----

    pub(crate) fn set_class(&self, stream: Stream, class: Class) -> Result<Option<Class>> {
        let before = self.screen.classes.set(&self.names, stream, class)?;
        // Afterwards, so that whoever finds it set finds the class.
        self.screen.active.store(true, Ordering::Release);
        Ok(before)
    }

    pub(crate) fn class_of(&self, stream: Stream) -> Result<Class> {
        self.screen.classes.of(&self.names, stream)
    }
}
