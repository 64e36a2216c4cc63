//! W1: ingest.

use crate::child::{Source, append, check_all, cpu_seconds, memory, room};
use crate::common::now;
use crate::job::{Figures, Job, SMALL};
use crate::peer::Peer;
use crate::registry::Abilities;

/// Appends all events to an empty peer, by one producer or by two, which take blocks of events in turn, as two
/// connections would that deliver what happens now.
pub(crate) fn ingest<P: Peer>(job: &Job, abilities: &Abilities, payload: usize, producers: usize) -> Figures {
    let events = if payload == SMALL { job.scale.events } else { job.scale.events / 4 };
    let source = Source::new(events, payload, job.scale.reads);
    let room = room(job, abilities, events, payload);
    let before = memory(&job.dir);
    let peer = P::open(&room);
    let block = abilities.batch.max(64);
    let (begin, busy) = (now(), cpu_seconds());
    if producers == 1 {
        append(&peer, &source, abilities.batch, 0..events);
    } else {
        std::thread::scope(|scope| {
            for first in 0..producers {
                let (peer, source) = (&peer, &source);
                scope.spawn(move || {
                    for at in (first * block..events).step_by(producers * block) {
                        append(peer, source, abilities.batch, at..(at + block).min(events));
                    }
                });
            }
        });
    }
    let seconds = begin.elapsed().as_secs_f64();
    let cores = (cpu_seconds() - busy) / seconds;
    peer.settle();
    let grown = memory(&job.dir).saturating_sub(before) as f64;
    check_all(&peer, &source, abilities, events);
    let mut figures = Figures::default();
    let name = job.work.name();
    figures.add(format!("{name}.rate"), events as f64 / seconds);
    figures.add(format!("{name}.cores"), cores);
    // What was touched beforehand says nothing about an event.
    if !abilities.prefault {
        figures.add(format!("{name}.overhead"), (grown - room.payload_bytes() as f64) / events as f64);
    }
    figures
}
