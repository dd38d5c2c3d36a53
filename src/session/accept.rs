//! Accepting connections, and the threads that serve them.
//!
//! One thread for each listener hands each socket to a thread that is parked after its last client left,
//! or to a new one. Nothing a client does can keep a listener's thread from the next connection.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use nix::unistd::Pid;
use parking_lot::{Condvar, Mutex};
use socket2::Socket;

use super::cancel::{cancel, cancel_anywhere};
use super::guest::Guest;
use super::house::{House, Stage};
use super::parking::{Bay, Parking};
use super::registry::CancelKey;
use super::serve::{receive, serve_guest};
use crate::net::address::Address;
use crate::net::clock::Moment;
use crate::net::listener::Listener;
use crate::net::thread;
use crate::net::wait;

/// Bytes of stack of a client's thread. Only what is touched is resident.
pub(super) const STACK: usize = 256 * 1024;

/// Connections beyond `max_connections` that may be in login at the same time, to be told that there is
/// no place or to bring a CancelRequest.
const BEYOND: usize = 128;

/// How many threads end together when they are no longer needed, and how soon the next.
const LEAVING: usize = 16;
const LEAVING_PACE: Duration = Duration::from_millis(1);

/// How long to wait when the process is out of descriptors or threads.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(10);

/// How long a connection waits for a thread before it is closed.
const SHORTAGE_LIMIT: Duration = Duration::from_secs(5);

/// How often such a shortage is worth a line in the log.
const SHORTAGE_LOG: Duration = Duration::from_secs(5);

/// What waits for a thread.
enum Work {
    /// A connection that has just been accepted.
    Arrival(Socket, Address, Arriving),
    /// A client that is logged in already.
    Guest(Box<Guest>),
    /// A CancelRequest that another process has passed on. If the session is not here either it is passed
    /// `back`, or dropped.
    Cancel {
        key: CancelKey,
        back: bool,
        _arriving: Arriving,
    },
}

/// A thread that waits for its work. Dropping this sets it free.
#[derive(Debug)]
pub struct Seat(Sender<Work>);

impl Seat {
    /// Lets the thread serve this guest.
    pub fn take_in(self, guest: Guest) {
        self.take(Work::Guest(Box::new(guest)));
    }

    fn take(self, work: Work) {
        // There is room for one, and the thread ends only after it has looked.
        let _ = self.0.send(work);
    }
}

/// What a listener's thread may bring in: counted from before it accepts until its login has begun, so
/// that nobody is overlooked in between.
#[derive(Debug)]
pub(super) struct Arriving(Arc<AtomicUsize>);

impl Arriving {
    fn new(count: &Arc<AtomicUsize>) -> Arriving {
        count.fetch_add(1, Ordering::AcqRel);
        Arriving(Arc::clone(count))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether listeners accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// They do.
    Open,
    /// They wait. Connections queue in the kernel.
    Shut,
    /// They never will again.
    Gone,
}

/// Serves connections with threads.
#[derive(Debug)]
pub struct Reception {
    pub(super) house: Arc<House>,
    /// The threads that are parked. They are told where to find their work.
    parking: Parking<Receiver<Work>>,
    gate: Mutex<Gate>,
    gate_moves: Condvar,
    /// The listeners, each with its thread.
    doors: Mutex<Vec<(Arc<Listener>, Pid)>>,
    arriving: Arc<AtomicUsize>,
    threads: AtomicUsize,
    /// All clients are another process's.
    nobody_comes: AtomicBool,
    /// As many threads as can run at once.
    processors: usize,
    last_shortage: Mutex<Option<Moment>>,
}

impl Reception {
    /// A reception for the house's clients.
    pub fn new(house: Arc<House>) -> Arc<Reception> {
        Arc::new(Reception {
            house,
            parking: Parking::default(),
            gate: Mutex::new(Gate::Open),
            gate_moves: Condvar::new(),
            doors: Mutex::default(),
            arriving: Arc::default(),
            threads: AtomicUsize::new(0),
            nobody_comes: AtomicBool::new(false),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            last_shortage: Mutex::default(),
        })
    }

    /// Starts the thread of a listener.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn open(self: &Arc<Reception>, listener: Listener) -> io::Result<()> {
        let reception = Arc::clone(self);
        let listener = Arc::new(listener);
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                thread::name("acceptor");
                let door = (Arc::clone(&listener), thread::number());
                reception.doors.lock().push(door);
                reception.accept_from(&listener);
            })
            .map(drop)
    }

    /// The listeners.
    pub fn listeners(&self) -> Vec<Arc<Listener>> {
        let doors = self.doors.lock();
        doors
            .iter()
            .map(|(listener, _)| Arc::clone(listener))
            .collect()
    }

    /// Stops accepting. Nobody is refused: connections queue in the kernel until somebody accepts again,
    /// here or in the process that has been given the listeners.
    pub fn shut(&self) {
        self.move_gate(Gate::Shut);
    }

    /// Accepts again.
    pub fn reopen(&self) {
        self.move_gate(Gate::Open);
    }

    /// Never accepts again and closes its copies of the listening sockets.
    pub fn leave(&self) {
        self.move_gate(Gate::Gone);
    }

    /// All clients are another process's: lets the threads end that still wait for them, a few at a time. At the
    /// end of the process they would all wake up at once, and whoever has work to do on the machine would wait
    /// for thousands of them.
    pub fn see_off(&self) {
        self.nobody_comes.store(true, Ordering::Relaxed);
        for few in thread::others().chunks(LEAVING) {
            for &thread in few {
                wait::wake(thread);
            }
            std::thread::sleep(LEAVING_PACE);
        }
    }

    fn move_gate(&self, to: Gate) {
        *self.gate.lock() = to;
        self.gate_moves.notify_all();
        for (_, thread) in &*self.doors.lock() {
            wait::wake(*thread);
        }
    }

    /// Whether a connection may still come in that no login has begun for, or a CancelRequest of another
    /// process is being dealt with. Once this is false while the gate is shut, it stays false, unless
    /// [`Reception::cancel`] is called.
    pub fn is_receiving(&self) -> bool {
        self.arriving.load(Ordering::Acquire) > 0
    }

    /// Waits while the gate is shut; `None` if it never opens again.
    fn may_accept(&self) -> Option<Arriving> {
        let mut gate = self.gate.lock();
        while *gate == Gate::Shut {
            self.gate_moves.wait(&mut gate);
        }
        // Counted before the lock is let go: whoever shuts the gate sees those who are past it.
        (*gate == Gate::Open && self.house.stage() != Stage::Stopping)
            .then(|| Arriving::new(&self.arriving))
    }

    fn accept_from(self: &Arc<Reception>, listener: &Listener) {
        while let Some(arriving) = self.may_accept() {
            match listener.accept() {
                Ok((socket, address)) => {
                    self.house.arrivals.total.fetch_add(1, Ordering::Relaxed);
                    self.receive(socket, address, arriving);
                }
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

    /// Serves clients that are logged in already: they come from another process, or could not go there.
    /// Those for whom there is no thread at the moment wait for one, see [`Reception::seat_waiting`].
    pub fn take_in(self: &Arc<Reception>, guests: impl IntoIterator<Item = Guest>) {
        self.house.lobby.queue(guests);
        self.seat_waiting();
    }

    /// Goes on serving a client that has not moved after all: in the thread that waits for it, if it still
    /// does, else in another one.
    pub fn take_back(self: &Arc<Reception>, guest: Guest) {
        let bed = Arc::clone(guest.handle());
        if let Err(guest) = bed.bed.lay_back(guest) {
            self.take_in([*guest]);
        }
    }

    /// Gives those a thread for whom there was none. Threads that become free take them, too. False if
    /// some still wait: to be called again soon.
    pub fn seat_waiting(self: &Arc<Reception>) -> bool {
        self.seat_some(usize::MAX).1
    }

    /// The same for no more than so many of them: how many it were, and whether there were threads for them.
    pub(super) fn seat_some(self: &Arc<Reception>, most: usize) -> (usize, bool) {
        let mut seated = 0;
        while seated < most && self.house.lobby.is_crowded() {
            let seat = match self.seat() {
                Ok(seat) => seat,
                Err(error) => {
                    self.note_no_thread(&error);
                    return (seated, false);
                }
            };
            match self.house.lobby.next() {
                Some(guest) => seat.take_in(guest),
                None => break,
            }
            seated += 1;
        }
        (seated, true)
    }

    /// Cancels what the session with this key is doing, as another process asks for it; see
    /// [`Reception::is_receiving`]. If it is not here the request goes `back`, or is dropped.
    pub fn cancel(self: &Arc<Reception>, key: CancelKey, back: bool) {
        let _arriving = Arriving::new(&self.arriving);
        match self.seat() {
            Ok(seat) => seat.take(Work::Cancel {
                key,
                back,
                _arriving,
            }),
            Err(error) => self.note_no_thread(&error),
        }
    }

    /// A thread that is there to serve a guest who is still to come: one that is parked, or a new one.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn seat(self: &Arc<Reception>) -> io::Result<Seat> {
        self.seat_from(&[Bay::Fresh])
    }

    fn seat_from(self: &Arc<Reception>, bays: &[Bay]) -> io::Result<Seat> {
        let (seat, mut work) = bounded(1);
        for &bay in bays {
            match self.parking.offer(bay, work) {
                Ok(()) => return Ok(Seat(seat)),
                Err(back) => work = back,
            }
        }
        let reception = Arc::clone(self);
        self.threads.fetch_add(1, Ordering::Relaxed);
        let started = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || reception.work(work));
        match started {
            Ok(_) => Ok(Seat(seat)),
            Err(error) => {
                self.threads.fetch_sub(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn receive(self: &Arc<Reception>, socket: Socket, address: Address, arriving: Arriving) {
        let most = self.house.settings().general.max_connections + BEYOND;
        if self.busy() >= most {
            self.note_shortage(&format!(
                "{BEYOND} connections beyond max_connections are in login; another was closed"
            ));
            return;
        }
        // Those that come behind it wait in the kernel; for them there is no thread either.
        let deadline = Moment::now().after(SHORTAGE_LIMIT);
        loop {
            match self.seat_from(&[Bay::Handshakes, Bay::Fresh]) {
                Ok(seat) => return seat.take(Work::Arrival(socket, address, arriving)),
                Err(error) => self.note_no_thread(&error),
            }
            if deadline <= Moment::now() || self.house.stage() == Stage::Stopping {
                return;
            }
        }
    }

    pub(super) fn note_no_thread(&self, error: &io::Error) {
        self.note_shortage(&format!(
            "could not start a thread for a client: {error}; raise the limit of threads (ulimit -u, TasksMax=)"
        ));
    }

    pub(super) fn note_shortage(&self, what: &str) {
        let mut last = self.last_shortage.lock();
        if last.is_none_or(|at| at.elapsed() >= SHORTAGE_LOG) {
            *last = Some(Moment::now());
            log::error!("{what}");
        }
        drop(last);
        std::thread::sleep(SHORTAGE_PAUSE);
    }

    /// Threads that have work.
    fn busy(&self) -> usize {
        let threads = self.threads.load(Ordering::Relaxed);
        threads.saturating_sub(self.parking.len())
    }

    /// Serves a guest whose login this thread has done, or gives it to a thread that has done no handshake.
    fn serve_arrived(self: &Arc<Reception>, guest: Guest, bay: Bay) {
        if bay == Bay::Handshakes {
            if let Ok(seat) = self.seat() {
                return seat.take_in(guest);
            }
        }
        serve_guest(&self.house, guest, None);
    }

    /// The life of a thread: serve a client, wait for the next one, and end when none comes.
    fn work(self: Arc<Reception>, first: Receiver<Work>) {
        thread::hurry_no_more();
        let (mut next, mut bay) = (first, Bay::Fresh);
        let mut preempts = None;
        loop {
            // Whoever kept this thread for a guest may have no guest after all.
            let mut work = next.recv().ok();
            let mut spare = None;
            while let Some(now) = work {
                let house = &self.house;
                let few = self.busy() <= self.processors;
                if preempts.replace(few) != Some(few) {
                    thread::preempt_on_wake_up(few);
                }
                // A defect met by one client must not end the others' sessions; its own ends with its
                // thread.
                let outcome =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match now {
                        Work::Arrival(socket, address, arriving) => {
                            if let Some(guest) = receive(house, socket, address, arriving) {
                                if guest.handle().who.tls.is_some() {
                                    bay = Bay::Handshakes;
                                }
                                self.serve_arrived(guest, bay);
                            }
                        }
                        Work::Guest(guest) => spare = serve_guest(house, *guest, spare.take()),
                        Work::Cancel { key, back, .. } => {
                            if back {
                                cancel_anywhere(house, key);
                            } else {
                                cancel(house, &key);
                            }
                        }
                    }));
                if outcome.is_err() {
                    log::error!("a client's thread panicked; its session has ended");
                    self.threads.fetch_sub(1, Ordering::Relaxed);
                    return;
                }
                let waiting = self.house.lobby.next();
                work = waiting.map(|guest| Work::Guest(Box::new(guest)));
            }
            drop(spare);
            if self.nobody_comes.load(Ordering::Relaxed) {
                thread::end_with_process();
            }
            // While sessions move threads have other things to do than to end.
            match self.parking.wait(bay, self.house.all_move()) {
                Some(work) => next = work,
                None => break,
            }
        }
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }
}
