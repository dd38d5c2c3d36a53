//! A pool between two processes: what one gives and the other takes up.
//!
//! Invariant: a connection counts in one process at a time, and as long as it is to come there is no room
//! for another in its place, so both together stay within the pool's size.

use std::sync::Arc;

use super::pool::Pool;
use super::totals::Totals;
use super::waiter::Source;
use crate::auth::Proof;
use crate::net::clock::MonotonicTime;
use crate::server::backend::{Backend, Connection};

impl Pool {
    /// Takes up what another process says of this pool: `coming` server connections will follow, and as
    /// long as they have not come there is no room for others in their place. `same_server`: they lead
    /// where this pool's configuration does; otherwise they are closed when they are free.
    pub fn inherit(
        &self,
        totals: Totals,
        paused: bool,
        proved: Option<Proof>,
        coming: usize,
        same_server: bool,
    ) {
        let mut state = self.lock();
        state.totals = totals;
        state.paused = paused;
        state.proved = proved;
        let permits = Arc::clone(&state.permits);
        state.coming = (0..coming).map(|_| permits.take_anyway()).collect();
        state.foreign = !same_server;
    }

    /// From now on, or no longer, what lies idle is given to another process: none is made ahead of need.
    pub fn set_leaving(&self, leaving: bool) {
        self.lock().leaving = leaving;
    }

    /// Whether a connection is being made.
    pub fn is_connecting(&self) -> bool {
        self.lock().connecting > 0
    }

    /// Nothing more comes from another process.
    pub fn expect_no_more(self: &Arc<Pool>) {
        let mut state = self.lock();
        state.coming.clear();
        self.serve(&mut state, false);
    }

    /// Takes in a free connection from another process.
    pub fn adopt(self: &Arc<Pool>, mut connection: Connection) {
        let mut state = self.lock();
        state.arrive(&mut connection.backend);
        let now = MonotonicTime::now();
        if let Some(reason) = state.reason_to_close(&connection, now) {
            drop(state);
            return connection.close(reason);
        }
        self.place(&mut state, connection, Source::Idle);
    }

    /// Counts a connection from another process that a session brings with it.
    pub fn adopt_in_use(&self, backend: &mut Backend) {
        let mut state = self.lock();
        state.arrive(backend);
        state.in_use += 1;
    }

    /// Takes out a free connection, to give it to another process. It counts as in use until it is
    /// [put back](Pool::put_back) or [gone](Pool::moved_away).
    pub fn take_idle(&self) -> Option<Connection> {
        let mut state = self.lock();
        let connection = state.idle.pop_front();
        state.in_use += usize::from(connection.is_some());
        connection
    }

    /// Puts a connection back that another process did not take.
    pub fn put_back(self: &Arc<Pool>, connection: Connection) {
        let mut state = self.lock();
        state.in_use -= 1;
        if let Some(reason) = state.reason_to_close(&connection, MonotonicTime::now()) {
            self.serve(&mut state, false);
            drop(state);
            return connection.close(reason);
        }
        self.place(&mut state, connection, Source::Idle);
    }

    /// A connection belongs to another process now.
    pub fn moved_away(&self) {
        self.lock().in_use -= 1;
    }

    /// What a client has proved to have.
    pub fn proof(&self) -> Option<Proof> {
        self.lock().proved.clone()
    }
}
