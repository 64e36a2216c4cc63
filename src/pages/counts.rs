//! What is counted of pages: how many are in use, by whom, and when they were read.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use crate::ids::{Class, LogicalPage};
use crate::pages::pool::Pages;
use crate::pages::table::Tier;
use crate::regions::arenas::Access;
use crate::regions::region::Region;

/// Of so many reads of a thread, one is looked at: asking on which processor it runs takes longer than a read.
const READS_FOR_ONE: u32 = 16;

thread_local! {
    static READS: Cell<u32> = const { Cell::new(0) };
}

impl Pages {
    /// How many pages of the hot and the warm region and how many page numbers will be in use once present readers are
    /// gone, and of how many. Letting more go while a reader stays makes no room. Pages of which guards have events in hand
    /// count as used: they may stay for ever.
    pub(crate) fn used_ahead(&self) -> [(u32, u32); 3] {
        self.used_without(self.held_back())
    }

    /// The same if all guards ended now.
    pub(crate) fn used_without_guards(&self) -> [(u32, u32); 3] {
        self.used_without(self.leaving.each_ref().map(|count| count.load(Ordering::Relaxed)))
    }

    fn used_without(&self, [hot, warm, numbers]: [u32; 3]) -> [(u32, u32); 3] {
        [
            (self.hot.used_pages().saturating_sub(hot), self.hot.pages_max()),
            (self.warm.used_pages().saturating_sub(warm), self.warm.pages_max()),
            (self.numbers.used().saturating_sub(numbers), self.numbers.limit()),
        ]
    }

    /// Hot and warm pages that a class will hold once present readers are gone.
    pub(crate) fn held_by(&self, class: Class) -> [u32; 2] {
        self.held[class.index()].each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) fn hold(&self, class: Class, tier: Tier, frames: u32) {
        self.held[class.index()][usize::from(tier != Tier::Hot)].fetch_add(frames, Ordering::Relaxed);
    }

    pub(super) fn let_go(&self, class: Class, tier: Tier, frames: u32) {
        self.held[class.index()][usize::from(tier != Tier::Hot)].fetch_sub(frames, Ordering::Relaxed);
    }

    /// Notes that a page was read in that second.
    #[inline]
    pub(crate) fn touch(&self, page: LogicalPage, second: u32) {
        self.stamps[page.0 as usize].touch(second);
    }

    /// Notes from which node a page is read: for one of [`READS_FOR_ONE`] reads of each thread.
    pub(crate) fn note_reader(&self, page: LogicalPage) {
        let turn = READS.get().wrapping_add(1);
        READS.set(turn);
        if !turn.is_multiple_of(READS_FOR_ONE) {
            return;
        }
        let place = self.place(page);
        if place.tier() != Tier::Free {
            self.region(place.tier()).note_access(place.frame(), Access::Read, READS_FOR_ONE.into());
        }
    }

    /// Forgets that a page was read: it is squeezed, and comes back when it is read again, not for what was before.
    pub(crate) fn forget_reads(&self, page: LogicalPage) {
        self.stamps[page.0 as usize].clear();
    }

    /// When a page was last read, and when before that.
    pub(crate) fn stamps(&self, page: LogicalPage) -> [u32; 2] {
        self.stamps[page.0 as usize].get()
    }

    /// Page numbers in use.
    pub(crate) fn numbers_used(&self) -> usize {
        self.numbers.used() as usize
    }

    /// Page numbers that can be in use.
    pub(crate) fn numbers_limit(&self) -> u32 {
        self.numbers.limit() - 1
    }

    /// Lets so many page numbers be in use, if that is more than before.
    pub(crate) fn raise_numbers(&self, pages: u32) {
        self.numbers.raise_limit(pages.saturating_add(1).min(self.places.len() as u32));
    }

    /// The region of a tier.
    pub(crate) fn region(&self, tier: Tier) -> &Region {
        if tier == Tier::Hot { &self.hot } else { &self.warm }
    }

    /// The pages of a tier that lie on frames at or above `frame`, as they are found.
    pub(crate) fn pages_above(&self, tier: Tier, frame: u32) -> impl Iterator<Item = LogicalPage> {
        let above = move |page: &LogicalPage| {
            let place = self.place(*page);
            // The first frame is looked at without the table's entry, which is another line.
            place.tier() == tier && place.frame() + self.meta(*page).frames() > frame
        };
        (1..=self.numbers_limit()).map(LogicalPage).filter(above)
    }

    /// How many pages of the hot and the warm region and how many page numbers are only held back by readers, who will be
    /// gone soon.
    pub(crate) fn held_back(&self) -> [u32; 3] {
        let [hot, warm, numbers] = self.leaving.each_ref().map(|count| count.load(Ordering::Relaxed));
        let pinned = self.limbo.pinned_bytes() / u64::from(self.hot.page_size());
        [hot.saturating_sub(pinned as u32), warm, numbers]
    }

    /// Whether anything waits for readers to go, pages of the index included.
    pub(crate) fn is_leaving(&self) -> bool {
        !self.limbo.is_empty()
    }

    /// The share of page numbers in use.
    pub(crate) fn numbers_fill(&self) -> f64 {
        f64::from(self.numbers.used()) / f64::from(self.numbers.limit())
    }

    pub(crate) fn number_is_taken(&self, page: LogicalPage) -> bool {
        self.numbers.is_taken(page.0)
    }
}
