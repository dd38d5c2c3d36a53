//! Log records as datagrams to the local syslog daemon.
//!
//! A record is `<PRI>ident[pid]: LEVEL message` with facility USER. It carries no time: every
//! receiver on `/dev/log` notes the arrival itself, and the classic form of a time has neither a
//! year nor a zone. This file does not choose what is logged.
//!
//! Invariants: the socket is never connected, so a syslog daemon that restarts is found again by
//! the next record. A record waits for a full receiver at most [`PATIENCE`], then no thread waits
//! until there is room again. Lost records are counted, and their number is logged. When there is no receiver
//! at all, records go to standard error.

use super::format::Style;
use super::stderr::{Lines, PATIENCE};
use log::{Level, Log, Metadata, Record};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, UnixAddr, sendto};
use std::fmt::Write as _;
use std::io::{self, Stderr};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Where syslog daemons listen.
pub(super) const DEV_LOG: &str = "/dev/log";

/// Facility USER, in the place it has within a priority.
const USER: u8 = 1 << 3;

/// To how much a record is cut that the kernel does not take whole, in bytes.
const CUT: usize = 8192;

/// Log records to one syslog daemon.
pub(super) struct Syslog {
    socket: UnixDatagram,
    to: UnixAddr,
    ident: String,
    stalled: AtomicBool,
    lost: AtomicU64,
    otherwise: Lines<Stderr>,
}

impl Syslog {
    /// Records under the name `ident` to the socket at `path`. It need not exist yet.
    ///
    /// # Errors
    ///
    /// No socket could be made, or `path` cannot be a socket's.
    pub(super) fn new(path: &Path, ident: &str, patience: Duration) -> io::Result<Syslog> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(patience))?;
        Ok(Syslog {
            socket,
            to: UnixAddr::new(path)?,
            ident: tag(ident),
            stalled: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            otherwise: Lines::new(io::stderr(), Style::Untimed, PATIENCE),
        })
    }

    fn frame(&self, level: Level, line: &str) -> String {
        let priority = USER | severity(level);
        // Asked each time: a fork changes it.
        let pid = std::process::id();
        format!("<{priority}>{}[{pid}]: {line}", self.ident)
    }

    fn send(&self, frame: &str) -> Result<(), Errno> {
        let flags = if self.stalled.load(Ordering::Relaxed) {
            MsgFlags::MSG_DONTWAIT
        } else {
            MsgFlags::empty()
        };
        let send = |bytes: &[u8]| {
            loop {
                match sendto(self.socket.as_raw_fd(), bytes, &self.to, flags) {
                    Err(Errno::EINTR) => {}
                    sent => return sent,
                }
            }
        };
        let sent = match send(frame.as_bytes()) {
            Err(Errno::EMSGSIZE) => send(up_to(frame, CUT).as_bytes()),
            sent => sent,
        };
        self.stalled
            .store(sent.is_err_and(is_full), Ordering::Relaxed);
        sent.map(|_| ())
    }

    fn write(&self, level: Level, line: String) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let told = format!("WARN {lost} log records lost, since syslog was full");
            if self
                .send(&self.frame(Level::Warn, &told))
                .is_err_and(is_full)
            {
                self.lost.fetch_add(lost + 1, Ordering::Relaxed);
                return;
            }
        }
        match self.send(&self.frame(level, &line)) {
            Ok(()) => {}
            Err(error) if is_full(error) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => self.otherwise.write(line),
        }
    }
}

fn is_full(error: Errno) -> bool {
    matches!(error, Errno::EAGAIN | Errno::ENOBUFS)
}

fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// The name with which each record begins. Characters that would end it are replaced.
fn tag(ident: &str) -> String {
    let safe = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '@');
    ident
        .chars()
        .map(|c| if safe(c) { c } else { '_' })
        .collect()
}

/// The beginning of `text` that is at most `most` bytes and ends with a whole character.
fn up_to(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rfind(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

impl Log for Syslog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut line = String::new();
        let _ = write!(line, "{}", record.args());
        self.write(record.level(), line);
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::Scratch;

    struct Daemon {
        place: Scratch,
        socket: UnixDatagram,
    }

    impl Daemon {
        fn start() -> Daemon {
            let place = Scratch::new();
            let socket = UnixDatagram::bind(place.file("log")).unwrap();
            Daemon { place, socket }
        }

        fn restart(&mut self) {
            std::fs::remove_file(self.place.file("log")).unwrap();
            self.socket = UnixDatagram::bind(self.place.file("log")).unwrap();
        }

        fn client(&self) -> Syslog {
            Syslog::new(
                &self.place.file("log"),
                "pg_doorman",
                Duration::from_millis(1),
            )
            .unwrap()
        }

        fn received(&self) -> String {
            self.socket
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let mut bytes = vec![0; 1 << 20];
            let length = self.socket.recv(&mut bytes).unwrap();
            bytes.truncate(length);
            String::from_utf8(bytes).unwrap()
        }
    }

    #[test]
    fn a_record_has_facility_user_its_severity_the_ident_and_the_pid() {
        let daemon = Daemon::start();
        let syslog = daemon.client();
        let pid = std::process::id();
        for (level, priority) in [
            (Level::Error, 11),
            (Level::Warn, 12),
            (Level::Info, 14),
            (Level::Debug, 15),
        ] {
            syslog.write(level, "hello".into());
            assert_eq!(
                daemon.received(),
                format!("<{priority}>pg_doorman[{pid}]: hello")
            );
        }
    }

    #[test]
    fn a_daemon_that_restarted_is_found_again() {
        let mut daemon = Daemon::start();
        let syslog = daemon.client();
        syslog.write(Level::Info, "before".into());
        assert!(daemon.received().ends_with("before"));
        daemon.restart();
        syslog.write(Level::Info, "after".into());
        assert!(daemon.received().ends_with("after"));
    }

    #[test]
    fn a_daemon_that_does_not_read_costs_records_and_is_told_how_many() {
        let daemon = Daemon::start();
        let syslog = daemon.client();
        let mut sent = 0;
        while syslog.lost.load(Ordering::Relaxed) == 0 {
            syslog.write(Level::Info, sent.to_string());
            sent += 1;
        }
        syslog.write(Level::Info, "lost too".into());
        for number in 0..sent - 1 {
            assert!(daemon.received().ends_with(&format!("]: {number}")));
        }
        syslog.write(Level::Info, "found".into());
        assert!(
            daemon
                .received()
                .ends_with("WARN 2 log records lost, since syslog was full")
        );
        assert!(daemon.received().ends_with("found"));
    }

    #[test]
    fn after_one_wait_in_vain_nobody_waits_again() {
        let daemon = Daemon::start();
        let syslog = daemon.client();
        while syslog.lost.load(Ordering::Relaxed) == 0 {
            syslog.write(Level::Info, "fill".into());
        }
        let patience = Duration::from_secs(5);
        syslog.socket.set_write_timeout(Some(patience)).unwrap();
        let began = std::time::Instant::now();
        syslog.write(Level::Info, "lost at once".into());
        assert!(began.elapsed() < patience);
    }

    #[test]
    fn a_record_too_long_for_a_datagram_arrives_cut() {
        let daemon = Daemon::start();
        daemon.client().write(Level::Info, "é".repeat(1 << 20));
        let received = daemon.received();
        assert!(
            received.len() > CUT - 2 && received.len() <= CUT,
            "{}",
            received.len()
        );
    }

    #[test]
    fn without_a_daemon_nothing_is_counted_as_lost() {
        let place = Scratch::new();
        let path = place.file("nobody");
        let syslog = Syslog::new(&path, "pg_doorman", PATIENCE).unwrap();
        syslog.write(Level::Info, "on standard error instead".into());
        assert_eq!(syslog.lost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_ident_cannot_end_its_own_field() {
        assert_eq!(tag("pg doorman[1]: x\n"), "pg_doorman_1___x_");
        assert_eq!(tag("pg_doorman@main"), "pg_doorman@main");
    }
}
