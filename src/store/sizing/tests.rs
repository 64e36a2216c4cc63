//! The controller against a made-up store, of which the best split is known.

use super::*;

const MIB: u64 = 1 << 20;

/// A store of which every region is full, and that is read by age: `reads(age)` is how many of a thousand reads are for
/// events not older than that many bytes of records.
struct Toy {
    regions: [Seen; 3],
    compression: u64,
    reads: fn(f64) -> f64,
    stayed: [Option<u32>; 2],
    index_full: bool,
    per_interval: u64,
}

impl Toy {
    fn new(hot: u64, warm: u64, reads: fn(f64) -> f64) -> Self {
        let seen = |bytes: u64| Seen {
            bytes,
            used: bytes / 5 * 4,
            least: 2 * MIB,
            most: 60 * MIB,
            page: 64 << 10,
            wanted: 1e12,
        };
        let mut regions = [seen(hot), seen(warm), seen(8 * MIB)];
        regions[INDEX].wanted = 0.0;
        Self {
            regions,
            compression: 4,
            reads,
            stayed: [Some(100); 2],
            index_full: false,
            per_interval: 20_000,
        }
    }

    fn shares(&self) -> [f64; 3] {
        let hot = self.regions[HOT].used as f64;
        let memory = hot + (self.regions[WARM].used * self.compression) as f64;
        let [hot, memory] = [hot, memory].map(|bytes| (self.reads)(bytes / MIB as f64));
        [hot, memory - hot, 1.0 - memory]
    }

    fn cost(&self) -> f64 {
        let [hot, warm, cold] = self.shares();
        hot + 30.0 * warm + 1000.0 * cold
    }

    fn sum(&self) -> u64 {
        self.regions.iter().map(|region| region.bytes).sum()
    }

    fn observed(&self, noise: &mut u64) -> Observed {
        // Counts as draws would give them: around their mean, as far off as that many draws are.
        let count = self.per_interval as f64;
        let reads = self.shares().map(|share| {
            let mut sum = 0.0;
            for _ in 0..12 {
                *noise =
                    noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                sum += (*noise >> 11) as f64 / (1u64 << 53) as f64;
            }
            (count * share + (sum - 6.0) * (count * share * (1.0 - share)).sqrt()).round() as u64
        });
        Observed {
            elapsed_ms: 10_000,
            memory: 80 * MIB,
            free: 0,
            regions: self.regions,
            reads,
            stayed: self.stayed,
            index_full: self.index_full,
        }
    }

    fn make(&mut self, step: Step) {
        if let Some(from) = step.from {
            let from = &mut self.regions[place(from)];
            from.bytes -= step.bytes;
            from.used = from.used.min(from.bytes / 5 * 4);
        }
        let to = &mut self.regions[place(step.to)];
        to.bytes += step.bytes;
        to.used = to.bytes / 5 * 4;
        for region in &self.regions {
            assert!((region.least..=region.most).contains(&region.bytes), "{region:?}");
        }
    }

    /// So many intervals. The steps that were made.
    fn run(&mut self, controller: &mut Controller, intervals: usize) -> Vec<Step> {
        let (sum, mut steps, mut noise) = (self.sum(), Vec::new(), 7);
        let mut last = -10;
        for interval in 0..intervals as i64 {
            let seen = self.observed(&mut noise);
            let Some(step) = controller.look(&seen) else { continue };
            assert!(step.bytes <= 80 * MIB / 32 && step.bytes > 0, "{step:?}");
            let undone = matches!(step.why, SizeReason::Undone { .. });
            assert!(undone || interval - last >= 3, "a step before the rest is over: {step:?}");
            last = interval;
            self.make(step);
            assert!(self.sum() <= sum + seen.free);
            controller.made(step, step.bytes);
            steps.push(step);
        }
        steps
    }
}

fn controller() -> Controller {
    Controller::new(&Adaptive::new(), Thresholds::default())
}

/// Nearly all reads are for the newest 40 MiB, a few for anything up to 1000.
fn recent(mib: f64) -> f64 {
    0.999 * (mib / 40.0).min(1.0) + 0.001 * (mib / 1000.0).min(1.0)
}

/// Any event of the newest 150 MiB.
fn wide(mib: f64) -> f64 {
    (mib / 150.0).min(1.0)
}

#[test]
fn reads_of_new_events_make_the_hot_region_larger() {
    let mut toy = Toy::new(20 * MIB, 40 * MIB, recent);
    let before = toy.cost();
    let steps = toy.run(&mut controller(), 400);
    assert!(toy.regions[HOT].bytes >= 38 * MIB, "{toy:?}", toy = toy.regions);
    assert!(toy.cost() < 0.6 * before, "{} instead of {before}", toy.cost());
    assert!(steps.iter().any(|step| step.why.is_trial()));
}

#[test]
fn reads_of_old_events_make_the_warm_region_larger_and_it_follows_when_they_change() {
    let mut controller = controller();
    let mut toy = Toy::new(40 * MIB, 20 * MIB, wide);
    let before = toy.cost();
    toy.run(&mut controller, 300);
    let (cost, warm) = (toy.cost(), toy.regions[WARM].bytes);
    assert!(cost < 0.5 * before && warm > 28 * MIB, "{cost} instead of {before}: {:?}", toy.regions);
    // Other reads: it goes the other way.
    toy.reads = recent;
    let before = toy.cost();
    toy.run(&mut controller, 600);
    assert!(toy.regions[HOT].bytes > 36 * MIB, "{:?}", toy.regions);
    assert!(toy.cost() < before);
}

/// Few reads for each interval, and a region that has next to nothing: what a step brings is not much more than noise.
#[test]
fn a_warm_region_that_is_small_grows_again() {
    let mut toy = Toy::new(48 * MIB, 8 * MIB, wide);
    (toy.compression, toy.per_interval) = (2, 4000);
    toy.run(&mut controller(), 300);
    assert!(toy.regions[WARM].bytes > 30 * MIB, "{:?}", toy.regions);
}

#[test]
fn a_steady_load_comes_to_rest() {
    for reads in [recent, wide] {
        let (mut controller, mut toy) = (controller(), Toy::new(30 * MIB, 30 * MIB, reads));
        toy.run(&mut controller, 400);
        let (rested, cost) = (toy.regions, toy.cost());
        let steps = toy.run(&mut controller, 2000);
        // A trial now and then, each taken back: every 64 rests at last.
        assert!(steps.len() <= 60, "{} steps in 2,000 intervals", steps.len());
        let away = toy.regions[HOT].bytes.abs_diff(rested[HOT].bytes);
        assert!(away <= 2 * 80 * MIB / 32, "{rested:?} became {:?}", toy.regions);
        assert!(toy.cost() <= cost * 1.1, "{} after {cost}", toy.cost());
    }
}

#[test]
fn a_trial_that_brings_nothing_is_taken_back() {
    // Every read is for events that are in no tier of memory, wherever the border is.
    let mut toy = Toy::new(30 * MIB, 30 * MIB, |_| 0.0);
    let steps = toy.run(&mut controller(), 100);
    let (trials, undone): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(|step| step.why.is_trial());
    assert!(!trials.is_empty() && undone.len() == trials.len(), "{steps:?}");
    assert!(undone.iter().all(|step| matches!(step.why, SizeReason::Undone { .. })), "{steps:?}");
    assert_eq!(toy.regions[HOT].bytes, 30 * MIB);
}

#[test]
fn a_region_gives_what_it_does_not_need_and_keeps_headroom() {
    let mut toy = Toy::new(30 * MIB, 30 * MIB, recent);
    (toy.stayed, toy.regions[WARM].wanted) = ([Some(400), Some(1000)], 8e6);
    toy.regions[WARM].used = 8 * MIB;
    let steps = toy.run(&mut controller(), 200);
    assert!(steps.iter().take(5).all(|step| matches!(step.why, SizeReason::Spare { stayed: 400, .. })));
    let warm = toy.regions[WARM];
    assert!((warm.used * 5 / 4..16 * MIB).contains(&warm.bytes), "{warm:?}");
}

/// While a store fills up for the first time, what is empty is not to spare.
#[test]
fn a_region_that_will_be_needed_gives_nothing() {
    let mut toy = Toy::new(30 * MIB, 30 * MIB, wide);
    toy.stayed = [Some(1000), Some(300)];
    (toy.regions[HOT].used, toy.regions[HOT].wanted) = (MIB, 30e6);
    toy.per_interval = 0;
    assert_eq!(toy.run(&mut controller(), 50), []);
    // A load that grows asks for more than it did.
    let mut trend = Trend::default();
    (0..10).for_each(|_| trend.add(10e6));
    assert_eq!(trend.needed(0), 12_500_000);
    trend.add(20e6);
    assert!((16_000_000..30_000_000).contains(&trend.needed(0)), "{}", trend.needed(0));
}

#[test]
fn an_index_that_is_full_comes_first_and_memory_of_nobody_is_used() {
    let mut toy = Toy::new(30 * MIB, 20 * MIB, recent);
    toy.index_full = true;
    let mut controller = controller();
    let steps = toy.run(&mut controller, 1);
    assert_eq!((steps[0].from, steps[0].to), (Some(RegionKind::Hot), RegionKind::Index));
    assert_eq!(steps[0].why, SizeReason::IndexFull);
    let mut seen = toy.observed(&mut 1);
    (seen.free, seen.elapsed_ms) = (MIB, 60_000);
    let step = controller.look(&seen).unwrap();
    assert_eq!((step.from, step.bytes), (None, MIB), "what no region has is taken first");
    (seen.index_full, seen.stayed) = (false, [Some(100), Some(900)]);
    let step = controller.look(&seen).unwrap();
    assert_eq!((step.from, step.to), (None, RegionKind::Hot));
    assert_eq!(step.why, SizeReason::Unassigned { stayed: 100 });
}

#[test]
fn bounds_are_kept_and_a_full_region_is_not_made_smaller() {
    let mut toy = Toy::new(20 * MIB, 40 * MIB, recent);
    toy.regions[WARM].least = 36 * MIB;
    toy.run(&mut controller(), 300);
    assert!(toy.regions[WARM].bytes >= 36 * MIB);
    let mut toy = Toy::new(20 * MIB, 40 * MIB, recent);
    toy.regions[HOT].most = 23 * MIB;
    toy.run(&mut controller(), 300);
    assert!(toy.regions[HOT].bytes <= 23 * MIB);
    let mut toy = Toy::new(20 * MIB, 40 * MIB, recent);
    (toy.regions[HOT].used, toy.regions[WARM].used) = (19 * MIB, 37 * MIB);
    let mut noise = 3;
    let mut controller = controller();
    assert!((0..50).all(|_| controller.look(&toy.observed(&mut noise)).is_none()), "it is above critical");
}

#[test]
fn without_reads_or_pressure_nothing_moves() {
    let mut toy = Toy::new(20 * MIB, 40 * MIB, recent);
    toy.per_interval = 0;
    assert_eq!(toy.run(&mut controller(), 200), [], "nobody reads");
    let mut toy = Toy::new(20 * MIB, 40 * MIB, recent);
    toy.stayed = [Some(1000), None];
    assert_eq!(toy.run(&mut controller(), 200), [], "all pages stay for their time");
}

#[test]
fn nonsense_asks_for_nothing_that_cannot_be() {
    let mut controller = controller();
    assert_eq!(controller.look(&Observed::default()), None);
    let numbers = [0, 1, 4096, 7 << 20, u64::MAX / 2, u64::MAX];
    let mut at = 0usize;
    let mut next = || {
        at = at.wrapping_mul(1_103_515_245).wrapping_add(12_345) & 0x7fff_ffff;
        numbers[at / 7 % numbers.len()]
    };
    for round in 0..20_000 {
        let mut region = || Seen {
            bytes: next(),
            used: next(),
            least: next(),
            most: next(),
            page: next(),
            wanted: [f64::NAN, f64::INFINITY, -1.0, 1e9][round % 4],
        };
        let seen = Observed {
            regions: [region(), region(), region()],
            elapsed_ms: next() / 1000,
            memory: next(),
            free: next(),
            reads: [next(), next(), next()],
            stayed: [Some(next() as u32), Some(next() as u32)],
            index_full: next() > 4096,
        };
        let Some(step) = controller.look(&seen) else { continue };
        assert!(step.bytes > 0 && step.bytes <= seen.memory / 16 + 1, "{step:?} of {seen:?}");
        let to = &seen.regions[place(step.to)];
        assert!(
            to.bytes.checked_add(step.bytes).is_some_and(|bytes| bytes <= to.most),
            "{step:?} of {seen:?}"
        );
        if let Some(from) = step.from {
            let from = &seen.regions[place(from)];
            assert!(from.bytes - step.bytes >= from.least, "{step:?} of {seen:?}");
        }
        controller.made(step, if round % 3 == 0 { 0 } else { step.bytes });
    }
}
