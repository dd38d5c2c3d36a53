//! The life of the process: it serves, heeds signals, and leaves in an orderly way.
//!
//! Signals are taken by one thread with `sigwait` and everything that happens to the process as a whole is
//! one queue of events, worked off here, one at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use nix::sys::signal::Signal;

use super::daemonise::Ready;
use super::ledger::{Ledger, Standing};
use super::logging;
use super::notify::{Notice, Notify};
use super::opening::{CannotStart, Start, open};
use super::pidfile::PidFile;
use crate::admin::desk::Process;
use crate::config;
use crate::net::clock::Moment;
use crate::net::thread;
use crate::net::unix_listener::SocketFile;
use crate::pool::janitor::Janitor;
use crate::session::accept::Reception;
use crate::session::guest::Guest;
use crate::session::house::{House, Stage};
use crate::session::registry::told;
use crate::upgrade::launch::Origin;
use crate::upgrade::outcome::{self, Outcome};
use crate::upgrade::predecessor::{self, Asker};

/// How long sessions have to say their last words after they were told to leave.
const LEAVING: Duration = Duration::from_secs(4);

/// How often it is looked whether the last session has gone.
const LOOK: Duration = Duration::from_millis(20);

/// What happens to the process.
pub(super) enum Event {
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
pub(super) struct Lever {
    pub(super) events: Sender<Event>,
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
pub(super) struct Life {
    pub(super) house: Arc<House>,
    pub(super) config_file: PathBuf,
    pub(super) events: Receiver<Event>,
    pub(super) sender: Sender<Event>,
    pub(super) reception: Arc<Reception>,
    pub(super) origin: Origin,
    /// Whether SIGINT comes from somebody's keyboard.
    pub(super) at_terminal: bool,
    pub(super) upgrade: Upgrade,
    /// The console session that has asked for the upgrade under way.
    pub(super) asker: Arc<Asker>,
    /// SIGTERM came during an upgrade.
    pub(super) stop_wanted: bool,
    /// The successor's process id.
    pub(super) successor: Arc<AtomicU32>,
    pub(super) notify: Notify,
    pub(super) ledger: Ledger,
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
        self.reception.see_off();
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
        sessions.iter().filter(|handle| !handle.who.console).count()
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
