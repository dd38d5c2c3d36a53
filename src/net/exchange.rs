//! A conversation in turns, as logging in is: send, then read until there is enough, within a deadline.
//!
//! Used only before a session is relayed. What was read beyond the last answer stays in the inbox and is
//! handed on with the stream.

use std::io::{self, Read, Write};

use thiserror::Error;

use super::clock::MonotonicTime;
use super::encrypted::Encrypted;
use super::stream::{self, Received, Stream};
use super::wait::{Interest, Woken};
use crate::tls::handshake::{self, Established, Failure, Host, Peer};
use crate::tls::identity::{Acceptor, Connector};

/// Why a conversation ended early.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// The peer closed the connection.
    #[error("the connection was closed")]
    Ended,
    /// The deadline passed.
    #[error("timed out")]
    Deadline,
    /// This thread has to stop.
    #[error("interrupted")]
    Interrupted,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Why a connection does not go over to TLS.
#[derive(Debug)]
pub enum NotEncrypted {
    /// The conversation broke off.
    Broken(ExchangeError),
    /// The handshake failed, in these words. The peer has got an alert.
    Refused(String),
}

/// One side of a conversation.
pub struct Exchange<'a> {
    /// The connection.
    pub stream: Stream,
    /// Bytes read and not yet taken.
    pub inbox: Vec<u8>,
    /// When the conversation must be over.
    pub deadline: Option<MonotonicTime>,
    /// Whether this thread has to stop; asked when it is woken.
    pub must_stop: &'a dyn Fn() -> bool,
}

impl Exchange<'_> {
    /// Waits for more bytes and appends them to the inbox.
    ///
    /// # Errors
    /// Why no more will come.
    pub fn read_more(&mut self) -> Result<(), ExchangeError> {
        let mut chunk = [0; 1024];
        loop {
            self.check_deadline()?;
            match self.stream.receive(&mut chunk)? {
                Received::Bytes(n) => {
                    self.inbox.extend_from_slice(&chunk[..n]);
                    return Ok(());
                }
                Received::End => return Err(ExchangeError::Ended),
                Received::Nothing => self.wait(Interest::READ)?,
            }
        }
    }

    /// A peer that always has another byte is not waited for; its time ends all the same.
    fn check_deadline(&self) -> Result<(), ExchangeError> {
        match self.deadline {
            Some(deadline) if deadline <= MonotonicTime::now() => Err(ExchangeError::Deadline),
            _ => Ok(()),
        }
    }

    /// Takes the first `n` bytes out of the inbox.
    pub fn take(&mut self, n: usize) -> Vec<u8> {
        self.inbox.drain(..n.min(self.inbox.len())).collect()
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// Why they could not be written.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<(), ExchangeError> {
        while !bytes.is_empty() || self.stream.owes() {
            let n = self.stream.send(bytes)?;
            bytes = bytes.get(n..).unwrap_or_default();
            if n == 0 && (!bytes.is_empty() || self.stream.owes()) {
                self.wait_to_write()?;
            }
        }
        Ok(())
    }

    /// Waits for a moment to come. The peer may hang up meanwhile.
    ///
    /// # Errors
    /// Why there is no point in waiting on.
    pub fn pause_until(&mut self, moment: MonotonicTime) -> Result<(), ExchangeError> {
        let until = self
            .deadline
            .map_or(moment, |deadline| deadline.min(moment));
        while MonotonicTime::now() < until {
            let nothing = Interest::default();
            match stream::wait(Some((&self.stream, nothing)), None, Some(until))? {
                Woken::Ready { .. } => return Err(ExchangeError::Ended),
                Woken::Interrupted if (self.must_stop)() => return Err(ExchangeError::Interrupted),
                Woken::Interrupted | Woken::Deadline => {}
            }
        }
        Ok(())
    }

    /// Goes over to TLS as the server. What was read and not taken is the beginning of the handshake.
    ///
    /// # Errors
    /// Why there is no TLS; the connection is of no more use.
    pub fn accept_tls(&mut self, acceptor: &Acceptor) -> Result<Peer, NotEncrypted> {
        let ahead = std::mem::take(&mut self.inbox);
        self.encrypt(|transport| handshake::accept(acceptor, transport, ahead))
    }

    /// Goes over to TLS as the client.
    ///
    /// # Errors
    /// Why there is no TLS; the connection is of no more use.
    pub fn connect_tls(
        &mut self,
        connector: &Connector,
        host: Host<'_>,
    ) -> Result<Peer, NotEncrypted> {
        self.encrypt(|transport| handshake::connect(connector, host, transport))
    }

    fn encrypt(
        &mut self,
        handshake: impl FnOnce(&mut Transport<'_, '_>) -> Result<Established, Failure>,
    ) -> Result<Peer, NotEncrypted> {
        let mut transport = Transport {
            exchange: self,
            broken: None,
        };
        let outcome = handshake(&mut transport);
        let broken = transport.broken;
        let established = outcome.map_err(|failure| match (failure, broken) {
            (_, Some(broken)) => NotEncrypted::Broken(broken),
            (Failure::Transport(error), None) => NotEncrypted::Broken(ExchangeError::Io(error)),
            (Failure::Refused(why), None) => NotEncrypted::Refused(why),
        })?;
        let tls = Encrypted::new(established.channel, &established.early)
            .map_err(NotEncrypted::Refused)?;
        self.stream.encrypt(tls);
        Ok(established.peer)
    }

    /// Waits for room. Being told to stop can wait: a message in the middle of which one stops is worth
    /// nothing to the peer.
    fn wait_to_write(&self) -> Result<(), ExchangeError> {
        let interest = Interest {
            read: false,
            write: true,
            ..Interest::default()
        };
        match stream::wait(Some((&self.stream, interest)), None, self.deadline)? {
            Woken::Ready { client, .. } if client.writable => Ok(()),
            // It has hung up and does not read: there will never be room.
            Woken::Ready { .. } => Err(ExchangeError::Ended),
            Woken::Deadline => Err(ExchangeError::Deadline),
            Woken::Interrupted => Ok(()),
        }
    }

    fn wait(&self, interest: Interest) -> Result<(), ExchangeError> {
        match stream::wait(Some((&self.stream, interest)), None, self.deadline)? {
            Woken::Ready { .. } => Ok(()),
            Woken::Deadline => Err(ExchangeError::Deadline),
            Woken::Interrupted if (self.must_stop)() => Err(ExchangeError::Interrupted),
            Woken::Interrupted => Ok(()),
        }
    }
}

/// A conversation as a handshake's transport: it waits like any other turn.
struct Transport<'d, 'a> {
    exchange: &'d mut Exchange<'a>,
    broken: Option<ExchangeError>,
}

impl Transport<'_, '_> {
    fn note(&mut self, broken: ExchangeError) -> io::Error {
        let error = io::Error::other(broken.to_string());
        self.broken = Some(broken);
        error
    }
}

impl Read for Transport<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Err(broken) = self.exchange.check_deadline() {
                return Err(self.note(broken));
            }
            match self.exchange.stream.receive_raw(into) {
                Ok(Received::Bytes(n)) => return Ok(n),
                Ok(Received::End) => return Ok(0),
                Ok(Received::Nothing) => {}
                Err(error) => return Err(self.note(error.into())),
            }
            if let Err(broken) = self.exchange.wait(Interest::READ) {
                return Err(self.note(broken));
            }
        }
    }
}

impl Write for Transport<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.exchange.stream.send_raw(bytes) {
                Ok(0) if !bytes.is_empty() => {}
                Ok(n) => return Ok(n),
                Err(error) => return Err(self.note(error.into())),
            }
            if let Err(broken) = self.exchange.wait_to_write() {
                return Err(self.note(broken));
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
