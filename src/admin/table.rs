//! A table as the console prints it.

use crate::wire::backend;

/// The types of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `text`.
    Text,
    /// `numeric`.
    Numeric,
    /// `int4`.
    Int4,
}

impl Type {
    fn oid(self) -> u32 {
        match self {
            Type::Text => 25,
            Type::Numeric => 1700,
            Type::Int4 => 23,
        }
    }
}

/// A table: columns with their types, and rows of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    columns: Vec<(&'static str, Type)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: &[(&'static str, Type)]) -> Table {
        Table {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Appends a row. Every column has a value.
    pub fn row(&mut self, values: Vec<String>) {
        debug_assert_eq!(values.len(), self.columns.len());
        self.rows.push(values);
    }

    /// Appends the table's messages, CommandComplete with `tag` included.
    pub fn write(&self, out: &mut Vec<u8>, tag: &str) {
        let columns: Vec<_> = self
            .columns
            .iter()
            .map(|(name, kind)| (*name, kind.oid()))
            .collect();
        backend::row_description(out, &columns);
        for row in &self.rows {
            backend::data_row(out, row);
        }
        backend::command_complete(out, tag);
    }
}
