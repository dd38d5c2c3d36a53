//! Streams with TLS: what was said arrives whole, a wait knows what the kernel does not, and all that is
//! under way goes to another process.

use std::io::IoSlice;
use std::time::Duration;

use super::super::address::Address;
use super::super::clock::MonotonicTime;
use super::super::encrypted::Encrypted;
use super::super::stream::{self, Received, Stream};
use super::super::wait::{Interest, Readiness, Woken};
use super::pair;
use crate::net::exchange::Exchange;
use crate::tls::handshake::Host;
use crate::tls::identity::{Acceptor, ClientCertPolicy, Connector, TlsFiles};
use crate::tls::tests::certificates::{anonymous, authority};

/// The two ends of a connection, the server's first.
fn encrypted_pair(new: bool) -> (Stream, Stream) {
    let own = authority();
    let with = |material: TlsFiles<'static>| match new {
        true => TlsFiles {
            suites_12: "",
            ..material
        },
        false => TlsFiles {
            suites_13: "",
            ..material
        },
    };
    let acceptor = Acceptor::new(&own.material(), &[], ClientCertPolicy::Nothing).unwrap();
    let connector = Connector::new(&with(anonymous())).unwrap();
    let (here, there) = pair();
    let exchange = |stream| Exchange {
        stream,
        inbox: Vec::new(),
        deadline: None,
        must_stop: &|| false,
    };
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let mut exchange = exchange(here);
            exchange.accept_tls(&acceptor).unwrap();
            exchange.stream
        });
        let mut exchange = exchange(there);
        let host = Host {
            name: "db.example",
            verified: false,
        };
        exchange.connect_tls(&connector, host).unwrap();
        (server.join().unwrap(), exchange.stream)
    })
}

/// The stream as it arrives in another process.
fn moved(stream: Stream) -> Stream {
    let mut written = Vec::new();
    ciborium::into_writer(stream.tls().unwrap(), &mut written).unwrap();
    let mut tls: Encrypted = ciborium::from_reader(written.as_slice()).unwrap();
    tls.prepare().unwrap();
    let peer = Address::Unix("somewhere".into());
    Stream::inherit(stream.into(), &peer, Some(tls))
}

fn readable(stream: &Stream) -> bool {
    let now = Some(MonotonicTime::now());
    let woken = stream::wait(Some((stream, Interest::READ)), None, now).unwrap();
    matches!(woken, Woken::Ready { client, .. } if client.readable)
}

/// All that is there, taken `most` bytes at a time, waiting before each as a thread would.
fn hear(stream: &mut Stream, most: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut chunk = vec![0; most];
    while readable(stream) {
        match stream.receive(&mut chunk).unwrap() {
            Received::Bytes(n) => heard.extend_from_slice(&chunk[..n]),
            Received::Nothing => {}
            Received::End => break,
        }
    }
    heard
}

#[test]
fn plaintext_that_was_opened_and_not_taken_does_not_wait_for_the_socket() {
    for new in [true, false] {
        let (mut a, mut b) = encrypted_pair(new);
        let said: Vec<u8> = (0..60_000_u32).map(|n| (n % 251) as u8).collect();
        let mut sent = 0;
        while sent < said.len() {
            sent += a.send(&said[sent..]).unwrap();
        }
        // In pieces that never end where a record does.
        assert!(hear(&mut b, 777) == said);
        assert!(
            !readable(&b),
            "and a stream that holds nothing is waited for"
        );
        a.send_pieces(&[
            IoSlice::new(b"in "),
            IoSlice::new(b""),
            IoSlice::new(b"pieces"),
        ])
        .unwrap();
        assert_eq!(hear(&mut b, 100), b"in pieces");
    }
}

#[test]
fn both_sides_of_a_wait_are_looked_at_when_one_holds_plaintext() {
    let (mut a, mut b) = encrypted_pair(true);
    let (c, mut d) = pair();
    a.send(b"two words").unwrap();
    let mut word = [0; 3];
    assert!(readable(&b));
    b.receive(&mut word).unwrap();
    d.send(b"x").unwrap();
    let woken = stream::wait(Some((&c, Interest::READ)), Some((&b, Interest::READ)), None);
    let ready = Readiness {
        readable: true,
        ..Readiness::default()
    };
    assert_eq!(
        woken.unwrap(),
        Woken::Ready {
            client: ready,
            server: ready
        }
    );
    // Nobody asks for it now: that it is there wakes nobody.
    let soon = Some(MonotonicTime::now());
    let woken = stream::wait(None, Some((&b, Interest::default())), soon).unwrap();
    assert_eq!(woken, Woken::Deadline);
}

#[test]
fn what_does_not_fit_into_the_socket_is_owed_and_stays_in_order_across_moves() {
    for new in [true, false] {
        let (mut a, mut b) = encrypted_pair(new);
        let said: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 253) as u8).collect();
        let (mut sent, mut heard, mut stops) = (0, Vec::new(), 0);
        while sent < said.len() || a.owes() {
            let end = said.len().min(sent + 50_000);
            let n = a.send(&said[sent..end]).unwrap();
            sent += n;
            if n == 0 && a.owes() {
                stops += 1;
                a = moved(a);
                // Not to the end: part of a record stays behind.
                let mut some = vec![0; 100_001];
                let n = match b.receive(&mut some).unwrap() {
                    Received::Bytes(n) => n,
                    _ => 0,
                };
                heard.extend_from_slice(&some[..n]);
                b = moved(b);
            }
        }
        heard.extend(hear(&mut b, 10_000));
        assert!(heard == said);
        assert!(stops > 3, "the socket was never full: {stops}");
    }
}

#[test]
fn an_end_is_told_as_often_as_it_is_asked_for_and_last_words_arrive() {
    for new in [true, false] {
        let (a, mut b) = encrypted_pair(new);
        b.send(b"unread").unwrap();
        let close_reason =
            std::thread::spawn(move || a.finish(b"goodbye", Duration::from_secs(30)));
        let mut heard = Vec::new();
        let mut chunk = [0; 100];
        loop {
            stream::wait(Some((&b, Interest::READ)), None, None).unwrap();
            match b.receive(&mut chunk).unwrap() {
                Received::Bytes(n) => heard.extend_from_slice(&chunk[..n]),
                Received::Nothing => {}
                Received::End => break,
            }
        }
        assert_eq!(heard, b"goodbye");
        assert!(readable(&b));
        assert_eq!(b.receive(&mut chunk).unwrap(), Received::End);
        assert!(b.send(b"too late").is_err());
        drop(b);
        close_reason.join().unwrap();
    }
}

#[test]
fn a_silent_connection_is_told_from_one_with_something_to_say() {
    for new in [true, false] {
        let (mut a, mut b) = encrypted_pair(new);
        assert!(a.is_silent() && b.is_silent());
        a.send(b"x").unwrap();
        assert!(!b.is_silent());
        let (a, mut b) = encrypted_pair(new);
        a.part(b"");
        assert!(!b.is_silent());
    }
}

#[test]
fn garbage_on_the_wire_is_an_error_and_the_peer_is_told() {
    for new in [true, false] {
        let (mut a, mut b) = encrypted_pair(new);
        a.send_raw(b"\x17\x03\x03\0\x20 this was not sealed by anybody ")
            .unwrap();
        assert!(readable(&b));
        let error = b.receive(&mut [0; 100]).unwrap_err();
        assert!(error.to_string().contains("bad_record_mac"), "{error}");
        assert!(readable(&b), "it is an error again");
        assert!(b.receive(&mut [0; 100]).is_err());
        let told = a.receive(&mut [0; 100]).unwrap_err();
        assert!(
            told.to_string().contains("fatal alert: bad_record_mac"),
            "{told}"
        );
    }
}
