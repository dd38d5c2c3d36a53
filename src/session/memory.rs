//! How much memory the clients' unfinished messages take, all together.
//!
//! Most messages pass in pieces and are never kept. A Parse is kept until it is whole, up to 256 MiB,
//! since its text has to be known to follow the client; a few thousand clients that begin one each must
//! not be the end of the process. Invariant: the sum is that of the shares that live.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A message is counted from this many bytes on: small ones come and go all the time, and a client holds
/// no more of those than of buffers.
const COUNTED_FROM: usize = 64 * 1024;

/// What one client's unfinished message takes; dropping it gives that back.
#[derive(Debug)]
pub struct MemoryShare {
    all: Arc<AtomicU64>,
    own: u64,
}

impl MemoryShare {
    /// Nothing, of the sum `all`.
    pub(crate) fn new(all: &Arc<AtomicU64>) -> MemoryShare {
        MemoryShare {
            all: Arc::clone(all),
            own: 0,
        }
    }

    /// The unfinished message has `length` bytes now. If it has grown, the sum is returned.
    pub fn set(&mut self, length: usize) -> Option<u64> {
        let counted = if length >= COUNTED_FROM {
            length as u64
        } else {
            0
        };
        if counted <= self.own {
            let less = self.own - counted;
            if less > 0 {
                self.own = counted;
                self.all.fetch_sub(less, Ordering::Relaxed);
            }
            return None;
        }
        let more = counted - self.own;
        self.own = counted;
        Some(self.all.fetch_add(more, Ordering::Relaxed) + more)
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_shares() {
        let all = Arc::default();
        let (mut one, mut other) = (MemoryShare::new(&all), MemoryShare::new(&all));
        assert_eq!(one.set(100_000), Some(100_000));
        assert_eq!(other.set(200_000), Some(300_000));
        assert_eq!(one.set(90_000), None);
        assert_eq!(other.set(210_000), Some(300_000));
        drop(one);
        assert_eq!(other.set(220_000), Some(220_000));
        assert_eq!(other.set(100), None, "small messages are not counted");
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
