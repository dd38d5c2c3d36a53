//! The limit of server connections to one database (`max_db_connections`), whichever user's pool they belong to.
//!
//! Every server connection has a permit. When all permits are in use, the pool whose first client has waited longest
//! gets the next one, and an idle connection of another user is closed for it. A pool that is refused a permit goes on;
//! the janitor's thread calls `grant`, which looks at all pools of a database and holds the lock of one at a time.
//!
//! Invariant: as many permits are in use as there are connections, to this database and in this process, that are open,
//! being opened, or still to come from another process.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam::channel::Sender;
use parking_lot::RwLock;

use super::pool::Pool;
use super::state::State;
use crate::net::clock::MonotonicTime;
use crate::server::backend::Connection;
use crate::server::login::ConnectError;

/// The permits for connections to one database.
#[derive(Debug)]
pub struct DatabasePermits {
    taken: AtomicUsize,
    limit: AtomicUsize,
    /// A pool waits for a permit. No other pool may take one out of turn.
    wanted: AtomicBool,
    /// The wishes of all pools of the database.
    wishes: RwLock<Vec<Weak<Wish>>>,
    /// Wakes the janitor when a pool wants a permit, and when a wanted permit gets free.
    notify: Sender<()>,
}

/// A permit for one connection. Dropping it frees it.
#[derive(Debug)]
pub struct Permit(Arc<DatabasePermits>);

/// A pool's wish for a permit, as the other pools of its database see it.
#[derive(Debug, Default)]
pub struct Wish {
    /// Since when the pool's first client without a connection in prospect has waited, in microseconds; 0 if there is
    /// no such client.
    since: AtomicU64,
    /// Permits that other pools have given up for its sake and it has not taken.
    promised: AtomicUsize,
}

impl Wish {
    /// Notes since when the first client without a permit has waited.
    pub fn set(&self, since: Option<MonotonicTime>) {
        let micros = since.map_or(0, MonotonicTime::micros);
        if self.since.load(Ordering::Relaxed) != micros {
            self.since.store(micros, Ordering::Relaxed);
        }
    }

    /// Permits that others have given up for its sake.
    pub fn promised(&self) -> usize {
        self.promised.load(Ordering::Relaxed)
    }

    /// What was promised has been taken, or is not there.
    pub fn end_promises(&self) {
        self.promised.store(0, Ordering::Relaxed);
    }
}

impl DatabasePermits {
    /// Permits without a limit. `notify` wakes the janitor's thread, which grants them to waiting pools.
    pub fn new(notify: Sender<()>) -> Arc<DatabasePermits> {
        Arc::new(DatabasePermits {
            taken: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            wanted: AtomicBool::new(false),
            wishes: RwLock::default(),
            notify,
        })
    }

    /// The wish of one more pool.
    pub fn new_wish(&self) -> Arc<Wish> {
        let wish = Arc::new(Wish::default());
        let mut wishes = self.wishes.write();
        wishes.retain(|wish| wish.strong_count() > 0);
        wishes.push(Arc::downgrade(&wish));
        wish
    }

    /// Whether a permit should be given up for a client of another pool that has waited longer than the caller's
    /// own first, who has since `own`, by more than `delay`. It is promised to that pool then.
    pub fn should_yield(&self, own: MonotonicTime, delay: Duration) -> bool {
        if !self.wanted.load(Ordering::Acquire) {
            return false;
        }
        let wishes = self.wishes.read();
        let first = wishes
            .iter()
            .filter_map(Weak::upgrade)
            .map(|wish| (wish.since.load(Ordering::Relaxed), wish))
            .filter(|(since, _)| *since != 0)
            .min_by_key(|(since, _)| *since);
        let Some((since, wish)) = first else {
            return false;
        };
        if own.since(MonotonicTime::from_micros(since)) <= delay {
            return false;
        }
        // For each client one permit is given up.
        let mine = wish
            .since
            .compare_exchange(since, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        wish.promised
            .fetch_add(usize::from(mine), Ordering::Relaxed);
        mine
    }

    /// Sets how many permits there are. Permits in use stay in use.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.ring();
    }

    /// A free permit, if no pool waits for one.
    pub fn take(self: &Arc<DatabasePermits>) -> Option<Permit> {
        if self.wanted.load(Ordering::Acquire) {
            return None;
        }
        self.take_granted()
    }

    /// A free permit for the pool whose turn it is.
    pub fn take_granted(self: &Arc<DatabasePermits>) -> Option<Permit> {
        let limit = self.limit.load(Ordering::Relaxed);
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now < limit).then(|| now + 1)
            })
            .ok()
            .map(|_| Permit(Arc::clone(self)))
    }

    /// A permit for a connection that is there already, whatever the limit.
    pub fn take_anyway(self: &Arc<DatabasePermits>) -> Permit {
        self.taken.fetch_add(1, Ordering::AcqRel);
        Permit(Arc::clone(self))
    }

    /// How many permits are in use.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// From now on no pool takes a permit out of turn. Wakes the janitor, which grants them.
    pub fn want(&self) {
        self.note_wanted(true);
        self.ring();
    }

    /// Notes whether any pool waits for a permit.
    pub fn note_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Release);
    }

    /// Wakes the janitor, which grants permits to waiting pools and tries again to connect to servers that were down.
    pub fn ring(&self) {
        // A notice that has not been taken up yet is enough.
        let _ = self.notify.try_send(());
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        if self.0.wanted.load(Ordering::Acquire) {
            self.0.ring();
        }
    }
}

/// What becomes of a pool's request for a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    /// It lacks nothing any more.
    Served,
    /// There is no free permit.
    NoPermit,
    /// PostgreSQL has just refused a connection, and is left alone for a moment.
    Later,
}

/// Grants permits to waiting pools. Returns whether a pool still waits.
pub(super) fn grant(pools: &[Arc<Pool>]) -> bool {
    let mut waiting: Vec<_> = pools
        .iter()
        .filter_map(|pool| Some((pool.wants_permit_since()?, pool)))
        .collect();
    waiting.sort_by_key(|(since, _)| *since);
    let mut lacking: Vec<&Arc<Pool>> = Vec::new();
    for (_, pool) in waiting {
        // No pool passes another pool of the same database that waits in vain.
        let barred = lacking.iter().any(|other| other.database == pool.database);
        if barred || !serve(pool, pools) {
            pool.fail_overdue_waiters();
            lacking.push(pool);
        }
    }
    for pool in pools {
        let wanted = lacking.iter().any(|other| other.database == pool.database);
        pool.permits.note_wanted(wanted);
    }
    !lacking.is_empty()
}

/// Gives the pool the permits it lacks; false if there are not enough.
fn serve(pool: &Arc<Pool>, pools: &[Arc<Pool>]) -> bool {
    loop {
        match pool.connect_in_turn() {
            Grant::Served => return true,
            Grant::Later => return false,
            Grant::NoPermit => {}
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
    /// Since when it lacks a permit.
    fn wants_permit_since(&self) -> Option<MonotonicTime> {
        let state = self.lock();
        // What counts is how long its first client has waited.
        state
            .wants_permit
            .map(|since| state.queue.front().map_or(since, |first| first.since))
    }

    /// How old an idle connection of another user must be to be closed for its sake.
    fn min_age_for_it(&self) -> Duration {
        let waited = self.wants_permit_since().map(|since| since.elapsed());
        match self.lock().config.database_limit {
            // From then on not even one in use is safe, once it comes back.
            Some(limit) if waited.is_some_and(|waited| waited > limit.fairness_delay) => {
                Duration::ZERO
            }
            Some(limit) => limit.min_lifetime,
            None => Duration::MAX,
        }
    }

    /// The pool's turn to take permits: starts making the connections that are missing.
    fn connect_in_turn(self: &Arc<Pool>) -> Grant {
        let mut state = self.lock();
        state.wish.end_promises();
        loop {
            let missing = state.queue.len().saturating_sub(state.connecting);
            if state.closed || state.paused || missing.min(state.room()) == 0 {
                state.wants_permit = None;
                return Grant::Served;
            }
            let connecting = state.connecting;
            if state
                .failures
                .allow_serving(1, connecting, false, MonotonicTime::now())
                == 0
            {
                return Grant::Later;
            }
            let Some(permit) = self.permits.take_granted() else {
                return Grant::NoPermit;
            };
            if !self.begin_connecting(&mut state, permit) {
                return Grant::Later;
            }
        }
    }

    /// There is no permit. Waiting clients get an error when this has taken too long, unless a connection of the pool
    /// will come back to serve them.
    fn fail_overdue_waiters(&self) {
        let mut state = self.lock();
        let Some(limit) = state.config.database_limit else {
            return;
        };
        let long = state
            .wants_permit
            .is_some_and(|since| since.elapsed() >= limit.patience);
        // While PostgreSQL is down, that is the reason.
        if !long || state.total() > 0 || state.failures.can_heal() {
            return;
        }
        let error = Arc::new(self.no_permit(&state));
        state.totals.shortage.exhaustions += 1;
        state.wants_permit = None;
        let line = format!("[{}@{}] {error}", self.user, self.database);
        state.fail_waiting(&error);
        drop(state);
        log::warn!("{line}");
    }

    /// The error for clients that have waited for a permit in vain.
    pub(super) fn no_permit(&self, state: &State) -> ConnectError {
        let limit = state.config.database_limit;
        let (most, reserve) = limit.map_or((0, 0), |limit| (limit.most, limit.reserve));
        let mut message = format!(
            "all server connections to database '{}' are in use (max={most}, user='{}')",
            self.database, self.user
        );
        if reserve > 0 {
            let used = self.permits.taken().saturating_sub(most);
            message.push_str(&format!(" (reserve={used}/{reserve})"));
        }
        message.push_str(" (max_db_connections)");
        ConnectError::NoPermit(message)
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
