//! What the memory gives to so many threads: the same bytes moved, with nothing round it.

use std::hint::black_box;

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::common::{HEADER, Memory, Random, first_word, touch};
use crate::race::race;
use crate::settings::{RECORD, Settings};
use crate::table::Table;
use crate::writes::payloads;

pub(crate) fn run(threads: usize, settings: &Settings, table: &mut Table) {
    if !settings.wants("limits") {
        return;
    }
    let time = settings.time / 2;
    // As many bytes as the store's events take.
    let mut memory =
        Memory::new(settings.events() as usize * RECORD).expect("there must be memory for the limits");
    {
        let part = settings.events() as usize / threads * RECORD;
        let parts = memory.bytes_mut().chunks_exact_mut(part).map(|part| CachePadded::new(Mutex::new(part)));
        let parts: Vec<_> = parts.take(threads).collect();
        let pool = payloads();
        let rate = race(threads, time, |thread, running| {
            let mut part = parts[thread].lock();
            let mut done = 0;
            while running.go_on() {
                for piece in part.chunks_mut(RECORD * 64) {
                    for (record, payload) in
                        piece.chunks_exact_mut(RECORD).zip(pool.iter().cycle().skip(done as usize % 512))
                    {
                        let (header, body) = record.split_at_mut(HEADER);
                        header.fill(done as u8);
                        body.copy_from_slice(payload);
                        done += 1;
                    }
                    if !running.go_on() {
                        break;
                    }
                }
            }
            done
        });
        table.add("limit: copy of the records", threads, rate);
    }
    let records = memory.bytes().as_chunks::<RECORD>().0;
    let rate = race(threads, time, |thread, running| {
        let (mut random, mut done, mut sum) = (Random::new(thread as u64), 0, 0u64);
        while running.go_on() {
            for _ in 0..64 {
                // The second place is known when the first is read, as with an index.
                let first = first_word(&records[random.below(records.len())]);
                let second = (random.next() ^ first) as usize % records.len();
                sum = sum.wrapping_add(first_word(&records[second][HEADER..]));
            }
            done += 64;
        }
        black_box(sum);
        done
    });
    table.add("limit: two dependent random reads", threads, rate);
    let rate = race(threads, time, |thread, running| {
        let (mut done, mut sum) = (0, 0u64);
        let begin = records.len() / threads * thread;
        while running.go_on() {
            for piece in records[begin..].chunks(64) {
                sum = piece.iter().fold(sum, |sum, record| sum.wrapping_add(touch(&record[HEADER..])));
                done += piece.len() as u64;
                if !running.go_on() {
                    break;
                }
            }
        }
        black_box(sum);
        done
    });
    table.add("limit: records read in order", threads, rate);
}
