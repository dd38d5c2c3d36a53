//! Whether what a process runs was replaced on disk: its binary, or a library it has mapped.
//!
//! A package manager puts a new file in place of the old one under the same name. The process goes on with
//! the old file, which then has no name any more, or another one.
//!
//! A file is recognised by device and inode. `/proc/PID/maps` does not always give the numbers that `stat`
//! gives (overlayfs in containers, btrfs), so like is compared with like: the file that lies at the path
//! now is mapped here, for a moment, and both numbers come from the kernel's list of mappings.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Device and inode, as the list of mappings has them.
type Identity = (String, u64);

/// The first file of process `pid` that was replaced, if one was. `program` is the binary it would be
/// upgraded to.
///
/// # Errors
/// The process is gone, or is another user's.
pub fn replaced(pid: u32, program: &Path) -> io::Result<Option<PathBuf>> {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let running = fs::metadata(format!("/proc/{pid}/exe"))?;
    // One that is missing is no new one: an upgrade to it would be abandoned.
    if let Ok(now) = fs::metadata(within(&root, program)) {
        if (running.dev(), running.ino()) != (now.dev(), now.ino()) {
            return Ok(Some(program.to_owned()));
        }
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    for (path, mapped) in libraries(&maps) {
        match identity_now(&within(&root, &path)) {
            Ok(Some(now)) if now != mapped => return Ok(Some(path)),
            // Not there, or not to be read: nothing to be upgraded to.
            _ => {}
        }
    }
    Ok(None)
}

fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The files in a list of mappings that hold code, each with its identity.
fn libraries(maps: &str) -> BTreeMap<PathBuf, Identity> {
    maps.lines().filter_map(mapping).collect()
}

/// `address perms offset dev inode path`, of which the path may hold blanks (`proc_pid_maps(5)`).
fn mapping(line: &str) -> Option<(PathBuf, Identity)> {
    let mut rest = line;
    let mut field = || {
        let (word, after) = rest.trim_start().split_once(' ')?;
        rest = after;
        Some(word)
    };
    let (_address, permissions, _offset) = (field()?, field()?, field()?);
    let (device, inode) = (field()?, field()?.parse().ok()?);
    let path = rest.trim_start();
    if !permissions.contains('x') || !path.starts_with('/') {
        return None;
    }
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    Some((path.into(), (device.to_owned(), inode)))
}

/// The identity of the file that lies at `path` now; `None` for an empty one.
fn identity_now(path: &Path) -> io::Result<Option<Identity>> {
    // The other process chooses the path, and must not make this one wait.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let found = file.metadata()?;
    let Some(length) = NonZeroUsize::new(usize::from(found.is_file() && found.len() > 0)) else {
        return Ok(None);
    };
    // SAFETY: a mapping of its own, at a place the kernel chooses, that nobody reads.
    #[allow(unsafe_code)]
    let at = unsafe {
        mmap(
            None,
            length,
            ProtFlags::PROT_READ,
            MapFlags::MAP_PRIVATE,
            &file,
            0,
        )?
    };
    let maps = fs::read_to_string("/proc/self/maps");
    // SAFETY: made above, and nothing points into it.
    #[allow(unsafe_code)]
    unsafe {
        munmap(at, length.get())?;
    }
    let begin = format!("{:x}-", at.as_ptr() as usize);
    let line = maps?;
    let line = line.lines().find(|line| {
        line.trim_start_matches('0')
            .starts_with(begin.trim_start_matches('0'))
    });
    // Whether it holds code does not matter here.
    let line = line.map(|line| line.replacen(" r--p ", " r-xp ", 1));
    Ok(line
        .as_deref()
        .and_then(mapping)
        .map(|(_, identity)| identity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::Scratch;

    #[test]
    fn the_list_of_mappings_is_read() {
        let maps = "\
7f00-7f10 r-xp 00001000 fe:00 1234 /usr/lib/libssl.so.3
7f10-7f20 r--p 00001000 fe:00 1234 /usr/lib/libssl.so.3
7f20-7f30 r-xp 00000000 00:00 0 [vdso]
7f30-7f40 rw-p 00000000 00:00 0
7f40-7f50 r-xp 00001000 fe:00 77                         /opt/a b/lib x.so (deleted)
7f50-7f60 r--p 00000000 fe:00 9 /usr/share/data
";
        let found = libraries(maps);
        let expected = [
            ("/opt/a b/lib x.so", "fe:00", 77),
            ("/usr/lib/libssl.so.3", "fe:00", 1234),
        ];
        let found: Vec<_> = found
            .iter()
            .map(|(path, (device, inode))| (path.to_str().unwrap(), device.as_str(), *inode))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_keeps_its_identity_until_it_is_replaced() {
        let place = Scratch::new();
        let path = place.file("lib");
        fs::write(&path, "old").unwrap();
        let kept = fs::File::open(&path).unwrap();
        let old = identity_now(&path).unwrap().unwrap();
        assert_eq!(identity_now(&path).unwrap().unwrap(), old);
        fs::write(place.file("new"), "new").unwrap();
        fs::rename(place.file("new"), &path).unwrap();
        assert_ne!(identity_now(&path).unwrap().unwrap(), old);
        drop(kept);
    }

    #[test]
    fn nothing_of_this_very_process_was_replaced() {
        let program = std::env::current_exe().unwrap();
        assert_eq!(replaced(std::process::id(), &program).unwrap(), None);
        let other = Path::new("/bin/sh");
        assert_eq!(
            replaced(std::process::id(), other).unwrap().as_deref(),
            Some(other)
        );
    }
}
