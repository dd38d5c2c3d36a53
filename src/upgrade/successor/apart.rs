//! What comes before its session, in pieces: large half messages and large prepared statements.
//!
//! Invariant: no part takes more memory than was announced with its first piece, and all unread bytes together no
//! more than `max_memory_usage`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::super::messages::{Part, Piece};
use super::wrong;
use crate::relay::session::Session;
use crate::server::prepared::Statement;
use crate::session::memory::MemoryShare;
use crate::session::shared::Shared;

/// No part is longer: the protocol's longest message, with some room.
const MAX_LENGTH: u64 = (1 << 30) + (1 << 20);

/// A part so far.
struct AcceptGuard {
    size: usize,
    bytes: Vec<u8>,
    /// It counts as memory that a client's message takes.
    _share: MemoryShare,
    /// Why it cannot be kept.
    refused: Option<String>,
}

/// All that has come and whose session has not.
pub(super) struct Parts {
    shared: Arc<Shared>,
    parts: HashMap<Part, AcceptGuard>,
    /// Statements that sessions refer to by their numbers.
    statements: HashMap<u64, Arc<Statement>>,
}

impl Parts {
    /// Nothing so far but these statements.
    pub(super) fn new(shared: Arc<Shared>, statements: Vec<Arc<Statement>>) -> Parts {
        let mut parts = Parts {
            shared,
            parts: HashMap::new(),
            statements: HashMap::new(),
        };
        parts.note(statements);
        parts
    }

    /// Takes a piece.
    pub(super) fn add(&mut self, piece: Piece) -> io::Result<()> {
        if piece.size > MAX_LENGTH {
            return Err(wrong("a part that is too long was announced"));
        }
        let size = usize::try_from(piece.size).map_err(io::Error::other)?;
        let shared = &self.shared;
        let part = self
            .parts
            .entry(piece.part)
            .or_insert_with(|| AcceptGuard::new(shared, size));
        if part.refused.is_some() {
            return Ok(());
        }
        if part.size != size || part.bytes.len() + piece.bytes.len() > size {
            return Err(wrong("a part is longer than was announced"));
        }
        part.bytes.extend_from_slice(&piece.bytes);
        Ok(())
    }

    /// Takes statements. One without its definition has had that in pieces.
    pub(super) fn note(&mut self, statements: Vec<Arc<Statement>>) {
        for statement in statements {
            let statement = if statement.lacks_definition() {
                let number = statement.number;
                let is_its =
                    |part: &&Part| matches!(part, Part::Statement(_, its) if *its == number);
                let Some(part) = self.parts.keys().find(is_its).copied() else {
                    continue;
                };
                match (self.take(part), Arc::try_unwrap(statement)) {
                    (Ok(definition), Ok(named)) => Arc::new(named.with_definition(definition)),
                    _ => continue,
                }
            } else {
                statement
            };
            self.statements.insert(statement.number, statement);
        }
    }

    fn take(&mut self, part: Part) -> Result<Vec<u8>, String> {
        match self.parts.remove(&part) {
            Some(arrived) => match arrived.refused {
                Some(why) => Err(why),
                None if arrived.bytes.len() == arrived.size => Ok(arrived.bytes),
                None => Err("part of it has not come".to_owned()),
            },
            None => Err("part of it has not come".to_owned()),
        }
    }

    /// Gives a session what has come before it.
    ///
    /// # Errors
    /// Why it cannot be taken, in words. Nothing of it is kept then.
    pub(super) fn join(&mut self, session: &mut Session, apart: &[Part]) -> Result<(), String> {
        let mut outcome = Ok(());
        for &part in apart {
            let server = session.link.as_mut().map(|link| &mut link.side);
            let client_permit = match part {
                Part::ClientUnread(_) => Some(&mut session.client.unread),
                Part::ClientOwed(_) => Some(&mut session.client.owed),
                Part::ServerUnread(_) => server.map(|side| &mut side.unread),
                Part::ServerOwed(_) => server.map(|side| &mut side.owed),
                Part::Statement(..) => None,
            };
            match (self.take(part), client_permit) {
                (Ok(bytes), Some(client_permit)) => *client_permit = bytes,
                (Err(why), _) => outcome = Err(why),
                (Ok(_), None) => outcome = Err("it has no place for a part of it".to_owned()),
            }
        }
        outcome?;
        for client_permit in session.statements_mut() {
            if client_permit.lacks_definition() {
                let known = self.statements.get(&client_permit.number);
                let known = known.ok_or("a statement of it has not come")?;
                *client_permit = Arc::clone(known);
            }
        }
        Ok(())
    }
}

impl AcceptGuard {
    fn new(shared: &Shared, size: usize) -> AcceptGuard {
        let mut share = shared.unfinished_share();
        let all = share.set(size);
        let limit = shared.settings().general.max_memory_usage;
        let mut bytes = Vec::new();
        let mut refused = None;
        if let (Some(all), Some(limit)) = (all, limit) {
            if all > limit {
                refused = Some(format!(
                    "clients' unfinished messages take more than max_memory_usage ({limit} bytes)"
                ));
            }
        }
        if refused.is_none() {
            if let Err(error) = bytes.try_reserve_exact(size) {
                refused = Some(format!("{size} bytes: {error}"));
            }
        }
        if refused.is_some() {
            share.set(0);
        }
        AcceptGuard {
            size,
            bytes,
            _share: share,
            refused,
        }
    }
}
