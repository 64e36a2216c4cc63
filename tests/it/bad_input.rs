//! Input at the edges of what there can be: taken and given back as it was, or refused by a typed error.

use std::time::Duration;

use esker::{
    Appended, ClassConfig, Clock, Config, ConfigBuilder, Durability, EVENT_MAX, ErrorKind, Event, Store,
    Stream,
};

use crate::common::{PROOF_MIN, all_ids, append_proof, manual, proof, small, two_classes, verify};

const CLOSE: Duration = Duration::from_secs(30);
const HOUR_MS: i64 = 3_600_000;

/// Calls `check` with everything hot, then warm, then cold, then after opening again.
fn in_every_tier(
    config: impl Fn() -> ConfigBuilder,
    fill: impl FnOnce(&Store),
    check: impl Fn(&Store, &str),
) {
    let dir = tempfile::tempdir().unwrap();
    let config = || {
        let windows =
            ClassConfig::new("all").hot_for(Duration::from_secs(10)).warm_for(Duration::from_secs(20));
        config().class(windows).data_dir(dir.path()).background(false).build().unwrap()
    };
    let clock = Clock::manual(HOUR_MS);
    let open = || Store::builder(config()).clock(clock.clone()).open().unwrap();
    let store = open();
    fill(&store);
    check(&store, "hot");
    clock.set_ms(HOUR_MS + 12_000);
    store.maintain().unwrap();
    let events = store.stats().events;
    assert!(events.hot == 0 && events.warm > 0, "{events:?}");
    check(&store, "warm");
    clock.set_ms(HOUR_MS + 30_000);
    store.maintain().unwrap();
    let stats = store.stats();
    assert!(stats.events.hot + stats.events.warm == 0 && stats.cold.events > 0, "{stats:#?}");
    check(&store, "cold");
    store.validate().unwrap();
    store.close(CLOSE).unwrap();
    drop(store);
    check(&open(), "opened again");
}

fn one(id: u64) -> Event<'static> {
    Event::new(Stream::from(1u32), id, HOUR_MS, 0)
}

#[test]
fn payloads_of_every_length_around_a_page_come_back() {
    const HEADER: u64 = 40;
    let config = || small().hot(|hot| hot.page_size("4KiB"));
    let mut lens: Vec<u64> = (0..20).collect();
    for page in [4096, 2 * 4096, 16 * 1024, 64 * 1024] {
        lens.extend(page - HEADER - 9..=page - HEADER + 9);
        lens.extend(page - 2..=page + 2);
        lens.extend(page + HEADER - 2..=page + HEADER + 2);
    }
    let payload = |len: u64| -> Vec<u8> {
        match len as usize {
            len if len >= PROOF_MIN => proof(Stream::from(1u32), len as u64, HOUR_MS, len),
            len => vec![len as u8; len],
        }
    };
    let fill = |store: &Store| {
        for len in &lens {
            assert_eq!(store.append(&one(*len).payload(&payload(*len))).unwrap(), Appended::Stored);
        }
    };
    in_every_tier(config, fill, |store, tier| {
        for len in &lens {
            let event = store.fetch(*len).unwrap().unwrap_or_else(|| panic!("{len} bytes are lost, {tier}"));
            assert!(event.payload() == payload(*len), "{len} bytes are others, {tier}");
            assert_eq!(event.metadata().count(), 0);
        }
        let mut seen: Vec<u64> =
            store.fetch_history(Stream::from(1u32)).map(|event| event.unwrap().id()).collect();
        seen.reverse();
        assert_eq!(seen, lens, "{tier}");
    });
}

#[test]
fn the_largest_event_comes_back_and_one_byte_more_is_refused() {
    let config = || {
        let config = Config::builder().memory("256MiB").buffers("128MiB").max_event(EVENT_MAX).partitions(1);
        config.hot(|hot| hot.max("72MiB")).warm(|warm| warm.max("40MiB")).index(|index| index.max("4MiB"))
    };
    let largest = EVENT_MAX as usize;
    let ids = [u64::MAX];
    let fill = |store: &Store| {
        assert_eq!(store.config().max_event, EVENT_MAX);
        for id in ids {
            assert_eq!(append_proof(store, one(id), largest), Appended::Stored);
        }
        let more = vec![1; largest + 1];
        assert_eq!(store.append(&one(5).payload(&more)).unwrap_err().kind(), ErrorKind::TooLarge);
        // Metadata counts, too, with the bytes that tell its length.
        let pairs = one(5).metadata(&[("k", "v")]).payload(&more[..largest - 4]);
        assert_eq!(store.append(&pairs).unwrap_err().kind(), ErrorKind::TooLarge);
        let pairs = one(5).metadata(&[("k", "v")]).payload(&more[..largest - 5]);
        assert_eq!(store.append(&pairs).unwrap(), Appended::Stored);
        assert!(store.remove(5).unwrap());
    };
    in_every_tier(config, fill, |store, tier| {
        for id in ids {
            let event = store.fetch(id).unwrap().unwrap_or_else(|| panic!("{id} is lost, {tier}"));
            assert_eq!(event.payload().len(), largest);
            verify(&event);
        }
        let stats = store.stats();
        assert!(stats.memory_bytes <= store.config().memory, "{tier}: {stats:#?}");
    });
}

/// Small pages are everywhere when a large event comes: room in one piece must be made for it.
#[test]
fn large_events_find_room_among_small_ones() {
    const LARGE: usize = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = two_classes();
    let (store, clock) = manual(
        Config::builder()
            .memory("32MiB")
            .buffers("8MiB")
            .partitions(2)
            .hot(|hot| hot.max("7MiB").page_size("4KiB"))
            .max_event(LARGE as u64)
            .append_timeout(Duration::from_secs(20))
            .class(a)
            .class(b.retention(None))
            .data_dir(dir.path()),
    );
    assert!(LARGE as u64 > store.config().hot.max / 8);
    let classes = ["a", "b"].map(|name| store.class(name).unwrap());
    let mut id = 0;
    for round in 0..14u32 {
        clock.set_ms(1_000_000 + i64::from(round) * 10_000);
        for _ in 0..150 {
            let event = Event::new(Stream::from(id as u32 % 9), id, clock.now_ms(), 0);
            append_proof(&store, event.class(classes[id as usize % 2]), 900);
            id += 1;
        }
        let event = Event::new(Stream::from(100 + round % 3), id, clock.now_ms(), 1)
            .class(classes[round as usize % 2]);
        let payload = proof(event.stream, id, event.timestamp, LARGE);
        let outcome = store.append(&event.payload(&payload));
        assert_eq!(outcome.unwrap_or_else(|error| panic!("round {round}: {error}")), Appended::Stored);
        id += 1;
        let stats = store.stats();
        assert!(stats.memory_bytes <= store.config().memory, "{stats:#?}");
    }
    assert_eq!(all_ids(&store), (0..id).collect::<Vec<_>>());
    store.validate().unwrap();
}

#[test]
fn ten_thousand_pairs_of_metadata_come_back_in_order() {
    let text: Vec<(String, String)> =
        (0..10_000).map(|n: u32| (format!("key {}", n % 7_000), "v".repeat(n as usize % 11))).collect();
    let pairs: Vec<(&str, &str)> = text.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let fill = |store: &Store| {
        let event = one(1).metadata(&pairs[..]).payload(b"payload");
        assert_eq!(store.append(&event).unwrap(), Appended::Stored);
        let empty: [(&str, &str); 1] = [("", "")];
        assert_eq!(store.append(&one(2).metadata(&empty)).unwrap(), Appended::Stored);
    };
    in_every_tier(small, fill, |store, tier| {
        let event = store.fetch(1).unwrap().unwrap();
        assert_eq!(event.payload(), b"payload", "{tier}");
        let expected = pairs.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
        assert!(event.metadata().eq(expected), "{tier}");
        assert_eq!(event.metadata_value("key 8"), Some(&b"vvvvvvvv"[..]), "the first of two");
        let event = store.fetch(2).unwrap().unwrap();
        assert_eq!(
            (event.metadata().collect::<Vec<_>>(), event.payload()),
            (vec![(&b""[..], &b""[..])], &b""[..])
        );
    });
}

const TIMES: [i64; 13] = [
    i64::MIN,
    i64::MIN + 1,
    -1_000_000_000_000,
    -1,
    0,
    1,
    HOUR_MS - 1,
    HOUR_MS,
    HOUR_MS + 1,
    HOUR_MS + 5_000,
    4_000_000_000_000_000,
    i64::MAX - 1,
    i64::MAX,
];

#[test]
fn timestamps_of_all_ages_are_kept_without_retention() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(HOUR_MS);
    let open = || {
        let [a, _] = two_classes();
        let config = small().class(a).data_dir(dir.path()).background(false).build().unwrap();
        Store::builder(config).clock(clock.clone()).open().unwrap()
    };
    let check = |store: &Store, at: &str| {
        for (id, time) in TIMES.iter().enumerate() {
            let event = store.fetch(id as u64).unwrap().unwrap_or_else(|| panic!("{time} is lost, {at}"));
            verify(&event);
            assert_eq!(event.timestamp(), *time);
            let same = |event: esker::Result<esker::EventRef<'static>>| event.unwrap().id();
            assert_eq!(store.fetch_scan(*time..=*time).map(same).collect::<Vec<_>>(), [id as u64], "{at}");
            let range = store.fetch_history(Stream::from(3u32)).range(*time..=*time);
            assert_eq!(range.map(same).collect::<Vec<_>>(), [id as u64], "{at}");
        }
        let ordered: Vec<i64> =
            store.fetch_scan(..).ordered().map(|event| event.unwrap().timestamp()).collect();
        assert_eq!(ordered, TIMES, "{at}");
        let half = store.fetch_scan(i64::MIN..i64::MAX).count();
        assert_eq!(half, TIMES.len() - 1, "an end that is excluded is left out, {at}");
        assert_eq!(store.fetch_scan(5..5).count() + store.fetch_scan(..i64::MIN).count(), 0, "{at}");
        store.validate().unwrap();
    };
    let mut store = open();
    // Newest first means appended last, whatever the timestamps are.
    let order = [7, 3, 12, 0, 9, 1, 11, 2, 10, 4, 8, 5, 6];
    for id in order {
        append_proof(&store, Event::new(Stream::from(3u32), id, TIMES[id as usize], 0), 80);
    }
    let history: Vec<u64> =
        store.fetch_history(Stream::from(3u32)).map(|event| event.unwrap().id()).collect();
    assert!(history.iter().eq(order.iter().rev()), "{history:?}");
    for now in [HOUR_MS, HOUR_MS + 61_000, 2 * HOUR_MS, i64::MAX, i64::MIN, 0, HOUR_MS] {
        clock.set_ms(now);
        store.maintain().unwrap();
        check(&store, &format!("at {now}"));
    }
    let stats = store.stats();
    assert!(
        stats.events.hot + stats.events.warm == 0 && stats.cold.events == TIMES.len() as u64,
        "{stats:#?}"
    );
    for now in [i64::MIN, i64::MAX] {
        clock.set_ms(now);
        store.close(CLOSE).unwrap();
        store = open();
        check(&store, &format!("opened at {now}"));
        append_proof(&store, Event::new(Stream::from(4u32), 100, now, 0), 80);
        store.flush(CLOSE).unwrap();
        assert!(store.fetch(100).unwrap().is_some() && store.remove(100).unwrap());
    }
}

#[test]
fn timestamps_of_all_ages_with_retention() {
    for flush in [false, true] {
        let class = ClassConfig::new("an hour").retention(Duration::from_millis(HOUR_MS as u64));
        let dir = tempfile::tempdir().unwrap();
        let (store, clock) = manual(small().class(class).data_dir(dir.path()));
        // In the middle of time, with the retention's horizon at 5,000.
        let now = HOUR_MS + 5_000;
        clock.set_ms(now);
        for (id, time) in TIMES.iter().enumerate() {
            append_proof(&store, Event::new(Stream::from(id as u32 % 3), id as u64, *time, 0), 80);
        }
        if flush {
            store.flush(CLOSE).unwrap();
        }
        let kept = |now: i64| -> Vec<u64> {
            let horizon = now.saturating_sub(HOUR_MS);
            (0..TIMES.len()).filter(|id| TIMES[*id] > horizon).map(|id| id as u64).collect()
        };
        for now in [now, now + 1, now + HOUR_MS / 2] {
            clock.set_ms(now);
            assert_eq!(all_ids(&store), kept(now), "flushed: {flush}, at {now}");
            store.maintain().unwrap();
            assert_eq!(all_ids(&store), kept(now), "flushed: {flush}, at {now}, maintained");
        }
        // An event from the future stays for its retention from its arrival on, not for ever.
        clock.set_ms(now + HOUR_MS + 1);
        store.maintain().unwrap();
        let stats = store.stats();
        assert_eq!(
            stats.events.hot + stats.events.warm + stats.cold.blocks,
            0,
            "flushed: {flush}, {stats:#?}"
        );
        for now in [i64::MAX, i64::MIN] {
            clock.set_ms(now);
            store.maintain().unwrap();
            assert!(all_ids(&store).is_empty());
        }
        store.validate().unwrap();
        store.close(CLOSE).unwrap();
    }
}

#[test]
fn the_first_and_the_last_id_are_ids_like_others() {
    let ids = [0, 1, u64::MAX - 1, u64::MAX];
    let fill = |store: &Store| {
        for id in ids {
            assert!(!store.remove(id).unwrap() && store.fetch(id).unwrap().is_none());
            assert_eq!(append_proof(store, one(id), 100), Appended::Stored);
            assert_eq!(append_proof(store, one(id), 100), Appended::Duplicate);
        }
        append_proof(store, one(5), 100);
        assert!(store.remove(5).unwrap());
    };
    in_every_tier(small, fill, |store, tier| {
        assert_eq!(all_ids(store), ids, "{tier}");
        let newest: Vec<u64> =
            store.fetch_history(Stream::from(1u32)).map(|event| event.unwrap().id()).collect();
        assert!(newest.iter().rev().eq(ids.iter()), "{tier}");
        ids.iter().for_each(|id| verify(&store.fetch(*id).unwrap().unwrap()));
        assert!(store.fetch(5).unwrap().is_none());
    });
}

#[test]
fn a_class_that_the_store_does_not_have_is_refused() {
    let (other, _clock) = manual(small().class(ClassConfig::new("x")).class(ClassConfig::new("y")));
    let (store, _clock) = manual(small());
    let foreign = one(1).class(other.class("y").unwrap());
    assert_eq!(store.append(&foreign).unwrap_err().kind(), ErrorKind::InvalidInput);
    let batch = store.append_batch(&[one(1), foreign, one(2)]).unwrap();
    assert_eq!(batch.stored, 2);
    assert_eq!(batch.outcome(1).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(store.class("y").is_none());
    assert_eq!(store.fetch_scan(..).class(other.class("y").unwrap()).count(), 0);
    assert_eq!(store.fetch_history(Stream::from(1u32)).class(other.class("y").unwrap()).count(), 0);
    assert_eq!(store.pin().history(Stream::from(1u32)).class(other.class("y").unwrap()).count(), 0);
    store.validate().unwrap();
}

#[test]
fn stream_names_have_limits() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _clock) = manual(small().data_dir(dir.path()));
    for name in ["", &"n".repeat(1025), &"ü".repeat(513)] {
        assert_eq!(store.stream(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{} bytes", name.len());
    }
    let names = ["n", &"n".repeat(1024), &"ü".repeat(512), "a\0b", "a", "a\0", " ", "\n", "☃", "42"];
    let streams: Vec<Stream> = names.iter().map(|name| store.stream(name).unwrap()).collect();
    for (at, stream) in streams.iter().enumerate() {
        append_proof(&store, Event::new(*stream, at as u64, 0, 0), 80);
    }
    // Names have an end of their own, by an error that goes away for no one.
    let mut many = 0;
    let error = loop {
        match store.stream(&format!("{many} {}", "x".repeat(900))) {
            Ok(_) => many += 1,
            Err(error) => break error,
        }
    };
    assert!(error.kind() == ErrorKind::MemoryPressure && many > 50, "{many}: {error}");
    assert!(!error.is_retryable() && error.retry_after().is_none(), "{error}");
    assert_eq!(store.stream("n").unwrap(), streams[0]);
    store.validate().unwrap();
    store.close(CLOSE).unwrap();
    let (store, _clock) = manual(small().data_dir(dir.path()));
    for (at, (name, stream)) in names.iter().zip(&streams).enumerate() {
        assert_eq!(store.stream(name).unwrap(), *stream);
        assert_eq!(store.stream_name(*stream).as_deref(), Some(*name));
        assert_eq!(
            store.fetch_history(*stream).map(|event| event.unwrap().id()).collect::<Vec<_>>(),
            [at as u64]
        );
    }
    let numbered = Stream::from(42u32);
    assert!(store.stream_name(numbered).is_none() && store.fetch_history(numbered).count() == 0);
}

/// A million in a release build; a fifth of it where the compiler does not optimise.
#[test]
fn a_million_streams_fit_a_store_of_256_mib() {
    let count: u64 = if cfg!(debug_assertions) { 200_000 } else { 1_000_000 };
    println!("{count} streams");
    let dir = tempfile::tempdir().unwrap();
    let config =
        Config::builder().memory("256MiB").data_dir(dir.path()).append_timeout(Duration::from_secs(20));
    let store = Store::open(config.build().unwrap()).unwrap();
    let stream = |number: u64| Stream::try_from((number * 0x1_0000_0001) & !(1 << 63)).unwrap();
    let now = crate::common::wall_ms();
    let payloads: Vec<Vec<u8>> = (0..500).map(|n| vec![n as u8; 50]).collect();
    for first in (0..count).step_by(500) {
        let event = |n: u64| Event::new(stream(first + n), first + n, now, 0).payload(&payloads[n as usize]);
        let batch: Vec<Event<'_>> = (0..500).map(event).collect();
        assert_eq!(store.append_batch(&batch).unwrap().all_accepted().unwrap().stored, 500);
        if first % 50_000 == 0 {
            let stats = store.stats();
            assert!(stats.memory_bytes <= 256 << 20, "{stats:#?}");
        }
    }
    for number in (0..count).step_by(997) {
        let events: Vec<u64> = store.fetch_history(stream(number)).map(|event| event.unwrap().id()).collect();
        assert_eq!(events, [number]);
        assert_eq!(store.fetch(number).unwrap().unwrap().payload(), payloads[(number % 500) as usize]);
    }
    assert_eq!(store.fetch_scan(..).timeout(Duration::from_secs(60)).count() as u64, count);
    store.validate().unwrap();
}

#[test]
fn one_hot_stream_takes_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _clock) = manual(small().partitions(4).data_dir(dir.path()));
    let count = 24_000u64;
    for id in 0..count {
        append_proof(&store, Event::new(Stream::from(7u32), id, 1_000_000 + id as i64, 0), 600);
    }
    let mut next = count;
    for event in store.fetch_history(Stream::from(7u32)) {
        let event = event.unwrap();
        next -= 1;
        assert_eq!(event.id(), next);
        verify(&event);
    }
    assert_eq!(next, 0);
    let range = 1_000_000 + 9_990..1_000_000 + 10_010;
    let some: Vec<u64> =
        store.fetch_history(Stream::from(7u32)).range(range).map(|event| event.unwrap().id()).collect();
    assert_eq!(some, (9_990..10_010).rev().collect::<Vec<_>>());
    assert!(store.stats().events.released > 0);
    store.validate().unwrap();
}

#[test]
fn a_contradicting_configuration_tells_all_its_faults_at_once() {
    let seconds = Duration::from_secs;
    let mut config = Config::builder()
        .memory("12 parsecs")
        .hot(|hot| hot.max("1GiB").page_size(3_000u64).initial("2GiB"))
        .warm(|warm| warm.max("-4MiB"))
        .index(|index| index.max("1KiB").page_size("4MiB"))
        .buffers("10KiB")
        .partitions(12)
        .max_event("1TiB")
        .thresholds(f64::NAN, f64::INFINITY, -0.5)
        .slice(0, Duration::ZERO)
        .block_bytes("1KiB")
        .worker_cpus([70_000])
        .class(ClassConfig::new(""))
        .class(ClassConfig::new("twice").hot_for(seconds(2)).warm_for(seconds(1)))
        .class(ClassConfig::new("twice").retention(Duration::ZERO));
    for number in 0..20 {
        config = config.class(ClassConfig::new(format!("class {number}")));
    }
    let error = config.build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(!error.is_retryable());
    let fields: Vec<&str> = error.config_faults().iter().map(|fault| fault.field.as_str()).collect();
    for field in [
        "memory",
        "hot.page_size",
        "hot.initial",
        "warm.max",
        "index.max",
        "index.page_size",
        "buffers",
        "partitions",
        "max_event",
        "thresholds.warning",
        "thresholds.critical",
        "thresholds.reject",
        "thresholds",
        "slice.events",
        "slice.time",
        "block_bytes",
        "worker_cpus",
        "classes",
        "class \"\".name",
        "class \"twice\".name",
        "class \"twice\".warm_for",
        "class \"twice\".retention",
    ] {
        assert!(fields.contains(&field), "{field} is missing in {fields:?}");
    }
    let text = error.to_string();
    assert!(
        error.config_faults().iter().all(|fault| fault.problem.len() > 10 && text.contains(&fault.problem))
    );
}

#[test]
fn no_number_of_a_configuration_makes_it_panic() {
    let sizes = [0, 1, 63, 2_047, 4_096, 1 << 20, 3 << 20, 1 << 30, 1 << 44, u64::MAX / 2, u64::MAX];
    let mut taken = 0;
    for memory in sizes {
        for other in sizes {
            let base = || Config::builder().memory(memory);
            for config in [
                base().buffers(other),
                base().max_event(other),
                base().hot(|hot| hot.max(other)),
                base().hot(|hot| hot.page_size(other)),
                base().warm(|warm| warm.max(other).chunk(other)),
                base().index(|index| index.max(other).initial(other)),
                base().index(|index| index.page_size(other)),
                base().partitions(other as usize),
                base().block_bytes(other),
            ] {
                match config.build() {
                    Ok(config) => {
                        taken += 1;
                        assert!(config.memory == memory && config.hot.max < memory, "{config:?}");
                    }
                    Err(error) => assert!(!error.config_faults().is_empty(), "{error}"),
                }
            }
        }
    }
    assert!(taken > 20, "{taken}");
}

/// Fields of a configuration are public; what they were checked for need not hold any more once one is changed.
#[test]
fn a_configuration_that_was_changed_after_it_was_checked_is_refused() {
    let base = || Config::builder().memory("16MiB").build().unwrap();
    let changes: [fn(&mut Config); 10] = [
        |config| config.index.page_size = 0,
        |config| config.index.page_size = 32,
        |config| config.hot.page_size = 1 << 30,
        |config| config.hot.max = 1 << 40,
        |config| config.hot.ceiling = 4096,
        |config| config.warm.ceiling = 4096,
        |config| config.partitions = 0,
        |config| config.max_event = u64::MAX,
        |config| config.classes.clear(),
        |config| config.classes.extend((0..40).map(|number| ClassConfig::new(format!("class {number}")))),
    ];
    for change in changes {
        let mut config = base();
        change(&mut config);
        let error = Store::open(config).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert_eq!(error.config_faults().len(), 1, "{error}");
    }
    // What a store says that it runs with is good for another one, also where it has taken partitions over.
    let dir = tempfile::tempdir().unwrap();
    let of =
        |partitions: usize| Config::builder().memory("32MiB").data_dir(dir.path()).partitions(partitions);
    drop(Store::open(of(2).build().unwrap()).unwrap());
    let store = Store::open(Config::builder().memory("32MiB").data_dir(dir.path()).build().unwrap()).unwrap();
    let config = store.config().clone();
    assert_eq!(config.partitions, 2);
    drop(store);
    assert_eq!(Store::open(config.clone()).unwrap().config(), &config);
}

/// A setting of the service that is empty names the current directory by accident.
#[test]
fn a_directory_without_a_name_is_a_fault() {
    let build = |config: ConfigBuilder| config.build().unwrap_err().config_faults()[0].field.clone();
    assert_eq!(build(small().data_dir("")), "data_dir");
    assert_eq!(build(small().data_dir(".").durability(Durability::Process).shared_dir("")), "shared_dir");
    small().data_dir(".").build().unwrap();
}
