//! Atomics that are slow now and then (`--cfg esker_jitter`, see `scripts/jitter`): before an operation, a thread may pause, give its
//! time slice away or sleep, so that others get between two steps of it that otherwise follow each other at once.
//!
//! Where is drawn at random from `ESKER_JITTER` (a number) and the order in which threads begin. The system schedules, too, so
//! a seed does not give the same run twice; another seed gives other ones.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{self, Ordering};
use std::time::Duration;

/// One operation in so many pauses for a moment, gives the time slice away, or sleeps.
const PAUSES: u64 = 32;
const YIELDS: u64 = 1024;
const SLEEPS: u64 = 32768;
/// The longest sleep, in microseconds.
const SLEEP_MAX: u64 = 300;

static SEED: OnceLock<u64> = OnceLock::new();
static THREADS: atomic::AtomicU64 = atomic::AtomicU64::new(0);

thread_local! {
    static RANDOM: Cell<u64> = Cell::new({
        let seed = *SEED.get_or_init(|| std::env::var("ESKER_JITTER").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0));
        let thread = THREADS.fetch_add(1, Ordering::Relaxed);
        crate::ids::mix(thread, seed) | 1
    });
}

fn point() {
    // A thread that ends has none any more.
    let Ok(random) = RANDOM.try_with(|random| {
        // Xorshift (Marsaglia, 2003).
        let mut value = random.get();
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        random.set(value);
        value >> 16
    }) else {
        return;
    };
    if random.is_multiple_of(SLEEPS) {
        std::thread::sleep(Duration::from_micros(random / SLEEPS % SLEEP_MAX));
    } else if random.is_multiple_of(YIELDS) {
        std::thread::yield_now();
    } else if random.is_multiple_of(PAUSES) {
        (0..random / PAUSES % 64).for_each(|_| std::hint::spin_loop());
    }
}

macro_rules! jittered {
    ($name:ident, $int:ty) => {
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub(crate) struct $name(atomic::$name);

        #[allow(dead_code, reason = "not every operation is used of every type")]
        impl $name {
            pub(crate) const fn new(value: $int) -> Self {
                Self(atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $int {
                point();
                self.0.load(order)
            }

            pub(crate) fn store(&self, value: $int, order: Ordering) {
                point();
                self.0.store(value, order);
            }

            pub(crate) fn swap(&self, value: $int, order: Ordering) -> $int {
                point();
                self.0.swap(value, order)
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                point();
                self.0.compare_exchange(current, new, success, failure)
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                point();
                self.0.compare_exchange_weak(current, new, success, failure)
            }

            pub(crate) fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                update: impl FnMut($int) -> Option<$int>,
            ) -> Result<$int, $int> {
                point();
                self.0.fetch_update(set, fetch, update)
            }

            jittered!(@fetch $int: fetch_add fetch_sub fetch_and fetch_or fetch_max fetch_min);

            pub(crate) fn get_mut(&mut self) -> &mut $int {
                self.0.get_mut()
            }

            pub(crate) fn into_inner(self) -> $int {
                self.0.into_inner()
            }
        }
    };
    (@fetch $int:ty: $($method:ident)*) => {
        $(pub(crate) fn $method(&self, value: $int, order: Ordering) -> $int {
            point();
            self.0.$method(value, order)
        })*
    };
}

jittered!(AtomicI64, i64);
jittered!(AtomicU16, u16);
jittered!(AtomicU32, u32);
jittered!(AtomicU64, u64);
