//! What a session has of its pool: a place in the queue, or a live connection out of it.
//!
//! Invariant: a connection that was checked out is checked in or discarded exactly once, and a place in the queue is
//! given up, also if the thread that has them panics. How a session uses this is in `session::attach`.

use std::sync::Arc;
use std::time::Duration;

use crate::net::clock::MonotonicTime;
use crate::pool::pool::{Lack, NoConnection, Pool, Request};
use crate::pool::totals::Counters;
use crate::pool::waiter::{Source, Waiter};
use crate::server::backend::Connection;
use crate::server::login::ConnectError;
use crate::wire::sqlstate;

/// Why there is none.
#[derive(Debug)]
pub enum CheckoutError {
    /// `query_wait_timeout` passed.
    TimedOut(Lack),
    /// None could be made.
    Failed(Arc<ConnectError>),
    /// The pool no longer exists.
    Closed,
    /// The caller has to stop.
    Interrupted,
}

impl From<NoConnection> for CheckoutError {
    fn from(why: NoConnection) -> CheckoutError {
        match why {
            NoConnection::TimedOut(lack) => CheckoutError::TimedOut(lack),
            NoConnection::Failed(error) => CheckoutError::Failed(error),
            NoConnection::Closed => CheckoutError::Closed,
            NoConnection::Left => CheckoutError::Interrupted,
        }
    }
}

/// How long ago the server may have been heard from to be taken for alive without a look. It may end a
/// connection at any time, also just after a look; this makes that span longer by no more than a busy
/// machine does, and saves a call to the kernel for each transaction of a busy client.
const FRESH: Duration = Duration::from_millis(1);

/// What a session has of its pool.
#[derive(Debug)]
pub struct Checkout {
    /// The pool.
    pool: Arc<Pool>,
    waiter: Arc<Waiter>,
    /// The pool counts a connection as checked out by this session.
    in_use: bool,
    /// The waiter has a place in the pool's queue.
    queued: bool,
}

impl Checkout {
    /// Nothing yet; or, if `in_use`, a connection that the pool counts as checked out already.
    pub fn new(pool: Arc<Pool>, waiter: Arc<Waiter>, in_use: bool) -> Checkout {
        Checkout {
            pool,
            waiter,
            in_use,
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
    /// there is a place in the queue now. Dead ones on the way are discarded.
    ///
    /// # Errors
    /// [`CheckoutError::Closed`].
    pub fn obtain_at_once(
        &mut self,
        now: MonotonicTime,
    ) -> Result<Option<Connection>, CheckoutError> {
        let request = self.pool.request(&self.waiter)?;
        self.take_alive(request, now)
    }

    /// Asks for a session that has waited since `since`, here or in another process: its place in the queue is by
    /// that moment. A connection that is there at once and alive is returned.
    ///
    /// # Errors
    /// [`CheckoutError::Closed`].
    pub fn request_since(
        &mut self,
        since: MonotonicTime,
    ) -> Result<Option<Connection>, CheckoutError> {
        let request = self.pool.request_since(&self.waiter, since)?;
        self.take_alive(request, MonotonicTime::now())
    }

    /// Takes a connection that lies idle and is alive, if there is one and nobody waits.
    pub fn obtain_idle(&mut self) -> Option<Connection> {
        loop {
            let mut connection = self.pool.check_out_idle()?;
            self.in_use = true;
            if is_alive(&mut connection) {
                return Some(connection);
            }
            self.discard_dead(connection);
        }
    }

    /// Takes what there is, or else what there is instead of it if that is dead.
    fn take_alive(
        &mut self,
        mut request: Request,
        now: MonotonicTime,
    ) -> Result<Option<Connection>, CheckoutError> {
        loop {
            match self.note(request) {
                None => return Ok(None),
                Some(mut connection) => {
                    if now.since(connection.backend.used_at) < FRESH || is_alive(&mut connection) {
                        return Ok(Some(connection));
                    }
                    self.discard_dead(connection);
                    request = self.pool.request_again(&self.waiter)?;
                }
            }
        }
    }

    /// What has become of the place in the queue: a connection that is alive, or why there is none, which is also so
    /// if the deadline has passed. `None`: the session will be woken. Never waits.
    pub fn poll(&mut self, deadline: MonotonicTime) -> Option<Result<Connection, CheckoutError>> {
        let outcome = self.pool.poll(&self.waiter, deadline)?;
        self.take_awaited(outcome).transpose()
    }

    /// Waits in the queue, where there is a place, for a connection that is alive. Blocks: for logins.
    ///
    /// # Errors
    /// [`CheckoutError`]; the place in the queue is given up.
    pub fn wait(
        &mut self,
        deadline: MonotonicTime,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Connection, CheckoutError> {
        loop {
            let outcome = self.pool.wait(&self.waiter, deadline, interrupted);
            if let Some(connection) = self.take_awaited(outcome)? {
                return Ok(connection);
            }
        }
    }

    /// Takes what was waited for. `None` if it was dead, and there is a place in the queue again.
    fn take_awaited(
        &mut self,
        outcome: Result<(Connection, Source), NoConnection>,
    ) -> Result<Option<Connection>, CheckoutError> {
        self.queued = false;
        let (mut connection, how) = outcome?;
        self.in_use = true;
        if how == Source::Hand {
            // Its last user has heard from the server a moment ago: as good as a look at the socket.
            return Ok(Some(connection));
        }
        loop {
            if is_alive(&mut connection) {
                return Ok(Some(connection));
            }
            self.discard_dead(connection);
            let request = self.pool.request_again(&self.waiter)?;
            match self.note(request) {
                Some(next) => connection = next,
                None => return Ok(None),
            }
        }
    }

    /// Takes a connection, waiting for it if need be.
    ///
    /// # Errors
    /// [`CheckoutError`].
    pub fn obtain(
        &mut self,
        deadline: MonotonicTime,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Connection, CheckoutError> {
        match self.obtain_at_once(MonotonicTime::now())? {
            Some(connection) => Ok(connection),
            None => self.wait(deadline, interrupted),
        }
    }

    /// Gives the clean connection back, as of `now`, with what was done with it.
    pub fn give_back(&mut self, connection: Connection, work: &Counters, now: MonotonicTime) {
        self.in_use = false;
        self.pool.give_back(connection, work, now);
    }

    /// The connection is gone for good; with what was done with it.
    pub fn discard(&mut self, work: &Counters) {
        self.in_use = false;
        self.pool.discard(work);
    }

    /// Gives up the place in the queue, if there is one; it can be had again by the time it was taken.
    pub fn leave_queue(&mut self) {
        if std::mem::take(&mut self.queued) {
            self.pool.leave(&self.waiter);
        }
    }

    /// Whether the session has a thread of its own, and is in no set.
    pub fn is_in_own_thread(&self) -> bool {
        self.waiter.set_number() == 0
    }

    /// Lets go of the pool. A connection stays checked out: the session takes it along to its next driver.
    pub fn hand_on(mut self) -> Arc<Pool> {
        self.leave_queue();
        self.in_use = false;
        Arc::clone(&self.pool)
    }

    fn note(&mut self, request: Request) -> Option<Connection> {
        match request {
            Request::Met(connection) => {
                self.in_use = true;
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
        if self.in_use {
            self.discard(&Counters::default());
        }
    }

    fn discard_dead(&mut self, connection: Connection) {
        log::warn!(
            "[{}@{}] server connection pid={} was closed by PostgreSQL while it lay idle",
            self.pool.user,
            self.pool.database,
            connection.backend.key.process_id
        );
        drop(connection);
        self.discard(&Counters::default());
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// One call to the kernel for each use of a connection: nothing of a request is sent to a server that has
/// already closed the connection.
fn is_alive(connection: &mut Connection) -> bool {
    connection.stream.is_silent()
}

/// What a client is told when no server connection is to be had: SQLSTATE and message.
pub fn no_server(why: &CheckoutError) -> (String, String) {
    let (code, cause) = match why {
        CheckoutError::TimedOut(lack) => {
            let lack = match lack {
                Lack::Connections(most) => {
                    format!("all {most} server connections of the pool are in use (pool_size)")
                }
                Lack::Paused => "the pool is paused (PAUSE)".to_owned(),
            };
            (
                sqlstate::TOO_MANY_CONNECTIONS,
                format!(
                    "Timeout occurred while waiting free connection from pool (query_wait_timeout): {lack}"
                ),
            )
        }
        CheckoutError::Failed(error) => {
            let cause = match &**error {
                ConnectError::OutOfDescriptors(_) | ConnectError::NoThread(_) => {
                    return (
                        error.sqlstate().to_owned(),
                        format!(
                            "Connection pooler local resource exhausted: {error}. Please try again later."
                        ),
                    );
                }
                ConnectError::Refused(_) | ConnectError::Credentials(_) if !error.can_heal() => {
                    return (
                        error.sqlstate().to_owned(),
                        format!(
                            "Could not get a database connection from the pool. PostgreSQL refused the \
                             pooler's own login (not the client's, which was accepted): {error}"
                        ),
                    );
                }
                ConnectError::TimedOut => {
                    "Timeout occurred while creating a new connection to postgresql (postgresql_login_timeout)"
                        .to_owned()
                }
                ConnectError::NoPermit(why) => why.clone(),
                ConnectError::Refused(_) if error.sqlstate() == sqlstate::TOO_MANY_CONNECTIONS => {
                    format!(
                        "PostgreSQL takes no more connections (its max_connections, or the limit of the role or \
                         database): {error}"
                    )
                }
                error => format!(
                    "Error occurred while creating a new connection to postgresql (postgresql_login_error): {error}"
                ),
            };
            (error.sqlstate(), cause)
        }
        CheckoutError::Closed => (sqlstate::POOLER_SHUTDOWN, "the pool was removed".to_owned()),
        CheckoutError::Interrupted => (sqlstate::ADMIN_SHUTDOWN, "interrupted".to_owned()),
    };
    let message = format!(
        "Could not get a database connection from the pool. All servers may be busy or down. Error details: {cause}. Please try again later."
    );
    (code.to_owned(), message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::tests::{LONG, Server, config, pool_of, until};

    #[test]
    fn who_panics_leaves_neither_a_connection_nor_a_place_in_the_queue() {
        let server = Server::start();
        let pool = pool_of(config(&server, 1));
        let panics = |deadline: MonotonicTime| {
            let mut checkout = Checkout::new(Arc::clone(&pool), Arc::default(), false);
            std::thread::spawn(move || {
                let Ok(None) = checkout.obtain_at_once(MonotonicTime::now()) else {
                    panic!("there was one");
                };
                if deadline > MonotonicTime::now() {
                    checkout.wait(deadline, &|| false).unwrap();
                }
                panic!("on purpose");
            })
            .join()
            .unwrap_err()
        };
        panics(MonotonicTime::now().after(LONG));
        assert_eq!(pool.snapshot().in_use, 0);
        pool.pause();
        panics(MonotonicTime::now());
        assert_eq!(pool.snapshot().waiting, 0);
        pool.resume();
        let mut checkout = Checkout::new(Arc::clone(&pool), Arc::default(), false);
        let never = || false;
        let connection = checkout
            .obtain(MonotonicTime::now().after(LONG), &never)
            .unwrap();
        checkout.give_back(connection, &Counters::default(), MonotonicTime::now());
        until("it is idle", || pool.snapshot().idle == 1);
        drop(checkout);
        assert_eq!((pool.snapshot().in_use, pool.snapshot().idle), (0, 1));
    }

    #[test]
    fn who_has_waited_elsewhere_gets_no_dead_connection_either() {
        let server = Server::start();
        let pool = pool_of(config(&server, 1));
        let mut checkout = Checkout::new(Arc::clone(&pool), Arc::default(), false);
        let soon = MonotonicTime::now().after(LONG);
        let connection = checkout.obtain(soon, &|| false).unwrap();
        let returned = MonotonicTime::now();
        checkout.give_back(connection, &Counters::default(), returned);
        until("it has been idle", || returned.elapsed() > FRESH);
        server.hang_up();
        let at_once = checkout.request_since(MonotonicTime::now()).unwrap();
        let connection = at_once.map_or_else(|| checkout.wait(soon, &|| false), Ok);
        assert!(is_alive(&mut connection.unwrap()));
    }
}
