//! Anonymous memory from the system, and typed slices of it.
//!
//! A [`Mapping`] reserves its whole address range at once and costs physical memory only where it is touched,
//! so a region can reserve its maximum, grow without moving, and give memory back.

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

use memmap2::{MmapOptions, MmapRaw};

use crate::config::ByteSize;
use crate::error::{Error, ErrorKind, Result};

/// One anonymous, private, zero-filled mapping.
pub(crate) struct Mapping {
    raw: MmapRaw,
}

impl Mapping {
    /// Reserves `len` bytes without taking physical memory or swap for them.
    pub(crate) fn anonymous(len: usize, what: &str) -> Result<Self> {
        let map = MmapOptions::new().len(len).no_reserve_swap().map_anon().map_err(|source| {
            let size = ByteSize::new(len as u64);
            Error::io(
                format!(
                    "the system would not reserve {size} of address space for the {what} region; lower its maximum, \
                     or raise the limit (ulimit -v, vm.overcommit_memory)"
                ),
                source,
            )
        })?;
        Ok(Self { raw: map.into() })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        // A mapping is never at address zero, so `dangling` is not reached.
        NonNull::new(self.raw.as_mut_ptr()).unwrap_or(NonNull::dangling())
    }

    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    /// Asks for transparent huge pages. Refusal costs speed, nothing else, and is told by `false`.
    pub(crate) fn advise_huge(&self, from: usize, len: usize) -> bool {
        #[cfg(target_os = "linux")]
        {
            self.raw.advise_range(memmap2::Advice::HugePage, from, len).is_ok()
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (from, len);
            false
        }
    }

    /// Gives the memory behind a range back to the system; the range reads as zeros afterwards. Only whole pages of the
    /// system are given back: the bytes of a page at either end that lies partly outside stay as they are. How many
    /// bytes; none where the system refuses (locked memory), or cannot.
    ///
    /// # Safety
    /// Nobody may refer to the range.
    pub(crate) unsafe fn give_back(&self, from: usize, len: usize) -> usize {
        #[cfg(target_os = "linux")]
        {
            // SAFETY: the call has no conditions.
            let page =
                usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(1 << 16).max(1);
            let end = (from + len).min(self.len());
            let (start, end) =
                (from.next_multiple_of(page), if end == self.len() { end } else { end / page * page });
            if start >= end {
                return 0;
            }
            // SAFETY: the caller promises that nobody refers to the range, and whole pages of it are taken only.
            let done = unsafe {
                self.raw.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
            };
            if done.is_ok() { end - start } else { 0 }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (from, len);
            0
        }
    }

    /// Keeps the whole mapping out of core dumps. A part of it would not do: each border between what is dumped and what
    /// is not takes one of the few mappings that a process may have (`vm.max_map_count`), and splits huge pages.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the system will not.
    pub(crate) fn keep_out_of_dumps(&self, what: &str) -> Result<()> {
        #[cfg(target_os = "linux")]
        {
            self.raw.advise(memmap2::Advice::DontDump).map_err(|source| {
                Error::io(
                    format!(
                        "the system would not keep the {what} region out of core dumps, as classes that are sensitive need \
                         it; forbid core dumps (ulimit -c 0) and do without `sensitive`"
                    ),
                    source,
                )
            })
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = what;
            Ok(())
        }
    }

    /// Touches a range so that later writes meet no page fault.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the system has no memory for it: better now than at some append.
    pub(crate) fn populate(&self, from: usize, len: usize) -> Result<()> {
        #[cfg(target_os = "linux")]
        {
            match self.raw.advise_range(memmap2::Advice::PopulateWrite, from, len) {
                Ok(()) => Ok(()),
                // Kernels before 5.14 do not know the advice: the memory then comes at its first use.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
                Err(error) => Err(Error::io(
                    format!(
                        "the system has no memory for {} that were to be pre-faulted",
                        ByteSize::new(len as u64)
                    ),
                    error,
                )),
            }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (from, len);
            Ok(())
        }
    }
}

/// Types for which all bits zero is a value, and which are changed through shared references only.
///
/// # Safety
/// The implementor must be valid when all its bytes are zero, and must not need dropping.
pub(crate) unsafe trait ZeroInit: Sync {}

// SAFETY: an atomic integer of zero bytes is the atomic zero.
unsafe impl ZeroInit for AtomicU64 {}
// SAFETY: as above.
unsafe impl ZeroInit for AtomicU32 {}
// SAFETY: as above.
unsafe impl ZeroInit for AtomicI64 {}

/// A slice of zero-initialised values in a mapping, which it keeps alive.
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

impl<T: ZeroInit> Slab<T> {
    /// `len` values at byte `from` of the mapping.
    ///
    /// # Safety
    /// The range must be zero, used by nothing else for as long as the mapping lives, and never released.
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
        // SAFETY: `new` was promised that the range is zero (a valid `T`), ours alone, and mapped for as long as
        // the mapping lives, which we hold.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T> std::fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slab({})", self.len)
    }
}

/// Asks the processor to fetch the line of a value that is about to be changed, away from other processors. Harmless
/// whatever the address is.
#[inline]
pub(crate) fn prefetch_write<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is part of x86-64 (where a processor does not know it, it does nothing), and changes
    // nothing that the program can see, whatever the address. The intrinsic makes another one of it where the compiler
    // was not told that the processor knows it, one that fetches the line to read it.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks the processor to fetch the line of a value, to read it. Harmless whatever the address is.
#[inline]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch changes nothing that the program can see, and raises no fault, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch(at.cast::<i8>(), _MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The same for all lines of some bytes.
#[inline]
pub(crate) fn prefetch_bytes(bytes: &[u8]) {
    let std::ops::Range { start: mut from, end } = bytes.as_ptr_range();
    while from < end {
        prefetch(from);
        from = from.wrapping_add(64);
    }
}

/// Overwrites bytes with zeros that are about to be freed or forgotten.
pub(crate) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // So that the compiler cannot take it that nobody will see the zeros, and leave them out.
    std::hint::black_box(bytes);
}

/// The same for everything that a buffer has allocated.
pub(crate) fn wipe_all(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(buffer.capacity(), 0);
    std::hint::black_box(buffer.as_slice());
    buffer.clear();
}

/// The error of a region that must exist but cannot.
pub(crate) fn out_of_system_memory(what: &str) -> Error {
    Error::new(
        ErrorKind::Io,
        format!("the system region has no room for {what}; this is a bug, please report it"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_slab_is_zero_and_shared() {
        let map = Arc::new(Mapping::anonymous(1 << 20, "test").unwrap());
        // SAFETY: the mapping is fresh and has no other user.
        let slab: Slab<AtomicU64> = unsafe { Slab::new(map.clone(), 4096, 16) };
        assert!(slab.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        slab[3].store(7, Ordering::Relaxed);
        drop(map);
        assert_eq!(slab[3].load(Ordering::Relaxed), 7);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_given_back_reads_as_zeros_and_nothing_beside_it() {
        let map = Mapping::anonymous(1 << 20, "test").unwrap();
        // SAFETY: the mapping is fresh and has no other user, here as below.
        unsafe { std::slice::from_raw_parts_mut(map.base().as_ptr(), 1 << 20) }.fill(7);
        let (from, len) = (100_000, 500_000);
        // SAFETY: the slice above is gone.
        let gone = unsafe { map.give_back(from, len) };
        assert!(gone > 0 && gone <= len, "{gone}");
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts(map.base().as_ptr(), 1 << 20) };
        assert!(bytes[..from].iter().chain(&bytes[from + len..]).all(|byte| *byte == 7));
        assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), gone);
    }

    #[test]
    fn wiping_reaches_what_was_truncated() {
        let mut buffer = vec![7u8; 1000];
        buffer.truncate(10);
        wipe_all(&mut buffer);
        assert!(buffer.is_empty() && buffer.capacity() >= 1000);
        // SAFETY: the bytes within the capacity were written by the lines above.
        unsafe { buffer.set_len(1000) };
        assert!(buffer.iter().all(|byte| *byte == 0));
        let mut part = [7u8; 9];
        wipe(&mut part[..8]);
        assert_eq!(part, [0, 0, 0, 0, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn an_impossible_reservation_is_an_error() {
        let error = Mapping::anonymous(1 << 62, "hot").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("hot"), "{error}");
    }
}
