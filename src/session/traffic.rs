//! What a session does with bytes that have come: it steps over them, and writes what that step wants written.
//!
//! Never waits. What a peer does not take is owed to it, and what a step does not consume is kept.

use super::close_reason::CloseReason;
use super::driver::{CLEAN_LIMIT, Driver};
use super::io::{Input, Lost, write_owed, write_pieces};
use crate::net::clock::MonotonicTime;
use crate::net::wait::Readiness;
use crate::pool::totals::Counters;
use crate::relay::client_end::ClientEnd;
use crate::relay::requests::Wants;
use crate::relay::session::Phase;

impl Driver {
    pub(super) fn on_client(&mut self, ready: Readiness, reads: bool) -> Result<(), CloseReason> {
        if ready.writable {
            self.write_owed_to_client();
        }
        if ready.readable && reads && self.session.reads_client() {
            let read = Input::read(&mut self.session.client, &mut self.client);
            return self.hear_client(read);
        } else if ready.gone && !reads {
            return self.client_is_gone("connection closed");
        } else if ready.hung_up && !reads {
            self.client_has_ended();
        }
        Ok(())
    }

    pub(super) fn hear_client(
        &mut self,
        read: Result<Option<Input>, Lost>,
    ) -> Result<(), CloseReason> {
        match read {
            Ok(Some(input)) => {
                self.session.active_at = self.session.now;
                self.serve_client(input)
            }
            Ok(None) => Ok(()),
            Err(Lost::Ended) => {
                self.note_end_of_stream();
                Ok(())
            }
            Err(Lost::Broken(error)) => self.client_is_gone(&error.to_string()),
        }
    }

    pub(super) fn on_server(&mut self, ready: Readiness) -> Result<(), CloseReason> {
        if ready.writable {
            let written = match (&mut self.session.link, &mut self.server) {
                (Some(link), Some(stream)) => write_owed(stream, &mut link.side.owed),
                _ => Ok(()),
            };
            match written {
                // Its last bytes are still to be read. Nothing more is written, or the wait would end at once, again
                // and again, until the client reads.
                Err(_) if ready.readable => {
                    if let Some(link) = &mut self.session.link {
                        link.side.owed = Vec::new();
                    }
                }
                Err(error) => return self.lose_server(&error.to_string()),
                _ => {}
            }
        }
        if (ready.readable || ready.hung_up) && self.session.reads_server() {
            if let (Some(link), Some(stream)) = (&mut self.session.link, &mut self.server) {
                let read = Input::read(&mut link.side, stream);
                return self.hear_server(read);
            }
        }
        Ok(())
    }

    pub(super) fn hear_server(
        &mut self,
        read: Result<Option<Input>, Lost>,
    ) -> Result<(), CloseReason> {
        match read {
            Ok(Some(input)) => {
                self.session.active_at = self.session.now;
                self.serve_server(input)
            }
            Ok(None) => Ok(()),
            Err(lost) => self.lose_server(&lost.to_string()),
        }
    }

    /// Steps over what the client sent, taking a server connection when one is needed.
    pub(super) fn serve_client(&mut self, input: Input) -> Result<(), CloseReason> {
        let mut consumed = 0;
        let outcome = loop {
            let rest = &input.bytes()[consumed..];
            let step = self
                .session
                .take_from_client(rest, &self.shared.statements, &mut self.out);
            let (n, wants) = match step {
                Ok(step) => step,
                Err(violation) => {
                    // What was sent before is a request like any other and gets its reply first.
                    let delivered = self.deliver(rest);
                    consumed = input.bytes().len();
                    self.violation = Some(violation.0);
                    break delivered;
                }
            };
            let delivered = self.deliver(&input.bytes()[consumed..]);
            consumed += n;
            if let Err(close_reason) = delivered {
                break Err(close_reason);
            }
            match wants {
                Wants::More => {
                    self.starved = self.session.reads_client();
                    break Ok(());
                }
                Wants::End => {
                    consumed = input.bytes().len();
                    self.session.client_end = ClientEnd::Terminate;
                    break Ok(());
                }
                Wants::Server => match self.answer_check(&input.bytes()[consumed..]) {
                    Ok(0) => match self.take_server_at_once() {
                        Ok(true) => {}
                        Ok(false) => break Ok(()),
                        Err(close_reason) => break Err(close_reason),
                    },
                    Ok(n) => consumed += n,
                    Err(close_reason) => break Err(close_reason),
                },
            }
        };
        input.keep(consumed, &mut self.session.client);
        outcome?;
        self.count_unfinished()
    }

    /// Takes account of what the client's unfinished message takes, and refuses what is too much.
    pub(super) fn count_unfinished(&mut self) -> Result<(), CloseReason> {
        let Some(sum) = self.unfinished.set(self.session.client.unread.len()) else {
            return Ok(());
        };
        match self.shared.settings().general.max_memory_usage {
            Some(limit) if sum > limit => Err(CloseReason::OutOfMemory(limit)),
            _ => Ok(()),
        }
    }

    /// Steps over what the server sent.
    fn serve_server(&mut self, input: Input) -> Result<(), CloseReason> {
        let before = self.session.phase();
        let unread = self.session.client.unread.len();
        let step =
            self.session
                .take_from_server(input.bytes(), &self.shared.statements, &mut self.out);
        // A request may be taken up again.
        self.starved &= self.session.client.unread.len() == unread;
        let consumed = match step {
            Ok(consumed) => consumed,
            Err(desync) => {
                let delivered = self.deliver(input.bytes());
                if std::mem::take(&mut self.session.elsewhere) {
                    self.starved = false;
                    self.discard(&desync.0);
                    return delivered;
                }
                return Err(CloseReason::ServerConfused(desync.0));
            }
        };
        if let Some(link) = &mut self.session.link {
            let received = &link.backend.key.tally.bytes_received;
            received.add(input.bytes().len() as u64);
        }
        self.keep_check_answer();
        // The connection goes back before the client, who may be slow, gets its reply.
        let give_back = self.session.phase() == Phase::Returning;
        if give_back {
            self.return_connection();
        }
        let delivered = self.deliver(input.bytes());
        if let Some(link) = &mut self.session.link {
            input.keep(consumed, &mut link.side);
        }
        delivered?;
        match (before, self.session.phase()) {
            (Phase::Preparing, Phase::Serving) => self.server_deadline = None,
            (Phase::Serving, Phase::Cleaning) => {
                self.server_deadline = Some(MonotonicTime::now().after(CLEAN_LIMIT));
            }
            _ => {}
        }
        if self.session.rests_with_server() {
            let work = self.take_work();
            self.checkout.pool().add_work(&work);
        }
        self.handle_setup_error()
    }

    /// Writes what the last step wants written; what does not fit is owed.
    pub(super) fn deliver(&mut self, input: &[u8]) -> Result<(), CloseReason> {
        if !self.out.server.is_empty() {
            match (&mut self.session.link, &mut self.server) {
                (Some(link), Some(stream)) => {
                    let sent = write_pieces(stream, &mut self.out.server, input, &mut link.side);
                    match sent {
                        Ok(n) => {
                            link.backend.key.tally.bytes_sent.add(n);
                            self.session.work.received += n;
                        }
                        // It may have sent the reason before it closed: that is read next.
                        Err(_) => self.out.server.clear(),
                    }
                }
                _ => self.out.server.clear(),
            }
        }
        if self.deaf || self.untold && !self.session.skips_to_sync() {
            self.out.client.clear();
        }
        if !self.out.client.is_empty() {
            let side = &mut self.session.client;
            match write_pieces(&mut self.client, &mut self.out.client, input, side) {
                Ok(n) => self.session.work.sent += n,
                Err(error) => {
                    self.out.client.clear();
                    self.deaf = true;
                    self.broken = Some(error.to_string());
                }
            }
        }
        Ok(())
    }

    fn write_owed_to_client(&mut self) {
        if let Err(error) = write_owed(&mut self.client, &mut self.session.client.owed) {
            self.deaf = true;
            self.broken = Some(error.to_string());
        }
    }

    /// What the session has done since the pool last counted it. The handle counts it here.
    pub(super) fn take_work(&mut self) -> Counters {
        let work = std::mem::take(&mut self.session.work);
        let handle = &self.handle;
        handle.transactions.add(work.transactions);
        handle.queries.add(work.queries);
        handle.errors.add(work.errors);
        work
    }
}
