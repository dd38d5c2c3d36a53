//! The end of a session: the client's last words go out, its server connection is brought back to its pool
//! or closed, and the client's side is closed so that the words arrive.
//!
//! Every way a session can end goes through here. A client that left something running holds its server connection
//! for a second at most.

use std::sync::Arc;
use std::time::Duration;

use super::driver::{CLEAN_LIMIT, Driver, SETTLE_LIMIT};
use super::ending::Ending;
use super::house::Stage;
use super::registry::{Activity, told};
use super::session::{Lent, Phase};
use crate::net::clock::Moment;
use crate::net::stream::wait;
use crate::net::wait::{Interest, Woken};
use crate::server::cancel;

/// How long the last words to a client may take to arrive.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

impl Driver {
    /// Ends the session: the client's last words go out, the server connection is settled, and then the
    /// client's side is closed so that the words arrive.
    pub(super) fn end(mut self, ending: &Ending) {
        self.claim.leave_queue();
        if self.session.phase() != Phase::Idle && self.session.lent.is_none() {
            self.session.enter(Phase::Idle);
        }
        // What is unread stays so, and others may need the memory.
        self.session.client.unread = Vec::new();
        self.unfinished.set(0);
        let mut words = std::mem::take(&mut self.session.client.owed);
        let reachable = !ending.is_deaf();
        if reachable && self.session.client_is_between_messages() {
            words.extend_from_slice(&ending.message());
        }
        if reachable && !words.is_empty() {
            if let Ok(n) = self.client.send(&words) {
                words.drain(..n);
            }
        }
        self.settle_server(ending);
        let work = self.take_work();
        self.claim.pool().add_work(&work);
        self.handle.show(Activity::Idle);
        if reachable {
            let limit = self.house.patience_at_the_end(LAST_WORDS_LIMIT);
            self.client.finish(&words, limit);
        }
    }

    /// Brings the server connection back to its pool, or closes it.
    fn settle_server(&mut self, ending: &Ending) {
        if self.server.is_none() {
            return;
        }
        self.out.client.clear();
        let answered = |lent: &Lent| lent.expected.is_empty();
        let running = !self.session.lent.as_ref().is_none_or(answered);
        let usable = !matches!(
            ending,
            Ending::ServerLeft
                | Ending::ServerLost(_)
                | Ending::ServerConfused(_)
                | Ending::SettingsRefused(_)
        );
        if !usable || !self.session.abandon(&mut self.out) {
            if usable && running {
                self.cancel_own_query();
            }
            return self.write_off(&ending.to_string());
        }
        if self.deliver(&[]).is_err() {
            return self.write_off("it could not be written to");
        }
        if running && self.session.phase() == Phase::Serving {
            self.cancel_own_query();
        }
        let patient = matches!(ending, Ending::Left) && self.house.stage() == Stage::Open;
        let limit = match patient && !running {
            true => CLEAN_LIMIT,
            false => SETTLE_LIMIT,
        };
        let limit = Moment::now().after(limit);
        while self.server.is_some() {
            if self.session.phase() == Phase::Cleaning && self.server_deadline.is_none() {
                self.server_deadline = Some(Moment::now().after(CLEAN_LIMIT));
            }
            if self.session.phase() == Phase::Returning {
                self.return_connection();
                if self.deliver(&[]).is_err() {
                    return self.write_off("it could not be written to");
                }
                continue;
            }
            let Some(stream) = &self.server else { return };
            let owes = self
                .session
                .lent
                .as_ref()
                .is_some_and(|lent| !lent.side.owed.is_empty());
            let interest = Interest {
                read: true,
                write: owes,
                ..Interest::default()
            };
            let until = Some(self.server_deadline.map_or(limit, |end| end.min(limit)));
            let woken = wait(None, Some((stream, interest)), until);
            self.session.now = Moment::now();
            match woken {
                Ok(Woken::Told) if self.handle.told() & (told::STOP | told::CUT) == 0 => {}
                Ok(Woken::Ready { server, .. }) => {
                    if self.on_server(server).is_err() {
                        return self.write_off("it was lost while it was being cleaned");
                    }
                }
                Ok(Woken::Told | Woken::Deadline) | Err(_) => {
                    // There may have been more than one query.
                    if self.session.phase() == Phase::Serving {
                        self.cancel_own_query();
                    }
                    return self.write_off("it could not be cleaned in time");
                }
            }
        }
    }

    /// Cancels what the session's own client left running.
    fn cancel_own_query(&mut self) {
        let Some(lent) = &self.session.lent else {
            return;
        };
        let key = Arc::clone(&lent.backend.key);
        let plan = &self.plan.1;
        let way = cancel::Way {
            encryption: Some(&plan.encryption),
            host: &plan.host,
            sockets: &plan.sockets,
        };
        if let Err(error) = cancel::send(&key, way, SETTLE_LIMIT) {
            key.taint();
            log::warn!(
                "{} could not cancel the query of a client that is gone, pid={}: {error}",
                self.session.tag(),
                key.process_id
            );
        }
    }
}
