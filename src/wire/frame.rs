//! Where a message ends: one byte that says its kind, four that say its length.
//!
//! Does not look into bodies and copies nothing. It keeps the lengths honest: a header is handed out only
//! if its length is one PostgreSQL itself would accept, so nobody above has to doubt it.

use thiserror::Error;

/// Bytes in front of a message's body: its kind and its length.
pub const HEADER: usize = 5;

/// The longest message, its length field included, that PostgreSQL accepts from a client
/// (`PQ_LARGE_MESSAGE_LIMIT`, one byte short of 1 GiB) and that we accept from either side.
pub const MAX_LENGTH: u32 = 0x3fff_ffff;

/// The head of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message's kind, e.g. `b'Q'`.
    pub kind: u8,
    /// Bytes of body that follow the header.
    pub body: usize,
}

impl Header {
    /// Bytes of the whole message, header included.
    pub fn whole(self) -> usize {
        HEADER + self.body
    }
}

/// A length that no message can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("invalid length {length} in a message of type \"{}\"", .kind.escape_ascii())]
pub struct BadLength {
    /// The message's kind as sent.
    pub kind: u8,
    /// The length as sent.
    pub length: u32,
}

/// The header at the start of `bytes`, or `None` while fewer than five bytes are there.
///
/// # Errors
/// [`BadLength`] if the length cannot be that of a message.
pub fn header(bytes: &[u8]) -> Result<Option<Header>, BadLength> {
    let Some(&[kind, a, b, c, d]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    if !(4..=MAX_LENGTH).contains(&length) {
        return Err(BadLength { kind, length });
    }
    Ok(Some(Header {
        kind,
        body: length as usize - 4,
    }))
}

/// Splits a NUL-terminated string off the start of `bytes`: the string without its NUL, and the rest.
/// `None` if there is no NUL.
pub fn c_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&b| b == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Reads a big-endian `i32` off the start of `bytes`: the number and the rest.
pub fn int32(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((i32::from_be_bytes(*head), rest))
}
