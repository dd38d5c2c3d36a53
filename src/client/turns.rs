//! The order in which TLS handshakes begin: so many in a second, and no turn is given out ahead.
//!
//! A connection that waits for its turn and goes away has taken none. Invariant: over any time no more
//! handshakes begin than the rate allows, and one burst.

use std::time::Duration;

use crate::net::clock::MonotonicTime;

/// Handshakes that may begin at once, as a share of those in a second.
const BURST: u32 = 100;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The time up to which handshakes have begun.
    spent: MonotonicTime,
}

fn interval(rate: u32) -> Duration {
    Duration::from_secs(1).checked_div(rate).unwrap_or_default()
}

fn burst() -> Duration {
    Duration::from_secs(1) / BURST
}

impl Turns {
    /// When the next handshake may begin; `None` if it may now.
    pub(super) fn next(&self, rate: Option<u32>, now: MonotonicTime) -> Option<MonotonicTime> {
        let wait = self.spent.since(now);
        match rate {
            // As many as come within one burst need not wait for each other.
            Some(_) if wait >= burst() => {
                Some(now.after(wait - burst() + Duration::from_micros(1)))
            }
            _ => None,
        }
    }

    /// A handshake begins.
    pub(super) fn take(&mut self, rate: u32, now: MonotonicTime) {
        self.spent = self.spent.max(now).after(interval(rate));
    }

    /// When a handshake begins that has so many before it.
    pub(super) fn after(&self, rate: u32, ahead: usize) -> MonotonicTime {
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
        let wait = interval(rate).saturating_mul(ahead);
        self.spent.max(MonotonicTime::now()).after(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_micros(1_000_000 + millis * 1000)
    }

    #[test]
    fn handshakes_begin_at_their_rate_and_the_first_of_them_at_once() {
        let mut turns = Turns::default();
        let mut begun = 0;
        for millis in 0..1000 {
            while turns.next(Some(100), at(millis)).is_none() {
                turns.take(100, at(millis));
                begun += 1;
            }
        }
        assert!((100..=102).contains(&begun), "{begun}");
    }

    #[test]
    fn nobody_waits_for_one_that_has_not_begun() {
        let mut turns = Turns::default();
        for _ in 0..10_000 {
            assert_eq!(turns.next(Some(100), at(0)), None);
        }
        turns.take(100, at(0));
        let next = turns.next(Some(100), at(0)).unwrap();
        assert_eq!(turns.next(Some(100), next), None);
        assert_eq!(turns.next(None, at(0)), None);
        assert!(turns.after(100, 200) >= MonotonicTime::now().after(Duration::from_secs(1)));
    }
}
