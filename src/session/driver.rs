//! The thread that drives a session: wait, read, step, write.
//!
//! All I/O of a logged-in session is here, and nothing of the protocol. The invariant: whenever this
//! thread waits, the session's value and its one or two sockets are all there is; and whatever way the
//! session ends, its server connection goes back clean or is closed.

use std::sync::Arc;
use std::time::Duration;

use super::brief_read::{Pace, Peer};
use super::checkout::{Checkout, GivenBack, Spare};
use super::client::DetachedSession;
use super::close_reason::CloseReason;
use super::io::{Input, Lost, write_owed, write_pieces};
use super::limits::Progress;
use super::memory::MemoryShare;
use super::registry::Handle;
use super::shared::Shared;
use super::suspend::Stop;
use crate::net::clock::MonotonicTime;
use crate::net::stream::{Stream, wait};
use crate::net::wait::{Interest, Readiness, Woken};
use crate::pool::pool_config::PoolConfig;
use crate::pool::totals::Counters;
use crate::relay::client_end::ClientEnd;
use crate::relay::output::Output;
use crate::relay::requests::Wants;
use crate::relay::session::{Phase, ServerLink, Session};

/// How long a server connection may take to be cleaned after its client is gone, before it is closed.
pub(crate) const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How long the pooler's own statements may take behind the back of a client that is there.
pub(crate) const CLEAN_LIMIT: Duration = Duration::from_secs(15);

/// A session, its sockets, and those it deals with.
pub struct Driver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) handle: Arc<Handle>,
    /// What the session has of its pool.
    pub(crate) checkout: Checkout,
    /// The pool's plan, as far as this thread knows, and its version.
    pub(crate) config: (u64, Arc<PoolConfig>),
    pub(crate) session: Box<Session>,
    pub(crate) client: Stream,
    pub(crate) server: Option<Stream>,
    pub(crate) out: Output,
    /// The client's unread bytes were offered and are not enough.
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
    /// How the client takes what it is owed, and sends half a message.
    pub(crate) client_progress: Progress,
    /// How the server takes a request.
    pub(crate) server_progress: Progress,
    /// When it was last looked whether the peers' hosts acknowledge what they are sent.
    pub(crate) looked_at_hosts: MonotonicTime,
    /// How soon its peers speak.
    pub(crate) pace: Pace,
    /// Nobody has looked yet whether the client has spoken.
    fresh: bool,
    /// When it was heard to have spoken, while that is not read.
    pub(crate) spoke: Option<MonotonicTime>,
    /// It waited for a thread to ask something, and others may: what the thread has of one session's server
    /// connection is of use to the next.
    pub(crate) takes_turns: bool,
    /// What has become of the server connection that was used last, by this session or the one before.
    pub(crate) given_back: GivenBack,
    /// What the client's unfinished message takes.
    pub(crate) unfinished: MemoryShare,
}

impl Driver {
    /// A driver for a session from wherever it stands.
    pub(crate) fn new(
        shared: Arc<Shared>,
        handle: Arc<Handle>,
        detached: DetachedSession,
        pace: Pace,
        spare: Option<Spare>,
    ) -> Driver {
        handle.driven_here();
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
            client_progress: Progress::default(),
            server_progress: Progress::default(),
            looked_at_hosts: MonotonicTime::now(),
            pace,
            fresh: true,
            takes_turns: detached.spoke.is_some(),
            spoke: detached.spoke,
            given_back: spare.map_or(GivenBack::Free, GivenBack::Kept),
        }
    }

    /// Drives the session until it ends, is told to move, or is silent: then it is given back as it stands.
    pub(crate) fn run(mut self) -> Stop {
        loop {
            let close_reason = match self.turn() {
                Ok(()) => continue,
                Err(CloseReason::Sleeps) => return self.go_idle(),
                Err(close_reason) => close_reason,
            };
            // What follows may take a while, and others need what was kept.
            self.given_back = GivenBack::Free;
            match close_reason {
                CloseReason::Moves => return Stop::HandOver(self.detach()),
                close_reason => {
                    self.end(&close_reason);
                    return Stop::Closed(close_reason);
                }
            }
        }
    }

    /// One round: do what can be done without waiting, or wait once and do what that made possible.
    fn turn(&mut self) -> Result<(), CloseReason> {
        self.check_signals()?;
        if let Some(how) = self.broken.take() {
            self.client_is_gone(&how)?;
        }
        if matches!(self.given_back, GivenBack::Kept(_)) && !self.is_silent() {
            // Nobody waits with a server connection that others need.
            self.given_back = GivenBack::Free;
        }
        let awaited = |link: &ServerLink| !link.expected.is_empty();
        let awaited = self.session.link.as_ref().is_some_and(awaited);
        // A copy that waits for the client has no reply any more.
        if self.violation.is_some() && (!awaited || self.session.is_copying_in()) {
            return Err(CloseReason::Violation(
                self.violation.take().unwrap_or_default(),
            ));
        }
        if let Phase::Queued(since) = self.session.phase() {
            return self.wait_in_queue(since);
        }
        if self.session.reads_client()
            && self.violation.is_none()
            && self.session.client.owed.is_empty()
            && !self.session.client.unread.is_empty()
            && !self.starved
        {
            let bytes = std::mem::take(&mut self.session.client.unread);
            return self.serve_client(Input::Growing(bytes));
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
        let listens =
            !self.deaf && (client.read || client.write || self.session.phase() == Phase::Serving);
        let limit = self.next_limit();
        self.heed_limit(limit)?;
        if let Some(peer) = self.next_to_speak(client, server) {
            return self.read_briefly(peer);
        }
        if self.is_silent() {
            if std::mem::take(&mut self.fresh) {
                return self.look_at_client();
            }
            self.check_limits()?;
            return Err(CloseReason::Sleeps);
        }
        let woken = wait(
            listens.then_some((&self.client, client)),
            // A socket of which nothing is wanted would still tell that it has closed, again and again.
            self.server
                .as_ref()
                .filter(|_| server != Interest::default())
                .map(|stream| (stream, server)),
            limit.map(|(end, ..)| end),
        );
        self.session.now = MonotonicTime::now();
        match woken {
            Ok(Woken::Interrupted) => {
                self.take_up_plan();
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
                self.on_client(client, reads_client)
            }
            Err(error) => Err(CloseReason::Gone(error.to_string())),
        }
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

    fn on_client(&mut self, ready: Readiness, reads: bool) -> Result<(), CloseReason> {
        if ready.writable {
            self.write_owed_to_client();
        }
        if ready.readable && reads && self.session.reads_client() {
            let read = Input::read(&mut self.session.client, &mut self.client);
            return self.hear_client(read);
        } else if ready.gone && !reads {
            return self.client_is_gone("connection closed");
        } else if ready.hung_up && !reads {
            self.client_has_ended();
        }
        Ok(())
    }

    pub(crate) fn hear_client(
        &mut self,
        read: Result<Option<Input>, Lost>,
    ) -> Result<(), CloseReason> {
        match read {
            Ok(Some(input)) => {
                self.session.active_at = self.session.now;
                self.serve_client(input)
            }
            Ok(None) => Ok(()),
            Err(Lost::Ended) => {
                self.note_end_of_stream();
                Ok(())
            }
            Err(Lost::Broken(error)) => self.client_is_gone(&error.to_string()),
        }
    }

    pub(crate) fn on_server(&mut self, ready: Readiness) -> Result<(), CloseReason> {
        if ready.writable {
            let written = match (&mut self.session.link, &mut self.server) {
                (Some(link), Some(stream)) => write_owed(stream, &mut link.side.owed),
                _ => Ok(()),
            };
            match written {
                // What it said last is still to be read.
                Err(error) if !ready.readable => return self.lose_server(&error.to_string()),
                _ => {}
            }
        }
        if (ready.readable || ready.hung_up) && self.session.reads_server() {
            if let (Some(link), Some(stream)) = (&mut self.session.link, &mut self.server) {
                let read = Input::read(&mut link.side, stream);
                return self.hear_server(read);
            }
        }
        Ok(())
    }

    pub(crate) fn hear_server(
        &mut self,
        read: Result<Option<Input>, Lost>,
    ) -> Result<(), CloseReason> {
        match read {
            Ok(Some(input)) => {
                self.session.active_at = self.session.now;
                self.serve_server(input)
            }
            Ok(None) => Ok(()),
            Err(lost) => self.lose_server(&lost.to_string()),
        }
    }

    /// Steps over what the client sent, taking a server connection when one is needed.
    fn serve_client(&mut self, input: Input) -> Result<(), CloseReason> {
        let mut consumed = 0;
        let outcome = loop {
            let rest = &input.bytes()[consumed..];
            let step = self
                .session
                .take_from_client(rest, &self.shared.statements, &mut self.out);
            let (n, wants) = match step {
                Ok(step) => step,
                Err(violation) => {
                    // What was sent before is a request like any other and gets its reply first.
                    let delivered = self.deliver(rest);
                    consumed = input.bytes().len();
                    self.violation = Some(violation.0);
                    break delivered;
                }
            };
            let delivered = self.deliver(&input.bytes()[consumed..]);
            consumed += n;
            if let Err(close_reason) = delivered {
                break Err(close_reason);
            }
            match wants {
                Wants::More => {
                    self.starved = self.session.reads_client();
                    break Ok(());
                }
                Wants::End => {
                    consumed = input.bytes().len();
                    self.session.client_end = ClientEnd::Terminate;
                    break Ok(());
                }
                Wants::Server => match self.answer_check(&input.bytes()[consumed..]) {
                    Ok(0) => match self.take_server_at_once() {
                        Ok(true) => {}
                        Ok(false) => break Ok(()),
                        Err(close_reason) => break Err(close_reason),
                    },
                    Ok(n) => consumed += n,
                    Err(close_reason) => break Err(close_reason),
                },
            }
        };
        input.keep(consumed, &mut self.session.client);
        outcome?;
        self.count_unfinished()
    }

    /// Takes account of what the client's unfinished message takes, and refuses what is too much.
    pub(crate) fn count_unfinished(&mut self) -> Result<(), CloseReason> {
        let Some(sum) = self.unfinished.set(self.session.client.unread.len()) else {
            return Ok(());
        };
        match self.shared.settings().general.max_memory_usage {
            Some(limit) if sum > limit => Err(CloseReason::OutOfMemory(limit)),
            _ => Ok(()),
        }
    }

    /// Steps over what the server sent.
    fn serve_server(&mut self, input: Input) -> Result<(), CloseReason> {
        let before = self.session.phase();
        let unread = self.session.client.unread.len();
        let step =
            self.session
                .take_from_server(input.bytes(), &self.shared.statements, &mut self.out);
        // A request may be taken up again.
        self.starved &= self.session.client.unread.len() == unread;
        let consumed = match step {
            Ok(consumed) => consumed,
            Err(desync) => {
                let delivered = self.deliver(input.bytes());
                if std::mem::take(&mut self.session.elsewhere) {
                    self.starved = false;
                    self.discard(&desync.0);
                    return delivered;
                }
                return Err(CloseReason::ServerConfused(desync.0));
            }
        };
        if let Some(link) = &mut self.session.link {
            let received = &link.backend.key.tally.bytes_received;
            received.add(input.bytes().len() as u64);
        }
        self.keep_check_answer();
        // The connection goes back before the client, who may be slow, gets its reply.
        let give_back = self.session.phase() == Phase::Returning;
        if give_back {
            self.return_connection();
        }
        let delivered = self.deliver(input.bytes());
        if let Some(link) = &mut self.session.link {
            input.keep(consumed, &mut link.side);
        }
        delivered?;
        match (before, self.session.phase()) {
            (Phase::Preparing, Phase::Serving) => self.server_deadline = None,
            (Phase::Serving, Phase::Cleaning) => {
                self.server_deadline = Some(MonotonicTime::now().after(CLEAN_LIMIT));
            }
            _ => {}
        }
        if self.session.rests_with_server() {
            let work = self.take_work();
            self.checkout.pool().add_work(&work);
        }
        self.handle_setup_error()
    }

    /// Writes what the last step wants written; what does not fit is owed.
    pub(crate) fn deliver(&mut self, input: &[u8]) -> Result<(), CloseReason> {
        if !self.out.server.is_empty() {
            match (&mut self.session.link, &mut self.server) {
                (Some(link), Some(stream)) => {
                    let sent = write_pieces(stream, &mut self.out.server, input, &mut link.side);
                    match sent {
                        Ok(n) => {
                            link.backend.key.tally.bytes_sent.add(n);
                            self.session.work.received += n;
                        }
                        // It may have said why before it closed: that is read next.
                        Err(_) => self.out.server.clear(),
                    }
                }
                _ => self.out.server.clear(),
            }
        }
        if self.deaf || self.untold && !self.session.skips_to_sync() {
            self.out.client.clear();
        }
        if !self.out.client.is_empty() {
            let side = &mut self.session.client;
            match write_pieces(&mut self.client, &mut self.out.client, input, side) {
                Ok(n) => self.session.work.sent += n,
                Err(error) => {
                    self.out.client.clear();
                    self.deaf = true;
                    self.broken = Some(error.to_string());
                }
            }
        }
        Ok(())
    }

    fn write_owed_to_client(&mut self) {
        if let Err(error) = write_owed(&mut self.client, &mut self.session.client.owed) {
            self.deaf = true;
            self.broken = Some(error.to_string());
        }
    }

    /// What the session has done since the pool was last told; the handle is told here.
    pub(crate) fn take_work(&mut self) -> Counters {
        let work = std::mem::take(&mut self.session.work);
        let handle = &self.handle;
        handle.transactions.add(work.transactions);
        handle.queries.add(work.queries);
        handle.errors.add(work.errors);
        work
    }
}
