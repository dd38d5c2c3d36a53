//! One who waits for a server connection: a slot that a connection is put into, and a bell.
//!
//! The slot is the only place where a connection changes hands. Whoever puts one in and whoever gives up
//! waiting agree under the slot's lock, so no connection is lost between them.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::net::clock::Moment;
use crate::server::backend::Connection;
use crate::server::login::ConnectError;

/// What lies in the slot.
#[derive(Debug, Default)]
enum Slot {
    /// Nobody waits.
    #[default]
    Away,
    /// Somebody waits.
    Waiting,
    /// A connection, to be picked up.
    Connection(Connection),
    /// The news that none can be made.
    Failure(Arc<ConnectError>),
}

/// One who may wait for a connection.
#[derive(Debug, Default)]
pub struct Waiter {
    slot: Mutex<Slot>,
    bell: Condvar,
}

/// What a waiter heard.
#[derive(Debug)]
pub enum Heard {
    /// Here is a connection.
    Connection(Connection),
    /// None can be made.
    Failure(Arc<ConnectError>),
    /// The time is up, or somebody rang the bell for another reason. Still waiting.
    Bell,
}

impl Waiter {
    /// Begins to wait. To be called before the waiter is put into a queue.
    pub(super) fn arrive(&self) {
        *self.slot.lock() = Slot::Waiting;
    }

    /// Puts a connection into the slot, or gives it back if nobody waits there any more.
    pub(super) fn hand(&self, connection: Connection) -> Result<(), Connection> {
        let mut slot = self.slot.lock();
        if !matches!(*slot, Slot::Waiting) {
            return Err(connection);
        }
        *slot = Slot::Connection(connection);
        drop(slot);
        self.bell.notify_one();
        Ok(())
    }

    /// Puts bad news into the slot.
    pub(super) fn fail(&self, error: Arc<ConnectError>) {
        let mut slot = self.slot.lock();
        if matches!(*slot, Slot::Waiting) {
            *slot = Slot::Failure(error);
            drop(slot);
            self.bell.notify_one();
        }
    }

    /// Makes a waiter look up: there is something to tell it elsewhere.
    pub fn ring(&self) {
        // Under the lock, or a waiter that is about to sleep would miss it.
        let _slot = self.slot.lock();
        self.bell.notify_one();
    }

    /// Sleeps until there is something in the slot, the bell rings, or `until`. `look_up` is asked, with
    /// the slot locked, just before sleeping: true ends the wait as the bell would.
    pub(super) fn listen(&self, until: Moment, look_up: impl Fn() -> bool) -> Heard {
        let mut slot = self.slot.lock();
        if matches!(*slot, Slot::Waiting) && !look_up() {
            self.bell.wait_for(&mut slot, until.remaining());
        }
        match std::mem::replace(&mut *slot, Slot::Away) {
            Slot::Connection(connection) => Heard::Connection(connection),
            Slot::Failure(error) => Heard::Failure(error),
            other @ (Slot::Waiting | Slot::Away) => {
                *slot = other;
                Heard::Bell
            }
        }
    }

    /// Stops waiting: a connection that came in the last moment is returned.
    pub(super) fn leave(&self) -> Option<Connection> {
        match std::mem::take(&mut *self.slot.lock()) {
            Slot::Connection(connection) => Some(connection),
            Slot::Away | Slot::Waiting | Slot::Failure(_) => None,
        }
    }
}
