//! The course of a hand-over: the order in which sessions move, until none is left.
//!
//! `send.rs` puts them into messages. Invariant: the upgrade is complete when only logins under way are left here, and
//! the process ends when none is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Sender;

use super::super::messages::{self, Message, PoolWork};
use super::{COMING, HandOver, IDLE_MORE, WAVE, WINDOW};
use crate::net::clock::MonotonicTime;
use crate::pool::totals::Counters;
use crate::session::client::Client;
use crate::session::registry::{Activity, Handle, signals};
use crate::session::shared::HandoverScope;

/// How long logins under way may take when all others have moved, and how long their clients then have to read the
/// error.
const LOGGING_IN: Duration = Duration::from_secs(2);
const HEARING: Duration = Duration::from_millis(500);

impl HandOver<'_> {
    /// Hands everything over but what is still logging in.
    pub(super) fn conduct(&mut self, sender: Sender<Client>) -> io::Result<()> {
        while !self.ready {
            self.step(Some("was not ready"))?;
        }
        self.give_statements()?;
        self.client_threads.pause();
        self.introduce()?;
        messages::queue(&mut self.channel, &Message::Open, Vec::new())?;
        self.channel.flush()?;
        while !self.seated {
            self.step(Some("did not make ready for the sessions"))?;
        }
        self.give_idle()?;
        let settings = self.shared.settings();
        let whom = if settings.upgrade.migrate {
            HandoverScope::Everybody
        } else {
            log::info!(
                "the new process takes new clients; those that are here finish their transactions (upgrade.migrate)"
            );
            HandoverScope::Console
        };
        self.to_signal = self.shared.begin_handover(sender, whom);
        let mut cut_at = match whom {
            HandoverScope::Everybody => None,
            HandoverScope::Console => {
                Some(MonotonicTime::now().after(settings.general.shutdown_timeout))
            }
        };
        loop {
            if cut_at.is_some_and(|at| at <= MonotonicTime::now()) {
                cut_at = None;
                log::warn!("shutdown_timeout has passed; clients in transactions are cut");
                self.shared.signal_all(signals::FORCE_CLOSE);
            }
            let is_all = self.round()? && !self.shared.awaits_stragglers();
            // PostgreSQL has seen those that are being made; they are given when they are there.
            let pools = self.shared.pools.all();
            if is_all && !pools.iter().any(|pool| pool.is_connecting()) {
                let Some(requester) = self.requester.lock().take() else {
                    break;
                };
                if let Some(requester) = self.give_session(requester, MonotonicTime::now())? {
                    *self.requester.lock() = Some(requester);
                    self.step(None)?;
                }
                continue;
            }
            self.wait_for_more()?;
        }
        self.give_work(false)?;
        let done = Message::Done(self.outcome);
        messages::queue(&mut self.channel, &done, Vec::new())?;
        while !self.finished {
            self.give_errands()?;
            self.step(Some("did not finish"))?;
        }
        Ok(())
    }

    /// Gives the sessions of the logins that were still under way. Their time is bounded.
    pub(super) fn give_stragglers(&mut self) -> io::Result<()> {
        let deadline = MonotonicTime::now().after(LOGGING_IN);
        let end = deadline.after(HEARING);
        let mut told = false;
        while !(self.round()? && self.shared.logins() == 0) {
            let now = MonotonicTime::now();
            if now >= end {
                break;
            }
            if now >= deadline && !std::mem::replace(&mut told, true) {
                log::info!(
                    "{} clients have not logged in during the upgrade; they are told to connect again",
                    self.shared.logins()
                );
                self.shared.end_logins();
            }
            self.wait_for_more()?;
        }
        self.give_work(true)?;
        while self.channel.owes() {
            self.step(Some("did not listen"))?;
        }
        Ok(())
    }

    /// Sends what the pools have done since it was sent last. The `last` time, pools that have done nothing are left
    /// out.
    fn give_work(&mut self, last: bool) -> io::Result<()> {
        for (pool, told) in &mut self.sent_work {
            let now = pool.snapshot().totals.all;
            let work = now.since(told);
            *told = now;
            if last && work == Counters::default() {
                continue;
            }
            let work = Message::Work(Box::new(PoolWork {
                database: pool.database.clone(),
                user: pool.user.clone(),
                work,
            }));
            messages::queue(&mut self.channel, &work, Vec::new())?;
        }
        Ok(())
    }

    /// Gives what can be given now. True if nothing is left here, or on its way, but logins and the session that asked
    /// for the upgrade.
    fn round(&mut self) -> io::Result<bool> {
        let came = MonotonicTime::now();
        while let Ok(client) = self.parked.try_recv() {
            let id = client.handle().info.id;
            self.coming.retain(|(coming, _)| *coming != id);
            // A busy session goes first: its client waits.
            if client.is_busy() {
                self.backlog.push_front((client, came));
            } else {
                self.backlog.push_back((client, came));
            }
        }
        self.signal_some();
        self.offer_again();
        self.client_threads.start_runnable();
        let window = WINDOW + self.more();
        while self.sessions.len() < window {
            let Some((client, since)) = self.backlog.pop_front() else {
                break;
            };
            match self.pack(client, since) {
                Ok(parcel) => self.parcels.push_back(parcel),
                Err(client) => {
                    if let Some(client) = self.give_session(client, since)? {
                        self.backlog.push_front((client, since));
                        break;
                    }
                }
            }
        }
        // While only large pieces are left, sessions that are being served come first.
        let small = !self.backlog.is_empty() || !self.to_signal.is_empty();
        self.haste.set(small || !self.has_pieces());
        self.give_piece()?;
        if self.client_threads.is_receiving() {
            self.new.extend(self.client_threads.take_new_connections());
        }
        if self.backlog.is_empty() && self.to_signal.is_empty() {
            self.give_new()?;
        }
        self.cut_kept();
        self.give_errands()?;
        // In the order in which a client goes from one to the next; and what a session leaves behind when it ends
        // is given below.
        let asking = usize::from(self.requester.lock().is_some());
        let all = !self.client_threads.is_receiving();
        // A session is in the registry before its login is over.
        let all = all && self.shared.sessions.len() == asking;
        let all = self.give_idle()? && all;
        // What can be written at once needs no answer by itself: it is not waited for.
        self.channel.flush()?;
        let nobody_left = self.backlog.is_empty()
            && self.parcels.is_empty()
            && self.new.is_empty()
            && self.again.is_empty()
            && self.to_signal.is_empty()
            && self.parked.is_empty();
        Ok(all && nobody_left && !self.is_owed())
    }

    /// Whether the successor has something to read or to answer.
    fn is_owed(&self) -> bool {
        !self.sessions.is_empty()
            || !self.idle.is_empty()
            || !self.new_sent.is_empty()
            || self.channel.owes()
    }

    fn wait_for_more(&mut self) -> io::Result<()> {
        if self.has_pieces() && !self.channel.owes() {
            // There is room for the next piece.
            return self.hear();
        }
        let owed = self.is_owed();
        self.step(owed.then_some("did not acknowledge a session"))
    }

    /// How many more sessions may be under way, now that only idle ones are left, if so.
    fn more(&self) -> usize {
        let idle = |handle: &Arc<Handle>| handle.activity() == Activity::Idle;
        if self.to_signal.front().is_none_or(idle) {
            IDLE_MORE
        } else {
            0
        }
    }

    /// Makes sessions move, a few at a time. A session is held up from the signal until the successor accepts it.
    fn signal_some(&mut self) {
        self.coming.retain(|(_, told)| told.elapsed() < COMING);
        let under_way = self.coming.len() + self.backlog.len() + self.sessions.len();
        let some = (WAVE + self.more()).saturating_sub(under_way);
        for handle in self.to_signal.drain(..some.min(self.to_signal.len())) {
            self.coming.push((handle.info.id, MonotonicTime::now()));
            handle.signal(signals::HAND_OVER);
        }
    }
}
