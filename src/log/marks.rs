//! What the log has of each page: how many bytes, and in which segment they begin. The marks lie in a file beside the pages,
//! so that a store whose process was killed goes on where the log ended.
//!
//! ```text
//! page 0     │ zero                       │ newest segment            │
//! page n     │ generation, 20 │ bytes, 32 │ oldest segment with bytes │
//! ```
//!
//! Only who takes a turn writes marks, after the disk has kept what they say.

use crate::error::Result;
use crate::ids::LogicalPage;
use crate::pages::restore::shared_slab;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::memory::Slab;
use crate::sys::shared::SharedDir;

pub(crate) struct Marks(Slab<AtomicU64>);

/// What the log has of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub(crate) page: LogicalPage,
    pub(crate) generation: u32,
    /// All bytes before this one are in the log.
    pub(crate) len: u32,
    pub(crate) segment: u64,
    /// Whether nothing before that segment is needed for the page any more.
    pub(crate) anew: bool,
}

impl Marks {
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) when there is no room for the file.
    pub(crate) fn open(dir: &SharedDir, entries: usize) -> Result<Self> {
        Ok(Self(shared_slab(dir, "logged", entries * 2)?))
    }

    fn words(&self, page: LogicalPage) -> [&AtomicU64; 2] {
        let at = page.0 as usize * 2;
        [&self.0[at], &self.0[at + 1]]
    }

    /// The mark of a page, if it is of that generation.
    pub(crate) fn of(&self, page: LogicalPage, generation: u32) -> Option<Mark> {
        let [what, segment] = self.words(page).map(|word| word.load(Ordering::Relaxed));
        let found = (what >> 32) as u32 == generation && segment != 0;
        found.then_some(Mark { page, generation, len: what as u32, segment, anew: false })
    }

    /// Takes a mark in: one of the same page that was there before keeps its segment.
    pub(crate) fn set(&self, mark: &Mark) {
        let [what, segment] = self.words(mark.page);
        let before = self.of(mark.page, mark.generation).filter(|_| !mark.anew);
        // The segment first: should the process end between the two, the page seems to be in a later segment of an earlier
        // life, which says nothing.
        segment
            .store(before.map_or(mark.segment, |before| before.segment.min(mark.segment)), Ordering::Relaxed);
        let len = self.of(mark.page, mark.generation).map_or(mark.len, |before| before.len.max(mark.len));
        what.store(u64::from(mark.generation) << 32 | u64::from(len), Ordering::Release);
    }

    /// The newest segment of the log when a mark was last set.
    pub(crate) fn newest(&self) -> u64 {
        self.words(LogicalPage::NONE)[1].load(Ordering::Relaxed)
    }

    pub(crate) fn set_newest(&self, segment: u64) {
        self.words(LogicalPage::NONE)[1].store(segment, Ordering::Relaxed);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_keeps_its_oldest_segment_until_the_page_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let shared = SharedDir::take(&dir.path().join("shared")).unwrap();
        let marks = Marks::open(&shared, 10).unwrap();
        let page = LogicalPage(3);
        let mark = |generation, len, segment, anew| Mark { page, generation, len, segment, anew };
        assert_eq!(marks.of(page, 0), None);
        marks.set(&mark(0, 100, 5, false));
        marks.set(&mark(0, 300, 6, false));
        marks.set(&mark(0, 0, 7, false));
        assert_eq!(marks.of(page, 0), Some(mark(0, 300, 5, false)));
        marks.set(&mark(0, 300, 8, true));
        assert_eq!(marks.of(page, 0), Some(mark(0, 300, 8, false)));
        marks.set(&mark(1, 50, 9, false));
        assert_eq!((marks.of(page, 0), marks.of(page, 1)), (None, Some(mark(1, 50, 9, false))));
        marks.set_newest(9);
        drop(marks);
        let marks = Marks::open(&shared, 10).unwrap();
        assert_eq!((marks.newest(), marks.of(page, 1)), (9, Some(mark(1, 50, 9, false))));
    }
}
