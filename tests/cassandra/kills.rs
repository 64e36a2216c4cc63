//! `kill -9` of the server in the middle of spilling, again and again: what was acknowledged is there in the end, once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use esker::{Config, Event, ScyllaTier, Store, Stream};

use crate::common::{Random, all_ids, append_proof, wait_until, wall_ms};
use crate::node::Node;

/// How often each of the two nodes is killed. More by the environment variable ESKER_KILLS.
const KILLS: u64 = 10;
/// The promise: spilling goes on so long after the server answers again, at most.
const RESUMES: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(120);
const BATCH: u64 = 50;

fn open(node: &Node, dir: &Path) -> Store {
    let tier = Arc::new(ScyllaTier::connect(node.config("kills", dir)).unwrap());
    let config = Config::builder().memory("16MiB").partitions(2).append_timeout(Duration::from_secs(20));
    Store::builder(config.build().unwrap()).cold(tier).open().unwrap()
}

/// Appends until it is told to stop; all that it says is there was acknowledged.
fn append_on(store: &Store, stop: &AtomicBool, done: &AtomicU64) {
    let mut id = 0u64;
    while !stop.load(Ordering::SeqCst) {
        for _ in 0..BATCH {
            append_proof(store, Event::new(Stream::from((id % 40) as u32), id, wall_ms(), 1), 1000);
            id += 1;
        }
        done.store(id, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(8));
    }
}

/// Stops the appending however the killing ends: a panic that left the appending alone would never be seen, for the
/// scope waits for it.
struct StopsAtEnd<'a>(&'a AtomicBool);

impl Drop for StopsAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn kill_again_and_again(sync: &str, seed: u64) {
    let kills = std::env::var("ESKER_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let node = Node::start(&[("CASSANDRA_SYNC", sync)]);
    let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(&node, dir.path());
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut random = Random::new(seed);
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        let _stops = StopsAtEnd(&stop);
        scope.spawn(|| append_on(&store, &stop, &done));
        for kill in 0..kills {
            let blocks = store.stats().cold.blocks;
            wait_until("blocks are written", LONG, || store.stats().cold.blocks > blocks + 2);
            std::thread::sleep(Duration::from_millis(random.below(2500)));
            node.kill();
            node.resume();
            let took = wait_until("spilling resumes", LONG, || !store.stats().cold.tier.away);
            slowest = slowest.max(took);
            println!("{sync}: kill {kill}, {} events, resumed after {took:?}", done.load(Ordering::SeqCst));
        }
    });
    store.flush(LONG).unwrap();
    wait_until("everything is safe on the server", LONG, || {
        let tier = store.stats().cold.tier;
        tier.overflow == 0 && tier.resendable == 0
    });
    let stats = store.stats();
    println!("{sync}: {:?}, slowest {slowest:?}", stats.cold.tier);
    store.validate().unwrap();
    assert_eq!(store.close(LONG).unwrap().left, 0);
    assert_eq!(stats.cold.tier.dead_letters, 0, "{:?}", stats.cold.tier.last_error);
    assert!(stats.cold.tier.resent > 0, "a restart has anything sent again that may be lost");
    assert!(slowest < RESUMES, "spilling resumed only after {slowest:?}");

    // Nothing but the server is left to answer.
    let store = open(&node, fresh.path());
    let expected: Vec<u64> = (0..done.load(Ordering::SeqCst)).collect();
    assert!(all_ids(&store) == expected, "events are missing, or are not those that were appended");
    store.abandon();
}

#[test]
fn nothing_is_lost_by_kills_with_a_commit_log_synced_every_ten_seconds() {
    kill_again_and_again("periodic", 1);
}

#[test]
fn nothing_is_lost_by_kills_with_a_commit_log_synced_before_each_answer() {
    kill_again_and_again("batch", 2);
}
