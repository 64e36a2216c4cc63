//! Notes of removed events, for stores whose pages outlive the process: that an event is removed is otherwise said by
//! its absence from the id index alone, which does not.
//!
//! A note is the event's address with its page's generation, so it ends by itself when the page leaves memory; its slot
//! is used again then.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::ids::{Addr, LogicalPage};
use crate::sync::{AtomicU64, Ordering};
use crate::sys::memory::Slab;

pub(crate) struct Removed {
    notes: Slab<AtomicU64>,
    /// Whoever holds this is the one who writes notes.
    free: Mutex<Free>,
}

/// Slots without a note that means anything.
#[derive(Default)]
struct Free {
    slots: Vec<u32>,
    /// How often there were not enough of them since they were looked for.
    refused: u32,
}

/// Where notes are to be left for others, they are looked for again after so many refusals: it takes long.
const PATIENCE: u32 = 1024;

impl Removed {
    pub(crate) fn new(notes: Slab<AtomicU64>) -> Self {
        Self { notes, free: Mutex::default() }
    }

    /// How many notes there can be.
    pub(crate) fn capacity(&self) -> usize {
        self.notes.len()
    }

    /// Notes that the event there is removed; `is_in_memory` says whether the page of a note is still the one that it
    /// was. `false`: there is no room.
    pub(crate) fn note(&self, addr: Addr, is_in_memory: impl Fn(Addr) -> bool) -> bool {
        self.note_but_for(0, addr, is_in_memory)
    }

    /// The same of an event that nobody has asked to remove: half of the notes are left for those that somebody does.
    pub(crate) fn note_expired(&self, addr: Addr, is_in_memory: impl Fn(Addr) -> bool) -> bool {
        self.note_but_for(self.notes.len() / 2, addr, is_in_memory)
    }

    fn note_but_for(&self, left: usize, addr: Addr, is_in_memory: impl Fn(Addr) -> bool) -> bool {
        let free = &mut *self.free.lock();
        if free.slots.is_empty() || free.refused >= PATIENCE {
            let ended = |slot: &u32| {
                let note = Addr(self.notes[*slot as usize].load(Ordering::Relaxed));
                note.0 == 0 || !is_in_memory(note)
            };
            *free = Free::default();
            free.slots.extend((0..self.notes.len() as u32).rev().filter(ended));
        }
        if free.slots.len() <= left {
            free.refused += 1;
            return false;
        }
        let Some(slot) = free.slots.pop() else { return false };
        self.notes[slot as usize].store(addr.0, Ordering::Release);
        true
    }

    /// What was noted of pages that are still what they were: by page, in order. Notes that mean nothing any more are
    /// wiped, so that no later page of the number can be taken for theirs.
    pub(crate) fn load(&self, is_in_memory: impl Fn(Addr) -> bool) -> HashMap<LogicalPage, Vec<u32>> {
        let mut pages: HashMap<LogicalPage, Vec<u32>> = HashMap::new();
        for slot in &*self.notes {
            let note = Addr(slot.load(Ordering::Relaxed));
            if note.0 == 0 {
            } else if is_in_memory(note) {
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
        for (page, offset) in [(1, 8), (2, 16), (1, 0), (2, 24)] {
            assert!(removed.note(addr(page, offset), is_in_memory));
        }
        assert!(!removed.note(addr(1, 32), is_in_memory), "all four are needed");
        assert_eq!(removed.load(is_in_memory)[&LogicalPage(1)], [0, 8]);
        in_memory.lock().remove(&1);
        assert!(removed.note(addr(2, 0), is_in_memory) && removed.note(addr(2, 8), is_in_memory));
        assert!(!removed.note(addr(2, 32), is_in_memory));
        let notes = removed.load(is_in_memory);
        assert_eq!((notes.len(), &notes[&LogicalPage(2)][..]), (1, &[0, 8, 16, 24][..]));
    }
}
