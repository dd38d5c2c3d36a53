//! The net room against the kernel.

mod tls;

use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::SigSet;
use socket2::{Domain, Socket, Type};

use super::clock::MonotonicTime;
use super::stream::{Received, SocketOptions, Stream};
use super::unix_listener::bind_unix;
use super::wait::{Interest, Woken, prepare_process, wait, wake};

fn pair() -> (Stream, Stream) {
    let (a, b) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
    let options = SocketOptions::default();
    (
        Stream::new(a, true, &options),
        Stream::new(b, true, &options),
    )
}

#[test]
fn a_wake_up_that_comes_before_the_wait_is_not_missed() {
    prepare_process(&SigSet::empty()).unwrap();
    let (a, _b) = pair();
    wake(super::thread::number());
    let deadline = MonotonicTime::now().after(Duration::from_secs(30));
    let woken = wait(Some((a.fd(), Interest::READ)), None, Some(deadline)).unwrap();
    assert_eq!(woken, Woken::Interrupted);
}

#[test]
fn a_wake_up_ends_a_wait_that_has_begun() {
    prepare_process(&SigSet::empty()).unwrap();
    let (tell, told) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let (a, _b) = pair();
        tell.send(super::thread::number()).unwrap();
        wait(Some((a.fd(), Interest::READ)), None, None).unwrap()
    });
    wake(told.recv().unwrap());
    assert_eq!(waiter.join().unwrap(), Woken::Interrupted);
}

#[test]
fn a_wait_tells_which_socket_is_ready() {
    let (client, client_peer) = pair();
    let (server, mut server_peer) = pair();
    assert_eq!(server_peer.send(b"x").unwrap(), 1);
    let woken = wait(
        Some((client.fd(), Interest::READ)),
        Some((server.fd(), Interest::READ)),
        None,
    )
    .unwrap();
    let Woken::Ready {
        client: c,
        server: s,
    } = woken
    else {
        panic!("{woken:?}");
    };
    assert!(s.readable && !c.readable && !c.hung_up);
    drop(client_peer);
    let woken = wait(Some((client.fd(), Interest::default())), None, None).unwrap();
    assert!(matches!(woken, Woken::Ready { client, .. } if client.hung_up));
}

#[test]
fn a_silent_connection_is_told_from_a_dead_one() {
    let (mut a, mut b) = pair();
    assert!(a.is_silent() && !a.has_hung_up());
    b.send(b"x").unwrap();
    assert!(!a.is_silent() && !a.has_hung_up());
    assert_eq!(a.receive(&mut [0; 8]).unwrap(), Received::Bytes(1));
    drop(b);
    assert!(!a.is_silent() && a.has_hung_up());
}

#[test]
fn last_words_arrive_although_the_peer_had_more_to_say() {
    let (a, mut b) = pair();
    b.send(b"unread").unwrap();
    let close_reason = std::thread::spawn(move || a.finish(b"goodbye", Duration::from_secs(30)));
    let mut heard = [0; 16];
    let heard_from = |b: &mut Stream, into: &mut [u8]| loop {
        match b.receive(into).unwrap() {
            Received::Nothing => {
                wait(Some((b.fd(), Interest::READ)), None, None).unwrap();
            }
            other => return other,
        }
    };
    assert_eq!(heard_from(&mut b, &mut heard), Received::Bytes(7));
    assert_eq!(&heard[..7], b"goodbye");
    assert_eq!(heard_from(&mut b, &mut heard), Received::End);
    drop(b);
    close_reason.join().unwrap();
}

#[test]
fn a_unix_listener_replaces_a_stale_file_and_respects_a_live_one() {
    let directory = std::env::temp_dir().join(format!("doorman-net-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(".s.PGSQL.6432");
    let first = bind_unix(&directory, 6432, 0o660, 16).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let refused = bind_unix(&directory, 6432, 0o660, 16).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
    assert!(refused.to_string().contains(".s.PGSQL.6432"));
    drop(first);
    assert!(!path.exists(), "our own file is removed");

    let stale = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    stale
        .bind(&socket2::SockAddr::unix(&path).unwrap())
        .unwrap();
    drop(stale);
    assert!(path.exists());
    let second = bind_unix(&directory, 6432, 0o600, 16).unwrap();
    drop(second);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn what_is_left_to_the_system_does_not_keep_the_rest_from_being_set() {
    let options = SocketOptions {
        keepalive_idle: Some(Duration::from_secs(7)),
        keepalive_interval: None,
        keepalive_count: Some(3),
        ..SocketOptions::default()
    };
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let systems = socket.tcp_keepalive_interval().unwrap();
    let stream = Stream::new(socket, false, &options);
    let fd = stream.fd();
    let socket = socket2::SockRef::from(&fd);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), systems);
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
}
