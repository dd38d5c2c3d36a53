//! Notices to the service manager: `sd_notify` without its library.
//!
//! A message is one datagram of `NAME=value` lines to the socket that the environment names
//! (`NOTIFY_SOCKET`: a path, or `@name` for an abstract one). Without that variable everything
//! here does nothing and succeeds. It does not decide when to say what.
//!
//! Invariant: a value cannot add lines to a message, and no message waits longer than
//! [`PATIENCE`].

use nix::time::{ClockId, clock_gettime};
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a message waits for a service manager that does not read.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// One line of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice<'a> {
    /// Start-up is finished, or a reload is.
    Ready,
    /// The configuration is being read again, or the program is being replaced. Carries the
    /// time of now, which `Type=notify-reload` demands. [`Notice::Ready`] ends it.
    Reloading,
    /// The process is about to end.
    Stopping,
    /// From now on this process is the main one of the service.
    MainPid(u32),
    /// A sentence for `systemctl status`.
    Status(&'a str),
}

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
}

impl Notify {
    /// The one named by `NOTIFY_SOCKET`. The variable is left in place for a successor.
    ///
    /// # Errors
    ///
    /// The variable is set to what is not a socket's address, or no socket could be made.
    pub fn from_environment() -> io::Result<Notify> {
        Notify::to(std::env::var_os("NOTIFY_SOCKET").as_deref())
    }

    /// The one at `address`, which is as `NOTIFY_SOCKET` has it. Nobody at all if it is `None`
    /// or empty.
    ///
    /// # Errors
    ///
    /// As [`Notify::from_environment`].
    pub fn to(address: Option<&OsStr>) -> io::Result<Notify> {
        let address = match address.map(OsStr::as_bytes) {
            None | Some([]) => return Ok(Notify { to: None }),
            Some([b'@', name @ ..]) => SocketAddr::from_abstract_name(name)?,
            Some(path @ [b'/', ..]) => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                let why = format!("NOTIFY_SOCKET is neither a path nor @name: {other}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Notify {
            to: Some((socket, address)),
        })
    }

    /// Says `notices` in one message, so that they take effect together.
    ///
    /// # Errors
    ///
    /// The service manager is not there, or does not read. Worth a line in the log, no more.
    pub fn say(&self, notices: &[Notice<'_>]) -> io::Result<()> {
        let Some((socket, address)) = &self.to else {
            return Ok(());
        };
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from)?;
        let message = message(notices, now);
        loop {
            match socket.send_to_addr(message.as_bytes(), address) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent.map(|_| ()),
            }
        }
    }
}

/// The text of a message said at the monotonic time `now`.
fn message(notices: &[Notice<'_>], now: Duration) -> String {
    let mut text = String::new();
    for notice in notices {
        match notice {
            Notice::Ready => text.push_str("READY=1\n"),
            Notice::Reloading => {
                text.push_str("RELOADING=1\nMONOTONIC_USEC=");
                text.push_str(&now.as_micros().to_string());
                text.push('\n');
            }
            Notice::Stopping => text.push_str("STOPPING=1\n"),
            Notice::MainPid(pid) => {
                text.push_str("MAINPID=");
                text.push_str(&pid.to_string());
                text.push('\n');
            }
            Notice::Status(sentence) => {
                text.push_str("STATUS=");
                text.push_str(&sentence.replace(char::is_control, " "));
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::{Scratch, is_rerun, rerun};

    fn received(manager: &UnixDatagram) -> String {
        manager
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn each_notice_is_a_line_and_all_are_one_message() {
        let place = Scratch::new();
        let path = place.file("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::to(Some(path.as_os_str())).unwrap();
        notify
            .say(&[
                Notice::MainPid(4711),
                Notice::Ready,
                Notice::Status("serving"),
            ])
            .unwrap();
        assert_eq!(
            received(&manager),
            "MAINPID=4711\nREADY=1\nSTATUS=serving\n"
        );
        notify.say(&[Notice::Stopping]).unwrap();
        assert_eq!(received(&manager), "STOPPING=1\n");
    }

    #[test]
    fn an_abstract_socket_is_reached() {
        let name = format!("pg_doorman-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let notify = Notify::to(Some(OsStr::new(&format!("@{name}")))).unwrap();
        notify.say(&[Notice::Ready]).unwrap();
        assert_eq!(received(&manager), "READY=1\n");
    }

    #[test]
    fn a_reload_carries_the_monotonic_time_in_microseconds() {
        assert_eq!(
            message(&[Notice::Reloading], Duration::new(12, 345_678_999)),
            "RELOADING=1\nMONOTONIC_USEC=12345678\n"
        );
        let place = Scratch::new();
        let path = place.file("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let clock = || Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_micros();
        let before = clock();
        let notify = Notify::to(Some(path.as_os_str())).unwrap();
        notify.say(&[Notice::Reloading]).unwrap();
        let text = received(&manager);
        let said: u128 = text.rsplit_once('=').unwrap().1.trim_end().parse().unwrap();
        assert!(before <= said && said <= clock(), "{text}");
    }

    #[test]
    fn a_status_cannot_add_lines() {
        assert_eq!(
            message(&[Notice::Status("a\nMAINPID=1\0b")], Duration::ZERO),
            "STATUS=a MAINPID=1 b\n"
        );
    }

    #[test]
    fn without_the_variable_nothing_is_said_and_nothing_fails() {
        for unset in [None, Some(OsStr::new(""))] {
            let notify = Notify::to(unset).unwrap();
            notify.say(&[Notice::Ready]).unwrap();
        }
    }

    #[test]
    fn an_absent_manager_and_a_strange_address_are_errors() {
        let place = Scratch::new();
        let notify = Notify::to(Some(place.file("nobody").as_os_str())).unwrap();
        assert!(notify.say(&[Notice::Ready]).is_err());
        assert!(Notify::to(Some(OsStr::new("vsock:2:1"))).is_err());
        assert!(Notify::to(Some(OsStr::new("relative"))).is_err());
    }

    #[test]
    fn the_address_comes_from_the_environment() {
        if is_rerun() {
            let notify = Notify::from_environment().unwrap();
            return notify.say(&[Notice::Status("from the child")]).unwrap();
        }
        let place = Scratch::new();
        let manager = UnixDatagram::bind(place.file("notify")).unwrap();
        rerun(module_path!(), "the_address_comes_from_the_environment")
            .env("NOTIFY_SOCKET", place.file("notify"))
            .output()
            .unwrap();
        assert_eq!(received(&manager), "STATUS=from the child\n");
    }
}
