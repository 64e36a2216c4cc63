//! Stores that must go on, whatever comes in which order.

use crate::common::{small, wall_ms};
use crate::tier::{Fault, Healed, MapTier};
use esker::policy::SizeThreshold;
use esker::{ClassConfig, Config, Event, OnLeave, Store, Stream};
use std::time::Duration;

/// A store whose events leave memory after an hour.
fn an_hour() -> Config {
    let hour = Duration::from_secs(3600);
    small()
        .partitions(1)
        .append_timeout(Duration::from_secs(3))
        .class(ClassConfig::new("a").hot_for(hour / 2).warm_for(hour))
        .hot(|hot| hot.max("1MiB").page_size("16KiB"))
        .warm(|warm| warm.max("1MiB"))
        .build()
        .unwrap()
}

fn append(store: &Store, id: u64, at: i64) {
    let payload = [7u8; 300];
    let event = Event::new(Stream::from((id % 23) as u32), id, at, 1).payload(&payload);
    if let Err(error) = store.append(&event) {
        panic!("{id}: {error}\n{:#?}", store.stats().eviction);
    }
}

fn goes_on(policy: bool, live_first: bool) {
    let mut builder = Store::builder(an_hour()).cold(MapTier::new());
    if policy {
        builder = builder.policy(SizeThreshold::new());
    }
    let store = builder.open().unwrap();
    let now = wall_ms();
    for id in 0..40_000u64 {
        let live = live_first && id < 30;
        let at = if live { now } else { now - 2 * 3_600_000 };
        append(&store, id, at);
    }
}

#[test]
fn old_events_behind_new_ones_are_squeezed() {
    goes_on(false, true);
}

#[test]
fn old_events_leave_as_they_are() {
    goes_on(false, false);
}

#[test]
fn old_events_leave_although_no_policy_goes_by_age() {
    goes_on(true, false);
}

#[test]
fn old_events_behind_new_ones_are_squeezed_although_no_policy_goes_by_age() {
    goes_on(true, true);
}

#[test]
fn a_tier_that_hangs_leaves_the_warm_region() {
    let tier = MapTier::new();
    let store = Store::builder(an_hour()).cold(tier.clone()).open().unwrap();
    let _healed = Healed(&tier);
    let at = wall_ms() - 2 * 3_600_000;
    for id in 0..6_000u64 {
        if id == 100 {
            std::thread::sleep(Duration::from_millis(300));
            tier.set(Fault::Block);
        }
        append(&store, id, at);
    }
}

/// Each lane writes a page that is larger than what the quota allows for.
#[test]
fn a_quota_of_large_events_makes_room_for_the_next() {
    let config = small()
        .partitions(2)
        .append_timeout(Duration::from_secs(3))
        .class(ClassConfig::new("a"))
        .class(ClassConfig::new("b").quota(256 << 10).on_leave(OnLeave::Drop))
        .hot(|hot| hot.max("4MiB").page_size("16KiB"))
        .build()
        .unwrap();
    let store = Store::open(config).unwrap();
    let class = store.config().class("b").unwrap();
    let payload = vec![7u8; 256 << 10];
    for id in 0..50u64 {
        let event =
            Event::new(Stream::from((id % 23) as u32), id, wall_ms(), 1).class(class).payload(&payload);
        if let Err(error) = store.append(&event) {
            panic!("{id}: {error}\n{:#?}", store.stats().eviction);
        }
    }
}
