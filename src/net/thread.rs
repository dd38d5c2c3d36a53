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
    set_policy(0, policy);
}

/// From now on the other threads of this process run only when nobody else on the machine wants to
/// (SCHED_IDLE), and so they die, too: at the end of a process with a thousand threads all of them wake up at
/// once, and whoever has work to do would wait for that.
pub fn let_others_go_first() {
    let own = number();
    for entry in std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let thread = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        match thread {
            Some(thread) if thread != own.as_raw() => set_policy(thread, libc::SCHED_IDLE),
            _ => {}
        }
    }
}

/// A refusal changes nothing; nor does a thread that is gone.
fn set_policy(thread: libc::pid_t, policy: libc::c_int) {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one initialised struct and concerns only scheduling.
    #[allow(unsafe_code)]
    unsafe {
        libc::sched_setscheduler(thread, policy, &raw const parameter);
    }
}
