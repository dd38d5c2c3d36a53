//! The life of the process: it opens its doors, serves, heeds signals, and leaves in an orderly way.
//!
//! Signals are taken by one thread with `sigwait` and everything that happens to the process as a whole is
//! one queue of events, worked off here, one at a time.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use nix::sys::signal::{SigSet, Signal};

use super::daemonise::Ready;
use super::logging;
use super::notify::{Notice, Notify};
use super::pidfile::PidFile;
use crate::admin::desk::{Desk, Process};
use crate::auth::MockSecret;
use crate::config::{self, Settings};
use crate::net::clock::Moment;
use crate::net::listener::Listener;
use crate::net::unix_listener::{SocketFile, bind_unix};
use crate::net::{thread, wait};
use crate::pool::janitor::Janitor;
use crate::session::accept::Reception;
use crate::session::house::{House, Stage};
use crate::session::registry::told;

/// How long sessions have to say their last words after they were told to leave.
const LEAVING: Duration = Duration::from_secs(4);

/// How often it is looked whether the last session has gone.
const LOOK: Duration = Duration::from_millis(20);

/// Descriptors the process needs beside those of its clients and servers.
const SPARE_DESCRIPTORS: u64 = 64;

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

/// What happens to the process.
enum Event {
    Signal(Signal),
    ShutDown,
    Reload(Sender<Result<(), String>>),
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
    notify: Notify,
    pid_file: Option<PidFile>,
    _socket_file: Option<SocketFile>,
    _janitor: Janitor,
}

/// Serves until told to leave. `inherited` is a listening socket to use instead of `host` and `port`;
/// `ready` is whom to tell, in a daemon, that the doors are open.
///
/// # Errors
/// [`CannotStart`]; `ready` has then been told.
pub fn serve(
    settings: Settings,
    inherited: Option<OwnedFd>,
    ready: Option<Ready>,
) -> Result<(), CannotStart> {
    match open(settings, inherited, ready.is_some()) {
        Ok(life) => {
            if let Some(ready) = ready
                && let Err(error) = ready.tell()
            {
                log::warn!("could not tell the parent process that all is well: {error}");
            }
            life.notify(&[Notice::Ready]);
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

fn open(settings: Settings, inherited: Option<OwnedFd>, daemon: bool) -> Result<Life, CannotStart> {
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
    let mock = MockSecret::random().map_err(|error| CannotStart {
        code: 1,
        why: format!("no randomness: {error}"),
    })?;
    let general = settings.general.clone();
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
    let notify = Notify::from_environment().map_err(cannot(CannotStart::OS))?;
    let pid_file = if daemon {
        let path = &general.daemon_pid_file;
        let file = PidFile::write(path, std::process::id()).map_err(|error| CannotStart {
            code: CannotStart::OS,
            why: error.to_string(),
        })?;
        Some(file)
    } else {
        None
    };
    let config_file = settings.path.clone();
    let house = House::new(settings, mock);
    let (sender, events) = unbounded();
    start_signal_thread(signals, sender.clone()).map_err(cannot(CannotStart::OS))?;
    let desk = Desk::new(Arc::clone(&house), Box::new(Lever { events: sender }));
    let _ = house.console.set(Arc::new(desk));
    let janitor = {
        let house = Arc::clone(&house);
        Janitor::start(
            Arc::clone(&house.pools),
            Box::new(move || {
                let general = &house.settings().general;
                (
                    general.retain_connections_time,
                    general.retain_connections_max,
                )
            }),
        )
        .map_err(cannot(CannotStart::OS))?
    };
    let reception = Reception::new(Arc::clone(&house));
    for listener in listeners {
        log::info!("Running on {}", listener.address());
        reception.open(listener).map_err(cannot(CannotStart::OS))?;
    }
    log::info!("Accepting connections");
    Ok(Life {
        house,
        config_file,
        events,
        notify,
        pid_file,
        _socket_file: socket_file,
        _janitor: janitor,
    })
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
            match event {
                Event::Signal(Signal::SIGTERM) => {
                    log::info!("Got SIGTERM, stopping now");
                    break;
                }
                Event::Signal(Signal::SIGINT) => {
                    log::info!("Got SIGINT, shutting down: transactions finish first");
                    self.drain();
                    break;
                }
                Event::ShutDown => {
                    log::info!("SHUTDOWN on the console: transactions finish first");
                    self.drain();
                    break;
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
            Event::Signal(signal) => {
                log::warn!("Got {signal}, which this version does nothing about");
            }
            Event::ShutDown => {}
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
    fn stop(self) {
        self.notify(&[Notice::Stopping]);
        self.house.enter(Stage::Stopping);
        let deadline = Moment::now().after(LEAVING);
        while self.house.sessions.len() + self.house.logins() > 0 && deadline > Moment::now() {
            std::thread::sleep(LOOK);
        }
        for pool in self.house.pools.all() {
            pool.close();
        }
        if let Some(file) = &self.pid_file
            && let Err(error) = file.remove_if_mine()
        {
            log::warn!("{error}");
        }
        log::info!("Stopped");
    }
}
