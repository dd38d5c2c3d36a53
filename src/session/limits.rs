//! Timeouts of a session, and what happens when one has passed.
//!
//! Only whether a time has come is decided here, by the session's value and the settings; the driver waits.
//! Invariant: bytes that a peer sends in the last moment count, except for limits on the whole of a query or
//! transaction.

use std::time::Duration;

use super::close_reason::{CloseReason, Timeout};
use super::driver::Driver;
use crate::net::clock::MonotonicTime;
use crate::net::stream::Stream;
use crate::pool::pool_config::Mode;
use crate::relay::begin::Deferred;
use crate::relay::client_end::ClientEnd;
use crate::relay::session::Phase;

/// How often it is looked whether anybody waits for the server connection of a client that has stalled.
const STALL_CHECK: Duration = Duration::from_secs(1);

/// What a time is set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The server must have answered the pooler's own statement.
    Server,
    /// The server must have taken some of a request.
    ServerWrite,
    /// The peers' hosts must have acknowledged something of what was sent to them.
    Hosts,
    /// The client must have taken some of a huge row.
    HugeRow,
    /// The client must have taken or sent something, if anybody waits for its server connection.
    Stalled,
    /// The client has closed its side, and what it asked for must be over.
    ClientGone,
    /// The client leaves a batch open, and it is to be known whether PostgreSQL has done with it.
    OpenBatch,
    /// One of the limits that the operator sets for a pool.
    Timeout(Timeout),
}

impl Limit {
    /// Whether it holds whatever comes meanwhile.
    fn is_for_the_whole(self) -> bool {
        matches!(
            self,
            Limit::ClientGone | Limit::Timeout(Timeout::Query | Timeout::Transaction)
        )
    }
}

/// A limit, and when it is reached.
type Timed = (MonotonicTime, Limit, Duration);

/// When a peer last took some of what is there for it.
#[derive(Debug, Default)]
pub(crate) struct Progress(Option<(MonotonicTime, usize)>);

impl Progress {
    /// So many bytes are left; since when that has been so.
    fn since(&mut self, left: usize, now: MonotonicTime) -> MonotonicTime {
        match self.0 {
            Some((since, before)) if before == left => since,
            _ => {
                self.0 = Some((now, left));
                now
            }
        }
    }
}

impl Driver {
    /// The limit that is reached next.
    pub(crate) fn next_limit(&mut self) -> Option<Timed> {
        let server = self.server_deadline.map(|end| (end, Limit::Server));
        let limits = [
            server.map(|(end, limit)| (end, limit, Duration::ZERO)),
            self.client_gone_limit(),
            self.server_write_limit(),
            self.client_progress_limit(),
            self.hosts_limit(),
            self.timeout(),
        ];
        limits.into_iter().flatten().min_by_key(|(end, ..)| *end)
    }

    /// Ends what goes on for longer than it may, whether or not its peers have something to say.
    pub(crate) fn handle_limit(&mut self, limit: Option<Timed>) -> Result<(), CloseReason> {
        match limit {
            Some((end, limit, length)) if end <= self.session.now && limit.is_for_the_whole() => {
                self.limit_reached(limit, length)
            }
            _ => Ok(()),
        }
    }

    /// A wait has ended without news from any peer: whether a limit has been reached, and what follows.
    pub(crate) fn check_limits(&mut self) -> Result<(), CloseReason> {
        match self.next_limit() {
            Some((end, limit, length)) if end <= self.session.now => {
                self.limit_reached(limit, length)
            }
            _ => Ok(()),
        }
    }

    fn limit_reached(&mut self, limit: Limit, length: Duration) -> Result<(), CloseReason> {
        match limit {
            Limit::Server => self.lose_server("it did not answer in time"),
            Limit::ServerWrite => self.lose_server(&format!(
                "it took nothing of a request for {length:?} (server_write_timeout)"
            )),
            Limit::Hosts => self.look_at_hosts(length),
            Limit::HugeRow => Err(CloseReason::StoodStill(length)),
            Limit::Stalled => Err(CloseReason::Stalled(length)),
            Limit::OpenBatch => {
                self.session.ask_for_replies(&mut self.out);
                self.deliver(&[])
            }
            Limit::ClientGone => Err(CloseReason::ClosedForLong(length)),
            Limit::Timeout(timeout) => Err(CloseReason::TimedOut(timeout, length)),
        }
    }

    /// When a client that has closed its side, and has not sent a Terminate, is no longer served.
    pub(crate) fn client_gone_limit(&self) -> Option<Timed> {
        let ClientEnd::EndOfStream { since, .. } = self.session.client_end else {
            return None;
        };
        let length = self.shared.settings().general.client_gone_timeout;
        Some((since.after(length), Limit::ClientGone, length))
    }

    /// Until when the server has to take some of a request, if it has nothing else to do.
    fn server_write_limit(&mut self) -> Option<Timed> {
        let (Some(link), Some(stream)) = (&self.session.link, &self.server) else {
            self.server_progress = Progress::default();
            return None;
        };
        let owed = link.side.owed.len() + usize::from(stream.owes());
        if owed == 0 || !self.session.server_only_reads() {
            self.server_progress = Progress::default();
            return None;
        }
        let left = owed + stream.unsent();
        let since = self.server_progress.since(left, self.session.now);
        let length = self.shared.settings().general.server_write_timeout;
        Some((since.after(length), Limit::ServerWrite, length))
    }

    /// Until when a client that keeps a server connection has to take something of what it is owed, or to send
    /// more of half a message.
    fn client_progress_limit(&mut self) -> Option<Timed> {
        let session = &self.session;
        let Some(left) = session.client_delays(|| self.client.unsent()) else {
            self.client_progress = Progress::default();
            return None;
        };
        let now = session.now;
        let since = self.client_progress.since(left, now);
        if session.holds_up_huge_row() {
            let length = self.shared.settings().general.proxy_copy_data_timeout;
            return Some((since.after(length), Limit::HugeRow, length));
        }
        if session.rules.mode == Mode::Session {
            return None;
        }
        let length = self.shared.settings().general.client_stall_timeout?;
        let end = since.after(length);
        if end <= now && !self.checkout.pool().is_waited_for() {
            return Some((now.after(STALL_CHECK), Limit::Stalled, length));
        }
        Some((end, Limit::Stalled, length))
    }

    /// When to look whether the peers' hosts still acknowledge what they are sent.
    fn hosts_limit(&self) -> Option<Timed> {
        let length = self.config.1.sockets.user_timeout?;
        let session = &self.session;
        let awaited = session.link.as_ref()?.expected.is_empty() && session.client.owed.is_empty();
        let since = self.looked_at_hosts.max(session.active_at);
        (!awaited).then(|| (since.after(length), Limit::Hosts, length))
    }

    fn look_at_hosts(&mut self, length: Duration) -> Result<(), CloseReason> {
        self.looked_at_hosts = self.session.now;
        let is_gone = |stream: &Stream| stream.is_unacknowledged_for(length);
        let why = format!("its host has acknowledged nothing for {length:?} (tcp_user_timeout)");
        if self.server.as_ref().is_some_and(is_gone) {
            return self.lose_server(&why);
        }
        if is_gone(&self.client) {
            return self.client_is_gone(&why);
        }
        Ok(())
    }

    /// The operator's limit that is reached next.
    fn timeout(&self) -> Option<Timed> {
        let limits = self.config.1.timeouts;
        let session = &self.session;
        let timed = |timeout, since: MonotonicTime, length: Option<Duration>| {
            length.map(|length| (since.after(length), Limit::Timeout(timeout), length))
        };
        let idle = session.active_at;
        match (session.phase(), &session.link) {
            (Phase::Idle, _) if session.deferred == Deferred::Nothing => {
                timed(Timeout::ClientIdle, idle, limits.client_idle)
            }
            (Phase::Idle, _) => timed(Timeout::IdleTransaction, idle, limits.idle_transaction),
            (Phase::Serving, Some(link)) => {
                let since = link.transaction_since.unwrap_or(session.now);
                let transaction = link.transaction_since.and(limits.transaction);
                let transaction = timed(Timeout::Transaction, since, transaction);
                let other = if session.awaits_client_in_transaction() {
                    timed(Timeout::IdleTransaction, idle, limits.idle_transaction)
                } else if link.expected.is_empty() {
                    None
                } else {
                    timed(Timeout::Query, link.query_since, limits.query)
                };
                let open = limits
                    .idle_transaction
                    .filter(|_| session.may_await_client());
                let open = open.map(|length| (idle.after(length), Limit::OpenBatch, length));
                let all = [transaction, other, open].into_iter().flatten();
                all.min_by_key(|(end, ..)| *end)
            }
            _ => None,
        }
    }
}
