//! The keeper: a process that keeps its number through upgrades, for those who watch that number.
//!
//! A supervisor (runit, supervisord, s6) takes the end of the process it has started for the end of the
//! service, and a container ends with its process 1. So that process forks before it does anything else:
//! its child serves, and it passes signals on, reaps, and ends when nobody serves any more.
//!
//! ```text
//! keeper ── first ── second           first hands over to second, its child, and ends:
//! keeper ── second                    the orphan becomes the keeper's child, and is the next
//! ```
//!
//! It learns of a successor only from the kernel, which gives it the orphans of its descendants (as process
//! 1, or by `PR_SET_CHILD_SUBREAPER`). So there is nothing to agree upon between versions.
//!
//! Invariant: it ends when the process that serves has ended and has left no successor, with the first
//! status that was not 0.

use std::io;

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, getpid};

use super::daemonise::split;
use super::{descriptors, instances};

/// What is passed on. SIGKILL and SIGSTOP cannot be.
const PASSED_ON: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Whether this process needs a keeper although nobody has asked for one: it is the first of its container.
pub fn is_first_process() -> bool {
    getpid() == Pid::from_raw(1)
}

/// Forks. Returns in the child, which is to serve; the process that was started stays in here until it
/// ends. To be called before any thread exists and any descriptor is opened.
///
/// # Errors
/// The system refuses; there is one process still.
pub fn fork_keeper() -> io::Result<()> {
    let mut signals = SigSet::empty();
    for signal in PASSED_ON {
        signals.add(signal);
    }
    signals.add(Signal::SIGCHLD);
    if !is_first_process() {
        set_child_subreaper(true)?;
    }
    // Before the fork: one that comes at once is passed on, or ends the child.
    let before = signals.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
    match split()? {
        ForkResult::Child => Ok(before.thread_set_mask()?),
        ForkResult::Parent { child } => {
            // A socket that was passed to this process is for the child.
            let _ = descriptors::inherit(&[]);
            let status = PidKeeper {
                serving: child,
                worst: 0,
                stop_wanted: false,
            }
            .supervise(&signals);
            std::process::exit(status);
        }
    }
}

struct PidKeeper {
    /// Who serves.
    serving: Pid,
    /// The first status that was not 0.
    worst: i32,
    /// SIGTERM has come. Whoever serves next is told too: the one before may have ended before it could be.
    stop_wanted: bool,
}

impl PidKeeper {
    /// The status to end with, when it is time to.
    fn supervise(mut self, signals: &SigSet) -> i32 {
        loop {
            let signal = signals.wait().unwrap_or(Signal::SIGCHLD);
            // Who has ended gets no more signals, and may have a successor who should.
            if !self.reap() {
                return self.worst;
            }
            if signal != Signal::SIGCHLD {
                self.stop_wanted |= signal == Signal::SIGTERM;
                let _ = kill(self.serving, signal);
            }
        }
    }

    /// Lets go of all that have ended. Whether anybody serves.
    fn reap(&mut self) -> bool {
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) => (pid, status),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Err(Errno::EINTR) => continue,
                Err(_) => return false,
                Ok(_) => return true,
            };
            if pid != self.serving {
                continue;
            }
            if self.worst == 0 {
                self.worst = status;
            }
            let Some(next) = successor() else {
                return false;
            };
            self.serving = next;
            if self.stop_wanted {
                let _ = kill(next, Signal::SIGTERM);
            }
        }
    }
}

/// A child of ours that is of this program; it may have ended too, and have a successor in its turn.
fn successor() -> Option<Pid> {
    let own = instances::name(std::process::id());
    instances::children(std::process::id())
        .find(|pid| instances::name(*pid) == own)
        .and_then(|pid| i32::try_from(pid).ok())
        .map(Pid::from_raw)
}
