//! A client that has logged in, with all that belongs to it: what a thread serves, parks, or takes over
//! from another process.

use std::sync::Arc;

use super::house::Place;
use super::registry::Handle;
use super::session::Session;
use crate::net::clock::Moment;
use crate::net::stream::Stream;
use crate::pool::pool::Pool;

/// A session between two waits: its value and its sockets.
pub struct Resting {
    /// The pool it uses.
    pub pool: Arc<Pool>,
    /// The session.
    pub session: Box<Session>,
    /// Its client.
    pub client: Stream,
    /// Its server connection's socket, while it has one.
    pub server: Option<Stream>,
    /// When a server connection that is being tried, set up or cleaned must have answered.
    pub server_deadline: Option<Moment>,
}

/// What a client has logged in to.
pub enum What {
    /// A pool.
    Pool(Resting),
    /// The console; with what it has said and nobody has read.
    Console(Stream, Vec<u8>),
}

/// A client that has logged in.
pub struct Guest {
    /// Its handle, entered in the registry.
    pub handle: Arc<Handle>,
    /// Its place among `max_connections`.
    pub place: Place,
    /// What it has logged in to.
    pub what: What,
}
