//! A step over what the client sent.
//!
//! Finds the messages, notes which replies they will have, and passes them on; a message larger than any
//! buffer passes in parts. Only Parse, and the names in Bind, Describe and Close, are looked into, to give
//! the statements the names they have on servers.

use super::conversation::{Conversation, Treatment};
use super::expected::{Expected, Reply};
use super::names::{NamesIn, key, names_in};
use super::output::Output;
use super::parsing::MAX_STATEMENT;
use super::session::{Phase, Session};
use super::shared_statements::SharedStatements;
use crate::server::dirty::DirtyState;
use crate::wire::backend;
use crate::wire::error::{Severity, error_response};
use crate::wire::frame::{self, BadLength, HEADER, Header};
use crate::wire::frontend;
use crate::wire::write;

/// A message is awaited up to this many bytes before a server connection is taken for it; a larger one
/// passes in parts, unless it is taken as a whole anyway.
pub(super) const PATIENCE: usize = 64 * 1024;

/// Replies that may be outstanding before no more requests are read.
pub const MAX_EXPECTED: usize = 32 * 1024;

/// Bytes that their entries may keep before no more requests are read. The last of them may be one more text.
pub(super) const MAX_HELD_BACK: usize = 8 * 1024 * 1024;

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

/// What became of the bytes at hand.
pub(super) enum Step {
    Took(usize),
    NeedsMore,
    NeedsServer,
    /// What the request means is known when replies have come that are due.
    MustWait,
    Terminated,
}

impl Session {
    /// Takes up bytes the client sent. Returns how many were consumed, and what is wanted now; bytes
    /// that were not consumed are to be offered again, with more behind them.
    ///
    /// # Errors
    /// [`Violation`]: the client gets an 08P01 and is disconnected.
    pub fn take_from_client(
        &mut self,
        input: &[u8],
        statements: &dyn SharedStatements,
        out: &mut Output,
    ) -> Result<(usize, Wants), Violation> {
        let mut at = 0;
        while at < input.len() {
            if self.client.frame.left > 0 {
                at += self.pass_part(at, &input[at..], out);
                continue;
            }
            if !self.reads_client() && self.phase() == Phase::Serving {
                break;
            }
            let Some(head) = frame::header(&input[at..])? else {
                break;
            };
            let step = match self.request(head, at, &input[at..], statements, out) {
                Ok(step) => step,
                Err(violation) => {
                    // The replies that are due come before the complaint.
                    self.ask_for_replies(out);
                    return Err(violation);
                }
            };
            match step {
                Step::Took(n) => {
                    self.keep(&input[at..at + n]);
                    at += n;
                }
                Step::NeedsMore => break,
                Step::MustWait if self.is_copying_in() => {
                    let rest = &input[at..];
                    at += self.break_copy(head, at, rest, out);
                }
                Step::MustWait => {
                    self.wait_for_reply(out);
                    break;
                }
                Step::NeedsServer => return Ok((at, Wants::Server)),
                Step::Terminated => return Ok((at + HEADER, Wants::End)),
            }
        }
        Ok((at, Wants::More))
    }

    /// Keeps what has been taken, should the server want to be asked again.
    fn keep(&mut self, taken: &[u8]) {
        let Some(link) = &mut self.link else { return };
        if self.client.frame.left == 0 {
            link.replay_buffer.add(taken);
        } else {
            link.replay_buffer.give_up();
        }
    }

    /// Bytes of a message that are awaited before a server connection is taken for it.
    fn patience(&self, head: Header) -> usize {
        let whole = head.kind == frontend::PARSE
            && self.rules.follow_statements
            && head.body <= MAX_STATEMENT
            && !self.is_too_much(head.body);
        if whole { head.whole() } else { PATIENCE }
    }

    /// Passes on, or drops, the next part of a message that did not fit.
    fn pass_part(&mut self, at: usize, rest: &[u8], out: &mut Output) -> usize {
        let frame = &mut self.client.frame;
        let n = frame.left.min(rest.len());
        frame.left -= n;
        let last = frame.left == 0;
        if let (Some(scan), Some(link)) = (&mut frame.scan, &mut self.link) {
            let found = scan.read(&rest[..n], last);
            link.backend.dirty.add(found);
            if found.has(DirtyState::FORGETTING) {
                link.in_flight.everything_in_last();
                link.in_flight.hold_up();
            }
            if found.has(DirtyState::RESETTING) && !self.startup_settings.is_empty() {
                link.going_back.note_anything();
                link.in_flight.hold_up();
            }
        }
        if last {
            frame.scan = None;
        }
        if !frame.dropped {
            out.server.pass(at..at + n);
        }
        if last {
            self.ask_for_mark(out);
        }
        n
    }

    /// Begins to pass on, or to drop, a message.
    pub(super) fn begin(
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
        statements: &dyn SharedStatements,
        out: &mut Output,
    ) -> Result<Step, Violation> {
        if head.kind == frontend::TERMINATE {
            return Ok(Step::Terminated);
        }
        if !is_request(head.kind) {
            return Err(Violation(format!(
                "invalid frontend message type \"{}\"",
                head.kind.escape_ascii()
            )));
        }
        match self.link.as_ref().map(|link| link.treatment(head.kind)) {
            None | Some(Treatment::Pass) => {}
            Some(Treatment::Discard) => return Ok(self.begin(head, at, rest, true, out)),
            Some(Treatment::Wait) => return Ok(Step::MustWait),
        }
        if head.kind == frontend::QUERY {
            // What it speaks of is known when it is whole.
            let awaited = self.rules.follow_statements && head.whole() <= PATIENCE;
            if awaited && rest.len() < head.whole() {
                return Ok(Step::NeedsMore);
            }
            let answered = self.deallocate(head, at, rest, out);
            let answered = answered.or_else(|| self.begin_or_end(head, at, rest, out));
            if let Some(step) = answered {
                return Ok(step);
            }
        }
        if self.link.is_none() {
            return Ok(self.request_without_server(head, at, rest, out));
        }
        self.note_request(head.kind, statements);
        match head.kind {
            frontend::QUERY => Ok(self.query(head, at, rest, out)),
            frontend::FUNCTION_CALL => Ok(self.function_call(head, at, rest, out)),
            frontend::EXECUTE => Ok(self.execute(head, at, rest, out)),
            frontend::SYNC => {
                self.sync(out);
                Ok(self.begin(head, at, rest, false, out))
            }
            frontend::FLUSH => {
                self.flush();
                Ok(self.begin(head, at, rest, false, out))
            }
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => {
                self.copy_message(head.kind, out);
                Ok(self.begin(head, at, rest, false, out))
            }
            frontend::PARSE if self.rules.follow_statements => {
                self.parse(head, at, rest, statements, out)
            }
            frontend::PARSE => self.parse_unfollowed(head, at, rest, out),
            _ => self.name_statement(head, at, rest, statements, out),
        }
    }

    /// A request while the session has no server connection: whether it needs one.
    fn request_without_server(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
        out: &mut Output,
    ) -> Step {
        match head.kind {
            kind if self.refusing && kind != frontend::SYNC => {
                self.begin(head, at, rest, true, out)
            }
            frontend::SYNC => {
                self.refusing = false;
                let status = self.status_without_server();
                out.client
                    .write(|own| backend::ready_for_query(own, status));
                self.begin(head, at, rest, true, out)
            }
            // What PostgreSQL passes over outside of a copy, and a Flush with nothing to flush.
            frontend::FLUSH | frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => {
                self.begin(head, at, rest, true, out)
            }
            frontend::CLOSE => match names_in(head, rest) {
                // No portal lives without a server connection, and no Close fails.
                Ok(NamesIn::Found(names)) => {
                    if let Some(name) = names.statement {
                        self.statements.remove(key(name));
                    }
                    out.client
                        .write(|own| write::message(own, backend::CLOSE_COMPLETE, |_| {}));
                    self.begin(head, at, rest, true, out)
                }
                Ok(NamesIn::NeedsMore) => Step::NeedsMore,
                Ok(NamesIn::Malformed) | Err(_) => Step::NeedsServer,
            },
            // Half a message must hold nothing but its own thread.
            _ if rest.len() < head.whole().min(self.patience(head)) => Step::NeedsMore,
            _ => Step::NeedsServer,
        }
    }

    /// Sends no more requests before the replies to all that were sent have come: a reset that is under
    /// way must not be taken to undo what they leave.
    pub(super) fn bar_if(&mut self, bar: bool) {
        if let Some(link) = &mut self.link {
            if bar {
                link.in_flight.hold_up();
            }
        }
    }

    /// Answers the request that is unread, which no server has seen, with an error, as PostgreSQL would: a
    /// Query is done with, a batch of the extended protocol up to its Sync.
    pub fn refuse_request(&mut self, code: &str, words: &str, out: &mut Output) {
        out.client
            .write(|own| error_response(own, Severity::Error, code, words));
        self.fail_deferred();
        let Ok(Some(head)) = frame::header(&self.client.unread) else {
            return;
        };
        if matches!(head.kind, frontend::QUERY | frontend::FUNCTION_CALL) {
            let there = head.whole().min(self.client.unread.len());
            self.client.unread.drain(..there);
            self.client.frame.left = head.whole() - there;
            self.client.frame.dropped = true;
            let status = self.status_without_server();
            out.client
                .write(|own| backend::ready_for_query(own, status));
        } else {
            self.refusing = true;
        }
    }

    /// Appends to the queue; a reply of the pooler's own that is next goes out at once.
    pub(super) fn expect(&mut self, expected: Expected, out: &mut Output) {
        if let Some(link) = &mut self.link {
            if link.expected.is_empty() {
                link.in_flight.nothing_under_way();
                link.held_back = 0;
                link.query_since = self.now;
                link.transaction_since.get_or_insert(link.query_since);
            }
            if expected.ends_batch() {
                link.in_flight.batch_sent();
            }
            link.held_back += expected.holds();
            link.flushed = false;
            link.sent(expected.reply);
            link.unflushed = link.unflushed.min(link.expected.len()) + 1;
            link.expected.push_back(expected);
        }
        self.produce_own(out);
    }

    fn sync(&mut self, out: &mut Output) {
        let Some(link) = &mut self.link else { return };
        if link.conversation() == (Conversation::CopyingIn { ended: false }) {
            return self.sync_in_copy(out);
        }
        let bar = link.backend.prepared.has_many_to_close() || link.changes.are_any();
        let bar = bar || link.going_back.is_open();
        self.expect(Expected::forward(Reply::Ready), out);
        self.bar_if(bar);
    }
}

/// What a client may send once it has logged in.
fn is_request(kind: u8) -> bool {
    matches!(
        kind,
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
            | frontend::COPY_FAIL
    )
}
