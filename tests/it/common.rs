//! What the tests share: small stores, payloads that prove themselves, time, and a seeded random source.

use std::time::{Duration, Instant};

use esker::{Appended, ClassConfig, Clock, Config, ConfigBuilder, ErrorKind, Event, EventRef, Store, Stream};

/// A small store's configuration. Appends wait long: the machine that runs the tests may be busy.
pub(crate) fn small() -> ConfigBuilder {
    Config::builder().memory("16MiB").partitions(2).append_timeout(Duration::from_secs(5))
}

/// A small store without threads on a manual clock.
pub(crate) fn manual(config: ConfigBuilder) -> (Store, Clock) {
    let clock = Clock::manual(1_000_000);
    let config = config.background(false).build().unwrap();
    (Store::builder(config).clock(clock.clone()).open().unwrap(), clock)
}

/// Two classes: `a` stays long, `b` is for the moment.
pub(crate) fn two_classes() -> [ClassConfig; 2] {
    let seconds = Duration::from_secs;
    [
        ClassConfig::new("a").hot_for(seconds(60)).warm_for(seconds(600)),
        ClassConfig::new("b").hot_for(seconds(30)).warm_for(seconds(60)).retention(seconds(3600)),
    ]
}

/// The monotonic clock, for limits on how long a call may take.
#[expect(clippy::disallowed_methods, reason = "a test measures how long a call of the store takes")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the epoch, as a store on the system's clock sees them.
#[expect(clippy::disallowed_methods, reason = "events of a store on the system's clock carry its time")]
pub(crate) fn wall_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

const CHILD: &str = "ESKER_TEST_CHILD";

/// Runs a test's body in a process of its own, by starting this test once more in one. `None` in that process, which
/// is to do the work; what the child wrote otherwise. It must succeed.
pub(crate) fn in_own_process(test: &str, argument: &str) -> Option<String> {
    if child_argument().is_some() {
        return None;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, argument)
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "the child process failed:\n{text}");
    println!("{text}");
    Some(text)
}

/// What a child process was started with.
pub(crate) fn child_argument() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// Calls `done` until it says yes, and fails after `limit`. How long it took.
pub(crate) fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let begin = now();
    while !done() {
        assert!(begin.elapsed() < limit, "{what}: not after {limit:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    begin.elapsed()
}

/// Appends events, each by its number, until the store has no room for long. The number of the next.
pub(crate) fn fill(mut id: u64, mut append: impl FnMut(u64) -> esker::Result<Appended>) -> u64 {
    let mut refused = 0;
    // What makes room may have to wait for a processor: for as long as this thread does, which is told by its sleeps.
    while refused < 2000 {
        match append(id) {
            Ok(_) => (id, refused) = (id + 1, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::MemoryPressure, "{error}");
                refused += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    id
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Words in front of a proof's filler: stream, id, timestamp, length, checksum.
const WORDS: usize = 5;
/// The shortest payload that can prove itself.
pub(crate) const PROOF_MIN: usize = WORDS * 8;

/// A payload that says whose it is and carries its own checksum; half of the filler is compressible.
pub(crate) fn proof(stream: Stream, id: u64, timestamp: i64, len: usize) -> Vec<u8> {
    assert!(len >= PROOF_MIN, "a proof takes at least {PROOF_MIN} bytes");
    let mut out = Vec::with_capacity(len);
    for word in [stream.as_u64(), id, timestamp as u64, len as u64, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let mut random = Random::new(id ^ stream.as_u64().rotate_left(32));
    while out.len() < len {
        let word = if out.len() % 16 == 8 { random.next() } else { 0 };
        let take = (len - out.len()).min(8);
        out.extend_from_slice(&word.to_le_bytes()[..take]);
    }
    let sum = checksum(&out);
    out[32..40].copy_from_slice(&sum.to_le_bytes());
    out
}

/// Over everything but the checksum's own place.
fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    for (at, chunk) in bytes.chunks(8).enumerate() {
        if at == 4 {
            continue;
        }
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3).rotate_left(29);
    }
    sum
}

/// Checks an event's payload against itself and against what the event says of itself.
pub(crate) fn verify(event: &EventRef<'_>) {
    let payload = event.payload();
    let word = |at: usize| u64::from_le_bytes(payload[at * 8..at * 8 + 8].try_into().unwrap());
    assert!(payload.len() >= PROOF_MIN, "{event:?} is cut off");
    assert_eq!(word(0), event.stream().as_u64(), "the stream of {event:?}");
    assert_eq!(word(1), event.id(), "the id of {event:?}");
    assert_eq!(word(2) as i64, event.timestamp(), "the timestamp of {event:?}");
    assert_eq!(word(3), payload.len() as u64, "the length of {event:?}");
    assert_eq!(word(4), checksum(payload), "the checksum of {event:?}");
}

/// Appends an event whose payload proves itself, waiting for as long as the store is short of memory.
pub(crate) fn append_proof(store: &Store, event: Event<'_>, len: usize) -> Appended {
    let payload = proof(event.stream, event.id, event.timestamp, len);
    let event = event.payload(&payload);
    loop {
        match store.append(&event) {
            Ok(done) => return done,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::MemoryPressure, "{error}");
                std::thread::sleep(error.retry_after().unwrap());
            }
        }
    }
}

/// Ids of everything in the store, sorted; every event must prove itself and none may come twice.
pub(crate) fn all_ids(store: &Store) -> Vec<u64> {
    let mut ids = Vec::new();
    for event in store.fetch_scan(..).timeout(Duration::from_secs(600)) {
        let event = event.unwrap();
        verify(&event);
        ids.push(event.id());
    }
    ids.sort_unstable();
    let before = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), before, "a scan gave an event twice");
    ids
}
