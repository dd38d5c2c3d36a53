//! Bytes that have come over the hand-over's socket and have not been taken yet.
//!
//! They can hold keys. Invariant: bytes that were taken are wiped, wherever they have been, and no core dump has
//! them; and what there is room for is not written to before something comes.

use std::io;

use crate::tls::nodump::{Room, wipe};

/// There is room for at least so many bytes whenever some are read.
const CHUNK: usize = 64 * 1024;

/// Room that is kept while there is nothing to read.
const KEPT: usize = 1024 * 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Inbox {
    room: Room,
    /// What lies before this has been taken.
    taken: usize,
    /// What lies before this has come.
    filled: usize,
}

impl Inbox {
    /// Where to read to.
    ///
    /// # Errors
    /// If there is no more memory.
    pub(super) fn space(&mut self) -> io::Result<&mut [u8]> {
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
            if self.room.size() > KEPT {
                self.room.leave();
            }
        }
        if self.room.size() - self.filled < CHUNK {
            let unread = self.filled - self.taken;
            self.room
                .make(2 * unread + CHUNK, self.taken..self.filled)?;
            (self.taken, self.filled) = (0, unread);
        }
        Ok(&mut self.room.bytes_mut()[self.filled..])
    }

    /// So many bytes have been read to there.
    pub(super) fn came(&mut self, bytes: usize) {
        self.filled += bytes;
    }

    /// What has come and was not taken.
    pub(super) fn unread(&self) -> &[u8] {
        &self.room.bytes()[self.taken..self.filled]
    }

    /// Takes the first `length` bytes, which must have come.
    pub(super) fn take(&mut self, length: usize) {
        let end = self.filled.min(self.taken + length);
        wipe(&mut self.room.bytes_mut()[self.taken..end]);
        self.taken = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comes(inbox: &mut Inbox, bytes: &[u8]) {
        inbox.space().unwrap()[..bytes.len()].copy_from_slice(bytes);
        inbox.came(bytes.len());
    }

    #[test]
    fn what_comes_is_taken_in_its_order_and_leaves_nothing_behind() {
        let mut inbox = Inbox::default();
        let mut expected = Vec::new();
        for number in 0..200_u8 {
            comes(&mut inbox, &[number, number]);
            expected.push(number);
            if number % 3 == 0 {
                assert_eq!(inbox.unread()[..2], [expected.remove(0); 2]);
                inbox.take(2);
            }
        }
        for number in expected {
            assert_eq!(inbox.unread()[..2], [number; 2]);
            inbox.take(2);
        }
        assert!(inbox.unread().is_empty());
        assert!(inbox.room.bytes().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn there_is_room_for_what_is_larger_than_all_before() {
        let mut inbox = Inbox::default();
        let large: Vec<u8> = (0..3 * KEPT).map(|n| n.to_le_bytes()[1]).collect();
        for chunk in large.chunks(CHUNK) {
            comes(&mut inbox, chunk);
        }
        assert_eq!(inbox.unread(), large);
        inbox.take(large.len());
        assert!(inbox.space().unwrap().len() < KEPT);
    }
}
