//! Memory that the kernel leaves out of core dumps (`MADV_DONTDUMP`, madvise(2)), for what would give a
//! connection or an identity away: slots for short secrets, pages of their own for long ones.
//!
//! Covers what the pooler itself keeps. What OpenSSL makes of it lies in OpenSSL's memory, which core dumps contain.
//! Invariant: bytes are wiped before their memory can be used again. Where the kernel gives no such memory it is of the
//! common sort, which is better than no connection.

use std::io;
use std::ops::Range;

use memmap2::{Advice, MmapMut};
use parking_lot::Mutex;
use zeroize::Zeroize;

/// Bytes of a slot: of the longest short secret, one of SHA-384 or a TLS 1.2 master secret.
pub const SLOT: usize = 48;

/// Bytes that are asked of the kernel at a time for slots. Only pages that are used become memory.
const CHUNK: usize = 64 * 1024;

/// The slots that nobody uses, all zeros.
static FREE: Mutex<Vec<&'static mut [u8; SLOT]>> = Mutex::new(Vec::new());

/// Room for one short secret, all zeros at first. Taken back, and wiped, when it is dropped.
pub(super) struct Slot(Option<&'static mut [u8; SLOT]>);

impl Slot {
    pub(super) fn take() -> Slot {
        let mut free = FREE.lock();
        if free.is_empty() {
            let slots = match map(CHUNK) {
                Ok(pages) => &mut Box::leak(Box::new(pages))[..],
                Err(_) => vec![0; CHUNK].leak(),
            };
            let slots = slots.chunks_exact_mut(SLOT).rev();
            free.extend(slots.filter_map(|slot| <&mut [u8; SLOT]>::try_from(slot).ok()));
        }
        Slot(free.pop())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_deref().map_or(&[], |bytes| bytes)
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().map_or(&mut [], |bytes| bytes)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(bytes) = self.0.take() {
            bytes.zeroize();
            FREE.lock().push(bytes);
        }
    }
}

/// A long secret in pages of its own, wiped when it is dropped.
pub struct Pages {
    map: MmapMut,
    length: usize,
}

impl Pages {
    /// A copy of `bytes`.
    ///
    /// # Errors
    /// If there is no more memory.
    pub fn new(bytes: &[u8]) -> io::Result<Pages> {
        let mut pages = Pages {
            // The kernel maps no page for nothing.
            map: map(bytes.len().max(1))?,
            length: bytes.len(),
        };
        pages.map[..bytes.len()].copy_from_slice(bytes);
        Ok(pages)
    }

    /// The bytes. Whoever calls this is responsible for where they go.
    pub fn expose(&self) -> &[u8] {
        self.map.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.map.zeroize();
    }
}

/// Bytes that come and go, in memory that grows. Wiped wherever they have been. No memory is touched before it is
/// used.
#[derive(Default)]
pub struct Room(Option<MmapMut>);

impl Room {
    /// How much there is room for.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(0, |map| map.len())
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// The bytes, to be written to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }

    /// Makes room for so many bytes, and keeps those in `kept`, which are the first then.
    ///
    /// # Errors
    /// If there is no more memory. Everything is as before then.
    pub fn make(&mut self, size: usize, kept: Range<usize>) -> io::Result<()> {
        let mut larger = map(size.max(kept.len()).max(1))?;
        larger[..kept.len()].copy_from_slice(&self.bytes()[kept]);
        wipe(self.bytes_mut());
        self.0 = Some(larger);
        Ok(())
    }

    /// Wipes all and gives the memory back.
    pub fn leave(&mut self) {
        wipe(self.bytes_mut());
        self.0 = None;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Overwrites bytes with zeros, also if nobody reads them again. Large pieces pass here, which are wiped as fast as
/// they can be copied.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

fn map(length: usize) -> io::Result<MmapMut> {
    let map = MmapMut::map_anon(length)?;
    // A kernel without it (EINVAL) writes it into its dumps like the rest.
    let _ = map.advise(Advice::DontDump);
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_was_used_is_wiped_before_the_next_has_it() {
        let mut all: Vec<Slot> = (0..2 * CHUNK / SLOT).map(|_| Slot::take()).collect();
        for slot in &mut all {
            assert_eq!(slot.bytes(), [0; SLOT]);
            slot.bytes_mut().fill(7);
        }
        assert!(all.iter().all(|slot| slot.bytes() == [7; SLOT]));
        drop(all);
        assert!(FREE.lock().iter().all(|bytes| **bytes == [0; SLOT]));
    }

    #[test]
    fn room_grows_and_keeps_what_it_is_to_keep() {
        let mut room = Room::default();
        assert_eq!(room.size(), 0);
        room.make(10, 0..0).unwrap();
        room.bytes_mut()[2..5].copy_from_slice(b"key");
        room.make(100_000, 2..5).unwrap();
        assert_eq!(room.size(), 100_000);
        assert_eq!(room.bytes()[..4], *b"key\0");
        room.leave();
        assert!(room.bytes().is_empty());
    }

    #[test]
    fn pages_hold_what_they_were_given() {
        for length in [0, 1, 4096, 10_000] {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            assert_eq!(Pages::new(&bytes).unwrap().expose(), bytes);
        }
    }
}
