//! What it costs to have a disk keep what was appended: batches that are synced before the append returns, beside databases
//! that do the same, and beside a bare loop of writes and syncs.
//!
//! ```console
//! cargo run --release --bin peers-durable -- --dir /var/tmp --seconds 3 --rounds 3
//! ```
//!
//! The databases get the least that they can do: one keyspace, from the id to the event. esker keeps its streams beside that.
#![allow(clippy::unwrap_used, reason = "a benchmark that meets an error has failed")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use esker::{Appended, Config, DiskSync, Durability, Event, Store, Stream};

const PAYLOAD: usize = 256;
const BATCH: u64 = 64;
const THREADS: [u64; 3] = [1, 2, 16];

/// Appends events with those ids, and returns when the disk has them.
type Append = Box<dyn Fn(std::ops::Range<u64>) + Sync>;

fn payload(id: u64) -> [u8; PAYLOAD] {
    let mut out = [0x61; PAYLOAD];
    let mut number = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for word in out.chunks_exact_mut(16) {
        number = number.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(29) ^ id;
        word[..8].copy_from_slice(&number.to_le_bytes());
    }
    out
}

fn esker(dir: &Path, mode: Durability) -> Append {
    let config = Config::builder()
        .memory("2GiB")
        .data_dir(dir)
        .shared_dir(dir.join("shared-memory"))
        .durability(mode)
        .build()
        .unwrap();
    let store = Store::open(config).unwrap();
    Box::new(move |ids| {
        let payloads: Vec<_> = ids.clone().map(payload).collect();
        let events: Vec<Event<'_>> = ids
            .zip(&payloads)
            .map(|(id, payload)| Event::new(Stream::from(id as u32 % 1000), id, 0, 0).payload(payload))
            .collect();
        match &events[..] {
            [event] => assert_eq!(store.append(event).unwrap(), Appended::Stored),
            events => assert_eq!(store.append_batch(events).unwrap().stored, events.len()),
        }
    })
}

fn fjall(dir: &Path) -> Append {
    let db = fjall::Database::builder(dir).open().unwrap();
    let events = db.keyspace("events", fjall::KeyspaceCreateOptions::default).unwrap();
    Box::new(move |ids| {
        let mut batch = db.batch().durability(Some(fjall::PersistMode::SyncData));
        ids.for_each(|id| batch.insert(&events, id.to_be_bytes(), payload(id)));
        batch.commit().unwrap();
    })
}

fn redb(dir: &Path) -> Append {
    const EVENTS: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("events");
    let db = redb::Database::create(dir.join("redb")).unwrap();
    // Every commit is synced: that is its default.
    Box::new(move |ids| {
        let write = db.begin_write().unwrap();
        {
            let mut events = write.open_table(EVENTS).unwrap();
            ids.for_each(|id| drop(events.insert(id, &payload(id)[..]).unwrap()));
        }
        write.commit().unwrap();
    })
}

#[cfg(feature = "rocksdb")]
fn rocksdb(dir: &Path) -> Append {
    let db = rocksdb::DB::open_default(dir).unwrap();
    Box::new(move |ids| {
        let mut batch = rocksdb::WriteBatch::default();
        ids.for_each(|id| batch.put(id.to_be_bytes(), payload(id)));
        let mut options = rocksdb::WriteOptions::default();
        options.set_sync(true);
        db.write_opt(batch, &options).unwrap();
    })
}

/// Writes the same bytes to a file that has its blocks, one call after the other, and syncs each.
fn bare(dir: &Path) -> Append {
    const LEN: u64 = 256 << 20;
    let file = File::create(dir.join("bare")).unwrap();
    let zeros = vec![0; 1 << 20];
    (0..LEN >> 20).for_each(|at| file.write_all_at(&zeros, at << 20).unwrap());
    file.sync_all().unwrap();
    let at = Mutex::new(0);
    Box::new(move |ids| {
        let bytes: Vec<u8> = ids.flat_map(payload).collect();
        let mut at = at.lock().unwrap();
        file.write_all_at(&bytes, *at).unwrap();
        file.sync_data().unwrap();
        *at = (*at + bytes.len() as u64).next_multiple_of(4096) % (LEN - (1 << 20));
    })
}

/// Events a second, and calls a second.
fn measure(append: &Append, threads: u64, batch: u64, time: Duration, from: &AtomicU64) -> f64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let begin = now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let from = from.fetch_add(batch, Ordering::Relaxed);
                    append(from..from + batch);
                    count.fetch_add(batch, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    count.into_inner() as f64 / begin.elapsed().as_secs_f64()
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

type Open = fn(&Path) -> Append;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let dir = option("--dir").map_or_else(std::env::temp_dir, PathBuf::from);
    let number = |name, default| option(name).and_then(|value| value.parse().ok()).unwrap_or(default);
    let (seconds, rounds): (f64, usize) = (number("--seconds", 2.0), number("--rounds", 3.0) as usize);
    let time = Duration::from_secs_f64(seconds);
    let peers: &[(&str, Open)] = &[
        ("limit: write and fdatasync, one after the other", bare),
        ("esker, Disk, every batch", |dir| esker(dir, Durability::Disk(DiskSync::EveryBatch))),
        ("fjall, SyncData", fjall),
        ("redb, its default", redb),
        #[cfg(feature = "rocksdb")]
        ("RocksDB, sync", rocksdb),
    ];
    let cells: Vec<(u64, u64)> =
        [1, BATCH].iter().flat_map(|batch| THREADS.map(|threads| (*batch, threads))).collect();
    let mut all = vec![vec![Vec::new(); cells.len()]; peers.len()];
    for round in 0..rounds {
        for at in 0..peers.len() {
            let at = (at + round) % peers.len();
            let folder = dir.join(format!("peers-durable-{}-{at}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let append = peers[at].1(&folder);
            let from = AtomicU64::new(0);
            for (cell, (batch, threads)) in cells.iter().enumerate() {
                all[at][cell].push(measure(&append, *threads, *batch, time, &from));
            }
            drop(append);
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }
    let heads = cells.iter().map(|(batch, threads)| format!("{batch} × {PAYLOAD} B, {threads} thr. "));
    println!("Events a second that are on the disk, medians of {rounds} rounds of {seconds} s.\n");
    println!("| | {} |", heads.collect::<Vec<_>>().join("| "));
    println!("|---|{}", "---:|".repeat(cells.len()));
    for (at, (name, _)) in peers.iter().enumerate() {
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            format!("{:.0}", values[values.len() / 2])
        };
        let row: Vec<String> = all[at].iter().cloned().map(median).collect();
        println!("| {name} | {} |", row.join(" | "));
    }
}
