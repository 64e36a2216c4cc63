//! W5: steady state at a cap.

use crate::child::{Source, append, check, memory};
use crate::common::{Latencies, Random, now};
use crate::job::{Figures, Job, SMALL};
use crate::peer::{Peer, Room};
use crate::registry::Abilities;
use crate::work::read::quantiles;

/// Appends four times what the cap holds. The first quarter fills, the next two are measured as a whole, and of the
/// last each single append is timed, as far as there is time for it.
pub(crate) fn steady<P: Peer>(job: &Job, abilities: &Abilities) -> Figures {
    let quarter = (job.scale.cap as usize / SMALL).next_multiple_of(400);
    let total = 4 * quarter;
    let source = Source::new(total, SMALL, job.scale.reads);
    let room = Room {
        events: quarter,
        payload: SMALL,
        cap: Some(job.scale.cap),
        prefault: abilities.prefault,
        dir: job.dir.clone(),
    };
    let before = memory(&job.dir);
    let peer = P::open(&room);
    append(&peer, &source, abilities.batch, 0..quarter);
    let begin = now();
    append(&peer, &source, abilities.batch, quarter..3 * quarter);
    let rate = (2 * quarter) as f64 / begin.elapsed().as_secs_f64();
    let tail = singles(&peer, &source, job, 3 * quarter..total);
    // At the end rather than at the peak, since what grows here does not shrink again.
    let used = memory(&job.dir).saturating_sub(before) as f64;
    peer.settle();

    let mut random = Random::new(43);
    let asked = total.min(20_000);
    let end = 3 * quarter + tail.1;
    let found = check(&peer, &source, (0..asked).map(|_| random.below(end) as u64 + 1));
    assert!(found > 0, "a store at its cap has some of the events");
    let kept = found as f64 / asked as f64 * end as f64 * SMALL as f64;
    let mut figures = Figures::default();
    figures.add("w5.rate", rate);
    quantiles("w5", &tail.0, &mut figures);
    figures.add("w5.max", tail.0.nanos([1.0; 3])[0]);
    figures.add("w5.memory", used / job.scale.cap as f64);
    figures.add("w5.kept", kept / job.scale.cap as f64);
    figures
}

/// Times single appends: all of these, or as many as there is time for. How many it were.
fn singles<P: Peer>(
    peer: &P,
    source: &Source,
    job: &Job,
    events: std::ops::Range<usize>,
) -> (Latencies, usize) {
    let trial = events.len().min(200);
    let begin = now();
    append(peer, source, 1, events.start..events.start + trial);
    let each = begin.elapsed().as_secs_f64() / trial as f64;
    let count = ((job.scale.time.as_secs_f64() / each) as usize).clamp(1, events.len() - trial);
    let first = events.start + trial;
    let tail = Latencies::of(count, |at| peer.append(&source.record(first + at)));
    (tail, trial + count)
}
