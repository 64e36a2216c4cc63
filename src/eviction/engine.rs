//! The engine: asks the policies for a plan and carries it out, a slice at a time.
//!
//! Demoting compresses a page and swings its place. Releasing takes the oldest page off its lane, purges its index
//! entries and stream heads, and frees it after the readers. The partition's lock is held for a few dozen records
//! at a time, never while compressing.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::clock;
use crate::config::Config;
use crate::eviction::cursor::Cursor;
use crate::eviction::defrag::DefragCounters;
use crate::eviction::guarded::{Guarded, Who};
use crate::eviction::moves::{Mover, Outcome};
use crate::eviction::stays::Stays;
use crate::eviction::victims::above_quota;
use crate::eviction::view::summary;
use crate::eviction::{LaneView, Move, PageSummary, Plan, Policy, Refusal, RegionView, View};
use crate::ids::{Class, LogicalPage};
use crate::lanes::append::Lanes;
use crate::lanes::partition::Lane;

/// Pages that move between two looks whether readers of what has left are gone.
const RECLAIM_EVERY: usize = 16;
/// Pages that are given up at a time for the sake of a higher class.
const GIVEN_UP: usize = 4;

/// What the engine has done since the store opened.
#[derive(Default)]
pub(crate) struct EvictionCounters {
    pub(crate) demoted_pages: AtomicU64,
    pub(crate) demoted_events: AtomicU64,
    pub(crate) promoted_pages: AtomicU64,
    pub(crate) promoted_events: AtomicU64,
    pub(crate) released_pages: AtomicU64,
    /// Events that left memory because the cold tier has them.
    pub(crate) released_events: AtomicU64,
    /// Events that left memory because their retention had ended.
    pub(crate) expired_events: AtomicU64,
    /// Events that left memory because their class says so.
    pub(crate) dropped_events: AtomicU64,
    /// Plans that asked for anything.
    pub(crate) plans: AtomicU64,
    /// Moves that made no sense.
    pub(crate) refused: AtomicU64,
    pub(crate) last_refusal: Mutex<Option<(Move, Refusal)>>,
    /// How often the engine fell back on [`SizeThreshold`](crate::eviction::SizeThreshold).
    pub(crate) safety_plans: AtomicU64,
    /// What the store's policy said when it panicked.
    pub(crate) panic: Mutex<Option<String>>,
}

/// The engine's own notes; whoever holds them is the mover (invariant I4).
pub(crate) struct Engine {
    views: Vec<LaneView>,
    /// Where each lane's hot pages begin.
    cursors: Vec<Cursor>,
    scratch: Vec<u8>,
    plan: Plan,
    policies: Guarded,
    rate: Rate,
    steps: u64,
    random: Cell<u64>,
    /// Pages to move in this step for the sake of a large event, although there is no pressure.
    run_wanted: u32,
    warm_is_full: bool,
}

/// What the mover tells others.
pub(crate) struct EvictionShared {
    pub(crate) counters: EvictionCounters,
    pub(crate) defrag: DefragCounters,
    pub(crate) stays: Stays,
    /// Lanes whose oldest page should leave but is not confirmed: the spiller writes them first.
    wanted: Vec<AtomicBool>,
    /// For each lane, one more than the highest number of a page that was demoted.
    passed: Vec<AtomicU64>,
    /// A bit for each class of which the cold tier took the last blocks.
    spills: AtomicU32,
}

impl EvictionShared {
    pub(crate) fn new(lanes: usize) -> Self {
        Self {
            counters: EvictionCounters::default(),
            defrag: DefragCounters::default(),
            stays: Stays::default(),
            wanted: (0..lanes).map(|_| AtomicBool::new(false)).collect(),
            passed: (0..lanes).map(|_| AtomicU64::new(0)).collect(),
            spills: AtomicU32::new(0),
        }
    }

    /// Whether there is a cold tier that takes blocks of a class.
    pub(crate) fn spills(&self, class: Class) -> bool {
        self.spills.load(Ordering::Relaxed) >> class.index() & 1 == 1
    }

    /// Notes of which classes the cold tier takes blocks, a bit for each.
    pub(crate) fn set_spills(&self, classes: u32) {
        self.spills.store(classes, Ordering::Relaxed);
    }

    /// Notes whether the cold tier takes blocks of a class.
    pub(crate) fn set_spills_of(&self, class: Class, spills: bool) {
        let bit = 1 << class.index();
        if spills {
            self.spills.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.spills.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether a lane is to be spilled although its pages do not fill a block.
    pub(crate) fn is_wanted(&self, number: usize) -> bool {
        self.wanted[number].load(Ordering::Relaxed)
    }

    pub(crate) fn set_wanted(&self, number: usize, wanted: bool) {
        self.wanted[number].store(wanted, Ordering::Relaxed);
    }

    /// Pages of the lane below this number are on their way out, although single ones may be hot, still or again.
    pub(crate) fn passed(&self, number: usize) -> u64 {
        self.passed[number].load(Ordering::Relaxed)
    }

    pub(super) fn set_passed(&self, number: usize, seq: u64) {
        self.passed[number].fetch_max(seq, Ordering::Relaxed);
    }
}

/// What came of a slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Progress {
    /// Pages that moved down or left, less those that moved up.
    pub(crate) pages: usize,
    /// Whether the time or number of events of a slice was used up with more to do.
    pub(crate) more: bool,
    /// Whether something waits for the spiller.
    pub(crate) waits_for_spill: bool,
    /// Whether a region is fuller than it should be, so that more is to be done soon.
    pub(crate) pressed: bool,
}

/// What came of one plan.
#[derive(Default)]
struct Round {
    moved: usize,
    promoted: usize,
    warm_was_full: bool,
    waits: bool,
    cut: bool,
}

/// One step's slice.
struct Slice {
    begin: Instant,
    events: usize,
}

impl Engine {
    /// `policy`: the caller's own, instead of the default one.
    pub(crate) fn new(config: &Config, lanes: &Lanes, policy: Option<Box<dyn Policy>>) -> Self {
        let count = lanes.lanes().count();
        Self {
            views: Vec::with_capacity(count),
            cursors: vec![Cursor::default(); count],
            scratch: Vec::new(),
            plan: Plan::new(config.hot.page_size, config.warm.page_size),
            policies: Guarded::new(policy),
            rate: Rate::new(config.move_rate),
            steps: 0,
            random: Cell::new(lanes.seed),
            run_wanted: 0,
            warm_is_full: false,
        }
    }

    /// Whether the policy looks at the times of reads.
    pub(crate) fn wants_reads(&self) -> bool {
        self.policies.wants_reads()
    }

    /// Whether the engine's buffer was wiped after it was last used.
    #[cfg(test)]
    pub(crate) fn scratch_is_wiped(&self) -> bool {
        self.scratch.is_empty() && self.scratch.capacity() > 0
    }

    /// Notes that a page was moved to the warm region by somebody else who holds these notes.
    pub(super) fn no_longer_hot(&mut self, lanes: &Lanes, page: LogicalPage) {
        let lane = lanes.pages.meta(page).lane();
        let classes = self.cursors.len() / lanes.partitions.len();
        self.cursors[lane.partition() * classes + lane.class().index()].gone(lanes, page);
    }

    /// Bytes that the engine's buffer takes.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.scratch.capacity()
    }

    /// Takes rounds of planning and moving until nothing is left to do or the slice is used up.
    pub(crate) fn step(&mut self, config: &Config, lanes: &Lanes, shared: &EvictionShared) -> Progress {
        let mut slice = Slice { begin: clock::now(), events: 0 };
        let mut progress = Progress::default();
        self.steps += 1;
        self.warm_is_full = false;
        self.run_wanted = lanes.hot_run_wanted.load(Ordering::Relaxed);
        lanes.index_may_take_more();
        self.refresh_all(config, lanes, shared);
        let (mut reclaimed, mut promoted) = (false, 0);
        loop {
            let mut round = self.round(Who::Policy, config, lanes, shared, &mut slice);
            // Pages that go up and down make no room, however many they are, and although they use up the slice.
            let idle = round.moved <= 2 * round.promoted;
            if idle && self.policies.needs_safety() && self.is_critical(config, lanes) {
                shared.counters.safety_plans.fetch_add(1, Ordering::Relaxed);
                let more = self.round(Who::Safety, config, lanes, shared, &mut slice);
                round.moved += more.moved;
                round.warm_was_full |= more.warm_was_full;
                round.waits |= more.waits;
                round.cut |= more.cut;
            }
            progress.pages += round.moved - round.promoted;
            promoted += round.promoted;
            progress.waits_for_spill |= round.waits;
            progress.more |= round.cut;
            // A policy that moves pages up could do so for ever: once in a step is enough.
            if round.cut || round.promoted > 0 {
                break;
            }
            if round.moved > 0 {
                reclaimed = false;
            } else if !round.warm_was_full {
                break;
            } else if !reclaimed {
                // What was let go may still wait for its readers: give it a chance, then try once more.
                lanes.readers.reclaim();
                reclaimed = true;
            } else if self.warm_is_full || room_is_coming(config, lanes) {
                break;
            } else {
                self.warm_is_full = true;
            }
        }
        progress.pages = progress.pages.saturating_sub(promoted);
        progress.pressed = self.regions(lanes).iter().any(|region| region.fill() > config.thresholds.warning);
        let short = lanes.index_is_short();
        if progress.pages > 0 || short {
            let _pin = lanes.pin();
            lanes.index.sweep(short);
        }
        if progress.pages > 0 || promoted > 0 || short || lanes.pages.is_leaving() {
            lanes.readers.reclaim();
        }
        progress
    }

    /// Has one plan made and carries it out.
    fn round(
        &mut self,
        who: Who,
        config: &Config,
        lanes: &Lanes,
        shared: &EvictionShared,
        slice: &mut Slice,
    ) -> Round {
        let pin = lanes.pin();
        let regions = self.regions(lanes);
        self.plan.begin(self.rate.allowance());
        let view = View {
            config,
            store: lanes,
            shared,
            _pin: &pin,
            lanes: &self.views,
            regions,
            now_ms: lanes.clock.now_ms(),
            step: self.steps,
            warm_is_full: self.warm_is_full,
            wanted_pages: u64::from(self.run_wanted),
            random: &self.random,
            classes: u32::MAX,
        };
        if let Err(panic) = self.policies.plan(who, &view, &mut self.plan) {
            *shared.counters.panic.lock() = Some(panic);
        }
        drop(pin);
        self.carry_out(config, lanes, shared, slice)
    }

    fn carry_out(
        &mut self,
        config: &Config,
        lanes: &Lanes,
        shared: &EvictionShared,
        slice: &mut Slice,
    ) -> Round {
        let mut round = Round::default();
        let (counters, count) = (&shared.counters, self.plan.planned().len());
        counters.plans.fetch_add(u64::from(count > 0), Ordering::Relaxed);
        for at in 0..count {
            let planned = self.plan.planned()[at];
            // What goes up has its room from what goes down.
            if round.warm_was_full && matches!(planned.what, Move::Demote(_) | Move::Promote(_)) {
                continue;
            }
            let (cursors, scratch) = (&mut self.cursors, &mut self.scratch);
            let (number, outcome) = Mover { config, lanes, shared, cursors, scratch }.make(planned.what);
            if let Some(number) = number {
                self.refresh(config, lanes, shared, number);
            }
            match outcome {
                Outcome::Moved(events) => {
                    round.moved += 1;
                    round.promoted += usize::from(matches!(planned.what, Move::Promote(_)));
                    self.run_wanted = self.run_wanted.saturating_sub(1);
                    self.warm_is_full &= !matches!(planned.what, Move::Release(_));
                    if planned.patient {
                        self.rate.take(events);
                    }
                    slice.events += events;
                    // What has left is wanted again before a long slice ends.
                    if round.moved % RECLAIM_EVERY == 0 {
                        lanes.readers.reclaim();
                    }
                }
                Outcome::WarmIsFull => round.warm_was_full = true,
                Outcome::HotIsFull => {}
                Outcome::Waits => round.waits = true,
                Outcome::Refused(why) => {
                    counters.refused.fetch_add(1, Ordering::Relaxed);
                    *counters.last_refusal.lock() = Some((planned.what, why));
                }
            }
            // Without a page moved a slice does not end: what follows must be reached, however slow the step was.
            let used_up = slice.events >= config.slice_events || slice.begin.elapsed() >= config.slice_time;
            if used_up && round.moved > 0 {
                round.cut = true;
                break;
            }
        }
        round
    }

    /// Lets pages of classes below a priority go although the cold tier does not have them, the lowest class and the oldest
    /// page first: as many as one step squeezes. How many went.
    pub(crate) fn give_up_below(
        &mut self,
        config: &Config,
        lanes: &Lanes,
        shared: &EvictionShared,
        priority: u8,
    ) -> usize {
        self.refresh_all(config, lanes, shared);
        let (mut gone, rank) =
            (0, |page: &PageSummary| (config.classes[page.class.index()].priority, page.arrived_ms));
        while gone < GIVEN_UP {
            let oldest = self.views.iter().filter_map(|lane| lane.oldest);
            let lower = oldest.filter(|page| rank(page).0 < priority);
            let Some(page) = lower.min_by_key(rank) else { break };
            let (cursors, scratch) = (&mut self.cursors, &mut self.scratch);
            let (number, outcome) = Mover { config, lanes, shared, cursors, scratch }.give_up(page.id);
            let (Some(number), Outcome::Moved(_)) = (number, outcome) else { break };
            self.refresh(config, lanes, shared, number);
            gone += 1;
        }
        lanes.readers.reclaim();
        gone
    }

    /// What is in use of each region, of how much.
    fn regions(&self, lanes: &Lanes) -> [RegionView; 4] {
        let [hot, warm, numbers] = lanes.pages.used_ahead();
        let [hot_held, warm_held, numbers_held] = lanes.pages.held_back();
        let region = |(used, max): (u32, u32), held_back: u32, page_bytes: u32| RegionView {
            used: u64::from(used),
            held_back: u64::from(held_back),
            max: u64::from(max),
            page_bytes: u64::from(page_bytes),
        };
        let (used, max) = lanes.index_room();
        [
            region(numbers, numbers_held, 0),
            region(hot, hot_held, lanes.pages.hot.page_size()),
            region(warm, warm_held, lanes.pages.warm.page_size()),
            RegionView { used, held_back: 0, max, page_bytes: u64::from(lanes.index_region.page_size()) },
        ]
    }

    /// Whether the engine must see to the budget itself. A class that is above its quota soon gets no new page, whatever room
    /// there is for others.
    fn is_critical(&self, config: &Config, lanes: &Lanes) -> bool {
        let critical = |region: RegionView| region.fill() >= config.thresholds.critical;
        let above = |class| above_quota(config, lanes, Class::new(class)) > 0;
        self.run_wanted > 0
            || self.regions(lanes).into_iter().any(critical)
            || (0..config.classes.len()).any(above)
    }

    fn refresh_all(&mut self, config: &Config, lanes: &Lanes, shared: &EvictionShared) {
        self.views.clear();
        for (number, lane) in lanes.lanes().enumerate() {
            self.views.push(LaneView {
                class: lane.id.class(),
                partition: lane.id.partition(),
                oldest: None,
                oldest_hot: None,
                spill_asked: false,
            });
            self.refresh_lane(config, lanes, shared, lane, number);
        }
    }

    /// Looks at a lane again after something changed in it.
    fn refresh(&mut self, config: &Config, lanes: &Lanes, shared: &EvictionShared, number: usize) {
        let view = &self.views[number];
        let lane = lanes.partitions[view.partition].lane(view.class);
        self.refresh_lane(config, lanes, shared, lane, number);
    }

    fn refresh_lane(
        &mut self,
        config: &Config,
        lanes: &Lanes,
        shared: &EvictionShared,
        lane: &Lane,
        number: usize,
    ) {
        let now_ms = lanes.clock.now_ms();
        let of = |page: LogicalPage| -> Option<PageSummary> {
            // The head is looked at after the page was found: see `View::summary`.
            summary(config, lanes, now_ms, page, lane, page == lane.head())
        };
        let pin = lanes.pin();
        let oldest = Some(lane.tail()).filter(|page| *page != LogicalPage::NONE);
        let hot = self.cursors[number].oldest_hot(lanes, &pin, lane);
        let view = &mut self.views[number];
        (view.oldest, view.oldest_hot) = (oldest.and_then(of), hot.and_then(of));
        view.spill_asked = shared.is_wanted(number);
    }
}

/// Whether there will be room in the warm region once its readers are gone.
fn room_is_coming(config: &Config, lanes: &Lanes) -> bool {
    let (used, max) = lanes.pages.used_ahead()[1];
    lanes.pages.held_back()[1] > 0 && f64::from(used) <= f64::from(max) * config.thresholds.warning
}

/// How fast events may move that are in no hurry: a bucket that fills at that rate, up to a tenth of a second's worth.
struct Rate {
    per_second: Option<u64>,
    tokens: f64,
    filled: Instant,
}

impl Rate {
    fn new(per_second: Option<u64>) -> Self {
        Self { per_second, tokens: 0.0, filled: clock::now() }
    }

    /// How many events may move now; `None`: any number.
    fn allowance(&mut self) -> Option<i64> {
        let rate = self.per_second? as f64;
        let now = clock::now();
        let passed = now.duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * rate).min(rate / 10.0);
        // One that is below one would never let a page pass where the rate is very low.
        Some(self.tokens.ceil() as i64)
    }

    /// A page can have more events than there were tokens: the next one waits the longer.
    fn take(&mut self, events: usize) {
        self.tokens -= events as f64;
    }
}
