//! W7: reads of events that were squeezed. Only esker has such a tier, so it is compared with unpacking one frame.

use std::hint::black_box;
use std::time::Duration;

use esker::{Clock, Store};

use crate::child::{RENEW, Source, append, check_all, paced};
use crate::common::{Latencies, Random, first_word, now};
use crate::job::{Figures, Job, SMALL};
use crate::peer::{Peer, Room};
use crate::peers::esker::Esker;
use crate::registry::Abilities;
use crate::work::read::{Newest, quantiles};

const NEWEST: usize = 100;

pub(crate) fn warm(job: &Job, abilities: &Abilities) -> Figures {
    let events = (job.scale.events / 4).next_multiple_of(400);
    let source = Source::new(events, SMALL, job.scale.reads);
    let room = Room { events, payload: SMALL, cap: None, prefault: true, dir: job.dir.clone() };
    let warm = ((events * SMALL * 2) as u64).next_multiple_of(2 << 20);
    let config = Esker::config(&room)
        .memory(warm * 4 + (256 << 20))
        .warm(|region| region.max(warm).initial(warm).prefault(true))
        .background(false);
    let clock = Clock::manual(source.work.first_ms + events as i64);
    let config = config.build().expect("the sizes fit together");
    let store =
        Store::builder(config).clock(clock.clone()).open().expect("there must be memory for the store");
    let peer = Esker::of(store);
    append(&peer, &source, 64, 0..events);
    // Beyond the hot window of 4 hours, within the warm one of 24.
    clock.set_ms(source.work.first_ms + Duration::from_secs(5 * 3600).as_millis() as i64);
    let begin = now();
    peer.maintain();
    let mut figures = Figures::default();
    figures.add("w7.demote_rate", events as f64 / begin.elapsed().as_secs_f64());
    assert_eq!(peer.warm_events(), events as u64, "all events are warm");
    check_all(&peer, &source, abilities, events);
    points(&peer, &source, job, events, &mut figures);
    histories(&peer, &source, job, &mut figures);
    figures
}

fn points(peer: &Esker, source: &Source, job: &Job, events: usize, figures: &mut Figures) {
    let mut random = Random::new(31);
    let (mut sum, mut expected) = (0u64, 0u64);
    let (reads, seconds) = paced(job.scale.reads / 20, RENEW / 16, job.scale.time, |range| {
        let guard = peer.guard();
        for _ in range {
            let id = random.below(events) as u64 + 1;
            peer.get(&guard, id, |payload| sum = sum.wrapping_add(first_word(payload)));
            // Next to unpacking, this does not count.
            expected = expected.wrapping_add(source.word(id));
        }
    });
    assert_eq!(sum, expected, "W7 reads what was appended");
    figures.add("w7.rate", reads as f64 / seconds);
    let guard = peer.guard();
    let tail = Latencies::of(reads, |_| {
        peer.get(&guard, random.below(events) as u64 + 1, |payload| {
            black_box(first_word(payload));
        });
    });
    quantiles("w7", &tail, figures);
}

fn histories(peer: &Esker, source: &Source, job: &Job, figures: &mut Figures) {
    let newest = Newest::of(&source.work.streams);
    let (mut sum, mut found) = (0u64, 0usize);
    let (walks, seconds) = paced(job.scale.reads / 400, 1, job.scale.time, |range| {
        let guard = peer.guard();
        for at in range {
            let stream = source.work.asked[at % source.work.asked.len()];
            peer.newest(&guard, stream, NEWEST, |payload| {
                sum = sum.wrapping_add(first_word(payload));
                found += 1;
            });
        }
    });
    let asked = source.work.asked.iter().cycle().take(walks);
    let expected = asked
        .flat_map(|stream| newest.places(*stream))
        .fold(0u64, |sum, at| sum.wrapping_add(source.word(u64::from(*at) + 1)));
    assert_eq!(sum, expected, "W7 reads the newest events of a stream");
    figures.add("w7.history_rate", walks as f64 / seconds);
    figures.add("w7.history_event_rate", found as f64 / seconds);
}
