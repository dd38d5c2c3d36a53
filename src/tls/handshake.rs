//! The handshake, by OpenSSL, in both roles; then the connection is a [`Channel`] and OpenSSL is done.
//!
//! The transport blocks in its own way and may give up in its own way. Invariant: OpenSSL has read exactly
//! the handshake; whatever the peer sent right behind it is handed on, and no plain SSL object ever sees
//! application data.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::IpAddr;

use openssl::error::ErrorStack;
use openssl::ssl::{Error, Ssl, SslRef, SslStream, SslVersion};
use openssl::x509::{X509, X509VerifyResult};
use thiserror::Error;
use zeroize::Zeroizing;

use super::channel::{Channel, Role};
use super::channel_binding::channel_binding;
use super::direction::HEADER;
use super::identity::{Acceptor, Connector};
use super::schedule;
use super::secret::{MAX_LENGTH, Secret};
use super::suite::{Aead, Version};

/// Bytes read from the transport at a time.
const CHUNK: usize = 4096;

/// What the handshake has told of the connection and of the peer.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The certificate it has shown. One of a client was verified.
    pub certificate: Option<X509>,
    /// The hash of the server's certificate, ours or the peer's, for the channel binding
    /// `tls-server-end-point` (RFC 5929). `None` where the certificate does not say which hash.
    pub channel_binding: Option<Vec<u8>>,
    /// Whether ALPN agreed on `postgresql`.
    pub alpn: bool,
}

/// A connection whose handshake is over.
#[derive(Debug)]
pub struct Established {
    /// The connection.
    pub channel: Channel,
    /// What the peer has sent since, sealed.
    pub early: Vec<u8>,
    /// What is known of the peer.
    pub peer: Peer,
}

/// Why a handshake has come to nothing. The peer has been told by an alert, where there is one for it.
#[derive(Debug, Error)]
pub enum Failure {
    /// The transport broke off or gave up.
    #[error("{0}")]
    Transport(io::Error),
    /// The two sides did not agree, or one of them broke the rules.
    #[error("{0}")]
    Refused(String),
}

impl From<ErrorStack> for Failure {
    fn from(stack: ErrorStack) -> Failure {
        Failure::Refused(reasons(&stack))
    }
}

/// The server that is to be met.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// Its name or address.
    pub name: &'a str,
    /// Whether its certificate must be for that name.
    pub verified: bool,
}

/// Accepts a handshake. `ahead` is what the client has sent already.
///
/// # Errors
/// [`Failure`].
pub fn accept<T: Read + Write>(
    acceptor: &Acceptor,
    transport: &mut T,
    ahead: Vec<u8>,
) -> Result<Established, Failure> {
    let ssl = Ssl::new(&acceptor.context)?;
    let mut stream = SslStream::new(ssl, Framed::new(transport, ahead))?;
    let outcome = logged(|| stream.accept());
    let (channel, early) = take_over(&mut stream, outcome, Role::Server)?;
    let ssl = stream.ssl();
    Ok(Established {
        channel,
        early,
        peer: Peer {
            certificate: ssl.peer_certificate(),
            channel_binding: ssl.certificate().and_then(channel_binding),
            alpn: ssl.selected_alpn_protocol().is_some(),
        },
    })
}

/// Begins a handshake.
///
/// # Errors
/// [`Failure`].
pub fn connect<T: Read + Write>(
    connector: &Connector,
    host: Host<'_>,
    transport: &mut T,
) -> Result<Established, Failure> {
    let mut ssl = Ssl::new(&connector.context)?;
    let address = host.name.parse::<IpAddr>();
    if address.is_err() {
        // Literal addresses are not permitted in it (RFC 6066 section 3).
        ssl.set_hostname(host.name)?;
    }
    if host.verified {
        match address {
            Ok(address) => ssl.param_mut().set_ip(address)?,
            Err(_) => ssl.param_mut().set_host(host.name)?,
        }
    }
    let mut stream = SslStream::new(ssl, Framed::new(transport, Vec::new()))?;
    let outcome = logged(|| stream.connect());
    let (channel, early) = take_over(&mut stream, outcome, Role::Client)?;
    let ssl = stream.ssl();
    let certificate = ssl.peer_certificate();
    Ok(Established {
        channel,
        early,
        peer: Peer {
            channel_binding: certificate.as_deref().and_then(channel_binding),
            alpn: ssl.selected_alpn_protocol().is_some(),
            certificate,
        },
    })
}

/// The traffic secrets OpenSSL has told during the handshake of the calling thread.
#[derive(Default)]
struct KeyLog {
    client: Option<Secret>,
    server: Option<Secret>,
}

thread_local! {
    static KEY_LOG: RefCell<KeyLog> = RefCell::default();
}

/// Takes a line of OpenSSL's key log; it comes on the thread whose handshake it belongs to.
pub(super) fn note_key_log(line: &str) {
    let mut words = line.split(' ');
    let (label, _random, secret) = (words.next(), words.next(), words.next());
    KEY_LOG.with_borrow_mut(|log| {
        let place = match label {
            Some("CLIENT_TRAFFIC_SECRET_0") => &mut log.client,
            Some("SERVER_TRAFFIC_SECRET_0") => &mut log.server,
            _ => return,
        };
        *place = secret.and_then(from_hex);
    });
}

fn from_hex(text: &str) -> Option<Secret> {
    let mut bytes = Zeroizing::new([0; MAX_LENGTH]);
    let length = text.len() / 2;
    for (byte, pair) in bytes
        .get_mut(..length)?
        .iter_mut()
        .zip(text.as_bytes().chunks(2))
    {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Secret::new(bytes.get(..length)?)
}

/// Lets the handshake run and takes what it has logged.
fn logged(handshake: impl FnOnce() -> Result<(), Error>) -> (Result<(), Error>, KeyLog) {
    KEY_LOG.take();
    let outcome = handshake();
    (outcome, KEY_LOG.take())
}

fn reasons(stack: &ErrorStack) -> String {
    let mut reasons: Vec<&str> = stack.errors().iter().filter_map(|e| e.reason()).collect();
    reasons.dedup();
    if reasons.is_empty() {
        return "OpenSSL gives no reason".to_owned();
    }
    reasons.join(": ")
}

/// The connection out of OpenSSL's hands, with what the peer has sent behind its handshake.
fn take_over<T: Read + Write>(
    stream: &mut SslStream<Framed<'_, T>>,
    (outcome, log): (Result<(), Error>, KeyLog),
    role: Role,
) -> Result<(Channel, Vec<u8>), Failure> {
    if let Err(error) = outcome {
        let verified = stream.ssl().verify_result();
        return Err(match error.into_io_error() {
            Ok(error) => Failure::Transport(error),
            Err(error) => Failure::Refused(match error.ssl_error() {
                Some(stack) if verified != X509VerifyResult::OK => {
                    format!("{}: {}", reasons(stack), verified.error_string())
                }
                Some(stack) => reasons(stack),
                None => "the connection was closed during the handshake".to_owned(),
            }),
        });
    }
    let ssl = stream.ssl();
    let channel = channel(ssl, log, role)?;
    let pending = ssl.pending();
    let framed = stream.get_mut();
    if pending > 0 || !framed.is_between_records() {
        return Err(Failure::Refused(
            "OpenSSL has read more than the handshake; this is an error in the pooler".to_owned(),
        ));
    }
    Ok((channel, framed.take_rest()))
}

fn channel(ssl: &SslRef, log: KeyLog, role: Role) -> Result<Channel, Failure> {
    let refused = |what: &str| Failure::Refused(what.to_owned());
    let version = match ssl.version2() {
        Some(SslVersion::TLS1_3) => Version::Tls13,
        Some(SslVersion::TLS1_2) => Version::Tls12,
        _ => {
            return Err(refused(
                "a version of TLS that cannot be carried was agreed on",
            ));
        }
    };
    let suite = ssl.current_cipher().map_or("", |cipher| cipher.name());
    let aead = Aead::of_suite(version, suite)
        .ok_or_else(|| refused("a cipher suite that cannot be carried was agreed on"))?;
    let (keys, sequence) = match version {
        Version::Tls13 => {
            let keys = |secret: Option<Secret>| {
                let secret = secret.ok_or_else(|| refused("OpenSSL has not told its secrets"))?;
                schedule::traffic_keys(aead, &secret).map_err(Failure::from)
            };
            ((keys(log.client)?, keys(log.server)?), 0)
        }
        Version::Tls12 => {
            let mut bytes = Zeroizing::new([0; MAX_LENGTH]);
            let length = ssl
                .session()
                .map_or(0, |session| session.master_key(&mut bytes[..]));
            let master = bytes
                .get(..length)
                .filter(|master| master.len() == MAX_LENGTH);
            let master = master
                .and_then(Secret::new)
                .ok_or_else(|| refused("OpenSSL has not told its master secret"))?;
            let (mut client, mut server) = ([0; 32], [0; 32]);
            ssl.client_random(&mut client);
            ssl.server_random(&mut server);
            // Each side's Finished was record 0.
            (schedule::key_block(aead, &master, &client, &server)?, 1)
        }
    };
    Channel::new(version, suite.to_owned(), aead, role, keys, sequence).map_err(Failure::from)
}

/// The transport as OpenSSL sees it: what is read ahead of it is kept here, and where its records end is
/// watched.
struct Framed<'a, T> {
    transport: &'a mut T,
    ahead: Vec<u8>,
    /// How much of it OpenSSL has had.
    taken: usize,
    header: [u8; HEADER],
    /// Bytes of the header that have passed.
    heading: usize,
    /// Bytes of the record's body that have not.
    left: usize,
}

impl<'a, T> Framed<'a, T> {
    fn new(transport: &'a mut T, ahead: Vec<u8>) -> Framed<'a, T> {
        Framed {
            transport,
            ahead,
            taken: 0,
            header: [0; HEADER],
            heading: 0,
            left: 0,
        }
    }

    fn is_between_records(&self) -> bool {
        self.heading == 0 && self.left == 0
    }

    fn take_rest(&mut self) -> Vec<u8> {
        self.ahead.drain(..self.taken);
        std::mem::take(&mut self.ahead)
    }

    fn watch(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let n = self.left.min(bytes.len());
                self.left -= n;
                bytes = &bytes[n..];
            } else {
                self.header[self.heading] = bytes[0];
                self.heading += 1;
                bytes = &bytes[1..];
                if self.heading == HEADER {
                    self.heading = 0;
                    let [.., high, low] = self.header;
                    self.left = usize::from(u16::from_be_bytes([high, low]));
                }
            }
        }
    }
}

impl<T: Read> Read for Framed<'_, T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.ahead.len() {
            self.ahead.resize(CHUNK, 0);
            self.taken = 0;
            let received = self.transport.read(&mut self.ahead);
            self.ahead.truncate(*received.as_ref().unwrap_or(&0));
            received?;
        }
        let n = out.len().min(self.ahead.len() - self.taken);
        out[..n].copy_from_slice(&self.ahead[self.taken..self.taken + n]);
        self.taken += n;
        self.watch(&out[..n]);
        Ok(n)
    }
}

impl<T: Write> Write for Framed<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.transport.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.transport.flush()
    }
}
