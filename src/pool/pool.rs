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

use super::connector;
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
struct Queued {
    waiter: Arc<Waiter>,
    since: Moment,
}

#[derive(Debug)]
struct State {
    plan: Arc<Plan>,
    /// The one that came back last is at the back.
    idle: VecDeque<Connection>,
    /// The one who has waited longest is at the front.
    queue: VecDeque<Queued>,
    lent: usize,
    connecting: usize,
    /// Connections that another process will give us.
    coming: usize,
    /// Those lead elsewhere than this pool's plan.
    foreign: bool,
    epoch: u64,
    paused: bool,
    closed: bool,
    proved: Option<ClientKey>,
    reported: Option<Arc<Parameters>>,
    known: HashMap<Settings, Effect>,
    shared: HashSet<Arc<Parameters>>,
    /// Those who have something in their slot and have not been told. They are once the lock is free:
    /// a thread that wakes up must not find it taken by the one that woke it.
    to_ring: Bells,
    totals: Totals,
    last_failure: Option<Moment>,
}

/// One pool.
#[derive(Debug)]
pub struct Pool {
    /// The database's name as clients know it.
    pub database: String,
    /// The user.
    pub user: String,
    /// Where the numbers of server connections come from.
    numbers: Arc<AtomicU64>,
    /// Counts the changes of the plan, the end of the pool being one, so that whoever keeps a copy can
    /// tell without a lock that it is out of date.
    version: AtomicU64,
    state: Mutex<State>,
}

/// Those to be told, once the lock is free, that there is something in their slot.
#[derive(Debug, Default)]
struct Bells(Vec<Thread>);

impl Drop for Bells {
    fn drop(&mut self) {
        for thread in &self.0 {
            thread.unpark();
        }
    }
}

/// The lock on a pool's state. The order of the parts is the order in which they are dropped: the lock is
/// released before the bells ring.
struct Locked<'a> {
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
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);

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

    fn lock(&self) -> Locked<'_> {
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
        if state.queue.is_empty()
            && !state.paused
            && let Some(connection) = state.take_idle()
        {
            state.lent += 1;
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
        if !state.paused
            && state.queue.is_empty()
            && let Some(connection) = state.take_idle()
        {
            state.lent += 1;
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
        if !state.paused
            && let Some(connection) = state.take_idle()
        {
            state.lent += 1;
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
    fn place(&self, state: &mut State, mut connection: Connection, how: Provenance) {
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
    fn serve(self: &Arc<Pool>, state: &mut State, eager: bool) {
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

    /// Starts making up to `count` connections, as the limits allow.
    fn connect(self: &Arc<Pool>, state: &mut State, count: usize) {
        let room = state.plan.size.saturating_sub(state.total());
        let parallel = state.plan.parallel_creates.saturating_sub(state.connecting);
        for _ in 0..count.min(room).min(parallel) {
            state.connecting += 1;
            let target = state.plan.target(state.proved.as_ref());
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = connector::start(self, target, number, state.epoch) {
                state.connecting -= 1;
                state.note_failure(ConnectError::Broken(format!(
                    "the pooler could not start a thread: {error}"
                )));
                return;
            }
        }
    }

    /// Takes in what a connector has made, or why it could not.
    pub(super) fn connected(self: &Arc<Pool>, made: Result<Connection, ConnectError>, epoch: u64) {
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
                state.last_failure = None;
                let number = connection.backend.key.id;
                let spread_from_now = |limit| now.after(spread(limit, number));
                connection.backend.expires_at = state.plan.server_lifetime.map(spread_from_now);
                connection.backend.idle_limit =
                    state.plan.idle_timeout.map(|limit| spread(limit, number));
                // The same set for all, so that equal ones are found equal by their address.
                match &state.reported {
                    Some(known) if **known == *connection.backend.reported => {
                        connection.backend.reported = Arc::clone(known);
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
            Err(error) => state.note_failure(error),
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
        self.version.fetch_add(1, Ordering::AcqRel);
        let leaving = if same_server {
            state.surplus()
        } else {
            state.reported = None;
            state.known.clear();
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
        let mut leaving = Vec::new();
        let mut dead = Vec::new();
        let mut place = 0;
        while place < state.idle.len() {
            let connection = &state.idle[place];
            let spare = state.total() > state.plan.min_size;
            let due =
                connection.backend.has_expired(now) || (connection.backend.is_stale(now) && spare);
            // A look at the socket's state, which does not wait for anything.
            if !connection.stream.is_silent() {
                dead.extend(state.idle.remove(place));
            } else if due && leaving.len() < quota {
                leaving.extend(state.idle.remove(place));
            } else {
                place += 1;
            }
        }
        self.serve(&mut state, false);
        if !state.closed
            && !state.paused
            && state
                .last_failure
                .is_none_or(|at| at.elapsed() >= PAUSE_AFTER_FAILURE)
        {
            let missing = state.plan.min_size.saturating_sub(state.total());
            self.connect(&mut state, missing);
        }
        drop(state);
        let closed = leaving.len();
        close_all(leaving, "expired");
        close_all(dead, "PostgreSQL closed it while it lay idle");
        closed
    }

    /// Ends a period of the averages.
    pub fn end_period(&self) {
        self.lock().totals.end_period();
    }

    /// Takes up what another process says of this pool: `coming` server connections will follow, and as
    /// long as they have not come there is no room for others in their place. `same_server`: they lead
    /// where this pool's plan does; otherwise they are closed when they are free.
    pub fn inherit(
        &self,
        totals: Totals,
        paused: bool,
        proved: Option<ClientKey>,
        coming: usize,
        same_server: bool,
    ) {
        let mut state = self.lock();
        state.totals = totals;
        state.paused = paused;
        state.proved = proved;
        state.coming = coming;
        state.foreign = !same_server;
    }

    /// Nothing more comes from another process.
    pub fn expect_no_more(self: &Arc<Pool>) {
        let mut state = self.lock();
        state.coming = 0;
        self.serve(&mut state, false);
    }

    /// Takes in a free connection from another process.
    pub fn adopt(self: &Arc<Pool>, mut connection: Connection) {
        let mut state = self.lock();
        state.arrive(&mut connection.backend);
        let now = Moment::now();
        if let Some(reason) = state.reason_to_close(&connection, now) {
            drop(state);
            return connection.close(reason);
        }
        self.place(&mut state, connection, Provenance::Idle);
    }

    /// Counts a connection from another process that a session brings with it.
    pub fn adopt_lent(&self, backend: &mut Backend) {
        let mut state = self.lock();
        state.arrive(backend);
        state.lent += 1;
    }

    /// Takes out a free connection, to give it to another process. It counts as lent until it is
    /// [put back](Pool::put_back) or [gone](Pool::moved_away).
    pub fn take_idle(&self) -> Option<Connection> {
        let mut state = self.lock();
        let connection = state.idle.pop_front();
        state.lent += usize::from(connection.is_some());
        connection
    }

    /// Puts a connection back that another process did not take.
    pub fn put_back(self: &Arc<Pool>, connection: Connection) {
        let mut state = self.lock();
        state.lent -= 1;
        self.place(&mut state, connection, Provenance::Idle);
    }

    /// A connection belongs to another process now.
    pub fn moved_away(&self) {
        self.lock().lent -= 1;
    }

    /// The key a client has proved to have.
    pub fn proved_key(&self) -> Option<ClientKey> {
        self.lock().proved.clone()
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
    fn total(&self) -> usize {
        self.idle.len() + self.lent + self.connecting + self.coming
    }

    /// Takes note of a connection that came from another process.
    fn arrive(&mut self, backend: &mut Backend) {
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

    fn take_idle(&mut self) -> Option<Connection> {
        if self.plan.round_robin {
            self.idle.pop_front()
        } else {
            self.idle.pop_back()
        }
    }

    fn start_epoch(&mut self) -> Vec<Connection> {
        self.epoch += 1;
        self.idle.drain(..).collect()
    }

    /// The idle connections that are too many for the plan, those that lay idle longest first. Those that
    /// are lent go when they come back.
    fn surplus(&mut self) -> Vec<Connection> {
        let excess = self.total().saturating_sub(self.plan.size);
        let leaving = excess.min(self.idle.len());
        self.idle.drain(..leaving).collect()
    }

    /// Why a connection that has come back should not be kept.
    fn reason_to_close(&self, connection: &Connection, now: Moment) -> Option<&'static str> {
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
    fn note_failure(&mut self, error: ConnectError) {
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

fn close_all(connections: Vec<Connection>, reason: &str) {
    for connection in connections {
        connection.close(reason);
    }
}

/// A limit give or take a fifth, so that connections made together do not leave together.
fn spread(limit: Duration, number: u64) -> Duration {
    // Fibonacci hashing: neighbouring numbers land far apart, evenly.
    let fraction = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let thousandths = 800 + ((fraction * 400) >> 32);
    limit
        .checked_mul(u32::try_from(thousandths).unwrap_or(1000))
        .map_or(limit, |scaled| scaled / 1000)
}
