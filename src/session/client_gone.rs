//! What a session does when its client closes the connection.
//!
//! With a Terminate before the end, all requests are served to their end, whatever becomes of the socket. Without one,
//! requests are served while the client may still read, for `client_gone_timeout`. Invariant: bytes are read ahead
//! only while no others are being worked on, so they stay in order.

use super::close_reason::CloseReason;
use super::driver::Driver;
use super::io::{Input, Lost};
use crate::net::clock::MonotonicTime;
use crate::relay::client_end::{ClientEnd, ToServe};

/// How much is read ahead to look for a Terminate. More than this lies in a socket only if it was sent before the
/// client closed and is too much for one transaction's requests.
const MAX_AHEAD: usize = 1024 * 1024;

impl Driver {
    /// Looks at how the client's connection is closed, if it is.
    pub(crate) fn look_for_end(&mut self) -> Result<(), CloseReason> {
        if self.session.client_end == ClientEnd::Terminate {
            return Ok(());
        }
        let state = self.client.readiness();
        if state.gone {
            self.client_is_gone("connection closed")
        } else if state.hung_up {
            self.client_has_ended();
            Ok(())
        } else {
            Ok(())
        }
    }

    /// The client sends nothing more. What it has sent is looked at, though it may not be its turn.
    pub(crate) fn client_has_ended(&mut self) {
        if self.session.client_end == ClientEnd::Open {
            self.session.client_end = ClientEnd::EndOfStream {
                since: MonotonicTime::now(),
                read: false,
            };
        }
        self.read_ahead();
    }

    /// The client's socket shows that the client reads nothing more.
    ///
    /// # Errors
    /// [`CloseReason::Gone`], unless the client has sent a Terminate.
    pub(crate) fn client_is_gone(&mut self, how: &str) -> Result<(), CloseReason> {
        self.read_ahead();
        if self.session.client_end != ClientEnd::Terminate {
            return Err(CloseReason::Gone(how.to_owned()));
        }
        self.deaf = true;
        self.session.client.owed = Vec::new();
        Ok(())
    }

    /// All that the client sent has been stepped over, or a Terminate is the next.
    pub(crate) fn note_end_of_stream(&mut self) {
        let since = match self.session.client_end {
            ClientEnd::Open => MonotonicTime::now(),
            ClientEnd::EndOfStream { since, .. } => since,
            ClientEnd::Terminate => return,
        };
        self.session.client_end = ClientEnd::EndOfStream { since, read: true };
    }

    /// Reads what the client's socket has, to be stepped over later.
    fn read_ahead(&mut self) {
        while !self.session.client_end.is_read() && self.session.client.unread.len() < MAX_AHEAD {
            match Input::read(&mut self.session.client, &mut self.client) {
                Ok(Some(input)) => {
                    input.keep(0, &mut self.session.client);
                    self.starved = false;
                    if self.count_unfinished().is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(Lost::Ended | Lost::Broken(_)) => self.note_end_of_stream(),
            }
        }
        if self.session.terminate_is_unread() {
            self.session.client_end = ClientEnd::Terminate;
        }
    }

    /// Whether the session has served all that its client sent before it ended its requests.
    pub(crate) fn has_served_all(&mut self) -> Result<bool, CloseReason> {
        let session = &mut self.session;
        let waits = !session.client_end.is_read()
            || !session.client.owed.is_empty()
            || !session.reads_client()
            || !session.client.unread.is_empty() && !self.starved;
        if waits {
            return Ok(false);
        }
        let rest = session.rest_to_serve(&mut self.out);
        self.untold = rest == ToServe::Untold;
        self.deliver(&[])?;
        Ok(rest == ToServe::Nothing)
    }
}
