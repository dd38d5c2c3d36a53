//! The end of a session: the client's last words go out, its server connection is brought back to its pool
//! or closed, and the client's side is closed so that the words arrive.
//!
//! Every way a session can end goes through here. A client that left something running holds its server connection
//! for a second at most.

use std::sync::Arc;
use std::time::Duration;

use super::close_reason::CloseReason;
use super::driver::{CLEAN_LIMIT, CLOSE_LIMIT, Driver};
use super::registry::{Activity, signals};
use super::shared::Stage;
use crate::net::clock::MonotonicTime;
use crate::net::stream::wait;
use crate::net::wait::{Interest, Woken};
use crate::relay::session::{Phase, ServerLink};
use crate::server::cancel;

/// How long the last words to a client may take to arrive.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

impl Driver {
    /// Ends the session: the client's last words go out, the server connection is settled, and then the
    /// client's side is closed so that the words arrive.
    pub(crate) fn end(mut self, close_reason: &CloseReason) {
        self.checkout.leave_queue();
        if self.session.phase() != Phase::Idle && self.session.link.is_none() {
            self.session.enter(Phase::Idle);
        }
        // What is unread stays so, and others may need the memory.
        self.session.client.unread = Vec::new();
        self.unfinished.set(0);
        let mut words = std::mem::take(&mut self.session.client.owed);
        let reachable = !close_reason.is_deaf();
        if reachable && self.session.client_is_between_messages() {
            words.extend_from_slice(&close_reason.message());
        }
        if reachable && !words.is_empty() {
            if let Ok(n) = self.client.send(&words) {
                words.drain(..n);
            }
        }
        self.release_server(close_reason);
        let work = self.take_work();
        self.checkout.pool().add_work(&work);
        self.handle.show(Activity::Idle);
        if reachable {
            let limit = self.shared.patience_at_the_end(LAST_WORDS_LIMIT);
            self.client.finish(&words, limit);
        }
    }

    /// Brings the server connection back to its pool, or closes it.
    fn release_server(&mut self, close_reason: &CloseReason) {
        if self.server.is_none() {
            return;
        }
        self.out.client.clear();
        let answered = |link: &ServerLink| link.expected.is_empty();
        let running = !self.session.link.as_ref().is_none_or(answered);
        let usable = !matches!(
            close_reason,
            CloseReason::ServerLeft
                | CloseReason::ServerLost(_)
                | CloseReason::ServerConfused(_)
                | CloseReason::SettingsRefused(_)
        );
        if !usable || !self.session.client_gone(&mut self.out) {
            if usable && running {
                self.cancel_own_query();
            }
            return self.discard(&close_reason.to_string());
        }
        if self.deliver(&[]).is_err() {
            return self.discard("it could not be written to");
        }
        if running && self.session.phase() == Phase::Serving {
            self.cancel_own_query();
        }
        let patient =
            matches!(close_reason, CloseReason::Left) && self.shared.stage() == Stage::Open;
        let limit = match patient && !running {
            true => CLEAN_LIMIT,
            false => CLOSE_LIMIT,
        };
        let limit = MonotonicTime::now().after(limit);
        while self.server.is_some() {
            if self.session.phase() == Phase::Cleaning && self.server_deadline.is_none() {
                self.server_deadline = Some(MonotonicTime::now().after(CLEAN_LIMIT));
            }
            if self.session.phase() == Phase::Returning {
                self.return_connection();
                if self.deliver(&[]).is_err() {
                    return self.discard("it could not be written to");
                }
                continue;
            }
            let Some(stream) = &self.server else { return };
            let owes = self
                .session
                .link
                .as_ref()
                .is_some_and(|link| !link.side.owed.is_empty());
            let interest = Interest {
                read: true,
                write: owes,
                ..Interest::default()
            };
            let until = Some(self.server_deadline.map_or(limit, |end| end.min(limit)));
            let woken = wait(None, Some((stream, interest)), until);
            self.session.now = MonotonicTime::now();
            match woken {
                Ok(Woken::Interrupted)
                    if self.handle.signals() & (signals::STOP | signals::FORCE_CLOSE) == 0 => {}
                Ok(Woken::Ready { server, .. }) => {
                    if self.on_server(server).is_err() {
                        return self.discard("it was lost while it was being cleaned");
                    }
                }
                Ok(Woken::Interrupted | Woken::Deadline) | Err(_) => {
                    // There may have been more than one query.
                    if self.session.phase() == Phase::Serving {
                        self.cancel_own_query();
                    }
                    return self.discard("it could not be cleaned in time");
                }
            }
        }
    }

    /// Cancels what the session's own client left running.
    fn cancel_own_query(&mut self) {
        let Some(link) = &self.session.link else {
            return;
        };
        let key = Arc::clone(&link.backend.key);
        let config = &self.config.1;
        let way = cancel::Way {
            encryption: Some(&config.encryption),
            host: &config.host,
            sockets: &config.sockets,
        };
        if let Err(error) = cancel::send(&key, way, CLOSE_LIMIT) {
            key.taint();
            log::warn!(
                "{} could not cancel the query of a client that is gone, pid={}: {error}",
                self.session.tag(),
                key.process_id
            );
        }
    }
}
