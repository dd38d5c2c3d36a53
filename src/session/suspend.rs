//! The signals that a session can get, and how it is taken apart to move to another process.
//!
//! Invariant: what it is taken apart into is the whole session; another process can drive it on.

use super::client::DetachedSession;
use super::close_reason::CloseReason;
use super::driver::{CLOSE_LIMIT, Course, Driver};
use super::registry::signals;
use crate::net::clock::MonotonicTime;
use crate::relay::begin::Deferred;
use crate::relay::session::Phase;

impl Driver {
    /// Acts on the signals that are set.
    pub(crate) fn check_signals(&mut self) -> Result<(), CloseReason> {
        let flags = self.handle.signals();
        if flags == 0 {
            return Ok(());
        }
        self.handle.clear(signals::CANCELLED);
        if flags & signals::STOP != 0 {
            return Err(CloseReason::Stopped);
        }
        if flags & signals::FORCE_CLOSE != 0 {
            return Err(CloseReason::Drained);
        }
        // A connection that is about to go back does so first.
        if flags & signals::HAND_OVER != 0 && self.session.phase() != Phase::Returning {
            return Err(CloseReason::Moves);
        }
        if flags & (signals::DRAIN | signals::REMOVED) != 0 && self.is_between_transactions() {
            return Err(if flags & signals::DRAIN != 0 {
                CloseReason::Drained
            } else {
                CloseReason::PoolRemoved
            });
        }
        Ok(())
    }

    fn is_between_transactions(&self) -> bool {
        let at_rest = match &self.session.link {
            None => {
                self.session.phase() == Phase::Idle && self.session.deferred == Deferred::Nothing
            }
            Some(link) => {
                self.session.phase() == Phase::Serving
                    && self.session.is_between_requests()
                    && !link.backend.in_transaction()
            }
        };
        let client = &self.session.client;
        // A request that has just got its server connection is still unread.
        at_rest && client.unread.is_empty() && client.frame.left == 0 && client.owed.is_empty()
    }

    /// Begins to move: from now on no CancelRequest can begin, and those that have are awaited.
    pub(crate) fn begin_to_move(&mut self) {
        self.checkout.leave_queue();
        self.session.listen_for_answer(false);
        self.handle.parked();
        self.course = Course::Moves(MonotonicTime::now().after(CLOSE_LIMIT));
    }

    /// Takes the session apart, to move it.
    pub(crate) fn detach(mut self) -> DetachedSession {
        if self.handle.signals() & signals::CANCEL != 0 {
            self.handle.clear(signals::CANCEL);
            if matches!(self.session.phase(), Phase::Queued(_)) {
                self.session.enter(Phase::Idle);
                // A client that is gone is noticed wherever the session is driven next.
                let _ = self.refuse_request();
            }
        }
        // Counts that its pool has not got yet go with it.
        DetachedSession {
            pool: self.checkout.hand_on(),
            session: self.session,
            client: self.client,
            server: self.server,
            server_deadline: self.server_deadline,
        }
    }
}
