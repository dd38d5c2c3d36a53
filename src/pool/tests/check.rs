//! How long PostgreSQL's answer to the check query is given again.

use super::{Door, Server, config, give_back, obtain, passing_client, pool, until};
use crate::pool::pool::Pool;
use crate::pool::pool_config::PoolConfig;
use crate::pool::totals::Counters;

/// The pool keeps an answer, given by a connection that it has.
fn keep(pool: &Pool, epoch: u64) {
    let config = pool.config();
    pool.keep_check_answer(&config, epoch, b"answer".to_vec());
}

fn answers(pool: &Pool) -> bool {
    pool.check_answer(&pool.config()).is_some()
}

#[test]
fn it_is_given_while_there_is_a_connection_and_none_is_lost() {
    let server = Server::start();
    let pool = pool(&server, 2);
    keep(&pool, 1);
    assert!(
        !answers(&pool),
        "nobody would notice that the server is gone"
    );
    let one = obtain(&pool).unwrap();
    let other = obtain(&pool).unwrap();
    assert!(answers(&pool));
    give_back(&pool, one);
    assert!(answers(&pool));
    drop(other);
    pool.discard(&Counters::default());
    assert!(!answers(&pool));
}

#[test]
fn it_is_forgotten_when_an_idle_connection_is_found_dead() {
    let server = Server::start();
    let pool = pool(&server, 1);
    let connection = obtain(&pool).unwrap();
    give_back(&pool, connection);
    keep(&pool, 1);
    pool.maintain(0);
    assert!(answers(&pool));
    server.hang_up();
    until("the dead one is found", || {
        pool.maintain(0);
        pool.snapshot().idle == 0
    });
    let _new = obtain(&pool).unwrap();
    assert!(!answers(&pool));
}

#[test]
fn it_is_forgotten_when_no_connection_can_be_made() {
    let server = Server::start();
    let pool = pool(&server, 2);
    let _held = obtain(&pool).unwrap();
    keep(&pool, 1);
    server.set(Door::Refusing);
    let waiting = passing_client(&pool);
    until("one could not be made", || !answers(&pool));
    server.set(Door::Open);
    let _ = obtain(&pool);
    let _ = waiting.join();
}

#[test]
fn it_belongs_to_one_plan_and_to_connections_that_are_still_wanted() {
    let server = Server::start();
    let pool = pool(&server, 1);
    let _held = obtain(&pool).unwrap();
    let old = pool.config();
    keep(&pool, 1);
    pool.change_config(PoolConfig {
        check_query: "select 1".into(),
        ..config(&server, 1)
    });
    assert!(!answers(&pool) && pool.check_answer(&old).is_none());
    // Whoever asked the old query hears the answer only now.
    pool.keep_check_answer(&old, 1, b"late".to_vec());
    assert!(!answers(&pool) && pool.check_answer(&old).is_none());
    keep(&pool, 1);
    assert!(answers(&pool));
    pool.reconnect();
    assert!(!answers(&pool));
    keep(&pool, 1);
    assert!(!answers(&pool), "it came from a connection of before");
    keep(&pool, 2);
    assert!(answers(&pool));
}
