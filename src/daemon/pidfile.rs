//! The pid file: the process id, for those who want to signal this instance.
//!
//! It holds `PID` and a line's end, and is readable for all. It is not a lock: it is
//! [`PidFile::write`] that finds out whether another instance lives.
//!
//! Invariant: the file at the path is at any time whole, absent, or not ours; it changes only by
//! `rename`, so a reader never sees half of it and nothing is ever written through a link.

use crate::log::run_directory::{
    RUN_DIRECTORY, make_run_directory_of, runtime_directory, usual_directory,
    usual_directory_unmade,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where the pid file is if the configuration does not say.
const USUAL_NAME: &str = "pg_doorman.pid";

/// A pid file that this process takes care of.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    pid: u32,
}

/// Why a pid file could not be read or written. Fit to be printed.
#[derive(Debug, Error)]
pub enum PidFileError {
    /// Another instance is running.
    #[error("another instance is running: process {pid} ({name}), says pid file {}", .path.display())]
    Running {
        /// The pid file that says so.
        path: PathBuf,
        /// Its process id.
        pid: u32,
        /// What the system calls that process.
        name: String,
    },
    /// There is something at the path that cannot be a pid file: a link, a directory, a device.
    #[error(
        "pid file {} is a link or no regular file; remove it or choose another path",
        .0.display()
    )]
    NotAFile(PathBuf),
    /// There is a file, but no process id in it.
    #[error("pid file {} holds no process id", .0.display())]
    NoPid(PathBuf),
    /// The system refused.
    #[error("could not {what} pid file {}: {error}", .path.display())]
    System {
        /// The pid file.
        path: PathBuf,
        /// What could not be done, as in "could not ...".
        what: &'static str,
        /// Why.
        error: io::Error,
    },
}

impl PidFile {
    /// Writes `pid` to the file at `path`, in place of one that a dead instance left.
    ///
    /// # Errors
    ///
    /// [`PidFileError`], `Running` if the file there names another instance that lives. Nothing
    /// was changed then.
    pub fn write(path: &Path, pid: u32) -> Result<PidFile, PidFileError> {
        PidFile::write_knowing(path, pid, instance)
    }

    /// [`PidFile::write`], where `instance` says the name of the instance of this program that
    /// runs as a process id, if one does.
    fn write_knowing(
        path: &Path,
        pid: u32,
        instance: impl Fn(u32) -> Option<String>,
    ) -> Result<PidFile, PidFileError> {
        match read(path) {
            Ok(Some(other)) if other != pid => {
                if let Some(name) = instance(other) {
                    let path = path.to_owned();
                    return Err(PidFileError::Running {
                        path,
                        pid: other,
                        name,
                    });
                }
            }
            // What is not a process id was not written by an instance that lives.
            Ok(_) | Err(PidFileError::NoPid(_)) => {}
            Err(error) => return Err(error),
        }
        let mut file = PidFile::adopt(path, pid);
        file.rewrite(pid)?;
        Ok(file)
    }

    /// Takes care of a pid file that another process has written, or will write, with `pid` in
    /// it: a successor's side of an upgrade. Touches nothing.
    pub fn adopt(path: &Path, pid: u32) -> PidFile {
        // Made absolute now, in case somebody changes the directory.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        PidFile { path, pid }
    }

    /// Where it is: an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts another process id into the file, without asking who runs. From then on it is ours
    /// while it holds that one.
    ///
    /// # Errors
    ///
    /// [`PidFileError`]; the file is as it was then.
    pub fn rewrite(&mut self, pid: u32) -> Result<(), PidFileError> {
        check_kind(&self.path)?;
        let beside = beside(&self.path);
        let failed = |what, error| PidFileError::System {
            path: self.path.clone(),
            what,
            error,
        };
        // Left by one who died while writing, under the process id that we have now.
        let _ = fs::remove_file(&beside);
        let written = create(&beside, pid)
            .map_err(|error| failed("write", error))
            .and_then(|()| {
                fs::rename(&beside, &self.path).map_err(|error| failed("put in place", error))
            });
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        } else {
            self.pid = pid;
        }
        written
    }

    /// Removes the file if it still holds the process id we put there. Returns whether it was
    /// removed; a file that is gone, or that another instance has written since, is no error.
    ///
    /// # Errors
    ///
    /// [`PidFileError::System`] if the file could not be removed.
    pub fn remove_if_mine(&self) -> Result<bool, PidFileError> {
        if !matches!(read(&self.path), Ok(Some(pid)) if pid == self.pid) {
            return Ok(false);
        }
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(PidFileError::System {
                path: self.path.clone(),
                what: "remove",
                error,
            }),
        }
    }
}

/// Where the pid file is if the configuration does not say: in the first directory that can be written to.
///
/// # Errors
/// If there is none, in words that say what to do.
pub fn usual_path() -> io::Result<PathBuf> {
    make_run_directory_of(&Path::new(RUN_DIRECTORY).join(USUAL_NAME));
    Ok(usual_directory()?.join(USUAL_NAME))
}

/// [`usual_path`], without making the directory.
///
/// # Errors
/// As [`usual_path`].
pub fn usual_path_unmade() -> io::Result<PathBuf> {
    Ok(usual_directory_unmade()?.join(USUAL_NAME))
}

/// The pid file that is there if the configuration does not say where it is.
pub fn usual_path_that_is_there() -> Option<PathBuf> {
    let directories = [Some(PathBuf::from(RUN_DIRECTORY)), runtime_directory()];
    let paths = directories.into_iter().flatten();
    paths
        .map(|directory| directory.join(USUAL_NAME))
        .find(|path| path.exists())
}

/// Whether a pid file can be put at `path`; nothing is changed there.
///
/// # Errors
/// [`PidFileError`].
pub fn check_writable(path: &Path) -> Result<(), PidFileError> {
    check_kind(path)?;
    let beside = beside(path);
    let _ = fs::remove_file(&beside);
    let tried = create(&beside, std::process::id());
    let _ = fs::remove_file(&beside);
    tried.map_err(|error| PidFileError::System {
        path: path.to_owned(),
        what: "write",
        error,
    })
}

/// The process id in the pid file at `path`; `None` if there is no file.
///
/// # Errors
///
/// [`PidFileError`] if there is something else, or it cannot be read.
pub fn read(path: &Path) -> Result<Option<u32>, PidFileError> {
    if !check_kind(path)? {
        return Ok(None);
    }
    let failed = |error| PidFileError::System {
        path: path.to_owned(),
        what: "read",
        error,
    };
    let opened = OpenOptions::new()
        .read(true)
        // Neither through a link nor into a wait, should somebody be quicker than the check.
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(64).read_to_end(&mut bytes).map_err(failed)?;
    std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
        // 0 and what is negative as a process id mean whole groups of processes to `kill`.
        .filter(|pid| *pid > 0 && i32::try_from(*pid).is_ok())
        .map(Some)
        .ok_or_else(|| PidFileError::NoPid(path.to_owned()))
}

/// Whether there is a file at `path`. What is not a regular file is an error.
fn check_kind(path: &Path) -> Result<bool, PidFileError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(true),
        Ok(_) => Err(PidFileError::NotAFile(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(PidFileError::System {
            path: path.to_owned(),
            what: "look at",
            error,
        }),
    }
}

/// The name under which the next content of `path` is written, in the same directory.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

/// Writes a new file; one that exists, also as a link, is not touched.
fn create(path: &Path, pid: u32) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    // A daemon's umask takes away what others need to signal it.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(format!("{pid}\n").as_bytes())
}

/// The name of the instance of this program that runs as `pid`, if one does.
///
/// A pid file can outlive a reboot, and its number be another program's by then. So a living
/// process counts only if it has this program's name, or none can be had.
fn instance(pid: u32) -> Option<String> {
    let raw = i32::try_from(pid).ok()?;
    // EPERM says that it lives, under another user.
    if let Err(Errno::ESRCH) = kill(Pid::from_raw(raw), None) {
        return None;
    }
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return Some("its name is not known".to_owned());
    };
    let own = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let own = parse_stat(&own).map(|(name, _)| name);
    let (name, state) = parse_stat(&stat)?;
    let ours = name.starts_with("pg_doorman") || Some(name) == own;
    // A zombie (Z) or one that is being removed (X) serves nobody.
    (ours && !matches!(state, 'Z' | 'X')).then(|| name.to_owned())
}

/// Name and state of a process in the text of `/proc/PID/stat`. The name may hold anything.
fn parse_stat(text: &str) -> Option<(&str, char)> {
    let (before, after) = text.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    Some((name, after.trim_start().chars().next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::Scratch;
    use std::os::unix::fs::symlink;

    const ME: u32 = 4711;

    fn nobody(_: u32) -> Option<String> {
        None
    }

    fn somebody(_: u32) -> Option<String> {
        Some("pg_doorman".to_owned())
    }

    fn write(path: &Path) -> PidFile {
        PidFile::write_knowing(path, ME, nobody).unwrap()
    }

    fn names(place: &Scratch) -> Vec<String> {
        fs::read_dir(place.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn it_holds_the_pid_and_a_lines_end_is_readable_for_all_and_alone() {
        let place = Scratch::new();
        let path = place.file("pid");
        write(&path);
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711\n");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        assert_eq!(names(&place), ["pid"]);
        assert_eq!(read(&path).unwrap(), Some(ME));
    }

    #[test]
    fn another_instance_that_lives_is_named_and_left_alone() {
        let place = Scratch::new();
        let path = place.file("pid");
        fs::write(&path, "815\n").unwrap();
        let error = PidFile::write_knowing(&path, ME, somebody).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "another instance is running: process 815 (pg_doorman), says pid file {}",
                path.display()
            )
        );
        assert_eq!(read(&path).unwrap(), Some(815));
    }

    #[test]
    fn what_a_dead_instance_or_nobody_left_is_replaced() {
        let place = Scratch::new();
        let path = place.file("pid");
        for left in [
            "815\n",
            "",
            "not a pid",
            "-1",
            "0",
            "99999999999",
            "\u{fffd}",
        ] {
            fs::write(&path, left).unwrap();
            write(&path);
            assert_eq!(read(&path).unwrap(), Some(ME), "{left:?}");
        }
    }

    #[test]
    fn our_own_pid_in_it_is_not_another_instance() {
        let place = Scratch::new();
        let path = place.file("pid");
        fs::write(&path, "4711\n").unwrap();
        PidFile::write_knowing(&path, ME, somebody).unwrap();
    }

    #[test]
    fn a_link_is_neither_followed_nor_replaced() {
        let place = Scratch::new();
        let (link, target) = (place.file("pid"), place.file("precious"));
        fs::write(&target, "precious").unwrap();
        symlink(&target, &link).unwrap();
        let error = PidFile::write_knowing(&link, ME, nobody).unwrap_err();
        assert!(matches!(error, PidFileError::NotAFile(_)), "{error}");
        assert!(matches!(read(&link), Err(PidFileError::NotAFile(_))));
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn a_link_waiting_at_the_place_of_the_new_file_is_not_written_through() {
        let place = Scratch::new();
        let (path, target) = (place.file("pid"), place.file("precious"));
        fs::write(&target, "precious").unwrap();
        symlink(&target, beside(&path)).unwrap();
        write(&path);
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        assert_eq!(read(&path).unwrap(), Some(ME));
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_that_names_the_file() {
        let place = Scratch::new();
        let path = place.file("no/such/pid");
        let error = PidFile::write_knowing(&path, ME, nobody).unwrap_err();
        assert!(error.to_string().contains("no/such/pid"), "{error}");
    }

    #[test]
    fn it_is_removed_only_while_it_holds_what_we_wrote() {
        let place = Scratch::new();
        let path = place.file("pid");
        let file = write(&path);
        fs::write(&path, "815\n").unwrap();
        assert!(!file.remove_if_mine().unwrap());
        assert_eq!(read(&path).unwrap(), Some(815));
        fs::write(&path, "4711\n").unwrap();
        assert!(file.remove_if_mine().unwrap());
        assert!(!file.remove_if_mine().unwrap());
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn after_a_rewrite_the_successor_can_remove_it() {
        let place = Scratch::new();
        let path = place.file("pid");
        let mut predecessor = write(&path);
        let inode = |path: &Path| {
            use std::os::unix::fs::MetadataExt as _;
            fs::metadata(path).unwrap().ino()
        };
        let open = File::open(&path).unwrap();
        let before = inode(&path);
        predecessor.rewrite(815).unwrap();
        assert_ne!(inode(&path), before, "replaced, not written over");
        drop(open);
        assert!(PidFile::adopt(&path, 815).remove_if_mine().unwrap());
    }

    #[test]
    fn only_a_living_process_of_this_program_is_an_instance() {
        // This very process lives and has its own name; no process has the highest number.
        assert!(instance(std::process::id()).is_some());
        assert_eq!(instance(i32::MAX as u32), None);
        let mut other = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let of_another_program = instance(other.id());
        drop(other.stdin.take());
        other.wait().unwrap();
        assert_eq!(of_another_program, None);
    }

    #[test]
    fn a_process_name_may_hold_spaces_and_parentheses() {
        assert_eq!(parse_stat("12 (a (b) c) S 1 2 3"), Some(("a (b) c", 'S')));
        assert_eq!(parse_stat("12 (x) Z"), Some(("x", 'Z')));
        assert_eq!(parse_stat(""), None);
    }
}
