//! A key, an IV or a traffic secret: wiped when it is dropped, never printed.
//!
//! Invariant: the bytes lie in one place that core dumps leave out, where nothing grows and from where nothing
//! is moved: whoever gets the secret gets a pointer, and no stale copy is left behind on a stack. They are
//! written down only for the hand-over to another process.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::nodump::{SLOT, Slot};

/// The longest secret: one of SHA-384, also a TLS 1.2 master secret.
pub const MAX_LENGTH: usize = SLOT;

/// Up to [`MAX_LENGTH`] bytes that nobody else may see.
pub struct Secret {
    slot: Slot,
    length: usize,
}

impl Secret {
    /// A copy of `bytes`; `None` if they are too many.
    pub fn new(bytes: &[u8]) -> Option<Secret> {
        let mut slot = Slot::take();
        let place = slot.bytes_mut().get_mut(..bytes.len())?;
        place.copy_from_slice(bytes);
        Some(Secret {
            slot,
            length: bytes.len(),
        })
    }

    /// The bytes. Whoever calls this is responsible for where they go.
    pub fn expose(&self) -> &[u8] {
        self.slot.bytes().get(..self.length).unwrap_or_default()
    }
}

impl Clone for Secret {
    fn clone(&self) -> Secret {
        let mut slot = Slot::take();
        slot.bytes_mut().copy_from_slice(self.slot.bytes());
        Secret {
            slot,
            length: self.length,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_LENGTH} bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Secret, E> {
                Secret::new(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}
