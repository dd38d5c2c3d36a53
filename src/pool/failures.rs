//! Failures to connect in a row: how long the server is left alone, and which of them are worth a line in
//! the log.
//!
//! A server that is down is down for every client and at every round of the janitor; the log says so at
//! once, and then again every now and then, not each time.

use std::time::Duration;

use crate::net::clock::Moment;

/// After a failure nobody tries again for this long on behalf of those who wait already. Well below the
/// janitor's round, so that each of its rounds tries again.
const PAUSE: Duration = Duration::from_millis(500);

/// To keep the minimum warm nobody tries again for longer and longer, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The same failure is told again after this long.
const TELL_AGAIN: Duration = Duration::from_secs(20);

/// Failures in a row; none since the last success by default.
#[derive(Debug, Default)]
pub(super) struct Failures {
    in_a_row: u32,
    last: Option<Moment>,
    told: Option<(Moment, String)>,
    untold: u64,
}

impl Failures {
    /// Notes one more. Returns what the log should say of it, if anything.
    pub(super) fn note(&mut self, words: String, now: Moment) -> Option<String> {
        self.hold_off(now);
        let known = self
            .told
            .as_ref()
            .is_some_and(|(at, told)| *told == words && now.since(*at) < TELL_AGAIN);
        if known {
            self.untold += 1;
            return None;
        }
        let line = match std::mem::take(&mut self.untold) {
            0 => words.clone(),
            1 => format!("{words} (and once more since the last such line)"),
            n => format!("{words} (and {n} times more since the last such line)"),
        };
        self.told = Some((now, words));
        Some(line)
    }

    /// Notes one more of which the log says nothing.
    pub(super) fn hold_off(&mut self, now: Moment) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.last = Some(now);
    }

    /// Whether it is time to try again for those who wait.
    pub(super) fn allow_serving(&self, now: Moment) -> bool {
        self.last.is_none_or(|last| now.since(last) >= PAUSE)
    }

    /// How many of the `missing` connections of the minimum may be tried now.
    pub(super) fn allow_warming(&self, missing: usize, now: Moment) -> usize {
        let Some(last) = self.last else {
            return missing;
        };
        let doublings = self.in_a_row.saturating_sub(1).min(16);
        let pause = PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        if now.since(last) >= pause {
            missing.min(1)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_at_once_and_then_every_now_and_then() {
        let mut failures = Failures::default();
        let start = Moment::now();
        let at = |seconds| start.after(Duration::from_secs(seconds));
        let told = |failures: &mut Failures, words: &str, now| failures.note(words.into(), now);
        assert_eq!(told(&mut failures, "down", at(0)).unwrap(), "down");
        assert_eq!(told(&mut failures, "down", at(1)), None);
        assert_eq!(told(&mut failures, "down", at(2)), None);
        let again = told(&mut failures, "down", at(21)).unwrap();
        assert_eq!(again, "down (and 2 times more since the last such line)");
        assert_eq!(told(&mut failures, "other", at(22)).unwrap(), "other");
    }

    #[test]
    fn the_minimum_is_tried_for_less_and_less_often() {
        let mut failures = Failures::default();
        let start = Moment::now();
        let at = |millis| start.after(Duration::from_millis(millis));
        assert_eq!(failures.allow_warming(4, at(0)), 4);
        failures.note("down".into(), at(0));
        assert_eq!(failures.allow_warming(4, at(400)), 0);
        assert_eq!(failures.allow_warming(4, at(500)), 1);
        failures.note("down".into(), at(500));
        assert_eq!(failures.allow_warming(4, at(1400)), 0);
        assert_eq!(failures.allow_warming(4, at(1500)), 1);
        assert!(failures.allow_serving(at(1000)));
        for _ in 0..100 {
            failures.note("down".into(), at(2000));
        }
        assert_eq!(failures.allow_warming(4, at(31_900)), 0);
        assert_eq!(failures.allow_warming(4, at(32_000)), 1);
    }
}
