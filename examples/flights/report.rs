//! The tables at the end.

use esker::{ColdStats, RegionKind, Stats, Store};

use crate::latency::Latencies;
use crate::options::DiskSize;
use crate::replay::Replay;

/// What the report is made of, beside the latencies.
pub(crate) struct Facts {
    /// Events that were replayed.
    pub(crate) events: usize,
    /// How the replay went.
    pub(crate) replay: Replay,
    /// Resident memory before the store was opened.
    pub(crate) resident_before: Option<u64>,
    /// As the store said it when everything had settled after the replay.
    pub(crate) stats: Stats,
    /// The files in the data directory at that time.
    pub(crate) on_disk: DiskSize,
}

impl Facts {
    /// Prints all tables.
    pub(crate) fn print(&self, store: &Store, latencies: &Latencies) {
        self.print_replay();
        self.print_tiers();
        self.print_memory(store);
        print_latencies(latencies, &store.stats().cold);
    }

    fn print_replay(&self) {
        let (replay, stats) = (&self.replay, &self.stats);
        let seconds = replay.took.as_secs_f64();
        println!("\nReplay");
        println!(
            "  {} events in {seconds:.2} s: {} events/s; {} bytes of metadata and payload per event",
            count(self.events),
            count((self.events as f64 / seconds) as usize),
            ratio(stats.events.appended_bytes, stats.events.appended)
        );
        println!(
            "  {} calls waited for room, {} events were refused and appended again",
            count(stats.events.waited),
            count(replay.retried)
        );
        println!(
            "  {} events were squeezed, {} left memory for the cold tier; {} cold blocks expired",
            count(stats.events.demoted),
            count(stats.events.released),
            count(stats.cold.expired_blocks)
        );
    }

    fn print_tiers(&self) {
        let (events, cold) = (&self.stats.events, &self.stats.cold);
        let hot = self.stats.region(RegionKind::Hot);
        println!("\nTiers (raw: records as the hot tier holds them, with their header of 40 bytes)");
        println!(
            "  {:<22} {:>9} {:>13} {:>12} {:>13} {:>7}",
            "", "events", "stored bytes", "bytes/event", "raw bytes", "ratio"
        );
        let row = |name: &str, events: u64, stored: u64, raw: u64| {
            println!(
                "  {name:<22} {:>9} {:>13} {:>12} {:>13} {:>7}",
                count(events),
                count(stored),
                ratio(stored, events),
                count(raw),
                ratio(raw, stored)
            );
        };
        row("hot", events.hot, hot.live_bytes, hot.live_bytes);
        row("warm", events.warm, events.warm_packed_bytes, events.warm_raw_bytes);
        row("cold, blocks", cold.events, cold.stored_bytes, cold.raw_bytes);
        row("cold, space on disk", cold.events, self.on_disk.space, cold.raw_bytes);
        row("cold, length of file", cold.events, self.on_disk.length, cold.raw_bytes);
        println!("  An event that the cold tier has confirmed can still be in memory: it counts in both.");
    }

    fn print_memory(&self, store: &Store) {
        let (config, stats) = (store.config(), &self.stats);
        let limits = [config.system.max, config.hot.max, config.warm.max, config.index.max];
        println!("\nMemory (MiB)");
        println!("  {:<22} {:>11} {:>11} {:>11}", "", "limit", "in use", "live");
        for ((kind, limit), region) in RegionKind::ALL.iter().zip(limits).zip(&stats.regions) {
            let (used, live) = (mib(region.used_bytes), mib(region.live_bytes));
            println!("  {:<22} {:>11} {used:>11} {live:>11}", kind.name(), mib(limit));
        }
        println!("  {:<22} {:>11} {:>11}", "buffers", mib(config.buffers), mib(stats.buffer_bytes));
        println!(
            "  {:<22} {:>11} {:>11}   (committed; the most during the replay)",
            "together",
            mib(config.memory),
            mib(self.replay.memory_peak)
        );
        let growth = self.replay.resident_peak.zip(self.resident_before);
        let growth =
            growth.map_or_else(|| "unknown".to_owned(), |(peak, before)| mib(peak.saturating_sub(before)));
        println!(
            "  {:<22} {:>11} {growth:>11}   (the process, the most during the replay)",
            "resident growth", ""
        );
    }
}

/// Prints what the callers measured, and what the store measured of its cold tier.
fn print_latencies(latencies: &Latencies, cold: &ColdStats) {
    println!("\nLatencies (as a caller sees them, the clock's own time included)");
    println!("  {:<38} {:>9} {:>9} {:>9} {:>9} {:>9}", "", "measured", "p50", "p99", "p99.9", "max");
    for (name, latency) in latencies.rows() {
        let at = |share| latency.quantile(share);
        print_latency(name, latency.count(), [at(0.5), at(0.99), at(0.999), latency.max()]);
    }
    for (name, latency) in
        [("the store's cold tier: load a block", cold.load), ("  write up to 8 blocks", cold.spill)]
    {
        let quantiles = [latency.p50, latency.p99, latency.p999, latency.max];
        print_latency(name, latency.count, quantiles.map(|took| took.as_nanos() as u64));
    }
    println!(
        "  \"Per event\" shares the time of a batch, a history, or 512 events of a scan among its events."
    );
    println!(
        "  Of {} cold blocks that were wanted, {} were in the store's cache.",
        count(cold.loads + cold.cache_hits),
        count(cold.cache_hits)
    );
}

fn print_latency(name: &str, measured: u64, quantiles: [u64; 4]) {
    let [p50, p99, p999, max] = quantiles.map(time);
    println!("  {name:<38} {:>9} {p50:>9} {p99:>9} {p999:>9} {max:>9}", count(measured));
}

/// A number with its thousands apart.
pub(crate) fn count(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// One number over another, or a dash.
fn ratio(over: u64, under: u64) -> String {
    if under == 0 { "-".to_owned() } else { format!("{:.2}", over as f64 / under as f64) }
}

/// Bytes in MiB.
fn mib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / f64::from(1 << 20))
}

/// Nanoseconds in the unit that suits them.
fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        0..10_000 => format!("{nanoseconds} ns"),
        10_000..10_000_000 => format!("{:.1} us", nanoseconds as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} ms", nanoseconds as f64 / 1e6),
        _ => format!("{:.1} s", nanoseconds as f64 / 1e9),
    }
}
