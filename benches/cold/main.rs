//! The cold tier on a real Cassandra node of this machine, which is started and ended here: what a store spills a
//! second, beside a row for each event (the usual way) and beside a bare loop that writes the same blocks (the limit).
//!
//! ```sh
//! cargo bench --features scylla --bench cold
//! cargo bench --features scylla --bench cold -- --seconds 4
//! cargo bench --features scylla --bench cold -- --bytes 1024 --writes   # one size of payloads; bare loop and store only
//! cargo bench --features scylla --bench cold -- --writes --apart        # half of the processors for the server, half for the rest
//! cargo bench --features scylla --bench cold -- --sweep       # sizes of blocks instead
//! ```

mod cost;
mod driver;
mod sweep;
mod wishes;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use esker::{
    BlockId, ColdBlock, ColdTier, Config, ConfigBuilder, Consistency, Event, EventRef, Namespace,
    Replication, ScyllaConfig, ScyllaTier, Store, Stream, Tombstone,
};

use crate::cost::{Cost, Spending};
use crate::driver::Driver;
use crate::wishes::Wishes;

type Outcome<T> = Result<T, Box<dyn Error>>;

const STREAMS: u64 = 10_000;
const BATCH: usize = 256;
const LONG: Duration = Duration::from_secs(120);
/// Rows of the usual way that are under way at once.
const ROWS_IN_FLIGHT: usize = 256;
/// Blocks of the bare loop that are under way at once: more only wait in the server.
const BLOCKS_IN_FLIGHT: usize = 16;
/// How often rows, bare loop and store take turns.
const ROUNDS: usize = 3;
/// A server is compiled while it runs, which takes more of the processors at first than the blocks do. Rounds do not count while
/// it takes so much of the server's time in any of them, up to so many.
const COMPILING: f64 = 0.08;
const WARM_UP_ROUNDS: usize = 15;
/// Milliseconds from one event to the next.
const STEP_MS: i64 = 1;

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// A node that ends with this value, unless it was there before.
struct Node {
    port: u16,
    pid: String,
    ends: bool,
}

impl Node {
    /// Starts a node, or takes the one that runs on this port.
    fn start(port: Option<u16>) -> Outcome<Self> {
        let ends = port.is_none();
        let port = match port {
            Some(port) => port,
            None => {
                let port = Command::new(Self::script_path()).arg("port").output()?.stdout;
                String::from_utf8(port)?.trim().parse()?
            }
        };
        let mut node = Self { port, pid: String::new(), ends };
        let dir = node.script("start")?;
        node.pid = std::fs::read_to_string(Path::new(dir.trim()).join("pid"))?.trim().to_string();
        node.script("wait")?;
        Ok(node)
    }

    fn script_path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cassandra")
    }

    fn script(&self, command: &str) -> Outcome<String> {
        let with = if self.ends { std::process::id().to_string() } else { String::new() };
        let output = Command::new(Self::script_path())
            .args([command, &self.port.to_string()])
            .env("CASSANDRA_WITH", with)
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
        if self.ends {
            let _ = self.script("purge");
        }
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

fn config(wishes: &Wishes) -> Outcome<Config> {
    Ok(config_builder().partitions(wishes.partitions).build()?)
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

/// Gives the second half of the processors to a process, all of its threads, or the first.
fn pin(pid: &str, second: bool) -> Outcome<()> {
    let all = std::thread::available_parallelism()?.get();
    let cpus =
        if second { format!("{}-{}", all / 2, all - 1) } else { format!("0-{}", (all / 2).max(1) - 1) };
    let status = Command::new("taskset")
        .args(["-a", "-p", "-c", &cpus, pid])
        .stdout(std::process::Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("taskset could not pin process {pid} to {cpus}").into())
    }
}

/// What the rounds of one kind gave.
#[derive(Default)]
struct Rounds(Vec<Spending>);

impl Rounds {
    fn median(&self, of: impl Fn(&Spending) -> f64) -> f64 {
        median(self.0.iter().map(of).collect())
    }
}

/// One payload size: all figures, as rows of a table.
fn measure(
    node: &Node,
    driver: &Driver,
    len: usize,
    wishes: &Wishes,
    table: &mut Vec<[String; 3]>,
) -> Outcome<()> {
    let payloads = Payloads::new(len);
    let mut add = |what: &str, figure: f64, of: Option<f64>| {
        let share = of.map_or(String::new(), |of| format!("{:.2}", figure / of));
        table.push([format!("{what}, {len} B"), thousands(figure), share]);
    };
    let capture = Arc::new(Capture::default());
    let store = Store::builder(config(wishes)?).cold(capture.clone()).open()?;
    let sample = (96 << 20) / (len as u64 + 40);
    // Once so that memory is there, once more so that it counts.
    spill(&store, &payloads, 0..sample)?;
    let alone = spill(&store, &payloads, sample..2 * sample)?;
    add("the store alone: a tier that takes blocks and does nothing", alone, None);
    store.abandon();
    let mut blocks = capture.0.lock().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default();
    let each = 2.0 * sample as f64 / blocks.len() as f64;
    blocks.truncate(blocks.len() / 2);

    let dir = std::env::temp_dir().join(format!("esker-bench-{}-{len}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let tier = ScyllaConfig::new([format!("127.0.0.1:{}", node.port)], &dir)
        .keyspace("bench")
        .namespace(format!("n{len}"))
        .create_tables(Replication::Simple(1))
        .consistency(Consistency::One);
    let store = Store::builder(config(wishes)?).cold(Arc::new(ScyllaTier::connect(tier.clone())?)).open()?;
    driver.leave_uncompacted()?;
    // By turns, so that what the server does late (flushing) and what the machine does otherwise meets all.
    let (mut rows, mut bare, mut ours) = (Vec::new(), Rounds::default(), Rounds::default());
    let (mut written, mut events, mut warm_up) = (0, 0u64, WARM_UP_ROUNDS);
    while bare.0.len() < wishes.rounds {
        if !wishes.only_writes {
            let (rate, count) = driver.rows(&payloads, 0, ROWS_IN_FLIGHT, wishes.length())?;
            rows.push(rate);
            written = count;
        }
        let cost = Cost::begin(node);
        let rate = driver.blocks(&blocks, BLOCKS_IN_FLIGHT, wishes.length())?;
        let cost = cost.end(rate * wishes.seconds);
        println!("* {len} B, bare loop: {cost}");
        bare.0.push(cost);
        let (cost, before) = (Cost::begin(node), store.stats().cold.blocks);
        let count = (rate * each * wishes.seconds * 0.6) as u64;
        let events_of = spill(&store, &payloads, events..events + count)?;
        events += count;
        let mut cost = cost.end((store.stats().cold.blocks - before) as f64);
        println!("* {len} B, the store: {cost}");
        // In blocks of the bare loop: a flush ends with some that are not full.
        cost.rate = events_of / each;
        ours.0.push(cost);
        // A first round also touches the store's memory for the first time.
        let cold = bare.0.iter().chain(&ours.0).any(|round| round.compiling > COMPILING)
            || warm_up == WARM_UP_ROUNDS;
        if bare.0.len() == 1 && cold && warm_up > 0 {
            warm_up -= 1;
            (rows, bare, ours) = (Vec::new(), Rounds::default(), Rounds::default());
        }
    }
    let rate = bare.median(|round| round.rate);
    let (server, own) = (bare.median(|round| round.each[0]), bare.median(|round| round.each[1]));
    let others = |rounds: &Rounds| rounds.0.iter().map(|round| round.others).fold(0.0, f64::max);
    add("the same blocks in a bare loop, 16 in flight", rate * each, None);
    add(
        "append → hot → confirmed; of the bare loop",
        ours.median(|round| round.rate) * each,
        Some(rate * each),
    );
    if !wishes.only_writes {
        let rows = median(rows);
        add("a row for each event, 256 in flight", rows, None);
        add("append → hot → confirmed; of the rows", ours.median(|round| round.rate) * each, Some(rows));
    }
    add("µs of the server for a block of the bare loop", server, None);
    add("µs of the loop's process", own, None);
    add(
        "µs of the server for a block of the store; of the bare loop",
        ours.median(|round| round.each[0]),
        Some(server),
    );
    let ours_own = ours.median(|round| round.each[1]);
    add("µs of the store's process", ours_own, None);
    let limit = (server + own) / (server + ours_own);
    add(
        "the limit on shared processors, if the server took the same: events/s",
        limit * rate * each,
        Some(rate * each),
    );
    let stats = store.stats();
    let stored = stats.cold.stored_bytes as f64 / stats.cold.blocks.max(1) as f64;
    println!(
        "* {len} B: bare blocks of {:.0} events; the store's of {:.0} and {:.0} KiB; {:?}; {:?}; after {} rounds of warming up; others took {:.2} at most",
        each,
        events as f64 / stats.cold.blocks.max(1) as f64,
        stored / 1024.0,
        stats.cold.tier,
        stats.cold.spill,
        WARM_UP_ROUNDS - warm_up,
        others(&bare).max(others(&ours)),
    );
    store.close(LONG)?;
    std::fs::remove_dir_all(&dir)?;
    if wishes.only_writes {
        return Ok(());
    }
    // Opened anew, with a directory that holds nothing: all reads go to the server.
    let store = Store::builder(config(wishes)?).cold(Arc::new(ScyllaTier::connect(tier)?)).open()?;
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
    if !std::env::args().any(|arg| arg == "--bench") {
        // `cargo test --benches`: nothing to show without a server.
        return Ok(());
    }
    let wishes = Wishes::read()?;
    let node = Node::start(wishes.port)?;
    if wishes.apart {
        pin(&node.pid, false)?;
        pin(&std::process::id().to_string(), true)?;
    }
    if wishes.sweep {
        return sweep::sweep(&node);
    }
    let driver = Driver::connect(node.port)?;
    let mut table = Vec::new();
    for len in &wishes.bytes {
        measure(&node, &driver, *len, &wishes, &mut table)?;
    }
    println!("\n| what | figure | share |\n|---|---:|---:|");
    for [what, figure, share] in table {
        println!("| {what} | {figure} | {share} |");
    }
    Ok(())
}
