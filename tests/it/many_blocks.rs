//! A cold tier of so many blocks that not each has an entry of its own in memory.

use std::path::Path;
use std::time::Duration;

use esker::{ClassConfig, Clock, Config, ConfigBuilder, Event, Store, Stream};

use crate::common::append_proof;
use crate::contract::many;

/// A directory of some 700 entries, and blocks of a few events.
fn config(dir: &Path) -> ConfigBuilder {
    Config::builder()
        .memory("8MiB")
        .buffers("1MiB")
        .partitions(2)
        .hot(|hot| hot.page_size("4KiB"))
        .block_bytes("16KiB")
        .data_dir(dir)
}

#[test]
fn a_file_of_more_blocks_than_there_is_room_for_is_read_in_full() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(config(dir.path()).background(false).build().unwrap()).unwrap();
    many::check(&open, 16_000, 850);
}

#[test]
fn folded_blocks_expire() {
    let dir = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let class = ClassConfig::new("a").hot_for(Duration::ZERO).warm_for(Duration::ZERO).retention(hour);
    let clock = Clock::manual(1_000_000);
    let config = config(dir.path()).class(class).background(false).build().unwrap();
    let store = Store::builder(config).clock(clock.clone()).open().unwrap();
    for id in 0..16_000 {
        append_proof(&store, Event::new(Stream::from(1), id, 1_000_000, 0), 1000);
    }
    store.flush(Duration::from_secs(60)).unwrap();
    let blocks = store.stats().cold.blocks;
    assert!(blocks > 850, "{blocks} blocks");
    clock.set_ms(1_000_000 + 3_600_000);
    store.maintain().unwrap();
    let cold = store.stats().cold;
    assert_eq!((cold.blocks, cold.events), (0, 0), "{cold:?}");
    assert!(store.fetch_scan(..).next().is_none());
    store.validate().unwrap();
    store.close(Duration::from_secs(20)).unwrap();
}

/// With a filter of ten bits for each id and stream there was no room for a quarter of these blocks', and each fetch looked
/// into a block of each partition.
#[test]
fn a_fetch_of_an_id_in_sequence_looks_into_one_block() {
    const EVENTS: u64 = 115_000;
    let dir = tempfile::tempdir().unwrap();
    let config = || config(dir.path()).partitions(4).background(false).build().unwrap();
    let store = Store::open(config()).unwrap();
    for id in 0..EVENTS {
        append_proof(&store, Event::new(Stream::from((id % 50) as u32), id, id as i64, 0), 60);
    }
    store.close(Duration::from_secs(60)).unwrap();
    let store = Store::open(config()).unwrap();
    let looks = || {
        let cold = store.stats().cold;
        cold.loads + cold.cache_hits
    };
    let (blocks, before) = (store.stats().cold.blocks, looks());
    assert!(blocks > 500, "{blocks} blocks are too few to show anything");
    let ids: Vec<u64> = (0..EVENTS).step_by(397).collect();
    ids.iter().for_each(|id| assert!(store.fetch(*id).unwrap().is_some()));
    assert_eq!(looks() - before, ids.len() as u64, "looks into {blocks} blocks");
    store.close(Duration::from_secs(20)).unwrap();
}
