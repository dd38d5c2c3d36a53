//! The hand-over: a running pooler gives all it has to the process that takes its place.
//!
//! | file | what it is |
//! |---|---|
//! | [`messages`] | what the two say to each other |
//! | [`outcome`] | how it went, as the log and the console say it |
//! | [`launch`] | the new process: found, tested, started |
//! | [`predecessor`] | the side that gives |
//! | `predecessor/conduct.rs` | who moves when |
//! | `predecessor/send.rs` | what is given, put into messages |
//! | `predecessor/apart.rs` | large half messages and statements, in pieces |
//! | `predecessor/rollback.rs` | sessions that go on here after all |
//! | [`successor`] | the side that takes |
//! | `successor/receive.rs` | idle server connections and sessions, as they come |
//! | `successor/receive/sessions.rs` | a session, put together from its message |
//! | `successor/apart.rs` | pieces, put together |
//!
//! Moves values. Knows the fields of a session that are too large to go in one message, and no rule of the protocol. The invariant of both sides: at any instant
//! exactly one process reads or writes a given socket. A session that was sent and not acknowledged
//! belongs to the predecessor, and goes on there if the successor is dead; one that was acknowledged
//! belongs to the successor.

pub mod launch;
pub mod messages;
pub mod outcome;
pub mod predecessor;
pub mod successor;

#[cfg(test)]
mod tests;
