//! The prepared statements of a client by its own names, and the bytes that they take.
//!
//! Knows nothing of servers and limits. Invariant: the count of bytes is that of the statements held now, or unknown
//! and counted anew at the next change. Counting all statements at each Parse made a client's n-th Parse cost n.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::server::prepared::Statement;

/// What a statement takes beside its text and its name, in bytes.
const EACH_STATEMENT: usize = 256;

/// Statements by name; the unnamed one has the empty name.
#[derive(Debug, Clone, Default)]
pub struct HeldStatements {
    by_name: HashMap<Vec<u8>, Arc<Statement>>,
    /// None when statements were exchanged behind its back.
    bytes: Option<usize>,
}

fn size(name: &[u8], statement: &Statement) -> usize {
    name.len() + statement.definition.len() + EACH_STATEMENT
}

impl HeldStatements {
    /// Bytes of all statements with their names.
    pub(super) fn bytes(&self) -> usize {
        let each = |(name, one): (&Vec<u8>, &Arc<Statement>)| size(name, one);
        let count = || self.by_name.iter().map(each).sum();
        self.bytes.unwrap_or_else(count)
    }

    pub(super) fn insert(
        &mut self,
        name: Vec<u8>,
        statement: Arc<Statement>,
    ) -> Option<Arc<Statement>> {
        let more = size(&name, &statement);
        let less = self.by_name.get(&name).map_or(0, |old| size(&name, old));
        self.bytes = Some(self.bytes() + more - less);
        self.by_name.insert(name, statement)
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Arc<Statement>> {
        if self.by_name.is_empty() {
            return None;
        }
        let before = self.bytes();
        let old = self.by_name.remove(name)?;
        self.bytes = Some(before - size(name, &old));
        Some(old)
    }

    /// Removes all but the unnamed statement.
    pub(super) fn remove_named(&mut self) {
        self.by_name.retain(|name, _| name.is_empty());
        self.bytes = None;
    }

    /// The statements, to be exchanged for others.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Arc<Statement>> {
        self.bytes = None;
        self.by_name.values_mut()
    }
}

impl Deref for HeldStatements {
    type Target = HashMap<Vec<u8>, Arc<Statement>>;

    fn deref(&self) -> &Self::Target {
        &self.by_name
    }
}

impl PartialEq for HeldStatements {
    fn eq(&self, other: &HeldStatements) -> bool {
        self.by_name == other.by_name
    }
}

impl Serialize for HeldStatements {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.by_name.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for HeldStatements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HeldStatements, D::Error> {
        let by_name = HashMap::deserialize(deserializer)?;
        let bytes = None;
        Ok(HeldStatements { by_name, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::dirty::DirtyState;

    fn statement(number: u64, text: &str) -> Arc<Statement> {
        let definition = [text.as_bytes(), b"\0\0\0"].concat();
        let dirty = DirtyState::default();
        Arc::new(Statement::new(number, definition, dirty, Arc::default()))
    }

    #[test]
    fn the_count_of_bytes_follows_each_change() {
        let mut held = HeldStatements::default();
        let counted = |held: &HeldStatements| {
            let by_name = held.by_name.clone();
            HeldStatements {
                by_name,
                bytes: None,
            }
            .bytes()
        };
        held.insert(b"a".to_vec(), statement(1, "select 1"));
        held.insert(Vec::new(), statement(2, "select 22"));
        assert_eq!(held.bytes(), counted(&held));
        held.insert(b"a".to_vec(), statement(3, "select 333"));
        assert_eq!(held.bytes(), counted(&held));
        for place in held.values_mut() {
            *place = statement(4, "select 4, 4, 4");
        }
        held.insert(b"b".to_vec(), statement(5, "select 5"));
        assert_eq!(held.bytes(), counted(&held));
        assert!(held.remove(b"c").is_none());
        held.remove(b"b");
        assert_eq!(held.bytes(), counted(&held));
        held.remove_named();
        assert_eq!((held.len(), held.bytes()), (1, counted(&held)));
        held.remove(b"");
        assert_eq!(held.bytes(), 0);
    }
}
