//! The end of a session: the last message to the client goes out, the server connection is cleaned and given back to
//! its pool or closed, and the client's socket is closed so that the message arrives.
//!
//! Every way a session can end goes through here. Nothing here blocks.
//! A client that left something running holds its server connection for a second at most.

use std::sync::Arc;
use std::time::Duration;

use super::close_reason::CloseReason;
use super::driver::{CLEAN_LIMIT, CLOSE_LIMIT, Course, Driver, Wanted};
use super::own_cancel::OwnCancel;
use super::registry::{Activity, signals};
use super::shared::Stage;
use crate::net::clock::MonotonicTime;
use crate::net::stream::Finish;
use crate::net::wait::{Interest, Readiness};
use crate::relay::session::{Phase, ServerLink};

/// How long the last message to a client may take to arrive.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// A session that is being closed.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) close_reason: CloseReason,
    /// Bytes still to be sent to the client, unless it reads nothing more.
    words: Option<Vec<u8>>,
    stage: ClosingStage,
}

#[derive(Debug)]
enum ClosingStage {
    /// The server connection is being cleaned, until then.
    Cleaning(MonotonicTime),
    /// The query on a server connection that cannot be cleaned is being cancelled, until then. Then the connection is
    /// closed for this reason.
    Cancelling(String, MonotonicTime),
    /// The session has no server connection any more.
    Settled,
    /// The client reads the last message, until then.
    Finishing(Finish, MonotonicTime),
}

impl Driver {
    /// Begins to close the session.
    pub(crate) fn begin_to_close(&mut self, close_reason: CloseReason) {
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
        let stage = self.begin_to_settle(&close_reason);
        self.course = Course::Closes(Box::new(Closing {
            close_reason,
            words: reachable.then_some(words),
            stage,
        }));
    }

    /// Closes the session as far as that goes without waiting. What is to be waited for; `None` if it is closed.
    pub(crate) fn close(&mut self, closing: &mut Closing) -> Option<Wanted> {
        self.handle.clear(signals::CANCELLED);
        loop {
            let now = MonotonicTime::now();
            match &mut closing.stage {
                ClosingStage::Cleaning(limit) => {
                    let limit = *limit;
                    match self.clean_for_good(limit) {
                        Ok(Some(wanted)) => return Some(wanted),
                        Ok(None) => closing.stage = ClosingStage::Settled,
                        Err(()) => {
                            // There may have been more than one query.
                            let runs = self.session.phase() == Phase::Serving;
                            closing.stage =
                                self.cancel_and_discard("it could not be cleaned in time", runs);
                        }
                    }
                }
                ClosingStage::Cancelling(why, limit) => {
                    if self.is_being_cancelled() && *limit > now {
                        return Some(Wanted::nothing_before(*limit));
                    }
                    let why = std::mem::take(why);
                    self.discard(&why);
                    closing.stage = ClosingStage::Settled;
                }
                ClosingStage::Settled => {
                    let work = self.take_work();
                    self.checkout.pool().add_work(&work);
                    self.handle.show(Activity::Idle);
                    let words = closing.words.take()?;
                    let limit = self.shared.patience_at_the_end(LAST_WORDS_LIMIT);
                    closing.stage = ClosingStage::Finishing(Finish::new(words), now.after(limit));
                }
                ClosingStage::Finishing(finish, limit) => {
                    let interest = finish.advance(&mut self.client)?;
                    return (*limit > now).then_some(Wanted {
                        client: Some(interest),
                        until: Some(*limit),
                        sealed: true,
                        ..Wanted::default()
                    });
                }
            }
        }
    }

    /// Something has happened on the server connection of a session that is being closed.
    pub(crate) fn server_is_ready_while_closing(
        &mut self,
        closing: &mut Closing,
        ready: Readiness,
    ) {
        if matches!(closing.stage, ClosingStage::Cleaning(_)) && self.on_server(ready).is_err() {
            self.discard("it was lost while it was being cleaned");
        }
    }

    /// Begins to clean the server connection, to give it back to its pool, or closes it.
    fn begin_to_settle(&mut self, close_reason: &CloseReason) -> ClosingStage {
        if self.server.is_none() {
            return ClosingStage::Settled;
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
            return self.cancel_and_discard(&close_reason.to_string(), usable && running);
        }
        if self.deliver(&[]).is_err() {
            return self.cancel_and_discard("it could not be written to", false);
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
        ClosingStage::Cleaning(MonotonicTime::now().after(limit))
    }

    /// Goes on cleaning the server connection: what is to be waited for, or `None` if the session has none any more.
    ///
    /// # Errors
    /// If there is no time left.
    fn clean_for_good(&mut self, limit: MonotonicTime) -> Result<Option<Wanted>, ()> {
        loop {
            if self.server.is_none() {
                return Ok(None);
            }
            let phase = self.session.phase();
            if phase == Phase::Cleaning && self.server_deadline.is_none() {
                self.server_deadline = Some(MonotonicTime::now().after(CLEAN_LIMIT));
            }
            if phase == Phase::Returning {
                self.return_connection();
                if self.deliver(&[]).is_err() {
                    self.discard("it could not be written to");
                }
                if self.session.phase() != Phase::Returning {
                    continue;
                }
            }
            let until = [self.server_deadline, self.cancel_limit];
            let until = until.into_iter().flatten().fold(limit, MonotonicTime::min);
            let hurried = self.handle.signals() & (signals::STOP | signals::FORCE_CLOSE) != 0;
            if until <= MonotonicTime::now() || hurried {
                return Err(());
            }
            if self.cancel_limit.is_some() {
                return Ok(Some(Wanted::nothing_before(until)));
            }
            let owed = |link: &ServerLink| !link.side.owed.is_empty();
            let interest = Interest {
                read: true,
                write: self.session.link.as_ref().is_some_and(owed),
                ..Interest::default()
            };
            return Ok(Some(Wanted {
                server: Some(interest),
                until: Some(until),
                ..Wanted::default()
            }));
        }
    }

    /// The server connection cannot be cleaned. If `cancels`, whatever runs on it is cancelled before it is closed.
    fn cancel_and_discard(&mut self, why: &str, cancels: bool) -> ClosingStage {
        if cancels {
            self.cancel_own_query();
            let limit = MonotonicTime::now().after(CLOSE_LIMIT);
            return ClosingStage::Cancelling(why.to_owned(), limit);
        }
        self.discard(why);
        ClosingStage::Settled
    }

    /// Cancels what the session's own client left running. The session is woken when that is done.
    fn cancel_own_query(&mut self) {
        let Some(link) = &self.session.link else {
            return;
        };
        self.shared.own_cancels.begin(OwnCancel::new(
            Arc::clone(&self.handle),
            Arc::clone(&link.backend.key),
            Arc::clone(&self.config.1),
            CLOSE_LIMIT,
        ));
    }
}
