//! Regions that become larger and smaller while the store runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::{Random, all_ids, append_proof, manual, small, verify, wall_ms};
use crate::tier::MapTier;
use esker::{ClassConfig, Config, ErrorKind, Event, OnLeave, RegionKind, Store, Stream};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const WAIT: Duration = Duration::from_secs(30);

/// What the process has of a mapping, told by the system: bytes that are really there.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn max_of(store: &Store, region: RegionKind) -> u64 {
    store.stats().region(region).max_bytes
}

fn fill(store: &Store, ids: std::ops::Range<u64>) {
    for id in ids {
        append_proof(store, Event::new(Stream::from(id as u32 % 50), id, wall_ms(), 0), 300);
    }
}

/// Everything of a range is there and proves itself.
fn check(store: &Store, ids: std::ops::Range<u64>) {
    assert_eq!(all_ids(store), ids.collect::<Vec<_>>());
    store.validate().unwrap();
}

#[test]
fn a_hot_region_shrinks_and_grows_under_appends_and_readers() {
    let class = ClassConfig::new("all");
    let config = small().hot(|hot| hot.max(8 * MIB).page_size(16 * KIB)).class(class).build().unwrap();
    let store = Store::builder(config).cold(MapTier::new()).open().unwrap();
    let (stop, next) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let id = next.load(Ordering::Relaxed);
                fill(&store, id..id + 1);
                next.store(id + 1, Ordering::Release);
            }
        });
        scope.spawn(|| {
            let mut random = Random::new(5);
            while !stop.load(Ordering::Relaxed) {
                let end = next.load(Ordering::Acquire);
                if end > 0 {
                    let id = random.below(end);
                    verify(&store.fetch(id).unwrap().unwrap_or_else(|| panic!("event {id} is gone")));
                }
            }
        });
        for _ in 0..2 {
            for bytes in [2 * MIB, 8 * MIB, MIB, 4 * MIB] {
                let report = store.resize_region(RegionKind::Hot, bytes, WAIT).unwrap();
                assert!(report.is_complete(), "{report:?}");
                let stats = store.stats();
                let hot = stats.region(RegionKind::Hot);
                assert_eq!(hot.max_bytes, bytes, "{report:?}");
                assert!(hot.used_bytes <= bytes && hot.committed_bytes <= bytes, "{hot:?}");
                assert!(stats.memory_bytes <= 16 * MIB, "{stats:?}");
                let enough = next.load(Ordering::Acquire) + 1000;
                crate::common::wait_until("appends go on", WAIT, || next.load(Ordering::Acquire) > enough);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    check(&store, 0..next.load(Ordering::Acquire));
}

#[test]
fn what_a_region_gives_up_goes_back_to_the_system() {
    let test = "resize::what_a_region_gives_up_goes_back_to_the_system";
    if crate::common::in_own_process(test, "").is_some() {
        return;
    }
    let class = ClassConfig::new("raw").compress(false).on_leave(OnLeave::Drop);
    let config = Config::builder().memory("80MiB").hot(|hot| hot.max(64 * MIB)).class(class).partitions(2);
    let (store, _) = manual(config);
    let payload = [7u8; 4000];
    for id in 0..12_000u64 {
        store.append(&Event::new(Stream::from(id as u32 % 9), id, 0, 0).payload(&payload)).unwrap();
    }
    let before = resident();
    let report = store.resize_region(RegionKind::Hot, 8 * MIB, WAIT).unwrap();
    assert!(report.is_complete() && report.moved_pages > 0, "{report:?}");
    assert!(report.returned_bytes >= 38 * MIB, "{report:?}");
    let after = resident();
    assert!(before - after >= 35 * MIB, "{before} bytes before, {after} after: {report:?}");
    let stats = store.stats();
    assert_eq!(stats.region(RegionKind::Hot).returned_bytes, report.returned_bytes);
    // What is left is the newest.
    let kept = store.pin().scan(..).map(|event| event.id()).collect::<Vec<_>>();
    assert!(kept.len() > 1000 && kept.contains(&11_999), "{} kept", kept.len());
    store.validate().unwrap();
    // And it can grow again.
    assert!(store.resize_region(RegionKind::Hot, 64 * MIB, WAIT).unwrap().is_complete());
    for id in 12_000..24_000u64 {
        store.append(&Event::new(Stream::from(id as u32 % 9), id, 0, 0).payload(&payload)).unwrap();
    }
    assert!(store.stats().events.hot > 11_000);
    store.validate().unwrap();
}

#[test]
fn a_warm_region_shrinks_and_its_room_goes_to_another() {
    let (hour, second) = (Duration::from_secs(3600), Duration::from_secs(1));
    let config = small()
        .hot(|hot| hot.max(4 * MIB).page_size(16 * KIB))
        .warm(|warm| warm.max(6 * MIB))
        .class(ClassConfig::new("all").hot_for(second).warm_for(hour));
    let clock = esker::Clock::manual(1_000_000);
    let config = config.background(false).build().unwrap();
    let store = Store::builder(config).cold(MapTier::new()).clock(clock.clone()).open().unwrap();
    let append = |ids: std::ops::Range<u64>| {
        for id in ids {
            append_proof(&store, Event::new(Stream::from(id as u32 % 50), id, clock.now_ms(), 0), 300);
        }
    };
    append(0..20_000);
    clock.set_ms(clock.now_ms() + 2000);
    store.maintain().unwrap();
    assert!(store.stats().events.warm > 10_000, "{:?}", store.stats().events);
    let too_much = store.resize_region(RegionKind::Hot, 12 * MIB, WAIT).unwrap_err();
    assert_eq!(too_much.kind(), ErrorKind::InvalidInput);
    assert!(too_much.to_string().contains("make the warm region smaller by"), "{too_much}");
    let report = store.resize_region(RegionKind::Warm, MIB, WAIT).unwrap();
    assert!(report.is_complete() && report.moved_pages > 0, "{report:?}");
    assert!(store.resize_region(RegionKind::Hot, 9 * MIB, WAIT).unwrap().is_complete());
    check(&store, 0..20_000);
    append(20_000..60_000);
    check(&store, 0..60_000);
}

#[test]
fn a_held_reader_keeps_a_region_from_shrinking_and_keeps_what_it_reads() {
    let class = ClassConfig::new("raw").compress(false).on_leave(OnLeave::Drop);
    let (store, _) = manual(small().hot(|hot| hot.max(8 * MIB).page_size(16 * KIB)).class(class));
    fill(&store, 0..15_000);
    let guard = store.pin();
    let held: Vec<_> = guard.scan(..).collect();
    let report = store.resize_region(RegionKind::Hot, MIB, Duration::from_millis(300)).unwrap();
    assert!(!report.is_complete() && report.to_bytes > 2 * MIB, "{report:?}");
    assert_eq!(max_of(&store, RegionKind::Hot), report.to_bytes);
    held.iter().for_each(verify);
    drop(held);
    drop(guard);
    let report = store.resize_region(RegionKind::Hot, MIB, WAIT).unwrap();
    assert!(report.is_complete(), "{report:?}");
    store.validate().unwrap();
}

#[test]
fn a_store_that_cannot_let_go_says_how_far_it_came() {
    // No cold tier: events of a class that is to be spilled stay.
    let (store, _) = manual(small().hot(|hot| hot.max(4 * MIB).page_size(16 * KIB)));
    fill(&store, 0..6000);
    let report = store.resize_region(RegionKind::Hot, MIB, Duration::from_millis(500)).unwrap();
    let used = store.stats().region(RegionKind::Hot).used_bytes;
    assert!(report.to_bytes >= used && report.wanted_bytes == MIB, "{report:?}");
    check(&store, 0..6000);
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let (store, _) = manual(small().hot(|hot| hot.max(4 * MIB).ceiling(6 * MIB)));
    let refuse = |region, bytes: u64| {
        let error = store.resize_region(region, bytes, WAIT).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    };
    assert!(refuse(RegionKind::System, MIB).contains("follows from the others"));
    assert!(refuse(RegionKind::Hot, 1).contains("too little"));
    assert!(refuse(RegionKind::Hot, 7 * MIB).contains("ceiling"));
    assert!(refuse(RegionKind::Warm, u64::MAX).contains("ceiling"));
    assert!(refuse(RegionKind::Index, 0).contains("too little"));
    assert!(store.resize_region(RegionKind::Hot, "many", WAIT).is_err());
    assert!(Config::builder().memory("16MiB").hot(|hot| hot.max(4 * MIB).ceiling(MIB)).build().is_err());
    store.close(Duration::ZERO).unwrap();
    assert_eq!(store.resize_region(RegionKind::Hot, 5 * MIB, WAIT).unwrap_err().kind(), ErrorKind::Closed);
}

/// Ids in sequence (arrays) and others (hash table), and many streams: all kinds of index pages move.
#[test]
fn an_index_shrinks_under_appends_and_removals() {
    let config = small()
        .hot(|hot| hot.max(3 * MIB).page_size(16 * KIB))
        .index(|index| index.max(6 * MIB).page_size(4 * KIB))
        .class(ClassConfig::new("raw").compress(false).on_leave(OnLeave::Drop));
    let store = Store::open(config.build().unwrap()).unwrap();
    // Arrays of ids that are gone again: what comes now lies above their pages.
    let early = (0..400u64).flat_map(|chunk| (0..80).map(move |id| 1 << 40 | chunk << 9 | id));
    for id in early.clone() {
        append_proof(&store, Event::new(Stream::from(7u32), id, wall_ms(), 0), 40);
    }
    for id in early {
        store.remove(id).unwrap();
    }
    store.maintain().unwrap();
    let (stop, next) = (AtomicBool::new(false), AtomicU64::new(0));
    let id_of =
        |n: u64| if n.is_multiple_of(4) { n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63 } else { n };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let n = next.load(Ordering::Relaxed);
                append_proof(&store, Event::new(Stream::from(n as u32 % 3000), id_of(n), wall_ms(), 0), 40);
                next.store(n + 1, Ordering::Release);
            }
        });
        scope.spawn(|| {
            let mut random = Random::new(8);
            while !stop.load(Ordering::Relaxed) {
                let Some(newest) = next.load(Ordering::Acquire).checked_sub(1) else { continue };
                let n = newest - random.below(1000.min(newest + 1));
                let found = store.pin().get(id_of(n)).map(|event| verify(&event)).is_some();
                if n.is_multiple_of(5) {
                    store.remove(id_of(n)).unwrap();
                    assert!(store.pin().get(id_of(n)).is_none(), "event {n} was removed");
                } else {
                    if !found {
                        // A small index lets events leave early: its page is about to go, too.
                        let there = || store.pin().scan(..).any(|event| event.id() == id_of(n));
                        crate::common::wait_until("an event that is not found is on no page", WAIT, || {
                            !there()
                        });
                    }
                }
            }
        });
        let mut moved = 0;
        for _ in 0..3 {
            for bytes in [512 * KIB, 6 * MIB, 128 * KIB] {
                let report = store.resize_region(RegionKind::Index, bytes, WAIT).unwrap();
                let stats = store.stats();
                let index = stats.region(RegionKind::Index);
                assert!(index.committed_bytes <= report.to_bytes, "{report:?} {index:?}");
                moved += report.moved_pages;
                let enough = next.load(Ordering::Acquire) + 12_000;
                crate::common::wait_until("appends go on", WAIT, || next.load(Ordering::Acquire) > enough);
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(moved >= 20, "only {moved} pages of the index were moved");
    });
    store.validate().unwrap();
}

#[test]
fn memory_that_is_not_used_for_long_goes_back_and_comes_again() {
    let class = ClassConfig::new("raw").compress(false).on_leave(OnLeave::Drop);
    let config = small()
        .hot(|hot| hot.max(8 * MIB).initial(MIB).chunk(256 * KIB).page_size(16 * KIB))
        .class(class.retention(Duration::from_secs(10)))
        .shrink_after(Duration::from_millis(300));
    let clock = esker::Clock::manual(1_000_000);
    let store = Store::builder(config.build().unwrap()).clock(clock.clone()).open().unwrap();
    let committed = || store.stats().region(RegionKind::Hot).committed_bytes;
    let fill = |ids: std::ops::Range<u64>| {
        for id in ids {
            append_proof(&store, Event::new(Stream::from(id as u32 % 50), id, clock.now_ms(), 0), 300);
        }
    };
    for round in 0..3 {
        let first = round * 100_000;
        fill(first..first + 15_000);
        assert!(committed() > 4 * MIB, "{} bytes", committed());
        // Some stay, in the middle of what goes: they are moved down.
        clock.set_ms(clock.now_ms() + 9_000);
        fill(first + 15_000..first + 16_000);
        clock.set_ms(clock.now_ms() + 2_000);
        let most = 2 * MIB + 512 * KIB;
        crate::common::wait_until("the region has become small", WAIT, || committed() <= most);
        let kept: Vec<u64> = (first + 15_000..first + 16_000).collect();
        assert_eq!(all_ids(&store), kept);
        store.validate().unwrap();
        clock.set_ms(clock.now_ms() + 20_000);
    }
    let returned = store.stats().region(RegionKind::Hot).returned_bytes;
    assert!(returned > 6 * MIB, "{returned} bytes went back");
    // It does not come and go when nothing changes.
    std::thread::sleep(Duration::from_millis(1500));
    let returned = store.stats().region(RegionKind::Hot).returned_bytes;
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(store.stats().region(RegionKind::Hot).returned_bytes, returned);
}
