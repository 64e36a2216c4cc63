//! What a policy sees: regions, classes, lanes, and summaries of pages. Never an event.

use std::cell::Cell;

use crate::config::{ClassConfig, Config, OnLeave};
use crate::eviction::engine::EvictionShared;
use crate::eviction::millis;
use crate::ids::{Class, LogicalPage};
use crate::lanes::append::Lanes;
use crate::lanes::partition::Lane;
use crate::pages::pool::Pin;
use crate::pages::table::{self, Stamps};
use crate::pressure::RegionKind;

/// How long after its last event a page that is old enough to move is kept open, and one that is old enough to leave
/// waits for others that fill a block with it.
const SETTLE_MS: i64 = 1000;

/// Page numbers that are looked at for each page that a sample is to have.
const TRIES: usize = 12;

/// Where in memory a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Tier {
    /// As it was written.
    Hot,
    /// Squeezed by LZ4.
    Warm,
}

/// Names a page while it is in memory. Once it has left, the name means nothing, and no other page gets it soon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct PageId {
    pub(crate) page: LogicalPage,
    pub(crate) generation: u32,
}

/// What a policy sees of a page. Times are in milliseconds since the epoch, by the store's clock.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct PageSummary {
    /// The page's name.
    pub id: PageId,
    /// The class of its events.
    pub class: Class,
    /// Where it is.
    pub tier: Tier,
    /// The time that its age is counted from: that of its newest event, or its last arrival where that is earlier.
    pub newest_ms: i64,
    /// When its last event came. Pressure moves pages in this order.
    pub arrived_ms: i64,
    /// When it was last read, as far as reads are recorded; see [`Policy::wants_reads`](crate::policy::Policy::wants_reads).
    pub read_ms: Option<i64>,
    /// When it was read before that. Reads within one second count as one.
    pub read_before_ms: Option<i64>,
    /// Its events, removed ones included.
    pub events: u32,
    /// How many of them were removed.
    pub removed: u32,
    /// Bytes of its records before they are squeezed.
    pub raw_bytes: u32,
    /// Of these, what was not removed.
    pub live_bytes: u32,
    /// Pages of its region that it takes.
    pub pages: u32,
    /// Whether the cold tier has confirmed it.
    pub clean: bool,
    /// Whether its lane still writes it. Moving it closes it, and leaves the rest of it unused.
    pub open: bool,
    /// Whether it may leave memory once it is its lane's oldest: it is clean, has expired, or its class drops events.
    pub may_leave: bool,
    /// Whether every event of it has reached the end of its class's retention.
    pub expired: bool,
}

/// What a policy sees of a lane: the events of one class in one partition.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct LaneView {
    /// The class of its events.
    pub class: Class,
    /// The partition of its streams.
    pub partition: usize,
    /// Its oldest page in memory: the only one of the lane that may leave.
    pub oldest: Option<PageSummary>,
    /// The oldest of its pages that are hot.
    pub oldest_hot: Option<PageSummary>,
    /// Whether the spiller was told to write the lane although its pages do not fill a block.
    pub spill_asked: bool,
}

/// How full a region is, not counting what is only held back by readers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RegionView {
    /// What is in use: pages of the hot and the warm region, events of the index, entries of the page table.
    pub used: u64,
    /// What is let go, but held back by readers: it is not counted as used, and cannot be used anew yet.
    pub held_back: u64,
    /// The most that can be.
    pub max: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
}

impl RegionView {
    /// The share that is in use.
    pub fn fill(&self) -> f64 {
        self.used as f64 / self.max.max(1) as f64
    }
}

/// How much of the hot and the warm region a class takes, in whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ClassView {
    /// Bytes in the hot region.
    pub hot_bytes: u64,
    /// Bytes in the warm region.
    pub warm_bytes: u64,
}

/// What a policy sees of the store.
pub struct View<'a> {
    pub(super) config: &'a Config,
    pub(super) store: &'a Lanes,
    pub(super) shared: &'a EvictionShared,
    /// Pages that the lists lead to are not reused while it is held.
    pub(super) _pin: &'a Pin,
    pub(super) lanes: &'a [LaneView],
    pub(super) regions: [RegionView; 4],
    pub(super) now_ms: i64,
    pub(super) step: u64,
    pub(super) warm_is_full: bool,
    pub(super) wanted_pages: u64,
    pub(super) random: &'a Cell<u64>,
    /// The classes whose pages are shown, a bit for each.
    pub(super) classes: u32,
}

impl<'a> View<'a> {
    /// The store's configuration: thresholds, classes with their windows, priorities and quotas.
    pub fn config(&self) -> &'a Config {
        self.config
    }

    /// The configuration of a class.
    pub fn class_config(&self, class: Class) -> &'a ClassConfig {
        &self.config.classes[class.index().min(self.config.classes.len() - 1)]
    }

    /// The store's time, in milliseconds since the epoch.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// The number of the engine's step. A policy is asked several times in a step; steps are some milliseconds apart
    /// where there is little to do.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// How full a region is. Moves that were made earlier in the step are counted.
    pub fn region(&self, kind: RegionKind) -> RegionView {
        self.regions[RegionKind::ALL.iter().position(|other| *other == kind).unwrap_or(0)]
    }

    /// What a class takes.
    pub fn class(&self, class: Class) -> ClassView {
        let [hot, warm] = self.store.pages.held_by(class).map(u64::from);
        ClassView {
            hot_bytes: hot * self.config.hot.page_size,
            warm_bytes: warm * self.config.warm.page_size,
        }
    }

    /// Whether the warm region had no room for a page in this step, and nothing has left it since.
    pub fn warm_is_full(&self) -> bool {
        self.warm_is_full
    }

    /// Hot pages that are to move although there is room: an event larger than a page waits for free ones side by side.
    pub fn wanted_pages(&self) -> u64 {
        self.wanted_pages
    }

    /// The lanes whose pages the policy may move.
    pub fn lanes(&self) -> &'a [LaneView] {
        self.lanes
    }

    /// What is known of a page; `None` when it has left memory, or has no events yet.
    pub fn page(&self, id: PageId) -> Option<PageSummary> {
        if id.page == LogicalPage::NONE || id.page.0 > self.store.pages.numbers_limit() {
            return None;
        }
        let place = self.store.pages.place(id.page);
        let found = self.summary(id.page).filter(|_| place.generation() == id.generation)?;
        self.shows(found.class).then_some(found)
    }

    /// The next newer page of the same lane.
    pub fn newer(&self, page: &PageSummary) -> Option<PageSummary> {
        let next = self.store.pages.meta(page.id.page).next();
        (next != LogicalPage::NONE).then(|| self.summary(next)).flatten()
    }

    /// The next newer hot page of the same lane.
    pub fn newer_hot(&self, page: &PageSummary) -> Option<PageSummary> {
        let mut next = self.newer(page)?;
        while next.tier != Tier::Hot {
            next = self.newer(&next)?;
        }
        Some(next)
    }

    /// Up to `count` pages of that tier, chosen at random among those that are not being written. Fewer when few are
    /// there; the same one may come twice.
    pub fn sample(&self, tier: Tier, count: usize) -> impl Iterator<Item = PageSummary> + use<'_, 'a> {
        let wanted = if tier == Tier::Hot { table::Tier::Hot } else { table::Tier::Warm };
        let pages = &self.store.pages;
        std::iter::repeat_with(|| LogicalPage(self.random_below(pages.numbers_limit() + 1)))
            .take(count * TRIES)
            .filter(move |page| pages.place(*page).tier() == wanted)
            .filter_map(|page| self.summary(page))
            .filter(move |page| !page.open && page.tier == tier && self.shows(page.class))
            .take(count)
    }

    /// A random number below `limit`, the same ones in every run with the same seed. Zero when the limit is.
    pub fn random_below(&self, limit: u32) -> u32 {
        // Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mut mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((mixed >> 32) * u64::from(limit)) >> 32) as u32
    }

    /// Whether a page leaves memory as it is: it and the oldest of its lane, which goes before it, are old enough to go, and
    /// the spiller writes them as soon as it can. Squeezing it for the short while would take as long as packing it for
    /// the cold tier. A store without threads moves pages one after the other, and squeezes it all the same.
    pub(super) fn goes_unpacked(&self, page: &PageSummary) -> bool {
        let class = self.class_config(page.class);
        let old = |page: &PageSummary| self.age_ms(page) >= millis(class.warm_for);
        let leaves = class.on_leave != OnLeave::Drop && old(page) && !page.open;
        self.config.background
            && self.shared.spills(page.class)
            && leaves
            && self.oldest_before(page).is_none_or(|oldest| old(&oldest))
    }

    /// Whether a page leaves memory from the hot region, without being squeezed.
    pub(super) fn leaves_from_hot(&self, page: &PageSummary) -> bool {
        !self.class_config(page.class).compress || self.goes_unpacked(page)
    }

    /// The oldest page of a page's lane.
    fn oldest_before(&self, page: &PageSummary) -> Option<PageSummary> {
        let lane = self.store.pages.meta(page.id.page).lane();
        let tail = self.store.partitions.get(lane.partition())?.lane(page.class).tail();
        (tail != LogicalPage::NONE).then(|| self.summary(tail)).flatten()
    }

    /// Whether the last event of a page came so lately that others may fill the page, or a block with it, soon. A store
    /// without threads does not wait: `maintain` is to leave nothing undone.
    pub(super) fn is_fresh(&self, page: &PageSummary) -> bool {
        self.config.background && self.now_ms.saturating_sub(page.arrived_ms) < SETTLE_MS
    }

    /// Milliseconds since the newest event of a page.
    pub fn age_ms(&self, page: &PageSummary) -> i64 {
        self.now_ms.saturating_sub(page.newest_ms)
    }

    /// Whether a page is warm, or newer ones of its lane are that it keeps in memory, as far as is known without looking at
    /// all of them.
    pub fn has_warm_from(&self, page: &PageSummary) -> bool {
        let meta = self.store.pages.meta(page.id.page);
        let lane = meta.lane();
        let number = lane.partition() * self.config.classes.len() + lane.class().index();
        page.tier == Tier::Warm || meta.seq() < self.shared.passed(number)
    }

    /// The partition of a page's lane.
    pub fn partition_of(&self, page: &PageSummary) -> usize {
        self.store.pages.meta(page.id.page).lane().partition()
    }

    fn shows(&self, class: Class) -> bool {
        self.classes >> class.index() & 1 == 1
    }

    /// Shows `look` only what is of these classes. `lanes` is reused.
    pub(super) fn narrowed(&self, classes: u32, lanes: &mut Vec<LaneView>, look: impl FnOnce(&View<'_>)) {
        let classes = classes & self.classes;
        lanes.clear();
        lanes.extend(self.lanes.iter().filter(|lane| classes >> lane.class.index() & 1 == 1));
        look(&View { lanes, classes, ..*self });
    }

    pub(super) fn summary(&self, page: LogicalPage) -> Option<PageSummary> {
        let lane = self.store.pages.meta(page).lane();
        let partition = self.store.partitions.get(lane.partition())?;
        if lane.class().index() >= self.config.classes.len() {
            return None;
        }
        // The head is looked at after the page was found: a page that is linked but not the head by then is sealed.
        // That an open one is taken for sealed cannot be.
        let open = page == partition.lane(lane.class()).head();
        summary(self.config, self.store, self.now_ms, page, partition.lane(lane.class()), open)
    }
}

/// What is known of a lane's page. `None`: it is free, or open and empty. (A page that was sealed empty has nothing to
/// keep; one that is open may get its first event yet.)
pub(super) fn summary(
    config: &Config,
    store: &Lanes,
    now_ms: i64,
    page: LogicalPage,
    lane: &Lane,
    open: bool,
) -> Option<PageSummary> {
    let (meta, place) = (store.pages.meta(page), store.pages.place(page));
    let tier = match place.tier() {
        table::Tier::Hot => Tier::Hot,
        table::Tier::Warm => Tier::Warm,
        table::Tier::Free => return None,
    };
    let events = meta.count();
    if events == 0 && open {
        return None;
    }
    let class = lane.id.class();
    let settings = &config.classes[class.index()];
    // Of a page from which everything was removed nothing is left to be confirmed; of one that stands for a lost one, that the
    // tier has it no more.
    let stands_in = store.is_stand_in(meta);
    let clean = events == meta.dead() && !stands_in
        || meta.seq() < lane.clean_seq()
        || cfg!(canary = "free-before-confirmed") && settings.on_leave == OnLeave::Spill;
    let newest_ms = meta.newest();
    let age = now_ms.saturating_sub(newest_ms);
    let expired = !stands_in && settings.retention.is_some_and(|retention| age >= millis(retention));
    let [read, before] = store.pages.stamps(page);
    Some(PageSummary {
        id: PageId { page, generation: place.generation() },
        class,
        tier,
        newest_ms,
        arrived_ms: meta.last_arrival(),
        read_ms: stamp_ms(read, now_ms),
        read_before_ms: stamp_ms(before, now_ms),
        events,
        removed: meta.dead(),
        raw_bytes: meta.committed(),
        live_bytes: meta.live_bytes(),
        pages: meta.frames(),
        clean,
        open,
        may_leave: clean || settings.on_leave == OnLeave::Drop || expired,
        expired,
    })
}

/// The time of a stamp. One from the future, since the clock went back, counts as now.
fn stamp_ms(second: u32, now_ms: i64) -> Option<i64> {
    let ago = Stamps::second(now_ms).wrapping_sub(second) as i32;
    (second != 0).then(|| now_ms.saturating_sub(i64::from(ago.max(0)) * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_tell_the_time_whatever_the_clock_did() {
        for now in [5_000, 1_700_000_000_000, -7_000_000] {
            let read = Stamps::second(now);
            assert_eq!(stamp_ms(read, now), Some(now));
            assert_eq!(stamp_ms(read, now + 60_000), Some(now), "a minute later");
            assert_eq!(stamp_ms(read, now - 60_000), Some(now - 60_000), "the clock went back");
            assert_eq!(stamp_ms(0, now), None);
        }
    }
}
