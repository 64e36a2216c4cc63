//! P1: what was acknowledged is found.

use crate::common::{manual, small, two_classes};
use esker::{Appended, Event, Stream};

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
