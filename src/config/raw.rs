//! The document as typed: a tree of values that know their file and line.
//!
//! Reads the main file, merges the files of `[include]` into it, and understands
//! nothing: which keys exist and what they mean is `settings`' business. The
//! invariant: every node knows where it was written, and no syntax error quotes
//! the text around it, which may hold a password.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::problem::{Error, Place, Report, TOML_ONLY, quote};

/// The keys of one table.
pub(super) type Table = BTreeMap<String, Node>;

/// A value and where its key stands.
pub(super) struct Node {
    pub place: Place,
    pub tree: Tree,
}

/// A TOML value.
pub(super) enum Tree {
    Text(Zeroizing<String>),
    Integer(i128),
    Bool(bool),
    List(Vec<Node>),
    Table(Table),
    /// Floats, dates, integers beyond 128 bits: no key takes one. Holds the
    /// words for it.
    Other(&'static str),
}

impl Tree {
    /// What it is, for "expected a string, found ...".
    pub fn describe(&self) -> &'static str {
        match self {
            Tree::Text(_) => "a string",
            Tree::Integer(_) => "an integer",
            Tree::Bool(_) => "a boolean",
            Tree::List(_) => "an array",
            Tree::Table(_) => "a table",
            Tree::Other(words) => words,
        }
    }
}

/// A whole configuration, includes merged.
pub(super) struct Document {
    pub root: Table,
    pub top: Place,
}

/// Reads `path` and what it includes.
pub(super) fn read(path: &Path, report: &mut Report) -> Result<Document, Error> {
    if is_yaml(path) {
        return Err(Error::format(path));
    }
    let bytes = std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|e| Error::open(path, &e))?;
    tell_exposed(path, report);
    let document = parse(&bytes, path, report);
    report.stop()?;
    Ok(document)
}

/// Tells if everybody on this machine may read the passwords in the file, or write what they like into it.
fn tell_exposed(path: &Path, report: &mut Report) {
    let mode = std::fs::metadata(path).map_or(0, |file| file.permissions().mode());
    let what = match (mode & 0o004, mode & 0o002) {
        (0, 0) => return,
        (_, 0) => "read the passwords in it",
        _ => "change it",
    };
    report.warn(
        &Place::whole(&path.into()),
        "permissions",
        format!(
            "every user of this machine can {what}; chmod o= {}",
            quote(&path.to_string_lossy())
        ),
    );
}

/// Reads `bytes` as if they stood in the file `path`, and what they include.
pub(super) fn parse(bytes: &[u8], path: &Path, report: &mut Report) -> Document {
    let file: Arc<Path> = path.into();
    let mut root = parse_one(bytes, &file, report);
    for (included, place) in includes(&root, report) {
        // Relative names start at the working directory, as they always did.
        let path = Path::new(&included);
        if is_yaml(path) {
            report.fail(
                &place,
                "include.files",
                format!("{}: {TOML_ONLY}", quote(&included)),
            );
            continue;
        }
        match std::fs::read(path).map(Zeroizing::new) {
            Ok(bytes) => {
                log::info!("Merge config with include file: {included}");
                tell_exposed(path, report);
                let mut table = parse_one(&bytes, &path.into(), report);
                if let Some(nested) = table.remove("include") {
                    report.warn(
                        &nested.place,
                        "include",
                        "has no effect: files included by an included file are not read",
                    );
                }
                merge(&mut root, table);
            }
            Err(e) => {
                report.fail(
                    &place,
                    "include.files",
                    format!("Could not open '{included}': {e}"),
                );
            }
        }
    }
    Document {
        root,
        top: Place::whole(&file),
    }
}

/// Reads a single value, as a default is written in a definition.
pub(super) fn parse_value(text: &str) -> Option<Node> {
    let file: Arc<Path> = Path::new("(default)").into();
    let value = DeValue::parse(text).ok()?;
    let lines = Lines::of(text, &file);
    Some(Node {
        place: lines.place(0),
        tree: lines.tree(value.get_ref()),
    })
}

fn is_yaml(path: &Path) -> bool {
    let suffix = path.extension().unwrap_or_default();
    suffix.eq_ignore_ascii_case("yaml") || suffix.eq_ignore_ascii_case("yml")
}

fn parse_one(bytes: &[u8], file: &Arc<Path>, report: &mut Report) -> Table {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let line = 1 + bytes[..e.valid_up_to()]
                .iter()
                .filter(|b| **b == b'\n')
                .count();
            let place = Place {
                line,
                ..Place::whole(file)
            };
            report.fail(&place, "", "the file is not UTF-8 text");
            return Table::new();
        }
    };
    let lines = Lines::of(text, file);
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut failed = false;
    for error in errors {
        // `message` is made of fixed words; `Display` would quote the line.
        let place = error
            .span()
            .map_or_else(|| Place::whole(file), |s| lines.column(s.start));
        report.fail(&place, "", error.message());
        failed = true;
    }
    if failed && is_pgbouncers(text) {
        report.fail(&Place::whole(file), "", PGBOUNCERS);
    }
    lines.table(root.get_ref())
}

const PGBOUNCERS: &str = "this is a configuration of PgBouncer; pg_doorman reads TOML, with a table [pools.NAME] for \
     each database and [general] for what [pgbouncer] says";

/// Whether a text that is not TOML is an INI file of PgBouncer.
fn is_pgbouncers(text: &str) -> bool {
    text.lines()
        .any(|line| matches!(line.trim(), "[databases]" | "[pgbouncer]"))
}

fn includes(root: &Table, report: &mut Report) -> Vec<(String, Place)> {
    let Some(Node {
        tree: Tree::Table(include),
        ..
    }) = root.get("include")
    else {
        return Vec::new(); // Absent, or of a wrong type, which `settings` reports.
    };
    let Some(files) = include.get("files") else {
        return Vec::new();
    };
    let Tree::List(items) = &files.tree else {
        let found = files.tree.describe();
        report.fail(
            &files.place,
            "include.files",
            format!("expected an array of strings, found {found}"),
        );
        return Vec::new();
    };
    let mut names = Vec::new();
    for item in items {
        match &item.tree {
            Tree::Text(name) => names.push((name.to_string(), item.place.clone())),
            other => {
                let found = other.describe();
                report.fail(
                    &item.place,
                    "include.files",
                    format!("expected a string, found {found}"),
                );
            }
        }
    }
    names
}

/// Puts `from` over `onto`: tables are merged key by key, lists of tables (users)
/// are joined, anything else is replaced.
fn merge(onto: &mut Table, from: Table) {
    for (key, new) in from {
        match onto.get_mut(&key) {
            None => {
                onto.insert(key, new);
            }
            Some(old) => match (&mut old.tree, new.tree) {
                (Tree::Table(old), Tree::Table(new)) => merge(old, new),
                (Tree::List(old), Tree::List(new)) if all_tables(old) && all_tables(&new) => {
                    old.extend(new);
                }
                (tree, new_tree) => {
                    *tree = new_tree;
                    old.place = new.place;
                }
            },
        }
    }
}

fn all_tables(list: &[Node]) -> bool {
    !list.is_empty() && list.iter().all(|node| matches!(node.tree, Tree::Table(_)))
}

/// Turns byte offsets into lines.
struct Lines<'a> {
    text: &'a str,
    file: &'a Arc<Path>,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str, file: &'a Arc<Path>) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        let starts = std::iter::once(0)
            .chain(newlines.map(|(i, _)| i + 1))
            .collect();
        Lines { text, file, starts }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset);
        Place {
            file: self.file.clone(),
            line,
            column: None,
        }
    }

    fn column(&self, offset: usize) -> Place {
        let place = self.place(offset);
        let start = self
            .starts
            .get(place.line.saturating_sub(1))
            .copied()
            .unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or("");
        Place {
            column: Some(before.chars().count() + 1),
            ..place
        }
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        table
            .iter()
            .map(|(key, value)| {
                let place = self.place(key.span().start);
                (
                    key.get_ref().to_string(),
                    Node {
                        place,
                        tree: self.tree(value.get_ref()),
                    },
                )
            })
            .collect()
    }

    fn tree(&self, value: &DeValue<'_>) -> Tree {
        match value {
            DeValue::String(text) => Tree::Text(Zeroizing::new(text.to_string())),
            DeValue::Integer(number) => {
                match i128::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Tree::Integer(number),
                    Err(_) => Tree::Other("an integer that is too large"),
                }
            }
            DeValue::Boolean(bool) => Tree::Bool(*bool),
            DeValue::Float(_) => Tree::Other("a number with a fraction"),
            DeValue::Datetime(_) => Tree::Other("a date"),
            DeValue::Array(items) => Tree::List(
                items
                    .iter()
                    .map(|item| Node {
                        place: self.place(item.span().start),
                        tree: self.tree(item.get_ref()),
                    })
                    .collect(),
            ),
            DeValue::Table(table) => Tree::Table(self.table(table)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Result<Table, String> {
        let mut report = Report::default();
        let document = parse(text.as_bytes(), Path::new("x.toml"), &mut report);
        report
            .finish()
            .map(|_| document.root)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn every_key_and_every_table_in_a_list_knows_its_line() {
        let root = document("a = 1\n\n[b]\nc = [\n 1,\n 2]\n[[d]]\n[[d]]\n").unwrap();
        assert_eq!(root["a"].place.line, 1);
        assert_eq!(root["b"].place.line, 3);
        let Tree::Table(b) = &root["b"].tree else {
            panic!("b is a table")
        };
        let Tree::List(c) = &b["c"].tree else {
            panic!("c is a list")
        };
        assert_eq!((b["c"].place.line, c[1].place.line), (4, 6));
        let Tree::List(d) = &root["d"].tree else {
            panic!("d is a list")
        };
        assert_eq!((d[0].place.line, d[1].place.line), (7, 8));
    }

    #[test]
    fn a_syntax_error_names_line_and_column_and_never_quotes_the_line() {
        for text in [
            "x = 1\nadmin_password = \"hunter2\n",
            "x = 1\nadmin_password = hunter2\n",
            "x = 1\nadmin_password = \"a\" hunter2\n",
            "x = 1\nadmin_password = \"\\qhunter2\"\n",
            "x = 1\nadmin_password = 'hunter2\n",
        ] {
            let error = document(text).err().unwrap();
            assert!(error.starts_with("x.toml:2:"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn nesting_without_end_is_an_error_and_not_a_crash() {
        let deep = format!("a = {}1", "[".repeat(100_000));
        assert!(document(&deep).is_err());
        let dotted = format!("a{} = 1", ".a".repeat(100_000));
        assert!(document(&dotted).is_err());
        let tables = format!("a = {}", "{a=".repeat(100_000));
        assert!(document(&tables).is_err());
    }

    #[test]
    fn bytes_that_are_not_text_are_told_with_their_line() {
        let mut report = Report::default();
        parse(b"a = 1\nb = \"\xff\"", Path::new("x.toml"), &mut report);
        let error = report.finish().unwrap_err().to_string();
        assert_eq!(error, "x.toml:2: the file is not UTF-8 text");
    }
}
