//! Steps that read, and compare what comes with the reference.

use std::collections::{BTreeMap, BTreeSet};

use esker::{Class, ErrorKind, EventHeader, EventRef, Guard, Stream};

use crate::reference::{Checked, Entry, ensure, same};
use crate::world::World;

/// What a read looks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query {
    pub(crate) stream: Option<Stream>,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) class: Option<usize>,
    pub(crate) kind: Option<u8>,
    pub(crate) flags: u16,
    /// Ids that give a remainder.
    pub(crate) id: Option<(u64, u64)>,
    pub(crate) ordered: bool,
}

/// A query for everything.
pub(crate) const ALL: Query = Query {
    stream: None,
    first: i64::MIN,
    last: i64::MAX,
    class: None,
    kind: None,
    flags: 0,
    id: None,
    ordered: false,
};

impl Query {
    pub(crate) fn takes(&self, id: u64, entry: &Entry) -> bool {
        self.stream.is_none_or(|stream| entry.stream == stream)
            && (self.first..=self.last).contains(&entry.timestamp)
            && self.class.is_none_or(|class| entry.class == class)
            && self.kind.is_none_or(|kind| entry.kind == kind)
            && entry.flags & self.flags == self.flags
            && self.id.is_none_or(|(by, rest)| id % by == rest)
    }

    fn predicate(self) -> impl Fn(&EventHeader) -> bool + Send {
        move |header: &EventHeader| self.id.is_none_or(|(by, rest)| header.id % by == rest)
    }
}

/// Which events a read must give.
pub(crate) type Due = BTreeSet<u64>;

impl World {
    /// The event must be one that was appended and may still be seen.
    fn known(&self, event: &EventRef<'_>, what: &str) -> Checked<u64> {
        let id = event.id();
        let Some(entry) = self.reference.events.get(&id) else {
            let gone = self.reference.gone.contains(&id);
            return Err(format!("{what} gave event {id}, which is not there (once was: {gone}): {event:?}"));
        };
        same(event, entry).map_err(|fault| format!("{what}: {fault}"))?;
        ensure!(self.reference.may(entry), "{what} gave event {id} after its retention: {entry:?}");
        Ok(id)
    }

    /// Whether a read through all tiers has to give the event, whatever the store did by itself.
    fn is_due(&self, entry: &Entry) -> bool {
        !self.down && !self.setup.drops(entry.class) && self.reference.must(entry)
    }

    pub(crate) fn due(&self, query: &Query) -> Due {
        let due = |(id, entry): &(&u64, &Entry)| query.takes(**id, entry) && self.is_due(entry);
        match query.stream {
            Some(stream) => {
                let ids = self.reference.by_stream.get(&stream).into_iter().flatten();
                ids.map(|id| (id, &self.reference.events[id])).filter(due).map(|(id, _)| *id).collect()
            }
            None => self.reference.events.iter().filter(due).map(|(id, _)| *id).collect(),
        }
    }

    /// Each event is right, asked for, and given once; those that are due are there.
    fn compare(&self, what: &str, query: &Query, got: &[u64], due: &Due) -> Checked {
        let set: BTreeSet<u64> = got.iter().copied().collect();
        ensure!(set.len() == got.len(), "{what} gave an event twice: {:?}", twice(got));
        let missing: Vec<_> = due.difference(&set).take(3).collect();
        ensure!(
            missing.is_empty(),
            "{what} missed {} of {} events, such as {:?}; {query:?}",
            due.difference(&set).count(),
            due.len(),
            missing.iter().map(|id| (*id, brief(&self.reference.events[*id]))).collect::<Vec<_>>()
        );
        for id in got {
            let entry = &self.reference.events[id];
            ensure!(
                query.takes(*id, entry),
                "{what} gave {id}, which was not asked for: {entry:?}; {query:?}"
            );
        }
        if query.ordered {
            let rising = got.is_sorted_by_key(|id| self.reference.events[id].timestamp);
            ensure!(rising, "{what} is not in the order of time: {query:?}");
        }
        Ok(())
    }

    /// Newest first: in each class the reverse order of appending, classes merged by timestamp.
    fn compare_order(&self, what: &str, got: &[u64]) -> Checked {
        let entry = |id: &u64| &self.reference.events[id];
        let mut lists: Vec<Vec<u64>> = vec![Vec::new(); self.setup.classes.len()];
        for id in got.iter().rev() {
            lists[entry(id).class].push(*id);
        }
        for list in &lists {
            let rising = list.is_sorted_by_key(|id| entry(id).serial);
            ensure!(rising, "{what} is not in the order of appending within a class: {got:?}");
        }
        for id in got {
            let next = lists.iter().filter_map(|list| list.last()).copied();
            // The latest; of equals, that of the lower class.
            let best = next.max_by_key(|id| (entry(id).timestamp, usize::MAX - entry(id).class));
            ensure!(best == Some(*id), "{what} gave {id} where {best:?} is the latest of all classes");
            lists[entry(id).class].pop();
        }
        Ok(())
    }

    // ---- single events ----

    fn some_ids(&mut self) -> Vec<u64> {
        let count = self.rng.pick(&[1, 3, 20, 50]);
        (0..count)
            .filter_map(|_| match self.rng.below(10) {
                0 => Some(self.rng.next()),
                1 => {
                    self.reference.gone.iter().nth(self.rng.index(self.reference.gone.len().max(1))).copied()
                }
                2 | 3 if !self.recent.is_empty() => Some(self.recent[self.rng.index(self.recent.len())]),
                _ => self.any_id(),
            })
            .collect()
    }

    pub(crate) fn check_get(&mut self) -> Checked {
        let ids = self.some_ids();
        let store = self.store();
        let guard = store.pin();
        let batch = guard.get_batch(&ids);
        ensure!(batch.len() == ids.len(), "get_batch of {} ids gave {}", ids.len(), batch.len());
        for (id, event) in ids.iter().zip(&batch) {
            let single = guard.try_get(*id).map_err(|error| format!("get {id}: {error:?}"))?;
            if self.is_alone() {
                ensure!(single.is_some() == event.is_some(), "get and get_batch differ about {id}");
            }
            for event in event.iter().chain(&single) {
                ensure!(self.known(event, "get")? == *id, "get {id} gave {event:?}");
            }
        }
        Ok(())
    }

    /// Reads the same events in several seconds, so that a policy that looks at reads finds their pages worth keeping.
    pub(crate) fn read_again(&mut self) -> Checked {
        let (ids, store) = (self.some_ids(), self.store());
        for _ in 0..3 {
            for id in &ids {
                if let Some(event) = store.pin().get(*id) {
                    ensure!(self.known(&event, "get again")? == *id, "get {id} gave {event:?}");
                }
            }
            self.set_clock(self.reference.now_ms + 1100);
        }
        self.maintain()
    }

    pub(crate) fn check_fetch(&mut self) -> Checked {
        for id in self.some_ids().into_iter().take(5) {
            self.fetch_one(id)?;
        }
        Ok(())
    }

    fn fetch_one(&self, id: u64) -> Checked {
        let store = self.store();
        let outcome = store.fetch(id);
        let Some(found) = self.tier_said(outcome, "fetch")? else { return Ok(()) };
        match found {
            Some(event) => ensure!(self.known(&event, "fetch")? == id, "fetch {id} gave {event:?}"),
            None => {
                let entry = self.reference.events.get(&id).filter(|entry| self.is_due(entry));
                ensure!(entry.is_none(), "fetch {id} found nothing; it should give {entry:?}");
            }
        }
        Ok(())
    }

    // ---- queries ----

    fn time_range(&mut self) -> (i64, i64) {
        let now = self.reference.now_ms;
        let mut time = || match self.rng.below(8) {
            0 => i64::MIN,
            1 => i64::MAX,
            2 => now,
            _ => self.any_id().map_or(now, |id| self.reference.events[&id].timestamp),
        };
        let (a, b) = (time(), time());
        // Now and then a range that is empty.
        if self.rng.chance(95) { (a.min(b), a.max(b)) } else { (a.max(b), a.min(b)) }
    }

    fn history_query(&mut self) -> Query {
        let stream = match self.any_id() {
            Some(id) if self.rng.chance(90) => self.reference.events[&id].stream,
            _ => Stream::from(self.rng.below(60) as u32),
        };
        let (first, last) = if self.rng.chance(50) { (i64::MIN, i64::MAX) } else { self.time_range() };
        let class = self.rng.chance(30).then(|| self.rng.index(self.classes.len()));
        Query { stream: Some(stream), first, last, class, ..ALL }
    }

    pub(crate) fn scan_query(&mut self) -> Query {
        let (first, last) = if self.rng.chance(20) { (i64::MIN, i64::MAX) } else { self.time_range() };
        Query {
            stream: None,
            first,
            last,
            class: self.rng.chance(30).then(|| self.rng.index(self.classes.len())),
            kind: self.rng.chance(30).then(|| self.rng.pick(&[0, 1, 2, 63, 64, 199, 255])),
            flags: self.rng.pick(&[0, 0, 0, 1, 3, 0x8000]),
            id: self.rng.chance(20).then(|| (2 + self.rng.below(5), self.rng.below(2))),
            ordered: self.rng.chance(50),
        }
    }

    fn class_of(&self, query: &Query) -> Option<Class> {
        query.class.map(|class| self.classes[class])
    }

    /// A stream's history in memory.
    fn memory_history(&self, guard: &Guard<'_>, query: &Query) -> Checked<Vec<u64>> {
        let stream = query.stream.unwrap_or_else(|| unreachable!("a history is of a stream"));
        let mut walk = guard.history(stream).newest().range(query.first..=query.last);
        if let Some(class) = self.class_of(query) {
            walk = walk.class(class);
        }
        walk.map(|event| self.known(&event, "history")).collect()
    }

    /// A stream's history through all tiers; how many were taken.
    fn all_history(&self, query: &Query, take: usize) -> Checked<Vec<u64>> {
        let stream = query.stream.unwrap_or_else(|| unreachable!("a history is of a stream"));
        let store = self.store();
        let mut walk = store.fetch_history(stream).newest().range(query.first..=query.last);
        if let Some(class) = self.class_of(query) {
            walk = walk.class(class);
        }
        let mut got = Vec::new();
        for event in walk.take(take) {
            if let Some(event) = self.tier_said(event, "fetch_history")? {
                got.push(self.known(&event, "fetch_history")?);
            }
        }
        Ok(got)
    }

    pub(crate) fn check_history(&mut self) -> Checked {
        let query = self.history_query();
        let store = self.store();
        let got = self.memory_history(&store.pin(), &query)?;
        self.compare("history", &query, &got, &Due::new())?;
        self.compare_order("history", &got)
    }

    pub(crate) fn check_fetch_history(&mut self) -> Checked {
        let query = self.history_query();
        let due = self.due(&query);
        self.detail(|| format!("{query:?}"));
        let got = self.all_history(&query, usize::MAX)?;
        self.compare("fetch_history", &query, &got, &due)?;
        // While the tier is down, a class that cannot go on is overtaken by the others.
        if self.down {
            return Ok(());
        }
        self.compare_order("fetch_history", &got)?;
        if self.is_alone() {
            let count = self.rng.index(got.len() + 2);
            let some = self.all_history(&query, count)?;
            ensure!(some == got[..count.min(got.len())], "the first {count} of {got:?} are {some:?}");
        }
        Ok(())
    }

    fn memory_scan(&self, guard: &Guard<'_>, query: &Query) -> Checked<Vec<u64>> {
        let mut scan = guard.scan(query.first..=query.last).flags(query.flags);
        if let Some(class) = self.class_of(query) {
            scan = scan.class(class);
        }
        if let Some(kind) = query.kind {
            scan = scan.kind(kind);
        }
        if query.id.is_some() {
            scan = scan.filter_header(query.predicate());
        }
        if query.ordered {
            scan = scan.ordered();
        }
        scan.map(|event| self.known(&event, "scan")).collect()
    }

    pub(crate) fn all_scan<'s>(&self, store: &'s esker::Store, query: &Query) -> esker::FetchScan<'s> {
        let mut scan = store.fetch_scan(query.first..=query.last).flags(query.flags);
        if let Some(class) = self.class_of(query) {
            scan = scan.class(class);
        }
        if let Some(kind) = query.kind {
            scan = scan.kind(kind);
        }
        if query.id.is_some() {
            scan = scan.filter_header(query.predicate());
        }
        if query.ordered { scan.ordered() } else { scan }
    }

    fn all_scanned(&self, query: &Query) -> Checked<Vec<u64>> {
        let store = self.store();
        let mut got = Vec::new();
        for event in self.all_scan(&store, query) {
            if let Some(event) = self.tier_said(event, "fetch_scan")? {
                got.push(self.known(&event, "fetch_scan")?);
            }
        }
        Ok(got)
    }

    pub(crate) fn check_scan(&mut self) -> Checked {
        let query = self.scan_query();
        let store = self.store();
        let got = self.memory_scan(&store.pin(), &query)?;
        self.compare("scan", &query, &got, &Due::new())
    }

    pub(crate) fn check_fetch_scan(&mut self) -> Checked {
        let query = self.scan_query();
        self.detail(|| format!("{query:?}"));
        let due = self.due(&query);
        let got = self.all_scanned(&query)?;
        self.compare("fetch_scan", &query, &got, &due)
    }

    // ---- everything ----

    /// All kinds of reads agree with the reference and with each other, and the figures add up.
    pub(crate) fn check_everything(&mut self) -> Checked {
        self.validate()?;
        let memory: BTreeSet<u64> = {
            let store = self.store();
            let guard = store.pin();
            let got = self.memory_scan(&guard, &ALL)?;
            self.compare("scan", &ALL, &got, &Due::new())?;
            got.into_iter().collect()
        };
        let mut due = self.due(&ALL);
        if self.is_alone() {
            // What memory has must be found although its class drops events, and although the tier is down.
            due.extend(&memory);
        }
        let query = Query { ordered: self.rng.chance(50), ..ALL };
        let all = self.all_scanned(&query)?;
        self.compare("fetch_scan", &query, &all, &due)?;
        self.compare_memory(&memory)?;
        self.compare_streams(&memory, &all)?;
        for id in self.some_ids() {
            self.fetch_one(id)?;
        }
        self.forget_dropped(&memory);
        self.check_figures(&memory)
    }

    /// Every way to read memory shows the same events.
    fn compare_memory(&self, memory: &BTreeSet<u64>) -> Checked {
        let store = self.store();
        let guard = store.pin();
        let ids: Vec<u64> = self.reference.events.keys().copied().collect();
        for (id, event) in ids.iter().zip(guard.get_batch(&ids)) {
            if let Some(event) = &event {
                self.known(event, "get_batch")?;
            }
            let agree = !self.is_alone() || event.is_some() == memory.contains(id);
            ensure!(agree, "event {id}: scan says {}, get {event:?}", memory.contains(id));
        }
        Ok(())
    }

    fn compare_streams(&mut self, memory: &BTreeSet<u64>, all: &[u64]) -> Checked {
        let mut of_stream: BTreeMap<Stream, (Due, Due)> = BTreeMap::new();
        for id in all {
            let entry = &self.reference.events[id];
            let sets = of_stream.entry(entry.stream).or_default();
            sets.0.insert(*id);
            if memory.contains(id) {
                sets.1.insert(*id);
            }
        }
        let skip = self.rng.index(of_stream.len().max(6) - 5);
        for (stream, (scanned, in_memory)) in of_stream.into_iter().skip(skip).take(6) {
            let query = Query { stream: Some(stream), ..ALL };
            let store = self.store();
            let got = self.memory_history(&store.pin(), &query)?;
            let due = if self.is_alone() { in_memory } else { Due::new() };
            self.compare("history", &query, &got, &due)?;
            self.compare_order("history", &got)?;
            let due = if !self.is_alone() {
                self.due(&query)
            } else if self.down {
                due
            } else {
                scanned
            };
            let got = self.all_history(&query, usize::MAX)?;
            self.compare("fetch_history", &query, &got, &due)?;
            if !self.down {
                self.compare_order("fetch_history", &got)?;
            }
        }
        Ok(())
    }

    /// What a class has dropped stays dropped.
    fn forget_dropped(&mut self, memory: &BTreeSet<u64>) {
        if !self.is_alone() {
            return;
        }
        let gone = |(id, entry): &(&u64, &Entry)| {
            self.setup.drops(entry.class) && self.reference.may(entry) && !memory.contains(id)
        };
        let gone: Vec<u64> = self.reference.events.iter().filter(gone).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.forget(id, false));
    }

    fn check_figures(&self, memory: &BTreeSet<u64>) -> Checked {
        let stats = self.store().stats();
        let events = stats.events;
        let counted = (events.appended, events.duplicates, events.rejected);
        let expected = (self.tally.stored, self.tally.duplicates, self.tally.refused);
        ensure!(
            counted == expected,
            "appended, duplicates, rejected are {counted:?}, should be {expected:?}"
        );
        let outside = [events.ahead, events.behind].into_iter().fold([0; 3], |sum: [u64; 3], side| {
            let side = [side.refused, side.clamped, side.dead_lettered];
            std::array::from_fn(|at| sum[at] + side[at])
        });
        ensure!(outside == self.tally.outside, "{outside:?} were outside, not {:?}", self.tally.outside);
        let bound = self.setup.memory();
        ensure!(stats.memory_bytes <= bound, "{} bytes of {bound} are taken", stats.memory_bytes);
        let whole = self.was_altered || stats.cold.corrupt_blocks == 0;
        let damaged = events.corrupt_frames + events.corrupt_events + stats.cold.lost_to_damage;
        ensure!(damaged == 0 && whole, "corrupt: {stats:?}");
        if !self.is_alone() {
            return Ok(());
        }
        let left = events.released + events.expired + events.dropped + self.tally.removed_from_memory;
        ensure!(
            events.appended + self.tally.taken_over == events.hot + events.warm + left,
            "{} events were taken from memory by removing, the rest does not add up: {events:?}",
            self.tally.removed_from_memory
        );
        ensure!(events.removed == self.tally.removed, "{} were removed: {events:?}", self.tally.removed);
        let seen = memory.len() as u64;
        ensure!(seen <= events.hot + events.warm, "{seen} events are seen in memory: {events:?}");
        let hidden = self.reference.events.values().filter(|entry| !self.reference.may(entry)).count() as u64;
        ensure!(events.hot + events.warm <= seen + hidden, "{seen} are seen, {hidden} expired: {events:?}");
        Ok(())
    }

    /// Adds what the store counted since it was opened, before it goes.
    pub(crate) fn gather_totals(&mut self) {
        let stats = self.store().stats();
        let totals = &mut self.totals;
        totals.cold_reads += stats.cold.loads;
        totals.demoted += stats.events.demoted;
        totals.packed += stats.defrag.pages;
        totals.adapted += stats.sizing.moves;
        totals.released += stats.events.released;
        totals.expired += stats.events.expired;
        totals.dropped += stats.events.dropped;
        totals.expired_blocks += stats.cold.expired_blocks;
        totals.promoted += stats.events.promoted;
        totals.refused_moves += stats.eviction.refused;
        totals.safety_plans += stats.eviction.safety_plans;
        for (sum, more) in totals.outside.iter_mut().zip(self.tally.outside) {
            *sum += more;
        }
    }

    /// A deadline must not be what ends a read.
    pub(crate) fn is_timeout(error: &esker::Error) -> bool {
        error.kind() == ErrorKind::Timeout
    }
}

fn twice(ids: &[u64]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    ids.iter().copied().filter(|id| !seen.insert(*id)).take(3).collect()
}

pub(crate) fn brief(entry: &Entry) -> String {
    format!(
        "{:?} of class {} at {} (arrived {}), serial {}, {} B",
        entry.stream,
        entry.class,
        entry.timestamp,
        entry.arrival,
        entry.serial,
        entry.payload.len()
    )
}
