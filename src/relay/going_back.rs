//! A client that goes back to a default (RESET, SET ... TO DEFAULT, DISCARD ALL) goes back to what its startup packet
//! asked for. PostgreSQL goes back to what the pooler's own packet asked for, so the client's settings are made once
//! more before the client can ask.
//!
//! The ReadyForQuery behind a request that may have gone back is kept; the pooler's statement follows, and *its*
//! ReadyForQuery is the client's. In a block it is undone with what it follows.
//!
//! The invariant: a request behind one that may go back is not sent before the settings are made. This does not
//! reach what stands behind it in the same text or batch, and does not see into functions.

use serde::{Deserialize, Serialize};

use super::conversation::Conversation;
use super::expected::Reply;
use super::output::Output;
use super::replies::Fate;
use super::session::{Phase, Session};
use crate::server::dirty::DirtyState;
use crate::server::parameters::Parameters;
use crate::server::restore::Restore;
use crate::server::set_commands::{Change, SetCommands, To};
use crate::wire::backend::TransactionStatus;

/// What has gone back to a default since the settings were last made.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GoingBack {
    /// Requests under way may have.
    seen: bool,
    /// The names of what they bring back, if they are known.
    names: Vec<String>,
    /// No other setting can have gone back, and these have.
    exact: bool,
    /// They have gone back for the transaction only.
    local: bool,
    /// One of them has a value of its own until the transaction ends.
    masked: bool,
    /// A request of the extended protocol may, and it is not known whether it runs.
    bound: bool,
    /// The text of such a request is known.
    read: bool,
    /// The open transaction has.
    in_block: bool,
    /// The pooler's own statement is under way, whose ReadyForQuery is the client's.
    restoring: bool,
}

impl GoingBack {
    /// Whether a request that is under way may go back.
    pub fn is_open(&self) -> bool {
        self.seen
    }

    /// Whether there is anything to be done.
    fn concerns(&self) -> bool {
        self.seen || self.in_block || self.restoring
    }

    /// Whether the pooler's own statement is under way.
    pub fn is_restoring(&self) -> bool {
        self.restoring
    }

    /// Notes a request that may bring anything back.
    pub fn note_anything(&mut self) {
        self.seen = true;
        self.exact = false;
        self.local = false;
    }

    /// Notes a text that is run, or bound (`bound`), by a client whose startup packet has `startup_settings`.
    fn note(&mut self, commands: &SetCommands, startup_settings: &Parameters, bound: bool) {
        self.read |= bound;
        let mut names: Vec<String> = Vec::new();
        let mut certain = commands.is_plain();
        let all = || {
            startup_settings
                .iter()
                .map(|(name, _)| name.to_ascii_lowercase())
        };
        let (mut concerned, mut lasts) = (false, false);
        for change in &commands.changes {
            let (back, to): (Vec<String>, To) = match change {
                Change::One { name, local, to } => {
                    // With the session's user the role changes.
                    let of_user = (name == "session_authorization").then(|| "role".to_owned());
                    let both = of_user.into_iter().chain([name.clone()]);
                    let back: Vec<_> = both
                        .filter(|name| startup_settings.get(name).is_some())
                        .collect();
                    if back.is_empty() {
                        continue;
                    }
                    lasts |= !local && *to != To::Value;
                    if *local && *to == To::Value {
                        // Beneath that value the default stays.
                        self.masked |= back.iter().any(|name| names.contains(name));
                        continue;
                    }
                    (back, *to)
                }
                Change::ResetAll => {
                    lasts = true;
                    let plain = |name: &String| !Parameters::is_identity(name);
                    (all().filter(plain).collect(), To::Default)
                }
                Change::DiscardAll => {
                    lasts = true;
                    (all().collect(), To::Default)
                }
                Change::Unnamed | Change::Anything => {
                    lasts = true;
                    (Vec::new(), To::Unknown)
                }
            };
            names.retain(|name| !back.contains(name));
            match to {
                To::Value => {}
                To::Default => names.extend(back),
                To::Unknown => certain = false,
            }
            concerned |= to != To::Value;
        }
        if !concerned {
            return;
        }
        self.exact = certain && !self.seen;
        self.local = !lasts && (self.local || !self.seen);
        self.seen = true;
        self.bound = bound;
        self.names.extend(names);
    }

    /// Notes that a RESET or DISCARD ALL of the extended protocol has run.
    pub fn note_run(&mut self) {
        self.exact &= self.seen;
        self.seen = true;
        self.bound = false;
    }

    /// Notes a ROLLBACK, perhaps to a savepoint behind which the settings had been made.
    pub fn note_rollback(&mut self) {
        if self.in_block {
            self.note_anything();
        }
    }

    /// Notes an error. If it is of the `last` request under way, what that had brought back is as before. One that may
    /// go back is always the last: nothing is sent behind it. So an error of an earlier one says nothing of it.
    pub fn note_error(&mut self, last: bool) {
        self.exact = false;
        if last {
            self.names.clear();
        }
    }

    /// Notes how the server connection stands behind the requests. What is to be made now, if anything is.
    fn conclude(&mut self, status: TransactionStatus) -> Option<Restore> {
        let seen = std::mem::take(&mut self.seen);
        let in_block = status != TransactionStatus::Idle;
        let masked = std::mem::take(&mut self.masked) && in_block;
        let restore = Restore {
            names: std::mem::take(&mut self.names),
            exact: std::mem::take(&mut self.exact) && !self.bound && !masked,
            local: std::mem::take(&mut self.local),
            in_block,
        };
        (self.bound, self.read) = (false, false);
        match status {
            TransactionStatus::Idle => {
                self.in_block = false;
                // Outside of a block nothing goes back for a transaction.
                (seen && !restore.local).then_some(restore)
            }
            TransactionStatus::InTransaction => {
                self.in_block |= seen;
                seen.then_some(restore)
            }
            TransactionStatus::Failed => {
                self.in_block |= seen;
                None
            }
        }
    }
}

impl Session {
    /// Notes what a text brings back to a default, where `found` is what it may leave behind; `bound` says that it may be run by
    /// an Execute. `text` is without its NUL, and `None` if it cannot be read.
    pub(super) fn note_going_back(&mut self, text: Option<&[u8]>, found: DirtyState, bound: bool) {
        let Some(link) = &mut self.link else { return };
        if !found.has(DirtyState::RESETTING) || self.startup_settings.is_empty() {
            return;
        }
        match text.filter(|_| !found.has(DirtyState::EVERYTHING)) {
            Some(text) => {
                (link.going_back).note(&SetCommands::read(text), &self.startup_settings, bound)
            }
            None => link.going_back.note_anything(),
        }
    }

    /// Notes by a CommandComplete that the client has gone back to a default. `extended` says that it answers an
    /// Execute.
    pub(super) fn note_going_back_by(&mut self, tag: &[u8], extended: bool) {
        let unread = extended && !self.rules.follow_statements;
        if self.phase() != Phase::Serving || self.startup_settings.is_empty() {
            return;
        }
        let Some(link) = &mut self.link else { return };
        let going_back = &mut link.going_back;
        if going_back.restoring {
            return;
        }
        match tag {
            b"DO" | b"CALL" => going_back.note_anything(),
            b"RESET" | b"DISCARD ALL" | b"SET" if unread && !going_back.read => {
                going_back.note_anything();
                let identity = self
                    .startup_settings
                    .identity()
                    .map(|(name, _)| name.to_owned());
                going_back.names.extend(identity.filter(|_| tag != b"SET"));
            }
            b"RESET" | b"DISCARD ALL" if extended => going_back.note_run(),
            b"ROLLBACK" => going_back.note_rollback(),
            _ => {}
        }
    }

    /// A ReadyForQuery has come, with which would be done what `fate` says. If the client has gone back to a
    /// default, its settings are made first.
    pub(super) fn restore(&mut self, fate: Fate, out: &mut Output) -> Fate {
        let serving = self.phase() == Phase::Serving && !self.abandoned;
        let Some(link) = self.link.as_mut().filter(|_| serving) else {
            return fate;
        };
        if !link.going_back.concerns() {
            link.going_back.read = false;
            return fate;
        }
        if link.going_back.restoring {
            // Nothing was under way in front of it, so this is its ReadyForQuery, whatever has been sent since.
            link.going_back.restoring = false;
            return match link.setup_error {
                Some(_) => Fate::Drop,
                None => Fate::Pass,
            };
        }
        // What PostgreSQL passes over has no reply.
        while (link.expected.front()).is_some_and(|front| front.reply == Reply::CopyEnd) {
            link.answered();
        }
        let between = link.conversation() == Conversation::Between;
        let quiet = between && link.expected.is_empty() && self.client.frame.left == 0;
        if fate != Fate::Pass || !quiet || link.ended {
            return fate;
        }
        let status = link.backend.status;
        let Some(restore) = link.going_back.conclude(status) else {
            return fate;
        };
        let user = link.backend.fresh.get("session_authorization");
        let user = user.unwrap_or(self.user.as_bytes());
        let statements = restore.statements(&self.startup_settings, user);
        if statements.is_empty() {
            return fate;
        }
        // It stays on no connection that somebody else may get.
        link.backend.dirty.add(DirtyState::SETTINGS);
        link.going_back.restoring = true;
        link.in_flight.hold_up();
        self.ask_in_batch(&statements, out);
        Fate::Drop
    }
}
