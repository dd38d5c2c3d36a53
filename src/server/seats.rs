//! The seats of one database: every server connection has one, whichever user's pool it belongs to, and
//! there may be a limit on how many are taken.
//!
//! Does not know pools, only their wishes for a seat. Invariant: as many seats are taken as there are connections, to this database and
//! in this process, that are open, being opened, or still to come from another process.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam::channel::Sender;
use parking_lot::RwLock;

use crate::net::clock::Moment;

/// The seats of one database.
#[derive(Debug)]
pub struct Seats {
    taken: AtomicUsize,
    limit: AtomicUsize,
    /// Somebody waits for a seat: nobody else may take one.
    wanted: AtomicBool,
    /// The wishes of all pools of the database.
    wishes: RwLock<Vec<Weak<Wish>>>,
    /// Rung when a seat is wanted, and when one gets free that is.
    bell: Sender<()>,
}

/// One of them, for as long as it lives.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

/// A pool's wish for a seat, as the other pools of its database see it.
#[derive(Debug, Default)]
pub struct Wish {
    /// Since when the first of its clients has waited whom none of its own connections will serve; 0 if there
    /// is none.
    since: AtomicU64,
    /// Seats that other pools have given up for its sake and it has not taken.
    promised: AtomicUsize,
}

impl Wish {
    /// Says since when the first client has waited for whom there is no seat.
    pub fn set(&self, since: Option<Moment>) {
        let micros = since.map_or(0, Moment::micros);
        if self.since.load(Ordering::Relaxed) != micros {
            self.since.store(micros, Ordering::Relaxed);
        }
    }

    /// Seats that others have given up for its sake.
    pub fn promised(&self) -> usize {
        self.promised.load(Ordering::Relaxed)
    }

    /// What was promised has been taken, or is not there.
    pub fn end_promises(&self) {
        self.promised.store(0, Ordering::Relaxed);
    }
}

impl Seats {
    /// Seats without a limit. `bell` is rung for whoever gives them to those who wait.
    pub fn new(bell: Sender<()>) -> Arc<Seats> {
        Arc::new(Seats {
            taken: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            wanted: AtomicBool::new(false),
            wishes: RwLock::default(),
            bell,
        })
    }

    /// The wish of one more pool.
    pub fn new_wish(&self) -> Arc<Wish> {
        let wish = Arc::new(Wish::default());
        let mut wishes = self.wishes.write();
        wishes.retain(|wish| wish.strong_count() > 0);
        wishes.push(Arc::downgrade(&wish));
        wish
    }

    /// Whether a seat should be given up for a client of another pool that has waited longer than the caller's
    /// own first, who has since `own`, by more than `delay`. It is promised to that pool then.
    pub fn makes_way(&self, own: Moment, delay: Duration) -> bool {
        if !self.wanted.load(Ordering::Acquire) {
            return false;
        }
        let wishes = self.wishes.read();
        let first = wishes
            .iter()
            .filter_map(Weak::upgrade)
            .map(|wish| (wish.since.load(Ordering::Relaxed), wish))
            .filter(|(since, _)| *since != 0)
            .min_by_key(|(since, _)| *since);
        let Some((since, wish)) = first else {
            return false;
        };
        if own.since(Moment::from_micros(since)) <= delay {
            return false;
        }
        // For each client one seat is given up.
        let mine = wish
            .since
            .compare_exchange(since, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        wish.promised
            .fetch_add(usize::from(mine), Ordering::Relaxed);
        mine
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
