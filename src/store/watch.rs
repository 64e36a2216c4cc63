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
    /// Of events, and of the index.
    tracks: [Track; 2],
    sampled: Instant,
}

/// The frees of some regions.
#[derive(Clone, Copy)]
struct Track {
    /// Frees that were counted at the last look, and at the last sample of the rate.
    freed: u64,
    sampled_freed: u64,
    /// When something was freed last, or nothing was short last.
    progress: Instant,
    /// Frees a second.
    rate: f64,
}

/// What pages are wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum For {
    Events,
    Index,
}

impl Watch {
    pub(crate) fn new(now: Instant) -> Self {
        let track = Track { freed: 0, sampled_freed: 0, progress: now, rate: 0.0 };
        Self(Mutex::new(Seen { tracks: [track; 2], sampled: now }))
    }

    /// Takes note of how often pages were freed so far, and whether they are short: those of events, those of the index. Whether
    /// any were freed since, and whether the last sample of the rates was so long ago that another was taken.
    fn sample(&self, freed: [u64; 2], short: [bool; 2], now: Instant) -> (bool, bool) {
        let mut seen = self.0.lock();
        let elapsed = now.saturating_duration_since(seen.sampled);
        let due = elapsed >= SAMPLE;
        let share = 1.0 - (-elapsed.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        let mut any = false;
        for (track, (freed, short)) in seen.tracks.iter_mut().zip(freed.into_iter().zip(short)) {
            let more = freed > track.freed;
            if more || !short {
                track.progress = now;
            }
            track.freed = freed;
            if due {
                let rate = freed.saturating_sub(track.sampled_freed) as f64 / elapsed.as_secs_f64();
                track.rate += share * (rate - track.rate);
                track.sampled_freed = freed;
            }
            any |= more;
        }
        if due {
            seen.sampled = now;
        }
        (any, due)
    }

    /// For how long nothing was freed although it was short, and frees a second before that.
    fn silence(&self, of: For, now: Instant) -> (Duration, f64) {
        let track = self.0.lock().tracks[of as usize];
        (now.saturating_duration_since(track.progress), track.rate)
    }
}

impl Core {
    /// Brings the level of pressure up to date, notes what was freed, and tells listeners. Whether anything was freed.
    pub(crate) fn look_round(&self) -> bool {
        self.lanes.note_pressure();
        let (pages, index) = (&self.lanes.pages, &self.lanes.index_region);
        let freed = [pages.hot.releases() + pages.warm.releases(), index.releases()];
        let short = [self.is_full_of_events(), self.lanes.index_is_wanted()];
        self.listeners.ring_if_changed(&self.lanes.gauge);
        let (more, due) = self.watch.sample(freed, short, self.lanes.clock.instant());
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
        let of = if reason == PressureReason::IndexFull { For::Index } else { For::Events };
        let (silence, rate) = self.watch.silence(of, self.lanes.clock.instant());
        let wanted = match of {
            For::Events => {
                (self.lanes.pages.hot.used_pages() + 1).saturating_sub(self.sizes.reject_pages()).max(1)
            }
            For::Index => 1,
        };
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
            stall: log.map(|(_, stall)| stall).or_else(|| self.stall_after(of, silence)),
        }
    }

    /// Why no room is made although the store is full, if none is; or which guard alone keeps the level up.
    pub(crate) fn stall(&self) -> Option<Stall> {
        self.look_round();
        match self.pressure() {
            Pressure::Normal => None,
            Pressure::Warning | Pressure::Critical => {
                // A source that has paused waits for a lower level, and does not append: nobody else would say why it waits.
                let readers = &self.lanes.readers;
                let is_low = self.is_held_up(|fill| !self.lanes.gauge.warns(fill));
                // What guards were given is gone round; in the middle of a walk they hold all that leaves.
                let guard = readers.oldest_on_its_way(self.lanes.clock.instant()).filter(|_| is_low);
                guard.filter(|guard| guard.held_for >= self.config.stall_after).map(Stall::Guard)
            }
            Pressure::Full => {
                let of = if self.is_full_of_events() { For::Events } else { For::Index };
                self.stall_after(of, self.watch.silence(of, self.lanes.clock.instant()).0)
            }
        }
    }

    /// Whether it is more than the index that is full.
    fn is_full_of_events(&self) -> bool {
        let is_full = self.pressure() == Pressure::Full;
        is_full && (self.rejecting().is_some() || !self.lanes.index_is_wanted())
    }

    /// The same for a store that is full of something, of which nothing was freed for so long.
    fn stall_after(&self, of: For, silence: Duration) -> Option<Stall> {
        let limit = self.config.stall_after;
        let guard = match of {
            For::Events => self.blocking_guard(),
            For::Index => self.guard_on_index(),
        };
        // A walk is as old as its guard at most.
        let is_long = |guard: &HeldGuard| guard.held_for >= limit && (of == For::Events || silence >= limit);
        if let Some(guard) = guard.filter(is_long) {
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
        if of == For::Events && open_pages * 2 > pages {
            return Some(Stall::TooSmall { open_pages, pages });
        }
        if self.cold.is_none() && self.config.classes.iter().any(|class| class.on_leave == OnLeave::Spill) {
            return Some(Stall::NoColdTier);
        }
        if of == For::Index {
            let (events, bytes) = (self.lanes.in_memory(), self.lanes.index_region.stats(0).max_bytes);
            return Some(Stall::IndexTooSmall { events, bytes, since: silence });
        }
        Some(Stall::Unknown { since: silence })
    }

    /// The oldest guard, if there would be room without what guards hold back.
    fn blocking_guard(&self) -> Option<HeldGuard> {
        let held = self.is_held_up(|fill| fill < self.config.thresholds.reject);
        self.lanes.readers.oldest(self.lanes.clock.instant()).filter(|_| held)
    }

    /// Whether without what guards hold back everything would be filled so little that it `is_low`.
    fn is_held_up(&self, is_low: impl Fn(f64) -> bool) -> bool {
        let pages = &self.lanes.pages;
        let [hot, _, numbers] = pages.used_without_guards();
        let has_room = |(used, max): (u32, u32)| is_low(f64::from(used) / f64::from(max.max(1)));
        let index_has_room =
            is_low(self.lanes.index_shortage()) || self.lanes.index_waits_for_readers().is_some();
        pages.is_leaving() && has_room(hot) && has_room(numbers) && index_has_room
    }

    /// The oldest guard that holds pages of the index, if there would be enough of them without.
    fn guard_on_index(&self) -> Option<HeldGuard> {
        let index_pages = self.lanes.index_waits_for_readers()?;
        let guard = self.lanes.readers.oldest_on_its_way(self.lanes.clock.instant())?;
        Some(HeldGuard { index_pages, ..guard })
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
        let sample = |events, short, ms| watch.sample([events, 3], [short, true], at(ms)).0;
        let silence = |ms| watch.silence(For::Events, at(ms));
        assert!(sample(0, false, 0), "three of the index");
        assert!(!sample(0, true, 30));
        assert_eq!(silence(30).0, Duration::from_millis(30));
        assert!(sample(7, true, 30), "seven were freed");
        assert!(sample(9, true, 60));
        let (since, rate) = silence(61);
        assert!(since == Duration::from_millis(1) && rate > 0.0, "{since:?} {rate}");
        assert!(!sample(9, true, 90), "none was freed since");
        assert!(silence(90).1 < rate, "a rate falls when nothing comes");
        assert_eq!(watch.silence(For::Index, at(90)).0, Duration::from_millis(90), "whatever else is freed");
    }
}
