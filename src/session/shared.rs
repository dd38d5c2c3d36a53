//! What all sessions share: the settings in force, the pools, the other sessions, and what stage the
//! process is in.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::channel::Sender;
use nix::unistd::Pid;
use parking_lot::{Mutex, RwLock};

use super::client::Client;
use super::console::Console;
use super::memberships::Memberships;
use super::memory::MemoryShare;
use super::orders::{Errand, Order};
use super::own_cancel::OwnCancels;
use super::registry::{Activity, CancelKey, Handle, Registry, signals};
use super::sets::Sets;
use super::statement_registry::StatementRegistry;
use super::user_lookup::Lookups;
use crate::auth::MockSecret;
use crate::config::Settings;
use crate::net::listener::Listener;
use crate::net::thread;
use crate::net::wait;
use crate::pool::pool_configs;
use crate::pool::pools::Pools;

/// Permits for console sessions beyond `max_connections`.
const CONSOLE_RESERVE: usize = 4;

/// How long last messages are waited for when the process stops: they are on their way, and only an end with unread
/// bytes can overtake them.
const MOMENT: Duration = Duration::from_millis(100);

/// The stages of a process's life, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Clients can log in.
    Open,
    /// Transactions finish; only the console takes new sessions.
    Draining,
    /// All sessions are signalled to end.
    Stopping,
}

/// Connections of clients since the start, by what became of them.
#[derive(Debug, Default)]
pub struct AcceptCounters {
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
pub struct Shared {
    settings: RwLock<Arc<Settings>>,
    /// All pools.
    pub pools: Arc<Pools>,
    /// Users that the configuration does not name.
    pub lookups: Lookups,
    /// The roles of users, as far as rules have asked for them.
    pub memberships: Memberships,
    /// All prepared statements.
    pub statements: StatementRegistry,
    /// All sessions.
    pub sessions: Arc<Registry>,
    /// Which threads drive sessions.
    pub(crate) sets: Arc<Sets>,
    /// What keeps mock logins of one user alike.
    pub mock: MockSecret,
    /// What answers on the console.
    pub console: OnceLock<Arc<dyn Console>>,
    /// The listening sockets of the metrics.
    pub web_listeners: Mutex<Vec<Arc<Listener>>>,
    /// Nothing is accepted on them: a successor has them too.
    pub web_paused: AtomicBool,
    /// Connections since the start.
    pub accept_counters: AcceptCounters,
    /// Bytes that the clients' unfinished messages take.
    pub(crate) unfinished: Arc<AtomicU64>,
    stage: AtomicU8,
    admitted: AtomicUsize,
    /// CancelRequests for what clients that are gone have left running.
    pub(super) own_cancels: Arc<OwnCancels>,
    /// The threads of connections that have not logged in.
    logging_in: Mutex<HashMap<u64, Pid>>,
    handover_sink: Mutex<Option<HandoverSink>>,
    /// Whether all sessions move.
    all_are_handed_over: AtomicBool,
    peer_process: Mutex<Option<PeerProcess>>,
    /// Logins under way have to fail now.
    logins_end: AtomicBool,
    /// Sessions may still come from a predecessor that has handed over all others.
    stragglers: AtomicBool,
}

/// The other process of a hand-over, as far as CancelRequests and orders are concerned.
struct PeerProcess {
    errands: Sender<Errand>,
    /// The thread that passes them on, to be woken.
    thread: Pid,
}

/// Whose sessions move to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandoverScope {
    /// All.
    Everybody,
    /// Those of the console. The other sessions finish their transactions here and get 58006.
    Console,
}

impl HandoverScope {
    /// The signal for a session.
    fn flag(self, console: bool) -> u32 {
        match self {
            HandoverScope::Console if !console => signals::DRAIN,
            HandoverScope::Everybody | HandoverScope::Console => signals::HAND_OVER,
        }
    }
}

/// Where sessions that were signalled to move are handed in.
struct HandoverSink {
    parked: Sender<Client>,
    whom: HandoverScope,
    /// The thread that takes them, to be woken.
    thread: Pid,
}

/// One of `max_connections`. Dropping it frees it.
#[derive(Debug)]
pub struct ClientPermit(Arc<Shared>);

/// A login under way; dropping it ends it.
#[derive(Debug)]
pub struct LoggingIn {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for LoggingIn {
    fn drop(&mut self) {
        self.shared.logging_in.lock().remove(&self.id);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        self.0.admitted.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    /// The shared state of a process with these settings. Its pools are empty.
    pub fn new(settings: Settings, mock: MockSecret) -> Arc<Shared> {
        let pools = Arc::new(Pools::default());
        pools.apply(pool_configs::pool_configs(&settings), |_, _| None);
        let lookups = Lookups::default();
        lookups.apply(&settings, &pools);
        let client_threads = settings.general.client_threads;
        Arc::new(Shared {
            settings: RwLock::new(Arc::new(settings)),
            pools,
            lookups,
            memberships: Memberships::default(),
            statements: StatementRegistry::default(),
            sessions: Arc::default(),
            mock,
            console: OnceLock::new(),
            sets: Arc::new(Sets::new(client_threads)),
            web_listeners: Mutex::default(),
            web_paused: AtomicBool::new(false),
            accept_counters: AcceptCounters::default(),
            unfinished: Arc::default(),
            stage: AtomicU8::new(Stage::Open as u8),
            admitted: AtomicUsize::new(0),
            own_cancels: Arc::default(),
            logging_in: Mutex::default(),
            handover_sink: Mutex::default(),
            all_are_handed_over: AtomicBool::new(false),
            peer_process: Mutex::default(),
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
        let pool_configs = pool_configs::pool_configs(&settings);
        let settings = Arc::new(settings);
        *self.settings.write() = Arc::clone(&settings);
        self.lookups.apply(&settings, &self.pools);
        self.memberships.forget();
        let timeouts = |handle: &Handle| {
            let pool = self.pools.find(&handle.info.database, &handle.info.user);
            pool.map(|pool| pool.config().timeouts)
        };
        let sessions = self.sessions.all();
        let before: Vec<_> = sessions.iter().map(|handle| timeouts(handle)).collect();
        self.pools.apply(pool_configs, |(database, user), config| {
            let found = pool_configs::found(&settings, database, user, config.login.verifier());
            found.map(|(_, config)| config)
        });
        for (handle, before) in sessions.iter().zip(before) {
            if timeouts(handle) != before {
                // What it waits for may have another time now.
                handle.wake();
            }
        }
        for handle in self.sessions.all() {
            if !handle.info.console
                && self
                    .pools
                    .find(&handle.info.database, &handle.info.user)
                    .is_none()
            {
                handle.signal(signals::REMOVED);
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

    /// Goes on to a later stage and signals it to all sessions.
    pub fn enter(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        let flag = match stage {
            Stage::Open => return,
            Stage::Draining => signals::DRAIN,
            Stage::Stopping => signals::STOP,
        };
        self.signal_all(flag);
        if stage == Stage::Stopping {
            self.wake_logins();
        }
    }

    /// Signals every session.
    pub fn signal_all(&self, flag: u32) {
        for handle in self.sessions.all() {
            handle.signal(flag);
        }
    }

    /// How many clients may be connected.
    pub fn most_clients(&self) -> usize {
        self.settings().general.max_connections
    }

    fn room(&self, console: bool) -> usize {
        self.most_clients() + if console { CONSOLE_RESERVE } else { 0 }
    }

    /// Whether `max_connections` is reached.
    pub(crate) fn is_full(&self, console: bool) -> bool {
        self.admitted.load(Ordering::Acquire) >= self.room(console)
    }

    /// A permit for one more client, if there is one. The console has some in reserve.
    pub(crate) fn admit(self: &Arc<Shared>, console: bool) -> Option<ClientPermit> {
        let most = self.room(console);
        self.admitted
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now < most).then_some(now + 1)
            })
            .ok()
            .map(|_| ClientPermit(Arc::clone(self)))
    }

    /// A permit for a client that has one already in the process it comes from.
    pub fn admit_moved(self: &Arc<Shared>) -> ClientPermit {
        self.admitted.fetch_add(1, Ordering::AcqRel);
        ClientPermit(Arc::clone(self))
    }

    /// From now on sessions move. A session that is signalled HAND_OVER is detached at its next wait and sent to
    /// `parked`, and the calling thread is woken. A client that logs in later is handed in at once. Returns the
    /// sessions that are still to be signalled, busy ones first. A busy session that would have to wait for a server
    /// connection is handed in without a signal.
    pub fn begin_handover(
        &self,
        parked: Sender<Client>,
        whom: HandoverScope,
    ) -> VecDeque<Arc<Handle>> {
        let thread = thread::number();
        *self.handover_sink.lock() = Some(HandoverSink {
            parked,
            whom,
            thread,
        });
        let mut all = self.sessions.all();
        if whom == HandoverScope::Everybody {
            self.all_are_handed_over.store(true, Ordering::Release);
            all.sort_by_cached_key(|handle| handle.activity() == Activity::Idle);
            return all.into();
        }
        for handle in all {
            handle.signal(whom.flag(handle.info.console));
        }
        VecDeque::new()
    }

    /// Whether all sessions move.
    pub fn all_are_handed_over(&self) -> bool {
        self.all_are_handed_over.load(Ordering::Acquire)
    }

    /// The signal for a session that has just been entered, if sessions move.
    pub fn handover_signal(&self, console: bool) -> Option<u32> {
        let handover_sink = self.handover_sink.lock();
        handover_sink
            .as_ref()
            .map(|handover_sink| handover_sink.whom.flag(console))
    }

    /// Sessions no longer move.
    pub fn end_handover(&self) {
        self.all_are_handed_over.store(false, Ordering::Release);
        *self.handover_sink.lock() = None;
        let drains = self.stage() != Stage::Open;
        for handle in self.sessions.all() {
            handle.clear(signals::HAND_OVER | signals::PINNED);
            if !drains {
                handle.clear(signals::DRAIN);
            }
        }
    }

    /// Whether sessions move.
    pub fn is_handing_over(&self) -> bool {
        self.handover_sink.lock().is_some()
    }

    /// From now on CancelRequests for sessions that are not here, and all orders, are handed in at `errands`, and
    /// the calling thread is woken.
    pub fn begin_passing_on(&self, errands: Sender<Errand>) {
        let thread = thread::number();
        *self.peer_process.lock() = Some(PeerProcess { errands, thread });
    }

    /// Nothing is passed on any more; nothing is handed in after this.
    pub fn end_passing_on(&self) {
        *self.peer_process.lock() = None;
    }

    /// Passes a CancelRequest on to the process that may have its session; false if there is none.
    pub(crate) fn pass_on(&self, key: CancelKey) -> bool {
        self.send_to_peer(Errand::Cancel(key))
    }

    /// Passes an order on to the other process, if there are two at the moment.
    pub fn pass_order_on(&self, order: Order) {
        self.send_to_peer(Errand::Order(order));
    }

    fn send_to_peer(&self, errand: Errand) -> bool {
        match &*self.peer_process.lock() {
            Some(peer_process) => {
                let sent = peer_process.errands.send(errand);
                wait::wake(peer_process.thread);
                sent.is_ok()
            }
            None => false,
        }
    }

    /// The time of logins under way is over: they end.
    pub fn end_logins(&self) {
        self.logins_end.store(true, Ordering::Release);
        self.wake_logins();
    }

    /// Whether logins under way have to end.
    pub(crate) fn ends_logins(&self) -> bool {
        self.logins_end.load(Ordering::Acquire) || self.stage() == Stage::Stopping
    }

    fn wake_logins(&self) {
        for thread in self.logging_in.lock().values() {
            wait::wake(*thread);
        }
    }

    /// How long a last message is waited for that may take `usual` while the process serves.
    pub(crate) fn patience_at_the_end(&self, usual: Duration) -> Duration {
        match self.stage() {
            Stage::Stopping => usual.min(MOMENT),
            Stage::Open | Stage::Draining => usual,
        }
    }

    /// Whether sessions may still come from a predecessor that has handed over all others.
    pub fn awaits_stragglers(&self) -> bool {
        self.stragglers.load(Ordering::Acquire)
    }

    /// Notes whether sessions may still come from the predecessor.
    pub fn await_stragglers(&self, awaited: bool) {
        self.stragglers.store(awaited, Ordering::Release);
    }

    /// Hands in a session that was signalled to move.
    ///
    /// # Errors
    /// The session, if it is not to move after all.
    pub fn hand_in(&self, client: Client) -> Result<(), Box<Client>> {
        let handover_sink = self.handover_sink.lock();
        let refused = match &*handover_sink {
            Some(handover_sink) => {
                let sent = handover_sink.parked.send(client);
                wait::wake(handover_sink.thread);
                sent.map_err(|refused| refused.0)
            }
            None => Err(client),
        };
        refused.map_err(|client| {
            client.handle().clear(signals::HAND_OVER);
            Box::new(client)
        })
    }

    /// Notes that the calling thread is logging a client in, until what is returned is dropped.
    pub fn login_begins(self: &Arc<Shared>, id: u64) -> LoggingIn {
        self.logging_in.lock().insert(id, thread::number());
        LoggingIn {
            shared: Arc::clone(self),
            id,
        }
    }

    /// Room for one client's unfinished message, nothing so far.
    pub fn unfinished_share(&self) -> MemoryShare {
        MemoryShare::new(&self.unfinished)
    }

    /// How many clients are logging in.
    pub fn logins(&self) -> usize {
        self.logging_in.lock().len()
    }
}
