//! What keeps a pool in order while others use it: connections are made and taken in, a new configuration is put in
//! force, what is old, dead or too much is closed.
//!
//! Who gets a connection is decided in [`pool`](crate::pool::pool) alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::connector;
use super::database_limit::Permit;
use super::failures::Failures;
use super::pool::Pool;
use super::pool_config::PoolConfig;
use super::state::{State, close_all};
use super::waiter::Source;
use crate::net::clock::MonotonicTime;
use crate::server::backend::Connection;
use crate::server::login::ConnectError;
use crate::server::target::Target;

impl Pool {
    /// Takes in what a connector has made, or why it could not.
    pub(super) fn connected(
        self: &Arc<Pool>,
        made: Result<Connection, ConnectError>,
        target: &Target,
        epoch: u64,
    ) {
        let mut state = self.lock();
        state.connecting -= 1;
        match made {
            Ok(mut connection) => {
                let now = MonotonicTime::now();
                connection.backend.epoch = epoch;
                if let Some(reason) = state.reason_to_close(&connection, now) {
                    self.serve(&mut state, true);
                    drop(state);
                    return connection.close(reason);
                }
                state.failures = Failures::default();
                // The same set for all, so that equal ones are found equal by their address.
                state.confirmed = Some(now);
                match &state.reported {
                    Some(known) if **known == *connection.backend.reported => {
                        connection.backend.reported = Arc::clone(known);
                        connection.backend.fresh = Arc::clone(known);
                    }
                    _ => {
                        state.reported = Some(Arc::clone(&connection.backend.reported));
                        state.known.clear();
                    }
                }
                self.place(&mut state, connection, Source::Hand);
                self.serve(&mut state, false);
            }
            // It says nothing about the server that is asked now: those who waited for it still wait.
            Err(_) if epoch != state.epoch => self.serve(&mut state, true),
            Err(error) => {
                let message = format!("could not connect to PostgreSQL at {target}: {error}");
                let line = state.failures.note(message, MonotonicTime::now());
                state.forget_check_answer();
                state.pass_on_failure(error);
                drop(state);
                if let Some(line) = line {
                    log::warn!("[{}@{}] {line}", self.user, self.database);
                }
            }
        }
    }

    /// Puts another configuration into force.
    pub fn change_config(self: &Arc<Pool>, config: PoolConfig) {
        let mut state = self.lock();
        if *state.config == config {
            return;
        }
        let same_server = state.config.leads_to_same_server(&config);
        if state.config.login != config.login {
            state.proved = None;
        }
        state.config = Arc::new(config);
        state.forget_check_answer();
        self.version.fetch_add(1, Ordering::AcqRel);
        let leaving = if same_server {
            state.excess()
        } else {
            state.reported = None;
            state.known.clear();
            state.failures = Failures::default();
            state.start_epoch()
        };
        self.serve(&mut state, true);
        drop(state);
        close_all(leaving, "the configuration of its pool changed");
    }

    /// Ends the pool: nobody gets a connection from it any more.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.version.fetch_add(1, Ordering::AcqRel);
        let leaving = state.start_epoch();
        let waiting: Vec<_> = state
            .queue
            .iter()
            .filter_map(|queued| queued.waiter.waker())
            .collect();
        state.to_ring.0.extend(waiting);
        drop(state);
        close_all(leaving, "its pool was removed");
    }

    /// RECONNECT: closes idle connections now, and those in use when they are checked in.
    pub fn reconnect(&self) {
        let leaving = self.lock().start_epoch();
        close_all(leaving, "RECONNECT");
    }

    /// Closes every idle connection.
    pub fn drain(&self) {
        let leaving: Vec<_> = self.lock().idle.drain(..).collect();
        close_all(leaving, "the pooler is shutting down");
    }

    /// Closes up to `quota` connections that are too old or have lain idle too long, the oldest first,
    /// keeps `min_pool_size` warm, and tries again for those who wait. Returns how many it closed.
    pub fn maintain(self: &Arc<Pool>, quota: usize) -> usize {
        let now = MonotonicTime::now();
        let mut state = self.lock();
        let limit = state.config.database_limit;
        let over = limit.map_or(0, |limit| self.permits.taken().saturating_sub(limit.most));
        let mut leaving = Vec::new();
        let mut dead = Vec::new();
        let mut place = 0;
        while place < state.idle.len() {
            // A look at the socket's state, which does not wait for anything.
            let silent = state.idle[place].stream.is_silent();
            let connection = &state.idle[place];
            let backend = &connection.backend;
            let spare = state.total() > state.config.min_size;
            let of_reserve = leaving.len() < over;
            let due = state.has_expired(backend, now)
                || (spare && (state.is_stale(backend, now) || of_reserve));
            if !silent {
                dead.extend(state.idle.remove(place));
            } else if due && leaving.len() < quota {
                leaving.extend(state.idle.remove(place));
            } else {
                place += 1;
            }
        }
        if !dead.is_empty() {
            state.forget_check_answer();
        }
        self.serve(&mut state, false);
        if !state.closed && !state.paused && !state.leaving {
            let missing = state.config.min_size.saturating_sub(state.total());
            let allowed = state.failures.allow_warming(missing, now);
            self.connect(&mut state, allowed);
        }
        drop(state);
        let closed = leaving.len();
        close_all(leaving, "expired");
        close_all(dead, "PostgreSQL closed it while it lay idle");
        closed
    }

    /// Tries again for those who wait for a server that could not be connected to; false if nobody does.
    pub(super) fn retry(self: &Arc<Pool>) -> bool {
        let mut state = self.lock();
        let waits = !state.queue.is_empty() && state.failures.can_heal() && !state.paused;
        if waits {
            self.serve(&mut state, false);
        }
        waits
    }

    /// Ends a period of the averages.
    pub fn end_period(&self) {
        self.lock().totals.end_period();
    }

    /// Starts making up to `count` connections, as the limits allow.
    pub(super) fn connect(self: &Arc<Pool>, state: &mut State, count: usize) {
        for _ in 0..count.min(state.room()) {
            let Some(permit) = self.permits.take() else {
                if !state.queue.is_empty() {
                    state.wants_permit.get_or_insert_with(MonotonicTime::now);
                    self.permits.want();
                }
                return;
            };
            if !self.begin_connecting(state, permit) {
                return;
            }
        }
    }

    /// Starts making one connection; false if that cannot be.
    pub(super) fn begin_connecting(self: &Arc<Pool>, state: &mut State, permit: Permit) -> bool {
        state.connecting += 1;
        let limit = state.config.database_limit;
        let of_reserve = limit.is_some_and(|limit| self.permits.taken() > limit.most);
        state.totals.shortage.of_reserve += u64::from(of_reserve);
        let target = state.config.target(state.proved.as_ref());
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let Err(error) = connector::start(self, target, number, state.epoch, permit) else {
            return true;
        };
        state.connecting -= 1;
        // The waiting client's thread logs it; here the lock is held.
        state.failures.hold_off(MonotonicTime::now());
        state.pass_on_failure(ConnectError::NoThread(error));
        false
    }
}
