//! Bytes in a value that is written for another process: as byte strings, not as arrays of numbers.
//!
//! For use with `#[serde(with = ...)]` where `serde_bytes` does not reach: keys of maps, members of lists. What
//! an array of numbers says is read as well.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::{ByteBuf, Bytes};

/// A map whose keys are bytes.
pub mod keys {
    use super::*;

    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<V: Serialize, S: Serializer>(
        map: &HashMap<Vec<u8>, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(key, value)| (Bytes::new(key), value)))
    }

    /// Reads it.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, V: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<HashMap<Vec<u8>, V>, D::Error> {
        let map = HashMap::<ByteBuf, V>::deserialize(deserializer)?;
        Ok(map
            .into_iter()
            .map(|(key, value)| (key.into_vec(), value))
            .collect())
    }
}

/// A list of byte strings, each with something that belongs to it.
pub mod pairs {
    use super::*;

    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<V: Serialize, S: Serializer>(
        list: &VecDeque<(Vec<u8>, V)>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|(bytes, value)| (Bytes::new(bytes), value)))
    }

    /// Reads it.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, V: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<VecDeque<(Vec<u8>, V)>, D::Error> {
        let list = VecDeque::<(ByteBuf, V)>::deserialize(deserializer)?;
        Ok(list
            .into_iter()
            .map(|(bytes, value)| (bytes.into_vec(), value))
            .collect())
    }
}

/// A byte string with something that belongs to it, or neither.
pub mod pair {
    use super::*;

    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<V: Serialize, S: Serializer>(
        pair: &Option<(Vec<u8>, V)>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let pair = pair
            .as_ref()
            .map(|(bytes, value)| (Bytes::new(bytes), value));
        pair.serialize(serializer)
    }

    /// Reads it.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, V: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<(Vec<u8>, V)>, D::Error> {
        let pair = Option::<(ByteBuf, V)>::deserialize(deserializer)?;
        Ok(pair.map(|(bytes, value)| (bytes.into_vec(), value)))
    }
}

/// Rows: for each column bytes or nothing.
pub mod rows {
    use super::*;

    type Row = Vec<Option<Vec<u8>>>;

    /// Writes them.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
        let columns = |row: &Row| -> Vec<Option<ByteBuf>> {
            row.iter()
                .cloned()
                .map(|it| it.map(ByteBuf::from))
                .collect()
        };
        serializer.collect_seq(rows.iter().map(columns))
    }

    /// Reads them.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Row>, D::Error> {
        let rows = Vec::<Vec<Option<ByteBuf>>>::deserialize(deserializer)?;
        let columns = |row: Vec<Option<ByteBuf>>| {
            let columns = row.into_iter().map(|it| it.map(ByteBuf::into_vec));
            columns.collect()
        };
        Ok(rows.into_iter().map(columns).collect())
    }
}

/// Bytes that are shared.
pub mod shared {
    use super::*;

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
}
