//! Threads without work, which wait a while for the next client.
//!
//! Those that have done a TLS handshake wait apart. What it leaves behind in its thread, in the stack and in what
//! the allocator and OpenSSL keep for the thread, is as much as all else that an idle client costs: such a thread
//! is there for the next handshake, where it saves the time to have all that again, and not for a session.
//!
//! Knows nothing of the work. Invariant: work is given to a thread that is there to take it, or stays with who
//! offers it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::net::thread;

/// Threads that wait in a bay, at most, and for how long.
pub(super) const PARKED: usize = 32;
const PARKED_FOR: Duration = Duration::from_secs(30);

/// Where a thread waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bay {
    /// It has done no handshake.
    Fresh,
    /// It has.
    Handshakes,
}

#[derive(Debug)]
struct Lane<T> {
    offers: Sender<T>,
    takes: Receiver<T>,
    parked: AtomicUsize,
}

impl<T> Default for Lane<T> {
    fn default() -> Lane<T> {
        // Without room of its own: what is offered goes to a thread that is there to take it, or to none.
        let (offers, takes) = bounded(0);
        Lane {
            offers,
            takes,
            parked: AtomicUsize::new(0),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Parking<T> {
    fresh: Lane<T>,
    handshakes: Lane<T>,
}

impl<T> Default for Parking<T> {
    fn default() -> Parking<T> {
        Parking {
            fresh: Lane::default(),
            handshakes: Lane::default(),
        }
    }
}

impl<T> Parking<T> {
    fn lane(&self, bay: Bay) -> &Lane<T> {
        match bay {
            Bay::Fresh => &self.fresh,
            Bay::Handshakes => &self.handshakes,
        }
    }

    /// Gives work to a thread that waits in this bay.
    ///
    /// # Errors
    /// The work, if there is none.
    pub(super) fn offer(&self, bay: Bay, work: T) -> Result<(), T> {
        let offered = self.lane(bay).offers.try_send(work);
        offered.map_err(|error| error.into_inner())
    }

    /// Waits for work. `None` if none comes, or if enough others wait, unless `all` are to wait.
    pub(super) fn wait(&self, bay: Bay, all: bool) -> Option<T> {
        let lane = self.lane(bay);
        let enough = lane.parked.fetch_add(1, Ordering::Relaxed) >= PARKED && !all;
        let found = if enough {
            None
        } else {
            thread::name("parked");
            lane.takes.recv_timeout(PARKED_FOR).ok()
        };
        lane.parked.fetch_sub(1, Ordering::Relaxed);
        found
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        let lanes = [&self.fresh, &self.handshakes];
        lanes
            .map(|lane| lane.parked.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}
