//! What the operating system does to a process, and what a process takes of it: forks, limits, descriptors, threads. Each
//! test changes the whole process, so they run one after the other.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod fork;
mod limits;
mod signals;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
