//! The thread that answers HTTP: one request on each connection, then it is closed.
//!
//! Does not know what the pages say. Invariant: no peer is waited for beyond `PATIENCE`, holds more than `REQUEST`
//! bytes of a request, or keeps others out: when `CONNECTIONS` are open, a new one takes the place of the oldest.
//! While a successor has the listening sockets, nothing is accepted here.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;

use super::metrics;
use crate::net::clock::MonotonicTime;
use crate::net::listener::Listener;
use crate::net::thread;
use crate::session::shared::{Shared, Stage};

/// Connections at a time.
const CONNECTIONS: usize = 16;
/// Bytes of a request.
const REQUEST: usize = 8 * 1024;
/// Headers of a request.
const HEADERS: usize = 64;
/// How long a connection may last.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether accepting goes on, while it is paused.
const PAUSED: Duration = Duration::from_millis(20);

struct Peer {
    socket: Socket,
    until: MonotonicTime,
    request: Vec<u8>,
    response: Vec<u8>,
    written: usize,
}

/// Starts the thread.
///
/// # Errors
/// If it cannot be started.
pub fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let listeners = shared.web_listeners.lock().clone();
    if listeners.is_empty() {
        return Ok(());
    }
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().stack_size(256 * 1024);
    let started = thread.spawn(move || {
        thread::name("web");
        let mut peers = VecDeque::new();
        loop {
            turn(&shared, &listeners, &mut peers);
        }
    });
    started.map(drop)
}

fn turn(shared: &Shared, listeners: &[Arc<Listener>], peers: &mut VecDeque<Peer>) {
    let paused = shared.web_paused.load(Ordering::Acquire);
    let now = MonotonicTime::now();
    peers.retain(|peer| peer.until > now);
    let mut wait = peers.front().map(|peer| peer.until.since(now));
    if paused {
        wait = Some(wait.map_or(PAUSED, |wait| wait.min(PAUSED)));
    }
    let accepting = if paused { &[][..] } else { listeners };
    let mut fds: Vec<PollFd<'_>> = (accepting.iter())
        .map(|listener| PollFd::new(listener.fd(), PollFlags::POLLIN))
        .collect();
    fds.extend(peers.iter().map(|peer| {
        let reads = peer.response.is_empty();
        let flags = if reads {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLOUT
        };
        PollFd::new(peer.socket.as_fd(), flags)
    }));
    let timeout = wait.map_or(PollTimeout::NONE, |wait| {
        let millis = u16::try_from(wait.as_millis()).unwrap_or(u16::MAX);
        PollTimeout::from(millis.saturating_add(1))
    });
    match poll(&mut fds, timeout) {
        Ok(_) => {}
        Err(Errno::EINTR) => return,
        Err(_) => return std::thread::sleep(PAUSED),
    }
    let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
    drop(fds);
    let (new, old) = ready.split_at(accepting.len());
    let mut old = old.iter();
    peers.retain_mut(|peer| !old.next().copied().unwrap_or(false) || go_on(shared, peer));
    for (listener, _) in accepting.iter().zip(new).filter(|(_, ready)| **ready) {
        if shared.web_paused.load(Ordering::Acquire) {
            return;
        }
        match listener.accept() {
            Ok((socket, _)) if socket.set_nonblocking(true).is_ok() => {
                if peers.len() >= CONNECTIONS {
                    peers.pop_front();
                }
                peers.push_back(Peer {
                    socket,
                    until: MonotonicTime::now().after(PATIENCE),
                    request: Vec::new(),
                    response: Vec::new(),
                    written: 0,
                });
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => std::thread::sleep(PAUSED),
            _ => {}
        }
    }
}

/// Reads or writes once. False if the connection is over.
fn go_on(shared: &Shared, peer: &mut Peer) -> bool {
    if peer.response.is_empty() {
        let mut chunk = [0; 2048];
        match (&peer.socket).read(&mut chunk) {
            Ok(0) => return false,
            Ok(n) => peer.request.extend_from_slice(&chunk[..n]),
            Err(error) => return may_go_on(&error),
        }
        match answer(shared, &peer.request) {
            Some(response) => peer.response = response,
            None => return true,
        }
    }
    match (&peer.socket).write(&peer.response[peer.written..]) {
        Ok(n) => {
            peer.written += n;
            peer.written < peer.response.len()
        }
        Err(error) => may_go_on(&error),
    }
}

fn may_go_on(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// The response, if the request is whole or cannot become a good one.
fn answer(shared: &Shared, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < REQUEST => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Some(response(
                "431 Request Header Fields Too Large",
                "too large\n",
                true,
            ));
        }
        Err(_) => return Some(response("400 Bad Request", "bad request\n", true)),
    }
    let with_body = match request.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return Some(response("405 Method Not Allowed", "only GET\n", true)),
    };
    let path = request.path.unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let (status, body) = match path {
        "/metrics" => ("200 OK", metrics::text(shared)),
        "/healthz" => ("200 OK", "ok\n".to_owned()),
        "/readyz" if shared.stage() == Stage::Open => ("200 OK", "ok\n".to_owned()),
        "/readyz" => ("503 Service Unavailable", "shutting down\n".to_owned()),
        _ => ("404 Not Found", "not found\n".to_owned()),
    };
    Some(response(status, &body, with_body))
}

fn response(status: &str, body: &str, with_body: bool) -> Vec<u8> {
    let length = body.len();
    let body = if with_body { body } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
