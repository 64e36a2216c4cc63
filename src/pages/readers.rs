//! Who may still look at what has been let go.
//!
//! Each store has a collector of its own (crossbeam-epoch): a guard on one store, or of another crate that uses
//! crossbeam-epoch, keeps nothing of another store's. A thread has a handle for each store that it uses, the one used
//! last in front, and in each a slot in which it notes the guards that callers hold. Pins of the store's own calls are
//! short and not noted.
//!
//! A caller's guard is no pin where the system can fence all threads: it holds what it was given events of, and nothing
//! else (see [`crate::pages::held`]). Otherwise it is one, and holds all that was let go since.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crossbeam_epoch::{Collector, LocalHandle};
use crossbeam_utils::CachePadded;
use parking_lot::{Mutex, RwLock};

use crate::pages::held::{Call, Held};
use crate::pages::limbo::Limbo;
use crate::pages::pool::Pin;
use crate::pressure::HeldGuard;
use crate::sys::memory::can_fence_all_threads;

/// Turns in which a store that is dropped has its garbage freed: an epoch takes two, and each frees a few bags.
const LAST_TURNS: usize = 64;

/// The readers of one store.
pub(crate) struct Readers {
    number: u64,
    collector: Collector,
    slots: Arc<Slots>,
    limbo: Arc<Limbo>,
    /// Whether guards do without a pin.
    by_marks: bool,
    /// Guards that were held when it was last looked: their slot, its serial number, and when it was first seen.
    seen: Mutex<Vec<(u64, u64, Instant)>>,
}

/// One slot for each thread that has a handle.
#[derive(Default)]
struct Slots {
    list: RwLock<Vec<Arc<CachePadded<Slot>>>>,
    /// What was noted in slots of threads that have ended.
    ended: [AtomicU64; 3],
}

/// What a thread notes of the guards that it holds on a store. Written by that thread only.
pub(super) struct Slot {
    /// No other slot of the process has it, now or later.
    number: u64,
    thread: ThreadId,
    name: Option<String>,
    pub(super) held: Held,
    /// Guards that are held.
    depth: AtomicU64,
    /// Walks that have begun and not ended.
    walks: AtomicU64,
    /// Reads that found their event hot, warm, or not at all, if anybody wants to know.
    reads: [AtomicU64; 3],
}

/// What a reader has in hand while it reads pages: a [`Pin`], or a caller's guard during a call.
pub(crate) trait Reading {
    /// The caller is given an event in place, which lies at that address.
    fn gives(&self, address: usize);
}

impl Reading for Pin {
    #[inline(always)]
    fn gives(&self, _address: usize) {
        // It holds everything.
    }
}

/// What a caller's guard has: its thread notes that it holds one, as long as it lives. Pages are only read with it
/// between [`enter`](Self::enter) and the end of that call, or while a pin is held, too.
pub(crate) struct GuardPin {
    slot: Arc<CachePadded<Slot>>,
    /// Where marks do not do.
    strong: Option<Pin>,
    /// It stays with its thread, which alone writes the slot.
    stays: PhantomData<*const ()>,
}

impl Reading for GuardPin {
    #[inline(always)]
    fn gives(&self, address: usize) {
        self.slot.held.mark(address);
    }
}

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
            let mut list = slots.list.write();
            list.retain(|other| !Arc::ptr_eq(other, &self.slot));
            for (sum, reads) in slots.ended.iter().zip(&self.slot.reads) {
                sum.fetch_add(reads.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }
}

thread_local! {
    static HANDLES: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

impl Slot {
    fn of_this_thread() -> Arc<CachePadded<Self>> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let thread = std::thread::current();
        Arc::new(CachePadded::new(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            thread: thread.id(),
            name: thread.name().map(str::to_owned),
            held: Held::new(),
            depth: AtomicU64::new(0),
            walks: AtomicU64::new(0),
            reads: Default::default(),
        }))
    }

    /// Takes note of one guard more. Only the slot's thread writes it, so no locked instruction is needed.
    #[inline]
    fn enter(&self) {
        let depth = self.depth.load(Ordering::Relaxed);
        if depth == 0 {
            self.held.begin();
        }
        self.depth.store(depth + 1, Ordering::Relaxed);
    }

    /// As [`Self::enter`]: only the slot's thread writes it.
    #[inline]
    fn count_walks(&self, by: i64) {
        self.walks.store(self.walks.load(Ordering::Relaxed).wrapping_add_signed(by), Ordering::Relaxed);
    }

    #[inline]
    fn leave(&self) {
        let depth = self.depth.load(Ordering::Relaxed) - 1;
        self.depth.store(depth, Ordering::Relaxed);
        if depth == 0 {
            self.held.end();
        }
    }
}

impl GuardPin {
    #[inline]
    fn new(slot: &Arc<CachePadded<Slot>>, strong: Option<Pin>) -> Self {
        slot.enter();
        Self { slot: slot.clone(), strong, stays: PhantomData }
    }

    /// Begins a call on the guard that looks at pages. No other may begin within it.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Call<'_> {
        self.slot.held.enter()
    }

    /// Notes a read that found its event hot (0), warm (1), or not at all (2). Only the guard's thread writes its slot, so
    /// no locked instruction is needed.
    #[inline]
    pub(crate) fn note_read(&self, found: usize) {
        let count = &self.slot.reads[found];
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Begins a walk through memory: until it ends nothing is freed that could be found now, as with a pin. Its thread is told of.
    #[inline]
    pub(crate) fn walk(&self, pin: Pin) -> Walk<'_> {
        self.slot.count_walks(1);
        Walk { pin, slot: &self.slot }
    }

    /// The guard lets go of what it held, and sees the present from now on.
    pub(crate) fn renew(&mut self) {
        if let Some(strong) = &mut self.strong {
            strong.repin();
        }
        // With another guard on the same thread, what the older one holds is still held.
        if self.slot.depth.load(Ordering::Relaxed) == 1 {
            self.slot.held.renew();
        }
    }
}

/// A walk under a guard that may stop between two events for as long as the caller likes.
pub(crate) struct Walk<'p> {
    pub(crate) pin: Pin,
    slot: &'p Slot,
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        self.slot.count_walks(-1);
    }
}

impl Drop for GuardPin {
    fn drop(&mut self) {
        if !cfg!(canary = "guard-leak") {
            self.slot.leave();
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
            limbo: Arc::default(),
            by_marks: can_fence_all_threads(),
            seen: Mutex::default(),
        }
    }

    /// Whether guards hold only what they were given events of.
    pub(crate) fn go_by_marks(&self) -> bool {
        self.by_marks
    }

    /// Where what is let go waits for guards.
    pub(crate) fn limbo(&self) -> &Arc<Limbo> {
        &self.limbo
    }

    /// Keeps what this thread may come to know of from being reused, while the pin lives.
    #[inline]
    pub(crate) fn pin(&self) -> Pin {
        self.by_handle(|local, _, _| Pin::of(local.pin()))
    }

    /// What a caller's guard holds for as long as the caller likes.
    #[inline]
    pub(crate) fn pin_for_caller(&self) -> GuardPin {
        self.by_handle(|local, slot, listed| {
            let strong = (!self.by_marks || !listed).then(|| Pin::of(local.pin()));
            GuardPin::new(slot, strong)
        })
    }

    /// Calls `use_it` with this thread's handle, which is in front unless another store was used since, and whether its slot is
    /// one of those that are looked at.
    #[inline(always)]
    fn by_handle<T>(&self, use_it: impl Fn(&LocalHandle, &Arc<CachePadded<Slot>>, bool) -> T) -> T {
        let used = HANDLES.try_with(|handles| {
            let handles = handles.try_borrow().ok()?;
            let handle = handles.first()?;
            (handle.store == self.number).then(|| use_it(&handle.local, &handle.slot, true))
        });
        match used {
            Ok(Some(value)) => value,
            _ => self.with_handle(use_it),
        }
    }

    /// Calls `use_it` with this thread's handle, which comes to the front, and is made if there is none.
    #[cold]
    fn with_handle<T>(&self, use_it: impl Fn(&LocalHandle, &Arc<CachePadded<Slot>>, bool) -> T) -> T {
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
            handles.first().map(|handle| use_it(&handle.local, &handle.slot, true))
        });
        match used {
            Ok(Some(used)) => used,
            // The thread is about to end, and has no handles any more: one for this pin will do.
            _ => use_it(&self.collector.register(), &Slot::of_this_thread(), false),
        }
    }

    /// Reads that were noted since the store opened: hot, warm, not found.
    pub(crate) fn reads(&self) -> [u64; 3] {
        // With the list, so that no thread that ends meanwhile is left out or counted twice.
        let list = self.slots.list.read();
        std::array::from_fn(|at| {
            let noted = list.iter().map(|slot| slot.reads[at].load(Ordering::Relaxed));
            noted.fold(self.slots.ended[at].load(Ordering::Relaxed), u64::wrapping_add)
        })
    }

    fn register(&self) -> Handle {
        let slot = Slot::of_this_thread();
        self.slots.list.write().push(slot.clone());
        Handle {
            store: self.number,
            local: self.collector.register(),
            slot,
            slots: Arc::downgrade(&self.slots),
        }
    }

    /// Makes the epoch advance as far as present readers let it, which frees what was let go before.
    pub(crate) fn reclaim(&self) {
        self.pin().hand_over(&self.limbo);
        // An epoch must advance twice, and one bag of garbage is looked at per turn.
        for _ in 0..4 {
            self.pin().flush();
        }
        self.limbo.sweep(&self.slots.list.read(), self.by_marks);
    }

    /// The guard that has been held longest. Its age counts from when this was first asked while it was held.
    pub(crate) fn oldest(&self, now: Instant) -> Option<HeldGuard> {
        self.oldest_of(now, |_| true)
    }

    /// The same of those that hold all that leaves memory: in the middle of a walk, or where marks do not do.
    pub(crate) fn oldest_on_its_way(&self, now: Instant) -> Option<HeldGuard> {
        self.oldest_of(now, |slot| !self.by_marks || slot.walks.load(Ordering::Relaxed) > 0)
    }

    fn oldest_of(&self, now: Instant, counts: impl Fn(&Slot) -> bool) -> Option<HeldGuard> {
        let slots = self.slots.list.read();
        let mut seen = self.seen.lock();
        let mut oldest: Option<(Duration, &Slot)> = None;
        let mut held = Vec::new();
        for slot in slots.iter() {
            let serial = slot.held.serial();
            if serial.is_multiple_of(2) {
                continue;
            }
            let key = (slot.number, serial);
            let before = seen.iter().find(|(slot, serial, _)| (*slot, *serial) == key);
            let since = before.map_or(now, |(_, _, since)| *since);
            held.push((key.0, key.1, since));
            let age = now.saturating_duration_since(since);
            if counts(slot) && oldest.is_none_or(|(other, _)| age >= other) {
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
        self.limbo.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::pages::limbo::Extent;
    use std::sync::mpsc;

    /// Defers a message, as the pool does with pages.
    fn defer(readers: &Readers, sender: &mpsc::Sender<u32>, number: u32) {
        defer_at(readers, sender, number, None);
    }

    /// The same with a page at that address.
    fn defer_at(readers: &Readers, sender: &mpsc::Sender<u32>, number: u32, address: Option<usize>) {
        let sender = sender.clone();
        let extent = address.map(|address| Extent { address, len: 1 << 16 });
        readers.limbo().let_go(extent, move || sender.send(number).unwrap_or_default());
        let pin = readers.pin();
        pin.hand_over(readers.limbo());
        pin.flush();
    }

    #[test]
    fn a_guard_holds_what_it_was_given_and_what_is_found_during_a_call() {
        let (readers, (sender, freed)) = (Readers::new(), mpsc::channel());
        let all = || {
            readers.reclaim();
            let mut all: Vec<u32> = freed.try_iter().collect();
            all.sort_unstable();
            all
        };
        let mut guard = readers.pin_for_caller();
        let call = guard.enter();
        guard.gives(5 << 16 | 77);
        defer_at(&readers, &sender, 1, Some(5 << 16));
        defer_at(&readers, &sender, 2, Some(6 << 16));
        defer(&readers, &sender, 3);
        assert_eq!(all(), [0; 0], "it may be on its way to any of them");
        drop(call);
        if readers.by_marks {
            assert_eq!(all(), [2, 3]);
            assert_eq!(readers.limbo().pinned_bytes(), 1 << 16);
            // One that is let go later needs a call to end, too; the one that stays does not come free meanwhile.
            let call = guard.enter();
            defer_at(&readers, &sender, 4, Some(8 << 16));
            assert_eq!(all(), [0; 0]);
            drop(call);
            // Another of the same thread: the first is still held.
            let mut other = readers.pin_for_caller();
            other.renew();
            assert_eq!(all(), [4]);
        }
        guard.renew();
        let rest = all();
        assert!(rest.contains(&1), "{rest:?}");
        assert_eq!(readers.limbo().pinned_bytes(), 0);
        // Marks of guards that ended long ago are not taken for new ones.
        for _ in 0..70_000 {
            drop(guard);
            guard = readers.pin_for_caller();
            let _call = guard.enter();
            guard.gives(9 << 16);
        }
        guard.renew();
        defer_at(&readers, &sender, 5, Some(9 << 16));
        if readers.by_marks {
            assert_eq!(all(), [5]);
        }
    }

    #[test]
    fn a_guard_on_one_store_keeps_nothing_of_another() {
        let (one, other) = (Readers::new(), Readers::new());
        let (sender, freed) = mpsc::channel();
        let guard = one.pin();
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
        assert_eq!(readers.oldest(clock::now()), None);
        let _own = readers.pin();
        assert_eq!(readers.oldest(clock::now()), None, "pins of the store's own calls are not noted");
        let mut first = readers.pin_for_caller();
        let nested = readers.pin_for_caller();
        readers.oldest(clock::now()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let found = readers.oldest(clock::now()).unwrap();
        assert!(found.held_for >= Duration::from_millis(20), "{found:?}");
        assert_eq!(found.thread, std::thread::current().id());
        first.renew();
        assert!(
            readers.oldest(clock::now()).unwrap().held_for >= found.held_for,
            "the other guard is as old"
        );
        drop(nested);
        first.renew();
        assert!(readers.oldest(clock::now()).unwrap().held_for < found.held_for);
        drop(first);
        assert_eq!(readers.oldest(clock::now()), None);

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
            let found = readers.oldest(clock::now()).unwrap();
            assert_eq!((found.thread, found.name.as_deref()), (id, Some("a slow reader")));
            drop(end);
            reader.join().unwrap();
        });
        assert_eq!(readers.oldest(clock::now()), None);
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
                limbo: readers.limbo.clone(),
                by_marks: readers.by_marks,
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
