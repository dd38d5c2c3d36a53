//! A conversation in turns, as logging in is: send, then read until there is enough, within a deadline.
//!
//! Used only before a session is relayed. What was read beyond the last answer stays in the inbox and is
//! handed on with the stream.

use std::io;

use super::clock::Moment;
use super::stream::{Received, Stream};
use super::wait::{self, Interest, Woken};

/// Why a conversation ended early.
#[derive(Debug)]
pub enum Broken {
    /// The peer closed the connection.
    Ended,
    /// The deadline passed.
    Deadline,
    /// This thread was told to stop.
    Told,
    /// The socket failed.
    Io(io::Error),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Ended => write!(f, "the connection was closed"),
            Broken::Deadline => write!(f, "timed out"),
            Broken::Told => write!(f, "interrupted"),
            Broken::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Broken {}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken::Io(error)
    }
}

/// One side of a conversation.
pub struct Dialogue<'a> {
    /// The connection.
    pub stream: Stream,
    /// Bytes read and not yet taken.
    pub inbox: Vec<u8>,
    /// When the conversation must be over.
    pub deadline: Option<Moment>,
    /// Whether this thread was told to stop; asked when it is woken.
    pub told_to_stop: &'a dyn Fn() -> bool,
}

impl Dialogue<'_> {
    /// Waits for more bytes and appends them to the inbox.
    ///
    /// # Errors
    /// Why no more will come.
    pub fn read_more(&mut self) -> Result<(), Broken> {
        let mut chunk = [0; 1024];
        loop {
            match self.stream.receive(&mut chunk)? {
                Received::Bytes(n) => {
                    self.inbox.extend_from_slice(&chunk[..n]);
                    return Ok(());
                }
                Received::End => return Err(Broken::Ended),
                Received::Nothing => self.wait(Interest::READ)?,
            }
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
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let n = self.stream.send(bytes)?;
            bytes = bytes.get(n..).unwrap_or_default();
            if n == 0 {
                self.wait_to_write()?;
            }
        }
        Ok(())
    }

    /// Waits for room. Being told to stop can wait: a message in the middle of which one stops is worth
    /// nothing to the peer.
    fn wait_to_write(&self) -> Result<(), Broken> {
        let interest = Interest {
            read: false,
            write: true,
        };
        match wait::wait(Some((self.stream.fd(), interest)), None, self.deadline)? {
            Woken::Ready { client, .. } if client.writable => Ok(()),
            // It has hung up and does not read: there will never be room.
            Woken::Ready { .. } => Err(Broken::Ended),
            Woken::Deadline => Err(Broken::Deadline),
            Woken::Told => Ok(()),
        }
    }

    fn wait(&self, interest: Interest) -> Result<(), Broken> {
        match wait::wait(Some((self.stream.fd(), interest)), None, self.deadline)? {
            Woken::Ready { .. } => Ok(()),
            Woken::Deadline => Err(Broken::Deadline),
            Woken::Told if (self.told_to_stop)() => Err(Broken::Told),
            Woken::Told => Ok(()),
        }
    }
}
