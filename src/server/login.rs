//! Connecting to PostgreSQL and logging in.
//!
//! Linear and blocking, within one deadline: it runs in a thread of its own and nobody's session waits
//! inside it. Ends with a connection that has said ReadyForQuery, or with the reason why there is none.

use std::fmt;
use std::io;
use std::net::ToSocketAddrs;
use std::sync::Arc;

use thiserror::Error;

use super::backend::{Backend, BackendKey, Connection};
use super::dirty::DirtyState;
use super::messages::{self, NoMessage, Taken};
use super::parameters::Parameters;
use super::prepared::Prepared;
use super::server_tls::NoTls;
use super::target::Target;
use crate::auth::{Binding, ClientExchange, Mechanism};
use crate::config::ServerTlsMode;
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::net::exchange::{Exchange, ExchangeError};
use crate::net::stream::Stream;
use crate::wire::backend::{self, Authentication, TransactionStatus};
use crate::wire::error::ErrorFields;
use crate::wire::frontend;
use crate::wire::sqlstate;

/// The longest message that makes sense before the first ReadyForQuery, in bytes.
const MAX_LENGTH: usize = 64 * 1024;

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The host name stands for no address.
    #[error("could not resolve the host: {0}")]
    Resolve(String),
    /// The pooler itself is out of descriptors.
    #[error(
        "the pooler is out of file descriptors ({0}); raise its limit (ulimit -n, LimitNOFILE=)"
    )]
    OutOfDescriptors(io::Error),
    /// The socket could not be connected.
    #[error("could not connect: {0}")]
    Connect(io::Error),
    /// PostgreSQL refused, in these words.
    #[error("{0}")]
    Refused(ErrorFields),
    /// PostgreSQL asks for something the pooler does not have or cannot do.
    #[error("{0}")]
    Credentials(String),
    /// PostgreSQL does not offer TLS, and the pool insists on it.
    #[error(
        "it does not offer TLS, and server_tls_mode insists on it; set ssl = on there, or change the mode"
    )]
    NoTls,
    /// TLS failed, for this reason.
    #[error("TLS with PostgreSQL failed: {0}")]
    Tls(String),
    /// The conversation broke off.
    #[error("{0}")]
    Broken(String),
    /// It took longer than `connect_timeout`.
    #[error("timed out (connect_timeout)")]
    TimedOut,
    /// The database may have no more connections, in these words.
    #[error("{0}")]
    NoPermit(String),
    /// The pooler could not start the thread that connects.
    #[error("the pooler could not start a thread: {0}")]
    NoThread(io::Error),
}

impl ConnectError {
    /// Whether waiting can heal it: the server may come back or have a place again, without anybody changing
    /// the configuration of either side.
    pub fn can_heal(&self) -> bool {
        match self {
            ConnectError::Resolve(_)
            | ConnectError::OutOfDescriptors(_)
            | ConnectError::Connect(_)
            | ConnectError::Broken(_)
            | ConnectError::TimedOut
            | ConnectError::NoThread(_) => true,
            // Insufficient resources; operator intervention, as in 57P03 while the server starts or stops.
            ConnectError::Refused(fields) => ["53", "57"]
                .iter()
                .any(|class| fields.code.starts_with(class)),
            ConnectError::Credentials(_)
            | ConnectError::NoTls
            | ConnectError::Tls(_)
            | ConnectError::NoPermit(_) => false,
        }
    }

    /// The SQLSTATE for a client that gets no server connection for this reason: the one that a client of
    /// PostgreSQL itself would see.
    pub fn sqlstate(&self) -> &str {
        match self {
            ConnectError::OutOfDescriptors(_) | ConnectError::NoThread(_) => {
                sqlstate::INSUFFICIENT_RESOURCES
            }
            ConnectError::NoPermit(_) => sqlstate::TOO_MANY_CONNECTIONS,
            ConnectError::Credentials(_) => sqlstate::INVALID_AUTHORIZATION,
            ConnectError::Refused(fields) if fields.code.starts_with("57") => {
                sqlstate::CANNOT_CONNECT_NOW
            }
            ConnectError::Refused(fields) if fields.code.len() == 5 => &fields.code,
            _ => sqlstate::CONNECTION_FAILURE,
        }
    }
}

impl From<NoMessage> for ConnectError {
    fn from(error: NoMessage) -> ConnectError {
        match error {
            NoMessage::Broken(broken) => broken.into(),
            NoMessage::Malformed(what) => ConnectError::Broken(format!(
                "the server does not speak PostgreSQL's protocol: {what}"
            )),
        }
    }
}

impl From<ExchangeError> for ConnectError {
    fn from(broken: ExchangeError) -> ConnectError {
        match broken {
            ExchangeError::Deadline => ConnectError::TimedOut,
            ExchangeError::Ended => {
                ConnectError::Broken("the server closed the connection during login".into())
            }
            other => ConnectError::Broken(format!("the connection was lost during login: {other}")),
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> ConnectError {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => ConnectError::OutOfDescriptors(error),
            _ if error.kind() == io::ErrorKind::TimedOut => ConnectError::TimedOut,
            _ => ConnectError::Connect(error),
        }
    }
}

/// Connects and logs in. The connection is number `id`.
///
/// # Errors
/// [`ConnectError`].
pub fn connect(target: &Target, id: u64) -> Result<Connection, ConnectError> {
    let deadline = MonotonicTime::now().after(target.timeout);
    let mode = match target.socket_file() {
        Some(_) => ServerTlsMode::Disable,
        None => target.encryption.mode(),
    };
    match mode {
        ServerTlsMode::Disable => attempt(target, id, deadline, Tls::Not),
        ServerTlsMode::Allow => match attempt(target, id, deadline, Tls::Not) {
            Err(ConnectError::Refused(fields)) if is_about_entry(&fields) => {
                match attempt(target, id, deadline, Tls::Always) {
                    // It was not for want of TLS that it refused.
                    Err(ConnectError::NoTls) => Err(ConnectError::Refused(fields)),
                    other => other,
                }
            }
            other => other,
        },
        ServerTlsMode::Prefer => attempt(target, id, deadline, Tls::IfOffered),
        ServerTlsMode::Require | ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull => {
            attempt(target, id, deadline, Tls::Always)
        }
    }
}

/// Whether one attempt uses TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    Not,
    IfOffered,
    Always,
}

/// Whether PostgreSQL's refusal may have to do with who comes how: class 28, invalid authorization.
fn is_about_entry(fields: &ErrorFields) -> bool {
    fields.code.starts_with("28")
}

fn attempt(
    target: &Target,
    id: u64,
    deadline: MonotonicTime,
    tls: Tls,
) -> Result<Connection, ConnectError> {
    let (stream, address) = open(target, deadline)?;
    let never = || false;
    let mut wire = Exchange {
        stream,
        inbox: Vec::new(),
        deadline: Some(deadline),
        must_stop: &never,
    };
    let mut channel_binding = None;
    if tls != Tls::Not {
        match target.encryption.request(&mut wire, &target.host) {
            Ok(peer) => channel_binding = peer.channel_binding,
            Err(NoTls::Unwilling) if tls == Tls::IfOffered => {}
            Err(NoTls::Unwilling) => return Err(ConnectError::NoTls),
            Err(NoTls::Failed(why)) => return Err(ConnectError::Tls(why)),
            Err(NoTls::Broken(broken)) => return Err(broken.into()),
        }
    }
    let mut packet = Vec::new();
    let user = target.credentials.user.as_bytes();
    let first = [
        (&b"user"[..], user),
        (&b"database"[..], target.database.as_bytes()),
    ];
    let rest = target
        .parameters
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    frontend::startup(&mut packet, first.into_iter().chain(rest));
    wire.send(&packet)?;
    authenticate(&mut wire, target, channel_binding.as_deref())?;
    let (key, mut reported) = await_ready(&mut wire, id, address)?;
    take_afterthoughts(&mut wire, &mut reported)?;
    let now = MonotonicTime::now();
    let reported = Arc::new(reported);
    Ok(Connection {
        backend: Box::new(Backend {
            key: Arc::new(key),
            used_at: now,
            epoch: 0,
            fresh: Arc::clone(&reported),
            news: None,
            reported,
            applied: Arc::default(),
            dirty: DirtyState::NONE,
            status: TransactionStatus::Idle,
            prepared: Prepared::default(),
            permit: None,
        }),
        stream: wire.stream,
    })
}

fn open(target: &Target, deadline: MonotonicTime) -> Result<(Stream, Address), ConnectError> {
    if let Some(path) = target.socket_file() {
        let stream = Stream::connect_unix(&path, &target.sockets, deadline)?;
        return Ok((stream, Address::Unix(path)));
    }
    let addresses = (target.host.as_str(), target.port)
        .to_socket_addrs()
        .map_err(|error| ConnectError::Resolve(error.to_string()))?;
    let mut failure = ConnectError::Resolve("it has no address".into());
    for address in addresses {
        match Stream::connect_tcp(&address, &target.sockets, deadline) {
            Ok(stream) => return Ok((stream, Address::Tcp(address))),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

/// The next message that is not a notice; an ErrorResponse is an error.
fn next(wire: &mut Exchange<'_>) -> Result<Taken, ConnectError> {
    loop {
        let message = messages::next(wire, MAX_LENGTH)?;
        match message.kind {
            backend::NOTICE_RESPONSE => {}
            backend::ERROR_RESPONSE => {
                return Err(ConnectError::Refused(ErrorFields::parse(&message.body)));
            }
            _ => return Ok(message),
        }
    }
}

/// Answers what the server asks for. `channel_binding` is the hash of its certificate, for channel binding.
fn authenticate(
    wire: &mut Exchange<'_>,
    target: &Target,
    channel_binding: Option<&[u8]>,
) -> Result<(), ConnectError> {
    let credentials = &target.credentials;
    let lacking = |method: &str| {
        ConnectError::Credentials(format!(
            "PostgreSQL asks user \"{}\" for {method}, and the pooler knows {}; set server_username and \
             server_password, or store a verifier of that kind",
            credentials.user,
            credentials.describe()
        ))
    };
    let failed = |what: &dyn fmt::Display| ConnectError::Credentials(what.to_string());
    let mut exchange: Option<ClientExchange> = None;
    loop {
        let message = next(wire)?;
        if message.kind != backend::AUTHENTICATION {
            return Err(unexpected(&message, "during authentication"));
        }
        let mut answer = Vec::new();
        match Authentication::parse(&message.body) {
            Some(Authentication::Ok) if exchange.is_some() => {
                return Err(ConnectError::Credentials(
                    "the server let the pooler in without proving itself to it; it may not be the \
                     PostgreSQL it is taken for"
                        .into(),
                ));
            }
            Some(Authentication::Ok) => return Ok(()),
            Some(Authentication::Cleartext) => {
                let password = credentials
                    .cleartext()
                    .map_err(|error| failed(&error))?
                    .ok_or_else(|| lacking("its password in clear text"))?;
                frontend::password(&mut answer, password.expose().as_bytes());
            }
            Some(Authentication::Md5(salt)) => {
                let response = credentials
                    .md5_response(salt)
                    .map_err(|error| failed(&error))?
                    .ok_or_else(|| lacking("MD5"))?;
                frontend::password(&mut answer, response.as_bytes());
            }
            Some(Authentication::Sasl(mechanisms)) => {
                let offers =
                    |mechanism: Mechanism| mechanisms.contains(&mechanism.name().as_bytes());
                let binding = Binding::choose(offers(Mechanism::Sha256Plus), channel_binding);
                let mechanism = binding.mechanism();
                if !offers(mechanism) {
                    return Err(lacking("a SASL mechanism other than SCRAM-SHA-256"));
                }
                let mut started = credentials
                    .scram_exchange(binding)
                    .map_err(|error| failed(&error))?
                    .ok_or_else(|| lacking("SCRAM-SHA-256"))?;
                let first = started.first().map_err(|error| failed(&error))?;
                frontend::sasl_initial_response(&mut answer, mechanism.name(), &first);
                exchange = Some(started);
            }
            Some(Authentication::SaslContinue(data)) => {
                let going = exchange
                    .as_mut()
                    .ok_or_else(|| unexpected(&message, "outside a SASL exchange"))?;
                let response = going.continue_(data).map_err(|error| failed(&error))?;
                frontend::sasl_response(&mut answer, &response);
            }
            Some(Authentication::SaslFinal(data)) => {
                exchange
                    .take()
                    .ok_or_else(|| unexpected(&message, "outside a SASL exchange"))?
                    .finish(data)
                    .map_err(|error| failed(&error))?;
            }
            Some(Authentication::Other(method)) => {
                return Err(lacking(&format!("authentication method {method}")));
            }
            None => return Err(unexpected(&message, "during authentication")),
        }
        wire.send(&answer)?;
        zeroize::Zeroize::zeroize(&mut answer);
    }
}

fn await_ready(
    wire: &mut Exchange<'_>,
    id: u64,
    address: Address,
) -> Result<(BackendKey, Parameters), ConnectError> {
    let mut reported = Parameters::default();
    let mut key = None;
    loop {
        let message = next(wire)?;
        match message.kind {
            backend::PARAMETER_STATUS => {
                if let Some((name, value)) = backend::parse_parameter_status(&message.body) {
                    reported.set(&String::from_utf8_lossy(name), value);
                }
            }
            backend::BACKEND_KEY_DATA => {
                let Some((id, secret)) = message.body.split_first_chunk::<4>() else {
                    return Err(unexpected(&message, "after authentication"));
                };
                key = Some((i32::from_be_bytes(*id), secret.to_vec()));
            }
            backend::READY_FOR_QUERY => {
                // Some servers give no key; their backends cannot be cancelled.
                let (process_id, secret) = key.unwrap_or((0, vec![0; 4]));
                let tls = wire.stream.negotiated();
                let key = BackendKey::new(id, address, process_id, secret, tls);
                return Ok((key, reported));
            }
            _ => return Err(unexpected(&message, "after authentication")),
        }
    }
}

/// Takes up what has come right behind the first ReadyForQuery: PostgreSQL may say these at any time.
///
/// # Errors
/// PostgreSQL has ended the connection, in the words of the error; or it sent what nobody asked for.
fn take_afterthoughts(
    wire: &mut Exchange<'_>,
    reported: &mut Parameters,
) -> Result<(), ConnectError> {
    while !wire.inbox.is_empty() {
        let message = messages::next(wire, MAX_LENGTH)?;
        match message.kind {
            backend::PARAMETER_STATUS => {
                if let Some((name, value)) = backend::parse_parameter_status(&message.body) {
                    reported.set(&String::from_utf8_lossy(name), value);
                }
            }
            backend::NOTICE_RESPONSE | backend::NOTIFICATION_RESPONSE => {}
            backend::ERROR_RESPONSE => {
                return Err(ConnectError::Refused(ErrorFields::parse(&message.body)));
            }
            _ => return Err(unexpected(&message, "after the login")),
        }
    }
    Ok(())
}

fn unexpected(message: &Taken, when: &str) -> ConnectError {
    ConnectError::Broken(format!(
        "the server sent a message of type \"{}\" {when}",
        message.kind.escape_ascii()
    ))
}
