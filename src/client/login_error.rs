//! Why a connection comes to nothing: the error for the client, and the reason for the log.
//!
//! Decides nothing. Invariant: at login every error is FATAL, and it says no more of the reason than the client may
//! know.

use super::client_settings::StartupSettingsError;
use crate::net::exchange::ExchangeError;
use crate::server::messages::NoMessage;
use crate::session::checkout::{CheckoutError, no_server};
use crate::session::close_reason::forward;
use crate::wire::error::{ErrorFields, Severity, error_response};
use crate::wire::sqlstate::{self, SqlState};
/// Why a connection comes to nothing.
#[derive(Debug)]
pub enum LoginError {
    /// Its business is done: it was a CancelRequest.
    Done,
    /// It broke off or was never a client: it gets no error.
    Silent(String),
    /// The TLS handshake failed; OpenSSL has sent the alert.
    Handshake(String),
    /// The error for the client; the log may say more.
    Message {
        /// SQLSTATE.
        code: SqlState,
        /// For the client.
        message: String,
        /// For the log.
        log: String,
    },
    /// It sent nothing before its login, and others waited.
    Crowded,
    /// The client gets this error, which is mostly PostgreSQL's.
    Forwarded(ErrorFields),
}

pub(super) fn say(code: SqlState, message: impl Into<String>) -> LoginError {
    let message = message.into();
    LoginError::Message {
        code,
        log: message.clone(),
        message,
    }
}

impl From<ExchangeError> for LoginError {
    fn from(broken: ExchangeError) -> LoginError {
        match broken {
            ExchangeError::Deadline => say(
                sqlstate::PROTOCOL_VIOLATION,
                "canceling authentication due to timeout (client_login_timeout)",
            ),
            ExchangeError::Interrupted => say(
                sqlstate::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command",
            ),
            ExchangeError::Ended | ExchangeError::Io(_) => LoginError::Silent(broken.to_string()),
        }
    }
}

impl From<NoMessage> for LoginError {
    fn from(error: NoMessage) -> LoginError {
        match error {
            NoMessage::Broken(broken) => broken.into(),
            NoMessage::Malformed(what) => say(sqlstate::PROTOCOL_VIOLATION, what),
        }
    }
}

impl From<StartupSettingsError> for LoginError {
    fn from(why: StartupSettingsError) -> LoginError {
        match why {
            StartupSettingsError::Refused(fields) => LoginError::Forwarded(fields),
            StartupSettingsError::Lost(how) => say(
                sqlstate::CONNECTION_FAILURE,
                format!("the server connection was lost during login: {how}"),
            ),
            StartupSettingsError::CheckoutError(CheckoutError::Interrupted) => {
                LoginError::Silent("it left during login".into())
            }
            StartupSettingsError::CheckoutError(CheckoutError::Closed) => say(
                sqlstate::INVALID_CATALOG_NAME,
                "the pool was removed from the configuration",
            ),
            StartupSettingsError::CheckoutError(why) => {
                let (code, message) = no_server(&why);
                LoginError::Forwarded(ErrorFields {
                    severity: "FATAL".to_owned(),
                    code,
                    message,
                    ..ErrorFields::default()
                })
            }
        }
    }
}

impl LoginError {
    /// What is sent to the client: one ErrorResponse, or nothing.
    pub(super) fn message(&self) -> Vec<u8> {
        let mut last = Vec::new();
        match self {
            LoginError::Message { code, message, .. } => {
                error_response(&mut last, Severity::Fatal, code, message);
            }
            LoginError::Crowded => error_response(
                &mut last,
                Severity::Fatal,
                sqlstate::TOO_MANY_CONNECTIONS,
                "sorry, too many connections that have not logged in",
            ),
            LoginError::Forwarded(fields) => forward(&mut last, fields),
            LoginError::Done | LoginError::Silent(_) | LoginError::Handshake(_) => {}
        }
        last
    }
}
