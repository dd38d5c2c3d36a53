//! What the kernel knows about a thread: its name, its scheduling policy, its number.

use std::ffi::CString;
use std::sync::OnceLock;

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

/// Ends the calling thread of a process that is about to end: it gives back nothing that is given back then
/// anyway. To unmap the stacks of a thousand threads one by one takes four times as long as their end, and every
/// other thread of the process is interrupted for it.
pub fn end_with_process() -> ! {
    loop {
        // SAFETY: the call does not return. What this thread owns is never used again: it holds no lock, nobody
        // waits for it, and its stack stays mapped until the process ends.
        #[allow(unsafe_code)]
        unsafe {
            libc::syscall(libc::SYS_exit, 0);
        }
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

/// How much a thread that hurries goes before others: it has nearly five times their share of a busy processor.
/// With 10 a crowd of silent sessions moves sooner still, but who has work to do waits for it longer
/// (`bench/upgrade`).
const HASTE: i32 = 7;

/// The nice value of threads that do not hurry.
static ORDINARY: OnceLock<i32> = OnceLock::new();

/// Lets the calling thread go before others, for as long as many wait for what it does. The threads and the
/// processes that it starts inherit that. To be allowed to takes a limit of the nice value (`LimitNICE=`,
/// `prlimit --nice`) or root; a refusal changes nothing.
pub fn hurry() {
    if let Some(ordinary) = ORDINARY.get().copied().or_else(|| nice(0)) {
        set_nice(*ORDINARY.get_or_init(|| ordinary) - HASTE);
    }
}

/// Lets the first thread of a process that was started by one in a hurry go on hurrying, and says what is ordinary:
/// the nice value of the first thread of the `starter`.
pub fn hurry_like(starter: Pid) {
    if let Some(ordinary) = nice(starter.as_raw()) {
        let _ = ORDINARY.set(ordinary);
    }
    hurry();
}

/// The nice value of a thread, or of the calling one.
fn nice(thread: i32) -> Option<i32> {
    nix::errno::Errno::clear();
    // SAFETY: no memory is concerned.
    #[allow(unsafe_code)]
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, thread.unsigned_abs()) };
    // -1 is a value like others, except that an error says more.
    (nice != -1 || nix::errno::Errno::last_raw() == 0).then_some(nice)
}

/// The calling thread no longer goes before others, if it did.
pub fn hurry_no_more() {
    if let Some(ordinary) = ORDINARY.get() {
        set_nice(*ordinary);
    }
}

fn set_nice(nice: i32) {
    // SAFETY: no memory is concerned, and on Linux only the calling thread.
    #[allow(unsafe_code)]
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, nice);
    }
}
