//! Threads without work, which wait a while for the next client.
//!
//! Those that have done a TLS handshake wait apart. What it leaves behind in its thread, in the stack and in what
//! the allocator and OpenSSL keep for the thread, is as much as all else that an idle client costs: such a thread
//! is there for the next handshake, where it saves the time to have all that again, and not for a session.
//!
//! Knows nothing of the work. Invariant: work is given to a thread that is there to take it, or stays with the
//! caller.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::net::thread;

/// Threads of a class that wait, at most, and for how long.
pub(super) const PARKED: usize = 32;
const PARKED_FOR: Duration = Duration::from_secs(30);

/// The classes of waiting threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ThreadClass {
    /// It has done no handshake.
    Fresh,
    /// It has.
    Handshakes,
}

#[derive(Debug)]
struct Queue<T> {
    offers: Sender<T>,
    takes: Receiver<T>,
    parked: AtomicUsize,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        // Without room of its own: what is offered goes to a thread that is there to take it, or to none.
        let (offers, takes) = bounded(0);
        Queue {
            offers,
            takes,
            parked: AtomicUsize::new(0),
        }
    }
}

/// The threads without work, by class.
#[derive(Debug)]
pub(super) struct IdleThreads<T> {
    fresh: Queue<T>,
    handshakes: Queue<T>,
}

impl<T> Default for IdleThreads<T> {
    fn default() -> IdleThreads<T> {
        IdleThreads {
            fresh: Queue::default(),
            handshakes: Queue::default(),
        }
    }
}

impl<T> IdleThreads<T> {
    fn queue(&self, class: ThreadClass) -> &Queue<T> {
        match class {
            ThreadClass::Fresh => &self.fresh,
            ThreadClass::Handshakes => &self.handshakes,
        }
    }

    /// Gives work to a thread of this class.
    ///
    /// # Errors
    /// The work, if there is none.
    pub(super) fn offer(&self, class: ThreadClass, work: T) -> Result<(), T> {
        let offered = self.queue(class).offers.try_send(work);
        offered.map_err(|error| error.into_inner())
    }

    /// Waits for work. `None` if none comes, or if enough others wait, unless `all` are to wait.
    pub(super) fn wait(&self, class: ThreadClass, all: bool) -> Option<T> {
        let queue = self.queue(class);
        let enough = queue.parked.fetch_add(1, Ordering::Relaxed) >= PARKED && !all;
        let found = if enough {
            None
        } else {
            thread::name("parked");
            queue.takes.recv_timeout(PARKED_FOR).ok()
        };
        queue.parked.fetch_sub(1, Ordering::Relaxed);
        found
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        let queues = [&self.fresh, &self.handshakes];
        queues
            .map(|queue| queue.parked.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}
