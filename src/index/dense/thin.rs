//! Chunks that nothing or little is left of.
//!
//! Where events of one sequence stay for very different times, a few of each chunk outlive the rest by far. Each would keep a
//! page. So what is left of a chunk that was once well filled goes to the hash half when it is at most a sixteenth.

use std::ops::Deref;

use super::{
    CLOSED, DenseIndex, REMOVED, REMOVED_EVER, REMOVED_EVER_MASK, REMOVED_MASK, Remover, TOMB, USED, take,
};
use crate::ids::Addr;
use crate::index::bucket::TENTATIVE;
use crate::index::hash::BucketPages;
use crate::sync::{AtomicU64, Ordering};

/// The share of a chunk that is better off in the hash half, at most.
const THIN: usize = if cfg!(loom) { 2 } else { 16 };
/// Chunks that a sweep thins at most.
const THINNED: usize = 8;
/// How many were removed lately of a chunk of which none was since a sweep came by. Only then it is looked at whether little is
/// left: what goes with its neighbours is mostly gone before.
const AT_REST: u64 = 1;

impl<S: Deref<Target = [AtomicU64]>, P: BucketPages> DenseIndex<S, P> {
    /// Counts what was removed, and frees the chunk if that was all. Counting what is left would cost every append;
    /// looking costs little, since what is left is mostly at the end, where the look begins.
    pub(crate) fn count(&self, remover: &mut Remover<'_>) {
        remover.cursor.release();
        let removed = std::mem::take(&mut remover.removed);
        if removed == 0 {
            return;
        }
        let _writing = self.writing.lock();
        // The chunk may have been freed meanwhile.
        if let Some((slot, word)) = self.find(remover.cursor.chunk) {
            let step = (self.chunk_len() / 8).clamp(2, REMOVED_MASK / REMOVED);
            let (lately, ever) = (self.removed(slot) + removed, (word & REMOVED_EVER_MASK) / REMOVED_EVER);
            let ever = (ever + removed).min(REMOVED_EVER_MASK / REMOVED_EVER);
            // A sweep looks here, too.
            let left = if lately >= step { AT_REST + 1 } else { lately };
            let counts = (ever * REMOVED_EVER) | (left * REMOVED);
            let rest = word & !(REMOVED_MASK | REMOVED_EVER_MASK);
            self.word(slot, 1).store(rest | counts, Ordering::Release);
            if lately >= step {
                self.free_if_empty(slot);
            }
        }
    }

    /// How many entries were removed from a slot's chunk, lately.
    pub(super) fn removed(&self, slot: usize) -> u64 {
        let word = self.word(slot, 1).load(Ordering::Relaxed);
        if word & USED == 0 { 0 } else { (word & REMOVED_MASK) / REMOVED }
    }

    /// Frees chunks of which everything was removed, among the next `slots` of the table, and those of which little is left,
    /// if `take_over` takes it: the number of the chunk, and its entries, of which those that are not zero are published. It is
    /// called with the chunk's lock held, so it must wait for nobody who may be waiting for that.
    pub(crate) fn sweep(&self, slots: usize, mut take_over: impl FnMut(u64, &[AtomicU64]) -> bool) {
        let (mut next, mut thinned) = (self.writing.lock(), 0);
        let all = 1usize << self.slot_bits;
        for _ in 0..slots.min(all) {
            // Whoever makes an array waits for this.
            if thinned == THINNED {
                break;
            }
            *next = (*next + 1) % all;
            let removed = self.removed(*next);
            if removed == 0 || self.free_if_empty(*next) {
                continue;
            }
            let word = self.word(*next, 1).load(Ordering::Relaxed);
            let ever = (word & REMOVED_EVER_MASK) / REMOVED_EVER;
            let set_removed = |lately: u64| {
                self.word(*next, 1).store((word & !REMOVED_MASK) | (lately * REMOVED), Ordering::Release);
            };
            if removed > AT_REST {
                set_removed(AT_REST);
            } else if ever >= (self.chunk_len() / 2).min(REMOVED_EVER_MASK / REMOVED_EVER) {
                // Otherwise it may be one that is being filled.
                if is_thin(self.entries_of(*next)) {
                    thinned += 1;
                    self.thin(*next, &mut take_over);
                } else {
                    set_removed(0);
                }
            }
        }
    }

    /// Frees a chunk that is empty. The caller holds `writing`.
    fn free_if_empty(&self, slot: usize) -> bool {
        let in_use = |entries: &[AtomicU64]| entries.iter().rev().any(|entry| is_in_use(entry).is_some());
        // Otherwise a writer has come meanwhile, and the chunk lives on.
        !in_use(self.entries_of(slot)) && self.close(slot, |_, entries| !in_use(entries))
    }

    /// Frees a chunk that has few entries left, if those are taken over. Otherwise it is met again by the next sweep.
    fn thin(&self, slot: usize, take_over: &mut impl FnMut(u64, &[AtomicU64]) -> bool) {
        self.close(slot, |chunk, entries| {
            let is_published = |entry: Addr| entry.high() & TENTATIVE == 0;
            is_thin(entries)
                && entries.iter().filter_map(is_in_use).all(is_published)
                && take_over(chunk, entries)
        });
    }

    /// Closes the entries of a chunk, has the table forget it and frees its page, if `may` says so under the chunk's lock. The
    /// caller holds `writing`.
    fn close(&self, slot: usize, may: impl FnOnce(u64, &[AtomicU64]) -> bool) -> bool {
        let (page, chunk) =
            (self.word(slot, 1).load(Ordering::Acquire), self.word(slot, 0).load(Ordering::Relaxed));
        let entries = self.entries_of(slot);
        if entries.is_empty() {
            return false;
        }
        let lock = self.lock(chunk);
        let moves = take(lock);
        let closed = may(chunk, entries);
        if closed {
            entries.iter().for_each(|entry| entry.store(CLOSED, Ordering::Release));
        }
        lock.store(moves, Ordering::Release);
        if !closed {
            return false;
        }
        let mask = (1usize << self.slot_bits) - 1;
        self.word(slot, 1).store(TOMB, Ordering::Release);
        // Tombs before an empty slot lead nowhere.
        let mut last = slot;
        while self.word((last + 1) & mask, 1).load(Ordering::Relaxed) == 0
            && self.word(last, 1).load(Ordering::Relaxed) == TOMB
        {
            self.word(last, 1).store(0, Ordering::Release);
            last = last.wrapping_sub(1) & mask;
        }
        self.chunks.fetch_sub(1, Ordering::Release);
        self.pages.retire(page as u32);
        true
    }
}

/// What an entry says, unless it is free.
fn is_in_use(entry: &AtomicU64) -> Option<Addr> {
    let found = entry.load(Ordering::Relaxed);
    (found != 0).then_some(Addr(found))
}

/// Whether few entries are in use.
fn is_thin(entries: &[AtomicU64]) -> bool {
    let most = entries.len() / THIN;
    entries.iter().filter_map(is_in_use).take(most + 1).count() <= most
}
