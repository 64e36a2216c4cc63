//! What an array does that nobody changes meanwhile; the rest is checked by loom.

use super::*;
use crate::index::bucket::Bucket;
use std::cell::RefCell;

const CHUNK: usize = 16;
const PAGES: u32 = 1024;

/// Pages of words that are used again at once: nobody reads meanwhile.
struct Words {
    words: Vec<AtomicU64>,
    free: RefCell<Vec<u32>>,
}

impl BucketPages for &Words {
    fn page(&self, _: u32) -> &[Bucket] {
        &[]
    }
    fn claim(&self) -> Option<u32> {
        let page = self.free.borrow_mut().pop()?;
        self.words(page).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        Some(page)
    }
    fn retire(&self, page: u32) {
        self.free.borrow_mut().push(page);
    }
    fn give_back(&self, page: u32) {
        self.retire(page);
    }
    fn words(&self, page: u32) -> &[AtomicU64] {
        &self.words[page as usize * CHUNK..][..CHUNK]
    }
    fn prefetch(&self, _: u32, _: usize) {}
}

#[test]
fn whoever_found_a_chunk_before_it_moved_cannot_change_it() {
    let words = Words {
        words: (0..PAGES as usize * CHUNK).map(|_| AtomicU64::new(0)).collect(),
        free: RefCell::new((0..PAGES).collect()),
    };
    let slots: Vec<AtomicU64> = (0..2 * PAGES as usize * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect();
    let dense = DenseIndex::new(slots, &words, CHUNK, 7);
    let addr = |id: u64| Addr::new(LogicalPage(id as u32 + 1), 8, 0);
    // The highest page comes first.
    assert!(dense.create(0, || false));
    let (mut stale, mut remover) = (Cursor::new(), Remover::new());
    assert!(stale.seek(&dense, 3));
    stale.claim(3, addr(3)).unwrap().store(addr(3).low(), Ordering::Relaxed);
    stale.release();
    assert!(remover.cursor.seek(&dense, 3));
    words.free.borrow_mut().push(5);
    assert_eq!(dense.vacate(PAGES - 1, 8), 1);
    assert_eq!(dense.page_numbers(), [5]);
    assert_eq!(stale.claim(4, addr(4)).err(), Some(DenseClaim::Busy));
    stale.forget();
    assert!(stale.seek(&dense, 4) && stale.claim(4, addr(4)).is_ok());
    assert_eq!(stale.claim(3, addr(3)).err(), Some(DenseClaim::Duplicate));
    drop(stale);
    assert!(dense.remove(3, addr(3), &mut remover));
    dense.count(&mut remover);
    assert_eq!(dense.locate(3).unwrap().look(), Err(false));
}

/// Chunks live for different lengths of time, as those of several classes or sources do.
#[test]
fn a_search_for_a_chunk_that_is_not_there_stays_short() {
    let words = Words {
        words: (0..PAGES as usize * CHUNK).map(|_| AtomicU64::new(0)).collect(),
        free: RefCell::new((0..PAGES).collect()),
    };
    let slots: Vec<AtomicU64> = (0..2 * PAGES as usize * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect();
    let dense = DenseIndex::new(slots, &words, CHUNK, 0x9e37_79b9_7f4a_7c15);
    let addr = |id: u64| Addr::new(LogicalPage(id as u32 % 1000 + 1), 8, 0);
    let mut random = 1u64;
    let mut below = |end: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % end
    };
    let mut live: Vec<u64> = Vec::new();
    let mut refused = 0;
    // Without optimisation it takes a second for each 3,000.
    for chunk in 0..if cfg!(debug_assertions) { 9_000u64 } else { 60_000 } {
        let id = chunk * CHUNK as u64;
        if dense.create(chunk, || false) {
            let mut cursor = Cursor::new();
            assert!(cursor.seek(&dense, id));
            cursor.claim(id, addr(id)).unwrap().store(addr(id).low(), Ordering::Relaxed);
            live.push(id);
        } else {
            refused += 1;
        }
        if live.len() > 900 {
            let gone = live.remove(below(200) as usize);
            let mut remover = Remover::new();
            assert!(dense.remove(gone, addr(gone), &mut remover));
            dense.count(&mut remover);
            dense.sweep(2 * PAGES as usize, |_, _| false);
            assert!(!dense.has(gone / CHUNK as u64), "an empty chunk is freed");
        }
    }
    assert!(live.iter().all(|id| dense.locate(*id).unwrap().look() == Ok(Addr(addr(*id).low()))));
    assert!(refused < 60, "{refused} chunks got no array");
    let mut looks = 0;
    for _ in 0..1000 {
        let mut slot = dense.first_slot(1 << 40 | below(1 << 30));
        for _ in 0..dense.longest_search() {
            looks += 1;
            if dense.word(slot, 1).load(Ordering::Relaxed) == 0 {
                break;
            }
            slot = (slot + 1) % (2 * PAGES as usize);
        }
    }
    assert!(looks < 65_000, "a search takes {} looks", looks / 1000);
}
