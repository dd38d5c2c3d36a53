//! I/O buffers, borrowed while a socket is ready and given back when its session is idle.
//!
//! An idle client must cost no buffer, so buffers belong to no session: a few are kept for whoever is
//! busy, any more are made and freed. A buffer's old contents are never readable through it: only what
//! was filled since it was borrowed is handed out, and no more than that is kept clean.

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

/// Bytes in a buffer. Small enough to stay in the first-level cache, large enough that a bulk result
/// costs few system calls.
pub const SIZE: usize = 16 * 1024;

/// Buffers kept for the next borrower: more than that many threads are rarely between two waits.
const KEPT: usize = 64;

/// The one given back last is borrowed first: it is the one the processor still has in its cache. Nobody
/// waits for this lock; whoever finds it taken does without.
static KEPT_BUFFERS: Mutex<Vec<Box<[u8; SIZE]>>> = Mutex::new(Vec::new());

/// A borrowed buffer; dropping it gives it back.
pub struct Buffer(Option<Box<[u8; SIZE]>>);

impl Buffer {
    /// Borrows a buffer.
    pub fn borrow() -> Buffer {
        let kept = KEPT_BUFFERS.try_lock().and_then(|mut kept| kept.pop());
        Buffer(Some(kept.unwrap_or_else(|| Box::new([0; SIZE]))))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(bytes) = self.0.take() {
            match KEPT_BUFFERS.try_lock() {
                Some(mut kept) if kept.len() < KEPT => kept.push(bytes),
                _ => {}
            }
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
