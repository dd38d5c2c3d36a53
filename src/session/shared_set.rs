//! A shared set: many sessions that one thread drives, `clients N`. One wait for all their sockets, then a turn for
//! each that is ready.
//!
//! A turn moves what one read gives each way; then the next session has its turn. A server connection keeps its place
//! in the set when it goes back to its pool, so that the next session of the set that takes it need not tell the
//! kernel.
//!
//! Invariant: nothing here blocks but the wait. A panic in one session's turn ends that session only.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::epoll::EpollFlags;
use parking_lot::Mutex;

use super::driven::Driven;
use super::driver::Step;
use super::set_load::SetLoad;
use super::set_sockets::{
    SERVER, ServerSlot, holds_input, is_of, member_of, place_of, token_of, wanted_of_client,
    wanted_of_server,
};
use super::set_timers::SetTimers;
use super::sets::Where;
use super::shared::Shared;
use crate::net::clock::MonotonicTime;
use crate::net::poll_set::{Events, PollSet, readiness};
use crate::net::processors;
use crate::net::thread;
use crate::net::wait::{Readiness, Woken};
use crate::net::waker::{Waker, Wakeups};

/// Bytes of stack of a set's thread.
const STACK: usize = 512 * 1024;

/// When a socket is tried again for which the kernel had no room.
const RETRY: Duration = Duration::from_millis(100);

/// Sessions that a set gives away at once.
const GIVEN_AWAY: usize = 256;

/// What other threads see of a set.
#[derive(Debug)]
pub(super) struct SharedSet {
    wakeups: Arc<Wakeups>,
    pub(super) poll: Arc<PollSet>,
    #[allow(clippy::vec_box, reason = "a session is moved often, and is large")]
    joining: Mutex<Vec<Box<Driven>>>,
    members: AtomicUsize,
    /// It had sessions to give away, and no set took them. Counts only while its thread is awake.
    full: AtomicBool,
}

impl std::fmt::Debug for Driven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Driven").field(&self.handle().tag()).finish()
    }
}

impl SharedSet {
    fn new(number: u32) -> io::Result<Arc<SharedSet>> {
        Ok(Arc::new(SharedSet {
            wakeups: Arc::new(Wakeups::new(number)),
            poll: PollSet::new(number)?,
            joining: Mutex::default(),
            members: AtomicUsize::new(0),
            full: AtomicBool::new(false),
        }))
    }

    /// Opens a set with this number.
    ///
    /// # Errors
    /// If its thread cannot be started, or there is no descriptor left.
    pub(super) fn start(number: u32, shared: &Arc<Shared>) -> io::Result<Arc<SharedSet>> {
        let set = SharedSet::new(number)?;
        let (own, shared) = (Arc::clone(&set), Arc::clone(shared));
        let builder = std::thread::Builder::new().stack_size(STACK);
        builder.spawn(move || {
            thread::name(&format!("clients {number}"));
            thread::restore_priority();
            own.wakeups.belong_here();
            let mut members = Members::new(own, shared);
            let mut events = Events::default();
            loop {
                members.round(&mut events);
            }
        })?;
        Ok(set)
    }

    /// How many sessions it has.
    pub(super) fn len(&self) -> usize {
        self.members.load(Ordering::Relaxed)
    }

    /// Whether it can do more than it does.
    pub(super) fn has_room(&self) -> bool {
        !self.full.load(Ordering::Relaxed) || self.wakeups.is_asleep()
    }

    /// Takes a session in.
    pub(super) fn join(&self, driven: Box<Driven>) {
        self.members.fetch_add(1, Ordering::Relaxed);
        self.joining.lock().push(driven);
        self.wakeups.wake_thread();
    }
}

/// A session in the set.
pub(super) struct Member {
    pub(super) driven: Box<Driven>,
    /// The place of its server's socket.
    pub(super) server: Option<usize>,
    /// The earliest timer that is set for it.
    timer: Option<MonotonicTime>,
}

/// A place for a member.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) uses: u64,
    pub(super) member: Option<Member>,
}

/// What the set's thread has.
pub(super) struct Members {
    pub(super) set: Arc<SharedSet>,
    shared: Arc<Shared>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    pub(super) servers: Vec<ServerSlot>,
    pub(super) free_servers: Vec<usize>,
    timers: SetTimers,
    load: SetLoad,
    /// Those for whom bytes are there that the kernel knows nothing of.
    pub(super) ready: Vec<u64>,
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
            timers: SetTimers::default(),
            load: SetLoad::new(MonotonicTime::now()),
            ready: Vec::new(),
        }
    }

    /// One wait, and a turn for each session that is ready.
    fn round(&mut self, events: &mut Events) {
        self.take_news();
        let next = self.timers.next();
        let begun = MonotonicTime::now();
        self.set.wakeups.fall_asleep();
        let news = !self.set.wakeups.is_empty()
            || !self.set.joining.lock().is_empty()
            || !self.ready.is_empty();
        let deadline = if news { Some(begun) } else { next };
        let waited = self.set.poll.wait(events, deadline);
        self.set.wakeups.stay_awake();
        let now = MonotonicTime::now();
        if (self.load).woke(now.since(begun), now, processors::idle_time) {
            self.give_away();
        }
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
        let mut freed = Vec::new();
        self.set.poll.take_freed(&mut freed);
        for token in freed.into_iter().filter(|token| token & SERVER != 0) {
            let place = place_of(token);
            self.servers[place].user = None;
            self.free_servers.push(place);
        }
    }

    /// Gives those their turns who have joined, were woken, or whose time has come.
    fn take_news(&mut self) {
        let joining = std::mem::take(&mut *self.set.joining.lock());
        for driven in joining {
            self.take_in(driven);
        }
        let mut woken = Vec::new();
        self.set.wakeups.take(&mut woken);
        for token in woken {
            self.turn(token, Ok(Woken::Interrupted));
        }
        self.expire();
        for token in std::mem::take(&mut self.ready) {
            self.take_what_is_held(token);
        }
    }

    pub(super) fn member(&mut self, token: u64) -> Option<&mut Member> {
        let slot = self.slots.get_mut(place_of(token))?;
        slot.member.as_mut().filter(|_| is_of(token, slot.uses))
    }

    /// Gives every second busy session to a set that has room for it.
    fn give_away(&mut self) {
        self.set.full.store(true, Ordering::Relaxed);
        let other = match self.shared.sets.another(&self.set, &self.shared) {
            Ok(Some(other)) => other,
            Ok(None) => return,
            Err(error) => return log::warn!("no further set of sessions can be opened: {error}"),
        };
        let slots = self.slots.iter().enumerate();
        let tokens = slots.filter_map(|(place, slot)| {
            let busy = slot.member.as_ref()?.driven.driver.is_busy();
            busy.then(|| token_of(place, slot))
        });
        let tokens: Vec<u64> = tokens.step_by(2).take(GIVEN_AWAY).collect();
        for token in tokens {
            if let Some(mut driven) = self.take_out(token) {
                driven.driver.leave_sets();
                other.join(driven);
            }
        }
        self.set.full.store(false, Ordering::Relaxed);
    }

    fn take_in(&mut self, mut driven: Box<Driven>) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[place];
        let token = token_of(place, slot);
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
        while let Some((at, token)) = self.timers.take_passed(now) {
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
            self.timers.set(until, token);
            let holds = |at, token| {
                let member = member_of(&self.slots, token);
                member.is_some_and(|member| member.timer == Some(at))
            };
            self.timers.drop_old(self.set.len(), holds);
        }
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
}

#[cfg(test)]
mod tests;
