//! Appending many events at once: the fast way in.
//!
//! A batch is cut into parts. The events of a part are grouped by partition, while the lines that they will touch are
//! on their way from memory; each group takes its partition's lock once. A partition whose lock another writer holds
//! is left for later while there are others.

use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use smallvec::SmallVec;

use crate::clock::Deadline;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::lanes::append::{Appended, Checked};
use crate::lanes::partition::Writer;
use crate::lanes::run::{Progress, Runner};
use crate::pages::pool::{FrameCache, Pin};
use crate::pressure::RegionKind;
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
    /// ([`DeadLettered`](Appended::DeadLettered)).
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
        Self { order, left }
    }
}

impl Core {
    pub(crate) fn append_batch(&self, events: &[Event<'_>]) -> Result<Batch> {
        self.check_open()?;
        let mut batch = Batch::default();
        for (number, events) in events.chunks(PART).enumerate() {
            let from = number * PART;
            if self.screen.is_active() {
                let (events, numbers) = self.screen_part(from, events, &mut batch);
                self.append_part(&events, |at| numbers[at], &mut batch)?;
            } else {
                self.append_part(events, |at| from + at, &mut batch)?;
            }
        }
        batch.refused.sort_by_key(|(at, _)| *at);
        batch.duplicate_at.sort_unstable();
        batch.set_aside.sort_unstable_by_key(|(at, _)| *at);
        batch.duplicates = batch.duplicate_at.len();
        Ok(batch)
    }

    /// Appends a part. `number` says which of the batch each of its events is.
    fn append_part(
        &self,
        events: &[Event<'_>],
        number: impl Fn(usize) -> usize,
        batch: &mut Batch,
    ) -> Result<()> {
        let mut checked = Vec::with_capacity(events.len());
        {
            let _pin = Pin::new();
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
        let (mut deadline, mut waited) = (Deadline::after(self.config.append_timeout), false);
        // The pin ends before this waits: what waits for readers to go must not wait for this one.
        while let (progressed, Some(region)) = self.append_groups(&checked, &mut groups, batch)? {
            if progressed {
                // The time-out is for waiting in vain.
                deadline = Deadline::after(self.config.append_timeout);
            }
            if deadline.has_passed() {
                for at in groups.left.iter().flat_map(|range| &groups.order[range.clone()]) {
                    batch.refused.push((checked[*at as usize].at as usize, self.refuse(region)));
                }
                break;
            }
            if !std::mem::replace(&mut waited, true) {
                self.waited.fetch_add(1, Ordering::Relaxed);
            }
            self.make_room(deadline)?;
        }
        Ok(())
    }

    /// Appends what is left of the groups, as far as there is room. Whether any event got its outcome, and the region
    /// that had no room.
    fn append_groups(
        &self,
        checked: &[Checked<'_, '_>],
        groups: &mut Groups,
        batch: &mut Batch,
    ) -> Result<(bool, Option<RegionKind>)> {
        let (pin, cache) = (Pin::new(), FrameCache::default());
        let mut runner = Runner::new(&self.lanes, &pin, &cache);
        let now_ms = self.lanes.clock.coarse_ms();
        // Writers that come at a time begin at different partitions, as their ids differ.
        let first =
            checked.first().map_or(0, |checked| checked.event.id as usize / groups.order.len().max(1));
        let (mut next, mut busy, mut progressed) = (first % groups.left.len().max(1), 0, false);
        while !groups.left.is_empty() {
            if let Some(region) = self.rejecting() {
                // What waits for room is to notice a close, which makes none.
                self.check_open()?;
                return Ok((progressed, Some(region)));
            }
            next = if next < groups.left.len() { next } else { 0 };
            let order = &groups.order[groups.left[next].clone()];
            let partition = &self.lanes.partitions[usize::from(checked[order[0] as usize].partition)];
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
            busy = 0;
            progressed |= progress.done > 0;
            groups.left[next].start += progress.done;
            if groups.left[next].is_empty() {
                groups.left.swap_remove(next);
            }
            if progress.full.is_some() {
                return Ok((progressed, progress.full));
            }
        }
        Ok((progressed, None))
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
        self.check_open()?;
        let before = batch.duplicate_at.len();
        let duplicate_at = &mut batch.duplicate_at;
        let duplicate = |event: &Checked<'_, '_>| duplicate_at.push(event.at as usize);
        let progress = runner.append(&mut writer, checked, order, now_ms, duplicate);
        batch.stored += progress.done - (batch.duplicate_at.len() - before);
        Ok(progress)
    }
}
