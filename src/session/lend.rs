//! Getting a live connection out of a pool: the only place where a thread waits in a pool's queue.

use std::sync::Arc;
use std::time::Duration;

use crate::net::clock::Moment;
use crate::pool::pool::{NoConnection, Pool, Request};
use crate::pool::totals::Work;
use crate::pool::waiter::{Provenance, Waiter};
use crate::server::backend::Connection;
use crate::server::login::ConnectError;

/// A connection that was alive when it was looked at.
#[derive(Debug)]
pub struct LentOut {
    /// The connection.
    pub connection: Connection,
    /// How long it took to get it.
    pub waited: Duration,
}

/// Why there is none.
#[derive(Debug)]
pub enum NotLent {
    /// `query_wait_timeout` passed.
    TimedOut,
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
            NoConnection::TimedOut => NotLent::TimedOut,
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

/// Takes a connection that lies idle and is alive, if there is one and nobody is in front of us. Dead
/// ones on the way are written off.
///
/// # Errors
/// [`NotLent::Closed`].
pub fn obtain_at_once(
    pool: &Arc<Pool>,
    waiter: &Arc<Waiter>,
    now: Moment,
) -> Result<Option<Connection>, NotLent> {
    let mut request = pool.request(waiter)?;
    loop {
        match request {
            Request::Queued => return Ok(None),
            Request::Met(connection)
                if now.since(connection.backend.used_at) < FRESH || is_alive(&connection) =>
            {
                return Ok(Some(connection));
            }
            Request::Met(connection) => {
                bury(pool, connection);
                request = pool.request_again(waiter)?;
            }
        }
    }
}

/// Waits in the queue, where the waiter has a place, for a connection that is alive.
///
/// # Errors
/// [`NotLent`]; the place in the queue is given up.
pub fn wait(
    pool: &Arc<Pool>,
    waiter: &Arc<Waiter>,
    deadline: Moment,
    told: &dyn Fn() -> bool,
) -> Result<Connection, NotLent> {
    loop {
        let (mut connection, how) = pool.wait(waiter, deadline, told)?;
        if how == Provenance::Hand {
            // Its last user has heard from the server a moment ago: as good as a look at the socket.
            return Ok(connection);
        }
        loop {
            if is_alive(&connection) {
                return Ok(connection);
            }
            bury(pool, connection);
            match pool.request_again(waiter)? {
                Request::Met(next) => connection = next,
                Request::Queued => break,
            }
        }
    }
}

/// Takes a connection, waiting for it if need be.
///
/// # Errors
/// [`NotLent`].
pub fn obtain(
    pool: &Arc<Pool>,
    waiter: &Arc<Waiter>,
    deadline: Moment,
    told: &dyn Fn() -> bool,
) -> Result<LentOut, NotLent> {
    let began = Moment::now();
    let connection = match obtain_at_once(pool, waiter, began)? {
        Some(connection) => connection,
        None => wait(pool, waiter, deadline, told)?,
    };
    Ok(LentOut {
        connection,
        waited: began.elapsed(),
    })
}

/// One call to the kernel for each use of a connection: nothing of a request is sent to a server that has
/// already said good-bye.
fn is_alive(connection: &Connection) -> bool {
    connection.stream.is_silent()
}

fn bury(pool: &Arc<Pool>, connection: Connection) {
    log::warn!(
        "[{}@{}] server connection pid={} was closed by PostgreSQL while it lay idle",
        pool.user,
        pool.database,
        connection.backend.key.process_id
    );
    drop(connection);
    pool.write_off(&Work::default());
}
