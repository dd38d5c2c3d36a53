//! A step over what the client sent.
//!
//! Finds the messages, notes which replies they will have, and passes them on; a message larger than any
//! buffer passes in parts. Only Parse, and the names in Bind, Describe and Close, are looked into, to give
//! the statements the names they have on servers.

use std::sync::Arc;

use super::expected::{Deliver, Expected, Reply, Undo};
use super::pieces::Output;
use super::unsettled::Open;
use crate::pool::statements::Statements;
use crate::server::prepared::{PREFIX, Statement};
use crate::server::traces::{self, Scan, Traces};
use crate::session::session::{Phase, Session};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error::{Severity, error_response};
use crate::wire::frame::{self, BadLength, HEADER, Header};
use crate::wire::sqlstate::SqlState;
use crate::wire::{frontend, write};

/// The longest Parse that is taken as a whole, in bytes; a statement's text has to be stored.
pub const LONGEST_STATEMENT: usize = 256 * 1024 * 1024;

/// The longest names in Bind, Describe and Close together, in bytes. PostgreSQL has no limit of its own
/// and cuts none; drivers use some dozen bytes.
const LONGEST_NAMES: usize = 8 * 1024;

/// A message is awaited up to this many bytes before a server connection is taken for it; a larger one
/// passes in parts, unless it is taken as a whole anyway.
const PATIENCE: usize = 64 * 1024;

/// Replies that may be outstanding before no more requests are read.
pub const MOST_EXPECTED: usize = 32 * 1024;

/// What the client did that the protocol does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl From<BadLength> for Violation {
    fn from(bad: BadLength) -> Violation {
        Violation(bad.to_string())
    }
}

/// What the session wants after a step over its client's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// More bytes.
    More,
    /// A server connection, before it can go on.
    Server,
    /// Nothing: the client has said Terminate.
    End,
}

enum Step {
    Took(usize),
    NeedsMore,
    NeedsServer,
    /// What the request means is known when the batches under way have been answered.
    MustWait,
    Terminated,
}

impl Session {
    /// Whether the session takes bytes from its client now.
    pub fn reads_client(&self) -> bool {
        match (self.phase(), &self.lent) {
            (Phase::Idle, _) => true,
            (Phase::Serving, Some(lent)) => {
                lent.side.owed.is_empty()
                    && lent.expected.len() < MOST_EXPECTED
                    && !lent.unsettled.is_awaited()
            }
            _ => false,
        }
    }

    /// Takes up bytes the client sent. Returns how many were consumed, and what is wanted now; bytes
    /// that were not consumed are to be offered again, with more behind them.
    ///
    /// # Errors
    /// [`Violation`]: the client gets an 08P01 and is disconnected.
    pub fn take_from_client(
        &mut self,
        input: &[u8],
        statements: &Statements,
        out: &mut Output,
    ) -> Result<(usize, Wants), Violation> {
        let mut at = 0;
        while at < input.len() {
            if self.client.frame.left > 0 {
                at += self.pass_part(at, &input[at..], out);
                continue;
            }
            let Some(head) = frame::header(&input[at..])? else {
                break;
            };
            match self.request(head, at, &input[at..], statements, out)? {
                Step::Took(n) => at += n,
                Step::NeedsMore | Step::MustWait => break,
                Step::NeedsServer => return Ok((at, Wants::Server)),
                Step::Terminated => return Ok((at + HEADER, Wants::End)),
            }
            if !self.reads_client() && self.phase() == Phase::Serving {
                break;
            }
        }
        Ok((at, Wants::More))
    }

    /// Bytes of a message that are awaited before a server connection is taken for it.
    fn patience(&self, head: Header) -> usize {
        let whole = head.kind == frontend::PARSE
            && self.rules.follow_statements
            && head.body <= LONGEST_STATEMENT;
        if whole { head.whole() } else { PATIENCE }
    }

    /// Passes on, or drops, the next part of a message that did not fit.
    fn pass_part(&mut self, at: usize, rest: &[u8], out: &mut Output) -> usize {
        let frame = &mut self.client.frame;
        let n = frame.left.min(rest.len());
        frame.left -= n;
        let last = frame.left == 0;
        if let (Some(scan), Some(lent)) = (&mut frame.scan, &mut self.lent) {
            let found = scan.read(&rest[..n], last);
            lent.backend.traces.add(found);
            if found.has(Traces::FORGETTING) {
                lent.unsettled.everything_in_last();
            }
        }
        if last {
            frame.scan = None;
        }
        if !frame.dropped {
            out.server.pass(at..at + n);
        }
        n
    }

    /// Begins to pass on, or to drop, a message.
    fn begin(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
        dropped: bool,
        out: &mut Output,
    ) -> Step {
        let n = head.whole().min(rest.len());
        self.client.frame.left = head.whole() - n;
        self.client.frame.dropped = dropped;
        if !dropped {
            out.server.pass(at..at + n);
        }
        Step::Took(n)
    }

    fn request(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
        statements: &Statements,
        out: &mut Output,
    ) -> Result<Step, Violation> {
        match head.kind {
            frontend::TERMINATE => return Ok(Step::Terminated),
            frontend::QUERY
            | frontend::FUNCTION_CALL
            | frontend::PARSE
            | frontend::BIND
            | frontend::DESCRIBE
            | frontend::EXECUTE
            | frontend::CLOSE
            | frontend::SYNC
            | frontend::FLUSH
            | frontend::COPY_DATA
            | frontend::COPY_DONE
            | frontend::COPY_FAIL => {}
            other => {
                return Err(Violation(format!(
                    "invalid frontend message type \"{}\"",
                    other.escape_ascii()
                )));
            }
        }
        let Some(lent) = &mut self.lent else {
            return Ok(match head.kind {
                kind if self.refusing && kind != frontend::SYNC => {
                    self.begin(head, at, rest, true, out)
                }
                frontend::SYNC => {
                    self.refusing = false;
                    out.client
                        .write(|own| backend::ready_for_query(own, TransactionStatus::Idle));
                    self.begin(head, at, rest, true, out)
                }
                // What PostgreSQL passes over outside of a copy, and a Flush with nothing to flush.
                frontend::FLUSH
                | frontend::COPY_DATA
                | frontend::COPY_DONE
                | frontend::COPY_FAIL => self.begin(head, at, rest, true, out),
                // Half a message must hold nothing but its own thread.
                _ if rest.len() < head.whole().min(self.patience(head)) => Step::NeedsMore,
                _ => Step::NeedsServer,
            });
        };
        if lent.skipping && head.kind != frontend::SYNC {
            return Ok(self.begin(head, at, rest, true, out));
        }
        match head.kind {
            frontend::QUERY => {
                lent.batch_open = false;
                let text = rest.get(HEADER..).unwrap_or_default();
                let text = &text[..text.len().min(head.body)];
                let whole = text.len() == head.body;
                let mut scan = Scan::default();
                let found = scan.read(text, whole);
                lent.backend.traces.add(found);
                if found.has(Traces::FORGETTING) {
                    lent.unsettled.add(Open::Everything);
                }
                self.client.frame.scan = (!whole).then_some(scan);
                let tame = whole && traces::is_tame_set(text.strip_suffix(b"\0").unwrap_or(text));
                self.expect(Expected::forward(Reply::UntilReady { tame }), out);
                Ok(self.begin(head, at, rest, false, out))
            }
            frontend::FUNCTION_CALL => {
                lent.batch_open = false;
                self.expect(Expected::forward(Reply::UntilReady { tame: false }), out);
                Ok(self.begin(head, at, rest, false, out))
            }
            frontend::SYNC => {
                self.sync(out);
                Ok(self.begin(head, at, rest, false, out))
            }
            frontend::FLUSH | frontend::COPY_DATA => Ok(self.begin(head, at, rest, false, out)),
            frontend::COPY_DONE | frontend::COPY_FAIL => {
                if lent.copying_in {
                    lent.copying_in = false;
                } else if !lent.expected.is_empty() {
                    self.expect(Expected::forward(Reply::CopyEnd), out);
                }
                Ok(self.begin(head, at, rest, false, out))
            }
            frontend::EXECUTE => {
                lent.batch_open = true;
                self.expect(Expected::forward(Reply::Execute), out);
                Ok(self.begin(head, at, rest, false, out))
            }
            frontend::PARSE => {
                lent.batch_open = true;
                if self.rules.follow_statements {
                    self.parse(head, at, rest, statements, out)
                } else {
                    self.parse_unfollowed(head, at, rest, out)
                }
            }
            _ => {
                lent.batch_open = true;
                self.name_statement(head, at, rest, out)
            }
        }
    }

    /// Answers the request that is unread, which no server has seen, with an error, as PostgreSQL would: a
    /// Query is done with, a batch of the extended protocol up to its Sync.
    pub fn refuse_request(&mut self, code: SqlState, words: &str, out: &mut Output) {
        out.client
            .write(|own| error_response(own, Severity::Error, code, words));
        let Ok(Some(head)) = frame::header(&self.client.unread) else {
            return;
        };
        if matches!(head.kind, frontend::QUERY | frontend::FUNCTION_CALL) {
            let there = head.whole().min(self.client.unread.len());
            self.client.unread.drain(..there);
            self.client.frame.left = head.whole() - there;
            self.client.frame.dropped = true;
            out.client
                .write(|own| backend::ready_for_query(own, TransactionStatus::Idle));
        } else {
            self.refusing = true;
        }
    }

    /// Appends to the queue; a reply of the pooler's own that is next goes out at once.
    pub(super) fn expect(&mut self, expected: Expected, out: &mut Output) {
        if let Some(lent) = &mut self.lent {
            if lent.expected.is_empty() {
                lent.query_since = crate::net::clock::Moment::now();
                lent.transaction_since.get_or_insert(lent.query_since);
            }
            if expected.ends_batch() {
                lent.unsettled.batch_sent();
            }
            lent.expected.push_back(expected);
        }
        self.produce_own(out);
    }

    fn sync(&mut self, out: &mut Output) {
        let Some(lent) = &mut self.lent else { return };
        // In copy-in mode PostgreSQL ignores Sync (CopyGetData).
        if lent.copying_in {
            return;
        }
        lent.skipping = false;
        lent.batch_open = false;
        self.expect(Expected::forward(Reply::Ready), out);
    }

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
            let closed = Expected {
                reply: Reply::Close,
                deliver: Deliver::Swallow,
                undo: Some(Box::new(undo)),
            };
            self.expect(closed, out);
        }
    }

    /// Whether a request that speaks of this name, and one that speaks of this statement, has to wait.
    fn hangs_on(&mut self, name: Option<&[u8]>, statement: Option<&Statement>) -> bool {
        let number = statement.map(|statement| statement.number);
        let lent = self.lent.as_mut();
        lent.is_some_and(|lent| lent.unsettled.concerns(name, number))
    }

    /// A Parse where statements do not follow their client: it passes as it is.
    fn parse_unfollowed(
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
        }
        self.expect(Expected::forward(Reply::Parse), out);
        Ok(self.begin(head, at, rest, false, out))
    }

    fn parse(
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
        let known = self.statements.get(name).cloned();
        let statement = match &known {
            Some(known) if known.definition == definition => Arc::clone(known),
            _ => statements.intern(definition, self.rules.prepared_cache),
        };
        // The unnamed statement is replaced, whatever it was.
        let taken = known.filter(|_| !name.is_empty());
        let hangs_on = Some(name).filter(|name| !name.is_empty());
        if self.hangs_on(hangs_on, Some(taken.as_ref().unwrap_or(&statement))) {
            return Ok(Step::MustWait);
        }
        self.close_surplus(out);
        if let Some(taken) = taken {
            // PostgreSQL refuses a name that is in use. Let it say so itself, at the right place: prepare
            // the statement under a name that it has.
            self.ensure_prepared(&taken, out);
            let server_name = taken.server_name();
            out.server
                .write(|own| parse_message(own, &server_name, definition));
            self.expect(Expected::forward(Reply::Parse), out);
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
        self.expect(
            Expected {
                reply: Reply::Parse,
                deliver,
                undo: Some(Box::new(undo)),
            },
            out,
        );
        Ok(Step::Took(head.whole()))
    }

    /// Puts a Parse in front of a request whose statement this server connection lacks.
    fn ensure_prepared(&mut self, statement: &Statement, out: &mut Output) {
        let limit = self.rules.prepared_per_server;
        let Some(lent) = &mut self.lent else { return };
        lent.backend.traces.add(statement.traces);
        if statement.traces.has(Traces::FORGETTING) {
            lent.unsettled.add(Open::Everything);
        }
        if lent.backend.has_statement(statement, limit) {
            return;
        }
        lent.unsettled.add(Open::Statement(statement.number));
        let name = statement.server_name();
        out.server
            .write(|own| parse_message(own, &name, &statement.definition));
        self.expect(
            Expected {
                reply: Reply::Parse,
                deliver: Deliver::Swallow,
                undo: Some(Box::new(Undo {
                    not_prepared: Some(statement.number),
                    ..Undo::default()
                })),
            },
            out,
        );
    }

    /// Bind, Describe or Close: a statement's name is replaced by the one it has on the server.
    fn name_statement(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
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
        let statement = if of_portal || !self.rules.follow_statements {
            None
        } else {
            let statement = self.statements.get(name).cloned();
            if self.hangs_on(Some(name), statement.as_deref()) {
                return Ok(Step::MustWait);
            }
            self.close_surplus(out);
            statement
        };
        let Some(statement) = statement else {
            // A portal, or a name PostgreSQL knows or will complain about in its own words.
            self.expect(Expected::forward(reply), out);
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
            let closed = Expected {
                reply,
                deliver: Deliver::Produce,
                undo: Some(Box::new(undo)),
            };
            self.expect(closed, out);
            return Ok(self.begin(head, at, rest, true, out));
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
        self.expect(Expected::forward(reply), out);
        Ok(Step::Took(end))
    }
}

/// Whether the rest of a Parse is what it should be: a text, and as many parameter types as announced.
fn check_definition(definition: &[u8]) -> Option<()> {
    let (_, types) = frame::c_string(definition)?;
    let (count, types) = types.split_first_chunk::<2>()?;
    (types.len() == 4 * usize::from(u16::from_be_bytes(*count))).then_some(())
}

fn parse_message(out: &mut Vec<u8>, name: &str, definition: &[u8]) {
    write::message(out, frontend::PARSE, |body| {
        write::c_string(body, name.as_bytes());
        body.extend_from_slice(definition);
    });
}
