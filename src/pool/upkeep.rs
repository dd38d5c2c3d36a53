//! What keeps a pool in order while others use it: connections are made and taken in, a new plan is put in
//! force, what is old, dead or too much is closed.
//!
//! Who gets a connection is decided in [`pool`](super::pool) alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::connector;
use super::failures::Failures;
use super::plan::Plan;
use super::pool::Pool;
use super::state::{State, close_all};
use super::waiter::Provenance;
use crate::net::clock::Moment;
use crate::server::backend::Connection;
use crate::server::login::ConnectError;
use crate::server::seats::Seat;
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
                let now = Moment::now();
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
                self.place(&mut state, connection, Provenance::Hand);
                self.serve(&mut state, false);
            }
            // It says nothing about the server that is asked now: those who waited for it still wait.
            Err(_) if epoch != state.epoch => self.serve(&mut state, true),
            Err(error) => {
                let words = format!("could not connect to PostgreSQL at {target}: {error}");
                let line = state.failures.note(words, Moment::now());
                state.forget_check_answer();
                state.pass_on_failure(error);
                drop(state);
                if let Some(line) = line {
                    log::warn!("[{}@{}] {line}", self.user, self.database);
                }
            }
        }
    }

    /// Puts another plan into force.
    pub fn change_plan(self: &Arc<Pool>, plan: Plan) {
        let mut state = self.lock();
        if *state.plan == plan {
            return;
        }
        let same_server = state.plan.leads_to_same_server(&plan);
        if state.plan.login != plan.login {
            state.proved = None;
        }
        state.plan = Arc::new(plan);
        state.forget_check_answer();
        self.version.fetch_add(1, Ordering::AcqRel);
        let leaving = if same_server {
            state.surplus()
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
            .filter_map(|queued| queued.waiter.thread())
            .collect();
        state.to_ring.0.extend(waiting);
        drop(state);
        close_all(leaving, "its pool was removed");
    }

    /// Closes idle connections now and lent ones when they come back.
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
        let now = Moment::now();
        let mut state = self.lock();
        let limit = state.plan.database_limit;
        let over = limit.map_or(0, |limit| self.seats.taken().saturating_sub(limit.most));
        let mut leaving = Vec::new();
        let mut dead = Vec::new();
        let mut place = 0;
        while place < state.idle.len() {
            // A look at the socket's state, which does not wait for anything.
            let silent = state.idle[place].stream.is_silent();
            let connection = &state.idle[place];
            let backend = &connection.backend;
            let spare = state.total() > state.plan.min_size;
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
            let missing = state.plan.min_size.saturating_sub(state.total());
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
            let Some(seat) = self.seats.take() else {
                if !state.queue.is_empty() {
                    state.wants_seat.get_or_insert_with(Moment::now);
                    self.seats.want();
                }
                return;
            };
            if !self.begin_connecting(state, seat) {
                return;
            }
        }
    }

    /// Starts making one connection; false if that cannot be.
    pub(super) fn begin_connecting(self: &Arc<Pool>, state: &mut State, seat: Seat) -> bool {
        state.connecting += 1;
        let limit = state.plan.database_limit;
        let of_reserve = limit.is_some_and(|limit| self.seats.taken() > limit.most);
        state.totals.shortage.of_reserve += u64::from(of_reserve);
        let target = state.plan.target(state.proved.as_ref());
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let Err(error) = connector::start(self, target, number, state.epoch, seat) else {
            return true;
        };
        state.connecting -= 1;
        // Whoever waits says so in the log; here the lock is held.
        state.failures.hold_off(Moment::now());
        state.pass_on_failure(ConnectError::NoThread(error));
        false
    }
}
