//! All statements that clients have prepared, each once: the registry that gives equal statements one
//! name on every server connection.
//!
//! A large statement has a number but no place here: it is not kept for others.
//!
//! A lookup hashes the definition once and compares it in full. The registry keeps up to `limit`
//! statements that no client holds any more, for the client that prepares them again.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::server::prepared::{LARGE, Statement};
use crate::server::traces;

/// A statement, found by its definition.
#[derive(Debug)]
struct ByDefinition(Arc<Statement>);

impl Borrow<[u8]> for ByDefinition {
    fn borrow(&self) -> &[u8] {
        &self.0.definition
    }
}

impl Hash for ByDefinition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.definition.as_slice().hash(state);
    }
}

impl PartialEq for ByDefinition {
    fn eq(&self, other: &ByDefinition) -> bool {
        self.0.definition == other.0.definition
    }
}

impl Eq for ByDefinition {}

#[derive(Debug, Default)]
struct Shelf {
    statements: HashSet<ByDefinition>,
    next_number: u64,
    next_sweep: usize,
}

/// The registry.
#[derive(Debug, Default)]
pub struct Statements(Mutex<Shelf>);

impl Statements {
    /// The statement with this definition (the body of a Parse after the name).
    pub fn intern(&self, definition: &[u8], limit: usize) -> Arc<Statement> {
        let large = definition.len() > LARGE;
        if !large {
            if let Some(found) = self.0.lock().statements.get(definition) {
                return Arc::clone(&found.0);
            }
        }
        let text_end = definition.iter().position(|&b| b == 0);
        // A text may be long: it is looked through and copied without the lock.
        let mut statement = Statement {
            number: 0,
            definition: definition.to_vec(),
            traces: traces::scan(&definition[..text_end.unwrap_or(definition.len())]),
        };
        let mut shelf = self.0.lock();
        if let Some(found) = shelf.statements.get(definition).filter(|_| !large) {
            return Arc::clone(&found.0);
        }
        statement.number = shelf.next_number;
        shelf.next_number += 1;
        let statement = Arc::new(statement);
        if large {
            return statement;
        }
        shelf
            .statements
            .insert(ByDefinition(Arc::clone(&statement)));
        if shelf.statements.len() > limit.max(shelf.next_sweep) {
            // Those that clients hold must stay; looking at all of them again pays only after the
            // number has doubled.
            shelf
                .statements
                .retain(|statement| Arc::strong_count(&statement.0) > 1);
            shelf.next_sweep = 2 * shelf.statements.len();
        }
        statement
    }

    /// The last number given.
    pub fn last_number(&self) -> u64 {
        self.0.lock().next_number
    }

    /// Gives no number below `number`.
    pub fn start_from(&self, number: u64) {
        let mut shelf = self.0.lock();
        shelf.next_number = shelf.next_number.max(number);
    }

    /// Takes up a statement that comes from another process with its number. If its definition is known
    /// under that number, the one that is here is returned, so that equal statements stay one.
    pub fn adopt(&self, statement: Arc<Statement>) -> Arc<Statement> {
        if statement.is_large() {
            return statement;
        }
        let mut shelf = self.0.lock();
        match shelf.statements.get(statement.definition.as_slice()) {
            Some(known) if known.0.number == statement.number => Arc::clone(&known.0),
            Some(_) => statement,
            None => {
                shelf
                    .statements
                    .insert(ByDefinition(Arc::clone(&statement)));
                statement
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().statements.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_statements_share_a_number_and_others_do_not() {
        let statements = Statements::default();
        let one = statements.intern(b"select 1\0\0\0", 10);
        let same = statements.intern(b"select 1\0\0\0", 10);
        let typed = statements.intern(b"select 1\0\0\x01\0\0\0\x17", 10);
        assert!(Arc::ptr_eq(&one, &same));
        assert_ne!(one.number, typed.number);
    }

    #[test]
    fn what_nobody_holds_makes_room_and_its_number_is_never_given_again() {
        let statements = Statements::default();
        let held = statements.intern(b"held\0\0\0", 10);
        let mut highest = held.number;
        for i in 0..1000 {
            let passing = statements.intern(format!("select {i}\0\0\0").as_bytes(), 10);
            assert!(passing.number > highest);
            highest = passing.number;
        }
        assert!(statements.len() <= 11, "{}", statements.len());
        assert_eq!(statements.intern(b"held\0\0\0", 10).number, held.number);
    }
}
