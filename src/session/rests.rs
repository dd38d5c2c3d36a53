//! Why a thread stops driving a session that has not ended: the session is to move, or it is idle. Also the other
//! signals that a session can get.
//!
//! Invariant: what is given back here is the whole session; another thread, or another process, can drive it on.

use super::driver::Driver;
use super::ending::Ending;
use super::guest::{self, Resting};
use super::lend::GivenBack;
use super::pace::{Pace, Peer};
use super::registry::told;
use super::relay::begin::Deferred;
use super::session::Phase;
use super::transfer::Input;
use crate::net::clock::Moment;

/// Why a session is not driven on.
pub(super) enum Rests {
    /// It has ended.
    Ended(Ending),
    /// It was told to move.
    ToMove(Resting),
    /// It is silent. Its peers' pace is that of this thread with them, this has become of the server connection
    /// that it used, and it is driven on at this time at the latest.
    Silent(Resting, Pace, GivenBack, Option<Moment>),
}

impl Driver {
    /// Does what the session was told.
    pub(super) fn heed(&mut self) -> Result<(), Ending> {
        let flags = self.handle.told();
        if flags == 0 {
            return Ok(());
        }
        self.handle.heeded(told::CANCELLED);
        if flags & told::STOP != 0 {
            return Err(Ending::Stopped);
        }
        if flags & told::CUT != 0 {
            return Err(Ending::Drained);
        }
        if flags & told::MOVE != 0 {
            return Err(Ending::Moves);
        }
        if flags & (told::DRAIN | told::REMOVED) != 0 && self.is_between_transactions() {
            return Err(if flags & told::DRAIN != 0 {
                Ending::Drained
            } else {
                Ending::PoolRemoved
            });
        }
        Ok(())
    }

    fn is_between_transactions(&self) -> bool {
        let at_rest = match &self.session.lent {
            None => {
                self.session.phase() == Phase::Idle && self.session.deferred == Deferred::Nothing
            }
            Some(lent) => {
                self.session.phase() == Phase::Serving
                    && self.session.is_between_requests()
                    && !lent.backend.in_transaction()
            }
        };
        let client = &self.session.client;
        // A request that has just got its server connection is still unread.
        at_rest && client.unread.is_empty() && client.frame.left == 0 && client.owed.is_empty()
    }

    /// Whether nothing happens before the client speaks or the session is told something.
    pub(super) fn is_silent(&self) -> bool {
        guest::is_silent(&self.session, &self.client) && self.violation.is_none()
    }

    /// Reads what the client may have said while nobody drove its session.
    pub(super) fn look_at_client(&mut self) -> Result<(), Ending> {
        self.session.now = Moment::now();
        let read = Input::read(&mut self.session.client, &mut self.client);
        match (&read, self.spoke) {
            // How long it took to speak is not known.
            (_, Some(_)) => self.pace.start(self.session.now),
            (Ok(Some(_)), None) => self.pace.hear(Peer::Client, self.session.now),
            _ => {}
        }
        let heard = self.hear_client(read);
        self.spoke = None;
        self.given_back = GivenBack::Free;
        heard
    }

    pub(super) fn sleep(mut self) -> Rests {
        let until = self.next_limit().map(|(end, ..)| end);
        let resting = Resting {
            pool: self.claim.hand_on(),
            session: self.session,
            client: self.client,
            server: None,
            server_deadline: None,
            spoke: None,
        };
        Rests::Silent(resting, self.pace, self.given_back, until)
    }

    pub(super) fn rest(mut self) -> Resting {
        self.claim.leave_queue();
        self.session.listen_for_answer(false);
        // In this order: after the first no CancelRequest can begin, and the second waits for those that
        // have.
        self.handle.parked();
        self.await_cancel_requests();
        if self.handle.told() & told::CANCEL != 0 {
            self.handle.heeded(told::CANCEL);
            if matches!(self.session.phase(), Phase::Queued(_)) {
                self.session.enter(Phase::Idle);
                // A client that is gone is noticed wherever the session is driven next.
                let _ = self.refuse_request();
            }
        }
        // What it has done and its pool has not been told goes with it.
        Resting {
            pool: self.claim.hand_on(),
            session: self.session,
            client: self.client,
            server: self.server,
            server_deadline: self.server_deadline,
            spoke: None,
        }
    }
}
