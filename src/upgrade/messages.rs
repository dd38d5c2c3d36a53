//! The messages between predecessor and successor: CBOR maps, one in a frame, with their descriptors.
//!
//! # How a message changes
//!
//! Older and newer binaries have to understand each other.
//!
//! - A new field has `#[serde(default)]`, and its default is what holds if the other process does not know of it. A
//!   reader passes an unknown key over. No field tells what a process can do: the default has to be enough.
//! - A new message is one that the other process may pass over. Its name is added to `NAMES`.
//! - A field keeps its name, type and meaning. What needs another one is a new field.
//! - [`VERSION`] is raised only if the difference cannot be bridged so. Processes of different versions do not hand
//!   over to each other: the upgrade fails before anything has moved, and the old process goes on.
//!
//! The tests of this room read recorded hand-overs with each key left out, and with an unknown one added.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use ciborium::Value;
use serde::{Deserialize, Serialize, Serializer};
use serde_bytes::ByteBuf;
use zeroize::Zeroizing;

use super::outcome::Outcome;
use crate::auth::{ClientKey, MockSecret, Password, Proof, Verifier};
use crate::client::new_connection::Opening;
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::net::encrypted::Encrypted;
use crate::net::fd_channel::FdChannel;
use crate::pool::totals::{Counters, Totals};
use crate::relay::session::{Session, is_default};
use crate::server::backend::Backend;
use crate::server::parameters::Parameters;
use crate::server::prepared::Statement;
use crate::session::console::Rights;
use crate::session::orders::Order;
use crate::session::registry::CancelKey;

/// The version of this protocol.
pub const VERSION: u32 = 3;

/// What has at least so many bytes goes apart from its session, in pieces.
pub const APART: usize = 64 * 1024;

/// A prepared statement whose definition has at least so many bytes goes apart from the sessions that hold it, and
/// once.
pub const STATEMENT_APART: usize = 1024;

/// Bytes in a piece, at most: others wait no longer than for one.
pub const PIECE: usize = 256 * 1024;

/// A message.
///
/// Messages of which one process keeps the parts while the other has not accepted them are generic: written with
/// references to what is kept ([`post_named`]), read as their own.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// The successor is ready to take over.
    Ready(Ready),
    /// The predecessor begins.
    Hello(Box<Hello>),
    /// A listening socket; one descriptor.
    Listener(Listener),
    /// A listening socket of the metrics; one descriptor.
    WebListener(Listener),
    /// A pool's state.
    Pool(Box<Pool>),
    /// A server connection nobody uses; one descriptor.
    Idle(Box<Idle>),
    /// The successor may accept connections now.
    Open,
    /// The successor has made ready for the sessions: there are threads for the first of them.
    Seated,
    /// Settings as many clients know them (ParameterStatus); the first are number 0, the next number 1.
    Settings(Parameters),
    /// A connection that no login has begun for; one descriptor.
    New(New),
    /// The connection with this number is the successor's now.
    AcceptedNew(u64),
    /// A piece of what is too large to go with its session.
    Piece(Piece),
    /// A session; one descriptor for its client, a second for its server connection.
    Session(Box<Moved>),
    /// A console session; one descriptor.
    Console(Box<MovedConsole>),
    /// The session with this number is the successor's now.
    Accepted(u64),
    /// A session cannot be taken.
    Refused(Refused),
    /// The server connection with this number is the successor's now.
    AcceptedIdle(u64),
    /// Some of the prepared statements.
    Statements(Vec<Arc<Statement>>),
    /// Some of the users that `auth_query` has found.
    Found(FoundUsers),
    /// What a pool has done since its state was sent.
    Work(Box<PoolWork>),
    /// A CancelRequest for a session that the sender does not have.
    Cancel(CancelKey),
    /// An order that the sender has got and both processes carry out.
    Order(Order),
    /// The predecessor has nothing more to give but sessions that are logging in, and this is what it has given.
    Done(Outcome),
    /// The successor has taken all.
    Finished,
    /// A message of a newer version that this one does not know.
    #[serde(skip)]
    Unknown,
}

/// The names of the messages. A message with another name is passed over, whatever it says.
const NAMES: [&str; 24] = [
    "Ready",
    "Hello",
    "Listener",
    "WebListener",
    "Pool",
    "Idle",
    "Open",
    "Seated",
    "Settings",
    "New",
    "AcceptedNew",
    "Piece",
    "Session",
    "Console",
    "Accepted",
    "Refused",
    "AcceptedIdle",
    "Statements",
    "Found",
    "Work",
    "Cancel",
    "Order",
    "Done",
    "Finished",
];

/// A session that was not taken.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refused {
    /// Its number.
    pub id: u64,
    /// Why, in words.
    #[serde(default)]
    pub why: String,
    /// Whether it is of no use to try again.
    #[serde(default)]
    pub for_good: bool,
}

/// The successor introduces itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    /// [`VERSION`].
    pub version: u32,
    /// The version of the program.
    #[serde(default)]
    pub program: String,
    /// How many files it may open.
    #[serde(default)]
    pub descriptors: Option<u64>,
    /// Its pid file, if it is a daemon.
    #[serde(default)]
    pub pid_file: Option<PathBuf>,
}

/// What concerns the process as a whole.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// From which number on the successor's sessions are counted.
    pub next_session: u64,
    /// From which number on its server connections are counted.
    pub next_server: u64,
    /// From which number on its prepared statements are counted.
    pub next_statement: u64,
    /// What keeps mock logins alike.
    pub mock: MockSecret,
    /// How many listening sockets follow.
    #[serde(default)]
    pub listeners: usize,
    /// Connections accepted so far: all, plain, cancel requests.
    #[serde(default)]
    pub accept_counters: [u64; 3],
    /// Those of them that asked for a session over TLS.
    #[serde(default)]
    pub arrivals_tls: u64,
    /// The log filter in force, if it was changed at run time.
    #[serde(default)]
    pub log_filter: Option<String>,
    /// How many sessions there are, about.
    #[serde(default)]
    pub sessions: usize,
    /// How many of them are not idle.
    #[serde(default)]
    pub awake: usize,
}

/// A listening socket.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listener {
    /// Where it listens.
    pub address: Address,
}

/// A pool's state.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pool {
    /// The database.
    pub database: String,
    /// The user.
    pub user: String,
    /// Whether PAUSE is in force.
    #[serde(default)]
    pub paused: bool,
    /// What it has done.
    #[serde(default)]
    pub totals: Totals,
    /// The key a client has proved to have.
    #[serde(default)]
    pub proved: Option<ClientKey>,
    /// The password a client has proved to know, if it has sent it in clear text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,
    /// Its server connections, which are still to come.
    #[serde(default)]
    pub connections: usize,
    /// Where its connections lead.
    #[serde(default)]
    pub leads_to: String,
    /// What was found of its user, if the configuration does not name the user or the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<FoundPool>,
}

impl Pool {
    /// What a client has proved to have.
    pub fn proof(&self) -> Option<Proof> {
        let password = self.password.clone().map(Proof::Password);
        password.or_else(|| self.proved.clone().map(Proof::Key))
    }
}

/// A pool that the configuration does not name.
#[derive(Debug, Serialize, Deserialize)]
pub struct FoundPool {
    /// What is stored of the user's password, if the pooler logs in to PostgreSQL with what clients prove.
    #[serde(default)]
    pub verifier: Option<Verifier>,
}

/// Users that `auth_query` has found.
#[derive(Debug, Serialize, Deserialize)]
pub struct FoundUsers {
    /// The pool's name in the configuration.
    pub pool: String,
    /// The users, what is stored of their passwords, and when that was asked for.
    #[serde(default)]
    pub users: Vec<(String, Verifier, MonotonicTime)>,
}

/// What a pool has done since its state was sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct PoolWork {
    /// The database.
    pub database: String,
    /// The user.
    pub user: String,
    /// The difference.
    #[serde(default)]
    pub work: Counters,
}

/// A server connection nobody uses.
#[derive(Debug, Serialize, Deserialize)]
pub struct Idle<B = Backend, T = Encrypted> {
    /// The database of its pool.
    pub database: String,
    /// The user of its pool.
    pub user: String,
    /// Its state.
    pub backend: B,
    /// Its TLS.
    pub tls: Option<T>,
}

/// What belongs to a session beside its value.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Standing {
    /// `application_name` at login.
    #[serde(default, with = "serde_bytes", skip_serializing_if = "Vec::is_empty")]
    pub application_name: Vec<u8>,
    /// Transactions finished.
    #[serde(default, skip_serializing_if = "is_default")]
    pub transactions: u64,
    /// Queries finished.
    #[serde(default, skip_serializing_if = "is_default")]
    pub queries: u64,
    /// Errors.
    #[serde(default, skip_serializing_if = "is_default")]
    pub errors: u64,
}

/// A connection that no login has begun for.
#[derive(Debug, Serialize, Deserialize)]
pub struct New<O = Opening> {
    /// Its number in this hand-over.
    pub number: u64,
    /// How far it is.
    pub opening: O,
}

/// What is too large to go with its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Part {
    /// Unread bytes of the client of the session with this number.
    ClientUnread(u64),
    /// Bytes still to be written to it.
    ClientOwed(u64),
    /// Unread bytes of its server.
    ServerUnread(u64),
    /// Bytes still to be written to its server.
    ServerOwed(u64),
    /// The definition of the prepared statement with the second number, for the session with the first.
    Statement(u64, u64),
}

/// A piece of that.
#[derive(Debug, Serialize, Deserialize)]
pub struct Piece<B = ByteBuf> {
    /// Of what.
    pub part: Part,
    /// How many bytes all pieces of it have together.
    pub size: u64,
    /// The next bytes.
    pub bytes: B,
}

/// A session.
#[derive(Debug, Serialize, Deserialize)]
pub struct Moved<S = Session, T = Encrypted> {
    /// The session.
    pub session: S,
    /// What of it has gone before it, in pieces. Prepared statements without a definition are not named here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<Part>,
    /// What belongs to it beside its value.
    #[serde(default)]
    pub standing: Standing,
    /// Which [`Message::Settings`] its client knows, if its value does not have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_to_client: Option<usize>,
    /// When its server connection must have answered a statement of the pooler's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_deadline: Option<MonotonicTime>,
    /// The TLS of its client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<T>,
    /// The TLS of its server connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_tls: Option<T>,
}

/// A console session.
#[derive(Debug, Serialize, Deserialize)]
pub struct MovedConsole<T = Encrypted> {
    /// Its number.
    pub id: u64,
    /// The secret of its cancel key.
    #[serde(with = "serde_bytes")]
    pub secret: Vec<u8>,
    /// The database, as the client named it.
    pub database: String,
    /// The user.
    pub user: String,
    /// Where the client is.
    pub address: Address,
    /// When it connected.
    #[serde(default)]
    pub connected_at: MonotonicTime,
    /// What belongs to it beside.
    #[serde(default)]
    pub standing: Standing,
    /// Bytes that it has sent and that are not read yet.
    #[serde(default, with = "serde_bytes")]
    pub unread: Vec<u8>,
    /// Bytes still to be written to it.
    #[serde(default, with = "serde_bytes")]
    pub owed: Vec<u8>,
    /// Whether it asked for the upgrade and waits for the outcome.
    #[serde(default)]
    pub awaits_outcome: bool,
    /// Which commands it may give.
    #[serde(default)]
    pub rights: Rights,
    /// Its TLS.
    pub tls: Option<T>,
}

/// Queues a message.
///
/// # Errors
/// If it cannot be written as CBOR, or is too long.
pub fn queue(
    channel: &mut FdChannel,
    message: &impl Serialize,
    descriptors: Vec<OwnedFd>,
) -> io::Result<()> {
    channel.queue(descriptors, |body| {
        ciborium::into_writer(message, body).map_err(|error| match error {
            ciborium::ser::Error::Io(error) => error,
            error => io::Error::other(error.to_string()),
        })
    })
}

/// A message that is written with references to what it says.
struct Named<'a, T>(&'static str, &'a T);

impl<T: Serialize> Serialize for Named<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_variant("Message", 0, self.0, self.1)
    }
}

/// Queues the message of this name. It is read as the [`Message`] of this name.
///
/// # Errors
/// As [`queue`].
pub fn post_named(
    channel: &mut FdChannel,
    name: &'static str,
    what: &impl Serialize,
    descriptors: Vec<OwnedFd>,
) -> io::Result<()> {
    debug_assert!(NAMES.contains(&name));
    queue(channel, &Named(name, what), descriptors)
}

/// The next message that has arrived, with its descriptors.
///
/// # Errors
/// If what arrived is no message.
pub fn take(channel: &mut FdChannel) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    channel.next(|body| {
        read(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
    })
}

pub(super) fn read(body: &[u8]) -> Result<Message, ciborium::de::Error<io::Error>> {
    let mut scratch = Zeroizing::new([0; 512]);
    let read = ciborium::de::from_reader_with_buffer(body, &mut scratch[..]);
    if read.is_err() && is_unknown(body) {
        return Ok(Message::Unknown);
    }
    read
}

/// Whether this is a message that has another name than those we know.
fn is_unknown(body: &[u8]) -> bool {
    let Ok(value) = ciborium::from_reader::<Value, _>(body) else {
        return false;
    };
    // A name alone, or a map of a name to what belongs to it.
    let name = match value.as_map().map(Vec::as_slice) {
        Some([(name, _)]) => name.as_text(),
        Some(_) => None,
        None => value.as_text(),
    };
    name.is_some_and(|name| !NAMES.contains(&name))
}
