//! The end of a client's requests: what it has sent before is served, and then the session ends.
//!
//! PostgreSQL runs and answers each message that it has received whole, also if the client has closed its side
//! by then. Invariant: a session whose client has ended its requests ends as soon as nothing that it sent can
//! be served or answered any more.

use serde::{Deserialize, Serialize};

use super::conversation::Conversation;
use super::expected::Expected;
use super::pieces::Output;
use crate::net::clock::Moment;
use crate::session::session::{Phase, Session};
use crate::wire::{frame, frontend};

/// Whether and how the client has ended its requests, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientEnd {
    /// It has not.
    #[default]
    Open,
    /// By closing its side of the connection, without a Terminate.
    EndOfStream {
        /// When that was noticed.
        since: Moment,
        /// Whether everything before the end has been read from the socket.
        read: bool,
    },
    /// By a Terminate. That has been read, though requests in front of it may still wait.
    Terminate,
}

impl ClientEnd {
    /// Whether there is nothing more to read from the client's socket.
    pub fn is_read(self) -> bool {
        match self {
            ClientEnd::Open => false,
            ClientEnd::EndOfStream { read, .. } => read,
            ClientEnd::Terminate => true,
        }
    }
}

impl Session {
    /// Whether a Terminate stands among the unread bytes.
    pub fn terminate_is_unread(&self) -> bool {
        let unread = self.client.unread.get(self.client.frame.left..);
        let mut rest = unread.unwrap_or_default();
        while let Ok(Some(head)) = frame::header(rest) {
            if head.kind == frontend::TERMINATE {
                return true;
            }
            rest = rest.get(head.whole()..).unwrap_or_default();
        }
        false
    }

    /// Whether everything that the client sent has been served, given that no more comes and no unread request
    /// is whole. The replies to a batch without a Sync are asked for.
    pub fn has_served_all(&mut self, out: &mut Output) -> bool {
        let half_sent = self.client.frame.left > 0 && !self.client.frame.dropped;
        match (self.phase(), &mut self.lent) {
            (Phase::Idle, _) => true,
            (Phase::Serving, Some(lent)) => {
                // The last reply is to the half message, and never comes.
                let due = lent.expected.len() - usize::from(half_sent).min(lent.expected.len());
                let waits_for_client = match lent.conversation() {
                    Conversation::CopyingIn { ended: false } => true,
                    // The mark cannot be put into the middle of a message.
                    Conversation::CopyFailed { asked, .. } => !asked,
                    _ => false,
                };
                if waits_for_client || due == 0 {
                    return true;
                }
                if lent.expected.iter().take(due).any(Expected::ends_batch) {
                    return false;
                }
                if !half_sent {
                    self.ask_for_replies(out);
                }
                half_sent
            }
            _ => false,
        }
    }
}
