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
    /// What only guards may have in hand or be on their way to.
    arrived: Vec<Waiting>,
    /// What arrived before the threads were last fenced, and the calls in which they were then: whoever has left that
    /// call cannot come to it any more.
    passing: Vec<Waiting>,
    inside: Vec<(Arc<CachePadded<Slot>>, u64)>,
    /// What nobody can come to any more: marks alone decide.
    waiting: Vec<Waiting>,
    /// Whether the store is gone, and its guards with it.
    closed: bool,
}

impl Limbo {
    /// Runs `free` once no reader of this moment is left: no pin, and no guard that may have an event in place within `extent`.
    pub(crate) fn let_go(&self, extent: Option<Extent>, free: impl FnOnce() + Send + 'static) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.list.lock().fresh.push(Waiting { extent, free: Box::new(free) });
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
        list.arrived.append(&mut all);
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
            list.pass(slots, by_marks);
            let mut pinned = 0;
            if !list.waiting.is_empty() {
                let judge = Judge::new(slots, by_marks);
                for waiting in take(&mut list.waiting) {
                    match waiting.extent.filter(|extent| judge.is_held(*extent)) {
                        None => freed.push(waiting),
                        Some(extent) => {
                            pinned += extent.len as u64;
                            list.waiting.push(waiting);
                        }
                    }
                }
            }
            self.pinned.store(pinned, Ordering::Relaxed);
        }
        self.free(freed);
    }

    /// The store is gone: nobody waits for anything any more.
    pub(super) fn close(&self) {
        let waiting = {
            let list = &mut *self.list.lock();
            list.closed = true;
            let mut waiting = take(&mut list.waiting);
            for more in [&mut list.fresh, &mut list.arrived, &mut list.passing] {
                waiting.append(more);
            }
            waiting
        };
        self.free(waiting);
    }
}

impl List {
    /// Lets through what nobody can be on its way to any more.
    fn pass(&mut self, slots: &[Arc<CachePadded<Slot>>], by_marks: bool) {
        // What has arrived while others passed, too.
        for _ in 0..2 {
            if self.passing.is_empty() {
                if self.arrived.is_empty() || !self.look_inside(slots, by_marks) {
                    return;
                }
                self.passing = take(&mut self.arrived);
            }
            for _ in 0..LOOKS {
                self.inside.retain(|(slot, call)| slot.held.call() == Some(*call));
                if self.inside.is_empty() {
                    break;
                }
                std::hint::spin_loop();
            }
            if !self.inside.is_empty() {
                return;
            }
            self.waiting.append(&mut self.passing);
        }
    }

    /// Notes who is in a call, behind a fence of all threads. `false`: there is no such fence just now.
    fn look_inside(&mut self, slots: &[Arc<CachePadded<Slot>>], by_marks: bool) -> bool {
        self.inside.clear();
        // A guard that begins behind it sees what was let go; see `Held::begin`.
        fence(Ordering::SeqCst);
        if !by_marks || slots.iter().all(|slot| slot.held.look().is_none()) {
            return true;
        }
        if !fence_all_threads() {
            return false;
        }
        let inside = |slot: &Arc<CachePadded<Slot>>| Some((slot.clone(), slot.held.call()?));
        self.inside.extend(slots.iter().filter_map(inside));
        true
    }
}

/// The marks of the threads that hold guards.
struct Judge<'s> {
    holding: Vec<(&'s Slot, Seen)>,
}

impl<'s> Judge<'s> {
    fn new(slots: &'s [Arc<CachePadded<Slot>>], by_marks: bool) -> Self {
        let holds = |slot: &'s Arc<CachePadded<Slot>>| Some((&***slot, slot.held.look()?));
        Self { holding: slots.iter().filter(|_| by_marks).filter_map(holds).collect() }
    }

    fn is_held(&self, Extent { address, len }: Extent) -> bool {
        self.holding.iter().any(|(slot, seen)| slot.held.holds(*seen, address, len))
    }
}
