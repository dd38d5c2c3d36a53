//! A query of the pooler's own, over a server connection of a pool that is checked out for it: in the thread of the
//! login that needs the answer.
//!
//! Does not know what is asked. Invariant: the connection goes back only if the query has left it between requests.

use std::sync::Arc;

use super::checkout::{Checkout, CheckoutError, no_server};
use crate::net::clock::MonotonicTime;
use crate::net::exchange::Exchange;
use crate::pool::pool::Pool;
use crate::pool::totals::Counters;
use crate::pool::waiter::Waiter;
use crate::server::ask::{self, NoAnswer, Rows};
use crate::server::backend::Connection;

/// Asks `sql` with one parameter. PostgreSQL must have answered at `deadline`, and within `query_wait_timeout`. `told`
/// says whether logins have to stop. A connection that has died since it was used last is replaced.
///
/// # Errors
/// Why there is no answer, for the log.
pub fn ask(
    pool: &Arc<Pool>,
    sql: &str,
    parameter: &str,
    deadline: Option<MonotonicTime>,
    told: &dyn Fn() -> bool,
) -> Result<Rows, String> {
    let config = pool.config();
    let limit = MonotonicTime::now().after(config.query_wait_timeout);
    let deadline = deadline.map_or(limit, |deadline| deadline.min(limit));
    let waiter = Arc::new(Waiter::default());
    let mut checkout = Checkout::new(Arc::clone(pool), waiter, false);
    let mut tries = config.size + 1;
    loop {
        let connection = checkout.obtain(deadline, told).map_err(not_connected)?;
        let (connection, answer) = converse(connection, sql, parameter, deadline, told);
        match answer {
            Ok(rows) => {
                checkout.give_back(connection, &Counters::default(), MonotonicTime::now());
                return Ok(rows);
            }
            Err(NoAnswer::Refused(fields)) if !fields.code.starts_with("57P") => {
                checkout.give_back(connection, &Counters::default(), MonotonicTime::now());
                return Err(format!("PostgreSQL refuses the query: {fields}"));
            }
            Err(error) => {
                drop(connection);
                checkout.discard(&Counters::default());
                tries -= 1;
                if tries == 0 || told() || deadline <= MonotonicTime::now() {
                    return Err(match error {
                        NoAnswer::Refused(fields) => fields.to_string(),
                        NoAnswer::Lost(why) => format!("the connection was lost: {why}"),
                    });
                }
            }
        }
    }
}

fn converse(
    connection: Connection,
    sql: &str,
    parameter: &str,
    deadline: MonotonicTime,
    told: &dyn Fn() -> bool,
) -> (Connection, Result<Rows, NoAnswer>) {
    let Connection {
        mut backend,
        stream,
    } = connection;
    let mut exchange = Exchange {
        stream,
        inbox: Vec::new(),
        deadline: Some(deadline),
        must_stop: told,
    };
    let mut answer = ask::ask(&mut exchange, &mut backend, sql, parameter);
    if answer.is_ok() && !exchange.inbox.is_empty() {
        answer = Err(NoAnswer::Lost("more came than the answer".into()));
    }
    let stream = exchange.stream;
    (Connection { backend, stream }, answer)
}

fn not_connected(why: CheckoutError) -> String {
    no_server(&why).1
}
