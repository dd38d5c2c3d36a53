//! A process becomes a daemon: two forks, a session of its own, no terminal.
//!
//! ```text
//! started from a shell        in between          the daemon
//! fork ─────────────────────► setsid
//! waits for the verdict       fork ─────────────► umask 027, standard input from /dev/null
//!                             ends                reads its configuration, binds, ...
//!                                                 output to /dev/null
//! ◄────────────────────────────────────────────── ready, or failed with a status and a text
//! ends with 0, or that status
//! ```
//!
//! The working directory is kept. It writes no pid file and closes no other descriptors; see
//! `pidfile` and `descriptors`.
//!
//! Invariant: the process that was started ends with 0 only after the daemon said that it is
//! ready. A daemon that dies before, of whatever, is a failure with a text: its end of the pipe
//! closes.

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use thiserror::Error;

/// The exit status when the operating system refuses (`EX_OSERR`).
const EX_OSERR: u8 = 71;
/// The exit status when the daemon died without a word.
const SILENT: u8 = 1;

/// The first byte of a verdict.
const READY: u8 = b'+';
const FAILED: u8 = b'-';
/// How much of a failure's text is read, in bytes.
const MAX: u64 = 64 << 10;

/// Why no daemon could be made. Only the process that was started sees it; the caller ends it
/// with status 71.
#[derive(Debug, Error)]
pub enum DaemoniseError {
    /// There are threads already, this many: a fork would leave them behind.
    #[error("could not become a daemon: there are {0} threads already")]
    Threads(usize),
    /// The operating system refused.
    #[error("could not become a daemon: could not {what}: {error}")]
    System {
        /// What could not be done, as in "could not ...".
        what: &'static str,
        /// Why.
        error: io::Error,
    },
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> DaemoniseError {
    move |error| DaemoniseError::System { what, error }
}

/// The pipe to the process that was started, which waits for the outcome of the start.
/// Dropping it means that it failed.
#[derive(Debug)]
#[must_use = "the process that was started waits for it"]
pub struct Ready {
    to: File,
    null: File,
}

impl Ready {
    /// Says that the daemon is ready, so that the process that was started ends with 0. Standard
    /// output and error go to `/dev/null` from here on.
    ///
    /// # Errors
    ///
    /// Output could not be turned away. If the waiting process was stopped, that is no error.
    pub fn tell(mut self) -> io::Result<()> {
        dup2_stdout(&self.null)?;
        dup2_stderr(&self.null)?;
        match self.to.write_all(&[READY]) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    /// Says that the daemon failed: the process that was started prints `message` to standard
    /// error and ends with `status`. The caller then ends the daemon itself.
    pub fn fail(mut self, status: u8, message: &str) {
        let mut verdict = vec![FAILED, status];
        verdict.extend_from_slice(message.as_bytes());
        // The waiting process may have been stopped.
        let _ = self.to.write_all(&verdict);
    }
}

/// Goes on as a daemon. Returns in the daemon only; the process that was started stays in here
/// until it ends. To be called before any thread exists.
///
/// Until [`Ready::tell`] the daemon's output still goes where that of the process that was
/// started goes, so that whatever goes wrong before can be seen.
///
/// # Errors
///
/// [`DaemoniseError`], in the process that was started, which is still the only one then.
pub fn daemonise() -> Result<Ready, DaemoniseError> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(DaemoniseError::Threads(threads));
    }
    detach()
}

/// [`daemonise`], for one who knows that no other thread holds anything: the tests' runner keeps
/// a thread that only waits.
fn detach() -> Result<Ready, DaemoniseError> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(failed("open /dev/null"))?;
    let (from, to) =
        pipe2(OFlag::O_CLOEXEC).map_err(|error| failed("make a pipe")(error.into()))?;
    // What is in the buffer now would be printed by each process.
    let _ = io::stdout().flush();
    match split().map_err(failed("fork"))? {
        ForkResult::Parent { .. } => {
            drop((to, null));
            wait_and_end(File::from(from));
        }
        ForkResult::Child => drop(from),
    }
    let ready = Ready {
        to: File::from(to),
        null,
    };
    match leave_session(&ready) {
        Ok(ForkResult::Child) => Ok(ready),
        Ok(ForkResult::Parent { .. }) => end(0),
        Err(error) => {
            ready.fail(EX_OSERR, &error.to_string());
            end(EX_OSERR);
        }
    }
}

/// The steps after the first fork, up to and past the second.
fn leave_session(ready: &Ready) -> Result<ForkResult, DaemoniseError> {
    setsid().map_err(|error| failed("leave the session")(error.into()))?;
    dup2_stdin(&ready.null).map_err(|error| failed("turn away input")(error.into()))?;
    umask(Mode::from_bits_truncate(0o027));
    // The leader of a session would get a terminal by opening one. Its child is none.
    split().map_err(failed("fork again"))
}

/// Forks. For a process with a single thread.
#[allow(unsafe_code)]
pub(super) fn split() -> io::Result<ForkResult> {
    // SAFETY: the child of a process with more than one thread may only do what is safe in a
    // signal handler. This one has a single thread: `daemonise` looks, `keeper` is called before any
    // other is made, and neither makes one itself.
    Ok(unsafe { fork() }?)
}

/// Ends a process that shares buffers and exit handlers with the daemon: none of them may run.
#[allow(unsafe_code)]
fn end(status: u8) -> ! {
    // SAFETY: it does not return, and nothing is touched on the way.
    unsafe { libc::_exit(i32::from(status)) }
}

fn wait_and_end(from: File) -> ! {
    let (status, message) = verdict(from);
    if let Some(message) = message {
        let _ = writeln!(io::stderr(), "{}", message.trim_end());
    }
    std::process::exit(i32::from(status));
}

/// Waits for what the daemon says; the status to end with, and what to print.
fn verdict(mut from: impl Read) -> (u8, Option<String>) {
    let mut bytes = Vec::new();
    // The first byte alone: one who is ready is not waited for any longer.
    let first = (&mut from).take(1).read_to_end(&mut bytes);
    if first.is_ok() && bytes == [READY] {
        return (0, None);
    }
    let rest = from.take(MAX).read_to_end(&mut bytes);
    match bytes.as_slice() {
        [FAILED, status, text @ ..] if rest.is_ok() => {
            // A failure does not end as a success, whatever it says.
            let status = if *status == 0 { SILENT } else { *status };
            (status, Some(String::from_utf8_lossy(text).into_owned()))
        }
        _ => {
            let message = "the daemon ended before it was ready; its log may say why";
            (SILENT, Some(message.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::{Scratch, is_rerun, pipe, rerun};
    use std::os::unix::net::UnixDatagram;
    use std::process::{Output, Stdio};
    use std::time::Duration;

    fn ready() -> (File, Ready) {
        let (from, to) = pipe();
        let ready = Ready {
            to,
            null: File::open("/dev/null").unwrap(),
        };
        (from, ready)
    }

    #[test]
    fn a_failure_carries_status_and_text() {
        let (from, ready) = ready();
        ready.fail(78, "Config parse error: no");
        let expected = "Config parse error: no".to_owned();
        assert_eq!(verdict(from), (78, Some(expected)));
    }

    #[test]
    fn a_failure_is_never_status_0() {
        let (from, ready) = ready();
        ready.fail(0, "no");
        assert_eq!(verdict(from), (SILENT, Some("no".to_owned())));
    }

    #[test]
    fn a_daemon_that_ends_without_a_word_is_a_failure() {
        let (from, ready) = ready();
        drop(ready);
        let (status, message) = verdict(from);
        assert_eq!(status, SILENT);
        assert!(message.unwrap().contains("ended before it was ready"));
    }

    #[test]
    fn one_who_is_ready_is_not_waited_for_to_close_its_end() {
        let (from, mut to) = pipe();
        to.write_all(&[READY]).unwrap();
        assert_eq!(verdict(from), (0, None));
        drop(to);
    }

    #[test]
    fn with_threads_there_is_no_fork() {
        let (wait, go) = pipe();
        let thread = std::thread::spawn(move || {
            let _ = { wait }.read(&mut [0]);
        });
        let error = daemonise().unwrap_err();
        drop(go);
        thread.join().unwrap();
        assert!(matches!(error, DaemoniseError::Threads(2..)), "{error}");
    }

    /// The process that was started, as the one who started it sees it: it, and all who hold
    /// its output, have ended or let go of it when this returns.
    fn started(test: &str, place: &Scratch) -> Output {
        rerun(module_path!(), test)
            .env("PLACE", place.path())
            .current_dir(place.path())
            .stdin(Stdio::piped())
            .output()
            .unwrap()
    }

    #[test]
    fn the_daemon_has_its_own_session_no_terminal_and_the_same_directory() {
        if is_rerun() {
            let session = || nix::unistd::getsid(None).unwrap();
            let before = session();
            let ready = detach().unwrap();
            eprintln!("seen before ready");
            ready.tell().unwrap();
            eprintln!("not seen after");
            let link = |name: &str| std::fs::read_link(format!("/proc/self/{name}")).unwrap();
            let pid = nix::unistd::getpid();
            let facts = format!(
                "session its own {} leader {} mask {:o} input {} output {} error {} cwd {}",
                session() != before,
                pid == session(),
                umask(Mode::empty()).bits(),
                link("fd/0").display(),
                link("fd/1").display(),
                link("fd/2").display(),
                link("cwd").display(),
            );
            let to = std::env::var("PLACE").unwrap() + "/facts";
            let socket = UnixDatagram::unbound().unwrap();
            socket.send_to(facts.as_bytes(), to).unwrap();
            end(0);
        }
        let place = Scratch::new();
        let facts = UnixDatagram::bind(place.file("facts")).unwrap();
        let output = started(
            "the_daemon_has_its_own_session_no_terminal_and_the_same_directory",
            &place,
        );
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("seen before ready"), "{said}");
        assert!(!said.contains("not seen after"), "{said}");
        facts
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut bytes = [0; 4096];
        let length = facts.recv(&mut bytes).unwrap();
        let place = place.path().canonicalize().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&bytes[..length]),
            format!(
                "session its own true leader false mask 27 input /dev/null output /dev/null error /dev/null cwd {}",
                place.display()
            )
        );
    }

    #[test]
    fn the_process_that_was_started_ends_as_the_daemon_failed() {
        if is_rerun() {
            detach().unwrap().fail(71, "could not bind /run/x\n");
            end(71);
        }
        let place = Scratch::new();
        let output = started(
            "the_process_that_was_started_ends_as_the_daemon_failed",
            &place,
        );
        assert_eq!(output.status.code(), Some(71), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.ends_with("could not bind /run/x\n"), "{said}");
    }

    #[test]
    fn a_daemon_killed_before_it_is_ready_is_a_failure() {
        if is_rerun() {
            let ready = detach().unwrap();
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            drop(ready);
        }
        let place = Scratch::new();
        let output = started("a_daemon_killed_before_it_is_ready_is_a_failure", &place);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("ended before it was ready"), "{said}");
    }
}
