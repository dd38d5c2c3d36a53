//! I/O buffers, borrowed while a socket is ready and given back when its session is idle.
//!
//! An idle client must cost no buffer, so buffers belong to no session: a few are kept for whoever is
//! busy, any more are made and freed. A buffer's old contents are never readable through it: only what
//! was filled since it was borrowed is handed out, and no more than that is kept clean.

use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

use crossbeam::queue::ArrayQueue;

/// Bytes in a buffer. Small enough to stay in the first-level cache, large enough that a bulk result
/// costs few system calls.
pub const SIZE: usize = 16 * 1024;

/// Buffers kept for the next borrower: more than that many threads are rarely between two waits.
const KEPT: usize = 64;

fn kept() -> &'static ArrayQueue<Box<[u8; SIZE]>> {
    static KEPT_BUFFERS: OnceLock<ArrayQueue<Box<[u8; SIZE]>>> = OnceLock::new();
    KEPT_BUFFERS.get_or_init(|| ArrayQueue::new(KEPT))
}

/// A borrowed buffer; dropping it gives it back.
pub struct Buffer(Option<Box<[u8; SIZE]>>);

impl Buffer {
    /// Borrows a buffer.
    pub fn borrow() -> Buffer {
        Buffer(Some(kept().pop().unwrap_or_else(|| Box::new([0; SIZE]))))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(bytes) = self.0.take() {
            // A full queue means that enough are kept: this one is freed.
            let _ = kept().push(bytes);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Some(bytes) => &bytes[..],
            None => &[],
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Some(bytes) => &mut bytes[..],
            None => &mut [],
        }
    }
}
