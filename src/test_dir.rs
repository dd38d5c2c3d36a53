//! What the tests of this room share: a directory of their own, and a process of their own.
//!
//! A test that forks, closes descriptors, reads the environment or sets the log's filter must
//! not do it in the process in which the other tests run. It starts this test program again for
//! itself alone ([`rerun`]) and asks there [`is_rerun`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const MARK: &str = "PG_DOORMAN_TEST_RERUN";

/// A directory that is gone when the test is over.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "pg_doorman-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A pipe: the end to read from, the end to write to.
pub(crate) fn pipe() -> (File, File) {
    let (from, to) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    (from.into(), to.into())
}

/// This test program again, to run the one test `name` of `module` (`module_path!()`) in its
/// main thread. A name that does not exist runs nothing and succeeds: judge by the output.
pub(crate) fn rerun(module: &str, name: &str) -> Command {
    let module = module.split_once("::").map_or("", |(_, path)| path);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .arg(format!("{module}::{name}"))
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, "1");
    command
}

/// Whether this process was started by [`rerun`].
pub(crate) fn is_rerun() -> bool {
    std::env::var_os(MARK).is_some()
}
