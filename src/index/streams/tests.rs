//! Tests of the stream directory where heads come and go.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::ids::LogicalPage;
use crate::pages::readers::Readers;
use crate::pressure::RegionKind;
use crate::sys::machine::Machine;

const SEED: u64 = 11;
const CLASS: Class = Class::DEFAULT;
/// Streams that have events at a time: what a few pages hold, and what makes pages that are neither sparse nor to be split.
const LIVE: usize = 900;

/// A directory beside what it should hold: each stream's number of events.
struct Both {
    directory: StreamDirectory,
    readers: Arc<Readers>,
    wanted: RefCell<HashMap<u64, u64>>,
    there: RefCell<Vec<u64>>,
    next: Cell<u64>,
}

fn hash(stream: Stream) -> u64 {
    head_hash(stream_hash(stream, SEED), CLASS)
}

/// The address of a stream's n-th event.
fn address(stream: u64, event: u64) -> Addr {
    Addr::new(LogicalPage(1 + stream as u32), event as u32 * 8, 0)
}

impl Both {
    fn new() -> Self {
        let config = Config::builder().memory("32MiB").partitions(1).build().unwrap();
        let machine = Arc::new(Machine::new(&config).unwrap());
        let tables = Region::open(RegionKind::System, config.system.whole(), &machine).unwrap();
        let region = Arc::new(Region::open(RegionKind::Index, config.index, &machine).unwrap());
        let readers = Arc::new(Readers::new());
        let pages = IndexPages::new(region, readers.clone(), false);
        let directory = StreamDirectory::new(&config, &tables, pages, SEED, None).unwrap();
        Self { directory, readers, wanted: RefCell::default(), there: RefCell::default(), next: Cell::new(0) }
    }

    fn push(&self, number: u64) {
        let stream = Stream::from_raw(number);
        let (head, _) = self.directory.find_or_insert(hash(stream), stream, CLASS).unwrap();
        let mut wanted = self.wanted.borrow_mut();
        let count = wanted.entry(number).or_default();
        head.push(head.next_link().0, address(number, *count));
        *count += 1;
    }

    fn push_new(&self) {
        self.next.set(self.next.get() + 1);
        self.there.borrow_mut().push(self.next.get());
        self.push(self.next.get());
    }

    /// A stream that is there, any.
    fn some(&self, seed: u64) -> u64 {
        let there = self.there.borrow();
        there[mix(seed, 5) as usize % there.len()]
    }

    /// Removes the head of any stream that is there. Its hash.
    fn remove_some(&self, seed: u64) -> u64 {
        let len = self.there.borrow().len();
        let number = self.there.borrow_mut().swap_remove(mix(seed, 5) as usize % len);
        let (stream, count) = (Stream::from_raw(number), self.wanted.borrow_mut().remove(&number).unwrap());
        assert!(!self.directory.remove_if_newest(hash(stream), stream, CLASS, address(number, count)));
        assert!(self.directory.remove_if_newest(hash(stream), stream, CLASS, address(number, count - 1)));
        hash(stream)
    }

    fn check(&self) {
        let wanted = self.wanted.borrow();
        assert_eq!(self.directory.heads().len(), wanted.len());
        for (number, count) in wanted.iter() {
            let stream = Stream::from_raw(*number);
            let newest = self.directory.find(hash(stream), stream, CLASS).unwrap().newest();
            let expected =
                |back: u64| if back < *count { address(*number, count - 1 - back) } else { Addr(0) };
            for (back, addr) in (0..).zip(newest) {
                assert_eq!(addr, expected(back), "{back} before the newest of {count} of stream {number}");
            }
        }
    }
}

/// Heads are added, changed and removed while the mover copies a page. No append has to rewrite one.
#[test]
fn a_page_is_rewritten_before_an_append_has_to() {
    let both = Both::new();
    (0..LIVE).for_each(|_| both.push_new());
    let (grown, mut rewritten) = (both.directory.moves(), 0);
    for round in 0..if cfg!(miri) { 1_000 } else { 10_000 } {
        let pin = both.readers.pin();
        let moves = both.directory.moves();
        let gone = both.remove_some(round);
        both.push(both.some(round + 1));
        both.push_new();
        assert_eq!(both.directory.moves(), moves, "an append has moved heads");
        both.directory.rewrite_ahead(gone, || {
            both.push(both.some(round + 2));
            both.push_new();
            both.remove_some(round + 3);
        });
        rewritten = both.directory.moves() - grown;
        drop(pin);
        both.readers.reclaim();
        if round % 500 == 0 {
            both.check();
        }
    }
    both.check();
    assert!(rewritten > 0);
}

/// What an append does to a page while the mover copies it stands: the mover gives up.
#[test]
fn who_rewrites_a_page_gives_up_if_an_append_was_faster() {
    let both = Both::new();
    (0..LIVE).for_each(|_| both.push_new());
    let mut beaten = 0;
    for round in 0..if cfg!(miri) { 500 } else { 2_000 } {
        let pin = both.readers.pin();
        let gone = both.remove_some(round);
        both.push_new();
        let moved = Cell::new(None);
        both.directory.rewrite_ahead(gone, || {
            let page = || both.directory.directory.page_for(gone);
            let (before, live) = (page(), both.wanted.borrow().len());
            // So many that most pages fill up, and are rewritten or split.
            (0..live).for_each(|_| both.push_new());
            for at in 0..live {
                both.remove_some(round + at as u64);
            }
            moved.set(Some(both.directory.moves()).filter(|_| page() != before));
        });
        if let Some(moved) = moved.get() {
            assert_eq!(both.directory.moves(), moved, "it redirected a page that it had not copied");
            beaten += 1;
        }
        drop(pin);
        both.readers.reclaim();
        if beaten > 20 {
            break;
        }
    }
    both.check();
    assert!(beaten > 0);
}

/// Pages that were split become few again when most heads are gone, and nothing that an append does meanwhile is lost.
#[test]
fn pages_of_which_little_is_left_become_fewer() {
    let both = Both::new();
    let few = if cfg!(miri) { 20 } else { 200 };
    (0..few * 20).for_each(|_| both.push_new());
    let most = both.directory.page_numbers().len();
    let mut round = 0;
    while both.there.borrow().len() > few {
        round += 1;
        let pin = both.readers.pin();
        let gone = both.remove_some(round);
        // Some come back, and some are added, while pages are copied.
        both.directory.rewrite_ahead(gone, || {
            both.push(both.some(round + 1));
            if round % 4 == 0 {
                both.push_new();
            }
        });
        drop(pin);
        both.readers.reclaim();
        if round % 500 == 0 {
            both.check();
        }
    }
    both.check();
    let left = both.directory.page_numbers().len();
    assert!(left * 4 <= most, "{left} pages are left of {most}");
    // And they can be split again.
    (0..few * 20).for_each(|_| both.push_new());
    both.check();
}
