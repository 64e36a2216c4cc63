//! What every measurement needs: settings, the workload, pre-faulted memory, timing.

pub(crate) mod machine;
pub(crate) mod report;

use std::time::Instant;

use machine::{thread_time, ticks};

/// Bytes of a stored record before its payload.
pub(crate) const HEADER: usize = 40;
/// How many streams there are.
pub(crate) const STREAMS: u32 = 100_000;
/// The skew of their popularity.
const ZIPF: f64 = 0.99;
/// Bytes of all payloads that events are made from. They fit into a second-level cache, as what has just come from
/// a network does, so that reading them costs neither the store nor the limits anything.
const POOL_BYTES: usize = 256 << 10;

/// What to measure, and how much of it.
pub(crate) struct Settings {
    /// Events of 256 bytes; of 1 KB there are a quarter as many.
    pub(crate) events: usize,
    pub(crate) rounds: usize,
    /// Point reads of a round.
    pub(crate) reads: usize,
    pub(crate) only: Vec<String>,
}

impl Settings {
    /// Reads the command line. `cargo bench` says `--bench`; without it (`cargo test --benches`) everything runs
    /// once and small, to show that it works.
    pub(crate) fn from_args() -> Result<Self, String> {
        let mut settings = Self { events: 20_000, rounds: 1, reads: 2_000, only: Vec::new() };
        let mut args: Vec<String> = std::env::args().skip(1).collect();
        if args.iter().any(|arg| arg == "--bench") {
            args.retain(|arg| arg != "--bench");
            (settings.events, settings.rounds, settings.reads) = (2_000_000, 5, 300_000);
        }
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut number = || {
                let value = args.next().ok_or(format!("{arg} needs a number"))?;
                value.replace('_', "").parse::<usize>().map_err(|error| format!("{arg} {value}: {error}"))
            };
            match arg.as_str() {
                "--quick" => (settings.events, settings.rounds, settings.reads) = (500_000, 3, 100_000),
                "--events" => settings.events = number()?.max(1000),
                "--rounds" => settings.rounds = number()?.max(1),
                "--reads" => settings.reads = number()?.max(160),
                "--only" => {
                    let list = args.next().ok_or("--only needs a list")?;
                    settings.only = list.split(',').map(str::to_owned).collect();
                }
                other => return Err(format!("{other} is not known\n{USAGE}")),
            }
        }
        // Divisible by two threads, by the quarter of large events, and by the hundredth that a scan reads.
        settings.events = settings.events.next_multiple_of(400);
        Ok(settings)
    }

    /// Whether to measure this group.
    pub(crate) fn wants(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == group)
    }
}

const USAGE: &str = "cargo bench --bench store -- [--quick] [--events N] [--rounds N] [--reads N] [--only GROUP,…]\n\
    groups: limits single batch16 batch64 batch256 scattered two large get history scan sums steady warm";

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Nanoseconds that `work` takes of this thread, for each of the things that it says it has done.
pub(crate) fn time_found(work: impl FnOnce() -> usize) -> f64 {
    let begin = thread_time();
    let count = work();
    (thread_time() - begin).as_nanos() as f64 / count as f64
}

/// Nanoseconds that `work` takes of this thread, for each of `count` things that it does.
pub(crate) fn time_each(count: usize, work: impl FnOnce()) -> f64 {
    time_found(|| {
        work();
        count
    })
}

/// What one thread of several does.
pub(crate) type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Runs tasks on threads of their own. Nanoseconds for each of the `count` things that they do together: by the wall
/// clock, and by the processor time of the thread that took most.
pub(crate) fn race_each(count: usize, tasks: Vec<Task<'_>>) -> [f64; 2] {
    let begin = now();
    let run = |task: Task<'_>| {
        task();
        thread_time()
    };
    let busiest = std::thread::scope(|scope| {
        let threads: Vec<_> = tasks.into_iter().map(|task| scope.spawn(move || run(task))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no task panics")).max().unwrap_or_default()
    });
    [begin.elapsed(), busiest].map(|time| time.as_nanos() as f64 / count as f64)
}

/// Quantiles of single calls.
pub(crate) struct Latencies {
    ticks: Vec<u64>,
}

impl Latencies {
    /// Calls `work` with 0, 1, … and times each call.
    pub(crate) fn of(count: usize, work: impl FnMut(usize)) -> Self {
        Self::paced(count, |_| (), work)
    }

    /// The same, and calls `wait` before each, which is not timed.
    pub(crate) fn paced(count: usize, mut wait: impl FnMut(usize), mut work: impl FnMut(usize)) -> Self {
        let mut all = Vec::with_capacity(count);
        for at in 0..count {
            wait(at);
            let begin = ticks();
            work(at);
            all.push(ticks() - begin);
        }
        all.sort_unstable();
        Self { ticks: all }
    }

    /// Nanoseconds at these quantiles, without what reading the time costs.
    pub(crate) fn nanos(&self, quantiles: [f64; 3]) -> [f64; 3] {
        let mut nothing: Vec<u64> = (0..10_000).map(|_| ticks()).collect();
        nothing = nothing.windows(2).map(|pair| pair[1] - pair[0]).collect();
        nothing.sort_unstable();
        let overhead = nothing[nothing.len() / 2];
        let scale = nanos_per_tick();
        quantiles.map(|quantile| {
            let at = (quantile * (self.ticks.len() - 1) as f64) as usize;
            self.ticks[at].saturating_sub(overhead) as f64 * scale
        })
    }
}

/// How long a tick is, measured against the monotonic clock.
fn nanos_per_tick() -> f64 {
    use std::sync::OnceLock;
    static SCALE: OnceLock<f64> = OnceLock::new();
    *SCALE.get_or_init(|| {
        let (begin, first) = (now(), ticks());
        while begin.elapsed().as_millis() < 20 {
            std::hint::spin_loop();
        }
        begin.elapsed().as_nanos() as f64 / (ticks() - first) as f64
    })
}

/// A step of splitmix64 (Steele, Lea, Flood, 2014), as a hash.
#[inline]
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// splitmix64: the same numbers in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    #[inline]
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        scale(self.next(), limit)
    }
}

/// A hash as a number below `limit`.
#[inline]
pub(crate) fn scale(hash: u64, limit: usize) -> usize {
    ((u128::from(hash) * limit as u128) >> 64) as usize
}

/// Payloads of one size: half random bytes, half text.
pub(crate) struct Payloads {
    pub(crate) size: usize,
    bytes: Vec<u8>,
}

impl Payloads {
    pub(crate) fn new(size: usize) -> Self {
        let mut random = Random::new(size as u64);
        let mut bytes = Vec::with_capacity(POOL_BYTES);
        while bytes.len() < POOL_BYTES {
            let end = bytes.len() + size;
            while bytes.len() < end - size / 2 {
                bytes.extend_from_slice(&random.next().to_le_bytes());
            }
            let text = format!("{{\"state\":\"attached\",\"cell\":{},\"next\":null}} ", random.below(1000));
            bytes.extend(text.bytes().cycle().take(end - bytes.len()));
        }
        Self { size, bytes }
    }

    /// The payload of an event.
    #[inline]
    pub(crate) fn of(&self, event: usize) -> &[u8] {
        let count = POOL_BYTES / self.size;
        let at = event % count * self.size;
        &self.bytes[at..at + self.size]
    }

    /// Bytes of a record with such a payload.
    pub(crate) fn record(&self) -> usize {
        HEADER + self.size
    }
}

/// Everything that is decided before a clock is started.
pub(crate) struct Workload {
    /// The stream of each event.
    pub(crate) streams: Vec<u32>,
    /// Streams to ask for, as popular as those that events come from.
    pub(crate) asked: Vec<u32>,
    pub(crate) small: Payloads,
    pub(crate) large: Payloads,
    /// The timestamp of the first event; each is a millisecond after the one before.
    pub(crate) first_ms: i64,
}

impl Workload {
    pub(crate) fn new(settings: &Settings, now_ms: i64) -> Self {
        let mut sum = 0.0;
        let shares: Vec<f64> = (1..=STREAMS)
            .map(|rank| {
                sum += f64::from(rank).powf(-ZIPF);
                sum
            })
            .collect();
        let mut random = Random::new(7);
        let mut stream = || {
            let at = (random.next() >> 11) as f64 / (1u64 << 53) as f64 * sum;
            shares.partition_point(|share| *share < at) as u32
        };
        Self {
            streams: (0..settings.events).map(|_| stream()).collect(),
            asked: (0..65_536).map(|_| stream()).collect(),
            small: Payloads::new(256),
            large: Payloads::new(1024),
            first_ms: now_ms - settings.events as i64,
        }
    }

    /// The kind of an event: one of 16, in no order.
    #[inline]
    pub(crate) fn kind(event: usize) -> u8 {
        (mix(event as u64) & 15) as u8
    }
}

/// Looks at every byte of a payload, eight at a time.
#[inline]
pub(crate) fn touch(payload: &[u8]) -> u64 {
    payload.as_chunks::<8>().0.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

/// The first eight bytes.
#[inline]
pub(crate) fn first_word(payload: &[u8]) -> u64 {
    payload.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word))
}

/// Memory as the store's regions have it: mapped, advised to be of huge pages, touched.
pub(crate) struct Memory {
    map: memmap2::MmapMut,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> std::io::Result<Self> {
        let mut map = memmap2::MmapMut::map_anon(bytes)?;
        #[cfg(target_os = "linux")]
        map.advise(memmap2::Advice::HugePage)?;
        map.fill(1);
        Ok(Self { map })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}
