//! A waiter for a server connection: a slot that a connection is put into, and how to wake the waiting session.
//!
//! The slot is the only place where a connection changes hands. Putting one in and giving up the wait
//! happen under the slot's lock, so no connection is lost between them. A driven session sets how it is woken; any
//! other thread blocks here.

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
    /// No session waits.
    #[default]
    Vacant,
    /// A session waits.
    Waiting,
    /// A connection, to be picked up, and how it came.
    Connection(Connection, Source),
    /// The error: no connection can be made.
    Failure(Arc<ConnectError>),
}

/// Where a connection in the slot comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From its last session, for which the server has just answered.
    Hand,
    /// From among the idle ones.
    Idle,
}

/// A session or thread that may wait for a connection.
#[derive(Debug, Default)]
pub struct Waiter {
    slot: Mutex<Slot>,
    /// How the session is woken that waits here, whatever it waits for; `None` while it has no driver.
    waker: Mutex<Option<Waker>>,
    /// The number of the set that drives it, or 0.
    set: AtomicU32,
    /// When it joined the queue for what it asked for last; 0 if it got a connection at once. Changed under the
    /// pool's lock only.
    queued_since: AtomicU64,
}

/// The state of a wait.
#[derive(Debug)]
pub enum WaitResult {
    /// A connection has come.
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

    /// When it joined the queue; `None` if it got a connection at once.
    pub(super) fn queued_since(&self) -> Option<MonotonicTime> {
        let micros = self.queued_since.load(Ordering::Relaxed);
        (micros != 0).then(|| MonotonicTime::from_micros(micros))
    }

    /// Sets how the session is woken.
    pub fn woken_by(&self, waker: Waker) {
        self.set.store(waker.set_number(), Ordering::Relaxed);
        *self.waker.lock() = Some(waker);
    }

    /// The number of the set that drives the session, or 0.
    pub fn set_number(&self) -> u32 {
        self.set.load(Ordering::Relaxed)
    }

    /// How the session is woken, if a session waits.
    pub fn waker(&self) -> Option<Waker> {
        self.waker.lock().clone()
    }

    /// Begins a wait: of the calling thread, if it is not set how to wake the session. To be called before
    /// the waiter is put into a queue.
    pub(super) fn arrive(&self) {
        self.waker.lock().get_or_insert_with(Waker::parked);
        *self.slot.lock() = Slot::Waiting;
    }

    /// Puts a connection into the slot, or returns it if the wait has ended. The caller wakes the
    /// session, once it holds no lock that the session needs.
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

    /// Puts an error into the slot. As with [`Waiter::hand`], the caller wakes the session.
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

    /// Wakes the waiting session or thread.
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
