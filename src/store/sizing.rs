//! Decides how memory is to be divided: sees what an interval was like, and asks for one step at most. It knows no store
//! and no clock.
//!
//! Needs come first: an index that is full, pages that leave before their time although another region has room to spare.
//! Where every region is full, reads decide, by hill climbing as in Caffeine's adaptive window (Einziger, Eytan, Friedman
//! and Manes, "Adaptive Software Cache Management", 2018): a step is tried, the cost of a read before it and after it is
//! compared, and the step is taken back unless reads became cheaper. The comparison counts only what is beyond the noise
//! of so many reads.

use crate::config::{Adaptive, Thresholds};
use crate::observe::sizing::SizeReason;
use crate::pressure::RegionKind;

const REGIONS: [RegionKind; 3] = [RegionKind::Hot, RegionKind::Warm, RegionKind::Index];
const HOT: usize = 0;
const WARM: usize = 1;
const INDEX: usize = 2;

/// Pages that stayed for less than this of their time, in thousandths, left early.
const EARLY: u32 = 950;
/// A region keeps so much more than it needs, the threshold above which pages leave early included.
const HEADROOM: f64 = 1.25;
/// The load is not expected to grow by more than this at a time.
const GROWTH_MOST: f64 = 2.0;
/// How much of what is known of the load an interval changes: quickly, and slowly.
const FAST: f64 = 0.5;
const SLOW: f64 = 0.1;
/// Reads from which on a cost is worth looking at.
const READS_LEAST: u64 = 1000;
/// Intervals that a region is given to fill up after it became larger.
const FILL_LONGEST: u32 = 30;
/// Intervals of measuring after which a trial that has shown nothing is over.
const MEASURE_LONGEST: u32 = 8;
/// Intervals after which it is not tried any more to take a trial back.
const UNDO_LONGEST: u32 = 60;
/// A region is full again from this share of the threshold on at which pages leave early.
const FULL: f64 = 0.95;
/// A change of cost below this share is none, however many reads there were.
const GAIN_LEAST: f64 = 0.01;
/// How many standard errors apart two costs must be.
const ERRORS: f64 = 2.0;
/// After trials in both directions have failed, none is made for so many rests, twice as many the next time, and so on.
const PAUSE_FIRST: u64 = 4;
const PAUSE_LONGEST: u64 = 64;
/// A cost that is so many times what it was when trials failed is that of another load.
const OTHER_LOAD: f64 = 1.25;
/// At most this part of a region is taken from it at once, and given to the hot one for a trial.
const PART: u64 = 8;
/// The warm region does not grow by more than this part of it for a trial.
const PART_OF_WARM: u64 = 2;

/// The place of a region among [`REGIONS`].
fn place(region: RegionKind) -> usize {
    REGIONS.iter().position(|kind| *kind == region).unwrap_or(INDEX)
}

/// What a region was like.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// What it may take.
    pub(crate) bytes: u64,
    /// The most that was in use.
    pub(crate) used: u64,
    /// Its bounds.
    pub(crate) least: u64,
    pub(crate) most: u64,
    pub(crate) page: u64,
    /// What it would hold if the load went on like this, each class for its time.
    pub(crate) wanted: f64,
}

/// What an interval was like.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) elapsed_ms: u64,
    /// The bound of all memory, and what of it no region has.
    pub(crate) memory: u64,
    pub(crate) free: u64,
    /// Hot, warm, index.
    pub(crate) regions: [Seen; 3],
    /// Reads that found their event hot, warm, and cold or not at all.
    pub(crate) reads: [u64; 3],
    /// Of pages that left the hot region, and memory: the share of their time that they had stayed, in thousandths.
    pub(crate) stayed: [Option<u32>; 2],
    /// Whether events leave memory for the index's sake.
    pub(crate) index_full: bool,
}

/// A step that is to be made: bytes that go from one region, or from what no region has, to another.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Step {
    pub(crate) from: Option<RegionKind>,
    pub(crate) to: RegionKind,
    pub(crate) bytes: u64,
    pub(crate) why: SizeReason,
}

/// Reads since something changed.
#[derive(Clone, Copy, Debug, Default)]
struct Reads {
    counts: [u64; 3],
    intervals: u32,
}

impl Reads {
    fn add(&mut self, more: [u64; 3]) {
        for (count, more) in self.counts.iter_mut().zip(more) {
            *count = count.saturating_add(more);
        }
        self.intervals += 1;
    }

    /// Lets what is long ago count for less.
    fn fade(&mut self) {
        if self.intervals >= MEASURE_LONGEST && self.total() >= 2 * READS_LEAST {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.intervals /= 2;
        }
    }

    fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn share(&self, at: usize) -> f64 {
        self.counts[at] as f64 / self.total().max(1) as f64
    }

    /// What a read costs, and the variance of that mean; `None`: too few reads to tell.
    fn cost(&self, costs: [f64; 3]) -> Option<Cost> {
        if self.total() < READS_LEAST {
            return None;
        }
        let mean = |value: fn(f64) -> f64| (0..3).map(|at| self.share(at) * value(costs[at])).sum::<f64>();
        let (cost, squares) = (mean(|cost| cost), mean(|cost| cost * cost));
        Some(Cost { mean: cost, variance: (squares - cost * cost).max(0.0) / self.total() as f64 })
    }
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    mean: f64,
    variance: f64,
}

impl Cost {
    /// Whether this is less than another by more than noise.
    fn is_below(self, other: Self) -> bool {
        let noise = ERRORS * (self.variance + other.variance).sqrt();
        other.mean - self.mean > noise.max(other.mean * GAIN_LEAST)
    }
}

/// A step that is being tried out.
#[derive(Clone, Copy, Debug)]
struct Trial {
    step: Step,
    before: Cost,
    /// Intervals since it was made.
    age: u32,
    filled: bool,
}

/// What is known of the load of a region.
#[derive(Clone, Copy, Debug, Default)]
struct Trend {
    fast: f64,
    slow: f64,
    begun: bool,
}

impl Trend {
    fn add(&mut self, wanted: f64) {
        let wanted = if wanted.is_finite() && wanted > 0.0 { wanted } else { 0.0 };
        if !self.begun {
            *self = Self { fast: wanted, slow: wanted, begun: true };
        }
        self.fast += (wanted - self.fast) * FAST;
        self.slow += (wanted - self.slow) * SLOW;
    }

    /// Base × growth × headroom, for a region of which so much is in use.
    fn needed(&self, used: u64) -> u64 {
        let growth = if self.slow > 0.0 { (self.fast / self.slow).clamp(1.0, GROWTH_MOST) } else { 1.0 };
        (self.fast.max(used as f64) * growth * HEADROOM) as u64
    }
}

/// Decides how memory is to be divided.
#[derive(Debug)]
pub(crate) struct Controller {
    costs: [f64; 3],
    step: f64,
    rest_ms: u64,
    thresholds: Thresholds,
    /// Time that has passed, and the time of the next step at the earliest.
    now_ms: u64,
    next_ms: u64,
    trends: [Trend; 3],
    reads: Reads,
    trial: Option<Trial>,
    /// Whether a trial in favour of the hot and of the warm region has failed lately.
    failed: [bool; 2],
    /// What a read cost when both had failed, until when no more are made, and for how many rests the next time.
    given_up: Option<(f64, u64)>,
    pause: u64,
}

impl Controller {
    pub(crate) fn new(rules: &Adaptive, thresholds: Thresholds) -> Self {
        let [warm, cold] = rules.costs;
        Self {
            costs: [1.0, warm, cold],
            step: rules.step,
            rest_ms: u64::try_from(rules.rest.as_millis()).unwrap_or(u64::MAX),
            thresholds,
            now_ms: 0,
            next_ms: 0,
            trends: [Trend::default(); 3],
            reads: Reads::default(),
            trial: None,
            failed: [false; 2],
            given_up: None,
            pause: PAUSE_FIRST,
        }
    }

    /// Looks at an interval. The step to make now, if one is.
    pub(crate) fn look(&mut self, seen: &Observed) -> Option<Step> {
        self.now_ms = self.now_ms.saturating_add(seen.elapsed_ms);
        for (trend, region) in self.trends.iter_mut().zip(&seen.regions) {
            trend.add(region.wanted);
        }
        self.reads.add(seen.reads);
        // What leaves for the index's sake is needed more than the outcome of a trial.
        if let Some(trial) = self.trial.take().filter(|_| !seen.index_full) {
            return self.judge(seen, trial);
        }
        self.reads.fade();
        if self.now_ms < self.next_ms {
            return None;
        }
        self.meet_need(seen).or_else(|| self.climb(seen))
    }

    /// Takes note of what came of a step: so many bytes moved.
    pub(crate) fn made(&mut self, step: Step, bytes: u64) {
        self.next_ms = self.now_ms.saturating_add(self.rest_ms);
        let before = self.reads.cost(self.costs);
        self.reads = Reads::default();
        self.trial = None;
        if !step.why.is_trial() {
            return;
        }
        match before.filter(|_| bytes > 0) {
            Some(before) => {
                let step = Step { bytes, ..step };
                self.trial = Some(Trial { step, before, age: 0, filled: false });
            }
            None => self.failed[place(step.to)] = true,
        }
    }

    /// What is known does not hold any more: somebody else has changed sizes, or the clock has jumped.
    pub(crate) fn forget(&mut self) {
        self.reads = Reads::default();
        self.trial = None;
        self.next_ms = self.now_ms.saturating_add(self.rest_ms);
    }

    // ---- needs ----

    fn meet_need(&self, seen: &Observed) -> Option<Step> {
        if seen.index_full {
            // Events leave memory for it: whoever has more of it gives.
            let larger = |a: usize, b: usize| if self.spare(seen, a) >= self.spare(seen, b) { a } else { b };
            let giver = match larger(HOT, WARM) {
                at if self.spare(seen, at) > 0 => at,
                _ if seen.regions[HOT].bytes >= seen.regions[WARM].bytes => HOT,
                _ => WARM,
            };
            let other = if giver == HOT { WARM } else { HOT };
            let step = |from| self.step(seen, from, INDEX, u64::MAX, SizeReason::IndexFull);
            return step(None).or_else(|| step(Some(giver))).or_else(|| step(Some(other)));
        }
        let stay = |at: usize| seen.stayed[at].unwrap_or(1000);
        // Whose pages stay the smaller part of their time comes first.
        let order = if stay(HOT) <= stay(WARM) { [HOT, WARM] } else { [WARM, HOT] };
        for to in order {
            let stayed = stay(to);
            if stayed >= EARLY {
                continue;
            }
            if let Some(step) = self.step(seen, None, to, u64::MAX, SizeReason::Unassigned { stayed }) {
                return Some(step);
            }
            let other = if to == HOT { WARM } else { HOT };
            for from in [other, INDEX] {
                let spare = self.spare(seen, from);
                let needed = seen.regions[from].bytes - spare;
                let reason = SizeReason::Spare { stayed, needed };
                if let Some(step) = self.step(seen, Some(from), to, spare, reason) {
                    return Some(step);
                }
            }
        }
        None
    }

    /// What a region has that it does not need.
    fn spare(&self, seen: &Observed, at: usize) -> u64 {
        let early = seen.stayed.get(at).copied().flatten().is_some_and(|stayed| stayed < EARLY);
        if early || at == INDEX && seen.index_full {
            return 0;
        }
        let region = &seen.regions[at];
        region.bytes.saturating_sub(self.trends[at].needed(region.used))
    }

    // ---- reads ----

    /// Tries a step where reads cost most.
    fn climb(&mut self, seen: &Observed) -> Option<Step> {
        // While pages leave when their time is over, all that a class asks for is in its place.
        if seen.stayed.iter().flatten().all(|stayed| *stayed >= EARLY) {
            return None;
        }
        let cost = self.reads.cost(self.costs)?;
        if let Some((then, until)) = self.given_up {
            let times = (cost.mean / then).max(then / cost.mean);
            if times < OTHER_LOAD && self.now_ms < until {
                return None;
            }
            if times >= OTHER_LOAD {
                self.pause = PAUSE_FIRST;
            }
            (self.given_up, self.failed) = (None, [false; 2]);
        }
        let [_, warm, cold] = self.costs;
        let gains = [self.reads.share(1) * (warm - 1.0), self.reads.share(2) * (cold - warm)];
        let order = if gains[HOT] > gains[WARM] { [HOT, WARM] } else { [WARM, HOT] };
        for to in order {
            if gains[to] <= 0.0 || self.failed[to] {
                continue;
            }
            let share = |at: usize| (self.reads.share(at) * 1000.0).round() as u32;
            let reason =
                SizeReason::Reads { count: self.reads.total(), shares: [share(0), share(1), share(2)] };
            let from = if to == HOT { WARM } else { HOT };
            match self.step(seen, Some(from), to, u64::MAX, reason) {
                Some(step) => return Some(step),
                None => self.failed[to] = true,
            }
        }
        if self.failed != [false; 2] {
            let until = self.now_ms.saturating_add(self.rest_ms.max(1).saturating_mul(self.pause));
            self.given_up = Some((cost.mean, until));
            self.pause = (self.pause * 2).min(PAUSE_LONGEST);
        }
        None
    }

    /// Whether a trial is to be taken back.
    fn judge(&mut self, seen: &Observed, mut trial: Trial) -> Option<Step> {
        trial.age += 1;
        let at = place(trial.step.to);
        let region = &seen.regions[at];
        if !trial.filled {
            let full = self.thresholds.warning * FULL * region.bytes as f64;
            trial.filled = region.used as f64 >= full || trial.age >= FILL_LONGEST;
            // What was read until now was read while it filled up.
            self.reads = Reads::default();
            self.trial = Some(trial);
            return None;
        }
        let late = self.reads.intervals >= MEASURE_LONGEST;
        let Some(after) = self.reads.cost(self.costs) else {
            // When nobody reads, nothing is known, and nothing is lost.
            self.trial = Some(trial).filter(|_| !late);
            return None;
        };
        if after.is_below(trial.before) {
            // The next step goes the same way, as long as it pays.
            (self.failed, self.pause) = ([false; 2], PAUSE_FIRST);
            self.failed[1 - at] = true;
            return None;
        }
        if !trial.before.is_below(after) && !late {
            self.trial = Some(trial);
            return None;
        }
        self.failed[at] = true;
        let why = SizeReason::Undone { cost: [trial.before.mean, after.mean] };
        let giver = trial.step.from.map(place)?;
        let back = self.step(seen, Some(at), giver, trial.step.bytes, why);
        if back.is_none() && trial.age < UNDO_LONGEST {
            // It is too full to give anything up just now.
            self.trial = Some(trial);
        }
        back
    }

    // ---- steps ----

    /// A step of so many bytes at most, as far as bounds and pages let it be made.
    fn step(
        &self,
        seen: &Observed,
        from: Option<usize>,
        to: usize,
        most: u64,
        why: SizeReason,
    ) -> Option<Step> {
        let receiver = &seen.regions[to];
        let mut bytes = ((seen.memory as f64 * self.step) as u64).min(most);
        bytes = bytes.min(receiver.most.saturating_sub(receiver.bytes));
        let mut page = receiver.page.max(1);
        match from.map(|at| &seen.regions[at]) {
            None => bytes = bytes.min(seen.free),
            Some(giver) => {
                let undone = matches!(why, SizeReason::Undone { .. });
                // Above the critical threshold appends would soon have to wait, for the sake of a step. A warm region that
                // is too full keeps nobody out.
                let in_use = if undone && from == Some(WARM) { 0.0 } else { giver.used as f64 };
                let in_use = (in_use / self.thresholds.critical).ceil() as u64;
                let part = match why {
                    SizeReason::Undone { .. } => u64::MAX,
                    // So that it can be taken back as it is made.
                    SizeReason::Reads { .. } if to == HOT => giver.bytes.min(receiver.bytes) / PART,
                    SizeReason::Reads { .. } => (giver.bytes / PART).min(receiver.bytes / PART_OF_WARM),
                    _ => giver.bytes / PART,
                };
                bytes = bytes.min(part).min(giver.bytes.saturating_sub(giver.least.max(in_use)));
                page = page.max(giver.page);
            }
        }
        // Page sizes are powers of two, so what is whole pages of the larger is whole pages of both.
        bytes = bytes / page * page;
        (bytes > 0).then(|| Step { from: from.map(|at| REGIONS[at]), to: REGIONS[to], bytes, why })
    }
}

#[cfg(test)]
mod tests;
