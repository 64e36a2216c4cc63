//! Which numbers of `0..limit` are taken: a lock-free bitmap.
//!
//! Frames of every region and the numbers of logical pages come from one of these. A claim searches from where
//! the last one ended (next fit): pages leave memory in about the order in which they came, so free space is
//! mostly one gap that moves round, and runs of frames stay easy to find. Where pages come and go in no order, as those
//! of indexes do, the search goes back to what was freed, so that memory that was never used stays untouched.
//!
//! A number that is claimed belongs to one thread: bits are taken by `fetch_or`, whose result tells who was
//! first. Freeing is a release and claiming an acquire, so whoever claims a number sees everything that its
//! last owner did.

use std::ops::Range;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU32, AtomicU64, Ordering};

pub(crate) struct FreeList {
    words: Box<[AtomicU64]>,
    /// Numbers at and above this are not handed out (yet).
    limit: AtomicU32,
    /// A bit for each word that has no free number, where the search goes back to what was freed; else empty. It says so
    /// of words that have one only while somebody is about to correct it.
    full: Box<[AtomicU64]>,
    /// Apart from what every claim and many a read only look at.
    moving: CachePadded<Moving>,
}

/// What every claim changes.
struct Moving {
    used: AtomicU32,
    /// The word at which the next search begins.
    hint: AtomicU32,
}

impl FreeList {
    /// Room for `capacity` numbers, of which the first `limit` can be claimed.
    pub(crate) fn new(capacity: u32, limit: u32) -> Self {
        let words = (0..capacity.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self {
            words,
            limit: AtomicU32::new(limit.min(capacity)),
            full: Box::default(),
            moving: CachePadded::new(Moving { used: AtomicU32::new(0), hint: AtomicU32::new(0) }),
        }
    }

    /// The same, with numbers that were freed handed out again before any above them.
    pub(crate) fn that_reuses(self) -> Self {
        // The search begins at low numbers again and again: it must not pass every word that is taken up to a free one.
        let full = (0..self.words.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { full, ..self }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Acquire)
    }

    pub(crate) fn used(&self) -> u32 {
        self.moving.used.load(Ordering::Relaxed)
    }

    /// Lets numbers up to `limit` be claimed. The caller has made them usable before.
    pub(crate) fn raise_limit(&self, limit: u32) {
        self.limit.fetch_max(limit.min((self.words.len() * 64) as u32), Ordering::Release);
    }

    /// Keeps numbers at and above `limit` from being handed out from now on, except to claims that are under way: see
    /// [`Self::park`]. One caller at a time, who does not raise the limit meanwhile.
    pub(crate) fn lower_limit(&self, limit: u32) {
        self.limit.fetch_min(limit, Ordering::AcqRel);
    }

    /// Takes every free number of a range for the caller, not counted as used, and notes them in `bits`, which has as
    /// many bits as there are numbers. A claim that still goes by an older limit then finds them taken. How many more
    /// than before.
    pub(crate) fn park(&self, from: u32, to: u32, bits: &mut [u64]) -> u32 {
        let (mut at, mut more) = (from, 0);
        while at < to {
            let (word, mask) = (at as usize / 64, mask(at, to));
            let before = self.words[word].fetch_or(mask, Ordering::AcqRel);
            let fresh = mask & !before;
            bits[word] |= fresh;
            more += fresh.count_ones();
            at += 64 - at % 64;
        }
        more
    }

    /// Gives back the numbers of a range that `bits` notes as parked. How many.
    pub(crate) fn unpark(&self, from: u32, to: u32, bits: &mut [u64]) -> u32 {
        let (mut at, mut count) = (from, 0);
        while at < to {
            let (word, mask) = (at as usize / 64, mask(at, to));
            let parked = bits[word] & mask;
            bits[word] &= !parked;
            self.free(word, parked);
            count += parked.count_ones();
            at += 64 - at % 64;
        }
        count
    }

    pub(crate) fn is_taken(&self, number: u32) -> bool {
        self.words[number as usize / 64].load(Ordering::Acquire) >> (number % 64) & 1 == 1
    }

    /// Takes one number.
    pub(crate) fn claim(&self) -> Option<u32> {
        let limit = self.limit();
        if self.used() >= limit {
            return None;
        }
        let words = limit.div_ceil(64);
        let start = self.moving.hint.load(Ordering::Relaxed) % words.max(1);
        let search = |skips| {
            self.claim_in(start..words, limit, start, skips)
                .or_else(|| self.claim_in(0..start, limit, start, skips))
        };
        // What is about to be corrected must not make a list that has room seem full.
        search(true).or_else(|| if self.full.is_empty() { None } else { search(false) })
    }

    /// Takes a number of one of these words.
    fn claim_in(&self, words: Range<u32>, limit: u32, start: u32, skips: bool) -> Option<u32> {
        let mut at = words.start;
        while at < words.end {
            let full = if skips { self.full_from(at) } else { 0 };
            if full > 0 {
                at += full;
                continue;
            }
            let word = &self.words[at as usize];
            let mut taken = word.load(Ordering::Relaxed) | beyond(limit, at);
            while taken != u64::MAX {
                let bit = taken.trailing_ones();
                let before = word.fetch_or(1 << bit, Ordering::Acquire);
                if before >> bit & 1 == 0 {
                    self.moving.used.fetch_add(1, Ordering::Relaxed);
                    if at != start {
                        self.moving.hint.store(at, Ordering::Relaxed);
                    }
                    return Some(at * 64 + bit);
                }
                taken = before | beyond(limit, at);
            }
            self.note_full(at as usize);
            at += 1;
        }
        None
    }

    /// How many words from that one on are known to have no free number, as far as one look tells.
    #[inline]
    pub(crate) fn full_from(&self, at: u32) -> u32 {
        let known = self.full.get(at as usize / 64).map_or(0, |full| full.load(Ordering::Relaxed));
        (known >> (at % 64)).trailing_ones()
    }

    /// Notes that a word has no free number, if that is so.
    fn note_full(&self, word: usize) {
        let Some(full) = self.full.get(word / 64) else { return };
        if self.words[word].load(Ordering::Relaxed) == u64::MAX {
            full.fetch_or(1 << (word % 64), Ordering::Relaxed);
            // Whoever frees one after this sees the note and takes it back; what was freed before is seen here.
            if self.words[word].fetch_or(0, Ordering::AcqRel) != u64::MAX {
                full.fetch_and(!(1 << (word % 64)), Ordering::Relaxed);
            }
        }
    }

    /// Makes numbers of a word free. Which ones of the word were taken before.
    fn free(&self, word: usize, numbers: u64) -> u64 {
        match self.full.get(word / 64) {
            None => self.words[word].fetch_and(!numbers, Ordering::Release),
            Some(full) => {
                let before = self.words[word].fetch_and(!numbers, Ordering::AcqRel);
                full.fetch_and(!(1 << (word % 64)), Ordering::Relaxed);
                before
            }
        }
    }

    /// Takes `count` consecutive numbers and gives the first.
    pub(crate) fn claim_run(&self, count: u32) -> Option<u32> {
        if count <= 1 {
            return self.claim();
        }
        let limit = self.limit();
        if self.used().saturating_add(count) > limit {
            return None;
        }
        let start = (self.moving.hint.load(Ordering::Relaxed) * 64).min(limit);
        // The second search overlaps the first by a run, so that a run across `start` is found.
        self.claim_run_in(start, limit, count)
            .or_else(|| self.claim_run_in(0, start.saturating_add(count).min(limit), count))
    }

    /// Takes `count` consecutive numbers, all of them from `from` up to `to`.
    pub(crate) fn claim_run_between(&self, from: u32, to: u32, count: u32) -> Option<u32> {
        self.claim_run_in(from, to.min(self.limit()), count.max(1))
    }

    fn claim_run_in(&self, from: u32, to: u32, count: u32) -> Option<u32> {
        let (mut first, mut at) = (from, from);
        while at < to {
            if at - first == count {
                match self.take_range(first, count) {
                    Ok(()) => {
                        self.moving.used.fetch_add(count, Ordering::Relaxed);
                        self.moving.hint.store((first + count) / 64, Ordering::Relaxed);
                        return Some(first);
                    }
                    Err(next) => (first, at) = (next, next),
                }
                continue;
            }
            let word = self.words[at as usize / 64].load(Ordering::Relaxed) >> (at % 64);
            let left = 64 - at % 64;
            if word & 1 == 1 {
                at += word.trailing_ones().min(left);
                first = at;
            } else {
                at += word.trailing_zeros().min(left).min(count - (at - first));
            }
        }
        let found = at.min(to).saturating_sub(first) >= count && self.take_range(first, count).is_ok();
        if found {
            self.moving.used.fetch_add(count, Ordering::Relaxed);
            self.moving.hint.store((first + count) / 64, Ordering::Relaxed);
        }
        found.then_some(first)
    }

    /// Takes just these numbers, which are below the limit. `false`: one of them is taken already.
    pub(crate) fn take(&self, first: u32, count: u32) -> bool {
        let taken = self.take_range(first, count).is_ok();
        if taken {
            self.moving.used.fetch_add(count, Ordering::Relaxed);
        }
        taken
    }

    /// Takes all of a range or nothing; on failure tells where to look on.
    fn take_range(&self, first: u32, count: u32) -> Result<(), u32> {
        let mut at = first;
        while at < first + count {
            let mask = mask(at, first + count);
            let before = self.words[at as usize / 64].fetch_or(mask, Ordering::Acquire);
            if before & mask != 0 {
                // Somebody was faster: give back what this call took, and only that.
                self.free(at as usize / 64, mask & !before);
                self.clear(first, at);
                return Err(at - at % 64 + (64 - (before & mask).leading_zeros()));
            }
            at += 64 - at % 64;
        }
        Ok(())
    }

    /// Gives numbers back. They must have been claimed, and belong to the caller.
    pub(crate) fn release(&self, first: u32, count: u32) {
        self.clear(first, first + count);
        self.moving.used.fetch_sub(count, Ordering::Relaxed);
        if !self.full.is_empty() {
            self.moving.hint.fetch_min(first / 64, Ordering::Relaxed);
        }
    }

    fn clear(&self, first: u32, end: u32) {
        let mut at = first;
        while at < end {
            let mask = mask(at, end);
            let before = self.free(at as usize / 64, mask);
            debug_assert_eq!(before & mask, mask, "freed a number that was free");
            at += 64 - at % 64;
        }
    }
}

/// The bits of the word of `at`, from `at` up to `end`.
fn mask(at: u32, end: u32) -> u64 {
    let low = at % 64;
    let high = (end - (at - low)).min(64);
    (u64::MAX << low) & (u64::MAX >> (64 - high))
}

/// The bits of word `at` that lie at or above `limit`.
fn beyond(limit: u32, at: u32) -> u64 {
    match limit.saturating_sub(at * 64) {
        left @ 0..64 => u64::MAX << left,
        _ => 0,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Pages of indexes are rewritten elsewhere when they grow: that must not wander through all that is reserved.
    #[test]
    fn what_was_freed_is_used_before_what_never_was() {
        let claims = |list: FreeList| {
            let claim = || list.claim().expect("there is room");
            let mut highest = (0..64).map(|_| claim()).max();
            for _ in 0..500 {
                let new = claim();
                highest = highest.max(Some(new));
                list.release(new, 1);
            }
            list.release(3, 1);
            (highest, claim())
        };
        assert_eq!(claims(FreeList::new(1000, 1000).that_reuses()), (Some(64), 3));
        assert_ne!(claims(FreeList::new(1000, 1000)).1, 3, "the search goes on from where it was");
    }

    /// Freed numbers lie low, free ones high: a search from the one to the other must not look at every word between.
    #[test]
    fn words_without_a_free_number_are_passed_by_many_at_a_time() {
        let list = FreeList::new(64 * 200, 64 * 200).that_reuses();
        assert_eq!(list.claim_run(64 * 199), Some(0));
        assert_eq!((list.claim(), list.claim()), (Some(64 * 199), Some(64 * 199 + 1)));
        list.release(70, 1);
        assert_eq!((list.claim(), list.claim()), (Some(70), Some(64 * 199 + 2)));
        // Of the first word nobody asked.
        assert_eq!([0, 1, 64, 150, 192].map(|word| list.full_from(word)), [0, 63, 64, 42, 7]);
        list.release(64 * 5, 64);
        assert_eq!((list.full_from(1), list.full_from(5), list.full_from(6)), (4, 0, 58));
    }

    #[test]
    fn every_number_is_handed_out_once() {
        let list = FreeList::new(200, 130);
        let all: HashSet<u32> = std::iter::from_fn(|| list.claim()).collect();
        assert_eq!(all.len(), 130);
        assert!(all.iter().all(|number| *number < 130));
        list.raise_limit(200);
        assert_eq!(std::iter::from_fn(|| list.claim()).count(), 70);
        list.release(64, 64);
        assert_eq!(list.used(), 136);
        assert_eq!(list.claim_run(64), Some(64));
    }

    #[test]
    fn parked_numbers_are_nobodys_until_they_are_given_back() {
        [FreeList::new(200, 200), FreeList::new(200, 200).that_reuses()].into_iter().for_each(park_some);
    }

    fn park_some(list: FreeList) {
        let mut bits = [0; 4];
        assert_eq!(list.claim_run(70), Some(0));
        list.lower_limit(50);
        assert_eq!(list.park(50, 200, &mut bits), 130, "those below 70 are in use");
        assert_eq!((list.used(), list.claim()), (70, None));
        list.release(0, 70);
        assert_eq!(list.park(50, 200, &mut bits), 20);
        assert_eq!(list.park(50, 200, &mut bits), 0);
        assert_eq!(std::iter::from_fn(|| list.claim()).count(), 50);
        assert_eq!(list.unpark(50, 120, &mut bits), 70);
        list.raise_limit(120);
        assert_eq!(std::iter::from_fn(|| list.claim()).filter(|number| *number >= 50).count(), 70);
        assert!(list.is_taken(199));
    }

    #[test]
    fn given_numbers_are_taken_once() {
        let list = FreeList::new(200, 200);
        assert!(list.take(60, 70) && !list.take(129, 2) && !list.take(0, 61) && list.take(130, 1));
        assert_eq!((list.used(), list.is_taken(131), list.is_taken(0)), (71, false, false));
        assert!((0..71).all(|_| list.claim().is_some_and(|number| !(60..131).contains(&number))));
    }

    #[test]
    fn runs_are_whole_and_do_not_overlap() {
        [FreeList::new(1000, 1000), FreeList::new(1000, 1000).that_reuses()].into_iter().for_each(claim_runs);
    }

    fn claim_runs(list: FreeList) {
        let mut taken = [false; 1000];
        let mut runs = Vec::new();
        let mut state = 7u64;
        for _ in 0..20_000 {
            state = crate::ids::mix(state, 3);
            if state.is_multiple_of(3) && !runs.is_empty() {
                let (first, count) = runs.swap_remove(state as usize / 3 % runs.len());
                list.release(first, count);
                taken[first as usize..(first + count) as usize].fill(false);
            } else {
                let count = 1 + (state >> 32) as u32 % 150;
                if let Some(first) = list.claim_run(count) {
                    for slot in &mut taken[first as usize..(first + count) as usize] {
                        assert!(!*slot, "number handed out twice");
                        *slot = true;
                    }
                    runs.push((first, count));
                } else if count == 1 {
                    assert!(taken.iter().all(|slot| *slot));
                }
            }
            assert_eq!(list.used() as usize, taken.iter().filter(|slot| **slot).count());
        }
    }

    #[test]
    fn a_run_is_found_wherever_it_lies() {
        for hole in 0..190 {
            let list = FreeList::new(200, 200);
            assert_eq!(list.claim_run(200), Some(0));
            list.release(hole, 10);
            assert_eq!(list.claim_run(10), Some(hole));
        }
    }
}
