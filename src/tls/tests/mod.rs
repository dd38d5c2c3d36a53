//! The record layer against published vectors, against itself, and against peers that break the rules.

pub(crate) mod certificates;
mod conversation;
mod fuzz;
mod handshakes;
mod rules;
mod vectors;

use super::alert::Fault;
use super::channel::{Channel, Opened, Role};
use super::direction::{Direction, Way};
use super::schedule::{key_block, traffic_keys};
use super::secret::Secret;
use super::suite::{Aead, Version};

const ALL: [(Version, Aead); 6] = [
    (Version::Tls13, Aead::Aes128Gcm),
    (Version::Tls13, Aead::Aes256Gcm),
    (Version::Tls13, Aead::ChaCha20Poly1305),
    (Version::Tls12, Aead::Aes128Gcm),
    (Version::Tls12, Aead::Aes256Gcm),
    (Version::Tls12, Aead::ChaCha20Poly1305),
];

fn secret(aead: Aead, fill: u8) -> Secret {
    Secret::new(&vec![fill; aead.hash().size()]).unwrap()
}

/// One side of a connection whose secrets are known to everybody.
fn channel(version: Version, aead: Aead, role: Role) -> Channel {
    let (keys, sequence) = match version {
        Version::Tls13 => {
            let keys = |fill| traffic_keys(aead, &secret(aead, fill)).unwrap();
            ((keys(1), keys(2)), 0)
        }
        Version::Tls12 => {
            let master = Secret::new(&[7; 48]).unwrap();
            (key_block(aead, &master, &[1; 32], &[2; 32]).unwrap(), 1)
        }
    };
    Channel::new(version, "a suite".into(), aead, role, keys, sequence).unwrap()
}

fn pair(version: Version, aead: Aead) -> (Channel, Channel) {
    let side = |role| channel(version, aead, role);
    (side(Role::Client), side(Role::Server))
}

/// The hand of a peer that seals whatever it likes.
fn hand(version: Version, aead: Aead, role: Role) -> Direction {
    let keys = match version {
        Version::Tls13 => {
            let fill = if role == Role::Client { 1 } else { 2 };
            traffic_keys(aead, &secret(aead, fill)).unwrap()
        }
        Version::Tls12 => {
            let master = Secret::new(&[7; 48]).unwrap();
            let (client, server) = key_block(aead, &master, &[1; 32], &[2; 32]).unwrap();
            if role == Role::Client { client } else { server }
        }
    };
    let sequence = u64::from(version == Version::Tls12);
    Direction::new(version, aead, Way::Out, keys, sequence)
}

/// A record of any content type, with anything in it.
fn record(hand: &mut Direction, kind: u8, payload: &[u8]) -> Vec<u8> {
    let (start, end) = (hand.headroom(), hand.tailroom());
    let mut record = vec![0; start + payload.len() + end];
    record[start..start + payload.len()].copy_from_slice(payload);
    let length = hand.seal(kind, &mut record, payload.len()).unwrap();
    record.truncate(length);
    record
}

/// What was said, as records of at most `most` bytes of plaintext, behind what the connection had to say
/// by itself.
fn say(channel: &mut Channel, data: &[u8], most: usize) -> Vec<u8> {
    let mut out = channel.take_replies();
    for piece in data.chunks(most) {
        let (start, end) = (channel.headroom(), channel.tailroom());
        let mut record = vec![0; start + piece.len() + end];
        record[start..start + piece.len()].copy_from_slice(piece);
        let length = channel.seal(&mut record, piece.len()).unwrap();
        out.extend_from_slice(&record[..length]);
    }
    out
}

/// What a stream of records says: the plaintext, and whether it has ended.
fn hear(channel: &mut Channel, bytes: &mut Vec<u8>) -> Result<(Vec<u8>, bool), Fault> {
    let mut said = Vec::new();
    loop {
        match channel.open(bytes)? {
            Opened::Incomplete => return Ok((said, false)),
            Opened::Data { plaintext, record } => {
                said.extend_from_slice(&bytes[plaintext]);
                bytes.drain(..record);
            }
            Opened::Nothing { record } => {
                bytes.drain(..record);
            }
            Opened::End => return Ok((said, true)),
        }
    }
}

/// The connection as it arrives in another process.
fn moved(channel: Channel) -> Channel {
    let mut written = Vec::new();
    ciborium::into_writer(&channel, &mut written).unwrap();
    drop(channel);
    let mut channel: Channel = ciborium::from_reader(written.as_slice()).unwrap();
    channel.prepare().unwrap();
    channel
}
