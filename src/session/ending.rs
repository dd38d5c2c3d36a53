//! Why a session ends: the reasons, as an ErrorResponse and as text for the log.
//!
//! Closes nothing; that is `session::settle`. Invariant: each reason has one SQLSTATE, and the log line names the
//! setting that has ended the session, if one has.

use std::fmt;
use std::time::Duration;

use super::refusal::forward;
use crate::wire::error::{ErrorFields, Severity, error_response};
use crate::wire::sqlstate::{self, SqlState};

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
    fn words(self) -> (SqlState, &'static str, &'static str) {
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
pub enum Ending {
    /// The client said Terminate.
    Left,
    /// The client closed the connection, and everything before that has been served.
    Closed,
    /// The client reads nothing more.
    Gone(String),
    /// The client closed its side of the connection this long ago, and something that it asked for still goes on.
    ClosedForLong(Duration),
    /// The client took nothing of a huge row for this long, and so kept its server connection from
    /// everybody else.
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
    /// It does not end: it is silent until its client speaks.
    Sleeps,
}

impl Ending {
    /// What the client is told: SQLSTATE and message. `None` if there is nobody to tell, or somebody has.
    pub fn words(&self) -> Option<(SqlState, String)> {
        Some(match self {
            Ending::Left
            | Ending::Closed
            | Ending::Gone(_)
            | Ending::StoodStill(_)
            | Ending::ServerLeft
            | Ending::Moves
            | Ending::Sleeps => return None,
            Ending::Stalled(limit) => (
                sqlstate::IDLE_SESSION_TIMEOUT,
                format!(
                    "the client read or sent nothing for {limit:?} while others waited for its server connection \
                     (client_stall_timeout)"
                ),
            ),
            Ending::TimedOut(timeout, limit) => {
                let (code, words, setting) = timeout.words();
                (code, format!("{words} ({setting} = {limit:?})"))
            }
            Ending::ClosedForLong(limit) => (
                sqlstate::QUERY_CANCELED,
                format!(
                    "canceling statement because the client closed its side of the connection more than {limit:?} ago \
                     (client_gone_timeout)"
                ),
            ),
            Ending::Violation(what) => (sqlstate::PROTOCOL_VIOLATION, what.clone()),
            Ending::ServerLost(how) => (
                sqlstate::CONNECTION_FAILURE,
                format!("server closed the connection unexpectedly: {how}"),
            ),
            Ending::ServerConfused(how) => (
                sqlstate::CONNECTION_FAILURE,
                format!("the pooler did not understand the server: {how}"),
            ),
            Ending::StartupRefused(fields) => (sqlstate::CONNECTION_FAILURE, fields.to_string()),
            Ending::SettingsRefused(why) => (
                sqlstate::CONNECTION_FAILURE,
                format!("the session's settings could not be made on its server connection: {why}"),
            ),
            Ending::OutOfMemory(limit) => (
                sqlstate::OUT_OF_MEMORY,
                format!(
                    "Server is temporarily out of memory. The clients' unfinished messages take more than \
                     {limit} bytes (max_memory_usage). Please try again later."
                ),
            ),
            Ending::PoolRemoved => (
                sqlstate::POOLER_SHUTDOWN,
                "the pool of this session was removed from the pooler's configuration".to_owned(),
            ),
            Ending::Drained => (
                sqlstate::POOLER_SHUTDOWN,
                "pooler is shut down now".to_owned(),
            ),
            Ending::Stopped => (
                sqlstate::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command".to_owned(),
            ),
        })
    }

    /// The client's last message, ready to be sent; empty if there is none.
    pub fn message(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Ending::StartupRefused(fields) = self {
            forward(&mut out, fields);
        } else if let Some((code, words)) = self.words() {
            error_response(&mut out, Severity::Fatal, code, &words);
        }
        out
    }

    /// Whether there is nobody to hear any last words.
    pub fn is_deaf(&self) -> bool {
        matches!(self, Ending::Gone(_) | Ending::StoodStill(_))
    }

    /// Whether the log should have it at warning level: the pooler or PostgreSQL is in
    /// trouble, or the pooler has cut a session off.
    pub fn is_trouble(&self) -> bool {
        matches!(
            self,
            Ending::ServerLost(_)
                | Ending::ServerConfused(_)
                | Ending::SettingsRefused(_)
                | Ending::StoodStill(_)
                | Ending::Stalled(_)
                | Ending::TimedOut(..)
                | Ending::OutOfMemory(_)
        )
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Left => f.write_str("client sent Terminate"),
            Ending::Closed => f.write_str("client closed the connection"),
            Ending::Gone(how) => write!(f, "client is gone: {how}"),
            Ending::StoodStill(limit) => write!(
                f,
                "client read nothing of a row of more than 1 MiB for {limit:?} (proxy_copy_data_timeout)"
            ),
            Ending::Violation(what) => write!(f, "protocol violation: {what}"),
            Ending::Moves => f.write_str("session moved to another process"),
            Ending::Sleeps => f.write_str("session is idle"),
            Ending::StartupRefused(fields) => {
                write!(
                    f,
                    "PostgreSQL refused a setting of the startup packet: {fields}"
                )
            }
            Ending::ServerLeft => f.write_str("PostgreSQL ended the connection"),
            other => match other.words() {
                Some((code, words)) => write!(f, "{words} ({code})"),
                None => Ok(()),
            },
        }
    }
}
