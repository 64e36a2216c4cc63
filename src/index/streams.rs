//! The stream directory of one partition: (stream, class) → the stream's newest events.
//!
//! A *head* is one cache line: the stream, a word of class and position, and the addresses of the stream's last six
//! events of that class. Each event links to the one six before it (`previous` in its record), so a stream is six
//! chains, and a reader has six reads in flight. One line holds key and addresses, so appending to a stream touches
//! one line of the directory.
//!
//! ```text
//! │ stream │ word │ addr │ addr │ addr │ addr │ addr │ addr │        8 words of 8 bytes
//! word     │ events pushed, 48 bits │ class, 8 │ zero … │ GONE │ USED │
//! ```
//!
//! Heads lie in pages of an extendible hash table with linear probing. All writing is done under the partition's
//! lock; readers take none. A line belongs to one (stream, class) for as long as its page exists: a head that is
//! removed is marked GONE, and the page is rewritten when it fills up. So a reader never sees one stream's key with
//! another's addresses. Where heads come and go the mover rewrites pages before they fill up: it takes an append the time of a
//! few dozen others. Two pages of which little is left become one ([`ahead`]).

use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::{Addr, Class, Stream, mix};
use crate::index::directory::PageDirectory;
use crate::index::region::{IndexPages, RESERVE};
use crate::regions::region::Region;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::memory::{Slab, prefetch, prefetch_write};

/// How many chains a stream has.
pub(crate) const STRIPES: usize = 6;

const USED: u64 = 1;
const GONE: u64 = 2;
const CLASS_SHIFT: u32 = 8;
const PUSHED_SHIFT: u32 = 16;
const NO_PAGE: u32 = u32::MAX;

/// One line of the directory.
#[repr(C, align(64))]
pub(crate) struct Head {
    stream: AtomicU64,
    word: AtomicU64,
    newest: [AtomicU64; STRIPES],
}

impl Head {
    #[inline]
    fn is(&self, stream: Stream, class: Class) -> bool {
        let word = self.word.load(Ordering::Acquire);
        let wanted = USED | (class.index() as u64) << CLASS_SHIFT;
        word & (USED | GONE | 0xff << CLASS_SHIFT) == wanted
            && (self.stream.load(Ordering::Relaxed) == stream.as_u64() || cfg!(canary = "wrong-stream"))
    }

    /// Where the next event's address will stand, and the event there, to which it will link.
    #[inline]
    pub(crate) fn next_link(&self) -> (&AtomicU64, u64) {
        let pushed = self.word.load(Ordering::Relaxed) >> PUSHED_SHIFT;
        let slot = &self.newest[(pushed % STRIPES as u64) as usize];
        (slot, slot.load(Ordering::Relaxed))
    }

    /// Makes an event the newest, in the slot that [`Self::next_link`] gave: its record is committed. The partition's
    /// lock is held.
    #[inline]
    pub(crate) fn push(&self, slot: &AtomicU64, addr: Addr) {
        slot.store(addr.0, Ordering::Release);
        let word = self.word.load(Ordering::Relaxed);
        self.word.store(word + (1 << PUSHED_SHIFT), Ordering::Release);
    }

    /// The slot of the newest event. For a head without events it is one that is zero, like all.
    fn newest_slot(word: u64) -> usize {
        (((word >> PUSHED_SHIFT) + STRIPES as u64 - 1) % STRIPES as u64) as usize
    }

    /// The newest events of all chains: the newest of all first, as it was when the call began.
    ///
    /// Each chain is read after the newest event, so together they hold every event older than that one.
    pub(crate) fn newest(&self) -> [Addr; STRIPES] {
        let slot = Self::newest_slot(self.word.load(Ordering::Acquire));
        std::array::from_fn(|back| {
            Addr(self.newest[(slot + STRIPES - back) % STRIPES].load(Ordering::Acquire))
        })
    }

    /// Becomes as another head is, whose word was read before the rest. Only who copies it knows of this one.
    fn copy_from(&self, head: &Head, word: u64) {
        for (to, from) in self.newest.iter().zip(&head.newest) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.word.store(word, Ordering::Relaxed);
    }

    fn newest_is(&self, addr: Addr) -> bool {
        let slot = Self::newest_slot(self.word.load(Ordering::Relaxed));
        self.newest[slot].load(Ordering::Relaxed) == addr.0
    }
}

/// The hash of a stream in a namespace. Which partition it belongs to is decided by it, so it must never change.
#[inline]
pub(crate) fn stream_hash(stream: Stream, seed: u64) -> u64 {
    mix(stream.as_u64(), seed ^ 0x9e37_79b9_7f4a_7c15)
}

/// Where a stream's head of that class is. The stream's hash is turned, since its lowest bits are the same for all
/// streams of a partition, and the lowest bits choose the page.
#[inline]
pub(crate) fn head_hash(stream_hash: u64, class: Class) -> u64 {
    stream_hash.rotate_left(32) ^ (class.index() as u64).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

pub(crate) struct StreamDirectory {
    directory: PageDirectory<Slab<AtomicU32>>,
    pages: IndexPages,
    /// The namespace's.
    seed: u64,
    /// How often heads were moved to other lines.
    moves: AtomicU64,
}

/// A page's heads: line 0 is its header (depth, lines in use, about how many of them are GONE).
#[derive(Clone, Copy)]
struct HeadPage<'a> {
    heads: &'a [Head],
}

impl<'a> HeadPage<'a> {
    fn depth(self) -> u32 {
        self.heads[0].stream.load(Ordering::Relaxed) as u32
    }

    fn set_depth(self, depth: u32) {
        self.heads[0].stream.store(u64::from(depth), Ordering::Relaxed);
    }

    fn used(self) -> usize {
        self.heads[0].newest[0].load(Ordering::Relaxed) as usize
    }

    fn set_used(self, used: usize) {
        self.heads[0].newest[0].store(used as u64, Ordering::Relaxed);
    }

    /// Counts a head that is GONE. The partition's lock is held.
    fn count_gone(self) {
        let gone = &self.heads[0].newest[1];
        gone.store(gone.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// How many of its lines are GONE, about.
    fn gone(self) -> usize {
        self.heads[0].newest[1].load(Ordering::Relaxed) as usize
    }

    /// How many lines may be in use: beyond three quarters, probing gets long.
    fn most(self) -> usize {
        (self.heads.len() - 1) * 3 / 4
    }

    /// The line of a hash, not counting the header: its upper half decides, since the lower one chose the page.
    #[inline]
    fn first(self, hash: u64) -> usize {
        (((hash >> 32) * (self.heads.len() as u64 - 1)) >> 32) as usize
    }

    /// The first line from where a hash begins, once round the page, that `take` accepts.
    #[inline]
    fn probe(self, hash: u64, mut take: impl FnMut(&Head) -> bool) -> Option<&'a Head> {
        let lines = &self.heads[1..];
        let mut at = self.first(hash);
        for _ in 0..lines.len() {
            let head = lines.get(at)?;
            if take(head) {
                return Some(head);
            }
            at = if at + 1 == lines.len() { 0 } else { at + 1 };
        }
        None
    }

    #[inline]
    fn find(self, hash: u64, stream: Stream, class: Class) -> Option<&'a Head> {
        let end = |head: &Head| head.word.load(Ordering::Acquire) & USED == 0;
        self.probe(hash, |head| head.is(stream, class) || end(head)).filter(|head| !end(head))
    }

    fn has_room(self) -> bool {
        self.used() < self.most()
    }

    /// Adds a head that is not there.
    fn insert(self, hash: u64, stream: Stream, class: Class) -> Option<&'a Head> {
        let head = self.probe(hash, |head| head.word.load(Ordering::Relaxed) & USED == 0)?;
        self.set_used(self.used() + 1);
        head.stream.store(stream.as_u64(), Ordering::Relaxed);
        head.word.store(USED | (class.index() as u64) << CLASS_SHIFT, Ordering::Release);
        Some(head)
    }

    fn live(self) -> impl Iterator<Item = &'a Head> {
        self.heads[1..].iter().filter(|head| is_live(head.word.load(Ordering::Relaxed)))
    }
}

fn is_live(word: u64) -> bool {
    word & (USED | GONE) == USED
}

impl StreamDirectory {
    /// A directory whose slots lie in `tables`: an empty one, or one that was written before, to that depth.
    pub(crate) fn new(
        config: &Config,
        tables: &Region,
        pages: IndexPages,
        seed: u64,
        found: Option<u32>,
    ) -> Result<Self> {
        let slots = crate::config::stream_directory_slots(&config.index, config.partitions) as usize;
        let slots = tables.slab::<AtomicU32>(slots, "a stream directory")?;
        let directory = match found {
            None => PageDirectory::new(slots, &[NO_PAGE]),
            Some(depth) => PageDirectory::found(slots, depth)
                .ok_or_else(|| Error::corrupt("a stream directory is larger than it can be"))?,
        };
        Ok(Self { directory, pages, seed, moves: AtomicU64::new(0) })
    }

    /// How many bits of a hash choose the page.
    pub(crate) fn depth(&self) -> u32 {
        self.directory.depth()
    }

    /// The directory's slots, for checks.
    pub(crate) fn slots(&self) -> &[AtomicU32] {
        self.directory.slots()
    }

    #[inline]
    fn page(&self, page: u32) -> HeadPage<'_> {
        HeadPage { heads: self.pages.heads(page) }
    }

    /// The head of a stream's events of that class. `hash` is [`head_hash`]'s, here as everywhere. The caller holds a
    /// pin.
    #[inline]
    pub(crate) fn find(&self, hash: u64, stream: Stream, class: Class) -> Option<&Head> {
        let mut number = self.directory.page_for(hash);
        loop {
            if number != NO_PAGE
                && let Some(head) = self.page(number).find(hash, stream, class)
            {
                return Some(head);
            }
            let now = self.directory.page_for(hash);
            if now == number {
                return None;
            }
            number = now;
        }
    }

    /// Asks the processor to fetch a stream's line, to look at it.
    pub(crate) fn prefetch_to_read(&self, hash: u64) {
        let number = self.directory.page_for(hash);
        if number != NO_PAGE {
            let page = self.page(number);
            prefetch(&page.heads[1 + page.first(hash)]);
        }
    }

    /// Asks the processor to fetch a stream's line, to change it.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        let number = self.directory.page_for(hash);
        if number != NO_PAGE {
            let page = self.page(number);
            prefetch_write(&page.heads[1 + page.first(hash)]);
        }
    }

    /// How often heads were moved: while it stays the same, so do they. The partition's lock is held.
    pub(crate) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// The head of a stream's events of that class, made if it is not there; and whether it was made. `None`: no
    /// room. The partition's lock is held, and a pin.
    #[inline]
    pub(crate) fn find_or_insert(&self, hash: u64, stream: Stream, class: Class) -> Option<(&Head, bool)> {
        let number = self.directory.page_for(hash);
        if number != NO_PAGE
            && let Some(head) = self.page(number).find(hash, stream, class)
        {
            return Some((head, false));
        }
        self.insert(hash, stream, class).map(|head| (head, true))
    }

    #[inline(never)]
    fn insert(&self, hash: u64, stream: Stream, class: Class) -> Option<&Head> {
        loop {
            let number = self.directory.page_for(hash);
            if number == NO_PAGE {
                let first = self.pages.claim_zeroed(RESERVE)?;
                self.directory.redirect(0, 0, first);
                continue;
            }
            let page = self.page(number);
            if page.has_room() {
                return page.insert(hash, stream, class);
            }
            self.rewrite(hash, number)?;
        }
    }

    /// Rewrites a full page without its removed heads: as one page if that helps, else as two.
    fn rewrite(&self, hash: u64, number: u32) -> Option<()> {
        self.moves.store(self.moves() + 1, Ordering::Relaxed);
        let old = self.page(number);
        let depth = old.depth();
        let live = old.live().count();
        let can_split = self.pages.has_room(RESERVE + 2);
        // A quarter of the lines won back is worth it: otherwise removed heads would make ever more pages.
        if live * 4 < old.used() * 3 || !can_split && live < old.used() {
            let fresh = self.pages.claim_zeroed(0)?;
            self.page(fresh).set_depth(depth);
            self.copy(old, |_| fresh)?;
            self.directory.redirect(hash, depth, fresh);
        } else {
            if depth == self.directory.depth() && !self.directory.double() {
                return None;
            }
            let zero = self.pages.claim_zeroed(RESERVE)?;
            let Some(one) = self.pages.claim_zeroed(RESERVE) else {
                self.pages.release(zero);
                return None;
            };
            for page in [zero, one] {
                self.page(page).set_depth(depth + 1);
            }
            self.copy(old, |hash| if hash >> depth & 1 == 0 { zero } else { one })?;
            self.directory.redirect(hash & !(1 << depth), depth + 1, zero);
            self.directory.redirect(hash | 1 << depth, depth + 1, one);
        }
        self.pages.retire_later(number);
        Some(())
    }

    /// Moves pages at or above `limit` to ones below, up to `most` of them. How many it were. The partition's lock is
    /// held, and a pin.
    pub(crate) fn vacate(&self, limit: u32, most: usize) -> usize {
        let above = |(page, _): &(u32, u64)| *page != NO_PAGE && *page >= limit;
        let mut moved = 0;
        for (number, hash) in self.directory.places().into_iter().filter(above).take(most) {
            let Some(fresh) = self.pages.claim_zeroed(0) else { break };
            if fresh >= limit {
                self.pages.release(fresh);
                break;
            }
            self.moves.store(self.moves() + 1, Ordering::Relaxed);
            let old = self.page(number);
            self.page(fresh).set_depth(old.depth());
            if self.copy(old, |_| fresh).is_none() {
                // A page has room for its own heads, so this is not reached; if it were, the old page stays.
                self.pages.release(fresh);
                break;
            }
            self.directory.redirect(hash, old.depth(), fresh);
            self.pages.retire_later(number);
            moved += 1;
        }
        moved
    }

    fn copy(&self, old: HeadPage<'_>, page_of: impl Fn(u64) -> u32) -> Option<()> {
        old.live().try_for_each(|head| {
            self.copy_head(head, head.word.load(Ordering::Relaxed), &page_of).map(|_| ())
        })
    }

    /// Copies a head, whose word was read before.
    fn copy_head(&self, head: &Head, word: u64, page_of: impl Fn(u64) -> u32) -> Option<&Head> {
        let stream = Stream::from_raw(head.stream.load(Ordering::Relaxed));
        let class = Class::new((word >> CLASS_SHIFT) as usize & 0xff);
        let hash = head_hash(stream_hash(stream, self.seed), class);
        let copy = self.page(page_of(hash)).insert(hash, stream, class)?;
        copy.copy_from(head, word);
        Some(copy)
    }

    /// Whether a stream's newest event may be at `addr`, on a page that gets no more events. When it is not, it will never be. A
    /// pin is held, but no lock.
    pub(crate) fn may_be_newest(&self, hash: u64, stream: Stream, class: Class, addr: Addr) -> bool {
        self.find(hash, stream, class).is_some_and(|head| head.newest_is(addr))
    }

    /// Removes the head of a stream whose newest event is at `addr`, which is about to leave memory. Whether it was. The
    /// partition's lock is held, and a pin.
    pub(crate) fn remove_if_newest(&self, hash: u64, stream: Stream, class: Class, addr: Addr) -> bool {
        let head = self.find(hash, stream, class).filter(|head| head.newest_is(addr));
        if let Some(head) = head {
            head.word.fetch_or(GONE, Ordering::Release);
            self.page(self.directory.page_for(hash)).count_gone();
        }
        head.is_some()
    }

    /// Removes a head that was made for an event that did not come to be.
    pub(crate) fn remove_empty(&self, head: &Head) {
        if head.newest.iter().all(|addr| addr.load(Ordering::Relaxed) == 0) {
            head.word.fetch_or(GONE, Ordering::Release);
        }
    }

    /// Every head with its newest event. For checks; the partition's lock is held.
    pub(crate) fn heads(&self) -> Vec<(Stream, Class, Addr)> {
        let mut all = Vec::new();
        for page in self.page_numbers() {
            for head in self.page(page).live() {
                let class = Class::new((head.word.load(Ordering::Relaxed) >> CLASS_SHIFT) as usize & 0xff);
                all.push((Stream::from_raw(head.stream.load(Ordering::Relaxed)), class, head.newest()[0]));
            }
        }
        all
    }

    /// How many heads there are, roughly while others write. The caller holds a pin.
    pub(crate) fn len(&self) -> usize {
        let (slots, depth) = (self.directory.slots(), self.directory.depth());
        let pages =
            slots[..1 << depth].iter().enumerate().map(|(at, slot)| (at, slot.load(Ordering::Acquire)));
        let page = |(at, number): (usize, u32)| {
            let page = (number != NO_PAGE).then(|| self.page(number))?;
            // Of the slots that lead to a page, the first.
            (at >> page.depth() == 0).then(|| page.left())
        };
        pages.filter_map(page).sum()
    }

    /// Every page in use. For checks; the partition's lock is held.
    pub(crate) fn page_numbers(&self) -> Vec<u32> {
        self.directory.pages().into_iter().filter(|page| *page != NO_PAGE).collect()
    }
}

mod ahead;
#[cfg(all(test, not(loom)))]
mod tests;
