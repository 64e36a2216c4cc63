//! Notes of removed events, for stores whose pages outlive the process: that an event is removed is otherwise said by
//! its absence from the id index alone, which does not.
//!
//! A note is the event's address with its page's generation, so it ends by itself when the page leaves memory; its slot
//! is used again then.

use std::collections::HashMap;
use std::ops::Range;

use parking_lot::Mutex;

use crate::ids::{Addr, LogicalPage};
use crate::sync::{AtomicU64, Ordering};
use crate::sys::memory::Slab;

pub(crate) struct Removed {
    notes: Slab<AtomicU64>,
    /// Whoever holds this is the one who writes notes.
    free: Mutex<Free>,
    /// Where a log wants to know of them: notes that it was not given yet.
    fresh: Mutex<Option<Vec<u64>>>,
}

#[derive(Default)]
struct Free {
    /// Slots without a note that means anything.
    slots: Vec<u32>,
    /// Where to look for more.
    next: u32,
    /// How often there were not enough of them since all were looked at.
    refused: u32,
}

/// What stands where a note is going to be: no page has the number 0.
const RESERVED: Addr = Addr(1);
/// Slots that are looked at in one go, so that nobody waits for a look at all of them while there are free ones.
const LOOK: u32 = 1024;
/// Where notes are to be left for others, all are looked at again after so many refusals: it takes long.
const PATIENCE: u32 = 1024;

impl Removed {
    pub(crate) fn new(notes: Slab<AtomicU64>) -> Self {
        Self { notes, free: Mutex::default(), fresh: Mutex::default() }
    }

    /// How many notes there can be.
    pub(crate) fn capacity(&self) -> usize {
        self.notes.len()
    }

    /// Room for a note that an event is removed; `is_in_memory` says whether the page of a note is still the one that it
    /// was. Gives a slot, to be [settled](Self::settle); `None`: there is no room.
    pub(crate) fn reserve(&self, is_in_memory: impl Fn(Addr) -> bool) -> Option<u32> {
        let free = &mut *self.free.lock();
        let (mut looked, all) = (0, self.notes.len() as u32);
        while free.slots.is_empty() && looked < all {
            let end = free.next.saturating_add(LOOK).min(all);
            looked += end - free.next;
            free.slots.extend(self.ended(free.next..end, &is_in_memory));
            free.next = if end == all { 0 } else { end };
        }
        self.write(free, RESERVED)
    }

    /// Writes the note for which a slot was reserved; `None`: the event is not removed after all.
    pub(crate) fn settle(&self, slot: u32, note: Option<Addr>) {
        let note = note.filter(|_| !cfg!(canary = "removal-not-noted"));
        self.notes[slot as usize].store(note.map_or(0, |note| note.0), Ordering::Release);
    }

    /// Notes an event that nobody has asked to remove: half of the notes are left for those that somebody does.
    pub(crate) fn note_expired(&self, addr: Addr, is_in_memory: impl Fn(Addr) -> bool) -> bool {
        let (free, left) = (&mut *self.free.lock(), self.notes.len() / 2);
        if free.slots.len() <= left && (free.refused == 0 || free.refused >= PATIENCE) {
            let slots = self.ended(0..self.notes.len() as u32, &is_in_memory).collect();
            *free = Free { slots, ..Free::default() };
        }
        if free.slots.len() <= left {
            free.refused += 1;
            return false;
        }
        self.write(free, addr).is_some()
    }

    /// Of these slots, those without a note that means anything, the last first.
    fn ended(&self, slots: Range<u32>, is_in_memory: &impl Fn(Addr) -> bool) -> impl Iterator<Item = u32> {
        slots.rev().filter(move |slot| {
            let note = Addr(self.notes[*slot as usize].load(Ordering::Relaxed));
            note != RESERVED && (note.0 == 0 || !is_in_memory(note))
        })
    }

    fn write(&self, free: &mut Free, addr: Addr) -> Option<u32> {
        let slot = free.slots.pop()?;
        self.notes[slot as usize].store(addr.0, Ordering::Release);
        Some(slot)
    }

    /// Tells the log, if there is one, that what was noted is not taken back any more.
    pub(crate) fn tell(&self, addr: Addr) {
        if let Some(fresh) = &mut *self.fresh.lock() {
            fresh.push(addr.0);
        }
    }

    /// Keeps what is told for whoever [takes](Self::take_fresh) it, from now on, and the notes of pages that are in memory.
    pub(crate) fn keep_fresh(&self, is_in_memory: impl Fn(Addr) -> bool) {
        let mut notes = Vec::new();
        self.each(|note| notes.extend(is_in_memory(note).then_some(note.0)));
        *self.fresh.lock() = Some(notes);
    }

    /// Adds what was told since the last call to `out`, so many notes at most.
    pub(crate) fn take_fresh(&self, most: usize, out: &mut Vec<u64>) {
        if let Some(fresh) = &mut *self.fresh.lock() {
            let count = fresh.len().min(most);
            out.extend(fresh.drain(..count));
        }
    }

    /// How much there is to take.
    pub(crate) fn fresh_len(&self) -> usize {
        self.fresh.lock().as_ref().map_or(0, Vec::len)
    }

    /// Calls `tell` for every note, of pages that may have gone, too.
    pub(crate) fn each(&self, mut tell: impl FnMut(Addr)) {
        let notes = self.notes.iter().map(|slot| Addr(slot.load(Ordering::Acquire)));
        notes.filter(|note| note.0 != 0 && *note != RESERVED).for_each(&mut tell);
    }

    /// What was noted of pages that are still what they were: by page, in order. Notes that mean nothing any more are
    /// wiped, so that no later page of the number can be taken for theirs.
    pub(crate) fn load(&self, is_in_memory: impl Fn(Addr) -> bool) -> HashMap<LogicalPage, Vec<u32>> {
        let mut pages: HashMap<LogicalPage, Vec<u32>> = HashMap::new();
        for slot in &*self.notes {
            let note = Addr(slot.load(Ordering::Relaxed));
            if note.0 == 0 {
            } else if note != RESERVED && is_in_memory(note) {
                pages.entry(note.page()).or_default().push(note.offset());
            } else {
                slot.store(0, Ordering::Relaxed);
            }
        }
        for offsets in pages.values_mut() {
            offsets.sort_unstable();
            offsets.dedup();
        }
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::Mapping;
    use std::collections::HashSet;

    #[test]
    fn notes_end_with_their_pages() {
        let removed = Removed::new(Mapping::anonymous(4096, "test").unwrap().whole(4).unwrap());
        let in_memory = Mutex::new(HashSet::from([1, 2]));
        let is_in_memory = |addr: Addr| in_memory.lock().contains(&addr.page().0);
        let addr = |page, offset| Addr::new(LogicalPage(page), offset, 7);
        let note = |addr| removed.reserve(is_in_memory).inspect(|slot| removed.settle(*slot, Some(addr)));
        for (page, offset) in [(1, 8), (2, 16), (1, 0), (2, 24)] {
            assert!(note(addr(page, offset)).is_some());
        }
        assert!(note(addr(1, 32)).is_none(), "all four are needed");
        assert_eq!(removed.load(is_in_memory)[&LogicalPage(1)], [0, 8]);
        in_memory.lock().remove(&1);
        let slot = removed.reserve(is_in_memory).unwrap();
        assert!(note(addr(2, 40)).is_some());
        assert!(note(addr(2, 32)).is_none(), "one is reserved");
        removed.settle(slot, None);
        assert_eq!(removed.load(is_in_memory)[&LogicalPage(2)], [16, 24, 40]);
        assert!(note(addr(2, 8)).is_some());
        let notes = removed.load(is_in_memory);
        assert_eq!((notes.len(), &notes[&LogicalPage(2)][..]), (1, &[8, 16, 24, 40][..]));
    }
}
