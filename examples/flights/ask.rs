//! The questions: single events, newest events, histories, time ranges, and everything; each answer is compared.

use esker::{Stats, Store};

use crate::event::{Kind, id_of};
use crate::judge::{Judge, Roll};
use crate::latency::{Latencies, Latency, now};
use crate::replay::{BATCH, Replay};
use crate::report::count;
use crate::timeline::{DAY, Handles, classes};

/// Events that are taken from a walk between two looks at the clock.
const CHUNK: usize = 512;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = DAY.as_millis() as i64;

/// Asks one store.
pub(crate) struct Questions<'a> {
    pub(crate) store: &'a Store,
    pub(crate) judge: Judge<'a>,
    pub(crate) latencies: &'a mut Latencies,
    random: Random,
    /// Whether the event at a place is in memory.
    in_memory: Vec<bool>,
    /// For each class the age up to which its events stay hot, unless memory is short.
    hot_ms: Vec<i64>,
}

impl<'a> Questions<'a> {
    /// Prepares to ask a store whose pages do not move any more.
    pub(crate) fn new(store: &'a Store, judge: Judge<'a>, latencies: &'a mut Latencies, seed: u64) -> Self {
        let in_memory = vec![false; judge.timeline.entries.len()];
        let hot_ms = classes().iter().map(|class| class.hot_for.as_millis() as i64).collect();
        Self { store, judge, latencies, random: Random(seed), in_memory, hot_ms }
    }

    /// Asks the questions of one sort, and tells how many there were and how many answers were wrong.
    pub(crate) fn section(&mut self, name: &str, ask: impl FnOnce(&mut Self)) {
        let (answers, events, wrong) = (self.judge.answers, self.judge.events, self.judge.mismatches);
        let begin = now();
        ask(self);
        println!(
            "  {name:<44} {:>9} answers {:>11} events {:>6.2} s  {}",
            count(self.judge.answers - answers),
            count(self.judge.events - events),
            begin.elapsed().as_secs_f64(),
            match self.judge.mismatches - wrong {
                0 => "all right".to_owned(),
                wrong => format!("{wrong} WRONG"),
            }
        );
    }

    /// Everything that is in memory, by one scan. What it finds is what later answers from memory are held against.
    pub(crate) fn memory(&mut self) {
        let guard = self.store.pin();
        let mut roll = Roll::new(0..self.in_memory.len(), true);
        let (judge, in_memory) = (&mut self.judge, &mut self.in_memory);
        pull(guard.scan(..).ordered(), &mut self.latencies.scan_memory_event, |event| {
            if let Some(place) = judge.timeline.place_of(event.id()) {
                in_memory[place] = true;
            }
            roll.take(judge, format_args!("scan(..) of memory"), Ok(event));
        });
        roll.finish(judge, format_args!("scan(..) of memory"), |_, place| in_memory[place]);
    }

    /// Every event of the year by its id, from memory only, in no order.
    pub(crate) fn every_event_by_id(&mut self) {
        let count = self.in_memory.len();
        // A prime stride visits each place once.
        for place in (0..count).map(|number| number * 350_003 % count) {
            let entry = self.judge.entry(place);
            let expected = self.in_memory[place].then_some(place);
            let age = self.judge.timeline.last_ms() - entry.time_ms;
            let young = age < self.hot_ms[usize::from(entry.class)];
            let begin = now();
            let guard = self.store.pin();
            let found = guard.try_get(entry.id());
            let took = begin.elapsed();
            match (expected, young) {
                (None, _) => self.latencies.get_absent.add(took),
                (Some(_), true) => self.latencies.get_young.add(took),
                (Some(_), false) => self.latencies.get_older.add(took),
            }
            self.judge.one(format_args!("get({})", entry.id()), expected, found);
        }
    }

    /// Random events of the year by their ids, from all tiers.
    pub(crate) fn some_events_by_id(&mut self, count: usize) {
        for _ in 0..count {
            let place = self.random.below(self.in_memory.len());
            self.fetch_place(place);
        }
    }

    /// Events that retention has ended: they must be gone, in all tiers.
    pub(crate) fn expired_events_by_id(&mut self, count: usize) {
        let places = 0..self.in_memory.len();
        let expired: Vec<usize> = places.filter(|place| !self.judge.is_kept(*place)).collect();
        for _ in 0..count.min(expired.len()) {
            let place = expired[self.random.below(expired.len())];
            self.fetch_place(place);
        }
    }

    fn fetch_place(&mut self, place: usize) {
        let id = self.judge.entry(place).id();
        let expected = self.judge.is_kept(place).then_some(place);
        let latency = match expected {
            None => &mut self.latencies.fetch_absent,
            Some(_) if self.in_memory[place] => &mut self.latencies.fetch_memory,
            Some(_) => &mut self.latencies.fetch_cold,
        };
        let found = latency.time(|| self.store.fetch(id));
        self.judge.one(format_args!("fetch({id})"), expected, found);
    }

    /// Ids that no event ever had, many of them between those of events.
    pub(crate) fn events_that_never_were(&mut self, count: usize) {
        for _ in 0..count {
            let row = self.random.below(2 * self.in_memory.len());
            let id = match self.random.below(4) {
                0 => (row as u64) << 2,
                kind => id_of(row, Kind::ALL[kind - 1]),
            };
            if self.judge.timeline.place_of(id).is_none() {
                let found = self.latencies.fetch_absent.time(|| self.store.fetch(id));
                self.judge.one(format_args!("fetch({id}), which never was"), None, found);
                let guard = self.store.pin();
                self.judge.one(format_args!("get({id}), which never was"), None, guard.try_get(id));
            }
        }
    }

    /// The newest 100 events of the busiest aircraft, from memory and from all tiers.
    pub(crate) fn newest_of_the_busiest(&mut self, aircraft: usize) {
        for aircraft in self.judge.timeline.busiest(aircraft) {
            let (name, stream) =
                (self.judge.timeline.aircraft[aircraft], self.judge.handles.streams[aircraft]);
            let expected = self.kept_history(aircraft);

            let guard = self.store.pin();
            let found = || guard.history(stream).newest().take(100).map(Ok).collect::<Vec<_>>();
            let found = self.latencies.newest_memory.time(found);
            let in_memory = expected.iter().copied().filter(|place| self.in_memory[*place]).take(100);
            self.judge.list(format_args!("history({name}) of memory, newest 100"), in_memory, found);
            drop(guard);

            let found = || self.store.fetch_history(stream).newest().take(100).collect::<Vec<_>>();
            let found = self.latencies.newest_all.time(found);
            let newest = expected.iter().copied().take(100);
            self.judge.list(format_args!("fetch_history({name}), newest 100"), newest, found);
        }
    }

    /// Whole histories, and a month of each: of the busiest aircraft and of some others.
    pub(crate) fn histories(&mut self, busiest: usize, others: usize) {
        let mut chosen = self.judge.timeline.busiest(busiest);
        chosen.extend((0..others).map(|_| self.random.below(self.judge.timeline.aircraft.len())));
        for aircraft in chosen {
            let (name, stream) =
                (self.judge.timeline.aircraft[aircraft], self.judge.handles.streams[aircraft]);
            let expected = self.kept_history(aircraft);
            let begin = now();
            let found: Vec<_> = self.store.fetch_history(stream).collect();
            self.latencies.history_event.add_shares(begin.elapsed(), found.len() as u64);
            self.judge.list(format_args!("fetch_history({name})"), expected.iter().copied(), found);

            let from_ms = self.random_time(30 * DAY_MS);
            let to_ms = from_ms + 30 * DAY_MS;
            let found: Vec<_> = self.store.fetch_history(stream).range(from_ms..to_ms).collect();
            let judge = &self.judge;
            let in_range = |place: &usize| (from_ms..to_ms).contains(&judge.entry(*place).time_ms);
            let expected: Vec<usize> = expected.into_iter().filter(in_range).collect();
            self.judge.list(format_args!("fetch_history({name}), {from_ms}..{to_ms}"), expected, found);
        }
    }

    /// An aircraft's events that retention keeps, newest first.
    fn kept_history(&self, aircraft: usize) -> Vec<usize> {
        let mut places = self.judge.timeline.newest_first(aircraft);
        places.retain(|place| self.judge.is_kept(*place));
        places
    }

    /// Hours and days of the year in the order of time, half of them for one kind of event.
    pub(crate) fn ranges(&mut self, hours: usize, days: usize) {
        let lengths = (0..hours).map(|_| HOUR_MS).chain((0..days).map(|_| DAY_MS));
        for (number, length_ms) in lengths.enumerate() {
            let from_ms = self.random_time(length_ms);
            let kind = (number % 2 == 1).then(|| Kind::ALL[self.random.below(2)]);
            self.range(from_ms, from_ms + length_ms, kind);
        }
    }

    fn range(&mut self, from_ms: i64, to_ms: i64, kind: Option<Kind>) {
        let (store, judge) = (self.store, &mut self.judge);
        let mut roll = Roll::new(judge.timeline.between(from_ms, to_ms), true);
        let mut scan = store.fetch_scan(from_ms..to_ms).ordered();
        if let Some(kind) = kind {
            scan = scan.kind(kind as u8);
        }
        pull(scan, &mut self.latencies.scan_range_event, |event| {
            roll.take(judge, format_args!("fetch_scan({from_ms}..{to_ms}), kind {kind:?}"), event);
        });
        roll.finish(judge, format_args!("fetch_scan({from_ms}..{to_ms}), kind {kind:?}"), |judge, place| {
            judge.is_kept(place) && kind.is_none_or(|kind| judge.entry(place).kind == kind)
        });
    }

    /// Every event of the year, from all tiers.
    pub(crate) fn everything(&mut self) {
        let (store, judge) = (self.store, &mut self.judge);
        let mut roll = Roll::new(0..judge.timeline.entries.len(), false);
        pull(store.fetch_scan(..).timeout(DAY), &mut self.latencies.scan_all_event, |event| {
            roll.take(judge, format_args!("fetch_scan(..)"), event);
        });
        roll.finish(judge, format_args!("fetch_scan(..)"), |judge, place| judge.is_kept(place));
    }

    /// What the store counted during the replay.
    pub(crate) fn counters(&mut self, stats: &Stats, replay: &Replay) {
        let (events, limit) = (&stats.events, self.store.config().memory);
        let in_memory = self.in_memory.iter().filter(|in_memory| **in_memory).count() as u64;
        let kept = (0..self.in_memory.len()).filter(|place| self.judge.is_kept(*place)).count() as u64;
        let checks = [
            ("every event was appended", events.appended == self.in_memory.len() as u64),
            ("hot and warm have what a scan of memory finds", events.hot + events.warm >= in_memory),
            ("no event is nowhere", events.hot + events.warm + stats.cold.events >= kept),
            ("all tiers had to work", events.demoted > 0 && events.released > 0 && stats.cold.blocks > 0),
            ("cold blocks were deleted when they had expired", stats.cold.expired_blocks > 0),
            ("the cold tier never failed", stats.cold.spill_failures == 0 && stats.cold.corrupt_blocks == 0),
            ("nothing was dropped, lost or damaged", {
                events.dropped + events.corrupt_frames + stats.cold.lost_to_damage == 0
            }),
            ("memory stayed within its limit", stats.memory_bytes.max(replay.memory_peak) <= limit),
        ];
        for (what, holds) in checks {
            self.judge.holds(format_args!("stats(), \"{what}\""), holds, || format!("{stats:#?}"));
        }
    }

    /// The newest events appended once more: the store must say that it has them, and change nothing.
    pub(crate) fn newest_events_again(&mut self) {
        let (timeline, handles) = (self.judge.timeline, self.judge.handles);
        let newest = &timeline.entries[timeline.entries.len().saturating_sub(BATCH)..];
        let messages: Vec<_> = newest.iter().map(|entry| timeline.message(entry)).collect();
        let again: Vec<_> =
            newest.iter().zip(&messages).map(|(entry, message)| handles.event(entry, message)).collect();
        let batch = self.store.append_batch(&again);
        let right = batch.as_ref().is_ok_and(|batch| batch.duplicates == again.len());
        self.judge.holds(format_args!("append_batch of duplicates"), right, || format!("{batch:?}"));
    }

    /// The names of all streams: the same as before the store was closed, both ways.
    pub(crate) fn names(&mut self, before: &Handles) {
        let now = self.judge.handles;
        self.judge
            .holds(format_args!("classes"), now.classes == before.classes, || "they changed".to_owned());
        for (number, name) in self.judge.timeline.aircraft.iter().enumerate() {
            let (stream, found) = (before.streams[number], self.store.stream_name(now.streams[number]));
            let same = now.streams[number] == stream && found.as_deref() == Some(*name);
            self.judge.holds(format_args!("stream({name})"), same, || format!("{stream:?} is {found:?} now"));
        }
    }

    /// A time of the year with so many milliseconds behind it.
    fn random_time(&mut self, length_ms: i64) -> i64 {
        let (first, last) = (self.judge.timeline.first_ms(), self.judge.timeline.last_ms());
        first + self.random.below((last - first - length_ms) as usize) as i64
    }
}

/// Takes events off a walk, measures what each took, and checks them outside of the measured time.
fn pull<T>(mut walk: impl Iterator<Item = T>, latency: &mut Latency, mut check: impl FnMut(T)) {
    loop {
        let begin = now();
        let chunk: Vec<T> = walk.by_ref().take(CHUNK).collect();
        latency.add_shares(begin.elapsed(), chunk.len() as u64);
        if chunk.is_empty() {
            return;
        }
        chunk.into_iter().for_each(&mut check);
    }
}

/// Numbers that look random and are the same on every run (SplitMix64).
struct Random(u64);

impl Random {
    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ word >> 31) % end.max(1) as u64) as usize
    }
}
