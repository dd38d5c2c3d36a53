//! The PostgreSQL frontend/backend protocol, 3.0 and later: where a message ends, what it says, how to
//! write one.
//!
//! Nothing here touches a socket or knows about sessions and pools. Every parser is total: any bytes at
//! all give a value, "more bytes are needed", or an error; none of them allocates by a length it was told.
//!
//! Source throughout: PostgreSQL manual, chapter "Frontend/Backend Protocol".

pub mod backend;
pub mod base64;
pub mod bytes;
pub mod error;
pub mod frame;
pub mod frontend;
pub mod options;
pub mod sqlstate;
pub mod startup;
pub mod write;

#[cfg(test)]
mod tests;
