//! The settings that the texts of a client's statements are read under, at any moment.
//!
//! Between transactions they are what PostgreSQL reports and what the pooler has set for the client. What a
//! transaction changes is noted when its reply has come; no request is sent behind one that may change it
//! before that. So a statement is never parsed under other settings than those it is known by.

use std::sync::Arc;

use super::conversation::{BoundEffects, Conversation};
use super::expected::Undo;
use super::session::Session;
use super::shared_statements::SharedStatements;
use crate::server::parameters::Parameters;
use crate::server::parse_settings::{self, Changes};
use crate::wire::backend::TransactionStatus;

/// A description of the settings, and what it was made from.
#[derive(Debug)]
pub struct ParseSettings {
    reported: Arc<Parameters>,
    applied: Arc<Parameters>,
    description: Arc<[u8]>,
}

impl Default for ParseSettings {
    fn default() -> ParseSettings {
        ParseSettings {
            reported: Arc::default(),
            applied: Arc::default(),
            description: Arc::from(&[][..]),
        }
    }
}

impl Session {
    /// The settings that a text which is sent now is read under.
    pub(super) fn reads_under(&mut self, statements: &dyn SharedStatements) -> Arc<[u8]> {
        let Some(link) = &mut self.link else {
            return Arc::clone(&self.under.description);
        };
        let (reported, applied) = (&link.backend.reported, &link.backend.applied);
        let under = &mut self.under;
        let same = Arc::ptr_eq(&under.reported, reported) && Arc::ptr_eq(&under.applied, applied);
        if !same || under.description.is_empty() {
            let mut description = parse_settings::description(reported, applied);
            // There are other tables in another database.
            description.push(b'/');
            description.extend_from_slice(self.database.as_bytes());
            if *under.description != *description {
                under.description = description.into();
            }
            under.reported = Arc::clone(reported);
            under.applied = Arc::clone(applied);
        }
        match &mut link.changes {
            Changes::None => Arc::clone(&under.description),
            Changes::Known(texts) => [&under.description, &b"\0"[..], texts].concat().into(),
            Changes::Unknown(number) => {
                let number = number.get_or_insert_with(|| statements.next_number());
                parse_settings::unknown(*number).into()
            }
        }
    }

    /// Takes up what a Query has changed, when its ReadyForQuery says how it stands.
    pub(super) fn note_changes(&mut self, undo: Option<Box<Undo>>, status: TransactionStatus) {
        let Some(link) = &mut self.link else { return };
        match status {
            TransactionStatus::Idle => {
                link.changes = Changes::None;
                // A batch under way may have bound others.
                if link.expected.is_empty() && link.conversation() == Conversation::Between {
                    link.bound_effects = BoundEffects::default();
                }
            }
            TransactionStatus::InTransaction => {
                if let Some(undo) = undo {
                    link.changes.add(undo.changes);
                }
            }
            // It may have failed in the middle.
            TransactionStatus::Failed => {
                if undo.is_some_and(|undo| undo.changes.are_any()) {
                    link.changes = Changes::Unknown(None);
                }
            }
        }
    }
}
