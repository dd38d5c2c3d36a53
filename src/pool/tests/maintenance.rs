//! What the janitor does to a pool: the minimum, the old, the idle, the dead.

use std::time::Duration;

use super::{
    Door, Server, check_out, client, config, fill, give_back, idle_numbers, number, pool, pool_of,
    total, until,
};
use crate::net::clock::MonotonicTime;
use crate::pool::pool_config::PoolConfig;
use crate::pool::state::spread;
use crate::server::backend::Connection;

#[test]
fn the_minimum_is_kept_warm_within_the_size() {
    let server = Server::start();
    let pool = pool_of(PoolConfig {
        min_size: 5,
        parallel_creates: 2,
        ..config(&server, 3)
    });
    pool.maintain(0);
    assert!(pool.snapshot().connecting <= 2);
    until("they are there", || {
        pool.maintain(0);
        pool.snapshot().idle == 3
    });
    server.hang_up();
    until("dead ones are replaced", || {
        pool.maintain(0);
        server.attempts() == 6 && pool.snapshot().idle == 3
    });
}

#[test]
fn a_server_that_refuses_is_not_asked_without_pause() {
    let server = Server::start();
    server.set(Door::Refusing);
    let pool = pool_of(PoolConfig {
        min_size: 1,
        ..config(&server, 1)
    });
    pool.maintain(0);
    let failed_at = MonotonicTime::now();
    until("it was refused", || pool.snapshot().connecting == 0);
    pool.maintain(0);
    let asked_at_once = pool.snapshot().connecting > 0;
    // Only a machine that stood still in between makes this a different question.
    if failed_at.elapsed() < Duration::from_millis(400) {
        assert!(!asked_at_once);
    }
    server.set(Door::Open);
    until("it is asked again", || {
        pool.maintain(0);
        pool.snapshot().idle == 1
    });
}

#[test]
fn what_was_used_and_lies_idle_for_too_long_is_closed_down_to_the_minimum() {
    let server = Server::start();
    let short = |min_size| PoolConfig {
        min_size,
        idle_timeout: Some(Duration::ZERO),
        ..config(&server, 4)
    };
    let pool = pool_of(short(2));
    let in_use = check_out(&pool, 4);
    let numbers: Vec<_> = in_use.iter().map(number).collect();
    for (place, connection) in in_use.into_iter().enumerate() {
        // The last has only been made and never used.
        let queries = u64::from(place < 3);
        connection.backend.key.tally.queries.add(queries);
        give_back(&pool, connection);
    }
    let back = MonotonicTime::now();
    until("time passes", || MonotonicTime::now() > back);
    assert_eq!(pool.maintain(0), 0);
    assert_eq!(pool.maintain(1), 1);
    assert_eq!(idle_numbers(&pool), numbers[1..]);
    assert_eq!(pool.maintain(usize::MAX), 1);
    assert_eq!(idle_numbers(&pool), numbers[2..]);
    pool.change_config(short(0));
    assert_eq!(pool.maintain(usize::MAX), 1);
    assert_eq!(idle_numbers(&pool), numbers[3..]);
}

#[test]
fn what_is_too_old_is_closed_whether_used_or_not() {
    let server = Server::start();
    let pool = pool_of(PoolConfig {
        server_lifetime: Some(Duration::from_millis(20)),
        ..config(&server, 2)
    });
    fill(&pool, 1);
    until("it is closed", || {
        pool.maintain(usize::MAX);
        pool.snapshot().idle == 0
    });
    // A lent one is closed when it comes back, also if somebody waits for it: who waits gets a new one.
    let in_use = check_out(&pool, 2);
    let waiting = client(&pool, |_, got| got.unwrap());
    let old = |connection: &Connection| {
        let state = pool.lock();
        state.has_expired(&connection.backend, MonotonicTime::now())
    };
    until("both are too old", || in_use.iter().all(old));
    let numbers: Vec<_> = in_use.iter().map(|one| one.backend.key.id).collect();
    for connection in in_use {
        give_back(&pool, connection);
    }
    let new = waiting.join().unwrap();
    assert!(!numbers.contains(&new.backend.key.id));
    assert_eq!(total(&pool.snapshot()), 1);
    until("it is too old", || old(&new));
    give_back(&pool, new);
    assert_eq!(total(&pool.snapshot()), 0);
}

#[test]
fn what_is_too_old_is_not_lent_though_nobody_has_closed_it() {
    let server = Server::start();
    let pool = pool_of(PoolConfig {
        server_lifetime: Some(Duration::from_millis(20)),
        ..config(&server, 2)
    });
    fill(&pool, 2);
    let numbers = idle_numbers(&pool);
    until("both are too old", || {
        let state = pool.lock();
        let old =
            |connection: &Connection| state.has_expired(&connection.backend, MonotonicTime::now());
        state.idle.iter().all(old)
    });
    let in_use = check_out(&pool, 1).remove(0);
    assert!(!numbers.contains(&in_use.backend.key.id));
    assert_eq!(total(&pool.snapshot()), 1);
}

#[test]
fn what_has_died_while_idle_is_removed_whatever_the_quota() {
    let server = Server::start();
    let pool = pool(&server, 2);
    fill(&pool, 2);
    server.hang_up();
    until("they are gone", || {
        assert_eq!(pool.maintain(0), 0);
        pool.snapshot().idle == 0
    });
    assert_eq!(server.attempts(), 2);
}

#[test]
fn connections_made_together_do_not_end_together() {
    let limit = Duration::from_secs(1000);
    let mut limits: Vec<_> = (1..=8).map(|number| spread(limit, number)).collect();
    limits.sort();
    // A fifth around the limit.
    assert!(limits[0] >= limit * 8 / 10);
    assert!(limits[7] <= limit * 12 / 10);
    assert!(limits[7] - limits[0] >= limit / 5, "{limits:?}");
    assert_eq!(spread(Duration::MAX, 1), Duration::MAX);
}

#[test]
fn a_new_limit_holds_for_connections_that_are_there() {
    let server = Server::start();
    let pool = pool(&server, 2);
    fill(&pool, 2);
    assert_eq!(pool.maintain(usize::MAX), 0);
    pool.change_config(PoolConfig {
        server_lifetime: Some(Duration::ZERO),
        ..config(&server, 2)
    });
    assert_eq!(pool.maintain(usize::MAX), 2);
}
