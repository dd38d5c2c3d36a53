//! Guests without a thread: those who are silent and waited for together, and those who have spoken, or come
//! back, and wait for a thread.
//!
//! A process that takes thousands of silent sessions over at once would be busy with starting threads before
//! it served anybody; most of these clients have nothing to say for a while. One thread attends to the lobby
//! (`client::attend`), gives a thread to who speaks and, by and by, to all others; then it ends. Here is who
//! is in the lobby, and nothing of threads.
//!
//! Invariant: whoever takes a guest out has it alone.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::Pid;
use parking_lot::Mutex;

use super::client::{Client, ClientKind};
use crate::net::clock::MonotonicTime;
use crate::net::thread;
use crate::net::wait::{self, Interest, Woken};
use crate::pool::pool::Pool;

/// Guests that have spoken and are noticed at a time.
const NOTICED: usize = 64;

/// Guests that have arrived and are admitted at a time, and how often it is looked whether any have arrived.
const ADMITTED: usize = 16;
const ARRIVING: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug, Default)]
pub struct Lobby {
    state: Mutex<State>,
    /// How many wait for a thread, to be looked at without the lock.
    waiting: AtomicUsize,
    /// How many of them have got one so far.
    seated: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// Silent ones for whom nobody waits yet.
    arriving: VecDeque<Client>,
    silent: HashMap<u64, Client>,
    waiting: VecDeque<Client>,
    attendance: Option<Attendance>,
    /// More may come, or all are about to go: those who are silent are not called.
    expecting: bool,
}

/// What it takes to wait for the silent ones.
#[derive(Debug)]
struct Attendance {
    epoll: Arc<Epoll>,
    /// The thread that does.
    thread: Pid,
}

impl State {
    /// Takes a silent guest in; its number, if it was told something before that.
    fn take_in(&mut self, guest: Client) -> Result<Option<u64>, Box<Client>> {
        let (Some(attendance), ClientKind::Pool(detached)) = (&self.attendance, &guest.kind) else {
            return Err(Box::new(guest));
        };
        let id = guest.handle().info.id;
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, id);
        if attendance.epoll.add(detached.client.fd(), event).is_err() {
            return Err(Box::new(guest));
        }
        guest.handle().driven_by(attendance.thread);
        guest.handle().at_rest();
        let was_told = guest.handle().signals() != 0;
        self.silent.insert(id, guest);
        Ok(was_told.then_some(id))
    }

    fn take_out(&mut self, id: u64) -> Option<Client> {
        let guest = self.silent.remove(&id)?;
        if let (Some(attendance), ClientKind::Pool(detached)) = (&self.attendance, &guest.kind) {
            // It fails for no descriptor that was added.
            let _ = attendance.epoll.delete(detached.client.fd());
        }
        Some(guest)
    }
}

impl Lobby {
    /// From now on the calling thread waits for the silent ones, and about so many are expected.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) fn open(&self, expected: usize) -> io::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut state = self.state.lock();
        state.silent.reserve(expected);
        state.expecting = true;
        state.attendance = Some(Attendance {
            epoll: Arc::new(epoll),
            thread: thread::number(),
        });
        Ok(())
    }

    /// Whether more are expected than those who give up their threads to others, or all are about to go: as long
    /// as that is so, nobody gets a thread who has nothing to say.
    pub fn expect(&self, expecting: bool) {
        self.state.lock().expecting = expecting;
    }

    /// Whether the guest with this number is here and silent.
    pub(crate) fn holds(&self, id: u64) -> bool {
        self.state.lock().silent.contains_key(&id)
    }

    /// Nobody waits for the silent ones any more, if there are none and none are expected: whether that is so.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.state.lock();
        let nobody =
            state.silent.is_empty() && state.waiting.is_empty() && state.arriving.is_empty();
        let empty = nobody && !state.expecting;
        if empty {
            state.attendance = None;
        }
        empty
    }

    /// Takes silent guests in, and leaves it to who attends to wait for them, soon.
    ///
    /// # Errors
    /// The guests, if nobody attends.
    pub(crate) fn arrive(&self, guests: Vec<Client>) -> Result<(), Vec<Client>> {
        let mut state = self.state.lock();
        if state.attendance.is_none() {
            return Err(guests);
        }
        state.arriving.extend(guests);
        Ok(())
    }

    /// Begins to wait for those who have arrived; a few at a time, for more may arrive meanwhile.
    fn admit(&self) {
        loop {
            let mut state = self.state.lock();
            let few = ADMITTED.min(state.arriving.len());
            if few == 0 {
                return;
            }
            for _ in 0..few {
                let Some(guest) = state.arriving.pop_front() else {
                    break;
                };
                let needs_thread = match state.take_in(guest) {
                    Ok(told) => told.and_then(|id| state.take_out(id)),
                    Err(guest) => Some(*guest),
                };
                self.wants_thread(&mut state, needs_thread);
            }
        }
    }

    /// Takes a silent guest in.
    ///
    /// # Errors
    /// The guest, if nobody attends, or its socket cannot be waited for.
    pub fn enter(&self, guest: Client) -> Result<(), Box<Client>> {
        let mut state = self.state.lock();
        let told = state.take_in(guest)?;
        let thread = state
            .attendance
            .as_ref()
            .map(|attendance| attendance.thread);
        drop(state);
        if let (Some(_), Some(thread)) = (told, thread) {
            // Whoever told it has woken another thread.
            wait::wake(thread);
        }
        Ok(())
    }

    /// Takes a silent guest out.
    pub(crate) fn lift(&self, id: u64) -> Option<Client> {
        self.state.lock().take_out(id)
    }

    /// Guests that need a thread.
    pub(crate) fn queue(&self, guests: impl IntoIterator<Item = Client>) {
        let mut state = self.state.lock();
        state.waiting.extend(guests);
        self.waiting.store(state.waiting.len(), Ordering::Release);
    }

    /// Whether anybody waits for a thread.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// The next who waits for a thread.
    pub(crate) fn next(&self) -> Option<Client> {
        if !self.is_crowded() {
            return None;
        }
        let mut state = self.state.lock();
        let next = state.waiting.pop_front();
        self.waiting.store(state.waiting.len(), Ordering::Release);
        self.seated
            .fetch_add(usize::from(next.is_some()), Ordering::Relaxed);
        next
    }

    /// Since when the first who waits for a thread has waited to ask something, if it is of this pool.
    pub(crate) fn first(&self, pool: &Arc<Pool>) -> Option<MonotonicTime> {
        if !self.is_crowded() {
            return None;
        }
        let state = self.state.lock();
        match &state.waiting.front()?.kind {
            ClientKind::Pool(detached) if Arc::ptr_eq(&detached.pool, pool) => detached.spoke,
            _ => None,
        }
    }

    /// How many of those who waited have got a thread so far.
    pub(crate) fn seated(&self) -> usize {
        self.seated.load(Ordering::Relaxed)
    }

    /// Takes out so many of the silent ones, if no more are expected: they are to have a thread each.
    pub(crate) fn call(&self, most: usize) -> Vec<Client> {
        let mut state = self.state.lock();
        let most = if state.expecting { 0 } else { most };
        let called: Vec<u64> = state.silent.keys().take(most).copied().collect();
        let guests = called.into_iter().filter_map(|id| state.take_out(id));
        guests.collect()
    }

    /// Waits until some of the silent ones have spoken, are gone or were told something, and lets them wait for
    /// a thread; or until the deadline.
    ///
    /// # Errors
    /// Those of `ppoll` and `epoll_wait`.
    pub(crate) fn listen(&self, deadline: MonotonicTime) -> io::Result<()> {
        self.admit();
        let attended = |state: &State| {
            let attendance = state.attendance.as_ref()?;
            Some((Arc::clone(&attendance.epoll), state.expecting))
        };
        let Some((epoll, expecting)) = attended(&self.state.lock()) else {
            return Ok(());
        };
        let until = if expecting {
            deadline.min(MonotonicTime::now().after(ARRIVING))
        } else {
            deadline
        };
        let woken = wait::wait(Some((epoll.0.as_fd(), Interest::READ)), None, Some(until))?;
        let mut state = self.state.lock();
        let (called, spoke) = match woken {
            Woken::Deadline => return Ok(()),
            Woken::Interrupted => {
                let told = |guest: &&Client| guest.handle().signals() != 0;
                let told = state.silent.values().filter(told);
                (told.map(|guest| guest.handle().info.id).collect(), None)
            }
            Woken::Ready { .. } => {
                let mut events = [EpollEvent::empty(); NOTICED];
                let count = epoll.wait(&mut events, EpollTimeout::ZERO)?;
                let spoke = Some(MonotonicTime::now());
                (
                    events[..count].iter().map(EpollEvent::data).collect(),
                    spoke,
                )
            }
        };
        self.want_threads(&mut state, called, spoke);
        Ok(())
    }

    fn want_threads(&self, state: &mut State, called: Vec<u64>, spoke: Option<MonotonicTime>) {
        for id in called {
            let mut guest = state.take_out(id);
            if let Some(ClientKind::Pool(detached)) = guest.as_mut().map(|guest| &mut guest.kind) {
                detached.spoke = spoke;
            }
            self.wants_thread(state, guest);
        }
    }

    fn wants_thread(&self, state: &mut State, guest: Option<Client>) {
        state.waiting.extend(guest);
        self.waiting.store(state.waiting.len(), Ordering::Release);
    }
}
