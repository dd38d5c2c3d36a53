//! A client that has logged in, with its session and its sockets, while no thread drives it. In this form a session
//! begins, and goes from one process to another.

use std::sync::Arc;

use super::console::Rights;
use super::driven::Driven;
use super::registry::{Handle, RegistryGuard};
use super::shared::{ClientPermit, Shared};
use crate::net::clock::MonotonicTime;
use crate::net::stream::Stream;
use crate::pool::pool::Pool;
use crate::relay::session::{Phase, Session};

/// A session between two waits: its value and its sockets.
pub struct DetachedSession {
    /// The pool it uses.
    pub pool: Arc<Pool>,
    /// The session.
    pub session: Box<Session>,
    /// Its client.
    pub client: Stream,
    /// Its server connection's socket, while it has one.
    pub server: Option<Stream>,
    /// When a server connection that is being tried, set up or cleaned must have answered.
    pub server_deadline: Option<MonotonicTime>,
}

/// What a console session is owed before it is served on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing: it has had all its replies.
    Given,
    /// These bytes.
    Owed(Vec<u8>),
    /// The reply to a command that is still being carried out. The session is not served until it is known.
    Awaited,
}

/// A console session between two commands.
pub struct ConsoleSession {
    /// Its client.
    pub client: Stream,
    /// Which commands it may give.
    pub rights: Rights,
    /// Bytes that it has sent and that are not read yet.
    pub unread: Vec<u8>,
    /// What it is owed.
    pub reply: Reply,
}

/// What a client has logged in to.
pub enum ClientKind {
    /// A pool.
    Pool(DetachedSession),
    /// The console.
    Console(ConsoleSession),
}

/// A client that has logged in.
pub struct Client {
    /// Its entry in the registry.
    pub entry: RegistryGuard,
    /// Its permit, one of `max_connections`.
    pub client_permit: ClientPermit,
    /// What it has logged in to.
    pub kind: ClientKind,
}

impl Client {
    /// Its handle.
    pub fn handle(&self) -> &Arc<Handle> {
        self.entry.handle()
    }

    /// Its session, ready to be driven; `None` for one of the console.
    pub(crate) fn driven(self, shared: &Arc<Shared>) -> Option<Box<Driven>> {
        match self.kind {
            ClientKind::Pool(detached) => {
                let driven = Driven::new(shared, self.entry, self.client_permit, detached);
                Some(Box::new(driven))
            }
            ClientKind::Console(_) => None,
        }
    }

    /// Whether it was doing something for its client when it was detached, or is about to.
    pub fn is_busy(&self) -> bool {
        match &self.kind {
            ClientKind::Pool(detached) => {
                detached.session.phase() != Phase::Idle
                    || !detached.session.client.unread.is_empty()
            }
            ClientKind::Console(_) => false,
        }
    }

    /// Whether it waits until the reply to its command is known.
    pub fn awaits_reply(&self) -> bool {
        matches!(&self.kind, ClientKind::Console(console) if console.reply == Reply::Awaited)
    }

    /// Notes the reply that it waits for. It is sent when the session is served again.
    pub fn answer(&mut self, reply: Vec<u8>) {
        if let ClientKind::Console(console) = &mut self.kind {
            console.reply = Reply::Owed(reply);
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guest").field(&self.handle().tag()).finish()
    }
}
