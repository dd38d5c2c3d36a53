//! The settings that the texts of a client's statements are read under, at any moment.
//!
//! Between transactions they are what PostgreSQL reports and what the pooler has set for the client. What a
//! transaction changes is noted when its reply has come; no request is sent behind one that may change it
//! before that. So a statement is never parsed under other settings than those it is known by.

use std::sync::Arc;

use super::conversation::{BoundEffects, Conversation};
use super::expected::Undo;
use crate::pool::statements::Statements;
use crate::server::parameters::Parameters;
use crate::server::reading::{self, Changes};
use crate::session::session::Session;
use crate::wire::backend::TransactionStatus;

/// A description of the settings, and what it was made from.
#[derive(Debug)]
pub struct Under {
    reported: Arc<Parameters>,
    applied: Arc<Parameters>,
    description: Arc<[u8]>,
}

impl Default for Under {
    fn default() -> Under {
        Under {
            reported: Arc::default(),
            applied: Arc::default(),
            description: Arc::from(&[][..]),
        }
    }
}

impl Session {
    /// The settings that a text which is sent now is read under.
    pub(super) fn reads_under(&mut self, statements: &Statements) -> Arc<[u8]> {
        let Some(lent) = &mut self.lent else {
            return Arc::clone(&self.under.description);
        };
        let (reported, applied) = (&lent.backend.reported, &lent.backend.applied);
        let under = &mut self.under;
        let same = Arc::ptr_eq(&under.reported, reported) && Arc::ptr_eq(&under.applied, applied);
        if !same || under.description.is_empty() {
            let mut description = reading::description(reported, applied);
            // There are other tables in another database.
            description.push(b'/');
            description.extend_from_slice(self.database.as_bytes());
            if *under.description != *description {
                under.description = description.into();
            }
            under.reported = Arc::clone(reported);
            under.applied = Arc::clone(applied);
        }
        match &mut lent.changes {
            Changes::None => Arc::clone(&under.description),
            Changes::Known(texts) => [&under.description, &b"\0"[..], texts].concat().into(),
            Changes::Unknown(number) => {
                let number = number.get_or_insert_with(|| statements.next_number());
                reading::unknown(*number).into()
            }
        }
    }

    /// Takes up what a Query has changed, when its ReadyForQuery says how it stands.
    pub(super) fn note_changes(&mut self, undo: Option<Box<Undo>>, status: TransactionStatus) {
        let Some(lent) = &mut self.lent else { return };
        match status {
            TransactionStatus::Idle => {
                lent.changes = Changes::None;
                // A batch under way may have bound others.
                if lent.expected.is_empty() && lent.conversation() == Conversation::Between {
                    lent.bound_effects = BoundEffects::default();
                }
            }
            TransactionStatus::InTransaction => {
                if let Some(undo) = undo {
                    lent.changes.add(undo.changes);
                }
            }
            // It may have failed in the middle.
            TransactionStatus::Failed => {
                if undo.is_some_and(|undo| undo.changes.are_any()) {
                    lent.changes = Changes::Unknown(None);
                }
            }
        }
    }
}
