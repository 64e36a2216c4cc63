//! The pages of both indexes: frames of the index region, seen as buckets or as heads.

use std::sync::Arc;

use crate::index::bucket::Bucket;
use crate::index::hash::BucketPages;
use crate::index::streams::Head;
use crate::pages::readers::Readers;
use crate::regions::region::{Frames, Region};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
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
    /// A bit for each page that was wiped when it was freed: whoever reclaims does it, so that an append that takes one need not.
    /// Empty where pages outlive the process: what an image of them was made of must not change behind it.
    wiped: Arc<[AtomicU64]>,
    /// Pages that were retired, ever.
    retired: Arc<AtomicU32>,
    /// Those of them that are free again.
    returned: Arc<AtomicU32>,
    /// Where pages come from; `None`: from wherever the caller is.
    home: Option<Spot>,
}

impl IndexPages {
    /// `outlive`: whether the pages lie in files that outlive the process.
    pub(crate) fn new(region: Arc<Region>, readers: Arc<Readers>, outlive: bool) -> Self {
        let words = if outlive { 0 } else { region.pages_ceiling().div_ceil(64) };
        let wiped = (0..words).map(|_| AtomicU64::new(0)).collect();
        let [retired, returned] = [Arc::default(), Arc::default()];
        Self { region, readers, wiped, retired, returned, home: None }
    }

    /// The same, with pages that come from near that spot.
    pub(crate) fn near(self, home: Spot) -> Self {
        Self { home: Some(home), ..self }
    }

    /// A page of zeros, if `keep` pages remain after it.
    pub(crate) fn claim_zeroed(&self, keep: u32) -> Option<u32> {
        if !self.has_room(keep) {
            return None;
        }
        let frame = self.region.claim_for(self.home, 1)?.first;
        let (is_fresh, bit) = (self.region.is_fresh(frame), 1 << (frame % 64));
        let word = self.wiped.get(frame as usize / 64);
        let was_wiped = word.is_some_and(|word| word.fetch_and(!bit, Ordering::Relaxed) & bit != 0);
        if !is_fresh && !was_wiped {
            // SAFETY: the frame was just claimed, so it is ours alone until its number is stored in a directory.
            unsafe { self.region.bytes_mut(frame, 0, self.region.page_size() as usize) }.fill(0);
        }
        Some(frame)
    }

    /// Whether more than that many pages are free.
    pub(crate) fn has_room(&self, pages: u32) -> bool {
        self.free() > pages
    }

    /// How many pages are free.
    pub(crate) fn free(&self) -> u32 {
        self.region.pages_max().saturating_sub(self.region.used_pages())
    }

    /// Whether pages will be free as soon as present readers are gone.
    pub(crate) fn are_leaving(&self) -> bool {
        self.leaving() != 0
    }

    /// How many that are.
    pub(crate) fn leaving(&self) -> u32 {
        // What has returned was retired before: looked at first, it is never more.
        let returned = self.returned.load(Ordering::Acquire);
        self.retired.load(Ordering::Relaxed).wrapping_sub(returned)
    }

    /// How many pages that were in use are free again, ever. The number wraps.
    pub(crate) fn returned(&self) -> u32 {
        self.returned.load(Ordering::Relaxed)
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
        unsafe { wipe_and_release(&self.region, &self.wiped, page) };
    }

    /// Frees a page after all present readers are gone.
    pub(crate) fn retire_later(&self, page: u32) {
        let (region, wiped, returned) = (self.region.clone(), self.wiped.clone(), self.returned.clone());
        self.retired.fetch_add(1, Ordering::Relaxed);
        let free = move || {
            // SAFETY: the closure owns its region. The page is in no directory any more, is retired once, and every pin and
            // call that could have found it is gone when the closure is called.
            unsafe { wipe_and_release(&region, &wiped, page) };
            returned.fetch_add(1, Ordering::Release);
        };
        self.readers.limbo().let_go(None, free);
    }
}

/// Frees a page, and wipes it before where that is noted.
///
/// # Safety
/// The page was claimed, nobody else refers to it, and nobody else releases it.
unsafe fn wipe_and_release(region: &Region, wiped: &[AtomicU64], page: u32) {
    if let Some(word) = wiped.get(page as usize / 64) {
        // SAFETY: the caller says that the page is ours alone.
        unsafe { region.bytes_mut(page, 0, region.page_size() as usize) }.fill(0);
        // Whoever claims the page sees this, too: it is released after it.
        word.fetch_or(1 << (page % 64), Ordering::Relaxed);
    }
    // SAFETY: as above.
    unsafe { region.release(Frames { first: page, count: 1 }) };
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::pressure::RegionKind;
    use crate::sys::machine::Machine;

    #[test]
    fn a_page_that_is_freed_is_wiped_before_it_is_taken_again() {
        let config = Config::builder().memory("32MiB").partitions(1).build().unwrap();
        let machine = Arc::new(Machine::new(&config).unwrap());
        let region = Arc::new(Region::open(RegionKind::Index, config.index, &machine).unwrap());
        let (readers, bytes) = (Arc::new(Readers::new()), region.page_size() as usize);
        let pages = IndexPages::new(region, readers.clone(), false);
        let words = |page| pages.words(page).iter().map(|word| word.load(Ordering::Relaxed));
        let mut taken = Vec::new();
        while let Some(page) = pages.claim_zeroed(0) {
            taken.push(page);
        }
        for page in &taken {
            assert!(words(*page).all(|word| word == 0));
            pages.words(*page).iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        }
        let [first, second] = [taken[0], taken[1]];
        pages.release(first);
        pages.retire_later(second);
        while !readers.limbo().is_empty() {
            readers.reclaim();
        }
        for page in [first, second] {
            assert_eq!(words(page).filter(|word| *word == 0).count(), bytes / size_of::<u64>());
        }
        let mut again = [pages.claim_zeroed(0), pages.claim_zeroed(0)];
        again.sort_unstable();
        assert_eq!((again, pages.claim_zeroed(0)), ([Some(first), Some(second)], None));
        // Only what was freed since counts as wiped.
        assert!(pages.wiped.iter().all(|bits| bits.load(Ordering::Relaxed) == 0));
    }
}
