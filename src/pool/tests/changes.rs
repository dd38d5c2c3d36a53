//! PAUSE, RESUME, RECONNECT, another plan, and the end of a pool.

use std::sync::Arc;

use super::{
    Door, LONG, Server, check_out, client, config, fill, give_back, never, number, obtain,
    obtain_until, passing_client, pool, total, until,
};
use crate::net::clock::MonotonicTime;
use crate::pool::pool::{NoConnection, Request};

#[test]
fn a_paused_pool_closes_what_is_released_and_goes_on_with_new_ones() {
    let server = Server::start();
    let pool = pool(&server, 2);
    let in_use = obtain(&pool).unwrap();
    fill(&pool, 1);
    pool.pause();
    let first = passing_client(&pool);
    let second = passing_client(&pool);
    assert_eq!(pool.snapshot().total, 1);
    give_back(&pool, in_use);
    assert!(matches!(
        obtain_until(&pool, &Arc::default(), MonotonicTime::now()),
        Err(NoConnection::TimedOut(_))
    ));
    let snapshot = pool.snapshot();
    assert!(snapshot.paused);
    assert_eq!((snapshot.total, snapshot.waiting), (0, 2));
    until("all are closed", || server.open() == 0);
    pool.resume();
    assert!(first.join().unwrap().is_ok());
    assert!(second.join().unwrap().is_ok());
}

#[test]
fn after_reconnect_no_older_connection_is_lent() {
    let server = Server::start();
    let pool = pool(&server, 2);
    let in_use = check_out(&pool, 2);
    let old: Vec<_> = in_use.iter().map(number).collect();
    let mut in_use = in_use.into_iter();
    give_back(&pool, in_use.next().unwrap());
    pool.reconnect();
    assert_eq!(pool.snapshot().idle, 0);
    // One who waits gets a new one as soon as the old one has made room.
    let new = obtain(&pool).unwrap();
    let waiting = client(&pool, |_, got| got.unwrap());
    give_back(&pool, in_use.next().unwrap());
    let newer = waiting.join().unwrap();
    assert!(!old.contains(&number(&new)) && !old.contains(&number(&newer)));
    assert_eq!(pool.snapshot().in_use, 2);
    until("the old ones are closed", || server.open() == 2);
}

#[test]
fn a_connection_begun_before_reconnect_comes_too_late() {
    let server = Server::start();
    server.set(Door::Shut);
    let pool = pool(&server, 1);
    let waiting = passing_client(&pool);
    until("the first login hangs", || server.attempts() == 1);
    pool.reconnect();
    server.pass_one();
    until("another is made for who waits", || server.attempts() == 2);
    server.pass_one();
    waiting.join().unwrap().unwrap();
    until("only the newer one is kept", || server.open() == 1);
    assert_eq!(pool.snapshot().idle, 1);
}

#[test]
fn a_smaller_size_is_kept_at_once_by_idle_ones_and_by_lent_ones_when_they_come_back() {
    let server = Server::start();
    let pool = pool(&server, 4);
    let mut in_use = check_out(&pool, 4);
    give_back(&pool, in_use.remove(0));
    give_back(&pool, in_use.remove(0));
    pool.change_config(config(&server, 3));
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.idle, snapshot.in_use), (1, 2));
    pool.change_config(config(&server, 1));
    assert_eq!(pool.snapshot().idle, 0);
    let waiting = passing_client(&pool);
    give_back(&pool, in_use.remove(0));
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.in_use, snapshot.waiting), (1, 1));
    let last = in_use.remove(0);
    let number = number(&last);
    give_back(&pool, last);
    assert_eq!(waiting.join().unwrap().unwrap(), number);
    assert_eq!(total(&pool.snapshot()), 1);
}

#[test]
fn a_larger_size_serves_those_who_wait() {
    let server = Server::start();
    let pool = pool(&server, 1);
    let held = obtain(&pool).unwrap();
    let waiting = passing_client(&pool);
    let version = pool.config_unless(0).unwrap().0;
    pool.change_config(config(&server, 2));
    assert_ne!(waiting.join().unwrap().unwrap(), number(&held));
    assert!(pool.config_unless(version).is_some());
}

#[test]
fn a_plan_for_another_server_replaces_every_connection() {
    let (here, there) = (Server::start(), Server::start());
    let pool = pool(&here, 2);
    let in_use = obtain(&pool).unwrap();
    fill(&pool, 1);
    pool.change_config(config(&there, 2));
    assert!(pool.reported().is_none());
    give_back(&pool, in_use);
    fill(&pool, 2);
    assert_eq!((here.attempts(), there.attempts()), (2, 2));
    until("the old ones are closed", || here.open() == 0);
    assert_eq!(there.open(), 2);
}

#[test]
fn what_becomes_of_a_login_at_the_former_server_is_of_no_consequence() {
    for outcome in [Door::Open, Door::Refusing] {
        let (here, there) = (Server::start(), Server::start());
        here.set(Door::Shut);
        there.set(Door::Shut);
        let pool = pool(&here, 1);
        let waiting = client(&pool, |_, got| got.unwrap());
        until("the login hangs", || here.attempts() == 1);
        pool.change_config(config(&there, 1));
        here.set(outcome);
        until("it is made where the plan says", || there.attempts() == 1);
        assert!(pool.reported().is_none());
        there.set(Door::Open);
        let connection = waiting.join().unwrap();
        let port = there.0.port.to_string();
        let reported = connection.backend.reported.get("port_of_test");
        assert_eq!(reported, Some(port.as_bytes()));
    }
}

#[test]
fn who_waits_is_told_of_the_end_and_nothing_is_kept() {
    let server = Server::start();
    let pool = pool(&server, 3);
    let in_use = obtain(&pool).unwrap();
    fill(&pool, 1);
    pool.pause();
    let waiting = [passing_client(&pool), passing_client(&pool)];
    pool.close();
    for client in waiting {
        assert!(matches!(client.join().unwrap(), Err(NoConnection::Closed)));
    }
    assert!(matches!(obtain(&pool), Err(NoConnection::Closed)));
    assert!(matches!(
        pool.request_again(&Arc::default()),
        Err(NoConnection::Closed)
    ));
    give_back(&pool, in_use);
    pool.resume();
    pool.maintain(usize::MAX);
    assert_eq!(total(&pool.snapshot()), 0);
    until("all are closed", || server.open() == 0);
}

#[test]
fn a_login_that_ends_after_the_pool_leaves_nothing() {
    for outcome in [Door::Open, Door::Refusing] {
        let server = Server::start();
        server.set(Door::Shut);
        let pool = pool(&server, 1);
        let waiter = Arc::default();
        assert!(matches!(pool.request(&waiter), Ok(Request::Queued)));
        until("the login hangs", || server.attempts() == 1);
        pool.close();
        server.set(outcome);
        until("it is over", || total(&pool.snapshot()) == 0);
        // Closed, not failed: the session can look for a pool of the same name.
        assert!(matches!(
            pool.wait(&waiter, MonotonicTime::now().after(LONG), never),
            Err(NoConnection::Closed)
        ));
        until("nothing is open", || server.open() == 0);
    }
}
