//! Why a connection comes to nothing: the error for the client, and the reason for the log.
//!
//! Decides nothing. Invariant: at login every error is FATAL, and it says no more of the reason than the client may
//! know.

use super::client_settings::Unsettled;
use super::lend::NotLent;
use crate::net::dialogue::Broken;
use crate::pool::pool::Lack;
use crate::server::login::ConnectError;
use crate::server::messages::NoMessage;
use crate::wire::backend;
use crate::wire::error::{ErrorFields, Severity, error_response};
use crate::wire::sqlstate::{self, SqlState};
use crate::wire::write;
/// Why a connection comes to nothing.
#[derive(Debug)]
pub enum Refusal {
    /// Its business is done: it was a CancelRequest.
    Done,
    /// It broke off or was never a client; nobody to tell.
    Silent(String),
    /// The TLS handshake failed; OpenSSL has told it.
    Handshake(String),
    /// The client is told this; the log may know more.
    Words {
        /// SQLSTATE.
        code: SqlState,
        /// For the client.
        words: String,
        /// For the log.
        log: String,
    },
    /// It was silent before its login, and others waited.
    Crowded,
    /// The client is told of this error, which is mostly PostgreSQL's.
    Forwarded(ErrorFields),
}

pub(super) fn say(code: SqlState, words: impl Into<String>) -> Refusal {
    let words = words.into();
    Refusal::Words {
        code,
        log: words.clone(),
        words,
    }
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Refusal {
        match broken {
            Broken::Deadline => say(
                sqlstate::PROTOCOL_VIOLATION,
                "canceling authentication due to timeout (client_login_timeout)",
            ),
            Broken::Told => say(
                sqlstate::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command",
            ),
            Broken::Ended | Broken::Io(_) => Refusal::Silent(broken.to_string()),
        }
    }
}

impl From<NoMessage> for Refusal {
    fn from(error: NoMessage) -> Refusal {
        match error {
            NoMessage::Broken(broken) => broken.into(),
            NoMessage::Malformed(what) => say(sqlstate::PROTOCOL_VIOLATION, what),
        }
    }
}

impl From<Unsettled> for Refusal {
    fn from(why: Unsettled) -> Refusal {
        match why {
            Unsettled::Refused(fields) => Refusal::Forwarded(fields),
            Unsettled::Lost(how) => say(
                sqlstate::CONNECTION_FAILURE,
                format!("the server connection was lost during login: {how}"),
            ),
            Unsettled::NotLent(NotLent::Told) => Refusal::Silent("it left during login".into()),
            Unsettled::NotLent(NotLent::Closed) => say(
                sqlstate::INVALID_CATALOG_NAME,
                "the pool was removed from the configuration",
            ),
            Unsettled::NotLent(why) => {
                let (code, words) = no_server(&why);
                Refusal::Forwarded(ErrorFields {
                    severity: "FATAL".to_owned(),
                    code,
                    message: words,
                    ..ErrorFields::default()
                })
            }
        }
    }
}

impl Refusal {
    /// What is sent to the client: one ErrorResponse, or nothing.
    pub(super) fn message(&self) -> Vec<u8> {
        let mut last = Vec::new();
        match self {
            Refusal::Words { code, words, .. } => {
                error_response(&mut last, Severity::Fatal, code, words);
            }
            Refusal::Crowded => error_response(
                &mut last,
                Severity::Fatal,
                sqlstate::TOO_MANY_CONNECTIONS,
                "sorry, too many connections that have not logged in",
            ),
            Refusal::Forwarded(fields) => forward(&mut last, fields),
            Refusal::Done | Refusal::Silent(_) | Refusal::Handshake(_) => {}
        }
        last
    }
}

/// What a client is told when no server connection is to be had: SQLSTATE and message.
pub(super) fn no_server(why: &NotLent) -> (String, String) {
    let (code, cause) = match why {
        NotLent::TimedOut(lack) => {
            let lack = match lack {
                Lack::Connections(most) => {
                    format!("all {most} server connections of the pool are in use (pool_size)")
                }
                Lack::Paused => "the pool is paused (PAUSE)".to_owned(),
            };
            (
                sqlstate::TOO_MANY_CONNECTIONS,
                format!(
                    "Timeout occurred while waiting free connection from pool (query_wait_timeout): {lack}"
                ),
            )
        }
        NotLent::Failed(error) => {
            let cause = match &**error {
                ConnectError::OutOfDescriptors(_) | ConnectError::NoThread(_) => {
                    return (
                        error.sqlstate().to_owned(),
                        format!(
                            "Connection pooler local resource exhausted: {error}. Please try again later."
                        ),
                    );
                }
                ConnectError::Refused(_) | ConnectError::Credentials(_) if !error.can_heal() => {
                    return (
                        error.sqlstate().to_owned(),
                        format!(
                            "Could not get a database connection from the pool. PostgreSQL refused the \
                             pooler's own login (not the client's, which was accepted): {error}"
                        ),
                    );
                }
                ConnectError::TimedOut => {
                    "Timeout occurred while creating a new connection to postgresql (postgresql_login_timeout)"
                        .to_owned()
                }
                ConnectError::NoSeat(why) => why.clone(),
                ConnectError::Refused(_) if error.sqlstate() == sqlstate::TOO_MANY_CONNECTIONS => {
                    format!(
                        "PostgreSQL takes no more connections (its max_connections, or the limit of the role or \
                         database): {error}"
                    )
                }
                error => format!(
                    "Error occurred while creating a new connection to postgresql (postgresql_login_error): {error}"
                ),
            };
            (error.sqlstate(), cause)
        }
        NotLent::Closed => (sqlstate::POOLER_SHUTDOWN, "the pool was removed".to_owned()),
        NotLent::Told => (sqlstate::ADMIN_SHUTDOWN, "interrupted".to_owned()),
    };
    let words = format!(
        "Could not get a database connection from the pool. All servers may be busy or down. Error details: {cause}. Please try again later."
    );
    (code.to_owned(), words)
}

/// PostgreSQL's complaint about a client's setting: at login every error is fatal.
pub(super) fn forward(out: &mut Vec<u8>, fields: &ErrorFields) {
    let more = fields.more.as_deref();
    let (detail, hint) = more.map_or(("", ""), |more| (&more.detail, &more.hint));
    write::message(out, backend::ERROR_RESPONSE, |out| {
        for (field, text) in [
            (b'S', "FATAL"),
            (b'V', "FATAL"),
            (b'C', fields.code.as_str()),
            (b'M', fields.message.as_str()),
            (b'D', detail),
            (b'H', hint),
        ] {
            if !text.is_empty() {
                out.push(field);
                write::c_string(out, text.as_bytes());
            }
        }
        out.push(0);
    });
}
