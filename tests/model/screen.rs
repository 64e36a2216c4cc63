//! What is asked of events before they are appended: classes of streams, windows of time, and the dead letters.

use esker::{Appended, Error, ErrorKind, Outside, Stream};

use crate::reference::{Checked, Entry, ensure};
use crate::setup::resolved;
use crate::world::World;

/// What should become of an event for its time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// It is appended, with these times.
    Taken {
        timestamp: i64,
        expires_at: Option<i64>,
    },
    Refused,
    DeadLettered,
}

impl World {
    /// The class of a stream's events that name none.
    pub(crate) fn class_of_stream(&self, stream: Stream) -> usize {
        match self.set.get(&stream) {
            Some(class) => *class,
            None if self.setup.resolves => resolved(stream, self.classes.len()).unwrap_or(0),
            None => 0,
        }
    }

    /// What becomes of an event that is appended now. Counts those that are moved.
    pub(crate) fn fate(&mut self, entry: &Entry) -> Fate {
        let (skew, now) = (self.setup.classes[entry.class].skew, self.reference.now_ms);
        let millis = |age: std::time::Duration| age.as_millis() as i64;
        let last = skew.ahead.map_or(i64::MAX, |most| now + millis(most));
        let first = skew.behind.map_or(i64::MIN, |most| now - millis(most));
        let timestamp = entry.timestamp.clamp(first, last);
        if timestamp == entry.timestamp {
            return Fate::Taken { timestamp, expires_at: entry.expires_at };
        }
        match skew.outside {
            Outside::Refuse => Fate::Refused,
            Outside::DeadLetter => Fate::DeadLettered,
            _ => {
                self.tally.outside[1] += 1;
                let moved = i128::from(timestamp) - i128::from(entry.timestamp);
                let (least, most) = (i128::from(i64::MIN), i128::from(i64::MAX - 1));
                let later = |at: i64| (i128::from(at) + moved).clamp(least, most) as i64;
                Fate::Taken { timestamp, expires_at: entry.expires_at.map(later) }
            }
        }
    }

    /// An event whose time its class does not take was refused, or is a dead letter.
    pub(crate) fn kept_out(&mut self, id: u64, fate: Fate, outcome: Result<Appended, &Error>) -> Checked {
        let outcome = outcome.map_err(Error::kind);
        let full = || self.setup.letters.0.len() == 20;
        let right = match (fate, outcome) {
            (Fate::Refused, Err(kind)) => kind == ErrorKind::OutsideWindow,
            (Fate::DeadLettered, Err(kind)) => kind == ErrorKind::DeadLettersFull && full(),
            (Fate::DeadLettered, Ok(outcome)) => outcome == Appended::DeadLettered,
            _ => false,
        };
        ensure!(right, "event {id} should come to {fate:?}: {outcome:?}");
        self.tally.outside[if outcome.is_ok() { 2 } else { 0 }] += 1;
        Ok(())
    }

    /// Sets, forgets and asks classes of streams.
    pub(crate) fn set_classes(&mut self) -> Checked {
        let store = self.store();
        for _ in 0..self.rng.pick(&[1, 3, 30]) {
            let stream = match self.any_id() {
                Some(id) if self.rng.chance(60) => self.reference.events[&id].stream,
                _ => Stream::from(self.rng.below(40) as u32),
            };
            let class = self.rng.index(self.classes.len());
            match self.rng.below(4) {
                0 => {
                    let before = store.forget_class(stream).map(esker::Class::index);
                    ensure!(before == self.set.remove(&stream), "{stream:?} was of class {before:?}");
                }
                1 => {
                    let classes = [(stream, self.classes[class])];
                    let set =
                        store.set_classes(classes).map_err(|error| format!("set_classes: {error:?}"))?;
                    ensure!(set == 1, "{set} classes were set");
                    self.set.insert(stream, class);
                }
                _ => {
                    let before = store.set_class(stream, self.classes[class]);
                    let before = before.map_err(|error| format!("set_class: {error:?}"))?;
                    let known = self.set.insert(stream, class);
                    ensure!(before.map(esker::Class::index) == known, "{stream:?} was of class {before:?}");
                }
            }
            let now = store.class_of(stream).map_err(|error| format!("class_of: {error:?}"))?;
            ensure!(now.index() == self.class_of_stream(stream), "{stream:?} is of class {now:?}");
        }
        Ok(())
    }

    /// Replays or discards some dead letters.
    pub(crate) fn settle_dead_letters(&mut self) -> Checked {
        let (store, letters) = (self.store(), self.setup.letters.0.clone());
        for letter in letters.list().iter().take(self.rng.pick(&[1, 5, 20])) {
            let said = |error: Error| format!("dead letter {letter:?}: {error:?}");
            let event = letters.read(&letter.name).map_err(said)?;
            let id = event.id();
            if self.rng.chance(30) || self.reference.events.contains_key(&id) {
                letters.discard(&letter.name).map_err(said)?;
                continue;
            }
            let pairs = event.metadata().map(|(key, value)| (key.to_vec(), value.to_vec()));
            let entry = Entry {
                serial: 0,
                stream: event.stream(),
                class: event.class().index(),
                timestamp: event.timestamp(),
                kind: event.kind(),
                flags: event.flags(),
                pairs: pairs.collect(),
                payload: event.payload().to_vec(),
                expires_at: event.expires_at(),
                arrival: self.reference.now_ms,
                tick: self.reference.times.tick(),
                confirmed: false,
                unsure: false,
            };
            let count = letters.len();
            match letters.replay(&store, &letter.name) {
                Ok(Appended::Stored) => {
                    ensure!(letters.len() == count - 1, "the dead letter {} stays", letter.name);
                    self.totals.replayed += 1;
                    self.stored(id, entry)?;
                }
                Err(error) => {
                    ensure!(letters.len() == count, "the dead letter {} is gone: {error:?}", letter.name);
                    match error.kind() {
                        // Of a store that was larger.
                        ErrorKind::TooLarge => letters.discard(&letter.name).map_err(said)?,
                        _ => self.refused(id, &error)?,
                    }
                }
                other => return Err(format!("replaying event {id} gave {other:?}")),
            }
        }
        Ok(())
    }
}
