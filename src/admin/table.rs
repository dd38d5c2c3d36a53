//! A table as the console prints it.

use crate::wire::backend;

/// A table: columns with the OIDs of their types, and rows of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    columns: Vec<(&'static str, u32)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows: the names of its columns, with blanks between them. Columns behind `int4:`, `numeric:` or
    /// `text:` have this type, those before any of them `text`.
    pub fn new(columns: &'static str) -> Table {
        const TEXT: u32 = 25;
        let mut kind = TEXT;
        let mut all = Vec::new();
        for word in columns.split_whitespace() {
            match word {
                "text:" => kind = TEXT,
                "int4:" => kind = 23,
                "numeric:" => kind = 1700,
                name => all.push((name, kind)),
            }
        }
        Table {
            columns: all,
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
        backend::row_description(out, &self.columns);
        for row in &self.rows {
            backend::data_row(out, row);
        }
        backend::command_complete(out, tag);
    }
}
