//! A connected socket, TCP or Unix, with or without TLS: read, write, and close without losing the last bytes.
//!
//! Never blocks, except in [`Stream::finish`] and [`Stream::receive_soon`], which are bounded. Owns its
//! descriptor: only the owner of the `Stream` reads or writes it in this process. Callers receive and send plaintext;
//! the sealed bytes stay in here. So a wait for a stream has to use [`wait`](fn@wait), which knows of bytes that have
//! come already and of bytes that are still owed.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, sendmsg, shutdown};
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use super::address::Address;
use super::buffer::Buffer;
use super::clock::MonotonicTime;
use super::encrypted::Encrypted;
use super::poll_set::{PollSet, Registration};
use super::wait::{self, Interest, Readiness, Woken};
use crate::tls::suite::Negotiated;

/// How long [`Stream::receive_soon`] waits at most; the kernel makes it a whole number of its ticks.
pub const BRIEF_WAIT: Duration = Duration::from_millis(2);

/// How the sockets of clients and servers are set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// `TCP_NODELAY`.
    pub no_delay: bool,
    /// `TCP_KEEPIDLE`; `None` switches keepalives off.
    pub keepalive_idle: Option<Duration>,
    /// `TCP_KEEPINTVL`; `None` leaves the kernel's.
    pub keepalive_interval: Option<Duration>,
    /// `TCP_KEEPCNT`; `None` leaves the kernel's.
    pub keepalive_count: Option<u32>,
    /// How long the other side's host may acknowledge nothing of what was sent; `None`: as long as the kernel tries.
    /// Whoever waits for the peer asks for that: [`Stream::is_unacknowledged_for`].
    pub user_timeout: Option<Duration>,
    /// `SO_LINGER`; `None` leaves the kernel's, which delivers the last bytes.
    pub linger: Option<Duration>,
    /// `SO_RCVBUF` and `SO_SNDBUF` of TCP sockets; 0 lets the kernel tune.
    pub tcp_buffer: usize,
    /// `SO_RCVBUF` and `SO_SNDBUF` of Unix sockets; 0 leaves the kernel's.
    pub unix_buffer: usize,
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The peer has ended the connection.
    End,
}

/// A socket's place in a set, which ends with this.
#[derive(Debug, Default)]
struct Registered(Option<Arc<Registration>>);

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(registration) = self.0.take() {
            registration.end();
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub struct Stream {
    /// Its place in a set of sockets. Dropped before the socket.
    registered: Registered,
    fd: OwnedFd,
    unix: bool,
    tls: Option<Box<Encrypted>>,
}

fn receive_from(fd: &OwnedFd, into: &mut [u8]) -> io::Result<Received> {
    receive_with(fd, into, MsgFlags::MSG_DONTWAIT)
}

fn receive_with(fd: &OwnedFd, into: &mut [u8], flags: MsgFlags) -> io::Result<Received> {
    loop {
        return match recv(fd.as_raw_fd(), into, flags) {
            Ok(0) => Ok(Received::End),
            Ok(n) => Ok(Received::Bytes(n)),
            Err(Errno::EAGAIN) => Ok(Received::Nothing),
            Err(Errno::EINTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// Without this [`Stream::receive_soon`] would wait for ever; the kernel refuses it for no socket
/// (SO_RCVTIMEO, socket(7)).
fn bound_reads(socket: &Socket) {
    if let Err(error) = socket.set_read_timeout(Some(BRIEF_WAIT)) {
        log::error!("a socket's reads could not be bounded: {error}");
    }
}

fn send_to(fd: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        return match send(fd.as_raw_fd(), bytes, flags) {
            Ok(n) => Ok(n),
            Err(Errno::EAGAIN) => Ok(0),
            Err(Errno::EINTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// Waits until one of the streams is ready, the deadline has passed, or another thread wakes this one, as
/// [`wait::wait`] does for sockets. What is owed on the side of TLS is waited for too; any sending, also
/// of nothing, writes it.
///
/// # Errors
/// Those of `ppoll`.
pub fn wait(
    client: Option<(&Stream, Interest)>,
    server: Option<(&Stream, Interest)>,
    deadline: Option<MonotonicTime>,
) -> io::Result<Woken> {
    fn socket<'a>((stream, interest): (&'a Stream, Interest)) -> (BorrowedFd<'a>, Interest) {
        let write = interest.write || stream.owes();
        (stream.fd(), Interest { write, ..interest })
    }
    let holds_input = |side: Option<(&Stream, Interest)>| {
        side.is_some_and(|(stream, interest)| interest.read && stream.holds_input())
    };
    let (client_ready, server_ready) = (holds_input(client), holds_input(server));
    // The kernel may know nothing of it: what is there has come before.
    let deadline = if client_ready || server_ready {
        Some(MonotonicTime::now())
    } else {
        deadline
    };
    let woken = wait::wait(client.map(socket), server.map(socket), deadline)?;
    let with = |ready: Readiness, also: bool| Readiness {
        readable: ready.readable || also,
        ..ready
    };
    Ok(match woken {
        Woken::Ready { client, server } => Woken::Ready {
            client: with(client, client_ready),
            server: with(server, server_ready),
        },
        Woken::Deadline if client_ready || server_ready => Woken::Ready {
            client: with(Readiness::default(), client_ready),
            server: with(Readiness::default(), server_ready),
        },
        other => other,
    })
}

impl Stream {
    /// Takes an accepted or connected socket and sets it up. An option the kernel refuses is left as it
    /// is: none of them decides over right or wrong.
    pub fn new(socket: Socket, unix: bool, options: &SocketOptions) -> Stream {
        let buffer = if unix {
            options.unix_buffer
        } else {
            if options.no_delay {
                let _ = socket.set_tcp_nodelay(true);
            }
            if let Some(idle) = options.keepalive_idle {
                let mut keepalive = TcpKeepalive::new().with_time(idle);
                if let Some(interval) = options.keepalive_interval {
                    keepalive = keepalive.with_interval(interval);
                }
                if let Some(count) = options.keepalive_count {
                    keepalive = keepalive.with_retries(count);
                }
                let _ = socket.set_tcp_keepalive(&keepalive);
            }
            if options.linger.is_some() {
                let _ = socket.set_linger(options.linger);
            }
            options.tcp_buffer
        };
        bound_reads(&socket);
        if buffer > 0 {
            let _ = socket.set_recv_buffer_size(buffer);
            let _ = socket.set_send_buffer_size(buffer);
        }
        Stream {
            registered: Registered::default(),
            fd: socket.into(),
            unix,
            tls: None,
        }
    }

    /// Takes over a connected socket from another process, set up as it is, with its TLS.
    pub fn inherit(fd: OwnedFd, peer: &Address, tls: Option<Encrypted>) -> Stream {
        let socket = Socket::from(fd);
        bound_reads(&socket);
        Stream {
            registered: Registered::default(),
            fd: socket.into(),
            unix: matches!(peer, Address::Unix(_)),
            tls: tls.map(Box::new),
        }
    }

    /// From now on all that is said on this connection is said over TLS.
    pub fn encrypt(&mut self, tls: Encrypted) {
        self.tls = Some(Box::new(tls));
    }

    /// The TLS of the connection, to be given to another process.
    pub fn tls(&self) -> Option<&Encrypted> {
        self.tls.as_deref()
    }

    /// Whether sealed bytes are still to be written.
    pub fn owes(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.owes())
    }

    /// What the two sides of its TLS have agreed on.
    pub fn negotiated(&self) -> Option<Negotiated> {
        self.tls().map(|tls| tls.channel().negotiated())
    }

    /// Connects over TCP.
    ///
    /// # Errors
    /// Those of `connect`, and `TimedOut` at the deadline.
    pub fn connect_tcp(
        address: &SocketAddr,
        options: &SocketOptions,
        deadline: MonotonicTime,
    ) -> io::Result<Stream> {
        let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
        Stream::connect(&socket, &SockAddr::from(*address), deadline)?;
        Ok(Stream::new(socket, false, options))
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// Those of `connect`, and `TimedOut` at the deadline.
    pub fn connect_unix(
        path: &Path,
        options: &SocketOptions,
        deadline: MonotonicTime,
    ) -> io::Result<Stream> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        Stream::connect(&socket, &SockAddr::unix(path)?, deadline)?;
        Ok(Stream::new(socket, true, options))
    }

    fn connect(socket: &Socket, address: &SockAddr, deadline: MonotonicTime) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        match socket.connect(address) {
            Ok(()) => {}
            // EAGAIN is what a Unix socket with a full backlog says.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR)) => {
                let interest = Interest {
                    read: false,
                    write: true,
                    ..Interest::default()
                };
                loop {
                    match wait::wait(Some((socket.as_fd(), interest)), None, Some(deadline))? {
                        Woken::Ready { .. } => break,
                        Woken::Deadline => return Err(io::ErrorKind::TimedOut.into()),
                        Woken::Interrupted => {}
                    }
                }
                if let Some(error) = socket.take_error()? {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        socket.set_nonblocking(false)
    }

    /// Whether something can be received that the kernel no longer knows of.
    pub fn holds_input(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.holds_input())
    }

    /// Its place in a set of sockets, if it has one.
    pub fn registration(&self) -> Option<&Arc<Registration>> {
        self.registered.0.as_ref()
    }

    /// The number of the set that it has its place in; 0 if it is in none.
    pub fn set_number(&self) -> u32 {
        self.registration()
            .map_or(0, |registration| registration.set_number())
    }

    /// Gives it a place in a set.
    ///
    /// # Errors
    /// Those of `epoll_ctl`.
    pub fn register(&mut self, set: &Arc<PollSet>, token: u64, wanted: Interest) -> io::Result<()> {
        self.unregister();
        self.registered = Registered(Some(set.add(self.fd.as_fd(), token, wanted)?));
        Ok(())
    }

    /// Takes it out of the set that it is in.
    pub fn unregister(&mut self) {
        self.registered = Registered::default();
    }

    /// The descriptor, to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether this is a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.unix
    }

    /// The number of the system's user that has connected, if this is a Unix socket.
    pub fn system_user(&self) -> Option<u32> {
        let peer = nix::sys::socket::sockopt::PeerCredentials;
        let peer = self
            .unix
            .then(|| nix::sys::socket::getsockopt(&self.fd, peer));
        Some(peer?.ok()?.uid())
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// Those of `recv`, and those of the TLS connection: the connection is lost.
    pub fn receive(&mut self, into: &mut [u8]) -> io::Result<Received> {
        self.receive_first(into, MsgFlags::MSG_DONTWAIT)
    }

    /// Reads what is there, or comes within [`BRIEF_WAIT`]. Nothing else ends this wait: it is for a peer that is
    /// about to speak.
    ///
    /// # Errors
    /// As for [`Stream::receive`].
    pub fn receive_soon(&mut self, into: &mut [u8]) -> io::Result<Received> {
        self.receive_first(into, MsgFlags::empty())
    }

    /// The first call to the kernel has these flags; further ones, for the rest of a record, do not wait.
    fn receive_first(&mut self, into: &mut [u8], first: MsgFlags) -> io::Result<Received> {
        let fd = &self.fd;
        let Some(tls) = &mut self.tls else {
            return receive_with(fd, into, first);
        };
        let mut flags = first;
        let received = tls.receive(into, |into| {
            receive_with(
                fd,
                into,
                std::mem::replace(&mut flags, MsgFlags::MSG_DONTWAIT),
            )
        });
        if tls.owes() {
            // A KeyUpdate is answered, an alert sent, as soon as may be. If this fails, so will whoever
            // has something to send.
            let _ = tls.flush(&mut |bytes| send_to(fd, bytes));
        }
        received
    }

    /// Reads what the socket has, sealed if there is TLS: for a handshake.
    ///
    /// # Errors
    /// Those of `recv`.
    pub fn receive_raw(&self, into: &mut [u8]) -> io::Result<Received> {
        receive_from(&self.fd, into)
    }

    /// Writes as much as fits and says how much that was. Bytes sealed before go first; to send nothing
    /// is to send those.
    ///
    /// # Errors
    /// Those of `send`, and those of the TLS connection: the connection is lost.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.tls {
            None => send_to(&self.fd, bytes),
            Some(_) => self.send_pieces(&[IoSlice::new(bytes)]),
        }
    }

    /// Writes to the socket what is sealed already: for a handshake.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn send_raw(&self, bytes: &[u8]) -> io::Result<usize> {
        send_to(&self.fd, bytes)
    }

    /// Writes as much of the pieces as fits, in one call, and says how much that was.
    ///
    /// # Errors
    /// As for [`Stream::send`].
    pub fn send_pieces(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let fd = &self.fd;
        if let Some(tls) = &mut self.tls {
            return tls.send(pieces, |bytes| send_to(fd, bytes));
        }
        loop {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            return match sendmsg::<()>(fd.as_raw_fd(), pieces, &[], flags, None) {
                Ok(n) => Ok(n),
                Err(Errno::EAGAIN) => Ok(0),
                Err(Errno::EINTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Whether an idle connection is alive: nothing to read, no end, no error. Over TLS the
    /// connection's own affairs are no sound.
    pub fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        if self.tls.is_some() {
            // A byte that is taken here is not missed: a connection with something to read is not used.
            return matches!(self.receive(&mut byte), Ok(Received::Nothing))
                && self.tls.as_ref().is_some_and(|tls| !tls.holds_part());
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        matches!(
            recv(self.fd.as_raw_fd(), &mut byte, flags),
            Err(Errno::EAGAIN)
        )
    }

    /// How many bytes that were sent the peer's kernel has not taken yet (`SIOCOUTQ`, tcp(7), unix(7)).
    /// Room to write is reported only when a good part of the buffer is free; this shows every step of a
    /// peer that reads slowly.
    pub fn unsent(&self) -> usize {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the call writes one int, and the descriptor is ours.
        #[allow(unsafe_code)]
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
        if done == 0 {
            usize::try_from(bytes).unwrap_or(0)
        } else {
            0
        }
    }

    /// Whether the peer has ended the connection, or its half of it, also if bytes that it sent
    /// before are unread.
    pub fn has_hung_up(&self) -> bool {
        self.readiness().hung_up
    }

    /// How things stand, apart from reading and writing.
    pub fn readiness(&self) -> Readiness {
        let now = Some(MonotonicTime::now());
        match wait::wait(Some((self.fd(), Interest::default())), None, now) {
            Ok(Woken::Ready { client, .. }) => client,
            _ => Readiness::default(),
        }
    }

    /// Says `last`, and that nothing follows, as far as that goes without waiting.
    pub fn part(mut self, last: &[u8]) {
        let _ = self.send(last);
        let _ = self.close();
    }

    /// Says `last`, and that nothing follows, as far as that goes without waiting. The socket, if all of it went:
    /// to close it before the peer has done so could make the kernel take it back.
    pub fn say_last(mut self, last: &[u8]) -> Option<OwnedFd> {
        let sent = self.send(last).ok()?;
        if sent < last.len() || !self.close().ok()? {
            return None;
        }
        shutdown(self.fd.as_raw_fd(), Shutdown::Write).ok()?;
        Some(self.fd)
    }

    /// Says close_notify, if there is TLS; whether all that was to be written has been.
    fn close(&mut self) -> io::Result<bool> {
        let fd = &self.fd;
        match &mut self.tls {
            None => Ok(true),
            Some(tls) => {
                tls.close();
                tls.flush(&mut |bytes| send_to(fd, bytes))
            }
        }
    }

    /// Ends the connection so that `last` arrives: writes it, closes our half, and reads until the peer
    /// has closed its own. A close with unread bytes would make the kernel send a reset, and a reset can
    /// overtake what was written. Gives up after `limit`.
    pub fn finish(mut self, last: &[u8], limit: Duration) {
        let deadline = MonotonicTime::now().after(limit);
        let mut finish = Finish::new(last.to_vec());
        while let Some(interest) = finish.advance(&mut self) {
            match wait::wait(Some((self.fd(), interest)), None, Some(deadline)) {
                Ok(Woken::Ready { .. } | Woken::Interrupted) if deadline > MonotonicTime::now() => {
                }
                _ => return,
            }
        }
    }
}

/// The end of a connection, see [`Stream::finish`], as far as it has come.
#[derive(Debug)]
pub struct Finish {
    last: Vec<u8>,
    sending: bool,
}

impl Finish {
    /// These bytes are the last.
    pub fn new(last: Vec<u8>) -> Finish {
        Finish {
            last,
            sending: true,
        }
    }

    /// Does what can be done without waiting. What the socket is to be waited for; `None` if all is done.
    pub fn advance(&mut self, stream: &mut Stream) -> Option<Interest> {
        if self.sending {
            if !self.last.is_empty() {
                let n = stream.send(&self.last).ok()?;
                self.last.drain(..n);
            }
            if self.last.is_empty() {
                self.sending = !stream.close().ok()?;
            }
            if !self.sending {
                let _ = shutdown(stream.fd.as_raw_fd(), Shutdown::Write);
            }
        }
        let mut buffer = Buffer::borrow();
        if matches!(stream.receive_raw(&mut buffer), Ok(Received::End) | Err(_)) {
            return None;
        }
        Some(Interest {
            read: true,
            write: self.sending,
            ..Interest::default()
        })
    }
}

impl From<Stream> for OwnedFd {
    fn from(mut stream: Stream) -> OwnedFd {
        stream.unregister();
        stream.fd
    }
}
