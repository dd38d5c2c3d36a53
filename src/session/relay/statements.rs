//! Prepared statements that follow their client: its names are replaced by those the statements have on
//! servers, and what a server lacks is put in front of the request that needs it.
//!
//! No round trip, no Sync and no name of the pooler's own is ever seen by a client. What the client has no
//! statement for passes as it is, so that PostgreSQL complains in its own words.

use std::sync::Arc;

use super::deallocate::{deallocation, does_not_exist, is_poolers_own};
use super::expected::{Deliver, Expected, Refusal, Reply, Undo};
use super::pieces::Output;
use super::requests::{Step, Violation};
use super::stale;
use super::unsettled::Open;
use crate::pool::statements::Statements;
use crate::server::prepared::{NOBODYS, PREFIX, Statement};
use crate::server::reading::{self, Changes};
use crate::server::traces::{self, Scan, Traces};
use crate::session::session::{Lent, Session};
use crate::wire::frame::{self, HEADER, Header};
use crate::wire::sqlstate;
use crate::wire::{frontend, write};

/// The longest Parse that is taken as a whole, in bytes; a statement's text has to be stored.
pub const LONGEST_STATEMENT: usize = 256 * 1024 * 1024;

/// The longest names in Bind, Describe and Close together, in bytes. PostgreSQL has no limit of its own, and takes
/// names that differ only behind their first 63 bytes for the same, which are kept apart here; drivers use some dozen
/// bytes.
const LONGEST_NAMES: usize = 8 * 1024;

impl Session {
    /// Closes statements that had to make room, in front of a batch of the client's: that costs no round
    /// trip. Later in the batch the server might be copying, and take a Close for a broken protocol; and
    /// with nothing under way, nothing can fail and leave the Close undone.
    fn close_surplus(&mut self, out: &mut Output) {
        let Some(lent) = &mut self.lent else { return };
        if !lent.expected.is_empty() {
            return;
        }
        let mut leaving = Vec::new();
        while let Some(number) = lent.backend.prepared.take_surplus() {
            leaving.push(number);
        }
        for number in leaving {
            out.server.write(|own| {
                write::message(own, frontend::CLOSE, |body| {
                    body.push(b'S');
                    write::c_string(body, format!("{PREFIX}{number}").as_bytes());
                });
            });
            let undo = Undo {
                not_closed: Some(number),
                ..Undo::default()
            };
            let closed = Expected::undoing(Reply::Close, Deliver::Swallow, undo);
            self.expect(closed, out);
        }
    }

    /// Whether a request that speaks of this name, and one that speaks of this statement, has to wait.
    pub(super) fn hangs_on(&mut self, name: Option<&[u8]>, statement: Option<&Statement>) -> bool {
        let number = statement.map(|statement| statement.number);
        let lent = self.lent.as_mut();
        lent.is_some_and(|lent| lent.unsettled.concerns(name, number))
    }

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
        if let Some(lent) = &mut self.lent {
            if first != 0 {
                lent.backend.traces.add(Traces::STATEMENTS);
            } else {
                lent.unnamed_parsed = true;
            }
            let text = &rest[HEADER..rest.len().min(head.whole())];
            let whole = text.len() == head.body;
            let mut scan = Scan::default();
            lent.backend.traces.add(scan.read(text, whole));
            self.client.frame.scan = (!whole).then_some(scan);
            let bare =
                frame::c_string(text).and_then(|(_, definition)| frame::c_string(definition));
            if let Some((bare, _)) = bare.filter(|_| whole) {
                self.note_going_back(Some(bare), traces::of_text(bare), true);
            }
        }
        self.expect(Expected::forward(Reply::Parse), out);
        Ok(self.begin(head, at, rest, false, out))
    }

    pub(super) fn parse(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
        statements: &Statements,
        out: &mut Output,
    ) -> Result<Step, Violation> {
        if head.body > LONGEST_STATEMENT {
            return Err(Violation(format!(
                "a statement of {} bytes cannot be prepared through the pooler; the limit is {LONGEST_STATEMENT}",
                head.body
            )));
        }
        let Some(body) = rest.get(HEADER..head.whole()) else {
            return Ok(Step::NeedsMore);
        };
        let malformed = || Violation("invalid Parse message".to_owned());
        let (name, definition) = frame::c_string(body).ok_or_else(malformed)?;
        check_definition(definition).ok_or_else(malformed)?;
        if let Err(name) = self.deallocated_by(definition) {
            self.refuse_in_batch(does_not_exist(&name), out);
            return Ok(Step::Took(head.whole()));
        }
        let under = self.reads_under(statements);
        let known = self.statements.get(name).cloned();
        let statement = match &known {
            Some(known) if known.is_still(definition, &under) => Arc::clone(known),
            _ => statements.intern(definition, &under, self.rules.prepared_cache),
        };
        // The unnamed statement is replaced, whatever it was.
        let taken = known.filter(|_| !name.is_empty());
        let taken = taken.map(|taken| self.current(taken, statements));
        let hangs_on = Some(name).filter(|name| !name.is_empty());
        if self.hangs_on(hangs_on, Some(taken.as_ref().unwrap_or(&statement))) {
            return Ok(Step::MustWait);
        }
        if taken.is_none() && self.looks_at(&statement, statements, out) {
            return Ok(Step::MustWait);
        }
        self.close_surplus(out);
        if let Some(taken) = taken {
            // PostgreSQL refuses a name that is in use. Let it say so itself, at the right place: prepare
            // the statement under a name that it has.
            self.ensure_prepared(&taken, out);
            let server_name = taken.server_name();
            out.server
                .write(|own| parse_message(own, server_name.as_bytes(), definition));
            self.expect(Expected::forward(Reply::Parse), out);
            return Ok(Step::Took(head.whole()));
        }
        if !name.is_empty() && self.statements.len() >= self.named_limit() {
            self.refuse_in_batch(self.too_many_statements(), out);
            return Ok(Step::Took(head.whole()));
        }
        let before = self
            .statements
            .insert(name.to_vec(), Arc::clone(&statement));
        let mut undo = Undo {
            name: Some((name.to_vec(), before)),
            ..Undo::default()
        };
        let limit = self.rules.prepared_per_server;
        let Some(lent) = &mut self.lent else {
            return Ok(Step::NeedsServer);
        };
        let deliver = if lent.backend.has_statement(&statement, limit) {
            Deliver::Produce
        } else {
            undo.not_prepared = Some(statement.number);
            let server_name = statement.server_name();
            let start = at + HEADER + name.len() + 1;
            let length = 4 + server_name.len() + 1 + definition.len();
            out.server.write(|own| {
                own.push(frontend::PARSE);
                own.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
                write::c_string(own, server_name.as_bytes());
            });
            out.server.pass(start..start + definition.len());
            lent.unsettled.add(Open::Statement(statement.number));
            Deliver::Forward
        };
        lent.unsettled.add(Open::Name(name));
        self.expect(Expected::undoing(Reply::Parse, deliver, undo), out);
        Ok(Step::Took(head.whole()))
    }

    /// The statement itself, or, if it must not be used any more or is read otherwise now, the one with the
    /// same definition that is meant.
    fn current(&mut self, statement: Arc<Statement>, statements: &Statements) -> Arc<Statement> {
        let under = self.reads_under(statements);
        if statement.is_still_read(&under) {
            statement
        } else {
            statements.intern(&statement.definition, &under, self.rules.prepared_cache)
        }
    }

    /// How many statements the client may have, its unnamed one included.
    fn named_limit(&self) -> usize {
        let unnamed = usize::from(self.statements.contains_key(&b""[..]));
        self.rules.prepared_per_client.saturating_add(unnamed)
    }

    fn too_many_statements(&self) -> Refusal {
        let words = format!(
            "too many prepared statements: this client has {} and the pooler allows no more \
             (client_prepared_statements_max); close those that are no longer needed",
            self.rules.prepared_per_client
        );
        Refusal {
            code: sqlstate::LIMIT_EXCEEDED.to_owned(),
            words,
            routine: None,
        }
    }

    /// Refuses a request inside a batch. The server is sent one in its place that must fail, so that the
    /// batch and its transaction go on as after any error; the client gets these words at the right place.
    fn refuse_in_batch(&mut self, refusal: Refusal, out: &mut Output) {
        out.server.write(|own| {
            write::message(own, frontend::BIND, |body| {
                write::c_string(body, b"");
                write::c_string(body, NOBODYS.as_bytes());
                body.extend_from_slice(&[0; 6]);
            });
        });
        let undo = Undo {
            refusal: Some(refusal),
            ..Undo::default()
        };
        let refused = Expected::undoing(Reply::Refused, Deliver::Forward, undo);
        self.expect(refused, out);
    }

    /// Puts a Parse in front of a request whose statement this server connection lacks.
    fn ensure_prepared(&mut self, statement: &Statement, out: &mut Output) {
        let limit = self.rules.prepared_per_server;
        let text = frame::c_string(&statement.definition).map(|(text, _)| text);
        self.note_going_back(text, statement.traces, true);
        let Some(lent) = &mut self.lent else { return };
        lent.backend.traces.add(statement.traces);
        if statement.traces.has(Traces::FORGETTING) {
            lent.unsettled.add(Open::Everything);
        }
        if !statement.traces.has(Traces::READING)
            && lent.changes.are_any()
            && reading::may_take_back(&statement.definition)
        {
            lent.changes = Changes::Unknown(None);
        }
        if lent.backend.has_statement(statement, limit) {
            return;
        }
        lent.unsettled.add(Open::Statement(statement.number));
        let name = statement.server_name();
        out.server
            .write(|own| parse_message(own, name.as_bytes(), &statement.definition));
        let undo = Undo {
            not_prepared: Some(statement.number),
            ..Undo::default()
        };
        let parsed = Expected::undoing(Reply::Parse, Deliver::Swallow, undo);
        self.expect(parsed, out);
    }

    /// Bind, Describe or Close: a statement's name is replaced by the one it has on the server.
    pub(super) fn name_statement(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
        statements: &Statements,
        out: &mut Output,
    ) -> Result<Step, Violation> {
        let there = &rest[HEADER..rest.len().min(head.whole())];
        let whole = there.len() == head.body;
        let malformed = || {
            Violation(format!(
                "invalid message of type \"{}\"",
                head.kind.escape_ascii()
            ))
        };
        let names = match head.kind {
            // Portal, then statement.
            frontend::BIND => frame::c_string(there)
                .and_then(|(portal, after)| Some((portal.len() + 1, frame::c_string(after)?.0))),
            _ => match there.split_first() {
                Some((b'S', after)) => frame::c_string(after).map(|(name, _)| (1, name)),
                Some((b'P', after)) => frame::c_string(after).map(|_| (1, &b""[..])),
                Some(_) => return Err(malformed()),
                None => None,
            },
        };
        let Some((before, name)) = names else {
            if whole || there.len() > LONGEST_NAMES {
                return Err(malformed());
            }
            return Ok(Step::NeedsMore);
        };
        let of_portal = head.kind != frontend::BIND && there.first() == Some(&b'P');
        let reply = match head.kind {
            frontend::BIND => Reply::Bind,
            frontend::DESCRIBE => Reply::Describe,
            _ => Reply::Close,
        };
        let mut deallocated = None;
        let statement = if of_portal || !self.rules.follow_statements {
            None
        } else {
            let mut statement = self.statements.get(name).cloned();
            if head.kind != frontend::CLOSE {
                statement = statement.map(|one| self.current(one, statements));
            }
            if self.hangs_on(Some(name), statement.as_deref()) {
                return Ok(Step::MustWait);
            }
            if let Some(statement) = statement.as_ref().filter(|_| head.kind == frontend::BIND) {
                self.inherit_shape(name, statement, statements);
            }
            // Almost no text speaks of deallocating.
            let may = |one: &&Arc<Statement>| one.traces.has(Traces::FORGETTING);
            let binds = head.kind == frontend::BIND;
            if let Some(said) = statement.as_ref().filter(|_| binds).filter(may) {
                match self.deallocated_by(&said.definition) {
                    Ok(about) => deallocated = about,
                    Err(name) => {
                        self.refuse_in_batch(does_not_exist(&name), out);
                        return Ok(self.begin(head, at, rest, true, out));
                    }
                }
            }
            if let (Some((name, meant)), Some(said)) = (&deallocated, &mut statement) {
                if self.hangs_on(Some(name), Some(meant)) {
                    return Ok(Step::MustWait);
                }
                // It has to speak of the name that the server knows.
                let renamed = deallocation(meant, &said.definition);
                *said = statements.intern(&renamed, &said.under, self.rules.prepared_cache);
            }
            let needed = statement.as_ref().filter(|_| head.kind != frontend::CLOSE);
            if needed.is_some_and(|needed| self.looks_at(needed, statements, out)) {
                return Ok(Step::MustWait);
            }
            self.close_surplus(out);
            statement
        };
        let follows = self.rules.follow_statements;
        let parsed = self.lent.as_ref().is_some_and(|lent| lent.unnamed_parsed);
        let anothers = !of_portal
            && match name {
                // It may have been left by the client that had the connection before.
                b"" => !follows && !parsed,
                name => follows && statement.is_none() && is_poolers_own(name),
            };
        if anothers && head.kind == frontend::CLOSE {
            let closed = Expected::undoing(reply, Deliver::Produce, Undo::default());
            self.expect(closed, out);
            return Ok(self.begin(head, at, rest, true, out));
        }
        if anothers {
            self.refuse_in_batch(does_not_exist(name), out);
            return Ok(self.begin(head, at, rest, true, out));
        }
        let Some(statement) = statement else {
            // A portal, or a name PostgreSQL knows or will complain about in its own words.
            let mut expected = Expected::forward(reply);
            if let (frontend::DESCRIBE, true, Some(lent)) = (head.kind, of_portal, &mut self.lent) {
                let portal = frame::c_string(&there[1..]).map(|(portal, _)| portal);
                let bound = (lent.bound).take_if(|(bound, _)| Some(bound.as_slice()) == portal);
                expected.describes = bound.map(|(_, statement)| statement);
            }
            self.expect(expected, out);
            return Ok(self.begin(head, at, rest, false, out));
        };
        if head.kind == frontend::CLOSE {
            let meant = self.statements.remove(name);
            if let Some(lent) = &mut self.lent {
                lent.unsettled.add(Open::Name(name));
            }
            let undo = Undo {
                name: Some((name.to_vec(), meant)),
                ..Undo::default()
            };
            let closed = Expected::undoing(reply, Deliver::Produce, undo);
            self.expect(closed, out);
            return Ok(self.begin(head, at, rest, true, out));
        }
        let known = self.statements.get(name).filter(|_| deallocated.is_none());
        if known.is_some_and(|known| !Arc::ptr_eq(known, &statement)) {
            let stale = known.is_some_and(|known| known.is_retired());
            let parsed_here = |lent: &Lent| lent.kept.parses(name);
            let fresh = self.begins_again || self.lent.as_ref().is_some_and(parsed_here);
            if stale && head.kind == frontend::BIND && !fresh {
                self.refuse_in_batch(stale::refusal(), out);
                return Ok(self.begin(head, at, rest, true, out));
            }
            self.statements
                .insert(name.to_vec(), Arc::clone(&statement));
        }
        self.begins_again = false;
        if let Some((name, meant)) = deallocated {
            self.ensure_prepared(&meant, out);
            if let Some(lent) = &mut self.lent {
                lent.deallocating.push_back((name, meant.number));
            }
        }
        self.ensure_prepared(&statement, out);
        let server_name = statement.server_name();
        let length = 4 + head.body - name.len() + server_name.len();
        let length = u32::try_from(length).map_err(|_| malformed())?;
        out.server.write(|own| {
            own.push(head.kind);
            own.extend_from_slice(&length.to_be_bytes());
            own.extend_from_slice(&there[..before]);
            own.extend_from_slice(server_name.as_bytes());
        });
        let after = HEADER + before + name.len();
        let end = head.whole().min(rest.len());
        out.server.pass(at + after..at + end);
        self.client.frame.left = head.whole() - end;
        self.client.frame.dropped = false;
        let mut expected = Expected::forward(reply);
        expected.statement = Some(statement.number);
        let effects = statement.traces;
        let untold = Some(statement).filter(|one| one.shape.is_unknown());
        match (head.kind, &mut self.lent) {
            (frontend::DESCRIBE, _) => expected.describes = untold,
            (_, Some(lent)) => {
                lent.bound_effects.bind(&there[..before - 1], effects);
                let portal = || there[..before - 1].to_vec();
                lent.bound = untold.map(|statement| (portal(), statement));
            }
            _ => {}
        }
        self.expect(expected, out);
        Ok(Step::Took(end))
    }
}

/// Whether the rest of a Parse is what it should be: a text, and as many parameter types as announced.
fn check_definition(definition: &[u8]) -> Option<()> {
    let (_, types) = frame::c_string(definition)?;
    let (count, types) = types.split_first_chunk::<2>()?;
    (types.len() == 4 * usize::from(u16::from_be_bytes(*count))).then_some(())
}

pub(super) fn parse_message(out: &mut Vec<u8>, name: &[u8], definition: &[u8]) {
    write::message(out, frontend::PARSE, |body| {
        write::c_string(body, name);
        body.extend_from_slice(definition);
    });
}
