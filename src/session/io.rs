//! Bytes between sockets and a session's sides: read behind what was left over, write behind what is owed.
//!
//! Copies nothing that can be passed on from where it was read. Knows no message.

use std::fmt;
use std::io::{self, IoSlice};

use crate::net::buffer::{self, Buffer};
use crate::net::stream::{Received, Stream};
use crate::relay::output::Pieces;
use crate::relay::session::Side;

/// Bytes that are read at a time into a message that has to be whole.
const GROWTH: usize = 64 * 1024;

/// Slices written in one call; more are owed and follow.
const MAX_SLICES: usize = 64;

/// Bytes that were read, behind those left over from before.
pub(crate) enum Input {
    /// The usual case: nothing was left over, or little.
    Borrowed(Buffer, usize),
    /// A message that has to be taken whole is growing.
    Growing(Vec<u8>),
}

impl Input {
    /// What there is.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Input::Borrowed(buffer, filled) => &buffer[..*filled],
            Input::Growing(bytes) => bytes,
        }
    }

    /// Reads from `stream` behind what `side` has unread. `None`: nothing came.
    pub(crate) fn read(side: &mut Side, stream: &mut Stream) -> Result<Option<Input>, Lost> {
        Input::read_by(side, |space| stream.receive(space))
    }

    /// The same, waiting for it as [`Stream::receive_soon`] does.
    pub(crate) fn await_briefly(
        side: &mut Side,
        stream: &mut Stream,
    ) -> Result<Option<Input>, Lost> {
        Input::read_by(side, |space| stream.receive_soon(space))
    }

    fn read_by(
        side: &mut Side,
        receive: impl FnOnce(&mut [u8]) -> io::Result<Received>,
    ) -> Result<Option<Input>, Lost> {
        let kept = side.unread.len();
        let mut input = if kept < buffer::SIZE / 2 {
            let mut buffer = Buffer::borrow();
            buffer[..kept].copy_from_slice(&side.unread);
            Input::Borrowed(buffer, kept)
        } else {
            let mut bytes = std::mem::take(&mut side.unread);
            bytes.resize(kept + GROWTH, 0);
            Input::Growing(bytes)
        };
        let space = match &mut input {
            Input::Borrowed(buffer, _) => &mut buffer[kept..],
            Input::Growing(bytes) => &mut bytes[kept..],
        };
        let received = receive(space);
        let came = match received {
            Ok(Received::Bytes(n)) => n,
            _ => 0,
        };
        match &mut input {
            Input::Borrowed(_, filled) => *filled = kept + came,
            Input::Growing(bytes) => bytes.truncate(kept + came),
        }
        match received {
            Ok(Received::Bytes(_)) => {
                side.unread.clear();
                Ok(Some(input))
            }
            other => {
                if let Input::Growing(bytes) = input {
                    side.unread = bytes;
                }
                match other {
                    Ok(Received::End) => Err(Lost::Ended),
                    Err(error) => Err(error.into()),
                    Ok(_) => Ok(None),
                }
            }
        }
    }

    /// Keeps what was not consumed for later.
    pub(crate) fn keep(self, consumed: usize, side: &mut Side) {
        match self {
            Input::Borrowed(buffer, filled) => {
                side.unread.extend_from_slice(&buffer[consumed..filled]);
            }
            Input::Growing(mut bytes) => {
                bytes.drain(..consumed);
                side.unread = bytes;
            }
        }
        if side.unread.is_empty() {
            side.unread = Vec::new();
        }
    }
}

/// Nothing more comes from a peer.
pub(crate) enum Lost {
    /// It has closed its side of the connection.
    Ended,
    /// The connection broke.
    Broken(io::Error),
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Lost {
        Lost::Broken(error)
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Ended => f.write_str("connection closed"),
            Lost::Broken(error) => error.fmt(f),
        }
    }
}

/// Writes pieces behind what is owed already; true bytes written are returned.
pub(crate) fn write_pieces(
    stream: &mut Stream,
    pieces: &mut Pieces,
    input: &[u8],
    side: &mut Side,
) -> io::Result<u64> {
    let mut written = 0;
    if side.owed.is_empty() {
        written = match pieces.single(input) {
            Some(slice) => stream.send(slice)?,
            None => {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let mut count = 0;
                for (place, slice) in slices.iter_mut().zip(pieces.slices(input)) {
                    *place = slice;
                    count += 1;
                }
                stream.send_pieces(&slices[..count])?
            }
        };
    }
    let owed_before = side.owed.len();
    pieces.consume(input, written, &mut side.owed);
    Ok((written + side.owed.len() - owed_before) as u64)
}

pub(crate) fn write_owed(stream: &mut Stream, owed: &mut Vec<u8>) -> io::Result<()> {
    let n = stream.send(owed)?;
    if n == owed.len() {
        *owed = Vec::new();
    } else {
        owed.drain(..n);
    }
    Ok(())
}
