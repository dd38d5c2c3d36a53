//! The threads in reserve, for when no other can be started: one for CancelRequests and for logins at the console,
//! and one for such a console session.
//!
//! Invariant: they are started before the first client is accepted, and serve no session of a pool.

use std::io;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::{ClientThreads, STACK, Work};
use crate::client::client_thread::{log_in, serve_at_console};
use crate::client::login_error::say;
use crate::net::thread;
use crate::session::client::{Client, ClientKind};
use crate::wire::sqlstate;

impl ClientThreads {
    /// Starts the threads in reserve: one for CancelRequests and for logins at the console, and one for such a
    /// console session.
    pub(super) fn start_reserve(self: &Arc<ClientThreads>, work: Receiver<Work>) -> io::Result<()> {
        let (clients, client) = bounded::<Client>(0);
        self.start_one(work, move |client_threads, work| {
            client_threads.work_in_reserve(work, &clients);
        })?;
        self.start_one(client, |client_threads, client| {
            serve_at_console(&client_threads.shared, client);
        })
    }

    fn start_one<W: Send + 'static>(
        self: &Arc<ClientThreads>,
        work: Receiver<W>,
        serve: impl Fn(&Arc<ClientThreads>, W) + Send + 'static,
    ) -> io::Result<()> {
        let client_threads = Arc::clone(self);
        let thread = std::thread::Builder::new().stack_size(STACK);
        let started = thread.spawn(move || {
            thread::name("reserve");
            thread::restore_priority();
            for work in work {
                client_threads.guarded(|| serve(&client_threads, work));
                thread::name("reserve");
            }
        });
        started.map(drop)
    }

    fn work_in_reserve(self: &Arc<ClientThreads>, work: Work, clients: &Sender<Client>) {
        match work {
            Work::Arrival(connection, permit, arriving) => {
                let Some(client) = log_in(self, connection, permit, arriving, true) else {
                    return;
                };
                if matches!(client.kind, ClientKind::Pool(_)) {
                    return self.take_in([client]);
                }
                let client = match self.ticket() {
                    Ok(ticket) => return ticket.take_in(client),
                    Err(_) => clients.try_send(client),
                };
                if let Err(refused) = client {
                    refuse_client(refused.into_inner());
                }
            }
            Work::Client(client) => serve_at_console(&self.shared, *client),
            Work::Session(driven) => self.shared.sets.join(driven),
            Work::Cancel { key, back, .. } => self.carry_out(key, back),
        }
    }
}

/// Ends a console session for which the thread in reserve is not free.
fn refuse_client(client: Client) {
    let Client {
        entry,
        client_permit,
        kind,
    } = client;
    if let ClientKind::Console(console) = kind {
        let refusal = say(
            sqlstate::TOO_MANY_CONNECTIONS,
            "sorry, no thread can be started, and the one in reserve for the console is in use",
        );
        console.client.part(&refusal.message());
    }
    drop(entry);
    drop(client_permit);
}
