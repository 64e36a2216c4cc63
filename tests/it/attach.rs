//! Stores that were closed and whose pages lie in memory: the next opening goes on with them as they are.

use std::path::Path;
use std::time::Duration;

use esker::{
    ClassConfig, Clock, ConfigBuilder, Durability, Event, OnLeave, Recovered, RegionKind, Store, Stream,
};

use crate::common::{Random, append_proof, proof, small, verify, wait_until};
use crate::kept::stream_of;
use crate::tier::{Fault, MapTier};

const CLOSE: Duration = Duration::from_secs(60);
const EVENTS: u64 = 3_000;

/// Directories of a store: of its pages, in memory, and of its cold tier.
struct Dirs {
    shared: tempfile::TempDir,
    data: tempfile::TempDir,
}

impl Dirs {
    fn new() -> Self {
        Self { shared: tempfile::tempdir_in("/dev/shm").unwrap(), data: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.shared.path().join("pages").join(name)
    }

    fn alone(&self) -> ConfigBuilder {
        small().durability(Durability::Process).shared_dir(self.shared.path().join("pages")).background(false)
    }

    fn config(&self) -> ConfigBuilder {
        self.alone().data_dir(self.data.path())
    }
}

fn open(config: ConfigBuilder) -> Store {
    let store = Store::open(config.build().unwrap()).unwrap();
    store.validate().unwrap();
    store
}

fn recovered(store: &Store) -> Recovered {
    let found = store.recovered().unwrap().clone();
    assert!(found.is_whole(), "{found:?}");
    found
}

fn close(store: Store) {
    store.close(CLOSE).unwrap();
}

/// Most ids come in sequence; one in four is far from all others.
fn id(number: u64) -> u64 {
    if number.is_multiple_of(4) { number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63 } else { number }
}

fn append_some(store: &Store, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let event = Event::new(stream_of(store, number), id(number), number as i64, number as u8);
        append_proof(store, event, 50 + (number % 300) as usize);
    }
}

/// Everything that can be asked for: events by time, and each stream's history.
fn everything(store: &Store) -> (Vec<(u64, i64)>, Vec<Vec<u64>>) {
    let guard = store.pin();
    let mut events: Vec<(u64, i64)> =
        guard.scan(..).inspect(verify).map(|e| (e.id(), e.timestamp())).collect();
    events.sort_unstable();
    assert!(events.iter().all(|(id, _)| guard.get(*id).is_some()));
    let streams = (0..9u32).map(Stream::from).chain([store.stream("named").unwrap()]);
    (events, streams.map(|stream| guard.history(stream).map(|event| event.id()).collect()).collect())
}

#[test]
fn a_closed_store_goes_on_as_it_was() {
    let dirs = Dirs::new();
    let store = open(dirs.alone());
    append_some(&store, 0..EVENTS);
    let removed = [0, 7, 100, EVENTS - 1].map(id);
    removed.iter().for_each(|id| assert!(store.remove(*id).unwrap()));
    let (mut before, mut last_id) = (everything(&store), store.next_id());
    close(store);
    for round in 0..4 {
        let store = open(dirs.alone());
        let found = recovered(&store);
        assert!(found.attached && found.was_closed && found.names == 1, "{found:?}");
        assert_eq!((found.events, found.removed), (before.0.len() as u64, 4));
        assert_eq!(everything(&store), before);
        assert!(removed.iter().all(|id| store.pin().get(*id).is_none()));
        let next_id = store.next_id();
        assert!(next_id > last_id);
        last_id = next_id;
        let from = EVENTS + round * 1000;
        append_some(&store, from..from + 1000);
        // The ids of before are known.
        let again = Event::new(Stream::from(1u32), id(1), 0, 0);
        assert_eq!(store.append(&again).unwrap(), esker::Appended::Duplicate);
        store.validate().unwrap();
        let now = everything(&store);
        assert_eq!(now.0.len(), before.0.len() + 1000);
        assert!(now.1.iter().zip(&before.1).all(|(now, before)| now.ends_with(before)));
        before = now;
        close(store);
    }
}

#[test]
fn a_store_that_was_killed_later_is_looked_at() {
    let dirs = Dirs::new();
    let store = open(dirs.alone());
    append_some(&store, 0..EVENTS);
    close(store);
    for round in 0..3 {
        let store = open(dirs.alone());
        assert!(recovered(&store).attached);
        if round > 0 {
            append_some(&store, EVENTS + round * 100..EVENTS + round * 100 + 100);
            assert!(store.remove(id(round)).unwrap());
        }
        let before = everything(&store);
        store.abandon();
        let store = open(dirs.alone());
        let found = recovered(&store);
        assert!(!found.attached && !found.was_closed, "{found:?}");
        assert_eq!(everything(&store), before);
        close(store);
    }
}

#[test]
fn an_image_is_of_one_close() {
    let dirs = Dirs::new();
    let store = open(dirs.alone());
    append_some(&store, 0..100);
    close(store);
    let image = std::fs::read(dirs.file("image")).unwrap();
    let store = open(dirs.alone());
    assert!(recovered(&store).attached && !dirs.file("image").exists(), "it ends with the opening");
    append_some(&store, 100..200);
    let before = everything(&store);
    close(store);
    std::fs::write(dirs.file("image"), &image).unwrap();
    let store = open(dirs.alone());
    assert!(!recovered(&store).attached);
    assert_eq!(everything(&store), before);
}

/// A class whose pages are squeezed at once.
fn at_once() -> ClassConfig {
    ClassConfig::new("at once").hot_for(Duration::ZERO).warm_for(Duration::from_secs(1 << 40))
}

#[test]
fn warm_pages_and_large_events_go_their_way() {
    let dirs = Dirs::new();
    let config = || dirs.config().hot(|hot| hot.max("2MiB").page_size("8KiB")).class(at_once());
    let store = open(config());
    append_some(&store, 0..EVENTS);
    append_proof(&store, Event::new(Stream::from(1u32), EVENTS + 1, 5, 0), 100_000);
    store.maintain().unwrap();
    assert!(store.remove(1).unwrap() && store.remove(EVENTS - 2).unwrap());
    let (before, events) = (everything(&store), store.stats().events);
    assert!(events.warm > EVENTS / 2, "{events:?}");
    close(store);
    let store = open(config());
    assert!(recovered(&store).attached);
    assert_eq!(everything(&store), before);
    assert_eq!(store.stats().events.hot + store.stats().events.warm, events.hot + events.warm);
    // More than there is room for: the oldest leave, and the cold tier has them.
    append_some(&store, EVENTS + 2..EVENTS * 8);
    store.maintain().unwrap();
    store.validate().unwrap();
    assert_eq!(store.close(CLOSE).unwrap().left, 0);
    drop(store);
    let store = open(config());
    assert!(recovered(&store).attached);
    let mut ids: Vec<u64> = store.fetch_scan(..).map(|event| event.unwrap().id()).collect();
    ids.sort_unstable();
    let gone = [1, EVENTS - 2, EVENTS];
    let mut wanted: Vec<u64> = (0..EVENTS * 8).filter(|number| !gone.contains(number)).map(id).collect();
    wanted.sort_unstable();
    let lost: Vec<_> = wanted.iter().filter(|id| ids.binary_search(id).is_err()).take(5).collect();
    assert_eq!(ids.len(), wanted.len(), "such as {lost:?}");
}

#[test]
fn another_layout_of_the_index_is_built_anew() {
    let dirs = Dirs::new();
    let store = open(dirs.alone());
    append_some(&store, 0..EVENTS);
    let before = everything(&store);
    close(store);
    let index = |config: ConfigBuilder| config.hot(|hot| hot.max("10MiB")).warm(|warm| warm.max("1MiB"));
    let dirs_index = Dirs::new();
    let store = open(index(dirs_index.alone()));
    append_some(&store, 0..EVENTS);
    close(store);
    for (dirs, config) in [
        (&dirs, dirs.alone().class(ClassConfig::new("default")).class(ClassConfig::new("another"))),
        (&dirs_index, index(dirs_index.alone()).index(|index| index.page_size("4KiB"))),
        (&dirs_index, index(dirs_index.alone()).index(|index| index.max("1MiB"))),
    ] {
        let store = open(config.clone());
        assert!(!recovered(&store).attached);
        assert_eq!(everything(&store), before);
        close(store);
        // And then as that one left it.
        let store = open(config);
        assert!(recovered(&store).attached, "{}", dirs.shared.path().display());
        assert_eq!(everything(&store), before);
        close(store);
    }
}

#[test]
fn what_the_cold_tier_was_told_meanwhile_holds() {
    let dirs = Dirs::new();
    let store = open(dirs.config());
    append_some(&store, 0..EVENTS);
    assert_eq!(store.close(CLOSE).unwrap().left, 0);
    drop(store);
    // The cold tier has everything, so a store may go on without these pages.
    let alone =
        small().data_dir(dirs.data.path()).background(false).shared_dir(dirs.shared.path().join("pages"));
    let store = Store::open(alone.build().unwrap()).unwrap();
    assert!(store.remove(id(6)).unwrap());
    close(store);
    // They are let go: the data directory is of a later time.
    let store = open(dirs.config());
    assert!(store.recovered().is_none());
    assert!(store.pin().get(id(6)).is_none() && store.fetch(id(6)).unwrap().is_none());
    close(store);
    let store = open(dirs.config());
    assert!(recovered(&store).attached);
    assert!(store.pin().get(id(6)).is_none() && store.fetch(id(6)).unwrap().is_none());
    assert_eq!(store.fetch_scan(..).count() as u64, EVENTS - 1);
}

/// No class has a retention, so nothing but the events themselves says that they end.
#[test]
fn what_expires_by_itself_does_so_in_the_next_process() {
    let (dirs, clock) = (Dirs::new(), Clock::manual(1_000_000));
    let open = || Store::builder(dirs.alone().build().unwrap()).clock(clock.clone()).open().unwrap();
    let store = open();
    let event = |id| Event::new(Stream::from(1u32), id, clock.now_ms(), 1);
    store.append(&event(1).ttl(Duration::from_secs(60))).unwrap();
    store.append(&event(2)).unwrap();
    close(store);
    let store = open();
    assert!(recovered(&store).attached && store.pin().get(1).is_some());
    clock.set_ms(clock.now_ms() + 61_000);
    assert!(store.pin().get(1).is_none() && store.pin().get(2).is_some());
}

/// An expired event gives its id free before its page is packed, which waits for readers.
#[test]
fn an_id_that_came_again_is_the_later_events_after_a_kill() {
    let (dirs, clock) = (Dirs::new(), Clock::manual(1_000_000));
    let open = || {
        let config = dirs.alone().hot(|hot| hot.page_size(16 << 10)).class(ClassConfig::new("first"));
        let config = config.class(ClassConfig::new("second")).build().unwrap();
        Store::builder(config).clock(clock.clone()).open().unwrap()
    };
    let store = open();
    for id in 0..1000 {
        let event = Event::new(Stream::from((id % 9) as u32), id, clock.now_ms(), 0);
        append_proof(&store, event.ttl(Duration::from_secs(10)), 300);
    }
    // A scan that has begun holds everything.
    let (guard, second) = (store.pin(), store.class("second").unwrap());
    let mut scan = guard.scan(..);
    scan.next().unwrap();
    clock.set_ms(1_000_000 + 120_000);
    let event = Event::new(Stream::from(1u32), 3, clock.now_ms(), 0).class(second).payload(b"again");
    wait_until("the id is free", Duration::from_secs(60), || {
        store.maintain().unwrap();
        store.append(&event).unwrap() == esker::Appended::Stored
    });
    assert_eq!(store.stats().defrag.pages, 0, "the scan holds it up");
    drop(scan);
    drop(guard);
    store.abandon();
    // Also by a clock that was set back, which shows again what had expired and is still there.
    clock.set_ms(1_000_000);
    let store = open();
    recovered(&store);
    assert_eq!(store.pin().get(3).unwrap().payload(), b"again");
    store.validate().unwrap();
}

#[test]
fn regions_that_were_resized_and_emptied_go_on() {
    let dirs = Dirs::new();
    let config = || {
        dirs.config()
            .hot(|hot| hot.max("2MiB").ceiling("6MiB").page_size("8KiB"))
            .warm(|warm| warm.max("1MiB").ceiling("2MiB"))
            .index(|index| index.max("1MiB").ceiling("3MiB"))
            .class(ClassConfig::new("short").compress(false))
    };
    let store = open(config());
    for (kind, bytes) in [(RegionKind::Hot, "4MiB"), (RegionKind::Index, "2MiB")] {
        store.resize_region(kind, bytes, CLOSE).unwrap();
    }
    append_some(&store, 0..EVENTS * 3);
    store.maintain().unwrap();
    for (kind, bytes) in [(RegionKind::Hot, "1MiB"), (RegionKind::Index, "1MiB")] {
        store.resize_region(kind, bytes, CLOSE).unwrap();
    }
    let before = everything(&store);
    close(store);
    let store = open(config());
    assert!(recovered(&store).attached);
    assert_eq!(everything(&store), before);
    append_some(&store, EVENTS * 3..EVENTS * 6);
    store.maintain().unwrap();
    store.validate().unwrap();
    close(store);
    let store = open(config());
    assert!(recovered(&store).attached);
    assert_eq!(store.fetch_scan(..).count() as u64, EVENTS * 6);
}

/// Of several blocks of a lane the tier has stored the last one only. Those before it are still to be written.
#[test]
fn a_put_that_failed_in_part_confirms_nothing_to_the_next_process() {
    let (dirs, tier) = (Dirs::new(), MapTier::new());
    let open = |config: ConfigBuilder| {
        let config = config.partitions(1).block_bytes("16KiB").class(ClassConfig::new("hot").compress(false));
        Store::builder(config.build().unwrap()).cold(tier.clone()).open().unwrap()
    };
    let store = open(dirs.alone().hot(|hot| hot.page_size("8KiB")));
    append_some(&store, 0..EVENTS);
    tier.set(Fault::FailInPart);
    store.maintain().unwrap_err();
    assert!(store.close(Duration::from_millis(1)).unwrap().left > 0);
    drop(store);
    tier.set(Fault::None);
    let store = open(dirs.alone().hot(|hot| hot.page_size("8KiB")));
    assert!(recovered(&store).attached);
    assert_eq!(store.close(CLOSE).unwrap().left, 0);
    drop(store);
    drop(dirs);
    let store = open(small().background(false));
    assert_eq!(store.fetch_scan(..).count() as u64, EVENTS);
}

/// The index goes on as large as it had become; what that is more than was configured is taken from the others, and told.
#[test]
fn an_index_that_had_been_made_larger_is_within_the_bound() {
    let dirs = Dirs::new();
    let open = || {
        let config = dirs.alone().hot(|hot| hot.page_size("8KiB")).warm(|warm| warm.max("1MiB"));
        let store = open(config.index(|index| index.max("256KiB").ceiling("3MiB")));
        let (stats, memory) = (store.stats(), store.config().memory);
        let regions = [RegionKind::System, RegionKind::Hot, RegionKind::Warm, RegionKind::Index];
        let all: u64 = regions.iter().map(|kind| stats.region(*kind).max_bytes).sum();
        assert!(all + store.config().buffers <= memory, "{all} of {memory}");
        store
    };
    let store = open();
    assert!(store.stats().warnings.is_empty());
    store.resize_region(RegionKind::Hot, "4MiB", CLOSE).unwrap();
    store.resize_region(RegionKind::Index, "2MiB", CLOSE).unwrap();
    let far = |number: u64| id(number * 4);
    let mut count = 0;
    while store.stats().region(RegionKind::Index).used_bytes < 1280 << 10 {
        for number in count..count + 1000 {
            store.append(&Event::new(Stream::from(1u32), far(number), 0, 0)).unwrap();
        }
        count += 1000;
    }
    close(store);
    let store = open();
    assert!(recovered(&store).attached);
    assert!((0..count).all(|number| store.pin().get(far(number)).is_some()));
    let warnings = store.stats().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("index region")), "{warnings:?}");
}

// ---- damaged files ----

fn damaged_config(dirs: &Dirs) -> ConfigBuilder {
    dirs.alone().hot(|hot| hot.max("2MiB").page_size("8KiB")).warm(|warm| warm.max("1MiB")).class(at_once())
}

fn filled() -> Dirs {
    let dirs = Dirs::new();
    let store = open(damaged_config(&dirs));
    append_some(&store, 0..EVENTS / 2);
    store.maintain().unwrap();
    append_some(&store, EVENTS / 2..EVENTS);
    (0..EVENTS).step_by(50).for_each(|number| assert!(store.remove(id(number)).unwrap()));
    close(store);
    dirs
}

fn copy(from: &Dirs) -> Dirs {
    let dirs = Dirs::new();
    copy_to(from, &dirs);
    dirs
}

fn copy_to(from: &Dirs, to: &Dirs) {
    std::fs::create_dir_all(to.file("")).unwrap();
    for entry in std::fs::read_dir(from.file("")).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.file("").join(entry.file_name())).unwrap();
    }
    private(&to.file(""));
}

fn private(path: &Path) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
}

/// What a store that was closed and then damaged still gives: whether it was attached, how many events are missing, and
/// whether that was told. `None`: it was refused.
fn look_at(dirs: &Dirs, what: &str) -> Option<(bool, usize, bool)> {
    let store = match Store::open(damaged_config(dirs).build().unwrap()) {
        Ok(store) => store,
        Err(error) => {
            assert!(
                matches!(error.kind(), esker::ErrorKind::Corrupt | esker::ErrorKind::Incompatible),
                "{what}: {error}"
            );
            return None;
        }
    };
    store.validate().unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = store.recovered().unwrap_or_else(|| panic!("{what}: begun anew")).clone();
    let mut ids = std::collections::BTreeSet::new();
    for event in store.pin().scan(..) {
        let number = event.timestamp() as u64;
        let right =
            event.payload() == proof(event.stream(), id(number), number as i64, 50 + (number % 300) as usize);
        assert!(
            event.id() == id(number) && right && !number.is_multiple_of(50),
            "{what}: event {number} is not what it was"
        );
        ids.insert(number);
    }
    let missing = (0..EVENTS).filter(|number| !number.is_multiple_of(50) && !ids.contains(number)).count();
    append_some(&store, EVENTS..EVENTS + 50);
    store.validate().unwrap_or_else(|error| panic!("{what}, later: {error}"));
    store.abandon();
    Some((found.attached, missing, !found.is_whole()))
}

#[test]
fn what_is_damaged_is_not_attached() {
    let whole = filled();
    let (attached, missing, told) = look_at(&copy(&whole), "nothing").unwrap();
    assert!(attached && missing == 0 && !told);
    let rounds = if cfg!(debug_assertions) { 20 } else { 200 };
    let mut random = Random::new(0x5eed_000a);
    for name in ["image", "index", "index tables", "table", "places"] {
        let dirs = copy(&whole);
        let (mut noticed, mut gone) = (0, 0);
        for round in 0..rounds {
            copy_to(&whole, &dirs);
            let path = dirs.file(name);
            let mut bytes = std::fs::read(&path).unwrap();
            // Where there is something: most of the files are zero.
            let at = loop {
                let at = random.below(bytes.len() as u64) as usize;
                if bytes[at] != 0 {
                    break at;
                }
            };
            bytes[at] ^= 1 << random.below(8);
            std::fs::write(&path, &bytes).unwrap();
            let what = format!("byte {at} of {name}, round {round}");
            let (attached, missing, told) =
                look_at(&dirs, &what).unwrap_or_else(|| panic!("{what}: refused"));
            noticed += u32::from(!attached);
            gone += missing;
            assert!(missing == 0 || told, "{what}: {missing} events are missing, and nothing was said");
            // The indexes can be built anew; what is known of a page cannot.
            assert!(
                missing == 0 || ["table", "places"].contains(&name),
                "{what}: {missing} events are missing"
            );
            std::fs::remove_dir_all(dirs.file("")).unwrap();
        }
        println!("{name}: of {rounds} rounds {noticed} not attached; {gone} events missing");
        // What no page or directory leads to does not matter.
        assert!(noticed * 2 > rounds, "{name}: noticed {noticed} times of {rounds}");
    }
}

/// Hot pages are as alike as they can be, so that nothing in one says that it is not another.
#[test]
fn a_page_is_not_taken_for_an_older_one_that_lay_elsewhere() {
    let whole = Dirs::new();
    let leaves = || {
        ClassConfig::new("leaves").hot_for(Duration::ZERO).warm_for(Duration::ZERO).on_leave(OnLeave::Drop)
    };
    let config =
        |dirs: &Dirs| dirs.alone().partitions(1).hot(|hot| hot.max("1MiB").page_size("8KiB")).class(leaves());
    let open = |dirs: &Dirs| Store::open(config(dirs).build().unwrap()).unwrap();
    let store = open(&whole);
    let class = store.class("leaves").unwrap();
    let mut count = 0;
    let mut append = |events: u64| {
        for id in count..count + events {
            store.append(&Event::new(Stream::from(1u32), id, 5, 1).class(class).payload(&[7; 60])).unwrap();
        }
        count += events;
    };
    append(3_000);
    store.maintain().unwrap();
    let left = store.pin().scan(..).count() as u64;
    assert!(left < 100, "all but the open page have left: {left}");
    append(1_000);
    let count = left + 1_000;
    store.abandon();
    let places = std::fs::read(whole.file("places")).unwrap();
    let words: Vec<u64> = places.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    let hot: Vec<usize> = (0..words.len()).filter(|page| words[*page] >> 53 & 3 == 1).collect();
    let frame = |page: usize| words[page] as u32;
    let in_use: Vec<u32> = hot.iter().map(|page| frame(*page)).collect();
    let free: Vec<u32> = (0..32).filter(|frame| !in_use.contains(frame)).collect();
    assert!(hot.len() > 5 && free.len() > 5, "{in_use:?}");
    for (round, page) in hot.iter().enumerate() {
        let (dirs, elsewhere) = (copy(&whole), free[round % free.len()]);
        let mut bytes = places.clone();
        bytes[page * 8..page * 8 + 4].copy_from_slice(&elsewhere.to_le_bytes());
        std::fs::write(dirs.file("places"), bytes).unwrap();
        let store = open(&dirs);
        let found = store.recovered().unwrap();
        let left = store.pin().scan(..).count() as u64;
        let what = format!("page {page} in frame {elsewhere} instead of {}", frame(*page));
        assert!(left < count && found.lost_pages == 1, "{what}: {left} of {count} events, {found:?}");
        assert_eq!(found.lost_events, count - left, "{what}: {found:?}");
        store.validate().unwrap();
    }
}

#[test]
fn what_is_cut_off_or_missing_is_not_attached() {
    let whole = filled();
    let mut random = Random::new(0x5eed_000b);
    for name in ["image", "index", "index tables", "table", "places", "removed", "hot", "warm"] {
        for round in 0..5 {
            let dirs = copy(&whole);
            let len = std::fs::metadata(dirs.file(name)).unwrap().len();
            if round == 0 {
                std::fs::remove_file(dirs.file(name)).unwrap();
            } else {
                let file = std::fs::OpenOptions::new().write(true).open(dirs.file(name)).unwrap();
                file.set_len(if round == 1 { 0 } else { random.below(len / 2) }).unwrap();
            }
            let what = format!("{name}, {len} bytes, round {round}");
            match (name, look_at(&dirs, &what)) {
                ("table" | "places" | "removed", found) => assert!(found.is_none(), "{what}: {found:?}"),
                ("image" | "index" | "index tables", found) => {
                    assert_eq!(found, Some((false, 0, false)), "{what}");
                }
                (_, found) => {
                    let (attached, missing, told) = found.unwrap_or_else(|| panic!("{what}: refused"));
                    assert!(!attached && (missing == 0 || told), "{what}: {missing} events are missing");
                }
            }
        }
    }
}

/// Clones of a store outlive its close, and can still read.
#[test]
fn readers_of_a_closed_store_do_not_stand_in_the_way() {
    let dirs = Dirs::new();
    let store = open(dirs.alone());
    append_some(&store, 0..EVENTS);
    let left = store.clone();
    let guard = left.pin();
    store.close(CLOSE).unwrap();
    assert!(guard.get(id(5)).is_some() && store.remove(id(5)).is_err());
    drop(guard);
    drop(left);
    drop(store);
    assert!(recovered(&open(dirs.alone())).attached);
}
