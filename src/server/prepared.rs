//! Prepared statements as values: the text, the name it has on servers, and which of them one connection
//! has.
//!
//! A statement is compared in full, text and parameter types; its number only names it. No number ever
//! means two texts.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::dirty::{self, DirtyState};
use super::parse_settings;
use super::row_shape::RowShape;

/// What a statement's name on a server begins with.
pub const PREFIX: &str = "DOORMAN_";

/// The name of a statement that no server has: what is asked of it fails.
pub const NOBODYS: &str = "DOORMAN_refuses";

/// The numbers of clients' unnamed statements have this bit.
const UNNAMED: u64 = 1 << 63;

/// Whether the number is of a client's unnamed statement.
pub fn is_unnamed(number: u64) -> bool {
    number & UNNAMED != 0
}

/// A statement whose definition has more bytes than this is not kept for the next client that prepares
/// it: it is likely to carry its data in its text, and PostgreSQL would keep all of it.
pub const LARGE: usize = 16 * 1024;

/// More statements than this that wait to be closed are closed before anything else.
const MANY_TO_CLOSE: usize = 128;

/// A statement that clients have prepared.
#[derive(Debug, Serialize, Deserialize)]
pub struct Statement {
    /// Its number, unique in this process and among its successors.
    pub number: u64,
    /// The body of its Parse after the name: the text with its NUL, and the parameter types.
    #[serde(with = "serde_bytes")]
    pub definition: Vec<u8>,
    /// What running it may leave behind, by the words in its text.
    #[serde(default = "DirtyState::everything")]
    pub dirty: DirtyState,
    /// The settings its text is read under (`reading::description`).
    #[serde(default, with = "crate::wire::bytes")]
    pub under: Arc<[u8]>,
    /// Its plan has become stale somewhere: it is to be parsed anew, under another number.
    #[serde(default)]
    retired: AtomicBool,
    /// The columns of its rows, if a client knows them.
    #[serde(default)]
    pub shape: RowShape,
    /// The epoch of definitions in which it was made; 0 in another process, where each is younger.
    #[serde(skip)]
    pub epoch: u64,
}

impl PartialEq for Statement {
    fn eq(&self, other: &Statement) -> bool {
        self.number == other.number && self.definition == other.definition
    }
}

impl Eq for Statement {}

impl Statement {
    /// A statement with this number.
    pub fn new(number: u64, definition: Vec<u8>, dirty: DirtyState, under: Arc<[u8]>) -> Statement {
        Statement {
            number,
            definition,
            dirty,
            under,
            retired: AtomicBool::new(false),
            shape: RowShape::default(),
            epoch: 0,
        }
    }

    /// The statement without its definition, for somebody who has that under the same number.
    pub fn without_definition(&self) -> Statement {
        Statement {
            number: self.number,
            definition: Vec::new(),
            dirty: self.dirty,
            under: Arc::clone(&self.under),
            retired: AtomicBool::new(self.is_retired()),
            shape: self.shape.copy(),
            epoch: self.epoch,
        }
    }

    /// The statement with a definition that has come apart from it.
    pub fn with_definition(self, definition: Vec<u8>) -> Statement {
        Statement { definition, ..self }
    }

    /// Whether the definition is elsewhere: none is empty.
    pub fn lacks_definition(&self) -> bool {
        self.definition.is_empty()
    }

    /// A client's unnamed statement, by a number that nobody else has.
    pub fn unnamed(number: u64, definition: &[u8], under: &Arc<[u8]>) -> Statement {
        let dirty = dirty_state_of(definition);
        let number = number | UNNAMED;
        Statement::new(number, definition.to_vec(), dirty, Arc::clone(under))
    }

    /// Whether it is a client's unnamed statement.
    pub fn is_unnamed(&self) -> bool {
        is_unnamed(self.number)
    }

    /// Lets nobody use it any more.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether it must not be used any more.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Whether it is not kept beyond the transaction that uses it: it is too large, or nobody else can
    /// have one that is equal.
    pub fn is_transient(&self) -> bool {
        self.definition.len() > LARGE || parse_settings::is_unknown(&self.under)
    }

    /// Its name on a server.
    pub fn server_name(&self) -> String {
        match self.is_unnamed() {
            true => String::new(),
            false => format!("{PREFIX}{}", self.number),
        }
    }
}

/// What running a statement with this definition may leave behind.
pub fn dirty_state_of(definition: &[u8]) -> DirtyState {
    let text_end = definition.iter().position(|&b| b == 0);
    let text = &definition[..text_end.unwrap_or(definition.len())];
    let mut dirty = dirty::of_text(text);
    if parse_settings::changes(text, dirty).are_any() {
        dirty.add(DirtyState::READING);
    }
    dirty
}

/// The statements one server connection has, by number, bounded, the least recently used leaving first.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Prepared {
    /// Number of each statement, with the tick of its last use.
    statements: HashMap<u64, u64>,
    tick: u64,
    /// Those among them that are prepared for the transaction that needs them.
    transient: HashSet<u64>,
    /// Statements that were dropped from the list and still stand on the server.
    to_close: BTreeSet<u64>,
    /// Bytes of the text of each, and of all in the list.
    sizes: HashMap<u64, u64>,
    bytes: u64,
}

/// What one connection keeps at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Statements.
    pub statements: usize,
    /// Bytes of their text.
    pub bytes: usize,
}

impl Prepared {
    /// Whether the connection has the statement; notes its use if so.
    pub fn touch(&mut self, number: u64) -> bool {
        self.tick += 1;
        match self.statements.get_mut(&number) {
            Some(used) => {
                *used = self.tick;
                true
            }
            None => false,
        }
    }

    /// Whether the statement stands on the server and is in use.
    pub fn has(&self, number: u64) -> bool {
        self.statements.contains_key(&number)
    }

    /// Whether the statement stands on the server, put aside or not.
    pub fn stands(&self, number: u64) -> bool {
        self.statements.contains_key(&number) || self.to_close.contains(&number)
    }

    /// Whether any statement stands on the server, put aside or not.
    pub fn stands_any(&self) -> bool {
        !self.statements.is_empty() || !self.to_close.is_empty()
    }

    /// Puts aside, to be closed, what was prepared for the transaction that is over.
    pub fn end_transient(&mut self) {
        for number in self.transient.drain() {
            if self.statements.remove(&number).is_some() {
                self.bytes -= self.sizes.remove(&number).unwrap_or(0);
                self.to_close.insert(number);
            }
        }
    }

    /// Notes that a Parse for the statement is on its way; `transient` says that it is for this transaction
    /// only. With more than `limit` the least recently used eighth is put aside to be closed, or as many as
    /// there are too many bytes.
    /// True if the statement still stood on the server, put aside, and needs no Parse.
    pub fn add(&mut self, number: u64, size: usize, limit: Limit, transient: bool) -> bool {
        self.tick += 1;
        let size = size as u64;
        self.bytes += size;
        self.bytes -= self.sizes.insert(number, size).unwrap_or(0);
        self.statements.insert(number, self.tick);
        if transient {
            self.transient.insert(number);
        }
        let still_stood = self.to_close.remove(&number);
        let most = limit.bytes as u64;
        if self.statements.len() > limit.statements.max(1) || self.bytes > most {
            let mut by_age: Vec<(u64, u64)> = self
                .statements
                .iter()
                .map(|(&n, &used)| (used, n))
                .collect();
            by_age.sort_unstable();
            // Never the one just added.
            let many = self.statements.len() > limit.statements.max(1);
            let leaving = if many {
                (limit.statements / 8).max(1)
            } else {
                0
            };
            for (left, &(_, number)) in by_age[..by_age.len() - 1].iter().enumerate() {
                if left >= leaving && self.bytes <= most {
                    break;
                }
                self.put_aside(number);
            }
        }
        still_stood
    }

    /// Puts a statement aside, to be closed.
    pub fn put_aside(&mut self, number: u64) {
        self.transient.remove(&number);
        if self.statements.remove(&number).is_some() {
            self.bytes -= self.sizes.remove(&number).unwrap_or(0);
            self.to_close.insert(number);
        }
    }

    /// Notes that the Parse of the statement failed.
    pub fn forget(&mut self, number: u64) {
        self.statements.remove(&number);
        self.bytes -= self.sizes.remove(&number).unwrap_or(0);
        self.transient.remove(&number);
        // It may have made room already.
        self.to_close.remove(&number);
    }

    /// Notes that the server has forgotten all statements.
    pub fn clear(&mut self) {
        self.statements.clear();
        self.sizes.clear();
        self.bytes = 0;
        self.transient.clear();
        self.to_close.clear();
    }

    /// Takes one of the statements that are to be closed.
    pub fn take_to_close(&mut self) -> Option<u64> {
        self.to_close.pop_first()
    }

    /// Whether so many are to be closed that they must not become more.
    pub fn has_many_to_close(&self) -> bool {
        self.to_close.len() > MANY_TO_CLOSE
    }

    /// Gives back a statement whose Close did not happen.
    pub fn put_back_to_close(&mut self, number: u64) {
        self.to_close.insert(number);
    }

    /// How many statements the connection has.
    pub fn len(&self) -> usize {
        self.statements.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit {
        statements: 4,
        bytes: 1000,
    };

    #[test]
    fn so_do_those_that_are_too_many_bytes() {
        let mut prepared = Prepared::default();
        for number in 0..3 {
            prepared.add(number, 300, LIMIT, false);
        }
        prepared.add(3, 700, LIMIT, false);
        assert!(prepared.has(2) && prepared.has(3) && !prepared.has(1) && !prepared.has(0));
        prepared.add(4, 5000, LIMIT, false);
        assert_eq!(prepared.len(), 1, "what is needed now stays");
        prepared.forget(4);
        assert_eq!(prepared.bytes, 0);
    }

    #[test]
    fn the_least_recently_used_leave_first_and_stay_on_record_until_closed() {
        let mut prepared = Prepared::default();
        for number in 0..4 {
            assert!(!prepared.add(number, 1, LIMIT, false));
        }
        assert!(prepared.touch(0));
        prepared.add(4, 1, LIMIT, false);
        assert!(prepared.touch(0) && prepared.touch(4));
        assert!(!prepared.touch(1));
        assert!(
            prepared.add(1, 1, LIMIT, false),
            "it still stood on the server"
        );
        assert_eq!(
            prepared.take_to_close(),
            Some(2),
            "1 made room for itself: {prepared:?}"
        );
    }
}
