//! The old process's side: it hands everything to its successor, or, if that fails at any point, goes on as if
//! nothing had happened.

mod apart;
mod conduct;
mod found;
mod rollback;
mod send;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, unbounded};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;

use self::apart::Parcel;
use super::launch::{self, Origin};
use super::messages::{self, Message, VERSION};
use super::outcome::Outcome;
use crate::client::client_threads::ClientThreads;
use crate::client::new_connection::NewConnection;
use crate::net::clock::MonotonicTime;
use crate::net::fd_channel::FdChannel;
use crate::net::process::Process;
use crate::net::thread::{self, Haste};
use crate::net::wait::{Interest, Woken, wait, wake};
use crate::pool::pool;
use crate::pool::totals::Counters;
use crate::server::backend::Connection;
use crate::server::parameters::Parameters;
use crate::session::client::{Client, ClientKind};
use crate::session::orders::Errand;
use crate::session::registry::{CancelKey, Handle};
use crate::session::shared::Shared;

/// Sessions that are sent and not yet acknowledged, at most: it bounds the descriptors in flight, and what is sent
/// before a busy session.
const WINDOW: usize = 48;

/// Sessions that are signalled to move and have not been acknowledged, at most. The others are served here in the
/// meantime. A session that needs a server connection of a pool that is moving is handed in without a signal.
const WAVE: usize = 64;

/// As many more once only idle sessions are left to move: no client waits for them, and fewer waits for answers make
/// the whole shorter.
const IDLE_MORE: usize = 208;

/// How long a signalled session is awaited before others are signalled.
const COMING: Duration = Duration::from_millis(20);

/// Descriptors a successor needs beside those it is given.
const SPARE_DESCRIPTORS: u64 = 64;

/// The console session that has asked for the upgrade, if one has: it moves last, and gets the outcome.
pub type Requester = Mutex<Option<Client>>;

/// How an upgrade that is under way is given up.
#[derive(Debug, Default)]
pub struct Control {
    given_up: AtomicBool,
    /// The thread that hands over.
    thread: Mutex<Option<Pid>>,
}

impl Control {
    fn begin(&self) {
        *self.thread.lock() = Some(thread::number());
    }

    /// The process is to stop: the upgrade ends now, and with it the successor.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        if let Some(thread) = *self.thread.lock() {
            wake(thread);
        }
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }
}

/// See [`Ends`].
pub type OnReady<'a> = dyn Fn(u32, Option<PathBuf>) -> Result<(), String> + 'a;

/// What is called as the upgrade advances.
pub struct Ends<'a> {
    /// The successor is ready; its process id and its pid file. It can be turned down.
    pub on_ready: &'a OnReady<'a>,
    /// Everything is the successor's but what is still logging in here.
    pub on_complete: &'a dyn Fn(Outcome),
}

/// How long a successor may take to stop when this process has to stop.
const STOPPING: Duration = Duration::from_millis(1500);

/// How long a process that has closed its end may take to be dead.
const DYING: Duration = Duration::from_millis(500);

/// What has been sent and not acknowledged.
enum Pending {
    Session(Client, MonotonicTime),
    Idle(Arc<pool::Pool>, Connection),
}

struct HandOver<'a> {
    shared: &'a Arc<Shared>,
    client_threads: &'a Arc<ClientThreads>,
    requester: &'a Requester,
    channel: FdChannel,
    /// How long the successor may send nothing while it owes an answer.
    patience: Duration,
    last_heard: MonotonicTime,
    ready: bool,
    /// Settings that were sent in messages of their own.
    settings: Vec<Arc<Parameters>>,
    /// Numbers of the prepared statements that were sent.
    given: HashSet<u64>,
    /// Whether the successor has made ready for the sessions.
    seated: bool,
    finished: bool,
    /// Descriptors have run out, and the log says so.
    is_short: bool,
    log_filter: String,
    control: &'a Control,
    ends: &'a Ends<'a>,
    /// The process that was started.
    started: u32,
    /// The successor, if it is not the process that was started but a child of that one.
    grandchild: Option<Process>,
    /// Sessions that could not be taken at the moment, and since when they are back.
    again: VecDeque<(u64, MonotonicTime)>,
    /// The counters of the pools when they were sent last.
    sent_work: Vec<(Arc<pool::Pool>, Counters)>,
    /// The pools whose state was given, by their addresses, and whether with what a client has proved to have.
    given_pools: HashMap<usize, bool>,
    /// CancelRequests for sessions that are not here, or on their way, and orders.
    errands: Receiver<Errand>,
    /// Those among them whose session has not been sent.
    early_cancels: Vec<CancelKey>,
    /// Sessions that are to be signalled to move, and those that have been signalled and are not handed in yet.
    to_signal: VecDeque<Arc<Handle>>,
    coming: Vec<(u64, MonotonicTime)>,
    parked: Receiver<Client>,
    backlog: VecDeque<(Client, MonotonicTime)>,
    /// Connections that no login has begun for, those of them that are on their way, by number, and the next number.
    new: VecDeque<NewConnection>,
    new_sent: HashMap<u64, NewConnection>,
    next_new: u64,
    haste: Haste,
    /// Sessions that have something large to go before them.
    parcels: VecDeque<Parcel>,
    /// Sessions that do not move, and when they are cut.
    kept: VecDeque<(u64, MonotonicTime)>,
    /// By number; server connections and sessions are counted apart.
    sessions: HashMap<u64, Pending>,
    idle: HashMap<u64, Pending>,
    outcome: Outcome,
}

/// Hands everything over. When this returns, nothing is left here but to exit. [`Ends::on_complete`] is called before,
/// when only logins under way are left.
///
/// # Errors
/// Why it was abandoned. Everything that the dead successor had not accepted goes on here, and the session that asked
/// for the upgrade is in `requester`.
pub fn hand_over(
    shared: &Arc<Shared>,
    client_threads: &Arc<ClientThreads>,
    origin: &Origin,
    log_filter: String,
    requester: &Requester,
    control: &Control,
    ends: &Ends<'_>,
) -> Result<(), String> {
    let settings = shared.settings();
    let limits = &settings.upgrade;
    thread::raise_priority();
    control.begin();
    origin.test(limits.validate_timeout, &|| control.is_given_up())?;
    let (channel, theirs) =
        FdChannel::pair().map_err(|error| format!("no socket pair: {error}"))?;
    let (sender, parked) = unbounded();
    let (passes_on, errands) = unbounded();
    // Orders from now on have to be passed on to the successor.
    shared.begin_passing_on(passes_on);
    let mut child = match origin.start(&theirs) {
        Ok(child) => child,
        Err(why) => {
            shared.end_passing_on();
            return Err(why);
        }
    };
    drop(theirs);
    let mut hand_over = HandOver {
        shared,
        client_threads,
        requester,
        channel,
        patience: limits.timeout,
        last_heard: MonotonicTime::now(),
        ready: false,
        settings: Vec::new(),
        given: HashSet::new(),
        seated: false,
        finished: false,
        is_short: false,
        log_filter,
        control,
        ends,
        started: child.id(),
        grandchild: None,
        again: VecDeque::new(),
        given_pools: HashMap::new(),
        sent_work: Vec::new(),
        errands,
        early_cancels: Vec::new(),
        to_signal: VecDeque::new(),
        coming: Vec::new(),
        parked,
        backlog: VecDeque::new(),
        new: VecDeque::new(),
        new_sent: HashMap::new(),
        next_new: 0,
        haste: Haste::hurrying(),
        parcels: VecDeque::new(),
        kept: VecDeque::new(),
        sessions: HashMap::new(),
        idle: HashMap::new(),
        outcome: Outcome::default(),
    };
    match hand_over.conduct(sender) {
        Ok(()) => {
            (ends.on_complete)(hand_over.outcome);
            if let Err(error) = hand_over.give_stragglers() {
                log::warn!("the new process does not take those who were logging in: {error}");
            }
            Ok(())
        }
        Err(why) => {
            let mut why = describe(&mut child, &why);
            if control.is_given_up() {
                hand_over.let_successor_stop(&mut child);
            }
            launch::end(&mut child);
            if let Some(process) = &hand_over.grandchild {
                process.end();
            }
            hand_over.take_back();
            let lost = hand_over.outcome.moved;
            if lost > 0 {
                why = format!(
                    "{why}; {lost} sessions had moved to it and have ended with it, {} go on here",
                    shared.sessions.len()
                );
            }
            Err(why)
        }
    }
}

/// What went wrong, and what the successor's end has to do with it.
fn describe(child: &mut Child, why: &io::Error) -> String {
    let closed = [
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::BrokenPipe,
        io::ErrorKind::ConnectionReset,
    ];
    // A process that dies closes its end before its death can be seen.
    let patience = if closed.contains(&why.kind()) {
        DYING
    } else {
        Duration::ZERO
    };
    match launch::ended_within(child, patience) {
        Some(status) => format!("the new process ended with {status} ({why})"),
        None => why.to_string(),
    }
}

/// Whether the successor may open as many files as are open here: what it cannot take it must not be given.
fn check_descriptors(limit: Option<u64>) -> io::Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    let (own, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if limit >= own {
        return Ok(());
    }
    let open = std::fs::read_dir("/proc/self/fd")?.count() as u64;
    if limit < open + SPARE_DESCRIPTORS {
        return Err(io::Error::other(format!(
            "the new process may open {limit} files, but {open} are open here; raise its limit (ulimit -n, LimitNOFILE=)"
        )));
    }
    Ok(())
}

fn silent(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("the new process {what} within upgrade.timeout"),
    )
}

impl HandOver<'_> {
    /// Waits once and deals with what has happened. With `owed` the successor has to send something before its time is
    /// up; the text says what it has failed to do if it does not.
    fn step(&mut self, owed: Option<&str>) -> io::Result<()> {
        if self.control.is_given_up() {
            return Err(io::Error::new(
                io::ErrorKind::Interrupted,
                "this process was told to stop",
            ));
        }
        let before = self.channel.owed();
        self.channel.flush()?;
        if self.channel.owed() < before {
            // It reads. What is awaited may have been no more than that.
            self.last_heard = MonotonicTime::now();
            if !self.channel.owes() {
                return Ok(());
            }
        }
        let congested = self.channel.is_congested();
        let interest = Interest {
            read: true,
            write: self.channel.owes() && !congested,
            ..Interest::default()
        };
        let soon = MonotonicTime::now().after(Duration::from_millis(20));
        let (deadline, owed) = match owed {
            Some(what) => {
                let end = self.last_heard.after(self.patience);
                if congested && soon < end {
                    (soon, None)
                } else {
                    (end, Some(what))
                }
            }
            None => (soon, None),
        };
        match wait(Some((self.channel.fd(), interest)), None, Some(deadline))? {
            Woken::Interrupted => return Ok(()),
            Woken::Deadline => {
                return match owed {
                    Some(what) => Err(silent(what)),
                    None => {
                        if !congested {
                            self.last_heard = MonotonicTime::now();
                        }
                        Ok(())
                    }
                };
            }
            Woken::Ready { .. } => {}
        }
        self.hear()?;
        Ok(())
    }

    /// Acts on the messages of the successor.
    fn hear(&mut self) -> io::Result<()> {
        self.hear_last_words()?;
        if self.channel.has_ended() && !self.finished {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed the hand-over",
            ));
        }
        Ok(())
    }

    fn hear_last_words(&mut self) -> io::Result<()> {
        self.channel.fill()?;
        while let Some((message, _)) = messages::take(&mut self.channel)? {
            self.last_heard = MonotonicTime::now();
            match message {
                Message::Ready(ready) => {
                    log::info!(
                        "the new process is ready: version {}, hand-over {}",
                        ready.program,
                        ready.version
                    );
                    if ready.version != VERSION {
                        return Err(io::Error::other(format!(
                            "its hand-over has version {}, this one's is {VERSION}; start it anew",
                            ready.version
                        )));
                    }
                    check_descriptors(ready.descriptors)?;
                    self.get_hold_of_successor(ready.pid_file)?;
                    self.ready = true;
                }
                Message::Accepted(id) => self.accepted(id),
                Message::AcceptedNew(number) => drop(self.new_sent.remove(&number)),
                Message::Refused(refused) => self.refused(&refused),
                Message::AcceptedIdle(number) => {
                    if let Some(Pending::Idle(pool, connection)) = self.idle.remove(&number) {
                        drop(connection);
                        pool.moved_away();
                    }
                }
                Message::Cancel(key) => self.client_threads.cancel(key, true),
                Message::Order(order) => {
                    if let Some(console) = self.shared.console.get() {
                        console.obey(order);
                    }
                }
                Message::Seated => {
                    log::debug!("the new process has made ready for the sessions");
                    self.seated = true;
                }
                Message::Finished => self.finished = true,
                // A newer successor may send messages that this version does not know.
                _ => {}
            }
        }
        Ok(())
    }

    fn accepted(&mut self, id: u64) {
        let Some(Pending::Session(client, since)) = self.sessions.remove(&id) else {
            return;
        };
        self.outcome.moved += 1;
        self.outcome.longest = self.outcome.longest.max(since.elapsed());
        match &client.kind {
            ClientKind::Pool(detached) if detached.server.is_some() => detached.pool.moved_away(),
            _ => {}
        }
    }

    /// Lets the successor end the sessions that have moved, with the error of a shutdown.
    fn let_successor_stop(&self, child: &mut Child) {
        if self.outcome.moved == 0 && self.sessions.is_empty() {
            return;
        }
        let number = self.channel.writer().or(i32::try_from(child.id()).ok());
        if let Some(number) = number {
            let _ = kill(Pid::from_raw(number), Signal::SIGTERM);
        }
        match &self.grandchild {
            Some(process) => drop(process.ends_within(STOPPING)),
            None => drop(launch::ended_within(child, STOPPING)),
        }
    }

    /// The process at the other end may be a child of the one that was started, if that is a script. The process at the
    /// other end has to be dead before anything is taken back.
    fn get_hold_of_successor(&mut self, pid_file: Option<PathBuf>) -> io::Result<()> {
        let mut successor = self.started;
        if let Some(number) = self.channel.writer() {
            let writer = u32::try_from(number).map_err(io::Error::other)?;
            if writer != self.started {
                self.grandchild = Some(Process::open(writer)?);
                successor = writer;
            }
        }
        (self.ends.on_ready)(successor, pid_file).map_err(io::Error::other)
    }
}
