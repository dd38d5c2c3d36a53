//! The columns of statements' rows as clients know them, and the rule that this stays true.
//!
//! A client that knows its statement's rows does not ask again. PostgreSQL refuses to run the statement when they have
//! become others (see [`stale_plan`](crate::relay::stale_plan)), but it cannot know that where the pooler has to parse
//! the statement anew. So there the pooler asks what the rows are, before anything of the request is sent: if they are
//! others the statement is used no more, as if PostgreSQL had found it stale. That costs a round trip, once for each
//! statement and server connection, and only after somebody has changed the definition of something through the pooler,
//! or a stale plan was met.
//!
//! The invariant: all rows that are given under a statement's number have one shape, the one that clients know.

use std::sync::Arc;

use super::expected::{Deliver, Expected, Reply, Undo};
use super::in_flight::Open;
use super::output::Output;
use super::session::{Phase, Session};
use super::shared_statements::SharedStatements;
use super::statements::parse_message;
use crate::server::dirty::DirtyState;
use crate::server::prepared::Statement;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::{frontend, write};

impl Session {
    /// Has the server parse and describe a statement which it lacks and whose rows may have become others.
    /// If so, the request that needs it waits for the answer and is then taken up as if it came only now.
    pub(super) fn looks_at(
        &mut self,
        statement: &Arc<Statement>,
        statements: &dyn SharedStatements,
        out: &mut Output,
    ) -> bool {
        let limit = self.limit_per_server();
        let Some(link) = &mut self.link else {
            return false;
        };
        let number = statement.number;
        let stands = match statement.is_unnamed() {
            true => link.unnamed_parsed,
            false => link.backend.prepared.stands(number),
        };
        if stands || !statement.shape.may_have_changed(statements.epoch()) {
            return false;
        }
        let name = statement.server_name();
        if statement.is_unnamed() {
            link.in_flight.add(Open::Name(b""));
            link.unnamed_parsed = true;
        } else {
            link.in_flight.add(Open::Statement(number));
            let _ = link.backend.has_statement(statement, limit);
        }
        let undo = Undo {
            not_prepared: Some(number),
            ..Undo::default()
        };
        let parsed = Expected::undoing(Reply::Parse, Deliver::Swallow, undo);
        out.server
            .write(|own| parse_message(own, name.as_bytes(), &statement.definition));
        self.expect(parsed, out);
        out.server.write(|own| {
            write::message(own, frontend::DESCRIBE, |body| {
                body.push(b'S');
                write::c_string(body, name.as_bytes());
            });
        });
        let mut described = Expected::swallow(Reply::Describe);
        described.statement = Some(number);
        described.describes = Some(Arc::clone(statement));
        self.expect(described, out);
        self.bar_if(true);
        true
    }

    /// Takes up the description that is due: a RowDescription (`None` if it was too large to be read) or
    /// NoData.
    pub(super) fn note_description(&mut self, kind: u8, body: Option<&[u8]>) {
        let Some(link) = &mut self.link else { return };
        let front = link.expected.front_mut();
        let Some(described) = front.and_then(|front| front.describes.take()) else {
            return;
        };
        let row_description = match (kind, body) {
            (backend::NO_DATA, _) => None,
            (_, Some(body)) => Some(body),
            // What is known has been read.
            (_, None) if described.shape.is_unknown() => return,
            (_, None) => Some(&b""[..]),
        };
        if !described.shape.see(row_description, link.epoch) {
            described.retire();
            self.retire(described.number);
        }
    }

    /// Notes that a statement has run which may have changed what others mean or the shape of their rows, by its
    /// tag; before that leaves its own traces.
    pub(super) fn note_definition(&mut self, tag: &[u8], statements: &dyn SharedStatements) {
        let cleans = self.phase() != Phase::Serving;
        let Some(link) = &mut self.link else { return };
        let discards = tag.starts_with(b"DISCARD");
        let defines = match discards {
            // Temporary tables end. What cleans does so where there may be some.
            true => {
                let dirty = link.backend.dirty;
                cleans || dirty.has(DirtyState::TEMPORARY) || dirty.has(DirtyState::EVERYTHING)
            }
            false => link.backend.dirty.has(DirtyState::DEFINING) || !defines_nothing(tag),
        };
        if defines {
            link.defining = true;
            statements.begin_epoch();
        }
    }

    /// Others see what a transaction has defined when it is over.
    pub(super) fn publish_definitions(
        &mut self,
        status: TransactionStatus,
        statements: &dyn SharedStatements,
    ) {
        let Some(link) = &mut self.link else { return };
        let over = status == TransactionStatus::Idle;
        let dirty = &mut link.backend.dirty;
        if link.defining || dirty.has(DirtyState::DEFINING) {
            statements.begin_epoch();
            link.defining = !over;
        }
        // What SQL has prepared is not seen when it is executed.
        if over && link.expected.is_empty() && !dirty.has(DirtyState::STATEMENTS) {
            dirty.remove(DirtyState::DEFINING);
        }
    }
}

/// Whether a command with this tag defines nothing anew. DO and CALL may.
fn defines_nothing(tag: &[u8]) -> bool {
    let word = tag.split(|&b| b == b' ').next().unwrap_or_default();
    match word {
        b"SELECT" | b"INSERT" | b"UPDATE" | b"DELETE" | b"MERGE" | b"FETCH" | b"MOVE" | b"COPY" => {
            true
        }
        b"SET" | b"SHOW" | b"RESET" | b"BEGIN" | b"START" | b"ROLLBACK" | b"SAVEPOINT"
        | b"RELEASE" => true,
        b"COMMIT" => tag != b"COMMIT PREPARED",
        b"PREPARE" | b"DEALLOCATE" | b"DECLARE" | b"CLOSE" | b"LOCK" | b"TRUNCATE" => true,
        b"LISTEN" | b"UNLISTEN" | b"NOTIFY" | b"EXPLAIN" | b"ANALYZE" | b"VACUUM"
        | b"CHECKPOINT" => true,
        b"GRANT" | b"REVOKE" | b"COMMENT" | b"REFRESH" | b"REINDEX" | b"CLUSTER" | b"LOAD" => true,
        _ => false,
    }
}
