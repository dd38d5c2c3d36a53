//! The PostgreSQL frontend/backend protocol, 3.0 and later: where a message ends, what it says, how to
//! write one.
//!
//! Nothing here touches a socket or knows about sessions and pools. Every parser is total: any bytes at
//! all give a value, "more bytes are needed", or an error; none of them allocates by a length it was told.
//!
//! | file | what it is |
//! |---|---|
//! | [`frame`] | where a message ends |
//! | [`startup`] | the first packet of a connection |
//! | [`options`] | the `options` of a startup packet |
//! | [`frontend`] | messages that clients send |
//! | [`backend`] | messages that PostgreSQL sends |
//! | [`error`] | ErrorResponse and NoticeResponse |
//! | [`sqlstate`] | the SQLSTATEs that the pooler uses |
//! | [`mod@write`] | writing a message |
//! | [`base64`] | base64, as SASL has it |
//! | [`bytes`] | shared bytes in values that are written for another process |
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
