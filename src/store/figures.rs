//! Gathers the figures of a store.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::observe::stats::{ColdStats, DefragStats, EventStats, EvictionStats, LatencyStats, Stats};
use crate::pages::table::Tier;
use crate::pressure::AdmissionStats;
use crate::store::core::Core;
use crate::tiers::reader::ColdReader;

impl Core {
    /// Sums over a tier's pages: events, raw bytes, stored bytes, live bytes.
    fn tier_sums(&self, tier: Tier) -> [u64; 4] {
        let pin = self.lanes.pin();
        let mut sums = [0; 4];
        for lane in self.lanes.lanes() {
            for (_, meta) in lane
                .pages(&self.lanes.pages, &pin)
                .filter(|(page, _)| self.lanes.pages.place(*page).tier() == tier)
            {
                sums[0] += u64::from(meta.count().saturating_sub(meta.dead()));
                sums[1] += u64::from(meta.committed());
                sums[2] += u64::from(meta.image_len());
                sums[3] += u64::from(meta.live_bytes());
            }
        }
        sums
    }

    pub(crate) fn buffer_bytes(&self) -> u64 {
        let of =
            |cold: &ColdReader| cold.memory() + cold.directory.memory() + cold.tier.memory_bytes() as usize;
        let cold = self.cold.as_ref().map_or(0, of);
        let engine = self.engine.try_lock().map_or(0, |engine| engine.buffer_bytes());
        (self.names.bytes() + cold + engine) as u64 + self.spiller.buffer_bytes()
    }

    pub(crate) fn stats(&self) -> Stats {
        let (hot, warm) = (self.tier_sums(Tier::Hot), self.tier_sums(Tier::Warm));
        let regions = [
            self.system.stats(0).counting(self.sizes.system_bytes()),
            self.lanes.pages.hot.stats(hot[3]),
            self.lanes.pages.warm.stats(warm[2]),
            self.lanes.index_region.stats(self.lanes.index_live_bytes()),
        ];
        let buffer_bytes = self.buffer_bytes();
        let stall = self.stall();
        let admission = self.admission.stats();
        Stats {
            pressure: self.pressure(),
            memory_bytes: regions.iter().map(|region| region.committed_bytes).sum::<u64>() + buffer_bytes,
            buffer_bytes,
            regions,
            sizing: self.sizes.stats(),
            defrag: self.defrag_stats(),
            eviction: self.eviction_stats(),
            events: self.event_stats(hot, warm, &admission),
            admission,
            stall,
            oldest_guard: self.lanes.readers.oldest(self.lanes.clock.instant()),
            pinned_bytes: self.lanes.readers.limbo().pinned_bytes(),
            listener_panics: self.listeners.panics.load(Ordering::Relaxed),
            thread_panics: self.thread_panics.load(Ordering::Relaxed),
            cold: self.cold.as_ref().map_or_else(ColdStats::default, |cold| self.cold_stats(cold)),
            log: self.log_stats(),
            locked_bytes: self.machine.locked.load(Ordering::Relaxed),
            warnings: self.machine.warnings(),
        }
    }

    fn defrag_stats(&self) -> DefragStats {
        let (load, defrag) = (|counter: &AtomicU64| counter.load(Ordering::Relaxed), &self.shared.defrag);
        DefragStats {
            pages: load(&defrag.pages),
            bytes: load(&defrag.bytes),
            closed_early: load(&defrag.closed),
        }
    }

    fn event_stats(&self, hot: [u64; 4], warm: [u64; 4], admission: &[AdmissionStats]) -> EventStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut events = EventStats::default();
        for partition in &self.lanes.partitions {
            events.appended += load(&partition.counters().appended);
            events.appended_bytes += load(&partition.counters().appended_bytes);
            events.duplicates += load(&partition.counters().duplicates);
        }
        let eviction = &self.shared.counters;
        let [ahead, behind] = self.screen.skew_stats();
        EventStats {
            rejected: admission.iter().map(|class| class.rejected.total()).sum(),
            waited: admission.iter().map(|class| class.waited.total()).sum(),
            hot: hot[0],
            warm: warm[0],
            warm_raw_bytes: warm[1],
            warm_packed_bytes: warm[2],
            demoted: load(&eviction.demoted_events),
            promoted: load(&eviction.promoted_events),
            released: load(&eviction.released_events),
            expired: load(&eviction.expired_events),
            dropped: load(&eviction.dropped_events),
            removed: load(&self.removed),
            corrupt_frames: load(&self.lanes.pages.corrupt),
            corrupt_events: load(&self.lanes.pages.corrupt_events),
            names: self.names.len() as u64,
            classed_streams: self.screen.classes.len() as u64,
            resolver_calls: load(&self.screen.classes.asked),
            ahead,
            behind,
            ..events
        }
    }

    fn eviction_stats(&self) -> EvictionStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        EvictionStats {
            plans: load(&counters.plans),
            demoted_pages: load(&counters.demoted_pages),
            promoted_pages: load(&counters.promoted_pages),
            released_pages: load(&counters.released_pages),
            refused: load(&counters.refused),
            last_refusal: *counters.last_refusal.lock(),
            safety_plans: load(&counters.safety_plans),
            policy_panic: counters.panic.lock().clone(),
        }
    }

    fn cold_stats(&self, cold: &ColdReader) -> ColdStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (totals, spill) = (&cold.directory.totals, &self.spiller.counters);
        ColdStats {
            blocks: load(&totals.blocks),
            events: load(&totals.events),
            raw_bytes: load(&totals.raw_bytes),
            stored_bytes: load(&totals.stored_bytes),
            spilled: load(&spill.events),
            spill_failures: load(&spill.failures),
            last_error: spill.last_error.lock().clone(),
            lost_to_damage: load(&spill.lost_to_damage),
            loads: load(&cold.loads),
            cache_hits: load(&cold.hits),
            corrupt_blocks: load(&cold.corrupt),
            expired_blocks: load(&self.expired_blocks),
            spill: LatencyStats::of(&self.spiller.latency.lock()),
            load: LatencyStats::of(&cold.latency.lock()),
            awaits_server: cold.check_known().is_err(),
            tier: cold.tier.figures(),
        }
    }
}
