//! Sending a CancelRequest, and staying until PostgreSQL has dealt with it.

use std::io;
use std::time::Duration;

use super::backend::BackendKey;
use super::server_tls::{Encryption, NoTls};
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::net::exchange::{Exchange, ExchangeError};
use crate::net::stream::{SocketOptions, Stream};
use crate::wire::frontend;

/// How PostgreSQL is reached to cancel something.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// How the backend's own connection is encrypted: a CancelRequest for one with TLS goes over TLS, as
    /// that of libpq since 17. `None`: nobody knows any more.
    pub encryption: Option<&'a Encryption>,
    /// The host, as the configuration names it.
    pub host: &'a str,
    /// How the socket is set up.
    pub sockets: &'a SocketOptions,
}

/// Asks PostgreSQL to cancel what the backend is running and waits until the postmaster has closed the
/// connection: it has then sent its signal (`processCancelRequest`), so no later query of the backend's
/// next user can be meant by it.
///
/// # Errors
/// If PostgreSQL could not be reached or did not answer within `limit`.
pub fn send(key: &BackendKey, way: Way<'_>, limit: Duration) -> io::Result<()> {
    let deadline = MonotonicTime::now().after(limit);
    // A reset must not overtake the request.
    let sockets = SocketOptions {
        linger: None,
        ..*way.sockets
    };
    let stream = match &key.address {
        Address::Tcp(address) => Stream::connect_tcp(address, &sockets, deadline)?,
        Address::Unix(path) => Stream::connect_unix(path, &sockets, deadline)?,
    };
    let mut exchange = Exchange {
        stream,
        inbox: Vec::new(),
        deadline: Some(deadline),
        must_stop: &|| false,
    };
    if let (Some(_), Some(encryption)) = (&key.tls, way.encryption) {
        encryption
            .request(&mut exchange, way.host)
            .map_err(|error| match error {
                NoTls::Unwilling => io::Error::other("PostgreSQL no longer offers TLS"),
                NoTls::Failed(why) => io::Error::other(format!("TLS failed: {why}")),
                NoTls::Broken(broken) => failure(broken),
            })?;
    }
    let mut request = Vec::new();
    frontend::cancel_request(&mut request, key.process_id, &key.secret);
    exchange.send(&request).map_err(failure)?;
    loop {
        match exchange.read_more() {
            Ok(()) => exchange.inbox.clear(),
            Err(ExchangeError::Deadline) => return Err(io::ErrorKind::TimedOut.into()),
            // A reset is an end too: nothing is owed to us.
            Err(_) => return Ok(()),
        }
    }
}

fn failure(broken: ExchangeError) -> io::Error {
    match broken {
        ExchangeError::Io(error) => error,
        ExchangeError::Deadline => io::ErrorKind::TimedOut.into(),
        other => io::Error::other(other.to_string()),
    }
}
