//! The thread that drives a session: wait, read, step, write.
//!
//! All I/O of a logged-in session is here, and nothing of the protocol. The invariant: whenever this
//! thread waits, the session's value and its one or two sockets are all there is; and whatever way the
//! session ends, its server connection goes back clean or is closed.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use super::ending::Ending;
use super::house::{House, Stage};
use super::lend::{self, NotLent};
use super::registry::{Activity, Handle, told};
use super::relay::pieces::{Output, Pieces};
use super::relay::requests::Wants;
use super::session::{Phase, Session, Side};
use crate::net::buffer::{self, Buffer};
use crate::net::clock::Moment;
use crate::net::stream::{Received, Stream};
use crate::net::wait::{Interest, Readiness, Woken, wait};
use crate::pool::plan::Plan;
use crate::pool::pool::{Pool, Request};
use crate::pool::totals::Work;
use crate::server::backend::Connection;
use crate::server::cancel;
use crate::server::login::ConnectError;
use crate::wire::sqlstate;

/// How long a server connection may take to be cleaned after its client is gone, before it is closed.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

/// How long the pooler's own statements may take behind the back of a client that is there.
const CLEAN_LIMIT: Duration = Duration::from_secs(15);

/// How long the last words to a client may take to arrive.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// Slices written in one call; more are owed and follow.
const MOST_SLICES: usize = 64;

/// A session, its sockets, and those it deals with.
pub struct Driver {
    house: Arc<House>,
    handle: Arc<Handle>,
    pool: Arc<Pool>,
    /// The pool's plan, as far as this thread knows, and its version.
    plan: (u64, Arc<Plan>),
    session: Session,
    client: Stream,
    server: Option<Stream>,
    out: Output,
    /// The client's unread bytes were offered and are not enough.
    starved: bool,
    /// When a server connection that is being tried, set up or cleaned must have answered.
    server_deadline: Option<Moment>,
}

/// Bytes that were read, behind those left over from before.
enum Input {
    /// The usual case: nothing was left over, or little.
    Borrowed(Buffer, usize),
    /// A message that has to be taken whole is growing.
    Growing(Vec<u8>),
}

impl Input {
    fn bytes(&self) -> &[u8] {
        match self {
            Input::Borrowed(buffer, filled) => &buffer[..*filled],
            Input::Growing(bytes) => bytes,
        }
    }

    /// Reads from `stream` behind what `side` has unread. `None`: nothing came.
    fn read(side: &mut Side, stream: &Stream) -> Result<Option<Input>, Lost> {
        let kept = side.unread.len();
        let mut input = if kept < buffer::SIZE / 2 {
            let mut buffer = Buffer::borrow();
            buffer[..kept].copy_from_slice(&side.unread);
            Input::Borrowed(buffer, kept)
        } else {
            let mut bytes = std::mem::take(&mut side.unread);
            bytes.resize(kept + kept.max(buffer::SIZE), 0);
            Input::Growing(bytes)
        };
        let space = match &mut input {
            Input::Borrowed(buffer, _) => &mut buffer[kept..],
            Input::Growing(bytes) => &mut bytes[kept..],
        };
        let received = stream.receive(space);
        let came = match received {
            Ok(Received::Bytes(n)) => n,
            _ => 0,
        };
        match &mut input {
            Input::Borrowed(_, filled) => *filled = kept + came,
            Input::Growing(bytes) => bytes.truncate(kept + came),
        }
        match received {
            Ok(Received::Bytes(_)) => {
                side.unread.clear();
                Ok(Some(input))
            }
            other => {
                if let Input::Growing(bytes) = input {
                    side.unread = bytes;
                }
                match other {
                    Ok(Received::End) => Err(Lost("connection closed".into())),
                    Err(error) => Err(error.into()),
                    Ok(_) => Ok(None),
                }
            }
        }
    }

    /// Keeps what was not consumed for later.
    fn keep(self, consumed: usize, side: &mut Side) {
        match self {
            Input::Borrowed(buffer, filled) => {
                side.unread.extend_from_slice(&buffer[consumed..filled]);
            }
            Input::Growing(mut bytes) => {
                bytes.drain(..consumed);
                side.unread = bytes;
            }
        }
        if side.unread.is_empty() {
            side.unread = Vec::new();
        }
    }
}

/// A connection broke, and how.
struct Lost(String);

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Lost {
        Lost(error.to_string())
    }
}

impl Driver {
    /// A driver for a session whose client has been told ReadyForQuery.
    pub fn new(
        house: Arc<House>,
        handle: Arc<Handle>,
        pool: Arc<Pool>,
        session: Session,
        client: Stream,
    ) -> Driver {
        let plan = (0, pool.plan());
        Driver {
            house,
            handle,
            pool,
            plan,
            session,
            client,
            server: None,
            out: Output::default(),
            starved: false,
            server_deadline: None,
        }
    }

    /// Drives the session to its end and says how it ended.
    pub fn run(mut self) -> Ending {
        let ending = loop {
            if let Err(ending) = self.turn() {
                break ending;
            }
        };
        self.end(&ending);
        ending
    }

    /// One round: do what can be done without waiting, or wait once and do what that made possible.
    fn turn(&mut self) -> Result<(), Ending> {
        self.heed()?;
        if let Phase::Queued(since) = self.session.phase() {
            return self.wait_in_queue(since);
        }
        if self.session.reads_client()
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
        let reads_client = self.session.reads_client() && self.session.client.owed.is_empty();
        let client = Interest {
            read: reads_client,
            write: !self.session.client.owed.is_empty(),
        };
        let server = Interest {
            read: self.session.reads_server(),
            write: self
                .session
                .lent
                .as_ref()
                .is_some_and(|lent| !lent.side.owed.is_empty()),
        };
        // While the pooler has something of its own to do on the server connection, which is soon over,
        // the client is not listened to, not even for whether it is still there: it may have left its
        // request and gone.
        let listens = client != Interest::default() || self.session.phase() == Phase::Serving;
        let woken = wait(
            listens.then_some((self.client.fd(), client)),
            self.server.as_ref().map(|stream| (stream.fd(), server)),
            self.server_deadline,
        );
        match woken {
            Ok(Woken::Told) => Ok(()),
            Ok(Woken::Deadline) => self.lose_server("it did not answer in time"),
            Ok(Woken::Ready { client, server }) => {
                self.on_server(server)?;
                self.on_client(client, reads_client)
            }
            Err(error) => Err(Ending::Gone(error.to_string())),
        }
    }

    /// The session may have nothing more to do on its server connection without a reply that says so: the
    /// client has brought a copy to its end that had failed before.
    fn end_turn(&mut self) -> Result<(), Ending> {
        self.session.end_turn(&mut self.out);
        match self.session.phase() {
            Phase::Returning => self.return_connection(),
            Phase::Cleaning => self.server_deadline = Some(Moment::now().after(CLEAN_LIMIT)),
            _ => {}
        }
        self.deliver(&[])
    }

    /// Does what the session was told.
    fn heed(&mut self) -> Result<(), Ending> {
        let flags = self.handle.told();
        if flags == 0 {
            return Ok(());
        }
        self.handle.heeded(told::CANCELLED);
        if flags & told::STOP != 0 {
            return Err(Ending::Stopped);
        }
        if flags & told::CUT != 0 {
            return Err(Ending::Drained);
        }
        if flags & (told::DRAIN | told::REMOVED) != 0 && self.is_between_transactions() {
            return Err(if flags & told::DRAIN != 0 {
                Ending::Drained
            } else {
                Ending::PoolRemoved
            });
        }
        Ok(())
    }

    fn is_between_transactions(&self) -> bool {
        let at_rest = match &self.session.lent {
            None => self.session.phase() == Phase::Idle && self.session.client.unread.is_empty(),
            Some(lent) => {
                self.session.phase() == Phase::Serving
                    && lent.expected.is_empty()
                    && !lent.batch_open
                    && !lent.backend.in_transaction()
            }
        };
        at_rest && self.session.client.frame.left == 0 && self.session.client.owed.is_empty()
    }

    fn on_client(&mut self, ready: Readiness, reads: bool) -> Result<(), Ending> {
        if ready.writable {
            self.write_owed_to_client()?;
        }
        if ready.readable && reads && self.session.reads_client() {
            match Input::read(&mut self.session.client, &self.client) {
                Ok(Some(input)) => return self.serve_client(input),
                Ok(None) => {}
                Err(Lost(how)) => return Err(Ending::Gone(how)),
            }
        } else if ready.hung_up && !reads {
            // Its last words may still be unread, but nobody is there to hear the answer.
            return Err(Ending::Gone("connection closed".into()));
        }
        Ok(())
    }

    fn on_server(&mut self, ready: Readiness) -> Result<(), Ending> {
        if ready.writable
            && let (Some(lent), Some(stream)) = (&mut self.session.lent, &self.server)
            && let Err(error) = write_owed(stream, &mut lent.side.owed)
        {
            // What it said last is still to be read.
            if !ready.readable {
                return self.lose_server(&error.to_string());
            }
        }
        if (ready.readable || ready.hung_up) && self.session.reads_server() {
            return self.serve_server();
        }
        Ok(())
    }

    /// Steps over what the client sent, taking a server connection when one is needed.
    fn serve_client(&mut self, input: Input) -> Result<(), Ending> {
        let mut consumed = 0;
        let outcome = loop {
            let rest = &input.bytes()[consumed..];
            let step = self
                .session
                .take_from_client(rest, &self.house.statements, &mut self.out);
            let (n, wants) = match step {
                Ok(step) => step,
                Err(violation) => break Err(Ending::Violation(violation.0)),
            };
            let delivered = self.deliver(&input.bytes()[consumed..]);
            consumed += n;
            if let Err(ending) = delivered {
                break Err(ending);
            }
            match wants {
                Wants::More => {
                    self.starved = self.session.reads_client();
                    break Ok(());
                }
                Wants::End => break Err(Ending::Left),
                Wants::Server => match self.take_server_at_once() {
                    Ok(true) => {}
                    Ok(false) => break Ok(()),
                    Err(ending) => break Err(ending),
                },
            }
        };
        input.keep(consumed, &mut self.session.client);
        outcome
    }

    /// Takes a server connection if one lies idle; true if it serves at once. Else the session is queued
    /// or tunes.
    fn take_server_at_once(&mut self) -> Result<bool, Ending> {
        self.starved = false;
        self.refresh_plan()?;
        match lend::obtain_at_once(&self.pool, &self.handle.waiter) {
            Ok(Some(connection)) => {
                self.lend(connection)?;
                Ok(self.session.phase() == Phase::Serving)
            }
            Ok(None) => {
                self.handle.queued();
                self.session.enter(Phase::Queued(Moment::now()));
                Ok(false)
            }
            Err(why) => Err(self.without_server(&why)),
        }
    }

    /// Takes notice of a new plan, or of the pool's end.
    fn refresh_plan(&mut self) -> Result<(), Ending> {
        if let Some(plan) = self.pool.plan_unless(self.plan.0) {
            self.plan = plan;
            if self.pool.is_closed() {
                self.find_pool()?;
            }
        }
        Ok(())
    }

    /// The pool was removed; it may have come back under the same name.
    fn find_pool(&mut self) -> Result<(), Ending> {
        self.pool = self
            .house
            .pools
            .find(&self.session.database, &self.session.user)
            .ok_or(Ending::PoolRemoved)?;
        self.plan = (0, self.pool.plan());
        Ok(())
    }

    fn wait_in_queue(&mut self, since: Moment) -> Result<(), Ending> {
        let deadline = since.after(self.plan.1.query_wait_timeout);
        let told_to_leave = told::STOP | told::CUT | told::CANCEL;
        let (handle, client) = (Arc::clone(&self.handle), &self.client);
        let look_up = || handle.told() & told_to_leave != 0 || client.has_ended();
        match lend::wait(&self.pool, &self.handle.waiter, deadline, &look_up) {
            Ok(connection) => {
                let waited = since.elapsed();
                self.session.work.wait_micros +=
                    u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
                if waited >= Duration::from_millis(500) {
                    log::warn!(
                        "{} slow checkout: {waited:?} pid={}",
                        self.session.tag(),
                        connection.backend.key.process_id
                    );
                }
                self.lend(connection)
            }
            Err(NotLent::Told) => {
                self.handle.at_rest();
                self.session.enter(Phase::Idle);
                if self.client.has_ended() {
                    return Err(Ending::Gone("connection closed".into()));
                }
                if self.handle.told() & told::CANCEL != 0 {
                    self.handle.heeded(told::CANCEL);
                    return self.refuse_request();
                }
                Ok(())
            }
            Err(NotLent::Closed) if self.find_pool().is_ok() => {
                self.session.enter(Phase::Idle);
                Ok(())
            }
            Err(why) => Err(self.without_server(&why)),
        }
    }

    /// The client has cancelled a request that waited in the queue.
    fn refuse_request(&mut self) -> Result<(), Ending> {
        self.session.refuse_request(
            sqlstate::QUERY_CANCELED,
            "canceling statement due to user request",
            &mut self.out,
        );
        self.deliver(&[])
    }

    fn without_server(&self, why: &NotLent) -> Ending {
        let code = match why {
            NotLent::Failed(error) if matches!(**error, ConnectError::OutOfDescriptors(_)) => {
                sqlstate::INSUFFICIENT_RESOURCES
            }
            NotLent::Closed => return Ending::PoolRemoved,
            _ => sqlstate::TOO_MANY_CONNECTIONS,
        };
        Ending::NoServer(no_server(why), code)
    }

    /// The session gets a server connection.
    fn lend(&mut self, connection: Connection) -> Result<(), Ending> {
        let plan = Arc::clone(&self.plan.1);
        let Connection { backend, stream } = connection;
        let check = plan
            .idle_check
            .is_some_and(|limit| backend.used_at.elapsed() > limit);
        self.handle.running(&backend.key);
        self.session
            .take_connection(backend, (&*plan).into(), check, &mut self.out);
        self.server = Some(stream);
        if self.session.phase() == Phase::Tuning {
            self.server_deadline = Some(Moment::now().after(plan.connect_timeout));
        }
        self.deliver(&[])
    }

    fn serve_server(&mut self) -> Result<(), Ending> {
        let (Some(lent), Some(stream)) = (&mut self.session.lent, &self.server) else {
            return Ok(());
        };
        let input = match Input::read(&mut lent.side, stream) {
            Ok(Some(input)) => input,
            Ok(None) => return Ok(()),
            Err(Lost(how)) => return self.lose_server(&how),
        };
        let before = self.session.phase();
        let step = self.session.take_from_server(input.bytes(), &mut self.out);
        let consumed = match step {
            Ok(consumed) => consumed,
            Err(desync) => return Err(Ending::ServerConfused(desync.0)),
        };
        if let Some(lent) = &mut self.session.lent {
            let received = &lent.backend.key.tally.bytes_received;
            received.add(input.bytes().len() as u64);
        }
        // The connection goes back before the client, who may be slow, gets its reply.
        let give_back = self.session.phase() == Phase::Returning;
        if give_back {
            self.return_connection();
        }
        let delivered = self.deliver(input.bytes());
        if let Some(lent) = &mut self.session.lent {
            input.keep(consumed, &mut lent.side);
        }
        delivered?;
        match (before, self.session.phase()) {
            (Phase::Tuning, Phase::Serving) => self.server_deadline = None,
            (Phase::Serving, Phase::Cleaning) => {
                self.server_deadline = Some(Moment::now().after(CLEAN_LIMIT));
            }
            _ => {}
        }
        if self.session.rests_with_server() {
            let work = self.take_work();
            self.pool.add_work(&work);
        }
        self.attend_to_spoiled()
    }

    /// A statement of the pooler's own has failed.
    fn attend_to_spoiled(&mut self) -> Result<(), Ending> {
        let Some(lent) = &mut self.session.lent else {
            return Ok(());
        };
        let Some(why) = lent.spoiled.take_if(|_| lent.expected.is_empty()) else {
            return Ok(());
        };
        if self.session.phase() == Phase::Cleaning {
            return self.lose_server(&why);
        }
        Err(Ending::SettingsRefused(why))
    }

    /// The server connection is of no more use. What that means for the client depends on what it was
    /// doing.
    fn lose_server(&mut self, how: &str) -> Result<(), Ending> {
        let phase = self.session.phase();
        let ended = self.session.lent.as_ref().is_some_and(|lent| lent.ended);
        match phase {
            // Nothing of the client's has been sent on it: take another.
            Phase::Tuning if !self.session.abandoned && !self.session.has_served() => {
                self.write_off(how);
                self.session.enter(Phase::Queued(Moment::now()));
                self.handle.queued();
                match self.pool.request_again(&self.handle.waiter) {
                    Ok(Request::Met(connection)) => self.lend(connection),
                    Ok(Request::Queued) => Ok(()),
                    Err(why) => Err(self.without_server(&why.into())),
                }
            }
            // The client has its reply already.
            Phase::Cleaning | Phase::Returning => {
                self.write_off(how);
                Ok(())
            }
            _ if ended => Err(Ending::ServerLeft),
            _ => Err(Ending::ServerLost(how.to_owned())),
        }
    }

    /// Gives the clean connection back to its pool.
    fn return_connection(&mut self) {
        if self.handle.at_rest() {
            // A CancelRequest is on its way to this backend. Nobody else may get it before it has
            // arrived.
            self.await_cancel();
            return;
        }
        self.server_deadline = None;
        let (Some(backend), Some(stream)) = (self.session.give_up_connection(), self.server.take())
        else {
            return;
        };
        let work = self.take_work();
        self.pool.give_back(Connection { backend, stream }, &work);
    }

    fn await_cancel(&mut self) {
        let Some(key) = self
            .session
            .lent
            .as_ref()
            .map(|lent| Arc::clone(&lent.backend.key))
        else {
            return;
        };
        let deadline = Moment::now().after(SETTLE_LIMIT);
        while key.is_being_cancelled() && deadline > Moment::now() {
            let _ = wait(None, None, Some(deadline));
        }
        if key.is_being_cancelled() {
            self.write_off("a cancel request is stuck on its way to it");
        } else {
            // The signal has been sent; one round trip later it has been taken notice of.
            self.session.clean_once_more(&mut self.out);
            self.server_deadline = Some(Moment::now().after(SETTLE_LIMIT));
        }
    }

    /// Closes the server connection and tells the pool.
    fn write_off(&mut self, why: &str) {
        self.server_deadline = None;
        self.out.server.clear();
        self.handle.at_rest();
        let Some(backend) = self.session.give_up_connection() else {
            return;
        };
        let Some(stream) = self.server.take() else {
            return;
        };
        Connection { backend, stream }.close(why);
        let work = self.take_work();
        self.pool.write_off(&work);
    }

    /// Writes what the last step wants written; what does not fit is owed.
    fn deliver(&mut self, input: &[u8]) -> Result<(), Ending> {
        if !self.out.server.is_empty() {
            match (&mut self.session.lent, &self.server) {
                (Some(lent), Some(stream)) => {
                    let sent = write_pieces(stream, &mut self.out.server, input, &mut lent.side);
                    match sent {
                        Ok(n) => {
                            lent.backend.key.tally.bytes_sent.add(n);
                            self.session.work.received += n;
                        }
                        // It may have said why before it closed: that is read next.
                        Err(_) => self.out.server.clear(),
                    }
                }
                _ => self.out.server.clear(),
            }
        }
        if !self.out.client.is_empty() {
            let side = &mut self.session.client;
            match write_pieces(&self.client, &mut self.out.client, input, side) {
                Ok(n) => self.session.work.sent += n,
                Err(error) => {
                    self.out.client.clear();
                    return Err(Ending::Gone(error.to_string()));
                }
            }
        }
        Ok(())
    }

    fn write_owed_to_client(&mut self) -> Result<(), Ending> {
        write_owed(&self.client, &mut self.session.client.owed)
            .map_err(|error| Ending::Gone(error.to_string()))
    }

    /// What the session has done since the pool was last told; the handle is told here.
    fn take_work(&mut self) -> Work {
        let work = std::mem::take(&mut self.session.work);
        let handle = &self.handle;
        handle.transactions.add(work.transactions);
        handle.queries.add(work.queries);
        handle.errors.add(work.errors);
        work
    }

    /// Ends the session: the client's last words go out, the server connection is settled, and then the
    /// client's side is closed so that the words arrive.
    fn end(mut self, ending: &Ending) {
        if self.session.phase() != Phase::Idle && self.session.lent.is_none() {
            self.session.enter(Phase::Idle);
        }
        let mut words = std::mem::take(&mut self.session.client.owed);
        let reachable = !matches!(ending, Ending::Gone(_));
        if reachable && self.session.client_is_between_messages() {
            words.extend_from_slice(&ending.message());
        }
        if reachable && !words.is_empty() {
            if let Ok(n) = self.client.send(&words) {
                words.drain(..n);
            }
        }
        self.settle_server(ending);
        let work = self.take_work();
        self.pool.add_work(&work);
        self.handle.show(Activity::Idle);
        if reachable {
            self.client.finish(&words, LAST_WORDS_LIMIT);
        }
    }

    /// Brings the server connection back to its pool, or closes it.
    fn settle_server(&mut self, ending: &Ending) {
        if self.server.is_none() {
            return;
        }
        self.out.client.clear();
        let usable = !matches!(
            ending,
            Ending::ServerLeft
                | Ending::ServerLost(_)
                | Ending::ServerConfused(_)
                | Ending::SettingsRefused(_)
        );
        if !usable || !self.session.abandon(&mut self.out) {
            let running = self
                .session
                .lent
                .as_ref()
                .is_some_and(|lent| !lent.expected.is_empty());
            if usable && running {
                self.cancel_own_query();
            }
            return self.write_off(&ending.to_string());
        }
        // Who said good-bye wants what it asked for to be done; who vanished does not.
        let patient = matches!(ending, Ending::Left) && self.house.stage() == Stage::Open;
        if self.deliver(&[]).is_err() {
            return self.write_off("it could not be written to");
        }
        let running = self
            .session
            .lent
            .as_ref()
            .is_some_and(|lent| !lent.expected.is_empty());
        if running && !patient && self.session.phase() == Phase::Serving {
            self.cancel_own_query();
        }
        let limit = Moment::now().after(SETTLE_LIMIT);
        let deadline = if patient { None } else { Some(limit) };
        while self.server.is_some() {
            if self.session.phase() == Phase::Returning {
                self.return_connection();
                if self.deliver(&[]).is_err() {
                    return self.write_off("it could not be written to");
                }
                continue;
            }
            let Some(stream) = &self.server else { return };
            let owes = self
                .session
                .lent
                .as_ref()
                .is_some_and(|lent| !lent.side.owed.is_empty());
            let interest = Interest {
                read: true,
                write: owes,
            };
            let until = match (self.server_deadline, deadline) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            match wait(None, Some((stream.fd(), interest)), until) {
                Ok(Woken::Told) if self.handle.told() & (told::STOP | told::CUT) == 0 => {}
                Ok(Woken::Ready { server, .. }) => {
                    if self.on_server(server).is_err() {
                        return self.write_off("it was lost while it was being cleaned");
                    }
                }
                Ok(Woken::Told | Woken::Deadline) | Err(_) => {
                    return self.write_off("it could not be cleaned in time");
                }
            }
        }
    }

    /// Cancels what the session's own client left running.
    fn cancel_own_query(&mut self) {
        let Some(lent) = &self.session.lent else {
            return;
        };
        let key = Arc::clone(&lent.backend.key);
        let sockets = self.plan.1.sockets;
        if let Err(error) = cancel::send(&key, &sockets, SETTLE_LIMIT) {
            log::warn!(
                "{} could not cancel the query of a client that is gone, pid={}: {error}",
                self.session.tag(),
                key.process_id
            );
        }
    }
}

/// What a client is told when no server connection is to be had.
pub fn no_server(why: &NotLent) -> String {
    let cause = match why {
        NotLent::TimedOut => {
            "Timeout occurred while waiting free connection from pool (query_wait_timeout)".to_owned()
        }
        NotLent::Failed(error) => match &**error {
            ConnectError::OutOfDescriptors(_) => {
                return format!(
                    "Connection pooler local resource exhausted: {error}. Please try again later."
                );
            }
            ConnectError::TimedOut => {
                "Timeout occurred while creating a new connection to postgresql (postgresql_login_timeout)"
                    .to_owned()
            }
            error => format!(
                "Error occurred while creating a new connection to postgresql (postgresql_login_error): {error}"
            ),
        },
        NotLent::Closed => "the pool was removed".to_owned(),
        NotLent::Told => "interrupted".to_owned(),
    };
    format!(
        "Could not get a database connection from the pool. All servers may be busy or down. Error details: {cause}. Please try again later."
    )
}

/// Writes pieces behind what is owed already; true bytes written are returned.
fn write_pieces(
    stream: &Stream,
    pieces: &mut Pieces,
    input: &[u8],
    side: &mut Side,
) -> io::Result<u64> {
    let mut written = 0;
    if side.owed.is_empty() {
        written = match pieces.single(input) {
            Some(slice) => stream.send(slice)?,
            None => {
                let mut slices = [IoSlice::new(&[]); MOST_SLICES];
                let mut count = 0;
                for (place, slice) in slices.iter_mut().zip(pieces.slices(input)) {
                    *place = slice;
                    count += 1;
                }
                stream.send_pieces(&slices[..count])?
            }
        };
    }
    let owed_before = side.owed.len();
    pieces.settle(input, written, &mut side.owed);
    Ok((written + side.owed.len() - owed_before) as u64)
}

fn write_owed(stream: &Stream, owed: &mut Vec<u8>) -> io::Result<()> {
    let n = stream.send(owed)?;
    if n == owed.len() {
        *owed = Vec::new();
    } else {
        owed.drain(..n);
    }
    Ok(())
}
