//! Where a silent session lies while its thread waits for its client to speak.
//!
//! The hand-over lifts it out without waking that thread: most of thousands of sessions are silent when they
//! move, and so many wake-ups, on a machine that has other work to do, would be most of what an upgrade takes.
//!
//! Invariant: whoever takes the session out, its thread or the hand-over, has it alone.

use parking_lot::Mutex;

use super::client::Client;
use crate::net::clock::MonotonicTime;
use crate::net::wait::Watch;

/// What lies in a bed.
#[derive(Debug, Default)]
enum Lies {
    /// Nobody.
    #[default]
    Nobody,
    /// The session; its thread waits.
    Asleep(Client),
    /// Nobody any more, which its thread, still waiting, has yet to notice.
    Lifted,
}

/// One session's.
#[derive(Debug, Default)]
pub struct Bed(Mutex<Lies>);

impl Bed {
    /// Lets the guest sleep until its client speaks, is gone, the thread is woken, or it is time. `None` if it was lifted
    /// out: it is no longer this thread's.
    pub fn sleep(
        &self,
        guest: Client,
        client: Watch,
        until: Option<MonotonicTime>,
    ) -> Option<Client> {
        *self.0.lock() = Lies::Asleep(guest);
        // However the wait ended, what there is to notice is noticed when the session is driven on.
        let _ = client.wait(until);
        match std::mem::take(&mut *self.0.lock()) {
            Lies::Asleep(guest) => Some(guest),
            Lies::Lifted | Lies::Nobody => None,
        }
    }

    /// Whether a guest sleeps here.
    pub fn is_taken(&self) -> bool {
        matches!(*self.0.lock(), Lies::Asleep(_))
    }

    /// Lifts the guest out, if it sleeps. Then no thread drives it.
    pub fn lift(&self) -> Option<Client> {
        let mut lies = self.0.lock();
        match std::mem::replace(&mut *lies, Lies::Lifted) {
            Lies::Asleep(guest) => Some(guest),
            other => {
                *lies = other;
                None
            }
        }
    }

    /// Puts a guest back that was lifted out.
    ///
    /// # Errors
    /// The guest, if its thread has noticed: it needs another one.
    pub fn lay_back(&self, guest: Client) -> Result<(), Box<Client>> {
        let handle = std::sync::Arc::clone(guest.handle());
        let mut lies = self.0.lock();
        if !matches!(*lies, Lies::Lifted) {
            return Err(Box::new(guest));
        }
        *lies = Lies::Asleep(guest);
        drop(lies);
        handle.wake();
        Ok(())
    }
}
