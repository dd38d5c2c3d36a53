//! A step over what the server sent.
//!
//! Each message is matched with the head of the queue of expected replies, which says whether it is
//! passed on; rows pass by the buffer without being looked into. A reply that does not fit the queue
//! means that pooler and server no longer understand each other, and ends the server connection.

use std::fmt;

use super::conversation::{Conversation, is_due};
use super::expected::{Deliver, Expected, Reply};
use super::output::Output;
use super::session::{Phase, ServerLink, Session, process_id};
use super::shared_statements::SharedStatements;
use super::stale_plan::is_stale_plan;
use crate::net::clock::MonotonicTime;
use crate::pool::pool_config::Mode;
use crate::server::dirty::DirtyState;
use crate::server::parse_settings::Changes;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error::ErrorFields;
use crate::wire::frame::{self, BadLength, HEADER, Header};
use crate::wire::write;

/// Messages whose content matters are awaited whole up to this many bytes; larger ones pass unread.
const MAX_READ: usize = 8 * 1024;

/// The same for an ErrorResponse, which may quote what the client sent.
const MAX_ERROR: usize = 256 * 1024;

/// One request of a client that does not pipeline has so many replies or fewer.
const FEW: usize = 8;

/// A row, or the result of a function call, is huge from this many bytes on.
const HUGE: usize = 1024 * 1024;

/// The server sent what does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desync(pub String);

impl fmt::Display for Desync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<BadLength> for Desync {
    fn from(bad: BadLength) -> Desync {
        Desync(bad.to_string())
    }
}

/// What becomes of one message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    Drop,
    /// Something else has been written in its place.
    Replaced,
}

impl Session {
    /// Whether the session takes bytes from its server now.
    pub fn reads_server(&self) -> bool {
        // What answers the pooler's own statements goes to nobody, so no slow client holds it up.
        let own = matches!(self.phase(), Phase::Cleaning | Phase::Preparing);
        self.link.is_some() && (self.client.owed.is_empty() || self.abandoned || own)
    }

    /// Whether the client has asked one thing, completely, and has only to wait for the answer.
    pub fn awaits_one_answer(&self) -> bool {
        self.link.as_ref().is_some_and(|link| {
            let expected = &link.expected;
            expected.len() <= FEW
                && expected.back().is_some_and(Expected::ends_batch)
                && expected.iter().filter(|one| one.ends_batch()).count() == 1
                && link.conversation() == Conversation::Between
                && self.client.frame.left == 0
        })
    }

    /// Takes up bytes the server sent and returns how many were consumed; those that were not are to be
    /// offered again, with more behind them. When the transaction is over with the last of them, the
    /// session goes on to clean or to return the connection.
    ///
    /// # Errors
    /// [`Desync`]: the server connection is of no further use.
    pub fn take_from_server(
        &mut self,
        input: &[u8],
        statements: &dyn SharedStatements,
        out: &mut Output,
    ) -> Result<usize, Desync> {
        let mut at = 0;
        while at < input.len() {
            let Some(link) = &mut self.link else {
                return Err(Desync("bytes from a server that is not there".into()));
            };
            let rest = &input[at..];
            let frame = &mut link.side.frame;
            if frame.left > 0 {
                let n = frame.left.min(rest.len());
                frame.left -= n;
                let passed = !frame.dropped;
                if passed {
                    out.client.pass(at..at + n);
                }
                self.overhear(None, passed, &rest[..n]);
                at += n;
                continue;
            }
            let Some(head) = frame::header(rest)? else {
                break;
            };
            let content_matters = matches!(
                head.kind,
                backend::READY_FOR_QUERY
                    | backend::COMMAND_COMPLETE
                    | backend::PARAMETER_STATUS
                    | backend::NOTIFICATION_RESPONSE
                    | backend::ERROR_RESPONSE
            ) || (head.kind == backend::DATA_ROW && !link.asked.is_empty())
                || (head.kind == backend::ROW_DESCRIPTION && describes(link));
            let n = head.whole().min(rest.len());
            let longest = match head.kind {
                backend::ERROR_RESPONSE | backend::ROW_DESCRIPTION => MAX_ERROR,
                _ => MAX_READ,
            };
            if content_matters && n < head.whole() && head.whole() <= longest {
                break;
            }
            if head.kind == backend::PARAMETER_DESCRIPTION && head.whole() <= MAX_READ {
                match self.is_followed_by_stale(&rest[n..], n == head.whole()) {
                    None => break,
                    Some(false) => {}
                    Some(true) => {
                        // It is given once more when the request is taken up again.
                        at += n;
                        continue;
                    }
                }
            }
            let body = (n == head.whole()).then(|| &rest[HEADER..n]);
            let fate = self.reply(head, body, statements, out)?;
            let dropped = self.abandoned || fate != Fate::Pass;
            if !dropped {
                out.client.pass(at..at + n);
            }
            self.overhear(Some(head), !dropped, &rest[..n]);
            if let Some(link) = &mut self.link {
                link.side.frame.huge = head.whole() > HUGE
                    && matches!(
                        head.kind,
                        backend::DATA_ROW | backend::FUNCTION_CALL_RESPONSE
                    );
                link.side.frame.left = head.whole() - n;
                link.side.frame.dropped = dropped;
            }
            at += n;
            if head.kind == backend::READY_FOR_QUERY || link_head_is_own(self.link.as_ref()) {
                self.produce_own(out);
            }
        }
        let all_taken = at == input.len();
        if all_taken {
            self.end_turn(out);
        }
        Ok(at)
    }

    /// Whether the ParameterDescription at hand, `whole` or not, is followed by an error that is kept from
    /// the client: PostgreSQL notices only then that the plan is stale. `None`: that is not known yet.
    fn is_followed_by_stale(&self, behind: &[u8], whole: bool) -> Option<bool> {
        let link = self.link.as_ref()?;
        let of_statement = link
            .expected
            .front()
            .is_some_and(|front| front.statement.is_some());
        if !of_statement || self.replay_position(link).is_none() {
            return Some(false);
        }
        let next = frame::header(behind).ok().flatten().filter(|_| whole)?;
        if next.kind != backend::ERROR_RESPONSE || next.whole() > MAX_READ {
            return Some(false);
        }
        let error = ErrorFields::parse(behind.get(HEADER..next.whole())?);
        Some(is_stale_plan(&error) || self.doubts_memory(&error).is_some())
    }

    /// Sends the replies of the pooler's own that are next.
    pub(super) fn produce_own(&mut self, out: &mut Output) {
        while let Some(link) = &mut self.link {
            let Some(head) = link.expected.front() else {
                return;
            };
            if head.reply == Reply::CopyEnd {
                link.answered();
                continue;
            }
            if head.deliver != Deliver::Produce {
                return;
            }
            let reply = head.reply;
            link.answered();
            if self.abandoned {
                continue;
            }
            out.client.write(|own| match reply {
                Reply::Close => write::message(own, backend::CLOSE_COMPLETE, |_| {}),
                _ => write::message(own, backend::PARSE_COMPLETE, |_| {}),
            });
        }
    }

    fn reply(
        &mut self,
        head: Header,
        body: Option<&[u8]>,
        statements: &dyn SharedStatements,
        out: &mut Output,
    ) -> Result<Fate, Desync> {
        // Rows first: they are most of the messages.
        let Some(link) = &mut self.link else {
            return Ok(Fate::Drop);
        };
        check_is_due(link, head.kind)?;
        let front = link.expected.front();
        let fate = match front.map(|front| front.deliver) {
            Some(Deliver::Swallow) => Fate::Drop,
            _ => Fate::Pass,
        };
        if matches!(head.kind, backend::DATA_ROW | backend::COPY_DATA_RESPONSE) {
            if fate == Fate::Drop && !link.asked.is_empty() {
                link.answers.extend(body.and_then(backend::parse_data_row));
            }
            return Ok(fate);
        }
        let reply = front.map(|front| front.reply);
        let until_ready = matches!(reply, Some(Reply::UntilReady { .. }));
        match head.kind {
            backend::NOTICE_RESPONSE | backend::FUNCTION_CALL_RESPONSE => Ok(fate),
            backend::NOTIFICATION_RESPONSE => Ok(self.notification(body, out)),
            backend::PARAMETER_STATUS => Ok(self.parameter_status(body, fate)),
            backend::COMMAND_COMPLETE => {
                self.copy_in_ends()?;
                if let Some(body) = body {
                    let tag = body.strip_suffix(b"\0").unwrap_or(body);
                    self.note_definition(tag, statements);
                    self.command_complete(tag);
                }
                self.advance(until_ready);
                Ok(fate)
            }
            backend::READY_FOR_QUERY => {
                self.ready(body, statements)?;
                Ok(self.restore(fate, out))
            }
            backend::ERROR_RESPONSE => self.error(body, statements, out),
            backend::PARSE_COMPLETE
            | backend::BIND_COMPLETE
            | backend::CLOSE_COMPLETE
            | backend::EMPTY_QUERY_RESPONSE
            | backend::PORTAL_SUSPENDED => {
                self.resolve_doubt(None, statements);
                self.advance(until_ready);
                Ok(fate)
            }
            backend::PARAMETER_DESCRIPTION => Ok(fate),
            backend::ROW_DESCRIPTION | backend::NO_DATA => {
                self.note_description(head.kind, body);
                self.resolve_doubt(None, statements);
                self.advance(until_ready);
                Ok(fate)
            }
            backend::COPY_IN_RESPONSE => {
                self.copy_in_begins()?;
                if self.abandoned {
                    self.end_for_client(out);
                }
                Ok(fate)
            }
            backend::COPY_OUT_RESPONSE | backend::COPY_DONE_RESPONSE => Ok(fate),
            other => Err(Desync(format!(
                "a message of type \"{}\" that the pooler does not know",
                other.escape_ascii()
            ))),
        }
    }

    /// A ParameterStatus is of the session, not of the request whose reply is due. While the client is not served
    /// it is told at the end, if it still differs then.
    fn parameter_status(&mut self, body: Option<&[u8]>, fate: Fate) -> Fate {
        let serving = self.phase() == Phase::Serving;
        let parameter = body.and_then(backend::parse_parameter_status);
        if let Some(((name, value), link)) = parameter.zip(self.link.as_mut()) {
            link.backend.note_parameter(name, value);
            if self.rules.log_parameters && serving {
                self.log_parameter(name, value);
            }
        }
        if serving { Fate::Pass } else { fate }
    }

    /// Takes the head off the queue: its reply is complete, unless the message is part of a longer one.
    fn advance(&mut self, within: bool) {
        if let Some(link) = self.link.as_mut().filter(|_| !within) {
            link.answered();
        }
    }

    fn command_complete(&mut self, tag: &[u8]) {
        let phase = self.phase();
        let Some(link) = &mut self.link else { return };
        let transaction_local = matches!(
            link.expected.front(),
            Some(Expected {
                reply: Reply::UntilReady {
                    transaction_local: true
                },
                ..
            })
        );
        let front = link.expected.front();
        let extended = front.is_some_and(|front| front.reply == Reply::Execute);
        // What was sent behind it has left its traces already.
        let last = !extended && link.expected.len() <= 1;
        let forgets = matches!(
            tag,
            b"DISCARD ALL" | b"DEALLOCATE ALL" | b"CLOSE CURSOR ALL"
        );
        if last || !forgets {
            link.backend.dirty.note_tag(tag, transaction_local);
        }
        let resets = matches!(tag, b"RESET" | b"DISCARD ALL");
        if resets && phase == Phase::Serving && !self.untracked.is_empty() {
            // What the pooler had made for it is not in effect any more.
            link.backend.dirty.add(DirtyState::SETTINGS);
        }
        if tag == b"DEALLOCATE" {
            let undo = link.expected.front_mut().and_then(|one| one.undo.as_mut());
            match undo.and_then(|undo| undo.deallocates.take()) {
                Some((name, number)) => {
                    if let Some(number) = number {
                        link.backend.prepared.forget(number);
                    }
                    self.statements.remove(&name);
                }
                // In a query of several statements, by whatever name.
                None => link.backend.dirty.add(DirtyState::STATEMENTS),
            }
        }
        if tag == b"ROLLBACK" && link.changes.are_any() {
            // To a savepoint, perhaps.
            link.changes = Changes::Unknown(None);
        }
        if tag == b"DISCARD ALL" || tag == b"DEALLOCATE ALL" {
            link.backend.prepared.clear();
            if phase == Phase::Serving {
                // The unnamed one is not among those that are deallocated.
                self.statements.remove_named();
            }
        }
        self.note_going_back_by(tag, extended);
    }

    fn ready(
        &mut self,
        body: Option<&[u8]>,
        statements: &dyn SharedStatements,
    ) -> Result<(), Desync> {
        let status = body.and_then(TransactionStatus::parse);
        let (Some(link), Some(status)) = (&mut self.link, status) else {
            return Err(Desync(
                "a ReadyForQuery without a transaction status".into(),
            ));
        };
        let (swallowed, undo) = match link.expected.front_mut() {
            // One of several.
            Some(front) if front.uncertain > 1 => {
                front.uncertain -= 1;
                (false, None)
            }
            _ => {
                let answered = link.answered();
                let deliver = answered.as_ref().map(|answered| answered.deliver);
                let undo = answered.and_then(|answered| answered.undo);
                (deliver == Some(Deliver::Swallow), undo)
            }
        };
        link.in_flight.batch_answered();
        link.backend.status = status;
        if status == TransactionStatus::Idle {
            link.backend.prepared.end_transient();
            link.portals_deallocating.clear();
        }
        if !swallowed {
            let now = self.now;
            self.work.queries += 1;
            link.backend.key.tally.queries.add(1);
            self.work.query_micros += micros(now, link.query_since);
            link.query_since = now;
            let over = status == TransactionStatus::Idle;
            if let Some(since) = link.transaction_since.take_if(|_| over) {
                self.work.transactions += 1;
                link.backend.key.tally.transactions.add(1);
                self.work.transaction_micros += micros(now, since);
                if !link.expected.is_empty() {
                    link.transaction_since = Some(now);
                }
            }
        }
        self.finish_failed_copy(swallowed);
        self.note_changes(undo, status);
        self.publish_definitions(status, statements);
        Ok(())
    }

    /// In session mode the client has one server connection all along, so what it notifies itself of is
    /// given its own process id. Without that it could not see that it is the sender.
    fn notification(&self, body: Option<&[u8]>, out: &mut Output) -> Fate {
        let Some((own, body)) = self.link.as_ref().zip(body) else {
            return Fate::Pass;
        };
        let Some((sender, rest)) = body.split_first_chunk::<4>() else {
            return Fate::Pass;
        };
        let is_own = i32::from_be_bytes(*sender) == own.backend.key.process_id;
        if self.rules.mode != Mode::Session || !is_own || self.abandoned {
            return Fate::Pass;
        }
        out.client.write(|out| {
            write::message(out, backend::NOTIFICATION_RESPONSE, |out| {
                out.extend_from_slice(&process_id(self.id).to_be_bytes());
                out.extend_from_slice(rest);
            });
        });
        Fate::Replaced
    }

    fn log_parameter(&self, name: &[u8], value: &[u8]) {
        log::info!(
            "{} parameter changed: {} = \"{}\"",
            self.tag(),
            name.escape_ascii(),
            String::from_utf8_lossy(value).escape_debug()
        );
    }
}

/// A message of this kind has come: whether it may, by the queue of what is due.
fn check_is_due(link: &mut ServerLink, kind: u8) -> Result<(), Desync> {
    let at_any_time = matches!(
        kind,
        backend::NOTICE_RESPONSE
            | backend::NOTIFICATION_RESPONSE
            | backend::PARAMETER_STATUS
            | backend::ERROR_RESPONSE
    );
    if at_any_time {
        return Ok(());
    }
    if kind != backend::READY_FOR_QUERY {
        link.pass_over_uncertain();
    }
    let front = link.expected.front();
    if is_due(kind, front) {
        return Ok(());
    }
    let due = front.map_or("nothing".to_owned(), |front| front.reply.to_string());
    Err(Desync(format!(
        "a message of type \"{}\" came where {due} is due",
        kind.escape_ascii(),
    )))
}

/// Whether the reply that is due describes a statement and is to be noted.
fn describes(link: &ServerLink) -> bool {
    let front = link.expected.front();
    front.is_some_and(|front| front.describes.is_some())
}

fn link_head_is_own(link: Option<&ServerLink>) -> bool {
    link.and_then(|link| link.expected.front())
        .is_some_and(|front| front.deliver == Deliver::Produce || front.reply == Reply::CopyEnd)
}

fn micros(now: MonotonicTime, since: MonotonicTime) -> u64 {
    now.micros().saturating_sub(since.micros())
}
