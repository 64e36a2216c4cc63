//! Data directories that are not what they should be: a typed error or the right data, never a panic, never wrong data.

use std::path::{Path, PathBuf};
use std::time::Duration;

use esker::{Error, ErrorKind, Event, Store, Stream};

use crate::common::{Random, all_ids, append_proof, small, verify};

const SEED: u64 = 0x5eed_0002;
const EVENTS: u64 = 1_200;
const FILE: &str = "cold.redb";

fn open(dir: &Path) -> Result<Store, Error> {
    Store::open(small().data_dir(dir).background(false).build().unwrap())
}

/// A directory with a small store's file.
fn filled() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    for id in 0..EVENTS {
        let stream = if id % 5 == 0 { store.stream("named").unwrap() } else { Stream::from((id % 9) as u32) };
        append_proof(&store, Event::new(stream, id, id as i64, 0), 50 + (id % 300) as usize);
    }
    store.flush(Duration::from_secs(20)).unwrap();
    assert!(store.remove(77).unwrap());
    store.close(Duration::from_secs(20)).unwrap();
    let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
    (dir, bytes)
}

fn place(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// What became of a damaged file.
#[derive(Default, Debug)]
struct Tally {
    refused: u32,
    whole: u32,
    /// Opened, and what is missing was told by an error.
    told: u32,
}

/// Opens a damaged file and reads all that there is.
fn try_file(bytes: &[u8], what: &str, tally: &mut Tally) {
    let (dir, _path) = place(bytes);
    let store = match open(dir.path()) {
        Ok(store) => store,
        Err(error) => {
            let kinds = [ErrorKind::Corrupt, ErrorKind::Incompatible, ErrorKind::Io];
            assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
            let text = error.to_string();
            assert!(text.contains(FILE) || text.contains("cold block"), "the file or block is named: {text}");
            tally.refused += 1;
            return;
        }
    };
    let typed = |error: &Error| {
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Cold), "{what}: {error:?}")
    };
    let (mut found, mut errors) = (0, 0);
    for event in store.fetch_scan(..) {
        match event {
            Ok(event) => {
                verify(&event);
                assert!(event.id() < EVENTS && event.id() != 77, "{what}: {event:?}");
                found += 1;
            }
            Err(error) => {
                typed(&error);
                errors += 1;
            }
        }
    }
    for id in [0, 77, EVENTS / 2, EVENTS - 1, EVENTS] {
        match store.fetch(id) {
            Ok(Some(event)) => {
                verify(&event);
                assert!(id < EVENTS && id != 77, "{what}: {event:?}");
            }
            Ok(None) => assert!(id == EVENTS || id == 77 || found == 0 || errors > 0, "{what}: {id} is lost"),
            Err(error) => typed(&error),
        }
    }
    if errors > 0 {
        tally.told += 1;
    } else if found == EVENTS - 1 {
        tally.whole += 1;
    } else {
        panic!("{what}: {found} of {EVENTS} events, and no error");
    }
}

#[test]
fn a_truncated_file_is_refused() {
    let (_dir, bytes) = filled();
    let mut tally = Tally::default();
    let steps = (1..=20u32).map(|step| bytes.len() * step as usize / 21);
    let edges = (1..=20u32).map(|step| (1usize << step).min(bytes.len() - 1));
    for len in steps.chain(edges).chain([bytes.len() - 1, bytes.len() - 4096]) {
        try_file(&bytes[..len], &format!("cut to {len} of {}", bytes.len()), &mut tally);
    }
    println!("{} bytes: {tally:?}", bytes.len());
    assert!(tally.refused > 10, "{tally:?}");
}

#[test]
fn flipped_bytes_are_noticed_or_do_no_harm() {
    let (_dir, bytes) = filled();
    let (mut tally, mut random) = (Tally::default(), Random::new(SEED));
    println!("seed {SEED:#x}");
    let header = (0..48u64).map(|at| at * 7);
    let anywhere: Vec<u64> = (0..80).map(|_| random.below(bytes.len() as u64)).collect();
    for at in header.chain(anywhere) {
        let mut damaged = bytes.clone();
        damaged[at as usize] ^= 1 << random.below(8);
        try_file(&damaged, &format!("byte {at} of {} flipped", bytes.len()), &mut tally);
    }
    println!("{tally:?}");
}

#[test]
fn overwritten_pages_are_noticed_or_do_no_harm() {
    let (_dir, bytes) = filled();
    let (mut tally, mut random) = (Tally::default(), Random::new(SEED));
    let pages = bytes.len() / 4096;
    for page in 0..pages.min(70) {
        let mut damaged = bytes.clone();
        let at = page * pages.div_ceil(70).max(1) % pages * 4096;
        let zero = random.below(2) == 0;
        damaged[at..at + 4096].fill_with(|| if zero { 0 } else { random.next() as u8 });
        try_file(&damaged, &format!("page at {at} of {} overwritten", bytes.len()), &mut tally);
    }
    println!("{tally:?}");
}

#[test]
fn a_foreign_file_is_refused_and_left_as_it_is() {
    let mut random = Random::new(SEED);
    let noise: Vec<u8> = (0..100_000).map(|_| random.next() as u8).collect();
    let magic = [&b"redb\x1a\x0a\xa9\x0d\x0a"[..], &noise].concat();
    for (what, bytes) in [
        ("text", b"this is the diary of a very dear friend\n".to_vec()),
        ("one byte", vec![0]),
        ("zeros", vec![0; 50_000]),
        ("noise", noise),
        ("noise behind redb's magic number", magic),
        ("another database of redb", foreign_redb()),
    ] {
        let (dir, path) = place(&bytes);
        let error = open(dir.path()).map(|_| ()).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
        assert!(error.to_string().contains("another data directory"), "{what}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what}: the file was changed");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{what}: files were added");
    }
}

/// An empty file is what is left when the machine stops while a store is opened for the first time.
#[test]
fn an_empty_file_is_a_new_store() {
    let (dir, _path) = place(&[]);
    let store = open(dir.path()).unwrap();
    append_proof(&store, Event::new(Stream::from(1u32), 1, 0, 0), 100);
    drop(store);
    assert_eq!(all_ids(&open(dir.path()).unwrap()), [1]);
}

/// As another program with the same storage crate would write it.
fn foreign_redb() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let database = redb::Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    let table: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("accounts");
    write.open_table(table).unwrap().insert(1, 2).unwrap();
    write.commit().unwrap();
    drop(database);
    std::fs::read(&path).unwrap()
}

#[test]
fn a_directory_that_cannot_be_used_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let taken = dir.path().join("taken");
    std::fs::create_dir_all(taken.join(FILE)).unwrap();
    for path in [
        file.join("below"),
        file.clone(),
        PathBuf::from("/proc/none/esker"),
        taken,
        PathBuf::from("/sys/esker"),
    ] {
        let error = open(&path).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{path:?}: {error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
}
