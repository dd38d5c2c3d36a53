//! Sockets and the one place where a thread waits for them.
//!
//! Knows nothing of PostgreSQL's messages. All sockets are used with `MSG_DONTWAIT`, so the only call in
//! which a thread of this program blocks on a peer is [`wait::wait`], which [`stream::wait`] stands before.

mod acknowledged;
pub mod address;
pub mod buffer;
pub mod clock;
pub mod dialogue;
pub mod encrypted;
mod inbox;
pub mod limits;
pub mod listener;
mod outbox;
pub mod passing;
mod port_holders;
pub mod process;
pub mod stream;
pub mod thread;
pub mod unix_listener;
pub mod wait;

#[cfg(test)]
mod tests;
