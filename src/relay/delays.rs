//! Which peer keeps a session from going on: its client, its server, or neither.
//!
//! Does not know how long; the limits are in `session::limits`. Invariant: a server that may be busy with an earlier
//! request, or waits for a lock, never counts as the one that delays.

use super::conversation::Conversation;
use super::session::{Phase, Session};
use crate::wire::frontend;

impl Session {
    /// Whether the server has nothing to do but to read the request that is being sent: it has answered all that
    /// was sent before, and gets no data of a copy.
    pub fn server_only_reads(&self) -> bool {
        self.link.as_ref().is_some_and(|link| {
            // A message without a reply of its own may follow the one that is expected.
            let has_reply = !matches!(
                link.last_request,
                0 | frontend::FLUSH
                    | frontend::COPY_DATA
                    | frontend::COPY_DONE
                    | frontend::COPY_FAIL
            );
            let copies = matches!(
                link.conversation(),
                Conversation::CopyingIn { .. } | Conversation::CopyFailed { .. }
            );
            self.phase() == Phase::Serving && has_reply && link.expected.len() <= 1 && !copies
        })
    }

    /// How many bytes the client has yet to take, `unsent` by the kernel among them, or to send of half a message,
    /// while it keeps a server connection; `None` if it delays nothing.
    pub fn client_delays(&self, unsent: impl FnOnce() -> usize) -> Option<usize> {
        let link = self.link.as_ref().filter(|_| !self.abandoned)?;
        let half_sent = if link.side.owed.is_empty() {
            self.client.frame.left
        } else {
            0
        };
        match self.client.owed.len() {
            0 => (half_sent > 0).then_some(half_sent),
            owed => Some(owed + unsent() + half_sent),
        }
    }

    /// Whether the client has begun a transaction, a batch or a copy, and it is its turn.
    pub fn awaits_client_in_transaction(&self) -> bool {
        self.link.as_ref().is_some_and(|link| {
            let begun = match link.conversation() {
                Conversation::CopyingIn { ended: false } => return true,
                Conversation::Between => link.backend.in_transaction(),
                _ => true,
            };
            begun && link.expected.is_empty()
        })
    }

    /// Whether PostgreSQL may have done all that the client has asked for in an open batch. It keeps its replies back
    /// up to a Sync or Flush, so that only a Flush tells.
    pub fn may_await_client(&self) -> bool {
        self.link.as_ref().is_some_and(|link| {
            let open = link.conversation() == Conversation::InBatch;
            open && !link.expected.is_empty() && !link.flushed && self.client.frame.left == 0
        })
    }
}
