//! Connections whose first packet is there, in the order in which they get threads.
//!
//! Addresses take turns. A TLS handshake begins only when the rate allows it, and one whose turn cannot come in
//! time is refused at once. Invariant: a connection that waits here has neither a thread nor a permit nor a turn.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::{AcceptGuard, Acceptor, Class, PAUSE, State};
use crate::client::login_error::{LoginError, say};
use crate::client::new_connection::Kind;
use crate::net::clock::MonotonicTime;
use crate::wire::sqlstate;

impl Acceptor {
    /// The first packet is there, or a handshake has begun.
    pub(super) fn begin(&mut self, id: u64, kind: Kind) {
        let class = match kind {
            Kind::Cancel(key) => {
                let accept_counters = &self.client_threads.shared.accept_counters;
                accept_counters.cancel.fetch_add(1, Ordering::Relaxed);
                if let Some(held) = self.release(id) {
                    self.client_threads.cancel_for_client(key, held.connection);
                }
                return;
            }
            Kind::Tls => Class::Tls,
            Kind::Console => Class::Console,
            Kind::Session => Class::Plain,
        };
        self.crowd.heard(id);
        let settings = self.client_threads.shared.settings();
        let Some(held) = self.held.get_mut(&id) else {
            return;
        };
        let queue = &mut self.ready[class as usize];
        let origin = held.origin;
        if let (Class::Tls, Some(rate)) = (class, settings.general.tls_rate_limit_per_second) {
            let turn = self.turns.after(rate, queue.ahead_of(origin));
            if held.until.is_some_and(|until| until < turn) {
                let why = "tls_rate_limit_per_second leaves it no turn within client_login_timeout";
                return self.refuse(id, &LoginError::Handshake(why.to_owned()));
            }
        }
        held.state = State::Ready(class);
        queue.push(origin, id);
        // A client that has closed its side may still read, but not do a handshake.
        let flags = match class {
            Class::Tls => EpollFlags::EPOLLRDHUP,
            Class::Console | Class::Plain => EpollFlags::empty(),
        };
        let mut event = EpollEvent::new(flags, id);
        // It fails for no descriptor that was added.
        let _ = self
            .epoll
            .modify(held.connection.socket.as_fd(), &mut event);
    }

    /// Lets those begin that wait for a thread, as far as there are permits and turns.
    pub(super) fn start_ready(&mut self) {
        self.retry = None;
        let settings = self.client_threads.shared.settings();
        let rate = settings.general.tls_rate_limit_per_second;
        let mut waits = [Class::Console, Class::Plain, Class::Tls].to_vec();
        while !waits.is_empty() {
            waits.retain(|&class| {
                let later = match class {
                    Class::Tls if self.ready[class as usize].len() > 0 => {
                        self.turns.next(rate, MonotonicTime::now())
                    }
                    _ => None,
                };
                if let Some(later) = later {
                    self.look_again(later);
                    return false;
                }
                let started = self.start_next(class);
                if let (true, Class::Tls, Some(rate)) = (started, class, rate) {
                    self.turns.take(rate, MonotonicTime::now());
                }
                started
            });
        }
    }

    pub(super) fn look_again(&mut self, at: MonotonicTime) {
        self.retry = Some(self.retry.map_or(at, |retry| retry.min(at)));
    }

    /// Starts the login of the next that waits, if one does and there is a permit for it.
    pub(super) fn start_next(&mut self, class: Class) -> bool {
        let queue = &mut self.ready[class as usize];
        let Some((origin, _)) = queue.next() else {
            return false;
        };
        let waiting = queue.len();
        let logins = &self.client_threads.logins;
        let Some(permit) = logins.begin(origin, class == Class::Console, waiting) else {
            self.look_again(MonotonicTime::now().after(PAUSE));
            return false;
        };
        let Some(id) = queue.pop() else {
            return false;
        };
        // Counted before it leaves what is held here: it is never in neither.
        let arriving = AcceptGuard::new(&self.client_threads.arriving);
        if let Some(held) = self.held.get_mut(&id) {
            held.state = State::Waiting;
        }
        let Some(held) = self.release(id) else {
            return true;
        };
        let started = self
            .client_threads
            .start_login(held.connection, permit, arriving, class);
        if let Err(connection) = started {
            let refusal = say(
                sqlstate::TOO_MANY_CONNECTIONS,
                "sorry, too many clients already: no thread can be started for another",
            );
            self.turn_away(*connection, &refusal);
        }
        true
    }
}
