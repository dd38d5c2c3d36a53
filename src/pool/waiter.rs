//! One who waits for a server connection: a slot that a connection is put into, and a thread to wake.
//!
//! The slot is the only place where a connection changes hands. Whoever puts one in and whoever gives up
//! waiting agree under the slot's lock, so no connection is lost between them. The thread sleeps by
//! `park`: half the work of a condition variable, and a wake-up that comes too early is kept for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;

use parking_lot::Mutex;

use crate::net::clock::MonotonicTime;
use crate::server::backend::Connection;
use crate::server::login::ConnectError;

/// What lies in the slot.
#[derive(Debug, Default)]
enum Slot {
    /// Nobody waits.
    #[default]
    Vacant,
    /// This thread waits.
    Waiting(Thread),
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

    /// The calling thread begins to wait. To be called before the waiter is put into a queue.
    pub(super) fn arrive(&self) {
        *self.slot.lock() = Slot::Waiting(std::thread::current());
    }

    /// Puts a connection into the slot, or gives it back if nobody waits there any more. The thread is
    /// for the caller to unpark, once it holds no lock that the thread will want.
    pub(super) fn hand(
        &self,
        connection: Connection,
        source: Source,
    ) -> Result<Thread, Connection> {
        let mut slot = self.slot.lock();
        match std::mem::take(&mut *slot) {
            Slot::Waiting(thread) => {
                *slot = Slot::Connection(connection, source);
                Ok(thread)
            }
            other => {
                *slot = other;
                Err(connection)
            }
        }
    }

    /// Puts bad news into the slot; as with [`Waiter::hand`] the thread is for the caller to unpark.
    pub(super) fn fail(&self, error: Arc<ConnectError>) -> Option<Thread> {
        let mut slot = self.slot.lock();
        match std::mem::take(&mut *slot) {
            Slot::Waiting(thread) => {
                *slot = Slot::Failure(error);
                Some(thread)
            }
            other => {
                *slot = other;
                None
            }
        }
    }

    /// The thread that waits, if one does.
    pub(super) fn thread(&self) -> Option<Thread> {
        match &*self.slot.lock() {
            Slot::Waiting(thread) => Some(thread.clone()),
            _ => None,
        }
    }

    /// Makes one who waits look up: there is something to tell it elsewhere.
    pub fn ring(&self) {
        if let Some(thread) = self.thread() {
            thread.unpark();
        }
    }

    /// Sleeps until there is something in the slot, the bell rings, or `until`. `look_up` is asked before
    /// sleeping: true ends the wait as the bell would.
    pub(super) fn listen(&self, until: MonotonicTime, look_up: impl Fn() -> bool) -> WaitResult {
        match self.pick_up() {
            WaitResult::Nothing if !look_up() => {
                std::thread::park_timeout(until.remaining());
                self.pick_up()
            }
            heard => heard,
        }
    }

    fn pick_up(&self) -> WaitResult {
        let mut slot = self.slot.lock();
        match std::mem::take(&mut *slot) {
            Slot::Connection(connection, source) => WaitResult::Connection(connection, source),
            Slot::Failure(error) => WaitResult::Failure(error),
            other @ (Slot::Waiting(_) | Slot::Vacant) => {
                *slot = other;
                WaitResult::Nothing
            }
        }
    }

    /// Stops waiting: a connection that came in the last moment is returned.
    pub(super) fn leave(&self) -> Option<(Connection, Source)> {
        match std::mem::take(&mut *self.slot.lock()) {
            Slot::Connection(connection, source) => Some((connection, source)),
            Slot::Vacant | Slot::Waiting(_) | Slot::Failure(_) => None,
        }
    }
}
