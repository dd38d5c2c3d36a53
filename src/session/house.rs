//! What all sessions share: the settings in force, the pools, the other sessions, and what stage the
//! process is in.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::channel::Sender;
use nix::unistd::Pid;
use parking_lot::{Mutex, RwLock};

use super::console::Console;
use super::console_login::ConsoleVerifiers;
use super::encryption::Encryption;
use super::guest::Guest;
use super::lobby::Lobby;
use super::login_permit::Logins;
use super::orders::{Errand, Order};
use super::registry::{Activity, CancelKey, Handle, Registry, told};
use super::unfinished::Share;
use crate::auth::MockSecret;
use crate::config::Settings;
use crate::net::thread;
use crate::net::wait;
use crate::pool::plans::plans;
use crate::pool::pools::Pools;
use crate::pool::statements::Statements;

/// Places for console sessions beyond `max_connections`.
const CONSOLE_RESERVE: usize = 4;

/// How long last words are waited for when the process stops: they are on their way, and only an end with unread bytes
/// can overtake them.
const MOMENT: Duration = Duration::from_millis(100);

/// The stages of a process's life, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Everybody is welcome.
    Open,
    /// Transactions finish; only the console takes new sessions.
    Draining,
    /// Everybody is told to leave.
    Stopping,
}

/// Connections of clients since the start, by what became of them.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// All.
    pub total: AtomicU64,
    /// Those that asked for a session without TLS.
    pub plain: AtomicU64,
    /// Those that brought a CancelRequest.
    pub cancel: AtomicU64,
    /// Those that asked for a session over TLS.
    pub tls: AtomicU64,
}

/// What all sessions share.
pub struct House {
    settings: RwLock<Arc<Settings>>,
    /// All pools.
    pub pools: Arc<Pools>,
    /// All prepared statements.
    pub statements: Statements,
    /// All sessions.
    pub sessions: Arc<Registry>,
    /// Sessions without a thread.
    pub lobby: Lobby,
    /// What keeps mock logins of one user alike.
    pub mock: MockSecret,
    /// TLS with clients.
    pub encryption: Encryption,
    /// What the passwords of the console's users are checked by.
    pub console_verifiers: ConsoleVerifiers,
    /// Who answers on the console.
    pub console: OnceLock<Arc<dyn Console>>,
    /// Connections since the start.
    pub arrivals: Arrivals,
    /// Bytes that the clients' unfinished messages take.
    pub(super) unfinished: Arc<AtomicU64>,
    stage: AtomicU8,
    admitted: AtomicUsize,
    /// How many clients there are threads for.
    most_clients: AtomicUsize,
    /// How many may log in at a time.
    pub(super) logins: Arc<Logins>,
    /// The threads of connections that have not logged in.
    logging_in: Mutex<HashMap<u64, Pid>>,
    mover: Mutex<Option<Mover>>,
    /// Whether all sessions move.
    all_move: AtomicBool,
    neighbour: Mutex<Option<Neighbour>>,
    /// Nobody can log in any more who has begun.
    logins_end: AtomicBool,
    /// Sessions may still come from a predecessor that has handed over all others.
    stragglers: AtomicBool,
}

/// The other process of a hand-over, as far as CancelRequests and orders are concerned.
struct Neighbour {
    errands: Sender<Errand>,
    /// The thread that passes them on, to be woken.
    thread: Pid,
}

/// Whose sessions move to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moving {
    /// All.
    Everybody,
    /// Those of the console. The others finish their transactions here and are told 58006.
    Console,
}

impl Moving {
    /// What a session is told.
    fn flag(self, console: bool) -> u32 {
        match self {
            Moving::Console if !console => told::DRAIN,
            Moving::Everybody | Moving::Console => told::MOVE,
        }
    }
}

/// Where sessions that were told to move are handed in.
struct Mover {
    parked: Sender<Guest>,
    whom: Moving,
    /// The thread that takes them, to be woken.
    thread: Pid,
}

/// A place among `max_connections`; dropping it frees it.
#[derive(Debug)]
pub struct Place(Arc<House>);

/// A login under way; dropping it ends it.
#[derive(Debug)]
pub struct LoggingIn {
    house: Arc<House>,
    id: u64,
}

impl Drop for LoggingIn {
    fn drop(&mut self) {
        self.house.logging_in.lock().remove(&self.id);
    }
}

impl std::fmt::Debug for House {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("House").finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.admitted.fetch_sub(1, Ordering::AcqRel);
    }
}

impl House {
    /// A house with these settings, its pools empty.
    pub fn new(settings: Settings, mock: MockSecret) -> Arc<House> {
        let pools = Arc::new(Pools::default());
        pools.apply(plans(&settings));
        let console_verifiers = ConsoleVerifiers::default();
        console_verifiers.prepare(&settings.general, &mock);
        let encryption = Encryption::default();
        encryption.apply(&settings);
        Arc::new(House {
            settings: RwLock::new(Arc::new(settings)),
            pools,
            statements: Statements::default(),
            sessions: Arc::default(),
            mock,
            encryption,
            console_verifiers,
            console: OnceLock::new(),
            lobby: Lobby::default(),
            arrivals: Arrivals::default(),
            unfinished: Arc::default(),
            stage: AtomicU8::new(Stage::Open as u8),
            admitted: AtomicUsize::new(0),
            most_clients: AtomicUsize::new(usize::MAX),
            logins: Arc::default(),
            logging_in: Mutex::default(),
            mover: Mutex::default(),
            all_move: AtomicBool::new(false),
            neighbour: Mutex::default(),
            logins_end: AtomicBool::new(false),
            stragglers: AtomicBool::new(false),
        })
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read())
    }

    /// Puts other settings in force, for sessions that live as for those to come.
    pub fn change_settings(&self, settings: Settings) {
        let plans = plans(&settings);
        self.encryption.apply(&settings);
        self.console_verifiers
            .prepare(&settings.general, &self.mock);
        *self.settings.write() = Arc::new(settings);
        let timeouts = |handle: &Handle| {
            let pool = self.pools.find(&handle.who.database, &handle.who.user);
            pool.map(|pool| pool.plan().timeouts)
        };
        let sessions = self.sessions.all();
        let before: Vec<_> = sessions.iter().map(|handle| timeouts(handle)).collect();
        self.pools.apply(plans);
        for (handle, before) in sessions.iter().zip(before) {
            if timeouts(handle) != before {
                // What it waits for may have another time now.
                handle.wake();
            }
        }
        for handle in self.sessions.all() {
            if !handle.who.console
                && self
                    .pools
                    .find(&handle.who.database, &handle.who.user)
                    .is_none()
            {
                handle.tell(told::REMOVED);
            }
        }
    }

    /// The stage.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Open,
            1 => Stage::Draining,
            _ => Stage::Stopping,
        }
    }

    /// Goes on to a later stage and tells everybody.
    pub fn enter(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        let flag = match stage {
            Stage::Open => return,
            Stage::Draining => told::DRAIN,
            Stage::Stopping => told::STOP,
        };
        self.tell_all(flag);
        if stage == Stage::Stopping {
            self.wake_logins();
        }
    }

    /// Tells every session something.
    pub fn tell_all(&self, flag: u32) {
        for handle in self.sessions.all() {
            handle.tell(flag);
        }
    }

    /// There are threads for so many clients, whatever `max_connections` says.
    pub(super) fn limit_clients(&self, most: usize) {
        self.most_clients.store(most.max(1), Ordering::Release);
    }

    /// How many clients may be connected.
    pub fn most_clients(&self) -> usize {
        let most = self.settings().general.max_connections;
        most.min(self.most_clients.load(Ordering::Acquire))
    }

    fn room(&self, console: bool) -> usize {
        self.most_clients() + if console { CONSOLE_RESERVE } else { 0 }
    }

    /// Whether there is no place for one more client.
    pub(super) fn is_full(&self, console: bool) -> bool {
        self.admitted.load(Ordering::Acquire) >= self.room(console)
    }

    /// A place for one more client, if there is one. The console has some in reserve.
    pub(super) fn admit(self: &Arc<House>, console: bool) -> Option<Place> {
        let most = self.room(console);
        self.admitted
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now < most).then_some(now + 1)
            })
            .ok()
            .map(|_| Place(Arc::clone(self)))
    }

    /// A place for a client that has one already in the process it comes from.
    pub fn admit_moved(self: &Arc<House>) -> Place {
        self.admitted.fetch_add(1, Ordering::AcqRel);
        Place(Arc::clone(self))
    }

    /// From now on sessions move: who is told to parks at its next wait and is handed in at `parked`, and the
    /// calling thread is woken. Those that log in later park as soon as they have. Returned are those that are
    /// still to be told, who is doing something first; among them, one that has to wait for a server connection
    /// does not wait to be told.
    pub fn begin_moving(&self, parked: Sender<Guest>, whom: Moving) -> VecDeque<Arc<Handle>> {
        let thread = thread::number();
        *self.mover.lock() = Some(Mover {
            parked,
            whom,
            thread,
        });
        let mut all = self.sessions.all();
        if whom == Moving::Everybody {
            self.all_move.store(true, Ordering::Release);
            self.lobby.expect(true);
            let idle = |handle: &Handle| handle.activity() == Activity::Idle;
            all.sort_by_cached_key(|handle| (self.lies_silent(handle), idle(handle)));
            return all.into();
        }
        for handle in all {
            handle.tell(whom.flag(handle.who.console));
        }
        VecDeque::new()
    }

    /// Whether all sessions move.
    pub fn all_move(&self) -> bool {
        self.all_move.load(Ordering::Acquire)
    }

    /// What a session has to be told that has just been entered, if sessions move.
    pub fn moving_flag(&self, console: bool) -> Option<u32> {
        let mover = self.mover.lock();
        mover.as_ref().map(|mover| mover.whom.flag(console))
    }

    /// Sessions no longer move.
    pub fn end_moving(&self) {
        self.all_move.store(false, Ordering::Release);
        self.lobby.expect(false);
        *self.mover.lock() = None;
        let drains = self.stage() != Stage::Open;
        for handle in self.sessions.all() {
            handle.heeded(told::MOVE | told::STAY);
            if !drains {
                handle.heeded(told::DRAIN);
            }
        }
    }

    /// Whether sessions move.
    pub fn is_moving(&self) -> bool {
        self.mover.lock().is_some()
    }

    /// From now on CancelRequests for sessions that are not here, and all orders, are handed in at `errands`, and
    /// the calling thread is woken.
    pub fn begin_passing_on(&self, errands: Sender<Errand>) {
        let thread = thread::number();
        *self.neighbour.lock() = Some(Neighbour { errands, thread });
    }

    /// Nothing is passed on any more; nothing is handed in after this.
    pub fn end_passing_on(&self) {
        *self.neighbour.lock() = None;
    }

    /// Passes a CancelRequest on to the process that may have its session; false if there is none.
    pub(super) fn pass_on(&self, key: CancelKey) -> bool {
        self.send_neighbour(Errand::Cancel(key))
    }

    /// Passes an order on to the other process, if there are two at the moment.
    pub fn pass_order_on(&self, order: Order) {
        self.send_neighbour(Errand::Order(order));
    }

    fn send_neighbour(&self, errand: Errand) -> bool {
        match &*self.neighbour.lock() {
            Some(neighbour) => {
                let sent = neighbour.errands.send(errand);
                wait::wake(neighbour.thread);
                sent.is_ok()
            }
            None => false,
        }
    }

    /// The time of those who are logging in is over.
    pub fn end_logins(&self) {
        self.logins_end.store(true, Ordering::Release);
        self.wake_logins();
    }

    /// Whether nobody can log in any more who has begun.
    pub(super) fn ends_logins(&self) -> bool {
        self.logins_end.load(Ordering::Acquire) || self.stage() == Stage::Stopping
    }

    fn wake_logins(&self) {
        for thread in self.logging_in.lock().values() {
            wait::wake(*thread);
        }
    }

    /// How long last words are waited for that may take so long otherwise.
    pub(super) fn patience_at_the_end(&self, usual: Duration) -> Duration {
        match self.stage() {
            Stage::Stopping => usual.min(MOMENT),
            Stage::Open | Stage::Draining => usual,
        }
    }

    /// Whether sessions may still come from a predecessor that has handed over all others.
    pub fn awaits_stragglers(&self) -> bool {
        self.stragglers.load(Ordering::Acquire)
    }

    /// From now on, or no longer, they may.
    pub fn await_stragglers(&self, awaited: bool) {
        self.stragglers.store(awaited, Ordering::Release);
    }

    /// Whether a session can be lifted out of where it is silent.
    pub fn lies_silent(&self, session: &Handle) -> bool {
        session.bed.is_taken() || self.lobby.holds(session.who.id)
    }

    /// Takes a session out of where it is silent, to move it, without a word to any thread.
    pub fn lift(&self, session: &Handle) -> Option<Guest> {
        let lifted = session
            .bed
            .lift()
            .or_else(|| self.lobby.lift(session.who.id))?;
        session.parked();
        Some(lifted)
    }

    /// Hands in a session that was told to move.
    ///
    /// # Errors
    /// The session, if it is not to move after all.
    pub fn park(&self, guest: Guest) -> Result<(), Box<Guest>> {
        let mover = self.mover.lock();
        let refused = match &*mover {
            Some(mover) => {
                let sent = mover.parked.send(guest);
                wait::wake(mover.thread);
                sent.map_err(|refused| refused.0)
            }
            None => Err(guest),
        };
        refused.map_err(|guest| {
            guest.handle().heeded(told::MOVE);
            Box::new(guest)
        })
    }

    /// Notes that the calling thread is logging a client in, until what is returned is dropped.
    pub fn login_begins(self: &Arc<House>, id: u64) -> LoggingIn {
        self.logging_in.lock().insert(id, thread::number());
        LoggingIn {
            house: Arc::clone(self),
            id,
        }
    }

    /// Room for one client's unfinished message, nothing so far.
    pub fn unfinished_share(&self) -> Share {
        Share::new(&self.unfinished)
    }

    /// How many are logging in.
    pub fn logins(&self) -> usize {
        self.logging_in.lock().len()
    }
}
