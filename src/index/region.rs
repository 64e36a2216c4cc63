//! The pages of both indexes: frames of the index region, seen as buckets or as heads.

use std::sync::Arc;

use crate::index::bucket::Bucket;
use crate::index::hash::BucketPages;
use crate::index::streams::Head;
use crate::pages::readers::Readers;
use crate::regions::region::{Frames, Region};
use crate::sync::AtomicU64;
use crate::sys::machine::Spot;
use crate::sys::memory::ZeroInit;
use crate::sys::sum::Sum;

// SAFETY: all fields are atomic integers, for which zero is a value.
unsafe impl ZeroInit for Bucket {}
// SAFETY: as above.
unsafe impl ZeroInit for Head {}

/// A line of an index page.
const LINE: usize = 64;
const _: () = assert!(size_of::<Bucket>() == LINE && size_of::<Head>() == LINE);

/// Pages that growth leaves free, so that a stream directory can always rewrite a page without its removed heads:
/// that takes a page for a moment.
pub(crate) const RESERVE: u32 = 2;

/// Takes pages of the index region and gives them back after their readers.
#[derive(Clone)]
pub(crate) struct IndexPages {
    region: Arc<Region>,
    readers: Arc<Readers>,
    /// Where pages come from; `None`: from wherever the caller is.
    home: Option<Spot>,
}

impl IndexPages {
    pub(crate) fn new(region: Arc<Region>, readers: Arc<Readers>) -> Self {
        Self { region, readers, home: None }
    }

    /// The same, with pages that come from near that spot.
    pub(crate) fn near(self, home: Spot) -> Self {
        Self { home: Some(home), ..self }
    }

    /// A page of zeros, if `keep` pages remain after it.
    pub(crate) fn claim_zeroed(&self, keep: u32) -> Option<u32> {
        if self.region.pages_max().saturating_sub(self.region.used_pages()) <= keep {
            return None;
        }
        let frame = self.region.claim_for(self.home, 1)?.first;
        if !self.region.is_fresh(frame) {
            // SAFETY: the frame was just claimed, so it is ours alone until its number is stored in a directory.
            unsafe { self.region.bytes_mut(frame, 0, self.region.page_size() as usize) }.fill(0);
        }
        Some(frame)
    }

    /// Whether more than that many pages are free.
    pub(crate) fn has_room(&self, pages: u32) -> bool {
        self.region.pages_max().saturating_sub(self.region.used_pages()) > pages
    }

    /// The heads of a page that is in use, or was when the caller's pin began.
    #[inline]
    pub(crate) fn heads(&self, page: u32) -> &[Head] {
        // SAFETY: a stream directory leads to pages that it claimed zeroed and uses as heads only; they are
        // released after the pins that could have read their number.
        unsafe { self.region.values(page) }
    }

    /// Sums up some pages, whatever they are: all of them are words that are changed whole.
    pub(crate) fn sum_up(&self, pages: std::ops::Range<u32>, sum: &mut Sum) {
        pages.for_each(|page| sum.add_words(self.words(page)));
    }

    /// Frees a page that no reader has seen.
    pub(crate) fn release(&self, page: u32) {
        // SAFETY: the caller claimed it and has told nobody.
        unsafe { self.region.release(Frames { first: page, count: 1 }) };
    }

    /// Frees a page after all present readers are gone.
    pub(crate) fn retire_later(&self, page: u32) {
        let region = self.region.clone();
        // SAFETY: the closure owns its region. The page is in no directory any more, and is retired once.
        let free = move || unsafe { region.release(Frames { first: page, count: 1 }) };
        self.readers.limbo().let_go(None, free);
    }
}

impl BucketPages for IndexPages {
    fn page(&self, page: u32) -> &[Bucket] {
        // SAFETY: the id index leads to pages that it claimed zeroed and uses as buckets only; they are released
        // after the pins that could have read their number.
        unsafe { self.region.values(page) }
    }

    fn claim(&self) -> Option<u32> {
        self.claim_zeroed(RESERVE)
    }

    fn retire(&self, page: u32) {
        self.retire_later(page);
    }

    fn give_back(&self, page: u32) {
        self.release(page);
    }

    #[inline]
    fn words(&self, page: u32) -> &[AtomicU64] {
        // SAFETY: the table of chunks leads to pages that it claimed zeroed and uses as words only; they are released
        // after the pins that could have read their number.
        unsafe { self.region.values(page) }
    }

    #[inline]
    fn prefetch(&self, page: u32, bucket: usize) {
        self.region.prefetch(page, bucket * LINE);
    }
}
