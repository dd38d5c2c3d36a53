//! The columns of a statement's rows, as far as a client relies on them once it knows them: the names of the
//! columns, their types and the types' modifiers. Not their formats, which each Bind chooses.
//!
//! The comparison is of hashes, which stay the same between versions of the pooler.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::wire::frame;

/// No client knows it yet.
const UNKNOWN: u64 = 0;
/// It gives no rows, and never will.
const NO_ROWS: u64 = 1;

/// The shape of a statement's rows, and up to when it is known to have been that. Whatever is on its way
/// between client and server, only one is true of a statement: another makes another statement.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RowShape {
    hash: AtomicU64,
    /// The epoch of the registry of statements in which it was seen last. It means nothing to another
    /// process, where each epoch is younger than none.
    #[serde(skip)]
    seen: AtomicU64,
}

impl RowShape {
    /// The same for another process.
    pub(super) fn copy(&self) -> RowShape {
        RowShape {
            hash: AtomicU64::new(self.hash.load(Ordering::Acquire)),
            seen: AtomicU64::new(0),
        }
    }

    /// Whether no client knows it yet.
    pub fn is_unknown(&self) -> bool {
        self.hash.load(Ordering::Acquire) == UNKNOWN
    }

    /// Whether it may differ in this epoch from what clients know.
    pub fn may_have_changed(&self, epoch: u64) -> bool {
        self.hash.load(Ordering::Acquire) > NO_ROWS && self.seen.load(Ordering::Acquire) < epoch
    }

    /// What clients know, of a statement for which it has not been seen.
    pub fn told(&self) -> RowShape {
        RowShape {
            hash: AtomicU64::new(self.hash.load(Ordering::Acquire)),
            seen: AtomicU64::new(0),
        }
    }

    /// Takes up what a server says of the statement, asked in this epoch: the body of a RowDescription, or
    /// `None` for NoData. Whether it is what it was.
    pub fn see(&self, row_description: Option<&[u8]>, epoch: u64) -> bool {
        let hash = row_description.map_or(NO_ROWS, hash);
        // Before the shape is known: nobody must take it for one that was never seen.
        self.seen.fetch_max(epoch, Ordering::AcqRel);
        let known =
            (self.hash).compare_exchange(UNKNOWN, hash, Ordering::AcqRel, Ordering::Acquire);
        known.is_ok() || known == Err(hash)
    }
}

/// FNV-1a over what counts of a RowDescription.
fn hash(body: &[u8]) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    let (count, mut rest) = body.split_at_checked(2).unwrap_or((body, &[]));
    hash.add(count);
    while let Some((name, after)) = frame::c_string(rest) {
        // Table and column number, type, size, modifier, format.
        let Some((field, behind)) = after.split_first_chunk::<18>() else {
            break;
        };
        hash.add(name);
        hash.add(&[0]);
        hash.add(&field[6..10]);
        hash.add(&field[12..16]);
        rest = behind;
    }
    hash.0.max(NO_ROWS + 1)
}

struct Fnv(u64);

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One column: number in its table, type, modifier, format.
    fn column(name: &str, number: u8, oid: u8, modifier: u8, format: u8) -> Vec<u8> {
        let field = [
            0, 0, 0, 9, 0, number, 0, 0, 0, oid, 0, 4, 0, 0, 0, modifier, 0, format,
        ];
        [&[0, 1][..], name.as_bytes(), &[0], &field].concat()
    }

    #[test]
    fn names_types_and_modifiers_count() {
        let shape = RowShape::default();
        assert!(shape.is_unknown());
        assert!(!shape.may_have_changed(7));
        assert!(shape.see(Some(&column("n", 1, 23, 0, 0)), 7));
        assert!(!shape.is_unknown());
        assert!(shape.see(Some(&column("n", 2, 23, 0, 1)), 7));
        assert!(!shape.see(Some(&column("m", 1, 23, 0, 0)), 7));
        assert!(!shape.see(Some(&column("n", 1, 25, 0, 0)), 7));
        assert!(!shape.see(Some(&column("n", 1, 23, 1, 0)), 7));
        assert!(!shape.see(None, 7));
        assert!(!shape.may_have_changed(7));
        assert!(shape.may_have_changed(8));
    }

    #[test]
    fn what_gives_no_rows_never_will() {
        let shape = RowShape::default();
        assert!(shape.see(None, 1));
        assert!(!shape.may_have_changed(2));
    }
}
