//! Who is served when, and how one leaves the queue.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use parking_lot::Mutex;

use super::{
    Door, LONG, Server, client, config, fill, give_back, never, number, obtain, obtain_until,
    passing_client, pool, until,
};
use crate::net::clock::MonotonicTime;
use crate::pool::pool::{NoConnection, Request};
use crate::pool::pool_config::PoolConfig;
use crate::pool::totals::Counters;
use crate::pool::waiter::{Source, Waiter};

#[test]
fn who_came_first_is_served_first_and_one_connection_goes_from_hand_to_hand() {
    let server = Server::start();
    let pool = pool(&server, 1);
    let held = obtain(&pool).unwrap();
    let (tell, served) = mpsc::channel();
    let clients: Vec<_> = (0..20)
        .map(|place| {
            let tell = tell.clone();
            client(&pool, move |pool, got| {
                tell.send(place).unwrap();
                give_back(pool, got.unwrap());
            })
        })
        .collect();
    give_back(&pool, held);
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(served.try_iter().collect::<Vec<_>>(), Vec::from_iter(0..20));
    assert_eq!(server.attempts(), 1);
    assert_eq!(pool.snapshot().idle, 1);
}

#[test]
fn a_newcomer_does_not_overtake_those_who_wait() {
    let server = Server::start();
    let pool = pool(&server, 1);
    let held = obtain(&pool).unwrap();
    let (early, late) = (Arc::default(), Arc::default());
    assert!(matches!(pool.request(&early), Ok(Request::Queued)));
    give_back(&pool, held);
    // It is in the slot of who was first, though that thread has not looked yet.
    assert!(matches!(pool.request(&late), Ok(Request::Queued)));
    let now = MonotonicTime::now();
    assert!(pool.wait(&early, now, never).is_ok());
    assert!(matches!(
        pool.wait(&late, now, never),
        Err(NoConnection::TimedOut(_))
    ));
}

#[test]
fn who_got_a_dead_connection_goes_back_to_its_old_place() {
    let server = Server::start();
    let pool = pool(&server, 2);
    fill(&pool, 2);
    let away: Vec<_> = (0..2).filter_map(|_| pool.take_idle()).collect();
    let waiters: Vec<Arc<Waiter>> = (0..3).map(|_| Arc::default()).collect();
    for waiter in &waiters {
        assert!(matches!(pool.request(waiter), Ok(Request::Queued)));
        let asked = MonotonicTime::now();
        // So that no two of them came in the same microsecond.
        while MonotonicTime::now() == asked {}
    }
    for connection in away {
        pool.put_back(connection);
    }
    server.set(Door::Shut);
    let deadline = MonotonicTime::now().after(LONG);
    // The first two are the unlucky ones, and notice in this order.
    for waiter in &waiters[..2] {
        let (connection, how) = pool.wait(waiter, deadline, never).unwrap();
        assert_eq!(how, Source::Idle);
        connection.close("it is dead");
        pool.discard(&Counters::default());
        assert!(matches!(pool.request_again(waiter), Ok(Request::Queued)));
    }
    for waiter in &waiters {
        server.pass_one();
        let (connection, _) = pool.wait(waiter, deadline, never).unwrap();
        connection.close("next, please");
        pool.discard(&Counters::default());
    }
}

#[test]
fn who_was_met_at_once_by_a_dead_connection_goes_before_those_who_came_since() {
    let server = Server::start();
    let pool = pool(&server, 1);
    fill(&pool, 1);
    let (first, second) = (Arc::default(), Arc::default());
    let Ok(Request::Met(dead)) = pool.request(&first) else {
        panic!("there is an idle one");
    };
    assert!(matches!(pool.request(&second), Ok(Request::Queued)));
    server.set(Door::Shut);
    dead.close("it is dead");
    pool.discard(&Counters::default());
    assert!(matches!(pool.request_again(&first), Ok(Request::Queued)));
    server.set(Door::Open);
    let deadline = MonotonicTime::now().after(LONG);
    let (connection, _) = pool.wait(&first, deadline, never).unwrap();
    give_back(&pool, connection);
    assert!(pool.wait(&second, deadline, never).is_ok());
}

#[test]
fn the_one_used_last_is_lent_first_or_the_one_that_lay_longest() {
    let server = Server::start();
    let pool = pool(&server, 3);
    let numbers = fill(&pool, 3);
    for _ in 0..2 {
        let connection = obtain(&pool).unwrap();
        assert_eq!(number(&connection), numbers[2]);
        give_back(&pool, connection);
    }
    pool.change_config(PoolConfig {
        round_robin: true,
        ..config(&server, 3)
    });
    for expected in numbers.iter().chain(&numbers) {
        let connection = obtain(&pool).unwrap();
        assert_eq!(number(&connection), *expected);
        give_back(&pool, connection);
    }
}

#[test]
fn who_has_run_out_of_time_leaves_the_queue_and_there_is_one_deadline() {
    let server = Server::start();
    let pool = pool(&server, 1);
    let held = obtain(&pool).unwrap();
    let waiter = Arc::default();
    let deadline = MonotonicTime::now();
    assert!(matches!(
        obtain_until(&pool, &waiter, deadline),
        Err(NoConnection::TimedOut(_))
    ));
    assert_eq!(pool.snapshot().waiting, 0);
    // Another place in the queue brings no more time.
    assert!(matches!(pool.request_again(&waiter), Ok(Request::Queued)));
    assert!(matches!(
        pool.wait(&waiter, deadline, never),
        Err(NoConnection::TimedOut(_))
    ));
    give_back(&pool, held);
    assert_eq!((pool.snapshot().idle, pool.snapshot().waiting), (1, 0));
}

#[test]
fn a_connection_that_comes_with_the_end_of_the_time_is_taken() {
    let server = Server::start();
    let pool = pool(&server, 1);
    let held = Mutex::new(Some(obtain(&pool).unwrap()));
    let waiter = Arc::default();
    assert!(matches!(pool.request(&waiter), Ok(Request::Queued)));
    let asked = AtomicUsize::new(0);
    // The question is the last thing before the slot and the clock are looked at.
    let told = || {
        if asked.fetch_add(1, Ordering::Relaxed) == 0 {
            give_back(&pool, held.lock().take().unwrap());
        }
        false
    };
    assert!(pool.wait(&waiter, MonotonicTime::now(), told).is_ok());
    let snapshot = pool.snapshot();
    assert_eq!(
        (snapshot.idle, snapshot.in_use, snapshot.waiting),
        (0, 1, 0)
    );
}

#[test]
fn who_is_told_leaves_the_queue_at_once() {
    let server = Server::start();
    let pool = pool(&server, 1);
    let held = obtain(&pool).unwrap();
    let (waiter, cancelled) = (Arc::<Waiter>::default(), Arc::<AtomicBool>::default());
    let thread = {
        let (pool, waiter, cancelled) = (Arc::clone(&pool), waiter.clone(), cancelled.clone());
        std::thread::spawn(move || {
            assert!(matches!(pool.request(&waiter), Ok(Request::Queued)));
            let told = || cancelled.load(Ordering::Acquire);
            pool.wait(&waiter, MonotonicTime::now().after(LONG), told)
                .map(drop)
        })
    };
    until("it waits", || pool.snapshot().waiting == 1);
    cancelled.store(true, Ordering::Release);
    waiter.ring();
    assert!(matches!(thread.join().unwrap(), Err(NoConnection::Left)));
    assert_eq!(pool.snapshot().waiting, 0);
    give_back(&pool, held);
    assert_eq!(pool.snapshot().idle, 1);
}

#[test]
fn what_comes_for_one_who_is_told_goes_to_the_next_as_what_it_was() {
    let server = Server::start();
    let pool = pool(&server, 1);
    fill(&pool, 1);
    let mut lay_since = MonotonicTime::default();
    pool.for_each_idle(|connection| lay_since = connection.backend.used_at);
    let away = Cell::new(pool.take_idle());
    let (first, second) = (Arc::default(), Arc::default());
    assert!(matches!(pool.request(&first), Ok(Request::Queued)));
    assert!(matches!(pool.request(&second), Ok(Request::Queued)));
    // It comes after the waiter has looked into its slot and before it is told.
    let told = || {
        if let Some(connection) = away.take() {
            pool.put_back(connection);
        }
        true
    };
    let deadline = MonotonicTime::now().after(LONG);
    assert!(matches!(
        pool.wait(&first, deadline, told),
        Err(NoConnection::Left)
    ));
    let (connection, how) = pool.wait(&second, deadline, never).unwrap();
    // Nobody has heard from its server since it lay idle: it is to be looked at before it is used.
    assert_eq!(how, Source::Idle);
    assert_eq!(connection.backend.used_at, lay_since);
}

#[test]
fn a_session_that_ends_in_the_queue_takes_nothing_with_it() {
    let server = Server::start();
    let pool = pool(&server, 1);
    for already_there in [false, true] {
        let held = obtain(&pool).unwrap();
        let waiter = Arc::default();
        assert!(matches!(pool.request(&waiter), Ok(Request::Queued)));
        let next = passing_client(&pool);
        if already_there {
            give_back(&pool, held);
            pool.leave(&waiter);
        } else {
            pool.leave(&waiter);
            give_back(&pool, held);
        }
        assert!(next.join().unwrap().is_ok());
        pool.leave(&waiter);
        let snapshot = pool.snapshot();
        assert_eq!(
            (snapshot.idle, snapshot.in_use, snapshot.waiting),
            (1, 0, 0)
        );
    }
}
