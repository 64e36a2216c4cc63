//! Who may still look at what has been let go.
//!
//! Each store has a collector of its own (crossbeam-epoch): a guard on one store, or of another crate that uses
//! crossbeam-epoch, keeps nothing of another store's. A thread has a handle for each store that it uses, the one used
//! last in front, and in each a slot in which it notes the guards that callers hold. Pins of the store's own calls are
//! short and not noted.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crossbeam_epoch::{Collector, LocalHandle};
use crossbeam_utils::CachePadded;
use parking_lot::{Mutex, RwLock};

use crate::clock;
use crate::pages::pool::Pin;
use crate::pressure::HeldGuard;

/// Turns in which a store that is dropped has its garbage freed: an epoch takes two, and each frees a few bags.
const LAST_TURNS: usize = 64;

/// The readers of one store.
pub(crate) struct Readers {
    number: u64,
    collector: Collector,
    slots: Arc<Slots>,
    /// Guards that were held when it was last looked: their slot, its serial number, and when it was first seen.
    seen: Mutex<Vec<(usize, u64, Instant)>>,
}

/// One slot for each thread that has a handle.
#[derive(Default)]
struct Slots(RwLock<Vec<Arc<CachePadded<Slot>>>>);

/// What a thread notes of the guards that it holds on a store. Written by that thread only.
struct Slot {
    thread: ThreadId,
    name: Option<String>,
    /// Counts up when the first guard is taken and when the last is dropped: odd while one is held.
    serial: AtomicU64,
    /// Guards that are held.
    depth: AtomicU32,
}

/// Says that its thread holds a guard, as long as it lives.
pub(crate) struct Noted(Arc<CachePadded<Slot>>);

/// A thread's way to a store.
struct Handle {
    store: u64,
    local: LocalHandle,
    slot: Arc<CachePadded<Slot>>,
    slots: Weak<Slots>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A guard that was leaked holds on, and goes on being told of.
        if self.slot.depth.load(Ordering::Relaxed) == 0
            && let Some(slots) = self.slots.upgrade()
        {
            slots.0.write().retain(|other| !Arc::ptr_eq(other, &self.slot));
        }
    }
}

thread_local! {
    static HANDLES: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

impl Slot {
    fn of_this_thread() -> Arc<CachePadded<Self>> {
        let thread = std::thread::current();
        Arc::new(CachePadded::new(Self {
            thread: thread.id(),
            name: thread.name().map(str::to_owned),
            serial: AtomicU64::new(0),
            depth: AtomicU32::new(0),
        }))
    }

    /// Takes note of one guard more. Only the slot's thread writes it, so no locked instruction is needed.
    #[inline]
    fn enter(&self) {
        let depth = self.depth.load(Ordering::Relaxed);
        if depth == 0 {
            self.serial.store(self.serial.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        self.depth.store(depth + 1, Ordering::Relaxed);
    }

    #[inline]
    fn leave(&self) {
        let depth = self.depth.load(Ordering::Relaxed) - 1;
        self.depth.store(depth, Ordering::Relaxed);
        if depth == 0 {
            self.serial.store(self.serial.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
}

impl Noted {
    /// The guard sees the present from now on.
    pub(crate) fn renew(&self) {
        // With another guard on the same thread, what the older one holds is still held.
        if self.0.depth.load(Ordering::Relaxed) == 1 {
            self.0.serial.store(self.0.serial.load(Ordering::Relaxed) + 2, Ordering::Relaxed);
        }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if !cfg!(canary = "guard-leak") {
            self.0.leave();
        }
    }
}

impl Readers {
    pub(crate) fn new() -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            collector: Collector::new(),
            slots: Arc::default(),
            seen: Mutex::default(),
        }
    }

    /// Keeps what this thread may come to know of from being reused, while the pin lives.
    #[inline]
    pub(crate) fn pin(&self) -> Pin {
        self.by_handle(|local, _| Pin::of(local.pin()))
    }

    /// A pin that a caller holds for as long as it likes.
    #[inline]
    pub(crate) fn pin_for_caller(&self) -> (Pin, Noted) {
        self.by_handle(Self::take)
    }

    /// Calls `use_it` with this thread's handle, which is in front unless another store was used since.
    #[inline(always)]
    fn by_handle<T>(&self, use_it: impl Fn(&LocalHandle, &Arc<CachePadded<Slot>>) -> T) -> T {
        let used = HANDLES.try_with(|handles| {
            let handles = handles.try_borrow().ok()?;
            let handle = handles.first()?;
            (handle.store == self.number).then(|| use_it(&handle.local, &handle.slot))
        });
        match used {
            Ok(Some(value)) => value,
            _ => self.with_handle(use_it),
        }
    }

    #[inline]
    fn take(local: &LocalHandle, slot: &Arc<CachePadded<Slot>>) -> (Pin, Noted) {
        slot.enter();
        (Pin::of(local.pin()), Noted(slot.clone()))
    }

    /// Calls `use_it` with this thread's handle, which comes to the front, and is made if there is none.
    #[cold]
    fn with_handle<T>(&self, use_it: impl Fn(&LocalHandle, &Arc<CachePadded<Slot>>) -> T) -> T {
        let used = HANDLES.try_with(|handles| {
            let mut handles = handles.try_borrow_mut().ok()?;
            match handles.iter().position(|handle| handle.store == self.number) {
                Some(at) => handles.swap(0, at),
                None => {
                    handles.retain(|handle| handle.slots.strong_count() > 0);
                    handles.push(self.register());
                    let last = handles.len() - 1;
                    handles.swap(0, last);
                }
            }
            handles.first().map(|handle| use_it(&handle.local, &handle.slot))
        });
        match used {
            Ok(Some(used)) => used,
            // The thread is about to end, and has no handles any more: one for this pin will do.
            _ => use_it(&self.collector.register(), &Slot::of_this_thread()),
        }
    }

    fn register(&self) -> Handle {
        let slot = Slot::of_this_thread();
        self.slots.0.write().push(slot.clone());
        Handle {
            store: self.number,
            local: self.collector.register(),
            slot,
            slots: Arc::downgrade(&self.slots),
        }
    }

    /// Makes the epoch advance as far as present readers let it, which frees what was let go before.
    pub(crate) fn reclaim(&self) {
        // An epoch must advance twice, and one bag of garbage is looked at per turn.
        for _ in 0..4 {
            self.pin().flush();
        }
    }

    /// The guard that has been held longest. Its age counts from when this was first asked while it was held.
    pub(crate) fn oldest(&self) -> Option<HeldGuard> {
        let (slots, now) = (self.slots.0.read(), clock::now());
        let mut seen = self.seen.lock();
        let mut oldest: Option<(Duration, &Slot)> = None;
        let mut held = Vec::new();
        for slot in slots.iter() {
            let serial = slot.serial.load(Ordering::Relaxed);
            if serial.is_multiple_of(2) {
                continue;
            }
            let key = (Arc::as_ptr(slot) as usize, serial);
            let before = seen.iter().find(|(slot, serial, _)| (*slot, *serial) == key);
            let since = before.map_or(now, |(_, _, since)| *since);
            held.push((key.0, key.1, since));
            let age = now.saturating_duration_since(since);
            if oldest.is_none_or(|(other, _)| age >= other) {
                oldest = Some((age, slot));
            }
        }
        *seen = held;
        oldest.map(|(age, slot)| HeldGuard::new(age, slot.thread, slot.name.clone()))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        // No guard is left: guards borrow the store. What waits for readers, the regions' memory with it, is freed now,
        // not when the last thread that has used the store ends.
        let local = self.collector.register();
        for _ in 0..LAST_TURNS {
            local.pin().flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Defers a message, as the pool does with pages.
    fn defer(readers: &Readers, sender: &mpsc::Sender<u32>, number: u32) {
        let sender = sender.clone();
        let pin = readers.pin();
        pin.defer_for_test(move || sender.send(number).unwrap_or_default());
        pin.flush();
    }

    #[test]
    fn a_guard_on_one_store_keeps_nothing_of_another() {
        let (one, other) = (Readers::new(), Readers::new());
        let (sender, freed) = mpsc::channel();
        let guard = one.pin_for_caller();
        defer(&other, &sender, 1);
        defer(&one, &sender, 2);
        // So does one of somebody else who uses crossbeam-epoch.
        let foreign = crossbeam_epoch::pin();
        other.reclaim();
        one.reclaim();
        assert_eq!(freed.try_iter().collect::<Vec<_>>(), [1]);
        drop((guard, foreign));
        one.reclaim();
        assert_eq!(freed.try_iter().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn the_oldest_guard_is_named_until_it_is_dropped_or_renewed() {
        let readers = Readers::new();
        assert_eq!(readers.oldest(), None);
        let _own = readers.pin();
        assert_eq!(readers.oldest(), None, "pins of the store's own calls are not noted");
        let (first, renewed) = readers.pin_for_caller();
        let nested = readers.pin_for_caller();
        readers.oldest().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let found = readers.oldest().unwrap();
        assert!(found.held_for >= Duration::from_millis(20), "{found:?}");
        assert_eq!(found.thread, std::thread::current().id());
        renewed.renew();
        assert!(readers.oldest().unwrap().held_for >= found.held_for, "the other guard is as old");
        drop(nested);
        renewed.renew();
        assert!(readers.oldest().unwrap().held_for < found.held_for);
        drop((first, renewed));
        assert_eq!(readers.oldest(), None);

        std::thread::scope(|scope| {
            let (end, ended) = mpsc::channel::<()>();
            let (ready, is_ready) = mpsc::channel();
            let readers = &readers;
            let reader = std::thread::Builder::new().name("a slow reader".into());
            let work = move || {
                let _guard = readers.pin_for_caller();
                ready.send(std::thread::current().id()).unwrap();
                let _ = ended.recv();
            };
            let reader = reader.spawn_scoped(scope, work).unwrap();
            let id = is_ready.recv().unwrap();
            let found = readers.oldest().unwrap();
            assert_eq!((found.thread, found.name.as_deref()), (id, Some("a slow reader")));
            drop(end);
            reader.join().unwrap();
        });
        assert_eq!(readers.oldest(), None);
    }

    /// Threads that live on do not keep the memory of a store that is gone.
    #[test]
    fn a_dropped_store_has_everything_freed_whoever_has_used_it() {
        let (sender, freed) = mpsc::channel();
        let readers = Readers::new();
        std::thread::scope(|scope| {
            let (end, ended) = mpsc::channel::<()>();
            let (used, is_used) = mpsc::channel();
            let (readers_there, sender) = (&readers, sender.clone());
            let user = scope.spawn(move || {
                drop(readers_there.pin());
                (0..200).for_each(|number| defer(readers_there, &sender, number));
                used.send(()).unwrap();
                let _ = ended.recv();
            });
            is_used.recv().unwrap();
            // The thread keeps its handle, as a thread of a pool does.
            let gone = Readers {
                number: readers.number,
                collector: readers.collector.clone(),
                slots: readers.slots.clone(),
                seen: Mutex::default(),
            };
            drop(gone);
            let mut all: Vec<u32> = freed.try_iter().collect();
            all.sort_unstable();
            assert_eq!(all, (0..200).collect::<Vec<_>>());
            drop(end);
            user.join().unwrap();
        });
    }

    #[test]
    fn handles_of_stores_that_are_gone_are_dropped_with_the_next_new_one() {
        for _ in 0..100 {
            drop(Readers::new().pin());
        }
        let handles = HANDLES.with_borrow(Vec::len);
        assert!(handles <= 2, "{handles} handles");
    }
}
