//! The lines of `pg_hba.conf` and `pg_ident.conf`, those of included files and the words of files behind an `@`
//! among them.
//!
//! Knows nothing of rules and maps. The invariant: every line that was not read is told with its file and number; none
//! is left out in silence but those of a file that `include_if_exists` may miss.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fields::{self, Field, Word};
use super::problem::quote;

/// Files inside files, at most (PostgreSQL's `CONF_FILE_MAX_DEPTH`).
const MAX_DEPTH: usize = 10;

/// Where a line stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinePlace {
    /// The file; `None` for a text in the configuration.
    pub file: Option<Arc<Path>>,
    /// From 1; that of the first part, if backslashes join the line from several.
    pub line: usize,
}

impl fmt::Display for LinePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        match &self.file {
            Some(file) => write!(f, " of {}", file.display()),
            None => Ok(()),
        }
    }
}

/// A line with something on it.
pub(super) struct Line {
    /// Where it stands.
    pub at: LinePlace,
    /// One or more.
    pub fields: Vec<Field>,
}

/// A line that is not understood.
#[derive(Debug)]
pub(super) struct Wrong {
    /// Where it stands.
    pub at: LinePlace,
    /// What is wrong.
    pub reason: String,
}

/// Reads all lines of a text, gives each to `read`, and returns what that makes of them, or everything that is wrong.
/// `file` is where the text stands, if that is a file of its own; files are looked for in `directory`.
pub(super) fn parse<T>(
    text: &[u8],
    file: Option<Arc<Path>>,
    directory: &Path,
    read: impl Fn(&Line) -> Result<T, String>,
) -> Result<Vec<T>, Vec<Wrong>> {
    let mut reader = Reader::default();
    let source = Source {
        file,
        directory,
        depth: 0,
    };
    reader.text(text, &source);
    let (mut all, mut wrong) = (Vec::new(), reader.wrong);
    for line in reader.lines {
        match read(&line) {
            Ok(one) => all.push(one),
            Err(reason) => wrong.push(Wrong {
                at: line.at,
                reason,
            }),
        }
    }
    if wrong.is_empty() {
        Ok(all)
    } else {
        Err(wrong)
    }
}

/// What is read at the moment.
struct Source<'a> {
    file: Option<Arc<Path>>,
    directory: &'a Path,
    depth: usize,
}

#[derive(Default)]
struct Reader {
    lines: Vec<Line>,
    wrong: Vec<Wrong>,
}

impl Reader {
    fn text(&mut self, text: &[u8], source: &Source<'_>) {
        for (line, text) in fields::logical_lines(text) {
            let at = LinePlace {
                file: source.file.clone(),
                line,
            };
            let fields = fields::split(&text, &mut |name| words_of_file(name, source));
            let outcome = fields.and_then(|fields| match fields.as_slice() {
                [] => Ok(None),
                [first, second] => match (first.as_slice(), second.as_slice()) {
                    ([kind, ..], [name, ..]) if self.include(&kind.text, &name.text, source)? => {
                        Ok(None)
                    }
                    _ => Ok(Some(fields)),
                },
                _ => Ok(Some(fields)),
            });
            match outcome {
                Ok(None) => {}
                Ok(Some(fields)) => self.lines.push(Line { at, fields }),
                Err(reason) => self.wrong.push(Wrong { at, reason }),
            }
        }
    }

    /// Whether the line includes something, which is read then.
    fn include(&mut self, kind: &[u8], name: &[u8], source: &Source<'_>) -> Result<bool, String> {
        match kind {
            b"include" => self.file(&located(name, source.directory)?, source, false)?,
            b"include_if_exists" => self.file(&located(name, source.directory)?, source, true)?,
            b"include_dir" => {
                for path in files_of_directory(&located(name, source.directory)?)? {
                    self.file(&path, source, false)?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn file(&mut self, path: &Path, from: &Source<'_>, may_miss: bool) -> Result<(), String> {
        let text = match open(path, from.depth + 1) {
            Ok(text) => text,
            Err(Unreadable::Missing(_)) if may_miss => return Ok(()),
            Err(why) => return Err(why.to_string()),
        };
        let source = Source {
            file: Some(path.into()),
            directory: path.parent().unwrap_or(Path::new("/")),
            depth: from.depth + 1,
        };
        self.text(&text, &source);
        Ok(())
    }
}

/// The words of a file behind an `@`: blanks, commas and line ends part them.
fn words_of_file(name: &[u8], from: &Source<'_>) -> Result<Vec<Word>, String> {
    let path = located(name, from.directory)?;
    let text = open(&path, from.depth + 1).map_err(|why| why.to_string())?;
    let mut reader = Reader::default();
    let source = Source {
        file: Some(path.as_path().into()),
        directory: path.parent().unwrap_or(Path::new("/")),
        depth: from.depth + 1,
    };
    reader.text(&text, &source);
    if let Some(wrong) = reader.wrong.first() {
        return Err(format!("{}: {}", wrong.at, wrong.reason));
    }
    let fields = reader.lines.into_iter().flat_map(|line| line.fields);
    Ok(fields.flatten().collect())
}

/// Where a file of this name is: its name may be absolute, or counts from the directory of the file that names it.
fn located(name: &[u8], directory: &Path) -> Result<PathBuf, String> {
    use std::os::unix::ffi::OsStrExt;
    if name.is_empty() {
        return Err("the name of the file is empty".into());
    }
    Ok(directory.join(std::ffi::OsStr::from_bytes(name)))
}

fn files_of_directory(directory: &Path) -> Result<Vec<PathBuf>, String> {
    use std::os::unix::ffi::OsStrExt;
    let failed = |error: io::Error| {
        let name = quote(&directory.to_string_lossy());
        format!("could not open directory {name}: {error}")
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map_or(&b""[..], OsStrExt::as_bytes);
        let is_config = name.ends_with(b".conf") && name.len() > 5 && !name.starts_with(b".");
        if is_config && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

enum Unreadable {
    Missing(PathBuf),
    Other(PathBuf, String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, why) = match self {
            Unreadable::Missing(path) => (path, "there is no such file"),
            Unreadable::Other(path, why) => (path, why.as_str()),
        };
        let name = quote(&path.to_string_lossy());
        write!(f, "could not open file {name}: {why}")
    }
}

fn open(path: &Path, depth: usize) -> Result<Vec<u8>, Unreadable> {
    if depth > MAX_DEPTH {
        let why = "maximum nesting depth exceeded".into();
        return Err(Unreadable::Other(path.into(), why));
    }
    std::fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unreadable::Missing(path.into()),
        _ => Unreadable::Other(path.into(), error.to_string()),
    })
}
