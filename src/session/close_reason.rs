//! Why a session ends: the reasons, as an ErrorResponse and as text for the log.
//!
//! Closes nothing; that is `session::close`. Invariant: each reason has one SQLSTATE, and the log line names the
//! setting that has ended the session, if one has.

use std::fmt;
use std::time::Duration;

use crate::wire::backend;
use crate::wire::error::{ErrorFields, Severity, error_response};
use crate::wire::sqlstate::{self, SqlState};
use crate::wire::write;

/// What an operator may limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// How long a client without a server connection may send nothing.
    ClientIdle,
    /// How long a client may send nothing in a transaction.
    IdleTransaction,
    /// How long a query may take.
    Query,
    /// How long a transaction may take.
    Transaction,
}

impl Timeout {
    /// The SQLSTATE, PgBouncer's words, and the setting.
    fn code_and_message(self) -> (SqlState, &'static str, &'static str) {
        match self {
            Timeout::ClientIdle => (
                sqlstate::IDLE_SESSION_TIMEOUT,
                "client idle timeout",
                "client_idle_timeout",
            ),
            Timeout::IdleTransaction => (
                sqlstate::IDLE_IN_TRANSACTION_TIMEOUT,
                "idle transaction timeout",
                "idle_transaction_timeout",
            ),
            Timeout::Query => (sqlstate::QUERY_CANCELED, "query timeout", "query_timeout"),
            Timeout::Transaction => (
                sqlstate::TRANSACTION_TIMEOUT,
                "transaction timeout",
                "transaction_timeout",
            ),
        }
    }
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The client sent Terminate.
    Left,
    /// The client closed the connection, and everything before that has been served.
    Closed,
    /// The client reads nothing more.
    Gone(String),
    /// The client closed its side of the connection this long ago, and something that it asked for still goes on.
    ClosedForLong(Duration),
    /// The client took nothing of a huge row for this long, and so kept its server connection from
    /// other clients.
    StoodStill(Duration),
    /// The client took nothing of what it is owed, or sent nothing more of half a message, for this long, while others
    /// waited for its server connection.
    Stalled(Duration),
    /// Something took longer than the operator allows for its pool.
    TimedOut(Timeout, Duration),
    /// The clients' unfinished messages, this client's among them, take more than so many bytes.
    OutOfMemory(u64),
    /// The client broke the protocol.
    Violation(String),
    /// The server ended the connection and has said why.
    ServerLeft,
    /// The server connection was lost without a word.
    ServerLost(String),
    /// Server and pooler no longer understand each other.
    ServerConfused(String),
    /// PostgreSQL refuses settings of the client's startup packet, in these words.
    StartupRefused(ErrorFields),
    /// PostgreSQL refuses this client's settings on the connection it got.
    SettingsRefused(String),
    /// The session's pool was removed from the configuration.
    PoolRemoved,
    /// The pooler is shutting down and the client's transaction is over.
    Drained,
    /// The pooler stops now.
    Stopped,
    /// It does not end: it goes on in another process.
    Moves,
}

impl CloseReason {
    /// The error for the client: SQLSTATE and message. `None` if the client cannot read it or has got its error.
    pub fn code_and_message(&self) -> Option<(SqlState, String)> {
        Some(match self {
            CloseReason::Left
            | CloseReason::Closed
            | CloseReason::Gone(_)
            | CloseReason::StoodStill(_)
            | CloseReason::ServerLeft
            | CloseReason::Moves => return None,
            CloseReason::Stalled(limit) => (
                sqlstate::IDLE_SESSION_TIMEOUT,
                format!(
                    "the client read or sent nothing for {limit:?} while others waited for its server connection \
                     (client_stall_timeout)"
                ),
            ),
            CloseReason::TimedOut(timeout, limit) => {
                let (code, words, setting) = timeout.code_and_message();
                (code, format!("{words} ({setting} = {limit:?})"))
            }
            CloseReason::ClosedForLong(limit) => (
                sqlstate::QUERY_CANCELED,
                format!(
                    "canceling statement because the client closed its side of the connection more than {limit:?} ago \
                     (client_gone_timeout)"
                ),
            ),
            CloseReason::Violation(what) => (sqlstate::PROTOCOL_VIOLATION, what.clone()),
            CloseReason::ServerLost(how) => (
                sqlstate::CONNECTION_FAILURE,
                format!("server closed the connection unexpectedly: {how}"),
            ),
            CloseReason::ServerConfused(how) => (
                sqlstate::CONNECTION_FAILURE,
                format!("the pooler did not understand the server: {how}"),
            ),
            CloseReason::StartupRefused(fields) => {
                (sqlstate::CONNECTION_FAILURE, fields.to_string())
            }
            CloseReason::SettingsRefused(why) => (
                sqlstate::CONNECTION_FAILURE,
                format!("the session's settings could not be made on its server connection: {why}"),
            ),
            CloseReason::OutOfMemory(limit) => (
                sqlstate::OUT_OF_MEMORY,
                format!(
                    "Server is temporarily out of memory. The clients' unfinished messages take more than \
                     {limit} bytes (max_memory_usage). Please try again later."
                ),
            ),
            CloseReason::PoolRemoved => (
                sqlstate::POOLER_SHUTDOWN,
                "the pool of this session was removed from the pooler's configuration".to_owned(),
            ),
            CloseReason::Drained => (
                sqlstate::POOLER_SHUTDOWN,
                "pooler is shut down now".to_owned(),
            ),
            CloseReason::Stopped => (
                sqlstate::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command".to_owned(),
            ),
        })
    }

    /// The client's last message, ready to be sent; empty if there is none.
    pub fn message(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let CloseReason::StartupRefused(fields) = self {
            forward(&mut out, fields);
        } else if let Some((code, words)) = self.code_and_message() {
            error_response(&mut out, Severity::Fatal, code, &words);
        }
        out
    }

    /// Whether the client reads no last message.
    pub fn is_deaf(&self) -> bool {
        matches!(self, CloseReason::Gone(_) | CloseReason::StoodStill(_))
    }

    /// Whether the log should have it at warning level: the pooler or PostgreSQL is in
    /// trouble, or the pooler has cut a session off.
    pub fn is_trouble(&self) -> bool {
        matches!(
            self,
            CloseReason::ServerLost(_)
                | CloseReason::ServerConfused(_)
                | CloseReason::SettingsRefused(_)
                | CloseReason::StoodStill(_)
                | CloseReason::Stalled(_)
                | CloseReason::TimedOut(..)
                | CloseReason::OutOfMemory(_)
        )
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Left => f.write_str("client sent Terminate"),
            CloseReason::Closed => f.write_str("client closed the connection"),
            CloseReason::Gone(how) => write!(f, "client is gone: {how}"),
            CloseReason::StoodStill(limit) => write!(
                f,
                "client read nothing of a row of more than 1 MiB for {limit:?} (proxy_copy_data_timeout)"
            ),
            CloseReason::Violation(what) => write!(f, "protocol violation: {what}"),
            CloseReason::Moves => f.write_str("session moved to another process"),
            CloseReason::StartupRefused(fields) => {
                write!(
                    f,
                    "PostgreSQL refused a setting of the startup packet: {fields}"
                )
            }
            CloseReason::ServerLeft => f.write_str("PostgreSQL ended the connection"),
            other => match other.code_and_message() {
                Some((code, words)) => write!(f, "{words} ({code})"),
                None => Ok(()),
            },
        }
    }
}

/// PostgreSQL's complaint about a client's setting: at login every error is fatal.
pub fn forward(out: &mut Vec<u8>, fields: &ErrorFields) {
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
