//! All statements that clients have prepared, each once: the registry that gives equal statements one
//! name on every server connection.
//!
//! A large statement has a number but no place here: it is not kept for others.
//!
//! A lookup hashes the definition once and compares it in full. With more than `limit` statements those
//! that no client holds any more leave, the least recently used first; the others are kept for the client
//! that prepares them again.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::server::prepared::{LARGE, Statement};
use crate::server::traces;

/// A statement, found by its definition.
#[derive(Debug)]
struct ByDefinition {
    statement: Arc<Statement>,
    /// The shelf's tick when it was last asked for.
    used: AtomicU64,
}

impl Borrow<[u8]> for ByDefinition {
    fn borrow(&self) -> &[u8] {
        &self.statement.definition
    }
}

impl Hash for ByDefinition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.statement.definition.as_slice().hash(state);
    }
}

impl PartialEq for ByDefinition {
    fn eq(&self, other: &ByDefinition) -> bool {
        self.statement.definition == other.statement.definition
    }
}

impl Eq for ByDefinition {}

#[derive(Debug, Default)]
struct Shelf {
    statements: HashSet<ByDefinition>,
    next_number: u64,
    next_sweep: usize,
    tick: u64,
}

impl Shelf {
    fn find(&mut self, definition: &[u8]) -> Option<Arc<Statement>> {
        let found = self.statements.get(definition)?;
        if found.statement.is_retired() {
            return None;
        }
        self.tick += 1;
        found.used.store(self.tick, Ordering::Relaxed);
        Some(Arc::clone(&found.statement))
    }

    fn place(&mut self, statement: &Arc<Statement>) {
        self.tick += 1;
        self.statements.replace(ByDefinition {
            statement: Arc::clone(statement),
            used: AtomicU64::new(self.tick),
        });
    }

    /// Lets an eighth more go than it must, so that it need not look at all of them each time.
    fn sweep(&mut self, limit: usize) {
        if self.statements.len() <= limit.max(self.next_sweep) {
            return;
        }
        // Those that clients hold must stay.
        let is_free = |entry: &ByDefinition| Arc::strong_count(&entry.statement) == 1;
        let free = self.statements.iter().filter(|entry| is_free(entry));
        let mut ages: Vec<u64> = free
            .map(|entry| entry.used.load(Ordering::Relaxed))
            .collect();
        let leaving = self.statements.len() - limit + limit / 8;
        if let Some(last) = leaving.min(ages.len()).checked_sub(1) {
            let (_, &mut youngest, _) = ages.select_nth_unstable(last);
            self.statements
                .retain(|entry| !is_free(entry) || entry.used.load(Ordering::Relaxed) > youngest);
        }
        let left = self.statements.len();
        // When almost all are held, looking at all of them again pays only after a good many more.
        self.next_sweep = if left > limit { left + left / 4 } else { 0 };
    }
}

/// The registry.
#[derive(Debug, Default)]
pub struct Statements(Mutex<Shelf>);

impl Statements {
    /// The statement with this definition (the body of a Parse after the name).
    pub fn intern(&self, definition: &[u8], limit: usize) -> Arc<Statement> {
        let large = definition.len() > LARGE;
        let found = if large {
            None
        } else {
            self.0.lock().find(definition)
        };
        if let Some(found) = found {
            return found;
        }
        let text_end = definition.iter().position(|&b| b == 0);
        // A text may be long: it is looked through and copied without the lock.
        let text = &definition[..text_end.unwrap_or(definition.len())];
        let mut statement = Statement::new(0, definition.to_vec(), traces::scan(text));
        let mut shelf = self.0.lock();
        let found = if large { None } else { shelf.find(definition) };
        if let Some(found) = found {
            return found;
        }
        statement.number = shelf.next_number;
        shelf.next_number += 1;
        let statement = Arc::new(statement);
        if !large {
            shelf.place(&statement);
            shelf.sweep(limit);
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
        match shelf.find(&statement.definition) {
            Some(known) if known.number == statement.number => known,
            Some(_) => statement,
            None => {
                shelf.place(&statement);
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

    #[test]
    fn what_is_asked_for_again_and_again_stays_although_nobody_holds_it() {
        let statements = Statements::default();
        let often = statements.intern(b"often\0\0\0", 16).number;
        for i in 0..1000 {
            let _ = statements.intern(format!("select {i}\0\0\0").as_bytes(), 16);
            assert_eq!(statements.intern(b"often\0\0\0", 16).number, often);
        }
        assert!(statements.len() <= 16);
    }

    #[test]
    fn what_clients_hold_stays_however_much_it_is() {
        let statements = Statements::default();
        let of = |i: usize| format!("select {i}\0\0\0");
        let held: Vec<_> = (0..500)
            .map(|i| statements.intern(of(i).as_bytes(), 16))
            .collect();
        for (i, statement) in held.iter().enumerate() {
            assert_eq!(
                statements.intern(of(i).as_bytes(), 16).number,
                statement.number
            );
        }
        drop(held);
        for i in 500..1200 {
            let _ = statements.intern(of(i).as_bytes(), 16);
        }
        assert!(statements.len() <= 16, "{}", statements.len());
    }
}
