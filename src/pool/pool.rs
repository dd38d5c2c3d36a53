//! One pool: the connections of one user to one database, and the queue for them.
//!
//! Strictly first come, first served: while a client waits, a connection that comes back, or is new, goes to the
//! client that has waited longest. Connections are made by threads of their own
//! ([`super::connector`]), so a waiting client waits in one place whatever it is waiting for, and can be
//! cancelled, moved or hung up on there.
//!
//! Invariant, under the lock: `idle` is empty or nobody waits or the pool is paused; and
//! `idle + in_use + connecting` is the number of server connections there are or will be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::database_limit::DatabasePermits;
use super::pool_config::PoolConfig;
use super::state::{Locked, Queued, State, close_all};
use super::totals::{Counters, Totals};
use super::waiter::{Source, WaitResult, Waiter};
use crate::auth::Proof;
use crate::net::clock::MonotonicTime;
use crate::server::backend::Connection;
use crate::server::login::ConnectError;

/// Why no connection was to be had.
#[derive(Debug, Clone)]
pub enum NoConnection {
    /// `query_wait_timeout` passed.
    TimedOut(Lack),
    /// None could be made.
    Failed(Arc<ConnectError>),
    /// The pool no longer exists.
    Closed,
    /// The waiting login has to stop, and has left the queue.
    Left,
}

/// What a client has waited for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// So many connections as the pool may have were in use all the time.
    Connections(usize),
    /// Time: the pool is paused.
    Paused,
}

/// How a request for a connection was met.
#[derive(Debug)]
pub enum Request {
    /// At once.
    Met(Connection),
    /// By a place in the queue; go on with [`Pool::wait`].
    Queued,
}

/// A pool as `SHOW POOLS` shows it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The configuration in force.
    pub config: Arc<PoolConfig>,
    /// Connections nobody uses.
    pub idle: usize,
    /// Connections in use.
    pub in_use: usize,
    /// Connections being made.
    pub connecting: usize,
    /// All connections there are or will be, those to come from another process included.
    pub total: usize,
    /// Clients in the queue.
    pub waiting: usize,
    /// How long the first in the queue has waited.
    pub longest_wait: Duration,
    /// Whether PAUSE is in force.
    pub paused: bool,
    /// What it has done.
    pub totals: Totals,
}

/// One pool.
#[derive(Debug)]
pub struct Pool {
    /// The database's name as clients know it.
    pub database: String,
    /// The user.
    pub user: String,
    /// Where the numbers of server connections come from.
    pub(super) numbers: Arc<AtomicU64>,
    /// Counts the changes of the configuration, and the end of the pool. By it a session sees without a lock that its
    /// copy is out of date.
    pub(super) version: AtomicU64,
    /// The permits of the database (`max_db_connections`).
    pub(super) permits: Arc<DatabasePermits>,
    pub(super) state: Mutex<State>,
    /// Since when nobody has used it, in microseconds, if the configuration does not name it; 0 if it is used.
    pub(super) unused_since: AtomicU64,
}

impl Pool {
    /// An empty pool. `numbers` gives server connections their numbers, and `permits` are those of the
    /// database.
    pub fn new(
        database: &str,
        user: &str,
        config: PoolConfig,
        numbers: Arc<AtomicU64>,
        permits: Arc<DatabasePermits>,
    ) -> Arc<Pool> {
        Arc::new(Pool {
            database: database.to_owned(),
            user: user.to_owned(),
            numbers,
            version: AtomicU64::new(1),
            permits: Arc::clone(&permits),
            state: Mutex::new(State::new(config, permits)),
            unused_since: AtomicU64::new(0),
        })
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked::new(&self.state)
    }

    /// The configuration in force, if it is not the one the caller has kept with this version.
    pub fn config_unless(&self, version: u64) -> Option<(u64, Arc<PoolConfig>)> {
        let now = self.version.load(Ordering::Acquire);
        (now != version).then(|| (now, self.config()))
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<PoolConfig> {
        Arc::clone(&self.lock().config)
    }

    /// Asks for a connection: it is there, or the waiter gets a place in the queue.
    ///
    /// # Errors
    /// [`NoConnection::Closed`].
    pub fn request(self: &Arc<Pool>, waiter: &Arc<Waiter>) -> Result<Request, NoConnection> {
        let mut state = self.lock();
        if state.closed {
            return Err(NoConnection::Closed);
        }
        if let Some(connection) = state.check_out_idle_if_first(waiter.set_number()) {
            waiter.note_queued(None);
            return Ok(Request::Met(connection));
        }
        Ok(self.enqueue(&mut state, waiter, MonotonicTime::now(), true))
    }

    /// Waits in the queue until there is a connection, until `deadline`, or until `told` says that the caller has to
    /// stop. `told` is asked whenever the waiter is woken, and once a while. Blocks: for
    /// logins, which have threads of their own.
    ///
    /// # Errors
    /// [`NoConnection`]: the place in the queue is lost.
    pub fn wait(
        self: &Arc<Pool>,
        waiter: &Arc<Waiter>,
        deadline: MonotonicTime,
        interrupted: impl Fn() -> bool,
    ) -> Result<(Connection, Source), NoConnection> {
        // What `told` looks at may change without a wake-up.
        const LOOK_UP: Duration = Duration::from_millis(250);
        loop {
            match waiter.pick_up() {
                WaitResult::Connection(connection, how) => return Ok((connection, how)),
                WaitResult::Failure(error) => return Err(NoConnection::Failed(error)),
                WaitResult::Nothing if interrupted() => {
                    return self.leave_queue(waiter, NoConnection::Left);
                }
                WaitResult::Nothing => {}
            }
            if let Some(outcome) = self.poll(waiter, deadline) {
                return outcome;
            }
            let until = MonotonicTime::now().after(LOOK_UP).min(deadline);
            std::thread::park_timeout(until.remaining());
        }
    }

    /// What has become of a place in the queue: a connection, or why there is none, which is also so if the deadline
    /// has passed. `None`: the waiter is to wait on, and will be woken. Never waits.
    pub fn poll(
        self: &Arc<Pool>,
        waiter: &Arc<Waiter>,
        deadline: MonotonicTime,
    ) -> Option<Result<(Connection, Source), NoConnection>> {
        match waiter.pick_up() {
            WaitResult::Connection(connection, how) => return Some(Ok((connection, how))),
            WaitResult::Failure(error) => return Some(Err(NoConnection::Failed(error))),
            WaitResult::Nothing => {}
        }
        let state = self.lock();
        let why = if state.closed {
            NoConnection::Closed
        } else if deadline <= MonotonicTime::now() {
            self.why_in_vain(&state)
        } else {
            return None;
        };
        drop(state);
        Some(self.leave_queue(waiter, why))
    }

    /// The error for a client whose time is up.
    fn why_in_vain(&self, state: &State) -> NoConnection {
        let most = state.config.size;
        let there = state.in_use + state.idle.len() + state.coming.len();
        if state.paused {
            NoConnection::TimedOut(Lack::Paused)
        } else if there >= most {
            NoConnection::TimedOut(Lack::Connections(most))
        } else if let Some(error) = state.failures.error() {
            NoConnection::Failed(error)
        } else if state.wants_permit.is_some() {
            NoConnection::Failed(Arc::new(self.no_permit(state)))
        } else if there == 0 {
            // The server has been asked and does not answer.
            NoConnection::Failed(Arc::new(ConnectError::TimedOut))
        } else {
            NoConnection::TimedOut(Lack::Connections(most))
        }
    }

    /// Notes the error of a client that gets no connection. Returns what the log should say of it, if anything.
    pub fn note_refusal(&self, message: String) -> Option<String> {
        self.lock().refusals.note(message, MonotonicTime::now())
    }

    fn leave_queue(
        self: &Arc<Pool>,
        waiter: &Arc<Waiter>,
        why: NoConnection,
    ) -> Result<(Connection, Source), NoConnection> {
        match (self.vacate(waiter), why) {
            (None, why) => Err(why),
            // It came in the last moment: it is used if only the time has run out.
            (Some((connection, how)), NoConnection::TimedOut(_) | NoConnection::Failed(_)) => {
                Ok((connection, how))
            }
            (Some((connection, how)), why) => {
                self.take_back(connection, how, &Counters::default(), MonotonicTime::now());
                Err(why)
            }
        }
    }

    /// Asks for a connection on behalf of one who has waited since `since` already: its place in the queue
    /// is by that moment.
    ///
    /// # Errors
    /// [`NoConnection::Closed`].
    pub fn request_since(
        self: &Arc<Pool>,
        waiter: &Arc<Waiter>,
        since: MonotonicTime,
    ) -> Result<Request, NoConnection> {
        let mut state = self.lock();
        if state.closed {
            return Err(NoConnection::Closed);
        }
        if let Some(connection) = state.check_out_idle_if_first(waiter.set_number()) {
            waiter.note_queued(Some(since));
            return Ok(Request::Met(connection));
        }
        Ok(self.enqueue(&mut state, waiter, since, false))
    }

    /// Gives the waiter its place in the queue: behind all who have waited longer. Of those who came in
    /// the same microsecond one who was here before goes first, and one who is new last.
    fn enqueue(
        self: &Arc<Pool>,
        state: &mut State,
        waiter: &Arc<Waiter>,
        since: MonotonicTime,
        new: bool,
    ) -> Request {
        waiter.note_queued(Some(since));
        waiter.arrive();
        let place = state
            .queue
            .partition_point(|other| other.since < since || new && other.since == since);
        state.queue.insert(
            place,
            Queued {
                waiter: Arc::clone(waiter),
                since,
            },
        );
        self.serve(state, true);
        Request::Queued
    }

    fn vacate(&self, waiter: &Arc<Waiter>) -> Option<(Connection, Source)> {
        self.lock()
            .queue
            .retain(|queued| !Arc::ptr_eq(&queued.waiter, waiter));
        waiter.leave()
    }

    /// Gives up a place in the queue without waiting in it: for a session that ends although its request
    /// was queued. Whatever has come for it goes to the next.
    pub fn leave(self: &Arc<Pool>, waiter: &Arc<Waiter>) {
        if let Some((connection, how)) = self.vacate(waiter) {
            self.take_back(connection, how, &Counters::default(), MonotonicTime::now());
        }
    }

    /// Puts a waiter who got a dead connection back where it was in the queue: before all who came later.
    ///
    /// # Errors
    /// [`NoConnection::Closed`].
    pub fn request_again(self: &Arc<Pool>, waiter: &Arc<Waiter>) -> Result<Request, NoConnection> {
        let mut state = self.lock();
        if state.closed {
            return Err(NoConnection::Closed);
        }
        if let Some(connection) = state.check_out_idle(waiter.set_number()) {
            return Ok(Request::Met(connection));
        }
        let now = MonotonicTime::now();
        let first = state.queue.front().map_or(now, |first| first.since);
        // A session that got a connection at once found the queue empty, so all in it came later.
        let since = waiter.queued_since().unwrap_or(first);
        Ok(self.enqueue(&mut state, waiter, since, false))
    }

    /// Takes back a clean connection, as of `now`, and adds what was done with it.
    pub fn give_back(
        self: &Arc<Pool>,
        connection: Connection,
        work: &Counters,
        now: MonotonicTime,
    ) {
        self.take_back(connection, Source::Hand, work, now);
    }

    /// Takes back a connection. `how` says whether its server has just answered: a connection that was put
    /// into a slot and not used is no fresher than it was.
    fn take_back(
        self: &Arc<Pool>,
        mut connection: Connection,
        how: Source,
        work: &Counters,
        now: MonotonicTime,
    ) {
        if how == Source::Hand {
            connection.backend.used_at = now;
        }
        let mut state = self.lock();
        state.totals.all.add(work);
        state.in_use -= 1;
        state.take_news(&mut connection.backend, now);
        let unwanted = state.reason_to_close(&connection, now);
        let should_yield = unwanted.is_none() && state.should_yield(now);
        state.totals.shortage.evictions += u64::from(should_yield);
        let longer = "a client of another user has waited longer (fairness_delay)";
        let Some(reason) = unwanted.or(should_yield.then_some(longer)) else {
            return self.place(&mut state, connection, how);
        };
        self.serve(&mut state, false);
        drop(state);
        connection.close(reason);
    }

    /// Gives a clean connection to the client that has waited longest, or puts it among the idle ones.
    pub(super) fn place(&self, state: &mut State, mut connection: Connection, how: Source) {
        while !state.paused {
            let Some(first) = state.queue.pop_front() else {
                break;
            };
            match first.waiter.hand(connection, how) {
                Ok(waker) => {
                    state.in_use += 1;
                    state.to_ring.0.extend(waker);
                    return;
                }
                Err(back) => connection = back,
            }
        }
        state.idle.push_back(connection);
    }

    /// Notes that a connection in use is gone for good, and adds what was done with it.
    pub fn discard(self: &Arc<Pool>, work: &Counters) {
        let mut state = self.lock();
        state.totals.all.add(work);
        state.in_use -= 1;
        state.forget_check_answer();
        self.serve(&mut state, false);
    }

    /// Adds to the totals what a session did while it kept its connection.
    pub fn add_work(&self, work: &Counters) {
        self.lock().totals.all.add(work);
    }

    /// Matches the queue with what is idle and starts making what is missing. `eager`: a client has just
    /// asked, so a failure a moment ago is no reason not to try.
    pub(super) fn serve(self: &Arc<Pool>, state: &mut State, eager: bool) {
        if state.closed || state.paused {
            return;
        }
        while let Some(first) = state.queue.front() {
            let set = first.waiter.set_number();
            let Some(connection) = state.take_idle(set) else {
                break;
            };
            let Some(first) = state.queue.pop_front() else {
                break;
            };
            match first.waiter.hand(connection, Source::Idle) {
                Ok(waker) => {
                    state.in_use += 1;
                    state.to_ring.0.extend(waker);
                }
                Err(connection) => state.idle.push_back(connection),
            }
        }
        let missing = state.queue.len().saturating_sub(state.connecting);
        let now = MonotonicTime::now();
        let allowed = (state.failures).allow_serving(missing, state.connecting, eager, now);
        self.connect(state, allowed);
    }

    /// Whether any session waits for a connection.
    pub fn is_waited_for(&self) -> bool {
        !self.lock().queue.is_empty()
    }

    /// Whether the pool has ended.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// PAUSE: gives out no connection until [`Pool::resume`], and closes each one as soon as it is free.
    pub fn pause(&self) {
        let mut state = self.lock();
        state.paused = true;
        state.forget_check_answer();
        let leaving: Vec<_> = state.idle.drain(..).collect();
        drop(state);
        close_all(leaving, "PAUSE");
    }

    /// RESUME: gives out connections again.
    pub fn resume(self: &Arc<Pool>) {
        let mut state = self.lock();
        state.paused = false;
        self.serve(&mut state, true);
    }

    /// Notes what a client has proved to have.
    pub fn note_proof(&self, proof: Proof) {
        self.lock().proved = Some(proof);
    }

    /// The pool as it stands.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        Snapshot {
            config: Arc::clone(&state.config),
            idle: state.idle.len(),
            in_use: state.in_use,
            connecting: state.connecting,
            total: state.total(),
            waiting: state.queue.len(),
            longest_wait: state
                .queue
                .iter()
                .map(|queued| queued.since.elapsed())
                .max()
                .unwrap_or_default(),
            paused: state.paused,
            totals: state.totals.clone(),
        }
    }

    /// How many connections all users of its database have together.
    pub fn permits_taken(&self) -> usize {
        self.permits.taken()
    }

    /// Looks at each idle connection.
    pub fn for_each_idle(&self, mut look: impl FnMut(&Connection)) {
        for connection in &self.lock().idle {
            look(connection);
        }
    }
}
