//! The new process: the binary that now lies where this one was started from, tested, then started.

use std::env;
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use socket2::SockRef;

use crate::net::clock::Moment;
use crate::net::process::Process;
use crate::net::wait::{Interest, wait_briefly};

/// The variable that tells a process that it is a successor, and over which descriptor.
pub const VARIABLE: &str = "PG_DOORMAN_HANDOVER_FD";

/// How often it is looked whether the test is over.
const LOOK: Duration = Duration::from_millis(5);

/// Bytes of what the new binary says that are kept for the log.
const MOST_SAID: usize = 4096;

/// How this process was started, as remembered at its start: by the time of an upgrade the file may have
/// been replaced and `/proc/self/exe` may say "(deleted)".
#[derive(Debug, Clone)]
pub struct Origin {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Origin {
    /// Remembers how this process was started. To be called first thing.
    pub fn remember() -> Origin {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let named = Path::new(&name);
        let program = if named.is_absolute() {
            named.to_owned()
        } else if named.components().count() > 1 {
            env::current_dir().unwrap_or_default().join(named)
        } else {
            env::current_exe().unwrap_or_else(|_| named.to_owned())
        };
        Origin {
            program,
            arguments: arguments.collect(),
        }
    }

    /// The binary a successor is made of.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The arguments of a successor: ours, without a listening socket that was passed to us.
    fn successors_arguments(&self) -> Vec<&OsString> {
        let mut kept = Vec::new();
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            let text = argument.to_string_lossy();
            if text == "--inherit-fd" {
                arguments.next();
            } else if !text.starts_with("--inherit-fd=") {
                kept.push(argument);
            }
        }
        kept
    }

    /// Lets the new binary test the configuration, for as long as `limit`.
    ///
    /// # Errors
    /// Why it should not be started, with what it said.
    pub fn test(&self, limit: Duration) -> Result<(), String> {
        let program = self.program.display();
        let mut child = Command::new(&self.program)
            .args(self.successors_arguments())
            .arg("-t")
            .env_remove(VARIABLE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A group of its own: a wrapper is ended with what it has started.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{program} cannot be run: {error}"))?;
        let deadline = Moment::now().after(limit);
        let process = i32::try_from(child.id()).map(Process::open);
        let mut stderr = child.stderr.take();
        let mut said = Vec::new();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if deadline > Moment::now() => match (&stderr, &process) {
                    // It has said its last and is about to end.
                    (None, Ok(Ok(process))) if process.ends_within(LOOK).is_ok() => {}
                    _ => {
                        listen(&mut stderr, &mut said);
                    }
                },
                Ok(None) => {
                    end_group(&mut child);
                    return Err(format!(
                        "{program} -t did not finish within {limit:?} (upgrade.validate_timeout)"
                    ));
                }
                Err(error) => return Err(format!("{program} -t cannot be awaited: {error}")),
            }
        };
        if status.success() {
            return Ok(());
        }
        // What is there now is all: a child of its own may keep the pipe open.
        while listen(&mut stderr, &mut said) && deadline > Moment::now() {}
        let said = String::from_utf8_lossy(&said);
        Err(format!("{program} -t ended with {status}: {}", said.trim()))
    }

    /// Starts the successor, which finds the hand-over at `theirs`.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn start(&self, theirs: &OwnedFd) -> Result<Child, String> {
        let failed = |error: std::io::Error| {
            format!("{} cannot be started: {error}", self.program.display())
        };
        // No other thread of ours starts programs, so nobody else can inherit it.
        SockRef::from(theirs).set_cloexec(false).map_err(failed)?;
        Command::new(&self.program)
            .args(self.successors_arguments())
            .env(VARIABLE, theirs.as_raw_fd().to_string())
            .spawn()
            .map_err(failed)
    }
}

/// How a process has ended, if it ends within `patience`.
pub fn ended_within(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Moment::now().after(patience);
    loop {
        match child.try_wait() {
            Ok(None) if deadline > Moment::now() => std::thread::sleep(LOOK),
            Ok(status) => return status,
            Err(_) => return None,
        }
    }
}

/// Reads what a process says, for as long as [`LOOK`] if it says nothing, and keeps the beginning of it.
/// True if something came.
fn listen(stderr: &mut Option<ChildStderr>, said: &mut Vec<u8>) -> bool {
    let Some(pipe) = stderr else {
        std::thread::sleep(LOOK);
        return false;
    };
    if !wait_briefly(pipe.as_fd(), Interest::READ, LOOK).unwrap_or(false) {
        return false;
    }
    let mut chunk = [0; 4096];
    match pipe.read(&mut chunk) {
        Ok(n) if n > 0 => {
            let wanted = n.min(MOST_SAID.saturating_sub(said.len()));
            said.extend_from_slice(&chunk[..wanted]);
            true
        }
        _ => {
            *stderr = None;
            false
        }
    }
}

/// Kills a process that leads a group, with its group.
fn end_group(child: &mut Child) {
    if let Ok(leader) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
    }
    end(child);
}

/// Kills a process and waits until it is dead: only then is it certain that it touches no socket.
pub fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
