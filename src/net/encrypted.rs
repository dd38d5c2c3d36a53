//! The TLS of a connection, beside its socket: the channel, and what is on its way through it. Sealed bytes
//! that have come and were not opened, plaintext that nobody has taken, sealed bytes that were not written:
//! all of it goes to another process with the session.
//!
//! Touches no socket; it is given the calls that read and write it. Invariants: between two calls the
//! buffers are held only if something is in them; sealed bytes leave in the order in which they were sealed,
//! and none is sealed while earlier ones wait.

use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;

use serde::{Deserialize, Serialize, Serializer};

use super::buffer::{Buffer, SIZE_FOR_RECORDS};
use super::stream::Received;
use crate::tls::alert::Fault;
use crate::tls::channel::{Channel, Opened, is_whole};

/// Bytes in a record that is sent, at most. PostgreSQL sends no longer ones, and libpq relies on that: its
/// asynchronous functions (PQconsumeInput) read 8 KiB at a time and do not ask OpenSSL for the rest of a record,
/// which then is neither read nor to be waited for. psycopg, pgbench and others hang.
const MAX_SENT: usize = 8192;

/// A piece of a record shorter than this is left for the next call, where it may be part of a longer one.
const LEAST_PIECE: usize = 4096;

/// The TLS of a connection.
#[derive(Deserialize)]
#[serde(try_from = "Written")]
pub struct Encrypted {
    channel: Channel,
    /// What has come: first plaintext, then sealed bytes.
    inbox: Option<Buffer>,
    /// Where in the inbox plaintext lies that nobody has taken.
    plain: Range<usize>,
    /// Where in the inbox sealed bytes lie that were not opened.
    sealed: Range<usize>,
    /// Sealed bytes that are to be written.
    owed: Vec<u8>,
}

/// The written form, as it goes to another process.
#[derive(Serialize, Deserialize)]
#[serde(bound(
    serialize = "C: Serialize, B: serde_bytes::Serialize",
    deserialize = "C: Deserialize<'de>, B: serde_bytes::Deserialize<'de> + Default"
))]
struct Written<C = Channel, B = Vec<u8>> {
    channel: C,
    #[serde(default, with = "serde_bytes")]
    plain: B,
    #[serde(default, with = "serde_bytes")]
    sealed: B,
    #[serde(default, with = "serde_bytes")]
    owed: B,
}

impl Serialize for Encrypted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Written {
            channel: &self.channel,
            plain: self.bytes(&self.plain),
            sealed: self.bytes(&self.sealed),
            owed: &self.owed[..],
        }
        .serialize(serializer)
    }
}

impl TryFrom<Written> for Encrypted {
    type Error = String;

    fn try_from(written: Written) -> Result<Encrypted, String> {
        let mut encrypted = Encrypted::new(written.channel, &[])?;
        encrypted.restore(&written.plain, &written.sealed)?;
        encrypted.owed = written.owed;
        Ok(encrypted)
    }
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.channel.fmt(f)
    }
}

fn lost(fault: Fault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

impl Encrypted {
    /// The TLS of a connection whose handshake is over, and what the peer has sent behind it.
    ///
    /// # Errors
    /// If that is more than a handshake can have read.
    pub fn new(channel: Channel, early: &[u8]) -> Result<Encrypted, String> {
        let mut encrypted = Encrypted {
            channel,
            inbox: None,
            plain: 0..0,
            sealed: 0..0,
            owed: Vec::new(),
        };
        encrypted.restore(&[], early)?;
        Ok(encrypted)
    }

    fn restore(&mut self, plain: &[u8], sealed: &[u8]) -> Result<(), String> {
        let middle = plain.len();
        let end = middle + sealed.len();
        if end == 0 {
            return Ok(());
        }
        if end > SIZE_FOR_RECORDS {
            return Err(format!("{end} unread bytes of a TLS connection"));
        }
        let mut inbox = Buffer::borrow_for_records();
        inbox[..middle].copy_from_slice(plain);
        inbox[middle..end].copy_from_slice(sealed);
        (self.plain, self.sealed) = (0..middle, middle..end);
        self.inbox = Some(inbox);
        Ok(())
    }

    /// Makes ready a connection that has come from another process.
    ///
    /// # Errors
    /// If OpenSSL does not have its cipher here: the connection cannot be carried.
    pub fn prepare(&mut self) -> Result<(), String> {
        let suite = self.channel.suite().to_owned();
        self.channel
            .prepare()
            .map_err(|error| format!("OpenSSL cannot do {suite} in this process: {error}"))
    }

    /// The channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        let inbox = self.inbox.as_deref().unwrap_or_default();
        inbox.get(range.clone()).unwrap_or_default()
    }

    /// Whether something can be received, an end or an error included, without another byte from the
    /// socket.
    pub fn holds_input(&self) -> bool {
        !self.plain.is_empty() || self.channel.has_ended() || is_whole(self.bytes(&self.sealed))
    }

    /// Whether part of something has come.
    pub fn holds_part(&self) -> bool {
        !self.plain.is_empty() || !self.sealed.is_empty()
    }

    /// Whether sealed bytes are to be written.
    pub fn owes(&self) -> bool {
        !self.owed.is_empty() || self.channel.has_replies()
    }

    /// Receives what there is, with `read` from the socket if need be.
    ///
    /// # Errors
    /// Those of `read`, and those of the TLS connection.
    pub fn receive(
        &mut self,
        into: &mut [u8],
        mut read: impl FnMut(&mut [u8]) -> io::Result<Received>,
    ) -> io::Result<Received> {
        loop {
            let n = self.hand_out(into)?;
            if n > 0 {
                return Ok(Received::Bytes(n));
            }
            if self.channel.has_ended() {
                self.inbox = None;
                (self.plain, self.sealed) = (0..0, 0..0);
                return Ok(Received::End);
            }
            let inbox = self.inbox.get_or_insert_with(Buffer::borrow_for_records);
            // Less than one record is there, so another fits behind it.
            inbox.copy_within(self.sealed.clone(), 0);
            self.sealed = 0..self.sealed.len();
            let received = read(&mut inbox[self.sealed.end..]);
            match received {
                Ok(Received::Bytes(n)) => self.sealed.end += n,
                other => {
                    if !self.holds_part() {
                        self.inbox = None;
                    }
                    return other;
                }
            }
        }
    }

    /// Hands out plaintext, opening records as long as there are whole ones and room.
    fn hand_out(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        let Some(inbox) = &mut self.inbox else {
            return match self.channel.open(&mut []) {
                Ok(_) => Ok(0),
                Err(fault) => Err(lost(fault)),
            };
        };
        while filled < into.len() {
            if !self.plain.is_empty() {
                let n = self.plain.len().min(into.len() - filled);
                let from = self.plain.start..self.plain.start + n;
                into[filled..filled + n].copy_from_slice(&inbox[from]);
                filled += n;
                self.plain.start += n;
                continue;
            }
            let start = self.sealed.start;
            match self.channel.open(&mut inbox[self.sealed.clone()]) {
                Ok(Opened::Data { plaintext, record }) => {
                    self.plain = start + plaintext.start..start + plaintext.end;
                    self.sealed.start += record;
                }
                Ok(Opened::Nothing { record }) => self.sealed.start += record,
                Ok(Opened::Incomplete | Opened::End) => break,
                // What came before it is good; it is met again.
                Err(_) if filled > 0 => break,
                Err(fault) => return Err(lost(fault)),
            }
        }
        if !self.holds_part() {
            self.inbox = None;
        }
        Ok(filled)
    }

    /// Writes what is owed; whether all of it was.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn flush(
        &mut self,
        write: &mut impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        loop {
            if self.owed.is_empty() {
                self.owed = self.channel.take_replies();
            }
            if self.owed.is_empty() {
                return Ok(true);
            }
            let n = write(&self.owed)?;
            if n < self.owed.len() {
                self.owed.drain(..n);
                return Ok(false);
            }
            self.owed = Vec::new();
        }
    }

    /// Seals as much of the pieces as fits into a buffer, and writes it; what does not go out at once is
    /// owed. Says how much was sealed: nothing as long as something is owed.
    ///
    /// # Errors
    /// Those of `write`, and those of the TLS connection.
    pub fn send(
        &mut self,
        pieces: &[IoSlice<'_>],
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.channel.rekey_if_due().map_err(lost)?;
        if !self.flush(&mut write)? {
            return Ok(0);
        }
        let mut left: usize = pieces.iter().map(|piece| piece.len()).sum();
        if left == 0 {
            return Ok(0);
        }
        let mut rest = pieces.iter().flat_map(|piece| Some(&piece[..]));
        let mut piece: &[u8] = &[];
        let mut outbox = Buffer::borrow_for_records();
        let (head, tail) = (self.channel.headroom(), self.channel.tailroom());
        let (mut used, mut taken) = (0, 0);
        while left > 0 {
            let room = outbox.len().saturating_sub(used + head + tail);
            let length = room.min(MAX_SENT).min(left);
            if used > 0 && length < left.min(LEAST_PIECE) {
                break;
            }
            let record = &mut outbox[used..];
            let mut filled = 0;
            while filled < length {
                if piece.is_empty() {
                    piece = rest.next().unwrap_or_default();
                    continue;
                }
                let n = piece.len().min(length - filled);
                record[head + filled..head + filled + n].copy_from_slice(&piece[..n]);
                piece = &piece[n..];
                filled += n;
            }
            used += self.channel.seal(record, length).map_err(lost)?;
            taken += length;
            left -= length;
        }
        let n = write(&outbox[..used])?;
        self.owed = outbox[n..used].to_vec();
        Ok(taken)
    }

    /// Says close_notify behind all that was sent. [`Encrypted::flush`] writes it.
    pub fn close(&mut self) {
        self.channel.close();
    }
}
