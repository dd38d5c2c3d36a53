//! How many threads this process may have, as the system says at start.
//!
//! A thread that cannot be started for want of memory mappings ends the process (the standard library
//! panics where nothing can catch it), so the bound is kept by counting. Limits that count the threads of
//! several processes are halved: an upgrade has two of this program.

use std::fmt;
use std::fs;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::geteuid;

/// Mappings of a thread: its stack and the stack of its signals, each with a guard page.
const MAPPINGS: u64 = 4;

/// The kernel's default of `vm.max_map_count`.
const DEFAULT_MAPPINGS: u64 = 65_530;

/// Mappings for everything else.
const OTHER_MAPPINGS: u64 = 2048;

/// Threads beside those for clients: of the process itself, and those that connect to PostgreSQL.
const OTHER_THREADS: u64 = 64;

/// How many threads for clients there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadLimit {
    /// The number.
    pub most: usize,
    /// What it follows from.
    pub by: String,
    /// How many threads of all kinds the memory mappings allow.
    pub of_all: usize,
}

impl fmt::Display for ThreadLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} threads for clients, by {}", self.most, self.by)
    }
}

/// What the limits of this process, of its user and of its control groups allow.
pub fn threads() -> ThreadLimit {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut shared = pids_max(&groups, &|path| fs::read_to_string(path).ok());
    // Root's threads are not counted.
    if !geteuid().is_root() {
        let limit = getrlimit(Resource::RLIMIT_NPROC).map_or(RLIM_INFINITY, |(soft, _)| soft);
        if limit != RLIM_INFINITY {
            shared.push((limit, "RLIMIT_NPROC (ulimit -u)".to_owned()));
        }
    }
    for name in ["threads-max", "pid_max"] {
        if let Some(limit) = number(&format!("/proc/sys/kernel/{name}")) {
            shared.push((limit, format!("kernel.{name}")));
        }
    }
    smallest(number("/proc/sys/vm/max_map_count"), shared)
}

/// The smallest of all limits: of mappings, and those that other processes share.
fn smallest(mappings: Option<u64>, shared: Vec<(u64, String)>) -> ThreadLimit {
    let mappings = mappings.unwrap_or(DEFAULT_MAPPINGS);
    let own = (mappings - OTHER_MAPPINGS.min(mappings / 4)) / MAPPINGS;
    let mut limits = vec![(own, format!("vm.max_map_count = {mappings}"))];
    limits.extend(shared.into_iter().map(|(limit, name)| {
        let half = limit / 2;
        (
            half - OTHER_THREADS.min(half / 4),
            format!("{name} = {limit}"),
        )
    }));
    let (most, by) = limits.into_iter().min().unwrap_or_default();
    ThreadLimit {
        most: usize::try_from(most).unwrap_or(usize::MAX),
        by,
        of_all: usize::try_from(own + OTHER_MAPPINGS.min(mappings / 4) / MAPPINGS / 2)
            .unwrap_or(usize::MAX),
    }
}

/// The limits of the control groups in `groups` (`/proc/self/cgroup`) and of all above them.
fn pids_max(groups: &str, read: &dyn Fn(&Path) -> Option<String>) -> Vec<(u64, String)> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let mounts: &[&str] = if controllers.is_empty() {
            &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        } else if controllers.split(',').any(|name| name == "pids") {
            &["/sys/fs/cgroup/pids"]
        } else {
            continue;
        };
        for mount in mounts {
            let group = Path::new(mount).join(path.trim_start_matches('/'));
            for above in group
                .ancestors()
                .take_while(|above| above.starts_with(mount))
            {
                let file = above.join("pids.max");
                let limit = read(&file).and_then(|text| text.trim().parse().ok());
                if let Some(limit) = limit {
                    limits.push((limit, file.display().to_string()));
                }
            }
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_of_all_parents_counts() {
        let read = |path: &Path| {
            let text = match path.to_str()? {
                "/sys/fs/cgroup/a/b/pids.max" => "max\n",
                "/sys/fs/cgroup/a/pids.max" => "1000\n",
                "/sys/fs/cgroup/pids.max" => "4000\n",
                "/sys/fs/cgroup/pids/c/pids.max" => "77\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let found = pids_max("4:memory:/x\n3:cpu,pids:/c\n0::/a/b\n", &read);
        let numbers: Vec<u64> = found.iter().map(|(limit, _)| *limit).collect();
        assert_eq!(numbers, [77, 1000, 4000]);
        let limit = smallest(None, found[1..].to_vec());
        assert_eq!(limit.most, 436);
        assert_eq!(limit.by, "/sys/fs/cgroup/a/pids.max = 1000");
    }

    #[test]
    fn a_limit_that_cannot_be_read_counts_as_the_default_of_the_kernel() {
        let limit = smallest(None, Vec::new());
        assert_eq!(limit.most, 15_870);
        assert_eq!(limit.by, "vm.max_map_count = 65530");
        assert!(smallest(Some(0), vec![(0, String::new())]).most == 0);
    }

    #[test]
    fn the_limits_of_this_process_can_be_read() {
        assert!(threads().most > 0);
    }
}
