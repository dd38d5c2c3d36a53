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

/// Puts the calling thread under SCHED_BATCH: the kernel no longer lets it preempt whoever runs when it
/// wakes up. With more clients than processors a wake-up that preempts costs a context switch and gains
/// nobody anything. `bench/run` measures what it is worth. Allowed to any user; a refusal changes nothing.
pub fn schedule_as_batch() {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one initialised struct and concerns only the calling thread.
    #[allow(unsafe_code)]
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter);
    }
}
