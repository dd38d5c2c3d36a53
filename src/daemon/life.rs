//! The life of the process: it opens its doors, serves, heeds signals, and leaves in an orderly way.
//!
//! Signals are taken by one thread with `sigwait` and everything that happens to the process as a whole is
//! one queue of events, worked off here, one at a time.

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use nix::sys::signal::{SigSet, Signal};

use super::daemonise::Ready;
use super::ledger::{Ledger, Standing};
use super::logging;
use super::notify::{Notice, Notify};
use super::pidfile::PidFile;
use crate::admin::desk::{Desk, Process};
use crate::auth::MockSecret;
use crate::config::{self, General, Settings};
use crate::net::address::Address;
use crate::net::clock::Moment;
use crate::net::listener::Listener;
use crate::net::unix_listener::{SocketFile, bind_unix};
use crate::net::{thread, wait};
use crate::pool::janitor::Janitor;
use crate::session::accept::Reception;
use crate::session::guest::Guest;
use crate::session::house::{House, Stage};
use crate::session::registry::told;
use crate::upgrade::launch::Origin;
use crate::upgrade::outcome::{self, Outcome};
use crate::upgrade::predecessor::{self, Asker};
use crate::upgrade::successor::Heir;

/// How long sessions have to say their last words after they were told to leave.
const LEAVING: Duration = Duration::from_secs(4);

/// How often it is looked whether the last session has gone.
const LOOK: Duration = Duration::from_millis(20);

/// Descriptors the process needs beside those of its clients and servers.
const SPARE_DESCRIPTORS: u64 = 64;

/// The variable that makes SIGINT a shutdown although nobody sits at a terminal.
const SHUTDOWN_ONLY: &str = "PG_DOORMAN_CI_SHUTDOWN_ONLY";

/// Why the process could not begin to serve, with its exit code (`sysexits.h`).
#[derive(Debug)]
pub struct CannotStart {
    /// The exit code.
    pub code: u8,
    /// Why, in a sentence for the operator.
    pub why: String,
}

impl CannotStart {
    /// EX_OSERR: the operating system refuses something.
    pub const OS: u8 = 71;
    /// EX_CONFIG: the configuration asks for what cannot be had.
    pub const CONFIG: u8 = 78;
}

impl fmt::Display for CannotStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

fn cannot(code: u8) -> impl FnOnce(io::Error) -> CannotStart {
    move |error| CannotStart {
        code,
        why: error.to_string(),
    }
}

fn no_thread(error: io::Error) -> CannotStart {
    CannotStart {
        code: CannotStart::OS,
        why: format!("no thread can be started: {error}; raise the limit (ulimit -u, TasksMax=)"),
    }
}

/// What happens to the process.
enum Event {
    Signal(Signal),
    ShutDown,
    /// UPGRADE on the console, by this session.
    Upgrade(Box<Guest>),
    Reload(Sender<Result<(), String>>),
    /// An upgrade has come to its end.
    Upgraded(Result<Outcome, String>),
    /// Nothing more comes from the predecessor; whether it lives.
    TookOver(bool),
}

/// The process as the console sees it.
struct Lever {
    events: Sender<Event>,
}

impl Process for Lever {
    fn reload(&self) -> Result<(), String> {
        let (answer, answered) = unbounded();
        let gone = || "the pooler is leaving".to_owned();
        self.events
            .send(Event::Reload(answer))
            .map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }

    fn shut_down(&self) {
        let _ = self.events.send(Event::ShutDown);
    }

    fn upgrade(&self, asker: Guest) {
        // If nobody takes it any more its connection is closed, as all are then.
        let _ = self.events.send(Event::Upgrade(Box::new(asker)));
    }

    fn log_filter(&self) -> String {
        logging::filter()
    }

    fn set_log_filter(&self, filter: &str) -> Result<(), String> {
        logging::set_filter(filter).map_err(|error| error.to_string())
    }
}

/// A process that serves.
struct Life {
    house: Arc<House>,
    config_file: PathBuf,
    events: Receiver<Event>,
    sender: Sender<Event>,
    reception: Arc<Reception>,
    origin: Origin,
    /// Whether SIGINT comes from somebody's keyboard.
    at_terminal: bool,
    upgrade: Upgrade,
    /// The console session that has asked for the upgrade under way.
    asker: Arc<Asker>,
    /// SIGTERM came during an upgrade.
    stop_wanted: bool,
    /// The successor's process id.
    successor: Arc<AtomicU32>,
    notify: Notify,
    ledger: Ledger,
    pid_file: Option<PidFile>,
    socket_file: Option<SocketFile>,
    _janitor: Janitor,
}

/// Whether an upgrade is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    /// None is.
    Idle,
    /// A thread is at it; its end is an event.
    Running,
    /// This process is the new one, and its predecessor still has something to give.
    TakingOver,
}

/// What a process starts from.
pub struct Start {
    /// The settings.
    pub settings: Settings,
    /// How the process was started.
    pub origin: Origin,
    /// A listening socket to use instead of `host` and `port`.
    pub listener: Option<OwnedFd>,
    /// The hand-over, if there is a predecessor.
    pub hand_over: Option<OwnedFd>,
    /// Whether this is a daemon.
    pub daemon: bool,
}

/// Serves until told to leave. `ready` is whom to tell, in a daemon, that the doors are open.
///
/// # Errors
/// [`CannotStart`]; `ready` has then been told.
pub fn serve(start: Start, ready: Option<Ready>) -> Result<(), CannotStart> {
    let is_heir = start.hand_over.is_some();
    match open(start) {
        Ok(life) => {
            if let Some(Err(error)) = ready.map(Ready::tell) {
                log::warn!("could not tell the parent process that all is well: {error}");
            }
            // A successor is not the service's main process yet: its predecessor speaks until it is.
            if !is_heir {
                life.notify(&[Notice::Ready]);
            }
            life.work();
            Ok(())
        }
        Err(error) => {
            if let Some(ready) = ready {
                ready.fail(error.code, &error.why);
            }
            Err(error)
        }
    }
}

fn taken_signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        set.add(signal);
    }
    set
}

fn open(start: Start) -> Result<Life, CannotStart> {
    let Start {
        settings,
        origin,
        listener,
        hand_over,
        daemon,
    } = start;
    let signals = taken_signals();
    wait::prepare_process(&signals).map_err(cannot(CannotStart::OS))?;
    log::info!(
        "Welcome to PgDoorman! (Version {})",
        env!("CARGO_PKG_VERSION")
    );
    for warning in &settings.warnings {
        log::warn!("{warning}");
    }
    check_descriptors(&settings);
    let general = settings.general.clone();
    let config_file = settings.path.clone();
    let standing = match hand_over {
        Some(_) => Standing::TakingOver,
        None => Standing::Serving,
    };
    let ledger =
        Ledger::open(origin.program(), &config_file, standing).map_err(cannot(CannotStart::OS))?;
    let notify = Notify::from_environment().map_err(cannot(CannotStart::OS))?;
    let mut heir = match hand_over.map(Heir::announce) {
        // Who gave us up goes on serving; there is nothing for us to do.
        Some(Err(error)) => {
            return Err(CannotStart {
                code: 1,
                why: format!("the hand-over was broken off: {error}"),
            });
        }
        Some(Ok(heir)) => Some(heir),
        None => None,
    };
    let (house, listeners, socket_file) = match &mut heir {
        Some(heir) => {
            if let Some(Err(error)) = heir.log_filter().map(logging::set_filter) {
                log::warn!("the predecessor's log level is not understood here: {error}");
            }
            let listeners = std::mem::take(&mut heir.listeners);
            let file = listeners
                .iter()
                .find_map(|listener| match listener.address() {
                    Address::Unix(path) => SocketFile::adopt(path).ok(),
                    Address::Tcp(_) => None,
                });
            (heir.house(settings), listeners, file)
        }
        None => {
            let (listeners, file) = bind(&general, listener)?;
            let mock = MockSecret::random().map_err(|error| CannotStart {
                code: 1,
                why: format!("no randomness: {error}"),
            })?;
            (House::new(settings, mock), listeners, file)
        }
    };
    let (sender, events) = unbounded();
    start_signal_thread(signals, sender.clone()).map_err(no_thread)?;
    let lever = Lever {
        events: sender.clone(),
    };
    let desk = Desk::new(Arc::clone(&house), Box::new(lever));
    let _ = house.console.set(Arc::new(desk));
    let janitor = start_janitor(&house).map_err(no_thread)?;
    let reception = Reception::new(Arc::clone(&house));
    // Whoever is let in, or comes from the predecessor, is let down by nothing that fails after this.
    reception.shut();
    // The last thing before the doors open: they must not, beside another instance.
    let pid = std::process::id();
    let pid_file = match (daemon, heir.is_some()) {
        (false, _) => None,
        (true, true) => Some(PidFile::adopt(&general.daemon_pid_file, pid)),
        (true, false) => {
            let file = PidFile::write(&general.daemon_pid_file, pid);
            Some(file.map_err(|error| CannotStart {
                code: CannotStart::OS,
                why: error.to_string(),
            })?)
        }
    };
    let opened = listeners.into_iter().try_for_each(|listener| {
        log::info!("Running on {}", listener.address());
        reception.open(listener)
    });
    if let Err(error) = opened {
        // What could not be removed is found to be stale by the next one who starts.
        let _ = pid_file.as_ref().map(PidFile::remove_if_mine);
        return Err(no_thread(error));
    }
    let upgrade = match heir {
        Some(heir) => {
            let tell = sender.clone();
            let on_end = move |lives| drop(tell.send(Event::TookOver(lives)));
            heir.receive(Arc::clone(&house), Arc::clone(&reception), on_end)
                .map_err(no_thread)?;
            Upgrade::TakingOver
        }
        None => Upgrade::Idle,
    };
    reception.reopen();
    log::info!("Accepting connections");
    let shutdown_only = std::env::var_os(SHUTDOWN_ONLY).is_some_and(|value| value == "1");
    Ok(Life {
        house,
        config_file,
        events,
        sender,
        reception,
        origin,
        at_terminal: shutdown_only || !daemon && io::stdin().is_terminal(),
        upgrade,
        asker: Arc::default(),
        stop_wanted: false,
        successor: Arc::default(),
        notify,
        ledger,
        pid_file,
        socket_file,
        _janitor: janitor,
    })
}

fn start_janitor(house: &Arc<House>) -> io::Result<Janitor> {
    let pools = Arc::clone(&house.pools);
    let house = Arc::clone(house);
    Janitor::start(
        pools,
        Box::new(move || {
            let general = &house.settings().general;
            (
                general.retain_connections_time,
                general.retain_connections_max,
            )
        }),
    )
}

/// Binds what the configuration says, or takes the listening socket that was passed.
fn bind(
    general: &General,
    inherited: Option<OwnedFd>,
) -> Result<(Vec<Listener>, Option<SocketFile>), CannotStart> {
    let backlog = general
        .backlog
        .map_or(general.max_connections, |n| n as usize);
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    let mut listeners = match inherited {
        Some(fd) => vec![Listener::inherit(fd).map_err(cannot(CannotStart::CONFIG))?],
        None => Listener::bind_tcp(&general.host, general.port, backlog)
            .map_err(cannot(CannotStart::CONFIG))?,
    };
    let mut socket_file = None;
    if let Some(directory) = &general.unix_socket_dir {
        let mode = general.unix_socket_mode;
        let (listener, file) =
            bind_unix(directory, general.port, mode, backlog).map_err(cannot(CannotStart::OS))?;
        listeners.push(listener);
        socket_file = Some(file);
    }
    Ok((listeners, socket_file))
}

fn check_descriptors(settings: &Settings) {
    let servers: usize = settings
        .pools
        .values()
        .flat_map(|pool| &pool.users)
        .map(|user| user.pool_size)
        .sum();
    let wanted = (settings.general.max_connections + servers) as u64 + SPARE_DESCRIPTORS;
    match super::descriptors::raise_limit() {
        Ok((_, limit)) if limit < wanted => log::warn!(
            "the limit of open files is {limit}; max_connections and all pool sizes together need {wanted}. \
             Raise it (ulimit -n, LimitNOFILE=) or lower max_connections"
        ),
        Ok(_) => {}
        Err(error) => log::warn!("could not raise the limit of open files: {error}"),
    }
}

fn start_signal_thread(signals: SigSet, events: Sender<Event>) -> io::Result<()> {
    std::thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(move || {
            thread::name("signals");
            while let Ok(signal) = signals.wait() {
                if events.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        })
        .map(drop)
}

impl Life {
    fn notify(&self, notices: &[Notice<'_>]) {
        if let Err(error) = self.notify.say(notices) {
            log::warn!("could not tell the service manager: {error}");
        }
    }

    /// Works off events until one of them means the end.
    fn work(mut self) {
        while let Ok(event) = self.events.recv() {
            let upgrading = self.upgrade != Upgrade::Idle;
            match event {
                Event::Signal(Signal::SIGTERM) if upgrading => {
                    log::info!("Got SIGTERM during an upgrade, stopping as soon as it is over");
                    self.stop_wanted = true;
                }
                Event::Signal(Signal::SIGTERM) => {
                    log::info!("Got SIGTERM, stopping now");
                    break;
                }
                Event::Signal(Signal::SIGINT) if self.at_terminal && !upgrading => {
                    log::info!("Got SIGINT, shutting down: transactions finish first");
                    self.drain();
                    break;
                }
                Event::ShutDown if !upgrading => {
                    log::info!("SHUTDOWN on the console: transactions finish first");
                    self.drain();
                    break;
                }
                Event::Upgraded(Ok(outcome)) => {
                    log::info!("upgrade complete: {outcome}");
                    return self.make_way(outcome);
                }
                Event::Upgraded(Err(why)) => {
                    self.abandon(why);
                    if self.stop_wanted {
                        break;
                    }
                }
                Event::TookOver(predecessor_lives) => {
                    self.upgrade = Upgrade::Idle;
                    self.ledger.took_over();
                    if !predecessor_lives {
                        self.come_forward();
                    }
                    if self.stop_wanted {
                        break;
                    }
                }
                other => self.heed(other),
            }
        }
        self.stop();
    }

    /// What does not end the process.
    fn heed(&mut self, event: Event) {
        match event {
            Event::Signal(Signal::SIGHUP) => {
                // The outcome is in the log.
                let _ = self.reload();
            }
            Event::Reload(answer) => {
                let _ = answer.send(self.reload());
            }
            // Old init scripts and containers send SIGINT where SIGUSR2 is meant.
            Event::Signal(signal @ (Signal::SIGUSR2 | Signal::SIGINT)) => {
                if self.may_upgrade(signal.as_str()).is_ok() {
                    self.start_upgrade();
                }
            }
            Event::Upgrade(mut asker) => {
                if let Err(why) = self.may_upgrade("UPGRADE on the console") {
                    asker.answer(outcome::refusal(why));
                    self.reception.take_in([*asker]);
                    return;
                }
                *self.asker.lock() = Some(*asker);
                self.start_upgrade();
            }
            Event::Signal(signal) => log::warn!("Got {signal}, which means nothing here"),
            Event::ShutDown => log::warn!("an upgrade is under way; SHUTDOWN is not heeded"),
            Event::Upgraded(_) | Event::TookOver(_) => {}
        }
    }

    /// Whether an upgrade can begin now. The log says what was asked, and why it cannot.
    fn may_upgrade(&self, by: &str) -> Result<(), &'static str> {
        let refused = if self.upgrade != Upgrade::Idle {
            "an upgrade is under way already"
        } else if self.house.stage() != Stage::Open {
            "the pooler is shutting down"
        } else {
            log::info!("Got {by}: upgrading to {}", self.origin.program().display());
            return Ok(());
        };
        log::warn!("Got {by}, but {refused}");
        Err(refused)
    }

    /// An upgrade has failed: tells everybody whom it concerns.
    fn abandon(&mut self, why: String) {
        self.upgrade = Upgrade::Idle;
        log::error!(
            "UPGRADE ABANDONED, this process goes on serving: {why}. Mend that and send SIGUSR2 again"
        );
        self.notify(&[Notice::Ready]);
        self.ledger.note(Standing::Abandoned(why.clone()));
        if let Some(mut asker) = self.asker.lock().take() {
            asker.answer(outcome::reply(&Err(why)));
            self.reception.take_in([asker]);
        }
    }

    /// Starts an upgrade in a thread of its own; its end is an event.
    fn start_upgrade(&mut self) {
        self.ledger.note(Standing::Upgrading);
        self.notify(&[Notice::Reloading]);
        let (house, reception) = (Arc::clone(&self.house), Arc::clone(&self.reception));
        let (origin, sender) = (self.origin.clone(), self.sender.clone());
        let (asker, successor) = (Arc::clone(&self.asker), Arc::clone(&self.successor));
        let started = std::thread::Builder::new()
            .stack_size(512 * 1024)
            .spawn(move || {
                thread::name("upgrade");
                let filter = logging::filter();
                let note = |pid| successor.store(pid, Ordering::Release);
                let outcome =
                    predecessor::hand_over(&house, &reception, &origin, filter, &asker, &note);
                let _ = sender.send(Event::Upgraded(outcome));
                while !reception.seat_waiting() && house.stage() != Stage::Stopping {
                    std::thread::sleep(LOOK);
                }
            });
        match started {
            Ok(_) => self.upgrade = Upgrade::Running,
            Err(error) => self.abandon(format!("no thread for it: {error}")),
        }
    }

    /// The predecessor has died: what it would have said last is said by this process.
    fn come_forward(&mut self) {
        let pid = std::process::id();
        if let Some(file) = &mut self.pid_file {
            if let Err(error) = file.rewrite(pid) {
                log::warn!("{error}");
            }
        }
        self.notify(&[Notice::MainPid(pid), Notice::Ready]);
    }

    /// Everything belongs to the successor: leave without touching any of it.
    fn make_way(mut self, outcome: Outcome) {
        let successor = self.successor.load(Ordering::Acquire);
        if let Some(file) = self.socket_file.take() {
            file.leave();
        }
        if let Some(mut file) = self.pid_file.take() {
            if let Err(error) = file.rewrite(successor) {
                log::warn!("{error}");
            }
        }
        self.notify(&[Notice::MainPid(successor), Notice::Ready]);
        self.ledger.note(Standing::Replaced(outcome));
        let Ok(successor) = i32::try_from(successor) else {
            return;
        };
        let pass_on = |signal| {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(successor), signal);
        };
        if self.stop_wanted {
            pass_on(Signal::SIGTERM);
        }
        // Whoever has sent a signal a moment ago did not know that this is no longer the process to send it
        // to.
        while let Ok(event) = self.events.recv_timeout(LOOK) {
            if let Event::Signal(signal) = event {
                pass_on(signal);
            }
        }
    }

    fn reload(&self) -> Result<(), String> {
        log::info!("Reloading config");
        self.notify(&[Notice::Reloading]);
        let outcome = match config::load(&self.config_file) {
            Ok(settings) => {
                for warning in &settings.warnings {
                    log::warn!("{warning}");
                }
                if settings == *self.house.settings() {
                    log::info!("Config unchanged");
                } else {
                    log::info!("Config changed, reloading");
                    self.house.change_settings(settings);
                }
                Ok(())
            }
            Err(error) => {
                let why = format!("Config reload rejected, the old one stays in force: {error}");
                log::error!("{why}");
                Err(why)
            }
        };
        self.notify(&[Notice::Ready]);
        outcome
    }

    /// Lets transactions finish, up to `shutdown_timeout`.
    fn drain(&mut self) {
        self.notify(&[Notice::Stopping]);
        self.ledger.note(Standing::Stopping);
        let timeout = self.house.settings().general.shutdown_timeout;
        let deadline = Moment::now().after(timeout);
        self.house.enter(Stage::Draining);
        let mut last_round = Moment::from_micros(0);
        while self.clients() > 0 {
            if deadline <= Moment::now() {
                log::warn!(
                    "shutdown_timeout has passed; {} clients in transactions are cut",
                    self.clients()
                );
                self.house.tell_all(told::CUT);
                self.await_leaving();
                return;
            }
            if last_round.elapsed() >= Duration::from_secs(1) {
                last_round = Moment::now();
                log::info!("waiting for {} clients to finish", self.clients());
                for pool in self.house.pools.all() {
                    pool.drain();
                }
            }
            match self.events.recv_timeout(LOOK.min(deadline.remaining())) {
                Ok(Event::Signal(Signal::SIGTERM)) => {
                    log::info!("Got SIGTERM, stopping now");
                    return;
                }
                Ok(Event::Signal(Signal::SIGINT) | Event::ShutDown) => {
                    log::info!("shutting down already; SIGTERM stops at once");
                }
                Ok(other) => self.heed(other),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        log::info!("All clients disconnected, shutting down");
    }

    /// Sessions that are not the console's.
    fn clients(&self) -> usize {
        let sessions = self.house.sessions.all();
        sessions.iter().filter(|handle| !handle.console).count()
    }

    fn await_leaving(&self) {
        let deadline = Moment::now().after(LEAVING);
        while !self.house.sessions.is_empty() && self.clients() > 0 && deadline > Moment::now() {
            std::thread::sleep(LOOK);
        }
    }

    /// Tells everybody to leave, closes what is open, and is gone.
    fn stop(mut self) {
        self.notify(&[Notice::Stopping]);
        self.ledger.note(Standing::Stopping);
        self.house.enter(Stage::Stopping);
        let deadline = Moment::now().after(LEAVING);
        while self.house.sessions.len() + self.house.logins() > 0 && deadline > Moment::now() {
            // Nothing more is heeded, but who rests at the console must not do so for ever.
            if let Ok(Event::Upgrade(mut asker)) = self.events.recv_timeout(LOOK) {
                asker.answer(outcome::refusal("the pooler is shutting down"));
                self.reception.take_in([*asker]);
            }
        }
        for pool in self.house.pools.all() {
            pool.close();
        }
        if let Some(file) = &self.pid_file {
            if let Err(error) = file.remove_if_mine() {
                log::warn!("{error}");
            }
        }
        log::info!("Stopped");
    }
}
