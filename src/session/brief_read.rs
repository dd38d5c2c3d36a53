//! Reading with a short wait, from a peer that answers at once.
//!
//! Most of a busy session's waits are for one peer that answers within a millisecond: the server that was
//! asked something, the client that was answered. To read from its socket and let the kernel wait there is
//! one call where waiting for both sockets and then reading is two. Events of the other side, and
//! signals for this thread, are noticed when the wait is over: after [`BRIEF_WAIT`] at the latest, or with the
//! answer. A peer that took longer is waited for in the other way until it is quick again.
//!
//! No other thread can end this wait: the wake-up signal stays blocked here, and pending for the next wait.

use super::driver::Driver;
use super::io::Input;
use crate::net::clock::MonotonicTime;
use crate::net::stream::BRIEF_WAIT;
use crate::net::wait::Interest;
use crate::relay::session::Phase;

/// Which side of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Client,
    Server,
}

/// Whether each peer answered soon when it was waited for last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    client: bool,
    server: bool,
    /// When a peer sent something last, or the session got its server connection.
    since: MonotonicTime,
}

impl Pace {
    /// A client may send its first request late. A server answers most requests soon.
    pub(crate) fn new(now: MonotonicTime) -> Pace {
        Pace {
            client: false,
            server: true,
            since: now,
        }
    }

    fn of(&mut self, peer: Peer) -> &mut bool {
        match peer {
            Peer::Client => &mut self.client,
            Peer::Server => &mut self.server,
        }
    }

    /// Notes that a peer has sent something.
    pub(crate) fn note_read(&mut self, peer: Peer, now: MonotonicTime) {
        *self.of(peer) = now.since(self.since) < BRIEF_WAIT;
        self.since = now;
    }

    /// Notes that the session has got a server connection: the wait for it says nothing about the peers.
    pub(crate) fn start(&mut self, now: MonotonicTime) {
        self.since = now;
    }
}

impl Driver {
    /// The peer that alone is expected to send something, and soon, given what each socket is waited for.
    pub(crate) fn next_to_speak(&mut self, client: Interest, server: Interest) -> Option<Peer> {
        let peer = match (self.session.phase(), &self.session.link) {
            (Phase::Idle, _) => Peer::Client,
            (Phase::Serving, Some(link)) if link.expected.is_empty() => Peer::Client,
            (Phase::Serving, Some(_)) if self.session.awaits_one_answer() => Peer::Server,
            _ => return None,
        };
        let reads = match peer {
            Peer::Client => client.read,
            Peer::Server => server.read,
        };
        let alone = !client.write && !server.write && self.server_deadline.is_none();
        (reads && alone && *self.pace.of(peer)).then_some(peer)
    }

    /// Waits briefly for bytes from the peer, and acts on them.
    pub(crate) fn read_briefly(&mut self, peer: Peer) {
        let read = match (peer, &mut self.session.link, &mut self.server) {
            (Peer::Server, Some(link), Some(stream)) => {
                Input::await_briefly(&mut link.side, stream)
            }
            _ => Input::await_briefly(&mut self.session.client, &mut self.client),
        };
        self.session.now = MonotonicTime::now();
        if matches!(read, Ok(None)) {
            *self.pace.of(peer) = false;
            return;
        }
        self.pace.note_read(peer, self.session.now);
        let heard = match peer {
            Peer::Client => self.hear_client(read),
            Peer::Server => self.hear_server(read),
        };
        if let Err(close_reason) = heard {
            self.stop_serving(close_reason);
        }
    }
}
