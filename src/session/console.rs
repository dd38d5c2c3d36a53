//! A console session: its server is the pooler itself.
//!
//! Only the simple protocol is spoken. The commands are in the room `admin`, which answers as [`Console`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::Client;
use super::orders::Order;
use crate::net::clock::MonotonicTime;
use crate::net::exchange::{Exchange, ExchangeError};
use crate::server::messages::{self, NoMessage};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error::{Severity, error_response};
use crate::wire::frame::c_string;
use crate::wire::{frontend, sqlstate};

/// The longest command, in bytes.
const MAX_LENGTH: usize = 1024 * 1024;

/// When a command is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has been.
    Given,
    /// When [`Console::is_underway`] says no more that it is. A command that is begun again, in another process,
    /// goes on.
    Underway,
    /// When the session has been handed to [`Console::upgrade`] and is taken in again, here or in another
    /// process.
    Later,
}

/// Which commands a console session may give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rights {
    /// SHOW and nothing else: it has logged in as `stats_username`.
    #[default]
    Show,
    /// Every command.
    Everything,
}

/// The console's commands, as this room sees them.
pub trait Console: Send + Sync {
    /// Carries out an order that was given to the other process of a hand-over.
    fn obey(&self, order: Order);

    /// Appends the answer to one command of a session with these rights: everything before the
    /// ReadyForQuery.
    fn answer(&self, command: &str, rights: Rights, out: &mut Vec<u8>) -> Answer;

    /// Whether a command that was begun is still being carried out. If not, its answer is appended.
    fn is_underway(&self, command: &str, out: &mut Vec<u8>) -> bool;

    /// Begins an upgrade, which this session has asked for. It is not served until the outcome is known.
    fn upgrade(&self, requester: Client);
}

/// Why a console session ended.
#[derive(Debug)]
pub enum ConsoleEnd {
    /// The client said Terminate.
    Left,
    /// It rests until its last command is answered.
    Rests,
    /// The connection broke off, or the thread was told to stop.
    Broken(ExchangeError),
    /// The client did what the protocol, or the console, does not allow. It has been told.
    Violation(String),
}

/// How often it is looked whether a command has been carried out.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until a command has been carried out.
fn wait_for(
    exchange: &mut Exchange<'_>,
    console: &dyn Console,
    command: &str,
    answer: &mut Vec<u8>,
) -> Result<(), ExchangeError> {
    while console.is_underway(command, answer) {
        exchange.pause_until(MonotonicTime::now().after(LOOK))?;
    }
    Ok(())
}

/// Answers commands until the client leaves.
pub fn serve(exchange: &mut Exchange<'_>, console: &dyn Console, rights: Rights) -> ConsoleEnd {
    loop {
        let message = match messages::next(exchange, MAX_LENGTH) {
            Ok(message) => message,
            Err(NoMessage::Broken(broken)) => return ConsoleEnd::Broken(broken),
            Err(NoMessage::Malformed(what)) => return refuse(exchange, what),
        };
        let mut answer = Vec::new();
        match message.kind {
            frontend::TERMINATE => return ConsoleEnd::Left,
            frontend::QUERY => {
                let text = match c_string(&message.body) {
                    Some((text, [])) => Some(text),
                    _ => None,
                };
                let Some(Ok(command)) = text.map(std::str::from_utf8) else {
                    return refuse(exchange, "a command that is not UTF-8 text".into());
                };
                if command.trim().trim_end_matches(';').trim().is_empty() {
                    backend::empty_query_response(&mut answer);
                } else {
                    match console.answer(command, rights, &mut answer) {
                        Answer::Given => {}
                        Answer::Later => return ConsoleEnd::Rests,
                        Answer::Underway => {
                            let waited = wait_for(exchange, console, command, &mut answer);
                            if let Err(broken) = waited {
                                // Whoever serves the session next begins it again.
                                exchange.inbox.splice(..0, message.whole());
                                return ConsoleEnd::Broken(broken);
                            }
                        }
                    }
                }
                backend::ready_for_query(&mut answer, TransactionStatus::Idle);
            }
            frontend::SYNC => backend::ready_for_query(&mut answer, TransactionStatus::Idle),
            frontend::PARSE => error_response(
                &mut answer,
                Severity::Error,
                sqlstate::FEATURE_NOT_SUPPORTED,
                "the console speaks only the simple query protocol",
            ),
            frontend::BIND
            | frontend::DESCRIBE
            | frontend::EXECUTE
            | frontend::CLOSE
            | frontend::FLUSH => {}
            other => {
                let what = format!("invalid frontend message type \"{}\"", other.escape_ascii());
                return refuse(exchange, what);
            }
        }
        if let Err(broken) = exchange.send(&answer) {
            return ConsoleEnd::Broken(broken);
        }
    }
}

fn refuse(exchange: &mut Exchange<'_>, what: String) -> ConsoleEnd {
    let mut words = Vec::new();
    error_response(
        &mut words,
        Severity::Fatal,
        sqlstate::PROTOCOL_VIOLATION,
        &what,
    );
    let _ = exchange.send(&words);
    ConsoleEnd::Violation(what)
}
