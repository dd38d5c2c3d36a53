//! The log file, and where a daemon logs if the configuration does not say.
//!
//! The file is appended to. `reopen` opens it anew, so that logrotate can move the old one away. It does not
//! rotate files itself, and writes no records: see `stderr`.
//!
//! Invariant: a file that cannot be opened anew leaves the old one in use.

use nix::unistd::{AccessFlags, access};
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::logging::LogOutput;
use super::run_directory::{
    can_make_run_directory_of, make_run_directory_of, usual_directory_unmade,
};
use super::syslog::DEV_LOG;
use crate::config::General;

/// Where a daemon logs if the configuration does not say, if this directory can be written to.
const USUAL_DIRECTORY: &str = "/var/log/pg_doorman";
const USUAL_NAME: &str = "pg_doorman.log";

/// The path of the log file of this process, and the file opened anew, until the next record takes it.
static REOPENED: Mutex<Option<(PathBuf, Option<File>)>> = Mutex::new(None);

/// The log file of this process.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
}

impl LogFile {
    /// Opens the log file of this process. Makes it if it is missing, and `/run/pg_doorman` if it is to be there.
    ///
    /// # Errors
    /// The path, and why it cannot be opened.
    pub(super) fn open(path: &Path) -> io::Result<LogFile> {
        make_run_directory_of(path);
        let file = append(path)?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        *REOPENED.lock() = Some((path, None));
        Ok(LogFile { file })
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let reopened = REOPENED.lock().as_mut().and_then(|(_, file)| file.take());
        if let Some(file) = reopened {
            self.file = file;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for LogFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens the log file anew, if there is one. The next record goes to it.
///
/// # Errors
/// The path, and why it cannot be opened. Records go to the old file then.
pub(super) fn reopen() -> io::Result<()> {
    let mut reopened = REOPENED.lock();
    if let Some((path, file)) = reopened.as_mut() {
        *file = Some(append(path)?);
    }
    Ok(())
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        // Names of users and databases are in it.
        .mode(0o640)
        .open(path)
        .map_err(|error| named(path, &error))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("could not open log file {}: {error}", path.display()),
    )
}

/// Whether the log file at `path` can be opened; nothing is changed there.
///
/// # Errors
/// The path, and why it cannot be opened.
pub fn check(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let (place, right) = if path.exists() {
        (path, AccessFlags::W_OK)
    } else if can_make_run_directory_of(path) {
        return Ok(());
    } else {
        (directory, AccessFlags::W_OK | AccessFlags::X_OK)
    };
    let checked = access(place, right);
    checked.map_err(|error| named(path, &error.into()))
}

/// Where the log goes, by the configuration; and, for a daemon for which it does not say, where it goes then.
pub fn target(
    general: &General,
    daemon: bool,
    pid_file: Option<&Path>,
) -> (LogOutput, Option<String>) {
    if let Some(path) = &general.log_file {
        return (LogOutput::File { path: path.clone() }, None);
    }
    if let Some(ident) = &general.syslog_prog_name {
        let ident = ident.clone();
        return (LogOutput::Syslog { ident }, None);
    }
    if !daemon {
        return (LogOutput::Stderr, None);
    }
    let (output, place) = usual_target(pid_file.or(general.daemon_pid_file.as_deref()));
    let notice =
        format!("neither log_file nor syslog_prog_name is set, so the log goes to {place}");
    (output, Some(notice))
}

fn usual_target(pid_file: Option<&Path>) -> (LogOutput, String) {
    let usual = Path::new(USUAL_DIRECTORY);
    let can_write = access(usual, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
    if !can_write && Path::new(DEV_LOG).exists() {
        let ident = "pg_doorman".to_owned();
        return (LogOutput::Syslog { ident }, "syslog".to_owned());
    }
    let directory = if can_write {
        usual.to_owned()
    } else {
        match pid_file {
            Some(path) => path.parent().map(Path::to_owned),
            None => usual_directory_unmade().ok(),
        }
        .unwrap_or_default()
    };
    let path = directory.join(USUAL_NAME);
    if check(&path).is_err() {
        let ident = "pg_doorman".to_owned();
        return (
            LogOutput::Syslog { ident },
            "syslog, once there is one".to_owned(),
        );
    }
    let place = path.display().to_string();
    (LogOutput::File { path }, place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::Scratch;

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_and_one_that_cannot_be_is_kept() {
        let place = Scratch::new();
        let path = place.path().join("log");
        let mut file = LogFile::open(&path).unwrap();
        file.write_all(b"1\n").unwrap();
        let old = place.path().join("log.1");
        std::fs::rename(&path, &old).unwrap();
        file.write_all(b"2\n").unwrap();
        reopen().unwrap();
        file.write_all(b"3\n").unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "1\n2\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "3\n");
        std::fs::rename(&path, &old).unwrap();
        std::fs::create_dir(&path).unwrap();
        let why = reopen().unwrap_err().to_string();
        assert!(why.contains("could not open log file"), "{why}");
        file.write_all(b"4\n").unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "3\n4\n");
    }

    #[test]
    fn checking_a_path_makes_nothing() {
        let place = Scratch::new();
        let path = place.path().join("log");
        check(&path).unwrap();
        assert!(!path.exists());
        assert!(check(&place.path().join("missing/log")).is_err());
    }
}
