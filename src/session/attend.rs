//! Attending to the lobby: one thread waits for all who are silent there, and gives them threads.
//!
//! Invariant: a guest who has spoken waits for a thread no longer than it takes to start one, or for another
//! guest to fall silent; and after some seconds nobody is in the lobby.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::bounded;

use super::accept::{Reception, STACK};
use super::guest::Guest;
use crate::net::clock::Moment;
use crate::net::thread;

/// How many of those in the lobby get a thread who have not spoken, and how often: it is not to be felt by
/// those who have.
const LOBBY_CALLS: usize = 8;
const LOBBY_PACE: Duration = Duration::from_millis(5);

/// How many threads are started in that time for those who have spoken. Where more speak at once it is faster
/// to let them take turns: a thread whose client has its answer and is silent is there for the next.
const LOBBY_STARTS: usize = 64;

impl Reception {
    /// Opens the lobby to guests who have nothing to say for now. Those who speak get a thread at once, the
    /// others by and by when no more are expected.
    ///
    /// # Errors
    /// If no thread can be started, or there is no descriptor left.
    pub fn open_lobby(self: &Arc<Reception>) -> io::Result<()> {
        let (opened, has_opened) = bounded(1);
        let reception = Arc::clone(self);
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                thread::name("lobby");
                let outcome = reception.house.lobby.open();
                let attends = outcome.is_ok();
                let _ = opened.send(outcome);
                if attends {
                    reception.attend();
                }
            })?;
        has_opened.recv().map_err(io::Error::other)?
    }

    /// Attends to the lobby until that is no longer needed.
    fn attend(self: &Arc<Reception>) {
        let lobby = &self.house.lobby;
        let mut tick = Moment::now();
        let mut starts = 0;
        while !lobby.close() {
            if let Err(error) = lobby.listen(tick) {
                self.note_shortage(&format!("silent clients are not heard: {error}"));
            }
            let now = Moment::now();
            if tick <= now {
                tick = now.after(LOBBY_PACE);
                starts = LOBBY_STARTS;
                if !lobby.is_crowded() {
                    self.seat_silent();
                }
            }
            starts -= self.seat_some(starts).0;
        }
    }

    /// Gives some of those in the lobby a thread who have not spoken.
    fn seat_silent(self: &Arc<Reception>) {
        for guest in self.house.lobby.call(LOBBY_CALLS) {
            match self.seat() {
                Ok(seat) => seat.take_in(guest),
                Err(error) => {
                    self.keep(guest);
                    self.note_no_thread(&error);
                }
            }
        }
    }

    /// Lets a guest who has nothing to say wait in the lobby, or gives it a thread if that is not open.
    pub fn keep(self: &Arc<Reception>, guest: Guest) {
        if let Err(guest) = self.house.lobby.enter(guest) {
            self.take_in([*guest]);
        }
    }
}
