//! One connection to a server, non-blocking: bytes to send, messages received.
//!
//! It sorts what a server may say at any time from what it says in reply, and believes nothing else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::frontend::{Front, startup};
use crate::reply::Reply;

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// At this port of this host.
    Tcp(u16),
    /// At this Unix socket.
    Unix(PathBuf),
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }

    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(from),
            Self::Unix(stream) => stream.write(from),
        }
    }
}

/// A connection to a server.
pub struct Connection {
    socket: Socket,
    unsent: Vec<u8>,
    unread: Vec<u8>,
    /// What the server has replied.
    pub replies: Vec<Reply>,
    /// What it has said besides: notices and notifications.
    pub asides: Vec<Reply>,
    /// The parameters it has reported, as they are now.
    pub parameters: BTreeMap<String, String>,
    /// The process id it has told.
    pub pid: i32,
    /// The key for cancelling.
    pub key: Vec<u8>,
    /// Whether the server has closed the connection.
    pub closed: bool,
    sleep: Option<File>,
}

impl Connection {
    /// Connects and sends the startup packet.
    pub fn open(address: &Address, parameters: &[(String, String)]) -> std::io::Result<Self> {
        let mut connection = Self::bare(address)?;
        connection.send(&startup(parameters));
        Ok(connection)
    }

    /// Connects.
    pub fn bare(address: &Address) -> std::io::Result<Self> {
        let socket = match address {
            Address::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Socket::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Socket::Unix(stream)
            }
        };
        Ok(Self {
            socket,
            unsent: Vec::new(),
            unread: Vec::new(),
            replies: Vec::new(),
            asides: Vec::new(),
            parameters: BTreeMap::new(),
            pid: 0,
            key: Vec::new(),
            closed: false,
            sleep: None,
        })
    }

    /// Its descriptor, to wait for.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }

    /// Closes with a reset, as a host that crashes does.
    pub fn reset(self) {
        if let Socket::Tcp(stream) = self.socket {
            let socket = socket2::Socket::from(stream);
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }

    /// Sends bytes, as far as the socket takes them; the rest goes with the next `pump`.
    pub fn send(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
        self.pump();
    }

    /// Writes and reads what can be, without waiting. Returns whether anything was.
    pub fn pump(&mut self) -> bool {
        let mut moved = false;
        while !self.unsent.is_empty() && !self.closed {
            match self.socket.write(&self.unsent) {
                Ok(count) => {
                    moved |= count > 0;
                    self.unsent.drain(..count);
                }
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.unsent.clear(),
            }
        }
        let mut piece = [0; 65536];
        while !self.closed {
            match self.socket.read(&mut piece) {
                Ok(0) => self.closed = true,
                Ok(count) => {
                    self.unread.extend_from_slice(&piece[..count]);
                    moved = true;
                }
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.closed = true,
            }
        }
        self.sort();
        moved
    }

    /// Waits until something can be read or written, or the time is over.
    pub fn wait(&self, most: Duration) {
        let mut flags = PollFlags::POLLIN;
        if !self.unsent.is_empty() {
            flags |= PollFlags::POLLOUT;
        }
        let time = PollTimeout::try_from(most).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut [PollFd::new(self.fd(), flags)], time);
    }

    fn sort(&mut self) {
        let mut at = 0;
        while let Some(head) = self.unread.get(at..at + 5) {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let end = at + 1 + usize::try_from(length).unwrap_or(usize::MAX / 2);
            let (kind, Some(body)) = (head[0], self.unread.get(at + 5..end)) else {
                break;
            };
            let reply = Reply::new(kind, body);
            match kind {
                b'S' => {
                    let text = String::from_utf8_lossy(body).into_owned();
                    let mut words = text.split('\0');
                    let (name, value) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
                    self.parameters.insert(name.into(), value.into());
                }
                b'K' if body.len() >= 4 => {
                    self.pid = i32::from_be_bytes([body[0], body[1], body[2], body[3]]);
                    self.key = body[4..].to_vec();
                }
                _ if reply.is_asynchronous() => self.asides.push(reply),
                _ => self.replies.push(reply),
            }
            at = end;
        }
        self.unread.drain(..at);
    }

    /// Waits until the backend at the other end has done all that it was sent: until it waits for its client.
    /// Only for a connection straight to PostgreSQL. False if it takes too long.
    pub fn settle(&mut self, most: Duration) -> bool {
        let start = Instant::now();
        loop {
            let moved = self.pump();
            if self.closed {
                return true;
            }
            if !moved && self.pid > 0 && self.backend_waits() && !self.pump() {
                return true;
            }
            if start.elapsed() > most {
                return false;
            }
            if self.pid == 0 {
                if self.replies.last().is_some_and(|reply| reply.kind == b'E') {
                    self.wait(Duration::from_millis(20));
                }
                self.wait(Duration::from_millis(20));
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// Whether the backend sleeps in epoll_wait. It is woken within our own send, so that it cannot be seen
    /// there before it has read what was sent.
    fn backend_waits(&mut self) -> bool {
        if self.sleep.is_none() {
            self.sleep = File::open(format!("/proc/{}/wchan", self.pid)).ok();
        }
        let mut place = [0; 64];
        match self.sleep.as_ref().map(|file| file.read_at(&mut place, 0)) {
            Some(Ok(count)) => place[..count].windows(5).any(|word| word == b"epoll"),
            _ => false,
        }
    }

    /// Asks a simple query and returns all that is replied, up to ReadyForQuery.
    pub fn ask(&mut self, sql: &str, most: Duration) -> Vec<Reply> {
        let from = self.replies.len();
        self.send(&Front::Query(sql.into()).bytes());
        self.await_ready(from, most);
        self.replies[from..].to_vec()
    }

    /// Waits for a ReadyForQuery among the replies from this one on, or the end. False if it takes too long.
    pub fn await_ready(&mut self, from: usize, most: Duration) -> bool {
        let start = Instant::now();
        while !self.closed && !self.replies[from..].iter().any(|reply| reply.kind == b'Z') {
            if start.elapsed() > most {
                return false;
            }
            self.wait(Duration::from_millis(50));
            self.pump();
        }
        true
    }
}

/// Waits until one of these connections has something to say.
pub fn wait_any<'a>(connections: impl Iterator<Item = &'a Connection>, most: Duration) {
    let mut all: Vec<_> = connections
        .filter(|connection| !connection.closed)
        .map(|connection| {
            let mut flags = PollFlags::POLLIN;
            if !connection.unsent.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            PollFd::new(connection.fd(), flags)
        })
        .collect();
    let time = PollTimeout::try_from(most).unwrap_or(PollTimeout::ZERO);
    let _ = poll(&mut all, time);
}
