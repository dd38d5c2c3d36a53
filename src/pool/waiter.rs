//! One who waits for a server connection: a slot that a connection is put into, and how to wake who waits.
//!
//! The slot is the only place where a connection changes hands. Whoever puts one in and whoever gives up
//! waiting agree under the slot's lock, so no connection is lost between them. A driven session says how it is
//! woken; any other thread that waits here parks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::net::clock::MonotonicTime;
use crate::net::waker::Waker;
use crate::server::backend::Connection;
use crate::server::login::ConnectError;

/// What lies in the slot.
#[derive(Debug, Default)]
enum Slot {
    /// Nobody waits.
    #[default]
    Vacant,
    /// Somebody waits.
    Waiting,
    /// A connection, to be picked up, and how it came.
    Connection(Connection, Source),
    /// The news that none can be made.
    Failure(Arc<ConnectError>),
}

/// How a connection came to the one who waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From the hands of its last user, who has just heard from the server.
    Hand,
    /// From among the idle ones.
    Idle,
}

/// One who may wait for a connection.
#[derive(Debug, Default)]
pub struct Waiter {
    slot: Mutex<Slot>,
    /// How the session is woken that waits here, whatever it waits for; `None` while it has no driver.
    waker: Mutex<Option<Waker>>,
    /// The number of the set that drives it, or 0.
    set: AtomicU32,
    /// When it joined the queue for what it asked for last; 0 if it was met at once. Changed under the
    /// pool's lock only.
    queued_since: AtomicU64,
}

/// What a waiter heard.
#[derive(Debug)]
pub enum WaitResult {
    /// Here is a connection.
    Connection(Connection, Source),
    /// None can be made.
    Failure(Arc<ConnectError>),
    /// The time is up, or there is something else to look at. Still waiting.
    Nothing,
}

impl Waiter {
    /// Notes when it joined the queue.
    pub(super) fn note_queued(&self, since: Option<MonotonicTime>) {
        let micros = since.map_or(0, MonotonicTime::micros);
        self.queued_since.store(micros, Ordering::Relaxed);
    }

    /// When it joined the queue; `None` if it was met at once.
    pub(super) fn queued_since(&self) -> Option<MonotonicTime> {
        let micros = self.queued_since.load(Ordering::Relaxed);
        (micros != 0).then(|| MonotonicTime::from_micros(micros))
    }

    /// From now on whoever waits is woken like this.
    pub fn woken_by(&self, waker: Waker) {
        self.set.store(waker.set_number(), Ordering::Relaxed);
        *self.waker.lock() = Some(waker);
    }

    /// The number of the set that drives whoever waits, or 0.
    pub fn set_number(&self) -> u32 {
        self.set.load(Ordering::Relaxed)
    }

    /// How whoever waits is woken, if a session does.
    pub fn waker(&self) -> Option<Waker> {
        self.waker.lock().clone()
    }

    /// Somebody begins to wait: the calling thread, if nobody has said how to wake the session. To be called before
    /// the waiter is put into a queue.
    pub(super) fn arrive(&self) {
        self.waker.lock().get_or_insert_with(Waker::parked);
        *self.slot.lock() = Slot::Waiting;
    }

    /// Puts a connection into the slot, or gives it back if nobody waits there any more. Who waits is for the caller
    /// to wake, once it holds no lock that is wanted then.
    pub(super) fn hand(
        &self,
        connection: Connection,
        source: Source,
    ) -> Result<Option<Waker>, Connection> {
        let mut slot = self.slot.lock();
        match std::mem::take(&mut *slot) {
            Slot::Waiting => {
                *slot = Slot::Connection(connection, source);
                Ok(self.waker())
            }
            other => {
                *slot = other;
                Err(connection)
            }
        }
    }

    /// Puts bad news into the slot; as with [`Waiter::hand`] the waiter is for the caller to wake.
    pub(super) fn fail(&self, error: Arc<ConnectError>) -> Option<Waker> {
        let mut slot = self.slot.lock();
        match std::mem::take(&mut *slot) {
            Slot::Waiting => {
                *slot = Slot::Failure(error);
                self.waker()
            }
            other => {
                *slot = other;
                None
            }
        }
    }

    /// Wakes whoever waits.
    pub fn ring(&self) {
        if let Some(waker) = self.waker() {
            waker.wake();
        }
    }

    /// Takes what is in the slot.
    pub(super) fn pick_up(&self) -> WaitResult {
        let mut slot = self.slot.lock();
        match std::mem::take(&mut *slot) {
            Slot::Connection(connection, source) => WaitResult::Connection(connection, source),
            Slot::Failure(error) => WaitResult::Failure(error),
            other @ (Slot::Waiting | Slot::Vacant) => {
                *slot = other;
                WaitResult::Nothing
            }
        }
    }

    /// Stops waiting: a connection that came in the last moment is returned.
    pub(super) fn leave(&self) -> Option<(Connection, Source)> {
        match std::mem::take(&mut *self.slot.lock()) {
            Slot::Connection(connection, source) => Some((connection, source)),
            Slot::Vacant | Slot::Waiting | Slot::Failure(_) => None,
        }
    }
}
