//! Who gets a seat when all seats of a database are taken (`max_db_connections`): the pool whose first
//! client has waited longest, and for its sake an idle connection of another user is closed.
//!
//! A pool that is refused a seat says so and goes on; the usher, called by the seats' bell and in the
//! janitor's thread, looks at the pools of each database together. It holds the lock of one pool at a time.

use std::sync::Arc;
use std::time::Duration;

use super::pool::Pool;
use super::state::State;
use crate::net::clock::Moment;
use crate::server::backend::Connection;
use crate::server::login::ConnectError;

/// How a pool fares that waits for a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It lacks nothing any more.
    Served,
    /// There is no free seat.
    NoSeat,
    /// PostgreSQL has just refused a connection, and is left alone for a moment.
    Later,
}

/// Gives seats to those who wait for one. Returns whether somebody still does.
pub(super) fn attend(pools: &[Arc<Pool>]) -> bool {
    let mut waiting: Vec<_> = pools
        .iter()
        .filter_map(|pool| Some((pool.wants_seat_since()?, pool)))
        .collect();
    waiting.sort_by_key(|(since, _)| *since);
    let mut lacking: Vec<&Arc<Pool>> = Vec::new();
    for (_, pool) in waiting {
        // Nobody passes a pool of the same database that waits in vain.
        let barred = lacking.iter().any(|other| other.database == pool.database);
        if barred || !serve(pool, pools) {
            pool.lose_patience_for_seat();
            lacking.push(pool);
        }
    }
    for pool in pools {
        let wanted = lacking.iter().any(|other| other.database == pool.database);
        pool.seats.note_wanted(wanted);
    }
    !lacking.is_empty()
}

/// Gives the pool the seats it lacks; false if there are not enough.
fn serve(pool: &Arc<Pool>, pools: &[Arc<Pool>]) -> bool {
    loop {
        match pool.connect_in_turn() {
            Turn::Served => return true,
            Turn::Later => return false,
            Turn::NoSeat => {}
        }
        let min_age = pool.min_age_for_it();
        let Some((other, connection)) = evict_for(pool, min_age, pools) else {
            return false;
        };
        log::info!(
            "[{}@{}] takes the place of an idle connection of {}, since all of max_db_connections are in use",
            pool.user,
            pool.database,
            other.user
        );
        connection.close("another user needs it (max_db_connections)");
        pool.lock().totals.shortage.evictions += 1;
    }
}

/// The idle connection that can be spared most easily: of the other user who has most above what is
/// guaranteed.
fn evict_for<'a>(
    pool: &Arc<Pool>,
    min_age: Duration,
    pools: &'a [Arc<Pool>],
) -> Option<(&'a Arc<Pool>, Connection)> {
    let mut others: Vec<_> = pools
        .iter()
        .filter(|other| other.database == pool.database && !Arc::ptr_eq(other, pool))
        .map(|other| (other.to_spare(), other))
        .filter(|(spare, _)| *spare > 0)
        .collect();
    others.sort_by_key(|(spare, _)| std::cmp::Reverse(*spare));
    others
        .into_iter()
        .find_map(|(_, other)| Some((other, other.evict(min_age)?)))
}

impl Pool {
    /// Since when it lacks a seat.
    fn wants_seat_since(&self) -> Option<Moment> {
        let state = self.lock();
        // What counts is how long its first client has waited.
        state
            .wants_seat
            .map(|since| state.queue.front().map_or(since, |first| first.since))
    }

    /// How old an idle connection of another user must be to be closed for its sake.
    fn min_age_for_it(&self) -> Duration {
        let waited = self.wants_seat_since().map(|since| since.elapsed());
        match self.lock().plan.database_limit {
            // From then on not even one in use is safe, once it comes back.
            Some(limit) if waited.is_some_and(|waited| waited > limit.fairness_delay) => {
                Duration::ZERO
            }
            Some(limit) => limit.min_lifetime,
            None => Duration::MAX,
        }
    }

    /// Its turn to take seats: starts making the connections that are missing.
    fn connect_in_turn(self: &Arc<Pool>) -> Turn {
        let mut state = self.lock();
        state.wish.end_promises();
        loop {
            let missing = state.queue.len().saturating_sub(state.connecting);
            if state.closed || state.paused || missing.min(state.room()) == 0 {
                state.wants_seat = None;
                return Turn::Served;
            }
            let connecting = state.connecting;
            if state
                .failures
                .allow_serving(1, connecting, false, Moment::now())
                == 0
            {
                return Turn::Later;
            }
            let Some(seat) = self.seats.take_in_turn() else {
                return Turn::NoSeat;
            };
            if !self.begin_connecting(&mut state, seat) {
                return Turn::Later;
            }
        }
    }

    /// There is no seat. Those who wait are told when it has taken too long, unless a connection of the
    /// pool will come back to serve them.
    fn lose_patience_for_seat(&self) {
        let mut state = self.lock();
        let Some(limit) = state.plan.database_limit else {
            return;
        };
        let long = state
            .wants_seat
            .is_some_and(|since| since.elapsed() >= limit.patience);
        // While PostgreSQL is down, that is the reason.
        if !long || state.total() > 0 || state.failures.can_heal() {
            return;
        }
        let error = Arc::new(self.no_seat(&state));
        state.totals.shortage.exhaustions += 1;
        state.wants_seat = None;
        let line = format!("[{}@{}] {error}", self.user, self.database);
        state.fail_waiting(&error);
        drop(state);
        log::warn!("{line}");
    }

    /// What clients are told who wait for a seat in vain.
    pub(super) fn no_seat(&self, state: &State) -> ConnectError {
        let limit = state.plan.database_limit;
        let (most, reserve) = limit.map_or((0, 0), |limit| (limit.most, limit.reserve));
        let mut words = format!(
            "all server connections to database '{}' are in use (max={most}, user='{}')",
            self.database, self.user
        );
        if reserve > 0 {
            let used = self.seats.taken().saturating_sub(most);
            words.push_str(&format!(" (reserve={used}/{reserve})"));
        }
        words.push_str(" (max_db_connections)");
        ConnectError::NoSeat(words)
    }

    fn to_spare(&self) -> usize {
        self.lock().to_spare()
    }

    /// Gives up the idle connection that was unused longest, if it can be spared and is old enough.
    fn evict(&self, min_age: Duration) -> Option<Connection> {
        let mut state = self.lock();
        if state.to_spare() == 0 {
            return None;
        }
        let place = state
            .idle
            .iter()
            .position(|connection| connection.backend.key.connected_at.elapsed() >= min_age)?;
        state.idle.remove(place)
    }
}
