//! Other processes of this program: found, held on to, signalled.
//!
//! A process is held by a pidfd, so that a signal never reaches another one that has got its number since.
//! It is known for one of this program by its [`status_file`], not by its name.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use thiserror::Error;

use super::status_file::{self, Reader, Status, UpgradeState};
use crate::net::clock::MonotonicTime;
use crate::net::process::Process;

/// How long an upgrade is awaited that seems to be at its end, and how often it is looked whether it is.
const SETTLING: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// A process of this program.
#[derive(Debug)]
pub struct Instance {
    /// Its number.
    pub pid: u32,
    held: Process,
    status_file: Reader,
}

/// Why there is no [`Instance`]. Fit to be printed.
#[derive(Debug, Error)]
pub enum NotFound {
    /// There is no such process.
    #[error("there is no process {0}")]
    Gone(u32),
    /// It is of another program, or of a version without a status file.
    #[error(
        "process {0} ({1}) is not a pg_doorman, or an older one that takes only `kill -USR2 {0}`; it was not signalled"
    )]
    Stranger(u32, String),
    /// It is another user's, or has more privileges.
    #[error(
        "process {0}{owner} may not be looked into and was not signalled; run this as its user or as root",
        owner = owner(*.0)
    )]
    NotAllowed(u32),
    /// The system refused something else.
    #[error("process {0}: {1}")]
    System(u32, io::Error),
}

fn owner(pid: u32) -> String {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(format!("/proc/{pid}"))
        .map(|meta| format!(" of user number {}", meta.uid()))
        .unwrap_or_default()
}

impl Instance {
    /// The process of this number, or, if that one is a [keeper](crate::daemon::pid_keeper), the one that serves.
    ///
    /// # Errors
    /// [`NotFound`].
    pub fn of(pid: u32) -> Result<Instance, NotFound> {
        match Instance::exactly(pid) {
            Err(NotFound::Stranger(..)) => {
                let behind = children(pid).find_map(|child| Instance::exactly(child).ok());
                behind.ok_or_else(|| NotFound::Stranger(pid, name(pid)))
            }
            found => found,
        }
    }

    fn exactly(pid: u32) -> Result<Instance, NotFound> {
        let refused = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => NotFound::Gone(pid),
            ErrorKind::PermissionDenied => NotFound::NotAllowed(pid),
            _ if error.raw_os_error() == Some(libc::ESRCH) => NotFound::Gone(pid),
            _ => NotFound::System(pid, error),
        };
        // Held first: what is found out below is then true of the process that is held, or it has ended.
        let held = Process::open(pid).map_err(refused)?;
        let status_file = Reader::of(pid);
        if held.ends_within(Duration::ZERO).unwrap_or(false) {
            return Err(NotFound::Gone(pid));
        }
        let status_file = status_file.map_err(refused)?;
        let status_file = status_file.ok_or_else(|| NotFound::Stranger(pid, name(pid)))?;
        Ok(Instance {
            pid,
            held,
            status_file,
        })
    }

    /// Those that serve this configuration file, among the processes that can be seen here. Of two that are
    /// in an upgrade it is the one that gives, as long as it is not done.
    pub fn serving(config_file: &Path) -> Vec<Instance> {
        let deadline = MonotonicTime::now().after(SETTLING);
        let is_leaving = |instance: &&Instance| {
            let upgrade_state = instance.entry().map(|entry| entry.upgrade_state);
            matches!(
                upgrade_state,
                Ok(UpgradeState::Upgrading | UpgradeState::Replaced(_))
            )
        };
        let mut passed = Vec::new();
        loop {
            let (found, missed) = Instance::seen_serving(config_file);
            // The successor of one that it has only now come too late for may be younger than this look.
            let is_outdated = missed.iter().any(|pid| !passed.contains(pid));
            passed = missed;
            let is_final = deadline <= MonotonicTime::now();
            // The one that has given everything says so last: until then its successor may serve beside it.
            match found.iter().find(is_leaving) {
                Some(leaving) if found.len() > 1 && !is_final => {
                    leaving.ended(LOOK);
                }
                _ if found.is_empty() && is_outdated && !is_final => {}
                _ => return found,
            }
        }
    }

    /// One look at the processes there are, and which of them had ended or been replaced when it came to them.
    fn seen_serving(config_file: &Path) -> (Vec<Instance>, Vec<u32>) {
        let wanted = status_file::named(config_file);
        let own = world("self");
        let (mut there, mut coming, mut missed) = (Vec::new(), Vec::new(), Vec::new());
        for pid in processes().filter(|pid| *pid != std::process::id()) {
            match Instance::exactly(pid) {
                Ok(one) if world(&pid.to_string()) == own && !one.is_copy() => match one.entry() {
                    Ok(entry) if entry.config_file == wanted => match entry.upgrade_state {
                        UpgradeState::Replaced(_) => missed.push(pid),
                        UpgradeState::TakingOver => coming.push(one),
                        _ => there.push(one),
                    },
                    _ => {}
                },
                // Of one that has ended meanwhile it cannot be seen where it lived.
                Ok(one) if one.ended(Duration::ZERO) => missed.push(pid),
                Err(NotFound::Gone(_)) => missed.push(pid),
                _ => {}
            }
        }
        let found = if there.is_empty() { coming } else { there };
        (found, missed)
    }

    /// Whether this is a child that an instance has just forked, before it becomes another program: it has
    /// its parent's descriptors until then.
    fn is_copy(&self) -> bool {
        parent(self.pid)
            .and_then(|parent| Reader::of(parent).ok()?)
            .is_some_and(|parents| parents.is_same(&self.status_file))
    }

    /// What it says of itself, also after its end.
    ///
    /// # Errors
    /// If that cannot be understood: another version wrote it.
    pub fn entry(&self) -> io::Result<Status> {
        self.status_file.read()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended, or is another user's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.held.signal(signal)
    }

    /// Whether it has ended; waits for that as long as `limit`.
    pub fn ended(&self, limit: Duration) -> bool {
        self.held.ends_within(limit).unwrap_or(false)
    }
}

/// All process numbers that can be seen.
pub fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The children of a process, those that are zombies included.
pub fn children(of: u32) -> impl Iterator<Item = u32> {
    processes().filter(move |pid| parent(*pid) == Some(of))
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything: state and parent.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// What the system calls a process.
pub fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

/// The PID namespace of a process: numbers and paths of another one mean nothing here.
fn world(process: &str) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/pid")).ok()
}
