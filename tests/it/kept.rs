//! What tests of stores have in common whose pages outlive the process.

use esker::{ConfigBuilder, Error, ErrorKind, Event, Store, Stream};

use crate::common::append_proof;

pub(crate) fn open(config: ConfigBuilder) -> Result<Store, Error> {
    Store::open(config.build().unwrap())
}

pub(crate) fn refusal(config: ConfigBuilder) -> (ErrorKind, String) {
    let error = open(config).err().unwrap();
    (error.kind(), error.to_string())
}

pub(crate) fn stream_of(store: &Store, id: u64) -> Stream {
    if id.is_multiple_of(5) { store.stream("named").unwrap() } else { Stream::from((id % 9) as u32) }
}

pub(crate) fn append_some(store: &Store, ids: std::ops::Range<u64>) {
    for id in ids {
        append_proof(
            store,
            Event::new(stream_of(store, id), id, id as i64, id as u8),
            50 + (id % 300) as usize,
        );
    }
}

/// Runs a test in a process that has a file system of its own, of that size, and has to tell it by its argument.
#[cfg(target_os = "linux")]
pub(crate) fn in_small_file_system(test: &str, size: &str) {
    // In a mount namespace of the child's own.
    let dir = tempfile::tempdir().unwrap();
    let script = format!(r#"mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@""#);
    let output = std::process::Command::new("unshare")
        .args(["-rm", "sh", "-c", &script])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("ESKER_TEST_CHILD", dir.path())
        .output()
        .expect("unshare (util-linux) gives the test a small file system");
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Deletes what closed stores of tests have left in shared memory, where they keep their pages if they are not told where.
pub(crate) fn forget_settled() {
    for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().map(Result::unwrap) {
        let record = std::fs::read_to_string(entry.path().join("record")).unwrap_or_default();
        if record.contains("settled") && record.contains("partitions 2\n") {
            // Another test may do the same.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
