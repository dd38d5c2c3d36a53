//! Parse: a client prepares a statement.
//!
//! A Parse without a name goes to the server as it is: PostgreSQL analyses it anew each time. One with a name is
//! answered from what the server has, if nothing was defined since that was analysed.
//!
//! How a prepared statement is used is in [`statements`](crate::relay::statements). The invariant: a client's name
//! means what its last Parse that did not fail has said.

use std::sync::Arc;

use super::deallocate::does_not_exist;
use super::expected::{Deliver, Expected, Refusal, Reply, Undo};
use super::in_flight::Open;
use super::link_setup::POOLERS;
use super::names::{check_definition, key};
use super::output::Output;
use super::requests::{Step, Violation};
use super::session::{ServerLink, Session};
use super::shared_statements::SharedStatements;
use super::statements::{close_message, parse_message};
use crate::server::dirty::{self, DirtyState, Scan};
use crate::server::prepared::Statement;
use crate::wire::backend::TransactionStatus;
use crate::wire::frame::{self, HEADER, Header};
use crate::wire::sqlstate;
use crate::wire::{frontend, write};

/// The longest Parse that is taken as a whole, in bytes; a statement's text has to be stored.
pub const MAX_STATEMENT: usize = 256 * 1024 * 1024;

/// So many of the replies that are due are looked at for a request that may begin a transaction.
const LOOKED_AT: usize = 64;

impl Session {
    /// A Parse where statements do not follow their client: it passes as it is.
    pub(super) fn parse_unfollowed(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
        out: &mut Output,
    ) -> Result<Step, Violation> {
        // One byte of body tells a name from none.
        let Some(&first) = rest.get(HEADER) else {
            return Ok(Step::NeedsMore);
        };
        if let Some(link) = &mut self.link {
            if first != 0 {
                link.backend.dirty.add(DirtyState::STATEMENTS);
            }
            let text = &rest[HEADER..rest.len().min(head.whole())];
            let whole = text.len() == head.body;
            let mut scan = Scan::default();
            link.backend.dirty.add(scan.read(text, whole));
            self.client.frame.scan = (!whole).then_some(scan);
            let bare =
                frame::c_string(text).and_then(|(_, definition)| frame::c_string(definition));
            if let Some((bare, _)) = bare.filter(|_| whole) {
                self.note_going_back(Some(bare), dirty::of_text(bare), true);
            }
        }
        let unnamed = first == 0;
        let mut expected = Expected::forward(Reply::Parse);
        if let Some(link) = self.link.as_mut().filter(|_| unnamed) {
            let before = std::mem::replace(&mut link.unnamed_parsed, true);
            expected.undo = Some(Box::new(Undo::of_unnamed(before)));
        }
        self.expect(expected, out);
        Ok(self.begin(head, at, rest, false, out))
    }

    pub(super) fn parse(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
        statements: &dyn SharedStatements,
        out: &mut Output,
    ) -> Result<Step, Violation> {
        // The unnamed one makes room for itself.
        let replaces = rest.get(HEADER) == Some(&0);
        let replaced = self.statements.get(&b""[..]).filter(|_| replaces);
        let replaced = replaced.map_or(0, |one| one.definition.len());
        if self.is_too_much(head.body.saturating_sub(replaced)) {
            self.refuse_in_batch(head.kind, self.too_much(), out);
            return Ok(self.begin(head, at, rest, true, out));
        }
        if head.body > MAX_STATEMENT {
            return Err(Violation(format!(
                "a statement of {} bytes cannot be prepared through the pooler; the limit is {MAX_STATEMENT}",
                head.body
            )));
        }
        let Some(body) = rest.get(HEADER..head.whole()) else {
            return Ok(Step::NeedsMore);
        };
        let parts = frame::c_string(body).filter(|(_, rest)| check_definition(rest).is_some());
        let Some((said, definition)) = parts else {
            return Ok(self.pass_malformed(Reply::Parse, head, at, rest, out));
        };
        let name = key(said);
        if let Err(name) = self.deallocated_by(definition) {
            self.refuse_in_batch(head.kind, does_not_exist(&name), out);
            return Ok(Step::Took(head.whole()));
        }
        if name.is_empty() {
            self.parse_unnamed(definition, statements, out);
            return Ok(self.begin(head, at, rest, false, out));
        }
        let taken = self.statements.get(name).cloned();
        if self.must_wait_for(Some(name), taken.as_deref()) {
            return Ok(Step::MustWait);
        }
        if taken.is_some() {
            self.refuse_taken(said, definition, out);
            return Ok(Step::Took(head.whole()));
        }
        let statement = self.meaning(definition, statements);
        if self.must_wait_for(None, Some(&statement)) {
            return Ok(Step::MustWait);
        }
        self.close_surplus(out);
        if self.statements.len() >= self.named_limit() {
            self.refuse_in_batch(head.kind, self.too_many_statements(), out);
            return Ok(Step::Took(head.whole()));
        }
        let before = self
            .statements
            .insert(name.to_vec(), Arc::clone(&statement));
        let mut undo = Undo {
            name: Some((name.to_vec(), before)),
            ..Undo::default()
        };
        let limit = self.limit_per_server();
        let Some(link) = &mut self.link else {
            return Ok(Step::NeedsServer);
        };
        // What is under way may fail, and a transaction with it; or it may copy in.
        let may_fail = link.backend.in_transaction()
            || (link.expected.iter().take(LOOKED_AT))
                .any(|one| one.effects.has(DirtyState::BEGINNING));
        let must_see = link.may_copy_in_next() || (may_fail && link.in_flight.is_any_under_way());
        let deliver = if link.backend.has_statement(&statement, limit) {
            link.replay_buffer.answers_from_memory(statement.number);
            match must_see {
                true => Deliver::Forward,
                false => Deliver::Produce,
            }
        } else {
            undo.not_prepared = Some(statement.number);
            let server_name = statement.server_name();
            let start = at + HEADER + said.len() + 1;
            let length = 4 + server_name.len() + 1 + definition.len();
            out.server.write(|own| {
                own.push(frontend::PARSE);
                own.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
                write::c_string(own, server_name.as_bytes());
            });
            out.server.pass(start..start + definition.len());
            link.in_flight.add(Open::Statement(statement.number));
            Deliver::Forward
        };
        link.in_flight.add(Open::Name(name));
        let stands_in = undo.not_prepared.is_none() && must_see;
        let parsed = Expected::undoing(Reply::Parse, deliver, undo);
        match stands_in {
            true => self.parse_stand_in(definition, parsed, out),
            false => self.expect(parsed, out),
        }
        Ok(Step::Took(head.whole()))
    }

    /// Has PostgreSQL answer a Parse of what it has already, by one that it answers alike.
    fn parse_stand_in(&mut self, definition: &[u8], parsed: Expected, out: &mut Output) {
        out.server.write(|own| {
            parse_message(own, POOLERS.as_bytes(), stand_in(definition));
            close_message(own, POOLERS);
        });
        self.expect(parsed, out);
        self.expect(Expected::swallow(Reply::Close), out);
    }

    /// The statement with this definition, as a named Parse means it now.
    fn meaning(&mut self, definition: &[u8], statements: &dyn SharedStatements) -> Arc<Statement> {
        let under = self.reads_under(statements);
        let statement = statements.intern(definition, &under, self.rules.prepared_cache);
        let failed = |link: &ServerLink| link.backend.status == TransactionStatus::Failed;
        match self.link.as_ref().is_some_and(failed) {
            // PostgreSQL refuses it there, or has another complaint.
            true => Arc::new(statements.apart(&statement, &under)),
            false => statement,
        }
    }

    /// A Parse without a name: it goes to the server as it is, and is remembered for a Bind that comes without
    /// it in a later transaction.
    fn parse_unnamed(
        &mut self,
        definition: &[u8],
        statements: &dyn SharedStatements,
        out: &mut Output,
    ) {
        let under = self.reads_under(statements);
        let mut statement = Statement::unnamed(statements.next_number(), definition, &under);
        statement.epoch = statements.epoch();
        self.close_surplus(out);
        let before = self.statements.insert(Vec::new(), Arc::new(statement));
        if let Some(link) = &mut self.link {
            link.unnamed_parsed = true;
            link.in_flight.add(Open::Name(b""));
        }
        let undo = Undo {
            name: Some((Vec::new(), before)),
            ..Undo::default()
        };
        self.expect(Expected::undoing(Reply::Parse, Deliver::Forward, undo), out);
    }

    /// A Parse under a name that is in use. PostgreSQL complains of that last of all, so it is asked first
    /// whether it has any other complaint.
    fn refuse_taken(&mut self, name: &[u8], definition: &[u8], out: &mut Output) {
        self.put_unnamed(definition, out);
        let words = format!(
            "prepared statement \"{}\" already exists",
            String::from_utf8_lossy(name)
        );
        self.refuse_in_batch(
            frontend::PARSE,
            Refusal {
                code: sqlstate::DUPLICATE_STATEMENT.to_owned(),
                words,
                routine: None,
            },
            out,
        );
    }
}

/// The definition of a statement that PostgreSQL parses or refuses as it would this one, which it has parsed before:
/// in a failed transaction it parses nothing but what may end that.
fn stand_in(definition: &[u8]) -> &'static [u8] {
    let text = definition.trim_ascii_start();
    let begins = |word: &&str| {
        let first = text.get(..word.len());
        first.is_some_and(|first| first.eq_ignore_ascii_case(word.as_bytes()))
    };
    let ends = ["rollback", "commit", "end", "abort", "prepare", ";", "\0"];
    match ends.iter().any(begins) {
        true => b"\0\0\0",
        false => b"SELECT 1\0\0\0",
    }
}
