//! What readers of pages have in hand: frames that they unpacked, and where a walk over a hot page is.

use std::cell::RefCell;
use std::sync::Arc;

use crate::event::buffer::Buffer;
use crate::event::record::{HEADER_LEN, body_len};
use crate::pages::table::Place;
use crate::sys::memory::prefetch_bytes;

/// How far ahead of a walk over a hot page its records are fetched, in bytes: a few records of ordinary size. A
/// walk looks at headers, which the processor's own prefetching misses between bodies.
pub(crate) const WALK_AHEAD: usize = 2048;

/// Frames that a reader has unpacked lately, so that neighbours of an event come without unpacking again.
#[derive(Default)]
pub(crate) struct FrameCache {
    frames: RefCell<Vec<Unpacked>>,
}

/// One frame, unpacked.
#[derive(Clone)]
pub(crate) struct Unpacked {
    pub(crate) place: Place,
    /// How often frames of the warm region had been taken by then. Where they were since, the place may be another
    /// page's: a guard outlives the pages that it read copies of.
    pub(crate) claims: u64,
    /// Where its records begin in the page.
    pub(crate) raw_at: u32,
    pub(crate) bytes: Arc<Buffer>,
}

impl FrameCache {
    const FRAMES: usize = 8;

    pub(crate) fn find(&self, place: Place, claims: u64, offset: u32) -> Option<Unpacked> {
        let here = |frame: &&Unpacked| {
            let at = offset.checked_sub(frame.raw_at);
            frame.place == place
                && frame.claims == claims
                && at.is_some_and(|at| (at as usize) < frame.bytes.len())
        };
        self.frames.borrow().iter().find(here).cloned()
    }

    pub(crate) fn keep(&self, frame: Unpacked) {
        let mut frames = self.frames.borrow_mut();
        if frames.len() == Self::FRAMES {
            frames.remove(0);
        }
        frames.push(frame);
    }

    pub(crate) fn clear(&self) {
        self.frames.borrow_mut().clear();
    }
}

/// Walks the committed records of a hot page, in the order of writing.
pub(crate) struct Records<'g> {
    bytes: &'g [u8],
    at: usize,
    ahead: Ahead,
}

impl<'g> Records<'g> {
    /// Of the committed bytes of a page.
    #[inline]
    pub(crate) fn new(bytes: &'g [u8], ahead: Ahead) -> Self {
        Self { bytes, at: 0, ahead }
    }
}

/// What of the records ahead a walk has fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ahead {
    /// About one line of each: for a walk that looks at headers.
    Headers,
    /// Every line.
    Whole,
}

impl<'g> Iterator for Records<'g> {
    /// Offset and record: an event is made of those that are given to somebody, and only then.
    type Item = (u32, &'g [u8]);

    #[inline]
    fn next(&mut self) -> Option<(u32, &'g [u8])> {
        let rest = self.bytes.get(self.at..)?;
        let len = HEADER_LEN + body_len(rest)? as usize;
        let record = rest.get(..len)?;
        // The processor's own prefetching brings what lies ahead into a cache further away, and stops at every 4 KiB.
        if let Some(ahead) = rest.get(WALK_AHEAD..) {
            let wanted = if self.ahead == Ahead::Whole { len } else { 1 };
            prefetch_bytes(&ahead[..ahead.len().min(wanted)]);
        }
        let at = self.at as u32;
        self.at += len.next_multiple_of(8);
        Some((at, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::table::Tier;

    /// A guard outlives the pages that it read copies of, and their frames are other pages' then.
    #[test]
    fn what_was_unpacked_is_of_the_pages_that_were_there_then() {
        let (cache, place) = (FrameCache::default(), Place::new(Tier::Warm, 0, 5));
        let bytes = Arc::new(Buffer::from(vec![1; 100]));
        cache.keep(Unpacked { place, claims: 7, raw_at: 0, bytes });
        assert!(cache.find(place, 7, 50).is_some());
        assert!(cache.find(place, 8, 50).is_none(), "somebody has taken frames since");
        assert!(cache.find(Place::new(Tier::Warm, 1, 5), 7, 50).is_none());
    }
}
