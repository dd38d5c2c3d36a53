//! Why a thread stops driving a session that has not ended: the session is to move, or it is idle. Also the other
//! signals that a session can get.
//!
//! Invariant: what is given back here is the whole session; another thread, or another process, can drive it on.

use super::brief_read::{Pace, Peer};
use super::checkout::GivenBack;
use super::client::{self, DetachedSession};
use super::close_reason::CloseReason;
use super::driver::Driver;
use super::io::Input;
use super::registry::signals;
use crate::net::clock::MonotonicTime;
use crate::relay::begin::Deferred;
use crate::relay::session::Phase;

/// Why a session is not driven on.
pub(crate) enum Stop {
    /// It has ended.
    Closed(CloseReason),
    /// It was told to move.
    HandOver(DetachedSession),
    /// It is silent. Its peers' pace is that of this thread with them, this has become of the server connection
    /// that it used, and it is driven on at this time at the latest.
    Idle(DetachedSession, Pace, GivenBack, Option<MonotonicTime>),
}

impl Driver {
    /// Does what the session was told.
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
        if flags & signals::HAND_OVER != 0 {
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

    /// Whether nothing happens before the client speaks or the session is told something.
    pub(crate) fn is_silent(&self) -> bool {
        client::is_silent(&self.session, &self.client) && self.violation.is_none()
    }

    /// Reads what the client may have said while nobody drove its session.
    pub(crate) fn look_at_client(&mut self) -> Result<(), CloseReason> {
        self.session.now = MonotonicTime::now();
        let read = Input::read(&mut self.session.client, &mut self.client);
        match (&read, self.spoke) {
            // How long it took to speak is not known.
            (_, Some(_)) => self.pace.start(self.session.now),
            (Ok(Some(_)), None) => self.pace.note_read(Peer::Client, self.session.now),
            _ => {}
        }
        let heard = self.hear_client(read);
        self.spoke = None;
        self.given_back = GivenBack::Free;
        heard
    }

    pub(crate) fn go_idle(mut self) -> Stop {
        let until = self.next_limit().map(|(end, ..)| end);
        let detached = DetachedSession {
            pool: self.checkout.hand_on(),
            session: self.session,
            client: self.client,
            server: None,
            server_deadline: None,
            spoke: None,
        };
        Stop::Idle(detached, self.pace, self.given_back, until)
    }

    pub(crate) fn detach(mut self) -> DetachedSession {
        self.checkout.leave_queue();
        self.session.listen_for_answer(false);
        // In this order: after the first no CancelRequest can begin, and the second waits for those that
        // have.
        self.handle.parked();
        self.await_cancel_requests();
        if self.handle.signals() & signals::CANCEL != 0 {
            self.handle.clear(signals::CANCEL);
            if matches!(self.session.phase(), Phase::Queued(_)) {
                self.session.enter(Phase::Idle);
                // A client that is gone is noticed wherever the session is driven next.
                let _ = self.refuse_request();
            }
        }
        // What it has done and its pool has not been told goes with it.
        DetachedSession {
            pool: self.checkout.hand_on(),
            session: self.session,
            client: self.client,
            server: self.server,
            server_deadline: self.server_deadline,
            spoke: None,
        }
    }
}
