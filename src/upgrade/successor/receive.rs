//! Taking sessions and idle server connections as they come, until the predecessor has nothing more to give
//! or is dead.
//!
//! Invariant: a session is served here only once its acknowledgement is on its way to the predecessor, or the
//! predecessor is dead.

mod sessions;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam::channel::Receiver;

use super::apart::Parts;
use super::{exchange, found, wrong};
use crate::client::client_threads::{ClientThreads, ThreadTicket};
use crate::client::new_connection::NewConnection;
use crate::net::fd_channel::FdChannel;
use crate::net::stream::Stream;
use crate::net::thread::Haste;
use crate::net::wait::{Interest, wait};
use crate::pool::pool::Pool;
use crate::server::backend::Connection;
use crate::server::parameters::Parameters;
use crate::session::client::Client;
use crate::session::orders::Errand;
use crate::session::shared::Shared;
use crate::upgrade::messages::{self, Hello, Message, New};
use crate::upgrade::outcome::{self, Outcome};

/// Bytes of memory that an idle session takes, about, and what is made ready for all of them at most.
const SESSION_SIZE: usize = 4096;
const MAX_ROOM: usize = 32 * 1024 * 1024;

/// Has the allocator extend the calling thread's heap by so many bytes. glibc extends that of any thread but the
/// first page by page, with a system call each for which all other threads of the process wait, and keeps what has
/// been extended once. No memory is touched.
fn make_room(bytes: usize) {
    // Larger ones are not taken from there.
    const PIECE: usize = 120 * 1024;
    let pieces = bytes.min(MAX_ROOM) / PIECE;
    drop(
        (0..pieces)
            .map(|_| Vec::<u8>::with_capacity(PIECE))
            .collect::<Vec<_>>(),
    );
}

/// Takes what the predecessor gives, one after the other.
pub(super) struct SessionReceiver {
    shared_state: Arc<Shared>,
    client_threads: Arc<ClientThreads>,
    channel: FdChannel,
    /// Large pieces take their time, and no other session waits for them.
    haste: Haste,
    /// What has come before its session.
    parts: Parts,
    /// What is to be passed on to the predecessor.
    errands: Receiver<Errand>,
    /// Settings as clients know them, by their numbers.
    settings: Vec<Arc<Parameters>>,
    /// The number that came last, and the copy that all sessions of this pool share.
    shared: Option<(usize, Arc<Pool>, Arc<Parameters>)>,
    /// Sessions that are about to be acknowledged; then they are served. Those of the console have a thread.
    arrived: Vec<(Client, Option<ThreadTicket>)>,
    taken: usize,
    /// The console session that has asked for the upgrade.
    requester: Option<(Client, ThreadTicket)>,
}

impl SessionReceiver {
    /// One that has taken nothing yet.
    pub(super) fn new(
        shared_state: Arc<Shared>,
        client_threads: Arc<ClientThreads>,
        channel: FdChannel,
        parts: Parts,
        errands: Receiver<Errand>,
    ) -> SessionReceiver {
        SessionReceiver {
            shared_state,
            client_threads,
            channel,
            haste: Haste::hurrying(),
            parts,
            errands,
            settings: Vec::new(),
            shared: None,
            arrived: Vec::new(),
            taken: 0,
            requester: None,
        }
    }

    /// Takes everything; see [`InheritedState::receive`](crate::upgrade::successor::InheritedState::receive).
    pub(super) fn work(
        mut self,
        hello: &Hello,
        idle: Vec<(messages::Idle, OwnedFd)>,
        on_end: impl FnOnce(bool),
    ) {
        make_room(hello.sessions.saturating_mul(SESSION_SIZE));
        let expected = hello.sessions.min(MAX_ROOM / SESSION_SIZE);
        self.shared_state.sessions.expect(expected);
        let outcome = self
            .say(&Message::Seated)
            .and_then(|()| {
                idle.into_iter()
                    .try_for_each(|(connection, fd)| self.idle(connection, vec![fd]))
            })
            .and_then(|()| self.take_all());
        self.serve_arrived();
        self.shared_state.pools.expect_no_more();
        self.shared_state.end_passing_on();
        // An order is carried out here; there is no other process any more to pass it on to.
        while let Ok(errand) = self.errands.try_recv() {
            if let Errand::Cancel(key) = errand {
                self.client_threads.cancel(key, false);
            }
        }
        self.shared_state.await_stragglers(outcome.is_ok());
        on_end(outcome.is_ok());
        let outcome = outcome.map_err(|error| {
            format!(
                "the predecessor is gone before it had given everything ({error}); {} sessions were taken over",
                self.taken
            )
        });
        match &outcome {
            Ok(outcome) => {
                log::info!("took over from the predecessor: {outcome}");
                // The session that asked for the upgrade gets the good outcome here.
                self.answer(&Ok(*outcome));
                if let Err(error) = self.say(&Message::Finished) {
                    log::warn!("the predecessor could not be told that all is taken: {error}");
                }
                // The last logins come now, and the last orders.
                let end = self.take_all();
                log::debug!("the predecessor has ended: {end:?}");
                self.serve_arrived();
                self.shared_state.await_stragglers(false);
            }
            Err(why) => {
                log::error!("{why}");
                self.answer(&Err(why.clone()));
            }
        }
    }

    fn take_all(&mut self) -> io::Result<Outcome> {
        loop {
            while let Some((message, descriptors)) = messages::take(&mut self.channel)? {
                match message {
                    Message::Session(moved) => {
                        self.haste.set(true);
                        self.session(*moved, descriptors)?;
                    }
                    Message::Console(moved) => self.console(*moved, descriptors)?,
                    Message::Idle(idle) => self.idle(*idle, descriptors)?,
                    Message::New(new) => self.new_connection(new, descriptors)?,
                    Message::Piece(piece) => {
                        self.haste.set(false);
                        self.parts.add(piece)?;
                    }
                    Message::Statements(some) => self.parts.note(some),
                    Message::Pool(pool) => found::take_late_pool(&self.shared_state, &pool),
                    Message::Settings(told) => self.settings.push(Arc::new(told)),
                    Message::Work(done) => {
                        if let Some(pool) = self.shared_state.pools.find(&done.database, &done.user)
                        {
                            pool.add_work(&done.work);
                        }
                    }
                    // It may be for one of those that have just come.
                    Message::Cancel(key) => {
                        self.settle()?;
                        self.client_threads.cancel(key, false);
                    }
                    Message::Order(order) => {
                        self.settle()?;
                        if let Some(console) = self.shared_state.console.get() {
                            console.obey(order);
                        }
                    }
                    Message::Done(outcome) => return Ok(outcome),
                    _ => {}
                }
            }
            self.settle()?;
            if self.channel.has_ended() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            while let Ok(errand) = self.errands.try_recv() {
                let message = match errand {
                    Errand::Cancel(key)
                        if self.shared_state.sessions.by_cancel_key(&key).is_some() =>
                    {
                        self.client_threads.cancel(key, false);
                        continue;
                    }
                    Errand::Cancel(key) => Message::Cancel(key),
                    Errand::Order(order) => Message::Order(order),
                };
                messages::queue(&mut self.channel, &message, Vec::new())?;
            }
            exchange(&mut self.channel, None)?;
        }
    }

    /// Sends a message and makes sure that it is on its way: its content becomes true only then.
    fn say(&mut self, message: &Message) -> io::Result<()> {
        messages::queue(&mut self.channel, message, Vec::new())?;
        self.flush()
    }

    /// Acknowledges the sessions that have arrived, and serves them.
    fn settle(&mut self) -> io::Result<()> {
        self.flush()?;
        self.serve_arrived();
        Ok(())
    }

    fn serve_arrived(&mut self) {
        for (client, ticket) in self.arrived.drain(..) {
            match ticket {
                None => self.client_threads.take_in([client]),
                Some(ticket) if client.awaits_reply() => self.requester = Some((client, ticket)),
                Some(ticket) => ticket.take_in(client),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.channel.owes() {
            self.channel.flush()?;
            if self.channel.owes() {
                let interest = Interest {
                    read: false,
                    write: true,
                    ..Interest::default()
                };
                wait(Some((self.channel.fd(), interest)), None, None)?;
            }
        }
        Ok(())
    }

    fn new_connection(&mut self, new: New, mut descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let fd = descriptors.pop().ok_or_else(|| wrong("no descriptor"))?;
        // From then on it belongs to this process alone, and its socket is not read before that.
        self.say(&Message::AcceptedNew(new.number))?;
        self.client_threads.adopt_new_connection(NewConnection {
            socket: fd.into(),
            opening: new.opening,
        });
        Ok(())
    }

    fn idle(&mut self, mut idle: messages::Idle, mut descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let fd = descriptors.pop().ok_or_else(|| wrong("no descriptor"))?;
        let number = idle.backend.key.id;
        let carried = idle.tls.as_mut().map_or(Ok(()), |tls| tls.prepare());
        let connection = Connection {
            stream: Stream::inherit(fd, &idle.backend.key.address, idle.tls),
            backend: Box::new(idle.backend),
        };
        self.say(&Message::AcceptedIdle(number))?;
        if let Err(why) = carried {
            // Nothing can be written on it, not even an alert.
            log::warn!("a server connection cannot be taken over: {why}");
            return Ok(());
        }
        match self.shared_state.pools.find(&idle.database, &idle.user) {
            Some(pool) => pool.adopt(connection),
            None => connection.close("its pool was removed"),
        }
        Ok(())
    }

    /// Sends the outcome to the session that asked for the upgrade.
    fn answer(&mut self, outcome: &Result<Outcome, String>) {
        if let Some((mut requester, ticket)) = self.requester.take() {
            requester.answer(outcome::reply(outcome));
            ticket.take_in(requester);
        }
    }
}
