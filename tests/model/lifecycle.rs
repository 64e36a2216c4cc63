//! Steps that span others: closing and reopening, crashes, and readers that are held while others write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use esker::{EventRef, FetchHistory, FetchScan, Result};

use crate::disk::Crash;
use crate::reads::{ALL, Due, Query, brief};
use crate::reference::{Checked, Entry, ensure, same};
use crate::setup::Kind;
use crate::world::{Tally, World};

/// A read that is under way.
enum Reader<'s> {
    Scan(Box<FetchScan<'s>>),
    History(Box<FetchHistory<'s>>),
}

impl Iterator for Reader<'_> {
    type Item = Result<EventRef<'static>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Scan(scan) => scan.next(),
            Self::History(history) => history.next(),
        }
    }
}

impl World {
    pub(crate) fn open(&mut self) -> Checked {
        let store = self.setup.open(&self.clock).map_err(|error| format!("open: {error:?}"))?;
        let classes = self.setup.classes.iter().map(|class| store.class(&class.name));
        self.classes = classes.collect::<Option<_>>().ok_or("a class is missing")?;
        let retention = |class: &esker::ClassConfig| class.retention.map(|age| age.as_millis() as i64);
        self.reference.retention = self.setup.classes.iter().map(retention).collect();
        self.tally = Tally::default();
        if let Some(recovered) = store.recovered() {
            ensure!(recovered.is_whole(), "not everything was taken over: {recovered:?}");
            self.tally.taken_over = recovered.events;
            self.totals.faults.attached += u64::from(recovered.attached);
        }
        self.set.clear();
        self.was_altered = false;
        self.store = Some(store);
        self.begin_log();
        Ok(())
    }

    /// Closes in order: everything that may not be lost is in the cold tier then.
    pub(crate) fn reopen(&mut self) -> Checked {
        if self.setup.kind == Kind::Faults && self.rng.chance(50) {
            if !self.down {
                self.toggle_tier()?;
            }
            if self.down && !self.altered {
                return self.close_in_trouble();
            }
        }
        self.tier_up();
        self.totals.reopened += 1;
        self.gather_totals();
        let mut due = self.survivors(Crash::Kill);
        let store = self.store.take().ok_or("the store is open")?;
        let held = store.stats().events;
        let report = store.close(Duration::from_secs(3600)).map_err(|error| format!("close: {error:?}"))?;
        self.all_is_logged();
        ensure!(store.close(Duration::ZERO).is_err() && store.stream("late").is_err(), "closed twice");
        ensure!(
            store.append(&esker::Event::new(self.stream(), 1, 0, 0)).is_err(),
            "appended to a closed store"
        );
        drop(store);
        if self.setup.has_tier() {
            let may_be_left = self.reference.events.values().filter(|entry| self.setup.drops(entry.class));
            let may_be_left = may_be_left.count() as u64;
            ensure!(report.left <= may_be_left, "{may_be_left} events may be left: {report:?}");
            for (id, entry) in &mut self.reference.events {
                entry.confirmed = !self.setup.drops(entry.class);
                due.extend(entry.confirmed.then_some(*id));
            }
        } else if self.is_alone() {
            ensure!(report.left == held.hot + held.warm, "{report:?} with {held:?}");
        }
        let may_change = !self.setup.keeps_pages() || self.setup.has_tier() && report.left == 0;
        self.take_over(due, may_change)?;
        let found = self.reference.events.len() as u64;
        // Blocks keep removed and expired events until they are deleted. Pages may be the only ones that have others.
        let in_memory = self.tally.taken_over;
        ensure!(report.cold + in_memory >= self.due(&ALL).len() as u64, "{report:?}, but {found} were found");
        Ok(())
    }

    /// Closes while the tier fails, which may take a part of what it is given.
    fn close_in_trouble(&mut self) -> Checked {
        self.detail(|| "while the tier fails".into());
        self.totals.faults.closed_in_trouble += 1;
        self.gather_totals();
        let due = self.survivors(Crash::Kill);
        let store = self.store.take().ok_or("the store is open")?;
        store.close(Duration::ZERO).map_err(|error| format!("close: {error:?}"))?;
        drop(store);
        self.tier_up();
        self.take_over(due, !self.setup.keeps_pages())?;
        // What was taken for confirmed and is not shows when it has left memory.
        if self.rng.chance(50) {
            self.let_all_leave()?;
            self.check_everything()?;
        }
        Ok(())
    }

    fn stream(&self) -> esker::Stream {
        esker::Stream::from(0u32)
    }

    /// The process ends between two calls.
    pub(crate) fn abandon(&mut self) -> Checked {
        self.totals.abandoned += 1;
        self.end(Crash::Kill)
    }

    /// What has to be there if the store ended so: what the cold tier has, or must have since it has left memory; and what
    /// is in memory, if pages are kept or are in a log.
    pub(crate) fn survivors(&self, how: Crash) -> Due {
        let store = self.store();
        let guard = store.pin();
        let survives = |(id, entry): &(&u64, &Entry)| {
            let in_memory = guard.get(**id).is_some();
            // Threads may let it go meanwhile.
            let stays = in_memory && (self.is_alone() || !self.setup.drops(entry.class));
            let kept = stays
                && match how {
                    Crash::Kill => self.setup.keeps_pages(),
                    Crash::PowerLoss => self.is_logged(entry),
                };
            let in_tier =
                !self.setup.drops(entry.class) && self.setup.has_tier() && (entry.confirmed || !in_memory);
            self.reference.must(entry) && (kept || in_tier)
        };
        self.reference.events.iter().filter(survives).map(|(id, _)| *id).collect()
    }

    /// Opens again and makes what is found the reference, after checking that it can be what was left: all that is due
    /// and still must be there.
    pub(crate) fn take_over(&mut self, mut due: Due, may_change: bool) -> Checked {
        if !may_change {
        } else if self.setup.has_tier() && self.rng.chance(10) && self.setup.classes.len() < 4 {
            self.setup.add_class(&mut self.rng);
        } else if self.rng.chance(40) {
            self.setup.resize(&mut self.rng);
        }
        let pages_are_kept = self.setup.keeps_pages();
        if !self.setup.has_tier() && !pages_are_kept {
            let all: Vec<u64> = self.reference.events.keys().copied().collect();
            all.into_iter().for_each(|id| self.reference.forget(id));
            self.names.clear();
        }
        self.recent.clear();
        self.open()?;
        let reference = &self.reference;
        due.retain(|id| reference.events.get(id).is_some_and(|entry| reference.must(entry)));
        let found = self.scanned_now(&due)?;
        let lost: Vec<u64> = self
            .reference
            .events
            .iter()
            .filter(|(id, entry)| !found.contains(id) && self.reference.may(entry))
            // Nobody says that a clock that is set back brings back what had expired, nor that it does not: it may be in a
            // block whose page was packed without it.
            .filter(|(_, entry)| !self.reference.has_expired(entry))
            .map(|(id, _)| *id)
            .collect();
        lost.into_iter().for_each(|id| self.forget(id, false));
        for id in &found {
            if let Some(entry) = self.reference.events.get_mut(id) {
                let dropping = self.setup.drops(entry.class);
                ensure!(
                    !dropping || pages_are_kept,
                    "event {id} is in the cold tier although its class drops events"
                );
                entry.confirmed |= !pages_are_kept;
                // What pages do not tell: an event from the future counts as if it had come now.
                entry.arrival = entry.arrival.min(self.reference.now_ms);
            }
        }
        // Those that retention hides may be there or not, and stay hidden unless the clock goes back.
        for (id, entry) in &mut self.reference.events {
            entry.unsure = !found.contains(id) && !entry.confirmed;
        }
        self.check_names()?;
        self.validate()
    }

    // ---- readers that are held ----

    /// Begins a read, lets other steps happen, and reads on: what was there before and after must be given, once.
    pub(crate) fn read_while_writing(&mut self) -> Checked {
        let store = self.store();
        let ordered_scan = self.rng.chance(60);
        let query = if ordered_scan {
            self.scan_query()
        } else {
            // One of the busy ones, or any.
            let busy = esker::Stream::from(self.rng.below(4) as u32);
            let any = self.any_id().map_or(busy, |id| self.reference.events[&id].stream);
            let stream = if self.rng.chance(70) { busy } else { any };
            Query { stream: Some(stream), ..ALL }
        };
        self.detail(|| format!("{query:?}"));
        let mut reader = match query.stream {
            None => Reader::Scan(Box::new(self.all_scan(&store, &query))),
            Some(stream) => Reader::History(Box::new(store.fetch_history(stream))),
        };
        let before: BTreeMap<u64, Entry> = {
            let asked = self.reference.events.iter().filter(|(id, entry)| query.takes(**id, entry));
            asked.map(|(id, entry)| (*id, entry.clone())).collect()
        };
        let mut due = self.due(&query);
        let mut got = Vec::new();
        let took = self.rng.pick(&[0, 1, 1, 7, 60, 65, 150]);
        self.take_some(&mut reader, took, &mut got)?;
        // A read begins with its first event.
        let (began, was_down) = (took > 0, self.down);
        self.nested = true;
        for _ in 0..self.rng.pick(&[1, 4, 12, 40]) {
            self.step()?;
        }
        if self.rng.chance(30) {
            self.let_all_leave()?;
        }
        self.nested = false;
        self.take_some(&mut reader, usize::MAX, &mut got)?;
        if self.down || was_down {
            due.clear();
        }
        due.retain(|id| self.reference.events.get(id).is_some_and(|entry| self.reference.must(entry)));
        self.compare_held(&query, &got, &due, &before, began)
    }

    fn take_some(&self, reader: &mut Reader<'_>, count: usize, got: &mut Vec<EventRef<'static>>) -> Checked {
        for _ in 0..count {
            match reader.next() {
                Some(Ok(event)) => got.push(event),
                Some(Err(error)) if Self::is_timeout(&error) => return Err(format!("{error:?}")),
                Some(error) => drop(self.tier_said(error, "a held reader")?),
                None => break,
            }
        }
        Ok(())
    }

    fn compare_held(
        &self,
        query: &Query,
        got: &[EventRef<'static>],
        due: &Due,
        before: &BTreeMap<u64, Entry>,
        began: bool,
    ) -> Checked {
        let mut seen = BTreeSet::new();
        for event in got {
            let id = event.id();
            let entry = before.get(&id).or_else(|| self.reference.events.get(&id));
            let entry = entry.ok_or_else(|| {
                let gone = self.reference.gone.contains(&id);
                format!("a held reader gave event {id}, which is not there (once was: {gone}): {event:?}")
            })?;
            same(event, entry)?;
            ensure!(query.takes(id, entry), "a held reader gave {entry:?} for {query:?}");
            ensure!(seen.insert(id), "a held reader gave event {id} twice: {entry:?}");
        }
        let missing: Vec<_> = due.difference(&seen).take(3).map(|id| &before[id]).collect();
        ensure!(missing.is_empty(), "a held reader of {query:?} missed {missing:?}");
        let old: Vec<&EventRef<'_>> = got.iter().filter(|event| before.contains_key(&event.id())).collect();
        if query.ordered && began {
            let rising = old.is_sorted_by_key(|event| event.timestamp());
            ensure!(rising, "a held reader of {query:?} left the order of time");
        }
        if query.stream.is_some() {
            for class in 0..self.setup.classes.len() {
                let of_class = old.iter().filter(|event| event.class().index() == class);
                let falling = of_class.map(|event| before[&event.id()].serial).is_sorted_by(|a, b| a > b);
                ensure!(falling, "a held reader of {query:?} left the order of appending");
            }
        }
        Ok(())
    }

    /// Bytes that a guard has given stay as they are while pages move under it.
    pub(crate) fn hold_a_guard(&mut self) -> Checked {
        let store = self.store();
        let guard = store.pin();
        let query = self.scan_query();
        let mut held: Vec<(EventRef<'_>, Entry)> = Vec::new();
        for event in guard.scan(query.first..=query.last).take(200) {
            if let Some(entry) = self.reference.events.get(&event.id()) {
                held.push((event, entry.clone()));
            }
        }
        (self.nested, self.pinned) = (true, true);
        for _ in 0..self.rng.pick(&[1, 5, 20]) {
            self.step()?;
        }
        (self.nested, self.pinned) = (false, false);
        held.iter().try_for_each(|(event, entry)| same(event, entry))
    }

    /// Everything that is found now: right, once each, and what is due.
    fn scanned_now(&self, due: &Due) -> Checked<BTreeSet<u64>> {
        let store = self.store();
        let mut found = BTreeSet::new();
        for event in self.all_scan(&store, &ALL) {
            let event = event.map_err(|error| format!("after reopening: {error:?}"))?;
            let id = event.id();
            let entry = self.reference.events.get(&id);
            let entry =
                entry.ok_or_else(|| format!("event {id} is found after reopening, but was not there"))?;
            same(&event, entry)?;
            ensure!(self.reference.may(entry), "event {id} is found after its retention");
            ensure!(found.insert(id), "event {id} is found twice after reopening");
        }
        let missing: Vec<_> =
            due.difference(&found).take(3).map(|id| (id, brief(&self.reference.events[id]))).collect();
        ensure!(
            missing.is_empty(),
            "{} of {} events are lost after reopening, such as {missing:?}: {:?}",
            due.difference(&found).count(),
            due.len(),
            store.recovered()
        );
        Ok(found)
    }
}
