//! CancelRequests, from clients and from another process: each in a thread, as far as there are any.
//!
//! Invariant: the connection that has brought one is closed when it has been carried out, and not before.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{AcceptGuard, CANCELS, ClientThreads, Work};
use crate::client::new_connection::NewConnection;
use crate::session::cancel::{cancel, cancel_anywhere, cancel_elsewhere};
use crate::session::registry::CancelKey;

impl ClientThreads {
    /// Cancels what the session with this key is doing, as another process asks for it; see
    /// [`ClientThreads::is_receiving`]. If it is not here the request goes `back`, or is dropped.
    pub fn cancel(self: &Arc<ClientThreads>, key: CancelKey, back: bool) {
        let _arriving = AcceptGuard::new(&self.arriving);
        match self.ticket() {
            Ok(ticket) => ticket.take(Work::Cancel {
                key,
                back,
                _from: None,
                _arriving,
            }),
            Err(error) => {
                self.note_no_thread(&error);
                let _ = self.reserve.try_send(Work::Cancel {
                    key,
                    back,
                    _from: None,
                    _arriving,
                });
            }
        }
    }

    /// Carries out a CancelRequest that a client of ours has brought, in a thread if there is something to cancel.
    pub(crate) fn cancel_for_client(
        self: &Arc<ClientThreads>,
        key: CancelKey,
        from: NewConnection,
    ) {
        if self.shared.sessions.by_cancel_key(&key).is_none() {
            return cancel_elsewhere(&self.shared, key);
        }
        let busy = AcceptGuard::new(&self.cancels);
        let ticket = if self.cancels.load(Ordering::Relaxed) <= CANCELS {
            self.ticket()
        } else {
            Err(io::ErrorKind::QuotaExceeded.into())
        };
        let back = true;
        let work = Work::Cancel {
            key,
            back,
            _from: Some(from),
            _arriving: busy,
        };
        match ticket {
            Ok(ticket) => ticket.take(work),
            Err(_) => {
                if self.reserve.try_send(work).is_err() {
                    log::warn!("too many cancel requests at a time; one was dropped");
                }
            }
        }
    }

    /// Carries out a CancelRequest.
    pub(super) fn carry_out(&self, key: CancelKey, back: bool) {
        if back {
            cancel_anywhere(&self.shared, key);
        } else {
            cancel(&self.shared, &key);
        }
    }
}
