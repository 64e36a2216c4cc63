//! Steps that change what the store holds.

use std::collections::BTreeMap;
use std::time::Duration;

use esker::{Appended, ConfigBuilder, Error, ErrorKind, Event, PressureReason, RegionKind, Stream};

use crate::reference::{Checked, Entry, ensure, same};
use crate::screen::Fate;
use crate::setup::Kind;
use crate::world::World;

type Pairs<'a> = Vec<(&'a [u8], &'a [u8])>;

/// What an event of a batch should come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Stored,
    Duplicate,
    TooLarge,
    /// Its class does not take its time.
    Outside,
}

/// Bytes of a record beside its body.
const RECORD_HEADER: i64 = 40;

impl World {
    // ---- making events ----

    fn new_id(&mut self) -> u64 {
        let mut id = match self.rng.weighted(&[900, 60, 1, 1, 25]) {
            0 => self.next_id,
            1 => self.rng.next(),
            2 => 0,
            3 => u64::MAX,
            // One that was removed before.
            _ if !self.nested => match self.reference.gone.len() {
                0 => self.next_id,
                gone => *self.reference.gone.iter().nth(self.rng.index(gone)).unwrap_or(&self.next_id),
            },
            _ => self.next_id,
        };
        if self.reference.events.contains_key(&id) || self.logged.has_left(id) {
            id = self.next_id;
        }
        self.next_id = self.next_id.max(if id < 1 << 40 { id + 1 } else { 0 });
        while self.reference.events.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.comes_again(id);
        id
    }

    fn new_stream(&mut self) -> Stream {
        if self.rng.chance(self.setup.busy) {
            return Stream::from(0u32);
        }
        match self.rng.weighted(&[50, 20, 15, 10]) {
            0 => Stream::from(self.rng.below(4) as u32),
            1 => Stream::from(self.rng.below(40) as u32),
            2 if !self.names.is_empty() => self.names[self.rng.index(self.names.len())].1,
            2 => Stream::from(7u32),
            // Streams with one event or a few fill the stream directory.
            _ => {
                self.fresh_stream += 1;
                Stream::try_from(self.fresh_stream / 2).unwrap()
            }
        }
    }

    fn new_payload(&mut self, pairs: usize) -> Vec<u8> {
        let page = self.setup.page_size as i64;
        let len = match self.rng.weighted(&[10, 35, 38, 10, 4, 3]) {
            0 => 0,
            1 => self.rng.within(1, 64),
            2 if self.setup.small => self.rng.within(1, 24),
            2 => self.rng.within(65, 600),
            3 => self.rng.within(601, page.min(4096)),
            // As long as a page exactly, or a little less or more.
            4 => page - RECORD_HEADER + self.rng.within(-9, 9),
            _ => self.rng.within(page, self.setup.max_event as i64),
        };
        let len = len.clamp(0, self.setup.max_event as i64 - pairs as i64 - 10).max(0) as usize;
        if self.rng.chance(40) {
            let mut bytes = Vec::with_capacity(len + 8);
            while bytes.len() < len {
                bytes.extend_from_slice(&self.rng.next().to_le_bytes());
            }
            bytes.truncate(len);
            return bytes;
        }
        vec![self.rng.next() as u8; len]
    }

    fn new_timestamp(&mut self) -> i64 {
        let now = self.reference.now_ms;
        match self.rng.weighted(&[700, 200, 40, 30, 5]) {
            0 => now,
            1 => now - self.rng.within(0, 60_000),
            2 => now - self.rng.within(0, 10_000_000),
            3 => now + self.rng.within(0, 10_000_000),
            _ => self.rng.pick(&[i64::MIN, i64::MAX, 0, -1]),
        }
    }

    /// When an event expires by itself, if it does.
    fn new_moment(&mut self, timestamp: i64) -> Option<i64> {
        let at = match self.rng.weighted(&[80, 8, 8, 3, 1]) {
            0 => return None,
            1 => timestamp.saturating_add(self.rng.within(0, 30_000)),
            2 => timestamp.saturating_add(self.rng.within(0, 2_000_000)),
            3 => self.reference.now_ms + self.rng.within(-1, 1),
            _ => self.rng.pick(&[i64::MIN, 0, i64::MAX - 1, i64::MAX]),
        };
        (at != i64::MAX).then_some(at)
    }

    pub(crate) fn new_event(&mut self) -> (u64, Entry) {
        let pairs = if self.rng.chance(25) { self.rng.below(4) } else { 0 };
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = (0..pairs)
            .map(|pair| {
                let value = vec![self.rng.next() as u8; self.rng.index(20)];
                (format!("key {pair}").into_bytes(), value)
            })
            .collect();
        let taken: usize = pairs.iter().map(|(key, value)| key.len() + value.len() + 4).sum();
        let (timestamp, stream) = (self.new_timestamp(), self.new_stream());
        let of_stream = self.class_of_stream(stream);
        let entry = Entry {
            serial: 0,
            stream,
            class: if self.rng.chance(40) { of_stream } else { self.rng.index(self.classes.len()) },
            timestamp,
            expires_at: self.new_moment(timestamp),
            kind: self.rng.pick(&[0, 1, 1, 2, 63, 64, 200, 255]),
            flags: self.rng.pick(&[0, 0, 1, 2, 3, 0x8000]),
            payload: self.new_payload(taken),
            pairs,
            arrival: self.reference.now_ms,
            tick: self.reference.times.tick(),
            confirmed: false,
            unsure: false,
        };
        (self.new_id(), entry)
    }

    fn event<'a>(&self, id: u64, entry: &'a Entry, pairs: &'a Pairs<'a>) -> Event<'a> {
        let event = Event::new(entry.stream, id, entry.timestamp, entry.kind)
            .flags(entry.flags)
            .metadata(pairs.as_slice())
            .payload(&entry.payload);
        let event = match entry.expires_at {
            Some(at) if at >= entry.timestamp && id.is_multiple_of(2) => {
                event.ttl(Duration::from_millis(at.abs_diff(entry.timestamp)))
            }
            Some(at) => event.expires_at(at),
            None => event,
        };
        if self.is_unnamed(id, entry) { event } else { event.class(self.classes[entry.class]) }
    }

    /// Whether an event names no class: that of its stream need not be named.
    fn is_unnamed(&self, id: u64, entry: &Entry) -> bool {
        entry.class == self.class_of_stream(entry.stream) && id.is_multiple_of(2)
    }

    fn is_large(&self, entry: &Entry) -> bool {
        entry.payload.len() + 200 > self.setup.page_size as usize
    }

    // ---- appending ----

    pub(crate) fn append(&mut self) -> Checked {
        let (id, mut entry) = self.new_event();
        let how = self.rng.below(10);
        let fate = self.fate(&entry);
        self.detail(|| format!("{id}, {} B of class {}", entry.payload.len(), entry.class));
        let pairs = pairs_of(&entry);
        let event = self.event(id, &entry, &pairs);
        let store = self.store();
        let outcome = match how {
            0 => store.try_append(&event),
            1 => store.append(&event),
            // Without threads one try to make room is the last word: waiting longer would show nothing new.
            _ => store
                .append_timeout(&event, Duration::from_nanos(if self.is_alone() { 1 } else { 50_000_000 })),
        };
        let Fate::Taken { timestamp, expires_at } = fate else {
            ensure!(
                store.pin().get(id).is_none(),
                "event {id} is there although its class does not take its time"
            );
            return self.kept_out(id, fate, outcome.as_ref().copied());
        };
        self.count_fairness(how != 0, &entry, outcome.is_err());
        match outcome {
            Ok(Appended::Stored) => {
                self.totals.by_stream += u64::from(self.is_unnamed(id, &entry) && entry.class != 0);
                (entry.timestamp, entry.expires_at) = (timestamp, expires_at);
                self.stored(id, entry)
            }
            Err(error) => self.refused(id, &error),
            other => Err(format!("appending the new event {id} gave {other:?}")),
        }
    }

    fn count_fairness(&mut self, waited: bool, entry: &Entry, refused: bool) {
        let fair = waited && self.is_alone() && self.setup.has_tier() && !self.down && !self.pinned;
        if !fair {
            return;
        }
        let refused = u64::from(refused);
        if self.is_large(entry) {
            self.totals.large_tries += 1;
            self.totals.large_refusals += refused;
        } else {
            self.totals.fair_tries += 1;
            self.totals.fair_refusals += refused;
        }
        if refused > 0 {
            self.detail(|| "was refused".into());
        }
    }

    /// Notes an acknowledged event; nothing has had time to move it yet.
    pub(crate) fn stored(&mut self, id: u64, mut entry: Entry) -> Checked {
        self.tally.stored += 1;
        self.totals.stored += 1;
        entry.serial = self.reference.next_serial();
        if self.is_alone() && self.reference.may(&entry) {
            let store = self.store();
            let guard = store.pin();
            let event =
                guard.get(id).ok_or_else(|| format!("event {id} is not there after it was appended"))?;
            same(&event, &entry)?;
        }
        self.reference.insert(id, entry);
        self.recent.push_back(id);
        if self.recent.len() > 40 {
            self.recent.pop_front();
        }
        Ok(())
    }

    /// There was no room: the error says where, and nothing was stored.
    pub(crate) fn refused(&mut self, id: u64, error: &Error) -> Checked {
        ensure!(error.kind() == ErrorKind::MemoryPressure, "append {id}: {error:?}");
        let pressure = error.back_pressure().ok_or_else(|| format!("{error} without back-pressure"))?;
        ensure!(error.is_retryable() && error.retry_after().is_some(), "{error} cannot be tried again");
        // A class is above its quota while nothing of it may leave.
        let within = pressure.used_bytes <= pressure.limit_bytes;
        ensure!(within || pressure.reason == PressureReason::ClassQuota, "{pressure:?}");
        ensure!(pressure.region != Some(RegionKind::Warm), "the warm region refuses nobody: {pressure:?}");
        self.detail(|| format!("{id} was refused: {:?}", pressure.reason));
        self.tally.refused += 1;
        if !self.reference.events.contains_key(&id) {
            ensure!(self.store().pin().get(id).is_none(), "event {id} was refused but is there");
        }
        Ok(())
    }

    /// An id that memory has. Not from a store with threads: they may take it away at any time.
    fn id_in_memory(&mut self) -> Option<u64> {
        if !self.is_alone() || self.recent.is_empty() {
            return None;
        }
        let id =
            if self.rng.chance(70) { self.recent[self.rng.index(self.recent.len())] } else { self.any_id()? };
        (self.reference.events.contains_key(&id) && self.store().pin().get(id).is_some()).then_some(id)
    }

    pub(crate) fn append_duplicate(&mut self) -> Checked {
        let Some(id) = self.id_in_memory() else { return Ok(()) };
        let (_, mut other) = self.new_event();
        other.timestamp = self.reference.now_ms;
        let pairs = pairs_of(&other);
        // Without waiting: to make room, the store might let go of the very event.
        let outcome = self.store().try_append(&self.event(id, &other, &pairs));
        self.detail(|| format!("{id}: {outcome:?}"));
        match outcome {
            Ok(Appended::Duplicate) => {
                self.tally.duplicates += 1;
                self.totals.duplicates += 1;
            }
            Err(error) => self.refused(id, &error)?,
            other => return Err(format!("appending event {id} again gave {other:?}")),
        }
        let store = self.store();
        let guard = store.pin();
        let event = guard.get(id).ok_or_else(|| format!("event {id} vanished when it was appended again"))?;
        same(&event, &self.reference.events[&id])
    }

    /// Events that no store of this size takes.
    pub(crate) fn append_bad(&mut self) -> Checked {
        let (id, mut entry) = self.new_event();
        let (store, pairs) = (self.store(), Vec::new());
        entry.payload = vec![1; self.setup.max_event as usize + 1];
        entry.timestamp = self.reference.now_ms;
        let kind = store.append(&self.event(id, &entry, &pairs)).map_err(|error| error.kind());
        ensure!(kind == Err(ErrorKind::TooLarge), "an event above the limit gave {kind:?}");
        let foreign = (0..=self.classes.len())
            .fold(esker::Config::builder(), |config: ConfigBuilder, number| {
                config.class(esker::ClassConfig::new(format!("{number}")))
            });
        let foreign = foreign.build().unwrap().class(&format!("{}", self.classes.len())).unwrap();
        let kind =
            store.append(&Event::new(entry.stream, id, 0, 0).class(foreign)).map_err(|error| error.kind());
        ensure!(kind == Err(ErrorKind::InvalidInput), "an event of an unknown class gave {kind:?}");
        ensure!(store.pin().get(id).is_none(), "event {id} is there although it was not taken");
        Ok(())
    }

    pub(crate) fn append_batch(&mut self) -> Checked {
        let len = self.rng.pick(&[0, 1, 2, 5, 16, 40, 120]);
        let mut list: Vec<(u64, Entry, Expected)> = Vec::with_capacity(len);
        let mut fates = Vec::with_capacity(len);
        // One that leaves memory while the batch waits is stored twice; should all end before both are removed, both would be
        // found.
        let all_may_end = self.setup.kind == Kind::Faults && self.nested;
        let again = if all_may_end { 0 } else { 5 };
        while list.len() < len {
            let (mut id, mut entry) = self.new_event();
            let mut expected = Expected::Stored;
            if self.rng.chance(again) && !list.is_empty() {
                // Again what this batch has already, or is going to have been refused.
                id = list[self.rng.index(list.len())].0;
                expected = Expected::Duplicate;
            } else if self.rng.chance(again)
                && let Some(known) = self.id_in_memory()
            {
                id = known;
                expected = Expected::Duplicate;
            } else if self.rng.chance(1) {
                entry.payload = vec![2; self.setup.max_event as usize + 1];
                entry.pairs.clear();
                expected = Expected::TooLarge;
            }
            if list.iter().all(|(other, _, _)| *other != id) || expected == Expected::Duplicate {
                let fate = self.fate(&entry);
                let taken = matches!(fate, Fate::Taken { .. });
                fates.push(fate);
                list.push((id, entry, if taken { expected } else { Expected::Outside }));
            }
        }
        self.detail(|| format!("of {len}"));
        let pairs: Vec<Pairs<'_>> = list.iter().map(|(_, entry, _)| pairs_of(entry)).collect();
        let events: Vec<Event<'_>> =
            list.iter().zip(&pairs).map(|((id, entry, _), pairs)| self.event(*id, entry, pairs)).collect();
        let store = self.store();
        let waited = store.stats().events.waited;
        let batch = store.append_batch(&events).map_err(|error| format!("append_batch: {error:?}"))?;
        let waited = store.stats().events.waited > waited;
        let counted = batch.stored + batch.duplicates + batch.refused.len() + batch.set_aside.len();
        ensure!(counted == len && batch.duplicate_at.len() == batch.duplicates, "{batch:?} of {len} events");
        self.take_outcomes(list, &fates, &batch, waited)
    }

    fn take_outcomes(
        &mut self,
        list: Vec<(u64, Entry, Expected)>,
        fates: &[Fate],
        batch: &esker::Batch,
        waited: bool,
    ) -> Checked {
        let (mut doubled, mut duplicates) = (BTreeMap::new(), Vec::new());
        let mut told = false;
        for (at, (id, mut entry, expected)) in list.into_iter().enumerate() {
            match fates[at] {
                Fate::Taken { timestamp, expires_at } => {
                    (entry.timestamp, entry.expires_at) = (timestamp, expires_at);
                }
                fate => {
                    self.kept_out(id, fate, batch.outcome(at))?;
                    continue;
                }
            }
            // Once one is refused, the rest of the batch is not tried.
            if expected != Expected::TooLarge && !told {
                told = batch.outcome(at).is_err();
                self.count_fairness(true, &entry, told);
            }
            match batch.outcome(at) {
                Err(error) if error.kind() == ErrorKind::TooLarge => {
                    ensure!(expected == Expected::TooLarge, "event {at} of a batch: {error:?}");
                }
                _ if expected == Expected::TooLarge => {
                    return Err(format!("too large an event {at} was taken"));
                }
                Err(error) => {
                    self.tally.refused += 1;
                    let pressed = error.kind() == ErrorKind::MemoryPressure;
                    ensure!(pressed, "event {at} of a batch: {error:?}");
                }
                Ok(Appended::Duplicate) => {
                    self.tally.duplicates += 1;
                    self.totals.duplicates += 1;
                    duplicates.push(id);
                }
                Ok(Appended::Stored) if self.reference.events.contains_key(&id) => {
                    // The first one left memory while the batch waited for room.
                    let may_have_left = waited || !self.is_alone();
                    ensure!(may_have_left, "event {id} was stored a second time, at {at} of a batch");
                    self.tally.stored += 1;
                    *doubled.entry(id).or_insert(1) += 1;
                }
                Ok(Appended::Stored) => {
                    self.totals.by_stream += u64::from(self.is_unnamed(id, &entry) && entry.class != 0);
                    self.note_of_batch(id, entry);
                }
                Ok(other) => return Err(format!("event {at} of a batch gave {other:?}")),
            }
        }
        for id in duplicates {
            let known = self.reference.events.contains_key(&id);
            ensure!(known, "the new event {id} of a batch is called a duplicate");
        }
        doubled.into_iter().try_for_each(|(id, most)| self.end_doubled(id, most))
    }

    fn note_of_batch(&mut self, id: u64, mut entry: Entry) {
        self.tally.stored += 1;
        self.totals.stored += 1;
        entry.serial = self.reference.next_serial();
        self.reference.insert(id, entry);
        self.recent.push_back(id);
        if self.recent.len() > 40 {
            self.recent.pop_front();
        }
    }

    /// An id with several events, all but one of them cold: removes all. A batch can have it more than once.
    fn end_doubled(&mut self, id: u64, most: usize) -> Checked {
        self.totals.doubled += 1;
        self.detail(|| format!("{id} is there twice"));
        let was_down = self.down;
        self.tier_up();
        let mut times = 0;
        while self.remove_counted(id)?.unwrap_or(false) {
            times += 1;
            ensure!(times <= most, "event {id} is there more than {most} times");
        }
        self.forget(id, true);
        self.comes_again(id);
        if was_down {
            self.toggle_tier()?;
        }
        Ok(())
    }

    // ---- removing ----

    /// Removes an id and counts from where. `None`: the tier is down.
    fn remove_counted(&mut self, id: u64) -> Checked<Option<bool>> {
        let store = self.store();
        let in_memory = || {
            let events = store.stats().events;
            events.hot + events.warm
        };
        let before = in_memory();
        let outcome = store.remove(id);
        if self.is_alone() {
            let after = in_memory();
            ensure!(before - after <= 1, "removing {id} took {before} - {after} events from memory");
            self.tally.removed_from_memory += before - after;
        }
        let removed = self.tier_said(outcome, "remove")?;
        self.tally.removed += u64::from(removed == Some(true));
        self.totals.removed += u64::from(removed == Some(true));
        Ok(removed)
    }

    pub(crate) fn remove(&mut self) -> Checked {
        if self.rng.chance(10) {
            let id = match self.reference.gone.len() {
                0 => self.rng.next(),
                gone => *self.reference.gone.iter().nth(self.rng.index(gone)).unwrap_or(&3),
            };
            let absent = !self.reference.events.contains_key(&id);
            self.detail(|| format!("{id}, which is not there"));
            let removed = self.remove_counted(id)?;
            ensure!(removed != Some(true) || !absent, "event {id} is not there but was removed");
            if !absent {
                self.forget(id, true);
            }
            return Ok(());
        }
        let recent =
            (!self.recent.is_empty() && self.rng.chance(40)).then(|| self.rng.index(self.recent.len()));
        let Some(id) = recent.map(|at| self.recent[at]).or_else(|| self.any_id()) else { return Ok(()) };
        let Some(entry) = self.reference.events.get(&id) else { return Ok(()) };
        let must = self.reference.must(entry) && !self.setup.drops(entry.class);
        self.detail(|| format!("{id}"));
        match self.remove_counted(id)? {
            Some(removed) => {
                ensure!(removed || !must, "event {id} could not be removed: it is not there");
                self.forget(id, true);
            }
            None => {
                // The tier was asked in vain: the event may be there or not.
                if let Some(entry) = self.reference.events.get_mut(&id) {
                    entry.unsure = true;
                }
            }
        }
        Ok(())
    }

    /// Any id that should be there.
    pub(crate) fn any_id(&mut self) -> Option<u64> {
        let from = *self.reference.events.keys().next()?;
        let to = self.next_id.max(from.saturating_add(1));
        let start = from + self.rng.below((to - from).max(1));
        self.reference.events.range(start..).next().or(self.reference.events.iter().next()).map(|(id, _)| *id)
    }

    // ---- names ----

    pub(crate) fn check_names(&mut self) -> Checked {
        let store = self.store();
        if self.names.len() < 12 && self.rng.chance(50) {
            let name = format!("stream {}", self.names.len());
            let stream = store.stream(&name).map_err(|error| format!("{name}: {error:?}"))?;
            let taken = self.names.iter().any(|(_, other)| *other == stream);
            ensure!(!taken && stream.is_named(), "{name} has the stream of another name: {stream:?}");
            self.names.push((name, stream));
        }
        for (name, stream) in &self.names {
            ensure!(store.stream(name).ok() == Some(*stream), "{name} has changed its stream");
            ensure!(store.stream_name(*stream).as_ref() == Some(name), "{stream:?} has lost its name {name}");
        }
        Ok(())
    }
}

fn pairs_of(entry: &Entry) -> Pairs<'_> {
    entry.pairs.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect()
}
