//! What targets have in common that open a store: where its files are, and what must hold of it.
#![allow(dead_code, reason = "no target needs all of it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use esker::{Event, Store, Stream};

/// A directory of this run's own, in memory where there is such a place.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a directory can be made")
}

/// Makes a directory that only its owner can enter, with these files.
pub fn fill(dir: &Path, files: &[(String, Vec<u8>)]) {
    std::fs::create_dir_all(dir).expect("a directory can be made");
    #[cfg(unix)]
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("it is ours");
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).expect("a file can be written");
    }
}

/// Everything that is found: by id, what each event says. All ways to it agree.
pub fn everything(store: &Store) -> BTreeMap<u64, String> {
    store.validate().expect("the store is sound");
    let mut found = BTreeMap::new();
    for event in store.fetch_scan(..).timeout(Duration::from_secs(3600)) {
        let event = event.expect("nothing fails below it");
        let sum = [event.metadata_bytes(), event.payload()].concat().iter().fold(0u64, |sum, byte| {
            sum.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(*byte) + 1)
        });
        let text = format!("{event:?} {sum:x}");
        assert!(found.insert(event.id(), text).is_none(), "event {} is found twice", event.id());
    }
    let guard = store.pin();
    let in_memory: Vec<_> = guard.scan(..).collect();
    for event in in_memory {
        assert!(guard.get(event.id()).is_some(), "event {} is in a scan and not by its id", event.id());
        let mut stream = guard.history(event.stream());
        assert!(stream.any(|other| other.id() == event.id()), "{event:?} is not in its stream");
    }
    found
}

/// Appends events of that many ids from there on, where they have room.
pub fn append(store: &Store, ids: std::ops::Range<u64>) -> usize {
    let payload = [7; 300];
    let mut stored = 0;
    for id in ids {
        let event = Event::new(Stream::from((id % 3) as u32), id, id as i64, 0).payload(&payload);
        stored += usize::from(store.append(&event).is_ok());
    }
    stored
}
