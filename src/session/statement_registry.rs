//! The registry of prepared statements: it gives equal statements one name on every server connection.
//!
//! Equal are statements with the same definition, read under the same settings, if no definition (DDL) has passed
//! through the pooler in between. Not shared between clients are unnamed statements, large ones, those with a constant
//! whose value depends on when it is analysed, and those read under settings that are not known: each has a number of
//! its own and no place here.
//!
//! A lookup hashes the definition once and compares it in full. With more than `limit` statements, those that no
//! client holds any more are forgotten, the least recently used first.
//!
//! Invariant: no number ever means two statements.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::relay::shared_statements::SharedStatements;
use crate::server::constants;
use crate::server::parse_settings;
use crate::server::prepared::{LARGE, Statement, dirty_state_of};

/// What makes a statement: its definition, and the settings it is read under.
trait Meaning {
    fn parts(&self) -> (&[u8], &[u8]);
}

impl Meaning for (&[u8], &[u8]) {
    fn parts(&self) -> (&[u8], &[u8]) {
        *self
    }
}

impl Hash for dyn Meaning + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for dyn Meaning + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Meaning + '_ {}

/// A statement, found by its meaning.
#[derive(Debug)]
struct ByDefinition {
    statement: Arc<Statement>,
    /// The cache's tick when it was last asked for.
    used: AtomicU64,
}

impl Meaning for ByDefinition {
    fn parts(&self) -> (&[u8], &[u8]) {
        (&self.statement.definition, &self.statement.under)
    }
}

impl<'a> Borrow<dyn Meaning + 'a> for ByDefinition {
    fn borrow(&self) -> &(dyn Meaning + 'a) {
        self
    }
}

impl Hash for ByDefinition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for ByDefinition {
    fn eq(&self, other: &ByDefinition) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for ByDefinition {}

#[derive(Debug, Default)]
struct Cache {
    statements: HashSet<ByDefinition>,
    next_number: u64,
    next_sweep: usize,
    tick: u64,
}

impl Cache {
    /// The statement with this meaning, if nothing has been defined since `epoch` began.
    fn find(&mut self, definition: &[u8], under: &[u8], epoch: u64) -> Option<Arc<Statement>> {
        let meaning: &dyn Meaning = &(definition, under);
        let found = self.statements.get(meaning)?;
        if found.statement.is_retired() || found.statement.epoch < epoch {
            return None;
        }
        self.tick += 1;
        found.used.store(self.tick, Ordering::Relaxed);
        Some(Arc::clone(&found.statement))
    }

    fn next(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
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
#[derive(Debug)]
pub struct StatementRegistry {
    cache: Mutex<Cache>,
    /// Begins anew whenever what statements give may have changed.
    epoch: AtomicU64,
}

impl Default for StatementRegistry {
    fn default() -> StatementRegistry {
        StatementRegistry {
            cache: Mutex::default(),
            epoch: AtomicU64::new(1),
        }
    }
}

impl SharedStatements for StatementRegistry {
    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    fn intern(&self, definition: &[u8], under: &Arc<[u8]>, limit: usize) -> Arc<Statement> {
        // Read before PostgreSQL can parse the statement: any later definition then counts as newer.
        let epoch = self.epoch();
        let alone = constants::belong_to_their_time(definition);
        let transient = alone || definition.len() > LARGE || parse_settings::is_unknown(under);
        let found = |cache: &mut Cache| match transient {
            true => None,
            false => cache.find(definition, under, epoch),
        };
        if let Some(found) = found(&mut self.cache.lock()) {
            return found;
        }
        // A text may be long: it is looked through and copied without the lock.
        let dirty = dirty_state_of(definition);
        let mut statement = Statement::new(0, definition.to_vec(), dirty, Arc::clone(under));
        statement.epoch = epoch;
        let mut cache = self.cache.lock();
        if let Some(found) = found(&mut cache) {
            return found;
        }
        statement.number = cache.next();
        let statement = Arc::new(statement);
        if !transient {
            cache.place(&statement);
            cache.sweep(limit);
        }
        statement
    }

    fn apart(&self, like: &Statement, under: &Arc<[u8]>) -> Statement {
        let definition = like.definition.clone();
        let mut statement = Statement::new(
            self.next_number(),
            definition,
            like.dirty,
            Arc::clone(under),
        );
        statement.epoch = self.epoch();
        statement
    }

    fn next_number(&self) -> u64 {
        self.cache.lock().next()
    }
}

impl StatementRegistry {
    /// All statements, the one that was looked up last at the end.
    pub fn all(&self) -> Vec<Arc<Statement>> {
        let cache = self.cache.lock();
        let entries = cache.statements.iter();
        let mut by_use: Vec<(u64, Arc<Statement>)> = entries
            .map(|entry| {
                let used = entry.used.load(Ordering::Relaxed);
                (used, Arc::clone(&entry.statement))
            })
            .collect();
        drop(cache);
        by_use.sort_unstable_by_key(|(used, _)| *used);
        by_use.into_iter().map(|(_, statement)| statement).collect()
    }

    /// The last number given.
    pub fn last_number(&self) -> u64 {
        self.cache.lock().next_number
    }

    /// Gives no number below `number`.
    pub fn start_from(&self, number: u64) {
        let mut cache = self.cache.lock();
        cache.next_number = cache.next_number.max(number);
    }

    /// Takes up a statement that comes from another process with its number. If its definition is known
    /// under that number, the one that is here is returned, so that equal statements stay one.
    pub fn adopt(&self, statement: Arc<Statement>) -> Arc<Statement> {
        if statement.is_transient() || statement.is_unnamed() {
            return statement;
        }
        let mut cache = self.cache.lock();
        match cache.find(&statement.definition, &statement.under, 0) {
            Some(known) if known.number == statement.number => known,
            Some(_) => statement,
            None => {
                cache.place(&statement);
                statement
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.cache.lock().statements.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intern(statements: &StatementRegistry, definition: &str, limit: usize) -> Arc<Statement> {
        statements.intern(definition.as_bytes(), &Arc::from(&b"=x"[..]), limit)
    }

    #[test]
    fn equal_statements_share_a_number_and_others_do_not() {
        let statements = StatementRegistry::default();
        let one = intern(&statements, "select 1\0\0\0", 10);
        let same = intern(&statements, "select 1\0\0\0", 10);
        let typed = intern(&statements, "select 1\0\0\x01\0\0\0\x17", 10);
        assert!(Arc::ptr_eq(&one, &same));
        assert_ne!(one.number, typed.number);
    }

    #[test]
    fn equal_texts_read_under_other_settings_do_not_either() {
        let statements = StatementRegistry::default();
        let mut numbers = std::collections::BTreeSet::new();
        for under in [&b"=one"[..], b"=two", b"?1", b"?1"] {
            numbers.insert(
                statements
                    .intern(b"select 1\0\0\0", &Arc::from(under), 10)
                    .number,
            );
        }
        assert_eq!(numbers.len(), 4, "what is not known is never equal");
        assert_eq!(statements.len(), 2);
    }

    #[test]
    fn what_nobody_holds_makes_room_and_its_number_is_never_given_again() {
        let statements = StatementRegistry::default();
        let held = intern(&statements, "held\0\0\0", 10);
        let mut highest = held.number;
        for i in 0..1000 {
            let transient = intern(&statements, &format!("select {i}\0\0\0"), 10);
            assert!(transient.number > highest);
            highest = transient.number;
        }
        assert!(statements.len() <= 11, "{}", statements.len());
        assert_eq!(intern(&statements, "held\0\0\0", 10).number, held.number);
    }

    #[test]
    fn what_is_asked_for_again_and_again_stays_although_nobody_holds_it() {
        let statements = StatementRegistry::default();
        let often = intern(&statements, "often\0\0\0", 16).number;
        for i in 0..1000 {
            let _ = intern(&statements, &format!("select {i}\0\0\0"), 16);
            assert_eq!(intern(&statements, "often\0\0\0", 16).number, often);
        }
        assert!(statements.len() <= 16);
    }

    #[test]
    fn what_clients_hold_stays_however_much_it_is() {
        let statements = StatementRegistry::default();
        let of = |i: usize| format!("select {i}\0\0\0");
        let held: Vec<_> = (0..500).map(|i| intern(&statements, &of(i), 16)).collect();
        for (i, statement) in held.iter().enumerate() {
            assert_eq!(intern(&statements, &of(i), 16).number, statement.number);
        }
        drop(held);
        for i in 500..1200 {
            let _ = intern(&statements, &of(i), 16);
        }
        assert!(statements.len() <= 16, "{}", statements.len());
    }
}
