//! Attending to the lobby: one thread waits for all who are silent there, and gives them threads.
//!
//! Invariant: who has spoken first is the first to get a thread that falls free, and if few do, threads are started,
//! so that some get one in every few milliseconds; and after some seconds nobody is in the lobby, unless all are
//! about to move.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::bounded;

use super::client_threads::{ClientThreads, STACK};
use crate::net::clock::MonotonicTime;
use crate::net::thread;
use crate::session::client::Client;

/// How many of those in the lobby get a thread who have not spoken, and how often: it is not to be felt by
/// those who have.
const LOBBY_CALLS: usize = 8;
const LOBBY_PACE: Duration = Duration::from_millis(5);

/// How many of those who have spoken get a thread in that time; those who get one that is there already, because
/// its client has its answer and is silent, are counted. Where more speak at once it is faster to let them take
/// turns: to start a thread takes as long as to serve a small query.
const LOBBY_STARTS: usize = 24;

impl ClientThreads {
    /// Opens the lobby to guests who have nothing to say for now, about so many. Those who speak get a thread as
    /// soon as there is one, the others by and by when no more are expected.
    ///
    /// # Errors
    /// If no thread can be started, or there is no descriptor left.
    pub fn open_lobby(self: &Arc<ClientThreads>, expected: usize) -> io::Result<()> {
        let (opened, has_opened) = bounded(1);
        let client_threads = Arc::clone(self);
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                thread::name("lobby");
                thread::restore_priority();
                let outcome = client_threads.shared.lobby.open(expected);
                let attends = outcome.is_ok();
                let _ = opened.send(outcome);
                if attends {
                    client_threads.attend();
                }
            })?;
        has_opened.recv().map_err(io::Error::other)?
    }

    /// Attends to the lobby until that is no longer needed.
    fn attend(self: &Arc<ClientThreads>) {
        let lobby = &self.shared.lobby;
        let mut tick = MonotonicTime::now();
        let (mut starts, mut started, mut seated) = (0, 0, lobby.seated());
        while !lobby.close() {
            if let Err(error) = lobby.listen(tick) {
                self.note_shortage(&format!("silent clients are not heard: {error}"));
            }
            let now = MonotonicTime::now();
            if tick <= now {
                tick = now.after(LOBBY_PACE);
                let before = std::mem::replace(&mut seated, lobby.seated());
                let others = seated - before - std::mem::take(&mut started);
                starts = LOBBY_STARTS.saturating_sub(others);
                if !lobby.is_crowded() {
                    self.promote_idle();
                }
            }
            let some = self.start_some(starts).0;
            starts -= some;
            started += some;
        }
    }

    /// Gives some of those in the lobby a thread who have not spoken.
    fn promote_idle(self: &Arc<ClientThreads>) {
        for client in self.shared.lobby.call(LOBBY_CALLS) {
            match self.seat() {
                Ok(seat) => seat.take_in(client),
                Err(error) => {
                    self.keep(vec![client]);
                    self.note_no_thread(&error);
                }
            }
        }
    }

    /// Lets guests who have nothing to say wait in the lobby, or gives them threads if that is not open.
    pub fn keep(self: &Arc<ClientThreads>, clients: Vec<Client>) {
        if let Err(clients) = self.shared.lobby.arrive(clients) {
            self.take_in(clients);
        }
    }
}
