//! W2, W3, W4: reads of a full store.

use std::hint::black_box;

use crate::child::{Misses, RENEW, Source, append, check_all, paced, room};
use crate::common::report::QUANTILES;
use crate::common::{Latencies, Random, STREAMS, Workload, first_word, scale, touch};
use crate::job::{Figures, Job, SMALL};
use crate::peer::{MANY, Peer};
use crate::registry::Abilities;

/// Events that one reader of a history asks for.
const NEWEST: usize = 100;
/// Ranges that are scanned at most.
const SCANS: usize = 30;
/// The kind that a filtered scan wants: one of 16.
const KIND: u8 = 5;

pub(crate) fn read<P: Peer>(job: &Job, abilities: &Abilities) -> Figures {
    let events = job.scale.events;
    let source = Source::new(events, SMALL, job.scale.reads);
    let peer = P::open(&room(job, abilities, events, SMALL));
    append(&peer, &source, abilities.batch, 0..events);
    peer.settle();
    check_all(&peer, &source, abilities, events);
    let mut figures = Figures::default();
    points(&peer, &source, job, abilities, &mut figures);
    if abilities.many {
        many(&peer, &source, job, &mut figures);
    }
    if !abilities.ids_only {
        histories(&peer, &source, job, &mut figures);
        scans(&peer, &source, job, &mut figures);
    }
    figures
}

/// A random id.
#[inline]
fn id(random: &mut Random, events: usize) -> u64 {
    scale(random.next(), events) as u64 + 1
}

/// W2, one id at a time.
fn points<P: Peer>(peer: &P, source: &Source, job: &Job, abilities: &Abilities, figures: &mut Figures) {
    let events = job.scale.events;
    let mut random = Random::new(29);
    let (mut sum, mut misses) = (0u64, Misses::default());
    let (reads, seconds) = paced(job.scale.reads, RENEW, job.scale.time, |range| {
        let guard = peer.guard();
        for _ in range {
            let id = id(&mut random, events);
            if !peer.get(&guard, id, |payload| sum = sum.wrapping_add(first_word(payload))) {
                misses.one(source, id);
            }
        }
    });
    let mut random = Random::new(29);
    let expected = (0..reads).fold(0u64, |sum, _| sum.wrapping_add(source.word(id(&mut random, events))));
    let sum = misses.complete(sum, abilities, reads);
    assert_eq!(sum, expected, "W2 reads what was appended");
    figures.add("w2.rate", reads as f64 / seconds);
    let guard = peer.guard();
    let tail = Latencies::of(reads, |_| {
        peer.get(&guard, id(&mut random, events), |payload| {
            black_box(first_word(payload));
        });
    });
    quantiles("w2", &tail, figures);
}

/// W2, 16 ids at a time.
fn many<P: Peer>(peer: &P, source: &Source, job: &Job, figures: &mut Figures) {
    let events = job.scale.events;
    let ids = |random: &mut Random| -> [u64; MANY] { std::array::from_fn(|_| id(random, events)) };
    let mut random = Random::new(31);
    let mut sum = 0u64;
    let (batches, seconds) = paced(job.scale.reads / MANY, RENEW / MANY, job.scale.time, |range| {
        let guard = peer.guard();
        for _ in range {
            let ids = ids(&mut random);
            peer.get_many(&guard, &ids, |payload| sum = sum.wrapping_add(first_word(payload)));
        }
    });
    let mut random = Random::new(31);
    let expected =
        (0..batches).flat_map(|_| ids(&mut random)).fold(0u64, |sum, id| sum.wrapping_add(source.word(id)));
    assert_eq!(sum, expected, "W2 in batches reads what was appended");
    figures.add("w2.many_rate", (batches * MANY) as f64 / seconds);
}

/// W3: the newest events of popular streams.
fn histories<P: Peer>(peer: &P, source: &Source, job: &Job, figures: &mut Figures) {
    let newest = Newest::of(&source.work.streams);
    let asked = &source.work.asked;
    let stream = |at: usize| asked[at % asked.len()];
    let mut sum = 0u64;
    let (walks, seconds) = paced(job.scale.reads / 20, 16, job.scale.time, |range| {
        let guard = peer.guard();
        for at in range {
            peer.newest(&guard, stream(at), NEWEST, |payload| sum = sum.wrapping_add(first_word(payload)));
        }
    });
    let (mut expected, mut found) = (0u64, 0);
    for at in (0..walks).flat_map(|at| newest.places(stream(at))) {
        expected = expected.wrapping_add(source.word(u64::from(*at) + 1));
        found += 1;
    }
    assert_eq!(sum, expected, "W3 reads the newest events of a stream");
    figures.add("w3.rate", walks as f64 / seconds);
    figures.add("w3.event_rate", f64::from(found) / seconds);
    let guard = peer.guard();
    let tail = Latencies::of(walks, |at| {
        peer.newest(&guard, stream(at), NEWEST, |payload| {
            black_box(first_word(payload));
        });
    });
    quantiles("w3", &tail, figures);
}

/// Where the newest events of each stream are.
pub(super) struct Newest {
    /// Where the list of a stream ends in `places`.
    ends: Vec<u32>,
    /// Places of events, those of a stream together, oldest first.
    places: Vec<u32>,
}

impl Newest {
    pub(super) fn of(streams: &[u32]) -> Self {
        let mut ends = vec![0u32; STREAMS as usize + 1];
        for stream in streams {
            ends[*stream as usize + 1] += 1;
        }
        for at in 1..ends.len() {
            ends[at] += ends[at - 1];
        }
        let mut places = vec![0; streams.len()];
        for (at, stream) in streams.iter().enumerate() {
            let end = &mut ends[*stream as usize];
            places[*end as usize] = at as u32;
            *end += 1;
        }
        Self { ends, places }
    }

    /// The newest events of a stream, at most as many as a reader asks for.
    pub(super) fn places(&self, stream: u32) -> &[u32] {
        let end = self.ends[stream as usize] as usize;
        let first = stream.checked_sub(1).map_or(0, |before| self.ends[before as usize] as usize);
        &self.places[first.max(end.saturating_sub(NEWEST))..end]
    }
}

/// W4: a hundredth of all events by time, all of them or one kind; either way the rate is of events in range.
fn scans<P: Peer>(peer: &P, source: &Source, job: &Job, figures: &mut Figures) {
    let events = job.scale.events;
    let len = events / 100;
    let mut random = Random::new(23);
    let places: Vec<usize> = (0..SCANS).map(|_| random.below(events - len)).collect();
    for (name, kind) in [("w4.rate", None), ("w4.kind_rate", Some(KIND))] {
        let mut sum = 0u64;
        let (scans, seconds) = paced(SCANS, 1, job.scale.time, |range| {
            let guard = peer.guard();
            let first = source.work.first_ms + places[range.start] as i64;
            let times = first..first + len as i64;
            peer.scan(&guard, times, kind, |payload| sum = sum.wrapping_add(touch(payload)));
        });
        let wanted = |at: &usize| kind.is_none_or(|kind| Workload::kind(*at) == kind);
        let expected = places[..scans]
            .iter()
            .flat_map(|first| (*first..first + len).filter(wanted))
            .fold(0u64, |sum, at| sum.wrapping_add(touch(source.payloads().of(at))));
        assert_eq!(sum, expected, "W4 reads what is in range");
        figures.add(name, (scans * len) as f64 / seconds);
    }
}

/// Notes the three quantiles of single calls, in nanoseconds.
pub(super) fn quantiles(name: &str, tail: &Latencies, figures: &mut Figures) {
    for (quantile, nanos) in ["p50", "p99", "p999"].iter().zip(tail.nanos(QUANTILES)) {
        figures.add(format!("{name}.{quantile}"), nanos);
    }
}
