//! Time that two processes agree on.
//!
//! `std::time::Instant` means nothing to another process. A [`MonotonicTime`] is CLOCK_MONOTONIC in
//! microseconds, which every process of the machine reads alike, so deadlines and ages can be handed
//! over.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A point in time: microseconds of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct MonotonicTime(u64);

impl MonotonicTime {
    /// Now.
    pub fn now() -> MonotonicTime {
        // The clock exists on every Linux; a zero would only make ages wrong.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(TimeSpec::new(0, 0));
        let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
        MonotonicTime(seconds * 1_000_000 + nanos / 1_000)
    }

    /// Microseconds of the clock.
    pub fn micros(self) -> u64 {
        self.0
    }

    /// The moment with these microseconds of the clock: for counters that store it as a number.
    pub fn from_micros(micros: u64) -> MonotonicTime {
        MonotonicTime(micros)
    }

    /// The time from `earlier` to this moment; zero if it is not earlier.
    pub fn since(self, earlier: MonotonicTime) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The time that has passed since this moment.
    pub fn elapsed(self) -> Duration {
        MonotonicTime::now().since(self)
    }

    /// This moment and `duration` later.
    pub fn after(self, duration: Duration) -> MonotonicTime {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        MonotonicTime(self.0.saturating_add(micros))
    }

    /// The time left until this moment; zero if it has passed.
    pub fn remaining(self) -> Duration {
        self.since(MonotonicTime::now())
    }
}
