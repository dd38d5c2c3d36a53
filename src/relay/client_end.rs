//! The end of a client's requests: requests that came before it are served, and then the session ends.
//!
//! PostgreSQL runs and answers each message that it has received whole, even if the client has closed its side by
//! then. Invariant: a session whose client has ended its requests ends as soon as no request of the client's can be
//! served or answered any more.

use serde::{Deserialize, Serialize};

use super::conversation::Conversation;
use super::expected::Expected;
use super::output::Output;
use super::session::{Phase, Session};
use crate::net::clock::MonotonicTime;
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
        since: MonotonicTime,
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

/// What is still to be done for a client that sends no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToServe {
    /// Replies come that the client is to get.
    Replies,
    /// Something runs whose reply PostgreSQL would not send, as no Sync or Flush follows.
    Untold,
    /// Nothing.
    Nothing,
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

    /// Whether the batch under way has failed: PostgreSQL sends that, and what it kept back before it, at once.
    pub fn skips_to_sync(&self) -> bool {
        let link = self.link.as_ref();
        link.is_some_and(|link| link.conversation() == Conversation::SkippingToSync)
    }

    /// What is still to be done, given that the client sends no more and no unread request is whole.
    pub fn rest_to_serve(&mut self, out: &mut Output) -> ToServe {
        let half_sent = self.client.frame.left > 0 && !self.client.frame.dropped;
        let link = match (self.phase(), &self.link) {
            (Phase::Idle, _) => return ToServe::Nothing,
            (Phase::Serving, Some(link)) => link,
            _ => return ToServe::Replies,
        };
        let waits_for_client = match link.conversation() {
            // A Sync is ignored there; any other request has broken the copy, and PostgreSQL complains.
            Conversation::CopyingIn { ended: false } => {
                let mut behind = link.expected.iter().skip(1);
                behind.all(|one| one.uncertain > 0)
            }
            // The mark cannot be put into the middle of a message.
            Conversation::CopyFailed { asked, .. } => !asked,
            _ => false,
        };
        // The last reply is to the half message, and never comes.
        let due = (link.expected.len()).saturating_sub(usize::from(half_sent));
        let ends = |one: &Expected| one.ends_batch() && one.uncertain == 0;
        let flushed = link.expected.len().saturating_sub(link.unflushed);
        let broken = matches!(
            link.conversation(),
            Conversation::CopyingIn { ended: false }
        );
        let reported_to_client = broken || flushed > 0 || link.expected.iter().take(due).any(ends);
        if waits_for_client || due == 0 {
            ToServe::Nothing
        } else if reported_to_client {
            ToServe::Replies
        } else if half_sent {
            ToServe::Nothing
        } else {
            // PostgreSQL runs it, and keeps the replies back.
            self.ask_for_replies(out);
            ToServe::Untold
        }
    }
}
