//! Atomics and spinning from std, or from loom when its model checker runs (`--cfg loom`).
//!
//! Only code that loom checks (free list, page table, id index) takes its atomics from here under loom;
//! the rest of the crate is not built then. With `--cfg esker_jitter` they are slow now and then (`jitter.rs`).

#[cfg(esker_jitter)]
mod jitter;

#[cfg(esker_jitter)]
pub(crate) use self::jitter::{AtomicI64, AtomicU16, AtomicU32, AtomicU64};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicI64, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(any(loom, esker_jitter)))]
pub(crate) use std::sync::atomic::{AtomicI64, AtomicU16, AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{Ordering, fence};

pub(crate) use crossbeam_utils::CachePadded;

/// The cheap side of a fence whose other side is `sys::memory::fence_all_threads`: it keeps the compiler from moving
/// what is behind it before what is before it; the processor is seen to by the other side.
#[inline(always)]
pub(crate) fn light_fence() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
    #[cfg(not(loom))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// One turn of waiting for another thread that is about to finish: a few pauses of the processor, and after
/// that the rest of the time slice, because the other thread may share our core.
pub(crate) fn wait_a_turn(turn: &mut u32) {
    #[cfg(loom)]
    {
        // Relaxed loads may see stale values for as long as others go on writing, so two waiting threads could wait
        // for each other for ever, which no processor does. From the third turn on they see the newest ones.
        *turn += 1;
        let settle = |turn: u32| {
            if turn > 2 {
                loom::sync::atomic::fence(Ordering::SeqCst);
            }
        };
        settle(*turn);
        loom::thread::yield_now();
        settle(*turn);
    }
    #[cfg(not(loom))]
    {
        *turn += 1;
        if *turn < 32 {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// A lock that loom can see.
#[cfg(not(loom))]
pub(crate) use parking_lot::Mutex;

/// A lock that loom can see.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(loom)]
impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
