//! Comparing answers with what the source file says they must be.

use std::fmt;
use std::ops::Range;

use esker::{Error, EventRef};

use crate::timeline::{Entry, Handles, Timeline, classes};

/// How many mismatches are told in full.
const TOLD: u64 = 20;

/// Compares answers with the timeline, and counts.
pub(crate) struct Judge<'a> {
    pub(crate) timeline: &'a Timeline<'a>,
    pub(crate) handles: &'a Handles,
    /// For each class the time at and below which its events have expired.
    horizons: Vec<i64>,
    /// Answers that were compared.
    pub(crate) answers: u64,
    /// Events in them, each compared in every field.
    pub(crate) events: u64,
    /// Answers and events that were wrong.
    pub(crate) mismatches: u64,
}

impl<'a> Judge<'a> {
    /// A judge of what a store says when its clock shows the end of the timeline.
    pub(crate) fn new(timeline: &'a Timeline<'a>, handles: &'a Handles) -> Self {
        let horizon = |retention: Option<std::time::Duration>| {
            retention.map_or(i64::MIN, |age| timeline.last_ms() - age.as_millis() as i64)
        };
        let horizons = classes().iter().map(|class| horizon(class.retention)).collect();
        Self { timeline, handles, horizons, answers: 0, events: 0, mismatches: 0 }
    }

    /// An event of the timeline.
    pub(crate) fn entry(&self, place: usize) -> &'a Entry {
        &self.timeline.entries[place]
    }

    /// Whether retention keeps the event at a place.
    pub(crate) fn is_kept(&self, place: usize) -> bool {
        let entry = self.entry(place);
        entry.time_ms > self.horizons[usize::from(entry.class)]
    }

    /// Notes that something is wrong.
    pub(crate) fn mismatch(&mut self, question: fmt::Arguments<'_>, problem: impl fmt::Display) {
        self.mismatches += 1;
        match self.mismatches {
            ..=TOLD => eprintln!("MISMATCH in {question}: {problem}"),
            _ if self.mismatches == TOLD + 1 => eprintln!("(further mismatches are only counted)"),
            _ => {}
        }
    }

    /// An answer that is right or wrong as a whole.
    pub(crate) fn holds(
        &mut self,
        question: fmt::Arguments<'_>,
        holds: bool,
        problem: impl FnOnce() -> String,
    ) {
        self.answers += 1;
        if !holds {
            self.mismatch(question, problem());
        }
    }

    /// Compares an event with the source in every field, and gives its place.
    pub(crate) fn event(&mut self, question: fmt::Arguments<'_>, event: &EventRef<'_>) -> Option<usize> {
        self.events += 1;
        let Some(place) = self.timeline.place_of(event.id()) else {
            self.mismatch(question, format_args!("there is no event {event:?} in the source"));
            return None;
        };
        if let Err(problem) = self.handles.compare(self.timeline, self.entry(place), event) {
            self.mismatch(question, format_args!("event {}: {problem}", event.id()));
        }
        if !self.is_kept(place) {
            self.mismatch(question, format_args!("event {} has expired", event.id()));
        }
        Some(place)
    }

    /// An answer that is one event or none. `expected` is its place.
    pub(crate) fn one(
        &mut self,
        question: fmt::Arguments<'_>,
        expected: Option<usize>,
        found: Result<Option<EventRef<'_>>, Error>,
    ) {
        self.answers += 1;
        let place = match &found {
            Ok(Some(event)) => self.event(question, event),
            Ok(None) => None,
            Err(error) => return self.mismatch(question, error),
        };
        if place != expected {
            self.mismatch(
                question,
                format_args!("found the event at place {place:?} instead of {expected:?}"),
            );
        }
    }

    /// An answer that is a list of events in a given order. `expected` are their places.
    pub(crate) fn list<'e>(
        &mut self,
        question: fmt::Arguments<'_>,
        expected: impl IntoIterator<Item = usize>,
        found: impl IntoIterator<Item = Result<EventRef<'e>, Error>>,
    ) {
        self.answers += 1;
        let (mut expected, mut position) = (expected.into_iter(), 0u64);
        for event in found {
            match event {
                Ok(event) => {
                    let (place, expected) = (self.event(question, &event), expected.next());
                    if place != expected {
                        let problem = format_args!("number {position} is {place:?} instead of {expected:?}");
                        self.mismatch(question, problem);
                    }
                }
                Err(error) => self.mismatch(question, error),
            }
            position += 1;
        }
        let missing = expected.count();
        if missing > 0 {
            self.mismatch(question, format_args!("{missing} events are missing after the first {position}"));
        }
    }
}

/// Follows an answer that is every event of a range of places that fits, in the order of time or in none.
pub(crate) struct Roll {
    places: Range<usize>,
    seen: Vec<bool>,
    ordered: bool,
    last_ms: i64,
}

impl Roll {
    /// Begins to follow one.
    pub(crate) fn new(places: Range<usize>, ordered: bool) -> Self {
        Self { seen: vec![false; places.len()], places, ordered, last_ms: i64::MIN }
    }

    /// Takes the next event of the answer.
    pub(crate) fn take(
        &mut self,
        judge: &mut Judge<'_>,
        question: fmt::Arguments<'_>,
        event: Result<EventRef<'_>, Error>,
    ) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return judge.mismatch(question, error),
        };
        let Some(place) = judge.event(question, &event) else { return };
        if self.ordered && event.timestamp() < self.last_ms {
            judge.mismatch(question, format_args!("event {} comes after a later one", event.id()));
        }
        self.last_ms = event.timestamp();
        match place.checked_sub(self.places.start).and_then(|at| self.seen.get_mut(at)) {
            Some(seen) if !*seen => *seen = true,
            Some(_) => judge.mismatch(question, format_args!("event {} came twice", event.id())),
            None => {
                judge.mismatch(question, format_args!("event {} is outside of the range", event.id()));
            }
        }
    }

    /// Ends the answer: exactly the places of the range that are `expected` must have been seen.
    pub(crate) fn finish(
        self,
        judge: &mut Judge<'_>,
        question: fmt::Arguments<'_>,
        expected: impl Fn(&Judge<'_>, usize) -> bool,
    ) {
        judge.answers += 1;
        for (place, seen) in self.places.zip(self.seen) {
            if seen != expected(judge, place) {
                let what = if seen { "should not be there" } else { "is missing" };
                let entry = *judge.entry(place);
                judge.mismatch(question, format_args!("event {} {what}: {entry:?}", entry.id()));
            }
        }
    }
}
