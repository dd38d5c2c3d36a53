//! What the machine's processors have done, as the kernel counts it.
//!
//! Knows nothing of limits on this process: in a container the whole machine is seen.

use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// For how long processors have been idle since the machine was started, all together. `None` if the kernel does not
/// tell.
pub fn idle_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks = u32::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    idle_in(&text, ticks)
}

/// The same from what `/proc/stat` says, with so many ticks a second (manual, proc_stat(5)).
fn idle_in(text: &str, ticks: u32) -> Option<Duration> {
    let mut words = text.lines().next()?.split_ascii_whitespace();
    if words.next()? != "cpu" {
        return None;
    }
    // user, nice, system, idle, iowait.
    let idle: u64 = words.nth(3)?.parse().ok()?;
    let waits: u64 = words.next().unwrap_or("0").parse().ok()?;
    let milliseconds = (idle.checked_add(waits)?).checked_mul(1000)?;
    Some(Duration::from_millis(
        milliseconds.checked_div(u64::from(ticks))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_idle_and_waiting_for_disks() {
        let text = "cpu  10 20 30 400 50 6 7 0 0 0\ncpu0 1 1 1 1 1 1 1 0 0 0\n";
        assert_eq!(idle_in(text, 100), Some(Duration::from_millis(4500)));
        assert_eq!(idle_in("", 100), None);
        assert_eq!(idle_in("cpu 1 2", 100), None);
        assert_eq!(idle_in("cpu 1 2 3 4", 0), None);
    }

    #[test]
    fn the_kernel_tells_it() {
        assert!(idle_time().is_some());
    }
}
