//! What a closed store left in shared memory, changed as the bytes say: most of the time its image of the indexes, with a
//! right checksum. Whatever that says, nothing may be missing; what is done to the other files may cost events, never more.
#![no_main]

#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use esker::fuzz_doors::mend_image;
use esker::{Config, Durability, ErrorKind, Event, Store, Stream};

const EVENTS: u64 = 400;
const CLOSE: Duration = Duration::from_secs(3600);
/// Those in which a change is noticed, or costs what it hits.
const FILES: [&str; 8] = ["table", "places", "removed", "index", "index tables", "names", "warm", "record"];

fn open(dir: &Path) -> esker::Result<Store> {
    let config = Config::builder()
        .memory("6MiB")
        .hot(|hot| hot.max("512KiB").page_size("4KiB"))
        .warm(|warm| warm.max("256KiB"))
        .index(|index| index.max("256KiB").page_size("2KiB"))
        .partitions(2)
        .max_event("16KiB")
        .durability(Durability::Process)
        .shared_dir(dir)
        .huge_pages(false)
        .append_timeout(Duration::from_millis(1))
        .background(false);
    Store::open(config.build()?)
}

struct Closed {
    files: Vec<(String, Vec<u8>)>,
    events: BTreeMap<u64, String>,
    removed: BTreeMap<u64, String>,
}

/// Ids in sequence, and some that are not.
fn id(number: u64) -> u64 {
    if number % 4 == 0 { number.wrapping_mul(0x9e37_79b9_7f4a_7c15) } else { number }
}

fn closed() -> &'static Closed {
    static CLOSED: OnceLock<Closed> = OnceLock::new();
    CLOSED.get_or_init(|| {
        let dir = common::scratch();
        let store = open(dir.path()).expect("an empty directory can be used");
        let named = store.stream("named").expect("there is room for a name");
        for number in 0..EVENTS {
            let stream = if number % 5 == 0 { named } else { Stream::from((number % 9) as u32) };
            let payload = vec![number as u8; 50 + number as usize];
            store
                .append(&Event::new(stream, id(number), number as i64, 0).payload(&payload))
                .expect("it has room");
        }
        let all = common::everything(&store);
        (0..EVENTS).step_by(20).for_each(|number| assert!(store.remove(id(number)).expect("it is there")));
        let events = common::everything(&store);
        let removed = all.into_iter().filter(|(id, _)| !events.contains_key(id)).collect();
        store.close(CLOSE).expect("it can be closed");
        drop(store);
        let files = std::fs::read_dir(dir.path()).expect("it is there").map(|entry| {
            let entry = entry.expect("it is there");
            (
                entry.file_name().into_string().expect("a plain name"),
                std::fs::read(entry.path()).expect("a file"),
            )
        });
        Closed { files: files.collect(), events, removed }
    })
}

/// Changes files as the bytes say. Whether anything but the image was changed.
fn change(files: &mut [(String, Vec<u8>)], mut script: &[u8]) -> bool {
    let mut others = false;
    while let Some(([kind, a, b, value], rest)) = script.split_first_chunk() {
        script = rest;
        let is_image = *kind < 160;
        let wanted = if is_image { "image" } else { FILES[usize::from(*kind) % FILES.len()] };
        let Some((_, bytes)) = files.iter_mut().find(|(name, _)| name == wanted) else { continue };
        // Behind the head of an image.
        let begin = if is_image { 32 } else { 0 };
        let len = bytes.len().saturating_sub(begin) / 8;
        if len == 0 {
            continue;
        }
        let at = begin + (usize::from(*a) << 8 | usize::from(*b)) % len * 8;
        match kind % 8 {
            0 if *value < 16 => bytes.truncate(at + usize::from(*value)),
            1 => {
                let Some((word, rest)) = script.split_first_chunk::<8>() else { continue };
                script = rest;
                bytes[at..at + 8].copy_from_slice(word);
            }
            2 => bytes[at..at + 8].fill(*value),
            _ => bytes[at + usize::from(*value) % 8] ^= value.max(&1),
        }
        others |= !is_image;
        if is_image {
            let number =
                bytes.get(8..16).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()));
            mend_image(bytes, number);
        }
    }
    others
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let closed = closed();
    let mut files = closed.files.clone();
    let others = change(&mut files, bytes);
    let dir = common::scratch();
    common::fill(dir.path(), &files);
    let store = match open(dir.path()) {
        Ok(store) => store,
        Err(error) => {
            let told = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incompatible);
            assert!(others && told, "{error:?}");
            return;
        }
    };
    let found = common::everything(&store);
    if others {
        for (id, event) in &found {
            let was = closed.events.get(id).or(closed.removed.get(id));
            assert_eq!(was, Some(event), "event {id} is not what it was");
        }
    } else {
        assert_eq!(found, closed.events);
    }
    common::append(&store, 1 << 40..(1 << 40) + 20);
    let later = common::everything(&store);
    store.close(CLOSE).expect("it can be closed");
    drop(store);
    let store = open(dir.path()).expect("a closed store can be opened");
    assert_eq!(common::everything(&store), later);
});
