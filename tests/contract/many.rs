//! Far more blocks than the directory of blocks has room for: everything is found, and memory stays bounded.

use std::time::Duration;

use esker::{Event, Store, Stream};

use crate::common::{all_ids, append_proof, verify};

const LONG: Duration = Duration::from_secs(120);
const STREAMS: u64 = 50;
/// Ids have gaps, so that one can ask for what was never there.
const STEP: u64 = 3;

/// `open` gives a store on what is there, with a megabyte of buffers: a directory of some 700 entries.
pub(crate) fn check(open: &dyn Fn() -> Store, events: u64, blocks: u64) {
    let store = open();
    for event in 0..events {
        let stream = Stream::from((event % STREAMS) as u32);
        append_proof(&store, Event::new(stream, event * STEP, event as i64, (event % 7) as u8), 1000);
    }
    store.flush(LONG).unwrap();
    look(&store, events, blocks);
    assert_eq!(store.close(LONG).unwrap().left, 0);
    let store = open();
    look(&store, events, blocks);
    store.close(LONG).unwrap();
}

fn look(store: &Store, events: u64, blocks: u64) {
    let stats = store.stats();
    let buffers = store.config().buffers;
    assert!(stats.cold.blocks >= blocks, "{} blocks are too few to show anything", stats.cold.blocks);
    assert!(stats.buffer_bytes <= buffers, "{} bytes of {buffers}", stats.buffer_bytes);
    assert_eq!(stats.cold.events, events);
    assert!(
        all_ids(store) == (0..events).map(|event| event * STEP).collect::<Vec<_>>(),
        "not what was appended"
    );
    for id in (0..events * STEP).step_by(997) {
        let found = store.fetch(id).unwrap();
        assert_eq!(found.as_ref().map(|event| event.id()), (id % STEP == 0).then_some(id));
        found.iter().for_each(verify);
    }
    let history: Vec<u64> =
        store.fetch_history(Stream::from(7)).map(|event| event.unwrap().timestamp() as u64).collect();
    let expected: Vec<u64> = (0..events).filter(|event| event % STREAMS == 7).rev().collect();
    assert!(history == expected, "the history has {} events, not {}", history.len(), expected.len());
    let range = events as i64 / 3..events as i64 / 3 + 500;
    let ordered: Vec<i64> =
        store.fetch_scan(range.clone()).ordered().map(|event| event.unwrap().timestamp()).collect();
    assert!(ordered == range.collect::<Vec<_>>(), "{} events of the range", ordered.len());
    store.validate().unwrap();
    assert!(store.stats().buffer_bytes <= buffers);
}
