//! What a thread's guards hold: the pages that it was given events of, noted where the mover can read it.
//!
//! A guard would be free to look at any page, so a frame that was let go could be reused only when every guard of that
//! time had ended. Two notes make that narrower. A thread notes that it is *in a call* on a guard: only then can it be on
//! its way to a page. And it *marks* each page of which a call gives it an event in place. So once a frame can be found
//! no more, and every thread was seen outside of its calls since, only those can look at it whose mark it has.
//!
//! ```text
//!  reader                              mover
//!    calls += 1, in one                  the page table no longer leads to the frame
//!    ── light fence ──                   ── heavy fence ──
//!    look in the page table              in a call?  yes: look again later
//!    mark what was found                 marked?     yes: the frame stays
//!    calls += 1  (release)               (acquire)   reuse it
//! ```
//!
//! Either the reader's note was seen, or the reader sees what the mover did before. The heavy fence makes every thread
//! of the process pass a fence (`sys::memory::fence_all_threads`), so that the light one costs readers nothing.

use crate::sync::{AtomicU16, AtomicU64, Ordering, fence, light_fence};

/// Marks of a thread. A page has the mark of its address, so some share one: a frame may be kept for another's sake.
const MARKS: usize = if cfg!(loom) { 2 } else { 1024 };
/// Bytes that have one mark, as a power of two. Larger pages have several.
const UNIT: u32 = 16;

/// One thread's notes. Only that thread writes them.
pub(crate) struct Held {
    /// Counts up when the first guard is taken and when the last is dropped: odd while one is held. Its lowest 16 bits are what
    /// marks are made of, so that those of earlier guards need not be wiped each time.
    serial: AtomicU64,
    /// Counts up when a call begins and when it ends: odd during one.
    calls: AtomicU64,
    marks: [AtomicU16; MARKS],
}

/// Stores, and passes a fence.
#[inline(always)]
fn store_and_fence(to: &AtomicU64, value: u64) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
    {
        // An exchange is a full fence for this processor, and takes a third of the time that its fence instruction does.
        to.swap(value, Ordering::SeqCst);
        light_fence();
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri)))))]
    {
        to.store(value, Ordering::Release);
        fence(Ordering::SeqCst);
    }
}

/// A call on a guard, until it is dropped.
pub(crate) struct Call<'h>(&'h Held);

impl Drop for Call<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.calls.store(self.0.calls.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}

/// What the mover saw of a thread that holds a guard.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    mark: u16,
}

impl Held {
    pub(crate) fn new() -> Self {
        Self {
            serial: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            marks: std::array::from_fn(|_| AtomicU16::new(0)),
        }
    }

    /// The serial number of the guards that are held; even when there are none.
    pub(crate) fn serial(&self) -> u64 {
        self.serial.load(Ordering::Relaxed)
    }

    /// The thread's first guard begins.
    #[inline]
    pub(crate) fn begin(&self) {
        // Who lets frames go looks for guards behind such a fence, too: either it sees this one, or this one sees that
        // the page table has changed.
        self.count_up(1, |serial| store_and_fence(&self.serial, serial));
    }

    /// What was marked so far is held no more.
    #[inline]
    pub(crate) fn renew(&self) {
        self.count_up(2, |serial| self.serial.store(serial, Ordering::Release));
    }

    /// The thread's last guard ends.
    #[inline]
    pub(crate) fn end(&self) {
        self.count_up(1, |serial| self.serial.store(serial, Ordering::Release));
    }

    #[inline]
    fn count_up(&self, by: u64, store: impl FnOnce(u64)) {
        let serial = self.serial.load(Ordering::Relaxed) + by;
        // What was read under the guard was read before the mover can see that it is held no more.
        fence(Ordering::Release);
        if serial as u16 == 1 {
            // Marks of so many guards ago would be taken for new ones.
            self.marks.iter().for_each(|mark| mark.store(0, Ordering::Relaxed));
        }
        store(serial);
    }

    /// Begins a call on a guard. It must end before the caller gets control: a call within it would end it, too.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Call<'_> {
        self.calls.store(self.calls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        light_fence();
        Call(self)
    }

    /// Marks the page at that address, of which the caller is given an event.
    #[inline(always)]
    pub(crate) fn mark(&self, address: usize) {
        let mark = self.serial.load(Ordering::Relaxed) as u16;
        self.marks[(address >> UNIT) % MARKS].store(mark, Ordering::Relaxed);
    }

    /// Looks at the thread, after a heavy fence. `None`: it holds no guard that began before it.
    pub(crate) fn look(&self) -> Option<Seen> {
        let serial = self.serial.load(Ordering::Acquire);
        if serial.is_multiple_of(2) {
            return None;
        }
        Some(Seen { mark: serial as u16 })
    }

    /// The number of the call that the thread is in, in which it may be on its way to a page.
    pub(crate) fn call(&self) -> Option<u64> {
        Some(self.calls.load(Ordering::Acquire)).filter(|calls| !calls.is_multiple_of(2))
    }

    /// Whether any of these bytes, none of which can be found any more, has the mark of the guards that were seen.
    pub(crate) fn holds(&self, seen: Seen, address: usize, len: usize) -> bool {
        let units = address >> UNIT..=(address + len.max(1) - 1) >> UNIT;
        let held =
            units.take(MARKS).any(|unit| self.marks[unit % MARKS].load(Ordering::Relaxed) == seen.mark);
        // Where a mark was renewed since, what was read before it was.
        fence(Ordering::Acquire);
        held
    }
}
