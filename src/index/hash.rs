//! The id index: id → address, as an extendible hash table that grows a page at a time without a stop.
//!
//! The low bits of an id's hash choose the page (through the directory), the upper half chooses the bucket, and 19
//! bits from `base` on are the entry's tag, where `base` is the depth that the index began with. So the bit by
//! which a page is split is in the tag, and splitting reads no record.
//!
//! Splits are done by the writer that met the full page, one at a time. Others wait only if they want the very page
//! that is being split, for the time of copying one page. The mover merges two halves of a page again, of which little is left
//! ([`merge`]).

mod merge;

use std::ops::Deref;

use crate::ids::{Addr, LogicalPage, mix};
use crate::index::bucket::{Bucket, BucketPage, Claim, Sought, TAG_BITS, TENTATIVE};
use crate::index::directory::PageDirectory;
use crate::sync::{AtomicU32, AtomicU64, Mutex, wait_a_turn};

/// Where bucket pages come from and go to.
pub(crate) trait BucketPages {
    /// The buckets of a page that is in use, or was when the caller's pin began.
    fn page(&self, page: u32) -> &[Bucket];
    /// A fresh page, all zero; `None` when there is no room.
    fn claim(&self) -> Option<u32>;
    /// Frees a page after all present readers are gone.
    fn retire(&self, page: u32);
    /// Frees a page that no reader has seen.
    fn give_back(&self, page: u32);
    /// A fresh page below `limit`; `None` when none can be had.
    fn claim_below(&self, limit: u32) -> Option<u32> {
        let page = self.claim()?;
        if page < limit {
            return Some(page);
        }
        self.give_back(page);
        None
    }
    /// A page that is in use as an array of words, or was when the caller's pin began.
    fn words(&self, page: u32) -> &[AtomicU64];
    /// Asks the processor to fetch a bucket.
    fn prefetch(&self, page: u32, bucket: usize);
}

/// What came of announcing an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Announced {
    /// The id is ours, tentatively.
    New,
    /// Another event has it.
    Duplicate,
    /// An entry with that tag is about to be published: try again in a moment.
    Busy,
    /// The index has no room.
    Full,
}

pub(crate) struct HashIndex<S, P> {
    directory: PageDirectory<S>,
    pages: P,
    seed: u64,
    /// The directory's depth at the beginning, where tags begin.
    base: u32,
    splitting: Mutex<()>,
    /// Where the next look for pages to merge begins.
    next: AtomicU32,
}

impl<S: Deref<Target = [AtomicU32]>, P: BucketPages> HashIndex<S, P> {
    /// An empty index of `1 << base` pages. `None` when there is no room for them.
    pub(crate) fn new(slots: S, pages: P, base: u32, seed: u64) -> Option<Self> {
        let first: Vec<u32> = (0..1u32 << base).map_while(|_| pages.claim()).collect();
        if first.len() != 1 << base || slots.len() < first.len() {
            return None;
        }
        for page in &first {
            BucketPage::new(pages.page(*page)).set_depth(base);
        }
        Some(Self {
            directory: PageDirectory::new(slots, &first),
            pages,
            seed,
            base,
            splitting: Mutex::new(()),
            next: AtomicU32::new(0),
        })
    }

    /// An index that was written before: it began with `1 << base` pages, and its directory has that depth now. `None`:
    /// that cannot be.
    pub(crate) fn found(slots: S, pages: P, [base, depth]: [u32; 2], seed: u64) -> Option<Self> {
        let directory = PageDirectory::found(slots, depth).filter(|_| base <= depth)?;
        Some(Self { directory, pages, seed, base, splitting: Mutex::new(()), next: AtomicU32::new(0) })
    }

    /// What says of it what its pages and directory do not: see [`Self::found`].
    pub(crate) fn shape(&self) -> [u32; 2] {
        [self.base, self.directory.depth()]
    }

    /// The directory's slots, for checks.
    pub(crate) fn slots(&self) -> &[AtomicU32] {
        self.directory.slots()
    }

    #[inline]
    pub(crate) fn hash(&self, id: u64) -> u64 {
        mix(id, self.seed)
    }

    fn tag(&self, hash: u64) -> u32 {
        (hash >> self.base) as u32 & ((1 << TAG_BITS) - 1)
    }

    fn page(&self, page: u32) -> BucketPage<'_> {
        BucketPage::new(self.pages.page(page))
    }

    /// Asks the processor to fetch the bucket that a hash leads to.
    pub(crate) fn prefetch(&self, hash: u64) {
        let page = self.directory.page_for(hash);
        self.pages.prefetch(page, self.page(page).main_of(hash));
    }

    /// Looks for a published entry that `check` accepts. The caller holds a pin.
    #[inline]
    pub(crate) fn find<T>(&self, hash: u64, mut check: impl FnMut(Addr) -> Option<T>) -> Option<T> {
        let tag = self.tag(hash);
        let mut seen = self.way(hash);
        loop {
            if let Some(found) = self.page(seen.1).find(hash, tag, &mut check) {
                return Some(found);
            }
            // The page may have been split between the look at the directory and the look at the page.
            let now = self.way(hash);
            if now == seen {
                return None;
            }
            seen = now;
        }
    }

    /// What there is for which `same` says that it is the same id; for an entry that is about to be published that
    /// cannot be asked yet. The caller holds a pin.
    pub(crate) fn seek(&self, hash: u64, same: &mut impl FnMut(Addr) -> bool) -> Sought {
        let tag = self.tag(hash);
        let mut seen = self.way(hash);
        loop {
            let found = self.page(seen.1).seek(hash, tag, same);
            let now = self.way(hash);
            if found != Sought::Nothing || now == seen {
                return found;
            }
            seen = now;
        }
    }

    /// The depth of the directory, and the page that it leads a hash to. Whoever misses believes it only if both are as they were:
    /// with an older depth it may have looked into the lower half of a page that was split, to which what it looks for has come
    /// back since by a merge.
    #[inline]
    fn way(&self, hash: u64) -> (u32, u32) {
        let depth = self.directory.depth();
        (depth, self.directory.page_for(hash))
    }

    /// Announces that an id will be at `addr`: other writers see it, readers do not. `same` says whether an entry
    /// with the same tag is for the same id. The caller holds a pin.
    pub(crate) fn announce(&self, hash: u64, addr: Addr, mut same: impl FnMut(Addr) -> bool) -> Announced {
        let mut turn = 0;
        loop {
            let number = self.directory.page_for(hash);
            let current = || self.directory.page_for(hash) == number;
            match self.page(number).claim(hash, self.tag(hash), addr, current, &mut same) {
                Claim::Done => return Announced::New,
                Claim::Duplicate => return Announced::Duplicate,
                Claim::Busy => return Announced::Busy,
                Claim::Moved => wait_a_turn(&mut turn),
                Claim::Full => {
                    if !self.split(hash, number) {
                        return Announced::Full;
                    }
                }
            }
        }
    }

    /// Lets readers see an announced entry: its record is committed.
    pub(crate) fn publish(&self, hash: u64, addr: Addr) {
        let tag = self.tag(hash) << 1;
        let done = self.replace(hash, addr.with_high(tag | TENTATIVE).0, addr.with_high(tag).0);
        debug_assert!(done, "an announced entry stays until it is published");
    }

    /// Takes an announced entry back.
    pub(crate) fn withdraw(&self, hash: u64, addr: Addr) {
        let done = self.replace(hash, addr.with_high(self.tag(hash) << 1 | TENTATIVE).0, 0);
        debug_assert!(done, "an announced entry stays until it is withdrawn");
    }

    /// Removes a published entry. `false`: there is none for exactly this address.
    pub(crate) fn remove(&self, hash: u64, addr: Addr) -> bool {
        self.replace(hash, addr.with_high(self.tag(hash) << 1).0, 0)
    }

    fn replace(&self, hash: u64, from: u64, to: u64) -> bool {
        let mut turn = 0;
        loop {
            let number = self.directory.page_for(hash);
            let current = || self.directory.page_for(hash) == number;
            match self.page(number).replace(hash, from, to, current) {
                Some(done) => return done,
                None => wait_a_turn(&mut turn),
            }
        }
    }

    /// Splits the page that was found full. `false`: there is no room, or the hash cannot tell its entries apart.
    fn split(&self, hash: u64, number: u32) -> bool {
        let _splitting = self.splitting.lock();
        if self.directory.page_for(hash) != number {
            // Another writer has split it meanwhile.
            return true;
        }
        let old = self.page(number);
        let depth = old.depth();
        let bit = depth - self.base;
        if bit >= TAG_BITS || depth == self.directory.depth() && !self.directory.double() {
            return false;
        }
        let Some(zero) = self.pages.claim() else { return false };
        let Some(one) = self.pages.claim() else {
            self.pages.give_back(zero);
            return false;
        };
        old.close();
        for page in [zero, one] {
            self.page(page).set_depth(depth + 1);
        }
        if !old.split_into(self.page(zero), self.page(one), bit) {
            old.reopen();
            self.pages.give_back(zero);
            self.pages.give_back(one);
            return false;
        }
        self.directory.redirect(hash & !(1 << depth), depth + 1, zero);
        self.directory.redirect(hash | 1 << depth, depth + 1, one);
        self.pages.retire(number);
        true
    }

    /// Moves bucket pages at or above `limit` to ones below, up to `most` of them. How many it were.
    pub(crate) fn vacate(&self, limit: u32, most: usize) -> usize {
        let _splitting = self.splitting.lock();
        let mut moved = 0;
        for (number, slot) in self.directory.places() {
            if number < limit {
                continue;
            }
            if moved == most {
                break;
            }
            let Some(page) = self.pages.claim_below(limit) else { break };
            let old = self.page(number);
            old.close();
            old.copy_into(self.page(page));
            self.directory.redirect(slot, old.depth(), page);
            self.pages.retire(number);
            moved += 1;
        }
        moved
    }

    /// Removes all entries of a page whose records cannot be read any more. Looks at the whole index. How many it were.
    pub(crate) fn remove_page(&self, page: LogicalPage) -> u64 {
        // A page that splits meanwhile takes its entries to pages that may have been looked at already.
        let _splitting = self.splitting.lock();
        let pages = self.directory.pages().into_iter();
        pages.map(|number| self.page(number).remove_all(|entry| entry.page() == page)).sum()
    }

    /// Every entry. For checks; nobody may write meanwhile.
    pub(crate) fn entries(&self) -> Vec<Addr> {
        self.directory.pages().into_iter().flat_map(|page| self.page(page).entries()).collect()
    }

    /// Every page in use. For checks; nobody may write meanwhile.
    pub(crate) fn page_numbers(&self) -> Vec<u32> {
        self.directory.pages()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
