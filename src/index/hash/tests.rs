//! Tests of the hash table of ids.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Pages on the heap, never reused.
struct Heap {
    pages: Vec<Vec<Bucket>>,
    next: AtomicUsize,
}

impl Heap {
    fn new(pages: usize, buckets: usize) -> Self {
        let page = || (0..buckets).map(|_| Bucket::zeroed()).collect();
        Self { pages: (0..pages).map(|_| page()).collect(), next: AtomicUsize::new(0) }
    }
}

impl BucketPages for Heap {
    fn page(&self, page: u32) -> &[Bucket] {
        &self.pages[page as usize]
    }
    fn claim(&self) -> Option<u32> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        (next < self.pages.len()).then_some(next as u32)
    }
    fn retire(&self, _: u32) {}
    fn give_back(&self, _: u32) {}
    fn words(&self, _: u32) -> &[AtomicU64] {
        &[]
    }
    fn prefetch(&self, _: u32, _: usize) {}
}

fn holds(index: &HashIndex<Vec<AtomicU32>, Heap>, id: u64) -> bool {
    index.find(index.hash(id), |entry| (entry.low() == addr(id).low()).then_some(())).is_some()
}

fn index(pages: usize) -> HashIndex<Vec<AtomicU32>, Heap> {
    let slots = (0..1 << 14).map(|_| AtomicU32::new(0)).collect();
    HashIndex::new(slots, Heap::new(pages, 32), 0, 99).expect("there is room for the first page")
}

/// The address stands for the id itself.
fn addr(id: u64) -> Addr {
    Addr::new(LogicalPage((id >> 10) as u32 + 1), (id as u32 & 1023) * 8, 0)
}

#[test]
fn what_is_announced_published_and_removed_is_found_accordingly() {
    let index = index(4096);
    let find = |id: u64| index.find(index.hash(id), |found| (found.low() == addr(id).low()).then_some(id));
    for id in 0..100_000 {
        let same = |entry: Addr| entry.low() == addr(id).low();
        assert_eq!(index.announce(index.hash(id), addr(id), same), Announced::New);
        assert_eq!(find(id), None, "a tentative entry is not to be seen");
        index.publish(index.hash(id), addr(id));
        assert_eq!(index.announce(index.hash(id), addr(id), same), Announced::Duplicate);
    }
    assert_eq!(index.entries().len(), 100_000);
    for id in 0..100_000 {
        assert_eq!(find(id), Some(id));
    }
    for id in (0..100_000).step_by(2) {
        assert!(index.remove(index.hash(id), addr(id)));
        assert!(!index.remove(index.hash(id), addr(id)));
    }
    assert!((0..100_000).all(|id| find(id).is_some() == (id % 2 == 1)));
}

#[test]
fn a_full_index_says_so_and_keeps_what_it_has() {
    let index = index(9);
    let held = (0..10_000)
        .take_while(|id| {
            let done = index.announce(index.hash(*id), addr(*id), |_| false) == Announced::New;
            if done {
                index.publish(index.hash(*id), addr(*id));
            }
            done
        })
        .count() as u64;
    assert!((200..5000).contains(&held), "{held}");
    assert!((0..held).all(|id| holds(&index, id)));
}

/// Merges until nothing more is merged.
fn merge_all(index: &HashIndex<Vec<AtomicU32>, Heap>) {
    (0..TAG_BITS).for_each(|_| index.merge_some(index.reach()));
}

#[test]
fn pages_of_which_little_is_left_become_fewer_and_split_again() {
    let index = index(4096);
    let insert = |id: u64| {
        assert_eq!(index.announce(index.hash(id), addr(id), |_| false), Announced::New);
        index.publish(index.hash(id), addr(id));
    };
    (0..20_000).for_each(insert);
    let most = index.page_numbers().len();
    merge_all(&index);
    assert!(index.page_numbers().len() * 10 >= most * 9, "well filled pages were merged");
    for id in (0..20_000).filter(|id| id % 16 != 0) {
        assert!(index.remove(index.hash(id), addr(id)));
    }
    // What is announced but not published moves, too.
    assert_eq!(index.announce(index.hash(50_000), addr(50_000), |_| false), Announced::New);
    merge_all(&index);
    let left = index.page_numbers().len();
    assert!(left * 6 <= most, "{left} pages are left of {most}");
    index.publish(index.hash(50_000), addr(50_000));
    assert!(holds(&index, 50_000) && index.remove(index.hash(50_000), addr(50_000)));
    assert!((0..20_000).all(|id| holds(&index, id) == (id % 16 == 0)));
    assert_eq!(index.entries().len(), 20_000 / 16);
    (0..20_000).filter(|id| id % 16 != 0).for_each(insert);
    assert!((0..20_000).all(|id| holds(&index, id)));
}

/// Two halves of which little is left, but all of it in one bucket: what was copied is taken back.
#[test]
fn pages_that_do_not_fit_into_one_stay_two() {
    let index = index(4096);
    let all: Vec<u64> = (0..200_000).collect();
    let bucket = |id: &u64| index.hash(*id) >> 59;
    let one_bucket = || all.iter().copied().filter(|id| bucket(id) == 3);
    // As many of one bucket as make the first page split.
    let mut ids = Vec::new();
    for id in one_bucket() {
        assert_eq!(index.announce(index.hash(id), addr(id), |_| false), Announced::New);
        index.publish(index.hash(id), addr(id));
        ids.push(id);
        if index.page_numbers().len() > 1 {
            break;
        }
    }
    assert_eq!(index.page_numbers().len(), 2);
    let others: Vec<u64> = one_bucket().filter(|id| !ids.contains(id)).take(20).collect();
    for id in others {
        assert_eq!(index.announce(index.hash(id), addr(id), |_| false), Announced::New);
        index.publish(index.hash(id), addr(id));
        ids.push(id);
    }
    let pages = index.page_numbers();
    merge_all(&index);
    assert_eq!(index.page_numbers(), pages);
    assert_eq!(index.entries().len(), ids.len());
    assert!(ids.iter().all(|id| holds(&index, *id)));
    for id in &ids {
        assert!(index.remove(index.hash(*id), addr(*id)), "it was reopened");
    }
    merge_all(&index);
    assert_eq!(index.page_numbers().len(), 1);
}

#[test]
fn threads_insert_remove_and_find_while_pages_split_and_merge() {
    let index = index(1 << 14);
    let writing = AtomicUsize::new(4);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while writing.load(Ordering::Relaxed) > 0 {
                index.merge_some(64);
            }
        });
        for thread in 0..4u64 {
            let (index, writing) = (&index, &writing);
            scope.spawn(move || {
                for id in (thread..40_000).step_by(4) {
                    let hash = index.hash(id);
                    assert_eq!(index.announce(hash, addr(id), |_| false), Announced::New);
                    index.publish(hash, addr(id));
                    assert!(holds(index, id));
                    if id % 3 == 0 {
                        assert!(index.remove(hash, addr(id)));
                    }
                    let earlier = id / 2 / 4 * 4 + thread;
                    assert_eq!(holds(index, earlier), earlier % 3 != 0 && earlier <= id);
                }
                // Most go, so that pages merge, and some come beside them.
                for id in (thread..40_000).step_by(4).filter(|id| id % 3 != 0 && id % 48 != 1) {
                    assert!(index.remove(index.hash(id), addr(id)));
                    if id % 11 == 0 {
                        let hash = index.hash(id + 100_000);
                        assert_eq!(index.announce(hash, addr(id + 100_000), |_| false), Announced::New);
                        index.publish(hash, addr(id + 100_000));
                        assert!(index.remove(hash, addr(id + 100_000)));
                    }
                    let stays = id / 48 * 48 + 1;
                    assert!(stays % 4 != thread || holds(index, stays));
                }
                writing.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    merge_all(&index);
    assert_eq!(index.entries().len(), (0..40_000).filter(|id| id % 48 == 1).count());
    assert!((0..40_000).filter(|id| id % 48 == 1).all(|id| holds(&index, id)));
    assert!(index.page_numbers().len() < 32, "{}", index.page_numbers().len());
}

#[test]
fn pages_move_below_a_limit_with_all_that_is_in_them() {
    let index = index(256);
    index.pages.next.store(128, Ordering::Relaxed);
    for id in 0..2_000 {
        assert_eq!(index.announce(index.hash(id), addr(id), |_| false), Announced::New);
        index.publish(index.hash(id), addr(id));
    }
    let above = || index.page_numbers().iter().filter(|page| **page >= 128).count();
    let all = above();
    assert!(all > 8, "{all}");
    index.pages.next.store(1, Ordering::Relaxed);
    assert_eq!((index.vacate(128, 3), above()), (3, all - 3));
    assert_eq!((index.vacate(128, 100), above()), (all - 3, 0));
    assert_eq!(index.vacate(128, 100), 0);
    assert!((0..2_000).all(|id| holds(&index, id)));
    assert_eq!(index.entries().len(), 2_000);
}
