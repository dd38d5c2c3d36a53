//! The call in which a thread waits for the one or two sockets of its session, for as long as it takes. A shared set
//! waits in [`poll_set`](super::poll_set) instead, and a peer that is about to send something may be waited for where
//! it is read (`Stream::receive_soon`, for two milliseconds).
//!
//! A thread must also wake up when another thread wants it to: to move, to stop, to be cancelled. Of the two ways that
//! cannot miss a wake-up this is the one that costs no descriptor: the wake-up signal is blocked in every thread at all
//! times except inside `ppoll` and `epoll_pwait`, which unblock it for as long as they wait. A signal that came a
//! moment too early is pending and ends the next wait at once. The other way, an eventfd for each client, costs a
//! descriptor and some 200 bytes of kernel memory for each of thousands of idle clients and one more entry in every
//! poll; a signal costs its receiver about two microseconds, and only when there is a signal for a session.
//!
//! The signal is SIGURG: its default action is to be ignored, nothing here uses urgent data, and
//! debuggers pass it on without stopping.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;

use super::clock::MonotonicTime;

const WAKE_UP: Signal = Signal::SIGURG;

extern "C" fn woken(_: libc::c_int) {}

/// Blocks in the calling thread, and so in all threads it will start, the wake-up signal and those that
/// one thread alone takes with `sigwait`. Must run before any other thread exists.
///
/// # Errors
/// If the kernel refuses, which it does for no reason we know.
pub fn prepare_process(taken_elsewhere: &SigSet) -> io::Result<()> {
    let mut blocked = *taken_elsewhere;
    blocked.add(WAKE_UP);
    blocked.thread_block()?;
    let action = SigAction::new(
        SigHandler::Handler(woken),
        SaFlags::empty(), // no SA_RESTART: the handler's only effect is that ppoll returns
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, so it can interrupt anything.
    #[allow(unsafe_code)]
    unsafe { sigaction(WAKE_UP, &action) }?;
    Ok(())
}

/// The signal mask a thread has while it waits: its own, with the wake-up signal let through.
pub(super) fn mask_while_waiting() -> &'static SigSet {
    static MASK: OnceLock<SigSet> = OnceLock::new();
    MASK.get_or_init(|| {
        let mut mask = SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::empty());
        mask.remove(WAKE_UP);
        mask
    })
}

/// Wakes the thread with this number, in its current wait or in its next one. A thread that has ended in
/// the meantime is not there to be woken, and that is fine: a number taken over by another thread of
/// this process costs that one a look around.
pub fn wake(thread: Pid) {
    // SAFETY: tgkill takes three numbers; it fails for a thread that is not ours.
    #[allow(unsafe_code)]
    unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            libc::getpid(),
            thread.as_raw(),
            WAKE_UP as libc::c_int,
        );
    }
}

/// What a thread waits for on one socket. That the peer is gone ends any wait, and so does the end of what it
/// sends, unless that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// Bytes to read.
    pub read: bool,
    /// Room to write.
    pub write: bool,
    /// The end of what the peer sends is known: it ends no wait.
    pub end_known: bool,
}

impl Interest {
    /// Bytes to read, and nothing else.
    pub const READ: Interest = Interest {
        read: true,
        write: false,
        end_known: false,
    };
}

/// What a socket is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// There are bytes, or an end, or an error to read.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The peer will send nothing more. There may still be bytes to read.
    pub hung_up: bool,
    /// The peer will read nothing more either: the connection was reset, or both its halves are closed.
    pub gone: bool,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// A socket is ready.
    Ready {
        /// The client's socket.
        client: Readiness,
        /// The server's socket.
        server: Readiness,
    },
    /// The deadline passed.
    Deadline,
    /// Another thread called [`wake`]: look at the signals.
    Interrupted,
}

fn entry(socket: Option<(RawFd, Interest)>) -> libc::pollfd {
    let Some((socket, interest)) = socket else {
        // The kernel passes over a negative descriptor.
        return libc::pollfd {
            fd: -1,
            events: 0,
            revents: 0,
        };
    };
    let mut events = 0;
    if !interest.end_known {
        events |= libc::POLLRDHUP;
    }
    if interest.read {
        events |= libc::POLLIN;
    }
    if interest.write {
        events |= libc::POLLOUT;
    }
    libc::pollfd {
        fd: socket,
        events,
        revents: 0,
    }
}

fn readiness(entry: libc::pollfd) -> Readiness {
    let has = |flags: libc::c_short| entry.revents & flags != 0;
    let gone = has(libc::POLLERR | libc::POLLHUP | libc::POLLNVAL);
    Readiness {
        readable: gone || has(libc::POLLIN),
        writable: has(libc::POLLOUT),
        hung_up: gone || has(libc::POLLRDHUP),
        gone,
    }
}

/// Waits until one of the sockets is ready, the deadline has passed, or another thread wakes this one.
///
/// # Errors
/// Those of `ppoll`; an interruption is none.
pub fn wait(
    client: Option<(BorrowedFd<'_>, Interest)>,
    server: Option<(BorrowedFd<'_>, Interest)>,
    deadline: Option<MonotonicTime>,
) -> io::Result<Woken> {
    let number = |(socket, interest): (BorrowedFd<'_>, Interest)| (socket.as_raw_fd(), interest);
    let (client, server) = (client.map(number), server.map(number));
    let used = 1 + libc::nfds_t::from(server.is_some());
    let mut entries = [entry(client), entry(server)];
    let timeout = deadline.map(|deadline| *TimeSpec::from_duration(deadline.remaining()).as_ref());
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // nix's ppoll knows neither POLLRDHUP nor lets it pass through its flags.
    // SAFETY: the array outlives the call and has `used` entries or more; the mask is initialised; the
    // timeout is null or points to a value that outlives the call.
    #[allow(unsafe_code)]
    let ready = unsafe {
        libc::ppoll(
            entries.as_mut_ptr(),
            used,
            timeout,
            mask_while_waiting().as_ref(),
        )
    };
    match Errno::result(ready) {
        Ok(0) => Ok(Woken::Deadline),
        Ok(_) => Ok(Woken::Ready {
            client: readiness(entries[0]),
            server: readiness(entries[1]),
        }),
        Err(Errno::EINTR) => Ok(Woken::Interrupted),
        Err(error) => Err(error.into()),
    }
}

/// Waits for one socket that is nobody's client or server, up to `limit`: whether it became ready.
///
/// # Errors
/// Those of `ppoll`.
pub fn wait_briefly(fd: BorrowedFd<'_>, interest: Interest, limit: Duration) -> io::Result<bool> {
    let deadline = MonotonicTime::now().after(limit);
    loop {
        match wait(Some((fd, interest)), None, Some(deadline))? {
            Woken::Ready { .. } => return Ok(true),
            Woken::Deadline => return Ok(false),
            Woken::Interrupted => {}
        }
    }
}
