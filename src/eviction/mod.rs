//! Which pages move, and when: policies look at summaries of pages and name the next step; the engine takes it.

pub(crate) mod engine;
mod size;
mod time;
pub(crate) mod vacate;

pub(crate) use size::SizeThreshold;
pub(crate) use time::TimeWindow;

use crate::config::{ClassConfig, Config, OnLeave};
use crate::ids::LaneId;
use crate::pages::table::Tier;
use crate::pressure::Pressure;

/// What a policy sees of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageSummary {
    pub(crate) tier: Tier,
    /// The time that the page's age is counted from, in milliseconds since the epoch.
    pub(crate) newest_ms: i64,
    /// When its last event came. Pressure moves pages in this order.
    pub(crate) arrived_ms: i64,
    /// Whether the cold tier has confirmed it.
    pub(crate) clean: bool,
    /// Whether its lane still writes it.
    pub(crate) open: bool,
}

/// What a policy sees of a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneView {
    pub(crate) lane: LaneId,
    /// The oldest page in memory: the only one that may leave (invariant I2).
    pub(crate) oldest: Option<PageSummary>,
    /// The oldest page that is still hot.
    pub(crate) oldest_hot: Option<PageSummary>,
}

/// What a policy sees of the store.
pub(crate) struct View<'a> {
    pub(crate) config: &'a Config,
    pub(crate) now_ms: i64,
    pub(crate) lanes: &'a [LaneView],
    /// Shares of each region's maximum in use.
    pub(crate) hot_fill: f64,
    pub(crate) warm_fill: f64,
    pub(crate) index_fill: f64,
    pub(crate) numbers_fill: f64,
    /// Whether an attempt to squeeze a page has just failed for lack of warm pages.
    pub(crate) warm_refused: bool,
}

impl View<'_> {
    pub(crate) fn class(&self, lane: LaneId) -> &ClassConfig {
        &self.config.classes[lane.class().index()]
    }

    /// Whether a page may leave memory now, whatever the reason.
    pub(crate) fn may_leave(&self, lane: LaneId, page: &PageSummary) -> bool {
        page.clean || self.class(lane).on_leave == OnLeave::Drop || self.is_expired(lane, page)
    }

    /// Whether every event of a page has reached the end of its retention.
    pub(crate) fn is_expired(&self, lane: LaneId, page: &PageSummary) -> bool {
        let age = self.age(page);
        self.class(lane).retention.is_some_and(|retention| age >= millis(retention))
    }

    /// Milliseconds since the newest event of a page.
    pub(crate) fn age(&self, page: &PageSummary) -> i64 {
        self.now_ms.saturating_sub(page.newest_ms)
    }
}

pub(crate) fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A step that a policy asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Squeeze the lane's oldest hot page into the warm region.
    Demote(LaneId),
    /// Let the lane's oldest page leave memory; if it may not yet, have it spilled.
    Release(LaneId),
}

/// A rule for what to do next. It is asked again after each step.
pub(crate) trait Policy: Send + Sync {
    fn next(&self, view: &View<'_>) -> Option<Action>;
}

/// How short of memory the fullest region is.
pub(crate) fn pressure(config: &Config, fills: [f64; 4]) -> Pressure {
    let fill = fills.into_iter().fold(0.0, f64::max);
    let thresholds = &config.thresholds;
    if fill >= thresholds.reject {
        Pressure::Full
    } else if fill >= thresholds.critical {
        Pressure::Critical
    } else if fill >= thresholds.warning {
        Pressure::Warning
    } else {
        Pressure::Normal
    }
}
