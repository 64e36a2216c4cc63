//! Appending many events at once: the fast way in.
//!
//! A batch is cut into parts. The events of a part are grouped by partition, while the lines that they will touch are
//! on their way from memory; each group takes its partition's lock once. A partition whose lock another writer holds
//! is left for later while there are others.

use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use crate::clock::Deadline;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::lanes::append::{Appended, Checked, Holds, Progress};
use crate::pages::pool::{FrameCache, Pin};
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

/// The events of a part that were not refused, and where they stand in the batch.
struct Part<'e, 'a> {
    checked: SmallVec<[Checked<'e, 'a>; 64]>,
    places: SmallVec<[u32; 64]>,
}

/// The events of a part in the order of their partitions, in their own order within each.
struct Groups {
    order: SmallVec<[u32; 64]>,
    /// Ranges of `order`: one for each partition that has events, less those that have their outcome.
    left: SmallVec<[std::ops::Range<usize>; 16]>,
}

impl Groups {
    /// Sorts by counting.
    fn new(checked: &[Checked<'_, '_>], partitions: usize) -> Self {
        let mut ends: SmallVec<[u32; 32]> = SmallVec::from_elem(0, partitions);
        for event in checked {
            ends[event.partition as usize] += 1;
        }
        let mut left = SmallVec::new();
        let mut sum = 0;
        for end in &mut ends {
            let begin = sum;
            sum += *end as usize;
            if sum > begin {
                left.push(begin..sum);
            }
            *end = begin as u32;
        }
        let mut order = SmallVec::from_elem(0, checked.len());
        for (at, event) in checked.iter().enumerate() {
            let end = &mut ends[event.partition as usize];
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
            self.append_part(number * PART, events, &mut batch)?;
        }
        batch.refused.sort_by_key(|(at, _)| *at);
        batch.duplicate_at.sort_unstable();
        batch.duplicates = batch.duplicate_at.len();
        Ok(batch)
    }

    /// Appends a part, which begins at `from` in the batch.
    fn append_part(&self, from: usize, events: &[Event<'_>], batch: &mut Batch) -> Result<()> {
        let mut pin = Some(Pin::new());
        let mut part = Part { checked: SmallVec::new(), places: SmallVec::new() };
        for (at, event) in events.iter().enumerate() {
            match self.lanes.check(event) {
                Ok(event) => {
                    self.lanes.prefetch(&event);
                    part.checked.push(event);
                    part.places.push((from + at) as u32);
                }
                Err(error) => batch.refused.push((from + at, error)),
            }
        }
        let mut groups = Groups::new(&part.checked, self.lanes.partitions.len());
        let mut deadline = Deadline::after(self.config.append_timeout);
        let (mut next, mut busy, mut waited) = (0, 0, false);
        while !groups.left.is_empty() {
            next %= groups.left.len();
            let range = groups.left[next].clone();
            let order = &groups.order[range.clone()];
            let wait = busy >= groups.left.len();
            let pinned = pin.get_or_insert_with(Pin::new);
            let Some(progress) = self.append_group(pinned, &part, order, wait, batch)? else {
                (next, busy) = (next + 1, busy + 1);
                continue;
            };
            busy = 0;
            groups.left[next].start += progress.done;
            if groups.left[next].is_empty() {
                groups.left.swap_remove(next);
            }
            let Some(region) = progress.full else { continue };
            // The time-out is for waiting in vain.
            if progress.done > 0 {
                deadline = Deadline::after(self.config.append_timeout);
            }
            // What waits for readers to go must not wait for this one.
            pin = None;
            if deadline.has_passed() {
                for at in groups.left.iter().flat_map(|range| &groups.order[range.clone()]) {
                    batch.refused.push((part.places[*at as usize] as usize, self.refuse(region)));
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

    /// Appends the events of one partition. `None`: another writer has its lock, and `wait` says not to wait for it.
    fn append_group(
        &self,
        pin: &Pin,
        part: &Part<'_, '_>,
        order: &[u32],
        wait: bool,
        batch: &mut Batch,
    ) -> Result<Option<Progress>> {
        if let Some(region) = self.rejecting() {
            return Ok(Some(Progress { done: 0, full: Some(region) }));
        }
        let Some(first) = order.first() else { return Ok(Some(Progress::default())) };
        let partition = &self.lanes.partitions[part.checked[*first as usize].partition as usize];
        let writer = if wait { Some(partition.lock()) } else { partition.try_lock() };
        let Some(mut writer) = writer else { return Ok(None) };
        self.check_open()?;
        let cache = FrameCache::default();
        let mut holds =
            Holds { pin, cache: &cache, writer: &mut writer, now_ms: self.lanes.clock.coarse_ms() };
        let before = batch.duplicate_at.len();
        let duplicate_at = &mut batch.duplicate_at;
        let duplicate = |at: u32| duplicate_at.push(part.places[at as usize] as usize);
        let progress = self.lanes.append(&mut holds, &part.checked, order, duplicate);
        batch.stored += progress.done - (batch.duplicate_at.len() - before);
        Ok(Some(progress))
    }
}
