//! The descriptors a process starts with, and how many it may have.
//!
//! Whoever starts a daemon can leave descriptors open in it by accident: a lock, a pipe, a
//! listening port. This file closes them, takes over those that were passed on purpose, and
//! raises the limit. It opens nothing.
//!
//! Invariant: after [`inherit`] the process has, beyond the standard three, exactly the
//! descriptors it was asked to keep, each with one owner and close-on-exec.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// The first descriptor that is not standard input, output or error.
const FIRST: RawFd = 3;

/// What [`inherit`] found.
#[derive(Debug)]
pub struct Inherited {
    /// The descriptors asked for, in the order asked.
    pub kept: Vec<OwnedFd>,
    /// How many others were open, and are closed now.
    pub closed: usize,
}

/// Why the descriptors could not be put in order. Fit to be printed.
#[derive(Debug, Error)]
pub enum DescriptorError {
    /// [`inherit`] was called before.
    #[error("descriptors were already taken over")]
    Late,
    /// A descriptor to keep is a standard one, or is named twice.
    #[error("descriptor {0} cannot be inherited: it is a standard one or named twice")]
    Unfit(RawFd),
    /// A descriptor to keep is not open.
    #[error("descriptor {0} is not open")]
    NotOpen(RawFd),
    /// The system does not say which descriptors are open, or what may be.
    #[error("open descriptors: {0}")]
    System(io::Error),
}

impl From<Errno> for DescriptorError {
    fn from(error: Errno) -> DescriptorError {
        DescriptorError::System(error.into())
    }
}

/// Takes over the descriptors `keep` and closes every other from 3 on. To be called once, as the
/// first thing a process does: whatever was opened before is closed under its owner.
///
/// # Errors
///
/// [`DescriptorError`]; on `Late`, `Unfit` and `NotOpen` nothing was closed.
pub fn inherit(keep: &[RawFd]) -> Result<Inherited, DescriptorError> {
    static CALLED: AtomicBool = AtomicBool::new(false);
    if CALLED.swap(true, Ordering::SeqCst) {
        return Err(DescriptorError::Late);
    }
    if let Some(fd) = unfit(keep) {
        return Err(DescriptorError::Unfit(fd));
    }
    let open = match listed(Path::new("/proc/self/fd")) {
        Ok(open) => open,
        // Without /proc every number has to be tried.
        Err(_) => (FIRST..highest()?).collect(),
    };
    let kept = take(keep)?;
    let closed = open
        .into_iter()
        .filter(|fd| *fd >= FIRST && !keep.contains(fd))
        // The numbers are from before; that of the listing itself is closed already.
        .filter(|fd| nix::unistd::close(*fd).is_ok())
        .count();
    Ok(Inherited { kept, closed })
}

/// The first of `keep` that can not have an owner of its own.
fn unfit(keep: &[RawFd]) -> Option<RawFd> {
    let twice = |at: usize, fd: &RawFd| keep.iter().take(at).any(|other| other == fd);
    keep.iter()
        .enumerate()
        .find(|(at, fd)| **fd < FIRST || twice(*at, fd))
        .map(|(_, fd)| *fd)
}

/// Makes this the owner of each of `keep`, with close-on-exec.
#[allow(unsafe_code)]
fn take(keep: &[RawFd]) -> Result<Vec<OwnedFd>, DescriptorError> {
    for fd in keep {
        // SAFETY: the number is only asked about, and one that is not open gives EBADF.
        let asked = unsafe { BorrowedFd::borrow_raw(*fd) };
        close_on_exec([asked]).map_err(|_| DescriptorError::NotOpen(*fd))?;
    }
    // SAFETY: each is open, is named once, and has no owner yet: `inherit` lets nobody come here
    // twice and is called before anything is opened, so each was passed by the parent process.
    let own = |fd: &RawFd| unsafe { OwnedFd::from_raw_fd(*fd) };
    Ok(keep.iter().map(own).collect())
}

/// The numbers listed in a directory like `/proc/self/fd`.
fn listed(directory: &Path) -> io::Result<Vec<RawFd>> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        if let Some(fd) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            open.push(fd);
        }
    }
    Ok(open)
}

/// The number past the highest a descriptor of this process can have.
fn highest() -> Result<RawFd, Errno> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Where the limit is set beyond all use, a million has to do.
    Ok(RawFd::try_from(soft).unwrap_or(RawFd::MAX).min(1 << 20))
}

/// Marks descriptors as not to be passed to programs that this process starts.
///
/// # Errors
///
/// The first one's for which the system refuses, that is for one that is not open.
pub fn close_on_exec<'fd>(of: impl IntoIterator<Item = BorrowedFd<'fd>>) -> io::Result<()> {
    set_close_on_exec(of, true)
}

/// Marks descriptors as to be passed, under the same numbers, to programs that this process
/// starts. To be undone by [`close_on_exec`] as soon as the one that is meant has started.
///
/// # Errors
///
/// As [`close_on_exec`].
pub fn keep_on_exec<'fd>(of: impl IntoIterator<Item = BorrowedFd<'fd>>) -> io::Result<()> {
    set_close_on_exec(of, false)
}

fn set_close_on_exec<'fd>(
    of: impl IntoIterator<Item = BorrowedFd<'fd>>,
    on: bool,
) -> io::Result<()> {
    for fd in of {
        let mut flags = FdFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFD)?);
        flags.set(FdFlag::FD_CLOEXEC, on);
        fcntl(fd.as_fd(), FcntlArg::F_SETFD(flags))?;
    }
    Ok(())
}

/// Allows this process as many descriptors as it may have: raises the soft limit to the hard
/// one. Returns the soft limit before and after, in descriptors.
///
/// # Errors
///
/// The system does not tell its limits, or refuses the change; the limit is as before then.
pub fn raise_limit() -> io::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    let (after, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok((soft, after))
}

/// Has the kernel's table of this process's descriptors hold `count` of them. To be called before there is a second
/// thread: from then on, whoever opens a descriptor for which the table has to grow waits until all processors have
/// been seen to be elsewhere (an RCU grace period, some ten milliseconds), and it grows by doubling.
///
/// # Errors
///
/// There may not be so many; the table is as before then.
pub fn make_room(count: u64) -> io::Result<()> {
    let last = RawFd::try_from(count.saturating_sub(1)).map_err(io::Error::other)?;
    let fd = fcntl(io::stderr(), FcntlArg::F_DUPFD_CLOEXEC(last))?;
    Ok(nix::unistd::close(fd)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::{is_rerun, pipe, rerun};
    use std::os::fd::AsRawFd as _;

    fn is_close_on_exec(fd: impl AsFd) -> bool {
        let flags = fcntl(fd.as_fd(), FcntlArg::F_GETFD).unwrap();
        FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)
    }

    #[test]
    fn standard_descriptors_and_repetitions_are_unfit() {
        assert_eq!(unfit(&[3, 4]), None);
        assert_eq!(unfit(&[]), None);
        assert_eq!(unfit(&[4, 2]), Some(2));
        assert_eq!(unfit(&[-1]), Some(-1));
        assert_eq!(unfit(&[5, 6, 5]), Some(5));
    }

    #[test]
    fn what_a_polluted_parent_left_open_is_closed_and_what_was_passed_is_kept() {
        if is_rerun() {
            let keep: RawFd = std::env::var("KEEP").unwrap().parse().unwrap();
            let found = inherit(&[keep]).unwrap();
            let mut after = listed(Path::new("/proc/self/fd")).unwrap();
            // The listing itself takes a number, which is free again when it has been read.
            after.retain(|fd| Path::new(&format!("/proc/self/fd/{fd}")).is_symlink());
            after.sort_unstable();
            println!("closed {} left {after:?}", found.closed);
            println!("passed on {}", !is_close_on_exec(&found.kept[0]));
            println!("again {:?}", inherit(&[]).map(|_| ()));
            return;
        }
        let passed: Vec<_> = (0..5)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        let keep = &passed[2];
        let mut child = rerun(
            module_path!(),
            "what_a_polluted_parent_left_open_is_closed_and_what_was_passed_is_kept",
        );
        child.env("KEEP", keep.as_raw_fd().to_string());
        keep_on_exec(passed.iter().map(AsFd::as_fd)).unwrap();
        let output = child.output().unwrap();
        close_on_exec(passed.iter().map(AsFd::as_fd)).unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let closed: usize = said
            .split_once("closed ")
            .and_then(|(_, rest)| rest.split_once(' '))
            .map(|(count, _)| count.parse().unwrap())
            .unwrap();
        assert!(closed >= 4, "{said}");
        let left = format!("left [0, 1, 2, {}]", keep.as_raw_fd());
        assert!(said.contains(&left), "{said}");
        assert!(said.contains("passed on false"), "{said}");
        assert!(said.contains("again Err(Late)"), "{said}");
    }

    #[test]
    fn a_descriptor_that_is_not_open_cannot_be_inherited() {
        if is_rerun() {
            println!("{:?}", inherit(&[1_000_000]).map(|_| ()));
            return;
        }
        let output = rerun(
            module_path!(),
            "a_descriptor_that_is_not_open_cannot_be_inherited",
        )
        .output()
        .unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("Err(NotOpen(1000000))"));
    }

    #[test]
    fn close_on_exec_can_be_set_and_taken_away() {
        let (one, other) = pipe();
        keep_on_exec([one.as_fd(), other.as_fd()]).unwrap();
        assert!(!is_close_on_exec(&one) && !is_close_on_exec(&other));
        close_on_exec([one.as_fd(), other.as_fd()]).unwrap();
        assert!(is_close_on_exec(&one) && is_close_on_exec(&other));
    }

    #[test]
    fn there_is_room_for_as_many_as_may_be_open() {
        let table = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
            size.unwrap().trim().parse::<u64>().unwrap()
        };
        let before = table();
        make_room(2 * before).unwrap();
        assert!(table() >= 2 * before);
        assert!(make_room(u64::MAX).is_err());
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        if is_rerun() {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, 32, hard).unwrap();
            println!("raised {}", raise_limit().unwrap() == (32, hard));
            println!("again {}", raise_limit().unwrap() == (hard, hard));
            return;
        }
        let output = rerun(module_path!(), "the_soft_limit_becomes_the_hard_one")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("raised true"), "{said}");
        assert!(said.contains("again true"), "{said}");
    }
}
