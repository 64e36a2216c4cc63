//! What safe Rust has no word for: prefetching a line, reading the processor's time stamp, and asking how long this
//! thread has had a processor.

use std::time::Duration;

/// Asks the processor to fetch the cache line at `at`, if it is within `bytes`.
#[inline]
pub(crate) fn prefetch(bytes: &[u8], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(byte) = bytes.get(at) {
        #[expect(unsafe_code, reason = "there is no safe prefetch on stable Rust")]
        // SAFETY: the address is that of a byte of a live slice, and a prefetch changes nothing that the program
        // can see.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch(std::ptr::from_ref(byte).cast::<i8>(), _MM_HINT_T0);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, at);
}

/// The processor's time stamp, taken after everything before it is done and before anything after it begins:
/// without the fences, the processor reads it whenever it likes.
#[inline]
#[cfg(target_arch = "x86_64")]
pub(crate) fn ticks() -> u64 {
    #[expect(unsafe_code, reason = "the time stamp is read by an intrinsic")]
    // SAFETY: both instructions are part of every x86-64 processor and touch no memory.
    unsafe {
        use std::arch::x86_64::{_mm_lfence, _rdtsc};
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

/// Nanoseconds of the monotonic clock, where there is no time stamp that we know how to read.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn ticks() -> u64 {
    use std::sync::OnceLock;
    static BEGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let begin = BEGIN.get_or_init(super::now);
    super::now().duration_since(*begin).as_nanos() as u64
}

/// How long this thread has run. On a machine that has other things to do, this tells what work costs, where the
/// wall clock would tell how long it waited.
#[cfg(unix)]
pub(crate) fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "the standard library does not know a thread's processor time")]
    // SAFETY: the pointer is to a `timespec` that lives on this stack for the time of the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "every system that has this clock lets a thread read its own");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The wall clock, where a thread's own time is not known.
#[cfg(not(unix))]
pub(crate) fn thread_time() -> Duration {
    use std::sync::OnceLock;
    static BEGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let begin = BEGIN.get_or_init(super::now);
    super::now().duration_since(*begin)
}
