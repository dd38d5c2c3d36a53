//! Two ends that keep to the rules understand each other, however the stream between them is cut and
//! wherever either end goes on in another process.

use super::super::channel::{Channel, HANDSHAKE, Role};
use super::{ALL, channel, hand, hear, moved, pair, record, say};

/// Numbers without rhyme, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// A stream with data in records of many sizes, and, where the version has them, key updates, asked for
/// and not, one of them in two pieces.
fn stream(mut from: Channel, dice: &mut Dice, version_has_updates: bool) -> (Vec<u8>, Vec<u8>) {
    let (mut sealed, mut data) = (Vec::new(), Vec::new());
    for round in 0..12 {
        let length = dice.below(if round == 5 { 40_000 } else { 600 });
        let piece: Vec<u8> = (0..length).map(|at| (at + round) as u8).collect();
        sealed.extend(say(&mut from, &piece, 1 + dice.below(1 << 14)));
        data.extend(piece);
        if version_has_updates && round % 3 == 0 {
            from.update_own_key(round % 2 == 0).unwrap();
        }
    }
    from.close();
    sealed.extend(from.take_replies());
    (sealed, data)
}

#[test]
fn however_a_stream_is_cut_it_says_the_same() {
    for (version, aead) in ALL {
        let mut dice = Dice(1);
        for round in 0..20 {
            let updates = version == super::Version::Tls13;
            let (sealed, data) = stream(channel(version, aead, Role::Client), &mut dice, updates);
            let mut server = channel(version, aead, Role::Server);
            let (mut pending, mut said, mut ended) = (Vec::new(), Vec::new(), false);
            let mut rest = &sealed[..];
            let longest = [1, 7, 100, 5000, 1 << 16][round % 5];
            // Byte by byte takes long for a long stream: only its first few thousand.
            while !rest.is_empty() {
                let most = if longest < 100 && said.len() > 3000 {
                    1 << 14
                } else {
                    longest
                };
                let n = (1 + dice.below(most)).min(rest.len());
                pending.extend_from_slice(&rest[..n]);
                rest = &rest[n..];
                let (more, end) = hear(&mut server, &mut pending).unwrap();
                said.extend(more);
                ended = end;
                if dice.below(10) == 0 {
                    server = moved(server);
                }
            }
            assert!(ended, "{version:?} {aead:?}");
            assert!(said == data, "{version:?} {aead:?}, round {round}");
        }
    }
}

#[test]
fn both_ends_talk_on_after_each_has_moved() {
    for (version, aead) in ALL {
        let (mut client, mut server) = pair(version, aead);
        for round in 0..5_u8 {
            let mut wire = say(&mut client, &[round; 1000], 100);
            assert_eq!(hear(&mut server, &mut wire).unwrap().0, [round; 1000]);
            server = moved(server);
            let mut wire = say(&mut server, &[round; 20_000], 1 << 14);
            client = moved(client);
            assert_eq!(hear(&mut client, &mut wire).unwrap().0, [round; 20_000]);
        }
    }
}

#[test]
fn a_requested_key_update_is_answered_once_for_all_that_wait() {
    for (version, aead) in &ALL[..3] {
        let (mut client, mut server) = pair(*version, *aead);
        let mut wire = Vec::new();
        for _ in 0..3 {
            client.update_own_key(true).unwrap();
            wire.extend(say(&mut client, b"more", 100));
        }
        assert_eq!(hear(&mut server, &mut wire).unwrap().0, b"moremoremore");
        let mut answer = server.take_replies();
        let one = 5 + 5 + 1 + 16;
        assert_eq!(answer.len(), one);
        answer.extend(say(&mut server, b"under a new key", 100));
        assert_eq!(
            hear(&mut client, &mut answer).unwrap().0,
            b"under a new key"
        );
        assert!(!client.has_replies(), "an answer asks for no answer");
    }
}

#[test]
fn a_key_is_replaced_before_it_has_sealed_too_many_records() {
    for (version, aead) in &ALL[..3] {
        let (mut client, mut server) = pair(*version, *aead);
        client.write.set_sequence((1 << 23) - 1);
        server.read.set_sequence((1 << 23) - 1);
        client.rekey_if_due().unwrap();
        assert!(!client.has_replies());
        let mut wire = say(&mut client, b"the last under this key", 100);
        client.rekey_if_due().unwrap();
        assert!(client.has_replies());
        wire.extend(say(&mut client, b"the first under the next", 100));
        let said = hear(&mut server, &mut wire).unwrap().0;
        assert_eq!(said, b"the last under this keythe first under the next");
        // The reader has seen as many as it likes to see under one key and has asked for a new one too.
        let mut wire = say(&mut server, b"yes", 100);
        assert_eq!(hear(&mut client, &mut wire).unwrap().0, b"yes");
        assert!(client.has_replies(), "it answers");
    }
}

#[test]
fn session_tickets_and_messages_in_pieces_change_nothing_for_a_client() {
    for (version, aead) in &ALL[..3] {
        let mut client = channel(*version, *aead, Role::Client);
        let mut server = hand(*version, *aead, Role::Server);
        let mut ticket = vec![4, 0, 1, 0];
        ticket.resize(4 + 256, 9);
        let mut wire = record(&mut server, HANDSHAKE, &ticket[..3]);
        wire.extend(record(&mut server, HANDSHAKE, &ticket[3..200]));
        wire.extend(record(
            &mut server,
            HANDSHAKE,
            &[&ticket[200..], &ticket[..]].concat(),
        ));
        wire.extend(record(&mut server, 23, b"data"));
        assert_eq!(
            hear(&mut client, &mut wire).unwrap(),
            (b"data".to_vec(), false)
        );
        assert!(!client.has_replies());
    }
}

#[test]
fn a_close_notify_is_answered_and_nothing_follows_either() {
    for (version, aead) in ALL {
        let (mut client, mut server) = pair(version, aead);
        client.close();
        client.close();
        let mut wire = client.take_replies();
        wire.extend_from_slice(b"anything at all");
        assert_eq!(hear(&mut server, &mut wire).unwrap(), (Vec::new(), true));
        assert!(client.seal(&mut [0; 100], 1).is_err());
        assert!(server.seal(&mut [0; 100], 1).is_err());
        let mut answer = server.take_replies();
        assert_eq!(hear(&mut client, &mut answer).unwrap(), (Vec::new(), true));
        assert!(!client.has_replies());
    }
}
