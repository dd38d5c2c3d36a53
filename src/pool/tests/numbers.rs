//! How many connections there are, whatever happens at the same time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{
    Door, Server, client, config, fill, give_back, number, obtain, obtain_until, pool, pool_of,
    total, until,
};
use crate::net::clock::MonotonicTime;
use crate::pool::pool::{NoConnection, Request};
use crate::pool::pool_config::PoolConfig;
use crate::pool::totals::Counters;

#[test]
fn there_are_never_more_than_the_size() {
    let server = Server::start();
    let pool = pool(&server, 3);
    let go = Arc::new(std::sync::Barrier::new(9));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (pool, go) = (Arc::clone(&pool), Arc::clone(&go));
            std::thread::spawn(move || {
                go.wait();
                for _ in 0..50 {
                    give_back(&pool, obtain(&pool).unwrap());
                }
            })
        })
        .collect();
    go.wait();
    while !clients.iter().all(JoinHandle::is_finished) {
        assert!(total(&pool.snapshot()) <= 3);
        std::thread::yield_now();
    }
    for client in clients {
        client.join().unwrap();
    }
    assert!((1..=3).contains(&server.attempts()));
}

#[test]
fn so_many_are_made_at_the_same_time_and_no_more() {
    let server = Server::start();
    server.set(Door::Shut);
    let pool = pool_of(PoolConfig {
        parallel_creates: 2,
        ..config(&server, 5)
    });
    let kept: Vec<_> = (0..5)
        .map(|_| client(&pool, |_, got| got.unwrap()))
        .collect();
    for done in 0..5 {
        let underway = 2.min(5 - done);
        until("the next are being made", || {
            server.attempts() == done + underway
        });
        let snapshot = pool.snapshot();
        assert_eq!((snapshot.in_use, snapshot.connecting), (done, underway));
        server.pass_one();
        until("one more is there", || pool.snapshot().in_use == done + 1);
    }
    let numbers: BTreeSet<_> = kept
        .into_iter()
        .map(|client| number(&client.join().unwrap()))
        .collect();
    assert_eq!((numbers.len(), server.attempts()), (5, 5));
}

#[test]
fn nothing_is_lost_between_those_who_give_up_and_those_who_deliver() {
    let server = Server::start();
    let pool = pool(&server, 2);
    fill(&pool, 2);
    let clients: Vec<_> = (0..6_u64)
        .map(|seed| {
            let pool = Arc::clone(&pool);
            std::thread::spawn(move || {
                let waiter = Arc::default();
                let mut served = 0;
                for round in 0..500 {
                    let chance = (seed * 500 + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
                    let deadline = MonotonicTime::now().after(Duration::from_micros(chance));
                    match pool.request(&waiter) {
                        Ok(Request::Met(connection)) => give_back(&pool, connection),
                        Ok(Request::Queued) => {
                            let told = || chance % 5 == 0 && MonotonicTime::now() >= deadline;
                            match pool.wait(&waiter, deadline, told) {
                                Ok((connection, _)) => {
                                    served += 1;
                                    std::thread::yield_now();
                                    give_back(&pool, connection);
                                }
                                Err(NoConnection::TimedOut(_) | NoConnection::Left) => {}
                                Err(other) => panic!("{other:?}"),
                            }
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
                served
            })
        })
        .collect();
    while !clients.iter().all(JoinHandle::is_finished) {
        let snapshot = pool.snapshot();
        assert_eq!(total(&snapshot), 2, "{snapshot:?}");
    }
    for client in clients {
        client.join().unwrap();
    }
    let snapshot = pool.snapshot();
    assert_eq!(
        (snapshot.idle, snapshot.in_use, snapshot.waiting),
        (2, 0, 0)
    );
    assert_eq!(server.attempts(), 2);
}

#[test]
fn whatever_happens_at_the_same_time_the_sums_are_right_in_the_end() {
    let server = Server::start();
    let pool = pool(&server, 3);
    let clients: Vec<_> = (0..6_u64)
        .map(|seed| {
            let pool = Arc::clone(&pool);
            std::thread::spawn(move || {
                let waiter = Arc::default();
                for round in 0..200 {
                    let chance = (seed * 200 + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
                    let deadline = MonotonicTime::now().after(Duration::from_micros(chance * 4));
                    match obtain_until(&pool, &waiter, deadline) {
                        Ok(connection) if chance % 16 == 0 => {
                            connection.close("a client's query broke it");
                            pool.discard(&Counters::default());
                        }
                        Ok(connection) => give_back(&pool, connection),
                        // A login that was underway for as long as it waited.
                        Err(NoConnection::TimedOut(_) | NoConnection::Failed(_)) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    let mut round = 0;
    while !clients.iter().all(JoinHandle::is_finished) {
        round += 1;
        match round % 8 {
            0 => pool.pause(),
            1 => pool.resume(),
            2 => pool.reconnect(),
            3 => pool.change_config(config(&server, 1)),
            4 => pool.change_config(config(&server, 3)),
            5 => pool.drain(),
            _ => {
                pool.maintain(usize::MAX);
            }
        }
        assert!(total(&pool.snapshot()) <= 3);
    }
    pool.resume();
    for client in clients {
        client.join().unwrap();
    }
    until("nothing is underway", || pool.snapshot().connecting == 0);
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.in_use, snapshot.waiting), (0, 0));
    until("the server has what the pool has", || {
        server.open() == snapshot.idle
    });
    // And it still works, to its full size.
    pool.change_config(config(&server, 3));
    fill(&pool, 3);
    assert_eq!(pool.snapshot().idle, 3);
}
