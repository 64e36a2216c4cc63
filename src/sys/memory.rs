//! Memory from the system, anonymous or of a file, and typed slices of it.
//!
//! A [`Mapping`] reserves its whole address range at once and costs physical memory only where it is touched,
//! so a region can reserve its maximum, grow without moving, and give memory back.

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use crate::config::{ByteSize, NumaPolicy};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::smaps::Given;

mod slab;
pub(crate) use slab::{Slab, ZeroInit, private_word};

/// Where mappings begin and stripes of them end, so that transparent huge pages fit in.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// One mapping: anonymous, private and zero-filled, or of a file and shared with it.
pub(crate) struct Mapping {
    raw: MmapRaw,
    /// Bytes before the first that is used.
    skip: usize,
    len: usize,
    /// Bytes of a page of the system behind it.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux is told about pages"))]
    page: usize,
    /// The file behind it. What is not allocated there must not be touched.
    file: Option<File>,
}

/// Where mappings begin at least: what shares a mark of [`crate::pages::held`] must not depend on where the system puts them.
const ALIGN: usize = 64 << 10;

/// Maps a file at an aligned address. Gives the mapping and where in it the file begins.
fn map_aligned(file: &File, len: usize) -> std::io::Result<(MmapRaw, usize)> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // Or a file system that gives huge pages could not map any.
        let align = if len >= HUGE_PAGE { HUGE_PAGE } else { ALIGN }.max(page_size());
        let raw =
            MmapRaw::from(MmapOptions::new().len(len.saturating_add(align)).no_reserve_swap().map_anon()?);
        let skip = raw.as_ptr().addr().wrapping_neg() % align;
        let (access, how) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
        // SAFETY: what is mapped over is a part of `raw`, which nobody refers to yet and which ends with it.
        let at =
            unsafe { libc::mmap(raw.as_mut_ptr().add(skip).cast(), len, access, how, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok((raw, skip)) }
    }
    #[cfg(not(target_os = "linux"))]
    {
        MmapOptions::new().len(len).map_raw(file).map(|raw| (raw, 0))
    }
}

impl Mapping {
    /// Reserves `len` bytes without taking physical memory or swap for them.
    pub(crate) fn anonymous(len: usize, what: &str) -> Result<Self> {
        let page = page_size();
        let align = if len >= HUGE_PAGE { HUGE_PAGE } else { ALIGN }.max(page);
        // Room to align it, and a page on either side that nobody may touch: the system would otherwise take it and a
        // neighbour for one, and tell of both together.
        let spare = align + 2 * page;
        let map = MmapOptions::new().len(len.saturating_add(spare)).no_reserve_swap().map_anon().map_err(|source| {
            let size = ByteSize::new(len as u64);
            Error::io(
                format!(
                    "the system would not reserve {size} of address space for the {what} region; lower its maximum, \
                     or raise the limit (ulimit -v, vm.overcommit_memory)"
                ),
                source,
            )
        })?;
        let raw = MmapRaw::from(map);
        let skip = page + raw.as_ptr().addr().wrapping_add(page).wrapping_neg() % align;
        let mapping = Self { raw, skip, len, page, file: None };
        mapping.guard(0, skip);
        let end = (skip + len).next_multiple_of(page);
        mapping.guard(end, mapping.raw.len() - end);
        Ok(mapping)
    }

    /// Keeps a range beside what is used from being touched.
    fn guard(&self, from: usize, len: usize) {
        #[cfg(unix)]
        // SAFETY: the range is within the mapping, and outside of what [`Self::base`] and [`Self::len`] give out.
        unsafe {
            // Where the system refuses, figures of neighbours run together, and nothing else.
            let _ = libc::mprotect(self.raw.as_mut_ptr().add(from).cast(), len, libc::PROT_NONE);
        }
        #[cfg(not(unix))]
        let _ = (from, len);
    }

    /// Takes all of `len` bytes from the pool of pages of `1 << page_bits` bytes, of which it is a multiple.
    ///
    /// # Errors
    /// The system's: there is no such pool, or too little in it. What is taken cannot run out later.
    pub(crate) fn explicit(len: usize, page_bits: u8) -> std::io::Result<Self> {
        if !cfg!(target_os = "linux") {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        let raw = MmapRaw::from(MmapOptions::new().len(len).huge(Some(page_bits)).map_anon()?);
        Ok(Self { raw, skip: 0, len, page: 1 << page_bits, file: None })
    }

    /// Maps `len` bytes of a file, which may be shorter: see [`Self::allocate`].
    pub(crate) fn shared(file: File, len: usize, what: &str) -> Result<Self> {
        let (raw, skip) = map_aligned(&file, len).map_err(|source| {
            let size = ByteSize::new(len as u64);
            Error::io(format!("the system would not map {size} of the file of the {what} region"), source)
        })?;
        #[cfg(target_os = "linux")]
        // SAFETY: the range is ours. A process that is forked from this one does not get it: it would see pages change
        // that its readers hold, and could change ours.
        unsafe {
            libc::madvise(raw.as_mut_ptr().cast(), raw.len(), libc::MADV_DONTFORK);
        }
        Ok(Self { raw, skip, len, page: page_size(), file: Some(file) })
    }

    /// How long the file is that lies behind the mapping.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn file_len(&self) -> Result<u64> {
        let Some(file) = &self.file else { return Ok(0) };
        let metadata =
            file.metadata().map_err(|source| Error::io("a mapped file cannot be asked", source))?;
        Ok(metadata.len())
    }

    /// Makes sure that there is memory behind a range, so that no access to it can fail. Nothing to do where the mapping
    /// is anonymous. What the range holds already stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file system has no room.
    pub(crate) fn allocate(&self, from: usize, len: usize) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if is_whole(file, (from + len) as u64) {
            return Ok(());
        }
        allocate(file, from as u64, len as u64).map_err(|source| {
            let size = ByteSize::new(len as u64);
            Error::io(format!("the file system has no room for {size} more of shared memory"), source)
        })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        // A mapping is never at address zero, so `dangling` is not reached.
        NonNull::new(self.raw.as_mut_ptr().wrapping_add(self.skip)).unwrap_or(NonNull::dangling())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Asks for transparent huge pages. Refusal costs speed, nothing else.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn advise_huge(&self, from: usize, len: usize) -> std::io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            self.raw.advise_range(memmap2::Advice::HugePage, self.skip + from, len)
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (from, len);
            Err(std::io::ErrorKind::Unsupported.into())
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
            let page = self.page;
            let end = (from + len).min(self.len());
            let (start, end) =
                (from.next_multiple_of(page), if end == self.len() { end } else { end / page * page });
            if start >= end {
                return 0;
            }
            let advice = match self.file {
                Some(_) => memmap2::UncheckedAdvice::Remove,
                None => memmap2::UncheckedAdvice::DontNeed,
            };
            // SAFETY: the caller promises that nobody refers to the range, and whole pages of it are taken only.
            let done = unsafe { self.raw.unchecked_advise_range(advice, self.skip + start, end - start) };
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

    /// Takes back [`Self::lock`], for the whole pages of a range. Whether the system did.
    pub(crate) fn unlock(&self, from: usize, len: usize) -> bool {
        assert!(from + len <= self.len, "a range must lie within its mapping");
        #[cfg(target_os = "linux")]
        {
            let start = from.next_multiple_of(self.page);
            // SAFETY: the range is ours, and unlocking it changes nothing that the program can see.
            let unlock =
                || unsafe { libc::munlock(self.base().as_ptr().add(start).cast(), from + len - start) };
            start < from + len && unlock() == 0
        }
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Ties the memory of a range to nodes: the one, where the policy is not to interleave. It holds for what is touched
    /// from now on.
    ///
    /// # Errors
    /// The system's: it knows no nodes, or may not be asked.
    pub(crate) fn bind(
        &self,
        from: usize,
        len: usize,
        nodes: &[u32],
        policy: NumaPolicy,
    ) -> std::io::Result<()> {
        assert!(from + len <= self.len, "a range must lie within its mapping");
        #[cfg(target_os = "linux")]
        {
            const BITS: usize = libc::c_ulong::BITS as usize;
            let mode = match policy {
                NumaPolicy::Preferred => libc::MPOL_PREFERRED,
                NumaPolicy::Bind => libc::MPOL_BIND,
                NumaPolicy::Interleave => libc::MPOL_INTERLEAVE,
            };
            let top = nodes.iter().max().map_or(0, |node| *node as usize);
            let mut mask: Vec<libc::c_ulong> = vec![0; top / BITS + 1];
            for node in nodes {
                mask[*node as usize / BITS] |= 1 << (*node as usize % BITS);
            }
            // The kernel takes one bit less than it is told.
            let bits = mask.len() * BITS + 1;
            // SAFETY: the range is ours, and its contents do not change by it; the mask has as many bits as are told,
            // less the one that the kernel leaves out.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_mbind,
                    self.base().as_ptr().add(from),
                    len,
                    mode,
                    mask.as_ptr(),
                    bits,
                    0,
                )
            };
            if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (nodes, policy);
            Err(std::io::ErrorKind::Unsupported.into())
        }
    }

    /// Tells for each of the system's pages of a range on which node it is; `None` for one that was never touched.
    ///
    /// # Errors
    /// The system's: it knows no nodes, or may not be asked.
    pub(crate) fn nodes_of(
        &self,
        from: usize,
        len: usize,
        mut tell: impl FnMut(Option<u32>),
    ) -> std::io::Result<()> {
        assert!(from + len <= self.len, "a range must lie within its mapping");
        #[cfg(target_os = "linux")]
        {
            const AT_ONCE: usize = 1024;
            let (page, base) = (page_size(), self.base().as_ptr());
            for start in (from..from + len).step_by(AT_ONCE * page) {
                let pages = (from + len - start).div_ceil(page).min(AT_ONCE);
                let addresses: Vec<*const u8> =
                    (0..pages).map(|at| base.wrapping_add(start + at * page).cast_const()).collect();
                let mut nodes: Vec<libc::c_int> = vec![-1; pages];
                let none = std::ptr::null::<libc::c_int>();
                // SAFETY: without target nodes the call moves nothing; both arrays are as long as they are said to be.
                let done = unsafe {
                    libc::syscall(
                        libc::SYS_move_pages,
                        0,
                        pages,
                        addresses.as_ptr(),
                        none,
                        nodes.as_mut_ptr(),
                        0,
                    )
                };
                if done != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                nodes.into_iter().for_each(|node| tell(u32::try_from(node).ok()));
            }
            Ok(())
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = &mut tell;
            Err(std::io::ErrorKind::Unsupported.into())
        }
    }

    /// What the system gave for this mapping; all zero where it does not tell.
    pub(crate) fn given(&self) -> Given {
        let from = self.base().as_ptr().addr() as u64;
        Given::of(std::path::Path::new("/proc/self/smaps"), from..from + self.len as u64)
    }

    /// Keeps what of a range is touched, now or later, from being written to swap.
    ///
    /// # Errors
    /// The system's: more than the process may lock (ulimit -l), or not to be asked for.
    pub(crate) fn lock(&self, from: usize, len: usize) -> std::io::Result<()> {
        assert!(from + len <= self.len, "a range must lie within its mapping");
        #[cfg(target_os = "linux")]
        {
            // SAFETY: the range is ours, and locking it changes nothing that the program can see.
            let done =
                unsafe { libc::mlock2(self.base().as_ptr().add(from).cast(), len, libc::MLOCK_ONFAULT as _) };
            if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        }
        #[cfg(not(target_os = "linux"))]
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Touches a range so that later writes meet no page fault.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the system has no memory for it: better now than at some append.
    pub(crate) fn populate(&self, from: usize, len: usize) -> Result<()> {
        #[cfg(test)]
        if len == UNTOUCHABLE.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Error::io("no memory to pre-fault", std::io::Error::other("for a test")));
        }
        #[cfg(target_os = "linux")]
        {
            match self.raw.advise_range(memmap2::Advice::PopulateWrite, self.skip + from, len) {
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

/// The length of ranges that cannot be touched, for tests of what happens then.
#[cfg(test)]
pub(crate) static UNTOUCHABLE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Bytes of the system's pages.
pub(crate) fn page_size() -> usize {
    #[cfg(unix)]
    {
        // SAFETY: the call has no conditions.
        usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) })
            .ok()
            .filter(|bytes| *bytes > 0)
            .unwrap_or(4096)
    }
    #[cfg(not(unix))]
    4096
}

/// The processor that the calling thread runs on just now. A few nanoseconds: no system call is made.
#[inline]
pub(crate) fn current_cpu() -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the call has no conditions.
        usize::try_from(unsafe { libc::sched_getcpu() }).ok()
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Whether [`fence_all_threads`] works here. The first call tells the system that this process will use it.
pub(crate) fn can_fence_all_threads() -> bool {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        static CAN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        let register = libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
        // SAFETY: the call has no conditions.
        *CAN.get_or_init(|| unsafe { libc::syscall(libc::SYS_membarrier, register, 0, 0) } == 0)
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    false
}

/// Has every thread of the process pass a full fence before it returns. `false`: the system does not do that.
pub(crate) fn fence_all_threads() -> bool {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        // SAFETY: the call has no conditions.
        unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0 }
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    false
}

impl Mapping {
    /// All of a mapping as `len` values.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file system has no room for them.
    pub(crate) fn whole<T: ZeroInit>(self, len: usize) -> Result<Slab<T>> {
        self.allocate(0, len * size_of::<T>())?;
        // SAFETY: the mapping is used for nothing else, now or later, since it is consumed here; it is allocated, and
        // begins at a page of the system, so it is aligned.
        Ok(unsafe { Slab::new(Arc::new(self), 0, len) })
    }
}

/// Whether a file is one of memory: it ends with the machine, and what is read of it is what was written.
pub(crate) fn lies_in_memory(file: &File) -> bool {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let mut found = std::mem::MaybeUninit::<libc::statfs>::zeroed();
        // SAFETY: the descriptor is that of an open file, and the structure is ours, for the call to fill; zero is a value
        // of each of its fields.
        let found = unsafe {
            let done = libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) == 0;
            done.then(|| found.assume_init())
        };
        found.is_some_and(|found| found.f_type == libc::TMPFS_MAGIC)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        false
    }
}

/// Whether a file is so long and has no holes, where that can be told without looking at all of it.
fn is_whole(file: &File, len: u64) -> bool {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt;
        // Elsewhere blocks can be of other things than the file's bytes.
        let whole = |found: std::fs::Metadata| found.len() >= len && found.blocks() * 512 >= found.len();
        lies_in_memory(file) && file.metadata().is_ok_and(whole)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, len);
        false
    }
}

/// The least that is asked for in one call when longer ones are interrupted.
#[cfg(target_os = "linux")]
const ALLOCATE_MIN: u64 = 64 << 10;

/// Has the file system set room aside.
pub(crate) fn allocate(file: &File, from: u64, len: u64) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let (mut at, end, mut step) = (from, from + len, len);
        while at < end {
            let part = step.min(end - at);
            // SAFETY: the descriptor is that of an open file; the call changes no memory.
            match unsafe { libc::posix_fallocate(file.as_raw_fd(), at as libc::off_t, part as libc::off_t) } {
                0 => at += part,
                // A tmpfs takes back what it has done then: with a signal every millisecond, as profilers send, a long range
                // might never be done.
                libc::EINTR => step = (part / 2).max(ALLOCATE_MIN),
                error => return Err(std::io::Error::from_raw_os_error(error)),
            }
        }
        Ok(())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let end = from + len;
        if file.metadata()?.len() < end { file.set_len(end) } else { Ok(()) }
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
    use std::sync::atomic::AtomicU64;
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
