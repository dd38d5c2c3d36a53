//! Sessions that do not move after all: one that the successor cannot take, and all of them when it is dead.
//!
//! Invariant: a session that goes on here is in no list of the hand-over's any more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{HandOver, Pending};
use crate::net::clock::MonotonicTime;
use crate::net::wait::{Interest, Woken, wait};
use crate::session::client::Client;
use crate::session::orders::Errand;
use crate::session::registry::signals;
use crate::upgrade::messages::Refused;
use crate::upgrade::outcome;

/// How long it takes until a session is offered again that could not be taken at the moment.
const AGAIN: Duration = Duration::from_millis(500);

impl HandOver<'_> {
    /// The successor did not take the session: it goes on here, for the time being or to the end of its
    /// transaction.
    pub(super) fn refused(&mut self, refused: &Refused) {
        let Some(Pending::Session(client, _)) = self.sessions.remove(&refused.id) else {
            return;
        };
        let handle = client.handle();
        log::warn!("{} cannot move: {}", handle.tag(), refused.why);
        stay(&client);
        if refused.for_good {
            handle.signal(signals::REMOVED);
            self.note_kept(refused.id);
        } else {
            self.again.push_back((refused.id, MonotonicTime::now()));
        }
        if client.awaits_reply() {
            *self.requester.lock() = Some(client);
        } else {
            self.client_threads.take_in([client]);
        }
    }

    /// Makes those move that could not be taken a while ago.
    pub(super) fn offer_again(&mut self) {
        let due = |(_, since): &(u64, MonotonicTime)| since.elapsed() >= AGAIN;
        while self.again.front().is_some_and(due) {
            let Some((id, _)) = self.again.pop_front() else {
                break;
            };
            if let Some(handle) = self.shared.sessions.find(id) {
                handle.clear(signals::PINNED);
                handle.signal(signals::HAND_OVER);
            }
        }
    }

    /// The session does not move: it goes on here until it is between transactions, and ends then.
    pub(super) fn keep(&mut self, mut client: Client, why: &str) {
        let handle = client.handle();
        log::warn!("{} cannot move: {why}", handle.tag());
        stay(&client);
        handle.signal(signals::DRAIN);
        self.note_kept(handle.info.id);
        if client.awaits_reply() {
            client.answer(outcome::refusal(why));
        }
        self.client_threads.take_in([client]);
    }

    /// The session with this number has to end: it has the time that a shutdown would give it.
    fn note_kept(&mut self, id: u64) {
        let limit = self.shared.settings().general.shutdown_timeout;
        self.kept.push_back((id, MonotonicTime::now().after(limit)));
    }

    /// Ends sessions that were to end and are still here.
    pub(super) fn cut_kept(&mut self) {
        while self
            .kept
            .front()
            .is_some_and(|(_, end)| *end <= MonotonicTime::now())
        {
            let Some((id, _)) = self.kept.pop_front() else {
                break;
            };
            if let Some(handle) = self.shared.sessions.find(id) {
                log::warn!(
                    "{} cannot move and has not left within shutdown_timeout; it is cut",
                    handle.tag()
                );
                handle.signal(signals::FORCE_CLOSE);
            }
        }
    }

    /// The successor is dead. What it had not taken goes on here.
    pub(super) fn take_back(&mut self) {
        // It may have accepted more than its messages that were read say.
        // It is dead, but a child of its own may keep its end open: what is there now is all.
        while !self.channel.has_ended() {
            let now = Some(MonotonicTime::now());
            match wait(Some((self.channel.fd(), Interest::READ)), None, now) {
                Ok(Woken::Interrupted) => {}
                Ok(Woken::Ready { .. }) if self.channel.fill().is_ok() => {}
                _ => break,
            }
        }
        let _ = self.hear_last_words();
        self.shared.end_handover();
        self.shared.web_paused.store(false, Ordering::Release);
        self.shared.end_passing_on();
        let sent = self
            .sessions
            .drain()
            .filter_map(|(_, pending)| match pending {
                Pending::Session(client, _) => Some(client),
                Pending::Idle(..) => None,
            });
        let mut clients: Vec<Client> = sent.collect();
        clients.extend(self.backlog.drain(..).map(|(client, _)| client));
        clients.extend(self.parcels.drain(..).map(|parcel| parcel.client));
        clients.extend(self.parked.try_iter());
        for (_, pending) in self.idle.drain() {
            if let Pending::Idle(pool, connection) = pending {
                pool.put_back(connection);
            }
        }
        for pool in self.shared.pools.all() {
            pool.set_leaving(false);
        }
        for client in &clients {
            client.handle().clear(signals::HAND_OVER);
        }
        if let Some(place) = clients.iter().position(Client::awaits_reply) {
            *self.requester.lock() = Some(clients.swap_remove(place));
        }
        for client in clients {
            self.client_threads.take_in([client]);
        }
        let sent = self.new_sent.drain().map(|(_, connection)| connection);
        for connection in sent.chain(self.new.drain(..)) {
            self.client_threads.adopt_new_connection(connection);
        }
        self.client_threads.resume();
        // Orders were carried out here when they were given.
        let mut cancels = std::mem::take(&mut self.early_cancels);
        while let Ok(errand) = self.errands.try_recv() {
            if let Errand::Cancel(key) = errand {
                cancels.push(key);
            }
        }
        for key in cancels {
            self.client_threads.cancel(key, false);
        }
    }
}

/// Keeps the session from being handed in by itself at once.
fn stay(client: &Client) {
    let handle = client.handle();
    handle.clear(signals::HAND_OVER);
    handle.signal(signals::PINNED);
}
