//! One pool: the connections of one user to one database, and the queue for them.
//!
//! Strictly first come, first served: while anybody waits, a connection that comes back, or is new, is
//! put into the hands of who has waited longest. Connections are made by threads of their own
//! ([`super::connector`]), so a waiting client waits in one place whatever it is waiting for, and can be
//! cancelled, moved or hung up on there.
//!
//! Invariant, under the lock: `idle` is empty or nobody waits or the pool is paused; and
//! `idle + lent + connecting` is the number of server connections there are or will be.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::plan::Plan;
use super::totals::{Totals, Work};
use super::waiter::{Heard, Provenance, Waiter};
use crate::auth::ClientKey;
use crate::net::clock::Moment;
use crate::server::backend::{Backend, Connection};
use crate::server::login::ConnectError;
use crate::server::parameters::Parameters;

/// Sets of startup settings whose effect a pool remembers.
const KNOWN_SETTINGS: usize = 256;

/// Settings as a client sent them.
pub type Settings = Vec<(String, String)>;

/// What a set of startup settings comes to on this pool's servers.
#[derive(Debug, Clone)]
pub struct Effect {
    /// What PostgreSQL reports then.
    pub reported: Arc<Parameters>,
    /// The settings among them that PostgreSQL does not report.
    pub unreported: Arc<Parameters>,
}

impl Effect {
    /// The values that the settings of these names have come to.
    pub fn chosen(&self, names: &[String]) -> Parameters {
        let mut chosen = Parameters::default();
        for name in names {
            let value = self.reported.get(name).or(self.unreported.get(name));
            if let Some(value) = value {
                chosen.set(name, value);
            }
        }
        chosen
    }
}

/// Why no connection was to be had.
#[derive(Debug, Clone)]
pub enum NoConnection {
    /// `query_wait_timeout` passed.
    TimedOut,
    /// None could be made.
    Failed(Arc<ConnectError>),
    /// The pool no longer exists.
    Closed,
    /// The one who waited was told something else and has left the queue.
    Left,
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
    /// The plan in force.
    pub plan: Arc<Plan>,
    /// Connections nobody uses.
    pub idle: usize,
    /// Connections in use.
    pub lent: usize,
    /// Connections being made.
    pub connecting: usize,
    /// Clients in the queue.
    pub waiting: usize,
    /// How long the first in the queue has waited.
    pub longest_wait: Duration,
    /// Whether PAUSE is in force.
    pub paused: bool,
    /// What it has done.
    pub totals: Totals,
}

#[derive(Debug)]
pub(super) struct Queued {
    pub(super) waiter: Arc<Waiter>,
    pub(super) since: Moment,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) plan: Arc<Plan>,
    /// The one that came back last is at the back.
    pub(super) idle: VecDeque<Connection>,
    /// The one who has waited longest is at the front.
    pub(super) queue: VecDeque<Queued>,
    pub(super) lent: usize,
    pub(super) connecting: usize,
    /// Connections that another process will give us.
    pub(super) coming: usize,
    /// Those lead elsewhere than this pool's plan.
    pub(super) foreign: bool,
    pub(super) epoch: u64,
    pub(super) paused: bool,
    pub(super) closed: bool,
    pub(super) proved: Option<ClientKey>,
    pub(super) reported: Option<Arc<Parameters>>,
    pub(super) known: HashMap<Settings, Effect>,
    pub(super) shared: HashSet<Arc<Parameters>>,
    /// Those who have something in their slot and have not been told. They are once the lock is free:
    /// a thread that wakes up must not find it taken by the one that woke it.
    pub(super) to_ring: Bells,
    pub(super) totals: Totals,
    pub(super) last_failure: Option<Moment>,
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
    /// Counts the changes of the plan, the end of the pool being one, so that whoever keeps a copy can
    /// tell without a lock that it is out of date.
    pub(super) version: AtomicU64,
    pub(super) state: Mutex<State>,
}

/// Those to be told, once the lock is free, that there is something in their slot.
#[derive(Debug, Default)]
pub(super) struct Bells(pub(super) Vec<Thread>);

impl Drop for Bells {
    fn drop(&mut self) {
        for thread in &self.0 {
            thread.unpark();
        }
    }
}

/// The lock on a pool's state. The order of the parts is the order in which they are dropped: the lock is
/// released before the bells ring.
pub(super) struct Locked<'a> {
    state: MutexGuard<'a, State>,
    bells: Bells,
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
        std::mem::swap(&mut self.bells, &mut self.state.to_ring);
    }
}

/// After a failed attempt to connect nobody tries again for this long, unless a new client asks. Well
/// below the janitor's round, so that each of its rounds tries again.
pub(super) const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);

impl Pool {
    /// An empty pool. `numbers` gives server connections their numbers.
    pub fn new(database: &str, user: &str, plan: Plan, numbers: Arc<AtomicU64>) -> Arc<Pool> {
        Arc::new(Pool {
            database: database.to_owned(),
            user: user.to_owned(),
            numbers,
            version: AtomicU64::new(1),
            state: Mutex::new(State {
                plan: Arc::new(plan),
                idle: VecDeque::new(),
                queue: VecDeque::new(),
                lent: 0,
                connecting: 0,
                coming: 0,
                foreign: false,
                epoch: 1,
                paused: false,
                closed: false,
                proved: None,
                reported: None,
                known: HashMap::new(),
                shared: HashSet::new(),
                to_ring: Bells::default(),
                totals: Totals::default(),
                last_failure: None,
            }),
        })
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked {
            state: self.state.lock(),
            bells: Bells::default(),
        }
    }

    /// The plan in force, if it is not the one the caller has kept with this version.
    pub fn plan_unless(&self, version: u64) -> Option<(u64, Arc<Plan>)> {
        let now = self.version.load(Ordering::Acquire);
        (now != version).then(|| (now, self.plan()))
    }

    /// The plan in force.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.lock().plan)
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
        if let Some(connection) = state.lend_idle_to_newcomer() {
            waiter.note_queued(None);
            return Ok(Request::Met(connection));
        }
        Ok(self.enqueue(&mut state, waiter, Moment::now(), true))
    }

    /// Waits in the queue until there is a connection, until `deadline`, or until `told` says that there
    /// is something else to do. `told` is asked whenever the waiter's bell has rung, and once a while.
    ///
    /// # Errors
    /// [`NoConnection`]: the place in the queue is lost.
    pub fn wait(
        self: &Arc<Pool>,
        waiter: &Arc<Waiter>,
        deadline: Moment,
        told: impl Fn() -> bool,
    ) -> Result<(Connection, Provenance), NoConnection> {
        // A client that hangs up while it waits is noticed within this time.
        const LOOK_UP: Duration = Duration::from_millis(250);
        let why = loop {
            let until = Moment::now().after(LOOK_UP).min(deadline);
            match waiter.listen(until, &told) {
                Heard::Connection(connection, how) => return Ok((connection, how)),
                Heard::Failure(error) => return Err(NoConnection::Failed(error)),
                Heard::Nothing => {}
            }
            if told() {
                break NoConnection::Left;
            }
            let state = self.lock();
            if state.closed {
                break NoConnection::Closed;
            }
            if deadline <= Moment::now() {
                break NoConnection::TimedOut;
            }
        };
        self.leave_queue(waiter, why)
    }

    fn leave_queue(
        self: &Arc<Pool>,
        waiter: &Arc<Waiter>,
        why: NoConnection,
    ) -> Result<(Connection, Provenance), NoConnection> {
        match (self.vacate(waiter), why) {
            (None, why) => Err(why),
            // It came in the last moment: whoever only ran out of time is glad of it.
            (Some((connection, how)), NoConnection::TimedOut) => Ok((connection, how)),
            (Some((connection, how)), why) => {
                self.take_back(connection, how, &Work::default(), Moment::now());
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
        since: Moment,
    ) -> Result<Request, NoConnection> {
        let mut state = self.lock();
        if state.closed {
            return Err(NoConnection::Closed);
        }
        if let Some(connection) = state.lend_idle_to_newcomer() {
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
        since: Moment,
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

    fn vacate(&self, waiter: &Arc<Waiter>) -> Option<(Connection, Provenance)> {
        self.lock()
            .queue
            .retain(|queued| !Arc::ptr_eq(&queued.waiter, waiter));
        waiter.leave()
    }

    /// Gives up a place in the queue without waiting in it: for a session that ends although its request
    /// was queued. Whatever has come for it goes to the next.
    pub fn leave(self: &Arc<Pool>, waiter: &Arc<Waiter>) {
        if let Some((connection, how)) = self.vacate(waiter) {
            self.take_back(connection, how, &Work::default(), Moment::now());
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
        if let Some(connection) = state.lend_idle() {
            return Ok(Request::Met(connection));
        }
        let now = Moment::now();
        let first = state.queue.front().map_or(now, |first| first.since);
        // Who was met at once found nobody in the queue, so all who are in it came later.
        let since = waiter.queued_since().unwrap_or(first);
        Ok(self.enqueue(&mut state, waiter, since, false))
    }

    /// Takes back a clean connection, as of `now`, and adds what was done with it.
    pub fn give_back(self: &Arc<Pool>, connection: Connection, work: &Work, now: Moment) {
        self.take_back(connection, Provenance::Hand, work, now);
    }

    /// Takes back a connection. `how` says whether anybody has just heard from its server: one that was
    /// put into a slot and not used is no fresher than it was.
    fn take_back(
        self: &Arc<Pool>,
        mut connection: Connection,
        how: Provenance,
        work: &Work,
        now: Moment,
    ) {
        if how == Provenance::Hand {
            connection.backend.used_at = now;
        }
        let mut state = self.lock();
        state.totals.all.add(work);
        state.lent -= 1;
        let unwanted = state.reason_to_close(&connection, now);
        let Some(reason) = unwanted else {
            return self.place(&mut state, connection, how);
        };
        self.serve(&mut state, false);
        drop(state);
        connection.close(reason);
    }

    /// Puts a connection that is fit to be lent into the hands of who has waited longest, or among the
    /// idle ones.
    pub(super) fn place(&self, state: &mut State, mut connection: Connection, how: Provenance) {
        while !state.paused {
            let Some(first) = state.queue.pop_front() else {
                break;
            };
            match first.waiter.hand(connection, how) {
                Ok(thread) => {
                    state.lent += 1;
                    state.to_ring.0.push(thread);
                    return;
                }
                Err(back) => connection = back,
            }
        }
        state.idle.push_back(connection);
    }

    /// Notes that a lent connection is gone for good, and adds what was done with it.
    pub fn write_off(self: &Arc<Pool>, work: &Work) {
        let mut state = self.lock();
        state.totals.all.add(work);
        state.lent -= 1;
        self.serve(&mut state, false);
    }

    /// Adds to the totals what a session did while it kept its connection.
    pub fn add_work(&self, work: &Work) {
        self.lock().totals.all.add(work);
    }

    /// Matches the queue with what is idle and starts making what is missing. `eager`: a client has just
    /// asked, so a failure a moment ago is no reason not to try.
    pub(super) fn serve(self: &Arc<Pool>, state: &mut State, eager: bool) {
        if state.closed || state.paused {
            return;
        }
        while !state.queue.is_empty() {
            let Some(connection) = state.take_idle() else {
                break;
            };
            let Some(first) = state.queue.pop_front() else {
                break;
            };
            match first.waiter.hand(connection, Provenance::Idle) {
                Ok(thread) => {
                    state.lent += 1;
                    state.to_ring.0.push(thread);
                }
                Err(connection) => state.idle.push_back(connection),
            }
        }
        let rested = state
            .last_failure
            .is_none_or(|at| at.elapsed() >= PAUSE_AFTER_FAILURE);
        let missing = state.queue.len().saturating_sub(state.connecting);
        if eager || rested {
            self.connect(state, missing);
        }
    }

    /// Whether the pool has ended.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Lends nothing until [`Pool::resume`].
    pub fn pause(&self) {
        self.lock().paused = true;
    }

    /// Lends again.
    pub fn resume(self: &Arc<Pool>) {
        let mut state = self.lock();
        state.paused = false;
        self.serve(&mut state, true);
    }

    /// Notes the key a client has proved to have.
    pub fn note_proved_key(&self, key: ClientKey) {
        self.lock().proved = Some(key);
    }

    /// What PostgreSQL reports on a fresh connection; `None` before the first.
    pub fn reported(&self) -> Option<Arc<Parameters>> {
        self.lock().reported.clone()
    }

    /// What these startup settings come to, if that is known.
    pub fn known_effect(&self, settings: &Settings) -> Option<Effect> {
        self.lock().known.get(settings).cloned()
    }

    /// Remembers what startup settings come to.
    pub fn learn_effect(&self, settings: Settings, effect: Effect) {
        let mut state = self.lock();
        if state.known.len() >= KNOWN_SETTINGS {
            state.known.clear();
        }
        state.known.insert(settings, effect);
    }

    /// The one copy of these parameters that all sessions of the pool share, so that a comparison of what
    /// is set with what is wanted is mostly one of two addresses.
    pub fn share(&self, parameters: Arc<Parameters>) -> Arc<Parameters> {
        let mut state = self.lock();
        if let Some(shared) = state.shared.get(&parameters) {
            return Arc::clone(shared);
        }
        if state.shared.len() >= KNOWN_SETTINGS {
            state.shared.clear();
        }
        state.shared.insert(Arc::clone(&parameters));
        parameters
    }

    /// The pool as it stands.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        Snapshot {
            plan: Arc::clone(&state.plan),
            idle: state.idle.len(),
            lent: state.lent,
            connecting: state.connecting,
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

    /// Looks at each idle connection.
    pub fn for_each_idle(&self, mut look: impl FnMut(&Connection)) {
        for connection in &self.lock().idle {
            look(connection);
        }
    }
}

impl State {
    pub(super) fn total(&self) -> usize {
        self.idle.len() + self.lent + self.connecting + self.coming
    }

    /// Takes note of a connection that came from another process.
    pub(super) fn arrive(&mut self, backend: &mut Backend) {
        self.coming = self.coming.saturating_sub(1);
        // Epochs are counted from one: a connection of none is closed as soon as it is free.
        backend.epoch = if self.foreign { 0 } else { self.epoch };
        match &self.reported {
            Some(known) if **known == *backend.reported => {
                backend.reported = Arc::clone(known);
            }
            Some(_) => {}
            None if !self.foreign => self.reported = Some(Arc::clone(&backend.fresh)),
            None => {}
        }
    }

    pub(super) fn take_idle(&mut self) -> Option<Connection> {
        if self.plan.round_robin {
            self.idle.pop_front()
        } else {
            self.idle.pop_back()
        }
    }

    /// Lends an idle connection, if there is one and the pool is not paused.
    fn lend_idle(&mut self) -> Option<Connection> {
        if self.paused {
            return None;
        }
        let connection = self.take_idle()?;
        self.lent += 1;
        Some(connection)
    }

    /// As [`State::lend_idle`], but not before the eyes of those who wait.
    fn lend_idle_to_newcomer(&mut self) -> Option<Connection> {
        if self.queue.is_empty() {
            self.lend_idle()
        } else {
            None
        }
    }

    pub(super) fn start_epoch(&mut self) -> Vec<Connection> {
        self.epoch += 1;
        self.idle.drain(..).collect()
    }

    /// The idle connections that are too many for the plan, those that lay idle longest first. Those that
    /// are lent go when they come back.
    pub(super) fn surplus(&mut self) -> Vec<Connection> {
        let excess = self.total().saturating_sub(self.plan.size);
        let leaving = excess.min(self.idle.len());
        self.idle.drain(..leaving).collect()
    }

    /// Why a connection that has come back should not be kept.
    pub(super) fn reason_to_close(
        &self,
        connection: &Connection,
        now: Moment,
    ) -> Option<&'static str> {
        if self.closed {
            Some("its pool was removed")
        } else if connection.backend.epoch != self.epoch {
            Some("it belongs to an earlier configuration or was told to reconnect")
        } else if self.total() >= self.plan.size {
            Some("the pool has become smaller")
        } else if connection.backend.has_expired(now) && self.queue.is_empty() {
            // With clients in the queue the moment is bad for making a new one.
            Some("server_lifetime")
        } else {
            None
        }
    }

    /// Notes that a connection could not be made, and tells those who wait if nothing else will come.
    pub(super) fn note_failure(&mut self, error: ConnectError) {
        self.last_failure = Some(Moment::now());
        // While there are other connections, one of them will come back. While the pool is paused nobody
        // waits for this one, and after RESUME it is tried again.
        if self.total() > 0 || self.paused {
            return;
        }
        let error = Arc::new(error);
        for queued in self.queue.drain(..) {
            let thread = queued.waiter.fail(Arc::clone(&error));
            self.to_ring.0.extend(thread);
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
