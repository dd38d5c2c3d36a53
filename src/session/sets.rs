//! Which thread drives a session: one of its own, or that of a shared set.
//!
//! The rule, whole:
//!
//! - A session has a thread of its own as long as no more than `client_threads` have one (0: all have one), and the
//!   system has threads for them. The others are in shared sets.
//! - A session is *busy* from when its request is on its way to a server, or waits for one, until the reply is there.
//!   A session with a thread of its own that becomes busy while as many of those as the machine has processors are busy
//!   already joins a shared set. So the busiest sessions keep threads of their own, one for each processor, and
//!   the thread of a set drives the others: it finds many sockets ready at a time, and a thread for each of them would
//!   cost two context switches a transaction. With `client_threads = 0` no session joins a set for this.
//! - It goes back to a thread of its own, with the request that it has just sent, once it has been *calm* for [`CALM`]:
//!   never in all that time were more sessions busy than there are processors, in sets and out of them. The time is the
//!   hysteresis. To move a session there and back costs about as much as ten transactions save, and a load that comes
//!   in bursts would pay that for each burst.
//! - A session that comes from another process begins in a set.
//! - A session joins the set that has fewest. There is one set at first. One whose thread has no time left to sleep
//!   while a processor is idle (`set_load`) gives half of its busy sessions to another that has time, or to a new one, as
//!   long as there are not as many sets as processors. Sets stay open: a thread that sleeps costs nothing.
//!
//! Invariant: a session is counted busy in one place, and a thread of its own is counted as long as a session has it.

use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use super::driven::Driven;
use super::shared::Shared;
use super::shared_set::SharedSet;
use crate::net::clock::MonotonicTime;

/// How long a session in a set must have been calm before it goes back to a thread of its own.
const CALM: Duration = Duration::from_millis(500);

/// How exact the time is when more sessions were busy than there are processors.
const EXACT: Duration = Duration::from_millis(20);

/// Starts a thread for a session, or gives the session back.
type GiveThread = dyn Fn(Box<Driven>) -> Result<(), Box<Driven>> + Send + Sync;

/// See the module.
#[derive(Default)]
pub struct Sets {
    processors: usize,
    client_threads: AtomicUsize,
    own_threads: AtomicUsize,
    own_busy: AtomicUsize,
    set_busy: AtomicUsize,
    crowded_at: AtomicU64,
    sets: RwLock<Vec<Arc<SharedSet>>>,
    give_thread: OnceLock<Box<GiveThread>>,
}

impl std::fmt::Debug for Sets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sets").finish_non_exhaustive()
    }
}

/// Where a session is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    /// In a thread of its own.
    Own,
    /// In a shared set.
    Set,
}

/// Whether and where a session counts as busy.
#[derive(Debug)]
pub(crate) struct Busy {
    sets: Arc<Sets>,
    at: Option<Where>,
}

impl Busy {
    pub(crate) fn new(sets: &Arc<Sets>) -> Busy {
        Busy {
            sets: Arc::clone(sets),
            at: None,
        }
    }

    /// The session is busy there, or not busy. True if it is and was not, anywhere.
    pub(crate) fn set(&mut self, at: Option<Where>, now: MonotonicTime) -> bool {
        if self.at == at {
            return false;
        }
        let sets = &self.sets;
        let before = std::mem::replace(&mut self.at, at);
        if let Some(before) = before {
            sets.busy(before).fetch_sub(1, Ordering::Relaxed);
        }
        let Some(at) = at else { return false };
        sets.busy(at).fetch_add(1, Ordering::Relaxed);
        let all = [Where::Own, Where::Set].map(|at| sets.busy(at).load(Ordering::Relaxed));
        if all.iter().sum::<usize>() > sets.processors {
            let last = MonotonicTime::from_micros(sets.crowded_at.load(Ordering::Relaxed));
            if now.since(last) >= EXACT {
                sets.crowded_at.store(now.micros(), Ordering::Relaxed);
            }
        }
        before.is_none()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.sets.busy(at).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A thread of its own that a session has, or is to get. Dropping this gives it up.
#[derive(Debug)]
pub(crate) struct OwnThread(Arc<Sets>);

impl Drop for OwnThread {
    fn drop(&mut self) {
        self.0.own_threads.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sets {
    /// No sets yet, and so many threads for one client each.
    pub(crate) fn new(client_threads: usize) -> Sets {
        Sets {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            client_threads: AtomicUsize::new(client_threads),
            ..Sets::default()
        }
    }

    fn busy(&self, at: Where) -> &AtomicUsize {
        match at {
            Where::Own => &self.own_busy,
            Where::Set => &self.set_busy,
        }
    }

    /// Opens the first set. Threads of their own are given to sessions by `give_thread`.
    ///
    /// # Errors
    /// If its thread cannot be started, or there is no descriptor left.
    pub(crate) fn open(
        &self,
        shared: &Arc<Shared>,
        give_thread: Box<GiveThread>,
    ) -> io::Result<()> {
        let _ = self.give_thread.set(give_thread);
        self.open_another(shared).map(drop)
    }

    fn open_another(&self, shared: &Arc<Shared>) -> io::Result<Arc<SharedSet>> {
        let mut sets = self.sets.write();
        let number = u32::try_from(sets.len() + 1).map_err(io::Error::other)?;
        let set = SharedSet::start(number, shared)?;
        sets.push(Arc::clone(&set));
        Ok(set)
    }

    /// Has this set too, which no thread drives yet.
    #[cfg(test)]
    pub(super) fn have(&self, set: &Arc<SharedSet>) {
        self.sets.write().push(Arc::clone(set));
    }

    /// Another set than this, with room for sessions that it gives away; a new one, if there may be one more.
    ///
    /// # Errors
    /// Those of [`Sets::open`].
    pub(super) fn another(
        &self,
        set: &Arc<SharedSet>,
        shared: &Arc<Shared>,
    ) -> io::Result<Option<Arc<SharedSet>>> {
        let sets = self.sets.read().clone();
        let others = sets.iter().filter(|other| !Arc::ptr_eq(set, other));
        let with_room = others.filter(|other| other.has_room());
        if let Some(other) = with_room.min_by_key(|other| other.len()) {
            return Ok(Some(Arc::clone(other)));
        }
        if sets.len() >= self.processors {
            return Ok(None);
        }
        self.open_another(shared).map(Some)
    }

    /// A thread of its own for one more session, if it may have one.
    pub(crate) fn own_thread(self: &Arc<Sets>) -> Option<OwnThread> {
        let most = match self.client_threads.load(Ordering::Relaxed) {
            0 => usize::MAX,
            most => most,
        };
        if self.own_threads.fetch_add(1, Ordering::Relaxed) < most {
            return Some(OwnThread(Arc::clone(self)));
        }
        self.own_threads.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Whether a session that has just become busy in a thread of its own joins a set.
    pub(crate) fn is_to_join(&self) -> bool {
        self.own_busy.load(Ordering::Relaxed) > self.processors
            && self.client_threads.load(Ordering::Relaxed) > 0
    }

    /// Whether a session that has just become busy in a set goes back to a thread of its own, if there is one.
    pub(crate) fn is_calm(&self, now: MonotonicTime) -> bool {
        let last = MonotonicTime::from_micros(self.crowded_at.load(Ordering::Relaxed));
        now.since(last) >= CALM || self.client_threads.load(Ordering::Relaxed) == 0
    }

    /// Puts a session into a set.
    pub(crate) fn join(&self, driven: Box<Driven>) {
        let sets = self.sets.read();
        match sets.iter().min_by_key(|set| set.len()) {
            Some(set) => set.join(driven),
            None => log::error!("there is no set for a session; it has ended"),
        }
    }

    /// Gives a session a thread of its own.
    ///
    /// # Errors
    /// The session, if no thread can be started.
    pub(crate) fn give_thread(&self, driven: Box<Driven>) -> Result<(), Box<Driven>> {
        match self.give_thread.get() {
            Some(give) => give(driven),
            None => Err(driven),
        }
    }
}
