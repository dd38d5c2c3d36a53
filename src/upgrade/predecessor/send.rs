//! What the predecessor sends, put into messages: its own state, its pools, its sessions one by one.
//!
//! Everything sent stays here too until it is acknowledged. Decides nothing over the course of the
//! hand-over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::apart::Parted;
use super::{HandOver, Pending, WINDOW, found};
use crate::net::clock::MonotonicTime;
use crate::net::fd_channel::FdChannel;
use crate::net::stream::Stream;
use crate::server::parameters::Parameters;
use crate::session::client::{Client, ClientKind, Reply};
use crate::session::orders::Errand;
use crate::session::registry::{Activity, Handle};
use crate::upgrade::messages::{
    self, Hello, Idle, Listener, Message, Moved, MovedConsole, New, Standing, VERSION,
};

/// Numbers left free between the predecessor's last and the successor's first, for sessions and connections that
/// begin while both live.
const GAP: u64 = 10_000;

/// Different settings that are given by themselves, at most: they are looked for one by one.
const MAX_SETTINGS: usize = 64;

/// Bytes of prepared statements in one message.
const TOGETHER: usize = 256 * 1024;

impl HandOver<'_> {
    /// The prepared statements: there may be many, and no session has to wait for them.
    pub(super) fn give_statements(&mut self) -> io::Result<()> {
        let mut together = Vec::new();
        let mut size = 0;
        let mut all = self.shared.statements.all().into_iter().peekable();
        while let Some(statement) = all.next() {
            size += statement.definition.len();
            self.given.insert(statement.number);
            together.push(statement);
            if size >= TOGETHER || all.peek().is_none() {
                let message = Message::Statements(std::mem::take(&mut together));
                size = 0;
                messages::queue(&mut self.channel, &message, Vec::new())?;
                self.channel.flush()?;
                while self.channel.owes() {
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
                    messages::queue(&mut self.channel, &Message::Order(order), Vec::new())?;
                }
            }
        }
        for key in keys {
            match self.shared.sessions.by_cancel_key(&key) {
                Some(session) if !self.sessions.contains_key(&session.info.id) => {
                    if session.is_away() {
                        self.early_cancels.push(key);
                    } else {
                        self.client_threads.cancel(key, true);
                    }
                }
                _ => messages::queue(&mut self.channel, &Message::Cancel(key), Vec::new())?,
            }
        }
        Ok(())
    }

    /// Sends the state of the process, the listening sockets, and the pools.
    pub(super) fn introduce(&mut self) -> io::Result<()> {
        let shared = self.shared;
        let accept_counters = &shared.accept_counters;
        let all = shared.sessions.all();
        let idle = |session: &Handle| session.activity() == Activity::Idle;
        let awake = all.iter().filter(|session| !idle(session));
        let hello = Hello {
            version: VERSION,
            next_session: shared.sessions.last_id() + GAP,
            next_server: shared.pools.last_number() + GAP,
            next_statement: shared.statements.last_number() + GAP,
            mock: shared.mock.clone(),
            listeners: self.client_threads.listeners().len(),
            accept_counters: [
                &accept_counters.total,
                &accept_counters.plain,
                &accept_counters.cancel,
            ]
            .map(|count| count.load(Ordering::Relaxed)),
            arrivals_tls: accept_counters.tls.load(Ordering::Relaxed),
            log_filter: Some(self.log_filter.clone()),
            sessions: shared.sessions.len(),
            awake: awake.count(),
        };
        messages::queue(
            &mut self.channel,
            &Message::Hello(Box::new(hello)),
            Vec::new(),
        )?;
        for listener in self.client_threads.listeners() {
            let copy = listener.fd().try_clone_to_owned()?;
            let address = listener.address().clone();
            let message = Message::Listener(Listener { address });
            messages::queue(&mut self.channel, &message, vec![copy])?;
        }
        // Before the counters are sent: nobody sees larger ones here than there afterwards.
        shared.web_paused.store(true, Ordering::Release);
        for listener in shared.web_listeners.lock().iter() {
            let copy = listener.fd().try_clone_to_owned()?;
            let address = listener.address().clone();
            let message = Message::WebListener(Listener { address });
            messages::queue(&mut self.channel, &message, vec![copy])?;
        }
        for pool in shared.pools.all() {
            self.give_pool(&pool)?;
        }
        found::give_users(shared, &mut self.channel)
    }

    /// Gives the connections that lie idle, also those that have come back in the meantime. False if not all
    /// could be given yet.
    pub(super) fn give_idle(&mut self) -> io::Result<bool> {
        for pool in self.shared.pools.all() {
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
                let posted = messages::post_named(&mut self.channel, "Idle", &idle, vec![copy]);
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
            match messages::post_named(&mut self.channel, "New", &new, vec![copy.into()]) {
                Ok(()) => drop(self.new_sent.insert(self.next_new, connection)),
                Err(error) => log::warn!("a new connection cannot be passed on: {error}"),
            }
        }
        Ok(())
    }

    /// Gives a session. One that cannot be passed at all goes on here; returned is one that could not be given yet.
    pub(super) fn give_session(
        &mut self,
        mut client: Client,
        since: MonotonicTime,
    ) -> io::Result<Option<Client>> {
        if let ClientKind::Pool(detached) = &client.kind {
            let pool = Arc::clone(&detached.pool);
            if let Err(error) = self.give_pool_if_news(&pool) {
                self.keep(client, &error.to_string());
                return Ok(None);
            }
        }
        let reported_to_client = match &client.kind {
            ClientKind::Pool(detached) => self.give_settings(&detached.session.reported_to_client),
            ClientKind::Console(_) => None,
        };
        match queue_session(&mut self.channel, &mut client, reported_to_client) {
            Ok(()) => {
                let id = client.handle().info.id;
                self.sessions.insert(id, Pending::Session(client, since));
                Ok(None)
            }
            Err(error) if is_shortage(&error) => match self.bear(error) {
                Ok(()) => Ok(Some(client)),
                Err(error) => {
                    self.backlog.push_front((client, since));
                    Err(error)
                }
            },
            Err(error) => {
                self.keep(client, &error.to_string());
                Ok(None)
            }
        }
    }

    /// The number of these settings at the successor. They are sent first if it does not have them. `None`: they go
    /// with the session.
    fn give_settings(&mut self, reported_to_client: &Arc<Parameters>) -> Option<usize> {
        let given = self
            .settings
            .iter()
            .position(|it| Arc::ptr_eq(it, reported_to_client));
        if given.is_some() || self.settings.len() >= MAX_SETTINGS {
            return given;
        }
        let message = Message::Settings(Parameters::clone(reported_to_client));
        // What cannot be passed by itself cannot be passed with the session either, which is then kept.
        messages::queue(&mut self.channel, &message, Vec::new()).ok()?;
        self.settings.push(Arc::clone(reported_to_client));
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

/// Queues a session with copies of its descriptors. Ours stay open: it may come back. `reported_to_client` is left out
/// of its value if the successor has it by number. The rules of a session without a server connection are left out too:
/// the successor finds out which rules apply.
fn queue_session(
    channel: &mut FdChannel,
    client: &mut Client,
    reported_to_client: Option<usize>,
) -> io::Result<()> {
    let awaits_outcome = client.awaits_reply();
    let handle = client.entry.handle();
    let standing = Standing {
        application_name: handle.info.application_name.clone(),
        transactions: handle.transactions.get(),
        queries: handle.queries.get(),
        errors: handle.errors.get(),
    };
    match &mut client.kind {
        ClientKind::Pool(detached) => {
            let mut descriptors = vec![detached.client.fd().try_clone_to_owned()?];
            if let Some(server) = &detached.server {
                descriptors.push(server.fd().try_clone_to_owned()?);
            }
            let session = &mut detached.session;
            let left_out =
                reported_to_client.map(|_| std::mem::take(&mut session.reported_to_client));
            let rules = session
                .link
                .is_none()
                .then(|| std::mem::take(&mut session.rules));
            let parted = Parted::from(session);
            let moved = Moved {
                session: &**session,
                apart: parted.parts.clone(),
                standing,
                reported_to_client,
                server_deadline: detached.server_deadline,
                client_tls: detached.client.tls(),
                server_tls: detached.server.as_ref().and_then(Stream::tls),
            };
            let posted = messages::post_named(channel, "Session", &moved, descriptors);
            parted.join(session);
            if let Some(reported_to_client) = left_out {
                session.reported_to_client = reported_to_client;
            }
            if let Some(rules) = rules {
                session.rules = rules;
            }
            posted
        }
        ClientKind::Console(console) => {
            let owed = match &console.reply {
                Reply::Owed(reply) => reply.clone(),
                Reply::Given | Reply::Awaited => Vec::new(),
            };
            let moved = MovedConsole {
                id: handle.info.id,
                secret: handle.info.secret.clone(),
                database: handle.info.database.clone(),
                user: handle.info.user.clone(),
                address: handle.info.address.clone(),
                connected_at: handle.info.connected_at,
                standing,
                unread: console.unread.clone(),
                owed,
                awaits_outcome,
                rights: console.rights,
                tls: console.client.tls(),
            };
            let copy = console.client.fd().try_clone_to_owned()?;
            messages::post_named(channel, "Console", &moved, vec![copy])
        }
    }
}
