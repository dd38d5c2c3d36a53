//! What those who wait hear when no connection can be made, and when one is tried again.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Door, Server, client, give_back, number, obtain, obtain_until, passing_client, pool, total,
    until,
};
use crate::net::clock::MonotonicTime;
use crate::pool::pool::{Lack, NoConnection};
use crate::pool::totals::Counters;

#[test]
fn without_any_connection_those_who_wait_are_told_why() {
    let server = Server::start();
    server.set(Door::Shut);
    let pool = pool(&server, 2);
    let waiting: Vec<_> = (0..3).map(|_| passing_client(&pool)).collect();
    until("both logins hang", || server.attempts() == 2);
    server.set(Door::Refusing);
    for client in waiting {
        let Err(NoConnection::Failed(error)) = client.join().unwrap() else {
            panic!("it must fail");
        };
        assert!(error.to_string().contains("not today"), "{error}");
    }
    assert_eq!(total(&pool.snapshot()), 0);
    // The next client is a reason to try again at once.
    server.set(Door::Open);
    assert!(obtain(&pool).is_ok());
}

#[test]
fn what_can_heal_is_waited_for() {
    let server = Server::start();
    server.set(Door::Full);
    let pool = pool(&server, 2);
    let waiting: Vec<_> = (0..3).map(|_| passing_client(&pool)).collect();
    until("it has been tried", || {
        server.attempts() > 0 && pool.snapshot().connecting == 0
    });
    assert_eq!(pool.snapshot().waiting, 3);
    server.set(Door::Open);
    until("it is tried again", || {
        pool.retry();
        pool.snapshot().waiting == 0
    });
    for client in waiting {
        assert!(client.join().unwrap().is_ok());
    }
    assert!(!pool.retry());
}

#[test]
fn whose_time_is_up_is_told_what_was_lacking() {
    let server = Server::start();
    let pool = pool(&server, 1);
    let soon = || MonotonicTime::now().after(Duration::from_millis(100));
    server.set(Door::Full);
    let Err(NoConnection::Failed(error)) = obtain_until(&pool, &Arc::default(), soon()) else {
        panic!("it must fail");
    };
    assert_eq!(error.sqlstate(), "53300");
    assert!(error.to_string().contains("not today"), "{error}");
    server.set(Door::Open);
    let held = obtain(&pool).unwrap();
    assert!(matches!(
        obtain_until(&pool, &Arc::default(), soon()),
        Err(NoConnection::TimedOut(Lack::Connections(1)))
    ));
    pool.pause();
    assert!(matches!(
        obtain_until(&pool, &Arc::default(), soon()),
        Err(NoConnection::TimedOut(Lack::Paused))
    ));
    pool.resume();
    give_back(&pool, held);
}

#[test]
fn a_login_that_hangs_is_no_full_pool() {
    let server = Server::start();
    server.set(Door::Shut);
    let pool = pool(&server, 1);
    let soon = MonotonicTime::now().after(Duration::from_millis(100));
    let Err(NoConnection::Failed(error)) = obtain_until(&pool, &Arc::default(), soon) else {
        panic!("it must fail");
    };
    assert_eq!(error.sqlstate(), "08006");
}

#[test]
fn while_another_login_is_underway_one_failure_is_not_the_end() {
    let server = Server::start();
    server.set(Door::Shut);
    let pool = pool(&server, 2);
    let waiting = [passing_client(&pool), passing_client(&pool)];
    until("both logins hang", || server.attempts() == 2);
    server.except_one(Door::Refusing);
    until("one has failed", || pool.snapshot().connecting == 1);
    assert_eq!(pool.snapshot().waiting, 2);
    server.set(Door::Open);
    for client in waiting {
        assert!(client.join().unwrap().is_ok());
    }
}

#[test]
fn while_another_connection_is_lent_those_who_wait_go_on_waiting() {
    let server = Server::start();
    let pool = pool(&server, 2);
    let held = obtain(&pool).unwrap();
    server.set(Door::Refusing);
    let first = client(&pool, |_, got| number(&got.unwrap()));
    let second = client(&pool, |_, got| number(&got.unwrap()));
    until("it has been tried", || {
        server.attempts() > 1 && pool.snapshot().connecting == 0
    });
    assert_eq!(pool.snapshot().waiting, 2);
    let number = number(&held);
    give_back(&pool, held);
    assert_eq!(first.join().unwrap(), number);
    // The second gets its own: it is tried again although nobody asks.
    server.set(Door::Open);
    until("it is tried again", || {
        pool.maintain(0);
        pool.snapshot().waiting == 0
    });
    assert_ne!(second.join().unwrap(), number);
}

#[test]
fn a_failure_while_the_pool_is_paused_is_no_reason_to_give_up() {
    let server = Server::start();
    server.set(Door::Shut);
    let pool = pool(&server, 1);
    let waiting = passing_client(&pool);
    until("the login hangs", || server.attempts() == 1);
    pool.pause();
    server.set(Door::Refusing);
    until("it has failed", || pool.snapshot().connecting == 0);
    assert_eq!(pool.snapshot().waiting, 1);
    server.set(Door::Open);
    pool.resume();
    assert!(waiting.join().unwrap().is_ok());
}

#[test]
fn what_is_written_off_is_replaced_for_those_who_wait() {
    let server = Server::start();
    let pool = pool(&server, 1);
    let broken = obtain(&pool).unwrap();
    let before = number(&broken);
    let waiting = passing_client(&pool);
    broken.close("it is broken");
    pool.discard(&Counters {
        errors: 1,
        ..Counters::default()
    });
    assert_ne!(waiting.join().unwrap().unwrap(), before);
    assert_eq!(pool.snapshot().totals.all.errors, 1);
    // Without anybody waiting there is no reason to make one.
    drop(obtain(&pool).unwrap());
    pool.discard(&Counters::default());
    assert_eq!((total(&pool.snapshot()), server.attempts()), (0, 2));
}
