//! A process that may have no more descriptors or memory, and stores that come and go.
#![expect(unsafe_code, reason = "setrlimit")]

use std::time::Duration;

use esker::{Config, ConfigBuilder, Durability, ErrorKind, Event, Store, Stream};

const MINUTE: Duration = Duration::from_secs(60);

/// Has the process live with less for as long as the value is held.
struct Less {
    what: u32,
    before: libc::rlimit,
}

impl Less {
    fn new(what: u32, limit: u64) -> Self {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: reads the limit into what it is given, and lowers it, which an owner may.
        unsafe {
            assert_eq!(libc::getrlimit(what, &raw mut before), 0);
            assert_eq!(libc::setrlimit(what, &libc::rlimit { rlim_cur: limit, ..before }), 0);
        }
        Self { what, before }
    }
}

impl Drop for Less {
    fn drop(&mut self) {
        // SAFETY: as it was.
        unsafe { libc::setrlimit(self.what, &self.before) };
    }
}

/// Entries of a folder of this process: `fd` or `task`.
fn count(folder: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{folder}")).unwrap().count()
}

fn mapped_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

/// An error and what is behind it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

fn config(dir: &tempfile::TempDir, durability: Durability) -> ConfigBuilder {
    let config = Config::builder().memory("32MiB").data_dir(dir.path().join("data"));
    config.durability(durability).shared_dir(dir.path().join("shared"))
}

fn append(store: &Store, from: u64, count: u64) {
    for id in from..from + count {
        store.append(&Event::new(Stream::from(id as u32 % 50), id, 0, 0).payload(&[7; 200])).unwrap();
    }
}

/// An event of 16 MiB is squeezed to little, and the program has no memory to unpack it: it is told so, and goes on.
#[test]
fn no_memory_for_a_large_event_is_an_error_and_no_end() {
    let _alone = super::alone();
    let clock = esker::Clock::manual(0);
    let class = esker::ClassConfig::new("a").hot_for(Duration::from_secs(1)).warm_for(MINUTE);
    let config = Config::builder()
        .memory("512MiB")
        .buffers("160MiB")
        .max_event("16MiB")
        .background(false)
        .class(class);
    let store = Store::builder(config.build().unwrap()).clock(clock.clone()).open().unwrap();
    let large = vec![7; 16 << 20];
    store.append(&Event::new(Stream::from(1), 1, 0, 0).payload(&large)).unwrap();
    store.append(&Event::new(Stream::from(1), 2, 0, 0).payload(&[8; 100])).unwrap();
    clock.set_ms(2_000);
    store.maintain().unwrap();
    assert_eq!(store.stats().events.warm, 2);
    drop(large);
    let less = Less::new(libc::RLIMIT_AS, mapped_bytes() + (4 << 20));
    // What the allocator has set aside is somebody else's.
    let mut hoard: Vec<Vec<u8>> = Vec::with_capacity(100);
    let room = || {
        let mut room = Vec::new();
        room.try_reserve_exact(8 << 20).ok().map(|()| room)
    };
    hoard.extend(std::iter::from_fn(room).take(100));
    assert!(hoard.len() < 100, "memory ends");
    let error = store.pin().try_get(1).err().unwrap();
    assert!(error.kind() == ErrorKind::Io && error.to_string().contains("no memory"), "{error}");
    assert!(store.pin().get(1).is_none() && store.pin().get(2).is_some());
    for id in 3..2000 {
        store.append(&Event::new(Stream::from(1), id, 0, 0).payload(&[9; 100])).unwrap();
        assert!(store.pin().get(id).is_some());
    }
    drop((less, hoard));
    assert_eq!(store.pin().try_get(1).unwrap().unwrap().payload().len(), 16 << 20);
    assert_eq!(store.stats().events.corrupt_frames, 0);
    store.validate().unwrap();
}

/// A segment of the log is read whole. Regions come first, so it is the segment that memory has no room for.
#[test]
fn no_memory_for_a_segment_of_the_log_is_an_error_of_opening() {
    let _alone = super::alone();
    let dir = tempfile::tempdir().unwrap();
    let durability = Durability::Disk(esker::DiskSync::Interval(MINUTE));
    // The larger the memory, the larger the segments.
    let open = || Store::open(config(&dir, durability).memory("1GiB").background(false).build().unwrap());
    let store = open().unwrap();
    append(&store, 0, 1000);
    store.sync().unwrap();
    store.abandon();
    let segments = std::fs::read_dir(dir.path().join("data/log")).unwrap();
    let largest = segments.map(|entry| entry.unwrap().metadata().unwrap().len()).max().unwrap();
    assert!(largest >= 64 << 20, "segments of {largest} bytes");
    let store = open().unwrap();
    let mapped = mapped_bytes();
    store.abandon();
    {
        let _less = Less::new(libc::RLIMIT_AS, mapped + (16 << 20));
        let error = open().map(drop).unwrap_err();
        let text = causes(&error);
        assert!(
            error.kind() == ErrorKind::Io && text.contains("no memory") && text.contains("segment"),
            "{text}"
        );
    }
    let store = open().unwrap();
    assert!(store.recovered().unwrap().is_whole());
    assert!((0..1000).all(|id| store.pin().get(id).is_some()));
}

#[test]
fn stores_that_come_and_go_leave_nothing_behind() {
    let _alone = super::alone();
    for durability in [Durability::Memory, Durability::Process] {
        let dir = tempfile::tempdir().unwrap();
        let turn = |number: u64| {
            let store = Store::open(config(&dir, durability).build().unwrap()).unwrap();
            append(&store, number * 1000, 100);
            assert!(store.pin().get(number * 1000).is_some());
            // Closed, and dropped, by turns.
            if number.is_multiple_of(2) {
                store.close(MINUTE).unwrap();
            }
        };
        (1..10).for_each(turn);
        let before = (count("fd"), count("task"), mapped_bytes());
        (10..110).for_each(turn);
        let after = (count("fd"), count("task"), mapped_bytes());
        assert_eq!((before.0, before.1), (after.0, after.1), "{durability:?}: descriptors and threads");
        assert!(after.2 < before.2 + (96 << 20), "{durability:?}: {} mapped, then {}", before.2, after.2);
    }
}

#[test]
fn a_process_without_descriptors_is_told_so_and_an_open_store_goes_on() {
    let _alone = super::alone();
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let store = Store::open(config(&dir, Durability::Process).build().unwrap()).unwrap();
    append(&store, 0, 1000);
    {
        let open = count("fd") as u64;
        // However many of its files an opening gets: what it has got so far is let go.
        for more in 0..12 {
            let _less = Less::new(libc::RLIMIT_NOFILE, open + more);
            let Err(error) = Store::open(config(&other, Durability::Process).build().unwrap()) else {
                continue;
            };
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            assert!(causes(&error).contains("os error 24"), "{}", causes(&error));
        }
        let _less = Less::new(libc::RLIMIT_NOFILE, open);
        append(&store, 1000, 40_000);
        store.flush(MINUTE).unwrap();
        assert!(store.fetch(500).unwrap().is_some());
        store.validate().unwrap();
    }
    drop(Store::open(config(&other, Durability::Process).build().unwrap()).unwrap());
    assert_eq!(store.close(MINUTE).unwrap().left, 0);
}

#[test]
fn a_process_without_address_space_is_told_so() {
    let _alone = super::alone();
    for durability in [Durability::Memory, Durability::Process] {
        let dir = tempfile::tempdir().unwrap();
        {
            let _less = Less::new(libc::RLIMIT_AS, mapped_bytes() + (512 << 20));
            let error = Store::open(config(&dir, durability).memory("4GiB").build().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            assert!(error.to_string().contains("would not"), "{error}");
        }
        let store = Store::open(config(&dir, durability).build().unwrap()).unwrap();
        append(&store, 0, 100);
    }
}
