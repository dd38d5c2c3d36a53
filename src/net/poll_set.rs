//! Many sockets that one thread waits for together: `epoll`, level-triggered.
//!
//! A socket belongs to its [`Stream`](super::stream::Stream), which may come to be another thread's at any time. So the
//! stream has its [`Registration`], and with the stream it ends. Invariant: a registration ends before its socket is
//! closed. A copy of the socket in another process would keep it alive otherwise.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use parking_lot::Mutex;

use super::clock::MonotonicTime;
use super::wait::{Interest, Readiness, mask_while_waiting};

/// Events that one wait returns.
const EVENTS: usize = 128;

/// The sockets of a set. Anybody may end a registration; one thread waits.
#[derive(Debug)]
pub struct PollSet {
    number: u32,
    epoll: Epoll,
    /// Tokens whose registrations have ended.
    freed: Mutex<Vec<u64>>,
}

/// A socket's place in a set.
#[derive(Debug)]
pub struct Registration {
    set: Arc<PollSet>,
    socket: RawFd,
    token: u64,
    /// What the kernel looks for; `None` if the registration has ended.
    armed: Mutex<Option<EpollFlags>>,
}

/// What is looked for where this is wanted.
fn flags(interest: Interest) -> EpollFlags {
    let mut flags = EpollFlags::empty();
    flags.set(EpollFlags::EPOLLRDHUP, !interest.end_known);
    flags.set(EpollFlags::EPOLLIN, interest.read);
    flags.set(EpollFlags::EPOLLOUT, interest.write);
    flags
}

/// What a socket is ready for, as far as that is wanted; `None` if it is for nothing of that.
pub fn readiness(event: EpollFlags, wanted: Interest) -> Option<Readiness> {
    let lost = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
    let event = event & (flags(wanted) | lost);
    let gone = event.intersects(lost);
    (!event.is_empty()).then(|| Readiness {
        readable: gone || event.contains(EpollFlags::EPOLLIN),
        writable: event.contains(EpollFlags::EPOLLOUT),
        hung_up: gone || event.contains(EpollFlags::EPOLLRDHUP),
        gone,
    })
}

impl PollSet {
    /// A set with this number, which is not 0.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn new(number: u32) -> io::Result<Arc<PollSet>> {
        Ok(Arc::new(PollSet {
            number,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            freed: Mutex::default(),
        }))
    }

    /// Adds a socket; its events carry this token.
    ///
    /// # Errors
    /// Those of `epoll_ctl`.
    pub fn add(
        self: &Arc<PollSet>,
        socket: BorrowedFd<'_>,
        token: u64,
        wanted: Interest,
    ) -> io::Result<Arc<Registration>> {
        let armed = flags(wanted);
        self.epoll.add(socket, EpollEvent::new(armed, token))?;
        Ok(Arc::new(Registration {
            set: Arc::clone(self),
            socket: socket.as_raw_fd(),
            token,
            armed: Mutex::new(Some(armed)),
        }))
    }

    /// Waits until a socket is ready, the thread is woken, or the deadline has passed.
    ///
    /// # Errors
    /// Those of `epoll_pwait`.
    pub fn wait(&self, events: &mut Events, deadline: Option<MonotonicTime>) -> io::Result<()> {
        let timeout = match deadline.map(MonotonicTime::remaining) {
            None => -1,
            Some(Duration::ZERO) => 0,
            // Never a little too early, again and again.
            Some(left) => i32::try_from(left.as_millis())
                .unwrap_or(i32::MAX)
                .saturating_add(1),
        };
        events.count = 0;
        let room = libc::c_int::try_from(EVENTS).unwrap_or(libc::c_int::MAX);
        // SAFETY: the array outlives the call and has as many entries as is said, whose layout is that of the
        // kernel's (EpollEvent is transparent); the mask is initialised.
        #[allow(unsafe_code)]
        let count = unsafe {
            libc::epoll_pwait(
                self.epoll.0.as_raw_fd(),
                events.all.as_mut_ptr().cast(),
                room,
                timeout,
                mask_while_waiting().as_ref(),
            )
        };
        match Errno::result(count) {
            Ok(count) => events.count = usize::try_from(count).unwrap_or(0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes the tokens of registrations that have ended.
    pub fn take_freed(&self, into: &mut Vec<u64>) {
        into.append(&mut self.freed.lock());
    }
}

/// What a wait has returned.
#[derive(Debug)]
pub struct Events {
    all: [EpollEvent; EVENTS],
    count: usize,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            all: [EpollEvent::empty(); EVENTS],
            count: 0,
        }
    }
}

impl Events {
    /// How many sockets are ready.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The token of one of them, and what it is ready for.
    pub fn get(&self, index: usize) -> (u64, EpollFlags) {
        let event = &self.all[index];
        (event.data(), event.events())
    }
}

impl Registration {
    /// The set.
    pub fn set(&self) -> &Arc<PollSet> {
        &self.set
    }

    /// The set's number.
    pub fn set_number(&self) -> u32 {
        self.set.number
    }

    /// The token of its events.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether it has not ended.
    pub fn is_active(&self) -> bool {
        self.armed.lock().is_some()
    }

    /// Looks for what is wanted, and for no more if `exactly`: to look for less costs a call to the kernel, and most
    /// of what is not wanted does not come. False if the registration has ended.
    pub fn want(&self, wanted: Interest, exactly: bool) -> bool {
        let mut armed = self.armed.lock();
        let Some(now) = *armed else { return false };
        let wanted = flags(wanted);
        if now == wanted || !exactly && now.contains(wanted) {
            return true;
        }
        *armed = Some(wanted);
        self.control(Some(EpollEvent::new(wanted, self.token)));
        true
    }

    /// Ends it.
    pub fn end(&self) {
        let mut armed = self.armed.lock();
        if armed.take().is_some() {
            self.control(None);
            self.set.freed.lock().push(self.token);
        }
    }

    fn control(&self, event: Option<EpollEvent>) {
        let (operation, mut event) = match event {
            Some(event) => (libc::EPOLL_CTL_MOD, event),
            None => (libc::EPOLL_CTL_DEL, EpollEvent::empty()),
        };
        // SAFETY: the event outlives the call. The number is that of a socket that is open, as long as the registration
        // has not ended, see the module. The call fails for no socket that was added.
        #[allow(unsafe_code)]
        unsafe {
            libc::epoll_ctl(
                self.set.epoll.0.as_raw_fd(),
                operation,
                self.socket,
                std::ptr::from_mut(&mut event).cast(),
            );
        }
    }
}
