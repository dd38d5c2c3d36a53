//! The seats of one database: every server connection has one, whichever user's pool it belongs to, and
//! there may be a limit on how many are taken.
//!
//! Does not know pools. Invariant: as many seats are taken as there are connections, to this database and
//! in this process, that are open, being opened, or still to come from another process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam::channel::Sender;

/// The seats of one database.
#[derive(Debug)]
pub struct Seats {
    taken: AtomicUsize,
    limit: AtomicUsize,
    /// Somebody waits for a seat: nobody else may take one.
    wanted: AtomicBool,
    /// Rung when a seat is wanted, and when one gets free that is.
    bell: Sender<()>,
}

/// One of them, for as long as it lives.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Seats {
    /// Seats without a limit. `bell` is rung for whoever gives them to those who wait.
    pub fn new(bell: Sender<()>) -> Arc<Seats> {
        Arc::new(Seats {
            taken: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            wanted: AtomicBool::new(false),
            bell,
        })
    }

    /// Sets how many may be taken. Those that are taken stay so.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.ring();
    }

    /// A free seat, if nobody else waits for one.
    pub fn take(self: &Arc<Seats>) -> Option<Seat> {
        if self.wanted.load(Ordering::Acquire) {
            return None;
        }
        self.take_in_turn()
    }

    /// A free seat for one whose turn it is.
    pub fn take_in_turn(self: &Arc<Seats>) -> Option<Seat> {
        let limit = self.limit.load(Ordering::Relaxed);
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now < limit).then(|| now + 1)
            })
            .ok()
            .map(|_| Seat(Arc::clone(self)))
    }

    /// A seat for a connection that is there already, whatever the limit.
    pub fn take_anyway(self: &Arc<Seats>) -> Seat {
        self.taken.fetch_add(1, Ordering::AcqRel);
        Seat(Arc::clone(self))
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// From now on nobody takes a seat out of turn, and whoever gives them out is called.
    pub fn want(&self) {
        self.note_wanted(true);
        self.ring();
    }

    /// Whether anybody waits for a seat.
    pub fn note_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Release);
    }

    /// Calls whoever gives seats to those who wait, and tries again for those who wait for a server.
    pub fn ring(&self) {
        // One that has not been heard yet is as good as two.
        let _ = self.bell.try_send(());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        if self.0.wanted.load(Ordering::Acquire) {
            self.0.ring();
        }
    }
}
