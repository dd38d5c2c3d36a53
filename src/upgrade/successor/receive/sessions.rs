//! Sessions that have come: put together from their message, their parts and their descriptors, and given a thread.
//!
//! When they are served is decided in [`receive`](super). Invariant: a session is accepted or refused, never both, and
//! is accepted only when there is a thread for it, or a set.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::SessionReceiver;
use crate::client::client_threads::ThreadTicket;
use crate::net::encrypted::Encrypted;
use crate::net::stream::Stream;
use crate::pool::pool::Pool;
use crate::server::parameters::Parameters;
use crate::session::client::{Client, ClientKind, ConsoleSession, DetachedSession, Reply};
use crate::session::registry::{ClientInfo, Handle, signals};
use crate::session::shared::Stage;
use crate::upgrade::messages::{self, Message, Moved, MovedConsole, Refused};
use crate::upgrade::successor::wrong;

impl SessionReceiver {
    pub(super) fn session(&mut self, moved: Moved, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let Moved {
            mut session,
            apart,
            standing,
            reported_to_client,
            server_deadline,
            mut client_tls,
            mut server_tls,
        } = moved;
        if let Err(why) = self.parts.join(&mut session, &apart) {
            return self.say(&Message::Refused(Refused {
                id: session.id,
                why,
                for_good: true,
            }));
        }
        let Some(pool) = self
            .shared_state
            .pools
            .find(&session.database, &session.user)
        else {
            return self.say(&Message::Refused(Refused {
                id: session.id,
                why: "its pool is no longer in the configuration".to_owned(),
                for_good: true,
            }));
        };
        for tls in [&mut client_tls, &mut server_tls] {
            if !self.carries(session.id, tls)? {
                return Ok(());
            }
        }
        let mut descriptors = descriptors.into_iter();
        let client = descriptors.next().ok_or_else(|| wrong("no descriptor"))?;
        let client = Stream::inherit(client, &session.address, client_tls);
        let server = match &session.link {
            Some(link) => {
                let fd = descriptors.next().ok_or_else(|| wrong("no descriptor"))?;
                Some(Stream::inherit(fd, &link.backend.key.address, server_tls))
            }
            None => None,
        };
        session.reported_to_client = match reported_to_client {
            Some(number) => self.settings(number, &pool)?,
            None => pool.share(session.reported_to_client),
        };
        for statement in session.statements_mut() {
            *statement = self.shared_state.statements.adopt(Arc::clone(statement));
        }
        if session.link.is_none() {
            session.follow((&*pool.config()).into());
        }
        let handle = self.handle(
            ClientInfo {
                id: session.id,
                secret: session.secret.clone(),
                database: session.database.clone(),
                user: session.user.clone(),
                application_name: standing.application_name.clone(),
                address: session.address.clone(),
                connected_at: session.connected_at,
                console: false,
                tls: client.negotiated(),
            },
            &standing,
        );
        let id = session.id;
        let mut detached = DetachedSession {
            pool,
            session: Box::new(session),
            client,
            server,
            server_deadline,
        };
        if let Some(link) = &mut detached.session.link {
            detached.pool.adopt_in_use(&mut link.backend);
        }
        self.take_in(id, None, handle, ClientKind::Pool(detached))
    }

    /// The settings of this number, as sessions of this pool share them.
    fn settings(&mut self, number: usize, pool: &Arc<Pool>) -> io::Result<Arc<Parameters>> {
        if let Some((last, of, shared)) = &self.shared {
            if *last == number && Arc::ptr_eq(of, pool) {
                return Ok(Arc::clone(shared));
            }
        }
        let reported_to_client = self.settings.get(number);
        let reported_to_client =
            reported_to_client.ok_or_else(|| wrong("settings that were not given"))?;
        let shared = pool.share(Arc::clone(reported_to_client));
        self.shared = Some((number, Arc::clone(pool), Arc::clone(&shared)));
        Ok(shared)
    }

    /// Whether a TLS connection can be carried on here. If it cannot, its session has been refused.
    fn carries(&mut self, id: u64, tls: &mut Option<Encrypted>) -> io::Result<bool> {
        let Some(Err(why)) = tls.as_mut().map(Encrypted::prepare) else {
            return Ok(true);
        };
        self.say(&Message::Refused(Refused {
            id,
            why,
            for_good: true,
        }))?;
        Ok(false)
    }

    pub(super) fn console(
        &mut self,
        mut moved: MovedConsole,
        mut descriptors: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let client = descriptors.pop().ok_or_else(|| wrong("no descriptor"))?;
        let id = moved.id;
        if !self.carries(id, &mut moved.tls)? {
            return Ok(());
        }
        let Some(ticket) = self.ticket(id)? else {
            return Ok(());
        };
        let client = Stream::inherit(client, &moved.address, moved.tls);
        let handle = self.handle(
            ClientInfo {
                id,
                secret: moved.secret,
                database: moved.database,
                user: moved.user,
                application_name: moved.standing.application_name.clone(),
                address: moved.address,
                connected_at: moved.connected_at,
                console: true,
                tls: client.negotiated(),
            },
            &moved.standing,
        );
        let reply = if moved.awaits_outcome {
            Reply::Awaited
        } else if moved.owed.is_empty() {
            Reply::Given
        } else {
            Reply::Owed(moved.owed)
        };
        let kind = ClientKind::Console(ConsoleSession {
            client,
            rights: moved.rights,
            unread: moved.unread,
            reply,
        });
        self.take_in(id, Some(ticket), handle, kind)
    }

    /// A thread for a session of the console, before the session is accepted. `None`: there is none, and the session
    /// was refused.
    fn ticket(&mut self, id: u64) -> io::Result<Option<ThreadTicket>> {
        match self.client_threads.ticket() {
            Ok(ticket) => Ok(Some(ticket)),
            Err(error) => {
                self.say(&Message::Refused(Refused {
                    id,
                    why: format!(
                        "the new process could not start a thread for it: {error}; raise the limit of threads (ulimit -u, TasksMax=)"
                    ),
                    for_good: false,
                }))?;
                Ok(None)
            }
        }
    }

    fn handle(&self, info: ClientInfo, standing: &messages::Standing) -> Handle {
        let handle = Handle::new(info);
        handle.transactions.set(standing.transactions);
        handle.queries.set(standing.queries);
        handle.errors.set(standing.errors);
        handle
    }

    fn take_in(
        &mut self,
        id: u64,
        ticket: Option<ThreadTicket>,
        handle: Handle,
        kind: ClientKind,
    ) -> io::Result<()> {
        self.taken += 1;
        let entry = self.shared_state.sessions.enter(handle);
        // Signals that all sessions got before it came.
        match self.shared_state.stage() {
            Stage::Open => {}
            Stage::Draining => entry.handle().signal(signals::DRAIN),
            Stage::Stopping => entry.handle().signal(signals::STOP),
        }
        if let Some(flag) = self
            .shared_state
            .handover_signal(entry.handle().info.console)
        {
            entry.handle().signal(flag);
        }
        let client = Client {
            entry,
            client_permit: self.shared_state.admit_moved(),
            kind,
        };
        self.arrived.push((client, ticket));
        // Sent together with those for others that have come with it.
        messages::queue(&mut self.channel, &Message::Accepted(id), Vec::new())
    }
}
