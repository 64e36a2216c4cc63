//! A process that is forked has a copy of the store that it must not use: it is told so, and does the store no harm.
#![expect(unsafe_code, reason = "fork")]
#![expect(clippy::disallowed_methods, reason = "a test that looks at real time")]

use std::time::{Duration, Instant};

use esker::{Config, Durability, ErrorKind, Event, Store, Stream};

const MINUTE: Duration = Duration::from_secs(60);

/// What a child says by its exit code: the number of the first thing that was not as it should be.
fn child(store: Store) -> i32 {
    let begin = Instant::now();
    let kind = |outcome: esker::Result<()>| outcome.err().map(|error| error.kind());
    let event = Event::new(Stream::from(1), 1_000_000, 0, 0).payload(&[1; 100]);
    let said = [
        kind(store.append(&event).map(drop)),
        kind(store.try_append(&event).map(drop)),
        kind(store.append_batch(&[event]).map(drop)),
        kind(store.fetch(1).map(drop)),
        kind(store.remove(1).map(drop)),
        kind(store.flush(MINUTE)),
        kind(store.maintain()),
        kind(store.stream("a name that is new").map(drop)),
        kind(store.close(MINUTE).map(drop)),
        kind(store.fetch_history(Stream::from(1)).next().unwrap().map(drop)),
    ];
    if let Some(wrong) = said.iter().position(|kind| *kind != Some(ErrorKind::Forked)) {
        return 1 + wrong as i32;
    }
    if store.next_id() != 0 {
        return 99;
    }
    // Neither waits for threads that are not here, nor writes what the parent is to write.
    drop(store.clone());
    drop(store);
    if begin.elapsed() < MINUTE { 0 } else { 100 }
}

/// Forks, and gives the child's exit code.
fn fork(store: &Store) -> i32 {
    let store = store.clone();
    // SAFETY: the child uses nothing but the store and the allocator, which is made for this, and ends without returning.
    match unsafe { libc::fork() } {
        0 => {
            let code = child(store);
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: waits for the child, and writes to what it is given.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert!(libc::WIFEXITED(status), "the child was ended by signal {}", libc::WTERMSIG(status));
            libc::WEXITSTATUS(status)
        }
    }
}

#[test]
fn a_forked_process_is_told_that_the_store_is_not_its_own() {
    let _alone = super::alone();
    for durability in [Durability::Memory, Durability::Process] {
        let dir = tempfile::tempdir().unwrap();
        let config = || {
            let config = Config::builder().memory("32MiB").data_dir(dir.path().join("data"));
            config.durability(durability).shared_dir(dir.path().join("shared")).build().unwrap()
        };
        let store = Store::open(config()).unwrap();
        let append = |from: u64| {
            for id in from..from + 5000 {
                store.append(&Event::new(Stream::from(id as u32 % 50), id, 0, 0).payload(&[7; 200])).unwrap();
            }
        };
        append(1);
        for turn in 0..3 {
            assert_eq!(fork(&store), 0, "{durability:?}: which of the child's calls was not refused");
            append(10_000 + turn * 10_000);
        }
        // The parent's store is whole, and so is what it leaves.
        store.validate().unwrap();
        let report = store.close(MINUTE).unwrap();
        assert_eq!(report.left, 0);
        drop(store);
        let store = Store::open(config()).unwrap();
        for id in (1..5001).chain((1..4).flat_map(|turn| turn * 10_000..turn * 10_000 + 5000)) {
            assert!(store.fetch(id).unwrap().is_some(), "{durability:?}: event {id}");
        }
        store.validate().unwrap();
    }
}
