//! Log lines about refused connections: one line for each reason in a second, and a count of the others.
//!
//! Anybody who can connect can cause such lines, so their number has to be bounded. Invariant: a second has no more
//! than [`REASONS`] lines and as many counts.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::login_error::LoginError;
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;

/// Different reasons that are logged within a second. Further ones are counted together.
const REASONS: usize = 10;

const SECOND: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub struct Rejections {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the second began; `None` if nothing was rejected lately.
    began: Option<MonotonicTime>,
    /// How often each reason came up again after it was logged.
    again: HashMap<String, usize>,
    /// How many had reasons beyond those.
    others: usize,
}

impl State {
    /// The lines for the second that is over, if it is.
    fn roll(&mut self, now: MonotonicTime) -> Vec<String> {
        if self.began.is_none_or(|began| now.since(began) < SECOND) {
            return Vec::new();
        }
        self.began = None;
        let mut lines: Vec<String> = self
            .again
            .drain()
            .filter(|(_, more)| *more > 0)
            .map(|(reason, more)| format!("{more} more connections rejected: {reason}"))
            .collect();
        let others = std::mem::take(&mut self.others);
        if others > 0 {
            lines.push(format!(
                "{others} more connections rejected for other reasons"
            ));
        }
        lines
    }

    /// Whether this reason is to be logged now.
    fn is_new(&mut self, reason: &str, now: MonotonicTime) -> bool {
        self.began.get_or_insert(now);
        if let Some(more) = self.again.get_mut(reason) {
            *more += 1;
            return false;
        }
        if self.again.len() >= REASONS {
            self.others += 1;
            return false;
        }
        self.again.insert(reason.to_owned(), 0);
        true
    }
}

impl Rejections {
    /// Tells that a connection has come to nothing. `id`: the number of its login, if it has come so far.
    pub(super) fn note(&self, id: Option<u64>, address: &Address, refusal: &LoginError) {
        let tag = id.map_or_else(String::new, |id| format!("[#c{id}] "));
        let (level, before, reason) = match refusal {
            LoginError::Done => return,
            LoginError::Silent(why) => return log::debug!("{tag}client {address} left: {why}"),
            LoginError::Handshake(why) => (
                log::Level::Info,
                format!("TLS handshake with client {address} failed"),
                why.clone(),
            ),
            LoginError::Message { code, log, .. } => (
                log::Level::Warn,
                format!("client {address} rejected"),
                format!("{log} ({code})"),
            ),
            LoginError::Crowded => (
                log::Level::Warn,
                format!("client {address} closed before its login"),
                "it had sent nothing for longest of all that wait (max_unauthenticated_connections)"
                    .to_owned(),
            ),
            LoginError::Forwarded(fields) => (
                log::Level::Info,
                format!("client {address} rejected"),
                fields.to_string(),
            ),
        };
        let now = MonotonicTime::now();
        let mut state = self.state.lock();
        let lines = state.roll(now);
        let is_new = state.is_new(&reason, now);
        drop(state);
        tell(&lines);
        if is_new {
            log::log!(level, "{tag}{before}: {reason}");
        }
    }

    /// Tells what was counted, if a second is over; when to look again.
    pub(super) fn flush(&self, now: MonotonicTime) -> Option<MonotonicTime> {
        let mut state = self.state.lock();
        let lines = state.roll(now);
        let next = state.began.map(|began| began.after(SECOND));
        drop(state);
        tell(&lines);
        next
    }
}

fn tell(lines: &[String]) {
    for line in lines {
        log::warn!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_micros(millis * 1000)
    }

    #[test]
    fn a_reason_is_told_once_in_a_second_and_then_counted() {
        let mut state = State::default();
        assert!(state.is_new("a", at(5)));
        for _ in 0..30_000 {
            assert!(!state.is_new("a", at(6)));
        }
        assert!(state.is_new("b", at(7)));
        assert!(state.roll(at(1004)).is_empty());
        assert_eq!(state.roll(at(1005)), ["30000 more connections rejected: a"]);
        assert!(state.roll(at(9000)).is_empty());
        assert!(state.is_new("a", at(9000)));
    }

    #[test]
    fn reasons_made_up_by_clients_do_not_fill_the_log() {
        let mut state = State::default();
        let told = (0..1000)
            .filter(|n| state.is_new(&n.to_string(), at(0)))
            .count();
        assert_eq!(told, REASONS);
        assert_eq!(
            state.roll(at(2000)),
            ["990 more connections rejected for other reasons"]
        );
    }
}
