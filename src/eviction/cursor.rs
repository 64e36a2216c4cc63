//! Where in each lane the hot pages are: found without looking at all pages.
//!
//! Pages are opened hot at a lane's new end and are mostly squeezed from the old end on, so a lane's hot pages are
//! nearly a run: the cursor stands at its beginning and steps over those squeezed out of turn. Pages that were promoted
//! behind it are kept apart.

use crate::ids::LogicalPage;
use crate::lanes::append::Lanes;
use crate::lanes::partition::Lane;
use crate::pages::pool::{Pages, Pin};
use crate::pages::table::Tier;

#[derive(Clone, Default)]
pub(super) struct Cursor {
    /// The oldest hot page that was never behind the cursor, with its number in the lane.
    hot: Option<(u64, LogicalPage)>,
    /// Pages below this number are not hot, but for the promoted ones.
    none_below: u64,
    /// Hot pages behind the cursor, oldest first.
    promoted: Vec<(u64, LogicalPage)>,
}

impl Cursor {
    /// The lane's oldest hot page.
    pub(super) fn oldest_hot(&mut self, lanes: &Lanes, pin: &Pin, lane: &Lane) -> Option<LogicalPage> {
        let head = lane.head();
        if self.hot.is_none() && head != LogicalPage::NONE && lanes.pages.meta(head).seq() >= self.none_below
        {
            // Pages were opened since none was found: go back to the first of them.
            self.hot = lane
                .pages_back(&lanes.pages, pin)
                .map(|(page, meta)| (meta.seq(), page))
                .take_while(|(seq, _)| *seq >= self.none_below)
                .filter(|(_, page)| is_hot(&lanes.pages, *page))
                .last();
            if self.hot.is_none() {
                self.none_below = lanes.pages.meta(head).seq() + 1;
            }
        }
        self.promoted.first().or(self.hot.as_ref()).map(|(_, page)| *page)
    }

    /// Notes that a page is hot no more. It is still linked to those after it.
    pub(super) fn gone(&mut self, lanes: &Lanes, page: LogicalPage) {
        let seq = lanes.pages.meta(page).seq();
        if self.hot == Some((seq, page)) {
            self.none_below = seq + 1;
            self.hot = None;
            let mut next = lanes.pages.meta(page).next();
            while next != LogicalPage::NONE {
                let meta = lanes.pages.meta(next);
                if is_hot(&lanes.pages, next) {
                    self.hot = Some((meta.seq(), next));
                    break;
                }
                self.none_below = meta.seq() + 1;
                next = meta.next();
            }
        } else if let Ok(at) = self.promoted.binary_search(&(seq, page)) {
            self.promoted.remove(at);
        }
    }

    /// Notes that a page has become hot again.
    pub(super) fn promoted(&mut self, lanes: &Lanes, page: LogicalPage) {
        let seq = lanes.pages.meta(page).seq();
        let behind = self.hot.map_or(seq < self.none_below, |(hot, _)| seq < hot);
        if behind && let Err(at) = self.promoted.binary_search(&(seq, page)) {
            self.promoted.insert(at, (seq, page));
        }
    }
}

fn is_hot(pages: &Pages, page: LogicalPage) -> bool {
    pages.place(page).tier() == Tier::Hot
}
