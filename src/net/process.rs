//! A process that need not be our child: how to end it and be certain that it has ended.
//!
//! By a descriptor for the process (`pidfd_open(2)`, Linux 5.3), so that nobody else can be meant who has
//! got its number since.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::wait::{Interest, wait_briefly};

/// How long one wait for its end is.
const LOOK: Duration = Duration::from_secs(1);

/// A process that lives, or did when this was made.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The process with this number.
    ///
    /// # Errors
    /// If there is none, or the kernel is too old to know (`ENOSYS`).
    #[allow(unsafe_code)]
    pub fn open(number: u32) -> io::Result<Process> {
        // SAFETY: the call takes two numbers and makes a descriptor, close-on-exec, or fails.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
        Ok(Process(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Whether it ends within this time.
    ///
    /// # Errors
    /// Those of `ppoll`.
    pub fn ends_within(&self, patience: Duration) -> io::Result<bool> {
        // The descriptor of a dead process is readable.
        wait_briefly(self.0.as_fd(), Interest::READ, patience)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it has ended, or is another user's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: the descriptor is open; no siginfo is passed.
        #[allow(unsafe_code)]
        let sent = unsafe {
            let (number, information) =
                (signal as libc::c_int, std::ptr::null::<libc::siginfo_t>());
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                number,
                information,
                0,
            )
        };
        if sent == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Kills it and waits until it is dead: only then is it certain that it touches no socket.
    pub fn end(&self) {
        let _ = self.signal(Signal::SIGKILL);
        // An error is no death; there is nothing else to wait for.
        while let Ok(false) = self.ends_within(LOOK) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_dead_when_its_end_is_told() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        process.end();
        assert!(child.try_wait().unwrap().is_some());
        process.end();
        assert!(Process::open(child.id()).is_err());
    }
}
