//! The thread that accepts connections and keeps them until their first packet has come.
//!
//! It waits for all of them together, so a connection that sends nothing costs no thread. A connection whose first
//! packet is whole gets a thread, as far as there are permits for logins; connections that wait for a permit take
//! turns by address. At `max_unauthenticated_connections`, a connection of the address that has most of them is
//! closed: the one that has sent nothing for longest.
//!
//! Invariant: this thread never waits for a client, for another thread or for a pool.

mod refusing;
mod starting;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{MsgFlags, recv, send};

use super::client_threads::{AcceptGuard, ClientThreads};
use super::crowd::{Crowd, FairQueue, Origin};
use super::login_error::LoginError;
use super::login_permit::SILENCE;
use super::new_connection::{NewConnection, Next, Opening};
use super::turns::Turns;
use crate::config::General;
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::net::listener::Listener;
use crate::net::wait::{self, Interest};
use crate::session::shared::Stage;

/// Events that are dealt with at a time, and connections accepted from one listener.
const EVENTS: usize = 128;
const ACCEPTED: usize = 64;

/// How long no connection is accepted when there is no room for one.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a client that was refused may take to close its side.
const LINGER: Duration = Duration::from_secs(2);

/// The share of the limit of open files that connections before their login may have.
const SHARE_OF_DESCRIPTORS: u64 = 4;

/// Events of listeners carry their index and this bit.
const LISTENER: u64 = 1 << 63;

/// Commands for the acceptor.
pub(super) enum Command {
    /// Accept from this listener, too. The answer: whether it can be waited for.
    Listen(Arc<Listener>, Sender<io::Result<()>>),
    /// Accept, or no longer do. Answered when it is so.
    Accept(bool, Sender<()>),
    /// Give all connections away that wait for their first packet or for a thread.
    Take(Sender<Vec<NewConnection>>),
    /// Keep this connection. Answered when that is so.
    Adopt(Box<NewConnection>, Sender<()>),
    /// Keep this socket, on which the last message is written, until the client has closed it.
    Linger(OwnedFd, Address),
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its first packet is not whole.
    Waiting,
    /// It waits for a thread.
    Ready(Class),
    /// All is said.
    Lingering,
}

/// What waits for threads apart from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The console, without TLS.
    Console,
    /// A session, without TLS.
    Plain,
    /// Anything that begins with a TLS handshake.
    Tls,
}

struct Held {
    connection: NewConnection,
    origin: Origin,
    until: Option<MonotonicTime>,
    state: State,
}

pub(super) struct Acceptor {
    client_threads: Arc<ClientThreads>,
    epoll: Epoll,
    commands: Receiver<Command>,
    listeners: Vec<Arc<Listener>>,
    /// Whether connections are accepted, and until when they are not although they should be.
    accepting: bool,
    pause: Option<MonotonicTime>,
    held: HashMap<u64, Held>,
    next: u64,
    crowd: Crowd,
    deadlines: BTreeSet<(MonotonicTime, u64)>,
    lingering: usize,
    /// Those that wait for a thread, by [`Class`].
    ready: [FairQueue; 3],
    turns: Turns,
    /// When to look at those that wait for a thread again.
    retry: Option<MonotonicTime>,
}

impl Acceptor {
    /// # Errors
    /// If there is no descriptor left.
    pub(super) fn new(
        client_threads: Arc<ClientThreads>,
        commands: Receiver<Command>,
    ) -> io::Result<Acceptor> {
        Ok(Acceptor {
            client_threads,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            commands,
            listeners: Vec::new(),
            accepting: false,
            pause: None,
            held: HashMap::new(),
            next: 0,
            crowd: Crowd::default(),
            deadlines: BTreeSet::new(),
            lingering: 0,
            ready: Default::default(),
            turns: Turns::default(),
            retry: None,
        })
    }

    /// What the thread does until the process ends.
    pub(super) fn work(&mut self) {
        self.client_threads.logins.acceptor_is_here();
        loop {
            // A defect met by one connection must not end all others.
            if catch_unwind(AssertUnwindSafe(|| self.step())).is_err() {
                log::error!("the acceptor panicked; it goes on");
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn step(&mut self) {
        let timers = [
            self.deadlines.first().map(|&(at, _)| at),
            self.pause,
            self.retry,
            self.client_threads.rejections.flush(MonotonicTime::now()),
        ];
        let until = timers.into_iter().flatten().min();
        let woken = wait::wait(Some((self.epoll.0.as_fd(), Interest::READ)), None, until);
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
        if let Err(error) = woken {
            self.client_threads
                .note_shortage(&format!("new connections are not heard: {error}"));
            std::thread::sleep(PAUSE);
        }
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self
            .epoll
            .wait(&mut events, EpollTimeout::ZERO)
            .unwrap_or(0);
        let events = &events[..count];
        // Those that are here come before those that come.
        for event in events.iter().filter(|event| event.data() & LISTENER == 0) {
            self.hear(event.data(), event.events());
        }
        self.expire();
        self.start_ready();
        for event in events.iter().filter(|event| event.data() & LISTENER != 0) {
            self.accept_from(event.data());
        }
        self.end_pause();
        self.tell_count();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Listen(listener, answer) => {
                let data = LISTENER | self.listeners.len() as u64;
                let event = EpollEvent::new(self.listening(), data);
                let added = self.epoll.add(listener.fd(), event);
                if added.is_ok() {
                    self.listeners.push(listener);
                }
                let _ = answer.send(added.map_err(io::Error::from));
            }
            Command::Accept(accepting, answer) => {
                self.accepting = accepting;
                self.listen();
                self.tell_count();
                let _ = answer.send(());
            }
            Command::Take(answer) => {
                let taken: Vec<u64> = self
                    .held
                    .iter()
                    .filter(|(_, held)| held.state != State::Lingering)
                    .map(|(&id, _)| id)
                    .collect();
                let taken = taken.into_iter().filter_map(|id| self.release(id));
                let taken: Vec<NewConnection> = taken.map(|held| held.connection).collect();
                self.tell_count();
                if let Err(back) = answer.send(taken) {
                    for connection in back.0 {
                        self.keep(connection);
                    }
                }
            }
            Command::Adopt(connection, answer) => {
                self.keep(*connection);
                self.tell_count();
                let _ = answer.send(());
            }
            Command::Linger(socket, address) => self.linger(NewConnection {
                socket: socket.into(),
                opening: Opening::new(address, MonotonicTime::now(), None),
            }),
        }
    }

    fn listening(&self) -> EpollFlags {
        if self.accepting && self.pause.is_none() {
            EpollFlags::EPOLLIN
        } else {
            EpollFlags::empty()
        }
    }

    /// Waits for connections, or no longer does.
    fn listen(&self) {
        let flags = self.listening();
        for (index, listener) in self.listeners.iter().enumerate() {
            let mut event = EpollEvent::new(flags, LISTENER | index as u64);
            // It fails for no descriptor that was added.
            let _ = self.epoll.modify(listener.fd(), &mut event);
        }
    }

    fn pause_until(&mut self, until: MonotonicTime) {
        self.pause = Some(until);
        self.listen();
    }

    /// Accepts again after a pause, if there is room.
    fn end_pause(&mut self) {
        let now = MonotonicTime::now();
        if self.pause.is_none_or(|until| now < until) {
            return;
        }
        let most = most_held(&self.client_threads.shared.settings().general);
        if self.held.len() > most && !self.make_room(now, SILENCE) {
            self.pause = Some(now.after(PAUSE));
            return;
        }
        self.pause = None;
        self.listen();
    }

    /// Publishes how many connections have no thread.
    fn tell_count(&self) {
        let waiting = self.held.len() - self.lingering;
        self.client_threads.held.store(waiting, Ordering::Release);
    }

    fn accept_from(&mut self, data: u64) {
        let index = usize::try_from(data & !LISTENER).unwrap_or(usize::MAX);
        let Some(listener) = self.listeners.get(index).map(Arc::clone) else {
            return;
        };
        let settings = self.client_threads.shared.settings();
        let general = &settings.general;
        let most = most_held(general);
        for _ in 0..ACCEPTED {
            if !self.accepting
                || self.pause.is_some()
                || self.client_threads.shared.stage() == Stage::Stopping
            {
                return;
            }
            let now = MonotonicTime::now();
            match listener.accept() {
                Ok((socket, address)) => {
                    self.client_threads
                        .shared
                        .accept_counters
                        .total
                        .fetch_add(1, Ordering::Relaxed);
                    if self.held.len() >= most && !self.make_room(now, SILENCE) {
                        // One more than may be; no other before there is room.
                        self.pause_until(now.after(PAUSE));
                    }
                    let deadline = general.client_login_timeout.map(|limit| now.after(limit));
                    let opening = Opening::new(address, now, deadline);
                    self.keep(NewConnection { socket, opening });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
                    // Otherwise the client had gone before it was accepted.
                    if error
                        .raw_os_error()
                        .is_some_and(|code| short.contains(&code))
                    {
                        self.client_threads
                            .note_shortage(&format!("could not accept a connection: {error}"));
                        if !self.make_room(now, Duration::ZERO) {
                            return self.pause_until(now.after(PAUSE));
                        }
                    }
                }
            }
        }
    }

    /// Closes the connection that has sent nothing for longest. Returns whether there was one.
    fn make_room(&mut self, now: MonotonicTime, silence: Duration) -> bool {
        let silence = u64::try_from(silence.as_micros()).unwrap_or(0);
        let before = MonotonicTime::from_micros(now.micros().saturating_sub(silence));
        let Some(held) = self
            .crowd
            .longest_silent(before)
            .and_then(|id| self.release(id))
        else {
            return false;
        };
        if held.state != State::Lingering {
            let refusal = LoginError::Crowded;
            self.client_threads
                .rejections
                .note(None, &held.connection.opening.address, &refusal);
        }
        true
    }

    /// Keeps a connection and looks at what it has sent.
    fn keep(&mut self, connection: NewConnection) {
        let id = self.hold(connection, State::Waiting);
        self.advance(id);
    }

    fn hold(&mut self, connection: NewConnection, state: State) -> u64 {
        self.next += 1;
        let id = self.next;
        let origin = Origin::of(&connection.opening.address);
        let now = MonotonicTime::now();
        let until = match state {
            State::Lingering => Some(now.after(LINGER)),
            _ => connection.opening.deadline,
        };
        self.lingering += usize::from(state == State::Lingering);
        self.crowd.enter(id, origin);
        self.crowd.waits(id, now);
        if let Some(until) = until {
            self.deadlines.insert((until, id));
        }
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        let added = self
            .epoll
            .add(connection.socket.as_fd(), EpollEvent::new(flags, id));
        self.held.insert(
            id,
            Held {
                connection,
                origin,
                until,
                state,
            },
        );
        if added.is_err() {
            self.release(id);
        }
        id
    }

    /// Takes a connection out. Nothing here refers to it any more.
    fn release(&mut self, id: u64) -> Option<Held> {
        let held = self.held.remove(&id)?;
        // It fails for no descriptor that was added.
        let _ = self.epoll.delete(held.connection.socket.as_fd());
        self.crowd.leave(id);
        if let Some(until) = held.until {
            self.deadlines.remove(&(until, id));
        }
        match held.state {
            State::Ready(class) => self.ready[class as usize].remove(held.origin, id),
            State::Lingering => self.lingering -= 1,
            State::Waiting => {}
        }
        Some(held)
    }

    /// Something has happened on a connection.
    fn hear(&mut self, id: u64, events: EpollFlags) {
        let Some(held) = self.held.get_mut(&id) else {
            return;
        };
        if held.state != State::Waiting && held.state != State::Lingering {
            // Nothing is read before its turn: it has gone.
            if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP)
                || events.contains(EpollFlags::EPOLLRDHUP)
            {
                self.release(id);
            }
            return;
        }
        let mut chunk = [0; 4096];
        let socket = &held.connection.socket;
        match recv(socket.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => {
                self.release(id);
            }
            Ok(_) if held.state == State::Lingering => {}
            Ok(n) => {
                held.connection
                    .opening
                    .unread
                    .extend_from_slice(&chunk[..n]);
                self.advance(id);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => {
                self.release(id);
            }
        }
    }

    /// Looks at what a connection has sent so far.
    fn advance(&mut self, id: u64) {
        loop {
            let Some(held) = self.held.get_mut(&id) else {
                return;
            };
            let unix = matches!(held.connection.opening.address, Address::Unix(_));
            let encryption = &self.client_threads.encryption;
            let offers_tls = !unix && encryption.acceptor().is_some();
            match held.connection.opening.next(offers_tls) {
                Next::More => return,
                Next::Say(answer) => {
                    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                    let socket = held.connection.socket.as_raw_fd();
                    if send(socket, answer, flags) != Ok(answer.len()) {
                        self.release(id);
                        return;
                    }
                    self.crowd.waits(id, MonotonicTime::now());
                }
                Next::Begin(kind) => return self.begin(id, kind),
                Next::Refuse(refusal) => return self.refuse(id, &refusal),
            }
        }
    }
}

/// How many connections before their login are kept.
fn most_held(general: &General) -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let share = usize::try_from(files / SHARE_OF_DESCRIPTORS).unwrap_or(usize::MAX);
    general.max_unauthenticated_connections.min(share).max(1)
}
