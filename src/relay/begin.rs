//! `begin;` on its own: the client gets its reply at once, and PostgreSQL gets the BEGIN with the next request. Until
//! then the client has no server connection to keep from others while it thinks.
//!
//! Only this one form is deferred, which asyncpg and its like send; what says more than that, or comes with
//! more behind it, goes to PostgreSQL as it is.
//!
//! The invariant: the request behind it is not sent before PostgreSQL has answered BEGIN. Were they sent
//! together, and BEGIN failed because of a cancel request, the request would be run and committed by itself. And
//! as long as it lies unread, a connection that turns out to be lost is exchanged for another.

use serde::{Deserialize, Serialize};

use super::output::Output;
use super::requests::Step;
use super::session::Session;
use crate::pool::pool_config::Mode;
use crate::server::prepared::NOBODYS;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::frame::{HEADER, Header};

/// The text that is deferred, in any letter case.
const BEGIN: &[u8] = b"begin;";

/// The transaction block of a client that no server knows of.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deferred {
    /// There is none.
    #[default]
    Nothing,
    /// It has begun.
    Begun,
    /// It has begun, and a request in it was refused before a server had seen it.
    Failed,
}

impl Session {
    /// Answers a Query that begins a block, or ends one that no server knows of, if it can be done without
    /// a server.
    pub(super) fn begin_or_end(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
        out: &mut Output,
    ) -> Option<Step> {
        if self.link.is_some() || self.refusing {
            return None;
        }
        let text = rest.get(HEADER..head.whole())?.strip_suffix(b"\0")?;
        let (after, tag) = match self.deferred {
            Deferred::Nothing => {
                let alone = rest.len() == head.whole() && self.rules.mode == Mode::Transaction;
                if !alone || !text.eq_ignore_ascii_case(BEGIN) {
                    return None;
                }
                (Deferred::Begun, "BEGIN")
            }
            Deferred::Begun => (Deferred::Nothing, ended_by(text)?),
            Deferred::Failed => ended_by(text).map(|_| (Deferred::Nothing, "ROLLBACK"))?,
        };
        self.deferred = after;
        // As any Query does.
        self.statements.remove(&b""[..]);
        let status = self.status_without_server();
        out.client.write(|own| {
            backend::command_complete(own, tag);
            backend::ready_for_query(own, status);
        });
        Some(self.begin(head, at, rest, true, out))
    }

    /// What a ReadyForQuery says while there is no server connection.
    pub(super) fn status_without_server(&self) -> TransactionStatus {
        match self.deferred {
            Deferred::Nothing => TransactionStatus::Idle,
            Deferred::Begun => TransactionStatus::InTransaction,
            Deferred::Failed => TransactionStatus::Failed,
        }
    }

    /// A request is refused that no server has seen: so is what follows in the same block.
    pub(super) fn fail_deferred(&mut self) {
        if self.deferred == Deferred::Begun {
            self.deferred = Deferred::Failed;
        }
    }

    /// Brings the server connection into the client's block.
    pub(super) fn begin_deferred(&mut self, out: &mut Output) {
        if self.deferred != Deferred::Nothing {
            self.send_own(b"BEGIN", out);
        }
        if self.deferred == Deferred::Failed {
            // So that PostgreSQL itself answers what comes in a failed block.
            self.send_own(format!("DEALLOCATE \"{NOBODYS}\"").as_bytes(), out);
        }
    }

    /// Whether an error is the one that is to bring the server connection into the client's failed block.
    pub(super) fn fails_deferred(&self) -> bool {
        let in_block = self
            .link
            .as_ref()
            .is_some_and(|l| l.backend.in_transaction());
        self.deferred == Deferred::Failed && in_block
    }
}

/// The tag of a statement that ends a block (manual, "COMMIT", "ROLLBACK"), if this is one in a usual form.
fn ended_by(text: &[u8]) -> Option<&'static str> {
    let text = text.trim_ascii();
    let word = text.strip_suffix(b";").unwrap_or(text).trim_ascii_end();
    let is = |one: &&str| word.eq_ignore_ascii_case(one.as_bytes());
    match (
        ["commit", "end"].iter().any(is),
        ["rollback", "abort"].iter().any(is),
    ) {
        (true, _) => Some("COMMIT"),
        (_, true) => Some("ROLLBACK"),
        _ => None,
    }
}
