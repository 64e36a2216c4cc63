//! P1: what was acknowledged is found.

use crate::common::{manual, small, two_classes};
use esker::{Appended, Config, Event, Stream};

#[test]
fn an_event_is_found_in_every_tier() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = two_classes();
    let (store, clock) = manual(small().data_dir(dir.path()).class(a).class(b));
    let payload = |id: u64| vec![id as u8; (id % 700) as usize];
    let count = 30_000u64;
    for id in 1..=count {
        clock.set_ms(1_000_000 + id as i64 * 10);
        let payload = payload(id);
        let event =
            Event::new(Stream::from((id % 50) as u32), id, 1_000_000 + id as i64 * 10, (id % 5) as u8);
        assert_eq!(store.append(&event.payload(&payload)).unwrap(), Appended::Stored, "{id}");
        if id % 1000 == 0 {
            store.maintain().unwrap();
        }
    }
    store.validate().unwrap();
    let stats = store.stats();
    assert!(stats.events.hot > 0 && stats.events.warm > 0 && stats.cold.events > 0, "{stats:#?}");
    for id in 1..=count {
        let event = store.fetch(id).unwrap().unwrap_or_else(|| panic!("{id} is lost"));
        assert_eq!(event.payload(), payload(id));
    }
    for stream in 0..50u32 {
        let ids: Vec<u64> =
            store.fetch_history(Stream::from(stream)).map(|event| event.unwrap().id()).collect();
        let expected: Vec<u64> = (1..=count).rev().filter(|id| id % 50 == u64::from(stream)).collect();
        assert_eq!(ids, expected);
    }
    let ids: Vec<u64> = store.fetch_scan(..).ordered().map(|event| event.unwrap().id()).collect();
    assert_eq!(ids, (1..=count).collect::<Vec<_>>());
    let report = store.close(std::time::Duration::from_secs(10)).unwrap();
    assert_eq!(report.left, 0);
    assert_eq!(report.cold, count);
}

/// What a page has left behind an event of more than 2 MiB is where no address can lead.
#[test]
fn events_after_one_that_is_larger_than_addresses_reach_are_found() {
    let config = Config::builder()
        .memory("256MiB")
        .hot(|hot| hot.max("64MiB").page_size("2MiB"))
        .buffers("32MiB")
        .max_event("3MiB")
        .partitions(1);
    let (store, _) = manual(config);
    let (stream, large) = (Stream::from(5u32), vec![7u8; 5 << 19]);
    let event = |id: u64| Event::new(stream, id, 1_000_000, 0);
    store.append(&event(1).payload(&large)).unwrap();
    for id in 2..50u64 {
        store.append(&event(id).payload(&id.to_le_bytes())).unwrap();
    }
    let batch: Vec<Event<'_>> = (50..100).map(event).collect();
    store.append_batch(&batch).unwrap();
    let guard = store.pin();
    assert_eq!(guard.get(1).unwrap().payload(), large);
    for id in 2..50u64 {
        assert_eq!(guard.get(id).unwrap().payload(), id.to_le_bytes());
    }
    assert_eq!(guard.history(stream).count(), 99);
    drop(guard);
    store.validate().unwrap();
}
