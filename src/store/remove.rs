//! Removing an event: it is off the index and out of the cold tier, or nothing has changed.

use std::sync::atomic::Ordering;

use crate::clock::Deadline;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventRef;
use crate::pages::pool::FrameCache;
use crate::pages::removed::Removed;
use crate::pages::table::Tier;
use crate::store::core::Core;

/// How many ids can be removed side by side.
pub(crate) const REMOVERS: usize = 64;

impl Core {
    pub(crate) fn remove(&self, id: u64) -> Result<bool> {
        self.check_open()?;
        // Of two who remove the same event exactly one is told that it was there, in whichever tier each meets it.
        // Neither appends nor reads wait for this.
        let _turn = self.removing[id as usize % REMOVERS].lock();
        if self.remove_from_memory(id)? {
            self.wait_for_log()?;
            return Ok(true);
        }
        let Some(cold) = &self.cold else { return Ok(false) };
        let now_ms = self.lanes.clock.now_ms();
        let (deadline, kept) =
            (Deadline::after(self.config.fetch_timeout), |event: &EventRef<'_>| self.is_kept(event, now_ms));
        // One that has expired, too: what was removed must stay so although the clock is set back.
        let Some(found) = cold.find(id, deadline, kept)? else { return Ok(false) };
        let first = cold.remove(id, found.block.id.lane(), found.row.seq)?;
        self.removed.fetch_add(u64::from(first), Ordering::Relaxed);
        Ok(first)
    }

    fn remove_from_memory(&self, id: u64) -> Result<bool> {
        let (pin, cache) = (self.lanes.pin(), FrameCache::default());
        let Some((addr, event)) = self.lanes.get(&pin, &cache, id)? else { return Ok(false) };
        let len = event.record().record_len();
        let meta = self.lanes.pages.meta(addr.page());
        let (lane, seq) = (meta.lane(), meta.seq());
        let place = self.lanes.pages.place(addr.page());
        if place.tier() == Tier::Free {
            // It has left memory since: its generation is the next page's, for which nothing must be noted.
            return Ok(false);
        }
        let generation = place.generation();
        let number = lane.partition() * self.config.classes.len() + lane.class().index();
        // What can fail comes first, and if any of it does, nothing has changed. The tier is told before it is noted: a
        // process that ends in between leaves an event that the next one finds removed, in memory as in the tier.
        let Some(note) = self.lanes.pages.note_removed(addr, generation) else {
            return Err(self.no_room_for_removals());
        };
        // Either no spill reads the page before the event is off the index, or the tier is told.
        let unread = self.cold.as_ref().and_then(|_| self.spiller.hold_off(number, seq));
        let spilled = self.cold.as_ref().filter(|_| unread.is_none());
        let told = match spilled.map(|cold| cold.remove(id, lane, seq)).transpose() {
            Ok(told) => told,
            Err(error) => {
                note(false);
                return Err(error);
            }
        };
        // From now on it is removed, whatever happens.
        note(true);
        #[cfg(test)]
        self.hooks.call("removing");
        self.lanes.pages.tell_removed(addr, generation);
        if !self.lanes.index.remove(id, addr) {
            // It has just left memory, or somebody else has just removed it.
            self.removed.fetch_add(u64::from(told == Some(true)), Ordering::Relaxed);
            return Ok(told == Some(true));
        }
        self.lanes.pages.mark_dead(addr, generation, len);
        drop(unread);
        self.lanes.left.fetch_add(1, Ordering::Relaxed);
        let first = told.unwrap_or(true);
        self.removed.fetch_add(u64::from(first), Ordering::Relaxed);
        Ok(first)
    }

    #[cold]
    fn no_room_for_removals(&self) -> Error {
        let notes = self.lanes.pages.removed.as_ref().map_or(0, Removed::capacity);
        Error::new(
            ErrorKind::MemoryPressure,
            format!(
                "{notes} events that are still in memory have been removed, and there is no room to note one more: what is \
                 removed must stay so after the process has ended. Room is made as pages leave memory"
            ),
        )
    }
}
