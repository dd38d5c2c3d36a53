//! Connections that have not logged in, by address: how many each address has, and which of them has sent nothing for
//! longest.
//!
//! Knows no sockets and no threads. Invariant: a connection that waits for the pooler, and not the pooler for it, is
//! never chosen to be closed.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use crate::net::address::Address;
use crate::net::clock::MonotonicTime;

/// Where a connection comes from: an IPv4 address, the network of an IPv6 address (any host has all 2^64
/// addresses of its network), or this machine through a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Origin {
    Unix,
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Origin {
    pub(super) fn of(address: &Address) -> Origin {
        match address.ip() {
            None => Origin::Unix,
            Some(IpAddr::V4(ip)) => Origin::V4(ip.octets()),
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Origin::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[derive(Debug, Default)]
struct Group {
    size: usize,
    /// Connections that the pooler waits for, the one that has sent nothing for longest first.
    silent: BTreeSet<(MonotonicTime, u64)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    members: HashMap<u64, (Origin, Option<MonotonicTime>)>,
    groups: HashMap<Origin, Group>,
    /// The sizes of the groups, in order.
    sizes: BTreeSet<(usize, Origin)>,
}

impl Crowd {
    /// Adds a connection that waits for the pooler.
    pub(super) fn enter(&mut self, id: u64, origin: Origin) {
        if self.members.insert(id, (origin, None)).is_none() {
            self.resize(origin, |size| size + 1);
        }
    }

    /// Removes a connection.
    pub(super) fn leave(&mut self, id: u64) {
        self.heard(id);
        if let Some((origin, _)) = self.members.remove(&id) {
            self.resize(origin, |size| size - 1);
        }
    }

    /// The pooler waits for this connection from now on.
    pub(super) fn waits(&mut self, id: u64, now: MonotonicTime) {
        self.heard(id);
        if let Some((origin, since)) = self.members.get_mut(&id) {
            *since = Some(now);
            if let Some(group) = self.groups.get_mut(origin) {
                group.silent.insert((now, id));
            }
        }
    }

    /// The connection has sent what it was waited for.
    pub(super) fn heard(&mut self, id: u64) {
        if let Some((origin, since)) = self.members.get_mut(&id) {
            if let (Some(since), Some(group)) = (since.take(), self.groups.get_mut(origin)) {
                group.silent.remove(&(since, id));
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Of the address that has most connections and one that the pooler waits for: the one that has sent nothing for
    /// longest. None if it has sent something since `before`: a connection of another address is not closed in its
    /// place, or one address that connects again and again would have all others closed.
    pub(super) fn longest_silent(&self, before: MonotonicTime) -> Option<u64> {
        let largest = |(_, origin): &(usize, Origin)| self.groups.get(origin)?.silent.first();
        let &(since, id) = self.sizes.iter().rev().find_map(largest)?;
        (since <= before).then_some(id)
    }

    fn resize(&mut self, origin: Origin, to: impl Fn(usize) -> usize) {
        let group = self.groups.entry(origin).or_default();
        self.sizes.remove(&(group.size, origin));
        group.size = to(group.size);
        if group.size == 0 {
            self.groups.remove(&origin);
        } else {
            self.sizes.insert((group.size, origin));
        }
    }
}

/// A queue in which the addresses take turns: one that sends many connections delays its own.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    lines: HashMap<Origin, VecDeque<u64>>,
    turns: VecDeque<Origin>,
    len: usize,
}

impl FairQueue {
    pub(super) fn push(&mut self, origin: Origin, id: u64) {
        let line = self.lines.entry(origin).or_default();
        if line.is_empty() {
            self.turns.push_back(origin);
        }
        line.push_back(id);
        self.len += 1;
    }

    /// Whose turn it is, and where it comes from.
    pub(super) fn next(&self) -> Option<(Origin, u64)> {
        let origin = self.turns.front()?;
        let id = self.lines.get(origin)?.front()?;
        Some((*origin, *id))
    }

    pub(super) fn pop(&mut self) -> Option<u64> {
        let origin = self.turns.pop_front()?;
        let line = self.lines.get_mut(&origin)?;
        let id = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&origin);
        } else {
            self.turns.push_back(origin);
        }
        self.len -= usize::from(id.is_some());
        id
    }

    /// Takes a connection out that has gone.
    pub(super) fn remove(&mut self, origin: Origin, id: u64) {
        let Some(line) = self.lines.get_mut(&origin) else {
            return;
        };
        let Some(place) = line.iter().position(|&other| other == id) else {
            return;
        };
        line.remove(place);
        self.len -= 1;
        if line.is_empty() {
            self.lines.remove(&origin);
            self.turns.retain(|&other| other != origin);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many come before one that comes from `origin` now, if all turns are kept.
    pub(super) fn ahead_of(&self, origin: Origin) -> usize {
        let own = self.lines.get(&origin).map_or(0, VecDeque::len);
        self.lines
            .values()
            .map(|line| line.len().min(own + 1))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Origin = Origin::V4([10, 0, 0, 1]);
    const THERE: Origin = Origin::V4([10, 0, 0, 2]);

    fn at(micros: u64) -> MonotonicTime {
        MonotonicTime::from_micros(micros)
    }

    #[test]
    fn the_longest_silent_is_of_the_address_with_most() {
        let mut crowd = Crowd::default();
        for (id, origin) in [(1, HERE), (2, THERE), (3, THERE), (4, THERE)] {
            crowd.enter(id, origin);
            crowd.waits(id, at(id));
        }
        assert_eq!(crowd.longest_silent(at(10)), Some(2));
        // Silence is counted from the last whole message.
        crowd.heard(2);
        assert_eq!(crowd.longest_silent(at(10)), Some(3));
        crowd.waits(2, at(9));
        assert_eq!(crowd.longest_silent(at(10)), Some(3));
        crowd.leave(3);
        crowd.leave(4);
        assert_eq!(crowd.len(), 2);
        crowd.heard(2);
        assert_eq!(crowd.longest_silent(at(10)), Some(1));
        crowd.leave(1);
        assert_eq!(crowd.longest_silent(at(10)), None);
        crowd.leave(2);
        assert!(crowd.groups.is_empty() && crowd.sizes.is_empty());
    }

    #[test]
    fn an_address_with_few_connections_does_not_pay_for_one_with_many() {
        let mut crowd = Crowd::default();
        crowd.enter(1, HERE);
        crowd.waits(1, at(1));
        for id in [2, 3] {
            crowd.enter(id, THERE);
            crowd.waits(id, at(50));
        }
        assert_eq!(crowd.longest_silent(at(49)), None);
        assert_eq!(crowd.longest_silent(at(50)), Some(2));
    }

    #[test]
    fn who_has_just_spoken_or_waits_for_us_is_not_closed() {
        let mut crowd = Crowd::default();
        crowd.enter(1, HERE);
        assert_eq!(crowd.longest_silent(at(100)), None);
        crowd.waits(1, at(50));
        assert_eq!(crowd.longest_silent(at(49)), None);
        assert_eq!(crowd.longest_silent(at(50)), Some(1));
    }

    #[test]
    fn addresses_take_turns() {
        let mut queue = FairQueue::default();
        for id in 0..100 {
            queue.push(HERE, id);
        }
        assert_eq!(queue.ahead_of(THERE), 1);
        queue.push(THERE, 200);
        assert_eq!(queue.ahead_of(THERE), 3);
        assert_eq!(
            [queue.pop(), queue.pop(), queue.pop()],
            [Some(0), Some(200), Some(1)]
        );
        queue.push(THERE, 201);
        queue.remove(THERE, 201);
        queue.remove(HERE, 2);
        assert_eq!((queue.len(), queue.pop()), (97, Some(3)));
        while queue.pop().is_some() {}
        assert_eq!(
            (queue.len(), queue.turns.len(), queue.lines.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn a_network_of_ipv6_is_one_origin() {
        let of = |text: &str| Origin::of(&Address::Tcp(text.parse().unwrap()));
        assert_eq!(of("[2001:db8::1]:5"), of("[2001:db8::2:1]:6"));
        assert_ne!(of("[2001:db8::1]:5"), of("[2001:db8:0:1::1]:5"));
        assert_eq!(of("[::ffff:10.0.0.1]:5"), of("10.0.0.1:7"));
    }
}
