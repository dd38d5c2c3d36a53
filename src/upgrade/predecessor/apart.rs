//! What is too large to go with its session in one message: large half messages and large prepared statements. It
//! goes before the session, in pieces, between which others go.
//!
//! Nothing is copied: the session keeps all of it until the successor has acknowledged it. Invariant: a session is
//! written down without what has gone apart, and has all of it again right afterwards.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use serde_bytes::Bytes;

use super::super::messages::{self, APART, Message, PIECE, Part, Piece, STATEMENT_APART};
use super::HandOver;
use crate::net::clock::MonotonicTime;
use crate::net::fd_channel::FdChannel;
use crate::relay::session::Session;
use crate::server::prepared::Statement;
use crate::session::client::{Client, ClientKind};

/// What is given before a session.
enum Large {
    /// One side's unread or owed bytes.
    Bytes(Part),
    /// A prepared statement.
    Statement(Arc<Statement>),
}

/// A session that has something to go before it.
pub(super) struct Parcel {
    pub(super) client: Client,
    pub(super) since: MonotonicTime,
    /// What is still to go, the next last.
    parts: Vec<Large>,
    /// How much of the next has gone.
    gone: usize,
}

/// The sides' bytes, each with its name.
fn sides(session: &mut Session) -> impl Iterator<Item = (Part, &mut Vec<u8>)> {
    let id = session.id;
    let client = &mut session.client;
    let server = session.link.as_mut().map(|link| &mut link.side);
    let of_server = server.into_iter().flat_map(move |side| {
        [
            (Part::ServerUnread(id), &mut side.unread),
            (Part::ServerOwed(id), &mut side.owed),
        ]
    });
    [
        (Part::ClientUnread(id), &mut client.unread),
        (Part::ClientOwed(id), &mut client.owed),
    ]
    .into_iter()
    .chain(of_server)
}

/// A session without what goes apart, and what that is.
pub(super) struct Parted {
    pub(super) parts: Vec<Part>,
    bytes: Vec<Vec<u8>>,
    statements: Vec<Arc<Statement>>,
}

impl Parted {
    /// Takes out what goes apart.
    pub(super) fn from(session: &mut Session) -> Parted {
        let (mut parts, mut bytes) = (Vec::new(), Vec::new());
        for (part, side) in sides(session).filter(|(_, side)| side.len() >= APART) {
            parts.push(part);
            bytes.push(std::mem::take(side));
        }
        let mut statements = Vec::new();
        for statement in session.statements_mut().filter(|it| is_large(it)) {
            let named = Arc::new(statement.without_definition());
            statements.push(std::mem::replace(statement, named));
        }
        Parted {
            parts,
            bytes,
            statements,
        }
    }

    /// Puts it back.
    pub(super) fn join(self, session: &mut Session) {
        let mut bytes = self.parts.into_iter().zip(self.bytes).peekable();
        for (part, side) in sides(session) {
            if let Some((_, own)) = bytes.next_if(|(own, _)| *own == part) {
                *side = own;
            }
        }
        let mut statements = self.statements.into_iter();
        for place in session.statements_mut() {
            if place.lacks_definition() {
                if let Some(statement) = statements.next() {
                    *place = statement;
                }
            }
        }
    }
}

fn is_large(statement: &Statement) -> bool {
    statement.definition.len() >= STATEMENT_APART
}

impl HandOver<'_> {
    /// The session as a parcel, if anything has to go before it.
    ///
    /// # Errors
    /// The session, if nothing has.
    pub(super) fn pack(
        &mut self,
        mut client: Client,
        since: MonotonicTime,
    ) -> Result<Parcel, Client> {
        let ClientKind::Pool(detached) = &mut client.kind else {
            return Err(client);
        };
        let session = &mut detached.session;
        let mut parts: Vec<Large> = sides(session)
            .filter(|(_, side)| side.len() >= APART)
            .map(|(part, _)| Large::Bytes(part))
            .collect();
        for statement in session.statements_mut().filter(|it| is_large(it)) {
            if !self.given.contains(&statement.number) {
                parts.push(Large::Statement(Arc::clone(statement)));
            }
        }
        if parts.is_empty() {
            return Err(client);
        }
        Ok(Parcel {
            client,
            since,
            parts,
            gone: 0,
        })
    }

    /// Whether pieces are to be given.
    pub(super) fn has_pieces(&self) -> bool {
        self.parcels.iter().any(|parcel| !parcel.parts.is_empty())
    }

    /// Gives the next piece, unless as much waits to be written, and then the session to which it belongs.
    pub(super) fn give_piece(&mut self) -> io::Result<()> {
        if self.channel.owed() >= PIECE {
            return Ok(());
        }
        let Some(mut parcel) = self.parcels.pop_front() else {
            return Ok(());
        };
        if let Err(error) = parcel.give(&mut self.channel, &mut self.given) {
            self.keep(parcel.client, &error.to_string());
            return Ok(());
        }
        if !parcel.parts.is_empty() {
            // They take turns.
            self.parcels.push_back(parcel);
        } else if let Some(client) = self.give_session(parcel.client, parcel.since)? {
            self.parcels.push_front(Parcel { client, ..parcel });
        }
        Ok(())
    }
}

impl Parcel {
    /// Queues the next piece.
    fn give(&mut self, channel: &mut FdChannel, given: &mut HashSet<u64>) -> io::Result<()> {
        if self.gone == 0 && self.give_statements(channel, given)? {
            return Ok(());
        }
        let id = self.client.handle().info.id;
        let (part, bytes) = match (self.parts.last(), &mut self.client.kind) {
            (Some(Large::Statement(statement)), _) => (
                Part::Statement(id, statement.number),
                &statement.definition[..],
            ),
            (Some(&Large::Bytes(part)), ClientKind::Pool(detached)) => {
                let side = sides(&mut detached.session).find(|(own, _)| *own == part);
                (part, side.map_or(&[][..], |(_, side)| side))
            }
            _ => return Ok(()),
        };
        let end = bytes.len().min(self.gone + PIECE);
        let piece = Piece {
            part,
            size: bytes.len() as u64,
            bytes: Bytes::new(&bytes[self.gone..end]),
        };
        messages::post_named(channel, "Piece", &piece, Vec::new())?;
        self.gone = end;
        if end == bytes.len() {
            self.gone = 0;
            if let Some(Large::Statement(statement)) = self.parts.pop() {
                let named = Message::Statements(vec![Arc::new(statement.without_definition())]);
                messages::queue(channel, &named, Vec::new())?;
                given.insert(statement.number);
            }
        }
        Ok(())
    }

    /// Queues statements that are not so large, some in one message. False if none is next.
    fn give_statements(
        &mut self,
        channel: &mut FdChannel,
        given: &mut HashSet<u64>,
    ) -> io::Result<bool> {
        let (mut together, mut size) = (Vec::new(), 0);
        while let Some(Large::Statement(statement)) = self.parts.last() {
            // It may have gone with another session in the meantime.
            if !given.contains(&statement.number) {
                size += statement.definition.len();
                if size > PIECE {
                    break;
                }
                together.push(Arc::clone(statement));
            }
            self.parts.pop();
        }
        let any = !together.is_empty();
        if any {
            given.extend(together.iter().map(|statement| statement.number));
            messages::queue(channel, &Message::Statements(together), Vec::new())?;
        }
        Ok(any)
    }
}
