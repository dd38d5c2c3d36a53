//! The side that takes: a new process receives everything from its predecessor and goes on with it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::getuid;

use super::messages::{self, Hello, Message, Moved, MovedConsole, Ready, Refused, VERSION};
use super::outcome::{self, Outcome};
use crate::config::Settings;
use crate::net::clock::Moment;
use crate::net::encrypted::Encrypted;
use crate::net::listener::Listener;
use crate::net::passing::Passage;
use crate::net::stream::Stream;
use crate::net::thread;
use crate::net::wait::{Interest, Woken, wait};
use crate::server::backend::Connection;
use crate::session::accept::{Reception, Seat};
use crate::session::guest::{AtConsole, Guest, Reply, Resting, What};
use crate::session::house::House;
use crate::session::registry::{Handle, Identity};

/// How long the predecessor may take to introduce itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A successor before it serves: what its predecessor has told it so far.
pub struct Heir {
    passage: Passage,
    hello: Hello,
    pools: Vec<messages::Pool>,
    idle: Vec<(messages::Idle, OwnedFd)>,
    /// The listening sockets.
    pub listeners: Vec<Listener>,
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Heir {
    /// Says that it is ready and hears all that it needs before it can serve.
    ///
    /// # Errors
    /// If the other end is not a process of the same user, or does not keep to the rules, or dies.
    pub fn announce(fd: OwnedFd) -> io::Result<Heir> {
        let mut passage = Passage::over(fd);
        let (user, process) = passage.peer()?;
        if user != getuid().as_raw() && user != 0 {
            return Err(wrong(&format!(
                "the hand-over comes from process {process} of user {user}"
            )));
        }
        let ready = Message::Ready(Ready {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            descriptors: getrlimit(Resource::RLIMIT_NOFILE)
                .ok()
                .map(|(soft, _)| soft),
            tls: true,
        });
        messages::post(&mut passage, &ready, Vec::new())?;
        let deadline = Moment::now().after(PATIENCE);
        let (mut hello, mut pools, mut idle, mut listeners) =
            (None, Vec::new(), Vec::new(), Vec::new());
        loop {
            while let Some((message, mut descriptors)) = messages::take(&mut passage)? {
                match message {
                    Message::Hello(it) if it.version != VERSION => {
                        return Err(wrong(&format!(
                            "the predecessor's hand-over has version {}, this one's is {VERSION}",
                            it.version
                        )));
                    }
                    Message::Hello(it) => hello = Some(*it),
                    Message::Pool(pool) => pools.push(*pool),
                    Message::Idle(connection) => {
                        let fd = descriptors.pop();
                        idle.push((*connection, fd.ok_or_else(|| wrong("no descriptor"))?));
                    }
                    Message::Listener(_) => {
                        let fd = descriptors.pop();
                        listeners.push(Listener::inherit(
                            fd.ok_or_else(|| wrong("no descriptor"))?,
                        )?);
                    }
                    Message::Open => {
                        let hello = hello.ok_or_else(|| wrong("no Hello"))?;
                        return Ok(Heir {
                            passage,
                            hello,
                            pools,
                            idle,
                            listeners,
                        });
                    }
                    _ => {}
                }
            }
            if passage.has_ended() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            exchange(&mut passage, Some(deadline))?;
        }
    }

    /// The log filter in force at the predecessor.
    pub fn log_filter(&self) -> Option<&str> {
        self.hello.log_filter.as_deref()
    }

    /// The house that goes on with what the predecessor has told.
    pub fn house(&self, settings: Settings) -> Arc<House> {
        let hello = &self.hello;
        let house = House::new(settings, hello.mock.clone());
        house.sessions.start_from(hello.next_session);
        house.pools.start_from(hello.next_server);
        house.statements.start_from(hello.next_statement);
        let arrivals = &house.arrivals;
        let counts = [&arrivals.total, &arrivals.plain, &arrivals.cancel];
        arrivals.tls.store(hello.arrivals_tls, Ordering::Relaxed);
        for (count, before) in counts.into_iter().zip(hello.arrivals) {
            count.store(before, Ordering::Relaxed);
        }
        for told in &self.pools {
            if let Some(pool) = house.pools.find(&told.database, &told.user) {
                pool.inherit(
                    told.totals.clone(),
                    told.paused,
                    told.proved.clone(),
                    told.connections,
                    told.leads_to == pool.plan().leads_to(),
                );
            }
        }
        house
    }

    /// Takes the sessions as they come, in a thread of its own, until the predecessor has nothing more to
    /// give or is dead. Then calls `over`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn receive(
        self,
        house: Arc<House>,
        reception: Arc<Reception>,
        over: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        std::thread::Builder::new()
            .stack_size(512 * 1024)
            .spawn(move || {
                thread::name("hand-over");
                let mut taker = Taker {
                    house,
                    reception,
                    passage: self.passage,
                    taken: 0,
                    asker: None,
                };
                let idle = self.idle;
                let outcome = idle
                    .into_iter()
                    .try_for_each(|(connection, fd)| taker.idle(connection, vec![fd]))
                    .and_then(|()| taker.take_all());
                taker.house.pools.expect_no_more();
                let outcome = outcome.map_err(|error| {
                    format!(
                        "the predecessor is gone before it had given everything ({error}); {} sessions were taken over",
                        taker.taken
                    )
                });
                match &outcome {
                    Ok(outcome) => log::info!("took over from the predecessor: {outcome}"),
                    Err(why) => log::error!("{why}"),
                }
                over();
                taker.answer(&outcome);
            })
            .map(drop)
    }
}

/// Writes what is owed and waits for more.
fn exchange(passage: &mut Passage, deadline: Option<Moment>) -> io::Result<()> {
    passage.flush()?;
    let interest = Interest {
        read: true,
        write: passage.owes(),
    };
    match wait(Some((passage.fd(), interest)), None, deadline)? {
        Woken::Ready { .. } => passage.fill(),
        Woken::Told => Ok(()),
        Woken::Deadline => Err(io::ErrorKind::TimedOut.into()),
    }
}

struct Taker {
    house: Arc<House>,
    reception: Arc<Reception>,
    passage: Passage,
    taken: usize,
    /// The console session that has asked for the upgrade.
    asker: Option<(Guest, Seat)>,
}

impl Taker {
    fn take_all(&mut self) -> io::Result<Outcome> {
        loop {
            while let Some((message, descriptors)) = messages::take(&mut self.passage)? {
                match message {
                    Message::Session(moved) => self.session(*moved, descriptors)?,
                    Message::Console(moved) => self.console(*moved, descriptors)?,
                    Message::Idle(idle) => self.idle(*idle, descriptors)?,
                    Message::Work(done) => {
                        if let Some(pool) = self.house.pools.find(&done.database, &done.user) {
                            pool.add_work(&done.work);
                        }
                    }
                    Message::Done(outcome) => {
                        self.say(&Message::Finished)?;
                        return Ok(outcome);
                    }
                    _ => {}
                }
            }
            if self.passage.has_ended() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            exchange(&mut self.passage, None)?;
        }
    }

    /// Says something and makes sure that it is on its way: what it says becomes true only then.
    fn say(&mut self, message: &Message) -> io::Result<()> {
        messages::post(&mut self.passage, message, Vec::new())?;
        while self.passage.owes() {
            self.passage.flush()?;
            if self.passage.owes() {
                let interest = Interest {
                    read: false,
                    write: true,
                };
                wait(Some((self.passage.fd(), interest)), None, None)?;
            }
        }
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
            // Nothing can be said on it, not even good-bye.
            log::warn!("a server connection cannot be taken over: {why}");
            return Ok(());
        }
        match self.house.pools.find(&idle.database, &idle.user) {
            Some(pool) => pool.adopt(connection),
            None => connection.close("its pool was removed"),
        }
        Ok(())
    }

    fn session(&mut self, moved: Moved, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let Moved {
            mut session,
            standing,
            server_deadline,
            mut client_tls,
            mut server_tls,
        } = moved;
        let Some(pool) = self.house.pools.find(&session.database, &session.user) else {
            return self.say(&Message::Refused(Refused {
                id: session.id,
                why: "its pool is no longer in the configuration".to_owned(),
                for_good: true,
            }));
        };
        let Some(seat) = self.seat(session.id)? else {
            return Ok(());
        };
        for tls in [&mut client_tls, &mut server_tls] {
            if !self.carries(session.id, tls)? {
                return Ok(());
            }
        }
        let mut descriptors = descriptors.into_iter();
        let client = descriptors.next().ok_or_else(|| wrong("no descriptor"))?;
        let client = Stream::inherit(client, &session.address, client_tls);
        let server = match &session.lent {
            Some(lent) => {
                let fd = descriptors.next().ok_or_else(|| wrong("no descriptor"))?;
                Some(Stream::inherit(fd, &lent.backend.key.address, server_tls))
            }
            None => None,
        };
        session.told = pool.share(session.told);
        let mut statements = HashMap::new();
        for (name, statement) in session.statements {
            statements.insert(name, self.house.statements.adopt(statement));
        }
        session.statements = statements;
        let handle = self.handle(
            Identity {
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
        self.say(&Message::Accepted(session.id))?;
        if let Some(lent) = &mut session.lent {
            pool.adopt_lent(&mut lent.backend);
        }
        self.take_in(
            seat,
            handle,
            What::Pool(Resting {
                pool,
                session: Box::new(session),
                client,
                server,
                server_deadline,
            }),
        );
        Ok(())
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

    fn console(
        &mut self,
        mut moved: MovedConsole,
        mut descriptors: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let client = descriptors.pop().ok_or_else(|| wrong("no descriptor"))?;
        let id = moved.id;
        if !self.carries(id, &mut moved.tls)? {
            return Ok(());
        }
        let Some(seat) = self.seat(id)? else {
            return Ok(());
        };
        let client = Stream::inherit(client, &moved.address, moved.tls);
        let handle = self.handle(
            Identity {
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
        self.say(&Message::Accepted(id))?;
        let reply = if moved.awaits_outcome {
            Reply::Awaited
        } else if moved.owed.is_empty() {
            Reply::Given
        } else {
            Reply::Owed(moved.owed)
        };
        self.take_in(
            seat,
            handle,
            What::Console(AtConsole {
                client,
                unread: moved.unread,
                reply,
            }),
        );
        Ok(())
    }

    /// Tells who asked for the upgrade how it went.
    fn answer(&mut self, outcome: &Result<Outcome, String>) {
        if let Some((mut asker, seat)) = self.asker.take() {
            asker.answer(outcome::reply(outcome));
            seat.take_in(asker);
        }
    }

    /// A thread for a session, before it is said to be taken. If there is none, that has been said.
    fn seat(&mut self, id: u64) -> io::Result<Option<Seat>> {
        match self.reception.seat() {
            Ok(seat) => Ok(Some(seat)),
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

    fn handle(&self, who: Identity, standing: &messages::Standing) -> Handle {
        let handle = Handle::new(who);
        handle.transactions.set(standing.transactions);
        handle.queries.set(standing.queries);
        handle.errors.set(standing.errors);
        handle
    }

    fn take_in(&mut self, seat: Seat, handle: Handle, what: What) {
        self.taken += 1;
        let guest = Guest {
            entry: self.house.sessions.enter(handle),
            place: self.house.admit_moved(),
            what,
        };
        if guest.awaits_reply() {
            self.asker = Some((guest, seat));
        } else {
            seat.take_in(guest);
        }
    }
}
