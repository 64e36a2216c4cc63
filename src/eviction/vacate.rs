//! Moving pages off the frames that a region is to lose.
//!
//! A page moves as it does when it is squeezed: its bytes are copied, then one word of the page table is swung, and the
//! old frames are freed after their readers. Only the mover may do it, so each function here wants its notes.

use std::time::{Duration, Instant};

use crate::clock;
use crate::eviction::engine::Engine;
use crate::lanes::append::Lanes;
use crate::lanes::partition::Partition;
use crate::pages::table::Tier;

/// Moves pages of a tier that lie on frames at or above `frame` to free ones below, for so long. A page that is being
/// written is sealed first. How many were moved.
pub(crate) fn vacate(_mover: &mut Engine, lanes: &Lanes, tier: Tier, frame: u32, limit: Duration) -> u64 {
    let (begin, mut moved) = (clock::now(), 0);
    for page in lanes.pages.pages_above(tier, frame) {
        let pin = lanes.pin();
        let lane = lanes.pages.meta(page).lane();
        lanes.partitions[lane.partition()].seal_page(lane.class(), page);
        moved += u64::from(lanes.pages.relocate(&pin, page));
        if Instant::elapsed(&begin) >= limit {
            break;
        }
    }
    // What was let go must not wait in this thread's bag, which may be the last thing that it does for the store.
    lanes.pin().flush();
    moved
}

/// Index pages that are moved while appends wait: copying them takes a few dozen microseconds.
const INDEX_PAGES: usize = 8;

/// Moves some index pages at or above `page` to free ones below. How many.
pub(crate) fn vacate_index(_mover: &mut Engine, lanes: &Lanes, page: u32) -> u64 {
    let pin = lanes.pin();
    // An id that is announced is published under the same hold of its partition's lock.
    let writers: Vec<_> = lanes.partitions.iter().map(Partition::lock).collect();
    let mut moved = lanes.index.vacate(page, INDEX_PAGES);
    for partition in &lanes.partitions {
        moved += partition.streams.vacate(page, INDEX_PAGES.saturating_sub(moved));
    }
    drop(writers);
    pin.flush();
    moved as u64
}
