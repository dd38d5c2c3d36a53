//! I/O buffers, borrowed while a socket is ready and given back when its session is idle.
//!
//! An idle client must cost no buffer, so buffers belong to no session: a few are kept for whoever is
//! busy, any more are made and freed. A buffer's old contents are never readable through it: only what
//! was filled since it was borrowed is handed out, and no more than that is kept clean.

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

use crate::tls::channel::MAX_RECORD;

/// Bytes in a buffer. Small enough to stay in the first-level cache, large enough that a bulk result
/// costs few system calls.
pub const SIZE: usize = 16 * 1024;

/// Bytes in a buffer for TLS records: one of the longest always fits behind most of another.
pub const SIZE_FOR_RECORDS: usize = 2 * MAX_RECORD;

/// Buffers kept for the next borrower: more than that many threads are rarely between two waits, or in one
/// that is over at once.
const KEPT: usize = 128;

/// The one given back last is borrowed first: it is the one the processor still has in its cache. Nobody
/// waits for this lock; a thread that finds it taken does without.
type Kept = Mutex<Vec<Box<[u8]>>>;

static KEPT_BUFFERS: Kept = Mutex::new(Vec::new());
static KEPT_FOR_RECORDS: Kept = Mutex::new(Vec::new());

/// A borrowed buffer; dropping it gives it back.
pub struct Buffer(Box<[u8]>);

impl Buffer {
    /// Borrows a buffer of [`SIZE`] bytes.
    pub fn borrow() -> Buffer {
        Buffer::borrow_from(&KEPT_BUFFERS, SIZE)
    }

    /// Borrows a buffer of [`SIZE_FOR_RECORDS`] bytes.
    pub fn borrow_for_records() -> Buffer {
        Buffer::borrow_from(&KEPT_FOR_RECORDS, SIZE_FOR_RECORDS)
    }

    fn borrow_from(kept: &Kept, size: usize) -> Buffer {
        let kept = kept.try_lock().and_then(|mut kept| kept.pop());
        Buffer(kept.unwrap_or_else(|| vec![0; size].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        let kept = if bytes.len() == SIZE {
            &KEPT_BUFFERS
        } else {
            &KEPT_FOR_RECORDS
        };
        match kept.try_lock() {
            Some(mut kept) if kept.len() < KEPT => kept.push(bytes),
            _ => {}
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.0.len())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
