//! Two sets whose threads are the test's own: sessions go from one to the other in the middle of a conversation.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::{Members, SharedSet};
use crate::net::clock::MonotonicTime;
use crate::net::poll_set::Events;
use crate::pool::pool::Pool;
use crate::pool::tests::Server;
use crate::session::driven::Driven;
use crate::session::driver::tests::{REPLY, SELECT, has, info, pool_of_one, session_of, shared};
use crate::session::registry::Handle;
use crate::session::shared::Shared;

/// A pool of one connection, and two sets.
struct Scene {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    server: UnixStream,
    sets: [Arc<SharedSet>; 2],
    members: [Members; 2],
    _listener: Server,
}

fn scene() -> Scene {
    let (listener, pool, server) = pool_of_one();
    let shared = shared();
    let sets = [1, 2].map(|number| SharedSet::new(number).unwrap());
    for set in &sets {
        set.wakeups.belong_here();
        shared.sets.have(set);
    }
    let members = sets
        .each_ref()
        .map(|set| Members::new(Arc::clone(set), Arc::clone(&shared)));
    Scene {
        shared,
        pool,
        server,
        sets,
        members,
        _listener: listener,
    }
}

impl Scene {
    /// A client, whose session is in the first set.
    fn client(&mut self, number: u64) -> UnixStream {
        let info = info(number);
        let (client, detached) = session_of(&info, &self.pool);
        let entry = self.shared.sessions.enter(Handle::new(info));
        let permit = self.shared.admit(false).unwrap();
        self.sets[0].join(Box::new(Driven::new(&self.shared, entry, permit, detached)));
        client
    }

    /// The threads of both sets do all that there is to do. What goes from one to the other is there at once.
    fn rounds(&mut self) {
        for members in [0, 1].repeat(4) {
            // Nobody's timer ends a wait for nothing.
            let soon = MonotonicTime::now().after(Duration::from_millis(2));
            self.members[members].timers.set(soon, u64::MAX);
            self.members[members].round(&mut Events::default());
        }
    }

    fn sizes(&self) -> [usize; 2] {
        self.sets.each_ref().map(|set| set.len())
    }
}

#[test]
fn a_session_that_awaits_its_reply_gets_it_in_another_set() {
    let mut it = scene();
    let mut client = it.client(1);
    client.write_all(SELECT).unwrap();
    it.rounds();
    has(&it.server, SELECT);
    it.members[0].give_away();
    assert_eq!(it.sizes(), [0, 1]);
    it.server.write_all(REPLY).unwrap();
    it.rounds();
    has(&client, REPLY);
    // The next request goes on there.
    client.write_all(SELECT).unwrap();
    it.rounds();
    has(&it.server, SELECT);
    assert_eq!(it.sizes(), [0, 1]);
}

#[test]
fn one_that_waits_for_a_server_connection_keeps_its_place_in_the_queue() {
    let mut it = scene();
    let [mut first, mut second, mut third] = [1, 2, 3].map(|number| it.client(number));
    for client in [&mut first, &mut second, &mut third] {
        client.write_all(SELECT).unwrap();
    }
    it.rounds();
    has(&it.server, SELECT);
    it.members[0].give_away();
    assert_eq!(it.sizes(), [1, 2], "every second one stays");
    for client in [&first, &second, &third] {
        it.server.write_all(REPLY).unwrap();
        it.rounds();
        has(client, REPLY);
    }
}

#[test]
fn one_that_is_silent_stays() {
    let mut it = scene();
    let mut client = it.client(1);
    client.write_all(SELECT).unwrap();
    it.rounds();
    it.server.write_all(REPLY).unwrap();
    it.rounds();
    has(&client, REPLY);
    it.members[0].give_away();
    assert_eq!(it.sizes(), [1, 0]);
}
