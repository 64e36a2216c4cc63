//! Memory moves between the regions as the controller asks for it ([`crate::store::sizing`]): what it is told of the load,
//! and how its steps are made without anybody waiting for them.
//!
//! A step takes from one region first, and gives to the other what has become free, so the sum never exceeds the bound.
//! The region that becomes smaller is emptied as under pressure while the store goes on.

use std::time::{Duration, Instant};

use crate::config::{Config, place_of};
use crate::eviction::millis;
use crate::eviction::stays::StaySums;
use crate::observe::sizing::SizeChange;
use crate::pressure::RegionKind;
use crate::store::core::Core;
use crate::store::resize::Turn;
use crate::store::sizing::{Controller, Observed, Seen, Step};

const REGIONS: [RegionKind; 3] = [RegionKind::Hot, RegionKind::Warm, RegionKind::Index];
/// How long a region may take to give up what it is to give up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Turns without progress after which a store without threads gives up.
const IDLE_TURNS: u32 = 4;
/// An interval that is so many times as long as it should be says that the clock has jumped.
const JUMP: u64 = 10_000;
/// The index is full from this share on of the threshold at which events leave for its sake.
const INDEX_FULL: f64 = 0.95;
/// How much smaller records are taken to become in the warm region before any was squeezed.
const COMPRESSION: f64 = 3.0;

/// A step that is being made.
pub(super) struct Shift {
    step: Step,
    /// Pages of the giving region before, and those that it is to have.
    pages: [u32; 2],
    since: Instant,
}

/// Looks at the load at intervals.
pub(super) struct Adapting {
    controller: Controller,
    every_ms: u64,
    /// Shares of what the regions have together: the least and the most.
    limits: [[f64; 2]; 3],
    begin: Option<Mark>,
    /// The most pages that were in use since then.
    peaks: [u32; 3],
    /// Pages that were begun in each lane, when it was last seen.
    begun: Vec<u64>,
}

/// The counters when an interval began.
struct Mark {
    at_ms: i64,
    reads: [u64; 3],
    stays: StaySums,
    /// Bytes that came of each class.
    came: Vec<u64>,
}

impl Adapting {
    pub(super) fn new(config: &Config) -> Option<Self> {
        let rules = config.adaptive_sizing.as_ref()?;
        let every_ms = u64::try_from(rules.every.as_millis()).unwrap_or(u64::MAX).max(1);
        Some(Self {
            controller: Controller::new(rules, config.thresholds),
            every_ms,
            limits: rules.limits.map(|limits| [limits.least, limits.most]),
            begin: None,
            peaks: [0; 3],
            begun: Vec::new(),
        })
    }

    /// What the last interval was like, if it is over.
    fn observe(&mut self, core: &Core) -> Option<Observed> {
        for (peak, used) in self.peaks.iter_mut().zip(core.used_now()) {
            *peak = used.max(*peak);
        }
        let now_ms = core.lanes.clock.now_ms();
        if let Some(begin) = &self.begin {
            let elapsed = now_ms.saturating_sub(begin.at_ms);
            if (0..i64::try_from(self.every_ms).unwrap_or(i64::MAX)).contains(&elapsed) {
                return None;
            }
        }
        let mark = Mark {
            at_ms: now_ms,
            reads: core.reads_by_tier(),
            stays: core.shared.stays.sums(),
            came: self.came(core),
        };
        let peaks = std::mem::take(&mut self.peaks);
        let begin = self.begin.replace(mark)?;
        let mark = self.begin.as_ref()?;
        let elapsed_ms = u64::try_from(now_ms.saturating_sub(begin.at_ms)).unwrap_or(0);
        if elapsed_ms == 0 || elapsed_ms / JUMP >= self.every_ms {
            self.controller.forget();
            return None;
        }
        let wanted = wanted(&core.config, mark, &begin, elapsed_ms);
        let stayed = mark.stays.since(&begin.stays);
        let reads = std::array::from_fn(|at| mark.reads[at].wrapping_sub(begin.reads[at]));
        Some(Observed {
            elapsed_ms,
            memory: core.config.memory,
            free: core.unassigned(),
            regions: self.regions(core, peaks, wanted),
            reads,
            stayed,
            // What leaves for its sake keeps it just below the threshold.
            index_full: core.lanes.index_fill() >= core.config.thresholds.warning * INDEX_FULL,
        })
    }

    /// Bytes that came since the store opened, by class, in whole pages.
    fn came(&mut self, core: &Core) -> Vec<u64> {
        let (classes, pin) = (core.config.classes.len(), core.lanes.pin());
        let mut came = vec![0; classes];
        self.begun.resize(core.lanes.partitions.len() * classes, 0);
        for (lane, begun) in core.lanes.lanes().zip(&mut self.begun) {
            // A lane that is empty just now has begun no page since it was.
            if let Some((_, newest)) = lane.pages_back(&core.lanes.pages, &pin).next() {
                *begun = (*begun).max(newest.seq() + 1);
            }
            came[lane.id.class().index()] += *begun * core.config.hot.page_size;
        }
        came
    }

    fn regions(&self, core: &Core, peaks: [u32; 3], wanted: [f64; 2]) -> [Seen; 3] {
        let sizes = REGIONS.map(|kind| core.size_of(kind));
        let together = (sizes.iter().sum::<u64>() + core.unassigned()) as f64;
        // Without classes that are squeezed the warm region serves nobody.
        let no_warm = !core.config.classes.iter().any(|class| class.compress);
        std::array::from_fn(|at| {
            let (kind, bytes) = (REGIONS[at], sizes[at]);
            let region = core.region(kind);
            let (page, [least, most]) = (u64::from(region.page_size()), self.limits[at]);
            let needs = match kind {
                RegionKind::Index => core.index_least().into(),
                _ => core.least_pages(kind),
            };
            let least = ((together * least) as u64).max(needs * page);
            let most = ((together * most) as u64).min(u64::from(region.pages_ceiling()) * page);
            let fixed = kind == RegionKind::Warm && no_warm;
            Seen {
                bytes,
                used: u64::from(peaks[at]) * page,
                least: if fixed { bytes } else { least },
                most: if fixed { bytes } else { most },
                page,
                wanted: wanted.get(at).copied().unwrap_or(0.0),
            }
        })
    }
}

/// What hot and warm region would hold if the load of an interval went on, each class for its time.
fn wanted(config: &Config, mark: &Mark, begin: &Mark, elapsed_ms: u64) -> [f64; 2] {
    let compression = mark.stays.compression().unwrap_or(COMPRESSION);
    let mut wanted = [0.0; 2];
    for (class, settings) in config.classes.iter().enumerate() {
        let came = mark.came[class].saturating_sub(begin.came[class]) as f64 / elapsed_ms as f64;
        let time = |age: Duration| millis(settings.retention.map_or(age, |end| age.min(end))) as f64;
        let (hot, memory) = (time(settings.hot_for), time(settings.warm_for));
        let hot = if settings.compress { hot } else { memory };
        wanted[0] += came * hot;
        wanted[1] += came * (memory - hot).max(0.0) / compression;
    }
    wanted
}

impl Core {
    /// Says at opening what keeps sizes from following the load.
    pub(crate) fn check_adapting(&self) {
        let can_grow =
            |kind: &RegionKind| self.region(*kind).pages_ceiling() > self.region(*kind).pages_max();
        if self.config.adaptive_sizing.is_some() && !REGIONS.iter().any(can_grow) {
            let text = "no region can become larger than it is, so their sizes do not follow the load: give them ceilings \
                        (RegionBuilder::ceiling)";
            self.machine.warn(text.into());
        }
    }

    fn size_of(&self, kind: RegionKind) -> u64 {
        let region = self.region(kind);
        u64::from(region.pages_max()) * u64::from(region.page_size())
    }

    /// Pages in use of hot, warm and index, once present readers are gone.
    fn used_now(&self) -> [u32; 3] {
        let [hot, warm, _] = self.lanes.pages.used_ahead();
        [hot.0, warm.0, self.lanes.index_region.used_pages()]
    }

    /// Looks at the load if it is time, and goes on with a step that is being made. Whether one is.
    pub(crate) fn adapt(&self, turn: &mut Turn, now: Instant) -> bool {
        if turn.shift.is_none() && !self.begin_step(turn, now) {
            return false;
        }
        let Some(shift) = &turn.shift else { return false };
        if now.saturating_duration_since(shift.since) > PATIENCE || self.empty(shift) == Some(0) {
            self.end_step(turn);
        }
        true
    }

    /// The same in a store without threads: the step is made at once, or given up.
    pub(crate) fn adapt_alone(&self) {
        if self.config.background {
            return;
        }
        let Some(mut turn) = self.sizes.try_turn() else { return };
        if !self.begin_step(&mut turn, crate::clock::now()) {
            return;
        }
        let mut idle = 0;
        while let Some(shift) = &turn.shift {
            let moved = match self.empty(shift) {
                Some(0) => break,
                Some(_) => 1,
                None => 0,
            };
            let progress = self.engine.lock().step(&self.config, &self.lanes, &self.shared);
            // What the tier says when it fails is in the figures.
            let spilled = self.spill(false).unwrap_or(0);
            self.lanes.readers.reclaim();
            idle = if moved + progress.pages as u64 + spilled == 0 { idle + 1 } else { 0 };
            if idle == IDLE_TURNS {
                break;
            }
        }
        self.end_step(&mut turn);
    }

    /// Asks the controller, and begins what it wants. Whether there is anything to do.
    fn begin_step(&self, turn: &mut Turn, now: Instant) -> bool {
        let Some(adapting) = &mut turn.adapting else { return false };
        let Some(seen) = adapting.observe(self) else { return false };
        self.sizes.note(|stats| stats.looks += 1);
        let Some(step) = adapting.controller.look(&seen) else { return false };
        let mut pages = [0; 2];
        if let Some(kind) = step.from {
            let region = self.region(kind);
            let gives = (step.bytes / u64::from(region.page_size())) as u32;
            pages = [region.pages_max(), region.pages_max().saturating_sub(gives)];
            // What was seen is a moment old, and appends must not be refused for the sake of a step.
            let used = self.used_now()[place_of(kind).unwrap_or(0)];
            if f64::from(used) > f64::from(pages[1]) * self.config.thresholds.critical {
                return false;
            }
            self.set_max(kind, pages[1]);
        }
        turn.shift = Some(Shift { step, pages, since: now });
        true
    }

    /// Has some of what the giving region is to lose moved elsewhere. `Some(0)`: all of it is; `None`: nothing was.
    fn empty(&self, shift: &Shift) -> Option<u32> {
        let Some(kind) = shift.step.from else { return Some(0) };
        let left = self.region(kind).withdraw(shift.pages[1]);
        if left == 0 {
            return Some(0);
        }
        (self.vacate(kind, shift.pages[1]) > 0).then_some(left)
    }

    /// Gives the other region what has become free, and takes note of it.
    fn end_step(&self, turn: &mut Turn) {
        let Some(Shift { step, pages, .. }) = turn.shift.take() else { return };
        let mut bytes = step.bytes;
        let mut from = None;
        if let Some(kind) = step.from {
            let region = self.region(kind);
            region.settle();
            // What could not be moved stays where it is.
            let reached = region.pages_committed().clamp(pages[1], pages[0]);
            self.set_max(kind, reached);
            let size = |pages: u32| u64::from(pages) * u64::from(region.page_size());
            bytes = size(pages[0]) - size(reached);
            from = Some((kind, [size(pages[0]), size(reached)]));
        }
        let before = self.size_of(step.to);
        let got = self.grow_by(step.to, bytes);
        if let Some(adapting) = &mut turn.adapting {
            adapting.controller.made(step, got);
        }
        if got == 0 {
            // The region that was to give has again what nobody could use.
            if let Some((kind, [size, _])) = from {
                self.grow_by(kind, size - self.size_of(kind));
            }
            return self.sizes.note(|stats| stats.abandoned += 1);
        }
        let (to, at_ms) = ((step.to, [before, before + got]), self.lanes.clock.now_ms());
        self.sizes.note(|stats| stats.note(SizeChange { at_ms, from, to, reason: step.why }));
        self.mover_bell.ring();
    }

    /// Somebody wants other sizes, or closes the store: a step that is being made ends here.
    pub(crate) fn interrupt(&self, turn: &mut Turn) {
        self.end_step(turn);
        if let Some(adapting) = &mut turn.adapting {
            adapting.controller.forget();
        }
    }

    /// The same for whoever closes the store.
    pub(crate) fn end_adapting(&self) {
        if let Some(mut turn) = self.sizes.try_turn() {
            self.interrupt(&mut turn);
            turn.adapting = None;
        }
    }
}
