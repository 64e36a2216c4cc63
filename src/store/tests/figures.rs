//! Figures that are told, and nothing goes by.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::faults::{Tier, small};
use super::*;
use crate::tiers::reader::TOMBSTONE_BYTES;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn buffers_are_what_the_tier_its_blocks_and_the_notes_of_removals_take() {
    let dir = tempfile::tempdir().unwrap();
    let tier = Tier::new(dir.path());
    let store = Store::builder(small(false)).cold(tier.clone()).open().unwrap();
    append(&store, "default", 0..60);
    store.flush(LIMIT).unwrap();
    let cold = store.core.cold.as_ref().unwrap();
    let before = store.stats().buffer_bytes;
    assert_eq!((cold.memory(), cold.tier.memory_bytes()), (0, 0));
    tier.memory.store(123_456, Ordering::SeqCst);
    assert_eq!(store.stats().buffer_bytes, before + 123_456);
    let lane = store.core.lanes.lanes().next().unwrap().id;
    let blocks = cold.directory.blocks(lane, u64::MAX, |_| true);
    let load = |at: usize| cold.load(blocks[at].id, Deadline::after(LIMIT)).unwrap().unwrap().memory();
    let cached = load(0) + load(1);
    assert!(cached > 0 && cold.memory() == cached, "{cached}");
    assert!((0..3).all(|id| store.remove(id).unwrap()));
    assert_eq!(cold.memory(), cached + 3 * TOMBSTONE_BYTES);
    assert_eq!(store.stats().buffer_bytes, before + 123_456 + cold.memory() as u64);
}

#[test]
fn how_long_a_tier_has_not_answered_or_has_failed_is_told() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(0));
    let tier = Tier::new(dir.path());
    let store = Store::builder(small(false)).cold(tier.clone()).clock(clock.clone()).open().unwrap();
    append(&store, "default", 0..60);
    let (core, time, seconds) = (store.core.clone(), clock.clone(), Duration::from_secs);
    let put = move || {
        let trouble = |limit| core.spiller.trouble(time.clone().of_store(false).instant(), limit);
        assert_eq!(trouble(seconds(0)), None, "it was asked just now");
        time.set_ms(time.now_ms() + 10_000);
        assert_eq!(trouble(seconds(9)), Some((seconds(10), None)));
        assert_eq!(trouble(seconds(10)), None, "no longer than the limit");
        Err(crate::error::Error::cold("for a test", std::io::Error::other("told to fail")))
    };
    *tier.on_put.lock() = Some(Arc::new(put));
    store.core.spill(true).unwrap_err();
    *tier.on_put.lock() = None;
    let instant = || clock.clone().of_store(false).instant();
    let hangs = || store.core.spiller.hangs(instant(), seconds(0));
    let failing = || store.core.spiller.trouble(instant(), seconds(0));
    assert_eq!(hangs(), None, "it has answered");
    let (since, text) = failing().unwrap();
    assert!(since == seconds(10) && text.unwrap().contains("for a test"), "{since:?}");
    clock.set_ms(clock.now_ms() + 5_000);
    assert_eq!(failing().unwrap().0, seconds(15));
    assert!(store.core.spill(true).unwrap() > 0);
    assert_eq!((failing(), hangs()), (None, None));
}

#[test]
fn an_event_at_the_end_of_its_retention_is_not_spilled_and_one_after_it_is() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(0));
    let class = ClassConfig::new("a").retention(Duration::from_millis(5_000));
    let config = Config::builder().memory("32MiB").partitions(1).class(class).background(false);
    let tier = Tier::new(dir.path());
    let store = Store::builder(config.build().unwrap()).cold(tier).clock(clock.clone()).open().unwrap();
    for id in 0..4 {
        store.append(&Event::new(Stream::from(1u32), id, id as i64, 0)).unwrap();
    }
    clock.set_ms(5_001);
    assert_eq!(store.pin().scan(..).count(), 2, "those that came later than the end");
    store.flush(LIMIT).unwrap();
    assert_eq!(store.stats().cold.events, 2);
}
