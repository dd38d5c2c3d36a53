//! Frames with descriptors over a Unix stream socket: the hand-over's wire, below its messages.
//!
//! A frame is four bytes of length, one byte that says how many descriptors belong to it, and its body.
//! Lengths and counts are checked before anything is allocated; descriptors arrive close-on-exec, owned,
//! and those nobody takes are closed. Frames can hold keys: they are wiped when they are done with, never
//! printed, and in no core dump.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{PassCred, PeerCredentials};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixCredentials, getsockopt, recvmsg, sendmsg, setsockopt, socketpair,
};

use super::inbox::Inbox;
use super::outbox::{Draft, Outbox};

/// Bytes in front of a frame's body.
const HEADER: usize = 5;

/// The longest body, in bytes. What is longer goes in pieces: a message behind it waits no longer than for this.
const MAX_LENGTH: usize = 16 << 20;

/// Descriptors in one frame, at most.
pub const MAX_DESCRIPTORS: usize = 4;

/// Descriptors that are written, and read, at once, at most.
const MANY_DESCRIPTORS: usize = 64;

/// One end of the socket.
pub struct FdChannel {
    fd: OwnedFd,
    inbox: Inbox,
    arrived: VecDeque<OwnedFd>,
    outbox: Outbox,
    ended: bool,
    /// The kernel can take nothing more at the moment, whatever it says of the socket.
    congested: bool,
    writer: Option<i32>,
}

impl fmt::Debug for FdChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passage").finish_non_exhaustive()
    }
}

impl FdChannel {
    /// Both ends of a new socket, close-on-exec. The second is for another process; the first gets to
    /// know which one ([`FdChannel::writer`]).
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn pair() -> io::Result<(FdChannel, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        setsockopt(&ours, PassCred, &true)?;
        Ok((FdChannel::over(ours), theirs))
    }

    /// The end that this descriptor is.
    pub fn over(fd: OwnedFd) -> FdChannel {
        FdChannel {
            fd,
            inbox: Inbox::default(),
            arrived: VecDeque::new(),
            outbox: Outbox::default(),
            ended: false,
            congested: false,
            writer: None,
        }
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
    /// that, for the end that [`FdChannel::pair`] gave away, and for a process we cannot see.
    pub fn writer(&self) -> Option<i32> {
        self.writer
    }

    /// Queues a frame whose body is what `write` writes. [`FdChannel::flush`] writes it to the socket.
    ///
    /// # Errors
    /// Those of `write`, and if the body is too long or there are too many descriptors. Nothing was queued then.
    pub fn queue(
        &mut self,
        descriptors: Vec<OwnedFd>,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let count = descriptors.len();
        if count > MAX_DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{count} descriptors cannot be passed together"),
            ));
        }
        let header = |length: usize| {
            let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
            [a, b, c, d, u8::try_from(count).unwrap_or(u8::MAX)]
        };
        self.outbox
            .add(MAX_LENGTH, descriptors, header, |draft: &mut Draft<'_>| {
                write(draft)
            })
    }

    /// Whether frames are waiting to be written.
    pub fn owes(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether the other end has to read before more can be written, although the socket seems to have room.
    pub fn is_congested(&self) -> bool {
        self.congested
    }

    /// Bytes waiting to be written.
    pub fn owed(&self) -> usize {
        self.outbox.waiting()
    }

    /// Writes what fits. Our copies of a frame's descriptors are closed once they are on their way. If the
    /// other end is gone everything is dropped; what it said before is still there to be read.
    ///
    /// # Errors
    /// Those of `sendmsg`, but not a shortage that passes when the other end reads.
    pub fn flush(&mut self) -> io::Result<()> {
        self.congested = false;
        while self.owes() {
            let (slices, raw) = self.outbox.next(MANY_DESCRIPTORS);
            let rights = [ControlMessage::ScmRights(&raw)];
            // Descriptors travel with the first byte.
            let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let sent = sendmsg::<()>(self.fd.as_raw_fd(), &slices, rights, flags, None);
            let together = slices.len();
            match sent {
                Ok(n) => self.outbox.note_sent(together, n),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                // Too many descriptors are on their way, or the kernel is short of memory.
                Err(Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM) => {
                    self.congested = true;
                    return Ok(());
                }
                Err(Errno::EPIPE | Errno::ECONNRESET) => self.outbox.clear(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what is there; not all of it, if what has come can be looked at first.
    ///
    /// # Errors
    /// Those of `recvmsg`, and if there is no more memory.
    pub fn fill(&mut self) -> io::Result<()> {
        loop {
            let space = self.inbox.space()?;
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

    /// The next whole frame that was read: what `read` makes of its body, and its descriptors.
    ///
    /// # Errors
    /// `InvalidData` if the peer does not keep to the rules of frames; those of `read`.
    pub fn next<T>(
        &mut self,
        read: impl FnOnce(&[u8]) -> io::Result<T>,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let unread = self.inbox.unread();
        let Some(&[a, b, c, d, count]) = unread.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let count = usize::from(count);
        let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if length > MAX_LENGTH || count > MAX_DESCRIPTORS {
            return wrong("the peer sent a frame that is too long");
        }
        let Some(body) = unread.get(HEADER..HEADER + length) else {
            return Ok(None);
        };
        if self.arrived.len() < count {
            return wrong("the peer sent a frame without its descriptors");
        }
        let said = read(body);
        self.inbox.take(HEADER + length);
        let descriptors = self.arrived.drain(..count).collect();
        said.map(|said| Some((said, descriptors)))
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

    fn queue(channel: &mut FdChannel, body: &[u8], descriptors: Vec<OwnedFd>) {
        channel
            .queue(descriptors, |out| out.write_all(body))
            .unwrap();
    }

    fn next(channel: &mut FdChannel) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        channel.next(|body| Ok(body.to_vec())).unwrap()
    }

    fn ends() -> (FdChannel, FdChannel) {
        let (ours, theirs) = FdChannel::pair().unwrap();
        (ours, FdChannel::over(theirs))
    }

    #[test]
    fn frames_arrive_whole_with_their_own_descriptors() {
        let (mut here, mut there) = ends();
        let mut pipes = Vec::new();
        for number in 0..10_u8 {
            let (kept, passed) = UnixStream::pair().unwrap();
            let body = vec![number; 30_000 * usize::from(number)];
            queue(&mut here, &body, vec![passed.into()]);
            queue(&mut here, b"none", Vec::new());
            pipes.push(kept);
        }
        for number in 0..10_u8 {
            for expected in [1, 0] {
                let (body, descriptors) = loop {
                    here.flush().unwrap();
                    if let Some(frame) = next(&mut there) {
                        break frame;
                    }
                    there.fill().unwrap();
                };
                assert_eq!(descriptors.len(), expected);
                if let Some(fd) = descriptors.into_iter().next() {
                    assert_eq!(body.len(), 30_000 * usize::from(number));
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
        queue(&mut there, b"I am", Vec::new());
        there.flush().unwrap();
        here.fill().unwrap();
        assert_eq!(here.writer(), i32::try_from(std::process::id()).ok());
    }

    #[test]
    fn the_end_is_told_after_the_last_frame() {
        let (mut here, mut there) = ends();
        queue(&mut here, b"last", Vec::new());
        here.flush().unwrap();
        drop(here);
        while !there.has_ended() {
            there.fill().unwrap();
        }
        assert_eq!(next(&mut there).unwrap().0, b"last");
        assert!(next(&mut there).is_none());
    }

    #[test]
    fn what_the_other_end_said_before_it_died_is_read_although_nothing_can_be_written() {
        let (mut here, mut there) = ends();
        queue(&mut there, b"one", Vec::new());
        queue(&mut there, b"two", Vec::new());
        there.flush().unwrap();
        queue(&mut here, b"unread", Vec::new());
        here.flush().unwrap();
        drop(there);
        queue(&mut here, b"in vain", Vec::new());
        here.flush().unwrap();
        assert!(!here.owes());
        while !here.has_ended() {
            here.fill().unwrap();
        }
        assert_eq!(next(&mut here).unwrap().0, b"one");
        assert_eq!(next(&mut here).unwrap().0, b"two");
    }

    #[test]
    fn an_impossible_length_is_refused_before_it_is_stored() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut there = FdChannel::over(theirs.into());
        (&ours).write_all(&[0xff, 0xff, 0xff, 0xff, 0]).unwrap();
        there.fill().unwrap();
        assert!(there.next(|_| Ok(())).is_err());
    }
}
