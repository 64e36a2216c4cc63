//! What was let go and waits for guards: behind every pin of the store's own calls, but maybe in some caller's hands.
//!
//! Callers' guards may be held for as long as they like. What they were given events of stays here until they end; all else goes
//! on: see [`crate::pages::held`].

use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::pages::held::Seen;
use crate::pages::readers::Slot;
use crate::sys::memory::fence_all_threads;

/// How often a thread that is in a call is looked at before its calls are left for the next time.
const LOOKS: usize = 200;

/// Bytes that callers may have events in place of.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) address: usize,
    pub(crate) len: usize,
}

impl Extent {
    pub(crate) fn of((address, len): (usize, usize)) -> Self {
        Self { address, len }
    }
}

struct Waiting {
    /// What guards may be given events of; `None`: what they only look at during calls.
    extent: Option<Extent>,
    /// Whether every thread was seen outside of its calls since it was let go: marks alone decide then.
    passed: bool,
    free: Box<dyn FnOnce() + Send>,
}

#[derive(Default)]
pub(crate) struct Limbo {
    list: Mutex<List>,
    /// Bytes that stay for guards that have them in hand.
    pinned: AtomicU64,
}

#[derive(Default)]
struct List {
    waiting: Vec<Waiting>,
    /// Whether the store is gone, and its guards with it.
    closed: bool,
}

impl Limbo {
    /// Takes what no pin can lead to any more.
    pub(super) fn push(&self, extent: Option<Extent>, free: impl FnOnce() + Send + 'static) {
        let mut list = self.list.lock();
        if list.closed {
            drop(list);
            return free();
        }
        list.waiting.push(Waiting { extent, passed: false, free: Box::new(free) });
    }

    /// Bytes that stay for guards that have them in hand.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Frees what no guard can have in hand. `by_marks`: guards are told by their marks; otherwise none can be there, because
    /// they have pins.
    pub(super) fn sweep(&self, slots: &[Arc<CachePadded<Slot>>], by_marks: bool) {
        let mut freed = Vec::new();
        {
            let Some(mut list) = self.list.try_lock() else { return };
            let mut pinned = 0;
            if !list.waiting.is_empty() {
                let before = take(&mut list.waiting);
                let judge = Judge::new(slots, by_marks, before.iter().any(|waiting| !waiting.passed));
                for mut waiting in before {
                    waiting.passed |= judge.nobody_in_call;
                    let held = waiting.extent.filter(|extent| judge.is_held(*extent));
                    if waiting.passed && held.is_none() {
                        freed.push(waiting.free);
                        continue;
                    }
                    if waiting.passed {
                        pinned += waiting.extent.map_or(0, |extent| extent.len as u64);
                    }
                    list.waiting.push(waiting);
                }
            }
            self.pinned.store(pinned, Ordering::Relaxed);
        }
        freed.into_iter().for_each(|free| free());
    }

    /// The store is gone: nobody waits for anything any more.
    pub(super) fn close(&self) {
        let waiting = {
            let mut list = self.list.lock();
            list.closed = true;
            take(&mut list.waiting)
        };
        waiting.into_iter().for_each(|waiting| (waiting.free)());
    }
}

/// What was seen of the threads that hold guards.
struct Judge<'s> {
    holding: Vec<(&'s Slot, Seen)>,
    /// Whether none of them can be on its way to what was let go before.
    nobody_in_call: bool,
}

impl<'s> Judge<'s> {
    fn new(slots: &'s [Arc<CachePadded<Slot>>], by_marks: bool, some_new: bool) -> Self {
        // A guard that begins behind it sees what was let go; see `Held::begin`.
        fence(Ordering::SeqCst);
        let holds = |slot: &&'s Arc<CachePadded<Slot>>| by_marks && slot.held.look().is_some();
        let holders: Vec<_> = slots.iter().filter(holds).collect();
        if holders.is_empty() {
            return Self { holding: Vec::new(), nobody_in_call: true };
        }
        // What has passed before needs none: nobody can have come to it since.
        let fenced = some_new && fence_all_threads();
        let mut nobody_in_call = fenced;
        let mut holding = Vec::with_capacity(holders.len());
        for slot in holders {
            let mut seen = slot.held.look();
            for _ in 0..LOOKS {
                if !fenced || !seen.is_some_and(|seen| seen.in_call) {
                    break;
                }
                std::hint::spin_loop();
                seen = slot.held.look();
            }
            if let Some(seen) = seen {
                nobody_in_call &= !seen.in_call;
                holding.push((&***slot, seen));
            }
        }
        Self { holding, nobody_in_call }
    }

    fn is_held(&self, Extent { address, len }: Extent) -> bool {
        self.holding.iter().any(|(slot, seen)| slot.held.holds(*seen, address, len))
    }
}
