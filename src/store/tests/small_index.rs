//! An index that is too small for what memory could hold: events leave for its sake, and as many stay as it has room for.

use super::*;
use crate::config::{ConfigBuilder, OnFull};
use crate::lanes::append::Appended;
use crate::pressure::{Flow, Hysteresis, Pressure, PressureReason, RegionKind, Stall};

/// Appends events of these ids and streams to a store whose index has one MiB. The least share of the index that was in use
/// well: of which events and heads are there, at 8 and 64 bytes each, from when it was full.
fn least_use(id: impl Fn(u64) -> u64, stream: impl Fn(u64) -> u64) -> f64 {
    const EVENTS: u64 = if cfg!(debug_assertions) { 160_000 } else { 600_000 };
    const INDEX: u64 = 1 << 20;
    let config = Config::builder()
        .memory("256MiB")
        .partitions(2)
        .hot(|hot| hot.max("24MiB").page_size("16KiB"))
        .warm(|warm| warm.max("8MiB").page_size("2KiB"))
        .index(|index| index.max("1MiB").page_size("8KiB"))
        .class(ClassConfig::new("all").on_leave(OnLeave::Drop))
        .append_timeout(Duration::from_secs(60))
        .background(false);
    let store = Store::builder(config.build().unwrap()).clock(Clock::manual(0)).open().unwrap();
    let (lanes, mut least, mut was_full) = (&store.core.lanes, f64::MAX, false);
    for n in 0..EVENTS {
        let event = Event::new(Stream::from_raw(stream(n)), id(n), n as i64, 0).payload(&[7; 60]);
        store.append(&event).unwrap();
        if n % 64 == 0 {
            store.maintain().unwrap();
            was_full |= lanes.index_fill() > 0.0;
        }
        if n > EVENTS / 2 && n % 20_000 == 0 {
            let heads: usize = lanes.partitions.iter().map(|partition| partition.streams.heads().len()).sum();
            least = least.min((lanes.in_memory() * 8 + heads as u64 * 64) as f64 / INDEX as f64);
        }
    }
    assert!(was_full, "the index was never full");
    store.validate().unwrap();
    least
}

/// What fills an index changes, and what filled it once leaves room in pages. That room is used again.
#[test]
fn an_index_that_is_too_small_holds_what_it_has_room_for() {
    let any = |n: u64| crate::ids::mix(n, 5);
    for (what, used) in [
        ("many streams", least_use(|n| n, |n| any(n) % 10_000)),
        ("more streams than events", least_use(|n| n, |n| any(n) % 100_000)),
        ("streams that come and go", least_use(|n| n, |n| n / 10)),
        ("ids without order", least_use(any, |n| any(n) % 1_000)),
        (
            "ids without order, then in sequence",
            least_use(|n| if n < 100_000 { any(n) } else { n }, |n| any(n) % 1_000),
        ),
    ] {
        assert!(used > 0.15, "{what}: {used:.3} of the index are used");
    }
}

/// Whoever walks a history for long keeps index pages that were let go from coming back. That is an error which says so in the end,
/// and no reason to let go of everything else; afterwards all goes on.
#[test]
fn a_reader_that_holds_pages_of_a_full_index_does_not_empty_memory() {
    let config = Config::builder()
        .memory("256MiB")
        .partitions(2)
        .hot(|hot| hot.max("32MiB").page_size("16KiB"))
        .warm(|warm| warm.max("8MiB").page_size("2KiB"))
        .index(|index| index.max("512KiB").page_size("8KiB"))
        .class(ClassConfig::new("all").on_leave(OnLeave::Drop))
        .append_timeout(Duration::from_secs(60))
        .background(false);
    let clock = Clock::manual(0);
    let store = Store::builder(config.build().unwrap()).clock(clock.clone()).open().unwrap();
    let append = |n: u64, limit: u64| {
        let event = Event::new(Stream::from_raw(n / 8), crate::ids::mix(n, 5), n as i64, 0).payload(&[7; 60]);
        store.append_timeout(&event, Duration::from_millis(limit)).map(|_| ())
    };
    (0..60_000).try_for_each(|n| append(n, 60_000)).unwrap();
    let (lanes, last) = (&store.core.lanes, Stream::from_raw(60_000 / 8 - 1));
    let before = lanes.in_memory();
    let guard = store.pin();
    let mut history = guard.history(last);
    assert!(history.next().is_some());
    // New streams take index pages until all of them are held.
    let fill = |from: u64| (from..from + 140_000).try_for_each(|n| append(n, 4000)).unwrap_err();
    // Seen first, then for long: by this clock.
    fill(60_000);
    clock.set_ms(2000);
    let error = fill(300_000);
    assert_eq!(error.kind(), ErrorKind::MemoryPressure);
    assert!(error.to_string().contains("has held a guard"), "{error}");
    let pressure = error.back_pressure().unwrap();
    assert_eq!((pressure.reason, pressure.level), (PressureReason::IndexFull, Pressure::Full));
    assert!(pressure.retry_after >= Duration::from_millis(500), "nothing came back for long: {pressure:?}");
    for _ in 0..200 {
        store.maintain().unwrap();
        assert_eq!(store.pressure(), Pressure::Full, "it is held still");
    }
    match store.stats().stall {
        Some(Stall::Guard(guard)) => {
            assert!(guard.index_pages > 0 && guard.thread == std::thread::current().id(), "{guard:?}");
        }
        stall => panic!("{stall:?}"),
    }
    let left = lanes.in_memory();
    assert!(left * 4 >= before, "{left} of {before} events are left");
    drop(history);
    drop(guard);
    // Nobody need append for it to be seen.
    store.maintain().unwrap();
    assert_eq!((store.pressure(), store.stats().stall), (Pressure::Normal, None));
    (200_000..260_000).try_for_each(|n| append(n, 60_000)).unwrap();
    assert!(lanes.in_memory() * 2 >= before, "{} of {before} events", lanes.in_memory());
    store.validate().unwrap();
}

/// Events of a lower class are given up for room that they would make, not for such as a reader holds back.
#[test]
fn lower_classes_are_not_given_up_for_pages_that_a_reader_holds() {
    let config = Config::builder()
        .memory("256MiB")
        .partitions(1)
        .hot(|hot| hot.max("32MiB").page_size("16KiB"))
        .warm(|warm| warm.max("8MiB").page_size("2KiB"))
        .index(|index| index.max("512KiB").page_size("8KiB"))
        .class(ClassConfig::new("low"))
        .class(ClassConfig::new("high").priority(9).on_full(OnFull::EvictLower))
        .append_timeout(Duration::ZERO)
        .background(false);
    let store = Store::builder(config.build().unwrap()).clock(Clock::manual(0)).open().unwrap();
    let [low, high] = ["low", "high"].map(|name| store.class(name).unwrap());
    let append = |class, n: u64| {
        let event = Event::new(Stream::from_raw(n), crate::ids::mix(n, 5), n as i64, 0).class(class);
        store.append(&event.payload(&[7; 60]))
    };
    let full = (0..100_000).find(|n| append(low, *n).is_err()).unwrap();
    let guard = store.pin();
    let walk = guard.history(Stream::from_raw(0));
    // What leaves is held back, until as much of it as would be enough.
    let stored = (full..full + 500).filter(|n| append(high, *n).is_ok()).count();
    let left = store.stats().events.hot;
    assert!(stored < 500 && left * 2 > full, "{stored} stored, {left} of {full} left");
    drop(walk);
    drop(guard);
    (full + 500..full + 1000).for_each(|n| assert_eq!(append(high, n).unwrap(), Appended::Stored));
    store.validate().unwrap();
}

/// One event in a hundred stays, the others go after a while, and all ids are of one sequence. Arrays of neighbours hold little
/// then, and what is left of them takes less room elsewhere.
#[test]
fn events_that_outlive_their_neighbours_do_not_keep_their_room() {
    let window = |name, secs| {
        let time = Duration::from_secs(secs);
        ClassConfig::new(name).hot_for(time).warm_for(time).on_leave(OnLeave::Drop)
    };
    let config = Config::builder()
        .memory("64MiB")
        .partitions(1)
        .index(|index| index.max("8MiB").page_size("8KiB"))
        .class(window("stay", 100_000))
        .class(window("go", 10))
        .append_timeout(Duration::from_secs(60))
        .background(false);
    let (store, clock) = {
        let clock = Clock::manual(0);
        (Store::builder(config.build().unwrap()).clock(clock.clone()).open().unwrap(), clock)
    };
    let [stay, go] = ["stay", "go"].map(|name| store.class(name).unwrap());
    let ids = || 1_000_000..1_000_000 + if cfg!(debug_assertions) { 300_000 } else { 1_000_000u64 };
    for id in ids() {
        let class = if id % 100 == 0 { stay } else { go };
        let event =
            Event::new(Stream::from_raw(id % 50), id, clock.now_ms(), 0).class(class).payload(&[7; 60]);
        store.append(&event).unwrap();
        if id % 100 == 0 {
            clock.set_ms(clock.now_ms() + 50);
            store.maintain().unwrap();
        }
    }
    // What is left goes, too, but for the events that stay.
    for _ in 0..200 {
        clock.set_ms(clock.now_ms() + 200);
        store.maintain().unwrap();
    }
    store.validate().unwrap();
    let guard = store.pin();
    for id in ids() {
        assert_eq!(guard.get(id).is_some(), id % 100 == 0, "{id}");
    }
    drop(guard);
    let (lanes, left) = (&store.core.lanes, ids().count() as u64 / 100);
    assert_eq!(lanes.in_memory(), left);
    let bytes = u64::from(lanes.index_region.used_pages()) * 8192;
    // An entry of the hash table takes at most 20 bytes; one that is left alone in an array, 800. A chunk is looked at again only
    // after the sweeps have come round twice, so some are not thinned yet.
    assert!(bytes < left * 60 + 80 * 8192, "{left} events take {bytes} bytes of the index");
}

/// A source that pauses when it is told to and resumes at the lowest level, as a listener does by default. The mover works while it
/// pauses, and after so many events.
fn obedient(
    config: ConfigBuilder,
    events: u64,
    step: u64,
    id: impl Fn(u64) -> u64,
    stream: impl Fn(u64) -> u64,
) -> Store {
    let config = config.append_timeout(Duration::ZERO).background(false);
    let store = Store::builder(config.build().unwrap()).clock(Clock::manual(0)).open().unwrap();
    let (mut flow, mut n, mut refused, mut full) = (Hysteresis::default(), 0, 0, 0);
    while n < events {
        let mut turns = 0;
        while flow.update(store.pressure()).is_some_and(|told| told == Flow::Pause) || flow.is_paused() {
            store.core.move_once();
            turns += 1;
            assert!(turns < 5_000, "event {n}: paused for ever at {:?}", store.pressure());
        }
        let event = Event::new(Stream::from_raw(stream(n)), id(n), n as i64, 0).payload(&[7; 60]);
        match store.append(&event) {
            Ok(_) => n += 1,
            Err(error) => {
                assert_eq!(error.back_pressure().unwrap().level, Pressure::Full, "{error}");
                refused += 1;
            }
        }
        full += u64::from(store.pressure() == Pressure::Full);
        if n % step == 0 {
            store.core.move_once();
        }
    }
    println!("{refused} refused, full at {full} of {events}");
    assert!(refused * 100 < events, "{refused} of {events} refused");
    assert!(full * 20 < events, "full at {full} of {events}");
    store
}

/// An index that is full all the time makes a source pause, and lets it go on: the level comes down without an append that tries.
#[test]
fn a_source_that_waits_for_the_level_to_fall_gets_on_with_a_small_index() {
    let any = |n: u64| crate::ids::mix(n, 5);
    let events = if cfg!(debug_assertions) { 20_000 } else { 400_000 };
    for pages in [6, 16, 64, 130] {
        let config = || {
            Config::builder()
                .memory("256MiB")
                .partitions(1)
                .hot(|hot| hot.max("24MiB").page_size("16KiB"))
                .warm(|warm| warm.max("8MiB").page_size("2KiB"))
                .index(|index| index.max(pages * 8192).page_size("8KiB"))
                .class(ClassConfig::new("all").on_leave(OnLeave::Drop))
        };
        println!("{pages} pages");
        for store in [
            obedient(config(), events, 64, |n| n, |n| any(n) % 100_000),
            obedient(config(), events, 64, any, |n| any(n) % 50),
            obedient(config(), events, 64, any, |n| n / 10),
        ] {
            store.validate().unwrap();
        }
    }
}

/// The mover stops at the warning threshold, to the page: there a source may go on.
#[test]
fn a_source_gets_on_where_the_threshold_is_a_whole_number_of_pages() {
    for pages in [40, 50, 100, 200] {
        let config = Config::builder()
            .memory("64MiB")
            .partitions(1)
            .hot(|hot| hot.max(pages * 16_384).page_size("16KiB"))
            .warm(|warm| warm.max("64KiB").page_size("2KiB"))
            .class(ClassConfig::new("all").on_leave(OnLeave::Drop).compress(false));
        let store = obedient(config, 400 * pages, 100_000, |n| n, |n| n % 50);
        assert!(store.stats().region(RegionKind::Hot).used_pages >= pages * 3 / 4);
    }
}

/// Without a cold tier nothing leaves by itself. What is removed makes room in pages of the index, which merge only when little is
/// left of them.
#[test]
fn what_is_removed_makes_room_although_no_page_comes_of_it() {
    for (of, pages) in [(4u64, 36u64), (3, 40), (2, 36)] {
        let config = Config::builder()
            .memory("256MiB")
            .partitions(1)
            .hot(|hot| hot.max("64MiB").page_size("16KiB"))
            .warm(|warm| warm.max("8MiB").page_size("2KiB"))
            .index(|index| index.max(pages * 8192).page_size("8KiB"))
            .append_timeout(Duration::ZERO)
            .background(false);
        let store = Store::builder(config.build().unwrap()).clock(Clock::manual(0)).open().unwrap();
        let id = |n: u64| crate::ids::mix(n, 5);
        let append = |n: u64| {
            let event = Event::new(Stream::from_raw(n % 50), id(n), n as i64, 0).payload(&[7; 60]);
            store.append(&event)
        };
        let turns = |count: u64| {
            for _ in 0..count {
                store.core.move_once();
            }
        };
        let full = (0..200_000).find(|n| {
            turns(u64::from(n % 64 == 0));
            append(*n).is_err()
        });
        let full = full.expect("the index has an end");
        assert_eq!(store.pressure(), Pressure::Full);
        let removed =
            (0..full).filter(|n| n % of == 0).filter(|n| store.remove(id(*n)).unwrap()).count() as u64;
        turns(2000);
        let level = store.pressure();
        assert!(
            level < Pressure::Full,
            "{removed} of {full} in {pages} pages are gone: {:?}",
            store.stats().stall
        );
        let stored = (full + 1..full + 1 + removed / 2).filter(|n| append(*n).is_ok()).count() as u64;
        assert!(stored * 100 >= removed / 2 * 95, "{stored} of {} find room", removed / 2);
    }
}
