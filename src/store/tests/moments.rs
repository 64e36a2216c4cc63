//! What comes in the middle of one read: an append, a page that leaves, a deadline that passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::faults::Tier;
use super::*;
use crate::error::Error;
use crate::ids::Class;
use crate::index::streams::{STRIPES, head_hash, stream_hash};
use crate::lanes::history::Chains;
use crate::pages::pool::FrameCache;

const LIMIT: Duration = Duration::from_secs(60);

fn config() -> Config {
    let config = Config::builder().memory("32MiB").partitions(1).background(false);
    config.hot(|hot| hot.max("4MiB").page_size("4KiB")).build().unwrap()
}

fn class() -> Class {
    Class::new(0)
}

fn stream() -> Stream {
    Stream::from(1u32)
}

/// Events of one stream that are all as long as each other.
fn append_some(store: &Store, ids: std::ops::Range<u64>) {
    for id in ids {
        store.append(&Event::new(stream(), id, 0, 0).payload(&[7; 100])).unwrap();
    }
}

/// The chains of a stream are read one after the other, and each may have had any number of events more than the one before.
#[test]
fn events_that_come_while_a_history_begins_are_not_of_it() {
    const EVENTS: u64 = 80;
    let store = Store::open(config()).unwrap();
    let lanes = &store.core.lanes;
    let hash = head_hash(stream_hash(stream(), lanes.seed), class());
    let head = || lanes.partitions[0].streams.find(hash, stream(), class()).unwrap();
    let addrs: Vec<Addr> = (0..EVENTS)
        .map(|id| {
            append_some(&store, id..id + 1);
            head().newest()[0]
        })
        .collect();
    assert!(lanes.lanes().next().unwrap().tail_seq() + 1 < lanes.pages.meta(addrs[79].page()).seq());
    let stripes = STRIPES as u64;
    let mut random = 1u64;
    let mut below = |end: u64| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (random >> 33) % end
    };
    for _ in 0..500 {
        // The newest event when the read began, and what was there when each chain was read.
        let (newest, mut last) = (below(40), 0);
        last += newest;
        let mut first = 0;
        let next = std::array::from_fn(|back| {
            last += below(5);
            let chain = (newest + stripes - back as u64) % stripes;
            let found = (0..=last).rev().find(|id| id % stripes == chain);
            first = if back == 0 { found.unwrap() } else { first };
            found.map_or(Addr(0), |id| addrs[id as usize])
        });
        let (pin, cache) = (lanes.pin(), FrameCache::default());
        let mut chains = Chains::begin(lanes, &pin, &cache, stream(), class(), next);
        let ids: Vec<u64> =
            std::iter::from_fn(|| chains.next(&pin, &cache)).map(|step| step.event.id()).collect();
        assert_eq!(ids, (0..=first).rev().collect::<Vec<_>>(), "begun at {newest}, read until {last}");
    }
}

/// A chain that has met damage ends there. Whose turn is next goes on.
#[test]
fn a_chain_that_has_ended_early_is_passed_over() {
    let store = Store::open(config()).unwrap();
    let lanes = &store.core.lanes;
    append_some(&store, 0..20);
    let hash = head_hash(stream_hash(stream(), lanes.seed), class());
    let newest = lanes.partitions[0].streams.find(hash, stream(), class()).unwrap().newest();
    for ended in [vec![0], vec![0, 1], vec![0, 1, 4], vec![3, 5]] {
        let next = std::array::from_fn(|back| if ended.contains(&back) { Addr(0) } else { newest[back] });
        let (pin, cache) = (lanes.pin(), FrameCache::default());
        let mut chains = Chains::begin(lanes, &pin, &cache, stream(), class(), next);
        let mut ids = Vec::new();
        while let Some(seq) = chains.peek().map(crate::pages::table::PageMeta::seq) {
            let step = chains.next(&pin, &cache).unwrap();
            assert_eq!(chains.page_of(&step).seq(), seq);
            ids.push(step.event.id() as usize);
        }
        let left = (0..20).rev().filter(|id| !ended.contains(&((19 - id) % STRIPES)));
        assert_eq!(ids, left.collect::<Vec<_>>(), "without {ended:?}");
    }
}

/// Between two steps of a walk pages leave. One chain has met a page that is gone; what another has in hand lies on an older
/// one, which was taken off its lane's list, too, but is still there. What is between them is in a block.
#[test]
fn pages_that_leave_in_the_middle_of_a_history_are_read_from_their_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::builder(config()).cold(Tier::new(dir.path())).open().unwrap();
    let (lanes, partition) = (&store.core.lanes, &store.core.lanes.partitions[0]);
    let (lane, pages) = (partition.lane(class()), &lanes.pages);
    append_some(&store, 0..100);
    let of_a_page = u64::from(pages.meta(lane.tail()).count());
    // Of the events that the walk's first step leaves, two lie on the page that goes, and the next ones on the one before it.
    let step = 64;
    let border = 5 * of_a_page;
    let count = border + 2 + step;
    append_some(&store, 100..count);
    store.flush(LIMIT).unwrap();
    assert!(lane.clean_seq() > 5);
    let mut walk = store.fetch_history(stream()).timeout(LIMIT);
    let mut ids = vec![walk.next().unwrap().unwrap().id()];
    let pin = lanes.pin();
    let mut left = Vec::new();
    while lane.tail_seq() <= 5 {
        left.push(lane.tail());
        assert!(partition.unlink_tail(pages, class(), lane.tail()));
    }
    pages.retire(&pin, left[5]);
    ids.extend(walk.map(|event| event.unwrap().id()));
    assert_eq!(ids, (0..count).rev().collect::<Vec<_>>());
    left[..5].iter().for_each(|page| pages.retire(&pin, *page));
}

/// Two want one block. What the one who reads it meets is the other's affair, too, unless it was that its own time was over.
#[test]
fn a_read_that_ran_out_of_time_is_made_again_for_who_has_time_left() {
    for (kind, reads) in [(ErrorKind::Timeout, 2), (ErrorKind::Cold, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let tier = Tier::new(dir.path());
        let store = Store::builder(config()).cold(tier.clone()).open().unwrap();
        append_some(&store, 0..100);
        store.flush(LIMIT).unwrap();
        let cold = store.core.cold.as_ref().unwrap();
        let info = cold.directory.blocks(store.core.lanes.lanes().next().unwrap().id, u64::MAX, |_| true);
        let id = info[0].id;
        let gets = Arc::new(AtomicU64::new(0));
        let (asked, core) = (gets.clone(), store.core.clone());
        let get = move || {
            if asked.fetch_add(1, Ordering::SeqCst) > 0 {
                return Ok(());
            }
            let deadline = Deadline::after(LIMIT);
            while core.cold.as_ref().unwrap().waiting_for(id) == 0 {
                assert!(!deadline.has_passed(), "the other one does not come");
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(Error::new(kind, "for a test"))
        };
        *tier.on_get.lock() = Some(Arc::new(get));
        let outcomes = std::thread::scope(|scope| {
            let threads = [(); 2].map(|()| scope.spawn(|| cold.load(id, Deadline::after(LIMIT))));
            threads.map(|thread| thread.join().unwrap().map(|block| !block.unwrap().rows().is_empty()))
        });
        // The callback knows of the store, which knows of it.
        *tier.on_get.lock() = None;
        let (found, failed): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!((found.len(), gets.load(Ordering::SeqCst)), (reads - 1, reads as u64), "{kind:?}");
        assert!(failed.iter().all(|error| error.as_ref().is_err_and(|error| error.kind() == kind)));
    }
}
