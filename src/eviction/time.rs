//! The time windows of classes: hot, then warm, then gone.

use crate::eviction::{Plan, Policy, View, millis};
use crate::pressure::RegionKind;

/// Moves what has reached the age that its class's configuration names: into the warm region at
/// [`ClassConfig::hot_for`](crate::ClassConfig), out of memory at `warm_for`, and away at the end of `retention`.
///
/// While the warm region is short of room, what goes there is a question of pressure, not of age. Where reads are
/// recorded, a page stays hot until `hot_for` after the read before its last one.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeWindow;

impl TimeWindow {
    /// The windows that the classes' configurations name.
    pub fn new() -> Self {
        Self
    }
}

impl Policy for TimeWindow {
    fn plan(&mut self, view: &View<'_>, plan: &mut Plan) {
        plan.set_patient(true);
        let warm = view.region(RegionKind::Warm);
        let limit = warm.max as f64 * view.config().thresholds.warning;
        let lanes = view.lanes();
        // Another lane is first in each step, so that none has to wait for all others.
        for at in (0..lanes.len()).map(|at| (at + view.step() as usize) % lanes.len()) {
            let (lane, class) = (&lanes[at], view.class_config(lanes[at].class));
            let (hot_for, warm_for) = (millis(class.hot_for), millis(class.warm_for));
            let mut next = lane.oldest;
            while let Some(page) = next.filter(|page| page.expired || view.age_ms(page) >= warm_for) {
                if !page.may_leave {
                    // Some time later it is written although it does not fill a block.
                    if !lane.spill_asked && !view.is_fresh(&page) {
                        plan.spill(&page);
                    }
                    break;
                }
                if !plan.release(&page) {
                    break;
                }
                next = view.newer(&page);
            }
            if !class.compress || view.warm_is_full() {
                continue;
            }
            next = lane.oldest_hot;
            let hot_age = |page: &crate::eviction::PageSummary| {
                let since = page.read_before_ms.unwrap_or(i64::MIN).max(page.newest_ms);
                view.now_ms().saturating_sub(since)
            };
            while let Some(page) = next.filter(|page| hot_age(page) >= hot_for) {
                let room = (warm.used as i64 - plan.freed(RegionKind::Warm)) as f64 <= limit;
                let stays = view.goes_unpacked(&page) || page.open && view.is_fresh(&page);
                let goes = plan.has(&page) || !stays && room && plan.demote(&page);
                if !goes {
                    break;
                }
                next = view.newer_hot(&page);
            }
            if plan.is_full() {
                break;
            }
        }
        plan.set_patient(false);
    }
}
