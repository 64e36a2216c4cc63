//! Values in a mapping.

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

use crate::error::Result;
use crate::sys::memory::{Mapping, page_size};

/// Types for which all bits zero is a value, and which are changed through shared references only.
///
/// # Safety
/// The implementor must be valid whatever its bytes are (zero, or what a file holds), and must not need dropping.
pub(crate) unsafe trait ZeroInit: Sync {}

// SAFETY: an atomic integer of zero bytes is the atomic zero.
unsafe impl ZeroInit for AtomicU64 {}
// SAFETY: as above.
unsafe impl ZeroInit for AtomicU32 {}
// SAFETY: as above.
unsafe impl ZeroInit for AtomicI64 {}

#[cfg(esker_jitter)]
mod jittered {
    use super::ZeroInit;
    use crate::sync;

    // SAFETY: these are the atomic integers of std and nothing else.
    unsafe impl ZeroInit for sync::AtomicU64 {}
    // SAFETY: as above.
    unsafe impl ZeroInit for sync::AtomicU32 {}
    // SAFETY: as above.
    unsafe impl ZeroInit for sync::AtomicI64 {}
}

/// A slice of values in a mapping, which it keeps alive: zeros at first, or what a file holds.
pub(crate) struct Slab<T> {
    ptr: NonNull<T>,
    len: usize,
    _mapping: Arc<Mapping>,
    _type: PhantomData<T>,
}

// SAFETY: a slab is a shared slice of `T: Sync` values that are never dropped; the mapping it keeps is only an
// owner of memory.
unsafe impl<T: ZeroInit> Send for Slab<T> {}
// SAFETY: as above.
unsafe impl<T: ZeroInit> Sync for Slab<T> {}

/// A word on a page of its own, which the system clears for processes that are forked from this one, where it can.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io): the system has no page of memory.
pub(crate) fn private_word() -> Result<Slab<AtomicU32>> {
    let mapping = Mapping::anonymous(page_size(), "life of the store's")?;
    #[cfg(target_os = "linux")]
    // SAFETY: the range is ours, and changes for other processes only. Where the system does not know this (before 4.14),
    // children are not told apart.
    unsafe {
        libc::madvise(mapping.base().as_ptr().cast(), mapping.len(), libc::MADV_WIPEONFORK);
    }
    mapping.whole(1)
}

impl<T: ZeroInit> Slab<T> {
    /// `len` values at byte `from` of the mapping.
    ///
    /// # Safety
    /// The range must be allocated, used by nothing else for as long as the mapping lives, and never released.
    pub(crate) unsafe fn new(mapping: Arc<Mapping>, from: usize, len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(from));
        assert!(bytes.is_some_and(|end| end <= mapping.len()), "a slab must lie within its mapping");
        assert!(from.is_multiple_of(align_of::<T>()), "a slab must be aligned");
        // SAFETY: `from` is within the mapping by the assertion above.
        let ptr = unsafe { mapping.base().add(from) }.cast::<T>();
        Self { ptr, len, _mapping: mapping, _type: PhantomData }
    }
}

impl<T> Deref for Slab<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` was promised that the range is ours alone and mapped for as long as the mapping lives, which we
        // hold; any bytes are a valid `T`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T> std::fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slab({})", self.len)
    }
}
