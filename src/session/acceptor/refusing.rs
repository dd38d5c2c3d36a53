//! The end of connections that get no thread: the last word, and the time until the client has read it.
//!
//! Invariant: nothing is written that would have to wait, and nothing in the clear where TLS was agreed on.

use super::{Acceptor, State};
use crate::net::address::Address;
use crate::net::clock::Moment;
use crate::net::dialogue::Broken;
use crate::net::stream::Stream;
use crate::pool::plans::client_sockets;
use crate::session::new_connection::{NewConnection, Opening};
use crate::session::refusal::Refusal;

impl Acceptor {
    pub(super) fn refuse(&mut self, id: u64, refusal: &Refusal) {
        if let Some(held) = self.release(id) {
            self.turn_away(held.connection, refusal);
        }
    }

    /// Says the last word on a connection.
    pub(super) fn turn_away(&mut self, connection: NewConnection, refusal: &Refusal) {
        let NewConnection { socket, opening } = connection;
        let address = opening.address.clone();
        self.reception.rejections.note(None, &address, refusal);
        let last = if opening.is_tls() {
            Vec::new()
        } else {
            refusal.message()
        };
        if last.is_empty() {
            return;
        }
        let general = self.reception.house.settings();
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
        let now = Moment::now();
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
                Refusal::Handshake("it took longer than client_login_timeout".to_owned())
            } else {
                Broken::Deadline.into()
            };
            self.refuse(id, &refusal);
        }
    }
}
