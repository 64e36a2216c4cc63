//! Appending many events at once: the fast way in.
//!
//! A batch is cut into parts. The events of a part are grouped by partition, while the lines that they will touch are
//! on their way from memory; each group takes its partition's lock once. A partition whose lock another writer holds
//! is left for later while there are others.

use std::time::Duration;

use parking_lot::MutexGuard;
use smallvec::SmallVec;

use crate::config::OnFull;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::ids::Class;
use crate::lanes::append::{Appended, Checked};
use crate::lanes::partition::Writer;
use crate::lanes::run::{Progress, Runner};
use crate::pages::pool::FrameCache;
use crate::pressure::{BackPressure, PressureReason};
use crate::store::admission::Decision;
use crate::store::core::Core;

/// Events of a part: what they touch fits into a first-level cache, and others get their turn after each group.
const PART: usize = 256;

/// What came of the events of a batch.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Batch {
    /// How many were stored.
    pub stored: usize,
    /// How many were duplicates.
    pub duplicates: usize,
    /// Those that were refused: their place in the batch, rising, and why.
    pub refused: Vec<(usize, Error)>,
    /// The places of the duplicates in the batch, rising.
    pub duplicate_at: Vec<usize>,
    /// Events that went elsewhere instead, as their class says: their place in the batch, rising, and whither
    /// ([`Dropped`](Appended::Dropped) for want of room, [`DeadLettered`](Appended::DeadLettered)).
    pub set_aside: Vec<(usize, Appended)>,
}

impl Batch {
    /// The outcome of the event at that place in the batch.
    ///
    /// # Errors
    /// Why the event was refused.
    pub fn outcome(&self, at: usize) -> Result<Appended, &Error> {
        if let Ok(found) = self.refused.binary_search_by_key(&at, |(at, _)| *at) {
            return Err(&self.refused[found].1);
        }
        if let Ok(found) = self.set_aside.binary_search_by_key(&at, |(at, _)| *at) {
            return Ok(self.set_aside[found].1);
        }
        Ok(if self.duplicate_at.binary_search(&at).is_ok() { Appended::Duplicate } else { Appended::Stored })
    }

    /// Tells of each event that is stored that it is perhaps not on the disk.
    #[cold]
    fn may_not_last(&mut self, events: usize, error: &Error) {
        let known = |at: &usize| {
            self.refused.binary_search_by_key(at, |(at, _)| *at).is_ok()
                || self.set_aside.binary_search_by_key(at, |(at, _)| *at).is_ok()
        };
        let more: Vec<(usize, Error)> =
            (0..events).filter(|at| !known(at)).map(|at| (at, error.again())).collect();
        self.refused.extend(more);
        self.refused.sort_by_key(|(at, _)| *at);
        (self.stored, self.duplicates) = (0, 0);
        self.duplicate_at.clear();
    }

    /// The error of the first event that was refused, if any was.
    ///
    /// # Errors
    /// That error.
    pub fn all_accepted(mut self) -> Result<Self> {
        if self.refused.is_empty() { Ok(self) } else { Err(self.refused.swap_remove(0).1) }
    }
}

/// The events of a part in the order of their partitions, in their own order within each.
struct Groups {
    order: Vec<u32>,
    /// Ranges of `order`: one for each partition that has events, less those that have their outcome.
    left: SmallVec<[std::ops::Range<usize>; 16]>,
    /// Events whose class has no room, put aside while others have some.
    parked: Vec<u32>,
}

/// What an event had no room in, and its class.
#[derive(Clone, Copy)]
struct Short {
    reason: PressureReason,
    class: Class,
}

impl Groups {
    /// Sorts by counting.
    fn new(checked: &[Checked<'_, '_>], partitions: usize) -> Self {
        let mut space: SmallVec<[u32; 32]> = SmallVec::from_elem(0, partitions);
        let ends = space.as_mut_slice();
        for event in checked {
            ends[usize::from(event.partition)] += 1;
        }
        let mut left = SmallVec::new();
        let mut sum = 0;
        for end in ends.iter_mut() {
            let begin = sum;
            sum += *end as usize;
            if sum > begin {
                left.push(begin..sum);
            }
            *end = begin as u32;
        }
        let mut order = vec![0; checked.len()];
        for (at, event) in checked.iter().enumerate() {
            let end = &mut ends[usize::from(event.partition)];
            order[*end as usize] = at as u32;
            *end += 1;
        }
        Self { order, left, parked: Vec::new() }
    }

    /// Takes those events out that `take` takes, in their order.
    fn take(&mut self, mut take: impl FnMut(u32) -> bool) {
        for range in &mut self.left {
            let mut kept = range.start;
            for at in range.clone() {
                if !take(self.order[at]) {
                    self.order[kept] = self.order[at];
                    kept += 1;
                }
            }
            range.end = kept;
        }
        self.left.retain(|range| range.start < range.end);
    }

    /// Puts the events of a class aside.
    fn park(&mut self, checked: &[Checked<'_, '_>], class: Class) {
        let mut parked = std::mem::take(&mut self.parked);
        self.take(|at| {
            let parks = checked[at as usize].class == class;
            parked.extend(parks.then_some(at));
            parks
        });
        self.parked = parked;
    }

    /// Takes back what was put aside.
    fn unpark(&mut self, checked: &[Checked<'_, '_>]) {
        if self.parked.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.parked);
        self.take(|at| {
            all.push(at);
            true
        });
        let partition = |at: &u32| checked[*at as usize].partition;
        all.sort_unstable_by_key(|at| (partition(at), *at));
        self.left.clear();
        for group in all.chunk_by(|one, other| partition(one) == partition(other)) {
            let begin = self.left.last().map_or(0, |range| range.end);
            self.left.push(begin..begin + group.len());
        }
        self.order = all;
    }
}

impl Core {
    pub(crate) fn append_batch(&self, events: &[Event<'_>]) -> Result<Batch> {
        self.check_open()?;
        let mut batch = Batch::default();
        for (number, part) in events.chunks(PART).enumerate() {
            let from = number * PART;
            let outcome = if self.screen.is_active() {
                let (events, numbers) = self.screen_part(from, part, &mut batch);
                self.append_part(&events, |at| numbers[at], &mut batch)
            } else {
                self.append_part(part, |at| from + at, &mut batch)
            };
            if let Err(error) = outcome {
                // Events have their outcome already, and that must be told.
                let rest = from + part.len()..events.len();
                batch.refused.extend(rest.map(|at| (at, error.again())));
                break;
            }
        }
        batch.refused.sort_by_key(|(at, _)| *at);
        batch.duplicate_at.sort_unstable();
        batch.set_aside.sort_unstable_by_key(|(at, _)| *at);
        batch.duplicates = batch.duplicate_at.len();
        if batch.stored + batch.duplicates > 0
            && let Err(error) = self.wait_for_log()
        {
            batch.may_not_last(events.len(), &error);
        }
        Ok(batch)
    }

    /// Appends a part. `number` says which of the batch each of its events is. After an error, which means that the store
    /// was closed, each has its outcome, too.
    fn append_part(
        &self,
        events: &[Event<'_>],
        number: impl Fn(usize) -> usize,
        batch: &mut Batch,
    ) -> Result<()> {
        let mut checked = Vec::with_capacity(events.len());
        {
            let _pin = self.lanes.pin();
            for (at, event) in events.iter().enumerate() {
                match self.lanes.check(number(at) as u32, event) {
                    Ok(event) => {
                        self.lanes.prefetch(&event);
                        checked.push(event);
                    }
                    Err(error) => batch.refused.push((number(at), error)),
                }
            }
        }
        let mut groups = Groups::new(&checked, self.lanes.partitions.len());
        let outcome = match self.append_groups(&checked, &mut groups, batch, false) {
            Ok((_, None)) => Ok(()),
            Ok((_, Some(short))) => self.append_when_short(&checked, &mut groups, batch, short),
            Err(error) => Err(error),
        };
        outcome.inspect_err(|error| {
            groups.unpark(&checked);
            groups.take(|at| {
                batch.refused.push((checked[at as usize].at as usize, error.again()));
                true
            });
        })
    }

    /// Waits for room for what is left of a part, and appends it turn by turn. The pin has ended: what waits for readers
    /// to go must not wait for this one.
    #[cold]
    fn append_when_short(
        &self,
        checked: &[Checked<'_, '_>],
        groups: &mut Groups,
        batch: &mut Batch,
        mut short: Short,
    ) -> Result<()> {
        let (mut patience, mut waited, mut tries) =
            (self.lanes.clock.patience(self.config.append_timeout), false, 0);
        loop {
            let place = self.admission.line_up(short.reason);
            let turn = self.admission.in_turn(|| self.append_groups(checked, groups, batch, true));
            let (progressed, still) = turn?;
            let Some(still) = still else { return Ok(()) };
            short = still;
            if progressed {
                // The time-out is for waiting in vain.
                (patience, tries) = (self.lanes.clock.patience(self.config.append_timeout), 0);
            }
            let passed = patience.is_over();
            if passed || self.admission.some_reject {
                let retry = self.settle(checked, groups, batch, short, passed, tries);
                if groups.left.is_empty() {
                    return Ok(());
                }
                if let Some(more) = retry {
                    (patience, tries) = (self.lanes.clock.patience(more), tries.saturating_add(1));
                }
            }
            if !std::mem::replace(&mut waited, true) {
                self.admission.count_wait(short.class, short.reason);
            }
            self.make_room(&mut patience)?;
            drop(place);
        }
    }

    /// Decides what becomes of the events that are left: of all, or of those whose class does not wait. How long to wait
    /// on for those that were not settled, if the store's handler says so.
    fn settle(
        &self,
        checked: &[Checked<'_, '_>],
        groups: &mut Groups,
        batch: &mut Batch,
        short: Short,
        all: bool,
        tries: u32,
    ) -> Option<Duration> {
        let mut pressure: Option<BackPressure> = None;
        let mut retry = None;
        groups.take(|at| {
            let Checked { event, class, at, .. } = checked[at as usize];
            let concerned = !short.reason.is_of_class() || class == short.class;
            if retry.is_some() || !concerned || !all && self.on_full(class) != OnFull::Reject {
                return false;
            }
            let told = pressure.get_or_insert_with(|| self.back_pressure(short.reason, None));
            told.class = Some(class);
            match self.decide(event, class, told, tries) {
                Decision::Refused(error) => batch.refused.push((at as usize, error)),
                Decision::Done(done) => batch.set_aside.push((at as usize, done)),
                Decision::Retry(more) => {
                    retry = Some(more);
                    return false;
                }
            }
            true
        });
        retry
    }

    /// Appends what is left of the groups, as far as there is room. Whether any event got its outcome, and what had no
    /// room. `in_turn`: this has waited for its turn; otherwise those who wait go first.
    fn append_groups(
        &self,
        checked: &[Checked<'_, '_>],
        groups: &mut Groups,
        batch: &mut Batch,
        in_turn: bool,
    ) -> Result<(bool, Option<Short>)> {
        let (pin, cache) = (self.lanes.pin(), FrameCache::default());
        let mut runner = Runner::new(&self.lanes, &pin, &cache);
        let now_ms = self.lanes.clock.coarse_ms();
        // Writers that come at a time begin at different partitions, as their ids differ.
        let first =
            checked.first().map_or(0, |checked| checked.event.id as usize / groups.order.len().max(1));
        let (mut next, mut busy, mut progressed) = (first % groups.left.len().max(1), 0, false);
        let mut short = None;
        while !groups.left.is_empty() {
            next = if next < groups.left.len() { next } else { 0 };
            let order = &groups.order[groups.left[next].clone()];
            let first = &checked[order[0] as usize];
            if let Some(reason) = if in_turn { self.rejecting() } else { self.rejecting_newcomers() } {
                // What waits for room is to notice a close, which makes none.
                self.check_open()?;
                short = Some(Short { reason, class: first.class });
                break;
            }
            let partition = &self.lanes.partitions[usize::from(first.partition)];
            let writer = match partition.try_lock() {
                Some(writer) => writer,
                // All that are left are held by others: wait for one.
                None if busy >= groups.left.len() => partition.lock(),
                None => {
                    (next, busy) = (next + 1, busy + 1);
                    continue;
                }
            };
            // The one after is on its way meanwhile.
            let after = groups.left.get(next + 1).or(groups.left.first());
            if let Some(first) = after.and_then(|range| groups.order.get(range.start)) {
                self.lanes.partitions[usize::from(checked[*first as usize].partition)].prefetch();
            }
            let progress = self.append_group(&mut runner, writer, checked, order, now_ms, batch)?;
            let full = progress
                .full
                .map(|reason| Short { reason, class: checked[order[progress.done] as usize].class });
            busy = 0;
            progressed |= progress.done > 0;
            groups.left[next].start += progress.done;
            if groups.left[next].is_empty() {
                groups.left.swap_remove(next);
            }
            if full.is_some() {
                short = full;
            }
            match full {
                None => {}
                // Others have room yet.
                Some(full) if full.reason.is_of_class() => groups.park(checked, full.class),
                Some(_) => break,
            }
        }
        groups.unpark(checked);
        Ok((progressed, short.filter(|_| !groups.left.is_empty())))
    }

    /// Appends the events of one partition.
    fn append_group<'e, 'a>(
        &self,
        runner: &mut Runner<'_, 'e, 'a>,
        mut writer: MutexGuard<'_, Writer>,
        checked: &'e [Checked<'e, 'a>],
        order: &[u32],
        now_ms: i64,
        batch: &mut Batch,
    ) -> Result<Progress> {
        // Under the lock, so that a close that has taken every lock once finds no append behind it.
        if !self.life.takes_appends() {
            let full = Some(self.shut()?);
            return Ok(Progress { done: 0, full });
        }
        let before = batch.duplicate_at.len();
        let duplicate_at = &mut batch.duplicate_at;
        let duplicate = |event: &Checked<'_, '_>| duplicate_at.push(event.at as usize);
        let progress = runner.append(&mut writer, checked, order, now_ms, duplicate);
        batch.stored += progress.done - (batch.duplicate_at.len() - before);
        Ok(progress)
    }
}
