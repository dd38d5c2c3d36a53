//! The limit of logins under way, each of which has a thread. At the limit, a login of the address that has most of
//! them is closed: the one that has sent nothing for longest.
//!
//! A connection counts until its client has proved who it is. Invariant: a login is closed only while the pooler
//! waits for its client, and has waited for [`SILENCE`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::unistd::Pid;
use parking_lot::Mutex;

use super::crowd::{Crowd, Origin};
use crate::net::clock::MonotonicTime;
use crate::net::thread;
use crate::net::wait;

/// How long a client may send nothing before its connection can be closed to make room: longer than a message
/// takes around the world.
pub(super) const SILENCE: Duration = Duration::from_millis(300);

/// Logins at a time, at most.
pub(super) const LOGINS: usize = 512;

/// Logins at the console beyond that.
const CONSOLE_LOGINS: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct Logins {
    state: Mutex<State>,
    /// The acceptor waits for a permit.
    wanted: AtomicBool,
}

#[derive(Debug)]
struct State {
    most: usize,
    crowd: Crowd,
    threads: HashMap<u64, LoginThread>,
    next: u64,
    /// Logins that were signalled to end and have not ended.
    closing: usize,
    /// Whom to wake when a permit is free.
    acceptor: Option<Pid>,
}

#[derive(Debug)]
struct LoginThread {
    thread: Option<Pid>,
    must_close: bool,
}

/// The permit of one login. Dropping it lets another begin.
#[derive(Debug)]
pub struct LoginPermit {
    logins: Arc<Logins>,
    id: u64,
}

impl Default for Logins {
    fn default() -> Logins {
        Logins {
            state: Mutex::new(State {
                most: LOGINS,
                crowd: Crowd::default(),
                threads: HashMap::new(),
                next: 0,
                closing: 0,
                acceptor: None,
            }),
            wanted: AtomicBool::new(false),
        }
    }
}

impl Logins {
    /// Bounds them otherwise than by [`LOGINS`].
    pub(super) fn limit(&self, most: usize) {
        self.state.lock().most = most.clamp(1, LOGINS);
    }

    /// The calling thread asks for permits from now on.
    pub(super) fn acceptor_is_here(&self) {
        self.state.lock().acceptor = Some(thread::number());
    }

    /// A permit for a connection from `origin`; so many wait for one, it included. If there is none, the login
    /// that has sent nothing for longest is closed, and the acceptor woken when a permit is free.
    pub(super) fn begin(
        self: &Arc<Logins>,
        origin: Origin,
        console: bool,
        waiting: usize,
    ) -> Option<LoginPermit> {
        let mut state = self.state.lock();
        let most = state.most + if console { CONSOLE_LOGINS } else { 0 };
        if state.crowd.len() < most {
            state.next += 1;
            let id = state.next;
            state.crowd.enter(id, origin);
            state.threads.insert(
                id,
                LoginThread {
                    thread: None,
                    must_close: false,
                },
            );
            return Some(LoginPermit {
                logins: Arc::clone(self),
                id,
            });
        }
        self.wanted.store(true, Ordering::Release);
        if state.closing >= waiting {
            return None;
        }
        let before = MonotonicTime::from_micros(
            MonotonicTime::now()
                .micros()
                .saturating_sub(u64::try_from(SILENCE.as_micros()).unwrap_or(0)),
        );
        if let Some(id) = state.crowd.longest_silent(before) {
            // It is not looked at again, unless it speaks after all.
            state.crowd.heard(id);
            state.closing += 1;
            if let Some(login) = state.threads.get_mut(&id) {
                login.must_close = true;
                if let Some(thread) = login.thread {
                    wait::wake(thread);
                }
            }
        }
        None
    }
}

impl LoginPermit {
    /// The calling thread does the login.
    pub(super) fn runs_here(&self) {
        let mut state = self.logins.state.lock();
        if let Some(login) = state.threads.get_mut(&self.id) {
            login.thread = Some(thread::number());
        }
    }

    /// The pooler waits for the client from now on.
    pub(super) fn waits(&self) {
        self.logins
            .state
            .lock()
            .crowd
            .waits(self.id, MonotonicTime::now());
    }

    /// The client has sent what it was waited for.
    pub(super) fn heard(&self) {
        let mut state = self.logins.state.lock();
        state.crowd.heard(self.id);
        if let Some(login) = state.threads.get_mut(&self.id) {
            let was_signalled = std::mem::take(&mut login.must_close);
            state.closing -= usize::from(was_signalled);
        }
    }

    /// Whether the login must end, to make room for others.
    pub(super) fn must_close(&self) -> bool {
        let state = self.logins.state.lock();
        state
            .threads
            .get(&self.id)
            .is_some_and(|login| login.must_close)
    }
}

impl LoginPermit {
    /// The client has proved who it is: another login may begin.
    pub(super) fn release(&self) {
        let mut state = self.logins.state.lock();
        state.crowd.leave(self.id);
        let Some(login) = state.threads.remove(&self.id) else {
            return;
        };
        state.closing -= usize::from(login.must_close);
        let acceptor = state.acceptor;
        drop(state);
        if let (true, Some(acceptor)) = (self.logins.wanted.swap(false, Ordering::AcqRel), acceptor)
        {
            wait::wake(acceptor);
        }
    }
}

impl Drop for LoginPermit {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Origin = Origin::V4([10, 0, 0, 1]);

    #[test]
    fn only_a_login_whose_client_is_silent_is_closed() {
        let logins = Arc::new(Logins::default());
        logins.limit(2);
        let one = logins.begin(HERE, false, 1).unwrap();
        let other = logins.begin(HERE, false, 1).unwrap();
        assert!(logins.begin(HERE, false, 1).is_none());
        assert!(!one.must_close() && !other.must_close());
        other.waits();
        std::thread::sleep(SILENCE);
        assert!(logins.begin(HERE, false, 1).is_none());
        assert!(!one.must_close() && other.must_close());
        // What it was waited for came at the last moment.
        other.heard();
        assert!(!other.must_close());
        drop(one);
        assert!(logins.begin(HERE, false, 1).is_some());
    }

    #[test]
    fn the_console_has_permits_of_its_own() {
        let logins = Arc::new(Logins::default());
        logins.limit(1);
        let _held = logins.begin(HERE, false, 1).unwrap();
        assert!(logins.begin(HERE, false, 1).is_none());
        assert!(logins.begin(HERE, true, 1).is_some());
    }
}
