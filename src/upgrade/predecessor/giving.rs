//! What the predecessor gives, put into messages: who it is, what it has, its sessions one by one.
//!
//! Everything given stays here too until it is acknowledged. Decides nothing over the course of the
//! hand-over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::messages::{
    self, Hello, Idle, Listener, Message, Moved, MovedConsole, New, Pool, Standing, VERSION,
};
use super::apart::Parted;
use super::{HandOver, Pending, WINDOW};
use crate::net::clock::Moment;
use crate::net::passing::Passage;
use crate::net::stream::Stream;
use crate::server::parameters::Parameters;
use crate::session::guest::{Guest, Reply, What};
use crate::session::orders::Errand;

/// Numbers left free between the predecessor's last and the successor's first, for those who come while
/// both live.
const GAP: u64 = 10_000;

/// Different settings that are given by themselves, at most: they are looked for one by one.
const MOST_SETTINGS: usize = 64;

/// Bytes of prepared statements in one message.
const TOGETHER: usize = 256 * 1024;

impl HandOver<'_> {
    /// The prepared statements: there may be many, and nobody has to wait for them.
    pub(super) fn give_statements(&mut self) -> io::Result<()> {
        let mut together = Vec::new();
        let mut size = 0;
        let mut all = self.house.statements.all().into_iter().peekable();
        while let Some(statement) = all.next() {
            size += statement.definition.len();
            self.given.insert(statement.number);
            together.push(statement);
            if size >= TOGETHER || all.peek().is_none() {
                let message = Message::Statements(std::mem::take(&mut together));
                size = 0;
                messages::post(&mut self.passage, &message, Vec::new())?;
                self.passage.flush()?;
                while self.passage.owes() {
                    self.step(Some("did not listen"))?;
                }
            }
        }
        Ok(())
    }

    /// Passes orders on, and CancelRequests behind the sessions they are for.
    pub(super) fn give_errands(&mut self) -> io::Result<()> {
        let mut keys = std::mem::take(&mut self.early_cancels);
        while let Ok(errand) = self.errands.try_recv() {
            match errand {
                Errand::Cancel(key) => keys.push(key),
                Errand::Order(order) => {
                    messages::post(&mut self.passage, &Message::Order(order), Vec::new())?;
                }
            }
        }
        for key in keys {
            match self.house.sessions.by_cancel_key(&key) {
                Some(session) if !self.sessions.contains_key(&session.who.id) => {
                    if session.is_away() {
                        self.early_cancels.push(key);
                    } else {
                        self.reception.cancel(key, true);
                    }
                }
                _ => messages::post(&mut self.passage, &Message::Cancel(key), Vec::new())?,
            }
        }
        Ok(())
    }

    /// Who we are, where we listen, which pools there are.
    pub(super) fn introduce(&mut self) -> io::Result<()> {
        let house = self.house;
        let arrivals = &house.arrivals;
        let all = house.sessions.all();
        let awake = all.iter().filter(|session| !house.lies_silent(session));
        let hello = Hello {
            version: VERSION,
            next_session: house.sessions.last_id() + GAP,
            next_server: house.pools.last_number() + GAP,
            next_statement: house.statements.last_number() + GAP,
            mock: house.mock.clone(),
            listeners: self.reception.listeners().len(),
            arrivals: [&arrivals.total, &arrivals.plain, &arrivals.cancel]
                .map(|count| count.load(Ordering::Relaxed)),
            arrivals_tls: arrivals.tls.load(Ordering::Relaxed),
            log_filter: Some(self.log_filter.clone()),
            sessions: house.sessions.len(),
            awake: awake.count(),
        };
        messages::post(
            &mut self.passage,
            &Message::Hello(Box::new(hello)),
            Vec::new(),
        )?;
        for listener in self.reception.listeners() {
            let copy = listener.fd().try_clone_to_owned()?;
            let address = listener.address().clone();
            let message = Message::Listener(Listener { address });
            messages::post(&mut self.passage, &message, vec![copy])?;
        }
        for pool in house.pools.all() {
            pool.set_leaving(true);
            let now = pool.snapshot();
            self.told_work.push((Arc::clone(&pool), now.totals.all));
            let message = Message::Pool(Box::new(Pool {
                database: pool.database.clone(),
                user: pool.user.clone(),
                paused: now.paused,
                totals: now.totals,
                proved: pool.proved_key(),
                connections: now.idle + now.lent + now.connecting,
                leads_to: now.plan.leads_to(),
            }));
            messages::post(&mut self.passage, &message, Vec::new())?;
        }
        Ok(())
    }

    /// Gives the connections that lie idle, also those that have come back in the meantime. False if not all
    /// could be given yet.
    pub(super) fn give_idle(&mut self) -> io::Result<bool> {
        for pool in self.house.pools.all() {
            while let Some(connection) = pool.take_idle() {
                let copy = match connection.stream.fd().try_clone_to_owned() {
                    Ok(copy) => copy,
                    Err(error) if is_shortage(&error) => {
                        pool.put_back(connection);
                        self.bear(error)?;
                        return Ok(false);
                    }
                    Err(error) => {
                        connection.close(&format!("it cannot be passed on: {error}"));
                        pool.moved_away();
                        continue;
                    }
                };
                let idle = Idle {
                    database: pool.database.clone(),
                    user: pool.user.clone(),
                    backend: &*connection.backend,
                    tls: connection.stream.tls(),
                };
                let posted = messages::post_named(&mut self.passage, "Idle", &idle, vec![copy]);
                let number = connection.backend.key.id;
                if let Err(error) = posted {
                    connection.close(&format!("it cannot be passed on: {error}"));
                    pool.moved_away();
                    continue;
                }
                self.idle
                    .insert(number, Pending::Idle(Arc::clone(&pool), connection));
            }
        }
        Ok(true)
    }

    /// Gives connections that no login has begun for, some at a time.
    pub(super) fn give_new(&mut self) -> io::Result<()> {
        while self.new_sent.len() < WINDOW {
            let Some(connection) = self.new.pop_front() else {
                break;
            };
            let copy = match connection.socket.try_clone() {
                Ok(copy) => copy,
                Err(error) => {
                    self.new.push_front(connection);
                    return self.bear(error);
                }
            };
            self.next_new += 1;
            let new = New {
                number: self.next_new,
                opening: &connection.opening,
            };
            match messages::post_named(&mut self.passage, "New", &new, vec![copy.into()]) {
                Ok(()) => drop(self.new_sent.insert(self.next_new, connection)),
                Err(error) => log::warn!("a new connection cannot be passed on: {error}"),
            }
        }
        Ok(())
    }

    /// Gives a session. One that cannot be passed at all goes on here; returned is one that could not be given yet.
    pub(super) fn give_session(
        &mut self,
        mut guest: Guest,
        since: Moment,
    ) -> io::Result<Option<Guest>> {
        let told = match &guest.what {
            What::Pool(resting) => self.give_settings(&resting.session.told),
            What::Console(_) => None,
        };
        match post_guest(&mut self.passage, &mut guest, told) {
            Ok(()) => {
                let id = guest.handle().who.id;
                self.sessions.insert(id, Pending::Session(guest, since));
                Ok(None)
            }
            Err(error) if is_shortage(&error) => match self.bear(error) {
                Ok(()) => Ok(Some(guest)),
                Err(error) => {
                    self.backlog.push_front((guest, since));
                    Err(error)
                }
            },
            Err(error) => {
                self.keep(guest, &error.to_string());
                Ok(None)
            }
        }
    }

    /// The number of the settings at the successor, who is given them if it has not got them. `None`: they go
    /// with the session.
    fn give_settings(&mut self, told: &Arc<Parameters>) -> Option<usize> {
        let given = self.settings.iter().position(|it| Arc::ptr_eq(it, told));
        if given.is_some() || self.settings.len() >= MOST_SETTINGS {
            return given;
        }
        let message = Message::Settings(Parameters::clone(told));
        // What cannot be passed by itself cannot be passed with the session either, which is then kept.
        messages::post(&mut self.passage, &message, Vec::new()).ok()?;
        self.settings.push(Arc::clone(told));
        Some(self.settings.len() - 1)
    }

    /// A shortage of descriptors passes once some sessions are gone, and must not end the hand-over as soon
    /// as there are any that would end with it.
    fn bear(&mut self, error: io::Error) -> io::Result<()> {
        if self.outcome.moved == 0 && self.sessions.is_empty() {
            return Err(error);
        }
        if !std::mem::replace(&mut self.is_short, true) {
            log::warn!(
                "no descriptor left to pass a session on with ({error}); it is tried again as others move. Raise the limit (ulimit -n, LimitNOFILE=)"
            );
        }
        Ok(())
    }
}

/// Whether it is descriptors that are short.
fn is_shortage(error: &io::Error) -> bool {
    let short = [libc::EMFILE, libc::ENFILE];
    error
        .raw_os_error()
        .is_some_and(|code| short.contains(&code))
}

/// Queues a session with copies of its descriptors. Ours stay open: it may come back. What it has been `told` by
/// number is left out of its value, and so are the rules of a session without a server connection: the successor finds
/// out by itself what rules apply to it.
fn post_guest(passage: &mut Passage, guest: &mut Guest, told: Option<usize>) -> io::Result<()> {
    let awaits_outcome = guest.awaits_reply();
    let handle = guest.entry.handle();
    let standing = Standing {
        application_name: handle.who.application_name.clone(),
        transactions: handle.transactions.get(),
        queries: handle.queries.get(),
        errors: handle.errors.get(),
    };
    match &mut guest.what {
        What::Pool(resting) => {
            let mut descriptors = vec![resting.client.fd().try_clone_to_owned()?];
            if let Some(server) = &resting.server {
                descriptors.push(server.fd().try_clone_to_owned()?);
            }
            let session = &mut resting.session;
            let left_out = told.map(|_| std::mem::take(&mut session.told));
            let rules = session
                .lent
                .is_none()
                .then(|| std::mem::take(&mut session.rules));
            let parted = Parted::from(session);
            let moved = Moved {
                session: &**session,
                apart: parted.parts.clone(),
                standing,
                told,
                server_deadline: resting.server_deadline,
                client_tls: resting.client.tls(),
                server_tls: resting.server.as_ref().and_then(Stream::tls),
            };
            let posted = messages::post_named(passage, "Session", &moved, descriptors);
            parted.join(session);
            if let Some(told) = left_out {
                session.told = told;
            }
            if let Some(rules) = rules {
                session.rules = rules;
            }
            posted
        }
        What::Console(console) => {
            let owed = match &console.reply {
                Reply::Owed(reply) => reply.clone(),
                Reply::Given | Reply::Awaited => Vec::new(),
            };
            let moved = MovedConsole {
                id: handle.who.id,
                secret: handle.who.secret.clone(),
                database: handle.who.database.clone(),
                user: handle.who.user.clone(),
                address: handle.who.address.clone(),
                connected_at: handle.who.connected_at,
                standing,
                unread: console.unread.clone(),
                owed,
                awaits_outcome,
                rights: console.rights,
                tls: console.client.tls(),
            };
            let copy = console.client.fd().try_clone_to_owned()?;
            messages::post_named(passage, "Console", &moved, vec![copy])
        }
    }
}
