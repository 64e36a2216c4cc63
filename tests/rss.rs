//! The process itself stays within the store's memory: what the operating system counts, after millions of appends.
//!
//! This is a test binary of its own, so that its resident memory is that of one store and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::time::Duration;

use esker::{Appended, ClassConfig, Config, ErrorKind, Event, Store, Stream};

const CAP: u64 = 64 << 20;
/// What the process may take beside the configured memory: stacks, the allocator's slack, and what redb and LZ4 use
/// while they work.
const OVERHEAD: u64 = 24 << 20;
const PAYLOAD: usize = 256;
const BATCH: u64 = 64;

/// A field of `/proc/self/status`, in bytes.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Half noise, half zeros: LZ4 takes it to about half.
fn fill(payload: &mut [u8], id: u64) {
    let mut word = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in payload[..PAYLOAD / 2].chunks_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.copy_from_slice(&word.to_le_bytes());
    }
}

fn append(store: &Store, batch: &[Event<'_>]) {
    let outcome = store.append_batch(batch).unwrap();
    for (at, error) in &outcome.refused {
        assert_eq!(error.kind(), ErrorKind::MemoryPressure, "{error}");
        while store.append(&batch[*at]).map_or(true, |done| done != Appended::Stored) {}
    }
}

/// Four million events in a release build; a quarter of a million where the compiler does not optimise.
#[test]
fn resident_memory_stays_under_the_cap_and_a_fixed_overhead() {
    let count: u64 = if cfg!(debug_assertions) { 256_000 } else { 4_000_000 };
    let dir = tempfile::tempdir().unwrap();
    let before = status("VmRSS");
    let class = ClassConfig::new("events").hot_for(Duration::from_secs(1)).warm_for(Duration::from_secs(5));
    let config = Config::builder().memory(CAP).data_dir(dir.path()).class(class);
    let store = Store::open(config.append_timeout(Duration::from_secs(30)).build().unwrap()).unwrap();
    let mut payloads = vec![[0u8; PAYLOAD]; BATCH as usize];
    let (mut most, mut most_said) = (0, 0);
    for first in (0..count).step_by(BATCH as usize) {
        for (n, payload) in payloads.iter_mut().enumerate() {
            fill(payload, first + n as u64);
        }
        let event = |n: u64| {
            let id = first + n;
            Event::new(Stream::from((id % 5_000) as u32), id, id as i64, 0).payload(&payloads[n as usize])
        };
        append(&store, &(0..BATCH).map(event).collect::<Vec<_>>());
        if first.is_multiple_of(BATCH * 64) {
            let stats = store.stats();
            assert!(stats.memory_bytes <= CAP, "{stats:#?}");
            most_said = most_said.max(stats.memory_bytes);
            most = most.max(status("VmRSS"));
            assert!(most - before <= CAP + OVERHEAD, "{most} bytes after {first} events, {before} before");
        }
    }
    // Reading takes from the same purse.
    let mut expected = [0u8; PAYLOAD];
    for id in (0..count).step_by(1_009) {
        fill(&mut expected, id);
        assert_eq!(store.fetch(id).unwrap().unwrap().payload(), expected);
    }
    let scanned = store.fetch_scan(..).timeout(Duration::from_secs(120)).map(|event| event.unwrap().id());
    assert_eq!(scanned.count() as u64, count);
    store.validate().unwrap();
    let stats = store.stats();
    assert!(stats.memory_bytes <= CAP, "{stats:#?}");
    let peak = status("VmHWM");
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{count} events of {PAYLOAD} B: resident {} MiB at first, {} at most while appending, {} at the peak; the \
         store said {} of {} MiB; {} events in {} cold blocks",
        mib(before),
        mib(most),
        mib(peak),
        mib(most_said),
        mib(CAP),
        stats.cold.events,
        stats.cold.blocks
    );
    assert!(peak - before <= CAP + OVERHEAD, "the peak is {peak} bytes, {before} at first");
}
