//! The cold tier on a real Cassandra node of this machine, which is started and ended here: what a store spills a
//! second, beside a row for each event (the usual way) and beside a bare loop that writes the same blocks (the limit).
//!
//! ```sh
//! cargo bench --features scylla --bench cold
//! cargo bench --features scylla --bench cold -- --seconds 4
//! cargo bench --features scylla --bench cold -- --sweep       # sizes of blocks instead
//! ```

mod driver;
mod sweep;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use esker::{
    BlockId, ColdBlock, ColdTier, Config, ConfigBuilder, Consistency, Event, EventRef, Namespace,
    Replication, ScyllaConfig, ScyllaTier, Store, Stream, Tombstone,
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
/// How often the bare loop and the store take turns.
const ROUNDS: usize = 3;
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
    pid: String,
}

impl Node {
    fn start() -> Outcome<Self> {
        let port = Command::new(Self::script_path()).arg("port").output()?.stdout;
        let mut node = Self { port: String::from_utf8(port)?.trim().parse()?, pid: String::new() };
        let dir = node.script("start")?;
        node.pid = std::fs::read_to_string(Path::new(dir.trim()).join("pid"))?.trim().to_string();
        node.script("wait")?;
        Ok(node)
    }

    fn script_path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cassandra")
    }

    fn script(&self, command: &str) -> Outcome<String> {
        let output = Command::new(Self::script_path())
            .args([command, &self.port.to_string()])
            .env("CASSANDRA_WITH", std::process::id().to_string())
            .env("CASSANDRA_JIT", "full")
            .env("CASSANDRA_HEAP", "1G")
            .stderr(std::process::Stdio::inherit())
            .output()?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("scripts/cassandra {command} failed").into())
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.script("purge");
    }
}

/// Of a process in all, and of each of its threads with its name.
type Spent = (f64, BTreeMap<String, (String, f64)>);

/// Seconds of processor time that a process has taken so far: all of it, and each of its threads with its name of now
/// (those of a server take others), without numbers.
fn spent(pid: &str) -> Spent {
    let read = |stat: PathBuf| {
        let stat = std::fs::read_to_string(stat).ok()?;
        let (begin, end) = (stat.find('(')?, stat.rfind(')')?);
        // The times are the 12th and 13th word behind the name, in hundredths.
        let words: Vec<&str> = stat[end + 1..].split_whitespace().collect();
        let word = |at: usize| words.get(at).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        let name = stat[begin + 1..end].trim_end_matches(|end: char| !end.is_alphabetic()).to_string();
        Some((name, (word(11) + word(12)) / 100.0))
    };
    let process = PathBuf::from("/proc").join(pid);
    let threads = std::fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    let each = threads.filter_map(|thread| {
        Some((thread.file_name().to_string_lossy().into_owned(), read(thread.path().join("stat"))?))
    });
    (read(process.join("stat")).map_or(0.0, |(_, all)| all), each.collect())
}

/// What something takes of the two processes. Threads that end meanwhile count in the sums only.
struct Cost<'a> {
    node: &'a Node,
    before: [Spent; 2],
    begin: Instant,
}

impl<'a> Cost<'a> {
    fn begin(node: &'a Node) -> Self {
        Self { node, before: [spent(&node.pid), spent("self")], begin: now() }
    }

    fn of(&self, count: f64) -> String {
        let (after, took) = ([spent(&self.node.pid), spent("self")], self.begin.elapsed().as_secs_f64());
        let mut text = format!("{:.0} blocks a second", count / took);
        for (side, name) in ["server", "this process"].into_iter().enumerate() {
            let (before, before_each) = &self.before[side];
            let mut threads: BTreeMap<&str, f64> = BTreeMap::new();
            for (thread, (name, total)) in &after[side].1 {
                let earlier = before_each.get(thread).map_or(0.0, |(_, earlier)| *earlier);
                *threads.entry(name.as_str()).or_default() += total - earlier;
            }
            let mut threads: Vec<(f64, &str)> =
                threads.into_iter().map(|(name, seconds)| (seconds, name)).collect();
            threads.sort_by(|one, other| other.0.total_cmp(&one.0));
            let each = |seconds: f64| seconds * 1e6 / count;
            text += &format!("; {name} {:.0} µs a block (", each(after[side].0 - before));
            for (seconds, thread) in threads.iter().take(8).filter(|(seconds, _)| each(*seconds) >= 10.0) {
                text += &format!(" {thread} {:.0}", each(*seconds));
            }
            text += " )";
        }
        text
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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

fn config_builder() -> ConfigBuilder {
    Config::builder().memory("256MiB").partitions(4).append_timeout(LONG).fetch_timeout(LONG)
}

fn config() -> Outcome<Config> {
    Ok(config_builder().build()?)
}

/// Appends so many events and writes them all; events a second.
fn spill(store: &Store, payloads: &Payloads, events: std::ops::Range<u64>) -> Outcome<f64> {
    let begin = now();
    let (count, end) = (events.end - events.start, events.end);
    let mut batch = Vec::with_capacity(BATCH);
    for id in events {
        batch.push(payloads.event(id));
        if batch.len() == BATCH || id + 1 == end {
            store.append_batch(&batch)?.all_accepted()?;
            batch.clear();
        }
    }
    store.flush(LONG)?;
    Ok(count as f64 / begin.elapsed().as_secs_f64())
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
    // Once so that memory is there, once more so that it counts.
    spill(&store, &payloads, 0..sample)?;
    let alone = spill(&store, &payloads, sample..2 * sample)?;
    add("the store alone: a tier that takes blocks and does nothing", alone, None);
    store.abandon();
    let mut blocks = capture.0.lock().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default();
    let each = 2.0 * sample as f64 / blocks.len() as f64;
    blocks.truncate(blocks.len() / 2);
    driver.blocks(&blocks, BLOCKS_IN_FLIGHT, Duration::from_secs_f64(seconds / 2.0))?;

    let dir = std::env::temp_dir().join(format!("esker-bench-{}-{len}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let tier = ScyllaConfig::new([format!("127.0.0.1:{}", node.port)], &dir)
        .keyspace("bench")
        .namespace(format!("n{len}"))
        .create_tables(Replication::Simple(1))
        .consistency(Consistency::One);
    let store = Store::builder(config()?).cold(Arc::new(ScyllaTier::connect(tier.clone())?)).open()?;
    // By turns, so that what the server does late (flushing, compacting) and what the machine does otherwise meets all.
    let (mut bare, mut ours, mut events) = (Vec::new(), Vec::new(), 0u64);
    for round in 0..=ROUNDS {
        if round == 1 {
            // What a server does at first says nothing: it is compiled while it runs.
            (bare, ours) = (Vec::new(), Vec::new());
        }
        let cost = Cost::begin(node);
        let rate = driver.blocks(&blocks, BLOCKS_IN_FLIGHT, Duration::from_secs_f64(seconds))?;
        let events_of = rate * each * seconds;
        println!("* {len} B, bare loop: {}", cost.of(rate * seconds));
        bare.push(rate * each);
        let (cost, before) = (Cost::begin(node), store.stats());
        let count = (events_of * 0.6) as u64;
        ours.push(spill(&store, &payloads, events..events + count)?);
        events += count;
        let after = store.stats();
        let made = (after.cold.blocks - before.cold.blocks) as f64;
        println!("* {len} B, the store: {}", cost.of(made));
    }
    let (bare, ours) = (median(bare), median(ours));
    add("the same blocks in a bare loop, 16 in flight", bare, None);
    add("append → hot → warm → confirmed; of the bare loop", ours, Some(bare));
    add("the same, of a row for each event", ours, Some(rows));
    let stats = store.stats();
    let stored = stats.cold.stored_bytes as f64 / stats.cold.blocks.max(1) as f64;
    println!(
        "* {len} B: bare blocks of {:.0} events; the store's of {:.0} and {:.0} KiB; {:?}; {:?}",
        each,
        events as f64 / stats.cold.blocks.max(1) as f64,
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
    let (mut took, before) = (Vec::new(), store.stats().cold);
    for read in 0..1000u64 {
        let id = read.wrapping_mul(0x9e37_79b9_7f4a_7c15) % events;
        let begin = now();
        let found = store.fetch(id)?;
        took.push(begin.elapsed());
        found.ok_or("an event that was written is not found")?;
    }
    took.sort_unstable();
    let after = store.stats().cold;
    let (blocks, cached) = (after.loads - before.loads, after.cache_hits - before.cache_hits);
    println!("* {} blocks; 1000 fetches read {blocks} and found {cached} in the cache", after.blocks);
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
    if args.iter().any(|arg| arg == "--sweep") {
        return sweep::sweep(&node);
    }
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
