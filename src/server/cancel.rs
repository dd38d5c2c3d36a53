//! Sending a CancelRequest, and staying until PostgreSQL has dealt with it.

use std::io;
use std::time::Duration;

use super::backend::BackendKey;
use crate::net::address::Address;
use crate::net::clock::Moment;
use crate::net::stream::{Received, SocketOptions, Stream};
use crate::net::wait::{Interest, wait_briefly};
use crate::wire::frontend;

/// Asks PostgreSQL to cancel what the backend is running and waits until the postmaster has closed the
/// connection: it has then sent its signal (`processCancelRequest`), so no later query of the backend's
/// next user can be meant by it.
///
/// # Errors
/// If PostgreSQL could not be reached or did not answer within `limit`.
pub fn send(key: &BackendKey, sockets: &SocketOptions, limit: Duration) -> io::Result<()> {
    let deadline = Moment::now().after(limit);
    let mut stream = match &key.address {
        Address::Tcp(address) => Stream::connect_tcp(address, sockets, deadline)?,
        Address::Unix(path) => Stream::connect_unix(path, sockets, deadline)?,
    };
    let mut request = Vec::new();
    frontend::cancel_request(&mut request, key.process_id, &key.secret);
    if stream.send(&request)? != request.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    loop {
        match stream.receive(&mut [0; 64]) {
            Ok(Received::Nothing) => {}
            Ok(Received::Bytes(_)) => continue,
            // A reset is an end too: nothing is owed to us.
            Ok(Received::End) | Err(_) => return Ok(()),
        }
        if !wait_briefly(stream.fd(), Interest::READ, deadline.remaining())? {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}
