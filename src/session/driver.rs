//! What drives a session: its turn, which goes as far as that is possible without waiting, and its wait.
//!
//! `Driver::advance` and `Driver::ready` never block, so a thread can drive many sessions. `Driver::wait` is for a
//! thread that drives one. Nothing of the protocol is here. The invariant: whenever a session waits, its value and
//! its one or two sockets are all there is; and whatever way it ends, its server connection goes back clean or is
//! closed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::brief_read::{Pace, Peer};
use super::checkout::Checkout;
use super::client::DetachedSession;
use super::close::Closing;
use super::close_reason::CloseReason;
use super::io::Input;
use super::limits::Progress;
use super::memory::MemoryShare;
use super::registry::Handle;
use super::shared::Shared;
use crate::net::clock::MonotonicTime;
use crate::net::stream::{self, Stream};
use crate::net::wait::{self, Interest, Woken};
use crate::pool::pool_config::PoolConfig;
use crate::relay::client_end::ClientEnd;
use crate::relay::output::Output;
use crate::relay::session::{Phase, ServerLink, Session};

/// How long a server connection may take to be cleaned after its client is gone, before it is closed.
pub(crate) const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How long the pooler's own statements may take behind the back of a client that is there.
pub(crate) const CLEAN_LIMIT: Duration = Duration::from_secs(15);

/// What a session waits for. Nothing happens to it before, unless it is woken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What its client's socket is waited for.
    pub(crate) client: Option<Interest>,
    /// What its server's socket is waited for.
    pub(crate) server: Option<Interest>,
    /// Until when.
    pub(crate) until: Option<MonotonicTime>,
    /// The peer that alone is expected to send something, and soon.
    pub(crate) soon: Option<Peer>,
    /// Only the client's socket counts, and not what its TLS holds: nothing of that is read any more.
    pub(crate) sealed: bool,
}

impl Wanted {
    /// To be woken, or this moment.
    pub(crate) fn nothing_before(until: MonotonicTime) -> Wanted {
        Wanted {
            until: Some(until),
            ..Wanted::default()
        }
    }
}

/// How far a session has come.
#[derive(Debug)]
pub(crate) enum Step {
    /// It waits.
    Waits(Wanted),
    /// It is to move to another process, and can be taken apart.
    Moves,
    /// It is over, and all that belongs to it can be dropped.
    Ends(CloseReason),
}

/// Whether a session is served.
#[derive(Debug, Default)]
pub(crate) enum Course {
    /// It is.
    #[default]
    Serves,
    /// It is to move, and waits until then for a CancelRequest that is on its way to its server connection.
    Moves(MonotonicTime),
    /// It is being closed.
    Closes(Box<Closing>),
}

/// A session, its sockets, and those it deals with.
pub struct Driver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) handle: Arc<Handle>,
    /// What the session has of its pool.
    pub(crate) checkout: Checkout,
    /// The pool's configuration, as far as this session knows, and its version.
    pub(crate) config: (u64, Arc<PoolConfig>),
    pub(crate) session: Box<Session>,
    pub(crate) client: Stream,
    pub(crate) server: Option<Stream>,
    pub(crate) out: Output,
    /// A step over the client's unread bytes has consumed nothing: more of them are needed.
    pub(crate) starved: bool,
    /// The client has broken the protocol, in these words; it is told when it has its replies.
    pub(crate) violation: Option<String>,
    /// The client reads nothing more, though its requests are served to their end: replies are dropped.
    pub(crate) deaf: bool,
    /// Only an error is passed on to the client: what runs for it has no Sync or Flush behind it.
    pub(crate) untold: bool,
    /// Writing to the client has failed, in these words.
    pub(crate) broken: Option<String>,
    /// When the current request for a server connection was made: all that it takes to get one has to be
    /// done within `query_wait_timeout` of this.
    pub(crate) asked_since: MonotonicTime,
    /// When a server connection that is being tried, set up or cleaned must have answered.
    pub(crate) server_deadline: Option<MonotonicTime>,
    /// A CancelRequest is on its way to the server connection, which is to go back: until when it is awaited.
    pub(crate) cancel_limit: Option<MonotonicTime>,
    /// Whether the session is served.
    pub(crate) course: Course,
    /// How the client takes what it is owed, and sends half a message.
    pub(crate) client_progress: Progress,
    /// How the server takes a request.
    pub(crate) server_progress: Progress,
    /// When it was last looked whether the peers' hosts acknowledge what they are sent.
    pub(crate) looked_at_hosts: MonotonicTime,
    /// How soon its peers answer.
    pub(crate) pace: Pace,
    /// What the client's unfinished message takes.
    pub(crate) unfinished: MemoryShare,
}

impl Driver {
    /// A driver for a session from wherever it stands.
    pub(crate) fn new(
        shared: Arc<Shared>,
        handle: Arc<Handle>,
        detached: DetachedSession,
    ) -> Driver {
        match (&detached.session.link, detached.session.phase()) {
            (Some(link), _) => drop(handle.running(&link.backend.key, link.since)),
            (None, Phase::Queued(_)) => handle.queued(),
            (None, _) => drop(handle.at_rest()),
        }
        let config = (0, detached.pool.config());
        let link = detached.session.link.is_some();
        let mut session = detached.session;
        if session.active_at == MonotonicTime::default() {
            // It comes from an older version.
            session.active_at = MonotonicTime::now();
        }
        let checkout = Checkout::new(detached.pool, Arc::clone(&handle.waiter), link);
        let mut unfinished = MemoryShare::new(&shared.unfinished);
        // It may come from another process, where it was counted.
        unfinished.set(session.client.unread.len());
        Driver {
            unfinished,
            shared,
            handle,
            checkout,
            config,
            session,
            client: detached.client,
            server: detached.server,
            out: Output::default(),
            starved: false,
            violation: None,
            deaf: false,
            untold: false,
            broken: None,
            asked_since: MonotonicTime::now(),
            server_deadline: detached.server_deadline,
            cancel_limit: None,
            course: Course::Serves,
            client_progress: Progress::default(),
            server_progress: Progress::default(),
            looked_at_hosts: MonotonicTime::now(),
            pace: Pace::new(MonotonicTime::now()),
        }
    }

    /// Waits in the calling thread, which drives no other session, for what is wanted, and takes notice.
    pub(crate) fn wait(&mut self, wanted: &Wanted) {
        if let Some(peer) = wanted.soon {
            return self.read_briefly(peer);
        }
        let woken = if wanted.sealed {
            let client = wanted.client.map(|interest| (self.client.fd(), interest));
            wait::wait(client, None, wanted.until)
        } else {
            stream::wait(
                wanted.client.map(|interest| (&self.client, interest)),
                self.server.as_ref().zip(wanted.server),
                wanted.until,
            )
        };
        self.ready(wanted, woken);
    }

    /// Its sockets are in no set any more.
    pub(crate) fn leave_sets(&mut self) {
        self.client.unregister();
        if let Some(server) = &mut self.server {
            server.unregister();
        }
    }

    /// Whether its request is on its way to a server, or waits for one.
    pub(crate) fn is_busy(&self) -> bool {
        match (self.session.phase(), &self.session.link) {
            (Phase::Idle, _) => false,
            (Phase::Serving, Some(link)) => !link.expected.is_empty(),
            _ => true,
        }
    }

    /// The time, as of its last turn.
    pub(crate) fn now(&self) -> MonotonicTime {
        self.session.now
    }

    /// Does all that can be done without waiting. Never blocks.
    pub(crate) fn advance(&mut self) -> Step {
        loop {
            match std::mem::take(&mut self.course) {
                Course::Serves => match self.turn() {
                    Ok(Some(wanted)) => return Step::Waits(wanted),
                    Ok(None) => {}
                    Err(close_reason) => self.stop_serving(close_reason),
                },
                Course::Moves(limit) => {
                    if self.is_being_cancelled() && limit > MonotonicTime::now() {
                        self.course = Course::Moves(limit);
                        return Step::Waits(Wanted::nothing_before(limit));
                    }
                    return Step::Moves;
                }
                Course::Closes(mut closing) => match self.close(&mut closing) {
                    Some(wanted) => {
                        self.course = Course::Closes(closing);
                        return Step::Waits(wanted);
                    }
                    None => return Step::Ends(closing.close_reason),
                },
            }
        }
    }

    pub(crate) fn stop_serving(&mut self, close_reason: CloseReason) {
        match close_reason {
            CloseReason::Moves => self.begin_to_move(),
            close_reason => self.begin_to_close(close_reason),
        }
    }

    /// Takes notice of how the wait for what was `wanted` has ended. Never blocks; [`Driver::advance`] comes next.
    pub(crate) fn ready(&mut self, wanted: &Wanted, woken: io::Result<Woken>) {
        self.session.now = MonotonicTime::now();
        match std::mem::take(&mut self.course) {
            Course::Serves => {
                if let Err(close_reason) = self.handle_wait_result(wanted, woken) {
                    self.stop_serving(close_reason);
                }
            }
            Course::Closes(mut closing) => {
                if let Ok(Woken::Ready { server, .. }) = woken {
                    self.server_is_ready_while_closing(&mut closing, server);
                }
                self.course = Course::Closes(closing);
            }
            moves @ Course::Moves(_) => self.course = moves,
        }
    }

    fn handle_wait_result(
        &mut self,
        wanted: &Wanted,
        woken: io::Result<Woken>,
    ) -> Result<(), CloseReason> {
        match woken {
            Ok(Woken::Interrupted) => {
                self.take_up_config();
                Ok(())
            }
            Ok(Woken::Deadline) => self.check_limits(),
            Ok(Woken::Ready { client, server }) => {
                if client.readable {
                    self.pace.note_read(Peer::Client, self.session.now);
                }
                if server.readable {
                    self.pace.note_read(Peer::Server, self.session.now);
                }
                self.on_server(server)?;
                let reads_client = wanted.client.is_some_and(|interest| interest.read);
                self.on_client(client, reads_client)
            }
            Err(error) => Err(CloseReason::Gone(error.to_string())),
        }
    }

    /// One round: does something, or says what is to be waited for.
    fn turn(&mut self) -> Result<Option<Wanted>, CloseReason> {
        self.check_signals()?;
        if let Some(how) = self.broken.take() {
            self.client_is_gone(&how)?;
        }
        let awaited = |link: &ServerLink| !link.expected.is_empty();
        let awaited = self.session.link.as_ref().is_some_and(awaited);
        // A copy that waits for the client has no reply any more.
        if self.violation.is_some() && (!awaited || self.session.is_copying_in()) {
            return Err(CloseReason::Violation(
                self.violation.take().unwrap_or_default(),
            ));
        }
        let mut until = None;
        match self.session.phase() {
            Phase::Queued(since) => {
                if self.look_into_queue(since)? {
                    return Ok(None);
                }
                until = Some(self.queue_deadline(since));
            }
            Phase::Returning => {
                self.return_connection();
                self.deliver(&[])?;
                return Ok(self.cancel_limit.map(Wanted::nothing_before));
            }
            _ => {}
        }
        if self.session.reads_client()
            && self.violation.is_none()
            && self.session.client.owed.is_empty()
            && !self.session.client.unread.is_empty()
            && !self.starved
        {
            let bytes = std::mem::take(&mut self.session.client.unread);
            return self.serve_client(Input::Growing(bytes)).map(|()| None);
        }
        if self.session.phase() == Phase::Serving {
            self.end_turn()?;
        }
        if self.has_served_all()? {
            return Err(match self.session.client_end {
                ClientEnd::Terminate => CloseReason::Left,
                _ => CloseReason::Closed,
            });
        }
        let reads_client = self.session.reads_client()
            && self.violation.is_none()
            && !self.session.client_end.is_read()
            && self.session.client.owed.is_empty();
        let client = Interest {
            read: reads_client,
            write: !self.session.client.owed.is_empty() || self.client.owes(),
            end_known: self.session.client_end != ClientEnd::Open,
        };
        let server = Interest {
            read: self.session.reads_server(),
            write: self
                .session
                .link
                .as_ref()
                .is_some_and(|link| !link.side.owed.is_empty())
                || self.server.as_ref().is_some_and(Stream::owes),
            end_known: false,
        };
        // While the pooler has something of its own to do on the server connection, which is soon over,
        // the client is not listened to, not even for whether it is still there: it may have left its
        // request and gone.
        let attends = matches!(self.session.phase(), Phase::Serving | Phase::Queued(_));
        let listens = !self.deaf && (client.read || client.write || attends);
        let limit = self.next_limit();
        self.handle_limit(limit)?;
        let soon = self.next_to_speak(client, server);
        let limit = limit.map(|(end, ..)| end);
        Ok(Some(Wanted {
            client: listens.then_some(client),
            // A socket of which nothing is wanted would still tell that it has closed, again and again.
            server: Some(server).filter(|server| *server != Interest::default()),
            until: limit.into_iter().chain(until).min(),
            soon,
            sealed: false,
        }))
    }

    /// The session may have nothing more to do on its server connection without a reply that says so: the
    /// client has brought a copy to its end that had failed before.
    fn end_turn(&mut self) -> Result<(), CloseReason> {
        self.session.end_turn(&mut self.out);
        match self.session.phase() {
            Phase::Returning => self.return_connection(),
            Phase::Cleaning => self.server_deadline = Some(self.session.now.after(CLEAN_LIMIT)),
            _ => {}
        }
        self.deliver(&[])
    }
}

#[cfg(test)]
pub(in crate::session) mod tests;
