//! Bytes that have come over the hand-over's socket and have not been taken yet.
//!
//! They can hold keys. Invariant: bytes that were taken are wiped, wherever they have been; and what there is room
//! for is not written to before something comes.

use zeroize::{Zeroize, Zeroizing};

/// There is room for at least so many bytes whenever some are read.
const CHUNK: usize = 64 * 1024;

/// Room that is kept while there is nothing to read.
const KEPT: usize = 1024 * 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Inbox {
    room: Zeroizing<Vec<u8>>,
    /// What lies before this has been taken.
    taken: usize,
    /// What lies before this has come.
    filled: usize,
}

impl Inbox {
    /// Where to read to.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
            if self.room.len() > KEPT {
                self.room = Zeroizing::default();
            }
        }
        if self.room.len() - self.filled < CHUNK {
            let unread = self.filled - self.taken;
            // Not grown where it is: that could leave a copy which nobody wipes.
            let mut room = Zeroizing::new(vec![0; 2 * unread + CHUNK]);
            room[..unread].copy_from_slice(self.unread());
            (self.room, self.taken, self.filled) = (room, 0, unread);
        }
        &mut self.room[self.filled..]
    }

    /// So many bytes have been read to there.
    pub(super) fn came(&mut self, bytes: usize) {
        self.filled += bytes;
    }

    /// What has come and was not taken.
    pub(super) fn unread(&self) -> &[u8] {
        &self.room[self.taken..self.filled]
    }

    /// Takes the first `header` bytes, which are dropped, and the `body` behind them. They must have come.
    pub(super) fn take(&mut self, header: usize, body: usize) -> Zeroizing<Vec<u8>> {
        let begin = self.taken + header;
        let bytes = &mut self.room[begin..begin + body];
        let taken = Zeroizing::new(bytes.to_vec());
        bytes.zeroize();
        self.taken = begin + body;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comes(inbox: &mut Inbox, bytes: &[u8]) {
        inbox.space()[..bytes.len()].copy_from_slice(bytes);
        inbox.came(bytes.len());
    }

    #[test]
    fn what_comes_is_taken_in_its_order_and_leaves_nothing_behind() {
        let mut inbox = Inbox::default();
        let mut expected = Vec::new();
        for number in 0..200_u8 {
            comes(&mut inbox, &[b'h', number, number]);
            expected.push(number);
            if number % 3 == 0 {
                assert_eq!(inbox.take(1, 2)[..], [expected.remove(0); 2]);
            }
        }
        for number in expected {
            assert_eq!(inbox.take(1, 2)[..], [number; 2]);
        }
        assert!(inbox.unread().is_empty());
        assert!(inbox.room.iter().all(|&byte| byte == 0 || byte == b'h'));
    }

    #[test]
    fn there_is_room_for_what_is_larger_than_all_before() {
        let mut inbox = Inbox::default();
        let large: Vec<u8> = (0..3 * KEPT).map(|n| n.to_le_bytes()[1]).collect();
        for chunk in large.chunks(CHUNK) {
            comes(&mut inbox, chunk);
        }
        assert_eq!(inbox.take(0, large.len())[..], large);
        assert!(inbox.space().len() < KEPT);
    }
}
