//! Events with checksums of their own: what is altered in memory, or in the files that are the memory, is told and not given.

use std::path::{Path, PathBuf};
use std::time::Duration;

use esker::{ClassConfig, Clock, ConfigBuilder, Durability, ErrorKind, Event, Store, Stream};

use crate::common::{Random, append_proof, manual, proof, small, verify};
use crate::kept::{append_some, open};

const EVENTS: u64 = 1_500;

fn config(dir: &Path) -> ConfigBuilder {
    let config = small().durability(Durability::Process).shared_dir(dir.join("shared")).background(false);
    config.event_checksums(true).hot(|hot| hot.max("2MiB").page_size("8KiB"))
}

/// An event with everything that a record can have.
fn event<'a>(id: u64, pairs: &'a [(&'a str, &'a str)], payload: &'a [u8]) -> Event<'a> {
    let event =
        Event::new(Stream::from((id % 7) as u32), id, 1_000_000 + id as i64, id as u8).payload(payload);
    let event = if id.is_multiple_of(3) { event.metadata(pairs) } else { event };
    if id.is_multiple_of(4) { event.ttl(Duration::from_secs(3600)) } else { event }
}

#[test]
fn events_with_checksums_come_back_as_they_were_from_every_tier() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = manual(small().event_checksums(true).data_dir(dir.path()));
    let pairs = [("cell", "A7"), ("", "nothing")];
    let bytes: Vec<u8> = (0..4000u32).map(|at| (at * 7) as u8).collect();
    let payload = |id: u64| &bytes[..(id as usize * 13) % 600];
    let check = |store: &Store, what: &str| {
        for id in 0..400 {
            let guard = store.pin();
            let found =
                guard.get(id).or_else(|| store.fetch(id).unwrap()).unwrap_or_else(|| panic!("{what}: {id}"));
            assert_eq!(found.payload(), payload(id), "{what}: {id}");
            let expected = if id.is_multiple_of(3) { &pairs[..] } else { &[] };
            let expected = expected.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
            assert!(found.metadata().eq(expected), "{what}: {id}");
            assert_eq!(found.expires_at().is_some(), id.is_multiple_of(4), "{what}: {id}");
            let pairs_len = if id.is_multiple_of(3) { 18 } else { 0 };
            assert_eq!(found.header().body_len as usize, payload(id).len() + pairs_len, "{what}: {id}");
        }
        assert_eq!(store.fetch_scan(..).map(Result::unwrap).count(), 400, "{what}");
        let of = |stream| store.fetch_history(Stream::from(stream)).map(Result::unwrap).count();
        assert_eq!((0..7).map(of).sum::<usize>(), 400, "{what}");
    };
    for id in 0..200 {
        store.append(&event(id, &pairs, payload(id))).unwrap();
    }
    let parts: Vec<Event<'_>> = (200..400).map(|id| event(id, &pairs, payload(id))).collect();
    store.append_batch(&parts).unwrap().all_accepted().unwrap();
    check(&store, "hot");
    clock.set_ms(clock.now_ms() + 3 * 3_600_000);
    clock.set_ms(1_000_000);
    store.flush(Duration::from_secs(60)).unwrap();
    check(&store, "hot and cold");
    store.close(Duration::from_secs(60)).unwrap();
    drop(store);
    // What is in the cold tier is summed up by blocks, and needs no setting.
    let config = small().data_dir(dir.path()).background(false).build().unwrap();
    let store = Store::builder(config).clock(clock.clone()).open().unwrap();
    check(&store, "cold");
    assert_eq!(store.stats().events.corrupt_events, 0);
}

#[test]
fn the_setting_may_change_between_openings() {
    let dir = tempfile::tempdir().unwrap();
    for (round, sums) in [false, true, false, true].into_iter().enumerate() {
        let store = open(config(dir.path()).event_checksums(sums)).unwrap();
        let before = round as u64 * 100;
        assert!(store.recovered().is_none_or(|found| found.is_whole() && found.events == before));
        append_some(&store, before..before + 100);
        let guard = store.pin();
        assert_eq!(guard.scan(..).inspect(verify).count() as u64, before + 100);
        assert!((0..before + 100).all(|id| guard.try_get(id).unwrap().is_some()));
        store.validate().unwrap();
        drop(guard);
        store.abandon();
    }
}

/// Alters bytes of the file that the hot pages of a running store are in.
#[cfg(unix)]
fn alter(file: &Path, event: u64, at: i64, bits: u8) {
    use std::os::unix::fs::FileExt;
    let (hot, proof) = (std::fs::read(file).unwrap(), proof(Stream::from((event % 7) as u32), event, 0, 200));
    let found: Vec<usize> =
        hot.windows(40).enumerate().filter(|(_, bytes)| *bytes == &proof[..40]).map(|(at, _)| at).collect();
    assert_eq!(found.len(), 1, "event {event} is there once");
    let place = (found[0] as i64 + at) as u64;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ bits], place).unwrap();
}

#[test]
#[cfg(unix)]
fn an_altered_event_is_told_wherever_it_is_read() {
    for sums in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let config = || config(dir.path()).event_checksums(sums).data_dir(dir.path().join("data"));
        let store = open(config()).unwrap();
        for id in 0..300 {
            append_proof(&store, Event::new(Stream::from((id % 7) as u32), id, 0, 0), 200);
        }
        // A byte of the payload, one of the flags, and the one that says that there is a sum.
        for (id, at, bits) in [(8, 100, 4), (9, -20, 4), (10, -17, if sums { 0x80 } else { 0 })] {
            alter(&dir.path().join("shared/hot"), id, at, bits);
        }
        if !sums {
            // The reason for having them.
            assert_ne!(store.pin().get(8).unwrap().payload(), proof(Stream::from(1u32), 8, 0, 200));
            continue;
        }
        let ids: Vec<u64> = (0..300).collect();
        let guard = store.pin();
        let is_altered = |id: u64| (8..=10).contains(&id);
        for id in 0..300 {
            let kind = guard.try_get(id).map(|found| found.is_some()).map_err(|error| error.kind());
            assert_eq!(kind, if is_altered(id) { Err(ErrorKind::Corrupt) } else { Ok(true) }, "{id}");
            assert_eq!(guard.get(id).is_none(), is_altered(id));
            let kind = store.fetch(id).map(|found| found.is_some()).map_err(|error| error.kind());
            assert_eq!(kind, if is_altered(id) { Err(ErrorKind::Corrupt) } else { Ok(true) }, "{id}");
        }
        let batch = guard.get_batch(&ids);
        assert!((0..300).all(|id| batch[id as usize].is_none() == is_altered(id)));
        assert_eq!(guard.scan(..).inspect(verify).count(), 297);
        assert_eq!(guard.scan(..).ordered().inspect(verify).count(), 297);
        let history = |stream| guard.history(Stream::from(stream)).inspect(verify).count();
        assert_eq!((0..7).map(history).sum::<usize>(), 297);
        let (whole, told): (Vec<_>, Vec<_>) = store.fetch_scan(..).partition(Result::is_ok);
        // One error for each page.
        assert!(whole.len() == 297 && (1..=3).contains(&told.len()), "{told:?}");
        let all = (0..7).flat_map(|stream| store.fetch_history(Stream::from(stream)));
        let (whole, told): (Vec<_>, Vec<_>) = all.partition(Result::is_ok);
        assert_eq!((whole.len(), told.len()), (297, 3));
        assert!(told.into_iter().all(|error| error.unwrap_err().kind() == ErrorKind::Corrupt));
        assert!(store.stats().events.corrupt_events >= 3 * 8);
        drop(batch);
        drop(guard);
        // They are not carried into the cold tier, and not taken over.
        store.abandon();
        let store = open(config()).unwrap();
        let found = store.recovered().unwrap();
        assert_eq!((found.events, found.lost_events), (297, 3), "{found:?}");
        assert_eq!(store.pin().scan(..).inspect(verify).count(), 297);
        assert!((0..300).all(|id| store.pin().get(id).is_none() == is_altered(id)));
        store.validate().unwrap();
        alter(&dir.path().join("shared/hot"), 20, 100, 1);
        store.flush(Duration::from_secs(60)).unwrap();
        assert_eq!((store.stats().cold.events, store.stats().cold.lost_to_damage), (296, 1));
    }
}

/// The last byte of the length of a body, counted from the payload behind it; and the first.
#[cfg(unix)]
const LENGTH: [i64; 2] = [-21, -24];

#[cfg(unix)]
fn of(id: u64) -> Stream {
    Stream::from((id % 7) as u32)
}

/// A store with 300 events in its hot pages.
#[cfg(unix)]
fn with_events(config: ConfigBuilder, clock: &Clock, id_of: impl Fn(u64) -> u64) -> Store {
    let store = Store::builder(config.build().unwrap()).clock(clock.clone()).open().unwrap();
    for id in (0..300).map(id_of) {
        append_proof(&store, Event::new(of(id), id, 0, 0), 200);
    }
    store
}

#[test]
#[cfg(unix)]
fn a_length_beyond_its_page_is_an_error_and_no_panic() {
    for sums in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (config, clock) = (config(dir.path()).event_checksums(sums), Clock::manual(1_000_000));
        let store = with_events(config, &clock, |n| n);
        alter(&dir.path().join("shared/hot"), 8, LENGTH[0], 0x40);
        let guard = store.pin();
        assert_eq!(guard.try_get(8).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(store.stats().events.corrupt_events, 1);
        assert_eq!(store.fetch(8).unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(guard.get(8).is_none() && guard.get_batch(&[8])[0].is_none());
        assert!((0..300).filter(|id| *id != 8).all(|id| guard.get(id).is_some()));
        let history = |stream| guard.history(Stream::from(stream)).inspect(verify).count();
        assert_eq!((0..7).map(history).sum::<usize>(), 299);
        drop(guard);
        store.abandon();
    }
}

#[test]
#[cfg(unix)]
fn a_damaged_length_costs_its_own_event_and_no_other() {
    // A length beyond the page; one that ends 8 bytes early; one that leads past the next record.
    for (at, bits) in [(LENGTH[0], 0x40), (LENGTH[1], 8), (LENGTH[1] + 1, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path()).data_dir(dir.path().join("data"));
        let store = with_events(config, &Clock::manual(1_000_000), |n| n);
        alter(&dir.path().join("shared/hot"), 40, at, bits);
        let guard = store.pin();
        assert_eq!(guard.scan(..).inspect(verify).count(), 299, "{at}");
        assert_eq!(guard.scan(..).ordered().inspect(verify).count(), 299, "{at}");
        drop(guard);
        let (whole, told): (Vec<_>, Vec<_>) = store.fetch_scan(..).partition(Result::is_ok);
        assert_eq!((whole.len(), told.len()), (299, 1), "{at}: {told:?}");
        whole.iter().for_each(|event| verify(event.as_ref().unwrap()));
        assert!(store.stats().events.corrupt_events > 0);
        store.flush(Duration::from_secs(60)).unwrap();
        assert_eq!((store.stats().cold.events, store.stats().cold.lost_to_damage), (299, 1), "{at}");
        store.close(Duration::from_secs(60)).unwrap();
    }
}

#[test]
#[cfg(unix)]
fn an_opening_that_builds_anew_makes_up_no_event_of_a_damaged_length() {
    for (at, bits) in [(LENGTH[0], 0x40), (LENGTH[1], 8), (LENGTH[1] + 1, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let store = with_events(config(dir.path()), &Clock::manual(1_000_000), |n| n);
        alter(&dir.path().join("shared/hot"), 40, at, bits);
        store.abandon();
        let store = open(config(dir.path())).unwrap();
        let found = store.recovered().unwrap();
        assert_eq!((found.events, found.lost_events), (299, 1), "{at}: {found:?}");
        let guard = store.pin();
        assert_eq!(guard.scan(..).inspect(verify).count(), 299, "{at}");
        assert!((0..300).all(|id| guard.get(id).inspect(verify).is_none() == (id == 40)), "{at}");
        store.validate().unwrap();
        drop(guard);
        store.abandon();
    }
}

#[test]
#[cfg(unix)]
fn no_entry_is_left_behind_of_a_page_with_a_damaged_length() {
    for sums in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (config, clock) = (config(dir.path()).event_checksums(sums), Clock::manual(1_000_000));
        let class =
            ClassConfig::new("all").hot_for(Duration::from_secs(10)).warm_for(Duration::from_secs(20));
        let config = config.class(class).data_dir(dir.path().join("data"));
        let store = with_events(config, &clock, |n| n);
        alter(&dir.path().join("shared/hot"), 8, LENGTH[0], 0x40);
        store.flush(Duration::from_secs(60)).unwrap();
        for round in 0..4 {
            clock.set_ms(clock.now_ms() + 60_000);
            store.maintain().unwrap();
            for id in (0..300).map(|n| 1_000_000 + round * 1000 + n) {
                append_proof(&store, Event::new(of(id), id, clock.now_ms(), 0), 77 + (id % 50) as usize);
            }
        }
        store.validate().unwrap();
        assert!((0..300).all(|id| store.pin().try_get(id).unwrap().is_none()));
        let cold = store.stats().cold;
        let old = store.fetch_scan(..=1_000_000).map(Result::unwrap).inspect(verify).count() as u64;
        assert_eq!(old + cold.lost_to_damage, 300);
        assert!(if sums { old == 299 } else { old < 299 }, "{old}");
        store.close(Duration::from_secs(60)).unwrap();
    }
}

#[test]
#[cfg(unix)]
fn an_event_whose_id_is_damaged_is_told_in_either_index() {
    let sparse = |n: u64| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8;
    for id_of in [sparse, |n| n] {
        let dir = tempfile::tempdir().unwrap();
        let store = with_events(config(dir.path()), &Clock::manual(1_000_000), id_of);
        alter(&dir.path().join("shared/hot"), id_of(17), -32, 1);
        assert_eq!(store.pin().try_get(id_of(17)).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(store.fetch(id_of(17)).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(store.stats().events.corrupt_events, 2);
        store.abandon();
    }
}

/// What a spill meets on a page adds up, whichever of its events it is, and how many.
#[test]
#[cfg(unix)]
fn a_spill_counts_all_events_that_damage_has_cost() {
    // Two of a page; all of a page and more; one that had been removed. Payloads are what is altered.
    for (damaged, removed, lost) in [(8..10, None, 2), (0..40, None, 40), (8..9, Some(8), 0)] {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path()).partitions(1).data_dir(dir.path().join("data"));
        let store = with_events(config, &Clock::manual(1_000_000), |n| n);
        removed.into_iter().for_each(|id| assert!(store.remove(id).unwrap()));
        damaged.clone().for_each(|id| alter(&dir.path().join("shared/hot"), id, 60, 1));
        store.flush(Duration::from_secs(60)).unwrap();
        let cold = store.stats().cold;
        let left = 300 - lost - removed.iter().len() as u64;
        assert_eq!((cold.events, cold.lost_to_damage), (left, lost), "{damaged:?}: {cold:?}");
        assert_eq!(cold.last_error.is_some(), lost > 0, "{:?}", cold.last_error);
        store.close(Duration::from_secs(60)).unwrap();
    }
    // Where nothing sums them up, a length may lead past an event to the one behind it.
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path()).partitions(1).event_checksums(false).data_dir(dir.path().join("data"));
    let store = with_events(config, &Clock::manual(1_000_000), |n| n);
    let longer = 200u32 ^ (200 + 240);
    for (at, bits) in (LENGTH[1]..).zip(longer.to_le_bytes()) {
        alter(&dir.path().join("shared/hot"), 8, at, bits);
    }
    store.flush(Duration::from_secs(60)).unwrap();
    let cold = store.stats().cold;
    assert_eq!((cold.events, cold.lost_to_damage), (299, 1), "{cold:?}");
    store.close(Duration::from_secs(60)).unwrap();
}

#[test]
#[cfg(unix)]
fn a_damaged_time_is_not_taken_for_the_end_of_an_event() {
    let dir = tempfile::tempdir().unwrap();
    let class = ClassConfig::new("all").retention(Duration::from_secs(2000));
    let config = config(dir.path()).class(class).data_dir(dir.path().join("data"));
    let store = with_events(config, &Clock::manual(1_000_000), |n| n);
    alter(&dir.path().join("shared/hot"), 8, -33, 0x80);
    store.flush(Duration::from_secs(60)).unwrap();
    assert_eq!((store.stats().cold.events, store.stats().cold.lost_to_damage), (299, 1));
    store.close(Duration::from_secs(60)).unwrap();
}

#[test]
#[cfg(unix)]
fn where_an_event_in_memory_is_damaged_its_copy_in_the_cold_tier_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path()).data_dir(dir.path().join("data"));
    let store = with_events(config, &Clock::manual(1_000_000), |n| n);
    store.flush(Duration::from_secs(60)).unwrap();
    alter(&dir.path().join("shared/hot"), 1, 100, 4);
    verify(&store.fetch(1).unwrap().unwrap());
    let (whole, told): (Vec<_>, Vec<_>) = store.fetch_history(of(1)).partition(Result::is_ok);
    assert_eq!((whole.len(), told.len()), ((0..300).filter(|id| of(*id) == of(1)).count(), 1));
    assert_eq!(whole.last().unwrap().as_ref().unwrap().id(), 1);
    store.close(Duration::from_secs(60)).unwrap();
}

fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path())).unwrap();
    append_some(&store, 0..EVENTS);
    store.abandon();
    dir
}

fn copy(from: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    for entry in std::fs::read_dir(from.join("shared")).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), shared.join(entry.file_name())).unwrap();
    }
    (dir, shared)
}

#[test]
fn whatever_bits_flip_in_hot_pages_no_altered_event_is_given() {
    let whole = filled();
    let rounds = if cfg!(debug_assertions) { 15 } else { 300 };
    let mut random = Random::new(0x5eed_0107);
    let (mut missing, mut told) = (0, 0);
    for round in 0..rounds {
        let (dir, shared) = copy(whole.path());
        let mut bytes = std::fs::read(shared.join("hot")).unwrap();
        for _ in 0..1 + random.below(8) {
            let at = loop {
                let at = random.below(bytes.len() as u64) as usize;
                if bytes[at] != 0 {
                    break at;
                }
            };
            bytes[at] ^= 1 << random.below(8);
        }
        std::fs::write(shared.join("hot"), &bytes).unwrap();
        let store = open(config(dir.path())).unwrap();
        store.validate().unwrap();
        let guard = store.pin();
        let found = guard.scan(..).inspect(verify).count() as u64;
        let got = (0..EVENTS).filter(|id| guard.get(*id).inspect(verify).is_some()).count() as u64;
        let of = |stream| guard.history(Stream::from(stream)).inspect(verify).count() as u64;
        let named = guard.history(store.stream("named").unwrap()).inspect(verify).count() as u64;
        assert_eq!((found, got), (got, (0..9).map(of).sum::<u64>() + named), "round {round}");
        let recovered = store.recovered().unwrap();
        assert!(found == EVENTS || recovered.lost_events > 0, "round {round}: {found} events, {recovered:?}");
        missing += EVENTS - found;
        told += u64::from(!recovered.is_whole());
        drop(guard);
        store.abandon();
    }
    println!("{missing} events missing in {rounds} rounds, of which {told} were told");
    assert!(missing > 0);
}
