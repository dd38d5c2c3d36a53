//! Prepared statements that follow their client: its names are replaced by those the statements have on
//! servers, and what a server lacks is put in front of the request that needs it.
//!
//! A Parse without a name goes to the server as it is: PostgreSQL analyses it anew each time. One with a name is
//! answered from what the server has, if nothing was defined since that was analysed.
//!
//! No round trip, no Sync and no name of the pooler's own is ever seen by a client. What the client has no
//! statement for passes as it is, so that PostgreSQL complains in its own words.
//!
//! The invariant: `unnamed_parsed` is true only if the server's unnamed statement is the client's, or neither has
//! any; where that is not certain it is false, and what is remembered is parsed again before it is used.

use std::sync::Arc;

use super::deallocate::{Deallocated, deallocation, does_not_exist, is_poolers_own};
use super::expected::{Deliver, Expected, Refusal, Reply, Undo};
use super::pieces::Output;
use super::requests::{Step, Violation};
use super::stale;
use super::unsettled::Open;
use crate::pool::statements::Statements;
use crate::server::prepared::{Limit, NOBODYS, PREFIX, Statement};
use crate::server::reading::{self, Changes};
use crate::server::traces::{self, Scan, Traces};
use crate::session::session::{Lent, Session};
use crate::wire::backend::TransactionStatus;
use crate::wire::frame::{self, HEADER, Header};
use crate::wire::sqlstate;
use crate::wire::{frontend, write};

/// The longest Parse that is taken as a whole, in bytes; a statement's text has to be stored.
pub const LONGEST_STATEMENT: usize = 256 * 1024 * 1024;

/// What a statement takes beside its text and its name, in bytes.
const EACH_STATEMENT: usize = 256;

/// The longest names in Bind, Describe and Close together, in bytes. PostgreSQL has no limit of its own; drivers use
/// some dozen bytes.
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
        let unnamed = first == 0;
        let mut expected = Expected::forward(Reply::Parse);
        if let Some(lent) = self.lent.as_mut().filter(|_| unnamed) {
            let before = std::mem::replace(&mut lent.unnamed_parsed, true);
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
        statements: &Statements,
        out: &mut Output,
    ) -> Result<Step, Violation> {
        // The unnamed one makes room for itself.
        let replaces = rest.get(HEADER) == Some(&0);
        let replaced = self.statements.get(&b""[..]).filter(|_| replaces);
        let replaced = replaced.map_or(0, |one| one.definition.len());
        if self.is_too_much(head.body.saturating_sub(replaced)) {
            self.refuse_in_batch(self.too_much(), out);
            return Ok(self.begin(head, at, rest, true, out));
        }
        if head.body > LONGEST_STATEMENT {
            return Err(Violation(format!(
                "a statement of {} bytes cannot be prepared through the pooler; the limit is {LONGEST_STATEMENT}",
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
            self.refuse_in_batch(does_not_exist(&name), out);
            return Ok(Step::Took(head.whole()));
        }
        if name.is_empty() {
            self.parse_unnamed(definition, statements, out);
            return Ok(self.begin(head, at, rest, false, out));
        }
        let taken = self.statements.get(name).cloned();
        if self.hangs_on(Some(name), taken.as_deref()) {
            return Ok(Step::MustWait);
        }
        if taken.is_some() {
            self.refuse_taken(said, definition, out);
            return Ok(Step::Took(head.whole()));
        }
        let under = self.reads_under(statements);
        let mut statement = statements.intern(definition, &under, self.rules.prepared_cache);
        let failed = |lent: &Lent| lent.backend.status == TransactionStatus::Failed;
        if self.lent.as_ref().is_some_and(failed) {
            // PostgreSQL refuses it there, or has another complaint.
            statement = Arc::new(statements.apart(&statement, &under));
        }
        if self.hangs_on(None, Some(&statement)) {
            return Ok(Step::MustWait);
        }
        self.close_surplus(out);
        if self.statements.len() >= self.named_limit() {
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
        let limit = self.limit_per_server();
        let Some(lent) = &mut self.lent else {
            return Ok(Step::NeedsServer);
        };
        let deliver = if lent.backend.has_statement(&statement, limit) {
            lent.kept.answers_from_memory(statement.number);
            Deliver::Produce
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
            lent.unsettled.add(Open::Statement(statement.number));
            Deliver::Forward
        };
        lent.unsettled.add(Open::Name(name));
        self.expect(Expected::undoing(Reply::Parse, deliver, undo), out);
        Ok(Step::Took(head.whole()))
    }

    /// A Parse without a name: it goes to the server as it is, and is remembered for a Bind that comes without
    /// it in a later transaction.
    fn parse_unnamed(&mut self, definition: &[u8], statements: &Statements, out: &mut Output) {
        let under = self.reads_under(statements);
        let mut statement = Statement::unnamed(statements.next_number(), definition, &under);
        statement.epoch = statements.epoch();
        self.close_surplus(out);
        let before = self.statements.insert(Vec::new(), Arc::new(statement));
        if let Some(lent) = &mut self.lent {
            lent.unnamed_parsed = true;
            lent.unsettled.add(Open::Name(b""));
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
            Refusal {
                code: sqlstate::DUPLICATE_STATEMENT.to_owned(),
                words,
                routine: None,
            },
            out,
        );
    }

    /// Has the server parse something of the pooler's own as its unnamed statement.
    fn put_unnamed(&mut self, definition: &[u8], out: &mut Output) {
        out.server.write(|own| parse_message(own, b"", definition));
        if let Some(lent) = &mut self.lent {
            lent.unnamed_parsed = false;
            lent.unsettled.add(Open::Name(b""));
        }
        self.expect(Expected::swallow(Reply::Parse), out);
    }

    /// What one server connection keeps.
    pub(super) fn limit_per_server(&self) -> Limit {
        Limit {
            statements: self.rules.prepared_per_server,
            bytes: self.rules.prepared_bytes_per_server,
        }
    }

    /// Bytes of the statements that the client has, as far as the pooler keeps them for it.
    fn held(&self) -> usize {
        let each = |(name, one): (&Vec<u8>, &Arc<Statement>)| {
            name.len() + one.definition.len() + EACH_STATEMENT
        };
        self.statements.iter().map(each).sum()
    }

    /// Whether a Parse with this many bytes would be more than the client may have the pooler keep.
    pub(super) fn is_too_much(&self, body: usize) -> bool {
        self.held().saturating_add(body) > self.rules.memory_per_client
    }

    fn too_much(&self) -> Refusal {
        let words = format!(
            "out of memory: this client has the pooler keep {} bytes of prepared statements and may have {} \
             (client_memory_limit); close those that are no longer needed",
            self.held(),
            self.rules.memory_per_client
        );
        Refusal {
            code: sqlstate::OUT_OF_MEMORY.to_owned(),
            words,
            routine: None,
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

    /// Takes note that a statement is going to be used, and puts a Parse in front of the request if this server
    /// connection lacks it.
    fn ensure_prepared(&mut self, statement: &Statement, out: &mut Output) {
        let limit = self.limit_per_server();
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
        if statement.is_unnamed() {
            if std::mem::replace(&mut lent.unnamed_parsed, true) {
                return;
            }
            lent.unsettled.add(Open::Name(b""));
        } else {
            if lent.backend.has_statement(statement, limit) {
                return;
            }
            lent.unsettled.add(Open::Statement(statement.number));
        }
        let name = statement.server_name();
        out.server
            .write(|own| parse_message(own, name.as_bytes(), &statement.definition));
        let undo = Undo::not_parsed(statement.number);
        let parsed = Expected::undoing(Reply::Parse, Deliver::Swallow, undo);
        self.expect(parsed, out);
    }

    /// The statement to be used for one that the client has under `name`, on this server connection and under
    /// the settings of this moment.
    fn usable(
        &mut self,
        name: &[u8],
        meant: &Arc<Statement>,
        statements: &Statements,
        out: &mut Output,
    ) -> Usable {
        let Some(lent) = &self.lent else {
            return Usable::MustWait;
        };
        let stands = match meant.is_unnamed() {
            true => lent.unnamed_parsed,
            false => lent.backend.prepared.has(meant.number),
        };
        if stands && !meant.is_retired() {
            // Whatever has become of tables and settings, PostgreSQL itself knows what that means for it.
            return Usable::Now(Arc::clone(meant));
        }
        let fresh = self.begins_again || lent.kept.parses(name);
        if meant.is_retired() && (meant.is_unnamed() || !fresh) {
            return Usable::Not(stale::refusal());
        }
        let under = self.reads_under(statements);
        let mut usable = Arc::clone(meant);
        if meant.is_retired() {
            usable = statements.intern(&meant.definition, &under, self.rules.prepared_cache);
            self.statements.insert(name.to_vec(), Arc::clone(&usable));
        } else if *meant.under != *under {
            let Some(other) = self.under_other_settings(meant, &under, statements) else {
                return Usable::Not(stale::refusal());
            };
            usable = other;
        }
        if self.hangs_on(None, Some(&usable)) || self.looks_at(&usable, statements, out) {
            return Usable::MustWait;
        }
        Usable::Now(usable)
    }

    /// The statement that stands for one of the client's under settings that differ from those it was prepared
    /// under, on a server connection that lacks it. `None` if the client would misread its rows.
    fn under_other_settings(
        &mut self,
        meant: &Arc<Statement>,
        under: &Arc<[u8]>,
        statements: &Statements,
    ) -> Option<Arc<Statement>> {
        // What the client was told of it under the others holds.
        let told = !meant.shape.is_unknown();
        if meant.is_unnamed() {
            let mut other = Statement::unnamed(statements.next_number(), &meant.definition, under);
            other.shape = meant.shape.told();
            let other = Arc::new(other);
            self.statements.insert(Vec::new(), Arc::clone(&other));
            return Some(other);
        }
        let known = self.substitutes.get(&meant.number);
        match known.filter(|known| *known.under == **under) {
            Some(known) if !known.is_retired() => return Some(Arc::clone(known)),
            Some(_) if told => return None,
            _ => {}
        }
        let other = if told {
            let mut apart = statements.apart(meant, under);
            apart.shape = meant.shape.told();
            Arc::new(apart)
        } else {
            statements.intern(&meant.definition, under, self.rules.prepared_cache)
        };
        if self.substitutes.len() > self.statements.len() {
            // Those of statements that the client has no more.
            self.substitutes.clear();
        }
        self.substitutes.insert(meant.number, Arc::clone(&other));
        Some(other)
    }

    /// A Bind of a prepared DEALLOCATE: the server is asked to deallocate the statement by the name that it
    /// knows. `None` if what it means is not known yet.
    fn deallocates_in_batch(
        &mut self,
        portal: &[u8],
        about: Deallocated,
        definition: &[u8],
        out: &mut Output,
    ) -> Option<()> {
        let (name, meant) = about;
        if self.hangs_on(Some(&name), Some(&meant)) {
            return None;
        }
        self.close_surplus(out);
        self.ensure_prepared(&meant, out);
        self.put_unnamed(&deallocation(&meant, definition), out);
        if let Some(lent) = &mut self.lent {
            lent.unsettled.add(Open::Everything);
            lent.portals_deallocating
                .insert(portal.to_vec(), (name, meant.number));
        }
        Some(())
    }

    /// A message that PostgreSQL refuses by its form, whatever it says: the batch fails, and not the session.
    fn pass_malformed(
        &mut self,
        reply: Reply,
        head: Header,
        at: usize,
        rest: &[u8],
        out: &mut Output,
    ) -> Step {
        self.expect(Expected::forward(reply), out);
        self.begin(head, at, rest, false, out)
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
        let reply = match head.kind {
            frontend::BIND => Reply::Bind,
            frontend::DESCRIBE => Reply::Describe,
            _ => Reply::Close,
        };
        let names = match names_in(head, rest)? {
            NamesIn::Found(names) => names,
            NamesIn::NeedsMore => return Ok(Step::NeedsMore),
            NamesIn::Malformed => return Ok(self.pass_malformed(reply, head, at, rest, out)),
        };
        let of_portal = names.statement.is_none();
        let said = names.statement.unwrap_or_default();
        let name = key(said);
        let follows = self.rules.follow_statements;
        let known = match follows && !of_portal {
            true => self.statements.get(name).cloned(),
            false => None,
        };
        if follows && !of_portal && self.hangs_on(Some(name), known.as_deref()) {
            return Ok(Step::MustWait);
        }
        if !of_portal
            && follows
            && head.kind == frontend::CLOSE
            && (known.is_some() || name.is_empty())
        {
            self.close_statement(name, out);
            return Ok(self.begin(head, at, rest, true, out));
        }
        let Some(meant) = known else {
            let parsed = self.lent.as_ref().is_some_and(|lent| lent.unnamed_parsed);
            let anothers = !of_portal
                && match name {
                    // It may have been left by the client that had the connection before.
                    b"" => !parsed,
                    name => follows && is_poolers_own(name),
                };
            if anothers && head.kind == frontend::CLOSE {
                let closed = Expected::undoing(reply, Deliver::Produce, Undo::default());
                self.expect(closed, out);
                return Ok(self.begin(head, at, rest, true, out));
            }
            if anothers {
                self.refuse_in_batch(does_not_exist(said), out);
                return Ok(self.begin(head, at, rest, true, out));
            }
            // A portal, or a name PostgreSQL knows or will complain about in its own words.
            let mut expected = Expected::forward(reply);
            if let (frontend::DESCRIBE, true, Some(lent)) = (head.kind, of_portal, &mut self.lent) {
                let bound = (lent.bound).take_if(|(bound, _)| bound.as_slice() == names.portal);
                expected.describes = bound.map(|(_, statement)| statement);
            }
            self.expect(expected, out);
            return Ok(self.begin(head, at, rest, false, out));
        };
        let mut server_name = String::new();
        let mut used = None;
        // Almost no text speaks of deallocating.
        let deallocates = head.kind == frontend::BIND && meant.traces.has(Traces::FORGETTING);
        let about = match deallocates {
            true => self.deallocated_by(&meant.definition),
            false => Ok(None),
        };
        match about {
            Err(name) => {
                self.refuse_in_batch(does_not_exist(&name), out);
                return Ok(self.begin(head, at, rest, true, out));
            }
            Ok(Some(about)) => {
                let asked = self.deallocates_in_batch(names.portal, about, &meant.definition, out);
                if asked.is_none() {
                    return Ok(Step::MustWait);
                }
            }
            Ok(None) => {
                let usable = match self.usable(name, &meant, statements, out) {
                    Usable::Now(usable) => usable,
                    Usable::MustWait => return Ok(Step::MustWait),
                    Usable::Not(refusal) => {
                        self.close_surplus(out);
                        self.refuse_in_batch(refusal, out);
                        return Ok(self.begin(head, at, rest, true, out));
                    }
                };
                self.begins_again = false;
                self.close_surplus(out);
                self.ensure_prepared(&usable, out);
                server_name = usable.server_name();
                used = Some(usable);
            }
        }
        let malformed = |_| Violation("a message is too long".to_owned());
        let length = 4 + head.body - said.len() + server_name.len();
        let length = u32::try_from(length).map_err(malformed)?;
        let before = HEADER + names.before;
        out.server.write(|own| {
            own.push(head.kind);
            own.extend_from_slice(&length.to_be_bytes());
            own.extend_from_slice(&rest[HEADER..before]);
            own.extend_from_slice(server_name.as_bytes());
        });
        let end = head.whole().min(rest.len());
        out.server.pass(at + before + said.len()..at + end);
        self.client.frame.left = head.whole() - end;
        self.client.frame.dropped = false;
        let mut expected = Expected::forward(reply);
        expected.statement = used.as_ref().map(|used| used.number);
        expected.called = (!name.is_empty()).then(|| said.into());
        let effects = used.as_ref().map_or(Traces::FORGETTING, |used| used.traces);
        let untold = used.filter(|one| one.shape.is_unknown());
        match (head.kind, &mut self.lent) {
            (frontend::DESCRIBE, _) => expected.describes = untold,
            (_, Some(lent)) => {
                lent.bound_effects.bind(names.portal, effects);
                lent.bound = untold.map(|statement| (names.portal.to_vec(), statement));
            }
            _ => {}
        }
        self.expect(expected, out);
        Ok(Step::Took(end))
    }

    /// A Close of what the client has under `name`. The statement stays on the server, for others.
    fn close_statement(&mut self, name: &[u8], out: &mut Output) {
        let meant = self.statements.remove(name);
        if let Some(lent) = &mut self.lent {
            lent.unsettled.add(Open::Name(name));
            // What stands there is not what the client has.
            lent.unnamed_parsed &= !name.is_empty();
        }
        let undo = Undo {
            name: Some((name.to_vec(), meant)),
            ..Undo::default()
        };
        let closed = Expected::undoing(Reply::Close, Deliver::Produce, undo);
        self.expect(closed, out);
    }
}

/// What a client may have of a statement.
enum Usable {
    /// This one serves.
    Now(Arc<Statement>),
    /// It is known only when replies have come.
    MustWait,
    /// The client must not have it.
    Not(Refusal),
}

/// What tells a name from others: as PostgreSQL, its first 63 bytes.
pub(super) fn key(name: &[u8]) -> &[u8] {
    &name[..name.len().min(63)]
}

/// The names in a Bind, Describe or Close.
pub(super) struct Names<'a> {
    portal: &'a [u8],
    /// `None` if it is about a portal.
    pub(super) statement: Option<&'a [u8]>,
    /// Bytes of the body in front of the statement's name.
    before: usize,
}

/// What is found of the names in a message.
pub(super) enum NamesIn<'a> {
    Found(Names<'a>),
    NeedsMore,
    /// PostgreSQL refuses the message by its form.
    Malformed,
}

/// The names in a Bind, Describe or Close, as far as it has come. `None`: not far enough.
pub(super) fn names_in(head: Header, rest: &[u8]) -> Result<NamesIn<'_>, Violation> {
    let there = &rest[HEADER..rest.len().min(head.whole())];
    let whole = there.len() == head.body;
    let of_statement = |portal, before, statement| Names {
        portal,
        statement: Some(statement),
        before,
    };
    let names = match head.kind {
        frontend::BIND => frame::c_string(there).and_then(|(portal, after)| {
            let (statement, _) = frame::c_string(after)?;
            Some(of_statement(key(portal), portal.len() + 1, statement))
        }),
        _ => match there.split_first() {
            Some((b'S', after)) => {
                frame::c_string(after).map(|(name, _)| of_statement(&b""[..], 1, name))
            }
            Some((b'P', after)) => frame::c_string(after).map(|(portal, _)| Names {
                portal: key(portal),
                statement: None,
                before: 1,
            }),
            Some(_) => return Ok(NamesIn::Malformed),
            None => None,
        },
    };
    match names {
        Some(names) => Ok(NamesIn::Found(names)),
        None if whole => Ok(NamesIn::Malformed),
        None if there.len() > LONGEST_NAMES => Err(Violation(format!(
            "a message of type \"{}\" has names of more than {LONGEST_NAMES} bytes",
            head.kind.escape_ascii()
        ))),
        None => Ok(NamesIn::NeedsMore),
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
