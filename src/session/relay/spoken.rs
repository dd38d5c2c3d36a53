//! EXECUTE, DEALLOCATE and PREPARE in SQL of statements that were prepared by the protocol: those that a Query
//! speaks of are prepared under the client's own names too, for as long as it has the server connection.
//!
//! So the Query passes as it is, and PostgreSQL answers in its own words, about the client's own names. Only
//! a Query is looked into, not the texts in Parse; what else says EXECUTE gets a hint with PostgreSQL's error.
//!
//! The invariant: when a Query is sent that speaks of a name, the server has under that name what the client
//! has prepared, if it has; and nobody finds it there who gets the connection next.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::expected::{Deliver, Expected, Refusal, Reply, Undo};
use super::pieces::Output;
use super::statements::parse_message;
use super::unsettled::Open;
use crate::server::prepared::NOBODYS;
use crate::server::reading::Changes;
use crate::server::script::{self, Mention};
use crate::server::traces::Traces;
use crate::session::session::Session;
use crate::wire::backend::TransactionStatus;
use crate::wire::error::ErrorFields;
use crate::wire::sqlstate;
use crate::wire::{frontend, write};

/// The setting that says whether a backslash in a string constant is no more than that.
const CONFORMING: &str = "standard_conforming_strings";

/// Stands in for the number of a statement where a name was prepared only to be deallocated. No statement has it.
const STAND_IN: u64 = u64::MAX;

/// The definition of what stands there then: whoever executes it after all gets an error.
fn stand_in() -> Vec<u8> {
    let text = format!("EXECUTE \"{NOBODYS}\"");
    [text.as_bytes(), &[0; 3]].concat()
}

/// What a Query needs a name for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// For what only the statement itself will do.
    Any,
    /// To deallocate it.
    Deallocate,
}

/// What of a client's statements stands on its server connection under its own names.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnNames {
    /// The names, each with the number of the statement.
    standing: HashMap<Vec<u8>, u64>,
    /// What the Query under way deallocates, one after the other.
    leaving: VecDeque<Vec<u8>>,
}

impl OwnNames {
    /// Whether anything stands under this name.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.standing.contains_key(name)
    }

    /// A DEALLOCATE in a Query has been run. Returns the name it was about.
    pub(super) fn deallocated(&mut self) -> Option<Vec<u8>> {
        let name = self.leaving.pop_front()?;
        self.standing.remove(&name);
        Some(name)
    }

    /// The server has forgotten all statements.
    pub(super) fn clear(&mut self) {
        self.standing.clear();
    }

    /// The Query under way has failed: what else it was to deallocate stays.
    pub(super) fn failed(&mut self) {
        self.leaving.clear();
    }

    /// The name does not stand on the server after all.
    pub(super) fn forget(&mut self, name: &[u8]) {
        self.standing.remove(name);
    }
}

impl Session {
    /// Prepares what the Query with this text speaks of, in front of it. True if that is known only when what
    /// is under way has been answered.
    pub(super) fn prepare_spoken(&mut self, text: &[u8], out: &mut Output) -> bool {
        let has_own = self.statements.keys().any(|name| !name.is_empty());
        let Some(lent) = &mut self.lent else {
            return false;
        };
        let concerned =
            has_own || !lent.own_names.standing.is_empty() || lent.unsettled.any_name_is_open();
        let begins = !lent.batch_open && !lent.copying_in;
        if !concerned || !begins || !self.rules.follow_statements || !script::may_speak(text) {
            return false;
        }
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        let read = |conforming| {
            let spoken = script::spoken(text, conforming);
            spoken.filter(|spoken| !spoken.is_empty())
        };
        if !lent.expected.is_empty() {
            // What comes of it decides what the names mean, how strings are read, and whether there is a
            // transaction.
            let speaks = read(true).or_else(|| read(false)).is_some();
            lent.barrier |= speaks;
            return speaks;
        }
        let Some(spoken) = read(lent.backend.reported.get(CONFORMING) != Some(b"off")) else {
            return false;
        };
        let failed = lent.backend.status == TransactionStatus::Failed;
        let (mut used, mut leaving) = (Vec::new(), VecDeque::new());
        for mention in spoken {
            match mention {
                Mention::Use(name) => {
                    leaving.extend(self.deallocated_with(&name));
                    used.push(name);
                }
                Mention::Deallocation(name) => leaving.push_back(name),
            }
        }
        if let Some(lent) = &mut self.lent {
            lent.own_names.leaving.clone_from(&leaving);
        }
        if failed {
            return false;
        }
        let mut sent = false;
        for name in used {
            sent |= self.settle_name(name, Use::Any, out);
        }
        for name in leaving {
            sent |= self.settle_name(name, Use::Deallocate, out);
        }
        if sent {
            // If one of them fails the server is to skip no more than these.
            out.server.write(|own| frontend::bare(own, frontend::SYNC));
            self.expect(Expected::swallow(Reply::Ready), out);
        }
        false
    }

    /// What the client's statement with this name deallocates, if that is what it does.
    fn deallocated_with(&self, name: &[u8]) -> Option<Vec<u8>> {
        let meant = self.statements.get(name)?;
        match self.deallocated_by(&meant.definition) {
            Ok(about) => about.map(|(name, _)| name),
            Err(name) => Some(name),
        }
    }

    /// Has the server know by this name what the client means by it, as far as that is needed. False if it does.
    fn settle_name(&mut self, name: Vec<u8>, needed: Use, out: &mut Output) -> bool {
        let clean = self.rules.clean;
        let meant = self.statements.get(&name).cloned();
        let Some(lent) = &mut self.lent else {
            return false;
        };
        let stands = lent.own_names.standing.get(&name).copied();
        if meant.is_some() {
            // By DEALLOCATE ALL, and also if the rest of the session is another version's to drive.
            lent.backend.traces.add(Traces::STATEMENTS);
        }
        if needed == Use::Deallocate && meant.is_some() && stands.is_some() {
            return false;
        }
        if let Some(meant) = meant.as_ref().filter(|_| needed == Use::Any) {
            lent.backend.traces.add(meant.traces);
            if meant.traces.has(Traces::FORGETTING) {
                lent.unsettled.add(Open::Everything);
            }
            if meant.traces.has(Traces::READING) {
                lent.changes = Changes::Unknown(None);
            }
        }
        if stands == meant.as_ref().map(|meant| meant.number) {
            return false;
        }
        // Where nobody cleans, it may be somebody else's.
        if stands.is_some() || !clean {
            lent.own_names.standing.remove(&name);
            out.server.write(|own| {
                write::message(own, frontend::CLOSE, |body| {
                    body.push(b'S');
                    write::c_string(body, &name);
                });
            });
            self.expect(Expected::swallow(Reply::Close), out);
        }
        let (Some(meant), Some(lent)) = (meant, &mut self.lent) else {
            return true;
        };
        // To be deallocated it needs not be what can be prepared now: its tables may be gone.
        let (number, definition) = match needed {
            Use::Any => (meant.number, Cow::Borrowed(&meant.definition)),
            Use::Deallocate => (STAND_IN, Cow::Owned(stand_in())),
        };
        lent.own_names.standing.insert(name.clone(), number);
        out.server
            .write(|own| parse_message(own, &name, &definition));
        let undo = Undo {
            not_standing: Some(name),
            ..Undo::default()
        };
        self.expect(Expected::undoing(Reply::Parse, Deliver::Swallow, undo), out);
        true
    }

    /// A statement that a Query speaks of could not be prepared: if the Query fails for the lack of it, its
    /// client is told why.
    pub(super) fn blame(&mut self, error: &ErrorFields) {
        let Some(lent) = &mut self.lent else { return };
        let query = (lent.expected.iter_mut())
            .find(|expected| matches!(expected.reply, Reply::UntilReady { .. }));
        if let Some(query) = query {
            query.undo.get_or_insert_default().refusal = Some(Refusal {
                code: error.code.clone(),
                words: error.message.clone(),
                routine: None,
            });
        }
    }

    /// What to add to the error that there is no such statement, if the client has prepared one by the
    /// protocol.
    pub(super) fn hint(&self, error: &ErrorFields) -> Option<&'static str> {
        if error.code != sqlstate::INVALID_STATEMENT_NAME {
            return None;
        }
        let name = error.message.split('"').nth(1)?;
        self.statements.contains_key(name.as_bytes()).then_some(
            "It was prepared by the protocol (Parse), and the pooler keeps it under another name. Execute it \
             by the protocol (Bind), or say EXECUTE in a simple query of its own.",
        )
    }
}
