//! Sizes of regions that follow the load, and the sizes to begin with.

use std::time::Duration;

use crate::config::{ClassConfig, ConfigFault};
use crate::pressure::RegionKind;

/// Bytes that a record takes beside metadata and payload.
const RECORD: u64 = 40;
/// Bytes of the index for an event whose id is not one of a sequence, and for one whose id is.
const ENTRY: f64 = 20.0;
const ENTRY_IN_SEQUENCE: f64 = 8.0;
/// Bytes of the index for each stream.
const STREAM: f64 = 100.0;

/// The load that is expected of a class, from which the sizes of the regions can be estimated.
///
/// Each size is *base × growth × headroom*. The base of the hot region is events a second × bytes of a record × `hot_for`;
/// that of the warm region is the same for the time from `hot_for` to `warm_for`, divided by the compression; that of the
/// index is 20 bytes for each event in memory (8 with [`ids_in_sequence`](Self::ids_in_sequence)), and 100 for each stream.
///
/// ```
/// use std::time::Duration;
/// use esker::{ByteSize, ClassConfig, ExpectedLoad};
///
/// let hours = |count: u64| Duration::from_secs(3600 * count);
/// let calls = ClassConfig::new("calls").hot_for(hours(1)).warm_for(hours(4));
/// // 1,000 events a second of 216 bytes, nothing on top: records take 256 bytes.
/// let load = ExpectedLoad::new(1_000.0, 216).growth(1.0).headroom(1.0).compression(4.0);
/// let sizes = load.estimate(&calls);
/// assert_eq!(sizes.hot, 1_000 * 256 * 3_600);
/// assert_eq!(sizes.warm, 1_000 * 256 * 3 * 3_600 / 4);
/// assert_eq!(sizes.index, 1_000 * 4 * 3_600 * 20);
/// println!("about {} beside buffers", ByteSize::new(sizes.total()));
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ExpectedLoad {
    /// The class; `None`: the default one.
    pub class: Option<String>,
    /// Events a second.
    pub events_per_second: f64,
    /// Bytes of an event's metadata and payload.
    pub event_bytes: u64,
    /// By how much the load may grow until sizes are looked at again (default 1.2).
    pub growth: f64,
    /// By how much a region is larger than what it is to hold (default 1.25, since pages leave early above a fill of 0.80).
    pub headroom: f64,
    /// Bytes of hot records that become one byte of the warm region (default 3).
    pub compression: f64,
    /// Streams that have events in memory (default: not counted).
    pub streams: u64,
    /// Bytes of the index for an event.
    index_bytes: f64,
}

/// The sizes that a load asks for, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SizeEstimate {
    /// Of the hot region.
    pub hot: u64,
    /// Of the warm region.
    pub warm: u64,
    /// Of the index.
    pub index: u64,
}

impl SizeEstimate {
    /// All three together. Page table and buffers come on top: about an eighth.
    pub fn total(&self) -> u64 {
        self.hot.saturating_add(self.warm).saturating_add(self.index)
    }

    fn add(&mut self, other: Self) {
        self.hot = self.hot.saturating_add(other.hot);
        self.warm = self.warm.saturating_add(other.warm);
        self.index = self.index.saturating_add(other.index);
    }
}

impl ExpectedLoad {
    /// So many events a second, each of so many bytes of metadata and payload, of the default class.
    pub fn new(events_per_second: f64, event_bytes: u64) -> Self {
        Self {
            class: None,
            events_per_second,
            event_bytes,
            growth: 1.2,
            headroom: 1.25,
            compression: 3.0,
            streams: 0,
            index_bytes: ENTRY,
        }
    }

    /// Of which class the events are.
    #[must_use]
    pub fn class(mut self, name: impl Into<String>) -> Self {
        self.class = Some(name.into());
        self
    }

    /// By how much the load may grow.
    #[must_use]
    pub fn growth(mut self, factor: f64) -> Self {
        self.growth = factor;
        self
    }

    /// By how much a region is larger than what it is to hold.
    #[must_use]
    pub fn headroom(mut self, factor: f64) -> Self {
        self.headroom = factor;
        self
    }

    /// Bytes of hot records that become one byte of the warm region.
    #[must_use]
    pub fn compression(mut self, ratio: f64) -> Self {
        self.compression = ratio;
        self
    }

    /// Streams that have events in memory.
    #[must_use]
    pub fn streams(mut self, count: u64) -> Self {
        self.streams = count;
        self
    }

    /// Says that ids come in sequence, which takes less of the index.
    #[must_use]
    pub fn ids_in_sequence(mut self) -> Self {
        self.index_bytes = ENTRY_IN_SEQUENCE;
        self
    }

    /// What regions would have to have for it. Numbers that are none count as zero.
    pub fn estimate(&self, class: &ClassConfig) -> SizeEstimate {
        let seconds = |age: Duration| class.retention.map_or(age, |end| age.min(end)).as_secs_f64();
        let record = self.event_bytes.saturating_add(RECORD).next_multiple_of(8) as f64;
        let bytes_a_second = self.events_per_second * record;
        let hot_for = if class.compress { class.hot_for.min(class.warm_for) } else { class.warm_for };
        let (hot_for, in_memory) = (seconds(hot_for), seconds(class.warm_for));
        let reserve = self.growth * self.headroom;
        // What is no number, or negative, becomes zero.
        let bytes = |base: f64| (base * reserve).round() as u64;
        SizeEstimate {
            hot: bytes(bytes_a_second * hot_for),
            warm: bytes(bytes_a_second * (in_memory - hot_for) / self.compression.max(1.0)),
            index: bytes(
                self.events_per_second * in_memory * self.index_bytes + self.streams as f64 * STREAM,
            ),
        }
    }
}

/// The least and the most that a region may have, as shares of what hot, warm and index have together.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct SizeLimits {
    /// It is not made smaller than this.
    pub least: f64,
    /// Nor larger than this.
    pub most: f64,
}

/// Sizes of hot, warm and index region that follow the load within [`Config::memory`](crate::Config::memory). Off unless
/// [`ConfigBuilder::adaptive_sizing`](crate::ConfigBuilder::adaptive_sizing) is given one.
///
/// At intervals the store looks at what came, how long pages stayed against what their classes say, and which tiers were
/// read. Then it moves at most one step of memory from one region to another:
///
/// 1. to an index that has no room for more;
/// 2. from a region that does not need what it has to one whose pages leave before their time;
/// 3. if none has anything to spare, where reads would become cheaper: the step is a *trial*, measured against the time
///    before, and taken back unless reads did become cheaper.
///
/// [`Stats::sizing`](crate::Stats::sizing) explains each change. A region can only grow up to its
/// [ceiling](crate::RegionBuilder::ceiling), which is its size where pages outlive the process or come from a pool, unless
/// another is asked for.
///
/// ```
/// use std::time::Duration;
/// use esker::{Adaptive, Config, ExpectedLoad, RegionKind, Store};
///
/// // 2,000 events a second of some 200 bytes; the split begins as they need it.
/// let sizing = Adaptive::new()
///     .expect(ExpectedLoad::new(2_000.0, 200))
///     .every(Duration::from_secs(30))
///     .limits(RegionKind::Hot, 0.25, 0.80);
/// let store = Store::open(Config::builder().memory("64MiB").adaptive_sizing(sizing).build()?)?;
/// for change in &store.stats().sizing.changes {
///     println!("{change}");
/// }
/// # Ok::<(), esker::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Adaptive {
    /// How often it is looked whether another split would be better, by the store's clock (default 10 s).
    pub every: Duration,
    /// The time between two changes at least (default 30 s).
    pub rest: Duration,
    /// What a change moves at most, as a share of the memory (default 1/32).
    pub step: f64,
    /// What a read costs that finds its event in the warm region or in the cold tier, in reads of hot events (default 30
    /// and 1,000).
    pub costs: [f64; 2],
    /// Bounds of hot, warm and index (default 0.15–0.90, 0.05–0.80, 0.04–0.50).
    pub limits: [SizeLimits; 3],
    /// What the split is to begin with where the configuration names no sizes (default: 11 : 4 : 3).
    pub load: Vec<ExpectedLoad>,
}

impl Default for Adaptive {
    fn default() -> Self {
        let limits = |least, most| SizeLimits { least, most };
        Self {
            every: Duration::from_secs(10),
            rest: Duration::from_secs(30),
            step: 1.0 / 32.0,
            costs: [30.0, 1000.0],
            limits: [limits(0.15, 0.90), limits(0.05, 0.80), limits(0.04, 0.50)],
            load: Vec::new(),
        }
    }
}

/// The place of a region among hot, warm and index.
pub(crate) fn place_of(region: RegionKind) -> Option<usize> {
    [RegionKind::Hot, RegionKind::Warm, RegionKind::Index].iter().position(|kind| *kind == region)
}

impl Adaptive {
    /// With the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often it is looked whether another split would be better.
    #[must_use]
    pub fn every(mut self, time: Duration) -> Self {
        self.every = time;
        self
    }

    /// The time between two changes at least.
    #[must_use]
    pub fn rest(mut self, time: Duration) -> Self {
        self.rest = time;
        self
    }

    /// What a change moves at most, as a share of the memory: up to 1/16.
    #[must_use]
    pub fn step(mut self, share: f64) -> Self {
        self.step = share;
        self
    }

    /// What reads of the warm region and of the cold tier cost, in reads of hot events.
    #[must_use]
    pub fn costs(mut self, warm: f64, cold: f64) -> Self {
        self.costs = [warm, cold];
        self
    }

    /// Bounds of a region, as shares of what hot, warm and index have together. The system region follows from the others.
    #[must_use]
    pub fn limits(mut self, region: RegionKind, least: f64, most: f64) -> Self {
        if let Some(at) = place_of(region) {
            self.limits[at] = SizeLimits { least, most };
        }
        self
    }

    /// The load of a class, from which the split is estimated that it begins with: once for each class that matters.
    #[must_use]
    pub fn expect(mut self, load: ExpectedLoad) -> Self {
        self.load.push(load);
        self
    }

    /// What is wrong with it.
    pub(super) fn faults(&self, classes: &[ClassConfig]) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, problem: String| {
            faults.push(ConfigFault { field: format!("adaptive_sizing.{field}"), problem });
        };
        if self.every.is_zero() {
            fault("every", "no time would leave nothing to look at; the default is 10 s".into());
        }
        if !(self.step > 0.0 && self.step <= 1.0 / 16.0) {
            fault("step", format!("{} is not a share above 0 and up to 1/16", self.step));
        }
        let [warm, cold] = self.costs;
        if !(warm.is_finite() && cold.is_finite() && 1.0 <= warm && warm <= cold) {
            fault("costs", format!("{warm} and {cold} are not in rising order from 1 up: hot reads cost 1"));
        }
        for (name, limits) in ["hot", "warm", "index"].into_iter().zip(&self.limits) {
            let SizeLimits { least, most } = *limits;
            if !(0.0 <= least && least <= most && most <= 1.0) {
                fault(
                    &format!("limits.{name}"),
                    format!("{least} and {most} are not in rising order from 0 to 1"),
                );
            }
        }
        for load in &self.load {
            let factors = [load.growth, load.headroom, load.compression];
            if !(load.events_per_second.is_finite() && load.events_per_second > 0.0)
                || factors.iter().any(|factor| !(factor.is_finite() && *factor >= 1.0))
            {
                fault(
                    "load",
                    "events a second must be above 0; growth, headroom and compression 1 or more".into(),
                );
            }
            if let Some(name) = &load.class
                && !classes.iter().any(|class| class.name == *name)
            {
                fault("load.class", format!("there is no class {name:?}"));
            }
        }
        faults
    }

    /// How memory is divided at first: the shares of hot, warm and index, if a load says anything of it.
    pub(super) fn shares(&self, classes: &[ClassConfig]) -> Option<[u64; 3]> {
        let mut sum = SizeEstimate::default();
        for load in &self.load {
            let class = match &load.class {
                Some(name) => classes.iter().find(|class| class.name == *name),
                None => classes.first(),
            };
            sum.add(load.estimate(class?));
        }
        let total = sum.total() as f64;
        let shares = [sum.hot, sum.warm, sum.index].map(|bytes| bytes as f64 / total);
        if !shares.iter().all(|share| share.is_finite()) {
            return None;
        }
        let within = |(share, limits): (f64, &SizeLimits)| share.max(limits.least).min(limits.most);
        let shares: Vec<f64> = shares.into_iter().zip(&self.limits).map(within).collect();
        // In thousandths, and each at least one of them, so that no region is without any.
        let part = |at: usize| ((shares[at] * 1000.0) as u64).max(1);
        Some([part(0), part(1), part(2)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class() -> ClassConfig {
        ClassConfig::new("calls").hot_for(Duration::from_secs(100)).warm_for(Duration::from_secs(400))
    }

    #[test]
    fn an_estimate_is_base_times_growth_times_headroom() {
        let bare = ExpectedLoad::new(10.0, 60).growth(1.0).headroom(1.0).compression(3.0);
        let sizes = bare.estimate(&class());
        // A record of 100 bytes takes 104.
        assert_eq!(sizes, SizeEstimate { hot: 104_000, warm: 104_000, index: 80_000 });
        let grown = bare.clone().growth(1.5).headroom(2.0).estimate(&class());
        assert_eq!(grown, SizeEstimate { hot: 312_000, warm: 312_000, index: 240_000 });
        let raw = bare.estimate(&class().compress(false));
        assert_eq!((raw.hot, raw.warm), (416_000, 0), "what is not compressed stays hot");
        let short = bare.estimate(&class().retention(Duration::from_secs(50)));
        assert_eq!(
            (short.hot, short.warm, short.index),
            (52_000, 0, 10_000),
            "nothing outlives its retention"
        );
        let cheap = bare.ids_in_sequence().streams(10).estimate(&class());
        assert_eq!(cheap.index, 10 * 400 * 8 + 1000);
    }

    #[test]
    fn estimates_of_nonsense_are_no_sizes_and_do_not_panic() {
        for rate in [f64::NAN, -1.0, 0.0] {
            assert_eq!(ExpectedLoad::new(rate, 10).estimate(&class()), SizeEstimate::default());
            assert_eq!(Adaptive::new().expect(ExpectedLoad::new(rate, 10)).shares(&[class()]), None);
        }
        let much = ExpectedLoad::new(f64::INFINITY, u64::MAX - 100).estimate(&class());
        assert_eq!((much.hot, much.total()), (u64::MAX, u64::MAX));
        let load = ExpectedLoad::new(1.0, 1).class("nobody");
        assert_eq!(Adaptive::new().expect(load.clone()).shares(&[class()]), None);
        assert_eq!(Adaptive::new().expect(load).faults(&[class()]).len(), 1);
    }

    #[test]
    fn the_split_to_begin_with_follows_the_estimate_within_the_limits() {
        let shares = |load| Adaptive::new().expect(load).shares(&[class()]).unwrap();
        let [hot, warm, index] = shares(ExpectedLoad::new(100.0, 1000));
        // 104 : 104 : 8, and the index has its least.
        assert_eq!([hot, warm, index], [481, 481, 40]);
        // Records of 40 bytes: most would be index.
        assert_eq!(shares(ExpectedLoad::new(100.0, 0).streams(1 << 20))[2], 500);
    }

    #[test]
    fn faults_name_their_field() {
        let adaptive = Adaptive {
            every: Duration::ZERO,
            step: 0.5,
            costs: [f64::NAN, 0.0],
            load: vec![ExpectedLoad::new(f64::NAN, 0)],
            ..Adaptive::new().limits(RegionKind::Warm, 0.7, 0.2)
        };
        let fields: Vec<String> = adaptive.faults(&[class()]).into_iter().map(|fault| fault.field).collect();
        let expected =
            ["every", "step", "costs", "limits.warm", "load"].map(|f| format!("adaptive_sizing.{f}"));
        assert_eq!(fields, expected);
        assert!(Adaptive::new().faults(&[]).is_empty());
    }
}
