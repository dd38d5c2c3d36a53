//! COPY FROM STDIN, as far as it changes where the conversation stands.
//!
//! While PostgreSQL copies in it ignores Sync and Flush. When the copy fails it stops to read data at a place
//! that the pooler cannot see: a Sync that it had read before is never answered, one that it reads later is.
//! So each Sync that was sent behind the copying request and before its CopyDone or CopyFail is uncertain.
//! If the copy succeeds, all of them were ignored. If it fails, the pooler asks for a mark behind them (a
//! Close of what does not exist, which changes nothing), and those that have no reply before the mark's
//! were ignored. The client gets exactly the replies that PostgreSQL gave.
//!
//! The invariant: the queue holds no uncertain reply that no later reply will settle.

use super::conversation::Conversation;
use super::expected::{Expected, Reply};
use super::output::Output;
use super::replies::Desync;
use super::requests::MAX_EXPECTED;
use super::session::{ServerLink, Session};
use super::statements::close_message;
use crate::server::dirty::DirtyState;
use crate::server::prepared::NOBODYS;
use crate::wire::error::ErrorFields;
use crate::wire::frame::Header;
use crate::wire::{frontend, sqlstate};

impl Session {
    /// CopyData, CopyDone or CopyFail is passed on.
    pub(super) fn copy_message(&mut self, kind: u8, out: &mut Output) {
        let Some(link) = &mut self.link else { return };
        if link.expected.is_empty() {
            // PostgreSQL passes it over.
            return;
        }
        let ends = kind != frontend::COPY_DATA;
        match link.conversation() {
            Conversation::CopyingIn { ended: false } if ends => {
                link.converse(Conversation::CopyingIn { ended: true });
            }
            Conversation::CopyingIn { .. } => {}
            Conversation::Between
            | Conversation::InBatch
            | Conversation::SkippingToSync
            | Conversation::CopyFailed { .. } => {
                // It is for a request that is not known to copy yet. What it ends by decides what becomes of
                // a request behind.
                link.in_flight.hold_up();
            }
        }
        if ends {
            self.expect(Expected::forward(Reply::CopyEnd), out);
        }
    }

    /// The server waits for copy data.
    pub(super) fn copy_in_begins(&mut self) -> Result<(), Desync> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        match link.conversation() {
            Conversation::Between | Conversation::InBatch => {}
            Conversation::SkippingToSync
            | Conversation::CopyingIn { .. }
            | Conversation::CopyFailed { .. } => {
                let words = "CopyInResponse came before the end of a copy or of a failed batch";
                return Err(Desync(words.into()));
            }
        }
        // It ignores a Flush.
        link.unflushed = link.expected.len();
        // The head is the request that copies.
        let mut syncs = 0;
        while let Some(next) = link.expected.get(1) {
            match next.reply {
                Reply::Ready => {
                    syncs += next.uncertain.max(1);
                    link.expected.remove(1);
                }
                _ => break,
            }
        }
        let ended = (link.expected.get(1)).is_some_and(|next| next.reply == Reply::CopyEnd);
        if syncs > 0 {
            link.expected.insert(1, Expected::uncertain(syncs));
        }
        link.converse(Conversation::CopyingIn { ended });
        Ok(())
    }

    /// Whether the server waits for the client's data.
    pub fn is_copying_in(&self) -> bool {
        let link = self.link.as_ref();
        link.is_some_and(|link| link.conversation() == Conversation::CopyingIn { ended: false })
    }

    /// A request comes in the middle of a copy. It breaks the protocol: PostgreSQL gets a message of its kind, which
    /// it refuses in any case, and closes the connection.
    pub(super) fn break_copy(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
        out: &mut Output,
    ) -> usize {
        let reply = match head.kind {
            frontend::PARSE => Reply::Parse,
            frontend::BIND => Reply::Bind,
            frontend::DESCRIBE => Reply::Describe,
            frontend::EXECUTE => Reply::Execute,
            frontend::CLOSE => Reply::Close,
            _ => Reply::UntilReady {
                transaction_local: false,
            },
        };
        out.server.write(|own| frontend::bare(own, head.kind));
        let most = (self.link.as_ref()).is_some_and(|link| link.expected.len() >= MAX_EXPECTED);
        if !most {
            self.expect(Expected::forward(reply), out);
        }
        self.begin(head, at, rest, true, out);
        head.whole().min(rest.len())
    }

    /// A Sync is passed on to a server that copies in, and the client has not ended the copy.
    pub(super) fn sync_in_copy(&mut self, out: &mut Output) {
        let Some(link) = &mut self.link else { return };
        match link.expected.back_mut() {
            Some(last) if last.uncertain > 0 => {
                last.uncertain = last.uncertain.saturating_add(1);
                link.in_flight.batch_sent();
            }
            _ => self.expect(Expected::uncertain(1), out),
        }
    }

    /// A command is complete. If that was a copy in, it has read everything up to the client's CopyDone.
    pub(super) fn copy_in_ends(&mut self) -> Result<(), Desync> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        match link.conversation() {
            Conversation::CopyingIn { ended: true } => {}
            Conversation::CopyingIn { ended: false } => {
                return Err(Desync(
                    "a copy succeeded that the client has not ended".into(),
                ));
            }
            _ => return Ok(()),
        }
        loop {
            match link.expected.get(1).map(|next| next.reply) {
                Some(Reply::CopyEnd) => break,
                Some(Reply::Ready) => link.forget_uncertain(1),
                _ => return Err(Desync("a copy ended that the client has not ended".into())),
            }
        }
        link.expected.remove(1);
        let stands = link.behind_what_was_sent();
        link.converse(stands);
        Ok(())
    }

    /// A copy in has failed: what was sent behind it is put in the order in which replies may come. The
    /// request itself is still the head.
    ///
    /// # Errors
    /// [`Desync`]: a request was sent behind Syncs in the same batch, and has not broken the copy. PostgreSQL runs it
    /// or discards it, by whether it had read those, and no reply shows which.
    pub(super) fn copy_in_fails(&mut self, error: &ErrorFields) -> Result<(), Desync> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        if !matches!(link.conversation(), Conversation::CopyingIn { .. }) {
            return Ok(());
        }
        let executed = link.expected.front().map(|head| head.reply) == Some(Reply::Execute);
        let (mut at, mut uncertain) = (1, 0);
        while let Some(next) = link.expected.get(at) {
            match next.reply {
                Reply::CopyEnd => {
                    link.expected.remove(at);
                }
                Reply::Ready if next.uncertain > 0 => {
                    uncertain += next.uncertain;
                    link.expected.remove(at);
                }
                Reply::Ready => at += 1,
                _ => break,
            }
        }
        if uncertain > 0 {
            link.expected.insert(at, Expected::uncertain(uncertain));
        }
        // A request behind them tells by its own reply how many of them were ignored.
        let reported_to_client = uncertain == 0 || link.expected.get(at + 1).is_some();
        let broken = error.is_fatal() || error.code == sqlstate::PROTOCOL_VIOLATION;
        if executed && uncertain > 0 && reported_to_client && !broken {
            return Err(Desync(
                "a copy failed while a request was sent behind it".into(),
            ));
        }
        let behind = link.behind_what_was_sent();
        link.converse(match reported_to_client {
            true => behind,
            false => Conversation::CopyFailed {
                asked: false,
                skips: executed,
            },
        });
        Ok(())
    }

    /// Asks for the mark behind uncertain Syncs, if that is due and no message of the client's is cut by it.
    pub(super) fn ask_for_mark(&mut self, out: &mut Output) {
        let between = self.client.frame.left == 0;
        let Some(link) = &mut self.link else { return };
        let Conversation::CopyFailed {
            asked: false,
            skips,
        } = link.conversation()
        else {
            return;
        };
        if !between || link.ended {
            return;
        }
        link.converse(Conversation::CopyFailed { asked: true, skips });
        if skips {
            // PostgreSQL may be discarding everything up to a Sync. The replies to Syncs are all the same, so
            // the first behind those that are certain can stand for this one's.
            out.server.write(|own| frontend::bare(own, frontend::SYNC));
            link.in_flight.batch_sent();
            let uncertain = |one: &Expected| one.uncertain > 0;
            let behind = link.expected.iter().position(uncertain).unwrap_or(0);
            link.expected
                .insert(behind, Expected::swallow(Reply::Ready));
        }
        out.server.write(|own| {
            close_message(own, NOBODYS);
            frontend::bare(own, frontend::SYNC);
        });
        self.expect(Expected::swallow(Reply::Close), out);
        self.expect(Expected::swallow(Reply::Ready), out);
    }

    /// A Sync has been answered while a failed copy is being settled.
    pub(super) fn finish_failed_copy(&mut self, swallowed: bool) {
        let Some(link) = &mut self.link else { return };
        let Conversation::CopyFailed { asked, skips } = link.conversation() else {
            return;
        };
        let skips = skips && swallowed;
        link.converse(match (link.expected.is_empty(), skips) {
            (false, _) => Conversation::CopyFailed { asked, skips },
            // For the client it goes on to skip: its own Sync is still to come.
            (true, true) => Conversation::SkippingToSync,
            (true, false) => Conversation::Between,
        });
    }
}

impl ServerLink {
    /// Whether PostgreSQL may be copying in when it reads what is sent next. It has to see each message then, for one
    /// that does not belong to the copy breaks it.
    pub(super) fn may_copy_in_next(&self) -> bool {
        let mut sent = self.expected.iter().rev();
        let last = sent.find(|one| !matches!(one.reply, Reply::Ready | Reply::CopyEnd));
        last.is_some_and(|one| one.effects.has(DirtyState::COPYING_IN))
    }

    /// The Syncs at this place in the queue were ignored.
    pub(super) fn forget_uncertain(&mut self, at: usize) {
        let ignored = self.expected.remove(at);
        for _ in 0..ignored.map_or(0, |one| one.uncertain.max(1)) {
            self.in_flight.batch_answered();
        }
    }

    /// Something else has been answered than the uncertain Syncs that are due: they were ignored.
    pub(super) fn pass_over_uncertain(&mut self) {
        while (self.expected.front()).is_some_and(|front| front.uncertain > 0) {
            self.forget_uncertain(0);
        }
    }
}
