//! What is said to the operator: errors and warnings, each with its place.
//!
//! Knows nothing of keys or values. The invariant: everything told names the
//! file, the line, the key and the reason, all errors of a document come at
//! once, and no text here is ever made from a value that can be a secret
//! (callers pass only reasons; [`quote`] is for values of harmless keys).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named on the command line or in `[include]`.
    pub file: Arc<Path>,
    /// The line, from 1; 0 stands for the file as a whole.
    pub line: usize,
    /// The column in characters, from 1, where a syntax error sits.
    pub column: Option<usize>,
}

impl Place {
    pub(super) fn whole(file: &Arc<Path>) -> Self {
        Place {
            file: file.clone(),
            line: 0,
            column: None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        Ok(())
    }
}

/// One thing that is wrong and stops the run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The key with its table, e.g. `general.port`; empty for syntax errors.
    pub key: String,
    /// The reason, never containing a secret.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        sentence(f, &self.place, &self.key, &self.reason)
    }
}

/// One thing the operator should know and that does not stop the run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// The key with its table, e.g. `general.prot`.
    pub key: String,
    /// What to know about it.
    pub text: String,
}

impl Warning {
    /// Whether it tells of a setting that does nothing.
    pub fn tells_of_no_effect(&self) -> bool {
        ["has no effect", "unknown key", "unknown table"]
            .iter()
            .any(|beginning| self.text.starts_with(beginning))
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        sentence(f, &self.place, &self.key, &self.text)
    }
}

fn sentence(f: &mut fmt::Formatter<'_>, place: &Place, key: &str, text: &str) -> fmt::Result {
    if key.is_empty() {
        write!(f, "{place}: {text}")
    } else if text.starts_with("must be ") {
        // Reads on from the key: "general.port must be 1-65535".
        write!(f, "{place}: {key} {text}")
    } else {
        write!(f, "{place}: {key}: {text}")
    }
}

/// Why a configuration was not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    warnings: Vec<Warning>,
}

/// The kinds of [`Error`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The main file could not be read.
    Open {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        cause: String,
    },
    /// The file's suffix says YAML.
    Format {
        /// Which file.
        path: PathBuf,
    },
    /// The document is wrong in these places, in the order of the file.
    Invalid {
        /// At least one.
        problems: Vec<Problem>,
    },
}

impl Error {
    /// The kind of error.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// What else there is to tell about the document: a key that is missing may
    /// be one that is misspelt.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    fn new(kind: ErrorKind) -> Self {
        Error {
            kind,
            warnings: Vec::new(),
        }
    }

    pub(super) fn open(path: &Path, cause: &std::io::Error) -> Self {
        Error::new(ErrorKind::Open {
            path: path.into(),
            cause: cause.to_string(),
        })
    }

    pub(super) fn format(path: &Path) -> Self {
        Error::new(ErrorKind::Format { path: path.into() })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ErrorKind::Open { path, cause } => {
                write!(f, "Could not open '{}': {cause}", path.display())
            }
            ErrorKind::Format { path } => write!(f, "{}: {}", path.display(), TOML_ONLY),
            ErrorKind::Invalid { problems } => {
                for (i, problem) in problems.iter().enumerate() {
                    if i > 0 {
                        writeln!(f)?;
                    }
                    write!(f, "{problem}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {}

pub(super) const TOML_ONLY: &str =
    "this program reads TOML only, not YAML; write the configuration as a .toml file";

/// Collects what is to be told while a document is read.
#[derive(Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    /// What `-t` tells and a start does not.
    pub notes: Vec<Warning>,
}

impl Report {
    pub fn fail(&mut self, place: &Place, key: impl Into<String>, reason: impl Into<String>) {
        self.problems.push(Problem {
            place: place.clone(),
            key: key.into(),
            reason: reason.into(),
        });
    }

    pub fn warn(&mut self, place: &Place, key: impl Into<String>, text: impl Into<String>) {
        self.warnings.push(Warning {
            place: place.clone(),
            key: key.into(),
            text: text.into(),
        });
    }

    /// Tells something that is of interest only when a configuration is tested.
    pub fn note(&mut self, place: &Place, key: impl Into<String>, text: impl Into<String>) {
        self.notes.push(Warning {
            place: place.clone(),
            key: key.into(),
            text: text.into(),
        });
    }

    /// The warnings, if nothing was wrong.
    pub fn finish(mut self) -> Result<Vec<Warning>, Error> {
        self.warnings.sort();
        self.warnings.dedup();
        if self.problems.is_empty() {
            return Ok(self.warnings);
        }
        self.problems.sort();
        self.problems.dedup();
        let kind = ErrorKind::Invalid {
            problems: self.problems,
        };
        Err(Error {
            kind,
            warnings: self.warnings,
        })
    }

    /// Stops early, when what follows would only repeat what is known.
    pub fn stop(&mut self) -> Result<(), Error> {
        if self.problems.is_empty() {
            return Ok(());
        }
        std::mem::take(self).finish().map(drop)
    }
}

/// A harmless value or name for a message: quoted, control characters made
/// visible, cut to a length that fits a line.
pub(super) fn quote(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED).collect();
    if text.chars().nth(QUOTED).is_some() {
        short.push_str("...");
    }
    format!("{short:?}")
}

/// A key for a message: as written if it is a word, else quoted.
pub(super) fn word(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.len() <= QUOTED && key.chars().all(plain) {
        key.into()
    } else {
        quote(key)
    }
}

const QUOTED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_values_stay_on_one_short_line() {
        assert_eq!(quote("a\nb"), r#""a\nb""#);
        assert!(quote(&"x".repeat(1000)).len() < 80);
        assert_eq!(word("port"), "port");
        assert_eq!(word("po.rt"), r#""po.rt""#);
    }

    #[test]
    fn all_problems_are_told_in_the_order_of_the_file() {
        let file: Arc<Path> = Path::new("a.toml").into();
        let at = |line| Place {
            file: file.clone(),
            line,
            column: None,
        };
        let mut report = Report::default();
        report.fail(&at(9), "general.port", "must be 1-65535");
        report.fail(&at(2), "general.host", "is empty");
        let error = report.finish().unwrap_err();
        assert_eq!(
            error.to_string(),
            "a.toml:2: general.host: is empty\na.toml:9: general.port must be 1-65535"
        );
    }
}
