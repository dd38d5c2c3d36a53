//! The end of connections that get no thread: the last message, and the time until the client has read it.
//!
//! Invariant: nothing is written that would have to wait, and nothing in the clear where TLS was agreed on.

use super::{Acceptor, State};
use crate::client::login_error::LoginError;
use crate::client::new_connection::{NewConnection, Opening};
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::net::exchange::ExchangeError;
use crate::net::stream::Stream;
use crate::pool::pool_configs::client_sockets;

impl Acceptor {
    pub(super) fn refuse(&mut self, id: u64, refusal: &LoginError) {
        if let Some(held) = self.release(id) {
            self.turn_away(held.connection, refusal);
        }
    }

    /// Says the last word on a connection.
    pub(super) fn turn_away(&mut self, connection: NewConnection, refusal: &LoginError) {
        let NewConnection { socket, opening } = connection;
        let address = opening.address.clone();
        self.client_threads.rejections.note(None, &address, refusal);
        let last = if opening.is_tls() {
            Vec::new()
        } else {
            refusal.message()
        };
        if last.is_empty() {
            return;
        }
        let general = self.client_threads.shared.settings();
        let sockets = client_sockets(&general.general);
        let unix = matches!(address, Address::Unix(_));
        let stream = Stream::new(socket, unix, &sockets);
        if let Some(socket) = stream.say_last(&last) {
            self.linger(NewConnection {
                socket: socket.into(),
                opening: Opening::new(address, opening.connected_at, None),
            });
        }
    }

    pub(super) fn linger(&mut self, connection: NewConnection) {
        self.hold(connection, State::Lingering);
    }

    /// Closes those whose time is over.
    pub(super) fn expire(&mut self) {
        let now = MonotonicTime::now();
        while let Some(&(at, id)) = self.deadlines.first() {
            if at > now {
                return;
            }
            self.deadlines.pop_first();
            let Some(held) = self.held.get_mut(&id) else {
                continue;
            };
            held.until = None;
            if held.state == State::Lingering {
                self.release(id);
                continue;
            }
            let refusal = if held.connection.opening.is_tls() {
                LoginError::Handshake("it took longer than client_login_timeout".to_owned())
            } else {
                ExchangeError::Deadline.into()
            };
            self.refuse(id, &refusal);
        }
    }
}
