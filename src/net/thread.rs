//! What the kernel knows about a thread: its name, its scheduling policy, its number.

use std::ffi::CString;

use nix::unistd::{Pid, gettid};

/// The calling thread's number in the kernel, the one `ps -L` shows.
pub fn number() -> Pid {
    gettid()
}

/// Names the calling thread for `ps`, `top` and `gdb`. The kernel keeps the first 15 bytes.
pub fn name(name: &str) {
    let bytes: Vec<u8> = name.bytes().filter(|&b| b != 0).collect();
    if let Ok(name) = CString::new(bytes) {
        // Only a convenience for who debugs: a refusal changes nothing.
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// Whether the kernel lets the calling thread preempt whoever runs when it wakes up: SCHED_OTHER if so,
/// SCHED_BATCH if not. With more clients than processors such a preemption costs a context switch and
/// gains nobody anything; with fewer it is what makes the answer come at once on a machine that has other
/// work to do. `bench/run` measures what it is worth. Allowed to any user; a refusal changes nothing.
pub fn preempt_on_wake_up(preempts: bool) {
    let policy = if preempts {
        libc::SCHED_OTHER
    } else {
        libc::SCHED_BATCH
    };
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one initialised struct and concerns only the calling thread.
    #[allow(unsafe_code)]
    unsafe {
        libc::sched_setscheduler(0, policy, &raw const parameter);
    }
}

/// The other threads of this process.
pub fn others() -> Vec<Pid> {
    let own = number();
    let entries = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|&thread| thread != own)
        .collect()
}
