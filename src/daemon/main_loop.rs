//! The main loop of the process: signals, commands, reload, upgrade and shutdown.
//!
//! Signals are taken by one thread with `sigwait` and everything that concerns the process as a whole is
//! an event in one queue. The main loop handles them one at a time. What follows SIGUSR2 is in `succession`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use nix::sys::signal::Signal;
use parking_lot::Mutex;

use super::daemonise::Ready;
use super::notify::{Notice, Notify};
use super::pidfile::PidFile;
use super::start::{Start, StartError, start_process};
use super::status_file::{StatusFile, UpgradeState};
use crate::admin::console::Process;
use crate::client::client_threads::ClientThreads;
use crate::config;
use crate::log::logging;
use crate::net::clock::MonotonicTime;
use crate::net::unix_listener::SocketFile;
use crate::pool::janitor::Janitor;
use crate::session::client::Client;
use crate::session::orders::Order;
use crate::session::registry::signals;
use crate::session::shared::{Shared, Stage};
use crate::upgrade::launch::Origin;
use crate::upgrade::outcome::{self, Outcome};
use crate::upgrade::predecessor::{Control, Requester};

/// How long sessions have to send their last messages after they were signalled to end.
const LEAVING: Duration = Duration::from_secs(2);

/// How often it is looked whether the last session has gone.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// Events of the process.
pub(super) enum Event {
    Signal(Signal),
    ShutDown,
    /// UPGRADE on the console, by this session.
    Upgrade(Box<Client>),
    Reload(Sender<Result<(), String>>),
    /// An order that was given to the other process of a hand-over.
    Ordered(Order),
    /// An upgrade has come to its end.
    Upgraded(Result<Outcome, String>),
    /// After that: no session is left here.
    Empty,
    /// Nothing more comes from the predecessor; whether it lives.
    TookOver(bool),
}

/// The process as the console sees it.
pub(super) struct ProcessControl {
    pub(super) events: Sender<Event>,
}

impl Process for ProcessControl {
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

    fn obey(&self, order: Order) {
        let _ = self.events.send(Event::Ordered(order));
    }

    fn upgrade(&self, requester: Client) {
        // If nobody takes it any more its connection is closed, as all are then.
        let _ = self.events.send(Event::Upgrade(Box::new(requester)));
    }

    fn log_filter(&self) -> String {
        logging::filter()
    }

    fn set_log_filter(&self, filter: &str) -> Result<(), String> {
        logging::set_filter(filter).map_err(|error| error.to_string())
    }
}

/// A process that serves.
pub(super) struct MainLoop {
    pub(super) shared: Arc<Shared>,
    pub(super) config_file: PathBuf,
    pub(super) events: Receiver<Event>,
    pub(super) sender: Sender<Event>,
    pub(super) client_threads: Arc<ClientThreads>,
    pub(super) origin: Origin,
    /// Whether SIGINT comes from a keyboard.
    pub(super) at_terminal: bool,
    pub(super) upgrade: Upgrade,
    /// The console session that has asked for the upgrade under way.
    pub(super) requester: Arc<Requester>,
    /// Ends the upgrade under way.
    pub(super) control: Arc<Control>,
    /// SHUTDOWN was asked for during an upgrade.
    pub(super) shutdown_wanted: bool,
    /// SIGUSR2 came before the predecessor had ended.
    pub(super) upgrade_wanted: bool,
    /// The successor's process id.
    pub(super) successor: Arc<AtomicU32>,
    /// Its pid file.
    pub(super) successors_pid_file: Arc<Mutex<Option<PathBuf>>>,
    pub(super) notify: Notify,
    pub(super) status_file: StatusFile,
    pub(super) pid_file: Option<PidFile>,
    pub(super) socket_file: Option<SocketFile>,
    pub(super) _janitor: Janitor,
}

/// Whether an upgrade is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upgrade {
    /// None is.
    Idle,
    /// A thread is at it; its end is an event.
    Running,
    /// This process is the new one, and its predecessor still has something to give.
    TakingOver,
}

/// Serves until the process has to end. In a daemon, `ready` is called when clients are accepted.
///
/// # Errors
/// [`StartError`]; `ready` has then got it.
pub fn serve(start: Start, ready: Option<Ready>) -> Result<(), StartError> {
    let is_heir = start.hand_over.is_some();
    match start_process(start) {
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

impl MainLoop {
    pub(super) fn notify(&self, notices: &[Notice<'_>]) {
        if let Err(error) = self.notify.say(notices) {
            log::warn!("could not tell the service manager: {error}");
        }
    }

    /// Works off events until one of them means the end.
    fn work(mut self) {
        while let Ok(event) = self.events.recv() {
            let upgrading = self.upgrade != Upgrade::Idle;
            match event {
                Event::Signal(Signal::SIGTERM) | Event::Ordered(Order::Stop) => {
                    log::info!("Got SIGTERM, stopping now");
                    if upgrading {
                        self.give_upgrade_up();
                    }
                    break;
                }
                event @ (Event::ShutDown
                | Event::Signal(Signal::SIGINT)
                | Event::Ordered(Order::ShutDown))
                    if self.means_shutdown(&event) =>
                {
                    log::info!("Got SIGINT or SHUTDOWN, shutting down: transactions finish first");
                    if !upgrading {
                        self.drain();
                        break;
                    }
                    log::info!("shutting down as soon as the upgrade is over");
                    self.shutdown_wanted = true;
                    if !matches!(event, Event::Ordered(_)) {
                        self.shared.pass_order_on(Order::ShutDown);
                    }
                }
                Event::Upgraded(Ok(outcome)) => {
                    log::info!("upgrade complete: {outcome}");
                    return self.exit_after_upgrade(outcome);
                }
                Event::Upgraded(Err(why)) => {
                    self.upgrade_failed(why);
                    if self.shutdown_wanted {
                        self.drain();
                        break;
                    }
                }
                Event::TookOver(predecessor_lives) => {
                    self.upgrade = Upgrade::Idle;
                    self.status_file.took_over();
                    if !predecessor_lives {
                        self.become_main();
                    }
                    if self.shutdown_wanted {
                        self.drain();
                        break;
                    }
                    if std::mem::take(&mut self.upgrade_wanted)
                        && self.may_upgrade("SIGUSR2 before").is_ok()
                    {
                        self.start_upgrade();
                    }
                }
                other => self.handle_signal(other),
            }
        }
        self.stop();
    }

    /// Whether this is to let transactions finish and then to end. SIGINT is that only from a keyboard.
    fn means_shutdown(&self, event: &Event) -> bool {
        !matches!(event, Event::Signal(_)) || self.at_terminal
    }

    /// What does not end the process.
    fn handle_signal(&mut self, event: Event) {
        match event {
            Event::Signal(Signal::SIGHUP) => {
                self.shared.pass_order_on(Order::Reload);
                // The outcome is in the log.
                let _ = self.reload();
            }
            Event::Reload(answer) => {
                self.shared.pass_order_on(Order::Reload);
                let _ = answer.send(self.reload());
            }
            Event::Ordered(Order::Reload) => {
                let _ = self.reload();
            }
            // Old init scripts and containers send SIGINT where SIGUSR2 is meant.
            Event::Signal(signal @ (Signal::SIGUSR2 | Signal::SIGINT))
                if self.upgrade == Upgrade::TakingOver =>
            {
                log::info!("Got {signal}: upgrading as soon as the predecessor has ended");
                self.upgrade_wanted = true;
            }
            Event::Signal(signal @ (Signal::SIGUSR2 | Signal::SIGINT)) => {
                if self.may_upgrade(signal.as_str()).is_ok() {
                    self.start_upgrade();
                }
            }
            Event::Upgrade(mut requester) => {
                if let Err(why) = self.may_upgrade("UPGRADE on the console") {
                    requester.answer(outcome::refusal(why));
                    self.client_threads.take_in([*requester]);
                    return;
                }
                *self.requester.lock() = Some(*requester);
                self.start_upgrade();
            }
            Event::Signal(signal) => log::warn!("Got {signal}, which means nothing here"),
            Event::ShutDown
            | Event::Ordered(_)
            | Event::Upgraded(_)
            | Event::TookOver(_)
            | Event::Empty => {}
        }
    }

    fn reload(&self) -> Result<(), String> {
        logging::reopen();
        log::info!("Reloading config");
        self.notify(&[Notice::Reloading]);
        let outcome = match config::load(&self.config_file) {
            Ok(settings) => {
                for warning in &settings.warnings {
                    log::warn!("{warning}");
                }
                if settings == *self.shared.settings() {
                    log::info!("Config unchanged");
                } else {
                    self.client_threads.change_settings(settings);
                    // Who reads this finds the new settings in force.
                    log::info!("Config changed, reloading");
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
        self.status_file.note(UpgradeState::Stopping);
        let timeout = self.shared.settings().general.shutdown_timeout;
        let deadline = MonotonicTime::now().after(timeout);
        self.shared.enter(Stage::Draining);
        let mut last_round = MonotonicTime::from_micros(0);
        while self.clients() > 0 {
            if deadline <= MonotonicTime::now() {
                log::warn!(
                    "shutdown_timeout has passed; {} clients in transactions are cut",
                    self.clients()
                );
                self.shared.signal_all(signals::FORCE_CLOSE);
                self.await_leaving();
                return;
            }
            if last_round.elapsed() >= Duration::from_secs(1) {
                last_round = MonotonicTime::now();
                log::info!("waiting for {} clients to finish", self.clients());
                for pool in self.shared.pools.all() {
                    pool.drain();
                }
            }
            match self.events.recv_timeout(LOOK.min(deadline.remaining())) {
                Ok(Event::Signal(Signal::SIGTERM) | Event::Ordered(Order::Stop)) => {
                    log::info!("Got SIGTERM, stopping now");
                    return;
                }
                Ok(
                    Event::Signal(Signal::SIGINT)
                    | Event::ShutDown
                    | Event::Ordered(Order::ShutDown),
                ) => {
                    log::info!("shutting down already; SIGTERM stops at once");
                }
                Ok(other) => self.handle_signal(other),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        log::info!("All clients disconnected, shutting down");
    }

    /// Sessions that are not the console's.
    fn clients(&self) -> usize {
        let sessions = self.shared.sessions.all();
        sessions
            .iter()
            .filter(|handle| !handle.info.console)
            .count()
    }

    fn await_leaving(&self) {
        let deadline = MonotonicTime::now().after(LEAVING);
        while !self.shared.sessions.is_empty()
            && self.clients() > 0
            && deadline > MonotonicTime::now()
        {
            if let Ok(Event::Signal(Signal::SIGTERM)) = self.events.recv_timeout(LOOK) {
                return log::info!("Got SIGTERM, stopping now");
            }
        }
    }

    /// Signals all sessions to end, closes what is open, and ends the process.
    fn stop(mut self) {
        self.notify(&[Notice::Stopping]);
        self.status_file.note(UpgradeState::Stopping);
        self.shared.enter(Stage::Stopping);
        let deadline = MonotonicTime::now().after(LEAVING);
        while self.shared.sessions.len() + self.shared.logins() > 0
            && deadline > MonotonicTime::now()
        {
            // Nothing more is carried out, but a console session must not wait for its reply for ever.
            if let Ok(Event::Upgrade(mut requester)) = self.events.recv_timeout(LOOK) {
                requester.answer(outcome::refusal("the pooler is shutting down"));
                self.client_threads.take_in([*requester]);
            }
        }
        let pools = self.shared.pools.all();
        for pool in pools.into_iter().chain(self.shared.pools.own()) {
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
