//! The main loop's part of an upgrade: it begins, fails, is given up, or ends with another process in this one's
//! place.
//!
//! The hand-over itself is in [`upgrade`](crate::upgrade). Invariant: every command and signal during an upgrade is
//! carried out by the process that serves afterwards.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::main_loop::{Event, LOOK, MainLoop, Upgrade};
use super::notify::Notice;
use super::pidfile::{self, PidFile};
use super::status_file::UpgradeState;
use crate::log::logging;
use crate::net::clock::MonotonicTime;
use crate::net::thread;
use crate::session::orders::Order;
use crate::session::shared::Stage;
use crate::upgrade::outcome::{self, Outcome};
use crate::upgrade::predecessor::{self, Ends};

/// How long an upgrade may take to end when the process is to stop.
const GIVING_UP: Duration = Duration::from_millis(1900);

/// How long logins under way may take after an upgrade.
const LAST_LOGINS: Duration = Duration::from_secs(4);

impl MainLoop {
    /// The process stops, and nobody waits for the upgrade: the other process stops as well, and tells those who are
    /// its own.
    pub(super) fn give_upgrade_up(&mut self) {
        self.shared.enter(Stage::Stopping);
        if self.upgrade == Upgrade::TakingOver {
            self.shared.pass_order_on(Order::Stop);
            return;
        }
        self.control.give_up();
        let deadline = MonotonicTime::now().after(GIVING_UP);
        loop {
            match self.events.recv_timeout(deadline.remaining()) {
                Ok(Event::Upgraded(outcome)) => {
                    match outcome {
                        Ok(_) => self.signal_successor(Signal::SIGTERM),
                        Err(why) => {
                            log::info!("the upgrade was given up: {why}");
                            self.answer_asker(why);
                        }
                    }
                    return;
                }
                Ok(_) => {}
                Err(_) => {
                    return log::warn!("the upgrade did not end in time; stopping without it");
                }
            }
        }
    }

    fn signal_successor(&self, signal: Signal) {
        if let Ok(successor) = i32::try_from(self.successor.load(Ordering::Acquire)) {
            if successor > 0 {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(successor), signal);
            }
        }
    }

    /// Whether an upgrade can begin now. The log says what was asked, and why it cannot.
    pub(super) fn may_upgrade(&self, by: &str) -> Result<(), &'static str> {
        let refused = if self.upgrade != Upgrade::Idle {
            "an upgrade is under way already"
        } else if self.shared.stage() != Stage::Open {
            "the pooler is shutting down"
        } else {
            log::info!("Got {by}: upgrading to {}", self.origin.program().display());
            return Ok(());
        };
        log::warn!("Got {by}, but {refused}");
        Err(refused)
    }

    /// An upgrade has failed: logs it and informs the service manager, the status file and the console.
    pub(super) fn upgrade_failed(&mut self, why: String) {
        self.upgrade = Upgrade::Idle;
        log::error!(
            "UPGRADE ABANDONED, this process goes on serving: {why}. Fix it and send SIGUSR2 again"
        );
        self.notify(&[Notice::Ready]);
        self.status_file.note(UpgradeState::Abandoned(why.clone()));
        self.answer_asker(why);
    }

    /// Sends the failure to the console session that has asked for the upgrade.
    fn answer_asker(&self, why: String) {
        if let Some(mut requester) = self.requester.lock().take() {
            requester.answer(outcome::reply(&Err(why)));
            self.client_threads.take_in([requester]);
        }
    }

    /// Starts an upgrade in a thread of its own; its end is an event.
    pub(super) fn start_upgrade(&mut self) {
        self.status_file.note(UpgradeState::Upgrading);
        self.notify(&[Notice::Reloading]);
        let (shared, client_threads) = (Arc::clone(&self.shared), Arc::clone(&self.client_threads));
        let (origin, sender) = (self.origin.clone(), self.sender.clone());
        let (requester, successor) = (Arc::clone(&self.requester), Arc::clone(&self.successor));
        let own_pid_file = self.pid_file.as_ref().map(|file| file.path().to_owned());
        let pid_file = Arc::clone(&self.successors_pid_file);
        self.control = Arc::default();
        let control = Arc::clone(&self.control);
        let started = std::thread::Builder::new()
            .stack_size(512 * 1024)
            .spawn(move || {
                thread::name("upgrade");
                let filter = logging::filter();
                let tell = |event| drop(sender.send(event));
                let ends = Ends {
                    on_ready: &|pid, file| {
                        successor.store(pid, Ordering::Release);
                        // If it cannot be written, readers would find the number of a process that is gone.
                        let path = file.as_ref().or(own_pid_file.as_ref());
                        path.map_or(Ok(()), |path| pidfile::check_writable(path))
                            .map_err(|error| error.to_string())?;
                        *pid_file.lock() = file;
                        Ok(())
                    },
                    on_complete: &|outcome| tell(Event::Upgraded(Ok(outcome))),
                };
                let outcome = predecessor::hand_over(
                    &shared,
                    &client_threads,
                    &origin,
                    filter,
                    &requester,
                    &control,
                    &ends,
                );
                match outcome {
                    Ok(()) => return tell(Event::Empty),
                    Err(why) => tell(Event::Upgraded(Err(why))),
                }
                while !client_threads.start_runnable() && shared.stage() != Stage::Stopping {
                    std::thread::sleep(LOOK);
                }
            });
        match started {
            Ok(_) => self.upgrade = Upgrade::Running,
            Err(error) => self.upgrade_failed(format!("no thread for it: {error}")),
        }
    }

    /// The predecessor has died: this process sends the notices that the predecessor would have sent last.
    pub(super) fn become_main(&mut self) {
        let pid = std::process::id();
        if let Some(file) = &mut self.pid_file {
            if let Err(error) = file.rewrite(pid) {
                log::warn!("{error}");
            }
        }
        self.notify(&[Notice::MainPid(pid), Notice::Ready]);
    }

    /// Everything belongs to the successor: leave without touching any of it.
    pub(super) fn exit_after_upgrade(mut self, outcome: Outcome) {
        let successor = self.successor.load(Ordering::Acquire);
        if let Some(file) = self.socket_file.take() {
            file.leave();
        }
        if let Some(file) = self.pid_file.take() {
            self.leave_pid_file(file, successor);
        }
        self.notify(&[Notice::MainPid(successor), Notice::Ready]);
        self.status_file.note(UpgradeState::Replaced(outcome));
        self.see_last_off();
        self.client_threads.end_idle_threads();
        // A signal of a moment ago was meant for the process that serves.
        while let Ok(event) = self.events.recv_timeout(LOOK) {
            if let Event::Signal(signal) = event {
                self.signal_successor(signal);
            }
        }
    }

    /// Puts the successor's process id where that will look for it. A file of another name is not left behind.
    fn leave_pid_file(&self, mut file: PidFile, successor: u32) {
        let own = self.successors_pid_file.lock().take();
        let written = match own.filter(|path| path != file.path()) {
            Some(path) => {
                PidFile::write(&path, successor).and_then(|_| file.remove_if_mine().map(drop))
            }
            None => file.rewrite(successor),
        };
        if let Err(error) = written {
            log::error!("{error}");
            let _ = file.remove_if_mine();
        }
    }

    /// Waits for logins under way, and passes on what is asked of this process meanwhile.
    fn see_last_off(&self) {
        let end = MonotonicTime::now().after(LAST_LOGINS);
        while let Ok(event) = self.events.recv_timeout(end.remaining()) {
            match event {
                Event::Empty => return,
                Event::Signal(Signal::SIGTERM) => {
                    self.control.give_up();
                    return self.signal_successor(Signal::SIGTERM);
                }
                Event::Signal(Signal::SIGINT) if self.at_terminal => {
                    self.shared.pass_order_on(Order::ShutDown);
                }
                Event::Signal(signal) => self.signal_successor(signal),
                Event::ShutDown => self.shared.pass_order_on(Order::ShutDown),
                Event::Reload(answer) => {
                    self.shared.pass_order_on(Order::Reload);
                    let _ = answer.send(Ok(()));
                }
                _ => {}
            }
        }
    }
}
