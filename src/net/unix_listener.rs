//! The Unix socket to listen on, and the rules for its file: a stale one is replaced, a live one is
//! somebody else's, and at the end only our own is removed.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use nix::unistd::{AccessFlags, access};
use socket2::{Domain, SockAddr, Socket, Type};

use super::address::Address;
use super::listener::Listener;

/// The file of a listening Unix socket. Dropping it removes the file if it is still the one we made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// The file of a socket that another process has made and that is ours now.
    ///
    /// # Errors
    /// If it is not there any more.
    pub fn adopt(path: &Path) -> io::Result<SocketFile> {
        let found = fs::symlink_metadata(path)?;
        Ok(SocketFile {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
        })
    }

    /// Leaves the file to another process.
    pub fn leave(mut self) {
        self.inode = 0;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have put its own socket at this path.
        let is_ours = |found: fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether [`bind_unix`] can make a socket in this directory, or somebody listens there already. Nothing is made.
///
/// # Errors
/// What is in the way, with the path.
pub fn check(directory: &Path, port: u16) -> io::Result<()> {
    let path = Address::socket_file(directory, port);
    SockAddr::unix(&path).map_err(|error| named(&path, &error))?;
    let allowed = access(directory, AccessFlags::W_OK | AccessFlags::X_OK);
    allowed.map_err(|error| named(&path, &error.into()))?;
    match fs::symlink_metadata(&path) {
        Ok(found) if !found.file_type().is_socket() => Err(named(&path, &not_a_socket())),
        _ => Ok(()),
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("could not listen on {}: {error}", path.display()),
    )
}

fn taken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, why)
}

fn not_a_socket() -> io::Error {
    taken("a file that is not a socket is in the way")
}

/// Listens on `DIRECTORY/.s.PGSQL.PORT`, whose file gets `mode`; the file is gone when the second part of
/// the answer is dropped. Must run before other threads make
/// files: it narrows the process's umask for a moment, so that the socket is never wider open than
/// asked.
///
/// # Errors
/// `AddrInUse` if somebody answers there or the path is not a socket; else what the kernel says, with
/// the path.
pub fn bind_unix(
    directory: &Path,
    port: u16,
    mode: u32,
    backlog: i32,
) -> io::Result<(Listener, SocketFile)> {
    let path = Address::socket_file(directory, port);
    let named = |error: io::Error| named(&path, &error);
    let address = SockAddr::unix(&path).map_err(named)?;
    if let Ok(found) = fs::symlink_metadata(&path) {
        if !found.file_type().is_socket() {
            return Err(named(not_a_socket()));
        }
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        if probe.connect(&address).is_ok() {
            return Err(named(taken("another process is listening there")));
        }
        fs::remove_file(&path).map_err(named)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = socket.bind(&address);
    umask(before);
    bound.map_err(named)?;
    let made = fs::symlink_metadata(&path).map_err(named)?;
    let file = SocketFile {
        path: path.clone(),
        device: made.dev(),
        inode: made.ino(),
    };
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(named)?;
    socket.listen(backlog).map_err(named)?;
    socket.set_nonblocking(true)?;
    Ok((Listener::on_unix(socket, path.clone()), file))
}
