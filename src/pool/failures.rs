//! Failures to connect in a row: how long the server is left alone, and which of them are worth a line in
//! the log.
//!
//! A server that is down is down for every client and at every round of the janitor; the log says so at
//! once, and then again every now and then, not each time.

use std::sync::Arc;
use std::time::Duration;

use crate::net::clock::MonotonicTime;
use crate::server::login::ConnectError;

/// For this long after a failure no attempt is made for clients that wait already.
const PAUSE: Duration = Duration::from_millis(500);

/// To keep the minimum warm, the pause between attempts doubles up to this.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The same failure is logged again after this long.
const TELL_AGAIN: Duration = Duration::from_secs(20);

/// A line for the log that would come again and again: it is written at once, and then every now and then with
/// how often it has come.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    told: Option<(MonotonicTime, String)>,
    untold: u64,
}

impl Repeats {
    /// Notes it once more. Returns what the log should say, if anything.
    pub(super) fn note(&mut self, message: String, now: MonotonicTime) -> Option<String> {
        let known = self
            .told
            .as_ref()
            .is_some_and(|(at, told)| *told == message && now.since(*at) < TELL_AGAIN);
        if known {
            self.untold += 1;
            return None;
        }
        let line = match std::mem::take(&mut self.untold) {
            0 => message.clone(),
            1 => format!("{message} (and once more since the last such line)"),
            n => format!("{message} (and {n} times more since the last such line)"),
        };
        self.told = Some((now, message));
        Some(line)
    }
}

/// Failures in a row; none since the last success by default.
#[derive(Debug, Default)]
pub(super) struct Failures {
    in_a_row: u32,
    last: Option<MonotonicTime>,
    error: Option<Arc<ConnectError>>,
    lines: Repeats,
}

impl Failures {
    /// Notes one more. Returns what the log should say of it, if anything.
    pub(super) fn note(&mut self, message: String, now: MonotonicTime) -> Option<String> {
        self.hold_off(now);
        self.lines.note(message, now)
    }

    /// Notes one more of which the log says nothing.
    pub(super) fn hold_off(&mut self, now: MonotonicTime) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.last = Some(now);
    }

    /// Keeps the reason, for those who wait until it is healed or their time is up.
    pub(super) fn keep(&mut self, error: Arc<ConnectError>) {
        self.error = Some(error);
    }

    /// The reason of the last failure, if there was no success since.
    pub(super) fn error(&self) -> Option<Arc<ConnectError>> {
        self.error.clone()
    }

    /// Whether the last attempt failed for a reason that waiting can heal.
    pub(super) fn can_heal(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.can_heal())
    }

    /// How many of the `missing` connections may be tried now for those who wait, while `connecting` are being
    /// tried. After a failure it is one at a time. `eager`: a client has just asked.
    pub(super) fn allow_serving(
        &self,
        missing: usize,
        connecting: usize,
        eager: bool,
        now: MonotonicTime,
    ) -> usize {
        let Some(last) = self.last else {
            return missing;
        };
        if connecting == 0 && (eager || now.since(last) >= PAUSE) {
            missing.min(1)
        } else {
            0
        }
    }

    /// How many of the `missing` connections of the minimum may be tried now.
    pub(super) fn allow_warming(&self, missing: usize, now: MonotonicTime) -> usize {
        let Some(last) = self.last else {
            return missing;
        };
        let doublings = self.in_a_row.saturating_sub(1).min(16);
        let pause = PAUSE.saturating_mul(1 << doublings).min(MAX_PAUSE);
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
        let start = MonotonicTime::now();
        let at = |seconds| start.after(Duration::from_secs(seconds));
        let told = |failures: &mut Failures, message: &str, now| failures.note(message.into(), now);
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
        let start = MonotonicTime::now();
        let at = |millis| start.after(Duration::from_millis(millis));
        assert_eq!(failures.allow_warming(4, at(0)), 4);
        failures.note("down".into(), at(0));
        assert_eq!(failures.allow_warming(4, at(400)), 0);
        assert_eq!(failures.allow_warming(4, at(500)), 1);
        failures.note("down".into(), at(500));
        assert_eq!(failures.allow_warming(4, at(1400)), 0);
        assert_eq!(failures.allow_warming(4, at(1500)), 1);
        assert_eq!(failures.allow_serving(5, 0, false, at(1000)), 1);
        assert_eq!(failures.allow_serving(5, 1, false, at(1000)), 0);
        assert_eq!(failures.allow_serving(5, 0, false, at(600)), 0);
        assert_eq!(failures.allow_serving(5, 0, true, at(600)), 1);
        for _ in 0..100 {
            failures.note("down".into(), at(2000));
        }
        assert_eq!(failures.allow_warming(4, at(31_900)), 0);
        assert_eq!(failures.allow_warming(4, at(32_000)), 1);
    }
}
