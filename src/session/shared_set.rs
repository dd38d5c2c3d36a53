//! A shared set: many sessions that one thread drives, `clients N`. One wait for all their sockets, then a turn for
//! each that is ready.
//!
//! A turn moves what one read gives each way; then the next session has its turn. A server connection keeps its place
//! in the set when it goes back to its pool, so that the next session of the set that takes it need not tell the
//! kernel.
//!
//! Invariant: nothing here blocks but the wait. A panic in one session's turn ends that session only.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::sys::epoll::EpollFlags;
use parking_lot::Mutex;

use super::driven::Driven;
use super::driver::Step;
use super::sets::Where;
use super::shared::Shared;
use crate::net::clock::MonotonicTime;
use crate::net::poll_set::{Events, PollSet, Registration, readiness};
use crate::net::stream::Stream;
use crate::net::thread;
use crate::net::wait::{Interest, Readiness, Woken};
use crate::net::waker::{Waker, Wakeups};

/// Bytes of stack of a set's thread.
const STACK: usize = 512 * 1024;

/// When a socket is tried again for which the kernel had no room.
const RETRY: Duration = Duration::from_millis(100);

/// Timers that a set may have beside two for each session.
const SPARE_TIMERS: usize = 1024;

/// Tokens of servers' sockets have this bit, and their place above it; those of sessions have their place there, and
/// above that how often the place was used.
const SERVER: u64 = 1;
const PLACE_BITS: u32 = 31;

/// What other threads see of a set.
#[derive(Debug)]
pub(super) struct SharedSet {
    wakeups: Arc<Wakeups>,
    poll: Arc<PollSet>,
    #[allow(clippy::vec_box, reason = "a session is moved often, and is large")]
    joining: Mutex<Vec<Box<Driven>>>,
    members: AtomicUsize,
}

impl std::fmt::Debug for Driven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Driven").field(&self.handle().tag()).finish()
    }
}

impl SharedSet {
    /// Opens a set with this number.
    ///
    /// # Errors
    /// If its thread cannot be started, or there is no descriptor left.
    pub(super) fn start(number: u32, shared: &Arc<Shared>) -> io::Result<Arc<SharedSet>> {
        let set = Arc::new(SharedSet {
            wakeups: Arc::new(Wakeups::new(number)),
            poll: PollSet::new(number)?,
            joining: Mutex::default(),
            members: AtomicUsize::new(0),
        });
        let (own, shared) = (Arc::clone(&set), Arc::clone(shared));
        let builder = std::thread::Builder::new().stack_size(STACK);
        builder.spawn(move || {
            thread::name(&format!("clients {number}"));
            thread::restore_priority();
            own.wakeups.belong_here();
            Members::new(own, shared).work();
        })?;
        Ok(set)
    }

    /// How many sessions it has.
    pub(super) fn len(&self) -> usize {
        self.members.load(Ordering::Relaxed)
    }

    /// Takes a session in.
    pub(super) fn join(&self, driven: Box<Driven>) {
        self.members.fetch_add(1, Ordering::Relaxed);
        self.joining.lock().push(driven);
        self.wakeups.wake_thread();
    }
}

/// A session in the set.
struct Member {
    driven: Box<Driven>,
    /// The place of its server's socket.
    server: Option<usize>,
    /// The earliest timer that is set for it.
    timer: Option<MonotonicTime>,
}

/// A place for a member.
#[derive(Default)]
struct Slot {
    uses: u64,
    member: Option<Member>,
}

/// A place for a server's socket, and the token of the member that has the connection.
struct ServerSlot {
    registration: Weak<Registration>,
    user: Option<u64>,
}

/// What the set's thread has.
struct Members {
    set: Arc<SharedSet>,
    shared: Arc<Shared>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    servers: Vec<ServerSlot>,
    free_servers: Vec<usize>,
    timers: BinaryHeap<Reverse<(MonotonicTime, u64)>>,
    /// Those for whom bytes are there that the kernel knows nothing of.
    ready: Vec<u64>,
}

impl Members {
    fn new(set: Arc<SharedSet>, shared: Arc<Shared>) -> Members {
        Members {
            set,
            shared,
            slots: Vec::new(),
            free: Vec::new(),
            servers: Vec::new(),
            free_servers: Vec::new(),
            timers: BinaryHeap::new(),
            ready: Vec::new(),
        }
    }

    /// What the thread does until the process ends.
    fn work(&mut self) {
        let mut events = Events::default();
        let (mut woken, mut freed) = (Vec::new(), Vec::new());
        loop {
            let joining = std::mem::take(&mut *self.set.joining.lock());
            for driven in joining {
                self.take_in(driven);
            }
            self.set.wakeups.take(&mut woken);
            for token in woken.drain(..) {
                self.turn(token, Ok(Woken::Interrupted));
            }
            self.expire();
            for token in std::mem::take(&mut self.ready) {
                self.take_what_is_held(token);
            }
            let next = self.timers.peek().map(|Reverse((at, _))| *at);
            self.set.wakeups.fall_asleep();
            let news = !self.set.wakeups.is_empty()
                || !self.set.joining.lock().is_empty()
                || !self.ready.is_empty();
            let deadline = if news {
                Some(MonotonicTime::now())
            } else {
                next
            };
            let waited = self.set.poll.wait(&mut events, deadline);
            self.set.wakeups.stay_awake();
            if let Err(error) = waited {
                log::error!("a set's sockets cannot be waited for: {error}");
                std::thread::sleep(RETRY);
            }
            for index in 0..events.len() {
                let (token, event) = events.get(index);
                if token & SERVER == 0 {
                    self.hear_client(token, event);
                } else {
                    self.hear_server(token, event);
                }
            }
            self.set.poll.take_freed(&mut freed);
            for token in freed.drain(..).filter(|token| token & SERVER != 0) {
                let place = place_of(token);
                self.servers[place].user = None;
                self.free_servers.push(place);
            }
        }
    }

    fn member(&mut self, token: u64) -> Option<&mut Member> {
        let slot = self.slots.get_mut(place_of(token))?;
        if token >> (PLACE_BITS + 1) != slot.uses {
            return None;
        }
        slot.member.as_mut()
    }

    fn take_in(&mut self, mut driven: Box<Driven>) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[place];
        let token = slot.uses << (PLACE_BITS + 1) | (place as u64) << 1;
        driven.enters_set(Waker::Member(Arc::clone(&self.set.wakeups), token));
        slot.member = Some(Member {
            driven,
            server: None,
            timer: None,
        });
        self.turn(token, Ok(Woken::Interrupted));
    }

    fn take_out(&mut self, token: u64) -> Option<Box<Driven>> {
        self.member(token)?;
        let place = place_of(token);
        let slot = &mut self.slots[place];
        slot.uses += 1;
        let member = slot.member.take()?;
        self.free.push(place);
        self.set.members.fetch_sub(1, Ordering::Relaxed);
        // The place may be another's by now, if the registration has ended.
        if let Some(place) = member.server {
            if self.servers[place].user == Some(token) {
                self.servers[place].user = None;
            }
        }
        Some(member.driven)
    }

    /// Something has happened on a client's socket.
    fn hear_client(&mut self, token: u64, event: EpollFlags) {
        let Some(member) = self.member(token) else {
            return;
        };
        let driven = &mut member.driven;
        let Some(wanted) = wanted_of_client(driven) else {
            // epoll would report it again and again.
            driven.driver.client.unregister();
            return;
        };
        match readiness(event, wanted) {
            Some(client) => {
                let server = Readiness::default();
                self.turn(token, Ok(Woken::Ready { client, server }));
            }
            None => {
                if let Some(registration) = driven.driver.client.registration() {
                    registration.want(wanted, true);
                }
            }
        }
    }

    /// Something has happened on a server's socket.
    fn hear_server(&mut self, token: u64, event: EpollFlags) {
        let slot = &self.servers[place_of(token)];
        let registration = slot.registration.clone();
        let user = slot.user;
        let silence = || {
            // No session has the connection, or wants anything of it: epoll would report it again and again.
            if let Some(registration) = registration.upgrade() {
                registration.end();
            }
        };
        let Some((user, member)) = user.and_then(|user| Some((user, self.member(user)?))) else {
            return silence();
        };
        let Some(wanted) = wanted_of_server(&member.driven) else {
            return silence();
        };
        match readiness(event, wanted) {
            Some(server) => {
                let client = Readiness::default();
                self.turn(user, Ok(Woken::Ready { client, server }));
            }
            None => {
                if let Some(registration) = registration.upgrade() {
                    registration.want(wanted, true);
                }
            }
        }
    }

    /// Gives those their turns whose time has come.
    fn expire(&mut self) {
        let now = MonotonicTime::now();
        while let Some(&Reverse((at, token))) = self.timers.peek() {
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(member) = self.member(token) else {
                continue;
            };
            if member.timer != Some(at) {
                continue;
            }
            member.timer = None;
            match member.driven.wanted.until {
                Some(until) if until <= now => self.turn(token, Ok(Woken::Deadline)),
                _ => self.set_timer(token),
            }
        }
    }

    fn set_timer(&mut self, token: u64) {
        let Some(member) = self.member(token) else {
            return;
        };
        let Some(until) = member.driven.wanted.until else {
            return;
        };
        if member.timer.is_none_or(|timer| until < timer) {
            member.timer = Some(until);
            self.timers.push(Reverse((until, token)));
            self.drop_old_timers();
        }
    }

    /// Drops the timers of sessions that have left, once they are most. They would stay until their time, which may be
    /// in a day.
    fn drop_old_timers(&mut self) {
        if self.timers.len() < 2 * self.set.len() + SPARE_TIMERS {
            return;
        }
        let timers = std::mem::take(&mut self.timers).into_iter();
        let is_set = |&Reverse((at, token)): &Reverse<(MonotonicTime, u64)>| {
            (self.member(token)).is_some_and(|member| member.timer == Some(at))
        };
        self.timers = timers.filter(is_set).collect();
    }

    /// Bytes were there that the kernel knows nothing of.
    fn take_what_is_held(&mut self, token: u64) {
        let Some(member) = self.member(token) else {
            return;
        };
        let readable = |readable| Readiness {
            readable,
            ..Readiness::default()
        };
        let (client, server) = holds_input(&member.driven);
        if client || server {
            let (client, server) = (readable(client), readable(server));
            self.turn(token, Ok(Woken::Ready { client, server }));
        }
    }

    /// A session's turn.
    fn turn(&mut self, token: u64, news: io::Result<Woken>) {
        let Some(member) = self.member(token) else {
            return;
        };
        let driven = &mut member.driven;
        let step = catch_unwind(AssertUnwindSafe(|| {
            driven.driver.ready(&driven.wanted, news);
            driven.driver.advance()
        }));
        match step {
            Ok(Step::Waits(wanted)) => {
                driven.wanted = wanted;
                self.let_wait(token);
            }
            Ok(Step::Moves) => {
                if let Some(driven) = self.take_out(token) {
                    self.hand_in(driven);
                }
            }
            Ok(Step::Ends(close_reason)) => {
                if let Some(driven) = self.take_out(token) {
                    let shared = &self.shared;
                    let _ = catch_unwind(AssertUnwindSafe(|| driven.end(shared, &close_reason)));
                }
            }
            Err(_) => {
                log::error!("a turn of a client's session panicked; the session has ended");
                let driven = self.take_out(token);
                let _ = catch_unwind(AssertUnwindSafe(|| drop(driven)));
            }
        }
    }

    /// Hands in a session that moves to another process.
    fn hand_in(&mut self, driven: Box<Driven>) {
        let Err(back) = self.shared.hand_in(driven.into_client()) else {
            return;
        };
        // The hand-over has ended in the meantime: the session goes on here.
        if let Some(driven) = back.driven(&self.shared) {
            self.set.members.fetch_add(1, Ordering::Relaxed);
            self.take_in(driven);
        }
    }

    /// The session waits. If it has just become busy and all is calm, it does so in a thread of its own.
    fn let_wait(&mut self, token: u64) {
        let Some(member) = self.member(token) else {
            return;
        };
        let driven = &mut member.driven;
        if driven.note_busy(Where::Set) && self.returns_to_thread(token) {
            return;
        }
        if let Err(error) = self.watch(token) {
            log::error!("a socket cannot be waited for: {error}; it is tried again");
            self.retry(token);
        }
        self.set_timer(token);
    }

    fn retry(&mut self, token: u64) {
        if let Some(member) = self.member(token) {
            let wanted = &mut member.driven.wanted;
            let soon = MonotonicTime::now().after(RETRY);
            wanted.until = Some(wanted.until.map_or(soon, |until| until.min(soon)));
        }
    }

    fn returns_to_thread(&mut self, token: u64) -> bool {
        let sets = Arc::clone(&self.shared.sets);
        if !sets.is_calm(MonotonicTime::now()) {
            return false;
        }
        let Some(own_thread) = sets.own_thread() else {
            return false;
        };
        let Some(mut driven) = self.take_out(token) else {
            return true;
        };
        driven.gets_thread(own_thread);
        if let Err(driven) = sets.give_thread(driven) {
            self.set.members.fetch_add(1, Ordering::Relaxed);
            self.take_in(driven);
        }
        true
    }

    /// Has the kernel look for what the member waits for.
    fn watch(&mut self, token: u64) -> io::Result<()> {
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

fn place_of(token: u64) -> usize {
    let place = token >> 1 & ((1 << PLACE_BITS) - 1);
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// What a socket is waited for, what its TLS still owes included.
fn wanted_of(stream: &Stream, wanted: Option<Interest>) -> Option<Interest> {
    let wanted = wanted?;
    let write = wanted.write || stream.owes();
    Some(Interest { write, ..wanted })
}

fn wanted_of_client(driven: &Driven) -> Option<Interest> {
    if driven.wanted.sealed {
        return driven.wanted.client;
    }
    wanted_of(&driven.driver.client, driven.wanted.client)
}

fn wanted_of_server(driven: &Driven) -> Option<Interest> {
    wanted_of(driven.driver.server.as_ref()?, driven.wanted.server)
}

/// Whether client and server are waited for, and have sent what the kernel knows nothing of any more.
fn holds_input(driven: &Driven) -> (bool, bool) {
    let reads = |wanted: Option<Interest>| wanted.is_some_and(|wanted| wanted.read);
    let (wanted, driver) = (&driven.wanted, &driven.driver);
    let server = driver.server.as_ref();
    (
        reads(wanted.client) && !wanted.sealed && driver.client.holds_input(),
        reads(wanted.server) && server.is_some_and(Stream::holds_input),
    )
}
