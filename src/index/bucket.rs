//! The pages of the id index: buckets of one cache line, chained within their page.
//!
//! ```text
//! page    │ header │ main buckets … (4/5) │ overflow buckets … (1/5) │
//! bucket  │ entry │ entry │ entry │ entry │ entry │ entry │ entry │ link │      8 words of 8 bytes
//! entry   │ tag, 19 bits │ tentative, 1 │ logical page, 26 │ offset / 8, 18 │    zero: free
//! link    │ zero … │ number of the next bucket, 16 │ zero │ MOVED │ LOCK │
//! ```
//!
//! Readers take no lock: they look at entries with acquire loads and check each candidate against the record
//! that it names. Writers take the main bucket's lock bit, which guards its whole chain; it is held for a few
//! dozen instructions and, where a tag matches, for the look at one record. A page that was split stays as it was,
//! all its buckets MOVED: readers that still hold it read the truth of that moment, writers go back to the
//! directory.
//!
//! An entry is *tentative* from the moment its place is claimed until its record is committed (invariant I1):
//! other writers of the same id wait for it, readers do not see it.

use crate::ids::Addr;
use crate::sync::{AtomicU64, Ordering, wait_a_turn};

/// Entries of a bucket. Two keep loom's model small enough to finish.
pub(crate) const ENTRIES: usize = if cfg!(loom) { 2 } else { 7 };

const LOCK: u64 = 1;
const MOVED: u64 = 2;
const NEXT_SHIFT: u32 = 16;

/// The tentative bit, as the lowest of an address's high bits.
pub(crate) const TENTATIVE: u32 = 1;
pub(crate) const TAG_BITS: u32 = Addr::HIGH_BITS - 1;

#[repr(C, align(64))]
pub(crate) struct Bucket {
    entries: [AtomicU64; ENTRIES],
    link: AtomicU64,
}

impl Bucket {
    #[cfg(any(test, loom))]
    pub(crate) fn zeroed() -> Self {
        Self { entries: std::array::from_fn(|_| AtomicU64::new(0)), link: AtomicU64::new(0) }
    }

    /// Takes the lock. `false`: the bucket's page was split.
    fn lock(&self) -> bool {
        let mut turn = 0;
        loop {
            let link = self.link.load(Ordering::Relaxed);
            if link & MOVED != 0 {
                return false;
            }
            let taken = link & LOCK == 0
                && self
                    .link
                    .compare_exchange_weak(link, link | LOCK, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok();
            if taken {
                return true;
            }
            wait_a_turn(&mut turn);
        }
    }

    fn unlock(&self) {
        let link = self.link.load(Ordering::Relaxed);
        debug_assert_eq!(link & (LOCK | MOVED), LOCK);
        self.link.store(link & !LOCK, Ordering::Release);
    }

    fn next(&self) -> usize {
        (self.link.load(Ordering::Acquire) >> NEXT_SHIFT) as usize
    }
}

/// What came of an attempt to claim a place for an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// The entry is there, tentative.
    Done,
    /// There is an entry for the same id.
    Duplicate,
    /// Another writer is about to publish an entry with that tag; try again in a moment.
    Busy,
    /// The page was split; ask the directory again.
    Moved,
    /// The page has no room and must be split.
    Full,
}

/// What is there of an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sought {
    Nothing,
    Published,
    /// An entry with that tag is about to be published.
    Tentative,
}

/// A page of buckets.
#[derive(Clone, Copy)]
pub(crate) struct BucketPage<'a> {
    buckets: &'a [Bucket],
}

impl<'a> BucketPage<'a> {
    pub(crate) fn new(buckets: &'a [Bucket]) -> Self {
        debug_assert!(buckets.len() >= 3 && buckets.len() <= 1 << 16);
        Self { buckets }
    }

    /// Main buckets; number 0 of the page is the header.
    fn mains(self) -> usize {
        ((self.buckets.len() - 1) * 4 / 5).max(1)
    }

    /// The main bucket of a hash: its upper half decides, since the lower one chose the page.
    pub(crate) fn main_of(self, hash: u64) -> usize {
        1 + (((hash >> 32) * self.mains() as u64) >> 32) as usize
    }

    /// The bits to which this page is split.
    pub(crate) fn depth(self) -> u32 {
        self.buckets[0].entries[0].load(Ordering::Relaxed) as u32
    }

    pub(crate) fn set_depth(self, depth: u32) {
        self.buckets[0].entries[0].store(u64::from(depth), Ordering::Relaxed);
    }

    fn chain(self, main: usize) -> impl Iterator<Item = &'a Bucket> {
        let mut at = Some(main);
        std::iter::from_fn(move || {
            let bucket = &self.buckets[at?];
            at = Some(bucket.next()).filter(|next| *next != 0);
            Some(bucket)
        })
    }

    /// Looks for a published entry with that tag which `check` accepts.
    ///
    /// All entries of a bucket are compared before any is looked at: without a branch for each, the processor goes
    /// on to the record while the line is still on its way.
    #[inline]
    pub(crate) fn find<T>(self, hash: u64, tag: u32, mut check: impl FnMut(Addr) -> Option<T>) -> Option<T> {
        let mut at = self.main_of(hash);
        loop {
            let bucket = &self.buckets[at];
            let entries: [Addr; ENTRIES] =
                std::array::from_fn(|slot| Addr(bucket.entries[slot].load(Ordering::Acquire)));
            let mut matching = 0u32;
            for (slot, entry) in entries.iter().enumerate() {
                let same = (entry.high() == tag << 1) & (entry.0 != 0);
                matching |= u32::from(same) << slot;
            }
            while matching != 0 {
                let slot = matching.trailing_zeros() as usize;
                if let Some(found) = check(entries[slot]) {
                    return Some(found);
                }
                matching &= matching - 1;
            }
            at = bucket.next();
            if at == 0 {
                return None;
            }
        }
    }

    /// What there is with that tag, published or about to be.
    pub(crate) fn seek(self, hash: u64, tag: u32, same: &mut impl FnMut(Addr) -> bool) -> Sought {
        for slot in self.chain(self.main_of(hash)).flat_map(|bucket| &bucket.entries) {
            let entry = Addr(slot.load(Ordering::Acquire));
            if entry.0 != 0 && entry.high() >> 1 == tag {
                if entry.high() & TENTATIVE != 0 {
                    return Sought::Tentative;
                }
                if same(entry) {
                    return Sought::Published;
                }
            }
        }
        Sought::Nothing
    }

    /// Claims a place for an entry, unless `same` recognises one with that tag. `current` says, while the lock is
    /// held, whether the directory still leads here.
    pub(crate) fn claim(
        self,
        hash: u64,
        tag: u32,
        addr: Addr,
        current: impl Fn() -> bool,
        mut same: impl FnMut(Addr) -> bool,
    ) -> Claim {
        let main = &self.buckets[self.main_of(hash)];
        if !main.lock() {
            return Claim::Moved;
        }
        let outcome = if current() { self.claim_locked(hash, tag, addr, &mut same) } else { Claim::Moved };
        main.unlock();
        outcome
    }

    fn claim_locked(self, hash: u64, tag: u32, addr: Addr, same: &mut impl FnMut(Addr) -> bool) -> Claim {
        let mut free = None;
        let mut last = &self.buckets[self.main_of(hash)];
        for bucket in self.chain(self.main_of(hash)) {
            last = bucket;
            for slot in &bucket.entries {
                let entry = Addr(slot.load(Ordering::Relaxed));
                if entry.0 == 0 {
                    free = free.or(Some(slot));
                } else if entry.high() >> 1 == tag {
                    // The record of a tentative entry must not be looked at yet. Its writer waits for nothing
                    // before it publishes it, so waiting for it ends.
                    if entry.high() & TENTATIVE != 0 {
                        return Claim::Busy;
                    }
                    if same(entry) {
                        return Claim::Duplicate;
                    }
                }
            }
        }
        let slot = match free {
            Some(slot) => slot,
            None => match self.overflow() {
                Some(number) => {
                    let link = last.link.load(Ordering::Relaxed);
                    last.link.store(link | (number as u64) << NEXT_SHIFT, Ordering::Release);
                    &self.buckets[number].entries[0]
                }
                None => return Claim::Full,
            },
        };
        slot.store(addr.with_high(tag << 1 | TENTATIVE).0, Ordering::Release);
        Claim::Done
    }

    /// Takes an overflow bucket of the page.
    fn overflow(self) -> Option<usize> {
        let first = 1 + self.mains();
        let taken = self.buckets[0].entries[1].fetch_add(1, Ordering::Relaxed) as usize;
        // Counting on past the end is harmless: the page is split long before the counter could wrap.
        (first + taken < self.buckets.len()).then_some(first + taken)
    }

    /// Stores `to` where the entry is that equals `from`. `None`: the page was split; `Some(false)`: no such entry.
    pub(crate) fn replace(self, hash: u64, from: u64, to: u64, current: impl Fn() -> bool) -> Option<bool> {
        let main = &self.buckets[self.main_of(hash)];
        if !main.lock() {
            return None;
        }
        if !current() {
            main.unlock();
            return None;
        }
        let slot = self
            .chain(self.main_of(hash))
            .flat_map(|bucket| &bucket.entries)
            .find(|slot| slot.load(Ordering::Relaxed) == from);
        if let Some(slot) = slot {
            slot.store(to, Ordering::Release);
        }
        main.unlock();
        Some(slot.is_some())
    }

    /// Removes the published entries that `gone` names. How many it were.
    pub(crate) fn remove_all(self, gone: impl Fn(Addr) -> bool) -> u64 {
        let mut removed = 0;
        for main in 1..=self.mains() {
            if self.buckets[main].lock() {
                for slot in self.chain(main).flat_map(|bucket| &bucket.entries) {
                    let entry = Addr(slot.load(Ordering::Relaxed));
                    if entry.0 != 0 && entry.high() & TENTATIVE == 0 && gone(entry) {
                        removed += 1;
                        slot.store(0, Ordering::Release);
                    }
                }
                self.buckets[main].unlock();
            }
        }
        removed
    }

    /// Locks all buckets for good: writers from now on find the page moved. Called once, by its splitter.
    pub(crate) fn close(self) {
        for main in &self.buckets[1..=self.mains()] {
            let locked = main.lock();
            debug_assert!(locked, "a page is split once");
            main.link.fetch_or(MOVED, Ordering::AcqRel);
        }
    }

    /// Undoes [`Self::close`], when the split could not be done.
    pub(crate) fn reopen(self) {
        for main in &self.buckets[1..=self.mains()] {
            main.link.fetch_and(!(MOVED | LOCK), Ordering::AcqRel);
        }
    }

    /// Copies the entries of this closed page to two fresh ones, by the given bit of their tags. `false`: one of
    /// them has no room, which an uneven hash can bring about.
    pub(crate) fn split_into(self, zero: BucketPage<'_>, one: BucketPage<'_>, bit: u32) -> bool {
        for main in 1..=self.mains() {
            for slot in self.chain(main).flat_map(|bucket| &bucket.entries) {
                let entry = Addr(slot.load(Ordering::Relaxed));
                if entry.0 != 0 {
                    let to = if entry.high() >> 1 >> bit & 1 == 0 { zero } else { one };
                    if !to.put(main, entry) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Copies the entries of this closed page to one that is in use, where nobody looks for them yet. `false`: it has no room;
    /// some may be there.
    pub(crate) fn copy_entries_to(self, page: BucketPage<'_>) -> bool {
        (1..=self.mains()).all(|main| {
            if !page.buckets[main].lock() {
                return false;
            }
            let slots = self.chain(main).flat_map(|bucket| &bucket.entries);
            let mut entries =
                slots.map(|slot| Addr(slot.load(Ordering::Relaxed))).filter(|entry| entry.0 != 0);
            let fit = entries.all(|entry| page.put(main, entry));
            page.buckets[main].unlock();
            fit
        })
    }

    /// Forgets all entries of which that bit of the tag is set, as long as nobody looks for them here.
    pub(crate) fn forget(self, bit: u32) {
        for main in 1..=self.mains() {
            if self.buckets[main].lock() {
                for slot in self.chain(main).flat_map(|bucket| &bucket.entries) {
                    if Addr(slot.load(Ordering::Relaxed)).high() >> 1 >> bit & 1 == 1 {
                        slot.store(0, Ordering::Release);
                    }
                }
                self.buckets[main].unlock();
            }
        }
    }

    /// Copies this closed page to a fresh one that nobody else knows of yet.
    pub(crate) fn copy_into(self, copy: BucketPage<'_>) {
        for (to, from) in copy.buckets.iter().zip(self.buckets) {
            for (to, from) in to.entries.iter().zip(&from.entries) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            to.link.store(from.link.load(Ordering::Relaxed) & !(LOCK | MOVED), Ordering::Relaxed);
        }
    }

    /// Adds an entry to a page that nobody else knows of yet, or whose bucket is locked.
    fn put(self, main: usize, entry: Addr) -> bool {
        let mut last = &self.buckets[main];
        for bucket in self.chain(main) {
            last = bucket;
            if let Some(slot) = bucket.entries.iter().find(|slot| slot.load(Ordering::Relaxed) == 0) {
                slot.store(entry.0, Ordering::Release);
                return true;
            }
        }
        let Some(number) = self.overflow() else { return false };
        self.buckets[number].entries[0].store(entry.0, Ordering::Release);
        let link = last.link.load(Ordering::Relaxed);
        last.link.store(link | (number as u64) << NEXT_SHIFT, Ordering::Release);
        true
    }

    /// Entries that a page has places for, not counting that each has a bucket.
    pub(crate) fn places(self) -> usize {
        (self.buckets.len() - 1) * ENTRIES
    }

    /// How many entries there are, about while others write.
    pub(crate) fn count(self) -> usize {
        self.entries().count()
    }

    /// Every entry of the page, published or not. For checks.
    pub(crate) fn entries(self) -> impl Iterator<Item = Addr> {
        (1..=self.mains())
            .flat_map(move |main| self.chain(main))
            .flat_map(|bucket| &bucket.entries)
            .map(|slot| Addr(slot.load(Ordering::Acquire)))
            .filter(|entry| entry.0 != 0)
    }
}
