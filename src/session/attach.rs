//! Checkout and check-in: how a session gets a server connection and gives it back.
//!
//! A connection comes at once or from the queue, is tried and set up, and is replaced if it is dead. It goes back clean
//! or is closed. Invariant: the session's [`Checkout`](crate::session::checkout::Checkout) keeps what there is to give
//! back.

use std::sync::Arc;
use std::time::Duration;

use super::checkout::{CheckoutError, no_server};
use super::close_reason::CloseReason;
use super::driver::{CLOSE_LIMIT, Driver};
use super::registry::signals;
use crate::net::clock::MonotonicTime;
use crate::net::stream::Stream;
use crate::pool::totals::Counters;
use crate::relay::session::Phase;
use crate::server::backend::Connection;
use crate::server::dirty::DirtyState;
use crate::wire::error::ErrorFields;
use crate::wire::sqlstate;

impl Driver {
    /// Takes an idle server connection, if there is one; true if the session can use it at once. If not, the session
    /// is queued, or its settings are made on the connection first.
    pub(crate) fn take_server_at_once(&mut self) -> Result<bool, CloseReason> {
        self.starved = false;
        self.asked_since = self.session.now;
        // During a hand-over the pool is not asked: it might make a new connection.
        if self.moves_by_itself() {
            self.handle.queued();
            self.session.enter(Phase::Queued(self.asked_since));
            return Ok(false);
        }
        match self.checkout.obtain_at_once(self.session.now) {
            Ok(Some(connection)) => {
                self.attach(connection)?;
                Ok(self.session.phase() == Phase::Serving)
            }
            Ok(None) => {
                self.handle.queued();
                self.session.enter(Phase::Queued(self.session.now));
                Ok(false)
            }
            // The pool has ended; it may have come back.
            Err(_) => {
                self.find_pool()?;
                self.handle.queued();
                self.session.enter(Phase::Queued(self.session.now));
                Ok(false)
            }
        }
    }

    /// Whether the server connections that the session could get are on their way to another process, and so
    /// is the session.
    fn moves_by_itself(&self) -> bool {
        self.shared.all_are_handed_over() && self.handle.signals() & signals::PINNED == 0
    }

    /// Answers the client's request without a server connection if it is the check query and PostgreSQL's
    /// answer is known. Returns how many of the bytes at hand that was, or 0.
    pub(crate) fn answer_check(&mut self, input: &[u8]) -> Result<usize, CloseReason> {
        self.refresh_config()?;
        let config = &self.config.1;
        let asks = self.session.asks_only(&config.check_query, input);
        let answer = asks.and_then(|_| self.checkout.pool().check_answer(config));
        self.session
            .listen_for_answer(asks.is_some() && answer.is_none());
        let (Some(n), Some(answer)) = (asks, answer) else {
            return Ok(0);
        };
        self.session.answer_as_before(&answer, &mut self.out);
        self.deliver(&[])?;
        Ok(n)
    }

    /// Tells the pool PostgreSQL's answer to the check query, if it has just come.
    pub(crate) fn keep_check_answer(&mut self) {
        let Some(answer) = self.session.take_captured() else {
            return;
        };
        if let Some(link) = &self.session.link {
            let epoch = link.backend.epoch;
            self.checkout
                .pool()
                .keep_check_answer(&self.config.1, epoch, answer);
        }
    }

    /// Takes up a new configuration of the pool. The end of the pool is noticed by [`Driver::refresh_config`].
    pub(crate) fn take_up_config(&mut self) {
        let pool = self.checkout.pool();
        if !pool.is_closed() {
            self.config = pool
                .config_unless(self.config.0)
                .unwrap_or(self.config.clone());
        }
    }

    /// Takes up a new configuration of the pool, or notices the pool's end.
    pub(crate) fn refresh_config(&mut self) -> Result<(), CloseReason> {
        if let Some(config) = self.checkout.pool().config_unless(self.config.0) {
            self.config = config;
            if self.checkout.pool().is_closed() {
                self.find_pool()?;
            }
        }
        Ok(())
    }

    /// The pool was removed; it may have come back under the same name.
    pub(crate) fn find_pool(&mut self) -> Result<(), CloseReason> {
        let (database, user) = (&self.session.database, &self.session.user);
        let pool = self.shared.pools.find(database, user);
        let pool = pool.ok_or(CloseReason::PoolRemoved)?;
        self.config = (0, pool.config());
        // The answer that was to be captured is one to the old configuration's query.
        self.session.listen_for_answer(false);
        self.checkout.turn_to(pool);
        Ok(())
    }

    /// Whether the session, which has waited for a server connection since then, has one now, or gets none.
    pub(crate) fn look_into_queue(&mut self, since: MonotonicTime) -> Result<bool, CloseReason> {
        self.asked_since = since;
        if self.moves_by_itself() {
            return Err(CloseReason::Moves);
        }
        if self.handle.signals() & signals::CANCEL != 0 {
            self.checkout.leave_queue();
            self.handle.at_rest();
            self.session.enter(Phase::Idle);
            self.handle.clear(signals::CANCEL);
            return self.refuse_request().map(|()| true);
        }
        if !self.checkout.is_queued() {
            // It has waited in another process, or before it was detached: its place in the queue is by that time.
            self.handle.queued();
            match self.checkout.request_since(since) {
                Ok(Some(connection)) => return self.attach(connection).map(|()| true),
                Ok(None) => {}
                Err(_) => return self.find_pool().map(|()| true),
            }
        }
        let outcome = match self.checkout.poll(self.queue_deadline(since)) {
            Some(outcome) => outcome,
            // A dead one has come, and then there was another place in the queue.
            None => return Ok(false),
        };
        self.session.now = MonotonicTime::now();
        match outcome {
            Ok(connection) => {
                // The client may have gone while it waited. Its request is not run then.
                if let Err(close_reason) = self.look_for_end() {
                    self.decline(connection);
                    return Err(close_reason);
                }
                self.attach_after_wait(connection, since)?;
            }
            Err(CheckoutError::Closed) => self.find_pool()?,
            Err(why) => self.refuse_without_server(&why, since)?,
        }
        Ok(true)
    }

    /// The deadline of a client that has waited for a server connection since then.
    pub(crate) fn queue_deadline(&self, since: MonotonicTime) -> MonotonicTime {
        since.after(self.config.1.query_wait_timeout)
    }

    fn attach_after_wait(
        &mut self,
        connection: Connection,
        since: MonotonicTime,
    ) -> Result<(), CloseReason> {
        let waited = self.session.now.since(since);
        self.session.work.wait_micros += u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        if waited >= Duration::from_millis(500) {
            log::warn!(
                "{} slow checkout: {waited:?} pid={}",
                self.session.tag(),
                connection.backend.key.process_id
            );
        }
        self.attach(connection)
    }

    /// The client has cancelled a request that waited in the queue.
    pub(crate) fn refuse_request(&mut self) -> Result<(), CloseReason> {
        self.session.refuse_request(
            sqlstate::QUERY_CANCELED,
            "canceling statement due to user request",
            &mut self.out,
        );
        self.deliver(&[])
    }

    /// No server connection was to be had for the request that is unread: that is an error of this request, and
    /// the session goes on.
    fn refuse_without_server(
        &mut self,
        why: &CheckoutError,
        since: MonotonicTime,
    ) -> Result<(), CloseReason> {
        self.handle.at_rest();
        self.session.enter(Phase::Idle);
        let waited = self.session.now.since(since);
        self.session.work.wait_micros += u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.session.work.errors += 1;
        let work = self.take_work();
        let pool = self.checkout.pool();
        pool.add_work(&work);
        let (code, message) = no_server(why);
        if let Some(line) = pool.note_refusal(format!("{message} ({code})")) {
            log::warn!("{} {line}", self.session.tag());
        }
        self.session.refuse_request(&code, &message, &mut self.out);
        self.deliver(&[])
    }

    /// The session gets a server connection.
    pub(crate) fn attach(&mut self, connection: Connection) -> Result<(), CloseReason> {
        self.pace.start(self.session.now);
        let config = Arc::clone(&self.config.1);
        let Connection {
            backend,
            mut stream,
        } = connection;
        if self.checkout.is_in_own_thread() {
            // It may come from a set.
            stream.unregister();
        }
        let check = config
            .idle_check
            .is_some_and(|limit| self.session.now.since(backend.used_at) > limit);
        if self.handle.running(&backend.key, self.session.now) {
            // The client has cancelled while it waited, and what it asked for has not begun.
            self.decline(Connection { backend, stream });
            return self.refuse_request();
        }
        self.session
            .take_connection(backend, (&*config).into(), check, &mut self.out);
        self.server = Some(stream);
        if self.session.phase() == Phase::Preparing {
            let limit = self.asked_since.after(config.query_wait_timeout);
            let answer = self.session.now.after(config.connect_timeout);
            self.server_deadline = Some(answer.min(limit));
        }
        self.deliver(&[])
    }

    /// Gives a server connection back that the session does not want any more.
    fn decline(&mut self, connection: Connection) {
        self.handle.at_rest();
        let now = self.session.now;
        self.checkout
            .give_back(connection, &Counters::default(), now);
        if matches!(self.session.phase(), Phase::Queued(_)) {
            self.session.enter(Phase::Idle);
        }
    }

    /// A statement of the pooler's own has failed.
    pub(crate) fn handle_setup_error(&mut self) -> Result<(), CloseReason> {
        let Some(link) = &mut self.session.link else {
            return Ok(());
        };
        let Some(why) = link.setup_error.take_if(|_| link.expected.is_empty()) else {
            return Ok(());
        };
        let cancelled = link.cancelled.take().filter(|_| !link.served);
        let refusal = std::mem::take(&mut link.refusal);
        if self.session.phase() == Phase::Cleaning {
            return self.lose_server(&why);
        }
        let Some(message) = cancelled else {
            if !refusal.is_empty() {
                match &mut self.session.link {
                    // Some of its settings may have been made.
                    Some(link) if self.session.rules.clean => {
                        link.backend.dirty.add(DirtyState::SETTINGS);
                    }
                    _ => self.discard("it refused settings of its client"),
                }
                return Err(CloseReason::StartupRefused(ErrorFields::parse(&refusal)));
            }
            return Err(CloseReason::SettingsRefused(why));
        };
        // What the client asked for has not begun.
        self.discard("its setting up was cancelled");
        self.session
            .refuse_request(sqlstate::QUERY_CANCELED, &message, &mut self.out);
        self.deliver(&[])
    }

    /// The server connection is of no more use. What that means for the client depends on what it was
    /// doing.
    pub(crate) fn lose_server(&mut self, how: &str) -> Result<(), CloseReason> {
        let phase = self.session.phase();
        let ended = self.session.link.as_ref().is_some_and(|link| link.ended);
        match phase {
            // Nothing of the client's has been sent on it: take another.
            Phase::Preparing if !self.session.abandoned && !self.session.has_served() => {
                self.discard(how);
                self.session.enter(Phase::Queued(self.asked_since));
                Ok(())
            }
            // The client has its reply already.
            Phase::Cleaning | Phase::Returning => {
                self.discard(how);
                Ok(())
            }
            _ if ended => Err(CloseReason::ServerLeft),
            _ => Err(CloseReason::ServerLost(how.to_owned())),
        }
    }

    /// Gives the clean connection back to its pool, unless a CancelRequest has to arrive first: then it stays
    /// [`Phase::Returning`] until `cancel_limit`.
    pub(crate) fn return_connection(&mut self) {
        let tainted = self
            .session
            .link
            .as_ref()
            .is_some_and(|link| link.backend.key.is_tainted());
        if tainted {
            return self.discard("a cancel request may still be on its way to it");
        }
        if self.handle.at_rest() && self.cancel_limit.is_none() {
            // A CancelRequest is on its way to this backend. No other session may get the connection before the
            // request has arrived.
            self.cancel_limit = Some(MonotonicTime::now().after(CLOSE_LIMIT));
        }
        if let Some(limit) = self.cancel_limit {
            if self.is_being_cancelled() && limit > MonotonicTime::now() {
                return;
            }
            self.cancel_limit = None;
            if self.is_being_cancelled() {
                return self.discard("a cancel request is stuck on its way to it");
            }
            // The signal has been sent; one round trip later it has been taken notice of.
            self.session.clean_once_more(&mut self.out);
            self.server_deadline = Some(MonotonicTime::now().after(CLOSE_LIMIT));
            return;
        }
        self.server_deadline = None;
        let owes = !self.out.server.is_empty() || self.server.as_ref().is_some_and(Stream::owes);
        if owes {
            return self.discard("something is still to be sent on it");
        }
        let backend = match self.session.give_back_connection() {
            Ok(backend) => backend,
            Err(why) => {
                log::warn!("{} server connection closed: {why}", self.session.tag());
                return self.discard(why);
            }
        };
        let Some(stream) = self.server.take() else {
            return;
        };
        let work = self.take_work();
        let now = self.session.now;
        let connection = Connection { backend, stream };
        self.checkout.give_back(connection, &work, now);
    }

    /// Whether a CancelRequest is on its way to the session's backend. When it has arrived, the session is woken.
    pub(crate) fn is_being_cancelled(&self) -> bool {
        let link = self.session.link.as_ref();
        link.is_some_and(|link| link.backend.key.is_being_cancelled())
    }

    /// Closes the server connection and takes it out of the pool.
    pub(crate) fn discard(&mut self, why: &str) {
        self.server_deadline = None;
        self.cancel_limit = None;
        self.out.server.clear();
        self.handle.at_rest();
        let Some(backend) = self.session.give_up_connection() else {
            return;
        };
        let Some(stream) = self.server.take() else {
            return;
        };
        Connection { backend, stream }.close(why);
        let work = self.take_work();
        self.checkout.discard(&work);
    }
}
