//! Frames with descriptors over a Unix stream socket: the hand-over's wire, below its messages.
//!
//! A frame is four bytes of length, one byte that says how many descriptors belong to it, and its body.
//! Lengths and counts are checked before anything is allocated; descriptors arrive close-on-exec, owned,
//! and those nobody takes are closed. Frames can hold keys: they are wiped when they are done with, and never
//! printed.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{PassCred, PeerCredentials};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixCredentials, getsockopt, recvmsg, sendmsg, setsockopt, socketpair,
};
use zeroize::{Zeroize, Zeroizing};

use super::inbox::Inbox;

/// Bytes in front of a frame's body.
const HEADER: usize = 5;

/// The longest body, in bytes.
const LONGEST: usize = 1 << 30;

/// Descriptors in one frame, at most; and in what any version reads at once.
pub const MOST_DESCRIPTORS: usize = 4;

/// Descriptors that are read at once, at most, and written if the other end is known to be able to.
const MANY_DESCRIPTORS: usize = 64;

/// Frames written at once, at most.
const TOGETHER: usize = 32;

/// The body of nearly every frame is shorter.
const TYPICAL: usize = 64 * 1024;

/// A frame as it arrived.
pub struct Frame {
    /// The body.
    pub body: Zeroizing<Vec<u8>>,
    /// The descriptors.
    pub descriptors: Vec<OwnedFd>,
}

/// A frame on its way out.
struct Outgoing {
    bytes: Zeroizing<Vec<u8>>,
    written: usize,
    descriptors: Vec<OwnedFd>,
}

/// One end of the socket.
pub struct Passage {
    fd: OwnedFd,
    inbox: Inbox,
    /// Where a frame is written, before its length is known. Wiped after each.
    draft: Vec<u8>,
    arrived: VecDeque<OwnedFd>,
    outgoing: VecDeque<Outgoing>,
    ended: bool,
    writer: Option<i32>,
    /// Descriptors that the other end reads at once, at most.
    at_once: usize,
}

impl fmt::Debug for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passage").finish_non_exhaustive()
    }
}

impl Passage {
    /// Both ends of a new socket, close-on-exec. The second is for another process; the first gets to
    /// know which one ([`Passage::writer`]).
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn pair() -> io::Result<(Passage, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        setsockopt(&ours, PassCred, &true)?;
        Ok((Passage::over(ours), theirs))
    }

    /// The end that this descriptor is.
    pub fn over(fd: OwnedFd) -> Passage {
        Passage {
            fd,
            inbox: Inbox::default(),
            draft: Vec::new(),
            arrived: VecDeque::new(),
            outgoing: VecDeque::new(),
            ended: false,
            writer: None,
            at_once: MOST_DESCRIPTORS,
        }
    }

    /// The other end reads the descriptors of many frames at once.
    pub fn widen(&mut self) {
        self.at_once = MANY_DESCRIPTORS;
    }

    /// The descriptor, to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The user and process that made the socket, as the kernel knows them (SO_PEERCRED).
    ///
    /// # Errors
    /// If this is no Unix socket.
    pub fn peer(&self) -> io::Result<(u32, i32)> {
        let credentials = getsockopt(&self.fd, PeerCredentials)?;
        Ok((credentials.uid(), credentials.pid()))
    }

    /// The process that wrote what was read last, as the kernel knows it (SO_PASSCRED); `None` before
    /// that, for the end that [`Passage::pair`] gave away, and for a process we cannot see.
    pub fn writer(&self) -> Option<i32> {
        self.writer
    }

    /// Queues a frame whose body is what `write` writes. [`Passage::flush`] writes it to the socket.
    ///
    /// # Errors
    /// Those of `write`, and those of [`Passage::post`].
    pub fn post_written(
        &mut self,
        descriptors: Vec<OwnedFd>,
        write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut draft = std::mem::take(&mut self.draft);
        // Large enough not to move while it is written to, which would leave a copy that nobody wipes.
        draft.reserve(TYPICAL);
        let posted = write(&mut draft).and_then(|()| self.post(&draft, descriptors));
        // Only what was written: to wipe all there is room for takes longer than everything else.
        draft.as_mut_slice().zeroize();
        draft.clear();
        self.draft = draft;
        posted
    }

    /// Queues a frame. [`Passage::flush`] writes it.
    ///
    /// # Errors
    /// If the body is too long or there are too many descriptors.
    pub fn post(&mut self, body: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<()> {
        if body.len() > LONGEST || descriptors.len() > MOST_DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a frame of {} bytes and {} descriptors cannot be passed",
                    body.len(),
                    descriptors.len()
                ),
            ));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEADER + body.len()));
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(u8::try_from(descriptors.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(body);
        self.outgoing.push_back(Outgoing {
            bytes,
            written: 0,
            descriptors,
        });
        Ok(())
    }

    /// Whether frames are waiting to be written.
    pub fn owes(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Bytes waiting to be written.
    pub fn owed(&self) -> usize {
        let left = |frame: &Outgoing| frame.bytes.len() - frame.written;
        self.outgoing.iter().map(left).sum()
    }

    /// Writes what fits. Our copies of a frame's descriptors are closed once they are on their way. If the
    /// other end is gone everything is dropped; what it said before is still there to be read.
    ///
    /// # Errors
    /// Those of `sendmsg`: too many descriptors are in flight (`ETOOMANYREFS`).
    pub fn flush(&mut self) -> io::Result<()> {
        while self.owes() {
            let (mut raw, mut slices) = (Vec::<RawFd>::new(), Vec::new());
            for frame in self.outgoing.iter().take(TOGETHER) {
                if raw.len() + frame.descriptors.len() > self.at_once {
                    break;
                }
                raw.extend(frame.descriptors.iter().map(AsRawFd::as_raw_fd));
                slices.push(IoSlice::new(&frame.bytes[frame.written..]));
            }
            let rights = [ControlMessage::ScmRights(&raw)];
            // Descriptors travel with the first byte.
            let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let sent = sendmsg::<()>(self.fd.as_raw_fd(), &slices, rights, flags, None);
            let together = slices.len();
            match sent {
                Ok(n) => self.note_sent(together, n),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => self.outgoing.clear(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// So many frames were given to the socket together, and it took so many bytes of them.
    fn note_sent(&mut self, together: usize, mut bytes: usize) {
        for frame in self.outgoing.iter_mut().take(together) {
            frame.descriptors.clear();
            let of_this = bytes.min(frame.bytes.len() - frame.written);
            frame.written += of_this;
            bytes -= of_this;
        }
        let is_written = |frame: &Outgoing| frame.written == frame.bytes.len();
        while self.outgoing.front().is_some_and(is_written) {
            self.outgoing.pop_front();
        }
    }

    /// Reads what is there; not all of it, if what has come can be looked at first.
    ///
    /// # Errors
    /// Those of `recvmsg`.
    pub fn fill(&mut self) -> io::Result<()> {
        loop {
            let space = self.inbox.space();
            let room = space.len();
            let mut control = cmsg_space!([RawFd; MANY_DESCRIPTORS], UnixCredentials);
            let mut slices = [IoSliceMut::new(space)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let received =
                recvmsg::<()>(self.fd.as_raw_fd(), &mut slices, Some(&mut control), flags);
            let received = received.map(|message| {
                (
                    message.bytes,
                    message.cmsgs().map(Iterator::collect::<Vec<_>>),
                )
            });
            let (bytes, controls) = match received {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::ECONNRESET) => {
                    self.ended = true;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            self.inbox.came(bytes);
            for control in controls? {
                match control {
                    // SAFETY: the kernel has just made these descriptors for us and nobody else knows
                    // them.
                    #[allow(unsafe_code)]
                    ControlMessageOwned::ScmRights(raw) => self.arrived.extend(
                        raw.into_iter()
                            .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                    ),
                    ControlMessageOwned::ScmCredentials(who) if bytes > 0 => {
                        self.writer = Some(who.pid()).filter(|&pid| pid > 0);
                    }
                    _ => {}
                }
            }
            if bytes == 0 {
                self.ended = true;
                return Ok(());
            }
            if bytes < room && self.inbox.unread().len() >= HEADER {
                // What else there is can wait until this has been looked at.
                return Ok(());
            }
        }
    }

    /// The next whole frame that was read.
    ///
    /// # Errors
    /// `InvalidData` if the peer does not keep to the rules of frames.
    pub fn take(&mut self) -> io::Result<Option<Frame>> {
        let unread = self.inbox.unread();
        let Some(&[a, b, c, d, count]) = unread.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let count = usize::from(count);
        let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if length > LONGEST || count > MOST_DESCRIPTORS {
            return wrong("the peer sent a frame that is too long");
        }
        if unread.len() < HEADER + length {
            return Ok(None);
        }
        if self.arrived.len() < count {
            return wrong("the peer sent a frame without its descriptors");
        }
        Ok(Some(Frame {
            body: self.inbox.take(HEADER, length),
            descriptors: self.arrived.drain(..count).collect(),
        }))
    }

    /// Whether the other end has closed. Frames that came before may still be there.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn ends() -> (Passage, Passage) {
        let (ours, theirs) = Passage::pair().unwrap();
        (ours, Passage::over(theirs))
    }

    #[test]
    fn frames_arrive_whole_with_their_own_descriptors() {
        for wide in [false, true] {
            let (mut here, there) = ends();
            if wide {
                here.widen();
            }
            frames_arrive_whole(here, there);
        }
    }

    fn frames_arrive_whole(mut here: Passage, mut there: Passage) {
        let mut pipes = Vec::new();
        for number in 0..10_u8 {
            let (kept, passed) = UnixStream::pair().unwrap();
            let body = vec![number; 30_000 * usize::from(number)];
            here.post(&body, vec![passed.into()]).unwrap();
            here.post(b"none", Vec::new()).unwrap();
            pipes.push(kept);
        }
        for number in 0..10_u8 {
            for expected in [1, 0] {
                let frame = loop {
                    here.flush().unwrap();
                    if let Some(frame) = there.take().unwrap() {
                        break frame;
                    }
                    there.fill().unwrap();
                };
                assert_eq!(frame.descriptors.len(), expected);
                if let Some(fd) = frame.descriptors.into_iter().next() {
                    assert_eq!(frame.body.len(), 30_000 * usize::from(number));
                    UnixStream::from(fd).write_all(&[number]).unwrap();
                    let mut heard = [0];
                    pipes[usize::from(number)].read_exact(&mut heard).unwrap();
                    assert_eq!(heard[0], number);
                }
            }
        }
        assert!(!here.owes());
    }

    #[test]
    fn the_writer_is_known_to_who_made_the_pair() {
        let (mut here, mut there) = ends();
        assert_eq!(here.writer(), None);
        there.post(b"I am", Vec::new()).unwrap();
        there.flush().unwrap();
        here.fill().unwrap();
        assert_eq!(here.writer(), i32::try_from(std::process::id()).ok());
    }

    #[test]
    fn the_end_is_told_after_the_last_frame() {
        let (mut here, mut there) = ends();
        here.post(b"last", Vec::new()).unwrap();
        here.flush().unwrap();
        drop(here);
        while !there.has_ended() {
            there.fill().unwrap();
        }
        assert_eq!(there.take().unwrap().unwrap().body[..], *b"last");
        assert!(there.take().unwrap().is_none());
    }

    #[test]
    fn what_the_other_end_said_before_it_died_is_read_although_nothing_can_be_written() {
        let (mut here, mut there) = ends();
        there.post(b"one", Vec::new()).unwrap();
        there.post(b"two", Vec::new()).unwrap();
        there.flush().unwrap();
        here.post(b"unread", Vec::new()).unwrap();
        here.flush().unwrap();
        drop(there);
        here.post(b"in vain", Vec::new()).unwrap();
        here.flush().unwrap();
        assert!(!here.owes());
        while !here.has_ended() {
            here.fill().unwrap();
        }
        assert_eq!(*here.take().unwrap().unwrap().body, b"one");
        assert_eq!(*here.take().unwrap().unwrap().body, b"two");
    }

    #[test]
    fn an_impossible_length_is_refused_before_it_is_stored() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut there = Passage::over(theirs.into());
        (&ours).write_all(&[0xff, 0xff, 0xff, 0xff, 0]).unwrap();
        there.fill().unwrap();
        assert!(there.take().is_err());
    }
}
