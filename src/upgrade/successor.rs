//! The new process's side: it gets what it needs before it can serve. Then a thread takes the sessions
//! (`successor/receive.rs`).

mod apart;
mod found;
mod receive;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::{bounded, unbounded};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Pid, getuid};

use self::apart::Parts;
use self::receive::SessionReceiver;
use super::messages::{self, Hello, Message, Ready, VERSION};
use crate::client::client_threads::ClientThreads;
use crate::config::Settings;
use crate::net::clock::MonotonicTime;
use crate::net::fd_channel::FdChannel;
use crate::net::listener::Listener;
use crate::net::thread;
use crate::net::wait::{Interest, Woken, wait};
use crate::server::prepared::Statement;
use crate::session::shared::Shared;

/// How long the predecessor may take to introduce itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A successor before it serves: what its predecessor has sent so far.
pub struct InheritedState {
    channel: FdChannel,
    hello: Hello,
    statements: Vec<Arc<Statement>>,
    pools: Vec<messages::Pool>,
    found: Vec<messages::FoundUsers>,
    idle: Vec<(messages::Idle, OwnedFd)>,
    /// The listening sockets.
    pub listeners: Vec<Listener>,
    /// Those of the metrics.
    pub web_listeners: Vec<Listener>,
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl InheritedState {
    /// Sends that it is ready, and its pid file, and reads all that it needs before it can serve.
    ///
    /// # Errors
    /// If the other end is not a process of the same user, or does not keep to the rules, or dies.
    pub fn announce(fd: OwnedFd, pid_file: Option<&Path>) -> io::Result<InheritedState> {
        let mut channel = FdChannel::over(fd);
        let (user, process) = channel.peer()?;
        if user != getuid().as_raw() && user != 0 {
            return Err(wrong(&format!(
                "the hand-over comes from process {process} of user {user}"
            )));
        }
        // Until threads are started that do not.
        thread::hurry_like(Pid::from_raw(process));
        let ready = Message::Ready(Ready {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            descriptors: getrlimit(Resource::RLIMIT_NOFILE)
                .ok()
                .map(|(soft, _)| soft),
            pid_file: pid_file.map(Path::to_owned),
        });
        messages::queue(&mut channel, &ready, Vec::new())?;
        let deadline = MonotonicTime::now().after(PATIENCE);
        let mut opened = false;
        let (mut hello, mut statements, mut pools, mut found, mut idle, mut listeners) = (
            None::<Hello>,
            Vec::new(),
            Vec::new(),
            Vec::new(),
            Vec::new(),
            Vec::new(),
        );
        let mut web_listeners = Vec::new();
        let hello = loop {
            while let Some((message, mut descriptors)) = messages::take(&mut channel)? {
                match message {
                    Message::Hello(it) if it.version != VERSION => {
                        return Err(wrong(&format!(
                            "the predecessor's hand-over has version {}, this one's is {VERSION}",
                            it.version
                        )));
                    }
                    Message::Hello(it) => hello = Some(*it),
                    Message::Statements(some) => statements.extend(some),
                    Message::Pool(pool) => pools.push(*pool),
                    Message::Found(users) => found.push(users),
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
                    Message::WebListener(_) => {
                        let fd = descriptors.pop();
                        web_listeners.push(Listener::inherit(
                            fd.ok_or_else(|| wrong("no descriptor"))?,
                        )?);
                    }
                    Message::Open => opened = true,
                    _ => {}
                }
                if opened {
                    break;
                }
            }
            // A predecessor that gives us up kills us first. One that is gone has died: then all that it has
            // sent is ours, and with its listening sockets its clients can be served.
            let orphaned = channel.has_ended()
                && hello
                    .as_ref()
                    .is_some_and(|hello| hello.listeners > 0 && listeners.len() == hello.listeners);
            if opened || orphaned {
                break hello.ok_or_else(|| wrong("no Hello"))?;
            }
            if channel.has_ended() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            exchange(&mut channel, Some(deadline))?;
        };
        Ok(InheritedState {
            channel,
            hello,
            statements,
            pools,
            found,
            idle,
            listeners,
            web_listeners,
        })
    }

    /// The log filter in force at the predecessor.
    pub fn log_filter(&self) -> Option<&str> {
        self.hello.log_filter.as_deref()
    }

    /// The shared state, made of the settings and of what the predecessor has sent.
    pub fn shared(&self, settings: Settings) -> Arc<Shared> {
        let hello = &self.hello;
        let shared = Shared::new(settings, hello.mock.clone());
        shared.sessions.start_from(hello.next_session);
        shared.pools.start_from(hello.next_server);
        shared.statements.start_from(hello.next_statement);
        for statement in &self.statements {
            shared.statements.adopt(Arc::clone(statement));
        }
        let accept_counters = &shared.accept_counters;
        let counts = [
            &accept_counters.total,
            &accept_counters.plain,
            &accept_counters.cancel,
        ];
        accept_counters
            .tls
            .store(hello.arrivals_tls, Ordering::Relaxed);
        for (count, before) in counts.into_iter().zip(hello.accept_counters) {
            count.store(before, Ordering::Relaxed);
        }
        shared.pools.expect_more();
        for told in &self.pools {
            found::take_pool(&shared, told);
        }
        for users in &self.found {
            found::take_users(&shared, users);
        }
        shared
    }

    /// Takes the sessions as they come, in a thread of its own, until the predecessor has nothing more to
    /// give or is dead. Then, before the predecessor gets the last message, `on_end` is called with whether it lives.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn receive(
        self,
        shared: Arc<Shared>,
        client_threads: Arc<ClientThreads>,
        on_end: impl FnOnce(bool) + Send + 'static,
    ) -> io::Result<()> {
        let (started, has_started) = bounded(0);
        std::thread::Builder::new()
            .stack_size(512 * 1024)
            .spawn(move || {
                thread::name("hand-over");
                thread::raise_priority();
                let (passes_on, errands) = unbounded();
                shared.begin_passing_on(passes_on);
                let _ = started.send(());
                let parts = Parts::new(Arc::clone(&shared), self.statements);
                let taker =
                    SessionReceiver::new(shared, client_threads, self.channel, parts, errands);
                taker.work(&self.hello, self.idle, on_end);
            })?;
        // From now on a client may bring a CancelRequest.
        let _ = has_started.recv();
        Ok(())
    }
}

/// Writes what is owed and waits for more.
fn exchange(channel: &mut FdChannel, deadline: Option<MonotonicTime>) -> io::Result<()> {
    channel.flush()?;
    let interest = Interest {
        read: true,
        write: channel.owes(),
        ..Interest::default()
    };
    match wait(Some((channel.fd(), interest)), None, deadline)? {
        Woken::Ready { .. } => channel.fill(),
        Woken::Interrupted => Ok(()),
        Woken::Deadline => Err(io::ErrorKind::TimedOut.into()),
    }
}
