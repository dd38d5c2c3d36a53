//! The first packet of a connection: StartupMessage, SSLRequest, GSSENCRequest or CancelRequest.
//!
//! Reads any bytes into one of them or an error that says what is wrong. Does not judge whether the
//! parameters are welcome.

use super::frame::c_string;
use super::options::parse_options;
use thiserror::Error;

/// Protocol 3.0.
pub const PROTOCOL_3_0: u32 = 3 << 16;
/// The newest minor version of protocol 3 this program speaks. 3.1 was skipped; all that 3.2 brought are
/// cancel keys of other lengths (manual, "Protocol Versions").
pub const NEWEST_MINOR: u32 = 2;
/// The code of a CancelRequest.
pub const CANCEL_REQUEST: u32 = 80_877_102;
/// The code of an SSLRequest.
pub const SSL_REQUEST: u32 = 80_877_103;
/// The code of a GSSENCRequest.
pub const GSSENC_REQUEST: u32 = 80_877_104;
/// The longest first packet PostgreSQL accepts, its length field included (`MAX_STARTUP_PACKET_LENGTH`
/// plus the field itself).
pub const MAX_LENGTH: u32 = 10_004;

/// The longest name PostgreSQL knows, in bytes (`NAMEDATALEN` less the NUL).
pub const MAX_IDENTIFIER: usize = 63;

/// What the first packet asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket {
    /// SSLRequest: one letter is awaited in answer.
    Ssl,
    /// GSSENCRequest: one letter is awaited in answer.
    GssEnc,
    /// CancelRequest for the session with this key.
    Cancel {
        /// The process id from BackendKeyData.
        process_id: i32,
        /// The secret from BackendKeyData: 4 bytes in protocol 3.0, up to 256 later.
        secret: Vec<u8>,
    },
    /// StartupMessage.
    Startup(Startup),
}

/// A StartupMessage: who wants in, and with which settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Startup {
    /// The minor version of protocol 3 that was asked for.
    pub minor: u32,
    /// `user`.
    pub user: String,
    /// `database`; the user's name if it was left out or empty.
    pub database: String,
    /// The protocol options (`_pq_.` names) asked for. None is known here.
    pub protocol_options: Vec<Vec<u8>>,
    /// Whether this asks for a replication connection.
    pub replication: bool,
    /// All other parameters in the order in which they take effect: those inside `options`, then those
    /// with a name of their own. Values are bytes in whatever encoding, and may be empty.
    pub settings: Vec<(String, Vec<u8>)>,
}

/// Why a first packet is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StartupError {
    /// A length outside what any first packet can have. Whoever sent it may not speak our protocol.
    #[error("invalid length of startup packet: {0}")]
    Length(u32),
    /// A CancelRequest without a whole key.
    #[error("invalid length of cancel request packet")]
    Cancel,
    /// A major version other than 3.
    #[error(
        "unsupported frontend protocol {}.{}: server supports 3.0 to 3.{newest}",
        .0 >> 16,
        .0 & 0xffff,
        newest = NEWEST_MINOR
    )]
    Version(u32),
    /// Names or values without their terminators, or a packet without its end.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// No `user`.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// An argument inside `options` that PostgreSQL's backend does not take.
    #[error("invalid command-line argument for server process: {0}")]
    Options(String),
}

impl Startup {
    /// How long a secret in BackendKeyData the client understands, in bytes: 256 bits are what PostgreSQL
    /// itself gives.
    pub fn secret_length(&self) -> usize {
        if self.minor >= 2 { 32 } else { 4 }
    }
}

/// The length of the first packet at the start of `bytes`, its length field included; `None` while
/// fewer than four bytes are there.
///
/// # Errors
/// [`StartupError::Length`] before anything of that length would have to be stored.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, StartupError> {
    let Some(head) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*head);
    if !(8..=MAX_LENGTH).contains(&length) {
        return Err(StartupError::Length(length));
    }
    Ok(Some(length as usize))
}

/// Reads a whole first packet, its length field included.
///
/// # Errors
/// What is wrong with it.
pub fn parse(packet: &[u8]) -> Result<FirstPacket, StartupError> {
    let body = packet.get(4..).unwrap_or_default();
    let Some((code, rest)) = body.split_first_chunk::<4>() else {
        return Err(StartupError::Length(0));
    };
    match u32::from_be_bytes(*code) {
        SSL_REQUEST => Ok(FirstPacket::Ssl),
        GSSENC_REQUEST => Ok(FirstPacket::GssEnc),
        CANCEL_REQUEST => match rest.split_first_chunk::<4>() {
            Some((id, secret)) if (4..=256).contains(&secret.len()) => Ok(FirstPacket::Cancel {
                process_id: i32::from_be_bytes(*id),
                secret: secret.to_vec(),
            }),
            _ => Err(StartupError::Cancel),
        },
        version if version >> 16 == 3 => {
            parse_parameters(version & 0xffff, rest).map(FirstPacket::Startup)
        }
        version => Err(StartupError::Version(version)),
    }
}

fn parse_parameters(minor: u32, mut rest: &[u8]) -> Result<Startup, StartupError> {
    let mut startup = Startup {
        minor,
        ..Startup::default()
    };
    // PostgreSQL takes up those inside `options` first, so that one with a name of its own wins.
    let mut named = Vec::new();
    loop {
        let (name, after) = c_string(rest).ok_or(StartupError::Layout)?;
        if name.is_empty() {
            if !after.is_empty() {
                return Err(StartupError::Layout);
            }
            break;
        }
        let (value, after) = c_string(after).ok_or(StartupError::Layout)?;
        rest = after;
        match name {
            b"user" => startup.user = identifier(value),
            b"database" => startup.database = identifier(value),
            b"options" => startup.settings = parse_options(value)?,
            b"replication" => {
                startup.replication = !matches!(
                    &*value.to_ascii_lowercase(),
                    b"" | b"0" | b"f" | b"false" | b"n" | b"no" | b"of" | b"off"
                );
            }
            _ if name.starts_with(b"_pq_.") => startup.protocol_options.push(name.to_vec()),
            _ => {
                let name = String::from_utf8_lossy(name).into_owned();
                named.push((name, value.to_vec()));
            }
        }
    }
    startup.settings.append(&mut named);
    if startup.user.is_empty() {
        return Err(StartupError::NoUser);
    }
    if startup.database.is_empty() {
        startup.database.clone_from(&startup.user);
    }
    Ok(startup)
}

/// A user's or database's name as PostgreSQL takes it: no more than 63 bytes of it. One that is not UTF-8
/// has a character in it that no configured name has.
fn identifier(name: &[u8]) -> String {
    let name = &name[..name.len().min(MAX_IDENTIFIER)];
    String::from_utf8_lossy(name).into_owned()
}
