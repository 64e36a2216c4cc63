//! Damaged blocks: an error for what they held, counted, and everything else stays readable.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use esker::{ErrorKind, Event, Store, Stream};

use crate::common::{append_proof, small, verify};
use crate::tier::MapTier;

const EVENTS: u64 = 3_000;
const STREAMS: u64 = 12;

fn open(tier: &std::sync::Arc<MapTier>) -> Store {
    Store::builder(small().background(false).block_bytes("32KiB").build().unwrap())
        .cold(tier.clone())
        .open()
        .unwrap()
}

/// A tier with some dozen blocks, and nothing in memory.
fn filled() -> std::sync::Arc<MapTier> {
    let tier = MapTier::new();
    let store = open(&tier);
    for id in 0..EVENTS {
        let stream = Stream::from((id % STREAMS) as u32);
        append_proof(&store, Event::new(stream, id, id as i64, 0), 50 + (id % 300) as usize);
    }
    store.close(Duration::from_secs(20)).unwrap();
    assert!(tier.ids().len() > 10, "{} blocks", tier.ids().len());
    tier
}

/// What a scan gives: ids, and how many errors.
fn scan(store: &Store) -> (BTreeSet<u64>, usize) {
    let (mut ids, mut errors) = (BTreeSet::new(), 0);
    for event in store.fetch_scan(..) {
        match event {
            Ok(event) => {
                verify(&event);
                assert!(ids.insert(event.id()));
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                errors += 1;
            }
        }
    }
    (ids, errors)
}

/// Damages one block and checks that exactly its events are missed, each by an error.
fn check(damage: impl Fn(&MapTier, usize) -> usize) {
    for victim in 0..3 {
        let tier = filled();
        let victim = [0, tier.ids().len() / 2, tier.ids().len() - 1][victim];
        let bad = damage(&tier, victim);
        let store = open(&tier);
        let (ids, errors) = scan(&store);
        let lost: BTreeSet<u64> = (0..EVENTS).filter(|id| !ids.contains(id)).collect();
        assert_eq!(errors, bad, "one error for each damaged block");
        assert!(!lost.is_empty() && lost.len() < EVENTS as usize / 4, "{} of {EVENTS}", lost.len());
        assert_eq!(store.stats().cold.corrupt_blocks, bad as u64);

        for id in (0..EVENTS).step_by(7) {
            match store.fetch(id) {
                Ok(Some(event)) => verify(&event),
                Ok(None) => panic!("{id} is lost without a word"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                    assert!(lost.contains(&id), "{id} lies in another block");
                }
            }
        }
        let before = store.stats().cold.corrupt_blocks;
        assert!(before > bad as u64, "each try is counted");
        let mut found = BTreeSet::new();
        let mut told = 0;
        for stream in 0..STREAMS {
            let mut last = u64::MAX;
            for event in store.fetch_history(Stream::from(stream as u32)) {
                match event {
                    Ok(event) => {
                        verify(&event);
                        assert!(event.id() < last, "a history is in order on both sides of a damaged block");
                        last = event.id();
                        found.insert(event.id());
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                        told += 1;
                    }
                }
            }
        }
        assert_eq!(found, ids, "histories and scans miss the same");
        assert!(told > 0);
        assert_eq!(store.stats().cold.corrupt_blocks, before + told);
        store.validate().unwrap();
    }
}

#[test]
fn a_flipped_byte_is_an_error_for_its_block_alone() {
    check(|tier, victim| {
        tier.damage(tier.ids()[victim]);
        1
    });
}

#[test]
fn a_lost_block_is_an_error_and_not_an_absence() {
    check(|tier, victim| {
        tier.lose(tier.ids()[victim]);
        1
    });
}

#[test]
fn a_block_in_the_place_of_another_is_not_taken_for_it() {
    check(|tier, victim| {
        let ids = tier.ids();
        tier.misplace(ids[(victim + 1) % ids.len()], ids[victim]);
        1
    });
}

#[test]
fn several_damaged_blocks_are_told_one_by_one() {
    check(|tier, victim| {
        let ids = tier.ids();
        for at in [victim, (victim + 3) % ids.len()] {
            tier.damage(ids[at]);
        }
        2
    });
}

/// A tier that cannot be read just now is no damage, and the same call succeeds later.
#[test]
fn a_tier_that_cannot_be_read_is_told_from_damage() {
    let tier = filled();
    let store = open(&tier);
    tier.reads_fail.store(true, Ordering::SeqCst);
    let error = store.fetch(5).unwrap_err();
    assert!(error.kind() == ErrorKind::Cold && error.is_retryable(), "{error:?}");
    assert!(store.fetch_scan(..).any(|event| event.is_err_and(|error| error.kind() == ErrorKind::Cold)));
    assert!(store.fetch_history(Stream::from(1u32)).all(|event| event.is_err()));
    tier.reads_fail.store(false, Ordering::SeqCst);
    verify(&store.fetch(5).unwrap().unwrap());
    assert_eq!(scan(&store), ((0..EVENTS).collect(), 0));
    assert_eq!(store.stats().cold.corrupt_blocks, 0);
}
