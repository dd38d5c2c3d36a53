//! The state of a pool, behind its lock.
//!
//! Who gets a connection is decided in [`pool`](super::pool). Invariant: a waiter is woken for what lies in its
//! slot only once the lock is free.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::database_limit::{DatabasePermits, Permit, Wish};
use super::failures::{Failures, Repeats};
use super::pool_config::PoolConfig;
use super::startup_cache::{Effect, Settings};
use super::totals::Totals;
use super::waiter::Waiter;
use crate::auth::Proof;
use crate::net::clock::MonotonicTime;
use crate::net::waker::Waker;
use crate::server::backend::{Backend, Connection};
use crate::server::login::ConnectError;
use crate::server::parameters::Parameters;

/// Idle connections among which one is looked for that a set itself used last.
const RECENT: usize = 64;

#[derive(Debug)]
pub(super) struct Queued {
    pub(super) waiter: Arc<Waiter>,
    pub(super) since: MonotonicTime,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Arc<PoolConfig>,
    /// The one that came back last is at the back.
    pub(super) idle: VecDeque<Connection>,
    /// The one who has waited longest is at the front.
    pub(super) queue: VecDeque<Queued>,
    pub(super) in_use: usize,
    pub(super) connecting: usize,
    /// The permits of connections that are still to come from another process.
    pub(super) coming: Vec<Permit>,
    /// The permits of the database.
    pub(super) permits: Arc<DatabasePermits>,
    /// What the other pools of the database see of that.
    pub(super) wish: Arc<Wish>,
    /// Since when the pool lacks a permit for those who wait.
    pub(super) wants_permit: Option<MonotonicTime>,
    /// Those lead elsewhere than this pool's configuration.
    pub(super) foreign: bool,
    /// What lies idle is being given to another process.
    pub(super) leaving: bool,
    pub(super) epoch: u64,
    pub(super) paused: bool,
    pub(super) closed: bool,
    pub(super) proved: Option<Proof>,
    /// What PostgreSQL reports on a connection with all settings at their defaults, as far as is known.
    pub(super) reported: Option<Arc<Parameters>>,
    /// When PostgreSQL said so last; `None` if it has to be asked before a client gets these values.
    pub(super) confirmed: Option<MonotonicTime>,
    pub(super) known: HashMap<Settings, Effect>,
    pub(super) shared: HashSet<Arc<Parameters>>,
    /// Waiters that have something in their slot and have not been woken. They are woken once the lock is free:
    /// a thread that wakes up must not find it taken by the one that woke it.
    pub(super) to_ring: Wakeups,
    pub(super) to_close: Expired,
    pub(super) totals: Totals,
    pub(super) failures: Failures,
    /// The errors of clients that got no connection.
    pub(super) refusals: Repeats,
    /// PostgreSQL's answer to the check query of the configuration.
    pub(super) check_answer: Option<Arc<[u8]>>,
}

/// Waiters to be woken, once the lock is free, because there is something in their slot.
#[derive(Debug, Default)]
pub(super) struct Wakeups(pub(super) Vec<Waker>);

impl Drop for Wakeups {
    fn drop(&mut self) {
        for waker in &self.0 {
            waker.wake();
        }
    }
}

/// Idle connections that are no longer given out, to be closed once the lock is free.
#[derive(Debug, Default)]
pub(super) struct Expired(Vec<Connection>);

impl Drop for Expired {
    fn drop(&mut self) {
        close_all(std::mem::take(&mut self.0), "server_lifetime");
    }
}

/// The lock on a pool's state. The order of the parts is the order in which they are dropped: the lock is
/// released before the waiters are woken.
pub(super) struct Locked<'a> {
    state: MutexGuard<'a, State>,
    wakeups: Wakeups,
    expired: Expired,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.state.wish.set(self.state.lacks_permit_since());
        let connections = self.state.in_use + self.state.idle.len() + self.state.coming.len();
        if connections == 0 && !self.state.paused && self.state.confirmed.is_some() {
            // The next one may be to a server that has been changed, or is another one.
            self.state.forget_defaults();
        }
        std::mem::swap(&mut self.wakeups, &mut self.state.to_ring);
        std::mem::swap(&mut self.expired, &mut self.state.to_close);
    }
}

impl<'a> Locked<'a> {
    /// Takes the lock.
    pub(super) fn new(state: &'a Mutex<State>) -> Locked<'a> {
        Locked {
            state: state.lock(),
            wakeups: Wakeups::default(),
            expired: Expired::default(),
        }
    }
}

impl State {
    /// Nothing yet, to be run by `config`.
    pub(super) fn new(config: PoolConfig, permits: Arc<DatabasePermits>) -> State {
        State {
            config: Arc::new(config),
            idle: VecDeque::new(),
            queue: VecDeque::new(),
            in_use: 0,
            connecting: 0,
            coming: Vec::new(),
            wish: permits.new_wish(),
            permits,
            wants_permit: None,
            foreign: false,
            leaving: false,
            epoch: 1,
            paused: false,
            closed: false,
            proved: None,
            reported: None,
            confirmed: None,
            known: HashMap::new(),
            shared: HashSet::new(),
            to_ring: Wakeups::default(),
            to_close: Expired::default(),
            totals: Totals::default(),
            failures: Failures::default(),
            refusals: Repeats::default(),
            check_answer: None,
        }
    }

    pub(super) fn total(&self) -> usize {
        self.idle.len() + self.in_use + self.connecting + self.coming.len()
    }

    /// Takes note of a connection that came from another process.
    pub(super) fn arrive(&mut self, backend: &mut Backend) {
        let permit = self.coming.pop();
        backend.permit = Some(Box::new(
            permit.unwrap_or_else(|| self.permits.take_anyway()),
        ));
        // Epochs are counted from one: a connection of none is closed as soon as it is free.
        backend.epoch = if self.foreign { 0 } else { self.epoch };
        match &self.reported {
            Some(known) if **known == *backend.reported => {
                backend.reported = Arc::clone(known);
            }
            Some(_) => {}
            None if !self.foreign => {
                self.reported = Some(Arc::clone(&backend.fresh));
                self.confirmed = Some(backend.used_at);
            }
            None => {}
        }
    }

    /// Takes an idle connection that is fit for use, for the set with this number (0: for a thread). Those past
    /// their lifetime on the way are closed when the lock is free.
    pub(super) fn take_idle(&mut self, set: u32) -> Option<Connection> {
        loop {
            let connection = match self.config.round_robin {
                true => self.idle.pop_front(),
                false => self.take_last_used_by(set),
            }?;
            let expires = self.config.server_lifetime.is_some();
            if !expires || !self.has_expired(&connection.backend, MonotonicTime::now()) {
                return Some(connection);
            }
            self.to_close.0.push(connection);
        }
    }

    /// Takes the connection that came back last; of the last few rather the one that the set itself used, whose socket
    /// has its place there.
    fn take_last_used_by(&mut self, set: u32) -> Option<Connection> {
        let few = self.idle.len().saturating_sub(RECENT);
        let own = (few..self.idle.len())
            .rev()
            .find(|&place| self.idle[place].stream.set_number() == set);
        match own {
            Some(place) => self.idle.remove(place),
            None => self.idle.pop_back(),
        }
    }

    /// Takes an idle connection, if there is one and the pool is not paused.
    pub(super) fn check_out_idle(&mut self, set: u32) -> Option<Connection> {
        if self.paused {
            return None;
        }
        let connection = self.take_idle(set)?;
        self.in_use += 1;
        Some(connection)
    }

    /// As [`State::check_out_idle`], but only if no client waits.
    pub(super) fn check_out_idle_if_first(&mut self, set: u32) -> Option<Connection> {
        if self.queue.is_empty() {
            self.check_out_idle(set)
        } else {
            None
        }
    }

    pub(super) fn start_epoch(&mut self) -> Vec<Connection> {
        self.epoch += 1;
        self.forget_check_answer();
        self.forget_defaults();
        self.idle.drain(..).collect()
    }

    /// The idle connections that are too many for the configuration, those that lay idle longest first. Those that
    /// are in use are closed when they come back.
    pub(super) fn excess(&mut self) -> Vec<Connection> {
        let excess = self.total().saturating_sub(self.config.size);
        let leaving = excess.min(self.idle.len());
        self.idle.drain(..leaving).collect()
    }

    /// Whether a connection has reached the end of its lifetime. The configuration in force counts, not the one it
    /// was made by.
    pub(super) fn has_expired(&self, backend: &Backend, now: MonotonicTime) -> bool {
        let number = backend.key.id;
        self.config
            .server_lifetime
            .is_some_and(|limit| now.since(backend.key.connected_at) >= spread(limit, number))
    }

    /// Whether it has lain idle for too long. One that was never used has not.
    pub(super) fn is_stale(&self, backend: &Backend, now: MonotonicTime) -> bool {
        let number = backend.key.id;
        backend.key.tally.queries.get() > 0
            && self
                .config
                .idle_timeout
                .is_some_and(|limit| now.since(backend.used_at) > spread(limit, number))
    }

    /// How many connections may be begun now, as far as this pool is concerned.
    pub(super) fn room(&self) -> usize {
        let parallel = self.config.parallel_creates.saturating_sub(self.connecting);
        self.config.size.saturating_sub(self.total()).min(parallel)
    }

    /// How many connections may be closed for the sake of other users.
    pub(super) fn to_spare(&self) -> usize {
        let guaranteed = self
            .config
            .database_limit
            .map_or(0, |limit| limit.guaranteed);
        self.total()
            .saturating_sub(self.config.min_size.max(guaranteed))
    }

    /// Since when the first in the queue has waited, if there is no permit for it, and none under way or promised.
    fn lacks_permit_since(&self) -> Option<MonotonicTime> {
        self.wants_permit?;
        let may_have = self.total() < self.config.size && self.failures.error().is_none();
        if !may_have || self.paused || self.closed {
            return None;
        }
        // One at a time: how long the others of its queue wait will be seen when it is there.
        if self.connecting + self.wish.promised() > 0 {
            return None;
        }
        self.queue.front().map(|first| first.since)
    }

    /// Whether a connection that has come back and is no more counted should be closed for a client of another
    /// user, who has waited clearly longer than the first of this pool.
    pub(super) fn should_yield(&self, now: MonotonicTime) -> bool {
        let Some(limit) = self.config.database_limit else {
            return false;
        };
        let first = self.queue.front().map(|first| first.since);
        let own = first.unwrap_or(now);
        let kept = self.config.min_size.max(limit.guaranteed);
        self.total() >= kept && self.permits.should_yield(own, limit.fairness_delay)
    }

    /// Why a connection that has come back should not be kept.
    pub(super) fn reason_to_close(
        &self,
        connection: &Connection,
        now: MonotonicTime,
    ) -> Option<&'static str> {
        if self.closed {
            Some("its pool was removed")
        } else if connection.backend.epoch != self.epoch {
            Some("it belongs to an earlier configuration or was told to reconnect")
        } else if self.paused {
            Some("PAUSE")
        } else if self.total() >= self.config.size {
            Some("the pool has become smaller")
        } else if self.has_expired(&connection.backend, now) {
            Some("server_lifetime")
        } else {
            None
        }
    }

    /// A connection could not be made: waiting clients get the error if no other connection will come. What can heal is
    /// waited for as long as they wait.
    pub(super) fn pass_on_failure(&mut self, error: ConnectError) {
        let error = Arc::new(error);
        self.failures.keep(Arc::clone(&error));
        if error.can_heal() {
            if !self.queue.is_empty() {
                self.permits.ring();
            }
            return;
        }
        // While there are other connections, one of them will come back. While the pool is paused nobody
        // waits for this one, and after RESUME it is tried again.
        if self.total() == 0 && !self.paused {
            self.fail_waiting(&error);
        }
    }

    /// Ends all waits with this error.
    pub(super) fn fail_waiting(&mut self, error: &Arc<ConnectError>) {
        for queued in self.queue.drain(..) {
            let waker = queued.waiter.fail(Arc::clone(error));
            self.to_ring.0.extend(waker);
        }
    }
}

pub(super) fn close_all(connections: Vec<Connection>, reason: &str) {
    for connection in connections {
        connection.close(reason);
    }
}

/// A limit give or take a fifth, so that connections made together do not leave together.
pub(super) fn spread(limit: Duration, number: u64) -> Duration {
    // Fibonacci hashing: neighbouring numbers land far apart, evenly.
    let fraction = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let thousandths = 800 + ((fraction * 400) >> 32);
    limit
        .checked_mul(u32::try_from(thousandths).unwrap_or(1000))
        .map_or(limit, |scaled| scaled / 1000)
}
