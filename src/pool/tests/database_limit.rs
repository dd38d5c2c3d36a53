//! Users of one database and the limit on their connections together.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::{Server, check_out, client, config, fill, give_back, until};
use crate::pool::database_limit::DatabasePermits;
use crate::pool::database_limit::grant;
use crate::pool::pool::{NoConnection, Pool};
use crate::pool::pool_config::{DatabaseLimit, PoolConfig};
use crate::server::login::ConnectError;

const LIMIT: DatabaseLimit = DatabaseLimit {
    most: 2,
    reserve: 0,
    patience: super::LONG,
    min_lifetime: Duration::ZERO,
    fairness_delay: super::LONG,
    guaranteed: 0,
};

/// A pool of two connections for each of these users.
fn pools(server: &Server, users: &[&str], limit: DatabaseLimit) -> Vec<Arc<Pool>> {
    let (notify, _) = crossbeam::channel::bounded(1);
    let permits = DatabasePermits::new(notify);
    permits.set_limit(limit.most + limit.reserve);
    let numbers = Arc::new(AtomicU64::new(1));
    let pool = |user: &&str| {
        let config = PoolConfig {
            database_limit: Some(limit),
            ..config(server, 2)
        };
        Pool::new(
            "db",
            user,
            config,
            Arc::clone(&numbers),
            Arc::clone(&permits),
        )
    };
    users.iter().map(pool).collect()
}

fn waiting(pool: &Pool) -> usize {
    pool.snapshot().waiting
}

#[test]
fn who_finds_all_seats_taken_gets_that_of_another_users_idle_connection() {
    let server = Server::start();
    let pools = pools(&server, &["one", "other"], LIMIT);
    let in_use = check_out(&pools[0], 2);
    let late = client(&pools[1], |pool, got| give_back(pool, got.unwrap()));
    until("it waits", || waiting(&pools[1]) == 1);
    assert!(grant(&pools), "none of them is idle");
    assert_eq!(server.attempts(), 2);
    for connection in in_use {
        give_back(&pools[0], connection);
    }
    assert!(!grant(&pools));
    late.join().unwrap();
    assert_eq!(pools[0].snapshot().idle, 1);
    assert_eq!(pools[1].snapshot().idle, 1);
    assert_eq!(server.attempts(), 3);
}

#[test]
fn what_is_guaranteed_or_too_young_is_not_closed() {
    for limit in [
        DatabaseLimit {
            guaranteed: 2,
            ..LIMIT
        },
        DatabaseLimit {
            min_lifetime: super::LONG,
            ..LIMIT
        },
    ] {
        let server = Server::start();
        let pools = pools(&server, &["one", "other"], limit);
        fill(&pools[0], 2);
        let late = client(&pools[1], |_, got| got.map(drop));
        until("it waits", || waiting(&pools[1]) == 1);
        assert!(grant(&pools));
        assert_eq!(pools[0].snapshot().idle, 2);
        pools[1].close();
        assert!(matches!(late.join().unwrap(), Err(NoConnection::Closed)));
    }
}

#[test]
fn who_has_waited_longest_comes_first_whichever_user_it_is() {
    let server = Server::start();
    let pools = pools(&server, &["one", "second", "third"], LIMIT);
    let mut in_use = check_out(&pools[0], 2);
    let third = client(&pools[2], |_, got| got.unwrap());
    until("the first of them waits", || waiting(&pools[2]) == 1);
    let second = client(&pools[1], |_, got| got.unwrap());
    until("the other one waits", || waiting(&pools[1]) == 1);
    give_back(&pools[0], in_use.remove(0));
    assert!(grant(&pools), "there was a seat for one");
    let got = third.join().unwrap();
    assert_eq!(waiting(&pools[1]), 1);
    give_back(&pools[0], in_use.remove(0));
    assert!(!grant(&pools));
    give_back(&pools[1], second.join().unwrap());
    give_back(&pools[2], got);
}

#[test]
fn who_has_waited_clearly_longer_is_served_in_place_of_the_others_next_client() {
    let server = Server::start();
    let limit = DatabaseLimit {
        fairness_delay: Duration::ZERO,
        ..LIMIT
    };
    let pools = pools(&server, &["one", "other"], limit);
    let mut in_use = check_out(&pools[0], 2);
    let late = client(&pools[1], |pool, got| give_back(pool, got.unwrap()));
    until("it waits", || waiting(&pools[1]) == 1);
    let own = client(&pools[0], |_, got| got.unwrap());
    until("the other one waits", || waiting(&pools[0]) == 1);
    // For one client one connection is given up; the next one is for who waits here.
    give_back(&pools[0], in_use.remove(0));
    assert_eq!(pools[0].snapshot().in_use, 1);
    give_back(&pools[0], in_use.remove(0));
    let own = own.join().unwrap();
    grant(&pools);
    late.join().unwrap();
    assert_eq!(pools[1].snapshot().idle, 1);
    assert_eq!(pools[0].snapshot().totals.shortage.evictions, 1);
    assert_eq!(server.attempts(), 3);
    give_back(&pools[0], own);
    assert_eq!(pools[0].snapshot().idle, 1);
}

#[test]
fn what_is_guaranteed_is_not_closed_for_who_waits_longer() {
    let server = Server::start();
    let limit = DatabaseLimit {
        fairness_delay: Duration::ZERO,
        guaranteed: 2,
        ..LIMIT
    };
    let pools = pools(&server, &["one", "other"], limit);
    let in_use = check_out(&pools[0], 2);
    let late = client(&pools[1], |_, got| got.map(drop));
    until("it waits", || waiting(&pools[1]) == 1);
    for connection in in_use {
        give_back(&pools[0], connection);
    }
    grant(&pools);
    assert_eq!(pools[0].snapshot().idle, 2);
    pools[1].close();
    assert!(matches!(late.join().unwrap(), Err(NoConnection::Closed)));
}

#[test]
fn the_reserve_is_used_and_given_up_again() {
    let server = Server::start();
    let limit = DatabaseLimit {
        reserve: 1,
        ..LIMIT
    };
    let pools = pools(&server, &["one", "other"], limit);
    let in_use = check_out(&pools[0], 2);
    fill(&pools[1], 1);
    assert_eq!(pools[1].maintain(0), 0);
    assert_eq!(pools[1].maintain(usize::MAX), 1);
    for connection in in_use {
        give_back(&pools[0], connection);
    }
    assert_eq!(pools[0].maintain(usize::MAX), 0);
}

#[test]
fn a_user_without_any_connection_does_not_wait_for_ever() {
    let server = Server::start();
    let limit = DatabaseLimit {
        patience: Duration::ZERO,
        ..LIMIT
    };
    let pools = pools(&server, &["one", "other"], limit);
    let in_use = check_out(&pools[0], 2);
    let late = client(&pools[1], |_, got| got.map(drop));
    until("it waits", || waiting(&pools[1]) == 1);
    grant(&pools);
    let Err(NoConnection::Failed(why)) = late.join().unwrap() else {
        panic!("it should have been told");
    };
    assert!(matches!(*why, ConnectError::NoPermit(_)));
    assert_eq!(
        why.to_string(),
        "all server connections to database 'db' are in use (max=2, user='other') (max_db_connections)"
    );
    assert!(!grant(&pools), "nobody waits any more");
    drop(in_use);
}
