//! A client's session with its driver: what a thread of its own drives, or a shared set, and what goes from one to the
//! other as it stands.
//!
//! Invariant: a session has one owner at a time, a thread of its own or a set, and only its owner drives it.

use std::sync::Arc;

use super::client::{Client, ClientKind, DetachedSession};
use super::close_reason::CloseReason;
use super::driver::{Driver, Step, Wanted};
use super::registry::{Handle, RegistryGuard};
use super::sets::{Busy, OwnThread, Where};
use super::shared::{ClientPermit, Shared};
use crate::net::thread;
use crate::net::waker::Waker;

/// See the module. The parts are dropped in this order: a session is in the registry until its sockets are closed.
pub(crate) struct Driven {
    pub(crate) driver: Driver,
    /// What it waits for.
    pub(crate) wanted: Wanted,
    busy: Busy,
    own_thread: Option<OwnThread>,
    entry: RegistryGuard,
    client_permit: ClientPermit,
}

/// Why a thread has no session any more.
pub(crate) enum Left {
    /// It has ended.
    Ended,
    /// It is to move to another process.
    Moves(Client),
    /// It is to join a shared set.
    Joins(Box<Driven>),
}

impl Driven {
    /// A session from wherever it stands.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        entry: RegistryGuard,
        client_permit: ClientPermit,
        detached: DetachedSession,
    ) -> Driven {
        let driver = Driver::new(Arc::clone(shared), Arc::clone(entry.handle()), detached);
        Driven {
            driver,
            wanted: Wanted::default(),
            busy: Busy::new(&shared.sets),
            own_thread: None,
            entry,
            client_permit,
        }
    }

    /// Its handle.
    pub(crate) fn handle(&self) -> &Arc<Handle> {
        self.entry.handle()
    }

    /// From now on it is the member of a set.
    pub(crate) fn enters_set(&mut self, member: Waker) {
        self.own_thread = None;
        self.wanted = Wanted::default();
        self.driver.leave_sets();
        self.handle().driven_by(member);
    }

    /// It gets a thread of its own.
    pub(crate) fn gets_thread(&mut self, own_thread: OwnThread) {
        self.driver.leave_sets();
        self.own_thread = Some(own_thread);
    }

    /// Takes note of whether it is busy, there. True if it has just become so.
    pub(crate) fn note_busy(&mut self, here: Where) -> bool {
        let at = self.driver.is_busy().then_some(here);
        self.busy.set(at, self.driver.now())
    }

    /// Drives it in the calling thread.
    pub(crate) fn serve(mut self: Box<Driven>, shared: &Shared) -> Left {
        self.driver.leave_sets();
        self.handle().driven_here();
        thread::name(&self.handle().thread_name());
        loop {
            match self.driver.advance() {
                Step::Waits(wanted) => {
                    if self.note_busy(Where::Own) && shared.sets.is_to_join() {
                        return Left::Joins(self);
                    }
                    self.driver.wait(&wanted);
                }
                Step::Moves => return Left::Moves(self.into_client()),
                Step::Ends(close_reason) => {
                    self.end(shared, &close_reason);
                    return Left::Ended;
                }
            }
        }
    }

    /// Takes it apart, to move it.
    pub(crate) fn into_client(mut self) -> Client {
        // Nobody here reads from its sockets any more. The set would be woken for them again and again.
        self.driver.leave_sets();
        Client {
            kind: ClientKind::Pool(self.driver.detach()),
            entry: self.entry,
            client_permit: self.client_permit,
        }
    }

    /// It has ended like this.
    pub(crate) fn end(self, shared: &Shared, close_reason: &CloseReason) {
        drop(self.driver);
        note_end(
            shared,
            self.entry.handle(),
            &close_reason.to_string(),
            close_reason.is_trouble(),
        );
    }
}

/// Says in the log how a session has ended.
pub(crate) fn note_end(shared: &Shared, handle: &Handle, text: &str, trouble: bool) {
    let line = format!(
        "{} client disconnected from {}: {text}, session={:?}",
        handle.tag(),
        handle.info.address,
        handle.info.connected_at.elapsed()
    );
    if trouble {
        log::warn!("{line}");
    } else if shared.settings().general.log_client_disconnections {
        log::info!("{line}");
    } else {
        log::debug!("{line}");
    }
}
