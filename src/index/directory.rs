//! The directory of an extendible hash table (Fagin, Nievergelt, Pippenger, Strong, 1979): which page holds a
//! hash's entry.
//!
//! The directory is indexed by the *low* bits of the hash, so that it doubles in place: the lower half is copied
//! to the upper one, and then the depth is raised. A reader with the old depth still finds the lower half. It may
//! find a page that was split since and miss what moved to the sibling, so whoever misses asks again
//! ([`PageDirectory::page_for`] then gives another page) before believing it.

use std::ops::Deref;

use crate::sync::{AtomicU32, Ordering};

pub(crate) struct PageDirectory<S> {
    slots: S,
    depth: AtomicU32,
}

impl<S: Deref<Target = [AtomicU32]>> PageDirectory<S> {
    /// A directory over `1 << depth` pages, whose numbers `pages` gives.
    pub(crate) fn new(slots: S, pages: &[u32]) -> Self {
        debug_assert!(pages.len().is_power_of_two() && slots.len().is_power_of_two());
        for (slot, page) in slots.iter().zip(pages) {
            slot.store(*page, Ordering::Relaxed);
        }
        Self { slots, depth: AtomicU32::new(pages.len().ilog2()) }
    }

    /// A directory that was written before, to that depth. `None`: there are not so many slots.
    pub(crate) fn found(slots: S, depth: u32) -> Option<Self> {
        let fits = depth <= slots.len().ilog2();
        fits.then(|| Self { slots, depth: AtomicU32::new(depth) })
    }

    /// All slots, for checks.
    pub(crate) fn slots(&self) -> &[AtomicU32] {
        &self.slots
    }

    pub(crate) fn depth(&self) -> u32 {
        self.depth.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn page_for(&self, hash: u64) -> u32 {
        let mask = (1u64 << self.depth()) - 1;
        self.slots[(hash & mask) as usize].load(Ordering::Acquire)
    }

    /// Makes room for pages of one more bit. `false`: the directory has its full size. One caller at a time.
    pub(crate) fn double(&self) -> bool {
        let len = 1usize << self.depth();
        if len * 2 > self.slots.len() {
            return false;
        }
        for at in 0..len {
            let page = self.slots[at].load(Ordering::Relaxed);
            self.slots[len + at].store(page, Ordering::Relaxed);
        }
        self.depth.store(len.ilog2() + 1, Ordering::Release);
        true
    }

    /// Lets all slots whose low `depth` bits equal those of `hash` lead to `page`. One caller at a time.
    pub(crate) fn redirect(&self, hash: u64, depth: u32, page: u32) {
        let step = 1usize << depth;
        let first = (hash & (step as u64 - 1)) as usize;
        for at in (first..1 << self.depth()).step_by(step) {
            self.slots[at].store(page, Ordering::Release);
        }
    }

    /// Every page once, with a hash that leads to it. One caller at a time.
    pub(crate) fn places(&self) -> Vec<(u32, u64)> {
        let slots = self.slots[..1 << self.depth()].iter().zip(0u64..);
        let mut all: Vec<(u32, u64)> =
            slots.map(|(slot, hash)| (slot.load(Ordering::Relaxed), hash)).collect();
        all.sort_unstable();
        all.dedup_by_key(|(page, _)| *page);
        all
    }

    /// Every page once. For checks; one caller at a time.
    pub(crate) fn pages(&self) -> Vec<u32> {
        let mut pages: Vec<u32> =
            self.slots[..1 << self.depth()].iter().map(|slot| slot.load(Ordering::Relaxed)).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_hash_finds_its_page_while_the_directory_grows_to_its_full_size() {
        let slots: Vec<AtomicU32> = (0..8).map(|_| AtomicU32::new(0)).collect();
        let directory = PageDirectory::new(slots, &[10, 11]);
        let found = || (0..8).map(|hash| directory.page_for(hash)).collect::<Vec<_>>();
        assert_eq!((directory.depth(), found()), (1, vec![10, 11, 10, 11, 10, 11, 10, 11]));
        assert!(directory.double());
        assert_eq!((directory.depth(), found()), (2, vec![10, 11, 10, 11, 10, 11, 10, 11]));
        // Of what page 11 had, that with the second bit goes to a page of its own.
        directory.redirect(0b111, 2, 12);
        assert_eq!(found(), [10, 11, 10, 12, 10, 11, 10, 12]);
        assert!(directory.double() && !directory.double(), "eight slots are three bits");
        directory.redirect(0b001, 3, 13);
        assert_eq!((directory.depth(), found()), (3, vec![10, 13, 10, 12, 10, 11, 10, 12]));
        assert_eq!(directory.pages(), [10, 11, 12, 13]);
        let places = directory.places();
        assert_eq!(places.iter().map(|(page, _)| *page).collect::<Vec<_>>(), [10, 11, 12, 13]);
        assert!(places.iter().all(|(page, hash)| directory.page_for(*hash) == *page), "{places:?}");
        let again = PageDirectory::found(directory.slots(), 3).unwrap();
        assert_eq!((0..8).map(|hash| again.page_for(hash)).collect::<Vec<_>>(), found());
        assert!(PageDirectory::found(directory.slots(), 4).is_none());
    }
}
