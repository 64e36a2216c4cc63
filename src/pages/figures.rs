//! How much of the regions and of the page numbers pages take.

use std::sync::atomic::Ordering;

use crate::ids::Class;
use crate::pages::pool::Pages;

impl Pages {
    /// How many pages of the hot and the warm region and how many page numbers will be in use once present readers are
    /// gone, and of how many. Letting more go while a reader stays makes no room.
    pub(crate) fn used_ahead(&self) -> [(u32, u32); 3] {
        let [hot, warm, numbers] = self.leaving.each_ref().map(|count| count.load(Ordering::Relaxed));
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

    /// Page numbers that can be in use.
    pub(crate) fn numbers_limit(&self) -> u32 {
        self.numbers.limit() - 1
    }

    /// The share of page numbers in use.
    pub(crate) fn numbers_fill(&self) -> f64 {
        f64::from(self.numbers.used()) / f64::from(self.numbers.limit())
    }

    /// Whether anything waits for readers to go.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.iter().any(|count| count.load(Ordering::Relaxed) > 0)
    }
}
