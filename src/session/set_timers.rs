//! When the sessions of a shared set are to get a turn though nothing has happened.
//!
//! Knows sessions by their tokens only. A timer stays until its time has come or most are old: to take one out of the
//! middle would cost more than to find it out of date. Whoever asks says which still hold.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::net::clock::MonotonicTime;

/// Timers that a set may have beside two for each session.
const SPARE: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct SetTimers(BinaryHeap<Reverse<(MonotonicTime, u64)>>);

impl SetTimers {
    /// The time of the next one.
    pub(super) fn next(&self) -> Option<MonotonicTime> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Sets one.
    pub(super) fn set(&mut self, at: MonotonicTime, token: u64) {
        self.0.push(Reverse((at, token)));
    }

    /// Takes one whose time has come: the time, and whose it is.
    pub(super) fn take_passed(&mut self, now: MonotonicTime) -> Option<(MonotonicTime, u64)> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop().map(|Reverse(timer)| timer)
    }

    /// Drops those that do not hold, once they are most. They would stay until their time, which may be in a day.
    pub(super) fn drop_old(&mut self, sessions: usize, holds: impl Fn(MonotonicTime, u64) -> bool) {
        if self.0.len() < 2 * sessions + SPARE {
            return;
        }
        self.0.retain(|&Reverse((at, token))| holds(at, token));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> MonotonicTime {
        MonotonicTime::from_micros(micros)
    }

    #[test]
    fn those_whose_time_has_come_are_taken_in_their_order() {
        let mut timers = SetTimers::default();
        timers.set(at(30), 3);
        timers.set(at(10), 1);
        timers.set(at(20), 2);
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.take_passed(at(20)), Some((at(10), 1)));
        assert_eq!(timers.take_passed(at(20)), Some((at(20), 2)));
        assert_eq!(timers.take_passed(at(20)), None);
        assert_eq!(timers.next(), Some(at(30)));
    }

    #[test]
    fn those_that_do_not_hold_are_dropped_once_they_are_most() {
        let mut timers = SetTimers::default();
        let many = u64::try_from(SPARE).unwrap() + 2;
        for token in 0..many {
            timers.set(at(token), token);
            timers.drop_old(1, |_, token| token == 7);
        }
        assert_eq!(timers.next(), Some(at(7)));
        assert_eq!(timers.take_passed(at(many)), Some((at(7), 7)));
    }
}
