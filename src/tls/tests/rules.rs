//! Whatever breaks the rules ends the connection with the alert the RFC names, and stays ended.

use super::super::alert::{Alert, Fault};
use super::super::channel::{ALERT, APPLICATION_DATA, Channel, HANDSHAKE, Role};
use super::super::direction::Direction;
use super::super::suite::Version;
use super::{ALL, channel, hand, hear, moved, pair, record, say};

const V13: Version = Version::Tls13;
const V12: Version = Version::Tls12;

/// What the server says to records that a client's hand has made, in every suite of the version.
fn server_meets(version: Version, peer: impl Fn(&mut Direction) -> Vec<u8>, expected: Alert) {
    meets(version, Role::Server, peer, expected);
}

fn meets(version: Version, role: Role, peer: impl Fn(&mut Direction) -> Vec<u8>, alert: Alert) {
    let other = if role == Role::Server {
        Role::Client
    } else {
        Role::Server
    };
    for (v, aead) in ALL {
        if v != version {
            continue;
        }
        let mut ours = channel(v, aead, role);
        let mut wire = peer(&mut hand(v, aead, other));
        assert_eq!(
            hear(&mut ours, &mut wire),
            Err(Fault::Ours(alert)),
            "{aead:?}"
        );
        let mut told = ours.take_replies();
        let mut theirs = channel(v, aead, other);
        let heard = hear(&mut theirs, &mut told);
        assert_eq!(
            heard,
            Err(Fault::Theirs(alert)),
            "it is told by a fatal alert"
        );
        let mut ours = moved(ours);
        assert_eq!(hear(&mut ours, &mut vec![0; 5]), Err(Fault::Ours(alert)));
        assert!(ours.seal(&mut [0; 100], 1).is_err());
        assert!(!ours.has_replies(), "one alert is enough");
    }
}

#[test]
fn a_record_with_any_bit_turned_is_a_bad_one() {
    for (version, aead) in ALL {
        let (mut client, _) = pair(version, aead);
        let good = say(&mut client, b"some words", 100);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut server = channel(version, aead, Role::Server);
            match hear(&mut server, &mut bad) {
                Err(Fault::Ours(alert)) => {
                    // Type, major version and length are looked at before the record can be opened.
                    assert!(
                        alert == Alert::BAD_RECORD_MAC || bit < 40,
                        "bit {bit}: {alert}"
                    );
                }
                // It claims to be longer than it is.
                Ok((said, false)) => assert!(said.is_empty() && (24..40).contains(&bit)),
                other => panic!("bit {bit}: {other:?}"),
            }
        }
    }
}

#[test]
fn records_repeated_left_out_or_in_the_wrong_order_are_bad() {
    for (version, aead) in ALL {
        let (mut client, _) = pair(version, aead);
        let [one, two] = [b"one", b"two"].map(|word| say(&mut client, word, 9));
        for mut wire in [
            [&one[..], &one].concat(),
            two.clone(),
            [&two[..], &one].concat(),
        ] {
            let mut server = channel(version, aead, Role::Server);
            let heard = hear(&mut server, &mut wire);
            assert_eq!(heard, Err(Fault::Ours(Alert::BAD_RECORD_MAC)));
        }
    }
}

#[test]
fn a_record_too_short_to_be_one_is_a_bad_one() {
    for length in 0..16 {
        let short = |_: &mut Direction| {
            let mut record = vec![APPLICATION_DATA, 3, 3, 0, length];
            record.resize(5 + usize::from(length), 0);
            record
        };
        server_meets(V13, short, Alert::BAD_RECORD_MAC);
        server_meets(V12, short, Alert::BAD_RECORD_MAC);
    }
}

#[test]
fn a_record_too_long_is_refused_before_it_has_come() {
    let long = |_: &mut Direction| vec![APPLICATION_DATA, 3, 3, 0x41, 0x01];
    server_meets(V13, long, Alert::RECORD_OVERFLOW);
    server_meets(V12, long, Alert::RECORD_OVERFLOW);
    let padded = |hand: &mut Direction| record(hand, APPLICATION_DATA, &[1; (1 << 14) + 1]);
    server_meets(V13, padded, Alert::RECORD_OVERFLOW);
    server_meets(V12, padded, Alert::RECORD_OVERFLOW);
}

#[test]
fn what_is_no_record_of_an_established_connection_is_unexpected() {
    for (kind, major) in [
        (20, 3),
        (22, 3),
        (21, 3),
        (24, 3),
        (0, 3),
        (b'Q', 0),
        (23, 2),
    ] {
        let strange = move |_: &mut Direction| vec![kind, major, 3, 0, 1, 1];
        server_meets(V13, strange, Alert::UNEXPECTED_MESSAGE);
    }
    for (kind, major) in [(20, 3), (24, 3), (0, 3), (b'Q', 0), (23, 2)] {
        let strange = move |_: &mut Direction| vec![kind, major, 3, 0, 1, 1];
        server_meets(V12, strange, Alert::UNEXPECTED_MESSAGE);
    }
    // Content types that TLS 1.3 hides; type 0 is nothing but padding.
    for kind in [0, 20, 24] {
        server_meets(
            V13,
            |hand| record(hand, kind, &[]),
            Alert::UNEXPECTED_MESSAGE,
        );
    }
}

#[test]
fn a_key_update_that_is_none_is_refused() {
    for (body, alert) in [
        (&[24, 0, 0, 1, 2][..], Alert::ILLEGAL_PARAMETER),
        (&[24, 0, 0, 2, 0, 0], Alert::DECODE_ERROR),
        (&[24, 0, 0, 0], Alert::DECODE_ERROR),
        // Something follows it under the same key.
        (&[24, 0, 0, 1, 0, 24], Alert::UNEXPECTED_MESSAGE),
        (&[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], Alert::UNEXPECTED_MESSAGE),
        (&[], Alert::UNEXPECTED_MESSAGE),
        // Longer than anything that makes sense.
        (&[4, 1, 0, 0], Alert::DECODE_ERROR),
    ] {
        server_meets(V13, |hand| record(hand, HANDSHAKE, body), alert);
    }
}

#[test]
fn messages_of_the_handshake_layer_that_have_no_place_are_unexpected() {
    // A ticket from a client; a ClientHello, a CertificateRequest or a Finished after the handshake.
    for kind in [4, 1, 13, 20] {
        let message = |hand: &mut Direction| record(hand, HANDSHAKE, &[kind, 0, 0, 1, 0]);
        server_meets(V13, message, Alert::UNEXPECTED_MESSAGE);
    }
    let request = |hand: &mut Direction| record(hand, HANDSHAKE, &[13, 0, 0, 1, 0]);
    meets(V13, Role::Client, request, Alert::UNEXPECTED_MESSAGE);
    let update = |hand: &mut Direction| record(hand, HANDSHAKE, &[24, 0, 0, 1, 0]);
    server_meets(V12, update, Alert::UNEXPECTED_MESSAGE);
    for version in [V13, V12] {
        let interrupted = |hand: &mut Direction| {
            let mut wire = record(hand, HANDSHAKE, &[24, 0, 0]);
            wire.extend(record(hand, APPLICATION_DATA, b"data"));
            wire
        };
        server_meets(version, interrupted, Alert::UNEXPECTED_MESSAGE);
    }
}

#[test]
fn renegotiation_is_refused_and_the_connection_goes_on() {
    for (version, aead) in &ALL[3..] {
        for (role, other, hello) in [
            (Role::Server, Role::Client, &[1, 0, 0, 2, 3, 3][..]),
            (Role::Client, Role::Server, &[0, 0, 0, 0]),
        ] {
            let mut ours = channel(*version, *aead, role);
            let mut peer = hand(*version, *aead, other);
            let mut wire = record(&mut peer, HANDSHAKE, hello);
            wire.extend(record(&mut peer, APPLICATION_DATA, b"then not"));
            assert_eq!(hear(&mut ours, &mut wire).unwrap().0, b"then not");
            let mut theirs = channel(*version, *aead, other);
            let mut answer = ours.take_replies();
            let opened = theirs.read.open(&mut answer).unwrap();
            assert_eq!(answer[opened], [1, 100], "a warning: no_renegotiation");
        }
    }
}

#[test]
fn a_peer_that_never_reads_makes_no_queue_of_answers() {
    for (version, aead) in &ALL[3..] {
        for (role, other, hello) in [
            (Role::Server, Role::Client, [1, 0, 0, 0]),
            (Role::Client, Role::Server, [0, 0, 0, 0]),
        ] {
            let mut ours = channel(*version, *aead, role);
            let mut peer = hand(*version, *aead, other);
            for _ in 0..100 {
                let mut wire = record(&mut peer, HANDSHAKE, &hello.repeat(1000));
                wire.extend(record(&mut peer, APPLICATION_DATA, b"x"));
                assert_eq!(hear(&mut ours, &mut wire).unwrap().0, b"x");
                ours = moved(ours);
            }
            let owed = ours.take_replies().len();
            assert!(owed < 100, "one alert: {owed}");
            // Messages are counted, not the records they come in.
            let mut wire = record(&mut peer, HANDSHAKE, &hello.repeat(1025));
            let heard = hear(&mut ours, &mut wire);
            assert_eq!(heard, Err(Fault::Ours(Alert::UNEXPECTED_MESSAGE)));
        }
    }
    for (version, aead) in &ALL[..3] {
        let mut server = channel(*version, *aead, Role::Server);
        let mut peer = hand(*version, *aead, Role::Client);
        for _ in 0..2000 {
            let mut wire = record(&mut peer, HANDSHAKE, &[24, 0, 0, 1, 1]);
            peer.update().unwrap();
            wire.extend(record(&mut peer, APPLICATION_DATA, b"x"));
            assert_eq!(hear(&mut server, &mut wire).unwrap().0, b"x");
        }
        let owed = server.take_replies().len();
        assert!(owed < 100, "one answer: {owed}");
    }
}

#[test]
fn empty_records_and_messages_without_data_are_borne_only_so_long() {
    for version in [V13, V12] {
        let empty = |hand: &mut Direction| record(hand, APPLICATION_DATA, b"");
        let some =
            |hand: &mut Direction, n: usize| (0..n).flat_map(|_| empty(hand)).collect::<Vec<u8>>();
        server_meets(version, |hand| some(hand, 33), Alert::UNEXPECTED_MESSAGE);
        for (v, aead) in ALL.into_iter().filter(|(v, _)| *v == version) {
            let mut server = channel(v, aead, Role::Server);
            let mut peer = hand(v, aead, Role::Client);
            let mut wire = some(&mut peer, 32);
            wire.extend(record(&mut peer, APPLICATION_DATA, b"x"));
            wire.extend(some(&mut peer, 32));
            assert_eq!(hear(&mut server, &mut wire).unwrap().0, b"x");
        }
    }
    let updates = |hand: &mut Direction| {
        let mut wire = Vec::new();
        for _ in 0..1025 {
            wire.extend(record(hand, HANDSHAKE, &[24, 0, 0, 1, 1]));
            hand.update().unwrap();
        }
        wire
    };
    for (version, aead) in &ALL[..1] {
        let mut server = channel(*version, *aead, Role::Server);
        let mut wire = updates(&mut hand(*version, *aead, Role::Client));
        let heard = hear(&mut server, &mut wire);
        assert_eq!(heard, Err(Fault::Ours(Alert::UNEXPECTED_MESSAGE)));
        let owed = server.take_replies().len();
        assert!(
            owed < 100,
            "one answer and the alert, not a thousand: {owed}"
        );
    }
}

#[test]
fn alerts_of_the_peer_end_the_connection_unless_they_are_warnings() {
    let say = |peer: &mut Direction, alert: &[u8]| record(peer, ALERT, alert);
    for (version, aead) in ALL {
        let heard = |alert: &[u8]| {
            let mut server: Channel = channel(version, aead, Role::Server);
            let heard = hear(
                &mut server,
                &mut say(&mut hand(version, aead, Role::Client), alert),
            );
            (heard, server.has_replies())
        };
        let gone = |number| (Err(Fault::Theirs(Alert(number))), false);
        assert_eq!(heard(&[2, 80]), gone(80));
        assert_eq!(heard(&[1, 0]), (Ok((Vec::new(), true)), true));
        assert_eq!(heard(&[1, 90]), (Ok((Vec::new(), false)), false));
        let (other, _) = heard(&[1, 42]);
        match version {
            V13 => assert_eq!(other, Err(Fault::Theirs(Alert(42)))),
            V12 => assert_eq!(other, Ok((Vec::new(), false))),
        }
    }
    for version in [V13, V12] {
        for wrong in [&[][..], &[2], &[1, 0, 0]] {
            server_meets(
                version,
                |hand| record(hand, ALERT, wrong),
                Alert::DECODE_ERROR,
            );
        }
    }
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..20_000 {
        let (version, aead) = ALL[round % ALL.len()];
        let mut noise: Vec<u8> = (0..round % 97)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        if round % 2 == 0 {
            // Half of them get past the header.
            for (to, from) in noise.iter_mut().zip([23, 3, 3, 0]) {
                *to = from;
            }
        }
        let mut server = channel(version, aead, Role::Server);
        let heard = hear(&mut server, &mut noise);
        assert!(heard.is_err() || heard == Ok((Vec::new(), false)));
    }
}
