//! Model checks of the lock-free pieces: loom runs each test in the orders of its threads' steps that can differ (up
//! to a bound on preemptions), and lets relaxed loads see every value that the memory model allows.
//!
//! Where the store has bytes of a record, these tests have a relaxed atomic: it shows a stale value exactly where
//! the code under test forgets to order its accesses. Run them by
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib loom_tests`.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod arrays_of_ids;
mod held;
mod id_table;

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64 as Cell, Ordering::Relaxed};
use loom::thread;

/// Which of two threads goes first where nothing else decides it.
///
/// Loom remembers one access to each atomic, so a thread that loads an atomic and then stores to it hides from loom
/// that another thread has loaded it before: the order in which that one comes later is then not tried. So each
/// model is checked from both sides.
#[derive(Clone, Copy)]
enum Order {
    AsWritten,
    Swapped,
}

impl Order {
    /// Runs two closures at once.
    fn race<T, A, B>(
        self,
        shared: &Arc<T>,
        one: impl FnOnce(&T) -> A + Send + 'static,
        two: impl FnOnce(&T) -> B + Send + 'static,
    ) -> (A, B)
    where
        T: Send + Sync + 'static,
        A: Send + 'static,
        B: Send + 'static,
    {
        let other = shared.clone();
        match self {
            Self::AsWritten => {
                let two = thread::spawn(move || two(&other));
                (one(shared), two.join().unwrap())
            }
            Self::Swapped => {
                let one = thread::spawn(move || one(&other));
                let two = two(shared);
                (one.join().unwrap(), two)
            }
        }
    }
}

/// Checks the orders with at most two preemptions, or as many as `LOOM_MAX_PREEMPTIONS` says.
fn model(test: impl Fn(Order) + Copy + Send + Sync + 'static) {
    for order in [Order::AsWritten, Order::Swapped] {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(2));
        builder.max_branches = 20_000;
        builder.check(move || test(order));
    }
}

fn cells<const N: usize>(value: u64) -> [Cell; N] {
    std::array::from_fn(|_| Cell::new(value))
}

/// Stands in for the epochs: counts readers, and says whether there are none.
struct Pins(crate::sync::Mutex<u32>);

impl Pins {
    fn new() -> Self {
        Self(crate::sync::Mutex::new(0))
    }

    fn pinned<T>(&self, read: impl FnOnce() -> T) -> T {
        *self.0.lock() += 1;
        let result = read();
        *self.0.lock() -= 1;
        result
    }

    fn none(&self) -> bool {
        *self.0.lock() == 0
    }
}

mod free_list {
    use super::*;
    use crate::regions::free_list::FreeList;

    #[test]
    fn a_number_has_one_owner_at_a_time() {
        model(|order| {
            let shared = Arc::new((FreeList::new(2, 1), cells::<1>(0)));
            let own = |(list, owners): &(FreeList, [Cell; 1])| {
                if list.claim().is_none() {
                    return 0;
                }
                // Plain load and store: a second owner, or a hand-over without order, makes the sum wrong.
                owners[0].store(owners[0].load(Relaxed) + 1, Relaxed);
                list.release(0, 1);
                1
            };
            let third = shared.clone();
            let third = thread::spawn(move || own(&third));
            let (one, two) = order.race(&shared, own, own);
            let done = one + two + third.join().unwrap();
            let (list, owners) = &*shared;
            assert_eq!(owners[0].load(Relaxed), done);
            assert_eq!((list.used(), list.claim(), list.claim()), (0, Some(0), None));
        });
    }

    #[test]
    fn who_claims_numbers_sees_what_their_last_owner_did() {
        for count in [1, 2] {
            model(move |order| {
                let shared = Arc::new((FreeList::new(count, count), cells::<1>(0)));
                assert_eq!(shared.0.claim_run(count), Some(0));
                order.race(
                    &shared,
                    move |(list, cells)| {
                        cells[0].store(7, Relaxed);
                        list.release(0, count);
                    },
                    move |(list, cells)| {
                        assert!(list.claim_run(count).is_none() || cells[0].load(Relaxed) == 7)
                    },
                );
            });
        }
    }

    #[test]
    fn a_raised_limit_brings_numbers_that_are_ready() {
        model(|order| {
            let shared = Arc::new((FreeList::new(2, 1), cells::<2>(0)));
            shared.1[0].store(1, Relaxed);
            order.race(
                &shared,
                |(list, ready)| {
                    ready[1].store(1, Relaxed);
                    list.raise_limit(2);
                },
                |(list, ready)| {
                    while let Some(number) = list.claim() {
                        assert_eq!(ready[number as usize].load(Relaxed), 1, "{number} is not ready");
                    }
                },
            );
        });
    }

    /// Numbers 63, 64 and 65 are free, in two words, and the search begins at 64.
    fn three_free() -> Arc<FreeList> {
        let list = FreeList::new(128, 66);
        assert_eq!(list.claim_run(64), Some(0));
        list.release(63, 1);
        Arc::new(list)
    }

    #[test]
    fn a_run_that_meets_a_claim_takes_all_or_nothing() {
        model(|order| {
            let list = three_free();
            let (run, single) = order.race(&list, |list| list.claim_run(3), FreeList::claim);
            assert!(run.is_none() || single.is_none(), "both got a number: {run:?} {single:?}");
            let taken = run.map_or(0, |_| 3) + single.map_or(0, |_| 1);
            assert_eq!(list.used(), 63 + taken);
            // What a run gave back, or never took, is there to be claimed.
            assert_eq!(std::iter::from_fn(|| list.claim()).count() as u32, 3 - taken);
        });
    }

    /// A search that finds a word full notes that while a number of it is freed.
    #[test]
    fn a_word_with_a_free_number_does_not_stay_noted_as_full() {
        model(|order| {
            let list = Arc::new(FreeList::new(64, 64).that_reuses());
            assert_eq!(list.claim_run(63), Some(0));
            let claims = |list: &FreeList| [list.claim(), list.claim()].into_iter().flatten().count();
            let ((), claimed) = order.race(&list, |list| list.release(0, 1), claims);
            assert_eq!(list.used() as usize, 62 + claimed);
            assert!(claimed == 2 || list.full_from(0) == 0, "a free number is hidden");
            assert_eq!(std::iter::from_fn(|| list.claim()).count(), 2 - claimed);
        });
    }

    #[test]
    fn runs_do_not_overlap() {
        model(|order| {
            let list = three_free();
            let (one, two) = order.race(&list, |list| list.claim_run(2), |list| list.claim_run(2));
            assert!(one.is_none() || two.is_none(), "two runs of 2 in 3 numbers: {one:?} {two:?}");
            let taken = [one, two].into_iter().flatten().count() as u32 * 2;
            assert_eq!(list.used(), 63 + taken);
            assert_eq!(std::iter::from_fn(|| list.claim()).count() as u32, 3 - taken);
        });
    }
}

mod page_table {
    use super::*;
    use crate::ids::{LaneId, LogicalPage};
    use crate::pages::table::{PageMeta, Place, Tier, Whereabouts, Zone};

    fn commit(meta: &PageMeta, end: u32, timestamp: i64, kind: u8, arrival: i64) {
        let mut zone = Zone::NOTHING;
        zone.add(timestamp, kind);
        meta.cover(&zone, arrival);
        meta.commit(end);
    }

    /// A page of the table.
    struct Page {
        place: Whereabouts,
        meta: PageMeta,
    }

    impl Page {
        fn free() -> Self {
            Self { place: Whereabouts::zeroed(), meta: PageMeta::zeroed() }
        }

        fn open(&self, frame: u32, seq: u64) {
            self.meta.begin(1, LaneId(0), seq, 0, LogicalPage::NONE, i64::MIN);
            self.place.set(Place::new(Tier::Hot, self.place.place().generation(), frame));
        }
    }

    #[test]
    fn a_committed_record_is_complete_and_its_zone_map_covers_it() {
        model(|order| {
            let shared = Arc::new((Page::free(), cells::<2>(0)));
            shared.0.open(0, 1);
            order.race(
                &shared,
                |(Page { meta, .. }, bytes)| {
                    bytes[0].store(1, Relaxed);
                    commit(meta, 8, 50, 3, 100);
                    bytes[1].store(1, Relaxed);
                    commit(meta, 16, 40, 130, 101);
                },
                |(Page { meta, .. }, bytes)| {
                    let records = (meta.committed() / 8) as usize;
                    assert!(bytes[..records].iter().all(|byte| byte.load(Relaxed) == 1));
                    assert!(meta.count() as usize >= records);
                    if records > 0 {
                        assert!(meta.min_time() <= 50 && meta.max_time() == 50);
                        assert!(meta.max_time_so_far() == 50 && meta.last_arrival() >= 100);
                        assert!(meta.kinds()[0] & 1 << 3 != 0);
                    }
                    if records > 1 {
                        assert!(meta.min_time() == 40 && meta.last_arrival() == 101);
                        assert!(meta.kinds()[2] & 1 << 2 != 0);
                    }
                },
            );
        });
    }

    #[test]
    fn a_page_opened_again_shows_nothing_of_its_earlier_life() {
        model(|order| {
            let page = Arc::new(Page::free());
            page.open(0, 1);
            commit(&page.meta, 64, 10, 0, 10);
            page.place.set(Place::new(Tier::Free, 1, 0));
            order.race(
                &page,
                |page| {
                    page.open(1, 2);
                    commit(&page.meta, 8, 90, 1, 90);
                },
                |Page { place, meta }| {
                    let place = place.place();
                    if place.tier() == Tier::Hot {
                        assert_eq!((place.generation(), place.frame(), meta.seq()), (1, 1, 2));
                        let committed = meta.committed();
                        assert!(committed <= 8, "{committed} bytes of the page that was here before");
                        assert!(meta.min_time() >= 90 && meta.kinds()[0] & 1 == 0 && meta.count() <= 1);
                    }
                },
            );
        });
    }

    /// Frame 0 is hot, frame 1 is warm; what is written to a frame tells whose it is.
    #[test]
    fn a_reader_of_a_page_that_moves_finds_its_bytes_in_either_place() {
        model(|order| {
            let shared = Arc::new((Page::free(), cells::<2>(0), Pins::new()));
            shared.0.open(0, 1);
            shared.1[0].store(7, Relaxed);
            commit(&shared.0.meta, 8, 50, 3, 100);
            order.race(
                &shared,
                |(page, frames, pins)| {
                    frames[1].store(frames[0].load(Relaxed), Relaxed);
                    page.meta.set_size(1, 9);
                    page.place.swing(Place::new(Tier::Warm, 0, 1));
                    if pins.none() {
                        frames[0].store(u64::MAX, Relaxed);
                    }
                },
                |(page, frames, pins)| {
                    pins.pinned(|| {
                        let place = page.place.place();
                        assert_eq!(frames[place.frame() as usize].load(Relaxed), 7, "read at {place:?}");
                        assert!(place.tier() == Tier::Hot || page.meta.image_len() == 9);
                    });
                },
            );
        });
    }

    #[test]
    fn a_removal_is_seen_though_its_page_moves() {
        model(|order| {
            let page = Arc::new(Page::free());
            page.open(0, 1);
            order.race(
                &page,
                |page| page.place.swing(Place::new(Tier::Warm, 0, 1)),
                |page| {
                    page.place.mark_dead(0);
                    assert!(page.place.place().has_dead());
                },
            );
            let place = page.place.place();
            assert!(place.has_dead() && place.tier() == Tier::Warm && place.frame() == 1);
        });
    }

    #[test]
    fn a_stale_link_never_leads_to_the_page_that_came_after() {
        model(|order| {
            let shared = Arc::new((Page::free(), cells::<1>(0), Pins::new()));
            shared.0.open(0, 1);
            shared.1[0].store(7, Relaxed);
            commit(&shared.0.meta, 8, 50, 3, 100);
            order.race(
                &shared,
                |(page, frames, pins)| {
                    page.place.set(Place::new(Tier::Free, 1, 0));
                    // Page number and frame are used again once no reader can know of them.
                    if pins.none() {
                        page.open(0, 2);
                        frames[0].store(8, Relaxed);
                        commit(&page.meta, 8, 60, 3, 101);
                    }
                },
                |(Page { place, meta }, frames, pins)| {
                    pins.pinned(|| {
                        if let Some(place) = place.resolve(0) {
                            assert_eq!((meta.seq(), meta.committed(), meta.max_time()), (1, 8, 50));
                            assert_eq!(frames[place.frame() as usize].load(Relaxed), 7);
                        }
                    });
                },
            );
        });
    }
}
