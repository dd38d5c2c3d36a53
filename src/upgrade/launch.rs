//! The new process: the binary at the path that this process was started from is tested, then started.

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

use crate::net::clock::MonotonicTime;
use crate::net::process::Process;
use crate::net::wait::{Interest, wait_briefly};

/// The variable that tells a process that it is a successor, and over which descriptor.
pub const VARIABLE: &str = "PG_DOORMAN_HANDOVER_FD";

/// The variable that tells a test of the configuration that a successor would start, which needs no address.
pub const TEST_VARIABLE: &str = "PG_DOORMAN_TESTS_SUCCESSOR";

/// The variable that names a listening socket which was passed to this process, and to no other.
const INHERIT_FD: &str = "INHERIT_FD";

/// Behind this argument there are no options.
const NO_MORE_OPTIONS: &str = "--";

/// How often it is looked whether the test is over.
const LOOK: Duration = Duration::from_millis(5);

/// Bytes of what the new binary says that are kept for the log.
const MAX_SAID: usize = 4096;

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

    /// A successor, with our arguments and this one more, and without a listening socket that was passed to us.
    fn successor(&self, option: Option<&str>) -> Command {
        let mut kept = Vec::new();
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            let text = argument.to_string_lossy();
            if text == NO_MORE_OPTIONS {
                arguments = [].iter();
                kept.extend(self.arguments.iter().skip_while(|it| *it != argument));
            } else if text == "--inherit-fd" {
                arguments.next();
            } else if !text.starts_with("--inherit-fd=") {
                kept.push(argument);
            }
        }
        let options = kept.iter().position(|it| *it == NO_MORE_OPTIONS);
        let (options, rest) = kept.split_at(options.unwrap_or(kept.len()));
        let mut command = Command::new(&self.program);
        command.args(options).args(option).args(rest);
        command.env_remove(INHERIT_FD);
        command
    }

    /// Lets the new binary test the configuration, for as long as `limit`, unless it is `given_up`.
    ///
    /// # Errors
    /// Why it should not be started, with what it said.
    pub fn test(&self, limit: Duration, given_up: &dyn Fn() -> bool) -> Result<(), String> {
        let program = self.program.display();
        let mut child = self
            .successor(Some("-t"))
            .env_remove(VARIABLE)
            .env(TEST_VARIABLE, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A group of its own: a wrapper is ended with what it has started.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{program} cannot be run: {error}"))?;
        let deadline = MonotonicTime::now().after(limit);
        let process = Process::open(child.id());
        let mut stderr = child.stderr.take();
        let mut said = Vec::new();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if given_up() => {
                    end_group(&mut child);
                    return Err("this process was told to stop".to_owned());
                }
                Ok(None) if deadline > MonotonicTime::now() => match (&stderr, &process) {
                    // It has closed its output and is about to end.
                    (None, Ok(process)) if process.ends_within(LOOK).is_ok() => {}
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
        while listen(&mut stderr, &mut said) && deadline > MonotonicTime::now() {}
        let said = String::from_utf8_lossy(&said);
        let said = match said.trim() {
            "" => "it printed nothing",
            said => said,
        };
        Err(format!("{program} -t ended with {status}: {said}"))
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
        self.successor(None)
            .env(VARIABLE, theirs.as_raw_fd().to_string())
            .spawn()
            .map_err(failed)
    }
}

/// How a process has ended, if it ends within `patience`.
pub fn ended_within(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = MonotonicTime::now().after(patience);
    loop {
        match child.try_wait() {
            Ok(None) if deadline > MonotonicTime::now() => std::thread::sleep(LOOK),
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
            let wanted = n.min(MAX_SAID.saturating_sub(said.len()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_has_our_arguments_without_the_socket_that_was_passed_to_us() {
        for (typed, expected) in [
            ("", "-t"),
            ("-n file", "-n file -t"),
            ("-n -- file", "-n -t -- file"),
            ("--inherit-fd 7 --inherit-fd=7 -d file", "-d file -t"),
            ("-d -- --inherit-fd=7", "-d -t -- --inherit-fd=7"),
        ] {
            let origin = Origin {
                program: PathBuf::from("pg_doorman"),
                arguments: typed.split_whitespace().map(OsString::from).collect(),
            };
            let command = origin.successor(Some("-t"));
            let arguments: Vec<_> = command.get_args().map(|it| it.to_string_lossy()).collect();
            assert_eq!(arguments.join(" "), expected);
            let unset = |(name, value): (&std::ffi::OsStr, Option<&std::ffi::OsStr>)| {
                name == INHERIT_FD && value.is_none()
            };
            assert!(command.get_envs().any(unset));
        }
    }
}
