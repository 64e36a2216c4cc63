//! Files as released versions wrote them: they are read, or refused with a text that says what to do.
//!
//! `tests/fixtures/v1` and so on hold small directories of every format, packed. They are written once, by
//! `cargo test --test it formats::write -- --ignored`, and never again: what is there stays as it is. What is in them follows
//! from a rule, so a reader knows what it must find. What is written today must be the same bytes as in the newest of them;
//! CONTRIBUTING.md says what to do when it is not. The files of the overflow directory are looked at by
//! `src/tiers/shield/tests/formats.rs`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use esker::{
    BlockId, ClassConfig, Clock, ColdTier, Config, ConfigBuilder, DeadLetterDir, DeadLetterSink, DiskSync,
    Durability, Error, Event, EventRef, Namespace, Store, Stream,
};
use flate2::Compression;

use crate::common::Random;
use crate::tier::MapTier;

/// Where files go that are written now. A directory of it that has the newest files of a kind is what today's must be like.
const NEWEST: &str = "v3";
const CLOSE: Duration = Duration::from_secs(60);
const SEED: u64 = 0x0123_4567_89ab_cdef;
/// The time of the stores, in milliseconds since the epoch.
const BEGIN: i64 = 1_700_000_000_000;
const EVENTS: u64 = 200;
/// Of them, those that are removed.
const REMOVED: [u64; 6] = [3, 10, 55, 120, 151, 199];
const NAME: &str = "a name";
/// The first block of a segment of the log.
const LOG_HEADER: usize = 4096;

/// A directory of each format: who writes it, and who knows what must be in it.
struct Kind {
    name: &'static str,
    write: fn(&Path),
    check: fn(&Path),
}

const KINDS: [Kind; 6] = [
    Kind { name: "blocks", write: write_blocks, check: check_blocks },
    Kind { name: "closed", write: write_closed, check: check_closed },
    Kind { name: "cold", write: write_cold, check: check_cold },
    Kind { name: "killed", write: write_killed, check: check_killed },
    Kind { name: "letters", write: write_letters, check: check_letters },
    Kind { name: "log", write: write_log, check: check_log },
];

// What is in the stores.

/// Most ids come in sequence, the others are far apart.
fn id(number: u64) -> u64 {
    if number.is_multiple_of(4) { number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63 } else { number }
}

fn stream(store: &Store, number: u64) -> Stream {
    if number.is_multiple_of(5) { store.stream(NAME).unwrap() } else { Stream::from((number % 9) as u32) }
}

fn timestamp(number: u64) -> i64 {
    BEGIN + (number * 1000) as i64 - (number % 7 * 300) as i64
}

fn class(number: u64) -> &'static str {
    if number.is_multiple_of(3) { "b" } else { "a" }
}

/// One event is larger than a page.
fn payload(number: u64) -> Vec<u8> {
    let len = if number == 100 { 6_000 } else { number * 37 % 150 };
    let mut random = Random::new(number);
    (0..len).map(|at| if at % 16 < 14 { number as u8 } else { random.next() as u8 }).collect()
}

fn cell(number: u64) -> Option<String> {
    (number % 6 == 1).then(|| format!("cell {number}"))
}

fn expires_at(number: u64) -> Option<i64> {
    (number % 10 == 7).then_some(BEGIN + (1 << 40) + number as i64)
}

fn with_event(number: u64, stream: Stream, then: &mut dyn FnMut(Event<'_>)) {
    let (payload, cell) = (payload(number), cell(number));
    let pairs: Vec<(&[u8], &[u8])> =
        cell.iter().flat_map(|cell| [(&b"cell"[..], cell.as_bytes()), (b"", b"no key")]).collect();
    let mut event = Event::new(stream, id(number), timestamp(number), (number % 11) as u8)
        .flags(number as u16 * 3)
        .metadata(pairs.as_slice())
        .payload(&payload);
    if let Some(at) = expires_at(number) {
        event = event.expires_at(at);
    }
    then(event);
}

/// Appends events, the clock going on, and what else comes with them.
fn append(store: &Store, clock: &Clock, numbers: std::ops::Range<u64>) {
    for number in numbers {
        clock.set_ms(BEGIN + (number * 1000) as i64);
        let class = store.class(class(number)).unwrap();
        with_event(number, stream(store, number), &mut |event| {
            store.append(&event.class(class)).unwrap();
        });
    }
}

fn remove(store: &Store, numbers: &[u64]) {
    numbers.iter().for_each(|number| assert!(store.remove(id(*number)).unwrap(), "{number}"));
}

fn check_event(event: &EventRef<'_>, number: u64, stream: Stream) {
    let head = (event.id(), event.stream(), event.timestamp(), event.kind(), event.flags());
    let wanted = (id(number), stream, timestamp(number), (number % 11) as u8, number as u16 * 3);
    assert_eq!(head, wanted, "event {number}");
    assert_eq!(event.expires_at(), expires_at(number), "event {number}");
    assert_eq!(event.metadata_value("cell"), cell(number).as_ref().map(|cell| cell.as_bytes()));
    assert_eq!(event.metadata().count(), 2 * usize::from(cell(number).is_some()), "event {number}");
    assert!(event.payload() == payload(number), "the payload of event {number}");
}

/// Exactly those events are there that were left, each on every way to it, and the store goes on.
fn check_store(store: &Store, last_id: u64) {
    store.validate().unwrap();
    let left: Vec<u64> = (0..EVENTS).filter(|number| !REMOVED.contains(number)).collect();
    for number in &left {
        let event =
            store.fetch(id(*number)).unwrap().unwrap_or_else(|| panic!("event {number} is not there"));
        check_event(&event, *number, stream(store, *number));
        assert_eq!(event.class(), store.class(class(*number)).unwrap(), "event {number}");
    }
    assert!(REMOVED.iter().all(|number| store.fetch(id(*number)).unwrap().is_none()));
    let mut scanned: Vec<u64> = store.fetch_scan(..).map(|event| event.unwrap().id()).collect();
    let mut wanted: Vec<u64> = left.iter().map(|number| id(*number)).collect();
    scanned.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(scanned, wanted);
    for first in [0, 1, 2, 3, 4, 6, 7, 8, 9, 11] {
        let of = stream(store, first);
        let history: Vec<u64> = store.fetch_history(of).map(|event| event.unwrap().id()).collect();
        let newest = left.iter().rev().filter(|number| stream(store, **number) == of);
        assert_eq!(history, newest.map(|number| id(*number)).collect::<Vec<_>>(), "{of:?}");
    }
    assert!(store.next_id() > last_id);
    append(store, &Clock::manual(0), EVENTS..EVENTS + 1);
    assert!(store.fetch(id(EVENTS)).unwrap().is_some());
    store.validate().unwrap();
}

// The stores.

fn config() -> ConfigBuilder {
    Config::builder()
        .memory("8MiB")
        .partitions(2)
        .max_event("64KiB")
        .hot(|hot| hot.page_size("4KiB").max("1MiB").ceiling("1MiB"))
        .warm(|warm| warm.page_size("2KiB").max("512KiB").ceiling("512KiB"))
        .index(|index| index.page_size("4KiB").max("512KiB").ceiling("512KiB"))
        .block_bytes("16KiB")
        .background(false)
        .class(
            ClassConfig::new("a")
                .hot_for(Duration::from_secs(1 << 30))
                .warm_for(Duration::from_secs(1 << 30)),
        )
        .class(ClassConfig::new("b").hot_for(Duration::ZERO).warm_for(Duration::from_secs(1 << 30)))
}

fn open(config: ConfigBuilder, clock: &Clock) -> Store {
    Store::builder(config.build().unwrap()).clock(clock.clone()).seed(SEED).open().unwrap()
}

/// Opens what is there, long after.
fn reopen(config: ConfigBuilder) -> Store {
    open(config, &Clock::manual(BEGIN + 10_000_000))
}

/// The store gives numbers of its own, so that the next one must be higher.
fn give_ids(store: &Store) {
    assert!((0..150).all(|_| store.next_id() > 0));
}

fn fill(store: &Store, clock: &Clock, in_the_middle: &mut dyn FnMut()) {
    append(store, clock, 0..EVENTS / 2);
    remove(store, &REMOVED[..2]);
    in_the_middle();
    remove(store, &REMOVED[2..3]);
    append(store, clock, EVENTS / 2..EVENTS);
    remove(store, &REMOVED[3..]);
    give_ids(store);
}

/// Everything in the embedded cold tier.
fn write_cold(dir: &Path) {
    let clock = Clock::manual(BEGIN);
    let store = open(config().data_dir(dir.join("data")), &clock);
    fill(&store, &clock, &mut || store.flush(CLOSE).unwrap());
    assert_eq!(store.close(CLOSE).unwrap().left, 0);
}

fn check_cold(dir: &Path) {
    let store = reopen(config().data_dir(dir.join("data")));
    check_store(&store, 0);
}

fn pages(dir: &Path) -> ConfigBuilder {
    config().durability(Durability::Process).shared_dir(dir.join("pages"))
}

/// Hot and warm pages of a store that was closed, and has nothing else.
fn write_closed(dir: &Path) {
    let clock = Clock::manual(BEGIN);
    let store = open(pages(dir), &clock);
    fill(&store, &clock, &mut || store.maintain().unwrap());
    let events = store.stats().events;
    assert!(events.hot > 0 && events.warm > 0, "{events:?}");
    assert_eq!(store.close(CLOSE).unwrap().left, EVENTS - REMOVED.len() as u64);
}

/// In shared memory such a store goes on as it was; on a disk its indexes are built anew.
fn check_closed(dir: &Path) {
    let store = reopen(pages(dir));
    let recovered = store.recovered().unwrap().clone();
    assert!(recovered.is_whole() && recovered.was_closed, "{recovered:?}");
    if in_shared_memory(dir) {
        assert!(recovered.attached, "{recovered:?}");
    }
    let events = store.stats().events;
    assert!(events.hot > 0 && events.warm > 0, "{events:?}");
    check_store(&store, 150);
}

/// Pages of a store that was killed, with checksums of its events; the cold tier has some.
fn write_killed(dir: &Path) {
    let clock = Clock::manual(BEGIN);
    let store = open(pages(dir).event_checksums(true).data_dir(dir.join("data")), &clock);
    fill(&store, &clock, &mut || store.flush(CLOSE).unwrap());
    store.abandon();
}

fn check_killed(dir: &Path) {
    let store = reopen(pages(dir).event_checksums(true).data_dir(dir.join("data")));
    let recovered = store.recovered().unwrap().clone();
    assert!(recovered.is_whole() && !recovered.was_closed && recovered.events > 0, "{recovered:?}");
    check_store(&store, 150);
}

fn logged(dir: &Path) -> ConfigBuilder {
    pages(dir).durability(Durability::Disk(DiskSync::EveryBatch)).data_dir(dir.join("data"))
}

/// A log, and what the cold tier had: all that is left after a loss of power.
fn write_log(dir: &Path) {
    let clock = Clock::manual(BEGIN);
    let store = open(logged(dir), &clock);
    fill(&store, &clock, &mut || store.flush(CLOSE).unwrap());
    store.abandon();
    std::fs::remove_dir_all(dir.join("pages")).unwrap();
}

fn check_log(dir: &Path) {
    let store = reopen(logged(dir));
    let recovered = store.recovered().unwrap().clone();
    assert!(recovered.is_whole() && recovered.events > 0, "{recovered:?}");
    check_store(&store, 150);
}

/// Blocks and their entries of the directory as any cold tier is given them.
fn write_blocks(dir: &Path) {
    let (clock, tier) = (Clock::manual(BEGIN), MapTier::new());
    let store = Store::builder(config().build().unwrap()).clock(clock.clone()).seed(SEED).cold(tier.clone());
    let store = store.open().unwrap();
    append(&store, &clock, 0..EVENTS);
    remove(&store, &REMOVED);
    store.flush(CLOSE).unwrap();
    let mut entries = BTreeMap::new();
    tier.list(&mut |id, entry| {
        entries.insert(id, entry.to_vec());
        Ok(())
    })
    .unwrap();
    assert!(entries.len() >= 4);
    for (id, entry) in entries {
        let path = dir.join(format!("{}-{}-{}", id.partition, id.class, id.first_seq));
        std::fs::write(path.with_extension("entry"), entry).unwrap();
        std::fs::write(path.with_extension("block"), tier.get(id).unwrap().unwrap()).unwrap();
    }
}

fn check_blocks(dir: &Path) {
    let tier = MapTier::new();
    let classes = vec!["a".to_string(), "b".to_string()];
    tier.set_namespace(&Namespace::new(2, SEED, classes)).unwrap();
    for path in files(dir).into_iter().filter(|path| path.extension().is_some_and(|end| end == "block")) {
        let numbers: Vec<u64> = path
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .split('-')
            .map(|part| part.parse().unwrap())
            .collect();
        let id = BlockId { partition: numbers[0] as u32, class: numbers[1] as u8, first_seq: numbers[2] };
        let read = |end| std::fs::read(dir.join(&path).with_extension(end)).unwrap();
        tier.insert(id, read("block"), read("entry"));
    }
    let config = config().build().unwrap();
    let clock = Clock::manual(BEGIN + 10_000_000);
    let store = Store::builder(config).clock(clock).cold(tier).open().unwrap();
    check_store(&store, 0);
}

fn write_letters(dir: &Path) {
    let letters = DeadLetterDir::open(dir.join("dead"), "1MiB", 100).unwrap();
    let why = Error::cold("nobody would take it", std::io::Error::other("for this test"));
    for number in [1, 7, 8] {
        with_event(number, Stream::from(number as u32), &mut |event| letters.take(&event, &why).unwrap());
    }
}

fn check_letters(dir: &Path) {
    let letters = DeadLetterDir::open(dir.join("dead"), "1MiB", 100).unwrap();
    let listed = letters.list();
    assert_eq!(listed.len(), 3);
    for number in [1, 7, 8] {
        let letter = listed.iter().find(|letter| letter.event.is_some_and(|event| event.id == id(number)));
        let letter = letter.unwrap_or_else(|| panic!("there is no letter of event {number}: {listed:?}"));
        assert!(letter.reason.starts_with("nobody would take it"), "{}", letter.reason);
        check_event(&letters.read(&letter.name).unwrap(), number, Stream::from(number as u32));
    }
}

// The directories.

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The files below a directory, by their path from there.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = PathBuf::from(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path()).into_iter().map(|path| name.join(path))),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

/// Versions that have this format, oldest first.
fn versions(kind: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.map(|version| version.join(kind)).filter(|dir| dir.is_dir()).collect();
    found.sort();
    found
}

/// Nobody but its owner may enter a directory of pages.
fn make_dir(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
}

fn unpack(from: &Path, to: &Path) {
    for name in files(from) {
        let packed = std::fs::File::open(from.join(&name)).unwrap();
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
        let path = to.join(name.with_extension(""));
        make_dir(path.parent().unwrap());
        std::fs::write(path, bytes).unwrap();
    }
}

fn pack(from: &Path, to: &Path) {
    for name in files(from).into_iter().filter(|name| !name.ends_with("lock")) {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&std::fs::read(from.join(&name)).unwrap()).unwrap();
        let mut path = to.join(name).into_os_string();
        path.push(".gz");
        let path = PathBuf::from(path);
        make_dir(path.parent().unwrap());
        std::fs::write(path, packed.finish().unwrap()).unwrap();
    }
}

fn in_shared_memory(dir: &Path) -> bool {
    dir.starts_with("/dev/shm")
}

/// On a disk and, where there is one, in a file system in memory.
fn places() -> Vec<tempfile::TempDir> {
    let mut places = vec![tempfile::tempdir().unwrap()];
    if cfg!(target_os = "linux") {
        places.push(tempfile::tempdir_in("/dev/shm").unwrap());
    }
    places
}

#[test]
fn what_released_versions_wrote_is_read() {
    for kind in &KINDS {
        for version in versions(kind.name) {
            for place in places() {
                println!("{} in {}", version.display(), place.path().display());
                unpack(&version, place.path());
                (kind.check)(place.path());
            }
        }
    }
}

/// What a store chooses anew each time is taken out: a number of its log; the number of its pages and where they are, from
/// the two files that say so.
fn comparable(name: &Path, mut bytes: Vec<u8>) -> Vec<u8> {
    if name.ends_with("data/pages.note") || name.ends_with("pages/record") {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let differs = |line: &&str| ["set ", "next ", "dir "].iter().any(|field| line.starts_with(field));
        let lines = text.lines().filter(|line| !differs(line));
        // The checksum is the last word of a head.
        let lines = lines.map(|line| match line.find("esker-shared") {
            Some(_) => line.rsplit_once(' ').map_or(line, |(head, _)| head),
            None => line,
        });
        return lines.collect::<Vec<_>>().join("\n").into_bytes();
    }
    if name.extension().is_some_and(|end| end == "log") {
        let frames = bytes.split_off(LOG_HEADER);
        let header = String::from_utf8_lossy(&bytes).into_owned();
        let fields: Vec<&str> = header.split(' ').take(6).collect();
        return [fields.join(" ").into_bytes(), frames].concat();
    }
    bytes
}

/// An old reader may not understand other bytes, even if this one understands both.
#[test]
fn the_same_bytes_are_written_as_by_the_newest_version() {
    for kind in &KINDS {
        let newest = versions(kind.name).pop();
        let newest = newest.unwrap_or_else(|| panic!("nothing of the format {:?} is kept", kind.name));
        let (before, now) = [(); 2].map(|()| tempfile::tempdir_in("/dev/shm").unwrap()).into();
        unpack(&newest, before.path());
        (kind.write)(now.path());
        let mut names = files(now.path());
        names.retain(|name| !name.ends_with("lock"));
        assert_eq!(names, files(before.path()), "{}", newest.display());
        for name in names {
            let [a, b] =
                [&before, &now].map(|dir| comparable(&name, std::fs::read(dir.path().join(&name)).unwrap()));
            let differs = a.iter().zip(&b).position(|(a, b)| a != b);
            assert!(
                a == b,
                "{} has other bytes than {}, from byte {differs:?} on ({} and {} bytes): see \"When the bytes of a file \
                 change\" in CONTRIBUTING.md",
                name.display(),
                newest.display(),
                a.len(),
                b.len()
            );
        }
    }
}

/// Writes what the newest version does not have yet: `cargo test --test it formats::write -- --ignored`.
#[test]
#[ignore = "writes into the repository"]
fn write_what_is_missing_of_the_newest_version() {
    for kind in &KINDS {
        let kept = fixtures().join(NEWEST).join(kind.name);
        if kept.exists() {
            println!("{} is kept as it is", kept.display());
            continue;
        }
        // Indexes are kept of what lies in memory.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        (kind.write)(dir.path());
        pack(dir.path(), &kept);
        println!("{} is new: remove those that are as they were", kept.display());
    }
}
