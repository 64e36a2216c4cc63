//! One seed's run: a store, its reference, and the choice of what to do next.

use std::collections::{BTreeMap, VecDeque};

use esker::{Class, Clock, ErrorKind, RegionKind, Stats, Store, Stream};

use crate::crash::FaultTotals;
use crate::faults::Trouble;
use crate::power::Logged;
use crate::reference::{Checked, Reference, ensure};
use crate::rng::Rng;
use crate::setup::{Below, Kind, Setup};

/// Steps that a fault's report names, unless `ESKER_NOTES` says how many.
const NOTES: usize = 15;

/// What was counted since the store was opened, to be compared with its own figures.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) stored: u64,
    pub(crate) duplicates: u64,
    pub(crate) refused: u64,
    pub(crate) removed: u64,
    pub(crate) removed_from_memory: u64,
    /// Events outside of their class's window: refused, clamped, dead-lettered.
    pub(crate) outside: [u64; 3],
    /// Events that were in the pages which the store took over.
    pub(crate) taken_over: u64,
}

/// What a whole run did, so that a tester which tests nothing is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) stored: u64,
    pub(crate) duplicates: u64,
    pub(crate) removed: u64,
    /// Appends that waited for room in a store that could make it, and those that were refused all the same.
    pub(crate) fair_tries: u64,
    pub(crate) fair_refusals: u64,
    pub(crate) large_tries: u64,
    pub(crate) large_refusals: u64,
    /// Ids that came again just when their first event left memory.
    pub(crate) doubled: u64,
    pub(crate) cold_reads: u64,
    pub(crate) demoted: u64,
    pub(crate) released: u64,
    pub(crate) expired: u64,
    pub(crate) dropped: u64,
    pub(crate) expired_blocks: u64,
    pub(crate) outside: [u64; 3],
    pub(crate) replayed: u64,
    pub(crate) by_stream: u64,
    pub(crate) reopened: u64,
    pub(crate) abandoned: u64,
    pub(crate) resized: u64,
    /// Changes of sizes that followed the load.
    pub(crate) adapted: u64,
    /// Sparse pages that were packed.
    pub(crate) packed: u64,
    /// Pages that were moved off the upper part of a region.
    pub(crate) relocated: u64,
    /// Events that were unpacked again, moves of a policy that were refused, and how often the engine kept the budget.
    pub(crate) promoted: u64,
    pub(crate) refused_moves: u64,
    pub(crate) safety_plans: u64,
    pub(crate) faults: FaultTotals,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.removed += other.removed;
        self.fair_tries += other.fair_tries;
        self.fair_refusals += other.fair_refusals;
        self.large_tries += other.large_tries;
        self.large_refusals += other.large_refusals;
        self.doubled += other.doubled;
        self.cold_reads += other.cold_reads;
        self.demoted += other.demoted;
        self.released += other.released;
        self.expired += other.expired;
        self.dropped += other.dropped;
        self.expired_blocks += other.expired_blocks;
        for (sum, more) in self.outside.iter_mut().zip(other.outside) {
            *sum += more;
        }
        self.replayed += other.replayed;
        self.by_stream += other.by_stream;
        self.reopened += other.reopened;
        self.abandoned += other.abandoned;
        self.resized += other.resized;
        self.adapted += other.adapted;
        self.relocated += other.relocated;
        self.promoted += other.promoted;
        self.refused_moves += other.refused_moves;
        self.safety_plans += other.safety_plans;
        self.packed += other.packed;
        self.faults.add(&other.faults);
    }

    /// The same for stores with threads of their own: how often the sizes of regions follow the load depends on how long a
    /// run takes.
    #[allow(dead_code, reason = "for the tests that have threads")]
    pub(crate) fn check_but_for_time(&self) {
        Self { adapted: u64::MAX, ..*self }.check();
    }

    /// Everything that many seeds together should meet has been met, not just once.
    pub(crate) fn check(&self) {
        let met = [
            ("stored", self.stored, 20_000),
            ("duplicates", self.duplicates, 500),
            ("removed", self.removed, 150),
            ("cold reads", self.cold_reads, 2000),
            ("demoted", self.demoted, 5000),
            ("released", self.released, 3000),
            ("expired", self.expired, 500),
            ("dropped", self.dropped, 500),
            ("expired blocks", self.expired_blocks, 50),
            ("refused for their time", self.outside[0], 60),
            ("clamped", self.outside[1], 60),
            ("dead letters", self.outside[2], 60),
            ("replayed", self.replayed, 50),
            ("of their stream's class", self.by_stream, 500),
            ("reopened", self.reopened, 20),
            ("abandoned", self.abandoned, 5),
            ("resized", self.resized, 50),
            ("adapted", self.adapted, 10),
            ("relocated", self.relocated, 15),
            ("promoted", self.promoted, 50),
            ("refused moves", self.refused_moves, 50),
            ("plans of the engine's own", self.safety_plans, 3),
            ("packed", self.packed, 50),
        ];
        for (what, count, least) in met {
            assert!(count >= least, "the seeds met only {count} of at least {least} {what}: {self:?}");
        }
    }
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) setup: Setup,
    pub(crate) clock: Clock,
    pub(crate) store: Option<Store>,
    pub(crate) reference: Reference,
    pub(crate) tally: Tally,
    pub(crate) totals: Totals,
    pub(crate) classes: Vec<Class>,
    /// Classes of streams that were set since the store was opened.
    pub(crate) set: BTreeMap<Stream, usize>,
    pub(crate) names: Vec<(String, Stream)>,
    pub(crate) logged: Logged,
    pub(crate) recent: VecDeque<u64>,
    pub(crate) next_id: u64,
    pub(crate) fresh_stream: u64,
    /// Whether the cold tier may fail now, and whether what it gives may be altered.
    pub(crate) down: bool,
    pub(crate) altered: bool,
    /// Whether a reader is being held over other steps.
    pub(crate) nested: bool,
    pub(crate) pinned: bool,
    /// How many steps the figures of blocks that failed their checksums are not looked at.
    pub(crate) was_altered: bool,
    weights: [u64; OPERATIONS.len()],
    notes: VecDeque<String>,
    most_notes: usize,
    /// Whether the notes are to say all that a run comes to, so that two can be compared.
    traces: bool,
    pub(crate) steps: usize,
}

type Operation = fn(&mut World) -> Checked;

/// Everything that can happen, with its usual weight and whether it can happen while a reader is held.
const OPERATIONS: [(&str, u64, bool, Operation); 33] = [
    ("append", 160, true, World::append),
    ("append_batch", 60, true, World::append_batch),
    ("append a duplicate", 20, true, World::append_duplicate),
    ("append a bad event", 3, false, World::append_bad),
    ("get", 50, false, World::check_get),
    ("read again and again", 4, false, World::read_again),
    ("fetch", 30, false, World::check_fetch),
    ("history", 20, false, World::check_history),
    ("fetch_history", 20, false, World::check_fetch_history),
    ("scan", 8, false, World::check_scan),
    ("fetch_scan", 8, false, World::check_fetch_scan),
    ("remove", 26, true, World::remove),
    ("clock", 60, true, World::clock_step),
    ("clock jump", 6, true, World::clock_jump),
    ("maintain", 30, true, World::maintain),
    ("flush", 3, true, World::flush),
    ("sync", 6, true, World::sync),
    ("let all leave", 1, true, World::let_all_leave),
    ("check everything", 5, false, World::check_everything),
    ("read while others write", 8, false, World::read_while_writing),
    ("hold a guard", 4, false, World::hold_a_guard),
    ("names", 5, true, World::check_names),
    ("classes of streams", 6, true, World::set_classes),
    ("dead letters", 6, true, World::settle_dead_letters),
    ("tier down or up", 3, false, World::toggle_tier),
    ("close and reopen", 2, false, World::reopen),
    ("resize", 6, true, World::resize),
    ("abandon and reopen", 1, false, World::abandon),
    // Those of `Kind::Faults` alone.
    ("crash", 4, false, World::crash),
    ("crash in the middle", 8, false, World::crash_in_the_middle),
    ("a sync fails", 2, false, World::fail_syncs),
    ("syncs lie", 1, false, World::lie_about_syncs),
    ("power is lost in a turn", 3, false, World::lose_power_in_a_turn),
];
/// How many of the last ones are those.
const FAULTS: usize = 5;

impl World {
    pub(crate) fn new(seed: u64, kind: Kind) -> Self {
        let mut rng = Rng::new(seed);
        let setup = Setup::new(&mut rng, kind);
        let start = rng.pick(&[1_700_000_000_000, 1_700_000_000_000, 1_000_000, 0, -5_000_000]);
        // Seeds differ in what they do most.
        let usual: [u64; OPERATIONS.len()] = std::array::from_fn(|at| match rng.weighted(&[6, 2, 2]) {
            0 => OPERATIONS[at].1 * 4,
            1 => OPERATIONS[at].1 * 2,
            _ => OPERATIONS[at].1 * 7,
        });
        let weights = std::array::from_fn(|at| {
            let is_fault = at >= OPERATIONS.len() - FAULTS;
            match (kind, OPERATIONS[at].0) {
                (Kind::Faults, "tier down or up") => usual[at] * 6,
                (Kind::Faults, _) if is_fault => usual[at] * 2,
                _ if is_fault => 0,
                _ => usual[at],
            }
        });
        Self {
            rng,
            setup,
            clock: Clock::manual(start),
            store: None,
            reference: Reference::default(),
            tally: Tally::default(),
            totals: Totals::default(),
            classes: Vec::new(),
            set: BTreeMap::new(),
            names: Vec::new(),
            logged: Logged::default(),
            recent: VecDeque::new(),
            next_id: 1,
            fresh_stream: 1 << 32,
            down: false,
            altered: false,
            was_altered: false,
            nested: false,
            pinned: false,
            weights,
            notes: VecDeque::new(),
            most_notes: std::env::var("ESKER_NOTES").map_or(NOTES, |count| count.parse().unwrap()),
            traces: false,
            steps: 0,
        }
    }

    /// Notes every step, and what the store's figures are after it.
    pub(crate) fn trace(&mut self) {
        (self.traces, self.most_notes) = (true, usize::MAX);
    }

    pub(crate) fn notes(&self) -> impl Iterator<Item = &str> {
        self.notes.iter().map(String::as_str)
    }

    /// Takes that many steps, then checks everything once more.
    pub(crate) fn run(&mut self, steps: usize) -> Checked {
        let now = self.clock.now_ms();
        self.reference.set_clock(now);
        self.open()?;
        while self.steps < steps {
            self.step()?;
        }
        self.note("the last check".into());
        self.tier_up();
        self.check_everything()?;
        self.reopen()?;
        self.check_everything()?;
        self.gather_totals();
        self.totals.faults.calls = self.setup.faults.counts();
        let Totals { fair_tries, fair_refusals, .. } = self.totals;
        // Short runs say little of this.
        let is_long = self.setup.kind != Kind::Faults;
        ensure!(
            !is_long || fair_refusals * 50 <= fair_tries || fair_refusals < 10,
            "{fair_refusals} of {fair_tries} appends of ordinary size were refused although room could be made"
        );
        Ok(())
    }

    pub(crate) fn step(&mut self) -> Checked {
        let mut weights = self.weights;
        for (weight, (_, _, nested, _)) in weights.iter_mut().zip(&OPERATIONS) {
            if self.nested && !nested {
                *weight = 0;
            }
        }
        let (name, _, _, operation) = OPERATIONS[self.rng.weighted(&weights)];
        self.steps += 1;
        self.note(name.to_string());
        let (step, serial) = (self.steps, self.reference.serial);
        operation(self)?;
        self.look_at_log(step, serial);
        if self.traces {
            let figures = figures(self.store().stats());
            self.detail(|| figures);
        }
        // Not in the middle of another step, whose call may have been cut off.
        if self.setup.kind == Kind::Faults && !self.nested { self.validate() } else { Ok(()) }
    }

    pub(crate) fn store(&self) -> Store {
        self.store.clone().unwrap_or_else(|| unreachable!("the store is open between steps"))
    }

    /// Whether nothing happens unless a step does it.
    pub(crate) fn is_alone(&self) -> bool {
        !self.setup.threads
    }

    fn note(&mut self, text: String) {
        if self.notes.len() == self.most_notes {
            self.notes.pop_front();
        }
        self.notes.push_back(format!("{}: {text}", self.steps));
    }

    /// Says more of the step that is being taken.
    pub(crate) fn detail(&mut self, text: impl FnOnce() -> String) {
        if let Some(last) = self.notes.back_mut() {
            last.push_str(&format!(" {}", text()));
        }
    }

    pub(crate) fn report(&self) -> String {
        let notes: Vec<&str> = self.notes().collect();
        format!("store: {}\nlast steps:\n  {}", self.setup.describe(), notes.join("\n  "))
    }

    pub(crate) fn validate(&self) -> Checked {
        self.store().validate().map_err(|error| format!("validate: {error}"))
    }

    // ---- time ----

    pub(crate) fn set_clock(&mut self, now_ms: i64) {
        self.clock.set_ms(now_ms);
        self.reference.set_clock(now_ms);
    }

    pub(crate) fn clock_step(&mut self) -> Checked {
        let by = self.rng.within(0, 2_000);
        self.set_clock(self.reference.now_ms + by);
        Ok(())
    }

    pub(crate) fn clock_jump(&mut self) -> Checked {
        let class = self.rng.index(self.setup.classes.len());
        let class = &self.setup.classes[class];
        let age = match self.rng.below(4) {
            0 => class.hot_for,
            1 => class.warm_for,
            2 => class.retention.unwrap_or(class.warm_for),
            _ => class.hot_for / 2,
        };
        let by = age.as_millis() as i64 + self.rng.within(-1, 1);
        let by = if self.rng.chance(20) { -self.rng.within(0, by.max(0)) } else { by };
        self.detail(|| format!("by {by} ms"));
        self.set_clock(self.reference.now_ms + by);
        Ok(())
    }

    // ---- the work of the store's threads ----

    /// A call of the cold tier may fail while it is down, and only then.
    pub(crate) fn tier_said<T>(&self, outcome: esker::Result<T>, what: &str) -> Checked<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.down && error.kind() == ErrorKind::Cold => Ok(None),
            // Where the version is altered, nothing else can be told.
            Err(error)
                if self.altered && matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incompatible) =>
            {
                Ok(None)
            }
            Err(error) => Err(format!("{what}: {error:?}")),
        }
    }

    pub(crate) fn maintain(&mut self) -> Checked {
        let store = self.store();
        let outcome = self.slowly(|| store.maintain());
        self.tier_said(outcome, "maintain").map(drop)
    }

    pub(crate) fn flush(&mut self) -> Checked {
        let store = self.store();
        let outcome = self.slowly(|| store.flush(std::time::Duration::from_secs(3600)));
        if self.tier_said(outcome, "flush")?.is_some() && self.setup.has_tier() {
            let setup = &self.setup;
            for entry in self.reference.events.values_mut() {
                entry.confirmed = !setup.drops(entry.class);
            }
        }
        Ok(())
    }

    /// Everything reaches the age at which it leaves memory.
    pub(crate) fn let_all_leave(&mut self) -> Checked {
        let ages = self.setup.classes.iter().map(|class| class.warm_for.as_millis() as i64);
        let longest = ages.max().unwrap_or(0);
        self.flush()?;
        self.set_clock(self.reference.now_ms + longest);
        self.maintain()
    }

    /// Gives a region another size while everything goes on.
    pub(crate) fn resize(&mut self) -> Checked {
        let (kind, from, to) = self.rng.pick(&[
            (RegionKind::Hot, 256, 4096),
            (RegionKind::Warm, 32, 2048),
            (RegionKind::Index, 48, 1024),
        ]);
        let bytes = self.rng.within(from, to) as u64 * 1024;
        // What keeps pages where they are does not go away in a store without threads.
        let limit = std::time::Duration::from_millis(if self.setup.threads { 200 } else { 30 });
        let store = self.store();
        let before = store.stats().region(kind).max_bytes;
        self.detail(|| format!("{kind} from {before} to {bytes}"));
        match store.resize_region(kind, bytes, limit) {
            Ok(report) => {
                let now = store.stats().region(kind).max_bytes;
                let enough = report.to_bytes <= before.max(bytes) && report.to_bytes >= report.wanted_bytes;
                // Where sizes follow the load, a thread may change them just before and just after.
                let alone = !self.setup.threads || !self.setup.adapts();
                ensure!(!alone || now == report.to_bytes && enough, "{report:?}, and now it is {now}");
                self.totals.resized += u64::from(report.is_complete());
                self.totals.relocated += report.moved_pages;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
            Err(error) => Err(format!("resize: {error:?}")),
        }
    }

    /// Lets calls of the tier fail from now on, or no more.
    pub(crate) fn toggle_tier(&mut self) -> Checked {
        if self.down {
            self.tier_up();
            return Ok(());
        }
        let failing = Trouble::Failing(self.rng.pick(&[100, 50, 20]));
        let trouble = match &self.setup.below {
            Below::Map(_) if self.setup.kind == Kind::Faults && self.rng.chance(30) => Trouble::Altered(30),
            Below::Map(_) => failing,
            // A call there reads or writes many times.
            Below::Sim(_) => Trouble::Failing(self.rng.pick(&[100, 10, 1])),
            Below::Nothing | Below::Disk(_) => return Ok(()),
        };
        self.setup.faults.set(trouble);
        self.down = true;
        self.altered = matches!(trouble, Trouble::Altered(_));
        self.was_altered |= self.altered;
        self.detail(|| format!("{trouble:?}"));
        Ok(())
    }

    /// Ends what is wrong with the tier, unless nothing can.
    pub(crate) fn tier_up(&mut self) {
        self.setup.faults.set(Trouble::None);
        let refuses = matches!(&self.setup.below, Below::Sim(disk) if disk.sync_has_failed());
        (self.down, self.altered) = (refuses || self.setup.faults.may_die(), false);
    }
}

/// What must be the same whenever a seed is run: all but times and addresses.
fn figures(stats: Stats) -> String {
    let Stats { pressure, regions, defrag, events, eviction, admission, mut cold, mut log, sizing, .. } =
        stats;
    let used = regions.map(|region| (region.used_pages, region.max_bytes));
    (cold.spill, cold.load) = Default::default();
    (log.since_sync, log.sync) = Default::default();
    let of_memory = format!("{pressure:?} {used:?} {defrag:?} {events:?} {eviction:?} {admission:?}");
    format!("\n    {of_memory} {cold:?} {log:?} {sizing:?}")
}
