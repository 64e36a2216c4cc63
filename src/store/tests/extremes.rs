//! Numbers at their ends, and ids that were chosen to be in each other's way.

use std::sync::atomic::Ordering;

use super::faults::{Tier, small};
use super::*;
use crate::event::Event;
use crate::ids::mix;
use crate::lanes::append::Appended;
use crate::pressure::RegionKind;

/// Links of chains, notes of removals and index entries all know a page by its number and generation, and generations have
/// 20 bits.
#[test]
fn generations_of_pages_wrap() {
    let clock = Clock::manual(0);
    let class = ClassConfig::new("a").hot_for(Duration::from_secs(10)).warm_for(Duration::from_secs(60));
    let dir = tempfile::tempdir().unwrap();
    let config = Config::builder()
        .memory("16MiB")
        .partitions(1)
        .hot(|hot| hot.max("1MiB").page_size("2KiB"))
        .class(class.on_leave(OnLeave::Drop))
        .durability(Durability::Process)
        .shared_dir(dir.path())
        .background(false);
    let config = config.build().unwrap();
    let open = || Store::builder(config.clone()).clock(clock.clone()).open().unwrap();
    let mut store = open();
    store.core.lanes.pages.age_free_numbers();
    let (mut now, mut seen) = (0, std::collections::BTreeSet::new());
    for round in 0..12u64 {
        let ids = round * 1000..round * 1000 + 400;
        for id in ids.clone() {
            let event = Event::new(Stream::from((id % 5) as u32), id, now, 0);
            assert_eq!(store.append(&event.payload(&id.to_le_bytes())).unwrap(), Appended::Stored);
        }
        assert!(store.remove(round * 1000 + 3).unwrap());
        // Half of them squeezed, and all of them out of memory some time later.
        now += if round % 2 == 0 { 15_000 } else { 61_000 };
        clock.set_ms(now);
        store.maintain().unwrap();
        settle(&store);
        let guard = store.pin();
        let mut all: Vec<u64> = guard.scan(..).map(|event| event.id()).collect();
        for event in guard.scan(..) {
            assert_eq!(event.payload(), event.id().to_le_bytes());
        }
        for stream in 0..5u32 {
            let history: Vec<u64> = guard.history(Stream::from(stream)).map(|event| event.id()).collect();
            assert!(history.windows(2).all(|pair| pair[0] > pair[1]), "round {round}: newest first");
            assert!(history.iter().all(|id| id % 5 == u64::from(stream)));
            let of_stream = all.iter().filter(|id| *id % 5 == u64::from(stream)).count();
            assert_eq!(history.len(), of_stream, "round {round}");
        }
        all.sort_unstable();
        let last = ids.filter(|id| id % 1000 != 3);
        let expected: Vec<u64> = if round % 2 == 0 { last.collect() } else { Vec::new() };
        assert!(all.ends_with(&expected), "round {round}: {} of {}", all.len(), expected.len());
        assert!((0..=round).all(|round| guard.get(round * 1000 + 3).is_none()), "removed");
        drop(guard);
        let pages = &store.core.lanes.pages;
        seen.extend((1..40).map(|page| pages.place(LogicalPage(page)).generation()));
        store.validate().unwrap();
        if round % 3 == 2 {
            store.abandon();
            store = open();
            assert!(store.recovered().unwrap().is_whole());
        }
    }
    assert!(seen.contains(&Addr::HIGH_MASK) && seen.contains(&0), "{seen:?}");
}

#[test]
fn a_tier_that_has_given_all_numbers_of_pages_is_refused_before_they_wrap() {
    let dir = tempfile::tempdir().unwrap();
    let tier = Tier::new(dir.path());
    let open = || Store::builder(small(false)).cold(tier.clone()).open();
    for begin in [u64::MAX, u64::MAX - (1 << 40) + 1] {
        tier.begin.store(begin, Ordering::SeqCst);
        assert_eq!(open().err().unwrap().kind(), ErrorKind::Incompatible, "{begin:#x}");
    }
    // The last range that can be used.
    tier.begin.store(u64::MAX - (2 << 40) + 1, Ordering::SeqCst);
    let store = open().unwrap();
    append(&store, "default", 0..200);
    store.flush(Duration::from_secs(60)).unwrap();
    append(&store, "default", 200..260);
    assert!(store.remove(7).unwrap());
    store.flush(Duration::from_secs(60)).unwrap();
    store.validate().unwrap();
    assert!((0..260).all(|id| store.fetch(id).unwrap().is_some() == (id != 7)));
    drop(store);
    tier.begin.store(0, Ordering::SeqCst);
    let store = open().unwrap();
    assert!((0..260).all(|id| store.fetch(id).unwrap().is_some() == (id != 7)));
}

/// A store of the seed 7 that has the smallest pages of the index.
fn small_index(seed: u64, partitions: usize) -> Store {
    let config = Config::builder().memory("64MiB").partitions(partitions).background(false);
    let config = config.index(|index| index.max("8MiB").page_size("2KiB"));
    Store::builder(config.build().unwrap()).seed(seed).open().unwrap()
}

/// Found by trying three thousand million: ids whose hashes with the seed 7 have the same 23 lowest bits, and so the same
/// page and tag, and the same 5 highest ones, which choose the bucket.
const ALIKE: [u64; 10] = [
    0x9e37_79b9_7f4a_7c15,
    0x3563_dd3a_76e0_56fc,
    0x85db_707e_8eb8_e413,
    0x1e48_3488_17ef_009c,
    0xd32c_57ff_5e5a_7465,
    0x99e4_057e_0705_bb34,
    0x51ca_e0b5_b425_b2d0,
    0x1fa3_af83_a740_af2a,
    0xf40e_27c2_b31e_bf16,
    0x4b83_fc16_553f_cf22,
];

#[test]
fn ids_with_the_same_page_tag_and_bucket_are_told_apart_in_every_tier() {
    let key = |id: u64| (mix(id, 7) & ((1 << 23) - 1), mix(id, 7) >> 59);
    assert!(ALIKE.iter().all(|id| key(*id) == key(ALIKE[0])), "they collide");
    let clock = Clock::manual(0);
    let class = ClassConfig::new("a").hot_for(Duration::from_secs(10)).warm_for(Duration::from_secs(600));
    let dir = tempfile::tempdir().unwrap();
    let config = Config::builder().memory("64MiB").partitions(1).background(false).class(class);
    let config = config.index(|index| index.max("8MiB").page_size("2KiB")).data_dir(dir.path());
    let store = Store::builder(config.build().unwrap()).seed(7).clock(clock.clone()).open().unwrap();
    let event = |id| Event::new(Stream::from(1u32), id, 0, 0);
    let check = |there: &[u64], what: &str| {
        let guard = store.pin();
        for id in ALIKE {
            let found = guard.get(id).map(|event| (event.id(), event.payload().to_vec()));
            let expected = there.contains(&id).then(|| (id, id.to_le_bytes().to_vec()));
            assert_eq!(found, expected, "{what}");
            assert_eq!(store.fetch(id).unwrap().map(|event| event.id()), there.contains(&id).then_some(id));
        }
        assert_eq!(guard.get_batch(&ALIKE).iter().flatten().count(), there.len(), "{what}");
    };
    for (at, id) in ALIKE.iter().enumerate() {
        check(&ALIKE[..at], "before the next comes");
        let payload = id.to_le_bytes();
        let new = [event(*id).payload(&payload), event(ALIKE[0]).payload(&[0; 8])];
        if at % 2 == 0 {
            assert_eq!(store.append(&new[0]).unwrap(), Appended::Stored);
        } else {
            let batch = store.append_batch(&new).unwrap();
            assert_eq!((batch.stored, batch.duplicates), (1, 1));
        }
        assert_eq!(store.append(&new[0].payload(&[1; 8])).unwrap(), Appended::Duplicate);
    }
    assert!(store.remove(ALIKE[4]).unwrap() && !store.remove(ALIKE[4]).unwrap());
    let left = [&ALIKE[..4], &ALIKE[5..]].concat();
    check(&left, "hot");
    clock.set_ms(20_000);
    store.maintain().unwrap();
    settle(&store);
    assert_eq!(store.stats().events.hot, 0);
    check(&left, "warm");
    assert_eq!(store.append(&event(ALIKE[9]).payload(&[1; 8])).unwrap(), Appended::Duplicate);
    store.validate().unwrap();
}

/// What somebody who knew a store's seed could choose: ids that all come to a 64th of the index, and there to one bucket of
/// each page; streams that all come to one partition and a 64th of its directory.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test that measures")]
fn ids_and_streams_chosen_to_collide_are_ordinary_under_another_seed() {
    const COUNT: usize = 4000;
    let collides = |id: &u64| mix(*id, 7) & 63 == 5 && mix(*id, 7) >> 59 == 3;
    let scattered = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let ids: Vec<u64> = (1..).map(scattered).filter(collides).take(COUNT).collect();
    let in_one_place = |stream: &u64| {
        let hash = crate::index::streams::stream_hash(Stream::from_raw(*stream), 7);
        hash & 3 == 1 && hash >> 32 & 63 == 5
    };
    let streams: Vec<u64> = (1..1 << 31).filter(in_one_place).take(COUNT).collect();
    let random: Vec<u64> = (1..=COUNT as u64).map(|number| scattered(number << 20 | 77)).collect();
    let fill = |seed: u64, ids: &[u64], streams: &[u64]| {
        let store = small_index(seed, 4);
        let begin = std::time::Instant::now();
        for (id, stream) in ids.iter().zip(streams) {
            match store.append(&Event::new(Stream::from_raw(*stream), *id, 0, 0)) {
                Ok(done) => assert_eq!(done, Appended::Stored),
                // The index may be full of splits; then it says so.
                Err(error) => assert_eq!(error.kind(), ErrorKind::MemoryPressure, "{error}"),
            }
        }
        let took = begin.elapsed();
        let guard = store.pin();
        let found = ids.iter().filter(|id| guard.get(**id).is_some_and(|event| event.id() == **id)).count();
        drop(guard);
        store.validate().unwrap();
        (found, store.stats().region(RegionKind::Index).used_bytes, took)
    };
    let plain: Vec<u64> = (1..=COUNT as u64).collect();
    let (all, ordinary, in_time) = fill(7, &random, &plain);
    let (there, attacked, attacked_in) = fill(7, &ids, &streams);
    println!(
        "ordinary {ordinary} bytes in {in_time:?}; attacked {attacked} bytes in {attacked_in:?}, {there} there"
    );
    assert!(all == COUNT && attacked > ordinary * 13 / 10, "the choice does harm where the seed is known");
    for seed in [8, 99, 0xdead_beef] {
        let (there, bytes, took) = fill(seed, &ids, &streams);
        println!("seed {seed}: {bytes} bytes in {took:?}");
        assert_eq!(there, COUNT);
        assert!(
            bytes.abs_diff(ordinary) < ordinary / 10,
            "seed {seed}: {bytes} bytes, ordinary are {ordinary}"
        );
    }
}
