//! What was let go and waits for its readers: first for every pin of the moment, then for callers' guards.
//!
//! What is let go is collected, and handed to the epoch as a whole when somebody reclaims: an appender's pin may be the one that finds
//! that an epoch is over, and must not spend its time on dozens of pages then.
//!
//! Guards may be held for as long as callers like. What they were given events of stays here until they end; all else goes on: see
//! [`crate::pages::held`].

use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

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

/// Something that was let go.
pub(super) struct Waiting {
    /// What guards may be given events of; `None`: what they only look at during calls.
    extent: Option<Extent>,
    /// Whether every thread was seen outside of its calls since it was let go: marks alone decide then.
    passed: bool,
    free: Box<dyn FnOnce() + Send>,
}

#[derive(Default)]
pub(crate) struct Limbo {
    list: Mutex<List>,
    /// Whatever was let go and is not free yet.
    count: AtomicUsize,
    /// Bytes that stay for guards that have them in hand.
    pinned: AtomicU64,
}

#[derive(Default)]
struct List {
    /// What pins may still lead to, until the next reclaim.
    fresh: Vec<Waiting>,
    /// What only guards may have in hand.
    waiting: Vec<Waiting>,
    /// Whether the store is gone, and its guards with it.
    closed: bool,
}

impl Limbo {
    /// Runs `free` once no reader of this moment is left: no pin, and no guard that may have an event in place within `extent`.
    pub(crate) fn let_go(&self, extent: Option<Extent>, free: impl FnOnce() + Send + 'static) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.list.lock().fresh.push(Waiting { extent, passed: false, free: Box::new(free) });
    }

    /// What was let go since this was last called. The caller hands it back by [`Self::arrive`] when the pins of now are gone.
    pub(super) fn take_fresh(&self) -> Vec<Waiting> {
        if self.is_empty() { Vec::new() } else { take(&mut self.list.lock().fresh) }
    }

    /// Takes what no pin can lead to any more.
    pub(super) fn arrive(&self, mut all: Vec<Waiting>) {
        let mut list = self.list.lock();
        if list.closed {
            drop(list);
            return self.free(all);
        }
        list.waiting.append(&mut all);
    }

    fn free(&self, all: Vec<Waiting>) {
        self.count.fetch_sub(all.len(), Ordering::Relaxed);
        all.into_iter().for_each(|waiting| (waiting.free)());
    }

    /// Whether nothing waits for readers.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
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
                        freed.push(waiting);
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
        self.free(freed);
    }

    /// The store is gone: nobody waits for anything any more.
    pub(super) fn close(&self) {
        let waiting = {
            let mut list = self.list.lock();
            list.closed = true;
            let mut waiting = take(&mut list.waiting);
            waiting.append(&mut list.fresh);
            waiting
        };
        self.free(waiting);
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
