//! The times by which something must have happened in a session, and what follows if it has not.
//!
//! Only whether a time has come is decided here, by the session's value and the settings; the driver waits. Invariant:
//! a time that has come counts only if the wait that it ended brought nothing else.

use std::time::Duration;

use super::driver::Driver;
use super::ending::Ending;
use super::relay::client_end::ClientEnd;
use crate::net::clock::Moment;

/// What a time is set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// The server must have answered the pooler's own statement.
    Server,
    /// The client must have taken some of a huge row.
    HugeRow(Duration),
    /// The client has closed its side, and what it asked for must be over.
    ClientGone(Duration),
}

impl Driver {
    /// The time that comes next.
    pub(super) fn next_limit(&mut self) -> Option<(Moment, Limit)> {
        let server = self.server_deadline.map(|end| (end, Limit::Server));
        let limits = [server, self.huge_row_limit(), self.client_gone_limit()];
        limits.into_iter().flatten().min_by_key(|(end, _)| *end)
    }

    /// A time has come.
    pub(super) fn limit_reached(&mut self, limit: Limit) -> Result<(), Ending> {
        match limit {
            Limit::Server => self.lose_server("it did not answer in time"),
            Limit::HugeRow(limit) => self.lose_patience(limit),
            Limit::ClientGone(limit) => Err(Ending::ClosedForLong(limit)),
        }
    }

    /// When a client that has closed its side, and has not sent a Terminate, is no longer served.
    pub(super) fn client_gone_limit(&self) -> Option<(Moment, Limit)> {
        let ClientEnd::EndOfStream { since, .. } = self.session.client_end else {
            return None;
        };
        let limit = self.house.settings().general.client_gone_timeout;
        Some((since.after(limit), Limit::ClientGone(limit)))
    }

    /// The time is up for a client that keeps a server connection with a huge row.
    fn lose_patience(&mut self, limit: Duration) -> Result<(), Ending> {
        let unsent = self.client.unsent();
        match self.standing_still.replace((self.session.now, unsent)) {
            Some((_, before)) if unsent < before => Ok(()),
            _ => Err(Ending::StoodStill(limit)),
        }
    }

    /// Until when a client that keeps a server connection with a huge row has to take some of it.
    fn huge_row_limit(&mut self) -> Option<(Moment, Limit)> {
        if !self.session.holds_up_huge_row() {
            self.standing_still = None;
            return None;
        }
        let (since, _) = *self
            .standing_still
            .get_or_insert_with(|| (self.session.now, self.client.unsent()));
        let limit = self.house.settings().general.proxy_copy_data_timeout;
        Some((since.after(limit), Limit::HugeRow(limit)))
    }
}
