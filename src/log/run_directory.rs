//! The directory of this program under `/run`, or that of its user: where its pid file is, and a log file can be.
//!
//! Makes the directory, and nothing in it. Invariant: nothing above it is ever made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

/// The directory.
pub const RUN_DIRECTORY: &str = "/run/pg_doorman";

/// Makes the directory, if `path` is in it.
pub fn make_run_directory_of(path: &Path) {
    if path.parent() == Some(Path::new(RUN_DIRECTORY)) {
        // Fails if it is there, and for anybody but root.
        let _ = fs::create_dir(RUN_DIRECTORY);
    }
}

/// Whether `path` is in the directory, which is not there and can be made.
pub fn can_make_run_directory_of(path: &Path) -> bool {
    let usual = Path::new(RUN_DIRECTORY);
    path.parent() == Some(usual) && !usual.exists() && usual.parent().is_some_and(is_writable)
}

/// Whether files can be made in a directory.
pub fn is_writable(directory: &Path) -> bool {
    access(directory, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// The first directory for pid files that can be written to.
///
/// # Errors
/// If there is none, in words that say what to do.
pub fn usual_directory() -> io::Result<PathBuf> {
    let usual = PathBuf::from(RUN_DIRECTORY);
    if is_writable(&usual) {
        return Ok(usual);
    }
    match runtime_directory() {
        Some(own) if is_writable(&own) => Ok(own),
        _ => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "no place for a pid file: neither {RUN_DIRECTORY} nor $XDG_RUNTIME_DIR can be written to; \
                 set daemon_pid_file in the configuration"
            ),
        )),
    }
}

/// [`usual_directory`], or the one under `/run` that is not there and can be made.
///
/// # Errors
/// As [`usual_directory`].
pub fn usual_directory_unmade() -> io::Result<PathBuf> {
    let usual = PathBuf::from(RUN_DIRECTORY);
    if can_make_run_directory_of(&usual.join("file")) {
        return Ok(usual);
    }
    usual_directory()
}

/// `XDG_RUNTIME_DIR`, if it is an absolute path.
pub fn runtime_directory() -> Option<PathBuf> {
    let own = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    own.is_absolute().then_some(own)
}
