//! What a peer may do to the record reader, as a script of bytes: records of any type and content that are
//! sealed as they should be, records damaged, cut short, repeated or left out, bytes that are no record.
//!
//! Run from the unit tests with scripts from a generator, and from `fuzz_targets/` with those of libFuzzer.
//! It holds, whatever the script: nothing panics; no record gives more than 2^14 bytes; what was once refused
//! stays refused; what the reader keeps and answers is bounded; and the same stream means the same however it
//! is cut and wherever the connection goes on in another process.

use pg_doorman::tls::alert::Fault;
use pg_doorman::tls::channel::{Channel, MAX_PLAINTEXT, MAX_RECORD, Opened, Role};
use pg_doorman::tls::direction::{Direction, Way};
use pg_doorman::tls::schedule::{key_block, traffic_keys};
use pg_doorman::tls::secret::Secret;
use pg_doorman::tls::suite::{Aead, Version};

/// Bytes that the reader keeps and answers, at most: the beginning of a handshake message, and an alert or a
/// few answers to KeyUpdates.
const MAX_WRITTEN: usize = 128 * 1024;

/// The script, byte by byte; zeroes behind its end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }
}

/// Plays a script.
///
/// # Panics
/// If something does not hold.
pub fn play(script: &[u8]) {
    let mut script = Script(script);
    let kind = script.byte();
    let version = [Version::Tls13, Version::Tls12][usize::from(kind & 1)];
    let aead =
        [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305][usize::from(kind >> 1) % 3];
    let role = if kind & 0x80 == 0 {
        Role::Server
    } else {
        Role::Client
    };
    let cuts = u64::from(kind) << 8 | u64::from(script.byte()) | 1;
    let stream = stream(&mut script, version, aead, role);

    let whole = read(
        &mut channel(version, aead, role),
        &stream,
        |_| stream.len().max(1),
        |channel| channel,
    );
    let mut state = cuts;
    let mut dice = move |end: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        1 + (state >> 33) as usize % end
    };
    let mut moves = 0;
    let cut = read(
        &mut channel(version, aead, role),
        &stream,
        |left| dice(left.clamp(1, 4000)),
        |channel| {
            moves += 1;
            if moves % 3 == 0 {
                moved(channel)
            } else {
                channel
            }
        },
    );
    assert_eq!(whole, cut, "cut otherwise, the stream means something else");
}

/// What a connection has made of a stream: its plaintext, how it ended, and what it has to say.
type Outcome = (Vec<u8>, Option<Result<(), Fault>>, Vec<u8>);

fn read(
    channel: &mut Channel,
    mut stream: &[u8],
    mut piece: impl FnMut(usize) -> usize,
    mut between: impl FnMut(Channel) -> Channel,
) -> Outcome {
    let (mut pending, mut said, mut end) = (Vec::new(), Vec::new(), None);
    let mut current = std::mem::replace(
        channel,
        self::channel(Version::Tls13, Aead::Aes128Gcm, Role::Server),
    );
    while !stream.is_empty() && end.is_none() {
        let (next, rest) = stream.split_at(piece(stream.len()).min(stream.len()));
        stream = rest;
        pending.extend_from_slice(next);
        loop {
            match current.open(&mut pending) {
                Ok(Opened::Incomplete) => {
                    assert!(
                        pending.len() < MAX_RECORD,
                        "it waits for more than a record"
                    );
                    break;
                }
                Ok(Opened::Data { plaintext, record }) => {
                    assert!(plaintext.len() <= MAX_PLAINTEXT && plaintext.end <= record);
                    said.extend_from_slice(&pending[plaintext]);
                    pending.drain(..record);
                }
                Ok(Opened::Nothing { record }) => drop(pending.drain(..record)),
                Ok(Opened::End) => {
                    end = Some(Ok(()));
                    break;
                }
                Err(fault) => {
                    assert_eq!(
                        current.open(&mut [23, 3, 3, 0, 32]),
                        Err(fault),
                        "it is over and stays so"
                    );
                    end = Some(Err(fault));
                    break;
                }
            }
        }
        let mut written = Vec::new();
        let outcome = ciborium::into_writer(&current, &mut written);
        assert!(
            outcome.is_ok() && written.len() < MAX_WRITTEN,
            "it keeps {} bytes",
            written.len()
        );
        current = between(current);
    }
    let replies = current.take_replies();
    (said, end, replies)
}

fn moved(channel: Channel) -> Channel {
    let mut written = Vec::new();
    ciborium::into_writer(&channel, &mut written).expect("a connection can be written down");
    drop(channel);
    let mut channel: Channel = ciborium::from_reader(written.as_slice()).expect("and read");
    channel.prepare().expect("and carried");
    channel
}

/// The bytes a peer sends.
fn stream(script: &mut Script<'_>, version: Version, aead: Aead, role: Role) -> Vec<u8> {
    let mut hand = hand(version, aead, role);
    let mut stream: Vec<u8> = Vec::new();
    let mut last = 0..0;
    while !script.0.is_empty() && stream.len() < 200_000 {
        let action = script.byte();
        match action % 16 {
            // Records that are sealed as they should be, most of them with data.
            0..=4 => {
                let count = script.number() % 600;
                let data = script.bytes(count);
                last = add(&mut stream, &record(&mut hand, 23, &data));
            }
            5 => {
                let length = script.number() % (MAX_PLAINTEXT + 300);
                last = add(
                    &mut stream,
                    &record(&mut hand, 23, &vec![script.byte(); length]),
                );
            }
            6 => last = add(&mut stream, &record(&mut hand, 23, &[])),
            // KeyUpdates, session tickets and other messages of the handshake layer.
            7 | 8 => {
                last = add(
                    &mut stream,
                    &record(&mut hand, 22, &[24, 0, 0, 1, action >> 7]),
                );
                if version == Version::Tls13 {
                    hand.update().expect("a key can be replaced");
                }
            }
            9 => {
                let count = script.number() % 300;
                let body = script.bytes(count);
                let length = u32::try_from(body.len() + usize::from(script.byte() % 3))
                    .unwrap_or(0)
                    .to_be_bytes();
                let kind = [0, 1, 4, 24][usize::from(action >> 4) % 4];
                let message = [&[kind], &length[1..], &body].concat();
                let cut = script.number() % (message.len() + 1);
                for part in [&message[..cut], &message[cut..]] {
                    last = add(&mut stream, &record(&mut hand, 22, part));
                }
            }
            10 => {
                last = add(
                    &mut stream,
                    &record(&mut hand, 21, &[1 + (action >> 7), script.byte()]),
                )
            }
            11 => {
                let (kind, count) = (script.byte(), script.number() % 40);
                let body = script.bytes(count);
                last = add(&mut stream, &record(&mut hand, kind, &body));
            }
            // Damage.
            12 if !stream.is_empty() => {
                let at = stream.len() - 1 - script.number() % stream.len().min(64);
                stream[at] ^= 1 << (action >> 5);
            }
            13 => stream.truncate(stream.len().saturating_sub(script.number() % 64)),
            14 => {
                let again = stream.get(last.clone()).unwrap_or_default().to_vec();
                last = add(&mut stream, &again);
            }
            _ => {
                let count = script.number() % 100;
                let noise = script.bytes(count);
                last = add(&mut stream, &noise);
            }
        }
    }
    stream
}

fn add(stream: &mut Vec<u8>, bytes: &[u8]) -> std::ops::Range<usize> {
    let start = stream.len();
    stream.extend_from_slice(bytes);
    start..stream.len()
}

/// A sealed record; nothing where the layer refuses to seal that much.
fn record(hand: &mut Direction, kind: u8, payload: &[u8]) -> Vec<u8> {
    let (start, end) = (hand.headroom(), hand.tailroom());
    let mut record = vec![0; start + payload.len() + end];
    record[start..start + payload.len()].copy_from_slice(payload);
    match hand.seal(kind, &mut record, payload.len()) {
        Ok(length) => {
            record.truncate(length);
            record
        }
        Err(_) => Vec::new(),
    }
}

fn keys(
    version: Version,
    aead: Aead,
) -> (
    pg_doorman::tls::schedule::Keys,
    pg_doorman::tls::schedule::Keys,
    u64,
) {
    match version {
        Version::Tls13 => {
            let keys = |fill| {
                let secret =
                    Secret::new(&vec![fill; aead.hash().size()]).expect("a secret of that length");
                traffic_keys(aead, &secret).expect("keys")
            };
            (keys(1), keys(2), 0)
        }
        Version::Tls12 => {
            let master = Secret::new(&[7; 48]).expect("a master secret");
            let (client, server) = key_block(aead, &master, &[1; 32], &[2; 32]).expect("keys");
            (client, server, 1)
        }
    }
}

fn channel(version: Version, aead: Aead, role: Role) -> Channel {
    let (client, server, sequence) = keys(version, aead);
    Channel::new(
        version,
        "a suite".into(),
        aead,
        role,
        (client, server),
        sequence,
    )
    .expect("a cipher")
}

/// The other side's sealing half.
fn hand(version: Version, aead: Aead, role: Role) -> Direction {
    let (client, server, sequence) = keys(version, aead);
    let theirs = if role == Role::Server { client } else { server };
    Direction::new(version, aead, Way::Out, theirs, sequence)
}
