//! What the cold tier has confirmed is found after a loss of power and after damage, whatever lies before it.

use std::path::Path;
use std::time::Duration;

use esker::{ClassConfig, Clock, Config, DiskSync, Durability, Event, Store, Stream};

const EVENTS: u64 = 90;

fn open(clock: &Clock, dir: &Path, durability: Durability) -> Store {
    let class =
        ClassConfig::new("only").hot_for(Duration::from_secs(5)).warm_for(Duration::from_secs(100_000));
    let config = Config::builder()
        .memory("8MiB")
        .hot(|hot| hot.max("1MiB").page_size("4KiB"))
        .warm(|warm| warm.max("1MiB"))
        .partitions(1)
        .block_bytes("16KiB")
        .class(class)
        .background(false)
        .durability(durability)
        .data_dir(dir.join("data"))
        .shared_dir(dir.join("shared"));
    Store::builder(config.build().unwrap()).clock(clock.clone()).open().unwrap()
}

/// 900 bytes that do not get smaller by packing.
fn noise(id: u64) -> Vec<u8> {
    let mut state = id * 7919 + 13;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..900).map(next).collect()
}

fn found(store: &Store) -> Vec<u64> {
    (0..EVENTS).filter(|id| store.fetch(*id).unwrap().is_some()).collect()
}

fn flush(store: &Store) {
    store.flush(Duration::from_secs(60)).unwrap();
}

/// Pages whose events have all expired by themselves give no block. The log has them, and must not take the blocks behind that gap
/// for such as were never confirmed.
#[test]
fn blocks_behind_a_page_that_needed_none_are_found_after_a_loss_of_power() {
    let (clock, dir) = (Clock::manual(1000), tempfile::tempdir().unwrap());
    let open = || open(&clock, dir.path(), Durability::Disk(DiskSync::Interval(Duration::from_secs(60))));
    let store = open();
    let append = |id: u64, at: i64, expires: bool| {
        let payload = noise(id);
        let event = Event::new(Stream::from(9u32), id, at, 0).payload(&payload);
        store.append(&if expires { event.expires_at(2000) } else { event }).unwrap();
    };
    (0..40).for_each(|id| append(id, 1000, true));
    store.sync().unwrap();
    clock.set_ms(5000);
    (40..EVENTS).for_each(|id| append(id, 5000, false));
    flush(&store);
    let before = found(&store);
    assert_eq!(before, (40..EVENTS).collect::<Vec<_>>());
    store.abandon();
    std::fs::remove_dir_all(dir.path().join("shared")).unwrap();
    let store = open();
    assert_eq!(found(&store), before, "after the loss");
    flush(&store);
    assert_eq!(found(&store), before, "after what came back was written again");
}

/// A page of which the table's entry is damaged is let go. The cold tier's copy is good, and stays.
#[test]
fn a_damaged_entry_costs_nothing_that_the_tier_has_confirmed() {
    let (clock, dir) = (Clock::manual(1000), tempfile::tempdir().unwrap());
    let open = || open(&clock, dir.path(), Durability::Process);
    let store = open();
    for id in 0..EVENTS {
        let event = Event::new(Stream::from(9u32), id, 5000, 0);
        store.append(&event.payload(&vec![id as u8; 900])).unwrap();
    }
    flush(&store);
    let all: Vec<u64> = (0..EVENTS).collect();
    assert_eq!(found(&store), all);
    store.abandon();
    let table = dir.path().join("shared/table");
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[10 * 256..][..64].iter_mut().for_each(|byte| *byte ^= 0x5a);
    std::fs::write(&table, bytes).unwrap();
    let store = open();
    assert!(store.recovered().unwrap().lost_pages > 0, "{:?}", store.recovered());
    assert_eq!(found(&store), all, "after the damage");
    flush(&store);
    assert_eq!(found(&store), all, "after a flush");
    store.abandon();
    let store = open();
    assert_eq!(found(&store), all, "after another end");
    clock.set_ms(200_000_000);
    (0..50).for_each(|_| store.maintain().unwrap());
    assert_eq!(found(&store), all, "after everything has left memory");
    assert_eq!(store.fetch_scan(..).map(Result::unwrap).count(), all.len());
}
