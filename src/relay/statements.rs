//! Prepared statements that follow their client: its names are replaced by those the statements have on
//! servers, and what a server lacks is put in front of the request that needs it.
//!
//! How statements come to be is in [`parsing`](crate::relay::parsing).
//!
//! No round trip, no Sync and no name of the pooler's own is ever seen by a client. What the client has no
//! statement for passes as it is, so that PostgreSQL complains in its own words.
//!
//! The invariant: `unnamed_parsed` is true only if the server's unnamed statement is the client's, or neither has
//! any; where that is not certain it is false, and what is remembered is parsed again before it is used.

use std::sync::Arc;

use super::deallocate::{Deallocated, deallocation, does_not_exist, is_poolers_own};
use super::expected::{Deliver, Expected, Refusal, Reply, Undo};
use super::in_flight::Open;
use super::names::{Names, NamesIn, key, names_in};
use super::output::Output;
use super::requests::{Step, Violation};
use super::session::{ServerLink, Session};
use super::shared_statements::SharedStatements;
use super::stale_plan;
use crate::server::dirty::DirtyState;
use crate::server::parse_settings::{self, Changes};
use crate::server::prepared::{NOBODYS, PREFIX, Statement};
use crate::wire::frame::{self, HEADER, Header};
use crate::wire::{frontend, write};

impl Session {
    /// Closes statements that had to make room, in front of a batch of the client's: that costs no round
    /// trip. Later in the batch the server might be copying, and take a Close for a broken protocol; and
    /// with nothing under way, nothing can fail and leave the Close undone.
    pub(super) fn close_surplus(&mut self, out: &mut Output) {
        let Some(link) = &mut self.link else { return };
        if !link.expected.is_empty() {
            return;
        }
        let mut leaving = Vec::new();
        while let Some(number) = link.backend.prepared.take_to_close() {
            leaving.push(number);
        }
        for number in leaving {
            out.server
                .write(|own| close_message(own, &format!("{PREFIX}{number}")));
            let undo = Undo {
                not_closed: Some(number),
                ..Undo::default()
            };
            let closed = Expected::undoing(Reply::Close, Deliver::Swallow, undo);
            self.expect(closed, out);
        }
    }

    /// Whether a request that speaks of this name, and one that speaks of this statement, has to wait.
    pub(super) fn must_wait_for(
        &mut self,
        name: Option<&[u8]>,
        statement: Option<&Statement>,
    ) -> bool {
        let number = statement.map(|statement| statement.number);
        let link = self.link.as_mut();
        link.is_some_and(|link| link.in_flight.concerns(name, number))
    }

    /// Has the server parse something of the pooler's own as its unnamed statement.
    pub(super) fn put_unnamed(&mut self, definition: &[u8], out: &mut Output) {
        out.server.write(|own| parse_message(own, b"", definition));
        if let Some(link) = &mut self.link {
            link.unnamed_parsed = false;
            link.in_flight.add(Open::Name(b""));
        }
        self.expect(Expected::swallow(Reply::Parse), out);
    }

    /// Refuses a request inside a batch. The server is sent one in its place that must fail, so that the
    /// batch and its transaction go on as after any error; the client gets these words at the right place.
    pub(super) fn refuse_in_batch(&mut self, kind: u8, refusal: Refusal, out: &mut Output) {
        out.server.write(|own| match kind {
            frontend::DESCRIBE => write::message(own, kind, |body| {
                body.push(b'S');
                write::c_string(body, NOBODYS.as_bytes());
            }),
            _ => write::message(own, frontend::BIND, |body| {
                write::c_string(body, b"");
                write::c_string(body, NOBODYS.as_bytes());
                body.extend_from_slice(&[0; 6]);
            }),
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
        self.note_going_back(text, statement.dirty, true);
        let Some(link) = &mut self.link else { return };
        link.backend.dirty.add(statement.dirty);
        if statement.dirty.has(DirtyState::FORGETTING) {
            link.in_flight.add(Open::Everything);
        }
        if !statement.dirty.has(DirtyState::READING)
            && link.changes.are_any()
            && parse_settings::may_take_back(&statement.definition)
        {
            link.changes = Changes::Unknown(None);
        }
        if statement.is_unnamed() {
            if std::mem::replace(&mut link.unnamed_parsed, true) {
                return;
            }
            link.in_flight.add(Open::Name(b""));
        } else {
            if link.backend.has_statement(statement, limit) {
                return;
            }
            link.in_flight.add(Open::Statement(statement.number));
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
        statements: &dyn SharedStatements,
        out: &mut Output,
    ) -> Usable {
        let Some(link) = &self.link else {
            return Usable::MustWait;
        };
        let stands = match meant.is_unnamed() {
            true => link.unnamed_parsed,
            false => link.backend.prepared.has(meant.number),
        };
        if stands && !meant.is_retired() {
            // Whatever has become of tables and settings, PostgreSQL itself knows what that means for it.
            return Usable::Now(Arc::clone(meant));
        }
        let fresh = self.begins_again || link.replay_buffer.parses(name);
        if meant.is_retired() && (meant.is_unnamed() || !fresh) {
            return Usable::Not(stale_plan::refusal());
        }
        let under = self.reads_under(statements);
        let mut usable = Arc::clone(meant);
        if meant.is_retired() {
            usable = statements.intern(&meant.definition, &under, self.rules.prepared_cache);
            self.statements.insert(name.to_vec(), Arc::clone(&usable));
        } else if *meant.under != *under {
            let Some(other) = self.under_other_settings(meant, &under, statements) else {
                return Usable::Not(stale_plan::refusal());
            };
            usable = other;
        }
        if self.must_wait_for(None, Some(&usable)) || self.looks_at(&usable, statements, out) {
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
        statements: &dyn SharedStatements,
    ) -> Option<Arc<Statement>> {
        // What the client knows of it under the other settings holds.
        let reported_to_client = !meant.shape.is_unknown();
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
            Some(_) if reported_to_client => return None,
            _ => {}
        }
        let other = if reported_to_client {
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
        if self.must_wait_for(Some(&name), Some(&meant)) {
            return None;
        }
        self.close_surplus(out);
        self.ensure_prepared(&meant, out);
        self.put_unnamed(&deallocation(&meant, definition), out);
        if let Some(link) = &mut self.link {
            link.in_flight.add(Open::Everything);
            link.portals_deallocating
                .insert(portal.to_vec(), (name, meant.number));
        }
        Some(())
    }

    /// A message that PostgreSQL refuses by its form, whatever it says: the batch fails, and not the session.
    pub(super) fn pass_malformed(
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
        statements: &dyn SharedStatements,
        out: &mut Output,
    ) -> Result<Step, Violation> {
        let names = match names_in(head, rest)? {
            NamesIn::Found(names) => names,
            NamesIn::NeedsMore => return Ok(Step::NeedsMore),
            NamesIn::Malformed => {
                return Ok(self.pass_malformed(reply_to(head.kind), head, at, rest, out));
            }
        };
        let followed = names.statement.filter(|_| self.rules.follow_statements);
        let mut known = None;
        if let Some(name) = followed.map(key) {
            known = self.statements.get(name).cloned();
            if self.must_wait_for(Some(name), known.as_deref()) {
                return Ok(Step::MustWait);
            }
            if head.kind == frontend::CLOSE && (known.is_some() || name.is_empty()) {
                self.close_statement(name, out);
                return Ok(self.begin(head, at, rest, true, out));
            }
        }
        let Some(meant) = known else {
            return Ok(self.pass_unknown(&names, head, at, rest, out));
        };
        match self.prepare_for(head.kind, &names, &meant, statements, out) {
            Usable::Now(used) => self.pass_renamed(&names, Some(used), head, at, rest, out),
            Usable::InItsPlace => self.pass_renamed(&names, None, head, at, rest, out),
            Usable::MustWait => Ok(Step::MustWait),
            Usable::Not(refusal) => {
                self.close_surplus(out);
                self.refuse_in_batch(head.kind, refusal, out);
                Ok(self.begin(head, at, rest, true, out))
            }
        }
    }

    /// Bind, Describe or Close of a portal, or of a name that the client has no statement under: PostgreSQL may
    /// know it, or complains in its own words.
    fn pass_unknown(
        &mut self,
        names: &Names<'_>,
        head: Header,
        at: usize,
        rest: &[u8],
        out: &mut Output,
    ) -> Step {
        let reply = reply_to(head.kind);
        let parsed = self.link.as_ref().is_some_and(|link| link.unnamed_parsed);
        let is_anothers = |said: &&[u8]| match key(said) {
            // It may have been left by the client that had the connection before.
            b"" => !parsed,
            name => self.rules.follow_statements && is_poolers_own(name),
        };
        if let Some(said) = names.statement.filter(is_anothers) {
            if head.kind == frontend::CLOSE {
                self.close_nothing(Undo::default(), out);
            } else {
                self.refuse_in_batch(head.kind, does_not_exist(said), out);
            }
            return self.begin(head, at, rest, true, out);
        }
        let mut expected = Expected::forward(reply);
        let of_portal = names.statement.is_none();
        if let (frontend::DESCRIBE, true, Some(link)) = (head.kind, of_portal, &mut self.link) {
            let bound = (link.last_bound).take_if(|(bound, _)| bound.as_slice() == names.portal);
            expected.describes = bound.map(|(_, statement)| statement);
        }
        self.expect(expected, out);
        self.begin(head, at, rest, false, out)
    }

    /// Has the server prepare what a Bind or Describe speaks of, if it lacks that.
    fn prepare_for(
        &mut self,
        kind: u8,
        names: &Names<'_>,
        meant: &Arc<Statement>,
        statements: &dyn SharedStatements,
        out: &mut Output,
    ) -> Usable {
        let lacks = |link: &ServerLink| match meant.is_unnamed() {
            true => !link.unnamed_parsed,
            false => !link.backend.prepared.stands(meant.number),
        };
        let breaks = |link: &ServerLink| link.may_copy_in_next() && lacks(link);
        if self.link.as_ref().is_some_and(breaks) {
            // Should that be a copy, the client's own message breaks it, not a Parse.
            return Usable::MustWait;
        }
        // Almost no text speaks of deallocating.
        let deallocates = kind == frontend::BIND && meant.dirty.has(DirtyState::FORGETTING);
        let about = match deallocates {
            true => self.deallocated_by(&meant.definition),
            false => Ok(None),
        };
        match about {
            Err(name) => return Usable::Not(does_not_exist(&name)),
            Ok(Some(about)) => {
                let asked = self.deallocates_in_batch(names.portal, about, &meant.definition, out);
                return match asked {
                    Some(()) => Usable::InItsPlace,
                    None => Usable::MustWait,
                };
            }
            Ok(None) => {}
        }
        let name = key(names.statement.unwrap_or_default());
        let usable = self.usable(name, meant, statements, out);
        if let Usable::Now(used) = &usable {
            self.begins_again = false;
            self.close_surplus(out);
            self.ensure_prepared(used, out);
        }
        usable
    }

    /// Passes a Bind or Describe on, with the name that `used` has on servers, or with none.
    fn pass_renamed(
        &mut self,
        names: &Names<'_>,
        used: Option<Arc<Statement>>,
        head: Header,
        at: usize,
        rest: &[u8],
        out: &mut Output,
    ) -> Result<Step, Violation> {
        let said = names.statement.unwrap_or_default();
        let server_name = (used.as_ref()).map_or_else(String::new, |used| used.server_name());
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
        let mut expected = Expected::forward(reply_to(head.kind));
        expected.statement = used.as_ref().map(|used| used.number);
        expected.called = (!said.is_empty()).then(|| said.into());
        let effects = used
            .as_ref()
            .map_or(DirtyState::FORGETTING, |used| used.dirty);
        let untold = used.filter(|one| one.shape.is_unknown());
        match (head.kind, &mut self.link) {
            (frontend::DESCRIBE, _) => expected.describes = untold,
            (_, Some(link)) => {
                link.bound_effects.bind(names.portal, effects);
                link.last_bound = untold.map(|statement| (names.portal.to_vec(), statement));
            }
            _ => {}
        }
        self.expect(expected, out);
        Ok(Step::Took(end))
    }

    /// Answers a Close that closes nothing on the server, or has the server answer it if it must see one.
    fn close_nothing(&mut self, undo: Undo, out: &mut Output) {
        let must_see = self.link.as_ref().is_some_and(ServerLink::may_copy_in_next);
        let deliver = if must_see {
            out.server.write(|own| close_message(own, NOBODYS));
            Deliver::Forward
        } else {
            Deliver::Produce
        };
        self.expect(Expected::undoing(Reply::Close, deliver, undo), out);
    }

    /// A Close of what the client has under `name`. The statement stays on the server, for others.
    fn close_statement(&mut self, name: &[u8], out: &mut Output) {
        let meant = self.statements.remove(name);
        if let Some(link) = &mut self.link {
            link.in_flight.add(Open::Name(name));
            // What stands there is not what the client has.
            link.unnamed_parsed &= !name.is_empty();
        }
        let undo = Undo {
            name: Some((name.to_vec(), meant)),
            ..Undo::default()
        };
        self.close_nothing(undo, out);
    }
}

/// What a client may have of a statement.
enum Usable {
    /// This one serves.
    Now(Arc<Statement>),
    /// The pooler has made its own statement the server's unnamed one: that serves.
    InItsPlace,
    /// It is known only when replies have come.
    MustWait,
    /// The client must not have it.
    Not(Refusal),
}

/// The reply to a Bind, Describe or Close.
fn reply_to(kind: u8) -> Reply {
    match kind {
        frontend::BIND => Reply::Bind,
        frontend::DESCRIBE => Reply::Describe,
        _ => Reply::Close,
    }
}

/// Appends a Close of the statement with this name.
pub(super) fn close_message(out: &mut Vec<u8>, name: &str) {
    write::message(out, frontend::CLOSE, |body| {
        body.push(b'S');
        write::c_string(body, name.as_bytes());
    });
}

pub(super) fn parse_message(out: &mut Vec<u8>, name: &[u8], definition: &[u8]) {
    write::message(out, frontend::PARSE, |body| {
        write::c_string(body, name);
        body.extend_from_slice(definition);
    });
}
