//! Tests of a whole store that look at what only the inside can see.

mod extremes;
mod faults;
mod figures;
mod moments;
mod small_index;
mod tables;

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, Deadline};
use crate::config::{ClassConfig, Config, DiskSync, Durability, OnLeave};
use crate::error::{ErrorKind, Result};
use crate::event::Event;
use crate::ids::{Addr, LogicalPage, Stream};
use crate::store::Store;

/// What tests have done at points of the store's own code, once each.
#[derive(Default)]
pub(crate) struct Hooks(Mutex<HashMap<&'static str, Vec<Hook>>>);

type Hook = Box<dyn FnOnce() + Send>;

impl Hooks {
    pub(crate) fn add(&self, point: &'static str, hook: impl FnOnce() + Send + 'static) {
        self.0.lock().entry(point).or_default().push(Box::new(hook));
    }

    pub(crate) fn call(&self, point: &'static str) {
        let hook = self.0.lock().get_mut(point).and_then(Vec::pop);
        if let Some(hook) = hook {
            hook();
        }
    }
}

/// Bytes that no other memory has.
const SECRET: &[u8] = b"the seven of diamonds, face down";

/// A store of the class `vault` and another, which both drop what is a minute old.
fn open(sensitive: bool) -> (Store, Clock) {
    let clock = Clock::manual(0);
    let class = |name: &str| {
        let class = ClassConfig::new(name).hot_for(Duration::from_secs(10)).warm_for(Duration::from_secs(60));
        class.on_leave(OnLeave::Drop)
    };
    let config = Config::builder()
        .memory("32MiB")
        .partitions(1)
        .hot(|hot| hot.max("4MiB").page_size("16KiB"))
        .warm(|warm| warm.max("4MiB").page_size("2KiB"))
        .class(class("vault").sensitive(sensitive))
        .class(class("hall"))
        .background(false);
    let store = Store::builder(config.build().unwrap()).clock(clock.clone()).open().unwrap();
    (store, clock)
}

/// How often a region holds the secret.
fn secrets(region: &crate::regions::region::Region) -> usize {
    let contents = region.contents();
    let starts = contents.iter().enumerate().filter(|(_, byte)| **byte == SECRET[0]);
    starts.filter(|(at, _)| contents[*at..].starts_with(SECRET)).count()
}

/// Lets go of what waits for readers.
fn settle(store: &Store) {
    // The machine may stand still meanwhile.
    let deadline = Deadline::after(Duration::from_secs(120));
    while store.core.lanes.pages.is_leaving() {
        assert!(!deadline.has_passed(), "something still waits for readers");
        store.core.lanes.readers.reclaim();
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn append(store: &Store, class: &str, ids: std::ops::Range<u64>) {
    let class = store.class(class).unwrap();
    for id in ids {
        // So long that each has a frame of its own, and nothing that LZ4 could make smaller: the secret is as it is in
        // the warm region, too.
        let mut noise = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut payload: Vec<u8> = (0..5000)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise as u8
            })
            .collect();
        payload.extend_from_slice(SECRET);
        let event = Event::new(Stream::from(1u32), id, 0, 0).class(class).payload(&payload);
        store.append(&event).unwrap();
    }
}

#[test]
fn pages_of_a_sensitive_class_leave_nothing_behind() {
    for sensitive in [true, false] {
        let (store, clock) = open(sensitive);
        let pages = store.core.lanes.pages.clone();
        append(&store, "vault", 0..60);
        append(&store, "hall", 60..80);
        // An event of several frames.
        let large = SECRET.repeat(1000);
        let vault = store.class("vault").unwrap();
        let event = Event::new(Stream::from(1u32), 1000, 0, 0).class(vault);
        store.append(&event.payload(&large)).unwrap();
        assert_eq!(secrets(&pages.hot), 1080);
        clock.set_ms(10_000);
        store.maintain().unwrap();
        settle(&store);
        let stats = store.stats();
        assert_eq!((stats.events.hot, stats.events.warm), (0, 81), "{stats:#?}");
        let expected = if sensitive { 20 } else { 1080 };
        assert_eq!(secrets(&pages.hot), expected, "in freed hot frames; sensitive: {sensitive}");
        assert!(secrets(&pages.warm) >= 80);
        assert_eq!(store.pin().history(Stream::from(1u32)).count(), 81);
        clock.set_ms(60_000);
        store.maintain().unwrap();
        settle(&store);
        assert_eq!(store.stats().events.dropped, 81);
        let left = secrets(&pages.warm);
        assert!(if sensitive { left == 20 } else { left >= 80 }, "{left} in freed warm frames, {sensitive}");
        store.validate().unwrap();
    }
}

#[test]
fn the_movers_buffer_is_wiped_after_each_sensitive_page() {
    for sensitive in [true, false] {
        let (store, clock) = open(sensitive);
        append(&store, "vault", 0..50);
        clock.set_ms(10_000);
        store.maintain().unwrap();
        assert_eq!(store.stats().events.demoted, 50);
        assert_eq!(store.core.engine.lock().scratch_is_wiped(), sensitive);
    }
}

#[test]
fn hot_pages_that_leave_uncompressed_are_overwritten_too() {
    let (store, clock) = open(true);
    append(&store, "vault", 0..50);
    clock.set_ms(60_000);
    store.maintain().unwrap();
    settle(&store);
    let pages = &store.core.lanes.pages;
    assert_eq!((secrets(&pages.hot), secrets(&pages.warm)), (0, 0));
    assert!(pages.hot.contents().iter().all(|byte| *byte == 0));
}

/// What the system says of the mapping that an address is in.
#[cfg(target_os = "linux")]
fn flags_of(address: usize) -> String {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut here = false;
    for line in smaps.lines() {
        let range = line.split_whitespace().next().and_then(|range| range.split_once('-'));
        let parse = |number: &str| usize::from_str_radix(number, 16).ok();
        if let Some((Some(from), Some(to))) = range.map(|(from, to)| (parse(from), parse(to))) {
            here = (from..to).contains(&address);
        } else if here && let Some(flags) = line.strip_prefix("VmFlags:") {
            return format!("{flags} ");
        }
    }
    panic!("{address:#x} is not mapped");
}

#[test]
#[cfg(target_os = "linux")]
fn regions_with_a_sensitive_class_are_kept_out_of_core_dumps() {
    for sensitive in [true, false] {
        let (store, _) = open(sensitive);
        let pages = &store.core.lanes.pages;
        for region in [&pages.hot, &pages.warm] {
            let len = region.pages_max() as usize * region.page_size() as usize;
            for at in [0, len / 2, len - 1] {
                let flags = flags_of(region.address() + at);
                assert_eq!(flags.contains(" dd "), sensitive, "byte {at} of {}: {flags}", region.kind());
            }
        }
        assert!(!flags_of(store.core.lanes.index_region.address()).contains(" dd "), "ids are no secret");
    }
}

/// The mover lets an expired page go just when a flush comes to it.
#[test]
fn a_page_that_is_leaving_does_not_keep_a_flush_from_what_is_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::builder()
        .memory("32MiB")
        .partitions(1)
        .hot(|hot| hot.max("4MiB").page_size("16KiB"))
        .data_dir(dir.path())
        .background(false);
    let store = Store::open(config.build().unwrap()).unwrap();
    append(&store, "default", 0..60);
    let lanes = &store.core.lanes;
    let (pin, lane) = (lanes.pin(), lanes.lanes().next().unwrap());
    let tail = lane.tail();
    let gone = u64::from(lanes.pages.meta(tail).count());
    // What the flush sees that found the page before it was taken off the list.
    lanes.pages.retire(&pin, tail);
    store.flush(Duration::from_secs(60)).unwrap();
    assert_eq!(store.stats().cold.events, 60 - gone);
}

/// A store with a log that is kept for every batch, in that directory.
fn with_log(dir: &std::path::Path, mode: DiskSync, background: bool) -> Result<Store> {
    let config = Config::builder()
        .memory("16MiB")
        .data_dir(dir.join("data"))
        .shared_dir(dir.join("shared"))
        .durability(Durability::Disk(mode))
        .background(background);
    Store::open(config.build()?)
}

#[test]
fn a_disk_that_fails_stops_appends_and_nothing_else() {
    for (mode, background) in
        [(DiskSync::EveryBatch, false), (DiskSync::Interval(Duration::from_millis(2)), true)]
    {
        let dir = tempfile::tempdir().unwrap();
        let store = with_log(dir.path(), mode, background).unwrap();
        let event = |id| Event::new(Stream::from(1u32), id, 0, 0).payload(&[7; 100]);
        for id in 0..50 {
            store.append(&event(id)).unwrap();
        }
        store.sync().unwrap();
        let log = store.core.log.as_ref().unwrap();
        log.fail_syncs(true);
        // The one that meets it is stored, and told that it may not last.
        let mut id = 50;
        let error = loop {
            // One that is new, and one that was there before.
            let batch = store.append_batch(&[event(id), event(0)]).unwrap();
            assert!(
                batch.refused.is_empty() || batch.refused.len() == 2 && batch.stored + batch.duplicates == 0
            );
            match batch.all_accepted() {
                Ok(_) => id += 1,
                Err(error) => break error,
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(error.kind() == ErrorKind::NotDurable && !error.is_retryable(), "{error}");
        // It is not tried again as if nothing had happened: a second sync would succeed, and mean nothing.
        log.fail_syncs(false);
        let mut batch = store.append_batch(&[event(1001)]).unwrap();
        let refused = batch.refused.remove(0).1;
        for error in [store.append(&event(1000)).unwrap_err(), refused, store.sync().unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::NotDurable, "{error}");
        }
        assert!(store.pin().get(1000).is_none() && store.pin().get(1001).is_none());
        assert!((0..id).all(|id| store.pin().get(id).is_some()) && store.fetch(3).unwrap().is_some());
        let stats = store.stats().log;
        assert!(stats.broken && stats.last_error.unwrap().contains("fails for a test"));
        store.abandon();
        // Opening it again, with a disk that is well, goes on with everything that is in memory.
        let store = with_log(dir.path(), mode, background).unwrap();
        assert!((0..id).all(|id| store.pin().get(id).is_some()));
        store.append(&event(1000)).unwrap();
        store.sync().unwrap();
        assert!(!store.stats().log.broken);
        store.abandon();
        std::fs::remove_dir_all(dir.path().join("shared")).unwrap();
        let store = with_log(dir.path(), mode, background).unwrap();
        assert!(store.recovered().unwrap().is_whole() && store.recovered().unwrap().from_log);
        assert!((0..id).chain([1000]).all(|id| store.pin().get(id).is_some()));
    }
}

#[test]
fn a_turn_takes_all_removals_that_came_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mode = DiskSync::Interval(Duration::from_secs(60));
    let store = with_log(dir.path(), mode, false).unwrap();
    let event = |id| Event::new(Stream::from(1u32), id, 0, 0).payload(&[7; 100]);
    for id in 0..10 {
        store.append(&event(id)).unwrap();
    }
    // More than a unit takes, of pages that have gone.
    let pages = &store.core.lanes.pages;
    (0..100_000u32).for_each(|at| pages.tell_removed(Addr::new(LogicalPage(1), at * 8, 0), 77));
    assert!(store.remove(3).unwrap());
    store.sync().unwrap();
    store.abandon();
    std::fs::remove_dir_all(dir.path().join("shared")).unwrap();
    let store = with_log(dir.path(), mode, false).unwrap();
    assert!((0..10).all(|id| store.pin().get(id).is_some() == (id != 3)));
}

/// Whoever asks for maintenance does what the log's thread does, at the same time. Of two who fill one file with zeros the
/// slower one would write over what the log has there by then.
#[test]
fn a_segment_is_prepared_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_log(dir.path(), DiskSync::EveryBatch, false).unwrap();
    let payload = [7; 10_000];
    let log = store.core.log.as_ref().unwrap();
    let is_there = |name| dir.path().join("data/log").join(name).exists();
    let mut ids = 0..;
    let mut prepares = || {
        // As many as some segments have.
        (&mut ids).take(500).any(|id| {
            store.append(&Event::new(Stream::from(1u32), id, 0, 0).payload(&payload)).unwrap();
            log.prepare();
            is_there("next") || is_there("spare")
        })
    };
    let other = log.preparing.lock();
    assert!(!prepares());
    drop(other);
    assert!(prepares());
}
