//! Hand-overs that were recorded by this version and by earlier ones: each later version has to understand
//! them, whatever keys have come and gone since.
//!
//! `tests/handover/` has a directory for each recording, with what the predecessor and the successor sent,
//! frame by frame as it went over the socket. To add one, after the messages have changed:
//! `HANDOVER_RECORDING=tests/handover/NAME tests/run handover -- -k recorded`. Recordings of releases are never
//! replaced.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ciborium::Value;

use super::messages::{self, APART, Message, VERSION};
use crate::relay::conversation::Conversation;
use crate::relay::session::Phase;

/// A frame: how many descriptors came with it, and its body.
type Frame = (u8, Vec<u8>);

fn frames(file: &Path) -> Vec<Frame> {
    let bytes = std::fs::read(file).unwrap();
    let mut rest = bytes.as_slice();
    let mut frames = Vec::new();
    while let Some((&[a, b, c, d, count], after)) = rest.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        frames.push((count, after[..length].to_vec()));
        rest = &after[length..];
    }
    assert!(rest.is_empty());
    frames
}

fn recordings() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handover");
    let entries = std::fs::read_dir(directory).unwrap();
    let found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(!found.is_empty());
    found
}

fn descriptors(message: &Message) -> u8 {
    match message {
        Message::Listener(_)
        | Message::WebListener(_)
        | Message::Idle(_)
        | Message::Console(_)
        | Message::New(_) => 1,
        Message::Session(moved) => 1 + u8::from(moved.session.link.is_some()),
        _ => 0,
    }
}

fn understood(file: &Path) -> Vec<Message> {
    let frames = frames(file);
    let understood = frames.iter().map(|(count, body)| {
        let message = messages::read(body).unwrap();
        assert!(!matches!(message, Message::Unknown));
        assert_eq!(descriptors(&message), *count, "{message:?}");
        message
    });
    understood.collect()
}

#[test]
fn every_recorded_hand_over_is_understood() {
    for recording in recordings() {
        let said = understood(&recording.join("predecessor"));
        let hello = said.iter().find_map(|message| match message {
            Message::Hello(hello) => Some(hello),
            _ => None,
        });
        assert_eq!(hello.unwrap().version, VERSION);
        assert!(matches!(said.last(), Some(Message::Done(_))));
        let sessions: Vec<_> = said
            .iter()
            .filter_map(|message| match message {
                Message::Session(moved) => Some(&moved.session),
                _ => None,
            })
            .collect();
        let all = |phase: fn(Phase) -> bool| sessions.iter().any(|session| phase(session.phase()));
        assert!(all(|phase| phase == Phase::Idle) && all(|phase| phase == Phase::Serving));
        assert!(all(|phase| matches!(phase, Phase::Queued(_))));
        assert!(
            sessions
                .iter()
                .any(|session| !session.statements.is_empty())
        );
        assert!(
            sessions
                .iter()
                .any(|session| !session.client.unread.is_empty())
        );
        assert!(sessions.iter().any(|session| {
            let mut statements = session.statements.values();
            statements.any(|statement| statement.lacks_definition())
        }));
        let piece = |message: &Message| matches!(message, Message::Piece(piece) if piece.size > APART as u64);
        assert!(said.iter().any(piece));
        let link = || sessions.iter().filter_map(|session| session.link.as_ref());
        assert!(link().any(|link| matches!(link.conversation(), Conversation::CopyingIn { .. })));
        assert!(link().any(|link| link.conversation() == Conversation::InBatch));
        assert!(link().any(|link| !link.expected.is_empty()));
        assert!(link().any(|link| link.backend.in_transaction()));
        let answers = understood(&recording.join("successor"));
        assert!(matches!(answers[0], Message::Ready(_)));
        assert!(matches!(answers.last(), Some(Message::Finished)));
        let taken = |message: &&Message| matches!(message, Message::Accepted(_));
        assert!(answers.iter().filter(taken).count() > sessions.len());
    }
}

/// What belongs to a key that is no field of ours: names of parameters, of statements.
const DATA: [&str; 10] = [
    "Settings",
    "reported_to_client",
    "untracked",
    "startup_settings",
    "defaults",
    "fresh",
    "reported",
    "applied",
    "at_ready",
    "statements",
];

/// Calls `visit` with every map that stands for a struct, and where it is: the names of the fields that
/// lead there.
fn structs(value: &mut Value, path: &str, visit: &mut impl FnMut(&str, &mut Vec<(Value, Value)>)) {
    match value {
        Value::Array(items) => {
            for item in items {
                structs(item, path, visit);
            }
        }
        Value::Map(entries) => {
            let name = path.rsplit('/').next().unwrap_or_default();
            let is_data = entries.is_empty()
                || DATA.contains(&name)
                || entries.iter().any(|(key, _)| !key.is_text());
            // A `Duration` as serde writes it.
            let is_duration = entries.len() == 2 && entries[0].0.as_text() == Some("secs");
            // `{"Queued": 1}` is a variant.
            let is_variant = matches!(entries.as_slice(), [(Value::Text(name), _)]
                if name.starts_with(|first: char| first.is_ascii_uppercase()));
            for (key, value) in entries.iter_mut() {
                let name = if is_data { "*" } else { key.as_text().unwrap() };
                structs(value, &format!("{path}/{name}"), visit);
            }
            if !is_data && !is_variant && !is_duration {
                visit(path, entries);
            }
        }
        _ => {}
    }
}

fn reads(value: &Value) -> bool {
    let mut body = Vec::new();
    ciborium::into_writer(value, &mut body).unwrap();
    messages::read(&body).is_ok_and(|message| !matches!(message, Message::Unknown))
}

/// What cannot be missing, as the last field on the way and the key: who and where somebody is, and what
/// cannot be guessed.
const NEEDED: [&str; 48] = [
    "*/definition",
    "*/number",
    "*/spelling",
    "*/value",
    "Console/address",
    "Console/database",
    "Console/id",
    "Console/secret",
    "Console/user",
    "CopyingIn/ended",
    "Hello/mock",
    "Hello/next_server",
    "Hello/next_session",
    "Hello/next_statement",
    "Hello/version",
    "Listener/address",
    "New/number",
    "New/opening",
    "Piece/bytes",
    "Piece/part",
    "Piece/size",
    "Pool/database",
    "Pool/user",
    "Ready/version",
    "Session/session",
    "Statements/definition",
    "Statements/number",
    "Work/database",
    "Work/user",
    "backend/key",
    "expected/deliver",
    "expected/reply",
    "replay_buffer/bytes",
    "replay_buffer/whole",
    "key/address",
    "key/id",
    "key/process_id",
    "key/secret",
    "link/backend",
    "link/served",
    "opening/address",
    "opening/connected_at",
    "session/address",
    "session/database",
    "session/id",
    "session/phase",
    "session/secret",
    "session/user",
];

#[test]
fn keys_may_be_missing_and_others_may_have_come() {
    let mut seen = BTreeSet::new();
    let mut needed = BTreeSet::new();
    for recording in recordings() {
        for side in ["predecessor", "successor"] {
            for (_, body) in frames(&recording.join(side)) {
                let mut whole: Value = ciborium::from_reader(body.as_slice()).unwrap();
                let mut places = Vec::new();
                structs(&mut whole, "", &mut |path, entries| {
                    let names = entries
                        .iter()
                        .map(|(key, _)| key.as_text().unwrap().to_owned());
                    places.extend(names.map(|name| (path.to_owned(), name)));
                    places.push((path.to_owned(), "+".to_owned()));
                });
                for (place, name) in places {
                    if !seen.insert((place.clone(), name.clone())) {
                        continue;
                    }
                    let mut changed = whole.clone();
                    structs(&mut changed, "", &mut |path, entries| {
                        if path == place && name == "+" {
                            let news = Value::Map(vec![(Value::Text("of".into()), 1.into())]);
                            entries.push((Value::Text("tomorrow".into()), news));
                        } else if path == place {
                            entries.retain(|(key, _)| key.as_text() != Some(&name));
                        }
                    });
                    if !reads(&changed) {
                        assert_ne!(name, "+", "nothing can be added to {place}");
                        let field = place.rsplit('/').next().unwrap_or_default();
                        needed.insert(format!("{field}/{name}"));
                    }
                }
            }
        }
    }
    let expected: BTreeSet<String> = NEEDED.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(needed, expected);
    assert!(seen.len() > 100);
}

#[test]
fn a_message_nobody_knows_is_passed_over() {
    for body in [
        Value::Text("Sunset".into()),
        Value::Map(vec![(Value::Text("Sunset".into()), Value::Bool(true))]),
    ] {
        let mut bytes = Vec::new();
        ciborium::into_writer(&body, &mut bytes).unwrap();
        assert!(matches!(messages::read(&bytes), Ok(Message::Unknown)));
    }
    let mut bytes = Vec::new();
    let wrong = Value::Map(vec![(Value::Text("Accepted".into()), Value::Bool(true))]);
    ciborium::into_writer(&wrong, &mut bytes).unwrap();
    assert!(messages::read(&bytes).is_err());
    assert!(messages::read(b"\xff\x00nonsense").is_err());
}
