//! Watching whether room is made: how fast, and what keeps it from being made.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::OnLeave;
use crate::ids::Class;
use crate::pressure::{BackPressure, HeldGuard, Pressure, PressureReason, RegionKind, Stall};
use crate::store::core::Core;

/// Samples are at least so far apart.
const SAMPLE: Duration = Duration::from_millis(20);
/// The rate follows what is observed within about this time.
const MEMORY: Duration = Duration::from_secs(1);
/// The bounds of [`BackPressure::retry_after`].
const RETRY: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(1)];

/// Observes how fast pages are freed.
pub(crate) struct Watch(Mutex<Seen>);

struct Seen {
    /// Frees that were counted at the last look, and at the last sample of the rate.
    freed: u64,
    sampled_freed: u64,
    sampled: Instant,
    /// When something was freed last, or the store was last not full.
    progress: Instant,
    /// Frees a second.
    rate: f64,
}

impl Watch {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Seen { freed: 0, sampled_freed: 0, sampled: now, progress: now, rate: 0.0 }))
    }

    /// Takes note of how often pages were freed so far. Whether that is more than before, and whether the last sample of
    /// the rate was so long ago that another was taken.
    fn sample(&self, freed: u64, level: Pressure, now: Instant) -> (bool, bool) {
        let mut seen = self.0.lock();
        let (more, elapsed) = (freed > seen.freed, now.saturating_duration_since(seen.sampled));
        if more || level < Pressure::Full {
            seen.progress = now;
        }
        seen.freed = freed;
        let due = elapsed >= SAMPLE;
        if due {
            let share = 1.0 - (-elapsed.as_secs_f64() / MEMORY.as_secs_f64()).exp();
            let rate = freed.saturating_sub(seen.sampled_freed) as f64 / elapsed.as_secs_f64();
            seen.rate += share * (rate - seen.rate);
            (seen.sampled_freed, seen.sampled) = (freed, now);
        }
        (more, due)
    }

    /// For how long nothing was freed although the store was full, and frees a second before that.
    fn silence(&self, now: Instant) -> (Duration, f64) {
        let seen = self.0.lock();
        (now.saturating_duration_since(seen.progress), seen.rate)
    }
}

impl Core {
    /// Brings the level of pressure up to date, notes what was freed, and tells listeners. Whether anything was freed.
    pub(crate) fn look_round(&self) -> bool {
        self.lanes.note_pressure();
        let (pages, index) = (&self.lanes.pages, &self.lanes.index_region);
        let freed = pages.hot.releases() + pages.warm.releases() + index.releases();
        self.listeners.ring_if_changed(&self.lanes.gauge);
        let (more, due) = self.watch.sample(freed, self.pressure(), self.lanes.clock.instant());
        if due {
            // The age of a guard counts from when it is first seen.
            self.lanes.readers.oldest(self.lanes.clock.instant());
        }
        more
    }

    /// Rings whoever waits for room.
    pub(crate) fn ring_room(&self) {
        self.room.ring();
        #[cfg(feature = "async")]
        self.room_async.notify_waiters();
    }

    /// What an append of that class is told that had no room. Has the mover look up.
    #[cold]
    pub(crate) fn back_pressure(&self, reason: PressureReason, class: Option<Class>) -> BackPressure {
        self.lanes.hot_run_wanted.store(0, Ordering::Relaxed);
        self.mover_bell.ring();
        self.look_round();
        let stats = self.region(reason.region().unwrap_or(RegionKind::System)).stats(0);
        let quota =
            class.filter(|_| reason == PressureReason::ClassQuota).map(|class| self.lanes.quota_of(class));
        let [used_bytes, limit_bytes] = quota.unwrap_or([stats.used_bytes, stats.max_bytes]);
        let (silence, rate) = self.watch.silence(self.lanes.clock.instant());
        let wanted = (self.lanes.pages.hot.used_pages() + 1).saturating_sub(self.sizes.reject_pages()).max(1);
        // Frees may come in one by one, or none for long: the longer none came, the longer the next one is away.
        let by_rate = if rate > 0.0 { f64::from(wanted) / rate } else { 0.0 };
        let wait = by_rate.max(silence.as_secs_f64() / 2.0).min(RETRY[1].as_secs_f64());
        let log = self.log_pressure().filter(|_| reason == PressureReason::LogBehind);
        let (used_bytes, limit_bytes) =
            log.as_ref().map_or((used_bytes, limit_bytes), |(bytes, _)| (*bytes, *bytes));
        BackPressure {
            reason,
            region: reason.region(),
            class,
            level: self.pressure(),
            used_bytes,
            limit_bytes,
            retry_after: Duration::from_secs_f64(wait).max(RETRY[0]),
            stall: log.map(|(_, stall)| stall).or_else(|| self.stall_after(silence)),
        }
    }

    /// Why no room is made although the store is full, if none is.
    pub(crate) fn stall(&self) -> Option<Stall> {
        self.look_round();
        if self.pressure() < Pressure::Full {
            None
        } else {
            self.stall_after(self.watch.silence(self.lanes.clock.instant()).0)
        }
    }

    /// The same for a full store in which nothing was freed for so long.
    fn stall_after(&self, silence: Duration) -> Option<Stall> {
        let limit = self.config.stall_after;
        if let Some(guard) = self.blocking_guard().filter(|guard| guard.held_for >= limit) {
            return Some(Stall::Guard(guard));
        }
        if let Some((since, last_error)) =
            self.cold.as_ref().and_then(|_| self.spiller.trouble(self.lanes.clock.instant(), limit))
        {
            return Some(Stall::ColdTier { since, last_error });
        }
        let spills = |class: &crate::config::ClassConfig| {
            class.on_leave == OnLeave::Spill && class.retention.is_none()
        };
        if self.cold.is_none() && self.config.classes.iter().all(spills) {
            return Some(Stall::NoColdTier);
        }
        if silence < limit {
            return None;
        }
        let (open_pages, pages) = (self.open_pages(), self.lanes.pages.hot.pages_max());
        if open_pages * 2 > pages {
            return Some(Stall::TooSmall { open_pages, pages });
        }
        if self.cold.is_none() && self.config.classes.iter().any(|class| class.on_leave == OnLeave::Spill) {
            return Some(Stall::NoColdTier);
        }
        Some(Stall::Unknown { since: silence })
    }

    /// The oldest guard, if there would be room without what guards hold back.
    fn blocking_guard(&self) -> Option<HeldGuard> {
        let pages = &self.lanes.pages;
        let reject = self.config.thresholds.reject;
        let [hot, _, numbers] = pages.used_without_guards();
        let has_room = |(used, max): (u32, u32)| f64::from(used) < f64::from(max) * reject;
        let held =
            pages.is_leaving() && has_room(hot) && has_room(numbers) && self.lanes.index_fill() < reject;
        self.lanes.readers.oldest(self.lanes.clock.instant()).filter(|_| held)
    }

    /// Pages that lanes are writing.
    fn open_pages(&self) -> u32 {
        let open = |partition: &crate::lanes::partition::Partition| {
            let mut writer = partition.lock();
            let is_open = |lane: &&crate::lanes::partition::Lane| writer.open_page(lane.id.class()).is_some();
            partition.lanes().filter(is_open).count() as u32
        };
        self.lanes.partitions.iter().map(open).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_while_the_store_is_full_and_ends_with_the_first_free() {
        let begin = crate::clock::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let watch = Watch::new(begin);
        watch.sample(0, Pressure::Critical, at(0));
        watch.sample(0, Pressure::Full, at(30));
        assert_eq!(watch.silence(at(30)).0, Duration::from_millis(30));
        assert!(watch.sample(7, Pressure::Full, at(30)).0, "seven were freed");
        watch.sample(9, Pressure::Full, at(60));
        let (silence, rate) = watch.silence(at(61));
        assert!(silence == Duration::from_millis(1) && rate > 0.0, "{silence:?} {rate}");
        assert!(!watch.sample(9, Pressure::Full, at(90)).0, "none was freed since");
        assert!(watch.silence(at(90)).1 < rate, "a rate falls when nothing comes");
    }
}
