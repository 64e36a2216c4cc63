//! What the tables of pages and the figures about them say.

use super::*;
use crate::ids::LaneId;
use crate::pages::table::Tier;

fn places(store: &Store) -> Vec<(LogicalPage, Tier)> {
    let pages = &store.core.lanes.pages;
    let all = (1..=pages.numbers_limit()).map(LogicalPage).map(|page| (page, pages.place(page).tier()));
    all.filter(|(_, tier)| *tier != Tier::Free).collect()
}

#[test]
fn pages_are_counted_by_class_and_tier_wherever_they_go() {
    let (store, clock) = open(false);
    let pages = store.core.lanes.pages.clone();
    let [vault, hall] = ["vault", "hall"].map(|name| store.class(name).unwrap());
    // One number stands for no page.
    assert_eq!((pages.numbers_used(), pages.held_by(vault)), (1, [0, 0]));
    append(&store, "vault", 0..60);
    append(&store, "hall", 60..80);
    // Three of these events to a page.
    assert_eq!((pages.numbers_used(), pages.held_by(vault), pages.held_by(hall)), (28, [20, 0], [7, 0]));
    assert_eq!(pages.pages_above(Tier::Hot, 0).count(), 27);
    assert_eq!(pages.pages_above(Tier::Warm, 0).count(), 0);
    let frames: Vec<u32> = places(&store).iter().map(|(page, _)| pages.place(*page).frame()).collect();
    for from in [1, 5, 26, 27, 1000] {
        let above = frames.iter().filter(|frame| **frame >= from).count();
        assert_eq!(pages.pages_above(Tier::Hot, from).count(), above, "from frame {from}");
    }
    clock.set_ms(10_000);
    store.maintain().unwrap();
    settle(&store);
    let warm = |class| pages.held_by(class)[1];
    assert_eq!((pages.held_by(vault)[0], pages.held_by(hall)[0], pages.numbers_used()), (0, 0, 28));
    assert_eq!(warm(vault) + warm(hall), pages.warm.used_pages());
    assert!(warm(vault) >= 20 && warm(hall) >= 7);
    assert_eq!((pages.pages_above(Tier::Hot, 0).count(), pages.pages_above(Tier::Warm, 0).count()), (0, 27));
    clock.set_ms(60_000);
    store.maintain().unwrap();
    settle(&store);
    assert_eq!((pages.numbers_used(), pages.held_by(vault), pages.held_by(hall)), (1, [0, 0], [0, 0]));
}

#[test]
fn what_readers_hold_back_is_counted_until_they_are_gone_or_have_it_in_hand() {
    let (store, clock) = open(false);
    let pages = store.core.lanes.pages.clone();
    append(&store, "vault", 0..30);
    let guard = store.pin();
    let event = guard.get(4).unwrap();
    let pin = store.core.lanes.pin();
    clock.set_ms(10_000);
    store.maintain().unwrap();
    assert_eq!(pages.held_back(), [10, 0, 0], "squeezed, but still pinned");
    drop(pin);
    // The page of the event stays for as long as the guard likes.
    let deadline = Deadline::after(Duration::from_secs(60));
    while pages.held_back() != [0, 0, 0] {
        assert!(!deadline.has_passed(), "{:?}", pages.held_back());
        store.core.lanes.readers.reclaim();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(pages.is_leaving());
    assert_eq!(event.id(), 4);
    drop(guard);
    settle(&store);
    assert_eq!(pages.held_back(), [0, 0, 0]);
}

/// A page that comes back does so for what was read since, not for what was before it was squeezed.
#[test]
fn a_page_that_is_squeezed_was_never_read() {
    let (store, clock) = open(false);
    append(&store, "vault", 0..30);
    let pages = store.core.lanes.pages.clone();
    let page = places(&store)[2].0;
    pages.touch(page, 5);
    pages.touch(page, 7);
    assert_eq!(pages.stamps(page), [7, 5]);
    // Longer ago than events are hot.
    clock.set_ms(30_000);
    store.maintain().unwrap();
    assert_eq!((pages.place(page).tier(), pages.stamps(page)), (Tier::Warm, [0, 0]));
}

#[test]
fn what_is_known_of_a_page_tells_it_from_every_other() {
    let (store, _) = open(false);
    append(&store, "vault", 0..30);
    let pages = &store.core.lanes.pages;
    let meta = pages.meta(places(&store)[4].0);
    let before = meta.words();
    assert_eq!(before[1], u64::from(meta.committed()) | u64::from(meta.count()) << 32);
    assert_eq!(meta.looked_at(), i64::MIN);
    for now in [0, 1_000, 77_000] {
        meta.set_looked_at(now);
        assert_eq!(meta.looked_at(), now);
    }
    meta.set_packed_dead(40);
    assert_eq!((meta.packed_dead(), meta.garbage()), (40, 0));
    assert_ne!(meta.words(), before);
}

/// What the index could not exceed once counts until half of it is empty.
#[test]
fn an_index_that_was_full_is_measured_by_what_it_held() {
    let (store, _) = open(false);
    append(&store, "vault", 0..30);
    let lanes = &store.core.lanes;
    assert_eq!((lanes.index_fill(), lanes.index_room()), (0.0, (30, u64::MAX)));
    lanes.index_is_full();
    assert_eq!((lanes.index_fill(), lanes.index_room()), (1.0, (30, 30)));
    (0..15).for_each(|id| assert!(store.remove(id).unwrap()));
    assert_eq!((lanes.index_fill(), lanes.index_room()), (0.5, (15, 30)), "not below a half");
    assert!(store.remove(15).unwrap());
    assert!(lanes.index_fill() < 0.5);
    assert_eq!((lanes.index_fill(), lanes.index_room()), (0.0, (14, u64::MAX)), "it may fill up again");
}

/// After a loss of power hot pages fill the region, and pages are still needed that stand for those that were lost.
#[test]
fn pages_that_stand_for_lost_ones_are_warm_where_the_hot_region_is_full() {
    let (store, _) = open(false);
    let pages = store.core.lanes.pages.clone();
    let class = store.class("vault").unwrap();
    let lane = LaneId::new(0, class);
    let mut blanks = Vec::new();
    while let Ok(page) = pages.claim_blank(lane, 1_000 + blanks.len() as u64) {
        blanks.push(page);
    }
    let tiers = |tier| blanks.iter().filter(|page| pages.place(**page).tier() == tier).count() as u32;
    assert_eq!([tiers(Tier::Hot), tiers(Tier::Warm)], [pages.hot.pages_max(), pages.warm.pages_max()]);
    assert_eq!(pages.held_by(class), [pages.hot.pages_max(), pages.warm.pages_max()]);
    let pin = store.core.lanes.pin();
    for page in blanks {
        let (segments, damaged) = pages.segments(&pin, page);
        let bytes: usize = segments.iter().map(|segment| segment.bytes.len()).sum();
        assert!(bytes == 0 && !damaged && pages.meta(page).is_blank(), "{page:?}");
        pages.retire(&pin, page);
    }
    drop(pin);
    settle(&store);
    assert_eq!((pages.numbers_used(), pages.held_by(class)), (1, [0, 0]));
}
