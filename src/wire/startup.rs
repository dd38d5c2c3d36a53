//! The first packet of a connection: StartupMessage, SSLRequest, GSSENCRequest or CancelRequest.
//!
//! Reads any bytes into one of them or an error that says what is wrong. Does not judge whether the
//! parameters are welcome.

use std::fmt;

use super::frame::c_string;

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
pub const LONGEST: u32 = 10_004;

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
    /// All other parameters in the order they came, those inside `options` included; values may be
    /// empty.
    pub settings: Vec<(String, String)>,
}

/// Why a first packet is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupError {
    /// A length outside what any first packet can have. Whoever sent it may not speak our protocol.
    Length(u32),
    /// A CancelRequest without a whole key.
    Cancel,
    /// A major version other than 3.
    Version(u32),
    /// Names or values without their terminators, or a packet without its end.
    Layout,
    /// A name or value that is not UTF-8.
    Encoding,
    /// No `user`.
    NoUser,
    /// An `options` parameter that is not a list of settings.
    Options(String),
}

impl Startup {
    /// How long a secret in BackendKeyData the client understands, in bytes: 256 bits are what PostgreSQL
    /// itself gives.
    pub fn secret_length(&self) -> usize {
        if self.minor >= 2 { 32 } else { 4 }
    }
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartupError::Length(n) => write!(f, "invalid length of startup packet: {n}"),
            StartupError::Cancel => write!(f, "invalid length of cancel request packet"),
            StartupError::Version(v) => write!(
                f,
                "unsupported frontend protocol {}.{}: server supports 3.0 to 3.{NEWEST_MINOR}",
                v >> 16,
                v & 0xffff
            ),
            StartupError::Layout => {
                write!(
                    f,
                    "invalid startup packet layout: expected terminator as last byte"
                )
            }
            StartupError::Encoding => write!(f, "startup packet holds text that is not UTF-8"),
            StartupError::NoUser => {
                write!(f, "no PostgreSQL user name specified in startup packet")
            }
            StartupError::Options(word) => {
                write!(f, "invalid command-line argument in \"options\": {word}")
            }
        }
    }
}

impl std::error::Error for StartupError {}

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
    if !(8..=LONGEST).contains(&length) {
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
        if name.starts_with(b"_pq_.") {
            startup.protocol_options.push(name.to_vec());
            continue;
        }
        let name = std::str::from_utf8(name).map_err(|_| StartupError::Encoding)?;
        let value = std::str::from_utf8(value).map_err(|_| StartupError::Encoding)?;
        match name {
            "user" => startup.user = value.to_owned(),
            "database" => startup.database = value.to_owned(),
            "options" => startup.settings.extend(parse_options(value)?),
            "replication" => {
                startup.replication = !matches!(
                    value.to_ascii_lowercase().as_str(),
                    "" | "0" | "f" | "false" | "n" | "no" | "of" | "off"
                );
            }
            _ => startup.settings.push((name.to_owned(), value.to_owned())),
        }
    }
    if startup.user.is_empty() {
        return Err(StartupError::NoUser);
    }
    if startup.database.is_empty() {
        startup.database.clone_from(&startup.user);
    }
    Ok(startup)
}

/// Reads the value of `options` as PostgreSQL does: words parted by blanks, a backslash takes the next
/// character as it is; `-c name=value`, `-cname=value` and `--name=value` are settings.
///
/// # Errors
/// [`StartupError::Options`] with the first word that is none of these.
pub fn parse_options(text: &str) -> Result<Vec<(String, String)>, StartupError> {
    let mut settings = Vec::new();
    let mut words = split_words(text).into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next().ok_or(StartupError::Options(word))?
        } else if let Some(rest) = word.strip_prefix("--").or(word.strip_prefix("-c")) {
            rest.to_owned()
        } else {
            return Err(StartupError::Options(word));
        };
        let Some((name, value)) = setting.split_once('=') else {
            return Err(StartupError::Options(setting));
        };
        // PostgreSQL takes a dash in such a name for an underscore (ParseLongOption).
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c.is_ascii_whitespace() {
            words.extend(word.take());
        } else {
            let taken = if c == '\\' {
                characters.next()
            } else {
                Some(c)
            };
            word.get_or_insert_default().extend(taken);
        }
    }
    words.extend(word);
    words
}
