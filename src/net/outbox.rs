//! Frames that are to go over the hand-over's socket: written where they wait to be sent.
//!
//! They can hold keys. Invariant: bytes that were sent, and those of a frame that was given up, are wiped, and no
//! core dump has them; and no frame is longer than it may be.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::tls::nodump::{Room, wipe};

/// Room for what is written most of the time.
const TYPICAL: usize = 512 * 1024;

/// Frames written at once, at most.
const TOGETHER: usize = 32;

/// A frame that waits.
struct Waiting {
    /// Bytes of it that have not been sent.
    left: usize,
    descriptors: Vec<OwnedFd>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Outbox {
    room: Room,
    /// What lies before this has been sent.
    sent: usize,
    /// What lies before this has been written.
    filled: usize,
    frames: VecDeque<Waiting>,
}

/// A frame that is being written.
pub(super) struct Draft<'a> {
    outbox: &'a mut Outbox,
    begin: usize,
    longest: usize,
}

impl Write for Draft<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let outbox = &mut *self.outbox;
        let length = outbox.filled - self.begin + bytes.len();
        if length > self.longest {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "it is longer than the {} bytes that can be passed",
                    self.longest
                ),
            ));
        }
        if outbox.room.size() - outbox.filled < bytes.len() {
            let waiting = outbox.filled - outbox.sent;
            let size = (2 * (waiting + bytes.len())).max(TYPICAL);
            outbox.room.make(size, outbox.sent..outbox.filled)?;
            self.begin -= outbox.sent;
            (outbox.sent, outbox.filled) = (0, waiting);
        }
        let end = outbox.filled + bytes.len();
        outbox.room.bytes_mut()[outbox.filled..end].copy_from_slice(bytes);
        outbox.filled = end;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Outbox {
    /// Adds a frame: `header` makes, of the length of what `write` has written, what stands in front of it.
    ///
    /// # Errors
    /// Those of `write`, and if the frame is longer than `longest`. Nothing was added then.
    pub(super) fn add<const HEADER: usize>(
        &mut self,
        longest: usize,
        descriptors: Vec<OwnedFd>,
        header: impl FnOnce(usize) -> [u8; HEADER],
        write: impl FnOnce(&mut Draft<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.frames.is_empty() {
            (self.sent, self.filled) = (0, 0);
        }
        let mut draft = Draft {
            begin: self.filled,
            longest: HEADER + longest,
            outbox: self,
        };
        let written = draft
            .write_all(&[0; HEADER])
            .and_then(|()| write(&mut draft));
        let begin = draft.begin;
        let frame = &mut self.room.bytes_mut()[begin..self.filled];
        if let Err(error) = written {
            wipe(frame);
            self.filled = begin;
            return Err(error);
        }
        let left = frame.len();
        frame[..HEADER].copy_from_slice(&header(left - HEADER));
        self.frames.push_back(Waiting { left, descriptors });
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.filled - self.sent
    }

    /// What is to be sent next: frames with no more than so many descriptors together.
    pub(super) fn next(&self, most_descriptors: usize) -> (Vec<IoSlice<'_>>, Vec<RawFd>) {
        let (mut slices, mut raw) = (Vec::new(), Vec::<RawFd>::new());
        let mut at = self.sent;
        for frame in self.frames.iter().take(TOGETHER) {
            if raw.len() + frame.descriptors.len() > most_descriptors {
                break;
            }
            raw.extend(frame.descriptors.iter().map(AsRawFd::as_raw_fd));
            slices.push(IoSlice::new(&self.room.bytes()[at..at + frame.left]));
            at += frame.left;
        }
        (slices, raw)
    }

    /// So many frames were given to the socket together, and it took so many bytes of them. Our copies of their
    /// descriptors are closed.
    pub(super) fn note_sent(&mut self, together: usize, mut bytes: usize) {
        wipe(&mut self.room.bytes_mut()[self.sent..self.sent + bytes]);
        self.sent += bytes;
        for frame in self.frames.iter_mut().take(together) {
            frame.descriptors.clear();
            let of_this = bytes.min(frame.left);
            frame.left -= of_this;
            bytes -= of_this;
        }
        while self.frames.front().is_some_and(|frame| frame.left == 0) {
            self.frames.pop_front();
        }
        if self.frames.is_empty() && self.room.size() > TYPICAL {
            self.room.leave();
            (self.sent, self.filled) = (0, 0);
        }
    }

    /// Nobody is there to read it.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.room.leave();
        (self.sent, self.filled) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(outbox: &mut Outbox, bytes: &[u8]) -> io::Result<()> {
        let header = |length: usize| [u8::try_from(length % 256).unwrap()];
        outbox.add(4 * TYPICAL, Vec::new(), header, |draft| {
            draft.write_all(bytes)
        })
    }

    fn send(outbox: &mut Outbox, bytes: usize) -> Vec<u8> {
        let (slices, _) = outbox.next(4);
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let together = slices.len();
        let sent = all[..bytes.min(all.len())].to_vec();
        outbox.note_sent(together, sent.len());
        sent
    }

    #[test]
    fn what_is_added_is_sent_in_its_order_and_leaves_nothing_behind() {
        let mut outbox = Outbox::default();
        let (mut expected, mut sent) = (Vec::new(), Vec::new());
        for number in 0..200_u8 {
            let body = vec![number; 10 * usize::from(number)];
            add(&mut outbox, &body).unwrap();
            expected.push(u8::try_from(body.len() % 256).unwrap());
            expected.extend(body);
            sent.extend(send(&mut outbox, 700));
        }
        while !outbox.is_empty() {
            sent.extend(send(&mut outbox, 700));
        }
        assert_eq!(sent, expected);
        assert_eq!(outbox.waiting(), 0);
        assert!(outbox.room.bytes().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_frame_that_is_too_long_leaves_nothing_behind_and_the_others_as_they_are() {
        let mut outbox = Outbox::default();
        add(&mut outbox, b"one").unwrap();
        assert!(add(&mut outbox, &vec![b'x'; 5 * TYPICAL]).is_err());
        let piecemeal = outbox.add(
            4 * TYPICAL,
            Vec::new(),
            |_| [0],
            |draft| (0..5).try_for_each(|_| draft.write_all(&vec![b'x'; TYPICAL])),
        );
        assert!(piecemeal.is_err());
        add(&mut outbox, b"two").unwrap();
        assert!(!outbox.room.bytes().contains(&b'x'));
        assert_eq!(send(&mut outbox, 100), b"\x03one\x03two");
    }
}
