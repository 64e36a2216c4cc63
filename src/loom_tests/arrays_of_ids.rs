//! The id index as a whole: arrays, the hash table, and the way between them.

use super::*;
use crate::ids::{Addr, LogicalPage};
use crate::index::bucket::Bucket;
use crate::index::dense::{Cursor, DenseIndex};
use crate::index::hash::{BucketPages, HashIndex};
use crate::index::ids::{IdIndex, Outcome, Ticket};
use crate::sync::{AtomicU32, wait_a_turn};
use std::sync::atomic::AtomicUsize;

/// Ids of a chunk; the second one that comes makes its array.
const CHUNK: usize = 2;

/// Pages that are buckets or words, as they are asked for.
struct Heap {
    buckets: Vec<Vec<Bucket>>,
    words: Vec<Vec<Cell>>,
    /// Not loom's: taking a page is not what is checked here.
    next: AtomicUsize,
}

impl Heap {
    fn new(pages: usize) -> Self {
        let buckets = || (0..3).map(|_| Bucket::zeroed()).collect();
        let words = || (0..CHUNK).map(|_| Cell::new(0)).collect();
        Self {
            buckets: (0..pages).map(|_| buckets()).collect(),
            words: (0..pages).map(|_| words()).collect(),
            next: AtomicUsize::new(0),
        }
    }
}

impl BucketPages for Heap {
    fn page(&self, page: u32) -> &[Bucket] {
        &self.buckets[page as usize]
    }

    fn claim(&self) -> Option<u32> {
        let next = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // The last comes first, so that whoever moves to a lower one finds one.
        self.words.len().checked_sub(next + 1).map(|page| page as u32)
    }

    fn retire(&self, _: u32) {}

    fn give_back(&self, _: u32) {}

    fn words(&self, page: u32) -> &[Cell] {
        &self.words[page as usize]
    }

    fn prefetch(&self, _: u32, _: usize) {}
}

/// An index and the records that its entries lead to.
struct Index {
    index: IdIndex<Vec<AtomicU32>, Vec<Cell>, Heap>,
    records: [Cell; 10],
}

impl Index {
    fn with(ids: impl IntoIterator<Item = u64>) -> Arc<Self> {
        let slots = (0..2).map(|_| AtomicU32::new(0)).collect();
        let hash = HashIndex::new(slots, Heap::new(1), 0, 1).expect("there is a first page");
        let chunks = (0..8).map(|_| Cell::new(0)).collect();
        let dense = DenseIndex::new(chunks, Heap::new(3), CHUNK, 1);
        let index = Arc::new(Self { index: IdIndex::new(hash, dense), records: cells(0) });
        for id in ids {
            assert!(index.insert(id));
        }
        index
    }

    fn addr(id: u64) -> Addr {
        Addr::new(LogicalPage(id as u32 + 1), 0, 0)
    }

    /// Reads the record that an entry leads to, as the store does before it believes an entry.
    fn id_at(&self, addr: Addr) -> u64 {
        let at = addr.page().0 as usize - 1;
        assert_eq!(self.records[at].load(Relaxed), 7, "the record of an entry is complete");
        at as u64
    }

    /// `false`: it was there.
    fn insert(&self, id: u64) -> bool {
        let (mut cursor, mut turn) = (Cursor::new(), 0);
        let ticket = loop {
            let same = |entry| self.id_at(entry) == id;
            match self.index.announce(id, Self::addr(id), &mut cursor, same) {
                Outcome::New(ticket) => break ticket,
                Outcome::Duplicate => return false,
                Outcome::Again => {
                    cursor.release();
                    wait_a_turn(&mut turn);
                }
                Outcome::Full => panic!("there is room"),
            }
        };
        cursor.release();
        self.records[id as usize].store(7, Relaxed);
        self.index.publish(ticket, Self::addr(id));
        true
    }

    fn holds(&self, id: u64) -> bool {
        self.index.find(id, |entry| (self.id_at(entry) == id).then_some(())).is_some()
    }

    fn remove(&self, id: u64) -> bool {
        self.index.remove(id, Self::addr(id))
    }

    /// The index holds these ids and nothing else.
    fn assert_holds(&self, ids: &[u64]) {
        let mut held: Vec<u64> = self.index.entries().into_iter().map(|entry| self.id_at(entry)).collect();
        held.sort_unstable();
        assert_eq!(held, ids);
        assert!(ids.iter().all(|id| self.holds(*id)));
    }
}

#[test]
fn of_two_writers_of_one_id_one_is_told_that_it_is_a_duplicate() {
    model(|order| {
        // The array is there; the id is not.
        let index = Index::with([0, 1]);
        assert!(index.remove(1));
        let insert = |index: &Index| {
            let stored = index.insert(1);
            assert!(index.holds(1), "whoever is told that it is a duplicate finds it");
            stored
        };
        let outcome = order.race(&index, insert, insert);
        assert!(outcome.0 != outcome.1, "{outcome:?}");
        index.assert_holds(&[0, 1]);
    });
}

#[test]
fn an_id_that_is_removed_while_its_array_moves_is_gone() {
    model(|order| {
        let index = Index::with([0, 1]);
        // Now both are in the array.
        assert!(index.remove(0) && index.insert(0));
        order.race(
            &index,
            // No one announces meanwhile.
            |index| assert_eq!(index.index.vacate(2, 1), 1),
            |index| {
                assert!(index.holds(0));
                assert!(index.remove(1));
                assert!(!index.holds(1) && !index.remove(1));
            },
        );
        assert!(index.insert(1) && !index.insert(0));
        index.assert_holds(&[0, 1]);
    });
}

#[test]
fn two_writers_of_one_id_agree_while_its_array_is_made() {
    model(|order| {
        let index = Index::with([0]);
        let outcome = order.race(&index, |index| index.insert(1), |index| index.insert(1));
        assert!(outcome.0 != outcome.1, "{outcome:?}");
        index.assert_holds(&[0, 1]);
    });
}

#[test]
fn an_id_in_the_hash_table_is_a_duplicate_and_found_while_its_chunk_gets_an_array() {
    model(|order| {
        let index = Index::with([0]);
        order.race(
            &index,
            |index| assert!(index.insert(1)),
            |index| {
                assert!(index.holds(0));
                assert!(!index.insert(0));
            },
        );
        index.assert_holds(&[0, 1]);
    });
}

#[test]
fn readers_see_an_entry_once_its_record_is_complete_and_not_before() {
    model(|order| {
        let index = Index::with([0]);
        order.race(
            &index,
            |index| {
                assert!(index.insert(1));
                assert!(index.insert(2));
            },
            |index| {
                // The check of the record is in `id_at`. What was written first is seen first.
                assert!(!index.holds(2) || index.holds(1));
                assert!(index.holds(0));
            },
        );
        index.assert_holds(&[0, 1, 2]);
    });
}

#[test]
fn a_writer_that_meets_an_array_that_is_being_freed_finds_another_place() {
    model(|order| {
        let index = Index::with([2, 3]);
        assert!(index.remove(2));
        order.race(
            &index,
            |index| {
                // Nothing is left of the chunk, unless the other one was faster.
                assert!(index.remove(3));
                index.index.sweep(false);
            },
            |index| {
                assert!(index.insert(2));
                assert!(index.holds(2));
            },
        );
        index.assert_holds(&[2]);
    });
}

#[test]
fn of_two_who_remove_an_entry_one_is_told_that_it_was_there() {
    model(|order| {
        let index = Index::with([0, 1]);
        let outcome = order.race(&index, |index| index.remove(1), |index| index.remove(1));
        assert!(outcome.0 != outcome.1, "{outcome:?}");
        index.assert_holds(&[0]);
    });
}

/// Chunks 0 and 4 begin at the same slot of the table.
#[test]
fn a_slot_that_is_used_again_does_not_lead_to_the_entries_of_the_chunk_before() {
    model(|order| {
        let index = Index::with([0]);
        // Nothing of the chunk is in the hash table when it gets its array, so nobody who misses looks there.
        assert!(index.remove(0) && index.insert(1));
        assert!(index.insert(9), "to the hash table");
        order.race(
            &index,
            |index| {
                assert!(index.remove(1));
                index.index.sweep(false);
                assert!(index.insert(8), "to an array in that slot");
            },
            |index| assert!(index.holds(9)),
        );
        index.assert_holds(&[8, 9]);
    });
}

/// One is on its way to the hash table when the other makes the array.
#[test]
fn two_writers_of_one_id_agree_although_one_of_them_knew_of_no_array() {
    model(|order| {
        let index = Index::with([]);
        let outcome = order.race(
            &index,
            |index| index.insert(1),
            |index| {
                assert!(index.insert(0));
                index.insert(1)
            },
        );
        assert!(outcome.0 != outcome.1, "{outcome:?}");
        index.assert_holds(&[0, 1]);
    });
}

/// The same, where a third one has made the array. Three threads: one preemption is what can be afforded, and enough to
/// see a fence missing.
#[test]
fn two_writers_of_one_id_agree_while_another_makes_an_array() {
    for order in [Order::AsWritten, Order::Swapped] {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(1);
        builder.max_branches = 20_000;
        builder.check(move || {
            let index = Index::with([]);
            let third = index.clone();
            let third = thread::spawn(move || assert!(third.insert(0)));
            let outcome = order.race(&index, |index| index.insert(1), |index| index.insert(1));
            third.join().unwrap();
            assert!(outcome.0 != outcome.1, "{outcome:?}");
            index.assert_holds(&[0, 1]);
        });
    }
}

/// The array is there already: nothing but the entry itself orders the record before the reader's look.
#[test]
fn an_entry_of_an_array_shows_a_complete_record() {
    model(|order| {
        let index = Index::with([0]);
        assert!(!index.insert(0), "the second to come makes the array, though it is a duplicate");
        order.race(
            &index,
            |index| assert!(index.insert(1)),
            |index| {
                index.holds(1);
            },
        );
        index.assert_holds(&[0, 1]);
    });
}

/// An array of which one entry was removed: a sweep moves the other one to the hash table.
fn about_to_be_thinned() -> Arc<Index> {
    let index = Index::with([0, 1]);
    // The first one went to the hash table before there was an array.
    assert!(index.remove(0) && index.insert(0) && index.remove(1));
    // It sees that entries were removed since the last one.
    index.index.sweep(false);
    index
}

#[test]
fn what_is_left_of_an_array_is_found_on_its_way_to_the_hash_table() {
    model(|order| {
        let index = about_to_be_thinned();
        order.race(
            &index,
            |index| index.index.sweep(false),
            |index| {
                assert!(index.holds(0));
                assert!(!index.insert(0), "it is a duplicate wherever it is");
                assert!(index.holds(0));
            },
        );
        index.assert_holds(&[0]);
        assert!(index.index.dense_half().page_numbers().is_empty(), "the array is gone");
    });
}

#[test]
fn what_is_removed_on_its_way_to_the_hash_table_is_gone() {
    model(|order| {
        let index = about_to_be_thinned();
        order.race(
            &index,
            |index| index.index.sweep(false),
            |index| {
                assert!(index.remove(0));
                assert!(!index.holds(0) && !index.remove(0));
            },
        );
        index.assert_holds(&[]);
    });
}

#[test]
fn an_id_that_comes_to_an_array_that_is_thinned_is_stored_once() {
    model(|order| {
        let index = about_to_be_thinned();
        order.race(
            &index,
            |index| index.index.sweep(false),
            |index| {
                assert!(index.insert(1));
                assert!(index.holds(1) && !index.insert(1));
            },
        );
        index.assert_holds(&[0, 1]);
    });
}

/// One has announced an id in the hash table before its array was made, and wants another entry of that array next; the other one
/// wants the id that was announced.
#[test]
fn who_waits_for_an_announcement_holds_no_lock_that_the_announcer_may_want() {
    model(|order| {
        let index = Index::with([]);
        let (mut cursor, same) = (Cursor::new(), |_| false);
        let Outcome::New(ticket) = index.index.announce(1, Index::addr(1), &mut cursor, same) else {
            panic!("nothing is there");
        };
        cursor.release();
        // The array of its chunk.
        assert!(index.insert(0));
        let Ticket::Hash(hash) = ticket else { panic!("there was no array") };
        order.race(
            &index,
            |index| assert!(!index.insert(1)),
            move |index| {
                assert!(index.remove(0), "it wants the lock of the array");
                index.records[1].store(7, Relaxed);
                index.index.publish(Ticket::Hash(hash), Index::addr(1));
            },
        );
        index.assert_holds(&[1]);
    });
}
