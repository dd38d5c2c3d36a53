//! OpenSSL's memory: wiped when it is given back.
//!
//! OpenSSL frees what it has known of a connection, traffic secrets included, without wiping all of it. It can be
//! given other functions for its memory (`CRYPTO_set_mem_functions`); these are those of the C library, and wipe.
//! Core dumps contain what is in use.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

type Malloc = extern "C" fn(usize, *const c_char, c_int) -> *mut c_void;
type Realloc = extern "C" fn(*mut c_void, usize, *const c_char, c_int) -> *mut c_void;
type Free = extern "C" fn(*mut c_void, *const c_char, c_int);

#[allow(unsafe_code)]
unsafe extern "C" {
    /// CRYPTO_set_mem_functions(3ssl). 0: OpenSSL has allocated memory before.
    safe fn CRYPTO_set_mem_functions(malloc: Malloc, realloc: Realloc, free: Free) -> c_int;
}

/// Lets OpenSSL wipe its memory from now on. False if OpenSSL is in use already, so that it is too late.
pub fn wipe_when_freed() -> bool {
    CRYPTO_set_mem_functions(malloc, realloc, free) == 1
}

extern "C" fn malloc(length: usize, _file: *const c_char, _line: c_int) -> *mut c_void {
    if length == 0 {
        return ptr::null_mut();
    }
    // SAFETY: any length may be asked for.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc(length)
    }
}

extern "C" fn realloc(
    piece: *mut c_void,
    length: usize,
    file: *const c_char,
    line: c_int,
) -> *mut c_void {
    // Never by the C library's realloc: it would leave a copy behind where it moves the piece.
    let new = malloc(length, file, line);
    if !piece.is_null() && !new.is_null() {
        // SAFETY: OpenSSL gives what `malloc` has returned. Both pieces are as long as is copied.
        #[allow(unsafe_code)]
        unsafe {
            let kept = libc::malloc_usable_size(piece).min(length);
            ptr::copy_nonoverlapping(piece.cast::<u8>(), new.cast(), kept);
        }
    }
    if !new.is_null() || length == 0 {
        free(piece, file, line);
    }
    new
}

extern "C" fn free(piece: *mut c_void, _file: *const c_char, _line: c_int) {
    // SAFETY: OpenSSL gives what `malloc` has returned, or null, of which nothing is usable, and does not use it again.
    #[allow(unsafe_code)]
    unsafe {
        libc::explicit_bzero(piece, libc::malloc_usable_size(piece));
        libc::free(piece);
    }
}
