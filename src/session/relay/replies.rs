//! A step over what the server sent.
//!
//! Each message is matched with the head of the queue of expected replies, which says whether it is
//! passed on; rows pass by the buffer without being looked into. A reply that does not fit the queue
//! means that pooler and server no longer understand each other, and ends the server connection.

use std::fmt;

use super::conversation::{Conversation, is_due};
use super::expected::{Deliver, Expected, Reply};
use super::pieces::Output;
use super::stale::is_stale_plan;
use crate::net::clock::Moment;
use crate::pool::plan::Mode;
use crate::pool::statements::Statements;
use crate::server::reading::Changes;
use crate::server::traces::Traces;
use crate::session::session::{Lent, Phase, Session, process_id};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error::ErrorFields;
use crate::wire::frame::{self, BadLength, HEADER, Header};
use crate::wire::write;

/// Messages whose content matters are awaited whole up to this many bytes; larger ones pass unread.
const LONGEST_READ: usize = 8 * 1024;

/// The same for an ErrorResponse, which may quote what the client sent.
const LONGEST_ERROR: usize = 256 * 1024;

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
        let own = matches!(self.phase(), Phase::Cleaning | Phase::Tuning);
        self.lent.is_some() && (self.client.owed.is_empty() || self.abandoned || own)
    }

    /// Whether the client has asked one thing, completely, and has only to wait for the answer.
    pub fn awaits_one_answer(&self) -> bool {
        self.lent.as_ref().is_some_and(|lent| {
            let expected = &lent.expected;
            expected.len() <= FEW
                && expected.back().is_some_and(Expected::ends_batch)
                && expected.iter().filter(|one| one.ends_batch()).count() == 1
                && lent.conversation() == Conversation::Between
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
        statements: &Statements,
        out: &mut Output,
    ) -> Result<usize, Desync> {
        let mut at = 0;
        while at < input.len() {
            let Some(lent) = &mut self.lent else {
                return Err(Desync("bytes from a server that is not there".into()));
            };
            let rest = &input[at..];
            let frame = &mut lent.side.frame;
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
            ) || (head.kind == backend::DATA_ROW && !lent.asked.is_empty())
                || (head.kind == backend::ROW_DESCRIPTION && describes(lent));
            let n = head.whole().min(rest.len());
            let longest = match head.kind {
                backend::ERROR_RESPONSE | backend::ROW_DESCRIPTION => LONGEST_ERROR,
                _ => LONGEST_READ,
            };
            if content_matters && n < head.whole() && head.whole() <= longest {
                break;
            }
            if head.kind == backend::PARAMETER_DESCRIPTION && head.whole() <= LONGEST_READ {
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
            if let Some(lent) = &mut self.lent {
                lent.side.frame.huge = head.whole() > HUGE
                    && matches!(
                        head.kind,
                        backend::DATA_ROW | backend::FUNCTION_CALL_RESPONSE
                    );
                lent.side.frame.left = head.whole() - n;
                lent.side.frame.dropped = dropped;
            }
            at += n;
            if head.kind == backend::READY_FOR_QUERY || lent_head_is_own(self.lent.as_ref()) {
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
        let lent = self.lent.as_ref()?;
        let of_statement = lent
            .expected
            .front()
            .is_some_and(|front| front.statement.is_some());
        if !of_statement || self.place_to_begin_again(lent).is_none() {
            return Some(false);
        }
        let next = frame::header(behind).ok().flatten().filter(|_| whole)?;
        if next.kind != backend::ERROR_RESPONSE || next.whole() > LONGEST_READ {
            return Some(false);
        }
        let error = ErrorFields::parse(behind.get(HEADER..next.whole())?);
        Some(is_stale_plan(&error) || self.doubts_memory(&error).is_some())
    }

    /// Sends the replies of the pooler's own that are next.
    pub(super) fn produce_own(&mut self, out: &mut Output) {
        while let Some(lent) = &mut self.lent {
            let Some(head) = lent.expected.front() else {
                return;
            };
            if head.reply == Reply::CopyEnd {
                lent.answered();
                continue;
            }
            if head.deliver != Deliver::Produce {
                return;
            }
            let reply = head.reply;
            lent.answered();
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
        statements: &Statements,
        out: &mut Output,
    ) -> Result<Fate, Desync> {
        // Rows first: they are most of the messages.
        let Some(lent) = &mut self.lent else {
            return Ok(Fate::Drop);
        };
        check_is_due(lent, head.kind)?;
        let front = lent.expected.front();
        let fate = match front.map(|front| front.deliver) {
            Some(Deliver::Swallow) => Fate::Drop,
            _ => Fate::Pass,
        };
        if matches!(head.kind, backend::DATA_ROW | backend::COPY_DATA_RESPONSE) {
            if fate == Fate::Drop && !lent.asked.is_empty() {
                lent.answers.extend(body.and_then(backend::parse_data_row));
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
                self.settle_doubt(None, statements);
                self.advance(until_ready);
                Ok(fate)
            }
            backend::PARAMETER_DESCRIPTION => Ok(fate),
            backend::ROW_DESCRIPTION | backend::NO_DATA => {
                self.note_description(head.kind, body);
                self.settle_doubt(None, statements);
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
        if let Some(((name, value), lent)) = parameter.zip(self.lent.as_mut()) {
            lent.backend.note_parameter(name, value);
            if self.rules.log_parameters && serving {
                self.log_parameter(name, value);
            }
        }
        if serving { Fate::Pass } else { fate }
    }

    /// Takes the head off the queue: its reply is complete, unless the message is part of a longer one.
    fn advance(&mut self, within: bool) {
        if let Some(lent) = self.lent.as_mut().filter(|_| !within) {
            lent.answered();
        }
    }

    fn command_complete(&mut self, tag: &[u8]) {
        let phase = self.phase();
        let Some(lent) = &mut self.lent else { return };
        let tame = matches!(
            lent.expected.front(),
            Some(Expected {
                reply: Reply::UntilReady { tame: true },
                ..
            })
        );
        let front = lent.expected.front();
        let extended = front.is_some_and(|front| front.reply == Reply::Execute);
        // What was sent behind it has left its traces already.
        let last = !extended && lent.expected.len() <= 1;
        let forgets = matches!(
            tag,
            b"DISCARD ALL" | b"DEALLOCATE ALL" | b"CLOSE CURSOR ALL"
        );
        if last || !forgets {
            lent.backend.traces.note_tag(tag, tame);
        }
        let resets = matches!(tag, b"RESET" | b"DISCARD ALL");
        if resets && phase == Phase::Serving && !self.unreported.is_empty() {
            // What the pooler had made for it is not in effect any more.
            lent.backend.traces.add(Traces::SETTINGS);
        }
        if tag == b"DEALLOCATE" {
            let undo = lent.expected.front_mut().and_then(|one| one.undo.as_mut());
            match undo.and_then(|undo| undo.deallocates.take()) {
                Some((name, number)) => {
                    lent.backend.prepared.forget(number);
                    self.statements.remove(&name);
                }
                // In a query of several statements, by whatever name.
                None => lent.backend.traces.add(Traces::STATEMENTS),
            }
        }
        if tag == b"ROLLBACK" && lent.changes.are_any() {
            // To a savepoint, perhaps.
            lent.changes = Changes::Unknown(None);
        }
        if tag == b"DISCARD ALL" || tag == b"DEALLOCATE ALL" {
            lent.backend.prepared.clear();
            if phase == Phase::Serving {
                // The unnamed one is not among those that are deallocated.
                self.statements.retain(|name, _| name.is_empty());
            }
        }
        self.note_going_back_by(tag, extended);
    }

    fn ready(&mut self, body: Option<&[u8]>, statements: &Statements) -> Result<(), Desync> {
        let status = body.and_then(TransactionStatus::parse);
        let (Some(lent), Some(status)) = (&mut self.lent, status) else {
            return Err(Desync(
                "a ReadyForQuery without a transaction status".into(),
            ));
        };
        let (swallowed, undo) = match lent.expected.front_mut() {
            // One of several.
            Some(front) if front.uncertain > 1 => {
                front.uncertain -= 1;
                (false, None)
            }
            _ => {
                let answered = lent.answered();
                let deliver = answered.as_ref().map(|answered| answered.deliver);
                let undo = answered.and_then(|answered| answered.undo);
                (deliver == Some(Deliver::Swallow), undo)
            }
        };
        lent.unsettled.batch_answered();
        lent.backend.status = status;
        if status == TransactionStatus::Idle {
            lent.backend.prepared.end_passing();
            lent.portals_deallocating.clear();
        }
        if !swallowed {
            let now = self.now;
            self.work.queries += 1;
            lent.backend.key.tally.queries.add(1);
            self.work.query_micros += micros(now, lent.query_since);
            lent.query_since = now;
            let over = status == TransactionStatus::Idle;
            if let Some(since) = lent.transaction_since.take_if(|_| over) {
                self.work.transactions += 1;
                lent.backend.key.tally.transactions.add(1);
                self.work.transaction_micros += micros(now, since);
                if !lent.expected.is_empty() {
                    lent.transaction_since = Some(now);
                }
            }
        }
        self.settle_failed_copy(swallowed);
        self.note_changes(undo, status);
        self.publish_definitions(status, statements);
        Ok(())
    }

    /// In session mode the client has one server connection all along, so what it notifies itself of is
    /// told with its own process id. Without that it could not see that it is the sender.
    fn notification(&self, body: Option<&[u8]>, out: &mut Output) -> Fate {
        let Some((own, body)) = self.lent.as_ref().zip(body) else {
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
fn check_is_due(lent: &mut Lent, kind: u8) -> Result<(), Desync> {
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
        lent.pass_over_uncertain();
    }
    let front = lent.expected.front();
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
fn describes(lent: &Lent) -> bool {
    let front = lent.expected.front();
    front.is_some_and(|front| front.describes.is_some())
}

fn lent_head_is_own(lent: Option<&Lent>) -> bool {
    lent.and_then(|lent| lent.expected.front())
        .is_some_and(|front| front.deliver == Deliver::Produce || front.reply == Reply::CopyEnd)
}

fn micros(now: Moment, since: Moment) -> u64 {
    now.micros().saturating_sub(since.micros())
}
