//! A connection before its first packet: its socket, what it has sent so far, and what was answered.
//!
//! A request for encryption needs no thread: it is answered by one letter. [`Opening`] is plain data, so
//! that a connection moves to another process as it stands. Invariant: nothing that came before a TLS
//! handshake was agreed on is taken for a part of it.

use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::login::CONSOLE_DATABASES;
use super::login_error::{LoginError, say};
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::session::registry::CancelKey;
use crate::tls::channel::HANDSHAKE;
use crate::wire::sqlstate;
use crate::wire::startup::{self, FirstPacket};

/// The length of a TLS record's header, and the longest record that holds a ClientHello.
const RECORD_HEADER: usize = 5;
const MAX_RECORD: usize = 1 << 14;

/// A connection that has no thread yet.
#[derive(Debug)]
pub struct NewConnection {
    /// Its socket.
    pub socket: Socket,
    /// Everything else about it.
    pub opening: Opening,
}

/// What has been said on a connection before its first packet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opening {
    /// Where the client is.
    pub address: Address,
    /// When it connected.
    pub connected_at: MonotonicTime,
    /// When its login must be over.
    #[serde(default)]
    pub deadline: Option<MonotonicTime>,
    /// Bytes that it has sent and that are not taken yet.
    #[serde(default, with = "serde_bytes")]
    pub unread: Vec<u8>,
    /// Its SSLRequest was answered.
    #[serde(default)]
    pub asked_ssl: bool,
    /// The answer was that TLS begins.
    #[serde(default)]
    pub tls_agreed: bool,
    /// Its GSSENCRequest was answered.
    #[serde(default)]
    pub asked_gss: bool,
}

/// What to do for a connection.
#[derive(Debug)]
pub(super) enum Next {
    /// Wait for more bytes.
    More,
    /// Send this and look again.
    Say(&'static [u8]),
    /// A thread takes over: a packet is whole, or a TLS handshake has begun.
    Begin(Kind),
    /// It comes to nothing.
    Refuse(LoginError),
}

/// What a connection is there for, as far as its first bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A TLS handshake: it may be anything.
    Tls,
    /// A CancelRequest.
    Cancel(CancelKey),
    /// A session at the console.
    Console,
    /// A session, or something that a thread refuses.
    Session,
}

impl Opening {
    /// A connection that has just been accepted.
    pub(super) fn new(
        address: Address,
        connected_at: MonotonicTime,
        deadline: Option<MonotonicTime>,
    ) -> Opening {
        Opening {
            address,
            connected_at,
            deadline,
            unread: Vec::new(),
            asked_ssl: false,
            tls_agreed: false,
            asked_gss: false,
        }
    }

    /// What to do now, after something was read. `offers_tls`: whether TLS is offered to this client.
    pub(super) fn next(&mut self, offers_tls: bool) -> Next {
        let Some(&first) = self.unread.first() else {
            return Next::More;
        };
        // No first packet begins like this: its length would be beyond all bounds.
        if self.tls_agreed || first == HANDSHAKE {
            return self.handshake();
        }
        let length = match startup::length(&self.unread) {
            Ok(Some(length)) if self.unread.len() >= length => length,
            Ok(_) => return Next::More,
            // Whoever this is, it does not speak our protocol.
            Err(error) => return Next::Refuse(LoginError::Silent(error.to_string())),
        };
        match startup::parse(&self.unread[..length]) {
            Ok(FirstPacket::Ssl) if !self.asked_ssl => {
                self.asked_ssl = true;
                self.unread.drain(..length);
                if !offers_tls {
                    return Next::Say(b"N");
                }
                if !self.unread.is_empty() {
                    // CVE-2021-23214: an attacker put it there to have it taken for something that came over TLS.
                    return Next::Refuse(say(
                        sqlstate::PROTOCOL_VIOLATION,
                        "received unencrypted data after SSL request",
                    ));
                }
                self.tls_agreed = true;
                Next::Say(b"S")
            }
            Ok(FirstPacket::GssEnc) if !self.asked_gss => {
                self.asked_gss = true;
                self.unread.drain(..length);
                Next::Say(b"N")
            }
            Ok(FirstPacket::Cancel { process_id, secret }) => {
                Next::Begin(Kind::Cancel(CancelKey { process_id, secret }))
            }
            Ok(FirstPacket::Startup(startup))
                if CONSOLE_DATABASES.contains(&startup.database.as_str()) =>
            {
                Next::Begin(Kind::Console)
            }
            _ => Next::Begin(Kind::Session),
        }
    }

    /// Whether the handshake's first record is there; the thread waits for no half ones.
    fn handshake(&self) -> Next {
        let whole = match (self.unread.first(), self.unread.get(3..RECORD_HEADER)) {
            (Some(&HANDSHAKE), Some(&[high, low])) => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                length > MAX_RECORD || self.unread.len() >= RECORD_HEADER + length
            }
            (Some(&HANDSHAKE), _) => false,
            _ => true,
        };
        if whole {
            Next::Begin(Kind::Tls)
        } else {
            Next::More
        }
    }

    /// Whether a TLS handshake has been agreed on or begun.
    pub(super) fn is_tls(&self) -> bool {
        self.tls_agreed || self.unread.first() == Some(&HANDSHAKE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(bytes: &[u8]) -> Opening {
        let address = Address::Tcp("127.0.0.1:5".parse().unwrap());
        let mut opening = Opening::new(address, MonotonicTime::default(), None);
        opening.unread.extend_from_slice(bytes);
        opening
    }

    const SSL: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
    const GSS: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";

    #[test]
    fn a_packet_is_awaited_byte_by_byte() {
        let packet = b"\0\0\0\x1d\0\x03\0\0user\0joe\0database\0x\0";
        let mut packet = packet.to_vec();
        packet.push(0);
        packet[3] = u8::try_from(packet.len()).unwrap();
        let mut opening = opening(b"");
        for byte in &packet {
            assert!(matches!(opening.next(true), Next::More));
            opening.unread.push(*byte);
        }
        assert!(matches!(opening.next(true), Next::Begin(Kind::Session)));
        assert_eq!(opening.unread, packet);
    }

    #[test]
    fn requests_for_encryption_are_answered_once_each() {
        let mut both = opening(GSS);
        assert!(matches!(both.next(true), Next::Say(b"N")));
        both.unread.extend_from_slice(SSL);
        assert!(matches!(both.next(true), Next::Say(b"S")));
        assert!(matches!(both.next(true), Next::More));
        both.unread.extend_from_slice(b"\x16\x03\x01\0\x02\x01");
        assert!(matches!(both.next(true), Next::More));
        both.unread.push(0);
        assert!(matches!(both.next(true), Next::Begin(Kind::Tls)));
        let mut again = opening(SSL);
        assert!(matches!(again.next(false), Next::Say(b"N")));
        again.unread.extend_from_slice(SSL);
        assert!(matches!(again.next(false), Next::Begin(Kind::Session)));
    }

    #[test]
    fn nothing_that_came_in_the_clear_is_taken_for_tls() {
        let mut stuffed = opening(&[SSL, b"\x16"].concat());
        assert!(matches!(
            stuffed.next(true),
            Next::Refuse(LoginError::Message { .. })
        ));
    }

    #[test]
    fn a_cancel_request_and_the_console_are_recognised() {
        let mut cancel = opening(b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07abcd");
        let Next::Begin(Kind::Cancel(key)) = cancel.next(true) else {
            panic!("not recognised");
        };
        assert_eq!((key.process_id, &key.secret[..]), (7, &b"abcd"[..]));
        let packet = b"\0\0\0\x26\0\x03\0\0user\0admin\0database\0pgbouncer\0\0";
        let mut packet = packet.to_vec();
        packet[3] = u8::try_from(packet.len()).unwrap();
        assert!(matches!(
            opening(&packet).next(true),
            Next::Begin(Kind::Console)
        ));
    }

    #[test]
    fn what_is_no_packet_is_refused_before_it_is_stored() {
        let mut http = opening(b"GET / HTTP/1.1\r\n");
        assert!(matches!(
            http.next(true),
            Next::Refuse(LoginError::Silent(_))
        ));
    }
}
