//! The names that messages of the extended protocol carry: where they stand, and how they are compared.
//!
//! Knows no statements. The invariant: a message is never taken for well formed because it is not whole yet.

use super::requests::Violation;
use crate::wire::frame::{self, HEADER, Header};
use crate::wire::frontend;

/// The longest names in Bind, Describe and Close together, in bytes. PostgreSQL has no limit of its own; drivers use
/// some dozen bytes.
const MAX_NAMES: usize = 8 * 1024;

/// The part of a name that counts: as in PostgreSQL, its first 63 bytes.
pub(super) fn key(name: &[u8]) -> &[u8] {
    &name[..name.len().min(63)]
}

/// The names in a Bind, Describe or Close.
pub(super) struct Names<'a> {
    /// The portal; empty in a message about a statement alone.
    pub(super) portal: &'a [u8],
    /// `None` if it is about a portal.
    pub(super) statement: Option<&'a [u8]>,
    /// Bytes of the body in front of the statement's name.
    pub(super) before: usize,
}

/// What is found of the names in a message.
pub(super) enum NamesIn<'a> {
    Found(Names<'a>),
    NeedsMore,
    /// PostgreSQL refuses the message by its form.
    Malformed,
}

/// The names in a Bind, Describe or Close, as far as it has come. `None`: not far enough.
pub(super) fn names_in(head: Header, rest: &[u8]) -> Result<NamesIn<'_>, Violation> {
    let there = &rest[HEADER..rest.len().min(head.whole())];
    let whole = there.len() == head.body;
    let of_statement = |portal, before, statement| Names {
        portal,
        statement: Some(statement),
        before,
    };
    let names = match head.kind {
        frontend::BIND => frame::c_string(there).and_then(|(portal, after)| {
            let (statement, _) = frame::c_string(after)?;
            Some(of_statement(key(portal), portal.len() + 1, statement))
        }),
        _ => match there.split_first() {
            Some((b'S', after)) => {
                frame::c_string(after).map(|(name, _)| of_statement(&b""[..], 1, name))
            }
            Some((b'P', after)) => frame::c_string(after).map(|(portal, _)| Names {
                portal: key(portal),
                statement: None,
                before: 1,
            }),
            Some(_) => return Ok(NamesIn::Malformed),
            None => None,
        },
    };
    match names {
        Some(names) => Ok(NamesIn::Found(names)),
        None if whole => Ok(NamesIn::Malformed),
        None if there.len() > MAX_NAMES => Err(Violation(format!(
            "a message of type \"{}\" has names of more than {MAX_NAMES} bytes",
            head.kind.escape_ascii()
        ))),
        None => Ok(NamesIn::NeedsMore),
    }
}

/// Whether the rest of a Parse is what it should be: a text, and as many parameter types as announced.
pub(super) fn check_definition(definition: &[u8]) -> Option<()> {
    let (_, types) = frame::c_string(definition)?;
    let (count, types) = types.split_first_chunk::<2>()?;
    (types.len() == 4 * usize::from(u16::from_be_bytes(*count))).then_some(())
}
