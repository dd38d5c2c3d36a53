//! The hand-over: a running pooler gives its sessions, sockets and state to its successor.
//!
//! | file | what it is |
//! |---|---|
//! | [`messages`] | the messages between both processes |
//! | [`outcome`] | the outcome, for the log and the console |
//! | [`launch`] | the new process: its binary found, tested, started |
//! | [`predecessor`] | the old process's side: what has been sent, what was acknowledged, when it ends |
//! | `predecessor/conduct.rs` | the order in which sessions move |
//! | `predecessor/send.rs` | everything that is sent, put into messages |
//! | `predecessor/found.rs` | pools and users that the configuration does not name |
//! | `predecessor/apart.rs` | large half messages and statements, in pieces |
//! | `predecessor/rollback.rs` | sessions that do not move after all |
//! | [`successor`] | the new process's side, until it can serve |
//! | `successor/receive.rs` | idle server connections and sessions, as they arrive |
//! | `successor/receive/sessions.rs` | a session, put together from its message |
//! | `successor/apart.rs` | pieces, put together |
//! | `successor/found.rs` | pools and users that the configuration does not name |
//!
//! Moves values. Knows which fields of a session are too large for one message, and no rule of the protocol. The
//! invariant of both sides: at any instant exactly one process reads or writes a given socket. A session that was sent
//! and not acknowledged belongs to the predecessor, and goes on there if the successor is dead. A session that was
//! acknowledged belongs to the successor.

pub mod launch;
pub mod messages;
pub mod outcome;
pub mod predecessor;
pub mod successor;

#[cfg(test)]
mod tests;
