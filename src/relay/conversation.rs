//! Where the conversation with the server stands, and what follows from it: which messages of the client's
//! are passed on, and whether the connection may be given back.
//!
//! Knows nothing of statements and settings. What a copy does to it is in [`copying`](crate::relay::copying).
//!
//! The invariant: a connection is given back only where PostgreSQL owes nothing and expects nothing
//! ([`Session::give_back_connection`]); that is checked wherever one is given back.

use serde::{Deserialize, Serialize};

use super::expected::{Deliver, Expected, Reply};
use super::output::Output;
use super::requests::{MAX_EXPECTED, MAX_HELD_BACK};
use super::session::{Frame, Phase, ServerLink, Session};
use crate::server::backend::Backend;
use crate::server::dirty::DirtyState;
use crate::server::prepared::NOBODYS;
use crate::wire::backend::TransactionStatus;
use crate::wire::{frontend, write};

/// Where the conversation with the server stands, as far as the replies that have come say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Conversation {
    /// What was sent last was a Query, a FunctionCall or a Sync, or nothing was sent.
    #[default]
    Between,
    /// Messages of the extended protocol were sent, and no Sync behind them.
    InBatch,
    /// A batch has failed, and its Sync was not sent: PostgreSQL discards everything up to one, a Query and
    /// a FunctionCall included.
    SkippingToSync,
    /// The request whose reply is due copies in.
    CopyingIn {
        /// The client has sent CopyDone or CopyFail.
        ended: bool,
    },
    /// A copy in has failed while Syncs were on their way. PostgreSQL answers those that it had not read by
    /// then. The pooler asks for a mark behind them, to know how many; nothing of the client's is sent until
    /// that has come.
    CopyFailed {
        /// The mark has been asked for.
        asked: bool,
        /// The copy was run by an Execute, and no Sync has been answered since.
        skips: bool,
    },
}

/// What the portals that are bound may do when they are executed, as far as later requests depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BoundEffects {
    /// The unnamed portal.
    unnamed: DirtyState,
    /// Any named one. A portal may be replaced, which is not followed.
    named: DirtyState,
}

impl BoundEffects {
    /// Notes that a statement with these traces was bound to a portal.
    pub fn bind(&mut self, portal: &[u8], dirty: DirtyState) {
        match portal {
            b"" => self.unnamed = dirty,
            _ => self.named.add(dirty),
        }
    }

    /// All that executing a portal may do.
    pub fn all(&self) -> DirtyState {
        let mut all = self.unnamed;
        all.add(self.named);
        all
    }

    /// Whether executing a portal may have this effect.
    pub fn may(&self, effect: DirtyState) -> bool {
        self.unnamed.has(effect) || self.named.has(effect)
    }
}

/// What is done with a message of the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment {
    /// It is passed on, as far as it is not looked into.
    Pass,
    /// PostgreSQL would discard it.
    Discard,
    /// It waits for a reply that is due.
    Wait,
}

impl ServerLink {
    /// What is done with a message of this kind that comes now.
    ///
    /// What belongs to a copy is never held up: the copy may be the very request that is awaited.
    pub(super) fn treatment(&self, kind: u8) -> Treatment {
        let of_copy = matches!(
            kind,
            frontend::COPY_DATA
                | frontend::COPY_DONE
                | frontend::COPY_FAIL
                | frontend::FLUSH
                | frontend::SYNC
        );
        let queues = !matches!(kind, frontend::COPY_DATA | frontend::FLUSH);
        let much = self.held_back > MAX_HELD_BACK && !self.expected.is_empty();
        let full = queues && (much || self.expected.len() >= MAX_EXPECTED);
        match self.conversation() {
            Conversation::CopyFailed { .. } => Treatment::Wait,
            Conversation::SkippingToSync if kind == frontend::SYNC => Treatment::Pass,
            Conversation::SkippingToSync => Treatment::Discard,
            // PostgreSQL refuses what does not belong to its copy (`break_copy`), whatever it says.
            Conversation::CopyingIn { ended: false } if of_copy => Treatment::Pass,
            Conversation::CopyingIn { ended: false } => Treatment::Wait,
            _ if full => Treatment::Wait,
            _ if of_copy => Treatment::Pass,
            Conversation::CopyingIn { ended: true } => Treatment::Wait,
            Conversation::Between | Conversation::InBatch => {
                match self.in_flight.holds_up() && !self.expected.is_empty() {
                    true => Treatment::Wait,
                    false => Treatment::Pass,
                }
            }
        }
    }

    /// A request has been sent that has this reply: the conversation stands behind it, unless a copy is not
    /// over.
    pub(super) fn sent(&mut self, reply: Reply) {
        if matches!(
            self.conversation(),
            Conversation::CopyingIn { .. } | Conversation::CopyFailed { .. }
        ) {
            return;
        }
        match reply {
            Reply::UntilReady { .. } | Reply::Ready => self.converse(Conversation::Between),
            Reply::Parse
            | Reply::Bind
            | Reply::Describe
            | Reply::Execute
            | Reply::Close
            | Reply::Refused => self.converse(Conversation::InBatch),
            Reply::CopyEnd => {}
        }
    }

    /// Where the conversation stands by what was sent, if what is due is answered without an error.
    pub(super) fn behind_what_was_sent(&self) -> Conversation {
        let mut sent = self.expected.iter().rev();
        match sent.find(|sent| sent.reply != Reply::CopyEnd) {
            Some(last) if last.ends_batch() => Conversation::Between,
            _ => Conversation::InBatch,
        }
    }

    /// Takes the head off the queue: its reply is complete.
    pub(super) fn answered(&mut self) -> Option<Expected> {
        self.client_waits = false;
        self.expected.pop_front()
    }

    /// Whether PostgreSQL owes nothing and expects nothing, as far as this side of the session goes.
    fn is_at_rest(&self) -> bool {
        self.expected.is_empty()
            && self.conversation() == Conversation::Between
            && self.side.frame.left == 0
            && self.side.owed.is_empty()
            && self.side.unread.is_empty()
            && !self.ended
    }
}

impl Session {
    /// Whether the session takes bytes from its client now.
    pub fn reads_client(&self) -> bool {
        match (self.phase(), &self.link) {
            (Phase::Idle, _) => true,
            (Phase::Serving, Some(link)) => {
                // Never in the middle of a message: the server waits for the rest of it.
                let holds_up = link.client_waits && self.client.frame.left == 0;
                link.side.owed.is_empty() && !holds_up
            }
            _ => false,
        }
    }

    /// The client's next message waits for a reply. If the batch is open, PostgreSQL keeps that back.
    pub(super) fn wait_for_reply(&mut self, out: &mut Output) {
        let Some(link) = &mut self.link else { return };
        link.client_waits = true;
        self.ask_for_replies(out);
    }

    /// Has PostgreSQL send what it keeps back.
    pub fn ask_for_replies(&mut self, out: &mut Output) {
        let Some(link) = &mut self.link else { return };
        let executes = |front: &Expected| front.reply == Reply::Execute;
        let kept_back = match link.conversation() {
            Conversation::InBatch => true,
            Conversation::CopyingIn { ended: true } => link.expected.front().is_some_and(executes),
            Conversation::Between
            | Conversation::SkippingToSync
            | Conversation::CopyingIn { ended: false }
            | Conversation::CopyFailed { .. } => false,
        };
        if kept_back && !link.expected.is_empty() && !link.flushed {
            link.flushed = true;
            out.server.write(|own| frontend::bare(own, frontend::FLUSH));
        }
    }

    /// Whether the server connection, if there is one, has nothing under way in either direction. There may
    /// be a transaction.
    pub fn is_between_requests(&self) -> bool {
        self.client.frame.left == 0 && self.link.as_ref().is_none_or(ServerLink::is_at_rest)
    }

    /// The client is gone: ends what it has begun and cannot end, as far as that can be done before the next
    /// reply comes.
    pub(super) fn end_for_client(&mut self, out: &mut Output) {
        let Some(link) = &mut self.link else { return };
        match link.conversation() {
            Conversation::Between | Conversation::CopyFailed { .. } => {}
            Conversation::InBatch if link.expected.is_empty() => self.fail_batch(out),
            Conversation::InBatch | Conversation::CopyingIn { ended: true } => {
                self.ask_for_replies(out);
            }
            Conversation::SkippingToSync => {
                out.server.write(|own| frontend::bare(own, frontend::SYNC));
                self.expect(Expected::swallow(Reply::Ready), out);
            }
            Conversation::CopyingIn { ended: false } => {
                link.converse(Conversation::CopyingIn { ended: true });
                out.server
                    .write(|own| frontend::copy_fail(own, "the client is gone"));
                self.expect(Expected::forward(Reply::CopyEnd), out);
            }
        }
    }

    /// Ends a batch so that nothing of it is committed: by a request that fails, in front of a Sync. Should
    /// the batch fail by itself now, that one is skipped.
    fn fail_batch(&mut self, out: &mut Output) {
        out.server.write(|own| {
            write::message(own, frontend::EXECUTE, |body| {
                write::c_string(body, NOBODYS.as_bytes());
                body.extend_from_slice(&[0; 4]);
            });
            frontend::bare(own, frontend::SYNC);
        });
        self.expect(Expected::swallow(Reply::Execute), out);
        self.expect(Expected::swallow(Reply::Ready), out);
    }

    /// Takes the server connection from the session, to be given back to its pool.
    ///
    /// # Errors
    /// Why it must be closed instead; the session still has it.
    pub fn give_back_connection(&mut self) -> Result<Box<Backend>, &'static str> {
        let fit = match &self.link {
            None => Err("there is none"),
            Some(_) if self.phase() != Phase::Returning => Err("it is in use"),
            Some(link) if link.setup_error.is_some() => {
                Err("a statement of the pooler's has failed")
            }
            Some(link) if link.backend.status != TransactionStatus::Idle => {
                Err("a transaction is open on it")
            }
            Some(_) if !self.is_between_requests() => Err("something is still under way on it"),
            Some(_) => Ok(()),
        };
        fit?;
        self.give_up_connection().ok_or("there is none")
    }

    /// Gives the server connection up, however it stands: the session has none and is idle.
    pub fn give_up_connection(&mut self) -> Option<Box<Backend>> {
        let link = self.link.take()?;
        self.client.frame = Frame::default();
        self.enter(Phase::Idle);
        Some(link.backend)
    }
}

/// Whether a message of this kind may be part of the reply to the request at the head of the queue.
pub(super) fn is_due(kind: u8, head: Option<&Expected>) -> bool {
    use crate::wire::backend::*;
    let Some(head) = head else { return false };
    let (by_query, executed) = (
        matches!(head.reply, Reply::UntilReady { .. }),
        head.reply == Reply::Execute,
    );
    let due = match kind {
        DATA_ROW | COPY_DATA_RESPONSE | COPY_OUT_RESPONSE | COPY_DONE_RESPONSE
        | COPY_IN_RESPONSE | COMMAND_COMPLETE | EMPTY_QUERY_RESPONSE => by_query || executed,
        PORTAL_SUSPENDED => executed,
        FUNCTION_CALL_RESPONSE => by_query,
        ROW_DESCRIPTION => by_query || head.reply == Reply::Describe,
        PARAMETER_DESCRIPTION | NO_DATA => head.reply == Reply::Describe,
        PARSE_COMPLETE => head.reply == Reply::Parse,
        BIND_COMPLETE => head.reply == Reply::Bind,
        CLOSE_COMPLETE => head.reply == Reply::Close,
        READY_FOR_QUERY => head.ends_batch(),
        _ => false,
    };
    due && head.deliver != Deliver::Produce
}
