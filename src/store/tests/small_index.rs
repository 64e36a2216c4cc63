//! An index that is too small for what memory could hold: events leave for its sake, and as many stay as it has room for.

use super::*;

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
    let left = lanes.in_memory();
    assert!(left * 4 >= before, "{left} of {before} events are left");
    drop(history);
    drop(guard);
    (200_000..260_000).try_for_each(|n| append(n, 60_000)).unwrap();
    assert!(lanes.in_memory() * 2 >= before, "{} of {before} events", lanes.in_memory());
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
