//! Accepting connections, and the threads that serve them.
//!
//! One thread for each listener hands each socket to a thread that is parked after its last client left,
//! or to a new one. Nothing a client does can keep a listener's thread from the next connection.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use socket2::Socket;

use super::console::{self, ConsoleEnd};
use super::driver::Driver;
use super::ending::Ending;
use super::house::{House, Stage};
use super::login::{self, LoggedIn, Refusal, What};
use crate::net::address::Address;
use crate::net::clock::Moment;
use crate::net::dialogue::{Broken, Dialogue};
use crate::net::listener::Listener;
use crate::net::stream::Stream;
use crate::net::thread;
use crate::pool::plans::socket_options;

/// Bytes of stack of a client's thread. Only what is touched is resident.
const STACK: usize = 256 * 1024;

/// Threads that wait for the next client, at most, and for how long.
const PARKED: usize = 32;
const PARKED_FOR: Duration = Duration::from_secs(30);

/// Connections beyond `max_connections` that may be in login at the same time, to be told that there is
/// no place or to bring a CancelRequest.
const BEYOND: usize = 128;

/// How long to wait when the process is out of descriptors or threads.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(10);

/// How often such a shortage is worth a line in the log.
const SHORTAGE_LOG: Duration = Duration::from_secs(5);

/// A connection that waits for a thread.
type Arrival = (Socket, Address);

/// Serves connections with threads.
#[derive(Debug)]
pub struct Reception {
    house: Arc<House>,
    hand_over: Sender<Arrival>,
    parking: Receiver<Arrival>,
    parked: AtomicUsize,
    threads: AtomicUsize,
    last_shortage: Mutex<Option<Moment>>,
}

impl Reception {
    /// A reception for the house's clients.
    pub fn new(house: Arc<House>) -> Arc<Reception> {
        // Without room of its own: a socket goes to a thread that is there to take it, or to none.
        let (hand_over, parking) = bounded(0);
        Arc::new(Reception {
            house,
            hand_over,
            parking,
            parked: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            last_shortage: Mutex::default(),
        })
    }

    /// Starts the thread of a listener.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn open(self: &Arc<Reception>, listener: Listener) -> io::Result<()> {
        let reception = Arc::clone(self);
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                thread::name("acceptor");
                reception.accept_from(&listener);
            })
            .map(drop)
    }

    fn accept_from(self: &Arc<Reception>, listener: &Listener) {
        while self.house.stage() != Stage::Stopping {
            match listener.accept() {
                Ok(arrival) => self.receive(arrival),
                Err(error) => {
                    let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
                    // Otherwise this thread was woken, or the client had gone before it was accepted.
                    if error
                        .raw_os_error()
                        .is_some_and(|code| short.contains(&code))
                    {
                        self.note_shortage(&format!("could not accept a connection: {error}"));
                    }
                }
            }
        }
    }

    fn receive(self: &Arc<Reception>, arrival: Arrival) {
        self.house.arrivals.total.fetch_add(1, Ordering::Relaxed);
        let arrival = match self.hand_over.try_send(arrival) {
            Ok(()) => return,
            Err(TrySendError::Full(arrival) | TrySendError::Disconnected(arrival)) => arrival,
        };
        let most = self.house.settings().general.max_connections + BEYOND;
        if self.threads.load(Ordering::Relaxed) >= most {
            self.note_shortage(&format!(
                "{} connections beyond max_connections are in login; another was closed",
                BEYOND
            ));
            return;
        }
        let reception = Arc::clone(self);
        self.threads.fetch_add(1, Ordering::Relaxed);
        let started = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || reception.work(arrival));
        if let Err(error) = started {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            self.note_shortage(&format!(
                "could not start a thread for a client: {error}; raise the limit of threads (ulimit -u, TasksMax=)"
            ));
        }
    }

    fn note_shortage(&self, what: &str) {
        let mut last = self.last_shortage.lock();
        if last.is_none_or(|at| at.elapsed() >= SHORTAGE_LOG) {
            *last = Some(Moment::now());
            log::error!("{what}");
        }
        drop(last);
        std::thread::sleep(SHORTAGE_PAUSE);
    }

    /// The life of a thread: serve a client, wait for the next one, and end when none comes.
    fn work(self: Arc<Reception>, first: Arrival) {
        thread::schedule_as_batch();
        let mut arrival = first;
        loop {
            let house = &self.house;
            // A defect met by one client must not end the others' sessions; its own ends with its thread.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                serve(house, arrival);
            }));
            if outcome.is_err() {
                log::error!("a client's thread panicked; its session has ended");
                break;
            }
            if self.parked.fetch_add(1, Ordering::Relaxed) >= PARKED {
                self.parked.fetch_sub(1, Ordering::Relaxed);
                break;
            }
            thread::name("parked");
            let next = self.parking.recv_timeout(PARKED_FOR);
            self.parked.fetch_sub(1, Ordering::Relaxed);
            match next {
                Ok(next) => arrival = next,
                Err(_) => break,
            }
        }
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection from its first byte to its last.
fn serve(house: &Arc<House>, (socket, address): Arrival) {
    let id = house.sessions.next_id();
    thread::name(&format!("c{id} login"));
    let settings = house.settings();
    let unix = matches!(address, Address::Unix(_));
    let stream = Stream::new(socket, unix, &socket_options(&settings.general));
    let kind = if unix { "unix" } else { "plain" };
    drop(settings);
    house.login_begins(id);
    let outcome = login::log_in(house, id, stream, &address);
    house.login_ends(id);
    match outcome {
        Ok((logged_in, stream, unread)) => serve_session(house, logged_in, stream, unread, kind),
        Err(Refusal::Done) => {}
        Err(Refusal::Silent(why)) => log::debug!("[#c{id}] client {address} left: {why}"),
        Err(Refusal::Words { code, log, .. }) => {
            log::warn!("[#c{id}] client {address} rejected: {log} ({code})");
        }
        Err(Refusal::Forwarded(fields)) => {
            log::info!("[#c{id}] client {address} rejected by PostgreSQL: {fields}");
        }
    }
}

fn serve_session(
    house: &Arc<House>,
    logged_in: LoggedIn,
    stream: Stream,
    unread: Vec<u8>,
    kind: &str,
) {
    let LoggedIn {
        handle,
        place,
        session,
    } = logged_in;
    let entry = Entry {
        house,
        id: handle.id,
    };
    let tag = format!("[{}@{} #c{}]", handle.user, handle.database, handle.id);
    thread::name(&format!(
        "c{} {}@{}",
        handle.id, handle.user, handle.database
    ));
    if house.settings().general.log_client_connections {
        log::info!("{tag} client connected from {} ({kind})", handle.address);
    }
    let (text, trouble) = match session {
        What::Pool(pool, mut session) => {
            session.client.unread = unread;
            let driver = Driver::new(
                Arc::clone(house),
                Arc::clone(&handle),
                pool,
                *session,
                stream,
            );
            let ending = driver.run();
            (ending.to_string(), ending.is_trouble())
        }
        What::Console => (serve_console(house, stream, unread), false),
    };
    let age = handle.connected_at.elapsed();
    let line = format!(
        "{tag} client disconnected from {}: {text}, session={age:?}",
        handle.address
    );
    if trouble {
        log::warn!("{line}");
    } else if house.settings().general.log_client_disconnections {
        log::info!("{line}");
    } else {
        log::debug!("{line}");
    }
    drop(entry);
    drop(place);
}

/// A session's entry in the registry, taken out however the session ends.
struct Entry<'a> {
    house: &'a Arc<House>,
    id: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.house.sessions.leave(self.id);
    }
}

fn serve_console(house: &Arc<House>, stream: Stream, unread: Vec<u8>) -> String {
    let told_to_stop = || house.stage() == Stage::Stopping;
    let mut dialogue = Dialogue {
        stream,
        inbox: unread,
        deadline: None,
        told_to_stop: &told_to_stop,
    };
    let Some(console) = house.console.get() else {
        return "there is no console".to_owned();
    };
    let (text, ending) = match console::serve(&mut dialogue, &**console) {
        ConsoleEnd::Left => ("it said good-bye".to_owned(), Ending::Left),
        ConsoleEnd::Broken(Broken::Told) => ("the pooler stops".to_owned(), Ending::Stopped),
        ConsoleEnd::Broken(broken) => (broken.to_string(), Ending::Left),
        ConsoleEnd::Violation(what) => (what, Ending::Left),
    };
    dialogue
        .stream
        .finish(&ending.message(), Duration::from_secs(2));
    text
}
