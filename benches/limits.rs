//! What the memory allows: the same bytes moved, and the same lines touched, with nothing round it.
//!
//! Every limit works on memory that is pre-faulted and advised to be of huge pages, as the store's regions are.

use std::hint::black_box;

use crate::common::machine::prefetch;
use crate::common::report::{QUANTILES, Report};
use crate::common::{
    HEADER, Latencies, Memory, Payloads, Random, STREAMS, Settings, Task, Workload, first_word, mix,
    race_each, scale, time_each, touch,
};

/// How many events ahead lines are fetched.
const AHEAD: usize = 16;
const LINE: usize = 64;
/// Bytes of index for each event: what a hash index at three quarters of its fill takes for 8-byte entries, rounded
/// up to whole lines of seven.
const INDEX_BYTES: usize = 16;

pub(crate) const COPY: &str = "limit: copy 256 B records";
pub(crate) const COPY_LARGE: &str = "limit: copy 1 KB records";
pub(crate) const APPEND: &str = "limit: copy 256 B + 2 random lines";
pub(crate) const APPEND_LARGE: &str = "limit: copy 1 KB + 2 random lines";
pub(crate) const APPEND_TWO: &str = "limit: copy 256 B + 2 random lines, 2 threads";
pub(crate) const APPEND_TWO_BUSY: &str = "limit: the same, processor time of the busier";
pub(crate) const TWO_READS: &str = "limit: 2 dependent random reads, unchained";
pub(crate) const TWO_READS_CHAINED: &str = "limit: 2 dependent random reads, chained";
pub(crate) const TWICE_16: &str = "limit: 16 × 2 dependent reads, prefetched";
pub(crate) const READ_16: &str = "limit: 16 random reads, prefetched";
pub(crate) const SCAN: &str = "limit: sequential scan of records";
pub(crate) const UNPACK: &str = "limit: LZ4 unpack, a 16 KiB frame";

/// The memory that the limits work on.
pub(crate) struct Limits {
    records: Memory,
    /// A line for each four events, as an index has; each word is the number of a record.
    index: Memory,
    /// A line for each stream.
    heads: Memory,
}

/// What one thread writes to.
struct Lane<'a> {
    records: &'a mut [u8],
    index: &'a mut [[u8; LINE]],
    heads: &'a mut [[u8; LINE]],
}

impl Limits {
    pub(crate) fn new(settings: &Settings, work: &Workload) -> std::io::Result<Self> {
        let records = settings.events * work.small.record();
        let mut index = Memory::new((settings.events * INDEX_BYTES).next_multiple_of(2 * LINE))?;
        let mut random = Random::new(3);
        for word in index.bytes_mut().as_chunks_mut::<8>().0 {
            *word = (random.below(settings.events) as u64).to_le_bytes();
        }
        let heads = Memory::new(2 * STREAMS as usize * LINE)?;
        Ok(Self { records: Memory::new(records)?, index, heads })
    }

    fn lane(&mut self) -> Lane<'_> {
        Lane {
            records: self.records.bytes_mut(),
            index: self.index.bytes_mut().as_chunks_mut().0,
            heads: self.heads.bytes_mut().as_chunks_mut().0,
        }
    }

    /// Measures writing: bare, with the lines of an index and a stream directory, by one thread and by two.
    pub(crate) fn write(&mut self, settings: &Settings, work: &Workload, report: &mut Report) {
        let (events, large) = (settings.events, settings.events / 4);
        report.add(
            COPY_LARGE,
            None,
            time_each(large, || copy(&mut self.lane(), work, &work.large, 0..large)),
        );
        let nanos = time_each(large, || append(&mut self.lane(), work, &work.large, 0..large));
        report.add(APPEND_LARGE, None, nanos);
        let (one, two) = halves(self.lane());
        let mut tasks: Vec<Task<'_>> = Vec::new();
        for (mut lane, events) in [(one, 0..events / 2), (two, events / 2..events)] {
            tasks.push(Box::new(move || append(&mut lane, work, &work.small, events)));
        }
        let [wall, busiest] = race_each(events, tasks);
        report.add(APPEND_TWO, None, wall);
        report.add(APPEND_TWO_BUSY, None, busiest);
        // The last two leave the records behind that reading looks at.
        report.add(
            APPEND,
            None,
            time_each(events, || append(&mut self.lane(), work, &work.small, 0..events)),
        );
        report.add(COPY, None, time_each(events, || copy(&mut self.lane(), work, &work.small, 0..events)));
    }

    /// Measures point reads.
    pub(crate) fn read(&self, settings: &Settings, record: usize, report: &mut Report) {
        let reads = settings.reads;
        let one = |at: usize| self.record(at % settings.events, record);
        let two = |hash: u64| self.record(self.entry(hash), record);
        let mut random = Random::new(11);
        let chained = time_each(reads, || {
            black_box((0..reads).fold(1u64, |last, at| one(scale(mix(last ^ at as u64), settings.events))));
        });
        report.add("limit: 1 random read, chained", None, chained);
        let chained = time_each(reads, || {
            black_box((0..reads).fold(1u64, |last, at| two(mix(last ^ at as u64))));
        });
        report.add(TWO_READS_CHAINED, None, chained);
        let tail = Latencies::of(reads, |_| {
            black_box(two(random.next()));
        });
        report.add_tail("limit: 2 dependent random reads", tail.nanos(QUANTILES));
        let free = time_each(reads, || {
            black_box((0..reads).fold(0u64, |sum, _| sum.wrapping_add(two(random.next()))));
        });
        report.add(TWO_READS, None, free);
        report.add(READ_16, None, self.sixteen(settings, record));
        report.add(TWICE_16, None, self.sixteen_twice(settings, record));
    }

    /// Reads of records, 16 at once.
    fn sixteen(&self, settings: &Settings, record: usize) -> f64 {
        let mut random = Random::new(13);
        time_each(settings.reads / 16 * 16, || {
            let mut sum = 0u64;
            for _ in 0..settings.reads / 16 {
                let places: [usize; 16] = std::array::from_fn(|_| random.below(settings.events));
                for place in places {
                    self.prefetch_record(place, record);
                }
                sum = places.iter().fold(sum, |sum, place| sum.wrapping_add(self.record(*place, record)));
            }
            black_box(sum);
        })
    }

    /// Reads of records by way of the index, 16 at once.
    fn sixteen_twice(&self, settings: &Settings, record: usize) -> f64 {
        let mut random = Random::new(17);
        time_each(settings.reads / 16 * 16, || {
            let mut sum = 0u64;
            for _ in 0..settings.reads / 16 {
                let hashes: [u64; 16] = std::array::from_fn(|_| random.next());
                for hash in hashes {
                    prefetch(self.index.bytes(), scale(hash, self.index.bytes().len() / 8) * 8);
                }
                let places = hashes.map(|hash| self.entry(hash));
                for place in places {
                    self.prefetch_record(place, record);
                }
                sum = places.iter().fold(sum, |sum, place| sum.wrapping_add(self.record(*place, record)));
            }
            black_box(sum);
        })
    }

    fn prefetch_record(&self, place: usize, record: usize) {
        prefetch(self.records.bytes(), place * record);
        // A header and the first word after it may lie on two lines.
        prefetch(self.records.bytes(), place * record + HEADER);
    }

    /// What a random place of the index says.
    #[inline]
    fn entry(&self, hash: u64) -> usize {
        let words = self.index.bytes().as_chunks::<8>().0;
        u64::from_le_bytes(words[scale(hash, words.len())]) as usize
    }

    /// A record's id and the first word of its payload.
    #[inline]
    fn record(&self, place: usize, record: usize) -> u64 {
        let bytes = &self.records.bytes()[place * record..(place + 1) * record];
        first_word(&bytes[8..]) ^ first_word(&bytes[HEADER..])
    }

    /// Measures reading a hundredth of all records, from its first byte to its last, in different places.
    pub(crate) fn scan(&self, settings: &Settings, record: usize, places: &[usize], report: &mut Report) {
        let len = settings.events / 100;
        let nanos = time_each(len * places.len(), || {
            let mut sum = 0u64;
            for place in places {
                let bytes = &self.records.bytes()[place * record..(place + len) * record];
                for record in bytes.chunks_exact(record) {
                    sum = sum.wrapping_add(first_word(record)).wrapping_add(touch(&record[HEADER..]));
                }
            }
            black_box(sum);
        });
        report.add(SCAN, None, nanos);
    }

    /// Measures packing and unpacking.
    pub(crate) fn pack(&self, settings: &Settings, report: &mut Report) {
        const FRAME: usize = 16 << 10;
        let frames = (settings.reads / 100).min(self.records.bytes().len() / FRAME);
        let mut random = Random::new(19);
        let mut packed = vec![Vec::new(); frames];
        let mut space = vec![0; lz4_flex::block::get_maximum_output_size(FRAME)];
        let nanos = time_each(frames, || {
            for out in &mut packed {
                let at = random.below(self.records.bytes().len() - FRAME + 1);
                let frame = &self.records.bytes()[at..at + FRAME];
                // Packing into space of the size that the crate asks for does not fail.
                let len = lz4_flex::block::compress_into(frame, &mut space).unwrap_or(0);
                out.extend_from_slice(&space[..len]);
            }
        });
        report.add("limit: LZ4 pack, a 16 KiB frame", None, nanos);
        let nanos = time_each(frames, || {
            for frame in &packed {
                let len = lz4_flex::block::decompress_into(frame, &mut space).unwrap_or(0);
                assert_eq!(len, FRAME, "a frame comes back whole");
            }
        });
        report.add(UNPACK, None, nanos);
    }
}

/// The halves of what there is to write to, for two threads.
fn halves(lane: Lane<'_>) -> (Lane<'_>, Lane<'_>) {
    let Lane { records, index, heads } = lane;
    let (half_index, half_heads) = (index.len() / 2, heads.len() / 2);
    // Both halves are whole records and events, whichever size is chosen.
    let (a, b) = records.split_at_mut(records.len() / 2);
    let (c, d) = index.split_at_mut(half_index);
    let (e, f) = heads.split_at_mut(half_heads);
    (Lane { records: a, index: c, heads: e }, Lane { records: b, index: d, heads: f })
}

/// Writes the header and copies the payload.
#[inline]
fn put(out: &mut [u8], work: &Workload, payload: &[u8], event: usize, previous: u64) {
    let (header, body) = out.split_at_mut(HEADER);
    let packed = payload.len() as u64 | u64::from(Workload::kind(event)) << 48;
    let time = work.first_ms as u64 + event as u64;
    let stream = u64::from(work.streams[event]);
    let words = [time, event as u64 + 1, packed, stream, previous];
    for (place, word) in header.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    body.copy_from_slice(payload);
}

/// Copies records one after the other.
fn copy(lane: &mut Lane<'_>, work: &Workload, payloads: &Payloads, events: std::ops::Range<usize>) {
    for (event, out) in events.zip(lane.records.chunks_exact_mut(payloads.record())) {
        put(out, work, payloads.of(event), event, 0);
    }
    black_box(&mut lane.records);
}

/// Copies records, and for each one stores its place in a random line of an index and in the line of its stream,
/// both fetched ahead: the least that an append has to do.
fn append(lane: &mut Lane<'_>, work: &Workload, payloads: &Payloads, events: std::ops::Range<usize>) {
    let (lines, streams) = (lane.index.len(), lane.heads.len());
    let entry = |event: usize| scale(mix(event as u64), lines);
    let head = |event: usize| scale(mix(u64::from(work.streams[event])), streams);
    let last = events.end - 1;
    for (event, out) in events.clone().zip(lane.records.chunks_exact_mut(payloads.record())) {
        let ahead = (event + AHEAD).min(last);
        prefetch(lane.index.as_flattened(), entry(ahead) * LINE);
        prefetch(lane.heads.as_flattened(), head(ahead) * LINE);
        let word = event % 8 * 8;
        let (index, head) = (&mut lane.index[entry(event)], &mut lane.heads[head(event)]);
        put(out, work, payloads.of(event), event, first_word(&head[word..]));
        // The index is read as numbers of records by the limits of reading, so it gets one.
        index[word..word + 8].copy_from_slice(&(event as u64).to_le_bytes());
        head[word..word + 8].copy_from_slice(&(event as u64).to_le_bytes());
    }
    black_box(&mut lane.records);
}
