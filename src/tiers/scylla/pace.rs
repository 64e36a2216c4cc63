//! How many writes are under way at once: more while the server answers as fast as it can, fewer when it slows down.
//!
//! Additive increase, multiplicative decrease (Chiu and Jain, 1989), steered by latency: the fastest answers of the
//! last while say what the server can do; answers that take several times as long say that requests wait in it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;

/// What the limit begins with, and never goes below.
const START: f64 = 16.0;
const LEAST: f64 = 4.0;
/// An answer that takes longer than so many times the fastest, and this on top, is slow.
const SLOW_TIMES: u32 = 6;
const SLOW_MORE: Duration = Duration::from_millis(25);
/// The limit shrinks at most once in such a time: what was sent before it did says nothing new.
const CUT_PAUSE: Duration = Duration::from_millis(100);
/// How fast the fastest answer is forgotten: by so much of itself with each answer.
const FORGET: f64 = 0.001;

pub(crate) struct Pace {
    state: Mutex<State>,
    room: Notify,
    most: f64,
}

struct State {
    under_way: u32,
    limit: f64,
    fastest: Option<Duration>,
    cut: Option<Instant>,
}

/// What became of a request, as far as pace is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Done,
    /// The server said that it is overloaded, or nothing in time.
    Overload,
    /// It says nothing about how fast the server is.
    Other,
}

impl Pace {
    pub(crate) fn new(most: u32) -> Self {
        let most = f64::from(most);
        let state = State { under_way: 0, limit: START.min(most), fastest: None, cut: None };
        Self { state: Mutex::new(state), room: Notify::new(), most }
    }

    /// Waits until another request may begin.
    pub(crate) async fn enter(&self) -> Turn<'_> {
        loop {
            let room = self.room.notified();
            {
                let mut state = self.state.lock();
                if f64::from(state.under_way) < state.limit.floor().max(1.0) {
                    state.under_way += 1;
                    return Turn { pace: self, begin: clock::now() };
                }
            }
            room.await;
        }
    }

    pub(crate) fn figures(&self) -> (u32, u32) {
        let state = self.state.lock();
        (state.under_way, state.limit as u32)
    }

    fn learn(&self, answer: Answer, took: Duration, now: Instant) {
        let mut state = self.state.lock();
        let fastest = state.fastest.map_or(took, |fastest| fastest.mul_f64(1.0 + FORGET).min(took));
        let slow = match answer {
            Answer::Done => {
                state.fastest = Some(fastest);
                took > fastest * SLOW_TIMES + SLOW_MORE
            }
            Answer::Overload => true,
            Answer::Other => return,
        };
        if !slow {
            state.limit = (state.limit + 1.0 / state.limit).min(self.most);
        } else if state.cut.is_none_or(|cut| now.saturating_duration_since(cut) >= CUT_PAUSE) {
            state.cut = Some(now);
            state.limit = (state.limit * 0.7).max(LEAST.min(self.most));
        }
    }
}

/// A request that is under way; its end lets another one begin, also when it is given up.
pub(crate) struct Turn<'a> {
    pace: &'a Pace,
    begin: Instant,
}

impl Turn<'_> {
    pub(crate) fn end(self, answer: Answer) {
        let now = clock::now();
        self.pace.learn(answer, now.saturating_duration_since(self.begin), now);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pace.state.lock().under_way -= 1;
        self.pace.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_grows_with_fast_answers_and_shrinks_with_slow_ones() {
        let (pace, begin) = (Pace::new(128), clock::now());
        let ms = Duration::from_millis;
        for _ in 0..20_000 {
            pace.learn(Answer::Done, ms(2), begin);
        }
        assert_eq!(pace.figures().1, 128, "and no further");
        for turn in 0..40 {
            pace.learn(Answer::Done, ms(200), begin + ms(200) * turn);
        }
        assert_eq!(pace.figures().1, 4, "and not below");
        for turn in 0..1000 {
            pace.learn(Answer::Overload, ms(1), begin + ms(60_000) + ms(turn / 20));
        }
        assert!(pace.figures().1 >= 4);
        for _ in 0..1000 {
            pace.learn(Answer::Done, ms(2), begin + ms(90_000));
        }
        assert!(pace.figures().1 > 30);
    }

    #[test]
    fn no_more_than_the_limit_are_under_way_and_a_request_given_up_makes_room() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let pace = Pace::new(2);
            let (first, second) = (pace.enter().await, pace.enter().await);
            let mut third = Box::pin(pace.enter());
            let pending = std::future::poll_fn(|context| {
                std::task::Poll::Ready(third.as_mut().poll(context).is_pending())
            });
            assert!(pending.await);
            drop(first);
            let third = third.await;
            assert_eq!(pace.figures().0, 2);
            second.end(Answer::Done);
            third.end(Answer::Other);
            assert_eq!(pace.figures().0, 0);
        });
    }
}
