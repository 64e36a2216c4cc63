//! Which pages a data directory belongs to: others than those that hold its events are refused, and pages that are gone
//! are told.

mod openings;

use std::path::{Path, PathBuf};
use std::time::Duration;

use esker::{ConfigBuilder, DiskSync, Durability, ErrorKind, Store};

use crate::common::small;
use crate::kept::{append_some, forget_settled, open, refusal};

const CLOSE: Duration = Duration::from_secs(20);

struct Dirs(tempfile::TempDir);

impl Dirs {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn note(&self) -> PathBuf {
        self.at("data").join("pages.note")
    }

    /// With pages in a directory of that name.
    fn pages(&self, name: &str) -> ConfigBuilder {
        small()
            .durability(Durability::Process)
            .shared_dir(self.at(name))
            .data_dir(self.at("data"))
            .background(false)
    }
}

fn events(store: &Store) -> usize {
    store.fetch_scan(..).map(Result::unwrap).count()
}

fn crash_with(config: ConfigBuilder, ids: std::ops::Range<u64>) {
    let store = open(config).unwrap();
    append_some(&store, ids);
    store.abandon();
}

fn pages_gone(store: &Store) -> bool {
    let told = store.stats().warnings.iter().any(|line| line.contains("not there any more"));
    let gone = store.recovered().is_some_and(|recovered| recovered.pages_gone && !recovered.is_whole());
    assert_eq!(told, gone);
    gone
}

fn is_refused(config: ConfigBuilder, words: &[&Path]) {
    let (kind, text) = refusal(config);
    assert_eq!(kind, ErrorKind::Incompatible, "{text}");
    for word in words {
        assert!(text.contains(word.to_str().unwrap()), "{} is not in: {text}", word.display());
    }
}

#[test]
fn a_store_does_not_begin_empty_while_its_events_wait_in_other_pages() {
    let dirs = Dirs::new();
    crash_with(dirs.pages("first"), 0..100);
    let waits = dirs.at("first").canonicalize().unwrap();
    is_refused(dirs.pages("second"), &[&waits, &dirs.note()]);
    is_refused(dirs.pages("second").durability(Durability::Memory), &[&waits]);
    is_refused(dirs.pages("second").durability(Durability::Disk(DiskSync::EveryBatch)), &[&waits]);
    let store = open(dirs.pages("first")).unwrap();
    assert!(events(&store) == 100 && !pages_gone(&store));
    // Once the cold tier has everything, any pages will do; the first ones hold nothing that would be missed.
    store.close(CLOSE).unwrap();
    drop(store);
    crash_with(dirs.pages("second"), 100..200);
    is_refused(dirs.pages("first"), &[&dirs.at("second").canonicalize().unwrap()]);
    let store = open(dirs.pages("second")).unwrap();
    assert!(events(&store) == 200 && !pages_gone(&store));
}

#[test]
fn a_data_directory_that_was_moved_finds_its_pages_or_says_where_they_are() {
    let dirs = Dirs::new();
    let config =
        |data: &str| small().durability(Durability::Process).data_dir(dirs.at(data)).background(false);
    crash_with(config("data"), 0..100);
    std::fs::rename(dirs.at("data"), dirs.at("moved")).unwrap();
    let (kind, text) = refusal(config("moved"));
    assert_eq!(kind, ErrorKind::Incompatible);
    let named =
        text.split("shared_dir ").nth(1).and_then(|rest| rest.split([' ', ',']).next()).expect("a directory");
    let store = open(config("moved").shared_dir(named)).unwrap();
    assert_eq!(events(&store), 100);
    store.close(CLOSE).unwrap();
    drop(store);
    std::fs::remove_dir_all(named).unwrap();
    // All is in the cold tier, and nobody misses them.
    let store = open(config("moved")).unwrap();
    assert!(events(&store) == 100 && !pages_gone(&store));
    store.close(CLOSE).unwrap();
    drop(store);
    forget_settled();
}

#[test]
fn pages_that_moved_with_their_data_are_taken_where_they_are() {
    let dirs = Dirs::new();
    crash_with(dirs.pages("first"), 0..100);
    std::fs::rename(dirs.at("first"), dirs.at("second")).unwrap();
    let store = open(dirs.pages("second")).unwrap();
    assert!(events(&store) == 100 && !pages_gone(&store));
    store.abandon();
    is_refused(dirs.pages("third"), &[&dirs.at("second").canonicalize().unwrap()]);
}

#[test]
fn pages_that_are_gone_are_told_once() {
    let dirs = Dirs::new();
    let store = open(dirs.pages("first")).unwrap();
    assert!(!pages_gone(&store));
    append_some(&store, 0..100);
    store.flush(CLOSE).unwrap();
    append_some(&store, 100..150);
    store.abandon();
    std::fs::rename(dirs.at("first"), dirs.at("away")).unwrap();
    let store = open(dirs.pages("first")).unwrap();
    assert!(pages_gone(&store));
    assert_eq!(events(&store), 100);
    append_some(&store, 200..300);
    store.abandon();
    let store = open(dirs.pages("first")).unwrap();
    assert!(!pages_gone(&store));
    assert_eq!(events(&store), 200);
    store.abandon();
    // Those that come back are of a time that the data directory went on from.
    is_refused(dirs.pages("away"), &[&dirs.at("first").canonicalize().unwrap(), &dirs.at("away")]);
    let store = open(dirs.pages("first")).unwrap();
    assert_eq!(events(&store), 200);
    store.close(CLOSE).unwrap();
    drop(store);
    is_refused(dirs.pages("away"), &[&dirs.at("away")]);
}

#[test]
fn pages_that_are_gone_are_told_whatever_the_next_store_keeps() {
    for durability in [Durability::Memory, Durability::Disk(DiskSync::EveryBatch)] {
        let dirs = Dirs::new();
        crash_with(dirs.pages("first"), 0..100);
        std::fs::remove_dir_all(dirs.at("first")).unwrap();
        let store = open(dirs.pages("first").durability(durability)).unwrap();
        let warnings = store.stats().warnings;
        assert!(
            warnings.iter().any(|line| line.contains("not there any more")),
            "{durability:?}: {warnings:?}"
        );
        append_some(&store, 100..200);
        store.close(CLOSE).unwrap();
        drop(store);
        let store = open(dirs.pages("other")).unwrap();
        assert!(events(&store) == 100 && !pages_gone(&store), "{durability:?}");
    }
}

/// A log knows which pages are its own: others may be given, and those of an earlier time are let go.
#[test]
fn a_store_with_a_log_may_lose_its_pages() {
    let dirs = Dirs::new();
    let disk = |name: &str| dirs.pages(name).durability(Durability::Disk(DiskSync::EveryBatch));
    let store = open(dirs.pages("first")).unwrap();
    append_some(&store, 0..50);
    store.close(CLOSE).unwrap();
    drop(store);
    crash_with(disk("first"), 50..100);
    crash_with(disk("second"), 100..150);
    let store = open(disk("first")).unwrap();
    assert!(events(&store) == 150 && !pages_gone(&store));
    store.close(CLOSE).unwrap();
    drop(store);
    // Pages of a log are not taken without one, although this one held everything.
    assert_eq!(refusal(dirs.pages("second")).0, ErrorKind::Incompatible);
    crash_with(dirs.pages("third"), 150..200);
    is_refused(disk("fourth"), &[&dirs.at("third").canonicalize().unwrap()]);
    let store = open(dirs.pages("third")).unwrap();
    assert_eq!(events(&store), 200);
}

/// A note is written before the record of new pages, as unused, and once more after it.
#[test]
fn a_process_that_ends_between_the_pages_and_their_note_loses_nothing() {
    let dirs = Dirs::new();
    // Without a note, whatever is there is taken.
    crash_with(dirs.pages("first"), 0..100);
    std::fs::remove_file(dirs.note()).unwrap();
    let store = open(dirs.pages("first")).unwrap();
    assert!(events(&store) == 100 && !pages_gone(&store));
    store.close(CLOSE).unwrap();
    drop(store);
    // A new set: which copy of the note was written last says that it is used.
    let store = open(dirs.pages("second")).unwrap();
    append_some(&store, 100..200);
    store.abandon();
    let mut note = std::fs::read(dirs.note()).unwrap();
    let used = note.windows(9).position(|bytes| bytes == b"used true").expect("a copy that says so");
    note[used] ^= 1;
    std::fs::write(dirs.note(), &note).unwrap();
    let store = open(dirs.pages("second")).unwrap();
    assert!(events(&store) == 200 && !pages_gone(&store));
    store.abandon();
    is_refused(dirs.pages("third"), &[&dirs.at("second").canonicalize().unwrap()]);
}

/// Pages that were given up do not come back, although the note is a new one.
#[test]
fn pages_of_which_the_note_was_deleted_are_others_from_then_on() {
    let dirs = Dirs::new();
    crash_with(dirs.pages("first"), 0..100);
    std::fs::remove_file(dirs.note()).unwrap();
    crash_with(dirs.pages("second"), 100..200);
    is_refused(dirs.pages("first"), &[&dirs.at("second").canonicalize().unwrap(), &dirs.at("first")]);
    let store = open(dirs.pages("second")).unwrap();
    assert_eq!(events(&store), 100);
}

#[test]
fn a_damaged_note_is_told_and_one_copy_of_it_is_enough() {
    let dirs = Dirs::new();
    crash_with(dirs.pages("first"), 0..100);
    // Both copies are there once it has been written twice.
    open(dirs.pages("first")).unwrap().close(CLOSE).unwrap();
    crash_with(dirs.pages("first"), 100..200);
    let whole = std::fs::read(dirs.note()).unwrap();
    for flipped in [60, 60 + (16 << 10)] {
        let mut bytes = std::fs::read(dirs.note()).unwrap();
        bytes[flipped] ^= 1;
        std::fs::write(dirs.note(), &bytes).unwrap();
        let store = open(dirs.pages("first")).unwrap();
        assert_eq!(events(&store), 200);
        store.abandon();
    }
    for bytes in [&[][..], &whole[..20], b"something else"] {
        std::fs::write(dirs.note(), bytes).unwrap();
        let (kind, text) = refusal(dirs.pages("first"));
        assert!(kind == ErrorKind::Corrupt && text.contains("delete that file"), "{text}");
    }
    let (text, turn) = ("what a later version has to say\n", 1000u64);
    let sum = [&2u32.to_le_bytes()[..], &turn.to_le_bytes(), text.as_bytes()].concat();
    let newer = format!("esker-shared 2 {turn} {} {:08x}\n{text}", text.len(), crc32fast::hash(&sum));
    std::fs::write(dirs.note(), newer).unwrap();
    let (kind, text) = refusal(dirs.pages("first"));
    assert!(kind == ErrorKind::Incompatible && text.contains("newer version"), "{text}");
    std::fs::remove_file(dirs.note()).unwrap();
    let store = open(dirs.pages("first")).unwrap();
    assert_eq!(events(&store), 200);
}
