//! An error from the server: expected replies that will not come are taken back, and the client gets the error with its
//! own names of statements.
//!
//! The invariant: after an error the client's names, and what the server is known to have, are what they
//! would be had the requests it skipped never been sent.

use super::conversation::Conversation;
use super::expected::{Expected, Refusal, Reply};
use super::names::key;
use super::output::Output;
use super::replies::{Desync, Fate};
use super::session::{Phase, Session};
use super::shared_statements::SharedStatements;
use super::stale_plan::Doubt;
use crate::server::prepared::{PREFIX, is_unnamed};
use crate::wire::backend;
use crate::wire::error::{ErrorFields, Severity, error_response};
use crate::wire::frame::HEADER;
use crate::wire::sqlstate::{self, QUERY_CANCELED};
use crate::wire::write;

impl Session {
    /// An error: what is still expected up to the next Sync will not come, and is taken back.
    pub(super) fn error(
        &mut self,
        body: Option<&[u8]>,
        statements: &dyn SharedStatements,
        out: &mut Output,
    ) -> Result<Fate, Desync> {
        let serving = self.phase() == Phase::Serving;
        let fields = body.map(ErrorFields::parse).unwrap_or_default();
        let stale = self.finds_stale(&fields, statements);
        let doubts = self.doubts_memory(&fields);
        if serving {
            self.resolve_doubt(Some(&fields), statements);
        }
        let contradicts = self.contradicts_books(&fields);
        let hint = self.hint(&fields);
        let for_client = self.note_error(&fields, body);
        let Some(link) = &mut self.link else {
            return Ok(Fate::Drop);
        };
        let pid = link.backend.key.process_id;
        let head = link.expected.front_mut();
        let called = (head.as_ref().and_then(|head| head.name())).map(<[u8]>::to_vec);
        let undo = head.and_then(|head| head.undo.as_mut());
        let refusal = undo.and_then(|undo| undo.refusal.take());
        if contradicts && serving {
            log::warn!("{} statements lost pid={pid}: {fields}", self.tag());
            self.leave_connection();
            self.take_back(fields.is_fatal())?;
            return Err(Desync(
                "a statement that was prepared on it was deallocated behind the pooler's back"
                    .into(),
            ));
        }
        self.copy_in_fails(&fields)?;
        self.take_back(fields.is_fatal())?;
        self.ask_for_mark(out);
        if self.takes_up_again(stale, doubts, statements, out) {
            log::debug!("{} prepared anew pid={pid}: {fields}", self.tag());
            return Ok(Fate::Drop);
        }
        let words = Words {
            called,
            refusal,
            hint,
        };
        let other = words.instead_of(body, &fields, for_client);
        let shown = other.as_deref().map(ErrorFields::parse);
        let shown = shown.as_ref().unwrap_or(&fields);
        log::debug!("{} server error pid={pid}: {shown}", self.tag());
        if serving {
            self.work.errors += 1;
        }
        if !for_client {
            return Ok(Fate::Drop);
        }
        let Some(other) = other else {
            return Ok(Fate::Pass);
        };
        out.client.write(|own| {
            write::message(own, backend::ERROR_RESPONSE, |out| {
                out.extend_from_slice(&other);
            });
        });
        Ok(Fate::Replaced)
    }

    /// Notes what an error says of the server connection. Returns whether it is for the client.
    fn note_error(&mut self, fields: &ErrorFields, body: Option<&[u8]>) -> bool {
        let serving = self.phase() == Phase::Serving;
        let awaited = self.fails_deferred() && !fields.is_fatal();
        let Some(link) = &mut self.link else {
            return false;
        };
        if !fields.is_fatal() {
            link.pass_over_uncertain();
        }
        link.portals_deallocating.clear();
        // After a FATAL PostgreSQL closes the connection.
        link.ended |= fields.is_fatal();
        let batches = link.expected.iter().filter(|one| one.ends_batch());
        let last = batches.count() <= 1;
        link.going_back.note_error(last);
        // In a block it is the client's own error: its RESET is undone with the block.
        let own = link.going_back.is_restoring() && !link.backend.in_transaction();
        if (!serving || own) && !awaited {
            link.setup_error = Some(fields.to_string());
            if self.as_sent {
                link.refusal = body.unwrap_or_default().to_vec();
            }
            if fields.code == QUERY_CANCELED {
                link.cancelled = Some(fields.message.clone());
            }
        }
        // While the client is being served it gets every error, also of that of a Parse which the
        // pooler added: its own would have failed alike.
        serving && !self.abandoned && !own
    }

    /// Takes the client's batch up again, if the error is of a statement that has to be parsed anew and the client
    /// need not get that error. In any case a stale statement is used no more.
    fn takes_up_again(
        &mut self,
        stale: Option<(u64, Option<usize>)>,
        doubts: Option<(Doubt, usize)>,
        statements: &dyn SharedStatements,
        out: &mut Output,
    ) -> bool {
        if let Some((number, place)) = stale {
            self.retire(number);
            statements.begin_epoch();
            if let Some(place) = place {
                self.replay(place, out);
                return true;
            }
        }
        if let Some((doubt, place)) = doubts {
            self.analyse_anew(doubt, statements);
            self.replay(place, out);
            return true;
        }
        false
    }

    /// Whether an error says that the server has not, or has already, a statement of the pooler's, where nobody
    /// has asked it to say so.
    fn contradicts_books(&self, error: &ErrorFields) -> bool {
        let of_statements = matches!(
            error.code.as_str(),
            sqlstate::INVALID_STATEMENT_NAME | sqlstate::DUPLICATE_STATEMENT
        );
        let front = self.link.as_ref().and_then(|link| link.expected.front());
        let undo = front.and_then(|front| front.undo.as_ref());
        let asked = undo.is_some_and(|undo| undo.refusal.is_some());
        let names = |after: &str| after.starts_with(|c: char| c.is_ascii_digit());
        let speaks = error.message.split(PREFIX).skip(1).any(names);
        of_statements && !asked && speaks && self.rules.follow_statements
    }

    /// Drops what is expected before the next Sync and undoes what was assumed of it.
    fn take_back(&mut self, fatal: bool) -> Result<(), Desync> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        match link.expected.front() {
            // The simple protocol goes on to its ReadyForQuery by itself.
            Some(front) if front.ends_batch() => return Ok(()),
            Some(_) => {}
            None if fatal => return Ok(()),
            // A statement's time can be up while PostgreSQL waits for the rest of its batch.
            None if link.conversation() == Conversation::InBatch => {}
            None => return Err(Desync("an error where no reply is due".into())),
        }
        let end = link
            .expected
            .iter()
            .position(|expected| expected.reply == Reply::Ready);
        // Without a Sync among what was sent, the server skips all that comes before one.
        if end.is_none() && !matches!(link.conversation(), Conversation::CopyFailed { .. }) {
            link.converse(Conversation::SkippingToSync);
        }
        link.client_waits = false;
        let mut skipped: Vec<Expected> = link
            .expected
            .drain(..end.unwrap_or(link.expected.len()))
            .collect();
        for _ in skipped.iter().filter(|skipped| skipped.ends_batch()) {
            link.in_flight.batch_answered();
        }
        if let Some(failed) = skipped
            .first_mut()
            .filter(|first| first.reply == Reply::Parse)
        {
            // Its own failure does not bring back the unnamed statement it was to replace.
            if let Some(undo) = &mut failed.undo {
                undo.unnamed_parsed = undo.unnamed_parsed.map(|_| false);
            }
            let name = failed.undo.as_mut().and_then(|undo| undo.name.as_mut());
            if let Some((_, before)) = name.filter(|(name, _)| name.is_empty()) {
                *before = None;
            }
        }
        // Backwards, so that a name that changed twice gets its first meaning back.
        for undo in skipped.into_iter().rev().filter_map(|skipped| skipped.undo) {
            if let Some(before) = undo.unnamed_parsed {
                let later = link.expected.iter_mut().find_map(|expected| {
                    (expected.undo.as_mut()?.unnamed_parsed.as_mut()).map(|later| *later = before)
                });
                if later.is_none() {
                    link.unnamed_parsed = before;
                }
            }
            if let Some(number) = undo.not_prepared {
                link.backend.prepared.forget(number);
                link.unnamed_parsed &= !is_unnamed(number);
            }
            if let Some(number) = undo.not_closed {
                link.backend.prepared.put_back_to_close(number);
            }
            if let Some((name, before)) = undo.name {
                // What a later batch has made of the name holds; this is what it was before that.
                let unnamed = name.is_empty();
                let later = link.expected.iter_mut().find_map(|expected| {
                    let (later, before) = expected.undo.as_mut()?.name.as_mut()?;
                    (*later == name).then_some(before)
                });
                if let Some(later) = later {
                    *later = before;
                    continue;
                }
                // The server has what was there before, whatever that is.
                link.unnamed_parsed &= !unnamed;
                match before {
                    Some(statement) => self.statements.insert(name, statement),
                    None => self.statements.remove(&name),
                };
            }
        }
        Ok(())
    }

    /// What to add to the error that there is no such statement, if the client has prepared one by the
    /// protocol.
    fn hint(&self, error: &ErrorFields) -> Option<&'static str> {
        if error.code != sqlstate::INVALID_STATEMENT_NAME {
            return None;
        }
        // Not where the protocol itself speaks of it.
        let by_sql = |front: &&Expected| {
            let sql = [Reply::Execute, Reply::Parse].contains(&front.reply) || front.ends_batch();
            sql || front.statement.is_some()
        };
        let front = self.link.as_ref().and_then(|link| link.expected.front());
        front.filter(by_sql)?;
        let name = error.message.split('"').nth(1)?;
        self.statements.contains_key(key(name.as_bytes())).then_some(
            "It was prepared by the protocol (Parse), and the pooler keeps it under another name. Execute it by \
             the protocol (Bind), or prepare it in SQL (PREPARE) in the same transaction.",
        )
    }
}

/// What the client gets beside or instead of PostgreSQL's error.
struct Words {
    /// The client's own name of the statement that its request speaks of.
    called: Option<Vec<u8>>,
    /// The pooler has made the request fail, for this reason.
    refusal: Option<Refusal>,
    hint: Option<&'static str>,
}

impl Words {
    /// The body that the client gets instead of PostgreSQL's; `None` if it gets that.
    fn instead_of(
        self,
        body: Option<&[u8]>,
        fields: &ErrorFields,
        for_client: bool,
    ) -> Option<Vec<u8>> {
        // Where PostgreSQL has another complaint, which is not that it has no such statement, it stands.
        let asked = [
            sqlstate::INVALID_STATEMENT_NAME,
            sqlstate::IN_FAILED_TRANSACTION,
        ];
        let refusal = self.refusal.filter(|_| asked.contains(&&*fields.code));
        if let Some(refusal) = refusal {
            let mut own = Vec::new();
            error_response(&mut own, Severity::Error, &refusal.code, &refusal.words);
            let body = own.split_off(HEADER);
            // Drivers look at that.
            return Some(match &refusal.routine {
                Some(routine) => with_field(&body, b'R', routine),
                None => body,
            });
        }
        // Only these speak of statements by their names; anywhere else such a word is somebody's own.
        let of_statements = matches!(fields.code.as_str(), "26000" | "42P05" | "08P01");
        let body = body.filter(|_| of_statements && for_client)?;
        let renamed = self.called.and_then(|name| in_clients_words(body, &name));
        renamed.or_else(|| self.hint.map(|hint| with_field(body, b'H', hint)))
    }
}

/// The body of an error with the client's own name of the statement that its request speaks of, or `None` if it
/// speaks of no name of the pooler's.
fn in_clients_words(body: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let prefix = PREFIX.as_bytes();
    let finds = |rest: &[u8]| rest.windows(prefix.len()).position(|w| w == prefix);
    let mut rest = body;
    let mut found = finds(rest)?;
    let mut words = Vec::with_capacity(body.len());
    loop {
        words.extend_from_slice(&rest[..found]);
        let after = &rest[found + prefix.len()..];
        let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
        // Without a number it is a word of somebody else's.
        words.extend_from_slice(if digits == 0 { prefix } else { name });
        rest = &after[digits..];
        match finds(rest) {
            Some(next) => found = next,
            None => break,
        }
    }
    words.extend_from_slice(rest);
    Some(words)
}

/// The body of an ErrorResponse with one more field.
fn with_field(body: &[u8], field: u8, text: &str) -> Vec<u8> {
    // In front of the NUL that ends the fields.
    let mut body = body.strip_suffix(b"\0").unwrap_or(body).to_vec();
    body.push(field);
    write::c_string(&mut body, text.as_bytes());
    body.push(0);
    body
}
