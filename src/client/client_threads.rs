//! The threads that serve clients, and which client gets one.
//!
//! The acceptor (`client::acceptor`) hands over connections whose first packet has come. Each is given to a thread that
//! waits without work after its last client left, or to a new one. Invariant: the number of threads is counted and
//! bounded before one is started, because a start that fails for want of memory mappings ends the process. A
//! CancelRequest and a console session are served even if no thread can be started.

mod cancels;
mod reserve;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use nix::unistd::Pid;
use parking_lot::Mutex;

use super::acceptor::{Acceptor, Class, Command};
use super::client_thread::{log_in, serve_at_console, serve_session};
use super::client_tls::Encryption;
use super::console_login::ConsoleVerifiers;
use super::idle_threads::{IdleThreads, PARKED, ThreadClass};
use super::login_permit::{LOGINS, LoginPermit, Logins};
use super::new_connection::NewConnection;
use super::rejections::Rejections;
use crate::config::Settings;
use crate::net::clock::MonotonicTime;
use crate::net::listener::Listener;
use crate::net::thread;
use crate::net::wait;
use crate::session::client::{Client, ClientKind};
use crate::session::driven::Driven;
use crate::session::registry::CancelKey;
use crate::session::shared::Shared;

/// Bytes of stack of a client's thread. Only what is touched is resident.
pub(super) const STACK: usize = 256 * 1024;

/// How many threads end together when they are no longer needed, and how soon the next.
const EXIT_BATCH: usize = 16;
const EXIT_BATCH_PAUSE: Duration = Duration::from_millis(1);

/// Threads for CancelRequests and for the console that sessions and logins leave free.
const RESERVED: usize = 24;

/// CancelRequests that are dealt with at a time, each in a thread, and those that wait for the reserve.
const CANCELS: usize = 256;
const RESERVE_QUEUE: usize = 64;

/// How often such a shortage is worth a line in the log.
const SHORTAGE_LOG: Duration = Duration::from_secs(5);

/// What waits for a thread.
enum Work {
    /// A connection that has just been accepted.
    Arrival(NewConnection, LoginPermit, AcceptGuard),
    /// A client of the console that is logged in already.
    Client(Box<Client>),
    /// A session that gets this thread for its own.
    Session(Box<Driven>),
    /// A CancelRequest that another process has passed on. If the session is not here either it is passed
    /// `back`, or dropped.
    Cancel {
        key: CancelKey,
        back: bool,
        /// The connection that brought it is closed when it has been carried out: then its client goes on.
        _from: Option<NewConnection>,
        _arriving: AcceptGuard,
    },
}

/// A thread that waits for its work. Dropping this releases the thread.
#[derive(Debug)]
pub struct ThreadTicket(Sender<Work>);

impl ThreadTicket {
    /// Lets the thread serve this client.
    pub fn take_in(self, client: Client) {
        self.take(Work::Client(Box::new(client)));
    }

    fn take(self, work: Work) {
        // There is room for one, and the thread ends only after it has looked.
        let _ = self.0.send(work);
    }
}

/// A connection between the acceptor and its login. While this lives, a hand-over counts the connection.
#[derive(Debug)]
pub(super) struct AcceptGuard(Arc<AtomicUsize>);

impl AcceptGuard {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> AcceptGuard {
        count.fetch_add(1, Ordering::AcqRel);
        AcceptGuard(Arc::clone(count))
    }
}

impl Drop for AcceptGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The threads for clients, and what their logins share.
#[derive(Debug)]
pub struct ClientThreads {
    pub(super) shared: Arc<Shared>,
    /// TLS with clients.
    pub(super) encryption: Encryption,
    /// The verifiers of the console's passwords.
    pub(super) console_verifiers: ConsoleVerifiers,
    /// The verifiers of passwords that `auth_file` has in plain text.
    pub(super) file_verifiers: ConsoleVerifiers,
    /// The limit of logins under way.
    pub(super) logins: Arc<Logins>,
    /// The threads without work.
    idle_threads: IdleThreads<Receiver<Work>>,
    /// Commands to the thread that accepts, and that thread, to be woken.
    acceptor: (Sender<Command>, Mutex<Option<Pid>>),
    commands: Mutex<Option<Receiver<Command>>>,
    listeners: Mutex<Vec<Arc<Listener>>>,
    pub(super) arriving: Arc<AtomicUsize>,
    /// Connections that have no thread yet.
    pub(super) held: AtomicUsize,
    pub(super) rejections: Rejections,
    threads: AtomicUsize,
    /// Clients of the console for whom there was no thread.
    waiting: Mutex<VecDeque<Client>>,
    /// How many threads there may be, and how many of them may be sessions' own.
    most_threads: usize,
    most_sessions: usize,
    /// CancelRequests that threads are busy with.
    cancels: Arc<AtomicUsize>,
    /// The thread in reserve.
    reserve: Sender<Work>,
    /// All clients are another process's.
    nobody_comes: AtomicBool,
    /// As many threads as can run at once.
    processors: usize,
    last_shortage: Mutex<Option<MonotonicTime>>,
}

impl ClientThreads {
    /// Starts the threads in reserve. `most_threads` bounds the number of all threads for clients.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn new(shared: Arc<Shared>, most_threads: usize) -> io::Result<Arc<ClientThreads>> {
        let (commands, obeyed) = unbounded();
        let (reserve, reserved) = bounded(RESERVE_QUEUE);
        let logins = LOGINS.min(most_threads / 4);
        let limit = Arc::<Logins>::default();
        limit.limit(logins);
        let (encryption, console_verifiers) = (Encryption::default(), ConsoleVerifiers::default());
        let settings = shared.settings();
        encryption.apply(&settings);
        console_verifiers.prepare(&settings.general, &shared.mock);
        let file_verifiers = ConsoleVerifiers::default();
        file_verifiers.prepare_file(&settings.general, &shared.mock);
        let others = (2 * PARKED + RESERVED).min(most_threads / 4);
        // Sessions for which there is no thread of their own are in sets.
        let clients = most_threads.saturating_sub(logins + others);
        let client_threads = Arc::new(ClientThreads {
            shared,
            encryption,
            console_verifiers,
            file_verifiers,
            logins: limit,
            idle_threads: IdleThreads::default(),
            acceptor: (commands, Mutex::default()),
            commands: Mutex::new(Some(obeyed)),
            listeners: Mutex::default(),
            arriving: Arc::default(),
            held: AtomicUsize::new(0),
            rejections: Rejections::default(),
            threads: AtomicUsize::new(0),
            waiting: Mutex::default(),
            most_threads,
            most_sessions: clients,
            cancels: Arc::default(),
            reserve,
            nobody_comes: AtomicBool::new(false),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            last_shortage: Mutex::default(),
        });
        client_threads.start_reserve(reserved)?;
        let weak = Arc::downgrade(&client_threads);
        let give_thread = move |driven| match weak.upgrade() {
            Some(client_threads) => client_threads.give_thread(driven),
            None => Err(driven),
        };
        client_threads
            .shared
            .sets
            .open(&client_threads.shared, Box::new(give_thread))?;
        Ok(client_threads)
    }

    /// Puts other settings in force, for sessions that live as for those to come.
    pub fn change_settings(&self, settings: Settings) {
        self.encryption.apply(&settings);
        self.console_verifiers
            .prepare(&settings.general, &self.shared.mock);
        self.file_verifiers
            .prepare_file(&settings.general, &self.shared.mock);
        self.shared.change_settings(settings);
    }

    /// Starts the acceptor, if it is not there yet.
    fn start_acceptor(self: &Arc<ClientThreads>) -> io::Result<()> {
        let Some(commands) = self.commands.lock().take() else {
            return Ok(());
        };
        let mut acceptor = Acceptor::new(Arc::clone(self), commands)?;
        let (started, has_started) = bounded(1);
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                thread::name("acceptor");
                thread::restore_priority();
                let _ = started.send(thread::number());
                acceptor.work();
            })?;
        *self.acceptor.1.lock() = has_started.recv().ok();
        Ok(())
    }

    /// Sends the acceptor a command, if there is an acceptor.
    pub(super) fn tell_acceptor(&self, command: Command) {
        let thread = *self.acceptor.1.lock();
        if let Some(thread) = thread {
            let _ = self.acceptor.0.send(command);
            wait::wake(thread);
        }
    }

    /// Accepts from this listener, too, once [`ClientThreads::resume`] was called.
    ///
    /// # Errors
    /// If the thread cannot be started, or there is no descriptor left.
    pub fn open(self: &Arc<ClientThreads>, listener: Listener) -> io::Result<()> {
        self.start_acceptor()?;
        let listener = Arc::new(listener);
        let (answer, answered) = bounded(1);
        self.tell_acceptor(Command::Listen(Arc::clone(&listener), answer));
        answered.recv().map_err(io::Error::other)??;
        self.listeners.lock().push(listener);
        Ok(())
    }

    /// The listeners.
    pub fn listeners(&self) -> Vec<Arc<Listener>> {
        self.listeners.lock().clone()
    }

    /// Stops accepting. Nobody is refused: connections queue in the kernel until somebody accepts again,
    /// here or in the process that has been given the listeners. Those that were accepted before stay here,
    /// see [`ClientThreads::take_new_connections`].
    pub fn pause(&self) {
        self.accept(false);
    }

    /// Accepts again.
    pub fn resume(&self) {
        self.accept(true);
    }

    fn accept(&self, accepting: bool) {
        let (answer, answered) = bounded(1);
        self.tell_acceptor(Command::Accept(accepting, answer));
        // Without an acceptor nobody accepts.
        let _ = answered.recv();
    }

    /// Takes away the connections that no login has begun for: they have sent nothing yet, or not enough, or
    /// wait for a thread. Only the caller has them afterwards.
    pub fn take_new_connections(&self) -> Vec<NewConnection> {
        let (answer, answered) = bounded(1);
        self.tell_acceptor(Command::Take(answer));
        answered.recv().unwrap_or_default()
    }

    /// Keeps a connection that no login has begun for; it comes from another process, or could not go there.
    pub fn adopt_new_connection(&self, connection: NewConnection) {
        let (answer, answered) = bounded(1);
        self.tell_acceptor(Command::Adopt(Box::new(connection), answer));
        // From then on it is counted.
        let _ = answered.recv();
    }

    /// All clients are another process's: lets the threads end that still wait for them, a few at a time. At the
    /// end of the process they would all wake up at once, and other work on the machine would wait for
    /// thousands of them.
    pub fn end_idle_threads(&self) {
        self.nobody_comes.store(true, Ordering::Relaxed);
        for few in thread::others().chunks(EXIT_BATCH) {
            for &thread in few {
                wait::wake(thread);
            }
            std::thread::sleep(EXIT_BATCH_PAUSE);
        }
    }

    /// Whether there is a connection that no login has begun for, or a CancelRequest of another process is
    /// being dealt with. Once this is false while nothing is accepted, it stays false, unless
    /// [`ClientThreads::cancel`] or [`ClientThreads::adopt_new_connection`] is called.
    pub fn is_receiving(&self) -> bool {
        // In the order in which a connection goes from one to the next.
        self.held.load(Ordering::Acquire) > 0 || self.arriving.load(Ordering::Acquire) > 0
    }

    /// Serves clients that are logged in already: they come from another process, or could not go there. Sessions are
    /// in a set at first. Those of the console for whom there is no thread at the moment wait for one, see
    /// [`ClientThreads::start_runnable`].
    pub fn take_in(self: &Arc<ClientThreads>, clients: impl IntoIterator<Item = Client>) {
        for client in clients {
            if matches!(client.kind, ClientKind::Console(_)) {
                self.waiting.lock().push_back(client);
            } else if let Some(driven) = client.driven(&self.shared) {
                self.shared.sets.join(driven);
            }
        }
        self.start_runnable();
    }

    /// Gives those at the console a thread for whom there was none. False if some still wait: to be called again soon.
    pub fn start_runnable(self: &Arc<ClientThreads>) -> bool {
        while !self.waiting.lock().is_empty() {
            let ticket = match self.ticket() {
                Ok(ticket) => ticket,
                Err(error) => {
                    self.note_no_thread(&error);
                    return false;
                }
            };
            match self.waiting.lock().pop_front() {
                Some(client) => ticket.take_in(client),
                None => break,
            }
        }
        true
    }

    /// Gives a session a thread of its own.
    fn give_thread(self: &Arc<ClientThreads>, driven: Box<Driven>) -> Result<(), Box<Driven>> {
        if self.busy() >= self.most_sessions {
            return Err(driven);
        }
        match self.ticket() {
            Ok(ticket) => {
                ticket.take(Work::Session(driven));
                Ok(())
            }
            Err(error) => {
                self.note_no_thread(&error);
                Err(driven)
            }
        }
    }

    /// A thread for a client that is still to come: one without work, or a new one.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn ticket(self: &Arc<ClientThreads>) -> io::Result<ThreadTicket> {
        self.ticket_from(&[ThreadClass::Fresh])
    }

    fn ticket_from(self: &Arc<ClientThreads>, classes: &[ThreadClass]) -> io::Result<ThreadTicket> {
        let (ticket, mut work) = bounded(1);
        for &class in classes {
            match self.idle_threads.offer(class, work) {
                Ok(()) => return Ok(ThreadTicket(ticket)),
                Err(back) => work = back,
            }
        }
        let client_threads = Arc::clone(self);
        if self.threads.fetch_add(1, Ordering::Relaxed) >= self.most_threads {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return Err(io::Error::other(format!(
                "there are {} already, as many as the limits at start allow",
                self.most_threads
            )));
        }
        let started = thread::spawn(STACK, move || client_threads.work(work));
        match started {
            Ok(()) => Ok(ThreadTicket(ticket)),
            Err(error) => {
                self.threads.fetch_sub(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Gives a thread to a connection whose first packet is there.
    ///
    /// # Errors
    /// The connection, if there is no thread for it.
    pub(super) fn start_login(
        self: &Arc<ClientThreads>,
        connection: NewConnection,
        permit: LoginPermit,
        arriving: AcceptGuard,
        class: Class,
    ) -> Result<(), Box<NewConnection>> {
        let work = Work::Arrival(connection, permit, arriving);
        let error = match self.ticket_from(&[ThreadClass::Handshakes, ThreadClass::Fresh]) {
            Ok(ticket) => {
                ticket.take(work);
                return Ok(());
            }
            Err(error) => error,
        };
        self.note_no_thread(&error);
        let refused = match class {
            Class::Plain => work,
            // What it is can be seen only behind the handshake.
            Class::Console | Class::Tls => match self.reserve.try_send(work) {
                Ok(()) => return Ok(()),
                Err(refused) => refused.into_inner(),
            },
        };
        match refused {
            Work::Arrival(connection, ..) => Err(Box::new(connection)),
            Work::Client(_) | Work::Session(_) | Work::Cancel { .. } => Ok(()),
        }
    }

    /// A defect met by one client must not end the others' sessions; whether there was none.
    fn guarded(&self, work: impl FnOnce()) -> bool {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        if outcome.is_err() {
            log::error!("a client's thread panicked; its session has ended");
        }
        outcome.is_ok()
    }

    pub(super) fn note_no_thread(&self, error: &io::Error) {
        self.note_shortage(&format!(
            "could not start a thread for a client: {error}; raise the limit of threads (ulimit -u, TasksMax=)"
        ));
    }

    pub(super) fn note_shortage(&self, what: &str) {
        let mut last = self.last_shortage.lock();
        if last.is_none_or(|at| at.elapsed() >= SHORTAGE_LOG) {
            *last = Some(MonotonicTime::now());
            log::error!("{what}");
        }
    }

    /// Threads that have work.
    fn busy(&self) -> usize {
        let threads = self.threads.load(Ordering::Relaxed);
        threads.saturating_sub(self.idle_threads.len())
    }

    /// Serves a client whose login this thread has done, or gives it to a thread that has done no handshake, or to a
    /// set.
    fn serve_arrived(self: &Arc<ClientThreads>, client: Client, class: ThreadClass) {
        let shared = &self.shared;
        if matches!(client.kind, ClientKind::Console(_)) {
            return serve_at_console(shared, client);
        }
        let Some(mut driven) = client.driven(shared) else {
            return;
        };
        match shared.sets.own_thread() {
            Some(own_thread) if self.busy() <= self.most_sessions => {
                driven.gets_thread(own_thread);
            }
            _ => return shared.sets.join(driven),
        }
        if class == ThreadClass::Fresh {
            return serve_session(shared, driven);
        }
        if let Err(driven) = self.give_thread(driven) {
            shared.sets.join(driven);
        }
    }

    /// What a thread does: serve a client, wait for the next one, and end when none comes.
    fn work(self: Arc<ClientThreads>, first: Receiver<Work>) {
        thread::restore_priority();
        let (mut next, mut class) = (first, ThreadClass::Fresh);
        let mut preempts = None;
        loop {
            // The client that this thread was reserved for may not have come.
            if let Ok(now) = next.recv() {
                let shared = &self.shared;
                let few = self.busy() <= self.processors;
                if preempts.replace(few) != Some(few) {
                    thread::preempt_on_wake_up(few);
                }
                // Its own session ends with its thread.
                let sound = self.guarded(|| match now {
                    Work::Arrival(connection, permit, arriving) => {
                        if let Some(client) = log_in(&self, connection, permit, arriving, false) {
                            if client.handle().info.tls.is_some() {
                                class = ThreadClass::Handshakes;
                            }
                            self.serve_arrived(client, class);
                        }
                    }
                    Work::Client(client) => serve_at_console(shared, *client),
                    Work::Session(driven) => serve_session(shared, driven),
                    Work::Cancel { key, back, .. } => self.carry_out(key, back),
                });
                if !sound {
                    self.threads.fetch_sub(1, Ordering::Relaxed);
                    return;
                }
            }
            if self.nobody_comes.load(Ordering::Relaxed) {
                thread::end_with_process();
            }
            // While sessions move threads have other things to do than to end.
            match self
                .idle_threads
                .wait(class, self.shared.all_are_handed_over())
            {
                Some(work) => next = work,
                None => break,
            }
        }
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }
}
