//! A prepared statement whose plan has become stale: its result has changed its type since it was parsed,
//! because somebody has altered a table, and PostgreSQL refuses to run it until it is parsed anew
//! (`RevalidateCachedQuery`, 0A000 "cached plan must not change result type").
//!
//! A client that has just parsed its statement, or asks what its result is, must not get that error: the
//! stale statement is on the server because other clients prepared it. Its request is taken up again with the
//! statement parsed anew. A client that runs what it prepared before gets it, as it would from
//! PostgreSQL: it knows the result as it was then, and there are drivers that crash on rows which are
//! otherwise, even if they have PostgreSQL describe them. In any case the stale statement is used no
//! more, on no server connection and by no client. A client that prepares it anew is served.
//!
//! Which of its statements a client has described before the change and which after it is not known here:
//! one that it has described anew on one server connection may still be refused once on another.
//!
//! So it is where a Parse was answered by what the server had, and an error comes that may be of another
//! definition of a table, a type or a function than was analysed: the statement is analysed anew, and if that
//! behaves differently nobody uses the old one any more.
//!
//! The invariant: a request is taken up again only if nothing of it has been run, nothing behind it has
//! been sent, and no reply is given twice.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::expected::{Deliver, Expected, Refusal, Reply};
use super::names::key;
use super::output::Output;
use super::session::{Phase, ServerLink, Session};
use super::shared_statements::SharedStatements;
use crate::server::prepared::Statement;
use crate::wire::error::ErrorFields;
use crate::wire::frame::{self, HEADER};
use crate::wire::{frontend, sqlstate};

/// The most bytes of a batch that are kept to be sent again.
const MAX_KEPT: usize = 16 * 1024;

/// What PostgreSQL says when it finds a plan stale, and where in its source.
const WORDS: &str = "cached plan must not change result type";
const ROUTINE: &str = "RevalidateCachedQuery";

/// The batch under way as the client sent it, to be sent again.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ReplayBuffer {
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
    /// The bytes are all of the batch so far, and nothing else is under way.
    whole: bool,
    /// The numbers of the statements whose Parse in it was answered by what the server had.
    #[serde(default)]
    from_memory: Vec<u64>,
}

/// A statement that was parsed anew because the one which a Parse was answered by has failed: has its definition
/// changed past the pooler, or has the client made an error?
#[derive(Debug)]
pub struct Doubt {
    /// The client's name.
    name: Vec<u8>,
    /// What the Parse was answered by.
    old: Arc<Statement>,
    fresh: Arc<Statement>,
    /// What PostgreSQL said of the old one.
    code: String,
    message: String,
}

impl ReplayBuffer {
    /// A batch begins; `alone` if nothing else is under way and no transaction block is open.
    pub fn begin(&mut self, alone: bool) {
        self.bytes.clear();
        self.from_memory.clear();
        self.whole = alone;
    }

    /// Adds a message of the batch.
    pub fn add(&mut self, message: &[u8]) {
        if self.whole && self.bytes.len() + message.len() <= MAX_KEPT {
            self.bytes.extend_from_slice(message);
        } else {
            self.whole = false;
        }
    }

    /// The Parse that is added next is answered by this statement.
    pub fn answers_from_memory(&mut self, number: u64) {
        if self.whole {
            self.from_memory.push(number);
        }
    }

    /// Gives up: something is under way that cannot be sent again.
    pub fn give_up(&mut self) {
        self.whole = false;
    }

    /// The messages: where each begins, its kind and its body.
    fn messages(&self) -> impl Iterator<Item = (usize, u8, &[u8])> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = &self.bytes[at..];
            let head = frame::header(rest).ok()??;
            let body = rest.get(HEADER..head.whole())?;
            let start = at;
            at += head.whole();
            Some((start, head.kind, body))
        })
    }

    /// Whether the batch has parsed a statement under this name.
    pub fn parses(&self, name: &[u8]) -> bool {
        self.whole
            && self.messages().any(|(_, kind, body)| {
                kind == frontend::PARSE
                    && frame::c_string(body).is_some_and(|(n, _)| key(n) == name)
            })
    }

    /// Where the request begins whose reply is due, if `due` requests have not had theirs, and the batch
    /// can be sent again from there: nothing before it needs to be, and the client does not rely on what
    /// it knows the result from an earlier batch.
    fn place(&self, due: usize) -> Option<usize> {
        let place = self.unanswered(due)?;
        let (_, kind, body) = self.messages().find(|(at, ..)| *at == place)?;
        let name = match kind {
            frontend::DESCRIBE => frame::c_string(body.strip_prefix(b"S")?)?.0,
            frontend::BIND => frame::c_string(frame::c_string(body)?.1)?.0,
            _ => return None,
        };
        self.parses(key(name)).then_some(place)
    }

    /// Where the request begins whose reply is due, if `due` requests have not had theirs and nothing that
    /// is needed again has been answered.
    fn unanswered(&self, due: usize) -> Option<usize> {
        if !self.whole {
            return None;
        }
        let answered_each = |kind: u8| {
            matches!(
                kind,
                frontend::PARSE
                    | frontend::BIND
                    | frontend::DESCRIBE
                    | frontend::EXECUTE
                    | frontend::CLOSE
            )
        };
        let requests = self.messages().filter(|(_, kind, _)| answered_each(*kind));
        let answered = requests.count().checked_sub(due)?;
        let mut requests = self.messages().filter(|(_, kind, _)| answered_each(*kind));
        let lost_with_it = |kind: u8| matches!(kind, frontend::BIND | frontend::EXECUTE);
        if (requests.by_ref().take(answered)).any(|(_, kind, _)| lost_with_it(kind)) {
            return None;
        }
        requests.next().map(|(place, ..)| place)
    }
}

/// PostgreSQL's error for a client that would misread the rows.
pub(super) fn refusal() -> Refusal {
    Refusal {
        code: sqlstate::FEATURE_NOT_SUPPORTED.to_owned(),
        words: WORDS.to_owned(),
        // asyncpg and JDBC prepare anew if the error is from there.
        routine: Some(ROUTINE.to_owned()),
    }
}

/// Whether an error says that a plan is stale.
pub fn is_stale_plan(error: &ErrorFields) -> bool {
    error.code == sqlstate::FEATURE_NOT_SUPPORTED
        && (error.routine == ROUTINE || error.message == WORDS)
}

impl Session {
    /// Whether an error is of a stale plan of one of the statements that follow their clients, and from
    /// where in its batch the client's request can be taken up again, if it can.
    pub(super) fn finds_stale(
        &mut self,
        error: &ErrorFields,
        statements: &dyn SharedStatements,
    ) -> Option<(u64, Option<usize>)> {
        let front = self.link.as_ref()?.expected.front()?;
        let number = front.statement.filter(|_| is_stale_plan(error))?;
        let under = self.reads_under(statements);
        // Under other settings the client's statement is refused, and nobody else's is stale.
        let stale = self
            .statement_numbered(number)
            .filter(|one| *one.under == *under);
        stale?;
        let link = self.link.as_ref()?;
        Some((number, self.replay_position(link)))
    }

    /// Whether an error may be of what was defined anew past the pooler, since the statement was analysed that a
    /// Parse in this batch was answered by: that statement, and from where the batch can be taken up again.
    pub(super) fn doubts_memory(&self, error: &ErrorFields) -> Option<(Doubt, usize)> {
        let link = self.link.as_ref()?;
        let front = link.expected.front()?;
        let number = front.statement?;
        let may_be = error.code.starts_with("22")
            || error.code.starts_with("42")
            || error.code == sqlstate::INTERNAL_ERROR;
        if !may_be || error.is_fatal() || !link.replay_buffer.from_memory.contains(&number) {
            return None;
        }
        let name = key(front.name()?);
        let old = self.statements.get(name)?;
        if old.number != number {
            return None;
        }
        let place = self.replay_position(link)?;
        let doubt = Doubt {
            name: name.to_vec(),
            old: Arc::clone(old),
            fresh: Arc::clone(old),
            code: error.code.clone(),
            message: error.message.clone(),
        };
        Some((doubt, place))
    }

    /// Lets the client's name mean a statement that is analysed now.
    pub(super) fn analyse_anew(&mut self, mut doubt: Doubt, statements: &dyn SharedStatements) {
        doubt.fresh = Arc::new(statements.apart(&doubt.old, &doubt.old.under));
        (self.statements).insert(doubt.name.clone(), Arc::clone(&doubt.fresh));
        self.doubt = Some(Box::new(doubt));
    }

    /// The reply that is due has come, or this error in its place: if it is to what was analysed anew, it tells
    /// whether the old analysis is to be used any more.
    pub(super) fn resolve_doubt(
        &mut self,
        error: Option<&ErrorFields>,
        statements: &dyn SharedStatements,
    ) {
        let (Some(link), Some(_)) = (&mut self.link, &self.doubt) else {
            return;
        };
        let front = link.expected.front();
        let parsed = front.and_then(|front| front.undo.as_ref()?.not_prepared);
        let used = front.and_then(|front| front.statement);
        let is_meant = |doubt: &mut Box<Doubt>| {
            let fresh = Some(doubt.fresh.number);
            used == fresh || (parsed == fresh && error.is_some())
        };
        let Some(doubt) = self.doubt.take_if(is_meant) else {
            return;
        };
        let same = |error: &ErrorFields| {
            parsed.is_none() && error.code == doubt.code && error.message == doubt.message
        };
        if error.is_some_and(same) {
            // The client's own. What others have serves it too.
            link.backend.prepared.put_aside(doubt.fresh.number);
            self.statements.insert(doubt.name, doubt.old);
            return;
        }
        doubt.old.retire();
        link.backend.prepared.put_aside(doubt.old.number);
        statements.begin_epoch();
    }

    fn statement_numbered(&self, number: u64) -> Option<&Arc<Statement>> {
        let mut all = self.statements.values().chain(self.substitutes.values());
        all.find(|one| one.number == number)
    }

    /// From where in its batch the request whose reply is due can be taken up again.
    pub(super) fn replay_position(&self, link: &ServerLink) -> Option<usize> {
        link.replay_buffer.place(self.due_alone(link)?)
    }

    /// An error has shown that the server does not have what the books say. The connection is closed; the
    /// client's request is kept, to be sent on another, if nothing of it has been answered.
    pub(super) fn leave_connection(&mut self) {
        let Some(link) = &self.link else { return };
        let due = self.due_alone(link);
        let place = due.and_then(|due| link.replay_buffer.unanswered(due));
        let (Some(place), Some(link)) = (place, &mut self.link) else {
            return;
        };
        let mut again = link.replay_buffer.bytes.split_off(place);
        link.replay_buffer.begin(false);
        again.append(&mut self.client.unread);
        self.client.unread = again;
        self.elsewhere = true;
    }

    /// How many requests of the client's have not had their replies, if they are of one batch and no
    /// transaction block is open.
    fn due_alone(&self, link: &ServerLink) -> Option<usize> {
        let between = self.client.frame.left == 0 && !self.abandoned;
        if self.phase() != Phase::Serving || !between || link.backend.in_transaction() {
            return None;
        }
        let ends = |expected: &&Expected| expected.reply == Reply::Ready;
        let of_client = |expected: &&Expected| expected.deliver != Deliver::Swallow;
        let due = link.expected.iter().filter(of_client).count();
        let ends = link.expected.iter().filter(ends).count();
        due.checked_sub(ends)
    }

    /// Lets nobody use the statement with this number any more.
    pub(super) fn retire(&mut self, number: u64) {
        if let Some(link) = &mut self.link {
            link.backend.prepared.put_aside(number);
        }
        if let Some(stale) = self.statement_numbered(number) {
            stale.retire();
        }
    }

    /// Takes the client's request up again from `place` in its batch. The server has failed it and waits
    /// for a Sync.
    pub(super) fn replay(&mut self, place: usize, out: &mut Output) {
        let Some(link) = &mut self.link else { return };
        let mut again = link.replay_buffer.bytes.split_off(place);
        link.replay_buffer.begin(false);
        match link.expected.front_mut() {
            Some(end) => end.deliver = Deliver::Swallow,
            None => {
                out.server.write(|own| frontend::bare(own, frontend::SYNC));
                self.expect(Expected::swallow(Reply::Ready), out);
            }
        }
        again.append(&mut self.client.unread);
        self.client.unread = again;
        self.begins_again = true;
    }
}
