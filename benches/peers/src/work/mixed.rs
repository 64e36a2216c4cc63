//! W6: reads and appends together, on two threads.

use crate::child::{Misses, RENEW, Source, append, check, paced, room};
use crate::common::{Random, first_word, scale};
use crate::job::{Figures, Job, SMALL};
use crate::peer::Peer;
use crate::registry::Abilities;

const THREADS: usize = 2;

/// What a thread does next.
enum Step {
    /// Reads one of the events that were there in the beginning.
    Get(u64),
    Append,
}

fn step(random: &mut Random, reads: usize, events: usize) -> Step {
    if random.below(100) < reads { Step::Get(scale(random.next(), events) as u64 + 1) } else { Step::Append }
}

/// Each thread gets random ids and appends single events with new ids, `reads` gets in a hundred operations.
pub(crate) fn mixed<P: Peer>(job: &Job, abilities: &Abilities, reads: usize) -> Figures {
    let events = job.scale.events;
    // As many operations as events at most, each of which may be an append.
    let each = events / THREADS;
    let source = Source::new(events, SMALL, job.scale.reads);
    let peer = P::open(&room(job, abilities, events + events, SMALL));
    append(&peer, &source, abilities.batch, 0..events);
    peer.settle();
    let thread = |number: usize| {
        let seed = || Random::new(47 + number as u64);
        let (mut random, mut sum, mut appended) = (seed(), 0u64, 0);
        let mut misses = Misses::default();
        let (done, seconds) = paced(each, RENEW, job.scale.time, |range| {
            let guard = peer.guard();
            for _ in range {
                match step(&mut random, reads, events) {
                    Step::Get(id) => {
                        if !peer.get(&guard, id, |payload| sum = sum.wrapping_add(first_word(payload))) {
                            misses.one(&source, id);
                        }
                    }
                    Step::Append => {
                        peer.append(&source.record(events + number + appended * THREADS));
                        appended += 1;
                    }
                }
            }
        });
        let mut random = seed();
        let mut expected = 0u64;
        for _ in 0..done {
            if let Step::Get(id) = step(&mut random, reads, events) {
                expected = expected.wrapping_add(source.word(id));
            }
        }
        let sum = misses.complete(sum, abilities, done);
        assert_eq!(sum, expected, "W6 reads what was appended");
        let ids = (0..appended).map(|at| (events + number + at * THREADS) as u64 + 1);
        let lost = appended - check(&peer, &source, ids);
        Misses::default().many(lost).complete(0, abilities, appended);
        done as f64 / seconds
    };
    let rate: f64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || thread(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("what a thread found wrong, it has said")).sum()
    });
    let mut figures = Figures::default();
    figures.add(format!("{}.rate", job.work.name()), rate);
    figures
}
