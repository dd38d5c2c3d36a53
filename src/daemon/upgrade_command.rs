//! `pg_doorman upgrade`: has a running instance upgraded and says how that went.
//!
//! The instance is signalled (SIGUSR2) and writes what becomes of it into its
//! [status file](crate::daemon::status_file), which was opened before. So the instance itself gives the outcome, also
//! if it has ended meanwhile.
//! Other ways were looked at: the log may go anywhere; a pid file is only a daemon's, and says nothing of
//! an upgrade that was abandoned; the console needs a password; a socket would be one more door to guard.
//!
//! Invariant: only a process that has a status file is signalled, and success is reported only if an upgrade
//! that began after this command has come to its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::arguments::UpgradeArguments;
use super::instances::{Instance, NotFound};
use super::status_file::{Status, UpgradeState};
use super::{binary_changed, pidfile};
use crate::config;
use crate::net::clock::MonotonicTime;
use crate::upgrade::outcome::Outcome;

/// How often it is looked what has become of the upgrade.
const LOOK: Duration = Duration::from_millis(10);

/// How long an instance may take to act on the signal.
const REACTION: Duration = Duration::from_secs(20);

/// How long it is awaited when all is done. It may have clients that are still logging in, for which nobody waits here.
const ENDING: Duration = Duration::from_secs(1);

/// Has the instance upgraded that the arguments mean; `config_file` if they name none. `None`: there was
/// nothing to do.
///
/// # Errors
/// Why it was not upgraded, in a sentence for the operator.
pub fn upgrade(
    arguments: &UpgradeArguments,
    config_file: &Path,
) -> Result<Option<Outcome>, String> {
    let mut instance = find(arguments, config_file)?;
    let mut entry = read(&instance)?;
    while match entry.upgrade_state {
        UpgradeState::Upgrading => arguments.wait,
        UpgradeState::TakingOver => true,
        // It is on its way out, and whoever was not asked for by its number has a successor to be found.
        UpgradeState::Replaced(_) => arguments.pid.is_none(),
        _ => false,
    } {
        // Asked first: what is read after the end is final.
        let has_ended = instance.ended(LOOK);
        entry = read(&instance)?;
        match entry.upgrade_state {
            // Somebody else's upgrade: whether there is anything left to do is for its successor to say.
            UpgradeState::Replaced(_) => {
                instance.ended(ENDING);
                instance = find(arguments, config_file)?;
                entry = read(&instance)?;
            }
            _ if has_ended => return Err(ended(instance.pid)),
            _ => {}
        }
    }
    if arguments.if_changed {
        let changed = binary_changed::replaced(instance.pid, &entry.program)
            .map_err(|error| format!("process {}: {error}", instance.pid))?;
        if changed.is_none() {
            return Ok(None);
        }
    }
    let pid = instance.pid;
    match &entry.upgrade_state {
        UpgradeState::Upgrading => {
            return Err(format!(
                "process {pid} is being upgraded already; with --wait this command waits for that and goes on"
            ));
        }
        UpgradeState::Stopping => return Err(stopping(pid)),
        UpgradeState::Replaced(_) => return Err(format!("process {pid} has just been replaced")),
        UpgradeState::TakingOver | UpgradeState::Serving | UpgradeState::Abandoned(_) => {}
    }
    match instance.signal(Signal::SIGUSR2) {
        // It has ended since it was looked at; its last word says whether that was an upgrade.
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
            return Err(format!("process {pid} could not be signalled: {error}"));
        }
        _ => {}
    }
    await_outcome(&instance, &entry).map(Some)
}

fn await_outcome(instance: &Instance, before: &Status) -> Result<Outcome, String> {
    let pid = instance.pid;
    let deadline = MonotonicTime::now().after(REACTION);
    loop {
        // Asked first: what is read after the end is final.
        let has_ended = instance.ended(LOOK);
        let now = read(instance)?;
        let has_begun = now.begun > before.begun;
        match now.upgrade_state {
            UpgradeState::Replaced(outcome) => {
                instance.ended(ENDING);
                return Ok(outcome);
            }
            UpgradeState::Abandoned(why) if has_begun => {
                return Err(format!(
                    "upgrade abandoned, process {pid} goes on serving: {why}"
                ));
            }
            UpgradeState::Stopping => return Err(stopping(pid)),
            _ if has_ended => return Err(ended(pid)),
            // It begins when its predecessor has ended.
            UpgradeState::TakingOver => {}
            _ if !has_begun && deadline <= MonotonicTime::now() => {
                return Err(format!(
                    "process {pid} has not acted on SIGUSR2 for {REACTION:?}; is it stopped, or under a debugger?"
                ));
            }
            _ => {}
        }
    }
}

fn stopping(pid: u32) -> String {
    format!("process {pid} is shutting down and was not upgraded")
}

fn ended(pid: u32) -> String {
    format!("process {pid} ended before its upgrade was over; its log may say why")
}

fn read(instance: &Instance) -> Result<Status, String> {
    instance.entry().map_err(|error| {
        let pid = instance.pid;
        format!("what process {pid} says of itself cannot be read ({error}); is it of another version? `kill -USR2 {pid}` works in any case")
    })
}

/// The instance that is meant.
fn find(arguments: &UpgradeArguments, config_file: &Path) -> Result<Instance, String> {
    let of = |pid| Instance::of(pid).map_err(|error| error.to_string());
    if let Some(pid) = arguments.pid {
        return of(pid);
    }
    if let Some(path) = &arguments.pid_file {
        return of(pid_in(path)?);
    }
    let config_file = arguments.config_file.as_deref().unwrap_or(config_file);
    let mut serving = Instance::serving(config_file);
    if serving.len() > 1 {
        let pids: Vec<String> = serving.iter().map(|one| one.pid.to_string()).collect();
        return Err(format!(
            "processes {} all serve {}; choose one with --pid",
            pids.join(", "),
            config_file.display()
        ));
    }
    if let Some(instance) = serving.pop() {
        return Ok(instance);
    }
    // It may be one that cannot be seen; then its pid file at least tells why.
    let hidden = config::load(config_file)
        .ok()
        .and_then(|settings| {
            settings
                .general
                .daemon_pid_file
                .or_else(pidfile::usual_path_that_is_there)
        })
        .and_then(|path| pidfile::read(&path).ok()?)
        .and_then(|pid| match Instance::of(pid) {
            Err(error @ (NotFound::NotAllowed(_) | NotFound::System(..))) => {
                Some(error.to_string())
            }
            _ => None,
        });
    Err(hidden.unwrap_or_else(|| {
        format!(
            "no pg_doorman that runs with {} can be seen by this user; name one with --pid or --pid-file",
            PathBuf::from(config_file).display()
        )
    }))
}

fn pid_in(path: &Path) -> Result<u32, String> {
    match pidfile::read(path) {
        Ok(Some(pid)) => Ok(pid),
        Ok(None) => Err(format!(
            "there is no pid file {}: is pg_doorman running, as a daemon?",
            path.display()
        )),
        Err(error) => Err(error.to_string()),
    }
}
