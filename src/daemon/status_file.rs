//! The status file: a process writes the outcome of its upgrades there, for other processes of the same user.
//!
//! It is a file in memory (`memfd_create`) that the process keeps open as long as it lives. The same user,
//! or root, opens it through `/proc/PID/fd` and can read on after the
//! process has ended. So `pg_doorman upgrade` needs no socket, port, password or file on a disk, in the
//! foreground, in a daemon and in a container alike; no other process can pass itself off as this one; and
//! an outcome cannot be missed, however soon the process is gone.
//!
//! Invariant: what is read is one whole entry. The number in front is odd while an entry is being written,
//! and greater after each.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::upgrade::outcome::Outcome;

/// The file's name, by which it is known among a process's descriptors.
const NAME: &CStr = c"pg_doorman";
const LINK: &str = "/memfd:pg_doorman (deleted)";

/// Bytes in front of an entry: the number, and the entry's length.
const HEADER: usize = 16;

/// The longest entry, in bytes. A text that does not fit is cut.
const MAX_LENGTH: usize = 64 * 1024;
const MAX_TEXT: usize = 8 * 1024;

/// How often a reader tries to meet no writer, and how long it leaves the processor to one in between: a
/// busy machine may stop a writer half-way for tens of milliseconds.
const TRIES: usize = 500;
const BETWEEN_TRIES: Duration = Duration::from_millis(1);

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The binary a successor would be made of.
    pub program: PathBuf,
    /// Its configuration file.
    pub config_file: PathBuf,
    /// How many upgrades it has begun.
    pub begun: u64,
    /// What it is doing.
    pub upgrade_state: UpgradeState,
}

/// What a process is doing, as far as upgrades are concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpgradeState {
    /// Its predecessor is handing over to it.
    TakingOver,
    /// It serves and has not tried an upgrade.
    Serving,
    /// An upgrade is under way.
    Upgrading,
    /// It serves; the last upgrade was abandoned, and this is why.
    Abandoned(String),
    /// Its successor has taken over, and it ends.
    Replaced(Outcome),
    /// It is shutting down.
    Stopping,
}

/// The writer's side.
#[derive(Debug)]
pub struct StatusFile {
    file: File,
    number: u64,
    entry: Status,
}

/// A configuration file's name as it stands in a status file.
pub fn named(config_file: &Path) -> PathBuf {
    fs::canonicalize(config_file)
        .or_else(|_| std::path::absolute(config_file))
        .unwrap_or_else(|_| config_file.to_owned())
}

impl StatusFile {
    /// The status file of this process.
    ///
    /// # Errors
    /// No descriptor, or no memory, is left.
    pub fn open(
        program: &Path,
        config_file: &Path,
        upgrade_state: UpgradeState,
    ) -> io::Result<StatusFile> {
        let file = File::from(memfd_create(NAME, MFdFlags::MFD_CLOEXEC)?);
        file.set_permissions(fs::Permissions::from_mode(0o444))?;
        let mut status_file = StatusFile {
            file,
            number: 0,
            entry: Status {
                program: program.to_owned(),
                config_file: named(config_file),
                begun: 0,
                upgrade_state,
            },
        };
        status_file.write()?;
        Ok(status_file)
    }

    /// What the process does has changed. It goes on if that cannot be written down.
    pub fn note(&mut self, upgrade_state: UpgradeState) {
        self.entry.begun += u64::from(upgrade_state == UpgradeState::Upgrading);
        self.entry.upgrade_state = match upgrade_state {
            UpgradeState::Abandoned(mut why) => {
                let end = (0..=MAX_TEXT.min(why.len())).rfind(|&at| why.is_char_boundary(at));
                why.truncate(end.unwrap_or(0));
                UpgradeState::Abandoned(why)
            }
            other => other,
        };
        if let Err(error) = self.write() {
            log::warn!("could not write down for `pg_doorman upgrade` what has happened: {error}");
        }
    }

    /// The predecessor is done. Whatever has happened here since is told already.
    pub fn took_over(&mut self) {
        if self.entry.upgrade_state == UpgradeState::TakingOver {
            self.note(UpgradeState::Serving);
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let body = serde_json::to_vec(&self.entry)?;
        self.file
            .write_all_at(&(self.number + 1).to_le_bytes(), 0)?;
        self.file
            .write_all_at(&(body.len() as u64).to_le_bytes(), 8)?;
        self.file.write_all_at(&body, HEADER as u64)?;
        self.number += 2;
        self.file.write_all_at(&self.number.to_le_bytes(), 0)
    }
}

/// The reader's side.
#[derive(Debug)]
pub struct Reader(File);

impl Reader {
    /// The status file of a process; `None` if it has none, and so is not pg_doorman, or an old one.
    ///
    /// # Errors
    /// `NotFound` if there is no such process, `PermissionDenied` if its descriptors may not be seen.
    pub fn of(pid: u32) -> io::Result<Option<Reader>> {
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let path = entry?.path();
            let link = match fs::read_link(&path) {
                // Root without CAP_SYS_PTRACE sees that there are descriptors, and no more.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(error),
                // It may have been closed since.
                link => link.unwrap_or_default(),
            };
            // Who can only read in it is such a reader.
            let is_writer = |path: &PathBuf| {
                fs::symlink_metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o200 != 0)
            };
            if link == Path::new(LINK) && is_writer(&path) {
                // The other process chooses what that is, and must not make this one wait.
                let file = File::options()
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(&path)?;
                return Ok(file.metadata()?.is_file().then_some(Reader(file)));
            }
        }
        Ok(None)
    }

    /// Whether two processes have one and the same status file open.
    pub fn is_same(&self, other: &Reader) -> bool {
        let inode = |reader: &Reader| reader.0.metadata().map(|meta| meta.ino()).ok();
        inode(self).is_some() && inode(self) == inode(other)
    }

    /// The entry as it now is.
    ///
    /// # Errors
    /// `InvalidData` if it is none, as when another version wrote it or its writer was killed half-way.
    pub fn read(&self) -> io::Result<Status> {
        for _ in 0..TRIES {
            let mut head = [0; HEADER];
            self.0.read_exact_at(&mut head, 0)?;
            let (number, length) = head.split_at(8);
            let length = length.try_into().map(u64::from_le_bytes).unwrap_or(0);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let is_whole = number.first().is_some_and(|low| low % 2 == 0) && length <= MAX_LENGTH;
            if is_whole {
                let mut body = vec![0; length];
                self.0.read_exact_at(&mut body, HEADER as u64)?;
                let mut again = [0; 8];
                self.0.read_exact_at(&mut again, 0)?;
                if again == *number {
                    return Ok(serde_json::from_slice(&body)?);
                }
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
        Err(Error::new(
            ErrorKind::InvalidData,
            "it was left half written",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_file() -> (StatusFile, Reader) {
        let status_file = StatusFile::open(
            Path::new("/x"),
            Path::new("/no/such.toml"),
            UpgradeState::Serving,
        )
        .unwrap();
        let reader = Reader(status_file.file.try_clone().unwrap());
        (status_file, reader)
    }

    #[test]
    fn what_is_noted_is_read() {
        let (mut status_file, reader) = status_file();
        let entry = reader.read().unwrap();
        assert_eq!(entry.upgrade_state, UpgradeState::Serving);
        assert_eq!(entry.config_file, Path::new("/no/such.toml"));
        status_file.note(UpgradeState::Upgrading);
        status_file.note(UpgradeState::Abandoned("é".repeat(100_000)));
        let entry = reader.read().unwrap();
        assert_eq!(entry.begun, 1);
        assert_eq!(
            entry.upgrade_state,
            UpgradeState::Abandoned("é".repeat(MAX_TEXT / 2))
        );
        let outcome = Outcome {
            moved: 7,
            longest: Duration::from_micros(1),
        };
        status_file.note(UpgradeState::Replaced(outcome));
        drop(status_file);
        assert_eq!(
            reader.read().unwrap().upgrade_state,
            UpgradeState::Replaced(outcome)
        );
    }

    #[test]
    fn a_reader_meets_no_half_entry() {
        let (mut status_file, reader) = status_file();
        let writer = std::thread::spawn(move || {
            for n in (0..26).cycle().take(2000) {
                let text = char::from(b'a' + n).to_string().repeat(6000);
                status_file.note(UpgradeState::Abandoned(text));
            }
        });
        while !writer.is_finished() {
            if let UpgradeState::Abandoned(text) = reader.read().unwrap().upgrade_state {
                assert!(text.len() == 6000 && text.split(&text[..1]).all(str::is_empty));
            }
        }
        writer.join().unwrap();
    }

    #[test]
    fn it_is_found_among_the_descriptors_of_a_process() {
        let (_ledger, _) = status_file();
        assert!(Reader::of(std::process::id()).unwrap().is_some());
        assert!(Reader::of(i32::MAX as u32).is_err());
    }

    #[test]
    fn a_writer_that_died_half_way_is_an_error() {
        let (status_file, reader) = status_file();
        status_file
            .file
            .write_all_at(&7_u64.to_le_bytes(), 0)
            .unwrap();
        assert!(reader.read().is_err());
    }
}
