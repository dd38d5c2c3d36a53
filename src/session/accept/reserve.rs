//! The threads in reserve, for when no other can be started: one for CancelRequests and for logins at the console,
//! and one for such a console session.
//!
//! Invariant: they are started before the first client is accepted, and serve no session of a pool.

use std::io;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::{Reception, STACK, Work};
use crate::net::thread;
use crate::session::guest::{Guest, What};
use crate::session::refusal::say;
use crate::session::serve::{receive, serve_guest};
use crate::wire::sqlstate;

impl Reception {
    /// Starts the threads in reserve: one for CancelRequests and for logins at the console, and one for such a
    /// console session.
    pub(super) fn start_reserve(self: &Arc<Reception>, work: Receiver<Work>) -> io::Result<()> {
        let (guests, guest) = bounded::<Guest>(0);
        self.start_one(work, move |reception, work| {
            reception.work_in_reserve(work, &guests);
        })?;
        self.start_one(guest, |reception, guest| {
            drop(serve_guest(&reception.house, guest, None));
        })
    }

    fn start_one<W: Send + 'static>(
        self: &Arc<Reception>,
        work: Receiver<W>,
        serve: impl Fn(&Arc<Reception>, W) + Send + 'static,
    ) -> io::Result<()> {
        let reception = Arc::clone(self);
        let thread = std::thread::Builder::new().stack_size(STACK);
        let started = thread.spawn(move || {
            thread::name("reserve");
            thread::hurry_no_more();
            for work in work {
                reception.guarded(|| serve(&reception, work));
                thread::name("reserve");
            }
        });
        started.map(drop)
    }

    fn work_in_reserve(self: &Arc<Reception>, work: Work, guests: &Sender<Guest>) {
        match work {
            Work::Arrival(connection, permit, arriving) => {
                let Some(guest) = receive(self, connection, permit, arriving, true) else {
                    return;
                };
                let guest = match self.seat() {
                    Ok(seat) => return seat.take_in(guest),
                    Err(_) => guests.try_send(guest),
                };
                if let Err(refused) = guest {
                    refuse_guest(refused.into_inner());
                }
            }
            Work::Guest(guest) => drop(serve_guest(&self.house, *guest, None)),
            Work::Cancel { key, back, .. } => self.carry_out(key, back),
        }
    }
}

/// Ends a console session for which the thread in reserve is not free.
fn refuse_guest(guest: Guest) {
    let Guest { entry, place, what } = guest;
    if let What::Console(console) = what {
        let refusal = say(
            sqlstate::TOO_MANY_CONNECTIONS,
            "sorry, no thread can be started, and the one in reserve for the console is in use",
        );
        console.client.part(&refusal.message());
    }
    drop(entry);
    drop(place);
}
