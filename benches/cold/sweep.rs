//! How large blocks should be: what a store of 256-byte events writes and reads with each size.

use std::sync::Arc;

use esker::{Consistency, Replication, ScyllaConfig, ScyllaTier, Store};

use crate::{LONG, Node, Outcome, Payloads, STEP_MS, config_builder, median, now, spill, thousands};

const SIZES: [u64; 5] = [32, 64, 128, 256, 512];
const EVENTS: u64 = 500_000;
const ROUNDS: usize = 5;
const FETCHES: u64 = 500;

/// What one size gave: written and scanned events a second, seconds of a fetch (p50, p99), KiB of a block.
#[derive(Default)]
struct Figures {
    spilled: Vec<f64>,
    scanned: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    stored: f64,
}

pub(crate) fn sweep(node: &Node) -> Outcome<()> {
    let payloads = Payloads::new(256);
    let mut all: Vec<Figures> = SIZES.iter().map(|_| Figures::default()).collect();
    // By turns, and the first round does not count: the server is compiled while it runs.
    for round in 0..=ROUNDS {
        for turn in 0..SIZES.len() {
            // Each time another one is first, as what one has written is compacted while the next is measured.
            let at = (turn + round) % SIZES.len();
            let (size, figures) = (SIZES[at], &mut all[at]);
            if round == 1 {
                *figures = Figures::default();
            }
            measure(node, &payloads, size, &format!("s{size}r{round}"), figures)?;
        }
    }
    println!("\n| block, KiB | stored, KiB | spilled, events/s | fetch p50 / p99, ms | scanned, events/s |");
    println!("|---:|---:|---:|---:|---:|");
    for (size, Figures { spilled, scanned, p50, p99, stored }) in SIZES.iter().zip(all) {
        let ms = |seconds| format!("{:.1}", median(seconds) * 1e3);
        let (spilled, scanned) = (thousands(median(spilled)), thousands(median(scanned)));
        println!("| {size} | {stored:.0} | {spilled} | {} / {} | {scanned} |", ms(p50), ms(p99));
    }
    Ok(())
}

fn measure(node: &Node, payloads: &Payloads, size: u64, name: &str, figures: &mut Figures) -> Outcome<()> {
    let dir = std::env::temp_dir().join(format!("esker-sweep-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let tier = ScyllaConfig::new([format!("127.0.0.1:{}", node.port)], &dir)
        .keyspace("sweep")
        .namespace(name)
        .create_tables(Replication::Simple(1))
        .consistency(Consistency::One);
    let open = || -> Outcome<Store> {
        let config = config_builder().block_bytes(size << 10).build()?;
        Ok(Store::builder(config).cold(Arc::new(ScyllaTier::connect(tier.clone())?)).open()?)
    };
    let store = open()?;
    figures.spilled.push(spill(&store, payloads, 0..EVENTS)?);
    let cold = store.stats().cold;
    figures.stored = cold.stored_bytes as f64 / cold.blocks.max(1) as f64 / 1024.0;
    store.close(LONG)?;
    std::fs::remove_dir_all(&dir)?;
    // With a directory that holds nothing: all reads go to the server.
    let store = open()?;
    let mut took = Vec::new();
    for read in 0..FETCHES {
        let begin = now();
        let id = read.wrapping_mul(0x9e37_79b9_7f4a_7c15) % EVENTS;
        store.fetch(id)?.ok_or("an event that was written is not found")?;
        took.push(begin.elapsed().as_secs_f64());
    }
    took.sort_by(f64::total_cmp);
    figures.p50.push(took[took.len() / 2]);
    figures.p99.push(took[took.len() * 99 / 100]);
    let (begin, mut count) = (now(), 0u64);
    for event in store.fetch_scan(0..EVENTS as i64 / 4 * STEP_MS) {
        event?;
        count += 1;
    }
    figures.scanned.push(count as f64 / begin.elapsed().as_secs_f64());
    store.close(LONG)?;
    Ok(std::fs::remove_dir_all(&dir)?)
}
