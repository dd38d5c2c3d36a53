//! A server connection as a value: everything that is true of it except its socket.
//!
//! It can be kept in a pool, checked out, and handed to another process. The socket travels beside it in a
//! [`Connection`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::dirty::DirtyState;
use super::parameters::Parameters;
use super::prepared::{Limit, Prepared, Statement};
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::net::stream::Stream;
use crate::tls::suite::Negotiated;
use crate::wire::backend::TransactionStatus;

/// A count that one thread keeps and any may read.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the owner of the connection does, so no locked addition is needed.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Makes it `n`.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a server connection has done.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Transactions run on it.
    pub transactions: Count,
    /// Queries run on it.
    pub queries: Count,
    /// Bytes that came from PostgreSQL.
    pub bytes_received: Count,
    /// Bytes that went to PostgreSQL.
    pub bytes_sent: Count,
    /// Statements that were prepared on it already when they were needed.
    pub prepared_hits: Count,
    /// Statements that were not.
    pub prepared_misses: Count,
    /// Statements that are prepared on it.
    pub prepared_held: Count,
}

/// What may be known of a server connection while somebody else has it, and what it takes to cancel
/// whatever it is running.
#[derive(Debug, Serialize, Deserialize)]
pub struct BackendKey {
    /// Its number among all server connections of this process and its predecessors.
    pub id: u64,
    /// When it was logged in.
    #[serde(default)]
    pub connected_at: MonotonicTime,
    /// What it has done.
    #[serde(default)]
    pub tally: Tally,
    /// Where the backend is.
    pub address: Address,
    /// Its process id.
    pub process_id: i32,
    /// Its secret.
    #[serde(with = "serde_bytes")]
    pub secret: Vec<u8>,
    /// CancelRequests that are on their way to it. While there are any, the connection must not be given
    /// to anybody else: the cancel would hit the wrong query.
    #[serde(skip)]
    in_flight: AtomicU32,
    /// Its TLS, if it has any.
    #[serde(default)]
    pub tls: Option<Negotiated>,
    /// A CancelRequest was sent that PostgreSQL has not been seen to take: it may come at any time.
    #[serde(default)]
    tainted: AtomicBool,
}

impl BackendKey {
    /// The key of a backend that has just been logged in.
    pub fn new(
        id: u64,
        address: Address,
        process_id: i32,
        secret: Vec<u8>,
        tls: Option<Negotiated>,
    ) -> BackendKey {
        BackendKey {
            id,
            connected_at: MonotonicTime::now(),
            tally: Tally::default(),
            address,
            process_id,
            secret,
            in_flight: AtomicU32::new(0),
            tls,
            tainted: AtomicBool::new(false),
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

    /// Notes that a CancelRequest may come at any time.
    pub fn taint(&self) {
        self.tainted.store(true, Ordering::Release);
    }

    /// Whether a CancelRequest may come at any time: the connection must not be given to another session.
    pub fn is_tainted(&self) -> bool {
        self.tainted.load(Ordering::Acquire)
    }

    /// Whether a CancelRequest is on its way.
    pub fn is_being_cancelled(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }
}

/// The state of a server connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Backend {
    /// What others may know of it, and how to cancel it.
    pub key: Arc<BackendKey>,
    /// When it last came back to its pool.
    #[serde(default)]
    pub used_at: MonotonicTime,
    /// The generation of its pool at the time it was made; RECONNECT starts a new one.
    #[serde(default)]
    pub epoch: u64,
    /// The defaults of its settings: what PostgreSQL reported when it was logged in, and has reported since while
    /// no client had it or behind a RESET.
    #[serde(default)]
    pub fresh: Arc<Parameters>,
    /// The names of defaults that PostgreSQL has reported anew and the pool does not know; `None` if PostgreSQL
    /// was not asked since it went out of the pool.
    #[serde(skip)]
    pub news: Option<Vec<String>>,
    /// What PostgreSQL reports of its settings.
    #[serde(default)]
    pub reported: Arc<Parameters>,
    /// Settings PostgreSQL does not report and the pooler has made for the sake of a client.
    #[serde(default)]
    pub applied: Arc<Parameters>,
    /// What clients have left behind since it was last cleaned.
    #[serde(default = "DirtyState::everything")]
    pub dirty: DirtyState,
    /// The status of the last ReadyForQuery.
    #[serde(default)]
    pub status: TransactionStatus,
    /// Statements prepared on it.
    #[serde(default)]
    pub prepared: Prepared,
    /// The permit of the limit of its database, in this process. Dropping it frees it.
    #[serde(skip)]
    pub permit: Option<Box<dyn std::fmt::Debug + Send + Sync>>,
}

impl Backend {
    /// Takes up a ParameterStatus.
    pub fn note_parameter(&mut self, name: &[u8], value: &[u8]) {
        let name = String::from_utf8_lossy(name);
        if self.reported.get(&name) != Some(value) {
            Arc::make_mut(&mut self.reported).set(&name, value);
        }
    }

    /// PostgreSQL has been asked something while no client had it, or has reset its settings. What it reports of
    /// these names, if that is not the default that was known, is the new one.
    pub fn note_defaults<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let news = self.news.get_or_insert_default();
        for name in names.filter(|name| !Parameters::is_of_identity(name)) {
            let Some(value) = self.reported.get(name) else {
                continue;
            };
            if self.fresh.get(name) != Some(value) {
                Arc::make_mut(&mut self.fresh).set(name, value);
                news.push(name.to_owned());
            }
        }
    }

    /// All its settings are at their defaults.
    pub fn is_at_defaults(&mut self) {
        let reported = Arc::clone(&self.reported);
        self.note_defaults(reported.iter().map(|(name, _)| name));
    }

    /// Nothing but PostgreSQL itself can have changed what it reported `before`.
    pub fn note_changed_defaults(&mut self, before: &Parameters) {
        let reported = Arc::clone(&self.reported);
        self.note_defaults(reported.differing_from(before).map(|(name, _)| name));
    }

    /// Whether it has the statement. If not, one is noted as being on its way, and the caller has to send
    /// the Parse; with more than `limit` statements the least recently used make room, and with none allowed
    /// it stays for the transaction.
    pub fn has_statement(&mut self, statement: &Statement, limit: Limit) -> bool {
        let number = statement.number;
        let has = self.prepared.touch(number)
            || (self.prepared).add(
                number,
                statement.definition.len(),
                limit,
                statement.is_transient() || limit.statements == 0,
            );
        let tally = &self.key.tally;
        let count = if has {
            &tally.prepared_hits
        } else {
            &tally.prepared_misses
        };
        count.add(1);
        tally.prepared_held.set(self.prepared.len() as u64);
        has
    }

    /// Whether it lies in a transaction block.
    pub fn in_transaction(&self) -> bool {
        self.status != TransactionStatus::Idle
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
            self.backend.key.connected_at.elapsed()
        );
        let mut terminate = Vec::new();
        crate::wire::frontend::bare(&mut terminate, crate::wire::frontend::TERMINATE);
        self.stream.part(&terminate);
    }
}
