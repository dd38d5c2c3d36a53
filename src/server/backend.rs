//! A server connection as a value: everything that is true of it except its socket.
//!
//! It can be kept, lent, written down and handed to another process. The socket travels beside it in a
//! [`Connection`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::parameters::Parameters;
use super::prepared::Prepared;
use super::traces::Traces;
use crate::net::address::Address;
use crate::net::clock::Moment;
use crate::net::stream::Stream;
use crate::wire::backend::TransactionStatus;

/// What it takes to cancel whatever a backend is running.
#[derive(Debug, Serialize, Deserialize)]
pub struct BackendKey {
    /// Where the backend is.
    pub address: Address,
    /// Its process id.
    pub process_id: i32,
    /// Its secret.
    pub secret: Vec<u8>,
    /// CancelRequests that are on their way to it. While there are any, the connection must not be given
    /// to anybody else: the cancel would hit the wrong query.
    #[serde(skip)]
    in_flight: AtomicU32,
}

impl BackendKey {
    /// The key of a backend.
    pub fn new(address: Address, process_id: i32, secret: Vec<u8>) -> BackendKey {
        BackendKey {
            address,
            process_id,
            secret,
            in_flight: AtomicU32::new(0),
        }
    }

    /// Notes that a CancelRequest is being sent.
    pub fn cancel_begins(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes that PostgreSQL has dealt with a CancelRequest.
    pub fn cancel_ends(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether a CancelRequest is on its way.
    pub fn is_being_cancelled(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }
}

/// The state of a server connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Backend {
    /// Its number among all server connections of this process and its predecessors.
    pub id: u64,
    /// How to cancel it.
    pub key: Arc<BackendKey>,
    /// When it was logged in.
    pub connected_at: Moment,
    /// When it last came back to its pool.
    pub used_at: Moment,
    /// When it is too old to be lent again.
    pub expires_at: Option<Moment>,
    /// How long it may lie idle.
    pub idle_limit: Option<Duration>,
    /// The generation of its pool at the time it was made; RECONNECT starts a new one.
    pub epoch: u64,
    /// What PostgreSQL reports of its settings.
    pub reported: Arc<Parameters>,
    /// Settings PostgreSQL does not report and the pooler has made for the sake of a client.
    pub applied: Arc<Parameters>,
    /// What clients have left behind since it was last cleaned.
    pub traces: Traces,
    /// The status of the last ReadyForQuery.
    pub status: TransactionStatus,
    /// Statements prepared on it.
    pub prepared: Prepared,
    /// Transactions run on it.
    pub transactions: u64,
    /// Queries run on it.
    pub queries: u64,
    /// Bytes that came from PostgreSQL.
    pub bytes_received: u64,
    /// Bytes that went to PostgreSQL.
    pub bytes_sent: u64,
}

impl Backend {
    /// Takes up a ParameterStatus.
    pub fn note_parameter(&mut self, name: &[u8], value: &[u8]) {
        let name = String::from_utf8_lossy(name);
        if self.reported.get(&name) != Some(value) {
            Arc::make_mut(&mut self.reported).set(&name, value);
        }
    }

    /// Whether it lies in a transaction block.
    pub fn in_transaction(&self) -> bool {
        self.status != TransactionStatus::Idle
    }

    /// Whether it has reached the end of its lifetime.
    pub fn has_expired(&self, now: Moment) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// Whether it has lain idle for too long. One that was never used has not.
    pub fn is_stale(&self, now: Moment) -> bool {
        self.queries > 0
            && self
                .idle_limit
                .is_some_and(|limit| now.since(self.used_at) > limit)
    }
}

/// A server connection: its state and its socket.
#[derive(Debug)]
pub struct Connection {
    /// The state. Boxed, because it is handed from owner to owner at every transaction.
    pub backend: Box<Backend>,
    /// The socket.
    pub stream: Stream,
}

impl Connection {
    /// Tells PostgreSQL that we are leaving and closes the socket. Does not wait.
    pub fn close(self, reason: &str) {
        log::info!(
            "server closed pid={}: {reason}, session={:?}",
            self.backend.key.process_id,
            self.backend.connected_at.elapsed()
        );
        let mut terminate = Vec::new();
        crate::wire::frontend::bare(&mut terminate, crate::wire::frontend::TERMINATE);
        let _ = self.stream.send(&terminate);
    }
}
