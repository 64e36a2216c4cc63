//! The dense half of the id index: arrays of addresses for ids that come in sequence.
//!
//! Ids are cut into *chunks* of as many neighbours as an index page has words. A chunk's page holds one word for each
//! id of the chunk, so an id costs 8 bytes, its neighbours share its cache line, and telling where its word is needs
//! no search and no look at the record. Which chunks there are says a small table, open-addressed by the number of the
//! chunk:
//!
//! ```text
//! slot   │ chunk │ USED │ EXCLUSIVE │ TOMB │ removed, 15 │ removed lately, 14 │ page, 32 │   2 words; the second zero: empty
//! entry  │ zero, 19 bits │ tentative, 1 │ logical page, 26 │ offset / 8, 18 │   zero: free, CLOSED: see below
//! ```
//!
//! A writer claims entries under the chunk's lock, which is a word that is held for a few dozen instructions: one locked
//! instruction serves as many neighbours as it has to announce. Publishing is one store, without the lock; removing
//! takes the lock. A chunk of which every entry was removed, or so many that the rest is better off in the hash half, is freed
//! ([`thin`]): under its lock all entries become CLOSED, then the table forgets the chunk, and its page is reused after the readers. Whoever meets a closed entry looks at the table
//! again.
//! A slot of the table may be used again at once: a reader that got the old page with the new chunk's number finds
//! closed entries there.
//!
//! A chunk can move to another page, when the index region becomes smaller. Its lock then counts one move more, so that
//! whoever found the old page cannot change it; who reads it reads what was true when it was found.
//!
//! A chunk is EXCLUSIVE when no id of it can be in the hash half of the index, see [`super::ids`].

use std::ops::Deref;

use crate::ids::{Addr, LogicalPage};
use crate::index::bucket::TENTATIVE;
use crate::index::hash::BucketPages;
use crate::sync::{AtomicU32, AtomicU64, CachePadded, Mutex, Ordering, wait_a_turn};

const SLOT_WORDS: usize = 2;
/// The most slots that a search looks at: a chunk that finds none of them free gets no array. So what was freed can
/// never make the search for a chunk that is not there a long one.
const LONGEST_SEARCH: usize = 64;
const LOCKS: usize = if cfg!(loom) { 1 } else { 64 };
const USED: u64 = 1 << 63;
const EXCLUSIVE: u64 = 1 << 62;
/// A slot that was used: searches go on behind it.
const TOMB: u64 = 1 << 61;
/// What of a slot's second word says where its chunk is.
const PLACE: u64 = USED | u32::MAX as u64;
/// One entry removed from the chunk, lately.
const REMOVED: u64 = 1 << 32;
const REMOVED_MASK: u64 = REMOVED_EVER - REMOVED;
/// The same, since the chunk was made.
const REMOVED_EVER: u64 = 1 << 46;
const REMOVED_EVER_MASK: u64 = TOMB - REMOVED_EVER;
/// An entry of a chunk that is being freed. No address: logical page 0 does not exist.
const CLOSED: u64 = 1;

/// An entry, as its chunk's page has it.
#[derive(Clone, Copy)]
pub(crate) struct Spot<'i> {
    entry: &'i AtomicU64,
    /// Whether the id can be nowhere else.
    exclusive: bool,
}

/// Why an entry could not be claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DenseClaim {
    /// An event of that id is there.
    Duplicate,
    /// Another writer is about to publish it, or the chunk is being freed: look again in a moment.
    Busy,
}

/// The chunk in which entries are being claimed: neighbours find it without looking at the table. The caller holds a
/// pin for as long as it keeps a cursor.
pub(crate) struct Cursor<'i> {
    chunk: u64,
    entries: &'i [AtomicU64],
    lock: Option<&'i AtomicU32>,
    /// What the lock said when the chunk was found: another number means that chunks have moved since.
    moves: u32,
    locked: bool,
    exclusive: bool,
}

impl<'i> Cursor<'i> {
    /// The number of no chunk: chunks have more than one id.
    const NO_CHUNK: u64 = u64::MAX;

    pub(crate) fn new() -> Self {
        Self { chunk: Self::NO_CHUNK, entries: &[], lock: None, moves: 0, locked: false, exclusive: false }
    }

    #[inline]
    pub(crate) fn is_at(&self, chunk: u64) -> bool {
        self.chunk == chunk
    }

    /// Whether ids of the chunk can be nowhere else.
    #[inline]
    pub(crate) fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// Goes to the chunk of an id. `false`: it has none.
    #[inline]
    pub(crate) fn seek<S, P>(&mut self, dense: &'i DenseIndex<S, P>, id: u64) -> bool
    where
        S: Deref<Target = [AtomicU64]>,
        P: BucketPages,
    {
        self.is_at(dense.chunk_of(id)) || self.seek_far(dense, id)
    }

    #[inline(never)]
    fn seek_far<S, P>(&mut self, dense: &'i DenseIndex<S, P>, id: u64) -> bool
    where
        S: Deref<Target = [AtomicU64]>,
        P: BucketPages,
    {
        self.forget();
        let chunk = dense.chunk_of(id);
        let lock = dense.lock(chunk);
        // Before the table: if the chunk moves after this, its lock says so.
        self.moves = lock.load(Ordering::Acquire) & !LOCKED;
        let Some((_, page)) = dense.find(chunk) else { return false };
        self.chunk = chunk;
        self.entries = dense.pages.words(page as u32);
        self.lock = Some(lock);
        self.exclusive = page & EXCLUSIVE != 0;
        true
    }

    /// Claims the entry of an id of the chunk.
    #[inline]
    pub(crate) fn claim(&mut self, id: u64, addr: Addr) -> Result<&'i AtomicU64, DenseClaim> {
        if !self.hold() {
            return Err(DenseClaim::Busy);
        }
        let entry = self.entry(id);
        match entry.load(Ordering::Acquire) {
            0 => {
                entry.store(addr.with_high(TENTATIVE).0, Ordering::Release);
                Ok(entry)
            }
            found if found == CLOSED || Addr(found).high() & TENTATIVE != 0 => Err(DenseClaim::Busy),
            _ => Err(DenseClaim::Duplicate),
        }
    }

    /// Asks the processor to fetch the entry of an id of the chunk, to change it.
    #[inline]
    pub(crate) fn prefetch(&self, id: u64) {
        #[cfg(not(loom))]
        crate::sys::memory::prefetch_write(self.entry(id));
        #[cfg(loom)]
        let _ = id;
    }

    /// The entry of an id of the chunk.
    #[inline]
    fn entry(&self, id: u64) -> &'i AtomicU64 {
        &self.entries[id as usize & (self.entries.len() - 1)]
    }

    /// Takes the chunk's lock. `false`: the chunk has moved, it is to be found anew.
    #[inline]
    fn hold(&mut self) -> bool {
        if !self.locked
            && let Some(lock) = self.lock
        {
            self.locked = take_if(lock, self.moves);
        }
        self.locked
    }

    /// Clears the entry of an id of the chunk, if that is what it says.
    #[inline]
    fn clear(&mut self, id: u64, addr: Addr) -> bool {
        let entry = self.entry(id);
        let found = entry.load(Ordering::Relaxed) == addr.low();
        if found {
            entry.store(0, Ordering::Release);
        }
        found
    }

    /// Lets others claim.
    #[inline]
    pub(crate) fn release(&mut self) {
        if std::mem::take(&mut self.locked)
            && let Some(lock) = self.lock
        {
            lock.store(self.moves, Ordering::Release);
        }
    }

    /// Looks at the table again next time.
    pub(crate) fn forget(&mut self) {
        self.release();
        self.chunk = Self::NO_CHUNK;
    }
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

/// Removes entries. Holds a pin, as a [`Cursor`] does, and is to be [`count`](DenseIndex::count)ed at the end.
pub(crate) struct Remover<'i> {
    cursor: Cursor<'i>,
    /// How many were removed from the cursor's chunk.
    removed: u64,
}

impl Remover<'_> {
    pub(crate) fn new() -> Self {
        Self { cursor: Cursor::new(), removed: 0 }
    }
}

/// A chunk's lock is a number of moves, twice, and whether it is taken.
const LOCKED: u32 = 1;
const MOVE: u32 = 2;

/// Takes a lock if it says that there were so many moves.
#[inline]
fn take_if(lock: &AtomicU32, moves: u32) -> bool {
    let mut turn = 0;
    loop {
        match lock.compare_exchange_weak(moves, moves | LOCKED, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(now) if now & !LOCKED != moves => return false,
            Err(_) => wait_a_turn(&mut turn),
        }
    }
}

/// Takes a lock. What is to be stored to let it go.
fn take(lock: &AtomicU32) -> u32 {
    loop {
        let moves = lock.load(Ordering::Relaxed) & !LOCKED;
        if take_if(lock, moves) {
            return moves;
        }
    }
}

impl Spot<'_> {
    /// The published address, or whether the id may be elsewhere.
    #[inline]
    pub(crate) fn look(self) -> Result<Addr, bool> {
        let found = self.entry.load(Ordering::Acquire);
        if found > CLOSED && Addr(found).high() & TENTATIVE == 0 {
            return Ok(Addr(found));
        }
        // A closed entry can be one of another chunk than was asked for, so what it says of that one is not ours.
        Err(!self.exclusive || found == CLOSED)
    }

    /// The address that is published, or whatever else stands there, as a hint.
    #[inline]
    pub(crate) fn hint(self) -> Addr {
        Addr(self.entry.load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn prefetch(self) {
        #[cfg(not(loom))]
        crate::sys::memory::prefetch(self.entry);
    }
}

pub(crate) struct DenseIndex<S, P> {
    slots: S,
    pages: P,
    /// Multiplier of the table's hash (Dietzfelbinger et al., 1997): odd, and unknown to whoever chooses ids.
    multiplier: u64,
    slot_bits: u32,
    chunk_bits: u32,
    /// How many chunks there are, or are about to be: where ids never come in sequence, nobody searches.
    chunks: AtomicU32,
    /// Creating and freeing chunks; holds where the next sweep begins. Taken before a chunk's lock.
    writing: Mutex<usize>,
    /// Chunks share them, by their numbers' lowest bits, so that chunks in use at a time mostly do not.
    locks: Box<[CachePadded<AtomicU32>]>,
}

impl<S: Deref<Target = [AtomicU64]>, P: BucketPages> DenseIndex<S, P> {
    /// An index without chunks. `slots` is zero: two words for each slot, whose number is a power of two and more
    /// than `pages` can ever give.
    pub(crate) fn new(slots: S, pages: P, chunk_len: usize, seed: u64) -> Self {
        debug_assert!((slots.len() / SLOT_WORDS).is_power_of_two() && slots.len() >= 4 * SLOT_WORDS);
        debug_assert!(chunk_len.is_power_of_two());
        let slot_bits = (slots.len() / SLOT_WORDS).ilog2();
        Self {
            slots,
            pages,
            multiplier: seed | 1,
            slot_bits,
            chunk_bits: chunk_len.ilog2(),
            chunks: AtomicU32::new(0),
            writing: Mutex::new(0),
            locks: (0..LOCKS).map(|_| CachePadded::new(AtomicU32::new(0))).collect(),
        }
    }

    /// An index over a table that was written before.
    pub(crate) fn found(slots: S, pages: P, chunk_len: usize, seed: u64) -> Self {
        let index = Self::new(slots, pages, chunk_len, seed);
        let used = (0..index.slots()).filter(|slot| index.word(*slot, 1).load(Ordering::Relaxed) & USED != 0);
        index.chunks.store(used.count() as u32, Ordering::Relaxed);
        index
    }

    /// The words of the table, for checks.
    pub(crate) fn table(&self) -> &[AtomicU64] {
        &self.slots
    }

    /// Ids of a chunk.
    pub(crate) fn chunk_len(&self) -> u64 {
        1 << self.chunk_bits
    }

    #[inline]
    pub(crate) fn chunk_of(&self, id: u64) -> u64 {
        id >> self.chunk_bits
    }

    /// Where the search for a chunk begins. Four neighbours are on one line of the table.
    #[inline]
    fn first_slot(&self, chunk: u64) -> usize {
        let hash = (chunk >> 2).wrapping_mul(self.multiplier);
        // Two shifts, since of the smallest table no bit of the hash is left.
        let line = hash >> 1 >> (65 - self.slot_bits);
        (line << 2 | chunk & 3) as usize
    }

    #[inline]
    fn lock(&self, chunk: u64) -> &AtomicU32 {
        &self.locks[chunk as usize & (LOCKS - 1)]
    }

    #[inline]
    fn longest_search(&self) -> usize {
        LONGEST_SEARCH.min(1 << self.slot_bits)
    }

    fn word(&self, slot: usize, word: usize) -> &AtomicU64 {
        &self.slots[slot * SLOT_WORDS + word]
    }

    /// The slot of a chunk and its word.
    #[inline]
    fn find(&self, chunk: u64) -> Option<(usize, u64)> {
        if self.chunks.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mask = (1usize << self.slot_bits) - 1;
        let mut slot = self.first_slot(chunk);
        for _ in 0..self.longest_search() {
            let words = &self.slots[slot * SLOT_WORDS..slot * SLOT_WORDS + SLOT_WORDS];
            // The page first: a slot's chunk is stored before its page is. A page of the chunk before is closed, and
            // whoever sees the number of the chunk after it sees that.
            let page = words[1].load(Ordering::Acquire);
            if page & USED != 0 && words[0].load(Ordering::Acquire) == chunk {
                // A page that a chunk was moved off is not closed: between the two looks the chunk can have moved, been
                // freed, and left its slot to the one that is sought. Under the caller's pin a page that is still there
                // was there all the time.
                if words[1].load(Ordering::Acquire) & PLACE == page & PLACE {
                    return Some((slot, page));
                }
                return self.find(chunk);
            }
            if page == 0 {
                return None;
            }
            slot = (slot + 1) & mask;
        }
        None
    }

    pub(crate) fn has(&self, chunk: u64) -> bool {
        self.find(chunk).is_some()
    }

    /// Where the entry of an id is, if its chunk is there. The caller holds a pin for as long as it uses it.
    #[inline]
    pub(crate) fn locate(&self, id: u64) -> Option<Spot<'_>> {
        let chunk = self.chunk_of(id);
        let (_, page) = self.find(chunk)?;
        let entry = &self.pages.words(page as u32)[(id & (self.chunk_len() - 1)) as usize];
        Some(Spot { entry, exclusive: page & EXCLUSIVE != 0 })
    }

    /// Whether the second half of a chunk is well filled: then the next one is probably wanted, too. The very end does
    /// not tell, since neighbours do not come in their exact order.
    pub(crate) fn is_filling_up(&self, chunk: u64) -> bool {
        let Some((_, page)) = self.find(chunk) else { return false };
        let words = self.pages.words(page as u32);
        let half = &words[words.len() / 2..];
        let sample = half.iter().step_by((half.len() / 64).max(1));
        let (used, all) = sample.fold((0, 0), |(used, all), entry| {
            (used + usize::from(entry.load(Ordering::Relaxed) > CLOSED), all + 1)
        });
        used * 2 >= all
    }

    /// Makes a chunk. `is_elsewhere` says, once others can see the chunk, whether the hash half may hold ids of it.
    /// `false`: there is no page or no slot for it.
    pub(crate) fn create(&self, chunk: u64, is_elsewhere: impl FnOnce() -> bool) -> bool {
        let _writing = self.writing.lock();
        if self.has(chunk) {
            return true;
        }
        let mask = (1usize << self.slot_bits) - 1;
        let first = self.first_slot(chunk);
        let mut slots = (0..self.longest_search()).map(|step| (first + step) & mask);
        let free = |slot: &usize| self.word(*slot, 1).load(Ordering::Relaxed) & USED == 0;
        let Some(slot) = slots.find(free) else { return false };
        let Some(page) = self.pages.claim() else { return false };
        self.chunks.fetch_add(1, Ordering::SeqCst);
        self.word(slot, 0).store(chunk, Ordering::Release);
        // As if one was removed: a chunk that nothing comes to is met by a sweep.
        self.word(slot, 1).store(USED | REMOVED | u64::from(page), Ordering::SeqCst);
        crate::sync::fence(Ordering::SeqCst);
        if !is_elsewhere() {
            self.word(slot, 1).fetch_or(EXCLUSIVE, Ordering::Release);
        }
        true
    }

    /// Removes a published entry. `false`: it is not here. What was removed is counted when the remover goes to another
    /// chunk, or is done.
    pub(crate) fn remove<'i>(&'i self, id: u64, addr: Addr, remover: &mut Remover<'i>) -> bool {
        if !remover.cursor.is_at(self.chunk_of(id)) {
            self.count(remover);
        }
        let cursor = &mut remover.cursor;
        let removed = loop {
            if !cursor.seek(self, id) {
                break false;
            }
            if cursor.hold() {
                break cursor.clear(id, addr);
            }
            cursor.forget();
        };
        remover.removed += u64::from(removed);
        removed
    }

    /// Removes all published entries that lead to a page. Looks at the whole index. How many it were.
    pub(crate) fn remove_page(&self, page: LogicalPage) -> u64 {
        let _writing = self.writing.lock();
        let mut removed = 0;
        for slot in 0..1usize << self.slot_bits {
            let lock = self.lock(self.word(slot, 0).load(Ordering::Relaxed));
            let moves = take(lock);
            for entry in self.entries_of(slot) {
                let found = entry.load(Ordering::Relaxed);
                let gone =
                    found > CLOSED && Addr(found).high() & TENTATIVE == 0 && Addr(found).page() == page;
                if gone {
                    removed += 1;
                    entry.store(0, Ordering::Release);
                    if self.removed(slot) == 0 {
                        self.word(slot, 1).fetch_add(REMOVED, Ordering::Relaxed);
                    }
                }
            }
            lock.store(moves, Ordering::Release);
        }
        removed
    }

    /// Moves chunks off pages at or above `limit` to ones below, up to `most` of them. How many it were. No id is
    /// announced and not published meanwhile: the caller holds the locks of all who announce.
    ///
    /// A reader that found the page before reads it as it was then; whoever wants to change it finds by its lock that
    /// chunks have moved.
    pub(crate) fn vacate(&self, limit: u32, most: usize) -> usize {
        let _writing = self.writing.lock();
        let mut moved = 0;
        for slot in 0..1usize << self.slot_bits {
            let word = self.word(slot, 1).load(Ordering::Acquire);
            if word & USED == 0 || (word as u32) < limit {
                continue;
            }
            if moved == most {
                break;
            }
            let Some(page) = self.pages.claim_below(limit) else { break };
            let lock = self.lock(self.word(slot, 0).load(Ordering::Relaxed));
            let moves = take(lock);
            for (to, from) in self.pages.words(page).iter().zip(self.entries_of(slot)) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            self.word(slot, 1).store(word & !u64::from(u32::MAX) | u64::from(page), Ordering::Release);
            lock.store(moves.wrapping_add(MOVE), Ordering::Release);
            self.pages.retire(word as u32);
            moved += 1;
        }
        moved
    }

    /// Slots of the table of chunks.
    pub(crate) fn slots(&self) -> usize {
        1 << self.slot_bits
    }

    fn entries_of(&self, slot: usize) -> &[AtomicU64] {
        let page = self.word(slot, 1).load(Ordering::Acquire);
        if page & USED == 0 { &[] } else { self.pages.words(page as u32) }
    }

    /// Every entry, published or not. For checks; nobody may write meanwhile.
    pub(crate) fn entries(&self) -> Vec<Addr> {
        let slots = 0..1usize << self.slot_bits;
        let all = slots.flat_map(|slot| self.entries_of(slot)).map(|entry| entry.load(Ordering::Acquire));
        all.filter(|entry| *entry > CLOSED).map(Addr).collect()
    }

    /// Every page in use. For checks; nobody may write meanwhile.
    pub(crate) fn page_numbers(&self) -> Vec<u32> {
        let words = (0..1usize << self.slot_bits).map(|slot| self.word(slot, 1).load(Ordering::Acquire));
        words.filter(|word| word & USED != 0).map(|word| word as u32).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
mod thin;
