//! Bytes that are shared, in a value that is written for another process: as a byte string, not as a list of numbers.
//!
//! For `#[serde(with = ...)]`, where the crate `serde_bytes` does not reach. Only for what can be long: short names are
//! written as lists of numbers, which takes two bytes for each at most.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serializer};
use serde_bytes::ByteBuf;

/// Writes them.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// Reads them.
///
/// # Errors
/// Those of the deserializer.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[u8]>, D::Error> {
    Ok(ByteBuf::deserialize(deserializer)?.into_vec().into())
}
