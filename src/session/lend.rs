//! What a session has of its pool: a place in the queue, or a live connection out of it. The only place
//! where a thread waits in a pool's queue.
//!
//! Invariant: a connection that was lent is given back or written off exactly once, and a place in the
//! queue is given up, also if the thread that has them panics.

use std::sync::Arc;
use std::time::Duration;

use crate::net::clock::Moment;
use crate::pool::pool::{Lack, NoConnection, Pool, Request, Returned};
use crate::pool::totals::Work;
use crate::pool::waiter::{Provenance, Waiter};
use crate::server::backend::Connection;
use crate::server::login::ConnectError;

/// Why there is none.
#[derive(Debug)]
pub enum NotLent {
    /// `query_wait_timeout` passed.
    TimedOut(Lack),
    /// None could be made.
    Failed(Arc<ConnectError>),
    /// The pool no longer exists.
    Closed,
    /// The caller was told something else.
    Told,
}

impl From<NoConnection> for NotLent {
    fn from(why: NoConnection) -> NotLent {
        match why {
            NoConnection::TimedOut(lack) => NotLent::TimedOut(lack),
            NoConnection::Failed(error) => NotLent::Failed(error),
            NoConnection::Closed => NotLent::Closed,
            NoConnection::Left => NotLent::Told,
        }
    }
}

/// How long ago the server may have been heard from to be taken for alive without a look. It may end a
/// connection at any time, also just after a look; this makes that span longer by no more than a busy
/// machine does, and saves a call to the kernel for each transaction of a busy client.
const FRESH: Duration = Duration::from_millis(1);

/// A live connection that a session has done with and its thread has kept, for another one of the same pool.
/// Dropping it gives it back.
#[derive(Debug)]
pub struct Spare(Option<(Arc<Pool>, Connection)>);

impl Drop for Spare {
    fn drop(&mut self) {
        if let Some((pool, connection)) = self.0.take() {
            pool.give_back(connection, &Work::default(), Moment::now());
        }
    }
}

/// What has become of a session's connection.
#[derive(Debug)]
pub enum GivenBack {
    /// Its pool has it, and it is free.
    Free,
    /// Another session, which waited for it, has it.
    Handed,
    /// It can be used for the next.
    Kept(Spare),
}

/// What a session has of its pool.
#[derive(Debug)]
pub struct Claim {
    /// The pool.
    pool: Arc<Pool>,
    waiter: Arc<Waiter>,
    /// The pool counts a connection as lent to us.
    lent: bool,
    /// The waiter has a place in the pool's queue.
    queued: bool,
}

impl Claim {
    /// Nothing yet, or, if it is `lent`, a connection that the pool counts already.
    pub fn new(pool: Arc<Pool>, waiter: Arc<Waiter>, lent: bool) -> Claim {
        Claim {
            pool,
            waiter,
            lent,
            queued: false,
        }
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Whether there is a place in the queue.
    pub fn is_queued(&self) -> bool {
        self.queued
    }

    /// From now on it is another pool. What there is of the old one is given up.
    pub fn turn_to(&mut self, pool: Arc<Pool>) {
        self.give_up();
        self.pool = pool;
    }

    /// Takes a connection that lies idle and is alive, if there is one and nobody is in front of us; else
    /// there is a place in the queue now. Dead ones on the way are written off.
    ///
    /// # Errors
    /// [`NotLent::Closed`].
    pub fn obtain_at_once(&mut self, now: Moment) -> Result<Option<Connection>, NotLent> {
        let request = self.pool.request(&self.waiter)?;
        self.take_alive(request, now)
    }

    /// Asks on behalf of one who has waited since `since`, in another process or another life: its place
    /// in the queue is by that moment. A connection that is there at once and alive is returned.
    ///
    /// # Errors
    /// [`NotLent::Closed`].
    pub fn request_since(&mut self, since: Moment) -> Result<Option<Connection>, NotLent> {
        let request = self.pool.request_since(&self.waiter, since)?;
        self.take_alive(request, Moment::now())
    }

    /// Takes a connection that lies idle and is alive, if there is one and nobody waits.
    pub fn obtain_idle(&mut self) -> Option<Connection> {
        loop {
            let mut connection = self.pool.lend_idle()?;
            self.lent = true;
            if is_alive(&mut connection) {
                return Some(connection);
            }
            self.bury(connection);
        }
    }

    /// Takes what there is, or else what there is instead of it if that is dead.
    fn take_alive(
        &mut self,
        mut request: Request,
        now: Moment,
    ) -> Result<Option<Connection>, NotLent> {
        loop {
            match self.note(request) {
                None => return Ok(None),
                Some(mut connection) => {
                    if now.since(connection.backend.used_at) < FRESH || is_alive(&mut connection) {
                        return Ok(Some(connection));
                    }
                    self.bury(connection);
                    request = self.pool.request_again(&self.waiter)?;
                }
            }
        }
    }

    /// Waits in the queue, where there is a place, for a connection that is alive.
    ///
    /// # Errors
    /// [`NotLent`]; the place in the queue is given up.
    pub fn wait(
        &mut self,
        deadline: Moment,
        told: &dyn Fn() -> bool,
    ) -> Result<Connection, NotLent> {
        loop {
            let outcome = self.pool.wait(&self.waiter, deadline, told);
            self.queued = false;
            let (mut connection, how) = outcome?;
            self.lent = true;
            if how == Provenance::Hand {
                // Its last user has heard from the server a moment ago: as good as a look at the socket.
                return Ok(connection);
            }
            loop {
                if is_alive(&mut connection) {
                    return Ok(connection);
                }
                self.bury(connection);
                let request = self.pool.request_again(&self.waiter)?;
                match self.note(request) {
                    Some(next) => connection = next,
                    None => break,
                }
            }
        }
    }

    /// Takes a connection, waiting for it if need be.
    ///
    /// # Errors
    /// [`NotLent`].
    pub fn obtain(
        &mut self,
        deadline: Moment,
        told: &dyn Fn() -> bool,
    ) -> Result<Connection, NotLent> {
        match self.obtain_at_once(Moment::now())? {
            Some(connection) => Ok(connection),
            None => self.wait(deadline, told),
        }
    }

    /// Gives the clean connection back, as of `now`, with what was done with it.
    pub fn give_back(&mut self, connection: Connection, work: &Work, now: Moment) {
        self.lent = false;
        self.pool.give_back(connection, work, now);
    }

    /// The same, unless it can be kept for a session of this pool that has waited since `next`.
    pub fn give_back_or_keep(
        &mut self,
        connection: Connection,
        work: &Work,
        now: Moment,
        next: Moment,
    ) -> GivenBack {
        self.lent = false;
        let returned = self.pool.give_back_or_keep(connection, work, now, next);
        match returned {
            Returned::Free => GivenBack::Free,
            Returned::Handed => GivenBack::Handed,
            Returned::Kept(connection) => {
                GivenBack::Kept(Spare(Some((Arc::clone(&self.pool), connection))))
            }
        }
    }

    /// Takes what was kept, if it is of this pool.
    pub fn take_spare(&mut self, mut spare: Spare) -> Option<Connection> {
        let (_, connection) = spare.0.take_if(|(pool, _)| Arc::ptr_eq(pool, &self.pool))?;
        self.lent = true;
        Some(connection)
    }

    /// The connection is gone for good; with what was done with it.
    pub fn write_off(&mut self, work: &Work) {
        self.lent = false;
        self.pool.write_off(work);
    }

    /// Gives up the place in the queue, if there is one; it can be had again by the time it was taken.
    pub fn leave_queue(&mut self) {
        if std::mem::take(&mut self.queued) {
            self.pool.leave(&self.waiter);
        }
    }

    /// Lets go of the pool while the connection, if there is one, stays lent: somebody else has it now.
    pub fn hand_on(mut self) -> Arc<Pool> {
        self.leave_queue();
        self.lent = false;
        Arc::clone(&self.pool)
    }

    fn note(&mut self, request: Request) -> Option<Connection> {
        match request {
            Request::Met(connection) => {
                self.lent = true;
                Some(connection)
            }
            Request::Queued => {
                self.queued = true;
                None
            }
        }
    }

    fn give_up(&mut self) {
        self.leave_queue();
        if self.lent {
            self.write_off(&Work::default());
        }
    }

    fn bury(&mut self, connection: Connection) {
        log::warn!(
            "[{}@{}] server connection pid={} was closed by PostgreSQL while it lay idle",
            self.pool.user,
            self.pool.database,
            connection.backend.key.process_id
        );
        drop(connection);
        self.write_off(&Work::default());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// One call to the kernel for each use of a connection: nothing of a request is sent to a server that has
/// already closed the connection.
fn is_alive(connection: &mut Connection) -> bool {
    connection.stream.is_silent()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::tests::{LONG, Server, plan, pool_of, until};

    #[test]
    fn who_panics_leaves_neither_a_connection_nor_a_place_in_the_queue() {
        let server = Server::start();
        let pool = pool_of(plan(&server, 1));
        let panics = |deadline: Moment| {
            let mut claim = Claim::new(Arc::clone(&pool), Arc::default(), false);
            std::thread::spawn(move || {
                let Ok(None) = claim.obtain_at_once(Moment::now()) else {
                    panic!("there was one");
                };
                if deadline > Moment::now() {
                    claim.wait(deadline, &|| false).unwrap();
                }
                panic!("on purpose");
            })
            .join()
            .unwrap_err()
        };
        panics(Moment::now().after(LONG));
        assert_eq!(pool.snapshot().lent, 0);
        pool.pause();
        panics(Moment::now());
        assert_eq!(pool.snapshot().waiting, 0);
        pool.resume();
        let mut claim = Claim::new(Arc::clone(&pool), Arc::default(), false);
        let never = || false;
        let connection = claim.obtain(Moment::now().after(LONG), &never).unwrap();
        claim.give_back(connection, &Work::default(), Moment::now());
        until("it is idle", || pool.snapshot().idle == 1);
        drop(claim);
        assert_eq!((pool.snapshot().lent, pool.snapshot().idle), (0, 1));
    }

    #[test]
    fn who_has_waited_elsewhere_gets_no_dead_connection_either() {
        let server = Server::start();
        let pool = pool_of(plan(&server, 1));
        let mut claim = Claim::new(Arc::clone(&pool), Arc::default(), false);
        let soon = Moment::now().after(LONG);
        let connection = claim.obtain(soon, &|| false).unwrap();
        let returned = Moment::now();
        claim.give_back(connection, &Work::default(), returned);
        until("it has been idle", || returned.elapsed() > FRESH);
        server.hang_up();
        let at_once = claim.request_since(Moment::now()).unwrap();
        let connection = at_once.map_or_else(|| claim.wait(soon, &|| false), Ok);
        assert!(is_alive(&mut connection.unwrap()));
    }
}
