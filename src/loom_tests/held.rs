//! A frame is reused only when no guard has an event of it in hand.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64 as Cell, Ordering::Relaxed};

use super::model;
use crate::pages::held::Held;
use crate::pages::table::{Place, Tier, Whereabouts};
use crate::sync::{Ordering, fence};

struct Shared {
    held: Held,
    place: Whereabouts,
    /// The bytes of frame 0: one while its event is there, two when they were written anew.
    bytes: Cell,
}

impl Shared {
    fn new() -> Arc<Self> {
        let (held, place) = (Held::new(), Whereabouts::zeroed());
        place.set(Place::new(Tier::Hot, 0, 0));
        Arc::new(Self { held, place, bytes: Cell::new(1) })
    }

    /// One call on a guard: whether it was given the event, which it goes on reading after the call.
    fn find(&self) -> bool {
        let call = self.held.enter();
        let found = self.place.place().tier() == Tier::Hot;
        if found {
            self.held.mark(0);
        }
        drop(call);
        found
    }

    /// Lets the page go and writes its frame anew, if nobody has it in hand. Whether it did.
    fn reuse(&self) -> bool {
        self.place.set(Place::new(Tier::Free, 1, 0));
        fence(Ordering::SeqCst);
        let free = match self.held.look() {
            None => true,
            Some(seen) => self.held.call().is_none() && !self.held.holds(seen, 0, 8),
        };
        if free {
            self.bytes.store(2, Relaxed);
        }
        free
    }
}

#[test]
fn what_a_guard_was_given_is_not_reused_before_it_ends() {
    model(|order| {
        let shared = Shared::new();
        order.race(
            &shared,
            |shared| {
                shared.held.begin();
                if shared.find() {
                    assert_eq!(shared.bytes.load(Relaxed), 1);
                }
                shared.held.end();
            },
            |shared| {
                shared.reuse();
            },
        );
        assert!(shared.place.place().tier() == Tier::Free && shared.held.look().is_none());
    });
}

#[test]
fn a_guard_that_is_renewed_holds_what_it_is_given_then() {
    model(|order| {
        let shared = Shared::new();
        shared.held.begin();
        let (given, reused) = order.race(
            &shared,
            |shared| {
                shared.find();
                shared.held.renew();
                let given = shared.find();
                if given {
                    assert_eq!(shared.bytes.load(Relaxed), 1);
                }
                given
            },
            Shared::reuse,
        );
        assert!(!(given && reused), "an event in hand was overwritten");
    });
}
