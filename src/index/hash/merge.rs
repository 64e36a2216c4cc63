//! Merging pages of the hash table: what a split did, undone when little of both halves is left.
//!
//! The upper half is closed as for a split, and its entries are copied into the lower one, which stays in use: each under its
//! bucket's lock there. Until the directory is redirected nobody looks for them there, and their tags tell them from all that are.

use std::ops::Deref;

use super::{BucketPages, HashIndex};
use crate::sync::{AtomicU32, Ordering};

/// For each page that is looked at so many slots of the directory are passed over.
const SKIPPED: usize = 64;

impl<S: Deref<Target = [AtomicU32]>, P: BucketPages> HashIndex<S, P> {
    /// Slots of the directory in use.
    pub(crate) fn reach(&self) -> usize {
        1 << self.directory.depth()
    }

    /// Looks at so many pages, from where the last call ended, and merges those of which, with their siblings, little is left.
    /// The caller holds a pin, and is the only one.
    pub(crate) fn merge_some(&self, pages: usize) {
        let mut looked_at = 0;
        // Most slots of a directory that was once larger lead to pages that others lead to, too.
        for _ in 0..pages * SKIPPED {
            let depth = self.directory.depth();
            if depth == self.base || looked_at == pages {
                return;
            }
            let next = self.next.load(Ordering::Relaxed);
            self.next.store(next.wrapping_add(1), Ordering::Relaxed);
            looked_at += usize::from(self.merge_at(u64::from(next) & ((1 << depth) - 1)));
        }
    }

    /// Merges the page of a hash with its sibling, if it is the lower half and little is left of both. Whether it had to look.
    fn merge_at(&self, hash: u64) -> bool {
        let number = self.directory.page_for(hash);
        let page = self.page(number);
        let depth = page.depth();
        if depth == self.base || hash >> (depth - 1) != 0 {
            return false;
        }
        let upper = hash | 1 << (depth - 1);
        let other = self.directory.page_for(upper);
        let sibling = self.page(other);
        // So it takes twice as many entries, about, to split it again.
        if sibling.depth() != depth || (page.count() + sibling.count()) * 8 > page.places() * 3 {
            return true;
        }
        let _splitting = self.splitting.lock();
        let are_there = || self.directory.page_for(hash) == number && self.directory.page_for(upper) == other;
        if !are_there() || page.depth() != depth || sibling.depth() != depth {
            return true;
        }
        sibling.close();
        let bit = depth - 1 - self.base;
        if !sibling.copy_entries_to(page) {
            page.forget(bit);
            sibling.reopen();
            return true;
        }
        page.set_depth(depth - 1);
        self.directory.redirect(upper, depth - 1, number);
        self.pages.retire(other);
        true
    }
}
