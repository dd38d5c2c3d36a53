//! Which sockets the kernel looks at for the sessions of a shared set, and by which tokens it tells of them.
//!
//! A client's socket has the token of its session; a server's has one of its own, since the connection outlives the
//! checkout and keeps its place in the set. Decides nothing of a session's turn.
//!
//! Invariant: a server's place names the session that has the connection now, or none.

use std::io;
use std::sync::{Arc, Weak};

use super::driven::Driven;
use super::shared_set::{Member, Members, Slot};
use crate::net::poll_set::Registration;
use crate::net::stream::Stream;
use crate::net::wait::Interest;

/// Tokens of servers' sockets have this bit, and their place above it; those of sessions have their place there, and
/// above that how often the place was used.
pub(super) const SERVER: u64 = 1;
const PLACE_BITS: u32 = 31;

/// A place for a server's socket, and the token of the member that has the connection.
pub(super) struct ServerSlot {
    pub(super) registration: Weak<Registration>,
    pub(super) user: Option<u64>,
}

impl Members {
    /// Has the kernel look for what the member waits for.
    pub(super) fn watch(&mut self, token: u64) -> io::Result<()> {
        let poll = Arc::clone(&self.set.poll);
        let Some(member) = self.member(token) else {
            return Ok(());
        };
        let held = holds_input(&member.driven);
        if let Some(wanted) = wanted_of_client(&member.driven) {
            let client = &mut member.driven.driver.client;
            let known = client
                .registration()
                .is_some_and(|it| it.want(wanted, false));
            if !known {
                client.register(&poll, token, wanted)?;
            }
        }
        let before = member.server;
        let now = self.watch_server(token)?;
        if let Some(place) = before.filter(|_| now != before) {
            if self.servers[place].user == Some(token) {
                self.servers[place].user = None;
            }
        }
        if held != (false, false) {
            self.ready.push(token);
        }
        Ok(())
    }

    /// The same for its server's socket: its place.
    fn watch_server(&mut self, token: u64) -> io::Result<Option<usize>> {
        let poll = Arc::clone(&self.set.poll);
        let Some(member) = self.member(token) else {
            return Ok(None);
        };
        let wanted = wanted_of_server(&member.driven);
        let Some(server) = &mut member.driven.driver.server else {
            member.server = None;
            return Ok(None);
        };
        let known = server.registration().filter(|registration| {
            let wanted = wanted.unwrap_or_default();
            Arc::ptr_eq(registration.set(), &poll) && registration.want(wanted, false)
        });
        if let Some(place) = known.map(|registration| place_of(registration.token())) {
            member.server = Some(place);
            self.servers[place].user = Some(token);
            return Ok(Some(place));
        }
        let Some(wanted) = wanted else {
            member.server = None;
            return Ok(None);
        };
        let place = self.free_servers.pop().unwrap_or_else(|| {
            self.servers.push(ServerSlot {
                registration: Weak::new(),
                user: None,
            });
            self.servers.len() - 1
        });
        let Some(member) = self.member(token) else {
            return Ok(None);
        };
        member.server = Some(place);
        let Some(server) = &mut member.driven.driver.server else {
            return Ok(None);
        };
        let registered = server.register(&poll, (place as u64) << 1 | SERVER, wanted);
        let registration = server.registration().map(Arc::downgrade);
        if registered.is_err() {
            self.free_servers.push(place);
        }
        registered?;
        self.servers[place] = ServerSlot {
            registration: registration.unwrap_or_default(),
            user: Some(token),
        };
        Ok(Some(place))
    }
}

pub(super) fn token_of(place: usize, slot: &Slot) -> u64 {
    slot.uses << (PLACE_BITS + 1) | (place as u64) << 1
}

/// Whether the token was given out when the place had been used so often.
pub(super) fn is_of(token: u64, uses: u64) -> bool {
    token >> (PLACE_BITS + 1) == uses
}

pub(super) fn member_of(slots: &[Slot], token: u64) -> Option<&Member> {
    let slot = slots.get(place_of(token))?;
    slot.member.as_ref().filter(|_| is_of(token, slot.uses))
}

pub(super) fn place_of(token: u64) -> usize {
    let place = token >> 1 & ((1 << PLACE_BITS) - 1);
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// What a socket is waited for, what its TLS still owes included.
fn wanted_of(stream: &Stream, wanted: Option<Interest>) -> Option<Interest> {
    let wanted = wanted?;
    let write = wanted.write || stream.owes();
    Some(Interest { write, ..wanted })
}

pub(super) fn wanted_of_client(driven: &Driven) -> Option<Interest> {
    if driven.wanted.sealed {
        return driven.wanted.client;
    }
    wanted_of(&driven.driver.client, driven.wanted.client)
}

pub(super) fn wanted_of_server(driven: &Driven) -> Option<Interest> {
    wanted_of(driven.driver.server.as_ref()?, driven.wanted.server)
}

/// Whether client and server are waited for, and have sent what the kernel knows nothing of any more.
pub(super) fn holds_input(driven: &Driven) -> (bool, bool) {
    let reads = |wanted: Option<Interest>| wanted.is_some_and(|wanted| wanted.read);
    let (wanted, driver) = (&driven.wanted, &driven.driver);
    let server = driver.server.as_ref();
    (
        reads(wanted.client) && !wanted.sealed && driver.client.holds_input(),
        reads(wanted.server) && server.is_some_and(Stream::holds_input),
    )
}
