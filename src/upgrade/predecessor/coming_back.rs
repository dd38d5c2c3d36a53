//! Sessions that do not move after all: one that the successor cannot take, and all of them when it is dead.
//!
//! Invariant: a session that goes on here is in no list of the hand-over's any more.

use std::time::Duration;

use super::super::messages::Refused;
use super::super::outcome;
use super::{HandOver, Pending};
use crate::net::clock::Moment;
use crate::net::wait::{Interest, Woken, wait};
use crate::session::guest::Guest;
use crate::session::orders::Errand;
use crate::session::registry::told;

/// How long it takes until a session is offered again that could not be taken at the moment.
const AGAIN: Duration = Duration::from_millis(500);

impl HandOver<'_> {
    /// The successor did not take the session: it goes on here, for the time being or to the end of its
    /// transaction.
    pub(super) fn refused(&mut self, refused: &Refused) {
        let Some(Pending::Session(guest, _)) = self.sessions.remove(&refused.id) else {
            return;
        };
        let handle = guest.handle();
        log::warn!("{} cannot move: {}", handle.tag(), refused.why);
        stay(&guest);
        if refused.for_good {
            handle.tell(told::REMOVED);
            self.note_kept(refused.id);
        } else {
            self.again.push_back((refused.id, Moment::now()));
        }
        if guest.awaits_reply() {
            *self.asker.lock() = Some(guest);
        } else {
            self.reception.take_back(guest);
        }
    }

    /// Makes those move that could not be taken a while ago.
    pub(super) fn offer_again(&mut self) {
        let due = |(_, since): &(u64, Moment)| since.elapsed() >= AGAIN;
        while self.again.front().is_some_and(due) {
            let Some((id, _)) = self.again.pop_front() else {
                break;
            };
            if let Some(handle) = self.house.sessions.find(id) {
                handle.heeded(told::STAY);
                handle.tell(told::MOVE);
            }
        }
    }

    /// The session does not move: it goes on here and is told to leave when it can.
    pub(super) fn keep(&mut self, mut guest: Guest, why: &str) {
        let handle = guest.handle();
        log::warn!("{} cannot move: {why}", handle.tag());
        stay(&guest);
        handle.tell(told::DRAIN);
        self.note_kept(handle.who.id);
        if guest.awaits_reply() {
            guest.answer(outcome::refusal(why));
        }
        self.reception.take_back(guest);
    }

    /// The session with this number has to leave: it has the time that a shutdown would give it.
    fn note_kept(&mut self, id: u64) {
        let limit = self.house.settings().general.shutdown_timeout;
        self.kept.push_back((id, Moment::now().after(limit)));
    }

    /// Cuts those that were to leave and are still here.
    pub(super) fn cut_kept(&mut self) {
        while self
            .kept
            .front()
            .is_some_and(|(_, end)| *end <= Moment::now())
        {
            let Some((id, _)) = self.kept.pop_front() else {
                break;
            };
            if let Some(handle) = self.house.sessions.find(id) {
                log::warn!(
                    "{} cannot move and has not left within shutdown_timeout; it is cut",
                    handle.tag()
                );
                handle.tell(told::CUT);
            }
        }
    }

    /// The successor is dead. What it had not taken goes on here.
    pub(super) fn take_back(&mut self) {
        // It may have taken more than we have heard of.
        // It is dead, but a child of its own may keep its end open: what is there now is all.
        while !self.passage.has_ended() {
            let now = Some(Moment::now());
            match wait(Some((self.passage.fd(), Interest::READ)), None, now) {
                Ok(Woken::Told) => {}
                Ok(Woken::Ready { .. }) if self.passage.fill().is_ok() => {}
                _ => break,
            }
        }
        let _ = self.hear_last_words();
        self.house.end_moving();
        self.house.end_passing_on();
        let sent = self
            .sessions
            .drain()
            .filter_map(|(_, pending)| match pending {
                Pending::Session(guest, _) => Some(guest),
                Pending::Idle(..) => None,
            });
        let mut guests: Vec<Guest> = sent.collect();
        guests.extend(self.backlog.drain(..).map(|(guest, _)| guest));
        guests.extend(self.parcels.drain(..).map(|parcel| parcel.guest));
        guests.extend(self.parked.try_iter());
        for (_, pending) in self.idle.drain() {
            if let Pending::Idle(pool, connection) = pending {
                pool.put_back(connection);
            }
        }
        for pool in self.house.pools.all() {
            pool.set_leaving(false);
        }
        for guest in &guests {
            guest.handle().heeded(told::MOVE);
        }
        if let Some(place) = guests.iter().position(Guest::awaits_reply) {
            *self.asker.lock() = Some(guests.swap_remove(place));
        }
        for guest in guests {
            self.reception.take_back(guest);
        }
        // Those that were the successor's have ended with it: as long as a thread waits for its socket, the
        // client is not told.
        for handle in self.lifted.drain(..) {
            if self.house.sessions.find(handle.who.id).is_none() {
                handle.wake();
            }
        }
        let sent = self.new_sent.drain().map(|(_, connection)| connection);
        for connection in sent.chain(self.new.drain(..)) {
            self.reception.adopt_new_connection(connection);
        }
        self.reception.reopen();
        // Orders were carried out here when they were given.
        let mut cancels = std::mem::take(&mut self.early_cancels);
        while let Ok(errand) = self.errands.try_recv() {
            if let Errand::Cancel(key) = errand {
                cancels.push(key);
            }
        }
        for key in cancels {
            self.reception.cancel(key, false);
        }
    }
}

/// The session is not to come by itself at once.
fn stay(guest: &Guest) {
    let handle = guest.handle();
    handle.heeded(told::MOVE);
    handle.tell(told::STAY);
}
