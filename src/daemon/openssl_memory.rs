//! OpenSSL's memory: kept out of core dumps, wiped when it is given back.
//!
//! A connection's keys lie not only where the pooler keeps them ([`tls::undumped`](crate::tls::undumped)) but
//! also, expanded, in OpenSSL's cipher contexts, and our private key in its numbers. OpenSSL cannot be told
//! where to put these, but it can be given another allocator for all it has
//! (`CRYPTO_set_mem_functions`). This one asks the kernel for pages of its own, marked with `MADV_DONTDUMP`
//! (madvise(2)), and leaves how they are shared out to the crate `dlmalloc`.
//!
//! Threads are spread over several of them, so that handshakes do not wait for each other. Invariant: memory
//! goes back to the one it came from, whatever thread frees it; a note before each piece says which that is.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use dlmalloc::{Allocator, Dlmalloc};
use parking_lot::Mutex;

/// Heaps that the threads share.
const HEAPS: usize = 8;
/// Bytes to which OpenSSL, as every user of malloc, expects its memory to be aligned.
const ALIGNMENT: usize = align_of::<Note>();

static ALL: [Mutex<Dlmalloc<Pages>>; HEAPS] =
    [const { Mutex::new(Dlmalloc::new_with_allocator(Pages)) }; HEAPS];
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The heap of this thread. Needs no destructor: OpenSSL frees memory also when a thread is over.
    static HEAP: Cell<usize> = const { Cell::new(HEAPS) };
}

type Malloc = extern "C" fn(usize, *const c_char, c_int) -> *mut c_void;
type Realloc = extern "C" fn(*mut c_void, usize, *const c_char, c_int) -> *mut c_void;
type Free = extern "C" fn(*mut c_void, *const c_char, c_int);

#[allow(unsafe_code)]
unsafe extern "C" {
    /// CRYPTO_set_mem_functions(3ssl). 0: OpenSSL has allocated memory before.
    safe fn CRYPTO_set_mem_functions(malloc: Malloc, realloc: Realloc, free: Free) -> c_int;
}

/// Keeps all memory of OpenSSL out of core dumps from now on. False if OpenSSL is in use already, so that it
/// is too late.
pub fn keep_out_of_dumps() -> bool {
    CRYPTO_set_mem_functions(malloc, realloc, free) == 1
}

/// What stands before each piece of memory.
#[repr(C, align(16))]
struct Note {
    /// Bytes behind this note.
    length: usize,
    heap: usize,
}

/// Pages from the kernel that core dumps leave out.
struct Pages;

// SAFETY: the pages are the kernel's, nobody else's, and stay where they are until they are given back.
#[allow(unsafe_code)]
unsafe impl Allocator for Pages {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        const ACCESS: c_int = libc::PROT_READ | libc::PROT_WRITE;
        const KIND: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: nothing is mapped over, and the advice is about pages that nobody uses yet.
        let pages = unsafe { libc::mmap(ptr::null_mut(), size, ACCESS, KIND, -1, 0) };
        if pages == libc::MAP_FAILED {
            return (ptr::null_mut(), 0, 0);
        }
        // A kernel without it (EINVAL) writes them into its dumps like the rest.
        unsafe { libc::madvise(pages, size, libc::MADV_DONTDUMP) };
        (pages.cast(), size, 0)
    }

    fn remap(&self, _pages: *mut u8, _old: usize, _new: usize, _may_move: bool) -> *mut u8 {
        ptr::null_mut()
    }

    fn free_part(&self, pages: *mut u8, old: usize, new: usize) -> bool {
        // SAFETY: the heap gives back the end of what it was given.
        unsafe { libc::munmap(pages.add(new).cast(), old - new) == 0 }
    }

    fn free(&self, pages: *mut u8, size: usize) -> bool {
        // SAFETY: the heap gives back what it was given.
        unsafe { libc::munmap(pages.cast(), size) == 0 }
    }

    fn can_release_part(&self, _flags: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        4096
    }
}

fn heap_of_this_thread() -> usize {
    HEAP.with(|heap| {
        if heap.get() == HEAPS {
            heap.set(THREADS.fetch_add(1, Ordering::Relaxed) % HEAPS);
        }
        heap.get()
    })
}

extern "C" fn malloc(length: usize, _file: *const c_char, _line: c_int) -> *mut c_void {
    let Some(whole) = length.checked_add(size_of::<Note>()) else {
        return ptr::null_mut();
    };
    if length == 0 {
        return ptr::null_mut();
    }
    let heap = heap_of_this_thread();
    // SAFETY: a piece is at least as long as the note that is written at its beginning, and aligned for it.
    #[allow(unsafe_code)]
    unsafe {
        let note: *mut Note = ALL[heap].lock().malloc(whole, ALIGNMENT).cast();
        if note.is_null() {
            return ptr::null_mut();
        }
        note.write(Note { length, heap });
        note.add(1).cast()
    }
}

extern "C" fn realloc(
    piece: *mut c_void,
    length: usize,
    file: *const c_char,
    line: c_int,
) -> *mut c_void {
    if piece.is_null() {
        return malloc(length, file, line);
    }
    // Never in place by the heap: it would leave a copy behind where it moves the piece.
    let new = malloc(length, file, line);
    if !new.is_null() {
        // SAFETY: OpenSSL gives what `malloc` has returned, and both pieces are as long as that.
        #[allow(unsafe_code)]
        unsafe {
            let old = (*piece.cast::<Note>().sub(1)).length;
            ptr::copy_nonoverlapping(piece.cast::<u8>(), new.cast(), old.min(length));
        }
    }
    if !new.is_null() || length == 0 {
        free(piece, file, line);
    }
    new
}

extern "C" fn free(piece: *mut c_void, _file: *const c_char, _line: c_int) {
    if piece.is_null() {
        return;
    }
    // SAFETY: OpenSSL gives what `malloc` has returned, so a note stands before it, and does not use it again.
    #[allow(unsafe_code)]
    unsafe {
        let note: *mut Note = piece.cast::<Note>().sub(1);
        let Note { length, heap } = note.read();
        libc::explicit_bzero(piece, length);
        if let Some(heap) = ALL.get(heap) {
            let whole = length + size_of::<Note>();
            heap.lock().free(note.cast(), whole, ALIGNMENT);
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    const NOWHERE: *const c_char = ptr::null();

    fn filled(length: usize, byte: u8) -> *mut c_void {
        let piece = malloc(length, NOWHERE, 0);
        assert!(!piece.is_null());
        // SAFETY: the piece is that long.
        unsafe { ptr::write_bytes(piece.cast::<u8>(), byte, length) };
        piece
    }

    fn holds(piece: *mut c_void, length: usize, byte: u8) -> bool {
        // SAFETY: the piece is that long and all of it was written.
        let bytes = unsafe { std::slice::from_raw_parts(piece.cast::<u8>(), length) };
        bytes.iter().all(|&found| found == byte)
    }

    #[test]
    fn pieces_are_aligned_and_keep_what_was_written() {
        let lengths = [1, 15, 16, 17, 300, 5_000, 70_000, 3 << 20];
        let pieces = lengths.map(|length| (length, filled(length, length as u8)));
        for (length, piece) in pieces {
            assert_eq!(piece.addr() % ALIGNMENT, 0);
            assert!(holds(piece, length, length as u8));
            let longer = realloc(piece, 2 * length, NOWHERE, 0);
            assert!(holds(longer, length, length as u8));
            let shorter = realloc(longer, 1, NOWHERE, 0);
            assert!(holds(shorter, 1, length as u8));
            assert!(realloc(shorter, 0, NOWHERE, 0).is_null());
        }
    }

    #[test]
    fn nothing_and_too_much_are_answered_as_malloc_does() {
        assert!(malloc(0, NOWHERE, 0).is_null());
        assert!(malloc(usize::MAX, NOWHERE, 0).is_null());
        assert!(malloc(isize::MAX as usize, NOWHERE, 0).is_null());
        free(ptr::null_mut(), NOWHERE, 0);
        let piece = realloc(ptr::null_mut(), 8, NOWHERE, 0);
        assert!(!piece.is_null());
        assert!(realloc(piece, usize::MAX, NOWHERE, 0).is_null());
        free(piece, NOWHERE, 0);
    }

    #[test]
    fn threads_free_each_others_pieces() {
        let (give, take) = crossbeam::channel::bounded::<usize>(64);
        std::thread::scope(|scope| {
            for thread in 1..=4u8 {
                let give = give.clone();
                scope.spawn(move || {
                    for n in 0..1_000 {
                        let piece = filled(1 + n % 700, thread);
                        give.send(piece.expose_provenance()).unwrap();
                    }
                });
            }
            drop(give);
            for _ in 0..2 {
                let take = take.clone();
                scope.spawn(move || {
                    for piece in take {
                        free(ptr::with_exposed_provenance_mut(piece), NOWHERE, 0);
                    }
                });
            }
        });
    }
}
