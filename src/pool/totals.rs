//! What a pool has done, in numbers that only grow.
//!
//! Kept under the pool's lock, which is taken at the end of each transaction anyway.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one use of a connection adds to its pool's totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Transactions finished.
    #[serde(skip_serializing_if = "is_zero")]
    pub transactions: u64,
    /// Queries finished: ReadyForQuery messages.
    #[serde(skip_serializing_if = "is_zero")]
    pub queries: u64,
    /// Bytes from clients.
    #[serde(skip_serializing_if = "is_zero")]
    pub received: u64,
    /// Bytes to clients.
    #[serde(skip_serializing_if = "is_zero")]
    pub sent: u64,
    /// Time in transactions, in microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub transaction_micros: u64,
    /// Time in queries, in microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub query_micros: u64,
    /// Time clients waited for a connection, in microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub wait_micros: u64,
    /// ErrorResponses from PostgreSQL.
    #[serde(skip_serializing_if = "is_zero")]
    pub errors: u64,
}

/// A counter of 0 is left out of messages.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Counters {
    /// Adds `more`.
    pub fn add(&mut self, more: &Counters) {
        *self = self.with(more, |own, more| own + more);
    }

    /// What has come since `earlier`.
    pub fn since(&self, earlier: &Counters) -> Counters {
        self.with(earlier, u64::saturating_sub)
    }

    fn with(&self, other: &Counters, each: fn(u64, u64) -> u64) -> Counters {
        Counters {
            transactions: each(self.transactions, other.transactions),
            queries: each(self.queries, other.queries),
            received: each(self.received, other.received),
            sent: each(self.sent, other.sent),
            transaction_micros: each(self.transaction_micros, other.transaction_micros),
            query_micros: each(self.query_micros, other.query_micros),
            wait_micros: each(self.wait_micros, other.wait_micros),
            errors: each(self.errors, other.errors),
        }
    }

    /// What this is in one second, if it took `period`; times become averages of one transaction, query
    /// or wait.
    pub fn average(&self, period: Duration) -> Counters {
        let seconds = period.as_secs().max(1);
        let each = |sum: u64, count: u64| sum.checked_div(count).unwrap_or(0);
        Counters {
            transactions: self.transactions / seconds,
            queries: self.queries / seconds,
            received: self.received / seconds,
            sent: self.sent / seconds,
            transaction_micros: each(self.transaction_micros, self.transactions),
            query_micros: each(self.query_micros, self.queries),
            wait_micros: each(self.wait_micros, self.transactions),
            errors: self.errors / seconds,
        }
    }
}

/// How a pool fared by the limit on the connections of all users of its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Shortage {
    /// Idle connections of other users that were closed for its sake.
    pub evictions: u64,
    /// Connections that it made in the reserve.
    pub of_reserve: u64,
    /// Times its clients got an error because there was none.
    pub exhaustions: u64,
}

impl Shortage {
    /// Adds `more`.
    pub fn add(&mut self, more: &Shortage) {
        self.evictions += more.evictions;
        self.of_reserve += more.of_reserve;
        self.exhaustions += more.exhaustions;
    }
}

/// A pool's totals, and those of the last full period.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Since the beginning.
    pub all: Counters,
    /// Averages over the last full period.
    pub recent: Counters,
    /// How it fared by the limit on its database's connections.
    pub shortage: Shortage,
    at_period_start: Counters,
}

/// Seconds over which averages are taken.
pub const PERIOD: Duration = Duration::from_secs(15);

impl Totals {
    /// Ends a period: from now on `recent` speaks of it.
    pub fn end_period(&mut self) {
        self.recent = self.all.since(&self.at_period_start).average(PERIOD);
        self.at_period_start = self.all;
    }
}
