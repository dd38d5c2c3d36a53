//! `pooler_check_query`: a simple query that is answered with what PostgreSQL last answered to it.
//!
//! The session captures PostgreSQL's answer as it passes, and other sessions give it byte for byte. Nothing is
//! kept of an answer that is more than rows: an error, a notice, an open transaction, or anything that the
//! query does to its server connection.

use super::begin::Deferred;
use super::output::Output;
use super::session::{Phase, Session};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::frame::{self, HEADER, Header};
use crate::wire::frontend;

/// The longest answer that is kept.
const MAX_ANSWER: usize = 64 * 1024;

/// An answer of PostgreSQL's that passes on its way to the client.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum CapturedReply {
    /// None is listened for.
    #[default]
    Nothing,
    /// What has come of it.
    Part(Vec<u8>),
    /// All of it, fit to be given again.
    Whole(Vec<u8>),
}

impl Session {
    /// The length of the message in front of the client's bytes, if it is a Query of this text that needs a
    /// server connection and is in no transaction block.
    pub fn asks_only(&self, text: &str, input: &[u8]) -> Option<usize> {
        let head = frame::header(input).ok().flatten()?;
        let fits = head.kind == frontend::QUERY && head.body == text.len() + 1;
        let between = self.link.is_none() && self.deferred == Deferred::Nothing;
        if !fits || text.is_empty() || !between || self.client.frame.left > 0 {
            return None;
        }
        let body = input.get(HEADER..head.whole())?;
        (body.strip_suffix(b"\0")? == text.as_bytes()).then_some(head.whole())
    }

    /// Gives the client an answer that was captured before.
    pub fn answer_as_before(&mut self, answer: &[u8], out: &mut Output) {
        // As any Query does.
        self.statements.remove(&b""[..]);
        out.client.write(|own| own.extend_from_slice(answer));
    }

    /// Listens for the answer to the next request, which is the first on its server connection.
    pub fn listen_for_answer(&mut self, listens: bool) {
        self.captured_reply = match listens {
            true => CapturedReply::Part(Vec::new()),
            false => CapturedReply::Nothing,
        };
    }

    /// The answer that was listened for, once it is whole.
    pub fn take_captured(&mut self) -> Option<Vec<u8>> {
        match std::mem::take(&mut self.captured_reply) {
            CapturedReply::Whole(answer) => Some(answer),
            other => {
                self.captured_reply = other;
                None
            }
        }
    }

    /// Takes note of a message, or its next part if there is no `head`, that goes to the client.
    pub(super) fn overhear(&mut self, head: Option<Header>, passed: bool, bytes: &[u8]) {
        // What comes before that answers the pooler's own statements.
        let serves = self.phase() == Phase::Serving;
        let CapturedReply::Part(answer) = &mut self.captured_reply else {
            return;
        };
        if !serves {
            return;
        }
        let body = bytes.get(HEADER..).unwrap_or_default();
        let kind = head.map(|head| head.kind);
        let fits = match kind {
            None
            | Some(
                backend::ROW_DESCRIPTION
                | backend::DATA_ROW
                | backend::EMPTY_QUERY_RESPONSE
                | backend::READY_FOR_QUERY,
            ) => true,
            Some(backend::COMMAND_COMPLETE) => {
                body.starts_with(b"SELECT ") || body.starts_with(b"SHOW\0")
            }
            _ => false,
        };
        if !fits || !passed || answer.len() + bytes.len() > MAX_ANSWER {
            self.captured_reply = CapturedReply::Nothing;
            return;
        }
        answer.extend_from_slice(bytes);
        if kind == Some(backend::READY_FOR_QUERY) {
            let left_nothing = self.link.as_ref().is_some_and(|link| {
                link.backend.status == TransactionStatus::Idle && link.backend.dirty.is_clean()
            });
            self.captured_reply = match std::mem::take(&mut self.captured_reply) {
                CapturedReply::Part(answer) if left_nothing => CapturedReply::Whole(answer),
                _ => CapturedReply::Nothing,
            };
        }
    }
}
