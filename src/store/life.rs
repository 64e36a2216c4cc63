//! Whether a store can be used: it is open, it was closed, or this is the copy that a forked process has of it.
//!
//! A process that was forked has the memory and the files of a store, but none of its threads, and shares files with
//! whoever goes on using them. So the word that says "open" is on a page that the system clears for children
//! (`MADV_WIPEONFORK`), and costs no more to look at than any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::memory::{Slab, private_word};

/// What a page holds that was cleared.
const FORKED: u32 = 0;
const OPEN: u32 = 1;
const CLOSED: u32 = 2;
/// Beside [`OPEN`]: the log is broken; it is behind what was promised. Nothing is appended then.
pub(crate) const BROKEN: u32 = 4;
pub(crate) const BEHIND: u32 = 8;

pub(crate) struct Life {
    state: Slab<AtomicU32>,
}

impl Life {
    /// Of a store that is open.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]: the system has no page of memory.
    pub(crate) fn begin() -> Result<Self> {
        let state = private_word()?;
        state[0].store(OPEN, Ordering::Release);
        Ok(Self { state })
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.state[0].load(Ordering::Acquire) & OPEN != 0
    }

    /// Whether it is open, and nothing keeps appends out.
    #[inline]
    pub(crate) fn takes_appends(&self) -> bool {
        self.state[0].load(Ordering::Acquire) == OPEN
    }

    /// Keeps appends out of an open store for a reason, or no longer. Whether that changes anything.
    pub(crate) fn keep_out(&self, reason: u32, out: bool) -> bool {
        let change = |state: u32| {
            let wanted = if out { state | reason } else { state & !reason };
            (state & OPEN != 0 && wanted != state).then_some(wanted)
        };
        self.state[0].fetch_update(Ordering::AcqRel, Ordering::Relaxed, change).is_ok()
    }

    /// Whether this is a copy in a forked process.
    pub(crate) fn is_forked(&self) -> bool {
        self.state[0].load(Ordering::Acquire) == FORKED
    }

    /// `false`: somebody else has closed it, or this is a copy.
    pub(crate) fn close(&self) -> bool {
        let closed = |state: u32| (state & OPEN != 0).then_some(CLOSED);
        self.state[0].fetch_update(Ordering::AcqRel, Ordering::Acquire, closed).is_ok()
    }

    /// # Errors
    /// [`ErrorKind::Closed`] and [`ErrorKind::Forked`].
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_open() { Ok(()) } else { Err(self.error()) }
    }

    /// Why it is not open.
    #[cold]
    pub(crate) fn error(&self) -> Error {
        if !self.is_forked() {
            return Error::closed();
        }
        Error::new(
            ErrorKind::Forked,
            "this process was forked from the one that opened the store; only that one can use it. Open stores after \
             forking, or start other programs (std::process::Command), which inherit nothing",
        )
    }
}

/// Has a part of a store stay as it is in a forked process for ever: dropping it there would write to files that are
/// not its own, and wait for threads that it does not have.
pub(crate) fn leave_alone<T>(part: &Arc<T>) {
    std::mem::forget(part.clone());
}
