//! The live sessions: what other threads may see of each, and the signals they may send it.
//!
//! The session itself belongs to its thread. Beside it stands a [`Handle`] that any thread may hold: signals to
//! set, numbers to read, and what a CancelRequest needs. Invariant: the handle of a session says Running
//! exactly while the session may have something running on that backend.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::net::waker::Waker;
use crate::pool::waiter::Waiter;
use crate::relay::session::process_id;
use crate::server::backend::{BackendKey, Count};
use crate::tls::suite::Negotiated;

/// Signals that other threads set for a session, as bits. `session::suspend` acts on them.
pub mod signals {
    /// Finish the transaction, tell the client 58006, and leave.
    pub const DRAIN: u32 = 1;
    /// Tell the client 57P01 and leave now.
    pub const STOP: u32 = 1 << 1;
    /// The time for finishing transactions is over: tell the client 58006 and leave now.
    pub const FORCE_CLOSE: u32 = 1 << 2;
    /// Leave the queue with 57014.
    pub const CANCEL: u32 = 1 << 3;
    /// The session's pool is no longer in the configuration: finish the transaction, tell the client
    /// 58006, and leave.
    pub const REMOVED: u32 = 1 << 5;
    /// Be detached at the next wait: the session goes to another process.
    pub const HAND_OVER: u32 = 1 << 6;
    /// Stay here: the other process cannot take the session now.
    pub const PINNED: u32 = 1 << 7;
    /// A CancelRequest of ours has been dealt with: look whether the connection can be given back.
    pub const CANCELLED: u32 = 1 << 4;
}

/// What a session is doing, as far as a CancelRequest is concerned.
#[derive(Debug, Default)]
enum CancelTarget {
    /// Nothing that could be cancelled.
    #[default]
    Nothing,
    /// It waits for a server connection.
    Queued,
    /// It has this backend.
    Running(Arc<BackendKey>),
    /// No thread drives it: it goes to another process, or comes from one.
    Away,
}

/// What `SHOW CLIENTS` calls the state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// Logging in.
    Login,
    /// Without a server connection.
    Idle,
    /// With one.
    Active,
    /// In the queue for one.
    Waiting,
}

/// What a CancelRequest for a session has to do.
#[derive(Debug)]
pub enum Cancel {
    /// Send one to this backend, then call [`Handle::cancel_done`].
    Send(Arc<BackendKey>),
    /// Nothing more: the session was signalled to leave the queue, or there is nothing to cancel.
    Done,
    /// Nobody can say at the moment: no thread drives the session.
    Away,
}

/// What a CancelRequest brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelKey {
    /// The process id of the session's BackendKeyData.
    pub process_id: i32,
    /// The secret.
    #[serde(with = "serde_bytes")]
    pub secret: Vec<u8>,
}

/// Who a session is.
#[derive(Debug)]
pub struct ClientInfo {
    /// Its number.
    pub id: u64,
    /// The secret of its cancel key.
    pub secret: Vec<u8>,
    /// The database, as the client named it.
    pub database: String,
    /// The user.
    pub user: String,
    /// `application_name` at login.
    pub application_name: Vec<u8>,
    /// Where the client is.
    pub address: Address,
    /// When it connected.
    pub connected_at: MonotonicTime,
    /// Whether it is a console session.
    pub console: bool,
    /// Its TLS, if it has any.
    pub tls: Option<Negotiated>,
}

/// What other threads may see of a session, and how they signal it.
#[derive(Debug)]
pub struct Handle {
    /// Who it is.
    pub info: ClientInfo,
    /// Where it waits for a server connection, and how it is woken whatever it waits for.
    pub waiter: Arc<Waiter>,
    /// Transactions it has finished.
    pub transactions: Count,
    /// Queries it has finished.
    pub queries: Count,
    /// Errors that its client has got.
    pub errors: Count,
    /// Since when it has had a server connection, if it has one.
    active_since: AtomicU64,
    flags: AtomicU32,
    activity: AtomicU8,
    cancel_target: Mutex<CancelTarget>,
}

impl Handle {
    /// The handle of a session that nobody drives yet.
    pub fn new(info: ClientInfo) -> Handle {
        let waiter = Waiter::default();
        waiter.woken_by(Waker::polling());
        Handle {
            info,
            waiter: Arc::new(waiter),
            transactions: Count::default(),
            queries: Count::default(),
            errors: Count::default(),
            active_since: AtomicU64::new(0),
            flags: AtomicU32::new(0),
            activity: AtomicU8::new(Activity::Idle as u8),
            cancel_target: Mutex::new(CancelTarget::Away),
        }
    }

    /// How log lines name the session.
    pub fn tag(&self) -> String {
        format!(
            "[{}@{} #c{}]",
            self.info.user, self.info.database, self.info.id
        )
    }

    /// Sets signals for the session and wakes its thread, wherever it waits.
    pub fn signal(&self, flag: u32) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.wake();
    }

    /// Wakes the session's thread.
    pub fn wake(&self) {
        self.waiter.ring();
    }

    /// The name of the thread that drives the session.
    pub fn thread_name(&self) -> String {
        match self.waiter.set_number() {
            0 => format!(
                "c{} {}@{}",
                self.info.id, self.info.user, self.info.database
            ),
            number => format!("clients {number}"),
        }
    }

    /// The signals that are set and not yet acted on.
    pub fn signals(&self) -> u32 {
        self.flags.load(Ordering::Acquire)
    }

    /// From now on the calling thread drives the session. What that is doing is to be said next, and nothing else
    /// before: a session that came from elsewhere counts as away until then, so that a CancelRequest waits for it.
    pub fn driven_here(&self) {
        self.driven_by(Waker::polling());
    }

    /// From now on the session is driven by the thread or set that `waker` wakes.
    pub(crate) fn driven_by(&self, waker: Waker) {
        self.waiter.woken_by(waker);
    }

    /// No thread drives the session any more. True if a CancelRequest is on its way to the backend it has.
    pub fn parked(&self) -> bool {
        self.show(Activity::Idle);
        is_being_cancelled(&std::mem::replace(
            &mut *self.cancel_target.lock(),
            CancelTarget::Away,
        ))
    }

    /// Clears signals.
    pub fn clear(&self, flag: u32) {
        self.flags.fetch_and(!flag, Ordering::AcqRel);
    }

    /// Notes what the session is doing, for the console.
    pub fn show(&self, activity: Activity) {
        self.activity.store(activity as u8, Ordering::Relaxed);
    }

    /// What the session is doing.
    pub fn activity(&self) -> Activity {
        match self.activity.load(Ordering::Relaxed) {
            0 => Activity::Login,
            2 => Activity::Active,
            3 => Activity::Waiting,
            _ => Activity::Idle,
        }
    }

    /// How long the session has had its server connection.
    pub fn active_for(&self) -> Duration {
        MonotonicTime::from_micros(self.active_since.load(Ordering::Relaxed)).elapsed()
    }

    /// The server connection the session has.
    pub fn running_on(&self) -> Option<Arc<BackendKey>> {
        match &*self.cancel_target.lock() {
            CancelTarget::Running(key) => Some(Arc::clone(key)),
            CancelTarget::Nothing | CancelTarget::Queued | CancelTarget::Away => None,
        }
    }

    /// The session waits in the queue, or is about to. What is cancelled from now on is this wait.
    pub fn queued(&self) {
        let mut cancel_target = self.cancel_target.lock();
        if !matches!(*cancel_target, CancelTarget::Queued) {
            self.clear(signals::CANCEL);
            *cancel_target = CancelTarget::Queued;
        }
        self.show(Activity::Waiting);
    }

    /// The session has had a backend since `now`. True if it was cancelled while it waited for one.
    pub fn running(&self, key: &Arc<BackendKey>, now: MonotonicTime) -> bool {
        let cancelled = {
            let mut cancel_target = self.cancel_target.lock();
            *cancel_target = CancelTarget::Running(Arc::clone(key));
            let before = self.flags.fetch_and(!signals::CANCEL, Ordering::AcqRel);
            before & signals::CANCEL != 0
        };
        self.active_since.store(now.micros(), Ordering::Relaxed);
        self.show(Activity::Active);
        cancelled
    }

    /// The session has neither. True if a CancelRequest is on its way to the backend it had.
    pub fn at_rest(&self) -> bool {
        self.show(Activity::Idle);
        is_being_cancelled(&std::mem::take(&mut *self.cancel_target.lock()))
    }

    /// Whether no thread drives the session.
    pub fn is_away(&self) -> bool {
        matches!(*self.cancel_target.lock(), CancelTarget::Away)
    }

    /// Begins to cancel whatever the session is doing.
    pub fn cancel(&self) -> Cancel {
        let cancel_target = self.cancel_target.lock();
        match &*cancel_target {
            CancelTarget::Nothing => Cancel::Done,
            CancelTarget::Away => Cancel::Away,
            CancelTarget::Queued => {
                // Under the lock: the flag is for this wait and not for a later one.
                self.flags.fetch_or(signals::CANCEL, Ordering::AcqRel);
                drop(cancel_target);
                self.wake();
                Cancel::Done
            }
            CancelTarget::Running(key) => {
                // Under the lock: the session cannot give the backend back without seeing this.
                key.cancel_begins();
                Cancel::Send(Arc::clone(key))
            }
        }
    }

    /// Notes that PostgreSQL has dealt with the CancelRequest, or, if it has not `arrived` for certain, that
    /// it may do so at any time.
    pub fn cancel_done(&self, key: &BackendKey, arrived: bool) {
        if !arrived {
            key.taint();
        }
        key.cancel_ends();
        self.signal(signals::CANCELLED);
    }
}

fn is_being_cancelled(cancel_target: &CancelTarget) -> bool {
    match cancel_target {
        CancelTarget::Running(key) => key.is_being_cancelled(),
        CancelTarget::Nothing | CancelTarget::Queued | CancelTarget::Away => false,
    }
}

/// The sessions that live.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: RwLock<HashMap<u64, Arc<Handle>>>,
    next_id: AtomicU64,
}

/// A session's entry in the registry: dropping it takes the session out.
#[derive(Debug)]
pub struct RegistryGuard {
    registry: Arc<Registry>,
    handle: Arc<Handle>,
}

impl RegistryGuard {
    /// The session's handle.
    pub fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }
}

impl Drop for RegistryGuard {
    fn drop(&mut self) {
        self.registry.sessions.write().remove(&self.handle.info.id);
    }
}

impl Registry {
    /// A number for a new connection.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last number given.
    pub fn last_id(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed)
    }

    /// Gives no number up to `number`.
    pub fn start_from(&self, number: u64) {
        self.next_id.fetch_max(number, Ordering::Relaxed);
    }

    /// So many more sessions are about to be entered.
    pub fn expect(&self, more: usize) {
        self.sessions.write().reserve(more);
    }

    /// Enters a session.
    pub fn enter(self: &Arc<Registry>, handle: Handle) -> RegistryGuard {
        let handle = Arc::new(handle);
        self.sessions
            .write()
            .insert(handle.info.id, Arc::clone(&handle));
        RegistryGuard {
            registry: Arc::clone(self),
            handle,
        }
    }

    /// The session with this number.
    pub fn find(&self, id: u64) -> Option<Arc<Handle>> {
        self.sessions.read().get(&id).cloned()
    }

    /// All sessions, in the order of their numbers.
    pub fn all(&self) -> Vec<Arc<Handle>> {
        let mut all: Vec<_> = self.sessions.read().values().cloned().collect();
        all.sort_by_key(|handle| handle.info.id);
        all
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sessions.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The session with this cancel key. The secret is compared in constant time.
    pub fn by_cancel_key(&self, key: &CancelKey) -> Option<Arc<Handle>> {
        self.sessions
            .read()
            .values()
            .find(|handle| {
                process_id(handle.info.id) == key.process_id
                    && handle.info.secret.len() == key.secret.len()
                    && openssl::memcmp::eq(&handle.info.secret, &key.secret)
            })
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle() -> Handle {
        Handle::new(ClientInfo {
            id: 1,
            secret: vec![9; 4],
            database: "shop".into(),
            user: "app".into(),
            application_name: Vec::new(),
            address: Address::Unix("/nowhere".into()),
            connected_at: MonotonicTime::now(),
            console: false,
            tls: None,
        })
    }

    #[test]
    fn a_session_counts_as_away_until_it_is_known_what_it_does() {
        let handle = handle();
        handle.driven_here();
        assert!(matches!(handle.cancel(), Cancel::Away));
        handle.at_rest();
        assert!(matches!(handle.cancel(), Cancel::Done));
    }

    #[test]
    fn a_wait_that_was_cancelled_before_it_has_a_place_in_the_queue_is_cancelled() {
        let handle = handle();
        handle.driven_here();
        // It is to wait, and then gets its place by when it began to.
        handle.queued();
        assert!(matches!(handle.cancel(), Cancel::Done));
        handle.queued();
        assert_eq!(handle.signals(), signals::CANCEL);
    }

    #[test]
    fn a_wait_does_not_end_for_a_cancellation_of_the_one_before() {
        let handle = handle();
        handle.driven_here();
        handle.queued();
        handle.cancel();
        handle.at_rest();
        handle.queued();
        assert_eq!(handle.signals(), 0);
    }
}
