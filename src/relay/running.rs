//! Requests that run something: Query, FunctionCall and Execute. What each may change is noted before it is sent.
//!
//! Names of statements are in [`statements`](crate::relay::statements); whether a message is passed on at all is in
//! [`conversation`](crate::relay::conversation). Invariant: nothing is sent behind a request that may change how a
//! later one is understood, before the reply to it has come.

use std::sync::Arc;

use super::conversation::Conversation;
use super::expected::{Expected, Reply, Undo};
use super::in_flight::Open;
use super::names::key;
use super::output::Output;
use super::requests::{PATIENCE, Step};
use super::session::Session;
use super::shared_statements::SharedStatements;
use crate::server::dirty::{self, DirtyState, Scan};
use crate::server::parse_settings::{self, Changes};
use crate::server::prepared::Statement;
use crate::wire::frame::{self, HEADER, Header};
use crate::wire::frontend;

/// Bytes of a FunctionCall that tell which function it calls.
const FUNCTION: usize = 4;

impl Session {
    /// Notes where a batch begins, and what it began with.
    pub(super) fn note_request(&mut self, kind: u8, statements: &dyn SharedStatements) {
        let Some(link) = &mut self.link else { return };
        match kind {
            frontend::PARSE
            | frontend::BIND
            | frontend::DESCRIBE
            | frontend::EXECUTE
            | frontend::CLOSE
                if link.conversation() == Conversation::Between =>
            {
                let alone = link.expected.is_empty() && !link.backend.in_transaction();
                link.replay_buffer
                    .begin(alone && self.rules.follow_statements);
                if link.expected.is_empty() {
                    link.epoch = statements.epoch();
                }
            }
            frontend::QUERY | frontend::FUNCTION_CALL => link.replay_buffer.begin(false),
            _ => {}
        }
        link.last_request = kind;
    }

    /// A Query. All of its text is looked at, also if it comes in parts.
    pub(super) fn query(&mut self, head: Header, at: usize, rest: &[u8], out: &mut Output) -> Step {
        let Some(link) = &mut self.link else {
            return Step::NeedsServer;
        };
        let text = rest.get(HEADER..).unwrap_or_default();
        let text = &text[..text.len().min(head.body)];
        let whole = text.len() == head.body;
        let bare = text.strip_suffix(b"\0").unwrap_or(text);
        let mut scan = Scan::default();
        let found = match whole {
            true => dirty::of_text(bare),
            false => scan.read(text, false),
        };
        link.backend.dirty.add(found);
        if found.has(DirtyState::FORGETTING) {
            link.in_flight.add(Open::Everything);
        }
        self.client.frame.scan = (!whole).then_some(scan);
        let transaction_local = whole && dirty::is_transaction_local_set(bare);
        let changes = match whole && self.rules.follow_statements {
            true => parse_settings::changes(text, found),
            false => Changes::None,
        };
        let bar = found.has(DirtyState::FORGETTING) || changes.are_any();
        let bar = bar || link.changes.are_any();
        self.note_going_back(whole.then_some(bare), found, false);
        let Some(link) = &mut self.link else {
            return Step::NeedsServer;
        };
        let bar = bar || link.going_back.is_open();
        let name = self.drop_unnamed();
        let mut expected = Expected::forward(Reply::UntilReady { transaction_local });
        expected.effects = found;
        if !whole {
            expected.effects.add(DirtyState::COPYING_IN);
        }
        if changes.are_any() || name.is_some() {
            expected.undo = Some(Box::new(Undo {
                name,
                changes,
                ..Undo::default()
            }));
        }
        self.expect(expected, out);
        self.bar_if(bar);
        self.begin(head, at, rest, false, out)
    }

    /// PostgreSQL drops the unnamed statement when a Query comes. Returns what is taken back if it does not come to
    /// that.
    pub(super) fn drop_unnamed(&mut self) -> Option<(Vec<u8>, Option<Arc<Statement>>)> {
        let unnamed = self.statements.remove(&b""[..]);
        let link = self.link.as_mut()?;
        let dropped = unnamed.is_some() || link.in_flight.unnamed_is_open();
        dropped.then(|| {
            link.in_flight.add(Open::Name(b""));
            (Vec::new(), unnamed)
        })
    }

    pub(super) fn function_call(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
        out: &mut Output,
    ) -> Step {
        let Some(link) = &mut self.link else {
            return Step::NeedsServer;
        };
        let body = rest.get(HEADER..).unwrap_or_default();
        if body.len() < head.body.min(FUNCTION) {
            return Step::NeedsMore;
        }
        let anything = link.backend.dirty.note_function_call(body);
        let anything = anything && !self.startup_settings.is_empty();
        if anything {
            link.going_back.note_anything();
        }
        self.expect(
            Expected::forward(Reply::UntilReady {
                transaction_local: false,
            }),
            out,
        );
        self.bar_if(anything);
        self.begin(head, at, rest, false, out)
    }

    pub(super) fn execute(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
        out: &mut Output,
    ) -> Step {
        let Some(link) = &mut self.link else {
            return Step::NeedsServer;
        };
        let deallocates = !link.portals_deallocating.is_empty();
        if deallocates && rest.len() < head.whole().min(PATIENCE) {
            // Which portal it is, is to be known.
            return Step::NeedsMore;
        }
        let changes = link.bound_effects.may(DirtyState::READING);
        if changes {
            link.changes = Changes::Unknown(None);
        }
        // What comes next in the batch depends on whether this has run.
        let bar = changes || link.bound_effects.may(DirtyState::FORGETTING);
        let mut expected = Expected::forward(Reply::Execute);
        expected.effects = link.bound_effects.all();
        let portal = rest.get(HEADER..).and_then(frame::c_string);
        let about = portal.and_then(|(p, _)| link.portals_deallocating.remove(key(p)));
        if about.is_some() {
            expected.undo = Some(Box::new(Undo {
                deallocates: about.map(|(name, number)| (name, Some(number))),
                ..Undo::default()
            }));
        }
        self.expect(expected, out);
        self.bar_if(bar);
        self.begin(head, at, rest, false, out)
    }

    /// A Flush of the client's: PostgreSQL sends the replies to all that came before, unless it copies in.
    pub(super) fn flush(&mut self) {
        let Some(link) = &mut self.link else { return };
        if !matches!(link.conversation(), Conversation::CopyingIn { .. }) {
            link.unflushed = 0;
        }
    }
}
