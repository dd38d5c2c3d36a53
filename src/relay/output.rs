//! What a step of the relay wants written: slices of the input, passed on without a copy, and bytes of
//! its own between them.

use std::io::IoSlice;
use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// A range of the step's input.
    Input(Range<usize>),
    /// A range of `own`.
    Own(Range<usize>),
}

/// Bytes to write to one side, in their order.
#[derive(Debug, Default)]
pub struct Pieces {
    pieces: Vec<Piece>,
    own: Vec<u8>,
}

impl Pieces {
    /// Adds a range of the input. Neighbours become one.
    pub fn pass(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        match self.pieces.last_mut() {
            Some(Piece::Input(last)) if last.end == range.start => last.end = range.end,
            _ => self.pieces.push(Piece::Input(range)),
        }
    }

    /// Adds bytes of the relay's own: whatever `write` appends.
    pub fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.own.len();
        write(&mut self.own);
        let end = self.own.len();
        if end <= start {
            return;
        }
        match self.pieces.last_mut() {
            Some(Piece::Own(last)) if last.end == start => last.end = end,
            _ => self.pieces.push(Piece::Own(start..end)),
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn bytes<'a>(&'a self, piece: &Piece, input: &'a [u8]) -> &'a [u8] {
        match piece {
            Piece::Input(range) => input.get(range.clone()).unwrap_or_default(),
            Piece::Own(range) => &self.own[range.clone()],
        }
    }

    /// The single slice to write, if it is only one: the common case.
    pub fn single<'a>(&'a self, input: &'a [u8]) -> Option<&'a [u8]> {
        match self.pieces.as_slice() {
            [only] => Some(self.bytes(only, input)),
            _ => None,
        }
    }

    /// All slices to write, in their order.
    pub fn slices<'a>(&'a self, input: &'a [u8]) -> impl Iterator<Item = IoSlice<'a>> {
        self.pieces
            .iter()
            .map(move |piece| IoSlice::new(self.bytes(piece, input)))
    }

    /// Appends to `owed` what is left after the first `written` bytes, and is empty again.
    pub fn consume(&mut self, input: &[u8], mut written: usize, owed: &mut Vec<u8>) {
        for piece in &self.pieces {
            let bytes = self.bytes(piece, input);
            let skipped = written.min(bytes.len());
            written -= skipped;
            owed.extend_from_slice(&bytes[skipped..]);
        }
        self.clear();
    }

    /// Forgets everything, and returns memory that an unusually large reply took.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.own.clear();
        self.own.shrink_to(4096);
        self.pieces.shrink_to(64);
    }
}

/// What a step wants written to either side.
#[derive(Debug, Default)]
pub struct Output {
    /// To the server.
    pub server: Pieces,
    /// To the client.
    pub client: Pieces,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_slices_become_one_and_own_bytes_part_them() {
        let mut pieces = Pieces::default();
        pieces.pass(0..2);
        pieces.pass(2..4);
        assert_eq!(pieces.single(b"abcdef"), Some(&b"abcd"[..]));
        pieces.write(|own| own.extend_from_slice(b"XY"));
        pieces.pass(5..6);
        let all: Vec<u8> = pieces
            .slices(b"abcdef")
            .flat_map(|slice| slice.to_vec())
            .collect();
        assert_eq!(all, b"abcdXYf");
    }

    #[test]
    fn what_was_not_written_is_owed() {
        for written in 0..=7 {
            let mut pieces = Pieces::default();
            pieces.pass(0..4);
            pieces.write(|own| own.extend_from_slice(b"XY"));
            pieces.pass(5..6);
            let mut owed = Vec::new();
            pieces.consume(b"abcdef", written, &mut owed);
            assert_eq!(owed, &b"abcdXYf"[written..]);
            assert!(pieces.is_empty());
        }
    }
}
