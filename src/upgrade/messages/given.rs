//! Messages as the predecessor writes them: borrowed, since it keeps what it gives until the successor has
//! acknowledged it.
//!
//! Only written, never read. Invariant: each is written as its owned counterpart in
//! [`messages`](super) is read.

use serde::Serialize;

use super::{Part, Standing};
use crate::net::address::Address;
use crate::net::clock::Moment;
use crate::net::encrypted::Encrypted;
use crate::server::backend::Backend;
use crate::session::console::Rights;
use crate::session::new_connection::Opening;
use crate::session::session::Session;

/// The messages of [`Message`](super::Message) that have a borrowed form.
#[derive(Debug, Serialize)]
pub enum Given<'a> {
    /// [`Message::New`](super::Message::New).
    New(GivenNew<'a>),
    /// [`Message::Piece`](super::Message::Piece).
    Piece(GivenPiece<'a>),
    /// [`Message::Idle`](super::Message::Idle).
    Idle(GivenIdle<'a>),
    /// [`Message::Session`](super::Message::Session).
    Session(GivenSession<'a>),
    /// [`Message::Console`](super::Message::Console).
    Console(GivenConsole<'a>),
}

/// [`New`](super::New), borrowed.
#[derive(Debug, Serialize)]
pub struct GivenNew<'a> {
    /// Its number in this hand-over.
    pub number: u64,
    /// How far it is.
    pub opening: &'a Opening,
}

/// [`Piece`](super::Piece), borrowed.
#[derive(Debug, Serialize)]
pub struct GivenPiece<'a> {
    /// Of what.
    pub part: Part,
    /// How many bytes all pieces of it have together.
    pub size: u64,
    /// The next bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: &'a [u8],
}

/// [`Idle`](super::Idle), borrowed.
#[derive(Debug, Serialize)]
pub struct GivenIdle<'a> {
    /// The database of its pool.
    pub database: &'a str,
    /// The user of its pool.
    pub user: &'a str,
    /// Its state.
    pub backend: &'a Backend,
    /// Its TLS.
    pub tls: Option<&'a Encrypted>,
}

/// [`Moved`](super::Moved), borrowed.
#[derive(Debug, Serialize)]
pub struct GivenSession<'a> {
    /// The session.
    pub session: &'a Session,
    /// What of it has gone before it.
    #[serde(skip_serializing_if = "<[Part]>::is_empty")]
    pub apart: &'a [Part],
    /// What belongs to it beside its value.
    pub standing: Standing,
    /// Which [`Message::Settings`](super::Message::Settings) it has been told, if that is not said in its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told: Option<usize>,
    /// When its server connection must have answered a question of the pooler's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_deadline: Option<Moment>,
    /// The TLS of its client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<&'a Encrypted>,
    /// The TLS of its server connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_tls: Option<&'a Encrypted>,
}

/// [`MovedConsole`](super::MovedConsole), borrowed.
#[derive(Debug, Serialize)]
pub struct GivenConsole<'a> {
    /// Its number.
    pub id: u64,
    /// The secret of its cancel key.
    pub secret: &'a [u8],
    /// The database, as the client named it.
    pub database: &'a str,
    /// The user.
    pub user: &'a str,
    /// Where the client is.
    pub address: &'a Address,
    /// When it connected.
    pub connected_at: Moment,
    /// What belongs to it beside.
    pub standing: Standing,
    /// What it has said and nobody has read.
    pub unread: &'a [u8],
    /// What it is owed.
    pub owed: &'a [u8],
    /// Whether it asked for the upgrade and is to be told how that went.
    pub awaits_outcome: bool,
    /// Which commands it may give.
    pub rights: Rights,
    /// Its TLS.
    pub tls: Option<&'a Encrypted>,
}
