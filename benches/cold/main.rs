//! The cold tier on a real Cassandra node of this machine, which is started and ended here: what a store spills a
//! second, beside a row for each event (the usual way) and beside a bare loop that writes the same blocks (the limit).
//!
//! ```sh
//! cargo bench --features scylla --bench cold
//! cargo bench --features scylla --bench cold -- --seconds 4
//! ```

mod driver;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use esker::{
    BlockId, ColdBlock, ColdTier, Config, Consistency, Event, EventRef, Namespace, Replication, ScyllaConfig,
    ScyllaTier, Store, Stream, Tombstone,
};

use crate::driver::Driver;

type Outcome<T> = Result<T, Box<dyn Error>>;

const STREAMS: u64 = 10_000;
const BATCH: usize = 256;
const LONG: Duration = Duration::from_secs(120);
/// Rows of the usual way that are under way at once.
const ROWS_IN_FLIGHT: usize = 256;
/// Blocks of the bare loop that are under way at once: more only wait in the server.
const BLOCKS_IN_FLIGHT: usize = 16;
/// How long rows are written before that counts.
const WARM_UP: Duration = Duration::from_secs(6);
/// Milliseconds from one event to the next.
const STEP_MS: i64 = 1;

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// A node that ends with this value.
struct Node {
    port: u16,
}

impl Node {
    fn start() -> Outcome<Self> {
        let port = Command::new(Self::script_path()).arg("port").output()?.stdout;
        let node = Self { port: String::from_utf8(port)?.trim().parse()? };
        node.script("start")?;
        node.script("wait")?;
        Ok(node)
    }

    fn script_path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cassandra")
    }

    fn script(&self, command: &str) -> Outcome<()> {
        let status = Command::new(Self::script_path())
            .args([command, &self.port.to_string()])
            .env("CASSANDRA_WITH", std::process::id().to_string())
            .env("CASSANDRA_JIT", "full")
            .env("CASSANDRA_HEAP", "1G")
            .stdout(std::process::Stdio::null())
            .status()?;
        if status.success() { Ok(()) } else { Err(format!("scripts/cassandra {command} failed").into()) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.script("purge");
    }
}

/// Payloads, half of whose bytes cannot be packed.
struct Payloads {
    pool: Vec<u8>,
    len: usize,
}

impl Payloads {
    fn new(len: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut pool = Vec::with_capacity(1 << 20);
        while pool.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let word = if pool.len() % 64 < 32 { state } else { 0x2020_6465_6c69_6166 };
            pool.extend_from_slice(&word.to_le_bytes());
        }
        Self { pool, len }
    }

    fn of(&self, id: u64) -> &[u8] {
        // Anywhere in the pool, so that neighbours have nothing in common.
        let at = (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
            % ((self.pool.len() - self.len) / 64)
            * 64;
        &self.pool[at..at + self.len]
    }

    fn event(&self, id: u64) -> Event<'_> {
        let stream = Stream::from((id.wrapping_mul(0x9e37_79b9) % STREAMS) as u32);
        Event::new(stream, id, id as i64 * STEP_MS, (id % 16) as u8).payload(self.of(id))
    }
}

/// A tier that only notes what it is given: the blocks for the bare loop.
#[derive(Default)]
struct Capture(Mutex<Vec<ColdBlock>>);

impl ColdTier for Capture {
    fn namespace(&self) -> esker::Result<Option<Namespace>> {
        Ok(None)
    }

    fn set_namespace(&self, _: &Namespace) -> esker::Result<()> {
        Ok(())
    }

    fn put(&self, blocks: &[ColdBlock]) -> esker::Result<()> {
        if let Ok(mut kept) = self.0.lock() {
            kept.extend_from_slice(blocks);
        }
        Ok(())
    }

    fn get(&self, _: BlockId) -> esker::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn delete(&self, _: &[BlockId]) -> esker::Result<()> {
        Ok(())
    }

    fn list(&self, _: &mut dyn FnMut(BlockId, &[u8]) -> esker::Result<()>) -> esker::Result<()> {
        Ok(())
    }

    fn put_names(&self, _: &[(String, u64)]) -> esker::Result<()> {
        Ok(())
    }

    fn names(&self, _: &mut dyn FnMut(&str, u64)) -> esker::Result<()> {
        Ok(())
    }

    fn put_tombstone(&self, _: Tombstone) -> esker::Result<()> {
        Ok(())
    }

    fn delete_tombstones(&self, _: &[Tombstone]) -> esker::Result<()> {
        Ok(())
    }

    fn tombstones(&self, _: &mut dyn FnMut(Tombstone)) -> esker::Result<()> {
        Ok(())
    }
}

fn config() -> Outcome<Config> {
    Ok(Config::builder().memory("256MiB").partitions(4).append_timeout(LONG).fetch_timeout(LONG).build()?)
}

/// Appends so many events and writes them all; events a second.
fn spill(store: &Store, payloads: &Payloads, events: u64) -> Outcome<f64> {
    let begin = now();
    let mut batch = Vec::with_capacity(BATCH);
    for id in 0..events {
        batch.push(payloads.event(id));
        if batch.len() == BATCH || id + 1 == events {
            store.append_batch(&batch)?.all_accepted()?;
            batch.clear();
        }
    }
    store.flush(LONG)?;
    Ok(events as f64 / begin.elapsed().as_secs_f64())
}

/// One payload size: all figures, as rows of a table.
fn measure(
    node: &Node,
    driver: &Driver,
    len: usize,
    seconds: f64,
    table: &mut Vec<[String; 3]>,
) -> Outcome<()> {
    let payloads = Payloads::new(len);
    let mut add = |what: &str, figure: f64, of: Option<f64>| {
        let share = of.map_or(String::new(), |of| format!("{:.2}", figure / of));
        table.push([format!("{what}, {len} B"), thousands(figure), share]);
    };
    // What a server does at first says nothing: it is compiled while it runs.
    driver.rows(&payloads, 0, ROWS_IN_FLIGHT, WARM_UP)?;
    let (rows, written) = driver.rows(&payloads, 0, ROWS_IN_FLIGHT, Duration::from_secs_f64(seconds))?;
    add("a row for each event, 256 in flight", rows, None);

    let capture = Arc::new(Capture::default());
    let store = Store::builder(config()?).cold(capture.clone()).open()?;
    let sample = (96 << 20) / (len as u64 + 40);
    let alone = spill(&store, &payloads, sample)?;
    add("the store alone: a tier that takes blocks and does nothing", alone, None);
    store.abandon();
    let blocks = capture.0.lock().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default();
    let each = sample as f64 / blocks.len() as f64;
    driver.blocks(&blocks, BLOCKS_IN_FLIGHT, Duration::from_secs_f64(seconds / 4.0))?;
    let limit = || -> Outcome<f64> {
        Ok(driver.blocks(&blocks, BLOCKS_IN_FLIGHT, Duration::from_secs_f64(seconds))? * each)
    };
    let before = limit()?;

    let dir = std::env::temp_dir().join(format!("esker-bench-{}-{len}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let tier = ScyllaConfig::new([format!("127.0.0.1:{}", node.port)], &dir)
        .keyspace("bench")
        .namespace(format!("n{len}"))
        .create_tables(Replication::Simple(1))
        .consistency(Consistency::One);
    let store = Store::builder(config()?).cold(Arc::new(ScyllaTier::connect(tier.clone())?)).open()?;
    let events = (before * seconds) as u64;
    let ours = spill(&store, &payloads, events)?;
    // The server flushes and compacts long after it has confirmed: each of the two pays for the one before it.
    let after = limit()?;
    let bare = (before + after) / 2.0;
    add("the same blocks in a bare loop, 16 in flight, before", before, None);
    add("the same, after the store's turn", after, None);
    add("append → hot → warm → confirmed; of the bare loops' mean", ours, Some(bare));
    add("the same, of a row for each event", ours, Some(rows));
    let stats = store.stats();
    let stored = stats.cold.stored_bytes as f64 / stats.cold.blocks.max(1) as f64;
    println!(
        "* {len} B: blocks of {:.0} events and {:.0} KiB; {:?}; {:?}",
        each,
        stored / 1024.0,
        stats.cold.tier,
        stats.cold.spill
    );
    store.close(LONG)?;
    std::fs::remove_dir_all(&dir)?;

    // Opened anew, with a directory that holds nothing: all reads go to the server.
    let store = Store::builder(config()?).cold(Arc::new(ScyllaTier::connect(tier)?)).open()?;
    reads(&store, driver, events, written, &mut add)?;
    store.close(LONG)?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn reads(
    store: &Store,
    driver: &Driver,
    events: u64,
    written: u64,
    add: &mut impl FnMut(&str, f64, Option<f64>),
) -> Outcome<()> {
    let mut took = Vec::new();
    for read in 0..1000u64 {
        let id = read.wrapping_mul(0x9e37_79b9_7f4a_7c15) % events;
        let begin = now();
        let found = store.fetch(id)?;
        took.push(begin.elapsed());
        found.ok_or("an event that was written is not found")?;
    }
    took.sort_unstable();
    add("fetch of one event, p50, µs", took[500].as_secs_f64() * 1e6, None);
    add("fetch of one event, p99, µs", took[990].as_secs_f64() * 1e6, None);
    let [p50, p99] = driver.read_rows(written)?;
    add("the same from a row, p50, µs", p50 * 1e6, None);
    add("the same from a row, p99, µs", p99 * 1e6, None);
    let begin = now();
    let wanted = events / 4;
    let scan = store.fetch_scan(0..wanted as i64 * STEP_MS);
    let mut sum = 0usize;
    let mut count = 0u64;
    for event in scan {
        let event: EventRef<'static> = event?;
        sum += event.payload().len();
        count += 1;
    }
    let ours = count as f64 / begin.elapsed().as_secs_f64();
    if count != wanted || sum == 0 {
        return Err(format!("a scan gave {count} of {wanted} events").into());
    }
    let rows = driver.scan_rows()?;
    add("scan of a time range, events a second", ours, None);
    add("the same from rows of one partition, 5,000 to a page", rows, None);
    Ok(())
}

fn thousands(value: f64) -> String {
    if value >= 100_000.0 { format!("{:.0} K", value / 1000.0) } else { format!("{value:.0}") }
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().collect();
    if !args.iter().any(|arg| arg == "--bench") {
        // `cargo test --benches`: nothing to show without a server.
        return Ok(());
    }
    let seconds =
        args.iter().position(|arg| arg == "--seconds").and_then(|at| args.get(at + 1)?.parse().ok());
    let seconds: f64 = seconds.unwrap_or(5.0);
    let node = Node::start()?;
    let driver = Driver::connect(node.port)?;
    let mut table = Vec::new();
    for len in [256, 1024] {
        measure(&node, &driver, len, seconds, &mut table)?;
    }
    println!("\n| what | figure | share |\n|---|---:|---:|");
    for [what, figure, share] in table {
        println!("| {what} | {figure} | {share} |");
    }
    Ok(())
}
