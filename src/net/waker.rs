//! How to wake a waiter: a blocked thread, the thread of one session, or the thread of a set.
//!
//! Knows nothing of what is waited for. Invariant: a wake-up is never lost. A thread that does not wait yet finds it
//! when it begins to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::Thread;

use nix::unistd::Pid;
use parking_lot::Mutex;

use super::thread;
use super::wait::wake;

/// See the module.
#[derive(Debug, Clone)]
pub enum Waker {
    /// A thread that is parked.
    Parked(Thread),
    /// A thread that waits for sockets.
    Polling(Pid),
    /// A member of a set, by its number there.
    Member(Arc<Wakeups>, u64),
}

impl Waker {
    /// That of the calling thread, which waits for sockets.
    pub fn polling() -> Waker {
        Waker::Polling(thread::number())
    }

    /// That of the calling thread, which parks.
    pub fn parked() -> Waker {
        Waker::Parked(std::thread::current())
    }

    /// Ends the wait, or the next one.
    pub fn wake(&self) {
        match self {
            Waker::Parked(thread) => thread.unpark(),
            Waker::Polling(thread) => wake(*thread),
            Waker::Member(set, member) => set.wake(*member),
        }
    }

    /// The number of the set, or 0.
    pub fn set_number(&self) -> u32 {
        match self {
            Waker::Parked(_) | Waker::Polling(_) => 0,
            Waker::Member(set, _) => set.number,
        }
    }

    /// The thread that is woken, if it waits for sockets.
    pub fn thread(&self) -> Option<Pid> {
        match self {
            Waker::Parked(_) => None,
            Waker::Polling(thread) => Some(*thread),
            Waker::Member(set, _) => Some(set.thread()),
        }
    }
}

/// The members of a set that were woken, and its thread.
#[derive(Debug)]
pub struct Wakeups {
    number: u32,
    woken: Mutex<Vec<u64>>,
    /// The thread waits, or is about to, and has not been woken.
    sleeps: AtomicBool,
    thread: AtomicI32,
}

impl Wakeups {
    /// Nobody was woken so far in the set with this number, which is not 0.
    pub fn new(number: u32) -> Wakeups {
        Wakeups {
            number,
            woken: Mutex::default(),
            sleeps: AtomicBool::new(false),
            thread: AtomicI32::new(0),
        }
    }

    /// From now on the calling thread is the set's.
    pub fn belong_here(&self) {
        let thread = thread::number().as_raw();
        self.thread.store(thread, Ordering::Release);
    }

    /// The set's thread.
    pub fn thread(&self) -> Pid {
        Pid::from_raw(self.thread.load(Ordering::Acquire))
    }

    /// Wakes a member.
    pub fn wake(&self, member: u64) {
        self.woken.lock().push(member);
        self.wake_thread();
    }

    /// Wakes the thread, if it waits.
    pub fn wake_thread(&self) {
        // Whatever there is to find was stored before this.
        if self.sleeps.swap(false, Ordering::SeqCst) {
            wake(self.thread());
        }
    }

    /// The thread is about to wait. What was stored before a wake-up that comes too early is found by whoever looks
    /// after this.
    pub fn fall_asleep(&self) {
        self.sleeps.store(true, Ordering::SeqCst);
    }

    /// The thread waits no more.
    pub fn stay_awake(&self) {
        self.sleeps.store(false, Ordering::SeqCst);
    }

    /// Whether the thread waits, or is about to.
    pub fn is_asleep(&self) -> bool {
        self.sleeps.load(Ordering::Relaxed)
    }

    /// Whether somebody was woken.
    pub fn is_empty(&self) -> bool {
        self.woken.lock().is_empty()
    }

    /// Takes the members that were woken.
    pub fn take(&self, into: &mut Vec<u64>) {
        into.append(&mut self.woken.lock());
    }
}
