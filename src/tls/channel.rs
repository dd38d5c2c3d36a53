//! An established TLS connection without its socket: sealed bytes in, plaintext out, and the other way
//! round, by the rules of RFC 8446 (TLS 1.3) and RFC 5246 (TLS 1.2).
//!
//! Everything it knows is plain data that can be written down between any two records and go on in another
//! process. It answers a KeyUpdate and sends its own before a key is worn out, passes over session tickets,
//! refuses to renegotiate, and ends with a close_notify or, on any bad record, with a fatal alert. What it
//! has to say by itself it leaves, sealed, among the [replies](Channel::take_replies). Invariant: records
//! leave in the order in which they were sealed, so replies are written before anything sealed later.

use std::ops::Range;

use openssl::error::ErrorStack;
use serde::{Deserialize, Serialize};

use super::alert::{Alert, Fault};
use super::direction::{Direction, HEADER, Way};
use super::schedule::Keys;
use super::suite::{Aead, Negotiated, Version};

/// Content type of an alert.
pub const ALERT: u8 = 21;
/// Content type of a handshake message.
pub const HANDSHAKE: u8 = 22;
/// Content type of application data.
pub const APPLICATION_DATA: u8 = 23;

/// Bytes of plaintext in a record, at most.
pub const MAX_PLAINTEXT: usize = 1 << 14;
/// Bytes of a record behind its header, at most.
pub const MAX_FRAGMENT: usize = MAX_PLAINTEXT + 256;
/// Bytes of a whole record, at most.
pub const MAX_RECORD: usize = HEADER + MAX_FRAGMENT;

/// Records that one TLS 1.3 key protects before a KeyUpdate: half of what RFC 8446 section 5.5 allows
/// AES-GCM, rounded down to a power of two.
const REKEY_AFTER: u64 = 1 << 23;

/// Records of application data in a row that carry none (OpenSSL's limit).
const MAX_EMPTY: u32 = 32;

/// Messages of the handshake layer in a row while no data passes either way. A peer that only reads, and
/// wants a new key every few KiB of what it reads, sends many.
const MAX_BARREN: u32 = 1024;

/// The longest message of the handshake layer that is taken: of those that may come, a session ticket.
const MAX_HANDSHAKE: usize = 32 * 1024;

const WARNING: u8 = 1;
const FATAL: u8 = 2;

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Which side of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// We have connected.
    Client,
    /// We have accepted.
    Server,
}

/// What may still be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Reading {
    /// More records.
    Open,
    /// Nothing: the peer has said close_notify.
    Ended,
    /// Nothing: the connection has failed.
    Failed(Fault),
}

/// What the first record of some bytes turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It is not all there.
    Incomplete,
    /// Application data.
    Data {
        /// Where in the bytes the plaintext lies.
        plaintext: Range<usize>,
        /// Bytes of the record.
        record: usize,
    },
    /// Something that concerned only the connection itself.
    Nothing {
        /// Bytes of the record.
        record: usize,
    },
    /// The peer's close_notify, now or before. Whatever follows it is not looked at.
    End,
}

/// An established TLS connection without its socket.
#[derive(Debug, Serialize, Deserialize)]
pub struct Channel {
    version: Version,
    /// OpenSSL's name of the suite.
    suite: String,
    role: Role,
    pub(super) read: Direction,
    pub(super) write: Direction,
    reading: Reading,
    /// A close_notify or a fatal alert was sealed: nothing may follow it.
    closed: bool,
    /// The beginning of a message of the handshake layer.
    #[serde(default, with = "serde_bytes")]
    handshake: Vec<u8>,
    /// Records of application data in a row that carried none.
    #[serde(default)]
    empty: u32,
    /// Whether the peer was told that there is no renegotiation. It is told once: a peer that never reads could
    /// have an answer to each of thousands of messages in a record wait for it.
    #[serde(default)]
    renegotiation_refused: bool,
    /// Messages of the handshake layer since data last passed.
    #[serde(default)]
    barren: u32,
    /// Sealed records that are to be written.
    #[serde(default, with = "serde_bytes")]
    replies: Vec<u8>,
}

/// Whether a record can be opened, or is known not to be one, without more bytes.
pub fn is_whole(bytes: &[u8]) -> bool {
    match bytes.first_chunk::<HEADER>() {
        Some(header) => {
            let length = fragment_length(header);
            length > MAX_FRAGMENT || bytes.len() >= HEADER + length
        }
        None => false,
    }
}

fn fragment_length(header: &[u8; HEADER]) -> usize {
    usize::from(u16::from_be_bytes([header[3], header[4]]))
}

impl Channel {
    /// A connection whose handshake is over. `sequence` is the number of the next record in both
    /// directions.
    ///
    /// # Errors
    /// If OpenSSL does not have the cipher.
    pub fn new(
        version: Version,
        suite: String,
        aead: Aead,
        role: Role,
        (client, server): (Keys, Keys),
        sequence: u64,
    ) -> Result<Channel, ErrorStack> {
        let (theirs, ours) = match role {
            Role::Client => (server, client),
            Role::Server => (client, server),
        };
        let mut channel = Channel {
            version,
            suite,
            role,
            read: Direction::new(version, aead, Way::In, theirs, sequence),
            write: Direction::new(version, aead, Way::Out, ours, sequence),
            reading: Reading::Open,
            closed: false,
            handshake: Vec::new(),
            empty: 0,
            renegotiation_refused: false,
            barren: 0,
            replies: Vec::new(),
        };
        channel.prepare()?;
        Ok(channel)
    }

    /// Makes ready a connection that has come from another process.
    ///
    /// # Errors
    /// If OpenSSL does not have the cipher here: the connection cannot be carried.
    pub fn prepare(&mut self) -> Result<(), ErrorStack> {
        self.read.prepare()?;
        self.write.prepare()
    }

    /// What the handshake has agreed on.
    pub fn negotiated(&self) -> Negotiated {
        Negotiated {
            version: self.version,
            suite: self.suite.clone(),
        }
    }

    /// OpenSSL's name of the cipher suite.
    pub fn suite(&self) -> &str {
        &self.suite
    }

    /// Whether reading has come to its end, well or not.
    pub fn has_ended(&self) -> bool {
        self.reading != Reading::Open
    }

    /// Takes the sealed records that the connection itself wants written.
    pub fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// Whether there are such records.
    pub fn has_replies(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Opens the first record of `bytes`, in place.
    ///
    /// # Errors
    /// Why the connection is over. The alert that tells the peer is among the replies.
    pub fn open(&mut self, bytes: &mut [u8]) -> Result<Opened, Fault> {
        match self.reading {
            Reading::Open => {}
            Reading::Ended => return Ok(Opened::End),
            Reading::Failed(fault) => return Err(fault),
        }
        self.open_record(bytes).map_err(|fault| self.fail(fault))
    }

    fn fail(&mut self, fault: Fault) -> Fault {
        self.reading = Reading::Failed(fault);
        if let Fault::Ours(alert) = fault {
            self.alert(FATAL, alert);
        }
        self.closed = true;
        fault
    }

    fn open_record(&mut self, bytes: &mut [u8]) -> Result<Opened, Fault> {
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            return Ok(Opened::Incomplete);
        };
        let length = fragment_length(header);
        if length > MAX_FRAGMENT {
            return Err(Fault::Ours(Alert::RECORD_OVERFLOW));
        }
        let (outer, major) = (header[0], header[1]);
        let is_known = match self.version {
            Version::Tls13 => outer == APPLICATION_DATA,
            Version::Tls12 => matches!(outer, ALERT | HANDSHAKE | APPLICATION_DATA),
        };
        if !is_known || major != 3 {
            return Err(Fault::Ours(Alert::UNEXPECTED_MESSAGE));
        }
        let whole = HEADER + length;
        let Some(record) = bytes.get_mut(..whole) else {
            return Ok(Opened::Incomplete);
        };
        let mut plaintext = self.read.open(record).map_err(Fault::Ours)?;
        let mut kind = outer;
        if self.version == Version::Tls13 {
            // The type is the last byte that is not padding.
            let inner = &record[plaintext.clone()];
            if inner.len() > MAX_PLAINTEXT + 1 {
                return Err(Fault::Ours(Alert::RECORD_OVERFLOW));
            }
            let end = inner.iter().rposition(|&byte| byte != 0);
            let end = end.ok_or(Fault::Ours(Alert::UNEXPECTED_MESSAGE))?;
            kind = inner[end];
            plaintext.end = plaintext.start + end;
        }
        if plaintext.len() > MAX_PLAINTEXT {
            return Err(Fault::Ours(Alert::RECORD_OVERFLOW));
        }
        if self.version == Version::Tls13 && self.read.sequence() == REKEY_AFTER {
            self.update_own_key(true)?;
        }
        if kind != HANDSHAKE && !self.handshake.is_empty() {
            return Err(Fault::Ours(Alert::UNEXPECTED_MESSAGE));
        }
        match kind {
            APPLICATION_DATA => {
                if plaintext.is_empty() {
                    self.empty += 1;
                    if self.empty > MAX_EMPTY {
                        return Err(Fault::Ours(Alert::UNEXPECTED_MESSAGE));
                    }
                    return Ok(Opened::Nothing { record: whole });
                }
                (self.empty, self.barren) = (0, 0);
                Ok(Opened::Data {
                    plaintext,
                    record: whole,
                })
            }
            ALERT => self.take_alert(&bytes[plaintext], whole),
            HANDSHAKE => {
                self.take_handshake(&bytes[plaintext])?;
                Ok(Opened::Nothing { record: whole })
            }
            _ => Err(Fault::Ours(Alert::UNEXPECTED_MESSAGE)),
        }
    }

    fn take_alert(&mut self, alert: &[u8], record: usize) -> Result<Opened, Fault> {
        let &[level, number] = alert else {
            return Err(Fault::Ours(Alert::DECODE_ERROR));
        };
        let alert = Alert(number);
        if alert == Alert::CLOSE_NOTIFY {
            self.reading = Reading::Ended;
            // TLS 1.2 wants the answer at once; in TLS 1.3 a session whose client listens but will never
            // speak again has no use either.
            self.close();
            return Ok(Opened::End);
        }
        let is_warning = match self.version {
            // The level means nothing any more.
            Version::Tls13 => alert == Alert::USER_CANCELED,
            Version::Tls12 => level == WARNING,
        };
        if !is_warning {
            return Err(Fault::Theirs(alert));
        }
        self.note_barren()?;
        Ok(Opened::Nothing { record })
    }

    fn note_barren(&mut self) -> Result<(), Fault> {
        self.barren += 1;
        if self.barren > MAX_BARREN {
            return Err(Fault::Ours(Alert::UNEXPECTED_MESSAGE));
        }
        Ok(())
    }

    /// Takes the handshake messages of a record, the last of which may go on in the next.
    fn take_handshake(&mut self, fragment: &[u8]) -> Result<(), Fault> {
        if fragment.is_empty() {
            return Err(Fault::Ours(Alert::UNEXPECTED_MESSAGE));
        }
        self.note_barren()?;
        let mut begun = std::mem::take(&mut self.handshake);
        begun.extend_from_slice(fragment);
        let mut rest = &begun[..];
        while let Some(&[kind, a, b, c]) = rest.first_chunk::<4>() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > MAX_HANDSHAKE {
                return Err(Fault::Ours(Alert::DECODE_ERROR));
            }
            let Some(body) = rest.get(4..4 + length) else {
                break;
            };
            rest = &rest[4 + length..];
            if !rest.is_empty() {
                // One was counted with its record.
                self.note_barren()?;
            }
            match (self.version, self.role, kind) {
                // After a KeyUpdate the key is another: nothing can follow it in its record.
                (Version::Tls13, _, KEY_UPDATE) if !rest.is_empty() => {
                    return Err(Fault::Ours(Alert::UNEXPECTED_MESSAGE));
                }
                (Version::Tls13, _, KEY_UPDATE) => self.take_key_update(body)?,
                (Version::Tls13, Role::Client, NEW_SESSION_TICKET) => {}
                (Version::Tls12, Role::Client, HELLO_REQUEST)
                | (Version::Tls12, Role::Server, CLIENT_HELLO) => {
                    if !std::mem::replace(&mut self.renegotiation_refused, true) {
                        self.alert(WARNING, Alert::NO_RENEGOTIATION);
                    }
                }
                _ => return Err(Fault::Ours(Alert::UNEXPECTED_MESSAGE)),
            }
        }
        self.handshake = rest.to_vec();
        Ok(())
    }

    fn take_key_update(&mut self, body: &[u8]) -> Result<(), Fault> {
        let requested = match body {
            [0] => false,
            [1] => true,
            [_] => return Err(Fault::Ours(Alert::ILLEGAL_PARAMETER)),
            _ => return Err(Fault::Ours(Alert::DECODE_ERROR)),
        };
        let failed = |_| Fault::Ours(Alert::INTERNAL_ERROR);
        self.read.update().map_err(failed)?;
        // An answer that has not been written yet is one to all requests before it (section 4.6.3).
        if requested && !self.closed && !self.has_replies() {
            self.update_own_key(false)?;
        }
        Ok(())
    }

    /// Says KeyUpdate under the old key and goes on to the new one.
    pub(super) fn update_own_key(&mut self, request: bool) -> Result<(), Fault> {
        self.reply(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, u8::from(request)])
            .and_then(|()| self.write.update().map_err(|_| Alert::INTERNAL_ERROR))
            .map_err(Fault::Ours)
    }

    /// Goes on to a new key of our own if this one has sealed as many records as it may.
    ///
    /// # Errors
    /// Why the connection is over.
    pub fn rekey_if_due(&mut self) -> Result<(), Fault> {
        if self.version == Version::Tls13 && self.write.sequence() >= REKEY_AFTER && !self.closed {
            return self.update_own_key(false).map_err(|fault| self.fail(fault));
        }
        Ok(())
    }

    /// Bytes that a sealed record has before its data.
    pub fn headroom(&self) -> usize {
        self.write.headroom()
    }

    /// Bytes that a sealed record has behind its data.
    pub fn tailroom(&self) -> usize {
        self.write.tailroom()
    }

    /// Seals application data, at most [`MAX_PLAINTEXT`] bytes that lie [`headroom`](Channel::headroom)
    /// behind the start of `record`, in place. Returns the length of the record.
    ///
    /// # Errors
    /// If the connection is over.
    pub fn seal(&mut self, record: &mut [u8], data: usize) -> Result<usize, Fault> {
        if let Reading::Failed(fault) = self.reading {
            return Err(fault);
        }
        if self.closed || data > MAX_PLAINTEXT {
            return Err(Fault::Ours(Alert::CLOSE_NOTIFY));
        }
        self.barren = 0;
        let sealed = self.write.seal(APPLICATION_DATA, record, data);
        sealed.map_err(|alert| self.fail(Fault::Ours(alert)))
    }

    /// Says close_notify, unless the connection is over already.
    pub fn close(&mut self) {
        self.alert(WARNING, Alert::CLOSE_NOTIFY);
        self.closed = true;
    }

    fn alert(&mut self, level: u8, alert: Alert) {
        if !self.closed {
            // Where not even an alert can be sealed, closing the socket has to say it.
            let _ = self.reply(ALERT, &[level, alert.0]);
        }
    }

    fn reply(&mut self, kind: u8, payload: &[u8]) -> Result<(), Alert> {
        let (start, end) = (self.headroom(), self.tailroom());
        let mut record = vec![0; start + payload.len() + end];
        record[start..start + payload.len()].copy_from_slice(payload);
        let length = self.write.seal(kind, &mut record, payload.len())?;
        self.replies.extend_from_slice(&record[..length]);
        Ok(())
    }
}
