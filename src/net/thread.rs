//! What the kernel knows about a thread: its name, its scheduling policy, its number.

use std::ffi::CString;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::unistd::{Pid, gettid};

/// Threads that [`spawn`] has started and that have not ended, and how many there may be.
static STARTED: AtomicUsize = AtomicUsize::new(0);
static MAX: AtomicUsize = AtomicUsize::new(usize::MAX);

/// No more threads than this are started by [`spawn`].
pub fn limit(most: usize) {
    MAX.store(most, Ordering::Relaxed);
}

/// Counts a thread from before it starts until its end.
struct Counted;

impl Counted {
    fn new() -> Option<Counted> {
        let most = MAX.load(Ordering::Relaxed);
        let counted = Counted;
        (STARTED.fetch_add(1, Ordering::Relaxed) < most).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        STARTED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Starts a thread, one of those of which there may be thousands.
///
/// # Errors
/// If it cannot be started, or there are as many as there may be: to find that out by trying would end the
/// process, because the standard library panics where a thread has started and gets no memory for its signals.
pub fn spawn(stack: usize, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let counted = Counted::new().ok_or_else(|| {
        io::Error::other("there are as many threads already as the limits at start allow")
    })?;
    std::thread::Builder::new()
        .stack_size(stack)
        .spawn(move || {
            let _counted = counted;
            work();
        })
        .map(drop)
}

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
/// With 10 a crowd of idle sessions moves sooner still, but who has work to do waits for it longer
/// (`bench/upgrade`).
const NICE_BOOST: i32 = 7;

/// The nice value of threads that do not hurry.
static ORDINARY: OnceLock<i32> = OnceLock::new();

/// Lets the calling thread go before others, for as long as many wait for what it does. The threads and the
/// processes that it starts inherit that. To be allowed to takes a limit of the nice value (`LimitNICE=`,
/// `prlimit --nice`) or root; a refusal changes nothing.
pub fn raise_priority() {
    if let Some(ordinary) = ORDINARY.get().copied().or_else(|| nice(0)) {
        set_nice(*ORDINARY.get_or_init(|| ordinary) - NICE_BOOST);
    }
}

/// Lets the first thread of a process that was started by one in a hurry go on hurrying, and says what is ordinary:
/// the nice value of the first thread of the `starter`.
pub fn hurry_like(starter: Pid) {
    if let Some(ordinary) = nice(starter.as_raw()) {
        let _ = ORDINARY.set(ordinary);
    }
    raise_priority();
}

/// Whether a thread hurries: asked at every turn, and told to the kernel only when it changes.
#[derive(Debug)]
pub struct Haste(bool);

impl Haste {
    /// That of a thread that hurries.
    pub fn hurrying() -> Haste {
        Haste(true)
    }

    /// Lets the calling thread hurry from now on, or no longer.
    pub fn set(&mut self, hurries: bool) {
        if std::mem::replace(&mut self.0, hurries) != hurries {
            if hurries {
                raise_priority();
            } else {
                restore_priority();
            }
        }
    }
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
pub fn restore_priority() {
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
