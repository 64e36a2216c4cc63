//! The arenas of a region: which node each part of it is on, and from which of them whoever asks is served.
//!
//! A region is cut into *stripes*, a power of two of frames, at least a huge page long where there are enough of them. Each
//! belongs to the arena of one node; nodes get as many as their share of memory is, spread over the region:
//!
//! ```text
//!  stripe   0      1      2      3      4      5        nodes 0 and 1 with 2 GiB and 1 GiB
//!        ┌──────┬──────┬──────┬──────┬──────┬──────┐
//!        │ 0    │ 1    │ 0    │ 0    │ 1    │ 0    │ …
//!        └──────┴──────┴──────┴──────┴──────┴──────┘
//! ```
//!
//! So whatever part of the region is in use has a part of each arena, and a region that grows or shrinks at its end does
//! so on all nodes.

use std::sync::Arc;

use crate::config::RegionConfig;
use crate::regions::free_list::FreeList;
use crate::sync::{AtomicU32, AtomicU64, CachePadded, Ordering};
use crate::sys::machine::{Machine, Spot};
use crate::sys::memory::HUGE_PAGE;

/// The most stripes of a region: each may be an entry of the system's list of mappings, which is limited.
const STRIPES_MAX: u64 = 1024;
/// How many stripes each arena should have, even if they are then smaller than a huge page.
const STRIPES_EACH: u64 = 4;
/// Stripes are tied to nodes, so they are whole pages of the system, 64 KiB at most.
const STRIPE_MIN: u64 = 64 << 10;

pub(crate) struct Arenas {
    machine: Arc<Machine>,
    /// A stripe has `1 << shift` frames.
    shift: u32,
    /// The arena of each stripe.
    of_stripe: Box<[u16]>,
    each: Box<[CachePadded<Arena>]>,
    claims: NearAndFar,
    /// Pages that were begun by who writes them.
    writes: NearAndFar,
    reads: NearAndFar,
}

/// How often something was done from a frame's own node, and from another.
#[derive(Default)]
struct NearAndFar([CachePadded<AtomicU64>; 2]);

impl NearAndFar {
    fn add(&self, is_near: bool, count: u64) {
        self.0[usize::from(!is_near)].fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> [u64; 2] {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// What a thread does with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Write,
    Read,
}

struct Arena {
    stripes: Box<[u32]>,
    /// Where in `stripes` the next search begins.
    hint: AtomicU32,
    /// What [`Arenas::state`] was when nothing was free here.
    full_at: AtomicU64,
}

impl Arenas {
    /// Divides a region, with processor pages of `page` bytes behind it.
    pub(crate) fn new(machine: Arc<Machine>, config: &RegionConfig, page: u64) -> Self {
        let weights = machine.weights();
        let enough = (config.max / (STRIPES_EACH * weights.len() as u64)).max(1);
        let wanted = (HUGE_PAGE as u64).min(1 << enough.ilog2()).max(STRIPE_MIN);
        let least = config.ceiling.div_ceil(STRIPES_MAX).next_power_of_two();
        let stripe = wanted.max(least).max(config.page_size).max(page);
        let shift = (stripe / config.page_size).ilog2();
        let frames = (config.ceiling / config.page_size) as u32;
        let of_stripe = deal(weights, frames.div_ceil(1 << shift));
        let arena = |number: usize| {
            let stripes = of_stripe.iter().zip(0..).filter(|(arena, _)| usize::from(**arena) == number);
            CachePadded::new(Arena {
                stripes: stripes.map(|(_, stripe)| stripe).collect(),
                hint: AtomicU32::new(0),
                full_at: AtomicU64::new(u64::MAX),
            })
        };
        Self {
            shift,
            each: (0..weights.len()).map(arena).collect(),
            of_stripe,
            machine,
            claims: NearAndFar::default(),
            writes: NearAndFar::default(),
            reads: NearAndFar::default(),
        }
    }

    /// Runs of frames, and the node of each: the first frame, how many, and the node's id.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u32, u32, u32)> {
        let mut from = 0;
        self.of_stripe.chunk_by(|one, other| one == other).map(move |run| {
            let (first, count) = (from << self.shift, (run.len() as u32) << self.shift);
            from += run.len() as u32;
            (first, count, self.machine.arenas()[usize::from(run[0])])
        })
    }

    /// The arena of a frame.
    pub(crate) fn of(&self, frame: u32) -> u16 {
        self.of_stripe.get((frame >> self.shift) as usize).copied().unwrap_or(0)
    }

    /// The first frame after the stripe of that frame.
    pub(crate) fn end_of_stripe(&self, frame: u32) -> u32 {
        ((frame >> self.shift) + 1) << self.shift
    }

    /// Where a frame lies.
    pub(crate) fn spot_of(&self, frame: u32) -> Option<Spot> {
        self.machine.spot_of_arena(self.of(frame))
    }

    /// Where the caller is.
    pub(crate) fn here(&self) -> Spot {
        self.machine.here()
    }

    /// Takes a run of frames from the arena that is nearest to that spot.
    pub(crate) fn claim_near(&self, frames: &FreeList, releases: u64, spot: Spot, count: u32) -> Option<u32> {
        let nearest = *self.machine.nearest(spot).first()?;
        self.claim_in(nearest, frames, releases, spot, count)
    }

    /// Takes a run of frames from the nearest arena that has one, or from wherever there is one.
    pub(crate) fn claim_anywhere(
        &self,
        frames: &FreeList,
        releases: u64,
        spot: Spot,
        count: u32,
    ) -> Option<u32> {
        let in_order = self.machine.nearest(spot).iter();
        let found = in_order.copied().find_map(|arena| self.claim_in(arena, frames, releases, spot, count));
        found.or_else(|| {
            // One that goes from stripe to stripe.
            let first = frames.claim_run(count)?;
            self.count(spot, self.of(first));
            Some(first)
        })
    }

    fn claim_in(&self, number: u16, frames: &FreeList, releases: u64, spot: Spot, count: u32) -> Option<u32> {
        let arena = &self.each[usize::from(number)];
        let state = Self::state(frames, releases);
        if arena.full_at.load(Ordering::Relaxed) == state {
            return None;
        }
        let (start, len) = (arena.hint.load(Ordering::Relaxed) as usize, arena.stripes.len());
        for step in 0..len {
            let at = (start + step) % len;
            let from = arena.stripes[at] << self.shift;
            if let Some(first) = frames.claim_run_between(from, from + (1 << self.shift), count) {
                if step > 0 {
                    arena.hint.store(at as u32, Ordering::Relaxed);
                }
                self.count(spot, number);
                return Some(first);
            }
        }
        if count == 1 {
            arena.full_at.store(state, Ordering::Relaxed);
        }
        None
    }

    /// Changes whenever frames may have become free. That it comes round after 2^32 releases costs one search elsewhere.
    fn state(frames: &FreeList, releases: u64) -> u64 {
        releases << 32 | u64::from(frames.limit())
    }

    fn count(&self, spot: Spot, arena: u16) {
        self.claims.add(self.machine.is_local(spot, arena), 1);
    }

    /// Notes what the calling thread does with a frame, so many times.
    pub(crate) fn note(&self, frame: u32, access: Access, times: u64) {
        let is_near = self.machine.is_local(self.here(), self.of(frame));
        if access == Access::Write { &self.writes } else { &self.reads }.add(is_near, times);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.each.len()
    }

    /// Claims, writes and reads: those from the frames' own nodes, and those from others.
    pub(crate) fn counts(&self) -> [[u64; 2]; 3] {
        [&self.claims, &self.writes, &self.reads].map(NearAndFar::get)
    }
}

/// Deals stripes to arenas by weight, each arena's spread as evenly as can be.
fn deal(weights: &[u64], stripes: u32) -> Box<[u16]> {
    let total: i128 = weights.iter().map(|weight| i128::from(*weight)).sum();
    let mut credit = vec![0i128; weights.len()];
    (0..stripes)
        .map(|_| {
            credit.iter_mut().zip(weights).for_each(|(credit, weight)| *credit += i128::from(*weight));
            // Of those with the same credit the first.
            let next = (0..credit.len()).rev().max_by_key(|at| credit[*at]).unwrap_or(0);
            if let Some(credit) = credit.get_mut(next) {
                *credit -= total;
            }
            next as u16
        })
        .collect()
}
