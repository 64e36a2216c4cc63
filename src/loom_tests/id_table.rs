//! The hash half of the id index: pages that split and merge while they are read and written.

use super::*;
use crate::ids::{Addr, LogicalPage};
use crate::index::bucket::Bucket;
use crate::index::hash::{Announced, BucketPages, HashIndex};
use crate::sync::AtomicU32;
use std::sync::atomic::AtomicUsize;

/// Pages of four entries: one main bucket and one for overflow.
struct Heap {
    pages: Vec<Vec<Bucket>>,
    /// Not loom's: taking a page is not what is checked here.
    next: AtomicUsize,
}

impl BucketPages for Heap {
    fn page(&self, page: u32) -> &[Bucket] {
        &self.pages[page as usize]
    }

    fn claim(&self) -> Option<u32> {
        let next = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (next < self.pages.len()).then_some(next as u32)
    }

    fn retire(&self, _: u32) {}

    fn give_back(&self, _: u32) {}

    fn words(&self, _: u32) -> &[Cell] {
        &[]
    }

    fn prefetch(&self, _: u32, _: usize) {}
}

/// An index and the records that its entries lead to. An id is its own hash, so that the lowest bits tell how
/// a page splits.
struct Index {
    index: HashIndex<Vec<AtomicU32>, Heap>,
    records: [Cell; 8],
}

impl Index {
    fn with(pages: usize, ids: impl IntoIterator<Item = u64>) -> Arc<Self> {
        let page = || (0..3).map(|_| Bucket::zeroed()).collect();
        // A page number read too early is zero, and page zero cannot be read.
        let pages = std::iter::once(Vec::new()).chain((0..pages).map(|_| page())).collect();
        let heap = Heap { pages, next: AtomicUsize::new(1) };
        let slots = (0..4).map(|_| AtomicU32::new(0)).collect();
        let index = HashIndex::new(slots, heap, 0, 1).expect("there is a first page");
        let index = Arc::new(Self { index, records: cells(0) });
        for id in ids {
            assert_eq!(index.insert(id), Announced::New);
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

    fn announce(&self, id: u64) -> Announced {
        let mut turn = 0;
        loop {
            match self.index.announce(id, Self::addr(id), |entry| self.id_at(entry) == id) {
                Announced::Busy => crate::sync::wait_a_turn(&mut turn),
                other => return other,
            }
        }
    }

    fn publish(&self, id: u64) {
        self.records[id as usize].store(7, Relaxed);
        self.index.publish(id, Self::addr(id));
    }

    fn insert(&self, id: u64) -> Announced {
        let announced = self.announce(id);
        if announced == Announced::New {
            self.publish(id);
        }
        announced
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

const ONE_IS_NEW: [(Announced, Announced); 2] =
    [(Announced::New, Announced::Duplicate), (Announced::Duplicate, Announced::New)];

#[test]
fn of_two_writers_of_one_id_one_is_told_that_it_is_a_duplicate() {
    model(|order| {
        let index = Index::with(1, []);
        let outcome = order.race(&index, |index| index.insert(1), |index| index.insert(1));
        assert!(ONE_IS_NEW.contains(&outcome), "{outcome:?}");
        index.assert_holds(&[1]);
    });
}

#[test]
fn readers_see_an_entry_once_its_record_is_complete_and_not_before() {
    model(|order| {
        let index = Index::with(1, [0]);
        order.race(
            &index,
            |index| {
                index.insert(1);
                index.insert(2);
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
fn an_id_is_found_while_its_page_splits() {
    model(|order| {
        let index = Index::with(3, [0, 1, 2, 3]);
        order.race(
            &index,
            |index| assert_eq!(index.insert(5), Announced::New),
            |index| {
                assert!(index.holds(1), "it goes to the upper half");
                assert!(index.holds(2), "it stays in the lower half");
            },
        );
        index.assert_holds(&[0, 1, 2, 3, 5]);
    });
}

#[test]
fn a_removed_id_does_not_come_back_from_a_page_that_splits() {
    model(|order| {
        let index = Index::with(3, [0, 1, 2, 3]);
        order.race(
            &index,
            |index| assert_eq!(index.insert(5), Announced::New),
            |index| {
                assert!(index.remove(1));
                assert!(!index.holds(1) && !index.remove(1));
            },
        );
        index.assert_holds(&[0, 2, 3, 5]);
    });
}

#[test]
fn an_announced_id_is_published_though_its_page_splits() {
    model(|order| {
        let index = Index::with(3, [0, 1, 2]);
        assert_eq!(index.announce(3), Announced::New);
        order.race(
            &index,
            |index| assert_eq!(index.insert(5), Announced::New),
            |index| {
                index.publish(3);
                assert!(index.holds(3));
            },
        );
        index.assert_holds(&[0, 1, 2, 3, 5]);
    });
}

#[test]
fn two_writers_that_meet_a_full_page_split_it_once() {
    model(|order| {
        // Three pages are what one split takes: a second one would find none and say that the index is full.
        let index = Index::with(3, [0, 1, 2, 3]);
        let outcome = order.race(&index, |index| index.insert(4), |index| index.insert(5));
        assert_eq!(outcome, (Announced::New, Announced::New));
        index.assert_holds(&[0, 1, 2, 3, 4, 5]);
    });
}

#[test]
fn two_writers_of_one_id_that_meet_a_full_page_agree() {
    model(|order| {
        let index = Index::with(3, [0, 1, 2, 3]);
        let outcome = order.race(&index, |index| index.insert(5), |index| index.insert(5));
        assert!(ONE_IS_NEW.contains(&outcome), "{outcome:?}");
        index.assert_holds(&[0, 1, 2, 3, 5]);
    });
}

#[test]
fn a_page_that_leaves_memory_takes_its_entries_along_though_they_move() {
    model(|order| {
        let index = Index::with(3, [0, 1, 2, 3]);
        order.race(
            &index,
            |index| assert_eq!(index.insert(5), Announced::New),
            |index| {
                index.index.remove_page(Index::addr(1).page());
                assert!(!index.holds(1));
            },
        );
        index.assert_holds(&[0, 2, 3, 5]);
    });
}

#[test]
fn writer_remover_and_reader_agree_while_a_page_splits() {
    model(|order| {
        let index = Index::with(3, [0, 1, 2, 3]);
        let reader = index.clone();
        let reader = thread::spawn(move || assert!(reader.holds(3)));
        order.race(
            &index,
            |index| assert_eq!(index.insert(5), Announced::New),
            |index| assert!(index.remove(2)),
        );
        reader.join().unwrap();
        index.assert_holds(&[0, 1, 3, 5]);
    });
}

/// An index of two pages, of which only id 1 is left, in the upper half.
fn about_to_merge() -> Arc<Index> {
    let index = Index::with(3, [0, 1, 2, 3, 5]);
    for id in [0, 2, 3, 5] {
        assert!(index.remove(id));
    }
    index
}

#[test]
fn ids_are_found_and_added_while_pages_merge() {
    model(|order| {
        let index = about_to_merge();
        order.race(
            &index,
            |index| index.index.merge_some(2),
            |index| {
                assert!(index.holds(1), "it moves to the lower half");
                assert_eq!(index.insert(3), Announced::New);
                assert!(index.holds(3) && index.holds(1));
            },
        );
        index.assert_holds(&[1, 3]);
    });
}

#[test]
fn a_removed_id_does_not_come_back_from_pages_that_merge() {
    model(|order| {
        let index = about_to_merge();
        order.race(
            &index,
            |index| index.index.merge_some(2),
            |index| {
                assert!(index.remove(1));
                assert!(!index.holds(1) && !index.remove(1));
            },
        );
        index.assert_holds(&[]);
    });
}

#[test]
fn an_announced_id_is_published_though_its_pages_merge() {
    model(|order| {
        let index = about_to_merge();
        assert!(index.remove(1));
        assert_eq!(index.announce(3), Announced::New);
        order.race(
            &index,
            |index| index.index.merge_some(2),
            |index| {
                index.publish(3);
                assert!(index.holds(3));
            },
        );
        index.assert_holds(&[3]);
    });
}

/// A reader that knows of no split looks into the lower half; what it wants is in the upper one, and comes back by a merge.
#[test]
fn an_id_is_found_while_its_page_splits_and_merges_again() {
    model(|order| {
        let index = Index::with(3, [0, 1, 2, 3]);
        order.race(
            &index,
            |index| {
                assert_eq!(index.insert(5), Announced::New);
                for id in [0, 2, 3, 5] {
                    assert!(index.remove(id));
                }
                index.index.merge_some(2);
            },
            |index| assert!(index.holds(1), "it was there all the time"),
        );
        index.assert_holds(&[1]);
    });
}
